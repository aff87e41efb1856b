/* SPDX-License-Identifier: MIT */
/* hyperv_record_test.c - P6: Hyper-V's clock goes with the record, all of it, or not at all. */
#include "hyperv_machine.h"

static void p6_all_of_it_goes_with_the_record(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370), *bare;
	uint8_t page[24];
	struct pvclock_record record;
	struct pvclock_reason reason;

	(void)state;
	turn_on(m);
	turn_on(m); /* its sequence is not the first one */
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, 0x1000100ee), 1);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, 1), 1);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL, 1), 1);
	memcpy(page, m->memory + PAGE, sizeof(page));
	for (unsigned int i = 0; i < 3; i++) {
		m = move(m, 0, i ? PVCLOCK_BLACKOUT_SNAPSHOT : PVCLOCK_BLACKOUT_LIVE_UPDATE, 1000003);
		assert_memory_equal(m->memory + PAGE, page, sizeof(page));
		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC), PAGE | 1);
		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL), 0x1000100ee);
		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL), 1);
		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS), 0);
		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL), 1);
		assert_int_equal(m->fake.signals, 0);
	}
	/* a VMM that does not offer what the guest uses is refused, before anything is done */
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	assert_int_equal(pvclock_kvm_save(m->kvm, &record), 0);
	bare = aligned_alloc(4096, (sizeof(*bare) + 4095) / 4096 * 4096);
	create(bare, 1, PVCLOCK_HYPERV_COUNTER | PVCLOCK_HYPERV_TSC_PAGE | PVCLOCK_HYPERV_REENLIGHTENMENT, 6462370);
	assert_int_equal(pvclock_kvm_restore(bare->kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, NULL, NULL, &reason), -ENOTSUP);
	assert_non_null(strstr(reason.text, "pvclock_vm_offer_hyperv"));
	pvclock_record_clear(&record);
	free_hv(bare);
	free_hv(m);
}

/* The engine alone: bit for bit back. */
static void p6_capture_and_apply_are_each_others_inverse(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	struct pvclock_hyperv_snapshot page;
	struct pvclock_record record, again;
	uint8_t before[MEMORY];

	(void)state;
	turn_on(m);
	assert_int_equal(pvclock_vm_pause(m->vm), 0);
	assert_int_equal(pvclock_record_capture(m->vm, &record), 0);
	memcpy(before, m->memory, MEMORY);
	assert_int_equal(pvclock_record_apply(&record, m->vm, NULL, NULL), 0);
	assert_int_equal(pvclock_record_capture(m->vm, &again), 0);
	assert_int_equal(again.hyperv_tsc_page, PAGE | 1);
	assert_true(same_time(&record.hyperv, &again.hyperv) && record.hyperv.scale != 0);
	assert_int_equal(record.hyperv_sequence, again.hyperv_sequence);
	assert_int_equal(pvclock_vm_resume(m->vm), 0);
	assert_memory_equal(m->memory + PAGE, before + PAGE, 24);
	/* memory that says something else is put right */
	memset(m->memory + PAGE, 0x5a, 24);
	assert_int_equal(pvclock_vm_pause(m->vm), 0);
	assert_int_equal(pvclock_record_apply(&record, m->vm, NULL, NULL), 0);
	assert_int_equal(pvclock_vm_resume(m->vm), 0);
	page = page_of(m);
	assert_true(same_time(&page.hyperv, &record.hyperv));
	assert_int_equal(page.sequence, record.hyperv_sequence + 1);
	pvclock_record_clear(&record);
	pvclock_record_clear(&again);
	free_hv(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p6_all_of_it_goes_with_the_record),
		cmocka_unit_test(p6_capture_and_apply_are_each_others_inverse),
	};

	take_seed();
	return cmocka_run_group_tests_name("hyperv record", tests, NULL, NULL);
}
