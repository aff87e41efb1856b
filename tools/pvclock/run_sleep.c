// SPDX-License-Identifier: MIT
/*
 * run_sleep.c - what `pvclock run --logind` leaves beside the VMM: hears of the host's sleep from logind, tells each of
 * the VMM's processes that has a VM, and lets the host sleep when all have answered. It ends with them, or when there
 * is nothing more to hear.
 */
#define _GNU_SOURCE
#include "run_sleep.h"

#include "sleep_message.h"
#include "sleep_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLIENTS 256 /* processes with VMs, below one `pvclock run` */

struct helper {
	int door;              /* -1: nobody is left who could come */
	int clients[CLIENTS];
	bool waited[CLIENTS];  /* for this one's answer */
	unsigned int count;
	uint32_t number;       /* of the sleep that is announced, or was last */
	bool asleep;
	struct sleep_watch *watch;
};

static void tell(const struct helper *helper, unsigned int client, enum sleep_message_kind kind)
{
	const struct sleep_message message = { .kind = kind, .number = helper->number };

	/* A client whose buffer is full has not answered the last hundred: it is not waited for any longer than logind does. */
	(void)!send(helper->clients[client], &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void look_whether_ready(struct helper *helper)
{
	for (unsigned int i = 0; i < helper->count; i++)
		if (helper->waited[i])
			return;
	if (helper->asleep)
		sleep_watch_ready(helper->watch);
}

static bool sleeping(void *ctx)
{
	struct helper *helper = ctx;

	helper->asleep = true;
	helper->number++;
	for (unsigned int i = 0; i < helper->count; i++) {
		helper->waited[i] = true;
		tell(helper, i, SLEEP_BEGINS);
	}
	return helper->count == 0;
}

static void awake(void *ctx)
{
	struct helper *helper = ctx;

	helper->asleep = false;
	for (unsigned int i = 0; i < helper->count; i++) {
		helper->waited[i] = false;
		tell(helper, i, SLEEP_ENDS);
	}
}

static void say(void *ctx, const char *sentence)
{
	(void)ctx;
	dprintf(STDERR_FILENO, "pvclock: %s.\n", sentence);
}

/* A message, and the descriptor that came with it. 0: the other end is closed; -1: nothing, or no message of ours. */
static int receive(int fd, struct sleep_message *message, int *passed)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec bytes = { message, sizeof(*message) };
	struct msghdr header = { .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *found;
	ssize_t length = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	*passed = -1;
	if (length < 0)
		return errno == EAGAIN || errno == EINTR ? -1 : 0;
	found = CMSG_FIRSTHDR(&header);
	if (found != NULL && found->cmsg_level == SOL_SOCKET && found->cmsg_type == SCM_RIGHTS && found->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(passed, CMSG_DATA(found), sizeof(*passed));
	return length == 0 ? 0 : length == sizeof(*message) ? 1 : -1;
}

static void open_door(struct helper *helper)
{
	struct sleep_message message;
	int client, result = receive(helper->door, &message, &client);

	if (result == 0) {
		close(helper->door);
		helper->door = -1;
	}
	if (result > 0 && message.kind == SLEEP_HELLO && client >= 0 && helper->count < CLIENTS) {
		helper->clients[helper->count] = client;
		helper->waited[helper->count] = helper->asleep;
		if (helper->asleep)
			tell(helper, helper->count, SLEEP_BEGINS);
		helper->count++;
	} else if (client >= 0) {
		close(client);
	}
}

/* False: it is gone, and another one is in its place. */
static bool hear(struct helper *helper, unsigned int client)
{
	struct sleep_message message;
	int unwanted, result = receive(helper->clients[client], &message, &unwanted);

	if (unwanted >= 0)
		close(unwanted);
	if (result > 0 && message.kind == SLEEP_READY && message.number == helper->number)
		helper->waited[client] = false;
	if (result != 0)
		return true;
	close(helper->clients[client]);
	helper->count--;
	helper->clients[client] = helper->clients[helper->count];
	helper->waited[client] = helper->waited[helper->count];
	return false;
}

static void serve(struct helper *helper)
{
	struct pollfd waited[CLIENTS + 2];

	for (;;) {
		int timeout_ms = -1;

		sleep_watch_poll(helper->watch, &waited[0], &timeout_ms);
		/* Those who are left hear by our end that nothing more will come. */
		if (waited[0].fd < 0 || (helper->door < 0 && helper->count == 0))
			return;
		waited[1] = (struct pollfd){ .fd = helper->door, .events = POLLIN };
		for (unsigned int i = 0; i < helper->count; i++)
			waited[i + 2] = (struct pollfd){ .fd = helper->clients[i], .events = POLLIN };
		if (poll(waited, helper->count + 2, timeout_ms) < 0 && errno != EINTR)
			return;
		for (unsigned int i = helper->count; i-- > 0;) /* downwards: what takes a place that became free was looked at */
			if (waited[i + 2].revents != 0)
				hear(helper, i);
		if (waited[1].revents != 0)
			open_door(helper);
		look_whether_ready(helper);
		sleep_watch_process(helper->watch);
	}
}

/* Nothing of whoever started the VMM is held open but standard error, and no signal from its terminal comes here. */
__attribute__((noreturn)) static void become_helper(int door)
{
	struct helper helper = { .door = 3 };
	const struct sleep_watch_client client = {
		.why = "stops virtual machines and their clocks",
		.ctx = &helper,
		.sleeping = sleeping,
		.awake = awake,
		.say = say,
	};
	int null = open("/dev/null", O_RDWR);

	setsid();
	prctl(PR_SET_NAME, "pvclock-sleep");
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (door != 3)
		dup2(door, 3);
	fcntl(3, F_SETFD, FD_CLOEXEC);
	close_range(4, ~0u, 0);
	helper.watch = sleep_watch_open(&client);
	serve(&helper);
	sleep_watch_close(helper.watch);
	_exit(0);
}

/* Not the VMM's child, which knows of none: its grandchild, that nobody waits for. */
static int start_helper(int door)
{
	pid_t child = fork();
	int status;

	if (child < 0)
		return -errno;
	if (child == 0) {
		pid_t helper = fork();

		if (helper == 0)
			become_helper(door);
		_exit(helper < 0 ? 1 : 0);
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return status == 0 ? 0 : -EAGAIN;
}

int run_sleep_start(void)
{
	int ends[2], error;
	struct stat status;
	char text[64];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	error = start_helper(ends[1]);
	close(ends[1]);
	if (error == 0 && (fcntl(ends[0], F_SETFD, 0) < 0 || fstat(ends[0], &status) < 0))
		error = -errno;
	if (error != 0) {
		close(ends[0]);
		return error;
	}
	snprintf(text, sizeof(text), "%d:%llu", ends[0], (unsigned long long)status.st_ino);
	return setenv(SLEEP_SOCKET, text, 1) == 0 ? 0 : -ENOMEM;
}
