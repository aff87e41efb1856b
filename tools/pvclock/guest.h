/* SPDX-License-Identifier: MIT */
/* guest.h - the parts of pvclock guest. */
#ifndef PVCLOCK_TOOL_GUEST_H
#define PVCLOCK_TOOL_GUEST_H

#include "registered.h"
#include "vvar_page.h"

#include <pvclock/guest.h>

#include <stdbool.h>
#include <sys/utsname.h>

/* --- guest_warp.c: does time go back when it is read on another CPU? ------------------------------ */

#define WARP_CLOCKS 3
enum warp_clock { WARP_TSC, WARP_RAW, WARP_PAGE };

struct warp {
	uint64_t reads, backward, worst; /* worst: ticks for the TSC, else ns */
};

struct warps {
	unsigned int cpus;
	bool page_read; /* WARP_PAGE was measured */
	struct warp clocks[WARP_CLOCKS];
};

/*
 * One thread on each CPU that this process may use reads all clocks for so long; a value below one that
 * another thread had read before is a step back. 0, or -errno if no thread could be started.
 */
int measure_warps(const struct pvclock_page *page, double seconds, struct warps *warps);

/* --- what was found ------------------------------------------------------------------------------ */

struct guest {
	struct utsname kernel;
	struct clocksources clocksources;
	struct machine machine;
	struct vdso_pages vdso;
	struct registered registered;

	enum page_found found;
	const struct pvclock_page *page;
	struct pvclock_snapshot snapshot;
	double age_seconds;

	struct warps warps;
	bool drift_measured, drift_exact;
	double drift_ppb, drift_error_ppb, drift_exact_ppb;
	double vdso_ns, syscall_ns;
	bool vdso_answers;

	struct notes notes;
};

/* guest_measure.c: fills in warps, drift and costs. */
void measure_guest(struct guest *guest, double seconds);

/* --- guest_report.c ------------------------------------------------------------------------------- */

void print_guest(const struct guest *guest);
void print_guest_json(const struct guest *guest);

#endif
