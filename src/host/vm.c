/* SPDX-License-Identifier: MIT */
/* vm.c - the VM's line, its publication, and what happens to both when the VM stops and goes on. */
#include "vm.h"
#include "reason.h"

#include <errno.h>
#include <stdlib.h>

int pvclock_vm_create(const struct pvclock_os *os, struct pvclock_vm **out)
{
	struct pvclock_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return -ENOMEM;
	vm->os = os;
	if (pthread_mutex_init(&vm->lock, NULL)) {
		free(vm);
		return -ENOMEM;
	}
	vm_judge_stability(vm);
	*out = vm;
	return 0;
}

void pvclock_vm_destroy(struct pvclock_vm *vm)
{
	size_t i;

	if (!vm)
		return;
	for (i = 0; i < vm->region_count; i++)
		free(vm->regions[i].dirty);
	free(vm->regions);
	free(vm->vcpus);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

/* --- the line ------------------------------------------------------------------------ */

/* ns per host tick of a clock that has `guest` per guest tick: the ratio, multiplied in and rounded to 64 bits. */
static struct pvclock_slope slope_to_host(const struct pvclock_slope *guest, const struct pvclock_tsc_transform *tsc)
{
	unsigned __int128 product = (unsigned __int128)guest->mantissa * tsc->ratio;
	int exponent = guest->exponent - tsc->frac_bits;

	if (tsc->frac_bits == 0)
		return *guest;
	while (product >> 64) {
		product = (product >> 1) + (product & 1);
		exponent++;
	}
	while (!((uint64_t)product >> 63)) {
		product <<= 1;
		exponent--;
	}
	return (struct pvclock_slope){ .mantissa = (uint64_t)product, .exponent = (int16_t)exponent };
}

void vm_set_line(struct pvclock_vm *vm, const struct pvclock_line *line, const struct pvclock_tsc_transform *reference,
		 const struct pvclock_slope *host)
{
	struct pvclock_slope slope;
	size_t i;

	vm->line = *line;
	vm->reference = *reference;
	vm->has_line = true;
	if (host)
		vm->host = *host;
	else if (pvclock_slope_from_line(line, &slope))
		vm->host = slope_to_host(&slope, reference);
	for (i = 0; i < vm->vcpu_count; i++)
		vm->vcpus[i]->synced = false;
	vm_judge_stability(vm);
}

int pvclock_vm_start(struct pvclock_vm *vm, struct pvclock_host_tsc at, uint64_t ns, const struct pvclock_slope *host)
{
	struct pvclock_tsc_transform reference = { 0 };
	struct pvclock_line line;
	int error = -EINVAL;

	pthread_mutex_lock(&vm->lock);
	if (vm->vcpu_count > 0)
		reference = vm->vcpus[0]->tsc;
	if ((host->mantissa >> 63) && pvclock_line_compose(&reference, at, ns, host, &line, NULL)) {
		vm_set_line(vm, &line, &reference, host);
		if (!vm->paused)
			vm_publish_all(vm);
		error = 0;
	}
	pthread_mutex_unlock(&vm->lock);
	return error;
}

uint64_t vm_system_time(struct pvclock_vm *vm, struct pvclock_host_tsc at)
{
	return pvclock_line_ns(&vm->line, pvclock_tsc_to_guest(&vm->reference, at).ticks);
}

int pvclock_vm_now(struct pvclock_vm *vm, uint64_t *ns)
{
	int error = -ENODATA;

	pthread_mutex_lock(&vm->lock);
	if (vm->has_line) {
		*ns = vm_system_time(vm, vm->os->ops->read_tsc(vm->os->ctx));
		error = 0;
	}
	pthread_mutex_unlock(&vm->lock);
	return error;
}

void pvclock_vm_move_reference(struct pvclock_vm *vm, uint64_t offset)
{
	size_t i;

	pthread_mutex_lock(&vm->lock);
	vm->reference.offset += offset;
	for (i = 0; i < vm->vcpu_count; i++)
		vm->vcpus[i]->synced = false;
	pthread_mutex_unlock(&vm->lock);
}

void pvclock_vm_declare_unstable(struct pvclock_vm *vm, const struct pvclock_reason *reason)
{
	enum pvclock_reason_code before;

	pthread_mutex_lock(&vm->lock);
	before = vm->unstable.code;
	if (reason)
		vm->declared = *reason;
	else
		pvclock_reason_clear(&vm->declared);
	vm_judge_stability(vm);
	if (before != vm->unstable.code && !vm->paused)
		vm_publish_all(vm);
	pthread_mutex_unlock(&vm->lock);
}

bool pvclock_vm_stable(const struct pvclock_vm *vm, struct pvclock_reason *reason)
{
	struct pvclock_vm *mutable = (struct pvclock_vm *)vm;
	bool stable;

	pthread_mutex_lock(&mutable->lock);
	stable = vm->unstable.code == PVCLOCK_REASON_NONE;
	if (reason)
		*reason = vm->unstable;
	pthread_mutex_unlock(&mutable->lock);
	return stable;
}

/* --- publication ------------------------------------------------------------------------ */

bool vm_publish_vcpu(struct pvclock_vcpu *vcpu)
{
	uint8_t flags = 0;

	if (!vcpu->page.host || !vcpu->vm->has_line)
		return false;
	if (vcpu->vm->unstable.code == PVCLOCK_REASON_NONE)
		flags |= PVCLOCK_TSC_STABLE;
	if (vcpu->stop_pending)
		flags |= PVCLOCK_GUEST_STOPPED;
	pvclock_page_write(vcpu->page.host, vcpu_line(vcpu), flags);
	vm_mark_dirty(&vcpu->page, sizeof(struct pvclock_page));
	vcpu->stop_pending = false;
	return true;
}

size_t vm_publish_all(struct pvclock_vm *vm)
{
	size_t written = 0, i;

	for (i = 0; i < vm->vcpu_count; i++)
		written += vm_publish_vcpu(vm->vcpus[i]);
	return written;
}

size_t pvclock_vm_publish(struct pvclock_vm *vm)
{
	size_t written;

	pthread_mutex_lock(&vm->lock);
	written = vm_publish_all(vm);
	pthread_mutex_unlock(&vm->lock);
	return written;
}

/* --- events ------------------------------------------------------------------------------ */

int pvclock_vm_pause(struct pvclock_vm *vm)
{
	int error = -EALREADY;

	pthread_mutex_lock(&vm->lock);
	if (!vm->paused) {
		vm->paused = true;
		error = 0;
	}
	pthread_mutex_unlock(&vm->lock);
	return error;
}

int pvclock_vm_resume(struct pvclock_vm *vm)
{
	int error = 0;
	size_t i;

	pthread_mutex_lock(&vm->lock);
	if (!vm->paused) {
		error = -EALREADY;
	} else {
		for (i = 0; i < vm->vcpu_count; i++)
			vm->vcpus[i]->stop_pending |= (vm->vcpus[i]->system_time_msr & PVCLOCK_MSR_ENABLE) != 0;
		vm_publish_all(vm);
		vm->paused = false;
	}
	pthread_mutex_unlock(&vm->lock);
	return error;
}
