/* SPDX-License-Identifier: MIT */
/*
 * clock_guest_test.c - KVM_[GS]ET_CLOCK_GUEST of the kernel's own, under each number that it was proposed with, on a KVM in
 * virtual time: how it is found, that steer mode then needs no aiming, and that a kernel without it, or with something else under
 * its numbers, is aimed as ever.
 */
#include "../fake/kvm.h"

#include <pvclock/kvm.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* Not by the library's own definitions: what the two series had in their headers. */
#define NUMBER(direction, nr) ((unsigned long)(direction) << 30 | 32ul << 16 | 0xaeul << 8 | (nr))
#define GET 2
#define SET 1

static const struct {
	unsigned long get, set;
} revisions[] = {
	{ NUMBER(GET, 0xd6), NUMBER(SET, 0xd5) }, /* 2024 */
	{ NUMBER(GET, 0xd7), NUMBER(SET, 0xd6) }, /* 2026 */
};

#define REVISIONS (sizeof(revisions) / sizeof(revisions[0]))

struct machine {
	struct fake_kvm fake;
	struct pvclock_vm *vm;
	struct pvclock_vcpu *vcpu;
	struct pvclock_kvm *kvm;
	struct pvclock_line first; /* what the guest read at first */
	_Alignas(64) uint8_t memory[4096];
};

static void publish(struct machine *m)
{
	struct pvclock_line line = fake_kvm_page(&m->fake, 0);

	pvclock_page_write(m->memory + 64, &line, PVCLOCK_TSC_STABLE);
}

static void machine_init(struct machine *m, uint64_t seed, size_t revision)
{
	struct pvclock_kvm_config config = { .os = &m->fake.os, .vm_fd = 3, .mode = PVCLOCK_MODE_STEER };

	memset(m, 0, sizeof(*m));
	fake_kvm_init(&m->fake, seed);
	m->fake.get_clock_guest = revisions[revision].get;
	m->fake.set_clock_guest = revisions[revision].set;
	m->fake.page = m->memory + 64;
	m->fake.system_time_msr = 64 + 1;
	m->fake.offset = fake_random(&m->fake) >> 8;
	m->fake.anchor_tsc = m->fake.tsc;
	publish(m);
	m->first = fake_kvm_page(&m->fake, 0);
	assert_int_equal(pvclock_vm_create(&m->fake.os, &m->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, sizeof(m->memory), m->memory, 0), 0);
	assert_int_equal(pvclock_vcpu_create(m->vm, 0, &m->vcpu), 0);
	config.vm = m->vm;
	assert_int_equal(pvclock_kvm_attach(&config, &m->kvm, NULL), 0);
	assert_int_equal(pvclock_kvm_add_vcpu(m->kvm, m->vcpu, FAKE_VCPU_FD), 0);
}

static void machine_clear(struct machine *m)
{
	pvclock_kvm_remove_vcpu(m->kvm, m->vcpu);
	pvclock_kvm_detach(m->kvm);
	pvclock_vcpu_destroy(m->vcpu);
	pvclock_vm_destroy(m->vm);
}

/* The kernel's clock is somewhere else: what a VMM's KVM_SET_CLOCK does. */
static void disturb(struct machine *m)
{
	m->fake.anchor_tsc = m->fake.tsc;
	m->fake.anchor_ns += 1 + fake_random(&m->fake) % 1000000;
}

/* A pause in which the clock is disturbed, or not. How the guest's clock then stands to what it read at first. */
static void pause_once(struct machine *m, bool disturbed, struct pvclock_correction *correction)
{
	struct pvclock_reason reason;

	m->fake.set_clock_calls = m->fake.set_clock_guest_calls = 0;
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	m->fake.tsc += fake_random(&m->fake) % 10000000000ull;
	if (disturbed)
		disturb(m);
	assert_int_equal(pvclock_kvm_resume(m->kvm, correction, &reason), 0);
	publish(m); /* the entry */
	for (int i = 0; i < 50; i++) {
		struct pvclock_line now = fake_kvm_page(&m->fake, 0);
		uint64_t tick = now.tsc + fake_random(&m->fake) % 100000000000;
		int64_t shift = (int64_t)(pvclock_line_ns(&now, tick) - pvclock_line_ns(&m->first, tick));

		assert_in_range(shift, 0, disturbed);
		assert_true(shift <= correction->residual_ns);
	}
}

