/* SPDX-License-Identifier: MIT */
/* The lab's judge: from the probe's replies to the numbers of a row. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "verdict.h"

#define PAGE "\"page\":{\"tsc\":%llu,\"ns\":%llu,\"mul\":2147483648,\"shift\":0,\"flags\":%d}" /* half a ns per tick */
#define UNITS "\"page\":{\"tsc\":%d,\"ns\":%d,\"mul\":2147483648,\"shift\":0,\"flags\":1,\"scale\":%lld,\"offset\":%lld}"

static json_t *parse(const char *format, ...) __attribute__((format(printf, 1, 2)));

static json_t *parse(const char *format, ...)
{
	char text[1024];
	va_list arguments;
	json_t *object;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	object = json_loads(text, 0, NULL);
	assert_non_null(object);
	return object;
}

static bool feed(struct verdict *verdict, json_t *reply)
{
	bool known = verdict_event(verdict, reply);

	json_decref(reply);
	return known;
}

static void meet(struct verdict *verdict, json_t *reply)
{
	verdict_hello(verdict, reply);
	json_decref(reply);
}

static json_t *hello(unsigned long long tsc, unsigned long long ns)
{
	return parse("{\"hello\":true,\"cpus\":2,\"clocksource\":\"kvm-clock\",\"kernel\":\"6.1\"," PAGE "}", tsc, ns,
		     1);
}

static json_t *page_event(long long jump, unsigned long long tsc, unsigned long long ns, int flags)
{
	return parse(
		"{\"end\":\"e\",\"page_known\":true,\"page_jump_ns\":%lld,\"stable\":%s,\"measured_shift_ns\":%lld,"
		"\"measured_bracket_ns\":50," PAGE "}",
		jump, flags ? "true" : "false", jump, tsc, ns, flags);
}

static void test_nothing_moved(void **state)
{
	struct verdict verdict = { .events = 0 };

	(void)state;
	meet(&verdict, hello(1000, 500));
	/* the anchor moved along the line: no reading changes */
	for (unsigned int i = 1; i <= 3; i++)
		assert_true(feed(&verdict, page_event(0, 1000 + 2000 * i, 500 + 1000 * i, 1)));
	assert_int_equal(verdict.jump_max, 0);
	assert_int_equal(verdict_total(&verdict), 0);
	assert_int_equal(verdict.by_page, 3);
	assert_int_equal(verdict.contradicted, 0);
	assert_true(verdict_stable(&verdict));
	assert_string_equal(verdict.clocksource, "kvm-clock");
	assert_int_equal(verdict.cpus, 2);
}

/* Jumps of +1 and -1 cancel in the total, and not in the largest. Three of +1 do add up. */
static void test_total_is_end_to_end(void **state)
{
	struct verdict verdict = { .events = 0 };

	(void)state;
	meet(&verdict, hello(1000, 500));
	feed(&verdict, page_event(1, 3000, 1501, 1));
	feed(&verdict, page_event(-1, 5000, 2500, 1));
	assert_int_equal(verdict.jump_max, 1);
	assert_int_equal(verdict_total(&verdict), 0);
	feed(&verdict, page_event(1, 5000, 2501, 1));
	feed(&verdict, page_event(1, 5000, 2502, 1));
	feed(&verdict, page_event(1, 5000, 2503, 1));
	assert_int_equal(verdict_total(&verdict), 3);
	/* pages say where the clock is, whatever the sum of what was reported for each event */
	feed(&verdict, page_event(0, 5000, 2510, 1));
	assert_int_equal(verdict_total(&verdict), 10);
}

static void test_negative_jump_has_a_magnitude(void **state)
{
	struct verdict verdict = { .events = 0 };

	(void)state;
	meet(&verdict, hello(1000, 1000000));
	feed(&verdict, page_event(-700, 1000, 999300, 1));
	feed(&verdict, page_event(20, 1000, 999320, 1));
	assert_int_equal(verdict.jump_max, 700);
	assert_int_equal(verdict_total(&verdict), -680);
}

/* The rate changed at a tick of 3000, and the page was made anew 2000 ticks later: by the old line the clock was ahead by then. */
static void test_turn(void **state)
{
	struct verdict verdict = { .events = 0 };

	(void)state;
	meet(&verdict, hello(1000, 500));
	feed(&verdict, page_event(0, 2000, 1000, 1));
	assert_int_equal(verdict.turn_ns, 0);
	feed(&verdict, parse("{\"end\":\"e\",\"page_known\":true,\"page_jump_ns\":0,\"page_rate_ppb\":-500000000.0,\"stable\":true,"
			     "\"page\":{\"tsc\":5000,\"ns\":2000,\"mul\":2147483648,\"shift\":-1,\"flags\":1}}"));
	assert_int_equal(verdict.turn_ns, 500);
	assert_int_equal(verdict.rates, 1);
}

