/* SPDX-License-Identifier: MIT */
/* What preflight said against what happened: what is as it was said passes, and each thing that is not is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "foretold.h"

static const struct pvclock_slope half = { .mantissa = 1ull << 63, .exponent = -64 }; /* half a ns per tick */
static const struct foretold_limits own = { .host = &half, .slew_ppm = 1 };

/* Two seconds later by the host's line: 4 G ticks. */
static const struct foretold said = {
	.host_tsc = 1000, .bracket_ns = 300, .precision = "exact", .by = "tai", .deadlines = 2, .past = 1, .measured_ns = 5000000000,
	.bound_ns = 2000600, .counted_ns = 5000000000, .advances = true, .tsc = 77000,
};

static struct foretold two_seconds_later(const struct foretold *from)
{
	struct foretold then = *from;

	then.host_tsc += 4000000000u;
	then.bracket_ns = 200;
	then.measured_ns += 2000000000;
	then.counted_ns = from->advances && then.measured_ns > 0 ? then.measured_ns : 0;
	then.bound_ns += from->bound_ns == FORETOLD_UNKNOWN ? 0 : 1000000;
	then.tsc += then.counted_ns ? 4000000000u : 0;
	return then;
}

static const char *judge(const struct foretold *before, const struct foretold *happened, const struct foretold_limits *limits)
{
	static char sentence[256];

	foretold_judge(before, happened, limits, sentence);
	return sentence;
}

static void assert_names(const char *name, const struct foretold *before, const struct foretold *happened)
{
	const char *sentence = judge(before, happened, &own);

	if (strncmp(sentence, name, strlen(name)))
		fail_msg("\"%s\" does not name %s", sentence, name);
}

static void test_as_it_was_said(void **state)
{
	struct foretold behind = said, frozen = said, unknown = said, happened = two_seconds_later(&said);

	(void)state;
	assert_int_equal(foretold_ns(&half, 1000, 4000001000u), 2000000000);
	assert_int_equal(foretold_ns(&half, 4000001000u, 1000), -2000000000);
	assert_string_equal(judge(&said, &happened, &own), "");
	happened.past = 2; /* in the meantime */
	assert_string_equal(judge(&said, &happened, &own), "");
	behind.measured_ns = -1000000000; /* behind by a second, and then ahead by one */
	behind.counted_ns = 0;
	happened = two_seconds_later(&behind);
	assert_int_equal(happened.counted_ns, 1000000000);
	assert_string_equal(judge(&behind, &happened, &own), "");
	frozen.advances = false;
	frozen.counted_ns = 0;
	happened = two_seconds_later(&frozen);
	assert_string_equal(judge(&frozen, &happened, &own), "");
	unknown.bound_ns = FORETOLD_UNKNOWN;
	happened = two_seconds_later(&unknown);
	assert_string_equal(judge(&unknown, &happened, &own), "");
}

/* Brackets of 300 and 200, 2 us for the slew, and a rounded ns. */
static void test_the_time_between(void **state)
{
	struct foretold happened = two_seconds_later(&said);

	(void)state;
	happened.measured_ns = happened.counted_ns += 2501;
	assert_string_equal(judge(&said, &happened, &own), "");
	happened.measured_ns = happened.counted_ns += 1;
	assert_names("elapsed", &said, &happened);
	happened.measured_ns = happened.counted_ns = 7000000000 - 2502;
	assert_names("elapsed", &said, &happened);
	happened.measured_ns = 7000000000;
	assert_names("counted", &said, &happened);
	happened = two_seconds_later(&said);
	happened.host_tsc = 0;
	assert_names("It arrived", &said, &happened);
}

static void test_a_bound(void **state)
{
	struct foretold happened = two_seconds_later(&said), unknown = said;
	struct foretold_limits disciplined = own;

	(void)state;
	disciplined.disciplined = true;
	happened.bound_ns = said.bound_ns + 3 * 500000 + 2501; /* three ends of a second may be in two seconds */
	assert_string_equal(judge(&said, &happened, &own), "");
	happened.bound_ns++;
	assert_names("bound: it grew", &said, &happened);
	happened.bound_ns = said.bound_ns - 301;
	assert_names("bound: it grew", &said, &happened);
	assert_string_equal(judge(&said, &happened, &disciplined), "");
	happened.bound_ns = FORETOLD_UNKNOWN;
	assert_names("bound: it was said to be known", &said, &happened);
	unknown.bound_ns = FORETOLD_UNKNOWN;
	happened.bound_ns = 2000000;
	assert_names("bound: it was said to be unknown", &unknown, &happened);
}

static void test_what_is_frozen_is_exact(void **state)
{
	struct foretold frozen = said, happened;

	(void)state;
	frozen.advances = false;
	frozen.counted_ns = 0;
	happened = two_seconds_later(&frozen);
	happened.counted_ns = 1;
	assert_names("counted", &frozen, &happened);
	happened = two_seconds_later(&frozen);
	happened.tsc++;
	assert_names("TSC", &frozen, &happened);
	happened = two_seconds_later(&frozen);
	happened.past = 2; /* its deadlines stand still, too */
	assert_names("deadlines past", &frozen, &happened);
}

