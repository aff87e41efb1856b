/* SPDX-License-Identifier: MIT */
/*
 * pvclock-demo - runs real guests through pauses and live updates, with KVM's own clock and with pvclock's, and says what became of
 * their clocks. Exit: 0 every promise kept, 1 one broken (or a run failed), 2 usage, 77 no KVM here.
 */
#include "report.h"
#include "scenario.h"

#include <getopt.h>
#include <pvclock/source.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXIT_USAGE 2
#define EXIT_SKIP 77

static const char *const all_clocks[] = { "stock", "steer", "own" };
static const char *const all_scenarios[] = { "pause-resume", "live-update" };

struct demo {
	struct scenario_options run;
	struct pvclock_slope host;
	const char *only, *who, *out, *others;
	unsigned int done, total; /* runs */
	bool terminal, check;
};

static void usage(FILE *out)
{
	fputs("Usage: pvclock-demo [options]\n"
	      "Runs guests through pauses and live updates and judges their clocks to the nanosecond.\n\n"
	      "  --events N       events per scenario (20)\n"
	      "  --only SCENARIO  pause-resume or live-update\n"
	      "  --who CLOCK      stock, steer or own\n"
	      "  --vcpus N        vCPUs per guest, 1 to 16 (2)\n"
	      "  --seconds S      length of a scenario, in which its drift is measured (5.2)\n"
	      "  --pause MS       length of a pause (10)\n"
	      "  --rows FILE      shows the rows of pvclock-lab in FILE beside these\n"
	      "  --out DIR        where demo.json, report.html and report.svg go (out)\n"
	      "  --vmm PATH       the VMM (pvclock-vmm of this build)\n"
	      "  --payload PATH   its guest (clock.elf of this build)\n"
	      "  --check          only whether there is a KVM for it here: exit status 0 or 77\n"
	      "  --help\n\n"
	      "Exit: 0 every promise kept, 1 a promise broken or a run failed, 2 usage, 77 no usable /dev/kvm.\n",
	      out);
}

/* One line that rewrites itself on a terminal; else a line per run on stderr, so that stdout holds the result alone. */
static void show_progress(void *ctx, const char *who, const char *scenario, unsigned int done, unsigned int total)
{
	struct demo *demo = ctx;

	if (demo->terminal) {
		printf("\r\033[K[%u/%u] %s %s: %u of %u events", demo->done + 1, demo->total, who, scenario, done, total);
		fflush(stdout);
	} else if (done == 0) {
		fprintf(stderr, "[%u/%u] %s %s, %u events\n", demo->done + 1, demo->total, who, scenario, total);
	}
}

static void clear_progress(const struct demo *demo)
{
	if (demo->terminal) {
		fputs("\r\033[K", stdout);
		fflush(stdout);
	}
}

static bool parse_number(const char *text, double low, double high, double *number)
{
	char *end;

	*number = strtod(text, &end);
	return *text && !*end && *number >= low && *number <= high;
}

static bool known_clock(const char *name)
{
	for (size_t i = 0; i < sizeof(all_clocks) / sizeof(all_clocks[0]); i++)
		if (!strcmp(name, all_clocks[i]))
			return true;
	return false;
}

