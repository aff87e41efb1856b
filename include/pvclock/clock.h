/* SPDX-License-Identifier: MIT */
/*
 * clock.h - all of a guest's clocks, from one page that its kernel maps read-only into its processes: user code reads any of
 * them without a system call. Freestanding: no libc, no allocation, no state but what the caller passes.
 *
 * One array of base data, indexed by clock id, serves high-resolution and coarse clocks alike. A high-resolution clock is
 *
 *     base + (system time - anchor) + (what passed without the guest, if the clock counts that)
 *
 * and a coarse one is the base itself. System time is the line in the page that the host writes, so MONOTONIC does what
 * the host promised of it. What passed without the guest is in the suspend page that the host writes before the guest
 * runs again: so BOOTTIME, REALTIME and TAI are right at the first instruction after a suspend, before any interrupt
 * handler ran.
 *
 * All that a reader combines is one state: the three sequence counts (base data, line, suspend) are looked at again at its end.
 *
 * Most of what a reader computes does not depend on the counter, and changes only when somebody writes. So the kernel leaves it
 * beside the base data at each tick, with the counts that it is of; a reader uses it while these still are the counts, and else
 * computes all of it from what the host has written: no event has to wait for the kernel.
 */
#ifndef PVCLOCK_CLOCK_H
#define PVCLOCK_CLOCK_H

#include <pvclock/guest.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Linux's numbers (include/uapi/linux/time.h). */
enum pvclock_clock_id {
	PVCLOCK_REALTIME = 0,         /* UTC since 1970 */
	PVCLOCK_MONOTONIC = 1,        /* system time */
	PVCLOCK_MONOTONIC_RAW = 4,    /* the same: nothing here slews */
	PVCLOCK_REALTIME_COARSE = 5,  /* as of the last tick, as is the next */
	PVCLOCK_MONOTONIC_COARSE = 6,
	PVCLOCK_BOOTTIME = 7,         /* MONOTONIC and what passed without the guest */
	PVCLOCK_TAI = 11,
	PVCLOCK_CLOCKS = 12
};

/* As sets of 1 << id: what each reader knows, and which clocks count what passed without the guest. */
#define PVCLOCK_HIGH_CLOCKS \
	(1u << PVCLOCK_REALTIME | 1u << PVCLOCK_MONOTONIC | 1u << PVCLOCK_MONOTONIC_RAW | 1u << PVCLOCK_BOOTTIME | 1u << PVCLOCK_TAI)
#define PVCLOCK_COARSE_CLOCKS (1u << PVCLOCK_REALTIME_COARSE | 1u << PVCLOCK_MONOTONIC_COARSE)
#define PVCLOCK_SUSPEND_CLOCKS \
	(1u << PVCLOCK_REALTIME | 1u << PVCLOCK_REALTIME_COARSE | 1u << PVCLOCK_BOOTTIME | 1u << PVCLOCK_TAI)

/* sec may be negative (before 1970); 0 <= nsec < 10^9, and it counts forward also then. */
struct pvclock_time {
	int64_t sec;
	uint32_t nsec;
};

/*
 * A clock at the anchor. Coarse: the time. High resolution: nsec is less by anchor_ns and, for the clocks that count it, by
 * uncounted_ns, modulo 2^64; so a reader adds what is the case, and subtracts nothing.
 */
struct pvclock_clock_base {
	int64_t sec;
	uint64_t nsec;
};

/*
 * The line in the page, if it is TSC_STABLE, as pvclock_halves_ns takes it: the gain of d ticks is (d & mask) * factor / 2^64. And what is added
 * to it and a clock's base: system time at `tsc`, without and with what passed without the guest.
 */
struct pvclock_clock_ready {
	uint64_t tsc, mask, factor;
	uint64_t add[2]; /* by whether the clock is one of PVCLOCK_SUSPEND_CLOCKS */
};

/*
 * All zero is a valid state: MONOTONIC and BOOTTIME are right, REALTIME and TAI count from 1970. Written by the functions below
 * only, with the kernel's lock held; what follows `base` is theirs alone.
 */
