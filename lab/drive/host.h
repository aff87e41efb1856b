/* SPDX-License-Identifier: MIT */
/* host.h - what is to be known of a host, this one or the peer: its kernel, its clocksource and its true rate. */
#ifndef LAB_HOST_H
#define LAB_HOST_H

#include "lab.h"

#include <pvclock/line.h>

struct host {
	char kernel[72], clocksource[32];
	bool asked;                   /* whether the slope was learned, or was tried to */
	bool known;
	struct pvclock_slope slope;   /* ns per tick of its TSC, as CLOCK_MONOTONIC_RAW runs there */
	char reason[256];             /* why it is not known */
};

/* Of this host, once; the slope once more where it was not found. It takes about a second, at most 20. */
void host_learn(struct host *host, bool slope);

json_t *host_json(const struct host *host);
void host_from_json(struct host *host, const json_t *object);

#endif
