/* SPDX-License-Identifier: MIT */
/*
 * steal.c - stolen time in shared memory (Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME). Why the
 * protocol works is said in write.c.
 */
#include "shared_word.h"

void pvclock_steal_write(void *page, uint64_t ns)
{
	uint32_t *words = page;
	uint32_t even = begin_write(&words[STEAL_VERSION]); /* and what the guest left there, odd or not, is gone on from */

	store_relaxed_halves(&words[STEAL_NS], ns);
	store_relaxed_u32(&words[STEAL_PREEMPTED], 0);
	store_release_u32(&words[STEAL_VERSION], even);
}

enum pvclock_read pvclock_steal_read(const void *page, uint64_t *ns)
{
	const uint32_t *words = page;

	for (uint32_t tries = 0; tries < PVCLOCK_READ_TRIES; tries++) {
		uint32_t began;

		if (begin_read(&words[STEAL_VERSION], &began)) {
			*ns = load_relaxed_halves(&words[STEAL_NS]);
			if (end_read(&words[STEAL_VERSION], began))
				return PVCLOCK_READ_OK;
		}
		pvclock_relax();
	}
	*ns = 0;
	return PVCLOCK_READ_BUSY;
}
