/* SPDX-License-Identifier: MIT */
/*
 * P2 and P9: all clocks of the page that processes map, read on CPUs that really run at once, while everybody writes who may.
 *
 * The host changes the line now and then, with all vCPUs out as page.h demands: to another rate, or, after a time that the guest's
 * clock is not to count, by writing the suspend page and a line that begins later. The guest's kernel ticks, sets the day's time,
 * and meets leap seconds, with nobody stopped. Readers check that
 *   - MONOTONIC and BOOTTIME, and MONOTONIC_COARSE, are never below what any thread had read before, and COARSE never above what is read then;
 *   - REALTIME and TAI are one of the few distances from BOOTTIME that the kernel sets, exactly: never something in between.
 *
 * Kernels and hosts that do it wrong have to be caught: one that writes base data without the sequence count, and a
 * host that changes line and suspend page while vCPUs run.
 *
 * Arguments: READINGS CHANGES (of pages), both at least; default 2 million and 50. SKIP (77) where the TSC is not one
 * clock for all CPUs.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <pvclock/clock.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../random.h"
#include "torture.h"

#define READERS 2
#define BATCH 256u
#define CATCH_MS 200
#define CATCH_TRIES 25
#define EPOCH UINT64_C(1795000000000000000)
#define OTHER_DAY UINT64_C(86400000000500)  /* later by that, and not by whole seconds */
#define SECOND UINT64_C(1000000000)
#define TAI_MINUS_UTC 37

enum wrong { RIGHT, TORN, RUNNING };

struct reader {
	_Alignas(64) _Atomic uint64_t monotonic, boottime; /* the largest that it has read so far */
	_Atomic uint64_t readings;
	_Alignas(64) struct run *run;
	unsigned int index;
	uint64_t backwards, worst, coarse, between, other;
};

struct run {
	struct pvclock_user_page user __attribute__((aligned(4096)));
	struct reader readers[READERS];
	_Alignas(64) _Atomic bool stop;
	struct gate gate;
	_Alignas(64) enum wrong wrong;
	struct pvclock_line line;           /* the host's first */
	_Atomic uint64_t changes, suspends, writes;
};

static void rest(long us)
{
	struct timespec time = { 0, us * 1000 };

	nanosleep(&time, NULL);
}

/* --- vCPUs ----------------------------------------------------------------------------------------- */

static void below(struct reader *reader, uint64_t got, uint64_t before)
{
	reader->backwards++;
	if (before - got > reader->worst)
		reader->worst = before - got;
}

/* The largest that any thread is known to have read. */
static uint64_t floor_of(struct reader *reader, bool boottime)
{
	uint64_t most = 0;

	for (unsigned int i = 0; i < READERS; i++) {
		struct reader *other = &reader->run->readers[i];
		uint64_t had = atomic_load_explicit(boottime ? &other->boottime : &other->monotonic, memory_order_acquire);

		if (had > most)
			most = had;
	}
	return most;
}

/* As fast as a reader can, one clock: each reading against the one before, and every 16th against the other thread's. */
static void read_one_clock(struct reader *reader, bool boottime)
{
	const struct pvclock_user_page *user = &reader->run->user;
	_Atomic uint64_t *mine = boottime ? &reader->boottime : &reader->monotonic;
	unsigned int id = boottime ? PVCLOCK_BOOTTIME : PVCLOCK_MONOTONIC;

	for (unsigned int i = 0; i < BATCH / 16; i++) {
		uint64_t before = floor_of(reader, boottime), now;

		for (unsigned int j = 0; j < 16; j++) {
			if (pvclock_user_ns(user, id, &now) != PVCLOCK_READ_OK) {
				reader->other++;
				continue;
			}
			if (now < before)
				below(reader, now, before);
			before = now;
		}
		atomic_store_explicit(mine, before, memory_order_release);
	}
}

static bool is_distance(uint64_t ns, uint64_t low, uint64_t high, uint64_t distance)
{
	return ns - distance >= low && ns - distance <= high;
}

/*
 * The day's clocks are BOOTTIME and one of four distances. In the host's eyes this is one stay in the guest: no suspend
 * is in it.
 */
static void read_the_day(struct reader *reader)
{
	const struct pvclock_user_page *user = &reader->run->user;

	for (unsigned int i = 0; i < BATCH / 8; i++) {
		uint64_t low = 0, real = 0, tai = 0, high = 0, coarse = 0, was, monotonic = 0, distance;
		bool real_fits = false, tai_fits = false;

		was = floor_of(reader, false);
		if (pvclock_user_ns(user, PVCLOCK_BOOTTIME, &low) || pvclock_user_ns(user, PVCLOCK_REALTIME, &real) ||
		    pvclock_user_ns(user, PVCLOCK_TAI, &tai) || pvclock_user_ns(user, PVCLOCK_BOOTTIME, &high) ||
		    pvclock_coarse_ns(user, PVCLOCK_MONOTONIC_COARSE, &coarse) || pvclock_user_ns(user, PVCLOCK_MONOTONIC, &monotonic)) {
			reader->other++;
			continue;
		}
		if (high < low)
			below(reader, high, low);
		if (monotonic < was)
			below(reader, monotonic, was);
		reader->coarse += coarse > monotonic;
		for (unsigned int kind = 0; kind < 4; kind++) {
			distance = EPOCH + (kind & 1 ? OTHER_DAY : 0);
			tai_fits |= is_distance(tai, low, high, distance + TAI_MINUS_UTC * SECOND);
			real_fits |= is_distance(real, low, high, distance - (kind & 2 ? SECOND : 0));
		}
		reader->between += !real_fits || !tai_fits;
	}
}

