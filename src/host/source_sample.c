/* SPDX-License-Identifier: MIT */
/* source_sample.c - bracketed samples (TSC, RAW, TSC), and what every kind of source keeps of them. */
#define _GNU_SOURCE
#include "source.h"

#include <errno.h>
#include <inttypes.h>

/* A bracket that an interrupt or a preemption fell into is wide; one of so many tries is not. */
#define BRACKET_TRIES 8u
/*
 * A suspend between a sample and the look at the sleep clock: the sample is taken again. It cannot happen every time.
 */
#define SUSPEND_TRIES 4u
/*
 * How far apart the reads of the two clocks may be before their difference is asked for again. No suspend is as short.
 */
#define SLEPT_WINDOW_NS 1000000

static int read_clock(struct pvclock_source *source, clockid_t clock, const char *name, int64_t *ns,
		      struct pvclock_reason *reason)
{
	struct timespec ts;
	int error = source->os->ops->clock_gettime(source->os->ctx, clock, &ts);

	if (error < 0) {
		pvclock_reason_set(reason, PVCLOCK_REASON_OS, "clock_gettime(%s) failed with error %d.", name, -error);
		return error;
	}
	if (__builtin_mul_overflow((int64_t)ts.tv_sec, 1000000000, ns) || __builtin_add_overflow(*ns, ts.tv_nsec, ns) ||
	    *ns < 0) {
		pvclock_reason_set(reason, PVCLOCK_REASON_OS,
				   "clock_gettime(%s) gave a time outside 0 to 292 years.", name);
		return -ERANGE;
	}
	return 0;
}

/*
 * The narrowest of several brackets. A narrow one is no more likely to be true than a wide one, since both are; it says
 * more.
 */
static int take_bracket(struct pvclock_source *source, struct pvclock_sample *best, struct pvclock_reason *reason)
{
	const struct pvclock_os *os = source->os;
	uint64_t best_ticks = UINT64_MAX;

	for (unsigned int i = 0; i < BRACKET_TRIES; i++) {
		uint64_t before, after;
		int64_t ns;
		int error;

		before = os->ops->read_tsc(os->ctx).ticks;
		error = read_clock(source, CLOCK_MONOTONIC_RAW, "CLOCK_MONOTONIC_RAW", &ns, reason);
		after = os->ops->read_tsc(os->ctx).ticks;
		if (error < 0)
			return error;
		if (after < before)
			return pvclock_source_lose(source, -ENOTSUP, reason, PVCLOCK_REASON_TSC_BACKWARDS,
						   "The host's TSC went back by %" PRIu64 " ticks from one read to the "
						   "next: its CPUs' TSCs are not in step.", before - after);
		if (after - before < best_ticks) {
			best_ticks = after - before;
			*best = (struct pvclock_sample){ .before = before, .after = after, .ns = (uint64_t)ns };
		}
		/* about as narrow as they get here: no need for more */
		if (best_ticks <= source->bracket_ticks + source->bracket_ticks / 8)
			break;
	}
	return 0;
}

/* Bounds for BOOTTIME - MONOTONIC, which grows exactly when the host sleeps. */
static int read_slept(struct pvclock_source *source, int64_t *low, int64_t *high, struct pvclock_reason *reason)
{
	int64_t before, both, after;
	int error = 0;

	for (unsigned int i = 0; i < BRACKET_TRIES; i++) {
		if ((error = read_clock(source, CLOCK_MONOTONIC, "CLOCK_MONOTONIC", &before, reason)) < 0 ||
		    (error = read_clock(source, CLOCK_BOOTTIME, "CLOCK_BOOTTIME", &both, reason)) < 0 ||
		    (error = read_clock(source, CLOCK_MONOTONIC, "CLOCK_MONOTONIC", &after, reason)) < 0)
			return error;
		/* all three are in 0 to 2^63 - 1: no overflow */
		*low = both - after;
		*high = both - before;
		if (*high - *low < SLEPT_WINDOW_NS)
			break;
	}
	return 0;
}

int pvclock_source_take(struct pvclock_source *source, struct pvclock_sample *sample, struct pvclock_reason *reason)
{
	for (unsigned int i = 0; i < SUSPEND_TRIES; i++) {
		int64_t low, high;
		int error;

		if ((error = take_bracket(source, sample, reason)) < 0 ||
		    (error = read_slept(source, &low, &high, reason)) < 0)
			return error;
		if (source->samples != 0 && low <= source->slept_high_ns) {
			/* it did not: both looks bound the same number */
			if (low > source->slept_low_ns)
				source->slept_low_ns = low;
			if (high < source->slept_high_ns)
				source->slept_high_ns = high;
			return 0;
		}
		source->slept_low_ns = low;
		source->slept_high_ns = high;
		if (source->samples == 0)
			return 0;
		/* It did. Whether before or after the brackets is unknown: they are taken again. */
		source->slept = true;
	}
	pvclock_reason_set(reason, PVCLOCK_REASON_OS, "The host was suspended again and again while its clock was "
						      "sampled; try again.");
	return -EAGAIN;
}

/* Only brackets about as narrow as the narrowest: the middle of a wide one says little. */
static void fit_add(struct pvclock_fit *fit, const struct pvclock_sample *sample)
{
	uint64_t width = sample->after - sample->before;
	double ticks, ns, from_mean;

	if (fit->count != 0 && width > fit->width + fit->width / 4)
		return;
	/*
	 * the first few, before the caches are warm, are wide themselves: forget them once there is a much narrower one
	 */
	if (fit->count == 0 || fit->width > width + width / 4)
		*fit = (struct pvclock_fit){ .origin = *sample, .width = width };
	if (width < fit->width)
		fit->width = width;
	ticks = (double)(sample->before - fit->origin.before) +
		(double)(sample->after - sample->before) / 2;
	ns = (double)(sample->ns - fit->origin.ns);
	fit->count++;
	from_mean = ticks - fit->mean_ticks;
	fit->mean_ticks += from_mean / fit->count;
	fit->mean_ns += (ns - fit->mean_ns) / fit->count;
	fit->variance += from_mean * (ticks - fit->mean_ticks);
	fit->covariance += from_mean * (ns - fit->mean_ns);
}

int pvclock_source_accept(struct pvclock_source *source, const struct pvclock_sample *sample, bool *slept,
			  struct pvclock_reason *reason)
{
	*slept = source->slept;
	source->slept = false;
	/* A page that is moved back takes RAW with it, as far as to the kernel's last tick: its kind judges that. */
	if (source->samples != 0 && !*slept &&
	    (sample->before < source->last.after || (sample->ns < source->last.ns && source->watch.page == NULL)))
		return pvclock_source_lose(source, -ENOTSUP, reason, PVCLOCK_REASON_TSC_BACKWARDS,
					   "The host's TSC or CLOCK_MONOTONIC_RAW went back between two samples: one "
					   "was set, or this machine was moved to another host; open the source "
					   "again.");
	if (source->samples != 0 && sample->ns > source->last.ns)
		source->elapsed_ns += sample->ns - source->last.ns;
	if (*slept)
		source->fit = (struct pvclock_fit){ 0 };
	source->samples++;
	source->last = *sample;
	if (sample->after - sample->before < source->bracket_ticks)
		source->bracket_ticks = sample->after - sample->before;
	fit_add(&source->fit, sample);
	return 0;
}
