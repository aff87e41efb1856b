/* SPDX-License-Identifier: MIT */
/* events.c - pause and resume: what happens to every mode alike, around what the mode does itself. */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>
#include <stdlib.h>

static uint64_t now_ns(const struct pvclock_kvm *kvm)
{
	struct timespec now = { 0 };

	kvm->os->ops->clock_gettime(kvm->os->ctx, CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/*
 * The TSCs as they are now. An offset that changed is the guest's doing, and moves its counter. But where the host's
 * TSC was reset (some hosts' suspend), KVM has changed the offsets so that the guests' TSCs go on: then the
 * coordinates follow, and the line stays.
 */
static int follow_tscs(struct pvclock_kvm *kvm, bool reset)
{
	struct pvclock_tsc_transform before, after;
	int error = 0;
	size_t i;

	if (kvm->vcpu_count == 0)
		return 0;
	pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &before);
	for (i = 0; error == 0 && i < kvm->vcpu_count; i++)
		error = pvclock_kvm_reread_offset(kvm, &kvm->vcpus[i]);
	pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &after);
	if (error == 0 && reset)
		pvclock_vm_move_reference(kvm->vm, after.offset - before.offset);
	return error;
}

void pvclock_kvm_blackout(struct pvclock_kvm *kvm, enum pvclock_blackout blackout)
{
	kvm->blackout = blackout;
}

/* ns by ticks of this host's TSC. False: its slope is not known. */
static bool host_line(const struct pvclock_kvm *kvm, struct pvclock_line *line)
{
	return pvclock_line_make(line, 0, 0, &kvm->host, NULL);
}

static uint64_t ns_to_ticks(const struct pvclock_line *line, uint64_t ns)
{
	struct pvclock_inverse inverse;
	uint64_t ticks;

	pvclock_inverse_make(&inverse, line);
	return pvclock_first_tick(&inverse, ns, &ticks) ? ticks : UINT64_MAX;
}

/* A line that was followed in this blackout begins in it: before its anchor it says no more than there. */
static void reach_back(struct pvclock_line *line, uint64_t ticks)
{
	struct pvclock_line begun = { .mul = line->mul, .shift = line->shift };
	uint64_t ns = ticks < line->tsc ? pvclock_line_ns(&begun, line->tsc - ticks) : 0;

	if (ns == 0 || ns > line->ns)
		return;
	line->tsc = ticks;
	line->ns -= ns;
}

/* The VM as it was when the host's TSC read `then`, arriving now. */
static int set_back(struct pvclock_kvm *kvm, struct pvclock_host_tsc then, struct pvclock_host_tsc now, struct pvclock_reason *reason)
{
	struct pvclock_arrival arrival = { .host = &kvm->host, .ns = UINT64_MAX, .at = now, .kvm_has_deadlines = true };
	struct pvclock_arrival_tsc *tscs = calloc(kvm->vcpu_count, sizeof(*tscs));
	struct pvclock_tsc_transform tsc;
	int64_t moved = kvm->moved_ticks;
	int error;

	if (!tscs)
		return -ENOMEM;
	for (size_t i = 0; i < kvm->vcpu_count; i++) {
		pvclock_vcpu_get_tsc(kvm->vcpus[i].vcpu, &tsc);
		tscs[i] = (struct pvclock_arrival_tsc){ .vcpu = kvm->vcpus[i].vcpu, .tsc = pvclock_tsc_to_guest(&tsc, then).ticks };
	}
	arrival.tscs = tscs;
	arrival.tsc_count = kvm->vcpu_count;
	kvm->moved_ticks = 0; /* an arrival that is refused moves nothing */
	error = pvclock_vcpu_get_line(kvm->vcpus[0].vcpu, &arrival.line);
	if (error == 0 && kvm->followed)
		reach_back(&arrival.line, tscs[0].tsc);
	if (error == 0)
		error = pvclock_kvm_arrive_again(kvm, &arrival, NULL, reason);
	kvm->moved_ticks += moved;
	free(tscs);
	return error;
}

