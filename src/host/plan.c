/* SPDX-License-Identifier: MIT */
/*
 * plan.c - what a host makes of a record, by arithmetic alone: how long the blackout was, what of it is counted, where the
 * clock and the TSC then stand, and by which line they go on.
 */
#include "vm.h"
#include "reason.h"

#include <pvclock/plan.h>

#include <errno.h>
#include <string.h>

/* What a TSC and CLOCK_BOOTTIME may differ by, if the TSC has not stopped: NTP's slewing, and an instant. */
#define SLEW_PPM 600u
#define INSTANT_NS 1000000u

const char *pvclock_precision_name(enum pvclock_precision precision)
{
	static const char *const names[] = { "exact", "continued", "legacy" };

	return precision <= PVCLOCK_LEGACY ? names[precision] : "?";
}

/* --- the switch ------------------------------------------------------------------------------ */

bool pvclock_switch_make(struct pvclock_switch *at, const struct pvclock_line *old, uint64_t tsc,
			 const struct pvclock_slope *slope)
{
	struct pvclock_switch next = { .tsc = tsc, .old = *old, .line = *old };
	struct pvclock_line unit;
	struct pvclock_slope was;

	if (!pvclock_line_make(&unit, 0, 0, slope, NULL) || !pvclock_slope_from_line(old, &was))
		return false;
	next.exact = unit.mul == old->mul && unit.shift == old->shift;
	if (!next.exact) {
		next.rate_difference = pvclock_slope_difference(slope, &was);
		if (!pvclock_line_continue(old, tsc, tsc, slope, &next.line, NULL))
			return false;
	}
	pvclock_inverse_make(&next.inverse, &next.line);
	*at = next;
	return true;
}

uint64_t pvclock_switch_deadline(const struct pvclock_switch *at, uint64_t tsc, uint64_t deadline)
{
	uint64_t tick; /* of the line's counter */

	if (deadline <= tsc || at->exact)
		return deadline;
	if (__builtin_add_overflow(at->tsc, deadline - tsc, &tick) ||
	    !pvclock_first_tick(&at->inverse, pvclock_line_ns(&at->old, tick), &tick))
		return UINT64_MAX;
	if (__builtin_add_overflow(tsc, tick > at->tsc ? tick - at->tsc : 0, &tick))
		return UINT64_MAX;
	return tick ? tick : 1; /* 0 would disarm it */
}

/* --- time that passed -------------------------------------------------------------------------- */

static uint64_t first_tsc(const struct pvclock_record *record, struct pvclock_host_tsc at)
{
	return pvclock_tsc_to_guest(&record->vcpus[0].tsc, at).ticks;
}

/* The line as the first vCPU reads it. */
static struct pvclock_line first_line(const struct pvclock_record *record)
{
	struct pvclock_line line = record->line;

	pvclock_line_shift(&line, (int64_t)(record->vcpus[0].tsc.offset - record->reference.offset));
	return line;
}

/* The same boot, and its TSC went on: then it tells the time that passed, and needs no measuring. */
static bool tsc_went_on(const struct pvclock_elapsed *elapsed, uint64_t ns)
{
	uint64_t apart = ns > elapsed->ns ? ns - elapsed->ns : elapsed->ns - ns;

	return elapsed->by == PVCLOCK_BY_BOOTTIME && apart <= INSTANT_NS + elapsed->ns / 1000000 * SLEW_PPM;
}

/* One line serves vCPUs whose TSCs differ by an offset, and a plan has one rate for all. */
static int refuse_other_rates(const struct pvclock_record *record, struct pvclock_reason *reason)
{
	for (uint32_t i = 0; i < record->vcpu_count; i++) {
		if (tsc_same_rate(&record->vcpus[i].tsc, &record->reference))
			continue;
		pvclock_reason_set(reason, PVCLOCK_REASON_TSC_RATES_DIFFER,
				   "The record's vCPU %u has another TSC ratio than its line is for; give all vCPUs one TSC rate before the save.",
				   record->vcpus[i].index);
		return -EINVAL;
	}
	return 0;
}

static bool stays_here(enum pvclock_blackout blackout)
{
	return blackout == PVCLOCK_BLACKOUT_LIVE_UPDATE || blackout == PVCLOCK_BLACKOUT_PAUSE;
}

static void measure(const struct pvclock_record *record, const struct pvclock_host_time *now, struct pvclock_plan *plan)
{
	struct pvclock_line line;
	uint64_t ns;

	pvclock_elapsed_measure(&record->time, now, &plan->elapsed);
	if (now->at.ticks < record->time.at.ticks || !pvclock_line_make(&line, 0, 0, &record->host, NULL))
		return;
	ns = pvclock_line_ns(&line, now->at.ticks - record->time.at.ticks);
	ns = ns < INT64_MAX ? ns : INT64_MAX;
	if (stays_here(plan->blackout) || tsc_went_on(&plan->elapsed, ns))
		plan->elapsed = (struct pvclock_elapsed){ .by = PVCLOCK_BY_TSC, .measured_ns = (int64_t)ns, .ns = ns };
}

