/* SPDX-License-Identifier: MIT */
/*
 * vm.h (private) - the engine's state, shared by its rooms: memory.c (guest memory), msr.c (what the guest registers),
 * lines.c (the line and what each vCPU reads of it), publish.c (lines into pages), vmclock.c (the time of day into
 * one), vcpu.c and vm.c (the objects and their events), record.c (saving them).
 *
 * There is one line per VM, vm->line, over the TSC of vm->reference: a coordinate system, not a vCPU. Every vCPU's
 * line is derived from it by the vCPU's own transform, so a TSC that did not end up where it should changes
 * coordinates, never the clock.
 */
#ifndef HOST_VM_H
#define HOST_VM_H

#include <pvclock/hyperv.h>
#include <pvclock/interface.h>
#include <pvclock/nested.h>
#include <pvclock/parent.h>
#include <pvclock/record.h>
#include <pvclock/vm.h>
#include <pvclock/vmclock.h>

#include <pthread.h>
#include <stdatomic.h>

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

/* VMClock's page, where the VMM wants it. */
struct vmclock {
	uint64_t gpa, size;     /* size 0: it wants none */
	bool utc;
	struct place place;
	bool begun;             /* the rest is what was written last; else what is in guest memory counts */
	struct pvclock_vmclock page;
	struct pvclock_tsc_transform counter; /* by which its counter is made of the host's */
	bool disrupted, loaded; /* to be told by the next write */
};

/*
 * Of a time and a line: the first tick that reaches it. So that who fires deadlines need not find it again for all
 * vCPUs each time.
 */
struct due {
	struct pvclock_line line;
	uint64_t ns, tick;
	bool reached; /* false: no tick does */
};

#define NESTED_CHANGES 2 /* in one blackout: an arrival, and what its policy made of the time after that */

/* A guest that is a host: nested.c. */
struct pvclock_nested_state {
	uint64_t control, msr;
	struct place page;
	/* of the first vCPU's line, since the guest last ran */
	struct pvclock_line_change changes[NESTED_CHANGES];
	size_t change_count;
	bool lost;               /* there were more */
	bool line_known;
	struct pvclock_line line; /* to which they lead, */
	uint64_t offset;         /* over a counter with that offset */
	bool told;               /* the guest is owed its interrupt */
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
	uint64_t deadline_control, deadline_ns; /* of pvclock/interface.h */
	struct due due;
	uint64_t steal_msr, steal_ns;
	bool steal_begun;     /* steal_ns is what the guest was told; else what its page says */
	struct place steal_page;
	int thread;           /* that runs it; 0: nobody said */
	bool delay_known;
	uint64_t delay_ns;    /* the thread's run delay when it was last looked at */
	/* its page in the parent's table: 1 + the number, 0: it has none; and what stands there */
	unsigned int parent_entry;
	struct pvclock_nested_entry entered;
};

enum hyperv_says {
	HYPERV_ANYTHING, /* it is the guest's own memory, so far */
	HYPERV_NOTHING,  /* sequence 0 */
	HYPERV_TIME,     /* `line`, with `sequence` */
};

/* Hyper-V's clock (hyperv.c). */
struct hyperv {
	uint32_t features; /* that the guest may use */
	uint64_t apic_hz;
	uint64_t tsc_page, reenlightenment, emulation_control, emulation_status, invariant; /* MSRs, as they read */
	struct place page;
	enum hyperv_says says; /* what the page does */
	uint32_t sequence; /* the last one */
	bool known;        /* `line` is reference time, over the TSC of `over`; it agrees with `of` */
	struct pvclock_hyperv_line line;
	struct pvclock_tsc_transform over;
	struct pvclock_line of;
	uint64_t last;     /* no later one was read before the pause */
	bool owed;         /* the interrupt of re-enlightenment */
};

