/* SPDX-License-Identifier: MIT */
/* checks.h - what the tests of a host's source share: how they come to one, and what they say of it. After cmocka.h. */
#ifndef TESTS_SOURCE_CHECKS_H
#define TESTS_SOURCE_CHECKS_H

#include "fake_host.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECOND 1000000000u

/* SOURCE_TEST_SEED=n repeats the host of a failed property test. */
static inline uint64_t first_seed(uint64_t hosts, uint64_t *count)
{
	const char *text = getenv("SOURCE_TEST_SEED");

	*count = text != NULL ? 1 : hosts;
	return text != NULL ? strtoull(text, NULL, 0) : 1;
}

static inline void fail_seed(const struct fake_host *host, const char *what)
{
	fail_msg("%s: khz %" PRIu32 " mult %" PRIu32 " shift %u, %s; repeat with SOURCE_TEST_SEED=%" PRIu64, what, host->khz,
		 host->mult, host->shift, host->current, host->seed);
}

/* A whole sentence: not cut off, of this code, and naming `word`. */
static inline void assert_reason(const struct pvclock_reason *reason, enum pvclock_reason_code code, const char *word)
{
	assert_string_equal(pvclock_reason_name(reason->code), pvclock_reason_name(code));
	assert_in_range(strlen(reason->text), 20, PVCLOCK_REASON_TEXT - 2);
	assert_int_equal(reason->text[strlen(reason->text) - 1], '.');
	if (strstr(reason->text, word) == NULL)
		fail_msg("\"%s\" does not name \"%s\"", reason->text, word);
}

static inline struct pvclock_source *open_source(struct fake_host *host)
{
	struct pvclock_source *source = NULL;
	struct pvclock_reason reason;
	int error = pvclock_source_open(&host->os, &source, &reason);

	if (error != 0)
		fail_msg("open: %d, %s (seed %" PRIu64 ")", error, reason.text, host->seed);
	assert_int_equal(reason.code, PVCLOCK_REASON_NONE);
	return source;
}

static inline struct pvclock_source *learned_source(struct fake_host *host, uint64_t timeout_ns)
{
	struct pvclock_source *source = open_source(host);
	struct pvclock_reason reason;
	int error = pvclock_source_learn(source, timeout_ns, &reason);

	if (error != 0)
		fail_msg("learn: %d, %s (seed %" PRIu64 ")", error, reason.text, host->seed);
	return source;
}

/* The kernel's own integers. */
static inline void assert_proven(struct pvclock_source *source, const struct fake_host *host)
{
	struct pvclock_source_state state;
	struct pvclock_slope slope;

	pvclock_source_get(source, &state);
	assert_true(state.proven);
	assert_int_equal(state.mult, host->mult);
	assert_int_equal(state.shift, host->shift);
	assert_int_equal(state.candidates, 1);
	assert_true(pvclock_slope_from_kernel(host->mult, host->shift, &slope));
	assert_int_equal(pvclock_slope_difference(&slope, &state.slope), 0);
}

static inline void assert_lost(struct pvclock_source *source, struct fake_host *host, enum pvclock_reason_code code, const char *word)
{
	struct pvclock_source_state state;
	struct pvclock_reason reason;
	struct pvclock_slope slope = { 0 };
	int error = pvclock_source_sample(source, &reason);

	if (error != -ENOTSUP)
		fail_msg("not lost but %d, where \"%s\" was to be said (seed %" PRIu64 ", %s)", error, word, host->seed, host->current);
	assert_reason(&reason, code, word);
	pvclock_source_get(source, &state);
	assert_false(state.proven);
	assert_int_equal(state.candidates, 0);
	/* lost is lost, and says the same again */
	fake_host_pass(host, SECOND);
	assert_int_equal(pvclock_source_sample(source, &reason), -ENOTSUP);
	assert_reason(&reason, code, word);
	assert_int_equal(pvclock_source_learn(source, SECOND, &reason), -ENOTSUP);
	assert_reason(&reason, code, word);
	(void)pvclock_slope_from_kernel(host->mult, host->shift, &slope);
	assert_int_equal(pvclock_source_assume(source, &slope, &reason), -ENOTSUP);
	assert_reason(&reason, code, word);
	assert_int_equal(pvclock_source_sample(source, NULL), -ENOTSUP);
}

#endif
