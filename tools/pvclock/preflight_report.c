/* SPDX-License-Identifier: MIT */
/* preflight_report.c - what a host would make of a record, for people and for programs. */
#define _GNU_SOURCE
#include "preflight.h"
#include "rate_ppb.h"

#include <inttypes.h>
#include <string.h>

/* The clock right after the switch against right before it: the plan's own promise is 0. */
static int64_t jump_ns(const struct pvclock_plan *plan)
{
	return (int64_t)(pvclock_line_ns(&plan->at.line, plan->at.tsc) - pvclock_line_ns(&plan->at.old, plan->at.tsc));
}

/* What the guest's TSC reads at the switch beyond what it should, on a host that runs it without any offset. */
static int64_t jump_ticks(const struct preflight *preflight)
{
	const struct pvclock_plan *plan = &preflight->plan;

	if (plan->tsc_kept)
		return 0;
	return (int64_t)(pvclock_tsc_to_guest(&plan->ratio, preflight->destination.time.at).ticks - plan->at.tsc);
}

/* The guest's TSC against before, in ticks per ns: the inverse of what slopes are. */
static double tsc_rate_ppb(const struct preflight *preflight)
{
	struct pvclock_slope was, is;

	if (!pvclock_slope_to_guest(&preflight->record->host, &preflight->record->vcpus[0].tsc, &was) ||
	    !pvclock_slope_to_guest(&preflight->destination.host, &preflight->plan.ratio, &is))
		return 0;
	return rate_ppb(&was, &is);
}

static const char *mode_name(const struct preflight *preflight)
{
	return pvclock_mode_name(preflight->destination.kernel_publishes ? PVCLOCK_MODE_STEER : PVCLOCK_MODE_OWN);
}

/* --- for people ----------------------------------------------------------------------------- */

static void print_verdict(const struct preflight *preflight)
{
	const char *host = preflight->elsewhere ? "that host" : "this host";
	const struct pvclock_plan *plan = &preflight->plan;

	if (!preflight->planned) {
		print_item("verdict", "no: %s", preflight->reason.text);
		return;
	}
	switch (plan->precision) {
	case PVCLOCK_EXACT:
		print_item("verdict", "yes: %s takes it exactly, in %s mode", host, mode_name(preflight));
		print_item("precision", "exact: the same function of the guest's TSC, %s", plan->tsc_kept ? "bit for bit" :
			   "moved with it");
		break;
	case PVCLOCK_CONTINUED:
		print_item("verdict", "yes: %s takes it and continues it, in %s mode", host, mode_name(preflight));
		print_item("precision", "continued: another rate from the switch on; there both functions are the same");
		break;
	case PVCLOCK_LEGACY:
		print_item("verdict", "only with a loss: on %s the clock goes on by its value alone", host);
		print_item("precision", "legacy: no function, the value");
		break;
	}
}

static void print_elapsed(const struct preflight *preflight)
{
	const struct pvclock_plan *plan = &preflight->plan;
	char seconds[48], counted[48], bound[64];

	format_seconds(plan->elapsed.ns, seconds, sizeof(seconds));
	format_error("error at most", plan->elapsed.bound_ns, bound, sizeof(bound));
	print_item("elapsed", "%s since the save, by %s, %s", seconds, pvclock_timescale_name(plan->elapsed.by), bound);
	format_seconds(plan->counted_ns, counted, sizeof(counted));
	format_error("error at most", plan->bound_ns, bound, sizeof(bound));
	print_item("counted", "%s (a %s; its policy says %s%s), %s", counted, pvclock_blackout_name(plan->blackout),
		   pvclock_passing_name(preflight->record->policy.on[plan->blackout]), plan->capped ? ", with a bound" : "", bound);
}

