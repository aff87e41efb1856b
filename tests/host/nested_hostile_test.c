/* SPDX-License-Identifier: MIT */
/* nested_hostile_test.c - P10: any table, of L1's or of L2's: nothing is written, and nothing copied, that is not theirs. */
#include "nested_world.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p10_tables_reach_what_is_theirs_alone),
		cmocka_unit_test(p10_registrations),
		cmocka_unit_test(p10_copies_of_hostile_tables),
	};

	return cmocka_run_group_tests_name("nested hostile", tests, NULL, NULL);
}
