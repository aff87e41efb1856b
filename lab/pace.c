/* SPDX-License-Identifier: MIT */
/*
 * pace.c - a preload for the QEMU that emulates a lab's host: lets its time run at another pace than this machine's.
 * TCG hands the machine's TSC through as it is and computes all else that tells time from clock_gettime, so its guest
 * finds a TSC of another rate: at a LAB_PACE of 0.5 (emulated seconds per second) 2.6 GHz become 5.2 GHz.
 *
 * Counting instructions (-icount) gives another rate too, but there a KVM guest's interrupts come while it has them
 * disabled: it soon hangs in the kernel, spinning on a lock that the interrupted code holds.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#define NS 1000000000ll

static double pace = 1;
static struct timespec start[2]; /* REALTIME, MONOTONIC: where both paces begin */
static int (*real_clock_gettime)(clockid_t clock, struct timespec *now);
static int (*real_ppoll)(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask);

__attribute__((constructor)) static void begin(void)
{
	const char *text = getenv("LAB_PACE");
	double number = text ? strtod(text, NULL) : 1;

	if (real_ppoll) /* a constructor before this one asked for the time */
		return;
	*(void **)&real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
	*(void **)&real_ppoll = dlsym(RTLD_NEXT, "ppoll");
	if (number >= 0.01 && number <= 100)
		pace = number;
	real_clock_gettime(CLOCK_REALTIME, &start[0]);
	real_clock_gettime(CLOCK_MONOTONIC, &start[1]);
}

static long long to_ns(const struct timespec *time)
{
	return time->tv_sec * NS + time->tv_nsec;
}

static struct timespec from_ns(long long ns)
{
	return (struct timespec){ .tv_sec = ns / NS, .tv_nsec = ns % NS };
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	const struct timespec *from = &start[clock == CLOCK_MONOTONIC];
	int result;

	begin();
	result = real_clock_gettime(clock, now);
	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC))
		*now = from_ns(to_ns(from) + (long long)((double)(to_ns(now) - to_ns(from)) * pace));
	return result;
}

/* What the emulator waits for is in its own time. */
int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
	struct timespec scaled;

	begin();
	if (timeout) {
		scaled = from_ns((long long)((double)to_ns(timeout) / pace));
		timeout = &scaled;
	}
	return real_ppoll(fds, count, timeout, mask);
}
