/* SPDX-License-Identifier: MIT */
/*
 * nested_oracle.c - docs/spec/nested.md once more, from its text: which entries are refused, and every byte of what becomes of
 * the others. Only the arithmetic of one change is the library's own (pvclock_line_follow), which tests/line has against GMP.
 */
#include "nested_oracle.h"

#include <stddef.h>
#include <string.h>

#define CHANGES 2 /* that are told of one blackout */

struct slot {
	bool done;
	struct pvclock_nested_entry entry;
	struct pvclock_line was;                     /* of a page */
	struct pvclock_line_change changes[CHANGES]; /* of a table's machine */
};

struct oracle {
	const struct blackout *blackout;
	const uint8_t *before;
	uint8_t *expected;
	unsigned int told;
	bool lost;
	struct pvclock_line_change changes[CHANGES];
	struct slot slots[PVCLOCK_NESTED_ENTRIES];
};

/* --- what L1 is told of itself --------------------------------------------------------------------- */

static struct pvclock_nested_page page_at(const uint8_t *memory, uint64_t gpa)
{
	struct pvclock_nested_page page;

	memcpy(&page, memory + gpa, sizeof(page));
	return page;
}

static struct pvclock_line line_in(const struct pvclock_nested_line *line)
{
	return (struct pvclock_line){ .tsc = line->tsc, .ns = line->ns, .mul = line->mul, .shift = line->shift };
}

static struct pvclock_nested_line line_out(const struct pvclock_line *line)
{
	return (struct pvclock_nested_line){ .tsc = line->tsc, .ns = line->ns, .mul = line->mul, .shift = line->shift };
}

static struct pvclock_line_change change_in(const struct pvclock_nested_change *change)
{
	return (struct pvclock_line_change){ .old = line_in(&change->old), .next = line_in(&change->next),
					     .old_ticks = change->old_counter, .next_ticks = change->counter };
}

static struct pvclock_nested_change change_out(const struct pvclock_line_change *change)
{
	return (struct pvclock_nested_change){ .old = line_out(&change->old), .next = line_out(&change->next),
					       .old_counter = change->old_ticks, .counter = change->next_ticks };
}

/* At the later anchor of the two and from there on; a function that differs does so at some tick. */
static bool same_function(const struct pvclock_line *a, const struct pvclock_line *b)
{
	uint64_t from = a->tsc > b->tsc ? a->tsc : b->tsc;

	if (a->mul != b->mul || a->shift != b->shift)
		return false;
	for (unsigned int bit = 0; bit < 44; bit++)
		if (pvclock_line_ns(a, from + (UINT64_C(1) << bit) - 1) != pvclock_line_ns(b, from + (UINT64_C(1) << bit) - 1))
			return false;
	return true;
}

/* The changes lead from the line that was to the line that is, by the counter's own way. */
static void check_changes(struct oracle *oracle, const struct pvclock_nested_page *old, const struct pvclock_nested_page *now)
{
	const struct blackout *blackout = oracle->blackout;
	uint64_t moved = 0;

	check(now->generation - old->generation <= CHANGES);
	oracle->told = (unsigned int)(now->generation - old->generation);
	for (unsigned int i = 0; i < oracle->told; i++)
		oracle->changes[i] = change_in(&now->changes[(old->generation + 1 + i) % PVCLOCK_NESTED_CHANGES]);
	if (oracle->told == 0) {
		check(same_function(&blackout->was, &blackout->is));
		return;
	}
	oracle->lost = oracle->told == 1 && oracle->changes[0].next.mul == 0;
	if (oracle->lost) {
		check(blackout->changes > CHANGES);
		return;
	}
	check(same_function(&oracle->changes[0].old, &blackout->was));
	check(same_function(&oracle->changes[oracle->told - 1].next, &blackout->is));
	check(oracle->told == 1 || same_function(&oracle->changes[0].next, &oracle->changes[1].old));
	for (unsigned int i = 0; i < oracle->told; i++) {
		const struct pvclock_line_change *change = &oracle->changes[i];

		moved += change->next_ticks - change->old_ticks;
		check(change->next_ticks != change->old_ticks || !same_function(&change->old, &change->next));
	}
	check(moved == blackout->moved);
}

/* --- which entries are refused ------------------------------------------------------------------------ */

