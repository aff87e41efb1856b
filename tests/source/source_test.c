/* SPDX-License-Identifier: MIT */
/*
 * source_test.c - P3: a slope that is called proven is the kernel's own. Hosts are fakes in virtual time, whose
 * integers we know.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "checks.h"

#include <math.h>

#define HOSTS 600u
#define LEARN_NS (60ull * SECOND)

/* --- Linux's rule ------------------------------------------------------------------------ */

static void rule(void **unused)
{
	/*
	 * computed by a transcription of clocks_calc_mult_shift into another language; the first two were also seen on
	 * real hosts
	 */
	static const struct {
		uint32_t khz, mult;
		unsigned int shift;
	} cases[] = {
		{ 2596122, 6462414, 24 }, { 2596142, 6462365, 24 }, { 1000000, 8388608, 23 }, { 1000001, 16777199, 24 },
		{ 3000000, 5592405, 24 }, { 5000000, 3355443, 24 }, { 500000, 16777216, 23 }, { 4000000, 2097152, 23 },
	};

	(void)unused;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint32_t mult;
		unsigned int shift;

		pvclock_kernel_mult_shift(cases[i].khz, &mult, &shift);
		assert_int_equal(mult, cases[i].mult);
		assert_int_equal(shift, cases[i].shift);
		assert_true(pvclock_kernel_reduce(&mult, &shift));
		assert_int_equal(mult, cases[i].mult);
		assert_int_equal(shift, cases[i].shift);
		/* the same slope over a larger power of two is reduced to it */
		mult *= 4;
		shift += 2;
		assert_true(pvclock_kernel_reduce(&mult, &shift));
		assert_int_equal(mult, cases[i].mult);
		assert_int_equal(shift, cases[i].shift);
	}
}

/* Every kHz from 400 MHz to 7 GHz, in steps that meet all residues: rounding never leads reduce() to another slope. */
static void rule_is_found_again(void **unused)
{
	(void)unused;
	for (uint32_t khz = 400000; khz < 6999990; khz += 97) {
		uint32_t mult, reduced;
		unsigned int shift, reduced_shift;

		pvclock_kernel_mult_shift(khz, &mult, &shift);
		reduced = mult;
		reduced_shift = shift;
		assert_true(pvclock_kernel_reduce(&reduced, &reduced_shift));
		assert_int_equal(reduced, mult);
		assert_int_equal(reduced_shift, shift);
	}
}

/* --- the prover's hulls --------------------------------------------------------------------- */

static bool less(const struct pvclock_bound *a, const struct pvclock_bound *b)
{
	return (pvclock_u128)a->ns * b->ticks < (pvclock_u128)b->ns * a->ticks;
}

/* All pairs of all samples, the slow way. */
static void hull_equals_all_pairs(void **unused)
{
	enum { SAMPLES = 300 };
	static struct pvclock_sample samples[SAMPLES];

	(void)unused;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct fake_host host;
		struct pvclock_prover prover;
		struct pvclock_bound above = { 0, 1 }, below = { 0, 0 };

		fake_host_init(&host, (uint32_t)(1000000 + seed * 199999), seed);
		host.ticks = 1000 + seed;
		host.constant = 0;
		pvclock_prover_init(&prover);
		for (unsigned int j = 0; j < SAMPLES; j++) {
			uint64_t before = fake_host_random(&host, 400), after = fake_host_random(&host, 400);

			host.ticks += fake_host_random(&host, 100000) + 800;
			samples[j] = (struct pvclock_sample){ host.ticks - before, host.ticks + after,
							      fake_host_raw(&host, host.ticks) };
			pvclock_prover_add(&prover, &samples[j]);
			for (unsigned int i = 0; i < j; i++) {
				const struct pvclock_sample *old = &samples[i], *new = &samples[j];
				struct pvclock_bound a = { new->ns - old->ns - 1, new->after - old->before };
				struct pvclock_bound b = { new->ns + 1 - old->ns, new->before - old->after };

				if (new->ns > old->ns && less(&above, &a))
					above = a;
				if (below.ticks == 0 || less(&b, &below))
					below = b;
			}
			if (j == 0)
				continue;
			assert_false(less(&above, &prover.above) || less(&prover.above, &above));
			assert_false(less(&below, &prover.below) || less(&prover.below, &below));
		}
	}
}

