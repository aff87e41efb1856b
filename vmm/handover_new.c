// SPDX-License-Identifier: MIT
/* handover_new.c - the new side of a live update: prepares, receives, and owns the guest. The protocol is in handover.h. */
#include "handover.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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
	if (result == 0)
		vcpus_settle(machine);
	wire_clear(&wire);
	return result;
}

static int receive_state(const struct options *options, struct message *message, int *fd, struct problem *problem)
{
	switch (message_receive(options->successor_fd, message, fd, options->handover_timeout_ns)) {
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

	message_say(options->successor_fd, message, MESSAGE_READY, -1);
	fault_reached(&options->fault, "new:ready-said");
	enum message_kind got = message_receive(options->successor_fd, &answer, &fd, options->handover_timeout_ns);
	if (fd >= 0)
		close(fd);
	if (got == MESSAGE_GO)
		fault_reached(&options->fault, "new:go-received");
	else if (got != MESSAGE_CLOSED && got != MESSAGE_SILENT)
		return fail(problem, "update: the predecessor said something else than GO and keeps the guest");
	*predecessor_died = got != MESSAGE_GO;
	if (!commit_to(word, COMMIT_NEW))
		return fail(problem, "update: the predecessor has taken the guest back");
	fault_reached(&options->fault, "new:committed-not-said");
	message_say(options->successor_fd, message, MESSAGE_RUNNING, -1);
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
	_Atomic uint32_t *word = commit_map(options->commit_fd);
	if (result == 0 && word == NULL)
		result = fail(problem, "update: --commit-fd %d: %s", options->commit_fd, strerror(errno));
	if (result == 0) {
		message_say(options->successor_fd, &message, MESSAGE_PREPARED, -1);
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
		message_say(options->successor_fd, &message, MESSAGE_FAILED, -1);
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
