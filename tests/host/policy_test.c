/* SPDX-License-Identifier: MIT */
/* policy_test.c - P7: how a host tells its time, and how long a blackout was: by which clock, and within which bound. */
#include "../fake/kvm.h"

#include <pvclock/policy.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define S 1000000000ll
#define HOUR (3600 * S)
#define DAY (24 * HOUR)
#define BOOT "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"

/* --- names ------------------------------------------------------------------------------------ */

static void names_round_trip(void **state)
{
	enum pvclock_blackout blackout;
	enum pvclock_passing passing;

	(void)state;
	for (unsigned int i = 0; i < PVCLOCK_BLACKOUT_COUNT; i++)
		assert_true(pvclock_blackout_parse(pvclock_blackout_name(i), &blackout) && blackout == i);
	for (unsigned int i = 0; i <= PVCLOCK_FREEZE; i++)
		assert_true(pvclock_passing_parse(pvclock_passing_name(i), &passing) && passing == i);
	assert_string_equal(pvclock_blackout_name(PVCLOCK_BLACKOUT_LIVE_UPDATE), "live-update");
	assert_string_equal(pvclock_blackout_name(PVCLOCK_BLACKOUT_COUNT), "?");
	assert_string_equal(pvclock_passing_name(2), "?");
	assert_string_equal(pvclock_timescale_name(PVCLOCK_BY_TAI), "tai");
	assert_string_equal(pvclock_timescale_name(PVCLOCK_BY_REALTIME + 1), "?");
	blackout = PVCLOCK_BLACKOUT_SUSPEND;
	passing = PVCLOCK_FREEZE;
	assert_false(pvclock_blackout_parse("", &blackout) || pvclock_blackout_parse("Pause", &blackout) ||
		     pvclock_blackout_parse("pauses", &blackout) || pvclock_blackout_parse("?", &blackout));
	assert_false(pvclock_passing_parse("advances", &passing) || pvclock_passing_parse("?", &passing));
	assert_true(blackout == PVCLOCK_BLACKOUT_SUSPEND && passing == PVCLOCK_FREEZE); /* what is none changes nothing */
}

static void the_default_policy(void **state)
{
	struct pvclock_policy policy = pvclock_policy_default();

	(void)state;
	assert_int_equal(policy.on[PVCLOCK_BLACKOUT_PAUSE], PVCLOCK_ADVANCE);
	assert_int_equal(policy.on[PVCLOCK_BLACKOUT_LIVE_UPDATE], PVCLOCK_ADVANCE);
	assert_int_equal(policy.on[PVCLOCK_BLACKOUT_MIGRATION], PVCLOCK_ADVANCE);
	assert_int_equal(policy.on[PVCLOCK_BLACKOUT_SNAPSHOT], PVCLOCK_FREEZE);
	assert_int_equal(policy.on[PVCLOCK_BLACKOUT_SUSPEND], PVCLOCK_FREEZE);
	assert_true(policy.advance_max_ns == UINT64_MAX && !policy.fall_back);
}

/* --- one instant -------------------------------------------------------------------------------- */

/* What a clock of the fake reads at a TSC. */
static uint64_t ns_at(const struct fake_kvm *fake, uint64_t tsc)
{
	return (uint64_t)((unsigned __int128)tsc * 1000000 / fake->khz);
}

static void p7_an_instant_by_all_clocks(void **state)
{
	static const uint8_t id[] = { 0x0f, 0x1e, 0x2d, 0x3c, 0x4b, 0x5a, 0x69, 0x78, 0x87, 0x96, 0xa5, 0xb4, 0xc3, 0xd2, 0xe1, 0xf0 };
	struct pvclock_host_time time;
	struct fake_kvm fake;
	uint64_t at;

	(void)state;
	fake_kvm_init(&fake, 1);
	fake.tai_offset = 37;
	fake.slept_ns = 5 * S;
	fake.boot_id = BOOT;
	fake.max_error_us = 1500;
	fake.estimated_error_us = 7;
	assert_int_equal(pvclock_host_time_read(&fake.os, &time), 0);
	/* the clocks were read at 40, 80 and 120 ticks after the first TSC read, the second came 30 later: `at` is between them */
	at = time.at.ticks - (120 + 30) / 2;
	assert_int_equal(time.tai_ns, ns_at(&fake, at + 40) + (uint64_t)fake.realtime_ns + 37 * S);
	assert_int_equal(time.realtime_ns, ns_at(&fake, at + 80) + (uint64_t)fake.realtime_ns);
	assert_int_equal(time.boottime_ns, ns_at(&fake, at + 120) + 5 * S);
	assert_in_range(time.bracket_ns, 84, 85); /* 220 ticks, between two whole ns */
	assert_int_equal(time.tai_offset, 37);
	assert_int_equal(time.max_error_ns, 1500000);
	assert_int_equal(time.estimated_error_ns, 7000);
	assert_int_equal(time.state, TIME_OK);
	assert_memory_equal(time.boot_id, id, sizeof(id));
}

