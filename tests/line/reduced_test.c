/* SPDX-License-Identifier: MIT */
/*
 * The same source with a word of 8 bits and multipliers of 4: small enough to try everything. The oracle is plain
 * arithmetic in a type wide enough for all of it. PVCLOCK_ALL=1 tries every anchor's ns with every
 * target (about a minute); without, they are a sample, as only their distance matters.
 */
#include "check.h"

#include "../../src/line/wide.h"

_Static_assert(WORD_BITS == 8, "compile with PVCLOCK_WORD_BITS=8");

enum { END = 256, MULS = 16, SHIFT = PVCLOCK_SHIFT_MAX };

static struct pvclock_line line_of(int tsc, int ns, int mul, int shift)
{
	struct pvclock_line line = { .tsc = (uint64_t)tsc, .ns = (uint64_t)ns, .mul = (uint32_t)mul,
				     .shift = (int8_t)shift };

	return line;
}

/* d ticks after the anchor, not saturated; any d */
static long gain(const struct pvclock_line *line, long d)
{
	return ((line->shift < 0 ? d >> -line->shift : d << line->shift) * (long)line->mul) >> 4;
}

static long reading(const struct pvclock_line *line, long ticks)
{
	long ns = (long)line->ns + (ticks > (long)line->tsc ? gain(line, ticks - (long)line->tsc) : 0);

	return ns < END ? ns : END - 1;
}

static int sample_step(int otherwise)
{
	return from_environment("PVCLOCK_ALL", 0) ? 1 : otherwise;
}

#define for_each_slope_of_a_line(mul, shift)            \
	for (int mul = 1; mul < MULS; mul++)            \
		for (int shift = -SHIFT; shift <= SHIFT; shift++)

static void report(unsigned long cases)
{
	print_message("             %lu cases\n", cases);
}

static void p1_every_product_and_quotient(void **state)
{
	unsigned long cases = 0;

	(void)state;
	for (int a = 0; a < END; a++)
		for (int b = 0; b < END; b++) {
			struct wide product = wide_mul((word)a, (word)b);

			assert_int_equal(product.hi << 8 | product.lo, a * b);
			for (unsigned int n = 0; n < 20; n++) {
				struct wide right = wide_right(wide_make((word)a, (word)b), n);

				assert_int_equal(right.hi << 8 | right.lo, (a << 8 | b) >> n);
			}
			for (int divisor = a + 1; divisor < END; divisor++) {
				word rest, quotient = wide_div(wide_make((word)a, (word)b), (word)divisor, &rest);

				if (quotient != (a << 8 | b) / divisor || rest != (a << 8 | b) % divisor)
					fail_msg("%d / %d", a << 8 | b, divisor);
				cases++;
			}
		}
	report(cases);
}

static void p1_every_reading(void **state)
{
	unsigned long cases = 0;

	(void)state;
	for_each_slope_of_a_line(mul, shift)
		for (int tsc = 0; tsc < END; tsc++)
			for (int ns = 0; ns < END; ns += sample_step(15)) {
				struct pvclock_line line = line_of(tsc, ns, mul, shift);

				for (int ticks = 0; ticks < END; ticks++, cases++)
					if ((long)pvclock_line_ns(&line, (uint64_t)ticks) != reading(&line, ticks))
						fail_msg(LINE_FORMAT " at %d", LINE_VALUES(line), ticks);
			}
	report(cases);
}

static void p5_every_first_tick(void **state)
{
	unsigned long cases = 0;

	(void)state;
	for_each_slope_of_a_line(mul, shift)
		for (int tsc = 0; tsc < END; tsc++)
			for (int ns = 0; ns < END; ns += sample_step(15)) {
				struct pvclock_line line = line_of(tsc, ns, mul, shift);
				struct pvclock_inverse inverse;
				long first = tsc;

				pvclock_inverse_make(&inverse, &line);
				for (int target = 0; target < END; target++, cases++) {
					uint64_t ticks = 0;
					bool found = pvclock_first_tick(&inverse, (uint64_t)target, &ticks);

					while (first < END && reading(&line, first) < target)
						first++;
					if (found != (first < END) || (long)ticks != (found ? first : END - 1))
						fail_msg(LINE_FORMAT " for %d: %ld", LINE_VALUES(line), target, (long)ticks);
				}
			}
	report(cases);
}

