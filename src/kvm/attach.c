/* SPDX-License-Identifier: MIT */
/* attach.c - a VM on KVM: picks the mode, keeps the vCPUs' descriptors, and forwards every event to the mode. */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>
#include <stdlib.h>

const char *pvclock_mode_name(enum pvclock_mode mode)
{
	switch (mode) {
	case PVCLOCK_MODE_OWN:
		return "own";
	case PVCLOCK_MODE_STEER:
		return "steer";
	case PVCLOCK_MODE_STOCK:
		return "stock";
	case PVCLOCK_MODE_AUTO:
	default:
		return "auto";
	}
}

static int try_mode(struct pvclock_kvm *kvm, const struct kvm_mode *mode, const struct pvclock_kvm_config *config,
		    struct pvclock_reason *reason)
{
	kvm->mode = mode;
	return mode->attach ? mode->attach(kvm, config, reason) : 0;
}

int pvclock_kvm_attach(const struct pvclock_kvm_config *config, struct pvclock_kvm **out, struct pvclock_reason *reason)
{
	struct pvclock_kvm *kvm = calloc(1, sizeof(*kvm));
	int error;

	pvclock_reason_clear(reason);
	if (!kvm)
		return -ENOMEM;
	kvm->os = config->os;
	kvm->vm = config->vm;
	kvm->vm_fd = config->vm_fd;
	switch (config->mode) {
	case PVCLOCK_MODE_AUTO:
		error = try_mode(kvm, &kvm_mode_own, config, reason);
		if (error) /* the reason stays: it says why this is steer mode */
			error = try_mode(kvm, &kvm_mode_steer, config, NULL);
		break;
	case PVCLOCK_MODE_OWN:
		error = try_mode(kvm, &kvm_mode_own, config, reason);
		break;
	case PVCLOCK_MODE_STEER:
		error = try_mode(kvm, &kvm_mode_steer, config, reason);
		break;
	case PVCLOCK_MODE_STOCK:
		error = try_mode(kvm, &kvm_mode_stock, config, reason);
		break;
	default:
		error = -EINVAL;
	}
	if (error) {
		free(kvm);
		return error;
	}
	*out = kvm;
	return 0;
}

void pvclock_kvm_detach(struct pvclock_kvm *kvm)
{
	if (!kvm)
		return;
	if (kvm->mode->detach)
		kvm->mode->detach(kvm);
	free(kvm->vcpus);
	free(kvm);
}

enum pvclock_mode pvclock_kvm_mode(const struct pvclock_kvm *kvm)
{
	return kvm->mode->mode;
}

int pvclock_kvm_add_vcpu(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, int vcpu_fd)
{
	struct kvm_vcpu *vcpus = realloc(kvm->vcpus, (kvm->vcpu_count + 1) * sizeof(*vcpus));
	int error;

	if (!vcpus)
		return -ENOMEM;
	kvm->vcpus = vcpus;
	vcpus[kvm->vcpu_count] = (struct kvm_vcpu){ .vcpu = vcpu, .fd = vcpu_fd };
	error = kvm_read_tsc(kvm, &vcpus[kvm->vcpu_count], kvm->host.mantissa ? &kvm->host : NULL);
	if (error == 0)
		kvm->vcpu_count++;
	return error;
}

const struct kvm_vcpu *kvm_find_vcpu(const struct pvclock_kvm *kvm, uint32_t index)
{
	size_t i;

	for (i = 0; i < kvm->vcpu_count; i++) {
		if (pvclock_vcpu_index(kvm->vcpus[i].vcpu) == index)
			return &kvm->vcpus[i];
	}
	return NULL;
}

void pvclock_kvm_remove_vcpu(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu)
{
	size_t i;

	for (i = 0; i < kvm->vcpu_count; i++) {
		if (kvm->vcpus[i].vcpu != vcpu)
			continue;
		for (; i + 1 < kvm->vcpu_count; i++)
			kvm->vcpus[i] = kvm->vcpus[i + 1];
		kvm->vcpu_count--;
	}
}

static int read_tscs(struct pvclock_kvm *kvm, const struct pvclock_slope *host)
{
	int error = 0;
	size_t i;

	for (i = 0; error == 0 && i < kvm->vcpu_count; i++)
		error = kvm_read_tsc(kvm, &kvm->vcpus[i], host);
	return error;
}

int pvclock_kvm_start(struct pvclock_kvm *kvm, const struct pvclock_slope *host)
{
	struct pvclock_line line;
	int error;

	if (!(host->mantissa >> 63) || !pvclock_line_make(&line, 0, 0, host, NULL))
		return -EINVAL;
	kvm->last = kvm->os->ops->read_tsc(kvm->os->ctx);
	error = read_tscs(kvm, host); /* again: only now is the host's rate known, against which theirs is judged */
	if (error)
		return error;
	kvm->host = *host;
	return kvm->mode->start ? kvm->mode->start(kvm, host) : 0;
}

int pvclock_kvm_handle_exit(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, struct kvm_run *run)
{
	if (run->exit_reason != KVM_EXIT_X86_WRMSR && run->exit_reason != KVM_EXIT_X86_RDMSR)
		return 0;
	return kvm->mode->handle_msr ? kvm->mode->handle_msr(kvm, vcpu, run) : 0;
}

/* --- events ------------------------------------------------------------------------------ */

