/* SPDX-License-Identifier: MIT */
/*
 * hyperv_told_test.c - P8: re-enlightenment: what a guest is told, that wants to be told,
 * and what its page says until it has heard.
 */
#include "hyperv_machine.h"

static void p8_another_rate_is_told(void **state)
{
	static const struct {
		uint32_t reenlightenment, emulation;
		bool ignored; /* the same rate: a freeze moves the line */
	} cases[] = { { 0x100ee, 1, false }, { 0x100ee, 0, false }, { 0, 1, false }, { 0, 0, false }, { 0x100ee, 1, true } };

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv *m = new_hv(2, PVCLOCK_HYPERV_FEATURES, 6462370);
		struct pvclock_hyperv_snapshot before, after;
		struct pvclock_hyperv_page words;
		uint64_t last, now;

		m->fake.offset_ignored = cases[i].ignored;
		turn_on(m);
		assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, cases[i].reenlightenment | 1ull << 32),
				 1);
		assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, cases[i].emulation), 1);
		blackout(m); /* the same function: nothing is to be told, and nothing touched */
		before = page_of(m);
		assert_int_equal(m->fake.signals, 0);
		assert_int_equal(before.sequence, 1);
		last = read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT);
		if (cases[i].ignored) {
			set_policy(m, PVCLOCK_FREEZE);
			blackout(m);
		} else {
			m = move(m, 5592405, PVCLOCK_BLACKOUT_MIGRATION, 77777);
		}
		now = read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT);
		assert_true(now >= last);
		assert_int_equal(m->fake.signals, cases[i].reenlightenment ? 1 : 0);
		if (m->fake.signals) {
			assert_int_equal(m->fake.signal.data, 0xee);
			assert_int_equal(m->fake.signal.address_lo, 0xfee01000);
		}
		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS), cases[i].emulation);
		if (!cases[i].ignored)
			assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_FREQUENCY), 3000000179);
		if (cases[i].emulation) { /* no clock, and no other word has changed; the counter goes on at the new rate */
			memcpy(&words, m->memory + PAGE, sizeof(words));
			assert_int_equal(words.sequence, 0);
			assert_true(words.scale == before.hyperv.scale && words.offset == before.hyperv.offset);
			blackout(m); /* a guest that does not acknowledge: so it stays */
			m = move(m, 0, PVCLOCK_BLACKOUT_SNAPSHOT, 5);
			assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS), 1);
			assert_false(read_page(m, &after));
			assert_true(read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT) >= now);
			if (i == 0)
				assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS, 0), 1);
			else
				assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, 0), 1);
			assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS), 0);
		}
		after = page_of(m);
		if (after.sequence != 2)
			fail_msg("case %zu: sequence %u", i, after.sequence);
		assert_false(same_time(&after.hyperv, &before.hyperv));
		judge_all(m, &after.hyperv, 100);
		free_hv(m);
	}
}

/* A guest that sets its page up anew while one waits has asked for it. */
static void a_page_that_is_asked_for_waits_for_nothing(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	struct pvclock_hyperv_snapshot page;

	(void)state;
	turn_on(m);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, 1), 1);
	m = move(m, 5592405, PVCLOCK_BLACKOUT_MIGRATION, 77777);
	assert_false(read_page(m, &page));
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 1);
	page = page_of(m);
	judge_all(m, &page.hyperv, 10);
	/* and stays */
	blackout(m);
	assert_int_equal(page_of(m).sequence, page.sequence);
	free_hv(m);
}

/* Its own doing: it needs nobody to tell it. */
static void a_guest_that_writes_its_tsc_is_not_told(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	struct pvclock_hyperv_snapshot page;
	uint64_t last;

	(void)state;
	turn_on(m);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, 0x100ee), 1);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, 1), 1);
	last = read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT);
	assert_int_equal(write_msr(m, 0x10, 0x123456789abc), 1);
	page = page_of(m);
	assert_int_equal(page.sequence, 2);
	assert_true(read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT) >= last);
	blackout(m);
	assert_int_equal(m->fake.signals, 0);
	judge_all(m, &page.hyperv, 10);
	free_hv(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p8_another_rate_is_told),
		cmocka_unit_test(a_page_that_is_asked_for_waits_for_nothing),
		cmocka_unit_test(a_guest_that_writes_its_tsc_is_not_told),
	};

	take_seed();
	return cmocka_run_group_tests_name("hyperv told", tests, NULL, NULL);
}
