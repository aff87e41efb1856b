/* SPDX-License-Identifier: MIT */
/*
 * Lives of VMs and vCPUs: one that comes late, a reset, an end in any order, many, two at once, and what a child
 * process must not do.
 */
#include "qemu_like.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <dirent.h>
#include <unistd.h>

void a_vcpu_is_plugged_in(struct like *like)
{
	struct pvclock_snapshot first, late, after;
	struct plain_stop stop;
	struct plain plain;
	uint64_t tsc;

	plain_start(&plain, 1);
	like_register(like, &plain, 1);
	first = plain_page(&plain, 0);
	tsc = plain_rdtsc(&plain, 0);
	plain_add_vcpu(&plain, 1);
	plain_set_msr(&plain, 1, 0x10, 1); /* QEMU's reset of a vCPU */
	plain_set_msr(&plain, 1, PVCLOCK_MSR_SYSTEM_TIME_OLD, 0);
	check(like, plain_rdtsc(&plain, 1) > tsc, "a vCPU that joins a running VM counts as the others do");
	like_register(like, &plain, 2);
	after = plain_page(&plain, 0);
	late = plain_page(&plain, 1);
	check(like, like_same_line(like, &first.line, &after.line, tsc), "the clock of the one that was there stays");
	check(like, like_same_line(like, &first.line, &late.line, tsc), "and the other one's is the same");
	check(like, (after.flags & PVCLOCK_TSC_STABLE) && (late.flags & PVCLOCK_TSC_STABLE), "both stable: flags %u, %u", after.flags,
	      late.flags);
	plain_stop(&plain, &stop);
	check(like, stop.tsc[0] == stop.tsc[1], "a stop tells their counters alike");
	plain_go_on(&plain, stop.clock.clock);
	plain_rdtsc(&plain, 0);
	plain_rdtsc(&plain, 1);
	after = plain_page(&plain, 0);
	late = plain_page(&plain, 1);
	check(like, like_same_line(like, &first.line, &after.line, tsc) && like_same_line(like, &first.line, &late.line, tsc),
	      "and what it ends changes neither");
	plain_destroy(&plain);
}

/* A VMM that sets counters by their own attribute, while its guest may run: the clock stays what it is. */
void a_counter_is_set_by_attribute(struct like *like)
{
	uint64_t offset = 0;
	struct kvm_device_attr attribute = { .group = 0, .attr = 0, .addr = (uintptr_t)&offset }; /* KVM_VCPU_TSC_OFFSET */
	struct pvclock_snapshot before, after;
	struct plain plain;

	if (!like->honoured || !like->own)
		return live_note("counters by attribute: nothing to see where offsets are not honoured, or the kernel publishes");
	plain_start(&plain, 1);
	like_register(like, &plain, 1);
	before = plain_page(&plain, 0);
	plain_ioctl(plain.vcpus[0].fd, KVM_GET_DEVICE_ATTR, &attribute);
	offset += 1000000;
	check(like, plain_ioctl(plain.vcpus[0].fd, KVM_SET_DEVICE_ATTR, &attribute) == 0, "a counter is set by its attribute");
	after = plain_page(&plain, 0);
	before.line.tsc += 1000000;
	check(like, like_same_line(like, &before.line, &after.line, 0), "and the line followed at once");
	plain_destroy(&plain);
}

