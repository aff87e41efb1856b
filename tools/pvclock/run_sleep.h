/* SPDX-License-Identifier: MIT */
/* run_sleep.h - who tells the VMM of the host's sleep. */
#ifndef PVCLOCK_TOOL_RUN_SLEEP_H
#define PVCLOCK_TOOL_RUN_SLEEP_H

/* A process that listens, and PVCLOCK_SLEEP in this one's environment, for the VMM that it becomes. 0 or -errno. */
int run_sleep_start(void);

#endif
