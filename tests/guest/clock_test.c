/* SPDX-License-Identifier: MIT */
/* The guest's reader against the line it reads, and its two small helpers. On machines whose counter guest.h knows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pvclock/guest.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../random.h"

/* Small, large, or next to a power of two: where the arithmetic has its edges. */
static uint64_t edgy_u64(uint64_t *seed)
{
	uint64_t value = splitmix64(seed), kind = splitmix64(seed);

	if (kind & 1)
		value >>= kind >> 58;
	if (kind & 2)
		value = (UINT64_C(1) << (value & 63)) + (kind >> 8 & 3) - 1;
	if (kind & 4)
		value = ~value;
	return value;
}

static void halves_are_the_line(void **state)
{
	const char *text = getenv("PVCLOCK_SEED");
	uint64_t start = text ? strtoull(text, NULL, 0) : 1, seed = start;

	(void)state;
	for (unsigned int i = 0; i < 4000000; i++) {
		struct pvclock_line line;
		uint64_t tsc = edgy_u64(&seed), expect, got;

		line.tsc = i & 1 ? edgy_u64(&seed) : tsc - (edgy_u64(&seed) >> (i & 62));
		line.ns = edgy_u64(&seed);
		line.mul = (uint32_t)edgy_u64(&seed);
		line.shift = (int8_t)((int)(splitmix64(&seed) % 68) - 34);
		expect = pvclock_line_ns(&line, tsc);
		got = pvclock_halves_ns(&line, tsc & 0xffffffffu, tsc >> 32, i) - i;
		if (got == expect) /* as a counter that one instruction reads */
			got = pvclock_halves_ns(&line, tsc, 0, 0);
		if (got != expect)
			fail_msg("PVCLOCK_SEED=%#llx round %u: line %#llx %#llx %#x %d at %#llx: %#llx, not %#llx",
				 (unsigned long long)start, i, (unsigned long long)line.tsc,
				 (unsigned long long)line.ns, line.mul, line.shift, (unsigned long long)tsc,
				 (unsigned long long)got, (unsigned long long)expect);
	}
}

struct expected {
	struct pvclock_line line;
	enum pvclock_read result;
};

static void reads_its_line(void **state)
{
	const uint64_t now = pvclock_read_counter().ticks;
	const struct expected cases[] = {
		{ { now, 1000, 3308755968u, -1 }, PVCLOCK_READ_OK },
		{ { now - (UINT64_C(1) << 40), 1000, 0x80000000u, 0 }, PVCLOCK_READ_OK },
		{ { 0, 0, UINT32_MAX, 31 }, PVCLOCK_READ_OK },               /* more than 64 bits in between */
		{ { 0, UINT64_MAX, 0x80000000u, -1 }, PVCLOCK_READ_OK },     /* saturates */
		{ { 0, UINT64_MAX - 5, 0x80000000u, -31 }, PVCLOCK_READ_OK },
		{ { UINT64_MAX, 7, 0x80000000u, 0 }, PVCLOCK_READ_OK },      /* before the anchor */
		{ { UINT64_MAX, 7, 0x80000000u, 9 }, PVCLOCK_READ_OK },
		{ { 0, 7, 0, 0 }, PVCLOCK_READ_INVALID },
		{ { 0, 7, 0, 5 }, PVCLOCK_READ_INVALID },
		{ { 0, 7, 1, 32 }, PVCLOCK_READ_INVALID },
		{ { 0, 7, 1, -32 }, PVCLOCK_READ_INVALID },
		{ { 0, 7, 1, 127 }, PVCLOCK_READ_INVALID },
		{ { 0, 7, 1, -128 }, PVCLOCK_READ_INVALID },
	};
	struct pvclock_page page;

	(void)state;
	memset(&page, 0, sizeof(page));
	page.version = 0xfffffff8u; /* so that it wraps on the way */
	for (uint32_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct pvclock_reading reading;
		uint64_t before, after;

		pvclock_page_write(&page, &cases[i].line, i & 1);
		before = pvclock_read_counter().ticks;
		assert_int_equal(pvclock_read_clock(&page, &reading), cases[i].result);
		after = pvclock_read_counter().ticks;
		assert_true(before <= reading.tsc.ticks && reading.tsc.ticks <= after);
		assert_int_equal(reading.ns, pvclock_line_ns(&cases[i].line, reading.tsc.ticks));
		assert_int_equal(reading.version, 0xfffffff8u + 2 * (i + 1));
		assert_int_equal(reading.flags, i & 1);
		if (cases[i].result == PVCLOCK_READ_INVALID)
			assert_int_equal(reading.ns, 7);
	}
}

