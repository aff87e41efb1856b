/* SPDX-License-Identifier: MIT */
/*
 * page.h - a line in shared memory: the layouts that a guest and its hypervisor share, and the one
 * protocol (a sequence count) by which they are written and read. Usable from both sides; freestanding.
 *
 * Sources: Linux Documentation/virt/kvm/x86/msr.rst (MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_WALL_CLOCK_NEW) and
 * arch/x86/include/asm/pvclock-abi.h.
 */
#ifndef PVCLOCK_PAGE_H
#define PVCLOCK_PAGE_H

#include <pvclock/line.h>

#include <stddef.h>
#include <stdint.h>
#ifndef __cplusplus
#include <stdatomic.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* --- layouts ----------------------------------------------------------------------- */

#define PVCLOCK_TSC_STABLE (1u << 0)    /* one line for all vCPUs: no guard needed */
#define PVCLOCK_GUEST_STOPPED (1u << 1) /* the host stopped the guest; the guest clears it when it was seen */

/*
 * version is odd while the host writes. A reader takes version, the body, the TSC, and version again,
 * and starts over if version was odd or changed. Then, with d = TSC - tsc_timestamp (0 if that is negative):
 *
 *     tsc_shift >= 0:  ns = system_time + (d << tsc_shift) * tsc_to_system_mul / 2^32
 *     tsc_shift <  0:  ns = system_time + (d >> -tsc_shift) * tsc_to_system_mul / 2^32
 *
 * Little-endian, as all machines are that have this page. The ABI promises 4-byte alignment and no more: a
 * guest that wants to read with 64-bit loads aligns its pages to 8 bytes itself.
 */
struct pvclock_page {
	uint32_t version;
	uint32_t pad0;
	uint64_t tsc_timestamp;     /* guest TSC ticks */
	uint64_t system_time;       /* ns */
	uint32_t tsc_to_system_mul; /* line.mul */
	int8_t tsc_shift;           /* line.shift */
	uint8_t flags;
	uint8_t pad[2];
};

/* sec:nsec is the time of day (UTC) at which system time was 0. Written only when the guest asks. */
struct pvclock_wall_clock {
	uint32_t version;
	uint32_t sec;
	uint32_t nsec;
};

/* Why the guest did not run. */
enum pvclock_cause {
	PVCLOCK_CAUSE_NONE = 0,    /* it never stood still */
	PVCLOCK_CAUSE_SUSPEND,     /* the host slept */
	PVCLOCK_CAUSE_PAUSE,
	PVCLOCK_CAUSE_SNAPSHOT,    /* from the save to this restore */
	PVCLOCK_CAUSE_MIGRATION,   /* from one host to another */
	PVCLOCK_CAUSE_LIVE_UPDATE, /* from one VMM to the next on the same host */
};

#define PVCLOCK_SUSPEND_MAGIC 0x55535650u /* "PVSU" */
#define PVCLOCK_SUSPEND_VERSION 1u

/*
 * Time that passed while the guest did not run: docs/spec/suspend.md. For any OS and architecture; the host writes, the guest
 * reads, by the same protocol as above with `sequence` for version. Sums since the machine began, on all its hosts: a guest that
 * misses an announcement misses nothing. Little-endian; 8-byte aligned.
 */
struct pvclock_suspend_page {
	uint32_t magic, version;   /* 0: nobody writes here */
	uint32_t sequence;         /* odd while the host writes */
	uint32_t cause;            /* enum pvclock_cause, of the last time */
	uint64_t count;            /* how often */
	uint64_t uncounted_ns;     /* passed in all, and system time does not count it: clocks of the day, and BOOTTIME, add it */
	uint64_t counted_ns;       /* passed in all, and system time counts it */
	uint64_t last_ns;          /* of these, the last time */
	uint64_t error_ns;         /* the true sum is this close to uncounted_ns + counted_ns; UINT64_MAX: not known */
	uint64_t counter;          /* the guest's counter (x86: TSC) from which on all this holds */
};

/*
 * How long a vCPU was ready to run and the host did not run it. version as above. `preempted` says that it is so right
 * now, which only a kernel can say: 0 where userspace writes this page (docs/steal.md). Little-endian; 64-byte aligned.
 */
struct pvclock_steal_page {
	uint64_t steal;      /* ns, of which only the difference of two readings means something */
	uint32_t version;
	uint32_t flags;      /* 0 */
	uint8_t preempted;
	uint8_t pad[3];
	uint32_t reserved[11];
};

