/* SPDX-License-Identifier: MIT */
/* cost.h - what reading the clock costs here, and the rate of RAW. */
#ifndef PROBE_COST_H
#define PROBE_COST_H

#include "clocks.h"

#include <stdbool.h>

/* TSC ticks, medians. */
struct cost {
	double vdso, syscall, rdtsc;
	bool answered; /* the vDSO answers itself: a call costs less than 0.6 of the system call */
};
struct cost measure_cost(void);

struct rate {
	bool known;
	double seconds; /* by RAW */
	double ns_per_tick, error_ppb;
};
/* Takes that many seconds, by RAW. */
struct rate measure_rate(const struct clocks *clocks, double seconds);

#endif
