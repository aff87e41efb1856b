/* SPDX-License-Identifier: MIT */
/*
 * Writers against readers on real CPUs. Version v of the page has a body that follows from v alone, so any reader can
 * tell a mixed copy, a flag that got lost, or a version that stands for two bodies.
 *
 * The library's writer and readers must show no fault. Then each of them is replaced by one that breaks a single
 * rule, and the same run has to catch it: a torture that cannot see is worth nothing. What a compiler or a CPU does
 * to a protocol without its fences is done here by hand, because x86 would not (order_test.c tries all orders).
 *
 * PVCLOCK_TORTURE_MS: how long the library is tortured (default 1000). PVCLOCK_SEED: where versions start.
 */
#define _GNU_SOURCE
#include "../../src/page/shared_word.h"

#include <pthread.h>
#include <pvclock/guest.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define READERS 3
#define CATCH_MS 2000 /* a try at catching a broken part ... */
#define CATCH_TRIES 5 /* ... and how many there are */

/* --- bodies -------------------------------------------------------------------------- */

static uint64_t mix(uint64_t z)
{
	/* splitmix64's finalizer */
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static struct pvclock_line body_of(uint32_t version)
{
	struct pvclock_line line;

	line.tsc = mix(version * 4u + 1u);
	line.ns = mix(version * 4u + 2u) >> 1;
	line.mul = (uint32_t)mix(version * 4u + 3u) | 1;
	line.shift = (int8_t)((int)(mix(version * 4u + 4u) % 63) - 31);
	return line;
}

static uint8_t stable_of(uint32_t version)
{
	return version >> 1 & PVCLOCK_TSC_STABLE;
}

/* --- the run --------------------------------------------------------------------------- */

struct torture;

struct part {
	const char *name;
	void (*write)(struct torture *torture, uint32_t *words, const struct pvclock_line *line, uint8_t flags);
	enum pvclock_read (*read)(struct torture *torture, const uint32_t *words, struct pvclock_snapshot *out);
	bool (*take)(struct torture *torture, uint32_t *words);
	bool starts_odd; /* a writer died here before */
};

struct torture {
	_Alignas(64) struct pvclock_page page;
	_Alignas(64) const struct part *part;
	pthread_mutex_t writer; /* one writer at a time: the caller's lock, see page.h */
	_Atomic bool stop;
	_Atomic uint64_t faults, reads, fresh, busy, writes, stops, takes;
	_Atomic bool taking; /* the guest is between clearing its flag and counting it */
};

/* In the middle of something that must not be seen half done: lets others look, also on one CPU. */
static void linger(struct torture *torture)
{
	if ((atomic_load_explicit(&torture->writes, memory_order_relaxed) & 63) == 0)
		sched_yield();
}

static void *write_loop(void *argument)
{
	struct torture *torture = argument;
	uint32_t *words = (uint32_t *)&torture->page;
	bool stopped = false;
	uint64_t takes = 0;

	while (!atomic_load(&torture->stop)) {
		uint32_t version, next;
		struct pvclock_line line;

		pthread_mutex_lock(&torture->writer);
		version = pvclock_load_relaxed_u32(&words[PAGE_VERSION]);
		next = ((version + 1) | 1) + 1;
		line = body_of(next);
		/* every 16th write stops the guest; the next one must not lose that */
		stopped = (atomic_fetch_add(&torture->writes, 1) & 15) == 0;
		if (stopped) {
			takes = atomic_load(&torture->takes);
			atomic_fetch_add(&torture->stops, 1);
		}
		torture->part->write(torture, words, &line,
				     stable_of(next) | (stopped ? PVCLOCK_GUEST_STOPPED : 0));
		if (stopped) {
			next += 2;
			line = body_of(next);
			torture->part->write(torture, words, &line, stable_of(next));
			if (!(pvclock_load_relaxed_u32(&words[PAGE_TAIL]) >> 8 & PVCLOCK_GUEST_STOPPED)) {
				while (atomic_load(&torture->taking))
					sched_yield();
				if (atomic_load(&torture->takes) == takes)
					atomic_fetch_add(&torture->faults, 1);
			}
		}
		pthread_mutex_unlock(&torture->writer);
		/* longer than a reader's loop now and then, so that copies are also accepted */
		for (uint64_t rest = mix(next) & 127; rest; rest--)
			pvclock_relax();
	}
	return NULL;
}

static bool is_body(const struct pvclock_snapshot *copy)
{
	struct pvclock_line line = body_of(copy->version);

	return copy->line.tsc == line.tsc && copy->line.ns == line.ns && copy->line.mul == line.mul &&
	       copy->line.shift == line.shift && (copy->flags & ~PVCLOCK_GUEST_STOPPED) == stable_of(copy->version);
}

static void *guest_loop(void *argument)
{
	struct torture *torture = argument;

	while (!atomic_load(&torture->stop)) {
		bool taken;

		atomic_store(&torture->taking, true);
		taken = torture->part->take(torture, (uint32_t *)&torture->page);
		if (taken)
			atomic_fetch_add(&torture->takes, 1);
		atomic_store(&torture->taking, false);
		/* at once, before the host's next write hides it: did clearing the flag spoil the line? */
		if (taken) {
			struct pvclock_snapshot copy;

			if (pvclock_page_read(&torture->page, &copy) != PVCLOCK_READ_BUSY && !is_body(&copy))
				atomic_fetch_add(&torture->faults, 1);
		}
		for (unsigned int rest = 0; rest < 200; rest++)
			pvclock_relax();
	}
	return NULL;
}

static void *read_loop(void *argument)
{
	struct torture *torture = argument;
	uint64_t reads = 0, fresh = 0, faults = 0, busy = 0;
	uint32_t last = 0;

	while (!atomic_load_explicit(&torture->stop, memory_order_relaxed)) {
		struct pvclock_snapshot copy;

		if (torture->part->read(torture, (const uint32_t *)&torture->page, &copy) == PVCLOCK_READ_BUSY) {
			busy++;
			continue;
		}
		reads++;
		fresh += copy.version != last;
		last = copy.version;
		if (!is_body(&copy)) {
			faults++;
			if (torture->part->name)
				atomic_store(&torture->stop, true);
		}
	}
	atomic_fetch_add(&torture->reads, reads);
	atomic_fetch_add(&torture->fresh, fresh);
	atomic_fetch_add(&torture->faults, faults);
	atomic_fetch_add(&torture->busy, busy);
	return NULL;
}

/* The guest's own reader gives a time, not a line: the time must be that of the version's body. */
static void *clock_loop(void *argument)
{
#if defined(__x86_64__) || defined(__i386__)
	struct torture *torture = argument;
	uint64_t reads = 0, faults = 0;

	while (!atomic_load_explicit(&torture->stop, memory_order_relaxed)) {
		struct pvclock_reading reading;
		struct pvclock_line line;

		if (pvclock_read_clock(&torture->page, &reading) == PVCLOCK_READ_BUSY)
			continue;
		reads++;
		line = body_of(reading.version);
		faults += reading.ns != pvclock_line_ns(&line, reading.tsc.ticks) ||
			  (reading.flags & ~PVCLOCK_GUEST_STOPPED) != stable_of(reading.version);
	}
	atomic_fetch_add(&torture->reads, reads);
	atomic_fetch_add(&torture->faults, faults);
#endif
	return argument;
}

static int cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

static void start(pthread_t *thread, void *(*run)(void *), struct torture *torture, int cpu)
{
	cpu_set_t all, one;

	if (pthread_create(thread, NULL, run, torture) != 0) {
		perror("pthread_create");
		exit(1);
	}
	/* the writer alone on the first CPU, all others beside it; one CPU is fine too, and slower */
	if (cpus() > 1 && sched_getaffinity(0, sizeof(all), &all) == 0) {
		CPU_ZERO(&one);
		for (size_t i = 0; i < CPU_SETSIZE; i++)
			if (CPU_ISSET(i, &all) && cpu-- == 0)
				CPU_SET(i, &one);
		if (CPU_COUNT(&one) == 1)
			pthread_setaffinity_np(*thread, sizeof(one), &one);
	}
}

static void torture_part(struct torture *torture, const struct part *part, unsigned int ms, uint32_t version)
{
	pthread_t threads[READERS + 3];
	unsigned int count = 0;
	struct timespec nap = { 0, 1000000 };
	struct pvclock_line line;

	memset(torture, 0, sizeof(*torture));
	pthread_mutex_init(&torture->writer, NULL);
	torture->part = part;
	version &= ~1u;
	torture->page.version = version - 2;
	line = body_of(version);
	pvclock_page_write(&torture->page, &line, stable_of(version));
	torture->page.version += part->starts_odd;

	start(&threads[count++], write_loop, torture, 0);
	start(&threads[count++], guest_loop, torture, 1);
	for (unsigned int i = 0; i < READERS; i++)
		start(&threads[count++], read_loop, torture, 1);
	if (!part->name)
		start(&threads[count++], clock_loop, torture, 1);
	for (unsigned int i = 0; i < ms && !atomic_load(&torture->stop); i++) {
		nanosleep(&nap, NULL);
		if (part->name && atomic_load(&torture->faults))
			break;
	}
	atomic_store(&torture->stop, true);
	while (count)
		pthread_join(threads[--count], NULL);
	pthread_mutex_destroy(&torture->writer);
}

/* --- the library ------------------------------------------------------------------------ */

static void good_write(struct torture *torture, uint32_t *words, const struct pvclock_line *line, uint8_t flags)
{
	(void)torture;
	pvclock_page_write(words, line, flags);
}

static enum pvclock_read good_read(struct torture *torture, const uint32_t *words, struct pvclock_snapshot *out)
{
	(void)torture;
	return pvclock_page_read(words, out);
}

static bool good_take(struct torture *torture, uint32_t *words)
{
	(void)words;
	return pvclock_take_guest_stopped(&torture->page);
}

/* --- broken writers ---------------------------------------------------------------------- */

static void body_head(uint32_t *words, const struct pvclock_line *line)
{
	store_relaxed_halves(&words[PAGE_TSC], line->tsc);
	store_relaxed_halves(&words[PAGE_NS], line->ns);
}

static void body_tail(uint32_t *words, const struct pvclock_line *line, uint8_t flags)
{
	uint32_t kept = pvclock_load_relaxed_u32(&words[PAGE_TAIL]) >> 8 & PVCLOCK_GUEST_STOPPED;

	store_relaxed_u32(&words[PAGE_MUL], line->mul);
	store_relaxed_u32(&words[PAGE_TAIL], (uint8_t)line->shift | (flags | kept) << 8);
}

static uint32_t odd_after(const uint32_t *words)
{
	return (pvclock_load_relaxed_u32(&words[PAGE_VERSION]) + 1) | 1;
}

static void no_odd_phase(struct torture *torture, uint32_t *words, const struct pvclock_line *line, uint8_t flags)
{
	uint32_t odd = odd_after(words);

	body_head(words, line);
	linger(torture);
	body_tail(words, line, flags);
	store_release_u32(&words[PAGE_VERSION], odd + 1);
}

/* No release fence: all of the body may be seen before the odd version ... */
static void body_first(struct torture *torture, uint32_t *words, const struct pvclock_line *line, uint8_t flags)
{
	uint32_t odd = odd_after(words);

	body_head(words, line);
	linger(torture);
	body_tail(words, line, flags);
	store_release_u32(&words[PAGE_VERSION], odd);
	store_release_u32(&words[PAGE_VERSION], odd + 1);
}

/* ... or some of it. */
static void some_body_first(struct torture *torture, uint32_t *words, const struct pvclock_line *line, uint8_t flags)
{
	uint32_t odd = odd_after(words);

	store_relaxed_u32(&words[PAGE_MUL], line->mul);
	linger(torture);
	store_release_u32(&words[PAGE_VERSION], odd);
	body_head(words, line);
	body_tail(words, line, flags);
	store_release_u32(&words[PAGE_VERSION], odd + 1);
}

/* The last store is not a release: the even version may be seen before the end of the body. */
static void even_early(struct torture *torture, uint32_t *words, const struct pvclock_line *line, uint8_t flags)
{
	uint32_t odd = odd_after(words);

	store_relaxed_u32(&words[PAGE_VERSION], odd);
	fence_release();
	body_head(words, line);
	store_release_u32(&words[PAGE_VERSION], odd + 1);
	linger(torture);
	body_tail(words, line, flags);
}

/* Right, but slow: for broken readers and guests, which a quick writer seldom catches. */
static void slow_write(struct torture *torture, uint32_t *words, const struct pvclock_line *line, uint8_t flags)
{
	uint32_t odd = odd_after(words);

	store_relaxed_u32(&words[PAGE_VERSION], odd);
	fence_release();
	body_head(words, line);
	linger(torture);
	body_tail(words, line, flags);
	store_release_u32(&words[PAGE_VERSION], odd + 1);
}

/* Closes with the version it opened with: a reader that began before it does not notice. */
static void same_version(struct torture *torture, uint32_t *words, const struct pvclock_line *line, uint8_t flags)
{
	uint32_t odd = odd_after(words);

	(void)torture;
	store_relaxed_u32(&words[PAGE_VERSION], odd);
	fence_release();
	body_head(words, line);
	body_tail(words, line, flags);
	store_release_u32(&words[PAGE_VERSION], odd - 1);
}

/* Counts on from an odd version that a dead writer left: from then on it is even while it writes. */
static void odd_not_repaired(struct torture *torture, uint32_t *words, const struct pvclock_line *line, uint8_t flags)
{
	uint32_t version = pvclock_load_relaxed_u32(&words[PAGE_VERSION]);

	store_relaxed_u32(&words[PAGE_VERSION], version + 1);
	fence_release();
	body_head(words, line);
	linger(torture);
	body_tail(words, line, flags);
	store_release_u32(&words[PAGE_VERSION], version + 2);
}

static void forgets_guest_stopped(struct torture *torture, uint32_t *words, const struct pvclock_line *line,
				  uint8_t flags)
{
	uint32_t odd = odd_after(words);

	(void)torture;
	store_relaxed_u32(&words[PAGE_VERSION], odd);
	fence_release();
	body_head(words, line);
	store_relaxed_u32(&words[PAGE_MUL], line->mul);
	store_relaxed_u32(&words[PAGE_TAIL], (uint8_t)line->shift | (unsigned int)flags << 8);
	store_release_u32(&words[PAGE_VERSION], odd + 1);
}

static void keeps_all_flags(struct torture *torture, uint32_t *words, const struct pvclock_line *line, uint8_t flags)
{
	(void)torture;
	pvclock_page_write(words, line, (uint8_t)(flags | pvclock_load_relaxed_u32(&words[PAGE_TAIL]) >> 8));
}

/* --- broken readers ------------------------------------------------------------------------ */

static void copy_head(const uint32_t *words, struct pvclock_snapshot *out)
{
	out->line.tsc = load_relaxed_halves(&words[PAGE_TSC]);
	out->line.ns = load_relaxed_halves(&words[PAGE_NS]);
}

static void copy_tail(const uint32_t *words, struct pvclock_snapshot *out)
{
	uint32_t tail = pvclock_load_relaxed_u32(&words[PAGE_TAIL]);

	out->line.mul = pvclock_load_relaxed_u32(&words[PAGE_MUL]);
	out->line.shift = (int8_t)(tail & 0xff);
	out->flags = (uint8_t)(tail >> 8);
}

static enum pvclock_read verdict(bool accept)
{
	return accept ? PVCLOCK_READ_OK : PVCLOCK_READ_BUSY;
}

static enum pvclock_read looks_once(struct torture *torture, const uint32_t *words, struct pvclock_snapshot *out)
{
	out->version = pvclock_load_acquire_u32(&words[PAGE_VERSION]);
	copy_head(words, out);
	linger(torture);
	copy_tail(words, out);
	return verdict((out->version & 1) == 0);
}

/* Accepts the odd phase: the body that it stands for is the next version's. */
static enum pvclock_read takes_odd(struct torture *torture, const uint32_t *words, struct pvclock_snapshot *out)
{
	uint32_t version = pvclock_load_acquire_u32(&words[PAGE_VERSION]);

	(void)torture;
	copy_head(words, out);
	copy_tail(words, out);
	pvclock_fence_acquire();
	out->version = version + (version & 1);
	return verdict(pvclock_load_relaxed_u32(&words[PAGE_VERSION]) == version);
}

/* No acquire load: some of the body is older than the version. */
static enum pvclock_read body_before(struct torture *torture, const uint32_t *words, struct pvclock_snapshot *out)
{
	copy_head(words, out);
	linger(torture);
	out->version = pvclock_load_acquire_u32(&words[PAGE_VERSION]);
	copy_tail(words, out);
	pvclock_fence_acquire();
	return verdict((out->version & 1) == 0 && pvclock_load_relaxed_u32(&words[PAGE_VERSION]) == out->version);
}

/* No acquire fence: some of the body is newer than the second look. */
static enum pvclock_read body_after(struct torture *torture, const uint32_t *words, struct pvclock_snapshot *out)
{
	bool same;

	out->version = pvclock_load_acquire_u32(&words[PAGE_VERSION]);
	copy_head(words, out);
	same = pvclock_load_acquire_u32(&words[PAGE_VERSION]) == out->version;
	linger(torture);
	copy_tail(words, out);
	return verdict((out->version & 1) == 0 && same);
}

/* --- broken guests --------------------------------------------------------------------------- */

/* Clears its flag by writing back the whole word, and with it a shift that the host may just have replaced. */
static bool writes_the_word_back(struct torture *torture, uint32_t *words)
{
	uint32_t tail = pvclock_load_relaxed_u32(&words[PAGE_TAIL]);

	(void)torture;
	if (!(tail >> 8 & PVCLOCK_GUEST_STOPPED))
		return false;
	sched_yield();
	store_relaxed_u32(&words[PAGE_TAIL], tail & ~(PVCLOCK_GUEST_STOPPED << 8));
	return true;
}

/* No name: is not to be caught. */
static const struct part library = { NULL, good_write, good_read, good_take, false };
static const struct part slow_library = { NULL, slow_write, good_read, good_take, false };
static const struct part library_after_death = { NULL, good_write, good_read, good_take, true };
static const struct part broken[] = {
	{ "writer: no odd phase", no_odd_phase, good_read, good_take, false },
	{ "writer: no release fence, body before odd", body_first, good_read, good_take, false },
	{ "writer: no release fence, a word before odd", some_body_first, good_read, good_take, false },
	{ "writer: even before the end of the body", even_early, good_read, good_take, false },
	{ "writer: version does not advance", same_version, good_read, good_take, false },
	{ "writer: odd version of a dead writer not repaired", odd_not_repaired, good_read, good_take, true },
	{ "writer: forgets GUEST_STOPPED", forgets_guest_stopped, good_read, good_take, false },
	{ "writer: keeps TSC_STABLE", keeps_all_flags, good_read, good_take, false },
	{ "reader: does not look again", good_write, looks_once, good_take, false },
	{ "reader: accepts the odd phase", slow_write, takes_odd, good_take, false },
	{ "reader: no acquire load, body before version", good_write, body_before, good_take, false },
	{ "reader: no acquire fence, body after version", good_write, body_after, good_take, false },
	{ "guest: clears its flag by rewriting the word", good_write, good_read, writes_the_word_back, false },
};

static unsigned int number(const char *name, unsigned int otherwise)
{
	const char *text = getenv(name);

	return text && *text ? (unsigned int)strtoul(text, NULL, 0) : otherwise;
}

int main(void)
{
	static struct torture torture;
	/* the version passes through 0 early in the run */
	uint32_t seed = number("PVCLOCK_SEED", 0xffffff00u);
	unsigned int ms = number("PVCLOCK_TORTURE_MS", 1000);
	int failed = 0;

	for (unsigned int i = 0; i < 3; i++) {
		static const struct {
			const struct part *part;
			const char *name;
		} whole[] = {
			{ &library, "the library" },
			{ &library_after_death, "the library after a dead writer" },
			{ &slow_library, "the library's readers and a slow writer" },
		};
		bool ok;

		torture_part(&torture, whole[i].part, ms, seed);
		/* a run in which nobody saw a page change has shown nothing; one CPU shows less in the same time */
		ok = torture.faults == 0 && torture.fresh >= (cpus() > 1 ? 100 : 2) && torture.takes > 0;
		printf("%s %s: %llu writes, %llu reads, %llu of a new version, %llu busy, %llu stops, %llu seen, "
		       "%llu faults\n",
		       ok ? "ok" : "not ok", whole[i].name, (unsigned long long)torture.writes,
		       (unsigned long long)torture.reads, (unsigned long long)torture.fresh,
		       (unsigned long long)torture.busy, (unsigned long long)torture.stops,
		       (unsigned long long)torture.takes, (unsigned long long)torture.faults);
		failed |= !ok;
	}
	for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++) {
		unsigned int tries = 0;

		do
			torture_part(&torture, &broken[i], CATCH_MS, seed);
		while (torture.faults == 0 && ++tries < CATCH_TRIES);
		printf("%s %s: caught after %llu writes, %llu reads\n", torture.faults ? "ok" : "not ok NOT",
		       broken[i].name, (unsigned long long)torture.writes, (unsigned long long)torture.reads);
		failed |= torture.faults == 0;
	}
	if (failed)
		printf("repeat with PVCLOCK_SEED=%#x PVCLOCK_TORTURE_MS=%u\n", seed, ms);
	return failed;
}
