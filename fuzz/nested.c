/* SPDX-License-Identifier: MIT */
/*
 * nested.c - a guest that says of itself that it is a host: any bytes as its table, whatever its pages hold, any
 * changes of its line. Memory after a resume is, byte for byte, what the specification makes of memory before it
 * (nested_oracle.c), what was written is marked dirty, and ASan watches what is outside the guest's memory. And what L1's
 * engine itself makes of a hostile guest's table, which it copies for its own host: nothing outside of that guest's memory;
 * and where it follows, its guest reads what L0 had left there.
 */
#include "input.h"
#include "nested_oracle.h"

#include "../tests/fake/still.h"
#include "../tests/random.h"

#include <pvclock/hyperv.h>
#include <pvclock/interface.h>
#include <pvclock/parent.h>
#include <pvclock/record.h>
#include <pvclock/vm.h>

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY 0x6000u
#define TABLE 0x1000u
#define NESTED 0x3000u   /* the guest's guest has the rest */
#define INNER_TABLE 0x1000u /* in there */
#define INNER_PAGE 0x40u
#define HEAD offsetof(struct pvclock_nested_page, entries)
#define LENGTH 512u
#define BESIDE 0x40u       /* from where a table may lie */
#define CONTROL (PVCLOCK_CONTROL_ENABLE | 0x55u)

struct level {
	struct pvclock_vcpu *vcpu;
	uint8_t *memory;
};

static int write_msr(void *ctx, uint32_t msr, uint64_t value)
{
	return pvclock_vcpu_write_msr(((struct level *)ctx)->vcpu, msr, value);
}

static int locate(void *ctx, const void *host, uint64_t size, uint64_t *gpa)
{
	const struct level *level = ctx;
	uint64_t at = (uint64_t)((const uint8_t *)host - level->memory);

	/* an engine names nothing but its own table, and its guests' memory */
	check((at == TABLE && size == 4096) || (at >= NESTED && at <= MEMORY && size <= MEMORY - at));
	*gpa = at;
	return 0;
}

/* --- what the bytes are --------------------------------------------------------------------------- */

/* Of a rate that a counter has; or any. */
static struct pvclock_line take_line(struct input *input)
{
	struct pvclock_line line = { .tsc = take(input, 6), .ns = take(input, 6), .mul = (uint32_t)take(input, 4) };
	uint8_t shift = (uint8_t)take(input, 1);

	line.shift = (int8_t)(shift < 192 ? shift % 5 - 3 : (int8_t)shift % 32);
	if (line.mul == 0 || shift < 192)
		line.mul |= 1u << 31;
	return line;
}

static uint64_t take_gpa(struct input *input, unsigned int how)
{
	static const uint64_t edges[] = { 0x100, 0x200, 0x300, TABLE, TABLE + 4096, 0x2000, NESTED, MEMORY };

	switch (how) {
	case 0:
		return take(input, 2) % (MEMORY + 64);
	case 1:
		return take(input, 1) % 24 * 0x400 + 0x20; /* whatever the spacing */
	case 2:
		return take(input, 1) % 8 * 4096;
	default:
		return edges[take(input, 1) % 8] + (take(input, 1) % 18 - 9) * 4;
	}
}

/* An entry of a kind that means something, near something; or any bytes. */
static void fill_entry(struct input *input, unsigned int number, uint8_t *at)
{
	struct pvclock_nested_entry entry = { 0 };
	uint8_t how = (uint8_t)take(input, 1), under;

	if (how < 32) {
		for (size_t i = 0; i < sizeof(entry); i++)
			at[i] = (uint8_t)take(input, 1);
		return;
	}
	entry.kind = how & 8 ? PVCLOCK_NESTED_PAGE : PVCLOCK_NESTED_TABLE;
	if ((how & 0x60) == 0x60)
		entry.kind = (uint8_t)(take(input, 1) % 5);
	entry.gpa = take_gpa(input, entry.kind == PVCLOCK_NESTED_TABLE && how & 1 ? 2 : how % 4);
	if (entry.kind == PVCLOCK_NESTED_TABLE && (how & 3) == 2)
		entry.gpa += BESIDE;
	if (how & 4) {
		entry.frac_bits = (uint8_t)(take(input, 1) % 66);
		entry.ratio = take(input, 8);
		if ((entry.ratio & 3) && entry.frac_bits < 64) /* mostly of 1 to 2 */
			entry.ratio = (entry.ratio & ((1ull << entry.frac_bits) - 1)) | 1ull << entry.frac_bits;
	}
	if (how & 128)
		entry.offset = take(input, 4);
	if ((how & 16) == 0) { /* mostly the one before it, or one of the first */
		under = (uint8_t)take(input, 1);
		entry.under = under < 192 ? (uint8_t)number : under < 240 ? under % 6 : under;
	}
	memcpy(at, &entry, sizeof(entry));
}