/* Whatever it is numbered and however it rounds: no aiming, within [0, 1] ns of the first line, and nothing adds up. */
static void p1_the_kernels_own_way(void **state)
{
	unsigned int sets = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 40; seed++) {
		struct pvclock_correction correction;
		struct machine m;

		machine_init(&m, seed, seed % REVISIONS);
		m.fake.clock_guest_off = (int64_t)(seed / REVISIONS % 2); /* up */
		for (int round = 0; round < 100; round++) {
			pause_once(&m, true, &correction);
			assert_int_equal(m.fake.set_clock_calls, 0);
			assert_in_range(m.fake.set_clock_guest_calls, 1, 60);
			assert_int_equal(correction.tries, m.fake.set_clock_guest_calls);
			sets += m.fake.set_clock_guest_calls;
		}
		machine_clear(&m);
	}
	assert_in_range(sets, 40 * 100 + 1, 4 * 40 * 100); /* a tick or two that do not do; one more where it rounds up */
}

/* Nothing moved: nothing is set, and the clock is the same function to the bit. */
static void p1_a_pause_leaves_it_alone(void **state)
{
	(void)state;
	for (size_t revision = 0; revision < REVISIONS; revision++) {
		struct pvclock_correction correction;
		struct machine m;

		machine_init(&m, 5, revision);
		for (int round = 0; round < 10; round++) {
			pause_once(&m, false, &correction);
			assert_true(correction.residual_ns == 0 && correction.tries == 0);
			assert_int_equal(m.fake.set_clock_calls + m.fake.set_clock_guest_calls, 0);
		}
		machine_clear(&m);
	}
}

/* Each is a kernel that must be aimed as ever, and is. */
static void p1_what_is_not_believed(void **state)
{
	static const struct {
		const char *what;
		int get_error, set_error;
		int64_t lie;
		bool none, stays, other_set;
		bool is_set; /* the SET may be tried */
	} kernels[] = {
		{ "none", .none = true },
		{ "a GET that fails", .get_error = -EFAULT },
		{ "a later revision's: no master clock", .get_error = -ENODATA },
		{ "a GET that says nothing", .get_error = 1 },
		{ "another function", .lie = 2 },
		{ "another function", .lie = -2 },
		{ "any function", .lie = 0x123456789abcdef },
		{ "a SET that fails", .set_error = -EINVAL, .is_set = true },
		{ "a SET that finds another rate", .set_error = -ERANGE, .is_set = true },
		{ "a SET that finds no master clock", .set_error = -ENODATA, .is_set = true },
		{ "a SET that does nothing", .set_error = 1, .is_set = true },
		{ "no SET of its revision", .other_set = true },
	};

	(void)state;
	for (size_t k = 0; k < sizeof(kernels) / sizeof(kernels[0]) * REVISIONS; k++) {
		struct pvclock_correction correction;
		struct machine m;
		size_t kernel = k / REVISIONS, revision = k % REVISIONS;

		machine_init(&m, k, revision);
		m.fake.get_clock_guest_error = kernels[kernel].get_error;
		m.fake.set_clock_guest_error = kernels[kernel].set_error;
		m.fake.clock_guest_lie = kernels[kernel].lie;
		if (kernels[kernel].none)
			m.fake.get_clock_guest = 0;
		if (kernels[kernel].other_set)
			m.fake.set_clock_guest = revisions[!revision].set;
		for (int round = 0; round < 20; round++) {
			pause_once(&m, true, &correction);
			if (m.fake.set_clock_calls == 0 || !m.fake.set_clock_guest_calls == kernels[kernel].is_set)
				fail_msg("%s: %u and %u", kernels[kernel].what, m.fake.set_clock_calls,
					 m.fake.set_clock_guest_calls);
		}
		machine_clear(&m);
	}
}