void a_reset_registers_anew(struct like *like)
{
	struct pvclock_snapshot page, other;
	struct plain_stop stop;
	struct plain plain;
	uint64_t before, tsc;

	plain_start(&plain, 2);
	like_register(like, &plain, 2);
	tsc = plain_rdtsc(&plain, 0);
	page = plain_page(&plain, 0);
	before = pvclock_line_ns(&page.line, tsc);
	plain_stop(&plain, &stop);
	memset(plain.memory + PLAIN_PAGE(0), 0, 2 * 64); /* the firmware's memory test, say */
	for (unsigned int i = 0; i < 2; i++) {
		plain_set_msr(&plain, i, 0x10, 1);
		plain_set_msr(&plain, i, PVCLOCK_MSR_WALL_CLOCK_OLD, 0);
		plain_set_msr(&plain, i, PVCLOCK_MSR_SYSTEM_TIME_OLD, 0);
	}
	plain_go_on(&plain, stop.clock.clock);
	tsc = plain_rdtsc(&plain, 0);
	plain_rdtsc(&plain, 1);
	check(like, plain_page(&plain, 0).line.mul == 0 && plain_page(&plain, 1).line.mul == 0,
	      "a guest that was reset has no page until it says where");
	if (like->honoured)
		check(like, tsc < 1ull << 34, "its counters began again: %llu", (unsigned long long)tsc);
	like_register(like, &plain, 2);
	tsc = plain_rdtsc(&plain, 0);
	page = plain_page(&plain, 0);
	other = plain_page(&plain, 1);
	check(like, page.line.mul && like_same_line(like, &page.line, &other.line, tsc), "registered anew, both vCPUs have one line");
	check(like, page.flags & PVCLOCK_TSC_STABLE, "a stable one: flags %u", page.flags);
	check(like, pvclock_line_ns(&page.line, tsc) - before < 60000000000ull, "and it went on from where it was, by %lld ns",
	      (long long)(pvclock_line_ns(&page.line, tsc) - before));

	/* A VMM that says nothing of the clock: it goes on all the same. */
	before = pvclock_line_ns(&page.line, plain_rdtsc(&plain, 0));
	for (unsigned int i = 0; i < 2; i++) {
		plain_set_msr(&plain, i, 0x10, 1);
		plain_set_msr(&plain, i, PVCLOCK_MSR_SYSTEM_TIME_OLD, 0);
	}
	like_register(like, &plain, 2);
	tsc = plain_rdtsc(&plain, 0);
	page = plain_page(&plain, 0);
	check(like, pvclock_line_ns(&page.line, tsc) > before && pvclock_line_ns(&page.line, tsc) - before < 60000000000ull,
	      "a reset without a word of the clock: it went on by %lld ns", (long long)(pvclock_line_ns(&page.line, tsc) - before));
	plain_destroy(&plain);
}

/* --- the end ------------------------------------------------------------------------------------------------- */

static size_t open_descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	size_t count = 0;

	while (folder && readdir(folder))
		count++;
	if (folder)
		closedir(folder);
	return count;
}

/* vCPUs that this process still has mapped: each keeps its VM alive in the kernel. */
static size_t mapped_vcpus(void)
{
	FILE *file = fopen("/proc/self/maps", "r");
	char line[512];
	size_t count = 0;

	while (file && fgets(line, sizeof(line), file))
		count += strstr(line, "kvm-vcpu") != NULL;
	if (file)
		fclose(file);
	return count;
}

/* The 24 orders of a VM, its /dev/kvm and its two vCPUs. */
static void one_vcpu_goes(struct like *like)
{
	struct pvclock_snapshot before, after;
	struct plain_stop stop;
	struct plain plain;

	plain_start(&plain, 2);
	like_register(like, &plain, 2);
	before = plain_page(&plain, 0);
	close(plain.vcpus[1].fd);
	plain.vcpus[1].fd = -1;
	memset(plain.memory + PLAIN_PAGE(1), 0, 64);
	for (unsigned int i = 0; i < 2; i++) {
		plain_stop(&plain, &stop);
		plain_go_on(&plain, stop.clock.clock);
		plain_rdtsc(&plain, 0);
	}
	after = plain_page(&plain, 0);
	check(like, like_same_line(like, &before.line, &after.line, stop.tsc[0]), "a VM that lost a vCPU keeps its clock");
	check(like, plain_page(&plain, 1).line.mul == 0, "and leaves that vCPU's page alone");
	plain_destroy(&plain);
}

