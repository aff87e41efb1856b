/* SPDX-License-Identifier: MIT */
/* clock_structure_test.c - a clock that goes to another VM: as a record, or as KVM_[GS]ET_CLOCK_GUEST's structure. */
#include "machine.h"

/* Live update in each mode: a second VM takes the first one's record, and the guest's function is the same. */
static void restore_once(enum pvclock_mode mode, uint64_t seed)
{
	struct machine a, b;
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_correction correction;
	struct pvclock_line before, after;
	struct pvclock_slope host;
	int t;

	machine_init(&a, seed, mode);
	a.fake.offset = -(a.fake.tsc - 1000);
	a.fake.anchor_tsc = a.fake.tsc;
	pvclock_slope_from_khz(a.fake.khz, &host);
	assert_int_equal(pvclock_kvm_start(a.kvm, &host), 0);
	if (mode == PVCLOCK_MODE_STEER)
		kernel_publishes(&a);
	a.fake.deadline[0] = 1000000000000;
	assert_int_equal(pvclock_kvm_pause(a.kvm), 0);
	assert_int_equal(pvclock_kvm_save(a.kvm, &record), 0);
	assert_int_equal(pvclock_slope_difference(&record.host, &host), 0); /* the host's, not the kernel's imitation */
	pvclock_vcpu_get_line(a.vcpu, &before);

	machine_init(&b, seed + 1, mode);
	memcpy(b.memory, a.memory, sizeof(b.memory));
	b.fake.tsc = a.fake.tsc + 5000000;
	b.fake.offset = -b.fake.tsc; /* a new VM's TSC starts at 0 */
	b.fake.snapshot_pending = true;
	if (seed % 3 == 0) /* it holds already: a write would only unsettle the kernel's master clock */
		b.fake.offset = a.fake.offset;
	assert_int_equal(pvclock_kvm_restore(b.kvm, &record, PVCLOCK_BLACKOUT_LIVE_UPDATE, NULL, NULL, &reason), 0);
	assert_int_equal(b.fake.offset, a.fake.offset);
	assert_int_equal(b.fake.offset_writes, seed % 3 != 0);
	assert_int_equal(pvclock_kvm_settle(b.kvm, b.vcpu), 0);
	assert_int_equal(b.fake.deadline_at_entry, 0); /* no timer fires by a clock that is not right yet */
	assert_int_equal(pvclock_kvm_resume(b.kvm, &correction, &reason), 0);
	assert_int_equal(b.fake.deadline[0], 1000000000000); /* stock, too: in ticks */
	assert_int_equal(correction.moved_ticks, 0);
	if (mode == PVCLOCK_MODE_STEER) {
		struct pvclock_snapshot now;

		assert_int_equal(b.fake.system_time_msr, 65);
		kernel_publishes(&b);
		pvclock_page_read(b.memory + 64, &now);
		after = now.line;
	} else {
		pvclock_vcpu_get_line(b.vcpu, &after);
	}
	for (t = 0; t < 1000; t++) {
		uint64_t tick = b.fake.tsc + b.fake.offset + fake_random(&b.fake) % 100000000;
		int64_t shift = (int64_t)(pvclock_line_ns(&after, tick) - pvclock_line_ns(&before, tick));

		assert_in_range(shift, 0, mode == PVCLOCK_MODE_STEER);
	}
	pvclock_record_clear(&record);
	machine_clear(&a);
	machine_clear(&b);
}

static void p1_restore_in_every_mode(void **state)
{
	uint64_t seed;

	(void)state;
	for (seed = 0; seed < 100; seed++) {
		restore_once(PVCLOCK_MODE_OWN, seed);
		restore_once(PVCLOCK_MODE_STEER, seed);
	}
}

static void p6_a_record_of_another_host_is_refused(void **state)
{
	struct machine a, b;
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_slope host;
	struct pvclock_line line;

	(void)state;
	machine_init(&a, 5, PVCLOCK_MODE_OWN);
	pvclock_slope_from_khz(a.fake.khz, &host);
	assert_int_equal(pvclock_kvm_start(a.kvm, &host), 0);
	pvclock_kvm_pause(a.kvm);
	assert_int_equal(pvclock_kvm_save(a.kvm, &record), 0);

	machine_init(&b, 6, PVCLOCK_MODE_OWN);
	b.fake.tsc = 1000000; /* a host that has just booted */
	assert_int_equal(pvclock_kvm_restore(b.kvm, &record, PVCLOCK_BLACKOUT_LIVE_UPDATE, NULL, NULL, &reason), -EINVAL);
	assert_int_equal(reason.code, PVCLOCK_REASON_OTHER_HOST);
	assert_int_equal(pvclock_vcpu_get_line(b.vcpu, &line), -ENODATA);
	assert_int_equal(pvclock_kvm_pause(b.kvm), 0); /* the refusal left it running, as it was */
	pvclock_kvm_resume(b.kvm, NULL, NULL);

	b.fake.tsc = a.fake.tsc + 1000000;
	record.line.mul = 0;
	assert_int_equal(pvclock_kvm_restore(b.kvm, &record, PVCLOCK_BLACKOUT_LIVE_UPDATE, NULL, NULL, &reason), -EINVAL);
	assert_int_equal(reason.code, PVCLOCK_REASON_RECORD_FIELD);
	assert_int_equal(pvclock_vcpu_get_line(b.vcpu, &line), -ENODATA);
	pvclock_record_clear(&record);
	machine_clear(&a);
	machine_clear(&b);
}

