/* SPDX-License-Identifier: MIT */
/* torture.h - what the tests share that read a clock on all CPUs while threads of theirs change it. */
#ifndef TESTS_GUEST_TORTURE_H
#define TESTS_GUEST_TORTURE_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void start(pthread_t *thread, void *(*function)(void *), void *argument)
{
	if (pthread_create(thread, NULL, function, argument) != 0) {
		perror("pthread_create");
		exit(1);
	}
}

/* The kernel's word that all CPUs' TSCs agree. */
static inline bool one_tsc(void)
{
	char name[16] = "";
	FILE *file = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "r");

	if (!file)
		return false;
	if (!fgets(name, sizeof(name), file))
		name[0] = '\0';
	fclose(file);
	return strcmp(name, "tsc\n") == 0 || strcmp(name, "kvm-clock\n") == 0;
}

/* vCPUs run inside; the host asks all of them out, and waits until none is in. */
struct gate {
	_Atomic bool pause;
	_Alignas(64) _Atomic unsigned int in_guest;
};

static inline void enter_guest(struct gate *gate)
{
	for (;;) {
		atomic_fetch_add(&gate->in_guest, 1);
		if (!atomic_load(&gate->pause))
			return;
		atomic_fetch_sub(&gate->in_guest, 1);
		while (atomic_load(&gate->pause))
			sched_yield();
	}
}

static inline void leave_guest(struct gate *gate)
{
	atomic_fetch_sub(&gate->in_guest, 1);
}

static inline void pause_guest(struct gate *gate)
{
	atomic_store(&gate->pause, true);
	while (atomic_load(&gate->in_guest))
		sched_yield();
}

static inline void resume_guest(struct gate *gate)
{
	atomic_store(&gate->pause, false);
}

#endif
