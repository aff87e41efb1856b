/* SPDX-License-Identifier: MIT */
/*
 * engine_test.c - the engine on its own: memory map, registration, publication, stability, pause and resume, dirty
 * pages.
 */
#include "../fake/kvm.h"

#include <pvclock/vm.h>

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MEMORY_GPA 0x100000ull
#define MEMORY_SIZE 0x10000ull

struct fixture {
	struct fake_kvm fake;
	struct pvclock_vm *vm;
	struct pvclock_vcpu *vcpu[4];
	_Alignas(4096) uint8_t memory[MEMORY_SIZE];
	struct pvclock_slope host;
};

static int setup(void **state)
{
	struct fixture *f = aligned_alloc(4096, (sizeof(*f) + 4095) / 4096 * 4096);
	uint32_t i;

	memset(f, 0, sizeof(*f));
	fake_kvm_init(&f->fake, 1);
	assert_int_equal(pvclock_vm_create(&f->fake.os, &f->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(f->vm, (struct pvclock_gpa){ MEMORY_GPA }, MEMORY_SIZE, f->memory, 0), 0);
	for (i = 0; i < 4; i++)
		assert_int_equal(pvclock_vcpu_create(f->vm, i, &f->vcpu[i]), 0);
	assert_true(pvclock_slope_from_kernel(6462414, 24, &f->host));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int i;

	for (i = 0; i < 4; i++)
		pvclock_vcpu_destroy(f->vcpu[i]);
	pvclock_vm_destroy(f->vm);
	free(f);
	return 0;
}

static void start(struct fixture *f)
{
	assert_int_equal(pvclock_vm_start(f->vm, (struct pvclock_host_tsc){ f->fake.tsc }, 0, &f->host), 0);
}

static struct pvclock_snapshot page(struct fixture *f, uint64_t gpa)
{
	struct pvclock_snapshot snapshot = { 0 };

	assert_int_equal(pvclock_vm_read_page(f->vm, (struct pvclock_gpa){ gpa }, &snapshot), 0);
	return snapshot;
}

static void memory_map_refuses_overlap_and_overflow(void **state)
{
	struct fixture *f = *state;
	static const struct { uint64_t gpa, size; int error; } cases[] = {
		{ MEMORY_GPA, MEMORY_SIZE, -EEXIST },
		{ MEMORY_GPA - 4, 8, -EEXIST },
		{ MEMORY_GPA + MEMORY_SIZE - 4, 8, -EEXIST },
		{ MEMORY_GPA - 0x1000, MEMORY_SIZE * 4, -EEXIST },
		{ MEMORY_GPA + 0x1000, 0x1000, -EEXIST },
		{ 0, 0, -EINVAL },
		{ UINT64_MAX - 3, 8, -EINVAL },
		{ 2, 64, -EINVAL },
		{ UINT64_MAX - 3, 4, 0 }, /* the last four bytes of the address space are bytes too */
		{ MEMORY_GPA - 0x1000, 0x1000, 0 },
		{ MEMORY_GPA + MEMORY_SIZE, 0x1000, 0 },
	};
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		assert_int_equal(pvclock_vm_add_memory(f->vm, (struct pvclock_gpa){ cases[i].gpa }, cases[i].size, f->memory, 0),
				 cases[i].error);
	assert_int_equal(pvclock_vm_add_memory(f->vm, (struct pvclock_gpa){ 0x5000000 }, 64, NULL, 0), -EINVAL);
	assert_int_equal(pvclock_vm_add_memory(f->vm, (struct pvclock_gpa){ 0x5000000 }, 64, f->memory + 1, 0), -EINVAL);
	assert_int_equal(pvclock_vm_remove_memory(f->vm, (struct pvclock_gpa){ MEMORY_GPA }, 1), -ENOENT);
	assert_int_equal(pvclock_vm_remove_memory(f->vm, (struct pvclock_gpa){ MEMORY_GPA }, MEMORY_SIZE), 0);
	assert_int_equal(pvclock_vm_remove_memory(f->vm, (struct pvclock_gpa){ MEMORY_GPA }, MEMORY_SIZE), -ENOENT);
}

static void p1_page_is_the_line(void **state)
{
	struct fixture *f = *state;
	struct pvclock_line line;
	struct pvclock_snapshot snapshot;

	start(f);
	assert_int_equal(pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_SYSTEM_TIME, MEMORY_GPA + 64 + 1), 0);
	snapshot = page(f, MEMORY_GPA + 64);
	assert_int_equal(pvclock_vcpu_get_line(f->vcpu[0], &line), 0);
	assert_memory_equal(&snapshot.line.tsc, &line.tsc, 8);
	assert_int_equal(snapshot.line.mul, 3308755968u);
	assert_int_equal(snapshot.line.shift, -1);
	assert_int_equal(snapshot.flags, PVCLOCK_TSC_STABLE);
	assert_true(snapshot.line.ns == line.ns);
}

