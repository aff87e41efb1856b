/* SPDX-License-Identifier: MIT */
/* steer_test.c - the kernel's clock is aimed, to 1 ns, or with the reason why not; and its page is not the engine's. */
#include "machine.h"

/* 1000 pauses, each of another length: 1 ns at most at every single tick looked at, and no sum. */
static void p1_steer_keeps_within_1_ns(void **state)
{
	struct machine m;
	struct pvclock_snapshot first, now;
	int round, worst_tries = 0;

	(void)state;
	machine_init(&m, 11, PVCLOCK_MODE_STEER);
	m.fake.offset = 0x123456789;
	m.fake.anchor_tsc = m.fake.tsc;
	kernel_publishes(&m);
	pvclock_page_read(m.memory + 64, &first);
	for (round = 0; round < 1000; round++) {
		struct pvclock_correction correction;
		struct pvclock_reason reason;
		int i;

		assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
		m.fake.tsc += fake_random(&m.fake) % 10000000000ull;
		assert_int_equal(pvclock_kvm_resume(m.kvm, &correction, &reason), 0);
		assert_in_range(correction.residual_ns, 0, 1);
		if ((int)correction.tries > worst_tries)
			worst_tries = (int)correction.tries;
		kernel_publishes(&m);
		pvclock_page_read(m.memory + 64, &now);
		for (i = 0; i < 50; i++) {
			uint64_t t = m.fake.tsc + m.fake.offset + fake_random(&m.fake) % 1000000;
			int64_t shift = (int64_t)(pvclock_line_ns(&now.line, t) - pvclock_line_ns(&first.line, t));

			assert_in_range(shift, 0, 1); /* against the first line ever: nothing adds up, and never less */
		}
	}
	assert_true(worst_tries > 1); /* the loop had something to do */
	assert_int_equal(m.fake.ctrl_calls, 1000);
	machine_clear(&m);
}

/* Stopped again before a vCPU entered: its page still says what the kernel's clock was before it was aimed. */
static void p1_steer_knows_a_stale_page(void **state)
{
	struct pvclock_snapshot first, now;
	struct machine m;

	(void)state;
	machine_init(&m, 11, PVCLOCK_MODE_STEER);
	m.fake.anchor_tsc = m.fake.tsc;
	kernel_publishes(&m);
	pvclock_page_read(m.memory + 64, &first);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
		m.fake.tsc += 2596142;
		assert_int_equal(pvclock_kvm_resume(m.kvm, NULL, NULL), 0);
		now = first;
		now.line.ns -= 833;
		pvclock_page_write((struct pvclock_page *)(void *)(m.memory + 64), &now.line, PVCLOCK_TSC_STABLE);
	}
	kernel_publishes(&m);
	pvclock_page_read(m.memory + 64, &now);
	for (int i = 0; i < 50; i++) {
		uint64_t t = m.fake.tsc + m.fake.offset + fake_random(&m.fake) % 1000000;

		assert_in_range((int64_t)(pvclock_line_ns(&now.line, t) - pvclock_line_ns(&first.line, t)), 0, 1);
	}
	machine_clear(&m);
}

/* The control: without the loop, the same kernel moves the clock. */
static void p1_stock_moves_the_clock(void **state)
{
	struct machine m;
	struct pvclock_snapshot first, now;

	(void)state;
	machine_init(&m, 11, PVCLOCK_MODE_STOCK);
	m.fake.anchor_tsc = m.fake.tsc;
	kernel_publishes(&m);
	pvclock_page_read(m.memory + 64, &first);
	assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
	m.fake.tsc += 2596142000ull; /* 1 s */
	assert_int_equal(pvclock_kvm_resume(m.kvm, NULL, NULL), 0);
	kernel_publishes(&m);
	pvclock_page_read(m.memory + 64, &now);
	assert_in_range(pvclock_line_ns(&first.line, m.fake.tsc) - pvclock_line_ns(&now.line, m.fake.tsc), 1000000000, 1000010000);
	machine_clear(&m);
}

static void p4_steer_says_when_there_is_no_master_clock(void **state)
{
	struct machine m;
	struct pvclock_reason reason;
	struct pvclock_correction correction;

	(void)state;
	machine_init(&m, 5, PVCLOCK_MODE_STEER);
	m.fake.anchor_tsc = m.fake.tsc;
	kernel_publishes(&m);
	m.fake.master_clock = false;
	assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
	assert_int_equal(pvclock_kvm_resume(m.kvm, &correction, &reason), -ENOTSUP);
	assert_int_equal(reason.code, PVCLOCK_REASON_NO_MASTER_CLOCK);
	machine_clear(&m);
}

static void steer_gives_up_on_a_wild_kernel(void **state)
{
	struct machine m;
	struct pvclock_reason reason;
	struct pvclock_correction correction;

	(void)state;
	machine_init(&m, 5, PVCLOCK_MODE_STEER);
	m.fake.jitter_ticks = 10000000;
	m.fake.anchor_tsc = m.fake.tsc;
	kernel_publishes(&m);
	assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
	assert_int_equal(pvclock_kvm_resume(m.kvm, &correction, &reason), -ERANGE);
	assert_int_equal(reason.code, PVCLOCK_REASON_STEER_RESIDUAL);
	assert_true(correction.tries <= 16384 && (correction.residual_ns < 0 || correction.residual_ns > 1));
	machine_clear(&m);
}

