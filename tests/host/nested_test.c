/* SPDX-License-Identifier: MIT */
/*
 * nested_test.c - KVM on KVM on KVM, in one process: L0's engine on a KVM in virtual time, L1's and L2's engines in the
 * memory of its guest, each on the counter that the one below gives it. L0 moves L1 to hosts with other TSCs, and
 * whatever L2 or L3 can read next is looked at: the memory, before anything in it has run.
 *
 * The pages' writers are compiled here once more, with their stores counted: so L0 can stop L1 after any one of them.
 */
#include <stdatomic.h>
#include <stdint.h>

static void stored(void);

static inline void store_word(_Atomic uint32_t *word, uint32_t value, memory_order order)
{
	atomic_store_explicit(word, value, order);
	stored();
}

#undef atomic_store_explicit
#define atomic_store_explicit(word, value, order) store_word(word, value, order)
#include "../../src/page/nested.c"
#include "../../src/page/write.c"
#undef atomic_store_explicit

#include "machine.h"

#include <pvclock/parent.h>

#define SIZE 0x10000u
#define L1_PAGE 0x100u
#define L1_TABLE 0x1000u
#define L1_SUSPEND 0x200u
#define L2_MEMORY 0x8000u /* in L1's */
#define L2_SIZE 0x8000u
#define L2_PAGE 0x40u
#define L2_TABLE 0x1000u
#define L3_MEMORY 0x4000u /* in L2's */
#define L3_SIZE 0x2000u
#define L3_PAGE 0x20u
#define HEAD offsetof(struct pvclock_nested_page, entries)
#define LEVELS 3
#define VECTOR 0x55u
#define KHZ 2596142u

/* The engine of a level, and its guest. */
struct level {
	struct level *below; /* its machine is the guest of that one; NULL: the host */
	struct fake_kvm *fake;
	struct pvclock_os os;
	struct pvclock_vm *vm;
	struct pvclock_vcpu *vcpu;
	struct pvclock_kvm *kvm; /* of the host alone */
	uint8_t *memory;         /* its guest's */
	struct pvclock_parent *parent;
	bool lost;               /* nobody knows where its memory lies */
	unsigned int doorbells;
};

struct world {
	struct fake_kvm fake;
	uint8_t *memory;
	struct level level[LEVELS];
};

/* Which store of which L1 is the last before L0 stops it; 0: none. */
static unsigned int countdown;
static struct world *stopped;
static void (*stop)(struct world *w);

static void stored(void)
{
	void (*now)(struct world *w) = stop;

	if (countdown == 0 || --countdown > 0)
		return;
	stop = NULL;
	now(stopped);
}

/* --- machines ------------------------------------------------------------------------------------ */

static uint64_t tsc_of(const struct level *level)
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

static int gettime(void *ctx, clockid_t clock, struct timespec *ts)
{
	(void)ctx;
	(void)clock;
	*ts = (struct timespec){ .tv_sec = 1700000000 };
	return 0;
}

static ssize_t no_file(void *ctx, const char *path, char *text, size_t size)
{
	(void)ctx;
	(void)path;
	(void)text;
	(void)size;
	return -ENOENT;
}

static const struct pvclock_os_ops ops = { .read_tsc = read_tsc, .clock_gettime = gettime, .read_file = no_file };

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

/* A host, of this TSC, for the guest whose memory there is. */
static void boot_host(struct world *w, uint64_t seed, uint32_t khz, uint64_t tsc, bool offsets_ignored)
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

static void end_host(struct world *w)
{
	struct level *level = &w->level[0];

	pvclock_kvm_remove_vcpu(level->kvm, level->vcpu);
	pvclock_kvm_detach(level->kvm);
	pvclock_vcpu_destroy(level->vcpu);
	pvclock_vm_destroy(level->vm);
}

static void read_page(const struct world *w, uint64_t gpa, struct pvclock_line *line)
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

static struct world *new_world(const struct pvclock_tsc_transform *l2, const struct pvclock_tsc_transform *l3)
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

static void free_world(struct world *w)
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

struct readings {
	struct pvclock_line line[LEVELS];
};

static void take_readings(const struct world *w, struct readings *readings)
{
	memset(readings, 0, sizeof(*readings)); /* they are compared as bytes */
	for (unsigned int i = 0; i < LEVELS && w->level[i].vm; i++)
		read_page(w, places[i], &readings->line[i]);
}

/*
 * P8: at the switch each clock reads what it read, or 1 ns more; and from there on all of them run at one rate, L1's
 * own. `from`, `to`: L1's counter before and after.
 */
static void check_continues(const struct world *w, const struct readings *before, uint64_t from, uint64_t to)
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

static const struct pvclock_nested_page *table_of(const struct world *w)
{
	return (const struct pvclock_nested_page *)(const void *)(w->memory + L1_TABLE);
}

static const struct pvclock_nested_page *table_of_l2(const struct world *w)
{
	return (const struct pvclock_nested_page *)(const void *)(w->memory + L2_MEMORY + L2_TABLE);
}

