/* SPDX-License-Identifier: MIT */
/* record_report.c - a record for people: each field in words and units. */
#define _GNU_SOURCE
#include "pages.h"
#include "record.h"

#include <pvclock/interface.h>

#include <inttypes.h>
#include <string.h>
#include <sys/timex.h>
#include <time.h>

#define NS_PER_SEC 1000000000u

uint64_t record_tsc(const struct pvclock_record *record, uint32_t i)
{
	return pvclock_tsc_to_guest(&record->vcpus[i].tsc, record->time.at).ticks;
}

/* The line is over the TSC of `reference`; a vCPU with another offset reads it shifted. */
uint64_t record_ns(const struct pvclock_record *record, uint32_t i, uint64_t tsc)
{
	return pvclock_line_ns(&record->line, tsc - (record->vcpus[i].tsc.offset - record->reference.offset));
}

void format_date(uint64_t ns, char *text, size_t size)
{
	time_t seconds = (time_t)(ns / NS_PER_SEC);
	struct tm tm;
	size_t length;

	gmtime_r(&seconds, &tm);
	length = strftime(text, size, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + length, size - length, ".%09" PRIu64, ns % NS_PER_SEC);
}

void format_seconds(uint64_t ns, char *text, size_t size)
{
	snprintf(text, size, "%" PRIu64 ".%09" PRIu64 " s", ns / NS_PER_SEC, ns % NS_PER_SEC);
}

void format_error(const char *name, uint64_t ns, char *text, size_t size)
{
	if (ns == PVCLOCK_ERROR_UNKNOWN)
		snprintf(text, size, "%s unknown", name);
	else
		snprintf(text, size, "%s %" PRIu64 " ns", name, ns);
}

static void print_tsc(const char *name, const struct pvclock_tsc_transform *tsc)
{
	char ratio[80] = "unscaled";

	if (tsc->frac_bits)
		snprintf(ratio, sizeof(ratio), "x %" PRIu64 " / 2^%u", tsc->ratio, tsc->frac_bits);
	print_item(name, "host TSC %s, offset %" PRIu64 " (%" PRId64 ")", ratio, tsc->offset, (int64_t)tsc->offset);
}

static void print_line(const struct pvclock_record *record)
{
	const struct pvclock_line *line = &record->line;
	uint64_t mhz = millihertz(line->mul, line->shift);
	char seconds[48];

	format_seconds(line->ns, seconds, sizeof(seconds));
	print_item("line", "%" PRIu32 " / 2^%d ns per guest tick: a TSC of %" PRIu64 ".%06" PRIu64 " MHz", line->mul,
		   32 - line->shift, mhz / 1000000000, mhz / 1000 % 1000000);
	print_item("", "mul %" PRIu32 ", shift %d; reads %s (%" PRIu64 " ns) at guest TSC %" PRIu64, line->mul, line->shift,
		   seconds, line->ns, line->tsc);
	print_tsc("over", &record->reference);
	print_item("stable", "%s", record->stable ? "yes: one line for all vCPUs" : "no: TSC_STABLE was not published");
}

static void print_slope(const struct pvclock_slope *slope)
{
	struct pvclock_line line;
	uint64_t mhz = 0;

	if (pvclock_line_make(&line, 0, 0, slope, NULL))
		mhz = millihertz(line.mul, line.shift);
	print_item("host", "%" PRIu64 " x 2^%d ns per host tick: a TSC of %" PRIu64 ".%06" PRIu64 " MHz", slope->mantissa,
		   slope->exponent, mhz / 1000000000, mhz / 1000 % 1000000);
}

static const char *state_name(uint32_t state)
{
	switch (state) {
	case TIME_OK:
		return "kept in time";
	case TIME_INS:
		return "a leap second will be inserted today";
	case TIME_DEL:
		return "a second will be left out today";
	case TIME_OOP:
		return "in a leap second";
	case TIME_WAIT:
		return "a leap second was just passed";
	case TIME_ERROR:
		return "not kept in time by anybody";
	default:
		return "in a state that this pvclock does not know";
	}
}

static void print_time(const struct pvclock_record *record)
{
	const struct pvclock_host_time *time = &record->time;
	char date[64], most[64], estimated[64], seconds[48], boot[FIELD_TEXT_SIZE];

	format_date(time->realtime_ns, date, sizeof(date));
	print_item("saved", "%s UTC (%" PRIu64 " ns), at host TSC %" PRIu64, date, time->realtime_ns, time->at.ticks);
	if (time->tai_ns != 0) {
		format_date(time->tai_ns, date, sizeof(date));
		if (time->tai_offset)
			print_item("", "%s TAI (%" PRIu64 " ns), which is UTC and %d s", date, time->tai_ns, time->tai_offset);
		else
			print_item("", "%s TAI (%" PRIu64 " ns), but the host was never told its difference to UTC", date, time->tai_ns);
	}
	format_error("maximum", time->max_error_ns, most, sizeof(most));
	format_error("estimated", time->estimated_error_ns, estimated, sizeof(estimated));
	print_item("error", "%s, %s; %s (state %" PRIu32 "); all read within %" PRIu32 " ns", most, estimated,
		   state_name(time->state), time->state, time->bracket_ns);
	field_print(field_find(&record_fields, "time.boot_id"), record, boot);
	format_seconds(time->boottime_ns, seconds, sizeof(seconds));
	print_item("boot", "%s, CLOCK_BOOTTIME %s", boot, seconds);
}

