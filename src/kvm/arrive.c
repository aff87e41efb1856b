/* SPDX-License-Identifier: MIT */
/*
 * arrive.c - a VM whose state came by a snapshot or a migration of the VMM's own: the counters that it was saved with and
 * the line in its page are the clock, whole. The counters are set to run on from where they were; the line stays as it
 * is, or is continued there if this host runs at another rate.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>

#define BELIEVED_NS 3600000000000 /* what a VMM may spend between saving its counters and asking for the clock */

/* The transform under which a vCPU's TSC reads `tsc` at host tick `now`. */
static struct pvclock_tsc_transform wanted_tsc(const struct pvclock_arrival_tsc *arrival, struct pvclock_host_tsc now)
{
	struct pvclock_tsc_transform transform;

	pvclock_vcpu_get_tsc(arrival->vcpu, &transform);
	transform.offset = 0;
	transform.offset = arrival->tsc - pvclock_tsc_to_guest(&transform, now).ticks;
	return transform;
}

/*
 * A write, even of the offset that holds, makes KVM judge its master clock anew, and vCPUs match only if all were written
 * alike: all or none. Where the last ones were ignored, none: KVM's new snapshot at the next entry would move a clock that was
 * aimed by up to 1 ns, for nothing.
 */
static int set_counters(struct pvclock_kvm *kvm, const struct pvclock_arrival *arrival, struct pvclock_reason *reason)
{
	struct pvclock_tsc_transform tsc;
	bool hold = true, write = !kvm->offsets_ignored;
	size_t i;

	for (i = 0; i < arrival->tsc_count; i++) {
		pvclock_vcpu_get_tsc(arrival->tscs[i].vcpu, &tsc);
		hold = hold && tsc.offset == wanted_tsc(&arrival->tscs[i], kvm->last).offset;
	}
	for (i = 0; !hold && i < arrival->tsc_count; i++) {
		struct pvclock_tsc_transform wanted = wanted_tsc(&arrival->tscs[i], kvm->last);
		struct pvclock_reason declared;
		int error = pvclock_kvm_want_tsc_offset(kvm, arrival->tscs[i].vcpu, wanted.offset, write, &declared);

		if (error == -EOPNOTSUPP && reason && reason->code == PVCLOCK_REASON_NONE)
			*reason = declared;
		if (error && error != -EOPNOTSUPP)
			return error;
	}
	return 0;
}

/* Where the clock goes on from: the line, if it can be what the guest read, else what the VMM says. */
static int choose_line(const struct pvclock_arrival *arrival, struct pvclock_line *line, struct pvclock_arrived *arrived,
		       struct pvclock_reason *reason)
{
	uint64_t there = pvclock_line_ns(&arrival->line, arrival->tscs[0].tsc);
	bool valid = pvclock_line_valid(&arrival->line);

	arrived->apart_ns = valid && arrival->ns != UINT64_MAX ? (int64_t)(arrival->ns - there) : 0;
	arrived->line_used = valid && arrived->apart_ns <= BELIEVED_NS && arrived->apart_ns >= -BELIEVED_NS;
	*line = arrival->line;
	if (arrived->line_used)
		return 0;
	if (arrival->ns == UINT64_MAX)
		return -EINVAL;
	if (valid)
		pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_FIELD,
				   "The guest's clock page is %.0f s away from the clock that the VMM saved and is not believed; the "
				   "clock goes on from the latter.", -(double)arrived->apart_ns / 1e9);
	*line = (struct pvclock_line){ .tsc = arrival->tscs[0].tsc, .ns = arrival->ns, .mul = 1u << 31 };
	return 0;
}

/* For a counter that runs `moved` ticks ahead of what it was asked to. Not 0, which disarms. */
static uint64_t move_deadline(uint64_t deadline, int64_t moved)
{
	uint64_t tick = deadline + (uint64_t)moved;

	if (moved > 0 && tick < deadline)
		return UINT64_MAX;
	return moved < 0 && (tick > deadline || tick == 0) ? 1 : tick;
}

/*
 * A timer that KVM has armed stays where the old offset put it: each deadline is written again, as the tick at which the
 * clock reaches what the guest meant by the old line. One that has passed fires at once.
 */
