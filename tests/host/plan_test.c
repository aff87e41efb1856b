/* SPDX-License-Identifier: MIT */
/*
 * plan_test.c - P1, P5, P6, P7: what a host makes of a record, as a property: clocks of any rate, on hosts of any rate,
 * by any policy, after any time, against arithmetic in 128 bits. A failure prints its seed; PLAN_SEED=n runs that one
 * alone.
 */
#include <pvclock/plan.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../random.h"

typedef unsigned __int128 u128;

#define SEEDS 100000
#define VCPUS 4
#define S 1000000000ull
#define YEAR (31557600 * S)

/* --- the oracle -------------------------------------------------------------------------------- */

static u128 ticks_since(const struct pvclock_line *line, uint64_t tick)
{
	return tick > line->tsc ? tick - line->tsc : 0;
}

/* As a reader of the line reads it. */
static uint64_t oracle(const struct pvclock_line *line, uint64_t tick)
{
	u128 d = ticks_since(line, tick), ns;

	d = line->shift < 0 ? d >> -line->shift : d << line->shift;
	ns = line->ns + (d * line->mul >> 32);
	return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

/* Before a reader drops bits of its ticks. */
static uint64_t oracle_exact(const struct pvclock_line *line, uint64_t tick)
{
	return line->ns + (uint64_t)(ticks_since(line, tick) * line->mul >> (32 - line->shift));
}

/* A guest's counter at a host tick: (host x ratio >> bits) + offset. */
static uint64_t counter(const struct pvclock_tsc_transform *tsc, uint64_t host)
{
	return tsc->offset + (tsc->frac_bits ? (uint64_t)((u128)host * tsc->ratio >> tsc->frac_bits) : host);
}

static bool same_line(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

/* --- records and hosts ---------------------------------------------------------------------------- */

struct made {
	uint64_t seed, random;
	struct pvclock_record record;
	struct pvclock_record_vcpu vcpus[VCPUS];
	struct pvclock_destination here;
	enum pvclock_blackout blackout;
	uint64_t elapsed_ns; /* of TAI */
	struct pvclock_line first; /* the line as the first vCPU reads it */
	uint64_t saved_tsc;  /* the first vCPU's, at the save */
};

#define require(holds)                                                                                              \
	do {                                                                                                        \
		if (!(holds))                                                                                       \
			fail_msg("PLAN_SEED=%llu repeats it: %s", (unsigned long long)made->seed, #holds);           \
	} while (0)

static uint64_t next(struct made *made)
{
	return splitmix64(&made->random);
}

static uint64_t pick(struct made *made, uint64_t least, uint64_t most)
{
	return least + next(made) % (most - least + 1);
}

/* 0.3 to 5 GHz: of whole kHz, a kernel's, or of any bits. */
static struct pvclock_slope pick_slope(struct made *made)
{
	uint64_t khz = pick(made, 300000, 5000000);
	struct pvclock_slope slope;

	switch (pick(made, 0, 2)) {
	case 0:
		require(pvclock_slope_from_khz(khz, &slope));
		break;
	case 1:
		require(pvclock_slope_from_kernel((uint32_t)((1000000ull << 24) / khz), 24, &slope));
		break;
	default:
		require(pvclock_slope_from_khz(khz, &slope));
		slope.mantissa = (slope.mantissa & ~0xffffffull) | (next(made) & 0xffffff) | 1ull << 63;
	}
	return slope;
}

/* Now and then 0, or a power of two; else spread over the powers of two. */
static uint64_t pick_wide(struct made *made, unsigned int bits)
{
	return pick(made, 0, 15) ? next(made) >> (64 - pick(made, 1, bits)) : 0;
}

static void make_record(struct made *made)
{
	struct pvclock_record *record = &made->record;
	struct pvclock_slope guest;

	record->host = pick_slope(made);
	record->reference = pvclock_tsc_unscaled(0);
	if (pick(made, 0, 2) == 0) { /* scaled there, from a third to four times its rate */
		record->reference.frac_bits = pick(made, 0, 1) ? PVCLOCK_FRAC_BITS_VMX : PVCLOCK_FRAC_BITS_SVM;
		record->reference.ratio = pick(made, (1ull << record->reference.frac_bits) / 3, 4ull << record->reference.frac_bits);
	}
	record->time.at.ticks = pick(made, 1ull << 40, 1ull << 55);
	made->saved_tsc = pick(made, 1ull << 40, 1ull << 58);
	record->reference.offset = made->saved_tsc - counter(&record->reference, record->time.at.ticks);
	require(pvclock_slope_to_guest(&record->host, &record->reference, &guest));
	require(pvclock_line_make(&record->line, made->saved_tsc - pick_wide(made, 40), pick_wide(made, 60), &guest, NULL));
	record->system_time = oracle(&record->line, made->saved_tsc);
	record->vcpu_count = (uint32_t)pick(made, 1, VCPUS);
	record->vcpus = made->vcpus;
	made->first = record->line;
	for (uint32_t i = 0; i < record->vcpu_count; i++) {
		made->vcpus[i] = (struct pvclock_record_vcpu){ .index = i * 3, .tsc = record->reference };
		if (pick(made, 0, 2) == 0)
			made->vcpus[i].tsc.offset += pick_wide(made, 36) - pick_wide(made, 36);
	}
	made->first.tsc += made->vcpus[0].tsc.offset - record->reference.offset;
	made->saved_tsc = counter(&made->vcpus[0].tsc, record->time.at.ticks);
	for (unsigned int i = 0; i < PVCLOCK_BLACKOUT_COUNT; i++)
		record->policy.on[i] = pick(made, 0, 1) ? PVCLOCK_FREEZE : PVCLOCK_ADVANCE;
	record->policy.advance_max_ns = pick(made, 0, 3) ? UINT64_MAX : pick_wide(made, 62);
}

/* Another boot, mostly; the same host, or one of another rate, that scales TSCs or does not. */
static void make_host(struct made *made)
{
	struct pvclock_destination *here = &made->here;

	made->elapsed_ns = pick_wide(made, 59);
	if (made->elapsed_ns > 15 * YEAR)
		made->elapsed_ns = 15 * YEAR;
	made->record.time.tai_offset = here->time.tai_offset = 37;
	made->record.time.realtime_ns = 1790000000 * S;
	here->time.realtime_ns = made->record.time.realtime_ns + made->elapsed_ns;
	made->record.time.tai_ns = made->record.time.realtime_ns + 37 * S;
	here->time.tai_ns = here->time.realtime_ns + 37 * S;
	made->record.time.max_error_ns = 1000;
	here->time.max_error_ns = 500;
	here->time.bracket_ns = 7;
	here->time.at.ticks = pick(made, 1, 1ull << 55);
	here->tsc_offsets = true;
	here->host = made->record.host;
	if (pick(made, 0, 2))
		here->host = pick_slope(made);
	if (pick(made, 0, 1))
		here->frac_bits = pick(made, 0, 1) ? PVCLOCK_FRAC_BITS_VMX : PVCLOCK_FRAC_BITS_SVM;
	made->blackout = pick(made, 0, 1) ? PVCLOCK_BLACKOUT_MIGRATION : PVCLOCK_BLACKOUT_SNAPSHOT;
}

/* Deadlines around the switch, some long passed, some that only years reach. */
static void arm(struct made *made, uint64_t tsc)
{
	for (uint32_t i = 0; i < made->record.vcpu_count; i++) {
		uint64_t mine = tsc + (made->vcpus[i].tsc.offset - made->vcpus[0].tsc.offset);

		if (pick(made, 0, 3))
			made->vcpus[i].tsc_deadline = mine + (pick(made, 0, 3) ? pick_wide(made, 58) : -pick_wide(made, 38));
	}
}

static void make(struct made *made, uint64_t seed)
{
	memset(made, 0, sizeof(*made));
	made->seed = made->random = seed;
	make_record(made);
	make_host(made);
}

/* --- P1, P7: where the clock and the TSCs stand ---------------------------------------------------- */

static bool frozen(const struct made *made)
{
	return made->record.policy.on[made->blackout] == PVCLOCK_FREEZE;
}

static void check_time(const struct made *made, const struct pvclock_plan *plan)
{
	uint64_t cap = made->record.policy.advance_max_ns;
	uint64_t promised = frozen(made) ? 0 : made->elapsed_ns < cap ? made->elapsed_ns : cap;
	uint64_t goal = oracle(&made->first, made->saved_tsc) + promised;

	require(plan->elapsed.by == PVCLOCK_BY_TAI && plan->elapsed.ns == made->elapsed_ns && plan->elapsed.bound_ns == 1507);
	require(plan->counted_ns == promised);
	require(plan->capped == (!frozen(made) && made->elapsed_ns > cap));
	require(plan->bound_ns == (frozen(made) || plan->capped ? 0 : 1507));
	require(plan->at.tsc == made->saved_tsc + plan->counted_ticks);
	/* the first tick at which the old clock has counted what was promised */
	require(promised != 0 || plan->counted_ticks == 0);
	require(oracle(&made->first, plan->at.tsc) >= goal);
	require(plan->counted_ticks == 0 || oracle(&made->first, plan->at.tsc - 1) < goal);
}

/* One function until the switch, one from it on, and there no difference. */
static void check_line(const struct made *made, const struct pvclock_plan *plan)
{
	uint64_t at = plan->at.tsc;
	struct pvclock_slope slope;
	struct pvclock_line unit;

	require(same_line(&plan->at.old, &made->first));
	require(pvclock_slope_to_guest(&made->here.host, &plan->ratio, &slope));
	require(pvclock_line_make(&unit, 0, 0, &slope, NULL));
	require(plan->at.line.mul == unit.mul && plan->at.line.shift == unit.shift);
	require(plan->at.exact == (unit.mul == made->first.mul && unit.shift == made->first.shift));
	require((plan->precision == PVCLOCK_EXACT) == plan->at.exact && plan->precision != PVCLOCK_LEGACY);
	if (plan->at.exact) {
		require(same_line(&plan->at.line, &made->first));
		return;
	}
	require(oracle(&plan->at.line, at) == oracle_exact(&made->first, at));
	require(oracle(&plan->at.line, at) - oracle(&made->first, at) <= 1);
}

/* The rate: scaled to what the guest had, wherever this host can and has to. KVM runs within 250 ppm unscaled. */
static void check_ratio(const struct made *made, const struct pvclock_plan *plan)
{
	u128 was = (u128)made->first.mul << 32, apart; /* both slopes in 2^-64 ns a tick, to 64 bits and more */
	u128 guest_khz = plan->tsc_khz, host_khz = pvclock_rate_khz(&made->here.host);
	struct pvclock_slope is;
	u128 now;
	bool alike;

	require(pvclock_slope_to_guest(&made->here.host, &plan->ratio, &is));
	was = made->first.shift < 0 ? was >> -made->first.shift : was << made->first.shift;
	now = is.exponent + 64 >= 0 ? (u128)is.mantissa << (is.exponent + 64) : (u128)is.mantissa >> -(is.exponent + 64);
	apart = was > now ? was - now : now - was;
	alike = apart * 1000000 < now * 250;
	if (made->here.frac_bits) /* both rates are whole kHz to KVM: half of one each, at worst */
		require(alike && (plan->tsc_khz == 0 || apart * 200 * guest_khz * host_khz < now * 101 * (guest_khz + host_khz)));
	else
		require(plan->ratio.frac_bits == 0 && plan->tsc_khz == 0);
	require((plan->tsc_khz != 0) == (plan->ratio.frac_bits != 0));
}

/* --- P5: deadlines ------------------------------------------------------------------------------------ */

static void check_deadlines(const struct made *made, const struct pvclock_plan *plan)
{
	uint32_t armed = 0, past = 0;

	for (uint32_t i = 0; i < made->record.vcpu_count; i++) {
		uint64_t tsc, deadline, before = made->vcpus[i].tsc_deadline, goal, tick;

		pvclock_plan_vcpu(&made->record, plan, i, &tsc, &deadline);
		/* what two counters differ by, they differ by for good */
		require(tsc - plan->at.tsc == counter(&made->vcpus[i].tsc, made->record.time.at.ticks) - made->saved_tsc);
		require((deadline == 0) == (before == 0));
		if (!before)
			continue;
		armed++;
		past += deadline <= tsc;
		if (before <= tsc) { /* passed, and it fires */
			require(deadline == before);
			continue;
		}
		/* by the line's counter */
		goal = oracle(&made->first, plan->at.tsc + (before - tsc));
		tick = plan->at.tsc + (deadline - tsc);
		require(deadline >= tsc);
		if (plan->at.exact) {
			require(deadline == before);
		} else if (deadline != UINT64_MAX) {
			require(oracle(&plan->at.line, tick) >= goal);
			require(deadline == tsc || oracle(&plan->at.line, tick - 1) < goal);
		} else {
			require(oracle(&plan->at.line, UINT64_MAX - (tsc > plan->at.tsc ? tsc - plan->at.tsc : 0)) < goal);
		}
	}
	require(plan->deadlines == armed && plan->deadlines_past == past);
}

static void one_restore(uint64_t seed)
{
	struct made room, *made = &room;
	struct pvclock_reason reason;
	struct pvclock_plan plan;

	make(made, seed);
	require(pvclock_plan_make(&made->record, &made->here, made->blackout, &plan, &reason) == 0);
	arm(made, plan.at.tsc);
	require(pvclock_plan_make(&made->record, &made->here, made->blackout, &plan, &reason) == 0);
	require(reason.code == PVCLOCK_REASON_NONE && plan.tsc_kept);
	check_time(made, &plan);
	check_line(made, &plan);
	check_ratio(made, &plan);
	check_deadlines(made, &plan);
}

static void p1_p5_p7_any_record_on_any_host(void **state)
{
	const char *one = getenv("PLAN_SEED");

	(void)state;
	for (uint64_t seed = 1; !one && seed <= SEEDS; seed++)
		one_restore(seed);
	if (one)
		one_restore(strtoull(one, NULL, 10));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_p5_p7_any_record_on_any_host),
	};

	return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
