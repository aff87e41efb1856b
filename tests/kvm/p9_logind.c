/* SPDX-License-Identifier: MIT */
/*
 * P9, announced: before the host sleeps no vCPU runs any more, and only then it may sleep; afterwards the guest goes on
 * by the policy's word for a suspend. A user's pause stays a pause, and nobody's end or silence keeps a guest stopped.
 *
 * p9_logind vmm      pvclock-vmm --logind
 * p9_logind preload  pvclock run --logind -- pvclock-vmm --mode stock: a VMM that knows of neither
 *
 * Guest: clock.elf on 2 vCPUs. The bus and logind are the test's own (tests/sleep/bus.h); the host does not really sleep.
 */
#include "bus.h"
#include "live.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SOON_MS 10000
#define ASLEEP_MS 60
#define QUIET_MS 100

struct sleeper {
	struct live live;
	bool preload;
	const char *mode;
	struct bus bus;
	struct watch watch;
	char log[48]; /* the preload's */
	pid_t holder; /* of the inhibitor */
};

#define check(sleeper, ...) live_check(&(sleeper)->live, __VA_ARGS__)

/* --- what the cases share ---------------------------------------------------------------------- */

static uint64_t readings(const struct sleeper *sleeper)
{
	return atomic_load(&sleeper->watch.harness.shared->ring[0].reads) + atomic_load(&sleeper->watch.harness.shared->ring[1].reads);
}

/* Whether the guest makes readings; it is waited for, if it is to. */
static bool runs(struct sleeper *sleeper, bool is_to)
{
	int64_t until = harness_now_ms() + SOON_MS;
	uint64_t before = readings(sleeper);

	if (!is_to) {
		harness_run(&sleeper->watch.harness, QUIET_MS);
		return readings(sleeper) != before;
	}
	while (readings(sleeper) == before && harness_now_ms() < until)
		harness_run(&sleeper->watch.harness, 1);
	return readings(sleeper) != before;
}

static bool start(struct sleeper *sleeper, const char *policy)
{
	char *payload = harness_path("clock.elf");
	struct harness_options options = { .vmm = sleeper->live.vmm, .payload = payload, .mode = sleeper->mode, .vcpus = 2 };
	bool started;

	if (truncate(sleeper->log, 0) != 0)
		return check(sleeper, false, "a log");
	if (sleeper->preload) {
		const char *under[] = { getenv("PVCLOCK_COMMAND"), "run", "--logind", "--mode", sleeper->mode, "--log", sleeper->log, "--policy", policy, "--" };

		options.mode = "stock";
		memcpy(options.under, under, sizeof(under));
	} else {
		const char *extra[] = { "--logind", "--policy", policy };

		memcpy(options.extra, extra, sizeof(extra));
	}
	started = payload && watch_start(&sleeper->watch, &options) == 0;
	free(payload);
	return check(sleeper, started && runs(sleeper, true), "the guest starts: %s", sleeper->watch.harness.error);
}

static void taken(struct sleeper *sleeper)
{
	long long pid[2] = { 0 };

	check(sleeper, bus_hear(&sleeper->bus, "taken", pid, SOON_MS), "an inhibitor is taken");
	sleeper->holder = (pid_t)pid[0];
}

/* The sleep is announced: the guest stands still before it may begin. */
static void fall_asleep(struct sleeper *sleeper)
{
	long long left[2];
	uint64_t then;

	bus_say(&sleeper->bus, "sleep");
	check(sleeper, bus_hear(&sleeper->bus, "released", left, SOON_MS), "the inhibitor is given back");
	then = readings(sleeper);
	harness_run(&sleeper->watch.harness, ASLEEP_MS);
	check(sleeper, readings(sleeper) == then && left[0] == 0, "and no vCPU runs any more");
}

static void wake(struct sleeper *sleeper)
{
	bus_say(&sleeper->bus, "wake");
	taken(sleeper);
}

static bool command(struct sleeper *sleeper, const char *words)
{
	json_t *reply = harness_command(&sleeper->watch.harness, words, WATCH_COMMAND_MS);
	bool done = reply != NULL;

	json_decref(reply);
	return done;
}

/* The last of a line's numbers behind `key`, where the line has `word` in it. -1: there is no such line. */
static long long number_of(FILE *file, const char *word, const char *key)
{
	long long number = -1;
	char line[2048], *at;

	while (file && fgets(line, sizeof(line), file))
		if (strstr(line, word) && (at = strstr(line, key)))
			number = strtoll(at + strlen(key), NULL, 10);
	return number;
}

/* What the last resume did not count, ns; 0: it counted all. */
static long long uncounted(struct sleeper *sleeper)
{
	char path[64];
	long long number;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", sleeper->watch.harness.log_fd);
	file = fopen(sleeper->preload ? sleeper->log : path, "r");
	number = number_of(file, sleeper->preload ? "\"event\":\"resume\"" : "resumed;", sleeper->preload ? "\"uncounted_ns\":" : ", not counted ");
	if (file)
		fclose(file);
	return sleeper->preload || number >= 0 ? number : 0;
}

