/* SPDX-License-Identifier: MIT */
/* reason.h - how the library's own code gives a reason. */
#ifndef PVCLOCK_HOST_REASON_H
#define PVCLOCK_HOST_REASON_H

#include <pvclock/reason.h>

/*
 * Stores the code and its sentence (cut off, never overrun, if it is longer than PVCLOCK_REASON_TEXT); does nothing if
 * reason is NULL. Returns 0, so that it never stands between a caller and the error that it has to return.
 */
__attribute__((format(printf, 3, 4)))
int pvclock_reason_set(struct pvclock_reason *reason, enum pvclock_reason_code code, const char *format, ...);

/* NONE, with an empty text. */
void pvclock_reason_clear(struct pvclock_reason *reason);

#endif