struct pvclock_vm {
	const struct pvclock_os *os;
	pthread_mutex_t lock;
	struct region *regions; /* sorted by gpa */
	size_t region_count;
	struct pvclock_vcpu **vcpus; /* sorted by index */
	size_t vcpu_count, vcpu_room;
	uint64_t wall_clock_msr;
	uint32_t features; /* of pvclock/interface.h, that the guest may use */
	bool owns_steal;
	uint64_t suspend_control, suspend_msr;
	struct place suspend_page;
	struct pvclock_suspend told; /* what it says */
	struct pvclock_nested_state nested;
	struct pvclock_parent *parent; /* of this machine, if it is a guest itself and was told of this VM */
	struct pvclock_vm *next_child; /* of the same parent; under the parent's lock */
	_Atomic uint64_t followed;     /* the parent's generation that this VM's line is of */
	unsigned int parent_table;     /* the nested page's entry, as parent_entry */
	uint32_t table_told;           /* the last generation that one marked it with, before it was entered anew */
	struct hyperv hyperv;
	struct vmclock vmclock;
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
/* `gpa` is a multiple of 4. */
bool pvclock_vm_find_place(struct pvclock_vm *vm, uint64_t gpa, uint64_t size, struct place *place);
void pvclock_vm_mark_dirty(const struct place *place, uint64_t size);
void pvclock_vm_resolve(struct pvclock_vcpu *vcpu);          /* looks vcpu's page up again */
void pvclock_vm_resolve_suspend(struct pvclock_vm *vm);
void pvclock_vm_write_suspend(struct pvclock_vm *vm);        /* the page, if the guest has one */
/* nested.c */
void pvclock_vm_resolve_nested(struct pvclock_vm *vm);
bool pvclock_vm_write_nested(struct pvclock_vm *vm, uint64_t value);
void pvclock_vm_add_change(struct pvclock_vm *vm, const struct pvclock_line_change *change);
void pvclock_vm_remember_line(struct pvclock_vm *vm);        /* the line that the guest has run by */
void pvclock_vm_follow_nested(struct pvclock_vm *vm);        /* before it runs again */
void pvclock_vm_settle_nested(struct pvclock_vm *vm);        /* before its memory goes elsewhere: only what has changed */
/* parent.c: what the parent of this machine knows of a VM. Nothing to do where there is none. */
void pvclock_parent_enter(struct pvclock_vcpu *vcpu);        /* its page, after it was written or has moved */
void pvclock_parent_withdraw(struct pvclock_vcpu *vcpu);
void pvclock_parent_copy_table(struct pvclock_vm *vm);
/* Of the MSRs of pvclock/interface.h: as pvclock_vcpu_write_msr and its siblings. */
int pvclock_interface_write(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value);
int pvclock_interface_read(const struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t *value);
int pvclock_interface_restore(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value);
/* Whether a value is one that the guest may write. */
bool pvclock_interface_check(uint32_t msr, uint64_t value);
/* hyperv.c: the same, of Hyper-V's MSRs */
int pvclock_hyperv_write(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value);
int pvclock_hyperv_read(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t *value);
int pvclock_hyperv_restore(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value);
void pvclock_vm_resolve_hyperv(struct pvclock_vm *vm);
void pvclock_vm_follow_hyperv(struct pvclock_vm *vm);        /* the line, or whether one serves all vCPUs, may be another */
void pvclock_vm_pause_hyperv(struct pvclock_vm *vm);         /* no vCPU runs */
void pvclock_vm_capture_hyperv(const struct pvclock_vm *vm, struct pvclock_record *record);
void pvclock_vm_apply_hyperv(struct pvclock_vm *vm, const struct pvclock_record *record);
/* steal.c */
bool pvclock_steal_check(uint64_t msr);                      /* whether it is a value that the guest may write */
int pvclock_vm_write_steal_msr(struct pvclock_vcpu *vcpu, uint64_t value); /* as pvclock_vcpu_write_msr */
/* ns NULL: what its page says. */
void pvclock_vm_restore_steal(struct pvclock_vcpu *vcpu, uint64_t msr, const uint64_t *ns);
void pvclock_vm_resolve_steal(struct pvclock_vcpu *vcpu);
/* All vCPUs; `counts`: what they were delayed since the last time counts as stolen. 0, or the first -errno. */
int pvclock_vm_update_steals(struct pvclock_vm *vm, bool counts);
/* vmclock.c */
void pvclock_vm_resolve_vmclock(struct pvclock_vm *vm);
/* Writes the page anew. 0; -ENODATA: there is none. `update`: may be NULL. */
int pvclock_vm_fill_vmclock(struct pvclock_vm *vm, struct pvclock_vmclock_update *update);
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

static inline bool tsc_same(const struct pvclock_tsc_transform *a, const struct pvclock_tsc_transform *b)
{
	return a->frac_bits == b->frac_bits && a->ratio == b->ratio && a->offset == b->offset;
}

static inline bool tsc_same_rate(const struct pvclock_tsc_transform *a, const struct pvclock_tsc_transform *b)
{
	return a->frac_bits == b->frac_bits && a->ratio == b->ratio;
}

#endif
