/* SPDX-License-Identifier: MIT */
/*
 * Writing a page: a sequence count's writer on the C11 memory model.
 *
 *     writer                                   reader
 *     W1  version = odd      relaxed           R1  v1 = version       acquire
 *         fence              release           R2  body               relaxed
 *     W2  body               relaxed               fence              acquire
 *     W3  version = even     release           R3  v2 = version       relaxed
 *
 * A reader accepts its copy if v1 == v2 and even. Then the copy is the body of that one version:
 *
 * - It is not older. R1 read the value that W3 stored, so W3 happens before R1 (release, acquire), and with it
 *   every store of that body; R2 can read nothing older.
 * - It is not newer. If some R2 read a word that a later W2 stored, then the release fence before that W2
 *   synchronizes with the acquire fence after that R2 (C11 7.17.4p2: fence, atomic store; atomic load, fence). So
 *   the later W1 happens before R3, and R3 must read that odd number or something after it, which differs from v1 -
 *   unless version went all the way round, 2^31 writes between R1 and R3.
 *
 * Neither a release store as W1 (it orders what came *before* it) nor an acquire load as R3 (what comes *after* it)
 * could replace the fences. On x86 both fences only bind the compiler.
 *
 * A second reader may at the same time be the guest's user space (vDSO): nothing above depends on how many read.
 */
#include "shared_word.h"

void pvclock_page_write(void *page, const struct pvclock_line *line, uint8_t flags)
{
	uint32_t *words = page;
	uint32_t even = begin_write(&words[PAGE_VERSION]);
	uint32_t kept;

	store_relaxed_halves(&words[PAGE_TSC], line->tsc);
	store_relaxed_halves(&words[PAGE_NS], line->ns);
	store_relaxed_u32(&words[PAGE_MUL], line->mul);
	/*
	 * Read as late as possible. A guest that clears its flag between this load and the store sees it once more,
	 * which costs it nothing; it can never miss one. A compare-and-swap would let a hostile guest make us spin.
	 */
	kept = pvclock_load_relaxed_u32(&words[PAGE_TAIL]) >> 8 & PVCLOCK_GUEST_STOPPED;
	store_relaxed_u32(&words[PAGE_TAIL], (uint8_t)line->shift | (flags | kept) << 8);
	store_release_u32(&words[PAGE_VERSION], even);
}

void pvclock_wall_clock_write(void *page, uint64_t ns_since_epoch)
{
	uint32_t *words = page;
	uint32_t even = begin_write(&words[WALL_VERSION]), nsec;

	store_relaxed_u32(&words[WALL_SEC], (uint32_t)pvclock_seconds(ns_since_epoch, &nsec));
	store_relaxed_u32(&words[WALL_NSEC], nsec);
	store_release_u32(&words[WALL_VERSION], even != 0 ? even : 2);
}
