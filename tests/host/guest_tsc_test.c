/* SPDX-License-Identifier: MIT */
/*
 * guest_tsc_test.c - a guest that writes its own TSC while it runs, in own mode: the counter moves, its page with it,
 * the clock does not, on no vCPU, and TSC_STABLE is the truth at once.
 */
#include "machine.h"

#define MSR_TSC 0x10u
#define MSR_ADJUST 0x3bu
#define MSR_DEADLINE 0x6e0u
#define PAGE(m, i) ((struct pvclock_page *)(void *)((m)->memory + 64 + 64 * (i)))

struct pair {
	struct machine m;
	struct pvclock_vcpu *second;
	struct kvm_run run;
};

static int guest_access(struct pair *p, struct pvclock_vcpu *vcpu, uint32_t exit_reason, uint32_t msr, uint64_t value)
{
	p->run.exit_reason = exit_reason;
	p->run.msr.index = msr;
	p->run.msr.data = value;
	p->run.msr.reason = KVM_MSR_EXIT_REASON_FILTER;
	p->run.msr.error = 9;
	return pvclock_kvm_handle_exit(p->m.kvm, vcpu, &p->run);
}

static void guest_writes(struct pair *p, struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value)
{
	assert_int_equal(guest_access(p, vcpu, KVM_EXIT_X86_WRMSR, msr, value), 1);
	assert_int_equal(p->run.msr.error, 0);
}

static void pair_init(struct pair *p)
{
	struct pvclock_slope host;

	memset(&p->run, 0, sizeof(p->run));
	machine_init(&p->m, 7, PVCLOCK_MODE_OWN);
	assert_int_equal(pvclock_vcpu_create(p->m.vm, 1, &p->second), 0);
	assert_int_equal(pvclock_kvm_add_vcpu(p->m.kvm, p->second, FAKE_VCPU_FD + 1), 0);
	pvclock_slope_from_khz(p->m.fake.khz, &host);
	assert_int_equal(pvclock_kvm_start(p->m.kvm, &host), 0);
	guest_writes(p, p->m.vcpu, PVCLOCK_MSR_SYSTEM_TIME, 64 + 1);
	guest_writes(p, p->second, PVCLOCK_MSR_SYSTEM_TIME, 128 + 1);
}

static void pair_clear(struct pair *p)
{
	pvclock_kvm_remove_vcpu(p->m.kvm, p->second);
	pvclock_vcpu_destroy(p->second);
	machine_clear(&p->m);
}

/* What a vCPU reads off its page at a host tick, and whether it may believe the others. */
static uint64_t clock_at(const struct pair *p, unsigned int vcpu, uint64_t host, bool *stable)
{
	struct pvclock_snapshot page;

	assert_int_equal(pvclock_page_read(PAGE(&p->m, vcpu), &page), PVCLOCK_READ_OK);
	*stable = page.flags & PVCLOCK_TSC_STABLE;
	return pvclock_line_ns(&page.line, host + (vcpu ? p->m.fake.second_offset : p->m.fake.offset));
}

static void check(const struct pair *p, const struct pvclock_line *line, bool stable)
{
	for (unsigned int i = 0; i < 2; i++) {
		uint64_t host = p->m.fake.tsc + 12345 + 7 * i;
		bool is;

		assert_int_equal(clock_at(p, i, host, &is), pvclock_line_ns(line, host));
		assert_int_equal(is, stable);
	}
}

static void p1_adjust_moves_the_counter_and_not_the_clock(void **state)
{
	struct pair p;
	struct pvclock_line line;

	(void)state;
	pair_init(&p);
	assert_int_equal(pvclock_vcpu_get_line(p.m.vcpu, &line), 0);
	check(&p, &line, true);
	guest_writes(&p, p.second, MSR_ADJUST, 1000000000);
	assert_int_equal(p.m.fake.second_offset, 1000000000);
	assert_int_equal(p.m.fake.tsc_adjust[1], 1000000000);
	assert_int_equal(p.m.fake.offset, 0);
	check(&p, &line, false);
	guest_writes(&p, p.second, MSR_ADJUST, 5); /* from where it is */
	assert_int_equal(p.m.fake.second_offset, 5);
	check(&p, &line, false);
	guest_writes(&p, p.m.vcpu, MSR_ADJUST, 5);
	check(&p, &line, true);
	guest_writes(&p, p.m.vcpu, MSR_ADJUST, (uint64_t)-700);
	assert_int_equal(p.m.fake.offset, -700);
	check(&p, &line, false);
	pair_clear(&p);
}

