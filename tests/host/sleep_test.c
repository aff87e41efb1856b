/* SPDX-License-Identifier: MIT */
/*
 * sleep_test.c - P9: the host slept. Whatever its TSC did meanwhile, and whether the sleep was noticed on the way into
 * the guest or fell into a pause: with freeze the guest's clock goes on as CLOCK_MONOTONIC_RAW does, with advance as
 * that and the sleep; the guest is told in its memory, and by an interrupt, before it runs.
 */
#include "machine.h"

#define S 1000000000ull
#define PAGE_GPA 0x100u
#define SUSPEND_GPA 0x400u
#define VECTOR 0x41u
#define APIC 0x105u

/* A clock read, and the TSC between two others: what virtual time takes for it. */
#define NOISE_NS 200

enum tsc { GOES_ON, STANDS_STILL, RUNS_SLOW, RUNS_LONG, BEGINS_ANEW, TSCS };
enum place { RUNNING, IN_A_PAUSE, PLACES };

struct run {
	struct machine m;
	uint64_t clock, raw, guest_tsc; /* before the sleep */
	struct pvclock_line line;
};

static uint64_t raw_ns(struct machine *m)
{
	struct timespec ts;

	m->fake.os.ops->clock_gettime(&m->fake, CLOCK_MONOTONIC_RAW, &ts);
	return (uint64_t)ts.tv_sec * S + (uint64_t)ts.tv_nsec;
}

static uint64_t to_ticks(const struct machine *m, uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * m->fake.khz / 1000000);
}

static struct pvclock_suspend_page *suspend_page(struct machine *m)
{
	return (struct pvclock_suspend_page *)(m->memory + SUSPEND_GPA);
}

static void begin(struct run *run, enum pvclock_mode mode, enum pvclock_passing on_suspend, bool offsets_ignored)
{
	struct pvclock_kvm_config config = { .os = &run->m.fake.os, .vm_fd = 3, .mode = mode };
	struct pvclock_policy policy = pvclock_policy_default();
	struct machine *m = &run->m;
	struct pvclock_slope host;

	memset(m, 0, sizeof(*m));
	fake_kvm_init(&m->fake, 11);
	m->fake.offset_ignored = offsets_ignored;
	assert_int_equal(pvclock_vm_create(&m->fake.os, &m->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, sizeof(m->memory), m->memory, 0), 0);
	assert_int_equal(pvclock_vcpu_create(m->vm, 0, &m->vcpu), 0);
	pvclock_vm_offer(m->vm, PVCLOCK_FEATURES);
	config.vm = m->vm;
	assert_int_equal(pvclock_kvm_attach(&config, &m->kvm, NULL), 0);
	assert_int_equal(pvclock_kvm_add_vcpu(m->kvm, m->vcpu, 4), 0);
	pvclock_slope_from_khz(m->fake.khz, &host);
	assert_int_equal(pvclock_kvm_start(m->kvm, &host), 0);
	policy.on[PVCLOCK_BLACKOUT_SUSPEND] = on_suspend;
	pvclock_vm_set_policy(m->vm, &policy);
	if (mode == PVCLOCK_MODE_OWN)
		assert_int_equal(pvclock_vcpu_write_msr(m->vcpu, PVCLOCK_MSR_SYSTEM_TIME, PAGE_GPA | 1), 0);
	else
		kernel_publishes(m);
	assert_int_equal(pvclock_vcpu_write_msr(m->vcpu, PVCLOCK_MSR_SUSPEND, SUSPEND_GPA | 1), 0);
	assert_int_equal(pvclock_vcpu_write_msr(m->vcpu, PVCLOCK_MSR_SUSPEND_CONTROL, (uint64_t)APIC << 32 | 1u << 16 | VECTOR), 0);
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0); /* steer learns the line */
	assert_int_equal(pvclock_kvm_resume(m->kvm, NULL, NULL), 0);
	fake_kvm_enter(&m->fake);
	m->fake.tsc += 7 * 2596142000ull;
	m->fake.signals = 0;
}

static void look(struct run *run)
{
	struct pvclock_tsc_transform tsc;

	run->raw = raw_ns(&run->m);
	assert_int_equal(pvclock_vcpu_get_line(run->m.vcpu, &run->line), 0);
	assert_int_equal(pvclock_vm_now(run->m.vm, &run->clock), 0);
	pvclock_vcpu_get_tsc(run->m.vcpu, &tsc);
	run->guest_tsc = run->m.fake.tsc + tsc.offset;
}

