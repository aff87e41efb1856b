/* SPDX-License-Identifier: MIT */
/* vmclock_view.c - VMClock's page: what it says, and how far that is from the pvclock page and this kernel's time of day. */
#include "registered.h"

#include <math.h>
#include <time.h>

#define BRACKETS 64u

/* In UTC. UINT64_MAX, as the error, stays that. */
static shown_ns utc_ns(const struct pvclock_vmclock *clock, int64_t to_utc, uint64_t tick, uint64_t *max_error_ns)
{
	struct pvclock_vmclock_time time;

	pvclock_vmclock_at(clock, tick, &time);
	*max_error_ns = time.max_error_ns;
	return (shown_ns)pvclock_vmclock_ns(&time) + (shown_ns)to_utc * 1000000000;
}

static void compare_time(const struct pvclock_os *os, struct vmclock_view *view)
{
	shown_ns least = 0;
	int64_t to_utc;

	if (!pvclock_vmclock_to_utc(&view->holds, &to_utc))
		return;
	for (unsigned int i = 0; i < BRACKETS; i++) {
		uint64_t before, after, now;
		struct timespec ts;
		shown_ns low, high;

		before = os->ops->read_tsc(os->ctx).ticks;
		if (os->ops->clock_gettime(os->ctx, CLOCK_REALTIME, &ts) != 0)
			return;
		after = os->ops->read_tsc(os->ctx).ticks;
		now = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
		low = utc_ns(&view->holds, to_utc, before, &view->max_error_ns) - (shown_ns)now;
		high = utc_ns(&view->holds, to_utc, after, &view->max_error_ns) - (shown_ns)now;
		if (view->utc.known && high - low >= least)
			continue;
		least = high - low;
		view->utc = (struct from_raw){ .known = true, .ns = saturate_ns(low + (high - low) / 2), .raw_ns = now,
					       .error_ns = (uint64_t)saturate_ns((high - low + 1) / 2) };
	}
}

void look_at_vmclock(const struct pvclock_os *os, const void *memory, const struct shown_page *pvclock, struct vmclock_view *view)
{
	*view = (struct vmclock_view){ .why = "this machine shows none" };
	if (memory == NULL)
		return;
	view->found = true;
	view->why = pvclock_vmclock_read(memory, &view->holds) == PVCLOCK_READ_OK ? NULL : "it is no page of version 1";
	if (view->why == NULL && (view->holds.counter_id != PVCLOCK_VMCLOCK_COUNTER_TSC || view->holds.period == 0))
		view->why = "it has no time in it";
	if (view->why != NULL)
		return;
	if (pvclock != NULL && pvclock->form == SHOWN_PVCLOCK && pvclock->why == NULL) {
		const struct pvclock_line *line = &pvclock->holds.pvclock.line;
		double period = ldexp((double)view->holds.period * 1e9, -64 - view->holds.period_shift);

		view->rate_known = true;
		view->rate_ppb = (period / ldexp(line->mul, line->shift - 32) - 1) * 1e9;
	}
	compare_time(os, view);
}
