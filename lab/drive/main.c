/* SPDX-License-Identifier: MIT */
/*
 * pvclock-lab - runs stock Debian guests on a stock QEMU, does to them what is done to VMs, and says what became of
 * their clocks: with KVM's own clock, and with the preload's. Exit: 0 every promise kept, 1 one broken or a run failed,
 * 2 usage.
 */
#include "options.h"
#include "scenario.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PEER_MS 60000
#define AGENT_MS 3600000
#define PVCLOCK_BELOW "/../../tools/pvclock/pvclock" /* from this program's folder, as they are built */

/* --- where things are ---------------------------------------------------------------------------- */

static int find_things(struct driver *driver)
{
	struct lab *lab = &driver->lab;
	char *slash;
	ssize_t length = readlink("/proc/self/exe", lab->driver, sizeof(lab->driver) - 1);

	lab->driver[length > 0 ? length : 0] = '\0';
	snprintf(lab->pvclock, sizeof(lab->pvclock), "%.400s", lab->driver);
	slash = strrchr(lab->pvclock, '/');
	if (slash)
		snprintf(slash, sizeof(lab->pvclock) - (size_t)(slash - lab->pvclock), "%s", PVCLOCK_BELOW);
	if (driver->pvclock)
		snprintf(lab->pvclock, sizeof(lab->pvclock), "%s", driver->pvclock);
	snprintf(lab->initrd, sizeof(lab->initrd), "%.400s/guest.cpio", driver->home);
	snprintf(lab->nested, sizeof(lab->nested), "%.400s/nested.cpio", driver->home);
	if (driver->initrd)
		snprintf(lab->initrd, sizeof(lab->initrd), "%s", driver->initrd);
	snprintf(lab->kernel, sizeof(lab->kernel), "%.400s/kernel/boot/linux", driver->home);
	if (driver->kernel)
		snprintf(lab->kernel, sizeof(lab->kernel), "%s", driver->kernel);
	if (access(lab->kernel, R_OK))
		return lab_fail(lab, "There is no guest kernel %s: run the lab's fetch.sh, or name one with --kernel.", lab->kernel);
	if (access(lab->initrd, R_OK))
		return lab_fail(lab, "There is no %s: run the lab's image.sh, or name an image with --initrd.",
				lab->initrd);
	return 0;
}

static void make_directories(const char *path)
{
	char part[LAB_PATH];

	snprintf(part, sizeof(part), "%s", path);
	for (char *at = part + 1; *at; at++)
		if (*at == '/') {
			*at = '\0';
			mkdir(part, 0755);
			*at = '/';
		}
	mkdir(part, 0755);
}

static int make_places(struct driver *driver)
{
	struct lab *lab = &driver->lab;
	const char *dot = driver->out ? strrchr(driver->out, '.') : NULL;
	char path[LAB_PATH];

	snprintf(lab->work, sizeof(lab->work), "/tmp/pvclock-lab.XXXXXX");
	if (!mkdtemp(lab->work))
		return lab_fail(lab, "Cannot make a folder in /tmp: %s.", strerror(errno));
	if (driver->logs)
		snprintf(lab->logs, sizeof(lab->logs), "%s", driver->logs);
	else if (driver->out)
		snprintf(lab->logs, sizeof(lab->logs), "%.*s.logs",
			 (int)strlen(driver->out) - (dot && !strchr(dot, '/') ? (int)strlen(dot) : 0), driver->out);
	else
		snprintf(lab->logs, sizeof(lab->logs), "%s", lab->work);
	make_directories(lab->logs);
	if (access(lab->logs, W_OK))
		return lab_fail(lab, "Cannot write to %s: %s.", lab->logs, strerror(errno));
	snprintf(path, sizeof(path), "%.400s/%.*s.journal", lab->logs, (int)strcspn(driver->names, ","), driver->names);
	lab->journal = fopen(path, "we");
	return 0;
}

static void remove_work(const struct lab *lab)
{
	DIR *directory = lab->work[0] ? opendir(lab->work) : NULL;
	struct dirent *entry;

	while (directory && (entry = readdir(directory)))
		if (entry->d_name[0] != '.')
			unlinkat(dirfd(directory), entry->d_name, 0);
	if (directory) {
		closedir(directory);
		rmdir(lab->work);
	}
}

/* --- rows ------------------------------------------------------------------------------------------ */

