/* SPDX-License-Identifier: MIT */
#include "run.h"

#include "blackout.h"

#include "peer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DRIFT_INEXACT_PPB 0.25 /* P3 */
#define PROGRAM_SAYS_MAX 65536

unsigned int run_events(const struct run *run, unsigned int usual)
{
	return run->events ? run->events : usual;
}

unsigned int run_cpus(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1;
}

void run_note(struct run *run, const char *key, json_t *value)
{
	json_object_set_new(run->extra, key, value);
}

static int failed(struct qemu *vm)
{
	qemu_explain(vm);
	return -1;
}

static json_t *ask(struct run *run, struct qemu *vm, const char *command)
{
	json_t *reply;

	if (run->bare)
		return bare_ask(run->bare, vm, command);
	reply = probe_ask(&vm->probe, command, QEMU_PROBE_MS);
	if (!reply)
		qemu_explain(vm);
	return reply;
}

int run_meet(struct run *run, struct qemu *vm)
{
	json_t *reply = ask(run, vm, "hello");

	if (!reply)
		return -1;
	verdict_hello(&run->verdict, reply);
	json_decref(reply);
	return 0;
}

int run_boot(struct run *run, struct qemu *vm, const struct qemu_options *options)
{
	int64_t start = lab_now_ms();

	if (qemu_start(vm, run->lab, run->scenario, options) ||
	    (run->bare ? bare_wait_ready(run->bare, vm) : qemu_wait_ready(vm, 1)))
		return -1;
	if (run->boot_s <= 0)
		run->boot_s = (double)(lab_now_ms() - start) / 1000;
	return run_meet(run, vm);
}

void run_part(struct run *run, struct qemu *vm)
{
	char *text = vm->lab ? qemu_read(vm, vm->preload) : NULL;

	if (text)
		verdict_log(&run->verdict, text, vm->arrived);
	free(text);
	qemu_stop(vm);
}

int run_leave(struct run *run, struct qemu *vm)
{
	json_t *cost = run->bare ? NULL : ask(run, vm, "cost"), *report = cost || run->bare ? ask(run, vm, "report") : NULL;

	if (cost)
		verdict_cost(&run->verdict, cost);
	if (report)
		verdict_report(&run->verdict, report);
	json_decref(cost);
	json_decref(report);
	if (!report)
		return -1;
	run_part(run, vm);
	return 0;
}

int run_begin(struct run *run, struct qemu *vm)
{
	char command[32];
	json_t *reply;

	snprintf(command, sizeof(command), "begin e%u", ++run->number);
	reply = ask(run, vm, command);
	json_decref(reply);
	return reply ? 0 : -1;
}

/* The guest's TSC when its clock was given another rate, as the preload tells it; 0: it was not, or nobody tells. */
static uint64_t switched_at(struct qemu *vm)
{
	json_t *last;
	uint64_t tick = 0;
	double rate;

	qemu_find_events(vm, "arrive", &last);
	rate = json_number_value(json_object_get(last, "rate_ppb"));
	if (rate < 0 || rate > 0)
		tick = (uint64_t)lab_number(last, "tsc", 0);
	json_decref(last);
	return tick;
}

int run_end(struct run *run, struct qemu *vm)
{
	uint64_t tick = run->nested && !run->nested_known ? 0 : switched_at(vm);
	int64_t jumped = run->verdict.jump_sum;
	unsigned int by_page = run->verdict.by_page;
	char command[48];
	json_t *reply;
	bool known;

	if (tick && run->nested)
		tick += run->nested_ahead;
	snprintf(command, sizeof(command), tick ? "end e%u %llu" : "end e%u", run->number, (unsigned long long)tick);
	reply = ask(run, vm, command);
	if (!reply)
		return -1;
	known = verdict_event(&run->verdict, reply);
	json_decref(reply);
	if (!known)
		return lab_fail(run->lab, "The guest cannot tell what event %u did: it has neither a page nor enough readings.",
				run->number);
	if (!strcmp(run->who, "stock") || run->unjudged || run->verdict.by_page == by_page)
		return 0;
	return blackout_check_arrival(run, vm, run->verdict.jump_sum - jumped);
}

int run_stop_cont(struct run *run, struct qemu *vm, int ms)
{
	int64_t start;

	if (qmp_do(&vm->qmp, "stop", NULL, QEMU_COMMAND_MS))
		return failed(vm);
	start = lab_now_ns();
	if (lab_sleep(run->lab, ms))
		return -1;
	if (qmp_do(&vm->qmp, "cont", NULL, QEMU_COMMAND_MS))
		return failed(vm);
	verdict_blackout(&run->verdict, lab_now_ns() - start);
	return 0;
}

int run_save_load(struct run *run, struct qemu *vm)
{
	int64_t start = lab_now_ns();

	if (qmp_human(&vm->qmp, "savevm lab", RUN_SAVE_MS) || qmp_human(&vm->qmp, "loadvm lab", RUN_SAVE_MS))
		return failed(vm);
	verdict_blackout(&run->verdict, lab_now_ns() - start);
	return 0;
}

