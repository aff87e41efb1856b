/* SPDX-License-Identifier: MIT */
/*
 * hyperv_test.c - P10, P12: Hyper-V's clock as docs/hyperv.md promises it, through the binding on KVMs in virtual time: which
 * values its MSRs take; that page and counter are one function, and within the bounds of the pvclock page beside it, at random
 * ticks and at the ones where a reading turns; that events leave it alone, bit for bit, or replace it without a step back; and
 * what a guest is told, that wants to be told.
 *
 *     hyperv_test [EVENTS TICKS]    so many events, after each so many ticks; PVCLOCK_SEED
 */
#include "machine.h"

#include "../random.h"

#include <pvclock/record.h>

#include <inttypes.h>
#include <stdio.h>

#define PAGE 0x1000u
#define CLOCK 0x40u
#define MEMORY 0x3000u
#define APIC_HZ 1000000000u

typedef unsigned __int128 u128;
typedef __int128 s128;

struct hv {
	struct fake_kvm fake;
	struct pvclock_vm *vm;
	struct pvclock_vcpu *vcpus[2];
	struct pvclock_kvm *kvm;
	struct pvclock_slope host;
	unsigned int count;
	uint32_t mult; /* the host's, at shift 24 */
	_Alignas(4096) uint8_t memory[MEMORY];
};

static uint64_t seed;

static void create(struct hv *m, unsigned int vcpus, uint32_t features, uint32_t mult)
{
	struct pvclock_kvm_config config = { .os = &m->fake.os, .vm_fd = 3, .mode = PVCLOCK_MODE_OWN };

	memset(m, 0, sizeof(*m));
	fake_kvm_init(&m->fake, seed);
	m->fake.khz = (uint32_t)(((1000000ull << 24) + mult / 2) / mult);
	m->count = vcpus;
	m->mult = mult;
	assert_true(pvclock_slope_from_kernel(mult, 24, &m->host));
	assert_int_equal(pvclock_vm_create(&m->fake.os, &m->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY, m->memory, 0), 0);
	pvclock_vm_offer_hyperv(m->vm, features, APIC_HZ);
	config.vm = m->vm;
	assert_int_equal(pvclock_kvm_attach(&config, &m->kvm, NULL), 0);
	for (uint32_t i = 0; i < vcpus; i++) {
		assert_int_equal(pvclock_vcpu_create(m->vm, i, &m->vcpus[i]), 0);
		assert_int_equal(pvclock_kvm_add_vcpu(m->kvm, m->vcpus[i], FAKE_VCPU_FD + (int)i), 0);
	}
}

static struct hv *new_hv(unsigned int vcpus, uint32_t features, uint32_t mult)
{
	struct hv *m = aligned_alloc(4096, (sizeof(*m) + 4095) / 4096 * 4096);

	create(m, vcpus, features, mult);
	assert_int_equal(pvclock_kvm_start(m->kvm, &m->host), 0);
	return m;
}

static void free_hv(struct hv *m)
{
	for (unsigned int i = 0; i < m->count; i++) {
		pvclock_kvm_remove_vcpu(m->kvm, m->vcpus[i]);
		pvclock_vcpu_destroy(m->vcpus[i]);
	}
	pvclock_kvm_detach(m->kvm);
	pvclock_vm_destroy(m->vm);
	free(m);
}

/* As a guest does it: 1: done; -1: #GP. */
static int write_msr(struct hv *m, uint32_t msr, uint64_t value)
{
	struct kvm_run run = { .exit_reason = KVM_EXIT_X86_WRMSR };

	run.msr.index = msr;
	run.msr.data = value;
	run.msr.reason = KVM_MSR_EXIT_REASON_FILTER;
	assert_int_equal(pvclock_kvm_handle_exit(m->kvm, m->vcpus[0], &run), 1);
	return run.msr.error ? -1 : 1;
}

static uint64_t read_msr(struct hv *m, uint32_t msr)
{
	struct kvm_run run = { .exit_reason = KVM_EXIT_X86_RDMSR };

	run.msr.index = msr;
	run.msr.reason = KVM_MSR_EXIT_REASON_FILTER;
	assert_int_equal(pvclock_kvm_handle_exit(m->kvm, m->vcpus[0], &run), 1);
	assert_int_equal(run.msr.error, 0);
	return run.msr.data;
}