static void *vcpu(void *argument)
{
	struct reader *reader = argument;
	struct run *run = reader->run;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(reader->index, &cpus);
	pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus); /* where there is such a CPU */
	for (uint64_t batch = reader->index; !atomic_load_explicit(&run->stop, memory_order_relaxed); batch++) {
		enter_guest(&run->gate);
		if (batch % 16 == 0)
			read_the_day(reader);
		else
			read_one_clock(reader, batch & 1);
		leave_guest(&run->gate);
		atomic_store_explicit(&reader->readings, atomic_load_explicit(&reader->readings, memory_order_relaxed) + BATCH,
				      memory_order_relaxed);
	}
	return NULL;
}

/* --- the guest's kernel ------------------------------------------------------------------------------ */

/* What the right one would never do: it says the same in another way, word by word and without a sequence count. */
static void tear(struct pvclock_clocks *clocks, int64_t by)
{
	for (unsigned int id = 0; id < PVCLOCK_CLOCKS; id++) {
		_Atomic int64_t *sec = (_Atomic int64_t *)&clocks->base[id].sec;
		_Atomic uint64_t *nsec = (_Atomic uint64_t *)&clocks->base[id].nsec;

		if ((PVCLOCK_HIGH_CLOCKS >> id & 1) == 0)
			continue;
		atomic_fetch_add_explicit(sec, by, memory_order_relaxed);
		atomic_fetch_sub_explicit(nsec, (uint64_t)by * SECOND, memory_order_relaxed);
	}
}

/* In the guest, too: it runs when the vCPUs do. */
static void write_once(struct run *run, uint64_t *seed, bool *leapt, int64_t *torn)
{
	struct pvclock_user_page *user = &run->user;
	struct pvclock_time real;
	uint64_t boot, now;

	if (pvclock_user_ns(user, PVCLOCK_MONOTONIC, &now) != PVCLOCK_READ_OK)
		return;
	switch (splitmix64(seed) % 8) {
	case 0: /* to one of two days, exactly; a day without a leap second */
		if (*leapt) {
			pvclock_clocks_leap(user, now, -1);
			*leapt = false;
		}
		boot = now + pvclock_clocks_uncounted(user);
		real = pvclock_time_make(0, EPOCH + (splitmix64(seed) & 1 ? OTHER_DAY : 0) + boot);
		pvclock_clocks_set_realtime(user, now, pvclock_clocks_uncounted(user), &real);
		break;
	case 1:
		pvclock_clocks_leap(user, now, *leapt ? -1 : 1);
		*leapt = !*leapt;
		break;
	default:
		pvclock_clocks_tick(user, now);
	}
	if (run->wrong == TORN) {
		*torn = *torn ? 0 : 1;
		tear(&user->clocks, *torn ? 1 : -1);
	}
}

static void *kernel(void *argument)
{
	struct run *run = argument;
	uint64_t seed = 3;
	bool leapt = false;
	int64_t torn = 0;

	while (!atomic_load(&run->stop)) {
		enter_guest(&run->gate);
		for (unsigned int i = 0; i < 4; i++) {
			write_once(run, &seed, &leapt, &torn);
			atomic_fetch_add(&run->writes, 1);
		}
		leave_guest(&run->gate);
		rest(run->wrong == RIGHT ? 400 : 10);
	}
	return NULL;
}

/* --- the host ------------------------------------------------------------------------------------------ */

static void pause_all(struct run *run)
{
	if (run->wrong == RUNNING)
		return;
	pause_guest(&run->gate);
}

/* Usual rates, and ones by which a guest's second takes a millisecond. 12 bits, or a lossless step would take seconds. */
static bool change_rate(struct pvclock_line *line, uint64_t *seed)
{
	struct pvclock_slope slope;
	uint64_t now = pvclock_read_counter().ticks;
	unsigned int shift = splitmix64(seed) & 1 ? 12 + (unsigned int)(splitmix64(seed) % 3) : 3;

	return pvclock_slope_from_kernel(0x800 + (splitmix64(seed) & 0x7ff), shift, &slope) &&
	       pvclock_line_continue(line, now, now, &slope, line, NULL);
}

