/* SPDX-License-Identifier: MIT */
/*
 * P1 and P2 for a VMM that knows nothing of pvclock: pvclock-vmm in its stock mode, which stops and goes on as QEMU does, under
 * `pvclock run`. And the control: the same VMM without it loses the clock at every pause.
 *
 * Guest: clock.elf on 2 vCPUs, reading as fast as it can. Host: PAUSES pauses of PAUSE_MS. A preload that is there but idle would
 * fail as the control has to.
 */
#include "live.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAUSES 20
#define PAUSE_MS 5

/* `under`: the preload's mode, or NULL: without it. */
static bool start(struct live *live, struct watch *watch, const char *under)
{
	const char *pvclock = getenv("PVCLOCK_COMMAND");
	char *payload = harness_path("clock.elf");
	const struct harness_options options = {
		.vmm = live->vmm,
		.payload = payload,
		.mode = "stock",
		.vcpus = 2,
		.under = { under ? pvclock : NULL, "run", "--mode", under, "--" },
	};
	bool started = payload && live->vmm && pvclock && watch_start(watch, &options) == 0;

	free(payload);
	if (!started)
		live_check(live, false, "%s: the guest starts: %s", under ? under : "without",
			   pvclock ? watch->harness.error : "PVCLOCK_COMMAND does not name the command");
	return started;
}

static bool pause_once(struct live *live, struct watch *watch, const char *name, unsigned int number, int64_t *jump)
{
	int64_t blackout = 0;

	*jump = 0;
	if (watch_pause(watch, PAUSE_MS, &blackout, jump))
		return live_check(live, false, "%s: pause %u: %s", name, number, watch->harness.error);
	live_note("%s %u: at %.6f s jump %lld ns, blackout %lld us", name, number,
		  watch->judge.events[watch->judge.event_count - 1].seconds, (long long)*jump, (long long)blackout / 1000);
	return true;
}

static void keeps(struct live *live, const char *mode)
{
	const int64_t limit = live_limit(mode);
	struct watch watch;
	bool lives;
	int64_t jump;
	char name[32];

	snprintf(name, sizeof(name), "preload %s", mode);
	lives = start(live, &watch, mode);
	for (unsigned int i = 1; lives && i <= PAUSES; i++)
		lives = pause_once(live, &watch, name, i, &jump);
	if (lives) {
		live_check_promises(live, &watch, name, limit);
		/* 0 or 1 ns of one line: nothing can add up */
		live_check(live, llabs((long long)judge_total(&watch.judge)) <= limit, "P1 %s: %d pauses move the clock by %lld ns in all, at most %lld",
			   name, PAUSES, (long long)judge_total(&watch.judge), (long long)limit);
		live_check(live, watch.judge.unannounced == 0, "P1 %s: no jump outside of a pause", name);
		if (limit == 0)
			live_check(live, watch_unstable(&watch) == 0, "P4 %s: every reading had TSC_STABLE", name);
	}
	live_stop(live, &watch, name);
}

static void moves_without(struct live *live)
{
	struct watch watch;
	int64_t jump;

	if (start(live, &watch, NULL) && pause_once(live, &watch, "without", 1, &jump))
		live_check(live, jump < -1000000 * PAUSE_MS / 2, "without the preload, a pause moves the clock by %lld ns", (long long)jump);
	live_stop(live, &watch, "without");
}

int main(void)
{
	struct live live;

	live_begin(&live);
	moves_without(&live);
	keeps(&live, "own");
	keeps(&live, "steer");
	return live_end(&live);
}