struct pvclock_clocks {
	uint32_t sequence;                             /* odd while it is written */
	int32_t tai_minus_utc;                         /* s */
	uint32_t counts;                               /* of which `ready` is, as ~(the sum of all three); 0: of none */
	uint32_t rdtscp;                               /* x86: not 0 if that reads the counter at less cost; written once */
	struct pvclock_clock_base base[PVCLOCK_CLOCKS]; /* REALTIME, MONOTONIC and the sequence count are one cache line */
	struct pvclock_clock_ready ready;
	uint64_t anchor_ns;                            /* system time of the last tick */
	uint64_t uncounted_ns;                         /* suspend.uncounted_ns, as of then */
	int64_t wall_sec;                              /* REALTIME where system time and uncounted_ns are 0 */
	uint32_t wall_nsec, pad1;
	uint64_t told_uncounted_ns, told_counted_ns, told_count;
};

/*
 * One page of memory, 4096-byte aligned and zeroed at first; processes map it read-only. The kernel registers &page
 * with the host as CPU 0's clock page (PVCLOCK_MSR_SYSTEM_TIME) and &suspend as the suspend page, or, where the host
 * has none, leaves that zero. Other CPUs' clock pages are elsewhere: with PVCLOCK_TSC_STABLE all CPUs' lines are one,
 * so user code needs no other. CPU 0's registration therefore has to stay while processes read; and a host that is not
 * of this library may bring the page up to date only when CPU 0 runs, as KVM does for Linux's own vDSO.
 */
struct pvclock_user_page {
	struct pvclock_clocks clocks __attribute__((aligned(64)));
	struct pvclock_page page __attribute__((aligned(64)));
	struct pvclock_suspend_page suspend __attribute__((aligned(64)));
	uint8_t pad[4096 - 320 - 64 - 64];
};

#ifndef __cplusplus
_Static_assert(offsetof(struct pvclock_clocks, base) == 16, "the first three words of a cache line");
_Static_assert(offsetof(struct pvclock_user_page, page) == 320, "the same for 32-bit processes of a 64-bit kernel");
_Static_assert(sizeof(struct pvclock_user_page) == 4096, "a page");
#endif

/* Compilers think twice about what is inlined more than once; here a call is a tenth of the whole. */
#define PVCLOCK_INLINE __attribute__((always_inline)) static inline

/* --- readers --------------------------------------------------------------------------- */

/* sec + nsec as a time, for any nsec: as a signed number, so up to 292 years on both sides. */
struct pvclock_time pvclock_time_make(int64_t sec, uint64_t nsec);

#ifdef PVCLOCK_HAS_COUNTER

/*
 * The usual reading: what is ready, and the counter. False: it is not of what the pages say now (that stays so until the next
 * tick), or somebody wrote meanwhile; or the counter is before the anchor. Then the time is not *sec + *nsec.
 *
 * `counts` was stored after all that it is of, and is loaded before it. Each count only grows; so if their sum is still that at
 * the end, nobody has written in between, and none was odd: a sum of even ones is what is stored.
 */
PVCLOCK_INLINE bool pvclock_clock_quick(const struct pvclock_user_page *user, unsigned int id, uint64_t *sec, uint64_t *nsec)
{
#if defined(__SIZEOF_INT128__) && !defined(PVCLOCK_NO_INT128)
	uint64_t add, tsc, mask, factor, low, high, delta;
	uint32_t counts;

	/* hidden, or gcc takes the address of each word out of a caller's loop, to the stack, and loads it again in every turn */
	__asm__ __volatile__("" : "+r"(user));
	counts = pvclock_load_acquire_u32(&user->clocks.counts);
	if (__builtin_expect(counts == 0, 0))
		return false;
	*sec = pvclock_load_relaxed_u64((const uint64_t *)&user->clocks.base[id].sec);
	add = pvclock_load_relaxed_u64(&user->clocks.base[id].nsec) +
	      pvclock_load_relaxed_u64(&user->clocks.ready.add[PVCLOCK_SUSPEND_CLOCKS >> id & 1]);
	tsc = pvclock_load_relaxed_u64(&user->clocks.ready.tsc);
	mask = pvclock_load_relaxed_u64(&user->clocks.ready.mask);
	factor = pvclock_load_relaxed_u64(&user->clocks.ready.factor);

#if defined(__x86_64__)
	if (pvclock_load_relaxed_u32(&user->clocks.rdtscp))
		__asm__ __volatile__("rdtscp" : "=a"(low), "=d"(high) : : "ecx", "memory");
	else
#endif
		pvclock_read_counter_halves(&low, &high);
	delta = (high << 32) + ((low - tsc) & mask);
	*nsec = add + (uint64_t)((__extension__(unsigned __int128)delta * factor) >> 64);

	pvclock_fence_acquire();
	return (pvclock_load_relaxed_u32(&user->clocks.sequence) + pvclock_load_relaxed_u32(&user->page.version) +
		pvclock_load_relaxed_u32(&user->suspend.sequence) + counts == UINT32_MAX) && delta >> 63 == 0;
#else
	(void)user, (void)id, (void)sec, (void)nsec;
	return false;
#endif
}

