/* SPDX-License-Identifier: MIT */
/*
 * P6: a live update in which one side is killed (kill -9), or hangs, at each of its steps, as `pvclock-vmm
 * --list-steps` names them. After each the guest runs on exactly one side and its clock has kept P1 and P2. Two steps
 * are not the hand-over's: before old:saved the old one has the guest to itself, and from new:committed on the new one
 * has. What dies there takes its guest along, and the other side never runs it.
 *
 * Guest: clock.elf on 2 vCPUs. Host: for each step, an update that fails there; then, where the guest lives, an update
 * that succeeds.
 */
#include "live.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS_MAX 64
#define POINT_MAX 48
#define SETTLE_MS 4000 /* a dead side's process ends, and its memory with it */
#define HANG_TIMEOUT "1"
#define HANG_COMMAND_MS 6000 /* time enough for each side's limits, one after the other */
#define STILL_MS 300         /* a guest that makes no reading for so long does not run */

enum heir { HEIR_OLD, HEIR_NEW, HEIR_NOBODY };

struct step {
	char point[POINT_MAX]; /* side:step */
	enum heir heir;        /* who has the guest after a crash there */
};

/* Where a side has the guest to itself. All other steps have to leave it an heir. */
static const char *const alone[] = { "old:paused", "new:committed" };

static const char *const heir_names[] = { "the old side", "the new side", "nobody" };

/* Columns are two or more blanks apart; the last one begins with "old one", "new one" or "nobody". */
static size_t list_steps(const char *vmm, struct step *steps)
{
	char command[4200], line[512];
	size_t count = 0;
	FILE *list;

	snprintf(command, sizeof(command), "'%s' --list-steps", vmm);
	list = popen(command, "re");
	while (list && count < STEPS_MAX && fgets(line, sizeof(line), list)) {
		struct step *step = &steps[count];

		if (sscanf(line, "%47s", step->point) != 1 || (strncmp(step->point, "old:", 4) && strncmp(step->point, "new:", 4)))
			continue; /* a snapshot's are p6_snapshot's */
		if (strstr(line, " old one resumes"))
			step->heir = HEIR_OLD;
		else if (strstr(line, " new one takes over") || strstr(line, " new one runs"))
			step->heir = HEIR_NEW;
		else
			step->heir = HEIR_NOBODY;
		count++;
	}
	return list && pclose(list) == 0 ? count : 0;
}

static bool wait_for_processes(struct watch *watch, unsigned int wanted)
{
	int64_t deadline = harness_now_ms() + SETTLE_MS;

	while (harness_processes(&watch->harness) != wanted) {
		if (harness_now_ms() > deadline || harness_run(&watch->harness, 5))
			return false;
	}
	return true;
}

static bool is_alone(const char *point)
{
	return !strcmp(point, alone[0]) || !strcmp(point, alone[1]);
}

/* No vCPU makes a reading. */
static bool stands_still(struct watch *watch)
{
	uint64_t before[2];

	harness_drain(&watch->harness);
	memcpy(before, watch->harness.taken, sizeof(before));
	return harness_run(&watch->harness, STILL_MS) == 0 && memcmp(before, watch->harness.taken, sizeof(before)) == 0;
}

/* What is left of a guest whose one side was killed. */
static void check_killed(struct live *live, struct watch *watch, const char *name, const struct step *step, const char *mode,
			 pid_t old)
{
	int64_t jump = 0;
	pid_t now;

	if (step->heir == HEIR_NOBODY) {
		live_check(live, wait_for_processes(watch, 0), "P6 %s: %s has the guest: no process is left", name,
			   heir_names[step->heir]);
		live_check(live, live_pid(watch) == -1 && stands_still(watch), "P6 %s: nobody answers, and no vCPU runs", name);
		return;
	}
	if (!live_check(live, wait_for_processes(watch, 1), "P6 %s: exactly one process has the guest's memory", name))
		live_note("%u have", harness_processes(&watch->harness));
	now = live_pid(watch);
	live_check(live, now > 0 && (now == old) == (step->heir == HEIR_OLD), "P6 %s: %s answers", name, heir_names[step->heir]);
	if (!live_check(live, watch_event_end(watch, &jump) == 0, "P6 %s: the guest runs on, both vCPUs: jump %lld ns%s", name,
			(long long)jump, watch->harness.error))
		return;
	/* A fault happens once: the next update succeeds, to a side that was started by whoever is left. */
	live_check(live, watch_update(watch, NULL, &jump) == 0, "P6 %s: and the next update succeeds", name);
	live_check_promises(live, watch, name, live_limit(mode));
}