/* Without a page, what was measured counts, and the row says so. */
static void test_measured(void **state)
{
	struct verdict verdict = { .events = 0 };

	(void)state;
	meet(&verdict, parse("{\"hello\":true,\"cpus\":1,\"clocksource\":\"tsc\",\"kernel\":\"6.1\",\"page\":null}"));
	assert_true(feed(&verdict, parse("{\"end\":\"e\",\"page_known\":false,\"page_jump_ns\":null,\"stable\":false,"
					 "\"measured_shift_ns\":-30,\"measured_bracket_ns\":70,\"page\":null}")));
	assert_int_equal(verdict.jump_max, 30);
	assert_int_equal(verdict_total(&verdict), -30);
	assert_int_equal(verdict.by_page, 0);
	assert_int_equal(verdict.bracket_max, 70);
	assert_false(verdict_stable(&verdict));
	/* and where there is neither, that is no 0 */
	assert_false(feed(&verdict, parse("{\"end\":\"e\",\"page_known\":false,\"page_jump_ns\":null,\"stable\":false,"
					  "\"measured_shift_ns\":null,\"measured_bracket_ns\":null,\"page\":null}")));
}

/* A page that looks right does not excuse a clock that moved; one bracket's width decides. */
static void test_contradiction(void **state)
{
	static const struct {
		int shift;
		int64_t jump;
		unsigned int contradicted;
	} cases[] = { { 50, 0, 0 }, { -50, 0, 0 }, { 51, 51, 1 }, { -51, 51, 1 }, { 5000, 5000, 1 } };

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct verdict verdict = { .events = 0 };

		meet(&verdict, hello(1000, 500));
		feed(&verdict, parse("{\"end\":\"e\",\"page_known\":true,\"page_jump_ns\":0,\"stable\":true,\"measured_"
				     "shift_ns\":%d,"
				     "\"measured_bracket_ns\":50," PAGE "}",
				     cases[i].shift, 1000ull, 500ull, 1));
		assert_int_equal(verdict.jump_max, cases[i].jump);
		assert_int_equal(verdict.contradicted, cases[i].contradicted);
		assert_int_equal(verdict_total(&verdict), cases[i].contradicted ? cases[i].shift : 0);
	}
}

/* A new life begins a new line; what the one before it did is kept. */
static void test_lives(void **state)
{
	struct verdict verdict = { .events = 0 };

	(void)state;
	meet(&verdict, hello(1000, 500));
	feed(&verdict, page_event(4, 1000, 504, 1));
	meet(&verdict, hello(50, 1));
	assert_int_equal(verdict_total(&verdict), 4);
	feed(&verdict, page_event(-1, 50, 0, 1));
	assert_int_equal(verdict_total(&verdict), 3);
	assert_int_equal(verdict.lives, 2);
}

static void test_backwards(void **state)
{
	struct verdict verdict = { .events = 0 };
	json_t *report = parse(
		"{\"report\":true,\"samples\":9,\"backwards_within\":1,\"backwards_between\":0,\"unannounced\":2}");

	(void)state;
	meet(&verdict, hello(1000, 500));
	feed(&verdict, parse("{\"end\":\"e\",\"page_known\":true,\"page_jump_ns\":0,\"backwards_within\":2,\"backwards_"
			     "between\":3," PAGE "}",
			     1000ull, 500ull, 1));
	assert_int_equal(verdict_backwards(&verdict), 5);
	/* a guest that was set back counts fewer than it was seen to count */
	verdict_report(&verdict, report);
	assert_int_equal(verdict_backwards(&verdict), 5);
	json_decref(report);
	/* and one that saw something between events counts more */
	report = parse("{\"report\":true,\"samples\":9,\"backwards_within\":7,\"backwards_between\":1}");
	verdict_report(&verdict, report);
	assert_int_equal(verdict_backwards(&verdict), 8);
	assert_int_equal(verdict.samples, 9);
	json_decref(report);
}

/* Stable once and not another time is not stable. */
static void test_stable(void **state)
{
	struct verdict verdict = { .events = 0 };

	(void)state;
	assert_false(verdict_stable(&verdict));
	meet(&verdict, hello(1000, 500));
	assert_true(verdict_stable(&verdict));
	feed(&verdict, page_event(0, 1000, 500, 0));
	feed(&verdict, page_event(0, 1000, 500, 1));
	assert_false(verdict_stable(&verdict));
}