static void sleep_for(struct machine *m, enum tsc tsc, uint64_t ns)
{
	static const uint64_t percent[TSCS] = { [GOES_ON] = 100, [STANDS_STILL] = 0, [RUNS_SLOW] = 30, [RUNS_LONG] = 103 };

	fake_kvm_sleep(&m->fake, ns, tsc == BEGINS_ANEW ? 123456789 : to_ticks(m, ns) / 100 * percent[tsc], tsc == BEGINS_ANEW);
}

static int64_t apart(uint64_t a, uint64_t b)
{
	return (int64_t)(a - b);
}

/* Since look(), the clock went on as the host's other clocks say that it should have. */
static void check_clock(struct run *run, uint64_t counted_ns)
{
	uint64_t clock, raw = raw_ns(&run->m);

	assert_int_equal(pvclock_vm_now(run->m.vm, &clock), 0);
	if (llabs(apart(clock - run->clock, raw - run->raw + counted_ns)) > NOISE_NS)
		fail_msg("the clock went on by %lld ns, raw by %lld, and %llu are counted", (long long)(clock - run->clock),
			 (long long)(raw - run->raw), (unsigned long long)counted_ns);
}

/* A TSC that went on says how long it truly was; else the host's clock may have been read in whole seconds. */
static uint64_t error_of(enum tsc tsc, uint64_t slept_ns)
{
	return tsc == GOES_ON ? 0 : tsc == RUNS_LONG ? slept_ns / 100 * 3 : S;
}

/* The same, around a pause whose own two ends take some us of virtual time. */
static void check_pause(struct run *run, uint64_t counted_ns)
{
	uint64_t clock, raw = raw_ns(&run->m);

	assert_int_equal(pvclock_vm_now(run->m.vm, &clock), 0);
	assert_true(llabs(apart(clock - run->clock, raw - run->raw + counted_ns)) < 5000);
}

static void check_told(struct run *run, const struct pvclock_correction *correction, uint64_t slept_ns, uint64_t error_ns, unsigned int count)
{
	const struct fake_kvm *fake = &run->m.fake;
	struct pvclock_suspend told;

	assert_int_equal(pvclock_suspend_read(suspend_page(&run->m), &told), PVCLOCK_READ_OK);
	assert_int_equal(told.cause, PVCLOCK_CAUSE_SUSPEND);
	assert_int_equal(told.count, count);
	assert_true(llabs(apart(told.error_ns, error_ns)) < NOISE_NS * 4);
	assert_int_equal(correction->cause, PVCLOCK_CAUSE_SUSPEND);
	assert_int_equal(told.last_ns, correction->counted_ns + correction->uncounted_ns);
	assert_true(llabs(apart(told.last_ns, slept_ns)) < 100000); /* and the pauses around it, of virtual time */
	assert_int_equal(fake->signals, 1);
	assert_int_equal(fake->signal.address_lo, 0xfee00000u | (APIC & 0xff) << 12);
	assert_int_equal(fake->signal.address_hi, APIC & ~0xffu);
	assert_int_equal(fake->signal.data, VECTOR);
}

static void one_sleep(enum pvclock_mode mode, enum pvclock_passing passing, enum tsc tsc, enum place place, bool offsets_ignored)
{
	const uint64_t slept_ns = 3555 * (S / 1000);
	struct pvclock_correction correction;
	struct pvclock_tsc_transform after;
	struct pvclock_line line;
	struct run run;
	struct machine *m = &run.m;
	uint64_t counted;

	begin(&run, mode, passing, offsets_ignored);
	assert_false(pvclock_kvm_slept(m->kvm));
	look(&run);
	if (place == IN_A_PAUSE)
		assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	sleep_for(m, tsc, slept_ns);
	assert_true(pvclock_kvm_slept(m->kvm));
	if (place == RUNNING)
		assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	assert_int_equal(pvclock_kvm_resume(m->kvm, &correction, NULL), 0);
	assert_false(pvclock_kvm_slept(m->kvm));
	counted = passing == PVCLOCK_ADVANCE ? slept_ns : 0;
	check_clock(&run, counted);
	check_told(&run, &correction, slept_ns, error_of(tsc, slept_ns), 2);
	assert_true(llabs(apart(passing == PVCLOCK_ADVANCE ? correction.counted_ns : correction.uncounted_ns, slept_ns)) < 100000);
	assert_true((passing == PVCLOCK_ADVANCE ? correction.uncounted_ns : correction.counted_ns) < 100000);
	/* the function is the same: it is the counter that did not count */
	if (mode == PVCLOCK_MODE_OWN && !offsets_ignored) {
		assert_int_equal(pvclock_vcpu_get_line(m->vcpu, &line), 0);
		assert_memory_equal(&line, &run.line, sizeof(line));
		pvclock_vcpu_get_tsc(m->vcpu, &after);
		assert_true(m->fake.tsc + after.offset > run.guest_tsc);
	}
	/* and nothing of it is left for the next time */
	look(&run);
	m->fake.tsc += 1000000;
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	assert_int_equal(pvclock_kvm_resume(m->kvm, &correction, NULL), 0);
	assert_int_equal(correction.cause, PVCLOCK_CAUSE_PAUSE);
	check_clock(&run, 0);
	machine_clear(m);
}

