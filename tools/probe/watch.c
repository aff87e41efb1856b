/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "watch.h"

#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define IDLE_NS 2000000
#define PARKED_NS 50000000
#define STACK_SIZE (256u * 1024)
/* A pause in the readings that stands out: longer than schedulers take CPUs away. */
#define PAUSE_NS 200000000u

struct watch_cpu {
	/* its thread's own */
	struct watch *watch;
	pthread_t thread;
	unsigned int cpu;
	uint32_t phase;
	uint32_t phase_samples, phase_windows;
	uint64_t own[PROBE_STEADY_CLOCKS]; /* largest values */
	bool began;                        /* last_tsc holds a TSC */
	uint64_t last_tsc;
	bool opened;                       /* window holds one, begun then */
	uint64_t opened_ns, opened_tsc;
	struct window window;

	/* written by its thread alone, read by the coordinator */
	_Alignas(64) _Atomic uint64_t samples;
	_Atomic uint64_t within, between, worst;
	/* as they were when an event began for this thread, that is when it saw the odd phase; worst is of it alone */
	_Atomic uint32_t event_phase;
	_Atomic uint64_t event_samples, event_within, event_between, event_worst;
	_Atomic uint64_t phase_progress[2]; /* phase << 32 | samples, phase << 32 | windows */
	_Atomic bool parked;
	_Atomic int64_t step_ahead, step_back; /* both >= 0; cleared by the coordinator */

	_Alignas(64) pthread_mutex_t lock; /* for what follows */
	uint64_t closed;
	struct window ring[WATCH_RING]; /* window n is at n % WATCH_RING */
};

/* --- waiting ------------------------------------------------------------------------ */

static void futex_wait(_Atomic uint32_t *word, uint32_t value, const struct timespec *timeout)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int waiters)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, waiters, NULL, NULL, 0);
}

static void rest(struct watch *watch)
{
	if (atomic_load(&watch->busy))
		sched_yield(); /* whoever else needs this CPU: the coordinator, if there is but one */
	else
		futex_wait(&watch->busy, 0, &(struct timespec){ .tv_nsec = IDLE_NS });
}

static void milestone(struct watch *watch)
{
	atomic_fetch_add(&watch->milestones, 1);
	futex_wake(&watch->milestones, 1);
}

/* --- one thread ---------------------------------------------------------------------- */

static void add(_Atomic uint64_t *counter, uint64_t count)
{
	/* one writer */
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + count,
			      memory_order_relaxed);
}

static void close_window(struct watch_cpu *own)
{
	if (!own->opened)
		return;
	own->opened = false;
	pthread_mutex_lock(&own->lock);
	own->ring[own->closed++ % WATCH_RING] = own->window;
	pthread_mutex_unlock(&own->lock);
	if (own->window.phase != own->phase)
		return;
	own->phase_windows++;
	atomic_store(&own->phase_progress[1], (uint64_t)own->phase << 32 | own->phase_windows);
	if (atomic_load_explicit(&own->watch->busy, memory_order_relaxed))
		milestone(own->watch);
}

static void keep_window(struct watch_cpu *own, const struct window *now)
{
	/* unsigned: a clock that went back is over the limit too. One that stands still must not keep anyone waiting */
	if (own->opened && (own->window.line != now->line || now->ns - own->opened_ns >= WATCH_WINDOW_NS ||
			    now->before - own->opened_tsc >= WATCH_WINDOW_TICKS))
		close_window(own);
	if (!own->opened) {
		own->opened = true;
		own->opened_ns = now->ns;
		own->opened_tsc = now->before;
		own->window = *now;
	} else if (now->after - now->before < own->window.after - own->window.before) {
		own->window = *now;
	}
}

/* Steps of the TSC between readings; the coordinator may clear them at any time. */
static void keep_step(struct watch_cpu *own, uint64_t tsc)
{
	int64_t step = (int64_t)(tsc - own->last_tsc);
	_Atomic int64_t *largest = step < 0 ? &own->step_back : &own->step_ahead;
	int64_t before = atomic_load_explicit(largest, memory_order_relaxed);

	if (step == INT64_MIN || !own->began)
		return;
	if (step < 0)
		step = -step;
	while (before < step && !atomic_compare_exchange_weak(largest, &before, step))
		;
}