/* A guest that was paused for a while before it was saved: what the pause counts is the pause's policy, to the tick. */
static void p7_a_pause_before_a_save(void **state)
{
	(void)state;
	for (int passing = PVCLOCK_ADVANCE; passing <= PVCLOCK_FREEZE; passing++) {
		const uint64_t second = 2596142000ull;
		struct machine m;
		struct pvclock_policy policy = pvclock_policy_default();
		struct pvclock_record record;
		struct pvclock_correction correction;
		struct pvclock_line line;
		struct pvclock_tsc_transform tsc;
		struct pvclock_slope host;
		uint64_t ran, paused, saved;

		policy.on[PVCLOCK_BLACKOUT_PAUSE] = (enum pvclock_passing)passing;
		machine_init(&m, 5, PVCLOCK_MODE_OWN);
		pvclock_slope_from_khz(m.fake.khz, &host);
		assert_int_equal(pvclock_kvm_start(m.kvm, &host), 0);
		pvclock_vm_set_policy(m.vm, &policy);
		pvclock_vcpu_get_line(m.vcpu, &line);
		pvclock_vcpu_get_tsc(m.vcpu, &tsc);
		ran = m.fake.tsc + tsc.offset;
		assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
		paused = m.fake.tsc + tsc.offset;
		m.fake.tsc += second;
		assert_int_equal(pvclock_kvm_save(m.kvm, &record), 0);
		saved = pvclock_tsc_to_guest(&record.vcpus[0].tsc, record.time.at).ticks;
		if (passing == PVCLOCK_FREEZE)
			assert_true(saved >= ran && saved <= paused); /* the fake's TSC goes on at every look */
		else
			assert_true(saved - paused >= second && saved - paused < second + 100000);
		assert_int_equal(record.system_time, pvclock_line_ns(&line, saved));
		pvclock_record_clear(&record);
		/* A save changes nothing for the guest that goes on: each part of its pause is judged once. */
		m.fake.tsc += second;
		assert_int_equal(pvclock_kvm_resume(m.kvm, &correction, NULL), 0);
		uint64_t told = passing == PVCLOCK_FREEZE ? correction.uncounted_ns : correction.counted_ns;

		assert_in_range(told, 2000000000u, 2000100000u);
		assert_int_equal(correction.counted_ns + correction.uncounted_ns, told);
		machine_clear(&m);
	}
}

/* What the guest reads now: the engine's line in own mode, else what the kernel publishes. */
static struct pvclock_line line_read(struct machine *m, enum pvclock_mode mode)
{
	struct pvclock_snapshot page;
	struct pvclock_line line;

	pvclock_vcpu_get_line(m->vcpu, &line);
	if (mode == PVCLOCK_MODE_OWN)
		return line;
	kernel_publishes(m);
	pvclock_page_read(m->memory + 64, &page);
	return page.line;
}

/* From one VM into another one with the same TSC: the same function. */
static void p1_a_clock_is_set_as_a_structure(void **state)
{
	static const enum pvclock_mode modes[] = { PVCLOCK_MODE_OWN, PVCLOCK_MODE_STEER };

	(void)state;
	for (uint64_t seed = 1; seed <= 40; seed++) {
		enum pvclock_mode mode = modes[seed % 2];
		struct machine a, b;
		struct pvclock_page clock, again;
		struct pvclock_reason reason;
		struct pvclock_line before, after;
		struct pvclock_slope host;

		machine_init(&a, seed, mode);
		machine_init(&b, seed + 1000, mode);
		a.fake.offset = fake_random(&a.fake) >> 8;
		a.fake.anchor_tsc = a.fake.tsc;
		b.fake.anchor_tsc = b.fake.tsc = a.fake.tsc + 1000000;
		assert_int_equal(pvclock_kvm_set_tsc_offset(a.kvm, a.vcpu, a.fake.offset, NULL), 0);
		assert_int_equal(pvclock_kvm_set_tsc_offset(b.kvm, b.vcpu, a.fake.offset, NULL), 0);
		assert_int_equal(pvclock_kvm_get_clock_guest(a.kvm, a.vcpu, &clock, &reason), -ENOTSUP); /* no line yet */
		assert_int_equal(reason.code, PVCLOCK_REASON_NO_LINE);
		pvclock_slope_from_khz(a.fake.khz, &host);
		assert_int_equal(pvclock_kvm_start(a.kvm, &host), 0);
		assert_int_equal(pvclock_kvm_start(b.kvm, &host), 0);
		before = line_read(&a, mode);
		line_read(&b, mode);
		assert_int_equal(pvclock_kvm_pause(a.kvm), 0);
		assert_int_equal(pvclock_kvm_pause(b.kvm), 0);
		/* in own mode no page was registered: the structure is computed all the same */
		assert_int_equal(pvclock_kvm_get_clock_guest(a.kvm, a.vcpu, &clock, &reason), 0);
		assert_true(clock.tsc_timestamp == before.tsc && clock.system_time == before.ns && clock.pad0 == 0 &&
			    clock.flags == PVCLOCK_TSC_STABLE);
		assert_int_equal(pvclock_kvm_set_clock_guest(b.kvm, b.vcpu, &clock, &reason), 0);
		assert_int_equal(pvclock_kvm_get_clock_guest(b.kvm, b.vcpu, &again, &reason), 0);
		assert_memory_equal(&clock, &again, sizeof(clock));
		assert_int_equal(pvclock_kvm_resume(b.kvm, NULL, &reason), 0);
		after = line_read(&b, mode);
		for (int t = 0; t < 200; t++) {
			uint64_t tick = b.fake.tsc + a.fake.offset + fake_random(&b.fake) % 100000000000;
			int64_t shift = (int64_t)(pvclock_line_ns(&after, tick) - pvclock_line_ns(&before, tick));

			assert_in_range(shift, 0, mode == PVCLOCK_MODE_STEER);
		}
		machine_clear(&a);
		machine_clear(&b);
	}
}

