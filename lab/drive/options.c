/* SPDX-License-Identifier: MIT */
#include "options.h"

#include "scenario.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void usage(FILE *out)
{
	fputs("Usage: pvclock-lab [options]\n"
	      "Runs stock guests on a stock QEMU through what happens to VMs, and judges their clocks.\n\n"
	      "  --who LIST        of stock, steer, own, auto (stock,steer,own)\n"
	      "  --scenarios LIST  names, or all, or short (short); --list shows them\n"
	      "  --events N        events of each scenario (its own number)\n"
	      "  --pause MS        length of a pause (100)\n"
	      "  --out FILE        the rows, as JSON; written after each (no file)\n"
	      "  --append          keep the rows of FILE that are not run anew; who collects them shows the table\n"
	      "  --show FILE       print a file's rows and judge them; runs nothing\n"
	      "  --logs DIR        consoles and logs (FILE, with .logs for its ending)\n"
	      "  --timeout S       of the whole run: scenarios that no longer fit are not begun\n"
	      "  --peer ADDRESS    a second host, on which `pvclock-lab --agent` runs\n"
	      "  --self ADDRESS    of this host, seen from the peer (10.0.0.1; with --agent 10.0.0.2)\n"
	      "  --agent           be the peer: start and end QEMUs as told, over TCP port 7000\n"
	      "  --lab DIR         where kernel/boot/linux and guest.cpio are (/lab)\n"
	      "  --kernel FILE, --initrd FILE, --qemu PROGRAM, --pvclock PROGRAM\n"
	      "  --accel NAME      kvm or tcg (kvm)\n"
	      "  --where NAME      what the rows call this place (kvm; lab where LAB is set)\n"
	      "  --slow X          multiplies every limit (PVCLOCK_SLOW, or 1)\n"
	      "  --list, --help\n\n"
	      "Exit: 0 every promise kept, 1 a promise broken or a run failed, 2 usage.\n",
	      out);
}

static bool parse_number(const char *text, double low, double high, double *number)
{
	char *end;

	*number = strtod(text, &end);
	return *text && !*end && *number >= low && *number <= high;
}

enum {
	OPTION_WHO = 1,
	OPTION_SCENARIOS,
	OPTION_EVENTS,
	OPTION_PAUSE,
	OPTION_OUT,
	OPTION_APPEND,
	OPTION_SHOW,
	OPTION_LOGS,
	OPTION_TIMEOUT,
	OPTION_PEER,
	OPTION_SELF,
	OPTION_AGENT,
	OPTION_LAB,
	OPTION_KERNEL,
	OPTION_INITRD,
	OPTION_QEMU,
	OPTION_PVCLOCK,
	OPTION_ACCEL,
	OPTION_WHERE,
	OPTION_SLOW,
	OPTION_LIST,
	OPTION_HELP
};

static const struct option options[] = {
	{ "who", required_argument, NULL, OPTION_WHO },
	{ "scenarios", required_argument, NULL, OPTION_SCENARIOS },
	{ "events", required_argument, NULL, OPTION_EVENTS },
	{ "pause", required_argument, NULL, OPTION_PAUSE },
	{ "out", required_argument, NULL, OPTION_OUT },
	{ "append", no_argument, NULL, OPTION_APPEND },
	{ "show", required_argument, NULL, OPTION_SHOW },
	{ "logs", required_argument, NULL, OPTION_LOGS },
	{ "timeout", required_argument, NULL, OPTION_TIMEOUT },
	{ "peer", required_argument, NULL, OPTION_PEER },
	{ "self", required_argument, NULL, OPTION_SELF },
	{ "agent", no_argument, NULL, OPTION_AGENT },
	{ "lab", required_argument, NULL, OPTION_LAB },
	{ "kernel", required_argument, NULL, OPTION_KERNEL },
	{ "initrd", required_argument, NULL, OPTION_INITRD },
	{ "qemu", required_argument, NULL, OPTION_QEMU },
	{ "pvclock", required_argument, NULL, OPTION_PVCLOCK },
	{ "accel", required_argument, NULL, OPTION_ACCEL },
	{ "where", required_argument, NULL, OPTION_WHERE },
	{ "slow", required_argument, NULL, OPTION_SLOW },
	{ "list", no_argument, NULL, OPTION_LIST },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ NULL, 0, NULL, 0 },
};

