/* SPDX-License-Identifier: MIT */
/*
 * nested_follow_test.c - P8: a guest's guest, and that one's, where L1's line becomes another in any way: what L0 left in their
 * pages goes on where it was, and the engines in there come to the same by themselves.
 */
#include "nested_world.h"

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
			const struct pvclock_line_change *change;
			struct readings after, followed;
			uint8_t bitmap[SIZE / 4096 / 8] = { 0 };

			w->fake.tsc += 555555555;
			pvclock_take_guest_stopped((struct pvclock_page *)(void *)(w->memory + L2_MEMORY + L2_PAGE));
			w->next_move = moves[i];
			move_host(w);
			/* nothing of the guest has run */
			assert_int_equal(pvclock_nested_read(table_of(w), &told), PVCLOCK_READ_OK);
			generation = w->saved_generation + 1;
			change = &told.changes[generation % PVCLOCK_NESTED_CHANGES];
			assert_int_equal(told.generation, generation);
			assert_int_equal(told.rewritten, 3);
			assert_int_equal(told.refused, 0);
			assert_int_equal(change->old_ticks, w->plan.at.tsc);
			check_continues(w, &w->saved, change->old_ticks, change->next_ticks);
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
		w->next_move = moves[0];
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
	w->next_move = (struct move){ .khz = KHZ, .tsc = UINT64_C(1) << 37 }; /* the counter can be set there, so it is as before */
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
		const struct pvclock_line_change *change = &told.changes[generation % PVCLOCK_NESTED_CHANGES];

		take_readings(w, &before);
		assert_int_equal(pvclock_kvm_pause(w->level[0].kvm), 0);
		w->fake.tsc += 1000000000;
		assert_int_equal(pvclock_kvm_resume(w->level[0].kvm, NULL, NULL), 0);
		assert_int_equal(pvclock_nested_read(table_of(w), &told), PVCLOCK_READ_OK);
		assert_int_equal(told.generation, generation);
		assert_in_range(change->next_ticks - change->old_ticks, 1000000000, 1001000000);
		check_continues(w, &before, change->old_ticks, change->next_ticks);
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
				w->next_move = moves[i % 2];
				w->next_move.advance = false;
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p8_the_tree_goes_on),
		cmocka_unit_test(p8_told_alone_comes_to_the_same),
		cmocka_unit_test(p8_the_same_line_is_no_change),
		cmocka_unit_test(p8_each_way_to_another_line),
		cmocka_unit_test(p8_a_counter_that_was_set),
		cmocka_unit_test(p4_what_is_not_stable_below_is_not_above),
		cmocka_unit_test(p8_too_many_changes_are_said),
	};

	return cmocka_run_group_tests_name("nested follow", tests, NULL, NULL);
}
