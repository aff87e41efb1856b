/* SPDX-License-Identifier: MIT */
/* pages.h - what the host wrote to the page, one line after the other. Any thread may look. */
#ifndef PROBE_PAGES_H
#define PROBE_PAGES_H

#include "clocks.h"
#include "difference.h"

#include <pvclock/hyperv.h>

#include <pthread.h>
#include <stdatomic.h>

#define PAGES_KEPT 64u

/* Whose page it is. */
enum page_form { PAGE_OF_KVM, PAGE_OF_HYPERV };

/* A line that differs from the one before it for some reading, or in TSC_STABLE. */
struct page_entry {
	struct pvclock_snapshot snapshot;  /* of Hyper-V's page: its line, as near as this form has it */
	struct pvclock_hyperv_line hyperv; /* scale 0: KVM's page */
	uint32_t number;              /* 1, 2, ...: the line's name */
	uint64_t seen;                /* TSC at which it was first seen */
	struct difference difference; /* from the line before it */
};

struct pages {
	const struct clocks *clocks;
	const void *_Atomic page;     /* NULL: not known */
	enum page_form form;          /* of it */
	_Atomic uint32_t version;     /* of the page when it was last looked at */
	_Atomic uint32_t number;      /* of the line in force; 0: none */
	pthread_mutex_t lock;         /* for what follows */
	struct page_entry entries[PAGES_KEPT]; /* number n is at n % PAGES_KEPT */
	bool readable;                /* the last look found a line */
	uint64_t rewrites;            /* the host wrote, and no reading changed */
	uint64_t unreadable;          /* looks at a page that held no line, or was never finished */
	int64_t worst_jump;           /* magnitude */
};

/* 0 or an errno. No page is known yet. */
int pages_open(struct pages *pages, const struct clocks *clocks);

/* The page, readable as long as the process lives. Once. */
void pages_set(struct pages *pages, enum page_form form, const void *page);
bool pages_known(struct pages *pages);

/*
 * Looks at the page, if the host wrote it since anyone did; costs a few loads if not. Returns the number of the
 * line in force; 0 if there is none.
 */
uint32_t pages_look(struct pages *pages);

/* A line that was kept. False: there is no such number, or it was too long ago. */
bool pages_get(struct pages *pages, uint32_t number, struct page_entry *entry);

/* From one entry to another; `at` as line_difference has it. */
struct difference pages_difference(const struct page_entry *old, const struct page_entry *new, const uint64_t *at);

/* The page now, as it is in force. False: no page, or it holds no line. */
bool pages_now(struct pages *pages, struct page_entry *entry);

struct pages_totals {
	uint32_t lines;
	uint64_t rewrites, unreadable;
	int64_t worst_jump;
};
struct pages_totals pages_totals(struct pages *pages);

#endif
