/* SPDX-License-Identifier: MIT */
/* P3: what is lost where a rate becomes a mantissa, and a mantissa becomes a multiplier. */
#include "check.h"
#include "oracle.h"

static bool is_normalised(const struct pvclock_slope *slope)
{
	return slope->mantissa >> 63;
}

/* |slope - numerator/denominator| is at most half a unit in the last place */
static bool is_nearest(const struct pvclock_slope *slope, uint64_t numerator, uint64_t denominator)
{
	mpq_t wanted, got, half;
	bool nearest;

	mpq_inits(wanted, got, half, NULL);
	mpq_set_ui(wanted, numerator, denominator);
	mpq_canonicalize(wanted);
	oracle_slope(slope, got);
	mpq_sub(got, got, wanted);
	mpq_abs(got, got);
	oracle_scaled(1, slope->exponent - 1, half);
	nearest = mpq_cmp(got, half) <= 0;
	mpq_clears(wanted, got, half, NULL);
	return nearest;
}

/* 2^-63 <= numerator/denominator < 2^31 */
static bool fits(uint64_t numerator, uint64_t denominator)
{
	mpq_t value, end;
	bool in;

	if (numerator == 0 || denominator == 0)
		return false;
	mpq_inits(value, end, NULL);
	mpq_set_ui(value, numerator, denominator);
	mpq_canonicalize(value);
	oracle_scaled(1, -63, end);
	in = mpq_cmp(value, end) >= 0;
	oracle_scaled(1, 31, end);
	in = in && mpq_cmp(value, end) < 0;
	mpq_clears(value, end, NULL);
	return in;
}

static void p3_fraction_is_rounded_to_nearest(void **state)
{
	struct random random = random_start(300000);

	(void)state;
	for (unsigned long i = 0; i < random.rounds; i++) {
		const struct pvclock_slope before = { .mantissa = 12345, .exponent = 7 };
		uint64_t ns = random_any(&random), ticks = random_any(&random);
		struct pvclock_slope slope = before;
		bool made = pvclock_slope_from_fraction(ns, ticks, &slope);

		check(&random, made == fits(ns, ticks), "%" PRIu64 "/%" PRIu64, ns, ticks);
		if (made)
			check(&random, is_normalised(&slope) && is_nearest(&slope, ns, ticks), "%" PRIu64 "/%" PRIu64, ns,
			      ticks);
		else
			check(&random, slope.mantissa == before.mantissa && slope.exponent == before.exponent,
			      "touched by %" PRIu64 "/%" PRIu64, ns, ticks);
	}
}

static void p3_kernel_slope_is_exact(void **state)
{
	struct random random = random_start(200000);
	mpq_t wanted, got;

	(void)state;
	mpq_inits(wanted, got, NULL);
	for (unsigned long i = 0; i < random.rounds; i++) {
		uint32_t mult = random_mul(&random);
		unsigned int shift = (unsigned int)random_below(&random, 66);
		struct pvclock_slope slope;
		bool made = pvclock_slope_from_kernel(mult, shift, &slope);

		check(&random, made == (shift < 64 && (shift > 0 || mult < UINT32_C(1) << 31)),
		      "mult %" PRIu32 " shift %u", mult, shift);
		if (!made)
			continue;
		oracle_slope(&slope, got);
		oracle_scaled(mult, -(int)shift, wanted);
		check(&random, mpq_equal(wanted, got) && is_normalised(&slope), "mult %" PRIu32 " shift %u", mult, shift);
	}
	mpq_clears(wanted, got, NULL);
}

static void p3_line_slope_is_exact(void **state)
{
	struct random random = random_start(200000);
	mpq_t wanted, got;

	(void)state;
	mpq_inits(wanted, got, NULL);
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_line line = random_line(&random), made;
		struct pvclock_slope slope;
		bool exact = false;

		assert_true(pvclock_slope_from_line(&line, &slope));
		oracle_slope(&slope, got);
		oracle_line_slope(&line, wanted);
		check(&random, mpq_equal(wanted, got) && is_normalised(&slope), LINE_FORMAT, LINE_VALUES(line));
		/* and back again, where a line can be normalised */
		if (pvclock_line_make(&made, line.tsc, line.ns, &slope, &exact)) {
			oracle_line_slope(&made, got);
			check(&random, exact && mpq_equal(wanted, got) && made.mul >> 31 && made.tsc == line.tsc &&
			      made.ns == line.ns, LINE_FORMAT, LINE_VALUES(line));
		} else {
			oracle_scaled(1, -32, got);
			check(&random, mpq_cmp(wanted, got) < 0, LINE_FORMAT, LINE_VALUES(line));
		}
	}
	mpq_clears(wanted, got, NULL);
}

