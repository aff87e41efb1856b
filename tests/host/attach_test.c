/* SPDX-License-Identifier: MIT */
/*
 * attach_test.c - one filter and one set of exits for two owners, through the API: what KVM was told after each call, and that an
 * attach or a change that fails halfway leaves the VMM what it had.
 */
#include "../fake/kvm.h"

#include "../../src/kvm/kvm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define THREAD_COUNT 0x35u /* the MSR that QEMU keeps from the kernel */

struct machine {
	struct fake_kvm fake;
	struct pvclock_vm *vm;
	struct pvclock_kvm *kvm;
	struct pvclock_reason reason;
};

static uint8_t none[8];

/* QEMU's: reads of one MSR. */
static const struct kvm_msr_filter qemu = {
	.ranges = { { .flags = KVM_MSR_FILTER_READ, .nmsrs = 1, .base = THREAD_COUNT, .bitmap = none } } };

static int attach(struct machine *m, enum pvclock_mode mode, const struct kvm_msr_filter *filter, uint64_t mask)
{
	struct pvclock_kvm_config config = {
		.os = &m->fake.os, .vm = m->vm, .vm_fd = 3, .mode = mode, .msr_filter = filter, .user_space_msr_mask = mask };

	return pvclock_kvm_attach(&config, &m->kvm, &m->reason);
}

static void begin(struct machine *m)
{
	memset(m, 0, sizeof(*m));
	fake_kvm_init(&m->fake, 1);
	m->fake.exits = 0x55; /* nothing told yet */
	assert_int_equal(pvclock_vm_create(&m->fake.os, &m->vm), 0);
}

static void end(struct machine *m)
{
	pvclock_kvm_detach(m->kvm);
	pvclock_vm_destroy(m->vm);
}

/* Whether KVM lets the guest have an MSR, by what it was told last (api.rst 4.97). */
static bool allows(const struct machine *m, uint32_t msr, uint32_t access)
{
	for (unsigned int i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
		const struct kvm_msr_filter_range *range = &m->fake.filter.ranges[i];

		if (range->nmsrs && (range->flags & access) && msr >= range->base && msr - range->base < range->nmsrs)
			return range->bitmap[(msr - range->base) / 8] >> ((msr - range->base) % 8) & 1;
	}
	return !(m->fake.filter.flags & KVM_MSR_FILTER_DEFAULT_DENY);
}

static bool clock_is_ours(const struct machine *m)
{
	static const uint32_t msrs[] = { 0x11, 0x12, 0x4b564d00, 0x4b564d01 };
	bool ours = true;

	for (unsigned int i = 0; i < 4; i++)
		ours = ours && !allows(m, msrs[i], KVM_MSR_FILTER_READ) && !allows(m, msrs[i], KVM_MSR_FILTER_WRITE);
	return ours && allows(m, 0x10, KVM_MSR_FILTER_READ);
}

static void own_mode_merges(void **state)
{
	struct machine m;

	(void)state;
	begin(&m);
	assert_int_equal(attach(&m, PVCLOCK_MODE_OWN, &qemu, KVM_MSR_EXIT_REASON_UNKNOWN), 0);
	assert_true(clock_is_ours(&m));
	assert_false(allows(&m, THREAD_COUNT, KVM_MSR_FILTER_READ));
	assert_true(allows(&m, THREAD_COUNT, KVM_MSR_FILTER_WRITE));
	assert_int_equal(m.fake.exits, KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER);

	/* changes, in both orders */
	assert_int_equal(pvclock_kvm_set_filter(m.kvm, NULL, &m.reason), 0);
	assert_true(clock_is_ours(&m) && allows(&m, THREAD_COUNT, KVM_MSR_FILTER_READ));
	assert_int_equal(pvclock_kvm_set_user_space_msr(m.kvm, 0, &m.reason), 0);
	assert_int_equal(m.fake.exits, KVM_MSR_EXIT_REASON_FILTER);
	assert_int_equal(pvclock_kvm_set_user_space_msr(m.kvm, KVM_MSR_EXIT_REASON_INVAL, &m.reason), 0);
	assert_int_equal(m.fake.exits, KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_INVAL);
	{
		uint8_t bits[8] = { 0xfe }; /* on the VMM's stack, and gone after the call */
		struct kvm_msr_filter passing = { .ranges = { { .flags = 3, .nmsrs = 8, .base = 0x100, .bitmap = bits } } };

		assert_int_equal(pvclock_kvm_set_filter(m.kvm, &passing, NULL), 0);
		memset(bits, 0, sizeof(bits));
	}
	assert_true(clock_is_ours(&m) && !allows(&m, 0x100, 1) && allows(&m, 0x101, 1));

	/* the end gives the VMM its own back */
	pvclock_kvm_detach(m.kvm);
	m.kvm = NULL;
	assert_int_equal(m.fake.exits, KVM_MSR_EXIT_REASON_INVAL);
	assert_true(allows(&m, 0x4b564d01, KVM_MSR_FILTER_WRITE) && allows(&m, 0x12, KVM_MSR_FILTER_WRITE));
	assert_true(!allows(&m, 0x100, 1) && allows(&m, 0x101, 1));
	end(&m);
}

