/* SPDX-License-Identifier: MIT */
/* registered.c - the pages that a guest's kernel has registered, by MSR, read where they are in its memory. */
#define _GNU_SOURCE
#include "registered.h"

#include <stdlib.h>
#include <string.h>

#define KVM_FEATURES_CLOCKSOURCE2 (1u << 3)
/* A page that is being written: it is read again. */
#define READ_TRIES 100u

enum {
	VERSION_AT = offsetof(struct pvclock_page, version),
	HYPERV_SEQUENCE_AT = offsetof(struct pvclock_hyperv_page, sequence),
	SUSPEND_SEQUENCE_AT = offsetof(struct pvclock_suspend_page, sequence),
	NESTED_SEQUENCE_AT = offsetof(struct pvclock_nested_page, sequence),
};

static const char not_registered[] = "not registered", written[] = "it is being written";
static const char unreadable[] = "this process may not read its memory";

/*
 * A copy of a page, whole: one read of all of it, and then its sequence is still what it was. `odd`: of a sequence that is
 * odd while its writer writes (Hyper-V's is 0 then).
 */
static const char *copy_page(const struct access *access, uint64_t gpa, void *copy, size_t size, size_t sequence_at, bool odd)
{
	for (unsigned int i = 0; i < READ_TRIES; i++) {
		uint32_t before, after;

		if (!access->read_memory(access->ctx, gpa, copy, size) ||
		    !access->read_memory(access->ctx, gpa + sequence_at, &after, sizeof(after)))
			return unreadable;
		memcpy(&before, (uint8_t *)copy + sequence_at, sizeof(before));
		if (before == after && !(odd && before % 2))
			return NULL;
	}
	return written;
}

static void read_shown(const struct access *access, enum shown_form form, struct shown_page *page)
{
	union {
		struct pvclock_page pvclock;
		struct pvclock_hyperv_page hyperv;
	} copy;

	page->form = form;
	if (form == SHOWN_PVCLOCK)
		page->why = copy_page(access, page->gpa, &copy, sizeof(copy.pvclock), VERSION_AT, true);
	else
		page->why = copy_page(access, page->gpa, &copy, sizeof(copy.hyperv), HYPERV_SEQUENCE_AT, false);
	if (page->why == NULL)
		shown_page_read(page, form, &copy);
}

/* --- the clock's pages ------------------------------------------------------------------------------------ */

/* `shown`: the same page as processes see it, or NULL. */
static void look_at_page(const struct access *access, enum shown_form form, uint64_t msr, uint64_t mask,
			 const struct shown_page *shown, struct shown_page *page)
{
	page->form = form;
	page->gpa = UINT64_MAX;
	page->why = not_registered;
	if (!(msr & PVCLOCK_MSR_ENABLE))
		return;
	page->gpa = msr & mask;
	read_shown(access, form, page);
	if (page->why == unreadable && shown != NULL && shown->why == NULL) {
		page->holds = shown->holds;
		page->why = NULL;
	}
}

static void look_at_pages(const struct machine *machine, const struct access *access, unsigned int cpus,
			  const struct vdso_pages *vdso, struct registered *registered)
{
	uint32_t place = machine->kvm_features & KVM_FEATURES_CLOCKSOURCE2 ? PVCLOCK_MSR_SYSTEM_TIME : PVCLOCK_MSR_SYSTEM_TIME_OLD;
	struct shown_page *page = registered->pages;
	uint64_t msr;

	for (unsigned int cpu = 0; machine->kvm && cpu < cpus; cpu++) {
		if (!access->read_msr(access->ctx, cpu, place, &msr))
			continue;
		snprintf(page->name, sizeof(page->name), "vCPU %u", cpu);
		look_at_page(access, SHOWN_PVCLOCK, msr, ~(uint64_t)PVCLOCK_MSR_ENABLE,
			     cpu == 0 ? &vdso->pages[SHOWN_PVCLOCK] : NULL, page++);
	}
	if (machine->hyperv_features & PVCLOCK_HYPERV_TSC_PAGE &&
	    access->read_msr(access->ctx, 0, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, &msr)) {
		snprintf(page->name, sizeof(page->name), "Hyper-V");
		look_at_page(access, SHOWN_HYPERV, msr, ~(uint64_t)(PVCLOCK_HYPERV_PAGE_SIZE - 1),
			     &vdso->pages[SHOWN_HYPERV], page++);
	}
	registered->count = (size_t)(page - registered->pages);
	registered->msrs = registered->count > 0;
}

