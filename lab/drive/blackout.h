/* SPDX-License-Identifier: MIT */
/*
 * blackout.h - one blackout of a guest that arrives elsewhere or at another time: what `pvclock preflight` says of it
 * beforehand, what the preload then did, and what the guest's own clock shows.
 */
#ifndef LAB_BLACKOUT_H
#define LAB_BLACKOUT_H

#include "foretold.h"
#include "run.h"

/* Something that was asked a few times: it is between these. */
struct between {
	int64_t least, most;
};

struct blackout {
	const char *policy;
	struct between apart;     /* the TSC of the host that it arrives on minus that of the one that it leaves; 0 where both are one */
	struct between before, after; /* the guest's CLOCK_BOOTTIME minus this host's CLOCK_MONOTONIC_RAW */
	struct foretold said, happened;
	uint64_t saved_at;        /* by the TSC of the host that it leaves; ... */
	int64_t saved_bracket_ns; /* ... its clocks were read within that */
	int64_t jumped_ns;        /* what the probe had seen in all before */
	unsigned int by_page;
};

/* The guest's CLOCK_BOOTTIME minus this host's CLOCK_MONOTONIC_RAW. */
int blackout_ask_ahead(struct qemu *vm, struct between *ahead);

/* All of it needs a host's rate: of this one, or the peer. A busy machine may need a second look. */
int blackout_know_host(struct run *run, bool peer);
/* The guest that is about to be stopped. */
int blackout_begin(struct run *run, struct qemu *from, struct blackout *blackout);
/* It has ended, and its record is kept: what this host, or the peer, would make of it now. */
int blackout_foretell(struct run *run, struct qemu *from, bool on_peer, struct blackout *blackout);
/*
 * It runs again, and the probe has told of the event: what was said has to be what happened. Of `limits`, host and jump_ns
 * are filled in.
 */
int blackout_judge(struct run *run, struct qemu *to, struct foretold_limits limits, struct blackout *blackout);

/*
 * After any event: where a VM arrived in it, with its record, what preflight says of that record on this host is what happened to
 * the function, of which the event's jump was measured. For the scenarios that are not about time. 0, or -1 with a sentence.
 */
int blackout_check_arrival(struct run *run, struct qemu *vm, int64_t jump_ns);

/* How long it truly was, from the save to the arrival. */
struct between blackout_stood(const struct run *run, const struct blackout *blackout);

/* How much more than this host's the guest's clock went on: at least, and at most. */
struct between blackout_gained(const struct blackout *blackout);

#endif