bool list_next(const char **list, char name[LIST_NAME])
{
	size_t length = strcspn(*list, ",");

	snprintf(name, LIST_NAME, "%.*s", (int)length, *list);
	*list += length;
	*list += **list == ',';
	return length > 0;
}

static bool known_clocks(const char *list)
{
	static const char *const clocks[] = { "stock", "steer", "own", "auto" };
	char name[LIST_NAME];

	while (list_next(&list, name)) {
		bool known = false;

		for (size_t i = 0; i < sizeof(clocks) / sizeof(clocks[0]); i++)
			known = known || !strcmp(name, clocks[i]);
		if (!known) {
			fprintf(stderr,
				"pvclock-lab: there is no clock \"%s\"; there are stock, steer, own and auto.\n", name);
			return false;
		}
	}
	return true;
}

static bool known_scenarios(const char *list)
{
	char name[LIST_NAME];

	while (list_next(&list, name))
		if (strcmp(name, "all") && strcmp(name, "short") && !scenario_find(name)) {
			fprintf(stderr, "pvclock-lab: there is no scenario \"%s\"; --list shows them.\n", name);
			return false;
		}
	return true;
}

static bool take_option(struct driver *driver, int option)
{
	struct lab *lab = &driver->lab;
	double number;

	switch (option) {
	case OPTION_WHO: driver->who = optarg; return known_clocks(optarg);
	case OPTION_SCENARIOS: driver->names = optarg; return known_scenarios(optarg);
	case OPTION_EVENTS:
		if (!parse_number(optarg, 1, 1000, &number))
			break;
		lab->events = (unsigned int)number;
		return true;
	case OPTION_PAUSE:
		if (!parse_number(optarg, 0, 60000, &number))
			break;
		lab->pause_ms = (unsigned int)number;
		return true;
	case OPTION_TIMEOUT:
		if (!parse_number(optarg, 1, 100000, &driver->seconds))
			break;
		return true;
	case OPTION_SLOW:
		if (!parse_number(optarg, 0.01, 1000, &lab->slow))
			break;
		return true;
	case OPTION_ACCEL:
		if (strcmp(optarg, "kvm") && strcmp(optarg, "tcg"))
			break;
		lab->accel = optarg;
		return true;
	case OPTION_OUT: driver->out = optarg; return true;
	case OPTION_SHOW: driver->show = optarg; return true;
	case OPTION_LOGS: driver->logs = optarg; return true;
	case OPTION_PEER: lab->peer_address = optarg; return true;
	case OPTION_SELF: lab->self = optarg; return true;
	case OPTION_LAB: driver->home = optarg; return true;
	case OPTION_KERNEL: driver->kernel = optarg; return true;
	case OPTION_INITRD: driver->initrd = optarg; return true;
	case OPTION_QEMU: lab->qemu = optarg; return true;
	case OPTION_PVCLOCK: driver->pvclock = optarg; return true;
	case OPTION_WHERE: lab->where = optarg; return true;
	case OPTION_APPEND: driver->append = true; return true;
	case OPTION_AGENT: driver->agent = true; return true;
	case OPTION_LIST: driver->list = true; return true;
	default: return false;
	}
	fprintf(stderr, "pvclock-lab: \"%s\" is out of range or unknown here.\n", optarg);
	return false;
}

int options_parse(struct driver *driver, int argc, char **argv)
{
	const char *slow = getenv("PVCLOCK_SLOW");
	int option;

	driver->who = "stock,steer,own";
	driver->names = "short";
	driver->home = "/lab";
	driver->lab = (struct lab){ .accel = "kvm", .qemu = "qemu-system-x86_64", .pause_ms = 100, .slow = 1,
				    .where = getenv("LAB") ? "lab" : "kvm" };
	if (slow && !parse_number(slow, 0.01, 1000, &driver->lab.slow)) {
		fprintf(stderr, "pvclock-lab: PVCLOCK_SLOW is \"%s\"; it is a factor of 0.01 to 1000.\n", slow);
		return EXIT_USAGE;
	}
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == OPTION_HELP) {
			usage(stdout);
			return 0;
		}
		if (!take_option(driver, option)) {
			fputs("Try `pvclock-lab --help`.\n", stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "pvclock-lab: \"%s\" is no option. Try `pvclock-lab --help`.\n", argv[optind]);
		return EXIT_USAGE;
	}
	if (!driver->lab.self)
		driver->lab.self = driver->agent ? "10.0.0.2" : "10.0.0.1";
	return -1;
}
