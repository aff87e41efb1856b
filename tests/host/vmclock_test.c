/* SPDX-License-Identifier: MIT */
/*
 * vmclock_test.c - what VMClock's page (docs/vmclock.md) says is true, within the error that it says; and it and the clock's page
 * are one state (P12).
 */
#include "vmclock_machine.h"

/* --- what it says -------------------------------------------------------------------------------- */

static void says_the_hosts_time_and_its_error(void **state)
{
	static const uint64_t later[] = { 0, 1, MS, NS, 3600 * NS };
	struct machine *m = started(5);
	struct pvclock_vmclock clock = read_page(m);

	(void)state;
	assert_int_equal(clock.time_type, PVCLOCK_VMCLOCK_TAI);
	assert_int_equal(clock.tai_offset, TAI);
	assert_int_equal(clock.flags, PVCLOCK_VMCLOCK_TAI_OFFSET_VALID | PVCLOCK_VMCLOCK_PERIOD_MAXERROR_VALID |
			 PVCLOCK_VMCLOCK_TIME_ESTERROR_VALID | PVCLOCK_VMCLOCK_TIME_MAXERROR_VALID |
			 PVCLOCK_VMCLOCK_VM_GEN_COUNTER_PRESENT);
	assert_int_equal(clock.leap, PVCLOCK_VMCLOCK_LEAP_NONE);
	assert_int_equal(clock.smearing_hint, 0);
	/* the bracket is 70 ticks, 27 ns; to its middle, and what is rounded: not more than 20 ns, and not less than its half */
	assert_in_range(clock.max_error_ns, 1500000 + 14, 1500000 + 20);
	assert_in_range(clock.est_error_ns, 20000 + 14, 20000 + 20);
	for (size_t i = 0; i < sizeof(later) / sizeof(*later); i++) {
		uint64_t tsc = clock.counter + (uint64_t)((unsigned __int128)later[i] * m->fake.khz / 1000000), error;
		uint64_t ns = page_ns(m, &clock, tsc, &error);

		/*
		 * the fake reads its clock 5 ticks beside the bracket's middle, 2 ns; and this host's kHz are no slope that 32 bits
		 * of a line hold
		 */
		assert_in_range(apart(ns, fake_kvm_realtime(&m->fake, tsc) + TAI * NS), 0, 4 + (later[i] >> 32));
		/* 500 ppm more of it each second */
		assert_in_range(error, clock.max_error_ns + later[i] / 2000, clock.max_error_ns + later[i] / 2000 + 2);
	}
	free_machine(m);
}

/* Of a guest whose TSC runs at another rate than its host's. */
static void a_scaled_counter_has_the_time_too(void **state)
{
	static const uint32_t khz[] = { 1000000, 2500001, 2600000, 4999999 };

	(void)state;
	for (size_t i = 0; i < sizeof(khz) / sizeof(*khz); i++) {
		struct machine *m = new_machine(70 + i);
		struct pvclock_tsc_transform tsc;
		struct pvclock_vmclock clock;

		m->fake.tsc_control = true;
		m->fake.vcpu_khz[0] = khz[i];
		start(m);
		clock = read_page(m);
		assert_int_equal(clock.status, PVCLOCK_VMCLOCK_SYNCHRONIZED);
		pvclock_vcpu_get_tsc(m->vcpu, &tsc);
		assert_int_equal(tsc.frac_bits, 32);
		for (int n = 0; n < 1000; n++) {
			uint64_t host = m->fake.tsc + (splitmix64(&seed) >> (20 + splitmix64(&seed) % 40));
			uint64_t truth = fake_kvm_realtime(&m->fake, host) + TAI * NS;
			uint64_t later = truth - fake_kvm_realtime(&m->fake, m->fake.tsc) - TAI * NS;
			struct pvclock_vmclock_time time;

			pvclock_vmclock_at(&clock, pvclock_tsc_to_guest(&tsc, (struct pvclock_host_tsc){ host }).ticks, &time);
			/* a guest tick at each end; a ratio of 32 bits, and a line's slope of as many */
			assert_in_range(apart(pvclock_vmclock_ns(&time), truth), 0, 4 + 2 + 2 * (later >> 31));
		}
		free_machine(m);
	}
}

