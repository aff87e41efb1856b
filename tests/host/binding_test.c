/* SPDX-License-Identifier: MIT */
/* binding_test.c - own mode on a KVM in virtual time: TSC offsets that are ignored or moved, the stable bit, the guest's exits. */
#include "machine.h"

static void offsets_are_read_back(void **state)
{
	struct machine m;
	struct pvclock_tsc_transform tsc;
	struct pvclock_line before, after;
	struct pvclock_reason reason;
	struct pvclock_slope host;

	(void)state;
	machine_init(&m, 5, PVCLOCK_MODE_AUTO);
	assert_true(pvclock_slope_from_khz(m.fake.khz, &host));
	assert_int_equal(pvclock_kvm_start(m.kvm, &host), 0);
	pvclock_vcpu_get_line(m.vcpu, &before);
	assert_int_equal(pvclock_kvm_set_tsc_offset(m.kvm, m.vcpu, 555, &reason), 0);
	pvclock_vcpu_get_tsc(m.vcpu, &tsc);
	assert_int_equal(tsc.offset, 555);
	pvclock_vcpu_get_line(m.vcpu, &after);
	assert_true(after.tsc == before.tsc + 555 && after.ns == before.ns);

	m.fake.offset_ignored = true;
	assert_int_equal(pvclock_kvm_set_tsc_offset(m.kvm, m.vcpu, 777, &reason), -EOPNOTSUPP);
	assert_int_equal(reason.code, PVCLOCK_REASON_OFFSET_IGNORED);
	pvclock_vcpu_get_tsc(m.vcpu, &tsc);
	assert_int_equal(tsc.offset, 555);
	machine_clear(&m);
}

/* A guest that writes its own TSC moves its counter, not its clock. */
static void p4_a_guest_that_wrote_its_tsc_is_followed(void **state)
{
	struct machine m;
	struct pvclock_line before, after;
	struct pvclock_slope host;

	(void)state;
	machine_init(&m, 5, PVCLOCK_MODE_OWN);
	pvclock_slope_from_khz(m.fake.khz, &host);
	assert_int_equal(pvclock_kvm_start(m.kvm, &host), 0);
	pvclock_vcpu_get_line(m.vcpu, &before);
	m.fake.offset = 4096;
	assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
	assert_int_equal(pvclock_kvm_resume(m.kvm, NULL, NULL), 0);
	pvclock_vcpu_get_line(m.vcpu, &after);
	assert_true(after.tsc == before.tsc + 4096 && after.ns == before.ns);
	machine_clear(&m);
}

/* Some hosts' suspend resets their TSC, and KVM moves the guests' offsets so that theirs go on. */
static void p2_a_reset_host_tsc_does_not_take_the_clock_back(void **state)
{
	struct machine m;
	struct pvclock_line before, after;
	struct pvclock_slope host;
	uint64_t lost;

	(void)state;
	machine_init(&m, 5, PVCLOCK_MODE_OWN);
	pvclock_slope_from_khz(m.fake.khz, &host);
	assert_int_equal(pvclock_kvm_start(m.kvm, &host), 0);
	m.fake.tsc += 26000000000ull;
	pvclock_vcpu_get_line(m.vcpu, &before);
	lost = m.fake.tsc - 12345;
	m.fake.tsc -= lost;
	m.fake.offset += lost;
	assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
	assert_int_equal(pvclock_kvm_resume(m.kvm, NULL, NULL), 0);
	pvclock_vcpu_get_line(m.vcpu, &after);
	assert_true(after.tsc == before.tsc && after.ns == before.ns);
	machine_clear(&m);
}