/* What one try of the other reader has loaded. */
struct pvclock_clock_load {
	struct pvclock_line line;
	uint64_t low, high;  /* the counter */
	uint64_t sec, add;   /* the time is sec + (system time + add) ns */
	uint8_t flags;       /* of the page */
};

/*
 * False: somebody wrote meanwhile, and *load is a mixture. Each count only grows, so their sum is what it was if all of
 * them are (or 2^31 writes came between), and one number is looked at instead of three.
 */
PVCLOCK_INLINE bool pvclock_clock_try(const struct pvclock_user_page *user, const struct pvclock_page *page, unsigned int id,
				      struct pvclock_clock_load *load)
{
	uint32_t sequence, suspend, version, began;

	__asm__ __volatile__("" : "+r"(user), "+r"(page)); /* as above */
	sequence = pvclock_load_acquire_u32(&user->clocks.sequence);
	suspend = pvclock_load_acquire_u32(&user->suspend.sequence);
	version = pvclock_load_acquire_u32(&page->version);

	pvclock_read_counter_halves(&load->low, &load->high);
	began = sequence + suspend + version + ((sequence | suspend | version) << 31); /* an odd one: it will not be that */
	load->flags = pvclock_load_line(page, &load->line);
	load->sec = pvclock_load_relaxed_u64((const uint64_t *)&user->clocks.base[id].sec);
	load->add = pvclock_load_relaxed_u64(&user->clocks.base[id].nsec) +
		    (pvclock_load_relaxed_u64(&user->suspend.uncounted_ns) & (0 - (uint64_t)(PVCLOCK_SUSPEND_CLOCKS >> id & 1)));

	pvclock_fence_acquire();
	return pvclock_load_relaxed_u32(&user->clocks.sequence) + pvclock_load_relaxed_u32(&user->suspend.sequence) +
	       pvclock_load_relaxed_u32(&page->version) == began;
}

/*
 * All that is not usual: bounded tries, pages that have changed since the last tick, and such as are not stable, where `last` is the guard's; NULL: KERNEL is the
 * answer there. A failed reading is all zero, so that nobody who forgets to ask goes on with what was on his stack.
 */
enum pvclock_read pvclock_clock_retry(const struct pvclock_user_page *user, const struct pvclock_page *page, pvclock_last *last,
				      unsigned int id, struct pvclock_time *out);

/* *out is pvclock_time_make. OK, always. */
enum pvclock_read pvclock_time_store(int64_t sec, uint64_t nsec, struct pvclock_time *out);

/*
 * The one reader of all high-resolution clocks; those below are this, and say what they give. `page`: the clock page to read.
 *
 * Latency: from the counter to the result there is one product and one sum, as in pvclock_read_clock, and little else has to be done
 * before the counter is read. A division is needed only where the last tick was a second ago, or is yet to come. What is not usual
 * is a call and the last thing done, so that it takes no register from what is.
 */
PVCLOCK_INLINE enum pvclock_read pvclock_clock_time(const struct pvclock_user_page *user, const struct pvclock_page *page,
						    pvclock_last *last, unsigned int id, struct pvclock_time *out)
{
	uint64_t sec, nsec;

	/* what is ready is of CPU 0's page: another CPU may have been told what that one has not */
	if (__builtin_expect(id < PVCLOCK_CLOCKS && (PVCLOCK_HIGH_CLOCKS >> id & 1) != 0 && page == &user->page &&
			     pvclock_clock_quick(user, id, &sec, &nsec), 1)) {
		if (__builtin_expect(nsec < 1000000000u, 1)) {
			out->sec = (int64_t)sec;
			out->nsec = (uint32_t)nsec;
			return PVCLOCK_READ_OK;
		}
		return pvclock_time_store((int64_t)sec, nsec, out);
	}
	return pvclock_clock_retry(user, page, last, id, out);
}

