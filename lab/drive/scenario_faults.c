/* SPDX-License-Identifier: MIT */
/*
 * scenario_faults.c - what goes wrong around a VM: its guest dies, its QEMU is killed in the middle of a migration, its
 * disk is full. Whoever survives must go on with its clock, and nothing may hang. Each fault is an event of the same
 * row.
 */
#include "scenario.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define PANIC_AFTER_S 4
#define SLOW_LINK (2 << 20) /* bytes a second: a migration is then long enough to be hit in the middle */

static void note_fault(struct run *run, const char *fault, const char *outcome)
{
	json_t *list = json_object_get(run->extra, "faults");

	json_array_append_new(list, json_pack("{s:s, s:s}", "fault", fault, "outcome", outcome));
}

/* The survivor answers, and its clock is judged over all that happened. */
static int goes_on(struct run *run, struct qemu *vm, const char *fault)
{
	char outcome[64];
	int64_t before = run->verdict.jump_sum;

	if (run_end(run, vm)) {
		lab_add(run->lab, " This was after: %s.", fault);
		return -1;
	}
	snprintf(outcome, sizeof(outcome), "goes on, jump %lld ns", (long long)(run->verdict.jump_sum - before));
	note_fault(run, fault, outcome);
	return 0;
}

static void stop_all(struct run *run)
{
	for (unsigned int i = 0; i < RUN_VMS; i++)
		run_part(run, &run->vm[i]);
}

/* The guest's kernel panics and starts again: a new life in the old machine, which registers anew. */
static int guest_panics(struct run *run)
{
	struct qemu *vm = &run->vm[0];
	char append[48];
	const struct qemu_options guest = { .name = "panic", .who = run->who, .append = append };

	snprintf(append, sizeof(append), "pvclock.panic=%d", PANIC_AFTER_S);
	if (run_boot(run, vm, &guest) || qemu_wait_ready(vm, 2) || run_meet(run, vm) || run_begin(run, vm))
		return -1;
	return goes_on(run, vm, "guest panics and restarts");
}

/* --- killed in a migration ------------------------------------------------------------------------- */

/* When it is hit. With pause-before-switchover QEMU waits where the source has stopped and the devices have not been
 * sent. */
static const char *const moments[] = { "active", "pre-switchover", "completed" };

static int set_up_migration(struct run *run, struct qemu *from)
{
	json_t *capability =
		json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", "pause-before-switchover", "state", 1);

	(void)run;
	if (qmp_do(&from->qmp, "migrate-set-capabilities", capability, QEMU_COMMAND_MS) ||
	    qmp_do(&from->qmp, "migrate-set-parameters", json_pack("{s:i}", "max-bandwidth", SLOW_LINK),
		   QEMU_COMMAND_MS)) {
		qemu_explain(from);
		return -1;
	}
	return 0;
}

static int faster(struct qemu *from)
{
	return qmp_do(&from->qmp, "migrate-set-parameters", json_pack("{s:I}", "max-bandwidth", (json_int_t)1 << 30),
		      QEMU_COMMAND_MS);
}

static int go_on(struct qemu *from)
{
	if (qmp_do(&from->qmp, "migrate-continue", json_pack("{s:s}", "state", "pre-switchover"), QEMU_COMMAND_MS) == 0)
		return 0;
	qemu_explain(from);
	return -1;
}

/* Brings a migration to the moment at which one side is to be killed. */
static int reach(struct run *run, struct qemu *from, const char *moment)
{
	if (run_migrate_wait(run, from, "active", QEMU_COMMAND_MS))
		return -1;
	if (!strcmp(moment, "active"))
		return lab_sleep(run->lab, 300); /* some of the memory is over there */
	if (faster(from) || run_migrate_wait(run, from, "pre-switchover", RUN_MIGRATE_MS))
		return -1;
	if (!strcmp(moment, "pre-switchover"))
		return 0;
	if (go_on(from))
		return -1;
	return run_migrate_wait(run, from, "completed", RUN_MIGRATE_MS);
}