/* What the clock counts of it, and where that brings the first vCPU's TSC. False: no tick is that far. */
static bool count(const struct pvclock_record *record, const struct pvclock_destination *destination,
		  const struct pvclock_line *line, struct pvclock_plan *plan, uint64_t *tsc)
{
	uint64_t then = first_tsc(record, record->time.at), ns;
	struct pvclock_inverse inverse;

	*tsc = then;
	if (record->policy.on[plan->blackout] == PVCLOCK_FREEZE)
		return true;
	plan->counted_ns = plan->elapsed.ns;
	plan->capped = plan->counted_ns > record->policy.advance_max_ns;
	if (plan->capped)
		plan->counted_ns = record->policy.advance_max_ns;
	else
		plan->bound_ns = plan->elapsed.bound_ns;
	if (plan->elapsed.by == PVCLOCK_BY_TSC && !plan->capped) {
		*tsc = first_tsc(record, destination->time.at);
		if (*tsc < then || plan->counted_ns == INT64_MAX)
			return false;
	} else if (plan->counted_ns) {
		pvclock_inverse_make(&inverse, line);
		if (__builtin_add_overflow(pvclock_line_ns(line, then), plan->counted_ns, &ns) ||
		    !pvclock_first_tick(&inverse, ns, tsc))
			return false;
	}
	plan->counted_ticks = *tsc - then;
	return true;
}

/* --- the rate ---------------------------------------------------------------------------------- */

/* Scaled to the rate that the guest had, if this host can; else as the host's own TSC runs. */
static void choose_ratio(const struct pvclock_slope *guest, const struct pvclock_destination *destination,
			 struct pvclock_plan *plan)
{
	uint64_t khz = pvclock_rate_khz(guest);
	struct pvclock_tsc_transform ratio;

	plan->ratio = pvclock_tsc_unscaled(0);
	if (destination->frac_bits == 0 || pvclock_rates_alike(guest, &destination->host) || khz == 0 || khz > UINT32_MAX)
		return;
	ratio = pvclock_rate_ratio(khz, pvclock_rate_khz(&destination->host), destination->frac_bits);
	if (ratio.ratio == 0 || (destination->ratio_max && ratio.ratio > destination->ratio_max))
		return;
	plan->ratio = ratio;
	plan->tsc_khz = (uint32_t)khz;
}

/* --- the plan ---------------------------------------------------------------------------------- */

static int refuse_other_boot(const struct pvclock_record *record, const struct pvclock_destination *destination,
			     struct pvclock_reason *reason)
{
	static const uint8_t unknown[PVCLOCK_BOOT_ID_SIZE];
	const struct pvclock_host_time *then = &record->time, *now = &destination->time;
	bool known = memcmp(then->boot_id, unknown, sizeof(unknown)) != 0 && memcmp(now->boot_id, unknown, sizeof(unknown)) != 0;

	if (known ? pvclock_host_time_same_boot(then, now) : now->at.ticks >= then->at.ticks)
		return 0;
	pvclock_reason_set(reason, PVCLOCK_REASON_OTHER_HOST,
			   "The record was saved on another host or another boot of this one (host TSC %llu there, %llu here); a live "
			   "update stays on its host: restore it as a migration or a snapshot.",
			   (unsigned long long)then->at.ticks, (unsigned long long)now->at.ticks);
	return -EINVAL;
}

static int refuse_slope(const struct pvclock_slope *host, struct pvclock_reason *reason)
{
	pvclock_reason_set(reason, PVCLOCK_REASON_NO_LINE,
			   "This host's slope, %llu x 2^%d ns a tick, is no clock's; learn it anew from its kernel (pvclock host).",
			   (unsigned long long)host->mantissa, host->exponent);
	return -EINVAL;
}

static bool tscs_differ(const struct pvclock_record *record)
{
	for (uint32_t i = 1; i < record->vcpu_count; i++)
		if (record->vcpus[i].tsc.offset != record->vcpus[0].tsc.offset)
			return true;
	return false;
}

/* Of what KVM's clock is none that can be aimed, where it is the kernel that publishes. NULL: it can. */
static const char *not_aimed(const struct pvclock_record *record, const struct pvclock_destination *destination,
			     const struct pvclock_plan *plan)
{
	if (!destination->kernel_publishes)
		return NULL;
	if (plan->tsc_khz && !destination->kernel_aims_scaled)
		return "a guest's scaled TSC";
	return destination->tsc_offsets && tscs_differ(record) ? "vCPUs whose TSCs differ" : NULL;
}

/* Which slope the clock can have here, per tick of the guest's TSC as it will run. */
static int choose_slope(const struct pvclock_record *record, const struct pvclock_destination *destination,
			struct pvclock_plan *plan, struct pvclock_slope *slope, struct pvclock_reason *reason)
{
	const struct pvclock_slope *host = destination->kernel_publishes ? &destination->kernel : &destination->host;
	const char *what = not_aimed(record, destination, plan);
	struct pvclock_line scaled;

