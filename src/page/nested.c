/* SPDX-License-Identifier: MIT */
/*
 * nested.c - a guest that is itself a host, in shared memory (docs/spec/nested.md). Why the sequence count works is
 * said in write.c. The entries need none: their host reads them while no CPU of the guest runs, so it finds what the
 * guest's stores, in their order, had come to.
 */
#include "shared_word.h"

#include <pvclock/nested.h>

#define LINE_WORDS (sizeof(struct pvclock_nested_line) / 4)
#define KIND_SHIFT 8
#define UNDER_SHIFT 16
#define CHANGE_OF(generation) \
	((offsetof(struct pvclock_nested_page, changes) + ((generation) & (PVCLOCK_NESTED_CHANGES - 1)) * sizeof(struct pvclock_nested_change)) / 4)

static void store_line(uint32_t *words, const struct pvclock_line *line)
{
	store_relaxed_halves(&words[0], line->tsc);
	store_relaxed_halves(&words[2], line->ns);
	store_relaxed_u32(&words[4], line->mul);
	store_relaxed_u32(&words[5], (uint8_t)line->shift);
}

static void load_line(const uint32_t *words, struct pvclock_line *line)
{
	line->tsc = load_relaxed_halves(&words[0]);
	line->ns = load_relaxed_halves(&words[2]);
	line->mul = pvclock_load_relaxed_u32(&words[4]);
	line->shift = (int8_t)pvclock_load_relaxed_u32(&words[5]);
}

static uint32_t *entry_of(void *page, unsigned int number)
{
	return (uint32_t *)page + NESTED_ENTRIES + number * (sizeof(struct pvclock_nested_entry) / 4);
}

/* --- the guest's side -------------------------------------------------------------------- */

enum pvclock_read pvclock_nested_read(const struct pvclock_nested_page *page, struct pvclock_nested *out)
{
	const uint32_t *words = (const uint32_t *)(const void *)page;

	for (uint32_t tries = 0; tries < PVCLOCK_READ_TRIES; tries++) {
		uint32_t magic, version, began;

		if (begin_read(&words[NESTED_SEQUENCE], &began)) {
			magic = pvclock_load_relaxed_u32(&words[NESTED_MAGIC]);
			version = pvclock_load_relaxed_u32(&words[NESTED_VERSION]);
			out->generation = load_relaxed_halves(&words[NESTED_GENERATION]);
			out->rewritten = pvclock_load_relaxed_u32(&words[NESTED_REWRITTEN]);
			out->refused = pvclock_load_relaxed_u32(&words[NESTED_REFUSED]);
			out->acknowledged = load_relaxed_halves(&words[NESTED_ACKNOWLEDGED]);
			for (unsigned int i = 0; i < PVCLOCK_NESTED_CHANGES; i++) {
				const uint32_t *change = &words[CHANGE_OF(i)];

				out->changes[i].old_ticks = load_relaxed_halves(&change[0]);
				out->changes[i].next_ticks = load_relaxed_halves(&change[2]);
				load_line(&change[4], &out->changes[i].old);
				load_line(&change[4 + LINE_WORDS], &out->changes[i].next);
			}
			if (end_read(&words[NESTED_SEQUENCE], began))
				return magic == PVCLOCK_NESTED_MAGIC && version >= PVCLOCK_NESTED_VERSION ? PVCLOCK_READ_OK : PVCLOCK_READ_INVALID;
		}
		pvclock_relax();
	}
	return PVCLOCK_READ_BUSY;
}

void pvclock_nested_enter(struct pvclock_nested_page *page, unsigned int number, const struct pvclock_nested_entry *entry)
{
	uint32_t *words = entry_of(page, number), *count = (uint32_t *)(void *)page + NESTED_COUNT;

	store_release_u32(&words[ENTRY_TAIL], 0);
	fence_release();
	if (!entry)
		return;
	store_relaxed_halves(&words[ENTRY_GPA], entry->gpa);
	store_relaxed_halves(&words[ENTRY_OFFSET], entry->offset);
	store_relaxed_halves(&words[ENTRY_RATIO], entry->ratio);
	store_relaxed_u32(&words[ENTRY_GENERATION], 0);
	if (pvclock_load_relaxed_u32(count) <= number)
		store_relaxed_u32(count, number + 1);
	store_release_u32(&words[ENTRY_TAIL], entry->frac_bits | (uint32_t)entry->kind << KIND_SHIFT | (uint32_t)entry->under << UNDER_SHIFT);
}

