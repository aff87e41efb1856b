/* SPDX-License-Identifier: MIT */
/* preflight.h - the parts of pvclock preflight. */
#ifndef PVCLOCK_TOOL_PREFLIGHT_H
#define PVCLOCK_TOOL_PREFLIGHT_H

#include "command.h"
#include "record.h"

#include <pvclock/kvm.h>

struct preflight {
	const char *path;
	const struct pvclock_record *record;
	enum pvclock_blackout blackout;
	struct pvclock_destination destination;
	bool elsewhere; /* --destination */

	bool planned; /* else why not */
	struct pvclock_plan plan;
	struct pvclock_reason reason;
	struct notes notes;
};

/* It goes on as the function that it was. */
bool preflight_takes(const struct preflight *preflight);

/* --- preflight_report.c ---------------------------------------------------------------- */

void print_preflight(const struct preflight *preflight);
void print_preflight_json(const struct preflight *preflight);

#endif