static void turn_on(struct hv *m)
{
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 1);
	assert_int_equal(write_msr(m, PVCLOCK_MSR_SYSTEM_TIME, CLOCK | 1), 1);
}

static void blackout(struct hv *m)
{
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	m->fake.tsc += 1 + splitmix64(&seed) % 100000000;
	assert_int_equal(pvclock_kvm_resume(m->kvm, NULL, NULL), 0);
}

static void set_policy(struct hv *m, enum pvclock_passing passing)
{
	struct pvclock_policy policy;

	pvclock_vm_get_policy(m->vm, &policy);
	policy.on[PVCLOCK_BLACKOUT_PAUSE] = passing;
	pvclock_vm_set_policy(m->vm, &policy);
}

static bool read_page(const struct hv *m, struct pvclock_hyperv_snapshot *page)
{
	return pvclock_hyperv_page_read(m->memory + PAGE, page) == PVCLOCK_READ_OK;
}

static struct pvclock_hyperv_snapshot page_of(const struct hv *m)
{
	struct pvclock_hyperv_snapshot page;

	assert_true(read_page(m, &page));
	return page;
}

static bool same_time(const struct pvclock_hyperv_line *a, const struct pvclock_hyperv_line *b)
{
	return a->scale == b->scale && a->offset == b->offset;
}

/* --- the definition, in 128 bits ------------------------------------------------------------------------ */

static uint64_t reference_time(const struct pvclock_hyperv_line *hyperv, uint64_t tick)
{
	return (uint64_t)((u128)tick * hyperv->scale >> 64) + (uint64_t)hyperv->offset;
}

static uint64_t system_time(const struct pvclock_line *line, uint64_t tick)
{
	u128 d = tick > line->tsc ? tick - line->tsc : 0;

	d = line->shift < 0 ? d >> -line->shift : d << line->shift;
	return line->ns + (uint64_t)(d * line->mul >> 32);
}

/* -1 - e < R - line / 100 < 1.02 + e, e = t / 2^65; in units of 2^-65 / 100, exactly. */
static bool within(uint64_t time, uint64_t ns, uint64_t tick)
{
	s128 apart = ((s128)time * 100 - (s128)ns) * ((s128)1 << 65), e = (s128)100 * tick;

	return apart > -((s128)100 << 65) - e && apart < ((s128)102 << 65) + e;
}

/* The counter as the vCPU reads it at a tick. */
static uint64_t counter_at(struct hv *m, uint64_t tick)
{
	uint64_t value;

	m->fake.tsc = tick - m->fake.offset - 30; /* which the reading itself takes */
	assert_int_equal(pvclock_vcpu_read_msr(m->vcpus[0], PVCLOCK_HYPERV_MSR_TIME_REF_COUNT, &value), 0);
	return value;
}

/* Page, counter and pvclock page at one tick. */
static void judge(struct hv *m, const struct pvclock_hyperv_line *page, const struct pvclock_line *line, uint64_t tick)
{
	uint64_t time = reference_time(page, tick), counter = counter_at(m, tick), ns = system_time(line, tick);

	if (pvclock_hyperv_time(page, tick) != time || counter != time)
		fail_msg("at tick %" PRIu64 " the page says %" PRIu64 " and the counter %" PRIu64 " (seed %" PRIu64 ")", tick,
			 time, counter, seed);
	if (!within(time, ns, tick))
		fail_msg("at tick %" PRIu64 " reference time is %" PRIu64 " and the clock reads %" PRIu64 " ns (seed %" PRIu64 ")",
			 tick, time, ns, seed);
}

/* At `ticks` ticks from now on; half of them where the reading turns. */
static uint64_t judge_all(struct hv *m, const struct pvclock_hyperv_line *hyperv, unsigned int ticks)
{
	uint64_t host = m->fake.tsc, now = host + m->fake.offset, state = splitmix64(&seed);
	struct pvclock_line line;

	assert_int_equal(pvclock_vcpu_get_line(m->vcpus[0], &line), 0);
	for (unsigned int i = 0; i < ticks; i += 2) {
		uint64_t random = splitmix64(&state), tick = now + (random >> 1) % ((uint64_t)1 << (8 + random % 44));
		u128 n = ((u128)tick * hyperv->scale >> 64) + 1;
		uint64_t turn = (uint64_t)(((n << 64) + hyperv->scale - 1) / hyperv->scale);

		judge(m, hyperv, &line, i % 4 ? tick : turn - 1);
		judge(m, hyperv, &line, turn);
	}
	m->fake.tsc = host;
	return ticks;
}

