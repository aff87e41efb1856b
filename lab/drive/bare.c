/* SPDX-License-Identifier: MIT */
#include "bare.h"

#include "difference.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GUEST_BELOW "/../../vmm/deadlines.elf" /* from the driver's folder, as they are built */
#define READY_MS 30000
#define MISSED_MS 20000 /* far beyond the longest sleep that is asked for */
#define LOOK_AGAIN_MS 100

struct bare *bare_open(unsigned int cpus)
{
	struct bare *bare = calloc(1, sizeof(*bare));

	if (bare)
		bare->shared = calloc(1, sizeof(*bare->shared));
	if (!bare || !bare->shared) {
		free(bare);
		return NULL;
	}
	bare->cpus = cpus < VMM_VCPUS_MAX ? cpus : VMM_VCPUS_MAX;
	return bare;
}

void bare_close(struct bare *bare)
{
	if (!bare)
		return;
	deadlines_clear(&bare->deadlines);
	free(bare->shared);
	free(bare);
}

void bare_kernel(const char *driver, char path[LAB_PATH])
{
	char *slash;

	snprintf(path, LAB_PATH, "%.400s", driver);
	slash = strrchr(path, '/');
	if (slash)
		snprintf(slash, LAB_PATH - (size_t)(slash - path), "%s", GUEST_BELOW);
}

/* --- its memory ----------------------------------------------------------------------------------- */

static int read_memory(struct qemu *vm, uint64_t gpa, void *to, size_t size)
{
	char path[LAB_PATH + 8];
	size_t got = 0;
	FILE *file;

	snprintf(path, sizeof(path), "%s.memory", vm->console); /* where both hosts see it, and no other scenario's VM */
	if (qmp_do(&vm->qmp, "pmemsave", json_pack("{s:I, s:I, s:s}", "val", (json_int_t)gpa, "size", (json_int_t)size, "filename", path),
		   QEMU_COMMAND_MS)) {
		qemu_explain(vm);
		return -1;
	}
	file = fopen(path, "r");
	if (file) {
		got = fread(to, 1, size, file);
		fclose(file);
	}
	unlink(path);
	return got == size ? 0 : lab_fail(vm->lab, "QEMU saved %zu of %zu bytes of its guest's memory.", got, size);
}

/* Pages that were just being written are looked at again. */
static int read_pages(struct bare *bare, struct qemu *vm)
{
	_Alignas(struct pvclock_page) uint8_t pages[VMM_VCPUS_MAX][VMM_PAGE_STRIDE];
	unsigned int good;

	for (int tries = 0; tries < 10; tries++) {
		if (read_memory(vm, bare->shared->pages_gpa, pages, bare->cpus * sizeof(pages[0])))
			return -1;
		for (good = 0; good < bare->cpus; good++)
			if (pvclock_page_read(pages[good], &bare->pages[good]) != PVCLOCK_READ_OK)
				break;
		if (good == bare->cpus)
			return 0;
	}
	return lab_fail(vm->lab, "vCPU %u's clock page holds no clock.", good);
}

static int look(struct bare *bare, struct qemu *vm)
{
	size_t size = offsetof(struct vmm_shared, ring) + bare->cpus * sizeof(bare->shared->ring[0]);

	return read_memory(vm, VMM_SHARED_PVH_GPA, bare->shared, size);
}

int bare_wait_ready(struct bare *bare, struct qemu *vm)
{
	int64_t until = lab_until(vm->lab, READY_MS);

	for (;;) {
		if (look(bare, vm))
			return -1;
		if (bare->shared->started == bare->cpus)
			return 0;
		if (lab_now_ms() >= until) {
			lab_fail(vm->lab, "%u of our guest's %u vCPUs run after %d s; has its KVM no TSC-deadline timer?",
				 bare->shared->started, bare->cpus, READY_MS / 1000);
			qemu_explain(vm);
			return -1;
		}
		if (lab_sleep(vm->lab, LOOK_AGAIN_MS))
			return -1;
	}
}

/* --- the probe's words ------------------------------------------------------------------------------ */

