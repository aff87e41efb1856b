/* SPDX-License-Identifier: MIT */
/*
 * page_moved_test.c - P3, P8: a page that its hypervisor rewrites, in the middle of a sample or not, and one after a suspend: the
 * line follows, and says by how much it was moved; and it is taken over at once where it is the same.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "page_host.h"

/* --- a page that is rewritten ------------------------------------------------------------------ */

/* The same function from another anchor: nothing happened. */
static void reanchor(struct fake_host *host)
{
	struct pvclock_source *source = learned_source(host, LEARN_NS);

	for (unsigned int i = 0; i < 5; i++) {
		fake_host_pass(host, fake_host_random(host, 400ull * SECOND));
		fake_host_move(host, 0);
		CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
	}
	CHECK_SEED(host, state_of(source).moves == 0 && state_of(source).moved_ns == 0);
	pvclock_source_close(source);
}

static void same_function_is_no_event(void **unused)
{
	(void)unused;
	each(reanchor);
}

/* Back and forth by up to a second: RAW stands still meanwhile, the line follows, and what was moved is stated. */
static void move(struct fake_host *host)
{
	struct pvclock_source *source;
	struct pvclock_source_state state;
	struct pvclock_slope slope = true_slope(host);
	int64_t total = 0;
	uint64_t moves = 0, ns, width, elapsed_ns = 0;

	host->cost_min = 10; /* brackets of tens of ns, so that a wrong constant shows */
	source = learned_source(host, LEARN_NS);
	for (unsigned int i = 0; i < 40; i++) {
		static const int64_t sizes[] = { 100, 1000, 100000, 10 * MS, SECOND };
		int64_t size = sizes[fake_host_random(host, 5)];
		int64_t by = (int64_t)fake_host_random(host, (uint64_t)(2 * size)) - size;

		fake_host_pass(host, fake_host_random(host, SECOND));
		by -= by % 100;
		fake_host_move(host, by);
		moves += by != 0;
		total += by;
		for (unsigned int j = fake_host_random(host, 4) == 0 ? 50 : 1; j != 0; j--) {
			CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
			fake_host_pass(host, fake_host_random(host, MS));
		}
		state = state_of(source);
		CHECK_SEED(host, state.proven && state.moves == moves && state.moved_ns == total);
		CHECK_SEED(host, state.elapsed_ns >= elapsed_ns && state.elapsed_ns < 600ull * SECOND);
		elapsed_ns = state.elapsed_ns;
		CHECK_SEED(host, pvclock_slope_difference(&state.slope, &slope) <= 2);
	}
	/* after it caught up, RAW is where the line says */
	fake_host_pass(host, 3ull * SECOND);
	CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
	state = state_of(source);
	ns = fake_host_raw(host, host->ticks);
	width = (uint64_t)((pvclock_u128)state.bracket_ticks * 1000000 / host->khz) + 202;
	CHECK_SEED(host, pvclock_line_ns(&state.line, host->ticks) + width >= ns);
	CHECK_SEED(host, pvclock_line_ns(&state.line, host->ticks) <= ns + width);
	pvclock_source_close(source);
}

static void moved_clock_is_followed(void **unused)
{
	(void)unused;
	each(move);
}

/* Another CPU's page is newer than the one that is seen: RAW is ahead for a moment, then the page follows. */
static void other_cpu_first(struct fake_host *host)
{
	struct pvclock_source *source = learned_source(host, LEARN_NS);
	int64_t total = 0;

	for (unsigned int i = 0; i < 3; i++) {
		int64_t by = 500000 + 100 * (int64_t)fake_host_random(host, 10000);

		fake_host_pass(host, SECOND);
		/* a timer interrupt read the other CPU's page: RAW stands there until this one has caught up */
		host->floor = fake_clock_ns(&host->clock, host->ticks) + by;
		CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
		CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
		if (i != 0) /* or until it is rewritten itself */
			fake_host_pass(host, (uint64_t)by);
		CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
		fake_host_move(host, by);
		total += by;
		CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
	}
	CHECK_SEED(host, state_of(source).moves == 3 && state_of(source).moved_ns == total);
	pvclock_source_close(source);
}

static void late_page_is_waited_for(void **unused)
{
	(void)unused;
	each(other_cpu_first);
}

static void another_slope(struct fake_host *host)
{
	struct pvclock_source *source = host->seed & 1 ? learned_source(host, LEARN_NS) : open_source(host);
	uint32_t khz = host->khz;

	while (khz == host->khz)
		khz = (uint32_t)(host->khz - 5 + fake_host_random(host, 11));
	fake_host_pass(host, fake_host_random(host, SECOND));
	fake_host_change_khz(host, khz);
	assert_lost(source, host, PVCLOCK_REASON_SLOPE_MISFIT, "another slope");
	pvclock_source_close(source);
	/* as the reason says */
	source = learned_source(host, LEARN_NS);
	pvclock_source_close(source);
}

static void another_slope_is_another_line(void **unused)
{
	(void)unused;
	each(another_slope);
}

static void move_now(struct fake_host *host)
{
	fake_host_move(host, 5000);
}

static void move_again(struct fake_host *host)
{
	fake_host_move(host, 5000);
	host->during_read = move_again;
}

