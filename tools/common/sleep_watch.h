/* SPDX-License-Identifier: MIT */
/*
 * sleep_watch.h - the host's sleep, told beforehand: by logind, over the system bus, to whoever holds a *delay*
 * inhibitor. The host sleeps when the last such inhibitor is given back, or when logind has waited long enough
 * (InhibitDelayMaxSec, 5 s as it comes): nothing here keeps it awake. For a poll loop: no thread, and no call waits for
 * the bus.
 *
 * Every function takes NULL, a watch that is none. A watch survives logind's restart. Where the bus goes away it says
 * so and is none from then on.
 */
#ifndef TOOLS_SLEEP_WATCH_H
#define TOOLS_SLEEP_WATCH_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct sleep_watch;

struct sleep_watch_client {
	const char *why; /* for `systemd-inhibit --list` */
	void *ctx;
	/* The host is about to sleep. True: it may. False: sleep_watch_ready will say so. */
	bool (*sleeping)(void *ctx);
	/* It is awake, or will not sleep after all, or nobody is left who would say so. Always after `sleeping`. */
	void (*awake)(void *ctx);
	/* What is not as it should be: a sentence without a full stop. */
	void (*say)(void *ctx, const char *sentence);
	/* A sleep that is announced and neither comes nor is called off is taken for called off after so long; 0: a minute. */
	uint64_t patience_ns;
};

/* NULL: this build can watch; else a sentence that says what it lacks. */
const char *sleep_watch_lacks(void);

/* NULL: the reason was said. The client is copied. None of its functions may close the watch. */
struct sleep_watch *sleep_watch_open(const struct sleep_watch_client *client);
void sleep_watch_close(struct sleep_watch *watch);

/* What to wait for; descriptor -1: nothing more will come. *timeout_ms is made shorter if need be (-1: for ever). */
void sleep_watch_poll(const struct sleep_watch *watch, struct pollfd *waited, int *timeout_ms);
/* After each poll, whatever it returned. */
void sleep_watch_process(struct sleep_watch *watch);

/* Gives the inhibitor back, if a sleep is announced. */
void sleep_watch_ready(struct sleep_watch *watch);

#endif
