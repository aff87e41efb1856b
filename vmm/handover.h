/* SPDX-License-Identifier: MIT */
/*
 * handover.h - live update: the guest moves to a new process of this host, and exactly one side ever runs it.
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
#ifndef VMM_HANDOVER_H
#define VMM_HANDOVER_H

#include "vmm.h"

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

/* `fd` >= 0 goes along. A send that fails needs no answer: the next receive says what became of the other side. */
void message_say(int socket, struct message *message, enum message_kind kind, int fd);
/* *fd: one that came along, the caller's to close, or -1. */
enum message_kind message_receive(int socket, struct message *message, int *fd, uint64_t timeout_ns);

_Atomic uint32_t *commit_map(int fd); /* NULL: errno says why */
/* True: the guest is now this side's. False: it is the other's. */
bool commit_to(_Atomic uint32_t *word, enum commit side);

#endif