static void p4_catchup_is_not_forgotten(void **state)
{
	struct machine m;
	struct pvclock_reason reason;
	struct pvclock_slope host;

	(void)state;
	machine_init(&m, 5, PVCLOCK_MODE_OWN);
	pvclock_slope_from_khz(m.fake.khz / 2, &host); /* the vCPU asks for twice the host's rate, and nothing can scale */
	assert_int_equal(pvclock_kvm_start(m.kvm, &host), 0);
	assert_false(pvclock_vm_stable(m.vm, &reason));
	assert_int_equal(reason.code, PVCLOCK_REASON_TSC_CATCHUP);
	m.fake.offset = 99;
	pvclock_kvm_pause(m.kvm);
	pvclock_kvm_resume(m.kvm, NULL, NULL);
	assert_false(pvclock_vm_stable(m.vm, NULL));
	pvclock_kvm_set_tsc_offset(m.kvm, m.vcpu, 100, NULL);
	assert_false(pvclock_vm_stable(m.vm, NULL));
	machine_clear(&m);
}

static void p4_what_the_caller_knows_costs_the_bit(void **state)
{
	struct machine m;
	struct pvclock_reason reason = { .code = PVCLOCK_REASON_CLOCKSOURCE, .text = "The host left the TSC." }, told;
	struct pvclock_slope host;

	(void)state;
	machine_init(&m, 5, PVCLOCK_MODE_OWN);
	pvclock_slope_from_khz(m.fake.khz, &host);
	pvclock_kvm_start(m.kvm, &host);
	pvclock_vcpu_write_msr(m.vcpu, PVCLOCK_MSR_SYSTEM_TIME, 1);
	assert_int_equal(((struct pvclock_page *)m.memory)->flags, PVCLOCK_TSC_STABLE);
	pvclock_vm_declare_unstable(m.vm, &reason);
	assert_false(pvclock_vm_stable(m.vm, &told));
	assert_int_equal(told.code, PVCLOCK_REASON_CLOCKSOURCE);
	assert_int_equal(((struct pvclock_page *)m.memory)->flags, 0);
	pvclock_vm_declare_unstable(m.vm, NULL);
	assert_int_equal(((struct pvclock_page *)m.memory)->flags, PVCLOCK_TSC_STABLE);
	machine_clear(&m);
}

static void a_pause_before_there_is_a_line_ends(void **state)
{
	static const enum pvclock_mode modes[] = { PVCLOCK_MODE_STEER, PVCLOCK_MODE_STOCK, PVCLOCK_MODE_OWN };
	struct machine m;
	int i, round;

	(void)state;
	for (i = 0; i < 3; i++) {
		machine_init(&m, 5, modes[i]);
		m.fake.master_clock = false;
		for (round = 0; round < 2; round++) {
			assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
			assert_int_equal(pvclock_kvm_resume(m.kvm, NULL, NULL), 0);
		}
		machine_clear(&m);
	}
}

static void an_impossible_slope_is_refused(void **state)
{
	struct machine m;

	(void)state;
	machine_init(&m, 5, PVCLOCK_MODE_OWN);
	assert_int_equal(pvclock_kvm_start(m.kvm, &(struct pvclock_slope){ 0 }), -EINVAL);
	assert_int_equal(pvclock_kvm_start(m.kvm, &(struct pvclock_slope){ 1, 0 }), -EINVAL);
	machine_clear(&m);
}

static void own_exits_are_answered(void **state)
{
	struct machine m;
	struct kvm_run *run = calloc(1, sizeof(*run));
	struct pvclock_slope host;

	(void)state;
	machine_init(&m, 5, PVCLOCK_MODE_OWN);
	pvclock_slope_from_khz(m.fake.khz, &host);
	assert_int_equal(pvclock_kvm_start(m.kvm, &host), 0);
	run->exit_reason = KVM_EXIT_IO;
	assert_int_equal(pvclock_kvm_handle_exit(m.kvm, m.vcpu, run), 0);
	run->exit_reason = KVM_EXIT_X86_WRMSR;
	run->msr.index = 0x4b564d04;
	run->msr.reason = KVM_MSR_EXIT_REASON_UNKNOWN;
	run->msr.error = 9;
	assert_int_equal(pvclock_kvm_handle_exit(m.kvm, m.vcpu, run), 0);
	assert_int_equal(run->msr.error, 9); /* not ours: untouched */
	run->msr.reason = KVM_MSR_EXIT_REASON_FILTER; /* denied by the VMM's filter, which had asked for #GP alone */
	assert_int_equal(pvclock_kvm_handle_exit(m.kvm, m.vcpu, run), 1);
	assert_int_equal(run->msr.error, 1);
	run->msr.index = PVCLOCK_MSR_SYSTEM_TIME;
	run->msr.data = 128 + 1;
	assert_int_equal(pvclock_kvm_handle_exit(m.kvm, m.vcpu, run), 1);
	assert_int_equal(run->msr.error, 0);
	assert_true(((struct pvclock_page *)(m.memory + 128))->tsc_to_system_mul != 0);
	run->msr.data = 4096 + 1;
	assert_int_equal(pvclock_kvm_handle_exit(m.kvm, m.vcpu, run), 1);
	assert_int_equal(run->msr.error, 1);
	run->exit_reason = KVM_EXIT_X86_RDMSR;
	assert_int_equal(pvclock_kvm_handle_exit(m.kvm, m.vcpu, run), 1);
	assert_int_equal(run->msr.data, 128 + 1);
	assert_int_equal(run->msr.error, 0);
	machine_clear(&m);
	free(run);
}

