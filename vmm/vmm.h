/* SPDX-License-Identifier: MIT */
/*
 * vmm.h - the parts of the VMM, and what they know of each other. One process is one virtual machine.
 *
 * Every function that can fail returns 0 or -1 and leaves one sentence in *problem, for a person: which thing, what
 * about it, and the way out. Only main.c, control.c and the update's sides exit; the guest's own sentences and those
 * about the clock go to stderr.
 */
#ifndef VMM_VMM_H
#define VMM_VMM_H

#include "shared.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <pvclock/pvclock.h>
#include <stdatomic.h>
#include <sys/types.h>

#define PROBLEM_TEXT 512

struct problem {
	char text[PROBLEM_TEXT];
};

__attribute__((format(printf, 2, 3))) int fail(struct problem *problem, const char *format, ...); /* always -1 */
uint64_t monotonic_ns(void);

/* --- options (main.c) ------------------------------------------------------------------ */

struct fault_plan {
	const char *crash_at, *hang_at; /* "side:step", or NULL */
	int64_t corrupt_bit;            /* of the record that an update hands over; -1: none */
};

struct options {
	uint32_t vcpus;       /* 0: not said */
	uint64_t memory_size; /* 0: not said */
	enum pvclock_mode mode;
	const char *payload;
	const char *restore_path;        /* a snapshot to start from, or NULL */
	enum pvclock_blackout restore_as;
	bool vmclock;                    /* the guest has VMClock's page */
	bool own_steal;                  /* stolen time is told by this program; else by the kernel */
	bool hyperv;                     /* Hyper-V's clock is offered */
	bool logind;                     /* the host's sleep is told beforehand */
	bool same_boot;                  /* its record's slope is taken for this host's, if the record is of this boot */
	char policy[256];                /* as pvclock_policy_parse takes it */
	int memory_fd, control_fd;    /* inherited, or -1 */
	int successor_fd, commit_fd;  /* a live update's new side; else -1 */
	uint64_t handover_timeout_ns;
	struct fault_plan fault;
};

/* --- the saved state, on its way to another process (wire.c) ----------------------------- */

enum wire_kind {
	WIRE_RECORD = 1, /* the library's, opaque here */
	WIRE_IRQCHIP,    /* index: KVM_IRQCHIP_* */
	WIRE_SREGS,      /* from here on, index: vCPU */
	WIRE_REGS,
	WIRE_XCRS,
	WIRE_XSAVE,
	WIRE_DEBUGREGS,
	WIRE_LAPIC,
	WIRE_MSRS,
	WIRE_MP_STATE,
	WIRE_EVENTS,
};

#define WIRE_SIZE_MAX (16u << 20)

struct wire {
	uint8_t *bytes;
	size_t size, capacity;
	uint32_t sections;
};

int wire_begin(struct wire *wire, struct problem *problem);
/* Appends a section and returns its zeroed, 8-byte aligned space, valid until the next one; NULL: no memory. */
void *wire_add(struct wire *wire, enum wire_kind kind, uint32_t index, size_t size, struct problem *problem);
/* The header, after the last section: wire->bytes is then the state. */
void wire_seal(struct wire *wire);
/* To and from `offset` of a file. wire_write seals. */
int wire_write(struct wire *wire, int fd, off_t offset, struct problem *problem);
int wire_open(struct wire *wire, int fd, off_t offset, size_t length, struct problem *problem);
const void *wire_find(const struct wire *wire, enum wire_kind kind, uint32_t index, size_t *size);
void wire_clear(struct wire *wire);

/* --- the machine (machine.c, vcpu.c) ------------------------------------------------------ */

struct machine;

struct vcpu {
	struct machine *machine;
	uint32_t index;
	int fd;
	struct kvm_run *run;
	struct pvclock_vcpu *clock;
	pthread_t thread;
	_Atomic pid_t tid;   /* the same, as the kernel counts; 0: not there yet */
	/* under the machine's lock */
	bool parked;
	bool settle;         /* asked to let KVM do what it postponed, while parked */
	uint64_t stopped_ns; /* CLOCK_MONOTONIC: left guest mode for the last pause */
	uint64_t entered_ns; /* about to enter it after the last resume; 0 until then */
};

