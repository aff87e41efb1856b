/* SPDX-License-Identifier: MIT */
/*
 * P2: all clocks of a guest, as its kernel and its processes read them on two vCPUs, through pauses and live updates:
 * none goes back, on any vCPU, by either reader; REALTIME, TAI and BOOTTIME stay at their distance from MONOTONIC, or
 * go ahead of it by what the host says has passed uncounted; coarse ones never lead.
 *
 * Guest: clocks.elf. Host: MS of pauses and live updates in own mode, of pauses in steer mode, and a few of its live
 * updates; how many readings that is depends on the machine.
 */
#include "live.h"

#include <stdio.h>
#include <string.h>

#define MS 5000
#define PAUSE_MS 3
#define TOLD 7u /* clocks.c */

static uint64_t others(const struct watch *watch)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < watch->harness.vcpus; i++)
		sum += atomic_load(&watch->harness.shared->ring[i].again);
	return sum;
}

static uint64_t failed(const struct watch *watch)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < watch->harness.vcpus; i++)
		sum += atomic_load(&watch->harness.shared->ring[i].failed);
	return sum;
}

/* `policy`: of pauses; NULL: they count. */
static void keeps(struct live *live, const char *name, const char *mode, const char *policy)
{
	struct watch watch;
	unsigned int events = 0;
	uint64_t told;

	if (live_start(live, &watch, "clocks.elf", mode, policy ? "--policy" : NULL, policy)) {
		int64_t end = harness_now_ms() + MS;
		bool lives = true;

		while (lives && harness_now_ms() < end) {
			lives = events % 4 == 3 ? watch_update(&watch, NULL, NULL) == 0 : watch_pause(&watch, PAUSE_MS, NULL, NULL) == 0;
			events++;
		}
		live_check(live, lives, "%s: the guest lived through %u events: %s", name, events, lives ? "yes" : watch.harness.error);
		if (policy) { /* a host that cannot stop the TSC stops the clock by another line: nothing for the judge */
			watch_finish(&watch);
			live_check(live, watch_backwards(&watch) == 0, "P2 %s: %llu steps backwards in %llu rounds, none", name,
				   (unsigned long long)watch_backwards(&watch), (unsigned long long)watch_reads(&watch));
		} else {
			live_check_promises(live, &watch, name, live_limit(mode));
		}
		live_check(live, failed(&watch) == 0, "P2 %s: each clock was had, and at its distance: %llu were not", name,
			   (unsigned long long)failed(&watch));
		live_check(live, watch_unstable(&watch) == 0, "P2 %s: processes read without asking the kernel", name);
		told = watch.harness.shared->argument[TOLD];
		if (strcmp(mode, "own") == 0) /* the mode that offers it */
			live_check(live, told == events, "P9 %s: told of %llu of %u blackouts", name, (unsigned long long)told, events);
		live_note("%s: %llu readings of clocks, by kernel and processes", name, (unsigned long long)others(&watch));
	}
	live_stop(live, &watch, name);
}

int main(void)
{
	struct live live;

	live_begin(&live);
	keeps(&live, "own", "own", NULL);
	keeps(&live, "own, freezing", "own", "pause=freeze");
	keeps(&live, "steer", "steer", NULL);
	return live_end(&live);
}
