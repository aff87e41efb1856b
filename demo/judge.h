/* SPDX-License-Identifier: MIT */
/*
 * judge.h - judges a clock as a *function*. It gets what a guest's vCPUs read, as pairs (guest TSC, ns), and the line that
 * was in force, and says whether any reading left that line.
 *
 * A reading is compared with the line at its own TSC value. There is no bracket, so nothing hides below the
 * width of one: 1 ns is seen as 1 ns, whether the guest reads a thousand times a second or a hundred million times.
 *
 * How an event (a pause, a live update) is measured. Every reading from the event's beginning until a window of
 * readings after its end is compared with the line that was in force before. The *jump* is the difference of the
 * largest magnitude, 0 if there is none. It is promise P1 as it is written: the same TSC value, before and after. Two
 * lines of one slope and different anchors differ by a constant, but by the floor in both they part by that constant or
 * by 1 ns more: the jump is then the larger one. So that these floors do not pile up over many events, the *total* is
 * not the sum of the jumps but the difference of the last readings from the very first line, which is the same sum
 * without the roundings.
 *
 * Between events every reading must be on the line exactly. One that is not is a jump that nobody announced, and counts like one.
 */
#ifndef DEMO_JUDGE_H
#define DEMO_JUDGE_H

#include "shared.h"

#include <pvclock/line.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JUDGE_BUCKET_NS 20000000ull /* of the trace: one dot of the picture */

/* What the readings of 20 ms were, against the first line. For the picture. */
struct judge_bucket {
	uint64_t readings;
	int64_t min_ns, max_ns;
};

struct judge_event {
	double seconds; /* by the guest's clock, since its first reading */
	int64_t jump_ns;
	bool announced;
};

struct judge_vcpu {
	struct pvclock_line line; /* in force */
	bool known;
	bool exact;               /* false: the line before, moved by what was seen; it may be 2 ns off */
	struct vmm_ring_entry last;
	uint64_t readings;
	uint64_t after;           /* readings past the open event's end */
	int64_t difference;       /* the last reading's, from the line in force */
	int64_t residual_first, residual; /* from the first line */
	struct vmm_ring_entry *queue;     /* what was fed and not yet judged */
	size_t queue_first, queue_count, queue_size;
};

struct judge {
	unsigned int vcpus;
	struct judge_vcpu vcpu[VMM_VCPUS_MAX];

	bool started;
	struct pvclock_line reference; /* the first line: the ideal */
	uint64_t start_ns;             /* the first reading's, by the reference */

	bool in_event, event_ended;
	uint64_t event_begin, event_end; /* ticks */
	uint64_t event_ns;        /* what the clock said when it began */
	int64_t event_jump;

	bool ordered;             /* order_* hold a reading */
	uint64_t order_ns;        /* the merged readings' last */

	/* what was seen */
	uint64_t readings;        /* judged, on a known line */
	uint64_t checked;         /* equal to the line in force, exactly */
	uint64_t failed;          /* the guest got no reading */
	uint64_t unstable;        /* without TSC_STABLE */
	uint64_t backwards;       /* below the one before it, in TSC order, over all vCPUs */
	uint64_t unannounced;     /* jumps outside of events */
	int64_t jump_max;         /* magnitude, of all of them */
	uint64_t lost;            /* readings that no memory was left for */

	struct judge_event *events;
	size_t event_count, event_size;
	struct judge_bucket *buckets;
	size_t bucket_count;
};

void judge_init(struct judge *judge, unsigned int vcpus);
void judge_clear(struct judge *judge);

/* Takes over `count` readings of one vCPU, in the order in which it made them. They are judged by judge_merge. */
void judge_feed(struct judge *judge, unsigned int vcpu, const struct vmm_ring_entry *readings, size_t count);

/*
 * Judges what was fed, merged over all vCPUs in TSC order, as far as that order is certain: up to the vCPU that is
 * farthest behind. `flush`: everything (no vCPU will feed anything older).
 */
void judge_merge(struct judge *judge, bool flush);

/* The newest reading fed by a vCPU, judged or not. False: none. */
bool judge_newest(const struct judge *judge, unsigned int vcpu, struct vmm_ring_entry *reading);

/*
 * The line in force for a vCPU from now on. The first one is the ideal that everything is compared with in the end.
 * False, and nothing has changed, if the newest reading is not on it: such a line is not the one the guest reads.
 */
bool judge_set_line(struct judge *judge, unsigned int vcpu, const struct pvclock_line *line);

/*
 * An event, announced. begin: before it; everything fed so far was read before. mark: it is over; everything fed from
 * here on was read after it. after: how many such readings the vCPU with the fewest has been judged on. end: closes the
 * event and returns its jump.
 */
void judge_event_begin(struct judge *judge);
void judge_event_mark(struct judge *judge);
uint64_t judge_event_after(const struct judge *judge);
int64_t judge_event_end(struct judge *judge);

/* The clock's whole way from the first line, ns: the sum of all jumps without the sum of their roundings. */
int64_t judge_total(const struct judge *judge);

#endif
