/* SPDX-License-Identifier: MIT */
/*
 * Two lines as functions, and a shift measured from readings alone: against brute force, and against what was made up.
 */
#define _GNU_SOURCE /* CPU_COUNT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../random.h"
#include "cpus.h"
#include "difference.h"
#include "shift.h"

/* PVCLOCK_SEED repeats a run. */
static uint64_t seed = 20240607;

static uint64_t random_bits(void)
{
	return splitmix64(&seed);
}

static uint64_t below(uint64_t bound)
{
	return random_bits() % bound;
}

static int set_seed(void **state)
{
	const char *given = getenv("PVCLOCK_SEED");

	(void)state;
	if (given != NULL)
		seed = strtoull(given, NULL, 0);
	print_message("PVCLOCK_SEED=%llu\n", (unsigned long long)seed);
	return 0;
}

/* --- lines ------------------------------------------------------------------------------- */

/* Everything that two lines are apart over so many ticks in a row: they cover every case of a small multiplier. */
static void brute_force(const struct pvclock_line *old, const struct pvclock_line *new, uint64_t from, uint64_t ticks,
			int64_t *low, int64_t *high)
{
	*low = INT64_MAX;
	*high = INT64_MIN;
	for (uint64_t t = from; t < from + ticks; t++) {
		int64_t apart = (int64_t)(pvclock_line_ns(new, t) - pvclock_line_ns(old, t));

		if (apart < *low)
			*low = apart;
		if (apart > *high)
			*high = apart;
	}
}

/* A multiplier with few significant bits repeats itself soon, so that brute force sees all there is. */
static void parallel_lines_part_by_what_brute_force_finds(void **state)
{
	(void)state;
	for (int round = 0; round < 3000; round++) {
		unsigned int bits = 1 + (unsigned int)below(10);
		struct pvclock_line old = { .tsc = 1000000 + below(5000), .ns = 1u << 30,
					    .mul = (uint32_t)((below(1u << bits) | 1) << (32 - bits)),
					    .shift = (int8_t)((int)below(7) - 3) };
		struct pvclock_line new = old;
		struct difference found;
		int64_t low, high;

		new.tsc = 1000000 + below(5000);
		if (below(2)) /* near each other, where the sign of the jump is decided by a ns */
			new.ns = pvclock_line_ns(&old, new.tsc) + below(5) - 2;
		else
			new.ns += below(20000) - 10000;
		brute_force(&old, &new, new.tsc > old.tsc ? new.tsc : old.tsc, 8u << bits, &low, &high);
		found = line_difference(&old, &new, NULL);
		assert_true(found.same_slope);
		assert_true(found.rate_ppb == 0);
		assert_int_equal(found.low, low);
		assert_int_equal(found.high, high);
		assert_int_equal(found.jump, llabs(low) >= llabs(high) ? low : high);
	}
}

/* Real multipliers, where brute force only sees a sample: nothing it sees is outside, and a step by hand is found. */
static void a_jump_is_exact(void **state)
{
	(void)state;
	for (int round = 0; round < 2000; round++) {
		struct pvclock_line old = { .tsc = below(1ull << 45), .ns = (1ull << 50) + below(1ull << 45),
					    .mul = (uint32_t)(random_bits() | 1u << 31), .shift = (int8_t)-below(4) };
		struct pvclock_line same = old, moved;
		int64_t jump = (int64_t)below(1ull << 42) - (1ll << 41), low, high;
		struct difference found;

		/* lossless: no reading changes */
		pvclock_line_reanchor(&same, old.tsc + below(1ull << 50));
		found = line_difference(&old, &same, NULL);
		assert_true(difference_is_none(&found));
		assert_int_equal(found.jump, 0);
		/* 1 ns is 1 ns, and hours are hours */
		moved = same;
		moved.ns += (uint64_t)jump;
		found = line_difference(&old, &moved, NULL);
		assert_int_equal(found.low, jump);
		assert_int_equal(found.high, jump);
		assert_int_equal(found.jump, jump);
		moved.ns = same.ns + 1;
		found = line_difference(&old, &moved, NULL);
		assert_false(difference_is_none(&found));
		assert_int_equal(found.jump, 1);
		/* anchored anew where the clock then was: 0 or 1 ns lost, and said */
		moved = old;
		moved.tsc = old.tsc + below(1ull << 44);
		moved.ns = pvclock_line_ns(&old, moved.tsc);
		found = line_difference(&old, &moved, NULL);
		assert_in_range(found.low + 3, 0, 3);
		assert_true(found.high <= 1);
		brute_force(&old, &moved, moved.tsc, 512, &low, &high);
		assert_true(low >= found.low && high <= found.high);
	}
}

