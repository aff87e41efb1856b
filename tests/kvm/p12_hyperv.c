/* SPDX-License-Identifier: MIT */
/*
 * P12: Hyper-V's TSC page, its counter and the pvclock page of one guest, through pauses, live updates and snapshots: page and
 * counter are one function, in every reading that was logged (the counter's at some tick between two: tests/host/hyperv_life_test.c
 * knows which); within docs/hyperv.md's bounds of the pvclock page at the same tick; on no vCPU a step back. A page is left alone
 * unless the clock became another function of the TSC; then the guest is told, and has no page until it acknowledges. KVM's own
 * test (hyperv_clock) asks that page and counter are 10 ms and 1 % apart at most: that follows.
 *
 * Guest: hyperv.elf on 2 vCPUs. A host that ignores TSC offsets stops a clock by another line; elsewhere a freeze changes
 * nothing, and nobody is told.
 */
#include "live.h"

#include <pvclock/hyperv.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define VCPUS 2u
#define EVENTS 40u
#define READINGS 50u    /* of each vCPU after an event */
#define TICK_MAX (1ull << 57) /* of a counter whose tick is not known: less than 0.4 ns */

typedef unsigned __int128 u128;
typedef __int128 s128;

struct run {
	struct harness harness;
	struct {
		struct pvclock_hyperv_line function;
		uint32_t sequence;
		uint64_t tick, time; /* of the page's last reading */
		uint64_t from;       /* the counter's lower bound, and whose it is */
		uint32_t from_sequence;
	} vcpu[VCPUS];
	uint64_t pages, counters, near, otherwise, outside, early, functions, torn;
	struct pvclock_hyperv_line seen[4096]; /* by sequence */
};

static uint64_t reference_time(const struct pvclock_hyperv_line *hyperv, uint64_t tick)
{
	return (uint64_t)((u128)tick * hyperv->scale >> 64) + (uint64_t)hyperv->offset;
}

/* -1 - e < time - ns / 100 < 1.02 + e, e = tick / 2^65 */
static bool within(uint64_t time, uint64_t ns, uint64_t tick, bool low, bool high)
{
	s128 apart = ((s128)time * 100 - (s128)ns) * ((s128)1 << 65), e = (s128)100 * tick;

	return (!low || apart > -((s128)100 << 65) - e) && (!high || apart < ((s128)102 << 65) + e);
}

static void take_one(struct run *run, unsigned int i, const struct vmm_ring_entry *entry)
{
	struct pvclock_hyperv_line function;

	switch (entry->result) {
	case VMM_HYPERV_FUNCTION:
		function = (struct pvclock_hyperv_line){ entry->tsc, (int64_t)entry->ns };
		if (entry->version < 4096 && run->seen[entry->version].scale == 0)
			run->functions++;
		else if (entry->version < 4096 && (run->seen[entry->version].scale != function.scale ||
						   run->seen[entry->version].offset != function.offset))
			run->torn++; /* one sequence, two functions */
		if (entry->version < 4096)
			run->seen[entry->version] = function;
		run->vcpu[i].function = function;
		run->vcpu[i].sequence = entry->version;
		break;
	case VMM_HYPERV_PAGE:
		if (run->vcpu[i].sequence != entry->version)
			break; /* an entry was dropped */
		run->pages++;
		run->otherwise += entry->ns != reference_time(&run->vcpu[i].function, entry->tsc);
		run->vcpu[i].tick = entry->tsc;
		run->vcpu[i].time = entry->ns;
		break;
	case VMM_HYPERV_BESIDE:
		if (run->vcpu[i].tick == entry->tsc)
			run->outside += !within(run->vcpu[i].time, entry->ns, entry->tsc, true, true);
		break;
	case VMM_HYPERV_FROM:
		run->vcpu[i].from = entry->tsc;
		run->vcpu[i].from_sequence = entry->version;
		if (entry->version == run->vcpu[i].sequence)
			run->early += run->vcpu[i].time > entry->ns ||
				      entry->ns < reference_time(&run->vcpu[i].function, entry->tsc);
		break;
	case VMM_HYPERV_TO:
		if (entry->version != run->vcpu[i].sequence || run->vcpu[i].from_sequence != entry->version)
			break;
		run->counters++;
		run->otherwise += entry->ns > reference_time(&run->vcpu[i].function, entry->tsc);
		break;
	case VMM_HYPERV_NEAR: /* .tsc is the counter */
		run->near++;
		run->outside += !within(entry->tsc, entry->ns, TICK_MAX, true, false) ||
				!within(entry->tsc, entry->ns + entry->version, TICK_MAX, false, true);
		break;
	default:
		break;
	}
}

static void take(void *ctx, unsigned int vcpu, const struct vmm_ring_entry *entries, size_t count)
{
	for (size_t i = 0; i < count; i++)
		take_one(ctx, vcpu, &entries[i]);
}

static bool command(struct run *run, const char *text)
{
	json_t *reply = harness_command(&run->harness, text, WATCH_COMMAND_MS);

	json_decref(reply);
	return reply != NULL;
}

