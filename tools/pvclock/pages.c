/* SPDX-License-Identifier: MIT */
/* pages.c - what a clock page holds, and how far it is from another one, and from the kernel's clock. */
#define _GNU_SOURCE
#include "pages.h"

#include <string.h>
#include <time.h>

#define BRACKETS 64u
/* While its writer writes, Hyper-V's page is no clock either: about a millisecond is long for a writer. */
#define HYPERV_TRIES 20000u

int64_t saturate_ns(shown_ns ns)
{
	return ns > INT64_MAX ? INT64_MAX : ns < -INT64_MAX ? -INT64_MAX : (int64_t)ns;
}

static const char *read_pvclock(struct shown_page *page, const void *memory)
{
	switch (pvclock_page_read(memory, &page->holds.pvclock)) {
	case PVCLOCK_READ_OK:
		break;
	case PVCLOCK_READ_BUSY:
		return "its version stays odd";
	default:
		return "it holds no line";
	}
	/* a kernel that keeps something else in this place: no host writes such a page */
	return page->holds.pvclock.version == 0 || page->holds.pvclock.line.tsc == 0 ? "it holds no line" : NULL;
}

static const char *read_hyperv(struct shown_page *page, const void *memory)
{
	for (unsigned int i = 0; i < HYPERV_TRIES; i++) {
		switch (pvclock_hyperv_page_read(memory, &page->holds.hyperv)) {
		case PVCLOCK_READ_OK:
			return NULL;
		case PVCLOCK_READ_BUSY:
			return "it kept changing";
		default:
			pvclock_relax();
		}
	}
	return "its sequence is 0";
}

void shown_page_read(struct shown_page *page, enum shown_form form, const void *memory)
{
	page->form = form;
	if (memory == NULL)
		page->why = "not shown to processes";
	else
		page->why = form == SHOWN_PVCLOCK ? read_pvclock(page, memory) : read_hyperv(page, memory);
}

shown_ns shown_page_ns(const struct shown_page *page, uint64_t tick)
{
	if (page->form == SHOWN_PVCLOCK)
		return pvclock_line_ns(&page->holds.pvclock.line, tick);
	/* modulo 2^64 units: negative before the form's zero */
	return (shown_ns)(int64_t)pvclock_hyperv_time(&page->holds.hyperv.hyperv, tick) * PVCLOCK_HYPERV_UNIT_NS;
}

bool pages_apart(const struct shown_page *pages, size_t count, uint64_t tick, struct apart *apart)
{
	shown_ns least = 0, most = 0, first = 0, pvclock_most = 0, pvclock_least = 0;
	unsigned int live = 0, pvclock = 0;

	*apart = (struct apart){ .tick = tick };
	for (size_t i = 0; i < count; i++) {
		shown_ns ns;

		if (pages[i].why != NULL)
			continue;
		ns = shown_page_ns(&pages[i], tick);
		least = live == 0 || ns < least ? ns : least;
		most = live == 0 || ns > most ? ns : most;
		live++;
		if (pages[i].form != SHOWN_PVCLOCK)
			continue;
		if (pvclock++ == 0)
			first = pvclock_least = pvclock_most = ns;
		pvclock_least = ns < pvclock_least ? ns : pvclock_least;
		pvclock_most = ns > pvclock_most ? ns : pvclock_most;
	}
	apart->most_ns = (uint64_t)saturate_ns(most - least);
	apart->pvclock_known = pvclock > 1;
	apart->pvclock_ns = (uint64_t)saturate_ns(pvclock_most - pvclock_least);
	for (size_t i = 0; i < count && pvclock > 0; i++) {
		if (pages[i].why != NULL || pages[i].form != SHOWN_HYPERV)
			continue;
		apart->hyperv_known = true;
		apart->hyperv_ns = saturate_ns(shown_page_ns(&pages[i], tick) - first);
	}
	return apart->pvclock_known || apart->hyperv_known;
}

/*
 * The kernel reads its clock at some tick in [before, after], and there the page is at least what it is before,
 * and at most what it is after; both clocks are cut to a whole ns (Hyper-V's to 100).
 */
void page_from_raw(const struct pvclock_os *os, const struct shown_page *page, struct from_raw *from_raw)
{
	shown_ns least = 0;
	bool known = false;

	*from_raw = (struct from_raw){ .known = false };
	for (unsigned int i = 0; page->why == NULL && i < BRACKETS; i++) {
		uint64_t before, after, raw;
		shown_ns low, high;
		struct timespec ts;

		before = os->ops->read_tsc(os->ctx).ticks;
		if (os->ops->clock_gettime(os->ctx, CLOCK_MONOTONIC_RAW, &ts) != 0)
			return;
		after = os->ops->read_tsc(os->ctx).ticks;
		raw = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
		low = shown_page_ns(page, before) - (shown_ns)raw;
		high = shown_page_ns(page, after) - (shown_ns)raw;
		if (known && high - low >= least)
			continue;
		known = true;
		least = high - low;
		*from_raw = (struct from_raw){ .known = true, .ns = saturate_ns(low + (high - low) / 2), .raw_ns = raw,
					       .error_ns = (uint64_t)saturate_ns((high - low + 1) / 2) };
	}
}

void look_at_vdso_pages(const struct pvclock_os *os, const struct machine *machine, bool first, struct vdso_pages *vdso)
{
	static const enum pvclock_clock_page places[] = { PVCLOCK_CLOCK_PAGE_KVM, PVCLOCK_CLOCK_PAGE_HYPERV };
	static const char *const names[] = { "vCPU 0", "Hyper-V" };
	const bool offered[] = { machine->kvm, machine->hyperv };

	for (unsigned int form = 0; form < 2; form++) {
		struct shown_page *page = &vdso->pages[form];
		const void *memory = NULL;

		if (offered[form] && os->ops->clock_page != NULL)
			memory = os->ops->clock_page(os->ctx, places[form]);
		snprintf(page->name, sizeof(page->name), "%s", names[form]);
		page->gpa = UINT64_MAX;
		shown_page_read(page, (enum shown_form)form, memory);
		if (!offered[form])
			page->why = "not offered";
		page_from_raw(os, page, first ? &vdso->first[form] : &vdso->last[form]);
	}
	if (!first)
		(void)pages_apart(vdso->pages, 2, os->ops->read_tsc(os->ctx).ticks, &vdso->apart);
}
