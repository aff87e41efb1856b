/* SPDX-License-Identifier: MIT */
/*
 * event.h - what an event (a pause, a snapshot, a migration) did to the clocks: the state before it, held against that
 * after it.
 *
 * All of it is in this process's memory, and that travels: where the guest is put back to a snapshot, so is what the
 * probe knows. An event may then end that this memory never saw begin, or while it holds another one open. It is judged
 * by the state that memory has: `unmatched`.
 */
#ifndef PROBE_EVENT_H
#define PROBE_EVENT_H

#include "watch.h"

#define EVENT_NAME 64u

/* One clock minus another: it was at most `within` from `ns`. */
struct offset {
	int64_t ns, within;
};

struct offsets {
	uint64_t tsc;
	struct offset realtime;  /* - RAW */
	struct offset monotonic; /* - RAW */
	struct offset boottime;  /* - MONOTONIC */
};

struct event_state {
	bool page_known;
	struct page_entry page;
	struct offsets offsets;
	uint64_t tsc;
	size_t count;
	struct window windows[SHIFT_WINDOWS];
};

#define EVENT_OFFSETS 16u

struct events {
	struct watch *watch;
	bool open;
	char name[EVENT_NAME];    /* of the open one */
	struct event_state before;
	uint32_t open_phase;      /* that the open one began with */
	struct watch_totals totals_ended; /* when the last one ended */
	uint32_t phase;           /* the current one */
	uint32_t line;            /* when the last reply that counts was given; 0: none yet */
	uint64_t ended, unannounced;
	uint64_t before_open;     /* unannounced changes when the open one began */
	/* taken every now and then, for an event that was not announced; the newest is at kept - 1 */
	struct offsets offsets[EVENT_OFFSETS];
	uint64_t kept;
};

struct event_begun {
	bool replaced;             /* another one was open */
	uint64_t unannounced;      /* changes of the page since the last event ended, this one's own aside */
};

struct event_result {
	bool unmatched;
	char begun[EVENT_NAME];    /* the name it began with; empty: none */
	bool page_known;           /* before and after */
	struct difference page;
	bool page_now;
	struct page_entry now;
	uint32_t lines;            /* that came in force meanwhile */
	struct measured raw, monotonic;
	bool rate_measured;
	double rate_ppb, rate_within_ppb;
	struct offset realtime_step, boottime_step;
	int64_t tsc_step;
	struct watch_totals totals; /* since it began; if that was not seen, since the last one ended: no worst_ns */
	uint64_t unannounced;      /* as said when it began */
};

void events_open(struct events *events, struct watch *watch);

/* Every now and then, while no event is open. */
void events_keep(struct events *events);

struct event_begun event_begin(struct events *events, const char *name);
/* `switched`: at which TSC the clock's rate changed, for who knows it; NULL. */
struct event_result event_end(struct events *events, const char *name, const uint64_t *switched);

/* The page changed so often without an event, since the last reply that said so. */
uint64_t events_unannounced(struct events *events);

struct offsets read_offsets(const struct clocks *clocks);

#endif
