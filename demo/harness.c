/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DRAIN_MS 2        /* a fast guest fills its ring in less; what does not fit is dropped, not wrong */
#define REPLY_MAX 65536u
#define START_MS 20000 /* for a VMM that proves its host's slope first */

static int fail(struct harness *harness, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int fail(struct harness *harness, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(harness->error, sizeof(harness->error), format, arguments);
	va_end(arguments);
	return -1;
}

int64_t harness_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void held_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGHUP);
}

void harness_hold_signals(void)
{
	sigset_t set;

	held_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static bool interrupted(struct harness *harness)
{
	struct timespec none = { 0, 0 };
	sigset_t set;
	int number;

	held_signals(&set);
	number = sigtimedwait(&set, NULL, &none);
	if (number < 0)
		return false;
	fail(harness, "Interrupted by signal %d.", number);
	raise(number); /* stays pending: the next wait ends as well */
	return true;
}

/* The last line that the VMM or its guest printed: often the reason. */
static void last_words(const struct harness *harness, char *text, size_t size)
{
	char tail[400];
	off_t end = lseek(harness->log_fd, 0, SEEK_CUR);
	off_t from = end > (off_t)sizeof(tail) - 1 ? end - (off_t)sizeof(tail) + 1 : 0;
	ssize_t length = end > 0 ? pread(harness->log_fd, tail, (size_t)(end - from), from) : 0;
	char *line;

	text[0] = '\0';
	while (length > 0 && (tail[length - 1] == '\n' || tail[length - 1] == '\r'))
		length--;
	if (length <= 0)
		return;
	tail[length] = '\0';
	line = strrchr(tail, '\n');
	snprintf(text, size, " Its last words: %s", line ? line + 1 : tail);
}

static void set_up_child(const struct harness *harness, int control)
{
	sigset_t set;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	held_signals(&set);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	fcntl(control, F_SETFD, 0);
	fcntl(harness->memory_fd, F_SETFD, 0);
	dup2(harness->log_fd, STDOUT_FILENO);
	dup2(harness->log_fd, STDERR_FILENO);
}

static int start_vmm(struct harness *harness, const struct harness_options *options, int control)
{
	char vcpus[16], memory[16], socket[16];
	const char *argv[16 + 2 * HARNESS_EXTRA];
	size_t count = 0;
	pid_t pid;

	snprintf(vcpus, sizeof(vcpus), "%u", options->vcpus);
	snprintf(memory, sizeof(memory), "%d", harness->memory_fd);
	snprintf(socket, sizeof(socket), "%d", control);
	const char *fixed[] = { options->vmm, "--vcpus", vcpus, "--mode", options->mode,
				"--memory-fd", memory, "--control", socket };

	for (size_t i = 0; i < HARNESS_EXTRA && options->under[i]; i++)
		argv[count++] = options->under[i];
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		argv[count++] = fixed[i];
	for (size_t i = 0; i < HARNESS_EXTRA && options->extra[i]; i++)
		argv[count++] = options->extra[i];
	if (options->payload)
		argv[count++] = options->payload;
	argv[count] = NULL;

	pid = fork();
	if (pid < 0)
		return fail(harness, "Cannot start a process: %s.", strerror(errno));
	if (pid == 0) {
		set_up_child(harness, control);
		execv(argv[0], (char *const *)(uintptr_t)argv);
		dprintf(STDERR_FILENO, "%s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	setpgid(pid, pid); /* whoever of the two comes first */
	harness->group = pid;
	return 0;
}

int harness_start(struct harness *harness, const struct harness_options *options)
{
	int control[2];

	memset(harness, 0, sizeof(*harness));
	harness->memory_fd = harness->control_fd = harness->log_fd = -1;
	harness->memory = MAP_FAILED;
	harness->exit_status = -1;
	harness->vcpus = options->vcpus;
	harness->memory_size = VMM_MEMORY_DEFAULT;
	if (options->vcpus < 1 || options->vcpus > VMM_VCPUS_MAX)
		return fail(harness, "%u vCPUs: 1 to %u are possible.", options->vcpus, VMM_VCPUS_MAX);
	if (access(options->vmm, X_OK))
		return fail(harness, "%s is not there or not executable: build it with `make`, or name it with --vmm.",
			    options->vmm);
	if (access(options->payload, R_OK))
		return fail(harness, "%s is not there: build it with `make`, or name it with --payload.",
			    options->payload);

	/* Orphans come to us: a VMM whose predecessor ended is still ours to end. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	snprintf(harness->name, sizeof(harness->name), "pvclock-guest-%d-%lld", (int)getpid(),
		 (long long)harness_now_ms());
	harness->memory_fd = memfd_create(harness->name, MFD_CLOEXEC);
	harness->log_fd = memfd_create("pvclock-log", MFD_CLOEXEC);
	if (harness->memory_fd < 0 || harness->log_fd < 0 ||
	    ftruncate(harness->memory_fd, (off_t)harness->memory_size))
		return fail(harness, "Cannot make the guest's memory: %s.", strerror(errno));
	harness->memory = mmap(NULL, harness->memory_size, PROT_READ | PROT_WRITE, MAP_SHARED, harness->memory_fd, 0);
	if (harness->memory == MAP_FAILED)
		return fail(harness, "Cannot map the guest's memory: %s.", strerror(errno));
	harness->shared = (struct vmm_shared *)(void *)((unsigned char *)harness->memory + VMM_SHARED_GPA);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control))
		return fail(harness, "Cannot make the control socket: %s.", strerror(errno));
	harness->control_fd = control[0];
	int result = start_vmm(harness, options, control[1]);

	close(control[1]);
	return result;
}

/* Takes the exit status of what has ended. True: nothing of the guest is left, not even a process that is still ending. */
static bool reap(struct harness *harness, int options)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-harness->group, &status, options)) > 0 || (pid < 0 && errno == EINTR))
		if (pid > 0)
			harness->exit_status = status;
	return pid < 0;
}

