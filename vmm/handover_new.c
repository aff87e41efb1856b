// SPDX-License-Identifier: MIT
/* handover_new.c - the new side of a live update: prepares, receives, and owns the guest. The protocol is in handover.h. */
#include "handover.h"

#include <stdio.h>
#include <unistd.h>

struct takeover {
	enum message_kind go; /* what stood for the predecessor's GO: that, or its end, or its silence */
	struct blackout blackout;
	struct pvclock_correction correction;
};

static int prepare(struct machine *machine, const struct options *options, struct problem *problem)
{
	return machine_create(machine, options, problem) < 0 ||
			       clock_attach(machine, options->mode, false, problem) < 0 ||
			       vcpus_start(machine, problem) < 0 ?
		       -1 :
		       0;
}

/* Step 5. Order: all but the clock, so that each APIC's timer is in its mode; then TSCs, clock, and what counts in TSC ticks. */
static int restore(struct machine *machine, int fd, size_t length, struct blackout *blackout, struct problem *problem)
{
	struct wire wire;
	int result = wire_open(&wire, fd, HANDOVER_STATE, length, problem);

	if (result == 0)
		result = machine_restore(machine, &wire, problem);
	uint64_t begun = monotonic_ns();
	if (result == 0)
		result = clock_restore(machine, &wire, PVCLOCK_BLACKOUT_LIVE_UPDATE, NULL, NULL, problem);
	blackout->clock_ns += monotonic_ns() - begun;
	if (result == 0)
		vcpus_settle(machine);
	wire_clear(&wire);
	return result;
}

/* The state's length. It may be there although nobody said so: then the predecessor died or hangs, and the guest is still whole. */
static int receive_state(const struct options *options, struct handover *handover, uint32_t *length,
			 struct problem *problem)
{
	struct message message;
	enum message_kind got = message_receive(options->successor_fd, &message, options->handover_timeout_ns);

	*length = atomic_load_explicit(&handover->state_length, memory_order_acquire);
	if ((got == MESSAGE_STATE || got == MESSAGE_CLOSED || got == MESSAGE_SILENT) && *length > 0)
		return 0;
	switch (got) {
	case MESSAGE_STATE:
		return fail(problem, "update: the predecessor announced a state and left none");
	case MESSAGE_CLOSED:
		return fail(problem, "update: the predecessor ended before it had saved the guest's state, and the guest with it");
	case MESSAGE_SILENT:
		return fail(problem, "update: the predecessor saved no state within %llu s and keeps the guest",
			    (unsigned long long)(options->handover_timeout_ns / 1000000000u));
	default:
		return fail(problem, "update: the predecessor sent something else than a state");
	}
}

/* Steps 6 and 7, to the brink of 8: the guest is not ours yet, and nothing is left that can fail. */
static int make_ready(struct machine *machine, const struct options *options, struct takeover *takeover,
		      struct problem *problem)
{
	struct message answer;

	message_say(options->successor_fd, MESSAGE_READY, NULL);
	fault_reached(&options->fault, "new:ready-said");
	enum message_kind go = message_receive(options->successor_fd, &answer, options->handover_timeout_ns);
	if (go == MESSAGE_STATE) /* it was slow to say what we had already seen */
		go = message_receive(options->successor_fd, &answer, options->handover_timeout_ns);
	if (go != MESSAGE_GO && go != MESSAGE_CLOSED && go != MESSAGE_SILENT)
		return fail(problem, "update: the predecessor said something else than GO and keeps the guest");
	takeover->go = go;
	fault_reached(&options->fault, "new:go-received");
	uint64_t begun = monotonic_ns();
	if (clock_resume(machine, &takeover->correction, problem) < 0)
		return -1;
	vcpus_settle(machine); /* once more: each page as it was aimed, before a vCPU reads another's */
	takeover->blackout.clock_ns += monotonic_ns() - begun;
	fault_reached(&options->fault, "new:clock-published");
	return 0;
}

/* Steps 1 to 7. */
static int get_ready(struct machine *machine, const struct options *options, struct handover *handover,
		     struct takeover *takeover, struct problem *problem)
{
	uint32_t length;

	if (prepare(machine, options, problem) < 0)
		return -1;
	message_say(options->successor_fd, MESSAGE_PREPARED, NULL);
	fault_reached(&options->fault, "new:prepared");
	if (receive_state(options, handover, &length, problem) < 0)
		return -1;
	uint64_t received = monotonic_ns();
	fault_reached(&options->fault, "new:state-received");
	takeover->blackout = handover->blackout;
	if (restore(machine, options->commit_fd, length, &takeover->blackout, problem) < 0)
		return -1;
	takeover->blackout.restore_ns = monotonic_ns() - received;
	fault_reached(&options->fault, "new:restored");
	return make_ready(machine, options, takeover, problem);
}

int handover_from(struct machine *machine, const struct options *options, struct problem *problem)
{
	struct takeover takeover = { 0 };
	struct handover *handover = handover_map(options->commit_fd, problem);

	if (handover == NULL || get_ready(machine, options, handover, &takeover, problem) < 0) {
		message_say(options->successor_fd, MESSAGE_FAILED, problem);
		return -1;
	}
	if (!handover_win(handover, OWNER_NEW))
		return fail(problem, "update: the predecessor has taken the guest back");
	/* From here to the first KVM_RUN, nothing that can fail. */
	fault_reached(&options->fault, "new:committed");
	uint64_t entered_ns = vcpus_resume(machine);
	message_say(options->successor_fd, MESSAGE_RUNNING, NULL);
	close(options->successor_fd);
	close(options->commit_fd);
	handover_unmap(handover);
	if (takeover.go != MESSAGE_GO)
		fprintf(stderr, "pvclock-vmm: update: the predecessor %s after it had saved the guest's state: this process "
			"took over\n", takeover.go == MESSAGE_CLOSED ? "died" : "fell silent");
	control_say_updated(machine, options, &takeover.blackout, entered_ns, &takeover.correction,
			    takeover.go != MESSAGE_GO);
	return 0;
}
