/* SPDX-License-Identifier: MIT */
/* begin.c - all of a guest's clocks, from nothing: what a kernel on x86 asks of its host, and in which order. */
#include <pvclock/clock.h>
#include <pvclock/interface.h>

#if defined(__x86_64__) || defined(__i386__)
#include "machine.h"

#define TRIES 8 /* a host that sleeps each time it is asked for the time of day is none */

enum pvclock_read pvclock_clocks_begin(struct pvclock_user_page *user, uint64_t user_gpa, struct pvclock_wall_clock *wall,
				       uint64_t wall_gpa, int32_t tai_minus_utc)
{
	uint64_t uncounted = 0, epoch = 0;
	struct pvclock_reading reading;
	enum pvclock_read result;

	pvclock_clocks_choose_counter(user);
	machine_write_msr(PVCLOCK_MSR_SYSTEM_TIME, (user_gpa + offsetof(struct pvclock_user_page, page)) | PVCLOCK_MSR_ENABLE);
	if (pvclock_interface_find() & PVCLOCK_FEATURE_SUSPEND)
		machine_write_msr(PVCLOCK_MSR_SUSPEND, (user_gpa + offsetof(struct pvclock_user_page, suspend)) | PVCLOCK_MSR_ENABLE);
	for (int tries = 0; tries < TRIES; tries++) {
		uncounted = pvclock_clocks_uncounted(user);
		machine_write_msr(PVCLOCK_MSR_WALL_CLOCK, wall_gpa);
		if (pvclock_clocks_uncounted(user) == uncounted)
			break;
	}
	result = pvclock_wall_clock_read(wall, &epoch);
	if (result == PVCLOCK_READ_OK)
		result = pvclock_read_clock(&user->page, &reading);
	if (result == PVCLOCK_READ_OK)
		pvclock_clocks_start(user, reading.ns, epoch, uncounted, tai_minus_utc);
	return result;
}

#endif