/* `before`: the largest value there was before this one was read. */
static void judge(struct watch_cpu *own, enum probe_clock clock, uint64_t before, uint64_t now)
{
	if (now < own->own[clock])
		add(&own->within, 1);
	else if (now < before)
		add(&own->between, 1);
	if (now >= own->own[clock])
		own->own[clock] = now;
	if (now < before || now < own->own[clock]) {
		uint64_t worst = (before > own->own[clock] ? before : own->own[clock]) - now;

		if (worst > atomic_load_explicit(&own->worst, memory_order_relaxed))
			atomic_store_explicit(&own->worst, worst, memory_order_relaxed);
		if (worst > atomic_load_explicit(&own->event_worst, memory_order_relaxed))
			atomic_store_explicit(&own->event_worst, worst, memory_order_relaxed);
	}
	while (before < now && !atomic_compare_exchange_weak(&own->watch->largest[clock].ns, &before, now))
		;
}

static void take_phase(struct watch_cpu *own)
{
	uint32_t phase = atomic_load(&own->watch->phase);

	if (phase == own->phase)
		return;
	close_window(own);
	own->phase = phase;
	own->phase_samples = 0;
	own->phase_windows = 0;
	if (phase % 2 == 0)
		return;
	/* what it read before is not this event's, and what is counted before it saw the event is not either */
	memset(own->own, 0, sizeof(own->own));
	atomic_store(&own->event_samples, atomic_load(&own->samples));
	atomic_store(&own->event_within, atomic_load(&own->within));
	atomic_store(&own->event_between, atomic_load(&own->between));
	atomic_store(&own->event_worst, 0);
	atomic_store(&own->event_phase, phase);
}

static void sample(struct watch_cpu *own)
{
	struct watch *watch = own->watch;
	const struct clocks *clocks = watch->clocks;
	struct window now = { .line = pages_look(watch->pages) };

	take_phase(own);
	now.phase = own->phase;
	for (enum probe_clock clock = PROBE_RAW; clock < PROBE_STEADY_CLOCKS; clock++) {
		uint64_t before = atomic_load_explicit(&watch->largest[clock].ns, memory_order_acquire), ns;

		if (clock == PROBE_RAW)
			now.before = clocks->tsc(clocks->context);
		ns = clocks->ns(clocks->context, clock, own->cpu);
		if (clock == PROBE_RAW) {
			now.ns = ns;
			now.after = clocks->tsc(clocks->context);
		}
		judge(own, clock, before, ns);
	}
	keep_step(own, now.before);
	own->began = true;
	own->last_tsc = now.before;
	add(&own->samples, 1);
	own->phase_samples++;
	atomic_store(&own->phase_progress[0], (uint64_t)own->phase << 32 | own->phase_samples);
	/* a window that was open while the page changed, or the TSC went back, is of no line */
	if (now.after >= now.before && pages_look(watch->pages) == now.line)
		keep_window(own, &now);
	if (own->phase_samples == WATCH_BURST)
		milestone(watch);
}

/* The kernel moves a thread away from a CPU that goes offline; until it can come back, nobody waits for it. */
static bool is_at_home(struct watch_cpu *own)
{
	cpu_set_t home;

	if (sched_getcpu() == (int)own->cpu) {
		atomic_store(&own->parked, false);
		return true;
	}
	CPU_ZERO(&home);
	CPU_SET(own->cpu, &home);
	if (sched_setaffinity(0, sizeof(home), &home) == 0 && sched_getcpu() == (int)own->cpu) {
		atomic_store(&own->parked, false);
		return true;
	}
	if (!atomic_exchange(&own->parked, true))
		milestone(own->watch);
	return false;
}

static void *run(void *argument)
{
	struct watch_cpu *own = argument;

	while (!atomic_load_explicit(&own->watch->stopped, memory_order_relaxed)) {
		if (!is_at_home(own)) {
			nanosleep(&(struct timespec){ .tv_nsec = PARKED_NS }, NULL);
			continue;
		}
		for (unsigned int i = 0; i < WATCH_BURST; i++)
			sample(own);
		rest(own->watch);
	}
	return NULL;
}

/* --- the coordinator's side --------------------------------------------------------------- */

