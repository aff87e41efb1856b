/* SPDX-License-Identifier: MIT */
/*
 * Events on a made-up machine, watched by the probe's own threads: what is said is what was done, to the ns where it
 * can be.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "machine.h"

#define STABLE PVCLOCK_TSC_STABLE
/* A measure from readings: this machine may be busy and its CPUs emulated, but not that much. */
#define MEASURE_NS 2000000

static struct machine machine;

static int start(void **state)
{
	(void)state;
	alarm(150); /* a probe that waits for ever has failed */
	machine_start(&machine, true);
	return 0;
}

static int start_without_page(void **state)
{
	(void)state;
	alarm(150);
	machine_start(&machine, false);
	return 0;
}

static int end(void **state)
{
	(void)state;
	machine_end(&machine);
	return 0;
}

/* Stops the machine; the host's TSC runs on for so many ticks, and its clock says `jump` more than it would. */
static void disturb(int64_t ticks, int64_t jump)
{
	machine_stop(&machine);
	machine.tsc_offset += (uint64_t)ticks;
	machine.line.ns += (uint64_t)jump;
	machine_continue(&machine, STABLE);
}

static void assert_measured(const struct measured *measured, int64_t truth)
{
	assert_true(measured->known);
	assert_in_range(measured->within, 0, MEASURE_NS);
	assert_true(llabs(measured->ns - truth) <= measured->within);
}

static void assert_monotonic(const struct event_result *result)
{
	assert_int_equal(result->totals.within, 0);
	assert_int_equal(result->totals.between, 0);
}

/* --- what an event did ----------------------------------------------------------------------- */

static void nothing_is_nothing(void **state)
{
	struct event_result result;

	(void)state;
	assert_int_equal(event_begin(&machine.events, "quiet").unannounced, 0);
	machine_run(&machine);
	result = event_end(&machine.events, "quiet", NULL);
	assert_false(result.unmatched);
	assert_true(result.page_known);
	assert_true(difference_is_none(&result.page));
	assert_int_equal(result.lines, 0);
	assert_measured(&result.raw, 0);
	assert_measured(&result.monotonic, 0);
	assert_true(llabs(result.realtime_step.ns) <= result.realtime_step.within);
	assert_true(llabs(result.boottime_step.ns) <= result.boottime_step.within);
	assert_true(result.totals.samples >= 2 * WATCH_BURST * machine.watch.threads);
	assert_monotonic(&result);
}

static void a_jump_is_told_to_the_ns(void **state)
{
	static const int64_t jumps[] = { 1, -1, 1000, -700000000, 3600000000000 };

	(void)state;
	for (size_t i = 0; i < sizeof(jumps) / sizeof(*jumps); i++) {
		struct event_result result;

		event_begin(&machine.events, "pause");
		machine_run(&machine);
		disturb(2600000000, jumps[i]); /* the TSC ran on for a second: the clock does not go back */
		result = event_end(&machine.events, "pause", NULL);
		assert_true(result.page_known);
		assert_true(result.page.same_slope);
		assert_int_equal(result.page.low, jumps[i]);
		assert_int_equal(result.page.high, jumps[i]);
		assert_int_equal(result.page.jump, jumps[i]);
		assert_int_equal(result.lines, 1);
		assert_int_equal(result.unannounced, 0);
		assert_measured(&result.raw, jumps[i]);
		assert_measured(&result.monotonic, jumps[i]);
		assert_true(result.tsc_step >= 2600000000);
		assert_true(result.tsc_step < 5200000000);
		assert_monotonic(&result);
	}
	assert_int_equal(pages_totals(&machine.pages).worst_jump, 3600000000000);
}

static void a_frozen_clock_has_not_moved(void **state)
{
	struct event_result result;

	(void)state;
	event_begin(&machine.events, "freeze");
	machine_stop(&machine);
	pvclock_line_reanchor(&machine.line, machine_tsc(&machine));
	machine_continue(&machine, STABLE);
	result = event_end(&machine.events, "freeze", NULL);
	assert_true(difference_is_none(&result.page));
	assert_int_equal(result.lines, 0);
	assert_measured(&result.raw, 0);
	assert_monotonic(&result);
}

