/* SPDX-License-Identifier: MIT */
/*
 * fake_qemu.c - a QEMU that is not one: its monitor and its guest's probe say what such would say, at once, and what is
 * wrong with them is known. The driver's tests run whole scenarios on it.
 *
 * FAKE_FAULT says what is wrong:
 *   jump N        the N-th event moves the page by 1500 ns     backwards     a reading went back
 *   unstable      the page is not stable                       measured      there is no page; what is measured is 7 ns
 *   contradict    the page says 0, measured is 5000            blind         there is neither
 *   deaf          the monitor never answers `stop`             mute          the probe never answers
 *   dies          it ends at `cont`, with a last word          boots-not     the guest never comes up
 *   refuses       savevm and migrate fail                      exits         it ends at once
 */
#define _GNU_SOURCE
#include <jansson.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct side {
	int listener, fd;
	char buffer[16384];
	size_t used;
};

struct fake {
	struct side monitor, probe;
	const char *fault;
	unsigned int events, cpus;
	long long offset; /* what has been added to the clock */
	bool added, migrating;
};

static void say(struct side *side, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(struct side *side, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vdprintf(side->fd, format, arguments);
	va_end(arguments);
	dprintf(side->fd, "\n");
}

static bool has(const struct fake *fake, const char *fault)
{
	return !strncmp(fake->fault, fault, strlen(fault));
}

static int listen_on(const char *option)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *path = strstr(option, "path=");
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path ? path + 5 : "");
	unlink(address.sun_path);
	if (fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) || listen(fd, 1)) {
		fprintf(stderr, "fake_qemu: cannot listen on \"%s\"\n", option);
		exit(1);
	}
	return fd;
}

/* --- the monitor ---------------------------------------------------------------------------- */

static void human(struct fake *fake, int id, const char *line)
{
	if (has(fake, "refuses") && !strncmp(line, "savevm", 6))
		say(&fake->monitor, "{\"return\":\"Error: No space left on device\\r\\n\",\"id\":%d}", id);
	else
		say(&fake->monitor, "{\"return\":\"\",\"id\":%d}", id);
}

static void places(struct fake *fake, int id)
{
	say(&fake->monitor,
	    "{\"return\":[{\"props\":{\"core-id\":0,\"thread-id\":0,\"socket-id\":1},\"vcpus-count\":1,\"type\":\"host-"
	    "x86_64-cpu\"%s},"
	    "{\"props\":{\"core-id\":0,\"thread-id\":0,\"socket-id\":0},\"vcpus-count\":1,\"qom-path\":\"/machine/"
	    "unattached/device[0]\","
	    "\"type\":\"host-x86_64-cpu\"}],\"id\":%d}",
	    fake->added ? ",\"qom-path\":\"/machine/peripheral/added\"" : "", id);
}

static void plug(struct fake *fake, int id, const json_t *arguments)
{
	const char *driver = json_string_value(json_object_get(arguments, "driver"));

	if (fake->added || !driver || strcmp(driver, "host-x86_64-cpu") ||
	    json_integer_value(json_object_get(arguments, "socket-id")) != 1) {
		say(&fake->monitor, "{\"error\":{\"desc\":\"CPU[0] with such ids exists\"},\"id\":%d}", id);
		return;
	}
	fake->added = true;
	fake->cpus++;
	say(&fake->monitor, "{\"return\":{},\"id\":%d}", id);
}

static void unplug(struct fake *fake, int id)
{
	fake->added = false;
	fake->cpus--;
	say(&fake->monitor, "{\"return\":{},\"id\":%d}", id);
	say(&fake->monitor, "{\"event\":\"DEVICE_DELETED\",\"data\":{\"device\":\"added\"}}");
}

static void query_migrate(struct fake *fake, int id)
{
	const char *status = !fake->migrating ? "none" : has(fake, "refuses") ? "failed" : "completed";

	say(&fake->monitor,
	    "{\"return\":{\"status\":\"%s\",\"downtime\":12,\"error-desc\":\"the wire is cut\"},\"id\":%d}", status,
	    id);
}

static void monitor_line(struct fake *fake, const char *line)
{
	json_t *message = json_loads(line, 0, NULL), *arguments = json_object_get(message, "arguments");
	const char *command = json_string_value(json_object_get(message, "execute"));
	int id = (int)json_integer_value(json_object_get(message, "id"));

	command = command ? command : "";
	if (!strcmp(command, "stop") && has(fake, "deaf")) {
		json_decref(message);
		return;
	}
	if (!strcmp(command, "cont") && has(fake, "dies")) {
		fprintf(stderr, "fake_qemu: out of luck\n");
		exit(3);
	}
	if (!strcmp(command, "query-status"))
		say(&fake->monitor, "{\"return\":{\"status\":\"running\"},\"id\":%d}", id);
	else if (!strcmp(command, "human-monitor-command"))
		human(fake, id, json_string_value(json_object_get(arguments, "command-line")));
	else if (!strcmp(command, "query-hotpluggable-cpus"))
		places(fake, id);
	else if (!strcmp(command, "device_add"))
		plug(fake, id, arguments);
	else if (!strcmp(command, "device_del"))
		unplug(fake, id);
	else if (!strcmp(command, "query-migrate"))
		query_migrate(fake, id);
	else
		say(&fake->monitor, "{\"return\":{},\"id\":%d}", id);
	if (!strcmp(command, "migrate"))
		fake->migrating = true;
	if (!strcmp(command, "system_reset"))
		say(&fake->probe, "{\"ready\":true}");
	if (!strcmp(command, "quit"))
		exit(0);
	json_decref(message);
}

