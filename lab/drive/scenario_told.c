/* SPDX-License-Identifier: MIT */
/*
 * scenario_told.c - the host sleeps under a guest of ours (vmm/guest/suspend.c) on our own VMM: whether any vCPU ran
 * between the wake-up and the correction, what the guest was told and when, and its BOOTTIME against the host's.
 *
 * Each reading is under a sequence number of the suspend page. Those under the old one have to be from before the
 * sleep, all of them, on every vCPU; those under the new one from after the tick that the page names. With freeze the
 * guest's counter goes on at that tick as if there had been no sleep, and a vCPU that ran too early would show as one
 * that was ahead of it.
 */
#include "host_sleep.h"
#include "scenario.h"

#include "difference.h"
#include "harness.h"

#include <inttypes.h>
#include <pvclock/clock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define VCPUS 4u
#define SLEEP_S 3
#define SLEEPS 4u
#define START_MS 20000
#define COMMAND_MS 20000
#define READINGS 64u
#define READINGS_MS 20000
#define PACE 2000u         /* a ring that is full during the sleep would show nothing */
#define APART_NS 3000 /* brackets of clocks, on both sides */
#define BRACKET_TRIES 20
#define SLEW_PPM 1         /* CLOCK_BOOTTIME that nobody disciplines, against the TSC by the host's proven slope */

/* The guest's BOOTTIME minus the host's, between these; at a host tick. */
struct apart {
	bool known;
	int64_t least, most;
};

struct guest_boottime {
	uint64_t tsc, bracket, ns;
};

struct seen {
	bool any;
	uint64_t last_tsc;           /* under the old number */
	uint64_t first_tsc;          /* under the new one */
	uint64_t untold;             /* vCPU 0: readings under the new one before the interrupt */
	uint64_t after;
	uint64_t previous_ns, gap_ns; /* the longest time between two of its readings */
};

struct told {
	struct run *run;
	struct harness harness;
	uint32_t sequence; /* the old one */
	struct seen vcpu[VCPUS];
	bool interrupted;
	struct guest_boottime boottime; /* the last one logged */
	uint64_t counter;  /* of the page, once that is known */
	struct pvclock_suspend page;
	struct pvclock_snapshot line;
	unsigned int events;
	int64_t jump_max, jump_total;
	uint64_t reads;
	json_t *sleeps;
};

static int failed(struct told *told)
{
	return lab_fail(told->run->lab, "%s", told->harness.error);
}

static void take(void *ctx, unsigned int vcpu, const struct vmm_ring_entry *entries, size_t count)
{
	struct told *told = ctx;
	struct seen *seen = &told->vcpu[vcpu];

	for (size_t i = 0; i < count; i++) {
		const struct vmm_ring_entry *entry = &entries[i];

		if (entry->result == VMM_SUSPEND_TOLD)
			told->interrupted = true;
		if (entry->result == VMM_SUSPEND_TOLD || entry->result == VMM_SUSPEND_BOOTTIME) {
			told->boottime = (struct guest_boottime){ entry->tsc, entry->version, entry->ns };
			continue;
		}
		told->reads++;
		if (seen->previous_ns && entry->ns - seen->previous_ns > seen->gap_ns)
			seen->gap_ns = entry->ns - seen->previous_ns;
		seen->previous_ns = entry->ns;
		if (entry->version == told->sequence) {
			seen->last_tsc = entry->tsc;
			seen->any = true;
			continue;
		}
		if (seen->after++ == 0)
			seen->first_tsc = entry->tsc;
		if (vcpu == 0 && !told->interrupted)
			seen->untold++;
	}
}

static const struct pvclock_user_page *user_page(const struct told *told)
{
	return (const struct pvclock_user_page *)(const void *)((const uint8_t *)told->harness.memory + told->harness.shared->pages_gpa);
}

static int read_pages(struct told *told)
{
	if (pvclock_page_read(&user_page(told)->page, &told->line) != PVCLOCK_READ_OK)
		return lab_fail(told->run->lab, "The guest's clock page holds no clock.");
	if (pvclock_suspend_read(&user_page(told)->suspend, &told->page) == PVCLOCK_READ_OK)
		return 0;
	told->page = (struct pvclock_suspend){ .sequence = 0 };
	return strcmp(told->run->who, "own") ? 0 : lab_fail(told->run->lab, "Nobody writes the guest's suspend page.");
}

/* The guest's TSC is so far ahead of the host's. */
static int read_offset(struct told *told, uint64_t *offset)
{
	json_t *reply = harness_command(&told->harness, "status", COMMAND_MS);

	*offset = (uint64_t)harness_number(reply, "tsc_offset", 0);
	json_decref(reply);
	return reply ? 0 : failed(told);
}