/* The page is the judge: one that still says something else is not the kernel's word. */
static void p1_a_page_that_stays(void **state)
{
	struct pvclock_correction correction;
	struct machine m;

	(void)state;
	machine_init(&m, 8, 0);
	m.fake.page_stays = true;
	for (int round = 0; round < 20; round++) {
		pause_once(&m, true, &correction);
		assert_true(m.fake.set_clock_calls > 0);
	}
	/* without a page there is nothing to judge by */
	m.fake.page_stays = false;
	m.fake.system_time_msr = 0;
	pause_once(&m, true, &correction);
	assert_int_equal(m.fake.set_clock_guest_calls, 0);
	machine_clear(&m);
}

/* The library's own pair goes through the kernel's. */
static void p1_a_clock_is_set_as_a_structure(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 40; seed++) {
		struct machine a, b;
		struct pvclock_page clock;
		struct pvclock_reason reason;
		struct pvclock_correction correction;

		machine_init(&a, seed, seed % REVISIONS);
		machine_init(&b, seed + 1000, seed % REVISIONS);
		b.fake.tsc = b.fake.anchor_tsc = a.fake.tsc + 1000000;
		assert_int_equal(pvclock_kvm_set_tsc_offset(b.kvm, b.vcpu, a.fake.offset, NULL), 0);
		publish(&b);
		assert_int_equal(pvclock_kvm_pause(a.kvm), 0);
		assert_int_equal(pvclock_kvm_pause(b.kvm), 0);
		assert_int_equal(pvclock_kvm_get_clock_guest(a.kvm, a.vcpu, &clock, &reason), 0);
		assert_int_equal(pvclock_kvm_set_clock_guest(b.kvm, b.vcpu, &clock, &reason), 0);
		assert_int_equal(pvclock_kvm_resume(b.kvm, &correction, &reason), 0);
		assert_int_equal(b.fake.set_clock_calls, 0);
		b.first = a.first;
		pause_once(&b, true, &correction);
		machine_clear(&a);
		machine_clear(&b);
	}
}

/* KVM_GET_CLOCK knows no scaled TSC, so that such a clock cannot be aimed: the kernel's own way keeps it. */
static void p1_p5_a_scaled_tsc(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct machine from, to;
		struct pvclock_slope host;
		struct pvclock_record record;
		struct pvclock_reason reason;
		struct pvclock_plan plan;
		struct pvclock_correction correction;

		machine_init(&from, seed, seed % REVISIONS);
		pvclock_slope_from_khz(from.fake.khz, &host);
		assert_int_equal(pvclock_kvm_start(from.kvm, &host), 0);
		assert_int_equal(pvclock_kvm_pause(from.kvm), 0);
		assert_int_equal(pvclock_kvm_save(from.kvm, &record), 0);
		machine_init(&to, seed + 100, seed % REVISIONS);
		to.fake.khz = 2000000;
		to.fake.tsc_control = true;
		to.fake.anchor_tsc = to.fake.tsc;
		pvclock_slope_from_khz(to.fake.khz, &host);
		assert_int_equal(pvclock_kvm_restore(to.kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, &host, &plan, &reason), 0);
		assert_true(plan.precision == PVCLOCK_EXACT && plan.tsc_khz == from.fake.khz &&
			    to.fake.vcpu_khz[0] == plan.tsc_khz);
		assert_int_equal(pvclock_kvm_settle(to.kvm, to.vcpu), 0);
		to.fake.set_clock_calls = 0;
		assert_int_equal(pvclock_kvm_resume(to.kvm, &correction, &reason), 0);
		assert_true(to.fake.set_clock_calls == 0 && to.fake.set_clock_guest_calls > 0);
		publish(&to);
		/* by the guest's TSC: it is the function that it was, and stays it */
		to.first = plan.at.old;
		for (int round = 0; round < 20; round++)
			pause_once(&to, true, &correction);
		/* without the ioctl it is refused */
		machine_clear(&to);
		machine_init(&to, seed + 100, seed % REVISIONS);
		to.fake.khz = 2000000;
		to.fake.tsc_control = true;
		to.fake.get_clock_guest = 0;
		assert_int_equal(pvclock_kvm_restore(to.kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, &host, &plan, &reason), -ENOTSUP);
		assert_int_equal(reason.code, PVCLOCK_REASON_NO_LINE);
		pvclock_record_clear(&record);
		machine_clear(&from);
		machine_clear(&to);
	}
}

