/* SPDX-License-Identifier: MIT */
#include "link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SLICE_MS 100 /* how late a signal may be noticed */

union address {
	struct sockaddr any;
	struct sockaddr_un local;
	struct sockaddr_in internet;
};

static socklen_t parse(const char *text, union address *address)
{
	char host[64];
	unsigned int port;

	memset(address, 0, sizeof(*address));
	if (!strncmp(text, "unix:", 5)) {
		address->local.sun_family = AF_UNIX;
		if (strlen(text + 5) >= sizeof(address->local.sun_path))
			return 0;
		strcpy(address->local.sun_path, text + 5);
		return sizeof(address->local);
	}
	if (sscanf(text, "tcp:%63[0-9.]:%u", host, &port) != 2 || port > 65535)
		return 0;
	address->internet.sin_family = AF_INET;
	address->internet.sin_port = htons((uint16_t)port);
	return inet_pton(AF_INET, host, &address->internet.sin_addr) == 1 ? sizeof(address->internet) : 0;
}

void link_adopt(struct link *link, struct lab *lab, int fd)
{
	int on = 1;

	memset(link, 0, sizeof(*link));
	link->lab = lab;
	link->fd = fd;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on,
		   sizeof(on)); /* a line at a time; fails on a local socket, which needs none */
}

/* A host that is not up yet answers nothing at all: connect would wait for minutes. */
static int connect_within(int fd, const union address *address, socklen_t length, int timeout_ms)
{
	struct pollfd ready = { .fd = fd, .events = POLLOUT };
	int error = 0;
	socklen_t size = sizeof(error);

	if (connect(fd, &address->any, length) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return -errno;
	if (poll(&ready, 1, timeout_ms) != 1)
		return -ETIMEDOUT;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size))
		return -errno;
	return -error;
}

int link_open(struct link *link, struct lab *lab, const char *text)
{
	union address address;
	socklen_t length = parse(text, &address);
	int fd, error;

	memset(link, 0, sizeof(*link));
	link->fd = -1;
	if (!length)
		return -EINVAL;
	fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	error = connect_within(fd, &address, length, 1000);
	if (error) {
		close(fd);
		return error;
	}
	link_adopt(link, lab, fd);
	return 0;
}

void link_close(struct link *link)
{
	if (link->lab && link->fd >= 0)
		close(link->fd);
	free(link->buffer);
	memset(link, 0, sizeof(*link));
	link->fd = -1;
}

int link_send(struct link *link, const char *line, int64_t until_ms)
{
	size_t length = strlen(line), done = 0;
	char *text = malloc(length + 1);

	if (!text || !link->lab || link->fd < 0) {
		free(text);
		return -1;
	}
	memcpy(text, line, length);
	text[length++] = '\n';
	while (done < length) {
		ssize_t sent = send(link->fd, text + done, length - done, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent > 0) {
			done += (size_t)sent;
			continue;
		}
		if (sent < 0 && errno != EAGAIN && errno != EINTR)
			break;
		struct pollfd ready = { .fd = link->fd, .events = POLLOUT };

		if (lab_now_ms() >= until_ms || lab_interrupted(link->lab))
			break;
		poll(&ready, 1, SLICE_MS);
	}
	free(text);
	return done == length ? 0 : -1;
}

static bool take_line(struct link *link, char **line)
{
	char *end = link->used ? memchr(link->buffer, '\n', link->used) : NULL;
	size_t length;

	if (!end)
		return false;
	length = (size_t)(end - link->buffer);
	*line = malloc(length + 1);
	if (*line) {
		memcpy(*line, link->buffer, length);
		while (length > 0 && (*line)[length - 1] == '\r')
			length--;
		(*line)[length] = '\0';
	}
	link->used -= (size_t)(end + 1 - link->buffer);
	memmove(link->buffer, end + 1, link->used);
	return *line != NULL;
}

static bool make_room(struct link *link)
{
	size_t size = link->size ? link->size * 2 : 8192;
	char *grown;

	if (link->used < link->size)
		return true;
	if (link->size >= LINK_LINE_MAX)
		return false;
	grown = realloc(link->buffer, size);
	if (!grown)
		return false;
	link->buffer = grown;
	link->size = size;
	return true;
}

enum link_result link_receive(struct link *link, int64_t until_ms, char **line)
{
	*line = NULL;
	if (!link->lab || link->fd < 0)
		return LINK_CLOSED;
	for (;;) {
		struct pollfd ready = { .fd = link->fd, .events = POLLIN };
		int64_t left = until_ms - lab_now_ms();
		ssize_t length;

		if (take_line(link, line))
			return LINK_LINE;
		if (lab_interrupted(link->lab))
			return LINK_INTERRUPTED;
		/* what has arrived is taken even if the time is over */
		if (poll(&ready, 1, left <= 0 ? 0 : left < SLICE_MS ? (int)left : SLICE_MS) <= 0) {
			if (left <= 0)
				return LINK_TIMEOUT;
			continue;
		}
		if (!make_room(link))
			return LINK_CLOSED;
		length = recv(link->fd, link->buffer + link->used, link->size - link->used, MSG_DONTWAIT);
		if (length > 0)
			link->used += (size_t)length;
		else if (length == 0 || (errno != EAGAIN && errno != EINTR))
			return LINK_CLOSED;
	}
}

int link_accept(struct lab *lab, const char *text, int64_t until_ms)
{
	union address address;
	socklen_t length = parse(text, &address);
	int on = 1, fd = -1, listener = length ? socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;

	if (listener < 0)
		return lab_fail(lab, "Cannot listen on %s: it is no address of the form tcp:HOST:PORT.", text);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, &address.any, length) || listen(listener, 1)) {
		lab_fail(lab, "Cannot listen on %s: %s.", text, strerror(errno));
		close(listener);
		return -1;
	}
	while (fd < 0 && !lab_interrupted(lab)) {
		struct pollfd ready = { .fd = listener, .events = POLLIN };

		if (lab_now_ms() >= until_ms) {
			lab_fail(lab, "Nobody connected to %s in time.", text);
			break;
		}
		if (poll(&ready, 1, SLICE_MS) > 0)
			fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	}
	close(listener);
	return fd;
}