static void p1_pause_and_resume_leave_the_line_alone(void **state)
{
	struct fixture *f = *state;
	struct pvclock_line before, after;
	struct pvclock_snapshot snapshot;

	start(f);
	pvclock_vcpu_write_msr(f->vcpu[1], PVCLOCK_MSR_SYSTEM_TIME, MEMORY_GPA + 1);
	pvclock_vcpu_get_line(f->vcpu[1], &before);
	assert_int_equal(pvclock_vm_resume(f->vm), -EALREADY);
	assert_int_equal(pvclock_vm_pause(f->vm), 0);
	assert_int_equal(pvclock_vm_pause(f->vm), -EALREADY);
	f->fake.tsc += 12345678901ull;
	assert_int_equal(pvclock_vm_resume(f->vm), 0);
	pvclock_vcpu_get_line(f->vcpu[1], &after);
	assert_true(before.tsc == after.tsc && before.ns == after.ns && before.mul == after.mul);
	snapshot = page(f, MEMORY_GPA);
	assert_true(snapshot.line.tsc == before.tsc && snapshot.line.ns == before.ns);
	assert_int_equal(snapshot.flags, PVCLOCK_TSC_STABLE | PVCLOCK_GUEST_STOPPED);
	/* not seen by the guest yet: it stays; seen: it is gone, and no publication brings it back */
	pvclock_vm_publish(f->vm);
	assert_int_equal(page(f, MEMORY_GPA).flags, PVCLOCK_TSC_STABLE | PVCLOCK_GUEST_STOPPED);
	assert_true(pvclock_take_guest_stopped((struct pvclock_page *)f->memory));
	pvclock_vm_publish(f->vm);
	assert_int_equal(page(f, MEMORY_GPA).flags, PVCLOCK_TSC_STABLE);
}

static void p4_stable_bit_follows_the_tscs(void **state)
{
	struct fixture *f = *state;
	struct pvclock_tsc_transform tsc = pvclock_tsc_unscaled(0);
	struct pvclock_line line0, line1;
	struct pvclock_reason reason;

	assert_false(pvclock_vm_stable(f->vm, &reason));
	assert_int_equal(reason.code, PVCLOCK_REASON_NO_LINE);
	start(f);
	assert_true(pvclock_vm_stable(f->vm, NULL));
	pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_SYSTEM_TIME, MEMORY_GPA + 1);
	pvclock_vcpu_write_msr(f->vcpu[1], PVCLOCK_MSR_SYSTEM_TIME, MEMORY_GPA + 65);

	tsc.offset = 1000;
	assert_int_equal(pvclock_vcpu_set_tsc(f->vcpu[1], &tsc, false), 0);
	assert_false(pvclock_vm_stable(f->vm, &reason));
	assert_int_equal(reason.code, PVCLOCK_REASON_TSC_OFFSETS_DIFFER);
	assert_non_null(strstr(reason.text, "1000"));
	assert_int_equal(page(f, MEMORY_GPA).flags, 0); /* every page, not only the vCPU's own */
	assert_int_equal(page(f, MEMORY_GPA + 64).flags, 0);
	/* and the clock is one all the same: the line of vCPU 1 stands 1000 ticks further in its own TSC */
	pvclock_vcpu_get_line(f->vcpu[0], &line0);
	pvclock_vcpu_get_line(f->vcpu[1], &line1);
	assert_true(line1.tsc == line0.tsc + 1000 && line1.ns == line0.ns);

	tsc.offset = 0;
	assert_int_equal(pvclock_vcpu_set_tsc(f->vcpu[1], &tsc, true), 0);
	assert_false(pvclock_vm_stable(f->vm, &reason));
	assert_int_equal(reason.code, PVCLOCK_REASON_TSC_CATCHUP);
	assert_int_equal(pvclock_vcpu_set_tsc(f->vcpu[1], &tsc, false), 0);
	assert_true(pvclock_vm_stable(f->vm, NULL));
	assert_int_equal(page(f, MEMORY_GPA).flags, PVCLOCK_TSC_STABLE);

	tsc = (struct pvclock_tsc_transform){ .ratio = 1ull << 47, .frac_bits = PVCLOCK_FRAC_BITS_VMX };
	assert_int_equal(pvclock_vcpu_set_tsc(f->vcpu[1], &tsc, false), 0);
	assert_false(pvclock_vm_stable(f->vm, &reason));
	assert_int_equal(reason.code, PVCLOCK_REASON_TSC_RATES_DIFFER);
	/* half the ticks: twice the ns per tick, and the same clock at the same host tick */
	pvclock_vcpu_get_line(f->vcpu[1], &line1);
	assert_int_equal(line1.mul, line0.mul);
	assert_int_equal(line1.shift, line0.shift + 1);
	tsc.ratio = 0;
	assert_int_equal(pvclock_vcpu_set_tsc(f->vcpu[1], &tsc, false), -EINVAL);
}

