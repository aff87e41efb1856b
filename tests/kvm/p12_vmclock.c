/* SPDX-License-Identifier: MIT */
/*
 * P12 on a real KVM: VMClock's page and the clock's page are one state, and VMClock's time is the host's, through pauses, live
 * updates, a snapshot and a migration, in own and in steer mode.
 *
 * Guest: vmclock.elf on 2 vCPUs reads both pages at one tick and logs both. Host: reads its own time of day whenever it takes what
 * was logged, a few ms later at most. Judged is each reading:
 * - agreement: since the first reading on that page VMClock has gone (1 + f) times as far as system time, to the ns that floors
 *   take, and no further apart from it than the page says. f: the host's correction of its clock, asked before and after;
 * - truth: it is the host's time of day at that tick, to the page's own error, and to what the two brackets take.
 * And after each event the marker and the generation: have they moved, and should they.
 */
#include "live.h"

#include <pvclock/guest.h>
#include <pvclock/vmclock.h>

#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000ull
#define EVENTS 20
#define PAUSE_MS 3
#define BRACKETS 4
#define READ_NS 1000 /* what the page's own reading of the host's clock takes at most: of an unsynchronized host it does not tell */
#define FLOORS_NS 3
#define FOREIGN UINT64_MAX

/* The host's time of day at a tick of its own TSC. */
struct instant {
	uint64_t tsc, ns, error_ns;
};

/* What a vCPU has read on one page. */
struct seen {
	uint32_t sequence;
	bool page, first;        /* its errors are known; a reading is */
	uint64_t from_tsc, from_ns, max_error, period_error;
	uint8_t shift;
	struct vmm_ring_entry clock, time; /* the first */
	struct vmm_ring_entry last_clock;
};

struct judgement {
	struct harness harness;
	struct pvclock_line line;
	uint64_t tsc_offset;
	clockid_t host_clock;
	long double f;
	bool f_known;
	struct instant now;
	struct seen seen[VMM_VCPUS_MAX];
	uint64_t pages, readings, worst_ns, worst_apart, said, beyond_said, untrue, parted, unpaired;
	long double worst_floor;
	uint64_t marker, generation; /* as a guest read them last */
	uint64_t sequences_odd;
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * NS + (uint64_t)ts.tv_nsec;
}

/* ns of so many ticks, by the line's slope. */
static uint64_t ticks_ns(const struct judgement *judgement, uint64_t ticks)
{
	struct pvclock_line line = { .mul = judgement->line.mul, .shift = judgement->line.shift };

	return pvclock_line_ns(&line, ticks);
}

static void look_at_host(struct judgement *judgement)
{
	uint64_t narrowest = UINT64_MAX;

	for (int i = 0; i < BRACKETS; i++) {
		uint64_t before = pvclock_read_tsc().ticks, ns = clock_ns(judgement->host_clock);
		uint64_t width = pvclock_read_tsc().ticks - before;

		if (width >= narrowest)
			continue;
		narrowest = width;
		judgement->now = (struct instant){ before + width / 2, ns, ticks_ns(judgement, width) / 2 + 2 };
	}
}