/* Pages all over, of which some are none; and a table here and there. */
static void fill_memory(struct input *input, uint8_t *memory)
{
	struct pvclock_line line = take_line(input);
	uint8_t spacing = (uint8_t)(take(input, 1) % 4), tables = (uint8_t)take(input, 1);

	for (size_t i = 0x20; i + 32 <= MEMORY; i += 32u << spacing) {
		if (i < TABLE || i >= TABLE + 4096)
			pvclock_page_write(memory + i, &line, PVCLOCK_TSC_STABLE);
	}
	for (unsigned int i = (unsigned int)take(input, 1) % 8; i > 0; i--) {
		struct pvclock_page *page = (struct pvclock_page *)(void *)(memory + take(input, 2) % (MEMORY / 32) * 32);
		uint8_t how = (uint8_t)take(input, 1);

		if ((uint8_t *)page >= memory + TABLE && (uint8_t *)page < memory + TABLE + 4096)
			continue;
		page->version |= how & 1;
		page->tsc_to_system_mul = how & 2 ? 0 : page->tsc_to_system_mul;
		page->tsc_shift = how & 4 ? (int8_t)take(input, 1) : page->tsc_shift;
		page->flags = how & 8 ? (uint8_t)take(input, 1) : page->flags;
		page->pad[0] = page->pad[1] = (uint8_t)(how >> 4);
	}
	for (unsigned int i = 0; i < 8; i++) {
		const uint32_t magic = PVCLOCK_NESTED_MAGIC;
		uint64_t at = take_gpa(input, 2) + (i < 4 ? 0 : BESIDE);

		if ((at < TABLE || at >= TABLE + 4096) && at <= MEMORY - sizeof(magic) && (tables >> i & 1))
			memcpy(memory + at, &magic, sizeof(magic));
	}
}

/* Pages that L0 writes for L1 itself. */
static void register_ours(struct input *input, struct pvclock_vm *vm, struct pvclock_vcpu *vcpu, struct blackout *blackout)
{
	uint8_t which = (uint8_t)take(input, 1);

	pvclock_vm_own_steal(vm, true);
	pvclock_vm_offer_hyperv(vm, PVCLOCK_HYPERV_FEATURES, 1000000000);
	if (which & 1) {
		blackout->ours[0] = (struct area){ 0x100, sizeof(struct pvclock_page) };
		check(pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_SYSTEM_TIME, 0x100 | 1) == 0);
	}
	if (which & 2) {
		blackout->ours[1] = (struct area){ 0x200, sizeof(struct pvclock_suspend_page) };
		check(pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_SUSPEND, 0x200 | 1) == 0);
	}
	if (which & 4) {
		blackout->ours[2] = (struct area){ 0x2000, sizeof(struct pvclock_hyperv_page) };
		check(pvclock_vcpu_write_msr(vcpu, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, 0x2000 | 1) == 0);
	}
	if (which & 8) {
		blackout->ours[3] = (struct area){ 0x300, sizeof(struct pvclock_steal_page) };
		check(pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_STEAL_TIME, 0x300 | 1) == 0);
	}
}

/* --- what happens --------------------------------------------------------------------------------- */

