// SPDX-License-Identifier: MIT
/*
 * main.c - pvclock-vmm: the shortest real user of the library.
 */
#include "vmm.h"

#include "sleep_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXIT_FAILED 1
#define EXIT_USAGE 2
#define HANDOVER_TIMEOUT_DEFAULT_S 5

static const char help[] =
	"Usage: pvclock-vmm [OPTION]... PAYLOAD\n"
	"       pvclock-vmm [OPTION]... --restore FILE\n"
	"Runs PAYLOAD (a static x86-64 ELF, or flat code for address 0x800000) in 64-bit mode on every vCPU, with a\n"
	"clock that pvclock keeps. What the guest writes to port 0x3f8 goes to stdout; a byte written to port 0xf4 ends it\n"
	"and is the exit code (1 also: it could not run or broke; 2: wrong usage).\n"
	"\n"
	"  -c, --vcpus N             vCPUs, 1 to 16 (1, or FILE's)\n"
	"  -m, --memory MIB          guest memory, 16 to 1024, even (32, or FILE's, or what --memory-fd holds)\n"
	"  -M, --mode MODE           own: this program writes the clock's pages; steer: KVM does, this program aims it;\n"
	"                            stock: KVM alone; auto: the first of these that can be had (auto)\n"
	"  -r, --restore FILE        goes on from a snapshot\n"
	"      --as KIND             what came between: snapshot or migration; the policy has a word for each (snapshot)\n"
	"  -p, --policy KEY=VALUE    what the clocks do about time in which the guest did not run; may be given again.\n"
	"                            pause, live-update, migration, snapshot, suspend: advance or freeze;\n"
	"                            advance_max_ns: of a longer time only so much is counted; fall_back: true or false\n"
	"      --steal OWNER         who tells the guest how long its vCPUs waited for a CPU: own, this program (in own mode); or\n"
	"                            kernel (kernel)\n"
	"      --hyperv              offers the guest Hyper-V's clock beside KVM's (in own mode)\n"
	"      --vmclock             the guest finds the time of day in a page of VMClock's, too\n"
	"      --logind              stops the guest before the host sleeps, and lets it go on afterwards\n"
	"  -h, --help                this text\n"
	"  -V, --version             the version\n"
	"\n"
	"For programs and tests:\n"
	"      --memory-fd FD        guest memory is this memfd, so that others can map it too\n"
	"      --control FD          a SOCK_SEQPACKET socket: status, pause, resume, update [PATH], snapshot PATH,\n"
	"                            quit; JSON replies\n"
	"      --handover-timeout S  how long an update's sides wait for each other (5)\n"
	"      --list-steps          the steps of an update, and who has the guest after a crash at each; of a snapshot\n"
	"      --crash-at SIDE:STEP  the old or new side of the next update dies there, or whoever takes that step of a snapshot\n"
	"      --hang-at SIDE:STEP   ... stops there for ever\n"
	"      --corrupt-record BIT  the next update hands over a record with this bit flipped\n"
	"      --same-boot           --restore takes the record's slope for this host's, if it was saved on this boot, instead\n"
	"                            of proving it (0.3 to 1 s)\n"
	"\n"
	"Example: pvclock-vmm --vcpus 2 --mode own clock.elf\n";

enum long_option {
	OPTION_MEMORY_FD = 256,
	OPTION_AS,
	OPTION_LOGIND,
	OPTION_HYPERV,
	OPTION_STEAL,
	OPTION_SAME_BOOT,
	OPTION_VMCLOCK,
	OPTION_CONTROL,
	OPTION_TIMEOUT,
	OPTION_LIST_STEPS,
	OPTION_CRASH_AT,
	OPTION_HANG_AT,
	OPTION_CORRUPT,
	OPTION_SUCCESSOR,
	OPTION_COMMIT,
};

static const struct option long_options[] = {
	{ "vcpus", required_argument, NULL, 'c' },
	{ "memory", required_argument, NULL, 'm' },
	{ "mode", required_argument, NULL, 'M' },
	{ "restore", required_argument, NULL, 'r' },
	{ "as", required_argument, NULL, OPTION_AS },
	{ "policy", required_argument, NULL, 'p' },
	{ "steal", required_argument, NULL, OPTION_STEAL },
	{ "hyperv", no_argument, NULL, OPTION_HYPERV },
	{ "vmclock", no_argument, NULL, OPTION_VMCLOCK },
	{ "logind", no_argument, NULL, OPTION_LOGIND },
	{ "same-boot", no_argument, NULL, OPTION_SAME_BOOT },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ "memory-fd", required_argument, NULL, OPTION_MEMORY_FD },
	{ "control", required_argument, NULL, OPTION_CONTROL },
	{ "handover-timeout", required_argument, NULL, OPTION_TIMEOUT },
	{ "list-steps", no_argument, NULL, OPTION_LIST_STEPS },
	{ "crash-at", required_argument, NULL, OPTION_CRASH_AT },
	{ "hang-at", required_argument, NULL, OPTION_HANG_AT },
	{ "corrupt-record", required_argument, NULL, OPTION_CORRUPT },
	/* said by an old side to its successor, never by a person */
	{ "successor", required_argument, NULL, OPTION_SUCCESSOR },
	{ "commit-fd", required_argument, NULL, OPTION_COMMIT },
	{ NULL, 0, NULL, 0 },
};

