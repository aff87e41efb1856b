/* SPDX-License-Identifier: MIT */
/*
 * own.c - own mode: the guest's registration never reaches the kernel. KVM_CAP_X86_USER_SPACE_MSR and the MSR filter
 * turn it into an exit; the engine writes the pages. The kernel's own kvmclock stays unregistered, so it has no page
 * to touch.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>
#include <string.h>

static int enable_exits(struct pvclock_kvm *kvm, uint64_t mask)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR, .args = { mask } };

	return kvm_ioctl(kvm, kvm->vm_fd, KVM_ENABLE_CAP, &cap);
}

static int own_attach(struct pvclock_kvm *kvm, const struct pvclock_kvm_config *config, struct pvclock_reason *reason)
{
	struct pvclock_msr_filter merged;
	int error;

	if (kvm_ioctl(kvm, kvm->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_X86_USER_SPACE_MSR) <= 0 ||
	    kvm_ioctl(kvm, kvm->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_X86_MSR_FILTER) <= 0) {
		pvclock_reason_set(reason, PVCLOCK_REASON_NO_MSR_FILTER,
				   "This KVM cannot hand clock MSRs to userspace (KVM_CAP_X86_MSR_FILTER); "
				   "own mode needs Linux 5.10 or newer, steer mode does not.");
		return -ENOTSUP;
	}
	error = pvclock_kvm_merge_filter(config->msr_filter, &merged, reason);
	if (error)
		return error;
	error = config->msr_filter ? pvclock_kvm_copy_filter(config->msr_filter, &kvm->theirs) : 0;
	if (error)
		goto out;
	kvm->user_space_msr_mask = config->user_space_msr_mask;
	error = enable_exits(kvm, config->user_space_msr_mask | KVM_MSR_EXIT_REASON_FILTER);
	if (error >= 0)
		error = kvm_ioctl(kvm, kvm->vm_fd, KVM_X86_SET_MSR_FILTER, &merged.filter);
	if (error < 0) {
		pvclock_reason_set(reason, PVCLOCK_REASON_OS, "KVM refused the MSR filter (%s); steer mode needs none.",
				   strerror(-error));
		enable_exits(kvm, config->user_space_msr_mask);
		pvclock_msr_filter_clear(&kvm->theirs);
	} else {
		error = 0;
	}
out:
	pvclock_msr_filter_clear(&merged);
	return error;
}

static void own_detach(struct pvclock_kvm *kvm)
{
	struct kvm_msr_filter none = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };

	kvm_ioctl(kvm, kvm->vm_fd, KVM_X86_SET_MSR_FILTER, kvm->theirs.bitmaps ? &kvm->theirs.filter : &none);
	enable_exits(kvm, kvm->user_space_msr_mask);
	pvclock_msr_filter_clear(&kvm->theirs);
}

static int own_start(struct pvclock_kvm *kvm, const struct pvclock_slope *host)
{
	return pvclock_vm_start(kvm->vm, kvm->os->ops->read_tsc(kvm->os->ctx), 0, host);
}

static int own_handle_msr(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, struct kvm_run *run)
{
	int error;

	if (run->exit_reason == KVM_EXIT_X86_WRMSR) {
		error = pvclock_vcpu_write_msr(vcpu, run->msr.index, run->msr.data);
	} else {
		uint64_t value = 0;

		error = pvclock_vcpu_read_msr(vcpu, run->msr.index, &value);
		if (error == 0)
			run->msr.data = value;
	}
	if (error == -ENOENT) {
		/* Denied by the VMM's own filter, which had asked for #GP and not for an exit. */
		if ((run->msr.reason & KVM_MSR_EXIT_REASON_FILTER) &&
		    !(kvm->user_space_msr_mask & KVM_MSR_EXIT_REASON_FILTER)) {
			run->msr.error = 1;
			return 1;
		}
		return 0;
	}
	run->msr.error = error == -EINVAL; /* #GP */
	return error == 0 || error == -EINVAL ? 1 : error;
}

static int own_resume(struct pvclock_kvm *kvm, struct pvclock_correction *correction, struct pvclock_reason *reason)
{
	(void)correction; /* the line did not change: nothing to correct */
	(void)reason;
	return pvclock_vm_resume(kvm->vm);
}

const struct kvm_mode pvclock_kvm_mode_own = {
	.mode = PVCLOCK_MODE_OWN,
	.attach = own_attach,
	.detach = own_detach,
	.start = own_start,
	.handle_msr = own_handle_msr,
	.resume = own_resume,
};