void descriptors_close_in_any_order(struct like *like)
{
	size_t before = open_descriptors(), after;
	unsigned int works = 0;

	for (unsigned int order = 0; order < 24; order++) {
		unsigned int left = 4, number = order;
		struct plain plain;
		int fds[4], size;

		plain_start(&plain, order % 6 == 0 ? 2 : 0); /* learning the host's slope takes its time with each VM that has vCPUs */
		if (plain.vcpus[0].fd < 0)
			plain.vcpus[0].fd = plain.vcpus[1].fd = -2;
		size = plain_ioctl(plain.kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
		fds[0] = plain.vm_fd;
		fds[1] = plain.vcpus[0].fd;
		fds[2] = plain.kvm_fd;
		fds[3] = plain.vcpus[1].fd;
		while (left > 0) {
			unsigned int next = number % left;
			bool was_vm = fds[next] == plain.vm_fd;

			number /= left;
			close(fds[next]);
			fds[next] = fds[--left];
			/* a vCPU outlives its VM's descriptor */
			if (was_vm && order == 0)
				works += plain_rdtsc(&plain, 1) != 0;
		}
		for (unsigned int i = 0; i < 2; i++)
			if (plain.vcpus[i].run)
				munmap(plain.vcpus[i].run, (size_t)size);
		munmap(plain.memory, PLAIN_MEMORY);
	}
	one_vcpu_goes(like);
	after = open_descriptors();
	check(like, works == 1, "a vCPU runs on when its VM's descriptor is closed");
	check(like, after == before, "24 orders of closing leave no descriptor: %zu, %zu before", after, before);
}

/* --- many, and two at once --------------------------------------------------------------------------------------- */

#define VMS 200
#define VMS_WITH_VCPUS 8 /* of the threads' each */
#define THREADS 4

struct worker {
	struct like *like;
	unsigned int number, right;
};

/* A few VMs one after another, each with a clock that lives through a stop. */
static void *live_and_die(void *argument)
{
	struct worker *worker = argument;

	for (unsigned int i = 0; i < VMS_WITH_VCPUS; i++) {
		struct pvclock_snapshot before, after;
		struct plain_stop stop;
		struct plain plain;
		uint64_t tsc;

		plain_start(&plain, 1);
		plain_wrmsr(&plain, 0, PVCLOCK_MSR_SYSTEM_TIME, PLAIN_PAGE(0) | 1);
		if (!worker->like->own)
			usleep(150000);
		tsc = plain_rdtsc(&plain, 0);
		before = plain_page(&plain, 0);
		plain_stop(&plain, &stop);
		usleep(1000 * (worker->number + 1));
		plain_go_on(&plain, stop.clock.clock);
		plain_rdtsc(&plain, 0);
		after = plain_page(&plain, 0);
		worker->right += stop.tsc[0] > tsc && before.line.mul && after.line.mul && after.version != before.version &&
				 llabs((long long)(pvclock_line_ns(&after.line, tsc + 1000000000) -
						   pvclock_line_ns(&before.line, tsc + 1000000000))) <= !worker->like->own;
		plain_destroy(&plain);
	}
	return NULL;
}

static unsigned int run_threads(struct like *like, unsigned int count)
{
	struct worker workers[THREADS];
	pthread_t threads[THREADS];
	unsigned int right = 0;

	for (unsigned int i = 0; i < count; i++) {
		workers[i] = (struct worker){ like, i, 0 };
		pthread_create(&threads[i], NULL, live_and_die, &workers[i]);
	}
	for (unsigned int i = 0; i < count; i++) {
		pthread_join(threads[i], NULL);
		right += workers[i].right;
	}
	return right;
}

void two_threads_have_a_vm_each(struct like *like)
{
	unsigned int right = run_threads(like, 2);

	check(like, right == 2 * VMS_WITH_VCPUS, "two threads with a VM each: %u of %u clocks were kept", right, 2 * VMS_WITH_VCPUS);
}

void many_vms_leave_nothing(struct like *like)
{
	size_t descriptors, heap;
	unsigned int right;

	right = run_threads(like, THREADS); /* whatever is made once is made */
	descriptors = open_descriptors();
	heap = mallinfo2().uordblks;
	right += run_threads(like, THREADS);
	for (unsigned int i = 0; i < VMS - 2 * THREADS * VMS_WITH_VCPUS; i++) {
		struct plain plain;

		plain_create(&plain);
		plain_memory(&plain, 1, 0, 0x100000, 0x1000, plain.memory);
		plain_destroy(&plain);
	}
	check(like, right == 2 * THREADS * VMS_WITH_VCPUS, "%u of %u VMs kept their clocks", right, 2 * THREADS * VMS_WITH_VCPUS);
	check(like, open_descriptors() == descriptors, "%u VMs leave no descriptor", VMS);
	check(like, mapped_vcpus() == 0, "and no vCPU: %zu", mapped_vcpus());
	check(like, mallinfo2().uordblks <= heap + 4096, "and no memory: %zd bytes more", (ssize_t)(mallinfo2().uordblks - heap));
}

/* --- others ------------------------------------------------------------------------------------------------------- */

struct busy {
	struct plain *plain;
	_Atomic bool stop;
	pthread_barrier_t turn;
	pthread_t thread;
};

static void *ask_without_end(void *argument)
{
	struct busy *busy = argument;

	while (!atomic_load(&busy->stop))
		plain_get_msr(busy->plain, 0, 0x10);
	return NULL;
}

static void close_all(const struct plain *plain)
{
	close(plain->vcpus[0].fd);
	close(plain->vm_fd);
	close(plain->kvm_fd);
}

static bool still_kept(struct like *like, struct plain *plain, const struct pvclock_line *first)
{
	struct pvclock_snapshot after;
	struct plain_stop stop, again;

	plain_stop(plain, &stop);
	usleep(5000);
	plain_stop(plain, &again);
	plain_go_on(plain, stop.clock.clock);
	plain_rdtsc(plain, 0);
	after = plain_page(plain, 0);
	return again.clock.clock == stop.clock.clock && like_same_line(like, first, &after.line, stop.tsc[0]);
}

/* QEMU starts scripts and helpers: a child closes its copies of all descriptors, and the VM is not the child's. */
void children_leave_the_parent_alone(struct like *like)
{
	struct busy busy = { 0 };
	struct plain plain;
	struct pvclock_line first;
	unsigned int died = 0;
	int status;
	pid_t pid;

	plain_start(&plain, 1);
	like_register(like, &plain, 1);
	first = plain_page(&plain, 0).line;
	busy.plain = &plain;
	pthread_create(&busy.thread, NULL, ask_without_end, &busy);
	for (unsigned int i = 0; i < 100; i++) {
		fflush(stdout);
		pid = fork();
		if (pid == 0) {
			struct kvm_clock_data clock;

			alarm(5); /* a lock that another thread held at the fork is held for ever here */
			status = plain_ioctl(plain.vm_fd, KVM_GET_CLOCK, &clock) == 0 || errno != EIO; /* KVM: the VM is another process's */
			close_all(&plain);
			_exit(status);
		}
		waitpid(pid, &status, 0);
		died += status != 0;
	}
	atomic_store(&busy.stop, true);
	pthread_join(busy.thread, NULL);
	check(like, died == 0, "100 children close what they inherited: %u hang or die", died);
	check(like, still_kept(like, &plain, &first), "and the parent's clock is kept");
	pid = vfork(); /* shares the parent's memory, not its descriptors */
	if (pid == 0) {
		close_all(&plain);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	check(like, status == 0 && still_kept(like, &plain, &first), "and through a vfork");
	plain_destroy(&plain);
}

static void *spin(void *argument)
{
	struct busy *busy = argument;

	while (!atomic_load(&busy->stop))
		if (plain_ioctl(busy->plain->vcpus[0].fd, KVM_RUN, NULL) < 0 && errno != EINTR)
			break;
	return NULL;
}

static void nothing(int signal)
{
	(void)signal;
}

static void spin_stop(struct busy *busy)
{
	atomic_store(&busy->stop, true);
	busy->plain->vcpus[0].run->immediate_exit = 1;
	pthread_kill(busy->thread, SIGUSR1);
	pthread_join(busy->thread, NULL);
	busy->plain->vcpus[0].run->immediate_exit = 0;
}

/* A vCPU that the other thread ran, and this one, and the other one again, and this one without an end: here it is to be found. */
static void *run_and_spin(void *argument)
{
	struct busy *busy = argument;

	plain_rdtsc(busy->plain, 0);
	pthread_barrier_wait(&busy->turn);
	pthread_barrier_wait(&busy->turn);
	plain_aim_spin(busy->plain, 0);
	return spin(busy);
}

/* A clock that runs is told as it runs, and nothing is stopped for it; set, it is set. */
static void ask_while_it_runs(struct like *like, struct plain *plain)
{
	struct kvm_clock_data first = { 0 }, later = { 0 }, wanted = { 0 };
	struct pvclock_snapshot before = plain_page(plain, 0), after;
	int64_t begun, moved, unused;
	uint64_t tick;

	like_forget_log(like);
	plain_ioctl(plain->vm_fd, KVM_GET_CLOCK, &first);
	usleep(5000);
	plain_ioctl(plain->vm_fd, KVM_GET_CLOCK, &later);
	check(like, later.clock - first.clock >= 5000000 && later.clock - first.clock < 5000000000, "asked twice, it went on by %lld ns",
	      (long long)(later.clock - first.clock));
	check(like, like_event(like, "pause", NULL, &unused) == 0 && plain_page(plain, 0).version == before.version,
	      "and nothing was stopped for it");
	wanted.clock = later.clock + 5000000000;
	begun = harness_now_ms();
	check(like, plain_ioctl(plain->vm_fd, KVM_SET_CLOCK, &wanted) == 0 && harness_now_ms() - begun < 1500, "it can be set: in %lld ms",
	      (long long)(harness_now_ms() - begun));
	usleep(20000); /* the kernel writes its page when the vCPU enters */
	after = plain_page(plain, 0);
	tick = after.line.tsc + 1000000;
	moved = (int64_t)(pvclock_line_ns(&after.line, tick) - pvclock_line_ns(&before.line, tick));
	check(like, moved > 3500000000 && moved <= 5000000000, "and moved by %lld ns", (long long)moved);
}

/* A vCPU is plugged in while another one is in the guest and does not come out by itself. */
void a_running_vcpu_is_got_out(struct like *like)
{
	struct sigaction action = { .sa_handler = nothing };
	struct busy busy = { 0 };
	struct plain plain = { 0 };
	struct pvclock_snapshot first, late;
	int64_t begun, unused;
	uint64_t tsc;

	sigaction(SIGUSR1, &action, NULL);
	busy.plain = &plain;
	plain_start(&plain, 1);
	like_register(like, &plain, 1);
	pthread_barrier_init(&busy.turn, NULL, 2);
	pthread_create(&busy.thread, NULL, run_and_spin, &busy);
	pthread_barrier_wait(&busy.turn);
	plain_rdtsc(&plain, 0);
	pthread_barrier_wait(&busy.turn);
	usleep(300000);
	ask_while_it_runs(like, &plain);
	first = plain_page(&plain, 0);
	like_forget_log(like);
	begun = harness_now_ms();
	plain_add_vcpu(&plain, 1);
	plain_set_msr(&plain, 1, 0x10, 1);
	tsc = plain_rdtsc(&plain, 1);
	plain_wrmsr(&plain, 1, PVCLOCK_MSR_SYSTEM_TIME, PLAIN_PAGE(1) | 1);
	plain_rdtsc(&plain, 1);
	late = plain_page(&plain, 1);
	check(like, harness_now_ms() - begun < 1500, "the vCPU that joins waits %lld ms", (long long)(harness_now_ms() - begun));
	check(like, like_same_line(like, &first.line, &late.line, tsc), "and has the others' clock");
	if (!like->own)
		check(like, like_event(like, "resume", NULL, &unused) >= 1, "which KVM was made to keep");
	like_forget_log(like);
	begun = harness_now_ms();
	plain_add_vcpu(&plain, 2); /* nor is anything said of its counter */
	plain_rdtsc(&plain, 2);
	check(like, harness_now_ms() - begun < 1500, "one more waits %lld ms", (long long)(harness_now_ms() - begun));
	if (!like->own)
		check(like, like_event(like, "resume", NULL, &unused) >= 1, "and KVM keeps the clock again");
	spin_stop(&busy);
	plain_destroy(&plain);
}
