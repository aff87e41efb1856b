/* SPDX-License-Identifier: MIT */
/* run.c - `pvclock run`: starts a VMM with the preload in it. What the preload does is in tools/preload/. */
#define _GNU_SOURCE
#include "command.h"

#include "offer_words.h"
#include "policy_words.h"
#include "run_sleep.h"
#include "sleep_watch.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PRELOAD_NAME "libpvclock-preload.so"

static void print_help(void)
{
	puts("Usage: pvclock run [OPTION]... -- VMM [ARGUMENT]...\n"
	     "\n"
	     "Starts an unmodified VMM on KVM (QEMU, say) whose virtual machines have a clock that is kept through pauses,\n"
	     "snapshots and migrations.\n"
	     "\n"
	     "  --mode MODE   own, steer or auto (default: own, where this host allows it, else steer)\n"
	     "  --policy P    what the clocks count of a blackout: pause=, migration=, snapshot=, suspend=advance or freeze,\n"
	     "                advance_max_ns=N, with commas (default: a pause advances; the others freeze, as with QEMU alone);\n"
	     "                @FILE: what this file says, read again at each stop\n"
	     "  --records DIR where each VM that stops leaves its clock's record, and where a VM that arrives finds its own:\n"
	     "                without it nothing of a migration or a snapshot can be counted\n"
	     "  --offer WORDS what the guest finds beside KVM's own clock, with commas: nested, for one that is a host itself; suspend\n"
	     "  --log FILE    a line of JSON for each event of each VM is added to FILE\n"
	     "  --logind      stops the virtual machines' clocks before this host sleeps, which logind announces, and lets them go on\n"
	     "                afterwards; the policy's word is suspend=\n"
	     "  --no-parent   where this host is itself a guest of a pvclock host, leaves the VMs' clocks to be corrected here after a\n"
	     "                move of this host, instead of by its own host in the move\n"
	     "  --help        this text");
}

/* Where the preload is: beside this command in its build folder, or where it was installed. */
static bool find_preload(char path[PATH_MAX])
{
	static const char *const places[] = { "../preload", "../lib/pvclock", "../lib/x86_64-linux-gnu/pvclock", "../lib64/pvclock" };
	const char *named = getenv("PVCLOCK_PRELOAD");
	char self[PATH_MAX - 64], candidate[PATH_MAX], *slash;
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (named != NULL)
		return realpath(named, path) != NULL;
	if (length <= 0)
		return false;
	self[length] = '\0';
	slash = strrchr(self, '/');
	*slash = '\0';
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(candidate, sizeof(candidate), "%s/%s/" PRELOAD_NAME, self, places[i]);
		if (realpath(candidate, path) != NULL)
			return true;
	}
	return false;
}

/* The file that execvp would start. */
static int open_command(const char *name)
{
	const char *path = getenv("PATH"), *end;
	char candidate[PATH_MAX];

	if (strchr(name, '/') != NULL)
		return open(name, O_RDONLY | O_CLOEXEC);
	for (path = path ? path : "/usr/bin:/bin"; *path != '\0'; path = *end == '\0' ? end : end + 1) {
		end = strchrnul(path, ':');
		/* an empty element is the current folder */
		snprintf(candidate, sizeof(candidate), "%.*s/%s", end == path ? 1 : (int)(end - path), end == path ? "." : path, name);
		if (access(candidate, X_OK) == 0)
			return open(candidate, O_RDONLY | O_CLOEXEC);
	}
	return -1;
}

/* Why the dynamic linker would not load the preload into this program; NULL if it will, as far as the file tells. */
static const char *why_out_of_reach(const char *name)
{
	const char *why = NULL;
	bool linked = false;
	struct stat status;
	Elf64_Ehdr head;
	Elf64_Phdr part;
	int fd = open_command(name);

	if (fd < 0)
		return "is not a program that can be found and read; name it with its path";
	if (fstat(fd, &status) == 0 && (status.st_mode & (S_ISUID | S_ISGID)))
		why = "is set-user-ID, and such programs take no preload";
	/* a script is whatever its interpreter makes of it */
	if (why == NULL && pread(fd, &head, sizeof(head), 0) == (ssize_t)sizeof(head) && memcmp(head.e_ident, ELFMAG, SELFMAG) == 0) {
		if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_machine != EM_X86_64)
			why = "is not a program for x86-64, and the preload is";
		for (unsigned int i = 0; why == NULL && i < head.e_phnum; i++)
			linked |= pread(fd, &part, sizeof(part), (off_t)(head.e_phoff + i * sizeof(part))) == (ssize_t)sizeof(part) &&
				  part.p_type == PT_INTERP;
		if (why == NULL && !linked)
			why = "is statically linked, and a preload reaches dynamically linked programs only";
	}
	close(fd);
	return why;
}

/* By its whole path, after `prefix`: a VMM that becomes a daemon changes its folder. */
static bool pass_path(const char *variable, const char *prefix, const char *path)
{
	char here[PATH_MAX] = "", whole[2 * PATH_MAX];

	if (*path != '/' && getcwd(here, sizeof(here)) == NULL)
		return false;
	snprintf(whole, sizeof(whole), "%s%s%s%s", prefix, here, *here ? "/" : "", path);
	return setenv(variable, whole, 1) == 0;
}

