/* SPDX-License-Identifier: MIT */
/*
 * scenario_time.c - a guest that goes on at another time: to a file, something becomes of the host's clocks, and from the
 * file on a host that was booted anew meanwhile, as far as anybody can see. What happened to the clocks is known here, so the
 * error of what is counted is known too, and is held against the bound that was declared.
 */
#include "blackout.h"
#include "host_clock.h"
#include "scenario.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TAI_S 37
#define USUAL_US 1000  /* what a well kept clock says of itself */
#define STEADY_PPM 1   /* CLOCK_REALTIME that nobody adjusts, against CLOCK_MONOTONIC_RAW: both are the TSC, rounded */
#define LEAP_NS 1000000000
#define STOCK_HOPS 2   /* KVM alone looks at no clock, so more of them would show the same */

/* What the guest finds when it goes on, against when it stopped; its host's clock was right until then, and TAI known. */
struct disturbance {
	const char *name;
	struct host_clock clock;
	int64_t passed_ms; /* so much of the step is time that went by: the clock is right, and nobody had to wait */
	bool lie;          /* it is wrong by more than the kernel was told */
};

static const struct host_clock kept = { .tai = TAI_S, .error_us = USUAL_US };

/* The clock there counts so much too much. */
static int64_t wrong_by(const struct disturbance *is, const char *by)
{
	int leap = !strcmp(by, "tai") ? is->clock.tai - TAI_S : 0;

	return (is->clock.step_ms - is->passed_ms) * 1000000 + leap * (int64_t)LEAP_NS;
}

/* Of what it counts, how much is wrong; and whether its own word for that is true. */
static int judge_count(struct run *run, const struct disturbance *is, const struct blackout *blackout, json_t *hop)
{
	const struct foretold *happened = &blackout->happened;
	int64_t stood = blackout_stood(run, blackout).least + is->passed_ms * 1000000;
	int64_t shown = stood + wrong_by(is, happened->by), wanted = blackout->said.advances && shown > 0 ? shown : 0;
	int64_t error = happened->measured_ns - stood;
	int64_t apart = blackout->saved_bracket_ns + happened->bracket_ns + stood / 1000000 * STEADY_PPM;
	bool known = happened->bound_ns != FORETOLD_UNKNOWN, within = known && error <= happened->bound_ns && error >= -happened->bound_ns;

	json_object_set_new(hop, "by", json_string(happened->by));
	json_object_set_new(hop, "elapsed_ns", json_integer(stood));
	json_object_set_new(hop, "measured_ns", json_integer(happened->measured_ns));
	json_object_set_new(hop, "error_ns", json_integer(error));
	json_object_set_new(hop, "bound_ns", known ? json_integer(happened->bound_ns) : json_string("unknown"));
	json_object_set_new(hop, "counted_ns", json_integer(happened->counted_ns));
	if (error > wrong_by(is, happened->by) + apart || error < wrong_by(is, happened->by) - apart)
		return lab_fail(run->lab, "%s: by %s the blackout was %.6f s, and it is wrong by %.6f s, not by %.6f.", is->name, happened->by,
				(double)happened->measured_ns / 1e9, (double)error / 1e9, (double)wrong_by(is, happened->by) / 1e9);
	if (happened->counted_ns > wanted + apart || happened->counted_ns < wanted - apart)
		return lab_fail(run->lab, "%s: %.6f s are counted, not %.6f.", is->name, (double)happened->counted_ns / 1e9,
				(double)wanted / 1e9);
	if (known == is->clock.unsynchronised)
		return lab_fail(run->lab, "%s: the bound is %s.", is->name, known ? "known, though nobody disciplines that clock" : "unknown");
	if (known && within == is->lie)
		return lab_fail(run->lab, "%s: wrong by %.6f s, where the bound is %.6f.", is->name, (double)error / 1e9,
				(double)happened->bound_ns / 1e9);
	return 0;
}

/* KVM alone goes on from the clock's value, whatever the host's clocks say: it counts nothing of what its VMM was down for. */
static int judge_stock(struct run *run, const struct disturbance *is, const struct blackout *blackout, int64_t down_ns)
{
	struct between gained = blackout_gained(blackout);

	if (gained.most >= -down_ns && gained.least <= 0)
		return 0;
	return lab_fail(run->lab, "%s: stock's clock gained %.3f to %.3f s on its host's, in %.3f s.", is->name,
			(double)gained.least / 1e9, (double)gained.most / 1e9, (double)down_ns / 1e9);
}

/* From the file, on the host as it now is. */
static int go_on(struct run *run, struct qemu *from, struct qemu *to, const struct qemu_options *guest, struct blackout *blackout)
{
	char uri[2 * LAB_PATH];
	struct qemu_options arrival = *guest;

	if (strcmp(run->who, "stock") && blackout_foretell(run, from, false, blackout))
		return -1;
	snprintf(uri, sizeof(uri), "exec:cat %s/state", run->lab->work);
	arrival.incoming = uri;
	if (qemu_start(to, run->lab, run->scenario, &arrival) || qemu_wait_status(to, "running", RUN_MIGRATE_MS) || run_end(run, to))
		return -1;
	return blackout_judge(run, to, (struct foretold_limits){ .slew_ppm = STEADY_PPM }, blackout);
}

