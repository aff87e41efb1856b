/* SPDX-License-Identifier: MIT */
/* source_tsc.c - a host whose kernel keeps time by the TSC: its integers are proven from samples. */
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

/* CPUID leaves: Intel SDM 2A (CPUID), AMD APM 3 E.3 and E.4 */
#define CPUID_FEATURES 1u
#define CPUID_FEATURES_ECX_HYPERVISOR (1u << 31)
#define CPUID_EXTENDED_MAX 0x80000000u
#define CPUID_POWER 0x80000007u
#define CPUID_POWER_EDX_INVARIANT_TSC (1u << 8)

static int check(struct pvclock_source *source, struct pvclock_reason *reason)
{
	const struct pvclock_os *os = source->os;
	uint32_t regs[4];

	os->ops->cpuid(os->ctx, CPUID_EXTENDED_MAX, 0, regs);
	if (regs[0] >= CPUID_POWER) {
		os->ops->cpuid(os->ctx, CPUID_POWER, 0, regs);
		if (regs[3] & CPUID_POWER_EDX_INVARIANT_TSC)
			return 0;
	}
	/*
	 * A hypervisor hides the bit so that its guest may move to another machine; it says nothing about the TSC that
	 * the guest has. There the kernel's own choice of the TSC stands, and the samples prove and watch it.
	 */
	os->ops->cpuid(os->ctx, CPUID_FEATURES, 0, regs);
	if (regs[2] & CPUID_FEATURES_ECX_HYPERVISOR)
		return 0;
	pvclock_reason_set(reason, PVCLOCK_REASON_TSC_NOT_INVARIANT,
			   "This CPU's TSC is not invariant (CPUID 0x80000007 EDX bit 8 is clear): it may change its "
			   "rate with the CPU's, so no line of it is a clock; use a CPU that has the bit.");
	return -ENOTSUP;
}

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

/* A sample; source->slept if the host slept between the last one that was used and this one. */
static int take_sample(struct pvclock_source *source, struct pvclock_sample *sample, struct pvclock_reason *reason)
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

static int misfit(struct pvclock_source *source, struct pvclock_reason *reason)
{
	return pvclock_source_lose(source, -ENOTSUP, reason, PVCLOCK_REASON_SLOPE_MISFIT,
				   "No slope that Linux makes fits CLOCK_MONOTONIC_RAW against the TSC: one of them "
				   "changed its rate or jumped while it was sampled (a live migration of this "
				   "machine?); open the source again.");
}

static int unproven(struct pvclock_source *source, struct pvclock_reason *reason)
{
	if (source->candidates == UINT64_MAX)
		pvclock_reason_set(reason, PVCLOCK_REASON_SLOPE_UNPROVEN,
				   "The samples do not bound the slope yet; keep sampling for about a second.");
	else
		pvclock_reason_set(reason, PVCLOCK_REASON_SLOPE_UNPROVEN,
				   "%" PRIu64 " kernel slopes still fit the samples; keep sampling for about "
				   "a second.", source->candidates);
	return -EAGAIN;
}

static int conclude(struct pvclock_source *source, struct pvclock_reason *reason)
{
	unsigned int shift;
	uint32_t mult;
	int error;

	source->candidates = UINT64_MAX;
	if (!pvclock_prover_possible(&source->prover))
		return misfit(source, reason);
	if (!pvclock_prover_shift(&source->prover, &shift))
		return unproven(source, reason);
	source->candidates = pvclock_prover_candidates(&source->prover, shift, &mult);
	if (source->candidates > 1)
		return unproven(source, reason);
	if (source->candidates == 0 || !pvclock_kernel_reduce(&mult, &shift))
		return misfit(source, reason);
	/* the samples may have seen another clock: ask what it was before anything is called proven */
	error = pvclock_source_check_clocksource(source, reason);
	if (error < 0)
		return error;
	pvclock_intercept_from_prover(&source->intercept, mult, shift, &source->prover);
	source->mult = mult;
	source->shift = shift;
	source->proven = true;
	return 0;
}

static int watch(struct pvclock_source *source, const struct pvclock_sample *sample, bool slept,
		 struct pvclock_reason *reason)
{
	if (slept)
		source->intercept.known = false;
	pvclock_intercept_add(&source->intercept, source->mult, source->shift, sample);
	if (pvclock_intercept_possible(&source->intercept))
		return 0;
	return pvclock_source_lose(source, -ENOTSUP, reason, PVCLOCK_REASON_SLOPE_MISFIT,
				   "CLOCK_MONOTONIC_RAW no longer follows the TSC with the slope %" PRIu32 " / 2^%u: "
				   "one of them changed its rate or jumped (a live migration of this machine?); "
				   "open the source again.",
				   source->mult, source->shift);
}

static int sample_tsc(struct pvclock_source *source, struct pvclock_reason *reason)
{
	struct pvclock_sample sample;
	bool slept;
	int error = take_sample(source, &sample, reason);

	if (error < 0)
		return error; /* what it learned of a suspend is kept for the next one */
	slept = source->slept;
	source->slept = false;
	if (source->samples == 0)
		source->first_ns = sample.ns;
	else if (!slept && (sample.before < source->last.after || sample.ns < source->last.ns))
		return pvclock_source_lose(source, -ENOTSUP, reason, PVCLOCK_REASON_TSC_BACKWARDS,
					   "The host's TSC or CLOCK_MONOTONIC_RAW went back between two samples: one "
					   "was set, or this machine was moved to another host; open the source "
					   "again.");
	if (slept) {
		pvclock_prover_restart(&source->prover);
		source->fit = (struct pvclock_fit){ 0 };
	}
	source->samples++;
	source->last = sample;
	if (sample.after - sample.before < source->bracket_ticks)
		source->bracket_ticks = sample.after - sample.before;
	fit_add(&source->fit, &sample);
	if (source->proven)
		return watch(source, &sample, slept, reason);
	pvclock_prover_add(&source->prover, &sample);
	return conclude(source, reason);
}

const struct pvclock_source_kind pvclock_source_tsc = {
	.clocksource = "tsc",
	.check = check,
	.sample = sample_tsc,
};
