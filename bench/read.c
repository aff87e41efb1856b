/* SPDX-License-Identifier: MIT */
/* read.c - P11: what a guest's clock read costs. */
#include "bench.h"

#include <time.h>

#if defined(__x86_64__) || defined(__i386__)

#define CALLS 20000
#define RUNS 201

/*
 * Each value is added to a sum, the least that a caller does with it: so a value counts as read when it can be
 * used, and not when it is on its way to memory.
 */
static void read_tsc(const struct pvclock_page *page)
{
	uint64_t sum = 0;

	(void)page;
	for (unsigned int i = 0; i < CALLS; i++)
		sum += pvclock_read_tsc().ticks;
	bench_use(sum);
}

static void read_page(const struct pvclock_page *page)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < CALLS; i++) {
		struct pvclock_reading reading;

		pvclock_read_clock(page, &reading);
		sum += reading.ns;
	}
	bench_use(sum);
}

static void read_clock_id(clockid_t clock)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < CALLS; i++) {
		struct timespec ts;

		clock_gettime(clock, &ts);
		sum += (uint64_t)ts.tv_nsec;
	}
	bench_use(sum);
}

static void read_monotonic(const struct pvclock_page *page)
{
	(void)page;
	read_clock_id(CLOCK_MONOTONIC);
}

static void read_raw(const struct pvclock_page *page)
{
	(void)page;
	read_clock_id(CLOCK_MONOTONIC_RAW);
}

enum { TSC, PAGE, MONOTONIC, RAW, KINDS };

static void (*const kinds[KINDS])(const struct pvclock_page *page) = {
	[TSC] = read_tsc, [PAGE] = read_page, [MONOTONIC] = read_monotonic, [RAW] = read_raw,
};

void bench_read(struct bench *bench)
{
	/* as a guest on a 2 to 4 GHz machine has it */
	struct pvclock_line line = { pvclock_read_tsc().ticks, 1000000, 3308755968u, -1 };
	static _Alignas(64) struct pvclock_page page;
	static double samples[KINDS][RUNS];
	double median[KINDS];

	pvclock_page_write(&page, &line, PVCLOCK_TSC_STABLE);
	for (unsigned int run = 0; run < RUNS; run++)
		for (unsigned int kind = 0; kind < KINDS; kind++) {
			double began = bench_ticks();

			kinds[kind](&page);
			samples[kind][run] = (bench_ticks() - began) / CALLS;
		}
	for (unsigned int kind = 0; kind < KINDS; kind++)
		median[kind] = bench_median(samples[kind], RUNS);
	bench_figure(bench, "read_page_per_ordered_tsc", median[PAGE] / median[TSC], 1.20, "%.1f to %.1f ticks",
		     median[PAGE], median[TSC]);
	bench_figure(bench, "read_page_per_vdso_monotonic", median[PAGE] / median[MONOTONIC], 0.90,
		     "%.1f to %.1f ticks", median[PAGE], median[MONOTONIC]);
	bench_figure(bench, "read_page_per_vdso_monotonic_raw", median[PAGE] / median[RAW], 0.90, "%.1f to %.1f ticks",
		     median[PAGE], median[RAW]);
}

#else

void bench_read(struct bench *bench)
{
	bench_skip(bench, "read_page_per_ordered_tsc", 1.20, "no TSC on this machine");
	bench_skip(bench, "read_page_per_vdso_monotonic", 0.90, "no TSC on this machine");
	bench_skip(bench, "read_page_per_vdso_monotonic_raw", 0.90, "no TSC on this machine");
}

#endif
