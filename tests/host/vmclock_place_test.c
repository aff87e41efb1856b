/* SPDX-License-Identifier: MIT */
/*
 * vmclock_place_test.c - P10: where VMClock's page may lie, what is written beside it,
 * and what a guest that writes there itself brings about.
 */
#include "vmclock_machine.h"

static void p10_a_place_is_taken_or_refused(void **state)
{
	static const struct {
		uint64_t gpa, size;
		bool taken;
	} cases[] = {
		{ 0, 112, true }, { 0x800, 0x800, true }, { 0, 4096, true }, { 4, 112, false }, { 0, 111, false },
		{ 0, 4097, false }, { 8, 4096, false }, { 4096 - 112, 112, true }, { 4096 - 104, 112, false }, { 4096, 112, false },
		{ UINT64_MAX - 7, 112, false }, { 0, UINT64_MAX, false }, { 3, 0, true },
	};
	struct machine *m = new_machine(1);

	(void)state;
	assert_int_equal(pvclock_vm_update_vmclock(m->vm, NULL), -ENODATA);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		assert_int_equal(pvclock_vm_set_vmclock(m->vm, (struct pvclock_gpa){ cases[i].gpa }, cases[i].size, 0),
				 cases[i].taken ? 0 : -EINVAL);
	assert_int_equal(pvclock_vm_update_vmclock(m->vm, NULL), -ENODATA);
	assert_int_equal(pvclock_vm_set_vmclock(m->vm, (struct pvclock_gpa){ 0 }, 112, 2), -EINVAL);
	free_machine(m);
}

static void p10_nothing_is_written_beside_the_page(void **state)
{
	struct machine *m = new_machine(2);
	struct pvclock_vmclock clock;
	uint8_t bitmap[8] = { 0 };

	(void)state;
	memset(m->memory, 0xa5, sizeof(m->memory));
	start(m);
	clock = read_page(m);
	assert_int_equal(clock.size, SIZE);
	for (size_t i = CLOCK_PAGE + 32; i < sizeof(m->memory); i++)
		if (i < PLACE || i >= PLACE + 112)
			assert_int_equal(m->memory[i], 0xa5);
	assert_int_equal(pvclock_vm_take_dirty(m->vm, (struct pvclock_gpa){ 0 }, 4096, bitmap), 1);
	update(m);
	assert_int_equal(pvclock_vm_take_dirty(m->vm, (struct pvclock_gpa){ 0 }, 4096, bitmap), 1);
	/* while its memory is away nothing is written; afterwards it is */
	assert_int_equal(pvclock_vm_remove_memory(m->vm, (struct pvclock_gpa){ 0 }, sizeof(m->memory)), 0);
	memset(m->memory, 0, sizeof(m->memory));
	assert_int_equal(pvclock_vm_update_vmclock(m->vm, NULL), -ENODATA);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, sizeof(m->memory), m->memory, 0), 0);
	assert_int_equal(m->memory[PLACE], 0);
	assert_int_equal(update(m).marker, clock.marker);
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	assert_int_equal(pvclock_vm_update_vmclock(m->vm, NULL), -EBUSY);
	free_machine(m);
}

/* A guest may write what it likes: it is written over, and only what it counted on from is its own. */
static void p10_a_guest_spoils_its_own_page(void **state)
{
	struct machine *m = started(3);

	(void)state;
	for (int i = 0; i < 2000; i++) {
		struct pvclock_vmclock before = read_page(m), after;

		for (size_t at = 0; at < 112; at++)
			m->memory[PLACE + at] = (uint8_t)splitmix64(&seed);
		after = update(m);
		assert_int_equal(after.marker, before.marker);
		assert_int_equal(after.generation, before.generation);
		assert_int_equal(after.time_type, PVCLOCK_VMCLOCK_TAI);
		assert_int_equal(after.counter_id, PVCLOCK_VMCLOCK_COUNTER_TSC);
		assert_int_equal(after.status, PVCLOCK_VMCLOCK_SYNCHRONIZED);
	}
	free_machine(m);
	/* and what another engine finds there is nothing that it waits for, or believes */
	for (int i = 0; i < 2000; i++) {
		struct pvclock_vmclock clock;

		m = new_machine(4);
		for (size_t at = 0; at < 112; at++)
			m->memory[PLACE + at] = (uint8_t)splitmix64(&seed);
		if (i & 1)
			memcpy(m->memory + PLACE, "VCLK\0\1\0\0\1", 10);
		m->memory[PLACE + 0xc] |= 1; /* its writer died */
		start(m);
		clock = read_page(m);
		assert_true(clock.time_type == PVCLOCK_VMCLOCK_TAI || ((i & 1) && clock.time_type == PVCLOCK_VMCLOCK_UTC));
		if (clock.counter_id != PVCLOCK_VMCLOCK_COUNTER_TSC)
			assert_true((i & 1) && clock.counter_id == PVCLOCK_VMCLOCK_COUNTER_INVALID);
		assert_int_equal(clock.status, PVCLOCK_VMCLOCK_SYNCHRONIZED);
		free_machine(m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p10_a_place_is_taken_or_refused),
		cmocka_unit_test(p10_nothing_is_written_beside_the_page),
		cmocka_unit_test(p10_a_guest_spoils_its_own_page),
	};

	take_seed();
	return cmocka_run_group_tests_name("vmclock place", tests, NULL, NULL);
}
