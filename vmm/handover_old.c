// SPDX-License-Identifier: MIT
/* handover_old.c - the old side of a live update: gives the guest away, or takes it back. The protocol is in handover.h. */
#include "handover.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

struct successor {
	pid_t pid;
	int pidfd, socket, handover_fd;
	struct handover *handover;
	bool paused;
};

static bool is_new_side(const char *point)
{
	return point != NULL && strncmp(point, "new:", 4) == 0;
}

#define ARGUMENTS_MAX 30
#define DYING_MS 200

static int spawn(struct machine *machine, struct options *options, const char *path, int their_socket,
		 struct successor *successor)
{
	char numbers[7][24];
	char *arguments[ARGUMENTS_MAX];
	size_t count = 0, number = 0;
	const struct {
		const char *name;
		uint64_t value;
	} with_number[] = {
		{ "--vcpus", machine->vcpu_count },
		{ "--memory", machine->memory_size >> 20 },
		{ "--memory-fd", (uint64_t)machine->memory_fd },
		{ "--control", (uint64_t)options->control_fd },
		{ "--successor", (uint64_t)their_socket },
		{ "--commit-fd", (uint64_t)successor->handover_fd },
		{ "--handover-timeout", options->handover_timeout_ns / 1000000000u },
	};
	const struct {
		const char *name, *value;
	} with_text[] = {
		{ "--mode", pvclock_mode_name(pvclock_kvm_mode(machine->clock.kvm)) },
		{ "--crash-at", is_new_side(options->fault.crash_at) ? options->fault.crash_at : NULL },
		{ "--hang-at", is_new_side(options->fault.hang_at) ? options->fault.hang_at : NULL },
	};

	arguments[count++] = (char *)(uintptr_t)path;
	for (size_t i = 0; i < sizeof(with_number) / sizeof(with_number[0]); i++) {
		snprintf(numbers[number], sizeof(numbers[number]), "%llu", (unsigned long long)with_number[i].value);
		arguments[count++] = (char *)(uintptr_t)with_number[i].name;
		arguments[count++] = numbers[number++];
	}
	for (size_t i = 0; i < sizeof(with_text) / sizeof(with_text[0]); i++) {
		if (with_text[i].value == NULL)
			continue;
		arguments[count++] = (char *)(uintptr_t)with_text[i].name;
		arguments[count++] = (char *)(uintptr_t)with_text[i].value;
	}
	if (options->own_steal) {
		arguments[count++] = (char *)(uintptr_t)"--steal";
		arguments[count++] = (char *)(uintptr_t)"own";
	}
	if (options->hyperv)
		arguments[count++] = (char *)(uintptr_t)"--hyperv";
	if (options->vmclock)
		arguments[count++] = (char *)(uintptr_t)"--vmclock";
	if (options->logind)
		arguments[count++] = (char *)(uintptr_t)"--logind";
	arguments[count] = NULL;

	/* All our descriptors close on exec; a dup2 to itself keeps one open in the child (POSIX.1-2024). */
	const int kept[] = { machine->memory_fd, options->control_fd, their_socket, successor->handover_fd };
	posix_spawn_file_actions_t actions;
	posix_spawn_file_actions_init(&actions);
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
		posix_spawn_file_actions_adddup2(&actions, kept[i], kept[i]);
	int error = posix_spawn(&successor->pid, path, &actions, NULL, arguments, environ);
	posix_spawn_file_actions_destroy(&actions);
	return error;
}

static int start_successor(struct machine *machine, struct options *options, const char *path,
			   struct successor *successor, struct problem *problem)
{
	int sockets[2] = { -1, -1 };