static void of_two_alike_the_jump_is_the_one_that_goes_back(void **state)
{
	/* 1 tick is 1.5 ns; half a tick's phase between them: at some ticks one is ahead, at some the other */
	struct pvclock_line old = { .tsc = 0, .ns = 100, .mul = 0xc0000000, .shift = 1 };
	struct pvclock_line new = { .tsc = 1, .ns = 101, .mul = 0xc0000000, .shift = 1 };
	struct difference found = line_difference(&old, &new, NULL);

	(void)state;
	/* old: 100 101 103 104 106; new: - 101 102 104 105 */
	assert_int_equal(found.low, -1);
	assert_int_equal(found.high, 0);
	assert_int_equal(found.jump, -1);
	found = line_difference(&new, &old, NULL);
	assert_int_equal(found.low, 0);
	assert_int_equal(found.high, 1);
	assert_int_equal(found.jump, 1);
	old.ns = 100 + 0;
	new = (struct pvclock_line){ .tsc = 0, .ns = 100, .mul = 0xc0000000, .shift = 1 };
	assert_int_equal(line_difference(&old, &new, NULL).jump, 0);
}

static void a_new_rate_is_judged_at_the_new_anchor(void **state)
{
	struct pvclock_line old = { .tsc = 1000, .ns = 5000, .mul = 3308756133u, .shift = -1 };
	struct pvclock_line new = { .tsc = 1000 + 2596000000u, .ns = 0, .mul = 0x80000000u, .shift = 1 };
	struct difference found;

	(void)state;
	new.ns = pvclock_line_ns(&old, new.tsc) - 3;
	found = line_difference(&old, &new, NULL);
	assert_false(found.same_slope);
	assert_int_equal(found.jump, -3);
	assert_int_equal(found.low, -3);
	/* 1 ns a tick against 0.385...: beyond what 64 bits of difference hold */
	assert_true(fabs(found.rate_ppb - (1 / (3308756133.0 / 8589934592.0) - 1) * 1e9) < 1e-3);
	/* and back: the later anchor is the old one's, where the new line has long begun */
	found = line_difference(&new, &old, NULL);
	assert_int_equal(found.jump, 3);
	assert_true(fabs(found.rate_ppb - (3308756133.0 / 8589934592.0 - 1) * 1e9) < 1e-3);
	/* the stock kernel's multiplier: 0.116 ppb off, which is nothing at the anchor */
	new = old;
	new.mul -= 385;
	found = line_difference(&old, &new, NULL);
	assert_false(found.same_slope);
	assert_int_equal(found.jump, 0);
	assert_true(fabs(found.rate_ppb + 385 / 3308756133.0 * 1e9) < 1e-6);
}

static void the_ends_of_the_range_saturate(void **state)
{
	struct pvclock_line old = { .tsc = 0, .ns = 0, .mul = UINT32_MAX, .shift = 31 };
	struct pvclock_line new = { .tsc = UINT64_MAX, .ns = UINT64_MAX, .mul = UINT32_MAX, .shift = 31 };
	struct pvclock_line twice = { .tsc = 0, .ns = 7, .mul = 1u << 31, .shift = 0 };
	struct pvclock_line once = { .tsc = 0, .ns = 9, .mul = 1u << 30, .shift = 1 };

	(void)state;
	assert_int_equal(line_difference(&old, &new, NULL).jump, INT64_MIN);
	assert_int_equal(line_difference(&new, &old, NULL).jump, INT64_MAX);
	/* one slope written in two ways */
	assert_true(line_difference(&twice, &once, NULL).same_slope);
	assert_int_equal(line_difference(&twice, &once, NULL).jump, 2);
}

