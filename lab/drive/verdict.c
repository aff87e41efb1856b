/* SPDX-License-Identifier: MIT */
#include "verdict.h"

#include "lab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PPB_UNITS 18446744073.709551616 /* 2^-64 units in a ppb */
#define FLAG_STABLE 1                   /* PVCLOCK_TSC_STABLE_BIT */

static int64_t magnitude(int64_t value)
{
	return value < 0 ? -value : value;
}

static void keep_largest(int64_t *largest, int64_t value)
{
	if (magnitude(value) > *largest)
		*largest = magnitude(value);
}

bool verdict_line(const json_t *page, struct pvclock_line *line, bool *stable)
{
	if (!json_is_object(page))
		return false;
	line->tsc = (uint64_t)lab_number(page, "tsc", 0);
	line->ns = (uint64_t)lab_number(page, "ns", 0);
	line->mul = (uint32_t)lab_number(page, "mul", 0);
	line->shift = (int8_t)lab_number(page, "shift", 0);
	*stable = lab_number(page, "flags", 0) & FLAG_STABLE;
	return pvclock_line_valid(line);
}

static struct pvclock_hyperv_line units_of(const json_t *page)
{
	return (struct pvclock_hyperv_line){ (uint64_t)lab_number(page, "scale", 0), lab_number(page, "offset", 0) };
}

static void take_page(struct verdict *verdict, const json_t *reply)
{
	struct pvclock_hyperv_line units = units_of(json_object_get(reply, "page"));
	struct pvclock_line line;
	bool stable;

	if (!verdict_line(json_object_get(reply, "page"), &line, &stable)) {
		verdict->last_known = false;
		return;
	}
	if (!verdict->first_known) {
		verdict->first = line;
		verdict->first_units = units;
		verdict->first_known = true;
	}
	verdict->last = line;
	verdict->last_units = units;
	verdict->last_known = true;
	verdict->unstable += !stable;
}

/* This life's way. */
static bool page_total(const struct verdict *verdict, int64_t *total)
{
	const struct pvclock_line *first = &verdict->first, *last = &verdict->last;
	uint64_t at = first->tsc > last->tsc ? first->tsc : last->tsc;

	if (!verdict->first_known || !verdict->last_known || first->mul != last->mul || first->shift != last->shift)
		return false;
	if (verdict->last_units.scale != 0) {
		if (verdict->first_units.scale != verdict->last_units.scale)
			return false;
		*total = (int64_t)((uint64_t)verdict->last_units.offset - (uint64_t)verdict->first_units.offset) * PVCLOCK_HYPERV_UNIT_NS;
		return true;
	}
	*total = (int64_t)(pvclock_line_ns(last, at) - pvclock_line_ns(first, at));
	return true;
}

void verdict_hello(struct verdict *verdict, const json_t *reply)
{
	int64_t total = 0;

	if (verdict->lives == 0)
		verdict->met_ms = lab_now_ms();
	if (verdict->lives++ && page_total(verdict, &total))
		verdict->earlier_total += total;
	verdict->backwards += verdict->reported_backwards;
	verdict->unannounced += verdict->reported_unannounced;
	verdict->reported_backwards = verdict->reported_unannounced = 0;
	verdict->first_known = verdict->last_known = false;
	take_page(verdict, reply);
	verdict->cpus = (unsigned int)lab_number(reply, "cpus", 0);
	snprintf(verdict->clocksource, sizeof(verdict->clocksource), "%s", lab_text(reply, "clocksource", "?"));
	snprintf(verdict->kernel, sizeof(verdict->kernel), "%s", lab_text(reply, "kernel", "?"));
}

/* What counts as the event's jump. */
static int64_t event_jump(struct verdict *verdict, const json_t *reply)
{
	int64_t measured = lab_number(reply, "measured_shift_ns", 0),
		bracket = lab_number(reply, "measured_bracket_ns", 0);
	int64_t page = lab_number(reply, "page_jump_ns", 0);
	bool have_measured = json_is_number(json_object_get(reply, "measured_shift_ns"));

	if (have_measured) {
		keep_largest(&verdict->measured_max, measured);
		keep_largest(&verdict->bracket_max, bracket);
	}
	if (!json_is_true(json_object_get(reply, "page_known")))
		return measured;
	verdict->by_page++;
	if (have_measured && magnitude(measured - page) > bracket) {
		verdict->contradicted++;
		return magnitude(measured) > magnitude(page) ? measured : page;
	}
	return page;
}

