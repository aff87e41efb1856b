/* SPDX-License-Identifier: MIT */
/*
 * scenario_sleep.c - the host sleeps, for real, with a guest that runs: its clocks when it goes on, against the host's
 * own. What the host counts in CLOCK_BOOTTIME and not in CLOCK_MONOTONIC is how long it slept.
 */
#include "blackout.h"
#include "host_sleep.h"
#include "scenario.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLEEP_S 4
#define LONG_SLEEP_S 60 /* three times what either of a guest's watchdogs waits for */
#define LOOK_NS 2000 /* the library looks at the same clocks, within brackets of its own */
#define SINCE_BOOT_PPM 1 /* what two clocks of one TSC may part by, from one question to the next */

/* What the guest's kernel said of time that was lost on it, if anything. */
static char *complaint(struct qemu *vm)
{
	static const char *const words[] = { "soft lockup", "rcu_sched detected", "rcu: INFO", "detected stall", "clocksource: timekeeping watchdog",
					     "Marking clocksource", "hung_task", "blocked for more than" };
	char *text = qemu_read(vm, vm->console), *found = NULL;

	for (size_t i = 0; text && !found && i < sizeof(words) / sizeof(*words); i++) {
		char *at = strstr(text, words[i]);

		if (at) {
			at[strcspn(at, "\r\n")] = '\0';
			found = strdup(at);
		}
	}
	free(text);
	return found;
}

/* The guest went on as the policy says: by the preload's word, and by the guest's own clock. */
static int judge(struct run *run, struct qemu *vm, bool freeze, int64_t slept, int64_t bracket, struct between gained, json_t *told)
{
	int64_t counted, uncounted, error, wanted = freeze ? 0 : slept, slack;
	json_t *resume;
	char cause[16];

	qemu_find_events(vm, "resume", &resume);
	counted = lab_number(resume, "counted_ns", -1);
	uncounted = lab_number(resume, "uncounted_ns", -1);
	error = lab_number(resume, "error_ns", -1);
	snprintf(cause, sizeof(cause), "%s", lab_text(resume, "cause", "none"));
	json_decref(resume);
	json_object_set_new(told, "counted_ns", json_integer(counted));
	json_object_set_new(told, "uncounted_ns", json_integer(uncounted));
	json_object_set_new(told, "error_ns", json_integer(error));
	slack = bracket + LOOK_NS;
	if (strcmp(cause, "suspend"))
		return lab_fail(run->lab, "The host slept, and the guest was told of: %s.", cause);
	if (error < 0)
		return lab_fail(run->lab, "The preload does not say how exactly it knows the sleep's length.");
	if (freeze && (uncounted > slept + slack || uncounted < slept - slack))
		return lab_fail(run->lab, "The host slept for %" PRId64 " ns, to %" PRId64 ", and %" PRId64 " are not counted.", slept, bracket,
				uncounted);
	if (!freeze && uncounted != 0)
		return lab_fail(run->lab, "%" PRId64 " ns are not counted.", uncounted);
	slack += slept / 1000000 * SINCE_BOOT_PPM;
	if (gained.least > wanted + slack || gained.most < wanted - slack)
		return lab_fail(run->lab, "The guest's clock went on by %.6f to %.6f s more than the host was awake, not by %.6f.",
				(double)gained.least / 1e9, (double)gained.most / 1e9, (double)wanted / 1e9);
	return 0;
}

static int one_sleep(struct run *run, struct qemu *vm, const char *policy, int seconds, json_t *sleeps)
{
	struct blackout blackout = { .policy = policy };
	json_t *told = json_pack("{s:s}", "policy", policy);
	struct between gained;
	int64_t slept, bracket;
	char *said;

	json_array_append_new(sleeps, told);
	if (blackout_begin(run, vm, &blackout))
		return -1;
	slept = host_sleep(run->lab, seconds, &bracket);
	if (slept < 0 || run_end(run, vm) || blackout_ask_ahead(vm, &blackout.after))
		return -1;
	gained = blackout_gained(&blackout);
	json_object_set_new(told, "slept_ns", json_integer(slept));
	json_object_set_new(told, "slept_bracket_ns", json_integer(bracket));
	json_object_set_new(told, "gained_ns", json_pack("[I,I]", (json_int_t)gained.least, (json_int_t)gained.most));
	said = complaint(vm);
	if (said) {
		json_object_set_new(told, "complaint", json_string(said));
		if (strcmp(run->who, "stock"))
			lab_fail(run->lab, "The guest's kernel complains: %.200s", said);
	}
	free(said);
	if (!strcmp(run->who, "stock"))
		return 0;
	return json_object_get(told, "complaint") ? -1 : judge(run, vm, !strcmp(policy, "freeze"), slept, bracket, gained, told);
}

/* The preload reads it again at each stop. */
static int set_policy(struct run *run, const char *path, const char *policy)
{
	FILE *file = fopen(path, "we");

	if (!file)
		return lab_fail(run->lab, "Cannot write %s.", path);
	fprintf(file, "suspend=%s\n", policy);
	fclose(file);
	return 0;
}

static int play(struct run *run, int seconds, const char *const *policies, unsigned int count)
{
	char path[LAB_PATH], policy[LAB_PATH + 1];
	struct qemu_options guest = { .name = "guest", .who = run->who, .cpus = run_cpus(), .policy = policy };
	json_t *sleeps = json_array();

	snprintf(path, sizeof(path), "%.400s/policy", run->lab->work);
	snprintf(policy, sizeof(policy), "@%s", path);
	run_note(run, "sleeps", sleeps);
	if (set_policy(run, path, policies[0]) || blackout_know_host(run, false) || run_boot(run, &run->vm[0], &guest))
		return -1;
	for (unsigned int i = 0; i < count; i++)
		if (set_policy(run, path, policies[i]) || one_sleep(run, &run->vm[0], policies[i], seconds, sleeps))
			return -1;
	return run_leave(run, &run->vm[0]);
}

int play_host_suspend(struct run *run)
{
	static const char *const policies[] = { "freeze", "advance", "freeze" };

	return play(run, SLEEP_S, policies, strcmp(run->who, "stock") ? 3 : 2);
}

int play_watchdog_quiet(struct run *run)
{
	static const char *const policies[] = { "freeze", "advance" };

	return play(run, LONG_SLEEP_S, policies, strcmp(run->who, "stock") ? 2 : 1);
}