static int through_time(struct run *run, unsigned int number, struct qemu_options guest, const struct disturbance *is, json_t *hops)
{
	struct qemu *from = &run->vm[number % 2], *to = &run->vm[(number + 1) % 2];
	struct host_clock back = kept;
	struct blackout blackout = { .policy = guest.policy };
	json_t *hop = json_pack("{s:s}", "name", is->name);
	char uri[2 * LAB_PATH], name[16];
	struct between gained;
	int64_t start;
	int result;

	json_array_append_new(hops, hop);
	snprintf(name, sizeof(name), "later%u", number);
	snprintf(uri, sizeof(uri), "exec:cat > %s/state", run->lab->work);
	if (host_clock_set(run->lab, &kept) || blackout_begin(run, from, &blackout))
		return -1;
	start = lab_now_ns();
	if (run_migrate_start(run, from, uri) || run_migrate_wait(run, from, "completed", RUN_MIGRATE_MS))
		return -1;
	run_part(run, from);
	if (host_clock_cover_boot(run->lab))
		return -1;
	guest.name = name;
	result = host_clock_set(run->lab, &is->clock) ? -1 : go_on(run, from, to, &guest, &blackout);
	start = lab_now_ns() - start;
	host_clock_uncover_boot();
	back.step_ms = -is->clock.step_ms;
	if (host_clock_set(run->lab, &back) || result)
		return -1;
	gained = blackout_gained(&blackout);
	json_object_set_new(hop, "gained_ns", json_pack("[I,I]", (json_int_t)gained.least, (json_int_t)gained.most));
	return strcmp(run->who, "stock") ? judge_count(run, is, &blackout, hop) : judge_stock(run, is, &blackout, start);
}

static int play(struct run *run, const char *policy, const struct disturbance *disturbances, unsigned int count)
{
	struct qemu_options guest = { .name = "guest", .who = run->who, .cpus = run_cpus(), .policy = policy };
	struct host_clock nobody = { .unsynchronised = true, .error_us = 16000000 };
	json_t *hops = json_array();
	int result = 0;

	if (!strcmp(run->who, "stock") && count > STOCK_HOPS)
		count = STOCK_HOPS;
	run_note(run, "hops", hops);
	if (blackout_know_host(run, false) || run_boot(run, &run->vm[0], &guest))
		return -1;
	for (unsigned int i = 0; i < count && result == 0; i++)
		result = through_time(run, i, guest, &disturbances[i], hops);
	host_clock_set(run->lab, &nobody); /* as it was found */
	return result ? -1 : run_leave(run, &run->vm[count % 2]);
}

/* An hour later by a clock that is right; and by one that is behind by more than the blackout lasts. */
static const struct disturbance later[] = {
	{ "an hour later", { 3700000, TAI_S, USUAL_US, false }, 3700000, false },
	{ "a minute behind", { -60000, TAI_S, USUAL_US, true }, 0, false },
};

int play_snapshot_advance(struct run *run)
{
	return play(run, "migration=advance", later, 2);
}

int play_snapshot_freeze(struct run *run)
{
	return play(run, "migration=freeze", later, 2);
}

/* A leap second that is inserted sets UTC back, and TAI's distance grows. */
static const struct disturbance ahead[] = {
	{ "right", { 0, TAI_S, USUAL_US, false }, 0, false },
	{ "2 s ahead, and nobody knows", { 2000, TAI_S, USUAL_US, false }, 0, true },
	{ "2 s ahead, and not synchronised", { 2000, TAI_S, USUAL_US, true }, 0, false },
	{ "leap second inserted", { -1000, TAI_S + 1, USUAL_US, false }, 0, false },
	{ "smeared, ahead", { 400, TAI_S, 500000, false }, 0, false },
	{ "leap second deleted, TAI not told", { 1000, 0, USUAL_US, false }, 0, false },
};

static const struct disturbance behind[] = {
	{ "right", { 0, TAI_S, USUAL_US, false }, 0, false },
	{ "2 s behind, and nobody knows", { -2000, TAI_S, USUAL_US, false }, 0, true },
	{ "2 s behind, and not synchronised", { -2000, TAI_S, USUAL_US, true }, 0, false },
	{ "leap second deleted", { 1000, TAI_S - 1, USUAL_US, false }, 0, false },
	{ "smeared, behind", { -400, TAI_S, 500000, false }, 0, false },
	{ "leap second inserted, TAI not told", { -1000, 0, USUAL_US, false }, 0, false },
};

int play_clock_ahead(struct run *run)
{
	return play(run, "migration=advance", ahead, sizeof(ahead) / sizeof(ahead[0]));
}

int play_clock_behind(struct run *run)
{
	return play(run, "migration=advance", behind, sizeof(behind) / sizeof(behind[0]));
}
