/* SPDX-License-Identifier: MIT */
/*
 * P8: a guest that is a host, through pauses, live updates and snapshots: the clocks of its own guests, which it named
 * to its host, are the same functions of their counters from event to event where its own is, and go on from where they
 * were, by the rule, where it is not. No reading of any of them is of a line that is gone. Its generation moves exactly
 * when its line does, and each time it gets its interrupt.
 *
 * Guest: nested.elf. Its own line changes where time is frozen and the counter cannot be stopped (kvm-pvm), or the rate is another.
 */
#include "live.h"

#include "nested.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EVENTS 6
#define PAUSE_MS 20
#define RUN_MS 60
#define GENERATIONS 64

static char file[64];

struct nested {
	struct harness harness;
	const struct vmm_nested *guest; /* in its memory */
	/* by generation: what each page said; [VMM_NESTED_GUESTS] is its own */
	struct pvclock_line lines[GENERATIONS][VMM_NESTED_GUESTS + 1];
	uint64_t generations; /* so many are known */
	uint64_t last_ns[VMM_NESTED_GUESTS];
	uint64_t readings[VMM_NESTED_GUESTS], wrong, backwards, unstable;
};

static void take(void *ctx, unsigned int vcpu, const struct vmm_ring_entry *readings, size_t count)
{
	struct nested *nested = ctx;

	(void)vcpu;
	for (size_t i = 0; i < count; i++) {
		const struct vmm_ring_entry *reading = &readings[i];
		unsigned int number = reading->result - VMM_NESTED_READING;
		const struct pvclock_tsc_transform *transform;

		if (number >= VMM_NESTED_GUESTS)
			continue;
		transform = &nested->guest->transforms[number];
		nested->readings[number]++;
		nested->backwards += reading->ns < nested->last_ns[number];
		nested->last_ns[number] = reading->ns;
		nested->unstable += !(reading->flags & PVCLOCK_TSC_STABLE);
		nested->wrong += reading->version >= nested->generations ||
				 reading->ns != pvclock_line_ns(&nested->lines[reading->version][number],
								pvclock_tsc_to_guest(transform, (struct pvclock_host_tsc){ reading->tsc }).ticks);
	}
}

static bool page_line(const struct vmm_nested_clock *clock, struct pvclock_line *line)
{
	struct pvclock_snapshot snapshot;
	bool read = pvclock_page_read(&clock->page, &snapshot) == PVCLOCK_READ_OK;

	*line = snapshot.line;
	return read;
}