static void end_vmm(struct harness *harness)
{
	int64_t deadline = harness_now_ms() + 2000;

	if (harness->group <= 0)
		return;
	if (harness->control_fd >= 0)
		(void)!send(harness->control_fd, "quit", 4, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (!reap(harness, WNOHANG) && harness_now_ms() < deadline)
		poll(NULL, 0, 1);
	kill(-harness->group, SIGKILL);
	reap(harness, 0);
	harness->group = 0;
}

int harness_replace(struct harness *harness, const struct harness_options *options)
{
	int control[2];

	end_vmm(harness);
	close(harness->control_fd);
	harness->control_fd = -1;
	harness->exit_status = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control))
		return fail(harness, "Cannot make the control socket: %s.", strerror(errno));
	harness->control_fd = control[0];
	int result = start_vmm(harness, options, control[1]);

	close(control[1]);
	if (result)
		return -1;
	json_t *status = harness_command(harness, "status", START_MS);

	json_decref(status);
	return status ? 0 : -1;
}

void harness_stop(struct harness *harness)
{
	end_vmm(harness);
	if (harness->memory != MAP_FAILED && harness->memory)
		munmap(harness->memory, harness->memory_size);
	if (harness->memory_fd >= 0)
		close(harness->memory_fd);
	if (harness->control_fd >= 0)
		close(harness->control_fd);
	if (harness->log_fd >= 0)
		close(harness->log_fd);
	harness->memory = MAP_FAILED;
	harness->shared = NULL;
	harness->memory_fd = harness->control_fd = harness->log_fd = -1;
	harness->group = 0;
}

/* --- readings ------------------------------------------------------------------------- */

static size_t drain(struct harness *harness, bool forget)
{
	size_t total = 0;

	for (unsigned int i = 0; harness->shared && i < harness->vcpus; i++) {
		struct vmm_ring *ring = &harness->shared->ring[i];
		uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
		uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);

		if (head - tail > VMM_RING_ENTRIES)
			tail = head - VMM_RING_ENTRIES; /* the guest wrote nonsense there */
		while (tail != head) {
			uint64_t from = tail % VMM_RING_ENTRIES;
			uint64_t count = VMM_RING_ENTRIES - from < head - tail ? VMM_RING_ENTRIES - from : head - tail;

			if (harness->sink && !forget)
				harness->sink(harness->sink_ctx, i, &ring->entries[from], (size_t)count);
			tail += count;
			total += (size_t)count;
			harness->taken[i] += count;
		}
		atomic_store_explicit(&ring->tail, tail, memory_order_release);
	}
	return total;
}

size_t harness_drain(struct harness *harness)
{
	return drain(harness, false);
}

void harness_discard(struct harness *harness)
{
	drain(harness, true);
}

/* --- waiting ---------------------------------------------------------------------------- */

/* Waits a moment, or less if the VMM says something. 1: it did; 0; -1: interrupted or gone. */
static int step(struct harness *harness, int timeout_ms)
{
	struct pollfd control = { .fd = harness->control_fd, .events = POLLIN };
	int ready;

	harness_drain(harness);
	if (interrupted(harness))
		return -1;
	ready = poll(&control, 1, timeout_ms < DRAIN_MS ? timeout_ms : DRAIN_MS);
	harness_drain(harness);
	reap(harness, WNOHANG);
	return ready > 0 && (control.revents & (POLLIN | POLLHUP)) ? 1 : 0;
}

int harness_run(struct harness *harness, int ms)
{
	int64_t deadline = harness_now_ms() + ms, now;

	while ((now = harness_now_ms()) < deadline) {
		int left = (int)(deadline - now);

		harness_drain(harness);
		if (interrupted(harness))
			return -1;
		poll(NULL, 0, left < DRAIN_MS ? left : DRAIN_MS);
	}
	harness_drain(harness);
	return 0;
}

