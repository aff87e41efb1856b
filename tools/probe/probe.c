/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "probe.h"
#include "cpus.h"
#include "vvar_page.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void probe_look_for_page(struct probe *probe)
{
	const struct pvclock_page *page;
	struct pvclock_snapshot snapshot;
	const void *hyperv;

	if (pages_known(&probe->pages))
		return;
	if (find_page(&page, &snapshot) == PAGE_FOUND)
		pages_set(&probe->pages, PAGE_OF_KVM, page);
	else if ((hyperv = find_hyperv_page()) != NULL)
		pages_set(&probe->pages, PAGE_OF_HYPERV, hyperv);
}

/* A CPU that was plugged in is started; one that was there before and was stopped is left as it is. */
static void look_for_cpus(struct probe *probe)
{
	cpu_set_t present, online;

	cpus_present(&present);
	for (unsigned int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, &present) && !CPU_ISSET(cpu, &probe->present))
			cpus_bring_online(cpu);
	}
	probe->present = present; /* one that was unplugged may come again */
	cpus_online(&online);
	for (unsigned int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &online))
			watch_start(&probe->watch, cpu);
}

void probe_tend(struct probe *probe)
{
	look_for_cpus(probe);
	events_keep(&probe->events);
}

int probe_open(struct probe *probe, const struct clocks *clocks)
{
	int error;

	memset(probe, 0, sizeof(*probe));
	probe->clocks = clocks;
	error = pages_open(&probe->pages, clocks);
	if (error != 0)
		return error;
	probe_look_for_page(probe);
	watch_open(&probe->watch, clocks, &probe->pages);
	events_open(&probe->events, &probe->watch);
	cpus_present(&probe->present);
	look_for_cpus(probe);
	if (probe->watch.threads == 0)
		return EAGAIN;
	events_unannounced(&probe->events); /* from here on */
	return 0;
}

void probe_close(struct probe *probe)
{
	watch_close(&probe->watch);
}
