/* SPDX-License-Identifier: MIT */
#include "blackout.h"

#include "peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define QUESTIONS 3 /* the narrowest answers count */
#define LEARN_MS 60000
#define SINCE_BOOT_PPM 1 /* what two clocks of one TSC may part by, from one question to the next */

static int64_t raw_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int blackout_ask_ahead(struct qemu *vm, struct between *ahead)
{
	*ahead = (struct between){ INT64_MIN, INT64_MAX };
	for (unsigned int i = 0; i < QUESTIONS; i++) {
		int64_t asked = raw_ns(), answered, uptime;
		json_t *reply = probe_ask(&vm->probe, "hello", QEMU_PROBE_MS);

		answered = raw_ns();
		if (!reply) {
			qemu_explain(vm);
			return -1;
		}
		uptime = lab_number(reply, "uptime_ns", 0);
		json_decref(reply);
		if (uptime - answered > ahead->least)
			ahead->least = uptime - answered;
		if (uptime - asked < ahead->most)
			ahead->most = uptime - asked;
	}
	return 0;
}

int blackout_know_host(struct run *run, bool peer)
{
	struct host *host = peer ? run->there : run->here;
	json_t *answer;

	if (!host->known && !peer)
		host_learn(host, true);
	if (!host->known && peer) {
		answer = peer_ask(run->lab->peer, json_pack("{s:b}", "host", 1), LEARN_MS);
		if (!answer)
			return -1;
		host_from_json(host, answer);
		json_decref(answer);
	}
	if (host->known)
		return 0;
	return lab_fail(run->lab, "%s rate is not known, and so is no time on it: %s", peer ? "The peer's" : "This host's", host->reason);
}

int blackout_begin(struct run *run, struct qemu *from, struct blackout *blackout)
{
	blackout->jumped_ns = run->verdict.jump_sum;
	blackout->by_page = run->verdict.by_page;
	return blackout_ask_ahead(from, &blackout->before) || run_begin(run, from) ? -1 : 0;
}

struct between blackout_gained(const struct blackout *blackout)
{
	return (struct between){ blackout->after.least - blackout->before.most, blackout->after.most - blackout->before.least };
}

/* --- beforehand ---------------------------------------------------------------------------------- */

/* The last one, or NULL with a sentence. */
static json_t *last_event(struct run *run, struct qemu *vm, const char *event)
{
	json_t *last;

	if (qemu_find_events(vm, event, &last) == 0)
		lab_fail(run->lab, "%s's preload has not told of any \"%s\".", vm->name, event);
	return last;
}

/* The command's JSON, and in `path` the file that holds it (NULL: none). NULL with a sentence. */
static json_t *ask_pvclock(struct run *run, bool on_peer, const char *const *words, const char *path)
{
	json_error_t error;
	char *text = NULL;
	json_t *json;

	if (run_program(run, on_peer, words, &text))
		return NULL;
	json = json_loads(text, 0, &error);
	if (!json)
		lab_fail(run->lab, "pvclock %s told no JSON (%s): %.200s", words[1], error.text, text);
	free(text);
	if (json && path && json_dump_file(json, path, JSON_INDENT(2))) {
		lab_fail(run->lab, "Cannot write %s.", path);
		json_decref(json);
		json = NULL;
	}
	return json;
}

/* When it was saved, which is not in the plan. */
static int read_record(struct run *run, const char *path, struct blackout *blackout)
{
	const char *const words[] = { run->lab->pvclock, "record", "show", "--json", path, NULL };
	json_t *record = ask_pvclock(run, false, words, NULL), *time = json_object_get(record, "time");

	blackout->saved_at = strtoull(lab_text(time, "at", "0"), NULL, 10);
	blackout->saved_bracket_ns = lab_number(time, "bracket_ns", 0);
	json_decref(record);
	return !record ? -1 : blackout->saved_at ? 0 : lab_fail(run->lab, "The record does not say when it was made.");
}

/*
 * In two steps, so that the instant that the plan is for is known: the host is described, by itself, and then asked of; what the
 * second says is what both in one would have said.
 */