static bool is_folder(const char *path)
{
	struct stat status;

	return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static bool known_mode(const char *mode)
{
	return strcmp(mode, "own") == 0 || strcmp(mode, "steer") == 0 || strcmp(mode, "auto") == 0 || strcmp(mode, "stock") == 0;
}

int run_command(int argc, char **argv)
{
	static const struct option options[] = {
		{ "mode", required_argument, NULL, 'm' },
		{ "log", required_argument, NULL, 'l' },
		{ "policy", required_argument, NULL, 'p' },
		{ "records", required_argument, NULL, 'r' },
		{ "offer", required_argument, NULL, 'o' },
		{ "logind", no_argument, NULL, 's' },
		{ "no-parent", no_argument, NULL, 'n' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	const char *mode = "auto", *log = NULL, *policy = NULL, *records = NULL, *offer = NULL, *why, *before = getenv("LD_PRELOAD");
	struct pvclock_policy unused = pvclock_policy_default();
	struct pvclock_reason reason;
	char preload[PATH_MAX], list[2 * PATH_MAX];
	bool logind = false;
	uint32_t features;
	int option, error;

	optind = 1;
	while ((option = getopt_long(argc, argv, "+h", options, NULL)) != -1) {
		switch (option) {
		case 'm':
			mode = optarg;
			break;
		case 'l':
			log = optarg;
			break;
		case 'p':
			policy = optarg;
			break;
		case 'r':
			records = optarg;
			break;
		case 'o':
			offer = optarg;
			break;
		case 's':
			logind = true;
			break;
		case 'n':
			setenv("PVCLOCK_PARENT", "off", 1);
			break;
		case 'h':
			print_help();
			return EXIT_FINE;
		default:
			return usage_error("run");
		}
	}
	if (!known_mode(mode)) {
		fprintf(stderr, "pvclock run: there is no mode \"%s\"; there are own, steer and auto.\n", mode);
		return EXIT_USAGE;
	}
	if (policy != NULL && policy_from_words(&unused, policy, &reason) != 0) {
		fprintf(stderr, "pvclock run: %s\n", reason.text);
		return EXIT_USAGE;
	}
	if (records != NULL && !is_folder(records)) {
		fprintf(stderr, "pvclock run: --records %s: there is no such folder; make it first.\n", records);
		return EXIT_LACKING;
	}
	if (offer != NULL && !offer_from_words(offer, &features)) {
		fprintf(stderr, "pvclock run: --offer %s: there is nothing such to be offered; there are suspend and nested.\n", offer);
		return EXIT_USAGE;
	}
	if (logind && sleep_watch_lacks() != NULL) {
		fprintf(stderr, "pvclock run: --logind: %s.\n", sleep_watch_lacks());
		return EXIT_LACKING;
	}
	if (optind == argc) {
		fputs("pvclock run: there is no program to run; name it after the options: pvclock run -- qemu-system-x86_64 ...\n", stderr);
		return EXIT_USAGE;
	}
	if (!find_preload(preload)) {
		fputs("pvclock run: " PRELOAD_NAME " is not beside this command; install it again, or name it in PVCLOCK_PRELOAD.\n",
		      stderr);
		return EXIT_LACKING;
	}
	why = why_out_of_reach(argv[optind]);
	if (why != NULL) {
		fprintf(stderr, "pvclock run: %s %s.\n", argv[optind], why);
		return EXIT_LACKING;
	}
	snprintf(list, sizeof(list), "%s%s%s", preload, before && *before ? ":" : "", before ? before : "");
	setenv("LD_PRELOAD", list, 1);
	setenv("PVCLOCK_MODE", mode, 1);
	if (offer != NULL)
		setenv("PVCLOCK_OFFER", offer, 1);
	if (policy != NULL && *policy != '@')
		setenv("PVCLOCK_POLICY", policy, 1);
	if (policy != NULL && *policy == '@' && !pass_path("PVCLOCK_POLICY", "@", policy + 1)) {
		fprintf(stderr, "pvclock run: --policy %s: its folder cannot be found.\n", policy);
		return EXIT_LACKING;
	}
	if (records != NULL && !pass_path("PVCLOCK_RECORDS", "", records)) {
		fprintf(stderr, "pvclock run: --records %s: its folder cannot be found.\n", records);
		return EXIT_LACKING;
	}
	if (log != NULL && !pass_path("PVCLOCK_LOG", "", log)) {
		fprintf(stderr, "pvclock run: --log %s: its folder cannot be found.\n", log);
		return EXIT_LACKING;
	}
	error = logind ? run_sleep_start() : 0;
	if (error != 0)
		fprintf(stderr, "pvclock run: a sleep of the host will not be told beforehand: %s.\n", strerror(-error));
	execvp(argv[optind], &argv[optind]);
	fprintf(stderr, "pvclock run: %s cannot be started: %s.\n", argv[optind], strerror(errno));
	return EXIT_LACKING;
}