static void p3_line_is_the_nearest_to_its_slope(void **state)
{
	struct random random = random_start(300000);
	unsigned long inexact = 0;
	mpq_t wanted, got, end;

	(void)state;
	mpq_inits(wanted, got, end, NULL);
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_slope slope = random_slope(&random);
		struct pvclock_line line = { .tsc = 1, .ns = 2, .mul = 3, .shift = 4 };
		bool exact = false;

		switch (random_below(&random, 8)) { /* half way, just beside it, exact, and the carry into 2^32 */
		case 0: slope.mantissa = (slope.mantissa & ~(uint64_t)UINT32_MAX) | 0x80000000u; break;
		case 1: slope.mantissa = (slope.mantissa & ~(uint64_t)UINT32_MAX) | 0x7fffffffu; break;
		case 2: slope.mantissa &= ~(uint64_t)UINT32_MAX; break;
		case 3: slope.mantissa |= ~(uint64_t)UINT32_MAX; break;
		default: break;
		}
		oracle_slope(&slope, wanted);
		slope.exponent = (int16_t)(slope.exponent + 5);
		if ((slope.mantissa & 31) == 0) { /* not normalised, the same value */
			slope.mantissa >>= 5;
		} else {
			slope.exponent = (int16_t)(slope.exponent - 5);
		}
		if (!pvclock_line_make(&line, 10, 20, &slope, &exact)) {
			assert_int_equal(line.mul, 3);
			oracle_scaled(1, -32, end);
			if (mpq_cmp(wanted, end) >= 0) { /* then it is 2^31 or more if rounded */
				oracle_scaled((UINT64_C(1) << 33) - 1, -2, end);
				check(&random, mpq_cmp(wanted, end) >= 0, "%" PRIu64 " %d", slope.mantissa, slope.exponent);
			}
			continue;
		}
		oracle_line_slope(&line, got);
		check(&random, line.tsc == 10 && line.ns == 20 && pvclock_line_valid(&line) && line.mul >> 31,
		      LINE_FORMAT, LINE_VALUES(line));
		check(&random, exact == (mpq_cmp(got, wanted) == 0), "%" PRIu64 " %d", slope.mantissa, slope.exponent);
		check(&random, oracle_within(got, wanted, -32), "%" PRIu64 " %d", slope.mantissa, slope.exponent);
		mpq_sub(got, got, wanted); /* half of mul's last bit */
		mpq_abs(got, got);
		oracle_scaled(1, line.shift - 33, end);
		check(&random, mpq_cmp(got, end) <= 0, "%" PRIu64 " %d", slope.mantissa, slope.exponent);
		inexact += !exact;
	}
	assert_true(inexact > random.rounds / 4);
	mpq_clears(wanted, got, end, NULL);
}

/* Any rate in Hz: both roundings together stay within a quarter of a ppb. */
static void p3_any_frequency_is_within_a_quarter_ppb(void **state)
{
	struct random random = random_start(200000);
	mpq_t wanted, got, limit;

	(void)state;
	mpq_inits(wanted, got, limit, NULL);
	for (unsigned long i = 0; i < random.rounds; i++) {
		uint64_t hz = 1 + random_below(&random, UINT64_C(20000000000));
		struct pvclock_slope slope, from_khz, from_khz_in_hz;
		struct pvclock_line line;

		assert_true(pvclock_slope_from_hz(hz, &slope));
		assert_true(pvclock_line_make(&line, 0, 0, &slope, NULL));
		mpq_set_ui(wanted, 1000000000, hz);
		mpq_canonicalize(wanted);
		oracle_line_slope(&line, got);
		mpq_sub(got, got, wanted);
		mpq_abs(got, got);
		mpq_set_ui(limit, 2329, UINT64_C(10000000000000)); /* 0.2329 ppb */
		mpq_mul(limit, limit, wanted);
		check(&random, mpq_cmp(got, limit) <= 0, "%" PRIu64 " Hz", hz);

		assert_true(pvclock_slope_from_khz(hz, &from_khz));
		assert_true(pvclock_slope_from_hz(hz * 1000, &from_khz_in_hz));
		check(&random, pvclock_slope_difference(&from_khz, &from_khz_in_hz) == 0, "%" PRIu64 " kHz", hz);
	}
	mpq_clears(wanted, got, limit, NULL);
}

