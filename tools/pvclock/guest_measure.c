/* SPDX-License-Identifier: MIT */
/* guest_measure.c - the page's drift against the kernel's clock, and what reading the clock costs. */
#define _GNU_SOURCE
#include "guest.h"

#include <pvclock/source.h>

#include <math.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define COST_CALLS 20000u
#define COST_ROUNDS 5u
#define BRACKETS 64u

/* The page's clock against CLOCK_MONOTONIC_RAW at one moment. */
struct comparison {
	double page_ns, raw_ns;
	double error_ns; /* either way */
};

static uint64_t now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* At the narrowest of many brackets. */
static struct comparison compare(const struct guest *guest)
{
	const struct pvclock_os *os = pvclock_os_linux();
	struct comparison best = { .error_ns = INFINITY };

	for (unsigned int i = 0; i < BRACKETS; i++) {
		uint64_t before, after, raw;
		double low, high;

		before = os->ops->read_tsc(os->ctx).ticks;
		raw = now_ns(CLOCK_MONOTONIC_RAW);
		after = os->ops->read_tsc(os->ctx).ticks;
		low = (double)(pvclock_line_ns(&guest->snapshot.line, before) - guest->snapshot.line.ns);
		high = (double)(pvclock_line_ns(&guest->snapshot.line, after) - guest->snapshot.line.ns);
		/* the kernel's read lies in the bracket; both clocks are cut to a whole ns */
		if ((high - low) / 2 + 1 < best.error_ns)
			best = (struct comparison){ .page_ns = (low + high) / 2, .raw_ns = (double)raw,
						    .error_ns = (high - low) / 2 + 1 };
	}
	return best;
}

/*
 * The page's line, as it was found, against the kernel's RAW: measured between two moments, and exactly if the kernel's
 * integers can be proven.
 */
static void measure_drift(struct guest *guest, const struct comparison *first, const struct comparison *last)
{
	double raw = last->raw_ns - first->raw_ns;
	struct pvclock_slope page_slope;
	struct pvclock_source *source;

	if (raw > 0) {
		guest->drift_measured = true;
		guest->drift_ppb = (last->page_ns - first->page_ns - raw) / raw * 1e9;
		guest->drift_error_ppb = (first->error_ns + last->error_ns) / raw * 1e9;
	}
	if (!pvclock_slope_from_line(&guest->snapshot.line, &page_slope) ||
	    pvclock_source_open(pvclock_os_linux(), &source, NULL) != 0)
		return;
	if (pvclock_source_learn(source, 10000000000u, NULL) == 0) {
		struct pvclock_source_state state;

		pvclock_source_get(source, &state);
		guest->drift_exact = true;
		guest->drift_exact_ppb = to_ppb(pvclock_slope_difference(&page_slope, &state.slope));
	}
	pvclock_source_close(source);
}

/* The least of a few rounds: what the call costs when nothing disturbs it. */
static double cost(bool by_syscall)
{
	double least = INFINITY;

	for (unsigned int round = 0; round < COST_ROUNDS; round++) {
		uint64_t start = now_ns(CLOCK_MONOTONIC_RAW);
		double each;

		for (unsigned int i = 0; i < COST_CALLS; i++) {
			struct timespec ts;

			if (by_syscall)
				syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts);
			else
				clock_gettime(CLOCK_MONOTONIC, &ts);
		}
		each = (double)(now_ns(CLOCK_MONOTONIC_RAW) - start) / COST_CALLS;
		if (each < least)
			least = each;
	}
	return least;
}

void measure_guest(struct guest *guest, double seconds)
{
	struct comparison first = { 0 };
	int error;

	guest->vdso_ns = cost(false);
	guest->syscall_ns = cost(true);
	/* falling back, the vDSO costs the syscall and its own attempt */
	guest->vdso_answers = guest->vdso_ns < guest->syscall_ns * 0.8;
	if (!guest->vdso_answers)
		note(&guest->notes, "clock_gettime costs as much as a syscall: the vDSO cannot read %s "
				    "itself.", guest->clocksources.current);

	if (guest->page != NULL)
		first = compare(guest);
	error = measure_warps(guest->page, seconds, &guest->warps);
	if (error < 0)
		note(&guest->notes, "No thread could be started to look for steps back: %s.", strerror(-error));
	else if (guest->warps.cpus == 1)
		note(&guest->notes, "Only one CPU may be used, so steps back between CPUs cannot be seen: run it on "
				    "all of them (taskset -pc "
		     "shows which).");
	if (guest->page != NULL) {
		struct comparison last = compare(guest);

		measure_drift(guest, &first, &last);
	}
}
