/* SPDX-License-Identifier: MIT */
/* ratio.h - a quotient as a slope: normalised, and rounded to nearest at one word. */
#ifndef PVCLOCK_LINE_RATIO_H
#define PVCLOCK_LINE_RATIO_H

#include "wide.h"

/* Valid lines have 2^-63 <= slope < 2^31, and a mantissa is in [2^63, 2^64). */
#define SLOPE_EXPONENT_MIN (-(2 * WORD_BITS - 2))
#define SLOPE_EXPONENT_MAX (-(MUL_BITS + 1))

/* Moves the top set bit of a (not 0) to the top; returns by how many places. */
static inline int word_normalise(word *a)
{
	int places = 0;

	while (!(*a & WORD_TOP)) {
		*a = (word)(*a << 1);
		places++;
	}
	return places;
}

/* numerator / denominator * 2^exponent. False: one of them is 0, or no valid line is that steep or flat. */
static inline bool slope_from_ratio(word numerator, word denominator, int exponent, struct pvclock_slope *slope)
{
	word mantissa, rest;

	if (numerator == 0 || denominator == 0)
		return false;
	exponent -= word_normalise(&numerator);
	exponent += word_normalise(&denominator);

	/* Both are in [2^63, 2^64): shift so that the quotient is, too. */
	if (numerator >= denominator) {
		mantissa = wide_div(wide_shifted(numerator, WORD_BITS - 1), denominator, &rest);
		exponent -= WORD_BITS - 1;
	} else {
		mantissa = wide_div(wide_make(numerator, 0), denominator, &rest);
		exponent -= WORD_BITS;
	}
	/*
	 * Nearest. No quotient is half way: it would have 65 bits and be odd, and divide a numerator of 64.
	 * Nor does the sum overflow: no quotient is above 2^64 - 1.
	 */
	if (rest >= denominator - rest)
		mantissa++;
	if (exponent < SLOPE_EXPONENT_MIN || exponent > SLOPE_EXPONENT_MAX)
		return false;
	slope->mantissa = mantissa;
	slope->exponent = (int16_t)exponent;
	return true;
}

#endif
