/* SPDX-License-Identifier: MIT */
/*
 * hyperv_life_test.c - P12: through a long life of all that can happen to a VM, page and counter are one function, within the
 * bounds of the pvclock page beside it, at random ticks and at the ones where a reading turns.
 *
 *     hyperv_life_test [EVENTS TICKS]    so many events, after each so many ticks; PVCLOCK_SEED
 */
#include "hyperv_machine.h"

static unsigned int events = 1000, ticks = 200;

enum { PASSES, FREEZES, FREEZES_BY_LINE, UPDATES, SNAPSHOTS, MIGRATES, TSC_WRITTEN, MEMORY_MOVES, KINDS };

static struct hv *happen(struct hv *m, unsigned int kind)
{
	static const uint32_t mults[] = { 6462370, 6462371, 5592405, 8388608, 16777216, 7049376, 4194305 };

	m->fake.offset_ignored = kind == FREEZES_BY_LINE;
	set_policy(m, kind == FREEZES || kind == FREEZES_BY_LINE ? PVCLOCK_FREEZE : PVCLOCK_ADVANCE);
	switch (kind) {
	case UPDATES:
		return move(m, 0, PVCLOCK_BLACKOUT_LIVE_UPDATE, splitmix64(&seed) % 10000000);
	case SNAPSHOTS:
		return move(m, 0, PVCLOCK_BLACKOUT_SNAPSHOT, splitmix64(&seed) >> 30);
	case MIGRATES:
		return move(m, mults[splitmix64(&seed) % 7], PVCLOCK_BLACKOUT_MIGRATION, splitmix64(&seed) % 10000000);
	case TSC_WRITTEN:
		assert_int_equal(write_msr(m, 0x10, splitmix64(&seed) >> 8), 1);
		return m;
	case MEMORY_MOVES:
		assert_int_equal(pvclock_vm_remove_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY), 0);
		assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY, m->memory, 0), 0);
		return m;
	default:
		blackout(m);
		return m;
	}
}

static void p12_one_function_through_a_long_life(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	struct pvclock_hyperv_snapshot page;
	uint64_t judged = 0, kept = 0, renewed = 0;

	(void)state;
	turn_on(m);
	page = page_of(m);
	for (unsigned int i = 0; i < events; i++) {
		unsigned int kind = (unsigned int)(splitmix64(&seed) % KINDS);
		struct pvclock_hyperv_snapshot next;
		struct pvclock_line before, line;
		uint64_t last = read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT);
		bool same;

		pvclock_vcpu_get_line(m->vcpus[0], &before);
		m = happen(m, kind);
		next = page_of(m);
		pvclock_vcpu_get_line(m->vcpus[0], &line);
		/* the same function: the anchor may have moved, and no reading */
		same = line.mul == before.mul && line.shift == before.shift;
		for (unsigned int j = 0; same && j < 64; j++) {
			uint64_t tick = m->fake.tsc + m->fake.offset + (splitmix64(&seed) >> 8);

			same = system_time(&line, tick) == system_time(&before, tick);
		}
		if (same && (!same_time(&next.hyperv, &page.hyperv) || next.sequence != page.sequence))
			fail_msg("event %u, %u: the page has changed and the clock has not", i, kind);
		if (!same_time(&next.hyperv, &page.hyperv) == (next.sequence == page.sequence))
			fail_msg("event %u, %u: sequence %u after %u", i, kind, next.sequence, page.sequence);
		kept += same_time(&next.hyperv, &page.hyperv);
		renewed += !same_time(&next.hyperv, &page.hyperv);
		page = next;
		/* at once, before anything else reads a TSC: nobody sees a step back */
		if (reference_time(&page.hyperv, m->fake.tsc + m->fake.offset) < last)
			fail_msg("event %u, %u: backwards", i, kind);
		judged += judge_all(m, &page.hyperv, ticks);
		assert_int_equal(page_of(m).sequence, page.sequence);
		m->fake.tsc += 1000;
	}
	print_message("%" PRIu64 " ticks; %" PRIu64 " events left the page alone, %" PRIu64 " made a new one\n", judged, kept,
		      renewed);
	assert_true(kept > events / 4 && renewed > events / 8);
	assert_int_equal(judged, (uint64_t)events * ticks);
	free_hv(m);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p12_one_function_through_a_long_life),
	};

	take_seed();
	if (argc > 2) {
		events = (unsigned int)strtoul(argv[1], NULL, 0);
		ticks = (unsigned int)strtoul(argv[2], NULL, 0);
	}
	return cmocka_run_group_tests_name("hyperv life", tests, NULL, NULL);
}
