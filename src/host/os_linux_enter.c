/* SPDX-License-Identifier: MIT */
/*
 * os_linux_enter.c - KVM_RUN with nothing between a question and the entry. A thread that asks whether the host has
 * slept, hears that it has not, and is then put to sleep with the host, would enter the guest with an answer of
 * yesterday.
 *
 * Restartable sequences (rseq(2)) close that window: the kernel notes that a thread was interrupted, and a freezer's
 * sleep is one. Up to the call the thread is in a sequence whose last instruction is SYSCALL itself. Interrupted before
 * that, even on it, the thread goes on at the sequence's abort, or finds that the kernel has cleared the sequence while
 * the question was asked; either way it asks again. Once in the kernel KVM_RUN is interrupted by the freezer, and
 * returns.
 *
 * Where glibc has not registered rseq (before 2.35, or by its tunable), or the kernel has none (before 4.18), the
 * question comes right before the call, and the window is these few instructions.
 */
#define _GNU_SOURCE
#include "os_linux.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <unistd.h>

#if defined(__x86_64__) && __has_include(<linux/rseq.h>)
#include <linux/rseq.h>
#include <stdatomic.h>

/* glibc's, of 2.35 and newer (rseq(2) is registered once for a thread, and it does that) */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

#define INTERRUPTED 1

/* KVM_RUN, or INTERRUPTED where the sequence was cleared, or aborts. 0 or -errno else. */
int pvclock_linux_run(int vcpu_fd, struct rseq *rseq) __attribute__((visibility("hidden")));
extern const struct rseq_cs pvclock_linux_run_sequence __attribute__((visibility("hidden")));

_Static_assert(offsetof(struct rseq, rseq_cs) == 8 && KVM_RUN == 0xae80, "as below");

__asm__(".text\n"
	".globl pvclock_linux_run\n"
	".hidden pvclock_linux_run\n"
	".type pvclock_linux_run, @function\n"
	"pvclock_linux_run:\n"
	"1:	leaq	pvclock_linux_run_sequence(%rip), %rax\n"
	"	cmpq	%rax, 8(%rsi)\n" /* or a signal's handler has left one of its own */
	"	jne	4f\n"
	"	movl	$0xae80, %esi\n" /* KVM_RUN */
	"	xorl	%edx, %edx\n"
	"	movl	$16, %eax\n"     /* ioctl */
	"	syscall\n"
	"2:	ret\n"
	"	.byte	0x0f, 0xb9, 0x3d\n" /* ud1: what follows is no code to fall into */
	"	.long	0x53053053\n"       /* RSEQ_SIG: else the kernel does not go there */
	"4:	movl	$1, %eax\n"
	"	ret\n"
	".size pvclock_linux_run, . - pvclock_linux_run\n"
	".section .data.rel.ro, \"aw\"\n"
	".balign 32\n"
	".globl pvclock_linux_run_sequence\n"
	".hidden pvclock_linux_run_sequence\n"
	"pvclock_linux_run_sequence:\n"
	"	.long	0, 0\n"
	"	.quad	1b, 2b - 1b, 4b\n" /* from, length, and where it aborts */
	".text\n");

static struct rseq *own_rseq(void)
{
	struct rseq *rseq;

	if (&__rseq_size == NULL || __rseq_size == 0)
		return NULL;
	rseq = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	return (int32_t)rseq->cpu_id >= 0 ? rseq : NULL;
}

static void set_sequence(struct rseq *rseq, const struct rseq_cs *sequence)
{
	atomic_store_explicit((_Atomic uint64_t *)&rseq->rseq_cs, (uintptr_t)sequence, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst); /* for this thread and its kernel */
}

static bool run_in_sequence(int vcpu_fd, bool (*may)(void *arg), void *arg, int *result)
{
	struct rseq *rseq = own_rseq();

	if (rseq == NULL)
		return false;
	do {
		set_sequence(rseq, &pvclock_linux_run_sequence);
		*result = may(arg) ? pvclock_linux_run(vcpu_fd, rseq) : -ESTALE;
	} while (*result == INTERRUPTED);
	set_sequence(rseq, NULL);
	return true;
}

#else

static bool run_in_sequence(int vcpu_fd, bool (*may)(void *arg), void *arg, int *result)
{
	(void)vcpu_fd;
	(void)may;
	(void)arg;
	(void)result;
	return false;
}

#endif

int pvclock_linux_enter(void *ctx, int vcpu_fd, bool (*may)(void *arg), void *arg)
{
	int result;

	(void)ctx;
	if (run_in_sequence(vcpu_fd, may, arg, &result))
		return result;
	if (!may(arg))
		return -ESTALE;
	return ioctl(vcpu_fd, KVM_RUN, 0) < 0 ? -errno : 0;
}
