/* SPDX-License-Identifier: MIT */
/*
 * scenario_reenlighten.c - a stock Linux guest that is a host and has asked for Hyper-V's re-enlightenment goes to a host of another TSC
 * rate, and back. Its KVM is told by an interrupt that its TSC is another one, asks for the new rate, acknowledges, and makes its
 * guests' pages anew. From the arrival until then its guest runs by the old line: that window is measured. Unless this host knows of that
 * guest's page, by the nested interface: then there is none.
 */
#include "scenario.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ACKNOWLEDGE_MS 10000 /* Linux waits for 100 ms by itself (hv_reenlightenment_work) */
#define REWRITE_MS 200      /* from there until its KVM has made the page anew, at the next entry */
#define TURNS "turns_ns"
#define REFUSE_MS 60000
#define CONSOLE_MAX (64u << 10)
/*
 * Linux's KVM knows its host's TSC to a kHz, rounded down: of the slowest host here that is 10^-6; and its multiplier loses up to
 * half a ppb more.
 */
#define KVM_LIMIT_PPB 1000.5
/* What it made of the old rate until the switch adds up by as much: some us in the minutes that this takes. */
#define KVM_LIMIT_NS 1000000

/* How far the guest's guest's counter is ahead of the guest's: its KVM says so in debugfs, and lab/nested-host.sh on the console. */
static void learn_ahead(struct run *run)
{
	char path[LAB_PATH], *text, *at;

	snprintf(path, sizeof(path), "%.300s/%s-%s-middle.console", run->lab->logs, run->scenario, run->who);
	text = lab_read_tail(path, CONSOLE_MAX);
	at = text ? strstr(text, "lab: tsc-offset ") : NULL;
	if (at) {
		run->nested_ahead = (uint64_t)strtoll(at + strlen("lab: tsc-offset "), NULL, 10);
		run->nested_known = true;
	}
	free(text);
}

/* How far off its clock was when its KVM made the page anew, for each move. A preload says that itself. */
static void keep_turn(struct run *run)
{
	json_t *turns = json_object_get(run->extra, TURNS);

	if (json_array_size(turns) < run->verdict.rates)
		json_array_append_new(turns, json_integer(run->verdict.turn_ns));
}

/* Until the guest has acknowledged. -1: it was not told, had not asked, or does not. */
static int wait_acknowledged(struct run *run, struct qemu *vm)
{
	int64_t until = lab_until(run->lab, ACKNOWLEDGE_MS);
	json_t *told, *acknowledged, *windows = json_object_get(run->extra, "windows_ns"), *turns = json_object_get(run->extra, TURNS);
	bool asked;

	learn_ahead(run);
	keep_turn(run);
	while (qemu_find_events(vm, "acknowledged", &acknowledged) == 0 && lab_now_ms() < until)
		if (lab_sleep(run->lab, 200))
			return -1;
	qemu_find_events(vm, "reenlighten", &told);
	asked = json_is_true(json_object_get(told, "enabled"));
	if (!told)
		lab_fail(run->lab, "The guest was not told that its TSC is another one.");
	else if (!asked)
		lab_fail(run->lab, "The guest has not asked for the interrupt that tells it of its new TSC.");
	else if (!acknowledged)
		lab_fail(run->lab, "The guest does not acknowledge its new TSC.");
	json_decref(told);
	if (!asked || !acknowledged) {
		json_decref(acknowledged);
		qemu_explain(vm);
		return -1;
	}
	json_array_append_new(windows, json_integer(lab_number(acknowledged, "after_ns", 0)));
	json_decref(acknowledged);
	return turns ? lab_sleep(run->lab, (int)(REWRITE_MS * run->lab->slow)) : 0; /* a preload's guest is asked, and then that looks */
}