static int load(struct driver *driver, const char *path)
{
	json_error_t error;
	json_t *list = json_load_file(path, 0, &error), *object;
	size_t i;

	if (!json_is_array(list)) {
		fprintf(stderr, "pvclock-lab: %s holds no rows: %s.\n", path,
			list ? "it is no JSON array" : error.text);
		json_decref(list);
		return -1;
	}
	json_array_foreach(list, i, object)
		if (!rows_add_json(&driver->rows, object))
			break;
	json_decref(list);
	return 0;
}

/* Whole or not at all: a reader never finds half a file. */
static int save(struct driver *driver)
{
	json_t *list = driver->out ? rows_json(&driver->rows) : NULL;
	char path[LAB_PATH];
	int result;

	if (!driver->out)
		return 0;
	snprintf(path, sizeof(path), "%.500s.new", driver->out);
	result = list ? json_dump_file(list, path, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) : -1;
	json_decref(list);
	if (result || rename(path, driver->out)) {
		fprintf(stderr, "pvclock-lab: cannot write %s: %s.\n", driver->out, strerror(errno));
		return -1;
	}
	return 0;
}

/* An earlier run's rows of the same kind make way. */
static void forget(struct rows *rows, const char *scenario, const char *who)
{
	for (size_t i = 0; i < rows->count;) {
		struct rows one = { &rows->row[i], 1 };

		if (strcmp(rows->row[i].scenario, scenario) || strcmp(rows->row[i].who, who)) {
			i++;
			continue;
		}
		json_decref(one.row->extra);
		memmove(&rows->row[i], &rows->row[i + 1], (rows->count - i - 1) * sizeof(rows->row[0]));
		rows->count--;
	}
}

static void print_ms(const char *what, const json_t *list)
{
	const json_t *ns;
	size_t i;

	json_array_foreach(list, i, ns)
		printf("%s%.0f ms", i ? ", " : what, (double)json_integer_value(ns) / 1e6);
}

/* What else a row is about. */
static void print_extra(const struct row *row)
{
	const json_t *across = json_object_get(row->extra, "late_us_across");
	const json_t *windows = json_object_get(row->extra, "windows_ns");

	if (across)
		printf("; %lld deadlines, %lld of them across an event: %lld early, late by %.1f ms in the median",
		       (long long)lab_number(row->extra, "deadlines", 0), (long long)lab_number(row->extra, "deadlines_across", 0),
		       (long long)lab_number(row->extra, "deadlines_early_across", 0), (double)lab_number(across, "median", 0) / 1000);
	else
		printf("; vDSO %lld ticks, syscall %lld", (long long)lab_number(row->extra, "vdso_ticks", 0),
		       (long long)lab_number(row->extra, "syscall_ticks", 0));
	print_ms("; acknowledged after ", windows);
	if (windows)
		print_ms("; off when that was put right by ", json_object_get(row->extra, "off_ns"));
}

/* One line, as soon as it is there. */
static void print_row(const struct row *row, double seconds)
{
	char jump[ROWS_TEXT];

	if (row->failure[0]) {
		printf("%-5s %-29s FAILED after %.0f s: %s\n", row->who, row->scenario, seconds, row->failure);
	} else if (json_is_true(json_object_get(row->extra, "refused"))) {
		printf("%-5s %-29s %.0f s: %s\n", row->who, row->scenario, seconds, row->reason);
	} else {
		printf("%-5s %-29s %.0f s: %u events, worst jump %s, %llu backwards, %s, %s%s", row->who, row->scenario, seconds,
		       row->events, rows_format_ns(row->jump_ns_max, jump), (unsigned long long)row->backwards,
		       row->stable ? "stable" : "not stable", lab_text(row->extra, "clocksource", "?"),
		       row->reason[0] ? " (see reason)" : "");
		print_extra(row);
		putchar('\n');
	}
	fflush(stdout);
}

/* --- running --------------------------------------------------------------------------------------- */

static bool chosen(const struct driver *driver, const struct scenario *scenario)
{
	const char *names = driver->names;
	char name[LIST_NAME];

	while (list_next(&names, name))
		if (!strcmp(name, "all") || (!strcmp(name, "short") && scenario->brief) ||
		    !strcmp(name, scenario->name))
			return true;
	return false;
}

