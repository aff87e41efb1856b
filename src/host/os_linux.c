/* SPDX-License-Identifier: MIT */
/* os_linux.c - the ops table of the machine this program runs on. */
#define _GNU_SOURCE
#include "os_linux.h"

#include <pvclock/os.h>

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* of the vDSO's data: x86 has no other */
#define PAGE_SIZE 4096u

static struct pvclock_host_tsc read_tsc(void *ctx)
{
	uint32_t low, high;

	(void)ctx;
	/*
	 * RDTSC is not ordered by itself (Intel SDM 2B, RDTSC). The first LFENCE lets every earlier load finish, the
	 * second keeps every later one behind. Linux makes LFENCE dispatch-serialising on AMD as well (MSR 0xC0011029
	 * bit 1).
	 */
	__asm__ volatile("lfence\n\trdtsc\n\tlfence" : "=a"(low), "=d"(high) : : "memory");
	return (struct pvclock_host_tsc){ .ticks = (uint64_t)high << 32 | low };
}

static int get_time(void *ctx, clockid_t clock, struct timespec *ts)
{
	(void)ctx;
	return clock_gettime(clock, ts) == 0 ? 0 : -errno;
}

static int control(void *ctx, int fd, unsigned long request, void *arg)
{
	int result;

	(void)ctx;
	result = ioctl(fd, request, arg);
	return result >= 0 ? result : -errno;
}

static ssize_t read_whole(int fd, char *text, size_t size)
{
	size_t length = 0;

	while (length < size) {
		ssize_t got = read(fd, text + length, size - length);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0) {
			text[length] = '\0';
			return (ssize_t)length;
		}
		length += (size_t)got;
	}
	/* no room for the NUL: half a file is not what the caller asked for */
	return -EFBIG;
}

static ssize_t read_file(void *ctx, const char *path, char *text, size_t size)
{
	ssize_t result;
	int fd;

	(void)ctx;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	result = read_whole(fd, text, size);
	close(fd);
	return result;
}

static void cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	(void)ctx;
	__cpuid_count(leaf, subleaf, regs[0], regs[1], regs[2], regs[3]);
}

/*
 * SIGURG is blocked in this thread and open during KVM_RUN alone (KVM_SET_SIGNAL_MASK), where it is pending from the
 * start. It is taken back afterwards: nobody's handler sees it.
 */
static int run_interrupted(void *ctx, int vcpu_fd)
{
	struct {
		uint32_t length;
		uint8_t open_to[8]; /* the kernel's own sigset: bit n - 1 blocks signal n */
	} __attribute__((packed)) mask = { .length = 8 };
	struct timespec at_once = { 0 };
	sigset_t urgent, saved;
	int error = 0;

	(void)ctx;
	memset(mask.open_to, 0xff, sizeof(mask.open_to));
	mask.open_to[(SIGURG - 1) / 8] &= (uint8_t)~(1u << ((SIGURG - 1) % 8));
	sigemptyset(&urgent);
	sigaddset(&urgent, SIGURG);
	pthread_sigmask(SIG_BLOCK, &urgent, &saved);
	if (ioctl(vcpu_fd, KVM_SET_SIGNAL_MASK, &mask) < 0) {
		error = -errno;
	} else {
		pthread_kill(pthread_self(), SIGURG);
		if (ioctl(vcpu_fd, KVM_RUN, 0) >= 0)
			error = -EAGAIN; /* an exit that waited to be handled: it is the caller's, in *run */
		else if (errno != EINTR)
			error = -errno;
		sigtimedwait(&urgent, NULL, &at_once);
		ioctl(vcpu_fd, KVM_SET_SIGNAL_MASK, NULL);
	}
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	return error;
}

static void close_fd(void *ctx, int fd)
{
	(void)ctx;
	close(fd);
}

static int sleep_ns(void *ctx, uint64_t ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(ns / 1000000000u),
		.tv_nsec = (long)(ns % 1000000000u),
	};

	(void)ctx;
	return -clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

/*
 * Since Linux 6.13 the hypervisors' pages have a mapping of their own: pvclock's, then Hyper-V's. Before that they were
 * the second and third page of [vvar] (arch/x86/entry/vdso/vdso-layout.lds.S).
 */
static uintptr_t find_clock_page(enum pvclock_clock_page page)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	uintptr_t from, to, offset = page * PAGE_SIZE, found = 0;
	char *line = NULL;
	size_t size = 0;

	if (maps == NULL)
		return 0;
	while (getline(&line, &size, maps) >= 0) {
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &from, &to) != 2)
			continue;
		if (strstr(line, " [vvar_vclock]\n") != NULL)
			found = to - from > offset ? from + offset : 0;
		else if (found == 0 && strstr(line, " [vvar]\n") != NULL && to - from > PAGE_SIZE + offset)
			found = from + PAGE_SIZE + offset;
	}
	free(line);
	fclose(maps);
	return found;
}

/*
 * A page that is not there is a SIGBUS for whoever looks, but an EFAULT for a kernel that looks for us: this call has
 * it load the word and compare it, and wait for nothing. (mincore says yes in either case; process_vm_readv and
 * madvise say no, for the mapping is VM_PFNMAP.)
 */
static bool is_backed(const uint32_t *word)
{
	struct timespec at_once = { 0 };

	return syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 0, &at_once, NULL, 0) == 0 || errno == EAGAIN ||
	       errno == ETIMEDOUT || errno == EINTR;
}

static const void *clock_page(void *ctx, enum pvclock_clock_page page)
{
	uintptr_t address = find_clock_page(page); /* that the kernel told us as text */

	(void)ctx;
	return address != 0 && is_backed((const uint32_t *)address) ? (const void *)address : NULL;
}

static int time_status(void *ctx, struct timex *status)
{
	int state;

	(void)ctx;
	state = adjtimex(status);
	return state >= 0 ? state : -errno;
}

static const struct pvclock_os_ops ops = {
	.read_tsc = read_tsc,
	.clock_gettime = get_time,
	.ioctl = control,
	.read_file = read_file,
	.cpuid = cpuid,
	.close = close_fd,
	.run_interrupted = run_interrupted,
	.sleep = sleep_ns,
	.clock_page = clock_page,
	.adjtimex = time_status,
	.enter = pvclock_linux_enter,
};

static const struct pvclock_os linux_os = { .ops = &ops, .ctx = NULL };

const struct pvclock_os *pvclock_os_linux(void)
{
	return &linux_os;
}
