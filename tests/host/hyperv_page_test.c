/* SPDX-License-Identifier: MIT */
/*
 * hyperv_page_test.c - P2, P4, P10, P12: Hyper-V's page: where it is written; which memory is none; that a line leaves it alone,
 * bit for bit, as long as it agrees, or replaces it without a step back.
 */
#include "hyperv_machine.h"

static void the_page_is_written_where_it_was_asked_for(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	uint8_t zeros[MEMORY] = { 0 }, bitmap[8] = { 0 };
	struct pvclock_hyperv_snapshot page;
	struct pvclock_hyperv_line line;

	(void)state;
	/* not before it is enabled */
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE), 1);
	blackout(m);
	assert_memory_equal(m->memory, zeros, MEMORY);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 1);
	page = page_of(m);
	assert_int_equal(page.sequence, 1);
	assert_memory_equal(m->memory, zeros, PAGE);
	assert_memory_equal(m->memory + PAGE + 24, zeros, MEMORY - PAGE - 24);
	assert_int_equal(pvclock_vm_take_dirty(m->vm, (struct pvclock_gpa){ 0 }, MEMORY, bitmap), 1);
	assert_int_equal(bitmap[0], 2);
	/* asked for again: the same, with the next sequence; elsewhere: the old memory is the guest's */
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 1);
	line = page.hyperv;
	page = page_of(m);
	assert_int_equal(page.sequence, 2);
	assert_true(same_time(&page.hyperv, &line));
	memset(m->memory + PAGE, 0, 24);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, (PAGE + 0x1000) | 1), 1);
	assert_memory_equal(m->memory, zeros, PAGE + 0x1000);
	assert_int_equal(((struct pvclock_hyperv_page *)(void *)(m->memory + PAGE + 0x1000))->sequence, 3);
	/* disabled: never written again, whatever happens */
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, 0), 1);
	memset(m->memory, 0, MEMORY);
	m->fake.offset_ignored = true;
	set_policy(m, PVCLOCK_FREEZE);
	blackout(m);
	assert_memory_equal(m->memory, zeros, MEMORY);
	/* where no memory is: the counter goes on; the page comes with the memory */
	assert_int_equal(pvclock_vm_remove_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY), 0);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 1);
	assert_true(read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT) > 0);
	assert_memory_equal(m->memory, zeros, MEMORY);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY, m->memory, PVCLOCK_MEMORY_READONLY), 0);
	blackout(m);
	assert_memory_equal(m->memory, zeros, MEMORY);
	assert_int_equal(pvclock_vm_remove_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY), 0);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY, m->memory, 0), 0);
	page = page_of(m);
	judge_all(m, &page.hyperv, 10);
	free_hv(m);
}

/* TSCs that differ have no page in common. */
static void p4_an_unstable_vm_has_the_counter(void **state)
{
	struct hv *m = new_hv(2, PVCLOCK_HYPERV_FEATURES, 6462370);
	struct pvclock_tsc_transform tsc = { .offset = m->fake.offset + 12345 };
	struct pvclock_hyperv_snapshot page, again;
	uint64_t first, second;

	(void)state;
	turn_on(m);
	page = page_of(m);
	assert_int_equal(pvclock_vcpu_set_tsc(m->vcpus[1], &tsc, false), 0);
	assert_false(read_page(m, &again));
	judge_all(m, &page.hyperv, 100); /* the counter is what it was */
	first = m->fake.tsc;
	assert_int_equal(pvclock_vcpu_read_msr(m->vcpus[1], PVCLOCK_HYPERV_MSR_TIME_REF_COUNT, &second), 0);
	assert_int_equal(second, reference_time(&page.hyperv, first + 30 + m->fake.offset)); /* and the same for all */
	tsc.offset = m->fake.offset;
	assert_int_equal(pvclock_vcpu_set_tsc(m->vcpus[1], &tsc, false), 0);
	again = page_of(m);
	assert_true(same_time(&page.hyperv, &again.hyperv) && again.sequence == page.sequence + 1);
	free_hv(m);
}

/* What lies in the guest's memory where it asks for a page is no clock, if there is none to be had. */
static void p10_what_was_there_before_is_no_clock(void **state)
{
	struct hv *m = new_hv(2, PVCLOCK_HYPERV_FEATURES, 6462370);
	struct pvclock_tsc_transform tsc = { .offset = m->fake.offset + 12345 };
	struct pvclock_hyperv_snapshot page;
	uint8_t rest[MEMORY];

	(void)state;
	turn_on(m);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE), 1);
	assert_true(read_page(m, &page)); /* disabled, it stays as it is */
	assert_int_equal(pvclock_vcpu_set_tsc(m->vcpus[1], &tsc, false), 0);
	assert_true(read_page(m, &page));
	memset(m->memory + PAGE, 0x5a, MEMORY - PAGE);
	memcpy(rest, m->memory, MEMORY);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 1);
	assert_false(read_page(m, &page));
	assert_memory_equal(m->memory + PAGE + 4, rest + PAGE + 4, MEMORY - PAGE - 4);
	/* nor when the memory comes later */
	assert_int_equal(pvclock_vm_remove_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY), 0);
	memset(m->memory + PAGE, 0x5a, 24);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY, m->memory, 0), 0);
	assert_false(read_page(m, &page));
	tsc.offset = m->fake.offset;
	assert_int_equal(pvclock_vcpu_set_tsc(m->vcpus[1], &tsc, false), 0);
	page = page_of(m);
	judge_all(m, &page.hyperv, 10);
	free_hv(m);
}

