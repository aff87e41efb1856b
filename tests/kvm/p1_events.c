/* SPDX-License-Identifier: MIT */
/*
 * P1 and P2 through pauses and live updates, for own and steer mode: any TSC value gives the same time before and after, and no
 * vCPU ever sees the clock go backwards. And the control: where stock KVM moves the clock, the same judge sees it.
 *
 * Guest: clock.elf on 2 vCPUs, reading as fast as it can. Host: EVENTS pauses of PAUSE_MS, or EVENTS live updates.
 */
#include "live.h"

#include <stdio.h>
#include <string.h>

#define EVENTS 8
#define PAUSE_MS 5

typedef int event(struct watch *watch, int64_t *blackout_ns, int64_t *jump_ns);

static int pause_once(struct watch *watch, int64_t *blackout_ns, int64_t *jump_ns)
{
	return watch_pause(watch, PAUSE_MS, blackout_ns, jump_ns);
}

static int update_once(struct watch *watch, int64_t *blackout_ns, int64_t *jump_ns)
{
	return watch_update(watch, blackout_ns, jump_ns);
}

/* Events, and what they did. False: the guest did not live through them, which is a failed check. */
static bool run_events(struct live *live, struct watch *watch, const char *name, event *once)
{
	for (int i = 0; i < EVENTS; i++) {
		int64_t jump = 0, blackout = 0;

		if (once(watch, &blackout, &jump))
			return live_check(live, false, "%s: event %d: %s", name, i + 1, watch->harness.error);
		live_note("%s %d: at %.6f s jump %lld ns, blackout %lld us", name, i + 1,
			  watch->judge.events[watch->judge.event_count - 1].seconds, (long long)jump, (long long)blackout / 1000);
	}
	return true;
}

static void keeps(struct live *live, const char *mode, const char *kind, event *once)
{
	struct watch watch;
	char name[48];

	snprintf(name, sizeof(name), "%s %s", mode, kind);
	if (live_start(live, &watch, "clock.elf", mode, NULL, NULL) && run_events(live, &watch, name, once)) {
		int64_t total_limit = live_limit(mode) ? EVENTS / 2 : 0;

		live_check_promises(live, &watch, name, live_limit(mode));
		live_check(live, judge_total(&watch.judge) <= total_limit && judge_total(&watch.judge) >= -total_limit,
			   "P1 %s: the jumps do not add up in one direction: %lld ns in all, at most %lld", name,
			   (long long)judge_total(&watch.judge), (long long)total_limit);
		live_check(live, watch.judge.unannounced == 0, "P1 %s: no jump outside of an event", name);
	}
	live_stop(live, &watch, name);
}

/* What makes the zeros above mean something. */
static void stock_is_seen(struct live *live)
{
	struct watch watch;
	int64_t jump = 0, blackout = 0;

	if (live_start(live, &watch, "clock.elf", "stock", NULL, NULL)) {
		if (watch_pause(&watch, PAUSE_MS, &blackout, &jump))
			live_check(live, false, "stock: %s", watch.harness.error);
		else /* the clock stood still while the TSC ran on */
			live_check(live, jump < -1000000 * PAUSE_MS / 2 && jump > -2 * blackout - 1000000,
				   "stock: the judge sees a clock that was stopped for %lld us: %lld ns", (long long)blackout / 1000,
				   (long long)jump);
	}
	live_stop(live, &watch, "stock");
}

int main(int argc, char **argv)
{
	struct live live;
	const char *kind = argc > 1 ? argv[1] : "pause-resume";
	bool update = !strcmp(kind, "live-update");

	live_begin(&live);
	keeps(&live, "own", kind, update ? update_once : pause_once);
	keeps(&live, "steer", kind, update ? update_once : pause_once);
	if (!update)
		stock_is_seen(&live);
	return live_end(&live);
}
