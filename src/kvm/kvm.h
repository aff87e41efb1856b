/* SPDX-License-Identifier: MIT */
/*
 * kvm.h (private) - the binding's state, and the table that makes a mode: own.c, steer.c and stock.c each fill one.
 * attach.c picks one; events.c and restore.c call it.
 */
#ifndef KVM_KVM_H
#define KVM_KVM_H

#include "uapi.h"

#include <pvclock/hyperv.h>
#include <pvclock/interface.h>
#include <pvclock/kvm.h>
#include <pvclock/plan.h>

#include <pthread.h>
#include <stdatomic.h>

struct kvm_vcpu {
	struct pvclock_vcpu *vcpu;
	int fd;
	bool catchup; /* the kernel imitates its rate */
	bool witness; /* own: stands in the kernel for the guest's registration */
};

/* The host's clocks at one instant: what a sleep parts. */
struct kvm_mark {
	bool taken;
	struct pvclock_host_tsc at;
	uint64_t guest_tsc; /* the first vCPU's, there */
	int64_t raw_ns;     /* CLOCK_MONOTONIC_RAW, to raw_error ticks */
	uint64_t raw_error;
	int64_t asleep_ns, asleep_error_ns; /* CLOCK_BOOTTIME - CLOCK_MONOTONIC: the host's sleep since its boot */
};

/* These clocks now, and what became of them since the mark. */
struct kvm_look {
	struct kvm_mark now;
	uint64_t raw_ns; /* passed by CLOCK_MONOTONIC_RAW: the host was awake so long */
	bool slept, reset; /* the host did; its TSC was */
};

/* A filter that owns its bitmaps. */
struct pvclock_msr_filter {
	struct kvm_msr_filter filter;
	uint8_t *bitmaps; /* one block */
};

/* What the page says that this machine's own hypervisor keeps for it, as a line over its TSC. */
struct kvm_host_page {
	struct pvclock_line line;
	struct pvclock_hyperv_line hyperv; /* scale 0: KVM's page */
};

struct kvm_mode {
	enum pvclock_mode mode;
	unsigned int filtered; /* PVCLOCK_FILTER_*: MSRs that the mode keeps from the kernel */
	/* Each may be NULL: nothing to do. All but handle_msr with every vCPU out of guest mode. */
	/* What the first vCPU's clock runs with, per tick of its TSC, on a host with this slope. */
	int (*slope)(const struct pvclock_kvm *kvm, const struct pvclock_slope *host, struct pvclock_slope *guest);
	int (*start)(struct pvclock_kvm *kvm, const struct pvclock_slope *host);
	int (*handle_msr)(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, struct kvm_run *run);
	int (*pause)(struct pvclock_kvm *kvm);
	int (*resume)(struct pvclock_kvm *kvm, struct pvclock_correction *correction, struct pvclock_reason *reason);
	int (*arrived)(struct pvclock_kvm *kvm); /* the engine has another line than the kernel knows of */
	int (*save)(struct pvclock_kvm *kvm, struct pvclock_record *record);
	int (*restore)(struct pvclock_kvm *kvm, const struct pvclock_record *record, struct pvclock_reason *reason);
};

extern const struct kvm_mode pvclock_kvm_mode_own, pvclock_kvm_mode_steer, pvclock_kvm_mode_stock;