/* While L1 stands still its line becomes others; the last of them nobody says, and it may be its counter's doing. */
static void change_line(struct input *input, struct pvclock_vm *vm, struct pvclock_vcpu *vcpu, struct blackout *blackout)
{
	uint8_t how = (uint8_t)take(input, 1);
	struct pvclock_tsc_transform tsc;
	struct pvclock_line line;

	blackout->changes = how % 4;
	blackout->moved = 0;
	for (unsigned int i = 0; i < blackout->changes; i++) {
		struct pvclock_line_change change = { .old_ticks = take(input, 6), .next_ticks = take(input, 6) };

		pvclock_vcpu_get_line(vcpu, &change.old);
		change.next = take_line(input);
		blackout->moved += change.next_ticks - change.old_ticks;
		pvclock_vcpu_set_line(vcpu, &change.next);
		pvclock_vm_line_changed(vm, &change);
	}
	if (how & 8) {
		uint64_t moved = take(input, 3);

		pvclock_vcpu_get_tsc(vcpu, &tsc);
		tsc.offset += moved;
		pvclock_vcpu_set_tsc(vcpu, &tsc, false);
		blackout->moved += how & 4 ? 0 : moved;
	}
	if (how & 4) { /* and at that instant, whatever the counter did */
		line = take_line(input);
		pvclock_vcpu_set_line(vcpu, &line);
	}
	blackout->changes += (how & 12) != 0;
}

static void check_dirty(struct pvclock_vm *vm, const uint8_t *before, const uint8_t *after)
{
	uint8_t bitmap[8] = { 0 };

	pvclock_vm_take_dirty(vm, (struct pvclock_gpa){ 0 }, MEMORY, bitmap);
	for (unsigned int i = 0; i < MEMORY / 4096; i++)
		check((bitmap[0] >> i & 1) || memcmp(before + i * 4096, after + i * 4096, 4096) == 0);
}

static void black_out(struct input *input, struct pvclock_vm *vm, const struct level *level, struct blackout *blackout)
{
	struct pvclock_reason unstable = { .code = PVCLOCK_REASON_TSC_BACKWARDS, .text = "of a test" };
	uint8_t before[MEMORY], bitmap[8] = { 0 };

	pvclock_vcpu_get_line(level->vcpu, &blackout->was);
	pvclock_vm_pause(vm);
	change_line(input, vm, level->vcpu, blackout);
	blackout->stable = take(input, 1) < 224;
	pvclock_vm_declare_unstable(vm, blackout->stable ? NULL : &unstable);
	pvclock_vcpu_get_line(level->vcpu, &blackout->is);
	memcpy(before, level->memory, MEMORY);
	pvclock_vm_take_dirty(vm, (struct pvclock_gpa){ 0 }, MEMORY, bitmap);
	pvclock_vm_resume(vm);
	check(pvclock_vm_take_nested(vm) == (check_told(blackout, before, level->memory) ? CONTROL : 0));
	check_dirty(vm, before, level->memory);
}

/* By the same rule, to the same line: what L0 left is what L1's engine would have written. */
static void follow(struct pvclock_vm *nested, const struct level *level, uint64_t generation)
{
	const struct pvclock_nested_page *table = (const struct pvclock_nested_page *)(const void *)(level->memory + TABLE);
	struct pvclock_snapshot left, now;
	bool rewritten = table->entries[0].generation == (uint32_t)generation;
	int followed;

	check(pvclock_page_read(level->memory + NESTED + INNER_PAGE, &left) == PVCLOCK_READ_OK);
	pvclock_vm_pause(nested);
	followed = pvclock_parent_follow(nested, NULL, NULL);
	pvclock_vm_resume(nested);
	check(!pvclock_parent_changed(nested));
	check(pvclock_page_read(level->memory + NESTED + INNER_PAGE, &now) == PVCLOCK_READ_OK);
	check(followed == 1 || !rewritten);
	check(!rewritten || (left.line.tsc == now.line.tsc && left.line.ns == now.line.ns && left.line.mul == now.line.mul &&
			     left.line.shift == now.line.shift));
}

/* A few bytes are a whole life: what is missing is random, by a seed that they are. */
static struct input lengthen(const uint8_t *data, size_t size, uint8_t *bytes)
{
	uint64_t seed = size;