static uint64_t apart(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

/* The error that a page's ticks add up to, ns rounded up. */
static uint64_t error_of(const struct seen *seen, uint64_t ticks)
{
	return (uint64_t)(((unsigned __int128)ticks * seen->period_error >> seen->shift) * NS >> 64) + 1;
}

static void judge_truth(struct judgement *judgement, const struct seen *seen, const struct vmm_ring_entry *time)
{
	const struct instant *now = &judgement->now;
	uint64_t tick = time->tsc - judgement->tsc_offset, age = ticks_ns(judgement, apart(now->tsc, tick)), off;
	uint64_t corrected = (uint64_t)((long double)age * (1 + judgement->f));
	uint64_t truth = tick > now->tsc ? now->ns + corrected : now->ns - corrected;

	off = apart(time->ns, truth);
	if (off > judgement->worst_ns)
		judgement->worst_ns = off;
	if (seen->max_error != UINT64_MAX) {
		judgement->said++;
		judgement->beyond_said += off > seen->max_error + error_of(seen, apart(time->tsc, seen->from_tsc)) + now->error_ns;
	}
	if (judgement->f_known && off > READ_NS + now->error_ns)
		judgement->untrue++;
}

static void judge_agreement(struct judgement *judgement, const struct seen *seen, const struct vmm_ring_entry *clock,
			    const struct vmm_ring_entry *time)
{
	uint64_t system = clock->ns - seen->clock.ns, passed = time->ns - seen->time.ns;
	long double off = (long double)passed - (long double)system * (1 + judgement->f);

	if (off < 0)
		off = -off;
	if (judgement->f_known && off > judgement->worst_floor)
		judgement->worst_floor = off;
	if (judgement->f_known && off > FLOORS_NS)
		judgement->parted++;
	if (apart(passed, system) > judgement->worst_apart)
		judgement->worst_apart = apart(passed, system);
	if (apart(passed, system) > error_of(seen, time->tsc - seen->time.tsc) + FLOORS_NS)
		judgement->parted++;
}

static void take_entry(struct judgement *judgement, struct seen *seen, const struct vmm_ring_entry *entry)
{
	if (entry->result != 0 && entry->version & 1)
		judgement->sequences_odd++;
	switch (entry->result) {
	case VMM_VMCLOCK_FROM:
		*seen = (struct seen){ .sequence = entry->version, .from_tsc = entry->tsc, .from_ns = entry->ns };
		judgement->pages++;
		return;
	case VMM_VMCLOCK_MARKS:
		judgement->marker = entry->tsc;
		judgement->generation = entry->ns;
		return;
	case VMM_VMCLOCK_ERRORS:
		seen->page = seen->sequence == entry->version;
		seen->shift = entry->flags;
		seen->period_error = entry->tsc;
		seen->max_error = entry->ns;
		return;
	case VMM_VMCLOCK_TIME:
		break;
	default:
		seen->last_clock = *entry;
		return;
	}
	/* a full ring drops what it has no room for: half a pair is none */
	if (!seen->page || entry->version != seen->sequence || seen->last_clock.tsc != entry->tsc) {
		judgement->unpaired++;
		return;
	}
	judgement->readings++;
	if (!seen->first) {
		seen->clock = seen->last_clock;
		seen->time = *entry;
		seen->first = true;
	}
	judge_truth(judgement, seen, entry);
	judge_agreement(judgement, seen, &seen->last_clock, entry);
}

static void take(void *ctx, unsigned int vcpu, const struct vmm_ring_entry *entries, size_t count)
{
	struct judgement *judgement = ctx;

	look_at_host(judgement);
	for (size_t i = 0; i < count; i++)
		take_entry(judgement, &judgement->seen[vcpu], &entries[i]);
}

/* --- the guest and its events ------------------------------------------------------------------------ */

/* Of a guest whose ring is empty: by what the next readings are judged. */
static bool ask(struct judgement *judgement)
{
	json_t *status = harness_command(&judgement->harness, "status", WATCH_COMMAND_MS);
	const json_t *line = json_object_get(status, "line");
	bool known = json_is_object(line);

	if (known) {
		judgement->line.mul = (uint32_t)harness_number(line, "mul", 0);
		judgement->line.shift = (int8_t)harness_number(line, "shift", 0);
		judgement->tsc_offset = (uint64_t)harness_number(status, "tsc_offset", 0);
	}
	json_decref(status);
	return known;
}

static bool command(struct judgement *judgement, const char *text)
{
	json_t *reply = harness_command(&judgement->harness, text, WATCH_COMMAND_MS);

	json_decref(reply);
	return reply != NULL;
}

/* The host's correction, where it is not under way. */
static void ask_discipline(struct judgement *judgement, struct timex *status)
{
	*status = (struct timex){ .modes = 0 };
	adjtimex(status);
	judgement->f = (long double)status->freq / 65536 / 1000000 + ((long double)status->tick - 10000) / 10000;
}

static bool page_is(const struct judgement *judgement, struct pvclock_vmclock *clock)
{
	return pvclock_vmclock_read((const uint8_t *)judgement->harness.memory + VMM_VMCLOCK_GPA, clock) == PVCLOCK_READ_OK;
}

/*
 * What an event has to do to marker and generation, and that the guest has seen it. `moves`: FOREIGN: whatever the counter's offset
 * did.
 */
static bool check_marks(struct live *live, struct judgement *judgement, const char *what, const struct pvclock_vmclock *before,
			uint64_t offset_before,
			uint64_t moves, uint64_t loaded)
{
	struct pvclock_vmclock now;
	bool fine;

	harness_drain(&judgement->harness);
	if (!ask(judgement) || !page_is(judgement, &now) || harness_wait_readings(&judgement->harness, 8, WATCH_READINGS_MS))
		return live_check(live, false, "%s: the guest goes on: %s", what, judgement->harness.error);
	if (moves == FOREIGN)
		moves = judgement->tsc_offset != offset_before;
	fine = now.marker - before->marker == moves && now.generation - before->generation == loaded &&
		judgement->marker == now.marker &&
	       judgement->generation == now.generation;
	if (!fine)
		live_check(live, false,
			   "%s: the marker moved by %llu, not %llu, the generation by %llu, not %llu; the guest saw %llu and %llu",
			   what, (unsigned long long)(now.marker - before->marker), (unsigned long long)moves,
			   (unsigned long long)(now.generation - before->generation), (unsigned long long)loaded,
			   (unsigned long long)judgement->marker, (unsigned long long)judgement->generation);
	return fine;
}

static bool pause_once(struct judgement *judgement)
{
	return command(judgement, "pause") && harness_run(&judgement->harness, PAUSE_MS) == 0 && command(judgement, "resume");
}

static bool events(struct live *live, struct judgement *judgement, const char *name)
{
	unsigned int count = live_count(EVENTS, 4);
	bool lives = true;

	for (unsigned int i = 0; lives && i < 2 * count; i++) {
		uint64_t offset = judgement->tsc_offset;
		struct pvclock_vmclock before;

		lives = page_is(judgement, &before);
		if (lives && !(i < count ? pause_once(judgement) : command(judgement, "update")))
			return live_check(live, false, "%s: event %u: %s", name, i + 1, judgement->harness.error);
		lives = lives && check_marks(live, judgement, name, &before, offset, FOREIGN, 0);
	}
	return live_check(live, lives,
			  "P12 %s: %u pauses and %u live updates move the marker when they change the counter, and else not", name,
			  count, count);
}

static bool restored(struct live *live, struct judgement *judgement, const struct harness_options *options, const char *as,
		     uint64_t loaded)
{
	struct harness_options from = *options;
	struct pvclock_vmclock before;
	char path[256], what[64];
	size_t count = 0;
	bool came;

	snprintf(path, sizeof(path), "%s/pvclock-vmclock-%d", live_scratch(), (int)getpid());
	snprintf(what, sizeof(what), "after a %s", as);
	while (from.extra[count])
		count++;
	from.extra[count] = "--as";
	from.extra[count + 1] = as;
	came = page_is(judgement, &before) && harness_restore(&judgement->harness, &from, path) == 0;
	unlink(path);
	if (!came)
		return live_check(live, false, "%s: %s", what, judgement->harness.error);
	return live_check(live, check_marks(live, judgement, what, &before, judgement->tsc_offset, 1, loaded),
			  "P12 %s the marker has moved, and the generation %s", what, loaded ? "has, too" : "has not");
}

static bool begin(struct live *live, struct judgement *judgement, const struct harness_options *options)
{
	bool own = strcmp(options->mode, "own") == 0;
	struct pvclock_vmclock clock;

	if (harness_start(&judgement->harness, options) == 0) {
		judgement->harness.sink = NULL;
		/* where the kernel publishes, the line is learnt at a pause */
		if (harness_wait_started(&judgement->harness, WATCH_START_MS) == 0 && (own || pause_once(judgement))) {
			harness_discard(&judgement->harness);
			memset(judgement->seen, 0, sizeof(judgement->seen));
			/* pages are logged when they are new: a pause makes one */
			if (page_is(judgement, &clock) && ask(judgement)) {
				judgement->host_clock = clock.time_type == PVCLOCK_VMCLOCK_TAI ? CLOCK_TAI : CLOCK_REALTIME;
				judgement->harness.sink = take;
				judgement->harness.sink_ctx = judgement;
				return live_check(live, clock.counter_id == PVCLOCK_VMCLOCK_COUNTER_TSC &&
						  clock.status != PVCLOCK_VMCLOCK_UNRELIABLE,
						  "the page has a counter and a time: %s, status %u",
						  clock.time_type == PVCLOCK_VMCLOCK_TAI ? "TAI" : "UTC",
						  clock.status);
			}
		}
	}
	return live_check(live, false, "the guest starts, and finds a page: %s", judgement->harness.error);
}

static void conclude(struct live *live, struct judgement *judgement, const char *name)
{
	live_note("%s: %llu readings on %llu pages; VMClock is at most %llu ns from the host's clock, and %.2Lf ns from (1 + f) of "
		  "system time, which it leaves by up to %llu ns; %llu half pairs", name, (unsigned long long)judgement->readings,
		  (unsigned long long)judgement->pages,
		  (unsigned long long)judgement->worst_ns, judgement->worst_floor, (unsigned long long)judgement->worst_apart,
		  (unsigned long long)judgement->unpaired);
	live_check(live, judgement->readings > 1000 && judgement->pages > EVENTS / 4, "P12 %s: enough was read", name);
	live_check(live, judgement->parted == 0, "P12 %s: the two pages are one state at each of %llu readings: %llu are not%s",
		   name,
		   (unsigned long long)judgement->readings, (unsigned long long)judgement->parted,
		   judgement->f_known ? "" : " (as far as the page's own error goes: the host's clock is being moved)");
	live_check(live, judgement->beyond_said == 0,
		   "P12 %s: VMClock is the host's time within its own error: %llu of the %llu readings that had one are not", name,
		   (unsigned long long)judgement->beyond_said, (unsigned long long)judgement->said);
	live_check(live, judgement->untrue == 0, "P12 %s: and within %u ns%s: %llu are not", name, READ_NS,
		   judgement->f_known ? "" : " (not asked: the host's clock is being moved)",
		   (unsigned long long)judgement->untrue);
	live_check(live, judgement->sequences_odd == 0, "P12 %s: no page was read that was being written", name);
	for (unsigned int i = 0; i < judgement->harness.vcpus; i++) {
		uint64_t failed = atomic_load(&judgement->harness.shared->ring[i].failed);

		live_check(live, failed == 0, "P12 %s: vCPU %u had every reading: %llu not", name, i, (unsigned long long)failed);
	}
}

static void keeps(struct live *live, const char *name, const char *mode, const char *policy)
{
	struct judgement *judgement = calloc(1, sizeof(*judgement));
	char *path = harness_path("vmclock.elf");
	const struct harness_options options = { .vmm = live->vmm, .payload = path, .mode = mode, .vcpus = 2,
						 .extra = { "--vmclock", policy ? "--policy" : NULL, policy } };
	const struct harness_options again = { .vmm = live->vmm, .mode = mode, .vcpus = 2, .extra = { "--vmclock" } };
	struct timex first, last;

	if (!judgement || !path)
		exit(1);
	ask_discipline(judgement, &first);
	/* a daemon that moves the clock by its frequency does it in steps: what is asked for at the end has to be what was */
	judgement->f_known = first.offset == 0;
	if (begin(live, judgement, &options) && events(live, judgement, name) && restored(live, judgement, &again, "snapshot", 1) &&
	    restored(live, judgement, &again, "migration", 0) && harness_run(&judgement->harness, 2500) == 0) {
		ask_discipline(judgement, &last);
		if (last.freq != first.freq || last.tick != first.tick) {
			judgement->f_known = false;
			judgement->untrue = 0;
		}
		conclude(live, judgement, name);
	}
	harness_stop(&judgement->harness);
	if (harness_processes(&judgement->harness))
		live_check(live, false, "%s: nothing is left of the guest", name);
	free(judgement);
	free(path);
}

int main(void)
{
	struct live live;

	live_begin(&live);
	keeps(&live, "own", "own", NULL);
	keeps(&live, "own, freezing", "own", "pause=freeze,live-update=freeze");
	keeps(&live, "steer", "steer", NULL);
	return live_end(&live);
}