static int plan(struct run *run, bool on_peer, const char *record, struct blackout *blackout)
{
	char host[LAB_PATH], answer[LAB_PATH];
	const char *const describe[] = { run->lab->pvclock, "preflight", "--print-destination", "--mode", run->who, NULL };
	const char *const ask[] = { run->lab->pvclock, "preflight", record, "--as", "migration", "--policy", blackout->policy,
				    "--destination", host, "--json", NULL };
	json_t *destination, *said;
	const char *missing = NULL;
	bool whole = false;

	snprintf(host, sizeof(host), "%.300s/%s-%s.destination", run->lab->logs, run->scenario, run->who);
	snprintf(answer, sizeof(answer), "%.300s/%s-%s.preflight", run->lab->logs, run->scenario, run->who);
	destination = ask_pvclock(run, on_peer, describe, host);
	said = destination ? ask_pvclock(run, false, ask, answer) : NULL;
	if (said)
		whole = foretold_plan(said, destination, &blackout->said, &missing);
	if (said && !whole)
		lab_fail(run->lab, "Preflight does not say %s.", missing);
	json_decref(destination);
	json_decref(said);
	return whole ? 0 : -1;
}

int blackout_foretell(struct run *run, struct qemu *from, bool on_peer, struct blackout *blackout)
{
	json_t *pause = last_event(run, from, "pause");
	char path[LAB_PATH];

	if (!pause)
		return -1;
	snprintf(path, sizeof(path), "%.400s/%016llx.pvclock", run->lab->logs, (unsigned long long)lab_number(pause, "tsc", 0));
	json_decref(pause);
	return read_record(run, path, blackout) || plan(run, on_peer, path, blackout) ? -1 : 0;
}

/* --- afterwards ------------------------------------------------------------------------------------ */

struct between blackout_stood(const struct run *run, const struct blackout *blackout)
{
	uint64_t arrived = blackout->happened.host_tsc;

	return (struct between){
		foretold_ns(&run->here->slope, blackout->saved_at, arrived - (uint64_t)blackout->apart.most),
		foretold_ns(&run->here->slope, blackout->saved_at, arrived - (uint64_t)blackout->apart.least),
	};
}

/* What the guest's clock was said to gain on this host's, against what it shows. */
static int judge_guest(struct run *run, const struct blackout *blackout, const struct foretold_limits *limits)
{
	const struct foretold *said = &blackout->said, *happened = &blackout->happened;
	struct between stood = blackout_stood(run, blackout), gained = blackout_gained(blackout);
	int64_t since = foretold_ns(limits->host, said->host_tsc, happened->host_tsc), measured = said->measured_ns + since;
	int64_t counts = said->advances && measured > 0 ? measured : 0;
	int64_t within = (stood.most + since) / 1000000 * (SINCE_BOOT_PPM + limits->slew_ppm) + blackout->saved_bracket_ns +
			 said->bracket_ns + happened->bracket_ns;

	if (gained.least > gained.most)
		return lab_fail(run->lab, "The guest's clock and its host's part by themselves.");
	if (counts - stood.least >= gained.least - within && counts - stood.most <= gained.most + within)
		return 0;
	return lab_fail(run->lab, "The guest's clock was said to gain %.6f s on its host's, and gained %.6f to %.6f s.",
			(double)(counts - stood.most) / 1e9, (double)gained.least / 1e9, (double)gained.most / 1e9);
}

