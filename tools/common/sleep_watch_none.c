// SPDX-License-Identifier: MIT
/* sleep_watch_none.c - built where libsystemd was not found. */
#include "sleep_watch.h"

#include <stddef.h>

const char *sleep_watch_lacks(void)
{
	return "this build cannot talk to logind: install libsystemd-dev and build it anew (meson setup --wipe)";
}

struct sleep_watch *sleep_watch_open(const struct sleep_watch_client *client)
{
	client->say(client->ctx, sleep_watch_lacks());
	return NULL;
}

void sleep_watch_close(struct sleep_watch *watch)
{
	(void)watch;
}

void sleep_watch_poll(const struct sleep_watch *watch, struct pollfd *waited, int *timeout_ms)
{
	(void)watch;
	(void)timeout_ms;
	*waited = (struct pollfd){ .fd = -1 };
}

void sleep_watch_process(struct sleep_watch *watch)
{
	(void)watch;
}

void sleep_watch_ready(struct sleep_watch *watch)
{
	(void)watch;
}