PVCLOCK_INLINE enum pvclock_read pvclock_clock_ns(const struct pvclock_user_page *user, const struct pvclock_page *page,
						  pvclock_last *last, unsigned int id, uint64_t *ns)
{
	struct pvclock_time time;
	enum pvclock_read result = pvclock_clock_time(user, page, last, id, &time);

	*ns = (uint64_t)time.sec * 1000000000u + time.nsec;
	return result;
}

/*
 * User code's reader of the high-resolution clocks. KERNEL: no such clock here, or the host does not say that all CPUs have one
 * line (PVCLOCK_TSC_STABLE); then a reader needs its own CPU's page and the guard, which is a word that readers write, so it cannot
 * lie in a read-only page. The kernel answers by the reader below. INVALID: the host has published no line. BUSY: a writer never
 * finishes; a process asks the kernel then, too.
 */
PVCLOCK_INLINE enum pvclock_read pvclock_user_time(const struct pvclock_user_page *user, unsigned int id, struct pvclock_time *out)
{
	return pvclock_clock_time(user, &user->page, NULL, id, out);
}

/* The same in ns since the clock's zero, modulo 2^64. */
PVCLOCK_INLINE enum pvclock_read pvclock_user_ns(const struct pvclock_user_page *user, unsigned int id, uint64_t *ns)
{
	return pvclock_clock_ns(user, &user->page, NULL, id, ns);
}

/*
 * The kernel's own reader. `page`: the clock page of the CPU that the caller runs on, and it stays on that CPU
 * meanwhile; `last`: the one word of the guard, for all CPUs, which is touched only where the page is not TSC_STABLE.
 */
PVCLOCK_INLINE enum pvclock_read pvclock_kernel_time(const struct pvclock_user_page *user, const struct pvclock_page *page,
						    pvclock_last *last, unsigned int id, struct pvclock_time *out)
{
	return pvclock_clock_time(user, page, last, id, out);
}

PVCLOCK_INLINE enum pvclock_read pvclock_kernel_ns(const struct pvclock_user_page *user, const struct pvclock_page *page,
						  pvclock_last *last, unsigned int id, uint64_t *ns)
{
	return pvclock_clock_ns(user, page, last, id, ns);
}

#endif /* PVCLOCK_HAS_COUNTER */

/* The one reader of all coarse clocks, for the kernel and user code alike: needs no counter, and never more than the next
 * high-resolution reading. KERNEL: no such clock. */
PVCLOCK_INLINE enum pvclock_read pvclock_coarse_time(const struct pvclock_user_page *user, unsigned int id, struct pvclock_time *out)
{
	uint32_t tries;

	if (id < PVCLOCK_CLOCKS && (PVCLOCK_COARSE_CLOCKS >> id & 1) != 0) {
		for (tries = 0; tries < PVCLOCK_READ_TRIES; tries++) {
			const struct pvclock_clock_base *base = &user->clocks.base[id];
			uint32_t sequence = pvclock_load_acquire_u32(&user->clocks.sequence);
			uint64_t sec = pvclock_load_relaxed_u64((const uint64_t *)&base->sec);
			uint64_t nsec = pvclock_load_relaxed_u64(&base->nsec);

			pvclock_fence_acquire();
			if (__builtin_expect((sequence & 1) == 0 && pvclock_load_relaxed_u32(&user->clocks.sequence) == sequence, 1)) {
				out->sec = (int64_t)sec;
				out->nsec = (uint32_t)nsec;
				return PVCLOCK_READ_OK;
			}
			pvclock_relax();
		}
		out->sec = 0;
		out->nsec = 0;
		return PVCLOCK_READ_BUSY;
	}
	out->sec = 0;
	out->nsec = 0;
	return PVCLOCK_READ_KERNEL;
}

/* The same in ns since the clock's zero, modulo 2^64. */
PVCLOCK_INLINE enum pvclock_read pvclock_coarse_ns(const struct pvclock_user_page *user, unsigned int id, uint64_t *ns)
{
	struct pvclock_time time;
	enum pvclock_read result = pvclock_coarse_time(user, id, &time);

	*ns = (uint64_t)time.sec * 1000000000u + time.nsec;
	return result;
}

/* --- writers ---------------------------------------------------------------------------- */

