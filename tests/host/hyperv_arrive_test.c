/* SPDX-License-Identifier: MIT */
/*
 * hyperv_arrive_test.c - P1, P2, P12: a guest of Hyper-V's clock whose VMM has a format of its own: offered when its
 * CPUID comes, long after the attach; and carried by memory, MSRs and TSC alone, to a KVM of the same rate and to one
 * of another. A failure prints its seed.
 */
#include "machine.h"

#include "../random.h"

#include <pvclock/hyperv.h>

#include <inttypes.h>
#include <stdio.h>

#define SEEDS 500
#define PAGE 0x1000u
#define MEMORY 0x2000u
#define APIC_HZ 1000000000u
#define UNITS_AT_A_SWITCH 3 /* a new reference time begins within its bound of the line, and so did the old one */

struct hv {
	struct fake_kvm fake;
	struct pvclock_vm *vm;
	struct pvclock_vcpu *vcpu;
	struct pvclock_kvm *kvm;
	struct pvclock_slope host;
	_Alignas(4096) uint8_t memory[MEMORY];
};

static uint64_t seed;

#define require(holds)                                                                                     \
	do {                                                                                               \
		if (!(holds))                                                                              \
			fail_msg("PVCLOCK_SEED=%" PRIu64 " repeats it: %s", seed, #holds);                  \
	} while (0)

static struct hv *new_hv(uint64_t random, uint32_t mult, enum pvclock_mode mode)
{
	struct hv *m = aligned_alloc(4096, (sizeof(*m) + 4095) / 4096 * 4096);
	struct pvclock_kvm_config config = { .vm_fd = 3, .mode = mode };

	memset(m, 0, sizeof(*m));
	fake_kvm_init(&m->fake, random);
	m->fake.khz = (uint32_t)(((UINT64_C(1000000) << 24) + mult / 2) / mult);
	m->fake.tsc = random % (UINT64_C(1) << 50) + (UINT64_C(1) << 40);
	assert_true(pvclock_slope_from_kernel(mult, 24, &m->host));
	assert_int_equal(pvclock_vm_create(&m->fake.os, &m->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY, m->memory, 0), 0);
	config.os = &m->fake.os;
	config.vm = m->vm;
	assert_int_equal(pvclock_kvm_attach(&config, &m->kvm, NULL), 0);
	assert_int_equal(pvclock_vcpu_create(m->vm, 0, &m->vcpu), 0);
	assert_int_equal(pvclock_kvm_add_vcpu(m->kvm, m->vcpu, FAKE_VCPU_FD), 0);
	return m;
}

static void free_hv(struct hv *m)
{
	pvclock_kvm_remove_vcpu(m->kvm, m->vcpu);
	pvclock_vcpu_destroy(m->vcpu);
	pvclock_kvm_detach(m->kvm);
	pvclock_vm_destroy(m->vm);
	free(m);
}

static bool filtered(const struct hv *m, uint32_t msr)
{
	return !pvclock_kvm_filter_allows(&m->fake.filter, msr, KVM_MSR_FILTER_WRITE);
}

static uint64_t guest_tsc(const struct hv *m)
{
	return m->fake.tsc + m->fake.offset;
}

static uint64_t counter(struct hv *m)
{
	uint64_t value;

	assert_int_equal(pvclock_vcpu_read_msr(m->vcpu, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT, &value), 0);
	return value;
}

/* KVM's timers of this interface count by KVM's clock: no further from the guest's than the calls that set it take. */
static bool kernel_is_near(struct hv *m)
{
	struct pvclock_line line;
	int64_t apart;

	assert_int_equal(pvclock_vcpu_get_line(m->vcpu, &line), 0);
	apart = (int64_t)(fake_kvm_clock(&m->fake, m->fake.tsc) - pvclock_line_ns(&line, guest_tsc(m)));
	return llabs(apart) < 20000;
}

/* A guest that has run for a while by the page, and stands still. */
static struct hv *new_guest(uint64_t random, uint32_t mult)
{
	struct hv *m = new_hv(random, mult, PVCLOCK_MODE_OWN);

	assert_int_equal(pvclock_kvm_offer_hyperv(m->kvm, PVCLOCK_HYPERV_FEATURES, APIC_HZ, NULL), 0);
	assert_int_equal(pvclock_kvm_start(m->kvm, &m->host), 0);
	require(kernel_is_near(m));
	for (uint64_t i = 0; i < 2 + random % 5; i++) /* each time with another sequence */
		assert_int_equal(pvclock_vcpu_write_msr(m->vcpu, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 0);
	m->fake.tsc += random % (UINT64_C(1) << 44);
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	return m;
}

/* What QEMU does: memory, MSRs, TSC. Returns the guest TSC of the switch. */
static uint64_t carry(struct hv *from, struct hv *to, struct pvclock_arrived *arrived)
{
	uint64_t tsc = guest_tsc(from), msr = 0;
	struct pvclock_arrival_tsc one = { .vcpu = to->vcpu, .tsc = tsc };
	struct pvclock_arrival arrival = { .host = &to->host, .tscs = &one, .tsc_count = 1, .ns = UINT64_MAX };

	memcpy(to->memory, from->memory, MEMORY);
	assert_int_equal(pvclock_kvm_offer_hyperv(to->kvm, PVCLOCK_HYPERV_FEATURES, APIC_HZ, NULL), 0);
	assert_int_equal(pvclock_kvm_start(to->kvm, &to->host), 0);
	assert_int_equal(pvclock_vcpu_read_msr(from->vcpu, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, &msr), 0);
	assert_int_equal(pvclock_vcpu_restore_msr(to->vcpu, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, msr), 0);
	assert_int_equal(pvclock_vm_read_hyperv_page(to->vm, (struct pvclock_gpa){ PAGE }, &arrival.hyperv), 0);
	require(pvclock_line_from_hyperv(&arrival.hyperv.hyperv, tsc, &arrival.line));
	assert_int_equal(pvclock_kvm_arrive(to->kvm, &arrival, arrived, NULL), 0);
	return tsc;
}

static void each(void (*property)(uint64_t random))
{
	const char *one = getenv("PVCLOCK_SEED");
	uint64_t last = one ? strtoull(one, NULL, 0) : SEEDS - 1;

	for (seed = one ? last : 0; seed <= last; seed++) {
		uint64_t state = seed;

		property(splitmix64(&state));
	}
}

static uint32_t mult_of(uint64_t random)
{
	return 4000000 + (uint32_t)(random % 12000000); /* 1.0 to 4.2 GHz */
}

/* Not a bit of the page is another, and the counter goes on by it. */
static void same_rate(uint64_t random)
{
	struct hv *from = new_guest(random, mult_of(random)), *to = new_hv(~random, mult_of(random), PVCLOCK_MODE_OWN);
	struct pvclock_hyperv_snapshot page;
	struct pvclock_arrived arrived;
	uint64_t tsc = carry(from, to, &arrived);

	require(arrived.exact);
	assert_int_equal(pvclock_kvm_resume(to->kvm, NULL, NULL), 0);
	assert_memory_equal(to->memory, from->memory, MEMORY);
	require(guest_tsc(to) - tsc < 100000);
	require(pvclock_hyperv_page_read(to->memory + PAGE, &page) == PVCLOCK_READ_OK);
	for (int i = 0; i < 20; i++) {
		uint64_t before = pvclock_hyperv_time(&page.hyperv, guest_tsc(to)), now = counter(to);

		require(now >= before && now <= pvclock_hyperv_time(&page.hyperv, guest_tsc(to)));
		to->fake.tsc += random % 100000;
	}
	require(kernel_is_near(to));
	free_hv(to);
	free_hv(from);
}

static void p1_a_page_arrives_as_it_was(void **state)
{
	(void)state;
	each(same_rate);
}

/* Another page, which goes on where the old one was read last. */
static void other_rate(uint64_t random)
{
	struct hv *from = new_guest(random, mult_of(random)), *to = new_hv(~random, mult_of(random ^ 0x5555), PVCLOCK_MODE_OWN);
	struct pvclock_hyperv_snapshot was, is;
	struct pvclock_arrived arrived;
	uint64_t tsc = carry(from, to, &arrived), last, first;

	if (from->host.mantissa == to->host.mantissa)
		return free_hv(to), free_hv(from);
	require(!arrived.exact);
	assert_int_equal(pvclock_kvm_resume(to->kvm, NULL, NULL), 0);
	require(pvclock_hyperv_page_read(from->memory + PAGE, &was) == PVCLOCK_READ_OK);
	require(pvclock_hyperv_page_read(to->memory + PAGE, &is) == PVCLOCK_READ_OK);
	require(is.hyperv.scale != was.hyperv.scale && is.sequence != was.sequence);
	last = pvclock_hyperv_time(&was.hyperv, tsc);
	first = pvclock_hyperv_time(&is.hyperv, guest_tsc(to));
	require(first >= last);
	require(pvclock_hyperv_time(&is.hyperv, tsc) - last + UNITS_AT_A_SWITCH <= 2 * UNITS_AT_A_SWITCH);
	require(kernel_is_near(to));
	free_hv(to);
	free_hv(from);
}

static void p2_another_rate_goes_on(void **state)
{
	(void)state;
	each(other_rate);
}

/* What lies in the guest's hands may be no clock, or not this one's: reference time is the line's then. */
static void p10_a_page_that_lies_is_not_followed(void **state)
{
	struct hv *m = new_hv(1, 6462365, PVCLOCK_MODE_OWN);
	struct pvclock_hyperv_snapshot lie = { { UINT64_C(71054033000000000), 12345 }, 7 }, none = { { 0, 0 }, 7 }, page;
	struct pvclock_line line;

	(void)state;
	assert_int_equal(pvclock_kvm_offer_hyperv(m->kvm, PVCLOCK_HYPERV_FEATURES, APIC_HZ, NULL), 0);
	assert_int_equal(pvclock_kvm_start(m->kvm, &m->host), 0);
	assert_int_equal(pvclock_vcpu_write_msr(m->vcpu, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 0);
	assert_int_equal(pvclock_vm_read_hyperv_page(m->vm, (struct pvclock_gpa){ MEMORY }, &page), -EFAULT);
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	assert_int_equal(pvclock_vm_adopt_hyperv(m->vm, &none, 0), -EINVAL);
	assert_int_equal(pvclock_vm_adopt_hyperv(m->vm, &(struct pvclock_hyperv_snapshot){ lie.hyperv, 0 }, 0), -EINVAL);
	assert_int_equal(pvclock_vm_adopt_hyperv(m->vm, &lie, guest_tsc(m)), 0);
	assert_int_equal(pvclock_kvm_resume(m->kvm, NULL, NULL), 0);
	assert_int_equal(pvclock_hyperv_page_read(m->memory + PAGE, &page), PVCLOCK_READ_OK);
	assert_int_not_equal(page.hyperv.offset, lie.hyperv.offset);
	assert_int_equal(pvclock_vcpu_get_line(m->vcpu, &line), 0);
	assert_in_range(pvclock_hyperv_time(&page.hyperv, guest_tsc(m)) * 100 - pvclock_line_ns(&line, guest_tsc(m)) + 200, 0, 400);
	free_hv(m);
}

/* The offer that comes late: in own mode, once, and not by halves. */
static void an_offer_after_the_attach(void **state)
{
	struct hv *own = new_hv(2, 6462365, PVCLOCK_MODE_OWN), *steer = new_hv(3, 6462365, PVCLOCK_MODE_STEER);
	struct pvclock_reason reason;
	unsigned int calls = own->fake.filter_calls;
	uint64_t value;

	(void)state;
	assert_int_equal(pvclock_kvm_offer_hyperv(steer->kvm, PVCLOCK_HYPERV_FEATURES, APIC_HZ, &reason), -ENOTSUP);
	assert_non_null(strstr(reason.text, "steer mode"));
	assert_int_equal(pvclock_vm_offered_hyperv(steer->vm), 0);

	assert_false(filtered(own, PVCLOCK_HYPERV_MSR_REFERENCE_TSC));
	own->fake.refused = KVM_X86_SET_MSR_FILTER;
	assert_int_equal(pvclock_kvm_offer_hyperv(own->kvm, PVCLOCK_HYPERV_FEATURES, APIC_HZ, &reason), -EPERM);
	assert_int_equal(pvclock_vm_offered_hyperv(own->vm), 0);
	own->fake.refused = 0;
	assert_int_equal(pvclock_vcpu_read_msr(own->vcpu, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, &value), -ENOENT);
	assert_int_equal(pvclock_kvm_set_filter(own->kvm, NULL, &reason), 0);
	assert_false(filtered(own, PVCLOCK_HYPERV_MSR_REFERENCE_TSC)); /* it was refused, and is not remembered */

	calls = own->fake.filter_calls;
	assert_int_equal(pvclock_kvm_offer_hyperv(own->kvm, PVCLOCK_HYPERV_COUNTER, APIC_HZ, &reason), 0);
	assert_true(filtered(own, PVCLOCK_HYPERV_MSR_REFERENCE_TSC));
	assert_true(filtered(own, PVCLOCK_MSR_SYSTEM_TIME));
	assert_int_equal(pvclock_vm_offered_hyperv(own->vm), PVCLOCK_HYPERV_COUNTER);
	assert_int_equal(pvclock_kvm_offer_hyperv(own->kvm, PVCLOCK_HYPERV_FEATURES, APIC_HZ, &reason), 0); /* each vCPU's CPUID says so */
	assert_int_equal(own->fake.filter_calls, calls + 1);
	assert_int_equal(pvclock_vm_offered_hyperv(own->vm), PVCLOCK_HYPERV_FEATURES);
	free_hv(steer);
	free_hv(own);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_a_page_arrives_as_it_was),
		cmocka_unit_test(p2_another_rate_goes_on),
		cmocka_unit_test(p10_a_page_that_lies_is_not_followed),
		cmocka_unit_test(an_offer_after_the_attach),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
