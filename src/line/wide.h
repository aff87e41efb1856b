/* SPDX-License-Identifier: MIT */
/*
 * wide.h - the few operations on two words that a line needs, at any word width.
 *
 * Only pvclock_word_mul (line.h) knows __int128. Division is by shift and subtract: it is needed only where a
 * line or an inverse is made, and so no 32-bit target needs a library for it.
 */
#ifndef PVCLOCK_LINE_WIDE_H
#define PVCLOCK_LINE_WIDE_H

#include <pvclock/line.h>

typedef pvclock_word word;

#define WORD_BITS PVCLOCK_WORD_BITS
#define WORD_MAX PVCLOCK_WORD_MAX
#define WORD_TOP ((word)(WORD_MAX - (WORD_MAX >> 1)))
#define MUL_BITS PVCLOCK_MUL_BITS

struct wide {
	word hi, lo;
};

static inline struct wide wide_make(word hi, word lo)
{
	struct wide wide = { .hi = hi, .lo = lo };

	return wide;
}

static inline struct wide wide_mul(word a, word b)
{
	struct wide product;

	product.hi = pvclock_word_mul(a, b, &product.lo);
	return product;
}

/* a * 2^n, n < WORD_BITS */
static inline struct wide wide_shifted(word a, unsigned int n)
{
	word high = 0; /* not a conditional expression: gcc takes that for an int at 8 bits */

	if (n)
		high = (word)(a >> (WORD_BITS - n));
	return wide_make(high, (word)(a << n));
}

/* floor(a / 2^n), any n */
static inline struct wide wide_right(struct wide a, unsigned int n)
{
	if (n >= 2 * WORD_BITS)
		return wide_make(0, 0);
	if (n >= WORD_BITS)
		return wide_make(0, (word)(a.hi >> (n - WORD_BITS)));
	if (n == 0)
		return a;
	return wide_make((word)(a.hi >> n), (word)((a.hi << (WORD_BITS - n)) | (a.lo >> n)));
}

/* floor(a / divisor), for a.hi < divisor: then the quotient is one word. */
static inline word wide_div(struct wide a, word divisor, word *remainder)
{
	word quotient = 0, rest = a.hi;

	for (int bit = WORD_BITS - 1; bit >= 0; bit--) {
		/* Twice the rest may need one bit more than a word has; it is below 2 * divisor then as always. */
		bool over = rest & WORD_TOP;

		rest = (word)((rest << 1) | (a.lo >> bit & 1));
		if (over || rest >= divisor) {
			rest = (word)(rest - divisor);
			quotient |= (word)((word)1 << bit);
		}
	}
	*remainder = rest;
	return quotient;
}

#endif
