/* SPDX-License-Identifier: MIT */
/*
 * Stolen time that the VMM owns: what the guest reads grows by what the kernel says that the vCPU's thread waited for a
 * CPU (its schedstat), to the ns, pause by pause; never back, also through live updates and a snapshot; and not over
 * blackouts.
 *
 * Guest: steal.elf on 2 vCPUs. Host: the VMM and a thread that never rests share one CPU. A thread that is parked may
 * still have waited on its last steps there, after the pause has read its delay: then the guest was told less than the
 * kernel says. So of the rounds some few may be less; none may be more, and a sum that is wrong by itself is never
 * equal.
 */
#include "live.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 20
#define ROUNDS_LESS 10
#define ROUND_MS 40
#define VCPUS 2
#define MS 1000000ull
#define FEATURE_STEAL (1u << 5)
#define FEATURES_NOT_KEPT (1u << 7 | 1u << 9)

struct look {
	uint64_t stolen[VCPUS], delayed[VCPUS]; /* what the guest is told, what the kernel says */
};

/* This program and all that it starts. */
static bool share_one_cpu(void)
{
	cpu_set_t first;

	CPU_ZERO(&first);
	CPU_SET(0, &first);
	return sched_setaffinity(0, sizeof(first), &first) == 0;
}

static pid_t start_competitor(void)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		;
}

static bool read_delay(pid_t pid, int thread, uint64_t *ns)
{
	char path[64];
	unsigned long long delay;
	bool found;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", (int)pid, thread);
	file = fopen(path, "r");
	found = file && fscanf(file, "%*u %llu", &delay) == 1;
	if (file)
		fclose(file);
	*ns = found ? delay : 0;
	return found;
}

/* Of a guest that is paused. */
static bool look(struct harness *harness, struct look *out)
{
	json_t *status = harness_command(harness, "status", WATCH_COMMAND_MS), *threads = json_object_get(status, "threads");
	uint64_t gpa = harness->shared->argument[7];
	pid_t pid = (pid_t)harness_number(status, "pid", 0);
	bool found = json_array_size(threads) == VCPUS && gpa != 0;

	for (size_t i = 0; found && i < VCPUS; i++) {
		found = pvclock_steal_read((uint8_t *)harness->memory + gpa + i * VMM_PAGE_STRIDE, &out->stolen[i]) == PVCLOCK_READ_OK &&
			read_delay(pid, (int)json_integer_value(json_array_get(threads, i)), &out->delayed[i]);
	}
	json_decref(status);
	return found;
}

static bool command(struct harness *harness, const char *words)
{
	json_t *reply = harness_command(harness, words, WATCH_COMMAND_MS);
	bool done = reply != NULL;

	json_decref(reply);
	return done;
}

/* ROUNDS rounds of pause, look, look again, resume. */
static void rounds(struct live *live, struct harness *harness, const char *name)
{
	unsigned int less = 0, more = 0, moved = 0;
	uint64_t grown[VCPUS] = { 0 }, run_ns = 0;
	struct look before = { 0 }, now, later;
	bool known = false, looked = true;
	struct timespec from = { 0 }, to;

	for (unsigned int i = 0; looked && i <= ROUNDS; i++) {
		harness_run(harness, ROUND_MS);
		looked = command(harness, "pause") && look(harness, &now);
		clock_gettime(CLOCK_MONOTONIC, &to);
		usleep(2000);
		looked = looked && look(harness, &later);
		for (unsigned int v = 0; looked && v < VCPUS; v++) {
			uint64_t told = now.stolen[v] - before.stolen[v], waited = now.delayed[v] - before.delayed[v];

			moved += later.stolen[v] != now.stolen[v];
			if (!known)
				continue;
			less += told < waited;
			more += told > waited;
			grown[v] += told;
			if (told != waited)
				live_note("%s: vCPU %u: %llu ns were told, and it waited %llu", name, v, (unsigned long long)told,
					  (unsigned long long)waited);
		}
		run_ns += known ? (uint64_t)(to.tv_sec - from.tv_sec) * 1000000000u + (uint64_t)to.tv_nsec - (uint64_t)from.tv_nsec : 0;
		before = later;
		known = true;
		clock_gettime(CLOCK_MONOTONIC, &from); /* the guest waits as soon as it may run */
		looked = looked && command(harness, "resume");
	}
	live_check(live, looked, "%s: %u rounds: %s", name, ROUNDS, looked ? "all looked at" : harness->error);
	live_check(live, more == 0, "%s: never more than the kernel says (%u times)", name, more);
	live_check(live, less <= ROUNDS_LESS, "%s: exactly that in %u of %u looks", name, ROUNDS * VCPUS - less, ROUNDS * VCPUS);
	live_check(live, moved == 0, "%s: nothing is stolen in a pause", name);
	for (unsigned int v = 0; v < VCPUS; v++) /* three threads on one CPU: two thirds, where the scheduler is fair */
		live_check(live, grown[v] > run_ns / 4 && grown[v] < run_ns, "%s: vCPU %u: %llu of %llu ms were stolen", name, v,
			   (unsigned long long)(grown[v] / MS), (unsigned long long)(run_ns / MS));
}

static uint64_t count(const struct harness *harness, bool backwards)
{
	uint64_t sum = 0;

	for (unsigned int v = 0; v < VCPUS; v++) {
		const struct vmm_ring *ring = &harness->shared->ring[v];

		sum += atomic_load(backwards ? &ring->backwards : &ring->failed);
	}
	return sum;
}

static void owned(struct live *live)
{
	char *payload = harness_path("steal.elf"), path[64];
	struct harness_options options = { .vmm = live->vmm, .payload = payload, .mode = "own", .vcpus = VCPUS, .extra = { "--steal", "own" } };
	struct harness harness;
	pid_t competitor = start_competitor();

	if (live_check(live, harness_start(&harness, &options) == 0 && harness_wait_started(&harness, WATCH_START_MS) == 0, "own: the guest starts: %s",
		       harness.error)) {
		uint64_t features = harness.shared->argument[6];

		live_check(live, (features & FEATURE_STEAL) && !(features & FEATURES_NOT_KEPT), "own: CPUID says %#llx", (unsigned long long)features);
		rounds(live, &harness, "own");
		live_check(live, command(&harness, "update"), "a live update: %s", harness.error);
		rounds(live, &harness, "own, after a live update");
		options.payload = NULL;
		snprintf(path, sizeof(path), "%s/pvclock-steal-%d", live_scratch(), (int)getpid());
		live_check(live, harness_restore(&harness, &options, path) == 0, "a snapshot: %s", harness.error);
		rounds(live, &harness, "own, after a snapshot");
		unlink(path);
		live_check(live, count(&harness, true) == 0 && count(&harness, false) == 0, "the guest saw %llu steps back, and %llu readings failed",
			   (unsigned long long)count(&harness, true), (unsigned long long)count(&harness, false));
	}
	harness_stop(&harness);
	kill(competitor, SIGKILL);
	waitpid(competitor, NULL, 0);
	free(payload);
}

int main(void)
{
	struct live live;
	uint64_t unused;

	live_begin(&live);
	if (!read_delay(getpid(), getpid(), &unused)) {
		printf("1..0 # SKIP this kernel does not say how long a thread waited (CONFIG_SCHED_INFO)\n");
		free(live.vmm);
		return 77;
	}
	live_check(&live, share_one_cpu(), "one CPU for all");
	owned(&live);
	return live_end(&live);
}