/* Of some time, what a policy counts: no more than is left of its bound. */
static uint64_t allow(struct pvclock_kvm *kvm, const struct pvclock_policy *policy, enum pvclock_blackout blackout, uint64_t ns)
{
	uint64_t left = policy->advance_max_ns > kvm->counted_ns ? policy->advance_max_ns - kvm->counted_ns : 0;
	uint64_t allowed = policy->on[blackout] == PVCLOCK_FREEZE ? 0 : ns < left ? ns : left;

	kvm->counted_ns += allowed;
	kvm->uncounted_ns += ns - allowed;
	return allowed;
}

/*
 * What the policy says about the time since the blackout began, or since a restore has dealt with what was before; and
 * about the host's sleep, which may have been before the blackout: who stops a guest because its host slept does so
 * afterwards. The TSC and the clock count it by themselves: what is not to be counted is taken back, and what they
 * missed is added.
 */
int pvclock_kvm_pass_time(struct pvclock_kvm *kvm, struct pvclock_reason *reason)
{
	struct pvclock_host_tsc now, then = kvm->last;
	struct pvclock_policy policy;
	struct pvclock_line line;
	struct kvm_look look;
	uint64_t awake, allowed;
	int64_t surplus;
	bool differs;
	int error = 0;

	if (!kvm->held || kvm->vcpu_count == 0 || !host_line(kvm, &line))
		return 0; /* there is no clock yet */
	pvclock_kvm_look(kvm, &look);
	if (look.reset) /* in between: KVM lets the guests' go on from where they were */
		error = follow_tscs(kvm, true);
	if (error)
		return error;
	pvclock_kvm_measure_sleep(kvm, &look);
	now = kvm->os->ops->read_tsc(kvm->os->ctx);
	/* the mark was taken with `last`, and the host's own clock says how long it was awake since */
	awake = look.slept ? look.raw_ns + pvclock_line_ns(&line, now.ticks - look.now.at.ticks) : pvclock_line_ns(&line, now.ticks - then.ticks);
	pvclock_vm_get_policy(kvm->vm, &policy);
	allowed = allow(kvm, &policy, kvm->blackout, awake);
	differs = kvm->unpassed || awake > allowed;
	if (!kvm->unpassed) {
		then.ticks += ns_to_ticks(&line, allowed);
	} else {
		surplus = kvm->surplus_ns - (int64_t)allow(kvm, &policy, PVCLOCK_BLACKOUT_SUSPEND, kvm->slept_ns) + (int64_t)(awake - allowed);
		then.ticks = now.ticks - (uint64_t)(surplus < 0 ? -(int64_t)ns_to_ticks(&line, (uint64_t)-surplus)
								: (int64_t)ns_to_ticks(&line, (uint64_t)surplus));
	}
	kvm->slept |= kvm->slept_ns != 0;
	kvm->unpassed = false;
	kvm->slept_ns = 0;
	kvm->surplus_ns = 0;
	if (differs && kvm->mode->slope)
		error = set_back(kvm, then, now, reason);
	if (error == -ENODATA) /* no line yet: nobody has read it */
		return 0;
	kvm->last = now;
	return error;
}

static enum pvclock_cause cause_of(const struct pvclock_kvm *kvm)
{
	static const enum pvclock_cause causes[PVCLOCK_BLACKOUT_COUNT] = {
		[PVCLOCK_BLACKOUT_PAUSE] = PVCLOCK_CAUSE_PAUSE,
		[PVCLOCK_BLACKOUT_LIVE_UPDATE] = PVCLOCK_CAUSE_LIVE_UPDATE,
		[PVCLOCK_BLACKOUT_MIGRATION] = PVCLOCK_CAUSE_MIGRATION,
		[PVCLOCK_BLACKOUT_SNAPSHOT] = PVCLOCK_CAUSE_SNAPSHOT,
		[PVCLOCK_BLACKOUT_SUSPEND] = PVCLOCK_CAUSE_SUSPEND,
	};

