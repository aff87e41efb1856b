/* SPDX-License-Identifier: MIT */
/*
 * inverse.c - the reciprocal that makes pvclock_first_tick exact without a division or a correction.
 *
 * Wanted, for N = ns - line.ns >= 1: the smallest d with floor(floor(d * 2^shift) * mul / 2^32) >= N. As N is whole,
 * the outer floor may go:  floor(d * 2^shift) >= v,  v = N * 2^32 / mul.
 *
 * Let M = floor((2^128 - 1) / mul), so 2^128 = M * mul + e with 1 <= e <= mul, and x = N * M / 2^96. Then
 *
 *     v - x = N * (2^128 - M * mul) / (mul * 2^96) = N * e / (mul * 2^96)
 *
 * and N < 2^64, e <= mul < 2^32 put N * e / 2^96 strictly between 0 and 1: x is below v, by less than 1/mul.
 * v is a multiple of 1/mul, as every integer is; so no integer lies in [x, v), and for any s >= 0 no multiple of
 * 2^s. "The smallest multiple not below v" is therefore "the first one above x":
 *
 *     shift >= 0:  d = ceil(v / 2^shift)   = floor(x / 2^shift) + 1
 *     shift <  0:  d = ceil(v) * 2^-shift  = (floor(x) + 1) * 2^-shift
 *
 * floor(N * M / 2^64) is N * recip_hi + (high word of N * recip_lo): two products that do not wait for each other,
 * and no carry is missing, as only whole units of 2^64 are kept. Shifted right by 32 + max(shift, 0) that is d - 1.
 *
 * Whether a 64-bit tick reaches ns at all is asked first, of the line itself: ns <= line(UINT64_MAX). Then d fits, and
 * neither the product shifted right, nor + 1, nor the shift left, nor + tsc can overflow. Saturation
 * needs no care of its own: line(t) = 2^64 - 1 exactly where the unbounded line is 2^64 - 1 or more.
 */
#include "wide.h"

void pvclock_inverse_make(struct pvclock_inverse *inverse, const struct pvclock_line *line)
{
	word rest;

	inverse->tsc = line->tsc;
	inverse->ns = line->ns;
	inverse->reach = pvclock_line_ns(line, WORD_MAX);
	inverse->valid = pvclock_line_valid(line);
	if (!inverse->valid) { /* nothing below would mean anything */
		inverse->recip_hi = 0;
		inverse->recip_lo = 0;
		inverse->right = MUL_BITS;
		inverse->left = 0;
		return;
	}
	inverse->recip_hi = wide_div(wide_make(0, WORD_MAX), (word)line->mul, &rest);
	inverse->recip_lo = wide_div(wide_make(rest, WORD_MAX), (word)line->mul, &rest);
	inverse->right = (uint8_t)(MUL_BITS + (line->shift > 0 ? line->shift : 0));
	inverse->left = (uint8_t)(line->shift < 0 ? -line->shift : 0);
}
