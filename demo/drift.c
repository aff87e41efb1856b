/* SPDX-License-Identifier: MIT */
#include "drift.h"

#define BRACKETS 4000

int drift_sample(const struct pvclock_os *os, const struct pvclock_line *line, const struct vmm_ring_entry *reading,
		 uint64_t tsc_offset, struct drift_sample *sample)
{
	uint64_t base = reading->ns - pvclock_line_ns(line, reading->tsc);
	bool any = false, spread = false;

	for (int i = 0; i < BRACKETS; i++) {
		struct timespec ts;
		uint64_t before = os->ops->read_tsc(os->ctx).ticks;
		int error = os->ops->clock_gettime(os->ctx, CLOCK_MONOTONIC_RAW, &ts);
		uint64_t after = os->ops->read_tsc(os->ctx).ticks;

		if (error)
			return error;
		uint64_t raw = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
		/* Both clocks floor: the true values lie up to 1 ns above what they say. */
		int64_t low = (int64_t)(raw - (pvclock_line_ns(line, after + tsc_offset) + base + 1));
		int64_t high = (int64_t)(raw + 1 - (pvclock_line_ns(line, before + tsc_offset) + base));

		if (!any) {
			sample->low_ns = low;
			sample->high_ns = high;
		} else if (spread || low > sample->high_ns || high < sample->low_ns) {
			/* They contradict each other: the two clocks part within one sample. What is known is less, not more. */
			spread = true;
			sample->low_ns = low < sample->low_ns ? low : sample->low_ns;
			sample->high_ns = high > sample->high_ns ? high : sample->high_ns;
		} else {
			sample->low_ns = low > sample->low_ns ? low : sample->low_ns;
			sample->high_ns = high < sample->high_ns ? high : sample->high_ns;
		}
		sample->raw_ns = raw;
		any = true;
	}
	return 0;
}

void drift_between(const struct drift_sample *start, const struct drift_sample *end, int64_t moved_ns, double *ppb,
		   double *error_ppb)
{
	double elapsed = (double)(end->raw_ns - start->raw_ns);
	double first = ((double)start->low_ns + (double)start->high_ns) / 2;
	double last = ((double)end->low_ns + (double)end->high_ns) / 2;
	double open = (double)(start->high_ns - start->low_ns) + (double)(end->high_ns - end->low_ns);

	if (end->raw_ns <= start->raw_ns) {
		*ppb = 0;
		*error_ppb = 1e9;
		return;
	}
	if (moved_ns)
		open += 2; /* it is known to 1 ns */
	*ppb = -(last - first + (double)moved_ns) / elapsed * 1e9;
	*error_ppb = open / 2 / elapsed * 1e9;
}
