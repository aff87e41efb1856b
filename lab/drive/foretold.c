/* SPDX-License-Identifier: MIT */
#include "foretold.h"

#include "lab.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECOND_NS 1000000000
#define GROWTH_NS 500000    /* of a kernel's maxerror, at the end of each second */
#define PRINTED_PPB 0.000002 /* both are told to a millionth ... */
#define PRINTED_PART 1e-9    /* ... or in ten digits */

/* --- reading ------------------------------------------------------------------------------------- */

/* Members of 64 bits are strings of digits in what the command prints, and numbers in the preload's log. */
static uint64_t wide(const json_t *object, const char *key, const char **missing)
{
	const json_t *value = json_object_get(object, key);

	if (json_is_string(value))
		return strtoull(json_string_value(value), NULL, 10);
	if (!json_is_integer(value))
		*missing = key;
	return (uint64_t)json_integer_value(value);
}

static const char *text(const json_t *object, const char *key, const char **missing)
{
	if (!json_is_string(json_object_get(object, key)))
		*missing = key;
	return lab_text(object, key, "");
}

static bool flag(const json_t *object, const char *key, const char **missing)
{
	if (!json_is_boolean(json_object_get(object, key)))
		*missing = key;
	return json_is_true(json_object_get(object, key));
}

static double real(const json_t *object, const char *key, const char **missing)
{
	if (!json_is_number(json_object_get(object, key)))
		*missing = key;
	return json_number_value(json_object_get(object, key));
}

bool foretold_plan(const json_t *plan, const json_t *destination, struct foretold *foretold, const char **missing)
{
	const json_t *elapsed = json_object_get(plan, "elapsed"), *clock = json_object_get(plan, "clock"),
		     *time = json_object_get(destination, "time");

	*missing = NULL;
	*foretold = (struct foretold){
		.host_tsc = wide(time, "at", missing),
		.bracket_ns = (int64_t)wide(time, "bracket_ns", missing),
		.rate_ppb = real(clock, "rate_ppb", missing),
		.deadlines = (unsigned int)wide(plan, "deadlines", missing),
		.past = (unsigned int)wide(plan, "deadlines_past", missing),
		.measured_ns = (int64_t)wide(elapsed, "measured_ns", missing),
		.counted_ns = (int64_t)wide(plan, "counted_ns", missing),
		.advances = !strcmp(text(plan, "policy", missing), "advance"),
		.tsc = wide(json_object_get(plan, "tsc"), "tsc", missing),
		.jump_ns = (int64_t)wide(clock, "jump_ns", missing),
	};
	foretold->bound_ns = !strcmp(lab_text(elapsed, "bound_ns", ""), "unknown") ? FORETOLD_UNKNOWN :
										     (int64_t)wide(elapsed, "bound_ns", missing);
	snprintf(foretold->precision, sizeof(foretold->precision), "%s", text(plan, "precision", missing));
	snprintf(foretold->by, sizeof(foretold->by), "%s", text(elapsed, "by", missing));
	return *missing == NULL;
}

bool foretold_arrival(const json_t *arrive, struct foretold *happened, const char **missing)
{
	bool exact, page;

	*missing = NULL;
	exact = flag(arrive, "exact", missing);
	page = flag(arrive, "from_page", missing);
	*happened = (struct foretold){
		.host_tsc = wide(arrive, "host_tsc", missing),
		.bracket_ns = (int64_t)wide(arrive, "bracket_ns", missing),
		.rate_ppb = real(arrive, "rate_ppb", missing),
		.deadlines = (unsigned int)wide(arrive, "deadlines", missing),
		.past = (unsigned int)wide(arrive, "deadlines_past", missing),
		.measured_ns = (int64_t)wide(arrive, "elapsed_ns", missing),
		.bound_ns = (int64_t)wide(arrive, "bound_ns", missing),
		.counted_ns = (int64_t)wide(arrive, "counted_ns", missing),
		.tsc = wide(arrive, "tsc", missing),
	};
	if (happened->bound_ns == -1)
		happened->bound_ns = FORETOLD_UNKNOWN;
	snprintf(happened->precision, sizeof(happened->precision), "%s", exact ? "exact" : page ? "continued" : "legacy");
	snprintf(happened->by, sizeof(happened->by), "%s", text(arrive, "by", missing));
	if (*missing == NULL && !flag(arrive, "recorded", missing))
		*missing = "recorded";
	return *missing == NULL;
}

