/* SPDX-License-Identifier: MIT */
/* policy.c - what a guest's clocks do about a blackout: names, and what holds where nobody said otherwise. */
#include "reason.h"

#include <pvclock/policy.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const blackouts[PVCLOCK_BLACKOUT_COUNT] = {
	[PVCLOCK_BLACKOUT_PAUSE] = "pause",	  [PVCLOCK_BLACKOUT_LIVE_UPDATE] = "live-update",
	[PVCLOCK_BLACKOUT_MIGRATION] = "migration", [PVCLOCK_BLACKOUT_SNAPSHOT] = "snapshot",
	[PVCLOCK_BLACKOUT_SUSPEND] = "suspend",
};

static const char *const passings[] = { [PVCLOCK_ADVANCE] = "advance", [PVCLOCK_FREEZE] = "freeze" };

static const char *const timescales[] = { [PVCLOCK_BY_TSC] = "tsc",
					  [PVCLOCK_BY_BOOTTIME] = "boottime",
					  [PVCLOCK_BY_TAI] = "tai",
					  [PVCLOCK_BY_REALTIME] = "realtime" };

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char *name_of(const char *const *names, size_t count, unsigned int value)
{
	return value < count ? names[value] : "?";
}

static bool parse(const char *const *names, size_t count, const char *name, unsigned int *value)
{
	for (*value = 0; *value < count; ++*value)
		if (strcmp(names[*value], name) == 0)
			return true;
	return false;
}

struct pvclock_policy pvclock_policy_default(void)
{
	return (struct pvclock_policy){
		.on = { [PVCLOCK_BLACKOUT_SNAPSHOT] = PVCLOCK_FREEZE, [PVCLOCK_BLACKOUT_SUSPEND] = PVCLOCK_FREEZE },
		.advance_max_ns = UINT64_MAX,
	};
}

const char *pvclock_blackout_name(enum pvclock_blackout blackout)
{
	return name_of(blackouts, COUNT(blackouts), blackout);
}

const char *pvclock_passing_name(enum pvclock_passing passing)
{
	return name_of(passings, COUNT(passings), passing);
}

const char *pvclock_timescale_name(enum pvclock_timescale by)
{
	return name_of(timescales, COUNT(timescales), by);
}

bool pvclock_blackout_parse(const char *name, enum pvclock_blackout *blackout)
{
	unsigned int value;

	if (!parse(blackouts, COUNT(blackouts), name, &value))
		return false;
	*blackout = value;
	return true;
}

bool pvclock_passing_parse(const char *name, enum pvclock_passing *passing)
{
	unsigned int value;

	if (!parse(passings, COUNT(passings), name, &value))
		return false;
	*passing = value;
	return true;
}

/* --- as a person writes it ----------------------------------------------------------------- */

static bool parse_bound(const char *value, uint64_t *ns)
{
	unsigned long long number;
	char *end;

	if (strcmp(value, "none") == 0) {
		*ns = UINT64_MAX;
		return true;
	}
	errno = 0;
	number = strtoull(value, &end, 10);
	if (value[0] < '0' || value[0] > '9' || *end != '\0' || errno != 0)
		return false;
	*ns = number;
	return true;
}

static bool parse_flag(const char *value, bool *flag)
{
	*flag = strcmp(value, "true") == 0;
	return *flag || strcmp(value, "false") == 0;
}

/* One word; NULL, or what is wrong with it. */
static const char *parse_word(struct pvclock_policy *policy, const char *key, const char *value)
{
	enum pvclock_blackout blackout;

	if (strcmp(key, "advance_max_ns") == 0)
		return parse_bound(value, &policy->advance_max_ns) ? NULL : "give a number of ns, or none";
	if (strcmp(key, "fall_back") == 0)
		return parse_flag(value, &policy->fall_back) ? NULL : "give true or false";
	if (!pvclock_blackout_parse(key, &blackout))
		return "there are pause, live-update, migration, snapshot, suspend, advance_max_ns and fall_back";
	return pvclock_passing_parse(value, &policy->on[blackout]) ? NULL : "give advance or freeze";
}

/* The next word, without the blanks around it; separated by commas and lines, of which # begins a comment. False: there is none. */
static bool next_word(const char **text, const char **word, size_t *length)
{
	const char *at = *text;

	do {
		at += strspn(at, ", \t\r\n");
		if (*at == '#')
			at += strcspn(at, "\n");
	} while (*at == '\n' || *at == '#');
	*word = at;
	*length = strcspn(at, ",\n#");
	*text = at + *length;
	while (*length > 0 && strchr(" \t\r", at[*length - 1]))
		--*length;
	return *length > 0;
}

int pvclock_policy_parse(struct pvclock_policy *policy, const char *text, struct pvclock_reason *reason)
{
	struct pvclock_policy next = *policy;
	const char *wrong, *begin;
	size_t length;

	pvclock_reason_clear(reason);
	while (next_word(&text, &begin, &length)) {
		char word[64], *equals;

		snprintf(word, sizeof(word), "%.*s", (int)(length < sizeof(word) ? length : sizeof(word)), begin);
		equals = strchr(word, '=');
		if (equals)
			*equals = '\0';
		wrong = !equals || length >= sizeof(word) ? "it is not KEY=VALUE" : parse_word(&next, word, equals + 1);
		if (wrong) {
			pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_FIELD, "Policy \"%.*s\": %s.",
					   (int)(length < 60 ? length : 60), begin, wrong);
			return -EINVAL;
		}
	}
	*policy = next;
	return 0;
}
