/* SPDX-License-Identifier: MIT */
/* hyperv_msr_test.c - P10: which values the MSRs of Hyper-V's clock take, which of them are there, and what they say. */
#include "hyperv_machine.h"

static void p10_values_are_taken_or_refused(void **state)
{
	static const struct {
		uint32_t msr;
		uint64_t value;
		bool taken;
	} cases[] = {
		{ PVCLOCK_HYPERV_MSR_TIME_REF_COUNT, 0, false },
		{ PVCLOCK_HYPERV_MSR_TSC_FREQUENCY, 0, false },
		{ PVCLOCK_HYPERV_MSR_APIC_FREQUENCY, APIC_HZ, false },
		{ PVCLOCK_HYPERV_MSR_REFERENCE_TSC, UINT64_MAX, true },
		{ PVCLOCK_HYPERV_MSR_REFERENCE_TSC, UINT64_MAX - 1, true },
		{ PVCLOCK_HYPERV_MSR_REFERENCE_TSC, MEMORY | 1, true }, /* no memory is there */
		{ PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 0xabf, true }, /* the guest's own bits stay */
		{ PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE, true },
		{ PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, 0x1000f, false },
		{ PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, 0x000f, true }, /* off */
		{ PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, 0x100ee, true },
		{ PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, 0x1000100ee, true },
		{ PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, 0x101ee, false },
		{ PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, 0x300ee, false },
		{ PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, 2, false },
		{ PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, 1, true },
		{ PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS, 1, false },
		{ PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS, UINT64_MAX, false },
		{ PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS, 0, true },
		{ PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, 0, true },
		{ PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL, 0, true },
		{ PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL, 3, false },
		{ PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL, 1, true },
		{ PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL, 1, true },
		{ PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL, 0, false }, /* it is not taken back */
	};
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		bool counts = cases[i].msr == PVCLOCK_HYPERV_MSR_TIME_REF_COUNT;
		uint64_t before = counts ? 0 : read_msr(m, cases[i].msr);

		if (write_msr(m, cases[i].msr, cases[i].value) != (cases[i].taken ? 1 : -1))
			fail_msg("case %zu", i);
		if (!counts && read_msr(m, cases[i].msr) != (cases[i].taken ? cases[i].value : before))
			fail_msg("case %zu reads back as %#" PRIx64, i, read_msr(m, cases[i].msr));
	}
	free_hv(m);
}

static void what_was_not_offered_is_not_there(void **state)
{
	static const struct {
		uint32_t msr, feature;
	} msrs[] = {
		{ PVCLOCK_HYPERV_MSR_TIME_REF_COUNT, 1u << 1 }, { PVCLOCK_HYPERV_MSR_REFERENCE_TSC, 1u << 9 },
		{ PVCLOCK_HYPERV_MSR_TSC_FREQUENCY, 1u << 11 }, { PVCLOCK_HYPERV_MSR_APIC_FREQUENCY, 1u << 11 },
		{ PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, 1u << 13 }, { PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, 1u << 13 },
		{ PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS, 1u << 13 }, { PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL, 1u << 15 },
	};
	struct pvclock_cpuid leaves[PVCLOCK_HYPERV_LEAVES];
	char signature[13] = { 0 };
	uint64_t value;

	(void)state;
	for (uint32_t bits = 0; bits < 32; bits++) {
		uint32_t features = 0;
		struct hv *m;

		for (unsigned int i = 0; i < 5; i++)
			features |= bits >> i & 1 ? 1u << (int[]){ 1, 9, 11, 13, 15 }[i] : 0;
		m = new_hv(1, features, 6462370);
		assert_int_equal(pvclock_vm_offered_hyperv(m->vm), features);
		for (size_t i = 0; i < sizeof(msrs) / sizeof(*msrs); i++) {
			assert_int_equal(pvclock_vcpu_read_msr(m->vcpus[0], msrs[i].msr, &value),
					 features & msrs[i].feature ? 0 : -ENOENT);
			if (!(features & msrs[i].feature))
				assert_int_equal(write_msr(m, msrs[i].msr, 0), -1);
		}
		pvclock_hyperv_cpuid(features, leaves);
		assert_int_equal(leaves[3].eax, features);
		assert_int_equal(leaves[3].edx, features & 1u << 11 ? 1u << 8 : 0);
		free_hv(m);
	}
	memcpy(signature, &leaves[0].ebx, 4);
	memcpy(signature + 4, &leaves[0].ecx, 4);
	memcpy(signature + 8, &leaves[0].edx, 4);
	assert_string_equal(signature, "Microsoft Hv");
	assert_int_equal(leaves[0].eax, 0x40000006);
	assert_int_equal(leaves[6].leaf, 0x40000006);
	assert_memory_equal(&leaves[1].eax, "Hv#1", 4);
}

static void frequencies_are_the_line(void **state)
{
	static const struct {
		uint32_t mult;
		uint64_t hz; /* 10^9 * 2^24 / mult, to nearest */
	} cases[] = { { 6462414, 2596121000 }, { 16777216, 1000000000 }, { 5592405, 3000000179 }, { 33554432, 500000000 } };

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, cases[i].mult);
		uint64_t exact = (uint64_t)((((u128)1000000000 << 25) / cases[i].mult + 1) / 2);

		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_FREQUENCY), exact);
		assert_true(exact / 1000000 == cases[i].hz / 1000000);
		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_APIC_FREQUENCY), APIC_HZ);
		free_hv(m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p10_values_are_taken_or_refused),
		cmocka_unit_test(what_was_not_offered_is_not_there),
		cmocka_unit_test(frequencies_are_the_line),
	};

	take_seed();
	return cmocka_run_group_tests_name("hyperv msr", tests, NULL, NULL);
}