	return kvm->slept && kvm->blackout == PVCLOCK_BLACKOUT_PAUSE ? PVCLOCK_CAUSE_SUSPEND : causes[kvm->blackout];
}

/* As one of the guest's control MSRs wants it; 0 wants none. */
static void interrupt(struct pvclock_kvm *kvm, uint64_t control)
{
	if (control & PVCLOCK_CONTROL_ENABLE)
		pvclock_kvm_interrupt(kvm, (uint32_t)(control >> PVCLOCK_CONTROL_TARGET_SHIFT), (uint8_t)control);
}

/*
 * To the caller, to the account, and to the guest if it asked for that: in memory, and then by an interrupt. No vCPU
 * has run yet.
 */
static void tell(struct pvclock_kvm *kvm, struct pvclock_correction *correction)
{
	uint64_t residual = (uint64_t)(correction->residual_ns < 0 ? -correction->residual_ns : correction->residual_ns);
	struct pvclock_account account = {
		.blackouts = 1,
		.counted_ns = correction->counted_ns = kvm->counted_ns,
		.uncounted_ns = correction->uncounted_ns = kvm->uncounted_ns,
		.residual_ns_max = residual,
		.moved_ticks = correction->moved_ticks = kvm->moved_ticks,
		.error_ns = correction->error_ns = kvm->error_ns,
	};

	correction->cause = cause_of(kvm);
	correction->off_ns = kvm->off_ns;
	pvclock_vm_count(kvm->vm, &account);
	interrupt(kvm, pvclock_vm_tell(kvm->vm, correction->cause, kvm->counted_ns + kvm->uncounted_ns));
	interrupt(kvm, pvclock_vm_take_nested(kvm->vm));
	interrupt(kvm, pvclock_vm_take_reenlightenment(kvm->vm));
	kvm->moved_ticks = kvm->off_ns = 0;
	kvm->counted_ns = kvm->uncounted_ns = kvm->error_ns = 0;
	kvm->blackout = PVCLOCK_BLACKOUT_PAUSE;
	kvm->held = kvm->slept = kvm->loaded = kvm->came_by_record = kvm->followed = false;
}

/*
 * What the engine is to tell the guest of its counter (VMClock), and cannot see in it: it is another host's, or was, or
 * the host's stood still. After a live update it is the same one, unless the policy or KVM made another of it.
 */
static void say_disruption(const struct pvclock_kvm *kvm)
{
	struct pvclock_tsc_transform now;
	bool same = false;

	if (kvm->loaded && kvm->came_by_record && kvm->vcpu_count > 0 && kvm->blackout == PVCLOCK_BLACKOUT_LIVE_UPDATE) {
		pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &now);
		same = now.offset == kvm->came_with.offset && now.ratio == kvm->came_with.ratio && now.frac_bits == kvm->came_with.frac_bits;
	}
	if (kvm->slept || (kvm->loaded && !same))
		pvclock_vm_disrupt(kvm->vm, kvm->loaded && kvm->blackout == PVCLOCK_BLACKOUT_SNAPSHOT);
}

int pvclock_kvm_pause(struct pvclock_kvm *kvm)
{
	int error = pvclock_vm_pause(kvm->vm);
	struct kvm_look look;

	if (error)
		return error;
	pvclock_kvm_drain_deadlines(kvm);
	error = pvclock_kvm_follow_host(kvm); /* first: all that follows is measured by this machine's TSC */
	pvclock_kvm_look(kvm, &look);
	kvm->last = look.now.at;
	if (error == 0)
		error = follow_tscs(kvm, look.reset);
	if (error == 0)
		pvclock_kvm_measure_sleep(kvm, &look);
	if (error == 0 && kvm->mode->pause)
		error = kvm->mode->pause(kvm);
	kvm->held = error == 0;
	if (error == 0 && kvm->unpassed) /* before steer mode's settling: it writes TSC offsets */
		error = pvclock_kvm_pass_time(kvm, NULL);
	if (error) { /* not paused by halves */
		pvclock_vm_resume(kvm->vm);
		pvclock_kvm_resume_deadlines(kvm);
	}
	return error;
}