static void p9_a_sleep_of_the_host(void **state)
{
	(void)state;
	for (int mode = PVCLOCK_MODE_OWN; mode <= PVCLOCK_MODE_STEER; mode++)
		for (int passing = PVCLOCK_ADVANCE; passing <= PVCLOCK_FREEZE; passing++)
			for (int tsc = 0; tsc < TSCS; tsc++)
				for (int place = 0; place < PLACES; place++)
					one_sleep((enum pvclock_mode)mode, (enum pvclock_passing)passing, (enum tsc)tsc, (enum place)place,
						  false);
}

/* Then the line moves, and the function is another one; the clock does what it should all the same. */
static void p9_where_offsets_are_ignored(void **state)
{
	(void)state;
	for (int passing = PVCLOCK_ADVANCE; passing <= PVCLOCK_FREEZE; passing++)
		for (int tsc = 0; tsc < BEGINS_ANEW; tsc++)
			one_sleep(PVCLOCK_MODE_OWN, (enum pvclock_passing)passing, (enum tsc)tsc, RUNNING, true);
}

/*
 * A TSC that begins anew in each sleep, an hour apart: the second time it is no less than it was after the first one.
 * And the awake time around a sleep, in a pause, is the pause's.
 */
static void p9_again_and_again(void **state)
{
	(void)state;
	for (int mode = PVCLOCK_MODE_OWN; mode <= PVCLOCK_MODE_STEER; mode++)
		for (int passing = PVCLOCK_ADVANCE; passing <= PVCLOCK_FREEZE; passing++)
			for (int reset = 0; reset < 2; reset++) {
				struct pvclock_correction correction;
				struct pvclock_policy policy;
				struct run run;
				struct machine *m = &run.m;
				uint64_t counted = 0;

				begin(&run, (enum pvclock_mode)mode, PVCLOCK_FREEZE, false);
				for (unsigned int i = 0; i < 4; i++) {
					look(&run);
					m->fake.tsc += to_ticks(m, 3600 * S);
					fake_kvm_sleep(&m->fake, 100 * S, reset ? 1000000000 + i * 1000000 : to_ticks(m, 100 * S), reset);
					assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
					assert_int_equal(pvclock_kvm_resume(m->kvm, &correction, NULL), 0);
					fake_kvm_enter(&m->fake);
					check_clock(&run, 0);
					assert_true(llabs(apart(correction.uncounted_ns, 100 * S)) < NOISE_NS);
				}
				pvclock_vm_get_policy(m->vm, &policy);
				policy.on[PVCLOCK_BLACKOUT_PAUSE] = (enum pvclock_passing)passing;
				pvclock_vm_set_policy(m->vm, &policy);
				look(&run);
				assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
				m->fake.tsc += to_ticks(m, 10 * S);
				fake_kvm_sleep(&m->fake, 100 * S, reset ? 12345 : to_ticks(m, 100 * S), reset);
				m->fake.tsc += to_ticks(m, 5 * S);
				assert_int_equal(pvclock_kvm_resume(m->kvm, &correction, NULL), 0);
				counted = passing == PVCLOCK_ADVANCE ? 15 * S : 0;
				check_pause(&run, counted - 15 * S);
				assert_true(llabs(apart(correction.counted_ns, counted)) < 100000);
				assert_true(llabs(apart(correction.uncounted_ns, 115 * S - counted)) < 100000);
				machine_clear(m);
			}
}

/* The copy that is made of a guest goes on with what was not counted before it was made. */
static void p6_a_record_knows_of_the_sleep_before_it(void **state)
{
	struct pvclock_record record;
	struct run run;

	(void)state;
	begin(&run, PVCLOCK_MODE_OWN, PVCLOCK_FREEZE, false);
	assert_int_equal(pvclock_kvm_pause(run.m.kvm), 0);
	sleep_for(&run.m, GOES_ON, 8 * 3600 * S);
	assert_int_equal(pvclock_kvm_save(run.m.kvm, &record), 0);
	assert_true(llabs(apart(record.account.uncounted_ns, 8 * 3600 * S)) < NOISE_NS);
	assert_true(record.account.error_ns > 0 && record.account.error_ns < 20000); /* the slope's 32 bits, over 8 hours */
	pvclock_record_clear(&record);
	machine_clear(&run.m);
}

