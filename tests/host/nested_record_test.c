/* SPDX-License-Identifier: MIT */
/*
 * nested_record_test.c - P6, P8: a guest that is a host, through records: saved once more before it ran,
 * restored where it would be none.
 */
#include "nested_world.h"

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
		assert_int_equal(pvclock_kvm_restore(w->level[0].kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, &slope, &w->plan, &reason), 0);
		at_switch = w->plan.at.tsc;
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p8_saved_before_it_ran),
		cmocka_unit_test(p8_nobody_was_interrupted_yet),
		cmocka_unit_test(p6_the_offer_is_part_of_the_record),
		cmocka_unit_test(p8_a_record_applied),
	};

	return cmocka_run_group_tests_name("nested record", tests, NULL, NULL);
}
