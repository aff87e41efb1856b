/* SPDX-License-Identifier: MIT */
/* events.c - pause and resume: what happens to every mode alike, around what the mode does itself. */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>

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
	if (error) /* not paused by halves */
		pvclock_vm_resume(kvm->vm);
	return error;
}

int pvclock_kvm_resume(struct pvclock_kvm *kvm, struct pvclock_correction *correction, struct pvclock_reason *reason)
{
	struct pvclock_correction unused, *into = correction ? correction : &unused;
	uint64_t begun = now_ns(kvm);
	int error;

	pvclock_reason_clear(reason);
	*into = (struct pvclock_correction){ .moved_ticks = kvm->moved_ticks };
	kvm->moved_ticks = 0;
	error = kvm->mode->resume(kvm, into, reason);
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

	if (kvm->mode->mode != PVCLOCK_MODE_STEER)
		return 0;
	return found ? settle(kvm, found->fd) : -ENOENT;
}
