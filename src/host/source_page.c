/* SPDX-License-Identifier: MIT */
/*
 * source_page.c - a host that is itself a virtual machine and keeps time by its hypervisor's page.
 *
 * Linux registers both pages' clocks with a mult that is a whole number of ns a step (1 GHz and 10 MHz: 2^shift and
 * 100 * 2^shift), so RAW = page(TSC) + c for one whole number c, exactly, for as long as the kernel runs (a suspend
 * changes it). A bracket [before, after] around RAW = r leaves r - page(after) <= c <= r - page(before). The page is
 * the kernel's own clock if one c is in all of them; that is checked, to the last ns of the narrowest bracket.
 *
 * There is one exception. A page that was moved back leaves the kernel's clock standing at what its last tick read,
 * until the page has caught up with that. (The same holds for the moment in which vCPU 0's page, which alone is seen
 * here, is rewritten after another CPU's.) In the meantime RAW is ahead of page + c; it is never behind.
 */
#include "source.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* A page that is rewritten during a sample: the sample is taken again. It is rewritten every 5 minutes or so. */
#define PAGE_TRIES 8u
/*
 * How long the comparison takes before the page is called proven: brackets of 100 ns then say that page and clock run
 * alike to 10 ppm, which another machine's page, or another page altogether, does not.
 */
#define PROOF_NS 10000000u

/* CPUID leaves: Linux Documentation/virt/kvm/x86/cpuid.rst */
#define CPUID_HYPERVISOR 0x40000000u
#define CPUID_HYPERVISOR_END 0x40010000u
#define CPUID_HYPERVISOR_STEP 0x100u
#define KVM_FEATURES_CLOCKSOURCE_STABLE (1u << 24)

static const struct pvclock_page_form *form_of(const struct pvclock_source *source)
{
	return source->kind->from == PVCLOCK_SOURCE_FROM_KVM_PAGE ? &pvclock_page_form_kvm : &pvclock_page_form_hyperv;
}

static int read_page(struct pvclock_source *source, struct pvclock_page_copy *copy, struct pvclock_reason *reason)
{
	const struct pvclock_page_form *form = form_of(source);
	const char *why;
	int error = form->read(source->watch.page, copy, &why);

	if (error == -EBUSY)
		pvclock_reason_set(reason, PVCLOCK_REASON_OS,
				   "This machine's hypervisor has been writing its %s all the while; try again.",
				   form->name);
	else if (error < 0)
		return pvclock_source_lose(source, error, reason, PVCLOCK_REASON_CLOCKSOURCE,
					   "This machine's %s %s; have its hypervisor give it a stable one (its host "
					   "on clocksource tsc, or under pvclock), and open the source again.",
					   form->name, why);
	return error;
}

/*
 * A hypervisor that knows the flag says so in CPUID; without that the flag means nothing, and the kernel guards its
 * clock against going back (Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW). KVM's leaves come after
 * those of Hyper-V, if it shows these as well.
 */
static bool promises_stable(const struct pvclock_os *os)
{
	static const uint32_t signature[3] = { 0x4b4d564b, 0x564b4d56, 0x4d }; /* "KVMKVMKVM" */
	uint32_t regs[4];

	for (uint32_t leaf = CPUID_HYPERVISOR; leaf < CPUID_HYPERVISOR_END; leaf += CPUID_HYPERVISOR_STEP) {
		os->ops->cpuid(os->ctx, leaf, 0, regs);
		if (memcmp(&regs[1], signature, sizeof(signature)) != 0)
			continue;
		os->ops->cpuid(os->ctx, leaf + 1, 0, regs);
		return (regs[0] & KVM_FEATURES_CLOCKSOURCE_STABLE) != 0;
	}
	return false;
}

