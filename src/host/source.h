/* SPDX-License-Identifier: MIT */
/*
 * source.h - what the files of a source share: samples (source_sample.c); the prover's arithmetic (source_prove.c),
 * which is pure; and the kinds of kernel clock that a source can learn from, chosen by the name of the clocksource: one
 * whose integers are proven (source_tsc.c), and those that are read from a hypervisor's page (source_page.c).
 */
#ifndef PVCLOCK_HOST_SOURCE_H
#define PVCLOCK_HOST_SOURCE_H

#include <pvclock/source.h>

#include "reason.h"

__extension__ typedef __int128 pvclock_s128;
__extension__ typedef unsigned __int128 pvclock_u128;

/* --- the prover --------------------------------------------------------------------- */

/* The kernel's clock read `ns` at some tick in [before, after]. */
struct pvclock_sample {
	uint64_t before, after;
	uint64_t ns; /* below 2^63 */
};

struct pvclock_point {
	uint64_t ticks, ns;
};

/* More than any run needed so far; a full hull forgets a point, which costs time to the proof, never its truth. */
#define PVCLOCK_HULL_POINTS 32u

struct pvclock_hull {
	struct pvclock_point points[PVCLOCK_HULL_POINTS];
	unsigned int count;
};

/* ns / ticks; ticks 0: not known yet. */
struct pvclock_bound {
	uint64_t ns, ticks;
};

/*
 * The kernel's clock is floor(c + t * slope). A sample says that the exact line c + t * slope passes on or above
 * (after, ns) and below (before, ns + 1). Which slopes are possible is decided by the convex hulls of these two
 * sets of points alone, so the prover keeps the hulls and no samples.
 */
struct pvclock_prover {
	struct pvclock_hull ceiling; /* points below which the line passes: their lower hull */
	struct pvclock_hull floor;   /* points on or above which it passes: their upper hull */
	struct pvclock_bound above, below; /* above < slope < below */
};

void pvclock_prover_init(struct pvclock_prover *prover);
/*
 * The line was broken off (the host slept) and goes on elsewhere with the same slope: forgets the points, keeps the
 * bounds.
 */
void pvclock_prover_restart(struct pvclock_prover *prover);
/* Samples come in the order in which they were taken: before >= the last one's after. */
void pvclock_prover_add(struct pvclock_prover *prover, const struct pvclock_sample *sample);
/* False: the bounds contradict each other; no line passes through all samples. */
bool pvclock_prover_possible(const struct pvclock_prover *prover);
/*
 * How many integers mult satisfy above < mult / 2^shift < below, and the smallest; UINT64_MAX if a bound is missing.
 * shift 0 ... 63.
 */
uint64_t pvclock_prover_candidates(const struct pvclock_prover *prover, unsigned int shift, uint32_t *first);
/*
 * Every slope that Linux could have chosen between the bounds is an integer over 2^*shift. False: the bounds are too
 * wide to say, or contradict each other.
 */
bool pvclock_prover_shift(const struct pvclock_prover *prover, unsigned int *shift);

/*
 * What Linux computes for a clocksource registered with this kHz (clocks_calc_mult_shift, kernel/time/clocksource.c).
 * khz != 0.
 */
void pvclock_kernel_mult_shift(uint32_t khz, uint32_t *mult, unsigned int *shift);
/* Reduces a proven slope to Linux's own integers for it. False: Linux makes no such slope from any kHz. */
bool pvclock_kernel_reduce(uint32_t *mult, unsigned int *shift);

/*
 * With the slope known, the line's constant, in units of 2^-shift ns: low <= c < high. The clock at tick t is
 * (c + t * mult) >> shift.
 */
struct pvclock_intercept {
	pvclock_s128 low, high;
	bool known;
};

void pvclock_intercept_add(struct pvclock_intercept *intercept, uint32_t mult, unsigned int shift,
			   const struct pvclock_sample *sample);
/* The same from all points of the hulls. */
void pvclock_intercept_from_prover(struct pvclock_intercept *intercept, uint32_t mult, unsigned int shift,
				   const struct pvclock_prover *prover);
/* False: no line with this slope passes through all samples. */
bool pvclock_intercept_possible(const struct pvclock_intercept *intercept);

#define PVCLOCK_SOURCE_CLOCKSOURCE "/sys/devices/system/clocksource/clocksource0/current_clocksource"

/* --- the kinds ----------------------------------------------------------------------- */

/* One way to learn a host's line. A kind's functions return what the public ones do. */
struct pvclock_source_kind {
	const char *clocksource;
	enum pvclock_source_from from;
	int (*check)(struct pvclock_source *source, struct pvclock_reason *reason);  /* before the first sample */
	int (*sample)(struct pvclock_source *source, struct pvclock_reason *reason);
	int (*assume)(struct pvclock_source *source, const struct pvclock_slope *slope, struct pvclock_reason *reason);
	/* mult and shift, and, once proven, slope and line; the rest is there, or 0 */
	void (*get)(const struct pvclock_source *source, struct pvclock_source_state *state);
};