#ifndef __cplusplus
_Static_assert(sizeof(struct pvclock_steal_page) == 64, "KVM ABI");
_Static_assert(offsetof(struct pvclock_steal_page, version) == 8, "KVM ABI");
_Static_assert(offsetof(struct pvclock_steal_page, flags) == 12, "KVM ABI");
_Static_assert(offsetof(struct pvclock_steal_page, preempted) == 16, "KVM ABI");
_Static_assert(sizeof(struct pvclock_page) == 32, "pvclock ABI");
_Static_assert(offsetof(struct pvclock_page, version) == 0, "pvclock ABI");
_Static_assert(offsetof(struct pvclock_page, tsc_timestamp) == 8, "pvclock ABI");
_Static_assert(offsetof(struct pvclock_page, system_time) == 16, "pvclock ABI");
_Static_assert(offsetof(struct pvclock_page, tsc_to_system_mul) == 24, "pvclock ABI");
_Static_assert(offsetof(struct pvclock_page, tsc_shift) == 28, "pvclock ABI");
_Static_assert(offsetof(struct pvclock_page, flags) == 29, "pvclock ABI");
_Static_assert(sizeof(struct pvclock_wall_clock) == 12, "pvclock ABI");
_Static_assert(offsetof(struct pvclock_wall_clock, sec) == 4, "pvclock ABI");
_Static_assert(offsetof(struct pvclock_wall_clock, nsec) == 8, "pvclock ABI");
_Static_assert(sizeof(struct pvclock_suspend_page) == 64, "docs/spec/suspend.md");
_Static_assert(offsetof(struct pvclock_suspend_page, sequence) == 8, "docs/spec/suspend.md");
_Static_assert(offsetof(struct pvclock_suspend_page, cause) == 12, "docs/spec/suspend.md");
_Static_assert(offsetof(struct pvclock_suspend_page, count) == 16, "docs/spec/suspend.md");
_Static_assert(offsetof(struct pvclock_suspend_page, uncounted_ns) == 24, "docs/spec/suspend.md");
_Static_assert(offsetof(struct pvclock_suspend_page, counted_ns) == 32, "docs/spec/suspend.md");
_Static_assert(offsetof(struct pvclock_suspend_page, last_ns) == 40, "docs/spec/suspend.md");
_Static_assert(offsetof(struct pvclock_suspend_page, error_ns) == 48, "docs/spec/suspend.md");
_Static_assert(offsetof(struct pvclock_suspend_page, counter) == 56, "docs/spec/suspend.md");
#endif

/* --- shared words ------------------------------------------------------------------- */

/*
 * What the other side may be changing is read and written through these and nothing else: no torn word, no second
 * read behind the programmer's back, no data race. (C++ before 23 has no _Atomic: there the compiler's own atomics
 * stand in.)
 */
static inline uint32_t pvclock_load_acquire_u32(const void *word)
{
#ifdef __cplusplus
	return __atomic_load_n((const uint32_t *)word, __ATOMIC_ACQUIRE);
#else
	return atomic_load_explicit((const _Atomic uint32_t *)word, memory_order_acquire);
#endif
}

static inline uint32_t pvclock_load_relaxed_u32(const void *word)
{
#ifdef __cplusplus
	return __atomic_load_n((const uint32_t *)word, __ATOMIC_RELAXED);
#else
	return atomic_load_explicit((const _Atomic uint32_t *)word, memory_order_relaxed);
#endif
}

/* Of the body of a page, which the version guards: on a 32-bit machine two loads, that a writer may come between. */
static inline uint64_t pvclock_load_relaxed_u64(const uint64_t *word)
{
#if UINTPTR_MAX > 0xffffffffu && defined(__cplusplus)
	return __atomic_load_n(word, __ATOMIC_RELAXED);
#elif UINTPTR_MAX > 0xffffffffu
	return atomic_load_explicit((const _Atomic uint64_t *)word, memory_order_relaxed);
#else
	const uint32_t *half = (const uint32_t *)(const void *)word;

	return (uint64_t)pvclock_load_relaxed_u32(half + 1) << 32 | pvclock_load_relaxed_u32(half);
#endif
}

/* gcc's ThreadSanitizer does not model fences and says so: it need not, since no access here is a plain one. */
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
static inline void pvclock_fence_acquire(void)
{
#ifdef __cplusplus
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
#else
	atomic_thread_fence(memory_order_acquire);
#endif
}
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

/* In a loop that waits for another CPU. */
static inline void pvclock_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__asm__ __volatile__("pause" ::: "memory");
#else
	__asm__ __volatile__("" ::: "memory");