/* --- judging -------------------------------------------------------------------------------------- */

int64_t foretold_ns(const struct pvclock_slope *host, uint64_t from, uint64_t to)
{
	struct pvclock_line line;

	if (!pvclock_line_make(&line, 0, 0, host, NULL))
		return 0;
	return to < from ? -(int64_t)pvclock_line_ns(&line, from - to) : (int64_t)pvclock_line_ns(&line, to - from);
}

static int64_t magnitude(int64_t ns)
{
	return ns < 0 ? -ns : ns;
}

void foretold_judge_function(const struct foretold *said, const struct foretold *happened, int64_t jump_ns, char sentence[256])
{
	*sentence = '\0';
	if (strcmp(said->precision, happened->precision))
		snprintf(sentence, 256, "precision: %s was said, and it is %s.", said->precision, happened->precision);
	else if (magnitude(happened->jump_ns - said->jump_ns) > jump_ns)
		snprintf(sentence, 256, "jump: %" PRId64 " ns were said, and it jumped by %" PRId64 ".", said->jump_ns, happened->jump_ns);
	else if (fabs(said->rate_ppb - happened->rate_ppb) > PRINTED_PPB + fabs(happened->rate_ppb) * PRINTED_PART)
		snprintf(sentence, 256, "rate: %+f ppb were said, and it changed by %+f.", said->rate_ppb, happened->rate_ppb);
	else if (said->deadlines != happened->deadlines)
		snprintf(sentence, 256, "deadlines: %u were said to be armed, and %u are.", said->deadlines, happened->deadlines);
}

/* What a clock that counts shows after `since`, and one that is frozen. */
static void judge_time(const struct foretold *said, const struct foretold *happened, bool disciplined, int64_t since, int64_t apart,
		       char *sentence)
{
	int64_t measured = said->measured_ns + since, counted = said->advances && measured > 0 ? measured : 0;
	int64_t grown = happened->bound_ns - said->bound_ns, most = GROWTH_NS * (since / SECOND_NS + 1) + apart;

	if (strcmp(said->by, happened->by))
		snprintf(sentence, 256, "timescale: by %s was said, and it was by %s.", said->by, happened->by);
	else if (magnitude(happened->measured_ns - measured) > apart)
		snprintf(sentence, 256, "elapsed: %" PRId64 " ns were said, %" PRId64 " ns before, and it is %" PRId64
			 ", not within %" PRId64 ".", said->measured_ns, since, happened->measured_ns, apart);
	else if (magnitude(happened->counted_ns - counted) > (counted ? apart : 0))
		snprintf(sentence, 256, "counted: %" PRId64 " ns were said, %" PRId64 " ns before, and %" PRId64 " are.", said->counted_ns, since,
			 happened->counted_ns);
	else if ((said->bound_ns == FORETOLD_UNKNOWN) != (happened->bound_ns == FORETOLD_UNKNOWN))
		snprintf(sentence, 256, "bound: it was said to be %s, and is %s.", said->bound_ns == FORETOLD_UNKNOWN ? "unknown" : "known",
			 happened->bound_ns == FORETOLD_UNKNOWN ? "unknown" : "known");
	else if (!disciplined && (grown < -said->bracket_ns || grown > most))
		snprintf(sentence, 256, "bound: it grew by %" PRId64 " ns in %" PRId64 ".", grown, since);
	else if (counted ? happened->past < said->past : happened->past != said->past)
		snprintf(sentence, 256, "deadlines past: %u were said to be, and %u are.", said->past, happened->past);
	else if (counted == 0 && said->tsc != happened->tsc)
		snprintf(sentence, 256, "TSC: it was said to go on from %" PRIu64 ", and goes on from %" PRIu64 ".", said->tsc, happened->tsc);
}

void foretold_judge(const struct foretold *said, const struct foretold *happened, const struct foretold_limits *limits,
		    char sentence[256])
{
	int64_t since;

	foretold_judge_function(said, happened, limits->jump_ns, sentence);
	if (*sentence)
		return;
	since = foretold_ns(limits->host, said->host_tsc, happened->host_tsc);
	if (since < 0)
		snprintf(sentence, 256, "It arrived %" PRId64 " ns before it was foretold.", -since);
	else
		judge_time(said, happened, limits->disciplined, since,
			   said->bracket_ns + happened->bracket_ns + since / 1000000 * limits->slew_ppm + 1, sentence);
}
