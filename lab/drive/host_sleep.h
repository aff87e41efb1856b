/* SPDX-License-Identifier: MIT */
/* host_sleep.h - this host sleeps (S3), and wakes by its clock's alarm. Only where nobody else needs it. */
#ifndef LAB_HOST_SLEEP_H
#define LAB_HOST_SLEEP_H

#include "lab.h"

/* How long it slept, ns, as its kernel counts it, to *bracket ns; or -1 with a sentence. */
int64_t host_sleep(struct lab *lab, int seconds, int64_t *bracket);

#endif
