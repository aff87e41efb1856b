/* SPDX-License-Identifier: MIT */
/*
 * scenario_chrony.c - a guest that goes to another host and back, where real chronyd keeps both clocks: this host's is the
 * reference, and the other follows it over the network. What is counted has to be right to within what the two kernels say of
 * themselves. The judge is neither's clock: both emulated hosts' TSCs are this machine's, so they differ by a constant, and
 * questions over the network tell it to within a part of a round trip.
 */
#include "blackout.h"
#include "host_clock.h"
#include "peer.h"
#include "process.h"
#include "scenario.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

#define TAI_S 37
#define REFERENCE_US 100 /* what the reference is wrong by is 0; its kernel is told a little */
#define SLEW_PPM 600     /* chronyd's, as told below, with what the two TSCs' calibrations differ by */
#define EXCHANGES 300
#define DAEMON_MS 2000   /* until it has told the kernel what it starts with, and answers */

static const struct host_clock reference = { .tai = TAI_S, .error_us = REFERENCE_US };

static const char *const server[] = { "chronyd", "-d", "-u", "root", "local stratum 8", "allow 10.0.0.0/24", NULL };
static const char *const client[] = { "chronyd", "-d", "-u", "root", "server 10.0.0.1 iburst minpoll 0 maxpoll 0",
				      "makestep 0.001 3", "maxslewrate 500", "rtcsync", "leapsectz right/UTC", NULL };
static const char *const wait_for_client[] = { "chronyc", "waitsync", "40", "0.001", "0", "1", NULL };
static const char *const ask_client[] = { "chronyc", "-c", "tracking", NULL };

/* The peer's TSC minus this host's, which no clock on either changes. */
static int measure_apart(struct run *run, struct between *apart)
{
	*apart = (struct between){ INT64_MIN, INT64_MAX };
	for (unsigned int i = 0; i < EXCHANGES; i++) {
		int64_t asked = (int64_t)__rdtsc(), there, answered;
		json_t *answer = peer_ask(run->lab->peer, json_pack("{s:b}", "tsc", 1), 10000);

		answered = (int64_t)__rdtsc();
		if (!answer)
			return -1;
		there = lab_number(answer, "tsc", 0);
		json_decref(answer);
		if (there - answered > apart->least)
			apart->least = there - answered;
		if (there - asked < apart->most)
			apart->most = there - asked;
	}
	return apart->least <= apart->most ? 0 : lab_fail(run->lab, "The two hosts' TSCs part: they are not one machine's.");
}

/* Against the judge: to within what both kernels said of their clocks. */
static int judge_count(struct run *run, const struct blackout *blackout, json_t *hop)
{
	const struct foretold *happened = &blackout->happened;
	struct between stood = blackout_stood(run, blackout);
	int64_t least = happened->measured_ns - stood.most, most = happened->measured_ns - stood.least, bound = happened->bound_ns;

	json_object_set_new(hop, "by", json_string(happened->by));
	json_object_set_new(hop, "counted_ns", json_integer(happened->counted_ns));
	json_object_set_new(hop, "error_ns", json_pack("[I,I]", (json_int_t)least, (json_int_t)most));
	json_object_set_new(hop, "bound_ns", bound == FORETOLD_UNKNOWN ? json_string("unknown") : json_integer(bound));
	if (bound == FORETOLD_UNKNOWN)
		return lab_fail(run->lab, "Both clocks are kept, and the bound is unknown.");
	if (strcmp(happened->by, "tai"))
		return lab_fail(run->lab, "Both hosts know TAI, and the blackout was measured by %s.", happened->by);
	if (most - least > bound)
		return lab_fail(run->lab, "The network tells the error to %.6f s only, and the bound is %.6f.", (double)(most - least) / 1e9,
				(double)bound / 1e9);
	if (least > bound || most < -bound)
		return lab_fail(run->lab, "%.6f s are counted, wrong by %.6f to %.6f s, where the bound is %.6f.",
				(double)happened->counted_ns / 1e9, (double)least / 1e9, (double)most / 1e9, (double)bound / 1e9);
	return 0;
}

