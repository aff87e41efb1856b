/* SPDX-License-Identifier: MIT */
/*
 * bare.h - a guest of ours (vmm/guest/deadlines.c) under QEMU: no system, no probe. What it knows lies in its memory, which QEMU's
 * monitor hands out; so it answers the probe's words all the same, and whatever is done to a Linux guest can be done to it.
 */
#ifndef LAB_BARE_H
#define LAB_BARE_H

#include "deadlines.h"
#include "qemu.h"

#include <pvclock/page.h>

#define BARE_MB 64

struct bare {
	struct vmm_shared *shared; /* as it was last looked at */
	struct pvclock_snapshot pages[VMM_VCPUS_MAX], before[VMM_VCPUS_MAX];
	unsigned int cpus;
	struct deadlines deadlines; /* judged by `report` */
};

/* NULL: out of memory. */
struct bare *bare_open(unsigned int cpus);
void bare_close(struct bare *bare);

/* The program's path, beside `driver`. */
void bare_kernel(const char *driver, char path[LAB_PATH]);
/* Waits until all its vCPUs run. 0, or -1 with a sentence. */
int bare_wait_ready(struct bare *bare, struct qemu *vm);
/*
 * hello, begin, end [TICK], report: as the probe's (man/pvclock-probe.1.scd). The jump is the largest of all vCPUs.
 * `end` waits until each vCPU has taken another deadline. A new reference, or NULL with a sentence.
 */
json_t *bare_ask(struct bare *bare, struct qemu *vm, const char *command);

#endif
