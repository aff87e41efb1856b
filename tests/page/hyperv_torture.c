/* SPDX-License-Identifier: MIT */
/*
 * A writer of Hyper-V's TSC page against readers on real CPUs. The body follows from the sequence alone, so a mixed copy shows.
 * The library must show no fault; writers and readers that break one rule each have to be caught by the same run (torture.c says
 * more, order_test.c tries all orders).
 *
 * PVCLOCK_TORTURE_MS: how long the library is tortured (default 1000).
 */
#include "../../src/page/shared_word.h"
#include "../guest/torture.h"
#include "../random.h"

#include <pvclock/hyperv.h>

#include <sched.h>
#include <time.h>

#define READERS 2
#define CATCH_MS 2000
#define CATCH_TRIES 5
#define FIRST 0xffffff00u /* the sequence passes all ones and 0 early in the run */
#define SCALE (offsetof(struct pvclock_hyperv_page, scale) / 4)
#define OFFSET (offsetof(struct pvclock_hyperv_page, offset) / 4)

struct run;

struct part {
	const char *name;
	uint32_t (*write)(struct run *run, uint32_t *words, const struct pvclock_hyperv_line *hyperv, uint32_t last);
	enum pvclock_read (*read)(struct run *run, const uint32_t *words, struct pvclock_hyperv_snapshot *out);
};

struct run {
	_Alignas(64) struct pvclock_hyperv_page page;
	_Alignas(64) const struct part *part;
	_Atomic bool stop;
	_Atomic uint64_t writes, withdrawn, reads, fresh, nothing, faults;
};

static struct pvclock_hyperv_line body_of(uint32_t sequence)
{
	uint64_t state = sequence;
	struct pvclock_hyperv_line body;

	body.scale = splitmix64(&state);
	body.offset = (int64_t)splitmix64(&state);
	return body;
}

static uint32_t after(uint32_t last)
{
	return last >= UINT32_MAX - 1 ? 1 : last + 1;
}

/* In the middle of something: lets others look, also on one CPU. */
static void linger(struct run *run)
{
	if ((atomic_load_explicit(&run->writes, memory_order_relaxed) & 63) == 0)
		sched_yield();
}

static void *write_loop(void *argument)
{
	struct run *run = argument;
	uint32_t last = FIRST;
	uint64_t state = 1;

	while (!atomic_load(&run->stop)) {
		struct pvclock_hyperv_line body = body_of(after(last));
		uint64_t random = splitmix64(&state);

		last = run->part->write(run, (uint32_t *)&run->page, &body, last);
		atomic_fetch_add(&run->writes, 1);
		for (uint64_t rest = random & 127; rest; rest--)
			pvclock_relax();
		if (random >> 60 == 0) {
			pvclock_hyperv_page_withdraw(&run->page);
			atomic_fetch_add(&run->withdrawn, 1);
		}
	}
	return NULL;
}

static void *read_loop(void *argument)
{
	struct run *run = argument;
	uint64_t reads = 0, fresh = 0, nothing = 0, faults = 0;
	uint32_t last = 0;

	while (!atomic_load_explicit(&run->stop, memory_order_relaxed)) {
		struct pvclock_hyperv_snapshot copy;
		struct pvclock_hyperv_line body;

		if (run->part->read(run, (const uint32_t *)&run->page, &copy) != PVCLOCK_READ_OK) {
			nothing++;
			continue;
		}
		body = body_of(copy.sequence);
		reads++;
		fresh += copy.sequence != last;
		last = copy.sequence;
		if (!pvclock_hyperv_sequence_valid(copy.sequence) || copy.hyperv.scale != body.scale ||
		    copy.hyperv.offset != body.offset) {
			faults++;
			if (run->part->name)
				atomic_store(&run->stop, true);
		}
	}
	atomic_fetch_add(&run->reads, reads);
	atomic_fetch_add(&run->fresh, fresh);
	atomic_fetch_add(&run->nothing, nothing);
	atomic_fetch_add(&run->faults, faults);
	return NULL;
}

static void run_all(struct run *run, const struct part *part, unsigned int ms)
{
	struct timespec nap = { 0, 1000000 };
	pthread_t threads[READERS + 1];

	memset(run, 0, sizeof(*run));
	run->part = part;
	start(&threads[0], write_loop, run);
	for (unsigned int i = 1; i <= READERS; i++)
		start(&threads[i], read_loop, run);
	for (unsigned int i = 0; i < ms && !atomic_load(&run->stop); i++)
		nanosleep(&nap, NULL);
	atomic_store(&run->stop, true);
	for (unsigned int i = 0; i <= READERS; i++)
		pthread_join(threads[i], NULL);
}

/* --- the library -------------------------------------------------------------------------- */

static uint32_t good_write(struct run *run, uint32_t *words, const struct pvclock_hyperv_line *hyperv, uint32_t last)
{
	(void)run;
	return pvclock_hyperv_page_write(words, hyperv, last);
}

static enum pvclock_read good_read(struct run *run, const uint32_t *words, struct pvclock_hyperv_snapshot *out)
{
	(void)run;
	return pvclock_hyperv_page_read(words, out);
}

/* --- broken writers ------------------------------------------------------------------------ */

static void body(struct run *run, uint32_t *words, const struct pvclock_hyperv_line *hyperv)
{
	store_relaxed_halves(&words[SCALE], hyperv->scale);
	linger(run);
	store_relaxed_halves(&words[OFFSET], (uint64_t)hyperv->offset);
}

