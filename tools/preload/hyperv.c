/* SPDX-License-Identifier: MIT */
/*
 * hyperv.c - Hyper-V's clock for guests whose VMM shows them Hyper-V's CPUID leaves: what these offer of it is the
 * engine's, in own mode. The rest of Hyper-V's interface stays KVM's, whose timers (SynIC) count by KVM's own clock:
 * the engine keeps that near the guest's.
 */
#include "preload.h"

#include <pvclock/hyperv.h>

#include <errno.h>
#include <stdlib.h>

#define LEAF_INTERFACE (PVCLOCK_HYPERV_CPUID + 1)
#define LEAF_FEATURES (PVCLOCK_HYPERV_CPUID + 3)
#define KVM_APIC_HZ 1000000000u /* APIC_BUS_CYCLE_NS is 1 */

static uint32_t features_of(const struct kvm_cpuid2 *cpuid)
{
	uint32_t features = 0;
	bool is_hyperv = false;

	for (uint32_t i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function == LEAF_INTERFACE) /* whatever its maker calls itself */
			is_hyperv = cpuid->entries[i].eax == PVCLOCK_HYPERV_CPUID_INTERFACE;
		if (cpuid->entries[i].function == LEAF_FEATURES)
			features = cpuid->entries[i].eax & PVCLOCK_HYPERV_FEATURES;
	}
	return is_hyperv ? features : 0;
}

int vcpu_set_cpuid(struct vcpu *vcpu, const struct kvm_cpuid2 *cpuid)
{
	struct vm *vm = vcpu->vm;
	struct pvclock_reason reason;
	struct kvm_cpuid2 *with;
	uint32_t features;
	int result;

	if (vcpu->clock == NULL)
		return kernel_ioctl(vcpu->object.fd, KVM_SET_CPUID2, (void *)cpuid);
	pthread_mutex_lock(&vm->lock);
	with = vm_with_interface(vm, cpuid);
	result = kernel_ioctl(vcpu->object.fd, KVM_SET_CPUID2, with != NULL ? with : (void *)cpuid);
	free(with);
	features = features_of(cpuid);
	if (result >= 0 && vm_is(vm, PVCLOCK_MODE_OWN) && features & ~pvclock_vm_offered_hyperv(vm->clock) &&
	    pvclock_kvm_offer_hyperv(vm->kvm, features, KVM_APIC_HZ, &reason) != 0)
		say("Hyper-V's clock stays KVM's own: %s", reason.text);
	pthread_mutex_unlock(&vm->lock);
	return result;
}

bool vcpu_read_hyperv(const struct vcpu *vcpu, struct pvclock_hyperv_snapshot *page)
{
	uint64_t msr = 0;

	return vm_is(vcpu->vm, PVCLOCK_MODE_OWN) && pvclock_vcpu_read_msr(vcpu->clock, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, &msr) == 0 &&
	       (msr & PVCLOCK_MSR_ENABLE) &&
	       pvclock_vm_read_hyperv_page(vcpu->vm->clock, (struct pvclock_gpa){ msr & ~(uint64_t)(PVCLOCK_HYPERV_PAGE_SIZE - 1) }, page) == 0;
}
