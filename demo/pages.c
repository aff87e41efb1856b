/* SPDX-License-Identifier: MIT */
#include "pages.h"

#include <string.h>

/* A copy that may be torn: only good enough to say no. */
static bool looks_like_page(const struct pvclock_page *page, uint32_t version)
{
	return page->version == version && page->pad0 == 0 && page->tsc_to_system_mul != 0 &&
	       page->tsc_shift >= PVCLOCK_SHIFT_MIN && page->tsc_shift <= PVCLOCK_SHIFT_MAX;
}

/* The version alone would do, did it not start over with every new page. */
static bool holds(const void *page, const struct vmm_ring_entry *reading, struct pvclock_snapshot *snapshot)
{
	return pvclock_page_read(page, snapshot) == PVCLOCK_READ_OK && snapshot->version == reading->version &&
	       pvclock_line_ns(&snapshot->line, reading->tsc) == reading->ns;
}

size_t pages_find(struct pages *pages, const void *memory, uint64_t size, const struct vmm_ring_entry *reading)
{
	const unsigned char *bytes = memory;
	size_t added = 0;

	for (uint64_t gpa = 0; gpa + sizeof(struct pvclock_page) <= size; gpa += 4) {
		struct pvclock_snapshot snapshot;
		struct pvclock_page page;
		bool known = false;
		uint32_t version;

		memcpy(&version, bytes + gpa, sizeof(version));
		if (version != reading->version)
			continue;
		memcpy(&page, bytes + gpa, sizeof(page));
		if (!looks_like_page(&page, reading->version) || !holds(bytes + gpa, reading, &snapshot))
			continue;
		for (size_t i = 0; i < pages->count; i++)
			known = known || pages->gpa[i] == gpa;
		if (known || pages->count == PAGES_MAX)
			continue;
		pages->gpa[pages->count++] = gpa;
		added++;
	}
	return added;
}

bool pages_line(const struct pages *pages, const void *memory, const struct vmm_ring_entry *reading,
		struct pvclock_snapshot *snapshot)
{
	for (size_t i = 0; i < pages->count; i++)
		if (holds((const unsigned char *)memory + pages->gpa[i], reading, snapshot))
			return true;
	return false;
}