/* A real host: CLOCK_MONOTONIC_RAW's mult 6462414 at shift 24 is a pvclock multiplier, exactly. */
static void p3_kernel_multiplier_becomes_a_line_exactly(void **state)
{
	struct pvclock_slope slope;
	struct pvclock_line line;
	bool exact = false;

	(void)state;
	assert_true(pvclock_slope_from_kernel(6462414, 24, &slope));
	assert_true(pvclock_line_make(&line, 0, 0, &slope, &exact));
	assert_true(exact);
	assert_int_equal(line.mul, 3308755968u);
	assert_int_equal(line.shift, -1);
}

static void p3_no_slope_is_refused(void **state)
{
	struct pvclock_slope slope = { .mantissa = 9, .exponent = 9 }, none = { .mantissa = 0, .exponent = 0 };
	struct pvclock_line line = { .tsc = 0, .ns = 0, .mul = 0, .shift = 0 };
	struct pvclock_slope steep = { .mantissa = UINT64_MAX, .exponent = INT16_MAX };
	struct pvclock_slope flat = { .mantissa = 1, .exponent = INT16_MIN };

	(void)state;
	assert_false(pvclock_slope_from_kernel(0, 24, &slope));
	assert_false(pvclock_slope_from_kernel(1, 64, &slope));
	assert_false(pvclock_slope_from_kernel(1, UINT32_MAX, &slope));
	assert_false(pvclock_slope_from_fraction(0, 1, &slope));
	assert_false(pvclock_slope_from_fraction(1, 0, &slope));
	assert_false(pvclock_slope_from_hz(0, &slope));
	assert_false(pvclock_slope_from_khz(0, &slope));
	assert_false(pvclock_slope_from_line(&line, &slope));
	assert_false(pvclock_line_make(&line, 0, 0, &none, NULL));
	assert_false(pvclock_line_make(&line, 0, 0, &steep, NULL));
	assert_false(pvclock_line_make(&line, 0, 0, &flat, NULL));
	assert_int_equal(line.mul, 0);
	assert_int_equal(slope.mantissa, 9);
	assert_int_equal(slope.exponent, 9);
	/* the ends of the range */
	assert_true(pvclock_slope_from_fraction((UINT64_C(1) << 31) - 1, 1, &slope));
	assert_false(pvclock_slope_from_fraction(UINT64_C(1) << 31, 1, &slope));
	assert_true(pvclock_slope_from_fraction(1, UINT64_C(1) << 63, &slope));
	assert_false(pvclock_slope_from_fraction(1, (UINT64_C(1) << 63) + 1, &slope));
}

static int64_t oracle_difference(const struct pvclock_slope *a, const struct pvclock_slope *b)
{
	int64_t result;
	mpq_t x, y;
	mpz_t units;

	mpq_inits(x, y, NULL);
	mpz_init(units);
	oracle_slope(a, x);
	oracle_slope(b, y);
	mpq_sub(x, x, y);
	mpq_div(x, x, y);
	mpq_mul_2exp(x, x, 64);
	mpz_tdiv_q(units, mpq_numref(x), mpq_denref(x));
	if (mpz_fits_slong_p(units))
		result = mpz_get_si(units);
	else
		result = mpz_sgn(units) < 0 ? INT64_MIN : INT64_MAX;
	mpz_clear(units);
	mpq_clears(x, y, NULL);
	return result;
}

static void p3_slope_difference_is_exact(void **state)
{
	struct random random = random_start(300000);

	(void)state;
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_slope a = random_slope(&random), b = a;

		switch (random_below(&random, 4)) {
		case 0: b = random_slope(&random); break;
		case 1: b.mantissa = random_u64(&random) | 1; break;
		default:
			b.mantissa += random_any(&random);
			b.mantissa |= b.mantissa == 0;
			break;
		}
		b.exponent = (int16_t)(b.exponent + (int)random_below(&random, 5) - 2);
		check(&random, pvclock_slope_difference(&a, &b) == oracle_difference(&a, &b),
		      "%" PRIu64 "*2^%d, %" PRIu64 "*2^%d: %" PRId64 ", not %" PRId64, a.mantissa, a.exponent, b.mantissa,
		      b.exponent, pvclock_slope_difference(&a, &b), oracle_difference(&a, &b));
		check(&random, pvclock_slope_difference(&a, &a) == 0, "%" PRIu64 "*2^%d", a.mantissa, a.exponent);
	}
}

