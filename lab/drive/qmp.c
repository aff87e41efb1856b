/* SPDX-License-Identifier: MIT */
#include "qmp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The next message; events go on the list and are returned too. NULL with a sentence about `what`. */
static json_t *receive(struct qmp *qmp, int64_t until_ms, const char *what)
{
	char *line;
	json_t *message;

	switch (link_receive(&qmp->link, until_ms, &line)) {
	case LINK_LINE: break;
	case LINK_TIMEOUT: lab_fail(qmp->lab, "QEMU did not answer \"%s\" in time.", what); return NULL;
	case LINK_CLOSED:
		qmp->gone = true;
		lab_fail(qmp->lab, "QEMU closed its monitor during \"%s\".", what);
		return NULL;
	default: return NULL;
	}
	message = json_loads(line, 0, NULL);
	if (!json_is_object(message)) {
		lab_fail(qmp->lab, "QEMU's monitor said something that is no JSON object: \"%.80s\".", line);
		json_decref(message);
		message = NULL;
	}
	free(line);
	if (message && json_object_get(message, "event")) {
		while (json_array_size(qmp->events) >= QMP_EVENTS_MAX)
			json_array_remove(qmp->events, 0);
		json_array_append(qmp->events, message);
	}
	return message;
}

int qmp_open(struct qmp *qmp, struct link *link, int timeout_ms)
{
	int64_t until = lab_until(link->lab, timeout_ms);
	json_t *greeting;
	bool good;

	memset(qmp, 0, sizeof(*qmp));
	qmp->lab = link->lab;
	qmp->link = *link;
	memset(link, 0, sizeof(*link));
	link->fd = -1;
	qmp->events = json_array();
	greeting = receive(qmp, until, "the greeting");
	if (!greeting)
		return -1;
	good = json_object_get(greeting, "QMP") != NULL;
	json_decref(greeting);
	if (!good)
		return lab_fail(qmp->lab, "What answers there is not QEMU's monitor: its greeting has no \"QMP\".");
	return qmp_do(qmp, "qmp_capabilities", NULL, timeout_ms);
}

void qmp_close(struct qmp *qmp)
{
	if (!qmp->lab)
		return;
	link_close(&qmp->link);
	json_decref(qmp->events);
	qmp->events = NULL;
	qmp->lab = NULL;
}

static int send_command(struct qmp *qmp, const char *name, json_t *arguments, int64_t until_ms)
{
	json_t *command = json_pack("{s:s, s:i, s:o*}", "execute", name, "id", (int)++qmp->id, "arguments", arguments);
	char *text = command ? json_dumps(command, JSON_COMPACT) : NULL;
	int result = text ? link_send(&qmp->link, text, until_ms) : -1;

	free(text);
	json_decref(command);
	return result ? lab_fail(qmp->lab, "QEMU is gone: it cannot take \"%s\".", name) : 0;
}

static json_t *exchange(struct qmp *qmp, const char *name, json_t *arguments, int timeout_ms)
{
	int64_t until = lab_until(qmp->lab, timeout_ms);
	json_t *message, *answer;

	if (send_command(qmp, name, arguments, until))
		return NULL;
	while ((message = receive(qmp, until, name))) {
		const json_t *error = json_object_get(message, "error");

		/* an error without an id is about a line that QEMU could not read: ours */
		if (lab_number(message, "id", error ? qmp->id : 0) != qmp->id) {
			json_decref(message);
			continue;
		}
		if (error) {
			snprintf(qmp->last_error, sizeof(qmp->last_error), "%s",
				 lab_text(error, "desc", "no reason given"));
			lab_fail(qmp->lab, "QEMU refused \"%s\": %s", name, qmp->last_error);
			json_decref(message);
			return NULL;
		}
		answer = json_incref(json_object_get(message, "return"));
		json_decref(message);
		if (!answer)
			lab_fail(qmp->lab, "QEMU's answer to \"%s\" has neither a result nor an error.", name);
		return answer;
	}
	return NULL;
}

json_t *qmp_command(struct qmp *qmp, const char *name, json_t *arguments, int timeout_ms)
{
	int64_t start = lab_now_ms();
	json_t *answer = exchange(qmp, name, arguments, timeout_ms);

	lab_note(qmp->lab, start, "monitor: %s%s%s", name, answer ? "" : ": ", answer ? "" : qmp->lab->error);
	return answer;
}

int qmp_do(struct qmp *qmp, const char *name, json_t *arguments, int timeout_ms)
{
	json_t *answer = qmp_command(qmp, name, arguments, timeout_ms);

	json_decref(answer);
	return answer ? 0 : -1;
}

int qmp_human(struct qmp *qmp, const char *line, int timeout_ms)
{
	json_t *answer =
		qmp_command(qmp, "human-monitor-command", json_pack("{s:s}", "command-line", line), timeout_ms);
	const char *said = json_string_value(answer);
	int result = answer ? 0 : -1;

	if (said && *said) {
		snprintf(qmp->last_error, sizeof(qmp->last_error), "%.*s", (int)strcspn(said, "\r\n"), said);
		result = lab_fail(qmp->lab, "QEMU refused \"%s\": %s", line, qmp->last_error);
	}
	json_decref(answer);
	return result;
}

static json_t *take_event(struct qmp *qmp, const char *name)
{
	for (size_t i = 0; i < json_array_size(qmp->events); i++) {
		json_t *event = json_array_get(qmp->events, i), *data;

		if (strcmp(lab_text(event, "event", ""), name))
			continue;
		data = json_object_get(event, "data");
		data = data ? json_incref(data) : json_object();
		json_array_remove(qmp->events, i);
		return data;
	}
	return NULL;
}

json_t *qmp_wait_event(struct qmp *qmp, const char *name, int timeout_ms)
{
	int64_t until = lab_until(qmp->lab, timeout_ms);
	json_t *data;

	while (!(data = take_event(qmp, name))) {
		json_t *message = receive(qmp, until, name);

		if (!message)
			return NULL;
		json_decref(message);
	}
	return data;
}

void qmp_forget_events(struct qmp *qmp)
{
	json_array_clear(qmp->events);
}
