// SPDX-License-Identifier: MIT
/* handover_message.c - what the two sides of a live update share: what they say, the word whose the guest is, and its state. */
#include "handover.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MESSAGE_MAGIC 0x32766f68u
#define STATE_USUAL (128u << 10)
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)

void message_say(int socket, enum message_kind kind, const struct problem *problem)
{
	struct message message = { .magic = MESSAGE_MAGIC, .kind = kind };
	ssize_t sent;

	if (problem != NULL)
		message.problem = *problem;
	do
		sent = send(socket, &message, sizeof(message), MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
}

static enum message_kind receive_one(int socket, struct message *message)
{
	ssize_t got;

	/* ECONNRESET: the other side died with a message unread. What it had sent may still be in the queue. */
	do
		got = recv(socket, message, sizeof(*message), 0);
	while (got < 0 && (errno == EINTR || errno == ECONNRESET));
	if (got <= 0)
		return MESSAGE_CLOSED;
	message->problem.text[PROBLEM_TEXT - 1] = '\0';
	if ((size_t)got != sizeof(*message) || message->magic != MESSAGE_MAGIC || message->kind < MESSAGE_PREPARED ||
	    message->kind > MESSAGE_FAILED) {
		message->kind = MESSAGE_FAILED;
		fail(&message->problem, "the other side speaks another protocol");
	}
	return (enum message_kind)message->kind;
}

enum message_kind message_receive(int socket, struct message *message, uint64_t timeout_ns)
{
	uint64_t deadline = monotonic_ns() + timeout_ns;

	for (;;) {
		uint64_t now = monotonic_ns();
		struct pollfd waited = { .fd = socket, .events = POLLIN };

		if (now >= deadline)
			return MESSAGE_SILENT;
		int ready = poll(&waited, 1, (int)((deadline - now) / 1000000u) + 1);
		if (ready > 0)
			return receive_one(socket, message);
		if (ready < 0 && errno != EINTR)
			return MESSAGE_CLOSED;
	}
}

bool handover_win(struct handover *handover, enum owner side)
{
	uint32_t nobody = OWNER_NOBODY_YET;

	return atomic_compare_exchange_strong(&handover->owner, &nobody, (uint32_t)side);
}

static struct handover *map(int fd)
{
	void *mapped = mmap(NULL, sizeof(struct handover), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return mapped == MAP_FAILED ? NULL : mapped;
}

int handover_create(struct handover **handover)
{
	int fd = memfd_create("pvclock-vmm-handover", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	*handover = NULL;
	/* Memory for the mapped page and for a usual state now, while the guest runs. */
	if (fd >= 0 && ftruncate(fd, HANDOVER_SIZE) == 0 && fallocate(fd, 0, 0, HANDOVER_STATE + STATE_USUAL) == 0 &&
	    fcntl(fd, F_ADD_SEALS, SEALS) == 0)
		*handover = map(fd);
	if (*handover != NULL)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

struct handover *handover_map(int fd, struct problem *problem)
{
	struct stat file;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &file) < 0 || file.st_size != HANDOVER_SIZE) {
		fail(problem, "update: --commit-fd %d is no sealed memfd of %u bytes: the predecessor is not of this release", fd,
		     HANDOVER_SIZE);
		return NULL;
	}
	struct handover *handover = map(fd);
	if (handover == NULL)
		fail(problem, "update: --commit-fd %d: %s", fd, strerror(errno));
	return handover;
}

void handover_unmap(struct handover *handover)
{
	if (handover != NULL)
		munmap(handover, sizeof(*handover));
}
