/* SPDX-License-Identifier: MIT */
/* kernel.c - what a small kernel does with the installed guest library: it has no libc, no FPU and no stack but its own. */
#include <pvclock/clock.h>
#include <pvclock/deadline.h>

static struct pvclock_user_page user __attribute__((aligned(4096)));
static struct pvclock_wall_clock wall;
static pvclock_last last;
static struct pvclock_inverse inverse;
static struct pvclock_timer timer;

void start(void);
uint64_t sink;

void start(void)
{
	struct pvclock_reading reading;
	struct pvclock_snapshot snapshot;
	struct pvclock_time time;
	struct pvclock_told told;
	uint64_t epoch, deadline, now = 0;

	if (pvclock_take_guest_stopped(&user.page))
		sink++;
	if (pvclock_read_clock(&user.page, &reading) == PVCLOCK_READ_OK)
		sink += pvclock_guard(&last, reading.ns);
	if (pvclock_page_read(&user.page, &snapshot) == PVCLOCK_READ_OK) {
		pvclock_inverse_make(&inverse, &snapshot.line);
		if (pvclock_first_tick(&inverse, reading.ns + 1000, &deadline))
			sink += deadline;
	}
	if (pvclock_wall_clock_read(&wall, &epoch) == PVCLOCK_READ_OK &&
	    pvclock_kernel_ns(&user, &user.page, &last, PVCLOCK_MONOTONIC, &now) == PVCLOCK_READ_OK)
		pvclock_clocks_start(&user, now, epoch, pvclock_clocks_uncounted(&user), 37);
	pvclock_clocks_tick(&user, now);
	if (pvclock_clocks_told(&user, now, &told) == PVCLOCK_READ_OK)
		sink += told.count;
	if (pvclock_user_time(&user, PVCLOCK_REALTIME, &time) == PVCLOCK_READ_OK ||
	    pvclock_coarse_time(&user, PVCLOCK_REALTIME_COARSE, &time) == PVCLOCK_READ_OK)
		sink += time.nsec;
	if (pvclock_timer_start(&timer, pvclock_timer_find(), &user.page, (volatile uint32_t *)0xfee00000, 0x40))
		sink += pvclock_timer_arm(&timer, reading.ns + 1000);
	for (;;) {
		if (pvclock_timer_interrupt(&timer) == PVCLOCK_TIMER_DUE)
			pvclock_timer_stop(&timer);
		pvclock_timer_check(&timer);
		pvclock_relax();
	}
}
