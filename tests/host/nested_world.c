/* SPDX-License-Identifier: MIT */
/* nested_world.c - how the levels are made, what can be read of them, and how L0 moves. */
#include "nested_world.h"

#include "../fake/still.h"

/* --- machines ------------------------------------------------------------------------------------ */

uint64_t tsc_of(const struct level *level)
{
	struct pvclock_tsc_transform tsc;

	if (!level->below)
		return level->fake->tsc;
	pvclock_vcpu_get_tsc(level->below->vcpu, &tsc);
	return pvclock_tsc_to_guest(&tsc, (struct pvclock_host_tsc){ tsc_of(level->below) }).ticks;
}

static struct pvclock_host_tsc read_tsc(void *ctx)
{
	return (struct pvclock_host_tsc){ tsc_of(ctx) };
}

static const struct pvclock_os_ops ops = { .read_tsc = read_tsc, .clock_gettime = still_gettime, .read_file = still_no_file };

static int write_msr(void *ctx, uint32_t msr, uint64_t value)
{
	struct level *level = ctx;

	level->doorbells++;
	return pvclock_vcpu_write_msr(level->below->vcpu, msr, value);
}

static int locate(void *ctx, const void *host, uint64_t size, uint64_t *gpa)
{
	struct level *level = ctx;

	if (level->lost && size == sizeof(struct pvclock_page))
		return -EFAULT;
	*gpa = (uint64_t)((const uint8_t *)host - level->below->memory);
	return 0;
}

static const struct pvclock_parent_ops parent_ops = { .write_msr = write_msr, .locate = locate };

