// SPDX-License-Identifier: MIT
/*
 * timer.c - the timer behind deadlines that guests hand over: a thread that asks the library what is due and sleeps for
 * as long as it says, or until it says otherwise. A thread of its own, since the one that serves commands may be
 * writing a snapshot.
 */
#include "vmm.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#define NS_PER_SEC 1000000000ull

void timer_sooner(void *ctx, uint64_t wait_ns)
{
	struct machine *machine = ctx;
	uint64_t one = 1;

	(void)wait_ns; /* the thread asks: what it is told here may be old by the time that it wakes */
	(void)!write(machine->timer.event_fd, &one, sizeof(one));
}

static void wait_for(int event_fd, uint64_t wait_ns)
{
	struct timespec wait = { .tv_sec = (time_t)(wait_ns / NS_PER_SEC), .tv_nsec = (long)(wait_ns % NS_PER_SEC) };
	struct pollfd waited = { .fd = event_fd, .events = POLLIN };
	uint64_t times;

	if (ppoll(&waited, 1, wait_ns == UINT64_MAX ? NULL : &wait, NULL) > 0)
		(void)!read(event_fd, &times, sizeof(times));
}

static void *timer_thread(void *argument)
{
	struct machine *machine = argument;
	uint64_t wait_ns;

	prctl(PR_SET_TIMERSLACK, 1ul); /* ns; the usual 50 us would be the guests' */
	while (!atomic_load(&machine->timer.quit)) {
		/* An interrupt that KVM does not take would not be taken by it the next time. */
		(void)pvclock_kvm_fire_deadlines(machine->clock.kvm, &wait_ns);
		wait_for(machine->timer.event_fd, wait_ns);
	}
	return NULL;
}

int timer_open(struct machine *machine, struct problem *problem)
{
	machine->timer.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return machine->timer.event_fd < 0 ? fail(problem, "eventfd: %s", strerror(errno)) : 0;
}

int timer_start(struct machine *machine, struct problem *problem)
{
	int error = pthread_create(&machine->timer.thread, NULL, timer_thread, machine);

	if (error != 0)
		return fail(problem, "timer thread: %s", strerror(error));
	machine->timer.started = true;
	return 0;
}

void timer_stop(struct machine *machine)
{
	if (machine->timer.started) {
		atomic_store(&machine->timer.quit, true);
		timer_sooner(machine, 0);
		pthread_join(machine->timer.thread, NULL);
		machine->timer.started = false;
	}
	if (machine->timer.event_fd >= 0)
		close(machine->timer.event_fd);
	machine->timer.event_fd = -1;
}