static void steer_mode_passes_on(void **state)
{
	struct machine m;

	(void)state;
	begin(&m);
	assert_int_equal(attach(&m, PVCLOCK_MODE_STEER, &qemu, KVM_MSR_EXIT_REASON_FILTER), 0);
	assert_int_equal(m.fake.filter_calls + m.fake.exits_calls, 0); /* it needs neither, and the VMM has told KVM */
	assert_int_equal(pvclock_kvm_set_filter(m.kvm, &qemu, &m.reason), 0);
	assert_true(allows(&m, 0x12, 1) && !allows(&m, THREAD_COUNT, KVM_MSR_FILTER_READ));
	assert_int_equal(pvclock_kvm_set_user_space_msr(m.kvm, KVM_MSR_EXIT_REASON_UNKNOWN, &m.reason), 0);
	assert_int_equal(m.fake.exits, KVM_MSR_EXIT_REASON_UNKNOWN);
	assert_int_equal(pvclock_kvm_set_filter(m.kvm, NULL, &m.reason), 0);
	assert_true(allows(&m, THREAD_COUNT, KVM_MSR_FILTER_READ));
	m.fake.refused = KVM_X86_SET_MSR_FILTER;
	assert_int_equal(pvclock_kvm_set_filter(m.kvm, &qemu, &m.reason), -EPERM);
	assert_non_null(strstr(m.reason.text, "VMM's MSR filter"));
	end(&m);
}

/* A filter that leaves no range for ours. */
static void fill(struct kvm_msr_filter *filter)
{
	memset(filter, 0, sizeof(*filter));
	for (unsigned int i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++)
		filter->ranges[i] = (struct kvm_msr_filter_range){ .flags = 3, .nmsrs = 1, .base = 0x1000 + i, .bitmap = none };
}

static void an_attach_that_fails_leaves_the_vmm_its_own(void **state)
{
	struct kvm_msr_filter full;
	struct machine m;

	(void)state;
	fill(&full);
	begin(&m);
	assert_int_equal(attach(&m, PVCLOCK_MODE_OWN, &full, KVM_MSR_EXIT_REASON_UNKNOWN), -ENOSPC);
	assert_int_equal(m.reason.code, PVCLOCK_REASON_MSR_FILTER_FULL);
	assert_int_equal(m.fake.exits, KVM_MSR_EXIT_REASON_UNKNOWN);
	assert_int_equal(m.fake.filter_calls, 0); /* KVM has the VMM's own */
	assert_null(m.kvm);

	m.fake.refused = KVM_X86_SET_MSR_FILTER;
	assert_int_equal(attach(&m, PVCLOCK_MODE_OWN, &qemu, KVM_MSR_EXIT_REASON_INVAL), -EPERM);
	assert_int_equal(m.reason.code, PVCLOCK_REASON_OS);
	assert_int_equal(m.fake.exits, KVM_MSR_EXIT_REASON_INVAL);
	assert_int_equal(m.fake.filter_calls, 0);

	m.fake.refused = KVM_ENABLE_CAP;
	assert_int_equal(attach(&m, PVCLOCK_MODE_OWN, NULL, 0), -EPERM);
	assert_int_equal(m.fake.exits, KVM_MSR_EXIT_REASON_INVAL);
	assert_int_equal(m.fake.filter_calls, 0);

	/* auto: the next best mode, with the reason, and the VMM's own untouched */
	m.fake.refused = 0;
	assert_int_equal(attach(&m, PVCLOCK_MODE_AUTO, &full, KVM_MSR_EXIT_REASON_UNKNOWN), 0);
	assert_int_equal(pvclock_kvm_mode(m.kvm), PVCLOCK_MODE_STEER);
	assert_int_equal(m.reason.code, PVCLOCK_REASON_MSR_FILTER_FULL);
	assert_int_equal(m.fake.exits, KVM_MSR_EXIT_REASON_UNKNOWN);
	assert_int_equal(m.fake.filter_calls, 0);
	end(&m);
}