struct pvclock_kvm {
	const struct pvclock_os *os;
	struct pvclock_vm *vm;
	int vm_fd;
	const struct kvm_mode *mode;
	pthread_mutex_t lock; /* of the list: vCPUs come and go while others run */
	struct kvm_vcpu *vcpus; /* by ascending index */
	size_t vcpu_count;
	struct pvclock_slope host; /* true slope, ns per host tick; whatever slope the kernel publishes */
	struct pvclock_host_time time; /* of which the boot id is read once */
	/* seen at the last event, which is when a blackout began: a host TSC below it was reset by a suspend */
	struct pvclock_host_tsc last;
	bool offsets_ignored; /* a TSC offset was accepted, and the old one held */
	bool from_page;      /* steer: the engine's line is what the kernel published here, with the kernel's own slope */
	/* of this blackout, until the next resume tells it */
	bool held; /* there is one */
	enum pvclock_blackout blackout;
	int64_t moved_ticks;
	int64_t off_ns; /* as in struct pvclock_correction */
	uint64_t counted_ns, uncounted_ns;
	uint64_t error_ns; /* of these two, where other clocks than the TSC measured them */
	/* of the host's sleep, until the policy has seen to it: its length, and what the guests' TSC counted of it by itself */
	uint64_t slept_ns;
	int64_t surplus_ns;
	bool unpassed; /* there is a sleep of which the policy has not said anything yet */
	bool slept;    /* in this blackout */
	bool loaded;   /* in this blackout the VM was given a state */
	bool followed; /* in this blackout its line has become another, because this host's did */
	bool came_by_record; /* and with it the first vCPU's counter as it was */
	struct pvclock_tsc_transform came_with;
	struct kvm_mark mark;
	_Atomic int64_t asleep_limit_ns; /* with so much of it the host has slept since the mark */
	_Atomic uint64_t awake_at;       /* host TSC: it had not */
	int (*interrupt)(void *ctx, uint32_t apic, uint8_t vector); /* the VMM's own way, or NULL */
	void *interrupt_ctx;
	void (*sooner)(void *ctx, uint64_t wait_ns);
	void *sooner_ctx;
	struct pvclock_host_tsc awaited; /* until then whoever fires deadlines waits; under the lock */
	struct {
		const void *page; /* NULL: nothing is watched */
		enum pvclock_clock_page which;
		struct kvm_host_page said;  /* changes with every vCPU out of guest mode, and no thread on its way there */
		_Atomic uint32_t version;   /* of the page when it said so */
	} watched;
	unsigned int filtered; /* PVCLOCK_FILTER_*: the mode's, and the interface's if that was offered */
	/* if anything is: what the VMM wants, to be put back at detach */
	uint64_t user_space_msr_mask;
	struct pvclock_msr_filter theirs;
	/* stock: KVM_GET_CLOCK at the pause */
	struct kvm_clock paused;
};

static inline int kvm_ioctl(const struct pvclock_kvm *kvm, int fd, unsigned long request, void *arg)
{
	return kvm->os->ops->ioctl(kvm->os->ctx, fd, request, arg);
}

/* calls.c */
const struct kvm_vcpu *pvclock_kvm_find_vcpu(const struct pvclock_kvm *kvm, uint32_t index);
int pvclock_kvm_get_clock(const struct pvclock_kvm *kvm, struct kvm_clock *clock);
int pvclock_kvm_set_clock(const struct pvclock_kvm *kvm, uint64_t ns);
int pvclock_kvm_get_msr(const struct pvclock_kvm *kvm, const struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *value);
int pvclock_kvm_set_msr(const struct pvclock_kvm *kvm, const struct kvm_vcpu *vcpu, uint32_t msr, uint64_t value);

/* arrive.c: pvclock_kvm_arrive, of a clock that was here before */
int pvclock_kvm_arrive_again(struct pvclock_kvm *kvm, const struct pvclock_arrival *arrival, struct pvclock_arrived *arrived,
			     struct pvclock_reason *reason);

/* filter.c */
#define PVCLOCK_FILTER_CLOCK 1u     /* registrations, and the guest's own TSC */
#define PVCLOCK_FILTER_INTERFACE 2u /* pvclock/interface.h */
#define PVCLOCK_FILTER_STEAL 4u
#define PVCLOCK_FILTER_HYPERV 8u    /* pvclock/hyperv.h */
/* Nothing to do where nothing is filtered. */
int pvclock_kvm_begin_filter(struct pvclock_kvm *kvm, const struct pvclock_kvm_config *config, struct pvclock_reason *reason);
void pvclock_kvm_end_filter(struct pvclock_kvm *kvm);
int pvclock_kvm_copy_filter(const struct kvm_msr_filter *filter, struct pvclock_msr_filter *copy);
/*
 * The filter that gives userspace these MSRs of ours and otherwise does what `theirs` (may be NULL) does. 0, -ENOSPC,
 * -EINVAL, -ENOMEM.
 */