static bool same(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

/* --- what happens ---------------------------------------------------------------------------------- */

struct move {
	uint32_t khz;
	uint64_t tsc;
	bool offsets_ignored, advance;
};

static struct move next_move;
static struct pvclock_plan plan;
static struct readings saved; /* as of the record: freezing the moment before it moves a line, too, where counters cannot be set */
static uint64_t saved_generation;

/* A snapshot on this host, and a restore on another; the guest is about to run. */
static void move_host(struct world *w)
{
	enum pvclock_passing passing = next_move.advance ? PVCLOCK_ADVANCE : PVCLOCK_FREEZE;
	struct pvclock_policy policy = pvclock_policy_default();
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_slope slope;

	policy.on[PVCLOCK_BLACKOUT_SNAPSHOT] = policy.on[PVCLOCK_BLACKOUT_PAUSE] = passing;
	assert_int_equal(pvclock_kvm_pause(w->level[0].kvm), 0);
	pvclock_vm_set_policy(w->level[0].vm, &policy);
	assert_int_equal(pvclock_kvm_save(w->level[0].kvm, &record), 0);
	if (stopped == NULL) /* else L1 holds its locks */
		take_readings(w, &saved);
	assert_int_equal(pvclock_vcpu_get_line(w->level[0].vcpu, &saved.line[0]), 0);
	saved_generation = pvclock_nested_generation((const struct pvclock_nested_page *)(const void *)(w->memory + L1_TABLE));
	end_host(w);
	boot_host(w, 11, next_move.khz, next_move.tsc, next_move.offsets_ignored);
	pvclock_slope_from_khz(next_move.khz, &slope);
	if (pvclock_kvm_restore(w->level[0].kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, &slope, &plan, &reason))
		fail_msg("%s", reason.text);
	assert_int_equal(pvclock_kvm_resume(w->level[0].kvm, NULL, &reason), 0);
	pvclock_record_clear(&record);
}

/* The engines find out, from the lowest up: each before a vCPU of its own runs. */
static void follow(struct level *level)
{
	struct pvclock_reason reason;

	assert_true(pvclock_parent_changed(level->vm));
	assert_int_equal(pvclock_vm_pause(level->vm), 0);
	if (pvclock_parent_follow(level->vm, NULL, &reason) != 1)
		fail_msg("%s", reason.text);
	assert_int_equal(pvclock_vm_resume(level->vm), 0);
	assert_false(pvclock_parent_changed(level->vm));
	assert_int_equal(pvclock_parent_follow(level->vm, NULL, NULL), 0);
}

static const struct move moves[] = {
	{ .khz = 3000000, .tsc = UINT64_C(1) << 38 },
	{ .khz = 1999999, .tsc = UINT64_C(1) << 45, .advance = true },
	{ .khz = 3500123, .tsc = UINT64_C(1) << 44, .offsets_ignored = true },
	{ .khz = 2100000, .tsc = (UINT64_C(1) << 39) + 12345, .offsets_ignored = true, .advance = true },
	{ .khz = KHZ, .tsc = UINT64_C(1) << 43, .offsets_ignored = true }, /* the same rate, another counter */
};

static struct pvclock_tsc_transform scaled(uint64_t numerator, uint64_t denominator, uint64_t offset)
{
	return (struct pvclock_tsc_transform){ .ratio = (uint64_t)(((unsigned __int128)numerator << PVCLOCK_FRAC_BITS_VMX) / denominator),
					       .offset = offset, .frac_bits = PVCLOCK_FRAC_BITS_VMX };
}

static void p8_the_tree_goes_on(void **state)
{
	struct pvclock_tsc_transform kinds[][2] = {
		{ pvclock_tsc_unscaled((uint64_t)-1000000007), pvclock_tsc_unscaled((uint64_t)-33) },
		{ scaled(5, 4, (uint64_t)-99999), pvclock_tsc_unscaled(12) },
		{ scaled(4, 5, 17), scaled(7, 5, (uint64_t)-123456789) },
	};

	(void)state;
	for (size_t kind = 0; kind < sizeof(kinds) / sizeof(*kinds); kind++) {
		struct world *w = new_world(&kinds[kind][0], &kinds[kind][1]);
		uint64_t generation;

		for (size_t i = 0; i < sizeof(moves) / sizeof(*moves); i++) {
			struct pvclock_nested told;
			struct readings after, followed;
			uint8_t bitmap[SIZE / 4096 / 8] = { 0 };

			w->fake.tsc += 555555555;
			pvclock_take_guest_stopped((struct pvclock_page *)(void *)(w->memory + L2_MEMORY + L2_PAGE));
			next_move = moves[i];
			move_host(w);
			/* nothing of the guest has run */
			assert_int_equal(pvclock_nested_read(table_of(w), &told), PVCLOCK_READ_OK);
			generation = saved_generation + 1;
			assert_int_equal(told.generation, generation);
			assert_int_equal(told.rewritten, 3);
			assert_int_equal(told.refused, 0);
			assert_int_equal(told.changes[generation % PVCLOCK_NESTED_CHANGES].old_ticks, plan.at.tsc);
			check_continues(w, &saved, told.changes[generation % PVCLOCK_NESTED_CHANGES].old_ticks, told.changes[generation % PVCLOCK_NESTED_CHANGES].next_ticks);
			assert_int_equal(((struct pvclock_page *)(void *)(w->memory + L2_MEMORY + L2_PAGE))->flags,
					 PVCLOCK_TSC_STABLE | PVCLOCK_GUEST_STOPPED);
			assert_int_equal(w->fake.signals, 1);
			assert_int_equal(w->fake.signal.data, VECTOR);
			assert_int_equal(pvclock_nested_generation(table_of_l2(w)), generation);
			pvclock_vm_take_dirty(w->level[0].vm, (struct pvclock_gpa){ 0 }, SIZE, bitmap);
			assert_int_equal(bitmap[0], 1 | 1 << (L1_TABLE >> 12)); /* L1's page, its table */
			assert_int_equal(bitmap[1], 1 | 1 << (L2_TABLE >> 12) | 1 << (L3_MEMORY >> 12));
			/* now the engines in there follow: what they publish is what is there already, bit for bit */
			take_readings(w, &after);
			assert_true(told.acknowledged < generation);
			follow(&w->level[1]);
			assert_int_equal(table_of(w)->acknowledged, generation);
			assert_int_equal(pvclock_nested_generation(table_of_l2(w)), generation); /* not once more */
			assert_int_equal(pvclock_vm_take_nested(w->level[1].vm), PVCLOCK_CONTROL_ENABLE | VECTOR);
			follow(&w->level[2]);
			take_readings(w, &followed);
			assert_memory_equal(&followed, &after, sizeof(after));
		}
		free_world(w);
	}
}

/* The table names nothing: the guest is told, its engine follows, and it comes to the same line, bit for bit. */
static void p8_told_alone_comes_to_the_same(void **state)
{
	struct pvclock_tsc_transform l2 = scaled(5, 4, (uint64_t)-99999), l3 = pvclock_tsc_unscaled(12);
	struct readings lines[2], before, window;

	(void)state;
	for (int tree = 0; tree < 2; tree++) {
		struct world *w = new_world(&l2, &l3);

		if (!tree) { /* as if its memory were known to nobody */
			w->level[1].lost = true;
			assert_int_equal(pvclock_vcpu_write_msr(w->level[1].vcpu, PVCLOCK_MSR_SYSTEM_TIME, L2_PAGE | 1), 0);
			assert_int_equal(pvclock_nested_look(table_of(w), 0, &(struct pvclock_nested_entry){ 0 }), false);
		}
		take_readings(w, &before);
		next_move = moves[0];
		move_host(w);
		take_readings(w, &window);
		assert_int_equal(memcmp(&window.line[1], &before.line[1], sizeof(before.line[1])) == 0, !tree);
		assert_int_equal(w->fake.signals, 1);
		follow(&w->level[1]);
		assert_int_equal(pvclock_vm_take_nested(w->level[1].vm), PVCLOCK_CONTROL_ENABLE | VECTOR);
		assert_int_equal(pvclock_nested_generation(table_of_l2(w)), 1);
		/* L3 was L2's to name, and L1's engine walks that table itself */
		assert_int_equal(table_of_l2(w)->rewritten, tree ? UINT32_MAX : 1);
		follow(&w->level[2]);
		take_readings(w, &lines[tree]);
		assert_int_equal(pvclock_parent_generation(w->level[1].parent), 1);
		free_world(w);
	}
	assert_memory_equal(&lines[0], &lines[1], sizeof(lines[0]));
}

/* The same function: no generation, no interrupt; but they all stood still. */
static void p8_the_same_line_is_no_change(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5), l3 = pvclock_tsc_unscaled(6);
	struct world *w = new_world(&l2, &l3);
	struct pvclock_page *page = (struct pvclock_page *)(void *)(w->memory + L2_MEMORY + L2_PAGE);
	struct readings before, after;

	(void)state;
	take_readings(w, &before);
	assert_int_equal(page->flags, PVCLOCK_TSC_STABLE);
	assert_int_equal(pvclock_kvm_pause(w->level[0].kvm), 0);
	w->fake.tsc += 1000000000;
	assert_int_equal(pvclock_kvm_resume(w->level[0].kvm, NULL, NULL), 0);
	next_move = (struct move){ .khz = KHZ, .tsc = UINT64_C(1) << 37 }; /* the counter can be set there, so it is as before */
	move_host(w);
	take_readings(w, &after);
	assert_memory_equal(&after, &before, sizeof(after));
	assert_int_equal(page->flags, PVCLOCK_TSC_STABLE | PVCLOCK_GUEST_STOPPED);
	assert_int_equal(pvclock_nested_generation(table_of(w)), 0);
	assert_int_equal(pvclock_nested_generation(table_of_l2(w)), 0);
	assert_int_equal(w->fake.signals, 0);
	assert_false(pvclock_parent_changed(w->level[1].vm));
	free_world(w);
}

