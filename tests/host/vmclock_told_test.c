/* SPDX-License-Identifier: MIT */
/*
 * vmclock_told_test.c - when VMClock's marker and generation move,
 * and that after any event the page is the host's time before a vCPU runs.
 */
#include "vmclock_machine.h"

static void pauses_are_told_where_the_counter_changed(void **state)
{
	struct machine *m = started(40);
	struct pvclock_policy policy = pvclock_policy_default();
	struct pvclock_vmclock begun = read_page(m), clock;
	struct pvclock_tsc_transform tsc;

	(void)state;
	for (int i = 0; i < 5; i++) {
		pause_resume(m, 3 * NS);
		check_now(m);
	}
	clock = read_page(m);
	assert_int_equal(clock.marker, begun.marker);
	assert_int_equal(clock.sequence, begun.sequence + 10);
	policy.on[PVCLOCK_BLACKOUT_PAUSE] = PVCLOCK_FREEZE;
	pvclock_vm_set_policy(m->vm, &policy);
	pause_resume(m, 3 * NS); /* the counter did not count it */
	check_now(m);
	assert_int_equal(read_page(m).marker, begun.marker + 1);
	m->fake.offset_ignored = true; /* it did: the clock has another line, and the counter is the same */
	pause_resume(m, 3 * NS);
	check_now(m);
	assert_int_equal(read_page(m).marker, begun.marker + 1);
	m->fake.offset_ignored = false;
	/* a guest that moves its own counter knows, and others in it do not */
	pvclock_vcpu_get_tsc(m->vcpu, &tsc);
	tsc.offset += 12345;
	m->fake.offset += 12345;
	assert_int_equal(pvclock_vcpu_set_tsc(m->vcpu, &tsc, false), 0);
	check_now(m);
	clock = read_page(m);
	assert_int_equal(clock.marker, begun.marker + 2);
	assert_int_equal(clock.generation, begun.generation);
	/* the host slept, and its counter stood still: KVM changes nothing */
	policy.on[PVCLOCK_BLACKOUT_PAUSE] = PVCLOCK_ADVANCE;
	pvclock_vm_set_policy(m->vm, &policy);
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	fake_kvm_sleep(&m->fake, 3600 * NS, 0, false);
	assert_int_equal(pvclock_kvm_resume(m->kvm, NULL, NULL), 0);
	check_now(m);
	clock = read_page(m);
	assert_int_equal(clock.marker, begun.marker + 3);
	assert_int_equal(clock.generation, begun.generation);
	free_machine(m);
}

struct arrival_case {
	enum pvclock_blackout blackout;
	enum pvclock_passing policy;
	bool offset_ignored, other_rate;
	unsigned int marker, generation; /* move by */
};