int pvclock_kvm_merge_filter(const struct kvm_msr_filter *theirs, unsigned int what, struct pvclock_msr_filter *merged,
			     struct pvclock_reason *reason);
/* Whether `filter` lets a guest at an MSR, which KVM_MSR_FILTER_READ or _WRITE. */
bool pvclock_kvm_filter_allows(const struct kvm_msr_filter *filter, uint32_t msr, uint32_t access);
void pvclock_msr_filter_clear(struct pvclock_msr_filter *filter);
/* As it is, to KVM (NULL: no filter). 0 or -errno. */
int pvclock_kvm_tell_filter(const struct pvclock_kvm *kvm, const struct kvm_msr_filter *filter);
int pvclock_kvm_tell_exits(const struct pvclock_kvm *kvm, uint64_t mask);

/* interrupt.c: a fixed, edge-triggered interrupt to the vCPU whose APIC has this identifier. Any thread. 0 or -errno. */
int pvclock_kvm_interrupt(struct pvclock_kvm *kvm, uint32_t apic, uint8_t vector);

/* follow.c: around a change of all lines, because the machine's own has changed */
struct kvm_follow {
	struct pvclock_line *lines; /* each vCPU's, before */
	struct pvclock_line host;   /* and over this machine's TSC */
	bool host_known;
};

/*
 * Of this machine's two lines over its TSC: where that would have been `then`, had it always run as it does now. Also
 * before either's anchor; below 0 it is modulo 2^64.
 */
uint64_t pvclock_kvm_retrace(const struct pvclock_line *was, const struct pvclock_line *is, struct pvclock_host_tsc now, uint64_t then);
int pvclock_kvm_begin_follow(struct pvclock_kvm *kvm, struct kvm_follow *follow); /* 0, -ENOMEM */
/* 0 or -errno: what KVM said of a deadline. */
int pvclock_kvm_end_follow(struct pvclock_kvm *kvm, struct kvm_follow *follow, bool followed);
/*
 * `line`, the first vCPU's, is made to read no less than was read by the one before: until the blackout began, or until now, where this
 * is the pause.
 */
void pvclock_kvm_keep_ahead(struct pvclock_kvm *kvm, const struct pvclock_line *was, struct pvclock_host_tsc now, struct pvclock_line *line);
/* Of a VM with a parent: what it has told. One that cannot follow is declared unstable. 0, or -errno of the two above. */
int pvclock_kvm_follow_parent(struct pvclock_kvm *kvm);

/* watch.c: whether this machine's line has become another since, by the parent or by the watched page; any thread */
bool pvclock_kvm_host_changed(struct pvclock_kvm *kvm);
/* Then the lines follow. With every vCPU out of guest mode. 0 or -errno. */
int pvclock_kvm_follow_host(struct pvclock_kvm *kvm);
/*
 * Around the making of a line that is not made from the one before: it is of what the page says now, and does not follow the
 * change to that. Unless whoever gave it `host` had learnt that before the change: then it follows, as any other.
 */
struct kvm_peek {
	bool valid;
	struct kvm_host_page said;
	uint32_t version;
};

void pvclock_kvm_peek_host(struct pvclock_kvm *kvm, struct kvm_peek *peek);
void pvclock_kvm_made_anew(struct pvclock_kvm *kvm, const struct kvm_peek *peek, const struct pvclock_slope *host);

/* tsc.c */
int pvclock_kvm_read_tsc_offset(const struct pvclock_os *os, int vcpu_fd, uint64_t *offset);
/* Rate and offset, judged against the host's slope if that is known. */
int pvclock_kvm_read_tsc(const struct pvclock_kvm *kvm, struct kvm_vcpu *vcpu, const struct pvclock_slope *host);
/* The same of every vCPU. */
int pvclock_kvm_read_tscs(struct pvclock_kvm *kvm, const struct pvclock_slope *host);
/*
 * The kHz by which KVM makes the first vCPU's page. Where it does not scale it is the host's: a vCPU that was given another host's
 * (a VMM carries it along) to 250 ppm tells that one, and runs as before. 0 or less: KVM does not tell.
 */
