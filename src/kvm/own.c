/* SPDX-License-Identifier: MIT */
/*
 * own.c - own mode: the guest's registration never reaches the kernel. KVM_CAP_X86_USER_SPACE_MSR and the MSR filter
 * turn it into an exit; the engine writes the pages. The kernel's own kvmclock stays unregistered, so it has no page
 * to touch.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>

/*
 * An INIT drops a vCPU's registration in the kernel, and nobody tells userspace: the guest may use its page for something
 * else. So the kernel gets a registration to drop: one without the enable bit, which it keeps and does nothing with. Where
 * it is gone, so is the guest's.
 */
#define WITNESS 2u

static void plant_witness(struct pvclock_kvm *kvm, struct kvm_vcpu *vcpu)
{
	vcpu->witness = pvclock_kvm_set_msr(kvm, vcpu, PVCLOCK_MSR_SYSTEM_TIME, WITNESS) == 0;
}

static void ask_witness(struct pvclock_kvm *kvm, struct kvm_vcpu *vcpu)
{
	uint64_t value;

	if (!vcpu->witness || pvclock_kvm_get_msr(kvm, vcpu, PVCLOCK_MSR_SYSTEM_TIME, &value) || value == WITNESS)
		return;
	pvclock_vcpu_restore_msr(vcpu->vcpu, PVCLOCK_MSR_SYSTEM_TIME, 0);
	pvclock_vcpu_restore_msr(vcpu->vcpu, PVCLOCK_MSR_STEAL_TIME, 0);
	pvclock_vcpu_restore_msr(vcpu->vcpu, PVCLOCK_MSR_DEADLINE, 0); /* whoever runs there now asked for no interrupt */
	pvclock_vcpu_restore_msr(vcpu->vcpu, PVCLOCK_MSR_DEADLINE_CONTROL, 0);
	vcpu->witness = false;
}

/* At a registration, in the vCPU's own thread. `anew`: of the clock, which is what a guest begins with after an INIT. */
static void registered(struct pvclock_kvm *kvm, const struct pvclock_vcpu *vcpu, bool anew)
{
	size_t i;

	pthread_mutex_lock(&kvm->lock);
	for (i = 0; i < kvm->vcpu_count; i++)
		if (kvm->vcpus[i].vcpu == vcpu && (anew || !kvm->vcpus[i].witness))
			plant_witness(kvm, &kvm->vcpus[i]);
	pthread_mutex_unlock(&kvm->lock);
}

static int own_slope(const struct pvclock_kvm *kvm, const struct pvclock_slope *host, struct pvclock_slope *guest)
{
	struct pvclock_tsc_transform tsc;

	pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &tsc);
	return pvclock_slope_to_guest(host, &tsc, guest) ? 0 : -EINVAL;
}

/*
 * The kernel's own clock is what its timers of Hyper-V's and Xen's interfaces count by: it is set to where the guest's
 * is, as well as one call can say it, and runs at its own rate until the next time.
 */
static int set_kernel_clock(struct pvclock_kvm *kvm)
{
	uint64_t now;
	int error = pvclock_vm_now(kvm->vm, &now);

	return error ? error : pvclock_kvm_set_clock(kvm, now);
}

/*
 * Whether its guest may have such a timer: Hyper-V's clock is offered, and the rest of that is KVM's.
 */
static bool has_timers(const struct pvclock_kvm *kvm)
{
	return (kvm->filtered & PVCLOCK_FILTER_HYPERV) &&
	       kvm_ioctl(kvm, kvm->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_HYPERV_SYNIC) > 0;
}

static int own_start(struct pvclock_kvm *kvm, const struct pvclock_slope *host)
{
	int error = pvclock_vm_start(kvm->vm, kvm->os->ops->read_tsc(kvm->os->ctx), 0, host);

	return error == 0 && has_timers(kvm) ? set_kernel_clock(kvm) : error;
}

