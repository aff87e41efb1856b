/* SPDX-License-Identifier: MIT */
/*
 * All clocks against 128-bit arithmetic, at any system time: a line so flat that the counter does not move it gives the reader
 * whatever system time the test wants. (That they hold while the counter runs and others write is for clocks_torture.c.)
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pvclock/clock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../random.h"

#define SECOND 1000000000

__extension__ typedef __int128 wide;

/* Small, large, next to a power of two or to a whole second. */
static uint64_t edgy_u64(uint64_t *seed)
{
	uint64_t value = splitmix64(seed), kind = splitmix64(seed);

	if (kind & 1)
		value >>= kind >> 58;
	if (kind & 2)
		value = (UINT64_C(1) << (value & 63)) + (kind >> 8 & 3) - 1;
	if (kind & 4)
		value = value / SECOND * SECOND + (kind >> 16 & 3) - 1;
	return value;
}

static uint64_t seed_given(void)
{
	const char *text = getenv("PVCLOCK_SEED");

	return text ? strtoull(text, NULL, 0) : 1;
}

static uint64_t rounds_given(uint64_t otherwise)
{
	const char *text = getenv("PVCLOCK_ROUNDS");

	return text ? strtoull(text, NULL, 0) : otherwise;
}

/* --- arithmetic ---------------------------------------------------------------------------------- */

static struct pvclock_time split(wide ns)
{
	struct pvclock_time time;
	wide sec = ns / SECOND, nsec = ns % SECOND;

	if (nsec < 0) {
		nsec += SECOND;
		sec--;
	}
	time.sec = (int64_t)sec;
	time.nsec = (uint32_t)nsec;
	return time;
}

static void seconds_without_a_division(void **state)
{
	uint64_t seed = seed_given();

	(void)state;
	for (unsigned int i = 0; i < 2000000; i++) {
		uint64_t ns = edgy_u64(&seed);
		uint32_t nsec;
		uint64_t sec = pvclock_seconds(ns, &nsec);

		if (sec != ns / SECOND || nsec != ns % SECOND)
			fail_msg("%llu ns are %llu s and %u ns", (unsigned long long)ns, (unsigned long long)sec, nsec);
	}
}

static void times_before_and_after(void **state)
{
	uint64_t seed = seed_given();

	(void)state;
	for (unsigned int i = 0; i < 2000000; i++) {
		int64_t sec = (int64_t)(edgy_u64(&seed) >> 2) - (INT64_C(1) << 61);
		uint64_t nsec = edgy_u64(&seed);
		struct pvclock_time got = pvclock_time_make(sec, nsec), expect = split((wide)sec * SECOND + (int64_t)nsec);

		if (got.sec != expect.sec || got.nsec != expect.nsec)
			fail_msg("%lld s + %lld ns are %lld.%09u", (long long)sec, (long long)nsec, (long long)got.sec, got.nsec);
	}
}

/* --- a guest, and what its clocks have to be --------------------------------------------------------- */

struct guest {
	struct pvclock_user_page *user;       /* the kernel's mapping ... */
	const struct pvclock_user_page *read; /* ... and a process's: it can only read */
	struct pvclock_page other;            /* of another CPU */
	pvclock_last last;
	uint64_t seed, start, round;
	/* the truth */
	uint64_t now, anchor, uncounted, anchor_uncounted, guarded;
	wide wall;
	int32_t tai;
	uint64_t told_uncounted, told_counted, told_count;
	struct pvclock_suspend suspend;
};

/* A page where system time is `ns` for some minutes: a tick is 2^-63 ns; or, before its anchor, as long as it lasts. */
static void set_system_time(struct guest *guest, uint64_t ns, uint8_t flags)
{
	struct pvclock_line line = { pvclock_read_counter().ticks, ns, 1, PVCLOCK_SHIFT_MIN };

	if (splitmix64(&guest->seed) % 4 == 0)
		line = (struct pvclock_line){ UINT64_MAX, ns, 0x80000000u, (int8_t)(splitmix64(&guest->seed) % 9) };
	guest->now = ns;
	pvclock_page_write(&guest->user->page, &line, flags);
	guest->user->page.flags = flags;
}