/* --- the cases ----------------------------------------------------------------------------------- */

/* advance: the guest's function is the same before and after, to the ns, whatever happened. */
static void twice(struct sleeper *sleeper)
{
	const int64_t limit = live_limit(sleeper->mode);
	int64_t jump = 0;
	bool ended;

	for (unsigned int i = 0; i < 2; i++) {
		if (watch_event_begin(&sleeper->watch))
			check(sleeper, false, "%s", sleeper->watch.harness.error);
		fall_asleep(sleeper);
		wake(sleeper);
		ended = watch_event_end(&sleeper->watch, &jump) == 0;
		check(sleeper, ended && jump <= limit && jump >= -limit, "P1 sleep %u: no jump (%lld ns)", i, (long long)jump);
	}
	check(sleeper, uncounted(sleeper) == 0, "advance: all of it is counted");
}

static void a_pause_stays_a_pause(struct sleeper *sleeper)
{
	check(sleeper, command(sleeper, "pause"), "a pause, then a sleep");
	fall_asleep(sleeper);
	wake(sleeper);
	check(sleeper, !runs(sleeper, false), "the guest stays paused");
	check(sleeper, command(sleeper, "resume") && runs(sleeper, true), "until it is resumed");
	fall_asleep(sleeper);
	check(sleeper, command(sleeper, "pause"), "a sleep, then a pause in it");
	wake(sleeper);
	check(sleeper, !runs(sleeper, false), "the guest stays paused");
	check(sleeper, command(sleeper, "resume") && runs(sleeper, true), "until it is resumed");
}

static void a_pause_that_ends_in_a_sleep(struct sleeper *sleeper)
{
	check(sleeper, command(sleeper, "pause"), "a pause, a sleep, and a resume in it");
	fall_asleep(sleeper);
	check(sleeper, command(sleeper, "resume"), "which is taken");
	if (sleeper->preload) /* the VMM means what it says as soon as it can be */
		check(sleeper, !runs(sleeper, false), "the guest waits for the host");
	wake(sleeper);
	check(sleeper, runs(sleeper, true), "and runs");
}

static void called_off(struct sleeper *sleeper)
{
	bus_say(&sleeper->bus, "blink");
	harness_run(&sleeper->watch.harness, QUIET_MS);
	/* called off before an answer was there, it is as if nothing had been; else there is another inhibitor */
	if (!bus_silent(&sleeper->bus, 0)) {
		check(sleeper, bus_hear(&sleeper->bus, "released", NULL, SOON_MS), "called off at once");
		taken(sleeper);
	}
	check(sleeper, bus_silent(&sleeper->bus, QUIET_MS), "one inhibitor is held");
	check(sleeper, runs(sleeper, true), "called off: the guest runs");
}

static void logind_restarts(struct sleeper *sleeper)
{
	fall_asleep(sleeper);
	bus_say(&sleeper->bus, "restart");
	check(sleeper, bus_hear(&sleeper->bus, "up", NULL, SOON_MS), "logind is restarted while the host is about to sleep");
	taken(sleeper);
	check(sleeper, runs(sleeper, true), "the guest runs");
	fall_asleep(sleeper);
	wake(sleeper);
	check(sleeper, runs(sleeper, true), "and the next sleep is told");
}

/* Whoever should answer does not: nothing is given back. (logind would wait for 5 s and sleep.) */
static void not_before_it_is_ready(struct sleeper *sleeper)
{
	pid_t vmm = live_pid(&sleeper->watch);

	kill(vmm, SIGSTOP);
	bus_say(&sleeper->bus, "sleep");
	check(sleeper, bus_silent(&sleeper->bus, 3 * QUIET_MS), "a VMM that does not answer is waited for");
	kill(vmm, SIGCONT);
	check(sleeper, bus_hear(&sleeper->bus, "released", NULL, SOON_MS), "until it does");
	wake(sleeper);
	check(sleeper, runs(sleeper, true), "and the guest runs on");
}

static void updated(struct sleeper *sleeper)
{
	pid_t before = sleeper->holder;
	char first[16] = "", second[16] = "";
	check(sleeper, command(sleeper, "update"), "a live update");
	/* the new side takes one, the old one's goes with it: in this order or the other */
	for (int i = 0; i < 2; i++) {
		const char *word = bus_hear(&sleeper->bus, "released", NULL, SOON_MS) ? "released" : "taken";

		snprintf(i ? second : first, sizeof(first), "%s", word);
	}
	check(sleeper, strcmp(first, second) != 0, "%s, %s", first, second);
	fall_asleep(sleeper);
	wake(sleeper);
	check(sleeper, sleeper->holder != before && runs(sleeper, true), "the new side is told");
	fall_asleep(sleeper);
	check(sleeper, !command(sleeper, "update") && strstr(sleeper->watch.harness.error, "about to sleep"), "none while the host is about to sleep: %s",
	      sleeper->watch.harness.error);
	wake(sleeper);
}

