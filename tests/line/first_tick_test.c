/* SPDX-License-Identifier: MIT */
/* P5: the first tick is the whole definition of a deadline, so it is checked by the line itself, not by a formula. */
#include "check.h"
#include "oracle.h"

static bool is_first_tick(const struct pvclock_line *line, uint64_t ns, bool found, uint64_t ticks)
{
	if (!found) /* only a line that never gets there may say so */
		return ticks == UINT64_MAX && oracle_ns(line, UINT64_MAX) < ns;
	return ticks >= line->tsc && oracle_ns(line, ticks) >= ns &&
	       (ticks == line->tsc || oracle_ns(line, ticks - 1) < ns);
}

static void check_target(struct random *random, const struct pvclock_line *line, uint64_t ns)
{
	struct pvclock_inverse inverse;
	uint64_t ticks = 0;
	bool found;

	pvclock_inverse_make(&inverse, line);
	found = pvclock_first_tick(&inverse, ns, &ticks);
	check(random, is_first_tick(line, ns, found, ticks), LINE_FORMAT " for %" PRIu64 " ns: %s %" PRIu64,
	      LINE_VALUES(*line), ns, found ? "tick" : "none", ticks);
}

static void p5_first_tick_is_never_early_and_never_late(void **state)
{
	struct random random = random_start(1000000);

	(void)state;
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_line line = random_line(&random);
		uint64_t n = random_any(&random);

		check_target(&random, &line, random_below(&random, 2) ? line.ns + n : n);
	}
}

/* A target that a tick meets exactly, and its neighbours: where ceil and floor + 1 part. */
static void p5_first_tick_at_exact_targets(void **state)
{
	struct random random = random_start(200000);

	(void)state;
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_line line = random_line(&random);
		uint64_t ns;

		line.mul = (uint32_t)1 << random_below(&random, 32);
		ns = oracle_ns(&line, line.tsc + random_any(&random));
		check_target(&random, &line, ns);
		check_target(&random, &line, ns - 1);
		check_target(&random, &line, ns + 1);
	}
}

/* The last ns that a 64-bit tick reaches, and the first that none does. */
static void p5_first_tick_up_to_the_last_tick(void **state)
{
	struct random random = random_start(200000);
	unsigned long unreached = 0;

	(void)state;
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_line line = random_line(&random);
		uint64_t reach = oracle_ns(&line, UINT64_MAX);

		check_target(&random, &line, reach);
		check_target(&random, &line, reach - 1);
		check_target(&random, &line, UINT64_MAX);
		check_target(&random, &line, UINT64_MAX - 1);
		if (reach < UINT64_MAX) {
			check_target(&random, &line, reach + 1);
			unreached++;
		}
	}
	assert_true(unreached > random.rounds / 20);
}

static void p5_reached_target_is_the_anchor(void **state)
{
	struct pvclock_line line = { .tsc = 1000, .ns = 500, .mul = 0x80000000u, .shift = 0 };
	struct pvclock_inverse inverse;
	uint64_t ticks;

	(void)state;
	pvclock_inverse_make(&inverse, &line);
	assert_true(pvclock_first_tick(&inverse, 0, &ticks));
	assert_int_equal(ticks, 1000);
	assert_true(pvclock_first_tick(&inverse, 500, &ticks));
	assert_int_equal(ticks, 1000);
	assert_true(pvclock_first_tick(&inverse, 501, &ticks));
	assert_int_equal(ticks, 1002);
	line.tsc = UINT64_MAX;
	pvclock_inverse_make(&inverse, &line);
	assert_true(pvclock_first_tick(&inverse, 500, &ticks));
	assert_int_equal(ticks, UINT64_MAX);
	assert_false(pvclock_first_tick(&inverse, 501, &ticks));
	assert_int_equal(ticks, UINT64_MAX);
}

/* mul 1 has the largest reciprocal, 2^128 - 1; shift -31 the coarsest ticks; shift 31 several ns each. */
static void p5_first_tick_at_the_ends_of_mul_and_shift(void **state)
{
	static const uint32_t muls[] = { 1, 2, 3, 0x7fffffff, 0x80000000, 0x80000001, UINT32_MAX - 1, UINT32_MAX };
	static const int8_t shifts[] = { -31, -30, -1, 0, 1, 30, 31 };
	static const uint64_t anchors[] = { 0, 1, UINT64_C(1) << 63, UINT64_MAX - 1, UINT64_MAX };
	struct random random = random_start(0);

	(void)state;
	for (size_t m = 0; m < sizeof(muls) / sizeof(*muls); m++)
		for (size_t s = 0; s < sizeof(shifts) / sizeof(*shifts); s++)
			for (size_t a = 0; a < sizeof(anchors) / sizeof(*anchors); a++)
				for (size_t n = 0; n < sizeof(anchors) / sizeof(*anchors); n++) {
					struct pvclock_line line = { .tsc = anchors[a], .ns = anchors[n],
								     .mul = muls[m], .shift = shifts[s] };

					for (unsigned int bit = 0; bit < 64; bit++)
						for (uint64_t near = 0; near < 3; near++)
							check_target(&random, &line,
								     line.ns + (UINT64_C(1) << bit) + near - 1);
				}
}

static void p10_invalid_line_has_no_first_tick(void **state)
{
	static const struct pvclock_line lines[] = {
		{ .tsc = 1, .ns = 0, .mul = 0, .shift = 0 },		{ .tsc = 1, .ns = 5, .mul = 0, .shift = -31 },
		{ .tsc = 1, .ns = 0, .mul = 1, .shift = 32 },		{ .tsc = 1, .ns = 0, .mul = 1, .shift = -32 },
		{ .tsc = 1, .ns = UINT64_MAX, .mul = 1, .shift = 127 }, { .tsc = 1, .ns = 9, .mul = 1, .shift = -128 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
		struct pvclock_inverse inverse;
		uint64_t ticks = 0;

		pvclock_inverse_make(&inverse, &lines[i]);
		assert_false(pvclock_first_tick(&inverse, 0, &ticks));
		assert_int_equal(ticks, UINT64_MAX);
		assert_false(pvclock_first_tick(&inverse, lines[i].ns, &ticks));
		assert_false(pvclock_first_tick(&inverse, UINT64_MAX, &ticks));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p5_first_tick_is_never_early_and_never_late),
		cmocka_unit_test(p5_first_tick_at_exact_targets),
		cmocka_unit_test(p5_first_tick_up_to_the_last_tick),
		cmocka_unit_test(p5_reached_target_is_the_anchor),
		cmocka_unit_test(p5_first_tick_at_the_ends_of_mul_and_shift),
		cmocka_unit_test(p10_invalid_line_has_no_first_tick),
	};

	return cmocka_run_group_tests_name("line: first tick", tests, NULL, NULL);
}
