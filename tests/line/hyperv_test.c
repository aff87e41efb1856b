/* SPDX-License-Identifier: MIT */
#include "check.h"
#include "oracle.h"

static void p12_hyperv_time_is_the_high_word(void **state)
{
	struct random random = random_start(300000);
	mpz_t time;

	(void)state;
	mpz_init(time);
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_hyperv_line hyperv = { .scale = random_any(&random), .offset = (int64_t)random_any(&random) };
		uint64_t ticks = random_any(&random);

		mpz_set_ui(time, ticks);
		mpz_mul_ui(time, time, hyperv.scale);
		mpz_fdiv_q_2exp(time, time, 64);
		mpz_add_ui(time, time, (uint64_t)hyperv.offset);
		mpz_fdiv_r_2exp(time, time, 64);
		check(&random, pvclock_hyperv_time(&hyperv, ticks) == mpz_get_ui(time), "%" PRIu64 " * %" PRIu64, ticks,
		      hyperv.scale);
	}
	mpz_clear(time);
}

/* -1 - d * 2^-65 < hyperv - line/100 < 1.02 + d * 2^-65; and how close it comes, so that the bound is not idle */
static void p12_hyperv_page_agrees_with_the_line(void **state)
{
	struct random random = random_start(300000);
	double least = 0, most = 0;
	mpq_t apart, bound, term;

	(void)state;
	mpq_inits(apart, bound, term, NULL);
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_line line = random_line(&random);
		struct pvclock_hyperv_line hyperv;
		uint64_t reading, d = random_any(&random);

		if (random_below(&random, 4)) {
			line.shift = (int8_t)(random_below(&random, 10) - 5u);
			line.mul |= 0x80000000u;
			d >>= random_below(&random, 40);
		}
		if (!pvclock_line_to_hyperv(&line, &hyperv))
			continue;
		/* at the anchor, with the fraction that the page drops: not below the line, and less than a unit above */
		oracle_scaled(line.tsc * hyperv.scale, -64, apart); /* modulo 2^64: the fraction alone */
		mpq_set_ui(term, pvclock_hyperv_time(&hyperv, line.tsc), 1);
		mpq_add(apart, apart, term);
		mpq_set_ui(term, line.ns, 100);
		mpq_canonicalize(term);
		mpq_sub(apart, apart, term);
		mpq_set_ui(term, 1, 1);
		check(&random, (mpq_sgn(apart) >= 0 && mpq_cmp(apart, term) < 0), LINE_FORMAT, LINE_VALUES(line));
		if (d > UINT64_MAX - line.tsc)
			d = UINT64_MAX - line.tsc;
		reading = pvclock_line_ns(&line, line.tsc + d);
		if (reading == UINT64_MAX)
			continue;
		mpq_set_ui(apart, pvclock_hyperv_time(&hyperv, line.tsc + d), 1);
		if (mpq_get_d(apart) > 1.8e19) /* one unit below zero, modulo 2^64 */
			mpq_set_si(apart, (int64_t)pvclock_hyperv_time(&hyperv, line.tsc + d), 1);
		mpq_set_ui(term, reading, 100);
		mpq_canonicalize(term);
		mpq_sub(apart, apart, term);
		oracle_scaled(d, -65, bound);
		mpq_set_ui(term, 102, 100);
		mpq_canonicalize(term);
		mpq_add(term, term, bound);
		check(&random, mpq_cmp(apart, term) < 0, LINE_FORMAT " %" PRIu64 " ticks on: %f", LINE_VALUES(line), d,
		      mpq_get_d(apart));
		mpq_set_si(term, -1, 1);
		mpq_sub(term, term, bound);
		check(&random, mpq_cmp(apart, term) > 0, LINE_FORMAT " %" PRIu64 " ticks on: %f", LINE_VALUES(line), d,
		      mpq_get_d(apart));
		least = mpq_get_d(apart) < least ? mpq_get_d(apart) : least;
		most = mpq_get_d(apart) > most ? mpq_get_d(apart) : most;
	}
	if (random.rounds >= 10000)
		assert_true(least < -0.99 && most > 0.99);
	mpq_clears(apart, bound, term, NULL);
}

