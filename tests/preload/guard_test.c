/* SPDX-License-Identifier: MIT */
/*
 * guard_test.c - P8, P10: a process that registers this machine's nested page, on the real kernel; only the file of the MSRs is a
 * plain one. Pinned memory stays where the host was told that it is, and whoever holds it is killed without a warning: the host is
 * told before the memory is anybody else's. Needs root, for where memory lies; else exit 77 with the reason.
 */
#define _GNU_SOURCE
#include "../../tools/preload/parent.h"
#include "../../tools/preload/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <dirent.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE 4096u
#define MANY 8192u /* pages, of which every other one is given back: something to compact */
#define WAIT_MS 5000

/* What the preload's other files give. */
_Thread_local unsigned int passing;

void say(const char *format, ...)
{
	(void)format;
}

/* --- this kernel ------------------------------------------------------------------------------------ */

static uint64_t read_at(const char *path, uint64_t offset)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t value = 0;

	if (fd < 0 || pread(fd, &value, sizeof(value), (off_t)offset) != (ssize_t)sizeof(value))
		value = UINT64_MAX;
	if (fd >= 0)
		close(fd);
	return value;
}

static uint64_t pfn_of(const void *memory)
{
	return read_at("/proc/self/pagemap", (uintptr_t)memory / PAGE * 8) & ((UINT64_C(1) << 55) - 1);
}

static long status_kb(const char *name)
{
	FILE *file = fopen("/proc/self/status", "r");
	char line[256];
	long kb = -1;

	while (file && fgets(line, sizeof(line), file))
		if (strncmp(line, name, strlen(name)) == 0)
			kb = strtol(line + strlen(name), NULL, 10);
	if (file)
		fclose(file);
	return kb;
}

static uint8_t *map_pages(size_t pages, int how)
{
	uint8_t *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, how | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(memory, MAP_FAILED);
	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i++)
		memory[i * PAGE] = (uint8_t)i;
	return memory;
}

/* --- pins ------------------------------------------------------------------------------------------------ */

static void a_page_is_pinned_once(void **state)
{
	uint8_t *memory = map_pages(4, MAP_PRIVATE);
	struct pvclock_reason reason = { 0 };
	long before = status_kb("VmPin:");
	struct pins *pins;
	uint64_t gpa = 0;

	(void)state;
	assert_int_equal(pins_open(&pins, &reason), 0);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(pins_locate(pins, memory + 64 * i, 32, &gpa, &reason), 0);
		assert_int_equal(gpa, pfn_of(memory) * PAGE + 64 * i);
	}
	assert_int_equal(status_kb("VmPin:") - before, 4);
	assert_int_equal(pins_locate(pins, memory + PAGE, PAGE, &gpa, &reason), 0);
	assert_int_equal(gpa, pfn_of(memory + PAGE) * PAGE);
	assert_int_equal(status_kb("VmPin:") - before, 8);
	/* over two pages: in one piece, or not at all */
	for (unsigned int i = 0; i < 3; i++) {
		int result = pins_locate(pins, memory + (i + 1) * PAGE - 4, 32, &gpa, &reason);

		assert_int_equal(result, pfn_of(memory + i * PAGE) + 1 == pfn_of(memory + (i + 1) * PAGE) ? 0 : -EFAULT);
	}
	pins_close(pins);
	munmap(memory, 4 * PAGE);
}

