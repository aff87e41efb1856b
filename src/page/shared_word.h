/* SPDX-License-Identifier: MIT */
/*
 * shared_word.h - the writer's half of page.h's shared words, and what all readers and writers of a sequence count share
 * (write.c says why it works). The words' readers are public, because the guest's inline reader needs them.
 *
 * 32 bits only: a guest may register a page at any multiple of 4, and a 64-bit access that straddles a cache line
 * is neither atomic nor defined.
 */
#ifndef PVCLOCK_SRC_PAGE_SHARED_WORD_H
#define PVCLOCK_SRC_PAGE_SHARED_WORD_H

#include <pvclock/nested.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the pvclock page is little-endian, and so is every machine that has one"
#endif

/* Offsets in 32-bit words. */
enum {
	PAGE_VERSION = offsetof(struct pvclock_page, version) / 4,
	PAGE_TSC = offsetof(struct pvclock_page, tsc_timestamp) / 4,
	PAGE_NS = offsetof(struct pvclock_page, system_time) / 4,
	PAGE_MUL = offsetof(struct pvclock_page, tsc_to_system_mul) / 4,
	PAGE_TAIL = offsetof(struct pvclock_page, tsc_shift) / 4, /* tsc_shift, flags << 8, padding */
	WALL_VERSION = offsetof(struct pvclock_wall_clock, version) / 4,
	WALL_SEC = offsetof(struct pvclock_wall_clock, sec) / 4,
	WALL_NSEC = offsetof(struct pvclock_wall_clock, nsec) / 4,
	SUSPEND_MAGIC = offsetof(struct pvclock_suspend_page, magic) / 4,
	SUSPEND_VERSION = offsetof(struct pvclock_suspend_page, version) / 4,
	SUSPEND_SEQUENCE = offsetof(struct pvclock_suspend_page, sequence) / 4,
	SUSPEND_CAUSE = offsetof(struct pvclock_suspend_page, cause) / 4,
	SUSPEND_COUNT = offsetof(struct pvclock_suspend_page, count) / 4,
	SUSPEND_UNCOUNTED = offsetof(struct pvclock_suspend_page, uncounted_ns) / 4,
	SUSPEND_COUNTED = offsetof(struct pvclock_suspend_page, counted_ns) / 4,
	SUSPEND_LAST = offsetof(struct pvclock_suspend_page, last_ns) / 4,
	SUSPEND_ERROR = offsetof(struct pvclock_suspend_page, error_ns) / 4,
	SUSPEND_COUNTER = offsetof(struct pvclock_suspend_page, counter) / 4,
	STEAL_NS = offsetof(struct pvclock_steal_page, steal) / 4,
	STEAL_VERSION = offsetof(struct pvclock_steal_page, version) / 4,
	STEAL_PREEMPTED = offsetof(struct pvclock_steal_page, preempted) / 4, /* and padding */
	NESTED_MAGIC = offsetof(struct pvclock_nested_page, magic) / 4,
	NESTED_VERSION = offsetof(struct pvclock_nested_page, version) / 4,
	NESTED_SEQUENCE = offsetof(struct pvclock_nested_page, sequence) / 4,
	NESTED_GENERATION = offsetof(struct pvclock_nested_page, generation) / 4,
	NESTED_REWRITTEN = offsetof(struct pvclock_nested_page, rewritten) / 4,
	NESTED_REFUSED = offsetof(struct pvclock_nested_page, refused) / 4,
	NESTED_ACKNOWLEDGED = offsetof(struct pvclock_nested_page, acknowledged) / 4,
	NESTED_COUNT = offsetof(struct pvclock_nested_page, count) / 4,
	NESTED_ENTRIES = offsetof(struct pvclock_nested_page, entries) / 4,
	ENTRY_GPA = offsetof(struct pvclock_nested_entry, gpa) / 4,
	ENTRY_OFFSET = offsetof(struct pvclock_nested_entry, offset) / 4,
	ENTRY_RATIO = offsetof(struct pvclock_nested_entry, ratio) / 4,
	ENTRY_TAIL = offsetof(struct pvclock_nested_entry, frac_bits) / 4, /* kind << 8, under << 16 */
	ENTRY_GENERATION = offsetof(struct pvclock_nested_entry, generation) / 4,
};

static inline void store_relaxed_u32(uint32_t *word, uint32_t value)
{
	atomic_store_explicit((_Atomic uint32_t *)word, value, memory_order_relaxed);
}

static inline void store_release_u32(uint32_t *word, uint32_t value)
{
	atomic_store_explicit((_Atomic uint32_t *)word, value, memory_order_release);
}

static inline void store_relaxed_halves(uint32_t *word, uint64_t value)
{
	store_relaxed_u32(word, (uint32_t)value);
	store_relaxed_u32(word + 1, (uint32_t)(value >> 32));
}

static inline uint64_t load_relaxed_halves(const uint32_t *word)
{
	return pvclock_load_relaxed_u32(word) | (uint64_t)pvclock_load_relaxed_u32(word + 1) << 32;
}

/* See pvclock_fence_acquire for the warning. */
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
static inline void fence_release(void)
{
	atomic_thread_fence(memory_order_release);
}
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

/*
 * Opens the odd phase and returns the number that closes it. The version comes from the page, so that it also goes on
 * where another writer (the kernel, or the VMM before a live update) left it; if that one died in its odd phase, the
 * next odd number is taken, so that a reader who began in the dead one's phase cannot end in ours.
 */
static inline uint32_t begin_write(uint32_t *version)
{
	uint32_t odd = (pvclock_load_relaxed_u32(version) + 1) | 1;

	store_relaxed_u32(version, odd);
	fence_release();
	return odd + 1;
}

/* The version to begin with, and whether a copy that began with it may be accepted. */
static inline bool begin_read(const uint32_t *version, uint32_t *began)
{
	*began = pvclock_load_acquire_u32(version);
	return (*began & 1) == 0;
}

static inline bool end_read(const uint32_t *version, uint32_t began)
{
	pvclock_fence_acquire();
	return pvclock_load_relaxed_u32(version) == began;
}

/* A pvclock page, looked at once. False: its version is odd, or changed meanwhile. */
static inline bool read_page_once(const uint32_t *words, struct pvclock_snapshot *copy)
{
	uint32_t tail;

	if (!begin_read(&words[PAGE_VERSION], &copy->version))
		return false;
	copy->line.tsc = load_relaxed_halves(&words[PAGE_TSC]);
	copy->line.ns = load_relaxed_halves(&words[PAGE_NS]);
	copy->line.mul = pvclock_load_relaxed_u32(&words[PAGE_MUL]);
	tail = pvclock_load_relaxed_u32(&words[PAGE_TAIL]);
	copy->line.shift = (int8_t)(tail & 0xff);
	copy->flags = (uint8_t)(tail >> 8);
	return end_read(&words[PAGE_VERSION], copy->version);
}

#endif
