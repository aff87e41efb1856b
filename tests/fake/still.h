/* SPDX-License-Identifier: MIT */
/* still.h - an OS on which time stands still, but for the TSC: each look at that is 1000 ticks later. */
#ifndef TESTS_FAKE_STILL_H
#define TESTS_FAKE_STILL_H

#include <pvclock/os.h>

#include <errno.h>
#include <time.h>

/* ctx: the TSC, a uint64_t. */
static inline struct pvclock_host_tsc still_read_tsc(void *ctx)
{
	return (struct pvclock_host_tsc){ *(uint64_t *)ctx += 1000 };
}

static inline int still_gettime(void *ctx, clockid_t clock, struct timespec *ts)
{
	(void)ctx;
	(void)clock;
	*ts = (struct timespec){ .tv_sec = 1700000000 };
	return 0;
}

static inline ssize_t still_no_file(void *ctx, const char *path, char *text, size_t size)
{
	(void)ctx;
	(void)path;
	(void)text;
	(void)size;
	return -ENOENT;
}

#endif
