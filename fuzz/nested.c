/* SPDX-License-Identifier: MIT */
/*
 * nested.c - a guest that says of itself that it is a host: any bytes as its table, whatever its pages hold, any
 * changes of its line. Only what an entry names is ever written, where a page was, and the table's own head and marks;
 * ASan watches what is outside the guest's memory. And what L1's engine itself makes of a hostile guest's table, which
 * it copies for its own host.
 */
#include "input.h"

#include <pvclock/interface.h>
#include <pvclock/parent.h>
#include <pvclock/record.h>
#include <pvclock/vm.h>

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY 0x6000u
#define TABLE 0x1000u
#define NESTED 0x3000u   /* the guest's guest has the rest */
#define INNER_TABLE 0x1000u /* in there */
#define HEAD offsetof(struct pvclock_nested_page, entries)

static struct pvclock_host_tsc read_tsc(void *ctx)
{
	return (struct pvclock_host_tsc){ *(uint64_t *)ctx += 1000 };
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

	check(at <= MEMORY && size <= MEMORY - at); /* an engine names nothing but its guests' memory */
	*gpa = at;
	return 0;
}

static struct pvclock_line take_line(struct input *input)
{
	struct pvclock_line line = { .tsc = take(input, 6), .ns = take(input, 6), .mul = (uint32_t)take(input, 4) };

	line.shift = (int8_t)take(input, 1);
	if (line.mul == 0)
		line.mul = 1u << 31;
	line.shift = (int8_t)(line.shift % 32);
	return line;
}

/* An entry of a kind that means something, near something; or any bytes. */
static void fill_entry(struct input *input, uint8_t *at, uint64_t base)
{
	struct pvclock_nested_entry entry = { 0 };
	uint8_t how = (uint8_t)take(input, 1);

	if (how < 64) {
		for (size_t i = 0; i < sizeof(entry); i++)
			at[i] = (uint8_t)take(input, 1);
		return;
	}
	entry.gpa = base + take(input, 2) % (MEMORY + 64);
	if (how & 1)
		entry.gpa &= ~0x1full;
	if (how & 2)
		entry.gpa &= ~0xfffull;
	entry.offset = take(input, 4);
	if (how & 4) {
		entry.frac_bits = (uint8_t)(take(input, 1) % 66);
		entry.ratio = take(input, 8);
	}
	entry.kind = how & 8 ? PVCLOCK_NESTED_PAGE : (uint8_t)(take(input, 1) % 5);
	entry.under = how & 16 ? 0 : (uint8_t)(take(input, 1) % 6);
	memcpy(at, &entry, sizeof(entry));
}

static void fill_memory(struct input *input, uint8_t *memory)
{
	struct pvclock_line line = take_line(input);
	uint8_t spacing = (uint8_t)(take(input, 1) % 4);

	for (size_t i = 0x20; i + 32 <= MEMORY; i += 32u << spacing) {
		if (i < TABLE || i >= TABLE + 4096)
			pvclock_page_write(memory + i, &line, PVCLOCK_TSC_STABLE);
	}
	memory[take(input, 2) % TABLE] = (uint8_t)take(input, 1);
}

static bool within(size_t at, uint64_t start, uint64_t size)
{
	return at - start < size;
}

/* Every byte that is another was somebody's to write. */
static void check_memory(const uint8_t *before, const uint8_t *after)
{
	struct pvclock_nested_entry entries[PVCLOCK_NESTED_ENTRIES];

	memcpy(entries, before + TABLE + HEAD, sizeof(entries));
	for (size_t i = 0; i < MEMORY; i++) {
		bool theirs = within(i, TABLE, HEAD);

		if (before[i] == after[i])
			continue;
		for (unsigned int j = 0; j < PVCLOCK_NESTED_ENTRIES && !theirs; j++) {
			if (entries[j].kind == PVCLOCK_NESTED_PAGE)
				theirs = within(i, entries[j].gpa, sizeof(struct pvclock_page));
			if (entries[j].kind == PVCLOCK_NESTED_TABLE)
				theirs = within(i, entries[j].gpa, HEAD) && entries[j].gpa % 4096 == 0;
			theirs = theirs || (entries[j].kind && within(i, TABLE + HEAD + j * sizeof(*entries) + 28, 4));
		}
		check(theirs);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct pvclock_parent_ops parent_ops = { .write_msr = write_msr, .locate = locate };
	uint64_t tsc = 1ull << 40;
	const struct pvclock_os_ops ops = { .read_tsc = read_tsc, .clock_gettime = gettime, .read_file = no_file };
	const struct pvclock_os os = { .ops = &ops, .ctx = &tsc };
	uint8_t *memory = aligned_alloc(4096, MEMORY), before[MEMORY];
	struct input input = { data, size };
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
	check(pvclock_parent_open(&parent_ops, &level, (struct pvclock_nested_page *)(void *)(memory + TABLE), 0, &parent) == 0);
	fill_memory(&input, memory);
	if (engine) { /* the guest is honest, and its own guest is not */
		memset(memory + NESTED + INNER_TABLE, 0, 4096);
		check(pvclock_parent_add(parent, nested, 0) == 0);
		pvclock_vcpu_write_msr(inner, PVCLOCK_MSR_SYSTEM_TIME, 0x40 | 1);
		pvclock_vcpu_write_msr(inner, PVCLOCK_MSR_NESTED, INNER_TABLE | 1);
	}
	for (unsigned int round = 0; round < 8 && input.size > 0; round++) {
		uint8_t *table = memory + (engine ? NESTED + INNER_TABLE : TABLE);
		uint64_t generation = pvclock_parent_generation(parent);
		uint32_t count = (uint32_t)take(&input, 1);

		if (count > 200)
			count = (uint32_t)take(&input, 4);
		memcpy(table + offsetof(struct pvclock_nested_page, count), &count, 4);
		for (unsigned int i = 0; i < count && i < PVCLOCK_NESTED_ENTRIES && input.size > 0; i++)
			fill_entry(&input, table + HEAD + i * 32, 0);
		if (engine)
			pvclock_vcpu_write_msr(inner, PVCLOCK_MSR_NESTED, INNER_TABLE | 1);
		pvclock_vm_pause(vm);
		for (unsigned int changes = (unsigned int)take(&input, 1) % 4; changes > 0; changes--) {
			struct pvclock_line_change change = { .old_ticks = take(&input, 7), .next_ticks = take(&input, 7) };

			pvclock_vcpu_get_line(level.vcpu, &change.old);
			change.next = take_line(&input);
			pvclock_vcpu_set_line(level.vcpu, &change.next);
			pvclock_vm_line_changed(vm, &change);
		}
		memcpy(before, memory, MEMORY);
		pvclock_vm_resume(vm);
		check_memory(before, memory);
		check(pvclock_parent_generation(parent) - generation <= 2 || !engine);
		if (engine && pvclock_parent_changed(nested)) {
			pvclock_vm_pause(nested);
			pvclock_parent_follow(nested, NULL, NULL);
			pvclock_vm_resume(nested);
			check(!pvclock_parent_changed(nested));
		}
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