/* A freeze where the counter cannot be set back moves the line; and a line that the VMM sets without a word is a change, too. */
static void p8_each_way_to_another_line(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5);
	struct world *w = new_world(&l2, NULL);
	struct pvclock_policy policy = pvclock_policy_default();
	struct readings before;
	struct pvclock_nested told;
	struct pvclock_line line;

	(void)state;
	policy.on[PVCLOCK_BLACKOUT_PAUSE] = PVCLOCK_FREEZE;
	pvclock_vm_set_policy(w->level[0].vm, &policy);
	w->fake.offset_ignored = true;
	for (uint64_t generation = 1; generation < 6; generation++) {
		take_readings(w, &before);
		assert_int_equal(pvclock_kvm_pause(w->level[0].kvm), 0);
		w->fake.tsc += 1000000000;
		assert_int_equal(pvclock_kvm_resume(w->level[0].kvm, NULL, NULL), 0);
		assert_int_equal(pvclock_nested_read(table_of(w), &told), PVCLOCK_READ_OK);
		assert_int_equal(told.generation, generation);
		assert_in_range(told.changes[generation % PVCLOCK_NESTED_CHANGES].next_ticks - told.changes[generation % PVCLOCK_NESTED_CHANGES].old_ticks, 1000000000, 1001000000);
		check_continues(w, &before, told.changes[generation % PVCLOCK_NESTED_CHANGES].old_ticks, told.changes[generation % PVCLOCK_NESTED_CHANGES].next_ticks);
		follow(&w->level[1]);
	}
	take_readings(w, &before);
	assert_int_equal(pvclock_kvm_pause(w->level[0].kvm), 0);
	line = before.line[0];
	line.ns += 3600000000000;
	assert_int_equal(pvclock_vcpu_set_line(w->level[0].vcpu, &line), 0);
	assert_int_equal(pvclock_vm_resume(w->level[0].vm), 0);
	assert_int_equal(pvclock_nested_generation(table_of(w)), 6);
	read_page(w, L2_MEMORY + L2_PAGE, &line);
	assert_int_equal(line.ns - before.line[1].ns, 3600000000000);
	assert_int_equal(line.tsc, before.line[1].tsc);
	free_world(w);
}

/* A paused guest's counter is set by its VMM, and no line: L1's clock goes on, by its counter, and so does L2's by its own. */
static void p8_a_counter_that_was_set(void **state)
{
	struct pvclock_tsc_transform l2 = scaled(3, 2, 5), tsc;
	struct world *w = new_world(&l2, NULL);
	struct readings before, after;
	struct pvclock_nested told;

	(void)state;
	take_readings(w, &before);
	assert_int_equal(pvclock_vm_pause(w->level[0].vm), 0);
	pvclock_vcpu_get_tsc(w->level[0].vcpu, &tsc);
	tsc.offset += 1000000;
	assert_int_equal(pvclock_vcpu_set_tsc(w->level[0].vcpu, &tsc, false), 0);
	assert_int_equal(pvclock_vm_resume(w->level[0].vm), 0);
	assert_int_equal(pvclock_nested_read(table_of(w), &told), PVCLOCK_READ_OK);
	assert_int_equal(told.generation, 1);
	assert_int_equal(told.changes[1].next_ticks - told.changes[1].old_ticks, 1000000);
	take_readings(w, &after);
	assert_int_equal(after.line[0].tsc - before.line[0].tsc, 1000000);
	assert_in_range(after.line[1].tsc - before.line[1].tsc, 1500000, 1500001);
	assert_int_equal(after.line[1].ns, before.line[1].ns);
	check_continues(w, &before, told.changes[1].old_ticks, told.changes[1].next_ticks);
	free_world(w);
}

/* Where L1 has no stable clock any more, none that is made from it says that it is. */
static void p4_what_is_not_stable_below_is_not_above(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5);
	struct world *w = new_world(&l2, NULL);
	struct pvclock_page *page = (struct pvclock_page *)(void *)(w->memory + L2_MEMORY + L2_PAGE);
	struct pvclock_reason reason = { .code = PVCLOCK_REASON_TSC_BACKWARDS, .text = "of a test" };

	(void)state;
	assert_int_equal(page->flags, PVCLOCK_TSC_STABLE);
	assert_int_equal(pvclock_vm_pause(w->level[0].vm), 0);
	pvclock_vm_declare_unstable(w->level[0].vm, &reason);
	assert_int_equal(pvclock_vm_resume(w->level[0].vm), 0);
	assert_int_equal(page->flags, PVCLOCK_GUEST_STOPPED);
	/* its host gives it back, which knows of its own guest's counters, too */
	pvclock_vm_publish(w->level[1].vm);
	assert_int_equal(page->flags, PVCLOCK_GUEST_STOPPED | PVCLOCK_TSC_STABLE);
	free_world(w);
}

/* Restored, and saved again before it ran: what the second host finds in memory is of the line that the second record has. */
static void p8_saved_before_it_ran(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5), l3 = scaled(3, 2, 1);
	struct world *w = new_world(&l2, &l3);
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct readings before;
	struct pvclock_nested told;
	struct pvclock_slope slope;
	uint64_t at_switch;

	(void)state;
	take_readings(w, &before);
	assert_int_equal(pvclock_kvm_pause(w->level[0].kvm), 0);
	assert_int_equal(pvclock_kvm_save(w->level[0].kvm, &record), 0);
	assert_int_equal(record.nested_msr, L1_TABLE | 1);
	assert_int_equal(record.nested_control, PVCLOCK_CONTROL_ENABLE | VECTOR);
	for (int i = 0; i < 2; i++) {
		end_host(w);
		boot_host(w, 11, 3000000 + (uint32_t)i * 123456, UINT64_C(1) << 41, false);
		pvclock_slope_from_khz(w->fake.khz, &slope);
		assert_int_equal(pvclock_kvm_restore(w->level[0].kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, &slope, &plan, &reason), 0);
		at_switch = plan.at.tsc;
		pvclock_record_clear(&record);
		assert_int_equal(pvclock_kvm_save(w->level[0].kvm, &record), 0);
		/* the freeze is exact, so it is one instant */
		assert_int_equal(pvclock_nested_read(table_of(w), &told), PVCLOCK_READ_OK);
		assert_int_equal(told.generation, i + 1);
		if (i == 0)
			check_continues(w, &before, at_switch, told.changes[told.generation % PVCLOCK_NESTED_CHANGES].next_ticks);
	}
	assert_int_equal(pvclock_kvm_resume(w->level[0].kvm, NULL, NULL), 0);
	assert_int_equal(pvclock_nested_generation(table_of(w)), 2);
	assert_int_equal(w->fake.signals, 1);
	pvclock_record_clear(&record);
	/* two at once */
	take_readings(w, &before);
	follow(&w->level[1]);
	follow(&w->level[2]);
	assert_int_equal(table_of(w)->acknowledged, 2);
	{
		struct readings after;

		take_readings(w, &after);
		assert_memory_equal(&after, &before, sizeof(after));
	}
	free_world(w);
}

