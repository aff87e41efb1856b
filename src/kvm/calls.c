/* SPDX-License-Identifier: MIT */
/* calls.c - the ioctls that more than one room needs, each as a call that returns 0 or -errno. */
#include "kvm.h"

#include <errno.h>

const struct kvm_vcpu *pvclock_kvm_find_vcpu(const struct pvclock_kvm *kvm, uint32_t index)
{
	size_t low = 0, high = kvm->vcpu_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (pvclock_vcpu_index(kvm->vcpus[middle].vcpu) < index)
			low = middle + 1;
		else
			high = middle;
	}
	return low < kvm->vcpu_count && pvclock_vcpu_index(kvm->vcpus[low].vcpu) == index ? &kvm->vcpus[low] : NULL;
}

int pvclock_kvm_get_clock(const struct pvclock_kvm *kvm, struct kvm_clock *clock)
{
	int error;

	*clock = (struct kvm_clock){ 0 };
	error = kvm_ioctl(kvm, kvm->vm_fd, KVM_GET_CLOCK, clock);
	return error < 0 ? error : 0;
}

int pvclock_kvm_set_clock(const struct pvclock_kvm *kvm, uint64_t ns)
{
	struct kvm_clock clock = { .clock = ns };
	int error = kvm_ioctl(kvm, kvm->vm_fd, KVM_SET_CLOCK, &clock);

	return error < 0 ? error : 0;
}

int pvclock_kvm_get_msr(const struct pvclock_kvm *kvm, const struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *value)
{
	struct kvm_one_msr one = { .nmsrs = 1, .entry = { .index = msr } };
	int count = kvm_ioctl(kvm, vcpu->fd, KVM_GET_MSRS, &one);

	if (count != 1)
		return count < 0 ? count : -ENOENT;
	*value = one.entry.data;
	return 0;
}

int pvclock_kvm_set_msr(const struct pvclock_kvm *kvm, const struct kvm_vcpu *vcpu, uint32_t msr, uint64_t value)
{
	struct kvm_one_msr one = { .nmsrs = 1, .entry = { .index = msr, .data = value } };
	int count = kvm_ioctl(kvm, vcpu->fd, KVM_SET_MSRS, &one);

	if (count != 1)
		return count < 0 ? count : -ENOENT;
	return 0;
}