/* False: nothing more is to be run. */
static bool run_one(struct driver *driver, const struct scenario *scenario, const char *who)
{
	const char *lacks = scenario_lacks(scenario, &driver->lab, who);
	int64_t start = lab_now_ms();
	size_t first;

	if (lacks) {
		printf("%-5s %-29s SKIP: %s\n", who, scenario->name, lacks);
		fflush(stdout);
		return true;
	}
	forget(&driver->rows, scenario->name, who);
	first = driver->rows.count;
	if (scenario_run(&driver->lab, &driver->here, &driver->there, scenario, who, &driver->rows)) {
		fprintf(stderr, "pvclock-lab: %s\n", driver->lab.interrupted ? driver->lab.error : "Out of memory.");
		driver->failed++;
		return false;
	}
	for (size_t i = first; i < driver->rows.count; i++)
		print_row(&driver->rows.row[i], (double)(lab_now_ms() - start) / 1000);
	return save(driver) == 0;
}

static void run_all(struct driver *driver)
{
	int64_t end = lab_now_ms() + (int64_t)(driver->seconds * 1000);
	char who[LIST_NAME];

	for (unsigned int s = 0; s < scenario_count; s++) {
		if (!chosen(driver, &scenarios[s]))
			continue;
		for (const char *clocks = driver->who; list_next(&clocks, who);) {
			if (driver->seconds > 0 && lab_now_ms() >= end) {
				printf("%-5s %-29s SKIP: the %.0f s of --timeout are over.\n", who, scenarios[s].name,
				       driver->seconds);
				driver->failed++;
				continue;
			}
			if (!run_one(driver, &scenarios[s], who))
				return;
		}
	}
}

static int meet_peer(struct driver *driver)
{
	struct lab *lab = &driver->lab;
	json_t *host;

	if (!lab->peer_address)
		return 0;
	if (peer_open(&driver->peer, lab, lab->peer_address, PEER_MS))
		return -1;
	lab->peer = &driver->peer;
	host = peer_ask(lab->peer, json_pack("{s:b}", "host", 1), 60000);
	if (!host)
		return -1;
	host_from_json(&driver->there, host);
	json_decref(host);
	printf("The peer: kernel %s, clocksource %s%s%s\n", driver->there.kernel, driver->there.clocksource,
	       driver->there.known ? "" : "; its rate is not known: ", driver->there.reason);
	return 0;
}

static int conclude(struct driver *driver)
{
	unsigned int broken;

	if (!driver->append && driver->rows.count) {
		putchar('\n');
		rows_print_table(&driver->rows, stdout);
	}
	broken = rows_print_broken(&driver->rows, stdout);
	return broken || driver->failed ? 1 : 0;
}

static int run(struct driver *driver)
{
	struct lab *lab = &driver->lab;
	int result = -1;

	if (find_things(driver) == 0 && make_places(driver) == 0 && meet_peer(driver) == 0) {
		host_learn(&driver->here, !strcmp(lab->accel, "kvm")); /* an emulator's TSC has a rate of its own */
		if (!driver->here.known && !strcmp(lab->accel, "kvm"))
			printf("This host's rate is not known, so neither is the exact drift: %s\n",
			       driver->here.reason);
		if (driver->append && driver->out && access(driver->out, R_OK) == 0 && load(driver, driver->out))
			result = 1;
		else
			run_all(driver), result = conclude(driver);
	} else {
		fprintf(stderr, "pvclock-lab: %s\n", lab->error);
		result = 1;
	}
	peer_close(&driver->peer);
	if (lab->journal)
		fclose(lab->journal);
	remove_work(lab);
	return result;
}

static int list(void)
{
	for (unsigned int i = 0; i < scenario_count; i++)
		printf("%-29s %s%s%s\n", scenarios[i].name, scenarios[i].help, scenarios[i].brief ? " (short)" : "",
		       scenarios[i].needs & NEEDS_PEER ? " (needs --peer)" : "");
	return 0;
}

int main(int argc, char **argv)
{
	struct driver *driver = calloc(1, sizeof(*driver));
	int result;

	if (!driver)
		return 1;
	result = options_parse(driver, argc, argv);
	if (result >= 0) {
		free(driver);
		return result;
	}
	lab_hold_signals();
	if (driver->list)
		result = list();
	else if (driver->agent)
		result = agent_run(&driver->lab, AGENT_MS);
	else if (driver->show)
		result = load(driver, driver->show) ? 1 : conclude(driver);
	else
		result = run(driver);
	rows_clear(&driver->rows);
	free(driver);
	return result;
}
