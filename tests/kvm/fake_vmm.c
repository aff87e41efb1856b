/* SPDX-License-Identifier: MIT */
/*
 * fake_vmm.c - stands in for pvclock-vmm where the harness and the judge themselves are tested: no KVM, its vCPUs are threads that
 * read a page by this machine's TSC. What goes wrong with the clock, and with the VMM, is then known in advance.
 *
 * --mode own keeps the line; steer moves it by 1 ns to and fro; stock sets it back by the blackout, as stopping a clock
 * does. Further arguments: --fault jump=NS (every event), back (vCPU 1 once reads an old value), die, hang, still (vCPU
 * 1 stops), mute, lie.
 */
#include "shared.h"

#include <jansson.h>
#include <pthread.h>
#include <pvclock/guest.h>
#include <pvclock/os.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct fake {
	struct vmm_shared *shared;
	struct pvclock_page *pages;
	struct pvclock_line line;
	unsigned int vcpus;
	const char *mode, *fault;
	int control;
	_Atomic bool hold, back;
	_Atomic unsigned int parked;
	uint64_t stopped_ns, blackout_ns;
	uint64_t events;
};

struct fake_vcpu {
	struct fake *fake;
	unsigned int index;
};

static void log_reading(struct vmm_ring *ring, const struct vmm_ring_entry *entry)
{
	uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);

	atomic_fetch_add_explicit(&ring->reads, 1, memory_order_relaxed);
	if (head - atomic_load_explicit(&ring->tail, memory_order_acquire) == VMM_RING_ENTRIES)
		return;
	ring->entries[head % VMM_RING_ENTRIES] = *entry;
	atomic_store_explicit(&ring->head, head + 1, memory_order_release);
}

static void *run_vcpu(void *argument)
{
	struct fake_vcpu *vcpu = argument;
	struct fake *fake = vcpu->fake;
	const struct timespec breath = { 0, 20000 };

	atomic_fetch_add(&fake->shared->started, 1);
	for (;;) {
		struct pvclock_reading reading;
		struct vmm_ring_entry entry = { .vcpu = (uint16_t)vcpu->index };

		if (atomic_load(&fake->hold)) {
			atomic_fetch_add(&fake->parked, 1);
			while (atomic_load(&fake->hold))
				nanosleep(&breath, NULL);
			atomic_fetch_sub(&fake->parked, 1);
			if (!strcmp(fake->fault, "still") && vcpu->index == 1)
				pause();
		}
		entry.result = (uint8_t)pvclock_read_clock(&fake->pages[vcpu->index], &reading);
		entry.tsc = reading.tsc.ticks;
		entry.ns = reading.ns;
		entry.version = reading.version;
		entry.flags = reading.flags;
		if (vcpu->index == 1 && atomic_exchange(&fake->back, false))
			entry.ns -= 1000000;
		log_reading(&fake->shared->ring[vcpu->index], &entry);
		nanosleep(&breath, NULL);
	}
	return NULL;
}

/*
 * The clock's own time, and read when no vCPU reads: a clock that is set back by just as much as it went on meanwhile
 * goes backwards for nobody, at any rate of this machine's TSC.
 */
static uint64_t now_ns(const struct fake *fake)
{
	const struct pvclock_os *os = pvclock_os_linux();

	return pvclock_line_ns(&fake->line, os->ops->read_tsc(os->ctx).ticks);
}

static void stop_vcpus(struct fake *fake)
{
	atomic_store(&fake->hold, true);
	while (atomic_load(&fake->parked) < fake->vcpus)
		;
	fake->stopped_ns = now_ns(fake);
}

