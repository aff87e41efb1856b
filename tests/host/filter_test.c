/* SPDX-License-Identifier: MIT */
/* filter_test.c - the VMM's MSR filter and ours are merged, never replaced. */
#include "../fake/kvm.h"

#include "../../src/kvm/kvm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/*
 * What a kernel does with a filter (api.rst 4.97): the first range that covers the MSR for this access decides, else
 * the default.
 */
static bool kernel_allows(const struct kvm_msr_filter *filter, uint32_t msr, uint32_t access)
{
	size_t i;

	for (i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
		const struct kvm_msr_filter_range *range = &filter->ranges[i];

		if (range->nmsrs && (range->flags & access) && msr >= range->base && msr - range->base < range->nmsrs)
			return range->bitmap[(msr - range->base) / 8] >> ((msr - range->base) % 8) & 1;
	}
	return !(filter->flags & KVM_MSR_FILTER_DEFAULT_DENY);
}

static bool is_ours(unsigned int what, uint32_t msr, uint32_t access)
{
	if (msr - PVCLOCK_MSR_DEADLINE_CONTROL < PVCLOCK_INTERFACE_MSRS)
		return what & PVCLOCK_FILTER_INTERFACE;
	if (msr - PVCLOCK_HYPERV_MSR_TIME_REF_COUNT < 4 || msr - PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL < 3 ||
	    msr == PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL)
		return what & PVCLOCK_FILTER_HYPERV;
	if (!(what & PVCLOCK_FILTER_CLOCK))
		return false;
	if (msr == 0x10 || msr == 0x3b) /* IA32_TSC, IA32_TSC_ADJUST */
		return access == KVM_MSR_FILTER_WRITE;
	return msr == PVCLOCK_MSR_WALL_CLOCK_OLD || msr == PVCLOCK_MSR_SYSTEM_TIME_OLD || msr == PVCLOCK_MSR_WALL_CLOCK ||
	       msr == PVCLOCK_MSR_SYSTEM_TIME;
}

static bool has_one_bit_for_both(const struct kvm_msr_filter *filter, uint32_t msr)
{
	for (size_t i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
		const struct kvm_msr_filter_range *range = &filter->ranges[i];

		if (range->flags == (KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE) && range->nmsrs && msr >= range->base &&
		    msr - range->base < range->nmsrs)
			return true;
	}
	return false;
}

static void check_merge(const struct kvm_msr_filter *theirs, unsigned int what, const struct kvm_msr_filter *merged)
{
	static const uint32_t bases[] = { 0, 0x40000000, 0x40000100, 0x4b564cf0, 0x505642e0, 0xc0000000, 0xfffffff0 };
	uint32_t access, msr, b;

	for (access = KVM_MSR_FILTER_READ; access <= KVM_MSR_FILTER_WRITE; access++) {
		for (b = 0; b < sizeof(bases) / sizeof(*bases); b++) {
			for (msr = bases[b]; msr - bases[b] < 64 && msr >= bases[b]; msr++) {
				bool expected = !is_ours(what, msr, access) && kernel_allows(theirs, msr, access);

				assert_int_equal(pvclock_kvm_filter_allows(theirs, msr, access), kernel_allows(theirs, msr, access));
				/* then a read is ours to answer, too */
				if (is_ours(what, msr, KVM_MSR_FILTER_WRITE) && has_one_bit_for_both(theirs, msr))
					continue;
				if (kernel_allows(merged, msr, access) != expected)
					fail_msg("MSR 0x%x, access %u: %d", msr, access, !expected);
				if (msr == UINT32_MAX)
					break;
			}
		}
	}
}

static void filters_are_merged_not_replaced(void **state)
{
	struct fake_kvm random = { .random = 3 };
	int round, full = 0;

	(void)state;
	for (round = 0; round < 20000; round++) {
		struct kvm_msr_filter theirs = { .flags = fake_random(&random) % 3 == 0 ? KVM_MSR_FILTER_DEFAULT_DENY : 0 };
		static const uint32_t bases[] = { 0, 0x8, 0x11, 0x12, 0x4b564cf8, 0x4b564d00, 0x4b564d01, 0x505642fe, 0x4000001e, 0x40000022, 0x40000107, 0x40000110 };
		uint8_t bits[KVM_MSR_FILTER_MAX_RANGES][8];
		struct pvclock_msr_filter merged;
		struct pvclock_reason reason;
		unsigned int what = (unsigned int)(fake_random(&random) % 4 | (fake_random(&random) & PVCLOCK_FILTER_HYPERV));
		uint64_t count = fake_random(&random) % (KVM_MSR_FILTER_MAX_RANGES + 1), i;
		int error;

		for (i = 0; i < count; i++) {
			memcpy(bits[i], (uint64_t[1]){ fake_random(&random) }, 8);
			theirs.ranges[i] = (struct kvm_msr_filter_range){
				.flags = 1 + (uint32_t)(fake_random(&random) % 3), .bitmap = bits[i],
				.base = bases[fake_random(&random) % (sizeof(bases) / sizeof(*bases))], .nmsrs = 1 + (uint32_t)(fake_random(&random) % 64) };
		}
		error = pvclock_kvm_merge_filter(&theirs, what, &merged, &reason);
		if (error == -ENOSPC) {
			full++;
			assert_true(what & PVCLOCK_FILTER_HYPERV || count > KVM_MSR_FILTER_MAX_RANGES - 8);
			assert_int_equal(reason.code, PVCLOCK_REASON_MSR_FILTER_FULL);
			continue;
		}
		assert_int_equal(error, 0);
		check_merge(&theirs, what, &merged.filter);
		pvclock_msr_filter_clear(&merged);
	}
	assert_true(full > 0);
}

static void filters_of_no_kind_are_refused(void **state)
{
	uint8_t bits[8] = { 0 };
	struct kvm_msr_filter theirs = { .ranges = { { .flags = 4, .nmsrs = 1, .base = 0, .bitmap = bits } } };
	struct pvclock_msr_filter merged;
	struct pvclock_reason reason;

	(void)state;
	assert_int_equal(pvclock_kvm_merge_filter(&theirs, PVCLOCK_FILTER_CLOCK, &merged, &reason), -EINVAL);
	theirs.ranges[0] = (struct kvm_msr_filter_range){ .flags = 3, .nmsrs = 0x3001, .bitmap = bits };
	assert_int_equal(pvclock_kvm_merge_filter(&theirs, PVCLOCK_FILTER_CLOCK, &merged, &reason), -EINVAL);
	theirs.ranges[0] = (struct kvm_msr_filter_range){ .flags = 3, .nmsrs = 1, .bitmap = NULL };
	assert_int_equal(pvclock_kvm_merge_filter(&theirs, PVCLOCK_FILTER_CLOCK, &merged, &reason), -EINVAL);
	assert_int_equal(pvclock_kvm_merge_filter(NULL, PVCLOCK_FILTER_CLOCK, &merged, &reason), 0);
	check_merge(&(struct kvm_msr_filter){ 0 }, PVCLOCK_FILTER_CLOCK, &merged.filter);
	pvclock_msr_filter_clear(&merged);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(filters_are_merged_not_replaced),
		cmocka_unit_test(filters_of_no_kind_are_refused),
	};

	return cmocka_run_group_tests_name("filter", tests, NULL, NULL);
}
