/* SPDX-License-Identifier: MIT */
/*
 * parent.h - how a Linux process registers this machine's nested page with the host (docs/spec/nested.md): what parent.c is
 * made of. Functions return 0 or -errno, and then the reason says what is missing and how to get it.
 */
#ifndef PRELOAD_PARENT_H
#define PRELOAD_PARENT_H

#include <pvclock/parent.h>

#include <stdarg.h>
#include <stdio.h>

__attribute__((format(printf, 3, 4))) static inline int lacks(struct pvclock_reason *reason, int error, const char *format, ...)
{
	va_list list;

	reason->code = PVCLOCK_REASON_OS;
	va_start(list, format);
	vsnprintf(reason->text, sizeof(reason->text), format, list);
	va_end(list);
	return error;
}

/* --- pins.c: where this process's memory lies in the machine's, for good --------------------- */

struct pins;

int pins_open(struct pins **pins, struct pvclock_reason *reason);
/*
 * As struct pvclock_parent_ops has it. Each 4 KiB page of the range is pinned from then on: it neither moves nor is used for
 * anything else as long as anybody has the descriptor pins_ring. -EFAULT: not in one piece. Any thread.
 */
int pins_locate(struct pins *pins, const void *host, uint64_t size, uint64_t *gpa, struct pvclock_reason *reason);
int pins_ring(const struct pins *pins);
void pins_close(struct pins *pins);

/* --- guard.c: that the host stops writing where this process was ------------------------------ */

/* `path`, for this process alone until it and its guard have gone: a descriptor, or -errno; -EBUSY: another one has it. */
int guard_open_msr(const char *path, struct pvclock_reason *reason);
/*
 * A process that outlives this one, and then takes the nested page away from the host before it lets go of `ring`. It
 * has nothing else open.
 */
int guard_start(int msr, int ring, struct pvclock_reason *reason);

/* --- parent_machine.c ------------------------------------------------------------------------- */

#define MACHINE_MSR "/dev/cpu/0/msr"

struct machine_parent {
	struct pvclock_nested_page *page;
	struct pvclock_parent *parent;
	int msr;
	struct pins *pins;
	bool told; /* the host is to tell what changes, and to rewrite nothing: for measuring what that gives */
	_Atomic bool said;
};

/* `page`: zeroed, shared with children. Once it has succeeded it holds as long as the process. */
int machine_parent_open(struct machine_parent *machine, const char *msr, struct pvclock_nested_page *page, bool told,
			struct pvclock_reason *reason);
/* The one of this process, looked for once. NULL: it has none, and if there could be one it was said why not. */
const struct machine_parent *machine_parent(void);

#endif
