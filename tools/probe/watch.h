/* SPDX-License-Identifier: MIT */
/*
 * watch.h - one thread on each CPU that reads the clocks all the time.
 *
 * Does a clock go back? Each clock has one largest value that all CPUs share. A thread loads it (acquire) and then
 * reads the clock: what it loaded was read before, so what it reads may not be below. How do the clocks stand to the
 * TSC? Of all (TSC, RAW, TSC) in 10 ms the narrowest is kept (shift.h).
 *
 * Threads sleep between bursts, for the CPU may be an emulated one, but not while an event is watched. Then nothing
 * here waits for a timer either: it is the clocks that are under test, and a timer of a clock that was set back may
 * never fire.
 */
#ifndef PROBE_WATCH_H
#define PROBE_WATCH_H

#include "clocks.h"
#include "pages.h"
#include "shift.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define WATCH_CPUS 1024u
#define WATCH_BURST 64u
#define WATCH_RING 1024u
#define WATCH_WINDOW_NS 10000000u
#define WATCH_WINDOW_TICKS (1u << 26) /* 10 ms and more of any TSC up to 6.7 GHz */

struct watch_cpu;

/* Each clock's largest value has a cache line of its own. */
struct watch_largest {
	_Alignas(64) _Atomic uint64_t ns;
};

struct watch {
	const struct clocks *clocks;
	struct pages *pages;
	struct watch_largest largest[PROBE_STEADY_CLOCKS];
	/*
	 * Counts the commands that begin or end an event; odd while one is open. What a thread does is marked with the
	 * phase it saw before it did it.
	 */
	_Alignas(64) _Atomic uint32_t phase;
	_Atomic uint32_t busy;       /* futex: threads sleep while it is 0 */
	_Atomic bool stopped;
	_Alignas(64) _Atomic uint32_t milestones; /* futex: grows when a thread got somewhere */
	/* the rest is the coordinator's */
	_Alignas(64) struct watch_cpu *cpus[WATCH_CPUS];
	unsigned int threads;
};

void watch_open(struct watch *watch, const struct clocks *clocks, struct pages *pages);
/* Ends all threads. */
void watch_close(struct watch *watch);

/* Starts a thread on a CPU that has none. False: it has one, is not online, or is not for this process. */
bool watch_start(struct watch *watch, unsigned int cpu);

/* CPUs with a thread that runs there. */
unsigned int watch_running(const struct watch *watch);

/* No thread sleeps any more; or they do again. */
void watch_set_busy(struct watch *watch, bool busy);

/* A new phase; the next one, or the one after it so that odd stays odd. `fresh`: the largest values are forgotten. */
uint32_t watch_next_phase(struct watch *watch, uint32_t step, bool fresh);

/*
 * Waits until every CPU has made WATCH_BURST readings of each clock in this phase and all together `windows` windows.
 * Busy only.
 */
void watch_wait(struct watch *watch, uint32_t phase, unsigned int windows);

/* The windows of a phase that were read on `line`, or on any if that is UINT32_MAX. Thinned; room for SHIFT_WINDOWS. */
size_t watch_windows(struct watch *watch, uint32_t phase, uint32_t line, struct window *windows);

/*
 * The same, of the time before the longest pause in the readings: for an event that was not announced and cannot be
 * told from the page. All of them if there was no pause that stands out.
 */
size_t watch_windows_before_pause(struct watch *watch, uint32_t phase, struct window *windows);

struct watch_totals {
	uint64_t samples;          /* of every clock each */
	uint64_t within, between;  /* readings below an earlier one of the same CPU; else, of any CPU */
	uint64_t worst_ns;
};
/* Since the start. */
struct watch_totals watch_totals(const struct watch *watch);
/* Since an event began with this phase, each thread's from when it saw that; and while no other one has begun. */
struct watch_totals watch_totals_since(const struct watch *watch, uint32_t phase);

/*
 * The TSC's largest step between two neighbouring readings of a CPU since watch_clear_step, on the CPU where that was
 * smallest, since an event reaches all CPUs and a scheduler one. If the TSC went back on any CPU: by how much at most,
 * negative.
 */
int64_t watch_step(const struct watch *watch);
void watch_clear_step(struct watch *watch);

#endif
