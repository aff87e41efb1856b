/* SPDX-License-Identifier: MIT */
/*
 * P6 for snapshots. A save that fails (the disk is full, a file may not grow so large, no such folder) leaves the old file whole
 * and the guest running. A VMM that is killed (kill -9) at any step of a save or of a restore, as `pvclock-vmm --list-steps` names
 * them, leaves the old file or the new one, whole: another VMM goes on from it. A damaged file is refused in one sentence, before
 * anything was made of it. And P1: the clock goes on as the policy says.
 *
 * Guest: clock.elf on 2 vCPUs.
 */
#include "foreseen.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEPS_MAX 64
#define FILE_LIMIT 20000
#define FLOORS_NS 2 /* two readings' floors, of ns and of the ticks that a negative shift drops (judge.h) */

static char folder[48], file[64], new_file[72];

static struct harness_options options_for(const struct live *live, const char *payload, const char *mode)
{
	return (struct harness_options){ .vmm = live->vmm, .payload = payload, .mode = mode, .vcpus = 2 };
}

static bool save(struct watch *watch)
{
	char command[96];
	json_t *reply;

	snprintf(command, sizeof(command), "snapshot %s", file);
	watch->harness.error[0] = '\0';
	reply = harness_command(&watch->harness, command, WATCH_COMMAND_MS);
	json_decref(reply);
	return reply != NULL;
}

/* A short hash of the file; 0: there is none. */
static uint64_t fingerprint(void)
{
	uint64_t sum = 0xcbf29ce484222325ull;
	FILE *stream = fopen(file, "re");
	int c;

	if (!stream)
		return 0;
	while ((c = fgetc(stream)) != EOF)
		sum = (sum ^ (unsigned int)c) * UINT64_C(0x100000001b3);
	fclose(stream);
	return sum;
}

/*
 * Another VMM takes the file, on the same memory. The clock is to count what is between, so that it stays the same function. What
 * the memory has of the guest's log is from before the save, and was judged; so is a reading that was made then, and is logged
 * now.
 */
static bool restores(struct watch *watch, const struct harness_options *options, const char *crash_at)
{
	const struct harness_options from = {
		.vmm = options->vmm,
		.mode = options->mode,
		.vcpus = options->vcpus,
		.extra = { "--same-boot", "--policy", "snapshot=advance", "--restore", file, crash_at ? "--crash-at" : NULL,
			  crash_at },
	};
	harness_sink *sink = watch->harness.sink;
	bool done;

	watch->harness.error[0] = '\0';
	watch->harness.sink = NULL;
	done = harness_replace(&watch->harness, &from) == 0;
	harness_discard(&watch->harness);
	done = done && harness_wait_readings(&watch->harness, 1, WATCH_READINGS_MS) == 0;
	watch->harness.sink = sink;
	return done;
}

/* Nothing is left of the VMM that was killed, and another one goes on from the file: with the line that the guest had. */
static void check_next(struct live *live, struct watch *watch, const struct harness_options *options, const char *crash_at,
		       const char *name)
{
	int64_t jump = 0;

	if (!live_check(live, restores(watch, options, crash_at) && watch_event_end(watch, &jump) == 0,
			"P6 %s: another VMM goes on from the file%s", name, watch->harness.error))
		return;
	live_check(live, jump >= -live_limit(options->mode) && jump <= live_limit(options->mode),
		   "P1 %s: with the same line: jump %lld ns",
		   name, (long long)jump);
}

static bool nothing_is_left(struct watch *watch)
{
	int64_t deadline = harness_now_ms() + WATCH_COMMAND_MS;

	while (harness_processes(&watch->harness) && harness_now_ms() < deadline)
		harness_run(&watch->harness, 5);
	return harness_processes(&watch->harness) == 0;
}

/* The first line that pvclock-vmm says of a file that it cannot start from, and its exit code. */
static int refusal(const struct live *live, const char *arguments, char *sentence, size_t size)
{
	char command[4300];
	FILE *stream;
	int status;

	snprintf(command, sizeof(command), "'%s' %s 2>&1", live->vmm, arguments);
	sentence[0] = '\0';
	stream = popen(command, "re");
	if (!stream)
		return -1;
	if (!fgets(sentence, (int)size, stream))
		sentence[0] = '\0';
	sentence[strcspn(sentence, "\n")] = '\0';
	status = fgetc(stream) == EOF ? 0 : -1; /* one sentence */
	int code = pclose(stream);
	return status ? -1 : WEXITSTATUS(code);
}

