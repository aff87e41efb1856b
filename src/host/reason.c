/* SPDX-License-Identifier: MIT */
/* reason.c - the names of the reasons. */
#include "reason.h"

#include <stdarg.h>
#include <stdio.h>

static const char *const names[] = {
	[PVCLOCK_REASON_NONE] = "none",
	[PVCLOCK_REASON_CLOCKSOURCE] = "clocksource",
	[PVCLOCK_REASON_TSC_NOT_INVARIANT] = "tsc-not-invariant",
	[PVCLOCK_REASON_TSC_BACKWARDS] = "tsc-backwards",
	[PVCLOCK_REASON_SLOPE_UNPROVEN] = "slope-unproven",
	[PVCLOCK_REASON_SLOPE_MISFIT] = "slope-misfit",
	[PVCLOCK_REASON_OS] = "os",
	[PVCLOCK_REASON_TSC_OFFSETS_DIFFER] = "tsc-offsets-differ",
	[PVCLOCK_REASON_TSC_RATES_DIFFER] = "tsc-rates-differ",
	[PVCLOCK_REASON_TSC_CATCHUP] = "tsc-catchup",
	[PVCLOCK_REASON_NO_LINE] = "no-line",
	[PVCLOCK_REASON_NO_MSR_FILTER] = "no-msr-filter",
	[PVCLOCK_REASON_MSR_FILTER_FULL] = "msr-filter-full",
	[PVCLOCK_REASON_NO_MASTER_CLOCK] = "no-master-clock",
	[PVCLOCK_REASON_STEER_RESIDUAL] = "steer-residual",
	[PVCLOCK_REASON_OFFSET_IGNORED] = "offset-ignored",
	[PVCLOCK_REASON_RECORD_TRUNCATED] = "record-truncated",
	[PVCLOCK_REASON_RECORD_MAGIC] = "record-magic",
	[PVCLOCK_REASON_RECORD_VERSION] = "record-version",
	[PVCLOCK_REASON_RECORD_CHECKSUM] = "record-checksum",
	[PVCLOCK_REASON_RECORD_FIELD] = "record-field",
	[PVCLOCK_REASON_VCPU_COUNT] = "vcpu-count",
	[PVCLOCK_REASON_OTHER_HOST] = "other-host",
};

_Static_assert(sizeof(names) / sizeof(names[0]) == PVCLOCK_REASON_COUNT_, "a reason has no name");

const char *pvclock_reason_name(enum pvclock_reason_code code)
{
	/* through unsigned: an enum may be signed, and a caller's cast may have made it negative */
	unsigned int index = (unsigned int)code;

	/* the assertion above sees a missing last name only; a hole in the middle ends here */
	if (index >= PVCLOCK_REASON_COUNT_ || names[index] == NULL)
		return "unknown";
	return names[index];
}

int pvclock_reason_set(struct pvclock_reason *reason, enum pvclock_reason_code code, const char *format, ...)
{
	va_list arguments;

	if (reason == NULL)
		return 0;
	reason->code = code;
	va_start(arguments, format);
	if (vsnprintf(reason->text, sizeof(reason->text), format, arguments) < 0)
		reason->text[0] = '\0';
	va_end(arguments);
	return 0;
}

void pvclock_reason_clear(struct pvclock_reason *reason)
{
	if (reason == NULL)
		return;
	reason->code = PVCLOCK_REASON_NONE;
	reason->text[0] = '\0';
}
