/* SPDX-License-Identifier: MIT */
/* source_prove.c - which slopes fit a set of samples: exact, with integers only. */
#include "source.h"

#include <stddef.h>

/* clocksource_register_khz: ns per 1000 cycles, and no overflow for 600 s (__clocksource_update_freq_scale) */
#define NS_PER_KILOCYCLE 1000000u
#define SECONDS_TIMES_SCALE 600000u

/*
 * Linux rounds mult, so that 1/slope lies up to khz / (2 mult) from the kHz it was made of: less than 2 up to KHZ_MAX,
 * where the headroom takes another bit from mult. No TSC is as fast as that.
 */
#define KHZ_ROUNDING 2u
#define KHZ_MAX 7000000u

/* A range of kHz that is narrow enough to ask Linux's rule about each of them. */
#define KHZ_RANGE_MAX 64u

void pvclock_prover_init(struct pvclock_prover *prover)
{
	*prover = (struct pvclock_prover){ .above = { 0, 1 } };
}

void pvclock_prover_restart(struct pvclock_prover *prover)
{
	prover->ceiling.count = 0;
	prover->floor.count = 0;
}

/* The turn from a-b to a-c: positive to the left. Differences are below 2^63 and the products below 2^126. */
static pvclock_s128 turn(const struct pvclock_point *a, const struct pvclock_point *b, const struct pvclock_point *c)
{
	return (pvclock_s128)(b->ticks - a->ticks) * (pvclock_s128)(c->ns - a->ns) -
	       (pvclock_s128)(b->ns - a->ns) * (pvclock_s128)(c->ticks - a->ticks);
}

/* Andrew's chain: points come with rising ticks. side 1 keeps the lower hull, -1 the upper one. */
static void hull_add(struct pvclock_hull *hull, uint64_t ticks, uint64_t ns, int side)
{
	struct pvclock_point point = { ticks, ns };
	struct pvclock_point *points = hull->points;

	while (hull->count >= 2 && turn(&points[hull->count - 2], &points[hull->count - 1], &point) * side <= 0)
		hull->count--;
	if (hull->count == PVCLOCK_HULL_POINTS) {
		/* the ends bound the slope best: forget a point of the middle */
		for (unsigned int i = PVCLOCK_HULL_POINTS / 2; i + 1 < hull->count; i++)
			points[i] = points[i + 1];
		hull->count--;
	}
	points[hull->count++] = point;
}

/* a < b */
static bool bound_less(const struct pvclock_bound *a, const struct pvclock_bound *b)
{
	return (pvclock_u128)a->ns * b->ticks < (pvclock_u128)b->ns * a->ticks;
}

void pvclock_prover_add(struct pvclock_prover *prover, const struct pvclock_sample *sample)
{
	/* from below an earlier point to on or above this one: the slope is more than that */
	for (unsigned int i = 0; i < prover->ceiling.count; i++) {
		const struct pvclock_point *from = &prover->ceiling.points[i];
		struct pvclock_bound bound;

		if (sample->ns <= from->ns || sample->after <= from->ticks)
			continue;
		bound = (struct pvclock_bound){ sample->ns - from->ns, sample->after - from->ticks };
		if (bound_less(&prover->above, &bound))
			prover->above = bound;
	}
	/* from on or above an earlier point to below this one: the slope is less than that */
	for (unsigned int i = 0; i < prover->floor.count; i++) {
		const struct pvclock_point *from = &prover->floor.points[i];
		struct pvclock_bound bound;

		if (sample->before <= from->ticks)
			continue;
		bound = (struct pvclock_bound){ sample->ns + 1 - from->ns, sample->before - from->ticks };
		if (prover->below.ticks == 0 || bound_less(&bound, &prover->below))
			prover->below = bound;
	}
	hull_add(&prover->ceiling, sample->before, sample->ns + 1, 1);
	hull_add(&prover->floor, sample->after, sample->ns, -1);
}

bool pvclock_prover_possible(const struct pvclock_prover *prover)
{
	return prover->below.ticks == 0 || bound_less(&prover->above, &prover->below);
}

uint64_t pvclock_prover_candidates(const struct pvclock_prover *prover, unsigned int shift, uint32_t *first)
{
	const struct pvclock_bound *above = &prover->above, *below = &prover->below;
	pvclock_u128 low, high;

	if (below->ticks == 0)
		return UINT64_MAX;
	/* ns < 2^63 and shift <= 63: no overflow. Both bounds are strict. */
	low = ((pvclock_u128)above->ns << shift) / above->ticks + 1;
	high = ((pvclock_u128)below->ns << shift) / below->ticks;
	if (high * below->ticks == (pvclock_u128)below->ns << shift)
		high--; /* below->ns >= 1: never below 0 */
	if (high > UINT32_MAX)
		high = UINT32_MAX;
	if (low > high)
		return 0;
	*first = (uint32_t)low;
	return (uint64_t)(high - low) + 1;
}

