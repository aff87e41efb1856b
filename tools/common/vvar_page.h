/* SPDX-License-Identifier: MIT */
/* vvar_page.h - finds vCPU 0's page in this process's own vDSO data, without privileges. */
#ifndef PVCLOCK_TOOL_VVAR_PAGE_H
#define PVCLOCK_TOOL_VVAR_PAGE_H

#include <pvclock/hyperv.h>

enum page_found {
	PAGE_FOUND,
	PAGE_NO_MAPPING, /* this process has no vDSO data */
	PAGE_FAULTS,     /* it is mapped, but the kernel does not put a page there */
	PAGE_NONSENSE,   /* what is there is no page */
	PAGE_BUSY,       /* the host never finished writing it */
};

/* *page is safe to read from then on, for the kernel never takes it away. */
enum page_found find_page(const struct pvclock_page **page, struct pvclock_snapshot *snapshot);

/* The same of Hyper-V's reference TSC page. NULL: there is none. */
const void *find_hyperv_page(void);

#endif
