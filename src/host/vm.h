/* SPDX-License-Identifier: MIT */
/*
 * vm.h (private) - the engine's state, shared by its rooms: memory.c (guest memory), msr.c (what the guest
 * registers), lines.c (the line and what each vCPU reads of it), publish.c (lines into pages), vcpu.c and vm.c (the
 * objects and their events), record.c (saving them).
 *
 * There is one line per VM, vm->line, over the TSC of vm->reference: a coordinate system, not a vCPU. Every vCPU's
 * line is derived from it by the vCPU's own transform, so a TSC that did not end up where it should changes
 * coordinates, never the clock.
 */
#ifndef HOST_VM_H
#define HOST_VM_H

#include <pvclock/record.h>
#include <pvclock/vm.h>

#include <pthread.h>

struct region {
	uint64_t gpa, size;
	uint8_t *host;
	unsigned int flags;
	uint64_t *dirty;      /* one bit a 4096-byte guest page, written by the engine and not yet taken */
	size_t dirty_count;
};

/* A place in guest memory that the guest registered, and where it is found now. host is NULL while it lies nowhere. */
struct place {
	uint64_t gpa;
	struct region *region;
	void *host;
};

struct pvclock_vcpu {
	struct pvclock_vm *vm;
	uint32_t index;
	struct pvclock_tsc_transform tsc;
	bool catchup;
	uint64_t system_time_msr;
	bool old_msrs;
	bool stop_pending;    /* GUEST_STOPPED is to go out with the next publish */
	bool synced;          /* line is up to date with vm->line and tsc */
	struct pvclock_line line;
	struct place page;
};

struct pvclock_vm {
	const struct pvclock_os *os;
	pthread_mutex_t lock;
	struct region *regions; /* sorted by gpa */
	size_t region_count;
	struct pvclock_vcpu **vcpus; /* sorted by index */
	size_t vcpu_count, vcpu_room;
	uint64_t wall_clock_msr;
	bool has_line, paused;
	struct pvclock_line line;
	struct pvclock_tsc_transform reference;
	struct pvclock_slope host; /* ns per host tick */
	struct pvclock_host_time time; /* of which the boot id is read once */
	struct pvclock_policy policy;
	struct pvclock_account account;
	struct pvclock_reason declared; /* unstable for a reason that the caller knows */
	struct pvclock_reason unstable; /* the one that is published */
};

/* All with the lock held. */
bool pvclock_vm_find_place(struct pvclock_vm *vm, uint64_t gpa, uint64_t size, struct place *place);
void pvclock_vm_mark_dirty(const struct place *place, uint64_t size);
void pvclock_vm_resolve(struct pvclock_vcpu *vcpu);          /* looks vcpu's page up again */
void pvclock_vm_judge_stability(struct pvclock_vm *vm);
bool pvclock_vm_publish_vcpu(struct pvclock_vcpu *vcpu);     /* true if a page was written */
size_t pvclock_vm_publish_all(struct pvclock_vm *vm);
void pvclock_vm_set_line(struct pvclock_vm *vm, const struct pvclock_line *line, const struct pvclock_tsc_transform *reference,
		 const struct pvclock_slope *host);
/* What decode checks: every field in its range, none contradicting another. */
bool pvclock_record_check(const struct pvclock_record *record, struct pvclock_reason *reason);
const struct pvclock_line *pvclock_vcpu_line(struct pvclock_vcpu *vcpu);
uint64_t pvclock_vm_system_time(struct pvclock_vm *vm, struct pvclock_host_tsc at);

/* Where a registration lies: bit 0 says that it is on. */
static inline uint64_t vcpu_page_address(uint64_t msr)
{
	return msr & ~(uint64_t)PVCLOCK_MSR_ENABLE;
}

static inline bool tsc_same_rate(const struct pvclock_tsc_transform *a, const struct pvclock_tsc_transform *b)
{
	return a->frac_bits == b->frac_bits && a->ratio == b->ratio;
}

#endif
