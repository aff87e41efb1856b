/* SPDX-License-Identifier: MIT */
/*
 * What the kernel leaves ready for readers changes how they come to a time, and never the time: each clock is read with it and
 * without it, at the same tick, on any line that a host may publish.
 *
 * Readers and writers are the sources themselves, with a counter that this test sets.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pvclock/guest.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t counter;

static void set_counter_halves(uint64_t *low, uint64_t *high)
{
	*low = counter & UINT32_MAX;
	*high = counter >> 32;
}

#define pvclock_read_counter_halves set_counter_halves
#include "../../src/guest/clock.c"

#include "../random.h"

static struct pvclock_user_page page __attribute__((aligned(4096)));
static struct pvclock_page other; /* of another CPU, which has been told what CPU 0 has not */

static uint64_t edgy_u64(uint64_t *seed)
{
	uint64_t value = splitmix64(seed), kind = splitmix64(seed);

	return kind & 1 ? value >> (kind >> 58) : kind & 2 ? (UINT64_C(1) << (value & 63)) + (kind >> 8 & 3) - 1 : value;
}

/* Usual ones, and what is none: no rate, no shift, an anchor far on, a counter before it. */
static struct pvclock_line any_line(uint64_t *seed)
{
	uint64_t kind = splitmix64(seed);
	struct pvclock_line line = {
		.tsc = kind & 1 ? edgy_u64(seed) : edgy_u64(seed) >> 1,
		.ns = kind & 2 ? edgy_u64(seed) : edgy_u64(seed) >> 2,
		.mul = kind % 16 == 4 ? 0 : (uint32_t)splitmix64(seed) | (kind & 8 ? 0x80000000u : 0),
		.shift = kind % 16 < 8 ? (int8_t)(-(int)(splitmix64(seed) % 4)) : (int8_t)(splitmix64(seed) % 70) - 35,
	};

	counter = line.tsc + (kind & 16 ? edgy_u64(seed) >> 20 : kind & 32 ? edgy_u64(seed) : 0 - (edgy_u64(seed) >> 30));
	return line;
}

static void the_same_with_and_without(void **state)
{
	const char *text = getenv("PVCLOCK_SEED");
	pvclock_last last = 0;
	uint64_t start = text ? strtoull(text, NULL, 0) : 1, seed = start, quick = 0, rounds = 0;

	(void)state;
	for (; rounds < 400000; rounds++) {
		struct pvclock_suspend suspend = { .count = 1, .uncounted_ns = edgy_u64(&seed) };
		struct pvclock_line line = any_line(&seed), more = line;
		const struct pvclock_page *read = splitmix64(&seed) % 4 ? &page.page : &other;
		uint8_t flags = splitmix64(&seed) % 8 ? PVCLOCK_TSC_STABLE : 0;

		pvclock_page_write(&page.page, &line, flags);
		more.ns += splitmix64(&seed) % 2;
		pvclock_page_write(&other, &more, flags | PVCLOCK_TSC_STABLE);
		if (splitmix64(&seed) & 1)
			pvclock_suspend_write(&page.suspend, &suspend);
		pvclock_clocks_start(&page, edgy_u64(&seed), edgy_u64(&seed), edgy_u64(&seed), (int32_t)splitmix64(&seed));
		for (unsigned int id = 0; id < PVCLOCK_CLOCKS; id++) {
			struct pvclock_time with, without;
			uint64_t sec, nsec;
			enum pvclock_read result = pvclock_kernel_time(&page, read, &last, id, &with);
			uint32_t counts = page.clocks.counts;

			quick += (PVCLOCK_HIGH_CLOCKS >> id & 1) != 0 && pvclock_clock_quick(&page, id, &sec, &nsec);
			page.clocks.counts = 0;
			last = 0;
			if (pvclock_kernel_time(&page, read, &last, id, &without) != result || with.sec != without.sec || with.nsec != without.nsec)
				fail_msg("clock %u: %lld.%09u with, %lld.%09u without (counter %llu; tsc %llu, ns %llu, mul %u, shift %d, flags %u); "
					 "again with PVCLOCK_SEED=%llu",
					 id, (long long)with.sec, with.nsec, (long long)without.sec, without.nsec, (unsigned long long)counter,
					 (unsigned long long)line.tsc, (unsigned long long)line.ns, line.mul, line.shift, flags,
					 (unsigned long long)start);
			page.clocks.counts = counts;
			last = 0;
		}
	}
	printf("%llu of %llu readings by what was ready\n", (unsigned long long)quick, (unsigned long long)rounds * 5);
#if defined(__SIZEOF_INT128__) && !defined(PVCLOCK_NO_INT128)
	assert_true(quick > rounds); /* or nothing was compared */
#endif
}

/* A host that died while it wrote, at the one count whose complement says that nothing is ready. */
static void nothing_ready_is_of_no_counts(void **state)
{
	struct pvclock_time time;

	(void)state;
	memset(&page, 0, sizeof(page));
	page.page.version = UINT32_MAX;
	assert_int_equal(pvclock_user_time(&page, PVCLOCK_MONOTONIC, &time), PVCLOCK_READ_BUSY);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_same_with_and_without),
		cmocka_unit_test(nothing_ready_is_of_no_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
