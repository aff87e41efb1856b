/* SPDX-License-Identifier: MIT */
/*
 * policy.h - what a guest's clocks do about time in which the guest did not run, and how a host measures that time.
 * docs/policies.md has the table of what each guest clock does in each case.
 */
#ifndef PVCLOCK_POLICY_H
#define PVCLOCK_POLICY_H

#include <pvclock/os.h>
#include <pvclock/reason.h>

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- the policy ------------------------------------------------------------------------------ */

/* Why no vCPU ran. */
enum pvclock_blackout {
	PVCLOCK_BLACKOUT_PAUSE,       /* the VMM stopped the guest and goes on with it */
	PVCLOCK_BLACKOUT_LIVE_UPDATE, /* another VMM on the same host goes on with it */
	PVCLOCK_BLACKOUT_MIGRATION,   /* another host does */
	PVCLOCK_BLACKOUT_SNAPSHOT,    /* somebody does, any time later, perhaps more than once */
	PVCLOCK_BLACKOUT_SUSPEND,     /* the host slept */
	PVCLOCK_BLACKOUT_COUNT,
};

enum pvclock_passing {
	PVCLOCK_ADVANCE, /* the guest's TSC and system time count the blackout */
	PVCLOCK_FREEZE,  /* they do not: the guest sees no gap */
};

struct pvclock_policy {
	enum pvclock_passing on[PVCLOCK_BLACKOUT_COUNT];
	uint64_t advance_max_ns; /* of a longer blackout only so much is counted; UINT64_MAX: all of it */
	bool fall_back;          /* a host that cannot keep the function: go on from the clock's value, rather than refuse */
};

/* Advance, and no bound, but for snapshots and the host's suspends, which freeze; no falling back. */
struct pvclock_policy pvclock_policy_default(void);

/* "pause", "live-update", "migration", "snapshot", "suspend"; "advance", "freeze". "?" for what is none. */
const char *pvclock_blackout_name(enum pvclock_blackout blackout);
const char *pvclock_passing_name(enum pvclock_passing passing);
/* True if `name` names one. */
bool pvclock_blackout_parse(const char *name, enum pvclock_blackout *blackout);
bool pvclock_passing_parse(const char *name, enum pvclock_passing *passing);

#define PVCLOCK_ERROR_UNKNOWN UINT64_MAX

/* What was done to this clock since the VM began, on all its hosts. */
struct pvclock_account {
	uint64_t blackouts;
	uint64_t counted_ns;      /* of their length, what the clock counted ... */
	uint64_t uncounted_ns;    /* ... and what it did not */
	uint64_t rate_changes;
	uint64_t residual_ns_max; /* of all corrections */
	int64_t moved_ticks;      /* by offsets that could not be set */
	uint64_t error_ns;        /* the true length of them all is this close to the two sums; PVCLOCK_ERROR_UNKNOWN: not known */
};

/*
 * What a person says of it: "snapshot=advance,advance_max_ns=60000000000,fall_back=true", of a blackout's name each, and the
 * two others ("none" for no bound). Instead of commas there may be lines, and # begins a comment: a file's text. What is not named
 * stays. 0; -EINVAL with a reason that names the word: nothing has changed.
 */
int pvclock_policy_parse(struct pvclock_policy *policy, const char *text, struct pvclock_reason *reason);

/* --- a host's time --------------------------------------------------------------------------- */

#define PVCLOCK_BOOT_ID_SIZE 16

/* One instant of a host, by each of its clocks. Those that count from the epoch are ns since 1970. */
struct pvclock_host_time {
	struct pvclock_host_tsc at;
	uint32_t bracket_ns;        /* `at` and the clocks were read within this */
	uint64_t tai_ns;            /* CLOCK_TAI: realtime_ns + tai_offset s, and no leap second in it */
	uint64_t realtime_ns;       /* CLOCK_REALTIME */
	uint64_t boottime_ns;       /* CLOCK_BOOTTIME; only of use on the same boot of the same host */
	int32_t tai_offset;         /* s; 0: this host was never told */
	uint64_t max_error_ns;      /* the kernel's own bound for CLOCK_REALTIME (adjtimex); PVCLOCK_ERROR_UNKNOWN */
	uint64_t estimated_error_ns;
	uint32_t state;             /* TIME_OK ... TIME_ERROR */
	uint8_t boot_id[PVCLOCK_BOOT_ID_SIZE]; /* all 0: unknown */
};

/* 0, or what the OS said of CLOCK_REALTIME, CLOCK_TAI or CLOCK_BOOTTIME. What else it does not tell is unknown. */
int pvclock_host_time_read(const struct pvclock_os *os, struct pvclock_host_time *time);
/* The same, but for boot_id, which stays: it takes longer than the rest. */
int pvclock_host_time_refresh(const struct pvclock_os *os, struct pvclock_host_time *time);

/* Both known and alike. */
bool pvclock_host_time_same_boot(const struct pvclock_host_time *a, const struct pvclock_host_time *b);

/* --- how long a blackout was ------------------------------------------------------------------ */

/* By which clock it was measured, from best to worst. */
enum pvclock_timescale {
	PVCLOCK_BY_TSC,      /* the same boot, without a suspend: the counter itself went on */
	PVCLOCK_BY_BOOTTIME, /* the same boot: nobody can step it */
	PVCLOCK_BY_TAI,      /* both hosts know TAI */
	PVCLOCK_BY_REALTIME, /* one or both do not: a leap second may be in it, and is in the bound */
};

struct pvclock_elapsed {
	enum pvclock_timescale by;
	int64_t measured_ns; /* negative: the clock here is behind the clock there */
	uint64_t ns;         /* measured_ns, and never negative */
	/*
	 * Where both hosts' clocks keep their own bound, the true time lies within this of measured_ns;
	 * PVCLOCK_ERROR_UNKNOWN: one of them has none, or is not synchronized.
	 */
	uint64_t bound_ns;
};

void pvclock_elapsed_measure(const struct pvclock_host_time *then, const struct pvclock_host_time *now,
			     struct pvclock_elapsed *elapsed);

const char *pvclock_timescale_name(enum pvclock_timescale by); /* "tsc", "boottime", "tai", "realtime" */

#ifdef __cplusplus
}
#endif
#endif
