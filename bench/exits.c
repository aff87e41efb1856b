/* SPDX-License-Identifier: MIT */
/*
 * exits.c - P11: what the preload costs a VMM for exits that are not the clock's. Two processes run the same guest,
 * which writes to a port without an end: one as it is, one under the preload. They take turns, on one CPU, so whatever
 * disturbs this machine meets both.
 */
#define _GNU_SOURCE
#include "bench.h"
#include "gate.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXITS 500 /* a turn */
#define TURNS 801
#define NAME "preload_io_exit_per_plain"
#define MEMORY_SIZE 0x10000u
#define CODE_GPA 0x1000u
#define PRELOAD_NAME "libpvclock-preload.so"

/*
 * A hundredth is the question whether the host has slept. Five more are what a lock taken or a page missed at each exit
 * would be.
 */
static const struct limit limit = { 1.03, 1.10 };

static const uint8_t code[] = { 0xe6, 0x80, 0xeb, 0xfc }; /* 1: out %al, $0x80; jmp 1b */

/* --- a worker -------------------------------------------------------------------------------------- */

struct guest {
	int fd;
	struct kvm_run *run;
};

/* NULL, or what this machine would not do. Descriptors and memory are the process's to clean up. */
static const char *guest_create(struct guest *guest)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY_SIZE };
	struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 2 };
	int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm_fd, size;
	struct kvm_sregs sregs;
	void *memory, *run;

	if (kvm_fd < 0)
		return "opening /dev/kvm";
	vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm_fd < 0 || size <= 0 || memory == MAP_FAILED)
		return "KVM_CREATE_VM";
	memcpy((uint8_t *)memory + CODE_GPA, code, sizeof(code));
	region.userspace_addr = (uintptr_t)memory;
	if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return "KVM_SET_USER_MEMORY_REGION";
	guest->fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	if (guest->fd < 0)
		return "KVM_CREATE_VCPU";
	run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, guest->fd, 0);
	if (run == MAP_FAILED)
		return "mapping a vCPU";
	guest->run = run;
	if (ioctl(guest->fd, KVM_GET_SREGS, &sregs) < 0)
		return "KVM_GET_SREGS";
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(guest->fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(guest->fd, KVM_SET_REGS, &regs) < 0)
		return "setting a vCPU's registers";
	return NULL;
}

static bool preload_is_here(void)
{
	FILE *file = fopen("/proc/self/maps", "r");
	char line[PATH_MAX + 100];
	bool here = false;

	while (file && fgets(line, sizeof(line), file))
		here = here || strstr(line, PRELOAD_NAME);
	if (file)
		fclose(file);
	return here;
}

/* Says why not, or nothing; then does a turn for each byte that comes, and answers with what an exit took. */
int bench_exits_worker(void)
{
	struct guest guest = { 0 };
	const char *lacking = guest_create(&guest);
	char why[64] = "", byte;

	if (!lacking && getenv("LD_PRELOAD") && !preload_is_here())
		lacking = "loading the preload";
	if (lacking)
		snprintf(why, sizeof(why), "%s", lacking);
	if (write(STDOUT_FILENO, why, sizeof(why)) != (ssize_t)sizeof(why))
		return 1;
	while (!lacking && read(STDIN_FILENO, &byte, 1) == 1) {
		double began = bench_ticks(), ticks;

		for (unsigned int i = 0; i < EXITS; i++)
			if (ioctl(guest.fd, KVM_RUN, 0) < 0 || guest.run->exit_reason != KVM_EXIT_IO)
				return 1;
		ticks = (bench_ticks() - began) / EXITS;
		if (write(STDOUT_FILENO, &ticks, sizeof(ticks)) != (ssize_t)sizeof(ticks))
			return 1;
	}
	return 0;
}

/* --- the one that asks ---------------------------------------------------------------------------------- */

struct worker {
	pid_t pid;
	int to, from;
	char why[64];
};

static bool read_all(int fd, void *bytes, size_t size)
{
	size_t got = 0;
	ssize_t one = 1;

	while (got < size && one > 0) {
		one = read(fd, (char *)bytes + got, size - got);
		got += one > 0 ? (size_t)one : 0;
	}
	return got == size;
}

