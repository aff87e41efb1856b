/* SPDX-License-Identifier: MIT */
/*
 * msr.c - what a guest registers through the clock MSRs (Linux Documentation/virt/kvm/x86/msr.rst). Every 64-bit
 * value ends in #GP with nothing changed, or in one of the results named in vm.h: the guest is not trusted with a
 * byte outside its memory.
 */
#include "vm.h"

#include <errno.h>

#define NS_PER_SEC 1000000000ull
#define WALL_CLOCK_TRIES 8

/* The time of day at system time 0, from the narrowest of a few brackets. */
static int wall_clock_now(struct pvclock_vm *vm, uint64_t *epoch_ns)
{
	const struct pvclock_os_ops *ops = vm->os->ops;
	uint64_t narrowest = UINT64_MAX;
	int i, error;

	for (i = 0; i < WALL_CLOCK_TRIES; i++) {
		struct pvclock_host_tsc before = ops->read_tsc(vm->os->ctx), after, middle;
		struct timespec real;

		error = ops->clock_gettime(vm->os->ctx, CLOCK_REALTIME, &real);
		if (error)
			return error;
		after = ops->read_tsc(vm->os->ctx);
		if (after.ticks - before.ticks >= narrowest)
			continue;
		narrowest = after.ticks - before.ticks;
		middle.ticks = before.ticks + narrowest / 2;
		*epoch_ns = (uint64_t)real.tv_sec * NS_PER_SEC + (uint64_t)real.tv_nsec - pvclock_vm_system_time(vm, middle);
	}
	return 0;
}

static int write_wall_clock(struct pvclock_vm *vm, uint64_t value)
{
	struct place place;
	uint64_t epoch_ns = 0;

	if (value % 4 != 0)
		return -EINVAL;
	if (value == 0) { /* Linux: address 0 means nowhere */
		vm->wall_clock_msr = 0;
		return 0;
	}
	if (!pvclock_vm_find_place(vm, value, sizeof(struct pvclock_wall_clock), &place))
		return -EINVAL;
	if (vm->has_line && wall_clock_now(vm, &epoch_ns) == 0) {
		pvclock_wall_clock_write(place.host, epoch_ns);
		pvclock_vm_mark_dirty(&place, sizeof(struct pvclock_wall_clock));
	}
	vm->wall_clock_msr = value;
	return 0;
}

static int write_system_time(struct pvclock_vcpu *vcpu, uint64_t value, bool old)
{
	struct place place = { 0 };

	if (value & PVCLOCK_MSR_ENABLE) {
		if (!pvclock_vm_find_place(vcpu->vm, vcpu_page_address(value), sizeof(struct pvclock_page), &place))
			return -EINVAL;
	}
	vcpu->system_time_msr = value;
	vcpu->old_msrs = old;
	vcpu->page = place;
	if (!place.host)
		vcpu->stop_pending = false;
	pvclock_vm_publish_vcpu(vcpu);
	return 0;
}

int pvclock_vcpu_write_msr(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value)
{
	int error;

	pthread_mutex_lock(&vcpu->vm->lock);
	switch (msr) {
	case PVCLOCK_MSR_SYSTEM_TIME:
	case PVCLOCK_MSR_SYSTEM_TIME_OLD:
		error = write_system_time(vcpu, value, msr == PVCLOCK_MSR_SYSTEM_TIME_OLD);
		break;
	case PVCLOCK_MSR_WALL_CLOCK:
	case PVCLOCK_MSR_WALL_CLOCK_OLD:
		error = write_wall_clock(vcpu->vm, value);
		break;
	case PVCLOCK_MSR_STEAL_TIME:
		error = pvclock_vm_write_steal_msr(vcpu, value);
		break;
	default:
		error = pvclock_interface_write(vcpu, msr, value);
		if (error == -ENOENT)
			error = pvclock_hyperv_write(vcpu, msr, value);
	}
	pthread_mutex_unlock(&vcpu->vm->lock);
	return error;
}

int pvclock_vcpu_read_msr(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t *value)
{
	int error = 0;

	pthread_mutex_lock(&vcpu->vm->lock);
	switch (msr) {
	case PVCLOCK_MSR_SYSTEM_TIME:
	case PVCLOCK_MSR_SYSTEM_TIME_OLD:
		*value = vcpu->system_time_msr;
		break;
	case PVCLOCK_MSR_WALL_CLOCK:
	case PVCLOCK_MSR_WALL_CLOCK_OLD:
		*value = vcpu->vm->wall_clock_msr;
		break;
	case PVCLOCK_MSR_STEAL_TIME:
		error = vcpu->vm->owns_steal ? 0 : -ENOENT;
		*value = error ? *value : vcpu->steal_msr;
		break;
	default:
		error = pvclock_interface_read(vcpu, msr, value);
		if (error == -ENOENT)
			error = pvclock_hyperv_read(vcpu, msr, value);
	}
	pthread_mutex_unlock(&vcpu->vm->lock);
	return error;
}

int pvclock_vcpu_restore_msr(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value)
{
	int error = 0;

	pthread_mutex_lock(&vcpu->vm->lock);
	switch (msr) {
	case PVCLOCK_MSR_SYSTEM_TIME:
	case PVCLOCK_MSR_SYSTEM_TIME_OLD:
		vcpu->system_time_msr = value;
		vcpu->old_msrs = msr == PVCLOCK_MSR_SYSTEM_TIME_OLD;
		pvclock_vm_resolve(vcpu);
		break;
	case PVCLOCK_MSR_WALL_CLOCK:
	case PVCLOCK_MSR_WALL_CLOCK_OLD:
		vcpu->vm->wall_clock_msr = value;
		break;
	case PVCLOCK_MSR_STEAL_TIME:
		error = pvclock_steal_check(value) ? 0 : -EINVAL;
		if (error == 0)
			pvclock_vm_restore_steal(vcpu, value, NULL);
		break;
	default:
		error = pvclock_interface_restore(vcpu, msr, value);
		if (error == -ENOENT)
			error = pvclock_hyperv_restore(vcpu, msr, value);
	}
	pthread_mutex_unlock(&vcpu->vm->lock);
	return error;
}
