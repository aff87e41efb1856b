/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "vvar_page.h"

#include <pvclock/os.h>

#include <stddef.h>
#include <sys/auxv.h>

enum page_found find_page(const struct pvclock_page **page, struct pvclock_snapshot *snapshot)
{
	const struct pvclock_os *os = pvclock_os_linux();
	const struct pvclock_page *shown = os->ops->clock_page(os->ctx, PVCLOCK_CLOCK_PAGE_KVM);
	enum pvclock_read result;

	if (shown == NULL)
		return getauxval(AT_SYSINFO_EHDR) == 0 ? PAGE_NO_MAPPING : PAGE_FAULTS;
	result = pvclock_page_read(shown, snapshot);
	if (result == PVCLOCK_READ_BUSY)
		return PAGE_BUSY;
	/* another kernel may have something else there: what no host writes is not the page */
	if (result != PVCLOCK_READ_OK || snapshot->version == 0 || snapshot->line.tsc == 0)
		return PAGE_NONSENSE;
	*page = shown;
	return PAGE_FOUND;
}

const void *find_hyperv_page(void)
{
	const struct pvclock_os *os = pvclock_os_linux();
	const void *shown = os->ops->clock_page(os->ctx, PVCLOCK_CLOCK_PAGE_HYPERV);
	struct pvclock_hyperv_snapshot snapshot;

	return shown != NULL && pvclock_hyperv_page_read(shown, &snapshot) == PVCLOCK_READ_OK ? shown : NULL;
}
