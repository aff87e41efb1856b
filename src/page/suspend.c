/* SPDX-License-Identifier: MIT */
/* suspend.c - what passed without the guest, in shared memory (docs/spec/suspend.md). Why the protocol works is said in write.c. */
#include "shared_word.h"

void pvclock_suspend_write(void *page, const struct pvclock_suspend *suspend)
{
	uint32_t *words = page;
	uint32_t even = begin_write(&words[SUSPEND_SEQUENCE]);

	store_relaxed_u32(&words[SUSPEND_MAGIC], PVCLOCK_SUSPEND_MAGIC);
	store_relaxed_u32(&words[SUSPEND_VERSION], PVCLOCK_SUSPEND_VERSION);
	store_relaxed_u32(&words[SUSPEND_CAUSE], (uint32_t)suspend->cause);
	store_relaxed_halves(&words[SUSPEND_COUNT], suspend->count);
	store_relaxed_halves(&words[SUSPEND_UNCOUNTED], suspend->uncounted_ns);
	store_relaxed_halves(&words[SUSPEND_COUNTED], suspend->counted_ns);
	store_relaxed_halves(&words[SUSPEND_LAST], suspend->last_ns);
	store_relaxed_halves(&words[SUSPEND_ERROR], suspend->error_ns);
	store_relaxed_halves(&words[SUSPEND_COUNTER], suspend->counter);
	store_release_u32(&words[SUSPEND_SEQUENCE], even);
}

enum pvclock_read pvclock_suspend_read(const void *page, struct pvclock_suspend *out)
{
	const uint32_t *words = page;

	for (uint32_t tries = 0; tries < PVCLOCK_READ_TRIES; tries++) {
		struct pvclock_suspend copy;
		uint32_t magic, version;

		if (begin_read(&words[SUSPEND_SEQUENCE], &copy.sequence)) {
			magic = pvclock_load_relaxed_u32(&words[SUSPEND_MAGIC]);
			version = pvclock_load_relaxed_u32(&words[SUSPEND_VERSION]);
			copy.cause = (enum pvclock_cause)pvclock_load_relaxed_u32(&words[SUSPEND_CAUSE]);
			copy.count = load_relaxed_halves(&words[SUSPEND_COUNT]);
			copy.uncounted_ns = load_relaxed_halves(&words[SUSPEND_UNCOUNTED]);
			copy.counted_ns = load_relaxed_halves(&words[SUSPEND_COUNTED]);
			copy.last_ns = load_relaxed_halves(&words[SUSPEND_LAST]);
			copy.error_ns = load_relaxed_halves(&words[SUSPEND_ERROR]);
			copy.counter = load_relaxed_halves(&words[SUSPEND_COUNTER]);
			if (end_read(&words[SUSPEND_SEQUENCE], copy.sequence)) {
				*out = copy;
				return magic == PVCLOCK_SUSPEND_MAGIC && version >= PVCLOCK_SUSPEND_VERSION
					       ? PVCLOCK_READ_OK : PVCLOCK_READ_INVALID;
			}
		}
		pvclock_relax();
	}
	*out = (struct pvclock_suspend){ .sequence = 0 };
	return PVCLOCK_READ_BUSY;
}

const char *pvclock_cause_name(enum pvclock_cause cause)
{
	switch (cause) {
	case PVCLOCK_CAUSE_NONE:
		return "none";
	case PVCLOCK_CAUSE_SUSPEND:
		return "suspend";
	case PVCLOCK_CAUSE_PAUSE:
		return "pause";
	case PVCLOCK_CAUSE_SNAPSHOT:
		return "snapshot";
	case PVCLOCK_CAUSE_MIGRATION:
		return "migration";
	case PVCLOCK_CAUSE_LIVE_UPDATE:
		return "live-update";
	}
	return "?";
}