/* --- MSRs ------------------------------------------------------------------------------------------------- */

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

/* --- the page ------------------------------------------------------------------------------------------------ */

static void the_page_is_written_where_it_was_asked_for(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	uint8_t zeros[MEMORY] = { 0 }, bitmap[8] = { 0 };
	struct pvclock_hyperv_snapshot page;
	struct pvclock_hyperv_line line;

	(void)state;
	/* not before it is enabled */
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE), 1);
	blackout(m);
	assert_memory_equal(m->memory, zeros, MEMORY);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 1);
	page = page_of(m);
	assert_int_equal(page.sequence, 1);
	assert_memory_equal(m->memory, zeros, PAGE);
	assert_memory_equal(m->memory + PAGE + 24, zeros, MEMORY - PAGE - 24);
	assert_int_equal(pvclock_vm_take_dirty(m->vm, (struct pvclock_gpa){ 0 }, MEMORY, bitmap), 1);
	assert_int_equal(bitmap[0], 2);
	/* asked for again: the same, with the next sequence; elsewhere: the old memory is the guest's */
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 1);
	line = page.hyperv;
	page = page_of(m);
	assert_int_equal(page.sequence, 2);
	assert_true(same_time(&page.hyperv, &line));
	memset(m->memory + PAGE, 0, 24);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, (PAGE + 0x1000) | 1), 1);
	assert_memory_equal(m->memory, zeros, PAGE + 0x1000);
	assert_int_equal(((struct pvclock_hyperv_page *)(void *)(m->memory + PAGE + 0x1000))->sequence, 3);
	/* disabled: never written again, whatever happens */
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, 0), 1);
	memset(m->memory, 0, MEMORY);
	m->fake.offset_ignored = true;
	set_policy(m, PVCLOCK_FREEZE);
	blackout(m);
	assert_memory_equal(m->memory, zeros, MEMORY);
	/* where no memory is: the counter goes on; the page comes with the memory */
	assert_int_equal(pvclock_vm_remove_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY), 0);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 1);
	assert_true(read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT) > 0);
	assert_memory_equal(m->memory, zeros, MEMORY);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY, m->memory, PVCLOCK_MEMORY_READONLY), 0);
	blackout(m);
	assert_memory_equal(m->memory, zeros, MEMORY);
	assert_int_equal(pvclock_vm_remove_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY), 0);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY, m->memory, 0), 0);
	page = page_of(m);
	judge_all(m, &page.hyperv, 10);
	free_hv(m);
}

/* TSCs that differ have no page in common. */
static void p4_an_unstable_vm_has_the_counter(void **state)
{
	struct hv *m = new_hv(2, PVCLOCK_HYPERV_FEATURES, 6462370);
	struct pvclock_tsc_transform tsc = { .offset = m->fake.offset + 12345 };
	struct pvclock_hyperv_snapshot page, again;
	uint64_t first, second;

	(void)state;
	turn_on(m);
	page = page_of(m);
	assert_int_equal(pvclock_vcpu_set_tsc(m->vcpus[1], &tsc, false), 0);
	assert_false(read_page(m, &again));
	judge_all(m, &page.hyperv, 100); /* the counter is what it was */
	first = m->fake.tsc;
	assert_int_equal(pvclock_vcpu_read_msr(m->vcpus[1], PVCLOCK_HYPERV_MSR_TIME_REF_COUNT, &second), 0);
	assert_int_equal(second, reference_time(&page.hyperv, first + 30 + m->fake.offset)); /* and the same for all */
	tsc.offset = m->fake.offset;
	assert_int_equal(pvclock_vcpu_set_tsc(m->vcpus[1], &tsc, false), 0);
	again = page_of(m);
	assert_true(same_time(&page.hyperv, &again.hyperv) && again.sequence == page.sequence + 1);
	free_hv(m);
}

