/* SPDX-License-Identifier: MIT */
#include "scenario.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define HOTPLUG_MS 60000
#define SOAK_GROWTH_KB 16384 /* the guest itself touches a few MB more of its memory in that time */

static int play_boot(struct run *run)
{
	struct qemu *vm = &run->vm[0];
	const struct qemu_options guest = { .name = "guest", .who = run->who, .cpus = run_cpus() };

	if (run_boot(run, vm, &guest) || run_begin(run, vm) || run_end(run, vm)) /* nothing happens, and nothing may */
		return -1;
	return run_leave(run, vm);
}

static int play_pause(struct run *run)
{
	struct qemu *vm = &run->vm[0];
	const struct qemu_options guest = { .name = "guest", .who = run->who, .cpus = run_cpus() };

	if (run_boot(run, vm, &guest))
		return -1;
	for (unsigned int i = 0; i < run_events(run, 20); i++)
		if (run_begin(run, vm) || run_stop_cont(run, vm, (int)run->lab->pause_ms) || run_end(run, vm))
			return -1;
	return run_leave(run, vm);
}

/* The machine starts anew: its clock may too. What must hold is that the new life's page is valid, stable and true. */
static int play_reset(struct run *run)
{
	struct qemu *vm = &run->vm[0];
	const struct qemu_options guest = { .name = "guest", .who = run->who, .cpus = run_cpus() };

	if (run_boot(run, vm, &guest))
		return -1;
	for (unsigned int i = 0; i < run_events(run, 2); i++) {
		unsigned int lives = vm->probe.lives;
		int64_t start = lab_now_ns();

		if (qmp_do(&vm->qmp, "system_reset", NULL, QEMU_COMMAND_MS)) {
			qemu_explain(vm);
			return -1;
		}
		if (qemu_wait_ready(vm, lives + 1))
			return -1;
		verdict_blackout(&run->verdict, lab_now_ns() - start);
		if (run_meet(run, vm) || run_begin(run, vm) || run_stop_cont(run, vm, (int)run->lab->pause_ms) ||
		    run_end(run, vm))
			return -1;
	}
	run_note(run, "lives", json_integer(run->verdict.lives));
	return run_leave(run, vm);
}

/* --- hot-plug --------------------------------------------------------------------------------- */

/* The properties of the first empty place, with what device_add wants besides. */
static json_t *empty_place(struct qemu *vm)
{
	json_t *places = qmp_command(&vm->qmp, "query-hotpluggable-cpus", NULL, QEMU_COMMAND_MS), *place, *found = NULL;
	size_t i;

	json_array_foreach(places, i, place) {
		if (json_object_get(place, "qom-path"))
			continue;
		found = json_copy(json_object_get(place, "props"));
		json_object_set_new(found, "driver", json_string(lab_text(place, "type", "")));
		json_object_set_new(found, "id", json_string("added"));
		break;
	}
	if (places && !found)
		lab_fail(vm->lab, "QEMU knows of no place for another CPU.");
	json_decref(places);
	return found;
}

/* Until the guest's probe samples on so many CPUs. */
static int wait_cpus(struct run *run, struct qemu *vm, unsigned int cpus)
{
	int64_t until = lab_until(run->lab, HOTPLUG_MS);

	for (;;) {
		json_t *reply = probe_ask(&vm->probe, "report", QEMU_PROBE_MS);
		int64_t is = lab_number(reply, "cpus", 0);

		json_decref(reply);
		if (is == cpus)
			return 0;
		if (reply && lab_now_ms() >= until)
			lab_fail(run->lab, "The guest has %lld CPUs, not %u, after a hot-plug.", (long long)is, cpus);
		if (!reply || lab_now_ms() >= until) {
			qemu_explain(vm);
			return -1;
		}
		if (lab_sleep(run->lab, 100))
			return -1;
	}
}

static int plug(struct run *run, struct qemu *vm)
{
	json_t *place = empty_place(vm);

	if (!place || qmp_do(&vm->qmp, "device_add", place, QEMU_COMMAND_MS)) {
		qemu_explain(vm);
		return -1;
	}
	return wait_cpus(run, vm, 2);
}

