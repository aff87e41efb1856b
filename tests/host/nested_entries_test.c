/* SPDX-License-Identifier: MIT */
/*
 * nested_entries_test.c - P8: what stands in the table is what L2 has now: pages that move, memory that goes, more vCPUs
 * than there is room for.
 */
#include "nested_world.h"

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
	w->next_move = moves[0];
	move_host(w);
	assert_memory_equal(w->memory + L2_MEMORY + L2_PAGE, old, 32);
	read_page(w, L2_MEMORY + 0x400, &line);
	assert_int_equal(table_of(w)->rewritten, 1);
	follow(&w->level[1]);
	take_readings(w, &before);
	/* its memory goes, and comes back elsewhere */
	assert_int_equal(pvclock_vm_remove_memory(w->level[1].vm, (struct pvclock_gpa){ 0 }, L2_SIZE), 0);
	w->next_move = moves[1];
	move_host(w);
	assert_int_equal(table_of(w)->rewritten + table_of(w)->refused, 0);
	assert_int_equal(pvclock_vm_add_memory(w->level[1].vm, (struct pvclock_gpa){ 0 }, 0x4000, w->memory + 0x4000, 0), 0);
	follow(&w->level[1]);
	read_page(w, 0x4400, &line);
	w->next_move = moves[2];
	move_host(w);
	assert_int_equal(table_of(w)->rewritten, 1);
	take_readings(w, &after);
	assert_memory_equal(&after.line[1], &before.line[1], sizeof(struct pvclock_line)); /* nobody's any more */
	/* no VM: no entry; and a vCPU that goes takes its own along */
	pvclock_parent_remove(w->level[1].vm);
	assert_false(pvclock_parent_changed(w->level[1].vm));
	w->next_move = moves[3];
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
	w->level[1].crowded = true;
	for (unsigned int i = 0; i <= PVCLOCK_NESTED_ENTRIES; i++) {
		struct pvclock_tsc_transform tsc = pvclock_tsc_unscaled(5 + i * 1000);

		assert_int_equal(pvclock_vcpu_create(w->level[1].vm, i + 1, &vcpus[i]), 0);
		assert_int_equal(pvclock_vcpu_set_tsc(vcpus[i], &tsc, false), 0);
		assert_int_equal(pvclock_vcpu_write_msr(vcpus[i], PVCLOCK_MSR_SYSTEM_TIME, (0x2000 + i * 64) | 1), 0);
	}
	assert_int_equal(pvclock_nested_count(w->memory + L1_TABLE), PVCLOCK_NESTED_ENTRIES);
	w->next_move = moves[2];
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
	w->next_move = moves[0];
	move_host(w);
	assert_int_equal(table_of(w)->rewritten, PVCLOCK_NESTED_ENTRIES);
	follow(&w->level[1]);
	for (unsigned int i = 1; i <= PVCLOCK_NESTED_ENTRIES; i++)
		pvclock_vcpu_destroy(vcpus[i]);
	w->next_move = moves[1];
	move_host(w);
	assert_int_equal(table_of(w)->rewritten, 1);
	free_world(w);
}

/*
 * The parent has told L2's table of a move to another counter, and L2, before its engine in L1 has found out, that its table has
 * changed: its entry there is a new one, and what was done is not done again.
 */
static void p8_a_table_that_is_copied_anew_is_not_told_twice(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5), l3 = pvclock_tsc_unscaled(17);
	struct world *w = new_world(&l2, &l3);
	struct readings told, after;

	(void)state;
	for (unsigned int i = 0; i < MOVES; i++) {
		w->next_move = moves[i];
		move_host(w);
		take_readings(w, &told);
		assert_int_equal(pvclock_nested_generation(table_of_l2(w)), pvclock_nested_generation(table_of(w)));
		for (unsigned int bell = 0; bell < 2; bell++)
			assert_int_equal(pvclock_vcpu_write_msr(w->level[1].vcpu, PVCLOCK_MSR_NESTED, L2_TABLE | 1), 0);
		follow(&w->level[1]);
		assert_int_equal(pvclock_nested_generation(table_of_l2(w)), pvclock_nested_generation(table_of(w)));
		follow(&w->level[2]);
		take_readings(w, &after);
		assert_memory_equal(&told, &after, sizeof(told));
	}
	free_world(w);
}