/* What a save has told is announced by whoever goes on, though nothing has changed since; until the guest says that it knows. */
static void p8_nobody_was_interrupted_yet(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5);
	struct world *w = new_world(&l2, NULL);
	struct pvclock_policy policy = pvclock_policy_default();
	struct pvclock_record record;
	struct pvclock_slope slope;

	(void)state;
	policy.on[PVCLOCK_BLACKOUT_PAUSE] = PVCLOCK_FREEZE;
	pvclock_vm_set_policy(w->level[0].vm, &policy);
	w->fake.offset_ignored = true;
	assert_int_equal(pvclock_kvm_pause(w->level[0].kvm), 0);
	w->fake.tsc += 1000000000;
	assert_int_equal(pvclock_kvm_save(w->level[0].kvm, &record), 0);
	assert_int_equal(pvclock_nested_generation(table_of(w)), 1);
	assert_int_equal(w->fake.signals, 0);
	end_host(w);
	boot_host(w, 11, KHZ, UINT64_C(1) << 41, false);
	pvclock_slope_from_khz(KHZ, &slope);
	assert_int_equal(pvclock_kvm_restore(w->level[0].kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, &slope, NULL, NULL), 0);
	assert_int_equal(pvclock_kvm_resume(w->level[0].kvm, NULL, NULL), 0);
	assert_int_equal(pvclock_nested_generation(table_of(w)), 1);
	assert_int_equal(w->fake.signals, 1);
	follow(&w->level[1]);
	assert_int_equal(pvclock_kvm_pause(w->level[0].kvm), 0);
	assert_int_equal(pvclock_kvm_resume(w->level[0].kvm, NULL, NULL), 0);
	assert_int_equal(w->fake.signals, 1);
	pvclock_record_clear(&record);
	free_world(w);
}

/* More than the page keeps, and what its host does not know: the engine is told so, once. */
static void p8_too_many_changes_are_said(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5);
	struct pvclock_reason reason;

	(void)state;
	for (int unknown = 0; unknown < 2; unknown++) {
		struct world *w = new_world(&l2, NULL);
		struct pvclock_line line;

		w->level[1].lost = true; /* else the pages would be right all the same */
		assert_int_equal(pvclock_vcpu_write_msr(w->level[1].vcpu, PVCLOCK_MSR_SYSTEM_TIME, L2_PAGE | 1), 0);
		if (unknown) { /* three lines in one blackout, at three instants */
			assert_int_equal(pvclock_kvm_pause(w->level[0].kvm), 0);
			for (unsigned int i = 0; i < 3; i++) {
				struct pvclock_line_change change = { .old_ticks = tsc_of(&w->level[1]), .next_ticks = tsc_of(&w->level[1]) };

				assert_int_equal(pvclock_vcpu_get_line(w->level[0].vcpu, &change.old), 0);
				line = change.old;
				line.mul += 12345;
				assert_int_equal(pvclock_vcpu_set_line(w->level[0].vcpu, &line), 0);
				assert_int_equal(pvclock_vcpu_get_line(w->level[0].vcpu, &change.next), 0);
				pvclock_vm_line_changed(w->level[0].vm, &change);
			}
			assert_int_equal(pvclock_kvm_resume(w->level[0].kvm, NULL, NULL), 0);
			assert_int_equal(pvclock_nested_generation(table_of(w)), 1);
		} else {
			for (unsigned int i = 0; i <= PVCLOCK_NESTED_CHANGES; i++) {
				next_move = moves[i % 2];
				next_move.advance = false;
				move_host(w);
			}
			assert_int_equal(pvclock_nested_generation(table_of(w)), PVCLOCK_NESTED_CHANGES + 1);
		}
		assert_int_equal(pvclock_vm_pause(w->level[1].vm), 0);
		assert_int_equal(pvclock_parent_follow(w->level[1].vm, NULL, &reason), -ESTALE);
		assert_non_null(strstr(reason.text, unknown ? "another 1 times" : "another 5 times"));
		assert_int_equal(pvclock_parent_follow(w->level[1].vm, NULL, &reason), 0);
		assert_int_equal(pvclock_vm_resume(w->level[1].vm), 0);
		free_world(w);
	}
}

/* --- hostile guests -------------------------------------------------------------------------------- */

static struct pvclock_nested_entry make_entry(uint64_t gpa, enum pvclock_nested_kind kind, uint8_t under)
{
	return (struct pvclock_nested_entry){ .gpa = gpa, .kind = (uint8_t)kind, .under = under };
}

/*
 * A machine whose memory is in two pieces, one of them ROM, with this table; it moves to another rate. All of its
 * memory, before and after.
 */
static void hostile(const struct pvclock_nested_entry *entries, unsigned int count, uint32_t claimed, uint32_t rewritten, uint32_t refused)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5);
	struct world *w = new_world(&l2, NULL);
	struct pvclock_nested_page *table = (struct pvclock_nested_page *)(void *)(w->memory + L1_TABLE);
	uint8_t *before = malloc(SIZE), *rom = aligned_alloc(4096, 4096);
	struct pvclock_line line;
	struct pvclock_nested told;

	/* a pvclock page wherever there is room for one */
	read_page(w, L1_PAGE, &line);
	pvclock_parent_remove(w->level[1].vm);
	for (size_t i = 0x400; i < 0x1000; i += 64)
		pvclock_page_write(w->memory + i, &line, 0);
	for (size_t i = 0x2000; i < SIZE; i += 64)
		pvclock_page_write(w->memory + i, &line, 0);
	memset(rom, 0, 4096);
	pvclock_page_write(rom, &line, 0);
	((struct pvclock_page *)(void *)(w->memory + 0x3000))->version |= 1; /* one that is being written */
	((struct pvclock_page *)(void *)(w->memory + 0x3040))->tsc_to_system_mul = 0;
	assert_int_equal(pvclock_vm_add_memory(w->level[0].vm, (struct pvclock_gpa){ 0x20000 }, 4096, rom, PVCLOCK_MEMORY_READONLY), 0);
	assert_int_equal(pvclock_vcpu_write_msr(w->level[0].vcpu, PVCLOCK_MSR_SUSPEND, L1_SUSPEND | 1), 0);
	pvclock_page_write(w->memory + L1_SUSPEND + 60, &line, 0);
	for (unsigned int i = 0; i < count; i++)
		table->entries[i] = entries[i];
	table->count = claimed;
	assert_int_equal(pvclock_kvm_pause(w->level[0].kvm), 0);
	memcpy(before, w->memory, SIZE);
	line.mul += 1000;
	assert_int_equal(pvclock_vcpu_set_line(w->level[0].vcpu, &line), 0);
	assert_int_equal(pvclock_vm_resume(w->level[0].vm), 0); /* without the suspend page, which is another's test */
	assert_int_equal(pvclock_nested_read(table, &told), PVCLOCK_READ_OK);
	assert_int_equal(told.generation, 1);
	if (told.rewritten != rewritten || told.refused != refused)
		fail_msg("%u rewritten, %u refused", told.rewritten, told.refused);
	for (size_t i = 0; i < SIZE; i++) {
		bool ours = (i >= L1_PAGE && i < L1_PAGE + 32) || (i >= L1_TABLE && i < L1_TABLE + HEAD);

		for (unsigned int j = 0; j < count && !ours; j++) {
			uint64_t size = table->entries[j].kind == PVCLOCK_NESTED_TABLE ? HEAD : 32;

			ours = table->entries[j].generation == 1 && i - table->entries[j].gpa < size;
			ours |= table->entries[j].generation == 1 && i - (L1_TABLE + HEAD + j * 32 + 28) < 4; /* the mark */
		}
		if (!ours && w->memory[i] != before[i])
			fail_msg("byte 0x%zx changed", i);
	}
	free(rom);
	free(before);
	pvclock_vm_remove_memory(w->level[0].vm, (struct pvclock_gpa){ 0x20000 }, 4096);
	free_world(w);
}

