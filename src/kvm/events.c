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
static int follow_tscs(struct pvclock_kvm *kvm)
{
	struct pvclock_host_tsc now = kvm->os->ops->read_tsc(kvm->os->ctx);
	bool reset = now.ticks < kvm->last.ticks;
	struct pvclock_tsc_transform before, after;
	int error = 0;
	size_t i;

	kvm->last = now;
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

int pvclock_kvm_pause(struct pvclock_kvm *kvm)
{
	int error = pvclock_vm_pause(kvm->vm);

	if (error)
		return error;
	error = follow_tscs(kvm);
	if (error == 0 && kvm->mode->pause)
		error = kvm->mode->pause(kvm);
	kvm->held = error == 0;
	if (error) /* not paused by halves */
		pvclock_vm_resume(kvm->vm);
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
	if (error == 0)
		error = pvclock_kvm_arrive(kvm, &arrival, NULL, reason);
	kvm->moved_ticks += moved;
	free(tscs);
	return error;
}

/*
 * What the policy says about the time since the blackout began, or since a restore has dealt with what was before. The TSC
 * and the clock count it by themselves: what is not to be counted is taken back.
 */
int pvclock_kvm_pass_time(struct pvclock_kvm *kvm, struct pvclock_reason *reason)
{
	struct pvclock_host_tsc now = kvm->os->ops->read_tsc(kvm->os->ctx), then = kvm->last;
	struct pvclock_policy policy;
	struct pvclock_line line;
	uint64_t ns, allowed;
	int error = 0;

	if (kvm->held && now.ticks < then.ticks) /* reset in between: KVM lets the guests' go on from where they were */
		return follow_tscs(kvm);
	if (!kvm->held || kvm->vcpu_count == 0 || !host_line(kvm, &line))
		return 0; /* there is no clock yet */
	pvclock_vm_get_policy(kvm->vm, &policy);
	ns = pvclock_line_ns(&line, now.ticks - then.ticks);
	allowed = policy.advance_max_ns > kvm->counted_ns ? policy.advance_max_ns - kvm->counted_ns : 0;
	if (policy.on[kvm->blackout] == PVCLOCK_FREEZE)
		allowed = 0;
	if (ns > allowed && kvm->mode->slope) {
		then.ticks += ns_to_ticks(&line, allowed);
		error = set_back(kvm, then, now, reason);
		if (error == -ENODATA) /* no line yet: nobody has read it */
			return 0;
	}
	kvm->counted_ns += ns < allowed ? ns : allowed;
	kvm->uncounted_ns += ns < allowed ? 0 : ns - allowed;
	kvm->last = now;
	return error;
}

static void tell(struct pvclock_kvm *kvm, struct pvclock_correction *correction)
{
	uint64_t residual = (uint64_t)(correction->residual_ns < 0 ? -correction->residual_ns : correction->residual_ns);
	struct pvclock_account account = {
		.blackouts = 1,
		.counted_ns = correction->counted_ns = kvm->counted_ns,
		.uncounted_ns = correction->uncounted_ns = kvm->uncounted_ns,
		.residual_ns_max = residual,
		.moved_ticks = correction->moved_ticks = kvm->moved_ticks,
	};

	pvclock_vm_count(kvm->vm, &account);
	kvm->moved_ticks = 0;
	kvm->counted_ns = kvm->uncounted_ns = 0;
	kvm->blackout = PVCLOCK_BLACKOUT_PAUSE;
	kvm->held = false;
}

int pvclock_kvm_resume(struct pvclock_kvm *kvm, struct pvclock_correction *correction, struct pvclock_reason *reason)
{
	struct pvclock_correction unused, *into = correction ? correction : &unused;
	uint64_t begun = now_ns(kvm);
	int error;

	pvclock_reason_clear(reason);
	*into = (struct pvclock_correction){ 0 };
	error = pvclock_kvm_pass_time(kvm, reason);
	if (error)
		return error;
	error = kvm->mode->resume(kvm, into, reason);
	tell(kvm, into);
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