static void p1_a_written_counter_reads_what_was_written(void **state)
{
	struct pair p;
	struct pvclock_line line;
	uint64_t before;

	(void)state;
	pair_init(&p);
	assert_int_equal(pvclock_vcpu_get_line(p.m.vcpu, &line), 0);
	before = p.m.fake.tsc;
	guest_writes(&p, p.m.vcpu, MSR_TSC, 777);
	/* at some tick of the exit's handling it read 777 */
	assert_true(777 - p.m.fake.offset >= before && 777 - p.m.fake.offset <= p.m.fake.tsc);
	assert_int_equal(p.m.fake.tsc_adjust[0], p.m.fake.offset); /* what the counter moved by (SDM 18.17.3) */
	for (unsigned int i = 0; i < 2; i++) {
		uint64_t host = p.m.fake.tsc + 99;
		bool stable;
		/* the anchor lies before the new counter's 0: the one nanosecond that lines.c grants */
		uint64_t lost = pvclock_line_ns(&line, host) - clock_at(&p, i, host, &stable);

		assert_true(lost <= (i == 0));
		assert_false(stable);
	}
	pair_clear(&p);
}

static void p5_an_armed_deadline_follows_its_counter(void **state)
{
	struct pair p;

	(void)state;
	pair_init(&p);
	p.m.fake.deadline[1] = p.m.fake.tsc + 5000000;
	guest_writes(&p, p.second, MSR_ADJUST, 1000);
	assert_int_equal(p.m.fake.armed_with[1], 1000);
	pair_clear(&p);
}

static void what_kvm_ignores_moves_nothing(void **state)
{
	struct pair p;
	struct pvclock_line line;

	(void)state;
	pair_init(&p);
	assert_int_equal(pvclock_vcpu_get_line(p.m.vcpu, &line), 0);
	p.m.fake.no_tsc_adjust = true;
	guest_writes(&p, p.second, MSR_ADJUST, 1000000);
	assert_int_equal(p.m.fake.second_offset, 0);
	check(&p, &line, true);
	p.m.fake.no_tsc_adjust = false;
	p.m.fake.offset_ignored = true;
	guest_writes(&p, p.second, MSR_ADJUST, 1000000);
	check(&p, &line, true);
	pair_clear(&p);
}

/* Before Linux 5.16: no attribute, and the counter is written as a value. */
static void p1_a_kernel_without_the_attribute(void **state)
{
	struct pair p;
	struct pvclock_line line;
	bool stable;
	uint64_t host;
	int64_t apart;

	(void)state;
	pair_init(&p);
	assert_int_equal(pvclock_vcpu_get_line(p.m.vcpu, &line), 0);
	p.m.fake.no_offset = true;
	guest_writes(&p, p.second, MSR_ADJUST, 1000000000);
	assert_true(p.m.fake.second_offset - 1000000000 + 100000 <= 200000); /* the width of some calls */
	host = p.m.fake.tsc + 4242;
	apart = (int64_t)(clock_at(&p, 1, host, &stable) - pvclock_line_ns(&line, host));
	assert_true(apart >= -2000 && apart <= 2000); /* the offset is known to a bracket of two calls: 1,600 ticks */
	assert_false(stable);
	pair_clear(&p);
}

static void a_vmm_that_wants_the_msrs_gets_them(void **state)
{
	uint8_t denied[8] = { 0xfe }, both[8] = { 0xff };
	struct kvm_msr_filter theirs = { .ranges = { { .flags = KVM_MSR_FILTER_WRITE, .base = MSR_TSC, .nmsrs = 1, .bitmap = denied },
						     { .flags = 3, .base = MSR_ADJUST, .nmsrs = 1, .bitmap = both } } };
	struct pvclock_reason reason;
	struct pair p;

	(void)state;
	pair_init(&p);
	assert_int_equal(pvclock_kvm_set_filter(p.m.kvm, &theirs, &reason), 0);
	/* it asked for #GP ... */
	assert_int_equal(guest_access(&p, p.second, KVM_EXIT_X86_WRMSR, MSR_TSC, 5), 1);
	assert_int_equal(p.run.msr.error, 1);
	/* ... and now for the exit */
	assert_int_equal(pvclock_kvm_set_user_space_msr(p.m.kvm, KVM_MSR_EXIT_REASON_FILTER, &reason), 0);
	assert_int_equal(guest_access(&p, p.second, KVM_EXIT_X86_WRMSR, MSR_TSC, 5), 0);
	assert_int_equal(p.m.fake.second_offset, 0);
	/* allowed by a range of both accesses, which is now denied for both: the read is answered */
	guest_writes(&p, p.second, MSR_ADJUST, 40);
	assert_int_equal(guest_access(&p, p.second, KVM_EXIT_X86_RDMSR, MSR_ADJUST, 0), 1);
	assert_int_equal(p.run.msr.data, 40);
	assert_int_equal(p.run.msr.error, 0);
	pair_clear(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_adjust_moves_the_counter_and_not_the_clock),
		cmocka_unit_test(p1_a_written_counter_reads_what_was_written),
		cmocka_unit_test(p5_an_armed_deadline_follows_its_counter),
		cmocka_unit_test(what_kvm_ignores_moves_nothing),
		cmocka_unit_test(p1_a_kernel_without_the_attribute),
		cmocka_unit_test(a_vmm_that_wants_the_msrs_gets_them),
	};

	return cmocka_run_group_tests_name("guest_tsc", tests, NULL, NULL);
}
