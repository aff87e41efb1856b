/* SPDX-License-Identifier: MIT */
/*
 * peer.h - a second host, on which `pvclock-lab --agent` starts and ends QEMUs as told. One JSON object a line each
 * way:
 *
 *   {"spawn":[ARGV...],"log":PATH}   {"pid":N}         PATH takes both outputs
 *   {"alive":PID}                    {"alive":BOOL,"ending":"signal 9"}
 *   {"kill":PID}                     {"killed":PID}
 *   {"log":PATH}                     {"log":TEXT}      the last 256 KB
 *   {"host":true}                    as host.h         kernel, clocksource, true rate
 *   {"tsc":true}                     {"tsc":N}
 *   {"quit":true}                    {"quit":true}     and it ends; so it does when the connection ends
 *
 * What cannot be done is answered with {"error":SENTENCE}. Everything that it started ends with it.
 */
#ifndef LAB_PEER_H
#define LAB_PEER_H

#include "link.h"

#include <sys/types.h>

#define PEER_PORT 7000

struct peer {
	struct lab *lab;
	struct link link;
	char address[48]; /* its host */
};

/* Connects, trying for `timeout_ms`: the peer may still be booting. 0, or -1 with a sentence. */
int peer_open(struct peer *peer, struct lab *lab, const char *address, int timeout_ms);
/* Tells the agent to end. */
void peer_close(struct peer *peer);

/* A request, taken over, and its answer (a new reference), or NULL with a sentence. */
json_t *peer_ask(struct peer *peer, json_t *request, int timeout_ms);
/* What it starts there; 0: not started, with a sentence. */
pid_t peer_spawn(struct peer *peer, char *const *argv, const char *log);
bool peer_alive(struct peer *peer, pid_t pid);
/* With how: "exit status 0". False: it runs, or the agent does not answer. */
bool peer_ended(struct peer *peer, pid_t pid, char ending[32]);
void peer_kill(struct peer *peer, pid_t pid);
/* Allocated; never NULL unless out of memory. */
char *peer_log(struct peer *peer, const char *path);

/* The agent: listens, serves one connection, ends. The program's exit code. */
int agent_run(struct lab *lab, int wait_ms);

#endif