static void p1_every_reanchor(void **state)
{
	unsigned long cases = 0;

	(void)state;
	for_each_slope_of_a_line(mul, shift)
		for (int tsc = 0; tsc < END; tsc += sample_step(17))
			for (int ns = 0; ns < END; ns += 85)
				for (int to = 0; to < END; to++) {
					struct pvclock_line line = line_of(tsc, ns, mul, shift), next = line;
					long period = 1L << pvclock_line_period_shift(&line);

					pvclock_line_reanchor(&next, (uint64_t)to);
					if (to <= tsc)
						assert_true(next.tsc == line.tsc && next.ns == line.ns);
					else if ((long)next.tsc > to || to - (long)next.tsc >= period)
						fail_msg(LINE_FORMAT " to %d", LINE_VALUES(line), to);
					for (int ticks = (int)next.tsc; ticks < END; ticks++, cases++)
						if (reading(&next, ticks) != reading(&line, ticks))
							fail_msg(LINE_FORMAT " to %d at %d", LINE_VALUES(line), to, ticks);
				}
	report(cases);
}

/* The period changes nothing, ever; and every shorter step changes something. */
static void p1_every_period_is_minimal(void **state)
{
	unsigned long cases = 0;

	(void)state;
	for_each_slope_of_a_line(mul, shift) {
		struct pvclock_line line = line_of(0, 0, mul, shift);
		long period = 1L << pvclock_line_period_shift(&line);

		for (long step = 1; step <= period; step++, cases++) {
			bool same = true;

			for (long d = 0; d < 4 * END; d++)
				same = same && gain(&line, step + d) == gain(&line, step) + gain(&line, d);
			if (same != (step == period))
				fail_msg("mul %d shift %d: step %ld", mul, shift, step);
		}
	}
	report(cases);
}

/* By how much the moved line is behind; the old one reads `ticks` where it reads `ticks + by`. */
static void every_reading_moved(const struct pvclock_line *old, int by, long behind[2])
{
	struct pvclock_line moved = *old;
	int first = by < 0 ? -by : 0, end = by < 0 ? END : END - by;

	pvclock_line_shift(&moved, by);
	behind[0] = behind[1] = 0;
	for (int ticks = first; ticks < end; ticks++) {
		long less = reading(old, ticks) - reading(&moved, ticks + by);

		behind[0] = less < behind[0] ? less : behind[0];
		behind[1] = less > behind[1] ? less : behind[1];
	}
}

/* Exact wherever the anchor has a tick; else as line.h says, and no promise there is wider than what happens. */
static void p1_every_shift(void **state)
{
	long least[2] = { 0 }, most[2] = { 0 }; /* with a negative shift or without */
	unsigned long cases = 0;

	(void)state;
	for_each_slope_of_a_line(mul, shift)
		for (int tsc = 0; tsc < END; tsc += sample_step(17))
			for (int ns = 0; ns < END; ns += 85)
				for (int by = -END / 2; by < END / 2; by++, cases++) {
					struct pvclock_line line = line_of(tsc, ns, mul, shift);
					long behind[2];

					every_reading_moved(&line, by, behind);
					if (tsc + by >= 0 && (behind[0] != 0 || behind[1] != 0))
						fail_msg(LINE_FORMAT " by %d", LINE_VALUES(line), by);
					least[shift < 0] = behind[0] < least[shift < 0] ? behind[0] : least[shift < 0];
					most[shift < 0] = behind[1] > most[shift < 0] ? behind[1] : most[shift < 0];
				}
	assert_true(least[0] == 0 && most[0] == 1);
	assert_true(least[1] == -1 && most[1] == 2);
	report(cases);
}

