/* SPDX-License-Identifier: MIT */
/*
 * sleep_message.h - how `pvclock run --logind` tells a VMM of the host's sleep. A process of its own hears it from
 * logind, so that a VMM loads nothing that it did not have.
 *
 * PVCLOCK_SLEEP=DESCRIPTOR:INODE names a SOCK_SEQPACKET socket that the VMM inherits: the inode, for a program may have
 * closed it and opened something else. Through it each process that makes a VM sends HELLO with one end of a socket
 * pair; the rest is said there. An end that is closed says that nothing more will come: the guest runs, and whoever
 * waits for an answer has it.
 */
#ifndef TOOLS_SLEEP_MESSAGE_H
#define TOOLS_SLEEP_MESSAGE_H

#include <stdint.h>

#define SLEEP_SOCKET "PVCLOCK_SLEEP"

enum sleep_message_kind {
	SLEEP_HELLO = 1,
	SLEEP_BEGINS, /* to the VMM: the host is about to sleep. It answers */
	SLEEP_READY,  /* with the same number, when no vCPU runs any more */
	SLEEP_ENDS,   /* to the VMM: it is awake, or will not sleep after all */
};

struct sleep_message {
	uint32_t kind, number; /* of the sleep: an answer may come when that one was called off */
};

#endif