static void print_clock(const struct preflight *preflight)
{
	const struct pvclock_plan *plan = &preflight->plan;
	char there[48], here[48];

	format_seconds(preflight->record->system_time, there, sizeof(there));
	format_seconds(pvclock_line_ns(&plan->at.line, plan->at.tsc), here, sizeof(here));
	print_item("clock", "%s at the save, %s at the switch", there, here);
	if (plan->precision == PVCLOCK_LEGACY)
		print_item("", "jump: not known beforehand");
	else
		print_item("", "jump: %" PRId64 " ns%s", jump_ns(plan), preflight->destination.kernel_publishes ?
			   ", and up to 1 ns as the kernel's clock is aimed" : "");
	print_item("", "rate: %s%+.6f ppb per guest tick", plan->at.exact ? "unchanged, " : "", line_rate_ppb(&plan->at.line, &plan->at.old));
}

static void print_guest_tsc(const struct preflight *preflight)
{
	const struct pvclock_plan *plan = &preflight->plan;
	char scaled[96] = "not scaled";

	if (plan->ratio.frac_bits)
		snprintf(scaled, sizeof(scaled), "scaled to %" PRIu32 " kHz (x %" PRIu64 " / 2^%u)", plan->tsc_khz, plan->ratio.ratio,
			 plan->ratio.frac_bits);
	print_item("TSC", "%s, %+.6f ppb against before", scaled, tsc_rate_ppb(preflight));
	print_item("", "%" PRIu64 " at the switch, after counting %" PRIu64 " ticks", plan->at.tsc, plan->counted_ticks);
	if (plan->tsc_kept)
		print_item("", "its offset is kept");
	else
		print_item("", "its offset is not kept: it jumps by %" PRId64 " ticks", jump_ticks(preflight));
	if (plan->deadlines)
		print_item("deadlines", "%" PRIu32 " armed, %" PRIu32 " of them past by the switch", plan->deadlines,
			   plan->deadlines_past);
	else
		print_item("deadlines", "none is armed");
}

void print_preflight(const struct preflight *preflight)
{
	print_item("record", "%s", preflight->path);
	print_verdict(preflight);
	if (preflight->planned) {
		print_elapsed(preflight);
		print_clock(preflight);
		print_guest_tsc(preflight);
	}
	print_notes(&preflight->notes);
}

/* --- for programs ----------------------------------------------------------------------------- */

/* As in a record: unsigned numbers of 64 bits are strings of digits. */
static void set_wide(json_t *object, const char *key, uint64_t value)
{
	char digits[24];

	snprintf(digits, sizeof(digits), "%" PRIu64, value);
	set_text(object, key, digits);
}

static void set_signed(json_t *object, const char *key, int64_t value)
{
	json_object_set_new(object, key, json_integer(value));
}

static void set_bound(json_t *object, const char *key, uint64_t value)
{
	if (value == PVCLOCK_ERROR_UNKNOWN)
		set_text(object, key, "unknown");
	else
		set_wide(object, key, value);
}

static json_t *line_to_json(const struct pvclock_line *line)
{
	json_t *json = json_object();

	set_wide(json, "tsc", line->tsc);
	set_wide(json, "ns", line->ns);
	set_number(json, "mul", line->mul);
	set_signed(json, "shift", line->shift);
	return json;
}

static json_t *elapsed_to_json(const struct pvclock_elapsed *elapsed)
{
	json_t *json = json_object();

	set_text(json, "by", pvclock_timescale_name(elapsed->by));
	set_signed(json, "measured_ns", elapsed->measured_ns);
	set_wide(json, "ns", elapsed->ns);
	set_bound(json, "bound_ns", elapsed->bound_ns);
	return json;
}

static json_t *clock_to_json(const struct pvclock_plan *plan)
{
	json_t *json = json_object();

	set_wide(json, "ns", pvclock_line_ns(&plan->at.line, plan->at.tsc));
	if (plan->precision == PVCLOCK_LEGACY)
		json_object_set_new(json, "jump_ns", json_null());
	else
		set_signed(json, "jump_ns", jump_ns(plan));
	set_flag(json, "exact", plan->at.exact);
	set_signed(json, "rate_difference", plan->at.rate_difference);
	set_real(json, "rate_ppb", line_rate_ppb(&plan->at.line, &plan->at.old));
	json_object_set_new(json, "old", line_to_json(&plan->at.old));
	json_object_set_new(json, "line", line_to_json(&plan->at.line));
	return json;
}

