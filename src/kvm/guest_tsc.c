/* SPDX-License-Identifier: MIT */
/* guest_tsc.c - a guest that writes its own TSC, in own mode: the kernel would move the counter and tell nobody. */
#include "kvm.h"

#include <errno.h>

/* Where KVM armed it is where the old offset put it. */
static void rearm_deadline(const struct pvclock_kvm *kvm, const struct kvm_vcpu *vcpu)
{
	uint64_t deadline;

	if (pvclock_kvm_get_msr(kvm, vcpu, MSR_IA32_TSC_DEADLINE, &deadline) == 0 && deadline != 0)
		pvclock_kvm_set_msr(kvm, vcpu, MSR_IA32_TSC_DEADLINE, deadline);
}

/*
 * By how much the counter is to move: a write to either moves both alike (Intel SDM 3B 18.17.3). False: the guest has
 * no IA32_TSC_ADJUST.
 */
static bool wanted_move(const struct pvclock_kvm *kvm, const struct kvm_vcpu *vcpu, uint32_t msr, uint64_t value, uint64_t *move)
{
	struct pvclock_tsc_transform tsc;
	uint64_t adjust = 0, is;
	bool known = pvclock_kvm_get_msr(kvm, vcpu, MSR_IA32_TSC_ADJUST, &adjust) == 0;

	pvclock_vcpu_get_tsc(vcpu->vcpu, &tsc);
	if (msr == MSR_IA32_TSC) {
		*move = value - pvclock_tsc_to_guest(&tsc, kvm->os->ops->read_tsc(kvm->os->ctx)).ticks;
		if (known) /* a host's write moves no counter */
			pvclock_kvm_set_msr(kvm, vcpu, MSR_IA32_TSC_ADJUST, adjust + *move);
		return true;
	}
	*move = value - adjust;
	return known && pvclock_kvm_set_msr(kvm, vcpu, msr, value) == 0 && pvclock_kvm_get_msr(kvm, vcpu, msr, &is) == 0 && is == value;
}

static int move_tsc(struct pvclock_kvm *kvm, const struct kvm_vcpu *vcpu, uint64_t move)
{
	struct pvclock_tsc_transform tsc;
	struct pvclock_reason reason;
	uint64_t known;
	int error;

	pvclock_vcpu_get_tsc(vcpu->vcpu, &tsc);
	if (pvclock_kvm_read_tsc_offset(kvm->os, vcpu->fd, &known) == 0) {
		error = pvclock_kvm_set_tsc_offset(kvm, vcpu->vcpu, tsc.offset + move, &reason);
		return error == -EOPNOTSUPP ? 0 : error; /* it stays where it is, and so does the page */
	}
	/* before Linux 5.16: KVM makes up its own mind about a counter that is written, and is asked what it was */
	error = pvclock_kvm_set_msr(kvm, vcpu, MSR_IA32_TSC,
				    pvclock_tsc_to_guest(&tsc, kvm->os->ops->read_tsc(kvm->os->ctx)).ticks + move);
	return error ? error : pvclock_kvm_reread_offset(kvm, vcpu);
}

int pvclock_kvm_guest_writes_tsc(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value)
{
	const struct kvm_vcpu *found;
	uint64_t move;
	int error = 0;

	pthread_mutex_lock(&kvm->lock);
	found = pvclock_kvm_find_vcpu(kvm, pvclock_vcpu_index(vcpu));
	if (!found) {
		error = -ENOENT;
	} else if (wanted_move(kvm, found, msr, value, &move) && move != 0) {
		error = move_tsc(kvm, found, move);
		rearm_deadline(kvm, found);
	}
	pthread_mutex_unlock(&kvm->lock);
	return error;
}
