/* SPDX-License-Identifier: MIT */
/* hyperv.c - a line in the form of Hyper-V's reference TSC page (TLFS 12.7), and back. A unit is 100 ns. */
#include "ratio.h"


bool pvclock_line_to_hyperv(const struct pvclock_line *line, struct pvclock_hyperv_line *hyperv)
{
	struct wide slope, product;
	word scale, units, ns, rest;

	if (!pvclock_line_valid(line))
		return false;
	/* mul * 2^(shift - 32) * 2^64 / 100; a shift of 1 ... 63 */
	slope = wide_shifted((word)line->mul, (unsigned int)(line->shift + MUL_BITS));
	if (slope.hi >= PVCLOCK_HYPERV_UNIT_NS)
		return false;
	scale = wide_div(slope, PVCLOCK_HYPERV_UNIT_NS, &rest);
	if (rest >= PVCLOCK_HYPERV_UNIT_NS / 2)
		scale++;
	if (scale == 0) /* too flat, or rounded up to 2^64 */
		return false;

	/*
	 * With p = tsc * scale / 2^64, the page reads floor(t * scale / 2^64) + offset. That is within (-1, 1) of the line if
	 * offset - (ns / 100 - p) is in [0, 1), so: offset = ceil(ns / 100 - p) = units - floor(p) + 1 if rest/100 >
	 * p's fraction, else + 0; and a whole ns is above a fraction of 100 ns if it is above its floor.
	 */
	units = wide_div(wide_make(0, (word)line->ns), PVCLOCK_HYPERV_UNIT_NS, &ns);
	product = wide_mul((word)line->tsc, scale);
	units -= product.hi;
	if (ns > wide_mul(product.lo, PVCLOCK_HYPERV_UNIT_NS).hi)
		units++;
	hyperv->scale = scale;
	hyperv->offset = (int64_t)units;
	return true;
}

bool pvclock_line_from_hyperv(const struct pvclock_hyperv_line *hyperv, uint64_t ticks, struct pvclock_line *line)
{
	struct wide product = wide_mul((word)ticks, (word)hyperv->scale);
	struct wide ns = wide_mul((word)(product.hi + (uint64_t)hyperv->offset), PVCLOCK_HYPERV_UNIT_NS);
	word fraction = wide_mul(product.lo, PVCLOCK_HYPERV_UNIT_NS).hi;
	struct wide mantissa = wide_mul((word)hyperv->scale, PVCLOCK_HYPERV_UNIT_NS);
	struct pvclock_slope slope = { .mantissa = 0, .exponent = -WORD_BITS };

	if (ns.hi || ns.lo > WORD_MAX - fraction)
		return false;
	/* Up to 7 bits do not fit. They do not matter: pvclock_line_make rounds by a bit far above them. */
	while (mantissa.hi) {
		mantissa = wide_right(mantissa, 1);
		slope.exponent++;
	}
	slope.mantissa = mantissa.lo;
	return pvclock_line_make(line, ticks, ns.lo + fraction, &slope, NULL);
}