static int check(struct pvclock_source *source, struct pvclock_reason *reason)
{
	const struct pvclock_os *os = source->os;
	const struct pvclock_page_form *form = form_of(source);
	struct pvclock_page_watch *watch = &source->watch;
	struct pvclock_line line;
	int error;

	watch->page = os->ops->clock_page != NULL ? os->ops->clock_page(os->ctx, form->page) : NULL;
	if (watch->page == NULL) {
		pvclock_reason_set(reason, PVCLOCK_REASON_CLOCKSOURCE,
				   "The host kernel keeps time by %s and shows no %s (unstable at its boot, or "
				   "vdso=0): have L0 make it stable%s.", source->clocksource, form->name,
				   pvclock_source_offers_tsc(os) ? ", or echo tsc > " PVCLOCK_SOURCE_CLOCKSOURCE : "");
		return -ENOTSUP;
	}
	error = read_page(source, &watch->copy, reason);
	if (error < 0)
		return error;
	if (form == &pvclock_page_form_kvm && !promises_stable(os)) {
		pvclock_reason_set(reason, PVCLOCK_REASON_CLOCKSOURCE,
				   "This machine's hypervisor does not say that it knows of stable pages (CPUID "
				   "0x40000001 EAX bit 24 is clear); have it say so (QEMU: kvmclock-stable-bit=on).");
		return -ENOTSUP;
	}
	if (!form->slope(&watch->copy, &watch->slope) || !pvclock_line_make(&line, 0, 0, &watch->slope, NULL)) {
		pvclock_reason_set(reason, PVCLOCK_REASON_CLOCKSOURCE,
				   "This machine's %s holds a slope that no clock has; have its hypervisor write one "
				   "of 2^-32 to 2^31 ns a tick.", form->name);
		return -ENOTSUP;
	}
	source->mult = line.mul;
	source->shift = (unsigned int)(32 - line.shift);
	source->candidates = 1;
	return 0;
}

/* A sample, and the one page that held all through it. */
static int take(struct pvclock_source *source, struct pvclock_sample *sample, struct pvclock_page_copy *copy,
		struct pvclock_reason *reason)
{
	for (unsigned int i = 0; i < PAGE_TRIES; i++) {
		struct pvclock_page_copy again;
		int error;

		if ((error = read_page(source, copy, reason)) < 0 ||
		    (error = pvclock_source_take(source, sample, reason)) < 0 ||
		    (error = read_page(source, &again, reason)) < 0)
			return error == -EBUSY ? -EAGAIN : error;
		if (again.version == copy->version)
			return 0;
	}
	pvclock_reason_set(reason, PVCLOCK_REASON_OS,
			   "This machine's hypervisor rewrote its %s in the middle of each of %u samples; try again.",
			   form_of(source)->name, PAGE_TRIES);
	return -EAGAIN;
}

static int64_t saturate(pvclock_s128 value)
{
	return value > INT64_MAX ? INT64_MAX : value < INT64_MIN ? INT64_MIN : (int64_t)value;
}

/* The page holds another line than at the last sample. */
static int follow(struct pvclock_source *source, const struct pvclock_page_copy *copy,
		  const struct pvclock_sample *sample, bool slept, struct pvclock_reason *reason)
{
	const struct pvclock_page_form *form = form_of(source);
	struct pvclock_page_watch *watch = &source->watch;
	struct pvclock_slope slope;
	pvclock_s128 was, moved;

	if (!form->slope(copy, &slope) || pvclock_slope_difference(&slope, &watch->slope) != 0)
		return pvclock_source_lose(source, -ENOTSUP, reason, PVCLOCK_REASON_SLOPE_MISFIT,
					   "This machine's hypervisor gave its %s another slope (it was moved to "
					   "another host, or that host's clock was set right); open the source again.",
					   form->name);
	was = form->ns(&watch->copy, sample->before);
	moved = form->ns(copy, sample->before) - was;
	watch->copy = *copy;
	if (slept || moved == 0)
		return 0;
	watch->moves++;
	watch->moved_ns = saturate((pvclock_s128)watch->moved_ns + moved);
	if (moved < 0 && was > watch->stands_until)
		watch->stands_until = was;
	source->fit = (struct pvclock_fit){ 0 }; /* it went through points of a line that has moved */
	return 0;
}

static int compare(struct pvclock_source *source, const struct pvclock_sample *sample, struct pvclock_reason *reason)
{
	const struct pvclock_page_form *form = form_of(source);
	struct pvclock_page_watch *watch = &source->watch;
	struct pvclock_intercept *constant = &watch->constant;
	pvclock_s128 before = form->ns(&watch->copy, sample->before), after = form->ns(&watch->copy, sample->after);
	pvclock_s128 low = sample->ns - after, high = sample->ns - before + 1;

	if (!constant->known) {
		*constant = (struct pvclock_intercept){ .low = low, .high = high, .known = true };
		return 0;
	}
	if (high > constant->low && before < watch->stands_until) {
		if (high < constant->high)
			constant->high = high; /* standing or not, RAW is no less than page + c */
		return 0;
	}
	if (high > constant->low && low >= constant->high && !watch->ahead) {
		/* It may be standing. Then this is where the page has caught up with it. */
		watch->ahead = true;
		watch->stands_until = sample->ns - constant->low;
		return 0;
	}
	if (low > constant->low)
		constant->low = low;
	if (high < constant->high)
		constant->high = high;
	watch->ahead = false;
	if (pvclock_intercept_possible(constant))
		return 0;
	return pvclock_source_lose(source, -ENOTSUP, reason, PVCLOCK_REASON_SLOPE_MISFIT,
				   "CLOCK_MONOTONIC_RAW does not follow this machine's %s: the page is not what the "
				   "kernel keeps time by, or one of them was moved alone; open the source again.",
				   form->name);
}

