/* SPDX-License-Identifier: MIT */
/*
 * guest.h - the guest's side: what a small kernel links to tell the time from its page.
 * Freestanding: no libc, no allocation, no state but what the caller passes.
 */
#ifndef PVCLOCK_GUEST_H
#define PVCLOCK_GUEST_H

#include <pvclock/page.h>

#ifdef __cplusplus
extern "C" {
#endif

/* MSRs (Linux Documentation/virt/kvm/x86/msr.rst). */
#define PVCLOCK_MSR_WALL_CLOCK_OLD 0x11u
#define PVCLOCK_MSR_SYSTEM_TIME_OLD 0x12u
#define PVCLOCK_MSR_WALL_CLOCK 0x4b564d00u
#define PVCLOCK_MSR_STEAL_TIME 0x4b564d03u
#define PVCLOCK_MSR_SYSTEM_TIME 0x4b564d01u
#define PVCLOCK_MSR_ENABLE 1u

struct pvclock_reading {
	uint64_t ns;                  /* system time */
	struct pvclock_guest_tsc tsc; /* the tick at which it was read: ns == line(tsc) exactly */
	uint32_t version;             /* of the page; even */
	uint8_t flags;                /* PVCLOCK_TSC_STABLE, PVCLOCK_GUEST_STOPPED */
};

#if defined(__x86_64__) || defined(__i386__)

/*
 * The TSC, after all earlier loads (Intel SDM 2B, RDTSC: "If software requires RDTSC to be executed only after all
 * previous instructions have executed and all previous loads are globally visible, it can execute LFENCE immediately
 * before RDTSC"). On AMD that needs LFENCE to be dispatch serializing (CPUID 0x80000021.EAX[2], or MSR 0xC0011029[1],
 * which Linux sets where it is not). On i386: CPUs with SSE2.
 */
static inline struct pvclock_guest_tsc pvclock_read_tsc(void)
{
	uint32_t low, high;
	struct pvclock_guest_tsc tsc;

	__asm__ __volatile__("lfence\n\trdtsc" : "=a"(low), "=d"(high) : : "memory");
	tsc.ticks = (uint64_t)high << 32 | low;
	return tsc;
}

#endif

/*
 * The counter that this machine's lines are over, after all earlier loads, as *high * 2^32 + *low. Where one instruction gives
 * all of it, *high is 0 and *low has 64 bits: rdtsc gives two halves, and who puts them together first waits longer.
 *
 * - x86: the TSC, as above.
 * - aarch64: CNTVCT_EL0. It "can be accessed ... out of order"; ISB keeps it behind the instructions before it (Arm ARM D12.2.2,
 *   D24.10.18), DMB ISHLD makes these wait for the loads. The hypervisor's CNTVOFF_EL2 is what offset is on x86.
 * - riscv64: time. "CSR read accesses are classified as device input" (Unprivileged ISA, Zicsr, CSR Access Ordering): FENCE r, i.
 *
 * Nothing orders what comes after it, on any of them; pvclock_read_clock says why a reader needs nothing there. Other
 * machines have no reader here.
 */
#if defined(__x86_64__) || defined(__i386__) || defined(__aarch64__) || (defined(__riscv) && __riscv_xlen == 64)
#define PVCLOCK_HAS_COUNTER 1

static inline void pvclock_read_counter_halves(uint64_t *low, uint64_t *high)
{
#if defined(__x86_64__)
	/* rdtsc clears the upper halves */
	__asm__ __volatile__("lfence\n\trdtsc" : "=a"(*low), "=d"(*high) : : "memory");
#elif defined(__i386__)
	uint32_t eax, edx;

	__asm__ __volatile__("lfence\n\trdtsc" : "=a"(eax), "=d"(edx) : : "memory");
	*low = eax;
	*high = edx;
#elif defined(__aarch64__)
	__asm__ __volatile__("dmb ishld\n\tisb\n\tmrs %0, cntvct_el0" : "=r"(*low) : : "memory");
	*high = 0;
#else
	__asm__ __volatile__("fence r, i\n\trdtime %0" : "=r"(*low) : : "memory");
	*high = 0;
#endif
}

/* The same as one number. */
static inline struct pvclock_guest_tsc pvclock_read_counter(void)
{
	uint64_t low, high;
	struct pvclock_guest_tsc tsc;

	pvclock_read_counter_halves(&low, &high);
	tsc.ticks = high << 32 | low;
	return tsc;
}

#endif /* PVCLOCK_HAS_COUNTER */

/*
 * pvclock_line_ns + add, modulo 2^64, for a counter in the two halves that pvclock_read_counter_halves gives: the same value, in
 * fewer steps from the counter to the result, because a reader waits for every one of them. (tests/guest holds the
 * two against each other.)
 *
 * With s = -shift: (d >> s) * mul >> 32 is the high word of (d without its low s bits) * (mul << (32 - s)), one
 * multiplication with no shift after it. And because s < 32, the low bits are cleared before the high half is added.
 * Nothing can saturate if both addends are below 2^63, and the gain is at most d: known without waiting for the
 * product. The anchor below 2^63, too, makes one sign say all of it: d of a counter before it is then 2^63 and more.
 * And what does not depend on the counter is added up while that is waited for.
 */
static inline uint64_t pvclock_halves_ns(const struct pvclock_line *line, uint64_t low, uint64_t high, uint64_t add)
{
#if defined(__SIZEOF_INT128__) && !defined(PVCLOCK_NO_INT128)
	int shift = line->shift;

	if (__builtin_expect(shift <= 0 && shift >= PVCLOCK_SHIFT_MIN, 1)) {
		uint64_t mask = UINT64_MAX << -shift, factor = (uint64_t)line->mul << (32 + shift), delta;

		/* hidden, or clang makes it a shift to the right and one to the left, both in the way */
		__asm__("" : "+r"(mask));
		delta = (high << 32) + ((low - line->tsc) & mask);
		if (__builtin_expect((line->ns | line->tsc | delta) >> 63 == 0, 1))
			return line->ns + add + (uint64_t)((__extension__(unsigned __int128)delta * factor) >> 64);
	}
#endif
	return pvclock_line_ns(line, high << 32 | low) + add;
}

/* The body of a page, by the loads that its version guards; returns the flags. */
static inline uint8_t pvclock_load_line(const struct pvclock_page *page, struct pvclock_line *line)
{
	/* tsc_shift, flags, and padding: one word */
	uint32_t tail = pvclock_load_relaxed_u32((const char *)page + offsetof(struct pvclock_page, tsc_shift));

	line->tsc = pvclock_load_relaxed_u64(&page->tsc_timestamp);
	line->ns = pvclock_load_relaxed_u64(&page->system_time);
	line->mul = pvclock_load_relaxed_u32(&page->tsc_to_system_mul);
	line->shift = (int8_t)(tail & 0xff);
	return (uint8_t)(tail >> 8);
}

#ifdef PVCLOCK_HAS_COUNTER

/*
 * Reads the clock: a pure function of (page, counter). `page` is this CPU's own, 8-byte aligned. Bounded: BUSY after
 * PVCLOCK_READ_TRIES, and then all of *out is 0. An INVALID page gives ns = its system_time.
 *
 * Inline, because the whole of it costs little more than the lfence and the rdtsc in it; what the caller does not
 * use of *out, the compiler drops.
 *
 * Why it is right: the loads of version and of the body are a sequence count's reader (the argument is in
 * src/page/write.c), so the body is that of the version that was loaded first. The TSC is no part of that; it must
 * only not be older than the line it is put into, and it is not: lfence keeps it behind the first load of version, by
 * which time that line was published. The body's loads come after it in order to run beside it.
 *
 * A CPU may load version for the second time before it executes rdtsc. That is harmless: the line was then the
 * page's until an instant before the TSC was read, and a line holds for every later TSC until the host changes it. The
 * host does so with all vCPUs out of guest mode, and a VM exit between the two throws the early load away, since
 * rdtsc and the load retire in order. (Other machines' counters the same: an exception is taken between two instructions.)
 */
static inline enum pvclock_read pvclock_read_clock(const struct pvclock_page *page, struct pvclock_reading *out)
{
	uint32_t tries;

	for (tries = 0; tries < PVCLOCK_READ_TRIES; tries++) {
		struct pvclock_line line;
		uint64_t low, high;
		uint32_t version = pvclock_load_acquire_u32(&page->version);
		uint8_t flags;

		pvclock_read_counter_halves(&low, &high);
		flags = pvclock_load_line(page, &line);

		pvclock_fence_acquire();
		if (__builtin_expect((version & 1) == 0 && pvclock_load_relaxed_u32(&page->version) == version, 1)) {
			out->ns = pvclock_halves_ns(&line, low, high, 0);
			out->tsc.ticks = high << 32 | low;
			out->version = version;
			out->flags = flags;
			return pvclock_line_valid(&line) ? PVCLOCK_READ_OK : PVCLOCK_READ_INVALID;
		}
		pvclock_relax();
	}
	out->ns = 0;
	out->tsc.ticks = 0;
	out->version = 0;
	out->flags = 0;
	return PVCLOCK_READ_BUSY;
}

#endif /* PVCLOCK_HAS_COUNTER */

/*
 * The monotonic guard for pages without TSC_STABLE, shared by all CPUs: the largest value that any CPU has returned.
 * Returns max(ns, *last) and stores it. Lock-free: a CPU starts over only where another one got further. In C++,
 * *last is a uint64_t aligned to 8 bytes that nothing else touches.
 */
#ifdef __cplusplus
typedef uint64_t pvclock_last;
#else
typedef _Atomic uint64_t pvclock_last;
#endif
uint64_t pvclock_guard(pvclock_last *last, uint64_t ns);

/* If the host stopped the guest: clears the flag on this CPU's page, and nothing else in it, and returns true. */
bool pvclock_take_guest_stopped(struct pvclock_page *page);

#ifdef __cplusplus
}
#endif
#endif