static void print_policy(const struct pvclock_policy *policy)
{
	char list[256] = "", bound[96] = "all of it";

	for (enum pvclock_blackout i = 0; i < PVCLOCK_BLACKOUT_COUNT; i++) {
		size_t length = strlen(list);

		snprintf(list + length, sizeof(list) - length, "%s%s %s", i ? ", " : "", pvclock_blackout_name(i),
			 pvclock_passing_name(policy->on[i]));
	}
	print_item("policy", "%s", list);
	if (policy->advance_max_ns != UINT64_MAX)
		snprintf(bound, sizeof(bound), "at most %" PRIu64 " ns", policy->advance_max_ns);
	print_item("", "an advance counts %s; on a host without a line: %s", bound,
		   policy->fall_back ? "fall back to the clock's value" : "refuse");
}

static void print_account(const struct pvclock_account *account)
{
	print_item("account", "%" PRIu64 " blackouts: %" PRIu64 " ns of them counted, %" PRIu64 " ns not; %" PRIu64
		   " changes of rate", account->blackouts, account->counted_ns, account->uncounted_ns, account->rate_changes);
	print_item("", "moved by %" PRId64 " ticks for TSC offsets that could not be set; largest residual %" PRIu64 " ns",
		   account->moved_ticks, account->residual_ns_max);
	if (account->error_ns == PVCLOCK_ERROR_UNKNOWN)
		print_item("", "how exactly the lengths are known: unknown");
	else
		print_item("", "the lengths in all are known within %" PRIu64 " ns", account->error_ns);
}

/* What the guest asked for through pvclock/interface.h, if anything. */
static void print_control(const char *what, uint64_t control)
{
	if (control & PVCLOCK_CONTROL_ENABLE)
		print_item("", "%s: vector 0x%02x of APIC %" PRIu64 " (0x%" PRIx64 ")", what,
			   (unsigned int)(control & PVCLOCK_CONTROL_VECTOR), control >> PVCLOCK_CONTROL_TARGET_SHIFT, control);
	else if (control)
		print_item("", "%s: off (0x%" PRIx64 ")", what, control);
}

static void print_suspend(const struct pvclock_record *record)
{
	if (record->suspend_msr & PVCLOCK_MSR_ENABLE)
		print_item("suspend", "told at 0x%" PRIx64, record->suspend_msr - PVCLOCK_MSR_ENABLE);
	else if (record->suspend_msr || record->suspend_control)
		print_item("suspend", "not told (0x%" PRIx64 ")", record->suspend_msr);
	print_control("interrupt", record->suspend_control);
}

/* Hyper-V's clock, if the guest uses it. */
static void print_hyperv(const struct pvclock_record *record)
{
	if (record->hyperv_tsc_page & PVCLOCK_MSR_ENABLE)
		print_item("Hyper-V", "TSC page at 0x%" PRIx64 ", sequence %" PRIu32 " (MSR 0x40000021 is 0x%" PRIx64 ")",
			   record->hyperv_tsc_page & ~(uint64_t)0xfff, record->hyperv_sequence, record->hyperv_tsc_page);
	else if (record->hyperv_tsc_page || record->hyperv_sequence)
		print_item("Hyper-V", "no TSC page (MSR 0x40000021 is 0x%" PRIx64 "), sequence %" PRIu32, record->hyperv_tsc_page,
			   record->hyperv_sequence);
	if (record->hyperv.scale || record->hyperv.offset)
		print_item("", "reference time, 100 ns: guest TSC x %" PRIu64 " / 2^64, offset %" PRId64, record->hyperv.scale,
			   record->hyperv.offset);
	print_control("re-enlightenment", record->hyperv_reenlightenment); /* the target is a VP: here that is the APIC of its number */
	if (record->hyperv_emulation_control)
		print_item("", "a new TSC is acknowledged%s (controls 0x%" PRIx64 ", 0x%" PRIx64 ")",
			   record->hyperv_emulation_status ? ", and one was not yet" : "", record->hyperv_emulation_control,
			   record->hyperv_emulation_status);
	if (record->hyperv_invariant)
		print_item("", "invariant TSC (0x%" PRIx64 ")", record->hyperv_invariant);
}

static void print_nested(const struct pvclock_record *record)
{
	if (record->nested_msr & PVCLOCK_MSR_ENABLE)
		print_item("nested", "told at 0x%" PRIx64, record->nested_msr - PVCLOCK_MSR_ENABLE);
	else if (record->nested_msr || record->nested_control)
		print_item("nested", "not told (0x%" PRIx64 ")", record->nested_msr);
	print_control("interrupt", record->nested_control);
}

