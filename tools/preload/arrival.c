/* SPDX-License-Identifier: MIT */
/*
 * arrival.c - a VM from a snapshot or another host. What QEMU carries is the guest's memory, with every vCPU's clock page
 * in it, their registrations and their counters: the clock, whole. No vCPU runs yet.
 */
#include "preload.h"
#include "rate_ppb.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SNAP_NS 1000000000ull /* counters saved one after another differ by what that took; KVM itself allows 1 s */
#define SAME_NS 1u                                 /* to which a page tells its clock: of KVM's form, */
#define SAME_UNIT_NS (PVCLOCK_HYPERV_UNIT_NS + 2u) /* and of Hyper-V's (docs/hyperv.md) */

/* The line that the guest's own page holds for a vCPU: KVM's, or else Hyper-V's; and to how many ns. */
static bool read_line(const struct vcpu *vcpu, struct pvclock_line *line, uint64_t *within_ns)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = { .head = { .nmsrs = 1 }, .entry = { .index = PVCLOCK_MSR_SYSTEM_TIME } };
	struct pvclock_snapshot snapshot;
	struct pvclock_hyperv_snapshot hyperv;
	uint64_t msr = 0;

	*within_ns = SAME_NS;
	if (vm_is(vcpu->vm, PVCLOCK_MODE_OWN))
		pvclock_vcpu_read_msr(vcpu->clock, PVCLOCK_MSR_SYSTEM_TIME, &msr);
	else if (kernel_ioctl(vcpu->object.fd, KVM_GET_MSRS, &one) == 1)
		msr = one.entry.data;
	if ((msr & PVCLOCK_MSR_ENABLE) &&
	    pvclock_vm_read_page(vcpu->vm->clock, (struct pvclock_gpa){ msr & ~(uint64_t)PVCLOCK_MSR_ENABLE }, &snapshot) == 0) {
		*line = snapshot.line;
		return true;
	}
	*within_ns = SAME_UNIT_NS;
	return vcpu_read_hyperv(vcpu, &hyperv) && pvclock_line_from_hyperv(&hyperv.hyperv, vcpu->tsc, line);
}

/* Whether two ticks of one counter's are less than a second apart, by its line. */
static bool close_by(const struct pvclock_line *line, uint64_t a, uint64_t b)
{
	struct pvclock_line zero = { .mul = line->mul, .shift = line->shift };

	return pvclock_line_ns(&zero, a > b ? a - b : b - a) < SNAP_NS;
}

/*
 * What a vCPU's counter is to be where the first one's is `first`. What was saved differs by the time between the two
 * reads. The pages tell the true difference: two of one line have anchors exactly as far apart as their counters are.
 * Without pages they are one, as KVM itself has it.
 */
static uint64_t true_tsc(const struct vcpu *vcpu, const struct pvclock_line *line, uint64_t first)
{
	struct pvclock_line own, rate = *line;
	uint64_t tsc = first, within_ns;

	if (line->mul == 0 && !pvclock_line_make(&rate, 0, 0, &vcpu->vm->host, NULL))
		return vcpu->tsc;
	if (line->mul != 0 && read_line(vcpu, &own, &within_ns) && own.mul == line->mul && own.shift == line->shift && own.ns == line->ns)
		tsc = first + (own.tsc - line->tsc);
	return close_by(&rate, tsc, vcpu->tsc) ? tsc : vcpu->tsc;
}

/* The vCPU whose counter and page the others follow: the first that has both, else the first that has a counter. */
static struct vcpu *choose_first(struct vm *vm, struct pvclock_line *line, uint64_t *within_ns)
{
	struct vcpu *first = NULL;

	for (size_t i = 0; i < vm->vcpu_count; i++) {
		struct vcpu *vcpu = vm->vcpus[i];

		if (!vcpu->has_tsc)
			continue;
		if (read_line(vcpu, line, within_ns))
			return vcpu;
		if (first == NULL)
			first = vcpu;
	}
	*line = (struct pvclock_line){ 0 };
	return first;
}

bool vm_arrival_clock(struct vm *vm, uint64_t *ns)
{
	struct pvclock_line line;
	uint64_t within_ns;
	const struct vcpu *first = choose_first(vm, &line, &within_ns);

	if (first == NULL || line.mul == 0)
		return false;
	*ns = pvclock_line_ns(&line, first->tsc);
	return true;
}

/* What of the function did not come along; empty: nothing was lost. */
static const char *what_was_lost(const struct pvclock_arrived *arrived)
{
	if (arrived->exact)
		return "";
	return arrived->line_used ? "the rate: the page had another than this host runs at" : "the function: there was no page to take it from";
}

static void tell_blackout(const struct pvclock_plan *plan)
{
	char bound[48] = "nobody says how well";

	if (plan->elapsed.bound_ns != PVCLOCK_ERROR_UNKNOWN)
		snprintf(bound, sizeof(bound), "to %.6f s", (double)plan->elapsed.bound_ns / 1e9);
	say("this VM stood still for %.6f s (by %s, %s); its clock counts %.6f s of that.", (double)plan->elapsed.measured_ns / 1e9,
	    pvclock_timescale_name(plan->elapsed.by), bound, (double)plan->counted_ns / 1e9);
}

