/* SPDX-License-Identifier: MIT */
/*
 * scenario_nested.c - a guest that is a host itself. Its QEMU is stock; inside it, this same program runs linux-pause
 * for a guest of its own, under whatever clock is asked for, and its row is brought back. So nesting is recursion.
 *
 * One that is moved while its own guest runs has that guest's probe on its own serial line (lab/nested-host.sh): so the
 * verbs of any scenario are about the guest's guest, and what they do is done to the machine around it.
 */
#include "scenario.h"

#include "rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INNER_EVENTS 6u
#define INNER_SLOW 3        /* how much slower everything is, one level down */
#define MIDDLE_MS 180000 /* it takes 60 to 100 s */
#define MIDDLE_MB 1024u
#define MOVED_MB 640u /* of which its image is 90, and its guest 128 */

/* The program inside writes into the folder that both see. */
static int bring(struct run *run, const char *path)
{
	json_t *list = json_load_file(path, 0, NULL), *object;
	size_t i;

	run->brought = calloc(1, sizeof(*run->brought));
	json_array_foreach(list, i, object) {
		struct row *row = run->brought ? rows_add_json(run->brought, object) : NULL;

		if (!row)
			continue;
		snprintf(row->scenario, sizeof(row->scenario), "%s", run->scenario);
		snprintf(row->where, sizeof(row->where), "nested");
		json_object_set_new(row->extra, "inner", json_string(lab_text(object, "scenario", "?")));
	}
	json_decref(list);
	if (!run->brought || run->brought->count == 0)
		return lab_fail(run->lab, "The guest that is a host left no rows in %s.", path);
	return 0;
}

static int play(struct run *run, const char *cpu)
{
	struct qemu *vm = &run->vm[0];
	char command[LAB_PATH * 3], path[LAB_PATH];
	struct qemu_options middle = { .name = "middle", .who = "stock", .cpus = 1, .memory_mb = MIDDLE_MB, .cpu = cpu,
				       .append = command, .is_host = true };

	snprintf(path, sizeof(path), "/out/%s-%s.json", run->scenario, run->who);
	unlink(path);
	/* on the kernel's command line, blanks are written as commas */
	snprintf(command, sizeof(command),
		 "pvclock.host=%s,--scenarios,linux-pause,--who,%s,--where,nested,--events,%u,--slow,%d,--out,%s",
		 run->lab->driver, run->who, run_events(run, INNER_EVENTS), INNER_SLOW, path);
	if (qemu_start(vm, run->lab, run->scenario, &middle))
		return -1;
	if (qemu_wait_end(vm, MIDDLE_MS)) {
		qemu_explain(vm);
		return -1;
	}
	if (bring(run, path)) {
		qemu_explain(vm);
		return -1;
	}
	return 0;
}

int play_nested(struct run *run)
{
	return play(run, "host");
}

int play_nested_hyperv(struct run *run)
{
	return play(run, SCENARIO_HYPERV_CPU);
}

/* --- moved while its guest runs --------------------------------------------------------------------- */

struct middle {
	const char *cpu;
	const char *clock;  /* of its guest, by its own host; NULL: as this host's */
	const char *parent; /* PVCLOCK_PARENT: what the engine in there takes of this host's offer */
};

static int move(struct run *run, const struct middle *middle, int (*moving)(struct run *, struct qemu_options *, unsigned int))
{
	char command[128];
	struct qemu_options options = { .name = "middle", .who = run->who, .cpus = 1, .memory_mb = MOVED_MB, .cpu = middle->cpu,
					.append = command, .is_host = true, .initrd = run->lab->nested, .offer = "nested" };

	/*
	 * Blanks are written as commas. A kernel that holds its TSC against another timer finds it wrong after the move, and then its KVM gives its
	 * guests' TSCs other offsets at each entry.
	 */
	snprintf(command, sizeof(command), "tsc=reliable pvclock.host=sh,/nested-host.sh,%s,%s", middle->clock ? middle->clock : run->who, middle->parent);
	run->nested = true;
	return moving(run, &options, run_events(run, 2));
}

int play_nested_live_update(struct run *run)
{
	return move(run, &(struct middle){ .cpu = "host", .parent = "tree" }, migrate_same_rate);
}

int play_nested_new_rate(struct run *run)
{
	return move(run, &(struct middle){ .cpu = "host", .parent = "tree" }, migrate_new_rate);
}

int play_nested_told(struct run *run)
{
	run->unjudged = true; /* there is a window, and it is measured */
	return move(run, &(struct middle){ .cpu = "host", .parent = "told" }, migrate_new_rate);
}

int play_nested_untold(struct run *run)
{
	run->unjudged = true;
	return move(run, &(struct middle){ .cpu = "host", .parent = "off" }, migrate_new_rate);
}

/* The middle one keeps time by Hyper-V's page, of which this host says nothing but what that says. */
int play_hyperv_l1(struct run *run)
{
	return move(run, &(struct middle){ .cpu = SCENARIO_HYPERV_CPU, .parent = "off" }, migrate_same_rate);
}

int play_hyperv_l1_new_rate(struct run *run)
{
	run->unjudged = true;
	return move(run, &(struct middle){ .cpu = SCENARIO_HYPERV_CPU, .parent = "off" }, migrate_new_rate);
}

/* Stock inside: Linux itself is told by Hyper-V's interrupt, and its KVM gives its guest the new rate. */
int play_reenlightenment(struct run *run)
{
	run->unjudged = true;
	return move(run, &(struct middle){ .cpu = SCENARIO_HYPERV_CPU, .clock = "stock", .parent = "off" }, migrate_new_rate);
}
