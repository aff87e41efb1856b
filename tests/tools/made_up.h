/* SPDX-License-Identifier: MIT */
/* made_up.h - a machine whose CPUID, TSC, clocks and pages the test chose, for the parts of the command that look at one. */
#ifndef PVCLOCK_TEST_MADE_UP_H
#define PVCLOCK_TEST_MADE_UP_H

#include "../../tools/pvclock/pages.h"

#define MADE_UP_LEAVES 16

struct made_up {
	struct pvclock_os os;
	bool hypervisor;
	struct pvclock_cpuid leaves[MADE_UP_LEAVES]; /* what is not here is 0 */
	unsigned int leaf_count;
	uint64_t tsc, step;           /* each read takes so many ticks before it */
	struct pvclock_line raw;      /* CLOCK_MONOTONIC_RAW */
	uint64_t realtime_ns;         /* CLOCK_REALTIME less that */
	unsigned int quick, times;     /* only the clock's read of this number, from 1 on, is not a microsecond late; 0: all are not */
	const void *pages[2];         /* by enum pvclock_clock_page */
	unsigned int page_calls[2];
};

void made_up_init(struct made_up *machine);
/* The leaves of an interface: its signature, 12 bytes, and of the leaves after it EAX and EDX. */
void made_up_offer(struct made_up *machine, uint32_t base, const char *signature, uint32_t last);
void made_up_leaf(struct made_up *machine, uint32_t leaf, uint32_t eax, uint32_t edx);
void made_up_parent(struct made_up *machine, uint32_t base, uint32_t features, uint32_t depth);

/* What `print` prints; good until the next time. */
const char *printed(void (*print)(const void *of), const void *of);
/* Any blanks are one. */
bool printed_shows(const char *text, const char *part);
#define assert_printed(text, part) \
	do { \
		if (!printed_shows(text, part)) \
			fail_msg("not printed: %s; but: %s", part, text); \
	} while (0)
#define assert_not_printed(text, part) assert_false(printed_shows(text, part))

#endif