/* Between the two looks at it: the page that RAW was read with is not known, so the sample is no sample. */
static void rewritten_during_a_sample(struct fake_host *host)
{
	struct pvclock_source *source = learned_source(host, LEARN_NS);
	struct pvclock_reason reason;
	uint64_t samples = state_of(source).samples;

	host->during_read = move_now;
	CHECK_SEED(host, pvclock_source_sample(source, &reason) == 0);
	CHECK_SEED(host, state_of(source).samples == samples + 1 && state_of(source).moved_ns == 5000);
	/* all the while: try again */
	host->during_read = move_again;
	CHECK_SEED(host, pvclock_source_sample(source, &reason) == -EAGAIN);
	assert_reason(&reason, PVCLOCK_REASON_OS, "middle");
	CHECK_SEED(host, state_of(source).samples == samples + 1 && state_of(source).proven);
	host->during_read = NULL;
	if (host->clock.hyperv.scale == 0) {
		host->page.version++; /* being written, and never finished */
		CHECK_SEED(host, host->seed > 4 || pvclock_source_sample(source, &reason) == -EAGAIN);
		host->page.version++;
	}
	fake_host_pass(host, SECOND);
	CHECK_SEED(host, pvclock_source_sample(source, &reason) == 0);
	pvclock_source_close(source);
}

static void rewriting_spoils_no_sample(void **unused)
{
	(void)unused;
	each(rewritten_during_a_sample);
}

/* A hypervisor that died while it wrote: nobody waits for ever. */
static void never_finished_page_times_out(void **unused)
{
	struct pvclock_source *source;
	struct pvclock_reason reason;
	struct fake_host host;

	(void)unused;
	fake_host_init_virtual(&host, false, 2600000, 1);
	source = open_source(&host);
	host.page.version++;
	assert_int_equal(pvclock_source_learn(source, 20 * MS, &reason), -ETIMEDOUT);
	assert_reason(&reason, PVCLOCK_REASON_OS, "writing its pvclock page");
	pvclock_source_close(source);
}

/* --- suspend, and taking over ------------------------------------------------------------------------- */

/* This machine sleeps: RAW stands, the hypervisor's clock may go on or begin anew, and so may the TSC. */
static void suspend(struct fake_host *host)
{
	bool resets = host->seed & 1;
	struct pvclock_source *source = learned_source(host, LEARN_NS);
	struct pvclock_source_state state;
	uint64_t raw = fake_host_raw(host, host->ticks), ns;

	host->slept_ns += 3600ull * SECOND;
	if (resets) {
		host->ticks = fake_host_random(host, 1000000);
		fake_host_change_khz(host, host->khz); /* an anchor in the TSC's new life */
	} else {
		fake_host_pass(host, 3600ull * SECOND);
	}
	host->floor = fake_clock_ns(&host->clock, host->ticks);
	host->constant = (pvclock_s128)raw - host->floor;
	for (unsigned int i = 0; i < 5; i++) {
		CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
		fake_host_pass(host, SECOND);
	}
	state = state_of(source);
	CHECK_SEED(host, state.proven && state.moves == 0);
	ns = fake_host_raw(host, host->ticks);
	CHECK_SEED(host, llabs((int64_t)(pvclock_line_ns(&state.line, host->ticks) - ns)) <= 3000);
	pvclock_source_close(source);
}

static void suspend_keeps_the_slope(void **unused)
{
	(void)unused;
	each(suspend);
}

/* What was compared before a suspend says nothing of the constant after it: the 10 ms begin anew. */
static void suspend_before_the_proof(void **unused)
{
	struct pvclock_source *source;
	struct fake_host host;

	(void)unused;
	fake_host_init_virtual(&host, false, 2600000, 1);
	source = open_source(&host);
	fake_host_pass(&host, 8 * MS);
	assert_int_equal(pvclock_source_sample(source, NULL), -EAGAIN);
	host.slept_ns += SECOND;
	host.constant -= 3 * MS;
	fake_host_pass(&host, 4 * MS);
	assert_int_equal(pvclock_source_sample(source, NULL), -EAGAIN);
	fake_host_pass(&host, 4 * MS);
	assert_int_equal(pvclock_source_sample(source, NULL), -EAGAIN);
	fake_host_pass(&host, 7 * MS);
	assert_int_equal(pvclock_source_sample(source, NULL), 0);
	pvclock_source_close(source);
}

static void take_over(struct fake_host *host)
{
	struct pvclock_source *first = learned_source(host, LEARN_NS), *second;
	struct pvclock_source_state state = state_of(first);
	struct pvclock_slope wrong = state.slope;
	struct pvclock_reason reason;

	second = open_source(host);
	wrong.mantissa += 1ull << 32;
	assert_int_equal(pvclock_source_assume(second, &wrong, &reason), -ENOTSUP);
	assert_reason(&reason, PVCLOCK_REASON_SLOPE_MISFIT, "another host");
	assert_false(state_of(second).proven);
	wrong.mantissa = 0;
	assert_int_equal(pvclock_source_assume(second, &wrong, &reason), -ENOTSUP);
	/* at once */
	assert_int_equal(pvclock_source_assume(second, &state.slope, &reason), 0);
	CHECK_SEED(host, state_of(second).proven && state_of(second).line.ns != 0);
	wrong = state_of(second).slope;
	CHECK_SEED(host, pvclock_slope_difference(&state.slope, &wrong) == 0);
	assert_int_equal(pvclock_source_assume(second, &state.slope, &reason), 0);
	fake_host_pass(host, SECOND);
	assert_int_equal(pvclock_source_sample(second, &reason), 0);
	pvclock_source_close(first);
	pvclock_source_close(second);
}

static void assume(void **unused)
{
	(void)unused;
	each(take_over);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(same_function_is_no_event),
		cmocka_unit_test(moved_clock_is_followed),
		cmocka_unit_test(late_page_is_waited_for),
		cmocka_unit_test(another_slope_is_another_line),
		cmocka_unit_test(rewriting_spoils_no_sample),
		cmocka_unit_test(never_finished_page_times_out),
		cmocka_unit_test(suspend_keeps_the_slope),
		cmocka_unit_test(suspend_before_the_proof),
		cmocka_unit_test(assume),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