/* What lies in the guest's memory where it asks for a page is no clock, if there is none to be had. */
static void p10_what_was_there_before_is_no_clock(void **state)
{
	struct hv *m = new_hv(2, PVCLOCK_HYPERV_FEATURES, 6462370);
	struct pvclock_tsc_transform tsc = { .offset = m->fake.offset + 12345 };
	struct pvclock_hyperv_snapshot page;
	uint8_t rest[MEMORY];

	(void)state;
	turn_on(m);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE), 1);
	assert_true(read_page(m, &page)); /* disabled, it stays as it is */
	assert_int_equal(pvclock_vcpu_set_tsc(m->vcpus[1], &tsc, false), 0);
	assert_true(read_page(m, &page));
	memset(m->memory + PAGE, 0x5a, MEMORY - PAGE);
	memcpy(rest, m->memory, MEMORY);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 1);
	assert_false(read_page(m, &page));
	assert_memory_equal(m->memory + PAGE + 4, rest + PAGE + 4, MEMORY - PAGE - 4);
	/* nor when the memory comes later */
	assert_int_equal(pvclock_vm_remove_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY), 0);
	memset(m->memory + PAGE, 0x5a, 24);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY, m->memory, 0), 0);
	assert_false(read_page(m, &page));
	tsc.offset = m->fake.offset;
	assert_int_equal(pvclock_vcpu_set_tsc(m->vcpus[1], &tsc, false), 0);
	page = page_of(m);
	judge_all(m, &page.hyperv, 10);
	free_hv(m);
}

/* A tick of 100 ns and more has no place in the form. */
static void a_slow_tsc_has_the_counter(void **state)
{
	struct hv *m = aligned_alloc(4096, (sizeof(*m) + 4095) / 4096 * 4096);
	struct pvclock_hyperv_snapshot page;
	uint64_t value;

	(void)state;
	create(m, 1, PVCLOCK_HYPERV_FEATURES, 6462370);
	assert_true(pvclock_slope_from_hz(5000000, &m->host));
	m->fake.khz = 5000;
	assert_int_equal(pvclock_kvm_start(m->kvm, &m->host), 0);
	turn_on(m);
	assert_false(read_page(m, &page));
	for (int i = 0; i < 100; i++) {
		struct pvclock_line line;

		m->fake.tsc += 1000;
		value = read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT);
		pvclock_vcpu_get_line(m->vcpus[0], &line);
		assert_int_equal(value, system_time(&line, m->fake.tsc + m->fake.offset) / 100);
	}
	assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_FREQUENCY), 5000000);
	free_hv(m);
}

/*
 * Which lines of the same slope reference time still agrees with: those for which its definition holds, to the ns, and no others.
 */
static void p12_it_is_kept_exactly_as_long_as_it_agrees(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	unsigned int kept = 0, renewed = 0;

	(void)state;
	turn_on(m);
	for (int round = 0; round < 50; round++) {
		struct pvclock_hyperv_snapshot page, next;
		struct pvclock_line first, line;

		/* another function, far from this one, so that each round begins with one that is new */
		assert_int_equal(pvclock_vcpu_get_line(m->vcpus[0], &first), 0);
		first.tsc = splitmix64(&seed) >> (round % 2 ? 2 : 20);
		first.ns = splitmix64(&seed) >> 1;
		m->fake.tsc = first.tsc - m->fake.offset + 1000;
		assert_int_equal(pvclock_vcpu_set_line(m->vcpus[0], &first), 0);
		for (int move = -230; move <= 230; move += 1 + (int)(splitmix64(&seed) % 9)) {
			s128 apart, e;
			bool agrees;

			assert_int_equal(pvclock_vcpu_set_line(m->vcpus[0], &first), 0);
			page = page_of(m);
			line = first;
			line.ns += (uint64_t)(int64_t)move;
			/* Y(a), in units of 2^-65 / 100 */
			apart = ((s128)((u128)line.tsc * page.hyperv.scale >> 64) + page.hyperv.offset) * 100 - (s128)line.ns;
			apart = apart * ((s128)1 << 65) + (s128)(uint64_t)((u128)line.tsc * page.hyperv.scale) * 200;
			e = (s128)100 * line.tsc;
			agrees = apart >= -e && apart < ((s128)100 << 65) + e;
			assert_int_equal(pvclock_vcpu_set_line(m->vcpus[0], &line), 0);
			next = page_of(m);
			if (agrees != (next.sequence == page.sequence) || agrees != same_time(&next.hyperv, &page.hyperv))
				fail_msg("moved by %d ns: %s (seed %" PRIu64 ")", move, agrees ? "replaced" : "kept", seed);
			kept += agrees;
			renewed += !agrees;
			judge_all(m, &next.hyperv, 20);
		}
	}
	assert_true(kept > 200 && renewed > 200);
	free_hv(m);
}

