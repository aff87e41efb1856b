/* SPDX-License-Identifier: MIT */
/* nested.h - what nested.elf, a guest that plays a host, shows the judge: at vmm_shared.pages_gpa. Freestanding. */
#ifndef VMM_NESTED_H
#define VMM_NESTED_H

#include "shared.h"

#include <pvclock/nested.h>

#define VMM_NESTED_GUESTS 4u /* "L2", each with a counter of its own */
#define VMM_NESTED_TOLD 3u   /* the one that the table does not name: its host follows by itself */
#define VMM_NESTED_READING 0xa0u /* a reading of the first one's, in vmm_ring_entry.result; the others' are the next ones */

struct vmm_nested_clock {
	_Alignas(VMM_PAGE_STRIDE) struct pvclock_page page;
};

struct vmm_nested {
	_Alignas(4096) struct pvclock_nested_page table;
	struct vmm_nested_clock own, guests[VMM_NESTED_GUESTS];
	struct pvclock_tsc_transform transforms[VMM_NESTED_GUESTS]; /* over this guest's TSC */
	_Atomic uint64_t interrupts;
	_Atomic uint64_t late; /* readings of the last one that were thrown away, as it had not followed yet */
};

#endif
