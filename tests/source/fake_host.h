/* SPDX-License-Identifier: MIT */
/*
 * fake_host.h - a host in virtual time: a TSC, a kernel with integers of our choice or with its hypervisor's page, and
 * what can go wrong with them.
 */
#ifndef FAKE_HOST_H
#define FAKE_HOST_H

#include "host/source.h"

#include <pvclock/page.h>

/* What the kernel of a fake that is a virtual machine keeps time by. */
struct fake_clock {
	struct pvclock_line line;          /* pvclock's */
	struct pvclock_hyperv_line hyperv; /* Hyper-V's, if its scale is not 0 */
};

/* TLFS 12.7.1 */
struct fake_hyperv_page {
	uint32_t sequence, reserved;
	uint64_t scale;
	int64_t offset;
};

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

	/*
	 * A virtual machine: RAW = constant + the clock, but never below what the last tick read before the clock was
	 * moved. The pages are what its hypervisor published, and may be wrong.
	 */
	bool virtual, page_hidden, stable_bit;
	uint32_t kvm_leaf; /* where its CPUID leaves are, from 0x40000000 on */
	struct fake_clock clock;
	pvclock_s128 floor;
	struct pvclock_page page;
	struct fake_hyperv_page hyperv_page;

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


/* --- hosts that are virtual machines --------------------------------------------------------- */

/* A guest of KVM (or of Hyper-V) whose hypervisor's TSC counts khz. */
void fake_host_init_virtual(struct fake_host *host, bool hyperv, uint32_t khz, uint64_t seed);
/* The clock's own reading, ns. */
pvclock_s128 fake_clock_ns(const struct fake_clock *clock, uint64_t ticks);
/* The hypervisor writes its page anew: what is in host->clock. */
void fake_host_publish(struct fake_host *host);
/* It moves the clock by so many ns (Hyper-V's: a multiple of 100) and publishes it with a new anchor. */
void fake_host_move(struct fake_host *host, int64_t ns);
/* This machine goes on under a hypervisor with another rate; its clock is continuous. */
void fake_host_change_khz(struct fake_host *host, uint32_t khz);

#endif