/* A bound on what is counted holds for sleeps, too. */
static void p9_no_more_is_counted_than_the_policy_says(void **state)
{
	struct pvclock_correction correction;
	struct pvclock_policy policy;
	struct run run;

	(void)state;
	begin(&run, PVCLOCK_MODE_OWN, PVCLOCK_ADVANCE, false);
	pvclock_vm_get_policy(run.m.vm, &policy);
	policy.advance_max_ns = S;
	pvclock_vm_set_policy(run.m.vm, &policy);
	look(&run);
	sleep_for(&run.m, GOES_ON, 10 * S);
	assert_int_equal(pvclock_kvm_pause(run.m.kvm), 0);
	assert_int_equal(pvclock_kvm_resume(run.m.kvm, &correction, NULL), 0);
	assert_int_equal(correction.counted_ns, S);
	assert_true(correction.uncounted_ns >= 9 * S - NOISE_NS && correction.uncounted_ns < 9 * S + 100000);
	machine_clear(&run.m);
}

/* A thread that stood still between two clock reads, and nothing else. */
static int (*real_gettime)(void *ctx, clockid_t clock, struct timespec *ts);

static int slow_gettime(void *ctx, clockid_t clock, struct timespec *ts)
{
	struct fake_kvm *fake = ctx;

	if (clock == CLOCK_BOOTTIME)
		fake->tsc += 26000000; /* 10 ms before it */
	return real_gettime(ctx, clock, ts);
}

static void a_slow_thread_is_no_sleep(void **state)
{
	struct pvclock_os_ops ops;
	struct run run;

	(void)state;
	begin(&run, PVCLOCK_MODE_OWN, PVCLOCK_FREEZE, false);
	ops = *run.m.fake.os.ops;
	real_gettime = ops.clock_gettime;
	ops.clock_gettime = slow_gettime;
	run.m.fake.os.ops = &ops;
	assert_false(pvclock_kvm_slept(run.m.kvm));
	fake_kvm_sleep(&run.m.fake, 2000000, 0, false);
	assert_true(pvclock_kvm_slept(run.m.kvm));
	machine_clear(&run.m);
}

/* A record that crosses a sleep has it from its own clocks, and the restore does not count it again. */
static void p7_a_restore_counts_a_sleep_once(void **state)
{
	struct pvclock_correction correction;
	struct pvclock_record record;
	struct pvclock_slope host;
	struct pvclock_reason reason;
	struct run from, to;

	(void)state;
	begin(&from, PVCLOCK_MODE_OWN, PVCLOCK_FREEZE, false);
	assert_int_equal(pvclock_kvm_pause(from.m.kvm), 0);
	assert_int_equal(pvclock_kvm_save(from.m.kvm, &record), 0);
	machine_init(&to.m, 5, PVCLOCK_MODE_OWN);
	pvclock_vm_offer(to.m.vm, PVCLOCK_FEATURES);
	to.m.fake.tsc = from.m.fake.tsc;
	fake_kvm_sleep(&to.m.fake, 5 * S, to_ticks(&to.m, 5 * S), false);
	assert_true(pvclock_kvm_slept(to.m.kvm));
	pvclock_slope_from_khz(to.m.fake.khz, &host);
	assert_int_equal(pvclock_kvm_restore(to.m.kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, &host, NULL, &reason), 0);
	assert_int_equal(pvclock_kvm_resume(to.m.kvm, &correction, NULL), 0);
	assert_int_equal(correction.cause, PVCLOCK_CAUSE_SNAPSHOT);
	assert_true(correction.uncounted_ns >= 5 * S && correction.uncounted_ns < 5 * S + 1000000);
	assert_false(pvclock_kvm_slept(to.m.kvm));
	pvclock_record_clear(&record);
	machine_clear(&from.m);
	machine_clear(&to.m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p9_a_sleep_of_the_host),
		cmocka_unit_test(p9_where_offsets_are_ignored),
		cmocka_unit_test(p9_again_and_again),
		cmocka_unit_test(p6_a_record_knows_of_the_sleep_before_it),
		cmocka_unit_test(p9_no_more_is_counted_than_the_policy_says),
		cmocka_unit_test(a_slow_thread_is_no_sleep),
		cmocka_unit_test(p7_a_restore_counts_a_sleep_once),
	};

	return cmocka_run_group_tests_name("sleep", tests, NULL, NULL);
}
