/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "machine.h"

#include <pvclock/guest.h>

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t machine_tsc(struct machine *machine)
{
	return pvclock_read_tsc().ticks + machine->tsc_offset;
}

uint64_t machine_ns(struct machine *machine)
{
	return pvclock_line_ns(&machine->line, machine_tsc(machine));
}

static uint64_t read_tsc(void *context)
{
	struct machine *machine = context;
	uint64_t tsc;

	pthread_rwlock_rdlock(&machine->running);
	tsc = machine_tsc(machine);
	pthread_rwlock_unlock(&machine->running);
	return tsc;
}

static uint64_t read_ns(void *context, enum probe_clock clock, unsigned int cpu)
{
	struct machine *machine = context;
	uint64_t ns, leap;

	if (clock == PROBE_RAW && cpu != UINT32_MAX && (leap = atomic_exchange(&machine->leap, 0)) != 0) {
		machine_stop(machine);
		machine->tsc_offset += leap;
		machine_continue(machine, PVCLOCK_TSC_STABLE);
	}
	pthread_rwlock_rdlock(&machine->running);
	ns = machine_ns(machine);
	if (clock == PROBE_MONOTONIC || clock == PROBE_BOOTTIME)
		ns += (uint64_t)machine->monotonic;
	if (clock == PROBE_BOOTTIME)
		ns += (uint64_t)machine->boottime;
	if (clock == PROBE_REALTIME)
		ns += (uint64_t)machine->realtime;
	pthread_rwlock_unlock(&machine->running);
	if (cpu == UINT32_MAX) /* the coordinator's */
		return ns;
	atomic_fetch_add(&machine->reads, 1);
	if (cpu == atomic_load(&machine->skewed_cpu))
		ns -= (uint64_t)atomic_load(&machine->skew);
	if (clock < PROBE_STEADY_CLOCKS)
		ns -= (uint64_t)atomic_exchange(&machine->fault[clock], 0);
	return ns;
}

static uint64_t read_step_ns(void *context)
{
	(void)context;
	return 1;
}

void machine_start(struct machine *machine, bool page)
{
	pthread_rwlockattr_t attributes;
	cpu_set_t cpus;

	memset(machine, 0, sizeof(*machine));
	machine->tsc_offset = 1ull << 41;
	machine->clocks = (struct clocks){ .context = machine, .tsc = read_tsc, .ns = read_ns, .step_ns = read_step_ns };
	/* or the host would never get its turn */
	pthread_rwlockattr_init(&attributes);
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&machine->running, &attributes);
	pthread_rwlockattr_destroy(&attributes);
	/* anchored long ago, so that a TSC can go back */
	machine->line = (struct pvclock_line){ .tsc = machine_tsc(machine) - (1ull << 40), .ns = 100000000000000u,
					       .mul = 3308756133u, .shift = -1 };
	machine->monotonic = -5000;
	machine->realtime = 1700000000000000000;
	atomic_store(&machine->skewed_cpu, UINT32_MAX);
	pvclock_page_write(&machine->page, &machine->line, PVCLOCK_TSC_STABLE);

	if (pages_open(&machine->pages, &machine->clocks) != 0)
		abort();
	if (page)
		pages_set(&machine->pages, PAGE_OF_KVM, &machine->page);
	watch_open(&machine->watch, &machine->clocks, &machine->pages);
	events_open(&machine->events, &machine->watch);
	if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0)
		abort();
	for (unsigned int cpu = 0; cpu < CPU_SETSIZE && machine->watch.threads < 4; cpu++)
		if (CPU_ISSET(cpu, &cpus))
			watch_start(&machine->watch, cpu);
	if (machine->watch.threads == 0)
		abort();
	events_unannounced(&machine->events);
	machine_run(machine);
}

void machine_end(struct machine *machine)
{
	watch_close(&machine->watch);
	pthread_rwlock_destroy(&machine->running);
}

void machine_stop(struct machine *machine)
{
	pthread_rwlock_wrlock(&machine->running);
}

void machine_continue(struct machine *machine, uint8_t flags)
{
	pvclock_page_write(&machine->page, &machine->line, flags);
	pthread_rwlock_unlock(&machine->running);
}

void machine_run(struct machine *machine)
{
	uint64_t from = atomic_load(&machine->reads);

	while (atomic_load(&machine->reads) - from < 3000u * machine->watch.threads)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	nanosleep(&(struct timespec){ .tv_nsec = 30000000 }, NULL); /* a few windows */
}