void pvclock_nested_acknowledge(struct pvclock_nested_page *page, uint64_t generation)
{
	store_relaxed_halves((uint32_t *)(void *)page + NESTED_ACKNOWLEDGED, generation);
}

/* --- the host's side ------------------------------------------------------------------------ */

void pvclock_nested_begin(void *page)
{
	uint32_t *words = page;
	uint32_t even = begin_write(&words[NESTED_SEQUENCE]);

	store_relaxed_u32(&words[NESTED_MAGIC], PVCLOCK_NESTED_MAGIC);
	store_relaxed_u32(&words[NESTED_VERSION], PVCLOCK_NESTED_VERSION);
	store_release_u32(&words[NESTED_SEQUENCE], even);
}

uint64_t pvclock_nested_acknowledged(const void *page)
{
	return load_relaxed_halves((const uint32_t *)page + NESTED_ACKNOWLEDGED);
}

bool pvclock_nested_begun(const void *page)
{
	return pvclock_load_relaxed_u32((const uint32_t *)page + NESTED_MAGIC) == PVCLOCK_NESTED_MAGIC;
}

void pvclock_nested_tell(void *page, const struct pvclock_line_change *change, uint32_t rewritten, uint32_t refused)
{
	static const struct pvclock_line unknown;
	uint32_t *words = page, even = begin_write(&words[NESTED_SEQUENCE]);
	uint64_t generation = load_relaxed_halves(&words[NESTED_GENERATION]) + 1;
	uint32_t *into = &words[CHANGE_OF(generation)];

	store_relaxed_halves(&into[0], change ? change->old_ticks : 0);
	store_relaxed_halves(&into[2], change ? change->next_ticks : 0);
	store_line(&into[4], change ? &change->old : &unknown);
	store_line(&into[4 + LINE_WORDS], change ? &change->next : &unknown);
	store_relaxed_u32(&words[NESTED_REWRITTEN], rewritten);
	store_relaxed_u32(&words[NESTED_REFUSED], refused);
	store_relaxed_halves(&words[NESTED_GENERATION], generation);
	store_release_u32(&words[NESTED_SEQUENCE], even);
}

unsigned int pvclock_nested_count(const void *page)
{
	uint32_t count = pvclock_load_relaxed_u32((const uint32_t *)page + NESTED_COUNT);

	return count < PVCLOCK_NESTED_ENTRIES ? count : PVCLOCK_NESTED_ENTRIES;
}

bool pvclock_nested_look(const void *page, unsigned int number, struct pvclock_nested_entry *entry)
{
	const uint32_t *words = (const uint32_t *)page + NESTED_ENTRIES + number * (sizeof(*entry) / 4);
	uint32_t tail = pvclock_load_acquire_u32(&words[ENTRY_TAIL]);

	entry->gpa = load_relaxed_halves(&words[ENTRY_GPA]);
	entry->offset = load_relaxed_halves(&words[ENTRY_OFFSET]);
	entry->ratio = load_relaxed_halves(&words[ENTRY_RATIO]);
	entry->frac_bits = (uint8_t)tail;
	entry->kind = (uint8_t)(tail >> KIND_SHIFT);
	entry->under = (uint8_t)(tail >> UNDER_SHIFT);
	entry->reserved = (uint8_t)(tail >> 24);
	entry->generation = pvclock_load_relaxed_u32(&words[ENTRY_GENERATION]);
	return entry->kind != PVCLOCK_NESTED_NONE;
}

void pvclock_nested_mark(void *page, unsigned int number, uint64_t generation)
{
	store_relaxed_u32(&entry_of(page, number)[ENTRY_GENERATION], (uint32_t)generation);
}

bool pvclock_page_follow(void *page, const struct pvclock_line_change *changes, size_t count, const struct pvclock_tsc_transform *transform,
			 uint8_t keep, struct pvclock_line *old)
{
	struct pvclock_snapshot copy;
	struct pvclock_line line;

	if (!read_page_once(page, &copy) || !pvclock_line_valid(&copy.line))
		return false;
	line = copy.line;
	for (size_t i = 0; i < count; i++)
		if (!pvclock_line_follow(&changes[i], transform, &line, &line))
			return false;
	*old = copy.line;
	pvclock_page_write(page, &line, (uint8_t)((copy.flags & keep) | PVCLOCK_GUEST_STOPPED));
	return true;
}
