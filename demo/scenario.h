/* SPDX-License-Identifier: MIT */
/* scenario.h - a scenario: one guest, one kind of event, many times, and what the judge says. */
#ifndef DEMO_SCENARIO_H
#define DEMO_SCENARIO_H

#include "harness.h"
#include "rows.h"

struct scenario_options {
	const char *vmm, *payload;
	unsigned int vcpus, events;
	double seconds;                 /* from the first drift sample to the second, at least */
	unsigned int pause_ms;          /* how long a pause lasts */
	const struct pvclock_slope *host; /* the host's slope, or NULL if it is not known */
	/* Told before the first event, after each one, and with done == total at the end. May be NULL. */
	void (*progress)(void *ctx, const char *who, const char *scenario, unsigned int done, unsigned int total);
	void *progress_ctx;
};

bool scenario_known(const char *name);

/*
 * 0 and a row; or -1 with a sentence in `error` (HARNESS_ERROR bytes): the guest did not live to the end. No process is
 * left in either case.
 */
int scenario_run(const struct scenario_options *options, const char *name, const char *who, struct row *row,
		 char *error);

#endif
