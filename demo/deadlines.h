/* SPDX-License-Identifier: MIT */
/*
 * deadlines.h - judges what the guest deadlines.elf logs: each deadline is asked for once and taken once, never before
 * its time, and how late, with an event in between or without one.
 */
#ifndef DEMO_DEADLINES_H
#define DEMO_DEADLINES_H

#include "shared.h"

#include <stdbool.h>
#include <stddef.h>

#define DEADLINES_EARLY_MAX 8u

struct lateness {
	uint64_t *ns;
	size_t count, size;
};

struct deadline_early {
	unsigned int vcpu;
	bool across;
	uint64_t ns;    /* by so much */
	int64_t ticks;  /* the tick of the reading, from the one that was armed; 0: the host keeps the time */
};

/* An entry that does not follow the one before it: both, where they were in what has been taken. Zeros: memory that was lost. */
struct deadline_unpaired {
	unsigned int vcpu;
	uint64_t number;
	struct vmm_ring_entry before, entry;
};

struct deadlines {
	struct {
		struct vmm_ring_entry asked;
		bool armed;
		uint64_t taken, entries;
		struct vmm_ring_entry before;
	} vcpu[VMM_VCPUS_MAX];
	uint64_t taken, early, unpaired;
	uint64_t across, early_across; /* the line changed in between */
	struct lateness quiet, disturbed;
	struct deadline_early first[DEADLINES_EARLY_MAX]; /* the first ones that were early */
	struct deadline_unpaired first_unpaired[DEADLINES_EARLY_MAX];
};

/* Entries of one vCPU, in their order, from the ring's beginning on. */
void deadlines_take(struct deadlines *deadlines, unsigned int vcpu, const struct vmm_ring_entry *entries, size_t count);
/* What was counted so far is not of interest; what is armed stays so. */
void deadlines_begin(struct deadlines *deadlines);
void deadlines_clear(struct deadlines *deadlines);

/* ns; sorts. 0 if there is none. */
uint64_t lateness_quantile(struct lateness *late, unsigned int percent);

#endif
