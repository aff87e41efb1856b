/* SPDX-License-Identifier: MIT */
/* deadline.h - what the first tick of a time costs, by a cached reciprocal and by two kinds of division. */
#ifndef PVCLOCK_BENCH_DEADLINE_H
#define PVCLOCK_BENCH_DEADLINE_H

/*
 * Median ticks of the TSC a call, for pvclock_first_tick, for the same function by the processor's 128/64 division, and by
 * the compiler's 128/128 one. All three are equally exact: first tick, saturation, negative and positive shifts.
 * Each call waits for the one before (latency), as one deadline after another in a guest does;
 * in the second form it does not (throughput). On anything but x86-64 all are 0.
 */
void bench_deadline(double *reciprocal, double *divq, double *udivti3);
void bench_deadline_throughput(double *reciprocal, double *divq, double *udivti3);

#endif