static void a_new_rate_is_told(void **state)
{
	struct event_result result;
	struct pvclock_line old = machine.line;

	(void)state;
	event_begin(&machine.events, "migrate");
	machine_stop(&machine);
	machine.line.tsc = machine_tsc(&machine);
	machine.line.ns = pvclock_line_ns(&old, machine.line.tsc) + 12345;
	machine.line.mul = 0x80000000u; /* of a TSC of 1 GHz */
	machine.line.shift = 1;
	machine_continue(&machine, STABLE);
	machine_run(&machine);
	result = event_end(&machine.events, "migrate", NULL);
	assert_false(result.page.same_slope);
	assert_int_equal(result.page.jump, 12345);
	assert_true(fabs(result.page.rate_ppb - (8589934592.0 / 3308756133.0 - 1) * 1e9) < 1);
	assert_measured(&result.raw, 12345);
	assert_true(result.rate_measured);
	assert_true(fabs(result.rate_ppb - result.page.rate_ppb) <= result.rate_within_ppb + 1);
	assert_true(result.rate_within_ppb < 1e8);
	assert_monotonic(&result);
}

/* A kernel that publishes anchors its page when it next looks at its clock, a while after the rate changed. */
static void rates_are_compared_where_the_one_took_over(void **state)
{
	struct event_result result;
	struct pvclock_line old = machine.line;
	uint64_t tick, late = 41000000;

	(void)state;
	event_begin(&machine.events, "migrate");
	machine_stop(&machine);
	tick = machine_tsc(&machine);
	machine.line.shift = -2; /* half the rate */
	machine.line.tsc = tick + late;
	machine.line.ns = pvclock_line_ns(&old, tick) + 77 + (((late >> 2) * machine.line.mul) >> 32);
	machine_continue(&machine, STABLE);
	machine_run(&machine);
	result = event_end(&machine.events, "migrate", &tick);
	assert_in_range(result.page.jump, 76, 78);
	assert_measured(&result.raw, 77);
}

static void a_tsc_that_went_back_is_told(void **state)
{
	struct event_result result;

	(void)state;
	event_begin(&machine.events, "load");
	machine_run(&machine);
	machine_stop(&machine);
	machine.tsc_offset -= 500000000;
	machine.line.ns += 1000000000; /* more than the TSC lost */
	machine_continue(&machine, STABLE);
	result = event_end(&machine.events, "load", NULL);
	assert_int_equal(result.page.jump, 1000000000);
	assert_measured(&result.raw, 1000000000);
	assert_true(result.tsc_step < -300000000 && result.tsc_step >= -500000000);
	assert_monotonic(&result);
}

/* A stop falls anywhere, also between the reads of one window. */
static void a_stop_within_a_reading_is_told(void **state)
{
	struct event_result result;

	(void)state;
	event_begin(&machine.events, "pause");
	machine_run(&machine);
	atomic_store(&machine.leap, 2600000000);
	machine_run(&machine);
	result = event_end(&machine.events, "pause", NULL);
	assert_int_equal(result.page.jump, 0);
	assert_measured(&result.raw, 0);
	assert_true(result.tsc_step >= 2600000000 && result.tsc_step < 5200000000);
	assert_monotonic(&result);
}

static void steps_of_other_clocks_are_told(void **state)
{
	struct event_result result;

	(void)state;
	event_begin(&machine.events, "suspend");
	machine_stop(&machine);
	machine.realtime += 7200000000000;
	machine.boottime += 3555000000;
	machine.monotonic += 40000000;
	machine_continue(&machine, STABLE);
	result = event_end(&machine.events, "suspend", NULL);
	assert_true(llabs(result.realtime_step.ns - 7200000000000) <= result.realtime_step.within);
	assert_true(llabs(result.boottime_step.ns - 3555000000) <= result.boottime_step.within);
	assert_true(result.realtime_step.within < MEASURE_NS && result.boottime_step.within < MEASURE_NS);
	assert_measured(&result.raw, 0);
	assert_measured(&result.monotonic, 40000000);
	assert_monotonic(&result);
}

static void a_page_that_is_not_stable_is_another_line(void **state)
{
	struct event_result result;

	(void)state;
	event_begin(&machine.events, "unstable");
	machine_stop(&machine);
	machine_continue(&machine, 0);
	result = event_end(&machine.events, "unstable", NULL);
	assert_int_equal(result.lines, 1);
	assert_int_equal(result.page.jump, 0);
	assert_true(result.page_now);
	assert_int_equal(result.now.snapshot.flags, 0);
}

static void a_page_without_a_line_is_not_known(void **state)
{
	struct event_result result;
	uint32_t mul = machine.line.mul;

	(void)state;
	event_begin(&machine.events, "broken");
	machine_stop(&machine);
	machine.line.mul = 0;
	machine_continue(&machine, STABLE);
	result = event_end(&machine.events, "broken", NULL);
	assert_false(result.page_known);
	assert_false(result.page_now);
	assert_true(pages_totals(&machine.pages).unreadable >= 1);
	machine_stop(&machine);
	machine.line.mul = mul;
	machine_continue(&machine, STABLE);
	event_begin(&machine.events, "mended");
	result = event_end(&machine.events, "mended", NULL);
	assert_true(result.page_known);
	assert_int_equal(result.page.jump, 0);
}

