/* SPDX-License-Identifier: MIT */
/*
 * vmclock_test.c - VMClock's page (vmclock.h): the bytes of the ABI, what a reader says about any content, and the time at a
 * counter, against arbitrary precision.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <gmp.h>
#include <pvclock/vmclock.h>

#include "../random.h"

static uint64_t seed = 0x766d636c6f636b;

static uint64_t next(void)
{
	return splitmix64(&seed);
}

/* Any number of bits as often as any other. */
static uint64_t any(void)
{
	uint64_t value = next();

	return value >> (next() & 63);
}

static struct pvclock_vmclock any_clock(void)
{
	return (struct pvclock_vmclock){
		.size = 0x70 + (uint32_t)(next() & 0xffff), .counter_id = (uint8_t)next(), .time_type = (uint8_t)next(),
		.status = (uint8_t)next(), .smearing_hint = (uint8_t)next(), .leap = (uint8_t)next(), .tai_offset = (int16_t)next(),
		.period_shift = (uint8_t)next(), .marker = next(), .flags = next(), .counter = next(), .period = next(),
		.period_est_error = next(), .period_max_error = next(), .sec = next(), .frac = next(), .est_error_ns = next(),
		.max_error_ns = next(), .generation = next(),
	};
}

/* The bytes of vmclock-abi.h, not of our struct. */
static void writes_the_abi(void **state)
{
	static const uint8_t image[0x70] = {
		'V', 'C', 'L', 'K', 0, 0x10, 0, 0, 1, 0, 1, 1, 2, 0, 0, 0, /* magic, size, version, counter, type, sequence */
		8, 7, 6, 5, 4, 3, 2, 1, 0x59, 1, 0, 0, 0, 0, 0, 0,         /* marker, flags */
		/* status, hint, TAI, leap, shift, counter */
		0, 0, 2, 0, 37, 0, 4, 31, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
		0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21, 0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31,
		0x48, 0x47, 0x46, 0x45, 0x44, 0x43, 0x42, 0x41, 0x58, 0x57, 0x56, 0x55, 0x54, 0x53, 0x52, 0x51,
		0x68, 0x67, 0x66, 0x65, 0x64, 0x63, 0x62, 0x61, 0x78, 0x77, 0x76, 0x75, 0x74, 0x73, 0x72, 0x71,
		0x88, 0x87, 0x86, 0x85, 0x84, 0x83, 0x82, 0x81, 0x98, 0x97, 0x96, 0x95, 0x94, 0x93, 0x92, 0x91,
	};
	const struct pvclock_vmclock clock = {
		.size = 0x1000, .counter_id = PVCLOCK_VMCLOCK_COUNTER_TSC, .time_type = PVCLOCK_VMCLOCK_TAI,
		.marker = 0x0102030405060708,
		.flags = PVCLOCK_VMCLOCK_TAI_OFFSET_VALID | PVCLOCK_VMCLOCK_PERIOD_ESTERROR_VALID |
			 PVCLOCK_VMCLOCK_PERIOD_MAXERROR_VALID | PVCLOCK_VMCLOCK_TIME_MAXERROR_VALID |
			 PVCLOCK_VMCLOCK_VM_GEN_COUNTER_PRESENT,
		.status = PVCLOCK_VMCLOCK_SYNCHRONIZED, .tai_offset = 37, .leap = PVCLOCK_VMCLOCK_LEAP_POST_POS, .period_shift = 31,
		.counter = 0x1112131415161718, .period = 0x2122232425262728, .period_est_error = 0x3132333435363738,
		.period_max_error = 0x4142434445464748, .sec = 0x5152535455565758, .frac = 0x6162636465666768,
		.est_error_ns = 0x7172737475767778, .max_error_ns = 0x8182838485868788, .generation = 0x9192939495969798,
	};
	_Alignas(8) uint8_t arena[0x70 + 32];

	(void)state;
	memset(arena, 0xa5, sizeof(arena));
	memset(arena + 16, 0, 0x70);
	pvclock_vmclock_write(arena + 16, &clock);
	assert_memory_equal(arena + 16, image, sizeof(image));
	for (size_t i = 0; i < 16; i++) {
		assert_int_equal(arena[i], 0xa5);
		assert_int_equal(arena[16 + 0x70 + i], 0xa5);
	}
}

static void reads_back_what_was_written(void **state)
{
	_Alignas(8) uint8_t page[0x70] = { 0 };
	uint32_t sequence = 0;

	(void)state;
	for (int i = 0; i < 100000; i++) {
		struct pvclock_vmclock clock, copy;

		memset(&clock, 0, sizeof(clock)); /* padding, too: they are compared as bytes */
		memset(&copy, 0, sizeof(copy));
		clock = any_clock();
		pvclock_vmclock_write(page, &clock);
		assert_int_equal(pvclock_vmclock_read(page, &copy), PVCLOCK_READ_OK);
		assert_int_equal(copy.sequence, sequence += 2);
		copy.sequence = 0;
		assert_memory_equal(&clock, &copy, sizeof(clock));
	}
}

