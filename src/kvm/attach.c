/* SPDX-License-Identifier: MIT */
/* attach.c - a VM on KVM: picks the mode, keeps the vCPUs' descriptors, starts the clock and hands exits on. */
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

/* A line that the kernel steers is another after each event: whoever is a host on it would be told of each ns. */
static void offer_nested(const struct pvclock_kvm *kvm)
{
	if (kvm->mode->mode != PVCLOCK_MODE_OWN)
		pvclock_vm_offer(kvm->vm, pvclock_vm_offered(kvm->vm) & ~PVCLOCK_FEATURE_NESTED);
}

static int try_mode(struct pvclock_kvm *kvm, const struct kvm_mode *mode, const struct pvclock_kvm_config *config,
		    struct pvclock_reason *reason)
{
	kvm->mode = mode;
	kvm->filtered = mode->filtered | (pvclock_vm_offered(kvm->vm) ? PVCLOCK_FILTER_INTERFACE : 0);
	if (mode == &pvclock_kvm_mode_own && pvclock_vm_owns_steal(kvm->vm))
		kvm->filtered |= PVCLOCK_FILTER_STEAL;
	if (mode == &pvclock_kvm_mode_own && pvclock_vm_offered_hyperv(kvm->vm))
		kvm->filtered |= PVCLOCK_FILTER_HYPERV;
	return pvclock_kvm_begin_filter(kvm, config, reason);
}

int pvclock_kvm_attach(const struct pvclock_kvm_config *config, struct pvclock_kvm **out, struct pvclock_reason *reason)
{
	struct pvclock_kvm *kvm = calloc(1, sizeof(*kvm));
	int error;

	pvclock_reason_clear(reason);
	if (!kvm || pthread_mutex_init(&kvm->lock, NULL)) {
		free(kvm);
		return -ENOMEM;
	}
	kvm->os = config->os;
	pvclock_host_time_read(kvm->os, &kvm->time); /* what fails is read again */
	kvm->vm = config->vm;
	kvm->vm_fd = config->vm_fd;
	kvm->interrupt = config->interrupt;
	kvm->interrupt_ctx = config->interrupt_ctx;
	kvm->sooner = config->sooner;
	kvm->sooner_ctx = config->sooner_ctx;
	kvm->awaited.ticks = UINT64_MAX;
	switch (config->mode) {
	case PVCLOCK_MODE_AUTO:
		error = try_mode(kvm, &pvclock_kvm_mode_own, config, reason);
		if (error) /* the reason stays: it says why this is steer mode */
			error = try_mode(kvm, &pvclock_kvm_mode_steer, config, NULL);
		break;
	case PVCLOCK_MODE_OWN:
		error = try_mode(kvm, &pvclock_kvm_mode_own, config, reason);
		break;
	case PVCLOCK_MODE_STEER:
		error = try_mode(kvm, &pvclock_kvm_mode_steer, config, reason);
		break;
	case PVCLOCK_MODE_STOCK:
		error = try_mode(kvm, &pvclock_kvm_mode_stock, config, reason);
		break;
	default:
		error = -EINVAL;
	}
	if (error) {
		pthread_mutex_destroy(&kvm->lock);
		free(kvm);
		return error;
	}
	if (!(kvm->filtered & PVCLOCK_FILTER_STEAL)) /* whoever publishes the clock there publishes that */
		pvclock_vm_own_steal(kvm->vm, false);
	offer_nested(kvm);
	if (!(kvm->filtered & PVCLOCK_FILTER_HYPERV))
		pvclock_vm_offer_hyperv(kvm->vm, 0, 0);
	pvclock_kvm_forget_sleep(kvm); /* from now on */
	*out = kvm;
	return 0;
}

void pvclock_kvm_detach(struct pvclock_kvm *kvm)
{
	if (!kvm)
		return;
	pvclock_kvm_end_filter(kvm);
	pthread_mutex_destroy(&kvm->lock);
	free(kvm->vcpus);
	free(kvm);
}

enum pvclock_mode pvclock_kvm_mode(const struct pvclock_kvm *kvm)
{
	return kvm->mode->mode;
}