/* A blackout that system time is not to count: as long as nobody runs, the line stands still. */
static void sleep_uncounted(struct run *run, struct pvclock_line *line, struct pvclock_suspend *suspend)
{
	uint64_t began = pvclock_read_counter().ticks, slept, ns = pvclock_line_ns(line, began);

	rest(50);
	slept = pvclock_line_ns(line, pvclock_read_counter().ticks) - ns;
	/* it goes on where it was at `began`; a whole ns, so a fraction at most is lost, to the past */
	line->tsc = pvclock_read_counter().ticks;
	line->ns = ns + 1;
	suspend->count++;
	suspend->cause = PVCLOCK_CAUSE_SUSPEND;
	suspend->uncounted_ns += slept;
	pvclock_suspend_write(&run->user.suspend, suspend);
	atomic_fetch_add(&run->suspends, 1);
}

static void *host(void *argument)
{
	struct run *run = argument;
	struct pvclock_line line = run->line;
	struct pvclock_suspend suspend = { .count = 0 };
	uint64_t seed = 1;

	while (!atomic_load(&run->stop)) {
		rest(run->wrong == RIGHT ? 5000 : 500);
		pause_all(run);
		if (splitmix64(&seed) & 1)
			sleep_uncounted(run, &line, &suspend);
		else
			(void)change_rate(&line, &seed);
		pvclock_page_write(&run->user.page, &line, PVCLOCK_TSC_STABLE);
		resume_guest(&run->gate);
		atomic_fetch_add(&run->changes, 1);
		/* and a lossless one, with nobody stopped */
		rest(100);
		pvclock_line_reanchor(&line, pvclock_read_counter().ticks);
		pvclock_page_write(&run->user.page, &line, PVCLOCK_TSC_STABLE);
	}
	return NULL;
}

/* --- runs ---------------------------------------------------------------------------------------------- */

static uint64_t all_readings(struct run *run)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < READERS; i++)
		sum += atomic_load(&run->readers[i].readings);
	return sum;
}

static void run_all(struct run *run, enum wrong wrong, uint64_t readings, uint64_t changes)
{
	pthread_t threads[READERS + 2];

	memset(run, 0, sizeof(*run));
	run->wrong = wrong;
	run->line = (struct pvclock_line){ pvclock_read_counter().ticks, 1000000, 0xa0100000u, -1 };
	pvclock_page_write(&run->user.page, &run->line, PVCLOCK_TSC_STABLE);
#if defined(__x86_64__) || defined(__i386__)
	pvclock_clocks_choose_counter(&run->user);
#endif
	pvclock_clocks_start(&run->user, run->line.ns, EPOCH, 0, TAI_MINUS_UTC);
	for (unsigned int i = 0; i < READERS; i++) {
		run->readers[i].run = run;
		run->readers[i].index = i;
		start(&threads[i], vcpu, &run->readers[i]);
	}
	start(&threads[READERS], kernel, run);
	start(&threads[READERS + 1], host, run);
	if (wrong == RIGHT)
		while (all_readings(run) < readings || atomic_load(&run->changes) < changes)
			rest(10000);
	else
		for (unsigned int ms = 0; ms < CATCH_MS; ms++)
			rest(1000);
	atomic_store(&run->stop, true);
	for (unsigned int i = 0; i < READERS + 2; i++)
		pthread_join(threads[i], NULL);
}

/* True if all was as it has to be. */
static bool judge(struct run *run, const char *name, bool right)
{
	uint64_t backwards = 0, worst = 0, coarse = 0, between = 0, other = 0;
	bool clean;

	for (unsigned int i = 0; i < READERS; i++) {
		const struct reader *reader = &run->readers[i];

		backwards += reader->backwards;
		coarse += reader->coarse;
		between += reader->between;
		other += reader->other;
		if (reader->worst > worst)
			worst = reader->worst;
	}
	clean = backwards == 0 && coarse == 0 && between == 0 && other == 0;
	printf("%s %s: %llu readings, %llu page changes (%llu suspends), %llu writes of base data; %llu backwards (worst %llu ns), "
	       "%llu coarse ones ahead, %llu of no day, %llu failed\n",
	       clean == right ? "ok" : "not ok", name, (unsigned long long)all_readings(run), (unsigned long long)run->changes,
	       (unsigned long long)run->suspends, (unsigned long long)run->writes, (unsigned long long)backwards,
	       (unsigned long long)worst, (unsigned long long)coarse, (unsigned long long)between, (unsigned long long)other);
	fflush(stdout);
	return clean;
}

static bool is_caught(struct run *run, enum wrong wrong, const char *name)
{
	for (unsigned int tries = 0; tries < CATCH_TRIES; tries++) {
		run_all(run, wrong, 0, 0);
		if (!judge(run, name, false))
			return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	static struct run run;
	uint64_t readings = argc > 1 ? strtoull(argv[1], NULL, 0) : 2000000, changes = argc > 2 ? strtoull(argv[2], NULL, 0) : 50;
	bool ok;

	if (!one_tsc()) {
		printf("SKIP: the kernel does not keep time by the TSC, so its CPUs' TSCs may differ\n");
		return 77;
	}
	run_all(&run, RIGHT, readings, changes);
	ok = judge(&run, "right", true);
	ok &= is_caught(&run, TORN, "a kernel that writes without the sequence count is caught");
	ok &= is_caught(&run, RUNNING, "a host that changes a line while vCPUs run is caught");
	return !ok;
}