/* Brackets that widen like a parabola make every point a corner: the hull is full, forgets, and stays true. */
static void full_hull_forgets_and_stays_true(void **unused)
{
	struct pvclock_prover prover;
	uint32_t mult = 5592405, first = 0;

	(void)unused;
	pvclock_prover_init(&prover);
	for (uint64_t i = 0; i < 200; i++) {
		uint64_t ticks = 10000000 + i * 100000, ns = ticks * mult >> 24, wide = i * i;
		struct pvclock_sample sample = { ticks - 10 - wide, ticks + 10 + wide, ns };
		uint64_t count;

		pvclock_prover_add(&prover, &sample);
		assert_in_range(prover.ceiling.count, 1, PVCLOCK_HULL_POINTS);
		assert_in_range(prover.floor.count, 1, PVCLOCK_HULL_POINTS);
		count = pvclock_prover_candidates(&prover, 24, &first);
		if (count != UINT64_MAX)
			assert_true(first <= mult && mult - first < count);
	}
	assert_int_equal(prover.ceiling.count, PVCLOCK_HULL_POINTS);
	assert_int_equal(prover.floor.count, PVCLOCK_HULL_POINTS);
}

static void bounds_are_strict(void **unused)
{
	struct pvclock_prover prover;
	uint32_t first;

	(void)unused;
	pvclock_prover_init(&prover);
	assert_int_equal(pvclock_prover_candidates(&prover, 24, &first), UINT64_MAX);
	/* 3/8 < m/2^4 < 5/8: m in 7 ... 9, since 6 and 10 are the bounds themselves */
	prover.above = (struct pvclock_bound){ 3, 8 };
	prover.below = (struct pvclock_bound){ 5, 8 };
	assert_int_equal(pvclock_prover_candidates(&prover, 4, &first), 3);
	assert_int_equal(first, 7);
	prover.above = (struct pvclock_bound){ 4, 8 };
	prover.below = (struct pvclock_bound){ 9, 16 };
	assert_int_equal(pvclock_prover_candidates(&prover, 4, &first), 0);
	/* beyond what a mult can be */
	prover.above = (struct pvclock_bound){ 1, 1 };
	prover.below = (struct pvclock_bound){ 2, 1 };
	assert_int_equal(pvclock_prover_candidates(&prover, 32, &first), 0);
	assert_int_equal(pvclock_prover_candidates(&prover, 31, &first), 0x7fffffff);
	assert_int_equal(first, 0x80000001u);
}

/* --- proofs -------------------------------------------------------------------------------- */

/*
 * The property: whatever the host and its noise, at no sample the true mult is ruled out, and what is called proven is
 * the true one. And the proof comes: two brackets of w ns bound the slope to (2w + 2) ns in the time between them, and
 * one mult is left at the latest when that is less than one unit of it.
 */
