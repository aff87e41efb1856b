/* SPDX-License-Identifier: MIT */
/* read.c - P11: what a guest's clock read costs. */
#include "bench.h"

#include <pvclock/clock.h>

#include <string.h>
#include <time.h>

#if defined(__x86_64__) || defined(__i386__)

#define CALLS 20000
#define RUNS 201

/*
 * Each value is added to a sum, the least that a caller does with it: so a value counts as read when it can be
 * used, and not when it is on its way to memory.
 */
static void read_tsc(const struct pvclock_user_page *user)
{
	uint64_t sum = 0;

	(void)user;
	for (unsigned int i = 0; i < CALLS; i++)
		sum += pvclock_read_tsc().ticks;
	bench_use(sum);
}

static void read_page(const struct pvclock_user_page *user)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < CALLS; i++) {
		struct pvclock_reading reading;

		pvclock_read_clock(&user->page, &reading);
		sum += reading.ns;
	}
	bench_use(sum);
}

/* Ours and the vDSO's, for an id that the compiler knows in the one and not in the other, as a program has them. */
#define CLOCK(name, ours, theirs, read)                                   \
	static void name(const struct pvclock_user_page *user)            \
	{                                                                 \
		uint64_t sum = 0;                                         \
									  \
		for (unsigned int i = 0; i < CALLS; i++) {                \
			struct pvclock_time time;                         \
									  \
			read(user, ours, &time);                          \
			sum += time.nsec;                                 \
		}                                                         \
		bench_use(sum);                                           \
	}                                                                 \
	static void vdso_##name(const struct pvclock_user_page *user)     \
	{                                                                 \
		uint64_t sum = 0;                                         \
									  \
		(void)user;                                               \
		for (unsigned int i = 0; i < CALLS; i++) {                \
			struct timespec time;                             \
									  \
			clock_gettime(theirs, &time);                     \
			sum += (uint64_t)time.tv_nsec;                    \
		}                                                         \
		bench_use(sum);                                           \
	}

/* The host has written since the last tick, so nothing is ready. */
static void changed(const struct pvclock_user_page *user)
{
	static _Alignas(4096) struct pvclock_user_page copy;
	struct pvclock_line line = { 0, 0, 3308755968u, -1 };
	uint64_t sum = 0;

	memcpy(&copy, user, sizeof(copy));
	pvclock_page_write(&copy.page, &line, PVCLOCK_TSC_STABLE);
	for (unsigned int i = 0; i < CALLS; i++) {
		struct pvclock_time time;

		pvclock_user_time(&copy, PVCLOCK_MONOTONIC, &time);
		sum += time.nsec;
	}
	bench_use(sum);
}

CLOCK(monotonic, PVCLOCK_MONOTONIC, CLOCK_MONOTONIC, pvclock_user_time)
CLOCK(raw, PVCLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_RAW, pvclock_user_time)
CLOCK(realtime, PVCLOCK_REALTIME, CLOCK_REALTIME, pvclock_user_time)
CLOCK(boottime, PVCLOCK_BOOTTIME, CLOCK_BOOTTIME, pvclock_user_time)
CLOCK(tai, PVCLOCK_TAI, CLOCK_TAI, pvclock_user_time)
CLOCK(monotonic_coarse, PVCLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_COARSE, pvclock_coarse_time)
CLOCK(realtime_coarse, PVCLOCK_REALTIME_COARSE, CLOCK_REALTIME_COARSE, pvclock_coarse_time)

enum {
	TSC, PAGE, CHANGED, MONOTONIC, VDSO_MONOTONIC, RAW, VDSO_RAW, REALTIME, VDSO_REALTIME, BOOTTIME, VDSO_BOOTTIME, TAI, VDSO_TAI,
	MONOTONIC_COARSE, VDSO_MONOTONIC_COARSE, REALTIME_COARSE, VDSO_REALTIME_COARSE, KINDS
};

static void (*const kinds[KINDS])(const struct pvclock_user_page *user) = {
	[TSC] = read_tsc, [PAGE] = read_page, [CHANGED] = changed,
	[MONOTONIC] = monotonic, [VDSO_MONOTONIC] = vdso_monotonic,
	[RAW] = raw, [VDSO_RAW] = vdso_raw,
	[REALTIME] = realtime, [VDSO_REALTIME] = vdso_realtime,
	[BOOTTIME] = boottime, [VDSO_BOOTTIME] = vdso_boottime,
	[TAI] = tai, [VDSO_TAI] = vdso_tai,
	[MONOTONIC_COARSE] = monotonic_coarse, [VDSO_MONOTONIC_COARSE] = vdso_monotonic_coarse,
	[REALTIME_COARSE] = realtime_coarse, [VDSO_REALTIME_COARSE] = vdso_realtime_coarse,
};

