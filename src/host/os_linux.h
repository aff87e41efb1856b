/* SPDX-License-Identifier: MIT */
/* os_linux.h (private) - the parts of the table for Linux that have a room of their own. */
#ifndef HOST_OS_LINUX_H
#define HOST_OS_LINUX_H

#include <stdbool.h>

/* os_linux_enter.c: pvclock_os_ops.enter */
int pvclock_linux_enter(void *ctx, int vcpu_fd, bool (*may)(void *arg), void *arg);

#endif