/* What the VMM has put in its place since is pinned, and named; and what another entry still names is nobody else's yet. */
static void other_memory_at_that_address_is_found(void **state)
{
	uint8_t *memory = map_pages(1, MAP_PRIVATE), *other;
	struct pvclock_reason reason;
	struct pins *pins;
	uint64_t was, is, gpa;

	(void)state;
	for (unsigned int i = 0; i < 100 && status_kb("VmPin:") != 0; i++) /* of the tests before */
		usleep(10000);
	assert_int_equal(pins_open(&pins, &reason), 0);
	assert_int_equal(pins_locate(pins, memory, 32, &was, &reason), 0);
	other = mmap(memory, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	assert_ptr_equal(other, memory);
	other[0] = 1;
	assert_int_equal(pins_locate(pins, memory, 32, &is, &reason), 0);
	assert_int_equal(is, pfn_of(memory) * PAGE);
	assert_int_not_equal(is, was);
	assert_int_equal(pins_locate(pins, memory + 64, 32, &gpa, &reason), 0); /* the same as before: what is there is pinned once */
	assert_int_equal(status_kb("VmPin:"), 8);
	pins_close(pins);
	munmap(memory, PAGE);
}

/* The kernel moves what is around it, and not it. */
static void p10_pinned_memory_does_not_move(void **state)
{
	int compact = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);
	uint8_t *memory = map_pages(MANY, MAP_PRIVATE);
	static uint64_t were[MANY];
	uint64_t gpa;
	struct pvclock_reason reason;
	unsigned int moved = 0, pinned_moved = 0;
	struct pins *pins;

	(void)state;
	if (compact < 0)
		skip();
	assert_int_equal(pins_open(&pins, &reason), 0);
	for (unsigned int i = 0; i < MANY; i += 2)
		madvise(memory + i * PAGE, PAGE, MADV_DONTNEED);
	for (unsigned int i = 1; i < MANY; i += 64) {
		assert_int_equal(pins_locate(pins, memory + i * PAGE, 32, &gpa, &reason), 0);
		were[i] = gpa / PAGE;
	}
	for (unsigned int i = 1; i < MANY; i += 2)
		were[i] = were[i] ? were[i] : pfn_of(memory + i * PAGE);
	for (unsigned int tries = 0; tries < 20 && moved == 0; tries++) {
		(void)!write(compact, "1", 1);
		for (unsigned int i = 1; i < MANY; i += 2) {
			bool elsewhere = pfn_of(memory + i * PAGE) != were[i];

			moved += elsewhere && i % 64 != 1;
			pinned_moved += elsewhere && i % 64 == 1;
		}
	}
	assert_int_equal(pinned_moved, 0);
	pins_close(pins);
	close(compact);
	munmap(memory, MANY * PAGE);
	print_message("%u of the others moved\n", moved);
	if (moved == 0)
		skip(); /* a test that could not have failed */
}

static void what_cannot_be_pinned_is_said(void **state)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	char path[] = "/var/tmp/pvclock-pin-XXXXXX";
	struct __user_cap_data_struct caps[2];
	struct pvclock_reason reason = { 0 };
	int fd = mkstemp(path), status;
	struct pins *pins;
	uint8_t *memory;
	uint64_t gpa;
	pid_t child;

	(void)state;
	assert_true(fd >= 0 && ftruncate(fd, PAGE) == 0);
	unlink(path);
	memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_int_equal(pins_open(&pins, &reason), 0);
	assert_true(pins_locate(pins, memory, 32, &gpa, &reason) < 0);
	assert_non_null(strstr(reason.text, "cannot be pinned"));
	pins_close(pins);
	munmap(memory, PAGE);
	close(fd);
	child = fork();
	if (child == 0) { /* who may not know where memory lies */
		memory = map_pages(1, MAP_PRIVATE);
		syscall(SYS_capget, &head, caps);
		caps[0].effective &= ~(1u << CAP_SYS_ADMIN);
		syscall(SYS_capset, &head, caps);
		_exit(pins_open(&pins, &reason) == 0 && pins_locate(pins, memory, 32, &gpa, &reason) == -EPERM &&
		      strstr(reason.text, "CAP_SYS_ADMIN") != NULL ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

/* --- the guard ----------------------------------------------------------------------------------------------- */

struct shared { /* with a process that will be killed */
	_Atomic int result; /* 1: not yet */
	struct pvclock_reason reason;
	unsigned int children, signals;
	uint64_t guest_gpa, private_pfn;
};

static unsigned int child_signals;

static void count_signal(int signal)
{
	(void)signal;
	child_signals++;
}

static struct shared *shared;
static struct pvclock_nested_page *page;
static char msr_path[64];

/* A VMM with a guest whose clock page is in its private memory. */
static void live_as_vmm(bool told)
{
	static struct machine_parent machine;
	struct pvclock_slope slope;
	struct pvclock_vcpu *vcpu;
	struct pvclock_vm *vm;
	uint8_t *memory = map_pages(1, MAP_PRIVATE);
	int result;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGCHLD, count_signal);
	result = machine_parent_open(&machine, msr_path, page, told, &shared->reason);
	if (result == 0) {
		pvclock_slope_from_khz(2000000, &slope);
		pvclock_vm_create(pvclock_os_linux(), &vm);
		pvclock_vm_add_memory(vm, (struct pvclock_gpa){ 0 }, PAGE, memory, 0);
		pvclock_vcpu_create(vm, 0, &vcpu);
		pvclock_vm_start(vm, pvclock_os_linux()->ops->read_tsc(NULL), 0, &slope);
		pvclock_parent_add(machine.parent, vm, pvclock_parent_generation(machine.parent));
		pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_SYSTEM_TIME, 128 | PVCLOCK_MSR_ENABLE);
		shared->guest_gpa = pfn_of(memory) * PAGE + 128;
		shared->private_pfn = pfn_of(memory);
	}
	shared->children = waitpid(-1, NULL, WNOHANG | (int)__WALL) == -1 && errno == ECHILD ? 0 : 1;
	shared->signals = child_signals;
	atomic_store(&shared->result, result);
	for (;;)
		pause();
}

