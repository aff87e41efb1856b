/* SPDX-License-Identifier: MIT */
/*
 * binding_test.c - the KVM binding against a KVM in virtual time: filter merging, TSC offsets that are ignored,
 * steering.
 */
#include "../fake/kvm.h"

#include "../../src/kvm/kvm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* --- the filter -------------------------------------------------------------------------- */

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

static bool is_ours(uint32_t msr)
{
	return msr == PVCLOCK_MSR_WALL_CLOCK_OLD || msr == PVCLOCK_MSR_SYSTEM_TIME_OLD || msr == PVCLOCK_MSR_WALL_CLOCK ||
	       msr == PVCLOCK_MSR_SYSTEM_TIME;
}

static void check_merge(const struct kvm_msr_filter *theirs, const struct kvm_msr_filter *merged)
{
	static const uint32_t bases[] = { 0, 0x4b564cf0, 0xc0000000, 0xfffffff0 };
	uint32_t access, msr, b;

	for (access = KVM_MSR_FILTER_READ; access <= KVM_MSR_FILTER_WRITE; access++) {
		for (b = 0; b < 4; b++) {
			for (msr = bases[b]; msr - bases[b] < 64 && msr >= bases[b]; msr++) {
				bool expected = !is_ours(msr) && kernel_allows(theirs, msr, access);

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
		static const uint32_t bases[] = { 0, 0x8, 0x11, 0x12, 0x4b564cf8, 0x4b564d00, 0x4b564d01, 0xc0000080 };
		uint8_t bits[KVM_MSR_FILTER_MAX_RANGES][8];
		struct pvclock_msr_filter merged;
		struct pvclock_reason reason;
		uint64_t count = fake_random(&random) % (KVM_MSR_FILTER_MAX_RANGES + 1), i;
		int error;

		for (i = 0; i < count; i++) {
			memcpy(bits[i], (uint64_t[1]){ fake_random(&random) }, 8);
			theirs.ranges[i] = (struct kvm_msr_filter_range){
				.flags = 1 + (uint32_t)(fake_random(&random) % 3), .bitmap = bits[i],
				.base = bases[fake_random(&random) % 8], .nmsrs = 1 + (uint32_t)(fake_random(&random) % 64) };
		}
		error = pvclock_kvm_merge_filter(&theirs, &merged, &reason);
		if (error == -ENOSPC) {
			full++;
			assert_true(count > KVM_MSR_FILTER_MAX_RANGES - 4);
			assert_int_equal(reason.code, PVCLOCK_REASON_MSR_FILTER_FULL);
			continue;
		}
		assert_int_equal(error, 0);
		check_merge(&theirs, &merged.filter);
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
	assert_int_equal(pvclock_kvm_merge_filter(&theirs, &merged, &reason), -EINVAL);
	theirs.ranges[0] = (struct kvm_msr_filter_range){ .flags = 3, .nmsrs = 0x3001, .bitmap = bits };
	assert_int_equal(pvclock_kvm_merge_filter(&theirs, &merged, &reason), -EINVAL);
	theirs.ranges[0] = (struct kvm_msr_filter_range){ .flags = 3, .nmsrs = 1, .bitmap = NULL };
	assert_int_equal(pvclock_kvm_merge_filter(&theirs, &merged, &reason), -EINVAL);
	assert_int_equal(pvclock_kvm_merge_filter(NULL, &merged, &reason), 0);
	check_merge(&(struct kvm_msr_filter){ 0 }, &merged.filter);
	pvclock_msr_filter_clear(&merged);
}

/* --- a machine ------------------------------------------------------------------------------ */

struct machine {
	struct fake_kvm fake;
	struct pvclock_vm *vm;
	struct pvclock_vcpu *vcpu;
	struct pvclock_kvm *kvm;
	_Alignas(64) uint8_t memory[4096];
};

static void machine_init(struct machine *m, uint64_t seed, enum pvclock_mode mode)
{
	struct pvclock_kvm_config config = { .os = &m->fake.os, .vm_fd = 3, .mode = mode };

	memset(m, 0, sizeof(*m));
	fake_kvm_init(&m->fake, seed);
	assert_int_equal(pvclock_vm_create(&m->fake.os, &m->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, sizeof(m->memory), m->memory, 0), 0);
	assert_int_equal(pvclock_vcpu_create(m->vm, 0, &m->vcpu), 0);
	config.vm = m->vm;
	assert_int_equal(pvclock_kvm_attach(&config, &m->kvm, NULL), 0);
	assert_int_equal(pvclock_kvm_mode(m->kvm), mode == PVCLOCK_MODE_AUTO ? PVCLOCK_MODE_OWN : mode);
	assert_int_equal(pvclock_kvm_add_vcpu(m->kvm, m->vcpu, 4), 0);
}

static void machine_clear(struct machine *m)
{
	pvclock_kvm_remove_vcpu(m->kvm, m->vcpu);
	pvclock_kvm_detach(m->kvm);
	pvclock_vcpu_destroy(m->vcpu);
	pvclock_vm_destroy(m->vm);
}

/* The kernel's page, as the guest would find it after its next entry. */
static void kernel_publishes(struct machine *m)
{
	struct pvclock_line line;

	fake_kvm_enter(&m->fake);
	m->fake.system_time_msr = 64 + 1;
	pvclock_line_make_kvm(&line, m->fake.anchor_tsc + m->fake.offset, m->fake.anchor_ns, m->fake.khz);
	pvclock_page_write(m->memory + 64, &line, PVCLOCK_TSC_STABLE);
}

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
	assert_true(correction.tries <= 4096 && (correction.residual_ns < 0 || correction.residual_ns > 1));
	machine_clear(&m);
}

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

/* A guest that was paused for a while before it was saved: what the pause counts is the pause's policy, to the tick. */
static void p7_a_pause_before_a_save(void **state)
{
	(void)state;
	for (int passing = PVCLOCK_ADVANCE; passing <= PVCLOCK_FREEZE; passing++) {
		const uint64_t second = 2596142000ull;
		struct machine m;
		struct pvclock_policy policy = pvclock_policy_default();
		struct pvclock_record record;
		struct pvclock_correction correction;
		struct pvclock_line line;
		struct pvclock_tsc_transform tsc;
		struct pvclock_slope host;
		uint64_t paused, saved;

		policy.on[PVCLOCK_BLACKOUT_PAUSE] = (enum pvclock_passing)passing;
		machine_init(&m, 5, PVCLOCK_MODE_OWN);
		pvclock_slope_from_khz(m.fake.khz, &host);
		assert_int_equal(pvclock_kvm_start(m.kvm, &host), 0);
		pvclock_vm_set_policy(m.vm, &policy);
		pvclock_vcpu_get_line(m.vcpu, &line);
		assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
		pvclock_vcpu_get_tsc(m.vcpu, &tsc);
		paused = m.fake.tsc + tsc.offset;
		m.fake.tsc += second;
		assert_int_equal(pvclock_kvm_save(m.kvm, &record), 0);
		saved = pvclock_tsc_to_guest(&record.vcpus[0].tsc, record.time.at).ticks;
		if (passing == PVCLOCK_FREEZE)
			assert_true(saved <= paused && paused - saved < 1000); /* the fake's TSC goes on at every look */
		else
			assert_true(saved - paused >= second && saved - paused < second + 100000);
		assert_int_equal(record.system_time, pvclock_line_ns(&line, saved));
		pvclock_record_clear(&record);
		/* A save changes nothing for the guest that goes on: each part of its pause is judged once. */
		m.fake.tsc += second;
		assert_int_equal(pvclock_kvm_resume(m.kvm, &correction, NULL), 0);
		uint64_t told = passing == PVCLOCK_FREEZE ? correction.uncounted_ns : correction.counted_ns;

		assert_in_range(told, 2000000000u, 2000100000u);
		assert_int_equal(correction.counted_ns + correction.uncounted_ns, told);
		machine_clear(&m);
	}
}

/* --- what a reviewer broke ------------------------------------------------------------------ */

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

static void p6_a_record_of_another_host_is_refused(void **state)
{
	struct machine a, b;
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_slope host;
	struct pvclock_line line;

	(void)state;
	machine_init(&a, 5, PVCLOCK_MODE_OWN);
	pvclock_slope_from_khz(a.fake.khz, &host);
	assert_int_equal(pvclock_kvm_start(a.kvm, &host), 0);
	pvclock_kvm_pause(a.kvm);
	assert_int_equal(pvclock_kvm_save(a.kvm, &record), 0);

	machine_init(&b, 6, PVCLOCK_MODE_OWN);
	b.fake.tsc = 1000000; /* a host that has just booted */
	assert_int_equal(pvclock_kvm_restore(b.kvm, &record, PVCLOCK_BLACKOUT_LIVE_UPDATE, NULL, NULL, &reason), -EINVAL);
	assert_int_equal(reason.code, PVCLOCK_REASON_OTHER_HOST);
	assert_int_equal(pvclock_vcpu_get_line(b.vcpu, &line), -ENODATA);
	assert_int_equal(pvclock_kvm_pause(b.kvm), 0); /* the refusal left it running, as it was */
	pvclock_kvm_resume(b.kvm, NULL, NULL);

	b.fake.tsc = a.fake.tsc + 1000000;
	record.line.mul = 0;
	assert_int_equal(pvclock_kvm_restore(b.kvm, &record, PVCLOCK_BLACKOUT_LIVE_UPDATE, NULL, NULL, &reason), -EINVAL);
	assert_int_equal(reason.code, PVCLOCK_REASON_RECORD_FIELD);
	assert_int_equal(pvclock_vcpu_get_line(b.vcpu, &line), -ENODATA);
	pvclock_record_clear(&record);
	machine_clear(&a);
	machine_clear(&b);
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

/* --- KVM_GET_CLOCK_GUEST and KVM_SET_CLOCK_GUEST ------------------------------------------------ */

/* What the guest reads now: the engine's line in own mode, else what the kernel publishes. */
static struct pvclock_line line_read(struct machine *m, enum pvclock_mode mode)
{
	struct pvclock_snapshot page;
	struct pvclock_line line;

	pvclock_vcpu_get_line(m->vcpu, &line);
	if (mode == PVCLOCK_MODE_OWN)
		return line;
	kernel_publishes(m);
	pvclock_page_read(m->memory + 64, &page);
	return page.line;
}

/* From one VM into another one with the same TSC: the same function. */
static void p1_a_clock_is_set_as_a_structure(void **state)
{
	static const enum pvclock_mode modes[] = { PVCLOCK_MODE_OWN, PVCLOCK_MODE_STEER };

	(void)state;
	for (uint64_t seed = 1; seed <= 40; seed++) {
		enum pvclock_mode mode = modes[seed % 2];
		struct machine a, b;
		struct pvclock_page clock, again;
		struct pvclock_reason reason;
		struct pvclock_line before, after;
		struct pvclock_slope host;

		machine_init(&a, seed, mode);
		machine_init(&b, seed + 1000, mode);
		a.fake.offset = fake_random(&a.fake) >> 8;
		a.fake.anchor_tsc = a.fake.tsc;
		b.fake.anchor_tsc = b.fake.tsc = a.fake.tsc + 1000000;
		assert_int_equal(pvclock_kvm_set_tsc_offset(a.kvm, a.vcpu, a.fake.offset, NULL), 0);
		assert_int_equal(pvclock_kvm_set_tsc_offset(b.kvm, b.vcpu, a.fake.offset, NULL), 0);
		assert_int_equal(pvclock_kvm_get_clock_guest(a.kvm, a.vcpu, &clock, &reason), -ENOTSUP); /* no line yet */
		assert_int_equal(reason.code, PVCLOCK_REASON_NO_LINE);
		pvclock_slope_from_khz(a.fake.khz, &host);
		assert_int_equal(pvclock_kvm_start(a.kvm, &host), 0);
		assert_int_equal(pvclock_kvm_start(b.kvm, &host), 0);
		before = line_read(&a, mode);
		line_read(&b, mode);
		assert_int_equal(pvclock_kvm_pause(a.kvm), 0);
		assert_int_equal(pvclock_kvm_pause(b.kvm), 0);
		/* in own mode no page was registered: the structure is computed all the same */
		assert_int_equal(pvclock_kvm_get_clock_guest(a.kvm, a.vcpu, &clock, &reason), 0);
		assert_true(clock.tsc_timestamp == before.tsc && clock.system_time == before.ns && clock.pad0 == 0 &&
			    clock.flags == PVCLOCK_TSC_STABLE);
		assert_int_equal(pvclock_kvm_set_clock_guest(b.kvm, b.vcpu, &clock, &reason), 0);
		assert_int_equal(pvclock_kvm_get_clock_guest(b.kvm, b.vcpu, &again, &reason), 0);
		assert_memory_equal(&clock, &again, sizeof(clock));
		assert_int_equal(pvclock_kvm_resume(b.kvm, NULL, &reason), 0);
		after = line_read(&b, mode);
		for (int t = 0; t < 200; t++) {
			uint64_t tick = b.fake.tsc + a.fake.offset + fake_random(&b.fake) % 100000000000;
			int64_t shift = (int64_t)(pvclock_line_ns(&after, tick) - pvclock_line_ns(&before, tick));

			assert_in_range(shift, 0, mode == PVCLOCK_MODE_STEER);
		}
		machine_clear(&a);
		machine_clear(&b);
	}
}

static void a_clock_that_cannot_be_set_is_refused(void **state)
{
	struct machine m;
	struct pvclock_page clock, bad;
	struct pvclock_reason reason;
	struct pvclock_slope host, other;
	struct pvclock_line line, kept, after;
	uint64_t now;

	(void)state;
	machine_init(&m, 3, PVCLOCK_MODE_OWN);
	pvclock_slope_from_khz(m.fake.khz, &host);
	pvclock_kvm_start(m.kvm, &host);
	pvclock_kvm_pause(m.kvm);
	pvclock_kvm_get_clock_guest(m.kvm, m.vcpu, &clock, &reason);
	pvclock_vcpu_get_line(m.vcpu, &kept);
	for (int i = 0; i < 6; i++) {
		bad = clock;
		bad.pad0 = i == 0;
		bad.pad[1] = i == 1;
		if (i == 2)
			bad.tsc_to_system_mul = 0;
		if (i == 3)
			bad.tsc_shift = 32;
		if (i == 4)
			bad.tsc_timestamp = m.fake.tsc + 1000000;
		if (i == 5) { /* 2 kHz */
			pvclock_slope_from_khz(m.fake.khz + 2, &other);
			pvclock_line_make(&line, 0, 0, &other, NULL);
			bad.tsc_to_system_mul = line.mul;
		}
		assert_int_equal(pvclock_kvm_set_clock_guest(m.kvm, m.vcpu, &bad, &reason), i == 5 ? -ERANGE : -EINVAL);
		assert_int_equal(reason.text[strlen(reason.text) - 1], '.');
		pvclock_vcpu_get_line(m.vcpu, &after);
		assert_true(after.tsc == kept.tsc && after.ns == kept.ns && after.mul == kept.mul && after.shift == kept.shift);
	}
	/* 1 kHz: another kernel's account of this TSC. No jump now, and this host's rate from now on. */
	pvclock_slope_from_khz(m.fake.khz + 1, &other);
	pvclock_line_make(&line, clock.tsc_timestamp - 1000000000, clock.system_time + 5, &other, NULL);
	bad = clock;
	bad.tsc_timestamp = line.tsc;
	bad.system_time = line.ns;
	bad.tsc_to_system_mul = line.mul;
	now = m.fake.tsc;
	assert_int_equal(pvclock_kvm_set_clock_guest(m.kvm, m.vcpu, &bad, &reason), 0);
	pvclock_vcpu_get_line(m.vcpu, &after);
	assert_true(after.mul == kept.mul && after.shift == kept.shift);
	now = m.fake.tsc; /* where it went over, within the call's own reads */
	assert_in_range(pvclock_line_ns(&after, now) - pvclock_line_ns(&line, now), 0, 1);
	machine_clear(&m);

	machine_init(&m, 4, PVCLOCK_MODE_STEER);
	m.fake.anchor_tsc = m.fake.tsc;
	kernel_publishes(&m);
	pvclock_kvm_pause(m.kvm);
	m.fake.master_clock = false;
	assert_int_equal(pvclock_kvm_get_clock_guest(m.kvm, m.vcpu, &clock, &reason), -ENOTSUP);
	assert_int_equal(reason.code, PVCLOCK_REASON_NO_MASTER_CLOCK);
	assert_int_equal(pvclock_kvm_set_clock_guest(m.kvm, m.vcpu, &bad, &reason), -ENOTSUP);
	machine_clear(&m);
}

/* Live update in each mode: a second VM takes the first one's record, and the guest's function is the same. */
static void restore_once(enum pvclock_mode mode, uint64_t seed)
{
	struct machine a, b;
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_correction correction;
	struct pvclock_line before, after;
	struct pvclock_slope host;
	int t;

	machine_init(&a, seed, mode);
	a.fake.offset = -(a.fake.tsc - 1000);
	a.fake.anchor_tsc = a.fake.tsc;
	pvclock_slope_from_khz(a.fake.khz, &host);
	assert_int_equal(pvclock_kvm_start(a.kvm, &host), 0);
	if (mode == PVCLOCK_MODE_STEER)
		kernel_publishes(&a);
	a.fake.deadline[0] = 1000000000000;
	assert_int_equal(pvclock_kvm_pause(a.kvm), 0);
	assert_int_equal(pvclock_kvm_save(a.kvm, &record), 0);
	assert_int_equal(pvclock_slope_difference(&record.host, &host), 0); /* the host's, not the kernel's imitation */
	pvclock_vcpu_get_line(a.vcpu, &before);

	machine_init(&b, seed + 1, mode);
	memcpy(b.memory, a.memory, sizeof(b.memory));
	b.fake.tsc = a.fake.tsc + 5000000;
	b.fake.offset = -b.fake.tsc; /* a new VM's TSC starts at 0 */
	b.fake.snapshot_pending = true;
	if (seed % 3 == 0) /* it holds already: a write would only unsettle the kernel's master clock */
		b.fake.offset = a.fake.offset;
	assert_int_equal(pvclock_kvm_restore(b.kvm, &record, PVCLOCK_BLACKOUT_LIVE_UPDATE, NULL, NULL, &reason), 0);
	assert_int_equal(b.fake.offset, a.fake.offset);
	assert_int_equal(b.fake.offset_writes, seed % 3 != 0);
	assert_int_equal(pvclock_kvm_settle(b.kvm, b.vcpu), 0);
	assert_int_equal(b.fake.deadline_at_entry, 0); /* no timer fires by a clock that is not right yet */
	assert_int_equal(pvclock_kvm_resume(b.kvm, &correction, &reason), 0);
	assert_int_equal(b.fake.deadline[0], 1000000000000); /* stock, too: in ticks */
	assert_int_equal(correction.moved_ticks, 0);
	if (mode == PVCLOCK_MODE_STEER) {
		struct pvclock_snapshot now;

		assert_int_equal(b.fake.system_time_msr, 65);
		kernel_publishes(&b);
		pvclock_page_read(b.memory + 64, &now);
		after = now.line;
	} else {
		pvclock_vcpu_get_line(b.vcpu, &after);
	}
	for (t = 0; t < 1000; t++) {
		uint64_t tick = b.fake.tsc + b.fake.offset + fake_random(&b.fake) % 100000000;
		int64_t shift = (int64_t)(pvclock_line_ns(&after, tick) - pvclock_line_ns(&before, tick));

		assert_in_range(shift, 0, mode == PVCLOCK_MODE_STEER);
	}
	pvclock_record_clear(&record);
	machine_clear(&a);
	machine_clear(&b);
}

static void p1_restore_in_every_mode(void **state)
{
	uint64_t seed;

	(void)state;
	for (seed = 0; seed < 100; seed++) {
		restore_once(PVCLOCK_MODE_OWN, seed);
		restore_once(PVCLOCK_MODE_STEER, seed);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(filters_are_merged_not_replaced),
		cmocka_unit_test(filters_of_no_kind_are_refused),
		cmocka_unit_test(p1_steer_keeps_within_1_ns),
		cmocka_unit_test(p1_steer_knows_a_stale_page),
		cmocka_unit_test(p1_stock_moves_the_clock),
		cmocka_unit_test(p4_steer_says_when_there_is_no_master_clock),
		cmocka_unit_test(steer_gives_up_on_a_wild_kernel),
		cmocka_unit_test(offsets_are_read_back),
		cmocka_unit_test(p4_a_guest_that_wrote_its_tsc_is_followed),
		cmocka_unit_test(p7_a_pause_before_a_save),
		cmocka_unit_test(p10_steer_never_writes_a_page),
		cmocka_unit_test(p6_a_record_of_another_host_is_refused),
		cmocka_unit_test(p2_a_reset_host_tsc_does_not_take_the_clock_back),
		cmocka_unit_test(p4_catchup_is_not_forgotten),
		cmocka_unit_test(p4_what_the_caller_knows_costs_the_bit),
		cmocka_unit_test(a_pause_before_there_is_a_line_ends),
		cmocka_unit_test(p10_steer_does_not_believe_any_page),
		cmocka_unit_test(p3_another_slope_is_declared),
		cmocka_unit_test(an_impossible_slope_is_refused),
		cmocka_unit_test(own_exits_are_answered),
		cmocka_unit_test(p10_own_sees_an_init),
		cmocka_unit_test(p1_restore_in_every_mode),
		cmocka_unit_test(p1_a_clock_is_set_as_a_structure),
		cmocka_unit_test(a_clock_that_cannot_be_set_is_refused),
	};

	return cmocka_run_group_tests_name("binding", tests, NULL, NULL);
}