static void test_the_function(void **state)
{
	struct foretold_limits steer = own;
	struct foretold happened;

	(void)state;
	steer.jump_ns = 1;
#define DIFFERS(change, name)                            \
	do {                                             \
		happened = two_seconds_later(&said);     \
		change;                                  \
		assert_names(name, &said, &happened);    \
	} while (0)
	DIFFERS(strcpy(happened.precision, "continued"), "precision");
	DIFFERS(strcpy(happened.by, "realtime"), "timescale");
	DIFFERS(happened.rate_ppb = 0.00001, "rate");
	DIFFERS(happened.deadlines = 1, "deadlines");
	DIFFERS(happened.past = 0, "deadlines past");
	DIFFERS(happened.jump_ns = -1, "jump");
	assert_string_equal(judge(&said, &(struct foretold){ 0 }, &own)[0] ? "named" : "", "named");
	happened = two_seconds_later(&said);
	happened.jump_ns = 1;
	assert_string_equal(judge(&said, &happened, &steer), "");
	happened.jump_ns = 2;
	assert_string_not_equal(judge(&said, &happened, &steer), "");
}

/* --- reading ------------------------------------------------------------------------------------- */

static json_t *parse(const char *text)
{
	json_t *json = json_loads(text, 0, NULL);

	assert_non_null(json);
	return json;
}

static void assert_same(const struct foretold *a, const struct foretold *b)
{
	assert_int_equal(a->host_tsc, b->host_tsc);
	assert_int_equal(a->bracket_ns, b->bracket_ns);
	assert_string_equal(a->precision, b->precision);
	assert_string_equal(a->by, b->by);
	assert_int_equal(a->deadlines, b->deadlines);
	assert_int_equal(a->past, b->past);
	assert_int_equal(a->measured_ns, b->measured_ns);
	assert_int_equal(a->bound_ns, b->bound_ns);
	assert_int_equal(a->counted_ns, b->counted_ns);
	assert_int_equal(a->advances, b->advances);
	assert_int_equal(a->tsc, b->tsc);
	assert_int_equal(a->jump_ns, b->jump_ns);
}

static const char a_plan[] =
	"{\"precision\":\"exact\",\"policy\":\"advance\",\"elapsed\":{\"by\":\"tai\",\"measured_ns\":5000000000,\"bound_ns\":\"2000600\"},"
	"\"counted_ns\":\"5000000000\",\"clock\":{\"jump_ns\":0,\"rate_ppb\":0.0},\"tsc\":{\"tsc\":\"77000\"},\"deadlines\":2,"
	"\"deadlines_past\":1}";

static void test_reading_a_plan(void **state)
{
	json_t *plan = parse(a_plan), *host = parse("{\"time\":{\"at\":\"1000\",\"bracket_ns\":300}}");
	struct foretold read;
	const char *missing;

	(void)state;
	assert_true(foretold_plan(plan, host, &read, &missing));
	assert_same(&read, &said);
	json_object_set_new(json_object_get(plan, "elapsed"), "bound_ns", json_string("unknown"));
	assert_true(foretold_plan(plan, host, &read, &missing));
	assert_true(read.bound_ns == FORETOLD_UNKNOWN);
	json_object_set_new(json_object_get(plan, "clock"), "jump_ns", json_null()); /* legacy: nobody knows */
	assert_false(foretold_plan(plan, host, &read, &missing));
	assert_string_equal(missing, "jump_ns");
	json_decref(plan);
	json_decref(host);
}

static void test_reading_an_arrival(void **state)
{
	json_t *log = parse("{\"event\":\"arrive\",\"error\":0,\"tsc\":77000,\"exact\":true,\"from_page\":true,\"rate_ppb\":0.000000,"
			    "\"deadlines\":2,\"deadlines_past\":1,\"recorded\":true,\"host_tsc\":1000,\"bracket_ns\":300,"
			    "\"elapsed_ns\":5000000000,\"by\":\"tai\",\"bound_ns\":2000600,\"counted_ns\":5000000000}");
	struct foretold read, wanted = said;
	const char *missing;

	(void)state;
	wanted.advances = false; /* the log says what is counted, and not why */
	assert_true(foretold_arrival(log, &read, &missing));
	assert_same(&read, &wanted);
	json_object_set_new(log, "bound_ns", json_integer(-1));
	assert_true(foretold_arrival(log, &read, &missing));
	assert_true(read.bound_ns == FORETOLD_UNKNOWN);
	json_object_set_new(log, "recorded", json_false());
	assert_false(foretold_arrival(log, &read, &missing));
	json_object_set_new(log, "recorded", json_true());
	json_object_del(log, "host_tsc");
	assert_false(foretold_arrival(log, &read, &missing));
	assert_string_equal(missing, "host_tsc");
	json_decref(log);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_as_it_was_said),	 cmocka_unit_test(test_the_time_between),
		cmocka_unit_test(test_a_bound),		 cmocka_unit_test(test_what_is_frozen_is_exact),
		cmocka_unit_test(test_the_function),	 cmocka_unit_test(test_reading_a_plan),
		cmocka_unit_test(test_reading_an_arrival),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