/* Another rate at the very tick: with nothing in between that would pass the time. */
static void p2_a_new_function_waits_for_the_old_one(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	unsigned int waited = 0;

	(void)state;
	turn_on(m);
	for (int round = 0; round < 1000; round++) {
		static const uint32_t mults[] = { 6462371, 6462370, 5592405 };
		struct pvclock_hyperv_snapshot page;
		struct pvclock_hyperv_line fresh;
		struct pvclock_line line, next;
		struct pvclock_slope slope;
		uint64_t last, tick;

		m->fake.tsc += splitmix64(&seed) % 1000000;
		last = read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT);
		assert_int_equal(pvclock_vm_pause(m->vm), 0);
		tick = m->fake.tsc + m->fake.offset;
		assert_int_equal(pvclock_vcpu_get_line(m->vcpus[0], &line), 0);
		assert_true(pvclock_slope_from_kernel(mults[round % 3], 24, &slope));
		assert_true(pvclock_line_continue(&line, tick, tick, &slope, &next, NULL));
		assert_true(pvclock_line_to_hyperv(&next, &fresh));
		waited += reference_time(&fresh, tick) < last;
		assert_int_equal(pvclock_vcpu_set_line(m->vcpus[0], &next), 0);
		assert_int_equal(pvclock_vm_resume(m->vm), 0);
		page = page_of(m);
		if (reference_time(&page.hyperv, m->fake.tsc + m->fake.offset) < last)
			fail_msg("round %d: backwards (seed %" PRIu64 ")", round, seed);
		judge_all(m, &page.hyperv, 10);
	}
	assert_true(waited > 10);
	free_hv(m);
}

/* --- records -------------------------------------------------------------------------------------------------- */

/* Another VMM, on this host or one that runs at another rate, with the guest's memory. */
/* mult 0: the same one. */
static struct hv *move(struct hv *from, uint32_t mult, enum pvclock_blackout blackout, uint64_t ticks)
{
	struct hv *to = aligned_alloc(4096, (sizeof(*to) + 4095) / 4096 * 4096);
	bool other = mult != 0;
	struct pvclock_record record, read;
	struct pvclock_reason reason;
	uint8_t bytes[2048];
	ssize_t size;

	assert_int_equal(pvclock_kvm_pause(from->kvm), 0);
	assert_int_equal(pvclock_kvm_save(from->kvm, &record), 0);
	size = pvclock_record_encode(&record, bytes, sizeof(bytes), &reason);
	assert_true(size > 0);
	assert_int_equal(pvclock_record_decode(bytes, (size_t)size, &read, &reason), 0);
	create(to, from->count, PVCLOCK_HYPERV_FEATURES, other ? mult : from->mult);
	to->fake.tsc = from->fake.tsc + ticks;
	to->fake.offset = to->fake.second_offset = from->fake.offset_ignored ? from->fake.offset : -to->fake.tsc;
	to->fake.offset_ignored = from->fake.offset_ignored;
	memcpy(to->memory, from->memory, MEMORY);
	if (pvclock_kvm_restore(to->kvm, &read, blackout, other ? &to->host : NULL, NULL, &reason) != 0)
		fail_msg("%s", reason.text);
	assert_int_equal(pvclock_kvm_resume(to->kvm, NULL, NULL), 0);
	pvclock_record_clear(&record);
	pvclock_record_clear(&read);
	free_hv(from);
	return to;
}

