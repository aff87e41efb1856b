/* SPDX-License-Identifier: MIT */
/*
 * scenario_bare.c - what a Linux guest would not show: a guest of ours on a stock QEMU, whose every vCPU always has a TSC deadline
 * armed and tells when it fired by its clock, and whose vCPUs' TSCs may differ.
 */
#include "scenario.h"

#include <stdio.h>
#include <string.h>

#define VCPUS 4u
#define LONGEST_NS 20000000ll /* of the usual sleeps */
#define FAR_NS 1000000000ll   /* of one in eight: beyond any hop's blackout */
/*
 * Most deadlines that are pending are far ones, half a second ahead on average. One that was not computed anew for the
 * other rate is early, or late by more than half of that again; a busy emulator is late by some 10 ms.
 */
#define LATE_MEDIAN_MAX_US 200000
#define APART_TICKS 1000000000ll /* 0.4 s: below the second within which KVM takes two counters for one */

static int play(struct run *run, int64_t apart, int (*doing)(struct run *run, struct qemu_options *guest, unsigned int events),
		unsigned int events)
{
	char kernel[LAB_PATH], arguments[80];
	struct qemu_options guest = { .name = "guest", .who = run->who, .cpus = VCPUS, .memory_mb = BARE_MB, .kernel = kernel,
				      .append = arguments };

	bare_kernel(run->lab->driver, kernel);
	snprintf(arguments, sizeof(arguments), "%lld %lld %lld", LONGEST_NS, FAR_NS, (long long)apart);
	run->bare = bare_open(VCPUS);
	if (!run->bare)
		return lab_fail(run->lab, "Memory is out.");
	return doing(run, &guest, run_events(run, events));
}

static json_t *lateness_us(struct lateness *late)
{
	return json_pack("{s:I, s:I}", "median", (json_int_t)(lateness_quantile(late, 50) / 1000), "max",
			 (json_int_t)(lateness_quantile(late, 100) / 1000));
}

static json_t *early_ones(const struct deadlines *deadlines)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < deadlines->early && i < DEADLINES_EARLY_MAX; i++) {
		const struct deadline_early *one = &deadlines->first[i];

		json_array_append_new(list, json_pack("{s:i, s:b, s:I, s:I}", "vcpu", (int)one->vcpu, "across", one->across, "ns",
						      (json_int_t)one->ns, "ticks", (json_int_t)one->ticks));
	}
	return list;
}

static json_t *entry_of(const struct vmm_ring_entry *entry)
{
	return json_pack("{s:I, s:I, s:I, s:i, s:i}", "tsc", (json_int_t)entry->tsc, "ns", (json_int_t)entry->ns, "version",
			 (json_int_t)entry->version, "result", entry->result, "vcpu", entry->vcpu);
}

static json_t *unpaired_ones(const struct deadlines *deadlines)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < deadlines->unpaired && i < DEADLINES_EARLY_MAX; i++) {
		const struct deadline_unpaired *one = &deadlines->first_unpaired[i];

		json_array_append_new(list, json_pack("{s:i, s:I, s:o, s:o}", "vcpu", (int)one->vcpu, "number", (json_int_t)one->number,
						      "before", entry_of(&one->before), "entry", entry_of(&one->entry)));
	}
	return list;
}

void deadlines_note(struct run *run, struct deadlines *deadlines)
{
	run_note(run, "deadlines", json_integer((json_int_t)deadlines->taken));
	run_note(run, "deadlines_across", json_integer((json_int_t)deadlines->across));
	run_note(run, "deadlines_early", json_integer((json_int_t)deadlines->early));
	run_note(run, "deadlines_early_across", json_integer((json_int_t)deadlines->early_across));
	run_note(run, "early", early_ones(deadlines));
	run_note(run, "unpaired", unpaired_ones(deadlines));
	run_note(run, "late_us", lateness_us(&deadlines->quiet));
	run_note(run, "late_us_across", lateness_us(&deadlines->disturbed));
}

/*
 * None missed, and across an event never early; how late is told beside those that nothing came between. What is not
 * promised is measured: stock, and where nothing happened. There it is KVM alone that fires: it reads its clock and
 * then the TSC (start_sw_tscdeadline), and a host that is kept waiting in between, as an emulated one may be, has its
 * timer early by that much.
 */
int deadlines_judge(struct run *run, struct deadlines *deadlines)
{
	const struct deadline_unpaired *first = &deadlines->first_unpaired[0];

	if (!strcmp(run->who, "stock") || run->unjudged)
		return 0;
	if (deadlines->unpaired)
		return lab_fail(run->lab, "Of %llu deadlines %llu were not taken once; the first: vCPU %u's entry %llu is %#x, after %#x.",
				(unsigned long long)deadlines->taken, (unsigned long long)deadlines->unpaired, first->vcpu,
				(unsigned long long)first->number, first->entry.result, first->before.result);
	if (deadlines->early_across)
		return lab_fail(run->lab, "Of %llu deadlines across an event %llu fired early.", (unsigned long long)deadlines->across,
				(unsigned long long)deadlines->early_across);
	if (lateness_quantile(&deadlines->disturbed, 50) / 1000 > LATE_MEDIAN_MAX_US)
		return lab_fail(run->lab, "Half of the deadlines across an event were late by more than %d ms.", LATE_MEDIAN_MAX_US / 1000);
	if (!deadlines->across)
		return lab_fail(run->lab, "No deadline was pending across an event, so nothing was shown.");
	return 0;
}

static int judge(struct run *run)
{
	deadlines_note(run, &run->bare->deadlines);
	return deadlines_judge(run, &run->bare->deadlines);
}

int play_deadlines(struct run *run)
{
	return play(run, 0, migrate_same_rate, 4) || judge(run) ? -1 : 0;
}

int play_deadlines_new_rate(struct run *run)
{
	return play(run, 0, migrate_new_rate, 4) || judge(run) ? -1 : 0;
}

/* KVM keeps no clock as a function where TSCs differ, so there is none to be steered. */
int play_vcpu_offsets(struct run *run)
{
	run->tscs_differ = true;
	run->unjudged = strcmp(run->who, "own") != 0;
	return play(run, APART_TICKS, migrate_same_rate, 4) || judge(run) ? -1 : 0;
}
