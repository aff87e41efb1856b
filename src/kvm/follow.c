/* SPDX-License-Identifier: MIT */
/*
 * follow.c - a host that is itself a guest, whose own line has become another (told by src/host/parent.c, or noticed by
 * watch.c). The engine's line is one thing; what this binding measures by the machine's TSC, and the timers that KVM
 * has armed by it, are the other.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <pvclock/parent.h>

#include <errno.h>
#include <stdlib.h>

/* How many ticks of a line it takes to come that far. */
static uint64_t ticks_of(const struct pvclock_line *line, uint64_t ns)
{
	struct pvclock_line begun = { .mul = line->mul, .shift = line->shift };
	struct pvclock_inverse inverse;
	uint64_t ticks;

	pvclock_inverse_make(&inverse, &begun);
	return pvclock_first_tick(&inverse, ns, &ticks) ? ticks : 0;
}

/* How far a line has come from its anchor, or was before it. */
static int64_t ns_from_anchor(const struct pvclock_line *line, uint64_t ticks)
{
	struct pvclock_line begun = { .mul = line->mul, .shift = line->shift };

	if (ticks < line->tsc)
		return -(int64_t)pvclock_line_ns(&begun, line->tsc - ticks);
	return (int64_t)pvclock_line_ns(&begun, ticks - line->tsc);
}

uint64_t pvclock_kvm_retrace(const struct pvclock_line *was, const struct pvclock_line *is, struct pvclock_host_tsc now, uint64_t then)
{
	int64_t ns = (int64_t)(was->ns - is->ns) + ns_from_anchor(was, then);
	uint64_t ticks;

	if (ns < 0)
		return is->tsc - ticks_of(is, (uint64_t)-ns);
	ticks = is->tsc + ticks_of(is, (uint64_t)ns);
	return ticks > now.ticks ? now.ticks : ticks;
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

int pvclock_kvm_begin_follow(struct pvclock_kvm *kvm, struct kvm_follow *follow)
{
	*follow = (struct kvm_follow){ .lines = calloc(kvm->vcpu_count ? kvm->vcpu_count : 1, sizeof(struct pvclock_line)) };
	if (!follow->lines)
		return -ENOMEM;
	for (size_t i = 0; i < kvm->vcpu_count; i++)
		pvclock_vcpu_get_line(kvm->vcpus[i].vcpu, &follow->lines[i]);
	follow->host_known = kvm->vcpu_count && host_lines(kvm, &follow->host);
	return 0;
}

int pvclock_kvm_end_follow(struct pvclock_kvm *kvm, struct kvm_follow *follow, bool followed)
{
	struct pvclock_host_tsc now = kvm->os->ops->read_tsc(kvm->os->ctx);
	struct pvclock_line is;
	int error = 0;

	kvm->followed |= followed && kvm->held;
	/* the blackout, and the mark of the host's sleep, began by the old line */
	if (followed && follow->host_known && host_lines(kvm, &is)) {
		kvm->last.ticks = pvclock_kvm_retrace(&follow->host, &is, now, kvm->last.ticks);
		kvm->mark.at.ticks = pvclock_kvm_retrace(&follow->host, &is, now, kvm->mark.at.ticks);
	}
	for (size_t i = 0; followed && error == 0 && i < kvm->vcpu_count; i++)
		error = rearm(kvm, &kvm->vcpus[i], &follow->lines[i]);
	free(follow->lines);
	return error;
}

void pvclock_kvm_keep_ahead(struct pvclock_kvm *kvm, const struct pvclock_line *was, struct pvclock_host_tsc now, struct pvclock_line *line)
{
	struct pvclock_tsc_transform tsc;
	uint64_t read, reads;

	pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &tsc);
	read = pvclock_line_ns(was, pvclock_tsc_to_guest(&tsc, kvm->held ? kvm->last : now).ticks);
	reads = pvclock_line_ns(line, pvclock_tsc_to_guest(&tsc, now).ticks);
	if (!kvm->held)
		kvm->off_ns += (int64_t)(read - reads);
	if (reads < read)
		line->ns += read - reads;
}

/* A guest that the parent could not reach has run by the line that had gone. */
static void never_back(struct pvclock_kvm *kvm, const struct pvclock_line *was, struct pvclock_host_tsc now)
{
	struct pvclock_line line;

	if (pvclock_vcpu_get_line(kvm->vcpus[0].vcpu, &line))
		return;
	pvclock_kvm_keep_ahead(kvm, was, now, &line);
	pvclock_vcpu_set_line(kvm->vcpus[0].vcpu, &line);
}

int pvclock_kvm_follow_parent(struct pvclock_kvm *kvm)
{
	struct pvclock_host_tsc now = kvm->os->ops->read_tsc(kvm->os->ctx);
	struct kvm_follow before;
	struct pvclock_reason reason;
	int error, followed;

	if (!pvclock_parent_changed(kvm->vm))
		return 0;
	error = pvclock_kvm_begin_follow(kvm, &before);
	if (error)
		return error;
	followed = pvclock_parent_follow(kvm->vm, &kvm->host, &reason);
	if (followed == -ESTALE)
		pvclock_vm_declare_unstable(kvm->vm, &reason);
	if (followed == 2)
		never_back(kvm, &before.lines[0], now);
	return pvclock_kvm_end_follow(kvm, &before, followed > 0);
}
