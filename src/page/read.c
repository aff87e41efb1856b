/* SPDX-License-Identifier: MIT */
/* Copying a page as it stood at one version. Why that works is said in write.c; the guest's reader is in guest.h. */
#include "shared_word.h"

enum pvclock_read pvclock_page_read(const void *page, struct pvclock_snapshot *out)
{
	const uint32_t *words = page;

	for (uint32_t tries = 0; tries < PVCLOCK_READ_TRIES; tries++) {
		struct pvclock_snapshot copy;

		if (read_page_once(words, &copy)) {
			*out = copy;
			return pvclock_line_valid(&copy.line) ? PVCLOCK_READ_OK : PVCLOCK_READ_INVALID;
		}
		pvclock_relax();
	}
	*out = (struct pvclock_snapshot){ .version = 0 };
	return PVCLOCK_READ_BUSY;
}

enum pvclock_read pvclock_wall_clock_read(const void *page, uint64_t *ns_since_epoch)
{
	const uint32_t *words = page;

	*ns_since_epoch = 0;
	for (uint32_t tries = 0; tries < PVCLOCK_READ_TRIES; tries++) {
		uint32_t version, sec, nsec;

		if (begin_read(&words[WALL_VERSION], &version)) {
			sec = pvclock_load_relaxed_u32(&words[WALL_SEC]);
			nsec = pvclock_load_relaxed_u32(&words[WALL_NSEC]);
			if (end_read(&words[WALL_VERSION], version)) {
				if (version == 0 || nsec >= 1000000000u)
					return PVCLOCK_READ_INVALID;
				/* below 2^32 * 10^9 < 2^62 */
				*ns_since_epoch = (uint64_t)sec * 1000000000u + nsec;
				return PVCLOCK_READ_OK;
			}
		}
		pvclock_relax();
	}
	return PVCLOCK_READ_BUSY;
}

const char *pvclock_read_text(enum pvclock_read result)
{
	switch (result) {
	case PVCLOCK_READ_OK:
		return "the page holds a valid line";
	case PVCLOCK_READ_BUSY:
		return "the page's version stayed odd or kept changing: its writer died or never rests";
	case PVCLOCK_READ_INVALID:
		return "the page holds no valid content: it was never written, or by something else";
	case PVCLOCK_READ_KERNEL:
		return "the kernel has to be asked: the page is not marked stable, or has no such clock";
	}
	return "unknown result";
}