static void gives_up_on_an_odd_version(void **state)
{
	struct pvclock_page page;
	struct pvclock_reading reading;
	struct timespec began, ended;

	(void)state;
	memset(&page, 0xff, sizeof(page));
	memset(&reading, 0xff, sizeof(reading));
	clock_gettime(CLOCK_MONOTONIC, &began);
	assert_int_equal(pvclock_read_clock(&page, &reading), PVCLOCK_READ_BUSY);
	clock_gettime(CLOCK_MONOTONIC, &ended);
	assert_int_equal(reading.ns | reading.tsc.ticks | reading.version | reading.flags, 0);
	assert_true(ended.tv_sec - began.tv_sec < 10);
}

static void takes_guest_stopped_once(void **state)
{
	struct pvclock_page page;
	struct pvclock_line line = { 1, 2, 3, -4 };

	(void)state;
	for (unsigned int flags = 0; flags < 256; flags++) {
		struct pvclock_page before;

		memset(&page, 0x5a, sizeof(page));
		pvclock_page_write(&page, &line, (uint8_t)flags);
		page.flags = (uint8_t)flags;
		before = page;
		assert_int_equal(pvclock_take_guest_stopped(&page), (flags & PVCLOCK_GUEST_STOPPED) != 0);
		assert_int_equal(page.flags, flags & ~PVCLOCK_GUEST_STOPPED);
		page.flags = before.flags;
		assert_memory_equal(&page, &before, sizeof(page));
		page.flags = (uint8_t)(flags & ~PVCLOCK_GUEST_STOPPED);
		assert_false(pvclock_take_guest_stopped(&page));
	}
}

static void guards_with_the_maximum(void **state)
{
	static const uint64_t steps[][2] = {
		{ 0, 0 }, { 5, 5 }, { 4, 5 }, { 5, 5 }, { 6, 6 }, { 0, 6 },
		{ UINT64_C(1) << 32, UINT64_C(1) << 32 }, { 0xffffffffu, UINT64_C(1) << 32 },
		{ UINT64_MAX, UINT64_MAX }, { 1, UINT64_MAX },
	};
	_Atomic uint64_t last = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		assert_int_equal(pvclock_guard(&last, steps[i][0]), steps[i][1]);
		assert_int_equal(atomic_load(&last), steps[i][1]);
	}
}

struct racer {
	_Atomic uint64_t *last;
	uint64_t seed, backwards;
};

static void *race(void *argument)
{
	struct racer *racer = argument;
	uint64_t seen = 0;

	for (uint64_t i = 0; i < 300000; i++) {
		uint64_t mine = i * 16 + (splitmix64(&racer->seed) & 255);
		uint64_t got = pvclock_guard(racer->last, mine);

		/* neither below what it was given, nor below what this CPU saw, nor below what is stored */
		racer->backwards += got < mine || got < seen || atomic_load(racer->last) < got;
		seen = got;
	}
	return NULL;
}

static void guards_across_threads(void **state)
{
	_Atomic uint64_t last = 0;
	struct racer racers[4];
	pthread_t threads[4];

	(void)state;
	for (unsigned int i = 0; i < 4; i++) {
		racers[i] = (struct racer){ &last, i, 0 };
		assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
	}
	for (unsigned int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(racers[i].backwards, 0);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(halves_are_the_line),
		cmocka_unit_test(reads_its_line),
		cmocka_unit_test(gives_up_on_an_odd_version),
		cmocka_unit_test(takes_guest_stopped_once),
		cmocka_unit_test(guards_with_the_maximum),
		cmocka_unit_test(guards_across_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