void watch_open(struct watch *watch, const struct clocks *clocks, struct pages *pages)
{
	memset(watch, 0, sizeof(*watch));
	watch->clocks = clocks;
	watch->pages = pages;
}

void watch_close(struct watch *watch)
{
	atomic_store(&watch->stopped, true);
	watch_set_busy(watch, true);
	for (unsigned int i = 0; i < watch->threads; i++) {
		pthread_join(watch->cpus[i]->thread, NULL);
		pthread_mutex_destroy(&watch->cpus[i]->lock);
		free(watch->cpus[i]);
	}
	watch->threads = 0;
}

bool watch_start(struct watch *watch, unsigned int cpu)
{
	struct watch_cpu *own;
	pthread_attr_t attributes;
	cpu_set_t one;
	bool started;

	for (unsigned int i = 0; i < watch->threads; i++)
		if (watch->cpus[i]->cpu == cpu)
			return false;
	if (watch->threads == WATCH_CPUS || cpu >= CPU_SETSIZE)
		return false;
	own = aligned_alloc(_Alignof(struct watch_cpu), sizeof(*own));
	if (own == NULL)
		return false;
	memset(own, 0, sizeof(*own));
	own->watch = watch;
	own->cpu = cpu;
	pthread_mutex_init(&own->lock, NULL);
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_SIZE);
	started = pthread_attr_setaffinity_np(&attributes, sizeof(one), &one) == 0 &&
		  pthread_create(&own->thread, &attributes, run, own) == 0;
	pthread_attr_destroy(&attributes);
	if (started) {
		watch->cpus[watch->threads++] = own;
	} else {
		pthread_mutex_destroy(&own->lock);
		free(own);
	}
	return started;
}

unsigned int watch_running(const struct watch *watch)
{
	unsigned int running = 0;

	for (unsigned int i = 0; i < watch->threads; i++)
		running += !atomic_load(&watch->cpus[i]->parked);
	return running;
}

void watch_set_busy(struct watch *watch, bool busy)
{
	atomic_store(&watch->busy, busy);
	if (busy)
		futex_wake(&watch->busy, INT32_MAX);
}

uint32_t watch_next_phase(struct watch *watch, uint32_t step, bool fresh)
{
	if (fresh) /* a thread in the middle of a reading finds 0 there and puts its value */
		for (unsigned int clock = 0; clock < PROBE_STEADY_CLOCKS; clock++)
			atomic_store(&watch->largest[clock].ns, 0);
	return atomic_fetch_add(&watch->phase, step) + step;
}

static bool arrived(const struct watch *watch, uint32_t phase, unsigned int windows)
{
	uint64_t closed = 0;

	for (unsigned int i = 0; i < watch->threads; i++) {
		uint64_t samples = atomic_load(&watch->cpus[i]->phase_progress[0]);
		uint64_t progress = atomic_load(&watch->cpus[i]->phase_progress[1]);

		if ((uint32_t)(progress >> 32) == phase)
			closed += (uint32_t)progress;
		if (atomic_load(&watch->cpus[i]->parked))
			continue;
		if ((uint32_t)(samples >> 32) != phase || (uint32_t)samples < WATCH_BURST)
			return false;
	}
	return closed >= windows || watch_running(watch) == 0;
}

void watch_wait(struct watch *watch, uint32_t phase, unsigned int windows)
{
	for (;;) {
		uint32_t before = atomic_load(&watch->milestones);

		if (arrived(watch, phase, windows))
			return;
		futex_wait(&watch->milestones, before, NULL);
	}
}

/* --- windows ---------------------------------------------------------------------------------- */

/* Copies a thread's windows of a phase, in the order in which they were read. */
static size_t copy_windows(struct watch_cpu *own, uint32_t phase, struct window *windows)
{
	size_t count = 0;
	uint64_t first;

	pthread_mutex_lock(&own->lock);
	first = own->closed > WATCH_RING ? own->closed - WATCH_RING : 0;
	for (uint64_t i = first; i < own->closed; i++)
		if (own->ring[i % WATCH_RING].phase == phase)
			windows[count++] = own->ring[i % WATCH_RING];
	pthread_mutex_unlock(&own->lock);
	return count;
}

