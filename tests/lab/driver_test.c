/* SPDX-License-Identifier: MIT */
/*
 * The whole driver on a QEMU that is not one (fake_qemu.c): what is right is a row, what is wrong is named, and nothing
 * that hangs or dies makes it hang or leaves a process behind. DRIVER and FAKE_QEMU name the programs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char folder[64];

struct result {
	int status;    /* the driver's exit status */
	double seconds;
	char *said;    /* stdout and stderr */
	json_t *rows;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static char *path_of(const char *name)
{
	static char paths[4][128]; /* a few at once */
	static unsigned int next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static char *read_all(const char *path)
{
	FILE *file = fopen(path, "r");
	char *text = calloc(1, 65536);

	assert_non_null(file);
	assert_non_null(text);
	(void)!fread(text, 1, 65535, file);
	fclose(file);
	return text;
}

/* Starts the driver with further arguments, up to a NULL. */
static pid_t start(const char *fault, const char *const *arguments)
{
	const char *argv[40] = { getenv("DRIVER"),
				 "--qemu",
				 getenv("FAKE_QEMU"),
				 "--kernel",
				 "/proc/self/exe",
				 "--initrd",
				 "/proc/self/exe",
				 "--pause",
				 "1",
				 "--accel",
				 "tcg",
				 "--pvclock",
				 path_of("pvclock"),
				 "--out",
				 path_of("rows.json") };
	size_t count = 15;
	char places[4096];
	pid_t pid;

	assert_non_null(argv[0]);
	assert_non_null(argv[2]);
	while (*arguments && count < 39)
		argv[count++] = *arguments++;
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int fd = open(path_of("said"), O_WRONLY | O_CREAT | O_TRUNC, 0600);

		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
		snprintf(places, sizeof(places), "%s:%s", folder, getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin");
		setenv("PATH", places, 1);
		setenv("FAKE_FAULT", fault, 1);
		execv(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	return pid;
}

static struct result finish(pid_t pid, double began)
{
	struct result result = { .status = -1 };
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	result.status = WEXITSTATUS(status);
	result.seconds = now() - began;
	result.said = read_all(path_of("said"));
	result.rows = json_load_file(path_of("rows.json"), 0, NULL);
	/* we are its subreaper: what it left would be ours now */
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	return result;
}

static void forget_rows(void)
{
	unlink(path_of("rows.json"));
}

static struct result drive(const char *fault, ...)
{
	const char *arguments[20] = { NULL };
	double began = now();
	va_list list;
	size_t count = 0;

	forget_rows();
	va_start(list, fault);
	while (count < 19 && (arguments[count] = va_arg(list, const char *)))
		count++;
	va_end(list);
	return finish(start(fault, arguments), began);
}

static void clear(struct result *result)
{
	free(result->said);
	json_decref(result->rows);
}

static const json_t *row(const struct result *result, size_t index)
{
	const json_t *object = json_array_get(result->rows, index);

	if (!object)
		fail_msg("there is no row %zu; the driver said: %s", index, result->said);
	return object;
}

static long long number(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	if (!json_is_number(value))
		fail_msg("the row has no number \"%s\"", key);
	return (long long)json_number_value(value);
}

static const char *text(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? value : "";
}

static void assert_says(const struct result *result, const char *words)
{
	if (!strstr(result->said, words))
		fail_msg("the driver did not say \"%s\"; it said: %s", words, result->said);
}

/* --- what is right ------------------------------------------------------------------------------ */

static void test_all_scenarios(void **state)
{
	static const struct {
		const char *name;
		int events;
		bool any; /* as many CPUs as suit this machine */
	} expected[] = {
		{ "linux-boot", 1, true },
		{ "linux-pause", 2, true },
		{ "linux-snapshot", 2, true },
		{ "linux-migrate-same-rate", 2, true },
		{ "linux-reset", 2, true },
		{ "linux-hotplug-cpu", 5, false },
	};
	struct result result = drive("", "--scenarios", "short", "--who", "own", "--events", "2", NULL);

	(void)state;
	if (result.status)
		fail_msg("%s", result.said);
	assert_int_equal(json_array_size(result.rows), sizeof(expected) / sizeof(expected[0]));
	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
		const json_t *object = row(&result, i);

		assert_string_equal(text(object, "scenario"), expected[i].name);
		assert_string_equal(text(object, "who"), "own");
		assert_string_equal(text(object, "mode"), "own"); /* as the preload's log has it */
		assert_int_equal(number(object, "events"), expected[i].events);
		assert_int_equal(number(object, "vcpus"), expected[i].any && sysconf(_SC_NPROCESSORS_ONLN) < 2 ? 1 : 2);
		assert_int_equal(number(object, "jump_ns_max"), 0);
		assert_int_equal(number(object, "jump_ns_total"), 0);
		assert_int_equal(number(object, "backwards"), 0);
		assert_int_equal(number(object, "checked"), expected[i].events);
		assert_int_equal(number(object, "reads"), 4711);
		assert_int_equal(number(object, "vdso_ticks"), 171);
		assert_true(json_is_true(json_object_get(object, "stable")));
		assert_string_equal(text(object, "clocksource"), "kvm-clock");
		assert_string_equal(text(object, "judged_by"), "page");
	}
	clear(&result);
}

static void test_stock_is_measured_not_judged(void **state)
{
	struct result result = drive("jump 2", "--scenarios", "linux-pause", "--who", "stock", "--events", "3", NULL);

	(void)state;
	assert_int_equal(result.status, 0);
	assert_int_equal(number(row(&result, 0), "jump_ns_max"), 1500);
	assert_int_equal(number(row(&result, 0), "jump_ns_total"), 1500);
	clear(&result);
}

/* --- what is wrong ------------------------------------------------------------------------------ */

static void test_broken_promises(void **state)
{
	static const struct {
		const char *fault, *says, *key;
		long long value;
	} cases[] = {
		{ "jump 2", "BROKEN P1: own linux-pause: the worst jump in ns is 1500", "jump_ns_max", 1500 },
		{ "backwards", "BROKEN P2: own linux-pause: the number of steps backwards is 3", "backwards", 3 },
		{ "unstable", "BROKEN P4: own linux-pause", "events", 3 },
		{ "contradict", "BROKEN P1: own linux-pause: the worst jump in ns is 5000", "contradicted", 3 },
		{ "measured", "BROKEN P1: own linux-pause: the worst jump in ns is 7", "checked", 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct result result =
			drive(cases[i].fault, "--scenarios", "linux-pause", "--who", "own", "--events", "3", NULL);

		assert_int_equal(result.status, 1);
		assert_says(&result, cases[i].says);
		assert_int_equal(number(row(&result, 0), cases[i].key), cases[i].value);
		clear(&result);
	}
}

static void test_failures_are_rows(void **state)
{
	static const struct {
		const char *fault, *scenario, *says, *slow; /* limits are made small where one of them is waited for */
	} cases[] = {
		{ "exits", "linux-boot", "QEMU ended before it opened", "1" },
		{ "exits", "linux-boot", "fake_qemu: no such CPU", "1" },
		{ "boots-not", "linux-boot", "The guest's probe did not answer \"ready\" in time", "0.04" }, /* of 90 s */
		{ "deaf", "linux-pause", "QEMU did not answer \"stop\" in time", "0.1" }, /* of 15 s */
		{ "mute", "linux-pause", "did not answer \"hello\" in time", "0.08" }, /* of 30 s */
		{ "dies", "linux-pause", "guest's QEMU ended with exit status 3", "1" },
		{ "dies", "linux-pause", "QEMU's last line: \"fake_qemu: out of luck\"", "1" },
		{ "blind", "linux-pause", "The guest cannot tell what event 1 did", "1" },
		{ "refuses", "linux-snapshot", "QEMU refused \"savevm lab\": Error: No space left on device", "1" },
		{ "refuses", "linux-migrate-same-rate", "the wire is cut", "1" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct result result = drive(cases[i].fault, "--scenarios", cases[i].scenario, "--who", "stock",
					     "--slow", cases[i].slow, "--events", "2", NULL);

		assert_int_equal(result.status, 1);
		assert_says(&result, "FAILED: stock");
		assert_says(&result, cases[i].says);
		assert_true(strstr(text(row(&result, 0), "failure"), cases[i].says) != NULL);
		assert_true(result.seconds < 15);
		clear(&result);
	}
}

static void test_next_scenario_runs(void **state)
{
	struct result result =
		drive("deaf", "--scenarios", "linux-pause,linux-boot", "--who", "stock", "--slow", "0.1", NULL);

	(void)state;
	assert_int_equal(result.status, 1);
	assert_int_equal(json_array_size(result.rows), 2);
	assert_string_equal(text(row(&result, 0), "scenario"), "linux-boot"); /* the table's order */
	assert_string_equal(text(row(&result, 0), "failure"), "");
	assert_true(strstr(text(row(&result, 1), "failure"), "stop") != NULL);
	clear(&result);
}

/* A signal ends it soon, with what it has so far, and with no process left. */
static void test_interrupted(void **state)
{
	static const char *const arguments[] = { "--scenarios", "linux-boot,linux-pause", "--who", "stock", NULL };
	double began = now();
	struct result result;
	pid_t pid;

	(void)state;
	forget_rows();
	pid = start("deaf", arguments);
	while (access(path_of("rows.json"), R_OK) && now() - began < 20)
		usleep(20000);
	kill(pid, SIGTERM);
	result = finish(pid, began);
	assert_int_equal(result.status, 1);
	assert_says(&result, "Interrupted by a signal.");
	assert_int_equal(json_array_size(result.rows), 1);
	assert_true(result.seconds < 20);
	clear(&result);
}

/* --- the file ------------------------------------------------------------------------------------- */

static void test_append_and_show(void **state)
{
	static const char *const again[] = { "--scenarios", "linux-boot", "--who", "stock,own", "--append", NULL };
	struct result result =
		drive("jump 1", "--scenarios", "linux-pause,linux-boot", "--who", "own", "--events", "1", NULL);
	double began = now();

	(void)state;
	assert_int_equal(result.status, 1); /* both moved */
	clear(&result);
	result = finish(start("", again), began);
	assert_int_equal(result.status, 1); /* the earlier linux-pause is still there, and still broken */
	assert_int_equal(json_array_size(result.rows), 3);
	assert_says(&result, "BROKEN P1: own linux-pause");
	assert_null(strstr(result.said, "BROKEN P1: own linux-boot"));
	assert_int_equal(number(row(&result, 0), "jump_ns_max"), 1500);
	assert_int_equal(number(row(&result, 0), "vdso_ticks"), 171); /* columns that only scenarios know stay, too */
	clear(&result);
	began = now();
	result = finish(start("", (const char *const[]){ "--show", path_of("rows.json"), NULL }), began);
	assert_int_equal(result.status, 1);
	assert_says(&result, "BROKEN P1: own linux-pause");
	clear(&result);
}

static void test_usage(void **state)
{
	static const struct {
		const char *option, *value, *says;
	} cases[] = {
		{ "--who", "mine", "there is no clock \"mine\"" },
		{ "--scenarios", "linux-boot,linux-dance", "there is no scenario \"linux-dance\"" },
		{ "--events", "0", "\"0\" is out of range" },
		{ "--slow", "fast", "\"fast\" is out of range" },
		{ "--accel", "xen", "\"xen\" is out of range or unknown" },
		{ "more", NULL, "\"more\" is no option" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct result result = drive("", cases[i].option, cases[i].value, NULL);

		assert_int_equal(result.status, 2);
		assert_says(&result, cases[i].says);
		clear(&result);
	}
	struct result result = drive("", "--kernel", "/no/such/kernel", NULL);

	assert_int_equal(result.status, 1);
	assert_says(&result, "There is no guest kernel /no/such/kernel");
	clear(&result);
}

static void test_skips_say_why(void **state)
{
	struct result result = drive("", "--scenarios", "linux-migrate-new-rate", "--who", "stock", NULL);

	(void)state;
	assert_int_equal(result.status, 0);
	assert_says(&result, "SKIP: it needs a second host; name one with --peer.");
	clear(&result);
	result = drive("", "--scenarios", "linux-faults", "--who", "stock", NULL);
	assert_says(&result, "SKIP: there is nothing of it in stock.");
	clear(&result);
}

static int set_up(void **state)
{
	FILE *script, *image;

	(void)state;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	snprintf(folder, sizeof(folder), "/tmp/lab-driver-test.XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	/* what starts QEMU with the preload: it only keeps the log */
	script = fopen(path_of("pvclock"), "w");
	if (!script)
		return -1;
	fputs("#!/bin/sh\n[ \"$1 $2 $4 $6 $8\" = \"run --mode --records --log --\" ] || exit 9\n"
	      "echo \"{\\\"event\\\":\\\"attach\\\",\\\"mode\\\":\\\"$3\\\",\\\"reason\\\":\\\"\\\"}\" >>\"$7\"\nshift "
	      "8\nexec \"$@\"\n",
	      script);
	fclose(script);
	/* QEMU's own tool for disks, which need not be installed: "create -q -f qcow2 FILE SIZE" */
	image = fopen(path_of("qemu-img"), "w");
	if (!image)
		return -1;
	fputs("#!/bin/sh\n[ \"$1 $4\" = \"create qcow2\" ] && : >\"$5\"\n", image);
	fclose(image);
	return chmod(path_of("pvclock"), 0700) || chmod(path_of("qemu-img"), 0700);
}

static int tear_down(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_scenarios),	 cmocka_unit_test(test_stock_is_measured_not_judged),
		cmocka_unit_test(test_broken_promises),	 cmocka_unit_test(test_failures_are_rows),
		cmocka_unit_test(test_next_scenario_runs), cmocka_unit_test(test_interrupted),
		cmocka_unit_test(test_append_and_show),	 cmocka_unit_test(test_usage),
		cmocka_unit_test(test_skips_say_why),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
