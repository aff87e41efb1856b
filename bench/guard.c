/* SPDX-License-Identifier: MIT */
/*
 * guard.c - P11: the monotonic guard, on 1 ... N CPUs that read all the time, beside Linux's algorithm for the same thing.
 *
 * A reading is what a CPU has on a page that is not TSC_STABLE: an ordered TSC, a line, the guard. Each thread's line is a
 * little off, as the lines of such CPUs are: so that the guard has something to do.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>

#if defined(__x86_64__) || defined(__i386__)

#define READINGS 20000
#define RUNS 101
#define THREADS_MAX 16
#define APART 100u /* ticks */
/* Two equal ones differ by 0.003 here, with a busy neighbour. */
static const struct limit limit = { 1.02, 1.05 };

/* What __pvclock_clocksource_read in Linux's arch/x86/kernel/pvclock.c does with its last_value, in our words. */
__attribute__((noinline)) static uint64_t as_linux(_Atomic uint64_t *last, uint64_t ns)
{
	uint64_t seen = atomic_load_explicit(last, memory_order_relaxed);

	do {
		if (ns <= seen)
			return seen;
	} while (!atomic_compare_exchange_strong(last, &seen, ns));
	return ns;
}

struct guarded {
	_Alignas(64) _Atomic uint64_t last;
	_Alignas(64) _Atomic unsigned int arrived; /* all threads begin at once */
	unsigned int threads;
	bool ours;
};

struct reader {
	struct guarded *guarded;
	unsigned int index;
	double ticks; /* a reading, of this thread */
};

static void *read_guarded(void *argument)
{
	struct reader *reader = argument;
	struct guarded *guarded = reader->guarded;
	struct pvclock_line line = { 0, 0, 3308755968u, -1 };
	uint64_t sum = 0;
	cpu_set_t cpus;
	double began;

	/* a CPU each, as vCPUs are */
	CPU_ZERO(&cpus);
	CPU_SET(reader->index, &cpus);
	pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
	line.tsc = reader->index * APART;
	atomic_fetch_add(&guarded->arrived, 1);
	while (atomic_load(&guarded->arrived) < guarded->threads)
		pvclock_relax();
	began = bench_ticks();
	if (guarded->ours)
		for (unsigned int i = 0; i < READINGS; i++)
			sum += pvclock_guard(&guarded->last, pvclock_line_ns(&line, pvclock_read_tsc().ticks));
	else
		for (unsigned int i = 0; i < READINGS; i++)
			sum += as_linux(&guarded->last, pvclock_line_ns(&line, pvclock_read_tsc().ticks));
	reader->ticks = (bench_ticks() - began) / READINGS;
	bench_use(sum);
	return NULL;
}

/* Ticks a reading, the mean of all threads; 0: no threads to be had. */
static double run(bool ours, unsigned int threads)
{
	struct guarded guarded = { .threads = threads, .ours = ours };
	struct reader readers[THREADS_MAX];
	pthread_t ids[THREADS_MAX];
	double sum = 0;

	for (unsigned int i = 0; i < threads; i++) {
		readers[i] = (struct reader){ &guarded, i, 0 };
		if (pthread_create(&ids[i], NULL, read_guarded, &readers[i]) != 0) {
			atomic_fetch_add(&guarded.arrived, threads); /* nobody waits for who does not come */
			while (i > 0)
				pthread_join(ids[--i], NULL);
			return 0;
		}
	}
	for (unsigned int i = 0; i < threads; i++) {
		pthread_join(ids[i], NULL);
		sum += readers[i].ticks;
	}
	return sum / threads;
}

/* 1, 2, 4 ... threads, and as many as there are CPUs. */
void bench_guard(struct bench *bench)
{
	cpu_set_t cpus;
	unsigned int count = 1;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
		count = (unsigned int)CPU_COUNT(&cpus);
	if (count > THREADS_MAX)
		count = THREADS_MAX;
	for (unsigned int threads = 1;; threads = threads * 2 < count ? threads * 2 : count) {
		static double samples[2][RUNS], ratios[RUNS];
		char name[48];

		/* side by side, and each pair for itself: what a line's way from CPU to CPU costs differs from one moment to the next */
		for (unsigned int i = 0; i < RUNS; i++) {
			samples[i & 1][i] = run((i & 1) == 0, threads);
			samples[!(i & 1)][i] = run((i & 1) != 0, threads);
			ratios[i] = samples[0][i] / samples[1][i];
		}
		snprintf(name, sizeof(name), "guard_per_linux_%u", threads);
		bench_figure(bench, name, bench_median(ratios, RUNS), limit, "%.1f to %.1f ticks a reading",
			     bench_median(samples[0], RUNS), bench_median(samples[1], RUNS));
		if (threads >= count)
			break;
	}
	if (count < 2)
		bench_skip(bench, "guard_per_linux_2", limit, "one CPU");
}

#else

void bench_guard(struct bench *bench)
{
	bench_skip(bench, "guard_per_linux_2", (struct limit){ 1.02, 1.05 }, "no TSC on this machine");
}

#endif
