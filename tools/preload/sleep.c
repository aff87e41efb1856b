/* SPDX-License-Identifier: MIT */
/*
 * sleep.c - the host's sleep, told beforehand by the process that `pvclock run --logind` left beside this one. A small
 * thread listens; it closes the gate of every VM and stops its clock, says so, and afterwards leaves the rest to the
 * first vCPU that wants to enter.
 *
 * Meanwhile KVM_RUN is interrupted again and again, as by a signal: so the VMM's own stop, and whatever else it wants of a vCPU's
 * thread, is heard as ever. What it says of the clock in that time holds as in any stop.
 */
#define _GNU_SOURCE
#include "preload.h"

#include "sleep_message.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define STACK_BYTES (256u << 10)

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER; /* taken before any VM's own */
static struct vm *list;                                       /* of this process */
static bool listening;

/* --- one VM ------------------------------------------------------------------------------------ */

static void fall_asleep(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	if (vm->kvm == NULL || vm->asleep) { /* the kernel's clock is the kernel's to keep */
		pthread_mutex_unlock(&vm->lock);
		return;
	}
	vm->asleep = true;
	if (!gate_close(vm)) { /* the machine sleeps all the same; that is noticed afterwards */
		vm->asleep = false;
		gate_open(vm);
	} else if (vm->started && !vm->paused && vm->vcpu_count > 0) {
		for (size_t i = 0; i < vm->vcpu_count; i++)
			vm->vcpus[i]->settled = false; /* their TSC offsets will be written */
		vm_pause(vm);
		if (vm->paused)
			pvclock_kvm_blackout(vm->kvm, PVCLOCK_BLACKOUT_SUSPEND);
		vm->told = false; /* from here on: whether the VMM asks for the clock, which means that it stops the VM, too */
	}
	record_event("asleep", NULL, "\"stopped\":%s", vm->asleep ? "true" : "false");
	pthread_mutex_unlock(&vm->lock);
}

static void wake(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	if (vm->asleep) {
		vm->asleep = false;
		if (vm->told) /* what is left of it is the VMM's own pause; what was slept is measured by itself */
			pvclock_kvm_blackout(vm->kvm, PVCLOCK_BLACKOUT_PAUSE);
		record_event("awake", NULL, "\"paused\":%s", vm->told ? "true" : "false");
	}
	pthread_mutex_unlock(&vm->lock);
}

static void for_all(void (*what)(struct vm *vm))
{
	pthread_mutex_lock(&list_lock);
	for (struct vm *vm = list; vm != NULL; vm = vm->next)
		what(vm);
	pthread_mutex_unlock(&list_lock);
}

/* --- listening --------------------------------------------------------------------------------- */

static void *listen_for_sleep(void *argument)
{
	int fd = (int)(intptr_t)argument;
	struct sleep_message message;
	ssize_t length;

	while ((length = recv(fd, &message, sizeof(message), 0)) > 0 || (length < 0 && errno == EINTR)) {
		if (length != sizeof(message))
			continue;
		if (message.kind == SLEEP_ENDS)
			for_all(wake);
		if (message.kind != SLEEP_BEGINS)
			continue;
		for_all(fall_asleep);
		message.kind = SLEEP_READY;
		(void)!send(fd, &message, sizeof(message), MSG_NOSIGNAL);
	}
	for_all(wake); /* nobody is left who would say so */
	passing++;
	close(fd);
	passing--;
	return NULL;
}

/* The socket that `pvclock run` made, and not what took its number since. */
static int find_door(void)
{
	const char *text = getenv(SLEEP_SOCKET);
	unsigned long long inode;
	struct stat status;
	int fd;

	if (text == NULL || sscanf(text, "%d:%llu", &fd, &inode) != 2)
		return -ENOENT;
	if (fstat(fd, &status) < 0 || !S_ISSOCK(status.st_mode) || status.st_ino != inode)
		return -EBADF;
	return fd;
}

static int knock(int door, int theirs)
{
	const struct sleep_message hello = { .kind = SLEEP_HELLO };
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { .head = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) } };
	struct iovec bytes = { (void *)(uintptr_t)&hello, sizeof(hello) };
	struct msghdr header = { .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

	memcpy(CMSG_DATA(&control.head), &theirs, sizeof(theirs));
	return sendmsg(door, &header, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* A thread that no signal of the VMM's comes to. */
static int start_thread(int fd)
{
	sigset_t all, saved;
	pthread_attr_t attributes;
	pthread_t thread;
	int error;

	sigfillset(&all);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	error = pthread_create(&thread, &attributes, listen_for_sleep, (void *)(intptr_t)fd);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	pthread_attr_destroy(&attributes);
	return -error;
}

static void begin_listening(void)
{
	int ends[2], door = find_door(), error;

	if (door == -ENOENT)
		return; /* not asked for */
	error = door < 0 ? door : socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0 ? -errno : 0;
	if (error == 0) {
		passing++;
		error = knock(door, ends[1]);
		close(ends[1]);
		if (error == 0)
			error = start_thread(ends[0]);
		if (error != 0)
			close(ends[0]);
		passing--;
	}
	if (error == -EBADF)
		say("this program has closed the socket that pvclock run gave it: a sleep of the host is noticed only after it.");
	else if (error == -EPIPE || error == -ECONNREFUSED)
		return; /* whoever listened to logind has said why it does not */
	else if (error != 0)
		say("the host's sleep will not be told beforehand (%s).", strerror(-error));
}

/* A child has neither the thread nor the VMs. */
static void begin_anew(void)
{
	pthread_mutex_init(&list_lock, NULL);
	list = NULL;
	listening = false;
}

static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, begin_anew);
}

void sleep_know(struct vm *vm)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, watch_forks);
	pthread_mutex_lock(&list_lock);
	vm->next = list;
	list = vm;
	if (!listening)
		begin_listening();
	listening = true;
	pthread_mutex_unlock(&list_lock);
}

void sleep_forget(struct vm *vm)
{
	struct vm **at;

	pthread_mutex_lock(&list_lock);
	for (at = &list; *at != NULL && *at != vm; at = &(*at)->next)
		;
	if (*at == vm)
		*at = vm->next;
	pthread_mutex_unlock(&list_lock);
}