static void status_is_the_hosts(void **state)
{
	static const struct {
		int state, status;
		uint8_t leap;
	} cases[] = {
		{ TIME_OK, 0, PVCLOCK_VMCLOCK_LEAP_NONE }, { TIME_INS, STA_INS, PVCLOCK_VMCLOCK_LEAP_PRE_POS },
		{ TIME_DEL, STA_DEL, PVCLOCK_VMCLOCK_LEAP_PRE_NEG }, { TIME_OOP, STA_INS, PVCLOCK_VMCLOCK_LEAP_POS },
		{ TIME_WAIT, STA_INS, PVCLOCK_VMCLOCK_LEAP_POST_POS }, { TIME_WAIT, STA_DEL, PVCLOCK_VMCLOCK_LEAP_POST_NEG },
	};
	struct machine *m = started(6);
	struct pvclock_vmclock clock, last;
	uint64_t error;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		m->fake.ntp_state = cases[i].state;
		m->fake.ntp_status = cases[i].status;
		clock = update(m);
		assert_int_equal(clock.status, PVCLOCK_VMCLOCK_SYNCHRONIZED);
		assert_int_equal(clock.leap, cases[i].leap);
	}
	/*
	 * it has lost its reference: what was said goes on, and so does its error; where the host's clock goes is nobody's business
	 */
	last = clock;
	m->fake.ntp_state = TIME_ERROR;
	m->fake.realtime_ns += 3600 * (int64_t)NS;
	pass_ns(m, 10 * NS);
	for (int i = 0; i < 2; i++) {
		clock = update(m);
		assert_int_equal(clock.status, PVCLOCK_VMCLOCK_FREERUNNING);
		assert_int_equal(page_ns(m, &clock, m->fake.tsc, &error), page_ns(m, &last, m->fake.tsc, NULL));
		assert_true(error > last.max_error_ns + 10 * NS / 2000);
	}
	/* nobody says */
	m->fake.ntp_state = -ENOSYS;
	assert_int_equal(update(m).status, PVCLOCK_VMCLOCK_UNRELIABLE); /* no TAI without it */
	free_machine(m);

	/* a host that never had one */
	m = new_machine(7);
	m->fake.ntp_state = TIME_ERROR;
	m->fake.tai_offset = 0;
	start(m);
	clock = read_page(m);
	assert_int_equal(clock.status, PVCLOCK_VMCLOCK_INITIALIZING);
	assert_int_equal(clock.time_type, PVCLOCK_VMCLOCK_UTC);
	assert_int_equal(clock.flags, PVCLOCK_VMCLOCK_PERIOD_MAXERROR_VALID | PVCLOCK_VMCLOCK_VM_GEN_COUNTER_PRESENT);
	assert_in_range(apart(page_ns(m, &clock, m->fake.tsc, &error), fake_kvm_realtime(&m->fake, m->fake.tsc)), 0, 20);
	assert_int_equal(error, PVCLOCK_VMCLOCK_ERROR_UNKNOWN);
	/* its kind of time is the guest's for good; what it learns of TAI it tells */
	synchronize(&m->fake);
	clock = update(m);
	assert_int_equal(clock.status, PVCLOCK_VMCLOCK_SYNCHRONIZED);
	assert_int_equal(clock.time_type, PVCLOCK_VMCLOCK_UTC);
	assert_true(clock.flags & PVCLOCK_VMCLOCK_TAI_OFFSET_VALID);
	assert_int_equal(clock.tai_offset, TAI);
	m->fake.ntp_state = -ENOSYS;
	assert_int_equal(update(m).status, PVCLOCK_VMCLOCK_UNKNOWN);
	free_machine(m);

	m = new_machine(8); /* wanted */
	start(m);
	assert_int_equal(pvclock_vm_set_vmclock(m->vm, (struct pvclock_gpa){ 0x900 }, SIZE, PVCLOCK_VMCLOCK_WANT_UTC), 0);
	assert_int_equal(pvclock_vm_update_vmclock(m->vm, NULL), 0);
	assert_int_equal(pvclock_vmclock_read(m->memory + 0x900, &clock), PVCLOCK_READ_OK);
	assert_int_equal(clock.time_type, PVCLOCK_VMCLOCK_UTC);
	free_machine(m);
}

/* Across a leap second TAI goes on, and its offset changes with it; and the page says when it must be told. */
static void a_leap_second_is_in_the_offset(void **state)
{
	struct machine *m = started(9);
	uint64_t midnight = (1700000000ull / 86400 + 1) * 86400;
	struct pvclock_vmclock_update said;
	struct pvclock_vmclock before, after;

	(void)state;
	m->fake.realtime_ns += (int64_t)(midnight * NS - 500 * MS) - (int64_t)fake_kvm_realtime(&m->fake, m->fake.tsc);
	m->fake.ntp_state = TIME_INS;
	m->fake.leap_tsc = m->fake.tsc + (uint64_t)m->fake.khz * 500;
	assert_int_equal(pvclock_vm_update_vmclock(m->vm, &said), 0);
	assert_in_range(said.next_ns, 499 * MS, 500 * MS);
	before = read_page(m);
	assert_int_equal(before.leap, PVCLOCK_VMCLOCK_LEAP_PRE_POS);
	pass_ns(m, said.next_ns + 2000);
	m->fake.ntp_state = TIME_OOP;
	assert_int_equal(pvclock_vm_update_vmclock(m->vm, &said), 0);
	after = read_page(m);
	assert_int_equal(after.leap, PVCLOCK_VMCLOCK_LEAP_POS);
	assert_int_equal(after.tai_offset, TAI + 1);
	assert_int_equal(said.stepped_ns, 0);
	assert_in_range(apart(page_ns(m, &before, m->fake.tsc, NULL), page_ns(m, &after, m->fake.tsc, NULL)), 0, 40);
	assert_in_range(said.next_ns, 990 * MS, NS);
	m->fake.ntp_state = TIME_INS; /* of a day later: no hurry */
	assert_int_equal(pvclock_vm_update_vmclock(m->vm, &said), 0);
	assert_in_range(said.next_ns, 1, NS);
	free_machine(m);
}

