/* SPDX-License-Identifier: MIT */
#include "event.h"

#include <stdio.h>
#include <string.h>

/* Windows that must be there before an event begins, and after it: at 10 ms each, a base line for the slope. */
#define WINDOWS_BEFORE 16u
#define WINDOWS_AFTER 8u
#define BRACKETS 64u

/* --- one clock against another ----------------------------------------------------------- */

static uint64_t read_ns(const struct clocks *clocks, enum probe_clock clock)
{
	return clocks->ns(clocks->context, clock, UINT32_MAX);
}

/* `clock` between two reads of `base`: the narrowest of many. */
static struct offset read_offset(const struct clocks *clocks, enum probe_clock clock, enum probe_clock base)
{
	struct offset best = { .within = INT64_MAX };

	for (unsigned int i = 0; i < BRACKETS; i++) {
		uint64_t before = read_ns(clocks, base), now = read_ns(clocks, clock), after = read_ns(clocks, base);
		int64_t half = (int64_t)((after - before + 1) / 2);

		/* each was cut to a whole ns */
		if (after >= before && half + 1 < best.within)
			best = (struct offset){ .ns = (int64_t)(now - before) - half, .within = half + 1 };
	}
	return best;
}

struct offsets read_offsets(const struct clocks *clocks)
{
	return (struct offsets){ .tsc = clocks->tsc(clocks->context),
				 .realtime = read_offset(clocks, PROBE_REALTIME, PROBE_RAW),
				 .monotonic = read_offset(clocks, PROBE_MONOTONIC, PROBE_RAW),
				 .boottime = read_offset(clocks, PROBE_BOOTTIME, PROBE_MONOTONIC) };
}

static struct offset step(const struct offset *before, const struct offset *after)
{
	return (struct offset){ .ns = (int64_t)((uint64_t)after->ns - (uint64_t)before->ns),
				.within = before->within > INT64_MAX - after->within ? INT64_MAX :
					  before->within + after->within };
}

/* --- the state before --------------------------------------------------------------------------- */

void events_open(struct events *events, struct watch *watch)
{
	memset(events, 0, sizeof(*events));
	events->watch = watch;
}

void events_keep(struct events *events)
{
	if (!events->open)
		events->offsets[events->kept++ % EVENT_OFFSETS] = read_offsets(events->watch->clocks);
}

static uint64_t now_tsc(const struct events *events)
{
	return events->watch->clocks->tsc(events->watch->clocks->context);
}

uint64_t events_unannounced(struct events *events)
{
	uint32_t line = pages_look(events->watch->pages);
	uint64_t changes;

	if (events->open)
		return 0;
	changes = events->line == 0 || line <= events->line ? 0 : line - events->line;
	events->line = line;
	events->unannounced += changes;
	return changes;
}

struct event_begun event_begin(struct events *events, const char *name)
{
	struct event_begun begun = { .replaced = events->open };
	struct watch *watch = events->watch;
	struct event_state *before = &events->before;

	if (events->open) { /* forget it */
		events->open = false;
		events->phase = watch_next_phase(watch, 1, false);
	}
	watch_set_busy(watch, true);
	watch_wait(watch, events->phase, WINDOWS_BEFORE);
	begun.unannounced = events_unannounced(events);
	events->before_open = begun.unannounced;
	before->tsc = now_tsc(events);
	before->page_known = pages_now(watch->pages, &before->page);
	before->offsets = read_offsets(watch->clocks);
	before->count = watch_windows(watch, events->phase, before->page_known ? before->page.number : UINT32_MAX,
				      before->windows);
	watch_clear_step(watch);
	events->open = true;
	snprintf(events->name, sizeof(events->name), "%s", name);
	events->phase = watch_next_phase(watch, 1, true);
	events->open_phase = events->phase;
	watch_wait(watch, events->phase, 0);
	return begun;
}

/* The offsets kept last before a tick; the oldest if the TSC went back, and none of them is. */
static struct offsets kept_before(const struct events *events, uint64_t tsc)
{
	uint64_t oldest = events->kept > EVENT_OFFSETS ? events->kept - EVENT_OFFSETS : 0;

