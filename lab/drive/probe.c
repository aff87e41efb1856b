/* SPDX-License-Identifier: MIT */
#include "probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void probe_open(struct probe *probe, struct link *link)
{
	memset(probe, 0, sizeof(*probe));
	probe->lab = link->lab;
	probe->link = *link;
	memset(link, 0, sizeof(*link));
	link->fd = -1;
}

void probe_close(struct probe *probe)
{
	if (probe->lab)
		link_close(&probe->link);
	probe->lab = NULL;
}

/* The next JSON object on the line. NULL with a sentence. */
static json_t *receive(struct probe *probe, int64_t until_ms, const char *what)
{
	char *line;

	for (;;) {
		json_t *message;

		switch (link_receive(&probe->link, until_ms, &line)) {
		case LINK_LINE: break;
		case LINK_TIMEOUT:
			lab_fail(probe->lab, "The guest's probe did not answer \"%s\" in time.", what);
			return NULL;
		case LINK_CLOSED:
			lab_fail(probe->lab, "The guest's serial line was closed during \"%s\".", what);
			return NULL;
		default: return NULL;
		}
		message = json_loads(line, 0, NULL);
		free(line);
		if (json_is_object(message)) {
			if (json_is_true(json_object_get(message, "ready")))
				probe->lives++;
			return message;
		}
		json_decref(message); /* a line that began before we listened, or firmware's */
	}
}

int probe_wait_ready(struct probe *probe, unsigned int lives, int timeout_ms)
{
	int64_t until = lab_until(probe->lab, timeout_ms);

	while (probe->lives < lives) {
		json_t *message = receive(probe, until, "ready");

		if (!message)
			return -1;
		json_decref(message);
	}
	return 0;
}

/* begin and end name their event: an answer about another one is late, not ours. */
static bool answers(const json_t *message, const char *word, const char *argument)
{
	const json_t *value = json_object_get(message, word);

	size_t length = strcspn(argument, " ");

	return value && (!json_is_string(value) || length == 0 ||
			 (strlen(json_string_value(value)) == length && !strncmp(json_string_value(value), argument, length)));
}

static json_t *exchange(struct probe *probe, const char *command, int timeout_ms)
{
	unsigned int lives = probe->lives;
	char word[32];
	const char *argument = command + strcspn(command, " ");
	int64_t until;
	json_t *message;

	snprintf(word, sizeof(word), "%.*s", (int)(argument - command), command);
	argument += strspn(argument, " ");
	until = lab_until(probe->lab, timeout_ms);
	if (link_send(&probe->link, command, until)) {
		lab_fail(probe->lab, "The guest's serial line does not take \"%s\".", command);
		return NULL;
	}
	while ((message = receive(probe, until, command))) {
		const char *error = lab_text(message, "error", NULL);

		if (error)
			lab_fail(probe->lab, "The probe refused \"%s\": %s", command, error);
		else if (probe->lives != lives)
			lab_fail(probe->lab, "The guest restarted during \"%s\".", command);
		else if (answers(message, word, argument))
			return message;
		json_decref(message);
		if (error || probe->lives != lives)
			return NULL;
	}
	return NULL;
}

json_t *probe_ask(struct probe *probe, const char *command, int timeout_ms)
{
	int64_t start = lab_now_ms();
	json_t *reply = exchange(probe, command, timeout_ms);
	char *text = reply ? json_dumps(reply, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;

	lab_note(probe->lab, start, "probe: %s: %s", command, text ? text : probe->lab->error);
	free(text);
	return reply;
}