static void p10_tables_reach_what_is_theirs_alone(void **state)
{
	const struct {
		struct pvclock_nested_entry entry;
		bool done;
	} cases[] = {
		{ make_entry(0x2000, PVCLOCK_NESTED_PAGE, 0), true },
		{ make_entry(0x2002, PVCLOCK_NESTED_PAGE, 0), false }, /* not aligned */
		{ make_entry(0x2000, PVCLOCK_NESTED_HYPERV, 0), false },
		{ make_entry(0x2000, (enum pvclock_nested_kind)4, 0), false },
		{ make_entry(0x2000, (enum pvclock_nested_kind)255, 0), false },
		{ make_entry(SIZE - 64, PVCLOCK_NESTED_PAGE, 0), true },
		{ make_entry(SIZE - 28, PVCLOCK_NESTED_PAGE, 0), false }, /* its end is not in memory */
		{ make_entry(SIZE, PVCLOCK_NESTED_PAGE, 0), false },
		{ make_entry(UINT64_MAX - 31, PVCLOCK_NESTED_PAGE, 0), false },
		{ make_entry(UINT64_MAX - 3, PVCLOCK_NESTED_PAGE, 0), false },
		{ make_entry(0x20000, PVCLOCK_NESTED_PAGE, 0), false }, /* ROM */
		{ make_entry(0x20000, PVCLOCK_NESTED_TABLE, 1), false },
		{ make_entry(L1_PAGE, PVCLOCK_NESTED_PAGE, 0), false }, /* its own */
		{ make_entry(L1_PAGE + 28, PVCLOCK_NESTED_PAGE, 0), false },
		{ make_entry(L1_PAGE - 28, PVCLOCK_NESTED_PAGE, 0), false },
		{ make_entry(L1_SUSPEND + 60, PVCLOCK_NESTED_PAGE, 0), false },
		{ make_entry(L1_TABLE, PVCLOCK_NESTED_PAGE, 0), false },
		{ make_entry(L1_TABLE + 4092, PVCLOCK_NESTED_PAGE, 0), false },
		{ make_entry(L1_TABLE - 28, PVCLOCK_NESTED_PAGE, 0), false },
		{ make_entry(L1_TABLE, PVCLOCK_NESTED_TABLE, 1), false },
		{ make_entry(0x3000, PVCLOCK_NESTED_PAGE, 0), false }, /* odd */
		{ make_entry(0x3040, PVCLOCK_NESTED_PAGE, 0), false }, /* no line */
		{ make_entry(0x3080, PVCLOCK_NESTED_PAGE, 0), true },
		{ make_entry(0x3080, PVCLOCK_NESTED_PAGE, 2), false }, /* under itself */
		{ make_entry(0x3080, PVCLOCK_NESTED_PAGE, 3), false },
		{ make_entry(0x3080, PVCLOCK_NESTED_PAGE, 255), false },
		{ make_entry(0x2000, PVCLOCK_NESTED_TABLE, 0), false }, /* nobody's */
		{ make_entry(0x2000, PVCLOCK_NESTED_TABLE, 1), false }, /* there is no table */
		{ { .gpa = 0x2000, .kind = PVCLOCK_NESTED_PAGE, .frac_bits = 64, .ratio = 1 }, false },
		{ { .gpa = 0x2000, .kind = PVCLOCK_NESTED_PAGE, .frac_bits = 255, .ratio = 1 }, false },
		{ { .gpa = 0x2000, .kind = PVCLOCK_NESTED_PAGE, .frac_bits = 1 }, false },
		{ { .gpa = 0x2000, .kind = PVCLOCK_NESTED_PAGE, .frac_bits = 63, .ratio = 1 }, false }, /* 2^63 of L1's ticks to one */
		{ { .gpa = 0x2000, .kind = PVCLOCK_NESTED_PAGE, .offset = UINT64_MAX }, true },
		{ { .gpa = 0x2000, .kind = PVCLOCK_NESTED_PAGE, .ratio = UINT64_MAX }, true }, /* no fraction: it means nothing */
	};
	struct pvclock_nested_entry many[PVCLOCK_NESTED_ENTRIES];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		/* the first one is good: what stands under it has where to stand */
		struct pvclock_nested_entry two[2] = { make_entry(0x5000, PVCLOCK_NESTED_PAGE, 0), cases[i].entry };

		hostile(two, 2, 2, 1 + cases[i].done, !cases[i].done);
		hostile(two, 2, 0, 0, 0);
		hostile(two, 2, UINT32_MAX, 1 + cases[i].done, !cases[i].done);
	}
	for (unsigned int i = 0; i < PVCLOCK_NESTED_ENTRIES; i++) /* all of one place: once */
		many[i] = make_entry(0x5000 + i % 8 * 4, PVCLOCK_NESTED_PAGE, 0);
	hostile(many, PVCLOCK_NESTED_ENTRIES, UINT32_MAX, 1, PVCLOCK_NESTED_ENTRIES - 1);
	for (unsigned int i = 0; i < PVCLOCK_NESTED_ENTRIES; i++)
		many[i] = make_entry(0x5000 + i * 64, PVCLOCK_NESTED_PAGE, (uint8_t)i);
	hostile(many, PVCLOCK_NESTED_ENTRIES, PVCLOCK_NESTED_ENTRIES + 1, 1, PVCLOCK_NESTED_ENTRIES - 1); /* a page is no host */
	for (unsigned int i = 0; i < PVCLOCK_NESTED_ENTRIES; i++)
		many[i].under = 0;
	hostile(many, PVCLOCK_NESTED_ENTRIES, PVCLOCK_NESTED_ENTRIES + 1, PVCLOCK_NESTED_ENTRIES, 0);
}