static void refuses_what_is_no_page(void **state)
{
	static const struct {
		size_t at;
		uint8_t byte;
		enum pvclock_read expect;
	} cases[] = {
		{ 0, 0, PVCLOCK_READ_INVALID }, { 3, 0, PVCLOCK_READ_INVALID }, { 8, 0, PVCLOCK_READ_INVALID },
		{ 8, 2, PVCLOCK_READ_INVALID }, { 9, 1, PVCLOCK_READ_INVALID }, { 4, 0x6f, PVCLOCK_READ_INVALID },
		{ 4, 0x70, PVCLOCK_READ_OK }, { 0xc, 1, PVCLOCK_READ_BUSY },
		{ 0xa, 7, PVCLOCK_READ_OK },
	};
	_Alignas(8) uint8_t page[0x70] = { 0 };
	struct pvclock_vmclock clock = { .size = 0x70 }, copy;

	(void)state;
	assert_int_equal(pvclock_vmclock_read(page, &copy), PVCLOCK_READ_INVALID);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		memset(page, 0, sizeof(page));
		pvclock_vmclock_write(page, &clock);
		page[cases[i].at] = cases[i].byte;
		if (pvclock_vmclock_read(page, &copy) != cases[i].expect)
			fail_msg("byte %zu = %u", cases[i].at, cases[i].byte);
		/* a writer that died is gone on from, and its phase is no other's */
		if (cases[i].expect == PVCLOCK_READ_BUSY) {
			pvclock_vmclock_write(page, &clock);
			assert_int_equal(pvclock_vmclock_read(page, &copy), PVCLOCK_READ_OK);
			assert_int_equal(copy.sequence, 4);
		}
	}
}

/* --- the time at a counter ------------------------------------------------------------------------- */

static void set(mpz_t to, uint64_t high, uint64_t low)
{
	mpz_set_ui(to, high);
	mpz_mul_2exp(to, to, 64);
	mpz_add_ui(to, to, low);
}

/* The definitions of vmclock.h, and nothing else. */
static void oracle(const struct pvclock_vmclock *clock, uint64_t counter, struct pvclock_vmclock_time *time)
{
	const uint64_t both = PVCLOCK_VMCLOCK_PERIOD_MAXERROR_VALID | PVCLOCK_VMCLOCK_TIME_MAXERROR_VALID;
	int64_t ticks = (int64_t)(counter - clock->counter);
	mpz_t value, start, ns;

	mpz_inits(value, start, ns, NULL);
	if (ticks == INT64_MIN) {
		mpz_set_ui(value, (uint64_t)1 << 63);
		mpz_neg(value, value);
	} else {
		mpz_set_si(value, ticks);
	}
	mpz_abs(ns, value);
	mpz_mul_ui(value, value, clock->period);
	mpz_fdiv_q_2exp(value, value, clock->period_shift);
	set(start, clock->sec, clock->frac);
	mpz_add(value, value, start);
	mpz_fdiv_r_2exp(value, value, 128);
	mpz_fdiv_q_2exp(start, value, 64);
	time->sec = mpz_get_ui(start);
	mpz_fdiv_r_2exp(start, value, 64);
	time->frac = mpz_get_ui(start);

	mpz_mul_ui(ns, ns, clock->period_max_error);
	mpz_cdiv_q_2exp(ns, ns, clock->period_shift);
	mpz_mul_ui(ns, ns, 1000000000);
	mpz_cdiv_q_2exp(ns, ns, 64);
	mpz_add_ui(ns, ns, clock->max_error_ns);
	time->max_error_ns = (clock->flags & both) != both || !mpz_fits_ulong_p(ns) ? UINT64_MAX : mpz_get_ui(ns);
	mpz_clears(value, start, ns, NULL);
}

static void check(const struct pvclock_vmclock *clock, uint64_t counter)
{
	struct pvclock_vmclock_time time, expect;

	pvclock_vmclock_at(clock, counter, &time);
	oracle(clock, counter, &expect);
	if (time.sec != expect.sec || time.frac != expect.frac || time.max_error_ns != expect.max_error_ns)
		fail_msg("counter %#llx - %#llx, period %#llx >> %u, error %#llx, time %#llx:%#llx: "
			 "%#llx:%#llx +- %llu, not %#llx:%#llx +- %llu",
			 (unsigned long long)counter, (unsigned long long)clock->counter, (unsigned long long)clock->period,
			 clock->period_shift,
			 (unsigned long long)clock->period_max_error, (unsigned long long)clock->sec,
			 (unsigned long long)clock->frac,
			 (unsigned long long)time.sec, (unsigned long long)time.frac, (unsigned long long)time.max_error_ns,
			 (unsigned long long)expect.sec, (unsigned long long)expect.frac, (unsigned long long)expect.max_error_ns);
}