extern const struct pvclock_source_kind pvclock_source_tsc, pvclock_source_kvm_page, pvclock_source_hyperv_page;

/* A hypervisor's page as it stood at one version: a clock in ns, as a function of the TSC. */
struct pvclock_page_copy {
	uint32_t version;
	struct pvclock_line line;          /* pvclock */
	struct pvclock_hyperv_line hyperv; /* Hyper-V */
};

/* What one hypervisor's page looks like (source_page_read.c); what is done with it is the same (source_page.c). */
struct pvclock_page_form {
	const char *name;
	enum pvclock_clock_page page;
	unsigned int step_ns; /* the clock's readings are multiples of it */
	/* 0; -EBUSY: it is being written; -ENOTSUP: it is no clock of this machine, *why says what it is instead */
	int (*read)(const void *page, struct pvclock_page_copy *copy, const char **why);
	pvclock_s128 (*ns)(const struct pvclock_page_copy *copy, uint64_t ticks);
	/* False: out of a slope's range. */
	bool (*slope)(const struct pvclock_page_copy *copy, struct pvclock_slope *slope);
	/* A line that follows it from `ticks` on, before any step. False: no 64 bits hold it there. */
	bool (*line)(const struct pvclock_page_copy *copy, uint64_t ticks, struct pvclock_line *line);
};

extern const struct pvclock_page_form pvclock_page_form_kvm, pvclock_page_form_hyperv;

/* A page and how CLOCK_MONOTONIC_RAW compares with it. */
struct pvclock_page_watch {
	const void *page;
	struct pvclock_page_copy copy; /* what it said last */
	struct pvclock_slope slope;
	struct pvclock_intercept constant; /* RAW - page, in ns */
	uint64_t since_ns;                 /* when the comparison began, as elapsed_ns */
	pvclock_s128 stands_until;         /* RAW stands still while the page is below this */
	bool ahead;                        /* RAW was found ahead of the page, and has not been seen to fit since */
	uint64_t moves;
	int64_t moved_ns;
};

/* For the best estimate: a line fitted through the middles of the narrowest brackets (Welford's running form). */
struct pvclock_fit {
	struct pvclock_sample origin;
	uint64_t width; /* the narrowest bracket in it, ticks */
	double mean_ticks, mean_ns, variance, covariance;
	double count;
};

struct pvclock_source {
	const struct pvclock_os *os;
	const struct pvclock_source_kind *kind;

	struct pvclock_prover prover;
	struct pvclock_intercept intercept; /* once the slope is known */
	struct pvclock_fit fit;
	bool proven;
	uint32_t mult;
	unsigned int shift;
	uint64_t candidates;

	uint64_t samples;
	uint64_t elapsed_ns; /* since the first sample, and never back */
	uint64_t bracket_ticks;
	struct pvclock_sample last;
	uint64_t since_ns; /* the line is where it is since then, by elapsed_ns ... */
	bool held;         /* ... and that was seen to hold */

	struct pvclock_page_watch watch; /* of the kinds that have a page */

	/* BOOTTIME - MONOTONIC, how long the host slept since its boot, lies in here */
	int64_t slept_low_ns, slept_high_ns;
	bool slept; /* since the last sample that was used */

	char clocksource[32];
	uint64_t clocksource_checked_ns;

	int error; /* once the line is lost it stays lost: 0 or -ENOTSUP, and why */
	struct pvclock_reason reason;
};

/* One sample, of which nothing is kept yet but whether the host slept before it. 0 or -errno. */
int pvclock_source_take(struct pvclock_source *source, struct pvclock_sample *sample, struct pvclock_reason *reason);
/*
 * Keeps it: counts and fits it, unless it is before the last one (-ENOTSUP, lost). *slept: the host slept between the
 * two, and the line goes on elsewhere.
 */
int pvclock_source_accept(struct pvclock_source *source, const struct pvclock_sample *sample, bool *slept,
			  struct pvclock_reason *reason);
bool pvclock_source_offers_tsc(const struct pvclock_os *os);
/* 0: still the one the source was opened with; -ENOTSUP and the reason if it was switched; or what the OS said. */
int pvclock_source_check_clocksource(struct pvclock_source *source, struct pvclock_reason *reason);
/* Stores *reason for every later call and returns error. */
int pvclock_source_lose(struct pvclock_source *source, int error, struct pvclock_reason *reason,
			enum pvclock_reason_code code, const char *format, ...) __attribute__((format(printf, 5, 6)));

#endif
