/* SPDX-License-Identifier: MIT */
#include "peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ASK_MS 10000

int peer_open(struct peer *peer, struct lab *lab, const char *address, int timeout_ms)
{
	int64_t until = lab_until(lab, timeout_ms);
	char where[80];

	memset(peer, 0, sizeof(*peer));
	peer->lab = lab;
	snprintf(peer->address, sizeof(peer->address), "%s", address);
	snprintf(where, sizeof(where), "tcp:%s:%d", address, PEER_PORT);
	for (;;) {
		int error = link_open(&peer->link, lab, where);

		if (error == 0)
			return 0;
		if (lab_now_ms() >= until || error == -22)
			return lab_fail(lab, "No agent answers at %s: %s; start `pvclock-lab --agent` there.", where,
					strerror(-error));
		if (lab_sleep(lab, 300))
			return -1;
	}
}

json_t *peer_ask(struct peer *peer, json_t *request, int timeout_ms)
{
	int64_t until = lab_until(peer->lab, timeout_ms);
	char *text = request ? json_dumps(request, JSON_COMPACT) : NULL, *line = NULL;
	json_t *answer = NULL;

	json_decref(request);
	if (!text || link_send(&peer->link, text, until) || link_receive(&peer->link, until, &line) != LINK_LINE) {
		lab_fail(peer->lab, "The agent at %s did not answer \"%.60s\".", peer->address, text ? text : "");
		link_close(&peer->link); /* a late answer must not be taken for a later one's */
	} else {
		answer = json_loads(line, 0, NULL);
		if (!answer || json_object_get(answer, "error")) {
			lab_fail(peer->lab, "The agent at %s: %s", peer->address,
				 lab_text(answer, "error", "no JSON."));
			json_decref(answer);
			answer = NULL;
		}
	}
	free(text);
	free(line);
	return answer;
}

void peer_close(struct peer *peer)
{
	if (!peer->lab)
		return;
	if (peer->link.lab)
		json_decref(peer_ask(peer, json_pack("{s:b}", "quit", 1), 2000));
	link_close(&peer->link);
	peer->lab = NULL;
}

pid_t peer_spawn(struct peer *peer, char *const *argv, const char *log)
{
	json_t *list = json_array(), *answer;
	pid_t pid;

	for (size_t i = 0; argv[i]; i++)
		json_array_append_new(list, json_string(argv[i]));
	answer = peer_ask(peer, json_pack("{s:o, s:s}", "spawn", list, "log", log), ASK_MS);
	pid = (pid_t)lab_number(answer, "pid", 0);
	json_decref(answer);
	return pid;
}

bool peer_alive(struct peer *peer, pid_t pid)
{
	json_t *answer = peer_ask(peer, json_pack("{s:i}", "alive", (int)pid), ASK_MS);
	bool alive = json_is_true(json_object_get(answer, "alive"));

	json_decref(answer);
	return alive;
}

bool peer_ended(struct peer *peer, pid_t pid, char ending[32])
{
	json_t *answer = peer_ask(peer, json_pack("{s:i}", "alive", (int)pid), ASK_MS);
	bool ended = json_is_false(json_object_get(answer, "alive"));

	snprintf(ending, 32, "%s", lab_text(answer, "ending", ""));
	json_decref(answer);
	return ended;
}

void peer_kill(struct peer *peer, pid_t pid)
{
	json_decref(peer_ask(peer, json_pack("{s:i}", "kill", (int)pid), ASK_MS));
}

char *peer_log(struct peer *peer, const char *path)
{
	json_t *answer = peer_ask(peer, json_pack("{s:s}", "log", path), ASK_MS);
	char *text = strdup(lab_text(answer, "log", ""));

	json_decref(answer);
	return text;
}
