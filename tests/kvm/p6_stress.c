/* SPDX-License-Identifier: MIT */
/*
 * P1, P2, P6 over 1,000 live updates and 1,000 snapshots, each restored by another VMM, of one guest: its line at the end is its
 * line at the start, bit for bit as a function; no reading went back; and descriptors and memory did not grow.
 *
 * Guest: clock.elf on 2 vCPUs. Host: snapshots advance, so that the guest's TSC and clock count what passed, and every
 * event has to leave the line where it is, on a KVM that honours TSC offsets as on one that does not. Arguments: how
 * many of each, and one mode.
 */
#include "live.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EVENTS 1000u
#define STEER_EVENTS 50u
#define TOGETHER 25u /* updates and restores between two looks at the line */
/* making a VM waits for the kernel in three calls (SRCU), each for up to 0.4 s on a busy machine: the guest runs meanwhile */
#define HANDOVER_S "15"
#define RING_MS 60000 /* for every vCPU's log to fill up */
#define GROWTH_KIB 256 /* of a process's own memory: what malloc may hold more of, by chance */

struct footprint {
	unsigned int vmm_fds, own_fds;
	long vmm_kib; /* memory that is the VMM's alone */
	long long guest_blocks, file_size;
};

static unsigned int count_fds(pid_t pid)
{
	unsigned int count = 0;
	char path[48];
	DIR *directory;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	directory = opendir(path);
	while (directory && readdir(directory))
		count++;
	if (directory)
		closedir(directory);
	return count;
}

static long anonymous_kib(pid_t pid)
{
	char path[48], line[256];
	long kib = -1;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	status = fopen(path, "re");
	while (status && kib < 0 && fgets(line, sizeof(line), status))
		if (sscanf(line, "RssAnon: %ld", &kib) != 1)
			kib = -1;
	if (status)
		fclose(status);
	return kib;
}

static struct footprint look(struct watch *watch, const char *file)
{
	pid_t pid = live_pid(watch);
	struct stat status = { 0 }, snapshot = { 0 };

	fstat(watch->harness.memory_fd, &status);
	stat(file, &snapshot);
	return (struct footprint){
		.vmm_fds = count_fds(pid),
		.own_fds = count_fds(getpid()),
		.vmm_kib = anonymous_kib(pid),
		.guest_blocks = status.st_blocks,
		.file_size = snapshot.st_size,
	};
}

/* One event for the judge: every reading in it is held against the line that was in force before. */
static bool some(struct watch *watch, const struct harness_options *options, const char *file, unsigned int count)
{
	if (watch_event_begin(watch))
		return false;
	for (unsigned int i = 0; i < count; i++) {
		json_t *reply = harness_command(&watch->harness, "update", WATCH_COMMAND_MS);

		json_decref(reply);
		if (!reply || harness_restore(&watch->harness, options, file))
			return false;
		judge_merge(&watch->judge, false);
	}
	return watch_event_end(watch, NULL) == 0;
}

static void check_line(struct live *live, struct watch *watch, const char *mode, unsigned int events)
{
	const struct pvclock_line *first = &watch->judge.reference, *last = &watch->judge.vcpu[0].line;
	uint64_t tick = watch->judge.vcpu[0].last.tsc;
	int64_t apart = (int64_t)(pvclock_line_ns(last, tick) - pvclock_line_ns(first, tick));

	live_check(live, first->mul == last->mul && first->shift == last->shift && apart >= 0 && apart <= live_limit(mode),
		   "P1 %s: after %u updates and %u restores the line is the first one: slope %u/2^%d and %u/2^%d, %lld ns apart at tick %llu",
		   mode, events, events, first->mul, 32 - first->shift, last->mul, 32 - last->shift, (long long)apart,
		   (unsigned long long)tick);
	live_check(live, judge_total(&watch->judge) >= 0 && judge_total(&watch->judge) <= live_limit(mode),
		   "P1 %s: %lld ns in all by the readings, at most %lld", mode, (long long)judge_total(&watch->judge),
		   (long long)live_limit(mode));
}