/* In units of 2^-7 ns, the finest fraction that a line has here: ticks * mul * 2^(shift - 4) ns. */
static long exact(const struct pvclock_line *line, long ticks)
{
	long d = ticks > (long)line->tsc ? ticks - (long)line->tsc : 0;

	return ((long)line->ns << 7) + ((d * (long)line->mul) << (3 + line->shift));
}

static void p2_every_continuation(void **state)
{
	static const int new_ticks[] = { 0, 1, 2, 3, 5, 14, 100, 255 };
	unsigned long cases = 0;

	(void)state;
	for_each_slope_of_a_line(mul, shift)
		for (int d = 0; d < END; d++)
			for (int exponent = -12; exponent <= -4; exponent++)
				for (int mantissa = 128; mantissa < END; mantissa += sample_step(9))
					for (size_t i = 0; i < sizeof(new_ticks) / sizeof(*new_ticks); i++, cases++) {
						struct pvclock_slope slope = { .mantissa = (uint64_t)mantissa,
									       .exponent = (int16_t)exponent };
						struct pvclock_line old = line_of(0, 3, mul, shift), next;
						long e = exact(&old, d), lost, tick;
						uint64_t loss = 99;

						if (!pvclock_line_continue(&old, (uint64_t)d, (uint64_t)new_ticks[i], &slope,
									   &next, &loss)) {
							assert_false(pvclock_line_make(&next, 0, 0, &slope, NULL));
							continue;
						}
						if (e >> 7 >= END) {
							assert_true(next.ns == END - 1 && loss == 0);
							continue;
						}
						lost = e - exact(&next, new_ticks[i]);
						tick = (long)next.mul << (3 + next.shift);
						if (reading(&next, new_ticks[i]) != e >> 7 || lost < 0 ||
						    (long)loss != (lost + 7) >> 3 || (int)next.tsc > new_ticks[i] ||
						    lost >= (next.tsc == 0 && tick < 128 ? 128 : tick))
							fail_msg("mul %d shift %d d %d, slope %d*2^%d at %d", mul, shift, d,
								 mantissa, exponent, new_ticks[i]);
					}
	report(cases);
}

static void p3_every_fraction_is_nearest(void **state)
{
	unsigned long cases = 0;

	(void)state;
	for (long ns = 0; ns < END; ns++)
		for (long ticks = 0; ticks < END; ticks++, cases++) {
			struct pvclock_slope slope;
			bool in = ns && ticks && ns << 7 >= ticks && ns < ticks << 3;
			long error;

			if (pvclock_slope_from_fraction((uint64_t)ns, (uint64_t)ticks, &slope) != in)
				fail_msg("%ld/%ld", ns, ticks);
			if (!in)
				continue;
			/* |mantissa * 2^exponent - ns/ticks| <= 2^(exponent - 1), times ticks * 2^15 */
			error = ((long)slope.mantissa * ticks << (15 + slope.exponent)) - (ns << 15);
			if (slope.mantissa < 128 || slope.mantissa >= END || labs(error) > ticks << (14 + slope.exponent))
				fail_msg("%ld/%ld", ns, ticks);
		}
	report(cases);
}

static void p3_every_line_is_nearest(void **state)
{
	unsigned long cases = 0;

	(void)state;
	for (long mantissa = 1; mantissa < END; mantissa++)
		for (int exponent = -16; exponent <= 0; exponent++, cases++) {
			struct pvclock_slope slope = { .mantissa = (uint64_t)mantissa, .exponent = (int16_t)exponent };
			long best = LONG_MAX, value = mantissa << (16 + exponent), got;
			struct pvclock_line line;
			bool is_exact;

			/* every normalised line there is, in units of 2^-16 */
			for (int mul = 8; mul < MULS; mul++)
				for (int shift = -SHIFT; shift <= SHIFT; shift++) {
					long apart = labs(((long)mul << (12 + shift)) - value);

					best = apart < best ? apart : best;
				}
			if (!pvclock_line_make(&line, 0, 0, &slope, &is_exact)) {
				/* above 15.5 * 2^-1 or less than half a last place below 2^-4 */
				assert_true(value >= 31L << 14 || value < 8L << 9);
				continue;
			}
			got = (long)line.mul << (12 + line.shift);
			if (line.mul < 8 || line.mul >= MULS || labs(got - value) != best || is_exact != (best == 0))
				fail_msg("%ld*2^%d", mantissa, exponent);
		}
	report(cases);
}

