/* SPDX-License-Identifier: MIT */
#include "difference.h"
#include "rate_ppb.h"

__extension__ typedef __int128 wide;

#define SAMPLES 4096u

static int64_t narrow(wide value)
{
	return value > INT64_MAX ? INT64_MAX : value < INT64_MIN ? INT64_MIN : (int64_t)value;
}

int64_t difference_of(uint64_t a, uint64_t b)
{
	return narrow((wide)a - (wide)b);
}

static wide floor_divide(wide value, unsigned int bits)
{
	return value >> bits; /* arithmetic, as every compiler for x86 has it */
}

/* The line at a tick, also before its anchor, where a reader would not go: the function, not the reading. */
static wide line_at(const struct pvclock_line *line, uint64_t tick)
{
	unsigned int k = line->shift < 0 ? (unsigned int)-line->shift : 0;
	wide multiplier = (wide)line->mul << (line->shift > 0 ? line->shift : 0);

	return (wide)line->ns + floor_divide(floor_divide((wide)tick - (wide)line->tsc, k) * multiplier, 32);
}

/*
 * One multiplier and shift. With k = -shift (or 0) and M = mul * 2^shift (or mul), a line gains g(d) = floor((d >> k) *
 * M / 2^32) over d ticks. The old line is ahead by delta = new.tsc - old.tsc ticks, so where the new line has x = d >>
 * k, the old one has x + c, where c is floor(delta / 2^k) or, if delta is no multiple of 2^k, for some of the ticks 1
 * more. And floor((x + c) * M / 2^32) - floor(x * M / 2^32) is floor or ceil of c * M / 2^32: both occur within a
 * period of x, which is a few seconds.
 */
static void compare_parallel(const struct pvclock_line *old, const struct pvclock_line *new,
			     struct difference *difference)
{
	unsigned int k = old->shift < 0 ? (unsigned int)-old->shift : 0;
	wide multiplier = (wide)old->mul << (old->shift > 0 ? old->shift : 0); /* below 2^63 */
	wide delta = (wide)new->tsc - (wide)old->tsc, ns = (wide)new->ns - (wide)old->ns;
	wide least = floor_divide(delta, k), most = -floor_divide(-delta, k);

	/* |c| <= 2^64: the products fit */
	difference->high = narrow(ns - floor_divide(least * multiplier, 32));
	difference->low = narrow(ns + floor_divide(-most * multiplier, 32));
}

/* One slope written in two ways (a multiplier that is not normalised): their low bits differ, so try. */
static void compare_sampled(const struct pvclock_line *old, const struct pvclock_line *new,
			    struct difference *difference)
{
	uint64_t later = old->tsc > new->tsc ? old->tsc : new->tsc, step = 1;

	difference->low = INT64_MAX;
	difference->high = INT64_MIN;
	for (unsigned int i = 0; i < SAMPLES; i++) {
		uint64_t ticks = later + i + (step >> 24); /* neighbours, up to 2^40 ticks away */
		int64_t apart = difference_of(pvclock_line_ns(new, ticks), pvclock_line_ns(old, ticks));

		if (apart < difference->low)
			difference->low = apart;
		if (apart > difference->high)
			difference->high = apart;
		step = step * 6364136223846793005u + 1442695040888963407u;
	}
}

struct difference line_difference(const struct pvclock_line *old, const struct pvclock_line *new, const uint64_t *at)
{
	struct difference difference = { .rate_ppb = 0 };
	struct pvclock_slope old_slope, new_slope;

	if (!pvclock_slope_from_line(old, &old_slope) || !pvclock_slope_from_line(new, &new_slope))
		return difference;
	difference.same_slope = pvclock_slope_difference(&new_slope, &old_slope) == 0;
	if (!difference.same_slope) {
		uint64_t tick = at ? *at : old->tsc > new->tsc ? old->tsc : new->tsc;

		difference.rate_ppb = rate_ppb(&new_slope, &old_slope);
		difference.low = narrow(line_at(new, tick) - line_at(old, tick));
		difference.high = difference.low;
	} else if (old->mul == new->mul && old->shift == new->shift) {
		compare_parallel(old, new, &difference);
	} else {
		compare_sampled(old, new, &difference);
	}
	difference.jump = -(wide)difference.low >= difference.high ? difference.low : difference.high;
	return difference;
}

struct difference hyperv_difference(const struct pvclock_hyperv_line *old, const struct pvclock_hyperv_line *new, uint64_t at)
{
	/* modulo 2^64 units, as the form is defined */
	int64_t units = (int64_t)(pvclock_hyperv_time(new, at) - pvclock_hyperv_time(old, at));
	struct difference difference = { .same_slope = new->scale == old->scale };

	difference.low = difference.high = difference.jump = narrow((wide)units * PVCLOCK_HYPERV_UNIT_NS);
	if (!difference.same_slope && old->scale != 0)
		difference.rate_ppb = ((double)new->scale / (double)old->scale - 1) * 1e9;
	return difference;
}