#endif
}

/* --- writers (the host's side) ------------------------------------------------------ */

/*
 * Publishes a line. `page` points into guest memory, 4-byte aligned, 32 bytes; the guest may write there at any time,
 * and nothing that it writes can do more than spoil its own page. One writer at a time per page: the
 * caller's lock. `flags` replaces the page's flags, but a GUEST_STOPPED that the guest has not yet cleared stays.
 * A version that was left odd by a writer that died is repaired. An invalid line is published as it is: readers
 * then say INVALID. Padding is left alone before the line, and zeroed after the flags.
 */
void pvclock_page_write(void *page, const struct pvclock_line *line, uint8_t flags);

/*
 * Writes the time of day at system time 0: ns_since_epoch / 10^9 is truncated to the ABI's 32 bits (2106). `page`:
 * 4-byte aligned, 12 bytes; else as above. The version never becomes 0, which means "never written".
 */
void pvclock_wall_clock_write(void *page, uint64_t ns_since_epoch);

/* What a suspend page says. */
struct pvclock_suspend {
	enum pvclock_cause cause;
	uint64_t count, uncounted_ns, counted_ns, last_ns, error_ns, counter;
	uint32_t sequence; /* of what was read; even */
};

/* "none", "suspend", "pause", "snapshot", "migration", "live-update"; "?" for what is none. */
const char *pvclock_cause_name(enum pvclock_cause cause);

/* Writes all of it but `sequence`, which goes on from the page's. `page`: 8-byte aligned, 64 bytes; else as above. */
void pvclock_suspend_write(void *page, const struct pvclock_suspend *suspend);

/* Writes stolen time, and that the vCPU is not preempted; flags are left alone. `page`: 4-byte aligned, 64 bytes; else as above. */
void pvclock_steal_write(void *page, uint64_t ns);

/* --- seconds ------------------------------------------------------------------------ */

/*
 * floor(ns / 10^9), and *nsec the rest: 64 bits, by a product rather than a division, which a 32-bit kernel has no function for.
 *
 * With a = floor(ns / 2^9) and d = 10^9 / 2^9 = 1953125 it is floor(a / d). m = ceil(2^84 / d) fits 64 bits, and m * d
 * = 2^84 + e with 0 <= e < d < 2^21. So a * m / 2^84 = a / d + a * e / (d * 2^84), and as a * e < 2^55 * 2^21 < 2^84
 * that adds less than 1 / d: too little to reach the next integer.
 */
static inline uint64_t pvclock_seconds(uint64_t ns, uint32_t *nsec)
{
	pvclock_word low;
	uint64_t seconds = pvclock_word_mul((pvclock_word)(ns >> 9), (pvclock_word)UINT64_C(0x89705f4136b4a598), &low) >> 20;

	*nsec = (uint32_t)(ns - seconds * 1000000000u);
	return seconds;
}

/* --- readers (both sides) ----------------------------------------------------------- */

enum pvclock_read {
	PVCLOCK_READ_OK = 0,
	PVCLOCK_READ_BUSY,    /* version stayed odd, or kept changing, for as long as the reader was ready to try */
	PVCLOCK_READ_INVALID, /* mul 0 (a page never written), or shift outside -31 ... 31 */
	PVCLOCK_READ_KERNEL,  /* user code's reader (clock.h) only: the kernel has to be asked */
};

/* A consistent copy of a page. */
struct pvclock_snapshot {
	struct pvclock_line line;
	uint32_t version;
	uint8_t flags;
};

/* How often a reader starts over before it says BUSY: far longer than a writer takes, far shorter than a hang. */
#define PVCLOCK_READ_TRIES 1000000u

/* Copies the page as it stood at one version. `page`: 4-byte aligned. On INVALID, *out holds what was read. */
enum pvclock_read pvclock_page_read(const void *page, struct pvclock_snapshot *out);

/* The same for the wall clock: UTC ns since the epoch at system time 0. INVALID: nsec >= 10^9 or version 0. */
enum pvclock_read pvclock_wall_clock_read(const void *page, uint64_t *ns_since_epoch);

/* And for what passed without the guest; later versions have these fields, too. INVALID: nobody writes this page. */
enum pvclock_read pvclock_suspend_read(const void *page, struct pvclock_suspend *out);

/* And for stolen time, ns. There is nothing by which it could be INVALID. */
enum pvclock_read pvclock_steal_read(const void *page, uint64_t *ns);

const char *pvclock_read_text(enum pvclock_read result);

#ifdef __cplusplus
}
#endif
#endif
