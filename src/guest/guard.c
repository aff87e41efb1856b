/* SPDX-License-Identifier: MIT */
#include <pvclock/guest.h>

/*
 * Relaxed is enough: the guard orders values of one variable, and C11 5.1.2.4p15-18 (coherence) already forbids that
 * a read which happens after another sees an older value of it. It publishes nothing else.
 */
#ifdef __i386__
/* A kernel without FPU code and libatomic has cmpxchg8b and no 64-bit load: gcc emits that for this builtin only. */
static inline uint64_t load(_Atomic uint64_t *last)
{
	return __sync_val_compare_and_swap((uint64_t *)last, 0, 0);
}

static inline bool exchange(_Atomic uint64_t *last, uint64_t *seen, uint64_t ns)
{
	uint64_t expected = *seen;

	*seen = __sync_val_compare_and_swap((uint64_t *)last, expected, ns);
	return *seen == expected;
}
#else
static inline uint64_t load(_Atomic uint64_t *last)
{
	return atomic_load_explicit(last, memory_order_relaxed);
}

static inline bool exchange(_Atomic uint64_t *last, uint64_t *seen, uint64_t ns)
{
	return atomic_compare_exchange_weak_explicit(last, seen, ns, memory_order_relaxed, memory_order_relaxed);
}
#endif

uint64_t pvclock_guard(_Atomic uint64_t *last, uint64_t ns)
{
	uint64_t seen = load(last);

	/* each failed turn has seen a larger value: it ends as soon as that reaches ns */
	while (seen < ns)
		if (exchange(last, &seen, ns))
			return ns;
	return seen;
}
