/* SPDX-License-Identifier: MIT */
#include "foreseen.h"

#include <pvclock/line.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLOORS_NS 2 /* two readings' floors, of ns and of the ticks that a negative shift drops (judge.h) */

/* What a subcommand of pvclock says on a file, and whether it says yes. */
static json_t *ask(const char *arguments, bool *yes)
{
	char *tool = harness_path("../tools/pvclock/pvclock"), command[4600];
	json_t *told = NULL;
	FILE *stream;

	snprintf(command, sizeof(command), "'%s' %s", tool ? tool : "", arguments);
	stream = popen(command, "re");
	if (stream)
		told = json_loadf(stream, 0, NULL);
	*yes = stream && pclose(stream) == 0;
	free(tool);
	return told;
}

bool foresee(struct live *live, struct foreseen *foreseen, const char *file, const char *mode, const char *as, const char *policy)
{
	char arguments[256];
	bool yes;

	snprintf(foreseen->name, sizeof(foreseen->name), "%s %s", mode, policy);
	snprintf(arguments, sizeof(arguments), "record check %s >/dev/null", file);
	json_decref(ask(arguments, &yes));
	live_check(live, yes, "P6 %s: pvclock record check takes the snapshot", foreseen->name);
	snprintf(arguments, sizeof(arguments), "preflight --json --mode %s --as %s --policy %s %s", mode, as, policy, file);
	foreseen->asked_ms = harness_now_ms();
	foreseen->plan = ask(arguments, &yes);
	foreseen->told_ms = harness_now_ms();
	return live_check(live, yes && foreseen->plan, "P6 %s: and pvclock preflight says yes", foreseen->name);
}

void foreseen_clear(struct foreseen *foreseen)
{
	json_decref(foreseen->plan);
}

/* What may need all of 64 bits is text there. */
static uint64_t wide(const json_t *object, const char *key)
{
	return strtoull(harness_text(object, key, "18446744073709551615"), NULL, 10);
}

static int64_t number(const struct foreseen *foreseen, const char *object, const char *key)
{
	return harness_number(json_object_get(foreseen->plan, object), key, INT64_MIN);
}

static struct pvclock_line line_of(const struct foreseen *foreseen)
{
	const json_t *line = json_object_get(json_object_get(foreseen->plan, "clock"), "line");

	return (struct pvclock_line){
		.tsc = wide(line, "tsc"),
		.ns = wide(line, "ns"),
		.mul = (uint32_t)harness_number(line, "mul", 0),
		.shift = (int8_t)harness_number(line, "shift", 99),
	};
}

int64_t ticks_in_ns(const struct pvclock_line *line, int64_t ticks)
{
	const struct pvclock_line unit = { .mul = line->mul, .shift = line->shift };

	return (int64_t)pvclock_line_ns(&unit, (uint64_t)ticks);
}

/*
 * What grows with the time until the restore: by no more than what passed since preflight was asked, and no less than from its
 * answer on.
 */
static void check_later(struct live *live, const struct foreseen *foreseen, const char *what, int64_t then, int64_t now)
{
	int64_t least = (foreseen->begun_ms - foreseen->told_ms - 1) * 1000000;
	int64_t most = (foreseen->ended_ms - foreseen->asked_ms + 1) * 1000000;

	live_check(live, now - then >= least && now - then <= most,
		   "P7 %s: %s: foreseen %lld ns, and %lld ns more in the end, of %lld to %lld",
		   foreseen->name, what, (long long)then, (long long)(now - then), (long long)least, (long long)most);
}

static void check_function(struct live *live, const struct foreseen *foreseen, int64_t moved, const struct judge_vcpu *guest,
			   int64_t limit_ns)
{
	struct pvclock_line line = line_of(foreseen);
	int64_t floors = moved ? FLOORS_NS : 0, apart;

	live_check(live, guest->line.mul == line.mul && guest->line.shift == line.shift &&
			   number(foreseen, "clock", "rate_difference") == 0,
		   "P1 %s: the guest's slope is the foreseen one, mul %u, shift %d", foreseen->name, line.mul, line.shift);
	apart = (int64_t)(guest->last.ns - pvclock_line_ns(&line, guest->last.tsc - (uint64_t)moved));
	live_check(live, apart >= -floors - limit_ns && apart <= floors + limit_ns && number(foreseen, "clock", "jump_ns") == 0,
		   "P1 %s: and it reads the foreseen line: %lld ns apart", foreseen->name, (long long)apart);
}

void foreseen_check(struct live *live, const struct foreseen *foreseen, const json_t *restored, const struct judge_vcpu *guest,
		    int64_t limit_ns)
{
	const json_t *plan = foreseen->plan, *elapsed = json_object_get(plan, "elapsed");
	int64_t moved = harness_number(restored, "moved_ticks", 0);
	bool freezes = !strcmp(harness_text(plan, "policy", ""), "freeze");
	struct pvclock_line line = line_of(foreseen);

	live_check(live, !strcmp(harness_text(plan, "precision", "?"), harness_text(restored, "precision", "")) &&
			   !strcmp(harness_text(plan, "as", "?"), harness_text(restored, "after", "")) &&
			   !strcmp(harness_text(elapsed, "by", "?"), harness_text(restored, "by", "")),
		   "P6 %s: as foreseen: %s, by %s", foreseen->name, harness_text(plan, "precision", "?"),
		   harness_text(elapsed, "by", "?"));
	live_check(live, (int64_t)wide(elapsed, "bound_ns") == harness_number(restored, "bound_ns", -2),
		   "P7 %s: the bound is %lld ns",
		   foreseen->name, (long long)wide(elapsed, "bound_ns"));
	check_later(live, foreseen, "measured", harness_number(elapsed, "measured_ns", -1),
		    harness_number(restored, "measured_ns", -1));
	if (freezes)
		live_check(live, (int64_t)wide(plan, "counted_ns") == 0 && harness_number(restored, "counted_ns", -1) == 0,
			   "P7 %s: nothing is counted", foreseen->name);
	else
		check_later(live, foreseen, "counted", (int64_t)wide(plan, "counted_ns"),
			    harness_number(restored, "counted_ns", -1));
	live_check(live, json_is_true(json_object_get(json_object_get(plan, "tsc"), "kept")) == (moved == 0),
		   "P7 %s: the TSC is %s",
		   foreseen->name, moved ? "not kept" : "kept");
	if (moved)
		check_later(live, foreseen, "the TSC's jump", ticks_in_ns(&line, number(foreseen, "tsc", "jump_ticks")),
			    ticks_in_ns(&line, moved));
	check_function(live, foreseen, moved, guest, limit_ns);
}