static void proof_is_always_true(void **unused)
{
	uint64_t count, seed = first_seed(HOSTS, &count);
	uint64_t slowest_ns = 0;

	(void)unused;
	for (uint64_t last = seed + count; seed < last; seed++) {
		struct fake_host host;
		struct pvclock_source *source;
		struct pvclock_source_state state;
		uint64_t widest_ns, bound_ns;
		int error;

		fake_host_init(&host, 1000000, seed);
		/*
		 * a third of them next to where Linux's shift or headroom changes: powers of two of 1e6 and of 2^32 /
		 * 600000
		 */
		if (seed % 3 == 0)
			fake_host_init(&host, ((seed % 2 ? 1000000u : 916260u) << fake_host_random(&host, 3)) - 8 +
					      (uint32_t)fake_host_random(&host, 17), seed);
		else
			fake_host_init(&host, (uint32_t)(1000000 + fake_host_random(&host, 4000001)), seed);
		host.cost_min = fake_host_random(&host, 100);
		host.cost_spread = fake_host_random(&host, 300);
		/*
		 * some are never interrupted, others at every fourth step: then about every second sample is an honest
		 * one
		 */
		host.interrupt_every = (uint32_t)fake_host_random(&host, 40);
		if (host.interrupt_every < 4)
			host.interrupt_every = 0;
		host.interrupt_ticks = (uint64_t)1 << fake_host_random(&host, 28);
		/* two TSC reads and the clock's way in and out: four costs between the two ticks */
		widest_ns = 4 * (host.cost_min + host.cost_spread) * 1000000 / host.khz + 1;
		bound_ns = (2 * widest_ns + 2) * host.mult;

		source = open_source(&host);
		do {
			const struct pvclock_prover *prover = &source->prover;
			pvclock_u128 mult_ticks;

			fake_host_pass(&host, fake_host_random(&host, 20000000));
			error = pvclock_source_sample(source, NULL);
			mult_ticks = (pvclock_u128)host.mult * prover->above.ticks;
			if ((pvclock_u128)prover->above.ns << host.shift >= mult_ticks)
				fail_seed(&host, "the lower bound rules the true slope out");
			mult_ticks = (pvclock_u128)host.mult * prover->below.ticks;
			if (prover->below.ticks != 0 && (pvclock_u128)prover->below.ns << host.shift <= mult_ticks)
				fail_seed(&host, "the upper bound rules the true slope out");
		} while (error == -EAGAIN);
		if (error != 0)
			fail_seed(&host, "no proof");
		pvclock_source_get(source, &state);
		if (state.mult != host.mult || state.shift != host.shift)
			fail_seed(&host, "a wrong proof");
		/*
		 * all tries of a sample may be interrupted, and time passes between samples: twice the time, and a
		 * moment
		 */
		if (state.elapsed_ns > 2 * bound_ns + SECOND / 10)
			fail_seed(&host, "a late proof");
		if (state.elapsed_ns > slowest_ns)
			slowest_ns = state.elapsed_ns;
		/* the estimate is for people, and is near where the brackets are as even as those of real machines */
		if (host.interrupt_every == 0 && fabs(state.residual) > 1)
			fail_seed(&host, "an estimate that is not near");
		/* and it stays: a day and a half of watching */
		for (unsigned int i = 0; i < 100; i++) {
			fake_host_pass(&host, fake_host_random(&host, 2600 * (uint64_t)SECOND));
			if (pvclock_source_sample(source, NULL) != 0)
				fail_seed(&host, "a proof that did not last");
		}
		pvclock_source_close(source);
	}
	print_message("    slowest proof: %.2f s\n", (double)slowest_ns / SECOND);
}

/* The line predicts the kernel's clock: within the bracket and the line's own rounding, now and in an hour. */
static void line_is_the_kernels(void **unused)
{
	(void)unused;
	for (uint64_t seed = 1; seed <= 50; seed++) {
		struct fake_host host;
		struct pvclock_source *source;
		struct pvclock_source_state state;

		fake_host_init(&host, (uint32_t)(1000000 + seed * 79999), seed);
		source = learned_source(&host, LEARN_NS);
		pvclock_source_get(source, &state);
		for (unsigned int i = 0; i < 100; i++) {
			int64_t error_ns = (int64_t)(pvclock_line_ns(&state.line, host.ticks) -
						     fake_host_raw(&host, host.ticks));
			int64_t bracket_ns = (int64_t)(state.bracket_ticks * 1000000 / host.khz);

			assert_in_range(error_ns + bracket_ns + 1, 0, 2 * bracket_ns + 2);
			fake_host_pass(&host, 36 * (uint64_t)SECOND);
		}
		pvclock_source_close(source);
	}
}

/* Where reading costs nothing, the line is anchored at the tick at which the clock turned to the anchor's ns. */
static void line_is_anchored_where_its_ns_begins(void **unused)
{
	(void)unused;
	for (uint64_t seed = 1; seed <= 50; seed++) {
		struct pvclock_source *source;
		struct pvclock_source_state state;
		struct fake_host host;

		fake_host_init(&host, (uint32_t)(3000000 + seed * 39999), seed);
		host.cost_min = host.cost_spread = 0;
		source = learned_source(&host, LEARN_NS);
		for (unsigned int i = 0; i < 100; i++) {
			fake_host_pass(&host, fake_host_random(&host, SECOND));
			assert_int_equal(pvclock_source_sample(source, NULL), 0);
		}
		pvclock_source_get(source, &state);
		assert_true(fake_host_raw(&host, state.line.tsc + 1) >= state.line.ns);
		assert_true(fake_host_raw(&host, state.line.tsc - 2) < state.line.ns);
		pvclock_source_close(source);
	}
}

