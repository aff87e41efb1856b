/* SPDX-License-Identifier: MIT */
/* scenario_migrate.c - a guest that goes on in another QEMU: from a snapshot, from a file, over a socket, on another
 * host. */
#include "scenario.h"

#include "peer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MIGRATE_PORT 4444

/* To a file, and from it in a new QEMU, which takes the old one's place. */
static int through_file(struct run *run, unsigned int number, const struct qemu_options *guest)
{
	struct qemu *from = &run->vm[number % 2], *to = &run->vm[(number + 1) % 2];
	char uri[2 * LAB_PATH], name[16];
	struct qemu_options arrival = *guest;

	snprintf(name, sizeof(name), "file%u", number);
	snprintf(uri, sizeof(uri), "exec:cat > %s/state", run->lab->work);
	if (run_begin(run, from) || run_migrate_start(run, from, uri) ||
	    run_migrate_wait(run, from, "completed", RUN_MIGRATE_MS))
		return -1;
	run_part(run, from);
	snprintf(uri, sizeof(uri), "exec:cat %s/state", run->lab->work);
	arrival.name = name;
	arrival.incoming = uri;
	if (qemu_start(to, run->lab, run->scenario, &arrival) || qemu_wait_status(to, "running", RUN_MIGRATE_MS))
		return -1;
	return run_end(run, to);
}

int play_snapshot(struct run *run)
{
	char disk[LAB_PATH];
	struct qemu_options guest = { .name = "guest", .who = run->who, .cpus = run_cpus(), .disk = disk };
	unsigned int events = run_events(run, 5), files = events / 2 ? events / 2 : 1;

	if (run_make_disk(run, run->lab->work, disk) || run_boot(run, &run->vm[0], &guest))
		return -1;
	for (unsigned int i = 0; i + files < events; i++)
		if (run_begin(run, &run->vm[0]) || run_save_load(run, &run->vm[0]) || run_end(run, &run->vm[0]))
			return -1;
	for (unsigned int i = 0; i < files; i++)
		if (through_file(run, i, &guest))
			return -1;
	run_note(run, "files", json_integer(files));
	return run_leave(run, &run->vm[files % 2]);
}

/* One hop to a VM that is started for it. The source ends. */
static int hop(struct run *run, struct qemu *from, struct qemu *to, const struct qemu_options *arrival, const char *uri)
{
	struct qemu_options options = *arrival;

	options.incoming = uri;
	if (qemu_start(to, run->lab, run->scenario, &options) || run_begin(run, from) ||
	    run_migrate(run, from, to, uri) || (run->arrived && run->arrived(run, to)) || run_end(run, to))
		return -1;
	run_part(run, from);
	return 0;
}

int migrate_hops(struct run *run, struct qemu_options *guest, unsigned int events)
{
	for (unsigned int i = 0; i < events; i++) {
		char uri[LAB_PATH + 64], name[16];

		snprintf(name, sizeof(name), "hop%u", i + 1);
		snprintf(uri, sizeof(uri), "unix:%s/migrate-%u", run->lab->work, i);
		guest->name = name;
		if (hop(run, &run->vm[i % 2], &run->vm[(i + 1) % 2], guest, uri))
			return -1;
	}
	return run_leave(run, &run->vm[events % 2]);
}

int migrate_same_rate(struct run *run, struct qemu_options *guest, unsigned int events)
{
	return run_boot(run, &run->vm[0], guest) || migrate_hops(run, guest, events) ? -1 : 0;
}

int play_migrate_same_rate(struct run *run)
{
	return migrate_same_rate(run, &(struct qemu_options){ .name = "guest", .who = run->who, .cpus = run_cpus() },
				 run_events(run, 4));
}

/* The worse of what was so far and what the guest's page says now, against the host that it runs on now. */
static void take_drift_of_hop(struct run *run, const struct host *host)
{
	double ppb;

	if (!host->known || !verdict_drift(&run->verdict, &host->slope, &ppb))
		return;
	if (!run->drift_known || fabs(ppb) > fabs(run->drift_ppb))
		run->drift_ppb = ppb;
	run->drift_known = true;
}

const char *migrate_uri(struct run *run, bool on_peer, char uri[MIGRATE_URI])
{
	snprintf(uri, MIGRATE_URI, "tcp:%s:%u", on_peer ? run->lab->peer->address : run->lab->self,
		 MIGRATE_PORT + run->lab->peer_ports++ % 400);
	return uri;
}

int migrate_new_rate(struct run *run, struct qemu_options *guest, unsigned int events)
{
	json_t *rates = json_array();

	run->drift_limit_ppb = 0.5;
	run->drift_taken = true;
	run_note(run, "rates_ppb", rates);
	if (run_boot(run, &run->vm[0], guest))
		return -1;
	for (unsigned int i = 0; i < events; i++) {
		char uri[MIGRATE_URI], name[16];
		bool away = i % 2 == 0;

		snprintf(name, sizeof(name), "hop%u", i + 1);
		guest->name = name;
		guest->on_peer = away;
		if (hop(run, &run->vm[i % 2], &run->vm[(i + 1) % 2], guest, migrate_uri(run, away, uri)))
			return -1;
		take_drift_of_hop(run, away ? run->there : run->here);
		json_array_append_new(rates, json_real(run->verdict.rate_ppb));
	}
	run_note(run, "there_known", json_boolean(run->there->known));
	return run_leave(run, &run->vm[events % 2]);
}

int play_migrate_new_rate(struct run *run)
{
	return migrate_new_rate(run, &(struct qemu_options){ .name = "guest", .who = run->who, .cpus = 1 }, run_events(run, 2));
}

/* One hop of play_stock_peer, and what it cost. */
static int foreign_hop(struct run *run, unsigned int number, const char *to_who, json_t *hops)
{
	struct qemu *from = &run->vm[number % 2], *to = &run->vm[(number + 1) % 2];
	struct qemu_options guest = { .who = to_who, .cpus = run_cpus() };
	int64_t before = run->verdict.jump_sum;
	unsigned int by_page = run->verdict.by_page;
	char uri[LAB_PATH + 64], name[16], from_who[8];

	snprintf(name, sizeof(name), "to-%s", to_who);
	snprintf(from_who, sizeof(from_who), "%s", from->who);
	snprintf(uri, sizeof(uri), "unix:%s/foreign-%u", run->lab->work, number);
	guest.name = name;
	if (hop(run, from, to, &guest, uri))
		return -1;
	/* it runs on: a second look, with nothing in between */
	if (run_begin(run, to) || run_end(run, to))
		return -1;
	json_array_append_new(hops, json_pack("{s:s, s:s, s:I, s:s, s:I}", "from", from_who, "to", to_who, "jump_ns",
					      (json_int_t)(run->verdict.jump_sum - before), "by",
					      run->verdict.by_page > by_page ? "page" : "measured", "bracket_ns",
					      (json_int_t)run->verdict.bracket_max));
	return 0;
}

int play_stock_peer(struct run *run)
{
	struct qemu_options guest = { .name = "guest", .who = run->who, .cpus = run_cpus() };
	json_t *hops = json_array();

	run->unjudged = true; /* what stock does to a clock is not ours to promise; that the guest runs on is */
	run_note(run, "hops", hops);
	if (run_boot(run, &run->vm[0], &guest) || foreign_hop(run, 0, "stock", hops) ||
	    foreign_hop(run, 1, run->who, hops))
		return -1;
	return run_leave(run, &run->vm[0]);
}