static void an_unstable_counter_is_none(void **state)
{
	struct machine *m = started(10);
	struct pvclock_reason reason = { .code = PVCLOCK_REASON_SLOPE_MISFIT };
	struct pvclock_slope host;
	struct pvclock_vmclock clock;

	(void)state;
	pvclock_vm_declare_unstable(m->vm, &reason);
	clock = read_page(m); /* at once */
	assert_int_equal(clock.status, PVCLOCK_VMCLOCK_UNRELIABLE);
	assert_int_equal(clock.counter_id, PVCLOCK_VMCLOCK_COUNTER_TSC); /* constant: who found it once looks at the status */
	assert_int_equal(clock.flags & PVCLOCK_VMCLOCK_TIME_MAXERROR_VALID, 0);
	pvclock_vm_declare_unstable(m->vm, NULL);
	assert_int_equal(read_page(m).status, PVCLOCK_VMCLOCK_SYNCHRONIZED);
	free_machine(m);

	m = new_machine(11);
	pvclock_vcpu_set_tsc(m->vcpu, &(struct pvclock_tsc_transform){ 0 }, true);
	assert_int_equal(pvclock_vm_set_vmclock(m->vm, (struct pvclock_gpa){ PLACE }, SIZE, 0), 0);
	pvclock_slope_from_khz(m->fake.khz, &host);
	assert_int_equal(pvclock_vm_start(m->vm, (struct pvclock_host_tsc){ m->fake.tsc }, 0, &host), 0);
	clock = read_page(m);
	assert_int_equal(clock.counter_id, PVCLOCK_VMCLOCK_COUNTER_INVALID);
	assert_int_equal(clock.status, PVCLOCK_VMCLOCK_UNRELIABLE);
	free_machine(m);
}

/* --- one state ------------------------------------------------------------------------------------- */

/*
 * Between any two ticks of one page's life VMClock's time is (1 + f) times system time, to the ns that its two floors are; and, as
 * the page says it, no further apart than its error. f: what the host's discipline makes of a second.
 */
static void p12_counts_the_lines_ns_as_the_host_disciplines_them(void **state)
{
	static const struct {
		long freq, tick;
	} cases[] = { { 0, 10000 }, { 2457600, 10000 }, { -32768000, 10000 }, { 32768000, 10000 }, { 1, 10000 }, { -77777, 10833 },
		      { 5, 9000 }, { 0, 0 } };

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct machine *m = new_machine(12 + i);
		struct pvclock_vmclock_time from;
		struct pvclock_snapshot page;
		struct pvclock_vmclock clock;
		double f = (double)((cases[i].tick ? cases[i].tick : 10000) - 10000) / 10000 + (double)cases[i].freq / 65536 / 1e6;

		m->fake.khz = 1000000 + (uint32_t)(splitmix64(&seed) % 4000000);
		m->fake.tsc_control = i & 1;
		m->fake.vcpu_khz[0] = i & 1 ? 3000000 : 0;
		m->fake.ntp_freq = cases[i].freq;
		m->fake.ntp_tick = cases[i].tick;
		start(m);
		clock = read_page(m);
		assert_int_equal(pvclock_page_read(m->memory + CLOCK_PAGE, &page), PVCLOCK_READ_OK);
		pvclock_vmclock_at(&clock, clock.counter, &from);
		for (int n = 0; n < 20000; n++) {
			uint64_t tick = clock.counter + (splitmix64(&seed) >> (14 + splitmix64(&seed) % 40));
			uint64_t system = pvclock_line_ns(&page.line, tick) - pvclock_line_ns(&page.line, clock.counter);
			struct pvclock_vmclock_time time;
			long double expect = (long double)system * (1 + (long double)f), error;
			uint64_t passed;

			pvclock_vmclock_at(&clock, tick, &time);
			passed = pvclock_vmclock_ns(&time) - pvclock_vmclock_ns(&from);
			error = (long double)passed - expect;
			/* 64 bits of a period, and the doubles of this test: 2^-60 of what passed */
			if (error > 3 + (long double)passed / 1e15 || error < -3 - (long double)passed / 1e15)
				fail_msg("freq %ld tick %ld: %llu ns, not %.3Lf", cases[i].freq, cases[i].tick,
					 (unsigned long long)passed, expect);
			if (apart(passed, system) > time.max_error_ns - clock.max_error_ns + 2)
				fail_msg("freq %ld tick %ld: the pages part by more than they say", cases[i].freq, cases[i].tick);
		}
		free_machine(m);
	}
}