/* What the VMMs said of themselves that a reader of a failure wants to know. */
static void tell_log(const struct watch *watch)
{
	int fd = dup(watch->harness.log_fd);
	FILE *log = fd >= 0 ? fdopen(fd, "r") : NULL;
	char line[600];

	if (!log)
		return;
	rewind(log);
	while (fgets(line, sizeof(line), log)) {
		line[strcspn(line, "\n")] = '\0';
		if (strstr(line, "still") || strstr(line, "update:") ||
		    (strstr(line, "residual") && !(strstr(line, "(0 ns)") && (strstr(line, "residual 0 ") || strstr(line, "residual 1 ")))))
			live_note("%s", line);
	}
	fclose(log);
}

static void check_growth(struct live *live, const struct footprint *before, const struct footprint *after, const char *mode)
{
	live_check(live, after->vmm_fds == before->vmm_fds && after->own_fds == before->own_fds,
		   "P6 %s: descriptors of the VMM %u and then %u, of this program %u and then %u", mode, before->vmm_fds,
		   after->vmm_fds, before->own_fds, after->own_fds);
	live_check(live, after->vmm_kib > 0 && after->vmm_kib <= before->vmm_kib + GROWTH_KIB,
		   "P6 %s: memory of the VMM's own %ld KiB and then %ld KiB", mode, before->vmm_kib, after->vmm_kib);
	live_check(live, after->guest_blocks <= before->guest_blocks && after->file_size <= before->file_size,
		   "P6 %s: guest memory in use %lld blocks and then %lld; a snapshot %lld bytes and then %lld", mode,
		   before->guest_blocks, after->guest_blocks, before->file_size, after->file_size);
}

static void stress(struct live *live, const char *mode, unsigned int events, const char *file)
{
	char *payload = harness_path("clock.elf");
	const struct harness_options options = {
		.vmm = live->vmm,
		.payload = payload,
		.mode = mode,
		.vcpus = 2,
		.extra = { "--policy", "snapshot=advance", "--same-boot", "--handover-timeout", HANDOVER_S },
	};
	int64_t begun = harness_now_ms();
	struct footprint before, after;
	unsigned int done = 0;
	struct watch watch;

	if (watch_start(&watch, &options)) {
		live_check(live, false, "%s: the guest starts: %s", mode, watch.harness.error);
		goto out;
	}
	/* The guest's log fills up first, and is then written over; what the first events allocate stays allocated. */
	if (harness_wait_readings(&watch.harness, VMM_RING_ENTRIES, RING_MS) == 0 && some(&watch, &options, file, 2)) {
		before = look(&watch, file);
		for (done = 2; done < events;) {
			unsigned int next = events - done < TOGETHER ? events - done : TOGETHER;

			if (!some(&watch, &options, file, next))
				break;
			done += next;
		}
	}
	if (live_check(live, done == events, "P6 %s: the guest lives through %u of %u updates and restores%s%s", mode, done, events,
		       watch.harness.error[0] ? ": " : "", watch.harness.error)) {
		after = look(&watch, file);
		live_note("%s: %u updates and %u restores in %lld s", mode, events, events,
			  (long long)(harness_now_ms() - begun) / 1000);
		live_check_promises(live, &watch, mode, live_limit(mode));
		check_line(live, &watch, mode, events);
		check_growth(live, &before, &after, mode);
	}
	if (live->failed)
		tell_log(&watch);
out:
	free(payload);
	live_stop(live, &watch, mode);
}

int main(int argc, char **argv)
{
	unsigned int events = argc > 1 ? (unsigned int)atoi(argv[1]) : live_count(EVENTS, 20);
	char file[64];
	struct live live;

	live_begin(&live);
	snprintf(file, sizeof(file), "%s/pvclock-p6-%d", live_scratch(), (int)getpid());
	if (argc < 3 || !strcmp(argv[2], "own"))
		stress(&live, "own", events, file);
	if (argc < 3 || !strcmp(argv[2], "steer"))
		stress(&live, "steer", argc < 3 ? STEER_EVENTS : events, file);
	unlink(file);
	return live_end(&live);
}
