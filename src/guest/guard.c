/* SPDX-License-Identifier: MIT */
#include <pvclock/guest.h>

/*
 * Relaxed is enough: the guard orders values of one variable, and C11 5.1.2.4p15-18 (coherence) already forbids that a read which
 * happens after another sees an older value of it. It publishes nothing else.
 */
uint64_t pvclock_guard(_Atomic uint64_t *last, uint64_t ns)
{
	uint64_t seen = atomic_load_explicit(last, memory_order_relaxed);

	/* each failed turn has seen a larger value: it ends as soon as that reaches ns */
	while (seen < ns)
		if (atomic_compare_exchange_weak_explicit(last, &seen, ns, memory_order_relaxed, memory_order_relaxed))
			return ns;
	return seen;
}