int run_migrate_start(struct run *run, struct qemu *from, const char *uri)
{
	(void)run;
	return qmp_do(&from->qmp, "migrate", json_pack("{s:s}", "uri", uri), QEMU_COMMAND_MS) ? failed(from) : 0;
}

int run_migrate_wait(struct run *run, struct qemu *from, const char *status, int timeout_ms)
{
	int64_t until = lab_until(run->lab, timeout_ms);

	for (;;) {
		json_t *answer = qmp_command(&from->qmp, "query-migrate", NULL, QEMU_COMMAND_MS);
		char is[32], reason[160];
		int64_t downtime = lab_number(answer, "downtime", 0);

		snprintf(is, sizeof(is), "%s", lab_text(answer, "status", "none"));
		snprintf(reason, sizeof(reason), "%s", lab_text(answer, "error-desc", "no reason given"));
		json_decref(answer);
		if (!answer)
			return failed(from);
		if (!strcmp(is, status)) {
			if (!strcmp(is, "completed"))
				verdict_blackout(&run->verdict, downtime * 1000000);
			return 0;
		}
		if (!strcmp(is, "failed") || !strcmp(is, "completed") || !strcmp(is, "cancelled")) {
			lab_fail(run->lab, "The migration is \"%s\", not \"%s\": %s.", is, status, reason);
			return failed(from);
		}
		if (lab_now_ms() >= until) {
			lab_fail(run->lab, "The migration did not become \"%s\" in time; it is \"%s\".", status, is);
			return failed(from);
		}
		if (lab_sleep(run->lab, 100))
			return -1;
	}
}

int run_migrate(struct run *run, struct qemu *from, struct qemu *to, const char *uri)
{
	if (run_migrate_start(run, from, uri) || run_migrate_wait(run, from, "completed", RUN_MIGRATE_MS))
		return -1;
	return qemu_wait_status(to, "running", QEMU_COMMAND_MS * 2);
}

/* The last words of a program that ended otherwise than with 0. */
static int complain(struct run *run, const char *name, const char *ending, char *text)
{
	lab_fail(run->lab, "%s ended with %s: %.300s", name, ending, text ? lab_last_line(text) : "");
	free(text);
	return -1;
}

static int run_here(struct run *run, char *const *argv, const char *log, char ending[32])
{
	struct process process;
	int result = process_start(run->lab, &process, argv, log);

	if (result == 0)
		result = process_wait(run->lab, &process, lab_until(run->lab, RUN_PROGRAM_MS));
	if (result == 0)
		process_ending(&process, ending);
	process_kill(&process);
	return result;
}

static int run_there(struct run *run, char *const *argv, const char *log, char ending[32])
{
	int64_t until = lab_until(run->lab, RUN_PROGRAM_MS);
	struct peer *peer = run->lab->peer;
	pid_t pid = peer_spawn(peer, argv, log);
	bool ended = false;

	while (pid > 0 && !ended && lab_now_ms() < until && lab_sleep(run->lab, 100) == 0)
		ended = peer_ended(peer, pid, ending);
	if (pid > 0)
		peer_kill(peer, pid);
	return ended ? 0 : lab_fail(run->lab, "%s did not end on the peer.", argv[0]);
}

int run_program(struct run *run, bool on_peer, const char *const *words, char **said)
{
	char *const *argv = (char *const *)(uintptr_t)words;
	char log[LAB_PATH], ending[32] = "", *text;

	snprintf(log, sizeof(log), "%.400s/program.log", on_peer ? "/tmp" : run->lab->work);
	if (on_peer ? run_there(run, argv, log, ending) : run_here(run, argv, log, ending))
		return -1;
	text = on_peer ? peer_log(run->lab->peer, log) : lab_read_tail(log, PROGRAM_SAYS_MAX);
	if (strcmp(ending, "exit status 0"))
		return complain(run, words[0], ending, text);
	if (said)
		*said = text;
	else
		free(text);
	return 0;
}

int run_make_disk(struct run *run, const char *directory, char *path)
{
	const char *const words[] = { "qemu-img", "create", "-q", "-f", "qcow2", path, "1M", NULL };

	snprintf(path, LAB_PATH, "%.400s/snapshots.qcow2", directory);
	return run_program(run, false, words, NULL);
}

/* --- the row -------------------------------------------------------------------------------- */

/* A slope that 32 bits cannot hold is promised to within their resolution. */
static double drift_limit(const struct run *run)
{
	struct pvclock_line line;
	bool exact = true;

	if (run->drift_limit_ppb > 0 || !run->here->known ||
	    !pvclock_line_make(&line, 0, 0, &run->here->slope, &exact) || exact)
		return run->drift_limit_ppb;
	return DRIFT_INEXACT_PPB;
}

