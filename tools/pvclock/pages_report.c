/* SPDX-License-Identifier: MIT */
/* pages_report.c - clock pages for people and for programs. */
#define _GNU_SOURCE
#include "pages.h"

#include <inttypes.h>
#include <string.h>

/* A parent's pages are few; a VM's are one for each vCPU. */
#define WHOSE_SIZE 64

const char *page_flag_names(uint8_t flags)
{
	switch (flags & (PVCLOCK_TSC_STABLE | PVCLOCK_GUEST_STOPPED)) {
	case PVCLOCK_TSC_STABLE:
		return "tsc-stable";
	case PVCLOCK_GUEST_STOPPED:
		return "guest-stopped";
	case PVCLOCK_TSC_STABLE | PVCLOCK_GUEST_STOPPED:
		return "tsc-stable guest-stopped";
	default:
		return "no flags";
	}
}

static bool same_line(const struct shown_page *a, const struct shown_page *b)
{
	const struct pvclock_line *x = &a->holds.pvclock.line, *y = &b->holds.pvclock.line;

	return a->form == SHOWN_PVCLOCK && b->form == SHOWN_PVCLOCK && a->why == NULL && b->why == NULL && x->tsc == y->tsc &&
	       x->ns == y->ns && x->mul == y->mul && x->shift == y->shift && a->holds.pvclock.flags == b->holds.pvclock.flags;
}

/* "vCPU 0", "vCPU 0 to vCPU 3", and where, if it is one page that one may look for. */
static const char *whose(const struct shown_page *pages, size_t count, char text[WHOSE_SIZE])
{
	if (count > 1)
		snprintf(text, WHOSE_SIZE, "%s to %s", pages[0].name, pages[count - 1].name);
	else if (pages[0].gpa != UINT64_MAX)
		snprintf(text, WHOSE_SIZE, "%s at 0x%" PRIx64, pages[0].name, pages[0].gpa);
	else
		snprintf(text, WHOSE_SIZE, "%s", pages[0].name);
	return text;
}

static void print_page(const char *name, const struct shown_page *page, const char *text)
{
	const struct pvclock_snapshot *pvclock = &page->holds.pvclock;
	const struct pvclock_hyperv_snapshot *hyperv = &page->holds.hyperv;

	if (page->why != NULL) {
		print_item(name, "%s: not live (%s)", text, page->why);
	} else if (page->form == SHOWN_PVCLOCK) {
		print_item(name, "%s: live, %s, version %" PRIu32, text, page_flag_names(pvclock->flags), pvclock->version);
		print_item("", "%" PRIu64 " ns at tick %" PRIu64 ", mul %" PRIu32 ", shift %d", pvclock->line.ns, pvclock->line.tsc,
			   pvclock->line.mul, pvclock->line.shift);
	} else {
		print_item(name, "%s: live, sequence %" PRIu32, text, hyperv->sequence);
		print_item("", "%" PRId64 " x 100 ns at tick 0, scale %" PRIu64, hyperv->hyperv.offset, hyperv->hyperv.scale);
	}
}

void print_pages(const struct shown_page *pages, size_t count)
{
	char text[WHOSE_SIZE];
	size_t same;

	for (size_t i = 0; i < count; i += same) {
		for (same = 1; i + same < count && same_line(&pages[i], &pages[i + same]); same++)
			;
		print_page(i == 0 ? "pages" : "", &pages[i], whose(&pages[i], same, text));
	}
}

const char *hyperv_one_clock(int64_t ns)
{
	return ns >= -100 && ns <= 102 ? "one clock, which has -100 to 102" : "not one clock, which has -100 to 102";
}

void print_apart(const struct apart *apart)
{
	const char *name = "apart";

	if (apart->pvclock_known) {
		print_item(name, "pvclock pages: %" PRIu64 " ns at most, at tick %" PRIu64, apart->pvclock_ns, apart->tick);
		name = "";
	}
	if (apart->hyperv_known)
		print_item(name, "Hyper-V: %+" PRId64 " ns from the pvclock page, at tick %" PRIu64 " (%s)", apart->hyperv_ns,
			   apart->tick, hyperv_one_clock(apart->hyperv_ns));
}

