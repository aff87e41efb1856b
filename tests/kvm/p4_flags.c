/* SPDX-License-Identifier: MIT */
/*
 * P4: TSC_STABLE is set where it is true: on every reading of a guest whose vCPUs share one line. And GUEST_STOPPED:
 * each vCPU sees it once after each pause or live update, and never else. In own mode both are the engine's work.
 *
 * Guest: clock.elf, which counts GUEST_STOPPED and clears it. Host: 3 pauses, 2 live updates.
 */
#include "live.h"

#include <stdatomic.h>

#define PAUSES 3u
#define UPDATES 2u

static uint64_t stopped(const struct watch *watch, unsigned int vcpu)
{
	return atomic_load(&watch->harness.shared->ring[vcpu].stopped);
}

static bool run_events(struct watch *watch)
{
	for (unsigned int i = 0; i < PAUSES; i++)
		if (watch_pause(watch, 2, NULL, NULL))
			return false;
	for (unsigned int i = 0; i < UPDATES; i++)
		if (watch_update(watch, NULL, NULL))
			return false;
	return watch_run(watch, 20) == 0;
}

static void check_mode(struct live *live, const char *mode)
{
	uint64_t before[2];
	struct watch watch;
	json_t *status;

	if (!live_start(live, &watch, "clock.elf", mode, NULL, NULL)) {
		live_stop(live, &watch, mode);
		return;
	}
	for (unsigned int i = 0; i < 2; i++)
		before[i] = stopped(&watch, i);
	if (live_check(live, run_events(&watch), "%s: the guest lives through all events%s", mode, watch.harness.error)) {
		watch_finish(&watch);
		live_check(live, watch_unstable(&watch) == 0, "P4 %s: TSC_STABLE on all of %llu readings", mode,
			   (unsigned long long)watch.judge.readings);
		for (unsigned int i = 0; i < 2; i++)
			live_check(live, stopped(&watch, i) - before[i] == PAUSES + UPDATES,
				   "P4 %s: vCPU %u saw GUEST_STOPPED %llu times, once for each of %u events", mode, i,
				   (unsigned long long)(stopped(&watch, i) - before[i]), PAUSES + UPDATES);
		status = harness_command(&watch.harness, "status", WATCH_COMMAND_MS);
		live_check(live, json_is_true(json_object_get(status, "stable")), "P4 %s: the VMM says stable too", mode);
		json_decref(status);
	}
	live_stop(live, &watch, mode);
}

int main(void)
{
	struct live live;

	live_begin(&live);
	check_mode(&live, "own");
	check_mode(&live, "steer");
	return live_end(&live);
}
