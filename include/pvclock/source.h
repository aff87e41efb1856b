/* SPDX-License-Identifier: MIT */
/*
 * source.h - how a host learns its own line. By what the host's kernel keeps time, decides how:
 *
 * `tsc`: Linux keeps CLOCK_MONOTONIC_RAW as cycles * mult >> shift with an integer mult that it tells nobody. A source
 * takes bracketed samples (TSC, RAW, TSC). Every pair of samples bounds the slope from both sides; once exactly one
 * integer mult fits between the bounds, the slope is not estimated but *proven*. Beside it stands the residual: how far
 * the best estimate lies from that integer.
 *
 * `kvm-clock` and `hyperv_clocksource_tsc_page`: the host is itself a virtual machine, and its hypervisor published
 * the line in a page. RAW then is the page's clock and a constant, to the ns, so the slope is read and not inferred. It
 * is *proven* once samples over 10 ms leave such a constant possible that lies in every bracket: what was read is what
 * the kernel keeps time by. The page is read again with every sample.
 *
 * A source may be used by one thread at a time.
 */
#ifndef PVCLOCK_SOURCE_H
#define PVCLOCK_SOURCE_H

#include <pvclock/line.h>
#include <pvclock/os.h>
#include <pvclock/reason.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pvclock_source;

enum pvclock_source_from {
	PVCLOCK_SOURCE_FROM_SAMPLES = 0, /* proven from samples */
	PVCLOCK_SOURCE_FROM_KVM_PAGE,    /* read from the hypervisor's pvclock page */
	PVCLOCK_SOURCE_FROM_HYPERV_PAGE, /* read from Hyper-V's reference TSC page */
};

/* What a source knows. */
struct pvclock_source_state {
	bool proven;                /* exactly one kernel slope fits all samples, or the page's does */
	struct pvclock_slope slope; /* ns per host tick; the proven one */
	/*
	 * The kernel's integers, or the page's mul over 2^(32 - its shift): slope == mult / 2^shift. Of Hyper-V's page,
	 * whose scale has 64 bits, the nearest such 32 bits.
	 */
	uint32_t mult;
	unsigned int shift;
	uint64_t candidates;        /* how many integers mult still fit (1 when proven, and of a page) */
	uint64_t samples;           /* samples taken */
	uint64_t elapsed_ns;        /* from the first sample to the last */
	uint64_t bracket_ticks;     /* the narrowest bracket seen */
	double estimate;            /* mult as the narrowest samples estimate it; for people */
	double residual;            /* estimate - mult; for people */
	/*
	 * Host TSC -> CLOCK_MONOTONIC_RAW ns, through a recent sample, within its bracket. (Hyper-V's clock has steps
	 * of 100 ns; this line runs along their upper edges.)
	 */
	struct pvclock_line line;
	char clocksource[32];       /* the kernel's current clocksource */
	enum pvclock_source_from from;
	/*
	 * Of a page: how often its hypervisor moved this machine's clock since the source was opened, and by how many
	 * ns in all. The line has followed; the slope was the same.
	 */
	uint64_t moves;
	int64_t moved_ns;
};

/*
 * Opens a source: checks that the kernel keeps time by a line of the TSC, and takes a first sample. For `tsc` the TSC
 * must be invariant (under a hypervisor, which hides the bit for reasons of its own, the proof alone decides); a page
 * must be shown to this process, and be marked stable by a hypervisor that promises the mark in CPUID. 0; -ENOTSUP:
 * this host has no line, *reason says why; -EBUSY: the hypervisor is writing the page, try again; -ENOMEM; or what the
 * OS said.
 */
int pvclock_source_open(const struct pvclock_os *os, struct pvclock_source **source, struct pvclock_reason *reason);
void pvclock_source_close(struct pvclock_source *source);

/*
 * Takes one more sample (a few hundred ns to a few us) and draws the conclusions. Call it any time after the first;
 * also later, to keep watching: the smallest change of slope is then seen as soon as it adds up to a bracket. The
 * clocksource is read again (some 10 us) if 100 ms have passed since the last time.
 *
 * 0: proven and everything fits; -EAGAIN: not proven yet, or the hypervisor is writing the page; -ENOTSUP: the host's
 * clocksource was switched, no slope fits any longer, the page has another slope or is stable no longer, or the TSC
 * went back: *reason says which. The line is then lost for good; close the source and open another one. What the OS
 * said: try again.
 *
 * A suspend of the host is none of these: the slope stays, and the line goes on from the first sample after it. So it
 * does where a hypervisor moves the clock of this machine, by rewriting its page with the same slope: state.moved_ns.
 */
int pvclock_source_sample(struct pvclock_source *source, struct pvclock_reason *reason);

/*
 * Samples and sleeps until proven (typically 0.3 to 1 s after open; 10 ms for a page) or until timeout_ns passed
 * (-ETIMEDOUT; the reason says what is missing; call it again to go on). An interrupted sleep is gone on with. Else as
 * pvclock_source_sample.
 */
int pvclock_source_learn(struct pvclock_source *source, uint64_t timeout_ns, struct pvclock_reason *reason);

/*
 * Takes over what another process proved on this boot of this host (live update): accepted at once if the samples
 * so far, or the page, do not contradict it (-ENOTSUP and the reason if they do), and watched like a learned one.
 */
int pvclock_source_assume(struct pvclock_source *source, const struct pvclock_slope *slope, struct pvclock_reason *reason);

/* Never fails; state->proven says whether slope and line are meaningful. */
void pvclock_source_get(const struct pvclock_source *source, struct pvclock_source_state *state);

#ifdef __cplusplus
}
#endif
#endif