struct vmm_clock {
	struct pvclock_vm *vm;
	struct pvclock_kvm *kvm;
	struct pvclock_source *source; /* NULL: the host has no line */
	struct pvclock_plan plan;      /* of the restore that brought the guest here ... */
	bool restoring;                /* ... which the next resume ends */
	struct pvclock_correction correction; /* what that made of it; all 0: the guest began here */
	bool restored;
};

/* The thread that fires deadlines (timer.c). */
struct vmm_timer {
	pthread_t thread;
	bool started;
	_Atomic bool quit;
	int event_fd; /* it is to ask anew */
};

struct machine {
	int kvm_fd, vm_fd, memory_fd;
	uint8_t *memory;
	uint64_t memory_size;
	size_t run_size;
	size_t xsave_size;          /* 0: no KVM_GET_XSAVE2 */
	struct kvm_msrs *msrs;      /* those that can be got and set, values meaningless */
	uint32_t vcpu_count;
	struct vcpu vcpus[VMM_VCPUS_MAX];
	struct vmm_clock clock;
	bool own_steal, hyperv, vmclock;
	struct vmm_timer timer;
	struct kvm_cpuid2 *cpuid;   /* the vCPUs', but for what differs between them */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	_Atomic bool hold;          /* vCPUs leave guest mode and park */
	bool quit;                  /* parked vCPU threads end */
	uint32_t threads;           /* started */
	bool ended;                 /* the guest is done, or broke; `code` and `problem` say how */
	int code;
	struct problem problem;
	bool slept;                 /* the host did, and a vCPU found out */
	int event_fd;               /* readable once `ended` or `slept` */
};

/* The VM, its memory and its vCPUs, with nothing in them. */
int machine_create(struct machine *machine, const struct options *options, struct problem *problem);
void machine_destroy(struct machine *machine);
/* Adds these leaves to all vCPUs' CPUID; none has run. */
int machine_add_leaves(struct machine *machine, const struct pvclock_cpuid *leaves, size_t count, struct problem *problem);
bool machine_has_range(const struct machine *machine, uint64_t gpa, uint64_t size);
int machine_save(struct machine *machine, struct wire *wire, struct problem *problem);
int machine_restore(struct machine *machine, const struct wire *wire, struct problem *problem);

/* Page tables, GDT, struct vmm_shared, the payload, and vCPUs at its entry (boot.c). */
int boot_load(struct machine *machine, const char *payload, struct problem *problem);

/* Threads, all parked at first. */
int vcpus_start(struct machine *machine, struct problem *problem);
void vcpus_stop(struct machine *machine);
/* Returns when no vCPU is in guest mode and none has an exit half done: CLOCK_MONOTONIC of the first to stop. */
uint64_t vcpus_pause(struct machine *machine);
/* Every parked vCPU's thread has called pvclock_kvm_settle. */
void vcpus_settle(struct machine *machine);
/* Returns when every vCPU is about to enter: CLOCK_MONOTONIC of the first. 0: the guest has ended. */
uint64_t vcpus_resume(struct machine *machine);

/* What a vCPU is beside its clock (vcpu_state.c). */
int vcpu_state_prepare(struct machine *machine, struct problem *problem);
int vcpu_state_save(struct vcpu *vcpu, struct wire *wire, struct problem *problem);
int vcpu_state_restore(struct vcpu *vcpu, const struct wire *wire, struct problem *problem);

/* --- the clock: all that this program asks of the library (clock.c) ------------------------- */

int clock_attach(struct machine *machine, enum pvclock_mode asked, bool learn, struct problem *problem);
void clock_detach(struct machine *machine);
int clock_start(struct machine *machine, struct problem *problem);
int clock_pause(struct machine *machine, enum pvclock_blackout blackout, struct problem *problem);
int clock_resume(struct machine *machine, struct pvclock_correction *correction, struct problem *problem);
/* What the blackout is, if that is no longer what was said at the pause. */
void clock_blackout(struct machine *machine, enum pvclock_blackout blackout);
int clock_save(struct machine *machine, struct wire *wire, int64_t corrupt_bit, struct problem *problem);
/* `host`: this host's own slope, or NULL for the record's; `change`: of the record's policy, or NULL. */
int clock_restore(struct machine *machine, const struct wire *wire, enum pvclock_blackout blackout,
		  const struct pvclock_slope *host, const char *policy, struct problem *problem);