static json_t *page_to_json(const struct shown_page *page)
{
	json_t *object = json_object();
	char number[24];

	set_text(object, "whose", page->name);
	set_text(object, "form", page->form == SHOWN_PVCLOCK ? "pvclock" : "hyperv");
	if (page->gpa != UINT64_MAX)
		set_number(object, "gpa", page->gpa);
	set_flag(object, "live", page->why == NULL);
	if (page->why != NULL) {
		set_text(object, "why", page->why);
	} else if (page->form == SHOWN_PVCLOCK) {
		const struct pvclock_snapshot *holds = &page->holds.pvclock;

		set_number(object, "version", holds->version);
		set_flag(object, "tsc_stable", holds->flags & PVCLOCK_TSC_STABLE);
		set_flag(object, "guest_stopped", holds->flags & PVCLOCK_GUEST_STOPPED);
		set_number(object, "tsc_timestamp", holds->line.tsc);
		set_number(object, "system_time", holds->line.ns);
		set_number(object, "mul", holds->line.mul);
		json_object_set_new(object, "shift", json_integer(holds->line.shift));
	} else {
		set_number(object, "sequence", page->holds.hyperv.sequence);
		/* 64 bits, of which readers of JSON may lose some */
		snprintf(number, sizeof(number), "%" PRIu64, page->holds.hyperv.hyperv.scale);
		set_text(object, "scale", number);
		json_object_set_new(object, "offset", json_integer(page->holds.hyperv.hyperv.offset));
	}
	return object;
}

json_t *pages_to_json(const struct shown_page *pages, size_t count)
{
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, page_to_json(&pages[i]));
	return list;
}

json_t *apart_to_json(const struct apart *apart)
{
	json_t *object;

	if (!apart->pvclock_known && !apart->hyperv_known)
		return json_null();
	object = json_object();
	set_number(object, "tick", apart->tick);
	set_number(object, "most_ns", apart->most_ns);
	if (apart->pvclock_known)
		set_number(object, "pvclock_ns", apart->pvclock_ns);
	if (apart->hyperv_known)
		json_object_set_new(object, "hyperv_ns", json_integer(apart->hyperv_ns));
	return object;
}

/* --- those for the vDSO -------------------------------------------------------------------------------- */

static int64_t changed_ns(const struct from_raw *first, const struct from_raw *last)
{
	return saturate_ns((shown_ns)last->ns - first->ns);
}

static void print_from_raw(const struct from_raw *first, const struct from_raw *last)
{
	if (!last->known)
		return;
	print_item("", "%" PRIu64 " ns %s CLOCK_MONOTONIC_RAW, within %" PRIu64 " ns",
		   (uint64_t)(last->ns < 0 ? -last->ns : last->ns), last->ns < 0 ? "behind" : "ahead of", last->error_ns);
	if (first->known && last->raw_ns > first->raw_ns)
		print_item("", "changed by %+" PRId64 " ns in %.2f s, within %" PRIu64 " ns", changed_ns(first, last),
			   (double)(last->raw_ns - first->raw_ns) / 1e9, last->error_ns + first->error_ns);
}

void print_vdso_pages(const struct vdso_pages *vdso)
{
	for (unsigned int i = 0; i < 2; i++) {
		print_page(i == 0 ? "pages" : "", &vdso->pages[i], vdso->pages[i].name);
		print_from_raw(&vdso->first[i], &vdso->last[i]);
	}
	print_apart(&vdso->apart);
}

json_t *vdso_pages_to_json(const struct vdso_pages *vdso)
{
	json_t *list = pages_to_json(vdso->pages, 2);

	for (unsigned int i = 0; i < 2; i++) {
		const struct from_raw *first = &vdso->first[i], *last = &vdso->last[i];
		json_t *object = json_object();

		if (last->known) {
			json_object_set_new(object, "ns", json_integer(last->ns));
			set_number(object, "error_ns", last->error_ns);
		}
		if (last->known && first->known && last->raw_ns > first->raw_ns) {
			json_object_set_new(object, "moved_ns", json_integer(changed_ns(first, last)));
			set_number(object, "moved_error_ns", last->error_ns + first->error_ns);
			set_real(object, "seconds", (double)(last->raw_ns - first->raw_ns) / 1e9);
		}
		if (last->known)
			json_object_set(json_array_get(list, i), "from_raw", object);
		json_decref(object);
	}
	return list;
}
