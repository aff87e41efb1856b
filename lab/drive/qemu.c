/* SPDX-License-Identifier: MIT */
#include "qemu.h"

#include "peer.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORDS_MAX 96
#define LOG_TAIL (1u << 20)
#define PORT_FIRST 7100 /* of a VM on the peer: two ports each */

struct words {
	char *word[WORDS_MAX + 1];
	size_t count;
	bool full;
};

static void add(struct words *words, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct words *words, const char *format, ...)
{
	char *text = NULL;
	va_list arguments;

	va_start(arguments, format);
	if (words->count == WORDS_MAX || vasprintf(&text, format, arguments) < 0)
		words->full = true;
	else
		words->word[words->count++] = text;
	va_end(arguments);
}

static void clear(struct words *words)
{
	while (words->count)
		free(words->word[--words->count]);
}

/* A chardev or monitor address as QEMU writes it, and as we connect to it. */
struct endpoint {
	char option[LAB_PATH + 64], address[LAB_PATH + 64];
};

static void make_endpoint(const struct qemu *vm, const char *kind, int port, struct endpoint *endpoint)
{
	if (vm->peer) {
		snprintf(endpoint->option, sizeof(endpoint->option), "host=%s,port=%d", vm->peer->address, port);
		snprintf(endpoint->address, sizeof(endpoint->address), "tcp:%s:%d", vm->peer->address, port);
	} else {
		snprintf(endpoint->option, sizeof(endpoint->option), "path=%s/%s.%s", vm->lab->work, vm->name, kind);
		snprintf(endpoint->address, sizeof(endpoint->address), "unix:%s/%s.%s", vm->lab->work, vm->name, kind);
	}
}

static void add_shares(struct words *words)
{
	static const char *const shares[][2] = { { "p", ",readonly=on" }, { "out", "" } };

	for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
		add(words, "-virtfs");
		add(words, "local,path=/%s,mount_tag=%s,security_model=none,multidevs=remap%s", shares[i][0],
		    shares[i][0], shares[i][1]);
	}
}

static void add_kernel(struct words *words, const struct lab *lab, const struct qemu_options *options)
{
	add(words, "-kernel");
	add(words, "%s", options->kernel ? options->kernel : lab->kernel);
	add(words, "-append");
	if (options->kernel) {
		add(words, "%s", options->append);
		return;
	}
	/* else Linux looks for devices on 255 buses, by an exit each: a third of its boot, and more with each level of nesting */
	add(words, "console=ttyS0 panic=-1 quiet pci=lastbus=0 %s%s", options->is_host ? "" : "pvclock.probe=ttyS1 ",
	    options->append ? options->append : "");
	add(words, "-initrd");
	add(words, "%s", options->initrd ? options->initrd : lab->initrd);
}

static void add_machine(struct words *words, const struct lab *lab, const struct qemu_options *options)
{
	unsigned int cpus = options->cpus ? options->cpus : 1, most = options->maxcpus > cpus ? options->maxcpus : cpus;

	add(words, "-nodefaults");
	add(words, "-no-user-config");
	add(words, "-M");
	add(words, "q35,hpet=off");
	add(words, "-accel");
	add(words, "%s", lab->accel);
	add(words, "-cpu");
	add(words, "%s", options->cpu ? options->cpu : strcmp(lab->accel, "tcg") ? "host" : "max");
	add(words, "-smp");
	add(words, "%u,maxcpus=%u", cpus, most);
	add(words, "-m");
	add(words, "%u", options->memory_mb ? options->memory_mb : 256);
	add_kernel(words, lab, options);
	add(words, "-display");
	add(words, "none");
	if (options->disk) { /* nothing of the guest is on it */
		add(words, "-drive");
		add(words, "if=none,id=snapshots,format=qcow2,file=%s", options->disk);
	}
	if (options->incoming) {
		add(words, "-incoming");
		add(words, "%s", options->incoming);
	}
	if (options->is_host) {
		add(words, "-no-reboot"); /* it ends as the lab's hosts end: with a reset, which is quicker than an
					     orderly power-off */
		if (!options->initrd)
			add_shares(words);
	}
}