static void p3_scaled_tscs_keep_the_rate(void **state)
{
	struct fixture *f = *state;
	struct pvclock_slope guest, exact;
	struct pvclock_line line;
	int i;

	for (i = 0; i < 2000; i++) {
		struct pvclock_tsc_transform tsc = {
			.ratio = (1ull << 31) + fake_random(&f->fake) % (1ull << 33), .frac_bits = PVCLOCK_FRAC_BITS_SVM,
			.offset = fake_random(&f->fake) };
		int64_t off;

		assert_int_equal(pvclock_vcpu_set_tsc(f->vcpu[0], &tsc, false), 0);
		start(f);
		pvclock_vcpu_get_line(f->vcpu[0], &line);
		assert_true(pvclock_slope_to_guest(&f->host, &tsc, &exact));
		assert_true(pvclock_slope_from_line(&line, &guest));
		off = pvclock_slope_difference(&guest, &exact);
		assert_true(llabs(off) <= 4611686018ll); /* 0.25 ppb in units of 2^-64 */
	}
}

static void offsets_far_behind_keep_the_clock(void **state)
{
	struct fixture *f = *state;
	struct pvclock_tsc_transform tsc;
	struct pvclock_line line;
	uint64_t ns, host;

	/* vCPU 1's TSC was set to near 0 by its guest: its anchor would lie before tick 0 */
	start(f);
	f->fake.tsc += 1000000000;
	host = f->fake.tsc;
	tsc = pvclock_tsc_unscaled(-(host - 5)); /* reads 5 now */
	assert_int_equal(pvclock_vcpu_set_tsc(f->vcpu[1], &tsc, false), 0);
	pvclock_vcpu_get_line(f->vcpu[1], &line);
	for (; host < f->fake.tsc + 100000; host += 17) {
		struct pvclock_line zero;

		pvclock_vcpu_get_line(f->vcpu[0], &zero);
		ns = pvclock_line_ns(&zero, host);
		/* less than 1 ns and one tick is lost, which two floors can show as 2 */
		assert_in_range(ns - pvclock_line_ns(&line, host + tsc.offset), 0, 2);
	}
}

