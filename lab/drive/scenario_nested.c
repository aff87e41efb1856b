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
#define CONSOLE_MAX (64u << 10)
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

/* What the preload in the middle says on its machine's console, after each hop. */
struct said {
	unsigned int pauses, followed, rewritten, refused;
	json_t *off_ns;
};

static void take_word(struct said *said, const json_t *entry)
{
	const char *event = lab_text(entry, "event", "");

	if (!strcmp(event, "followed")) {
		said->followed++;
		said->rewritten += (unsigned int)lab_number(entry, "rewritten", 0);
		said->refused += (unsigned int)lab_number(entry, "refused", 0);
	}
	if (!strcmp(event, "resume") && lab_number(entry, "off_ns", 0))
		json_array_append_new(said->off_ns, json_integer(lab_number(entry, "off_ns", 0)));
}

static void take_words(struct run *run, unsigned int hop, struct said *said)
{
	char path[LAB_PATH], *text, *at;

	snprintf(path, sizeof(path), "%.300s/%s-%s-hop%u.console", run->lab->logs, run->scenario, run->who, hop);
	text = lab_read_tail(path, CONSOLE_MAX);
	for (at = text ? strtok(text, "\r\n") : NULL; at; at = strtok(NULL, "\r\n")) {
		json_t *entry = json_loads(at, 0, NULL);

		if (json_is_object(entry))
			take_word(said, entry);
		json_decref(entry);
	}
	free(text);
}

/*
 * With the tree every page was right before anything ran: each move to another rate was told, and nothing refused. Without it the clock
 * was off when that was noticed, by so much.
 */
static int judge_words(struct run *run, bool tree, unsigned int hops)
{
	struct said said = { .off_ns = json_array() };

	for (unsigned int i = 1; i <= hops; i++)
		take_words(run, i, &said);
	run_note(run, "followed", json_integer(said.followed));
	run_note(run, "rewritten", json_integer(said.rewritten));
	run_note(run, "refused", json_integer(said.refused));
	run_note(run, "off_ns", said.off_ns);
	if (!tree || strcmp(run->who, "own") || !run->there || !run->drift_taken)
		return 0;
	if (said.followed != hops || said.rewritten != hops || said.refused)
		return lab_fail(run->lab, "Of %u moves %u were told; %u pages were made right and %u refused.", hops, said.followed, said.rewritten,
				said.refused);
	return 0;
}

void nested_guest(const struct run *run, const struct middle *middle, char command[NESTED_COMMAND], struct qemu_options *options)
{
	*options = (struct qemu_options){ .name = "middle", .who = run->who, .cpus = 1, .memory_mb = MOVED_MB, .cpu = middle->cpu,
					  .append = command, .is_host = true, .initrd = run->lab->nested, .offer = "nested" };
	/*
	 * Blanks are written as commas. A kernel that holds its TSC against another timer finds it wrong after the move, and then its KVM gives its
	 * guests' TSCs other offsets at each entry.
	 */
	snprintf(command, NESTED_COMMAND, "tsc=reliable pvclock.host=sh,/nested-host.sh,%s,%s", middle->inner ? middle->inner : run->who, middle->parent);
}

int nested_move(struct run *run, const struct middle *middle, int (*moving)(struct run *, struct qemu_options *, unsigned int))
{
	struct qemu_options options;
	char command[NESTED_COMMAND];

	nested_guest(run, middle, command, &options);
	run->nested = true;
	return moving(run, &options, run_events(run, 2)) || judge_words(run, !strcmp(middle->parent, "tree"), run_events(run, 2)) ? -1 : 0;
}

int play_nested_live_update(struct run *run)
{
	return nested_move(run, &(struct middle){ .cpu = "host", .parent = "tree" }, migrate_same_rate);
}

int play_nested_new_rate(struct run *run)
{
	return nested_move(run, &(struct middle){ .cpu = "host", .parent = "tree" }, migrate_new_rate);
}

int play_nested_told(struct run *run)
{
	run->unjudged = true; /* there is a window, and it is measured */
	return nested_move(run, &(struct middle){ .cpu = "host", .parent = "told" }, migrate_new_rate);
}

int play_nested_untold(struct run *run)
{
	run->unjudged = true;
	return nested_move(run, &(struct middle){ .cpu = "host", .parent = "off" }, migrate_new_rate);
}

/* The middle one keeps time by Hyper-V's page, and is told nothing: its preload looks at that. */
int play_hyperv_l1(struct run *run)
{
	return nested_move(run, &(struct middle){ .cpu = SCENARIO_HYPERV_HOST_CPU, .parent = "off" }, migrate_same_rate);
}

int play_hyperv_l1_new_rate(struct run *run)
{
	run->unjudged = true;
	return nested_move(run, &(struct middle){ .cpu = SCENARIO_HYPERV_HOST_CPU, .parent = "off" }, migrate_new_rate);
}