static pid_t start_vmm(bool told)
{
	pid_t child;

	memset(shared, 0, sizeof(*shared));
	memset(page, 0, sizeof(*page));
	pvclock_nested_begin(page); /* what a host does when it is told of the page */
	atomic_store(&shared->result, 1);
	child = fork();
	if (child == 0)
		live_as_vmm(told);
	for (unsigned int i = 0; i < WAIT_MS && atomic_load(&shared->result) == 1; i++)
		usleep(1000);
	return child;
}

static void end_vmm(pid_t vmm)
{
	kill(vmm, SIGKILL);
	assert_int_equal(waitpid(vmm, NULL, 0), vmm);
}

/* The guard's process; 0: there is none. */
static pid_t find_guard(void)
{
	DIR *folder = opendir("/proc");
	struct dirent *entry;
	pid_t found = 0;

	while (folder && (entry = readdir(folder)) != NULL) {
		char path[300], name[32] = "", link[64] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		file = fopen(path, "r");
		if (file == NULL)
			continue;
		if (!fgets(name, sizeof(name), file) || strcmp(name, "pvclock-guard\n") != 0)
			name[0] = '\0';
		fclose(file);
		if (!name[0])
			continue;
		for (unsigned int fd = 3; fd < 1024; fd++) { /* ours: it has our file */
			snprintf(path, sizeof(path), "/proc/%s/fd/%u", entry->d_name, fd);
			if (readlink(path, link, sizeof(link) - 1) > 0 && strncmp(link, msr_path, strlen(msr_path)) == 0)
				found = (pid_t)strtol(entry->d_name, NULL, 10);
		}
	}
	if (folder)
		closedir(folder);
	return found;
}

static unsigned int count_fds(pid_t pid)
{
	unsigned int count = 0;
	struct dirent *entry;
	char path[64];
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	folder = opendir(path);
	while (folder && (entry = readdir(folder)) != NULL)
		count += entry->d_name[0] != '.';
	if (folder)
		closedir(folder);
	return count;
}

static bool no_guard(void)
{
	return find_guard() == 0;
}

static bool withdrawn(void)
{
	return read_at(msr_path, PVCLOCK_MSR_NESTED) == 0 && read_at(msr_path, PVCLOCK_MSR_NESTED_CONTROL) == 0;
}

static bool wait_for(bool (*what)(void))
{
	for (unsigned int i = 0; i < WAIT_MS && !what(); i++)
		usleep(1000);
	return what();
}

/* Killed, its page is taken away from the host, and until then its memory, which the host may write, is nobody's. */
static void p10_a_vmm_that_is_killed_leaves_nothing_to_the_host(void **state)
{
	const uint64_t control = PVCLOCK_CONTROL_ENABLE | 0x55, page_gpa = pfn_of(page) * PAGE;
	pid_t vmm = start_vmm(false), guard;
	struct pvclock_nested_entry entry;
	int fd = open(msr_path, O_RDWR | O_CLOEXEC);

	(void)state;
	assert_string_equal(shared->reason.text, "");
	assert_int_equal(atomic_load(&shared->result), 0);
	assert_int_equal(read_at(msr_path, PVCLOCK_MSR_NESTED), page_gpa | PVCLOCK_MSR_ENABLE);
	assert_true(pvclock_nested_look(page, 0, &entry));
	assert_int_equal(entry.gpa, shared->guest_gpa);
	assert_int_equal(pwrite(fd, &control, sizeof(control), PVCLOCK_MSR_NESTED_CONTROL), sizeof(control));
	close(fd);
	/* the VMM knows of no child; the guard has three descriptors, and a session of its own */
	assert_int_equal(shared->children + shared->signals, 0);
	guard = find_guard();
	assert_int_not_equal(guard, 0);
	assert_int_equal(count_fds(guard), 3);
	assert_int_equal(getsid(guard) != getsid(0) && getpgid(guard) != getpgid(0), 1);
	for (int number = 1; number < 32; number++)
		if (number != SIGKILL && number != SIGSTOP)
			kill(guard, number);
	usleep(20000);
	assert_int_equal(kill(guard, 0), 0);
	assert_false(withdrawn());
	/* held back: the VMM is gone, and its page is still anonymous memory that nobody has mapped (admin-guide/mm/pagemap.rst) */
	kill(guard, SIGSTOP);
	end_vmm(vmm);
	usleep(50000);
	assert_false(withdrawn());
	if (access("/proc/kpageflags", R_OK) == 0) {
		assert_int_equal(read_at("/proc/kpageflags", shared->private_pfn * 8) >> 12 & 1, 1);
		assert_int_equal(read_at("/proc/kpagecount", shared->private_pfn * 8), 0);
	}
	kill(guard, SIGCONT);
	assert_true(wait_for(withdrawn));
	assert_true(wait_for(no_guard));
}