static void begin(struct guest *guest, uint64_t start)
{
	int file = memfd_create("user page", 0);

	memset(guest, 0, sizeof(*guest));
	guest->start = guest->seed = start;
	assert_true(file >= 0 && ftruncate(file, 4096) == 0);
	guest->user = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	guest->read = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
	assert_true(guest->user != MAP_FAILED && guest->read != MAP_FAILED);
	close(file);
}

static void end(struct guest *guest)
{
	munmap(guest->user, 4096);
	munmap((void *)(uintptr_t)guest->read, 4096);
}

/* Like clock_gettime of this id, without a bound. */
static wide truth(const struct guest *guest, unsigned int id, uint64_t system)
{
	switch (id) {
	case PVCLOCK_MONOTONIC:
	case PVCLOCK_MONOTONIC_RAW:
		return system;
	case PVCLOCK_BOOTTIME:
		return (wide)system + guest->uncounted;
	case PVCLOCK_REALTIME:
		return guest->wall + system + guest->uncounted;
	case PVCLOCK_TAI:
		return guest->wall + system + guest->uncounted + (wide)guest->tai * SECOND;
	case PVCLOCK_MONOTONIC_COARSE:
		return guest->anchor;
	default: /* REALTIME_COARSE */
		return guest->wall + guest->anchor + guest->anchor_uncounted;
	}
}

static void check_one(struct guest *guest, const char *reader, unsigned int id, enum pvclock_read result, const struct pvclock_time *got,
		      enum pvclock_read ns_result, uint64_t ns, wide value)
{
	struct pvclock_time expect = split(value);

	if (result != PVCLOCK_READ_OK || ns_result != PVCLOCK_READ_OK || got->sec != expect.sec || got->nsec != expect.nsec ||
	    ns != (uint64_t)value)
		fail_msg("PVCLOCK_SEED=%llu round %llu: %s %u says %lld.%09u (%d) and %llu ns (%d), not %lld.%09u",
			 (unsigned long long)guest->start, (unsigned long long)guest->round, reader, id, (long long)got->sec, got->nsec,
			 result, (unsigned long long)ns, ns_result, (long long)expect.sec, expect.nsec);
}

static void check_none(enum pvclock_read result, enum pvclock_read expect, const struct pvclock_time *got)
{
	assert_int_equal(result, expect);
	assert_int_equal(got->sec, 0);
	assert_int_equal(got->nsec, 0);
}

static void check_all(struct guest *guest)
{
	bool stable = (guest->user->page.flags & PVCLOCK_TSC_STABLE) != 0;
	struct pvclock_time time;
	enum pvclock_read result, ns_result;
	uint64_t ns;

	for (unsigned int id = 0; id < 16; id++) {
		memset(&time, 0xff, sizeof(time));
		if (id < PVCLOCK_CLOCKS && (PVCLOCK_HIGH_CLOCKS >> id & 1)) {
			if (!stable && guest->guarded < guest->now)
				guest->guarded = guest->now;
			result = pvclock_kernel_time(guest->user, &guest->user->page, &guest->last, id, &time);
			ns_result = pvclock_kernel_ns(guest->user, &guest->user->page, &guest->last, id, &ns);
			check_one(guest, "kernel", id, result, &time, ns_result, ns, truth(guest, id, stable ? guest->now : guest->guarded));
			result = pvclock_user_time(guest->read, id, &time);
			ns_result = pvclock_user_ns(guest->read, id, &ns);
			if (stable)
				check_one(guest, "user", id, result, &time, ns_result, ns, truth(guest, id, guest->now));
			else
				check_none(result, PVCLOCK_READ_KERNEL, &time);
			check_none(pvclock_coarse_time(guest->read, id, &time), PVCLOCK_READ_KERNEL, &time);
		} else if (id < PVCLOCK_CLOCKS && (PVCLOCK_COARSE_CLOCKS >> id & 1)) {
			result = pvclock_coarse_time(guest->read, id, &time);
			ns_result = pvclock_coarse_ns(guest->read, id, &ns);
			check_one(guest, "coarse", id, result, &time, ns_result, ns, truth(guest, id, 0));
			check_none(pvclock_user_time(guest->read, id, &time), PVCLOCK_READ_KERNEL, &time);
		} else {
			check_none(pvclock_user_time(guest->read, id, &time), PVCLOCK_READ_KERNEL, &time);
			check_none(pvclock_kernel_time(guest->user, &guest->user->page, &guest->last, id, &time), PVCLOCK_READ_KERNEL, &time);
			check_none(pvclock_coarse_time(guest->read, id, &time), PVCLOCK_READ_KERNEL, &time);
		}
	}
	assert_int_equal(guest->last, guest->guarded);
}

