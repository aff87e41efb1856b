/* SPDX-License-Identifier: MIT */
/*
 * pvclock-probe - sits in a guest, reads its clocks on all CPUs all the time, and tells over a serial line what an
 * event did to them. man/pvclock-probe.1.scd describes the protocol.
 */
#define _GNU_SOURCE
#include "probe.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_FINE = 0, EXIT_LACKING = 1, EXIT_USAGE = 2 };

static const char usage[] =
	"usage: pvclock-probe TTY             answers commands on a serial line\n"
	"       pvclock-probe --stdio         ... on standard input and output\n"
	"       pvclock-probe --once SECONDS  watches so long, and prints what it saw\n";

static int fail(const char *what, const char *with, int error)
{
	fprintf(stderr, "pvclock-probe: %s%s: %s.\n", what, with, strerror(error));
	return EXIT_LACKING;
}

int main(int argc, char **argv)
{
	static struct probe probe;
	const char *tty = NULL;
	double seconds = 0;
	int error, in = STDIN_FILENO, out = STDOUT_FILENO, status = EXIT_FINE;

	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		fputs(usage, stdout);
		return EXIT_FINE;
	}
	if (argc == 3 && strcmp(argv[1], "--once") == 0) {
		char *rest;

		seconds = strtod(argv[2], &rest);
		if (*rest != '\0' || !(seconds > 0) || seconds > 1e6) {
			fprintf(stderr, "pvclock-probe: --once takes a number of seconds above 0, not \"%s\".\n",
				argv[2]);
			return EXIT_USAGE;
		}
	} else if (argc == 2 && argv[1][0] != '-' && argv[1][0] != '\0') {
		tty = argv[1];
	} else if (argc != 2 || strcmp(argv[1], "--stdio") != 0) {
		fputs(usage, stderr);
		return EXIT_USAGE;
	}
	signal(SIGPIPE, SIG_IGN);
	if (tty != NULL) {
		in = out = open_line(tty);
		if (in < 0) {
			perror(tty);
			return EXIT_LACKING;
		}
	}
	error = probe_open(&probe, clocks_real());
	if (error != 0)
		return fail("no thread could be started to read the clocks", "", error);
	if (seconds > 0) {
		status = probe_once(&probe, seconds);
	} else {
		error = probe_talk(&probe, in, out);
		if (error != 0)
			status = fail("cannot talk on ", tty != NULL ? tty : "standard input and output", error);
	}
	probe_close(&probe);
	return status;
}
