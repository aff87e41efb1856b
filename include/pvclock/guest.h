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
#define PVCLOCK_MSR_SYSTEM_TIME 0x4b564d01u
#define PVCLOCK_MSR_ENABLE 1u

struct pvclock_reading {
	uint64_t ns;                  /* system time */
	struct pvclock_guest_tsc tsc; /* the tick at which it was read: ns == line(tsc) exactly */
	uint32_t version;             /* of the page; even */
	uint8_t flags;                /* PVCLOCK_TSC_STABLE, PVCLOCK_GUEST_STOPPED */
};

/*
 * ns = line(tsc) of a page's body, as pvclock_line_ns defines it, with nothing in the way of the usual case: a
 * page that a sane host wrote, and a TSC not 584 years past the anchor. False for an invalid page; *ns is then system_time.
 */
static inline bool pvclock_body_ns(uint64_t tsc_timestamp, uint64_t system_time, uint32_t mul, int shift, uint64_t tsc,
				   uint64_t *ns)
{
	uint64_t delta = tsc > tsc_timestamp ? tsc - tsc_timestamp : 0;
	uint64_t low, high;

	*ns = system_time;
	if (mul == 0 || shift < PVCLOCK_SHIFT_MIN || shift > PVCLOCK_SHIFT_MAX)
		return false;
	if (shift < 0) {
		delta >>= -shift;
	} else if (delta >> 32 >> (32 - shift) != 0) {
		/* delta << shift needs more than 64 bits: the general form, which may saturate */
		struct pvclock_line line = { tsc_timestamp, system_time, mul, (int8_t)shift };

		*ns = pvclock_line_ns(&line, tsc);
		return true;
	} else {
		delta <<= shift;
	}
#ifdef __SIZEOF_INT128__
	low = (uint64_t)((__extension__(unsigned __int128)delta * mul) >> 32);
	high = 0;
#else
	low = (delta & 0xffffffffu) * mul >> 32;
	high = (delta >> 32) * mul;
#endif
	/* high + low < 2^64: it is (delta * mul) >> 32 of a 64-bit and a 32-bit number */
	*ns = system_time + (high + low);
	if (*ns < system_time)
		*ns = UINT64_MAX;
	return true;
}

#if defined(__x86_64__) || defined(__i386__)

/*
 * The TSC, after all earlier loads (Intel SDM 2B, RDTSC: "if software requires RDTSC to be executed only after
 * all previous instructions have executed and all previous loads are globally visible, it can execute LFENCE").
 * On AMD that needs LFENCE to be dispatch serializing (APM 2, 3.2.2: always so where CPUID 0x80000021.EAX[2] is set, else
 * by MSR 0xC0011029[1], as every hypervisor in use sets it). On i386: CPUs with SSE2.
 */
static inline struct pvclock_guest_tsc pvclock_read_tsc(void)
{
	uint32_t low, high;
	struct pvclock_guest_tsc tsc;

	__asm__ __volatile__("lfence\n\trdtsc" : "=a"(low), "=d"(high) : : "memory");
	tsc.ticks = (uint64_t)high << 32 | low;
	return tsc;
}

/*
 * Reads the clock: a pure function of (page, TSC). `page` is this CPU's own, 8-byte aligned. Bounded: BUSY after
 * PVCLOCK_READ_TRIES, and then ns, tsc, and flags are 0. An INVALID page gives ns = its system_time.
 *
 * Inline, because the whole of it costs little more than the lfence and the rdtsc in it; what the caller does not
 * use of *out, the compiler drops.
 *
 * Why it is right: the body's loads and the two loads of version are a sequence count's reader (the argument is in
 * src/page/write.c). The TSC is no part of that; it must only not be older than the body, and lfence sees to that. A CPU may
 * load version for the second time before it executes rdtsc. That is harmless: the body was then the page's at an
 * instant before the TSC was read, and a line holds for every later TSC until the host changes it. The host changes it with all
 * vCPUs out of guest mode, and a VM exit between the two throws the early load away, since rdtsc and the load retire in order.
 */
static inline enum pvclock_read pvclock_read_clock(const struct pvclock_page *page, struct pvclock_reading *out)
{
	uint32_t tries;

	for (tries = 0; tries < PVCLOCK_READ_TRIES; tries++) {
		uint32_t version = pvclock_load_acquire_u32(&page->version);
		uint64_t tsc_timestamp = pvclock_load_relaxed_u64(&page->tsc_timestamp);
		uint64_t system_time = pvclock_load_relaxed_u64(&page->system_time);
		uint32_t mul = pvclock_load_relaxed_u32(&page->tsc_to_system_mul);
		/* tsc_shift, flags, and padding: one word */
		uint32_t tail = pvclock_load_relaxed_u32((const char *)page + offsetof(struct pvclock_page, tsc_shift));
		struct pvclock_guest_tsc tsc = pvclock_read_tsc();

		pvclock_fence_acquire();
		if (__builtin_expect((version & 1) == 0 && pvclock_load_relaxed_u32(&page->version) == version, 1)) {
			bool valid = pvclock_body_ns(tsc_timestamp, system_time, mul, (int8_t)(tail & 0xff), tsc.ticks,
						     &out->ns);

			out->tsc = tsc;
			out->version = version;
			out->flags = (uint8_t)(tail >> 8);
			return valid ? PVCLOCK_READ_OK : PVCLOCK_READ_INVALID;
		}
		pvclock_relax();
	}
	out->ns = 0;
	out->tsc.ticks = 0;
	out->version = 0;
	out->flags = 0;
	return PVCLOCK_READ_BUSY;
}

#endif /* x86 */

/*
 * The monotonic guard for pages without TSC_STABLE, shared by all CPUs: the largest value that any CPU
 * has returned. Returns max(ns, *last) and stores it. Lock-free: a CPU starts over only where another one got further. In
 * C++, *last is a uint64_t aligned to 8 bytes that nothing else touches.
 */
#ifdef __cplusplus
uint64_t pvclock_guard(uint64_t *last, uint64_t ns);
#else
uint64_t pvclock_guard(_Atomic uint64_t *last, uint64_t ns);
#endif

/* If the host stopped the guest: clears the flag on this CPU's page and returns true. Nothing else in the page changes. */
bool pvclock_take_guest_stopped(struct pvclock_page *page);

#ifdef __cplusplus
}
#endif
#endif