/* An INIT drops a vCPU's registration, and only the kernel sees it. The page is the guest's again, for whatever it likes. */
static void p10_own_sees_an_init(void **state)
{
	struct machine m;
	struct kvm_run *run = calloc(1, sizeof(*run));
	struct pvclock_slope host;
	uint64_t msr;

	(void)state;
	machine_init(&m, 5, PVCLOCK_MODE_OWN);
	pvclock_slope_from_khz(m.fake.khz, &host);
	assert_int_equal(pvclock_kvm_start(m.kvm, &host), 0);
	run->exit_reason = KVM_EXIT_X86_WRMSR;
	run->msr.index = PVCLOCK_MSR_SYSTEM_TIME;
	run->msr.data = 128 + 1;
	for (int round = 0; round < 2; round++) {
		assert_int_equal(pvclock_kvm_handle_exit(m.kvm, m.vcpu, run), 1);
		assert_true(m.fake.system_time_msr != 0 && !(m.fake.system_time_msr & PVCLOCK_MSR_ENABLE));
		assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
		assert_int_equal(pvclock_kvm_resume(m.kvm, NULL, NULL), 0);
		pvclock_vcpu_read_msr(m.vcpu, PVCLOCK_MSR_SYSTEM_TIME, &msr);
		assert_int_equal(msr, 128 + 1); /* nothing happened */
		m.fake.system_time_msr = 0;
		memset(m.memory, 0xa5, sizeof(m.memory));
		assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
		assert_int_equal(pvclock_kvm_resume(m.kvm, NULL, NULL), 0);
		pvclock_vcpu_read_msr(m.vcpu, PVCLOCK_MSR_SYSTEM_TIME, &msr);
		assert_int_equal(msr, 0);
		for (size_t i = 0; i < sizeof(m.memory); i++)
			assert_int_equal(m.memory[i], 0xa5);
	}
	/* A registration that came with a restore is watched from the resume on. */
	pvclock_vcpu_restore_msr(m.vcpu, PVCLOCK_MSR_SYSTEM_TIME, 256 + 1);
	pvclock_kvm_pause(m.kvm);
	pvclock_kvm_resume(m.kvm, NULL, NULL);
	assert_true(m.fake.system_time_msr != 0 && !(m.fake.system_time_msr & PVCLOCK_MSR_ENABLE));
	machine_clear(&m);
	free(run);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(offsets_are_read_back),
		cmocka_unit_test(p4_a_guest_that_wrote_its_tsc_is_followed),
		cmocka_unit_test(p2_a_reset_host_tsc_does_not_take_the_clock_back),
		cmocka_unit_test(p4_catchup_is_not_forgotten),
		cmocka_unit_test(p4_what_the_caller_knows_costs_the_bit),
		cmocka_unit_test(a_pause_before_there_is_a_line_ends),
		cmocka_unit_test(an_impossible_slope_is_refused),
		cmocka_unit_test(own_exits_are_answered),
		cmocka_unit_test(p10_own_sees_an_init),
	};

	return cmocka_run_group_tests_name("binding", tests, NULL, NULL);
}
