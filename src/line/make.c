/* SPDX-License-Identifier: MIT */
/* make.c - a line from a point and a slope. */
#include "ratio.h"

bool pvclock_line_make(struct pvclock_line *line, uint64_t ticks, uint64_t ns, const struct pvclock_slope *slope,
		       bool *exact)
{
	word mantissa = (word)slope->mantissa, mul, dropped;
	int shift = slope->exponent;

	if (mantissa == 0)
		return false;
	shift -= word_normalise(&mantissa);

	/* The upper half of the mantissa is mul: mantissa * 2^exponent = mul * 2^(shift - 32) */
	mul = (word)(mantissa >> MUL_BITS);
	dropped = (word)(mantissa << MUL_BITS);
	shift += WORD_BITS;
	if (dropped & WORD_TOP)
		mul++;
	if (mul >> MUL_BITS) {
		mul >>= 1;
		shift++;
	}
	if (shift < PVCLOCK_SHIFT_MIN || shift > PVCLOCK_SHIFT_MAX)
		return false;

	line->tsc = ticks;
	line->ns = ns;
	line->mul = (uint32_t)mul;
	line->shift = (int8_t)shift;
	if (exact)
		*exact = dropped == 0;
	return true;
}
