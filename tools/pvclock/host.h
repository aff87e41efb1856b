/* SPDX-License-Identifier: MIT */
/* host.h - the parts of pvclock host. */
#ifndef PVCLOCK_TOOL_HOST_H
#define PVCLOCK_TOOL_HOST_H

#include "pages.h"

#include <pvclock/kvm.h>

#include <sys/utsname.h>

/* What was found. */
struct host {
	struct utsname kernel;
	char cpu[128];
	struct clocksources clocksources;
	struct machine machine;
	struct vdso_pages vdso; /* of a machine that is a guest */

	bool line; /* the source is proven, else why not */
	struct pvclock_source_state source;
	struct pvclock_reason source_reason;
	struct pvclock_line page; /* the slope as a page's mul and shift */
	bool page_exact;

	const char *kvm_path;
	bool kvm; /* it opened and was probed */
	struct pvclock_kvm_capabilities capabilities;
	bool kvm_page; /* what KVM would publish by itself is known */
	struct pvclock_line kvm_line;
	bool kvm_off_known;
	double kvm_off_ppb;

	enum pvclock_mode mode;
	char why[200];
	struct notes notes;
};

/* --- host.c: what pvclock preflight wants to know of this machine, too; what is missing is noted ----- */

/* line, source, source_reason, page */
void learn_host(struct host *host);
/* kvm, capabilities; of kvm_path */
void probe_host_kvm(struct host *host);

/* --- host_report.c ------------------------------------------------------------------- */

void print_host(const struct host *host);
void print_host_json(const struct host *host);

#endif