	*successor = (struct successor){ .pidfd = -1, .socket = -1 };
	successor->handover_fd = handover_create(&successor->handover);
	if (successor->handover_fd < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
		return fail(problem, "update: %s", strerror(errno));
	successor->socket = sockets[0];
	int error = spawn(machine, options, path, sockets[1], successor);
	close(sockets[1]);
	if (error != 0)
		return fail(problem, "update: %s: %s: give the path of a pvclock-vmm that can be run", path,
			    strerror(error));
	successor->pidfd = pidfd_open(successor->pid, 0); /* ours to reap, so the number cannot be another process's */
	if (successor->pidfd < 0) {
		fail(problem, "update: pidfd_open: %s", strerror(errno));
		kill(successor->pid, SIGKILL);
		waitpid(successor->pid, NULL, 0);
		return -1;
	}
	/* Each fault happens once: the update after a failed one is to succeed. */
	if (is_new_side(options->fault.crash_at))
		options->fault.crash_at = NULL;
	if (is_new_side(options->fault.hang_at))
		options->fault.hang_at = NULL;
	return 0;
}

static void forget_successor(struct successor *successor)
{
	handover_unmap(successor->handover);
	const int fds[] = { successor->pidfd, successor->socket, successor->handover_fd };
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* Waits for a message; what else may come becomes the reason. */
static bool expect(struct successor *successor, const struct options *options, enum message_kind kind,
		   const char *name, struct problem *problem)
{
	struct message message = { 0 };
	enum message_kind got = message_receive(successor->socket, &message, options->handover_timeout_ns);

	if (got == kind)
		return true;
	size_t end = strlen(message.problem.text);
	if (got == MESSAGE_FAILED && end > 0 && message.problem.text[end - 1] == '.')
		message.problem.text[end - 1] = '\0'; /* our sentence goes on */
	if (got == MESSAGE_FAILED)
		fail(problem, "update: the successor refused: %.400s", message.problem.text);
	else if (got == MESSAGE_CLOSED)
		fail(problem, "update: the successor died before it said %s", name);
	else if (got == MESSAGE_SILENT)
		fail(problem, "update: the successor did not say %s within %llu s", name,
		     (unsigned long long)(options->handover_timeout_ns / 1000000000u));
	else
		fail(problem, "update: the successor said something else than %s", name);
	return false;
}

/* After a failure: the guest runs on here, if it is still ours. */
static enum handover_end take_back(struct machine *machine, struct successor *successor, struct problem *problem)
{
	struct pvclock_correction correction;
	size_t length = strlen(problem->text);
	siginfo_t ended = { 0 };

	if (!handover_win(successor->handover, OWNER_OLD)) {
		/* A dying process closes its socket a moment before its pidfd tells. */
		struct pollfd waited = { .fd = successor->pidfd, .events = POLLIN };
		bool dead = poll(&waited, 1, DYING_MS) > 0;
		snprintf(problem->text + length, sizeof(problem->text) - length,
			 dead ? "; it had already taken the guest over, so the guest ended with it" :
				"; it has already taken the guest over, so this process ends and leaves it the guest");
		return HANDOVER_LOST;
	}
	/* Nothing of it may be left when the clock is published again, or a vCPU runs: it maps the same memory. */
	pidfd_send_signal(successor->pidfd, SIGKILL, NULL, 0);
	while (waitid(P_PIDFD, (id_t)successor->pidfd, &ended, WEXITED) < 0 && errno == EINTR)
		;
	if (successor->paused) {
		struct problem resume;
		if (clock_resume(machine, &correction, &resume) < 0) {
			snprintf(problem->text + length, sizeof(problem->text) - length, "; and %.200s", resume.text);
			return HANDOVER_LOST;
		}
		vcpus_resume(machine);
	}
	snprintf(problem->text + length, sizeof(problem->text) - length, "; the guest runs on in the old one");
	return HANDOVER_REFUSED;
}

/* Steps 3 and 4: the guest stops, and all that it is goes where the successor can read it without us. */
static int stop_and_save(struct machine *machine, struct options *options, struct successor *successor,
			 struct problem *problem)
{
	struct handover *handover = successor->handover;
	struct wire wire;

	/* All that needs no pause comes before it. */
	if (wire_begin(&wire, problem) < 0)
		return -1;
	handover->blackout.stopped_ns = vcpus_pause(machine);
	uint64_t stopped = monotonic_ns();
	handover->blackout.stop_ns = stopped - handover->blackout.stopped_ns;
	if (clock_pause(machine, PVCLOCK_BLACKOUT_LIVE_UPDATE, problem) < 0) {
		vcpus_resume(machine);
		wire_clear(&wire);
		return -1;
	}
	successor->paused = true;
	fault_reached(&options->fault, "old:paused");
	int64_t corrupt_bit = options->fault.corrupt_bit;
	options->fault.corrupt_bit = -1;
	int result = clock_save(machine, &wire, corrupt_bit, problem);
	handover->blackout.clock_ns = monotonic_ns() - stopped;
	if (result == 0)
		result = machine_save(machine, &wire, problem);
	if (result == 0)
		result = wire_write(&wire, successor->handover_fd, HANDOVER_STATE, problem);
	handover->blackout.save_ns = monotonic_ns() - stopped;
	if (result == 0) {
		atomic_store_explicit(&handover->state_length, (uint32_t)wire.size, memory_order_release);
		fault_reached(&options->fault, "old:saved");
	}
	wire_clear(&wire);
	return result;
}

enum handover_end handover_to(struct machine *machine, struct options *options, const char *path,
			      struct problem *problem)
{
	struct successor successor;

	if (start_successor(machine, options, path, &successor, problem) < 0) {
		forget_successor(&successor);
		return HANDOVER_REFUSED;
	}
	bool done = expect(&successor, options, MESSAGE_PREPARED, "PREPARED", problem);
	if (done && stop_and_save(machine, options, &successor, problem) < 0)
		done = false;
	if (done) {
		message_say(successor.socket, MESSAGE_STATE, NULL);
		fault_reached(&options->fault, "old:sent");
		done = expect(&successor, options, MESSAGE_READY, "READY", problem);
	}
	if (done) {
		fault_reached(&options->fault, "old:ready-received");
		message_say(successor.socket, MESSAGE_GO, NULL);
		fault_reached(&options->fault, "old:go-sent");
		done = expect(&successor, options, MESSAGE_RUNNING, "RUNNING", problem);
	}
	if (done)
		fault_reached(&options->fault, "old:running-received");
	enum handover_end end = done ? HANDOVER_DONE : take_back(machine, &successor, problem);
	forget_successor(&successor);
	return end;
}