/* A guest may refuse to give a CPU back: that is its right, and no fault. True: it did give it back. */
static bool unplug(struct run *run, struct qemu *vm)
{
	json_t *gone;

	qmp_forget_events(&vm->qmp);
	if (qmp_do(&vm->qmp, "device_del", json_pack("{s:s}", "id", "added"), QEMU_COMMAND_MS))
		return false;
	gone = qmp_wait_event(&vm->qmp, "DEVICE_DELETED", 10000);
	json_decref(gone);
	return gone && wait_cpus(run, vm, 1) == 0;
}

static int play_hotplug(struct run *run)
{
	struct qemu *vm = &run->vm[0];
	const struct qemu_options guest = { .name = "guest", .who = run->who, .cpus = 1, .maxcpus = 2 };
	unsigned int events = run_events(run, 2);
	bool removed = true;

	if (run_boot(run, vm, &guest))
		return -1;
	for (unsigned int i = 0; i < events && removed; i++) {
		if (run_begin(run, vm) || plug(run, vm) || run_end(run, vm))
			return -1;
		/* the new CPU lives through a pause like the old one */
		if (run_begin(run, vm) || run_stop_cont(run, vm, (int)run->lab->pause_ms) || run_end(run, vm))
			return -1;
		if (i + 1 < events) {
			if (run_begin(run, vm))
				return -1;
			removed = unplug(run, vm);
			if (!removed && run->lab->interrupted)
				return -1;
			if (run_end(run, vm))
				return -1;
		}
	}
	run_note(run, "unplugged", json_boolean(removed));
	if (!removed)
		run_note(run, "unplug_reason", json_string(run->lab->error));
	return run_leave(run, vm);
}

/* --- soak -------------------------------------------------------------------------------------- */

/* 200 pauses and 50 snapshots of one VM: nothing adds up, in its clock or in QEMU. */
static int play_soak(struct run *run)
{
	struct qemu *vm = &run->vm[0];
	long descriptors = -1, memory = -1, descriptors_end = -1, memory_end = -1;
	unsigned int cycles = run_events(run, 50);
	char disk[LAB_PATH];

	if (run_make_disk(run, run->lab->work, disk) ||
	    run_boot(run, vm,
		     &(struct qemu_options){ .name = "guest", .who = run->who, .disk = disk, .memory_mb = 192 }))
		return -1;
	for (unsigned int i = 0; i < cycles; i++) {
		for (unsigned int j = 0; j < 4; j++)
			if (run_begin(run, vm) || run_stop_cont(run, vm, 5) || run_end(run, vm))
				return -1;
		if (run_begin(run, vm) || run_save_load(run, vm) || run_end(run, vm))
			return -1;
		if (i == 0 && qemu_resources(vm, &descriptors, &memory)) /* what it allocates once, it has by now */
			return -1;
	}
	if (qemu_resources(vm, &descriptors_end, &memory_end))
		return -1;
	run_note(run, "descriptors", json_pack("[i,i]", (int)descriptors, (int)descriptors_end));
	run_note(run, "memory_kb", json_pack("[i,i]", (int)memory, (int)memory_end));
	if (descriptors_end > descriptors)
		return lab_fail(run->lab, "QEMU's descriptors grew from %ld to %ld in %u cycles.", descriptors,
				descriptors_end, cycles);
	if (memory_end > memory + SOAK_GROWTH_KB)
		return lab_fail(run->lab, "QEMU grew from %ld to %ld KB in %u cycles.", memory, memory_end, cycles);
	return run_leave(run, vm);
}

/* --- the table ----------------------------------------------------------------------------------- */

