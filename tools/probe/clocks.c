/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "clocks.h"

#include <pvclock/guest.h>

#include <stdio.h>
#include <string.h>
#include <time.h>

static uint64_t read_tsc(void *context)
{
	(void)context;
	return pvclock_read_tsc().ticks;
}

static uint64_t read_ns(void *context, enum probe_clock clock, unsigned int cpu)
{
	static const clockid_t ids[] = { [PROBE_RAW] = CLOCK_MONOTONIC_RAW, [PROBE_MONOTONIC] = CLOCK_MONOTONIC,
					 [PROBE_BOOTTIME] = CLOCK_BOOTTIME, [PROBE_REALTIME] = CLOCK_REALTIME };
	struct timespec ts;

	(void)context;
	(void)cpu;
	clock_gettime(ids[clock], &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void read_clocksource(char text[CLOCKSOURCE_TEXT])
{
	FILE *file = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");

	text[0] = '\0';
	if (file == NULL)
		return;
	if (fgets(text, CLOCKSOURCE_TEXT, file) == NULL)
		text[0] = '\0';
	fclose(file);
	text[strcspn(text, "\n")] = '\0';
}

static uint64_t read_step_ns(void *context)
{
	char text[CLOCKSOURCE_TEXT];

	(void)context;
	read_clocksource(text);
	return strncmp(text, "hyperv_clocksource", strlen("hyperv_clocksource")) == 0 ? PVCLOCK_HYPERV_UNIT_NS : 1;
}

const struct clocks *clocks_real(void)
{
	static const struct clocks real = { .tsc = read_tsc, .ns = read_ns, .step_ns = read_step_ns };

	return &real;
}
