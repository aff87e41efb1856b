/* SPDX-License-Identifier: MIT */
/*
 * live.h - a test on a real KVM: checks that print TAP, and the programs under test. Exit: 0 passed, 1 failed, 77 no KVM here
 * (with the reason). The first argument of such a program, or PVCLOCK_VMM_DIR, says where pvclock-vmm was built.
 */
#ifndef TESTS_KVM_LIVE_H
#define TESTS_KVM_LIVE_H

#include "watch.h"

struct live {
	unsigned int checks, failed;
	char *vmm;
};

/* Ends the program with 77 where no guest can run. */
void live_begin(struct live *live);
/* The program's exit code. */
int live_end(struct live *live);

/* One check. Returns `holds`. */
bool live_check(struct live *live, bool holds, const char *format, ...) __attribute__((format(printf, 3, 4)));
void live_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * Starts a guest of 2 vCPUs with a payload; `option` and `value` are a further argument of the VMM, or NULL. False: a
 * failed check.
 */
bool live_start(struct live *live, struct watch *watch, const char *payload, const char *mode, const char *option,
		const char *value);
/* Stops it, and checks that nothing is left of it. */
void live_stop(struct live *live, struct watch *watch, const char *name);

/* What the whole run of a guest has to be: P1, P2, and P4 where the mode promises it. `limit_ns` of all jumps. */
void live_check_promises(struct live *live, struct watch *watch, const char *name, int64_t limit_ns);

/* How many of `count` events to do: all, but on the lab's emulated host, which takes that much longer, one in `lab`. Notes it. */
unsigned int live_count(unsigned int count, unsigned int lab);

/* A folder for files that need no disk: of memory, if this machine has one. */
const char *live_scratch(void);

/* The pid that answers the control socket, or -1. */
pid_t live_pid(struct watch *watch);

/* The largest jump that a mode may make. */
int64_t live_limit(const char *mode);

#endif
