// SPDX-License-Identifier: MIT
/*
 * sleep_watch.c - org.freedesktop.login1's side of a sleep: PrepareForSleep(true), the inhibitor's descriptor closed, the sleep,
 * PrepareForSleep(false). The matches are asked for before the inhibitor, so whoever holds one also hears.
 */
#include "sleep_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <time.h>
#include <unistd.h>

#define LOGIN "org.freedesktop.login1"
#define LOGIN_PATH "/org/freedesktop/login1"
#define LOGIN_MANAGER LOGIN ".Manager"
#define DBUS "org.freedesktop.DBus"
#define PATIENCE_NS 60000000000ull
#define SENTENCE 400

struct sleep_watch {
	struct sleep_watch_client client;
	sd_bus *bus;             /* NULL: gone */
	sd_bus_slot *asked;      /* for an inhibitor; NULL: not waiting for one */
	int inhibitor;           /* -1: none */
	bool asleep, ready;      /* a sleep is announced; and the client has nothing left to do before it */
	bool complained;         /* of this logind */
	uint64_t patient_until_ns;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now); /* does not count a sleep: patience is for those that do not come */
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

__attribute__((format(printf, 2, 3))) static void say(const struct sleep_watch *watch, const char *format, ...)
{
	char sentence[SENTENCE];
	va_list list;

	va_start(list, format);
	vsnprintf(sentence, sizeof(sentence), format, list);
	va_end(list);
	watch->client.say(watch->client.ctx, sentence);
}

static void give_back(struct sleep_watch *watch)
{
	if (watch->inhibitor >= 0)
		close(watch->inhibitor);
	watch->inhibitor = -1;
}

static void wake(struct sleep_watch *watch)
{
	if (!watch->asleep)
		return;
	watch->asleep = watch->ready = false;
	watch->client.awake(watch->client.ctx);
}

static int inhibited(sd_bus_message *answer, void *ctx, sd_bus_error *unused)
{
	struct sleep_watch *watch = ctx;
	const sd_bus_error *error = sd_bus_message_get_error(answer);
	int fd = -1;

	(void)unused;
	watch->asked = sd_bus_slot_unref(watch->asked);
	if (error == NULL && sd_bus_message_read(answer, "h", &fd) >= 0)
		watch->inhibitor = fcntl(fd, F_DUPFD_CLOEXEC, 3); /* the message's own goes with it */
	if (watch->inhibitor >= 0) {
		watch->complained = false;
		if (watch->ready) /* too late for this one; another is taken after it */
			give_back(watch);
		return 0;
	}
	/* A sleep is under way that began before we listened: what follows it is told, and then it is asked again. */
	if (error != NULL && sd_bus_error_has_name(error, LOGIN ".OperationInProgress"))
		return 0;
	if (!watch->complained && sd_bus_is_open(watch->bus) > 0)
		say(watch, "logind does not let this program delay the host's sleep (%s); a sleep is noticed only after it",
		    error != NULL && error->message != NULL ? error->message : "it gave no descriptor");
	watch->complained = true;
	return 0;
}

static void take_inhibitor(struct sleep_watch *watch)
{
	int error;

	if (watch->inhibitor >= 0)
		return; /* a sleep that was called off before we were ready */
	watch->asked = sd_bus_slot_unref(watch->asked);
	error = sd_bus_call_method_async(watch->bus, &watch->asked, LOGIN, LOGIN_PATH, LOGIN_MANAGER, "Inhibit", inhibited, watch, "ssss",
					 "sleep", "pvclock", watch->client.why, "delay");
	if (error < 0 && sd_bus_is_open(watch->bus) > 0)
		say(watch, "logind cannot be asked to delay the host's sleep (%s)", strerror(-error));
}

static int prepare_for_sleep(sd_bus_message *signal, void *ctx, sd_bus_error *unused)
{
	struct sleep_watch *watch = ctx;
	int begins;

	(void)unused;
	if (sd_bus_message_read(signal, "b", &begins) < 0)
		return 0;
	if (!begins) {
		wake(watch);
		take_inhibitor(watch);
	} else if (!watch->asleep) {
		watch->asleep = true;
		watch->patient_until_ns = now_ns() + watch->client.patience_ns;
		if (watch->client.sleeping(watch->client.ctx))
			sleep_watch_ready(watch);
	}
	return 0;
}