static int parse_number(const char *name, const char *text, uint64_t least, uint64_t most, uint64_t *value,
			struct problem *problem)
{
	char *end;

	errno = 0;
	unsigned long long number = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || number < least || number > most)
		return fail(problem, "%s %s: give a whole number from %llu to %llu", name, text,
			    (unsigned long long)least, (unsigned long long)most);
	*value = number;
	return 0;
}

/* An inherited descriptor; programs we start get it only if we say so. */
static int parse_fd(const char *name, const char *text, int *fd, struct problem *problem)
{
	uint64_t number = 0;

	if (parse_number(name, text, 0, 1 << 20, &number, problem) < 0)
		return -1;
	*fd = (int)number;
	if (fcntl(*fd, F_SETFD, FD_CLOEXEC) < 0)
		return fail(problem, "%s %s: not an open file descriptor: the program that starts this one has to "
			    "pass it on", name, text);
	return 0;
}

static int parse_mode(const char *text, enum pvclock_mode *mode, struct problem *problem)
{
	static const enum pvclock_mode modes[] = { PVCLOCK_MODE_AUTO, PVCLOCK_MODE_OWN, PVCLOCK_MODE_STEER,
						   PVCLOCK_MODE_STOCK };

	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(text, pvclock_mode_name(modes[i])) == 0) {
			*mode = modes[i];
			return 0;
		}
	}
	return fail(problem, "--mode %s: give own, steer, stock or auto", text);
}

static int parse_point(const char *name, const char *text, const char **point, struct problem *problem)
{
	if (!fault_known(text))
		return fail(problem, "%s %s: no such step: see --list-steps", name, text);
	*point = text;
	return 0;
}

static int parse_as(const char *text, enum pvclock_blackout *blackout, struct problem *problem)
{
	if (pvclock_blackout_parse(text, blackout) &&
	    (*blackout == PVCLOCK_BLACKOUT_SNAPSHOT || *blackout == PVCLOCK_BLACKOUT_MIGRATION))
		return 0;
	return fail(problem, "--as %s: give snapshot or migration", text);
}

/* Said more than once, the words add up. */
static int parse_policy(const char *text, char *words, size_t size, struct problem *problem)
{
	struct pvclock_policy unused = pvclock_policy_default();
	struct pvclock_reason reason;
	size_t length = strlen(words);

	if (pvclock_policy_parse(&unused, text, &reason) != 0)
		return fail(problem, "--policy: %s", reason.text);
	if ((size_t)snprintf(words + length, size - length, "%s%s", length ? "," : "", text) >= size - length)
		return fail(problem, "--policy %s: that is too much", text);
	return 0;
}