/* What the VMM brought, where each counter is at the switch. */
static void count_deadlines(const struct pvclock_arrival *arrival, unsigned int *armed, unsigned int *past)
{
	*armed = *past = 0;
	for (size_t i = 0; i < arrival->tsc_count; i++) {
		*armed += arrival->tscs[i].deadline != 0;
		*past += arrival->tscs[i].deadline != 0 && arrival->tscs[i].deadline <= arrival->tscs[i].tsc;
	}
}

/* By how much the clock's rate changed against the page's that it came with. */
static double rate_change(const struct vcpu *first, const struct pvclock_line *was, const struct pvclock_arrived *arrived)
{
	struct pvclock_line is;

	return arrived->line_used && pvclock_vcpu_get_line(first->clock, &is) == 0 ? line_rate_ppb(&is, was) : 0;
}

int vm_arrive(struct vm *vm)
{
	struct pvclock_arrival_tsc *tscs = calloc(vm->vcpu_count, sizeof(*tscs));
	struct pvclock_arrival arrival = {
		.host = &vm->host, .tscs = tscs, .ns = vm->set ? vm->set_ns : UINT64_MAX, .kvm_has_deadlines = true };
	struct pvclock_plan plan = { 0 };
	struct pvclock_host_time now = { 0 };
	struct pvclock_arrived arrived;
	struct pvclock_reason reason;
	unsigned int armed, past;
	uint64_t within_ns;
	struct vcpu *first;
	bool recorded;
	int error;

	if (tscs == NULL)
		return -ENOMEM;
	first = choose_first(vm, &arrival.line, &within_ns);
	if (!vcpu_read_hyperv(first, &arrival.hyperv))
		arrival.hyperv = (struct pvclock_hyperv_snapshot){ .sequence = 0 };
	tscs[arrival.tsc_count++] = (struct pvclock_arrival_tsc){
		.vcpu = first->clock, .tsc = first->tsc, .deadline = first->deadline };
	for (size_t i = 0; i < vm->vcpu_count; i++) {
		struct vcpu *vcpu = vm->vcpus[i];

		/* One without, in a VM that has more vCPUs than its state: unplugged, and kept for another time; its page is gone. */
		if (!vcpu->has_tsc && vm_is(vm, PVCLOCK_MODE_OWN))
			pvclock_vcpu_restore_msr(vcpu->clock, PVCLOCK_MSR_SYSTEM_TIME, 0);
		if (vcpu != first)
			tscs[arrival.tsc_count++] = (struct pvclock_arrival_tsc){
				.vcpu = vcpu->clock,
				.tsc = vcpu->has_tsc ? true_tsc(vcpu, &arrival.line, first->tsc) : first->tsc,
				.deadline = vcpu->has_tsc ? vcpu->deadline : 0 };
		vcpu->has_tsc = false;
		vcpu->settled = false;
	}
	vm_take_registrations(vm, NULL);
	recorded = arrival.line.mul != 0 && vm_take_record(vm, first->tsc, &arrival.line, within_ns, &plan, &now);
	if (recorded) { /* it says more than what the VMM thinks the clock read */
		arrival.at = now.at;
		arrival.ns = UINT64_MAX;
		for (size_t i = 0; i < arrival.tsc_count; i++)
			tscs[i].tsc += plan.counted_ticks;
	}
	/* A guest that knows no clock (a reset), and a VMM that set none: the clock goes on as a clock. */
	if (arrival.line.mul == 0 && arrival.ns == UINT64_MAX && pvclock_vm_now(vm->clock, &arrival.ns) != 0)
		arrival.ns = 0;
	count_deadlines(&arrival, &armed, &past);
	error = pvclock_kvm_arrive(vm->kvm, &arrival, &arrived, &reason);
	if (error)
		say("the clock that this VM came with could not be taken over (%s); the guest gets a new one.",
		    reason.text[0] != '\0' ? reason.text : strerror(-error));
	else if (reason.text[0] != '\0')
		say("%s", reason.text);
	if (recorded && !error)
		tell_blackout(&plan);
	record_event("arrive", &reason, "\"error\":%d,\"tsc\":%llu,\"exact\":%s,\"from_page\":%s,\"rate_ppb\":%.6f,\"apart_ns\":%lld,"
		     "\"vcpus\":%zu,\"lost\":\"%s\","
		     "\"deadlines\":%u,\"deadlines_past\":%u,\"recorded\":%s,\"host_tsc\":%llu,\"bracket_ns\":%u,"
		     "\"elapsed_ns\":%lld,\"by\":\"%s\",\"bound_ns\":%lld,\"counted_ns\":%llu",
		     error, (unsigned long long)tscs[0].tsc, arrived.exact ? "true" : "false", arrived.line_used ? "true" : "false",
		     rate_change(first, &arrival.line, &arrived), (long long)arrived.apart_ns, arrival.tsc_count, what_was_lost(&arrived),
		     armed, past, recorded ? "true" : "false", (unsigned long long)now.at.ticks, now.bracket_ns,
		     (long long)plan.elapsed.measured_ns, recorded ? pvclock_timescale_name(plan.elapsed.by) : "",
		     (long long)plan.elapsed.bound_ns, (unsigned long long)plan.counted_ns);
	free(tscs);
	return error;
}