static void go_on(struct fake *fake)
{
	int64_t jump = 0;

	fake->blackout_ns = now_ns(fake) - fake->stopped_ns;
	if (!strcmp(fake->mode, "stock"))
		jump = -(int64_t)fake->blackout_ns;
	else if (!strcmp(fake->mode, "steer"))
		jump = fake->events % 2 ? -1 : 1;
	if (!strncmp(fake->fault, "jump=", 5))
		jump += atoi(fake->fault + 5);
	fake->events++;
	fake->line.ns += (uint64_t)jump;
	for (unsigned int i = 0; i < fake->vcpus; i++)
		pvclock_page_write(&fake->pages[i], &fake->line, PVCLOCK_TSC_STABLE);
	atomic_store(&fake->hold, false);
	while (atomic_load(&fake->parked) > 0)
		;
	if (!strcmp(fake->fault, "back") && fake->events == 2)
		atomic_store(&fake->back, true);
}

static void answer(const struct fake *fake, const char *text)
{
	(void)!send(fake->control, text, strlen(text), MSG_NOSIGNAL);
}

static void serve(struct fake *fake, const char *command)
{
	char text[512];

	if (!strcmp(command, "quit"))
		exit(0);
	if (!strcmp(command, "status")) {
		snprintf(text, sizeof(text),
			 "{\"pid\":%d,\"mode\":\"%s\",\"state\":\"running\",\"vcpus\":%u,\"stable\":true,\"reason_text\":\"\","
			 "\"tsc_offset\":0}", (int)getpid(), fake->mode, fake->vcpus);
		answer(fake, text);
		return;
	}
	if (!strcmp(fake->fault, "die"))
		abort();
	if (!strcmp(fake->fault, "hang"))
		pause();
	if (!strcmp(fake->fault, "mute"))
		return;
	if (!strcmp(fake->fault, "lie")) {
		answer(fake, "no JSON");
		return;
	}
	if (!strcmp(command, "pause") || !strcmp(command, "update"))
		stop_vcpus(fake);
	if (!strcmp(command, "resume") || !strcmp(command, "update"))
		go_on(fake);
	snprintf(text, sizeof(text), "{\"pid\":%d,\"blackout_ns\":%llu}", (int)getpid(),
		 (unsigned long long)fake->blackout_ns);
	answer(fake, text);
}

int main(int argc, char **argv)
{
	static struct fake fake = { .vcpus = 1, .mode = "own", .fault = "" };
	static struct fake_vcpu vcpus[VMM_VCPUS_MAX];
	const struct pvclock_os *os = pvclock_os_linux();
	struct pvclock_slope slope;
	int memory_fd = -1;
	char command[256];
	ssize_t length;

	for (int i = 1; i + 1 < argc; i++) {
		if (!strcmp(argv[i], "--vcpus"))
			fake.vcpus = (unsigned int)atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--mode"))
			fake.mode = argv[i + 1];
		else if (!strcmp(argv[i], "--memory-fd"))
			memory_fd = atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--control"))
			fake.control = atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--fault"))
			fake.fault = argv[i + 1];
	}
	void *memory = mmap(NULL, VMM_MEMORY_DEFAULT, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);

	if (memory == MAP_FAILED || fake.vcpus > VMM_VCPUS_MAX) {
		fprintf(stderr, "No guest memory.\n");
		return 1;
	}
	fake.shared = (struct vmm_shared *)(void *)((char *)memory + VMM_SHARED_GPA);
	fake.pages = (struct pvclock_page *)(void *)((char *)memory + VMM_PAYLOAD_GPA);
	/*
	 * Slower than any TSC, so that no blackout is shorter by this clock than by the harness's. What is judged is
	 * whether a line is kept.
	 */
	if (!pvclock_slope_from_khz(1000000, &slope) ||
	    !pvclock_line_make(&fake.line, os->ops->read_tsc(os->ctx).ticks, 3000000000u, &slope, NULL))
		return 1;
	for (unsigned int i = 0; i < fake.vcpus; i++) {
		pthread_t thread;

		pvclock_page_write(&fake.pages[i], &fake.line, PVCLOCK_TSC_STABLE);
		vcpus[i] = (struct fake_vcpu){ .fake = &fake, .index = i };
		if (pthread_create(&thread, NULL, run_vcpu, &vcpus[i]))
			return 1;
	}
	while ((length = recv(fake.control, command, sizeof(command) - 1, 0)) > 0) {
		command[length] = '\0';
		serve(&fake, command);
	}
	return 0;
}
