/* SPDX-License-Identifier: MIT */
/*
 * host_clock.h - this host's CLOCK_REALTIME, what its kernel says of it, and which boot it seems to be. Only where nobody
 * else needs them.
 */
#ifndef LAB_HOST_CLOCK_H
#define LAB_HOST_CLOCK_H

#include "lab.h"

/* A step of it, and what whoever disciplines it tells the kernel right then. */
struct host_clock {
	int64_t step_ms;
	int tai;                 /* CLOCK_TAI minus CLOCK_REALTIME, s; 0: nobody knows */
	unsigned int error_us;   /* its maxerror, from then on */
	bool unsynchronised;     /* there is nobody who disciplines it */
};

/* All of it at once. 0, or -1 with a sentence. */
int host_clock_set(struct lab *lab, const struct host_clock *clock);

/* Records tell hosts and boots apart by their boot id: from now on this is another one. 0, or -1 with a sentence. */
int host_clock_cover_boot(struct lab *lab);
void host_clock_uncover_boot(void);

#endif
