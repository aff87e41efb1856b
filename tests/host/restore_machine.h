/* SPDX-License-Identifier: MIT */
/*
 * restore_machine.h - a VM of one vCPU or two on a KVM in virtual time,
 * in one cell of the table in docs/policies.md, saved and restored.
 */
#ifndef TEST_HOST_RESTORE_MACHINE_H
#define TEST_HOST_RESTORE_MACHINE_H

#include "../fake/kvm.h"

#include "../../src/kvm/kvm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define S 1000000000ull
#define HOUR (3600 * S)
#define PAGE_GPA 256u
/* What the second vCPU's counter is ahead. KVM's own clock is no function where they differ, so there is nothing to steer. */
#define APART(mode) ((mode) == PVCLOCK_MODE_OWN ? 4097u : 0u)
#define BOOT_A "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
#define BOOT_B "aaaaaaaa-4b5a-6978-8796-a5b4c3d2e1f0"

struct cell {
	enum pvclock_blackout blackout;
	enum pvclock_passing passing;
	enum pvclock_mode mode;
	bool ignored; /* TSC offsets */
	unsigned int vcpus;
};

extern struct cell cell_now; /* for the sentence of a failure */

#define require(holds)                                                                                                     \
	do {                                                                                                               \
		if (!(holds))                                                                                              \
			fail_msg("%s, %s, %s, offsets %s, %u vCPUs: %s", pvclock_blackout_name(cell_now.blackout),          \
				 pvclock_passing_name(cell_now.passing), pvclock_mode_name(cell_now.mode),                  \
				 cell_now.ignored ? "ignored" : "honoured", cell_now.vcpus, #holds);                        \
	} while (0)

uint64_t oracle(const struct pvclock_line *line, uint64_t tick);

static inline bool same_line(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

struct machine {
	struct fake_kvm fake; /* the host, and what its KVM holds of the VM */
	struct pvclock_vm *vm;
	struct pvclock_vcpu *vcpus[2];
	struct pvclock_kvm *kvm;
	struct pvclock_slope host;
	unsigned int count;
	_Alignas(64) uint8_t memory[4096];
};

static inline uint64_t offset_of(const struct machine *m, unsigned int i)
{
	return i ? m->fake.second_offset : m->fake.offset;
}

struct pvclock_line line_of(const struct machine *m, unsigned int i);

/* A VM that is not started, on a host at this TSC whose CLOCK_TAI reads this. */
void create(struct machine *m, const struct cell *cell, const char *boot_id, uint64_t tsc, uint64_t tai_ns);
/* Another host, on for longer. */
void create_elsewhere(struct machine *m, const struct cell *cell, uint64_t tai_ns);
void destroy(struct machine *m);
/* A VM that went from one to the other is done with. */
void moved(struct machine *from, struct machine *to, struct pvclock_record *record);

#define TAI (1790000037ull * S)
#define TSC_A 1000000000000ull

/* One that runs: started, its first vCPU registered (the last never), counters that differ, deadlines armed, the policy set. */
void start(struct machine *m, const struct cell *cell);

/* Through bytes, as it travels. */
void save(struct machine *m, struct pvclock_record *record);
/* The next host: the same one 5 s later, or another 90 minutes later, whose TSC has its own count. */
void create_next(struct machine *m, const struct machine *before, const struct cell *cell, const struct pvclock_record *record);

#endif
