/* SPDX-License-Identifier: MIT */
/*
 * rows.h - one row for each thing that was run: what it measured, whether the promises hold, and how that is said to programs
 * (JSON) and to people (a table, and sentences computed from the numbers).
 */
#ifndef DEMO_ROWS_H
#define DEMO_ROWS_H

#include "judge.h"

#include <jansson.h>
#include <stdio.h>

struct row {
	char scenario[32]; /* pause-resume, live-update */
	char who[12];      /* stock, steer, own: what was asked for */
	char mode[12];     /* what the VMM said it does */
	char where[12], kernel[72];
	char reason[256];  /* why not stable, or why another mode than asked for; empty if there is nothing to say */
	unsigned int events, vcpus;
	unsigned int rate_changes; /* events after which the guest's TSC had another rate */
	unsigned int unit_ns;  /* what this clock is read in; 0: 1 */
	int64_t jump_ns_max;   /* largest magnitude of all jumps */
	int64_t jump_ns_total; /* the clock's whole way */
	uint64_t backwards, unannounced, failed;
	bool stable, tscs_differ; /* it must be stable unless the vCPUs' TSCs differ, and then it may not be */
	bool drift_known;      /* the host's own slope was proven, so the exact drift is known */
	double drift_ppb, drift_measured_ppb, drift_error_ppb;
	double drift_limit_ppb; /* what is promised of drift_ppb; 0: exactly the host's */
	double blackout_us_median;
	uint64_t reads, checked;
	double seconds;        /* between the two drift samples */
	struct pvclock_line line; /* the first */
	bool unpromised;       /* shown and not judged: no promise covers this */
	char failure[512];     /* why the run ended early, a sentence; the numbers are what was seen until then */
	json_t *extra;         /* further columns, for programs; owned, may be NULL */

	/* for the picture; owned */
	struct judge_bucket *buckets;
	size_t bucket_count;
	struct judge_event *marks;
	size_t mark_count;
};

struct rows {
	struct row *row;
	size_t count;
};

/* What P1 allows a jump, ns: a unit. */
int64_t rows_jump_limit_ns(const struct row *row);

struct row *rows_add(struct rows *rows); /* zeroed, valid until the next one; NULL: out of memory */
void rows_clear(struct rows *rows);
const struct row *rows_find(const struct rows *rows, const char *scenario, const char *who);

json_t *rows_json(const struct rows *rows);
/* Adds a row that rows_json once wrote; what it does not know becomes a further column. NULL: no row, or out of memory. */
struct row *rows_add_json(struct rows *rows, const json_t *object);
void rows_print_table(const struct rows *rows, FILE *out);

/* What the numbers mean, in at most three sentences; each ends with a newline. */
void rows_print_meaning(const struct rows *rows, FILE *out);

/* Every broken promise and every run that failed, one line each. Returns how many. */
unsigned int rows_print_broken(const struct rows *rows, FILE *out);

/* A time with its sign and the unit that suits it: "-10.4 ms", "+1 ns", "0 ns". */
#define ROWS_TEXT 32
const char *rows_format_ns(int64_t ns, char text[ROWS_TEXT]);

#endif
