/* SPDX-License-Identifier: MIT */
/*
 * nested_world.h - KVM on KVM on KVM, in one process: L0's engine on a KVM in virtual time, L1's and L2's engines in the
 * memory of its guest, each on the counter that the one below gives it. L0 moves L1 to hosts with other TSCs, and
 * whatever L2 or L3 can read next is looked at: the memory, before anything in it has run.
 */
#ifndef TEST_HOST_NESTED_WORLD_H
#define TEST_HOST_NESTED_WORLD_H

#include "machine.h"

#include <pvclock/parent.h>

#define SIZE 0x10000u
#define L1_PAGE 0x100u
#define L1_TABLE 0x1000u
#define L1_SUSPEND 0x200u
#define L2_MEMORY 0x8000u /* in L1's */
#define L2_SIZE 0x8000u
#define L2_PAGE 0x40u
#define L2_TABLE 0x1000u
#define L3_MEMORY 0x4000u /* in L2's */
#define L3_SIZE 0x2000u
#define L3_PAGE 0x20u
#define HEAD offsetof(struct pvclock_nested_page, entries)
#define LEVELS 3
#define VECTOR 0x55u
#define KHZ 2596142u

/* The engine of a level, and its guest. */
struct level {
	struct level *below; /* its machine is the guest of that one; NULL: the host */
	struct fake_kvm *fake;
	struct pvclock_os os;
	struct pvclock_vm *vm;
	struct pvclock_vcpu *vcpu;
	struct pvclock_kvm *kvm; /* of the host alone */
	uint8_t *memory;         /* its guest's */
	struct pvclock_parent *parent;
	bool lost;               /* nobody knows where its memory lies */
	bool crowded;            /* its guest has further vCPUs */
	unsigned int doorbells;
};

struct readings {
	struct pvclock_line line[LEVELS];
};

/* A host that the guest is moved to. */
struct move {
	uint32_t khz;
	uint64_t tsc;
	bool offsets_ignored, advance;
};

struct world {
	struct fake_kvm fake;
	uint8_t *memory;
	struct level level[LEVELS];
	struct move next_move;
	struct pvclock_plan plan; /* of the last move */
	struct readings saved;    /* as of its record: freezing the moment before it moves a line, too, where no counter can be set */
	uint64_t saved_generation;
	bool in_store;            /* L1 is stopped between two stores, and holds its locks */
};

#define MOVES 5
extern const struct move moves[MOVES];

uint64_t tsc_of(const struct level *level);

/* A host, of this TSC, for the guest whose memory there is. */
void boot_host(struct world *w, uint64_t seed, uint32_t khz, uint64_t tsc, bool offsets_ignored);
void end_host(struct world *w);

/* L1, and L2 on the counter `l2`; and, if any, L3 on `l3`. */
struct world *new_world(const struct pvclock_tsc_transform *l2, const struct pvclock_tsc_transform *l3);
void free_world(struct world *w);

struct pvclock_tsc_transform scaled(uint64_t numerator, uint64_t denominator, uint64_t offset);

void read_page(const struct world *w, uint64_t gpa, struct pvclock_line *line);
void take_readings(const struct world *w, struct readings *readings);

/*
 * P8: at the switch each clock reads what it read, or 1 ns more; and from there on all of them run at one rate, L1's
 * own. `from`, `to`: L1's counter before and after.
 */
void check_continues(const struct world *w, const struct readings *before, uint64_t from, uint64_t to);

/* A snapshot on this host, and a restore on w->next_move's; the guest is about to run. */
void move_host(struct world *w);

/* The engines find out, from the lowest up: each before a vCPU of its own runs. */
void follow(struct level *level);

static inline const struct pvclock_nested_page *table_of(const struct world *w)
{
	return (const struct pvclock_nested_page *)(const void *)(w->memory + L1_TABLE);
}

static inline const struct pvclock_nested_page *table_of_l2(const struct world *w)
{
	return (const struct pvclock_nested_page *)(const void *)(w->memory + L2_MEMORY + L2_TABLE);
}

static inline bool same(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

#endif
