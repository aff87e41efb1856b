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
 * Reads the clock: a pure function of (page, TSC). `page` is this CPU's own, 8-byte aligned. Bounded: BUSY after
 * PVCLOCK_READ_TRIES. An INVALID page gives ns = its system_time.
 */
enum pvclock_read pvclock_read_clock(const struct pvclock_page *page, struct pvclock_reading *out);

/*
 * The monotonic guard for pages without TSC_STABLE, shared by all CPUs: the largest value that any CPU
 * has returned. Returns max(ns, *last) and stores it.
 */
uint64_t pvclock_guard(_Atomic uint64_t *last, uint64_t ns);

/* If the host stopped the guest: clears the flag on this CPU's page and returns true. */
bool pvclock_take_guest_stopped(struct pvclock_page *page);

#ifdef __cplusplus
}
#endif
#endif
