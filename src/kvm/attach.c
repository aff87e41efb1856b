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

	if (!vcpus)
		return -ENOMEM;
	kvm->vcpus = vcpus;
	vcpus[kvm->vcpu_count] = (struct kvm_vcpu){ .vcpu = vcpu, .fd = vcpu_fd };
	return kvm_read_tsc(kvm, &vcpus[kvm->vcpu_count++], NULL);
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
	int error = read_tscs(kvm, host); /* again: only now is the host's rate known, against which theirs is judged */

	if (error)
		return error;
	kvm->host = *host;
	return kvm->mode->start ? kvm->mode->start(kvm, host) : 0;
}

int pvclock_kvm_handle_exit(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, struct kvm_run *run)
{
	if (run->exit_reason != KVM_EXIT_X86_WRMSR && run->exit_reason != KVM_EXIT_X86_RDMSR)
		return 0;
	return kvm->mode->handle_msr ? kvm->mode->handle_msr(vcpu, run) : 0;
}

/* --- events ------------------------------------------------------------------------------ */

static uint64_t now_ns(const struct pvclock_kvm *kvm)
{
	struct timespec now = { 0 };

	kvm->os->ops->clock_gettime(kvm->os->ctx, CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int pvclock_kvm_pause(struct pvclock_kvm *kvm)
{
	int error = pvclock_vm_pause(kvm->vm);
	size_t i;

	for (i = 0; error == 0 && i < kvm->vcpu_count; i++)
		error = kvm_follow_tsc(kvm, &kvm->vcpus[i]);
	if (error)
		return error;
	return kvm->mode->pause ? kvm->mode->pause(kvm) : 0;
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

int pvclock_kvm_settle(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu)
{
	size_t i;

	if (kvm->mode->mode != PVCLOCK_MODE_STEER)
		return 0;
	for (i = 0; i < kvm->vcpu_count; i++) {
		if (kvm->vcpus[i].vcpu == vcpu)
			return kvm->os->ops->run_interrupted(kvm->os->ctx, kvm->vcpus[i].fd);
	}
	return -ENOENT;
}

int pvclock_kvm_save(struct pvclock_kvm *kvm, struct pvclock_record *record)
{
	int error = pvclock_record_capture(kvm->vm, record);

	if (error)
		return error;
	if (kvm->host.mantissa)
		record->host = kvm->host;
	return kvm->mode->save ? kvm->mode->save(kvm, record) : 0;
}

/*
 * The record is applied first: it is refused as a whole or not at all, before any TSC is touched. The
 * lines follow the TSCs, whatever becomes of their offsets.
 */
int pvclock_kvm_restore(struct pvclock_kvm *kvm, const struct pvclock_record *record, struct pvclock_reason *reason)
{
	size_t i, v;
	int error = pvclock_vm_pause(kvm->vm);

	pvclock_reason_clear(reason);
	if (error && error != -EALREADY)
		return error;
	error = pvclock_record_apply(record, kvm->vm, NULL, reason);
	if (error)
		return error;
	kvm->host = record->host;
	error = read_tscs(kvm, &record->host);
	for (i = 0; error == 0 && i < record->vcpu_count; i++) {
		for (v = 0; error == 0 && v < kvm->vcpu_count; v++) {
			if (pvclock_vcpu_index(kvm->vcpus[v].vcpu) != record->vcpus[i].index)
				continue;
			error = pvclock_kvm_set_tsc_offset(kvm, kvm->vcpus[v].vcpu, record->vcpus[i].tsc.offset, reason);
			if (error == -EOPNOTSUPP) /* declared in the reason; the line has followed */
				error = 0;
			if (i == 0) {
				struct pvclock_tsc_transform tsc;

				pvclock_vcpu_get_tsc(kvm->vcpus[v].vcpu, &tsc);
				kvm->moved_ticks = (int64_t)(tsc.offset - record->vcpus[0].tsc.offset);
			}
		}
	}
	if (error == 0 && kvm->mode->restore)
		error = kvm->mode->restore(kvm, record, reason);
	return error;
}
