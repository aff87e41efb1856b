/* SPDX-License-Identifier: MIT */
/* slope.c - a rate, before it is rounded into a line's 32-bit multiplier. */
#include "ratio.h"

bool pvclock_slope_from_kernel(uint32_t mult, unsigned int shift, struct pvclock_slope *slope)
{
	return shift < WORD_BITS && slope_from_ratio((word)mult, 1, -(int)shift, slope);
}

bool pvclock_slope_from_fraction(uint64_t ns, uint64_t ticks, struct pvclock_slope *slope)
{
	return slope_from_ratio((word)ns, (word)ticks, 0, slope);
}

bool pvclock_slope_from_hz(uint64_t hz, struct pvclock_slope *slope)
{
	return pvclock_slope_from_fraction(1000000000, hz, slope);
}

bool pvclock_slope_from_khz(uint64_t khz, struct pvclock_slope *slope)
{
	return pvclock_slope_from_fraction(1000000, khz, slope);
}

bool pvclock_slope_from_line(const struct pvclock_line *line, struct pvclock_slope *slope)
{
	return pvclock_line_valid(line) && slope_from_ratio((word)line->mul, 1, line->shift - MUL_BITS, slope);
}

/* sign * units, saturated */
static int64_t difference(bool negative, word units)
{
	if (!negative)
		return (int64_t)(units < WORD_TOP ? units : WORD_TOP - 1);
	if (units >= WORD_TOP)
		return -(int64_t)(WORD_TOP - 1) - 1;
	return -(int64_t)units;
}

int64_t pvclock_slope_difference(const struct pvclock_slope *a, const struct pvclock_slope *b)
{
	word x = (word)a->mantissa, y = (word)b->mantissa, rest;
	int ratio = a->exponent - b->exponent;

	if (x == 0 || y == 0)
		return difference(x == 0, x == y ? 0 : WORD_MAX);
	ratio += word_normalise(&y) - word_normalise(&x);

	/* Now a/b = x/y * 2^ratio with x/y in (1/2, 2); beyond +-0.5 the answer is saturated. */
	if (ratio == 0) {
		bool negative = x < y;
		word apart = (word)(negative ? y - x : x - y);

		return difference(negative, wide_div(wide_make(apart, 0), y, &rest));
	}
	if (ratio == 1 && x < y) /* (2x - y) / y */
		return difference(false, wide_div(wide_make((word)(x - (word)(y - x)), 0), y, &rest));
	if (ratio == -1 && x > y) /* -(2y - x) / 2y */
		return difference(true, wide_div(wide_make((word)(y - (word)(x - y)), 0), y, &rest) >> 1);
	return difference(ratio < 0, WORD_MAX);
}