static const struct {
	const char *name;
	unsigned int ours, theirs;
	struct limit limit;
} figures[] = {
	{ "read_page_per_ordered_tsc", PAGE, TSC, { 1.20, 1.40 } },
	{ "read_page_per_vdso_monotonic", PAGE, VDSO_MONOTONIC, { 0.90, 1.20 } },
	{ "read_page_per_vdso_monotonic_raw", PAGE, VDSO_RAW, { 0.90, 1.20 } },
	{ "read_monotonic_per_ordered_tsc", MONOTONIC, TSC, { 1.30, 1.50 } },
	{ "read_realtime_per_ordered_tsc", REALTIME, TSC, { 1.30, 1.50 } },
	{ "read_raw_per_ordered_tsc", RAW, TSC, { 1.30, 1.50 } },
	{ "read_boottime_per_ordered_tsc", BOOTTIME, TSC, { 1.30, 1.50 } },
	{ "read_tai_per_ordered_tsc", TAI, TSC, { 1.30, 1.50 } },
	{ "read_changed_per_ordered_tsc", CHANGED, TSC, { 3.30, 4.50 } },
	{ "read_monotonic_per_vdso", MONOTONIC, VDSO_MONOTONIC, { 0.90, 1.20 } },
	{ "read_raw_per_vdso", RAW, VDSO_RAW, { 0.90, 1.20 } },
	{ "read_realtime_per_vdso", REALTIME, VDSO_REALTIME, { 0.90, 1.20 } },
	{ "read_boottime_per_vdso", BOOTTIME, VDSO_BOOTTIME, { 0.90, 1.20 } },
	{ "read_tai_per_vdso", TAI, VDSO_TAI, { 0.90, 1.20 } },
	{ "read_monotonic_coarse_per_vdso", MONOTONIC_COARSE, VDSO_MONOTONIC_COARSE, { 1.00, 1.00 } },
	{ "read_realtime_coarse_per_vdso", REALTIME_COARSE, VDSO_REALTIME_COARSE, { 1.00, 1.00 } },
};

#define FIGURES (sizeof(figures) / sizeof(*figures))

void bench_read(struct bench *bench)
{
	/* as a guest on a 2 to 4 GHz machine has it */
	struct pvclock_line line = { pvclock_read_tsc().ticks, 1000000, 3308755968u, -1 };
	static _Alignas(4096) struct pvclock_user_page user;
	static double samples[KINDS][RUNS];
	double median[KINDS];

	pvclock_page_write(&user.page, &line, PVCLOCK_TSC_STABLE);
	pvclock_clocks_choose_counter(&user);
	pvclock_clocks_start(&user, line.ns, UINT64_C(1795000000000000000), 0, 37);
	for (unsigned int run = 0; run < RUNS; run++) {
		uint64_t now;

		/* as a kernel does, and Linux does here, if less often */
		if (pvclock_user_ns(&user, PVCLOCK_MONOTONIC, &now) == PVCLOCK_READ_OK)
			pvclock_clocks_tick(&user, now);
		for (unsigned int kind = 0; kind < KINDS; kind++) {
			double began = bench_ticks();

			kinds[kind](&user);
			samples[kind][run] = (bench_ticks() - began) / CALLS;
		}
	}
	for (unsigned int kind = 0; kind < KINDS; kind++)
		median[kind] = bench_median(samples[kind], RUNS);
	for (unsigned int i = 0; i < FIGURES; i++)
		bench_figure(bench, figures[i].name, median[figures[i].ours] / median[figures[i].theirs], figures[i].limit,
			     "%.1f to %.1f ticks", median[figures[i].ours], median[figures[i].theirs]);
}

#else

void bench_read(struct bench *bench)
{
	bench_skip(bench, "read_page_per_ordered_tsc", (struct limit){ 1.20, 1.40 }, "no TSC on this machine");
	bench_skip(bench, "read_monotonic_per_vdso", (struct limit){ 0.90, 1.20 }, "no TSC on this machine");
	bench_skip(bench, "read_monotonic_coarse_per_vdso", (struct limit){ 1.00, 1.00 }, "no TSC on this machine");
}

#endif
