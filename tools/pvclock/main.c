/* SPDX-License-Identifier: MIT */
/* main.c - the table of subcommands. */
#include "command.h"

#include <stddef.h>
#include <string.h>

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} commands[] = {
	{ "host", host_command, "what this machine's clock and its KVM can give to virtual machines" },
	{ "guest", guest_command, "what clock this virtual machine was given, and how well it runs" },
	{ "run", run_command, "start an unmodified VMM (QEMU) whose machines keep their clocks" },
	{ "record", record_command, "a saved clock: show, check, edit and compare it" },
	{ "preflight", preflight_command, "what this host, or another, would make of a saved clock" },
};

static void print_help(FILE *to)
{
	fputs("Usage: pvclock COMMAND [OPTION]...\n\nCommands:\n", to);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
	fputs("\nEach has --help and a manual page: man pvclock-COMMAND. pvclock --version tells the version.\n", to);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		print_help(stderr);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		print_help(stdout);
		return EXIT_FINE;
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts("pvclock " PVCLOCK_VERSION);
		return EXIT_FINE;
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	fprintf(stderr, "pvclock: there is no command %s\n", argv[1]);
	print_help(stderr);
	return EXIT_USAGE;
}