/* To a file that both hosts have, and from it on the other one. */
static int hop(struct run *run, unsigned int number, struct qemu_options guest, json_t *hops)
{
	struct qemu *from = &run->vm[number % 2], *to = &run->vm[(number + 1) % 2];
	struct blackout blackout = { .policy = guest.policy };
	json_t *told = json_pack("{s:s}", "to", guest.on_peer ? "peer" : "here");
	char uri[2 * LAB_PATH];
	struct between apart;

	json_array_append_new(hops, told);
	if (measure_apart(run, &apart) || host_clock_set(run->lab, &reference) || blackout_begin(run, from, &blackout))
		return -1;
	blackout.apart = guest.on_peer ? apart : (struct between){ -apart.most, -apart.least };
	snprintf(uri, sizeof(uri), "exec:cat > %s/%s.state", run->lab->logs, run->scenario);
	if (run_migrate_start(run, from, uri) || run_migrate_wait(run, from, "completed", RUN_MIGRATE_MS))
		return -1;
	run_part(run, from);
	if (host_clock_set(run->lab, &reference) || blackout_foretell(run, from, guest.on_peer, &blackout))
		return -1;
	snprintf(uri, sizeof(uri), "exec:cat %s/%s.state", run->lab->logs, run->scenario);
	guest.incoming = uri;
	if (qemu_start(to, run->lab, run->scenario, &guest) || qemu_wait_status(to, "running", RUN_MIGRATE_MS) || run_end(run, to))
		return -1;
	if (blackout_judge(run, to, (struct foretold_limits){ .slew_ppm = SLEW_PPM, .disciplined = true }, &blackout))
		return -1;
	return judge_count(run, &blackout, told);
}

static int there_and_back(struct run *run)
{
	struct qemu_options guest = { .name = "guest", .who = run->who, .cpus = 1, .policy = "migration=advance" };
	json_t *hops = json_array();
	char *tracking = NULL;

	run_note(run, "hops", hops);
	if (run_program(run, true, wait_for_client, NULL) || run_program(run, true, ask_client, &tracking))
		return -1;
	run_note(run, "tracking", json_string(lab_last_line(tracking)));
	free(tracking);
	if (run_boot(run, &run->vm[0], &guest))
		return -1;
	guest.name = "away";
	guest.on_peer = true;
	if (hop(run, 0, guest, hops))
		return -1;
	guest.name = "back";
	guest.on_peer = false;
	return hop(run, 1, guest, hops) ? -1 : run_leave(run, &run->vm[0]);
}

int play_two_hosts(struct run *run)
{
	char log[LAB_PATH];
	struct process daemon;
	int result = -1;
	pid_t pid = 0;

	run->drift_taken = true; /* linux-migrate-new-rate is about rates */
	if (blackout_know_host(run, false) || blackout_know_host(run, true))
		return -1;
	snprintf(log, sizeof(log), "%.400s/%s-%s.chronyd", run->lab->logs, run->scenario, run->who);
	if (process_start(run->lab, &daemon, (char *const *)(uintptr_t)server, log))
		return -1;
	if (lab_sleep(run->lab, DAEMON_MS) == 0 && host_clock_set(run->lab, &reference) == 0) {
		snprintf(log, sizeof(log), "%.400s/%s-%s.chronyd-peer", run->lab->logs, run->scenario, run->who);
		pid = peer_spawn(run->lab->peer, (char *const *)(uintptr_t)client, log);
		if (pid > 0 && lab_sleep(run->lab, DAEMON_MS) == 0)
			result = there_and_back(run);
	}
	if (pid > 0)
		peer_kill(run->lab->peer, pid);
	process_kill(&daemon);
	return result;
}
