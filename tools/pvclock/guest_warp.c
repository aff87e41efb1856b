/* SPDX-License-Identifier: MIT */
/* guest_warp.c - counts how often a clock went back from one CPU to another. */
#define _GNU_SOURCE
#include "guest.h"

#include <pvclock/os.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Each clock's largest value so far has a cache line of its own, so that they do not slow each other down. */
struct shared_clock {
	_Alignas(64) _Atomic uint64_t largest;
};

struct race {
	struct shared_clock clocks[WARP_CLOCKS];
	const struct pvclock_page *page;
	_Atomic bool started, stopped;
};

struct runner {
	pthread_t thread;
	struct race *race;
	struct warp clocks[WARP_CLOCKS];
};

/* False: the host kept writing the page; there is nothing to compare. */
static bool read_clock(const struct race *race, enum warp_clock clock, uint64_t *value)
{
	const struct pvclock_os *os = pvclock_os_linux();
	struct pvclock_reading reading;
	struct timespec ts;

	switch (clock) {
	case WARP_TSC:
		*value = os->ops->read_tsc(os->ctx).ticks;
		return true;
	case WARP_RAW:
		os->ops->clock_gettime(os->ctx, CLOCK_MONOTONIC_RAW, &ts);
		*value = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
		return true;
	case WARP_PAGE:
	default:
		if (pvclock_read_clock(race->page, &reading) != PVCLOCK_READ_OK)
			return false;
		*value = reading.ns;
		return true;
	}
}

static void read_once(struct race *race, struct warp *warp, enum warp_clock clock)
{
	_Atomic uint64_t *largest = &race->clocks[clock].largest;
	/* what this load sees was read by its thread before: our own read, which comes after, may not be below it */
	uint64_t before = atomic_load(largest), now;

	if (!read_clock(race, clock, &now))
		return;
	warp->reads++;
	if (now < before) {
		warp->backward++;
		if (before - now > warp->worst)
			warp->worst = before - now;
		return;
	}
	while (before < now && !atomic_compare_exchange_weak(largest, &before, now))
		;
}

static void *run(void *argument)
{
	struct runner *runner = argument;
	struct race *race = runner->race;

	while (!atomic_load(&race->started))
		sched_yield();
	while (!atomic_load_explicit(&race->stopped, memory_order_relaxed))
		for (unsigned int i = 0; i < 64; i++)
			for (enum warp_clock clock = WARP_TSC; clock <= WARP_PAGE; clock++)
				if (clock != WARP_PAGE || race->page != NULL)
					read_once(race, &runner->clocks[clock], clock);
	return NULL;
}

static int start(struct runner *runner, struct race *race, size_t cpu)
{
	pthread_attr_t attributes;
	cpu_set_t one;
	int error;

	runner->race = race;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	error = pthread_attr_init(&attributes);
	if (error != 0)
		return error;
	error = pthread_attr_setaffinity_np(&attributes, sizeof(one), &one);
	if (error == 0)
		error = pthread_create(&runner->thread, &attributes, run, runner);
	pthread_attr_destroy(&attributes);
	return error;
}

int measure_warps(const struct pvclock_page *page, double seconds, struct warps *warps)
{
	const struct pvclock_os *os = pvclock_os_linux();
	struct race race = { .page = page };
	struct runner *runners;
	cpu_set_t mine;

	*warps = (struct warps){ .page_read = page != NULL };
	if (sched_getaffinity(0, sizeof(mine), &mine) != 0)
		return -errno;
	runners = calloc((size_t)CPU_COUNT(&mine), sizeof(*runners));
	if (runners == NULL)
		return -ENOMEM;
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &mine) && start(&runners[warps->cpus], &race, cpu) == 0)
			warps->cpus++;
	atomic_store(&race.started, true);
	if (warps->cpus != 0)
		os->ops->sleep(os->ctx, (uint64_t)(seconds * 1e9));
	atomic_store(&race.stopped, true);
	for (unsigned int i = 0; i < warps->cpus; i++) {
		pthread_join(runners[i].thread, NULL);
		for (unsigned int clock = 0; clock < WARP_CLOCKS; clock++) {
			warps->clocks[clock].reads += runners[i].clocks[clock].reads;
			warps->clocks[clock].backward += runners[i].clocks[clock].backward;
			if (runners[i].clocks[clock].worst > warps->clocks[clock].worst)
				warps->clocks[clock].worst = runners[i].clocks[clock].worst;
		}
	}
	free(runners);
	return warps->cpus != 0 ? 0 : -EAGAIN;
}