/* L2's first vCPU has no page any more, so its table is in none; and where that stood, another vCPU's page does. L1 tells it. */
static void p8_a_table_without_its_page_is_told_by_its_own_host(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5), l3 = pvclock_tsc_unscaled(17);
	struct world *w = new_world(&l2, &l3);
	struct pvclock_vcpu *vcpus[2];

	(void)state;
	w->level[1].crowded = true;
	assert_int_equal(pvclock_vcpu_write_msr(w->level[1].vcpu, PVCLOCK_MSR_SYSTEM_TIME, 0), 0);
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(pvclock_vcpu_create(w->level[1].vm, i + 1, &vcpus[i]), 0);
		assert_int_equal(pvclock_vcpu_write_msr(vcpus[i], PVCLOCK_MSR_SYSTEM_TIME, (0x2000 + i * 64) | 1), 0);
	}
	w->next_move = moves[0];
	move_host(w);
	assert_int_equal(table_of(w)->rewritten, 2);
	assert_int_equal(pvclock_nested_generation(table_of_l2(w)), 0);
	follow(&w->level[1]);
	assert_int_equal(pvclock_nested_generation(table_of_l2(w)), 1);
	for (unsigned int i = 0; i < 2; i++)
		pvclock_vcpu_destroy(vcpus[i]);
	free_world(w);
}

/* A state that is loaded into L2 says that it has registered no table: what stood in the one that it had is its own memory again. */
static void p10_a_table_that_was_restored_away_is_copied_no_more(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5), l3 = pvclock_tsc_unscaled(17);
	struct world *w = new_world(&l2, &l3);

	(void)state;
	assert_int_equal(pvclock_vcpu_restore_msr(w->level[1].vcpu, PVCLOCK_MSR_NESTED, 0), 0);
	w->next_move = moves[0];
	move_host(w);
	assert_int_equal(table_of(w)->rewritten, 1);
	assert_int_equal(table_of(w)->refused, 0);
	assert_int_equal(pvclock_nested_generation(table_of_l2(w)), 0);
	free_world(w);
}

/*
 * A state is loaded into L2, which stands still: its clock's page lies where the state says, over another counter. L0 moves L1 before
 * L2 goes on: what was loaded stays what it was saved as, until the resume has taken it over.
 */
static void p1_what_is_loaded_is_not_followed(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5);
	struct world *w = new_world(&l2, NULL);
	struct pvclock_reason reason;
	struct pvclock_line line, found;

	(void)state;
	assert_int_equal(pvclock_vm_pause(w->level[1].vm), 0);
	read_page(w, L2_MEMORY + L2_PAGE, &line);
	line.ns /= 2;
	line.tsc /= 2;
	pvclock_page_write(w->memory + L2_MEMORY + 0x400, &line, PVCLOCK_TSC_STABLE);
	assert_int_equal(pvclock_vcpu_restore_msr(w->level[1].vcpu, PVCLOCK_MSR_SYSTEM_TIME, 0x400 | 1), 0);
	w->next_move = moves[0];
	move_host(w);
	read_page(w, L2_MEMORY + 0x400, &found);
	assert_true(same(&line, &found));
	assert_in_range(pvclock_parent_follow(w->level[1].vm, NULL, &reason), 1, 2);
	assert_int_equal(pvclock_vm_resume(w->level[1].vm), 0);
	w->next_move = moves[1];
	move_host(w);
	assert_int_equal(table_of(w)->rewritten, 1); /* as ever */
	read_page(w, L2_MEMORY + 0x400, &line);
	assert_int_equal(pvclock_vm_pause(w->level[1].vm), 0);
	assert_int_equal(pvclock_parent_follow(w->level[1].vm, NULL, &reason), 1);
	assert_int_equal(pvclock_vcpu_get_line(w->level[1].vcpu, &found), 0);
	assert_true(same(&line, &found));
	free_world(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p8_a_page_that_moved_is_the_guests_again),
		cmocka_unit_test(p8_many_vcpus),
		cmocka_unit_test(p1_what_is_loaded_is_not_followed),
		cmocka_unit_test(p8_a_table_that_is_copied_anew_is_not_told_twice),
		cmocka_unit_test(p8_a_table_without_its_page_is_told_by_its_own_host),
		cmocka_unit_test(p10_a_table_that_was_restored_away_is_copied_no_more),
	};

	return cmocka_run_group_tests_name("nested entries", tests, NULL, NULL);
}