static bool all_stable(const struct bare *bare)
{
	for (unsigned int i = 0; i < bare->cpus; i++)
		if (!(bare->pages[i].flags & PVCLOCK_TSC_STABLE))
			return false;
	return true;
}

static json_t *make_reply(const struct bare *bare)
{
	const struct pvclock_snapshot *page = &bare->pages[0];

	return json_pack("{s:{s:I, s:I, s:I, s:i, s:i}, s:b, s:i, s:s, s:s}", "page", "tsc", (json_int_t)page->line.tsc, "ns",
			 (json_int_t)page->line.ns, "mul", (json_int_t)page->line.mul, "shift", page->line.shift, "flags", page->flags,
			 "stable", all_stable(bare), "cpus", (int)bare->cpus, "clocksource", "pvclock", "kernel", "deadlines.elf");
}

/* Each vCPU's own function of its own TSC, and the worst of them. */
static void add_differences(const struct bare *bare, const uint64_t *at, json_t *reply)
{
	struct difference worst = { .jump = 0 };

	for (unsigned int i = 0; i < bare->cpus; i++) {
		struct difference one = line_difference(&bare->before[i].line, &bare->pages[i].line, at);

		if (i == 0 || llabs(one.jump) > llabs(worst.jump))
			worst = one;
	}
	json_object_set_new(reply, "page_known", json_true());
	json_object_set_new(reply, "page_jump_ns", json_integer(worst.jump));
	json_object_set_new(reply, "page_rate_ppb", json_real(worst.rate_ppb));
}

static void judge_deadlines(struct bare *bare)
{
	deadlines_clear(&bare->deadlines);
	for (unsigned int i = 0; i < bare->cpus; i++) {
		const struct vmm_ring *ring = &bare->shared->ring[i];
		uint64_t count = ring->head < VMM_RING_ENTRIES ? ring->head : VMM_RING_ENTRIES;

		deadlines_take(&bare->deadlines, i, ring->entries, count);
	}
}

static int wait_for_deadlines(struct bare *bare, struct qemu *vm)
{
	int64_t until = lab_until(vm->lab, MISSED_MS);
	uint64_t taken[VMM_VCPUS_MAX];
	unsigned int i;

	if (look(bare, vm))
		return -1;
	for (i = 0; i < bare->cpus; i++)
		taken[i] = bare->shared->ring[i].reads;
	for (;;) {
		if (look(bare, vm))
			return -1;
		for (i = 0; i < bare->cpus && bare->shared->ring[i].reads != taken[i]; i++)
			;
		if (i == bare->cpus)
			return 0;
		if (lab_now_ms() >= until)
			return lab_fail(vm->lab, "vCPU %u missed a deadline: it sleeps on after %d s.", i, MISSED_MS / 1000);
		if (lab_sleep(vm->lab, LOOK_AGAIN_MS))
			return -1;
	}
}

static uint64_t sum_backwards(const struct bare *bare)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < bare->cpus; i++)
		sum += bare->shared->ring[i].backwards_cross;
	return sum;
}

json_t *bare_ask(struct bare *bare, struct qemu *vm, const char *command)
{
	bool ends = !strncmp(command, "end ", 4);
	uint64_t tick;
	json_t *reply;

	if ((ends ? wait_for_deadlines(bare, vm) : look(bare, vm)) || read_pages(bare, vm)) {
		qemu_explain(vm);
		return NULL;
	}
	reply = make_reply(bare);
	if (ends)
		add_differences(bare, sscanf(command, "end %*s %" SCNu64, &tick) == 1 ? &tick : NULL, reply);
	if (!strncmp(command, "begin", 5))
		memcpy(bare->before, bare->pages, sizeof(bare->before));
	if (!strcmp(command, "report")) {
		judge_deadlines(bare);
		json_object_set_new(reply, "samples", json_integer((json_int_t)bare->deadlines.taken));
		json_object_set_new(reply, "backwards_between", json_integer((json_int_t)sum_backwards(bare)));
	}
	return reply;
}