/* Whoever listened to logind is killed; with it goes the inhibitor, so the host would sleep. */
static void the_listener_is_killed(struct sleeper *sleeper)
{
	fall_asleep(sleeper);
	check(sleeper, sleeper->holder > 1 && kill(sleeper->holder, SIGKILL) == 0, "who listens to logind is killed");
	sleeper->holder = 0;
	bus_say(&sleeper->bus, "wake");
	check(sleeper, runs(sleeper, true), "the guest runs");
	check(sleeper, command(sleeper, "pause") && !runs(sleeper, false) && command(sleeper, "resume") && runs(sleeper, true), "and can be paused");
}

static void freeze(struct sleeper *sleeper)
{
	long long gap;

	fall_asleep(sleeper);
	wake(sleeper);
	check(sleeper, runs(sleeper, true), "the guest goes on");
	gap = uncounted(sleeper);
	check(sleeper, gap >= (ASLEEP_MS - 1) * 1000000ll && /* the harness waits by whole ms */ gap < 100 * ASLEEP_MS * 1000000ll, "freeze: %lld ns are not counted", gap);
}

static void the_bus_goes_away(struct sleeper *sleeper)
{
	fall_asleep(sleeper);
	bus_kill(&sleeper->bus);
	check(sleeper, runs(sleeper, true), "the bus goes away while the host is about to sleep: the guest runs");
	check(sleeper, command(sleeper, "pause") && command(sleeper, "resume") && runs(sleeper, true), "and can be paused");
}

/* --- one guest for each group --------------------------------------------------------------------- */

static void with_guest(struct sleeper *sleeper, const char *policy, void (*const *cases)(struct sleeper *sleeper))
{
	if (start(sleeper, policy)) {
		taken(sleeper);
		for (; *cases != NULL; cases++)
			(*cases)(sleeper);
		watch_finish(&sleeper->watch);
		check(sleeper, watch_backwards(&sleeper->watch) == 0, "P2: no step backwards");
	}
	watch_stop(&sleeper->watch);
	if (sleeper->bus.daemon && sleeper->holder)
		check(sleeper, bus_hear(&sleeper->bus, "released", NULL, SOON_MS), "nobody is left who holds an inhibitor");
}

static void without_a_bus(struct sleeper *sleeper)
{
	setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus", 1);
	if (start(sleeper, "suspend=advance"))
		check(sleeper, command(sleeper, "pause") && command(sleeper, "resume") && runs(sleeper, true), "no bus: the guest runs without");
	watch_stop(&sleeper->watch);
}

int main(int argc, char **argv)
{
	static void (*const keeps[])(struct sleeper *) = {
		twice, a_pause_stays_a_pause, a_pause_that_ends_in_a_sleep, called_off, logind_restarts, not_before_it_is_ready, NULL };
	static void (*const steers[])(struct sleeper *) = { twice, a_pause_stays_a_pause, NULL };
	static void (*const freezes[])(struct sleeper *) = { freeze, NULL };
	static void (*const loses[])(struct sleeper *) = { the_bus_goes_away, NULL };
	static void (*const updates[])(struct sleeper *) = { updated, NULL };
	static void (*const kills[])(struct sleeper *) = { the_listener_is_killed, NULL };
	struct sleeper sleeper = { .preload = argc > 1 && strcmp(argv[1], "preload") == 0, .mode = "own",
				   .log = "/tmp/pvclock-p9-XXXXXX" };
	int fd;

	live_begin(&sleeper.live);
	fd = mkstemp(sleeper.log);
	if (fd < 0 || close(fd) != 0)
		return 1;
	if (!bus_start(&sleeper.bus)) {
		printf("1..0 # SKIP no bus of the test's own: install dbus-daemon\n");
		bus_stop(&sleeper.bus);
		unlink(sleeper.log);
		free(sleeper.live.vmm);
		return 77;
	}
	with_guest(&sleeper, "suspend=advance", keeps);
	with_guest(&sleeper, "suspend=freeze", freezes);
	sleeper.mode = "steer";
	with_guest(&sleeper, "suspend=advance", steers);
	with_guest(&sleeper, "suspend=freeze", freezes);
	sleeper.mode = "own";
	with_guest(&sleeper, "suspend=advance", sleeper.preload ? kills : updates);
	with_guest(&sleeper, "suspend=advance", loses);
	without_a_bus(&sleeper);
	bus_stop(&sleeper.bus);
	unlink(sleeper.log);
	return live_end(&sleeper.live);
}