/* A write in vain would have KVM take a new snapshot after its clock was aimed: once it is known, there is none. */
static void p1_offsets_that_are_ignored_are_not_written_again(void **state)
{
	struct pvclock_policy policy = pvclock_policy_default();
	struct pvclock_slope host;
	struct machine m;

	(void)state;
	machine_init(&m, 21, 0);
	m.fake.get_clock_guest = 0;
	pvclock_slope_from_khz(m.fake.khz, &host);
	assert_int_equal(pvclock_kvm_start(m.kvm, &host), 0);
	policy.on[PVCLOCK_BLACKOUT_PAUSE] = PVCLOCK_FREEZE;
	pvclock_vm_set_policy(m.vm, &policy);
	m.fake.offset_ignored = true;
	for (int round = 0; round < 100; round++) {
		struct pvclock_correction correction;
		struct pvclock_snapshot page;
		struct pvclock_reason reason;
		struct pvclock_line line;

		assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
		m.fake.tsc += 1000000 + fake_random(&m.fake) % 1000000;
		assert_int_equal(pvclock_kvm_resume(m.kvm, &correction, &reason), 0);
		assert_true(correction.moved_ticks > 1000000);
		assert_int_equal(m.fake.offset_writes, 1);
		assert_int_equal(pvclock_vcpu_get_line(m.vcpu, &line), 0);
		fake_kvm_enter(&m.fake);
		publish(&m);
		pvclock_page_read(m.memory + 64, &page);
		for (int i = 0; round > 0 && i < 50; i++) {
			uint64_t t = m.fake.tsc + m.fake.offset + fake_random(&m.fake) % 1000000;

			assert_in_range((int64_t)(pvclock_line_ns(&page.line, t) - pvclock_line_ns(&line, t)), 0, 1);
		}
	}
	machine_clear(&m);
}

/* On a VM without a page: by KVM_GET_CLOCK. */
static void it_is_probed(void **state)
{
	(void)state;
	for (size_t revision = 0; revision < REVISIONS; revision++) {
		struct pvclock_kvm_capabilities can;
		struct machine m;

		machine_init(&m, revision, revision);
		assert_int_equal(pvclock_kvm_probe(&m.fake.os, 1, &can), 0);
		assert_true(can.clock_guest && can.master_clock);
		m.fake.clock_guest_lie = 2;
		assert_int_equal(pvclock_kvm_probe(&m.fake.os, 1, &can), 0);
		assert_false(can.clock_guest);
		m.fake.clock_guest_lie = 0;
		m.fake.get_clock_guest_error = -ENODATA;
		assert_int_equal(pvclock_kvm_probe(&m.fake.os, 1, &can), 0);
		assert_false(can.clock_guest);
		m.fake.get_clock_guest_error = 0;
		m.fake.get_clock_guest = 0;
		assert_int_equal(pvclock_kvm_probe(&m.fake.os, 1, &can), 0);
		assert_false(can.clock_guest);
		assert_int_equal(m.fake.set_clock_guest_calls, 0); /* looked at, not touched */
		machine_clear(&m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_the_kernels_own_way),
		cmocka_unit_test(p1_a_pause_leaves_it_alone),
		cmocka_unit_test(p1_what_is_not_believed),
		cmocka_unit_test(p1_a_page_that_stays),
		cmocka_unit_test(p1_a_clock_is_set_as_a_structure),
		cmocka_unit_test(p1_p5_a_scaled_tsc),
		cmocka_unit_test(p1_offsets_that_are_ignored_are_not_written_again),
		cmocka_unit_test(it_is_probed),
	};

	return cmocka_run_group_tests_name("clock_guest", tests, NULL, NULL);
}