/* A logind that begins anew tells nothing of a sleep that the last one announced. */
static int owner_changed(sd_bus_message *signal, void *ctx, sd_bus_error *unused)
{
	struct sleep_watch *watch = ctx;
	const char *name, *before, *after;

	(void)unused;
	if (sd_bus_message_read(signal, "sss", &name, &before, &after) < 0 || strcmp(name, LOGIN) != 0)
		return 0;
	if (*before != '\0') {
		give_back(watch);
		wake(watch);
	}
	if (*after != '\0')
		take_inhibitor(watch);
	return 0;
}

static int listen_and_ask(struct sleep_watch *watch)
{
	int error = sd_bus_add_match_async(watch->bus, NULL, "type='signal',sender='" DBUS "',member='NameOwnerChanged',arg0='" LOGIN "'",
					   owner_changed, NULL, watch);

	if (error >= 0)
		error = sd_bus_match_signal_async(watch->bus, NULL, LOGIN, LOGIN_PATH, LOGIN_MANAGER, "PrepareForSleep", prepare_for_sleep,
						  NULL, watch);
	if (error >= 0)
		take_inhibitor(watch);
	return error;
}

const char *sleep_watch_lacks(void)
{
	return NULL;
}

struct sleep_watch *sleep_watch_open(const struct sleep_watch_client *client)
{
	struct sleep_watch *watch = calloc(1, sizeof(*watch));
	int error;

	if (watch == NULL)
		return NULL;
	watch->client = *client;
	watch->inhibitor = -1;
	if (watch->client.patience_ns == 0)
		watch->client.patience_ns = PATIENCE_NS;
	error = sd_bus_open_system(&watch->bus);
	if (error >= 0)
		error = listen_and_ask(watch);
	if (error >= 0)
		return watch;
	say(watch, "the system bus, by which logind announces the host's sleep, cannot be reached (%s); a sleep is noticed only after it",
	    strerror(-error));
	sleep_watch_close(watch);
	return NULL;
}

static void forget_bus(struct sleep_watch *watch)
{
	give_back(watch);
	watch->asked = sd_bus_slot_unref(watch->asked);
	watch->bus = sd_bus_close_unref(watch->bus);
}

void sleep_watch_close(struct sleep_watch *watch)
{
	if (watch == NULL)
		return;
	forget_bus(watch);
	free(watch);
}

static int until_ms(uint64_t then_ns)
{
	uint64_t now = now_ns(), left = then_ns > now ? (then_ns - now + 999999) / 1000000 : 0;

	return left < INT_MAX ? (int)left : INT_MAX;
}

static void shorten(int *timeout_ms, int ms)
{
	if (*timeout_ms < 0 || *timeout_ms > ms)
		*timeout_ms = ms;
}

void sleep_watch_poll(const struct sleep_watch *watch, struct pollfd *waited, int *timeout_ms)
{
	uint64_t bus_us = UINT64_MAX;

	*waited = (struct pollfd){ .fd = -1 };
	if (watch == NULL || watch->bus == NULL)
		return;
	*waited = (struct pollfd){ .fd = sd_bus_get_fd(watch->bus), .events = (short)sd_bus_get_events(watch->bus) };
	if (sd_bus_get_timeout(watch->bus, &bus_us) >= 0 && bus_us != UINT64_MAX)
		shorten(timeout_ms, until_ms(bus_us > UINT64_MAX / 1000 ? UINT64_MAX : bus_us * 1000));
	if (watch->asleep)
		shorten(timeout_ms, until_ms(watch->patient_until_ns));
}

void sleep_watch_process(struct sleep_watch *watch)
{
	int result;

	if (watch == NULL || watch->bus == NULL)
		return;
	do
		result = sd_bus_process(watch->bus, NULL);
	while (result > 0);
	if (result < 0) {
		forget_bus(watch);
		say(watch, "the system bus is gone (%s); a sleep of the host is noticed only after it", strerror(-result));
		wake(watch);
	} else if (watch->asleep && now_ns() >= watch->patient_until_ns) {
		say(watch, "logind announced a sleep of the host that has not come");
		wake(watch);
		take_inhibitor(watch);
	}
}

void sleep_watch_ready(struct sleep_watch *watch)
{
	if (watch == NULL || !watch->asleep || watch->ready)
		return;
	watch->ready = true;
	give_back(watch);
}