/* A leap second at every instant of the reading: what is told belongs together, on one side of it or the other. */
static void p7_an_offset_that_changes_under_the_reads(void **state)
{
	unsigned int before = 0, after = 0;

	(void)state;
	for (uint64_t ticks = 1; ticks < 2000; ticks++) {
		struct pvclock_host_time time;
		struct fake_kvm fake;

		fake_kvm_init(&fake, 1);
		fake.tai_offset = 37;
		fake.tsc += ticks % 7; /* a bracket of 84 ns is now here, now there */
		fake.leap_tsc = fake.tsc + ticks;
		assert_int_equal(pvclock_host_time_read(&fake.os, &time), 0);
		assert_true(time.tai_offset == 37 || time.tai_offset == 38);
		/* CLOCK_REALTIME was read 40 ticks, 16 ns at most, later */
		assert_in_range((uint64_t)(time.tai_offset * S) - (time.tai_ns - time.realtime_ns), 15, 16);
		before += time.tai_offset == 37;
		after += time.tai_offset == 38;
	}
	assert_true(before > 0 && after > 0);
}

/* A clock that is set under every reading, say. */
static int another_offset(void *ctx, struct timex *status)
{
	const struct fake_kvm *fake = ctx;

	status->tai = fake->tai_offset + 1;
	return TIME_OK;
}

static void p7_an_offset_that_is_never_the_clocks_is_none(void **state)
{
	struct pvclock_host_time time;
	struct pvclock_os_ops ops;
	struct fake_kvm fake;

	(void)state;
	fake_kvm_init(&fake, 1);
	fake.tai_offset = 37;
	ops = *fake.os.ops;
	ops.adjtimex = another_offset;
	fake.os.ops = &ops;
	assert_int_equal(pvclock_host_time_read(&fake.os, &time), 0);
	assert_int_equal(time.tai_offset, 0);
	assert_int_equal(time.realtime_ns / S, fake.realtime_ns / S + (int64_t)(ns_at(&fake, fake.tsc) / S));
}

static void what_a_host_does_not_tell_is_unknown(void **state)
{
	static const char *const none[] = { NULL, "", "0f1e", "00000000-0000-0000-0000-000000000000", "nonsense that has no such digits" };
	struct pvclock_os_ops ops;
	struct pvclock_host_time time;
	struct fake_kvm fake;

	(void)state;
	for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++) {
		fake_kvm_init(&fake, 1);
		fake.boot_id = none[i];
		assert_int_equal(pvclock_host_time_read(&fake.os, &time), 0);
		assert_false(pvclock_host_time_same_boot(&time, &time));
	}
	fake.tai_offset = 37;
	fake.ntp_state = -EPERM;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(pvclock_host_time_read(&fake.os, &time), 0);
		assert_true(time.max_error_ns == PVCLOCK_ERROR_UNKNOWN && time.estimated_error_ns == PVCLOCK_ERROR_UNKNOWN);
		assert_true(time.state == TIME_ERROR && time.tai_offset == 0);
		ops = *fake.os.ops; /* then a table that has no such function */
		ops.adjtimex = NULL;
		fake.os.ops = &ops;
	}
}

/* --- the time between two instants ------------------------------------------------------------------- */

static struct pvclock_host_time instant(char boot, int32_t tai_offset, uint64_t tai_ns)
{
	struct pvclock_host_time time = { .tai_ns = tai_ns, .tai_offset = tai_offset, .bracket_ns = 100, .max_error_ns = 2000,
					  .boottime_ns = 10 * S };

	time.realtime_ns = tai_ns - (uint64_t)(tai_offset * S);
	memset(time.boot_id, boot, sizeof(time.boot_id));
	return time;
}

static void expect(const struct pvclock_host_time *then, const struct pvclock_host_time *now, enum pvclock_timescale by,
		   int64_t measured_ns, uint64_t bound_ns)
{
	struct pvclock_elapsed elapsed;

	pvclock_elapsed_measure(then, now, &elapsed);
	assert_int_equal(elapsed.by, by);
	assert_int_equal(elapsed.measured_ns, measured_ns);
	assert_int_equal(elapsed.ns, measured_ns > 0 ? measured_ns : 0);
	assert_int_equal(elapsed.bound_ns, bound_ns);
}

#define EPOCH (1790000000ull * S)