/* This host's own slope, proven or as well as it is known. */
int clock_slope(const struct machine *machine, struct pvclock_slope *slope, struct problem *problem);
/* Takes the slope of a state's record, if it was saved on this boot of this host; else proves this host's. */
int clock_learn(struct machine *machine, const struct wire *wire, struct problem *problem);
void clock_set_policy(struct machine *machine, const char *words);
/* Brings VMClock's page up to date. ns until the next time; UINT64_MAX: there is none. */
uint64_t clock_update_vmclock(struct machine *machine);
/* In a vCPU's own thread: what that is delayed is the guest's stolen time, if that is ours. */
void clock_name_thread(struct vcpu *vcpu);

/* --- the timer of deadlines that guests hand over (timer.c) --------------------------------------------- */

int timer_open(struct machine *machine, struct problem *problem);
/* After clock_attach. */
int timer_start(struct machine *machine, struct problem *problem);
void timer_stop(struct machine *machine);
/* As struct pvclock_kvm_config wants it; ctx: the machine. */
void timer_sooner(void *ctx, uint64_t wait_ns);

/* --- snapshots (snapshot_save.c, snapshot_load.c) ---------------------------------------------------- */

/* What a save took, for the reply. */
struct snapshot_cost {
	uint64_t bytes;    /* of the file */
	uint64_t save_ns;  /* state, record and memory written, the guest stopped */
	uint64_t clock_ns; /* the clock's share of that */
};

struct snapshot_saver;

/* A paused machine, whole, under a temporary name; the file is not there yet. NULL: *problem. */
struct snapshot_saver *snapshot_write(struct machine *machine, const struct options *options, const char *path,
				      struct snapshot_cost *cost, struct problem *problem);
/* Makes it last and gives it its name: the guest may run meanwhile. Frees. */
int snapshot_commit(struct snapshot_saver *saver, const struct options *options, struct problem *problem);

struct snapshot {
	int fd;
	const char *path;
	uint32_t vcpus;
	uint64_t memory_size;
	struct wire wire;
	struct snapshot_extent *extents;
	uint64_t extent_count;
	uint64_t memory_offset, checksum, checksum_before; /* of the memory's bytes in the file; of the file; of what precedes them */
};

/* Reads all of it and believes it only then. */
int snapshot_open(struct snapshot *snapshot, const char *path, struct problem *problem);
/* What is not in it reads as 0. */
int snapshot_load_memory(const struct snapshot *snapshot, struct machine *machine, struct problem *problem);
void snapshot_close(struct snapshot *snapshot);

/* A new machine from options->restore_path, running. */
int snapshot_begin(struct machine *machine, struct options *options, struct problem *problem);

/* --- control and live update (control.c, handover_old.c, handover_new.c, fault.c) ------------------------------- */

/* The numbers of one blackout, for the reply. All in ns. */
struct blackout {
	uint64_t stopped_ns; /* CLOCK_MONOTONIC of the first vCPU that stopped */
	uint64_t stop_ns;    /* from there until all had stopped */
	uint64_t save_ns;    /* old side: state and record into the shared memfd */
	uint64_t clock_ns;   /* the clock's own part, of both sides */
	uint64_t restore_ns; /* new side: from STATE to READY */
};

/* Serves the control socket until the guest ends; or just waits for that. The process's exit code. */
int control_serve(struct machine *machine, struct options *options);
/* What an update's new side answers in the old one's place. */
void control_say_updated(const struct machine *machine, const struct options *options, const struct blackout *blackout,
			 uint64_t entered_ns, const struct pvclock_correction *correction, bool predecessor_died);

enum handover_end {
	HANDOVER_REFUSED, /* the guest runs on here; *problem says why */
	HANDOVER_LOST,    /* the successor took the guest and died or fell silent: this process must end */
	HANDOVER_DONE,    /* the successor runs the guest: this process must end */
};

enum handover_end handover_to(struct machine *machine, struct options *options, const char *path,
			      struct problem *problem);
/* The new side. 0: the guest runs here. */
int handover_from(struct machine *machine, const struct options *options, struct problem *problem);

bool fault_known(const char *point);
void fault_list(void);
/* Dies, or stays for ever, if the plan says so for this point. */
void fault_reached(const struct fault_plan *plan, const char *point);

#endif