static json_t *tsc_to_json(const struct preflight *preflight)
{
	const struct pvclock_plan *plan = &preflight->plan;
	json_t *json = json_object();

	set_wide(json, "tsc", plan->at.tsc);
	set_wide(json, "counted_ticks", plan->counted_ticks);
	set_flag(json, "kept", plan->tsc_kept);
	set_signed(json, "jump_ticks", jump_ticks(preflight));
	set_signed(json, "rate_difference", plan->tsc_rate_difference);
	set_real(json, "rate_ppb", tsc_rate_ppb(preflight));
	set_wide(json, "ratio", plan->ratio.ratio);
	set_number(json, "frac_bits", plan->ratio.frac_bits);
	set_number(json, "khz", plan->tsc_khz);
	return json;
}

/* ns from the switch to the deadline, by the clock */
static uint64_t fires_in(const struct pvclock_switch *at, uint64_t tsc, uint64_t deadline)
{
	uint64_t ticks = deadline > tsc ? deadline - tsc : 0;

	return pvclock_line_ns(&at->line, ticks > UINT64_MAX - at->tsc ? UINT64_MAX : at->tsc + ticks) -
	       pvclock_line_ns(&at->line, at->tsc);
}

static json_t *vcpus_to_json(const struct preflight *preflight)
{
	const struct pvclock_record *record = preflight->record;
	json_t *array = json_array();

	for (uint32_t i = 0; i < record->vcpu_count; i++) {
		json_t *json = json_object();
		uint64_t tsc, deadline;

		pvclock_plan_vcpu(record, &preflight->plan, i, &tsc, &deadline);
		set_number(json, "index", record->vcpus[i].index);
		set_wide(json, "tsc", tsc);
		set_wide(json, "tsc_deadline", deadline);
		if (deadline)
			set_wide(json, "fires_in_ns", fires_in(&preflight->plan.at, tsc, deadline));
		json_array_append_new(array, json);
	}
	return array;
}

static void add_plan(json_t *object, const struct preflight *preflight)
{
	const struct pvclock_plan *plan = &preflight->plan;

	set_text(object, "precision", pvclock_precision_name(plan->precision));
	json_object_set_new(object, "elapsed", elapsed_to_json(&plan->elapsed));
	set_text(object, "policy", pvclock_passing_name(preflight->record->policy.on[plan->blackout]));
	set_wide(object, "counted_ns", plan->counted_ns);
	set_bound(object, "bound_ns", plan->bound_ns);
	set_flag(object, "capped", plan->capped);
	json_object_set_new(object, "clock", clock_to_json(plan));
	json_object_set_new(object, "tsc", tsc_to_json(preflight));
	set_number(object, "deadlines", plan->deadlines);
	set_number(object, "deadlines_past", plan->deadlines_past);
	json_object_set_new(object, "vcpus", vcpus_to_json(preflight));
}

void print_preflight_json(const struct preflight *preflight)
{
	json_t *object = json_object(), *reason;

	set_text(object, "record", preflight->path);
	set_text(object, "as", pvclock_blackout_name(preflight->blackout));
	set_text(object, "mode", mode_name(preflight));
	set_flag(object, "takes", preflight_takes(preflight));
	if (preflight->planned) {
		add_plan(object, preflight);
	} else {
		reason = json_object();
		set_text(reason, "code", pvclock_reason_name(preflight->reason.code));
		set_text(reason, "text", preflight->reason.text);
		json_object_set_new(object, "reason", reason);
	}
	json_object_set_new(object, "notes", notes_to_json(&preflight->notes));
	print_json(object);
}