static void p10_registrations(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5);
	struct world *w = new_world(&l2, NULL);
	struct pvclock_vcpu *vcpu = w->level[0].vcpu;
	uint64_t value;

	(void)state;
	assert_int_equal(pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_NESTED, L1_TABLE | 3), -EINVAL);
	assert_int_equal(pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_NESTED, (L1_TABLE + 64) | 1), -EINVAL);
	assert_int_equal(pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_NESTED, SIZE | 1), -EINVAL);
	assert_int_equal(pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_NESTED, 0xfffffffffffff001), -EINVAL);
	assert_int_equal(pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_NESTED_CONTROL, PVCLOCK_CONTROL_ENABLE | 15), -EINVAL);
	assert_int_equal(pvclock_vcpu_read_msr(vcpu, PVCLOCK_MSR_NESTED, &value), 0);
	assert_int_equal(value, L1_TABLE | 1);
	assert_int_equal(pvclock_vcpu_read_msr(vcpu, PVCLOCK_MSR_NESTED_CONTROL, &value), 0);
	assert_int_equal(value, PVCLOCK_CONTROL_ENABLE | VECTOR);
	/* a guest that was not offered it has no parent */
	pvclock_vm_offer(w->level[0].vm, PVCLOCK_FEATURES & ~PVCLOCK_FEATURE_NESTED);
	assert_int_equal(pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_NESTED, 0), -ENOENT);
	pvclock_vm_offer(w->level[0].vm, PVCLOCK_FEATURES);
	assert_int_equal(pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_NESTED, 0xfffffffffffff000), 0); /* off: nobody looks where */
	memset(w->memory + L1_TABLE, 0, 64);
	assert_int_equal(pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_NESTED, L1_TABLE | 1), 0);
	assert_int_equal(table_of(w)->magic, PVCLOCK_NESTED_MAGIC);
	assert_int_equal(table_of(w)->version, 1);
	assert_int_equal(table_of(w)->sequence % 2, 0);
	free_world(w);
}

/*
 * L2 is hostile: L1's engine copies nothing of its table that does not lie in L2's memory, or stands under what does
 * not stand before it.
 */
static void p10_copies_of_hostile_tables(void **state)
{
	static const struct {
		struct pvclock_nested_entry entry;
		bool copied;
	} cases[] = {
		{ { .gpa = 0x5000, .kind = PVCLOCK_NESTED_PAGE }, true },
		{ { .gpa = L2_SIZE - 32, .kind = PVCLOCK_NESTED_PAGE }, true },
		{ { .gpa = L2_SIZE - 28, .kind = PVCLOCK_NESTED_PAGE }, false }, /* L1's memory goes on there */
		{ { .gpa = L2_SIZE, .kind = PVCLOCK_NESTED_PAGE }, false },
		{ { .gpa = (uint64_t)-L2_MEMORY, .kind = PVCLOCK_NESTED_PAGE }, false },
		{ { .gpa = 0x5001, .kind = PVCLOCK_NESTED_PAGE }, false },
		{ { .gpa = 0x5000, .kind = PVCLOCK_NESTED_HYPERV }, false },
		{ { .gpa = 0x5000, .kind = 77 }, false },
		{ { .gpa = 0x5000, .kind = PVCLOCK_NESTED_PAGE, .under = 1 }, true },
		{ { .gpa = 0x5000, .kind = PVCLOCK_NESTED_PAGE, .under = 2 }, false },
		{ { .gpa = 0x5000, .kind = PVCLOCK_NESTED_PAGE, .under = 121 }, false },
		{ { .gpa = 0x5000, .kind = PVCLOCK_NESTED_PAGE, .under = 255 }, false },
		{ { .gpa = 0x5000, .kind = PVCLOCK_NESTED_TABLE, .under = 1 }, true },
		{ { .gpa = 0x7001, .kind = PVCLOCK_NESTED_TABLE, .under = 1 }, false },
	};
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5);

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct world *w = new_world(&l2, NULL);
		struct pvclock_nested_page *table = (struct pvclock_nested_page *)(void *)(w->memory + L2_MEMORY + L2_TABLE);
		struct pvclock_nested_entry entry;
		unsigned int copies = 0;

		table->entries[0] = make_entry(0x6000, PVCLOCK_NESTED_PAGE, 0);
		table->entries[1] = cases[i].entry;
		table->count = UINT32_MAX;
		assert_int_equal(pvclock_vcpu_write_msr(w->level[1].vcpu, PVCLOCK_MSR_NESTED, L2_TABLE | 1), 0);
		for (unsigned int j = 0; j < PVCLOCK_NESTED_ENTRIES; j++) {
			if (!pvclock_nested_look(table_of(w), j, &entry))
				continue;
			assert_in_range(entry.gpa, L2_MEMORY, SIZE - 32);
			copies++;
		}
		if (copies != 3u + cases[i].copied) /* L2's page, its table, and its first entry */
			fail_msg("case %zu: %u entries", i, copies);
		/* a table that is none any more is nobody's: its copies go */
		assert_int_equal(pvclock_vcpu_write_msr(w->level[1].vcpu, PVCLOCK_MSR_NESTED, 0), 0);
		for (unsigned int j = 1; j < PVCLOCK_NESTED_ENTRIES; j++)
			assert_false(pvclock_nested_look(table_of(w), j, &entry));
		assert_true(pvclock_nested_look(table_of(w), 0, &entry));
		free_world(w);
	}
}

/* --- what is taken back ------------------------------------------------------------------------------ */

static void p8_a_page_that_moved_is_the_guests_again(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5);
	struct world *w = new_world(&l2, NULL);
	uint8_t old[32];
	struct readings before, after;
	struct pvclock_line line;
	unsigned int doorbells;

	(void)state;
	memcpy(old, w->memory + L2_MEMORY + L2_PAGE, 32);
	doorbells = w->level[1].doorbells;
	assert_int_equal(pvclock_vcpu_write_msr(w->level[1].vcpu, PVCLOCK_MSR_SYSTEM_TIME, 0x400 | 1), 0);
	assert_true(w->level[1].doorbells > doorbells);
	next_move = moves[0];
	move_host(w);
	assert_memory_equal(w->memory + L2_MEMORY + L2_PAGE, old, 32);
	read_page(w, L2_MEMORY + 0x400, &line);
	assert_int_equal(table_of(w)->rewritten, 1);
	follow(&w->level[1]);
	take_readings(w, &before);
	/* its memory goes, and comes back elsewhere */
	assert_int_equal(pvclock_vm_remove_memory(w->level[1].vm, (struct pvclock_gpa){ 0 }, L2_SIZE), 0);
	next_move = moves[1];
	move_host(w);
	assert_int_equal(table_of(w)->rewritten + table_of(w)->refused, 0);
	assert_int_equal(pvclock_vm_add_memory(w->level[1].vm, (struct pvclock_gpa){ 0 }, 0x4000, w->memory + 0x4000, 0), 0);
	follow(&w->level[1]);
	read_page(w, 0x4400, &line);
	next_move = moves[2];
	move_host(w);
	assert_int_equal(table_of(w)->rewritten, 1);
	take_readings(w, &after);
	assert_memory_equal(&after.line[1], &before.line[1], sizeof(struct pvclock_line)); /* nobody's any more */
	/* no VM: no entry; and a vCPU that goes takes its own along */
	pvclock_parent_remove(w->level[1].vm);
	assert_false(pvclock_parent_changed(w->level[1].vm));
	next_move = moves[3];
	move_host(w);
	assert_int_equal(table_of(w)->rewritten + table_of(w)->refused, 0);
	assert_int_equal(table_of(w)->acknowledged, 3);
	free_world(w);
}

/*
 * More vCPUs than the table has room for, with counters of their own: whatever is named is rewritten, and all of them
 * come to what the engine says of them; who goes makes room.
 */
