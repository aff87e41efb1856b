/* SPDX-License-Identifier: MIT */
/*
 * P2, never backwards, with real lines, the real TSC, and CPUs that really run at once.
 *
 * A host thread changes the page under the readers: now and then to another rate (with all readers out of "guest
 * mode", as page.h demands), and all the time to another anchor (with nobody stopped, which a lossless re-anchor
 * allows). Readers check every reading twice: it is not below any reading that another thread had finished before
 * this one began, and it is exactly what the line says that was in force, whatever its anchor.
 *
 * Two hosts that do it wrong have to be caught: one that re-anchors at any tick and loses a fraction of a ns, and one
 * that reads the clock while vCPUs still run and sets it after they stopped.
 *
 * PVCLOCK_TORTURE_MS: how long the right one runs (default 1000). SKIP (77) where the TSC is not one clock for all
 * CPUs.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <pvclock/guest.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../random.h"
#include "torture.h"

#define READERS 3
#define CATCH_MS 2000
#define CATCH_TRIES 5

enum host { RIGHT, LOSSY, EARLY };

struct run {
	_Alignas(64) struct pvclock_page page;
	_Alignas(64) _Atomic uint64_t seen; /* the largest reading finished so far */
	_Alignas(64) _Atomic bool stop;
	struct gate gate;
	struct pvclock_line line;           /* in force: changes only while none is in */
	enum host host;
	_Atomic uint64_t reads, backwards, wrong, worst, anchors, rates;
};

static void *vcpu(void *argument)
{
	struct run *run = argument;
	uint64_t reads = 0, backwards = 0, wrong = 0, worst = 0;

	while (!atomic_load_explicit(&run->stop, memory_order_relaxed)) {
		enter_guest(&run->gate);
		for (unsigned int i = 0; i < 50; i++) {
			struct pvclock_reading reading;
			/* lfence puts the TSC after this load: what others had finished is behind us */
			uint64_t before = atomic_load_explicit(&run->seen, memory_order_acquire);

			if (pvclock_read_clock(&run->page, &reading) != PVCLOCK_READ_OK)
				continue;
			reads++;
			if (reading.ns < before) {
				backwards++;
				if (before - reading.ns > worst)
					worst = before - reading.ns;
			}
			wrong += reading.ns != pvclock_line_ns(&run->line, reading.tsc.ticks);
			pvclock_guard(&run->seen, reading.ns);
		}
		leave_guest(&run->gate);
	}
	atomic_fetch_add(&run->reads, reads);
	atomic_fetch_add(&run->backwards, backwards);
	atomic_fetch_add(&run->wrong, wrong);
	if (worst > atomic_load(&run->worst))
		atomic_store(&run->worst, worst);
	return NULL;
}

static bool change_rate(struct run *run, uint64_t *seed, struct pvclock_line *line)
{
	struct pvclock_slope slope;
	uint64_t early = pvclock_read_tsc().ticks, now;

	if (run->host == EARLY)
		sched_yield();
	pause_guest(&run->gate);
	now = pvclock_read_tsc().ticks;
	/* 1/8 to 4 ns a tick: shifts of both signs; with 12 bits, or a lossless step would take seconds */
	if (!pvclock_slope_from_kernel(0x800 + (splitmix64(seed) & 0x7ff), 10 + (unsigned int)(splitmix64(seed) % 5),
				       &slope) ||
	    !pvclock_line_continue(line, run->host == EARLY ? early : now, now, &slope, &run->line, NULL))
		return false;
	*line = run->line;
	pvclock_page_write(&run->page, line, PVCLOCK_TSC_STABLE);
	resume_guest(&run->gate);
	return true;
}

static void *host(void *argument)
{
	struct run *run = argument;
	struct pvclock_line line = run->line;
	uint64_t seed = 1, rates = 0, anchors = 0;

	while (!atomic_load(&run->stop)) {
		uint64_t now;

		if (splitmix64(&seed) % 256 == 0) {
			if (!change_rate(run, &seed, &line)) {
				atomic_fetch_add(&run->wrong, 1);
				break;
			}
			rates++;
		}
		now = pvclock_read_tsc().ticks;
		if (run->host == LOSSY) {
			uint64_t ns = pvclock_line_ns(&line, now);

			anchors += line.tsc != now;
			line.tsc = now;
			line.ns = ns;
		} else {
			uint64_t tsc = line.tsc;

			pvclock_line_reanchor(&line, now);
			anchors += line.tsc != tsc;
		}
		pvclock_page_write(&run->page, &line, PVCLOCK_TSC_STABLE);
		for (uint64_t rest = splitmix64(&seed) & 255; rest; rest--)
			pvclock_relax();
	}
	resume_guest(&run->gate);
	run->rates = rates;
	run->anchors = anchors;
	return NULL;
}

static void run_host(struct run *run, enum host kind, unsigned int ms)
{
	struct timespec time = { 0, 1000000 };
	pthread_t threads[READERS + 1];

	memset(run, 0, sizeof(*run));
	run->host = kind;
	run->line = (struct pvclock_line){ pvclock_read_tsc().ticks, 1000000, 0xa0100000u, -1 };
	pvclock_page_write(&run->page, &run->line, PVCLOCK_TSC_STABLE);
	start(&threads[0], host, run);
	for (unsigned int i = 0; i < READERS; i++)
		start(&threads[i + 1], vcpu, run);
	while (ms--)
		nanosleep(&time, NULL);
	atomic_store(&run->stop, true);
	for (unsigned int i = 0; i < READERS + 1; i++)
		pthread_join(threads[i], NULL);
}

static void print(const char *verdict, const char *name, struct run *run)
{
	printf("%s %s: %llu readings, %llu anchors, %llu rates; %llu backwards (worst %llu ns), %llu not the line\n",
	       verdict, name, (unsigned long long)run->reads, (unsigned long long)run->anchors,
	       (unsigned long long)run->rates, (unsigned long long)run->backwards,
	       (unsigned long long)run->worst, (unsigned long long)run->wrong);
}

int main(void)
{
	static struct run run;
	const char *text = getenv("PVCLOCK_TORTURE_MS");
	unsigned int ms = text && *text ? (unsigned int)strtoul(text, NULL, 0) : 1000;
	unsigned int tries;
	int failed = 0;
	bool ok;

	if (!one_tsc()) {
		printf("SKIP: the kernel does not keep time by the TSC, so its CPUs' TSCs may differ\n");
		return 77;
	}
	run_host(&run, RIGHT, ms);
	ok = run.backwards == 0 && run.wrong == 0 && run.reads > 0 && run.anchors > 10 && run.rates > 1;
	print(ok ? "ok" : "not ok", "lossless re-anchor, continued rates", &run);
	failed |= !ok;

	for (tries = 0, ok = false; !ok && tries < CATCH_TRIES; tries++) {
		run_host(&run, LOSSY, CATCH_MS / 10);
		ok = run.wrong != 0;
	}
	print(ok ? "ok" : "not ok NOT", "a lossy re-anchor is caught", &run);
	failed |= !ok;

	for (tries = 0, ok = false; !ok && tries < CATCH_TRIES; tries++) {
		run_host(&run, EARLY, CATCH_MS / 10);
		ok = run.backwards != 0;
	}
	print(ok ? "ok" : "not ok NOT", "a clock read too early is caught", &run);
	failed |= !ok;
	return failed;
}
