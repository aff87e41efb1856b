/* SPDX-License-Identifier: MIT */
/* bus.h - a system bus of the test's own (dbus-daemon), with a logind on it that does what the test says (tests/fake/logind.c). */
#ifndef TESTS_SLEEP_BUS_H
#define TESTS_SLEEP_BUS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct bus {
	pid_t daemon, logind;
	int say, hear;         /* logind's words */
	char text[1024];       /* heard, and not looked at yet */
	char address[128];
	char folder[40];
};

/* Sets DBUS_SYSTEM_BUS_ADDRESS. FAKE_LOGIND names the program. False: *bus is to be stopped all the same. */
bool bus_start(struct bus *bus);
void bus_stop(struct bus *bus);
/* The bus goes away, and logind with it. */
void bus_kill(struct bus *bus);

void bus_say(struct bus *bus, const char *words);
/*
 * Waits for a line that begins with `word`, and forgets it and what was before it: its numbers, if it has some. False:
 * it did not come within `ms`, or another line came first (then `word` is not there to be waited for any more).
 */
bool bus_hear(struct bus *bus, const char *word, long long numbers[2], int ms);
/* Nothing is said for so long (0: nothing was said until now). */
bool bus_silent(struct bus *bus, int ms);

#endif
