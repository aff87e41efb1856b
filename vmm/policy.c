// SPDX-License-Identifier: MIT
/* policy.c - --policy KEY=VALUE: what the guest's clocks do about time in which the guest did not run. */
#include "vmm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int parse_blackout(const char *key, size_t length, const char *value, struct policy_change *change,
			  struct problem *problem)
{
	char name[24] = "";
	enum pvclock_blackout blackout;
	enum pvclock_passing passing;

	if (length < sizeof(name))
		memcpy(name, key, length);
	if (!pvclock_blackout_parse(name, &blackout))
		return fail(problem, "--policy %s: give pause, live-update, migration, snapshot, suspend, advance_max_ns or "
			    "fall_back", key);
	if (!pvclock_passing_parse(value, &passing))
		return fail(problem, "--policy %s: a blackout's value is advance or freeze", key);
	change->on[blackout] = true;
	change->to.on[blackout] = passing;
	return 0;
}

static int parse_bound(const char *text, const char *value, struct policy_change *change, struct problem *problem)
{
	char *end;

	errno = 0;
	unsigned long long number = strtoull(value, &end, 10);
	if (value[0] < '0' || value[0] > '9' || *end != '\0' || errno != 0)
		return fail(problem, "--policy %s: give a whole number of ns", text);
	change->advance_max = true;
	change->to.advance_max_ns = number;
	return 0;
}

int policy_parse(const char *text, struct policy_change *change, struct problem *problem)
{
	const char *equals = strchr(text, '=');
	size_t length = equals != NULL ? (size_t)(equals - text) : 0;

	if (equals == NULL)
		return fail(problem, "--policy %s: give KEY=VALUE", text);
	const char *value = equals + 1;
	if (strncmp(text, "advance_max_ns=", length + 1) == 0)
		return parse_bound(text, value, change, problem);
	if (strncmp(text, "fall_back=", length + 1) != 0)
		return parse_blackout(text, length, value, change, problem);
	change->fall_back = true;
	change->to.fall_back = strcmp(value, "true") == 0;
	if (!change->to.fall_back && strcmp(value, "false") != 0)
		return fail(problem, "--policy %s: give true or false", text);
	return 0;
}

void policy_apply(const struct policy_change *change, struct pvclock_policy *policy)
{
	for (int i = 0; i < PVCLOCK_BLACKOUT_COUNT; i++)
		if (change->on[i])
			policy->on[i] = change->to.on[i];
	if (change->advance_max)
		policy->advance_max_ns = change->to.advance_max_ns;
	if (change->fall_back)
		policy->fall_back = change->to.fall_back;
}
