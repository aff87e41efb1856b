/* SPDX-License-Identifier: MIT */
/*
 * watch_test.c - P9: a sleep that is announced. What is done before it is done while the inhibitor is held; and
 * whatever becomes of the sleep, of logind and of the bus, who was told of a beginning is told of an end, once.
 */
#include "bus.h"
#include "sleep_watch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SOON_MS 10000
#define QUIET_MS 150
#define PATIENCE_MS 300

struct heard {
	struct bus bus;
	struct sleep_watch *watch;
	bool at_once; /* what `sleeping` answers */
	unsigned int sleeps, wakes, sentences;
	char sentence[400];
};

static bool sleeping(void *ctx)
{
	struct heard *heard = ctx;

	heard->sleeps++;
	return heard->at_once;
}

static void awake(void *ctx)
{
	((struct heard *)ctx)->wakes++;
}

static void say(void *ctx, const char *sentence)
{
	struct heard *heard = ctx;

	heard->sentences++;
	snprintf(heard->sentence, sizeof(heard->sentence), "%s", sentence);
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The poll loop, for so long or until a count is reached. */
static void turn(struct heard *heard, const unsigned int *count, unsigned int wanted, int ms)
{
	int64_t until = now_ms() + ms;

	while ((count == NULL || *count < wanted) && now_ms() < until) {
		struct pollfd waited;
		int timeout_ms = 20;

		sleep_watch_poll(heard->watch, &waited, &timeout_ms);
		poll(&waited, 1, timeout_ms);
		sleep_watch_process(heard->watch);
	}
	if (count != NULL)
		assert_int_equal(*count, wanted);
}

/* logind says a word while the loop turns. */
static void hear(struct heard *heard, const char *word, long long numbers[2])
{
	int64_t until = now_ms() + SOON_MS;

	while (bus_silent(&heard->bus, 0) && now_ms() < until)
		turn(heard, NULL, 0, 5);
	assert_true(bus_hear(&heard->bus, word, numbers, SOON_MS));
}

static void begin(struct heard *heard, bool at_once)
{
	const struct sleep_watch_client client = {
		.why = "a test", .ctx = heard, .sleeping = sleeping, .awake = awake, .say = say, .patience_ns = SOON_MS * 1000000ull };

	memset(heard, 0, sizeof(*heard));
	heard->at_once = at_once;
	assert_true(bus_start(&heard->bus));
	heard->watch = sleep_watch_open(&client);
	assert_non_null(heard->watch);
	hear(heard, "taken", NULL);
}

static void end(struct heard *heard)
{
	sleep_watch_close(heard->watch);
	bus_stop(&heard->bus);
}

static void p9_held_until_ready(void **state)
{
	struct heard heard;
	long long left[2];

	(void)state;
	begin(&heard, false);
	for (unsigned int i = 1; i <= 3; i++) { /* one after the other */
		bus_say(&heard.bus, "sleep");
		turn(&heard, &heard.sleeps, i, SOON_MS);
		turn(&heard, NULL, 0, QUIET_MS);
		assert_true(bus_silent(&heard.bus, QUIET_MS)); /* not before we say so */
		sleep_watch_ready(heard.watch);
		hear(&heard, "released", left);
		assert_int_equal(left[0], 0);
		assert_int_equal(heard.wakes, i - 1);
		bus_say(&heard.bus, "wake");
		turn(&heard, &heard.wakes, i, SOON_MS);
		hear(&heard, "taken", NULL);
		sleep_watch_ready(heard.watch); /* nothing is announced */
		assert_true(bus_silent(&heard.bus, QUIET_MS));
	}
	assert_int_equal(heard.sentences, 0);
	end(&heard);
}

static void p9_ready_at_once(void **state)
{
	struct heard heard;

	(void)state;
	begin(&heard, true);
	bus_say(&heard.bus, "sleep");
	hear(&heard, "released", NULL);
	assert_int_equal(heard.sleeps, 1);
	bus_say(&heard.bus, "sleep"); /* said twice, heard once */
	bus_say(&heard.bus, "wake");
	hear(&heard, "taken", NULL);
	assert_int_equal(heard.sleeps, 1);
	assert_int_equal(heard.wakes, 1);
	bus_say(&heard.bus, "wake"); /* of a sleep that nobody announced */
	turn(&heard, NULL, 0, QUIET_MS);
	assert_int_equal(heard.wakes, 1);
	end(&heard);
}

/*
 * Called off before we were ready: the inhibitor that was not given back is the next sleep's, and a late answer does
 * not touch it.
 */
static void p9_called_off(void **state)
{
	struct heard heard;

	(void)state;
	begin(&heard, false);
	bus_say(&heard.bus, "blink");
	turn(&heard, &heard.wakes, 1, SOON_MS);
	assert_int_equal(heard.sleeps, 1);
	sleep_watch_ready(heard.watch);
	turn(&heard, NULL, 0, QUIET_MS);
	assert_true(bus_silent(&heard.bus, QUIET_MS));
	bus_say(&heard.bus, "sleep");
	turn(&heard, &heard.sleeps, 2, SOON_MS);
	sleep_watch_ready(heard.watch);
	hear(&heard, "released", NULL);
	end(&heard);
	begin(&heard, true); /* and after: another one is taken, and only one */
	bus_say(&heard.bus, "blink");
	hear(&heard, "released", NULL);
	hear(&heard, "taken", NULL);
	assert_true(heard.sleeps == 1 && heard.wakes == 1);
	assert_true(bus_silent(&heard.bus, QUIET_MS));
	end(&heard);
}

static void p9_logind_restarts(void **state)
{
	struct heard heard;

	(void)state;
	begin(&heard, true);
	bus_say(&heard.bus, "restart");
	hear(&heard, "up", NULL);
	hear(&heard, "taken", NULL);
	assert_int_equal(heard.wakes, 0);
	bus_say(&heard.bus, "sleep");
	hear(&heard, "released", NULL);
	bus_say(&heard.bus, "restart"); /* nobody will say that this sleep ended */
	hear(&heard, "up", NULL);
	hear(&heard, "taken", NULL);
	assert_true(heard.sleeps == 1 && heard.wakes == 1);
	bus_say(&heard.bus, "sleep");
	hear(&heard, "released", NULL);
	assert_int_equal(heard.sleeps, 2);
	assert_int_equal(heard.sentences, 0);
	end(&heard);
}

static void p9_no_inhibitor_is_granted(void **state)
{
	struct heard heard;

	(void)state;
	begin(&heard, true);
	bus_say(&heard.bus, "refuse");
	bus_say(&heard.bus, "restart");
	hear(&heard, "up", NULL);
	hear(&heard, "refused", NULL);
	turn(&heard, &heard.sentences, 1, SOON_MS);
	assert_non_null(strstr(heard.sentence, "Permission denied"));
	bus_say(&heard.bus, "blink"); /* is heard all the same */
	hear(&heard, "refused", NULL);
	assert_true(heard.sleeps == 1 && heard.wakes == 1);
	turn(&heard, NULL, 0, QUIET_MS);
	assert_int_equal(heard.sentences, 1); /* and not complained of again */
	bus_say(&heard.bus, "grant");
	bus_say(&heard.bus, "blink");
	hear(&heard, "taken", NULL);
	end(&heard);
}

static void p9_the_bus_goes_away(void **state)
{
	struct heard heard;
	struct pollfd waited;
	int timeout_ms = -1;

	(void)state;
	for (unsigned int asleep = 0; asleep < 2; asleep++) {
		begin(&heard, true);
		if (asleep) {
			bus_say(&heard.bus, "sleep");
			hear(&heard, "released", NULL);
		}
		bus_kill(&heard.bus);
		turn(&heard, &heard.sentences, 1, SOON_MS);
		turn(&heard, NULL, 0, QUIET_MS);
		assert_int_equal(heard.sentences, 1);
		assert_non_null(strstr(heard.sentence, "the system bus is gone"));
		assert_int_equal(heard.wakes, asleep);
		sleep_watch_poll(heard.watch, &waited, &timeout_ms);
		assert_true(waited.fd == -1 && timeout_ms == -1);
		end(&heard);
	}
}

static void p9_no_bus(void **state)
{
	struct heard heard = { .at_once = true };
	const struct sleep_watch_client client = { .why = "a test", .ctx = &heard, .sleeping = sleeping, .awake = awake, .say = say };
	struct pollfd waited;
	int timeout_ms = -1;

	(void)state;
	setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus", 1);
	assert_null(sleep_watch_open(&client));
	assert_int_equal(heard.sentences, 1);
	assert_non_null(strstr(heard.sentence, "cannot be reached"));
	sleep_watch_poll(NULL, &waited, &timeout_ms);
	assert_true(waited.fd == -1 && timeout_ms == -1);
	sleep_watch_process(NULL);
	sleep_watch_ready(NULL);
	sleep_watch_close(NULL);
}

/* A bus without logind is one where logind may yet come. */
static void p9_logind_comes_late(void **state)
{
	struct heard heard = { .at_once = true };
	const struct sleep_watch_client client = { .why = "a test", .ctx = &heard, .sleeping = sleeping, .awake = awake, .say = say };

	(void)state;
	assert_true(bus_start(&heard.bus));
	bus_say(&heard.bus, "leave");
	assert_true(bus_hear(&heard.bus, "left", NULL, SOON_MS));
	heard.watch = sleep_watch_open(&client);
	assert_non_null(heard.watch);
	turn(&heard, &heard.sentences, 1, SOON_MS);
	bus_say(&heard.bus, "restart");
	hear(&heard, "up", NULL);
	hear(&heard, "taken", NULL);
	assert_int_equal(heard.sentences, 1);
	end(&heard);
}

static void p9_a_sleep_that_does_not_come(void **state)
{
	struct heard heard;
	const struct sleep_watch_client client = {
		.why = "a test", .ctx = &heard, .sleeping = sleeping, .awake = awake, .say = say, .patience_ns = PATIENCE_MS * 1000000ull };
	int64_t begun;

	(void)state;
	begin(&heard, true);
	sleep_watch_close(heard.watch);
	heard.watch = NULL;
	hear(&heard, "released", NULL); /* with the watch the inhibitor goes */
	heard.watch = sleep_watch_open(&client);
	hear(&heard, "taken", NULL);
	bus_say(&heard.bus, "sleep");
	turn(&heard, &heard.sleeps, 1, SOON_MS);
	begun = now_ms();
	hear(&heard, "released", NULL);
	turn(&heard, &heard.wakes, 1, SOON_MS);
	assert_in_range(now_ms() - begun, PATIENCE_MS - 50, SOON_MS / 2);
	assert_int_equal(heard.sentences, 1);
	bus_say(&heard.bus, "wake");
	hear(&heard, "taken", NULL);
	assert_int_equal(heard.wakes, 1);
	end(&heard);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p9_held_until_ready),
		cmocka_unit_test(p9_ready_at_once),
		cmocka_unit_test(p9_called_off),
		cmocka_unit_test(p9_logind_restarts),
		cmocka_unit_test(p9_no_inhibitor_is_granted),
		cmocka_unit_test(p9_the_bus_goes_away),
		cmocka_unit_test(p9_no_bus),
		cmocka_unit_test(p9_logind_comes_late),
		cmocka_unit_test(p9_a_sleep_that_does_not_come),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