void boot_host(struct world *w, uint64_t seed, uint32_t khz, uint64_t tsc, bool offsets_ignored)
{
	struct pvclock_kvm_config config = { .os = &w->fake.os, .vm_fd = 3, .mode = PVCLOCK_MODE_OWN };
	struct level *level = &w->level[0];

	fake_kvm_init(&w->fake, seed);
	w->fake.khz = khz;
	w->fake.tsc = tsc;
	w->fake.offset_ignored = offsets_ignored;
	*level = (struct level){ .fake = &w->fake, .memory = w->memory };
	assert_int_equal(pvclock_vm_create(&w->fake.os, &level->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(level->vm, (struct pvclock_gpa){ 0 }, SIZE, w->memory, 0), 0);
	assert_int_equal(pvclock_vcpu_create(level->vm, 0, &level->vcpu), 0);
	pvclock_vm_offer(level->vm, PVCLOCK_FEATURES);
	config.vm = level->vm;
	assert_int_equal(pvclock_kvm_attach(&config, &level->kvm, NULL), 0);
	assert_int_equal(pvclock_kvm_add_vcpu(level->kvm, level->vcpu, 4), 0);
}

void end_host(struct world *w)
{
	struct level *level = &w->level[0];

	pvclock_kvm_remove_vcpu(level->kvm, level->vcpu);
	pvclock_kvm_detach(level->kvm);
	pvclock_vcpu_destroy(level->vcpu);
	pvclock_vm_destroy(level->vm);
}

void read_page(const struct world *w, uint64_t gpa, struct pvclock_line *line)
{
	struct pvclock_snapshot snapshot;

	assert_int_equal(pvclock_page_read(w->memory + gpa, &snapshot), PVCLOCK_READ_OK);
	line->tsc = snapshot.line.tsc;
	line->ns = snapshot.line.ns;
	line->mul = snapshot.line.mul;
	line->shift = snapshot.line.shift;
}

/* The engine of `level`, in the guest of the one below, with a guest in `memory` that reads its counter by `tsc`. */
static void boot_level(struct world *w, unsigned int number, uint8_t *memory, uint64_t size, uint64_t table, uint64_t ns,
		       const struct pvclock_tsc_transform *tsc)
{
	struct level *level = &w->level[number];
	struct pvclock_slope slope;
	struct pvclock_line line;
	uint64_t generation;

	*level = (struct level){ .below = &w->level[number - 1], .os = { .ops = &ops, .ctx = level }, .memory = memory };
	assert_int_equal(pvclock_vm_create(&level->os, &level->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(level->vm, (struct pvclock_gpa){ 0 }, size, memory, 0), 0);
	assert_int_equal(pvclock_vcpu_create(level->vm, 0, &level->vcpu), 0);
	assert_int_equal(pvclock_vcpu_set_tsc(level->vcpu, tsc, false), 0);
	pvclock_vm_offer(level->vm, PVCLOCK_FEATURES);
	assert_int_equal(pvclock_parent_open(&parent_ops, level, (struct pvclock_nested_page *)(void *)(level->below->memory + table),
					     PVCLOCK_CONTROL_ENABLE | VECTOR, &level->parent), 0);
	generation = pvclock_parent_generation(level->parent);
	assert_int_equal(pvclock_vcpu_get_line(level->below->vcpu, &line), 0);
	assert_true(pvclock_slope_from_line(&line, &slope));
	assert_int_equal(pvclock_vm_start(level->vm, (struct pvclock_host_tsc){ tsc_of(level) }, ns, &slope), 0);
	assert_int_equal(pvclock_parent_add(level->parent, level->vm, generation), 0);
	assert_int_equal(pvclock_parent_add(level->parent, level->vm, generation), -EBUSY);
}

struct world *new_world(const struct pvclock_tsc_transform *l2, const struct pvclock_tsc_transform *l3)
{
	struct world *w = calloc(1, sizeof(*w));
	struct pvclock_slope slope;

	w->memory = aligned_alloc(4096, SIZE);
	memset(w->memory, 0, SIZE);
	boot_host(w, 7, KHZ, UINT64_C(1) << 40, false);
	w->fake.offset = (uint64_t)-(1ll << 39);
	pvclock_slope_from_khz(KHZ, &slope);
	assert_int_equal(pvclock_kvm_start(w->level[0].kvm, &slope), 0);
	assert_int_equal(pvclock_vcpu_write_msr(w->level[0].vcpu, PVCLOCK_MSR_SYSTEM_TIME, L1_PAGE | 1), 0);
	w->fake.tsc += 123456789;
	boot_level(w, 1, w->memory + L2_MEMORY, L2_SIZE, L1_TABLE, 5000000000, l2);
	assert_int_equal(pvclock_vcpu_write_msr(w->level[1].vcpu, PVCLOCK_MSR_SYSTEM_TIME, L2_PAGE | 1), 0);
	w->fake.tsc += 98765432;
	if (l3) {
		boot_level(w, 2, w->memory + L2_MEMORY + L3_MEMORY, L3_SIZE, L2_TABLE, 77, l3);
		assert_int_equal(pvclock_vcpu_write_msr(w->level[2].vcpu, PVCLOCK_MSR_SYSTEM_TIME, L3_PAGE | 1), 0);
		w->fake.tsc += 11111111;
	}
	return w;
}

void free_world(struct world *w)
{
	for (unsigned int i = LEVELS; i-- > 1;) {
		if (!w->level[i].vm)
			continue;
		pvclock_vcpu_destroy(w->level[i].vcpu);
		pvclock_vm_destroy(w->level[i].vm);
		pvclock_parent_close(w->level[i].parent);
	}
	end_host(w);
	free(w->memory);
	free(w);
}

/* --- what can be read ---------------------------------------------------------------------------- */

static const uint64_t places[LEVELS] = { L1_PAGE, L2_MEMORY + L2_PAGE, L2_MEMORY + L3_MEMORY + L3_PAGE };

/* What the counter of a level's guest reads where L1's reads `ticks`. */
static uint64_t at(const struct world *w, unsigned int level, uint64_t ticks)
{
	struct pvclock_tsc_transform tsc;

	for (unsigned int i = 1; i <= level; i++) {
		pvclock_vcpu_get_tsc(w->level[i].vcpu, &tsc);
		ticks = pvclock_tsc_to_guest(&tsc, (struct pvclock_host_tsc){ ticks }).ticks;
	}
	return ticks;
}

void take_readings(const struct world *w, struct readings *readings)
{
	memset(readings, 0, sizeof(*readings)); /* they are compared as bytes */
	for (unsigned int i = 0; i < LEVELS && w->level[i].vm; i++)
		read_page(w, places[i], &readings->line[i]);
}

void check_continues(const struct world *w, const struct readings *before, uint64_t from, uint64_t to)
{
	struct readings after;

	take_readings(w, &after);
	assert_int_equal(pvclock_vcpu_get_line(w->level[0].vcpu, &after.line[0]), 0); /* its own page is written by the resume */
	for (unsigned int i = 0; i < LEVELS && w->level[i].vm; i++) {
		uint64_t was = pvclock_line_ns(&before->line[i], at(w, i, from)), is = pvclock_line_ns(&after.line[i], at(w, i, to));

		if (is - was > 1)
			fail_msg("L%u goes on %lld ns from where it was", i + 1, (long long)(is - was));
		for (unsigned int bit = 0; bit < 34; bit++) {
			uint64_t later = UINT64_C(1) << bit, own = pvclock_line_ns(&after.line[0], to + later) - pvclock_line_ns(&after.line[0], to);
			int64_t apart = (int64_t)(pvclock_line_ns(&after.line[i], at(w, i, to + later)) - is - own);

			/* floors, and two roundings of a rate: 2^-32 of up to 7 s */
			if (apart < -3 - (int64_t)(later >> 31) || apart > 3 + (int64_t)(later >> 31))
				fail_msg("L%u is %lld ns from L1's rate after 2^%u ticks", i + 1, (long long)apart, bit);
		}
	}
}

/* --- what happens ---------------------------------------------------------------------------------- */

void move_host(struct world *w)
{
	enum pvclock_passing passing = w->next_move.advance ? PVCLOCK_ADVANCE : PVCLOCK_FREEZE;
	struct pvclock_policy policy = pvclock_policy_default();
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_slope slope;

	policy.on[PVCLOCK_BLACKOUT_SNAPSHOT] = policy.on[PVCLOCK_BLACKOUT_PAUSE] = passing;
	assert_int_equal(pvclock_kvm_pause(w->level[0].kvm), 0);
	pvclock_vm_set_policy(w->level[0].vm, &policy);
	assert_int_equal(pvclock_kvm_save(w->level[0].kvm, &record), 0);
	if (!w->in_store)
		take_readings(w, &w->saved);
	assert_int_equal(pvclock_vcpu_get_line(w->level[0].vcpu, &w->saved.line[0]), 0);
	w->saved_generation = pvclock_nested_generation(table_of(w));
	end_host(w);
	boot_host(w, 11, w->next_move.khz, w->next_move.tsc, w->next_move.offsets_ignored);
	pvclock_slope_from_khz(w->next_move.khz, &slope);
	if (pvclock_kvm_restore(w->level[0].kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, &slope, &w->plan, &reason))
		fail_msg("%s", reason.text);
	assert_int_equal(pvclock_kvm_resume(w->level[0].kvm, NULL, &reason), 0);
	pvclock_record_clear(&record);
}

/* What the first vCPU's page holds. */
static bool held_line(const struct level *level, struct pvclock_line *line)
{
	struct pvclock_snapshot page;
	uint64_t msr = 0;

	if (pvclock_vcpu_read_msr(level->vcpu, PVCLOCK_MSR_SYSTEM_TIME, &msr) || !(msr & PVCLOCK_MSR_ENABLE) ||
	    pvclock_vm_read_page(level->vm, (struct pvclock_gpa){ msr - PVCLOCK_MSR_ENABLE }, &page))
		return false;
	*line = page.line;
	return true;
}

void follow(struct level *level)
{
	struct pvclock_line before, after;
	struct pvclock_reason reason;
	bool held;
	int result;

	assert_true(pvclock_parent_changed(level->vm));
	held = held_line(level, &before);
	assert_int_equal(pvclock_vm_pause(level->vm), 0);
	result = pvclock_parent_follow(level->vm, NULL, &reason);
	if (result != 1 && result != 2)
		fail_msg("%s", reason.text);
	assert_int_equal(pvclock_vm_resume(level->vm), 0);
	/* where all was right already, the page is what it was */
	if (held && held_line(level, &after) && (result == 1 || !level->crowded))
		assert_true(same(&before, &after) == (result == 1));
	assert_false(pvclock_parent_changed(level->vm));
	assert_int_equal(pvclock_parent_follow(level->vm, NULL, NULL), 0);
}

const struct move moves[MOVES] = {
	{ .khz = 3000000, .tsc = UINT64_C(1) << 38 },
	{ .khz = 1999999, .tsc = UINT64_C(1) << 45, .advance = true },
	{ .khz = 3500123, .tsc = UINT64_C(1) << 44, .offsets_ignored = true },
	{ .khz = 2100000, .tsc = (UINT64_C(1) << 39) + 12345, .offsets_ignored = true, .advance = true },
	{ .khz = KHZ, .tsc = UINT64_C(1) << 43, .offsets_ignored = true }, /* the same rate, another counter */
};

struct pvclock_tsc_transform scaled(uint64_t numerator, uint64_t denominator, uint64_t offset)
{
	return (struct pvclock_tsc_transform){ .ratio = (uint64_t)(((unsigned __int128)numerator << PVCLOCK_FRAC_BITS_VMX) / denominator),
					       .offset = offset, .frac_bits = PVCLOCK_FRAC_BITS_VMX };
}
