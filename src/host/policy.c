/* SPDX-License-Identifier: MIT */
/* policy.c - what a guest's clocks do about a blackout: names, and what holds where nobody said otherwise. */
#include <pvclock/policy.h>

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
