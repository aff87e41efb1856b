/* SPDX-License-Identifier: MIT */
/*
 * P5: deadlines of either kind of timer, TSC deadlines and such that the host keeps in ns, armed across events: pauses
 * that count and pauses that do not, live updates, and snapshots that another VMM goes on from. None fires before the
 * guest's clock has reached the time that was asked for, and none is lost. How late they are is reported, beside a
 * guest to which nothing happens; and stock KVM beside both, not judged.
 *
 * Guest: deadlines.elf on 4 vCPUs, which logs what it asked for and what its clock said at the interrupt. Host: ROUNDS of
 * events, until DEADLINES were taken.
 */
#include "deadlines.h"
#include "live.h"

#include <pvclock/deadline.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define VCPUS 4u
#define DEADLINES 10000u
#define UPDATES 100u
#define ROUNDS_MAX 200u
#define LONGEST_NS 600000u
#define FAR_NS 40000000u
#define MISSED_MS 15000 /* far beyond FAR_NS, a blackout and a slow host */
#define SETTLE_MS 300  /* the kernel updates all pages 100 ms after a vCPU registered its own */
#define SHOWN 5u

struct run {
	struct harness harness;
	const char *name, *last; /* the last event */
	struct deadlines deadlines;
	unsigned int updates;
	bool judged;
};

static void take(void *ctx, unsigned int vcpu, const struct vmm_ring_entry *entries, size_t count)
{
	struct run *run = ctx;
	struct deadlines *deadlines = &run->deadlines;
	uint64_t before = deadlines->early;

	deadlines_take(deadlines, vcpu, entries, count);
	for (uint64_t i = before; i < deadlines->early && i < SHOWN; i++) {
		const struct deadline_early *early = &deadlines->first[i];

		live_note("%s: vCPU %u: %llu ns early%s, last event %s (tick %lld)", run->name, early->vcpu, (unsigned long long)early->ns,
			  early->across ? ", across an event" : "", run->last, (long long)early->ticks);
	}
}

/* Each vCPU takes one more deadline than they had. */
static bool goes_on(struct run *run)
{
	int64_t limit = harness_now_ms() + MISSED_MS;
	uint64_t before[VCPUS];

	for (unsigned int i = 0; i < VCPUS; i++)
		before[i] = run->deadlines.vcpu[i].taken;

	for (unsigned int i = 0; i < VCPUS;) {
		if (run->deadlines.vcpu[i].taken != before[i]) {
			i++;
			continue;
		}
		if (harness_run(&run->harness, 1))
			return false;
		if (harness_now_ms() > limit) {
			snprintf(run->harness.error, sizeof(run->harness.error), "vCPU %u missed a deadline: it sleeps on.", i);
			return false;
		}
	}
	return true;
}

static bool command(struct run *run, const char *text)
{
	json_t *reply = harness_command(&run->harness, text, WATCH_COMMAND_MS);

	run->last = text;
	json_decref(reply);
	return reply != NULL;
}

static bool pauses(struct run *run, int times)
{
	for (int i = 0; i < times; i++)
		if (!command(run, "pause") || harness_run(&run->harness, 2 + i) || !command(run, "resume") || !goes_on(run))
			return false;
	return true;
}

static bool updates(struct run *run, int times)
{
	for (int i = 0; i < times; i++, run->updates++)
		if (!command(run, "update") || !goes_on(run))
			return false;
	return true;
}

/* A round has each kind; the snapshot also changes what a pause and a snapshot mean from then on. */
static bool one_round(struct run *run, const struct harness_options *options, const char *file, unsigned int round)
{
	static const char *const policies[][2] = { { "pause=freeze", "snapshot=freeze" },
						   { "pause=advance", "snapshot=freeze" },
						   { "pause=freeze", "snapshot=advance" },
						   { "pause=advance", "snapshot=advance" } };
	struct harness_options next = *options;

	if (!pauses(run, 6) || !updates(run, 3))
		return false;
	if (!file)
		return true;
	next.extra[0] = "--policy";
	next.extra[1] = policies[round % 4][0];
	next.extra[2] = "--policy";
	next.extra[3] = policies[round % 4][1];
	next.extra[4] = "--same-boot";
	run->last = "restore";
	return harness_restore(&run->harness, &next, file) == 0 && goes_on(run);
}

enum kind { QUIET, EVENTS };

