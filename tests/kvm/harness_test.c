/* SPDX-License-Identifier: MIT */
/*
 * The harness and the judge together, on a VMM that is not one (fake_vmm.c): what they must see, and that no way
 * in which a VMM fails makes them wait for ever or leaves a process behind. Needs no KVM.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "watch.h"

static struct harness_options options_for(const char *mode, const char *fault)
{
	struct harness_options options = {
		.vmm = getenv("FAKE_VMM"),
		.payload = getenv("FAKE_VMM"),
		.mode = mode,
		.vcpus = 2,
		.extra = { "--fault", fault },
	};

	assert_non_null(options.vmm);
	return options;
}

static void start(struct watch *watch, const char *mode, const char *fault)
{
	const struct harness_options options = options_for(mode, fault);

	if (watch_start(watch, &options))
		fail_msg("%s", watch->harness.error);
	assert_int_equal(harness_processes(&watch->harness), 1);
}

static void stop(struct watch *watch)
{
	watch_finish(watch);
	watch_stop(watch);
	assert_int_equal(harness_processes(&watch->harness), 0);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

static void test_own_keeps_its_line(void **state)
{
	struct watch watch;
	int64_t blackout = 0, jump = 1;

	(void)state;
	start(&watch, "own", "");
	for (int i = 0; i < 5; i++) {
		assert_int_equal(watch_pause(&watch, 2, &blackout, &jump), 0);
		assert_int_equal(jump, 0);
		assert_true(blackout >= 2000000);
		assert_int_equal(watch_update(&watch, &blackout, &jump), 0);
		assert_int_equal(jump, 0);
	}
	watch_finish(&watch);
	assert_int_equal(watch.judge.jump_max, 0);
	assert_int_equal(watch.judge.event_count, 10);
	assert_int_equal(watch_backwards(&watch), 0);
	assert_int_equal(judge_total(&watch.judge), 0);
	assert_true(watch.judge.checked > 1000 && watch.judge.checked == watch.judge.readings);
	stop(&watch);
}

static void test_steer_is_seen_to_the_nanosecond(void **state)
{
	struct watch watch;
	int64_t jump;

	(void)state;
	start(&watch, "steer", "");
	for (int i = 0; i < 6; i++) {
		assert_int_equal(watch_pause(&watch, 1, NULL, &jump), 0);
		assert_int_equal(jump, i % 2 ? -1 : 1);
	}
	assert_int_equal(judge_total(&watch.judge), 0);
	assert_int_equal(watch.judge.unannounced, 0);
	stop(&watch);
}

static void test_stock_is_seen(void **state)
{
	struct watch watch;
	int64_t jump = 0, blackout = 0;

	(void)state;
	start(&watch, "stock", "");
	assert_int_equal(watch_pause(&watch, 5, &blackout, &jump), 0);
	assert_int_equal(jump, -blackout);
	assert_int_equal(judge_total(&watch.judge), -blackout);
	assert_int_equal(watch_backwards(&watch), 0);
	stop(&watch);
}

static void test_steps_backwards_are_seen(void **state)
{
	struct watch watch;

	(void)state;
	start(&watch, "own", "back");
	for (int i = 0; i < 3; i++)
		assert_int_equal(watch_pause(&watch, 1, NULL, NULL), 0);
	assert_int_equal(watch_run(&watch, 50), 0);
	watch_finish(&watch);
	assert_int_equal(watch_backwards(&watch), 1);
	assert_int_equal(watch.judge.jump_max, 1000000);
	stop(&watch);
}

/* Each of these ends in a sentence. */
static void test_failing_vmm(void **state)
{
	static const struct {
		const char *fault, *words;
	} cases[] = {
		{ "die", "died during \"pause\"" },
		{ "hang", "did not answer \"pause\"" },
		{ "mute", "did not answer \"pause\"" },
		{ "lie", "is no JSON object" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct watch watch;

		start(&watch, "own", cases[i].fault);
		assert_null(harness_command(&watch.harness, "pause", 300));
		if (!strstr(watch.harness.error, cases[i].words))
			fail_msg("%s: %s", cases[i].fault, watch.harness.error);
		stop(&watch);
	}
}

static void test_vcpu_that_stands_still(void **state)
{
	struct watch watch;

	(void)state;
	start(&watch, "own", "still");
	json_decref(harness_command(&watch.harness, "pause", 1000));
	json_decref(harness_command(&watch.harness, "resume", 1000));
	assert_int_equal(harness_wait_readings(&watch.harness, 10, 300), -1);
	assert_non_null(strstr(watch.harness.error, "vCPU 1 stands still"));
	stop(&watch);
}

static void test_vmm_that_does_not_start(void **state)
{
	struct harness_options options = options_for("own", "");
	struct watch watch;

	(void)state;
	options.vmm = "/nowhere/pvclock-vmm";
	assert_int_equal(watch_start(&watch, &options), -1);
	assert_non_null(strstr(watch.harness.error, "/nowhere/pvclock-vmm"));
	stop(&watch);
	options = options_for("own", "");
	options.vmm = "/bin/false";
	assert_int_equal(watch_start(&watch, &options), -1);
	assert_non_null(strstr(watch.harness.error, "ended before its guest ran"));
	stop(&watch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_own_keeps_its_line),
		cmocka_unit_test(test_steer_is_seen_to_the_nanosecond),
		cmocka_unit_test(test_stock_is_seen),
		cmocka_unit_test(test_steps_backwards_are_seen),
		cmocka_unit_test(test_failing_vmm),
		cmocka_unit_test(test_vcpu_that_stands_still),
		cmocka_unit_test(test_vmm_that_does_not_start),
	};

	return cmocka_run_group_tests_name("harness", tests, NULL, NULL);
}
