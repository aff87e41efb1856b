/* SPDX-License-Identifier: MIT */
/* probe.h - the link to pvclock-probe inside the guest: a command, one line of JSON in reply. */
#ifndef LAB_PROBE_H
#define LAB_PROBE_H

#include "link.h"

struct probe {
	struct lab *lab;
	struct link link;
	unsigned int lives; /* how many times a probe has said that it is ready: a guest that restarts says it again */
};

/* Takes over a connected link. */
void probe_open(struct probe *probe, struct link *link);
void probe_close(struct probe *probe);

/* Waits until a probe has started `lives` times, counted from probe_open. 0, or -1 with a sentence. */
int probe_wait_ready(struct probe *probe, unsigned int lives, int timeout_ms);

/*
 * Sends a command ("end pause") and returns the reply, the object whose key is the command's first word, or NULL with a
 * sentence: no reply in time, the guest is gone, it restarted, or what the probe says against the command. Late answers
 * to earlier commands, and whatever else came over the line, are passed over.
 */
json_t *probe_ask(struct probe *probe, const char *command, int timeout_ms);

#endif
