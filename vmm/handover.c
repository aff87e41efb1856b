// SPDX-License-Identifier: MIT
/*
 * handover.c - live update: the guest moves to a new process of this host, and exactly one side ever runs it.
 *
 *   step  old side                                new side
 *   1     starts the new one                      makes VM, vCPUs, attaches the clock
 *   2                                   <-------- PREPARED   (the guest still runs in the old one)
 *   3     stops all vCPUs, saves
 *   4     STATE + sealed memfd -------->          validates, restores; runs nothing, writes no guest memory
 *   5                                   <-------- READY
 *   6     GO ------------------------->
 *   7                                             commit word 0 -> COMMIT_NEW
 *   8                                   <-------- RUNNING
 *   9     exits                                   publishes the clock, runs the vCPUs, answers the control socket
 *
 * Who owns the guest is one word of memory that both sides map. It starts at 0, the old side's. The new side may
 * run only after it changed 0 to COMMIT_NEW; the old side may resume only after it changed 0 to COMMIT_OLD, killed the new one and
 * reaped it. A compare-and-exchange has one winner, so no timing of crashes, hangs and time limits gives two.
 *
 * The new side changes the word at GO; and, with the whole STATE in its hands, also when the old side's socket closes (it died)
 * or stays silent for the time limit (it hangs, and will find the word changed). Before STATE it exits instead: it has no guest.
 * The old side takes the guest back on FAILED, on a closed socket, and on silence. If it finds COMMIT_NEW there, the guest is
 * not its own any more, whatever became of the new side: it says so and ends.
 */
#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define MESSAGE_MAGIC 0x6f766f68u

enum commit { COMMIT_NONE = 0, COMMIT_NEW = 1, COMMIT_OLD = 2 };

enum message_kind {
	MESSAGE_CLOSED = 0, /* not sent: the other side is gone */
	MESSAGE_SILENT,     /* not sent: the time limit */
	MESSAGE_PREPARED,
	MESSAGE_STATE,
	MESSAGE_READY,
	MESSAGE_GO,
	MESSAGE_RUNNING,
	MESSAGE_FAILED,
};

struct message {
	uint32_t magic;
	uint32_t kind;
	uint64_t length; /* STATE: of the memfd */
	struct blackout blackout; /* STATE: what is known of it so far */
	struct problem problem;   /* FAILED */
};

/* --- messages ------------------------------------------------------------------------------ */

/* A send that fails needs no answer here: the next receive says what became of the other side. */
static void say(int socket, struct message *message, enum message_kind kind, int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec data = { .iov_base = message, .iov_len = sizeof(*message) };
	struct msghdr header = { .msg_iov = &data, .msg_iovlen = 1 };

	message->magic = MESSAGE_MAGIC;
	message->kind = kind;
	if (fd >= 0) {
		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
		struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(rights), &fd, sizeof(int));
	}
	ssize_t sent;
	do
		sent = sendmsg(socket, &header, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
}

