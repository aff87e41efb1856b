/* SPDX-License-Identifier: MIT */
#include "watch.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define SETTLE_MS 300 /* the kernel updates all pages 100 ms after a vCPU registered its own */
#define LINE_TRIES 50

static void sink(void *ctx, unsigned int vcpu, const struct vmm_ring_entry *readings, size_t count)
{
	judge_feed(ctx, vcpu, readings, count);
}

static int fail(struct watch *watch, const char *sentence)
{
	snprintf(watch->harness.error, sizeof(watch->harness.error), "%s", sentence);
	return -1;
}

/*
 * The lines in force, from the pages that the vCPUs read. Judges nothing. A page may change under us: then the next
 * readings tell, and false is returned.
 */
static bool adopt_lines(struct watch *watch)
{
	bool all = true;

	harness_drain(&watch->harness);
	for (unsigned int i = 0; i < watch->harness.vcpus; i++) {
		struct vmm_ring_entry newest;
		struct pvclock_snapshot page;

		if (!judge_newest(&watch->judge, i, &newest)) {
			all = false;
			continue;
		}
		if (!pages_line(&watch->pages, watch->harness.memory, &newest, &page) &&
		    (!pages_find(&watch->pages, watch->harness.memory, watch->harness.memory_size, &newest) ||
		     !pages_line(&watch->pages, watch->harness.memory, &newest, &page)))
			all = false;
		else if (!judge_set_line(&watch->judge, i, &page.line))
			all = false;
	}
	return all;
}

int watch_start(struct watch *watch, const struct harness_options *options)
{
	memset(watch, 0, sizeof(*watch));
	judge_init(&watch->judge, options->vcpus);
	if (harness_start(&watch->harness, options) || harness_wait_started(&watch->harness, WATCH_START_MS) ||
	    harness_run(&watch->harness, SETTLE_MS))
		return -1;
	harness_discard(&watch->harness);
	watch->harness.sink = sink;
	watch->harness.sink_ctx = &watch->judge;
	for (int i = 0; i < LINE_TRIES; i++) {
		if (harness_wait_readings(&watch->harness, 8, WATCH_READINGS_MS))
			return -1;
		if (adopt_lines(watch))
			return 0;
		judge_merge(&watch->judge, false);
	}
	return fail(watch, "No clock page in the guest's memory fits what the guest reads.");
}

void watch_stop(struct watch *watch)
{
	harness_stop(&watch->harness);
	judge_clear(&watch->judge);
}

int watch_run(struct watch *watch, int ms)
{
	int64_t deadline = harness_now_ms() + ms, now;

	while ((now = harness_now_ms()) < deadline) {
		if (harness_run(&watch->harness, deadline - now < 20 ? (int)(deadline - now) : 20))
			return -1;
		judge_merge(&watch->judge, false);
	}
	return 0;
}

int watch_event_begin(struct watch *watch)
{
	for (int i = 0; i < LINE_TRIES && !adopt_lines(watch); i++)
		if (watch_run(watch, 2))
			return -1;
	harness_drain(&watch->harness);
	judge_event_begin(&watch->judge);
	return 0;
}

int watch_event_end(struct watch *watch, int64_t *jump_ns)
{
	int64_t deadline = harness_now_ms() + WATCH_READINGS_MS, jump;

	harness_drain(&watch->harness);
	judge_event_mark(&watch->judge);
	while (judge_event_after(&watch->judge) < WATCH_WINDOW) {
		if (watch_run(watch, 2))
			return -1;
		if (harness_now_ms() > deadline)
			return fail(watch, "After an event a vCPU stands still: it makes no more readings.");
	}
	jump = judge_event_end(&watch->judge);
	/* Before another reading is judged; a page that changes just now is tried again. */
	for (int i = 0; i < LINE_TRIES && !adopt_lines(watch); i++)
		if (harness_run(&watch->harness, 1))
			return -1;
	if (jump_ns)
		*jump_ns = jump;
	return 0;
}

int watch_pause(struct watch *watch, int ms, int64_t *blackout_ns, int64_t *jump_ns)
{
	json_t *reply;

	if (watch_event_begin(watch))
		return -1;
	reply = harness_command(&watch->harness, "pause", WATCH_COMMAND_MS);
	if (!reply)
		return -1;
	json_decref(reply);
	if (harness_run(&watch->harness, ms))
		return -1;
	reply = harness_command(&watch->harness, "resume", WATCH_COMMAND_MS);
	if (!reply)
		return -1;
	if (blackout_ns)
		*blackout_ns = harness_number(reply, "blackout_ns", 0);
	json_decref(reply);
	return watch_event_end(watch, jump_ns);
}

int watch_update(struct watch *watch, int64_t *blackout_ns, int64_t *jump_ns)
{
	json_t *reply;

	if (watch_event_begin(watch))
		return -1;
	reply = harness_command(&watch->harness, "update", WATCH_COMMAND_MS);
	if (!reply)
		return -1;
	if (blackout_ns)
		*blackout_ns = harness_number(reply, "blackout_ns", 0);
	json_decref(reply);
	return watch_event_end(watch, jump_ns);
}

int watch_restore(struct watch *watch, const struct harness_options *options, const char *path, int64_t *jump_ns)
{
	if (watch_event_begin(watch) || harness_restore(&watch->harness, options, path))
		return -1;
	return watch_event_end(watch, jump_ns);
}

int watch_drift(struct watch *watch, uint64_t tsc_offset, struct drift_sample *sample)
{
	struct vmm_ring_entry newest;

	for (int i = 0; i < LINE_TRIES && !adopt_lines(watch); i++)
		if (watch_run(watch, 2))
			return -1;
	if (!judge_newest(&watch->judge, 0, &newest))
		return fail(watch, "vCPU 0 has not read its clock.");
	if (drift_sample(pvclock_os_linux(), &watch->judge.vcpu[0].line, &newest, tsc_offset, sample))
		return fail(watch, "The host's CLOCK_MONOTONIC_RAW cannot be read.");
	return 0;
}

void watch_finish(struct watch *watch)
{
	harness_drain(&watch->harness);
	judge_merge(&watch->judge, true);
}

uint64_t watch_backwards(const struct watch *watch)
{
	uint64_t count = watch->judge.backwards;

	for (unsigned int i = 0; i < watch->harness.vcpus; i++)
		count += atomic_load(&watch->harness.shared->ring[i].backwards) +
			 atomic_load(&watch->harness.shared->ring[i].backwards_cross);
	return count;
}

uint64_t watch_reads(const struct watch *watch)
{
	uint64_t count = 0;

	for (unsigned int i = 0; i < watch->harness.vcpus; i++)
		count += atomic_load(&watch->harness.shared->ring[i].reads);
	return count;
}

uint64_t watch_unstable(const struct watch *watch)
{
	return watch->judge.unstable;
}
