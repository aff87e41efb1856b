/* SPDX-License-Identifier: MIT */
/*
 * guard.c - a process that stays when this one is killed. The host rewrites, in this machine's memory, what the nested page
 * names, and writes that page; once this process is gone, its memory is somebody else's. So the guard holds what pins
 * that memory (pins.c), waits for this process's end, takes the page away from the host, and only then lets go.
 *
 * It is started by a bare clone, twice: no signal tells the VMM of it, no handler of fork's runs in it, and it is nobody's
 * child. Its copy of the VMM's memory is never written. What it must not outlive is a kill of all processes at once, as
 * of a control group's.
 *
 * The machine has one nested page, and each registration takes the place of the one before. So one process has it at a
 * time: whoever has locked the file by which it is registered, which the guard keeps locked.
 */
#define _GNU_SOURCE
#include "parent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pvclock/interface.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 1000 /* of another process's guard, which is at its end */
#define AGAIN_MS 100

static void rest(long ms)
{
	const struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

int guard_open_msr(const char *path, struct pvclock_reason *reason)
{
	int fd = open(path, O_RDWR | O_CLOEXEC), error = -errno;

	if (fd < 0 && error == -ENOENT)
		return lacks(reason, error, "there is no %s; load the module (modprobe msr).", path);
	if (fd < 0)
		return lacks(reason, error, "%s cannot be opened (%s); that takes root, and CAP_SYS_RAWIO.", path, strerror(-error));
	for (unsigned int waited = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; waited += AGAIN_MS) {
		if (waited < PATIENCE_MS) {
			rest(AGAIN_MS);
			continue;
		}
		syscall(SYS_close, fd);
		return lacks(reason, -EBUSY, "another process of this machine has the one page by which its host tells of that; "
			     "only one can have it.");
	}
	return fd;
}

/* --- in the guard: its own memory, and system calls ---------------------------------------------- */

/* All but these three, in ascending order. */
static void close_others(const int keep[3])
{
	unsigned int next = 0;

	for (unsigned int i = 0; i < 3; i++) {
		if ((unsigned int)keep[i] > next)
			syscall(SYS_close_range, next, (unsigned int)keep[i] - 1, 0);
		next = (unsigned int)keep[i] + 1;
	}
	syscall(SYS_close_range, next, ~0u, 0);
}

static void sort(int keep[3])
{
	for (unsigned int i = 0; i < 3; i++) {
		for (unsigned int j = i + 1; j < 3; j++) {
			int one = keep[i];

			if (keep[j] >= one)
				continue;
			keep[i] = keep[j];
			keep[j] = one;
		}
	}
}

/* Memory may be short when the VMM goes, and this is little. It takes a privilege, and is done without. */
static void outlive(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0)
		(void)!write(fd, "-1000", 5);
}

/* Until it is done nothing may be let go. EIO: a #GP, of a host that has no such register, and writes nowhere. */
static void write_zero(int msr, uint32_t number)
{
	const uint64_t none = 0;

	while (pwrite(msr, &none, sizeof(none), number) != (ssize_t)sizeof(none) && errno != EIO)
		rest(AGAIN_MS);
}

__attribute__((noreturn)) static void guard(int vmm, int msr, int ring)
{
	struct pollfd end = { .fd = vmm, .events = POLLIN };
	int keep[3] = { vmm, msr, ring };

	setsid();
	(void)!chdir("/");
	prctl(PR_SET_NAME, "pvclock-guard");
	outlive();
	sort(keep);
	close_others(keep);
	while (poll(&end, 1, -1) != 1)
		rest(AGAIN_MS);
	write_zero(msr, PVCLOCK_MSR_NESTED);
	write_zero(msr, PVCLOCK_MSR_NESTED_CONTROL);
	syscall(SYS_exit_group, 0);
	__builtin_unreachable();
}

/* --- in the VMM ------------------------------------------------------------------------------------ */

static pid_t bare_clone(void)
{
	return (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
}

/* 0 or -errno. */
static int clone_twice(int vmm, int msr, int ring)
{
	pid_t child = bare_clone(), grandchild;
	int status;

	if (child == 0) {
		grandchild = bare_clone();
		if (grandchild == 0)
			guard(vmm, msr, ring);
		syscall(SYS_exit_group, grandchild < 0 ? 1 : 0);
	}
	if (child < 0)
		return -errno;
	while (waitpid(child, &status, (int)__WCLONE) != child)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EAGAIN;
}

int guard_start(int msr, int ring, struct pvclock_reason *reason)
{
	sigset_t all, saved;
	int vmm, error;

	/* QEMU's -sandbox with spawn=deny, as libvirt has it, kills whoever tries */
	if (prctl(PR_GET_SECCOMP) != 0)
		return lacks(reason, -EPERM, "this program has a seccomp filter, and what must outlive it could not be started; "
			     "run it without (-sandbox off).");
	vmm = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (vmm < 0)
		return lacks(reason, -errno, "this process cannot be watched for its end (%s).", strerror(errno));
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	error = clone_twice(vmm, msr, ring);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	syscall(SYS_close, vmm);
	if (error)
		return lacks(reason, error, "the process that is to outlive this one could not be started (%s).", strerror(-error));
	return 0;
}
