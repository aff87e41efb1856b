/* SPDX-License-Identifier: MIT */
/*
 * lab.h - what one run of the driver is about: where things are, how patient it is, and the one sentence that says what
 * went wrong.
 *
 * A function that fails returns -1, NULL or false and has left that sentence in `error`. Every wait ends at the earlier
 * of its own limit and the scenario's deadline, so nothing that is driven can hang the driver.
 */
#ifndef LAB_LAB_H
#define LAB_LAB_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define LAB_ERROR 1024
#define LAB_PATH 512

struct peer;

struct lab {
	/* what is run */
	const char *accel;         /* kvm or tcg */
	const char *qemu;          /* the program, looked for in PATH */
	char pvclock[LAB_PATH];    /* the command that starts QEMU with the preload */
	char driver[LAB_PATH];     /* this program */
	char kernel[LAB_PATH], initrd[LAB_PATH];
	char nested[LAB_PATH];     /* the image of a guest that is a host and has no shares */
	char work[LAB_PATH];       /* sockets, disks, streams; removed at the end */
	char logs[LAB_PATH];       /* consoles, QEMU's stderr, the preload's log; kept */
	const char *where;         /* "kvm", "lab", "nested": said in the rows */
	const char *self, *peer_address; /* of this host and of the other one; peer_address may be NULL */
	struct peer *peer;         /* NULL: there is none */
	unsigned int peer_ports;   /* how many VMs were given ports there */
	unsigned int events;       /* of every scenario; 0: each its own number */
	unsigned int pause_ms;
	double slow;               /* every limit is multiplied by it */

	FILE *journal;             /* what was asked, when, and how long the answer took; NULL: nowhere */
	int64_t deadline_ms;       /* of the scenario under way; 0: none */
	bool interrupted;
	char error[LAB_ERROR];
};

/* Leaves a sentence; always -1. */
int lab_fail(struct lab *lab, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Adds to the sentence that is there. */
void lab_add(struct lab *lab, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line of the journal: what began at `start_ms`, and is over now. */
void lab_note(struct lab *lab, int64_t start_ms, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Monotonic time. */
int64_t lab_now_ms(void);
int64_t lab_now_ns(void);
/* When a wait of `timeout_ms` at a usual speed ends here: scaled, and cut at the scenario's deadline. */
int64_t lab_until(const struct lab *lab, int64_t timeout_ms);

/* SIGINT, SIGTERM and SIGHUP become an error of whatever wait is under way, so that there is always a clean-up. Call it
 * once, first. */
void lab_hold_signals(void);
/* For a child, before exec. */
void lab_release_signals(void);
/* True, with an error, once such a signal has come. */
bool lab_interrupted(struct lab *lab);

/* Sleeps; not scaled. 0, or -1 (interrupted, or the scenario's time is over). */
int lab_sleep(struct lab *lab, int ms);

/* A file's text, from its end at most `limit` bytes; allocated, never NULL unless out of memory: "" if it cannot be
 * read. */
char *lab_read_tail(const char *path, size_t limit);
/* The last line of a text that holds more than blanks; points into it, which is cut. */
char *lab_last_line(char *text);

/* Of a JSON object. */
int64_t lab_number(const json_t *object, const char *key, int64_t otherwise);
const char *lab_text(const json_t *object, const char *key, const char *otherwise);

#endif
