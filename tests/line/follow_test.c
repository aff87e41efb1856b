/* SPDX-License-Identifier: MIT */
/* A guest's guest, when the guest's own line changes: where its clock goes on, and its rate. */
#include "check.h"
#include "oracle.h"

static struct pvclock_tsc_transform random_transform(struct random *random)
{
	struct pvclock_tsc_transform transform = pvclock_tsc_unscaled(random_u64(random) >> random_below(random, 64));

	if (random_below(random, 2))
		transform.offset = -transform.offset;
	if (random_below(random, 2)) {
		transform.frac_bits = random_below(random, 2) ? PVCLOCK_FRAC_BITS_VMX : PVCLOCK_FRAC_BITS_SVM;
		transform.ratio = UINT64_C(1) << (transform.frac_bits - 3 + random_below(random, 6));
		transform.ratio += random_below(random, transform.ratio);
	}
	return transform;
}

static struct pvclock_slope hardware_slope(struct random *random)
{
	struct pvclock_slope slope = { .mantissa = random_u64(random) | UINT64_C(1) << 63,
				       .exponent = (int16_t)(-66 + (int)random_below(random, 5)) };

	return slope;
}

/* What a host does: the line goes on at an instant with its own slope, and the counter may then be found elsewhere. */
static struct pvclock_line_change random_change(struct random *random, bool same)
{
	struct pvclock_slope slope = hardware_slope(random);
	struct pvclock_line_change change;

	assert_true(pvclock_line_make(&change.old, random_below(random, UINT64_C(1) << 50), random_below(random, UINT64_C(1) << 50), &slope, NULL));
	if (random_below(random, 2))
		change.old.mul &= ~(uint32_t)(random_u64(random) & 0xffff); /* what no pvclock_line_make makes, and a kernel does */
	change.old_ticks = change.old.tsc + (random_u64(random) >> (14 + random_below(random, 50)));
	change.next_ticks = change.old_ticks;
	if (random_below(random, 2))
		change.next_ticks += random_below(random, UINT64_C(1) << 40) - (change.old_ticks >> 24);
	slope = hardware_slope(random);
	change.next = change.old;
	if (same)
		change.next.tsc += change.next_ticks - change.old_ticks;
	else
		assert_true(pvclock_line_continue(&change.old, change.old_ticks, change.next_ticks, &slope, &change.next, NULL));
	return change;
}

/* L2's clock as L1 made it: L1's own line over T, at some distance. */
static struct pvclock_line nested_line(struct random *random, const struct pvclock_line *line, const struct pvclock_tsc_transform *transform,
				       uint64_t before)
{
	struct pvclock_slope slope;
	struct pvclock_line nested;

	assert_true(pvclock_slope_from_line(line, &slope));
	assert_true(pvclock_line_compose(transform, (struct pvclock_host_tsc){ before }, random_below(random, UINT64_C(1) << 55), &slope, &nested, NULL));
	return nested;
}

static uint64_t at(const struct pvclock_tsc_transform *transform, uint64_t ticks)
{
	return pvclock_tsc_to_guest(transform, (struct pvclock_host_tsc){ ticks }).ticks;
}

static bool ordered(const struct pvclock_tsc_transform *transform, uint64_t low, uint64_t high)
{
	return at(transform, low) <= at(transform, high) && at(transform, high) < INT64_MAX;
}

#define CHANGE_FORMAT "from " LINE_FORMAT " at %" PRIu64 " to " LINE_FORMAT " at %" PRIu64 ", nested " LINE_FORMAT " over %" PRIu64 "/2^%d + %" PRIu64
#define CHANGE_VALUES(change, nested, transform)                                                                           \
	LINE_VALUES((change).old), (change).old_ticks, LINE_VALUES((change).next), (change).next_ticks, LINE_VALUES(nested), \
		(transform).ratio, (transform).frac_bits, (transform).offset

/*
 * At the switch: floor(E2), by GMP, which is never less than what was read, and at most 1 more. Its rate is L1's new
 * one, over T.
 */
static void p8_goes_on_at_the_switch(void **state)
{
	struct random random = random_start(200000);
	unsigned long one_more = 0, done = 0;
	mpq_t exact, slope, wanted, unit;
	mpz_t whole;

	(void)state;
	mpq_inits(exact, slope, wanted, unit, NULL);
	mpz_init(whole);
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_line_change change = random_change(&random, false);
		struct pvclock_tsc_transform transform = random_transform(&random);
		uint64_t from = at(&transform, change.old_ticks), to = at(&transform, change.next_ticks), was, is;
		struct pvclock_line old, next;

		if (!ordered(&transform, change.old.tsc, change.old_ticks) || to > INT64_MAX)
			continue; /* a counter that passes 2^64 on the way has no line */
		old = nested_line(&random, &change.old, &transform, change.old.tsc);
		check(&random, pvclock_line_follow(&change, &transform, &old, &next), CHANGE_FORMAT, CHANGE_VALUES(change, old, transform));
		was = pvclock_line_ns(&old, from);
		is = pvclock_line_ns(&next, to);
		check(&random, is - was <= 1, "%" PRIu64 " after %" PRIu64 ", " CHANGE_FORMAT, is, was, CHANGE_VALUES(change, old, transform));
		oracle_exact_ns(&old, from, exact);
		mpz_fdiv_q(whole, mpq_numref(exact), mpq_denref(exact));
		check(&random, is == mpz_get_ui(whole), "%" PRIu64 ", " CHANGE_FORMAT, is, CHANGE_VALUES(change, old, transform));
		/* not more than one of its ticks behind, before any floor; the switch may be near the counter's beginning */
		oracle_exact_ns(&next, to, wanted);
		mpq_sub(exact, exact, wanted);
		oracle_line_slope(&next, unit);
		check(&random, to < 64 || (mpq_sgn(exact) >= 0 && mpq_cmp(exact, unit) < 0), CHANGE_FORMAT, CHANGE_VALUES(change, old, transform));
		oracle_line_slope(&change.next, slope);
		if (transform.frac_bits) {
			oracle_scaled(transform.ratio, -transform.frac_bits, wanted);
			mpq_div(slope, slope, wanted);
		}
		oracle_line_slope(&next, wanted);
		check(&random, oracle_within(wanted, slope, -31), CHANGE_FORMAT, CHANGE_VALUES(change, old, transform));
		one_more += is - was;
		done++;
	}
	assert_true(done > random.rounds / 4);
	assert_true(one_more > 0 && one_more < done);
	mpq_clears(exact, slope, wanted, unit, NULL);
	mpz_clear(whole);
}