/* 0: run; 1: done already; -1. */
static int parse_options(int argc, char **argv, struct options *options, struct problem *problem)
{
	uint64_t number;
	int option, result = 0;

	*options = (struct options){
		.restore_as = PVCLOCK_BLACKOUT_SNAPSHOT,
		.memory_fd = -1,
		.control_fd = -1,
		.successor_fd = -1,
		.commit_fd = -1,
		.handover_timeout_ns = HANDOVER_TIMEOUT_DEFAULT_S * 1000000000ull,
		.fault.corrupt_bit = -1,
	};
	while (result == 0 && (option = getopt_long(argc, argv, "c:m:M:r:p:hV", long_options, NULL)) != -1) {
		switch (option) {
		case 'c':
			result = parse_number("--vcpus", optarg, 1, VMM_VCPUS_MAX, &number, problem);
			options->vcpus = result == 0 ? (uint32_t)number : 0;
			break;
		case 'm':
			result = parse_number("--memory", optarg, 16, 1024, &number, problem);
			options->memory_size = result == 0 ? number << 20 : 0;
			break;
		case 'M':
			result = parse_mode(optarg, &options->mode, problem);
			break;
		case 'r':
			options->restore_path = optarg;
			break;
		case OPTION_AS:
			result = parse_as(optarg, &options->restore_as, problem);
			break;
		case 'p':
			result = parse_policy(optarg, options->policy, sizeof(options->policy), problem);
			break;
		case OPTION_STEAL:
			options->own_steal = strcmp(optarg, "own") == 0;
			if (!options->own_steal && strcmp(optarg, "kernel") != 0)
				result = fail(problem, "--steal %s: give own or kernel", optarg);
			break;
		case OPTION_HYPERV:
			options->hyperv = true;
			break;
		case OPTION_LOGIND:
			options->logind = true;
			if (sleep_watch_lacks() != NULL)
				result = fail(problem, "--logind: %s", sleep_watch_lacks());
			break;
		case OPTION_VMCLOCK:
			options->vmclock = true;
			break;
		case OPTION_SAME_BOOT:
			options->same_boot = true;
			break;
		case 'h':
			fputs(help, stdout);
			return 1;
		case 'V':
			printf("pvclock-vmm %s\n", VMM_VERSION);
			return 1;
		case OPTION_MEMORY_FD:
			result = parse_fd("--memory-fd", optarg, &options->memory_fd, problem);
			break;
		case OPTION_CONTROL:
			result = parse_fd("--control", optarg, &options->control_fd, problem);
			break;
		case OPTION_TIMEOUT:
			result = parse_number("--handover-timeout", optarg, 1, 3600, &number, problem);
			options->handover_timeout_ns = result == 0 ? number * 1000000000u : 0;
			break;
		case OPTION_LIST_STEPS:
			fault_list();
			return 1;
		case OPTION_CRASH_AT:
			result = parse_point("--crash-at", optarg, &options->fault.crash_at, problem);
			break;
		case OPTION_HANG_AT:
			result = parse_point("--hang-at", optarg, &options->fault.hang_at, problem);
			break;
		case OPTION_CORRUPT:
			result = parse_number("--corrupt-record", optarg, 0, UINT32_MAX, &number, problem);
			options->fault.corrupt_bit = result == 0 ? (int64_t)number : -1;
			break;
		case OPTION_SUCCESSOR:
			result = parse_fd("--successor", optarg, &options->successor_fd, problem);
			break;
		case OPTION_COMMIT:
			result = parse_fd("--commit-fd", optarg, &options->commit_fd, problem);
			break;
		default: /* getopt has said what */
			return fail(problem, "see pvclock-vmm --help");
		}
	}
	if (result < 0)
		return -1;
	if (options->successor_fd >= 0) {
		if (options->commit_fd < 0 || options->memory_fd < 0)
			return fail(problem, "--successor is what a live update says to the new side: use the control "
				    "socket's update");
		return 0;
	}
	if (options->restore_path != NULL)
		return argc == optind ? 0 :
					fail(problem, "%s: a guest that is restored has its payload already", argv[optind]);
	if (options->vcpus == 0)
		options->vcpus = 1;
	if (argc - optind != 1)
		return fail(problem, "give one payload to run: see pvclock-vmm --help");
	options->payload = argv[optind];
	return 0;
}

/* A new guest. */
static int begin(struct machine *machine, const struct options *options, struct problem *problem)
{
	if (machine_create(machine, options, problem) < 0 ||
	    boot_load(machine, options->payload, problem) < 0 ||
	    clock_attach(machine, options->mode, true, problem) < 0 || vcpus_start(machine, problem) < 0 ||
	    clock_start(machine, problem) < 0)
		return -1;
	clock_set_policy(machine, options->policy);
	vcpus_resume(machine);
	return 0;
}

int main(int argc, char **argv)
{
	static struct machine machine = { .kvm_fd = -1, .vm_fd = -1, .memory_fd = -1, .event_fd = -1, .timer.event_fd = -1 };
	struct options options;
	struct problem problem = { "" };

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a snapshot that may not grow so large is to be an error */
	int parsed = parse_options(argc, argv, &options, &problem);
	if (parsed != 0) {
		if (parsed < 0)
			fprintf(stderr, "pvclock-vmm: %s\n", problem.text);
		return parsed < 0 ? EXIT_USAGE : 0;
	}
	int begun = options.successor_fd >= 0       ? handover_from(&machine, &options, &problem) :
		    options.restore_path != NULL ? snapshot_begin(&machine, &options, &problem) :
						   begin(&machine, &options, &problem);
	int code = EXIT_FAILED;
	if (begun < 0)
		fprintf(stderr, "pvclock-vmm: %s\n", problem.text);
	else
		code = control_serve(&machine, &options);
	vcpus_stop(&machine);
	clock_detach(&machine);
	machine_destroy(&machine);
	return code;
}
