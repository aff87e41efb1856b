/* SPDX-License-Identifier: MIT */
/* scenario.h - what can be run: a table of names, what each needs, and its function. */
#ifndef LAB_SCENARIO_H
#define LAB_SCENARIO_H

#include "run.h"

enum scenario_needs {
	NEEDS_NOTHING = 0,
	NEEDS_PEER = 1,    /* a second host */
	NEEDS_KVM = 2,     /* an emulator's guest would show nothing */
	NEEDS_PRELOAD = 4, /* shows nothing of stock */
	NEEDS_SLEEP = 16,  /* a host of the lab, on copies of its shares (lab/boot.sh --local) */
	NEEDS_OWN = 32,    /* shows nothing of steer that stock does not show */
	NEEDS_SHARES = 8,  /* the lab's folders: a guest that is a host mounts them */
};

struct scenario {
	const char *name;
	const char *help;
	unsigned int needs;
	bool brief;        /* among `short` */
	unsigned int limit_s;
	int (*play)(struct run *run);
};

extern const struct scenario scenarios[];
extern const unsigned int scenario_count;

const struct scenario *scenario_find(const char *name);
/* Why it cannot be run here with that clock, or NULL. */
const char *scenario_lacks(const struct scenario *scenario, const struct lab *lab, const char *who);

/*
 * Runs one and adds its row, or the rows that it brought. What fails is a row with a sentence. -1 only if nothing more
 * should be run: interrupted, or out of memory.
 */
int scenario_run(struct lab *lab, struct host *here, struct host *there, const struct scenario *scenario,
		 const char *who, struct rows *rows);

/* A CPU on which Linux keeps time by Hyper-V's TSC page; without kvm=off it prefers kvm-clock. */
#define SCENARIO_HYPERV_CPU SCENARIO_HYPERV_HOST_CPU ",hv-reenlightenment"
/* For one that is a host, and is to be moved: stock QEMU takes in none whose KVM has asked for re-enlightenment, and with it there is a window. */
#define SCENARIO_HYPERV_HOST_CPU "host,kvm=off,hv-time,hv-relaxed,hv-vapic,hv-vpindex,hv-synic,hv-stimer,hv-frequencies,hv-runtime"

/* scenario_migrate.c */
int play_snapshot(struct run *run);
int play_migrate_same_rate(struct run *run);
int play_migrate_new_rate(struct run *run);
int play_stock_peer(struct run *run);
/* The same for any guest; a new rate is the peer's, and back. They leave it at the end. */
int migrate_same_rate(struct run *run, struct qemu_options *guest, unsigned int events);
/* The middle of the first: run->vm[0] runs; into another QEMU on this host and so on, and the last one is left. */
int migrate_hops(struct run *run, struct qemu_options *guest, unsigned int hops);
int migrate_new_rate(struct run *run, struct qemu_options *guest, unsigned int events);
/* Where the next one listens: on the peer, or on this host. */
#define MIGRATE_URI 128
const char *migrate_uri(struct run *run, bool on_peer, char uri[MIGRATE_URI]);
/* scenario_bare.c */
int play_deadlines(struct run *run);
int play_deadlines_new_rate(struct run *run);
int play_vcpu_offsets(struct run *run);
/* The row's columns about them. */
void deadlines_note(struct run *run, struct deadlines *deadlines);
/* Of a run that is judged: 0, or -1 with a sentence. Sorts them. */
int deadlines_judge(struct run *run, struct deadlines *deadlines);
/* scenario_vmm.c */
int play_deadline_ns(struct run *run);
void scenario_vmm_path(const struct run *run, const char *below, char path[LAB_PATH]); /* what was built beside this program, of vmm/ */
/* scenario_told.c */
int play_suspend_told(struct run *run);
/* scenario_time.c */
int play_snapshot_advance(struct run *run);
int play_snapshot_freeze(struct run *run);
int play_clock_ahead(struct run *run);
int play_clock_behind(struct run *run);
/* scenario_chrony.c */
int play_two_hosts(struct run *run);
/* scenario_hyperv.c */
int play_hyperv(struct run *run);
int play_hyperv_new_rate(struct run *run);
/* scenario_nested.c */
int play_nested(struct run *run);
int play_nested_hyperv(struct run *run);
int play_nested_live_update(struct run *run);
int play_nested_new_rate(struct run *run);
int play_nested_told(struct run *run);
int play_nested_untold(struct run *run);
int play_hyperv_l1(struct run *run);
int play_hyperv_l1_new_rate(struct run *run);
struct middle {
	const char *cpu;
	const char *parent; /* PVCLOCK_PARENT: what the engine in there takes of this host's offer */
	const char *inner;  /* the clock that it gives its guest; NULL: as run->who */
};
/* What it is started with. */
#define NESTED_COMMAND 128
void nested_guest(const struct run *run, const struct middle *middle, char command[NESTED_COMMAND], struct qemu_options *options);
/* A guest that is a host is moved, by one of scenario_migrate.c's, while its guest runs. */
int nested_move(struct run *run, const struct middle *middle, int (*moving)(struct run *, struct qemu_options *, unsigned int));
/* scenario_reenlighten.c */
int play_reenlighten(struct run *run);
int play_reenlighten_own(struct run *run);
int play_reenlighten_tree(struct run *run);
/* scenario_sleep.c */
int play_host_suspend(struct run *run);
int play_watchdog_quiet(struct run *run);
/* scenario_faults.c */
int play_faults(struct run *run);

#endif
