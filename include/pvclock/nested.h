/* SPDX-License-Identifier: MIT */
/*
 * nested.h - a guest that is itself a host, and its own host: a page in the guest's memory by which the guest is told
 * that its clock's line has changed, and in which it names the clock pages of its own guests, so that its host makes
 * them right before any of them can be read (docs/spec/nested.md). For both sides; freestanding. Who has the engine in
 * the guest uses parent.h, which does all of this.
 */
#ifndef PVCLOCK_NESTED_H
#define PVCLOCK_NESTED_H

#include <pvclock/page.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- layout ------------------------------------------------------------------------ */

#define PVCLOCK_NESTED_MAGIC 0x454e5650u /* "PVNE" */
#define PVCLOCK_NESTED_VERSION 1u
#define PVCLOCK_NESTED_CHANGES 4u   /* the last ones are kept; a power of two: no machine needs a division for it */
#define PVCLOCK_NESTED_ENTRIES 118u

enum pvclock_nested_kind {
	PVCLOCK_NESTED_NONE = 0,
	PVCLOCK_NESTED_PAGE = 1,   /* a pvclock page of a guest's vCPU */
	PVCLOCK_NESTED_HYPERV = 2, /* reserved: Hyper-V's reference TSC page */
	PVCLOCK_NESTED_TABLE = 3,  /* the nested page of a guest that is a host, too */
};

/*
 * One place in the guest's memory. The counter by which it is read is ((its host's counter * ratio) >> frac_bits) +
 * offset; frac_bits 0: no ratio. Its host is this guest, with `under` 0. Else `under` is 1 + the number of an earlier
 * entry, and this one is followed where that one was: of a TABLE, the PAGE of its VM's first vCPU; of a PAGE, the TABLE
 * of the guest that is its host.
 */
struct pvclock_nested_entry {
	uint64_t gpa, offset, ratio;
	uint8_t frac_bits, kind, under, reserved;
	uint32_t generation; /* by the host: the low half of the generation in which it was last rewritten */
};

struct pvclock_nested_line {
	uint64_t tsc, ns;
	uint32_t mul; /* 0: not known */
	int8_t shift;
	uint8_t pad[3];
};

/* struct pvclock_line_change */
struct pvclock_nested_change {
	uint64_t old_counter, counter;
	struct pvclock_nested_line old, next;
};

/* 4096 bytes, 4096-byte aligned, little-endian, zeroed by the guest before it registers them. */
struct pvclock_nested_page {
	uint32_t magic, version; /* by the host, as all until `refused`. 0: nobody writes here */
	uint32_t sequence;       /* odd while it writes */
	uint32_t pad0;
	uint64_t generation;     /* of the guest's line: one more each time that it becomes another function */
	uint32_t rewritten, refused; /* entries, the last time; all ones: not known */
	uint64_t acknowledged;   /* by the guest: the generation that all its guests' clocks follow */
	uint32_t count;          /* by the guest: the host looks at so many entries */
	uint32_t pad1;
	uint8_t reserved[16];
	/* by the host: of generation g in [g % PVCLOCK_NESTED_CHANGES] */
	struct pvclock_nested_change changes[PVCLOCK_NESTED_CHANGES];
	struct pvclock_nested_entry entries[PVCLOCK_NESTED_ENTRIES]; /* by the guest */
};

#ifndef __cplusplus
_Static_assert(sizeof(struct pvclock_nested_entry) == 32, "docs/spec/nested.md");
_Static_assert(offsetof(struct pvclock_nested_entry, frac_bits) == 24, "docs/spec/nested.md");
_Static_assert(offsetof(struct pvclock_nested_entry, generation) == 28, "docs/spec/nested.md");
_Static_assert(sizeof(struct pvclock_nested_line) == 24, "docs/spec/nested.md");
_Static_assert(sizeof(struct pvclock_nested_change) == 64, "docs/spec/nested.md");
_Static_assert(sizeof(struct pvclock_nested_page) == 4096, "docs/spec/nested.md");
_Static_assert(offsetof(struct pvclock_nested_page, sequence) == 8, "docs/spec/nested.md");
_Static_assert(offsetof(struct pvclock_nested_page, generation) == 16, "docs/spec/nested.md");
_Static_assert(offsetof(struct pvclock_nested_page, rewritten) == 24, "docs/spec/nested.md");
_Static_assert(offsetof(struct pvclock_nested_page, acknowledged) == 32, "docs/spec/nested.md");
_Static_assert(offsetof(struct pvclock_nested_page, count) == 40, "docs/spec/nested.md");
_Static_assert(offsetof(struct pvclock_nested_page, changes) == 64, "docs/spec/nested.md");
_Static_assert(offsetof(struct pvclock_nested_page, entries) == 320, "docs/spec/nested.md");
#endif

/* --- the guest's side: a host ---------------------------------------------------------- */

/*
 * For a check before each entry of a guest's guest, and after each write of its page: has it moved, the line that the
 * write was made from is another. One load.
 */
static inline uint64_t pvclock_nested_generation(const struct pvclock_nested_page *page)
{
	return pvclock_load_relaxed_u64(&page->generation);
}

/* What a nested page says. */
struct pvclock_nested {
	uint64_t generation, acknowledged;
	uint32_t rewritten, refused;
	/* by generation, as in the page; mul 0: never, or not known */
	struct pvclock_line_change changes[PVCLOCK_NESTED_CHANGES];
};

enum pvclock_read pvclock_nested_read(const struct pvclock_nested_page *page, struct pvclock_nested *out);

/*
 * Puts an entry there, or (NULL) withdraws what is there; `count` grows if it must. The entry is none while its fields
 * change: a host that stops us in between finds one or the other, or none. One writer at a time. `number` is below
 * PVCLOCK_NESTED_ENTRIES.
 */
void pvclock_nested_enter(struct pvclock_nested_page *page, unsigned int number, const struct pvclock_nested_entry *entry);

void pvclock_nested_acknowledge(struct pvclock_nested_page *page, uint64_t generation);

/* --- the host's side ------------------------------------------------------------------- */

/*
 * These read and write what the guest may be changing. `page` points into guest memory, 4096-byte aligned; no more is
 * written than they say.
 */
/* Magic and version: somebody writes here. */
void pvclock_nested_begin(void *page);
/* One more generation, and what it is. NULL: nobody knows. */
void pvclock_nested_tell(void *page, const struct pvclock_line_change *change, uint32_t rewritten, uint32_t refused);
/* How many entries there are to look at. */
unsigned int pvclock_nested_count(const void *page);
/* One, read once. False: there is none. */
bool pvclock_nested_look(const void *page, unsigned int number, struct pvclock_nested_entry *entry);
/* The generation that the guest says it follows. */
uint64_t pvclock_nested_acknowledged(const void *page);
/* It was rewritten in this generation. */
void pvclock_nested_mark(void *page, unsigned int number, uint64_t generation);
/* Whether pvclock_nested_begin was here. */
bool pvclock_nested_begun(const void *page);

/*
 * A pvclock page (4-byte aligned, 32 bytes) whose guest's host has another line: follows `count` changes, one after the
 * other, as pvclock_line_follow has it, keeps of its flags what is in `keep`, and says GUEST_STOPPED; with no change
 * that is all. *old: what it held. False, and nothing written: its version is odd or changes, which is looked at once,
 * or it holds no line that can follow.
 */
bool pvclock_page_follow(void *page, const struct pvclock_line_change *changes, size_t count, const struct pvclock_tsc_transform *transform,
			 uint8_t keep, struct pvclock_line *old);

#ifdef __cplusplus
}
#endif
#endif