static void time_is_exact_at_the_edges(void **state)
{
	static const uint64_t words[] = { 0, 1, 2, 0x7fffffffffffffff, 0x8000000000000000, 0x8000000000000001, UINT64_MAX - 1,
					  UINT64_MAX, 0xffffffff, 0x100000000, 0x89705f4136b4a597 };
	const size_t count = sizeof(words) / sizeof(*words);

	(void)state;
	for (size_t t = 0; t < count; t++)
		for (size_t p = 0; p < count; p++)
			for (size_t f = 0; f < count; f++)
				for (unsigned int shift = 0; shift < 256; shift++) {
					struct pvclock_vmclock clock = {
						.period = words[p], .period_max_error = words[count - 1 - p], .frac = words[f],
						.sec = words[(f + p) % count], .period_shift = (uint8_t)shift, .flags = UINT64_MAX,
						.max_error_ns = words[(t + f) % count],
					};

					check(&clock, words[t]);
				}
}

static void time_is_exact(void **state)
{
	const char *rounds = getenv("PVCLOCK_ROUNDS");
	unsigned long count = rounds ? strtoul(rounds, NULL, 0) : 300000;

	(void)state;
	while (count--) {
		struct pvclock_vmclock clock = any_clock();

		clock.period = any();
		clock.period_max_error = any();
		clock.max_error_ns = any();
		if (next() & 1)
			clock.period_shift %= 66;
		check(&clock, clock.counter + (next() & 1 ? any() : -any()));
	}
}

/* UAPI.13's own example: 1 GHz, of which a tick is 0x89705f4136b4a597 / 2^(64 + 29) s. */
static void a_gigahertz_counts_nanoseconds(void **state)
{
	struct pvclock_vmclock clock = { .period = 0x89705f4136b4a597, .period_shift = 29, .sec = 1700000000, .counter = 5000 };
	struct pvclock_vmclock_time time;

	(void)state;
	pvclock_vmclock_at(&clock, 5000 + 86400000000000 + 1, &time);
	assert_int_equal(time.sec, 1700000000 + 86400);
	assert_int_equal(pvclock_vmclock_ns(&time), 1700086400000000000); /* the period is rounded down */
	assert_true(time.frac < 18446744074 && time.frac > 18446000000);
	assert_int_equal(time.max_error_ns, PVCLOCK_VMCLOCK_ERROR_UNKNOWN);
	pvclock_vmclock_at(&clock, clock.counter - 1000000000, &time);
	assert_int_equal(pvclock_vmclock_ns(&time), 1699999999000000000);
}

static void utc_and_tai_are_their_offset_apart(void **state)
{
	struct pvclock_vmclock clock = { .time_type = PVCLOCK_VMCLOCK_TAI, .flags = PVCLOCK_VMCLOCK_TAI_OFFSET_VALID,
					 .tai_offset = 37 };
	int64_t seconds;

	(void)state;
	assert_true(pvclock_vmclock_to_tai(&clock, &seconds) && seconds == 0);
	assert_true(pvclock_vmclock_to_utc(&clock, &seconds) && seconds == -37);
	clock.time_type = PVCLOCK_VMCLOCK_UTC;
	assert_true(pvclock_vmclock_to_tai(&clock, &seconds) && seconds == 37);
	assert_true(pvclock_vmclock_to_utc(&clock, &seconds) && seconds == 0);
	clock.flags = 0;
	assert_true(pvclock_vmclock_to_utc(&clock, &seconds) && seconds == 0);
	assert_false(pvclock_vmclock_to_tai(&clock, &seconds));
	clock.flags = PVCLOCK_VMCLOCK_TAI_OFFSET_VALID;
	clock.time_type = PVCLOCK_VMCLOCK_MONOTONIC;
	assert_false(pvclock_vmclock_to_tai(&clock, &seconds));
	assert_false(pvclock_vmclock_to_utc(&clock, &seconds));
}

static void says_what_may_be_relied_upon(void **state)
{
	(void)state;
	for (unsigned int counter = 0; counter < 256; counter++)
		for (unsigned int status = 0; status < 256; status++) {
			struct pvclock_vmclock clock = { .counter_id = (uint8_t)counter, .status = (uint8_t)status };

			assert_int_equal(pvclock_vmclock_reliable(&clock), counter != 0xff && (status == 2 || status == 3));
		}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_the_abi),
		cmocka_unit_test(reads_back_what_was_written),
		cmocka_unit_test(refuses_what_is_no_page),
		cmocka_unit_test(time_is_exact_at_the_edges),
		cmocka_unit_test(time_is_exact),
		cmocka_unit_test(a_gigahertz_counts_nanoseconds),
		cmocka_unit_test(utc_and_tai_are_their_offset_apart),
		cmocka_unit_test(says_what_may_be_relied_upon),
	};
	const char *text = getenv("PVCLOCK_SEED");

	if (text)
		seed = strtoull(text, NULL, 0);
	print_message("PVCLOCK_SEED=%#llx\n", (unsigned long long)seed);
	return cmocka_run_group_tests_name("vmclock", tests, NULL, NULL);
}