static void p3_slope_difference_has_the_stated_unit(void **state)
{
	const struct pvclock_slope none = { .mantissa = 0, .exponent = 0 };
	struct pvclock_slope a, b, next;

	(void)state;
	assert_true(pvclock_slope_from_fraction(1000000001, 1000000000, &a)); /* 1 ppb fast */
	assert_true(pvclock_slope_from_fraction(1, 1, &b));
	assert_true(llabs(pvclock_slope_difference(&a, &b) - INT64_C(18446744074)) <= 2);
	assert_true(llabs(pvclock_slope_difference(&b, &a) + INT64_C(18446744055)) <= 2);
	/* no two slopes are close enough to be taken for the same */
	a.mantissa = UINT64_MAX;
	next = a;
	next.mantissa = UINT64_C(1) << 63;
	next.exponent++;
	assert_int_equal(pvclock_slope_difference(&a, &next), -1);
	assert_int_equal(pvclock_slope_difference(&next, &a), 1);
	assert_int_equal(pvclock_slope_difference(&none, &none), 0);
	assert_true(pvclock_slope_difference(&none, &a) == INT64_MIN);
	assert_true(pvclock_slope_difference(&a, &none) == INT64_MAX);
}

/* Linux's loop, in the smallest number of words. */
static void p3_kvm_multiplier_is_the_kernels(void **state)
{
	static const uint32_t special[] = { 1, 2, 1000, 999999, 1000000, 1000001, 1999999, 2000000, 2000001, 2147483,
					    4294967, 4294968, UINT32_MAX };
	struct random random = random_start(200000);
	struct pvclock_line line = { .tsc = 0, .ns = 0, .mul = 7, .shift = 7 };

	(void)state;
	assert_false(pvclock_line_make_kvm(&line, 0, 0, 0));
	assert_int_equal(line.mul, 7);
	for (unsigned long i = 0; i < random.rounds; i++) {
		const size_t count = sizeof(special) / sizeof(*special);
		uint32_t khz = i < count ? special[i] : (uint32_t)random_any(&random);
		uint64_t tps64 = (uint64_t)khz * 1000, scaled64 = 1000000000, rest;
		uint32_t tps32;
		int shift = 0;

		if (khz == 0)
			continue;
		while (tps64 > scaled64 * 2 || tps64 >> 32) {
			tps64 >>= 1;
			shift--;
		}
		tps32 = (uint32_t)tps64;
		while (tps32 <= scaled64 || scaled64 >> 32) {
			if (scaled64 >> 32 || tps32 >> 31)
				scaled64 >>= 1;
			else
				tps32 <<= 1;
			shift++;
		}
		rest = (scaled64 << 32) / tps32;
		assert_true(pvclock_line_make_kvm(&line, 11, 22, khz));
		check(&random, line.mul == rest && line.shift == shift && line.tsc == 11 && line.ns == 22 &&
		      pvclock_line_valid(&line), "%" PRIu32 " kHz", khz);
	}
	/* seen in a real page, on a host that reports 2596122 kHz */
	assert_true(pvclock_line_make_kvm(&line, 0, 0, 2596122));
	assert_int_equal(line.mul, 3308756133u);
	assert_int_equal(line.shift, -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p3_fraction_is_rounded_to_nearest),
		cmocka_unit_test(p3_kernel_slope_is_exact),
		cmocka_unit_test(p3_line_slope_is_exact),
		cmocka_unit_test(p3_line_is_the_nearest_to_its_slope),
		cmocka_unit_test(p3_any_frequency_is_within_a_quarter_ppb),
		cmocka_unit_test(p3_kernel_multiplier_becomes_a_line_exactly),
		cmocka_unit_test(p3_no_slope_is_refused),
		cmocka_unit_test(p3_slope_difference_is_exact),
		cmocka_unit_test(p3_slope_difference_has_the_stated_unit),
		cmocka_unit_test(p3_kvm_multiplier_is_the_kernels),
	};

	return cmocka_run_group_tests_name("line: slope", tests, NULL, NULL);
}
