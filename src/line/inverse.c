/* SPDX-License-Identifier: MIT */
/*
 * inverse.c - the reciprocal that makes pvclock_first_tick exact without a division or a correction.
 *
 * Wanted, for N = ns - line.ns >= 1: the smallest d with floor(floor(d * 2^shift) * mul / 2^32) >= N. As N is whole
 * the outer floor may go:  floor(d * 2^shift) >= N * 2^32 / mul. So, with t = 32 - max(shift, 0), which is 1 ... 32,
 *
 *     d = ceil(w) * 2^max(-shift, 0),  w = N * 2^t / mul
 *
 * Let R = floor((2^(128 + t) - 1) / mul), so 2^(128 + t) = R * mul + e with 1 <= e <= mul, and x = N * R / 2^128. Then
 *
 *     w - x = N * (2^(128 + t) - R * mul) / (mul * 2^128) = N * e / (mul * 2^128)
 *
 * and N < 2^64, e <= mul < 2^32 put N * e / 2^128 strictly between 0 and 1: x is below w, by less than 1/mul.
 * w is a multiple of 1/mul, as every integer is; so no integer lies in [x, w), and "the smallest integer not
 * below w" is "the first one above x":  ceil(w) = floor(x) + 1. No correction, whatever N and mul.
 *
 * R has three words, one before the point (below 2^32) and two after it, and
 * floor(x) = N * whole + floor((N * hi + floor(N * lo / 2^64)) / 2^64): three products that do not wait for each
 * other, and nothing to shift to the right.
 *
 * Whether a 64-bit tick reaches ns at all is asked first, of the line itself: ns <= line(UINT64_MAX). Then d fits, and
 * neither the sum, nor + 1, nor the shift left, nor + tsc can overflow. Saturation needs no care of its
 * own: line(t) = 2^64 - 1 exactly where the unbounded line is 2^64 - 1 or more.
 */
#include "wide.h"

void pvclock_inverse_make(struct pvclock_inverse *inverse, const struct pvclock_line *line)
{
	word mul = (word)line->mul, rest = 0, ones;

	inverse->tsc = line->tsc;
	inverse->ns = line->ns;
	inverse->span = pvclock_line_ns(line, WORD_MAX) - line->ns; /* 0 for an invalid line */
	inverse->valid = pvclock_line_valid(line);
	inverse->recip_whole = 0;
	inverse->recip_hi = 0;
	inverse->recip_lo = 0;
	inverse->left = 0;
	if (!inverse->valid)
		return;

	/* 2^(128 + t) - 1 is t ones, then two words of ones: divided word by word. */
	ones = (word)(WORD_MAX >> (WORD_BITS - MUL_BITS + (line->shift > 0 ? line->shift : 0)));
	inverse->recip_whole = wide_div(wide_make(0, ones), mul, &rest);
	inverse->recip_hi = wide_div(wide_make(rest, WORD_MAX), mul, &rest);
	inverse->recip_lo = wide_div(wide_make(rest, WORD_MAX), mul, &rest);
	inverse->left = (uint8_t)(line->shift < 0 ? -line->shift : 0);
}
