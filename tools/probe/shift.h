/* SPDX-License-Identifier: MIT */
/*
 * shift.h - how far a clock moved against the TSC, from readings alone.
 *
 * A reading is a window: the clock was read once between two reads of the TSC. It says that the clock, as a straight
 * line over the TSC, passes through that window. All windows before an event together bound where the clock would have
 * gone; those after it bound where it is. No fit, no outliers, no trust in any page: the true shift lies within what is
 * returned, if the clock was a straight line before and after.
 */
#ifndef PROBE_SHIFT_H
#define PROBE_SHIFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct window {
	uint64_t before, ns, after; /* TSC, clock, TSC */
	uint32_t phase;             /* between which commands it was read; watch.h */
	uint32_t line;              /* the page's line then; pages.h */
};

/* How many windows an estimate uses: its cost grows with the square. */
#define SHIFT_WINDOWS 128u

/* Keeps the narrowest window of each of at most SHIFT_WINDOWS stretches of time, sorted by TSC. Returns how many. */
size_t shift_thin(struct window *windows, size_t count);

struct measured {
	bool known;     /* there were two windows before, and one after */
	int64_t ns;     /* the shift; the true one is within ... */
	int64_t within; /* ... this of it, ns */
};

/*
 * The clock's shift at the narrowest window after an event; count after >= 1. If `at` is not NULL: the shift at that
 * tick, to which the windows after are extended as well (two at least), for slopes that differ. The clock advances in
 * steps of step_ns.
 */
struct measured shift_measure(const struct window *before, size_t before_count, const struct window *after,
			      size_t after_count, const uint64_t *at, uint64_t step_ns);

/* ns per tick, and by how much it may be wrong, in parts per 10^9. False: fewer than two windows apart. */
bool shift_rate(const struct window *windows, size_t count, uint64_t step_ns, double *ns_per_tick, double *error_ppb);

#endif