static void p7_the_same_boot_is_measured_by_boottime(void **state)
{
	struct pvclock_host_time then = instant(1, 37, EPOCH), now = instant(1, 37, EPOCH + 20 * S);

	(void)state;
	now.boottime_ns = then.boottime_ns + 20 * S;
	expect(&then, &now, PVCLOCK_BY_BOOTTIME, 20 * S, 200);
	now.realtime_ns += 5 * HOUR; /* stepped, and CLOCK_TAI with it; then back */
	now.tai_ns += 5 * HOUR;
	expect(&then, &now, PVCLOCK_BY_BOOTTIME, 20 * S, 200);
	now.realtime_ns -= 9 * HOUR;
	now.tai_ns -= 9 * HOUR;
	now.state = TIME_ERROR;
	expect(&then, &now, PVCLOCK_BY_BOOTTIME, 20 * S, 200);
}

static void p7_two_hosts_are_measured_by_tai(void **state)
{
	struct pvclock_host_time then = instant(1, 37, EPOCH), now = instant(2, 37, EPOCH + HOUR);

	(void)state;
	expect(&then, &now, PVCLOCK_BY_TAI, HOUR, 4200);
	expect(&now, &then, PVCLOCK_BY_TAI, -HOUR, 4200); /* the clock here is behind: nothing is counted, and said */
	memset(now.boot_id, 0, sizeof(now.boot_id));	  /* unknown is not the same */
	expect(&then, &now, PVCLOCK_BY_TAI, HOUR, 4200);
	memset(then.boot_id, 0, sizeof(then.boot_id));
	expect(&then, &now, PVCLOCK_BY_TAI, HOUR, 4200);
}

/* UTC has one second twice: CLOCK_REALTIME is a second behind what passed, and TAI is not. A removed one is the reverse. */
static void p7_a_leap_second_adds_nothing(void **state)
{
	struct pvclock_host_time then = instant(1, 37, EPOCH), now = instant(2, 38, EPOCH + 10 * S);

	(void)state;
	assert_int_equal(now.realtime_ns - then.realtime_ns, 9 * S);
	expect(&then, &now, PVCLOCK_BY_TAI, 10 * S, 4200);
	now = instant(2, 36, EPOCH + 10 * S);
	assert_int_equal(now.realtime_ns - then.realtime_ns, 11 * S);
	expect(&then, &now, PVCLOCK_BY_TAI, 10 * S, 4200);
}

/* The same by a host's own clocks: half a second before, and half a second after. */
static void p7_a_leap_second_on_a_host(void **state)
{
	struct pvclock_host_time then, now;
	struct pvclock_elapsed elapsed;
	struct fake_kvm fake;

	(void)state;
	fake_kvm_init(&fake, 1);
	fake.tai_offset = 37;
	fake.leap_tsc = fake.tsc + fake.khz * 500ull;
	assert_int_equal(pvclock_host_time_read(&fake.os, &then), 0);
	fake.tsc += fake.khz * 1000ull;
	assert_int_equal(pvclock_host_time_read(&fake.os, &now), 0);
	pvclock_elapsed_measure(&then, &now, &elapsed);
	assert_int_equal(now.tai_offset, 38);
	assert_int_equal(elapsed.by, PVCLOCK_BY_TAI);
	/* both were read at the same tick of their reading: the time between is that between the ticks, to the ns */
	assert_in_range(elapsed.ns - ns_at(&fake, now.at.ticks - then.at.ticks), 0, 1);
}

static void p7_without_tai_a_leap_second_is_in_the_bound(void **state)
{
	struct pvclock_host_time then = instant(1, 0, EPOCH), now = instant(2, 0, EPOCH + HOUR);

	(void)state;
	expect(&then, &now, PVCLOCK_BY_REALTIME, HOUR, 4200 + S);
	now = instant(2, 37, EPOCH + HOUR + 37 * S); /* one side knows: its CLOCK_TAI has nothing to be compared with */
	expect(&then, &now, PVCLOCK_BY_REALTIME, HOUR, 4200 + S);
	expect(&now, &then, PVCLOCK_BY_REALTIME, -HOUR, 4200 + S);
	/* there can be one at the end of each June and December, which are 181 days apart at least */
	now = instant(2, 0, EPOCH + 181 * DAY - 1);
	expect(&then, &now, PVCLOCK_BY_REALTIME, 181 * DAY - 1, 4200 + S);
	now = instant(2, 0, EPOCH + 181 * DAY);
	expect(&then, &now, PVCLOCK_BY_REALTIME, 181 * DAY, 4200 + 2 * S);
}

