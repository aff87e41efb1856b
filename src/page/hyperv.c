/* SPDX-License-Identifier: MIT */
/*
 * hyperv.c - Hyper-V's reference TSC page in shared memory (TLFS, "Partition Reference TSC").
 *
 * The protocol is write.c's with one difference: what says that a writer is at work is 0, not an odd number.
 *
 *     writer                                   reader
 *     W1  sequence = 0       relaxed           R1  s1 = sequence      acquire
 *         fence              release           R2  body               relaxed
 *     W2  body               relaxed               fence              acquire
 *     W3  sequence = next    release           R3  s2 = sequence      relaxed
 *
 * A reader accepts its copy if s1 == s2 and that is valid. It is not older than s1: R1 read what W3 stored, so all of that body
 * happens before R2. It is not newer: if some R2 read a word that a later W2 stored, the release fence before it synchronizes
 * with the acquire fence after R2, so that W2's W1 happens before R3, and R3 reads that 0 or something after it. 0 is not valid,
 * and no later sequence is s1 again before 2^32 - 2 writes.
 *
 * That is why the sequence is counted by the writer, and not by the page: one that began anew at 1 each time the page was
 * withdrawn, or went on from what the guest wrote there, would say s1 of two bodies.
 */
#include "shared_word.h"

#include <pvclock/hyperv.h>

enum {
	SEQUENCE = offsetof(struct pvclock_hyperv_page, sequence) / 4,
	SCALE = offsetof(struct pvclock_hyperv_page, scale) / 4,
	OFFSET = offsetof(struct pvclock_hyperv_page, offset) / 4,
};

uint32_t pvclock_hyperv_page_write(void *page, const struct pvclock_hyperv_line *hyperv, uint32_t last)
{
	uint32_t *words = page;
	uint32_t next = last + 1;

	if (!pvclock_hyperv_sequence_valid(next))
		next = 1;
	store_relaxed_u32(&words[SEQUENCE], 0);
	fence_release();
	store_relaxed_halves(&words[SCALE], hyperv->scale);
	store_relaxed_halves(&words[OFFSET], (uint64_t)hyperv->offset);
	store_release_u32(&words[SEQUENCE], next);
	return next;
}

void pvclock_hyperv_page_withdraw(void *page)
{
	uint32_t *words = page;

	store_relaxed_u32(&words[SEQUENCE], 0);
}

enum pvclock_read pvclock_hyperv_page_read(const void *page, struct pvclock_hyperv_snapshot *out)
{
	const uint32_t *words = page;

	for (uint32_t tries = 0; tries < PVCLOCK_READ_TRIES; tries++) {
		struct pvclock_hyperv_snapshot copy;

		copy.sequence = pvclock_load_acquire_u32(&words[SEQUENCE]);
		if (!pvclock_hyperv_sequence_valid(copy.sequence)) {
			*out = (struct pvclock_hyperv_snapshot){ .sequence = 0 };
			return PVCLOCK_READ_INVALID;
		}
		copy.hyperv.scale = load_relaxed_halves(&words[SCALE]);
		copy.hyperv.offset = (int64_t)load_relaxed_halves(&words[OFFSET]);
		if (end_read(&words[SEQUENCE], copy.sequence)) {
			*out = copy;
			return PVCLOCK_READ_OK;
		}
		pvclock_relax();
	}
	*out = (struct pvclock_hyperv_snapshot){ .sequence = 0 };
	return PVCLOCK_READ_BUSY;
}