/* --- saves that fail -------------------------------------------------------------------------- */

static void check_failed(struct live *live, struct watch *watch, const char *name, const char *words, uint64_t before)
{
	int64_t jump = 0;

	if (watch_event_begin(watch))
		return;
	live_check(live, !save(watch) && strstr(watch->harness.error, words), "P6 %s: refused: %s", name, watch->harness.error);
	live_check(live, fingerprint() == before && access(new_file, F_OK) != 0, "P6 %s: the old file is there, and nothing else", name);
	watch->harness.error[0] = '\0';
	live_check(live, watch_event_end(watch, &jump) == 0 && jump == 0, "P6 %s: the guest runs on: jump %lld ns%s", name,
		   (long long)jump, watch->harness.error);
}

static unsigned int descriptors(pid_t pid)
{
	char path[32];
	unsigned int count = 0;
	DIR *open;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	open = opendir(path);
	while (open && readdir(open))
		count++;
	if (open)
		closedir(open);
	return count;
}

static void failing_saves(struct live *live, struct watch *watch)
{
	struct rlimit small = { FILE_LIMIT, FILE_LIMIT }, large;
	uint64_t before = fingerprint();
	pid_t pid = live_pid(watch);
	unsigned int open = descriptors(pid);

	small.rlim_max = prlimit(pid, RLIMIT_FSIZE, NULL, &large) == 0 ? large.rlim_max : RLIM_INFINITY;
	if (live_check(live, prlimit(pid, RLIMIT_FSIZE, &small, NULL) == 0, "the VMM's files are limited")) {
		check_failed(live, watch, "a file that may not grow", "File too large", before);
		prlimit(pid, RLIMIT_FSIZE, &large, NULL);
	}
	if (mount("tmpfs", folder, "tmpfs", 0, "size=32k") == 0) {
		check_failed(live, watch, "a full disk", "No space left on device", fingerprint());
		umount(folder);
	} else {
		live_note("a full disk: not tried: mount(2): %s", strerror(errno));
	}
	live_check(live, save(watch), "P6 the next save succeeds: %s", watch->harness.error);
	live_check(live, fingerprint() != before, "P6 and is a new file");
	live_check(live, open > 2 && descriptors(pid) == open, "P6 %u descriptors before all that, %u after", open,
		   descriptors(pid));
}

/* --- kills ------------------------------------------------------------------------------------------ */

struct step {
	char point[48];
	char what[512];
	bool is_new; /* the file is the new one */
	bool whole;  /* the temporary one is there, and whole */
};

static size_t list_steps(const struct live *live, const char *side, struct step *steps)
{
	char command[4200];
	size_t count = 0;
	bool whole = false;
	FILE *list;

	snprintf(command, sizeof(command), "'%s' --list-steps", live->vmm);
	list = popen(command, "re");
	while (list && count < STEPS_MAX && fgets(steps[count].what, sizeof(steps[count].what), list)) {
		struct step *step = &steps[count];

		if (sscanf(step->what, "%47s", step->point) != 1 || strncmp(step->point, side, strlen(side)))
			continue;
		whole = whole || strstr(step->what, "all of it under a temporary name");
		step->is_new = strstr(step->what, "file: the new one") != NULL;
		step->whole = whole && !step->is_new;
		count++;
	}
	return list && pclose(list) == 0 ? count : 0;
}

/* A file that a killed save left under its temporary name: none, half a one, which is refused as what it is, or a whole one. */
static void check_left_over(struct live *live, const struct step *step)
{
	char arguments[160], sentence[600];

	if (strstr(step->what, "temporary name") || step->whole) {
		/* of a whole one its number of vCPUs is looked at, and is wrong */
		snprintf(arguments, sizeof(arguments), "--vcpus 3 --restore %s", new_file);
		int code = refusal(live, arguments, sentence, sizeof(sentence));
		live_check(live, code == 1 && (strstr(sentence, "has 2 vCPUs") != NULL) == step->whole,
			   "P6 killed at %s: what is left over is %s: %s",
			   step->point, step->whole ? "whole" : "refused", sentence);
	} else {
		live_check(live, access(new_file, F_OK) != 0, "P6 killed at %s: nothing is left over", step->point);
	}
}