/* `exact`: its guest's clock is the preload's, and never goes back; what it was ahead it keeps. */
static int judge(struct run *run, bool exact)
{
	double limit = exact ? 0.5 : KVM_LIMIT_PPB;

	keep_turn(run);
	if (!exact) {
		run_note(run, "off_ns", json_incref(json_object_get(run->extra, TURNS)));
		json_object_del(run->extra, TURNS);
	}
	run->drift_limit_ppb = limit;
	if (!run->nested_known)
		return lab_fail(run->lab, "The guest has not said how far its guest's counter is ahead of its own.");
	if (!run->drift_known)
		return run->there->known ? lab_fail(run->lab, "The guest's guest has no page, so its rate is not known.") : 0;
	if (fabs(run->drift_ppb) > limit)
		return lab_fail(run->lab, "The guest's guest runs %+.2f ppb off its host, of %.1f that are allowed.", run->drift_ppb, limit);
	if (exact && verdict_backwards(&run->verdict))
		return lab_fail(run->lab, "The guest's guest's clock went back %llu times.", (unsigned long long)verdict_backwards(&run->verdict));
	if (!exact && run->verdict.jump_max > KVM_LIMIT_NS)
		return lab_fail(run->lab, "The guest's guest's clock is off by %lld ns after the guest has acknowledged.",
				(long long)run->verdict.jump_max);
	return 0;
}

/* What QEMU says of a guest that it does not take in: the line, without its own name. */
static bool says_why(struct run *run, struct qemu *vm)
{
	char *text = qemu_read(vm, vm->output), *at = text ? strstr(text, "'tsc-frequency=' has to be specified") : NULL;

	for (; at && at > text && at[-1] != '\n' && strncmp(at, "Guest ", 6) != 0; at--)
		;
	if (at)
		snprintf(run->verdict.reason, sizeof(run->verdict.reason),
			 "Stock QEMU does not take in a guest that has asked to be told, since its KVM would not tell it: \"%.*s\".",
			 (int)(strcspn(at, "\r\n") < 120 ? strcspn(at, "\r\n") : 120), at);
	free(text);
	return at != NULL;
}

/* Stock: there is nothing to be measured, for such a guest goes nowhere. */
static int play_refused(struct run *run)
{
	struct qemu *from = &run->vm[0], *to = &run->vm[1];
	struct qemu_options guest;
	char command[NESTED_COMMAND], uri[MIGRATE_URI];
	int64_t until;

	nested_guest(run, &(struct middle){ .cpu = SCENARIO_HYPERV_CPU, .parent = "off" }, command, &guest);
	if (run_boot(run, from, &guest))
		return -1;
	guest.name = "hop1";
	guest.on_peer = true;
	guest.incoming = migrate_uri(run, true, uri);
	if (qemu_start(to, run->lab, run->scenario, &guest) || run_migrate_start(run, from, uri))
		return -1;
	for (until = lab_until(run->lab, REFUSE_MS); qemu_alive(to) && lab_now_ms() < until;)
		if (lab_sleep(run->lab, 200))
			return -1;
	if (qemu_alive(to) || !says_why(run, to)) {
		lab_fail(run->lab, "Stock QEMU was to refuse a guest that has asked for re-enlightenment, and has not said so.");
		qemu_explain(to);
		return -1;
	}
	run_note(run, "refused", json_true());
	return 0;
}

static int play(struct run *run, const char *inner, const char *parent)
{
	struct middle middle = { .cpu = SCENARIO_HYPERV_CPU, .parent = parent, .inner = inner };
	bool exact = !strcmp(inner, "own");

	if (!strcmp(run->who, "stock"))
		return play_refused(run);
	run->unjudged = strcmp(parent, "tree") != 0; /* jumps: there is a window. The rest is judged here */
	run->arrived = wait_acknowledged;
	run_note(run, "windows_ns", json_array());
	if (!exact)
		run_note(run, TURNS, json_array());
	return nested_move(run, &middle, migrate_new_rate) || judge(run, exact) ? -1 : 0;
}

int play_reenlighten(struct run *run)
{
	return play(run, "stock", "off");
}

int play_reenlighten_own(struct run *run)
{
	return play(run, "own", "off");
}

int play_reenlighten_tree(struct run *run)
{
	return play(run, "own", "tree");
}
