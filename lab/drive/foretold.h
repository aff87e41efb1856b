/* SPDX-License-Identifier: MIT */
/*
 * foretold.h - what `pvclock preflight` said a guest would see, against what it then saw: by the preload's log of its
 * arrival, and by the guest itself. Preflight comes some seconds before, so what depends on the moment is carried to it by
 * the host's own line, which nobody steps.
 */
#ifndef LAB_FORETOLD_H
#define LAB_FORETOLD_H

#include <jansson.h>
#include <pvclock/line.h>
#include <stdbool.h>
#include <stdint.h>

#define FORETOLD_UNKNOWN INT64_MAX /* of a bound */

/* One moment of a blackout, and all that is said of it. */
struct foretold {
	uint64_t host_tsc;      /* of the host's TSC; its clocks were read within ... */
	int64_t bracket_ns;
	char precision[12], by[12];
	double rate_ppb;
	unsigned int deadlines, past;
	int64_t measured_ns;    /* since the save, by the clock that `by` names; negative: that clock is behind */
	int64_t bound_ns;       /* of it */
	int64_t counted_ns;
	bool advances;          /* the policy's word */
	uint64_t tsc;           /* the guest's, where the clock goes on */
	int64_t jump_ns;        /* of the clock as a function of it */
};

/* What may be between the two without either being wrong. */
struct foretold_limits {
	const struct pvclock_slope *host; /* both moments' host */
	unsigned int slew_ppm;            /* by how much its CLOCK_REALTIME may be made to run otherwise */
	bool disciplined;                 /* by somebody who tells the kernel a new bound now and then */
	int64_t jump_ns;                  /* the mode's own: 0, or 1 where a kernel's clock is aimed */
};

/* `plan` is preflight's answer about the host that `destination` describes. False: a member is missing; `missing` is its name. */
bool foretold_plan(const json_t *plan, const json_t *destination, struct foretold *foretold, const char **missing);
/* The preload's `arrive`; `jump_ns` is not in it. */
bool foretold_arrival(const json_t *arrive, struct foretold *happened, const char **missing);

/* ns between two ticks of a host's TSC; negative: `to` comes first. */
int64_t foretold_ns(const struct pvclock_slope *host, uint64_t from, uint64_t to);

/*
 * What does not depend on the moment: precision, jump, rate, deadlines. The first that did not happen as it was said,
 * as a sentence; empty: all did.
 */
void foretold_judge_function(const struct foretold *said, const struct foretold *happened, int64_t jump_ns, char sentence[256]);
/* All of it. */
void foretold_judge(const struct foretold *said, const struct foretold *happened, const struct foretold_limits *limits,
		    char sentence[256]);

#endif
