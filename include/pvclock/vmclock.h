/* SPDX-License-Identifier: MIT */
/*
 * vmclock.h - VMClock: the time of day as a function of the guest's counter, with its error, in a page that a VMM gives a place
 * for (docs/vmclock.md). Usable from both sides; freestanding.
 *
 * Source: Linux include/uapi/linux/vmclock-abi.h. (UAPI.13's table has two flags and the last field elsewhere; Linux, QEMU and
 * Firecracker go by the header.)
 */
#ifndef PVCLOCK_VMCLOCK_H
#define PVCLOCK_VMCLOCK_H

#include <pvclock/page.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- layout ------------------------------------------------------------------------ */

#define PVCLOCK_VMCLOCK_MAGIC 0x4b4c4356u /* "VCLK" */
#define PVCLOCK_VMCLOCK_VERSION 1u

enum pvclock_vmclock_counter {
	PVCLOCK_VMCLOCK_COUNTER_ARM = 0,
	PVCLOCK_VMCLOCK_COUNTER_TSC = 1,
	PVCLOCK_VMCLOCK_COUNTER_INVALID = 0xff,
};

enum pvclock_vmclock_type {
	PVCLOCK_VMCLOCK_UTC = 0,
	PVCLOCK_VMCLOCK_TAI = 1,
	PVCLOCK_VMCLOCK_MONOTONIC = 2,
};

#define PVCLOCK_VMCLOCK_TAI_OFFSET_VALID (1u << 0)
#define PVCLOCK_VMCLOCK_DISRUPTION_SOON (1u << 1)
#define PVCLOCK_VMCLOCK_DISRUPTION_IMMINENT (1u << 2)
#define PVCLOCK_VMCLOCK_PERIOD_ESTERROR_VALID (1u << 3)
#define PVCLOCK_VMCLOCK_PERIOD_MAXERROR_VALID (1u << 4)
#define PVCLOCK_VMCLOCK_TIME_ESTERROR_VALID (1u << 5)
#define PVCLOCK_VMCLOCK_TIME_MAXERROR_VALID (1u << 6)
#define PVCLOCK_VMCLOCK_TIME_MONOTONIC (1u << 7)
#define PVCLOCK_VMCLOCK_VM_GEN_COUNTER_PRESENT (1u << 8)
#define PVCLOCK_VMCLOCK_NOTIFICATION_PRESENT (1u << 9)

enum pvclock_vmclock_status {
	PVCLOCK_VMCLOCK_UNKNOWN = 0,
	PVCLOCK_VMCLOCK_INITIALIZING = 1, /* the host's clock is not synchronized yet: not to be relied upon */
	PVCLOCK_VMCLOCK_SYNCHRONIZED = 2,
	PVCLOCK_VMCLOCK_FREERUNNING = 3,  /* it was, and the bounds go on growing from there */
	PVCLOCK_VMCLOCK_UNRELIABLE = 4,   /* the counter is none, or the host has no such time */
};

enum pvclock_vmclock_leap {
	PVCLOCK_VMCLOCK_LEAP_NONE = 0,
	PVCLOCK_VMCLOCK_LEAP_PRE_POS = 1, /* one will be inserted */
	PVCLOCK_VMCLOCK_LEAP_PRE_NEG = 2,
	PVCLOCK_VMCLOCK_LEAP_POS = 3,     /* it is 23:59:60 */
	PVCLOCK_VMCLOCK_LEAP_POST_POS = 4,
	PVCLOCK_VMCLOCK_LEAP_POST_NEG = 5,
};

/*
 * seq_count is odd while the host writes; a reader does as with pvclock_page's version. Then, with d = counter - counter_value,
 *
 *     time = time_sec:time_frac_sec + (d * counter_period_frac_sec >> counter_period_shift)       in units of 2^-64 s
 *
 * and its error is at most time_maxerror_nanosec + d * counter_period_maxerror_rate_frac_sec, by the same shift. Little-endian;
 * 8-byte aligned. The fields up to time_type are constant while the guest lives.
 */
struct pvclock_vmclock_page {
	uint32_t magic, size; /* of the region that holds it, which a guest may map */
	uint16_t version;
	uint8_t counter_id, time_type;
	uint32_t seq_count;
	uint64_t disruption_marker; /* another one: what was known of the counter's rate and value no longer holds */
	uint64_t flags;
	uint8_t pad[2];
	uint8_t clock_status, leap_second_smearing_hint;
	int16_t tai_offset_sec; /* TAI - UTC */
	uint8_t leap_indicator, counter_period_shift;
	uint64_t counter_value;
	uint64_t counter_period_frac_sec; /* units of 2^-(64 + shift) s; so are its errors */
	uint64_t counter_period_esterror_rate_frac_sec, counter_period_maxerror_rate_frac_sec;
	uint64_t time_sec, time_frac_sec;
	uint64_t time_esterror_nanosec, time_maxerror_nanosec;
	uint64_t vm_generation_counter; /* another one: the guest was loaded from a saved state */
};