static void p6_all_of_it_goes_with_the_record(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370), *bare;
	uint8_t page[24];
	struct pvclock_record record;
	struct pvclock_reason reason;

	(void)state;
	turn_on(m);
	turn_on(m); /* its sequence is not the first one */
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, 0x1000100ee), 1);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, 1), 1);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL, 1), 1);
	memcpy(page, m->memory + PAGE, sizeof(page));
	for (unsigned int i = 0; i < 3; i++) {
		m = move(m, 0, i ? PVCLOCK_BLACKOUT_SNAPSHOT : PVCLOCK_BLACKOUT_LIVE_UPDATE, 1000003);
		assert_memory_equal(m->memory + PAGE, page, sizeof(page));
		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC), PAGE | 1);
		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL), 0x1000100ee);
		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL), 1);
		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS), 0);
		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL), 1);
		assert_int_equal(m->fake.signals, 0);
	}
	/* a VMM that does not offer what the guest uses is refused, before anything is done */
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	assert_int_equal(pvclock_kvm_save(m->kvm, &record), 0);
	bare = aligned_alloc(4096, (sizeof(*bare) + 4095) / 4096 * 4096);
	create(bare, 1, PVCLOCK_HYPERV_COUNTER | PVCLOCK_HYPERV_TSC_PAGE | PVCLOCK_HYPERV_REENLIGHTENMENT, 6462370);
	assert_int_equal(pvclock_kvm_restore(bare->kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, NULL, NULL, &reason), -ENOTSUP);
	assert_non_null(strstr(reason.text, "pvclock_vm_offer_hyperv"));
	pvclock_record_clear(&record);
	free_hv(bare);
	free_hv(m);
}

/* The engine alone: bit for bit back. */
static void p6_capture_and_apply_are_each_others_inverse(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	struct pvclock_hyperv_snapshot page;
	struct pvclock_record record, again;
	uint8_t before[MEMORY];

	(void)state;
	turn_on(m);
	assert_int_equal(pvclock_vm_pause(m->vm), 0);
	assert_int_equal(pvclock_record_capture(m->vm, &record), 0);
	memcpy(before, m->memory, MEMORY);
	assert_int_equal(pvclock_record_apply(&record, m->vm, NULL, NULL), 0);
	assert_int_equal(pvclock_record_capture(m->vm, &again), 0);
	assert_int_equal(again.hyperv_tsc_page, PAGE | 1);
	assert_true(same_time(&record.hyperv, &again.hyperv) && record.hyperv.scale != 0);
	assert_int_equal(record.hyperv_sequence, again.hyperv_sequence);
	assert_int_equal(pvclock_vm_resume(m->vm), 0);
	assert_memory_equal(m->memory + PAGE, before + PAGE, 24);
	/* memory that says something else is put right */
	memset(m->memory + PAGE, 0x5a, 24);
	assert_int_equal(pvclock_vm_pause(m->vm), 0);
	assert_int_equal(pvclock_record_apply(&record, m->vm, NULL, NULL), 0);
	assert_int_equal(pvclock_vm_resume(m->vm), 0);
	page = page_of(m);
	assert_true(same_time(&page.hyperv, &record.hyperv));
	assert_int_equal(page.sequence, record.hyperv_sequence + 1);
	pvclock_record_clear(&record);
	pvclock_record_clear(&again);
	free_hv(m);
}

/* --- re-enlightenment ------------------------------------------------------------------------------------------ */