/* What every writer does besides its own. */
static void anchored(struct guest *guest, uint64_t now)
{
	if (guest->anchor < now)
		guest->anchor = now;
	guest->anchor_uncounted = guest->uncounted;
}

static void suspend(struct guest *guest)
{
	struct pvclock_suspend *suspend = &guest->suspend;
	uint64_t slept = edgy_u64(&guest->seed) >> 3;

	suspend->cause = (enum pvclock_cause)(1 + splitmix64(&guest->seed) % 5);
	suspend->count++;
	suspend->last_ns = slept;
	suspend->error_ns = splitmix64(&guest->seed);
	if (splitmix64(&guest->seed) & 1)
		suspend->counted_ns += slept;
	else if (suspend->uncounted_ns < UINT64_MAX / 2) /* with 128 bits none is too much, but the reader has 64 */
		suspend->uncounted_ns += slept;
	pvclock_suspend_write(&guest->user->suspend, suspend);
	guest->uncounted = suspend->uncounted_ns;
}

static void tell(struct guest *guest)
{
	struct pvclock_told told;
	enum pvclock_read result = pvclock_clocks_told(guest->user, guest->now, &told);

	anchored(guest, guest->now);
	if (guest->suspend.count == 0) {
		assert_int_equal(result, PVCLOCK_READ_INVALID);
		assert_int_equal(told.count | told.uncounted_ns | told.counted_ns, 0);
		return;
	}
	assert_int_equal(result, PVCLOCK_READ_OK);
	assert_int_equal(told.count, guest->suspend.count - guest->told_count);
	assert_int_equal(told.uncounted_ns, guest->suspend.uncounted_ns - guest->told_uncounted);
	assert_int_equal(told.counted_ns, guest->suspend.counted_ns - guest->told_counted);
	assert_int_equal(told.cause, guest->suspend.cause);
	assert_int_equal(told.error_ns, guest->suspend.error_ns);
	guest->told_count = guest->suspend.count;
	guest->told_uncounted = guest->suspend.uncounted_ns;
	guest->told_counted = guest->suspend.counted_ns;
}

/* To any time that is less than 2^62 ns from the anchor: 146 years, on either side. */
static uint64_t any_time(struct guest *guest)
{
	uint64_t step = edgy_u64(&guest->seed) >> 2;

	if (splitmix64(&guest->seed) % 3 == 0)
		return guest->anchor < step ? 0 : guest->anchor - step;
	if (splitmix64(&guest->seed) % 2 == 0)
		step %= 3 * (uint64_t)SECOND;
	return guest->anchor > UINT64_MAX - step ? UINT64_MAX : guest->anchor + step;
}

