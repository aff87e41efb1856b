/* SPDX-License-Identifier: MIT */
/*
 * events_test.c - P3: what happens to a host after its line was learnt. It is kept where it is still true, and where it is not, the
 * source says so and why. Hosts are fakes in virtual time.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "checks.h"

#define HOSTS 600u
#define LEARN_NS (60ull * SECOND)

static int assume_kernel(struct pvclock_source *source, uint32_t mult, unsigned int shift, struct pvclock_reason *reason)
{
	struct pvclock_slope slope = { 0 };

	(void)pvclock_slope_from_kernel(mult, shift, &slope);
	return pvclock_source_assume(source, &slope, reason);
}

/* --- lines that are lost ------------------------------------------------------------------------- */

static void clocksource_switch_is_seen(void **unused)
{
	for (unsigned int proven = 0; proven < 2; proven++) {
		/* with and without a bend of RAW that the samples see first */
		for (unsigned int bend = 0; bend < 2; bend++) {
			struct pvclock_source *source;
			struct fake_host host;

			(void)unused;
			fake_host_init(&host, 2596142, 9);
			source = proven ? learned_source(&host, LEARN_NS) : open_source(&host);
			snprintf(host.current, sizeof(host.current), "hpet");
			if (bend)
				fake_host_change_mult(&host, host.mult + 5000);
			fake_host_pass(&host, SECOND);
			assert_lost(source, &host, PVCLOCK_REASON_CLOCKSOURCE, "from tsc to hpet");
			pvclock_source_close(source);
		}
	}
}

/* Too soon to be looked for: what is called proven was asked first. */
static void clocksource_is_asked_before_the_proof(void **unused)
{
	struct pvclock_source *source;
	struct pvclock_reason reason;
	struct fake_host host;

	(void)unused;
	fake_host_init(&host, 2596142, 10);
	host.cost_min = host.cost_spread = 0; /* so cheap that the proof takes less than the interval of the look */
	source = open_source(&host);
	snprintf(host.current, sizeof(host.current), "acpi_pm");
	assert_int_equal(pvclock_source_learn(source, SECOND, &reason), -ENOTSUP);
	assert_reason(&reason, PVCLOCK_REASON_CLOCKSOURCE, "from tsc to acpi_pm");
	pvclock_source_close(source);
}

static void changed_mult_is_a_misfit(void **unused)
{
	(void)unused;
	for (unsigned int proven = 0; proven < 2; proven++) {
		struct pvclock_source *source;
		struct pvclock_reason reason;
		struct fake_host host;
		int error;

		fake_host_init(&host, 2596142, 11);
		source = proven ? learned_source(&host, LEARN_NS) : open_source(&host);
		assert_int_equal(pvclock_source_learn(source, SECOND / 10, NULL), proven ? 0 : -ETIMEDOUT);
		fake_host_change_mult(&host, host.mult + 50);
		do {
			fake_host_pass(&host, SECOND / 5);
			error = pvclock_source_sample(source, &reason);
		} while (error == -EAGAIN || error == 0);
		assert_int_equal(error, -ENOTSUP);
		assert_lost(source, &host, PVCLOCK_REASON_SLOPE_MISFIT, "live migration");
		pvclock_source_close(source);
	}
}

/* The smallest change there is, after a proof: one unit is 155 ppb, 155 ns a second. */
static void one_unit_is_seen_in_seconds(void **unused)
{
	struct pvclock_source *source;
	struct fake_host host;
	uint64_t start_ns;

	(void)unused;
	fake_host_init(&host, 2596142, 12);
	source = learned_source(&host, LEARN_NS);
	fake_host_change_mult(&host, host.mult - 1);
	start_ns = fake_host_raw(&host, host.ticks);
	while (pvclock_source_sample(source, NULL) == 0)
		fake_host_pass(&host, SECOND / 10);
	assert_in_range(fake_host_raw(&host, host.ticks) - start_ns, 0, SECOND / 2);
	pvclock_source_close(source);
}

static void jump_back(struct fake_host *host)
{
	host->ticks -= 100000;
}