static void p8_many_vcpus(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5);
	struct world *w = new_world(&l2, NULL);
	struct pvclock_vcpu *vcpus[PVCLOCK_NESTED_ENTRIES + 1];
	struct pvclock_line line, page;
	unsigned int apart = 0;

	(void)state;
	for (unsigned int i = 0; i <= PVCLOCK_NESTED_ENTRIES; i++) {
		struct pvclock_tsc_transform tsc = pvclock_tsc_unscaled(5 + i * 1000);

		assert_int_equal(pvclock_vcpu_create(w->level[1].vm, i + 1, &vcpus[i]), 0);
		assert_int_equal(pvclock_vcpu_set_tsc(vcpus[i], &tsc, false), 0);
		assert_int_equal(pvclock_vcpu_write_msr(vcpus[i], PVCLOCK_MSR_SYSTEM_TIME, (0x2000 + i * 64) | 1), 0);
	}
	assert_int_equal(pvclock_nested_count(w->memory + L1_TABLE), PVCLOCK_NESTED_ENTRIES);
	next_move = moves[2];
	move_host(w);
	assert_int_equal(table_of(w)->rewritten, PVCLOCK_NESTED_ENTRIES);
	for (unsigned int turn = 0; turn < 2; turn++) { /* as L0 left them; and as the engine has it */
		for (unsigned int i = 0; i <= PVCLOCK_NESTED_ENTRIES; i++) {
			struct pvclock_line_change change;
			struct pvclock_nested told;
			struct pvclock_tsc_transform tsc;

			assert_int_equal(pvclock_vcpu_get_line(vcpus[i], &line), 0);
			if (turn == 0) {
				assert_int_equal(pvclock_nested_read(table_of(w), &told), PVCLOCK_READ_OK);
				change = told.changes[1];
				pvclock_vcpu_get_tsc(vcpus[i], &tsc);
				assert_true(pvclock_line_follow(&change, &tsc, &line, &line));
			}
			read_page(w, L2_MEMORY + 0x2000 + i * 64, &page);
			apart += !same(&page, &line);
		}
		assert_int_equal(apart, turn == 0 ? 2 : 0); /* the two that found no room */
		apart = 0;
		if (turn == 0)
			follow(&w->level[1]);
	}
	pvclock_vcpu_destroy(vcpus[0]);
	assert_int_equal(pvclock_vcpu_write_msr(vcpus[PVCLOCK_NESTED_ENTRIES], PVCLOCK_MSR_SYSTEM_TIME, 0x1f00 | 1), 0);
	next_move = moves[0];
	move_host(w);
	assert_int_equal(table_of(w)->rewritten, PVCLOCK_NESTED_ENTRIES);
	follow(&w->level[1]);
	for (unsigned int i = 1; i <= PVCLOCK_NESTED_ENTRIES; i++)
		pvclock_vcpu_destroy(vcpus[i]);
	next_move = moves[1];
	move_host(w);
	assert_int_equal(table_of(w)->rewritten, 1);
	free_world(w);
}

/* --- stopped after any store --------------------------------------------------------------------------- */

static void publish(struct world *w)
{
	pvclock_vm_publish(w->level[1].vm);
}

static void register_elsewhere(struct world *w)
{
	assert_int_equal(pvclock_vcpu_write_msr(w->level[1].vcpu, PVCLOCK_MSR_SYSTEM_TIME, 0x400 | 1), 0);
}

static void move_counter(struct world *w)
{
	struct pvclock_tsc_transform other = pvclock_tsc_unscaled(1000005);

	assert_int_equal(pvclock_vcpu_set_tsc(w->level[1].vcpu, &other, false), 0);
}

/* L0 moves L1 after the n-th store of what L1 does; L1's engine then looks at the generation, as it does before its vCPU runs. */
static void p8_stopped_after_any_store(void **state)
{
	static void (*const acts[])(struct world *w) = { publish, register_elsewhere, move_counter };
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5), tsc;
	unsigned int refused = 0, rewritten = 0;

	(void)state;
	for (size_t act = 0; act < sizeof(acts) / sizeof(*acts); act++) {
		for (unsigned int n = 1;; n++) {
			struct world *w = new_world(&l2, NULL);
			struct readings before, after;
			struct pvclock_line expected, line;
			struct pvclock_nested told;
			bool ran;

			next_move = moves[2];
			stopped = w;
			stop = move_host;
			countdown = n;
			take_readings(w, &before);
			acts[act](w);
			ran = stop == NULL;
			stop = NULL;
			stopped = NULL;
			countdown = 0;
			if (!ran) { /* it has no more stores */
				free_world(w);
				assert_true(n > 8);
				break;
			}
			assert_int_equal(pvclock_nested_read(table_of(w), &told), PVCLOCK_READ_OK);
			assert_int_equal(told.generation, 1);
			rewritten += told.rewritten;
			refused += told.refused;
			follow(&w->level[1]);
			assert_int_equal(pvclock_vcpu_get_line(w->level[1].vcpu, &line), 0);
			/* by the rule, from the line that was, over the counter that is */
			pvclock_vcpu_get_tsc(w->level[1].vcpu, &tsc);
			pvclock_line_shift(&before.line[1], (int64_t)(tsc.offset - l2.offset));
			assert_true(pvclock_line_follow(&told.changes[1], &tsc, &before.line[1], &expected));
			assert_true(same(&line, &expected));
			read_page(w, L2_MEMORY + (acts[act] == register_elsewhere ? 0x400 : L2_PAGE), &after.line[1]);
			assert_true(same(&after.line[1], &expected));
			/* and it is entered again: the next time it is rewritten */
			next_move = moves[0];
			move_host(w);
			assert_int_equal(table_of(w)->rewritten, 1);
			assert_int_equal(table_of(w)->refused, 0);
			free_world(w);
		}
	}
	assert_true(refused > 0 && rewritten > 0);
}

/* --- the binding ------------------------------------------------------------------------------------------ */

static void steer_mode_offers_none(void **state)
{
	struct pvclock_kvm_config config = { .vm_fd = 3, .mode = PVCLOCK_MODE_STEER };
	struct fake_kvm fake;
	struct pvclock_kvm *kvm;
	struct pvclock_vm *vm;

	(void)state;
	fake_kvm_init(&fake, 1);
	config.os = &fake.os;
	assert_int_equal(pvclock_vm_create(&fake.os, &vm), 0);
	config.vm = vm;
	pvclock_vm_offer(vm, PVCLOCK_FEATURES);
	assert_int_equal(pvclock_kvm_attach(&config, &kvm, NULL), 0);
	assert_int_equal(pvclock_vm_offered(vm), PVCLOCK_FEATURES & ~PVCLOCK_FEATURE_NESTED);
	pvclock_kvm_detach(kvm);
	pvclock_vm_destroy(vm);
}

