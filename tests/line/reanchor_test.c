/* SPDX-License-Identifier: MIT */
#include "check.h"
#include "oracle.h"

static void p1_reanchor_changes_no_reading(void **state)
{
	struct random random = random_start(3000);
	unsigned long moved = 0;

	(void)state;
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_line line = random_line(&random), next = line;
		uint64_t at = random_any(&random);
		uint64_t step = UINT64_C(1) << pvclock_line_period_shift(&line);

		if (random_below(&random, 2))
			at += line.tsc;
		pvclock_line_reanchor(&next, at);
		check(&random, next.mul == line.mul && next.shift == line.shift, LINE_FORMAT, LINE_VALUES(line));
		if (at <= line.tsc) {
			check(&random, next.tsc == line.tsc && next.ns == line.ns, LINE_FORMAT, LINE_VALUES(line));
			continue;
		}
		/* as far as possible, not past it */
		check(&random, next.tsc <= at && at - next.tsc < step && (next.tsc - line.tsc) % step == 0,
		      LINE_FORMAT " to %" PRIu64, LINE_VALUES(line), at);
		moved += next.tsc != line.tsc;
		for (unsigned int j = 0; j < 2000; j++) {
			uint64_t room = UINT64_MAX - next.tsc;
			uint64_t d = j < 500 ? j : j < 600 ? room - (j - 500) : random_any(&random);
			uint64_t ticks = next.tsc + (d > room ? room : d);

			check(&random, pvclock_line_ns(&next, ticks) == pvclock_line_ns(&line, ticks),
			      LINE_FORMAT " to %" PRIu64 " read at %" PRIu64, LINE_VALUES(line), at, ticks);
		}
		check(&random, pvclock_line_ns(&next, UINT64_MAX) == oracle_ns(&line, UINT64_MAX),
		      LINE_FORMAT " to %" PRIu64, LINE_VALUES(line), at);
	}
	assert_true(moved > random.rounds / 8);
}

/* Half of the period leaves half a ns, or half a shifted tick, behind: one period on, a reading is short. */
static void p1_reanchor_period_is_minimal(void **state)
{
	struct random random = random_start(200000);
	unsigned long shown = 0;

	(void)state;
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_line line = random_line(&random), next;
		unsigned int period = pvclock_line_period_shift(&line);

		check(&random, period <= 63, LINE_FORMAT, LINE_VALUES(line));
		if (period == 0)
			continue;
		line.tsc = 0;
		line.ns = 0;
		next = line;
		next.tsc = UINT64_C(1) << (period - 1);
		next.ns = oracle_ns(&line, next.tsc);
		check(&random, pvclock_line_ns(&next, 2 * next.tsc) != pvclock_line_ns(&line, 2 * next.tsc), LINE_FORMAT,
		      LINE_VALUES(line));
		shown++;
	}
	assert_true(shown > random.rounds / 2);
}

static void p1_reanchor_period_at_the_ends(void **state)
{
	struct pvclock_line line = { .tsc = 10, .ns = 0, .mul = 1, .shift = -31 };

	(void)state;
	assert_int_equal(pvclock_line_period_shift(&line), 63);
	line.mul = 0x80000000u;
	assert_int_equal(pvclock_line_period_shift(&line), 32);
	line.shift = 0;
	assert_int_equal(pvclock_line_period_shift(&line), 1);
	line.shift = 1;
	assert_int_equal(pvclock_line_period_shift(&line), 0);
	line.shift = 31;
	assert_int_equal(pvclock_line_period_shift(&line), 0);
	line.mul = 1;
	assert_int_equal(pvclock_line_period_shift(&line), 1);
	line.mul = 3308755968u; /* a real host: 2^9 * 6462414, shift -1 */
	line.shift = -1;
	assert_int_equal(pvclock_line_period_shift(&line), 23);
	/* invalid: left alone */
	line.shift = 32;
	assert_int_equal(pvclock_line_period_shift(&line), 0);
	pvclock_line_reanchor(&line, 1000);
	assert_int_equal(line.tsc, 10);
	line.shift = 0;
	line.mul = 0;
	assert_int_equal(pvclock_line_period_shift(&line), 0);
	pvclock_line_reanchor(&line, 1000);
	assert_int_equal(line.tsc, 10);
}