/* At the tick of the save, every vCPU by its own TSC: what each page, and Hyper-V's reference time, is there. */
static void print_distances(const struct pvclock_record *record)
{
	uint64_t first = record_ns(record, 0, record_tsc(record, 0)), least = first, most = first;
	char hyperv[120] = "";

	for (uint32_t i = 1; i < record->vcpu_count; i++) {
		uint64_t ns = record_ns(record, i, record_tsc(record, i));

		least = ns < least ? ns : least;
		most = ns > most ? ns : most;
	}
	if (record->hyperv.scale) { /* over the first vCPU's TSC, for all */
		struct shown_page page = { .form = SHOWN_HYPERV, .holds.hyperv.hyperv = record->hyperv };
		int64_t ns = saturate_ns(shown_page_ns(&page, record_tsc(record, 0)) - (shown_ns)first);

		snprintf(hyperv, sizeof(hyperv), "; Hyper-V %+" PRId64 " ns from the first (%s)", ns, hyperv_one_clock(ns));
	}
	print_item("apart", "at the save vCPUs %" PRIu64 " ns at most%s", most - least, hyperv);
}

static void print_registration(const struct pvclock_record_vcpu *vcpu)
{
	unsigned int msr = vcpu->old_msrs ? PVCLOCK_MSR_SYSTEM_TIME_OLD : PVCLOCK_MSR_SYSTEM_TIME;

	if (vcpu->system_time_msr & PVCLOCK_MSR_ENABLE)
		print_item("", "page at 0x%" PRIx64 " (MSR 0x%x is 0x%" PRIx64 ")", vcpu->system_time_msr - PVCLOCK_MSR_ENABLE, msr,
			   vcpu->system_time_msr);
	else
		print_item("", "no page registered (MSR 0x%x is 0x%" PRIx64 ")", msr, vcpu->system_time_msr);
}

static void print_deadline(const struct pvclock_record *record, uint32_t i)
{
	uint64_t deadline = record->vcpus[i].tsc_deadline, tsc = record_tsc(record, i);

	if (deadline == 0)
		print_item("", "no TSC deadline");
	else if (deadline <= tsc)
		print_item("", "TSC deadline %" PRIu64 ": passed %" PRIu64 " ticks before the save", deadline, tsc - deadline);
	else
		print_item("", "TSC deadline %" PRIu64 ": %" PRIu64 " ns after the save by the line", deadline,
			   record_ns(record, i, deadline) - record_ns(record, i, tsc));
}

static void print_deadline_ns(const struct pvclock_record_vcpu *vcpu)
{
	if (vcpu->deadline_ns)
		print_item("", "deadline at %" PRIu64 " ns of system time", vcpu->deadline_ns);
	print_control("deadlines' interrupt", vcpu->deadline_control);
}

static void print_vcpu(const struct pvclock_record *record, uint32_t i)
{
	const struct pvclock_record_vcpu *vcpu = &record->vcpus[i];
	char name[24];

	snprintf(name, sizeof(name), "vCPU %" PRIu32, vcpu->index);
	print_tsc(name, &vcpu->tsc);
	print_item("", "TSC at the save %" PRIu64 ", IA32_TSC_ADJUST %" PRIu64 " (%" PRId64 ")", record_tsc(record, i),
		   vcpu->tsc_adjust, (int64_t)vcpu->tsc_adjust);
	print_deadline(record, i);
	print_deadline_ns(vcpu);
	print_registration(vcpu);
	if (vcpu->steal_msr & PVCLOCK_MSR_ENABLE)
		print_item("", "stolen time at 0x%" PRIx64 ": %" PRIu64 " ns", vcpu->steal_msr - PVCLOCK_MSR_ENABLE, vcpu->steal_ns);
	else if (vcpu->steal_msr)
		print_item("", "stolen time not told (0x%" PRIx64 ")", vcpu->steal_msr);
	if (vcpu->guest_stopped)
		print_item("", "GUEST_STOPPED is owed");
}

void print_record(const char *path, const struct record_file *file)
{
	const struct pvclock_record *record = &file->record;
	char seconds[48];

	if (record_file_plain(file))
		print_item("record", "%s, version %" PRIu32 ", %zu bytes", path, file->version, file->length);
	else
		print_item("record", "in %s at byte %zu, version %" PRIu32 ", %zu bytes", path, file->at, file->version,
			   file->length);
	print_time(record);
	format_seconds(record->system_time, seconds, sizeof(seconds));
	print_item("system time", "%s (%" PRIu64 " ns) at the save", seconds, record->system_time);
	print_line(record);
	print_slope(&record->host);
	if (record->wall_clock_msr)
		print_item("wall clock", "at 0x%" PRIx64, record->wall_clock_msr);
	else
		print_item("wall clock", "not registered");
	print_suspend(record);
	print_hyperv(record);
	print_nested(record);
	print_distances(record);
	print_policy(&record->policy);
	print_account(&record->account);
	for (uint32_t i = 0; i < record->vcpu_count; i++)
		print_vcpu(record, i);
}
