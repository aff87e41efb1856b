/* SPDX-License-Identifier: MIT */
/*
 * plan.c - any record that is one, planned for any host: refused with a sentence, or with numbers that do not
 * contradict each other.
 */
#include "input.h"

#include <pvclock/plan.h>

#include <errno.h>
#include <string.h>

#define VCPUS 3

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Mostly one of a TSC between 0.25 and 16 GHz; else anything. */
static struct pvclock_slope take_slope(struct input *input)
{
	uint8_t kind = (uint8_t)take(input, 1);
	struct pvclock_slope slope = { .mantissa = take(input, 8) };

	if (kind == 255)
		return (struct pvclock_slope){ 0 };
	slope.exponent = kind < 224 ? (int16_t)(-62 - kind % 6) : (int16_t)take(input, 2);
	if (kind < 250)
		slope.mantissa |= 1ull << 63;
	return slope;
}

static struct pvclock_tsc_transform take_tsc(struct input *input, const struct pvclock_tsc_transform *like)
{
	uint8_t kind = (uint8_t)take(input, 1);
	struct pvclock_tsc_transform tsc = like ? *like : pvclock_tsc_unscaled(0);

	tsc.offset = take(input, kind & 1 ? 8 : 4);
	if (kind & 2)
		tsc.offset = -tsc.offset;
	if (kind >= 240) {
		tsc.frac_bits = kind & 4 ? PVCLOCK_FRAC_BITS_VMX : PVCLOCK_FRAC_BITS_SVM;
		tsc.ratio = take(input, 8) | 1;
	}
	return tsc;
}

static void take_time(struct input *input, struct pvclock_host_time *time)
{
	uint8_t kind = (uint8_t)take(input, 1);

	time->at.ticks = take(input, kind & 1 ? 8 : 6);
	time->bracket_ns = (uint32_t)take(input, 2);
	time->realtime_ns = take(input, kind & 2 ? 8 : 7);
	time->boottime_ns = take(input, kind & 4 ? 8 : 6);
	time->tai_offset = kind & 8 ? (int32_t)take(input, 1) : 0;
	time->tai_ns = time->realtime_ns + (uint64_t)time->tai_offset * 1000000000u;
	time->max_error_ns = kind & 16 ? PVCLOCK_ERROR_UNKNOWN : take(input, 8);
	time->state = (uint32_t)take(input, 1);
	memset(time->boot_id, kind >> 6, sizeof(time->boot_id));
}

static void take_record(struct input *input, struct pvclock_record *record, struct pvclock_record_vcpu vcpus[VCPUS])
{
	record->line = (struct pvclock_line){ .tsc = take(input, 8), .ns = take(input, 8), .mul = (uint32_t)take(input, 4) | 1 };
	record->line.shift = (int8_t)((int)take(input, 1) % 63 - 31);
	record->reference = take_tsc(input, NULL);
	record->host = take_slope(input);
	take_time(input, &record->time);
	record->system_time = pvclock_line_ns(&record->line, pvclock_tsc_to_guest(&record->reference, record->time.at).ticks);
	for (unsigned int i = 0, bits = (unsigned int)take(input, 1); i < PVCLOCK_BLACKOUT_COUNT; i++)
		record->policy.on[i] = bits >> i & 1 ? PVCLOCK_FREEZE : PVCLOCK_ADVANCE;
	record->policy.fall_back = take(input, 1) & 1;
	record->policy.advance_max_ns = take(input, 1) & 1 ? take(input, 8) : UINT64_MAX;
	record->vcpus = vcpus;
	record->vcpu_count = 1 + (uint32_t)take(input, 1) % VCPUS;
	for (uint32_t i = 0; i < record->vcpu_count; i++)
		vcpus[i] = (struct pvclock_record_vcpu){ .index = 2 * i, .tsc = take_tsc(input, &record->reference),
							 .tsc_deadline = take(input, 8) };
}

static void take_destination(struct input *input, struct pvclock_destination *here)
{
	uint8_t kind = (uint8_t)take(input, 1);

	here->host = take_slope(input);
	here->kernel = take_slope(input);
	take_time(input, &here->time);
	here->tsc_offsets = kind & 1;
	here->kernel_publishes = kind & 2;
	here->kernel_aims_scaled = kind & 32;
	here->frac_bits = kind & 4 ? PVCLOCK_FRAC_BITS_VMX : kind & 8 ? PVCLOCK_FRAC_BITS_SVM : 0;
	here->ratio_max = kind & 16 ? take(input, 8) : 0;
}

static void check_plan(const struct pvclock_record *record, const struct pvclock_plan *plan)
{
	uint64_t before = pvclock_line_ns(&plan->at.old, plan->at.tsc), after = pvclock_line_ns(&plan->at.line, plan->at.tsc), tsc, deadline;
	uint32_t armed = 0, past = 0;

	check(plan->precision <= PVCLOCK_LEGACY && plan->elapsed.by <= PVCLOCK_BY_REALTIME);
	check(plan->counted_ns <= plan->elapsed.ns);
	check(plan->elapsed.ns == (plan->elapsed.measured_ns > 0 ? (uint64_t)plan->elapsed.measured_ns : 0));
	check(plan->counted_ns <= record->policy.advance_max_ns || record->policy.on[plan->blackout] == PVCLOCK_FREEZE);
	check(record->policy.on[plan->blackout] == PVCLOCK_ADVANCE || (plan->counted_ns == 0 && plan->counted_ticks == 0));
	check(after >= before && (after - before <= 1 || plan->at.old.shift > 0));
	for (uint32_t i = 0; i < record->vcpu_count; i++) {
		pvclock_plan_vcpu(record, plan, i, &tsc, &deadline);
		check((deadline != 0) == (record->vcpus[i].tsc_deadline != 0));
		if (!deadline)
			continue;
		armed++;
		past += deadline <= tsc;
		check(record->vcpus[i].tsc_deadline > tsc || deadline == record->vcpus[i].tsc_deadline);
		check(record->vcpus[i].tsc_deadline <= tsc || deadline >= tsc);
	}
	check(armed == plan->deadlines && past == plan->deadlines_past);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	struct pvclock_record_vcpu vcpus[VCPUS];
	struct pvclock_record record = { 0 };
	struct pvclock_destination here = { 0 };
	struct pvclock_plan plan, untouched;
	struct pvclock_reason reason;
	enum pvclock_blackout blackout = (enum pvclock_blackout)(take(&input, 1) % PVCLOCK_BLACKOUT_COUNT);
	int error;

	take_record(&input, &record, vcpus);
	take_destination(&input, &here);
	memset(&plan, 0x5a, sizeof(plan));
	memset(&untouched, 0x5a, sizeof(untouched));
	error = pvclock_plan_make(&record, &here, blackout, &plan, &reason);
	check(error == 0 || error == -EINVAL || error == -ENOTSUP);
	if (error == 0) {
		check_plan(&record, &plan);
		return 0;
	}
	check(reason.code != PVCLOCK_REASON_NONE && strlen(reason.text) < PVCLOCK_REASON_TEXT - 1);
	check(reason.text[strlen(reason.text) - 1] == '.');
	check(memcmp(&plan, &untouched, sizeof(plan)) == 0);
	return 0;
}