static bool goes_on(struct run *run)
{
	return harness_wait_readings(&run->harness, READINGS, WATCH_READINGS_MS) == 0;
}

static struct pvclock_hyperv_page page_of(const struct run *run)
{
	struct pvclock_hyperv_page page;

	memcpy(&page, (const uint8_t *)run->harness.memory + run->harness.shared->pages_gpa, sizeof(page));
	return page;
}

static bool same_page(const struct pvclock_hyperv_page *a, const struct pvclock_hyperv_page *b)
{
	return a->sequence == b->sequence && a->scale == b->scale && a->offset == b->offset;
}

static bool pause_once(struct run *run, unsigned int i)
{
	return command(run, "pause") && harness_run(&run->harness, (int)(1 + i % 5)) == 0 && command(run, "resume") && goes_on(run);
}

/* Pauses and live updates, which all count. */
static bool happens(struct run *run, unsigned int events)
{
	for (unsigned int i = 0; i < events; i++)
		if (!(i % 4 == 3 ? command(run, "update") && goes_on(run) : pause_once(run, i)))
			return false;
	return true;
}

static bool start(struct live *live, struct run *run, const struct harness_options *options)
{
	bool started = harness_start(&run->harness, options) == 0;

	if (started) {
		run->harness.sink = take;
		run->harness.sink_ctx = run;
		started = harness_wait_started(&run->harness, WATCH_START_MS) == 0;
	}
	return live_check(live, started, "the guest starts: %s", started ? "yes" : run->harness.error);
}

static uint64_t sum(const struct run *run, bool backwards)
{
	uint64_t all = 0;

	for (unsigned int i = 0; i < VCPUS; i++) {
		struct vmm_ring *ring = &run->harness.shared->ring[i];

		all += atomic_load(backwards ? &ring->backwards_cross : &ring->unstable);
	}
	return all;
}

static uint64_t sum_failed(const struct run *run)
{
	uint64_t all = 0;

	for (unsigned int i = 0; i < VCPUS; i++)
		all += atomic_load(&run->harness.shared->ring[i].failed);
	return all;
}

static void judge(struct live *live, const struct run *run, const char *name)
{
	live_check(live, run->pages > EVENTS && run->counters > EVENTS && run->near > EVENTS,
		   "P12 %s: %llu readings of the page and %llu of the counter", name,
		   (unsigned long long)run->pages, (unsigned long long)run->counters);
	live_check(live, run->otherwise == 0, "P12 %s: other than by the page's function: %llu", name,
		   (unsigned long long)run->otherwise);
	live_check(live, run->outside == 0, "P12 %s: outside the bounds of the pvclock page: %llu", name,
		   (unsigned long long)run->outside);
	live_check(live, run->early == 0, "P12 %s: a counter behind the page that was read before: %llu", name,
		   (unsigned long long)run->early);
	live_check(live, run->torn == 0, "P12 %s: two functions under one sequence: %llu", name, (unsigned long long)run->torn);
	live_check(live, sum(run, true) == 0, "P2 %s: below what another vCPU had read before: %llu", name,
		   (unsigned long long)sum(run, true));
	live_note("%s: %llu functions; %llu readings without a page", name, (unsigned long long)run->functions,
		  (unsigned long long)sum(run, false));
}

/* 10^9 / slope, to nearest. */
static uint64_t hz_of(const json_t *line)
{
	uint64_t mul = (uint64_t)harness_number(line, "mul", 0);

	return mul ? (uint64_t)((((u128)1000000000 << (33 - harness_number(line, "shift", 0))) / mul + 1) / 2) : 0;
}

static void keeps(struct live *live, const char *path, const char *file)
{
	static struct run run;
	const struct harness_options options = { .vmm = live->vmm, .payload = path, .mode = "own", .vcpus = VCPUS,
						.extra = { "--hyperv" } };
	const struct harness_options next = { .vmm = live->vmm, .mode = "own", .vcpus = VCPUS,
					      .extra = { "--hyperv", "--same-boot", "--policy", "snapshot=advance" } };
	struct pvclock_hyperv_page before, after;
	json_t *status;
	uint64_t hz;
	bool lives;

	memset(&run, 0, sizeof(run));
	if (start(live, &run, &options)) {
		before = page_of(&run);
		lives = goes_on(&run) && happens(&run, live_count(EVENTS, 10));
		live_check(live, lives, "the guest lived through pauses and live updates: %s", lives ? "yes" : run.harness.error);
		after = page_of(&run);
		live_check(live, same_page(&before, &after), "P12 counted blackouts: the page is the same, bit for bit");
		for (unsigned int i = 0; lives && i < 2; i++)
			lives = harness_restore(&run.harness, &next, file) == 0 && goes_on(&run) && happens(&run, 2);
		live_check(live, lives, "the guest lived through two snapshots: %s", lives ? "yes" : run.harness.error);
		status = harness_command(&run.harness, "status", WATCH_COMMAND_MS);
		hz = hz_of(json_object_get(status, "line"));
		live_check(live, hz != 0 && hz == run.harness.shared->argument[4],
			   "the guest was told a TSC of %llu Hz, the line's %llu",
			   (unsigned long long)run.harness.shared->argument[4], (unsigned long long)hz);
		json_decref(status);
		harness_drain(&run.harness);
		judge(live, &run, "advancing");
	}
	harness_stop(&run.harness);
}

