/* SPDX-License-Identifier: MIT */
/*
 * scenario_vmm.c - what no other VMM offers yet: deadlines in ns of system time, which the host keeps. The guest of
 * scenario_bare.c on our own VMM, on the same host's KVM: its vCPUs always have a deadline armed, while they are paused
 * and while one VMM hands them over to the next. With the clocks that offer no such thing it arms TSC deadlines.
 */
#include "scenario.h"

#include "difference.h"
#include "harness.h"

#include <pvclock/deadline.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VCPUS 4u
#define LONGEST_NS 20000000u
#define FAR_NS 300000000u /* of one in eight: beyond any event's blackout */
#define START_MS 20000
#define COMMAND_MS 20000
#define MISSED_MS 20000
#define SETTLE_MS 300 /* KVM updates all pages 100 ms after a vCPU registered its own */

struct ours {
	struct run *run;
	struct harness harness;
	struct deadlines deadlines;
	struct pvclock_snapshot pages[VCPUS];
	unsigned int events;
	int64_t jump_max, jump_total;
	bool stable;
};

static int failed(struct ours *ours)
{
	return lab_fail(ours->run->lab, "%s", ours->harness.error);
}

static void take(void *ctx, unsigned int vcpu, const struct vmm_ring_entry *entries, size_t count)
{
	deadlines_take(&((struct ours *)ctx)->deadlines, vcpu, entries, count);
}

void scenario_vmm_path(const struct run *run, const char *below, char path[LAB_PATH])
{
	char *slash;

	snprintf(path, LAB_PATH, "%.400s", run->lab->driver);
	slash = strrchr(path, '/');
	if (slash)
		snprintf(slash, LAB_PATH - (size_t)(slash - path), "/../../vmm/%s", below);
}

/* Each vCPU takes one more deadline than it had. */
static int goes_on(struct ours *ours)
{
	int64_t until = lab_until(ours->run->lab, MISSED_MS);
	uint64_t before[VCPUS];
	unsigned int i = 0;

	harness_drain(&ours->harness);
	for (unsigned int j = 0; j < VCPUS; j++)
		before[j] = ours->deadlines.vcpu[j].taken;
	while (i < VCPUS) {
		if (ours->deadlines.vcpu[i].taken != before[i]) {
			i++;
			continue;
		}
		if (lab_now_ms() >= until)
			return lab_fail(ours->run->lab, "vCPU %u missed a deadline: it sleeps on after %d s.", i, MISSED_MS / 1000);
		if (harness_run(&ours->harness, 2))
			return failed(ours);
	}
	return 0;
}

static int read_pages(struct ours *ours)
{
	const uint8_t *pages = (const uint8_t *)ours->harness.memory + ours->harness.shared->pages_gpa;

	ours->stable = true;
	for (unsigned int i = 0; i < VCPUS; i++) {
		if (pvclock_page_read(pages + i * VMM_PAGE_STRIDE, &ours->pages[i]) != PVCLOCK_READ_OK)
			return lab_fail(ours->run->lab, "vCPU %u's clock page holds no clock.", i);
		ours->stable = ours->stable && (ours->pages[i].flags & PVCLOCK_TSC_STABLE);
	}
	return 0;
}

static int command(struct ours *ours, const char *text)
{
	json_t *reply = harness_command(&ours->harness, text, COMMAND_MS);

	json_decref(reply);
	return reply ? 0 : failed(ours);
}

/* What it did to each vCPU's function of its own TSC: the worst, and the first one's. */
static int one_event(struct ours *ours, bool update)
{
	struct pvclock_snapshot before[VCPUS];

	if (read_pages(ours))
		return -1;
	memcpy(before, ours->pages, sizeof(before));
	if (update ? command(ours, "update") : command(ours, "pause") || harness_run(&ours->harness, 20) || command(ours, "resume"))
		return -1;
	if (goes_on(ours) || read_pages(ours))
		return -1;
	for (unsigned int i = 0; i < VCPUS; i++) {
		int64_t jump = line_difference(&before[i].line, &ours->pages[i].line, NULL).jump;

		if (llabs(jump) > ours->jump_max)
			ours->jump_max = llabs(jump);
		ours->jump_total += i == 0 ? jump : 0;
	}
	ours->events++;
	return 0;
}

static int start(struct ours *ours)
{
	struct run *run = ours->run;
	char vmm[LAB_PATH], payload[LAB_PATH];
	const struct harness_options options = { .vmm = vmm, .payload = payload, .mode = run->who, .vcpus = VCPUS };

	scenario_vmm_path(run, "pvclock-vmm", vmm);
	scenario_vmm_path(run, "deadlines.elf", payload);
	if (harness_start(&ours->harness, &options))
		return failed(ours);
	ours->harness.sink = take;
	ours->harness.sink_ctx = ours;
	ours->harness.shared->argument[0] = LONGEST_NS;
	ours->harness.shared->argument[1] = FAR_NS;
	ours->harness.shared->argument[3] = strcmp(run->who, "own") ? PVCLOCK_TIMER_TSC : PVCLOCK_TIMER_HOST;
	return harness_wait_started(&ours->harness, START_MS) ? failed(ours) : 0;
}

static int play(struct ours *ours)
{
	unsigned int events = run_events(ours->run, 20);

	if (start(ours) || goes_on(ours))
		return -1;
	if (harness_run(&ours->harness, SETTLE_MS))
		return failed(ours);
	deadlines_begin(&ours->deadlines);
	while (ours->events < events)
		if (one_event(ours, ours->events % 2))
			return -1;
	return 0;
}

static int make_row(struct ours *ours)
{
	struct run *run = ours->run;
	struct row *row = run_bring(run);

	if (!row)
		return -1;
	row->events = ours->events;
	row->checked = ours->events;
	row->vcpus = VCPUS;
	row->jump_ns_max = ours->jump_max;
	row->jump_ns_total = ours->jump_total;
	for (unsigned int i = 0; i < VCPUS; i++)
		row->backwards += ours->harness.shared->ring[i].backwards_cross;
	row->reads = ours->deadlines.taken;
	row->stable = ours->stable;
	row->line = ours->pages[0].line;
	deadlines_note(run, &ours->deadlines);
	run_note(run, "timer", json_string(strcmp(run->who, "own") ? "tsc" : "host"));
	row->extra = json_incref(run->extra);
	return 0;
}

/* Never early, wherever an event came between; none lost, by any clock. */
static int judge(const struct ours *ours)
{
	struct deadlines deadlines = ours->deadlines;

	/* of those that KVM keeps it may fire one early by itself (scenario_bare.c); ours are by the clock alone */
	if (!strcmp(ours->run->who, "own") && deadlines.early)
		return lab_fail(ours->run->lab, "Of %llu deadlines %llu were early.", (unsigned long long)deadlines.taken,
				(unsigned long long)deadlines.early);
	return deadlines_judge(ours->run, &deadlines);
}

int play_deadline_ns(struct run *run)
{
	struct ours *ours = calloc(1, sizeof(*ours));
	int result;

	if (!ours)
		return lab_fail(run->lab, "Memory is out.");
	ours->run = run;
	result = play(ours);
	if (result == 0)
		result = make_row(ours) || judge(ours) ? -1 : 0;
	harness_stop(&ours->harness);
	deadlines_clear(&ours->deadlines);
	free(ours);
	return result;
}