/*
 * A host that keeps its bound, and moves its clock towards the truth by whatever rate its daemon likes: each update stays inside of
 * what all updates before it said of that counter, and the truth inside of all of them. The host's counter runs true here, so its
 * own discipline is what errs.
 */
static void updates_stay_inside_of_earlier_errors(void **state)
{
	(void)state;
	for (unsigned int run = 0; run < 200; run++) {
		struct machine *m = new_machine(run);
		struct pvclock_vmclock pages[40];
		int64_t truth, off;

		/* the truth: what the fake's clock would say had nobody touched it */
		truth = m->fake.realtime_ns;
		off = (int64_t)(splitmix64(&seed) % 3000000) - 1500000;
		m->fake.realtime_ns += off;
		m->fake.max_error_us = 1500;
		start(m);
		for (unsigned int i = 0; i < 40; i++) {
			uint64_t raw_tai, error, length = NS / 4 + splitmix64(&seed) % NS;
			struct pvclock_vmclock_update said;

			assert_int_equal(pvclock_vm_update_vmclock(m->vm, &said), 0);
			assert_int_equal(said.stepped_ns, 0);
			pages[i] = said.page;
			raw_tai = (uint64_t)((unsigned __int128)pages[i].counter * 1000000 / m->fake.khz);
			raw_tai += (uint64_t)truth + TAI * NS;
			for (unsigned int j = 0; j <= i; j++) {
				uint64_t now = page_ns(m, &pages[i], pages[i].counter, NULL);
				uint64_t then = page_ns(m, &pages[j], pages[i].counter, &error);

				if (apart(now, then) > error || apart(raw_tai, then) > error)
					fail_msg("run %u: update %u says %lld ns more than %u, the truth %lld ns more; its error %llu",
						 run, i, (long long)(now - then), j, (long long)(raw_tai - then),
						 (unsigned long long)error);
			}
			/* towards the truth, and not beyond it, by up to 10 %, told or untold */
			off = (int64_t)(fake_kvm_realtime(&m->fake, m->fake.tsc) - raw_tai + TAI * NS) -
			      (int64_t)((unsigned __int128)(m->fake.tsc - pages[i].counter) * 1000000 / m->fake.khz);
			int64_t ppb = (int64_t)(splitmix64(&seed) % 100000000) * (off > 0 ? -1 : 1),
				most = -off * (int64_t)NS / (int64_t)(2 * NS);

			if (ppb < 0 ? ppb < most : ppb > most)
				ppb = most;
			fake_kvm_set_rate(&m->fake, ppb);
			if (splitmix64(&seed) & 1) {
				m->fake.ntp_tick = 10000 + (long)(ppb / 100000);
				m->fake.ntp_freq = (long)(ppb % 100000) * 65536 / 1000;
			} else {
				m->fake.ntp_tick = 10000;
				m->fake.ntp_freq = 0;
			}
			pass_ns(m, length);
		}
		free_machine(m);
	}
}

static void a_step_is_told(void **state)
{
	struct machine *m = started(30);
	struct pvclock_vmclock_update said;

	(void)state;
	m->fake.realtime_ns += 1000000; /* within 1.5 ms */
	assert_int_equal(pvclock_vm_update_vmclock(m->vm, &said), 0);
	assert_int_equal(said.stepped_ns, 0);
	m->fake.realtime_ns -= 2000000;
	assert_int_equal(pvclock_vm_update_vmclock(m->vm, &said), 0);
	assert_in_range(-said.stepped_ns, 2000000 - 40, 2000000 + 40);
	assert_int_equal(said.next_ns, NS);
	free_machine(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_the_hosts_time_and_its_error),
		cmocka_unit_test(a_scaled_counter_has_the_time_too),
		cmocka_unit_test(status_is_the_hosts),
		cmocka_unit_test(a_leap_second_is_in_the_offset),
		cmocka_unit_test(an_unstable_counter_is_none),
		cmocka_unit_test(p12_counts_the_lines_ns_as_the_host_disciplines_them),
		cmocka_unit_test(updates_stay_inside_of_earlier_errors),
		cmocka_unit_test(a_step_is_told),
	};

	take_seed();
	return cmocka_run_group_tests_name("vmclock", tests, NULL, NULL);
}