int pvclock_kvm_resume(struct pvclock_kvm *kvm, struct pvclock_correction *correction, struct pvclock_reason *reason)
{
	struct pvclock_correction unused, *into = correction ? correction : &unused;
	uint64_t begun = now_ns(kvm);
	int error;

	pvclock_reason_clear(reason);
	*into = (struct pvclock_correction){ 0 };
	error = pvclock_kvm_follow_host(kvm);
	if (error == 0)
		error = pvclock_kvm_pass_time(kvm, reason);
	if (error)
		return error;
	say_disruption(kvm);
	error = kvm->mode->resume(kvm, into, reason);
	tell(kvm, into);
	pvclock_kvm_resume_deadlines(kvm);
	into->elapsed_ns = now_ns(kvm) - begun;
	return error;
}

/* On its way into the guest KVM has taken an interrupt from the APIC: a vCPU that was halted is not any more. */
static bool has_work(const struct pvclock_kvm *kvm, int vcpu_fd)
{
	struct kvm_vcpu_events events;

	if (kvm_ioctl(kvm, vcpu_fd, KVM_GET_VCPU_EVENTS, &events) < 0)
		return false;
	return events.interrupt.injected || events.nmi.injected || events.nmi.pending || events.exception.injected ||
	       events.exception.pending || events.smi.pending;
}

/* KVM does what it postponed only for a vCPU that could run: one that waits or was never started is lent that state. */
static int settle(const struct pvclock_kvm *kvm, int vcpu_fd)
{
	struct kvm_mp_state saved, now, runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	int error = kvm_ioctl(kvm, vcpu_fd, KVM_GET_MP_STATE, &saved), restored;
	bool lend = error >= 0 && saved.mp_state != KVM_MP_STATE_RUNNABLE;

	if (lend)
		error = kvm_ioctl(kvm, vcpu_fd, KVM_SET_MP_STATE, &runnable);
	if (error < 0)
		return error;
	error = kvm->os->ops->run_interrupted(kvm->os->ctx, vcpu_fd);
	if (!lend)
		return error;
	/* Another state than the one it was lent is KVM's own doing: an INIT that waited. */
	if (kvm_ioctl(kvm, vcpu_fd, KVM_GET_MP_STATE, &now) >= 0 && now.mp_state != KVM_MP_STATE_RUNNABLE)
		return error;
	if (saved.mp_state == KVM_MP_STATE_HALTED && has_work(kvm, vcpu_fd))
		return error;
	restored = kvm_ioctl(kvm, vcpu_fd, KVM_SET_MP_STATE, &saved);
	return error ? error : restored < 0 ? restored : 0;
}

int pvclock_kvm_settle(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu)
{
	const struct kvm_vcpu *found = pvclock_kvm_find_vcpu(kvm, pvclock_vcpu_index(vcpu));

	uint64_t deadline = 0;
	int error, armed;

	if (kvm->mode->mode != PVCLOCK_MODE_STEER)
		return 0;
	if (!found)
		return -ENOENT;
	/* On its way KVM would take a timer's interrupt by a clock that the resume may yet set back: it is armed afterwards. */
	if (pvclock_kvm_get_msr(kvm, found, MSR_IA32_TSC_DEADLINE, &deadline))
		deadline = 0;
	error = deadline ? pvclock_kvm_set_msr(kvm, found, MSR_IA32_TSC_DEADLINE, 0) : 0;
	if (error)
		return error;
	error = settle(kvm, found->fd);
	armed = deadline ? pvclock_kvm_set_msr(kvm, found, MSR_IA32_TSC_DEADLINE, deadline) : 0;
	return error ? error : armed;
}
