/* SPDX-License-Identifier: MIT */
/*
 * enter_test.c - P9: a thread that was stopped anywhere between the question and KVM_RUN asks again. A child goes
 * through the real pvclock_linux_enter; its parent stops it at each instruction on the way, one after the other, lets
 * the host "sleep" just then, and looks whether the child enters all the same. The descriptor is no vCPU's, so an entry
 * is seen by ioctl's error.
 */
#define _GNU_SOURCE
#include "../../src/host/os_linux.h"

#include <pvclock/os.h>

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__x86_64__)

extern const unsigned int __rseq_size __attribute__((weak));
int pvclock_linux_run(int vcpu_fd, void *rseq);

#define RUN_LENGTH 64 /* of pvclock_linux_run, and more */
#define AWAKE 1
#define SLEPT 2
#define STEPS_MAX 1000000 /* some hundred do, and more under a sanitizer */

struct shared {
	_Atomic int host, asked;
	_Atomic int result;
};

static bool may(void *arg)
{
	struct shared *shared = arg;

	atomic_fetch_add(&shared->asked, 1);
	return atomic_load(&shared->host) == AWAKE;
}

static pid_t start_child(struct shared *shared)
{
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		shared->result = pvclock_linux_enter(NULL, -1, may, shared);
		_exit(0);
	}
	return child;
}

static uint64_t ip_of(pid_t child)
{
	struct user_regs_struct regs;

	assert_int_equal(ptrace(PTRACE_GETREGS, child, NULL, &regs), 0);
	return regs.rip;
}

/* To `address`, at full speed: a stop on the way would be an interruption. */
static void run_to(pid_t child, uint64_t address)
{
	long word = ptrace(PTRACE_PEEKTEXT, child, (void *)address, NULL);
	struct user_regs_struct regs;
	int status;

	assert_int_equal(ptrace(PTRACE_POKETEXT, child, (void *)address, (void *)((word & ~0xffl) | 0xcc)), 0);
	assert_int_equal(ptrace(PTRACE_CONT, child, NULL, NULL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	if (!WIFSTOPPED(status))
		fail_msg("the child did not come to %#llx: status %d", (unsigned long long)address, status);
	assert_int_equal(ptrace(PTRACE_POKETEXT, child, (void *)address, (void *)word), 0);
	assert_int_equal(ptrace(PTRACE_GETREGS, child, NULL, &regs), 0);
	assert_int_equal(WSTOPSIG(status), SIGTRAP);
	/* The trap is an interruption, too: the kernel may have moved the thread to the sequence's abort already. */
	if (regs.rip == address + 1) {
		regs.rip = address;
		assert_int_equal(ptrace(PTRACE_SETREGS, child, NULL, &regs), 0);
	}
}

/* The instructions of pvclock_linux_run, from its beginning to SYSCALL. */
static size_t find_instructions(size_t offsets[16])
{
	const uint8_t *code = (const uint8_t *)(uintptr_t)pvclock_linux_run;
	/* leaq, cmpq, jne, movl, xorl, movl, syscall */
	static const uint8_t lengths[] = { 7, 4, 2, 5, 2, 5 };
	size_t count = 0, at = 0;

	for (; count < sizeof(lengths); at += lengths[count++])
		offsets[count] = at;
	offsets[count++] = at;
	assert_true(code[at] == 0x0f && code[at + 1] == 0x05); /* SYSCALL, or the list is wrong */
	return count;
}

static struct shared *new_shared(void)
{
	struct shared *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(shared != MAP_FAILED);
	shared->host = AWAKE;
	return shared;
}

static void p9_no_instruction_is_too_late(void **state)
{
	size_t offsets[16], count;

	(void)state;
	if (&__rseq_size == NULL || __rseq_size == 0)
		skip();
	count = find_instructions(offsets);
	for (size_t i = 0; i < count; i++) {
		struct shared *shared = new_shared();
		pid_t child = start_child(shared);
		int status;

		assert_int_equal(waitpid(child, &status, 0), child);
		run_to(child, (uint64_t)(uintptr_t)pvclock_linux_run + offsets[i]);
		assert_int_equal(shared->asked, 1);
		shared->host = SLEPT;
		assert_int_equal(ptrace(PTRACE_CONT, child, NULL, NULL), 0);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFEXITED(status));
		if (shared->result != -ESTALE || shared->asked != 2)
			fail_msg("stopped at instruction %zu, the thread asked %d times and entered: %d", i, shared->asked, shared->result);
		munmap(shared, 4096);
	}
}

/* Step by step the thread never gets there: each step is an interruption. Let go, it does. */
static void p9_an_interrupted_thread_asks_again(void **state)
{
	struct shared *shared = new_shared();
	pid_t child = start_child(shared);
	uint64_t syscall_at, ip;
	size_t offsets[16];
	int status;

	(void)state;
	if (&__rseq_size == NULL || __rseq_size == 0) {
		kill(child, SIGKILL);
		skip();
	}
	syscall_at = (uint64_t)(uintptr_t)pvclock_linux_run + offsets[find_instructions(offsets) - 1];
	assert_int_equal(waitpid(child, &status, 0), child);
	for (int step = 0; step < STEPS_MAX && shared->asked <= 3; step++) {
		assert_int_equal(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSTOPPED(status));
		ip = ip_of(child);
		assert_true(ip < syscall_at + 2 || ip > syscall_at + 3);
	}
	assert_true(shared->asked > 3);
	assert_int_equal(ptrace(PTRACE_CONT, child, NULL, NULL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(shared->result, -EBADF);
	munmap(shared, 4096);
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

static void the_answer_counts(void **state)
{
	struct shared *shared = new_shared();

	(void)state;
	assert_int_equal(pvclock_linux_enter(NULL, -1, never, NULL), -ESTALE);
	assert_int_equal(pvclock_linux_enter(NULL, -1, may, shared), -EBADF);
	assert_true(shared->asked >= 1);
	assert_ptr_equal(pvclock_os_linux()->ops->enter, pvclock_linux_enter);
	munmap(shared, 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p9_no_instruction_is_too_late),
		cmocka_unit_test(p9_an_interrupted_thread_asks_again),
		cmocka_unit_test(the_answer_counts),
	};

	return cmocka_run_group_tests_name("enter", tests, NULL, NULL);
}

#else
int main(void)
{
	return 77; /* no such sequence here */
}
#endif
