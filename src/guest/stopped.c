/* SPDX-License-Identifier: MIT */
#include <pvclock/guest.h>

/*
 * The flags' whole word, atomically, as the host writes it: it may be writing a new line and new flags at the same moment, and
 * a read-modify-write that is not one would put back what it just replaced. The plain look first keeps the cache
 * line shared. (A byte would do on x86; riscv64 has no such instruction, and compilers call a library for it.)
 */
bool pvclock_take_guest_stopped(struct pvclock_page *page)
{
	_Atomic uint32_t *tail = (_Atomic uint32_t *)(void *)&page->tsc_shift;
	const uint32_t stopped = (uint32_t)PVCLOCK_GUEST_STOPPED << 8;

	if ((atomic_load_explicit(tail, memory_order_relaxed) & stopped) == 0)
		return false;
	return (atomic_fetch_and_explicit(tail, ~stopped, memory_order_acq_rel) & stopped) != 0;
}