static uint32_t never_zero(struct run *run, uint32_t *words, const struct pvclock_hyperv_line *hyperv, uint32_t last)
{
	body(run, words, hyperv);
	store_release_u32(words, after(last));
	return after(last);
}

static uint32_t zero_late(struct run *run, uint32_t *words, const struct pvclock_hyperv_line *hyperv, uint32_t last)
{
	body(run, words, hyperv);
	store_release_u32(words, 0);
	store_release_u32(words, after(last));
	return after(last);
}

static uint32_t next_early(struct run *run, uint32_t *words, const struct pvclock_hyperv_line *hyperv, uint32_t last)
{
	store_relaxed_u32(words, 0);
	fence_release();
	store_relaxed_halves(&words[SCALE], hyperv->scale);
	store_release_u32(words, after(last));
	linger(run);
	store_relaxed_halves(&words[OFFSET], (uint64_t)hyperv->offset);
	return after(last);
}

static uint32_t passes_no_edge(struct run *run, uint32_t *words, const struct pvclock_hyperv_line *hyperv, uint32_t last)
{
	(void)run;
	store_relaxed_u32(words, 0);
	fence_release();
	store_relaxed_halves(&words[SCALE], hyperv->scale);
	store_relaxed_halves(&words[OFFSET], (uint64_t)hyperv->offset);
	store_release_u32(words, last + 1);
	return last + 1;
}

/* --- broken readers ------------------------------------------------------------------------- */

static enum pvclock_read verdict(bool accept)
{
	return accept ? PVCLOCK_READ_OK : PVCLOCK_READ_BUSY;
}

static enum pvclock_read looks_once(struct run *run, const uint32_t *words, struct pvclock_hyperv_snapshot *out)
{
	out->sequence = pvclock_load_acquire_u32(words);
	out->hyperv.scale = load_relaxed_halves(&words[SCALE]);
	linger(run);
	out->hyperv.offset = (int64_t)load_relaxed_halves(&words[OFFSET]);
	return verdict(pvclock_hyperv_sequence_valid(out->sequence));
}

static enum pvclock_read body_before(struct run *run, const uint32_t *words, struct pvclock_hyperv_snapshot *out)
{
	out->hyperv.scale = load_relaxed_halves(&words[SCALE]);
	linger(run);
	out->sequence = pvclock_load_acquire_u32(words);
	out->hyperv.offset = (int64_t)load_relaxed_halves(&words[OFFSET]);
	pvclock_fence_acquire();
	return verdict(pvclock_hyperv_sequence_valid(out->sequence) && pvclock_load_relaxed_u32(words) == out->sequence);
}

static enum pvclock_read body_after(struct run *run, const uint32_t *words, struct pvclock_hyperv_snapshot *out)
{
	bool same;

	out->sequence = pvclock_load_acquire_u32(words);
	out->hyperv.scale = load_relaxed_halves(&words[SCALE]);
	same = pvclock_load_acquire_u32(words) == out->sequence;
	linger(run);
	out->hyperv.offset = (int64_t)load_relaxed_halves(&words[OFFSET]);
	return verdict(pvclock_hyperv_sequence_valid(out->sequence) && same);
}

/* Takes 0 for a sequence like any other. */
static enum pvclock_read takes_zero(struct run *run, const uint32_t *words, struct pvclock_hyperv_snapshot *out)
{
	(void)run;
	out->sequence = pvclock_load_acquire_u32(words);
	out->hyperv.scale = load_relaxed_halves(&words[SCALE]);
	out->hyperv.offset = (int64_t)load_relaxed_halves(&words[OFFSET]);
	pvclock_fence_acquire();
	return verdict(pvclock_load_relaxed_u32(words) == out->sequence);
}

static const struct part library = { NULL, good_write, good_read };
static const struct part broken[] = {
	{ "writer: sequence is never 0", never_zero, good_read },
	{ "writer: 0 after the body", zero_late, good_read },
	{ "writer: the next sequence before the end of the body", next_early, good_read },
	{ "writer: counts through all ones and 0, reader takes them", passes_no_edge, takes_zero },
	{ "reader: does not look again", good_write, looks_once },
	{ "reader: body before the sequence", good_write, body_before },
	{ "reader: body after the second look", good_write, body_after },
	{ "reader: takes 0", good_write, takes_zero },
};

int main(void)
{
	static struct run run;
	const char *text = getenv("PVCLOCK_TORTURE_MS");
	int failed;

	run_all(&run, &library, text && *text ? (unsigned int)strtoul(text, NULL, 0) : 1000);
	failed = run.faults != 0 || run.fresh < 2 || run.nothing == 0;
	printf("%s the library: %llu writes, %llu withdrawn, %llu reads, %llu of a new sequence, %llu of no clock, %llu faults\n",
	       failed ? "not ok" : "ok", (unsigned long long)run.writes, (unsigned long long)run.withdrawn,
		       (unsigned long long)run.reads,
	       (unsigned long long)run.fresh, (unsigned long long)run.nothing, (unsigned long long)run.faults);
	for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++) {
		unsigned int tries = 0;

		do
			run_all(&run, &broken[i], CATCH_MS);
		while (run.faults == 0 && ++tries < CATCH_TRIES);
		printf("%s %s: caught after %llu writes, %llu reads\n", run.faults ? "ok" : "not ok NOT", broken[i].name,
		       (unsigned long long)run.writes, (unsigned long long)run.reads);
		failed |= run.faults == 0;
	}
	return failed;
}
