/* SPDX-License-Identifier: MIT */
/*
 * reanchor.c - another anchor for the same function, or for the next one.
 *
 * Why a period: let S be the step, k = -shift for a negative shift, else 0, and c = mul * 2^max(shift, 0).
 * - S must be a multiple of 2^k, or the ticks at which d >> k moves on would move.
 * - (S >> k) * c must be a multiple of 2^32. Otherwise it leaves a fraction f > 0 behind, a multiple of
 *   g = gcd(c, 2^32); the fractions j * c mod 2^32 of the readings at or after the new anchor take on every multiple of
 *   g, 2^32 - g too, and that reading is 1 ns short without f.
 * g = 2^(trailing zeros of mul + max(shift, 0)), so the smallest such S is 2^(32 - shift - trailing zeros), or 1.
 */
#include "wide.h"

unsigned int pvclock_line_period_shift(const struct pvclock_line *line)
{
	int period = MUL_BITS - line->shift;

	if (!pvclock_line_valid(line))
		return 0;
	for (uint32_t mul = line->mul; !(mul & 1); mul >>= 1)
		period--;
	return period > 0 ? (unsigned int)period : 0;
}

void pvclock_line_reanchor(struct pvclock_line *line, uint64_t ticks)
{
	unsigned int period = pvclock_line_period_shift(line);
	uint64_t anchor;

	if (!pvclock_line_valid(line) || ticks <= line->tsc)
		return;
	anchor = line->tsc + ((ticks - line->tsc) >> period << period);
	/* Exact, as the step is; or saturated, and then every later reading is too. */
	line->ns = pvclock_line_ns(line, anchor);
	line->tsc = anchor;
}

/* A valid line before any floor: ns, and the fraction in units of 2^-63 ns: no line needs finer ones. */
static void exact_ns(const struct pvclock_line *line, uint64_t ticks, word *ns, word *fraction)
{
	word d = (word)(ticks > line->tsc ? ticks - line->tsc : 0);
	struct wide product = wide_mul(d, (word)line->mul);
	unsigned int point = (unsigned int)(MUL_BITS - line->shift); /* 1 ... 63 bits are fraction */
	struct wide whole = wide_right(product, point);

	if (whole.hi || whole.lo > WORD_MAX - line->ns) {
		*ns = WORD_MAX;
		*fraction = 0;
		return;
	}
	*ns = (word)(line->ns + whole.lo);
	*fraction = (word)((word)(product.lo << (WORD_BITS - point)) >> 1);
}

/*
 * Why 1 ns more to 2 ns less: let m = mul / 2^32 < 1 be ns per shifted tick, k = -shift >= 0, and let tick 0 be A + a shifted
 * ticks after the old anchor and the reading's tick B + b after tick 0, A and B whole, a and b in [0, 1). Then
 *     old = floor((A + B + c) m), c = 1 if a + b >= 1, else 0        new = floor((A + a) m) + floor(B m)
 * so old - new = (c - a) m - (fraction of old) + (fractions of the two of new), which is below (1 - a) m + 2 and above -a m - 1: as
 * a whole number at most 2 and at least -1. With a = 0 (always, if k = 0) c is 0, and 0 and 1 are left. A positive shift drops no
 * ticks: old is one floor, new the sum of two.
 */
void pvclock_line_shift(struct pvclock_line *line, int64_t ticks)
{
	word ahead = (word)ticks, behind = (word)-(uint64_t)ticks, ns, fraction;

	if (ticks >= 0) {
		line->tsc = line->tsc > (word)(WORD_MAX - ahead) ? WORD_MAX : line->tsc + ahead;
		return;
	}
	if (line->tsc >= behind) {
		line->tsc -= behind;
		return;
	}
	if (pvclock_line_valid(line)) {
		exact_ns(line, behind, &ns, &fraction);
		line->ns = ns;
	}
	line->tsc = 0;
}

bool pvclock_line_continue(const struct pvclock_line *old, uint64_t old_ticks, uint64_t new_ticks,
			   const struct pvclock_slope *slope, struct pvclock_line *next, uint64_t *loss)
{
	word ns, fraction, rest;

	if (!pvclock_line_valid(old))
		return false;
	exact_ns(old, old_ticks, &ns, &fraction); /* from here on *next may be *old */
	if (!pvclock_line_make(next, new_ticks, ns, slope, NULL))
		return false;

	/*
	 * A line starts at a whole ns: the fraction becomes ticks that have passed since. What is less than a
	 * tick is lost. With a positive shift a tick is at least 1 ns (mul >= 2^31), longer than any fraction.
	 */
	rest = fraction;
	if (next->shift <= 0) {
		word tick = (word)((word)next->mul << (MUL_BITS - 1 + next->shift));
		word back = wide_div(wide_make(0, fraction), tick, &rest);

		if (back > new_ticks) {
			back = (word)new_ticks;
			rest = (word)(fraction - back * tick);
		}
		next->tsc = new_ticks - back;
	}
	if (loss)
		*loss = ((uint64_t)rest + (((word)1 << (MUL_BITS - 1)) - 1)) >> (MUL_BITS - 1);
	return true;
}
