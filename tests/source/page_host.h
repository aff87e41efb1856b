/* SPDX-License-Identifier: MIT */
/* page_host.h - hosts that are virtual machines: of both hypervisors, and of any rate that a TSC has. After cmocka.h. */
#ifndef TESTS_SOURCE_PAGE_HOST_H
#define TESTS_SOURCE_PAGE_HOST_H

#include "checks.h"

#define MS 1000000u
#define HOSTS 400u
#define LEARN_NS SECOND

#define CHECK_SEED(host, condition) \
	do { \
		if (!(condition)) \
			fail_msg("%s: %s, khz %" PRIu32 "; repeat with SOURCE_TEST_SEED=%" PRIu64, #condition, \
				 (host)->current, (host)->khz, (host)->seed); \
	} while (0)

static inline struct pvclock_source_state state_of(const struct pvclock_source *source)
{
	struct pvclock_source_state state;

	pvclock_source_get(source, &state);
	return state;
}

/* The page's slope as its ABI defines it. */
static inline struct pvclock_slope true_slope(const struct fake_host *host)
{
	struct pvclock_slope slope = { 0 };
	pvclock_u128 product = (pvclock_u128)host->clock.hyperv.scale * 100;

	if (product == 0) {
		assert_true(pvclock_slope_from_line(&host->clock.line, &slope));
		return slope;
	}
	/* scale * 100 / 2^64, cut off at 64 bits */
	for (slope.exponent = -64; product >> 64 != 0; slope.exponent++)
		product >>= 1;
	slope.mantissa = (uint64_t)product;
	return slope;
}

/* Both hypervisors, each seed; a quiet host of any rate that a TSC has. */
static inline void each(void (*test)(struct fake_host *host))
{
	uint64_t count, seed = first_seed(HOSTS, &count);

	for (; count-- != 0; seed++)
		for (int hyperv = 0; hyperv < 2; hyperv++) {
			struct fake_host host;

			fake_host_init_virtual(&host, hyperv, (uint32_t)(400000 + seed * 7919 % 5000000), seed);
			host.cost_min = seed % 200;
			host.cost_spread = seed % 37;
			test(&host);
		}
}

#endif