static void tsc_backwards(void **unused)
{
	(void)unused;
	for (unsigned int inside = 0; inside < 2; inside++) {
		struct pvclock_source *source;
		struct fake_host host;

		fake_host_init(&host, 2596142, 13);
		source = inside ? open_source(&host) : learned_source(&host, LEARN_NS);
		if (inside)
			host.during_read = jump_back;
		else
			jump_back(&host);
		assert_lost(source, &host, PVCLOCK_REASON_TSC_BACKWARDS,
			    inside ? "from one read to the next" : "between two samples");
		pvclock_source_close(source);
	}
}

/* --- host suspend ----------------------------------------------------------------------------------- */

static void suspend_now(struct fake_host *host)
{
	fake_host_suspend(host, 3600ull * SECOND, false);
}

/* A sleep that Linux breaks off, and counts nowhere: the line goes on. The same again and again is another rate. */
static void a_sleep_that_nobody_counts(void **unused)
{
	uint64_t count, seed = first_seed(HOSTS, &count);

	(void)unused;
	for (uint64_t last = seed + count; seed < last; seed++) {
		struct pvclock_source_state state;
		struct pvclock_source *source;
		struct pvclock_reason reason;
		struct fake_host host;

		fake_host_init(&host, (uint32_t)(1000000 + seed * 6421 % 4000000), seed);
		source = open_source(&host);
		assert_int_equal(pvclock_source_learn(source, 20 * SECOND, &reason), 0);
		for (unsigned int i = 0; i < 5; i++) {
			uint64_t slept = host.slept_ns;

			fake_host_suspend(&host, 1000000 + fake_host_random(&host, 900000000), false);
			host.slept_ns = slept;
			assert_int_equal(pvclock_source_sample(source, &reason), 0);
			fake_host_pass(&host, 2 * SECOND);
			assert_int_equal(pvclock_source_sample(source, &reason), 0);
		}
		pvclock_source_get(source, &state);
		assert_true(state.proven);
		/* forward, it is no sleep */
		host.constant += (pvclock_s128)5000000 << host.shift;
		assert_int_equal(pvclock_source_sample(source, &reason), -ENOTSUP);
		pvclock_source_close(source);
		/* and a TSC that runs faster from now on is found out, sample by sample or after a while */
		fake_host_init(&host, 2596142, seed);
		source = open_source(&host);
		assert_int_equal(pvclock_source_learn(source, 20 * SECOND, &reason), 0);
		fake_host_change_mult(&host, host.mult - host.mult / 1000000);
		int error = 0;
		for (unsigned int i = 0; i < 4 && error == 0; i++) {
			fake_host_pass(&host, SECOND / 2 + fake_host_random(&host, 2 * SECOND));
			error = pvclock_source_sample(source, &reason);
		}
		assert_int_equal(error, -ENOTSUP);
		pvclock_source_close(source);
	}
}

/* Anywhere, any number of times, with a TSC that counts on or starts again: no misfit, and still only true proofs. */
static void suspend_keeps_the_slope(void **unused)
{
	uint64_t count, seed = first_seed(HOSTS, &count);

	(void)unused;
	for (uint64_t last = seed + count; seed < last; seed++) {
		struct pvclock_source_state state;
		struct pvclock_source *source;
		struct fake_host host;

		fake_host_init(&host, (uint32_t)(1000000 + seed * 6421 % 4000000), seed);
		source = open_source(&host);
		/* some 10 s between two suspends, on average: a proof needs up to 4 s in one piece */
		for (unsigned int i = 0; i < 2000; i++) {
			int error;

			fake_host_pass(&host, fake_host_random(&host, 100000000));
			switch (fake_host_random(&host, 400)) {
			case 0:
				fake_host_suspend(&host, 1000000000 + fake_host_random(&host, 1ull << 40),
						  fake_host_random(&host, 2) == 0);
				break;
			case 1: /* in the middle of a bracket: the samples' own retry */
				host.during_read = suspend_now;
				break;
			case 2: /* and the OS fails somewhere in the same sample */
				host.during_read = suspend_now;
				host.clock_error_in = 1 + (uint32_t)fake_host_random(&host, 12);
				break;
			default:
				break;
			}
			error = pvclock_source_sample(source, NULL);
			if (error != 0 && error != -EAGAIN && error != -EIO)
				fail_seed(&host, "a suspend was taken for a misfit");
		}
		host.during_read = NULL;
		host.clock_error_in = 0;
		if (pvclock_source_sample(source, NULL) != 0)
			fail_seed(&host, "no proof");
		pvclock_source_get(source, &state);
		if (state.mult != host.mult || state.shift != host.shift)
			fail_seed(&host, "a wrong proof");
		/* and the line is that of after the suspend */
		if (pvclock_line_ns(&state.line, host.ticks) - fake_host_raw(&host, host.ticks) + 200 > 400)
			fail_seed(&host, "a line of before the suspend");
		pvclock_source_close(source);
	}
}