static int rearm_deadlines(struct pvclock_kvm *kvm, const struct pvclock_arrival *arrival, const struct pvclock_switch *at)
{
	int error = 0;
	size_t i;

	for (i = 0; error == 0 && i < arrival->tsc_count; i++) {
		const struct pvclock_arrival_tsc *saved = &arrival->tscs[i];
		const struct kvm_vcpu *vcpu = pvclock_kvm_find_vcpu(kvm, pvclock_vcpu_index(saved->vcpu));
		struct pvclock_tsc_transform wanted = wanted_tsc(saved, kvm->last), real;
		uint64_t deadline = saved->deadline;

		if (vcpu && !deadline && arrival->kvm_has_deadlines)
			pvclock_kvm_get_msr(kvm, vcpu, MSR_IA32_TSC_DEADLINE, &deadline);
		if (!vcpu || !deadline)
			continue;
		pvclock_vcpu_get_tsc(saved->vcpu, &real);
		error = pvclock_kvm_set_msr(kvm, vcpu, MSR_IA32_TSC_DEADLINE,
					    move_deadline(pvclock_switch_deadline(at, saved->tsc, deadline),
							  (int64_t)(real.offset - wanted.offset)));
	}
	return error;
}

/* What the guest's own guests have their clocks from was `line`, over the counter that was asked for. */
static void tell_change(struct pvclock_kvm *kvm, const struct pvclock_arrival *arrival, const struct pvclock_line *line)
{
	struct pvclock_line_change change = { .old = *line, .old_ticks = arrival->tscs[0].tsc };

	change.next_ticks = change.old_ticks + (uint64_t)kvm->moved_ticks;
	if (pvclock_vcpu_get_line(arrival->tscs[0].vcpu, &change.next) == 0)
		pvclock_vm_line_changed(kvm->vm, &change);
}

int pvclock_kvm_arrive_again(struct pvclock_kvm *kvm, const struct pvclock_arrival *arrival, struct pvclock_arrived *out,
			     struct pvclock_reason *reason)
{
	struct pvclock_arrived unused, *arrived = out ? out : &unused;
	struct pvclock_tsc_transform wanted, real;
	struct pvclock_switch at;
	struct pvclock_slope slope;
	struct pvclock_line line;
	int paused, error;

	pvclock_reason_clear(reason);
	*arrived = (struct pvclock_arrived){ 0 };
	if (arrival->tsc_count == 0 || kvm->vcpu_count == 0 || !(arrival->host->mantissa >> 63))
		return -EINVAL;
	if (!kvm->mode->slope)
		return -ENOTSUP;
	paused = pvclock_vm_pause(kvm->vm); /* -EALREADY: it was */
	error = choose_line(arrival, &line, arrived, reason);
	if (error == 0)
		error = pvclock_kvm_read_tscs(kvm, arrival->host);
	if (error == 0)
		error = kvm->mode->slope(kvm, arrival->host, &slope);
	if (error == 0 && !pvclock_switch_make(&at, &line, arrival->tscs[0].tsc, &slope))
		error = -EINVAL;
	if (error) { /* as it was */
		if (paused == 0)
			pvclock_vm_resume(kvm->vm);
		return error;
	}
	arrived->exact = at.exact && arrived->line_used;
	arrived->rate_difference = arrived->line_used ? at.rate_difference : 0;
	kvm->held = true;
	kvm->host = *arrival->host;
	kvm->last = arrival->at.ticks ? arrival->at : kvm->os->ops->read_tsc(kvm->os->ctx);
	if (!at.exact)
		kvm->from_page = false;
	wanted = wanted_tsc(&arrival->tscs[0], kvm->last);
	error = set_counters(kvm, arrival, reason);
	if (error)
		return error;
	/* The line belongs to the counter that was asked for; one that KVM runs otherwise reads it shifted. */
	pvclock_vcpu_get_tsc(arrival->tscs[0].vcpu, &real);
	error = pvclock_vcpu_set_line(arrival->tscs[0].vcpu, &at.line);
	pvclock_vm_move_reference(kvm->vm, wanted.offset - real.offset);
	kvm->moved_ticks = (int64_t)(real.offset - wanted.offset);
	tell_change(kvm, arrival, &line);
	if (arrival->hyperv.hyperv.scale)
		pvclock_vm_adopt_hyperv(kvm->vm, &arrival->hyperv, arrival->tscs[0].tsc);
	if (error == 0 && arrived->line_used)
		error = rearm_deadlines(kvm, arrival, &at);
	if (error == 0 && kvm->mode->arrived)
		error = kvm->mode->arrived(kvm);
	return error;
}

int pvclock_kvm_arrive(struct pvclock_kvm *kvm, const struct pvclock_arrival *arrival, struct pvclock_arrived *arrived,
		       struct pvclock_reason *reason)
{
	struct kvm_peek peek;
	int error;

	pvclock_kvm_peek_host(kvm, &peek);
	error = pvclock_kvm_arrive_again(kvm, arrival, arrived, reason);

	if (error == 0) {
		pvclock_kvm_forget_sleep(kvm); /* it was before this clock */
		pvclock_kvm_made_anew(kvm, &peek, arrival->host);
		kvm->loaded = true;
	}
	return error;
}
