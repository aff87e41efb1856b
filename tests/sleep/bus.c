/* SPDX-License-Identifier: MIT */
#include "bus.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_MS 10000

static const char config[] =
	"<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"\n"
	" \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n"
	"<busconfig><type>session</type><listen>unix:path=%s/bus</listen><auth>EXTERNAL</auth>\n"
	"<policy context=\"default\"><allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/></policy></busconfig>\n";

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Dies with the test; `from`, `to`: what becomes its input and output (-1: as it is). */
static pid_t start(char *const *arguments, int from, int to)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (from >= 0)
		dup2(from, STDIN_FILENO);
	if (to >= 0)
		dup2(to, STDOUT_FILENO);
	dup2(open("/dev/null", O_WRONLY), STDERR_FILENO); /* a bus has much to say to whoever runs it without rights */
	execvp(arguments[0], arguments);
	_exit(127);
}

static void end(pid_t *pid)
{
	if (*pid > 0) {
		kill(*pid, SIGKILL);
		waitpid(*pid, NULL, 0);
	}
	*pid = 0;
}

static bool start_daemon(struct bus *bus)
{
	char path[64], option[96];
	char *arguments[] = { "dbus-daemon", "--nofork", "--nopidfile", option, NULL };
	int64_t until = now_ms() + START_MS;
	FILE *file;

	snprintf(path, sizeof(path), "%s/config", bus->folder);
	snprintf(option, sizeof(option), "--config-file=%s", path);
	file = fopen(path, "w");
	if (file == NULL)
		return false;
	fprintf(file, config, bus->folder);
	if (fclose(file) != 0)
		return false;
	bus->daemon = start(arguments, -1, -1);
	snprintf(path, sizeof(path), "%s/bus", bus->folder);
	while (access(path, F_OK) != 0) {
		if (now_ms() > until || waitpid(bus->daemon, NULL, WNOHANG) != 0)
			return false;
		usleep(5000);
	}
	return true;
}

static bool start_logind(struct bus *bus)
{
	char *arguments[] = { getenv("FAKE_LOGIND"), NULL };
	int to[2], from[2];

	if (arguments[0] == NULL || pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
		return false;
	bus->logind = start(arguments, to[0], from[1]);
	close(to[0]);
	close(from[1]);
	bus->say = to[1];
	bus->hear = from[0];
	return bus_hear(bus, "up", NULL, START_MS);
}

bool bus_start(struct bus *bus)
{
	memset(bus, 0, sizeof(*bus));
	bus->say = bus->hear = -1;
	snprintf(bus->folder, sizeof(bus->folder), "/tmp/pvclock-bus-XXXXXX");
	if (mkdtemp(bus->folder) == NULL)
		return false;
	snprintf(bus->address, sizeof(bus->address), "unix:path=%s/bus", bus->folder);
	setenv("DBUS_SYSTEM_BUS_ADDRESS", bus->address, 1);
	signal(SIGPIPE, SIG_IGN);
	return start_daemon(bus) && start_logind(bus);
}

void bus_kill(struct bus *bus)
{
	end(&bus->daemon);
	end(&bus->logind);
}

void bus_stop(struct bus *bus)
{
	char path[64];

	bus_kill(bus);
	if (bus->say >= 0)
		close(bus->say);
	if (bus->hear >= 0)
		close(bus->hear);
	snprintf(path, sizeof(path), "%s/config", bus->folder);
	unlink(path);
	snprintf(path, sizeof(path), "%s/bus", bus->folder);
	unlink(path);
	rmdir(bus->folder);
}

void bus_say(struct bus *bus, const char *words)
{
	char line[64];
	int length = snprintf(line, sizeof(line), "%s\n", words);

	(void)!write(bus->say, line, (size_t)length);
}

/* More of what logind says. False: nothing came. */
static bool listen_on(struct bus *bus, int64_t until)
{
	struct pollfd waited = { .fd = bus->hear, .events = POLLIN };
	int64_t left = until - now_ms();
	size_t length = strlen(bus->text);
	ssize_t got;

	if (poll(&waited, 1, left > 0 ? (int)left : 0) <= 0)
		return false;
	got = read(bus->hear, bus->text + length, sizeof(bus->text) - 1 - length);
	if (got <= 0)
		return false;
	bus->text[length + (size_t)got] = '\0';
	return true;
}

bool bus_hear(struct bus *bus, const char *word, long long numbers[2], int ms)
{
	int64_t until = now_ms() + ms;
	long long unused[2];
	char *end_of_line, said[32];
	bool same;

	while ((end_of_line = strchr(bus->text, '\n')) == NULL)
		if (!listen_on(bus, until))
			return false;
	if (numbers == NULL)
		numbers = unused;
	*end_of_line = '\0';
	same = sscanf(bus->text, "%31s %lld %lld", said, &numbers[0], &numbers[1]) >= 1 && strcmp(said, word) == 0;
	if (!same)
		printf("# logind said \"%s\", where \"%s\" was waited for\n", bus->text, word);
	memmove(bus->text, end_of_line + 1, strlen(end_of_line + 1) + 1);
	return same;
}

bool bus_silent(struct bus *bus, int ms)
{
	int64_t until = now_ms() + ms;

	while (bus->text[0] == '\0')
		if (!listen_on(bus, until))
			return now_ms() >= until;
	if (ms > 0)
		printf("# where nothing was waited for, logind said %s", bus->text);
	return false;
}