bool verdict_event(struct verdict *verdict, const json_t *reply)
{
	double rate = json_number_value(json_object_get(reply, "page_rate_ppb"));
	int64_t jump = event_jump(verdict, reply);
	struct pvclock_line was = verdict->last;
	bool known = verdict->last_known;

	verdict->events++;
	keep_largest(&verdict->jump_max, jump);
	verdict->jump_sum += jump;
	if (rate < 0 || rate > 0) {
		verdict->rate_ppb = rate;
		verdict->rates++;
	}
	verdict->backwards += (uint64_t)lab_number(reply, "backwards_within", 0) +
			      (uint64_t)lab_number(reply, "backwards_between", 0);
	verdict->unannounced += (uint64_t)lab_number(reply, "unannounced", 0);
	keep_largest(&verdict->realtime_step_max, lab_number(reply, "realtime_step_ns", 0));
	keep_largest(&verdict->boottime_step_max, lab_number(reply, "boottime_step_ns", 0));
	take_page(verdict, reply);
	if ((rate < 0 || rate > 0) && known && verdict->last_known)
		verdict->turn_ns = (int64_t)(pvclock_line_ns(&was, verdict->last.tsc) - verdict->last.ns);
	if (verdict->traced < VERDICT_BLACKOUTS_MAX) {
		verdict->trace[verdict->traced].ms = lab_now_ms() - verdict->met_ms;
		verdict->trace[verdict->traced++].ns = verdict_total(verdict);
	}
	if (json_is_false(json_object_get(reply, "stable")))
		verdict->unstable++;
	if (lab_number(reply, "cpus", 0) > verdict->cpus)
		verdict->cpus = (unsigned int)lab_number(reply, "cpus", 0);
	return json_is_true(json_object_get(reply, "page_known")) ||
	       json_is_number(json_object_get(reply, "measured_shift_ns"));
}

void verdict_blackout(struct verdict *verdict, int64_t ns)
{
	if (verdict->blackouts < VERDICT_BLACKOUTS_MAX)
		verdict->blackout_ns[verdict->blackouts++] = ns;
}

void verdict_cost(struct verdict *verdict, const json_t *reply)
{
	verdict->cost_known = true;
	verdict->vdso = json_is_true(json_object_get(reply, "vdso"));
	verdict->vdso_ticks = lab_number(reply, "vdso_ticks", 0);
	verdict->syscall_ticks = lab_number(reply, "syscall_ticks", 0);
}

void verdict_report(struct verdict *verdict, const json_t *reply)
{
	verdict->samples = (uint64_t)lab_number(reply, "samples", 0);
	verdict->reported_backwards = (uint64_t)lab_number(reply, "backwards_within", 0) +
				      (uint64_t)lab_number(reply, "backwards_between", 0);
	verdict->reported_unannounced = (uint64_t)lab_number(reply, "unannounced", 0);
	take_page(verdict, reply);
}

static void take_log_line(struct verdict *verdict, const json_t *entry, bool arrived)
{
	const char *event = lab_text(entry, "event", ""), *reason = lab_text(entry, "reason", "");

	if (!strcmp(event, "attach"))
		snprintf(verdict->mode, sizeof(verdict->mode), "%s", lab_text(entry, "mode", "?"));
	if (!strcmp(event, "aside"))
		snprintf(verdict->mode, sizeof(verdict->mode), "aside");
	if (*reason && (!strcmp(event, "attach") || !strcmp(event, "aside")))
		snprintf(verdict->reason, sizeof(verdict->reason), "%s", reason);
	if (!strcmp(event, "resume")) {
		verdict->corrections++;
		keep_largest(&verdict->residual_max, lab_number(entry, "residual_ns", 0));
		verdict->moved_ticks += lab_number(entry, "moved_ticks", 0);
	}
	if (arrived && !strcmp(event, "arrive") && *lab_text(entry, "lost", ""))
		snprintf(verdict->lost, sizeof(verdict->lost), "%s", lab_text(entry, "lost", ""));
}

void verdict_log(struct verdict *verdict, const char *text, bool arrived)
{
	while (*text) {
		size_t length = strcspn(text, "\n");
		json_t *entry = json_loadb(text, length, 0, NULL);

		if (json_is_object(entry))
			take_log_line(verdict, entry, arrived);
		json_decref(entry);
		text += length + (text[length] == '\n');
	}
}

int64_t verdict_total(const struct verdict *verdict)
{
	int64_t total;

	/* by the page only where all of it was judged by the page; and lines of other slopes part by themselves */
	if (verdict->by_page == verdict->events && !verdict->contradicted && !verdict->rates &&
	    page_total(verdict, &total))
		return verdict->earlier_total + total;
	return verdict->jump_sum;
}

/* A guest that was set back forgot what it had counted; one that was not has counted events and more. */
uint64_t verdict_backwards(const struct verdict *verdict)
{
	return verdict->backwards > verdict->reported_backwards ? verdict->backwards : verdict->reported_backwards;
}

bool verdict_stable(const struct verdict *verdict)
{
	return verdict->last_known && verdict->unstable == 0;
}

static int compare(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

double verdict_blackout_us(const struct verdict *verdict)
{
	int64_t sorted[VERDICT_BLACKOUTS_MAX];
	unsigned int count = verdict->blackouts;

	if (!count)
		return 0;
	memcpy(sorted, verdict->blackout_ns, count * sizeof(sorted[0]));
	qsort(sorted, count, sizeof(sorted[0]), compare);
	return ((double)sorted[(count - 1) / 2] + (double)sorted[count / 2]) / 2000;
}

unsigned int verdict_unit_ns(const struct verdict *verdict)
{
	return verdict->last_units.scale != 0 ? PVCLOCK_HYPERV_UNIT_NS : 1;
}

bool verdict_drift(const struct verdict *verdict, const struct pvclock_slope *host, double *ppb)
{
	struct pvclock_slope slope;

	if (!verdict->last_known || !pvclock_slope_from_line(&verdict->last, &slope))
		return false;
	*ppb = (double)pvclock_slope_difference(&slope, host) / PPB_UNITS;
	return true;
}
