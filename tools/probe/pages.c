/* SPDX-License-Identifier: MIT */
#include "pages.h"

int pages_open(struct pages *pages, const struct clocks *clocks)
{
	*pages = (struct pages){ .clocks = clocks };
	return pthread_mutex_init(&pages->lock, NULL);
}

void pages_set(struct pages *pages, enum page_form form, const void *page)
{
	pages->form = form;
	atomic_store(&pages->page, page);
}

static const void *page_of(struct pages *pages)
{
	return atomic_load_explicit(&pages->page, memory_order_acquire);
}

bool pages_known(struct pages *pages)
{
	return page_of(pages) != NULL;
}

static struct page_entry *entry_of(struct pages *pages, uint32_t number)
{
	return &pages->entries[number % PAGES_KEPT];
}

struct difference pages_difference(const struct page_entry *old, const struct page_entry *new, const uint64_t *at)
{
	if (new->hyperv.scale != 0)
		return hyperv_difference(&old->hyperv, &new->hyperv, at != NULL ? *at : new->snapshot.line.tsc);
	return line_difference(&old->snapshot.line, &new->snapshot.line, at);
}

static void enter(struct pages *pages, const struct page_entry *now)
{
	uint32_t number = atomic_load_explicit(&pages->number, memory_order_relaxed);
	struct page_entry *last = entry_of(pages, number), *next = entry_of(pages, number + 1);
	struct difference difference = { .same_slope = true };

	if (number != 0) {
		int64_t size;

		difference = pages_difference(last, now, NULL);
		if (difference_is_none(&difference) &&
		    ((last->snapshot.flags ^ now->snapshot.flags) & PVCLOCK_TSC_STABLE) == 0) {
			last->snapshot = now->snapshot; /* the same function at another anchor */
			pages->rewrites++;
			return;
		}
		size = difference.jump == INT64_MIN ? INT64_MAX :
		       difference.jump < 0 ? -difference.jump : difference.jump;
		if (size > pages->worst_jump)
			pages->worst_jump = size;
	}
	*next = *now;
	next->number = number + 1;
	next->difference = difference;
	next->seen = pages->clocks->tsc(pages->clocks->context);
	atomic_store_explicit(&pages->number, number + 1, memory_order_release);
}

/* Readers fall back on a call to the host while sequence is 0: no clock, and none that is stable. */
static bool read_hyperv(const struct pages *pages, const void *page, struct page_entry *now)
{
	struct pvclock_hyperv_snapshot snapshot;

	if (pvclock_hyperv_page_read(page, &snapshot) != PVCLOCK_READ_OK)
		return false;
	*now = (struct page_entry){ .snapshot = { .version = snapshot.sequence, .flags = PVCLOCK_TSC_STABLE }, .hyperv = snapshot.hyperv };
	return pvclock_line_from_hyperv(&now->hyperv, pages->clocks->tsc(pages->clocks->context), &now->snapshot.line);
}

static bool read_page(const struct pages *pages, const void *page, struct page_entry *now)
{
	*now = (struct page_entry){ .number = 0 };
	return pages->form == PAGE_OF_HYPERV ? read_hyperv(pages, page, now) : pvclock_page_read(page, &now->snapshot) == PVCLOCK_READ_OK;
}

/* With the lock held, so that what is read later is entered later. */
static void look(struct pages *pages)
{
	const void *page = page_of(pages);
	uint32_t version = pvclock_load_acquire_u32(page);
	struct page_entry now;

	if (pages->readable && version == atomic_load_explicit(&pages->version, memory_order_relaxed))
		return;
	pages->readable = read_page(pages, page, &now);
	if (!pages->readable) {
		pages->unreadable++;
		return;
	}
	enter(pages, &now);
	atomic_store_explicit(&pages->version, now.snapshot.version, memory_order_release);
}

uint32_t pages_look(struct pages *pages)
{
	const void *page = page_of(pages);

	if (page == NULL)
		return 0;
	/* a page never looked at has number 0 */
	if (atomic_load_explicit(&pages->number, memory_order_acquire) == 0 ||
	    pvclock_load_acquire_u32(page) != atomic_load_explicit(&pages->version, memory_order_acquire)) {
		pthread_mutex_lock(&pages->lock);
		look(pages);
		pthread_mutex_unlock(&pages->lock);
	}
	return atomic_load_explicit(&pages->number, memory_order_acquire);
}

bool pages_get(struct pages *pages, uint32_t number, struct page_entry *entry)
{
	bool found;

	pthread_mutex_lock(&pages->lock);
	*entry = *entry_of(pages, number);
	found = number != 0 && entry->number == number;
	pthread_mutex_unlock(&pages->lock);
	return found;
}

bool pages_now(struct pages *pages, struct page_entry *entry)
{
	bool known;

	if (!pages_known(pages))
		return false;
	pthread_mutex_lock(&pages->lock);
	look(pages);
	*entry = *entry_of(pages, atomic_load_explicit(&pages->number, memory_order_relaxed));
	known = pages->readable && entry->number != 0;
	pthread_mutex_unlock(&pages->lock);
	return known;
}

struct pages_totals pages_totals(struct pages *pages)
{
	struct pages_totals totals;

	pthread_mutex_lock(&pages->lock);
	totals = (struct pages_totals){ .lines = atomic_load_explicit(&pages->number, memory_order_relaxed),
					.rewrites = pages->rewrites, .unreadable = pages->unreadable,
					.worst_jump = pages->worst_jump };
	pthread_mutex_unlock(&pages->lock);
	return totals;
}