static void kill_saves(struct live *live, struct watch *watch, const struct harness_options *options)
{
	struct step steps[STEPS_MAX];
	size_t count = list_steps(live, "snapshot:", steps);

	live_check(live, count >= 6, "%zu steps of a save are listed", count);
	for (size_t i = 0; i < count; i++) {
		char name[80];
		uint64_t before = fingerprint();

		snprintf(name, sizeof(name), "%.8s killed at %.47s", options->mode, steps[i].point);
		if (watch_event_begin(watch))
			return;
		check_next(live, watch, options, steps[i].point, name); /* the one that is going to die */
		if (watch_event_begin(watch))
			return;
		live_check(live, !save(watch) && nothing_is_left(watch), "P6 %s: no process is left: %s", name,
			   watch->harness.error);
		live_check(live, before && (fingerprint() != before) == steps[i].is_new, "P6 %s: the file is the %s one", name,
			   steps[i].is_new ? "new" : "old");
		check_left_over(live, &steps[i]);
		check_next(live, watch, options, NULL, name);
		live_check(live, save(watch), "P6 %s: and saves again%s", name, watch->harness.error);
		live_check(live, access(new_file, F_OK) != 0, "P6 %s: what was left over is gone", name);
	}
}

static void kill_restores(struct live *live, struct watch *watch, const struct harness_options *options)
{
	struct step steps[STEPS_MAX];
	size_t count = list_steps(live, "restore:", steps);
	uint64_t before = fingerprint();

	live_check(live, count >= 5, "%zu steps of a restore are listed", count);
	for (size_t i = 0; i < count; i++) {
		char name[80];

		snprintf(name, sizeof(name), "%.8s killed at %.47s", options->mode, steps[i].point);
		if (watch_event_begin(watch))
			return;
		live_check(live, !restores(watch, options, steps[i].point) && nothing_is_left(watch),
			   "P6 %s: no process is left: %s", name,
			   watch->harness.error);
		live_check(live, fingerprint() == before && access(new_file, F_OK) != 0,
			   "P6 %s: the file is as it was, and alone", name);
		check_next(live, watch, options, NULL, name);
	}
}

/* --- files that are none ------------------------------------------------------------------------------- */

static void refused(struct live *live, const char *name, const char *words)
{
	char arguments[128], sentence[600];

	snprintf(arguments, sizeof(arguments), "--restore %s", file);
	int code = refusal(live, arguments, sentence, sizeof(sentence));
	live_check(live, code == 1 && strstr(sentence, words), "P6 %s: refused: %s", name, sentence);
}

static void damaged_files(struct live *live)
{
	struct stat status;
	int fd = open(file, O_RDWR | O_CLOEXEC);

	if (!live_check(live, fd >= 0 && fstat(fd, &status) == 0, "the file is there"))
		return;
	/* each field of the header, the extents, the state, guest memory, the last byte */
	const off_t at[] = { 0, 8, 12, 16, 24, 32, 40, 48, 56, 64, 72, 80, 300, 9000, status.st_size / 2, status.st_size - 1 };

	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		unsigned char byte;
		char name[48];

		snprintf(name, sizeof(name), "a bit of byte %lld flipped", (long long)at[i]);
		if (pread(fd, &byte, 1, at[i]) != 1)
			continue;
		byte ^= 0x10;
		(void)!pwrite(fd, &byte, 1, at[i]);
		refused(live, name, "--restore");
		byte ^= 0x10;
		(void)!pwrite(fd, &byte, 1, at[i]);
	}
	live_check(live, ftruncate(fd, status.st_size - 4096) == 0, "the file is cut short");
	refused(live, "cut short", "take another copy of it");
	close(fd);
	unlink(file);
	refused(live, "no file", "No such file or directory");
}

/* --- what the clock does ----------------------------------------------------------------------------------- */

/* A restore, asked about beforehand. */
static bool restored_as_foreseen(struct live *live, struct watch *watch, const struct harness_options *options,
				 struct foreseen *foreseen, int64_t *jump)
{
	const char *policy = options->extra[1], *as = options->extra[3];
	bool done;

