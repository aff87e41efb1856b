/* SPDX-License-Identifier: MIT */
/*
 * bench.h - figures that mean the same on any machine: each is a ratio of two medians of one run, taken in turns, so
 * that a change of the CPU's clock rate meets both.
 *
 * A figure has a bar, what is promised, and a fault: what it only reaches if something is wrong with the code. Between
 * the two it is SLOW: told, and no failure. Machines differ in what the same instruction costs beside another one
 * (RDTSC, VM exits under another hypervisor); a bar is met on the one that docs/promises.md names.
 */
#ifndef PVCLOCK_BENCH_H
#define PVCLOCK_BENCH_H

#include <pvclock/guest.h>
#include <stddef.h>
#include <stdint.h>

struct bench;

struct limit {
	double bar, fault;
};

/* One figure: `value` is to be at most `limit.bar`. `detail` (may be NULL) is for people: what the value is made of. */
__attribute__((format(printf, 5, 6)))
void bench_figure(struct bench *bench, const char *name, double value, struct limit limit, const char *detail, ...);

/* What this machine lacks for the figure. */
__attribute__((format(printf, 4, 5)))
void bench_skip(struct bench *bench, const char *name, struct limit limit, const char *reason, ...);

/* Sorts samples. */
double bench_median(double *samples, size_t count);

/* Keeps the compiler from dropping what computes `value`. */
static inline void bench_use(uint64_t value)
{
	__asm__ __volatile__("" : : "r"(value));
}

/* TSC ticks; 0 where there is no TSC, and then no bench runs that needs one. */
static inline double bench_ticks(void)
{
#if defined(__x86_64__) || defined(__i386__)
	static _Thread_local uint64_t first;
	uint64_t now = pvclock_read_tsc().ticks;

	if (!first)
		first = now;
	return (double)(now - first); /* small enough that a double holds every tick */
#else
	return 0;
#endif
}

/* One file each; main.c has the table. */
void bench_read(struct bench *bench);
void bench_guard(struct bench *bench);
void bench_publish(struct bench *bench);
void bench_steer(struct bench *bench);
void bench_restore(struct bench *bench);
void bench_exits(struct bench *bench);

#endif