/* Readings of one scale are apart by their offsets, at every tick; of two, by what they read at that tick. */
static void hyperv_pages_differ_in_units(void **state)
{
	struct pvclock_hyperv_line old = { .scale = UINT64_C(71054033000000000), .offset = -5000 }, new = old;
	struct difference found;

	(void)state;
	assert_true(difference_is_none(&(struct difference){ .same_slope = true }));
	found = hyperv_difference(&old, &new, UINT64_C(1) << 50);
	assert_true(difference_is_none(&found));
	new.offset -= 3;
	found = hyperv_difference(&old, &new, UINT64_C(1) << 50);
	assert_true(found.same_slope);
	assert_int_equal(found.jump, -300);
	assert_int_equal(found.low, -300);
	assert_int_equal(found.high, -300);
	for (int round = 0; round < 1000; round++) {
		uint64_t tick = below(UINT64_C(1) << 55);
		int64_t units;

		new = (struct pvclock_hyperv_line){ old.scale + 1 + below(1u << 30), (int64_t)below(1u << 20) };
		/* 128 bits hold both products */
		units = (int64_t)(((__extension__(unsigned __int128)tick * new.scale) >> 64) - ((__extension__(unsigned __int128)tick * old.scale) >> 64)) +
			new.offset - old.offset;
		found = hyperv_difference(&old, &new, tick);
		assert_false(found.same_slope);
		assert_int_equal(found.jump, units * 100);
		assert_true(fabs(found.rate_ppb - (double)(new.scale - old.scale) / (double)old.scale * 1e9) < 1e-3);
	}
}

/* --- shifts ---------------------------------------------------------------------------------- */

/* A clock of 64-bit fixed point, cut to whole ns as a kernel does. */
struct made_up {
	uint64_t tsc;  /* anchor */
	double ns;     /* there */
	double slope;
};

static double clock_at(const struct made_up *clock, uint64_t tsc)
{
	return clock->ns + (double)(int64_t)(tsc - clock->tsc) * clock->slope;
}

/* Read once at any moment between two reads of the TSC. */
static struct window read_window(const struct made_up *clock, uint64_t tsc)
{
	uint64_t width = 60 + below(below(4) == 0 ? 3000 : 200);
	struct window window = { .before = tsc, .after = tsc + width };

	window.ns = (uint64_t)floor(clock_at(clock, tsc + below(width + 1)));
	return window;
}

static size_t read_windows(const struct made_up *clock, uint64_t from, size_t count, struct window *windows)
{
	for (size_t i = 0; i < count; i++)
		windows[i] = read_window(clock, from + i * 26000000 + below(20000000));
	return shift_thin(windows, count);
}

static void the_true_shift_is_within_what_is_said(void **state)
{
	static struct window before[1000], after[200];

	(void)state;
	for (int round = 0; round < 300; round++) {
		double slope = 0.2 + (double)below(1000) / 900;
		struct made_up clock = { .tsc = 1ull << 40, .ns = 1e12, .slope = slope }, moved;
		/* below 2^53, a double holds thousandths of a ns here */
		double shift = (double)(int64_t)(below(2) ? below(4000) : below(4000000000u)) - 2000;
		size_t windows = 16 + below(980), later;
		size_t count = read_windows(&clock, clock.tsc + below(1u << 30), windows, before);
		uint64_t gap = below(2600000000u);
		struct measured found;

		moved = clock;
		moved.ns += shift;
		later = read_windows(&moved, before[count - 1].after + gap, 8 + below(100), after);
		found = shift_measure(before, count, after, later, NULL, 1);
		assert_true(found.known);
		assert_true(fabs((double)found.ns - shift) <= (double)found.within);
		/* and not by saying little: two narrow windows, and the gap times the slope's uncertainty */
		assert_true((double)found.within <
			    200 + 400 * (1 + (double)gap / ((double)windows * 26000000)) * clock.slope);
	}
}