	if (watch_event_begin(watch))
		return false;
	json_decref(harness_command(&watch->harness, "pause", WATCH_COMMAND_MS));
	harness_drain(&watch->harness); /* so that nothing of the guest's log comes back with its memory */
	if (!save(watch) || !foresee(live, foreseen, file, options->mode, as, policy))
		return false;
	foreseen->begun_ms = harness_now_ms();
	done = harness_replace(&watch->harness, options) == 0;
	foreseen->ended_ms = harness_now_ms();
	return done && watch_event_end(watch, jump) == 0;
}

/* One restore each way: what the guest's clock counts is the policy's. */
static void policies(struct live *live, struct watch *watch, const struct harness_options *options, const char *mode)
{
	static const struct {
		const char *policy, *as;
		bool counts;
	} cases[] = {
		{ "snapshot=advance", "snapshot", true },
		{ "snapshot=freeze", "snapshot", false },
		{ "migration=advance", "migration", true },
		{ "migration=freeze", "migration", false },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct harness_options next = *options;
		struct foreseen foreseen = { .plan = NULL };
		int64_t jump = 0, moved, apart, told;
		json_t *status, *restored;
		bool done;

		next.payload = NULL;
		next.extra[0] = "--policy";
		next.extra[1] = cases[i].policy;
		next.extra[2] = "--as";
		next.extra[3] = cases[i].as;
		next.extra[4] = "--restore";
		next.extra[5] = file;
		done = restored_as_foreseen(live, watch, &next, &foreseen, &jump);
		if (!live_check(live, done, "%s %s: the guest goes on%s", mode, cases[i].policy, watch->harness.error)) {
			foreseen_clear(&foreseen);
			return;
		}
		status = harness_command(&watch->harness, "status", WATCH_COMMAND_MS);
		restored = json_object_get(status, "restored");
		moved = harness_number(restored, "moved_ticks", 0);
		apart = jump + ticks_in_ns(&watch->judge.reference, moved);
		told = jump + harness_number(restored, "uncounted_ns", 0);
		live_check(live, !strcmp(harness_text(restored, "after", ""), cases[i].as) &&
				   !strcmp(harness_text(restored, "precision", ""), "exact") &&
				   (harness_number(restored, "uncounted_ns", 0) == 0) == cases[i].counts &&
				   (harness_number(restored, "counted_ns", 0) == 0) != cases[i].counts,
			   "P7 %s %s: told: counted %lld ns, not counted %lld ns", mode, cases[i].policy,
			   (long long)harness_number(restored, "counted_ns", -1),
			   (long long)harness_number(restored, "uncounted_ns", -1));
		foreseen_check(live, &foreseen, restored, &watch->judge.vcpu[0], live_limit(mode));
		foreseen_clear(&foreseen);
		json_decref(status);
		if (cases[i].counts)
			live_check(live, jump >= -live_limit(mode) && jump <= live_limit(mode),
				   "P1 %s %s: the function is the same: jump %lld ns", mode, cases[i].policy, (long long)jump);
		else if (moved == 0) /* KVM honours TSC offsets: the TSC stopped with the clock */
			live_check(live, jump >= -live_limit(mode) && jump <= live_limit(mode),
				   "P1 P7 %s %s: TSC and clock stood still together: jump %lld ns", mode, cases[i].policy, (long long)jump);
		else /* the clock alone did: it is behind by the ticks that the line moved, and what two floors make of them */
			live_check(live, apart >= -FLOORS_NS - live_limit(mode) && apart <= live_limit(mode),
				   "P7 %s %s: the clock stood still: %lld ns, %lld from the %lld ticks that were told", mode,
				   cases[i].policy, (long long)jump, (long long)apart, (long long)moved);
		/* Own mode's slope is the one that time is measured by; the kernel's is not. Two parts were told, each cut off. */
		if (!cases[i].counts && moved != 0 && live_limit(mode) == 0)
			live_check(live, told >= -FLOORS_NS - 1 && told <= 0, "P7 %s %s: and %lld ns from the ns that were told", mode,
				   cases[i].policy, (long long)told);
	}
}