/* The counter moved, and nothing else: over an offset no reading changes, ever; over a ratio, by what one tick of L2's is. */
static void p8_moves_with_its_counter(void **state)
{
	struct random random = random_start(100000);
	unsigned long moved = 0;

	(void)state;
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_line_change change = random_change(&random, true);
		struct pvclock_tsc_transform transform = random_transform(&random);
		uint64_t from = at(&transform, change.old_ticks), to = at(&transform, change.next_ticks);
		struct pvclock_line old, next;

		if (!ordered(&transform, change.old.tsc, change.old_ticks) || to > INT64_MAX)
			continue;
		old = nested_line(&random, &change.old, &transform, change.old.tsc);
		check(&random, pvclock_line_follow(&change, &transform, &old, &next), CHANGE_FORMAT, CHANGE_VALUES(change, old, transform));
		if (old.tsc < from - to && from > to) { /* its anchor would lie before the counter's beginning */
			check(&random, pvclock_line_ns(&next, to) - pvclock_line_ns(&old, from) <= 1, CHANGE_FORMAT, CHANGE_VALUES(change, old, transform));
			continue;
		}
		check(&random, next.mul == old.mul && next.shift == old.shift && next.ns == old.ns, CHANGE_FORMAT, CHANGE_VALUES(change, old, transform));
		for (unsigned int j = 0; j < 20; j++) {
			uint64_t later = random_u64(&random) >> (10 + random_below(&random, 54));

			check(&random, pvclock_line_ns(&next, to + later) == pvclock_line_ns(&old, from + later), "%" PRIu64 " later, " CHANGE_FORMAT,
			      later, CHANGE_VALUES(change, old, transform));
		}
		moved += from != to;
	}
	assert_true(moved > random.rounds / 8);
}

/* A clock that was set: L2 follows by the same, and a clock that was set back stops at 0. */
static void a_jump_is_followed(void **state)
{
	static const int64_t jumps[] = { 1, -1, 1000000007, -999999937 };
	struct pvclock_tsc_transform transform = pvclock_tsc_unscaled((uint64_t)-5000);
	struct random random = random_start(1);
	struct pvclock_line_change change = random_change(&random, false);
	struct pvclock_line old, next, plain;

	(void)state;
	change.next_ticks = change.old_ticks;
	old = nested_line(&random, &change.old, &transform, change.old.tsc);
	old.ns = UINT64_C(1) << 40;
	assert_true(pvclock_line_follow(&change, &transform, &old, &plain));
	for (size_t i = 0; i < sizeof(jumps) / sizeof(*jumps); i++) {
		struct pvclock_line_change jumped = change;

		jumped.next.ns += (uint64_t)jumps[i];
		assert_true(pvclock_line_follow(&jumped, &transform, &old, &next));
		assert_int_equal((int64_t)(next.ns - plain.ns), jumps[i]);
	}
	change.next.ns = UINT64_MAX;
	assert_true(pvclock_line_follow(&change, &transform, &old, &next));
	assert_true(next.ns == UINT64_MAX || next.ns - plain.ns > UINT64_MAX / 2);
	change.next = change.old;
	change.next.ns = 0;
	change.old.ns = UINT64_MAX / 2;
	assert_true(pvclock_line_follow(&change, &transform, &old, &next));
	assert_int_equal(next.ns, 0);
}

static void what_is_no_line_is_refused(void **state)
{
	struct random random = random_start(1);
	struct pvclock_tsc_transform transform = pvclock_tsc_unscaled(7);
	struct pvclock_line_change good = random_change(&random, false), bad;
	struct pvclock_line old = nested_line(&random, &good.old, &transform, good.old.tsc), next = { .tsc = 1, .ns = 2 }, invalid = old;

	(void)state;
	invalid.mul = 0;
	assert_false(pvclock_line_follow(&good, &transform, &invalid, &next));
	bad = good;
	bad.old.shift = 32;
	assert_false(pvclock_line_follow(&bad, &transform, &old, &next));
	bad = good;
	bad.next.mul = 0;
	assert_false(pvclock_line_follow(&bad, &transform, &old, &next));
	transform.frac_bits = 48;
	assert_false(pvclock_line_follow(&good, &transform, &old, &next));
	transform.frac_bits = 64;
	transform.ratio = 1;
	assert_false(pvclock_line_follow(&good, &transform, &old, &next));
	transform.frac_bits = 1;
	transform.ratio = UINT64_MAX; /* less than 2^-63 ns a tick: no, but a line's least is 2^-32 */
	assert_false(pvclock_line_follow(&good, &transform, &old, &next));
	assert_int_equal(next.tsc, 1);
	assert_int_equal(next.ns, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p8_goes_on_at_the_switch),
		cmocka_unit_test(p8_moves_with_its_counter),
		cmocka_unit_test(a_jump_is_followed),
		cmocka_unit_test(what_is_no_line_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
