/* SPDX-License-Identifier: MIT */
/* options.h - what pvclock-lab was told to do. */
#ifndef LAB_OPTIONS_H
#define LAB_OPTIONS_H

#include "host.h"
#include "peer.h"
#include "rows.h"

#define LIST_NAME 64
#define EXIT_USAGE 2

struct driver {
	struct lab lab;
	const char *who, *names, *out, *show, *home;
	const char *kernel, *initrd, *pvclock, *logs;
	bool agent, list, append;
	double seconds;        /* of the whole run; 0: as long as its scenarios may take */
	struct host here, there;
	struct peer peer;
	struct rows rows;
	unsigned int failed;
};

/* Fills what was told, and the rest with what is usual. -1: go on; else the exit code: help was asked for, or an option
 * is wrong. */
int options_parse(struct driver *driver, int argc, char **argv);

/* Takes the next name of a list with commas. False: there is none. */
bool list_next(const char **list, char name[LIST_NAME]);

#endif