static void p8_another_rate_is_told(void **state)
{
	static const struct {
		uint32_t reenlightenment, emulation;
		bool ignored; /* the same rate: a freeze moves the line */
	} cases[] = { { 0x100ee, 1, false }, { 0x100ee, 0, false }, { 0, 1, false }, { 0, 0, false }, { 0x100ee, 1, true } };

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv *m = new_hv(2, PVCLOCK_HYPERV_FEATURES, 6462370);
		struct pvclock_hyperv_snapshot before, after;
		struct pvclock_hyperv_page words;
		uint64_t last, now;

		m->fake.offset_ignored = cases[i].ignored;
		turn_on(m);
		assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, cases[i].reenlightenment | 1ull << 32),
				 1);
		assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, cases[i].emulation), 1);
		blackout(m); /* the same function: nothing is to be told, and nothing touched */
		before = page_of(m);
		assert_int_equal(m->fake.signals, 0);
		assert_int_equal(before.sequence, 1);
		last = read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT);
		if (cases[i].ignored) {
			set_policy(m, PVCLOCK_FREEZE);
			blackout(m);
		} else {
			m = move(m, 5592405, PVCLOCK_BLACKOUT_MIGRATION, 77777);
		}
		now = read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT);
		assert_true(now >= last);
		assert_int_equal(m->fake.signals, cases[i].reenlightenment ? 1 : 0);
		if (m->fake.signals) {
			assert_int_equal(m->fake.signal.data, 0xee);
			assert_int_equal(m->fake.signal.address_lo, 0xfee01000);
		}
		assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS), cases[i].emulation);
		if (!cases[i].ignored)
			assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_FREQUENCY), 3000000179);
		if (cases[i].emulation) { /* no clock, and no other word has changed; the counter goes on at the new rate */
			memcpy(&words, m->memory + PAGE, sizeof(words));
			assert_int_equal(words.sequence, 0);
			assert_true(words.scale == before.hyperv.scale && words.offset == before.hyperv.offset);
			blackout(m); /* a guest that does not acknowledge: so it stays */
			m = move(m, 0, PVCLOCK_BLACKOUT_SNAPSHOT, 5);
			assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS), 1);
			assert_false(read_page(m, &after));
			assert_true(read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT) >= now);
			if (i == 0)
				assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS, 0), 1);
			else
				assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, 0), 1);
			assert_int_equal(read_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS), 0);
		}
		after = page_of(m);
		if (after.sequence != 2)
			fail_msg("case %zu: sequence %u", i, after.sequence);
		assert_false(same_time(&after.hyperv, &before.hyperv));
		judge_all(m, &after.hyperv, 100);
		free_hv(m);
	}
}

/* A guest that sets its page up anew while one waits has asked for it. */
static void a_page_that_is_asked_for_waits_for_nothing(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	struct pvclock_hyperv_snapshot page;

	(void)state;
	turn_on(m);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, 1), 1);
	m = move(m, 5592405, PVCLOCK_BLACKOUT_MIGRATION, 77777);
	assert_false(read_page(m, &page));
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 1);
	page = page_of(m);
	judge_all(m, &page.hyperv, 10);
	/* and stays */
	blackout(m);
	assert_int_equal(page_of(m).sequence, page.sequence);
	free_hv(m);
}

/* Its own doing: it needs nobody to tell it. */
static void a_guest_that_writes_its_tsc_is_not_told(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	struct pvclock_hyperv_snapshot page;
	uint64_t last;

	(void)state;
	turn_on(m);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, 0x100ee), 1);
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, 1), 1);
	last = read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT);
	assert_int_equal(write_msr(m, 0x10, 0x123456789abc), 1);
	page = page_of(m);
	assert_int_equal(page.sequence, 2);
	assert_true(read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT) >= last);
	blackout(m);
	assert_int_equal(m->fake.signals, 0);
	judge_all(m, &page.hyperv, 10);
	free_hv(m);
}

/* --- a long life --------------------------------------------------------------------------------------------------- */

static unsigned int events = 1000, ticks = 200;

enum { PASSES, FREEZES, FREEZES_BY_LINE, UPDATES, SNAPSHOTS, MIGRATES, TSC_WRITTEN, MEMORY_MOVES, KINDS };

static struct hv *happen(struct hv *m, unsigned int kind)
{
	static const uint32_t mults[] = { 6462370, 6462371, 5592405, 8388608, 16777216, 7049376, 4194305 };

	m->fake.offset_ignored = kind == FREEZES_BY_LINE;
	set_policy(m, kind == FREEZES || kind == FREEZES_BY_LINE ? PVCLOCK_FREEZE : PVCLOCK_ADVANCE);
	switch (kind) {
	case UPDATES:
		return move(m, 0, PVCLOCK_BLACKOUT_LIVE_UPDATE, splitmix64(&seed) % 10000000);
	case SNAPSHOTS:
		return move(m, 0, PVCLOCK_BLACKOUT_SNAPSHOT, splitmix64(&seed) >> 30);
	case MIGRATES:
		return move(m, mults[splitmix64(&seed) % 7], PVCLOCK_BLACKOUT_MIGRATION, splitmix64(&seed) % 10000000);
	case TSC_WRITTEN:
		assert_int_equal(write_msr(m, 0x10, splitmix64(&seed) >> 8), 1);
		return m;
	case MEMORY_MOVES:
		assert_int_equal(pvclock_vm_remove_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY), 0);
		assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY, m->memory, 0), 0);
		return m;
	default:
		blackout(m);
		return m;
	}
}