static void one_process_has_it_at_a_time(void **state)
{
	struct pvclock_reason reason = { 0 };
	pid_t first = start_vmm(false), second;
	uint64_t value = read_at(msr_path, PVCLOCK_MSR_NESTED);
	int fd;

	(void)state;
	assert_int_equal(atomic_load(&shared->result), 0);
	assert_int_equal(guard_open_msr(msr_path, &reason), -EBUSY);
	assert_non_null(strstr(reason.text, "another process"));
	assert_int_equal(read_at(msr_path, PVCLOCK_MSR_NESTED), value);
	/* who comes as the first one goes, gets it: its guard is waited for */
	end_vmm(first);
	second = start_vmm(false);
	assert_int_equal(atomic_load(&shared->result), 0);
	end_vmm(second);
	assert_true(wait_for(no_guard));
	fd = guard_open_msr(msr_path, &reason);
	assert_true(fd >= 0);
	close(fd);
}

/* For measuring: the host tells, and reaches no page. */
static void told_alone_names_nothing(void **state)
{
	struct pvclock_nested_entry entry;
	pid_t vmm = start_vmm(true);

	(void)state;
	assert_int_equal(atomic_load(&shared->result), 0);
	assert_false(pvclock_nested_look(page, 0, &entry));
	assert_int_equal(read_at(msr_path, PVCLOCK_MSR_NESTED), pfn_of(page) * PAGE | PVCLOCK_MSR_ENABLE);
	end_vmm(vmm);
	assert_true(wait_for(no_guard));
}

/* A VMM whose filter may kill it for a clone is not given a guard; and one without the file is told how to get it. */
static void what_is_missing_is_said(void **state)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	const struct sock_fprog filter = { .len = 1, .filter = &allow };
	struct pvclock_reason reason = { 0 };
	struct machine_parent machine = { 0 };
	pid_t child;
	int status;

	(void)state;
	child = fork();
	if (child == 0) {
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
		_exit(machine_parent_open(&machine, msr_path, page, false, &reason) == -EPERM &&
		      strstr(reason.text, "seccomp") != NULL ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_true(no_guard());
	assert_int_equal(machine_parent_open(&machine, "/nowhere/msr", page, false, &reason), -ENOENT);
	assert_non_null(strstr(reason.text, "modprobe msr"));
	/* a host that offers it and does not write: the file is free again when this process ends, and registers nothing for good */
	memset(page, 0, sizeof(*page));
	child = fork();
	if (child == 0)
		_exit(machine_parent_open(&machine, msr_path, page, false, &reason) == -ENOTSUP ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_true(wait_for(withdrawn) && wait_for(no_guard));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_page_is_pinned_once),
		cmocka_unit_test(other_memory_at_that_address_is_found),
		cmocka_unit_test(p10_pinned_memory_does_not_move),
		cmocka_unit_test(what_cannot_be_pinned_is_said),
		cmocka_unit_test(p10_a_vmm_that_is_killed_leaves_nothing_to_the_host),
		cmocka_unit_test(one_process_has_it_at_a_time),
		cmocka_unit_test(told_alone_names_nothing),
		cmocka_unit_test(what_is_missing_is_said),
	};
	uint8_t *memory = map_pages(1, MAP_PRIVATE);
	struct pvclock_reason reason = { 0 };
	struct pins *pins;
	int result;

	if (prctl(PR_GET_SECCOMP) != 0) {
		printf("1..0 # SKIP a seccomp filter is in force here\n");
		return 77;
	}
	if (pfn_of(memory) == 0 || pins_open(&pins, &reason) != 0) {
		printf("1..0 # SKIP %s\n", reason.text[0] ? reason.text : "where memory lies is told to root alone");
		return 77;
	}
	pins_close(pins);
	munmap(memory, PAGE);
	shared = (struct shared *)(void *)map_pages(1, MAP_SHARED);
	page = (struct pvclock_nested_page *)(void *)map_pages(1, MAP_SHARED);
	strcpy(msr_path, "/tmp/pvclock-msr-XXXXXX");
	close(mkstemp(msr_path));
	result = cmocka_run_group_tests_name("guard", tests, NULL, NULL);
	unlink(msr_path);
	return result;
}
