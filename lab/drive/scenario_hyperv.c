/* SPDX-License-Identifier: MIT */
/*
 * scenario_hyperv.c - a stock Linux guest that keeps time by Hyper-V's reference TSC page: what P1 and P2 promise, in
 * units of 100 ns.
 */
#include "scenario.h"

#include <stdio.h>
#include <string.h>

#define CLOCKSOURCE "hyperv_clocksource_tsc_page"

/* That it did keep time by the page: else nothing was shown. */
static int check_clocksource(struct run *run)
{
	if (strcmp(run->verdict.clocksource, CLOCKSOURCE))
		return lab_fail(run->lab, "The guest's clocksource is %s, not " CLOCKSOURCE ".", run->verdict.clocksource);
	return 0;
}

/* Pauses, snapshots, and then into another QEMU and back. */
int play_hyperv(struct run *run)
{
	char disk[LAB_PATH];
	struct qemu_options guest = { .name = "guest", .who = run->who, .cpus = run_cpus(), .cpu = SCENARIO_HYPERV_CPU, .disk = disk };
	unsigned int events = run_events(run, 3);

	if (run_make_disk(run, run->lab->work, disk) || run_boot(run, &run->vm[0], &guest) || check_clocksource(run))
		return -1;
	for (unsigned int i = 0; i < events; i++)
		if (run_begin(run, &run->vm[0]) || run_stop_cont(run, &run->vm[0], (int)run->lab->pause_ms) || run_end(run, &run->vm[0]))
			return -1;
	if (run_begin(run, &run->vm[0]) || run_save_load(run, &run->vm[0]) || run_end(run, &run->vm[0]))
		return -1;
	return migrate_hops(run, &guest, 2);
}

int play_hyperv_new_rate(struct run *run)
{
	struct qemu_options guest = { .name = "guest", .who = run->who, .cpus = 1, .cpu = SCENARIO_HYPERV_CPU };

	run->unjudged = !strcmp(run->who, "steer"); /* there the page is the kernel's (docs/qemu.md) */
	return migrate_new_rate(run, &guest, run_events(run, 2)) || check_clocksource(run) ? -1 : 0;
}