int pvclock_kvm_add_vcpu(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, int vcpu_fd)
{
	struct kvm_vcpu added = { .vcpu = vcpu, .fd = vcpu_fd }, *vcpus;
	int error = pvclock_kvm_read_tsc(kvm, &added, kvm->host.mantissa ? &kvm->host : NULL);
	size_t at;

	if (error)
		return error;
	pthread_mutex_lock(&kvm->lock);
	vcpus = realloc(kvm->vcpus, (kvm->vcpu_count + 1) * sizeof(*vcpus));
	if (vcpus) {
		kvm->vcpus = vcpus;
		for (at = kvm->vcpu_count++; at > 0 && pvclock_vcpu_index(vcpus[at - 1].vcpu) > pvclock_vcpu_index(vcpu); at--)
			vcpus[at] = vcpus[at - 1];
		vcpus[at] = added;
	}
	pthread_mutex_unlock(&kvm->lock);
	return vcpus ? 0 : -ENOMEM;
}

void pvclock_kvm_remove_vcpu(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu)
{
	size_t i;

	pthread_mutex_lock(&kvm->lock);
	for (i = 0; i < kvm->vcpu_count; i++) {
		if (kvm->vcpus[i].vcpu != vcpu)
			continue;
		for (; i + 1 < kvm->vcpu_count; i++)
			kvm->vcpus[i] = kvm->vcpus[i + 1];
		kvm->vcpu_count--;
	}
	pthread_mutex_unlock(&kvm->lock);
}

int pvclock_kvm_start(struct pvclock_kvm *kvm, const struct pvclock_slope *host)
{
	struct pvclock_line line;
	struct kvm_peek peek;
	int error;

	if (!(host->mantissa >> 63) || !pvclock_line_make(&line, 0, 0, host, NULL))
		return -EINVAL;
	pvclock_kvm_peek_host(kvm, &peek);
	kvm->last = kvm->os->ops->read_tsc(kvm->os->ctx);
	error = pvclock_kvm_read_tscs(kvm, host); /* again: only now is the host's rate known, against which theirs is judged */
	if (error)
		return error;
	kvm->host = *host;
	error = kvm->mode->start ? kvm->mode->start(kvm, host) : 0;
	if (error == 0)
		pvclock_kvm_made_anew(kvm, &peek, host);
	if (error == 0)
		pvclock_vm_update_vmclock(kvm->vm, NULL); /* where there is no line yet, the guest still finds the page */
	return error;
}

/* In every mode alike: the kernel knows nothing of these MSRs. */
static int handle_interface(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, struct kvm_run *run)
{
	uint64_t value = 0;
	int error;

	if (run->exit_reason == KVM_EXIT_X86_WRMSR) {
		error = pvclock_vcpu_write_msr(vcpu, run->msr.index, run->msr.data);
		if (error == 0 && run->msr.index == PVCLOCK_MSR_DEADLINE)
			pvclock_kvm_deadline_written(kvm, vcpu);
	} else {
		error = pvclock_vcpu_read_msr(vcpu, run->msr.index, &value);
		run->msr.data = error ? run->msr.data : value;
	}
	if (error == -ENOENT)
		return 0;
	run->msr.error = error != 0; /* #GP */
	return 1;
}

int pvclock_kvm_handle_exit(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, struct kvm_run *run)
{
	int handled = 0;

	if (run->exit_reason != KVM_EXIT_X86_WRMSR && run->exit_reason != KVM_EXIT_X86_RDMSR)
		return 0;
	if (run->msr.index - PVCLOCK_MSR_DEADLINE_CONTROL < PVCLOCK_INTERFACE_MSRS)
		handled = handle_interface(kvm, vcpu, run);
	else if (kvm->mode->handle_msr)
		handled = kvm->mode->handle_msr(kvm, vcpu, run);
	/* Denied by the VMM's own filter, which had asked for #GP and not for an exit. */
	if (handled == 0 && kvm->filtered && (run->msr.reason & KVM_MSR_EXIT_REASON_FILTER) &&
	    !(kvm->user_space_msr_mask & KVM_MSR_EXIT_REASON_FILTER)) {
		run->msr.error = 1;
		handled = 1;
	}
	return handled;
}
