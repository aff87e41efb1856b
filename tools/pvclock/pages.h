/* SPDX-License-Identifier: MIT */
/* pages.h - clock pages as they were found: which are live, the line of each, and how far they are apart. */
#ifndef PVCLOCK_TOOL_PAGES_H
#define PVCLOCK_TOOL_PAGES_H

#include "machine.h"

#include <pvclock/hyperv.h>

enum shown_form { SHOWN_PVCLOCK, SHOWN_HYPERV };

struct shown_page {
	enum shown_form form;
	char name[24];   /* whose it is */
	uint64_t gpa;    /* UINT64_MAX: not known */
	const char *why; /* NULL: it is live; else why not, "not shown" */
	union {
		struct pvclock_snapshot pvclock;
		struct pvclock_hyperv_snapshot hyperv;
	} holds;
};

/* The clock that a live page is, at a tick: ns, in Hyper-V's form a multiple of 100. */
__extension__ typedef __int128 shown_ns;
shown_ns shown_page_ns(const struct shown_page *page, uint64_t tick);
int64_t saturate_ns(shown_ns ns);

/* What is at `memory`, in its form; NULL: nothing is. */
void shown_page_read(struct shown_page *page, enum shown_form form, const void *memory);

/*
 * How far live pages are apart at one tick. `pvclock_ns`: of all pvclock pages. `hyperv_ns`: Hyper-V's page less
 * the first pvclock page; one line in both forms gives -100 to 102 (pvclock/hyperv.h).
 */
struct apart {
	bool pvclock_known, hyperv_known;
	uint64_t tick;
	uint64_t pvclock_ns;
	int64_t hyperv_ns;
	uint64_t most_ns; /* of any two */
};
bool pages_apart(const struct shown_page *pages, size_t count, uint64_t tick, struct apart *apart);

/* A page less CLOCK_MONOTONIC_RAW at one moment, from the narrowest of many brackets. */
struct from_raw {
	bool known;
	int64_t ns;        /* the middle of what is possible */
	uint64_t error_ns; /* either way */
	uint64_t raw_ns;   /* when */
};
void page_from_raw(const struct pvclock_os *os, const struct shown_page *page, struct from_raw *from_raw);

/* --- the pages that the kernel shows every process for its vDSO --------------------------------------- */

struct vdso_pages {
	struct shown_page pages[2]; /* by enum shown_form */
	struct apart apart;
	struct from_raw first[2], last[2]; /* of those that are live */
};
/*
 * Of those that the machine's hypervisor offers: elsewhere there may be anything in their place. `first`: before whatever takes a
 * second; then again for `last` and `apart`.
 */
void look_at_vdso_pages(const struct pvclock_os *os, const struct machine *machine, bool first, struct vdso_pages *vdso);

void print_vdso_pages(const struct vdso_pages *vdso);
json_t *vdso_pages_to_json(const struct vdso_pages *vdso);

/* --- pages_report.c ------------------------------------------------------------------------------------ */

/* Those of a pvclock page, in words. */
const char *page_flag_names(uint8_t flags);

/* Each page that is live, in a line or two; those of one line together. */
void print_pages(const struct shown_page *pages, size_t count);
json_t *pages_to_json(const struct shown_page *pages, size_t count);
/* Whether it can be one line in both forms, in words. */
const char *hyperv_one_clock(int64_t ns);
void print_apart(const struct apart *apart);
json_t *apart_to_json(const struct apart *apart);

#endif