static enum message_kind receive_one(int socket, struct message *message, int *fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec data = { .iov_base = message, .iov_len = sizeof(*message) };
	struct msghdr header = {
		.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t got;

	*fd = -1;
	/* ECONNRESET: the other side died with a message unread. What it had sent may still be in the queue. */
	do
		got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
	while (got < 0 && (errno == EINTR || errno == ECONNRESET));
	if (got <= 0)
		return MESSAGE_CLOSED;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c != NULL; c = CMSG_NXTHDR(&header, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			memcpy(fd, CMSG_DATA(c), sizeof(int));
	message->problem.text[PROBLEM_TEXT - 1] = '\0';
	if ((size_t)got != sizeof(*message) || message->magic != MESSAGE_MAGIC || message->kind < MESSAGE_PREPARED ||
	    message->kind > MESSAGE_FAILED) {
		message->kind = MESSAGE_FAILED;
		fail(&message->problem, "the other side speaks another protocol");
	}
	return (enum message_kind)message->kind;
}

static enum message_kind receive(int socket, struct message *message, int *fd, uint64_t timeout_ns)
{
	uint64_t deadline = monotonic_ns() + timeout_ns;

	*fd = -1;
	for (;;) {
		uint64_t now = monotonic_ns();
		struct pollfd waited = { .fd = socket, .events = POLLIN };

		if (now >= deadline)
			return MESSAGE_SILENT;
		int ready = poll(&waited, 1, (int)((deadline - now) / 1000000u) + 1);
		if (ready > 0)
			return receive_one(socket, message, fd);
		if (ready < 0 && errno != EINTR)
			return MESSAGE_CLOSED;
	}
}

static bool commit(_Atomic uint32_t *word, enum commit side)
{
	uint32_t none = COMMIT_NONE;

	return atomic_compare_exchange_strong(word, &none, (uint32_t)side);
}

static _Atomic uint32_t *map_commit(int fd)
{
	void *word = mmap(NULL, sizeof(_Atomic uint32_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return word == MAP_FAILED ? NULL : word;
}

/* --- the old side --------------------------------------------------------------------------- */

struct successor {
	pid_t pid;
	int pidfd, socket, commit_fd;
	_Atomic uint32_t *commit_word;
	bool paused;
};

static bool is_new_side(const char *point)
{
	return point != NULL && strncmp(point, "new:", 4) == 0;
}

#define ARGUMENTS_MAX 24

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
		{ "--commit-fd", (uint64_t)successor->commit_fd },
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
	arguments[count] = NULL;

	/* All our descriptors close on exec; a dup2 to itself keeps one open in the child (POSIX.1-2024). */
	const int kept[] = { machine->memory_fd, options->control_fd, their_socket, successor->commit_fd };
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
	successor->commit_fd = memfd_create("pvclock-vmm-commit", MFD_CLOEXEC);
	if (successor->commit_fd < 0 || ftruncate(successor->commit_fd, sizeof(uint32_t)) < 0 ||
	    (successor->commit_word = map_commit(successor->commit_fd)) == NULL ||
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
	if (successor->commit_word != NULL)
		munmap(successor->commit_word, sizeof(uint32_t));
	const int fds[] = { successor->pidfd, successor->socket, successor->commit_fd };
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* Waits for a message; what else may come becomes the reason. */
static bool expect(struct successor *successor, const struct options *options, enum message_kind kind,
		   const char *name, struct problem *problem)
{
	struct message message;
	int fd;
	enum message_kind got = receive(successor->socket, &message, &fd, options->handover_timeout_ns);

	if (fd >= 0)
		close(fd);
	if (got == kind)
		return true;
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

	if (!commit(successor->commit_word, COMMIT_OLD)) {
		bool dead = waitid(P_PIDFD, (id_t)successor->pidfd, &ended, WEXITED | WNOHANG) == 0 &&
			    ended.si_pid != 0;
		snprintf(problem->text + length, sizeof(problem->text) - length,
			 dead ? "; it had already taken the guest over, so the guest ended with it" :
				"; it has already taken the guest over, so this process ends and leaves it the guest");
		return HANDOVER_LOST;
	}
	/* Nothing of it may be left when the first vCPU runs: it maps the same memory. */
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

/* Steps 3 and 4: the guest stops, and all that it is goes into a memfd. */
static int stop_and_save(struct machine *machine, struct options *options, struct successor *successor,
			 struct message *state, int *fd, struct problem *problem)
{
	struct wire wire = { 0 };

	state->blackout.stopped_ns = vcpus_pause(machine);
	uint64_t stopped = monotonic_ns();
	state->blackout.stop_ns = stopped - state->blackout.stopped_ns;
	if (clock_pause(machine, problem) < 0) {
		vcpus_resume(machine);
		return -1;
	}
	successor->paused = true;
	fault_reached(&options->fault, "old:paused");
	int64_t corrupt_bit = options->fault.corrupt_bit;
	options->fault.corrupt_bit = -1;
	int result = wire_begin(&wire, problem);
	if (result == 0)
		result = clock_save(machine, &wire, corrupt_bit, problem);
	state->blackout.clock_ns = monotonic_ns() - stopped;
	if (result == 0)
		result = machine_save(machine, &wire, problem);
	if (result == 0)
		result = wire_seal(&wire, fd, &state->length, problem);
	wire_clear(&wire);
	state->blackout.save_ns = monotonic_ns() - stopped;
	fault_reached(&options->fault, "old:saved");
	return result;
}

enum handover_end handover_to(struct machine *machine, struct options *options, const char *path,
			      struct problem *problem)
{
	struct successor successor;
	struct message message = { 0 };
	int state_fd = -1;

	if (start_successor(machine, options, path, &successor, problem) < 0) {
		forget_successor(&successor);
		return HANDOVER_REFUSED;
	}
	bool done = expect(&successor, options, MESSAGE_PREPARED, "PREPARED", problem);
	if (done && stop_and_save(machine, options, &successor, &message, &state_fd, problem) < 0)
		done = false;
	if (done) {
		say(successor.socket, &message, MESSAGE_STATE, state_fd);
		fault_reached(&options->fault, "old:sent");
		done = expect(&successor, options, MESSAGE_READY, "READY", problem);
	}
	if (done) {
		fault_reached(&options->fault, "old:ready-received");
		say(successor.socket, &message, MESSAGE_GO, -1);
		fault_reached(&options->fault, "old:go-sent");
		done = expect(&successor, options, MESSAGE_RUNNING, "RUNNING", problem);
	}
	if (done)
		fault_reached(&options->fault, "old:running-received");
	enum handover_end end = done ? HANDOVER_DONE : take_back(machine, &successor, problem);
	if (state_fd >= 0)
		close(state_fd);
	forget_successor(&successor);
	return end;
}

/* --- the new side ----------------------------------------------------------------------------- */

static int prepare(struct machine *machine, const struct options *options, struct problem *problem)
{
	return machine_create(machine, options, problem) < 0 ||
			       clock_attach(machine, options->mode, false, problem) < 0 ||
			       vcpus_start(machine, problem) < 0 ?
		       -1 :
		       0;
}

/* Step 4. Order: all but the clock, then TSCs and clock, then what counts in TSC ticks. */
static int restore(struct machine *machine, int fd, uint64_t length, struct blackout *blackout, struct problem *problem)
{
	struct wire wire;
	int result = wire_open(&wire, fd, length, problem);

	if (result == 0)
		result = machine_restore(machine, &wire, problem);
	uint64_t begun = monotonic_ns();
	if (result == 0)
		result = clock_restore(machine, &wire, problem);
	blackout->clock_ns += monotonic_ns() - begun;
	for (uint32_t i = 0; i < machine->vcpu_count && result == 0; i++)
		result = vcpu_state_restore_deadline(&machine->vcpus[i], &wire, problem);
	wire_clear(&wire);
	return result;
}

static int receive_state(const struct options *options, struct message *message, int *fd, struct problem *problem)
{
	switch (receive(options->successor_fd, message, fd, options->handover_timeout_ns)) {
	case MESSAGE_STATE:
		if (*fd >= 0)
			return 0;
		return fail(problem, "update: the predecessor sent a state without its memfd");
	case MESSAGE_CLOSED:
		return fail(problem, "update: the predecessor ended before it had handed the guest over, and the guest with it");
	case MESSAGE_SILENT:
		return fail(problem, "update: the predecessor sent no state within %llu s and keeps the guest",
			    (unsigned long long)(options->handover_timeout_ns / 1000000000u));
	default:
		if (*fd >= 0)
			close(*fd);
		return fail(problem, "update: the predecessor sent something else than a state");
	}
}

/* Steps 5 to 8. 0: the guest is ours. */
static int take_over(const struct options *options, struct message *message, _Atomic uint32_t *word,
		     bool *predecessor_died, struct problem *problem)
{
	struct message answer;
	int fd;

	say(options->successor_fd, message, MESSAGE_READY, -1);
	fault_reached(&options->fault, "new:ready-said");
	enum message_kind got = receive(options->successor_fd, &answer, &fd, options->handover_timeout_ns);
	if (fd >= 0)
		close(fd);
	if (got == MESSAGE_GO)
		fault_reached(&options->fault, "new:go-received");
	else if (got != MESSAGE_CLOSED && got != MESSAGE_SILENT)
		return fail(problem, "update: the predecessor said something else than GO and keeps the guest");
	*predecessor_died = got != MESSAGE_GO;
	if (!commit(word, COMMIT_NEW))
		return fail(problem, "update: the predecessor has taken the guest back");
	fault_reached(&options->fault, "new:committed-not-said");
	say(options->successor_fd, message, MESSAGE_RUNNING, -1);
	fault_reached(&options->fault, "new:running-said");
	if (*predecessor_died)
		fprintf(stderr, "pvclock-vmm: update: the predecessor %s after it had sent the guest's state: this process "
			"takes over\n", got == MESSAGE_CLOSED ? "died" : "fell silent");
	return 0;
}

int handover_from(struct machine *machine, const struct options *options, struct problem *problem)
{
	struct message message = { 0 };
	struct pvclock_correction correction;
	bool predecessor_died = false;
	int state_fd = -1;

	int result = prepare(machine, options, problem);
	_Atomic uint32_t *word = map_commit(options->commit_fd);
	if (result == 0 && word == NULL)
		result = fail(problem, "update: --commit-fd %d: %s", options->commit_fd, strerror(errno));
	if (result == 0) {
		say(options->successor_fd, &message, MESSAGE_PREPARED, -1);
		fault_reached(&options->fault, "new:prepared");
		result = receive_state(options, &message, &state_fd, problem);
	}
	uint64_t received = monotonic_ns();
	if (result == 0) {
		fault_reached(&options->fault, "new:state-received");
		result = restore(machine, state_fd, message.length, &message.blackout, problem);
		message.blackout.restore_ns = monotonic_ns() - received;
		fault_reached(&options->fault, "new:restored");
	}
	if (state_fd >= 0)
		close(state_fd);
	if (result < 0) {
		message.problem = *problem;
		say(options->successor_fd, &message, MESSAGE_FAILED, -1);
		return -1;
	}
	if (take_over(options, &message, word, &predecessor_died, problem) < 0)
		return -1;
	munmap(word, sizeof(uint32_t));
	close(options->commit_fd);
	uint64_t begun = monotonic_ns();
	if (clock_resume(machine, &correction, problem) < 0)
		return -1;
	message.blackout.clock_ns += monotonic_ns() - begun;
	uint64_t entered_ns = vcpus_resume(machine);
	close(options->successor_fd);
	control_say_updated(machine, options, &message.blackout, entered_ns, &correction, predecessor_died);
	return 0;
}
