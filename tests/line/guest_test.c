/* SPDX-License-Identifier: MIT */
/* Composition with a guest's TSC: offset alone, and Intel's and AMD's scaling at their full widths. */
#include "check.h"
#include "oracle.h"

static struct pvclock_tsc_transform random_transform(struct random *random)
{
	struct pvclock_tsc_transform transform = pvclock_tsc_unscaled(random_u64(random));
	uint64_t kind = random_below(random, 4);

	if (kind == 0)
		return transform;
	if (kind == 1) {
		transform.frac_bits = (uint8_t)(1 + random_below(random, 64));
		transform.ratio = random_any(random);
	} else {
		/* what hosts have: a guest at 1/16 to 16 times the host's rate */
		transform.frac_bits = kind == 2 ? PVCLOCK_FRAC_BITS_VMX : PVCLOCK_FRAC_BITS_SVM;
		transform.ratio = UINT64_C(1) << (transform.frac_bits - 4 + random_below(random, 8));
		transform.ratio += random_below(random, transform.ratio);
	}
	if (random_below(random, 2))
		transform.offset = random_any(random);
	return transform;
}

static void p1_guest_tsc_is_what_the_processor_computes(void **state)
{
	struct random random = random_start(300000);
	mpz_t ticks;

	(void)state;
	mpz_init(ticks);
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_tsc_transform transform = random_transform(&random);
		struct pvclock_host_tsc host = { .ticks = random_any(&random) };

		if (random_below(&random, 16) == 0)
			transform.frac_bits = (uint8_t)random_u64(&random);
		mpz_set_ui(ticks, host.ticks);
		if (transform.frac_bits) {
			mpz_mul_ui(ticks, ticks, transform.ratio);
			mpz_fdiv_q_2exp(ticks, ticks, transform.frac_bits);
		}
		mpz_add_ui(ticks, ticks, transform.offset);
		mpz_fdiv_r_2exp(ticks, ticks, 64);
		check(&random, pvclock_tsc_to_guest(&transform, host).ticks == mpz_get_ui(ticks),
		      "%" PRIu64 " * %" PRIu64 " >> %d + %" PRIu64, host.ticks, transform.ratio, transform.frac_bits,
		      transform.offset);
	}
	mpz_clear(ticks);
}

static void p3_guest_slope_is_the_nearest(void **state)
{
	struct random random = random_start(300000);
	unsigned long refused = 0;
	mpq_t wanted, got, limit;

	(void)state;
	mpq_inits(wanted, got, limit, NULL);
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_tsc_transform transform = random_transform(&random);
		struct pvclock_slope host = random_slope(&random), guest = { .mantissa = 5, .exponent = 5 };

		oracle_slope(&host, wanted);
		if (transform.frac_bits && transform.ratio) {
			oracle_scaled(transform.ratio, -transform.frac_bits, got);
			mpq_div(wanted, wanted, got);
		}
		if (!pvclock_slope_to_guest(&host, &transform, &guest)) {
			bool flat, steep;

			oracle_scaled(1, -63, limit);
			flat = mpq_cmp(wanted, limit) < 0;
			oracle_scaled(1, 31, limit);
			steep = mpq_cmp(wanted, limit) >= 0;
			check(&random, (transform.frac_bits && !transform.ratio) || flat || steep, "ratio %" PRIu64,
			      transform.ratio);
			assert_int_equal(guest.mantissa, 5);
			refused++;
			continue;
		}
		check(&random, guest.mantissa >> 63, "%" PRIu64, guest.mantissa);
		oracle_slope(&guest, got);
		if (!transform.frac_bits)
			check(&random, mpq_equal(got, wanted), "%" PRIu64, guest.mantissa);
		mpq_sub(got, got, wanted);
		mpq_abs(got, got);
		oracle_scaled(1, guest.exponent - 1, limit);
		check(&random, mpq_cmp(got, limit) <= 0, "%" PRIu64 "*2^%d by %" PRIu64 " >> %d", host.mantissa,
		      host.exponent, transform.ratio, transform.frac_bits);
	}
	assert_true(refused < random.rounds / 2);
	mpq_clears(wanted, got, limit, NULL);
}

/*
 * The header's bound: | guest line read at the guest TSC - exact clock at the host TSC | < one guest tick
 * + 2^-32 of what has passed (+ the slope's own 2^-64) + the reader's two floors, downwards only.
 */