/* The kernel holds the registrations in steer mode. A guest that dropped its page must not find it written again. */
static void p10_steer_never_writes_a_page(void **state)
{
	struct machine m;
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_tsc_transform tsc = { 0 };
	size_t i;

	(void)state;
	machine_init(&m, 5, PVCLOCK_MODE_STEER);
	m.fake.anchor_tsc = m.fake.tsc;
	kernel_publishes(&m);
	assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
	assert_int_equal(pvclock_kvm_save(m.kvm, &record), 0);
	assert_int_equal(pvclock_kvm_restore(m.kvm, &record, PVCLOCK_BLACKOUT_LIVE_UPDATE, NULL, NULL, &reason), 0);
	assert_int_equal(pvclock_kvm_resume(m.kvm, NULL, &reason), 0);
	m.fake.system_time_msr = 0; /* kexec: only the kernel sees it */
	memset(m.memory, 0xa5, sizeof(m.memory));
	pvclock_vcpu_set_tsc(m.vcpu, &tsc, false);
	assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
	assert_int_equal(pvclock_kvm_resume(m.kvm, NULL, &reason), 0);
	for (i = 0; i < sizeof(m.memory); i++)
		assert_int_equal(m.memory[i], 0xa5);
	pvclock_record_clear(&record);
	machine_clear(&m);
}

/* The page lies in the guest's hands: a nonsense line in it spoils neither the record nor the kernel's clock. */
static void p10_steer_does_not_believe_any_page(void **state)
{
	static const struct pvclock_line lies[] = {
		{ .tsc = 0, .ns = 0, .mul = 1, .shift = -31 },
		{ .tsc = 0, .ns = UINT64_MAX - 5, .mul = 3308730644u, .shift = -1 },
		{ .tsc = 0, .ns = 1ull << 62, .mul = UINT32_MAX, .shift = 31 },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(lies) / sizeof(*lies); i++) {
		struct machine m;
		struct pvclock_record record;
		struct pvclock_reason reason;
		uint8_t bytes[512];
		uint64_t before;

		machine_init(&m, 5, PVCLOCK_MODE_STEER);
		m.fake.anchor_tsc = m.fake.tsc;
		kernel_publishes(&m);
		pvclock_page_write(m.memory + 64, &lies[i], PVCLOCK_TSC_STABLE);
		assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
		assert_int_equal(pvclock_kvm_save(m.kvm, &record), 0);
		assert_true(pvclock_record_encode(&record, bytes, sizeof(bytes), &reason) > 0);
		before = fake_kvm_clock(&m.fake, m.fake.tsc + 1000000);
		assert_int_equal(pvclock_kvm_resume(m.kvm, NULL, &reason), 0);
		assert_in_range(fake_kvm_clock(&m.fake, m.fake.tsc + 1000000) - before, 0, 10000000);
		pvclock_record_clear(&record);
		machine_clear(&m);
	}
}

/* A record with the host's own slope, restored where the kernel publishes: continuous, and the other slope is told. */
static void p3_another_slope_is_declared(void **state)
{
	struct machine a, b;
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_slope host;
	struct pvclock_plan plan;

	(void)state;
	machine_init(&a, 5, PVCLOCK_MODE_OWN);
	pvclock_slope_from_kernel(6462365, 24, &host);
	pvclock_kvm_start(a.kvm, &host);
	pvclock_kvm_pause(a.kvm);
	pvclock_kvm_save(a.kvm, &record);
	machine_init(&b, 6, PVCLOCK_MODE_STEER);
	b.fake.tsc = a.fake.tsc;
	assert_int_equal(pvclock_kvm_restore(b.kvm, &record, PVCLOCK_BLACKOUT_LIVE_UPDATE, NULL, &plan, &reason), 0);
	assert_int_equal(plan.precision, PVCLOCK_CONTINUED);
	assert_int_not_equal(plan.at.rate_difference, 0);
	assert_int_equal(pvclock_kvm_resume(b.kvm, NULL, &reason), 0);
	pvclock_record_clear(&record);
	machine_clear(&a);
	machine_clear(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_steer_keeps_within_1_ns),
		cmocka_unit_test(p1_steer_knows_a_stale_page),
		cmocka_unit_test(p1_stock_moves_the_clock),
		cmocka_unit_test(p4_steer_says_when_there_is_no_master_clock),
		cmocka_unit_test(steer_gives_up_on_a_wild_kernel),
		cmocka_unit_test(p10_steer_never_writes_a_page),
		cmocka_unit_test(p10_steer_does_not_believe_any_page),
		cmocka_unit_test(p3_another_slope_is_declared),
	};

	return cmocka_run_group_tests_name("steer", tests, NULL, NULL);
}