/*
 * Hyper-V's clock reads up to 99 ns less than it is: before, nothing was cut off, and afterwards all of that. The clock
 * did not move.
 */
static void steps_are_allowed_for(void **state)
{
	struct window before[64], after[8];
	struct measured found;

	(void)state;
	for (size_t i = 0; i < 64; i++) /* 1 ns a tick */
		before[i] = (struct window){ .before = i * 1000000, .after = i * 1000000 + 20, .ns = i * 1000000 };
	for (size_t i = 0; i < 8; i++)
		after[i] = (struct window){ .before = 64000079 + i * 1000000, .after = 64000099 + i * 1000000, .ns = 64000000 + i * 1000000 };
	found = shift_measure(before, 64, after, 8, NULL, PVCLOCK_HYPERV_UNIT_NS);
	assert_true(found.known);
	assert_true(llabs(found.ns) <= found.within);
	assert_in_range(found.within, 100, 300);
	found = shift_measure(before, 64, after, 8, NULL, 1); /* as it would have to, of a clock of 1 ns */
	assert_true(found.known);
	assert_true(llabs(found.ns) > found.within);
}

/*
 * What is said must hold for every line that the readings allow, not only near a fit: readings all late in their
 * windows.
 */
static void one_sided_readings_do_not_fool_it(void **state)
{
	struct window before[64], after[8];
	struct measured found;

	(void)state;
	for (size_t i = 0; i < 64; i++) /* 1 ns a tick; read at the very end of windows of 100 */
		before[i] = (struct window){ .before = i * 1000000, .after = i * 1000000 + 100,
					     .ns = i * 1000000 + 100 };
	for (size_t i = 0; i < 8; i++) /* and then at the very beginning */
		after[i] = (struct window){ .before = 100000000 + i * 1000000, .after = 100000100 + i * 1000000,
					    .ns = 100000000 + i * 1000000 };
	found = shift_measure(before, 64, after, 8, NULL, 1);
	assert_true(found.known);
	assert_true(llabs(found.ns) <= found.within);
	assert_in_range(found.within, 100, 350);
}

static void a_new_rate_is_measured_at_a_tick(void **state)
{
	static struct window before[200], after[200];

	(void)state;
	for (int round = 0; round < 200; round++) {
		struct made_up clock = { .tsc = 1ull << 40, .ns = 1e12, .slope = 0.385186 }, moved;
		size_t count = read_windows(&clock, clock.tsc, 200, before), later;
		double shift = (double)below(2000000) - 1000000, slope, error;
		struct measured found;

		moved = (struct made_up){ .tsc = before[count - 1].after + below(1u << 20), .slope = 0.385186 * 2.6 };
		moved.ns = clock_at(&clock, moved.tsc) + shift;
		later = read_windows(&moved, moved.tsc + below(50000000), 20 + below(100), after);
		found = shift_measure(before, count, after, later, &moved.tsc, 1);
		assert_true(found.known);
		assert_true(fabs((double)found.ns - shift) <= (double)found.within);
		assert_true(found.within < 2000);
		assert_true(shift_rate(after, later, 1, &slope, &error));
		assert_true(fabs(slope / moved.slope - 1) * 1e9 <= error + 0.001);
		assert_true(error < 10000);
	}
}

