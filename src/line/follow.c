/* SPDX-License-Identifier: MIT */
/*
 * follow.c - the clock of a guest's guest, when the guest's own line has become another.
 *
 * L1's line changes from `old` to `next`: what its counter read as old_ticks and what it reads as next_ticks are the
 * same instant. L2's counter is T(L1's counter), L2's clock a line over that: o before, n after. What stays is the
 * distance of the two clocks. Say E1 and E2 for old at old_ticks and o at T(old_ticks) before any floor. L1's clock
 * goes on from floor(E1), unless it was given a jump j (0 wherever a host keeps its clocks), and so
 *
 *     n(T(next_ticks)) = floor(E2) + j,    with next's slope, taken over T
 *
 * Never backwards, at most 1 ns apart, at the switch itself: o drops the low bits of its ticks, and then the fraction of a ns, so
 * o(T(old_ticks)) = floor(E2 - b), where b, the dropped ticks times mul / 2^32 < 1 a tick of these, is in [0, 1). The floors of
 * two numbers that are less than 1 apart are equal or 1 apart: floor(E2) - floor(E2 - b) is 0 or 1.
 *
 * n before its own floor lies at most one tick of L2's behind E2 (pvclock_line_continue), so the distance of the two
 * clocks is kept to one tick of each, however often it is done.
 *
 * Where the slope stays and only the counter moves, the line moves with it, bit for bit: no reading changes at all if T
 * is an offset.
 */
#include "wide.h"

static bool same_slope(const struct pvclock_line *a, const struct pvclock_line *b)
{
	struct pvclock_slope x, y;

	return pvclock_slope_from_line(a, &x) && pvclock_slope_from_line(b, &y) && x.mantissa == y.mantissa && x.exponent == y.exponent;
}

static uint64_t transformed(const struct pvclock_tsc_transform *transform, uint64_t ticks)
{
	return pvclock_tsc_to_guest(transform, (struct pvclock_host_tsc){ ticks }).ticks;
}

/* How far `next` lies ahead of where `old` would have gone on: 0, but where a clock was set. */
static bool jump_of(const struct pvclock_line_change *change, bool same, const struct pvclock_slope *slope, uint64_t *was, uint64_t *is)
{
	struct pvclock_line through;

	*is = pvclock_line_ns(&change->next, change->next_ticks);
	*was = pvclock_line_ns(&change->old, change->old_ticks);
	if (same)
		return true;
	if (!pvclock_line_continue(&change->old, change->old_ticks, change->next_ticks, slope, &through, NULL))
		return false;
	*was = pvclock_line_ns(&through, change->next_ticks);
	return true;
}

/* By its fields: a compiler that does not optimise calls memcpy for the whole, which this layer has not. */
static void copy_line(struct pvclock_line *to, const struct pvclock_line *from)
{
	to->tsc = from->tsc;
	to->ns = from->ns;
	to->mul = from->mul;
	to->shift = from->shift;
}

/*
 * The same function over a counter that moved: exact, unless its anchor would lie before the counter's beginning or
 * beyond its end.
 */
static bool move(struct pvclock_line *line, uint64_t from, uint64_t to)
{
	if (to >= from ? line->tsc > UINT64_MAX - (to - from) : line->tsc < from - to)
		return false;
	line->tsc += to - from;
	return true;
}

bool pvclock_line_follow(const struct pvclock_line_change *parent, const struct pvclock_tsc_transform *transform,
			 const struct pvclock_line *old, struct pvclock_line *next)
{
	struct pvclock_slope slope;
	struct pvclock_line line;
	uint64_t from, to, was, is;
	bool same;

	if (!pvclock_line_valid(old) || !pvclock_line_valid(&parent->old) || !pvclock_slope_from_line(&parent->next, &slope))
		return false;
	if (transform->frac_bits > 63 || (transform->frac_bits && !transform->ratio))
		return false;
	same = same_slope(&parent->old, &parent->next);
	if (!jump_of(parent, same, &slope, &was, &is))
		return false;
	copy_line(&line, old);
	from = transformed(transform, parent->old_ticks);
	to = transformed(transform, parent->next_ticks);
	if (same ? !pvclock_slope_from_line(old, &slope) : !pvclock_slope_to_guest(&slope, transform, &slope))
		return false;
	if (!(same && move(&line, from, to)) && !pvclock_line_continue(old, from, to, &slope, &line, NULL))
		return false;
	if (is >= was)
		line.ns = line.ns > UINT64_MAX - (is - was) ? UINT64_MAX : line.ns + (is - was);
	else
		line.ns = line.ns > was - is ? line.ns - (was - is) : 0;
	copy_line(next, &line);
	return true;
}
