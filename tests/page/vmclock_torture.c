/* SPDX-License-Identifier: MIT */
/*
 * A writer against readers of VMClock's page on real CPUs: sequence number v has a body that follows from v alone. Then writers and
 * a reader that break one rule, which the same run has to catch (as torture.c, which is of the clock's page).
 *
 * PVCLOCK_TORTURE_MS: how long the library is tortured (default 1000). PVCLOCK_SEED: where the numbers start.
 */
#define _GNU_SOURCE
#include "../../src/page/vmclock.c"

#include "../random.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define READERS 2
#define CATCH_MS 10000

struct part {
	const char *name; /* NULL: is not to be caught */
	void (*write)(uint32_t *words, const struct pvclock_vmclock *clock);
	enum pvclock_read (*read)(const uint32_t *words, struct pvclock_vmclock *out);
};

struct torture {
	_Alignas(64) uint32_t words[0x70 / 4];
	_Alignas(64) const struct part *part;
	_Atomic bool stop;
	_Atomic uint64_t faults, reads, fresh, writes;
};

static struct pvclock_vmclock body_of(uint32_t sequence)
{
	uint64_t random = sequence;
	struct pvclock_vmclock clock = { .size = 4096, .sequence = sequence, .counter_id = 1, .time_type = 1 };
	uint64_t bits = splitmix64(&random);

	clock.status = (uint8_t)bits;
	clock.leap = (uint8_t)(bits >> 8);
	clock.period_shift = (uint8_t)(bits >> 16);
	clock.smearing_hint = (uint8_t)(bits >> 24);
	clock.tai_offset = (int16_t)(bits >> 32);
	clock.marker = splitmix64(&random);
	clock.flags = splitmix64(&random);
	clock.counter = splitmix64(&random);
	clock.period = splitmix64(&random);
	clock.period_est_error = splitmix64(&random);
	clock.period_max_error = splitmix64(&random);
	clock.sec = splitmix64(&random);
	clock.frac = splitmix64(&random);
	clock.est_error_ns = splitmix64(&random);
	clock.max_error_ns = splitmix64(&random);
	clock.generation = splitmix64(&random);
	return clock;
}

static bool is_body(const struct pvclock_vmclock *copy)
{
	struct pvclock_vmclock body = body_of(copy->sequence);

	return body.status == copy->status && body.leap == copy->leap && body.period_shift == copy->period_shift &&
	       body.smearing_hint == copy->smearing_hint && body.tai_offset == copy->tai_offset && body.marker == copy->marker &&
	       body.flags == copy->flags && body.counter == copy->counter && body.period == copy->period &&
	       body.period_est_error == copy->period_est_error && body.period_max_error == copy->period_max_error &&
	       body.sec == copy->sec &&
	       body.frac == copy->frac && body.est_error_ns == copy->est_error_ns && body.max_error_ns == copy->max_error_ns &&
	       body.generation == copy->generation && copy->size == 4096 && copy->counter_id == 1 && copy->time_type == 1;
}

static void *write_loop(void *argument)
{
	struct torture *torture = argument;

	while (!atomic_load(&torture->stop)) {
		uint32_t next = ((pvclock_load_relaxed_u32(&torture->words[VMCLOCK_SEQUENCE]) + 1) | 1) + 1;
		struct pvclock_vmclock clock = body_of(next);

		torture->part->write(torture->words, &clock);
		atomic_fetch_add(&torture->writes, 1);
		/* longer than a reader's loop now and then, so that copies are also accepted */
		for (uint64_t rest = clock.marker & 255; rest; rest--)
			pvclock_relax();
	}
	return NULL;
}

static void *read_loop(void *argument)
{
	struct torture *torture = argument;
	uint32_t last = 0;

	while (!atomic_load_explicit(&torture->stop, memory_order_relaxed)) {
		struct pvclock_vmclock copy;

		if (torture->part->read(torture->words, &copy) != PVCLOCK_READ_OK)
			continue;
		atomic_fetch_add(&torture->reads, 1);
		if (copy.sequence != last)
			atomic_fetch_add(&torture->fresh, 1);
		last = copy.sequence;
		if (!is_body(&copy)) {
			atomic_fetch_add(&torture->faults, 1);
			if (torture->part->name)
				atomic_store(&torture->stop, true);
		}
	}
	return NULL;
}

static void torture_part(struct torture *torture, const struct part *part, unsigned int ms, uint32_t sequence)
{
	struct timespec nap = { 0, 1000000 };
	struct pvclock_vmclock clock;
	pthread_t threads[READERS + 1];

	memset(torture, 0, sizeof(*torture));
	torture->part = part;
	sequence &= ~1u;
	torture->words[VMCLOCK_SEQUENCE] = sequence - 2;
	clock = body_of(sequence);
	pvclock_vmclock_write(torture->words, &clock);
	for (unsigned int i = 0; i <= READERS; i++)
		if (pthread_create(&threads[i], NULL, i ? read_loop : write_loop, torture)) {
			perror("pthread_create");
			exit(1);
		}
	for (unsigned int i = 0; i < ms && !atomic_load(&torture->stop); i++)
		nanosleep(&nap, NULL);
	atomic_store(&torture->stop, true);
	for (unsigned int i = 0; i <= READERS; i++)
		pthread_join(threads[i], NULL);
}