static void p12_line_from_hyperv_is_continuous(void **state)
{
	struct random random = random_start(300000);
	unsigned long made = 0;
	mpq_t wanted, got, limit;
	mpz_t whole;

	(void)state;
	mpz_init(whole);
	mpq_inits(wanted, got, limit, NULL);
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_hyperv_line hyperv = { .scale = random_any(&random), .offset = (int64_t)random_any(&random) };
		uint64_t ticks = random_any(&random), units, ns;
		struct pvclock_line line;

		if (random_below(&random, 2))
			hyperv.offset >>= 16;
		units = pvclock_hyperv_time(&hyperv, ticks);
		oracle_scaled(hyperv.scale, -64, wanted);
		mpq_set_ui(limit, 100, 1);
		mpq_mul(wanted, wanted, limit);
		oracle_scaled(1, -32, limit);
		if (!pvclock_line_from_hyperv(&hyperv, ticks, &line)) {
			/* the last unit may or may not fit, by its fraction */
			check(&random, hyperv.scale == 0 || mpq_cmp(wanted, limit) < 0 || units >= UINT64_MAX / 100,
			      "scale %" PRIu64 " offset %" PRId64, hyperv.scale, hyperv.offset);
			continue;
		}
		made++;
		ns = pvclock_line_ns(&line, ticks);
		check(&random, line.tsc == ticks && ns / 100 == units, "scale %" PRIu64 " offset %" PRId64 " at %" PRIu64,
		      hyperv.scale, hyperv.offset, ticks);
		/* the whole value, to its last ns: 100 * tsc * scale / 2^64, modulo the offset */
		mpq_set_ui(got, ticks, 1);
		mpq_mul(got, got, wanted);
		mpz_fdiv_q(whole, mpq_numref(got), mpq_denref(got));
		mpz_fdiv_r_ui(whole, whole, 100);
		check(&random, ns % 100 == mpz_get_ui(whole), "scale %" PRIu64 " at %" PRIu64, hyperv.scale, ticks);
		oracle_line_slope(&line, got);
		check(&random, line.mul >> 31 && oracle_within(got, wanted, -32), "scale %" PRIu64, hyperv.scale);
		/* nearest mul, from all the bits of 100 * scale: rounded once */
		mpq_sub(got, got, wanted);
		mpq_abs(got, got);
		oracle_scaled(1, line.shift - 33, limit);
		check(&random, mpq_cmp(got, limit) <= 0, "scale %" PRIu64, hyperv.scale);
	}
	assert_true(made > random.rounds / 4);
	mpz_clear(whole);
	mpq_clears(wanted, got, limit, NULL);
}

static void p12_hyperv_form_at_its_ends(void **state)
{
	struct pvclock_line line = { .tsc = 0, .ns = 0, .mul = 0xc8000000u, .shift = 7 }; /* 100 ns per tick */
	struct pvclock_hyperv_line hyperv = { .scale = 3, .offset = 4 };

	(void)state;
	assert_false(pvclock_line_to_hyperv(&line, &hyperv));
	line.mul--;
	assert_true(pvclock_line_to_hyperv(&line, &hyperv));
	hyperv.scale = 3;
	line.mul = 1;
	line.shift = -31; /* 2^-63 ns per tick is 0.02 of the smallest scale */
	assert_false(pvclock_line_to_hyperv(&line, &hyperv));
	line.mul = 25;
	assert_true(pvclock_line_to_hyperv(&line, &hyperv)); /* rounds up to 1 */
	assert_int_equal(hyperv.scale, 1);
	line.mul = 24;
	assert_false(pvclock_line_to_hyperv(&line, &hyperv));
	line.mul = 0;
	assert_false(pvclock_line_to_hyperv(&line, &hyperv));
	line.mul = 1;
	line.shift = 32;
	assert_false(pvclock_line_to_hyperv(&line, &hyperv));
	/* before the form's zero there are no ns */
	hyperv = (struct pvclock_hyperv_line){ .scale = UINT64_C(1) << 56, .offset = -1 };
	assert_false(pvclock_line_from_hyperv(&hyperv, 0, &line));
	hyperv.offset = 0;
	assert_true(pvclock_line_from_hyperv(&hyperv, 0, &line));
	assert_int_equal(line.ns, 0);
	/* the last unit that ns can hold, whole and by its fraction */
	hyperv = (struct pvclock_hyperv_line){ .scale = UINT64_C(1) << 63, .offset = UINT64_MAX / 100 };
	assert_true(pvclock_line_from_hyperv(&hyperv, 0, &line));
	assert_int_equal(line.ns, UINT64_MAX - 15);
	assert_false(pvclock_line_from_hyperv(&hyperv, 1, &line)); /* 50 ns more */
	hyperv.scale = 0;
	assert_false(pvclock_line_from_hyperv(&hyperv, 0, &line));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p12_hyperv_time_is_the_high_word),
		cmocka_unit_test(p12_hyperv_page_agrees_with_the_line),
		cmocka_unit_test(p12_line_from_hyperv_is_continuous),
		cmocka_unit_test(p12_hyperv_form_at_its_ends),
	};

	return cmocka_run_group_tests_name("line: Hyper-V", tests, NULL, NULL);
}