static void dirty_pages_are_told_once(void **state)
{
	struct fixture *f = *state;
	const struct pvclock_gpa base = { MEMORY_GPA }, second = { MEMORY_GPA + 0x1000 }, below = { 0 };
	uint8_t bitmap[4] = { 0, 0, 0, 0x80 }; /* somebody's own bit stays */

	start(f);
	assert_int_equal(pvclock_vm_take_dirty(f->vm, base, MEMORY_SIZE, bitmap), 0);
	pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_SYSTEM_TIME, MEMORY_GPA + 0xff0 + 1); /* across a page boundary */
	pvclock_vcpu_write_msr(f->vcpu[1], PVCLOCK_MSR_SYSTEM_TIME, MEMORY_GPA + 0x1040 + 1);
	pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_WALL_CLOCK, MEMORY_GPA + MEMORY_SIZE - 12);
	assert_int_equal(pvclock_vm_take_dirty(f->vm, second, 0x1000, bitmap), 1); /* a slot that is a part of the memory */
	assert_int_equal(bitmap[0], 0x01);
	assert_int_equal(pvclock_vm_take_dirty(f->vm, base, MEMORY_SIZE, bitmap), 2);
	assert_int_equal(bitmap[0], 0x01);
	assert_int_equal(bitmap[1], 0x80);
	assert_int_equal(bitmap[3], 0x80);
	assert_int_equal(pvclock_vm_take_dirty(f->vm, base, MEMORY_SIZE, bitmap), 0);

	/* one that begins below the memory, and one that is not there */
	pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_WALL_CLOCK, MEMORY_GPA);
	assert_int_equal(pvclock_vm_take_dirty(f->vm, below, MEMORY_GPA, bitmap), 0);
	assert_int_equal(pvclock_vm_take_dirty(f->vm, (struct pvclock_gpa){ MEMORY_GPA + MEMORY_SIZE }, 0x1000, bitmap), 0);
	memset(bitmap, 0, sizeof(bitmap));
	assert_int_equal(pvclock_vm_take_dirty(f->vm, (struct pvclock_gpa){ MEMORY_GPA - 0x3000 }, 0x4000, bitmap), 1);
	assert_int_equal(bitmap[0], 0x08);
	pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_WALL_CLOCK, MEMORY_GPA);
	assert_int_equal(pvclock_vm_take_dirty(f->vm, below, UINT64_MAX, NULL), 1); /* forgotten */
	assert_int_equal(pvclock_vm_take_dirty(f->vm, base, MEMORY_SIZE, bitmap), 0);
}

static void memory_may_come_and_go(void **state)
{
	struct fixture *f = *state;
	struct pvclock_snapshot snapshot;

	start(f);
	pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_SYSTEM_TIME, MEMORY_GPA + 1);
	assert_int_equal(pvclock_vm_publish(f->vm), 1);
	assert_int_equal(pvclock_vm_remove_memory(f->vm, (struct pvclock_gpa){ MEMORY_GPA }, MEMORY_SIZE), 0);
	memset(f->memory, 0, MEMORY_SIZE);
	assert_int_equal(pvclock_vm_publish(f->vm), 0);
	assert_int_equal(f->memory[0], 0);
	assert_int_equal(pvclock_vm_add_memory(f->vm, (struct pvclock_gpa){ MEMORY_GPA }, MEMORY_SIZE, f->memory, PVCLOCK_MEMORY_READONLY), 0);
	assert_int_equal(pvclock_vm_publish(f->vm), 0); /* ROM now */
	assert_int_equal(pvclock_vm_remove_memory(f->vm, (struct pvclock_gpa){ MEMORY_GPA }, MEMORY_SIZE), 0);
	assert_int_equal(pvclock_vm_add_memory(f->vm, (struct pvclock_gpa){ MEMORY_GPA }, MEMORY_SIZE, f->memory, 0), 0);
	assert_int_equal(pvclock_vm_publish(f->vm), 1);
	snapshot = page(f, MEMORY_GPA);
	assert_int_equal(snapshot.line.mul, 3308755968u);
}

