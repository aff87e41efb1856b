/* SPDX-License-Identifier: MIT */
/*
 * handover.h - live update: the guest moves to a new process of this host, and exactly one side ever runs it.
 *
 *   step  old side                                new side                           who has the guest after kill -9 of
 *                                                                                      the old one     the new one
 *   1     starts the new one                      makes VM, vCPUs, attaches the clock  nobody (a)      the old one
 *   2                                   <-------- PREPARED                             nobody (a)      the old one
 *   3     stops all vCPUs                                                              nobody (a)      the old one
 *   4     writes their state where both see it                                         the new one     the old one
 *   5     STATE ---------------------->           copies, validates, restores          the new one     the old one
 *   6                                   <-------- READY                                the new one     the old one
 *   7     GO ------------------------->           publishes the clock                  the new one     the old one
 *   8                                             owner 0 -> OWNER_NEW                 the new one     nobody (b)
 *   9                                             runs the vCPUs
 *   10                                  <-------- RUNNING
 *   11    exits                                   answers the control socket
 *
 *   (a) Until step 4 is complete the state exists only in the kernel objects of the old process: the guest ends with its
 *       VMM, as at any other time. Stopping and saving are next to each other, with nothing to wait for in between.
 *   (b) The end of the hand-over: it is the new one's own guest, which ends with its VMM, as at any other time; the old one
 *       never runs it again. From the change of the word to the first KVM_RUN no call can fail: all that could comes before.
 *
 * Who owns the guest is one word of memory that both sides map. It starts at 0, the old side's. The new side may
 * run only after it changed 0 to OWNER_NEW; the old side may resume only after it changed 0 to OWNER_OLD, killed the new one and
 * reaped it. A compare-and-exchange has one winner, so no timing of crashes, hangs and time limits gives two. Before it
 * won, the new side writes no guest memory but clock pages, which the old one, if it resumes, publishes again.
 *
 * The state lies in the same memfd, which the new side holds from its first moment, and is complete once its length is
 * there: STATE only wakes. When the old side's socket closes (it died) or stays silent for the time limit (it hangs,
 * and will find the word changed), the new side looks at the length: a whole state, and it goes on as after STATE and
 * GO; none, and it exits, having no guest. The old side takes the guest back on FAILED, on a closed socket, and on
 * silence. If it finds OWNER_NEW there, the guest is not its own any more, whatever became of the new side: it says so
 * and ends.
 */
#ifndef VMM_HANDOVER_H
#define VMM_HANDOVER_H

#include "vmm.h"

enum owner { OWNER_NOBODY_YET = 0, OWNER_NEW = 1, OWNER_OLD = 2 };

/* What both sides map: the start of a memfd of HANDOVER_SIZE that can neither shrink nor grow. */
struct handover {
	_Atomic uint32_t owner;
	_Atomic uint32_t state_length; /* 0 until the state and `blackout` are complete */
	struct blackout blackout;      /* what the old side knows of it */
};

#define HANDOVER_STATE 4096 /* offset of the state in the memfd */
#define HANDOVER_SIZE (HANDOVER_STATE + WIRE_SIZE_MAX)

/* Old side. *handover: NULL, with errno, if it failed. Returns the memfd, or -1. */
int handover_create(struct handover **handover);
/* New side. */
struct handover *handover_map(int fd, struct problem *problem);
void handover_unmap(struct handover *handover);
/* True: the guest is now this side's. False: it is the other's. */
bool handover_win(struct handover *handover, enum owner side);

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
	struct problem problem; /* FAILED */
};

/* `problem`: FAILED's, else NULL. A send that fails needs no answer: the next receive says what became of the other side. */
void message_say(int socket, enum message_kind kind, const struct problem *problem);
enum message_kind message_receive(int socket, struct message *message, uint64_t timeout_ns);

#endif
