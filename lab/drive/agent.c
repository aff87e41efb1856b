/* SPDX-License-Identifier: MIT */
#include "host.h"
#include "peer.h"
#include "process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

#define PROCESSES_MAX 32 /* a suite's QEMUs end before the next ones start */
#define LOG_MAX (256u << 10)

struct agent {
	struct lab *lab;
	struct process processes[PROCESSES_MAX];
	struct host host;
	bool quit;
};

static struct process *find(struct agent *agent, pid_t pid)
{
	for (size_t i = 0; i < PROCESSES_MAX; i++)
		if (agent->processes[i].pid == pid)
			return &agent->processes[i];
	return NULL;
}

static json_t *spawn(struct agent *agent, const json_t *request)
{
	const json_t *list = json_object_get(request, "spawn");
	struct process *process = find(agent, 0);
	size_t count = json_array_size(list);
	char **argv = calloc(count + 1, sizeof(*argv));
	int result = -1;

	for (size_t i = 0; argv && i < count; i++)
		argv[i] = (char *)(uintptr_t)json_string_value(json_array_get(list, i));
	if (!argv || !count || !argv[0])
		lab_fail(agent->lab, "\"spawn\" wants a list of words.");
	else if (!process)
		lab_fail(agent->lab, "%d processes have been started and not killed; that is too many.", PROCESSES_MAX);
	else
		result = process_start(agent->lab, process, argv, lab_text(request, "log", "/dev/null"));
	free(argv);
	return result ? NULL : json_pack("{s:i}", "pid", (int)process->pid);
}

static json_t *tell_alive(struct agent *agent, pid_t pid)
{
	struct process *process = pid > 0 ? find(agent, pid) : NULL;
	char text[32];

	if (process && process_alive(process))
		return json_pack("{s:b}", "alive", 1);
	return json_pack("{s:b, s:s}", "alive", 0, "ending", process ? process_ending(process, text) : "unknown");
}

static json_t *tell_log(const char *path)
{
	char *text = lab_read_tail(path, LOG_MAX);
	json_t *value = text ? json_string(text) : NULL;

	for (char *at = text; !value && at && *at; at++) /* a console may say what is no UTF-8 */
		if ((unsigned char)*at > 126)
			*at = '?';
	if (!value && text)
		value = json_string(text);
	free(text);
	return json_pack("{s:o}", "log", value ? value : json_string(""));
}

/* NULL: the sentence is in lab->error. */
static json_t *serve(struct agent *agent, const json_t *request)
{
	pid_t pid;

	if (json_object_get(request, "spawn"))
		return spawn(agent, request);
	if ((pid = (pid_t)lab_number(request, "alive", 0)))
		return tell_alive(agent, pid);
	if ((pid = (pid_t)lab_number(request, "kill", 0))) {
		struct process *process = pid > 0 ? find(agent, pid) : NULL;

		if (process)
			process_kill(process);
		return json_pack("{s:i}", "killed", (int)pid);
	}
	if (json_object_get(request, "log"))
		return tell_log(lab_text(request, "log", ""));
	if (json_object_get(request, "host")) {
		host_learn(&agent->host, true);
		return host_json(&agent->host);
	}
	if (json_object_get(request, "tsc"))
		return json_pack("{s:I}", "tsc", (json_int_t)__rdtsc());
	if (json_object_get(request, "quit")) {
		agent->quit = true;
		return json_pack("{s:b}", "quit", 1);
	}
	lab_fail(agent->lab, "No such request; there are spawn, alive, kill, log, host, tsc and quit.");
	return NULL;
}

static bool answer(struct agent *agent, struct link *link, const char *line)
{
	json_t *request = json_loads(line, 0, NULL), *reply = serve(agent, request);
	char *text;
	int result;

	if (!reply)
		reply = json_pack("{s:s}", "error", agent->lab->error);
	text = reply ? json_dumps(reply, JSON_COMPACT) : NULL;
	result = text ? link_send(link, text, lab_now_ms() + 10000) : -1;
	free(text);
	json_decref(reply);
	json_decref(request);
	return result == 0;
}

int agent_run(struct lab *lab, int wait_ms)
{
	int64_t until = lab_until(lab, wait_ms);
	struct agent *agent = calloc(1, sizeof(*agent));
	char address[80], *line;
	struct link link;
	int fd;

	snprintf(address, sizeof(address), "tcp:%s:%d", lab->self, PEER_PORT);
	printf("pvclock-lab: agent on %s\n", address);
	fflush(stdout);
	fd = agent ? link_accept(lab, address, until) : -1;
	if (fd < 0) {
		fprintf(stderr, "pvclock-lab: %s\n", agent ? lab->error : "Out of memory.");
		free(agent);
		return 1;
	}
	agent->lab = lab;
	link_adopt(&link, lab, fd);
	while (!agent->quit && link_receive(&link, until, &line) == LINK_LINE) {
		bool sent = answer(agent, &link, line);

		free(line);
		if (!sent)
			break;
	}
	for (size_t i = 0; i < PROCESSES_MAX; i++)
		process_kill(&agent->processes[i]);
	link_close(&link);
	free(agent);
	return 0;
}
