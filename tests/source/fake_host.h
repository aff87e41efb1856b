/* SPDX-License-Identifier: MIT */
/*
 * fake_host.h - a host in virtual time: a TSC, a kernel with integers of our choice, and what can go wrong with both.
 */
#ifndef FAKE_HOST_H
#define FAKE_HOST_H

#include "host/source.h"

struct fake_host {
	struct pvclock_os os; /* give this to the library */

	/* the kernel: RAW = (constant + ticks * mult) >> shift */
	uint32_t khz, mult;
	unsigned int shift;
	pvclock_s128 constant;
	uint64_t ticks;
	uint64_t slept_ns;
	char current[32], available[64];
	bool hypervisor, invariant, extended_leaves;

	/* what reading costs: each of a TSC read, the way into the kernel's clock and the way out, in ticks */
	uint64_t cost_min, cost_spread;
	/* every so many reads, on average, an interruption of up to so many ticks; 0: never */
	uint32_t interrupt_every;
	uint64_t interrupt_ticks;

	/* errors to return */
	int clock_error, file_error, sleep_error;
	/* the clock read after so many others fails with EIO, once; 0: none */
	uint32_t clock_error_in;
	/* how many sleeps are cut short with EINTR; UINT32_MAX: all of them */
	uint32_t interrupted_sleeps;

	/* an event that happens inside the next read of this clock, between the way in and the way out */
	void (*during_read)(struct fake_host *host);

	uint64_t seed, random, reads, sleeps;
};

/* A host that registered its TSC at khz, as Linux does. Quiet, at an odd place, cheap to read. */
void fake_host_init(struct fake_host *host, uint32_t khz, uint64_t seed);
uint64_t fake_host_random(struct fake_host *host, uint64_t below);
uint64_t fake_host_raw(const struct fake_host *host, uint64_t ticks);
uint64_t fake_host_ticks(const struct fake_host *host, uint64_t ns);

/* Time passes. */
void fake_host_pass(struct fake_host *host, uint64_t ns);
/* Suspend: the TSC counts on (or starts again at 0), RAW does not, BOOTTIME does. */
void fake_host_suspend(struct fake_host *host, uint64_t ns, bool tsc_resets);
/* The kernel goes on from here with other integers; RAW is continuous. */
void fake_host_change_mult(struct fake_host *host, uint32_t mult);

#endif