static void p3_every_slope_difference(void **state)
{
	unsigned long cases = 0;

	(void)state;
	for (long a = 1; a < END; a++)
		for (long b = 1; b < END; b++)
			for (int apart = -9; apart <= 9; apart++, cases++) {
				struct pvclock_slope x = { .mantissa = (uint64_t)a, .exponent = (int16_t)(apart - 9) };
				struct pvclock_slope y = { .mantissa = (uint64_t)b, .exponent = -9 };
				long numerator = (a << (apart + 9)) - (b << 9), wanted = numerator * 256 / (b << 9);

				wanted = wanted > 127 ? 127 : wanted < -128 ? -128 : wanted;
				if (pvclock_slope_difference(&x, &y) != wanted)
					fail_msg("%ld*2^%d, %ld: %ld", a, apart, b, wanted);
				if ((wanted == 0) != (numerator == 0))
					fail_msg("%ld*2^%d is not %ld", a, apart, b);
			}
	report(cases);
}

static void p1_every_guest_tsc_and_slope(void **state)
{
	unsigned long cases = 0;

	(void)state;
	for (int ratio = 0; ratio < END; ratio++)
		for (int frac_bits = 0; frac_bits < 18; frac_bits++) {
			struct pvclock_tsc_transform transform = { .ratio = (uint64_t)ratio, .offset = 77,
								   .frac_bits = (uint8_t)frac_bits };

			for (int ticks = 0; ticks < END; ticks++, cases++) {
				struct pvclock_host_tsc host = { .ticks = (uint64_t)ticks };
				int wanted = frac_bits ? ticks * ratio >> frac_bits : ticks;

				assert_int_equal(pvclock_tsc_to_guest(&transform, host).ticks, (wanted + 77) % END);
			}
			for (int mantissa = 128; mantissa < END; mantissa++, cases++) {
				struct pvclock_slope slope = { .mantissa = (uint64_t)mantissa, .exponent = -9 }, guest;
				/* in units of 2^-9: mantissa * 2^frac_bits / ratio; and 2^16 of those for the comparison */
				long numerator = (long)mantissa << (frac_bits + 16), divisor = frac_bits ? ratio : 1;
				bool in = divisor && numerator >= divisor << 18 && numerator < divisor << 28;
				long error;

				if (pvclock_slope_to_guest(&slope, &transform, &guest) != in)
					fail_msg("%d at %d >> %d", mantissa, ratio, frac_bits);
				if (!in)
					continue;
				error = ((long)guest.mantissa * divisor << (guest.exponent + 25)) - numerator;
				if (guest.mantissa < 128 || labs(error) > divisor << (guest.exponent + 24))
					fail_msg("%d at %d >> %d", mantissa, ratio, frac_bits);
			}
		}
	report(cases);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_every_product_and_quotient),
		cmocka_unit_test(p1_every_reading),
		cmocka_unit_test(p5_every_first_tick),
		cmocka_unit_test(p1_every_reanchor),
		cmocka_unit_test(p1_every_period_is_minimal),
		cmocka_unit_test(p1_every_shift),
		cmocka_unit_test(p2_every_continuation),
		cmocka_unit_test(p3_every_fraction_is_nearest),
		cmocka_unit_test(p3_every_line_is_nearest),
		cmocka_unit_test(p3_every_slope_difference),
		cmocka_unit_test(p1_every_guest_tsc_and_slope),
	};

	return cmocka_run_group_tests_name("line: everything, at 8 bits", tests, NULL, NULL);
}