static uint64_t now_ns(const struct pvclock_kvm *kvm)
{
	struct timespec now = { 0 };

	kvm->os->ops->clock_gettime(kvm->os->ctx, CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/*
 * The TSCs as they are now. An offset that changed is the guest's doing, and moves its counter. But where the host's TSC was reset (some
 * hosts' suspend), KVM has changed the offsets so that the guests' TSCs go on: then the coordinates follow, and the line stays.
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
		error = kvm_follow_tsc(kvm, &kvm->vcpus[i]);
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

/* KVM does what it postponed only for a vCPU that could run: one that waits or was never started is lent that state. */
static int settle(const struct pvclock_kvm *kvm, int vcpu_fd)
{
	struct kvm_mp_state saved, runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	int error = kvm_ioctl(kvm, vcpu_fd, KVM_GET_MP_STATE, &saved), restored;
	bool lend = error >= 0 && saved.mp_state != KVM_MP_STATE_RUNNABLE;

	if (lend)
		error = kvm_ioctl(kvm, vcpu_fd, KVM_SET_MP_STATE, &runnable);
	if (error < 0)
		return error;
	error = kvm->os->ops->run_interrupted(kvm->os->ctx, vcpu_fd);
	if (!lend)
		return error;
	restored = kvm_ioctl(kvm, vcpu_fd, KVM_SET_MP_STATE, &saved);
	return error ? error : restored < 0 ? restored : 0;
}

int pvclock_kvm_settle(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu)
{
	const struct kvm_vcpu *found = kvm_find_vcpu(kvm, pvclock_vcpu_index(vcpu));

	if (kvm->mode->mode != PVCLOCK_MODE_STEER)
		return 0;
	return found ? settle(kvm, found->fd) : -ENOENT;
}

int pvclock_kvm_save(struct pvclock_kvm *kvm, struct pvclock_record *record)
{
	int error = pvclock_record_capture(kvm->vm, record);

	if (error)
		return error;
	if (kvm->host.mantissa)
		record->host = kvm->host;
	if (kvm->mode->save)
		error = kvm->mode->save(kvm, record);
	if (error)
		pvclock_record_clear(record);
	return error;
}

/* What can be refused is refused here, with nothing changed. */
static int check_restore(struct pvclock_kvm *kvm, const struct pvclock_record *record, struct pvclock_reason *reason)
{
	uint32_t i;

	if (kvm->os->ops->read_tsc(kvm->os->ctx).ticks < record->at.ticks) {
		pvclock_reason_set(reason, PVCLOCK_REASON_OTHER_HOST,
				   "The record was saved at host TSC %llu, which this host has not reached: it is of another host or "
				   "another boot; restore it there.", (unsigned long long)record->at.ticks);
		return -EINVAL;
	}
	for (i = 0; i < record->vcpu_count; i++) {
		if (kvm_find_vcpu(kvm, record->vcpus[i].index))
			continue;
		pvclock_reason_set(reason, PVCLOCK_REASON_VCPU_COUNT,
				   "The record holds vCPU %u, which was not given to pvclock_kvm_add_vcpu.",
				   record->vcpus[i].index);
		return -EINVAL;
	}
	return 0;
}

/*
 * A write, even of the offset that holds, makes KVM judge its master clock anew, and vCPUs match only if all were written alike: all or none.
 * An offset that KVM does not honour is declared in the reason; the vCPU's line has followed.
 */
static int restore_offsets(struct pvclock_kvm *kvm, const struct pvclock_record *record, struct pvclock_reason *reason)
{
	struct pvclock_tsc_transform tsc;
	bool hold = true;
	uint32_t i;
	int error;

	for (i = 0; i < record->vcpu_count; i++) {
		pvclock_vcpu_get_tsc(kvm_find_vcpu(kvm, record->vcpus[i].index)->vcpu, &tsc);
		hold = hold && tsc.offset == record->vcpus[i].tsc.offset;
	}
	for (i = 0; !hold && i < record->vcpu_count; i++) {
		struct pvclock_reason declared;

		error = pvclock_kvm_set_tsc_offset(kvm, kvm_find_vcpu(kvm, record->vcpus[i].index)->vcpu,
						   record->vcpus[i].tsc.offset, &declared);
		if (error == -EOPNOTSUPP && reason && reason->code == PVCLOCK_REASON_NONE)
			*reason = declared;
		if (error && error != -EOPNOTSUPP)
			return error;
	}
	pvclock_vcpu_get_tsc(kvm_find_vcpu(kvm, record->vcpus[0].index)->vcpu, &tsc);
	kvm->moved_ticks = (int64_t)(tsc.offset - record->vcpus[0].tsc.offset);
	return 0;
}

int pvclock_kvm_restore(struct pvclock_kvm *kvm, const struct pvclock_record *record, struct pvclock_reason *reason)
{
	int paused = pvclock_vm_pause(kvm->vm), error;

	pvclock_reason_clear(reason);
	error = check_restore(kvm, record, reason);
	if (error == 0)
		error = read_tscs(kvm, &record->host);
	if (error == 0)
		error = pvclock_record_apply(record, kvm->vm, NULL, reason);
	if (error) {
		if (paused == 0)
			pvclock_vm_resume(kvm->vm);
		return error;
	}
	kvm->host = record->host;
	kvm->last = kvm->os->ops->read_tsc(kvm->os->ctx);
	kvm->from_page = false;
	error = restore_offsets(kvm, record, reason);
	if (error == 0 && kvm->mode->restore)
		error = kvm->mode->restore(kvm, record, reason);
	if (error && reason && reason->code == PVCLOCK_REASON_NONE)
		pvclock_reason_set(reason, PVCLOCK_REASON_OS, "KVM did not take the clock's state (error %d).", -error);
	return error;
}