/* --- steps back ---------------------------------------------------------------------------------- */

/* One reading of each clock, once, too small: that many are counted, and no other. */
static void one_reading_too_small_is_counted_once(void **state)
{
	struct event_result result;

	(void)state;
	for (unsigned int round = 0; round < 5; round++) {
		event_begin(&machine.events, "fault");
		machine_run(&machine);
		for (unsigned int clock = 0; clock < PROBE_STEADY_CLOCKS; clock++)
			atomic_store(&machine.fault[clock], 900000000);
		machine_run(&machine);
		for (unsigned int clock = 0; clock < PROBE_STEADY_CLOCKS; clock++)
			assert_int_equal(atomic_load(&machine.fault[clock]), 0);
		result = event_end(&machine.events, "fault", NULL);
		assert_int_equal(result.totals.within + result.totals.between, PROBE_STEADY_CLOCKS);
		assert_in_range(result.totals.worst_ns, 800000000, 900000000);
		event_begin(&machine.events, "clean");
		machine_run(&machine);
		result = event_end(&machine.events, "clean", NULL);
		assert_monotonic(&result);
	}
}

/* A CPU whose clocks are behind the others' never sees itself go back. */
static void a_cpu_behind_the_others_is_counted_between(void **state)
{
	struct event_result result;

	(void)state;
	atomic_store(&machine.skew, 50000000);
	atomic_store(&machine.skewed_cpu, machine.watch.threads < 2 ? UINT32_MAX : 0);
	event_begin(&machine.events, "skew");
	machine_run(&machine);
	if (machine.watch.threads < 2) /* another CPU, by hand, that was 50 ms ahead once */
		atomic_store(&machine.watch.largest[PROBE_RAW].ns,
			     machine.clocks.ns(&machine, PROBE_RAW, UINT32_MAX) + 50000000);
	machine_run(&machine);
	result = event_end(&machine.events, "skew", NULL);
	/* the first reading after an event begins cannot be below one: of its own CPU, none ever is */
	assert_int_equal(result.totals.within, 0);
	assert_true(result.totals.between > 0);
	atomic_store(&machine.skewed_cpu, UINT32_MAX);
}

/* What was read before an event's end is still held against what is read while it ends. */
static void a_step_back_at_the_very_end_is_counted(void **state)
{
	struct event_result result;

	(void)state;
	event_begin(&machine.events, "late");
	machine_run(&machine);
	/* another CPU, by hand, that was 10 s ahead */
	atomic_store(&machine.watch.largest[PROBE_RAW].ns,
		     machine.clocks.ns(&machine, PROBE_RAW, UINT32_MAX) + 10000000000);
	result = event_end(&machine.events, "late", NULL);
	assert_int_equal(result.totals.within, 0);
	assert_true(result.totals.between >= WATCH_BURST * machine.watch.threads);
}

static void a_clock_set_back_is_counted_and_then_forgiven(void **state)
{
	struct event_result result;

	(void)state;
	event_begin(&machine.events, "back");
	machine_run(&machine);
	disturb(0, -3600000000000);
	machine_run(&machine);
	result = event_end(&machine.events, "back", NULL);
	assert_int_equal(result.page.jump, -3600000000000);
	assert_measured(&result.raw, -3600000000000);
	assert_true(result.totals.within >= WATCH_BURST);
	event_begin(&machine.events, "after");
	machine_run(&machine);
	result = event_end(&machine.events, "after", NULL);
	assert_monotonic(&result);
	assert_true(watch_totals(&machine.watch).within >= WATCH_BURST);
}

/* --- events that nobody announced, or not to this memory ------------------------------------------------ */

static void a_change_outside_of_events_is_counted(void **state)
{
	struct event_result result;

	(void)state;
	disturb(0, 5);
	machine_run(&machine);
	disturb(0, 5);
	machine_run(&machine);
	/* rewritten, the same function: nothing to tell */
	machine_stop(&machine);
	machine_continue(&machine, STABLE);
	machine_run(&machine);
	assert_int_equal(event_begin(&machine.events, "later").unannounced, 2);
	disturb(0, 5);
	result = event_end(&machine.events, "later", NULL);
	assert_int_equal(result.unannounced, 2);
	assert_int_equal(result.page.jump, 5);
	assert_int_equal(event_begin(&machine.events, "last").unannounced, 0);
	assert_int_equal(event_end(&machine.events, "last", NULL).unannounced, 0);
	assert_int_equal(machine.events.unannounced, 2);
	assert_int_equal(pages_totals(&machine.pages).lines, 4);
	assert_true(pages_totals(&machine.pages).rewrites >= 1);
}

