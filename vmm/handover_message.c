// SPDX-License-Identifier: MIT
/* handover_message.c - what the two sides of a live update say to each other, and the word that says whose the guest is. */
#include "handover.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define MESSAGE_MAGIC 0x6f766f68u

void message_say(int socket, struct message *message, enum message_kind kind, int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec data = { .iov_base = message, .iov_len = sizeof(*message) };
	struct msghdr header = { .msg_iov = &data, .msg_iovlen = 1 };

	message->magic = MESSAGE_MAGIC;
	message->kind = kind;
	if (fd >= 0) {
		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
		struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(rights), &fd, sizeof(int));
	}
	ssize_t sent;
	do
		sent = sendmsg(socket, &header, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
}

static enum message_kind receive_one(int socket, struct message *message, int *fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec data = { .iov_base = message, .iov_len = sizeof(*message) };
	struct msghdr header = {
		.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t got;

	*fd = -1;
	/* ECONNRESET: the other side died with a message unread. What it had sent may still be in the queue. */
	do
		got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
	while (got < 0 && (errno == EINTR || errno == ECONNRESET));
	if (got <= 0)
		return MESSAGE_CLOSED;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c != NULL; c = CMSG_NXTHDR(&header, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			memcpy(fd, CMSG_DATA(c), sizeof(int));
	message->problem.text[PROBLEM_TEXT - 1] = '\0';
	if ((size_t)got != sizeof(*message) || message->magic != MESSAGE_MAGIC || message->kind < MESSAGE_PREPARED ||
	    message->kind > MESSAGE_FAILED) {
		message->kind = MESSAGE_FAILED;
		fail(&message->problem, "the other side speaks another protocol");
	}
	return (enum message_kind)message->kind;
}

enum message_kind message_receive(int socket, struct message *message, int *fd, uint64_t timeout_ns)
{
	uint64_t deadline = monotonic_ns() + timeout_ns;

	*fd = -1;
	for (;;) {
		uint64_t now = monotonic_ns();
		struct pollfd waited = { .fd = socket, .events = POLLIN };

		if (now >= deadline)
			return MESSAGE_SILENT;
		int ready = poll(&waited, 1, (int)((deadline - now) / 1000000u) + 1);
		if (ready > 0)
			return receive_one(socket, message, fd);
		if (ready < 0 && errno != EINTR)
			return MESSAGE_CLOSED;
	}
}

bool commit_to(_Atomic uint32_t *word, enum commit side)
{
	uint32_t none = COMMIT_NONE;

	return atomic_compare_exchange_strong(word, &none, (uint32_t)side);
}

_Atomic uint32_t *commit_map(int fd)
{
	void *word = mmap(NULL, sizeof(_Atomic uint32_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return word == MAP_FAILED ? NULL : word;
}