static void suspend_again(struct fake_host *host)
{
	suspend_now(host);
	host->during_read = suspend_again;
}

static void endless_suspends_end(void **unused)
{
	struct pvclock_source *source;
	struct pvclock_reason reason;
	struct fake_host host;

	(void)unused;
	fake_host_init(&host, 2596142, 14);
	source = learned_source(&host, LEARN_NS);
	host.during_read = suspend_again;
	assert_int_equal(pvclock_source_sample(source, &reason), -EAGAIN);
	assert_reason(&reason, PVCLOCK_REASON_OS, "suspended");
	host.during_read = NULL;
	assert_int_equal(pvclock_source_sample(source, NULL), 0);
	assert_proven(source, &host);
	pvclock_source_close(source);
}

/* --- what another process proved ---------------------------------------------------------------------- */

static void assume(void **unused)
{
	struct pvclock_source *source;
	struct pvclock_reason reason;
	struct fake_host host;

	(void)unused;
	fake_host_init(&host, 2596142, 15);
	source = open_source(&host);
	/* from a single sample on, nothing contradicts it */
	assert_int_equal(assume_kernel(source, host.mult, host.shift, &reason), 0);
	assert_int_equal(reason.code, PVCLOCK_REASON_NONE);
	assert_proven(source, &host);
	assert_int_equal(pvclock_source_learn(source, 0, &reason), 0);
	fake_host_pass(&host, 1000 * (uint64_t)SECOND);
	assert_int_equal(pvclock_source_sample(source, &reason), 0);
	/* once more the same is fine, over any power of two; another one is not */
	assert_int_equal(assume_kernel(source, host.mult * 2, host.shift + 1, &reason), 0);
	assert_int_equal(assume_kernel(source, host.mult + 1, host.shift, &reason), -ENOTSUP);
	assert_reason(&reason, PVCLOCK_REASON_SLOPE_MISFIT, "another host");
	assert_proven(source, &host);
	pvclock_source_close(source);
}

static void assume_what_is_wrong(void **unused)
{
	struct pvclock_source *source;
	struct pvclock_reason reason;
	struct fake_host host;

	(void)unused;
	fake_host_init(&host, 2596142, 16);
	source = open_source(&host);
	assert_int_equal(assume_kernel(source, 0, 24, &reason), -ENOTSUP);
	assert_int_equal(assume_kernel(source, host.mult, 64, &reason), -ENOTSUP);
	assert_reason(&reason, PVCLOCK_REASON_SLOPE_MISFIT, "no slope");
	assert_int_equal(pvclock_source_learn(source, SECOND / 10, &reason), -ETIMEDOUT);
	assert_int_equal(assume_kernel(source, host.mult + 1000, host.shift, &reason), -ENOTSUP);
	assert_reason(&reason, PVCLOCK_REASON_SLOPE_MISFIT, "another host");
	/* it was refused, and nothing has changed */
	assert_int_equal(pvclock_source_learn(source, 10ull * SECOND, &reason), 0);
	assert_proven(source, &host);
	pvclock_source_close(source);

	/* too little wrong to be told from the first sample: told from the later ones */
	source = open_source(&host);
	assert_int_equal(assume_kernel(source, host.mult + 1, host.shift, &reason), 0);
	fake_host_pass(&host, 10ull * SECOND);
	assert_lost(source, &host, PVCLOCK_REASON_SLOPE_MISFIT, "no longer follows");
	pvclock_source_close(source);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clocksource_switch_is_seen),
		cmocka_unit_test(clocksource_is_asked_before_the_proof),
		cmocka_unit_test(changed_mult_is_a_misfit),
		cmocka_unit_test(one_unit_is_seen_in_seconds),
		cmocka_unit_test(tsc_backwards),
		cmocka_unit_test(suspend_keeps_the_slope),
		cmocka_unit_test(a_sleep_that_nobody_counts),
		cmocka_unit_test(endless_suspends_end),
		cmocka_unit_test(assume),
		cmocka_unit_test(assume_what_is_wrong),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
