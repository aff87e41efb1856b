/* SPDX-License-Identifier: MIT */
/*
 * harness.h - runs one guest under pvclock-vmm, talks to the VMM, and takes what the guest logs. Used by the demo and by the
 * tests on a real KVM.
 *
 * The harness owns the guest's memory (a memfd) and the other end of the control socket; both survive any VMM. Every wait
 * has a time limit and takes the guest's readings meanwhile, so no VMM, however it dies or hangs, stops the harness, and no
 * process that it started is left over. A function that fails leaves one sentence in `error`.
 */
#ifndef DEMO_HARNESS_H
#define DEMO_HARNESS_H

#include "shared.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define HARNESS_ERROR 512
#define HARNESS_EXTRA 12

struct harness_options {
	const char *vmm, *payload;        /* no payload: the guest comes from a snapshot */
	const char *mode;                 /* own, steer, stock, auto */
	unsigned int vcpus;
	const char *extra[HARNESS_EXTRA]; /* further arguments of the VMM, up to a NULL */
	const char *under[HARNESS_EXTRA]; /* what runs the VMM, up to a NULL: words before its own path */
};

/* Takes a vCPU's readings, oldest first. */
typedef void harness_sink(void *ctx, unsigned int vcpu, const struct vmm_ring_entry *readings, size_t count);

struct harness {
	unsigned int vcpus;
	struct vmm_shared *shared; /* in the guest's memory */
	void *memory;
	uint64_t memory_size;
	int memory_fd, control_fd, log_fd;
	pid_t group;               /* process group of every VMM of this guest */
	int exit_status;           /* as wait(2) gives it, of the last process that ended; -1: none has */
	char name[48];             /* of the memfd */
	harness_sink *sink;        /* may be NULL: readings are taken and forgotten */
	void *sink_ctx;
	uint64_t taken[VMM_VCPUS_MAX];
	char error[HARNESS_ERROR];
};

/* Whether this machine can run a guest. False: *why (HARNESS_ERROR bytes) is a sentence with the way out. */
bool harness_kvm_usable(char *why);
/* "kvm-pvm", "kvm": which KVM that is. */
const char *harness_where(void);

/*
 * Where pvclock-vmm and the payloads were built: PVCLOCK_VMM_DIR from the environment, else beside this program's own folder.
 * Allocates; NULL: out of memory.
 */
char *harness_path(const char *below);

/* SIGINT and SIGTERM become an error of whatever wait is under way, so that there is always a clean-up. Call it once, first. */
void harness_hold_signals(void);

/* 0, or -1 with an error; harness_stop is needed in both cases. */
int harness_start(struct harness *harness, const struct harness_options *options);
/*
 * Ends the VMM, and starts another one on the same memory, which it fills from a snapshot: `extra` says from which,
 * `payload` is NULL. Returns when it answers.
 */
int harness_replace(struct harness *harness, const struct harness_options *options);
/* Asks the VMM to quit, ends what is left, frees everything. `error` stays. */
void harness_stop(struct harness *harness);

/*
 * Sends a command and waits for its reply: a new reference, or NULL with an error (no reply in time, the VMM is gone, or the reply
 * is an error: `error` is then the VMM's own sentence).
 */
json_t *harness_command(struct harness *harness, const char *command, int timeout_ms);
/* A snapshot of the guest, paused, into `path`; the VMM's end; another one from there, with `options` and no payload. 0 or -1. */
int harness_restore(struct harness *harness, const struct harness_options *options, const char *path);

/* A number of a reply; `otherwise` if it has none. */
int64_t harness_number(const json_t *reply, const char *key, int64_t otherwise);
const char *harness_text(const json_t *reply, const char *key, const char *otherwise);

/* Takes what the guest logged. Returns how many readings. */
size_t harness_drain(struct harness *harness);
/* Forgets what the guest logged. */
void harness_discard(struct harness *harness);
/* Waits, taking readings. 0, or -1 (interrupted). */
int harness_run(struct harness *harness, int ms);
/* Waits until every vCPU reached its payload's loop. 0 or -1. */
int harness_wait_started(struct harness *harness, int timeout_ms);
/* Waits until every VMM has ended by itself, as when the guest is done. 0 or -1. */
int harness_wait_ended(struct harness *harness, int timeout_ms);
/* Waits until every vCPU made `readings` more readings. 0 or -1. */
int harness_wait_readings(struct harness *harness, uint64_t readings, int timeout_ms);

/* How many live processes other than this one have the guest's memory open. */
unsigned int harness_processes(const struct harness *harness);

/* Monotonic time, ms. */
int64_t harness_now_ms(void);

#endif