static bool apart(struct area a, struct area b)
{
	return a.gpa + a.size <= b.gpa || b.gpa + b.size <= a.gpa;
}

static struct area area_of(const struct pvclock_nested_entry *entry)
{
	bool table = entry->kind == PVCLOCK_NESTED_TABLE;

	return (struct area){ entry->gpa, table ? sizeof(struct pvclock_nested_page) : sizeof(struct pvclock_page) };
}

static bool may_be_written(const struct oracle *oracle, unsigned int number, const struct pvclock_nested_entry *entry)
{
	const struct blackout *blackout = oracle->blackout;
	struct area area = area_of(entry);

	if (area.gpa > blackout->memory || area.gpa + area.size > blackout->memory)
		return false;
	if (entry->kind == PVCLOCK_NESTED_TABLE ? area.gpa % 4096 != 0 : area.gpa % 4 != 0)
		return false;
	if (!apart(area, (struct area){ blackout->table, sizeof(struct pvclock_nested_page) }))
		return false;
	for (unsigned int i = 0; i < OURS; i++)
		if (blackout->ours[i].size && !apart(area, blackout->ours[i]))
			return false;
	for (unsigned int i = 0; i < number; i++)
		if (oracle->slots[i].done && !apart(area, area_of(&oracle->slots[i].entry)))
			return false;
	return true;
}

/* A page of L1's guest, or of the guest whose table it stands under; a table beside a page. */
static bool stands_somewhere(const struct oracle *oracle, unsigned int number, const struct pvclock_nested_entry *entry)
{
	const struct slot *under;
	uint8_t wanted = entry->kind == PVCLOCK_NESTED_PAGE ? PVCLOCK_NESTED_TABLE : PVCLOCK_NESTED_PAGE;

	if (entry->under == 0)
		return entry->kind == PVCLOCK_NESTED_PAGE;
	if (entry->under > number)
		return false;
	under = &oracle->slots[entry->under - 1];
	return under->done && under->entry.kind == wanted;
}

/* Of the machine that made the page of this entry. */
static const struct pvclock_line_change *changes_for(const struct oracle *oracle, const struct pvclock_nested_entry *page)
{
	return page->under ? oracle->slots[page->under - 1].changes : oracle->changes;
}

/* --- what becomes of the others ------------------------------------------------------------------------- */

static struct pvclock_tsc_transform transform_of(const struct pvclock_nested_entry *entry)
{
	return (struct pvclock_tsc_transform){ .ratio = entry->ratio, .offset = entry->offset, .frac_bits = entry->frac_bits };
}

static bool expect_page(struct oracle *oracle, struct slot *slot)
{
	struct pvclock_tsc_transform transform = transform_of(&slot->entry);
	const struct pvclock_line_change *changes = changes_for(oracle, &slot->entry);
	struct pvclock_page page;
	struct pvclock_line line;

	memcpy(&page, oracle->before + slot->entry.gpa, sizeof(page));
	slot->was = line = (struct pvclock_line){ .tsc = page.tsc_timestamp, .ns = page.system_time, .mul = page.tsc_to_system_mul,
						  .shift = page.tsc_shift };
	if (page.version % 2 != 0 || line.mul == 0 || line.shift < -31 || line.shift > 31)
		return false;
	for (unsigned int i = 0; i < oracle->told; i++)
		if (!pvclock_line_follow(&changes[i], &transform, &line, &line))
			return false;
	page.version += 2;
	page.tsc_timestamp = line.tsc;
	page.system_time = line.ns;
	page.tsc_to_system_mul = line.mul;
	page.tsc_shift = line.shift;
	page.flags = (uint8_t)((oracle->blackout->stable ? page.flags : page.flags & ~PVCLOCK_TSC_STABLE) | PVCLOCK_GUEST_STOPPED);
	memset(page.pad, 0, sizeof(page.pad));
	memcpy(oracle->expected + slot->entry.gpa, &page, sizeof(page));
	return true;
}