int blackout_judge(struct run *run, struct qemu *to, struct foretold_limits limits, struct blackout *blackout)
{
	json_t *arrive;
	const char *missing;
	char sentence[256];
	bool whole;

	limits.host = to->peer ? &run->there->slope : &run->here->slope;
	limits.jump_ns = strcmp(run->who, "own") ? 1 : 0;
	if (blackout_ask_ahead(to, &blackout->after))
		return -1;
	if (!strcmp(run->who, "stock"))
		return 0;
	arrive = last_event(run, to, "arrive");
	if (!arrive)
		return -1;
	whole = foretold_arrival(arrive, &blackout->happened, &missing);
	json_decref(arrive);
	if (!whole)
		return lab_fail(run->lab, "The preload's log of the arrival does not say %s.", missing);
	blackout->happened.jump_ns = run->verdict.jump_sum - blackout->jumped_ns;
	if (run->verdict.by_page == blackout->by_page)
		return lab_fail(run->lab, "The guest cannot read its page, so nobody knows whether the clock jumped.");
	foretold_judge(&blackout->said, &blackout->happened, &limits, sentence);
	if (sentence[0])
		return lab_fail(run->lab, "Preflight and what happened differ in %s", sentence);
	return judge_guest(run, blackout, &limits);
}

/* --- any arrival ------------------------------------------------------------------------------------ */

/* The host that a VM arrived on, described once; what it says of the time is of then, and not used. A new reference, or NULL. */
static json_t *describe(struct run *run, bool on_peer, char path[LAB_PATH])
{
	const char *const words[] = { run->lab->pvclock, "preflight", "--print-destination", "--mode", run->who, NULL };
	json_t *known;

	snprintf(path, LAB_PATH, "%.300s/%s-%s.destination", run->lab->work, on_peer ? "peer" : "here", run->who);
	known = json_load_file(path, 0, NULL);
	return known ? known : ask_pvclock(run, on_peer, words, path);
}

/* What preflight says of the record by which a VM arrived. 0, or -1 with a sentence. */
static int say_of(struct run *run, struct qemu *vm, const json_t *arrive, const char *as, struct foretold *said)
{
	char record[LAB_PATH], host[LAB_PATH];
	const char *const ask[] = { run->lab->pvclock, "preflight", record, "--as", as, "--destination", host, "--json", NULL };
	json_t *destination = describe(run, vm->peer != NULL, host), *plan;
	const char *missing = NULL;
	bool whole;

	snprintf(record, sizeof(record), "%.400s/%016llx.pvclock", run->lab->logs, (unsigned long long)lab_number(arrive, "tsc", 0));
	plan = destination ? ask_pvclock(run, false, ask, NULL) : NULL;
	whole = plan && foretold_plan(plan, destination, said, &missing);
	if (plan && !whole)
		lab_fail(run->lab, "Preflight does not say %s.", missing);
	json_decref(destination);
	json_decref(plan);
	return whole ? 0 : -1;
}

/* Steer moves a clock by 1 ns; and one that is read in units goes on within one of where it was. */
static int64_t jump_limit_ns(const struct run *run)
{
	unsigned int unit = verdict_unit_ns(&run->verdict);

	return unit > 1 ? unit : strcmp(run->who, "own") ? 1 : 0;
}

int blackout_check_arrival(struct run *run, struct qemu *vm, int64_t jump_ns)
{
	struct foretold said, happened;
	const char *missing;
	char sentence[256];
	json_t *arrive;
	unsigned int arrivals = qemu_find_events(vm, "arrive", &arrive);
	bool first = vm->arrivals == 0 && vm->arrived, recorded = json_is_true(json_object_get(arrive, "recorded"));
	int result = 0;

	/* what counts time has another name by then, and is judged where it is about time */
	if (arrivals > vm->arrivals && recorded && lab_number(arrive, "counted_ns", 0) == 0) {
		if (!foretold_arrival(arrive, &happened, &missing))
			result = lab_fail(run->lab, "The preload's log of the arrival does not say %s.", missing);
		else
			result = say_of(run, vm, arrive, first ? "migration" : "snapshot", &said);
		/* what is read is a guest's guest's clock, maybe; preflight speaks of its machine's, which nobody reads */
		happened.jump_ns = result == 0 && run->nested ? said.jump_ns : jump_ns;
		if (result == 0)
			foretold_judge_function(&said, &happened, jump_limit_ns(run), sentence);
		if (result == 0 && sentence[0])
			result = lab_fail(run->lab, "Preflight and what happened differ in %s", sentence);
		run->foretold += result == 0;
	}
	vm->arrivals = arrivals;
	json_decref(arrive);
	return result;
}