/* Page and counter are one function: at some tick of the two between which the counter is read, it is what the page gives. */
static void look_at_counter(const struct pvclock_os *os, const struct machine *machine, const struct access *access,
			    struct registered *registered)
{
	const struct shown_page *page = registered->count ? &registered->pages[registered->count - 1] : NULL;
	uint64_t before = os->ops->read_tsc(os->ctx).ticks, after;
	shown_ns least, most, ns;

	if (!(machine->hyperv_features & PVCLOCK_HYPERV_COUNTER) ||
	    !access->read_msr(access->ctx, 0, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT, &registered->counter))
		return;
	after = os->ops->read_tsc(os->ctx).ticks;
	registered->counter_known = true;
	if (page == NULL || page->form != SHOWN_HYPERV || page->why != NULL)
		return;
	registered->counter_compared = true;
	ns = (shown_ns)(int64_t)registered->counter * PVCLOCK_HYPERV_UNIT_NS;
	least = shown_page_ns(page, before);
	most = shown_page_ns(page, after);
	registered->counter_off_ns = ns < least ? saturate_ns(ns - least) : ns > most ? saturate_ns(ns - most) : 0;
}

/* --- beside the clock ---------------------------------------------------------------------------------------- */

static bool look_at_told(const struct machine *machine, const struct access *access, uint32_t feature, uint32_t msr,
			 struct told *told)
{
	told->why = not_registered;
	told->known = machine->parent.features & feature && access->read_msr(access->ctx, 0, msr, &told->msr);
	return told->known && told->msr & PVCLOCK_MSR_ENABLE;
}

static void look_at_suspend(const struct machine *machine, const struct access *access, struct registered *registered)
{
	struct told *told = &registered->suspend;
	struct pvclock_suspend_page copy;

	if (!look_at_told(machine, access, PVCLOCK_FEATURE_SUSPEND, PVCLOCK_MSR_SUSPEND, told))
		return;
	told->why = copy_page(access, told->msr - PVCLOCK_MSR_ENABLE, &copy, sizeof(copy), SUSPEND_SEQUENCE_AT, true);
	if (told->why == NULL && pvclock_suspend_read(&copy, &registered->slept) != PVCLOCK_READ_OK)
		told->why = "nobody writes there";
}

static void look_at_nested(const struct machine *machine, const struct access *access, struct registered *registered)
{
	struct told *told = &registered->nested;
	struct pvclock_nested_page copy;

	if (!look_at_told(machine, access, PVCLOCK_FEATURE_NESTED, PVCLOCK_MSR_NESTED, told))
		return;
	told->why = copy_page(access, told->msr - PVCLOCK_MSR_ENABLE, &copy, sizeof(copy), NESTED_SEQUENCE_AT, true);
	if (told->why == NULL && pvclock_nested_read(&copy, &registered->table) != PVCLOCK_READ_OK)
		told->why = "nobody writes there";
	for (unsigned int i = 0; told->why == NULL && i < pvclock_nested_count(&copy); i++)
		if (copy.entries[i].kind <= PVCLOCK_NESTED_TABLE)
			registered->entries[copy.entries[i].kind]++;
}

void look_at_registered(const struct pvclock_os *os, const struct machine *machine, const struct access *access, unsigned int cpus,
			const struct vdso_pages *vdso, struct registered *registered)
{
	*registered = (struct registered){ .msrs = false };
	registered->pages = calloc(cpus + 1, sizeof(*registered->pages));
	if (registered->pages != NULL && machine->guest) {
		look_at_pages(machine, access, cpus, vdso, registered);
		look_at_counter(os, machine, access, registered);
		(void)pages_apart(registered->pages, registered->count, os->ops->read_tsc(os->ctx).ticks, &registered->apart);
	}
	look_at_suspend(machine, access, registered);
	look_at_nested(machine, access, registered);
	look_at_vmclock(os, access->vmclock, registered->count ? registered->pages : NULL, &registered->vmclock);
}

void registered_clear(struct registered *registered)
{
	free(registered->pages);
}