static void p7_no_bound_is_made_up(void **state)
{
	struct pvclock_host_time then = instant(1, 37, EPOCH), now = instant(2, 37, EPOCH + HOUR);

	(void)state;
	now.max_error_ns = PVCLOCK_ERROR_UNKNOWN;
	expect(&then, &now, PVCLOCK_BY_TAI, HOUR, PVCLOCK_ERROR_UNKNOWN);
	expect(&now, &then, PVCLOCK_BY_TAI, -HOUR, PVCLOCK_ERROR_UNKNOWN);
	now.tai_offset = 0;
	expect(&then, &now, PVCLOCK_BY_REALTIME, HOUR, PVCLOCK_ERROR_UNKNOWN);
	now = instant(2, 37, EPOCH + HOUR);
	now.max_error_ns = PVCLOCK_ERROR_UNKNOWN - 2000; /* together more than can be said */
	expect(&then, &now, PVCLOCK_BY_TAI, HOUR, PVCLOCK_ERROR_UNKNOWN);
	/* nothing disciplines that clock: the kernel says 16 s, which is as far as it counts */
	now.max_error_ns = 16 * S;
	now.state = TIME_ERROR;
	expect(&then, &now, PVCLOCK_BY_TAI, HOUR, PVCLOCK_ERROR_UNKNOWN);
}

static void what_64_bits_do_not_tell_is_not_wrapped(void **state)
{
	struct pvclock_host_time then = instant(1, 0, 0), now = instant(2, 0, UINT64_MAX);
	const uint64_t leaps = (uint64_t)S * (1 + (uint64_t)INT64_MAX / (181ull * DAY));

	(void)state;
	expect(&then, &now, PVCLOCK_BY_REALTIME, INT64_MAX, 4200 + leaps);
	expect(&now, &then, PVCLOCK_BY_REALTIME, -INT64_MAX, 4200 + leaps);
}

/* Words with commas, or lines as of a file. */
static void words_of_a_policy(void **state)
{
	struct pvclock_policy policy = pvclock_policy_default(), before;
	struct pvclock_reason reason;
	static const char *const wrong[] = { "pause", "pause=never", "sleep=freeze", "snapshot=advance\nsuspend", "a b=freeze",
					     "pause = freeze", "advance_max_ns=-1", "pause=freeze snapshot=freeze" };

	(void)state;
	assert_int_equal(pvclock_policy_parse(&policy, "pause=freeze,snapshot=advance,advance_max_ns=77", &reason), 0);
	assert_int_equal(policy.on[PVCLOCK_BLACKOUT_PAUSE], PVCLOCK_FREEZE);
	assert_int_equal(policy.on[PVCLOCK_BLACKOUT_SNAPSHOT], PVCLOCK_ADVANCE);
	assert_int_equal(policy.advance_max_ns, 77);
	assert_int_equal(pvclock_policy_parse(&policy, "# one\n\n  pause=advance # two, pause=freeze\r\n\t# snapshot=advance\n"
					      "snapshot=freeze,, migration=freeze ,\n#", &reason), 0);
	assert_int_equal(policy.on[PVCLOCK_BLACKOUT_PAUSE], PVCLOCK_ADVANCE);
	assert_int_equal(policy.on[PVCLOCK_BLACKOUT_SNAPSHOT], PVCLOCK_FREEZE);
	assert_int_equal(policy.on[PVCLOCK_BLACKOUT_MIGRATION], PVCLOCK_FREEZE);
	assert_int_equal(policy.advance_max_ns, 77);
	before = policy;
	assert_int_equal(pvclock_policy_parse(&policy, " \n# nothing\n", &reason), 0);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(pvclock_policy_parse(&policy, wrong[i], &reason), -EINVAL);
		assert_non_null(strstr(reason.text, "Policy \""));
	}
	assert_memory_equal(&policy, &before, sizeof(policy)); /* what is refused changes nothing */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_round_trip),
		cmocka_unit_test(the_default_policy),
		cmocka_unit_test(words_of_a_policy),
		cmocka_unit_test(p7_an_instant_by_all_clocks),
		cmocka_unit_test(p7_an_offset_that_changes_under_the_reads),
		cmocka_unit_test(p7_an_offset_that_is_never_the_clocks_is_none),
		cmocka_unit_test(what_a_host_does_not_tell_is_unknown),
		cmocka_unit_test(p7_the_same_boot_is_measured_by_boottime),
		cmocka_unit_test(p7_two_hosts_are_measured_by_tai),
		cmocka_unit_test(p7_a_leap_second_adds_nothing),
		cmocka_unit_test(p7_a_leap_second_on_a_host),
		cmocka_unit_test(p7_without_tai_a_leap_second_is_in_the_bound),
		cmocka_unit_test(p7_no_bound_is_made_up),
		cmocka_unit_test(what_64_bits_do_not_tell_is_not_wrapped),
	};

	return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