/*
 * All of them: the kernel's lock held, and no interrupt on this CPU whose handler reads a clock (it would wait for what
 * it interrupted). Readers on any CPU go on meanwhile. `now_ns`: system time, MONOTONIC read in ns under that lock; one
 * that is less than an earlier one counts as that, so the coarse clocks never go back.
 */

/* What passed without the guest, as its clocks count it now. */
uint64_t pvclock_clocks_uncounted(const struct pvclock_user_page *user);

/*
 * REALTIME and TAI from what the wall clock page says (pvclock_wall_clock_read): UTC at system time 0, in ns since
 * 1970. A host that is asked for it after a suspend has that in it: `uncounted_ns` is pvclock_clocks_uncounted, both
 * before and after the host was asked; who finds that the two differ asks again. pvclock_clocks_told begins to count
 * here.
 */
void pvclock_clocks_start(struct pvclock_user_page *user, uint64_t now_ns, uint64_t epoch_ns, uint64_t uncounted_ns,
			  int32_t tai_minus_utc);

#if defined(__x86_64__) || defined(__i386__)
/*
 * All of that on x86, once, on CPU 0: registers the clock page and, where the host offers it, the suspend page, asks
 * for the wall clock, and starts. `user_gpa`, `wall_gpa`: where *user and *wall are for the host (physical addresses);
 * *wall is 4-byte aligned. OK, or what was read of the wall clock or the clock page.
 */
enum pvclock_read pvclock_clocks_begin(struct pvclock_user_page *user, uint64_t user_gpa, struct pvclock_wall_clock *wall,
				       uint64_t wall_gpa, int32_t tai_minus_utc);
#endif

#if defined(__x86_64__) || defined(__i386__)
/*
 * Measures whether RDTSCP or LFENCE and RDTSC costs less here, some 50 us long, and has readers use it (src/guest/counter.c). Once, before
 * processes read; pvclock_clocks_begin does it. All CPUs of the machine have RDTSCP, or none.
 */
void pvclock_clocks_choose_counter(struct pvclock_user_page *user);
#endif

/*
 * At every timer interrupt, or as often as coarse clocks are to move: they become what the others are now. Those do not
 * change: every reading of each is exactly what it was, but needs no division if it is less than a second after the
 * last tick.
 */
void pvclock_clocks_tick(struct pvclock_user_page *user, uint64_t now_ns);

/*
 * REALTIME is `realtime` where system time is now_ns and pvclock_clocks_uncounted is uncounted_ns, and TAI as far ahead
 * of it as before. Who computes a new time from an old one reads these two with the old one: then a suspend in between
 * is not lost. MONOTONIC and BOOTTIME: nothing happened. (clock_settime)
 */
void pvclock_clocks_set_realtime(struct pvclock_user_page *user, uint64_t now_ns, uint64_t uncounted_ns,
				 const struct pvclock_time *realtime);

/* TAI is `tai_minus_utc` s ahead of REALTIME, and nothing else changes. (adjtimex, ADJ_TAI) */
void pvclock_clocks_set_tai(struct pvclock_user_page *user, uint64_t now_ns, int32_t tai_minus_utc);

/*
 * A leap second that UTC has inserted (seconds 1) or left out (-1) up to now_ns, which is at or after the midnight of it: REALTIME
 * goes back, or forward, by that, and TAI goes on as if nothing had happened.
 */
void pvclock_clocks_leap(struct pvclock_user_page *user, uint64_t now_ns, int32_t seconds);

/* What pvclock_clocks_told found: sums since it was last asked. */
struct pvclock_told {
	uint64_t uncounted_ns;    /* system time does not count it: the clocks of PVCLOCK_SUSPEND_CLOCKS went forward by it */
	uint64_t counted_ns;      /* system time does: all clocks went forward by it, and watchdogs may be late by it */
	uint64_t count;           /* how often; 0: nothing happened */
	uint64_t error_ns;        /* of all sums since the machine began; UINT64_MAX: not known */
	enum pvclock_cause cause; /* of the last time */
};

/*
 * After the interrupt by which the host tells that time passed without the guest. The high-resolution clocks have it already; now
 * the coarse ones have it, too. OK, or what the suspend page's reader says (*told is then all 0): INVALID, there is none.
 */
enum pvclock_read pvclock_clocks_told(struct pvclock_user_page *user, uint64_t now_ns, struct pvclock_told *told);

#ifdef __cplusplus
}
#endif
#endif