/* 0: go on. Else the exit code, plus 1. */
static int parse(struct demo *demo, int argc, char **argv)
{
	static const struct option options[] = {
		{ "events", required_argument, NULL, 'e' },  { "only", required_argument, NULL, 'o' },
		{ "who", required_argument, NULL, 'w' },     { "vcpus", required_argument, NULL, 'c' },
		{ "seconds", required_argument, NULL, 's' }, { "pause", required_argument, NULL, 'p' },
		{ "out", required_argument, NULL, 'd' },     { "vmm", required_argument, NULL, 'v' },
		{ "payload", required_argument, NULL, 'g' }, { "help", no_argument, NULL, 'h' },
		{ "rows", required_argument, NULL, 'r' },    { "check", no_argument, NULL, 'k' },
		{ NULL, 0, NULL, 0 },
	};
	double number = 0;
	bool good = true;
	int option;

	while (good && (option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (option) {
		case 'e':
			good = parse_number(optarg, 1, 10000, &number);
			demo->run.events = (unsigned int)number;
			break;
		case 'c':
			good = parse_number(optarg, 1, VMM_VCPUS_MAX, &number);
			demo->run.vcpus = (unsigned int)number;
			break;
		case 's': good = parse_number(optarg, 0.1, 3600, &demo->run.seconds); break;
		case 'p':
			good = parse_number(optarg, 0, 10000, &number);
			demo->run.pause_ms = (unsigned int)number;
			break;
		case 'o':
			good = scenario_known(optarg);
			demo->only = optarg;
			break;
		case 'w':
			good = known_clock(optarg);
			demo->who = optarg;
			break;
		case 'd': demo->out = optarg; break;
		case 'r': demo->others = optarg; break;
		case 'k': demo->check = true; break;
		case 'v': demo->run.vmm = optarg; break;
		case 'g': demo->run.payload = optarg; break;
		case 'h': usage(stdout); return 1;
		default: usage(stderr); return 1 + EXIT_USAGE;
		}
		if (!good)
			fprintf(stderr, "pvclock-demo: %s is out of range or unknown here.\n", optarg);
	}
	if (!good || optind < argc) {
		usage(stderr);
		return 1 + EXIT_USAGE;
	}
	return 0;
}

/* The host's own slope, which the exact drift is compared with. Without one the demo still runs. */
static void learn_host(struct demo *demo)
{
	struct pvclock_source *source;
	struct pvclock_source_state state;
	struct pvclock_reason reason = { .code = PVCLOCK_REASON_NONE };

	if (demo->terminal) {
		printf("Learning the host's own rate ...");
		fflush(stdout);
	}
	if (pvclock_source_open(pvclock_os_linux(), &source, &reason) == 0) {
		if (pvclock_source_learn(source, 5000000000ull, &reason) == 0) {
			pvclock_source_get(source, &state);
			demo->host = state.slope;
			demo->run.host = &demo->host;
		}
		pvclock_source_close(source);
	}
	clear_progress(demo);
	if (!demo->run.host)
		fprintf(stderr, "The host's rate is not known, so neither is the exact drift: %s\n", reason.text);
}

/* Returns how many runs failed. */
static unsigned int run_all(struct demo *demo, struct rows *rows)
{
	unsigned int failed = 0;

	for (size_t s = 0; s < sizeof(all_scenarios) / sizeof(all_scenarios[0]); s++)
		for (size_t c = 0; c < sizeof(all_clocks) / sizeof(all_clocks[0]); c++) {
			char error[HARNESS_ERROR];
			struct row *row;

			if ((demo->only && strcmp(demo->only, all_scenarios[s])) || (demo->who && strcmp(demo->who, all_clocks[c])))
				continue;
			row = rows_add(rows);
			if (!row || scenario_run(&demo->run, all_scenarios[s], all_clocks[c], row, error)) {
				clear_progress(demo);
				fprintf(stderr, "%s %s did not finish: %s\n", all_clocks[c], all_scenarios[s],
					row ? error : "out of memory.");
				if (row)
					rows->count--;
				failed++;
				if (row && strstr(error, "Interrupted by signal"))
					return failed;
			}
			demo->done++;
		}
	clear_progress(demo);
	return failed;
}

/* What was run elsewhere, for one table and one picture. How many rows are wrong in themselves. */
static unsigned int add_others(const char *path, struct rows *rows)
{
	json_error_t error;
	json_t *list = json_load_file(path, 0, &error);
	unsigned int bad = 0;

	if (!json_is_array(list)) {
		fprintf(stderr, "pvclock-demo: %s holds no rows: %s\n", path, list ? "it is no list" : error.text);
		bad++;
	}
	for (size_t i = 0; i < json_array_size(list); i++)
		bad += rows_add_json(rows, json_array_get(list, i)) == NULL;
	json_decref(list);
	return bad;
}

static int conclude(const struct demo *demo, const struct rows *rows, unsigned int failed)
{
	char error[HARNESS_ERROR];
	unsigned int broken;

	if (rows->count) {
		const struct row *row = &rows->row[rows->count - 1]; /* others come first */

		printf("%u vCPUs, %s, kernel %s%s\n\n", demo->run.vcpus, row->where, row->kernel,
		       demo->others ? "; Debian's guest in the lab" : "");
		rows_print_table(rows, stdout);
		putchar('\n');
		rows_print_meaning(rows, stdout);
	}
	broken = rows_print_broken(rows, stdout);
	if (report_write(rows, demo->out, error, sizeof(error))) {
		fprintf(stderr, "pvclock-demo: %s\n", error);
		return 1;
	}
	if (rows->count)
		printf("The picture: %s/report.html; the numbers: %s/demo.json\n", demo->out, demo->out);
	return broken || failed ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct demo demo = { .run = { .vcpus = 2, .events = 20, .seconds = 5.2, .pause_ms = 10 }, .out = "out" };
	struct rows rows = { NULL, 0 };
	char why[HARNESS_ERROR];
	char *vmm = harness_path("pvclock-vmm"), *payload = harness_path("clock.elf");
	int result;

	demo.run.vmm = vmm;
	demo.run.payload = payload;
	result = parse(&demo, argc, argv);
	if (result == 0 && !harness_kvm_usable(why)) {
		fprintf(stderr, "%s\n", why);
		result = 1 + EXIT_SKIP;
	}
	if (result == 0 && demo.check)
		result = 1;
	if (result == 0) {
		harness_hold_signals();
		demo.terminal = isatty(STDOUT_FILENO);
		demo.total = (demo.only ? 1u : 2u) * (demo.who ? 1u : 3u);
		demo.run.progress = show_progress;
		demo.run.progress_ctx = &demo;
		learn_host(&demo);
		unsigned int failed = demo.others ? add_others(demo.others, &rows) : 0;

		failed += run_all(&demo, &rows);

		result = 1 + conclude(&demo, &rows, failed);
	}
	rows_clear(&rows);
	free(vmm);
	free(payload);
	return result - 1;
}