/* False: no guest ran. */
static bool run_guest(struct live *live, struct run *run, const char *mode, enum pvclock_timer_kind timer, enum kind kind, uint64_t deadlines,
		      unsigned int updates, const char *file)
{
	char *payload = harness_path("deadlines.elf");
	const struct harness_options options = { .vmm = live->vmm, .payload = payload, .mode = mode, .vcpus = VCPUS };
	bool started = harness_start(&run->harness, &options) == 0, lives;

	if (started) {
		run->harness.sink = take; /* from the ring's beginning, so that entries come in pairs */
		run->harness.sink_ctx = run;
		run->harness.shared->argument[0] = LONGEST_NS;
		run->harness.shared->argument[1] = FAR_NS;
		run->harness.shared->argument[3] = timer;
		started = harness_wait_started(&run->harness, WATCH_START_MS) == 0;
	}
	free(payload);
	if (!started && WIFEXITED(run->harness.exit_status) && WEXITSTATUS(run->harness.exit_status) == VMM_DEADLINES_NONE) {
		printf("1..0 # SKIP this KVM gives its guests no TSC-deadline timer (KVM_CAP_TSC_DEADLINE_TIMER)\n");
		exit(77);
	}
	if (!started)
		return live_check(live, false, "%s: the guest starts: %s", run->name, run->harness.error);
	lives = harness_run(&run->harness, SETTLE_MS) == 0;
	deadlines_begin(&run->deadlines);
	for (unsigned int round = 0; lives && (run->deadlines.taken < deadlines || run->updates < updates); round++) {
		if (round == ROUNDS_MAX)
			lives = false;
		else if (kind == EVENTS)
			lives = one_round(run, &options, file, round);
		else
			lives = goes_on(run) && harness_run(&run->harness, 200) == 0;
	}
	return live_check(live, lives, "P5 %s: %llu deadlines, %llu of them with an event in between, through %u live updates; missed: %s", run->name,
			  (unsigned long long)run->deadlines.taken, (unsigned long long)run->deadlines.across, run->updates,
			  lives ? "0" : run->harness.error);
}

static void report(struct live *live, struct run *run)
{
	uint64_t failed = 0, again = 0, backwards = 0, half = lateness_quantile(&run->deadlines.quiet, 50), most = lateness_quantile(&run->deadlines.quiet, 100);
	uint64_t across_half = lateness_quantile(&run->deadlines.disturbed, 50), across_most = lateness_quantile(&run->deadlines.disturbed, 100);

	for (unsigned int i = 0; run->harness.shared && i < VCPUS; i++)
		failed += run->harness.shared->ring[i].failed, again += run->harness.shared->ring[i].again,
			backwards += run->harness.shared->ring[i].backwards_cross;
	live_note("%s: late by %llu us in the median and %llu us at most; across events, whose blackout may be in it, %llu and %llu us",
		  run->name, (unsigned long long)half / 1000, (unsigned long long)most / 1000, (unsigned long long)across_half / 1000,
		  (unsigned long long)across_most / 1000);
	live_note("%s: %llu times the guest armed one again: the line had just been replaced%s", run->name, (unsigned long long)again,
		  run->judged ? "" : ", or the interrupt was early");
	if (run->judged) {
		live_check(live, run->deadlines.early == 0, "P5 %s: early: %llu of %llu", run->name, (unsigned long long)run->deadlines.early,
			   (unsigned long long)run->deadlines.taken);
		live_check(live, run->deadlines.unpaired == 0 && failed == 0, "P5 %s: each was asked for once and taken once: %llu were not",
			   run->name, (unsigned long long)(run->deadlines.unpaired + failed));
		live_check(live, backwards == 0, "P2 %s: below what another vCPU had read before: %llu readings", run->name,
			   (unsigned long long)backwards);
	} else {
		live_note("%s: early: %llu of %llu", run->name, (unsigned long long)run->deadlines.early, (unsigned long long)run->deadlines.taken);
	}
	deadlines_clear(&run->deadlines);
}

static void one(struct live *live, const char *name, const char *mode, enum pvclock_timer_kind timer, enum kind kind, uint64_t deadlines,
		unsigned int updates, const char *file)
{
	struct run run = { .name = name, .last = "none", .judged = strcmp(mode, "stock") != 0 };

	run_guest(live, &run, mode, timer, kind, deadlines, updates, file);
	report(live, &run);
	harness_stop(&run.harness);
}

int main(void)
{
	unsigned int deadlines, updates;
	char file[64];
	struct live live;

	live_begin(&live);
	deadlines = live_count(DEADLINES, 10);
	updates = live_count(UPDATES, 10);
	snprintf(file, sizeof(file), "%s/pvclock-p5-%d", live_scratch(), (int)getpid());
	one(&live, "own, TSC, no events", "own", PVCLOCK_TIMER_TSC, QUIET, deadlines / 5, 0, NULL);
	one(&live, "own, host, no events", "own", PVCLOCK_TIMER_HOST, QUIET, deadlines / 5, 0, NULL);
	one(&live, "own, TSC", "own", PVCLOCK_TIMER_TSC, EVENTS, deadlines, updates, file);
	one(&live, "own, host", "own", PVCLOCK_TIMER_HOST, EVENTS, deadlines, updates, file);
	one(&live, "steer", "steer", PVCLOCK_TIMER_TSC, EVENTS, deadlines / 2, 0, file);
	one(&live, "stock", "stock", PVCLOCK_TIMER_TSC, EVENTS, deadlines / 7, 0, NULL);
	unlink(file);
	return live_end(&live);
}
