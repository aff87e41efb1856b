/* SPDX-License-Identifier: MIT */
/* source_tsc.c - a host whose kernel keeps time by the TSC: its integers are proven from samples. */
#define _GNU_SOURCE
#include "source.h"

#include <errno.h>
#include <inttypes.h>

/* CPUID leaves: Intel SDM 2A (CPUID), AMD APM 3 E.3 and E.4 */
#define CPUID_FEATURES 1u
#define CPUID_FEATURES_ECX_HYPERVISOR (1u << 31)
#define CPUID_EXTENDED_MAX 0x80000000u
#define CPUID_POWER 0x80000007u
#define CPUID_POWER_EDX_INVARIANT_TSC (1u << 8)

#define UNHEARD_MIN_NS 100000     /* no machine stops and starts its CPUs in less */
#define UNHEARD_MAX_NS 2000000000 /* Linux reads a clock of whole seconds for it */
#define HELD_NS 1000000000u       /* shows a rate that is wrong by 1 kHz */

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
	source->held = true;
	return 0;
}

/*
 * CLOCK_MONOTONIC_RAW stands still while Linux sleeps. A sleep that it breaks off at once may be too short for the
 * clock by which it counts sleeps, and then nobody tells of it. The TSC is then ahead of the line, by no more than such
 * a thing takes.
 */
static bool is_unheard_sleep(const struct pvclock_source *source, const struct pvclock_intercept *before, const struct pvclock_sample *sample)
{
	struct pvclock_intercept alone = { .known = false };
	pvclock_s128 behind_ns;

	pvclock_intercept_add(&alone, source->mult, source->shift, sample);
	behind_ns = (before->low - alone.high) >> source->shift;
	return behind_ns >= UNHEARD_MIN_NS && behind_ns <= UNHEARD_MAX_NS;
}

static int watch(struct pvclock_source *source, const struct pvclock_sample *sample, bool slept,
		 struct pvclock_reason *reason)
{
	struct pvclock_intercept before = source->intercept;

	if (slept)
		source->intercept.known = false;
	pvclock_intercept_add(&source->intercept, source->mult, source->shift, sample);
	if (pvclock_intercept_possible(&source->intercept)) {
		source->held |= source->elapsed_ns - source->since_ns >= HELD_NS;
		return 0;
	}
	/* Once; a TSC that runs at another rate from now on falls behind again and again, and does not hold for a second. */
	if (source->held && is_unheard_sleep(source, &before, sample)) {
		source->intercept.known = false;
		pvclock_intercept_add(&source->intercept, source->mult, source->shift, sample);
		source->since_ns = source->elapsed_ns;
		source->held = false;
		return 0;
	}
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
	int error = pvclock_source_take(source, &sample, reason);

	if (error == 0)
		error = pvclock_source_accept(source, &sample, &slept, reason);
	if (error < 0)
		return error;
	if (slept)
		pvclock_prover_restart(&source->prover);
	if (source->proven)
		return watch(source, &sample, slept, reason);
	pvclock_prover_add(&source->prover, &sample);
	return conclude(source, reason);
}

/* mult / 2^shift of a slope that has such a form, as Linux would have it. */
static bool slope_to_kernel(const struct pvclock_slope *slope, uint32_t *mult, unsigned int *shift)
{
	struct pvclock_slope same;
	int power = -(slope->exponent + 32);

	*mult = (uint32_t)(slope->mantissa >> 32);
	for (; power > 32 && !(*mult & 1) && *mult; power--)
		*mult >>= 1;
	if (power < 0 || power > 32)
		return false;
	*shift = (unsigned int)power;
	if (!pvclock_slope_from_kernel(*mult, *shift, &same) || pvclock_slope_difference(&same, slope) != 0)
		return false;
	(void)pvclock_kernel_reduce(mult, shift);
	return true;
}

static int assume(struct pvclock_source *source, const struct pvclock_slope *assumed, struct pvclock_reason *reason)
{
	struct pvclock_intercept intercept;
	unsigned int shift;
	uint64_t count;
	uint32_t mult, first;

	if (!slope_to_kernel(assumed, &mult, &shift)) {
		pvclock_reason_set(reason, PVCLOCK_REASON_SLOPE_MISFIT,
				   "%" PRIu64 " x 2^%d ns a tick is no slope of a Linux clock; pass what a proven "
				   "source reported.", assumed->mantissa, assumed->exponent);
		return -ENOTSUP;
	}
	if (source->proven) {
		if (mult == source->mult && shift == source->shift)
			return 0;
		pvclock_reason_set(reason, PVCLOCK_REASON_SLOPE_MISFIT,
				   "The host's slope was proven to be %u / 2^%u and is not %u / 2^%u: the record is of "
				   "another host or another boot.",
				   source->mult, source->shift, mult, shift);
		return -ENOTSUP;
	}
	count = pvclock_prover_candidates(&source->prover, shift, &first);
	pvclock_intercept_from_prover(&intercept, mult, shift, &source->prover);
	if ((count != UINT64_MAX && (mult < first || mult - first >= count)) ||
	    !pvclock_intercept_possible(&intercept)) {
		pvclock_reason_set(reason, PVCLOCK_REASON_SLOPE_MISFIT,
				   "The host's clock does not run with the slope %u / 2^%u: it was proven on another "
				   "host or another boot.", mult, shift);
		return -ENOTSUP;
	}
	source->intercept = intercept;
	source->mult = mult;
	source->shift = shift;
	source->candidates = 1;
	source->proven = true;
	return 0;
}

/*
 * The line through the middle of what the samples leave possible, anchored where its ns begins, so that it loses less
 * than a tick.
 */
static void make_line(const struct pvclock_source *source, struct pvclock_source_state *state)
{
	uint64_t ticks = source->last.before;
	uint32_t mult = source->mult;
	pvclock_s128 constant, value, one = (pvclock_s128)1 << source->shift;

	constant = source->intercept.low + (source->intercept.high - source->intercept.low) / 2;
	/* the clock at `ticks`, times 2^shift: near last.ns, so not negative */
	value = constant + (pvclock_s128)mult * ticks;
	ticks += (uint64_t)(((one - value % one) % one + mult - 1) / mult);
	value = constant + (pvclock_s128)mult * ticks;
	(void)pvclock_line_make(&state->line, ticks, (uint64_t)(value / one), &state->slope, NULL);
}

static void get(const struct pvclock_source *source, struct pvclock_source_state *state)
{
	uint32_t first;

	if (source->proven) {
		state->mult = source->mult;
		state->shift = source->shift;
		(void)pvclock_slope_from_kernel(source->mult, source->shift, &state->slope);
		make_line(source, state);
	} else if (pvclock_prover_shift(&source->prover, &state->shift) &&
		   pvclock_prover_candidates(&source->prover, state->shift, &first) != UINT64_MAX) {
		/* for whoever watches the proof: not proven */
		state->mult = first;
	}
}

const struct pvclock_source_kind pvclock_source_tsc = {
	.clocksource = "tsc",
	.from = PVCLOCK_SOURCE_FROM_SAMPLES,
	.check = check,
	.sample = sample_tsc,
	.assume = assume,
	.get = get,
};
