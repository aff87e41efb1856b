/* SPDX-License-Identifier: MIT */
/*
 * interface.c - what a guest asks of pvclock/interface.h: its MSRs, checked and kept. Nothing that a guest writes is
 * believed further than its own memory and its own interrupts.
 */
#include "vm.h"

#include <errno.h>

#define VECTOR_MIN 16u /* below are the exceptions' */

void pvclock_interface_cpuid(uint32_t base, uint32_t features, uint32_t depth, struct pvclock_cpuid leaves[PVCLOCK_CPUID_LEAVES])
{
	leaves[0] = (struct pvclock_cpuid){ .leaf = base, .eax = base + PVCLOCK_CPUID_LEAVES - 1, .ebx = PVCLOCK_CPUID_SIGNATURE_EBX,
					    .ecx = PVCLOCK_CPUID_SIGNATURE_ECX, .edx = PVCLOCK_CPUID_SIGNATURE_EDX };
	leaves[1] = (struct pvclock_cpuid){ .leaf = base + 1, .eax = features & PVCLOCK_FEATURES, .ebx = PVCLOCK_INTERFACE_VERSION,
					    .ecx = depth };
}

uint32_t pvclock_interface_guest_depth(const struct pvclock_os *os)
{
	struct pvclock_interface host;

	pvclock_interface_search(os->ops->cpuid, os->ctx, &host);
	if (!host.guest)
		return 1;
	return host.depth ? host.depth + 1 : 0;
}

void pvclock_vm_offer(struct pvclock_vm *vm, uint32_t features)
{
	pthread_mutex_lock(&vm->lock);
	vm->features = features & PVCLOCK_FEATURES;
	pthread_mutex_unlock(&vm->lock);
}

uint32_t pvclock_vm_offered(const struct pvclock_vm *vm)
{
	pthread_mutex_t *lock = (pthread_mutex_t *)&vm->lock;
	uint32_t features;

	pthread_mutex_lock(lock);
	features = vm->features;
	pthread_mutex_unlock(lock);
	return features;
}

static bool check_control(uint64_t value, uint64_t known)
{
	return (value & ~known) == 0 && (!(value & PVCLOCK_CONTROL_ENABLE) || (value & PVCLOCK_CONTROL_VECTOR) >= VECTOR_MIN);
}

bool pvclock_interface_check(uint32_t msr, uint64_t value)
{
	const uint64_t control = PVCLOCK_CONTROL_VECTOR | PVCLOCK_CONTROL_ENABLE;

	switch (msr) {
	case PVCLOCK_MSR_DEADLINE_CONTROL:
		return check_control(value, control);
	case PVCLOCK_MSR_SUSPEND_CONTROL:
	case PVCLOCK_MSR_NESTED_CONTROL:
		return check_control(value, control | UINT64_MAX << PVCLOCK_CONTROL_TARGET_SHIFT);
	case PVCLOCK_MSR_SUSPEND:
		return value % 8 <= PVCLOCK_MSR_ENABLE;
	case PVCLOCK_MSR_NESTED:
		return value % sizeof(struct pvclock_nested_page) <= PVCLOCK_MSR_ENABLE;
	default:
		return true;
	}
}

void pvclock_vm_resolve_suspend(struct pvclock_vm *vm)
{
	if (vm->suspend_msr & PVCLOCK_MSR_ENABLE)
		pvclock_vm_find_place(vm, vm->suspend_msr - PVCLOCK_MSR_ENABLE, sizeof(struct pvclock_suspend_page), &vm->suspend_page);
	else
		vm->suspend_page = (struct place){ 0 };
}

void pvclock_vm_write_suspend(struct pvclock_vm *vm)
{
	if (!vm->suspend_page.host)
		return;
	pvclock_suspend_write(vm->suspend_page.host, &vm->told);
	pvclock_vm_mark_dirty(&vm->suspend_page, sizeof(struct pvclock_suspend_page));
}

static int write_suspend(struct pvclock_vm *vm, uint64_t value)
{
	struct place place = { 0 };

	if ((value & PVCLOCK_MSR_ENABLE) &&
	    !pvclock_vm_find_place(vm, value - PVCLOCK_MSR_ENABLE, sizeof(struct pvclock_suspend_page), &place))
		return -EINVAL;
	vm->suspend_msr = value;
	vm->suspend_page = place;
	pvclock_vm_write_suspend(vm);
	return 0;
}

static uint32_t feature_of(uint32_t msr)
{
	switch (msr) {
	case PVCLOCK_MSR_DEADLINE_CONTROL:
	case PVCLOCK_MSR_DEADLINE:
		return PVCLOCK_FEATURE_DEADLINE;
	case PVCLOCK_MSR_SUSPEND_CONTROL:
	case PVCLOCK_MSR_SUSPEND:
		return PVCLOCK_FEATURE_SUSPEND;
	case PVCLOCK_MSR_NESTED_CONTROL:
	case PVCLOCK_MSR_NESTED:
		return PVCLOCK_FEATURE_NESTED;
	default:
		return 0;
	}
}

int pvclock_interface_write(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value)
{
	if (!(vcpu->vm->features & feature_of(msr)))
		return -ENOENT;
	if (!pvclock_interface_check(msr, value))
		return -EINVAL;
	switch (msr) {
	case PVCLOCK_MSR_DEADLINE_CONTROL:
		vcpu->deadline_control = value;
		if (!(value & PVCLOCK_CONTROL_ENABLE))
			vcpu->deadline_ns = 0;
		return 0;
	case PVCLOCK_MSR_DEADLINE:
		if (!(vcpu->deadline_control & PVCLOCK_CONTROL_ENABLE))
			return -EINVAL;
		vcpu->deadline_ns = value;
		return 0;
	case PVCLOCK_MSR_SUSPEND_CONTROL:
		vcpu->vm->suspend_control = value;
		return 0;
	case PVCLOCK_MSR_NESTED_CONTROL:
		vcpu->vm->nested.control = value;
		return 0;
	case PVCLOCK_MSR_NESTED:
		return pvclock_vm_write_nested(vcpu->vm, value) ? 0 : -EINVAL;
	default:
		return write_suspend(vcpu->vm, value);
	}
}

/* Where a guest's value of an MSR is kept. */
static uint64_t *kept(struct pvclock_vcpu *vcpu, uint32_t msr)
{
	switch (msr) {
	case PVCLOCK_MSR_DEADLINE_CONTROL:
		return &vcpu->deadline_control;
	case PVCLOCK_MSR_DEADLINE:
		return &vcpu->deadline_ns;
	case PVCLOCK_MSR_SUSPEND_CONTROL:
		return &vcpu->vm->suspend_control;
	case PVCLOCK_MSR_NESTED_CONTROL:
		return &vcpu->vm->nested.control;
	case PVCLOCK_MSR_NESTED:
		return &vcpu->vm->nested.msr;
	default:
		return &vcpu->vm->suspend_msr;
	}
}

int pvclock_interface_read(const struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t *value)
{
	if (!(vcpu->vm->features & feature_of(msr)))
		return -ENOENT;
	*value = *kept((struct pvclock_vcpu *)vcpu, msr);
	return 0;
}

int pvclock_interface_restore(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value)
{
	if (!feature_of(msr))
		return -ENOENT;
	if (!pvclock_interface_check(msr, value))
		return -EINVAL;
	*kept(vcpu, msr) = value;
	pvclock_vm_resolve_suspend(vcpu->vm);
	pvclock_vm_resolve_nested(vcpu->vm);
	if (msr == PVCLOCK_MSR_NESTED)
		pvclock_parent_copy_table(vcpu->vm);
	return 0;
}
