/* SPDX-License-Identifier: MIT */
/* kernel.c - what a small kernel does with the installed guest library: it has no libc, no FPU and no stack but its own. */
#include <pvclock/guest.h>

static struct pvclock_page page __attribute__((aligned(64)));
static struct pvclock_wall_clock wall;
static _Atomic uint64_t last;
static struct pvclock_inverse inverse;

void start(void);
uint64_t sink;

void start(void)
{
	struct pvclock_reading reading;
	struct pvclock_snapshot snapshot;
	uint64_t epoch, deadline;

	if (pvclock_take_guest_stopped(&page))
		sink++;
	if (pvclock_read_clock(&page, &reading) == PVCLOCK_READ_OK)
		sink += pvclock_guard(&last, reading.ns);
	if (pvclock_page_read(&page, &snapshot) == PVCLOCK_READ_OK) {
		pvclock_inverse_make(&inverse, &snapshot.line);
		if (pvclock_first_tick(&inverse, reading.ns + 1000, &deadline))
			sink += deadline;
	}
	if (pvclock_wall_clock_read(&wall, &epoch) == PVCLOCK_READ_OK)
		sink += epoch;
	for (;;)
		pvclock_relax();
}