const struct scenario scenarios[] = {
	{ "linux-boot", "boots a guest: clocksource, stable, vDSO", 0, true, 150, play_boot },
	{ "linux-pause", "stop and cont, 20 times", 0, true, 240, play_pause },
	{ "linux-snapshot", "savevm and loadvm; to a file and back", 0, true, 400, play_snapshot },
	{ "snapshot-advance", "from a file, by a clock that moved on an hour, then one that is behind; counted", NEEDS_SHARES, false, 300,
	  play_snapshot_advance },
	{ "snapshot-freeze", "the same, not counted", NEEDS_SHARES, false, 300, play_snapshot_freeze },
	{ "migrate-clock-ahead", "to hosts whose clock is ahead: 2 s wrong, leap second inserted, smeared",
	  NEEDS_SHARES, false, 600, play_clock_ahead },
	{ "migrate-clock-behind", "to hosts whose clock is behind: 2 s wrong, leap second deleted, smeared",
	  NEEDS_SHARES, false, 600, play_clock_behind },
	{ "linux-migrate-same-rate", "between two QEMUs on one host, and back", 0, true, 400, play_migrate_same_rate },
	{ "linux-reset", "system_reset: the guest registers anew", 0, true, 400, play_reset },
	{ "linux-hotplug-cpu", "adds, removes and adds a CPU", 0, true, 300, play_hotplug },
	{ "linux-migrate-new-rate", "to a host of another TSC rate, and back", NEEDS_PEER, false, 600,
	  play_migrate_new_rate },
	{ "two-hosts-chrony", "to a host that chronyd keeps by this one's clock, and back; counted",
	  NEEDS_PEER | NEEDS_PRELOAD | NEEDS_SHARES, false, 600, play_two_hosts },
	{ "deadline-across-migration", "armed TSC deadlines of a guest of ours, between two QEMUs on one host", NEEDS_KVM, true, 300,
	  play_deadlines },
	{ "deadline-new-rate", "the same, to a host of another TSC rate, and back", NEEDS_KVM | NEEDS_PEER, false, 300,
	  play_deadlines_new_rate },
	{ "deadline-ns", "deadlines that the host keeps in ns, through live updates and pauses of our own VMM", NEEDS_KVM, true, 300,
	  play_deadline_ns },
	{ "vcpu-offsets", "a guest whose vCPUs' TSCs differ, between two QEMUs on one host", NEEDS_KVM, true, 300, play_vcpu_offsets },
	{ "nested", "a guest's guest; the middle one's clock is kvm-clock", NEEDS_KVM | NEEDS_SHARES, false, 500,
	  play_nested },
	{ "nested-hyperv", "the same; the middle one's clock is Hyper-V's TSC page", NEEDS_KVM | NEEDS_SHARES, false,
	  500, play_nested_hyperv },
	{ "nested-live-update", "a guest's guest; the middle one goes on in another QEMU, and back", NEEDS_KVM | NEEDS_OWN, false, 600, play_nested_live_update },
	{ "nested-migrate-new-rate", "a guest's guest; the middle one goes to a host of another TSC rate, and back: its pages are made right",
	  NEEDS_KVM | NEEDS_PEER | NEEDS_OWN, false, 600, play_nested_new_rate },
	{ "nested-told-new-rate", "the same; the middle one is told alone", NEEDS_KVM | NEEDS_PEER | NEEDS_PRELOAD | NEEDS_OWN, false, 600, play_nested_told },
	{ "nested-untold-new-rate", "the same; nobody says anything", NEEDS_KVM | NEEDS_PEER | NEEDS_PRELOAD | NEEDS_OWN, false, 600, play_nested_untold },
	{ "hyperv-l1", "a guest's guest; the middle one's clock is Hyper-V's page, and it goes on in another QEMU, and back", NEEDS_KVM | NEEDS_OWN, false, 600,
	  play_hyperv_l1 },
	{ "hyperv-l1-new-rate", "the same, to a host of another TSC rate, and back", NEEDS_KVM | NEEDS_PEER | NEEDS_PRELOAD | NEEDS_OWN, false, 600, play_hyperv_l1_new_rate },
	{ "hyperv-l1-told-new-rate", "the same, re-enlightened: its guest is its KVM's own, which Linux's KVM puts right", NEEDS_KVM | NEEDS_PEER | NEEDS_OWN, false, 600,
	  play_reenlighten },
	{ "hyperv-l1-told-own-new-rate", "the same; its guest is the preload's in there, which looks at the page", NEEDS_KVM | NEEDS_PEER | NEEDS_PRELOAD | NEEDS_OWN, false, 600,
	  play_reenlighten_own },
	{ "hyperv-l1-told-tree-new-rate", "the same; this host makes that guest's page right besides", NEEDS_KVM | NEEDS_PEER | NEEDS_PRELOAD | NEEDS_OWN, false, 600,
	  play_reenlighten_tree },
	{ "hyperv-l2", "a guest on Hyper-V's TSC page: stop and cont, savevm and loadvm, between two QEMUs", NEEDS_KVM, false, 400, play_hyperv },
	{ "hyperv-new-rate", "the same, to a host of another TSC rate, and back", NEEDS_KVM | NEEDS_PEER, false, 600, play_hyperv_new_rate },
	{ "host-suspend", "the host sleeps (S3), 4 s each: not counted, counted", NEEDS_KVM | NEEDS_SLEEP, true, 300, play_host_suspend },
	{ "suspend-told", "the same under a guest of ours, which is told: in memory, by an interrupt, before it runs", NEEDS_KVM | NEEDS_SLEEP, true,
	  300, play_suspend_told },
	{ "watchdog-quiet", "the host sleeps for a minute, and the guest's watchdogs say nothing", NEEDS_KVM | NEEDS_SLEEP, false, 600,
	  play_watchdog_quiet },
	{ "linux-stock-peer", "from a QEMU with the preload to one without, and back", NEEDS_PRELOAD, false, 400,
	  play_stock_peer },
	{ "linux-faults", "panic, kill -9 in mid-migration, a full disk", NEEDS_PRELOAD, false, 900, play_faults },
	{ "linux-soak", "200 pauses and 50 snapshots of one VM", 0, false, 900, play_soak },
};
const unsigned int scenario_count = sizeof(scenarios) / sizeof(scenarios[0]);

