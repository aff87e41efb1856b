/* SPDX-License-Identifier: MIT */
/* qmp.h - QEMU's machine protocol: a command and its answer, and the events that come in between. */
#ifndef LAB_QMP_H
#define LAB_QMP_H

#include "link.h"

#define QMP_EVENTS_MAX 256 /* kept; older ones are forgotten */

struct qmp {
	struct lab *lab;
	struct link link;
	json_t *events;        /* not yet waited for, oldest first */
	unsigned int id;
	bool gone;             /* it closed the connection */
	char last_error[256];  /* what QEMU refused last, in its own words */
};

/* On a connected link, which it takes over: reads the greeting and negotiates. 0, or -1 with a sentence. */
int qmp_open(struct qmp *qmp, struct link *link, int timeout_ms);
void qmp_close(struct qmp *qmp);

/*
 * Sends a command and returns its "return" (a new reference), or NULL with a sentence. Takes over `arguments`, which
 * may be NULL. An answer that comes too late is recognised by its id and forgotten.
 */
json_t *qmp_command(struct qmp *qmp, const char *name, json_t *arguments, int timeout_ms);
/* The same where the answer says nothing. 0 or -1. */
int qmp_do(struct qmp *qmp, const char *name, json_t *arguments, int timeout_ms);
/* A line for the human monitor, for what has no command of its own: savevm, loadvm. It answers with text only if
 * something is wrong. */
int qmp_human(struct qmp *qmp, const char *line, int timeout_ms);

/* Waits for an event, also one that has come already. Returns its data (a new reference), or NULL with a sentence. */
json_t *qmp_wait_event(struct qmp *qmp, const char *name, int timeout_ms);
/* Forgets what has come. */
void qmp_forget_events(struct qmp *qmp);

#endif
