/* SPDX-License-Identifier: MIT */
/*
 * clock.c - the writers of a guest's clocks. What a clock is stands in few numbers (struct pvclock_clocks, after `base`); the array
 * that readers see is made of them anew each time, so nothing adds up and no reading depends on how often the clock ticked.
 *
 * The sequence count is a page's (src/page/write.c says why it works).
 */
#include <pvclock/clock.h>

#include "../page/shared_word.h"

#define SECOND 1000000000u

struct pvclock_time pvclock_time_make(int64_t sec, uint64_t nsec)
{
	struct pvclock_time time;
	uint64_t seconds;

	if (nsec >> 63 == 0) {
		seconds = pvclock_seconds(nsec, &time.nsec);
	} else { /* before the anchor: floor(-n / 10^9) = -1 - floor((n - 1) / 10^9), and n - 1 is ~nsec */
		seconds = ~pvclock_seconds(~nsec, &time.nsec);
		time.nsec = SECOND - 1 - time.nsec;
	}
	time.sec = (int64_t)((uint64_t)sec + seconds); /* modulo 2^64: a host that makes up times makes no undefined ones */
	return time;
}

enum pvclock_read pvclock_time_store(int64_t sec, uint64_t nsec, struct pvclock_time *out)
{
	*out = pvclock_time_make(sec, nsec);
	return PVCLOCK_READ_OK;
}

#ifdef PVCLOCK_HAS_COUNTER
enum pvclock_read pvclock_clock_retry(const struct pvclock_user_page *user, const struct pvclock_page *page, pvclock_last *last,
				      unsigned int id, struct pvclock_time *out)
{
	struct pvclock_clock_load load;
	bool stable;

	out->sec = 0;
	out->nsec = 0;
	if (id >= PVCLOCK_CLOCKS || (PVCLOCK_HIGH_CLOCKS >> id & 1) == 0)
		return PVCLOCK_READ_KERNEL;
	for (uint32_t tries = 0; tries < PVCLOCK_READ_TRIES; tries++) {
		if (!pvclock_clock_try(user, page, id, &load)) {
			pvclock_relax();
			continue;
		}
		stable = (load.flags & PVCLOCK_TSC_STABLE) != 0;
		if (!stable && !last)
			return PVCLOCK_READ_KERNEL;
		if (!pvclock_line_valid(&load.line))
			return PVCLOCK_READ_INVALID;
		if (!stable) { /* what is guarded is system time; the sums that are added to it only grow */
			load.add += pvclock_guard(last, pvclock_halves_ns(&load.line, load.low, load.high, 0));
			*out = pvclock_time_make((int64_t)load.sec, load.add);
		} else {
			*out = pvclock_time_make((int64_t)load.sec, pvclock_halves_ns(&load.line, load.low, load.high, load.add));
		}
		return PVCLOCK_READ_OK;
	}
	return PVCLOCK_READ_BUSY;
}
#endif

static struct pvclock_time add_ns(struct pvclock_time time, uint64_t ns)
{
	uint32_t nsec;
	uint64_t sec = pvclock_seconds(ns, &nsec);

	nsec += time.nsec;
	sec += nsec >= SECOND;
	time.sec = (int64_t)((uint64_t)time.sec + sec);
	time.nsec = nsec >= SECOND ? nsec - SECOND : nsec;
	return time;
}

static struct pvclock_time subtract_ns(struct pvclock_time time, uint64_t ns)
{
	uint32_t nsec;
	uint64_t sec = pvclock_seconds(ns, &nsec);

	sec += time.nsec < nsec;
	time.sec = (int64_t)((uint64_t)time.sec - sec);
	time.nsec = time.nsec < nsec ? time.nsec + SECOND - nsec : time.nsec - nsec;
	return time;
}

static struct pvclock_time add_seconds(struct pvclock_time time, int64_t seconds)
{
	time.sec = (int64_t)((uint64_t)time.sec + (uint64_t)seconds);
	return time;
}