static void wall_clock_is_the_time_of_day_at_zero(void **state)
{
	struct fixture *f = *state;
	struct pvclock_line line;
	uint64_t epoch, now, value;

	start(f);
	f->fake.tsc += 5000000000ull;
	assert_int_equal(pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_WALL_CLOCK, MEMORY_GPA + 0x20), 0);
	assert_int_equal(pvclock_wall_clock_read(f->memory + 0x20, &epoch), PVCLOCK_READ_OK);
	pvclock_vcpu_get_line(f->vcpu[0], &line);
	now = (uint64_t)((unsigned __int128)f->fake.tsc * 1000000 / f->fake.khz) + (uint64_t)f->fake.realtime_ns;
	/* the virtual machine's wall clock and its TSC's rate agree to 1 kHz in 2.6 GHz; 5e9 ticks are 1.9 s */
	assert_in_range(epoch + pvclock_line_ns(&line, f->fake.tsc) - now + 2000, 0, 4000);
	assert_int_equal(pvclock_vcpu_read_msr(f->vcpu[3], PVCLOCK_MSR_WALL_CLOCK_OLD, &value), 0);
	assert_int_equal(value, MEMORY_GPA + 0x20);
	assert_int_equal(pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_WALL_CLOCK, 0), 0);
}

static void msr_values_are_given_back(void **state)
{
	struct fixture *f = *state;
	uint64_t value = 7;

	assert_int_equal(pvclock_vcpu_read_msr(f->vcpu[0], PVCLOCK_MSR_SYSTEM_TIME, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_SYSTEM_TIME_OLD, MEMORY_GPA + 1), 0);
	assert_int_equal(pvclock_vcpu_read_msr(f->vcpu[0], PVCLOCK_MSR_SYSTEM_TIME, &value), 0);
	assert_int_equal(value, MEMORY_GPA + 1);
	assert_int_equal(pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_SYSTEM_TIME, 0), 0); /* off */
	assert_int_equal(pvclock_vm_publish(f->vm), 0);
	assert_int_equal(pvclock_vcpu_write_msr(f->vcpu[0], 0x10, 0), -ENOENT);
	assert_int_equal(pvclock_vcpu_read_msr(f->vcpu[0], 0x4b564d03, &value), -ENOENT);
	assert_int_equal(pvclock_vcpu_restore_msr(f->vcpu[0], PVCLOCK_MSR_SYSTEM_TIME, UINT64_MAX), 0);
	assert_int_equal(pvclock_vm_publish(f->vm), 0);
}

/* --- P10: hostile guests ------------------------------------------------------------------ */

#define GUARD 0xa5

/* Whether the guest may have this page: an oracle of its own, in 128 bits. */
static bool expect_ok(uint32_t msr, uint64_t value)
{
	bool wall = msr == PVCLOCK_MSR_WALL_CLOCK || msr == PVCLOCK_MSR_WALL_CLOCK_OLD;
	unsigned __int128 at = wall ? value : value & ~1ull, size = wall ? 12 : 32;

	if (wall ? value == 0 : !(value & 1))
		return true;
	return at % 4 == 0 && at >= MEMORY_GPA && at + size <= (unsigned __int128)MEMORY_GPA + MEMORY_SIZE;
}

static uint64_t hostile_value(struct fake_kvm *fake)
{
	static const uint64_t anchors[] = { 0, 1, 0xfee00000, 0xfff, MEMORY_GPA, MEMORY_GPA + MEMORY_SIZE, MEMORY_GPA + 0x40,
		1ull << 31, 1ull << 32, 1ull << 52, 1ull << 63, UINT64_MAX, UINT64_MAX - 31, UINT64_MAX - 4095 };
	uint64_t random = fake_random(fake);

	switch (random % 5) {
	case 0:
		return anchors[(random >> 8) % (sizeof(anchors) / sizeof(*anchors))] + (random >> 32) % 129 - 64;
	case 1:
		return 1ull << ((random >> 8) % 64) | ((random >> 20) & 1);
	case 2:
		return ~(1ull << ((random >> 8) % 64));
	case 3:
		return MEMORY_GPA + (random >> 8) % (MEMORY_SIZE + 64);
	default:
		return fake_random(fake);
	}
}

static const uint32_t all_msrs[] = { PVCLOCK_MSR_SYSTEM_TIME, PVCLOCK_MSR_SYSTEM_TIME_OLD, PVCLOCK_MSR_WALL_CLOCK,
				     PVCLOCK_MSR_WALL_CLOCK_OLD };

