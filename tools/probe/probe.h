/* SPDX-License-Identifier: MIT */
/* probe.h - the probe: what it watches, what it is asked, what it says. */
#ifndef PROBE_H
#define PROBE_H

#include "event.h"
#include "json.h"

#include <sched.h>
#include <stdbool.h>

/* How often, in ms, it looks for CPUs while nobody asks anything. */
#define PROBE_IDLE_MS 250

struct probe {
	const struct clocks *clocks;
	struct pages pages;
	struct watch watch;
	struct events events;
	cpu_set_t present; /* CPUs seen so far */
	bool quit;
};

/* Starts watching. 0 or an errno. */
int probe_open(struct probe *probe, const struct clocks *clocks);
void probe_close(struct probe *probe);

/* Every now and then: CPUs that came, and how the clocks stand to each other. */
void probe_tend(struct probe *probe);

/* Looks for the page, if it is not known: Linux maps it only once it has kept time by it. */
void probe_look_for_page(struct probe *probe);

/* --- protocol.c ---------------------------------------------------------------------- */

/* What is said once at the start. */
void probe_ready(struct probe *probe, struct json *reply);
/* Does what a line says, and answers it; `reply` comes empty. A quit is in probe->quit. */
void probe_command(struct probe *probe, const char *line, struct json *reply);

/* --- talk.c ------------------------------------------------------------------------------ */

/* Answers what comes in until a quit or the end of the input: 0. Or an errno. */
int probe_talk(struct probe *probe, int in, int out);
/* A serial line, raw. A descriptor, or -1 with errno set. */
int open_line(const char *path);

/* --- once.c ---------------------------------------------------------------------------- */

/* Watches so long, and tells a person. 0, or 1 if a clock went back. */
int probe_once(struct probe *probe, double seconds);

#endif