static void good_write(uint32_t *words, const struct pvclock_vmclock *clock)
{
	pvclock_vmclock_write(words, clock);
}

static enum pvclock_read good_read(const uint32_t *words, struct pvclock_vmclock *out)
{
	return pvclock_vmclock_read(words, out);
}

/* --- broken ones --------------------------------------------------------------------------------- */

/* What the library would write, a word at a time and in whatever phase. */
static void copy_body(uint32_t *words, const struct pvclock_vmclock *clock, bool rests)
{
	_Alignas(8) uint32_t image[0x70 / 4] = { 0 };

	pvclock_vmclock_write(image, clock);
	for (unsigned int i = VMCLOCK_MARKER; i < 0x70 / 4; i++) {
		store_relaxed_u32(&words[i], image[i]);
		if (rests && i == VMCLOCK_PERIOD)
			sched_yield();
	}
}

static void no_odd_phase(uint32_t *words, const struct pvclock_vmclock *clock)
{
	copy_body(words, clock, true);
	store_release_u32(&words[VMCLOCK_SEQUENCE], clock->sequence);
}

static void even_early(uint32_t *words, const struct pvclock_vmclock *clock)
{
	store_relaxed_u32(&words[VMCLOCK_SEQUENCE], clock->sequence - 1);
	fence_release();
	store_release_u32(&words[VMCLOCK_SEQUENCE], clock->sequence);
	copy_body(words, clock, true);
}

static void body_first(uint32_t *words, const struct pvclock_vmclock *clock)
{
	copy_body(words, clock, true);
	store_release_u32(&words[VMCLOCK_SEQUENCE], clock->sequence - 1);
	store_release_u32(&words[VMCLOCK_SEQUENCE], clock->sequence);
}

/* Right, but slow. */
static void slow_write(uint32_t *words, const struct pvclock_vmclock *clock)
{
	store_relaxed_u32(&words[VMCLOCK_SEQUENCE], clock->sequence - 1);
	fence_release();
	copy_body(words, clock, true);
	store_release_u32(&words[VMCLOCK_SEQUENCE], clock->sequence);
}

/* Takes a copy and does not look whether it changed meanwhile. */
static enum pvclock_read looks_once(const uint32_t *words, struct pvclock_vmclock *out)
{
	_Alignas(8) uint32_t image[0x70 / 4];

	for (unsigned int i = 0; i < 0x70 / 4; i++)
		image[i] = i == VMCLOCK_SEQUENCE ? pvclock_load_acquire_u32(&words[i]) : pvclock_load_relaxed_u32(&words[i]);
	return image[VMCLOCK_SEQUENCE] & 1 ? PVCLOCK_READ_BUSY : pvclock_vmclock_read(image, out);
}

static unsigned int number(const char *name, unsigned int otherwise)
{
	const char *text = getenv(name);

	return text && *text ? (unsigned int)strtoul(text, NULL, 0) : otherwise;
}

int main(void)
{
	static const struct part parts[] = {
		{ NULL, good_write, good_read },
		{ NULL, slow_write, good_read },
		{ "writer: no odd phase", no_odd_phase, good_read },
		{ "writer: even before the end of the body", even_early, good_read },
		{ "writer: body before odd", body_first, good_read },
		{ "reader: does not look again", slow_write, looks_once },
	};
	static struct torture torture;
	uint32_t seed = number("PVCLOCK_SEED", 0xffffff00u); /* it passes through 0 early in the run */
	unsigned int ms = number("PVCLOCK_TORTURE_MS", 1000);
	int failed = 0;

	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		const char *name = parts[i].name;
		bool ok;

		torture_part(&torture, &parts[i], name ? CATCH_MS : ms, seed);
		ok = name ? torture.faults > 0 : torture.faults == 0 && torture.fresh >= 2;
		printf("%s %s: %llu writes, %llu reads, %llu of a new one, %llu faults\n", ok ? "ok" : "not ok",
		       name ? name : i ? "the library's reader and a slow writer" : "the library",
		       (unsigned long long)torture.writes,
		       (unsigned long long)torture.reads, (unsigned long long)torture.fresh, (unsigned long long)torture.faults);
		failed |= !ok;
	}
	if (failed)
		printf("repeat with PVCLOCK_SEED=%#x PVCLOCK_TORTURE_MS=%u\n", seed, ms);
	return failed;
}
