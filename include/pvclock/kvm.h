/* SPDX-License-Identifier: MIT */
/*
 * kvm.h - the engine on Linux KVM. *Own mode*: userspace publishes the pages, and the kernel's clock MSRs are
 * filtered away from it. *Steer mode*: the kernel publishes, userspace aims it. *Stock*: neither; what KVM does by
 * itself, kept as a mode so that the difference can be measured.
 *
 * pvclock_kvm_handle_exit may be called from all vCPU threads at once, pvclock_kvm_settle for each vCPU from its own,
 * and pvclock_kvm_slept, _enter and _fire_deadlines at any time. The other functions of one struct pvclock_kvm are
 * called by one thread at a time, and with every vCPU out of guest mode, but for attaching, and adding, following and
 * removing a vCPU that is not in it itself (hot-plug).
 *
 * A guest that writes its own TSC (IA32_TSC, IA32_TSC_ADJUST) moves its counter, and its page moves with it, so that its clock does
 * not; in own mode that is an exit, too. Where the counters of two vCPUs then differ, TSC_STABLE is clear. A VMM whose filter keeps
 * these MSRs for itself says what it did with pvclock_kvm_follow_tsc.
 */
#ifndef PVCLOCK_KVM_H
#define PVCLOCK_KVM_H

#include <pvclock/plan.h>
#include <pvclock/source.h>
#include <pvclock/vm.h>

#include <linux/kvm.h>