static void p12_one_function_through_a_long_life(void **state)
{
	struct hv *m = new_hv(1, PVCLOCK_HYPERV_FEATURES, 6462370);
	struct pvclock_hyperv_snapshot page;
	uint64_t judged = 0, kept = 0, renewed = 0;

	(void)state;
	turn_on(m);
	page = page_of(m);
	for (unsigned int i = 0; i < events; i++) {
		unsigned int kind = (unsigned int)(splitmix64(&seed) % KINDS);
		struct pvclock_hyperv_snapshot next;
		struct pvclock_line before, line;
		uint64_t last = read_msr(m, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT);
		bool same;

		pvclock_vcpu_get_line(m->vcpus[0], &before);
		m = happen(m, kind);
		next = page_of(m);
		pvclock_vcpu_get_line(m->vcpus[0], &line);
		/* the same function: the anchor may have moved, and no reading */
		same = line.mul == before.mul && line.shift == before.shift;
		for (unsigned int j = 0; same && j < 64; j++) {
			uint64_t tick = m->fake.tsc + m->fake.offset + (splitmix64(&seed) >> 8);

			same = system_time(&line, tick) == system_time(&before, tick);
		}
		if (same && (!same_time(&next.hyperv, &page.hyperv) || next.sequence != page.sequence))
			fail_msg("event %u, %u: the page has changed and the clock has not", i, kind);
		if (!same_time(&next.hyperv, &page.hyperv) == (next.sequence == page.sequence))
			fail_msg("event %u, %u: sequence %u after %u", i, kind, next.sequence, page.sequence);
		kept += same_time(&next.hyperv, &page.hyperv);
		renewed += !same_time(&next.hyperv, &page.hyperv);
		page = next;
		/* at once, before anything else reads a TSC: nobody sees a step back */
		if (reference_time(&page.hyperv, m->fake.tsc + m->fake.offset) < last)
			fail_msg("event %u, %u: backwards", i, kind);
		judged += judge_all(m, &page.hyperv, ticks);
		assert_int_equal(page_of(m).sequence, page.sequence);
		m->fake.tsc += 1000;
	}
	print_message("%" PRIu64 " ticks; %" PRIu64 " events left the page alone, %" PRIu64 " made a new one\n", judged, kept,
		      renewed);
	assert_true(kept > events / 4 && renewed > events / 8);
	assert_int_equal(judged, (uint64_t)events * ticks);
	free_hv(m);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p10_values_are_taken_or_refused),
		cmocka_unit_test(what_was_not_offered_is_not_there),
		cmocka_unit_test(frequencies_are_the_line),
		cmocka_unit_test(the_page_is_written_where_it_was_asked_for),
		cmocka_unit_test(p4_an_unstable_vm_has_the_counter),
		cmocka_unit_test(p10_what_was_there_before_is_no_clock),
		cmocka_unit_test(a_slow_tsc_has_the_counter),
		cmocka_unit_test(p12_it_is_kept_exactly_as_long_as_it_agrees),
		cmocka_unit_test(p2_a_new_function_waits_for_the_old_one),
		cmocka_unit_test(p6_all_of_it_goes_with_the_record),
		cmocka_unit_test(p6_capture_and_apply_are_each_others_inverse),
		cmocka_unit_test(p8_another_rate_is_told),
		cmocka_unit_test(a_page_that_is_asked_for_waits_for_nothing),
		cmocka_unit_test(a_guest_that_writes_its_tsc_is_not_told),
		cmocka_unit_test(p12_one_function_through_a_long_life),
	};
	const char *text = getenv("PVCLOCK_SEED");

	seed = text && *text ? strtoull(text, NULL, 0) : 1;
	if (argc > 2) {
		events = (unsigned int)strtoul(argv[1], NULL, 0);
		ticks = (unsigned int)strtoul(argv[2], NULL, 0);
	}
	return cmocka_run_group_tests_name("hyperv", tests, NULL, NULL);
}