uint64_t pvclock_clocks_uncounted(const struct pvclock_user_page *user)
{
	for (uint32_t tries = 0; tries < PVCLOCK_READ_TRIES; tries++) {
		uint32_t sequence;
		uint64_t uncounted;

		if (begin_read(&user->suspend.sequence, &sequence)) {
			/* as the readers take it: by its place, whatever else the page says */
			uncounted = load_relaxed_halves((const uint32_t *)(const void *)&user->suspend.uncounted_ns);
			if (end_read(&user->suspend.sequence, sequence))
				return uncounted;
		}
		pvclock_relax();
	}
	/* A host that died while it wrote: readers say BUSY, and what is written here must only not be made up. */
	return user->clocks.uncounted_ns;
}

static void store_base(struct pvclock_clocks *clocks, unsigned int id, struct pvclock_time time, uint64_t less)
{
	store_relaxed_halves((uint32_t *)(void *)&clocks->base[id].sec, (uint64_t)time.sec);
	store_relaxed_halves((uint32_t *)(void *)&clocks->base[id].nsec, time.nsec - less);
}

static struct pvclock_time wall_of(const struct pvclock_clocks *clocks)
{
	struct pvclock_time wall = { clocks->wall_sec, clocks->wall_nsec };

	return wall;
}

/* What a reader would make of the pages each time, and of which counts it is; `even` is what the base data's will be. */
static void make_ready(struct pvclock_user_page *user, uint32_t even)
{
	struct pvclock_clock_ready ready = { .tsc = 0 };
	struct pvclock_snapshot page;
	uint32_t counts = 0, suspend;
	uint64_t uncounted;

	if (begin_read(&user->suspend.sequence, &suspend)) {
		uncounted = load_relaxed_halves((const uint32_t *)(const void *)&user->suspend.uncounted_ns);
		/* a shift to the left has no such factor, and where a sum may saturate it is not that simple */
		if (end_read(&user->suspend.sequence, suspend) && read_page_once((const uint32_t *)(const void *)&user->page, &page) &&
		    (page.flags & PVCLOCK_TSC_STABLE) != 0 && pvclock_line_valid(&page.line) && page.line.shift <= 0 &&
		    (page.line.tsc | page.line.ns) >> 63 == 0) {
			ready.tsc = page.line.tsc;
			ready.mask = UINT64_MAX << -page.line.shift;
			ready.factor = (uint64_t)page.line.mul << (32 + page.line.shift);
			ready.add[0] = page.line.ns;
			ready.add[1] = page.line.ns + uncounted;
			counts = ~(even + page.version + suspend);
		}
	}
	store_relaxed_halves((uint32_t *)(void *)&user->clocks.ready.tsc, ready.tsc);
	store_relaxed_halves((uint32_t *)(void *)&user->clocks.ready.mask, ready.mask);
	store_relaxed_halves((uint32_t *)(void *)&user->clocks.ready.factor, ready.factor);
	store_relaxed_halves((uint32_t *)(void *)&user->clocks.ready.add[0], ready.add[0]);
	store_relaxed_halves((uint32_t *)(void *)&user->clocks.ready.add[1], ready.add[1]);
	store_release_u32(&user->clocks.counts, counts);
}

