/* SPDX-License-Identifier: MIT */
/*
 * preload.h - pvclock between an unmodified VMM and KVM. The VMM's ioctls pass through entry.c, which knows by their
 * descriptors what they are about; each room handles some of them, and hands on to the kernel what is not the clock's:
 *
 *   objects.c  which descriptor is a VM, which a vCPU         gate.c    KVM_RUN: no vCPU enters before its clock is right
 *   vm.c       their beginning and end, modes, filters        events.c  stop, start, go on: what the VMM never says aloud
 *   memory.c   slots and dirty logs                           arrival.c a VM that comes from a snapshot or another host
 *   msrs.c     KVM_GET_MSRS, KVM_SET_MSRS                     clock.c   KVM_GET_CLOCK, KVM_SET_CLOCK, KVM_KVMCLOCK_CTRL
 *   records.c  what no VMM carries: policy, and how long it took    log.c     what is said, and to whom
 *   hyperv.c   Hyper-V's clock, and CPUID                     interface.c pvclock's own, offered to a guest
 *   sleep.c    the host's sleep, told beforehand
 *   parent.c   a host that is a guest, and is told of its moves; parent.h has how
 *
 * Handlers return as the kernel does: a result, or -errno. On the library's public API alone.
 */
#ifndef PRELOAD_H
#define PRELOAD_H

#include <pvclock/pvclock.h>

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* struct kvm_clock_data as of Linux 5.16, whatever the headers say; the same 48 bytes. */
struct clock_data {
	__u64 clock;
	__u32 flags, pad0;
	__u64 realtime, host_tsc;
	__u32 pad[4];
};
_Static_assert(sizeof(struct clock_data) == sizeof(struct kvm_clock_data), "KVM ABI");
#define CLOCK_FLAG_STABLE (1u << 1)
#define CLOCK_FLAG_REALTIME (1u << 2)
#define CLOCK_FLAG_HOST_TSC (1u << 3)

#define MSR_IA32_TSC 0x10u
#define MSR_IA32_TSC_DEADLINE 0x6e0u

enum object_kind { OBJECT_VM, OBJECT_VCPU };

struct object {
	enum object_kind kind;
	int fd;
	pid_t process; /* whose it is; a child has a copy of the descriptor and no VM (KVM: -EIO) */
};

struct vcpu {
	struct object object; /* first */
	struct vm *vm;
	uint32_t index;
	struct kvm_run *run;
	struct pvclock_vcpu *clock; /* NULL where pvclock stands aside */
	_Atomic bool inside;        /* in KVM_RUN, or about to be and not yet through the gate */
	_Atomic pid_t thread;       /* that ran it last */
	_Atomic bool with_vmm;      /* it has an exit that the VMM is about: nobody else may enter it */
	bool settled;               /* steer: KVM has nothing postponed to its next entry */
	bool has_tsc;               /* the VMM restored its counter, as ... */
	uint64_t tsc;               /* ... which is to hold from when the VM goes on; and its TSC deadline, */
	uint64_t deadline;          /* which KVM would take for one of the counter as it still is. 0: none */
};

struct slot {
	uint32_t id;
	struct pvclock_gpa gpa;
	uint64_t size;
};

struct vm {
	struct object object; /* first */
	unsigned int users;   /* open descriptors: its own and its vCPUs' */
	int fd;               /* the VM once more: the VMM may close its own first */
	int run_size;         /* of struct kvm_run and what follows it, mapped */
	pthread_mutex_t lock; /* for all below but what is atomic */
	struct pvclock_os os;
	struct pvclock_os_ops ops;
	struct pvclock_source *source; /* NULL: this host has no line */
	struct pvclock_slope host;     /* ns per host tick; proven, or KVM's kHz */
	struct pvclock_vm *clock;
	struct pvclock_kvm *kvm;       /* NULL: pvclock stands aside, and all is the kernel's */
	uint64_t exits;                /* KVM_CAP_X86_USER_SPACE_MSR as the VMM set it */
	struct vcpu **vcpus;           /* by ascending index */
	size_t vcpu_count;
	struct slot *slots;
	size_t slot_count;

	struct pvclock_policy policy; /* as `pvclock run` was told; a record's otherwise */
	bool has_policy;

	_Atomic bool gate;   /* closed: something is to be done before a vCPU enters */
	bool asleep;         /* ... and not before the host is awake */
	bool started, paused;
	bool held;           /* no vCPU has run since `hold`: the counters are told as of then */
	struct pvclock_host_tsc hold;
	uint64_t hold_realtime;
	const struct machine_parent *parent; /* who tells this machine of its moves; NULL: nobody */
	uint64_t generation;           /* of the machine's line: `host` is of this one or a later one, */
	uint64_t followed;             /* ... and it was said that the VM follows this one */
	bool told, set;      /* KVM_GET_CLOCK was answered with ..., KVM_SET_CLOCK has said ... */
	uint64_t told_ns, set_ns;

	bool waits;          /* the guest was told that its TSC is another one, at ..., and has not acknowledged it yet */
	struct pvclock_host_tsc waits_since;

	struct vm *next;     /* sleep.c's list */
};

/* --- entry.c ------------------------------------------------------------------------------- */

/* The kernel's own: a result >= 0, or -errno. */
int kernel_ioctl(int fd, unsigned long request, void *arg);
/* While it is above 0, this thread's calls are our own and pass. */
extern _Thread_local unsigned int passing;

/* --- objects.c ----------------------------------------------------------------------------- */

struct object *object_find(int fd);           /* NULL: not one of ours. Lock-free. */
bool object_add(struct object *object);       /* false: out of memory, or no such descriptor */
void object_remove(int fd);