/* CLOCK_BOOTTIME at a host tick, by a bracket around now and the host's slope. */
static void host_boottime(const struct run *run, uint64_t tsc, int64_t *least, int64_t *most)
{
	uint64_t before = 0, width = UINT64_MAX;
	struct pvclock_line line;
	int64_t ns = 0, back;

	for (unsigned int i = 0; i < BRACKET_TRIES; i++) {
		uint64_t from = pvclock_read_tsc().ticks, to;
		struct timespec ts;

		clock_gettime(CLOCK_BOOTTIME, &ts);
		to = pvclock_read_tsc().ticks;
		if (to - from >= width)
			continue;
		width = to - from;
		before = from;
		ns = (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
	}
	pvclock_line_make(&line, 0, 0, &run->here->slope, NULL);
	back = (int64_t)pvclock_line_ns(&line, before - tsc);
	*least = ns - back - (int64_t)pvclock_line_ns(&line, width) - back / 1000000 * SLEW_PPM - 1;
	*most = ns - back + back / 1000000 * SLEW_PPM + 1;
}

static int compare_boottime(struct told *told, struct apart *apart)
{
	struct pvclock_line line;
	int64_t least, most;
	uint64_t offset;

	if (harness_wait_readings(&told->harness, READINGS, READINGS_MS))
		return failed(told);
	if (read_offset(told, &offset))
		return -1;
	host_boottime(told->run, told->boottime.tsc - offset, &least, &most);
	pvclock_line_make(&line, 0, 0, &told->run->here->slope, NULL);
	apart->most = (int64_t)told->boottime.ns - least;
	apart->least = (int64_t)told->boottime.ns - most - (int64_t)pvclock_line_ns(&line, told->boottime.bracket);
	apart->known = true;
	return 0;
}

static int judge_vcpu(struct told *told, unsigned int i, bool freeze, int64_t slept)
{
	const struct seen *seen = &told->vcpu[i];
	struct pvclock_line line;
	int64_t gap_ns;

	pvclock_line_make(&line, 0, 0, &told->run->here->slope, NULL);
	if (!seen->any || !seen->after)
		return lab_fail(told->run->lab, "vCPU %u read nothing %s the sleep.", i, seen->any ? "after" : "before");
	gap_ns = (int64_t)pvclock_line_ns(&line, seen->first_tsc - seen->last_tsc);
	if (seen->last_tsc >= told->page.counter || seen->first_tsc < told->page.counter)
		return lab_fail(told->run->lab, "vCPU %u read its clock at %" PRIu64 " before it was told, and at %" PRIu64 " after that; the page says %"
				PRIu64 ".", i, seen->last_tsc, seen->first_tsc, told->page.counter);
	/* with advance a vCPU that ran too early would have left no gap as long as the sleep */
	if (freeze ? gap_ns > slept / 2 : gap_ns < slept - slept / 100)
		return lab_fail(told->run->lab, "vCPU %u's counter went on by %.6f s in a sleep of %.6f s.", i, (double)gap_ns / 1e9,
				(double)slept / 1e9);
	return 0;
}

static int judge(struct told *told, bool freeze, int64_t slept, int64_t error, const struct apart *before, const struct apart *after)
{
	const struct pvclock_suspend *page = &told->page;
	int64_t least = after->least - before->most, most = after->most - before->least;

	for (unsigned int i = 0; i < VCPUS; i++)
		if (judge_vcpu(told, i, freeze, slept))
			return -1;
	if (page->cause != PVCLOCK_CAUSE_SUSPEND || page->count != told->events)
		return lab_fail(told->run->lab, "The guest was told of %s, %" PRIu64 " times.", pvclock_cause_name(page->cause), page->count);
	if (!told->interrupted || told->vcpu[0].untold > 1)
		return lab_fail(told->run->lab, "The guest's interrupt came %s.", told->interrupted ? "late" : "never");
	/* of the host's own BOOTTIME, whose distance from the truth is error_ns */
	if (least > APART_NS || most < -APART_NS || most - least > 4 * APART_NS || error <= 0)
		return lab_fail(told->run->lab, "The guest's BOOTTIME is %" PRId64 " to %" PRId64 " ns ahead of the host's, and was not before.", least, most);
	return 0;
}

static void note(struct told *told, const char *policy, int64_t slept, uint64_t error, const struct apart *before, const struct apart *after)
{
	uint64_t longest = 0;
	json_t *sleep;

	for (unsigned int i = 0; i < VCPUS; i++)
		longest = told->vcpu[i].gap_ns > longest ? told->vcpu[i].gap_ns : longest;
	sleep = json_pack("{s:s,s:I,s:I,s:[I,I],s:I,s:I,s:I,s:I,s:b}", "policy", policy, "slept_ns", (json_int_t)slept, "monotonic_gap_ns",
			  (json_int_t)longest, "boottime_apart_ns", (json_int_t)(after->least - before->most),
			  (json_int_t)(after->most - before->least), "uncounted_ns", (json_int_t)told->page.uncounted_ns, "counted_ns",
			  (json_int_t)told->page.counted_ns, "error_ns", (json_int_t)error, "untold_readings",
			  (json_int_t)told->vcpu[0].untold, "interrupt", told->interrupted);
	json_array_append_new(told->sleeps, sleep);
}

/* Without a suspend page the number never changes, and only the gap is seen. */
static int one_sleep(struct told *told, const char *policy)
{
	bool stock = strcmp(told->run->who, "own");
	struct apart before, after;
	struct pvclock_snapshot line;
	int64_t slept, bracket, jump;
	uint64_t error;

	memset(told->vcpu, 0, sizeof(told->vcpu));
	told->interrupted = false;
	if (read_pages(told))
		return -1;
	told->sequence = told->page.sequence;
	error = told->page.error_ns;
	line = told->line;
	if (compare_boottime(told, &before))
		return -1;
	slept = host_sleep(told->run->lab, SLEEP_S, &bracket);
	if (slept < 0)
		return -1;
	if (compare_boottime(told, &after) || read_pages(told))
		return -1;
	told->events++;
	jump = line_difference(&line.line, &told->line.line, NULL).jump;
	told->jump_total += jump;
	if (llabs(jump) > told->jump_max)
		told->jump_max = llabs(jump);
	error = told->page.error_ns - error; /* of this one */
	note(told, policy, slept, error, &before, &after);
	return stock ? 0 : judge(told, !strcmp(policy, "freeze"), slept, (int64_t)error, &before, &after);
}

static int play(struct told *told, const char *policy, unsigned int sleeps)
{
	struct run *run = told->run;
	char vmm[LAB_PATH], payload[LAB_PATH], words[64];
	const struct harness_options options = { .vmm = vmm, .payload = payload, .mode = run->who, .vcpus = VCPUS, .extra = { "--policy", words } };

	scenario_vmm_path(run, "pvclock-vmm", vmm);
	scenario_vmm_path(run, "suspend.elf", payload);
	snprintf(words, sizeof(words), "suspend=%s", policy);
	told->events = 0;
	if (harness_start(&told->harness, &options))
		return failed(told);
	told->harness.sink = take;
	told->harness.sink_ctx = told;
	told->harness.shared->pace = PACE;
	if (harness_wait_started(&told->harness, START_MS) || harness_run(&told->harness, 300))
		return failed(told);
	for (unsigned int i = 0; i < sleeps; i++)
		if (one_sleep(told, policy))
			return -1;
	return 0;
}

static int make_row(struct told *told, unsigned int events)
{
	struct run *run = told->run;
	struct row *row = run_bring(run);

	if (!row)
		return -1;
	row->events = events;
	row->checked = events;
	row->vcpus = VCPUS;
	row->jump_ns_max = told->jump_max;
	row->jump_ns_total = told->jump_total;
	row->reads = told->reads;
	row->stable = told->line.flags & PVCLOCK_TSC_STABLE;
	row->line = told->line.line;
	row->extra = json_incref(run->extra);
	return 0;
}

int play_suspend_told(struct run *run)
{
	static const char *const policies[] = { "freeze", "advance" };
	struct told *told = calloc(1, sizeof(*told));
	unsigned int sleeps = run_events(run, SLEEPS) / 2, done = 0;
	int result = 0;

	if (!told)
		return lab_fail(run->lab, "Memory is out.");
	told->run = run;
	told->sleeps = json_array();
	run_note(run, "sleeps", told->sleeps);
	if (!run->here->known)
		host_learn(run->here, true);
	if (!run->here->known)
		result = lab_fail(run->lab, "This host's rate is not known: %s", run->here->reason);
	for (unsigned int i = 0; result == 0 && i < 2; i++) {
		result = play(told, policies[i], sleeps ? sleeps : 1);
		done += told->events;
		harness_stop(&told->harness);
	}
	if (result == 0)
		result = make_row(told, done);
	free(told);
	return result;
}