void pvclock_kernel_mult_shift(uint32_t khz, uint32_t *mult, unsigned int *shift)
{
	uint64_t headroom = (uint64_t)SECONDS_TIMES_SCALE * khz >> 32, value = 0;
	unsigned int bits = 32, sft;

	while (headroom != 0) {
		headroom >>= 1;
		bits--;
	}
	for (sft = 32; sft > 0; sft--) {
		value = (((uint64_t)NS_PER_KILOCYCLE << sft) + khz / 2) / khz;
		if (value >> bits == 0)
			break;
	}
	/* Linux leaves the loop with shift 0 and the value of shift 1; no TSC is as slow as that (below 500 Hz) */
	*mult = (uint32_t)value;
	*shift = sft;
}

bool pvclock_prover_shift(const struct pvclock_prover *prover, unsigned int *shift)
{
	const struct pvclock_bound *above = &prover->above, *below = &prover->below;
	pvclock_u128 slowest, fastest;
	uint64_t low, high;
	unsigned int finest = 0;

	if (above->ns == 0 || below->ticks == 0 || !pvclock_prover_possible(prover))
		return false;
	slowest = (pvclock_u128)below->ticks * NS_PER_KILOCYCLE / below->ns;
	fastest = (pvclock_u128)above->ticks * NS_PER_KILOCYCLE / above->ns + 1;
	if (slowest <= KHZ_ROUNDING || fastest > KHZ_MAX)
		return false;
	low = (uint64_t)slowest - KHZ_ROUNDING;
	high = (uint64_t)fastest + KHZ_ROUNDING;
	if (high - low > KHZ_RANGE_MAX)
		return false;
	for (uint64_t khz = low; khz <= high; khz++) {
		unsigned int one;
		uint32_t mult;

		pvclock_kernel_mult_shift((uint32_t)khz, &mult, &one);
		if (one > finest)
			finest = one;
	}
	*shift = finest;
	return finest != 0;
}

bool pvclock_kernel_reduce(uint32_t *mult, unsigned int *shift)
{
	uint64_t khz;

	if (*mult == 0)
		return false;
	khz = (uint64_t)((((pvclock_u128)NS_PER_KILOCYCLE << *shift) + *mult / 2) / *mult);
	if (khz <= KHZ_ROUNDING || khz > KHZ_MAX)
		return false;
	for (uint64_t near = khz - KHZ_ROUNDING; near <= khz + KHZ_ROUNDING; near++) {
		unsigned int kernel_shift;
		uint32_t kernel_mult;

		pvclock_kernel_mult_shift((uint32_t)near, &kernel_mult, &kernel_shift);
		/*
		 * the same slope, perhaps over a smaller power of two: mult < 2^32 and shift <= 32, so 64 bits hold it
		 */
		if (kernel_shift <= *shift && (uint64_t)kernel_mult << (*shift - kernel_shift) == *mult) {
			*mult = kernel_mult;
			*shift = kernel_shift;
			return true;
		}
	}
	return false;
}

static void intercept_ceiling(struct pvclock_intercept *intercept, uint32_t mult, unsigned int shift,
			      const struct pvclock_point *point)
{
	pvclock_s128 high = ((pvclock_s128)point->ns << shift) - (pvclock_s128)mult * point->ticks;

	if (!intercept->known || high < intercept->high)
		intercept->high = high;
}

static void intercept_floor(struct pvclock_intercept *intercept, uint32_t mult, unsigned int shift,
			    const struct pvclock_point *point)
{
	pvclock_s128 low = ((pvclock_s128)point->ns << shift) - (pvclock_s128)mult * point->ticks;

	if (!intercept->known || low > intercept->low)
		intercept->low = low;
}

void pvclock_intercept_add(struct pvclock_intercept *intercept, uint32_t mult, unsigned int shift,
			   const struct pvclock_sample *sample)
{
	intercept_ceiling(intercept, mult, shift, &(struct pvclock_point){ sample->before, sample->ns + 1 });
	intercept_floor(intercept, mult, shift, &(struct pvclock_point){ sample->after, sample->ns });
	intercept->known = true;
}

void pvclock_intercept_from_prover(struct pvclock_intercept *intercept, uint32_t mult, unsigned int shift,
				   const struct pvclock_prover *prover)
{
	intercept->known = false;
	/* a hull is empty only together with the other one */
	for (unsigned int i = 0; i < prover->ceiling.count; i++) {
		intercept->known = i != 0;
		intercept_ceiling(intercept, mult, shift, &prover->ceiling.points[i]);
	}
	for (unsigned int i = 0; i < prover->floor.count; i++) {
		intercept->known = i != 0;
		intercept_floor(intercept, mult, shift, &prover->floor.points[i]);
	}
	intercept->known = prover->floor.count != 0;
}

bool pvclock_intercept_possible(const struct pvclock_intercept *intercept)
{
	return !intercept->known || intercept->low < intercept->high;
}