	size = size < LENGTH ? size : LENGTH;
	for (size_t i = 0; i < size; i++) {
		bytes[i] = data[i];
		seed = (seed ^ data[i]) * 0x100000001b3;
	}
	for (size_t i = size; i < LENGTH; i++)
		bytes[i] = (uint8_t)splitmix64(&seed);
	return (struct input){ bytes, LENGTH };
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct pvclock_os_ops ops = {
		.read_tsc = still_read_tsc, .clock_gettime = still_gettime, .read_file = still_no_file,
	};
	static const struct pvclock_parent_ops parent_ops = { .write_msr = write_msr, .locate = locate };
	uint64_t tsc = 1ull << 40;
	const struct pvclock_os os = { .ops = &ops, .ctx = &tsc };
	struct blackout blackout = { .memory = MEMORY, .table = TABLE };
	uint8_t *memory = aligned_alloc(4096, MEMORY);
	uint8_t bytes[LENGTH];
	struct input input = lengthen(data, size, bytes);
	struct pvclock_nested_page *page;
	struct pvclock_parent *parent;
	struct pvclock_vcpu *inner;
	struct pvclock_vm *vm, *nested;
	struct pvclock_line line;
	struct level level;
	bool engine;

	memset(memory, 0, MEMORY);
	check(pvclock_vm_create(&os, &vm) == 0 && pvclock_vcpu_create(vm, 0, &level.vcpu) == 0);
	check(pvclock_vm_create(&os, &nested) == 0 && pvclock_vcpu_create(nested, 0, &inner) == 0);
	level.memory = memory;
	pvclock_vm_add_memory(vm, (struct pvclock_gpa){ 0 }, MEMORY, memory, 0);
	pvclock_vm_add_memory(nested, (struct pvclock_gpa){ 0 }, MEMORY - NESTED, memory + NESTED, 0);
	pvclock_vm_offer(vm, PVCLOCK_FEATURES);
	pvclock_vm_offer(nested, PVCLOCK_FEATURES);
	line = take_line(&input);
	pvclock_vcpu_set_line(level.vcpu, &line);
	pvclock_vcpu_set_line(inner, &line);
	engine = take(&input, 1) & 1;
	page = (struct pvclock_nested_page *)(void *)(memory + TABLE);
	check(pvclock_parent_open(&parent_ops, &level, page, CONTROL, &parent) == 0);
	fill_memory(&input, memory);
	register_ours(&input, vm, level.vcpu, &blackout);
	if (engine) { /* the guest is honest, and its own guest is not */
		memset(memory + NESTED + INNER_TABLE, 0, 4096);
		check(pvclock_parent_add(parent, nested, 0) == 0);
		pvclock_vcpu_write_msr(inner, PVCLOCK_MSR_SYSTEM_TIME, INNER_PAGE | 1);
		pvclock_vcpu_write_msr(inner, PVCLOCK_MSR_NESTED, INNER_TABLE | 1);
	}
	for (unsigned int round = 0; round < 8 && input.size > 0; round++) {
		uint8_t *table = memory + (engine ? NESTED + INNER_TABLE : TABLE);
		uint32_t count = (uint32_t)take(&input, 1);

		count = count < 192 ? count % 12 : count < 224 ? count % 119 : (uint32_t)take(&input, 4);
		memcpy(table + offsetof(struct pvclock_nested_page, count), &count, 4);
		for (unsigned int i = 0; i < count && i < PVCLOCK_NESTED_ENTRIES && input.size > 0; i++)
			fill_entry(&input, i, table + HEAD + i * 32);
		if (engine)
			pvclock_vcpu_write_msr(inner, PVCLOCK_MSR_NESTED, INNER_TABLE | 1);
		black_out(&input, vm, &level, &blackout);
		if (engine && pvclock_parent_changed(nested))
			follow(nested, &level, pvclock_parent_generation(parent));
	}
	pvclock_parent_remove(nested);
	pvclock_parent_close(parent);
	pvclock_vcpu_destroy(inner);
	pvclock_vm_destroy(nested);
	pvclock_vcpu_destroy(level.vcpu);
	pvclock_vm_destroy(vm);
	free(memory);
	return 0;
}