/* Ours only if the VMM's own filter does not ask for it. */
static bool is_guest_tsc(const struct pvclock_kvm *kvm, const struct kvm_run *run)
{
	uint32_t access = run->exit_reason == KVM_EXIT_X86_WRMSR ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ;

	return (run->msr.index == MSR_IA32_TSC || run->msr.index == MSR_IA32_TSC_ADJUST) &&
	       (run->msr.reason & KVM_MSR_EXIT_REASON_FILTER) &&
	       (!kvm->theirs.bitmaps || pvclock_kvm_filter_allows(&kvm->theirs.filter, run->msr.index, access));
}

static int handle_guest_tsc(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, struct kvm_run *run)
{
	const struct kvm_vcpu *found;
	uint64_t value = 0;
	int error;

	if (run->exit_reason == KVM_EXIT_X86_WRMSR) {
		error = pvclock_kvm_guest_writes_tsc(kvm, vcpu, run->msr.index, run->msr.data);
	} else { /* a range of theirs that has both accesses */
		pthread_mutex_lock(&kvm->lock);
		found = pvclock_kvm_find_vcpu(kvm, pvclock_vcpu_index(vcpu));
		error = found ? pvclock_kvm_get_msr(kvm, found, run->msr.index, &value) : -ENOENT;
		pthread_mutex_unlock(&kvm->lock);
		run->msr.data = value;
	}
	run->msr.error = error != 0;
	return 1;
}

static int own_handle_msr(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, struct kvm_run *run)
{
	int error;

	if (is_guest_tsc(kvm, run))
		return handle_guest_tsc(kvm, vcpu, run);
	if (run->exit_reason == KVM_EXIT_X86_WRMSR) {
		error = pvclock_vcpu_write_msr(vcpu, run->msr.index, run->msr.data);
		if (error == 0 && (run->msr.index == PVCLOCK_MSR_SYSTEM_TIME || run->msr.index == PVCLOCK_MSR_SYSTEM_TIME_OLD))
			registered(kvm, vcpu, true);
		if (error == 0 && run->msr.index == PVCLOCK_MSR_STEAL_TIME)
			registered(kvm, vcpu, false);
	} else {
		uint64_t value = 0;

		error = pvclock_vcpu_read_msr(vcpu, run->msr.index, &value);
		if (error == 0)
			run->msr.data = value;
	}
	if (error == -ENOENT)
		return 0;
	run->msr.error = error == -EINVAL; /* #GP */
	return error == 0 || error == -EINVAL ? 1 : error;
}

static int own_pause(struct pvclock_kvm *kvm)
{
	size_t i;

	for (i = 0; i < kvm->vcpu_count; i++)
		ask_witness(kvm, &kvm->vcpus[i]);
	return 0;
}

static int own_resume(struct pvclock_kvm *kvm, struct pvclock_correction *correction, struct pvclock_reason *reason)
{
	uint64_t msr;
	size_t i;
	int error;

	(void)correction; /* the line did not change: nothing to correct */
	(void)reason;
	for (i = 0; i < kvm->vcpu_count; i++) /* registrations that came with a record or an arrival */
		if (!kvm->vcpus[i].witness && pvclock_vcpu_read_msr(kvm->vcpus[i].vcpu, PVCLOCK_MSR_SYSTEM_TIME, &msr) == 0 &&
		    (msr & PVCLOCK_MSR_ENABLE))
			plant_witness(kvm, &kvm->vcpus[i]);
	error = pvclock_vm_resume(kvm->vm);
	return error == 0 && has_timers(kvm) ? set_kernel_clock(kvm) : error;
}

const struct kvm_mode pvclock_kvm_mode_own = {
	.mode = PVCLOCK_MODE_OWN,
	.filtered = PVCLOCK_FILTER_CLOCK,
	.slope = own_slope,
	.start = own_start,
	.handle_msr = own_handle_msr,
	.pause = own_pause,
	.resume = own_resume,
	.arrived = set_kernel_clock,
};