static bool same(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

static uint64_t reads(const struct nested *nested)
{
	return atomic_load(&nested->harness.shared->ring[0].reads);
}

/* After an event, with all that was read before it judged: what the pages say now, as of the generation they are of. */
static void learn(struct live *live, struct nested *nested, const char *name, unsigned int event)
{
	struct pvclock_line now[VMM_NESTED_GUESTS + 1];
	uint64_t last = nested->generations - 1, reached;
	struct pvclock_nested told;
	bool read = pvclock_nested_read(&nested->guest->table, &told) == PVCLOCK_READ_OK;

	for (unsigned int i = 0; i < 1000 && read && nested->guest->table.acknowledged != told.generation; i++)
		usleep(1000); /* the one that is not named: its host is told, and runs */
	for (unsigned int i = 0; i <= VMM_NESTED_GUESTS && read; i++)
		read = page_line(i == VMM_NESTED_GUESTS ? &nested->guest->own : &nested->guest->guests[i], &now[i]);
	if (!live_check(live, read && told.generation < GENERATIONS, "%s %u: the pages are there", name, event))
		return;
	if (told.generation == last) {
		bool all = true;

		for (unsigned int i = 0; i <= VMM_NESTED_GUESTS; i++)
			all = all && same(&nested->lines[last][i], &now[i]);
		live_check(live, all, "P8 %s %u: the same generation: the same functions, all five", name, event);
		return;
	}
	live_check(live, told.generation - last <= PVCLOCK_NESTED_CHANGES && told.refused == 0 && told.rewritten == VMM_NESTED_TOLD,
		   "P8 %s %u: generation %llu after %llu, %u rewritten, %u refused", name, event, (unsigned long long)told.generation,
		   (unsigned long long)last, told.rewritten, told.refused);
	for (reached = last + 1; reached <= told.generation; reached++) {
		const struct pvclock_line_change *change = &told.changes[reached % PVCLOCK_NESTED_CHANGES];
		struct pvclock_line *was = nested->lines[reached - 1], *is = nested->lines[reached];

		live_check(live, same(&change->old, &was[VMM_NESTED_GUESTS]), "P8 %s %u: it was told what its line was", name, event);
		is[VMM_NESTED_GUESTS] = change->next;
		for (unsigned int i = 0; i < VMM_NESTED_GUESTS; i++) {
			const struct pvclock_tsc_transform *transform = &nested->guest->transforms[i];
			uint64_t from = pvclock_tsc_to_guest(transform, (struct pvclock_host_tsc){ change->old_ticks }).ticks;
			uint64_t to = pvclock_tsc_to_guest(transform, (struct pvclock_host_tsc){ change->next_ticks }).ticks, apart;

			pvclock_line_follow(change, transform, &was[i], &is[i]);
			apart = pvclock_line_ns(&is[i], to) - pvclock_line_ns(&was[i], from);
			live_check(live, apart <= 1, "P8 %s %u: guest %u goes on %lld ns from where it was", name, event, i, (long long)apart);
		}
		live_note("%s %u: its line moved by %lld ticks", name, event, (long long)(change->next_ticks - change->old_ticks));
	}
	nested->generations = told.generation + 1;
	for (unsigned int i = 0; i <= VMM_NESTED_GUESTS; i++)
		live_check(live, same(&nested->lines[told.generation][i], &now[i]), "P8 %s %u: page %u is what the rule says", name, event, i);
}

static bool command(struct nested *nested, const char *words)
{
	json_t *reply = harness_command(&nested->harness, words, WATCH_COMMAND_MS);

	json_decref(reply);
	return reply != NULL;
}

static bool paused(struct nested *nested, const struct harness_options *options)
{
	(void)options;
	return command(nested, "pause") && usleep(PAUSE_MS * 1000) == 0 && command(nested, "resume");
}

static bool updated(struct nested *nested, const struct harness_options *options)
{
	(void)options;
	return command(nested, "update");
}

static bool restored(struct nested *nested, const struct harness_options *options)
{
	return harness_restore(&nested->harness, options, file) == 0;
}

/* `frozen`: where this host cannot stop a counter, each event brings another line; else none does. */
static void run(struct live *live, const char *name, bool (*once)(struct nested *nested, const struct harness_options *options), const char *policy,
		bool frozen)
{
	char *payload = harness_path("nested.elf");
	struct harness_options options = { .vmm = live->vmm, .payload = payload, .mode = "own", .vcpus = 1, .extra = { "--policy", policy } };
	struct nested *nested = calloc(1, sizeof(*nested));
	uint64_t before, moved, late;
	bool lives;

	lives = live_check(live, harness_start(&nested->harness, &options) == 0 && harness_wait_started(&nested->harness, WATCH_START_MS) == 0,
			   "%s: the guest starts %s", name, nested->harness.error);
	if (lives) {
		nested->guest = (const struct vmm_nested *)(const void *)((const char *)nested->harness.memory + nested->harness.shared->pages_gpa);
		for (unsigned int i = 0; i <= VMM_NESTED_GUESTS; i++)
			page_line(i == VMM_NESTED_GUESTS ? &nested->guest->own : &nested->guest->guests[i], &nested->lines[0][i]);
		nested->generations = 1;
		live_check(live, nested->guest->table.magic == PVCLOCK_NESTED_MAGIC && pvclock_nested_generation(&nested->guest->table) == 0,
			   "%s: the host writes there", name);
		nested->harness.sink = take;
		nested->harness.sink_ctx = nested;
	}
	for (unsigned int i = 1; lives && i <= EVENTS; i++) {
		harness_run(&nested->harness, RUN_MS);
		/* what is read in the event is judged when the lines are known: the ring keeps it */
		nested->harness.sink = NULL;
		harness_discard(&nested->harness);
		before = reads(nested);
		lives = live_check(live, once(nested, &options), "%s %u: the guest lived through it %s", name, i, nested->harness.error);
		if (!lives)
			break;
		learn(live, nested, name, i);
		nested->harness.sink = take;
		/* it has taken each before the next is given: two that wait are one */
		for (int waited = 0; waited < 5000 && (reads(nested) < before + 1000 || atomic_load(&nested->guest->interrupts) < nested->generations - 1);
		     waited += 10)
			harness_run(&nested->harness, 10);
	}
	if (lives) {
		harness_run(&nested->harness, RUN_MS);
		moved = nested->generations - 1;
		late = atomic_load(&nested->guest->late);
		if (!frozen)
			live_check(live, moved == 0, "P8 %s: its line is one function through all events", name);
		else
			live_note("%s: %llu other lines in %u events", name, (unsigned long long)moved, EVENTS);
		for (unsigned int i = 0; i < VMM_NESTED_GUESTS; i++)
			live_check(live, nested->readings[i] > 1000, "P8 %s: %llu readings of guest %u", name, (unsigned long long)nested->readings[i], i);
		live_check(live, nested->wrong == 0, "P8 %s: %llu readings of a line that was not in force, none", name, (unsigned long long)nested->wrong);
		live_check(live, nested->backwards == 0, "P2 %s: %llu steps backwards, none", name, (unsigned long long)nested->backwards);
		live_check(live, nested->unstable == 0, "P4 %s: %llu readings were not stable, none", name, (unsigned long long)nested->unstable);
		live_check(live, atomic_load(&nested->guest->interrupts) == moved, "P8 %s: %llu interrupts for %llu lines", name,
			   (unsigned long long)atomic_load(&nested->guest->interrupts), (unsigned long long)moved);
		live_note("%s: the one that is not named would have been read %llu times by a line that is gone", name, (unsigned long long)late);
	}
	harness_stop(&nested->harness);
	free(nested);
	free(payload);
}

int main(void)
{
	struct live live;

	live_begin(&live);
	snprintf(file, sizeof(file), "%s/pvclock-p8-%d", live_scratch(), (int)getpid());
	run(&live, "pause", paused, "pause=advance", false);
	run(&live, "pause, freezing", paused, "pause=freeze", true);
	run(&live, "live update", updated, "pause=advance", false);
	run(&live, "snapshot, freezing", restored, "snapshot=freeze", true);
	unlink(file);
	return live_end(&live);
}
