/* SPDX-License-Identifier: MIT */
#include <pvclock/guest.h>

/*
 * One byte, atomically: the host may be writing a new line and new flags at the same moment, and a wider or a split
 * read-modify-write would put back what it just replaced. The plain look first keeps the cache line shared.
 */
bool pvclock_take_guest_stopped(struct pvclock_page *page)
{
	_Atomic uint8_t *flags = (_Atomic uint8_t *)&page->flags;

	if ((atomic_load_explicit(flags, memory_order_relaxed) & PVCLOCK_GUEST_STOPPED) == 0)
		return false;
	return (atomic_fetch_and_explicit(flags, (uint8_t)~PVCLOCK_GUEST_STOPPED, memory_order_acq_rel) &
		PVCLOCK_GUEST_STOPPED) != 0;
}