static void slope_off_linux_rule_is_not_proven(void **unused)
{
	struct fake_host host;
	struct pvclock_source *source;
	struct pvclock_reason reason;

	(void)unused;
	fake_host_init(&host, 1700000, 7);
	fake_host_change_mult(&host, host.mult + 1); /* from this kHz to the next the mult moves by 5 or 6 */
	source = open_source(&host);
	assert_int_equal(pvclock_source_learn(source, 60ull * SECOND, &reason), -ENOTSUP);
	assert_reason(&reason, PVCLOCK_REASON_SLOPE_MISFIT, "CLOCK_MONOTONIC_RAW");
	pvclock_source_close(source);
}

/* --- timing ---------------------------------------------------------------------------------- */

static void learn_times_out(void **unused)
{
	struct fake_host host;
	struct pvclock_source *source;
	struct pvclock_source_state state;
	struct pvclock_reason reason;

	(void)unused;
	fake_host_init(&host, 2596142, 3);
	source = open_source(&host);
	assert_int_equal(pvclock_source_learn(source, 0, &reason), -ETIMEDOUT);
	assert_reason(&reason, PVCLOCK_REASON_SLOPE_UNPROVEN, "second");
	assert_int_equal(host.sleeps, 0);
	assert_int_equal(pvclock_source_learn(source, 50000000, &reason), -ETIMEDOUT);
	assert_reason(&reason, PVCLOCK_REASON_SLOPE_UNPROVEN, "kernel slopes");
	pvclock_source_get(source, &state);
	assert_false(state.proven);
	assert_in_range(state.candidates, 2, 100000);
	assert_in_range(state.elapsed_ns, 50000000, 61000000);
	/* it goes on where it was */
	assert_int_equal(pvclock_source_learn(source, 10ull * SECOND, &reason), 0);
	assert_int_equal(reason.code, PVCLOCK_REASON_NONE);
	assert_proven(source, &host);
	pvclock_source_close(source);
}

static void interrupted_sleep_is_no_error(void **unused)
{
	struct fake_host host;
	struct pvclock_source *source;

	(void)unused;
	fake_host_init(&host, 2596142, 4);
	host.interrupted_sleeps = UINT32_MAX;
	source = learned_source(&host, LEARN_NS);
	assert_proven(source, &host);
	pvclock_source_close(source);
}

static void os_errors_are_passed_on(void **unused)
{
	struct fake_host host;
	struct pvclock_source *source;
	struct pvclock_reason reason;

	(void)unused;
	fake_host_init(&host, 2596142, 5);
	host.file_error = -EACCES;
	assert_int_equal(pvclock_source_open(&host.os, &source, &reason), -EACCES);
	assert_reason(&reason, PVCLOCK_REASON_OS, "current_clocksource");
	host.file_error = 0;
	host.clock_error = -EINVAL;
	assert_int_equal(pvclock_source_open(&host.os, &source, &reason), -EINVAL);
	assert_reason(&reason, PVCLOCK_REASON_OS, "CLOCK_MONOTONIC_RAW");
	host.clock_error = 0;
	source = open_source(&host);
	host.sleep_error = -EINVAL;
	assert_int_equal(pvclock_source_learn(source, SECOND, &reason), -EINVAL);
	assert_reason(&reason, PVCLOCK_REASON_OS, "leep");
	/* an error of the OS is not the end of the line */
	host.sleep_error = 0;
	host.clock_error = -EFAULT;
	assert_int_equal(pvclock_source_sample(source, &reason), -EFAULT);
	host.clock_error = 0;
	assert_int_equal(pvclock_source_learn(source, 10ull * SECOND, NULL), 0);
	assert_proven(source, &host);
	pvclock_source_close(source);
}

/* --- hosts without a line ---------------------------------------------------------------------- */