/* A tick of 100 ns and more has no place in the form. */
static void a_slow_tsc_has_the_counter(void **state)
{
	struct hv *m = aligned_alloc(4096, (sizeof(*m) + 4095) / 4096 * 4096);
	struct pvclock_hyperv_snapshot page;
	uint64_t value;

	(void)state;
	create(m, 1, PVCLOCK_HYPERV_FEATURES, 6462370);
	assert_true(pvclock_slope_from_hz(5000000, &m->host));
	m->fake.khz = 5000;
	assert_int_equal(pvclock_kvm_start(m->kvm, &m->host), 0);
	turn_on(m);
	assert_false(read_page(m, &page));
	for (int i = 0; i < 100; i++) {
		struct pvclock_line line;

		m->fake.tsc += 1000;
		value = read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT);
		pvclock_vcpu_get_line(m->vcpus[0], &line);
		assert_int_equal(value, system_time(&line, m->fake.tsc + m->fake.offset) / 100);
	}
	assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_FREQUENCY), 5000000);
	free_hv(m);
}

/*
 * Which lines of the same slope reference time still agrees with: those for which its definition holds, to the ns, and no others.
 */
static void p12_it_is_kept_exactly_as_long_as_it_agrees(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	unsigned int kept = 0, renewed = 0;

	(void)state;
	turn_on(m);
	for (int round = 0; round < 50; round++) {
		struct pvclock_hyperv_snapshot page, next;
		struct pvclock_line first, line;

		/* another function, far from this one, so that each round begins with one that is new */
		assert_int_equal(pvclock_vcpu_get_line(m->vcpus[0], &first), 0);
		first.tsc = splitmix64(&seed) >> (round % 2 ? 2 : 20);
		first.ns = splitmix64(&seed) >> 1;
		m->fake.tsc = first.tsc - m->fake.offset + 1000;
		assert_int_equal(pvclock_vcpu_set_line(m->vcpus[0], &first), 0);
		for (int move = -230; move <= 230; move += 1 + (int)(splitmix64(&seed) % 9)) {
			s128 apart, e;
			bool agrees;

			assert_int_equal(pvclock_vcpu_set_line(m->vcpus[0], &first), 0);
			page = page_of(m);
			line = first;
			line.ns += (uint64_t)(int64_t)move;
			/* Y(a), in units of 2^-65 / 100 */
			apart = ((s128)((u128)line.tsc * page.hyperv.scale >> 64) + page.hyperv.offset) * 100 - (s128)line.ns;
			apart = apart * ((s128)1 << 65) + (s128)(uint64_t)((u128)line.tsc * page.hyperv.scale) * 200;
			e = (s128)100 * line.tsc;
			agrees = apart >= -e && apart < ((s128)100 << 65) + e;
			assert_int_equal(pvclock_vcpu_set_line(m->vcpus[0], &line), 0);
			next = page_of(m);
			if (agrees != (next.sequence == page.sequence) || agrees != same_time(&next.hyperv, &page.hyperv))
				fail_msg("moved by %d ns: %s (seed %" PRIu64 ")", move, agrees ? "replaced" : "kept", seed);
			kept += agrees;
			renewed += !agrees;
			judge_all(m, &next.hyperv, 20);
		}
	}
	assert_true(kept > 200 && renewed > 200);
	free_hv(m);
}

/* Another rate at the very tick: with nothing in between that would pass the time. */
static void p2_a_new_function_waits_for_the_old_one(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	unsigned int waited = 0;

	(void)state;
	turn_on(m);
	for (int round = 0; round < 1000; round++) {
		static const uint32_t mults[] = { 6462371, 6462370, 5592405 };
		struct pvclock_hyperv_snapshot page;
		struct pvclock_hyperv_line fresh;
		struct pvclock_line line, next;
		struct pvclock_slope slope;
		uint64_t last, tick;

		m->fake.tsc += splitmix64(&seed) % 1000000;
		last = read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT);
		assert_int_equal(pvclock_vm_pause(m->vm), 0);
		tick = m->fake.tsc + m->fake.offset;
		assert_int_equal(pvclock_vcpu_get_line(m->vcpus[0], &line), 0);
		assert_true(pvclock_slope_from_kernel(mults[round % 3], 24, &slope));
		assert_true(pvclock_line_continue(&line, tick, tick, &slope, &next, NULL));
		assert_true(pvclock_line_to_hyperv(&next, &fresh));
		waited += reference_time(&fresh, tick) < last;
		assert_int_equal(pvclock_vcpu_set_line(m->vcpus[0], &next), 0);
		assert_int_equal(pvclock_vm_resume(m->vm), 0);
		page = page_of(m);
		if (reference_time(&page.hyperv, m->fake.tsc + m->fake.offset) < last)
			fail_msg("round %d: backwards (seed %" PRIu64 ")", round, seed);
		judge_all(m, &page.hyperv, 10);
	}
	assert_true(waited > 10);
	free_hv(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_page_is_written_where_it_was_asked_for),
		cmocka_unit_test(p4_an_unstable_vm_has_the_counter),
		cmocka_unit_test(p10_what_was_there_before_is_no_clock),
		cmocka_unit_test(a_slow_tsc_has_the_counter),
		cmocka_unit_test(p12_it_is_kept_exactly_as_long_as_it_agrees),
		cmocka_unit_test(p2_a_new_function_waits_for_the_old_one),
	};

	take_seed();
	return cmocka_run_group_tests_name("hyperv page", tests, NULL, NULL);
}
