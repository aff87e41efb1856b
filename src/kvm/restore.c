/* SPDX-License-Identifier: MIT */
/*
 * restore.c - the clock of a VM on KVM, saved and put back: refused as a whole before anything changed, or carried
 * out.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>

int pvclock_kvm_save(struct pvclock_kvm *kvm, struct pvclock_record *record)
{
	int error = pvclock_record_capture(kvm->vm, record);

	if (error)
		return error;
	if (kvm->host.mantissa)
		record->host = kvm->host;
	if (kvm->mode->save)
		error = kvm->mode->save(kvm, record);
	if (error)
		pvclock_record_clear(record);
	return error;
}

/* What can be refused is refused here, with nothing changed. */
static int check_restore(struct pvclock_kvm *kvm, const struct pvclock_record *record, struct pvclock_reason *reason)
{
	uint32_t i;

	if (kvm->os->ops->read_tsc(kvm->os->ctx).ticks < record->at.ticks) {
		pvclock_reason_set(reason, PVCLOCK_REASON_OTHER_HOST,
				   "The record was saved at host TSC %llu, which this host has not reached: it is of another host or "
				   "another boot; restore it there.", (unsigned long long)record->at.ticks);
		return -EINVAL;
	}
	for (i = 0; i < record->vcpu_count; i++) {
		if (pvclock_kvm_find_vcpu(kvm, record->vcpus[i].index))
			continue;
		pvclock_reason_set(reason, PVCLOCK_REASON_VCPU_COUNT,
				   "The record holds vCPU %u, which was not given to pvclock_kvm_add_vcpu.",
				   record->vcpus[i].index);
		return -EINVAL;
	}
	return 0;
}

/*
 * A write, even of the offset that holds, makes KVM judge its master clock anew, and vCPUs match only if all were
 * written alike: all or none. An offset that KVM does not honour is declared in the reason; the vCPU's line has
 * followed.
 */
static int restore_offsets(struct pvclock_kvm *kvm, const struct pvclock_record *record, struct pvclock_reason *reason)
{
	struct pvclock_tsc_transform tsc;
	bool hold = true;
	uint32_t i;
	int error;

	for (i = 0; i < record->vcpu_count; i++) {
		pvclock_vcpu_get_tsc(pvclock_kvm_find_vcpu(kvm, record->vcpus[i].index)->vcpu, &tsc);
		hold = hold && tsc.offset == record->vcpus[i].tsc.offset;
	}
	for (i = 0; !hold && i < record->vcpu_count; i++) {
		struct pvclock_reason declared;

		error = pvclock_kvm_set_tsc_offset(kvm, pvclock_kvm_find_vcpu(kvm, record->vcpus[i].index)->vcpu,
						   record->vcpus[i].tsc.offset, &declared);
		if (error == -EOPNOTSUPP && reason && reason->code == PVCLOCK_REASON_NONE)
			*reason = declared;
		if (error && error != -EOPNOTSUPP)
			return error;
	}
	pvclock_vcpu_get_tsc(pvclock_kvm_find_vcpu(kvm, record->vcpus[0].index)->vcpu, &tsc);
	kvm->moved_ticks = (int64_t)(tsc.offset - record->vcpus[0].tsc.offset);
	return 0;
}

int pvclock_kvm_restore(struct pvclock_kvm *kvm, const struct pvclock_record *record, struct pvclock_reason *reason)
{
	int paused = pvclock_vm_pause(kvm->vm), error;

	pvclock_reason_clear(reason);
	error = check_restore(kvm, record, reason);
	if (error == 0)
		error = pvclock_kvm_read_tscs(kvm, &record->host);
	if (error == 0)
		error = pvclock_record_apply(record, kvm->vm, NULL, reason);
	if (error) {
		if (paused == 0)
			pvclock_vm_resume(kvm->vm);
		return error;
	}
	kvm->host = record->host;
	kvm->last = kvm->os->ops->read_tsc(kvm->os->ctx);
	kvm->from_page = false;
	error = restore_offsets(kvm, record, reason);
	if (error == 0 && kvm->mode->restore)
		error = kvm->mode->restore(kvm, record, reason);
	if (error == 0 && kvm->mode->arrived)
		error = kvm->mode->arrived(kvm);
	if (error && reason && reason->code == PVCLOCK_REASON_NONE)
		pvclock_reason_set(reason, PVCLOCK_REASON_OS, "KVM did not take the clock's state (error %d).", -error);
	return error;
}
