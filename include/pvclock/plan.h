/* SPDX-License-Identifier: MIT */
/*
 * plan.h - a restore, decided before anything is touched. The plan says what a host would make of a record: with which
 * precision, and what the guest will see. pvclock_kvm_restore carries out this very plan, so what a pre-flight check
 * prints is what then happens.
 */
#ifndef PVCLOCK_PLAN_H
#define PVCLOCK_PLAN_H

#include <pvclock/record.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- a TSC's rate, as KVM deals with it ------------------------------------------------------------- */

/* 10^6 / slope, to nearest: a kernel's slope was itself rounded from its kHz. 0: no TSC's rate. */
uint64_t pvclock_rate_khz(const struct pvclock_slope *slope);
/* Within 250 ppm, KVM's own tolerance: such a guest is run unscaled. */
bool pvclock_rates_alike(const struct pvclock_slope *a, const struct pvclock_slope *b);
/* (2^frac_bits x khz) / host_khz, cut off, without an offset. Unscaled: it cannot be. */
struct pvclock_tsc_transform pvclock_rate_ratio(uint64_t khz, uint64_t host_khz, uint8_t frac_bits);

/* --- the plan ----------------------------------------------------------------------------------------- */

/* A host that a VM could come to. Read it with every vCPU out of guest mode: its time is the switch's. */
struct pvclock_destination {
	struct pvclock_slope host;       /* ns per host tick; mantissa 0: this host has no line ... */
	struct pvclock_reason no_line;   /* ... because */
	struct pvclock_host_time time;
	bool tsc_offsets;                /* TSC offsets are honoured */
	uint8_t frac_bits;               /* of its TSC scaling; 0: it has none */
	uint64_t ratio_max;              /* the largest ratio that it can be given; 0: any */
	bool kernel_publishes;           /* steer mode: the kernel's own slope is what a page can have ... */
	struct pvclock_slope kernel;     /* ... ns per tick of an unscaled TSC ... */
	bool kernel_aims_scaled;         /* ... and a clock of a scaled one can be set exactly, too (KVM_SET_CLOCK_GUEST) */
};

enum pvclock_precision {
	PVCLOCK_EXACT,     /* the same function of the guest's TSC, bit for bit */
	PVCLOCK_CONTINUED, /* another rate from the switch on; there both functions are the same */
	PVCLOCK_LEGACY,    /* only the clock's value goes on, on a host without a line of its TSC: the policy falls back */
};

const char *pvclock_precision_name(enum pvclock_precision precision); /* "exact", "continued", "legacy" */

/* The instant at which a clock goes on by another line, or by the same one; in ticks of one counter. */
struct pvclock_switch {
	uint64_t tsc;                   /* what the counter reads there ... */
	struct pvclock_line old, line;  /* ... and the clock by it: until then, from then on */
	bool exact;                     /* both are one function */
	int64_t rate_difference;        /* the new slope against the old one, in units of 2^-64 (pvclock_slope_difference) */
	struct pvclock_inverse inverse; /* of `line` */
};

/*
 * From tick `tsc` on the clock has `slope` per tick. A line that has just this slope stays as it is, bit for bit; another
 * one is continued without a jump. False: `old` or `slope` is none.
 */
bool pvclock_switch_make(struct pvclock_switch *at, const struct pvclock_line *old, uint64_t tsc,
			 const struct pvclock_slope *slope);
/*
 * A TSC deadline, armed before the switch on a vCPU whose counter reads `tsc` there: the first of its ticks at which the
 * clock reaches what the guest meant. One that has passed stays in the past. UINT64_MAX: no tick reaches it.
 */
uint64_t pvclock_switch_deadline(const struct pvclock_switch *at, uint64_t tsc, uint64_t deadline);

struct pvclock_plan {
	enum pvclock_precision precision;
	enum pvclock_blackout blackout;
	struct pvclock_elapsed elapsed;
	uint64_t counted_ns;    /* of elapsed.ns: the rest is frozen, or beyond the policy's bound */
	uint64_t bound_ns;      /* of counted_ns: elapsed.bound_ns, or 0 where nothing is counted or the bound is the policy's */
	bool capped;            /* the policy's advance_max_ns holds the clock back */
	/*
	 * By the TSC of the record's first vCPU, which has counted `counted_ticks` at the rate that it had, when the clock
	 * has counted counted_ns: at.tsc, at destination.time.at.
	 */
	struct pvclock_switch at;
	uint64_t counted_ticks;
	struct pvclock_tsc_transform ratio; /* how the guest's TSCs run from then on; no offset */
	uint32_t tsc_khz;                   /* for KVM_SET_TSC_KHZ, where the ratio is one; else 0 */
	int64_t tsc_rate_difference;        /* the guest's TSC against before, in units of 2^-64 */
	bool tsc_kept;                      /* false: TSC offsets are ignored here; TSC and line move together */
	uint32_t deadlines, deadlines_past; /* vCPUs with an armed TSC deadline; of which so many fire at once */
};

/*
 * 0; or a reason that names the field and the way out, with -EINVAL: this host is asked for something that the record
 * does not allow (a live update on another boot); -ENOTSUP: this host cannot keep the clock, and the policy says to
 * refuse.
 */
int pvclock_plan_make(const struct pvclock_record *record, const struct pvclock_destination *destination,
		      enum pvclock_blackout blackout, struct pvclock_plan *plan, struct pvclock_reason *reason);

/* What the TSC of the record's vCPU `i` reads at the switch, and its TSC deadline from then on; 0: none is armed. */
void pvclock_plan_vcpu(const struct pvclock_record *record, const struct pvclock_plan *plan, uint32_t i, uint64_t *tsc,
		       uint64_t *deadline);

#ifdef __cplusplus
}
#endif
#endif
