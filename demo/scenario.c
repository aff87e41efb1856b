/* SPDX-License-Identifier: MIT */
#include "scenario.h"

#include "watch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#define PPB_UNITS 18446744073.709551616 /* 2^-64 units in a ppb */

struct scenario {
	const char *name;
	int (*event)(struct watch *watch, const struct scenario_options *options, int64_t *blackout_ns);
};

static int pause_event(struct watch *watch, const struct scenario_options *options, int64_t *blackout_ns)
{
	return watch_pause(watch, (int)options->pause_ms, blackout_ns, NULL);
}

static int update_event(struct watch *watch, const struct scenario_options *options, int64_t *blackout_ns)
{
	(void)options;
	return watch_update(watch, blackout_ns, NULL);
}

static const struct scenario scenarios[] = {
	{ "pause-resume", pause_event },
	{ "live-update", update_event },
};

static const struct scenario *find(const char *name)
{
	for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
		if (!strcmp(scenarios[i].name, name))
			return &scenarios[i];
	return NULL;
}

bool scenario_known(const char *name)
{
	return find(name) != NULL;
}

static int compare(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static double median_us(int64_t *values, unsigned int count)
{
	if (count == 0)
		return 0;
	qsort(values, count, sizeof(*values), compare);
	return ((double)values[(count - 1) / 2] + (double)values[count / 2]) / 2000;
}

static void say_progress(const struct scenario_options *options, const char *who, const char *name, unsigned int done)
{
	if (options->progress)
		options->progress(options->progress_ctx, who, name, done, options->events);
}

/* All events, evenly over the time that the drift needs. */
static int run_events(struct watch *watch, const struct scenario_options *options, const struct scenario *scenario,
		      const char *who, int64_t *blackouts)
{
	int64_t start = harness_now_ms();

	for (unsigned int i = 0; i < options->events; i++) {
		int64_t due = start + (int64_t)((i + 0.5) * options->seconds * 1000 / options->events);
		int64_t wait = due - harness_now_ms();

		if (wait > 0 && watch_run(watch, (int)wait))
			return -1;
		if (scenario->event(watch, options, &blackouts[i]))
			return -1;
		say_progress(options, who, scenario->name, i + 1);
	}
	int64_t rest = start + (int64_t)(options->seconds * 1000) - harness_now_ms();

	return watch_run(watch, rest > 0 ? (int)rest : 0);
}

static void take_status(struct row *row, const json_t *status)
{
	snprintf(row->mode, sizeof(row->mode), "%s", harness_text(status, "mode", "?"));
	row->stable = json_is_true(json_object_get(status, "stable"));
	snprintf(row->reason, sizeof(row->reason), "%s", harness_text(status, "reason_text", ""));
}

static void take_verdict(struct row *row, struct watch *watch, const struct scenario_options *options)
{
	struct judge *judge = &watch->judge;
	struct pvclock_slope slope;

	row->events = options->events;
	row->vcpus = options->vcpus;
	row->jump_ns_max = judge->jump_max;
	row->jump_ns_total = judge_total(judge);
	row->backwards = watch_backwards(watch);
	row->unannounced = judge->unannounced;
	row->failed = judge->failed + judge->lost;
	row->stable = row->stable && watch_unstable(watch) == 0;
	row->reads = watch_reads(watch);
	row->checked = judge->checked;
	row->line = judge->reference;
	if (options->host && pvclock_slope_from_line(&judge->reference, &slope)) {
		row->drift_ppb = (double)pvclock_slope_difference(&slope, options->host) / PPB_UNITS;
		row->drift_known = true;
	}
	/* The picture's data change hands. */
	row->buckets = judge->buckets;
	row->bucket_count = judge->bucket_count;
	row->marks = judge->events;
	row->mark_count = judge->event_count;
	judge->buckets = NULL;
	judge->events = NULL;
	judge->bucket_count = judge->event_count = judge->event_size = 0;
}

static int run(struct watch *watch, const struct scenario_options *options, const struct scenario *scenario,
	       const char *who, int64_t *blackouts, struct row *row)
{
	struct drift_sample start, end;
	uint64_t offset;
	json_t *status = harness_command(&watch->harness, "status", WATCH_COMMAND_MS);

	if (!status)
		return -1;
	offset = (uint64_t)harness_number(status, "tsc_offset", 0);
	json_decref(status);
	if (watch_drift(watch, offset, &start) || run_events(watch, options, scenario, who, blackouts))
		return -1;
	status = harness_command(&watch->harness, "status", WATCH_COMMAND_MS);
	if (!status)
		return -1;
	offset = (uint64_t)harness_number(status, "tsc_offset", 0);
	take_status(row, status);
	json_decref(status);
	if (watch_drift(watch, offset, &end))
		return -1;
	watch_finish(watch);
	drift_between(&start, &end, judge_total(&watch->judge), &row->drift_measured_ppb, &row->drift_error_ppb);
	row->seconds = (double)(end.raw_ns - start.raw_ns) / 1e9;
	return 0;
}

int scenario_run(const struct scenario_options *options, const char *name, const char *who, struct row *row, char *error)
{
	const struct scenario *scenario = find(name);
	const struct harness_options guest = {
		.vmm = options->vmm,
		.payload = options->payload,
		.mode = who,
		.vcpus = options->vcpus,
	};
	int64_t *blackouts = calloc(options->events + 1, sizeof(*blackouts));
	struct utsname machine;
	struct watch *watch = malloc(sizeof(*watch));
	int result = -1;

	snprintf(row->scenario, sizeof(row->scenario), "%s", name);
	snprintf(row->who, sizeof(row->who), "%s", who);
	snprintf(row->where, sizeof(row->where), "%s", harness_where());
	if (uname(&machine) == 0)
		snprintf(row->kernel, sizeof(row->kernel), "%.71s", machine.release);
	snprintf(error, HARNESS_ERROR, "Out of memory.");
	if (scenario && watch && blackouts) {
		say_progress(options, who, name, 0);
		result = watch_start(watch, &guest);
		if (result == 0)
			result = run(watch, options, scenario, who, blackouts, row);
		if (result == 0) {
			take_verdict(row, watch, options);
			row->blackout_us_median = median_us(blackouts, options->events);
		}
		watch_stop(watch);
		snprintf(error, HARNESS_ERROR, "%s", watch->harness.error);
	}
	free(watch);
	free(blackouts);
	return result;
}