	for (uint64_t i = events->kept; i-- > oldest;)
		if ((int64_t)(events->offsets[i % EVENT_OFFSETS].tsc - tsc) <= 0)
			return events->offsets[i % EVENT_OFFSETS];
	return events->kept == 0 ? read_offsets(events->watch->clocks) : events->offsets[oldest % EVENT_OFFSETS];
}

/* No event is open: the one that ends began where the page changed last, or else where the readings paused. */
static void reconstruct(struct events *events)
{
	struct event_state *before = &events->before;
	struct watch *watch = events->watch;
	uint32_t line = pages_look(watch->pages);
	uint64_t last;

	before->page_known = pages_get(watch->pages, events->line, &before->page);
	if (before->page_known && line != events->line)
		before->count = watch_windows(watch, events->phase, events->line, before->windows);
	else
		before->count = watch_windows_before_pause(watch, events->phase, before->windows);
	last = before->count != 0 ? before->windows[before->count - 1].after : now_tsc(events);
	before->tsc = last;
	before->offsets = kept_before(events, last);
}

/* --- the state after ------------------------------------------------------------------------------- */

static void measure(struct events *events, struct event_result *result, const uint64_t *switched)
{
	uint64_t step_ns = events->watch->clocks->step_ns(events->watch->clocks->context);
	const struct event_state *before = &events->before;
	struct window after[SHIFT_WINDOWS];
	double slope_before, slope_after, error_before, error_after;
	/* slopes that differ part with every tick: hold them against each other where the new one took over */
	const uint64_t *at = !result->page_known || result->page.same_slope ? NULL :
			     switched					      ? switched :
										&result->now.snapshot.line.tsc;
	size_t count = watch_windows(events->watch, events->phase, result->page_now ? result->now.number : UINT32_MAX,
				     after);

	result->raw = shift_measure(before->windows, before->count, after, count, at, step_ns);
	result->rate_measured = shift_rate(before->windows, before->count, step_ns, &slope_before, &error_before) &&
				shift_rate(after, count, step_ns, &slope_after, &error_after);
	if (result->rate_measured) {
		result->rate_ppb = (slope_after / slope_before - 1) * 1e9;
		result->rate_within_ppb = (error_before + error_after) * (slope_after / slope_before);
	}
}

struct event_result event_end(struct events *events, const char *name, const uint64_t *switched)
{
	struct watch *watch = events->watch;
	struct event_state *before = &events->before;
	struct event_result result = { .unmatched = !events->open || strcmp(events->name, name) != 0 };
	struct watch_totals totals;
	struct offset monotonic;
	struct offsets offsets;

	watch_set_busy(watch, true);
	if (events->open)
		snprintf(result.begun, sizeof(result.begun), "%s", events->name);
	else
		reconstruct(events);
	events->phase = watch_next_phase(watch, events->open ? 1 : 2, false);
	watch_wait(watch, events->phase, WINDOWS_AFTER);

	result.page_now = pages_now(watch->pages, &result.now);
	result.page_known = before->page_known && result.page_now;
	if (result.page_known) {
		result.page = pages_difference(&before->page, &result.now, switched);
		result.lines = result.now.number - before->page.number;
	}
	measure(events, &result, switched);
	offsets = read_offsets(watch->clocks);
	result.realtime_step = step(&before->offsets.realtime, &offsets.realtime);
	result.boottime_step = step(&before->offsets.boottime, &offsets.boottime);
	monotonic = step(&before->offsets.monotonic, &offsets.monotonic);
	result.monotonic = (struct measured){ .known = result.raw.known, .ns = result.raw.ns + monotonic.ns,
					      .within = result.raw.within + monotonic.within };
	result.tsc_step = watch_step(watch);
	totals = watch_totals(watch);
	if (events->open)
		result.totals = watch_totals_since(watch, events->open_phase);
	else /* since the last one */
		result.totals = (struct watch_totals){ .samples = totals.samples - events->totals_ended.samples,
						       .within = totals.within - events->totals_ended.within,
						       .between = totals.between - events->totals_ended.between };

	/* this event's changes are announced, even where it began unseen */
	events->line = result.page_now ? result.now.number : events->line;
	result.unannounced = events->open ? events->before_open : 0;
	events->open = false;
	events->ended++;
	events->totals_ended = totals;
	watch_clear_step(watch);
	watch_set_busy(watch, false);
	return result;
}