static void a_tsc_that_went_back_is_measured_too(void **state)
{
	static struct window before[100], after[100];
	struct made_up clock = { .tsc = 1ull << 40, .ns = 1e12, .slope = 0.385186 }, moved = clock;
	size_t count = read_windows(&clock, clock.tsc, 100, before), later;
	struct measured found;

	(void)state;
	moved.ns -= 3600e9;
	later = read_windows(&moved, clock.tsc - 2600000000u, 20, after);
	found = shift_measure(before, count, after, later, NULL, 1);
	assert_true(found.known);
	assert_true(fabs((double)found.ns + 3600e9) <= (double)found.within);
	assert_true(found.within < 2000);
	/* into the midst of what was read */
	later = read_windows(&moved, clock.tsc + 260000000u, 20, after);
	found = shift_measure(before, count, after, later, NULL, 1);
	assert_true(found.known);
	assert_true(fabs((double)found.ns + 3600e9) <= (double)found.within);
	assert_true(found.within < 500);
}

static void too_little_is_no_measure(void **state)
{
	struct window one[1] = { { .before = 1, .after = 2, .ns = 3 } }, two[2] = { one[0], one[0] };
	double slope, error;

	(void)state;
	two[1].before += 1000;
	two[1].after += 1000;
	assert_false(shift_measure(one, 1, one, 1, NULL, 1).known);
	assert_false(shift_measure(two, 2, one, 0, NULL, 1).known);
	assert_false(shift_rate(one, 1, 1, &slope, &error));
	assert_int_equal(shift_thin(one, 0), 0);
}

static void thinning_keeps_the_narrowest_of_each_stretch(void **state)
{
	struct window windows[3 * SHIFT_WINDOWS];

	(void)state;
	for (size_t i = 0; i < 3 * SHIFT_WINDOWS; i++) { /* the last first */
		uint64_t at = (3 * SHIFT_WINDOWS - 1 - i) * 1000;

		windows[i] = (struct window){ .before = at, .after = at + (at / 1000 % 3 == 1 ? 50 : 100), .ns = at };
	}
	assert_int_equal(shift_thin(windows, 3 * SHIFT_WINDOWS), SHIFT_WINDOWS);
	for (size_t i = 0; i < SHIFT_WINDOWS; i++)
		assert_int_equal(windows[i].before, (3 * i + 1) * 1000);
}

/* --- lists of CPUs ------------------------------------------------------------------------------ */

static void a_list_of_cpus_is_read(void **state)
{
	cpu_set_t cpus;

	(void)state;
	assert_true(cpus_parse("0-2,5\n", &cpus));
	assert_int_equal(CPU_COUNT(&cpus), 4);
	assert_true(CPU_ISSET(0, &cpus) && CPU_ISSET(2, &cpus) && CPU_ISSET(5, &cpus));
	assert_true(cpus_parse("7", &cpus));
	assert_int_equal(CPU_COUNT(&cpus), 1);
	assert_true(cpus_parse("\n", &cpus));
	assert_int_equal(CPU_COUNT(&cpus), 0);
	assert_true(cpus_parse("0-1023", &cpus));
	assert_false(cpus_parse("0-1024", &cpus));
	assert_false(cpus_parse("2-1", &cpus));
	assert_false(cpus_parse("1-", &cpus));
	assert_false(cpus_parse("x", &cpus));
	assert_false(cpus_parse("1;2", &cpus));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parallel_lines_part_by_what_brute_force_finds),
		cmocka_unit_test(a_jump_is_exact),
		cmocka_unit_test(of_two_alike_the_jump_is_the_one_that_goes_back),
		cmocka_unit_test(a_new_rate_is_judged_at_the_new_anchor),
		cmocka_unit_test(the_ends_of_the_range_saturate),
		cmocka_unit_test(the_true_shift_is_within_what_is_said),
		cmocka_unit_test(hyperv_pages_differ_in_units),
		cmocka_unit_test(steps_are_allowed_for),
		cmocka_unit_test(one_sided_readings_do_not_fool_it),
		cmocka_unit_test(a_new_rate_is_measured_at_a_tick),
		cmocka_unit_test(a_tsc_that_went_back_is_measured_too),
		cmocka_unit_test(too_little_is_no_measure),
		cmocka_unit_test(thinning_keeps_the_narrowest_of_each_stretch),
		cmocka_unit_test(a_list_of_cpus_is_read),
	};

	return cmocka_run_group_tests(tests, set_seed, NULL);
}