	if (host->mantissa == 0 && record->policy.fall_back) {
		plan->precision = PVCLOCK_LEGACY;
		return pvclock_slope_from_line(&plan->at.old, slope) ? 0 : -EINVAL;
	}
	if (host->mantissa == 0) {
		pvclock_reason_set(reason, destination->no_line.code ? destination->no_line.code : PVCLOCK_REASON_NO_LINE,
				   "This host cannot keep the clock as a function: %.110s Take another host, or let it go on by its value "
				   "(policy.fall_back).", destination->no_line.text);
		return -ENOTSUP;
	}
	if (what && !record->policy.fall_back) {
		pvclock_reason_set(reason, PVCLOCK_REASON_NO_LINE,
				   "KVM's clock of %s can be set but not aimed: take own mode, or let the clock go on by its value "
				   "(policy.fall_back).", what);
		return -ENOTSUP;
	}
	if (what)
		plan->precision = PVCLOCK_LEGACY;
	/* KVM makes the page of a scaled TSC from its kHz */
	if (destination->kernel_publishes && plan->tsc_khz && pvclock_line_make_kvm(&scaled, 0, 0, plan->tsc_khz) &&
	    pvclock_slope_from_line(&scaled, slope))
		return 0;
	if (pvclock_slope_to_guest(host, &plan->ratio, slope))
		return 0;
	return refuse_slope(host, reason);
}

/* The guest's TSC against before. There it was the host's, scaled: a line that the kernel published has another slope. */
static void look_at_tsc(const struct pvclock_record *record, const struct pvclock_destination *destination,
			struct pvclock_plan *plan)
{
	struct pvclock_slope was, is;

	if (pvclock_slope_to_guest(&record->host, &record->vcpus[0].tsc, &was) &&
	    pvclock_slope_to_guest(&destination->host, &plan->ratio, &is))
		plan->tsc_rate_difference = pvclock_slope_difference(&was, &is); /* ticks per ns, is against was: the inverse ratio */
}

void pvclock_plan_vcpu(const struct pvclock_record *record, const struct pvclock_plan *plan, uint32_t i, uint64_t *tsc,
		       uint64_t *deadline)
{
	const struct pvclock_record_vcpu *vcpu = &record->vcpus[i];

	/* counters that differ keep their difference */
	*tsc = plan->at.tsc + (pvclock_tsc_to_guest(&vcpu->tsc, record->time.at).ticks - first_tsc(record, record->time.at));
	*deadline = vcpu->tsc_deadline ? pvclock_switch_deadline(&plan->at, *tsc, vcpu->tsc_deadline) : 0;
}

static void look_at_deadlines(const struct pvclock_record *record, struct pvclock_plan *plan)
{
	uint64_t tsc, deadline;

	for (uint32_t i = 0; i < record->vcpu_count; i++) {
		pvclock_plan_vcpu(record, plan, i, &tsc, &deadline);
		plan->deadlines += deadline != 0;
		plan->deadlines_past += deadline != 0 && deadline <= tsc;
	}
}

int pvclock_plan_make(const struct pvclock_record *record, const struct pvclock_destination *destination,
		      enum pvclock_blackout blackout, struct pvclock_plan *out, struct pvclock_reason *reason)
{
	struct pvclock_plan plan = { .blackout = blackout };
	struct pvclock_slope was, slope;
	struct pvclock_line old;
	uint64_t tsc;
	int error;

	pvclock_reason_clear(reason);
	if (!pvclock_record_check(record, reason))
		return -EINVAL;
	plan.at.old = first_line(record);
	if (!pvclock_slope_from_line(&plan.at.old, &was))
		return -EINVAL;
	error = refuse_other_rates(record, reason);
	if (error == 0)
		error = stays_here(blackout) ? refuse_other_boot(record, destination, reason) : 0;
	if (error)
		return error;
	choose_ratio(&was, destination, &plan);
	error = choose_slope(record, destination, &plan, &slope, reason);
	if (error)
		return error;
	measure(record, &destination->time, &plan);
	if (!count(record, destination, &plan.at.old, &plan, &tsc)) {
		pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_FIELD,
				   "%.0f s passed since the save, and no 64-bit TSC counts so far; give the policy a bound (advance_max_ns) "
				   "or freeze.", (double)plan.elapsed.ns / 1e9);
		return -EINVAL;
	}
	old = plan.at.old;
	if (!pvclock_switch_make(&plan.at, &old, tsc, &slope))
		return refuse_slope(&slope, reason);
	if (plan.precision != PVCLOCK_LEGACY)
		plan.precision = plan.at.exact ? PVCLOCK_EXACT : PVCLOCK_CONTINUED;
	/* a host that ignores offsets runs the TSC with none */
	plan.tsc_kept = destination->tsc_offsets || tsc == pvclock_tsc_to_guest(&plan.ratio, destination->time.at).ticks;
	look_at_tsc(record, destination, &plan);
	look_at_deadlines(record, &plan);
	*out = plan;
	return 0;
}
