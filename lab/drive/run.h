/* SPDX-License-Identifier: MIT */
/*
 * run.h - one scenario with one kind of clock: the verbs that scenarios are written with. Each returns 0, or -1 with a
 * sentence in lab->error that already says what QEMU and the guest said last.
 */
#ifndef LAB_RUN_H
#define LAB_RUN_H

#include "bare.h"
#include "host.h"
#include "qemu.h"
#include "rows.h"
#include "verdict.h"

#define RUN_VMS 3
#define RUN_SAVE_MS 90000    /* savevm, loadvm */
#define RUN_MIGRATE_MS 120000
#define RUN_PROGRAM_MS 60000

struct run {
	struct lab *lab;
	struct host *here, *there;  /* this host and the peer; `there` only where a scenario needs the peer */
	const char *scenario, *who;
	unsigned int events;        /* asked for, or 0 */
	unsigned int number;        /* of the event under way */
	bool tscs_differ;           /* the guest has made its vCPUs' TSCs differ: its clock may not be called stable */
	bool nested;                /* the guest is a guest's guest: what QEMU says here of ticks is not about its counter */
	bool nested_known;          /* ... but for this: how far its counter is ahead of its host's */
	uint64_t nested_ahead;
	int (*arrived)(struct run *run, struct qemu *vm); /* what is waited for before a guest that has arrived is asked; NULL: nothing */
	bool unjudged;              /* nothing is promised of what comes: jumps are shown, not judged */
	unsigned int foretold;      /* arrivals that preflight's word was held against */
	struct verdict verdict;
	struct qemu vm[RUN_VMS];
	struct bare *bare;          /* the guest is one of ours; NULL: it is Linux */
	double drift_limit_ppb;
	bool drift_taken;           /* by the scenario itself: the worst of several hosts */
	bool drift_known;
	double drift_ppb;
	double boot_s;              /* the first guest's, from QEMU's start to the probe's first word */
	json_t *extra;              /* further columns */
	struct rows *brought;       /* rows that came from elsewhere; the scenario's own row is then not made */
};

/* How many events: what was asked for, or this scenario's own number. */
unsigned int run_events(const struct run *run, unsigned int usual);

/* vCPUs for a guest: two, but no more than the host has, since two that take turns spend their time waiting for each
 * other. */
unsigned int run_cpus(void);

/* Starts a guest and waits for its probe's first words. */
int run_boot(struct run *run, struct qemu *vm, const struct qemu_options *options);
/* A probe that has started, or started again: takes its first reply. */
int run_meet(struct run *run, struct qemu *vm);
/* Asks what the guest knows in the end, reads the preload's log, stops it. */
int run_leave(struct run *run, struct qemu *vm);

/* Reads the preload's log and stops it. Nothing if it was not started. */
void run_part(struct run *run, struct qemu *vm);

/* An event: its beginning, as the guest knows it, and its end, maybe by another VM's line after a migration. */
int run_begin(struct run *run, struct qemu *vm);
int run_end(struct run *run, struct qemu *vm);

/* The disturbances. */
int run_stop_cont(struct run *run, struct qemu *vm, int ms);
int run_save_load(struct run *run, struct qemu *vm);
/* From a running VM to one that was started with `incoming`. The source is left as QEMU leaves it: "postmigrate". */
int run_migrate(struct run *run, struct qemu *from, struct qemu *to, const char *uri);
/* Starts a migration, and waits until it is `status`. "failed" is an error unless it is what was waited for. */
int run_migrate_start(struct run *run, struct qemu *from, const char *uri);
int run_migrate_wait(struct run *run, struct qemu *from, const char *status, int timeout_ms);

/* A program to its end, here or on the peer. `said` (may be NULL) gets what it wrote, allocated. -1 also if it did not end
 * with 0. */
int run_program(struct run *run, bool on_peer, const char *const *words, char **said);

/* An empty qcow2 image, for snapshots. `path` takes LAB_PATH bytes. */
int run_make_disk(struct run *run, const char *directory, char *path);

/* A further column of the row. */
void run_note(struct run *run, const char *key, json_t *value);
/* A row of the scenario's own, with its names filled in, in place of the one that run_row would make. NULL: memory is out. */
struct row *run_bring(struct run *run);
/* Fills a row from what was seen so far. */
void run_row(struct run *run, struct row *row);

#endif