static void p10_every_value_is_gp_or_defined(void **state)
{
	struct fixture *f = *state;
	int i;

	start(f);
	for (i = 0; i < 300000; i++) {
		uint32_t msr = all_msrs[fake_random(&f->fake) % 4];
		struct pvclock_vcpu *vcpu = f->vcpu[fake_random(&f->fake) % 4];
		uint64_t value = hostile_value(&f->fake), before, after;
		int result;

		pvclock_vcpu_read_msr(vcpu, msr, &before);
		result = pvclock_vcpu_write_msr(vcpu, msr, value);
		pvclock_vcpu_read_msr(vcpu, msr, &after);
		assert_int_equal(result, expect_ok(msr, value) ? 0 : -EINVAL);
		assert_true(after == (result == 0 ? value : before));
		if (i % 64 == 0) /* and whatever they left behind, an event writes inside memory only: ASan watches */
			pvclock_vm_publish(f->vm);
	}
}

static void p10_pages_across_two_regions_are_refused(void **state)
{
	struct fixture *f = *state;
	_Alignas(8) uint8_t more[4096];

	memset(more, GUARD, sizeof(more));
	start(f);
	assert_int_equal(pvclock_vm_add_memory(f->vm, (struct pvclock_gpa){ MEMORY_GPA + MEMORY_SIZE }, sizeof(more), more, 0), 0);
	assert_int_equal(pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_SYSTEM_TIME, MEMORY_GPA + MEMORY_SIZE - 16 + 1), -EINVAL);
	assert_int_equal(pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_WALL_CLOCK, MEMORY_GPA + MEMORY_SIZE - 4), -EINVAL);
	assert_int_equal(more[0], GUARD);
	assert_int_equal(pvclock_vcpu_write_msr(f->vcpu[0], PVCLOCK_MSR_SYSTEM_TIME, MEMORY_GPA + MEMORY_SIZE + 1), 0);
	pvclock_vm_remove_memory(f->vm, (struct pvclock_gpa){ MEMORY_GPA + MEMORY_SIZE }, sizeof(more));
}

struct toggler {
	struct fixture *f;
	int vcpu;
};

static void *toggle(void *argument)
{
	struct toggler *toggler = argument;
	struct fake_kvm random = { .random = (uint64_t)toggler->vcpu };
	int i;

	for (i = 0; i < 50000; i++)
		pvclock_vcpu_write_msr(toggler->f->vcpu[toggler->vcpu], all_msrs[fake_random(&random) % 2],
				       (MEMORY_GPA + (fake_random(&random) % 16) * 4) | (uint64_t)(i & 1));
	return NULL;
}

/*
 * Two vCPUs fight over the same bytes, while a third reads: no race (TSan), no write outside, and a last registration
 * works.
 */
static void p10_two_vcpus_toggle_one_page(void **state)
{
	struct fixture *f = *state;
	struct toggler togglers[2] = { { f, 1 }, { f, 2 } };
	pthread_t threads[2];
	struct pvclock_snapshot snapshot;
	int i;

	start(f);
	memset(f->memory + 128, GUARD, 4096);
	for (i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, toggle, &togglers[i]), 0);
	for (i = 0; i < 10000; i++)
		pvclock_page_read(f->memory, &snapshot);
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (i = 128; i < 4096; i++)
		assert_int_equal(f->memory[i], GUARD);
	assert_int_equal(pvclock_vcpu_write_msr(f->vcpu[1], PVCLOCK_MSR_SYSTEM_TIME, MEMORY_GPA + 1), 0);
	assert_int_equal(page(f, MEMORY_GPA).line.mul, 3308755968u);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(memory_map_refuses_overlap_and_overflow),
		TEST(p1_page_is_the_line),
		TEST(p1_pause_and_resume_leave_the_line_alone),
		TEST(p4_stable_bit_follows_the_tscs),
		TEST(p3_scaled_tscs_keep_the_rate),
		TEST(offsets_far_behind_keep_the_clock),
		TEST(dirty_pages_are_told_once),
		TEST(memory_may_come_and_go),
		TEST(wall_clock_is_the_time_of_day_at_zero),
		TEST(msr_values_are_given_back),
		TEST(p10_every_value_is_gp_or_defined),
		TEST(p10_pages_across_two_regions_are_refused),
		TEST(p10_two_vcpus_toggle_one_page),
	};

	return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