static void a_change_that_fails_changes_nothing(void **state)
{
	struct kvm_msr_filter full, nonsense = { .ranges = { { .flags = 4, .nmsrs = 1, .bitmap = none } } };
	struct machine m;

	(void)state;
	fill(&full);
	begin(&m);
	assert_int_equal(attach(&m, PVCLOCK_MODE_OWN, &qemu, KVM_MSR_EXIT_REASON_FILTER), 0);
	assert_int_equal(pvclock_kvm_set_filter(m.kvm, &full, &m.reason), -ENOSPC);
	assert_int_equal(m.reason.code, PVCLOCK_REASON_MSR_FILTER_FULL);
	assert_int_equal(pvclock_kvm_set_filter(m.kvm, &nonsense, &m.reason), -EINVAL);
	m.fake.refused = KVM_X86_SET_MSR_FILTER;
	assert_int_equal(pvclock_kvm_set_filter(m.kvm, NULL, &m.reason), -EPERM);
	assert_int_equal(m.reason.code, PVCLOCK_REASON_OS);
	m.fake.refused = KVM_ENABLE_CAP;
	assert_int_equal(pvclock_kvm_set_user_space_msr(m.kvm, 0, &m.reason), -EPERM);
	assert_int_equal(m.reason.code, PVCLOCK_REASON_OS);
	m.fake.refused = 0;
	assert_int_equal(m.fake.filter_calls, 1);
	assert_true(clock_is_ours(&m) && !allows(&m, THREAD_COUNT, KVM_MSR_FILTER_READ));
	/* nor does the end: what was refused is not given back */
	pvclock_kvm_detach(m.kvm);
	m.kvm = NULL;
	assert_int_equal(m.fake.exits, KVM_MSR_EXIT_REASON_FILTER);
	assert_true(!allows(&m, THREAD_COUNT, KVM_MSR_FILTER_READ) && allows(&m, 0x12, 1));
	end(&m);
}

/* The exit mask decides whose a denied MSR is: asked for, it is the VMM's exit; not asked for, the guest's #GP. */
static void the_mask_that_holds_now_decides(void **state)
{
	struct pvclock_vcpu *vcpu;
	struct kvm_run run = { .exit_reason = KVM_EXIT_X86_RDMSR };
	struct machine m;

	(void)state;
	begin(&m);
	assert_int_equal(pvclock_vcpu_create(m.vm, 0, &vcpu), 0);
	assert_int_equal(attach(&m, PVCLOCK_MODE_OWN, &qemu, 0), 0);
	assert_int_equal(pvclock_kvm_add_vcpu(m.kvm, vcpu, FAKE_VCPU_FD), 0);
	run.msr.index = THREAD_COUNT;
	run.msr.reason = KVM_MSR_EXIT_REASON_FILTER;
	assert_int_equal(pvclock_kvm_handle_exit(m.kvm, vcpu, &run), 1);
	assert_int_equal(run.msr.error, 1);
	assert_int_equal(pvclock_kvm_set_user_space_msr(m.kvm, KVM_MSR_EXIT_REASON_FILTER, NULL), 0);
	assert_int_equal(pvclock_kvm_handle_exit(m.kvm, vcpu, &run), 0);
	assert_int_equal(pvclock_kvm_set_user_space_msr(m.kvm, KVM_MSR_EXIT_REASON_UNKNOWN, NULL), 0);
	assert_int_equal(pvclock_kvm_handle_exit(m.kvm, vcpu, &run), 1);
	run.msr.reason = KVM_MSR_EXIT_REASON_UNKNOWN;
	assert_int_equal(pvclock_kvm_handle_exit(m.kvm, vcpu, &run), 0);
	pvclock_kvm_remove_vcpu(m.kvm, vcpu);
	pvclock_vcpu_destroy(vcpu);
	end(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(own_mode_merges),
		cmocka_unit_test(steer_mode_passes_on),
		cmocka_unit_test(an_attach_that_fails_leaves_the_vmm_its_own),
		cmocka_unit_test(a_change_that_fails_changes_nothing),
		cmocka_unit_test(the_mask_that_holds_now_decides),
	};

	return cmocka_run_group_tests_name("attach", tests, NULL, NULL);
}