static bool wait_argument(struct run *run, unsigned int i, uint64_t at_least)
{
	int64_t limit = harness_now_ms() + WATCH_READINGS_MS;

	while (atomic_load((_Atomic uint64_t *)&run->harness.shared->argument[i]) < at_least) {
		if (harness_run(&run->harness, 1))
			return false;
		if (harness_now_ms() > limit) {
			snprintf(run->harness.error, sizeof(run->harness.error), "%s: %llu of %llu times.",
				 i == 1 ? "told" : i == 2 ? "acknowledged" : "off",
				 (unsigned long long)run->harness.shared->argument[i], (unsigned long long)at_least);
			return false;
		}
	}
	return true;
}

static void tells(struct live *live, const char *path)
{
	static struct run run;
	const struct harness_options options = { .vmm = live->vmm, .payload = path, .mode = "own", .vcpus = VCPUS,
						 .extra = { "--hyperv", "--policy", "pause=freeze" } };
	struct pvclock_hyperv_page before, after;
	bool lives, moves, zero = true;
	uint64_t *argument;

	memset(&run, 0, sizeof(run));
	if (!start(live, &run, &options)) {
		harness_stop(&run.harness);
		return;
	}
	argument = run.harness.shared->argument;
	/* without being asked to tell: the page follows at once */
	before = page_of(&run);
	lives = goes_on(&run) && pause_once(&run, 4);
	after = page_of(&run);
	moves = !same_page(&before, &after);
	live_note("a freeze %s",
		  moves ? "is another line on this host" : "leaves the line alone on this host: nobody is to be told");
	live_check(live, lives && after.sequence == before.sequence + moves,
		   "a page that nobody has to acknowledge follows at once");

	/* a guest that does not acknowledge: no clock, and no other word has changed */
	argument[0] = VMM_HYPERV_TELL;
	lives = lives && goes_on(&run);
	before = page_of(&run);
	for (unsigned int i = 1; lives && i <= 2; i++)
		lives = pause_once(&run, 3) && (!moves || wait_argument(&run, 1, i));
	lives = lives && command(&run, "update") && goes_on(&run);
	after = page_of(&run);
	live_check(live, lives && after.sequence == (moves ? 0 : before.sequence) && after.scale == before.scale &&
		   after.offset == before.offset,
		   "P12 unacknowledged: the page's scale and offset are untouched, its sequence is %u", after.sequence);
	live_check(live, argument[2] == 0, "P12 unacknowledged: nothing was acknowledged");

	/* one that does */
	argument[0] |= VMM_HYPERV_ACKNOWLEDGE;
	lives = lives && (!moves || wait_argument(&run, 2, 1)) && goes_on(&run);
	for (unsigned int i = 0; lives && i < live_count(20, 5); i++) {
		lives = pause_once(&run, i) && (!moves || (wait_argument(&run, 1, i + 3) && wait_argument(&run, 2, i + 2)));
	}
	lives = lives && goes_on(&run) && goes_on(&run);
	after = page_of(&run);
	live_check(live, lives && after.sequence == (moves ? 2 + argument[2] : 1),
		   "P12 acknowledged: told %llu times, acknowledged %llu times, the page is there (%u): %s",
		   (unsigned long long)argument[1], (unsigned long long)argument[2], after.sequence,
		   lives ? "yes" : run.harness.error);
	live_check(live, sum_failed(&run) == 0, "P12 acknowledged: there was something to, each time");
	live_check(live, (argument[1] != 0) == moves, "P12: it is told where the function changed, and not where it did not");

	/* and one that wants no page any more */
	argument[0] |= VMM_HYPERV_OFF;
	lives = lives && wait_argument(&run, 3, 1) && pause_once(&run, 3) && command(&run, "update") && goes_on(&run);
	for (unsigned int i = 0; i < PVCLOCK_HYPERV_PAGE_SIZE; i++)
		zero = zero && ((const uint8_t *)run.harness.memory)[run.harness.shared->pages_gpa + i] == 0;
	live_check(live, lives && zero, "P12 disabled: the page is all 0, and stays so");
	harness_drain(&run.harness);
	judge(live, &run, "freezing");
	harness_stop(&run.harness);
}

int main(void)
{
	struct live live;
	char file[64], *path;

	live_begin(&live);
	path = harness_path("hyperv.elf");
	snprintf(file, sizeof(file), "%s/pvclock-p12-%d", live_scratch(), (int)getpid());
	keeps(&live, path, file);
	tells(&live, path);
	unlink(file);
	free(path);
	return live_end(&live);
}
