/* SPDX-License-Identifier: MIT */
/*
 * kvm.h (tests) - an OS whose KVM's clock works as Linux's does, in virtual time: KVM_SET_CLOCK takes effect at an
 * instant that the caller does not know, KVM_GET_CLOCK tells clock and host TSC by the kernel's own mul. It stands
 * beside the real KVM (tests/kvm), for what the real one does seldom.
 */
#ifndef TESTS_FAKE_KVM_H
#define TESTS_FAKE_KVM_H

#include <pvclock/os.h>
#include <pvclock/page.h>

#include <linux/kvm.h>
#include <stdbool.h>

#define FAKE_VCPU_FD 4 /* of the first vCPU; the second one's is the next */
#define FAKE_BITMAP 64 /* bytes of a range's bitmap that are looked at */

struct fake_kvm {
	struct pvclock_os os;
	uint64_t random;       /* state; the seed */
	uint64_t tsc;          /* virtual host TSC; every call takes some ticks */
	uint64_t call_ticks, jitter_ticks;
	uint32_t khz;
	uint64_t offset;       /* the TSC offset that really holds, of the first vCPU */
	uint64_t second_offset; /* of the second one */
	uint64_t deadline[2];  /* IA32_TSC_DEADLINE of either; and with which offset KVM armed its timer */
	uint64_t armed_with[2];
	uint64_t deadline_at_entry; /* any that was armed when KVM was entered for an errand */
	bool offset_ignored;   /* accepts offsets and does nothing */
	bool no_offset;        /* knows no such attribute */
	bool master_clock;
	uint64_t anchor_tsc, anchor_ns; /* the kernel's line, host TSC */
	bool snapshot_pending; /* the next entry takes a new snapshot of the master clock: the clock moves by up to 1 ns */
	uint64_t system_time_msr, wall_clock_msr;
	unsigned int set_clock_calls, offset_writes, ctrl_calls;
	int64_t realtime_ns; /* CLOCK_REALTIME at TSC 0 */
	int32_t tai_offset;  /* s; CLOCK_TAI is so far ahead of CLOCK_REALTIME */
	uint64_t leap_tsc;   /* there UTC repeats a second: the offset grows, and CLOCK_REALTIME steps back. 0: never */
	uint64_t slept_ns;   /* CLOCK_BOOTTIME has counted so much more */
	uint64_t unheard_ticks; /* CLOCK_MONOTONIC has counted so many less than the TSC says */
	unsigned int signals;   /* KVM_SIGNAL_MSI calls, and the last one */
	struct kvm_msi signal;
	int signal_error;
	const char *boot_id; /* NULL: there is none to read */
	int ntp_state;       /* what adjtimex returns */
	long max_error_us, estimated_error_us;
	int ntp_status;      /* STA_* */
	long ntp_freq, ntp_tick, ntp_tolerance; /* as adjtimex tells them, whatever the clock does */
	int64_t rate_ppb;    /* CLOCK_REALTIME's, against the TSC: fake_kvm_set_rate */
	uint64_t rate_from;  /* since when, by CLOCK_MONOTONIC_RAW's ns */
	uint64_t tsc_adjust[2];
	uint64_t steal_msr[2];  /* MSR_KVM_STEAL_TIME */
	uint64_t run_delay[4];  /* ns, of threads 100 to 103, while `schedstat` is true */
	bool schedstat;
	bool no_tsc_adjust;  /* the guest's CPUs have no such MSR */
	bool tsc_control;      /* it scales TSCs, as AMD does: 32 fraction bits */
	uint32_t vcpu_khz[2];  /* to what; 0: not at all */
	/* KVM_[GS]ET_CLOCK_GUEST: which it has (0: none), how they fail, what they were called with */
	unsigned long get_clock_guest, set_clock_guest;
	int get_clock_guest_error, set_clock_guest_error; /* a SET's may be above 0: it does nothing, with success */
	int64_t clock_guest_lie; /* GET: ns beside the truth */
	int64_t clock_guest_off; /* SET: what it misses by; the kernel's own rounding is down */
	bool page_stays;         /* neither does what an entry does */
	uint8_t *page;           /* where the first vCPU's is */
	unsigned int set_clock_guest_calls;
	/* what it was told to filter, and what to exit for */
	struct kvm_msr_filter filter;
	uint8_t bitmaps[KVM_MSR_FILTER_MAX_RANGES][FAKE_BITMAP];
	uint64_t exits;
	unsigned int filter_calls, exits_calls;
	unsigned long refused;      /* a request that fails with -EPERM ... */
	unsigned int refused_after; /* ... after it was granted so often */
};

void fake_kvm_init(struct fake_kvm *fake, uint64_t seed);
uint64_t fake_random(struct fake_kvm *fake);
/* An entry: what was postponed to it happens. */
void fake_kvm_enter(struct fake_kvm *fake);
/*
 * The host sleeps for so long, by CLOCK_BOOTTIME; and its TSC goes on for `ticks`, which no other clock counts, or
 * begins anew there: KVM then lets its guests' TSCs go on.
 */
void fake_kvm_sleep(struct fake_kvm *fake, uint64_t ns, uint64_t ticks, bool reset);
/* From now on CLOCK_REALTIME gains so much. */
void fake_kvm_set_rate(struct fake_kvm *fake, int64_t ppb);
/* CLOCK_REALTIME at a TSC value from then on, ns, without what reading it costs. */
uint64_t fake_kvm_realtime(const struct fake_kvm *fake, uint64_t host_tsc);
/* What it publishes to a vCPU, by its own TSC. */
struct pvclock_line fake_kvm_page(const struct fake_kvm *fake, unsigned int vcpu);
/* The kernel's clock at a host tick. */
uint64_t fake_kvm_clock(const struct fake_kvm *fake, uint64_t host_tsc);

#endif