static bool expect_table(struct oracle *oracle, struct slot *slot)
{
	struct pvclock_tsc_transform transform = transform_of(&slot->entry);
	const struct slot *beside = &oracle->slots[slot->entry.under - 1];
	const struct pvclock_line_change *changes = changes_for(oracle, &beside->entry);
	struct pvclock_nested_page page = page_at(oracle->before, slot->entry.gpa);
	struct pvclock_line line = beside->was;

	if (page.magic != PVCLOCK_NESTED_MAGIC)
		return false;
	for (unsigned int i = 0; i < oracle->told; i++) {
		struct pvclock_line_change *own = &slot->changes[i];

		own->old = line;
		if (!pvclock_line_follow(&changes[i], &transform, &line, &line))
			return false;
		own->next = line;
		own->old_ticks = pvclock_tsc_to_guest(&transform, (struct pvclock_host_tsc){ changes[i].old_ticks }).ticks;
		own->next_ticks = pvclock_tsc_to_guest(&transform, (struct pvclock_host_tsc){ changes[i].next_ticks }).ticks;
		page.sequence = ((page.sequence + 1) | 1) + 1;
		page.generation++;
		page.changes[page.generation % PVCLOCK_NESTED_CHANGES] = change_out(own);
		page.rewritten = page.refused = UINT32_MAX;
	}
	memcpy(oracle->expected + slot->entry.gpa, &page, sizeof(page));
	return true;
}

static bool expect(struct oracle *oracle, unsigned int number)
{
	struct slot *slot = &oracle->slots[number];
	const struct pvclock_nested_entry *entry = &slot->entry;

	if (oracle->lost || (entry->kind != PVCLOCK_NESTED_PAGE && entry->kind != PVCLOCK_NESTED_TABLE))
		return false;
	if (entry->frac_bits > 63 || (entry->frac_bits && !entry->ratio))
		return false;
	if (!stands_somewhere(oracle, number, entry) || !may_be_written(oracle, number, entry))
		return false;
	return entry->kind == PVCLOCK_NESTED_PAGE ? expect_page(oracle, slot) : expect_table(oracle, slot);
}

static void expect_head(struct oracle *oracle, struct pvclock_nested_page *page, uint32_t rewritten, uint32_t refused)
{
	static const struct pvclock_line_change unknown;

	for (unsigned int i = 0; i < oracle->told; i++) {
		const struct pvclock_line_change *change = oracle->lost ? &unknown : &oracle->changes[i];

		page->sequence = ((page->sequence + 1) | 1) + 1;
		page->generation++;
		page->changes[page->generation % PVCLOCK_NESTED_CHANGES] = change_out(change);
		page->rewritten = rewritten;
		page->refused = refused;
	}
}

static void compare(const struct oracle *oracle, const uint8_t *after)
{
	const struct blackout *blackout = oracle->blackout;

	for (unsigned int i = 0; i < OURS; i++)
		memcpy(oracle->expected + blackout->ours[i].gpa, after + blackout->ours[i].gpa, blackout->ours[i].size);
	if (memcmp(oracle->expected, after, blackout->memory) == 0)
		return;
	for (uint64_t i = 0; i < blackout->memory; i++)
		if (oracle->expected[i] != after[i])
			fprintf(stderr, "0x%llx: %02x, not %02x\n", (unsigned long long)i, after[i], oracle->expected[i]);
	abort();
}

bool check_told(const struct blackout *blackout, const uint8_t *before, const uint8_t *after)
{
	struct pvclock_nested_page page = page_at(before, blackout->table), now = page_at(after, blackout->table);
	struct oracle *oracle = calloc(1, sizeof(*oracle));
	uint32_t rewritten = 0, refused = 0;

	oracle->blackout = blackout;
	oracle->before = before;
	oracle->expected = malloc(blackout->memory);
	memcpy(oracle->expected, before, blackout->memory);
	check_changes(oracle, &page, &now);
	for (unsigned int i = 0; i < page.count && i < PVCLOCK_NESTED_ENTRIES; i++) {
		struct slot *slot = &oracle->slots[i];

		slot->entry = page.entries[i];
		if (slot->entry.kind == PVCLOCK_NESTED_NONE)
			continue;
		slot->done = expect(oracle, i);
		rewritten += slot->done;
		refused += !slot->done;
		if (slot->done && oracle->told)
			page.entries[i].generation = (uint32_t)now.generation;
	}
	expect_head(oracle, &page, rewritten, refused);
	memcpy(oracle->expected + blackout->table, &page, sizeof(page));
	compare(oracle, after);
	free(oracle->expected);
	free(oracle);
	return now.generation != page_at(before, blackout->table).generation || now.acknowledged != now.generation;
}