const struct scenario *scenario_find(const char *name)
{
	for (unsigned int i = 0; i < scenario_count; i++)
		if (!strcmp(scenarios[i].name, name))
			return &scenarios[i];
	return NULL;
}

const char *scenario_lacks(const struct scenario *scenario, const struct lab *lab, const char *who)
{
	struct stat status;

	if ((scenario->needs & NEEDS_PEER) && !lab->peer)
		return "it needs a second host; name one with --peer.";
	if ((scenario->needs & NEEDS_KVM) && strcmp(lab->accel, "kvm"))
		return "it needs KVM.";
	if ((scenario->needs & NEEDS_PRELOAD) && !strcmp(who, "stock"))
		return "there is nothing of it in stock.";
	if ((scenario->needs & NEEDS_OWN) && !strcmp(who, "steer"))
		return "steer mode steps aside there.";
	if ((scenario->needs & NEEDS_SHARES) && (stat("/p", &status) || stat("/out", &status)))
		return "it needs the lab's folders /p and /out; run it there.";
	if ((scenario->needs & NEEDS_SLEEP) && !getenv("LAB_MAY_SLEEP"))
		return "it puts its host to sleep; run it in a host of the lab that may (lab/boot.sh --local).";
	return NULL;
}

/* --- one run ------------------------------------------------------------------------------------- */

static int add_rows(struct run *run, struct rows *rows, bool failed, double seconds)
{
	struct row *row;

	if (!failed && run->brought) {
		for (size_t i = 0; i < run->brought->count; i++) {
			row = rows_add(rows);
			if (!row)
				return -1;
			*row = run->brought->row[i];
			memset(&run->brought->row[i], 0, sizeof(run->brought->row[i])); /* moved */
		}
		return 0;
	}
	row = rows_add(rows);
	if (!row)
		return -1;
	run_note(run, "run_s", json_integer((json_int_t)(seconds + 0.5)));
	run_row(run, row);
	if (failed)
		snprintf(row->failure, sizeof(row->failure), "%.*s", (int)sizeof(row->failure) - 1, run->lab->error);
	return 0;
}

int scenario_run(struct lab *lab, struct host *here, struct host *there, const struct scenario *scenario,
		 const char *who, struct rows *rows)
{
	int64_t start = lab_now_ms();
	struct run *run = calloc(1, sizeof(*run));
	bool failed;
	int result;

	if (!run)
		return -1;
	run->lab = lab;
	run->here = here;
	run->there = there;
	run->scenario = scenario->name;
	run->who = who;
	run->events = lab->events;
	run->extra = json_object();
	lab->deadline_ms = 0;
	lab->deadline_ms = lab_until(lab, (int64_t)scenario->limit_s * 1000);
	lab->error[0] = '\0';
	failed = scenario->play(run) != 0;
	for (unsigned int i = 0; i < RUN_VMS; i++)
		run_part(run, &run->vm[i]);
	lab->deadline_ms = 0;
	result = lab->interrupted ? -1 : add_rows(run, rows, failed, (double)(lab_now_ms() - start) / 1000);
	json_decref(run->extra);
	bare_close(run->bare);
	if (run->brought)
		rows_clear(run->brought);
	free(run->brought);
	free(run);
	return result;
}
