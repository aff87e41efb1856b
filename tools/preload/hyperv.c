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

/* 0 where the guest has no such MSR. */
static uint64_t read_msr(const struct vcpu *vcpu, uint32_t msr)
{
	uint64_t value = 0;

	return vm_is(vcpu->vm, PVCLOCK_MODE_OWN) && pvclock_vcpu_read_msr(vcpu->clock, msr, &value) == 0 ? value : 0;
}

void vm_note_told(struct vm *vm)
{
	const struct vcpu *first = vm->vcpus[0];
	bool waits = read_msr(first, PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS) != 0;
	uint64_t control;

	if (waits && !vm->waits) {
		control = read_msr(first, PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL);
		vm->waits_since = vm->os.ops->read_tsc(vm->os.ctx);
		record_event("reenlighten", NULL, "\"enabled\":%s,\"vcpu\":%u,\"vector\":%u,\"hz\":%llu",
			     control & PVCLOCK_CONTROL_ENABLE ? "true" : "false", (unsigned int)(control >> PVCLOCK_CONTROL_TARGET_SHIFT),
			     (unsigned int)(control & 0xff), (unsigned long long)read_msr(first, PVCLOCK_HYPERV_MSR_TSC_FREQUENCY));
	}
	vm->waits = waits;
}

void vcpu_note_acknowledged(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	struct vm *vm = vcpu->vm;
	struct pvclock_line line;
	uint64_t ticks;

	/* a 0 to either is one, and the engine knows whether it was */
	if (run->exit_reason != KVM_EXIT_X86_WRMSR || (run->msr.index != PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS &&
						       run->msr.index != PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL))
		return;
	pthread_mutex_lock(&vm->lock);
	if (vm->waits && read_msr(vcpu, PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS) == 0) {
		vm->waits = false;
		ticks = vm->os.ops->read_tsc(vm->os.ctx).ticks - vm->waits_since.ticks;
		record_event("acknowledged", NULL, "\"vcpu\":%u,\"after_ns\":%llu", vcpu->index,
			     pvclock_line_make(&line, 0, 0, &vm->host, NULL) ? (unsigned long long)pvclock_line_ns(&line, ticks) : 0ull);
	}
	pthread_mutex_unlock(&vm->lock);
}

bool vcpu_read_hyperv(const struct vcpu *vcpu, struct pvclock_hyperv_snapshot *page)
{
	uint64_t msr = 0;

	return vm_is(vcpu->vm, PVCLOCK_MODE_OWN) && pvclock_vcpu_read_msr(vcpu->clock, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, &msr) == 0 &&
	       (msr & PVCLOCK_MSR_ENABLE) &&
	       pvclock_vm_read_hyperv_page(vcpu->vm->clock, (struct pvclock_gpa){ msr & ~(uint64_t)(PVCLOCK_HYPERV_PAGE_SIZE - 1) }, page) == 0;
}