static void an_end_without_a_begin_is_judged_by_the_page(void **state)
{
	struct event_result result;

	(void)state;
	event_begin(&machine.events, "first");
	event_end(&machine.events, "first", NULL);
	machine_run(&machine);
	events_keep(&machine.events);
	disturb(2600000000, -400000000);
	machine_run(&machine);
	result = event_end(&machine.events, "load", NULL);
	assert_true(result.unmatched);
	assert_string_equal(result.begun, "");
	assert_true(result.page_known);
	assert_int_equal(result.page.jump, -400000000);
	assert_int_equal(result.lines, 1);
	assert_measured(&result.raw, -400000000);
	assert_int_equal(result.unannounced, 0);
	assert_int_equal(event_begin(&machine.events, "next").unannounced, 0);
	result = event_end(&machine.events, "next", NULL);
	assert_false(result.unmatched);
	assert_int_equal(result.page.jump, 0);
	assert_measured(&result.raw, 0);
}

static void an_end_without_a_begin_or_a_page_is_judged_by_the_pause(void **state)
{
	struct event_result result;

	(void)state;
	machine_run(&machine);
	events_keep(&machine.events);
	machine_stop(&machine);
	machine.tsc_offset += 2600000000;
	machine.line.ns -= 500000000; /* half of it */
	machine.realtime += 500000000;
	machine_continue(&machine, STABLE);
	machine_run(&machine);
	events_keep(&machine.events);
	result = event_end(&machine.events, "load", NULL);
	assert_true(result.unmatched);
	assert_false(result.page_known);
	assert_measured(&result.raw, -500000000);
	assert_true(llabs(result.realtime_step.ns - 500000000) <= result.realtime_step.within);
	/* and nothing at all is nothing */
	machine_run(&machine);
	result = event_end(&machine.events, "load", NULL);
	assert_true(result.unmatched);
	assert_measured(&result.raw, 0);
}

static void the_end_of_another_event_is_judged_by_the_open_one(void **state)
{
	struct event_result result;

	(void)state;
	event_begin(&machine.events, "save");
	disturb(2600000000, -300);
	result = event_end(&machine.events, "load", NULL);
	assert_true(result.unmatched);
	assert_string_equal(result.begun, "save");
	assert_int_equal(result.page.jump, -300);
	/* and one that never ended is replaced */
	assert_false(event_begin(&machine.events, "lost").replaced);
	disturb(0, 77);
	assert_true(event_begin(&machine.events, "new").replaced);
	disturb(0, 8);
	result = event_end(&machine.events, "new", NULL);
	assert_false(result.unmatched);
	assert_int_equal(result.page.jump, 8);
	assert_measured(&result.raw, 8);
}

static void without_a_page_only_readings_count(void **state)
{
	struct event_result result;

	(void)state;
	event_begin(&machine.events, "pause");
	disturb(2600000000, -1000000000);
	result = event_end(&machine.events, "pause", NULL);
	assert_false(result.page_known);
	assert_false(result.page_now);
	assert_measured(&result.raw, -1000000000);
	assert_monotonic(&result);
}

#define WITH_PAGE(function) cmocka_unit_test_setup_teardown(function, start, end)
#define WITHOUT_PAGE(function) cmocka_unit_test_setup_teardown(function, start_without_page, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_PAGE(nothing_is_nothing),
		WITH_PAGE(a_jump_is_told_to_the_ns),
		WITH_PAGE(a_frozen_clock_has_not_moved),
		WITH_PAGE(a_new_rate_is_told),
		WITH_PAGE(rates_are_compared_where_the_one_took_over),
		WITH_PAGE(a_tsc_that_went_back_is_told),
		WITH_PAGE(a_stop_within_a_reading_is_told),
		WITH_PAGE(steps_of_other_clocks_are_told),
		WITH_PAGE(a_page_that_is_not_stable_is_another_line),
		WITH_PAGE(a_page_without_a_line_is_not_known),
		WITH_PAGE(one_reading_too_small_is_counted_once),
		WITH_PAGE(a_cpu_behind_the_others_is_counted_between),
		WITH_PAGE(a_step_back_at_the_very_end_is_counted),
		WITH_PAGE(a_clock_set_back_is_counted_and_then_forgiven),
		WITH_PAGE(a_change_outside_of_events_is_counted),
		WITH_PAGE(an_end_without_a_begin_is_judged_by_the_page),
		WITHOUT_PAGE(an_end_without_a_begin_or_a_page_is_judged_by_the_pause),
		WITH_PAGE(the_end_of_another_event_is_judged_by_the_open_one),
		WITHOUT_PAGE(without_a_page_only_readings_count),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
