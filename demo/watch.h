/* SPDX-License-Identifier: MIT */
/*
 * watch.h - a running guest with the judge looking on: harness, judge and pages tied together. What the scenarios and the tests
 * on a real KVM are written in.
 */
#ifndef DEMO_WATCH_H
#define DEMO_WATCH_H

#include "drift.h"
#include "harness.h"
#include "judge.h"
#include "pages.h"

#define WATCH_WINDOW 256u      /* readings of every vCPU after an event in which its jump is looked for */
#define WATCH_START_MS 30000   /* for a guest to start */
#define WATCH_COMMAND_MS 20000 /* for a command, a live update included */
#define WATCH_READINGS_MS 10000 /* for a vCPU to make a window of readings */

struct watch {
	struct harness harness;
	struct judge judge;
	struct pages pages;
};

/* Starts the guest and the judge on it. 0, or -1 with harness.error; watch_stop is needed in both cases. */
int watch_start(struct watch *watch, const struct harness_options *options);
void watch_stop(struct watch *watch);

/* Judges for so long. 0 or -1. */
int watch_run(struct watch *watch, int ms);

/*
 * One event: begin, then whatever happens to the guest, then end, which waits for a window of readings and gives the
 * jump. 0 or -1.
 */
int watch_event_begin(struct watch *watch);
int watch_event_end(struct watch *watch, int64_t *jump_ns);

/* A pause of `ms` as one event. *blackout_ns, *jump_ns may be NULL. 0 or -1. */
int watch_pause(struct watch *watch, int ms, int64_t *blackout_ns, int64_t *jump_ns);
/* A live update as one event. */
int watch_update(struct watch *watch, int64_t *blackout_ns, int64_t *jump_ns);

/* harness_restore as one event. */
int watch_restore(struct watch *watch, const struct harness_options *options, const char *path, int64_t *jump_ns);

/* A drift sample, on vCPU 0's line. 0 or -1. */
int watch_drift(struct watch *watch, uint64_t tsc_offset, struct drift_sample *sample);

/* Judges everything that is left. */
void watch_finish(struct watch *watch);

/* Steps backwards that the judge or the guest itself saw; readings made, logged or not; readings without TSC_STABLE. */
uint64_t watch_backwards(const struct watch *watch);
uint64_t watch_reads(const struct watch *watch);
uint64_t watch_unstable(const struct watch *watch);

#endif