/* How many of a thread's windows there are before its longest pause, or the first time that its TSC went back. */
static size_t before_pause(const struct window *windows, size_t count)
{
	uint64_t longest = 0;
	size_t end = count;

	for (size_t i = 1; i < count; i++) {
		/* the pause, whichever of the two clocks counted it */
		int64_t ticks = (int64_t)(windows[i].before - windows[i - 1].after);
		int64_t ns = (int64_t)(windows[i].ns - windows[i - 1].ns);
		uint64_t pause = ticks > ns ? (uint64_t)ticks : ns > 0 ? (uint64_t)ns : 0;

		if (ticks < 0 || ns < 0)
			return i;
		if (pause > longest) {
			longest = pause;
			end = i;
		}
	}
	return longest > PAUSE_NS ? end : count;
}

static size_t gather(struct watch *watch, uint32_t phase, uint32_t line, bool paused, struct window *windows)
{
	struct window *all = malloc(((size_t)watch->threads + 1) * WATCH_RING * sizeof(*all));
	size_t count = 0;

	if (all == NULL)
		return 0;
	for (unsigned int i = 0; i < watch->threads; i++) {
		size_t kept = 0, new = copy_windows(watch->cpus[i], phase, all + count);

		if (paused)
			new = before_pause(all + count, new);
		for (size_t j = 0; j < new; j++)
			if (line == UINT32_MAX || all[count + j].line == line)
				all[count + kept++] = all[count + j];
		count += kept;
	}
	count = shift_thin(all, count);
	memcpy(windows, all, count * sizeof(*windows));
	free(all);
	return count;
}

size_t watch_windows(struct watch *watch, uint32_t phase, uint32_t line, struct window *windows)
{
	return gather(watch, phase, line, false, windows);
}

size_t watch_windows_before_pause(struct watch *watch, uint32_t phase, struct window *windows)
{
	return gather(watch, phase, UINT32_MAX, true, windows);
}

/* --- totals ---------------------------------------------------------------------------------- */

struct watch_totals watch_totals(const struct watch *watch)
{
	struct watch_totals totals = { .samples = 0 };

	for (unsigned int i = 0; i < watch->threads; i++) {
		const struct watch_cpu *cpu = watch->cpus[i];
		uint64_t worst = atomic_load(&cpu->worst);

		totals.samples += atomic_load(&cpu->samples);
		totals.within += atomic_load(&cpu->within);
		totals.between += atomic_load(&cpu->between);
		if (worst > totals.worst_ns)
			totals.worst_ns = worst;
	}
	return totals;
}

struct watch_totals watch_totals_since(const struct watch *watch, uint32_t phase)
{
	struct watch_totals totals = { .samples = 0 };

	for (unsigned int i = 0; i < watch->threads; i++) {
		const struct watch_cpu *cpu = watch->cpus[i];
		uint64_t worst = atomic_load(&cpu->event_worst);

		if (atomic_load(&cpu->event_phase) != phase)
			continue; /* its CPU was not there */
		totals.samples += atomic_load(&cpu->samples) - atomic_load(&cpu->event_samples);
		totals.within += atomic_load(&cpu->within) - atomic_load(&cpu->event_within);
		totals.between += atomic_load(&cpu->between) - atomic_load(&cpu->event_between);
		if (worst > totals.worst_ns)
			totals.worst_ns = worst;
	}
	return totals;
}

int64_t watch_step(const struct watch *watch)
{
	int64_t ahead = INT64_MAX, back = 0;

	for (unsigned int i = 0; i < watch->threads; i++) {
		const struct watch_cpu *cpu = watch->cpus[i];
		int64_t own_back = atomic_load(&cpu->step_back), own_ahead = atomic_load(&cpu->step_ahead);

		if (own_back > back)
			back = own_back;
		if (own_ahead < ahead && !atomic_load(&cpu->parked))
			ahead = own_ahead;
	}
	return back != 0 ? -back : ahead == INT64_MAX ? 0 : ahead;
}

void watch_clear_step(struct watch *watch)
{
	for (unsigned int i = 0; i < watch->threads; i++) {
		atomic_store(&watch->cpus[i]->step_ahead, 0);
		atomic_store(&watch->cpus[i]->step_back, 0);
	}
}
