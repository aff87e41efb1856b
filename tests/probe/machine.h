/* SPDX-License-Identifier: MIT */
/*
 * machine.h - a made-up machine for the probe to watch: a page in our own memory, RAW read from it at a TSC that we may
 * move, and faults by request. Its host changes things while nobody reads, as one does with all vCPUs out of guest
 * mode.
 */
#ifndef TEST_PROBE_MACHINE_H
#define TEST_PROBE_MACHINE_H

#include "event.h"

#include <pvclock/page.h>

#include <pthread.h>
#include <stdatomic.h>

struct machine {
	_Alignas(64) struct pvclock_page page;
	struct clocks clocks;
	pthread_rwlock_t running; /* held to read; the host holds it alone */
	/* under the lock */
	struct pvclock_line line;
	uint64_t tsc_offset;
	int64_t monotonic, boottime, realtime; /* - RAW; - MONOTONIC; - RAW */
	/* the next reading of a clock is so much too small; of one whose thread is there already */
	_Atomic int64_t fault[PROBE_STEADY_CLOCKS];
	_Atomic uint64_t reads;
	_Atomic uint64_t leap; /* of the TSC, at the next reading of RAW: after the TSC was read before it */
	_Atomic uint32_t skewed_cpu;           /* all its readings are so much too small */
	_Atomic int64_t skew;

	struct pages pages;
	struct watch watch;
	struct events events;
};

/* A machine whose page is known, or not, with a thread on every CPU. */
void machine_start(struct machine *machine, bool page);
void machine_end(struct machine *machine);

/* The host stops it, and lets it run again with machine->line and flags in the page. */
void machine_stop(struct machine *machine);
void machine_continue(struct machine *machine, uint8_t flags);
/* While it is stopped: its TSC, and what its clock says there. */
uint64_t machine_tsc(struct machine *machine);
uint64_t machine_ns(struct machine *machine);

/* Waits until every CPU has read its clocks some thousand times. */
void machine_run(struct machine *machine);

#endif