#ifndef __cplusplus
_Static_assert(sizeof(struct pvclock_vmclock_page) == 0x70, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, size) == 4, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, version) == 8, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, counter_id) == 0xa, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, time_type) == 0xb, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, seq_count) == 0xc, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, disruption_marker) == 0x10, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, flags) == 0x18, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, clock_status) == 0x22, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, leap_second_smearing_hint) == 0x23, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, tai_offset_sec) == 0x24, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, leap_indicator) == 0x26, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, counter_period_shift) == 0x27, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, counter_value) == 0x28, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, counter_period_frac_sec) == 0x30, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, counter_period_esterror_rate_frac_sec) == 0x38, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, counter_period_maxerror_rate_frac_sec) == 0x40, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, time_sec) == 0x48, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, time_frac_sec) == 0x50, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, time_esterror_nanosec) == 0x58, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, time_maxerror_nanosec) == 0x60, "VMClock ABI");
_Static_assert(offsetof(struct pvclock_vmclock_page, vm_generation_counter) == 0x68, "VMClock ABI");
#endif

/* --- what it says -------------------------------------------------------------------- */

/* The page's fields, of one sequence number. What the flags call invalid, or nobody knows, is 0. */
struct pvclock_vmclock {
	uint32_t size;
	uint32_t sequence; /* of what was read; even */
	uint8_t counter_id, time_type, status, smearing_hint, leap, period_shift;
	int16_t tai_offset; /* s */
	uint64_t marker, flags;
	uint64_t counter;   /* ticks, at which the time is sec:frac */
	uint64_t period, period_est_error, period_max_error; /* units of 2^-(64 + period_shift) s */
	uint64_t sec, frac; /* since 1970; units of 2^-64 s */
	uint64_t est_error_ns, max_error_ns;
	uint64_t generation;
};

/*
 * Writes all of it but `sequence`, which goes on from the page's. `page`: 8-byte aligned, 112 bytes; else as pvclock_page_write:
 * one writer at a time, and a guest that writes there spoils its own page.
 */
void pvclock_vmclock_write(void *page, const struct pvclock_vmclock *clock);

/* A consistent copy. INVALID: no such page, or one of another version; *out holds what was read. BUSY as with any page. */
enum pvclock_read pvclock_vmclock_read(const void *page, struct pvclock_vmclock *out);

/* --- what follows from it -------------------------------------------------------------- */

#define PVCLOCK_VMCLOCK_ERROR_UNKNOWN UINT64_MAX

struct pvclock_vmclock_time {
	uint64_t sec, frac;    /* of the page's time_type; units of 2^-64 s */
	uint64_t max_error_ns; /* the true time is this close, rounded up; PVCLOCK_VMCLOCK_ERROR_UNKNOWN: the page does not say */
};

/*
 * The time at a value of the counter, by exact arithmetic: the largest multiple of 2^-64 s that is not later. A counter up to 2^63
 * ticks before the page's is one before it. Seconds are modulo 2^64. Any page's content has a result; whether to rely on it, the
 * status says.
 */
void pvclock_vmclock_at(const struct pvclock_vmclock *clock, uint64_t counter, struct pvclock_vmclock_time *time);

/* Its clock_status and its counter say that this machine may go by it. */
static inline bool pvclock_vmclock_reliable(const struct pvclock_vmclock *clock)
{
	return clock->counter_id != PVCLOCK_VMCLOCK_COUNTER_INVALID &&
	       (clock->status == PVCLOCK_VMCLOCK_SYNCHRONIZED || clock->status == PVCLOCK_VMCLOCK_FREERUNNING);
}

/*
 * The seconds to add to a time of the page to have it in UTC, or TAI. UTC repeats a second where one is inserted: while `leap` is
 * POS, 23:59:59 stands for 23:59:60. False: the page knows no offset, or is of another time than these two.
 */
bool pvclock_vmclock_to_utc(const struct pvclock_vmclock *clock, int64_t *seconds);
bool pvclock_vmclock_to_tai(const struct pvclock_vmclock *clock, int64_t *seconds);

/* floor(time in ns); modulo 2^64. */
static inline uint64_t pvclock_vmclock_ns(const struct pvclock_vmclock_time *time)
{
	pvclock_word unused;

	return time->sec * 1000000000u + pvclock_word_mul((pvclock_word)time->frac, (pvclock_word)1000000000u, &unused);
}

#ifdef __cplusplus
}
#endif
#endif
