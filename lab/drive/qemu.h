/* SPDX-License-Identifier: MIT */
/*
 * qemu.h - one stock QEMU with a stock guest, here or on the peer: its command line, its monitor, its guest's probe,
 * its logs. Where a sentence says that something failed, qemu_explain adds what QEMU and its guest said last.
 */
#ifndef LAB_QEMU_H
#define LAB_QEMU_H

#include "probe.h"
#include "process.h"
#include "qmp.h"

#define QEMU_BOOT_MS 90000    /* from its start to the probe's first word; 7 to 15 s are usual on an emulated KVM */
#define QEMU_START_MS 60000   /* to its monitor; a preload learns its host's rate meanwhile */
#define QEMU_COMMAND_MS 15000 /* of QMP; it answers within a second */
#define QEMU_PROBE_MS 30000   /* of the probe */

struct qemu_options {
	const char *name;         /* of this VM, within its scenario: for logs */
	const char *who;          /* stock, steer, own, auto: without the preload, or with it in that mode */
	unsigned int cpus;        /* 0: 1 */
	unsigned int maxcpus;     /* 0: cpus */
	unsigned int memory_mb;   /* 0: 256 */
	const char *cpu;          /* NULL: host, or what the emulator has */
	const char *disk;         /* a qcow2 image that takes snapshots, or NULL */
	const char *incoming;     /* where the state comes from, or NULL */
	const char *append;       /* for the guest kernel's command line, or NULL */
	const char *kernel;       /* a guest of ours instead of Linux (bare.h), or NULL */
	const char *initrd;       /* NULL: the lab's guests' */
	const char *policy;       /* of the preload; NULL: its own */
	const char *offer;        /* by the preload; NULL: nothing */
	bool on_peer;
	bool is_host;             /* the guest is a host itself: it gets the shares, if its image is the guests'; its own guest's probe answers, or none */
};

struct qemu {
	struct lab *lab;          /* NULL: not started */
	struct peer *peer;        /* NULL: it runs here */
	char name[24], who[8];
	bool arrived;           /* its state came from another VM */
	unsigned int arrivals;  /* in the preload's log, and held against preflight */
	struct process process;   /* of the peer's, only the pid means something */
	struct qmp qmp;
	struct probe probe;
	char console[LAB_PATH], output[LAB_PATH], preload[LAB_PATH];
	char ending[48];          /* how it ended, once that was seen; else "" */
};

/* Starts it and connects to its monitor and its guest's line. 0, or -1 with a sentence; qemu_stop is needed in both
 * cases. */
int qemu_start(struct qemu *vm, struct lab *lab, const char *scenario, const struct qemu_options *options);
/* Waits until the guest's probe has started `lives` times. 0, or -1 with a sentence. */
int qemu_wait_ready(struct qemu *vm, unsigned int lives);
/* Asks it to quit, ends it if it does not. */
void qemu_stop(struct qemu *vm);
/* kill -9, as when a machine fails. */
void qemu_kill(struct qemu *vm);
/* Waits until it ends by itself. 0, or -1 with a sentence. */
int qemu_wait_end(struct qemu *vm, int timeout_ms);
bool qemu_alive(struct qemu *vm);

/* Adds to lab->error what is known of this VM: how it ended, QEMU's own last line, the guest's last line. */
void qemu_explain(struct qemu *vm);
/* What a log of it holds; allocated. */
char *qemu_read(struct qemu *vm, const char *path);

/* How often an event is in its preload's log, and the last one: a new reference, or NULL. */
unsigned int qemu_find_events(struct qemu *vm, const char *event, json_t **last);

/* Waits until query-status says `status`. 0, or -1 with a sentence. */
int qemu_wait_status(struct qemu *vm, const char *status, int timeout_ms);

/* What it holds now: descriptors, and resident memory in KB. -1: not known (it runs on the peer). */
int qemu_resources(struct qemu *vm, long *descriptors, long *memory_kb);

#endif