static void p2_continue_is_never_backwards_and_loses_less_than_a_tick(void **state)
{
	struct random random = random_start(300000);
	unsigned long stepped_back = 0, clamped = 0, saturated = 0, positive = 0;
	mpq_t exact, got, lost, tick, limit;
	mpz_t whole;

	(void)state;
	mpq_inits(exact, got, lost, tick, limit, NULL);
	mpz_init(whole);
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_line old = random_line(&random), next = { .tsc = 1, .ns = 1, .mul = 1, .shift = 1 };
		struct pvclock_slope slope = random_slope(&random);
		uint64_t old_ticks = random_any(&random), new_ticks = random_any(&random), loss = 0;

		if (random_below(&random, 4))
			old.ns >>= 8;
		if (random_below(&random, 2)) {
			old.shift = (int8_t)(random_below(&random, 4) - 2u);
			old_ticks = old.tsc + random_any(&random) % 100000;
		}
		if (!pvclock_line_continue(&old, old_ticks, new_ticks, &slope, &next, &loss)) {
			struct pvclock_line made;

			check(&random, !pvclock_line_make(&made, 0, 0, &slope, NULL) && next.mul == 1, LINE_FORMAT,
			      LINE_VALUES(old));
			continue;
		}
		/* never backwards, and floor(E) */
		oracle_exact_ns(&old, old_ticks, exact);
		mpz_fdiv_q(whole, mpq_numref(exact), mpq_denref(exact));
		check(&random, oracle_ns(&next, new_ticks) >= oracle_ns(&old, old_ticks),
		      LINE_FORMAT " at %" PRIu64 ", new %" PRIu64, LINE_VALUES(old), old_ticks, new_ticks);
		if (mpz_sizeinbase(whole, 2) > 64) {
			check(&random, next.ns == UINT64_MAX && next.tsc == new_ticks && loss == 0, LINE_FORMAT,
			      LINE_VALUES(old));
			saturated++;
			continue;
		}
		check(&random, oracle_ns(&next, new_ticks) == mpz_get_ui(whole),
		      LINE_FORMAT " at %" PRIu64 ", new %" PRIu64, LINE_VALUES(old), old_ticks, new_ticks);
		/* 0 <= E - next < one tick, or 1 ns if there was no room */
		check(&random, next.tsc <= new_ticks, LINE_FORMAT, LINE_VALUES(next));
		oracle_exact_ns(&next, new_ticks, got);
		mpq_sub(lost, exact, got);
		oracle_line_slope(&next, tick);
		mpq_set_ui(limit, 1, 1);
		if (mpq_cmp(lost, tick) >= 0) {
			check(&random, next.tsc == 0, LINE_FORMAT " at %" PRIu64, LINE_VALUES(old), old_ticks);
			clamped++;
		}
		check(&random, mpq_sgn(lost) >= 0 && mpq_cmp(lost, limit) < 0,
		      LINE_FORMAT " at %" PRIu64 ", new %" PRIu64, LINE_VALUES(old), old_ticks, new_ticks);
		mpq_mul_2exp(lost, lost, 32);
		mpz_cdiv_q(whole, mpq_numref(lost), mpq_denref(lost));
		check(&random, mpz_get_ui(whole) == loss, LINE_FORMAT " at %" PRIu64 ": loss %" PRIu64 ", not %lu",
		      LINE_VALUES(old), old_ticks, loss, mpz_get_ui(whole));
		stepped_back += next.tsc != new_ticks;
		positive += next.shift > 0;
	}
	if (random.rounds >= 10000)
		assert_true(stepped_back && clamped && saturated && positive);
	mpz_clear(whole);
	mpq_clears(exact, got, lost, tick, limit, NULL);
}

/* Thousands of events in a row: the ns do not pile up, and *next may be *old. */
static void p1_continue_does_not_add_up(void **state)
{
	struct random random = random_start(100000);
	struct pvclock_line line = { .tsc = 0, .ns = 0, .mul = 0x80000000u, .shift = 0 };
	uint64_t ticks = 0, new_ticks, total = 0, loss = 0;
	struct pvclock_slope slope;
	mpq_t truth, term, got;

	(void)state;
	mpq_inits(truth, term, got, NULL);
	for (unsigned long i = 0; i < random.rounds; i++) {
		uint64_t step = random_below(&random, 1000000);

		oracle_line_slope(&line, term);
		mpq_set_ui(got, step, 1);
		mpq_mul(term, term, got);
		mpq_add(truth, truth, term);
		ticks += step;
		new_ticks = random_u64(&random) >> 2 | 1024;
		assert_true(pvclock_slope_from_khz(1000000 + random_below(&random, 4000000), &slope));
		assert_true(pvclock_line_continue(&line, ticks, new_ticks, &slope, &line, &loss));
		ticks = new_ticks;
		total += loss;
	}
	/* what was lost is what was reported; each less than a tick, so less than 1 ns a step, without any fraction */
	oracle_exact_ns(&line, ticks, got);
	mpq_sub(truth, truth, got);
	assert_true(mpq_sgn(truth) >= 0);
	oracle_scaled(total, -32, term);
	check(&random, mpq_cmp(truth, term) <= 0, "lost %f ns, reported %f", mpq_get_d(truth), mpq_get_d(term));
	check(&random, mpq_get_d(truth) < 0.5 * (double)random.rounds, "lost %f ns", mpq_get_d(truth));
	mpq_clears(truth, term, got, NULL);
}

static void p2_continue_refuses_invalid_lines(void **state)
{
	struct pvclock_line old = { .tsc = 0, .ns = 9, .mul = 0, .shift = 0 }, next = old;
	const struct pvclock_slope none = { .mantissa = 0, .exponent = 0 };
	struct pvclock_slope slope;
	uint64_t loss = 5;

	(void)state;
	assert_true(pvclock_slope_from_khz(3000000, &slope));
	assert_false(pvclock_line_continue(&old, 1, 1, &slope, &next, &loss));
	old.mul = 1;
	old.shift = 32;
	assert_false(pvclock_line_continue(&old, 1, 1, &slope, &next, &loss));
	old.shift = 0;
	assert_false(pvclock_line_continue(&old, 1, 1, &none, &next, &loss));
	assert_int_equal(loss, 5);
	assert_int_equal(next.mul, 0);
	assert_true(pvclock_line_continue(&old, 1, 1, &slope, &next, NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_reanchor_changes_no_reading),
		cmocka_unit_test(p1_reanchor_period_is_minimal),
		cmocka_unit_test(p1_reanchor_period_at_the_ends),
		cmocka_unit_test(p2_continue_is_never_backwards_and_loses_less_than_a_tick),
		cmocka_unit_test(p1_continue_does_not_add_up),
		cmocka_unit_test(p2_continue_refuses_invalid_lines),
	};

	return cmocka_run_group_tests_name("line: re-anchor and continue", tests, NULL, NULL);
}