int harness_wait_started(struct harness *harness, int timeout_ms)
{
	int64_t deadline = harness_now_ms() + timeout_ms;

	while (atomic_load_explicit(&harness->shared->started, memory_order_acquire) < harness->vcpus) {
		char words[440];

		if (harness_run(harness, 1))
			return -1;
		if (reap(harness, WNOHANG)) {
			last_words(harness, words, sizeof(words));
			return fail(harness, "The VMM ended before its guest ran.%s", words);
		}
		if (harness_now_ms() > deadline) {
			last_words(harness, words, sizeof(words));
			return fail(harness, "The guest did not start within %d ms: %u of %u vCPUs reached their loop.%s",
				    timeout_ms, atomic_load(&harness->shared->started), harness->vcpus, words);
		}
	}
	return 0;
}

int harness_wait_ended(struct harness *harness, int timeout_ms)
{
	int64_t deadline = harness_now_ms() + timeout_ms;

	while (!reap(harness, WNOHANG)) {
		if (harness_run(harness, 2))
			return -1;
		if (harness_now_ms() > deadline)
			return fail(harness, "The guest did not end within %d ms.", timeout_ms);
	}
	harness_drain(harness);
	return 0;
}

int harness_wait_readings(struct harness *harness, uint64_t readings, int timeout_ms)
{
	int64_t deadline = harness_now_ms() + timeout_ms;
	uint64_t before[VMM_VCPUS_MAX];

	harness_drain(harness);
	memcpy(before, harness->taken, sizeof(before));
	for (unsigned int i = 0; i < harness->vcpus;) {
		if (harness->taken[i] - before[i] >= readings) {
			i++;
			continue;
		}
		if (harness_run(harness, 1))
			return -1;
		if (harness_now_ms() > deadline)
			return fail(harness, "vCPU %u stands still: %llu readings in %d ms.", i,
				    (unsigned long long)(harness->taken[i] - before[i]), timeout_ms);
	}
	return 0;
}

/* --- commands ----------------------------------------------------------------------------- */

json_t *harness_command(struct harness *harness, const char *command, int timeout_ms)
{
	int64_t deadline = harness_now_ms() + timeout_ms, now;
	char words[440];
	json_t *reply;

	char *text = malloc(REPLY_MAX);

	if (!text) {
		fail(harness, "Out of memory.");
		return NULL;
	}
	/* What an earlier command was answered too late is not this one's answer. */
	while (recv(harness->control_fd, text, REPLY_MAX, MSG_DONTWAIT) > 0)
		;
	if (send(harness->control_fd, command, strlen(command), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
		last_words(harness, words, sizeof(words));
		fail(harness, "The VMM is gone: it cannot take \"%s\".%s", command, words);
		free(text);
		return NULL;
	}
	while ((now = harness_now_ms()) < deadline) {
		int said = step(harness, (int)(deadline - now));
		ssize_t length;

		if (said < 0)
			break;
		if (!said)
			continue;
		length = recv(harness->control_fd, text, REPLY_MAX - 1, MSG_DONTWAIT);
		if (length < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (length <= 0) {
			last_words(harness, words, sizeof(words));
			fail(harness, "The VMM died during \"%s\".%s", command, words);
			free(text);
			return NULL;
		}
		text[length] = '\0';
		reply = json_loads(text, 0, NULL);
		free(text);
		if (!json_is_object(reply)) {
			json_decref(reply);
			fail(harness, "The VMM's answer to \"%s\" is no JSON object.", command);
			return NULL;
		}
		if (json_object_get(reply, "error")) {
			fail(harness, "%s", harness_text(reply, "error", "The VMM refused, without a reason."));
			json_decref(reply);
			return NULL;
		}
		return reply;
	}
	free(text);
	if (now >= deadline) {
		last_words(harness, words, sizeof(words));
		fail(harness, "The VMM did not answer \"%s\" within %d ms.%s", command, timeout_ms, words);
	}
	return NULL;
}

int64_t harness_number(const json_t *reply, const char *key, int64_t otherwise)
{
	const json_t *value = json_object_get(reply, key);

	return json_is_number(value) ? (json_is_integer(value) ? json_integer_value(value)
							       : (int64_t)json_real_value(value))
				     : otherwise;
}

const char *harness_text(const json_t *reply, const char *key, const char *otherwise)
{
	const json_t *value = json_object_get(reply, key);

	return json_is_string(value) ? json_string_value(value) : otherwise;
}

int harness_restore(struct harness *harness, const struct harness_options *options, const char *path)
{
	struct harness_options from = *options;
	char command[4200];
	json_t *reply = harness_command(harness, "pause", START_MS);
	size_t count = 0;

	if (!reply)
		return -1;
	json_decref(reply);
	/* All that was logged is taken before the memory is saved, so that nothing of it comes back. */
	harness_drain(harness);
	snprintf(command, sizeof(command), "snapshot %s", path);
	reply = harness_command(harness, command, START_MS);
	if (!reply)
		return -1;
	json_decref(reply);
	while (count < HARNESS_EXTRA && from.extra[count])
		count++;
	if (count + 2 > HARNESS_EXTRA)
		return -1;
	from.payload = NULL;
	from.extra[count] = "--restore";
	from.extra[count + 1] = path;
	return harness_replace(harness, &from);
}
