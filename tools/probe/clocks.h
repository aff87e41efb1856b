/* SPDX-License-Identifier: MIT */
/* clocks.h - what the probe reads, in a table, so that a test can be the machine. */
#ifndef PROBE_CLOCKS_H
#define PROBE_CLOCKS_H

#include <stdint.h>

/* The first three never go back; their order is that of the shared maxima. */
enum probe_clock { PROBE_RAW, PROBE_MONOTONIC, PROBE_BOOTTIME, PROBE_REALTIME };
#define PROBE_STEADY_CLOCKS 3u

struct clocks {
	void *context;
	uint64_t (*tsc)(void *context);
	uint64_t (*ns)(void *context, enum probe_clock clock, unsigned int cpu); /* cpu: whose thread asks */
	uint64_t (*step_ns)(void *context); /* RAW advances by so much at once: 1; 100 where it is Hyper-V's clock */
};

#define CLOCKSOURCE_TEXT 64u

/* What the kernel keeps time by, or nothing. */
void read_clocksource(char text[CLOCKSOURCE_TEXT]);

/* This machine's. Static, immutable. */
const struct clocks *clocks_real(void);

#endif
