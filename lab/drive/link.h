/* SPDX-License-Identifier: MIT */
/* link.h - a socket that carries lines: QMP, the probe's serial line, and the agent on the peer all do. */
#ifndef LAB_LINK_H
#define LAB_LINK_H

#include "lab.h"

#define LINK_LINE_MAX (1u << 20) /* more without a newline is not what we talk to */

enum link_result { LINK_LINE, LINK_TIMEOUT, LINK_CLOSED, LINK_INTERRUPTED };

struct link {
	struct lab *lab;
	int fd;       /* -1: not open */
	char *buffer;
	size_t used, size;
};

/* One try. "unix:PATH" or "tcp:HOST:PORT", HOST a numeric IPv4 address. 0, or -errno; no sentence, since one often
 * tries again. */
int link_open(struct link *link, struct lab *lab, const char *address);
/* Takes over a connected socket. */
void link_adopt(struct link *link, struct lab *lab, int fd);
void link_close(struct link *link);

/* The line and a newline. 0 or -1; no sentence. */
int link_send(struct link *link, const char *line, int64_t until_ms);
/* The next line, without its newline or carriage return; allocated. */
enum link_result link_receive(struct link *link, int64_t until_ms, char **line);

/* Waits for one connection on "tcp:HOST:PORT". A connected socket, or -1 with a sentence. */
int link_accept(struct lab *lab, const char *address, int64_t until_ms);

#endif