static void be_worker(const char *preload, int from, int to)
{
	if (preload) {
		setenv("LD_PRELOAD", preload, 1);
		setenv("PVCLOCK_MODE", "own", 1);
	} else {
		unsetenv("LD_PRELOAD");
	}
	dup2(from, STDIN_FILENO);
	dup2(to, STDOUT_FILENO);
	execl("/proc/self/exe", "pvclock-bench", "--exits-worker", (char *)NULL);
	_exit(127);
}

static bool worker_start(struct worker *worker, const char *preload)
{
	int to[2], from[2];

	*worker = (struct worker){ .pid = -1, .to = -1, .from = -1 };
	if (pipe2(to, O_CLOEXEC))
		return false;
	if (pipe2(from, O_CLOEXEC)) {
		close(to[0]);
		close(to[1]);
		return false;
	}
	fflush(stdout);
	worker->pid = fork();
	if (worker->pid == 0)
		be_worker(preload, to[0], from[1]);
	close(to[0]);
	close(from[1]);
	worker->to = to[1];
	worker->from = from[0];
	if (worker->pid > 0 && read_all(worker->from, worker->why, sizeof(worker->why)) && worker->why[0] == '\0')
		return true;
	if (worker->why[0] == '\0')
		snprintf(worker->why, sizeof(worker->why), "starting a process");
	return false;
}

static void worker_stop(struct worker *worker)
{
	if (worker->to >= 0)
		close(worker->to);
	if (worker->from >= 0)
		close(worker->from);
	if (worker->pid > 0)
		waitpid(worker->pid, NULL, 0);
}

static bool turn(struct worker *worker, double *ticks)
{
	return write(worker->to, "x", 1) == 1 && read_all(worker->from, ticks, sizeof(*ticks));
}

/* Beside this program's folder in its build, or named. */
static bool find_preload(char path[PATH_MAX])
{
	const char *named = getenv("PVCLOCK_PRELOAD");
	char self[PATH_MAX - 64], candidate[PATH_MAX], *slash;
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (named)
		return realpath(named, path) != NULL;
	self[length > 0 ? length : 0] = '\0';
	slash = strrchr(self, '/');
	if (!slash)
		return false;
	*slash = '\0';
	snprintf(candidate, sizeof(candidate), "%s/../tools/preload/" PRELOAD_NAME, self);
	return realpath(candidate, path) != NULL;
}

static void stay_on_one_cpu(cpu_set_t *before)
{
	cpu_set_t one;
	int cpu = sched_getcpu();

	sched_getaffinity(0, sizeof(*before), before);
	CPU_ZERO(&one);
	CPU_SET(cpu < 0 ? 0 : (unsigned int)cpu, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

static void bench_exit(struct bench *bench)
{
	static double plain[TURNS], preloaded[TURNS], ratio[TURNS];
	struct worker as_it_is = { .to = -1, .from = -1, .pid = -1 }, under = as_it_is;
	char preload[PATH_MAX];
	cpu_set_t before;
	bool good;

	if (!find_preload(preload)) {
		bench_skip(bench, NAME, limit, PRELOAD_NAME " is not in this build; name it in PVCLOCK_PRELOAD");
		return;
	}
	stay_on_one_cpu(&before);
	good = worker_start(&as_it_is, NULL) && worker_start(&under, preload);
	if (!good)
		bench_skip(bench, NAME, limit, "%s failed", as_it_is.why[0] ? as_it_is.why : under.why);
	for (unsigned int i = 0; good && i < TURNS; i++) {
		/* who is first takes turns too */
		good = i % 2 ? turn(&as_it_is, &plain[i]) && turn(&under, &preloaded[i])
			     : turn(&under, &preloaded[i]) && turn(&as_it_is, &plain[i]);
		ratio[i] = preloaded[i] / plain[i];
		if (!good)
			bench_figure(bench, NAME, 1.0 / 0.0, limit, "a guest ended");
	}
	if (good) {
		double value = bench_median(ratio, TURNS);

		bench_figure(bench, NAME, value, limit, "%.0f to %.0f ticks an exit, medians of %d turns", bench_median(preloaded, TURNS),
			     bench_median(plain, TURNS), TURNS);
	}
	worker_stop(&as_it_is);
	worker_stop(&under);
	sched_setaffinity(0, sizeof(before), &before);
}

void bench_exits(struct bench *bench)
{
	bench_exit(bench);
	bench_gate(bench);
}