/* --- vm.c ---------------------------------------------------------------------------------- */

int vm_created(int kvm_fd, int vm_fd);        /* KVM_CREATE_VM returned it; the same, or -errno and it is closed */
int vcpu_created(struct vm *vm, int vcpu_fd, uint32_t index);
void object_closed(struct object *object);    /* before its descriptor is closed */
int vm_set_filter(struct vm *vm, const struct kvm_msr_filter *filter);
int vm_enable_cap(struct vm *vm, struct kvm_enable_cap *cap);
int vm_check_extension(struct vm *vm, unsigned long capability);
bool vm_is(const struct vm *vm, enum pvclock_mode mode);

/* --- gate.c -------------------------------------------------------------------------------- */

int vcpu_run(struct vcpu *vcpu, void *arg);
/* With the lock held. Closes the gate and sees whether all vCPUs are out of KVM_RUN; opens it again if not. */
bool gate_close_if_stopped(struct vm *vm);
/* The same, and gets them out. False: one would not come. */
bool gate_close(struct vm *vm);
void gate_open(struct vm *vm);

/* --- events.c: with the lock held, the gate closed and no vCPU inside ------------------------ */

void vm_hold(struct vm *vm);                  /* the counters stand still, as far as anybody asks */
void vm_pause(struct vm *vm);
bool vm_learn_again(struct vm *vm);           /* this host's line, from its hypervisor's page; false: it keeps time by none */
void vm_go_on(struct vm *vm);                 /* start, resume or arrive, whatever is due */

/* --- arrival.c ----------------------------------------------------------------------------- */

int vm_arrive(struct vm *vm);
bool vm_arrival_clock(struct vm *vm, uint64_t *ns); /* what the clock reads there; false: nothing arrives, or it had no page */

/* --- records.c ----------------------------------------------------------------------------- */

void vm_set_policy(struct vm *vm);            /* what `pvclock run` was told */
void vm_reread_policy(struct vm *vm);         /* the same, from a file that may have changed */
void vm_keep_record(struct vm *vm);           /* of a VM that has stopped, where records are asked for */
/*
 * Of the VM that arrives: what of the blackout its clock counts, by its record; false: there is none, and nothing is counted.
 * `line`: by its page, which tells it to `within_ns`.
 * From then on it has the record's policy and account.
 */
bool vm_take_record(struct vm *vm, uint64_t first_tsc, const struct pvclock_line *line, uint64_t within_ns,
		    struct pvclock_plan *plan, struct pvclock_host_time *now);

/* --- memory.c ------------------------------------------------------------------------------ */

int vm_set_memory(struct vm *vm, unsigned long request, void *region);
int vm_get_dirty_log(struct vm *vm, struct kvm_dirty_log *log);

/* --- msrs.c -------------------------------------------------------------------------------- */

int vcpu_get_msrs(struct vcpu *vcpu, struct kvm_msrs *msrs);
int vcpu_set_msrs(struct vcpu *vcpu, const struct kvm_msrs *msrs);
/* What the counter reads at a host tick, with the offset that holds now. */
uint64_t vcpu_tsc_at(const struct vcpu *vcpu, struct pvclock_host_tsc at);

/* --- hyperv.c ------------------------------------------------------------------------------ */

/* KVM_SET_CPUID2. */
int vcpu_set_cpuid(struct vcpu *vcpu, const struct kvm_cpuid2 *cpuid);
/* What the guest's own TSC page says. False: it has none, or it is no clock. */
bool vcpu_read_hyperv(const struct vcpu *vcpu, struct pvclock_hyperv_snapshot *page);
/* A guest is told that its TSC is another one, and acknowledges it: once each, for the log. The first with the lock held. */
void vm_note_told(struct vm *vm);
void vcpu_note_acknowledged(struct vcpu *vcpu); /* after an exit that was handled */

/* --- interface.c ---------------------------------------------------------------------------- */

void vm_offer(struct vm *vm);                 /* before it is attached */
/* With the lock held. The VMM's table with our leaves added, allocated; NULL: it stays as it is. */
struct kvm_cpuid2 *vm_with_interface(const struct vm *vm, const struct kvm_cpuid2 *cpuid);
/* What the guest registered, by its record; NULL: nothing. */
void vm_take_registrations(struct vm *vm, const struct pvclock_record *record);

/* --- clock.c ------------------------------------------------------------------------------- */

int vm_get_clock(struct vm *vm, struct clock_data *clock);
int vm_set_clock(struct vm *vm, const struct clock_data *clock);
int vcpu_kvmclock_ctrl(struct vcpu *vcpu);

/* --- sleep.c ------------------------------------------------------------------------------- */

void sleep_know(struct vm *vm);               /* from here on the host's sleep stops it */
void sleep_forget(struct vm *vm);

/* --- parent.c ------------------------------------------------------------------------------ */

void parent_find(struct vm *vm);              /* from here on vm->generation is before what is learnt */
void parent_know_host(struct vm *vm);         /* vm->host, as the machine's host has told it since */
void parent_add(struct vm *vm);               /* its clock has begun, or arrived; no vCPU runs */
void parent_tell(struct vm *vm);              /* what it has followed, if it has: once */

/* --- log.c --------------------------------------------------------------------------------- */

/* A line on standard error, for the VMM's operator. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/*
 * A line of JSON in the file that PVCLOCK_LOG names, if it does: {"pvclock":PID,"event":EVENT, members..., "reason":...}.
 * `members` are JSON too, without braces.
 */
void record_event(const char *event, const struct pvclock_reason *reason, const char *members, ...)
	__attribute__((format(printf, 3, 4)));

#endif