static void test_blackout(void **state)
{
	struct verdict verdict = { .events = 0 };

	(void)state;
	assert_true(verdict_blackout_us(&verdict) >= 0 && verdict_blackout_us(&verdict) <= 0);
	verdict_blackout(&verdict, 9000);
	verdict_blackout(&verdict, 1000);
	verdict_blackout(&verdict, 3000);
	assert_int_equal((int)verdict_blackout_us(&verdict), 3);
	verdict_blackout(&verdict, 5000);
	assert_int_equal((int)verdict_blackout_us(&verdict), 4);
	for (unsigned int i = 0; i < 2 * VERDICT_BLACKOUTS_MAX; i++) /* more than fit are not a fault */
		verdict_blackout(&verdict, 7000);
	assert_int_equal((int)verdict_blackout_us(&verdict), 7);
}

static void test_drift(void **state)
{
	struct verdict verdict = { .events = 0 };
	struct pvclock_slope same = { .mantissa = 1ull << 63, .exponent = -64 }, other;
	double ppb = 1;

	(void)state;
	assert_false(verdict_drift(&verdict, &same, &ppb));
	meet(&verdict, hello(1000, 500));
	assert_true(verdict_drift(&verdict, &same, &ppb));
	assert_true(ppb >= 0 && ppb <= 0);
	other = same;
	other.mantissa += other.mantissa / 1000000000 * 5; /* the host is 5 ppb faster */
	assert_true(verdict_drift(&verdict, &other, &ppb));
	assert_true(ppb < -4.99 && ppb > -5.01);
}

static void test_log(void **state)
{
	struct verdict verdict = { .events = 0 };

	(void)state;
	verdict_log(&verdict, "{\"event\":\"attach\",\"mode\":\"steer\",\"reason\":\"no filters\"}\n"
			      "{\"event\":\"resume\",\"residual_ns\":-3,\"moved_ticks\":100}\n"
			      "not json\n\n"
			      "{\"event\":\"resume\",\"residual_ns\":1,\"moved_ticks\":-40}\n"
			      "{\"event\":\"arrive\",\"lost\":\"the slope\"}\n"
			      "{\"event\":\"resume\",\"residual", true);
	assert_string_equal(verdict.mode, "steer");
	assert_string_equal(verdict.reason, "no filters");
	assert_string_equal(verdict.lost, "the slope");
	assert_int_equal(verdict.corrections, 2);
	assert_int_equal(verdict.residual_max, 3);
	assert_int_equal(verdict.moved_ticks, 60);
	verdict_log(&verdict, "{\"event\":\"aside\",\"reason\":\"no KVM\"}\n{\"event\":\"arrive\",\"lost\":\"all\"}",
		    false);
	assert_string_equal(verdict.mode, "aside");
	assert_string_equal(verdict.reason, "no KVM");
	assert_string_equal(verdict.lost, "the slope"); /* a VM that began here has lost nothing */
}

/* Of one scale all the way is counted in offsets, whatever line is nearest. */
static void test_units(void **state)
{
	struct verdict verdict = { 0 };

	(void)state;
	meet(&verdict, parse("{" UNITS "}", 1000, 5000, 92233720368547758LL, -70LL));
	assert_int_equal(verdict_unit_ns(&verdict), 100);
	assert_true(feed(&verdict, parse("{\"page_known\":true,\"page_jump_ns\":-300," UNITS "}", 9000, 8777, 92233720368547758LL, -73LL)));
	assert_int_equal(verdict.jump_max, 300);
	assert_int_equal(verdict_total(&verdict), -300);
	assert_true(verdict_stable(&verdict));
}

static void test_line(void **state)
{
	struct pvclock_line line;
	bool stable = true;
	json_t *page = parse("{\"tsc\":5,\"ns\":6,\"mul\":7,\"shift\":-1,\"flags\":2}"),
	       *none = parse("{\"tsc\":5,\"ns\":6}");

	(void)state;
	assert_true(verdict_line(page, &line, &stable));
	assert_int_equal(line.tsc, 5);
	assert_int_equal(line.ns, 6);
	assert_int_equal(line.mul, 7);
	assert_int_equal(line.shift, -1);
	assert_false(stable); /* 2 is "the guest was stopped" */
	assert_false(verdict_line(none, &line, &stable));
	assert_false(verdict_line(NULL, &line, &stable));
	json_decref(page);
	json_decref(none);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_moved),
		cmocka_unit_test(test_total_is_end_to_end),
		cmocka_unit_test(test_negative_jump_has_a_magnitude),
		cmocka_unit_test(test_turn),
		cmocka_unit_test(test_measured),
		cmocka_unit_test(test_contradiction),
		cmocka_unit_test(test_lives),
		cmocka_unit_test(test_backwards),
		cmocka_unit_test(test_stable),
		cmocka_unit_test(test_blackout),
		cmocka_unit_test(test_drift),
		cmocka_unit_test(test_log),
		cmocka_unit_test(test_units),
		cmocka_unit_test(test_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
