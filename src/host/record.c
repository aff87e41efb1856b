/* SPDX-License-Identifier: MIT */
/* record.c - takes a paused VM's clock out of the engine, and puts it back. */
#include "vm.h"
#include "reason.h"

#include <errno.h>
#include <stdlib.h>

void pvclock_record_clear(struct pvclock_record *record)
{
	free(record->vcpus);
	*record = (struct pvclock_record){ 0 };
}

int pvclock_record_capture(struct pvclock_vm *vm, struct pvclock_record *record)
{
	int error = 0;
	size_t i;

	*record = (struct pvclock_record){ 0 };
	pthread_mutex_lock(&vm->lock);
	if (!vm->paused)
		error = -EBUSY;
	else if (!vm->has_line || vm->vcpu_count == 0)
		error = -ENODATA;
	else
		error = pvclock_host_time_refresh(vm->os, &vm->time);
	if (error)
		goto out;
	/* The record knows the line alone: what a guest of this guest reads is in memory, which is saved after this. */
	pvclock_vm_settle_nested(vm);
	record->vcpus = calloc(vm->vcpu_count, sizeof(*record->vcpus));
	if (!record->vcpus) {
		error = -ENOMEM;
		goto out;
	}
	record->line = vm->line;
	record->reference = vm->reference;
	record->stable = vm->unstable.code == PVCLOCK_REASON_NONE;
	record->wall_clock_msr = vm->wall_clock_msr;
	record->host = vm->host;
	record->time = vm->time;
	record->system_time = pvclock_vm_system_time(vm, record->time.at);
	record->policy = vm->policy;
	record->account = vm->account;
	record->suspend_control = vm->suspend_control;
	record->suspend_msr = vm->suspend_msr;
	record->nested_control = vm->nested.control;
	record->nested_msr = vm->nested.msr;
	pvclock_vm_capture_hyperv(vm, record);
	record->vcpu_count = (uint32_t)vm->vcpu_count;
	for (i = 0; i < vm->vcpu_count; i++) {
		const struct pvclock_vcpu *vcpu = vm->vcpus[i];

		record->vcpus[i] = (struct pvclock_record_vcpu){
			.index = vcpu->index,
			.system_time_msr = vcpu->system_time_msr,
			.old_msrs = vcpu->old_msrs,
			.guest_stopped = vcpu->stop_pending,
			.tsc = vcpu->tsc,
			.deadline_control = vcpu->deadline_control,
			.deadline_ns = vcpu->deadline_ns,
			.steal_msr = vcpu->steal_msr,
			.steal_ns = vcpu->steal_ns,
		};
	}
out:
	pthread_mutex_unlock(&vm->lock);
	return error;
}

/* With another rate the line would be another: that is a migration, and needs more than to be put back. */
static bool same_rates(const struct pvclock_record *record, const struct pvclock_vm *vm, struct pvclock_reason *reason)
{
	size_t i;

	for (i = 0; i < vm->vcpu_count; i++) {
		if (tsc_same_rate(&vm->vcpus[i]->tsc, &record->vcpus[i].tsc))
			continue;
		pvclock_reason_set(reason, PVCLOCK_REASON_TSC_RATES_DIFFER,
				   "The record's vCPU %u has another TSC ratio than this VM's; give the VM the record's TSC rate.",
				   record->vcpus[i].index);
		return false;
	}
	return true;
}

static bool same_vcpus(const struct pvclock_record *record, const struct pvclock_vm *vm, struct pvclock_reason *reason)
{
	size_t i;

	if (record->vcpu_count != vm->vcpu_count) {
		pvclock_reason_set(reason, PVCLOCK_REASON_VCPU_COUNT,
				   "The record holds %u vCPUs and this VM has %zu; start it with as many.",
				   record->vcpu_count, vm->vcpu_count);
		return false;
	}
	for (i = 0; i < vm->vcpu_count; i++) {
		if (record->vcpus[i].index == vm->vcpus[i]->index)
			continue;
		pvclock_reason_set(reason, PVCLOCK_REASON_VCPU_COUNT,
				   "The record holds vCPU %u where this VM has vCPU %u; give it the same vCPU numbers.",
				   record->vcpus[i].index, vm->vcpus[i]->index);
		return false;
	}
	return true;
}

/* A first vCPU whose counter the hypervisor runs elsewhere reads the line moved. */
static void tell_move(const struct pvclock_record *record, struct pvclock_vm *vm)
{
	const struct pvclock_record_vcpu *first = &record->vcpus[0];
	struct pvclock_line_change change = { .old = record->line, .next = *pvclock_vcpu_line(vm->vcpus[0]) };

	pvclock_line_shift(&change.old, (int64_t)(first->tsc.offset - record->reference.offset));
	change.old_ticks = pvclock_tsc_to_guest(&first->tsc, record->time.at).ticks;
	change.next_ticks = change.old_ticks + (vm->vcpus[0]->tsc.offset - first->tsc.offset);
	pvclock_vm_add_change(vm, &change);
}

int pvclock_record_apply(const struct pvclock_record *record, struct pvclock_vm *vm, int64_t *moved,
			 struct pvclock_reason *reason)
{
	int error = 0;
	size_t i;

	pvclock_reason_clear(reason);
	pthread_mutex_lock(&vm->lock);
	if (!vm->paused) {
		error = -EBUSY;
		goto out;
	}
	if (!pvclock_record_check(record, reason) || !same_vcpus(record, vm, reason) || !same_rates(record, vm, reason)) {
		error = -EINVAL;
		goto out;
	}
	/* Nothing fails from here on. */
	vm->policy = record->policy;
	vm->account = record->account;
	vm->wall_clock_msr = record->wall_clock_msr;
	vm->suspend_control = record->suspend_control;
	vm->suspend_msr = record->suspend_msr;
	pvclock_vm_resolve_suspend(vm);
	vm->nested.control = record->nested_control;
	vm->nested.msr = record->nested_msr;
	pvclock_vm_resolve_nested(vm);
	pvclock_vm_apply_hyperv(vm, record);
	for (i = 0; i < vm->vcpu_count; i++) {
		struct pvclock_vcpu *vcpu = vm->vcpus[i];

		vcpu->system_time_msr = record->vcpus[i].system_time_msr;
		vcpu->old_msrs = record->vcpus[i].old_msrs;
		vcpu->stop_pending = record->vcpus[i].guest_stopped;
		vcpu->deadline_control = record->vcpus[i].deadline_control;
		vcpu->deadline_ns = record->vcpus[i].deadline_ns;
		if (vm->owns_steal)
			pvclock_vm_restore_steal(vcpu, record->vcpus[i].steal_msr, &record->vcpus[i].steal_ns);
		pvclock_vm_resolve(vcpu);
	}
	pvclock_vm_set_line(vm, &record->line, &record->reference, &record->host);
	tell_move(record, vm);
	if (moved)
		*moved = (int64_t)(vm->vcpus[0]->tsc.offset - record->vcpus[0].tsc.offset);
out:
	pthread_mutex_unlock(&vm->lock);
	return error;
}
