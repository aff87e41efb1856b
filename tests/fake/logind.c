/* SPDX-License-Identifier: MIT */
/*
 * logind.c - org.freedesktop.login1 as far as a sleep needs it, on a bus of the test's own. Words on standard input, a line each:
 *
 *   sleep, wake     PrepareForSleep(true), (false)
 *   blink           both, with nothing in between
 *   leave           the name is given up, with all inhibitors; "left"
 *   restart         the same, and it is taken again
 *   refuse, grant   what is said to who asks for an inhibitor from now on
 *
 * Told on standard output: "up"; "taken PID"; "refused"; "released COUNT NS" of a delay inhibitor: how many are left,
 * CLOCK_MONOTONIC.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <time.h>
#include <unistd.h>

#define NAME "org.freedesktop.login1"
#define PATH "/org/freedesktop/login1"
#define INHIBITORS 16

struct logind {
	sd_bus *bus;
	int inhibitors[INHIBITORS]; /* our ends; hung up when the other one is closed */
	unsigned int count;
	bool asleep, refuses;
};

/* Also before a call is answered: what was given back before it was sent is told first. */
static void look_at_inhibitors(struct logind *logind)
{
	struct pollfd waited[INHIBITORS];
	struct timespec now;

	for (unsigned int i = 0; i < logind->count; i++)
		waited[i] = (struct pollfd){ .fd = logind->inhibitors[i] }; /* no events asked for: a hang-up is always told */
	poll(waited, logind->count, 0);
	clock_gettime(CLOCK_MONOTONIC, &now);
	for (unsigned int i = logind->count; i-- > 0;) {
		if (waited[i].revents == 0)
			continue;
		close(logind->inhibitors[i]);
		logind->inhibitors[i] = logind->inhibitors[--logind->count];
		printf("released %u %lld\n", logind->count, (long long)now.tv_sec * 1000000000 + now.tv_nsec);
	}
}

static int inhibit(sd_bus_message *call, void *ctx, sd_bus_error *error)
{
	struct logind *logind = ctx;
	const char *what, *who, *why, *mode;
	sd_bus_creds *creds = NULL;
	int ends[2], result;
	pid_t pid = 0;

	result = sd_bus_message_read(call, "ssss", &what, &who, &why, &mode);
	if (result < 0)
		return result;
	look_at_inhibitors(logind);
	if (logind->asleep)
		return sd_bus_error_set(error, NAME ".OperationInProgress", "The operation inhibition has been requested for is already running");
	if (logind->refuses || strcmp(what, "sleep") || strcmp(mode, "delay") || !*who || !*why || logind->count == INHIBITORS) {
		puts("refused");
		return sd_bus_error_set(error, SD_BUS_ERROR_ACCESS_DENIED, "Permission denied");
	}
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	result = sd_bus_reply_method_return(call, "h", ends[1]);
	close(ends[1]);
	if (sd_bus_query_sender_creds(call, SD_BUS_CREDS_PID, &creds) >= 0)
		sd_bus_creds_get_pid(creds, &pid);
	sd_bus_creds_unref(creds);
	logind->inhibitors[logind->count++] = ends[0];
	printf("taken %d\n", (int)pid);
	return result;
}

static const sd_bus_vtable manager[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_METHOD("Inhibit", "ssss", "h", inhibit, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_SIGNAL("PrepareForSleep", "b", 0),
	SD_BUS_VTABLE_END,
};

static void prepare(struct logind *logind, bool begins)
{
	logind->asleep = begins;
	sd_bus_emit_signal(logind->bus, PATH, NAME ".Manager", "PrepareForSleep", "b", (int)begins);
	sd_bus_flush(logind->bus);
}

static void leave(struct logind *logind)
{
	sd_bus_release_name(logind->bus, NAME);
	sd_bus_flush(logind->bus);
	while (logind->count > 0)
		close(logind->inhibitors[--logind->count]);
	logind->asleep = false;
}

/* False: nobody asks any more. */
static bool obey(struct logind *logind)
{
	char line[64];

	if (fgets(line, sizeof(line), stdin) == NULL)
		return false;
	line[strcspn(line, "\n")] = '\0';
	if (!strcmp(line, "sleep") || !strcmp(line, "blink"))
		prepare(logind, true);
	if (!strcmp(line, "wake") || !strcmp(line, "blink"))
		prepare(logind, false);
	if (!strcmp(line, "restart") || !strcmp(line, "leave"))
		leave(logind);
	if (!strcmp(line, "leave"))
		puts("left");
	if (!strcmp(line, "restart") && sd_bus_request_name(logind->bus, NAME, 0) >= 0)
		puts("up");
	if (!strcmp(line, "refuse") || !strcmp(line, "grant"))
		logind->refuses = !strcmp(line, "refuse");
	return true;
}

static int serve(struct logind *logind)
{
	int result;

	for (;;) {
		struct pollfd waited[INHIBITORS + 2] = { { .fd = STDIN_FILENO, .events = POLLIN } };
		unsigned int count;

		while ((result = sd_bus_process(logind->bus, NULL)) > 0)
			;
		if (result < 0)
			return 1; /* the bus is gone, as it is to */
		waited[1] = (struct pollfd){ .fd = sd_bus_get_fd(logind->bus), .events = (short)sd_bus_get_events(logind->bus) };
		count = logind->count;
		for (unsigned int i = 0; i < count; i++)
			waited[i + 2].fd = logind->inhibitors[i];
		if (poll(waited, count + 2, -1) < 0)
			return 1;
		look_at_inhibitors(logind);
		if (waited[0].revents != 0 && !obey(logind))
			return 0;
	}
}

int main(void)
{
	struct logind logind = { 0 };
	int result = sd_bus_open_system(&logind.bus);

	setvbuf(stdout, NULL, _IOLBF, 0);
	setvbuf(stdin, NULL, _IONBF, 0); /* poll is to see what was not read yet */
	if (result >= 0)
		result = sd_bus_add_object_vtable(logind.bus, NULL, PATH, NAME ".Manager", manager, &logind);
	if (result >= 0)
		result = sd_bus_request_name(logind.bus, NAME, 0);
	if (result >= 0)
		puts("up");
	result = result >= 0 ? serve(&logind) : 1;
	sd_bus_flush_close_unref(logind.bus);
	return result;
}
