/* SPDX-License-Identifier: MIT */
/* page_wrong_test.c - P3, P8: a page that is not what the kernel keeps time by, or no longer: it is lost, with the reason. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "page_host.h"

/* The page of another machine, by its slope: seen before it is called proven, or, where it is near, soon after. */
static void wrong_page(struct fake_host *host)
{
	static const struct {
		uint32_t off_ppb;
		uint64_t within_ns;
	} cases[] = { { 100000, 0 }, { 10000, SECOND }, { 300, 5ull * SECOND } };

	for (unsigned int i = 0; i < 3; i++)
		for (int sign = -1; sign <= 1; sign += 2) {
			struct pvclock_reason reason;
			struct pvclock_source *source = NULL;
			struct fake_clock truth = host->clock;
			uint64_t start;
			int error;

			host->cost_min = 20;
			host->cost_spread = 5;
			uint64_t mul = truth.line.mul, scale = truth.hyperv.scale / SECOND * cases[i].off_ppb;

			host->clock.line.mul += (uint32_t)sign * (uint32_t)(mul * cases[i].off_ppb / SECOND);
			host->clock.hyperv.scale += (uint64_t)sign * scale;
			fake_host_publish(host);
			host->clock = truth;
			source = open_source(host);
			start = host->ticks;
			error = pvclock_source_learn(source, SECOND, &reason);
			while (error == 0 && host->ticks - start < fake_host_ticks(host, cases[i].within_ns)) {
				fake_host_pass(host, SECOND / 100);
				error = pvclock_source_sample(source, &reason);
			}
			CHECK_SEED(host, error == -ENOTSUP);
			assert_lost(source, host, PVCLOCK_REASON_SLOPE_MISFIT, "does not follow");
			pvclock_source_close(source);
		}
}

static void wrong_page_is_caught(void **unused)
{
	(void)unused;
	each(wrong_page);
}

/* RAW alone is moved: forth, which may be a kernel standing still until it is seen not to be, or back. */
static void raw_moved_alone(struct fake_host *host)
{
	for (int sign = -1; sign <= 1; sign += 2) {
		struct pvclock_source *source;

		host->cost_min = 20;
		source = learned_source(host, LEARN_NS);
		fake_host_pass(host, SECOND);
		host->constant += sign * (int64_t)(20000 + fake_host_random(host, SECOND / 2));
		if (sign > 0) {
			CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
			fake_host_pass(host, SECOND);
		}
		assert_lost(source, host, PVCLOCK_REASON_SLOPE_MISFIT, "moved alone");
		pvclock_source_close(source);
	}
}

static void raw_moved_alone_is_a_misfit(void **unused)
{
	(void)unused;
	each(raw_moved_alone);
}

static void clocksource_is_watched(void **unused)
{
	(void)unused;
	for (int hyperv = 0; hyperv < 2; hyperv++)
		for (int proven = 0; proven < 2; proven++) {
			struct pvclock_source *source;
			struct pvclock_reason reason;
			struct fake_host host;
			char word[64];

			fake_host_init_virtual(&host, hyperv, 2600000, 1);
			source = proven ? learned_source(&host, LEARN_NS) : open_source(&host);
			snprintf(word, sizeof(word), "from %s to tsc", host.current);
			snprintf(host.current, sizeof(host.current), "tsc");
			if (proven)
				fake_host_pass(&host, SECOND / 5);
			else /* before the look is due: asked before the proof */
				assert_int_equal(pvclock_source_learn(source, SECOND, &reason), -ENOTSUP);
			assert_lost(source, &host, PVCLOCK_REASON_CLOCKSOURCE, word);
			pvclock_source_close(source);
		}
}

static void tsc_backwards(void **unused)
{
	(void)unused;
	for (int hyperv = 0; hyperv < 2; hyperv++) {
		struct pvclock_source *source;
		struct fake_host host;

		fake_host_init_virtual(&host, hyperv, 2600000, 1);
		source = learned_source(&host, LEARN_NS);
		host.ticks -= 1000000;
		assert_lost(source, &host, PVCLOCK_REASON_TSC_BACKWARDS, "went back");
		pvclock_source_close(source);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_page_is_caught),
		cmocka_unit_test(raw_moved_alone_is_a_misfit),
		cmocka_unit_test(clocksource_is_watched),
		cmocka_unit_test(tsc_backwards),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
