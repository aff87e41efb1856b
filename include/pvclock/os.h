/* SPDX-License-Identifier: MIT */
/*
 * os.h - everything the library asks of an operating system, in one table, so that a test or a
 * simulator can be the OS. The library keeps the pointer; the caller keeps the table and ctx alive.
 */
#ifndef PVCLOCK_OS_H
#define PVCLOCK_OS_H

#include <pvclock/line.h>

#include <stddef.h>
#include <stdint.h>
#include <sys/timex.h>
#include <sys/types.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pvclock_os;

/* The pages that Linux shows every process, so that its vDSO can read a hypervisor's clock. */
enum pvclock_clock_page {
	PVCLOCK_CLOCK_PAGE_KVM,    /* vCPU 0's struct pvclock_page */
	PVCLOCK_CLOCK_PAGE_HYPERV, /* Hyper-V's reference TSC page */
};

struct pvclock_os_ops {
	/* An ordered TSC read: after all earlier loads, before all later ones. */
	struct pvclock_host_tsc (*read_tsc)(void *ctx);
	/* 0 or -errno. */
	int (*clock_gettime)(void *ctx, clockid_t clock, struct timespec *ts);
	/* The result (>= 0) or -errno. */
	int (*ioctl)(void *ctx, int fd, unsigned long request, void *arg);
	/* What ioctl returned as a descriptor. */
	void (*close)(void *ctx, int fd);
	/* Reads a small text file whole: its length (< size, NUL added) or -errno. */
	ssize_t (*read_file)(void *ctx, const char *path, char *text, size_t size);
	/* CPUID of this machine: eax, ebx, ecx, edx. */
	void (*cpuid)(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);
	/*
	 * KVM_RUN on a vCPU with a signal pending, so that the kernel does what it postponed to the vCPU's next entry
	 * and returns before guest mode. 0 or -errno.
	 */
	int (*run_interrupted)(void *ctx, int vcpu_fd);
	/* 0 or -errno (-EINTR). */
	int (*sleep)(void *ctx, uint64_t ns);
	/*
	 * Where this process may read that page, for good, or NULL if the kernel shows none: it shows one from the
	 * first time that it kept time by it. May itself be NULL in a table that knows no pages.
	 */
	const void *(*clock_page)(void *ctx, enum pvclock_clock_page page);
	/*
	 * What the kernel says of CLOCK_REALTIME (modes 0): its state (TIME_OK ... TIME_ERROR), or -errno. May itself be
	 * NULL in a table where nobody says.
	 */
	int (*adjtimex)(void *ctx, struct timex *status);
	/*
	 * KVM_RUN as soon as may(arg) has said yes, and if anything came between the two, even a sleep of the host, may
	 * is asked again: 0 or -errno; -ESTALE: it said no. May be NULL: then ioctl does it, right after the question.
	 */
	int (*enter)(void *ctx, int vcpu_fd, bool (*may)(void *arg), void *arg);
};

struct pvclock_os {
	const struct pvclock_os_ops *ops;
	void *ctx;
};

/* The machine this program runs on. Static, immutable. */
const struct pvclock_os *pvclock_os_linux(void);

#ifdef __cplusplus
}
#endif
#endif