static void other_clocksources_are_named(void **unused)
{
	static const struct {
		const char *current, *available, *words[3];
	} cases[] = {
		{ "hpet", "hpet acpi_pm", { "hpet", "no function of the TSC", "dmesg" } },
		{ "acpi_pm", "tsc acpi_pm", { "acpi_pm", "no function of the TSC", "echo tsc > /sys/" } },
		{ "xen", "xen tsc acpi_pm", { "xen", "cannot learn yet", "echo tsc > /sys/" } },
		{ "xen", "xen acpi_pm", { "xen", "cannot learn yet", "no tsc" } },
		/* a word that only begins like it */
		{ "xen", "xen tsc-early", { "xen", "cannot learn yet", "no tsc" } },
		{ "hyperv_clocksource_msr", "hyperv_clocksource_msr",
		  { "hyperv_clocksource_msr", "no function", "no tsc" } },
		/* a page that is not shown: the same way out */
		{ "kvm-clock", "kvm-clock tsc acpi_pm", { "kvm-clock", "shows no pvclock page", "echo tsc > /sys/" } },
		{ "hyperv_clocksource_tsc_page", "hyperv_clocksource_tsc_page",
		  { "hyperv_clocksource_tsc_page", "shows no Hyper-V TSC page", "L0 make it stable." } },
		{ "tsc-early", "tsc-early hpet", { "tsc-early", "refining", "try again" } },
	};

	(void)unused;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct pvclock_source *source = NULL;
		struct pvclock_reason reason;
		struct fake_host host;

		fake_host_init(&host, 2596142, 6);
		snprintf(host.current, sizeof(host.current), "%s", cases[i].current);
		snprintf(host.available, sizeof(host.available), "%s", cases[i].available);
		assert_int_equal(pvclock_source_open(&host.os, &source, &reason), -ENOTSUP);
		assert_null(source);
		for (size_t j = 0; j < 3; j++)
			assert_reason(&reason, PVCLOCK_REASON_CLOCKSOURCE, cases[i].words[j]);
		/* nobody has to ask why */
		assert_int_equal(pvclock_source_open(&host.os, &source, NULL), -ENOTSUP);
	}
}

static void invariant_bit(void **unused)
{
	struct pvclock_source *source = NULL;
	struct pvclock_reason reason;
	struct fake_host host;

	(void)unused;
	fake_host_init(&host, 2596142, 8);
	host.invariant = false;
	assert_int_equal(pvclock_source_open(&host.os, &source, &reason), -ENOTSUP);
	assert_reason(&reason, PVCLOCK_REASON_TSC_NOT_INVARIANT, "0x80000007");
	/* no such leaf at all: what the CPU answers there means nothing */
	host.extended_leaves = false;
	assert_int_equal(pvclock_source_open(&host.os, &source, &reason), -ENOTSUP);
	assert_reason(&reason, PVCLOCK_REASON_TSC_NOT_INVARIANT, "0x80000007");
	/* a hypervisor hides the bit for its own reasons: the proof decides */
	host.hypervisor = true;
	source = learned_source(&host, LEARN_NS);
	assert_proven(source, &host);
	pvclock_source_close(source);
}

/* --- reasons ------------------------------------------------------------------------------------------- */

static void reasons(void **unused)
{
	struct pvclock_reason reason;

	(void)unused;
	for (unsigned int i = 0; i < PVCLOCK_REASON_COUNT_; i++) {
		const char *name = pvclock_reason_name((enum pvclock_reason_code)i);

		assert_string_not_equal(name, "unknown");
		assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz-"), strlen(name));
		for (unsigned int j = 0; j < i; j++)
			assert_string_not_equal(name, pvclock_reason_name((enum pvclock_reason_code)j));
	}
	assert_string_equal(pvclock_reason_name(PVCLOCK_REASON_COUNT_), "unknown");
	assert_string_equal(pvclock_reason_name((enum pvclock_reason_code)-1), "unknown");
	/* cut off, never overrun */
	assert_int_equal(pvclock_reason_set(&reason, PVCLOCK_REASON_OS, "%0300d", 1), 0);
	assert_int_equal(strlen(reason.text), PVCLOCK_REASON_TEXT - 1);
	assert_int_equal(pvclock_reason_set(NULL, PVCLOCK_REASON_OS, "%d", 1), 0);
	pvclock_reason_clear(&reason);
	pvclock_reason_clear(NULL);
	assert_int_equal(reason.code, PVCLOCK_REASON_NONE);
	assert_string_equal(reason.text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rule),
		cmocka_unit_test(rule_is_found_again),
		cmocka_unit_test(hull_equals_all_pairs),
		cmocka_unit_test(full_hull_forgets_and_stays_true),
		cmocka_unit_test(bounds_are_strict),
		cmocka_unit_test(proof_is_always_true),
		cmocka_unit_test(line_is_the_kernels),
		cmocka_unit_test(line_is_anchored_where_its_ns_begins),
		cmocka_unit_test(slope_off_linux_rule_is_not_proven),
		cmocka_unit_test(learn_times_out),
		cmocka_unit_test(interrupted_sleep_is_no_error),
		cmocka_unit_test(os_errors_are_passed_on),
		cmocka_unit_test(other_clocksources_are_named),
		cmocka_unit_test(invariant_bit),
		cmocka_unit_test(reasons),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
