/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "cost.h"
#include "shift.h"

#include <pvclock/guest.h>

#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 201u
#define CALLS 16u /* a round */
#define BRACKETS 256u

static uint64_t tsc(void)
{
	return pvclock_read_tsc().ticks;
}

static int ascending(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return (left > right) - (left < right);
}

static double median(uint64_t *rounds)
{
	qsort(rounds, ROUNDS, sizeof(*rounds), ascending);
	return (double)rounds[ROUNDS / 2] / CALLS;
}

struct cost measure_cost(void)
{
	uint64_t vdso[ROUNDS], syscalls[ROUNDS], rdtsc[ROUNDS];
	struct cost cost;

	for (unsigned int round = 0; round < ROUNDS; round++) {
		struct timespec ts;
		uint64_t start = tsc(), end;

		for (unsigned int i = 0; i < CALLS; i++)
			clock_gettime(CLOCK_MONOTONIC, &ts);
		end = tsc();
		vdso[round] = end - start;
		for (unsigned int i = 0; i < CALLS; i++)
			syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts);
		start = tsc();
		syscalls[round] = start - end;
		for (unsigned int i = 0; i < CALLS; i++)
			end = tsc();
		rdtsc[round] = end - start;
	}
	cost.vdso = median(vdso);
	cost.syscall = median(syscalls);
	cost.rdtsc = median(rdtsc);
	cost.answered = cost.vdso < 0.6 * cost.syscall;
	return cost;
}

static struct window narrowest(const struct clocks *clocks)
{
	struct window best = { .before = 0, .after = UINT64_MAX };

	for (unsigned int i = 0; i < BRACKETS; i++) {
		struct window now;

		now = (struct window){ .before = clocks->tsc(clocks->context) };
		now.ns = clocks->ns(clocks->context, PROBE_RAW, UINT32_MAX);
		now.after = clocks->tsc(clocks->context);
		if (now.after - now.before < best.after - best.before)
			best = now;
	}
	return best;
}

struct rate measure_rate(const struct clocks *clocks, double seconds)
{
	struct window ends[2] = { narrowest(clocks) };
	uint64_t start = clocks->ns(clocks->context, PROBE_RAW, UINT32_MAX), now;
	struct rate rate = { .known = false };

	do { /* in pieces: a clock that is set back may not keep us for ever */
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
		now = clocks->ns(clocks->context, PROBE_RAW, UINT32_MAX);
	} while (now >= start && (double)(now - start) < seconds * 1e9);
	ends[1] = narrowest(clocks);
	if (ends[1].ns > ends[0].ns && ends[1].before > ends[0].after)
		rate.known = shift_rate(ends, 2, clocks->step_ns(clocks->context), &rate.ns_per_tick, &rate.error_ppb);
	rate.seconds = (double)(ends[1].ns - ends[0].ns) / 1e9;
	return rate;
}