/* --- the probe ------------------------------------------------------------------------------ */

static const char *page(const struct fake *fake, char text[160])
{
	if (has(fake, "measured") || has(fake, "blind"))
		return "null";
	snprintf(text, 160, "{\"tsc\":1000,\"ns\":%lld,\"mul\":3308755968,\"shift\":-1,\"flags\":%d}",
		 5000000 + fake->offset, !has(fake, "unstable"));
	return text;
}

static void end_event(struct fake *fake, const char *name)
{
	char text[160];
	bool known = !has(fake, "measured") && !has(fake, "blind");
	long long jump = has(fake, "jump ") && strtoul(fake->fault + 5, NULL, 10) == ++fake->events ? 1500 : 0;

	fake->offset += jump;
	say(&fake->probe,
	    "{\"end\":\"%s\",\"page_known\":%s,\"page_jump_ns\":%lld,\"stable\":%s,%s%lld,\"measured_bracket_ns\":100,"
	    "\"backwards_within\":0,\"backwards_between\":%d,\"cpus\":%u,\"page\":%s}",
	    name, known ? "true" : "false", jump, has(fake, "unstable") || !known ? "false" : "true",
	    has(fake, "blind") ? "\"other\":" : "\"measured_shift_ns\":",
	    has(fake, "measured")     ? 7
	    : has(fake, "contradict") ? 5000
				      : jump,
	    has(fake, "backwards"), fake->cpus, page(fake, text));
}

static void probe_line(struct fake *fake, const char *line)
{
	char text[160];

	if (has(fake, "mute"))
		return;
	say(&fake->probe, "not a reply of mine");
	if (!strcmp(line, "hello"))
		say(&fake->probe,
		    "{\"hello\":true,\"cpus\":%u,\"clocksource\":\"kvm-clock\",\"kernel\":\"6.1\",\"page\":%s}",
		    fake->cpus, page(fake, text));
	else if (!strncmp(line, "begin ", 6))
		say(&fake->probe, "{\"begin\":\"%s\",\"cpus\":%u}", line + 6, fake->cpus);
	else if (!strncmp(line, "end ", 4))
		end_event(fake, line + 4);
	else if (!strcmp(line, "cost"))
		say(&fake->probe, "{\"cost\":true,\"vdso\":true,\"vdso_ticks\":171.5,\"syscall_ticks\":2351.0}");
	else if (!strcmp(line, "report"))
		say(&fake->probe, "{\"report\":true,\"samples\":4711,\"cpus\":%u,\"page\":%s}", fake->cpus,
		    page(fake, text));
	else
		say(&fake->probe, "{\"error\":\"no such command\"}");
}

/* --- both ------------------------------------------------------------------------------------ */

static void take(struct fake *fake, struct side *side, void (*line)(struct fake *fake, const char *line))
{
	ssize_t length = read(side->fd, side->buffer + side->used, sizeof(side->buffer) - 1 - side->used);
	char *end;

	if (length <= 0) {
		close(side->fd);
		side->fd = -1;
		return;
	}
	side->used += (size_t)length;
	side->buffer[side->used] = '\0';
	while ((end = strchr(side->buffer, '\n'))) {
		*end = '\0';
		line(fake, side->buffer);
		side->used -= (size_t)(end + 1 - side->buffer);
		memmove(side->buffer, end + 1, side->used + 1);
	}
}

/* ASan's check for leaks is a process of its own for a moment; where we are killed then, it looks like one that we left behind. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}

int main(int argc, char **argv)
{
	const char *fault = getenv("FAKE_FAULT");
	struct fake fake = { .fault = fault ? fault : "", .cpus = 1, .monitor.fd = -1, .probe.fd = -1 };
	bool incoming = false;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	if (has(&fake, "exits")) {
		fprintf(stderr, "fake_qemu: no such CPU\n");
		return 1;
	}
	for (int i = 1; i < argc; i++) {
		if (strstr(argv[i], "id=probe,"))
			fake.probe.listener = listen_on(argv[i]);
		if (strstr(argv[i], "id=monitor,"))
			fake.monitor.listener = listen_on(argv[i]);
		if (!strcmp(argv[i], "-incoming"))
			incoming = true;
		if (!strcmp(argv[i], "-smp") && i + 1 < argc)
			fake.cpus = (unsigned int)strtoul(argv[i + 1], NULL, 10);
	}
	alarm(60); /* whatever becomes of its driver */
	fake.probe.fd = accept(fake.probe.listener, NULL, NULL);
	fake.monitor.fd = accept(fake.monitor.listener, NULL, NULL);
	say(&fake.monitor, "{\"QMP\":{\"version\":{},\"capabilities\":[]}}");
	if (!incoming && !has(&fake, "boots-not"))
		say(&fake.probe, "{\"ready\":true}");
	while (fake.monitor.fd >= 0) {
		struct pollfd fds[2] = { { .fd = fake.monitor.fd, .events = POLLIN },
					 { .fd = fake.probe.fd, .events = POLLIN } };

		if (poll(fds, 2, -1) < 0)
			return 1;
		if (fds[0].revents)
			take(&fake, &fake.monitor, monitor_line);
		if (fds[1].revents)
			take(&fake, &fake.probe, probe_line);
	}
	return 0;
}