static void kill_at(struct live *live, const struct step *step, const char *mode)
{
	struct watch watch;
	char name[80];
	pid_t old;

	snprintf(name, sizeof(name), "%s killed at %s", mode, step->point);
	if (live_start(live, &watch, "clock.elf", mode, "--crash-at", step->point)) {
		old = live_pid(&watch);
		if (watch_event_begin(&watch) == 0) {
			json_t *reply = harness_command(&watch.harness, "update", WATCH_COMMAND_MS);

			if (!reply)
				live_note("%s: %s", name, watch.harness.error);
			json_decref(reply);
			watch.harness.error[0] = '\0';
			check_killed(live, &watch, name, step, mode, old);
		}
	}
	live_stop(live, &watch, name);
}

/*
 * A side that hangs cannot be told from one that is slow: the other side waits for its time limit and then decides by
 * the commit word. The hung process may live on, but it must never run the guest again; and where it had the guest to
 * itself, nobody runs it.
 */
static void hang_at(struct live *live, const struct step *step)
{
	struct watch watch;
	char name[80];
	char *payload = harness_path("clock.elf");
	const struct harness_options options = {
		.vmm = live->vmm,
		.payload = payload,
		.mode = "own",
		.vcpus = 2,
		.extra = { "--hang-at", step->point, "--handover-timeout", HANG_TIMEOUT },
	};

	snprintf(name, sizeof(name), "own hung at %.47s", step->point);
	if (watch_start(&watch, &options)) {
		live_check(live, false, "%s: %s", name, watch.harness.error);
	} else {
		pid_t old = live_pid(&watch), now;
		int64_t jump = 0;

		if (watch_event_begin(&watch) == 0) {
			json_decref(harness_command(&watch.harness, "update", HANG_COMMAND_MS));
			if (step->heir == HEIR_NOBODY) {
				live_check(live, wait_for_processes(&watch, 1), "P6 %s: only the process that hangs is left", name);
				live_check(live, stands_still(&watch), "P6 %s: no vCPU runs", name);
			} else {
				now = live_pid(&watch);
				live_check(live, now > 0 && (now == old) == (step->heir == HEIR_OLD), "P6 %s: %s answers", name,
					   heir_names[step->heir]);
				live_check(live, watch_event_end(&watch, &jump) == 0, "P6 %s: the guest runs on: jump %lld ns", name,
					   (long long)jump);
				live_check_promises(live, &watch, name, live_limit("own"));
			}
		}
	}
	free(payload);
	live_stop(live, &watch, name);
}

int main(int argc, char **argv)
{
	struct step steps[STEPS_MAX];
	struct live live;
	size_t count;

	live_begin(&live);
	count = live.vmm ? list_steps(live.vmm, steps) : 0;
	live_check(&live, count >= 10, "%zu steps are listed", count);
	for (size_t i = 0; i < count; i++)
		live_check(&live, (steps[i].heir == HEIR_NOBODY) == is_alone(steps[i].point), "P6 %s: after a crash there %s has the guest",
			   steps[i].point, heir_names[steps[i].heir]);
	for (size_t i = 0; i < count; i++)
		if (argc < 2 || !strcmp(argv[1], steps[i].point))
			kill_at(&live, &steps[i], "own");
	for (size_t i = 0; i < count && argc < 2; i++)
		kill_at(&live, &steps[i], "steer");
	for (size_t i = 0; i < count; i++)
		if (argc < 2 || !strcmp(argv[1], steps[i].point))
			hang_at(&live, &steps[i]);
	return live_end(&live);
}
