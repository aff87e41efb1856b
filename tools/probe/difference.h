/* SPDX-License-Identifier: MIT */
/* difference.h - two lines as functions: how far the second is from the first at the same TSC. */
#ifndef PROBE_DIFFERENCE_H
#define PROBE_DIFFERENCE_H

#include <pvclock/line.h>

#include <stdbool.h>
#include <stdint.h>

struct difference {
	/*
	 * ns, new(t) - old(t). Of equal slopes: the least and the largest over every t from the later anchor on, for
	 * readers' floors make a constant difference two or three integers. Of unequal slopes there is no such
	 * bound: both are the difference at one tick.
	 */
	int64_t low, high;
	int64_t jump;     /* the one of larger magnitude; of two alike, the one that goes back */
	bool same_slope;
	double rate_ppb;  /* new slope / old slope - 1 */
};

/*
 * Both lines valid. Pure. `at`: the tick at which slopes that differ are compared, where the one took over from the other. Who
 * does not know it (NULL) gets the later anchor, which is the new line's if time went forward: a kernel that publishes may
 * put it a while after that.
 */
struct difference line_difference(const struct pvclock_line *old, const struct pvclock_line *new, const uint64_t *at);

/* The same of Hyper-V's form, ns: readings of one scale are always as far apart as their offsets. */
struct difference hyperv_difference(const struct pvclock_hyperv_line *old, const struct pvclock_hyperv_line *new, uint64_t at);

/* True if no reading, ever, tells one from the other. */
static inline bool difference_is_none(const struct difference *difference)
{
	return difference->same_slope && difference->low == 0 && difference->high == 0;
}

/* a - b, as far as 64 bits hold it. */
int64_t difference_of(uint64_t a, uint64_t b);

#endif