/* Whether `pvclock record edit` changes the file, and the first line that it says. */
static bool edit(const char *change, char *sentence, size_t size)
{
	char *tool = harness_path("../tools/pvclock/pvclock"), command[4400];
	FILE *stream;

	snprintf(command, sizeof(command), "'%s' record edit %s %s 2>&1", tool ? tool : "", file, change);
	free(tool);
	stream = popen(command, "re");
	if (!stream || !fgets(sentence, (int)size, stream))
		sentence[0] = '\0';
	return stream && pclose(stream) == 0;
}

static bool flip_last_bit(int fd)
{
	off_t last = lseek(fd, -1, SEEK_END);
	unsigned char byte;

	if (last <= 0 || pread(fd, &byte, 1, last) != 1)
		return false;
	byte ^= 1;
	return pwrite(fd, &byte, 1, last) == 1;
}

/* The policy is in the record, and the record in the snapshot: it can be changed there. */
static void edited(struct live *live, struct watch *watch, const struct harness_options *options)
{
	struct harness_options from = *options;
	uint64_t before;
	char sentence[600];
	json_t *status;
	int fd;

	live_check(live, save(watch) && edit("policy.snapshot=advance policy.advance_max_ns=1000000", sentence, sizeof(sentence)),
		   "P6 a record in a snapshot is edited: %s", sentence);
	from.payload = NULL;
	from.extra[0] = "--restore";
	from.extra[1] = file;
	live_check(live, harness_replace(&watch->harness, &from) == 0 &&
			   harness_wait_readings(&watch->harness, 20, WATCH_READINGS_MS) == 0,
		   "P6 and restored: %s", watch->harness.error);
	status = harness_command(&watch->harness, "status", WATCH_COMMAND_MS);
	live_check(live, harness_number(json_object_get(status, "restored"), "counted_ns", -1) == 1000000,
		   "P7 by the edited policy");
	json_decref(status);

	fd = open(file, O_RDWR | O_CLOEXEC);
	if (!live_check(live, fd >= 0 && flip_last_bit(fd), "a bit of guest memory is flipped"))
		return;
	before = fingerprint();
	live_check(live, !edit("policy.snapshot=freeze", sentence, sizeof(sentence)) && strstr(sentence, "damaged") &&
		   fingerprint() == before,
		   "P6 a damaged snapshot is not edited: %s", sentence);
	flip_last_bit(fd);
	close(fd);
}

static void in_mode(struct live *live, const char *mode, bool all)
{
	char *payload = harness_path("clock.elf");
	const struct harness_options options = options_for(live, payload, mode);
	struct watch watch;

	if (watch_start(&watch, &options)) {
		live_check(live, false, "%s: the guest starts: %s", mode, watch.harness.error);
	} else {
		int64_t jump = 0;

		live_check(live, watch_event_begin(&watch) == 0 && save(&watch) && watch_event_end(&watch, &jump) == 0,
			   "P6 %s: a running guest is saved and runs on%s", mode, watch.harness.error);
		live_check(live, jump >= -live_limit(mode) && jump <= live_limit(mode), "P1 %s: jump %lld ns", mode, (long long)jump);
		policies(live, &watch, &options, mode);
		if (all)
			failing_saves(live, &watch);
		live_check(live, save(&watch), "P6 %s: saved%s", mode, watch.harness.error);
		kill_restores(live, &watch, &options);
		kill_saves(live, &watch, &options);
		watch_finish(&watch);
		live_check(live, watch_backwards(&watch) == 0, "P2 %s: %llu steps backwards", mode,
			   (unsigned long long)watch_backwards(&watch));
		if (all) /* last, as its policy is one that loses time */
			edited(live, &watch, &options);
	}
	live_stop(live, &watch, mode);
	free(payload);
}

int main(void)
{
	struct live live;

	live_begin(&live);
	snprintf(folder, sizeof(folder), "%s/pvclock-snapshot-XXXXXX", live_scratch());
	if (!mkdtemp(folder)) {
		live_check(&live, false, "%s: %s", folder, strerror(errno));
		return live_end(&live);
	}
	snprintf(file, sizeof(file), "%s/guest", folder);
	snprintf(new_file, sizeof(new_file), "%s.new", file);
	in_mode(&live, "steer", false);
	in_mode(&live, "own", true);
	damaged_files(&live);
	unlink(file);
	unlink(new_file);
	rmdir(folder);
	return live_end(&live);
}