static void p1_composed_line_is_within_a_guest_tick(void **state)
{
	struct random random = random_start(200000);
	unsigned long compared = 0, scaled = 0;
	mpq_t clock, host_slope, passed, apart, bound, two;

	(void)state;
	mpq_inits(clock, host_slope, passed, apart, bound, two, NULL);
	mpq_set_ui(two, 2, 1);
	for (unsigned long i = 0; i < random.rounds; i++) {
		struct pvclock_tsc_transform transform = random_transform(&random);
		struct pvclock_host_tsc at = { .ticks = random_any(&random) >> random_below(&random, 16) }, later;
		struct pvclock_slope slope = random_slope(&random);
		uint64_t ns = random_any(&random) >> 8, guest_ticks, reading;
		struct pvclock_line guest;

		if (!pvclock_line_compose(&transform, at, ns, &slope, &guest, NULL))
			continue;
		assert_int_equal(guest.tsc, pvclock_tsc_to_guest(&transform, at).ticks);
		assert_int_equal(guest.ns, ns);
		later.ticks = at.ticks + (random_any(&random) >> random_below(&random, 32));
		guest_ticks = pvclock_tsc_to_guest(&transform, later).ticks;
		reading = pvclock_line_ns(&guest, guest_ticks);
		oracle_slope(&slope, host_slope);
		/* the guest TSC must not have wrapped: let the ticks that passed be fewer than are left */
		mpq_set_ui(passed, later.ticks - at.ticks, 1);
		if (transform.frac_bits) {
			oracle_scaled(transform.ratio, -transform.frac_bits, bound);
			mpq_mul(passed, passed, bound);
		}
		mpq_set_ui(bound, (UINT64_MAX - guest.tsc) >> 1, 1);
		if (later.ticks < at.ticks || mpq_cmp(passed, bound) > 0 || reading == UINT64_MAX)
			continue;

		mpq_set_ui(passed, later.ticks - at.ticks, 1);
		mpq_mul(passed, passed, host_slope);
		mpq_set_ui(clock, ns, 1);
		mpq_add(clock, clock, passed);
		mpq_set_ui(apart, reading, 1);
		mpq_sub(apart, apart, clock);
		/* bound = tick + passed * (2^-32 + 2^-60) */
		oracle_scaled((UINT64_C(1) << 28) + 1, -60, bound);
		mpq_mul(bound, bound, passed);
		oracle_line_slope(&guest, passed);
		mpq_add(bound, bound, passed);
		check(&random, mpq_cmp(apart, bound) < 0, "ahead: " LINE_FORMAT " at %" PRIu64, LINE_VALUES(guest),
		      guest_ticks);
		mpq_add(bound, bound, two);
		mpq_neg(bound, bound);
		check(&random, mpq_cmp(apart, bound) > 0, "behind: " LINE_FORMAT " at %" PRIu64, LINE_VALUES(guest),
		      guest_ticks);
		compared++;
		scaled += transform.frac_bits != 0;
	}
	assert_true(compared > random.rounds / 8 && scaled > random.rounds / 16);
	mpq_clears(clock, host_slope, passed, apart, bound, two, NULL);
}

/* Unscaled and a kernel's multiplier: the guest's clock is the host's CLOCK_MONOTONIC_RAW with no drift at all. */
static void p3_unscaled_guest_has_the_hosts_slope_exactly(void **state)
{
	struct pvclock_tsc_transform transform = pvclock_tsc_unscaled(UINT64_C(0) - 123456789);
	struct pvclock_host_tsc at = { .ticks = 123456790 };
	struct pvclock_slope slope, guest_slope;
	struct pvclock_line guest;
	bool exact = false;

	(void)state;
	assert_true(pvclock_slope_from_kernel(6462414, 24, &slope));
	assert_true(pvclock_line_compose(&transform, at, 1000, &slope, &guest, &exact));
	assert_true(exact);
	assert_int_equal(guest.tsc, 1);
	assert_int_equal(guest.mul, 3308755968u);
	assert_int_equal(guest.shift, -1);
	assert_true(pvclock_slope_from_line(&guest, &guest_slope));
	assert_int_equal(pvclock_slope_difference(&guest_slope, &slope), 0);
	/* ratio 1.0 in either format is as good as none */
	transform.frac_bits = PVCLOCK_FRAC_BITS_VMX;
	transform.ratio = UINT64_C(1) << PVCLOCK_FRAC_BITS_VMX;
	assert_true(pvclock_line_compose(&transform, at, 1000, &slope, &guest, &exact));
	assert_true(exact && guest.tsc == 1 && guest.mul == 3308755968u && guest.shift == -1);
	transform.frac_bits = PVCLOCK_FRAC_BITS_SVM;
	transform.ratio = 0;
	assert_false(pvclock_line_compose(&transform, at, 1000, &slope, &guest, &exact));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_guest_tsc_is_what_the_processor_computes),
		cmocka_unit_test(p3_guest_slope_is_the_nearest),
		cmocka_unit_test(p1_composed_line_is_within_a_guest_tick),
		cmocka_unit_test(p3_unscaled_guest_has_the_hosts_slope_exactly),
	};

	return cmocka_run_group_tests_name("line: guest TSC", tests, NULL, NULL);
}