static void a_clock_that_cannot_be_set_is_refused(void **state)
{
	struct machine m;
	struct pvclock_page clock, bad;
	struct pvclock_reason reason;
	struct pvclock_slope host, other;
	struct pvclock_line line, kept, after;
	uint64_t now;

	(void)state;
	machine_init(&m, 3, PVCLOCK_MODE_OWN);
	pvclock_slope_from_khz(m.fake.khz, &host);
	pvclock_kvm_start(m.kvm, &host);
	pvclock_kvm_pause(m.kvm);
	pvclock_kvm_get_clock_guest(m.kvm, m.vcpu, &clock, &reason);
	pvclock_vcpu_get_line(m.vcpu, &kept);
	for (int i = 0; i < 6; i++) {
		bad = clock;
		bad.pad0 = i == 0;
		bad.pad[1] = i == 1;
		if (i == 2)
			bad.tsc_to_system_mul = 0;
		if (i == 3)
			bad.tsc_shift = 32;
		if (i == 4)
			bad.tsc_timestamp = m.fake.tsc + 1000000;
		if (i == 5) { /* 2 kHz */
			pvclock_slope_from_khz(m.fake.khz + 2, &other);
			pvclock_line_make(&line, 0, 0, &other, NULL);
			bad.tsc_to_system_mul = line.mul;
		}
		assert_int_equal(pvclock_kvm_set_clock_guest(m.kvm, m.vcpu, &bad, &reason), i == 5 ? -ERANGE : -EINVAL);
		assert_int_equal(reason.text[strlen(reason.text) - 1], '.');
		pvclock_vcpu_get_line(m.vcpu, &after);
		assert_true(after.tsc == kept.tsc && after.ns == kept.ns && after.mul == kept.mul && after.shift == kept.shift);
	}
	/* 1 kHz: another kernel's account of this TSC. No jump now, and this host's rate from now on. */
	pvclock_slope_from_khz(m.fake.khz + 1, &other);
	pvclock_line_make(&line, clock.tsc_timestamp - 1000000000, clock.system_time + 5, &other, NULL);
	bad = clock;
	bad.tsc_timestamp = line.tsc;
	bad.system_time = line.ns;
	bad.tsc_to_system_mul = line.mul;
	now = m.fake.tsc;
	assert_int_equal(pvclock_kvm_set_clock_guest(m.kvm, m.vcpu, &bad, &reason), 0);
	pvclock_vcpu_get_line(m.vcpu, &after);
	assert_true(after.mul == kept.mul && after.shift == kept.shift);
	now = m.fake.tsc; /* where it went over, within the call's own reads */
	assert_in_range(pvclock_line_ns(&after, now) - pvclock_line_ns(&line, now), 0, 1);
	machine_clear(&m);

	machine_init(&m, 4, PVCLOCK_MODE_STEER);
	m.fake.anchor_tsc = m.fake.tsc;
	kernel_publishes(&m);
	pvclock_kvm_pause(m.kvm);
	m.fake.master_clock = false;
	assert_int_equal(pvclock_kvm_get_clock_guest(m.kvm, m.vcpu, &clock, &reason), -ENOTSUP);
	assert_int_equal(reason.code, PVCLOCK_REASON_NO_MASTER_CLOCK);
	assert_int_equal(pvclock_kvm_set_clock_guest(m.kvm, m.vcpu, &bad, &reason), -ENOTSUP);
	machine_clear(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p7_a_pause_before_a_save),
		cmocka_unit_test(p6_a_record_of_another_host_is_refused),
		cmocka_unit_test(p1_restore_in_every_mode),
		cmocka_unit_test(p1_a_clock_is_set_as_a_structure),
		cmocka_unit_test(a_clock_that_cannot_be_set_is_refused),
	};

	return cmocka_run_group_tests_name("clock structure", tests, NULL, NULL);
}