/* A new anchor, and, from it and what else is known, all that readers see. */
static void publish(struct pvclock_user_page *user, uint64_t now_ns, uint64_t uncounted_ns, struct pvclock_time wall, int32_t tai_minus_utc)
{
	struct pvclock_clocks *clocks = &user->clocks;
	struct pvclock_time monotonic = { 0, 0 }, boot, real, tai;
	uint64_t anchor = now_ns > clocks->anchor_ns ? now_ns : clocks->anchor_ns, less = anchor + uncounted_ns;
	uint32_t even;

	monotonic = add_ns(monotonic, anchor);
	boot = add_ns(monotonic, uncounted_ns);
	real = add_ns(add_ns(wall, anchor), uncounted_ns);
	tai = add_seconds(real, tai_minus_utc);

	even = begin_write(&clocks->sequence);
	store_base(clocks, PVCLOCK_MONOTONIC, monotonic, anchor);
	store_base(clocks, PVCLOCK_MONOTONIC_RAW, monotonic, anchor);
	store_base(clocks, PVCLOCK_BOOTTIME, boot, less);
	store_base(clocks, PVCLOCK_REALTIME, real, less);
	store_base(clocks, PVCLOCK_TAI, tai, less);
	store_base(clocks, PVCLOCK_MONOTONIC_COARSE, monotonic, 0);
	store_base(clocks, PVCLOCK_REALTIME_COARSE, real, 0);
	make_ready(user, even);
	store_release_u32(&clocks->sequence, even);

	clocks->anchor_ns = anchor;
	clocks->uncounted_ns = uncounted_ns;
	clocks->wall_sec = wall.sec;
	clocks->wall_nsec = wall.nsec;
	clocks->tai_minus_utc = tai_minus_utc;
}

void pvclock_clocks_start(struct pvclock_user_page *user, uint64_t now_ns, uint64_t epoch_ns, uint64_t uncounted_ns,
			  int32_t tai_minus_utc)
{
	struct pvclock_time wall = { 0, 0 };
	struct pvclock_told before;

	publish(user, now_ns, pvclock_clocks_uncounted(user), subtract_ns(add_ns(wall, epoch_ns), uncounted_ns), tai_minus_utc);
	pvclock_clocks_told(user, now_ns, &before); /* what was before the guest began is not news */
}

void pvclock_clocks_tick(struct pvclock_user_page *user, uint64_t now_ns)
{
	publish(user, now_ns, pvclock_clocks_uncounted(user), wall_of(&user->clocks), user->clocks.tai_minus_utc);
}

void pvclock_clocks_set_realtime(struct pvclock_user_page *user, uint64_t now_ns, uint64_t uncounted_ns,
				 const struct pvclock_time *realtime)
{
	struct pvclock_time whole = { realtime->sec, 0 };

	whole = add_ns(whole, realtime->nsec); /* which may be a second, or more */
	publish(user, now_ns, pvclock_clocks_uncounted(user), subtract_ns(subtract_ns(whole, now_ns), uncounted_ns),
		user->clocks.tai_minus_utc);
}

void pvclock_clocks_set_tai(struct pvclock_user_page *user, uint64_t now_ns, int32_t tai_minus_utc)
{
	publish(user, now_ns, pvclock_clocks_uncounted(user), wall_of(&user->clocks), tai_minus_utc);
}

void pvclock_clocks_leap(struct pvclock_user_page *user, uint64_t now_ns, int32_t seconds)
{
	publish(user, now_ns, pvclock_clocks_uncounted(user), add_seconds(wall_of(&user->clocks), -(int64_t)seconds),
		(int32_t)((uint32_t)user->clocks.tai_minus_utc + (uint32_t)seconds));
}

enum pvclock_read pvclock_clocks_told(struct pvclock_user_page *user, uint64_t now_ns, struct pvclock_told *told)
{
	struct pvclock_clocks *clocks = &user->clocks;
	struct pvclock_suspend suspend;
	enum pvclock_read result = pvclock_suspend_read(&user->suspend, &suspend);

	pvclock_clocks_tick(user, now_ns);
	*told = (struct pvclock_told){ .count = 0 };
	if (result != PVCLOCK_READ_OK)
		return result;
	told->uncounted_ns = suspend.uncounted_ns - clocks->told_uncounted_ns;
	told->counted_ns = suspend.counted_ns - clocks->told_counted_ns;
	told->count = suspend.count - clocks->told_count;
	told->error_ns = suspend.error_ns;
	told->cause = suspend.cause;
	clocks->told_uncounted_ns = suspend.uncounted_ns;
	clocks->told_counted_ns = suspend.counted_ns;
	clocks->told_count = suspend.count;
	return PVCLOCK_READ_OK;
}
