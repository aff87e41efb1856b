/* SPDX-License-Identifier: MIT */
#include "shift.h"

#include <stdlib.h>

__extension__ typedef __int128 wide;

/*
 * A reading was cut to whole steps, and where the clock is a pvclock line so were its ticks to multiples of 2^-shift,
 * which is less than a ns again: the clock's straight line is at most this much above what it read.
 */
static int64_t cut_ns(uint64_t step_ns)
{
	return (int64_t)step_ns + 1;
}

/* The straight line is at or below (x, y), or at or above. Relative to one window, so that differences are small. */
struct point {
	int64_t x, y;
};

struct points {
	struct point above[SHIFT_WINDOWS], below[SHIFT_WINDOWS];
	size_t count;
};

struct bounds {
	bool known;
	wide low, high;
};

static uint64_t width(const struct window *window)
{
	return window->after - window->before;
}

static int by_tsc(const void *a, const void *b)
{
	const struct window *left = a, *right = b;
	int64_t apart = (int64_t)(left->before - right->before);

	return (apart > 0) - (apart < 0);
}

size_t shift_thin(struct window *windows, size_t count)
{
	size_t stretches = count < SHIFT_WINDOWS ? count : SHIFT_WINDOWS;

	qsort(windows, count, sizeof(*windows), by_tsc);
	for (size_t stretch = 0; stretch < stretches; stretch++) {
		size_t best = count * stretch / stretches, end = count * (stretch + 1) / stretches;

		for (size_t i = best + 1; i < end; i++)
			if (width(&windows[i]) < width(&windows[best]))
				best = i;
		windows[stretch] = windows[best];
	}
	return stretches;
}

static wide floor_ratio(wide numerator, wide denominator) /* > 0 */
{
	wide quotient = numerator / denominator;

	return quotient - (numerator % denominator < 0);
}

static wide ceil_ratio(wide numerator, wide denominator)
{
	return -floor_ratio(-numerator, denominator);
}

static struct points make_points(const struct window *windows, size_t count, const struct window *origin, uint64_t step_ns)
{
	struct points points = { .count = count };

	for (size_t i = 0; i < count; i++) {
		int64_t y = (int64_t)(windows[i].ns - origin->ns);

		points.above[i] = (struct point){ (int64_t)(windows[i].before - origin->before), y + cut_ns(step_ns) };
		points.below[i] = (struct point){ (int64_t)(windows[i].after - origin->before), y };
	}
	return points;
}

/*
 * The largest y that a straight line can have at x, if it passes below all of `above` and above all of `below`. That is
 * a linear program in two variables, so two of its constraints decide: the line through one of `below` and, nearer to
 * x, one of `above`, on either side of x; or through two of `above` with x between them. False: nothing bounds it.
 */
static bool highest(const struct point *above, const struct point *below, size_t count, int64_t x, wide *y)
{
	bool known = false;

	for (size_t i = 0; i < count; i++)
		for (size_t j = 0; j < count; j++) {
			const struct point *near = &above[i], *far = &below[j];
			wide bound;

			if (near->x == x) {
				bound = near->y;
			} else if ((far->x < near->x && near->x < x) || (x < near->x && near->x < far->x)) {
				wide run = (wide)near->x - far->x, rise = (wide)near->y - far->y;
				wide way = (wide)x - near->x;

				bound = near->y +
					(run > 0 ? ceil_ratio(rise * way, run) : ceil_ratio(-rise * way, -run));
			} else if (near->x < x && x < above[j].x) {
				wide run = (wide)above[j].x - near->x, rise = (wide)above[j].y - near->y;

				bound = near->y + ceil_ratio(rise * ((wide)x - near->x), run);
			} else {
				continue;
			}
			if (!known || bound < *y)
				*y = bound;
			known = true;
		}
	return known;
}

static struct bounds predict(const struct points *points, int64_t x)
{
	struct point above[SHIFT_WINDOWS], below[SHIFT_WINDOWS];
	struct bounds bounds;

	/* the lowest is the highest upside down */
	for (size_t i = 0; i < points->count; i++) {
		above[i] = (struct point){ points->below[i].x, -points->below[i].y };
		below[i] = (struct point){ points->above[i].x, -points->above[i].y };
	}
	bounds.known = highest(points->above, points->below, points->count, x, &bounds.high) &&
		       highest(above, below, points->count, x, &bounds.low);
	bounds.low = bounds.known ? -bounds.low : 0;
	return bounds;
}

static struct measured measured_between(wide low, wide high)
{
	struct measured measured = { .known = true };
	wide middle, within;

	if (low > high) { /* the windows are on no straight line: as wrong as they contradict each other */
		wide swap = low;

		low = high;
		high = swap;
	}
	middle = low + (high - low) / 2;
	within = high - middle;
	if (middle > INT64_MAX || middle < INT64_MIN || within > INT64_MAX)
		measured.known = false;
	measured.ns = (int64_t)middle;
	measured.within = (int64_t)within;
	return measured;
}

struct measured shift_measure(const struct window *before, size_t before_count, const struct window *after,
			      size_t after_count, const uint64_t *at, uint64_t step_ns)
{
	const struct window *best = after;
	struct points points;

	if (before_count < 2 || after_count == 0 || before_count > SHIFT_WINDOWS || after_count > SHIFT_WINDOWS)
		return (struct measured){ .known = false };
	points = make_points(before, before_count, before, step_ns);
	if (at != NULL) {
		struct points later = make_points(after, after_count, before, step_ns);
		struct bounds would, is;

		would = predict(&points, (int64_t)(*at - before->before));
		is = predict(&later, (int64_t)(*at - before->before));
		if (!would.known || !is.known)
			return (struct measured){ .known = false };
		return measured_between(is.low - would.high, is.high - would.low);
	}
	for (size_t i = 1; i < after_count; i++)
		if (width(&after[i]) < width(best))
			best = &after[i];
	{
		int64_t ns = (int64_t)(best->ns - before->ns);
		struct bounds early = predict(&points, (int64_t)(best->before - before->before));
		struct bounds late = predict(&points, (int64_t)(best->after - before->before));

		if (!early.known || !late.known)
			return (struct measured){ .known = false };
		return measured_between(ns - late.high, ns + cut_ns(step_ns) - early.low);
	}
}

bool shift_rate(const struct window *windows, size_t count, uint64_t step_ns, double *ns_per_tick, double *error_ppb)
{
	double least = 0, most = 0;
	bool known = false;
	struct points points;

	if (count < 2 || count > SHIFT_WINDOWS)
		return false;
	points = make_points(windows, count, windows, step_ns);
	for (size_t i = 0; i < count; i++)
		for (size_t j = 0; j < count; j++) {
			/*
			 * from one of `below` up to a later one of `above`; from one of `above` down to a later one of
			 * `below`
			 */
			double run = (double)(points.above[j].x - points.below[i].x), steepest, flattest;

			if (run <= 0)
				continue;
			steepest = (double)(points.above[j].y - points.below[i].y) / run;
			run = (double)(points.below[j].x - points.above[i].x);
			flattest = (double)(points.below[j].y - points.above[i].y) / run;
			if (!known || steepest < most)
				most = steepest;
			if (!known || flattest > least)
				least = flattest;
			known = true;
		}
	if (!known || least + most <= 0)
		return false;
	*ns_per_tick = (least + most) / 2;
	*error_ppb = (most > least ? most - least : least - most) / 2 / *ns_per_tick * 1e9;
	return true;
}