static void add_lines(struct words *words, const struct qemu *vm, const struct endpoint *monitor,
		      const struct endpoint *probe)
{
	add(words, "-serial");
	add(words, "file:%s", vm->console);
	add(words, "-chardev");
	add(words, "socket,id=probe,server=on,wait=off,%s", probe->option);
	add(words, "-serial");
	add(words, "chardev:probe");
	add(words, "-chardev");
	add(words, "socket,id=monitor,server=on,wait=off,%s", monitor->option);
	add(words, "-mon");
	add(words, "chardev=monitor,mode=control");
}

static int spawn(struct qemu *vm, struct words *words)
{
	if (words->full)
		return lab_fail(vm->lab, "QEMU's command line does not fit in %d words, or memory is out.", WORDS_MAX);
	words->word[words->count] = NULL;
	if (!vm->peer)
		return process_start(vm->lab, &vm->process, words->word, vm->output);
	vm->process.pid = peer_spawn(vm->peer, words->word, vm->output);
	return vm->process.pid > 0 ? 0 : -1;
}

/* Tries until it answers, or is seen to have ended. */
static int connect_to(struct qemu *vm, struct link *link, const char *address, const char *what)
{
	int64_t until = lab_until(vm->lab, QEMU_COMMAND_MS);
	int error;

	while ((error = link_open(link, vm->lab, address)) != 0) {
		if (!qemu_alive(vm))
			return lab_fail(vm->lab, "QEMU ended before it opened %s.", what);
		if (lab_now_ms() >= until)
			return lab_fail(vm->lab, "QEMU did not open %s in time (%s: %s).", what, address,
					strerror(-error));
		if (lab_sleep(vm->lab, 50))
			return -1;
	}
	return 0;
}

static int connect_all(struct qemu *vm, const struct endpoint *monitor, const struct endpoint *probe)
{
	struct link link;

	if (connect_to(vm, &link, probe->address, "the probe's line"))
		return -1;
	probe_open(&vm->probe, &link);
	if (connect_to(vm, &link, monitor->address, "its monitor"))
		return -1;
	return qmp_open(&vm->qmp, &link, QEMU_START_MS);
}

int qemu_start(struct qemu *vm, struct lab *lab, const char *scenario, const struct qemu_options *options)
{
	struct words words = { .count = 0 };
	struct endpoint monitor, probe;
	int port = PORT_FIRST, result;
	int64_t start;

	memset(vm, 0, sizeof(*vm));
	vm->lab = lab;
	vm->peer = options->on_peer ? lab->peer : NULL;
	if (options->on_peer && !lab->peer)
		return lab_fail(lab, "There is no peer.");
	if (vm->peer)
		port += 2 * (int)(lab->peer_ports++ % 400); /* a port just left may be in TIME_WAIT */
	snprintf(vm->name, sizeof(vm->name), "%s", options->name);
	snprintf(vm->who, sizeof(vm->who), "%s", options->who);
	vm->arrived = options->incoming != NULL;
	make_endpoint(vm, "monitor", port, &monitor);
	make_endpoint(vm, "probe", port + 1, &probe);
	snprintf(vm->console, sizeof(vm->console), "%.300s/%s-%s-%s.console", lab->logs, scenario, vm->who, vm->name);
	snprintf(vm->output, sizeof(vm->output), "%.300s/%s-%s-%s.stderr", lab->logs, scenario, vm->who, vm->name);
	snprintf(vm->preload, sizeof(vm->preload), "%.300s/%s-%s-%s.preload", lab->logs, scenario, vm->who, vm->name);
	unlink(vm->preload); /* it is appended to */

	if (strcmp(vm->who, "stock")) {
		add(&words, "%s", lab->pvclock);
		add(&words, "run");
		add(&words, "--mode");
		add(&words, "%s", vm->who);
		if (options->policy) {
			add(&words, "--policy");
			add(&words, "%s", options->policy);
		}
		add(&words, "--records");
		add(&words, "%s", lab->logs);
		if (options->offer) {
			add(&words, "--offer");
			add(&words, "%s", options->offer);
		}
		add(&words, "--log");
		add(&words, "%s", vm->preload);
		add(&words, "--");
	}
	add(&words, "%s", lab->qemu);
	add_machine(&words, lab, options);
	add_lines(&words, vm, &monitor, &probe);
	start = lab_now_ms();
	result = spawn(vm, &words);
	clear(&words);
	if (result == 0)
		result = connect_all(vm, &monitor, &probe);
	lab_note(lab, start, "%s, %s: QEMU started", scenario, vm->name);
	if (result)
		qemu_explain(vm);
	return result;
}

