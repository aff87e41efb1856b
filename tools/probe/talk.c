/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define LINE_SIZE 256u

struct talk {
	struct probe *probe;
	int out;
	char line[LINE_SIZE];
	size_t length;
	bool too_long; /* what comes up to the next newline is the rest of a line that was refused */
};

int open_line(const char *path)
{
	int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios mode;
	int error;

	if (fd < 0)
		return -1;
	if (tcgetattr(fd, &mode) == 0) {
		cfmakeraw(&mode);
		mode.c_cflag |= CLOCAL | CREAD; /* no modem, so nothing to hang up */
		mode.c_cflag &= ~(tcflag_t)CRTSCTS;
		mode.c_cc[VMIN] = 1;
		mode.c_cc[VTIME] = 0;
		cfsetspeed(&mode, B115200);
		if (tcsetattr(fd, TCSANOW, &mode) == 0)
			return fd;
	}
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

static int write_all(int fd, const char *bytes, size_t count)
{
	while (count > 0) {
		ssize_t written = write(fd, bytes, count);

		if (written < 0 && (errno == EAGAIN || errno == EINTR)) {
			struct pollfd ready = { .fd = fd, .events = POLLOUT };

			poll(&ready, 1, -1);
			continue;
		}
		if (written < 0)
			return errno;
		bytes += written;
		count -= (size_t)written;
	}
	return 0;
}

static int say(struct talk *talk, struct json *reply)
{
	if (reply->full) {
		*reply = (struct json){ .length = 0 };
		json_open(reply, NULL, '{');
		json_text(reply, "error", "the reply does not fit");
		json_close(reply, '}');
	}
	reply->text[reply->length] = '\n'; /* in the place of the NUL */
	return write_all(talk->out, reply->text, reply->length + 1);
}

static int take_line(struct talk *talk)
{
	struct json reply = { .length = 0 };
	bool too_long = talk->too_long;

	talk->line[talk->length] = '\0';
	talk->length = 0;
	talk->too_long = false;
	if (too_long) {
		json_open(&reply, NULL, '{');
		json_text(&reply, "error", "a line of more than 255 letters is no command");
		json_close(&reply, '}');
	} else if (talk->line[0] == '\0') {
		return 0;
	} else {
		probe_command(talk->probe, talk->line, &reply);
	}
	return say(talk, &reply);
}

static int take(struct talk *talk, const char *bytes, size_t count)
{
	for (size_t i = 0; i < count && !talk->probe->quit; i++) {
		int error;

		if (bytes[i] == '\r' || bytes[i] == '\0')
			continue;
		if (bytes[i] == '\n') {
			error = take_line(talk);
			if (error != 0)
				return error;
		} else if (talk->length == LINE_SIZE - 1) {
			talk->too_long = true;
		} else {
			talk->line[talk->length++] = bytes[i];
		}
	}
	return 0;
}

int probe_talk(struct probe *probe, int in, int out)
{
	struct talk talk = { .probe = probe, .out = out };
	struct json ready = { .length = 0 };
	int error;

	probe_ready(probe, &ready);
	error = say(&talk, &ready);
	while (error == 0 && !probe->quit) {
		struct pollfd input = { .fd = in, .events = POLLIN };
		int polled = poll(&input, 1, PROBE_IDLE_MS);
		char bytes[LINE_SIZE];
		ssize_t count;

		if (polled == 0)
			probe_tend(probe);
		if (polled == 0 || (polled < 0 && errno == EINTR))
			continue;
		count = read(in, bytes, sizeof(bytes));
		if (count == 0)
			break;
		if (count > 0)
			error = take(&talk, bytes, (size_t)count);
		else if (errno != EAGAIN && errno != EINTR)
			error = errno;
	}
	if (isatty(out))
		tcdrain(out); /* whoever waits for the last reply gets it before the machine is gone */
	return error;
}