/* The record of a guest that is a host is refused where it would not be one. */
static void p6_the_offer_is_part_of_the_record(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5);
	struct world *w = new_world(&l2, NULL);
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_slope slope;
	uint64_t value;

	(void)state;
	assert_int_equal(pvclock_kvm_pause(w->level[0].kvm), 0);
	assert_int_equal(pvclock_kvm_save(w->level[0].kvm, &record), 0);
	end_host(w);
	boot_host(w, 11, KHZ, UINT64_C(1) << 41, false);
	pvclock_slope_from_khz(KHZ, &slope);
	pvclock_vm_offer(w->level[0].vm, PVCLOCK_FEATURES & ~PVCLOCK_FEATURE_NESTED);
	assert_int_equal(pvclock_kvm_restore(w->level[0].kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, &slope, NULL, &reason), -ENOTSUP);
	pvclock_vm_offer(w->level[0].vm, PVCLOCK_FEATURES);
	assert_int_equal(pvclock_kvm_restore(w->level[0].kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, &slope, NULL, &reason), 0);
	assert_int_equal(pvclock_vcpu_read_msr(w->level[0].vcpu, PVCLOCK_MSR_NESTED, &value), 0);
	assert_int_equal(value, L1_TABLE | 1);
	assert_int_equal(pvclock_vcpu_read_msr(w->level[0].vcpu, PVCLOCK_MSR_NESTED_CONTROL, &value), 0);
	assert_int_equal(value, PVCLOCK_CONTROL_ENABLE | VECTOR);
	pvclock_record_clear(&record);
	free_world(w);
}

/* By the engine alone, on a hypervisor that runs the first vCPU's counter elsewhere. */
static void p8_a_record_applied(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5), other;
	struct world *w = new_world(&l2, NULL);
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_nested told;
	struct readings before;
	struct pvclock_vcpu *vcpu;
	struct pvclock_vm *vm;
	int64_t moved;

	(void)state;
	take_readings(w, &before);
	assert_int_equal(pvclock_kvm_pause(w->level[0].kvm), 0);
	assert_int_equal(pvclock_kvm_save(w->level[0].kvm, &record), 0);
	assert_int_equal(pvclock_vm_create(&w->fake.os, &vm), 0);
	assert_int_equal(pvclock_vm_add_memory(vm, (struct pvclock_gpa){ 0 }, SIZE, w->memory, 0), 0);
	assert_int_equal(pvclock_vcpu_create(vm, 0, &vcpu), 0);
	other = record.vcpus[0].tsc;
	other.offset += 1234567;
	assert_int_equal(pvclock_vcpu_set_tsc(vcpu, &other, false), 0);
	assert_int_equal(pvclock_vm_pause(vm), 0);
	assert_int_equal(pvclock_record_apply(&record, vm, &moved, &reason), 0);
	assert_int_equal(moved, 1234567);
	assert_int_equal(pvclock_vm_resume(vm), 0);
	assert_int_equal(pvclock_nested_read(table_of(w), &told), PVCLOCK_READ_OK);
	assert_int_equal(told.generation, 1);
	assert_int_equal(told.changes[1].next_ticks - told.changes[1].old_ticks, 1234567);
	assert_int_equal(told.changes[1].next.tsc - told.changes[1].old.tsc, 1234567);
	read_page(w, L2_MEMORY + L2_PAGE, &told.changes[0].next);
	assert_int_equal(told.changes[0].next.tsc - before.line[1].tsc, 1234567);
	assert_int_equal(told.changes[0].next.ns, before.line[1].ns);
	assert_int_equal(pvclock_vm_take_nested(vm), PVCLOCK_CONTROL_ENABLE | VECTOR);
	assert_int_equal(pvclock_vm_take_nested(vm), 0);
	pvclock_record_clear(&record);
	pvclock_vcpu_destroy(vcpu);
	pvclock_vm_destroy(vm);
	free_world(w);
}

/*
 * A KVM in L1: what it measures by its TSC, and the deadlines that its guests have armed, mean what they meant. Another
 * KVM in virtual time stands for it, whose TSC jumps and runs at another rate as L1's does.
 */
static void p5_deadlines_follow(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(0);
	struct world *w = new_world(&l2, NULL);
	struct machine *m = aligned_alloc(64, (sizeof(*m) + 63) / 64 * 64);
	struct pvclock_slope slope, slope_now;
	struct pvclock_line was, is;
	uint64_t armed, generation, then;

	(void)state;
	machine_init(m, 5, PVCLOCK_MODE_OWN);
	m->fake.tsc = tsc_of(&w->level[1]);
	pvclock_slope_from_khz(KHZ, &slope);
	generation = pvclock_parent_generation(w->level[1].parent);
	assert_int_equal(pvclock_kvm_start(m->kvm, &slope), 0);
	w->level[1].lost = true; /* its memory is no part of L1's here */
	assert_int_equal(pvclock_parent_add(w->level[1].parent, m->vm, generation), 0);
	armed = m->fake.tsc + 1000000000;
	m->fake.deadline[0] = armed;
	assert_int_equal(pvclock_vcpu_get_line(m->vcpu, &was), 0);
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	assert_false(pvclock_kvm_slept(m->kvm));
	then = m->kvm->last.ticks;
	next_move = moves[2];
	move_host(w);
	m->fake.khz = next_move.khz;
	m->fake.tsc = tsc_of(&w->level[1]);
	assert_true(pvclock_kvm_slept(m->kvm));
	assert_int_equal(pvclock_kvm_follow_host(m->kvm), 0);
	assert_false(pvclock_kvm_slept(m->kvm));
	pvclock_slope_from_khz(next_move.khz, &slope_now);
	assert_in_range(pvclock_slope_difference(&m->kvm->host, &slope_now) + INT32_MAX + 18446744074ll, 0, 2 * (INT32_MAX + 18446744074ll));
	assert_int_equal(pvclock_vcpu_get_line(m->vcpu, &is), 0);
	assert_in_range(pvclock_line_ns(&is, m->fake.deadline[0]) - pvclock_line_ns(&was, armed), 0, 1);
	assert_true(pvclock_line_ns(&is, m->fake.deadline[0] - 1) < pvclock_line_ns(&was, armed));
	assert_in_range(pvclock_line_ns(&is, m->kvm->last.ticks) - pvclock_line_ns(&was, then) + 1, 0, 2);
	assert_int_equal(pvclock_kvm_resume(m->kvm, NULL, NULL), 0);
	pvclock_parent_remove(m->vm);
	machine_clear(m);
	free(m);
	free_world(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p8_the_tree_goes_on),
		cmocka_unit_test(p8_told_alone_comes_to_the_same),
		cmocka_unit_test(p8_the_same_line_is_no_change),
		cmocka_unit_test(p8_each_way_to_another_line),
		cmocka_unit_test(p8_a_counter_that_was_set),
		cmocka_unit_test(p4_what_is_not_stable_below_is_not_above),
		cmocka_unit_test(p8_saved_before_it_ran),
		cmocka_unit_test(p8_nobody_was_interrupted_yet),
		cmocka_unit_test(p8_too_many_changes_are_said),
		cmocka_unit_test(p10_tables_reach_what_is_theirs_alone),
		cmocka_unit_test(p10_registrations),
		cmocka_unit_test(p10_copies_of_hostile_tables),
		cmocka_unit_test(p8_a_page_that_moved_is_the_guests_again),
		cmocka_unit_test(p8_many_vcpus),
		cmocka_unit_test(p8_stopped_after_any_store),
		cmocka_unit_test(steer_mode_offers_none),
		cmocka_unit_test(p6_the_offer_is_part_of_the_record),
		cmocka_unit_test(p8_a_record_applied),
		cmocka_unit_test(p5_deadlines_follow),
	};

	return cmocka_run_group_tests_name("nested", tests, NULL, NULL);
}
