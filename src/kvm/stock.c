/* SPDX-License-Identifier: MIT */
/*
 * stock.c - what a VMM gets from KVM without this library, for comparison: KVM_GET_CLOCK when the VM stops,
 * KVM_SET_CLOCK with flags 0 and the same value when it goes on, KVM_KVMCLOCK_CTRL on each vCPU (QEMU
 * hw/i386/kvm/clock.c). Deliberately not improved.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>

static int stock_pause(struct pvclock_kvm *kvm)
{
	int error = pvclock_kvm_get_clock(kvm, &kvm->paused);

	/* The line is only learnt so that a record can hold it; nothing here depends on it. */
	if (error == 0)
		pvclock_kernel_clock_learn(kvm);
	return error;
}

static int stock_resume(struct pvclock_kvm *kvm, struct pvclock_correction *correction, struct pvclock_reason *reason)
{
	int error = pvclock_kvm_set_clock(kvm, kvm->paused.clock);

	correction->tries = 1;
	if (error)
		pvclock_reason_set(reason, PVCLOCK_REASON_OS, "KVM refused to set its clock (error %d).", -error);
	pvclock_vm_resume(kvm->vm);
	pvclock_kernel_clock_mark_stopped(kvm);
	return error;
}

static int stock_save(struct pvclock_kvm *kvm, struct pvclock_record *record)
{
	if (kvm->paused.flags & KVM_CLOCK_HOST_TSC) { /* what KVM_GET_CLOCK said at the pause, and when */
		record->time.at.ticks = kvm->paused.host_tsc;
		record->system_time = pvclock_line_ns(&record->line,
						      pvclock_tsc_to_guest(&record->reference, record->time.at).ticks);
	}
	return pvclock_kernel_clock_save(kvm, record);
}

static int restore_offsets(struct pvclock_kvm *kvm, const struct pvclock_record *record)
{
	int error = 0;
	uint32_t i;

	for (i = 0; i < record->vcpu_count && (error == 0 || error == -EOPNOTSUPP); i++)
		error = pvclock_kvm_set_tsc_offset(kvm, pvclock_kvm_find_vcpu(kvm, record->vcpus[i].index)->vcpu,
						   record->vcpus[i].tsc.offset, NULL);
	return error == -EOPNOTSUPP ? 0 : error;
}

/* As they were saved, in ticks, as QEMU writes them back. */
static int restore_deadlines(struct pvclock_kvm *kvm, const struct pvclock_record *record)
{
	int error = 0;
	uint32_t i;

	for (i = 0; error == 0 && i < record->vcpu_count; i++)
		if (record->vcpus[i].tsc_deadline)
			error = pvclock_kvm_set_msr(kvm, pvclock_kvm_find_vcpu(kvm, record->vcpus[i].index), MSR_IA32_TSC_DEADLINE,
						    record->vcpus[i].tsc_deadline);
	return error;
}

static int stock_restore(struct pvclock_kvm *kvm, const struct pvclock_record *record, struct pvclock_reason *reason)
{
	int error = pvclock_record_apply(record, kvm->vm, NULL, reason);

	if (error == 0)
		error = restore_offsets(kvm, record);
	if (error == 0)
		error = restore_deadlines(kvm, record);
	if (error)
		return error;
	kvm->host = record->host;
	kvm->paused = (struct kvm_clock){ .clock = record->system_time };
	return pvclock_kernel_clock_restore(kvm, record, reason);
}

const struct kvm_mode pvclock_kvm_mode_stock = {
	.mode = PVCLOCK_MODE_STOCK,
	.pause = stock_pause,
	.resume = stock_resume,
	.save = stock_save,
	.restore = stock_restore,
};
