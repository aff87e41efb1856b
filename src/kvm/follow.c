/* SPDX-License-Identifier: MIT */
/*
 * follow.c - a host that is itself a guest of a pvclock host, whose line has become another (src/host/parent.c). The engine's line is one
 * thing; what this binding measures by the machine's TSC, and the timers that KVM has armed by it, are the other.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <pvclock/parent.h>

#include <errno.h>
#include <stdlib.h>

/* Where the host's TSC would have been then, had it always run as it does now. */
static uint64_t retrace(const struct pvclock_line *was, const struct pvclock_line *is, struct pvclock_host_tsc now, uint64_t then)
{
	struct pvclock_inverse inverse;
	uint64_t ns = pvclock_line_ns(was, then), ticks;

	pvclock_inverse_make(&inverse, is);
	if (!pvclock_first_tick(&inverse, ns, &ticks) || ticks > now.ticks)
		return now.ticks;
	return ticks;
}

/* A guest has armed it as a tick, and meant a time. */
static int rearm(struct pvclock_kvm *kvm, const struct kvm_vcpu *vcpu, const struct pvclock_line *was)
{
	struct pvclock_inverse inverse;
	struct pvclock_line is;
	uint64_t deadline, ticks;

	if (pvclock_vcpu_get_line(vcpu->vcpu, &is) || pvclock_kvm_get_msr(kvm, vcpu, MSR_IA32_TSC_DEADLINE, &deadline) || deadline == 0)
		return 0;
	pvclock_inverse_make(&inverse, &is);
	if (!pvclock_first_tick(&inverse, pvclock_line_ns(was, deadline), &ticks))
		ticks = UINT64_MAX;
	return pvclock_kvm_set_msr(kvm, vcpu, MSR_IA32_TSC_DEADLINE, ticks ? ticks : 1);
}

/* The VM's line over this machine's own TSC, by its first vCPU's. False: scaled, and no line that can be taken back. */
static bool host_lines(const struct pvclock_kvm *kvm, struct pvclock_line *line)
{
	struct pvclock_tsc_transform tsc;

	pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &tsc);
	if (tsc.frac_bits || pvclock_vcpu_get_line(kvm->vcpus[0].vcpu, line))
		return false;
	pvclock_line_shift(line, (int64_t)-tsc.offset);
	return true;
}

int pvclock_kvm_follow_parent(struct pvclock_kvm *kvm, struct pvclock_reason *reason)
{
	struct pvclock_line *lines = calloc(kvm->vcpu_count ? kvm->vcpu_count : 1, sizeof(*lines)), was, is;
	struct pvclock_host_tsc now;
	bool known;
	int error = 0, followed;
	size_t i;

	if (!lines)
		return -ENOMEM;
	for (i = 0; i < kvm->vcpu_count; i++)
		pvclock_vcpu_get_line(kvm->vcpus[i].vcpu, &lines[i]);
	known = kvm->vcpu_count && host_lines(kvm, &was);
	followed = pvclock_parent_follow(kvm->vm, &kvm->host, reason);
	if (followed == 1) {
		now = kvm->os->ops->read_tsc(kvm->os->ctx);
		/* the blackout, and the mark of the host's sleep, began by the old line */
		if (known && host_lines(kvm, &is)) {
			kvm->last.ticks = retrace(&was, &is, now, kvm->last.ticks);
			kvm->mark.at.ticks = retrace(&was, &is, now, kvm->mark.at.ticks);
		}
		for (i = 0; error == 0 && i < kvm->vcpu_count; i++)
			error = rearm(kvm, &kvm->vcpus[i], &lines[i]);
	}
	free(lines);
	return error ? error : followed;
}