/* The destination is gone. The source runs on by itself, or after its end is told to: nothing of it was lost. */
static int source_survives(struct run *run, struct qemu *from, const char *moment, const char *fault)
{
	bool completed = !strcmp(moment, "completed");

	if (!strcmp(moment, "pre-switchover") && go_on(from)) /* it waits to be told, and then finds nobody */
		return -1;
	if (!completed && run_migrate_wait(run, from, "failed", QEMU_COMMAND_MS))
		return -1;
	if (completed && qmp_do(&from->qmp, "cont", NULL, QEMU_COMMAND_MS)) { /* as a management tool does */
		qemu_explain(from);
		return -1;
	}
	if (qemu_wait_status(from, "running", QEMU_COMMAND_MS))
		return -1;
	return goes_on(run, from, fault);
}

/* The source is gone. A destination that had everything goes on; one that had not ends, and says so: there is no guest
 * any more. */
static int destination_survives(struct run *run, struct qemu *to, bool completed, const char *fault)
{
	if (completed)
		return qemu_wait_status(to, "running", QEMU_COMMAND_MS) ? -1 : goes_on(run, to, fault);
	if (qemu_wait_end(to, QEMU_COMMAND_MS * 2)) {
		lab_add(run->lab, " Its source was killed (%s).", fault);
		return -1;
	}
	note_fault(run, fault, "the half-filled destination ended by itself");
	return 0;
}

static int killed_in_migration(struct run *run, const char *moment, bool kill_source)
{
	struct qemu *from = &run->vm[0], *to = &run->vm[1];
	struct qemu_options guest = { .name = "from", .who = run->who };
	bool completed = !strcmp(moment, "completed");
	char uri[LAB_PATH + 64], fault[96];

	snprintf(uri, sizeof(uri), "unix:%s/fault-%u", run->lab->work, run->number);
	snprintf(fault, sizeof(fault), "%s killed at \"%s\"", kill_source ? "source" : "destination", moment);
	if (run_boot(run, from, &guest) || set_up_migration(run, from))
		return -1;
	guest.name = "to";
	guest.incoming = uri;
	if (qemu_start(to, run->lab, run->scenario, &guest) || run_begin(run, from) ||
	    run_migrate_start(run, from, uri) || reach(run, from, moment)) {
		lab_add(run->lab, " This was before: %s.", fault);
		return -1;
	}
	qemu_kill(kill_source ? from : to);
	return kill_source ? destination_survives(run, to, completed, fault)
			   : source_survives(run, from, moment, fault);
}

/* --- a full disk ------------------------------------------------------------------------------------- */

static int snapshot_on_full_disk(struct run *run, const char *directory)
{
	struct qemu *vm = &run->vm[0];
	char disk[LAB_PATH];

	if (run_make_disk(run, directory, disk) ||
	    run_boot(run, vm, &(struct qemu_options){ .name = "full", .who = run->who, .disk = disk }) ||
	    run_begin(run, vm))
		return -1;
	if (qmp_human(&vm->qmp, "savevm lab", RUN_SAVE_MS) == 0)
		return lab_fail(run->lab, "savevm on a disk of 4 MB reported no error.");
	if (!vm->qmp.last_error[0] || run->lab->interrupted) { /* no answer at all */
		qemu_explain(vm);
		return -1;
	}
	note_fault(run, "savevm on a full disk", vm->qmp.last_error);
	/* QEMU leaves the machine as it was: running */
	return qemu_wait_status(vm, "running", QEMU_COMMAND_MS) ? -1 : goes_on(run, vm, "savevm on a full disk");
}

static int disk_is_full(struct run *run)
{
	char directory[LAB_PATH];
	int result;

	snprintf(directory, sizeof(directory), "%.400s/small", run->lab->work);
	if (mkdir(directory, 0700) || mount("tmpfs", directory, "tmpfs", 0, "size=4m")) {
		note_fault(run, "savevm on a full disk", "skipped: a small tmpfs cannot be mounted without root");
		rmdir(directory);
		return 0;
	}
	result = snapshot_on_full_disk(run, directory);
	stop_all(run);
	umount2(directory, MNT_DETACH);
	rmdir(directory);
	return result;
}

int play_faults(struct run *run)
{
	run_note(run, "faults", json_array());
	if (guest_panics(run))
		return -1;
	stop_all(run);
	for (unsigned int i = 0; i < sizeof(moments) / sizeof(moments[0]); i++)
		for (unsigned int source = 0; source < 2; source++) {
			if (killed_in_migration(run, moments[i], source))
				return -1;
			stop_all(run);
		}
	return disk_is_full(run);
}