int qemu_wait_ready(struct qemu *vm, unsigned int lives)
{
	int64_t start = lab_now_ms();
	int result = probe_wait_ready(&vm->probe, lives, QEMU_BOOT_MS);

	lab_note(vm->lab, start, "%s: ready", vm->name);
	if (result == 0)
		return 0;
	qemu_explain(vm);
	return -1;
}

bool qemu_alive(struct qemu *vm)
{
	char text[32];

	if (vm->process.pid <= 0)
		return false;
	if (vm->peer)
		return peer_alive(vm->peer, vm->process.pid);
	if (process_alive(&vm->process))
		return true;
	snprintf(vm->ending, sizeof(vm->ending), "%s", process_ending(&vm->process, text));
	return false;
}

int qemu_wait_end(struct qemu *vm, int timeout_ms)
{
	int64_t until = lab_until(vm->lab, timeout_ms);

	while (qemu_alive(vm)) {
		if (lab_now_ms() >= until)
			return lab_fail(vm->lab, "QEMU did not end in time.");
		if (lab_sleep(vm->lab, vm->peer ? 300 : 20))
			return -1;
	}
	return 0;
}

void qemu_kill(struct qemu *vm)
{
	if (vm->process.pid <= 0)
		return;
	if (vm->peer)
		peer_kill(vm->peer, vm->process.pid);
	else
		process_kill(&vm->process);
	vm->process.pid = 0;
}

void qemu_stop(struct qemu *vm)
{
	char error[LAB_ERROR];
	int64_t until, start = lab_now_ms();

	if (!vm->lab)
		return;
	memcpy(error, vm->lab->error, sizeof(error)); /* what went wrong is not what the clean-up says */
	if (vm->process.pid > 0 && vm->qmp.lab) {
		qmp_do(&vm->qmp, "quit", NULL, 1000);
		until = lab_now_ms() + (int64_t)(3000 * vm->lab->slow);
		while (qemu_alive(vm) && lab_now_ms() < until)
			poll(NULL, 0, vm->peer ? 200 : 10);
	}
	lab_note(vm->lab, start, "%s: stopped", vm->name);
	qemu_kill(vm);
	qmp_close(&vm->qmp);
	probe_close(&vm->probe);
	memcpy(vm->lab->error, error, sizeof(error));
	vm->lab = NULL;
}

char *qemu_read(struct qemu *vm, const char *path)
{
	return vm->peer ? peer_log(vm->peer, path) : lab_read_tail(path, LOG_TAIL);
}

static void explain_by(struct qemu *vm, const char *what, const char *path)
{
	char *text = qemu_read(vm, path), *line = text ? lab_last_line(text) : NULL;

	if (line && *line)
		lab_add(vm->lab, " %s last line: \"%.160s\".", what, line);
	free(text);
}

/* For the journal: where the guest was when it did not answer. */
static void note_state(struct qemu *vm)
{
	static const char *const questions[] = { "info status", "info registers -a", "info lapic", "info pic" };
	char error[LAB_ERROR];

	if (!vm->lab->journal)
		return;
	memcpy(error, vm->lab->error, sizeof(error));
	for (size_t i = 0; i < sizeof(questions) / sizeof(questions[0]); i++) {
		int64_t start = lab_now_ms();
		json_t *answer = qmp_command(&vm->qmp, "human-monitor-command",
					     json_pack("{s:s}", "command-line", questions[i]), 2000);

		if (!answer)
			break; /* it answers no one */
		lab_note(vm->lab, start, "%s:\n%s", questions[i], json_string_value(answer));
		json_decref(answer);
	}
	memcpy(vm->lab->error, error, sizeof(error));
}

