/* SPDX-License-Identifier: MIT */
/*
 * verdict.h - from the probe's replies to the numbers of a row.
 *
 * The jump of an event is what the guest's page says it is: the function before and after, evaluated at the same TSC
 * values, exact. Where the guest cannot read its page, or has none, it is what was measured: (TSC, clock, TSC) brackets
 * against the slope before, with their width as the uncertainty; the row then says "measured". Both are always taken,
 * and where they contradict each other beyond that width, the larger one counts: a page that looks right does not
 * excuse a clock that moved.
 */
#ifndef LAB_VERDICT_H
#define LAB_VERDICT_H

#include <jansson.h>
#include <pvclock/line.h>
#include <stdbool.h>
#include <stdint.h>

#define VERDICT_BLACKOUTS_MAX 1024

struct verdict {
	/* events */
	unsigned int events, by_page, contradicted;
	int64_t jump_max;              /* largest magnitude */
	int64_t jump_sum;
	int64_t measured_max, bracket_max;
	int64_t realtime_step_max, boottime_step_max;
	uint64_t backwards;            /* seen within events; of earlier lives too */
	uint64_t unannounced;
	unsigned int unstable;         /* replies that said the page is not stable */
	double rate_ppb;               /* of the last event that changed the slope */
	unsigned int rates;            /* how many events changed it */
	int64_t turn_ns;               /* there: how far ahead the old line was where the new one begins */

	/* the clock's whole way in this life, from its very first page */
	struct pvclock_line first, last;
	struct pvclock_hyperv_line first_units, last_units; /* of Hyper-V's page, of which the lines are then the nearest; or scale 0 */
	bool first_known, last_known;
	int64_t earlier_total;         /* of lives that are over */

	/* the guest */
	uint64_t samples, reported_backwards, reported_unannounced;
	unsigned int cpus, lives;
	char clocksource[32], kernel[72];
	bool cost_known, vdso;
	int64_t vdso_ticks, syscall_ticks;

	/* the way, for a picture: when it was looked at, since the guest was first met, and how far the clock had come */
	int64_t met_ms;
	struct {
		int64_t ms, ns;
	} trace[VERDICT_BLACKOUTS_MAX];
	unsigned int traced;

	int64_t blackout_ns[VERDICT_BLACKOUTS_MAX];
	unsigned int blackouts;

	/* the preload's own log */
	unsigned int corrections;
	int64_t residual_max, moved_ticks;
	char mode[12], reason[256], lost[256];
};

/* A page as the probe prints it. False: none, or no valid line. */
bool verdict_line(const json_t *page, struct pvclock_line *line, bool *stable);

/* A guest's first reply, also of a new life: what follows is compared with its page. */
void verdict_hello(struct verdict *verdict, const json_t *reply);
/* The reply to `end`. False: it does not tell what the event did. */
bool verdict_event(struct verdict *verdict, const json_t *reply);
void verdict_blackout(struct verdict *verdict, int64_t ns);
void verdict_cost(struct verdict *verdict, const json_t *reply);
void verdict_report(struct verdict *verdict, const json_t *reply);
/* The preload's log, one JSON object a line. `arrived`: of a VM whose state came from another; any other has nothing to
 * lose. */
void verdict_log(struct verdict *verdict, const char *text, bool arrived);

/* All the way, ns: first page to last where both are known and run at one rate, else the sum of the jumps. */
int64_t verdict_total(const struct verdict *verdict);
uint64_t verdict_backwards(const struct verdict *verdict);
bool verdict_stable(const struct verdict *verdict);
/* What the guest's clock is read in, ns. */
unsigned int verdict_unit_ns(const struct verdict *verdict);
double verdict_blackout_us(const struct verdict *verdict);
/* The last page's slope against `host`, in ppb. False: no page was read. */
bool verdict_drift(const struct verdict *verdict, const struct pvclock_slope *host, double *ppb);

#endif