int pvclock_kvm_page_khz(const struct pvclock_kvm *kvm);
/* Of this CPU's TSC scaling, whether KVM can use it or not. */
uint8_t pvclock_kvm_frac_bits(const struct pvclock_os *os);
/* pvclock_kvm_set_tsc_offset; without the write, where it is known to be in vain. */
int pvclock_kvm_want_tsc_offset(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, uint64_t offset, bool write,
				struct pvclock_reason *reason);
/* The offset alone, again: a guest that wrote its TSC has changed it. */
int pvclock_kvm_reread_offset(const struct pvclock_kvm *kvm, const struct kvm_vcpu *vcpu);

/*
 * guest_tsc.c: a guest's WRMSR to IA32_TSC or IA32_TSC_ADJUST, in the vCPU's own thread: its counter moves as the guest
 * wants it, its page with the counter, and its clock does not. 0 or -errno.
 */
int pvclock_kvm_guest_writes_tsc(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value);

/* clock_guest_ioctl.c: the kernel's own KVM_[GS]ET_CLOCK_GUEST, of one revision of the proposal */
#define KVM_CLOCK_GUESTS 2

struct kvm_clock_guest {
	unsigned long get, set;
};

extern const struct kvm_clock_guest pvclock_kvm_clock_guests[KVM_CLOCK_GUESTS];

/* The first vCPU's clock, as its page says it. -ENODATA: and the ioctl does not; -errno. */
int pvclock_kvm_get_kernel_clock(const struct pvclock_kvm *kvm, const struct kvm_clock_guest *ioctls, struct pvclock_line *line);
int pvclock_kvm_set_kernel_clock(const struct pvclock_kvm *kvm, const struct kvm_clock_guest *ioctls,
				 const struct pvclock_line *line);
/* What this kernel has and tells the truth by, and that truth. NULL: nothing. */
const struct kvm_clock_guest *pvclock_kvm_find_clock_guest(const struct pvclock_kvm *kvm, struct pvclock_line *line);
/* Whether it has any, of a vCPU without a page. */
bool pvclock_kvm_probe_clock_guest(const struct pvclock_os *os, int vm_fd, int vcpu_fd, const struct pvclock_tsc_transform *tsc);

/* sleep.c */
void pvclock_kvm_look(const struct pvclock_kvm *kvm, struct kvm_look *look);
/*
 * Adds to slept_ns and surplus_ns what was seen, and makes it the mark. Where the TSC was reset the engine knows the
 * vCPUs' new offsets already.
 */
void pvclock_kvm_measure_sleep(struct pvclock_kvm *kvm, struct kvm_look *look);
/* What was before is none of this clock's. */
void pvclock_kvm_forget_sleep(struct pvclock_kvm *kvm);

/* events.c: what the policy says about the blackout up to now */
int pvclock_kvm_pass_time(struct pvclock_kvm *kvm, struct pvclock_reason *reason);

/* deadline.c */
/* A vCPU's deadline was written, in its own thread. */
void pvclock_kvm_deadline_written(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu);
/* When this returns, no interrupt is on its way that pvclock_vm_pause came too late for. */
void pvclock_kvm_drain_deadlines(struct pvclock_kvm *kvm);
/* After a blackout: what is due fires, and who waits is told for how long. */
void pvclock_kvm_resume_deadlines(struct pvclock_kvm *kvm);

/* kernel_clock.c: what steer and stock share: the kernel publishes, and the engine follows it */
int pvclock_kernel_clock_learn(struct pvclock_kvm *kvm);
/* What the first vCPU reads: the page that the kernel wrote. -ENODATA: it has none. */
int pvclock_kernel_clock_read_page(const struct pvclock_kvm *kvm, struct pvclock_line *line, uint8_t *flags);
int pvclock_kernel_clock_save(struct pvclock_kvm *kvm, struct pvclock_record *record);
int pvclock_kernel_clock_restore(struct pvclock_kvm *kvm, const struct pvclock_record *record, struct pvclock_reason *reason);
void pvclock_kernel_clock_mark_stopped(struct pvclock_kvm *kvm);

#endif