void qemu_explain(struct qemu *vm)
{
	char error[LAB_ERROR];

	if (!vm->lab || vm->lab->interrupted)
		return;
	memcpy(error, vm->lab->error, sizeof(error));
	/* one whose sockets are closed is about to end */
	for (int64_t until = lab_now_ms() + 1000; vm->qmp.gone && qemu_alive(vm) && lab_now_ms() < until;)
		poll(NULL, 0, 20);
	if (vm->process.pid > 0 && !qemu_alive(vm) && vm->ending[0])
		snprintf(error + strlen(error), sizeof(error) - strlen(error), " %s's QEMU ended with %s.", vm->name,
			 vm->ending);
	memcpy(vm->lab->error, error, sizeof(error)); /* the peer may have left a sentence meanwhile */
	if (vm->qmp.last_error[0] && !strstr(error, vm->qmp.last_error))
		lab_add(vm->lab, " It had refused: %s", vm->qmp.last_error);
	if (vm->qmp.lab && !vm->qmp.gone)
		note_state(vm);
	explain_by(vm, "QEMU's", vm->output);
	explain_by(vm, "The guest's", vm->console);
}

int qemu_wait_status(struct qemu *vm, const char *status, int timeout_ms)
{
	int64_t until = lab_until(vm->lab, timeout_ms);
	char last[32] = "?";

	for (;;) {
		json_t *answer = qmp_command(&vm->qmp, "query-status", NULL, QEMU_COMMAND_MS);
		bool good = !strcmp(lab_text(answer, "status", ""), status);

		snprintf(last, sizeof(last), "%s", lab_text(answer, "status", "?"));
		json_decref(answer);
		if (good)
			return 0;
		if (!answer || lab_now_ms() >= until) {
			if (answer)
				lab_fail(vm->lab, "%s's QEMU did not become \"%s\" in time; it is \"%s\".", vm->name,
					 status, last);
			qemu_explain(vm);
			return -1;
		}
		if (lab_sleep(vm->lab, 20))
			return -1;
	}
}

int qemu_resources(struct qemu *vm, long *descriptors, long *memory_kb)
{
	char path[64], *text, *line;
	struct dirent *entry;
	DIR *directory;

	*descriptors = *memory_kb = -1;
	if (vm->peer)
		return -1;
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)vm->process.pid);
	directory = opendir(path);
	if (directory) {
		*descriptors = 0;
		while ((entry = readdir(directory)))
			*descriptors += entry->d_name[0] != '.';
		closedir(directory);
	}
	snprintf(path, sizeof(path), "/proc/%d/status", (int)vm->process.pid);
	text = lab_read_tail(path, 8192);
	line = text ? strstr(text, "VmRSS:") : NULL;
	if (line)
		*memory_kb = strtol(line + 6, NULL, 10);
	free(text);
	return *descriptors >= 0 && *memory_kb >= 0
		       ? 0
		       : lab_fail(vm->lab, "What QEMU holds cannot be read: %s.", strerror(errno));
}

unsigned int qemu_find_events(struct qemu *vm, const char *event, json_t **last)
{
	char *text = vm->preload[0] ? qemu_read(vm, vm->preload) : NULL;
	unsigned int count = 0;

	*last = NULL;
	for (const char *line = text; line && *line; line += strcspn(line, "\n"), line += *line == '\n') {
		json_t *entry = json_loadb(line, strcspn(line, "\n"), 0, NULL);

		if (json_is_object(entry) && !strcmp(lab_text(entry, "event", ""), event)) {
			json_decref(*last);
			*last = json_incref(entry);
			count++;
		}
		json_decref(entry);
	}
	free(text);
	return count;
}