static void restores_are_told(void **state)
{
	static const struct arrival_case cases[] = {
		{ PVCLOCK_BLACKOUT_LIVE_UPDATE, PVCLOCK_ADVANCE, false, false, 0, 0 },
		{ PVCLOCK_BLACKOUT_LIVE_UPDATE, PVCLOCK_ADVANCE, true, false, 0, 0 },
		{ PVCLOCK_BLACKOUT_LIVE_UPDATE, PVCLOCK_FREEZE, false, false, 1, 0 },
		{ PVCLOCK_BLACKOUT_MIGRATION, PVCLOCK_ADVANCE, false, false, 1, 0 },
		{ PVCLOCK_BLACKOUT_MIGRATION, PVCLOCK_FREEZE, true, false, 1, 0 },
		{ PVCLOCK_BLACKOUT_MIGRATION, PVCLOCK_ADVANCE, false, true, 1, 0 },
		{ PVCLOCK_BLACKOUT_SNAPSHOT, PVCLOCK_ADVANCE, false, false, 1, 1 },
		{ PVCLOCK_BLACKOUT_SNAPSHOT, PVCLOCK_FREEZE, false, false, 1, 1 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		const struct arrival_case *c = &cases[i];
		struct machine *from = started(50), *to = new_machine(51);
		struct pvclock_policy policy = pvclock_policy_default();
		struct pvclock_vmclock before, after;
		struct pvclock_record record;
		struct pvclock_slope host;

		policy.on[c->blackout] = c->policy;
		policy.fall_back = true;
		pvclock_vm_set_policy(from->vm, &policy);
		to->fake.offset_ignored = c->offset_ignored;
		to->fake.offset = c->offset_ignored ? from->fake.offset : 0;
		for (unsigned int n = 0; n < 7; n++) /* some marker and some generation */
			pvclock_vm_disrupt(from->vm, n & 1);
		pass_ns(from, 5 * NS);
		update(from);
		assert_int_equal(pvclock_kvm_pause(from->kvm), 0);
		assert_int_equal(pvclock_kvm_save(from->kvm, &record), 0);
		before = read_page(from);
		assert_int_equal(before.generation, 1); /* disruptions between two updates are one */
		memcpy(to->memory, from->memory, sizeof(to->memory));
		to->fake.tsc = from->fake.tsc;
		to->fake.realtime_ns = from->fake.realtime_ns;
		if (c->other_rate) {
			to->fake.khz = 3000000;
			to->fake.realtime_ns = (int64_t)(fake_kvm_realtime(&from->fake, from->fake.tsc) -
							 (uint64_t)((unsigned __int128)to->fake.tsc * 1000000 / to->fake.khz));
		}
		assert_int_equal(pvclock_vm_set_vmclock(to->vm, (struct pvclock_gpa){ PLACE }, SIZE, 0), 0);
		pass_ns(to, 20 * MS);
		pvclock_slope_from_khz(to->fake.khz, &host);
		assert_int_equal(pvclock_kvm_restore(to->kvm, &record, c->blackout, &host, NULL, NULL), 0);
		pass_ns(to, MS);
		assert_int_equal(pvclock_kvm_resume(to->kvm, NULL, NULL), 0);
		check_now(to);
		after = read_page(to);
		if (after.marker - before.marker != c->marker || after.generation - before.generation != c->generation)
			fail_msg("case %zu: the marker moved by %llu, the generation by %llu", i,
				 (unsigned long long)(after.marker - before.marker),
				 (unsigned long long)(after.generation - before.generation));
		/* and once is enough */
		pause_resume(to, MS);
		assert_int_equal(read_page(to).generation, after.generation);
		if (c->blackout != PVCLOCK_BLACKOUT_LIVE_UPDATE)
			assert_int_equal(read_page(to).marker, after.marker);
		pvclock_record_clear(&record);
		free_machine(from);
		free_machine(to);
	}
}

/* Where the kernel publishes, the guest finds the page from the start, and what it says is of use from the first pause on. */
static void steer_mode_has_it_too(void **state)
{
	struct machine *m = aligned_alloc(64, (sizeof(*m) + 63) / 64 * 64);
	struct pvclock_slope host;
	struct pvclock_vmclock clock;

	(void)state;
	machine_init(m, 60, PVCLOCK_MODE_STEER);
	synchronize(&m->fake);
	pvclock_slope_from_khz(m->fake.khz, &host);
	assert_int_equal(pvclock_vm_set_vmclock(m->vm, (struct pvclock_gpa){ PLACE }, SIZE, 0), 0);
	assert_int_equal(pvclock_kvm_start(m->kvm, &host), 0);
	clock = read_page(m);
	assert_int_equal(clock.counter_id, PVCLOCK_VMCLOCK_COUNTER_TSC);
	assert_int_equal(clock.status, PVCLOCK_VMCLOCK_UNRELIABLE);
	kernel_publishes(m);
	pause_resume(m, NS);
	clock = read_page(m);
	assert_int_equal(clock.status, PVCLOCK_VMCLOCK_SYNCHRONIZED);
	check_now(m);
	free_machine(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pauses_are_told_where_the_counter_changed),
		cmocka_unit_test(restores_are_told),
		cmocka_unit_test(steer_mode_has_it_too),
	};

	take_seed();
	return cmocka_run_group_tests_name("vmclock told", tests, NULL, NULL);
}
