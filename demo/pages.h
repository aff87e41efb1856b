/* SPDX-License-Identifier: MIT */
/*
 * pages.h - finds the guest's clock pages in its memory, by what the guest read from them. So the judge does not take
 * the line from those it judges: not from the VMM, not from the library's engine, and it works the same where the
 * kernel writes the page.
 */
#ifndef DEMO_PAGES_H
#define DEMO_PAGES_H

#include "shared.h"

#include <pvclock/page.h>

#define PAGES_MAX 64u

struct pages {
	uint64_t gpa[PAGES_MAX];
	size_t count;
};

/*
 * Looks through all of the guest's memory for pages on whose line this reading lies. Adds those not known yet. Returns
 * how many it added.
 */
size_t pages_find(struct pages *pages, const void *memory, uint64_t size, const struct vmm_ring_entry *reading);

/* The page, of those known, that still holds the line on which this reading lies. False: none. */
bool pages_line(const struct pages *pages, const void *memory, const struct vmm_ring_entry *reading,
		struct pvclock_snapshot *snapshot);

#endif