static void one_event(struct guest *guest)
{
	struct pvclock_time time;
	uint64_t epoch;

	switch (splitmix64(&guest->seed) % 8) {
	case 0:
		epoch = edgy_u64(&guest->seed);
		guest->tai = (int32_t)edgy_u64(&guest->seed);
		pvclock_clocks_start(guest->user, guest->now, epoch, pvclock_clocks_uncounted(guest->read), guest->tai);
		guest->wall = (wide)epoch - guest->uncounted;
		anchored(guest, guest->now);
		guest->told_count = guest->suspend.count;
		guest->told_uncounted = guest->suspend.uncounted_ns;
		guest->told_counted = guest->suspend.counted_ns;
		break;
	case 1:
		time.sec = (int64_t)(edgy_u64(&guest->seed) >> 8) * (splitmix64(&guest->seed) & 1 ? 1 : -1);
		time.nsec = (uint32_t)edgy_u64(&guest->seed); /* also of several seconds */
		epoch = splitmix64(&guest->seed) & 1 ? edgy_u64(&guest->seed) : guest->uncounted; /* a suspend came in between */
		pvclock_clocks_set_realtime(guest->user, guest->now, epoch, &time);
		guest->wall = (wide)time.sec * SECOND + time.nsec - guest->now - epoch;
		anchored(guest, guest->now);
		break;
	case 2:
		guest->tai = (int32_t)(splitmix64(&guest->seed) % 200) - 100;
		pvclock_clocks_set_tai(guest->user, guest->now, guest->tai);
		anchored(guest, guest->now);
		break;
	case 3: {
		int32_t seconds = splitmix64(&guest->seed) & 1 ? 1 : -1;

		if (guest->tai > INT32_MAX - 1 || guest->tai < INT32_MIN + 1)
			break;
		pvclock_clocks_leap(guest->user, guest->now, seconds);
		guest->wall -= (wide)seconds * SECOND;
		guest->tai += seconds;
		anchored(guest, guest->now);
		break;
	}
	case 4:
		suspend(guest);
		break;
	case 5:
		tell(guest);
		break;
	default:
		pvclock_clocks_tick(guest->user, guest->now);
		anchored(guest, guest->now);
	}
}

static void p2_every_clock_is_its_function(void **state)
{
	uint64_t start = seed_given(), rounds = rounds_given(3000);

	(void)state;
	for (uint64_t i = 0; i < rounds; i++) {
		struct guest guest;

		begin(&guest, start + i);
		set_system_time(&guest, edgy_u64(&guest.seed) >> 2, PVCLOCK_TSC_STABLE);
		for (guest.round = 0; guest.round < 60; guest.round++) {
			check_all(&guest);
			one_event(&guest);
			check_all(&guest);
			set_system_time(&guest, any_time(&guest), splitmix64(&guest.seed) % 8 ? PVCLOCK_TSC_STABLE : 0);
		}
		end(&guest);
	}
}

/* The sum of what passed without it is right before any handler ran; its coarse clocks follow when it is told. */
static void p9_right_at_the_first_instruction(void **state)
{
	struct guest guest;
	struct pvclock_time before, after;
	struct pvclock_told told;

	(void)state;
	begin(&guest, 1);
	set_system_time(&guest, 5 * UINT64_C(1000000000), PVCLOCK_TSC_STABLE);
	pvclock_clocks_start(guest.user, guest.now, UINT64_C(1795000000000000000), 0, 37);
	for (unsigned int id = 0; id < PVCLOCK_CLOCKS; id++) {
		uint64_t expect = PVCLOCK_SUSPEND_CLOCKS >> id & 1 ? 3600 : 0;

		if ((PVCLOCK_HIGH_CLOCKS >> id & 1) == 0)
			continue;
		assert_int_equal(pvclock_user_time(guest.read, id, &before), PVCLOCK_READ_OK);
		guest.suspend.uncounted_ns += 3600 * UINT64_C(1000000000);
		guest.suspend.count++;
		guest.suspend.cause = PVCLOCK_CAUSE_SUSPEND;
		pvclock_suspend_write(&guest.user->suspend, &guest.suspend);
		assert_int_equal(pvclock_user_time(guest.read, id, &after), PVCLOCK_READ_OK);
		assert_int_equal(after.sec - before.sec, expect);
		assert_int_equal(after.nsec, before.nsec);
		pvclock_coarse_time(guest.read, PVCLOCK_REALTIME_COARSE, &before);
		assert_int_equal(pvclock_clocks_told(guest.user, guest.now, &told), PVCLOCK_READ_OK);
		assert_int_equal(told.uncounted_ns, 3600 * UINT64_C(1000000000));
		assert_int_equal(told.cause, PVCLOCK_CAUSE_SUSPEND);
		pvclock_coarse_time(guest.read, PVCLOCK_REALTIME_COARSE, &after);
		assert_int_equal(after.sec - before.sec, 3600);
	}
	end(&guest);
}