#ifdef __cplusplus
extern "C" {
#endif

enum pvclock_mode {
	PVCLOCK_MODE_AUTO = 0, /* own, else steer */
	PVCLOCK_MODE_OWN,
	PVCLOCK_MODE_STEER,
	PVCLOCK_MODE_STOCK,
};

const char *pvclock_mode_name(enum pvclock_mode mode); /* "auto", "own", "steer", "stock" */

/* --- what a KVM can do: probed, never assumed ------------------------------------------- */

struct pvclock_kvm_capabilities {
	bool user_space_msr, msr_filter;   /* own mode needs both */
	uint32_t clock_flags;              /* KVM_CAP_ADJUST_CLOCK: KVM_CLOCK_* flags known */
	bool tsc_control, vm_tsc_control;  /* hardware TSC scaling */
	bool tsc_offset_attribute;         /* KVM_VCPU_TSC_OFFSET exists ... */
	bool tsc_offset_honoured;          /* ... and reads back what was written */
	bool kvmclock_ctrl, immediate_exit, tsc_deadline_timer;
	uint32_t tsc_khz;                  /* KVM_GET_TSC_KHZ */
	bool master_clock;                 /* KVM_GET_CLOCK gives host_tsc once a vCPU exists and has run or the clock was set */
	struct pvclock_reason master_clock_reason; /* why not */
	bool steal_kernel;                 /* KVM tells guests their stolen time (KVM_FEATURE_STEAL_TIME) */
	bool steal_own;                    /* userspace can: the kernel says how long a thread waited */
	bool clock_guest;                  /* the kernel has KVM_[GS]ET_CLOCK_GUEST of its own, and it tells the truth */
};

/* Opens a scratch VM on kvm_fd (/dev/kvm), looks, and closes it. 0 or -errno. */
int pvclock_kvm_probe(const struct pvclock_os *os, int kvm_fd, struct pvclock_kvm_capabilities *capabilities);

/* --- attaching ---------------------------------------------------------------------------- */

struct pvclock_kvm;

struct pvclock_kvm_config {
	const struct pvclock_os *os;
	struct pvclock_vm *vm;
	int vm_fd;
	enum pvclock_mode mode;
	/*
	 * What the VMM itself told KVM before: merged with ours, never replaced. NULL / 0 if nothing. The VMM
	 * must not set either again on its own afterwards, but through the two functions below.
	 */
	const struct kvm_msr_filter *msr_filter;
	uint64_t user_space_msr_mask; /* KVM_CAP_X86_USER_SPACE_MSR args[0] */
	/*
	 * How a vCPU gets an interrupt of ours (pvclock/interface.h): edge-triggered, to the one whose APIC has this identifier; called by
	 * any thread; 0 or -errno. NULL: by KVM_SIGNAL_MSI, which needs KVM's own local APICs.
	 */
	int (*interrupt)(void *ctx, uint32_t apic, uint8_t vector);
	void *interrupt_ctx;
	/*
	 * The next deadline of pvclock/interface.h is now sooner than pvclock_kvm_fire_deadlines said: call that again
	 * after wait_ns. By the thread of a vCPU, or of pvclock_kvm_resume; it may call the library, but must not wait
	 * for those. NULL: nobody fires.
	 */
	void (*sooner)(void *ctx, uint64_t wait_ns);
	void *sooner_ctx;
};

/*
 * Before the first vCPU runs; the VMM's filter is copied. Detach before the vCPUs and the VM are destroyed. 0:
 * *reason (may be NULL) says why the mode is not the best one, if it is not; -ENOTSUP: the mode asked for is not to
 * be had.
 */
int pvclock_kvm_attach(const struct pvclock_kvm_config *config, struct pvclock_kvm **kvm, struct pvclock_reason *reason);
void pvclock_kvm_detach(struct pvclock_kvm *kvm);
enum pvclock_mode pvclock_kvm_mode(const struct pvclock_kvm *kvm);

/*
 * What a VMM calls instead of KVM_X86_SET_MSR_FILTER (NULL: no filter) and of KVM_ENABLE_CAP with
 * KVM_CAP_X86_USER_SPACE_MSR: what it wants from now on, in own mode merged with ours. The filter is copied. 0, or
 * -ENOSPC, -EINVAL, -ENOMEM or what KVM said, with a reason: what held before holds.
 */
int pvclock_kvm_set_filter(struct pvclock_kvm *kvm, const struct kvm_msr_filter *filter, struct pvclock_reason *reason);
int pvclock_kvm_set_user_space_msr(struct pvclock_kvm *kvm, uint64_t mask, struct pvclock_reason *reason);

/*
 * pvclock_vm_offer_hyperv for a VM that is attached, whose VMM has only now made up its guest's CPUID. Before a vCPU
 * runs. 0, with a filter that has these MSRs; -ENOTSUP: not in own mode; or as pvclock_kvm_set_filter: then nothing has
 * changed.
 */
int pvclock_kvm_offer_hyperv(struct pvclock_kvm *kvm, uint32_t features, uint64_t apic_hz, struct pvclock_reason *reason);

/* After KVM_CREATE_VCPU (and KVM_SET_TSC_KHZ if used): the engine's vCPU and its fd. Reads its TSC back. */
int pvclock_kvm_add_vcpu(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, int vcpu_fd);
void pvclock_kvm_remove_vcpu(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu);

/*
 * All vCPUs added, guest memory mapped, none has run. Own mode: gives the VM its clock, 0 ns now, with the host's
 * slope. Steer and stock mode: the kernel gives the clock, and the engine learns its line at the first pause.
 * -EINVAL: no slope of a clock. Not for a VM that is to be restored.
 */
int pvclock_kvm_start(struct pvclock_kvm *kvm, const struct pvclock_slope *host);

/* --- running --------------------------------------------------------------------------------- */

/*
 * Hands an exit to the engine. 1: handled, run the vCPU again (run->msr.error and data are set); 0: not ours, *run is
 * untouched; -errno. Costs one comparison for exits that are not MSR exits.
 */
int pvclock_kvm_handle_exit(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, struct kvm_run *run);

/*
 * Gives each vCPU whose deadline (PVCLOCK_MSR_DEADLINE) is due its interrupt: the APIC's identifier is the vCPU's
 * index. The library has no timer: call this *wait_ns later, and when config.sooner says so, while vCPUs run or not.
 * UINT64_MAX: nothing to wait for. Whoever calls it has to wait, or to make another one call it: what it was told,
 * config.sooner will not tell again. While the VM is paused, and after a sleep of the host until it was paused and
 * resumed (pvclock_kvm_slept), nothing fires; what came due meanwhile is fired by pvclock_kvm_resume. A deadline that
 * is past when the guest writes it is fired by pvclock_kvm_handle_exit. 0, or the last error of an interrupt that could
 * not be given; it is lost.
 */
int pvclock_kvm_fire_deadlines(struct pvclock_kvm *kvm, uint64_t *wait_ns);

/* A vCPU's TSC offset: written, read back, and what really holds given to the engine. 0: honoured; -EOPNOTSUPP: KVM has no such attribute, or
 * ignored the write (*reason); the engine knows the truth either way. */
int pvclock_kvm_set_tsc_offset(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, uint64_t offset,
			       struct pvclock_reason *reason);
/*
 * Somebody else set this vCPU's TSC or its rate (the VMM, through KVM_SET_MSRS or KVM_SET_TSC_KHZ): reads back what holds
 * now. 0, -ENOENT, -errno.
 */
int pvclock_kvm_follow_tsc(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu);

/* What an event did to the clock. */
struct pvclock_correction {
	/*
	 * The guest's clock minus the line it should follow, right after: 0 in own mode, 0 or 1 in steer mode; where a freeze had
	 * to write TSC offsets, KVM's snapshot at the next entry then moves it by up to 1 either way. Not known, and 0, where
	 * resume returned -ENOTSUP.
	 */
	int64_t residual_ns;
	/*
	 * This host's own line had become another, and the guest ran on by its old one: how far off its clock was when that was noticed.
	 * What it was behind is made up; what it was ahead it keeps. 0 where the guest's page was made right before (pvclock/parent.h).
	 */
	int64_t off_ns;
	int64_t moved_ticks;    /* how far the line moved to follow a TSC whose offset could not be set */
	uint64_t counted_ns, uncounted_ns; /* of the blackout, by the policy */
	uint64_t error_ns;      /* the blackout was so long to this; PVCLOCK_ERROR_UNKNOWN: not known */
	enum pvclock_cause cause;
	unsigned int tries;     /* steer mode: KVM_SET_CLOCK calls */
	uint64_t elapsed_ns;    /* what the correction itself took */
};

/*
 * Lets KVM do now what it postpones to a vCPU's first entry. After vCPUs were created or their TSC offsets were set,
 * that is a new snapshot of its master clock, which would move a clock that was aimed before it by up to 1 ns. Steer
 * mode needs it once for every vCPU, after pvclock_kvm_restore and before pvclock_kvm_resume; in the other modes it
 * does nothing. Call it from the thread that will run the vCPU (another one costs the kernel a grace period), with
 * immediate_exit 0; KVM_SET_SIGNAL_MASK is unset afterwards. No guest instruction runs. Also between the pause and the
 * resume after a sleep of the host. KVM then writes the vCPU's page, with its clock as it is: so settle once more after
 * the resume, before any vCPU runs, as one may read another's page.
 */
int pvclock_kvm_settle(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu);

/*
 * Around a blackout. pause: all vCPUs out of guest mode. resume: before the first one runs. What the guest's TSC and clock
 * count of it is the VM's policy (pvclock_vm_set_policy): to freeze them, the TSC offsets are set back, and pending TSC
 * deadlines written again; where KVM ignores offsets, the line moves instead. Own mode republishes;
 * steer mode aims the kernel's clock at the line the guest saw before; stock mode does as QEMU does: KVM_GET_CLOCK at
 * the pause, KVM_SET_CLOCK with flags 0 at the resume, KVM_KVMCLOCK_CTRL. *correction and *reason may be NULL.
 * -ERANGE: steering ended outside 1 ns, or KVM's slope is not the line's; -ENOTSUP: KVM's clock cannot be aimed. In
 * both the guest can run, and the reason says how far off. 0 where there is no line yet.
 */
int pvclock_kvm_pause(struct pvclock_kvm *kvm);
int pvclock_kvm_resume(struct pvclock_kvm *kvm, struct pvclock_correction *correction, struct pvclock_reason *reason);

/*
 * Whether the host has slept since the last pause or resume, or since it was attached; or its own clock has become another
 * that the VM does not follow yet (pvclock_kvm_watch, pvclock/parent.h). Linux interrupts KVM_RUN for its sleep, and returns
 * when it is awake again: so each vCPU's thread asks before each KVM_RUN (pvclock_kvm_enter), and where the answer is yes
 * nobody enters before the VMM has paused and resumed. That does what the policy says of a suspend, whatever blackout it was
 * found in, and tells the guest. Two reads of clocks; any thread.
 */
bool pvclock_kvm_slept(struct pvclock_kvm *kvm);

/*
 * KVM_RUN, unless pvclock_kvm_slept would say so: the same question, and no window between it and the entry
 * (docs/spec/suspend.md says how). 0 or -errno; -ESTALE: it has. By the thread that runs this vCPU.
 */
int pvclock_kvm_enter(struct pvclock_kvm *kvm, int vcpu_fd);

/*
 * What the blackout is that began with the last pause, where it is not a plain one; the policy has a word for each. Until
 * the next resume. Without this a pause is a pause, and a restore what pvclock_kvm_restore was told.
 */
void pvclock_kvm_blackout(struct pvclock_kvm *kvm, enum pvclock_blackout blackout);

/*
 * Save, in every mode, with the record's own errors: between pause and resume, each vCPU's local APIC as it is (a pending
 * TSC deadline is read from it).
 */
int pvclock_kvm_save(struct pvclock_kvm *kvm, struct pvclock_record *record);

/* This host, as pvclock_plan_make wants it; `host`: its own slope, or mantissa 0 and *no_line says why it has none. */
int pvclock_kvm_destination(const struct pvclock_os *os, const struct pvclock_kvm_capabilities *capabilities,
			    enum pvclock_mode mode, const struct pvclock_slope *host, const struct pvclock_reason *no_line,
			    struct pvclock_destination *destination);

/*
 * Gives a VM that was not started, whose vCPUs have their local APIC's registers, the record's clock, by the plan that
 * pvclock_plan_make makes of it for this host now, with its errors: the VM is then as it was. `host`: this host's own
 * slope; NULL: the record's, for a live update. The VM's first vCPUs are the record's, by their index; further ones, that
 * the record does not know, get the first one's TSC. *plan (may be NULL) says what was decided. 0, with a reason where a TSC
 * offset was not honoured and the line followed. -ENOTSUP in stock mode for all but a live update.
 */
int pvclock_kvm_restore(struct pvclock_kvm *kvm, const struct pvclock_record *record, enum pvclock_blackout blackout,
			const struct pvclock_slope *host, struct pvclock_plan *plan, struct pvclock_reason *reason);

/* --- a host that is a guest -------------------------------------------------------------------------- */

/*
 * Own mode: from now on pvclock_kvm_enter looks at the page by which this machine itself keeps time (pvclock_source_state.from;
 * of SAMPLES there is none, and nothing is watched), by one load. Where its hypervisor has made it another function of the TSC,
 * as when it moved this machine to another host, -ESTALE says so as after a sleep: the VMM pauses and resumes, and either makes
 * the guests' lines follow, at the distance from this machine's clock that they had, and never backwards. Until the next exit a
 * guest runs by the old one. Of a VM whose parent tells it (pvclock/parent.h) no page is looked at: it follows the parent, in the
 * same way, and what is measured by this machine's TSC and the TSC deadlines that its vCPUs have armed are brought to the new line, too.
 * One that was told too late to follow is declared unstable, with the reason. 0; -ENOTSUP: another mode, or no such page;
 * -EAGAIN: the page says nothing just now.
 */
int pvclock_kvm_watch(struct pvclock_kvm *kvm, enum pvclock_source_from from);

/* --- one vCPU's clock as a structure ------------------------------------------------------------- */

/*
 * What the proposed KVM_GET_CLOCK_GUEST and KVM_SET_CLOCK_GUEST mean, whether the kernel has them or not, between pause and resume.
 * The clock is what a vCPU's page holds: arithmetic on its TSC, the same tomorrow and, with the TSC, elsewhere.
 *
 * get: of a vCPU that registered no page, what its page would hold; version and GUEST_STOPPED are 0. set: from the resume on the
 * clock reads at every TSC what `clock` says of it, for all vCPUs, by their TSC offsets. Give the vCPUs their TSCs first. Where
 * the rate differs by up to 1 kHz, as two kernels' accounts of one TSC do, the clock goes on from now with the rate that
 * holds here. Own mode keeps it bit for bit, steer mode within 1 ns at the resume.
 *
 * 0; -ENOTSUP with the reason where the clock is no such function (no line; in steer and stock mode, no master clock): use
 * the legacy form; -EINVAL with a reason: padding that is not 0, no valid multiplier and shift, or a TSC that the vCPU's has
 * not reached; -ERANGE: another rate.
 */
int pvclock_kvm_get_clock_guest(struct pvclock_kvm *kvm, const struct pvclock_vcpu *vcpu, struct pvclock_page *clock,
				struct pvclock_reason *reason);
int pvclock_kvm_set_clock_guest(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, const struct pvclock_page *clock,
				struct pvclock_reason *reason);

/* --- a VM whose state came by other ways than a record ------------------------------------------ */

/* A vCPU's counter as it was saved: IA32_TSC; and IA32_TSC_DEADLINE, 0: none is armed. */
struct pvclock_arrival_tsc {
	struct pvclock_vcpu *vcpu;
	uint64_t tsc, deadline;
};

/*
 * The VMM has its own format for snapshots and migrations. What it carries anyway is enough: guest memory with the clock's
 * page in it, and each vCPU's IA32_TSC, all of them as of one instant, the *switch*.
 */
struct pvclock_arrival {
	const struct pvclock_slope *host;       /* this host's own slope */
	const struct pvclock_arrival_tsc *tscs; /* at the switch; the first one is the line's. Others run on as they are. */
	size_t tsc_count;                       /* at least 1 */
	struct pvclock_line line;               /* as the first one read it, from its page; mul 0: not known */
	struct pvclock_hyperv_snapshot hyperv;  /* what its guest's TSC page says; scale 0: it has none */
	uint64_t ns;                            /* the VMM's own account of the clock at the switch; UINT64_MAX: none */
	struct pvclock_host_tsc at;             /* the switch, by this host's TSC; 0: now */
	bool kvm_has_deadlines;                 /* a deadline of 0 in tscs says nothing: KVM was given it already, if there is one */
};

struct pvclock_arrived {
	bool exact;              /* the guest's clock is the same function of its TSC as before */
	bool line_used;          /* false: the page was not believed, or not known; the clock goes on from `ns` */
	int64_t rate_difference; /* the new slope against the old one, in units of 2^-64 (pvclock_slope_difference) */
	int64_t apart_ns;        /* `ns` minus what the line said at the switch */
};

/*
 * Between pause and resume; pauses a VM that is not. The counters read what they were saved as, from the switch on: the
 * blackout is not counted. Where this host runs the guest's TSC at the line's rate, the line stays as it is, bit for bit; else it
 * is continued at the switch with this host's rate, without a jump. A line that is more than an hour from `ns` there is not
 * believed: its page lies in the guest's hands, and may long be something else. Armed TSC deadlines are armed again, for the
 * same time by the clock. MSRs come by pvclock_vcpu_restore_msr. 0, with a reason where a TSC offset was not honoured or
 * the line not believed; -EINVAL: no counter, no slope, or neither line nor ns; -ENOTSUP: stock mode keeps no function;
 * -errno: what KVM said.
 */
int pvclock_kvm_arrive(struct pvclock_kvm *kvm, const struct pvclock_arrival *arrival, struct pvclock_arrived *arrived,
		       struct pvclock_reason *reason);

#ifdef __cplusplus
}
#endif
#endif