static int sample_page(struct pvclock_source *source, struct pvclock_reason *reason)
{
	struct pvclock_page_watch *watch = &source->watch;
	struct pvclock_page_copy copy;
	struct pvclock_sample sample;
	bool slept;
	int error;

	if ((error = take(source, &sample, &copy, reason)) < 0 ||
	    (error = pvclock_source_accept(source, &sample, &slept, reason)) < 0)
		return error;
	if (slept) {
		watch->constant.known = false;
		watch->stands_until = 0;
		watch->ahead = false;
	}
	if (source->samples == 1 || slept)
		watch->since_ns = source->elapsed_ns;
	if (copy.version != watch->copy.version && (error = follow(source, &copy, &sample, slept, reason)) < 0)
		return error;
	error = compare(source, &sample, reason);
	if (error < 0 || source->proven)
		return error;
	if (source->elapsed_ns - watch->since_ns < PROOF_NS || watch->ahead) {
		pvclock_reason_set(reason, PVCLOCK_REASON_SLOPE_UNPROVEN,
				   "The kernel's clock was compared with its hypervisor's page for %" PRIu64 " us; "
				   "keep sampling for %u ms.", (source->elapsed_ns - watch->since_ns) / 1000,
				   PROOF_NS / 1000000);
		return -EAGAIN;
	}
	/* asked again before anything is called proven */
	error = pvclock_source_check_clocksource(source, reason);
	source->proven = error == 0;
	return error;
}

static int assume(struct pvclock_source *source, const struct pvclock_slope *assumed, struct pvclock_reason *reason)
{
	if (assumed->mantissa == 0 || pvclock_slope_difference(assumed, &source->watch.slope) != 0) {
		pvclock_reason_set(reason, PVCLOCK_REASON_SLOPE_MISFIT,
				   "This machine's %s has the slope %u / 2^%u, and not the one that was proven: that "
				   "was on another host or another boot, or this machine was moved since.",
				   form_of(source)->name, source->mult, source->shift);
		return -ENOTSUP;
	}
	source->proven = true;
	return 0;
}

/* The page's line and the constant's middle. */
static void make_line(const struct pvclock_source *source, struct pvclock_source_state *state)
{
	const struct pvclock_page_form *form = form_of(source);
	const struct pvclock_page_watch *watch = &source->watch;
	const struct pvclock_intercept *possible = &watch->constant;
	pvclock_s128 constant, ns;

	/* all that is possible lies whole steps from the lowest */
	constant = possible->low + (possible->high - 1 - possible->low) / 2 / form->step_ns * form->step_ns;
	if (form->line(&watch->copy, source->last.before, &state->line)) {
		ns = state->line.ns + constant;
		if (ns >= 0 && ns <= UINT64_MAX) {
			state->line.ns = (uint64_t)ns;
			return;
		}
	}
	/* anchored before RAW's zero: through the sample itself, which loses less than a step */
	ns = form->ns(&watch->copy, source->last.before) + constant;
	(void)pvclock_line_make(&state->line, source->last.before, ns > 0 ? (uint64_t)ns : 0, &watch->slope, NULL);
}

static void get(const struct pvclock_source *source, struct pvclock_source_state *state)
{
	const struct pvclock_page_watch *watch = &source->watch;

	state->mult = source->mult;
	state->shift = source->shift;
	state->moves = watch->moves;
	state->moved_ns = watch->moved_ns;
	if (!source->proven)
		return;
	state->slope = watch->slope;
	if (watch->constant.known)
		make_line(source, state);
}

const struct pvclock_source_kind pvclock_source_kvm_page = {
	.clocksource = "kvm-clock",
	.from = PVCLOCK_SOURCE_FROM_KVM_PAGE,
	.check = check,
	.sample = sample_page,
	.assume = assume,
	.get = get,
};

const struct pvclock_source_kind pvclock_source_hyperv_page = {
	.clocksource = "hyperv_clocksource_tsc_page",
	.from = PVCLOCK_SOURCE_FROM_HYPERV_PAGE,
	.check = check,
	.sample = sample_page,
	.assume = assume,
	.get = get,
};