/* A page of a guest that never started its clocks, and of a host that died in the middle of a write. */
static void pages_that_are_not_usual(void **state)
{
	struct pvclock_time time;
	struct guest guest;
	uint32_t *counts[3];

	(void)state;
	begin(&guest, 1);
	check_none(pvclock_user_time(guest.read, PVCLOCK_MONOTONIC, &time), PVCLOCK_READ_KERNEL, &time);
	check_none(pvclock_kernel_time(guest.user, &guest.user->page, &guest.last, PVCLOCK_MONOTONIC, &time), PVCLOCK_READ_INVALID, &time);
	guest.user->page.flags = PVCLOCK_TSC_STABLE;
	check_none(pvclock_user_time(guest.read, PVCLOCK_MONOTONIC, &time), PVCLOCK_READ_INVALID, &time);
	set_system_time(&guest, UINT64_C(7000000001), PVCLOCK_TSC_STABLE);
	assert_int_equal(pvclock_user_time(guest.read, PVCLOCK_BOOTTIME, &time), PVCLOCK_READ_OK);
	assert_true(time.sec == 7 && time.nsec == 1);

	counts[0] = &guest.user->clocks.sequence;
	counts[1] = &guest.user->page.version;
	counts[2] = &guest.user->suspend.sequence;
	for (unsigned int i = 0; i < 3; i++) {
		*counts[i] |= 1;
		check_none(pvclock_user_time(guest.read, PVCLOCK_MONOTONIC, &time), PVCLOCK_READ_BUSY, &time);
		*counts[i] += 1;
		assert_int_equal(pvclock_user_time(guest.read, PVCLOCK_MONOTONIC, &time), PVCLOCK_READ_OK);
	}
	guest.user->clocks.sequence |= 1;
	check_none(pvclock_coarse_time(guest.read, PVCLOCK_MONOTONIC_COARSE, &time), PVCLOCK_READ_BUSY, &time);
	/* a kernel whose host never ends a write does not hang in its tick, and goes on from what it knew */
	guest.user->suspend.sequence |= 1;
	pvclock_clocks_tick(guest.user, UINT64_C(7000000001));
	assert_int_equal(pvclock_coarse_time(guest.read, PVCLOCK_MONOTONIC_COARSE, &time), PVCLOCK_READ_OK);
	assert_true(time.sec == 7 && time.nsec == 1);
	end(&guest);
}

/* Of two CPUs whose lines are not one, through the kernel's reader. */
static void p2_guard_between_cpus(void **state)
{
	const struct pvclock_line lines[2] = { { 0, 9000000000u, 1, PVCLOCK_SHIFT_MIN }, { 0, 8000000000u, 1, PVCLOCK_SHIFT_MIN } };
	struct guest guest;
	uint64_t ns;

	(void)state;
	begin(&guest, 1);
	pvclock_page_write(&guest.user->page, &lines[0], 0);
	pvclock_page_write(&guest.other, &lines[1], 0);
	assert_int_equal(pvclock_kernel_ns(guest.user, &guest.other, &guest.last, PVCLOCK_MONOTONIC, &ns), PVCLOCK_READ_OK);
	assert_true(ns >= 8000000000u && ns < 9000000000u);
	assert_int_equal(pvclock_kernel_ns(guest.user, &guest.user->page, &guest.last, PVCLOCK_MONOTONIC, &ns), PVCLOCK_READ_OK);
	assert_true(ns >= 9000000000u);
	assert_int_equal(guest.last, ns);
	assert_int_equal(pvclock_kernel_ns(guest.user, &guest.other, &guest.last, PVCLOCK_BOOTTIME, &ns), PVCLOCK_READ_OK);
	assert_int_equal(guest.last, ns);
	end(&guest);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(seconds_without_a_division),
		cmocka_unit_test(times_before_and_after),
		cmocka_unit_test(p2_every_clock_is_its_function),
		cmocka_unit_test(p9_right_at_the_first_instruction),
		cmocka_unit_test(pages_that_are_not_usual),
		cmocka_unit_test(p2_guard_between_cpus),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