static void take_drift(struct run *run, struct row *row)
{
	row->drift_limit_ppb = drift_limit(run);
	row->drift_known = run->drift_known;
	row->drift_ppb = run->drift_ppb;
	if (!run->drift_taken && run->here->known)
		row->drift_known = verdict_drift(&run->verdict, &run->here->slope, &row->drift_ppb);
}

/* [[seconds, ns], ...]: what the demo draws. */
static void note_trace(struct run *run)
{
	const struct verdict *verdict = &run->verdict;
	json_t *trace = json_array();

	for (unsigned int i = 0; i < verdict->traced; i++)
		json_array_append_new(trace, json_pack("[f, I]", (double)verdict->trace[i].ms / 1000,
						       (json_int_t)verdict->trace[i].ns));
	run_note(run, "trace", trace);
	run_note(run, "trace_seconds", json_real((double)(lab_now_ms() - verdict->met_ms) / 1000));
}

static void take_extra(struct run *run)
{
	const struct verdict *verdict = &run->verdict;

	if (verdict->events)
		run_note(run, "judged_by", json_string(verdict->by_page == verdict->events ? "page" :
						       verdict->by_page ? "page, measured" : "measured"));
	if (run->foretold)
		run_note(run, "foretold", json_integer(run->foretold));
	run_note(run, "measured_ns_max", json_integer(verdict->measured_max));
	run_note(run, "measured_bracket_ns", json_integer(verdict->bracket_max));
	run_note(run, "contradicted", json_integer(verdict->contradicted));
	run_note(run, "realtime_step_ns_max", json_integer(verdict->realtime_step_max));
	run_note(run, "boottime_step_ns_max", json_integer(verdict->boottime_step_max));
	run_note(run, "boot_s", json_real(round(run->boot_s * 100) / 100));
	run_note(run, "clocksource", json_string(verdict->clocksource));
	run_note(run, "guest_kernel", json_string(verdict->kernel));
	run_note(run, "host_clocksource", json_string(run->here->clocksource));
	if (verdict->cost_known) {
		run_note(run, "vdso", json_boolean(verdict->vdso));
		run_note(run, "vdso_ticks", json_integer(verdict->vdso_ticks));
		run_note(run, "syscall_ticks", json_integer(verdict->syscall_ticks));
	}
	if (verdict->rates)
		run_note(run, "rate_change_ppb", json_real(verdict->rate_ppb));
	if (verdict->mode[0]) {
		run_note(run, "corrections", json_integer(verdict->corrections));
		run_note(run, "residual_ns_max", json_integer(verdict->residual_max));
		run_note(run, "moved_ticks", json_integer(verdict->moved_ticks));
	}
	if (verdict->lost[0])
		run_note(run, "lost", json_string(verdict->lost));
}

static void name_row(const struct run *run, struct row *row)
{
	snprintf(row->scenario, sizeof(row->scenario), "%s", run->scenario);
	snprintf(row->who, sizeof(row->who), "%s", run->who);
	snprintf(row->mode, sizeof(row->mode), "%s", run->who);
	snprintf(row->where, sizeof(row->where), "%s", run->lab->where);
	snprintf(row->kernel, sizeof(row->kernel), "%s", run->here->kernel);
}

struct row *run_bring(struct run *run)
{
	struct row *row;

	run->brought = calloc(1, sizeof(*run->brought));
	row = run->brought ? rows_add(run->brought) : NULL;
	if (row)
		name_row(run, row);
	else
		lab_fail(run->lab, "Memory is out.");
	return row;
}

void run_row(struct run *run, struct row *row)
{
	const struct verdict *verdict = &run->verdict;

	name_row(run, row);
	snprintf(row->mode, sizeof(row->mode), "%s",
		 verdict->mode[0]	     ? verdict->mode
		 : strcmp(run->who, "stock") ? "?"
					     : "stock");
	snprintf(row->reason, sizeof(row->reason), "%s", verdict->reason);
	row->events = verdict->events;
	row->vcpus = verdict->cpus;
	row->rate_changes = verdict->rates;
	row->unit_ns = verdict_unit_ns(verdict);
	row->jump_ns_max = verdict->jump_max;
	row->jump_ns_total = verdict_total(verdict);
	row->backwards = verdict_backwards(verdict);
	row->unannounced = verdict->unannounced > verdict->reported_unannounced ? verdict->unannounced
										: verdict->reported_unannounced;
	row->stable = verdict_stable(verdict);
	row->tscs_differ = run->tscs_differ;
	row->blackout_us_median = verdict_blackout_us(verdict);
	row->reads = verdict->samples;
	row->checked = verdict->by_page;
	row->line = verdict->last;
	/* steering needs a clock that KVM calls stable; where there is none the preload says so, and promises nothing
	 */
	row->unpromised = run->unjudged || (strcmp(run->who, "own") && !strcmp(verdict->mode, "aside"));
	take_drift(run, row);
	if (verdict->traced)
		note_trace(run);
	take_extra(run);
	row->extra = json_incref(run->extra);
}
