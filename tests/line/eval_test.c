/* SPDX-License-Identifier: MIT */
#include "check.h"
#include "oracle.h"

static void p1_line_reads_as_defined(void **state)
{
	struct random random = random_start(1000000);

	(void)state;
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_line line = random_line(&random);
		uint64_t ticks = random_any(&random);

		if (random_below(&random, 2))
			ticks += line.tsc;
		check(&random, pvclock_line_ns(&line, ticks) == oracle_ns(&line, ticks),
		      LINE_FORMAT " at %" PRIu64 ": %" PRIu64 ", should be %" PRIu64, LINE_VALUES(line), ticks,
		      pvclock_line_ns(&line, ticks), oracle_ns(&line, ticks));
	}
}

static void p2_line_never_goes_backwards(void **state)
{
	struct random random = random_start(1000000);

	(void)state;
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_line line = random_line(&random);
		uint64_t a = random_any(&random);
		uint64_t b = random_below(&random, 2) ? random_any(&random) : a + random_below(&random, 4);
		uint64_t early = a < b ? a : b, late = a < b ? b : a;

		if (random_below(&random, 16) == 0)
			line.shift = (int8_t)random_u64(&random);
		check(&random, pvclock_line_ns(&line, early) <= pvclock_line_ns(&line, late),
		      LINE_FORMAT " from %" PRIu64 " to %" PRIu64, LINE_VALUES(line), early, late);
	}
}

/* Saturation has an edge one tick wide: random values seldom hit it. Search for it and stand on it. */
static void p2_line_saturates_at_the_last_ns(void **state)
{
	struct random random = random_start(20000);
	unsigned long edges = 0;

	(void)state;
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_line line = random_line(&random);
		uint64_t below = line.tsc, above = UINT64_MAX;

		if (line.ns == UINT64_MAX || oracle_ns(&line, UINT64_MAX) < UINT64_MAX)
			continue;
		while (above - below > 1) {
			uint64_t middle = below + (above - below) / 2;

			if (oracle_ns(&line, middle) == UINT64_MAX)
				above = middle;
			else
				below = middle;
		}
		check(&random, pvclock_line_ns(&line, below) == oracle_ns(&line, below) &&
		      pvclock_line_ns(&line, above) == UINT64_MAX, LINE_FORMAT " at %" PRIu64, LINE_VALUES(line), above);
		edges++;
	}
	assert_true(edges > random.rounds / 20);
}

static void p1_before_the_anchor_reads_the_anchor(void **state)
{
	struct pvclock_line line = { .tsc = 1000, .ns = 77, .mul = 0x80000000u, .shift = 0 };

	(void)state;
	for (int shift = -31; shift <= 31; shift++) {
		line.shift = (int8_t)shift;
		assert_int_equal(pvclock_line_ns(&line, 0), 77);
		assert_int_equal(pvclock_line_ns(&line, 999), 77);
		assert_int_equal(pvclock_line_ns(&line, 1000), 77);
	}
	line.shift = 1;
	assert_int_equal(pvclock_line_ns(&line, 1001), 78);
}

static void p10_invalid_line_reads_its_anchor(void **state)
{
	static const int shifts[] = { -128, -64, -33, -32, 32, 33, 64, 127 };
	struct pvclock_line line = { .tsc = 5, .ns = 77, .mul = 0, .shift = 0 };

	(void)state;
	for (int shift = -128; shift <= 127; shift++) {
		line.shift = (int8_t)shift;
		assert_false(pvclock_line_valid(&line));
		assert_int_equal(pvclock_line_ns(&line, UINT64_MAX), 77);
	}
	line.mul = UINT32_MAX;
	for (size_t i = 0; i < sizeof(shifts) / sizeof(*shifts); i++) {
		line.shift = (int8_t)shifts[i];
		assert_false(pvclock_line_valid(&line));
		assert_int_equal(pvclock_line_ns(&line, 0), 77);
		assert_int_equal(pvclock_line_ns(&line, UINT64_MAX), 77);
	}
}

static void p1_ends_of_the_shift(void **state)
{
	struct pvclock_line line = { .tsc = 0, .ns = 0, .mul = UINT32_MAX, .shift = -31 };

	(void)state;
	/* floor((2^33 - 1) * (2^32 - 1) / 2^32) */
	assert_int_equal(pvclock_line_ns(&line, UINT64_MAX), ((uint64_t)1 << 33) - 3);
	line.mul = 1;
	assert_int_equal(pvclock_line_ns(&line, UINT64_MAX), 1);
	assert_int_equal(pvclock_line_ns(&line, ((uint64_t)1 << 63) - 1), 0);
	assert_int_equal(pvclock_line_ns(&line, (uint64_t)1 << 63), 1);
	/* d * 2^31 has 95 bits, the result 63: nothing may be cut off on the way */
	line.shift = 31;
	assert_int_equal(pvclock_line_ns(&line, UINT64_MAX), UINT64_MAX >> 1);
	line.mul = 2;
	assert_int_equal(pvclock_line_ns(&line, UINT64_MAX), UINT64_MAX);
	line.mul = 3;
	assert_int_equal(pvclock_line_ns(&line, UINT64_MAX), UINT64_MAX);
	line.mul = UINT32_MAX;
	assert_int_equal(pvclock_line_ns(&line, 1), UINT32_MAX >> 1);
	/* the sum with the anchor's ns is what saturates */
	line = (struct pvclock_line){ .tsc = 0, .ns = UINT64_MAX - 10, .mul = 0x80000000u, .shift = 1 };
	assert_int_equal(pvclock_line_ns(&line, 9), UINT64_MAX - 1);
	assert_int_equal(pvclock_line_ns(&line, 10), UINT64_MAX);
	assert_int_equal(pvclock_line_ns(&line, 11), UINT64_MAX);
	line.shift = 0;
	assert_int_equal(pvclock_line_ns(&line, 19), UINT64_MAX - 1);
	assert_int_equal(pvclock_line_ns(&line, 21), UINT64_MAX);
	assert_int_equal(pvclock_line_ns(&line, 22), UINT64_MAX);
}

/* 64 bits of ticks at 3 GHz last 194.8 years: nothing wraps or saturates earlier. */
static void p3_line_is_right_for_195_years(void **state)
{
	const uint64_t ns_per_day = UINT64_C(86400) * 1000000000;
	struct pvclock_slope slope;
	struct pvclock_line line;
	bool exact;

	(void)state;
	assert_true(pvclock_slope_from_khz(3000000, &slope));
	assert_true(pvclock_line_make(&line, 0, 0, &slope, &exact));
	assert_false(exact);
	for (uint64_t day = 0; day <= 71160; day += 90) {
		uint64_t want = day * ns_per_day, got = pvclock_line_ns(&line, want * 3);
		uint64_t apart = got > want ? got - want : want - got;

		assert_true(apart <= (want >> 32) + 2);
	}
	assert_int_equal(pvclock_line_ns(&line, UINT64_MAX), oracle_ns(&line, UINT64_MAX));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_line_reads_as_defined),
		cmocka_unit_test(p2_line_never_goes_backwards),
		cmocka_unit_test(p2_line_saturates_at_the_last_ns),
		cmocka_unit_test(p1_before_the_anchor_reads_the_anchor),
		cmocka_unit_test(p10_invalid_line_reads_its_anchor),
		cmocka_unit_test(p1_ends_of_the_shift),
		cmocka_unit_test(p3_line_is_right_for_195_years),
	};

	return cmocka_run_group_tests_name("line: read", tests, NULL, NULL);
}
