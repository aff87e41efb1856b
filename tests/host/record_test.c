/* SPDX-License-Identifier: MIT */
/* record_test.c - P6: a restore does exactly what the record says, or refuses with a reason before anything changed. */
#include "../fake/kvm.h"

#include <pvclock/record.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VCPUS 3u
#define GPA 0x4000ull

struct machine {
	struct fake_kvm fake;
	struct pvclock_vm *vm;
	struct pvclock_vcpu *vcpu[VCPUS];
	_Alignas(64) uint8_t memory[4096];
};

static struct machine *machine_new(uint32_t vcpus)
{
	struct machine *m = aligned_alloc(64, (sizeof(*m) + 63) / 64 * 64);
	uint32_t i;

	memset(m, 0, sizeof(*m));
	fake_kvm_init(&m->fake, 7);
	assert_int_equal(pvclock_vm_create(&m->fake.os, &m->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ GPA }, sizeof(m->memory), m->memory, 0), 0);
	for (i = 0; i < vcpus; i++)
		assert_int_equal(pvclock_vcpu_create(m->vm, i * 2, &m->vcpu[i]), 0);
	return m;
}

static void machine_free(struct machine *m)
{
	uint32_t i;

	for (i = 0; i < VCPUS; i++)
		pvclock_vcpu_destroy(m->vcpu[i]);
	pvclock_vm_destroy(m->vm);
	free(m);
}

static struct machine *running_machine(void)
{
	struct machine *m = machine_new(VCPUS);
	struct pvclock_tsc_transform tsc = pvclock_tsc_unscaled(12345);
	struct pvclock_slope host;
	uint32_t i;

	pvclock_slope_from_kernel(6462365, 24, &host);
	for (i = 0; i < VCPUS; i++)
		pvclock_vcpu_set_tsc(m->vcpu[i], &tsc, false);
	pvclock_vm_start(m->vm, (struct pvclock_host_tsc){ m->fake.tsc }, 77, &host);
	pvclock_vcpu_write_msr(m->vcpu[0], PVCLOCK_MSR_SYSTEM_TIME, GPA + 1);
	pvclock_vcpu_write_msr(m->vcpu[1], PVCLOCK_MSR_SYSTEM_TIME_OLD, GPA + 64 + 1);
	pvclock_vcpu_write_msr(m->vcpu[1], PVCLOCK_MSR_WALL_CLOCK, GPA + 128);
	m->fake.tsc += 987654321;
	return m;
}

static ssize_t saved_bytes(struct machine *m, uint8_t *bytes, size_t size)
{
	struct pvclock_record record;
	struct pvclock_reason reason;
	ssize_t length;

	pvclock_vm_pause(m->vm);
	assert_int_equal(pvclock_record_capture(m->vm, &record), 0);
	length = pvclock_record_encode(&record, bytes, size, &reason);
	assert_int_equal(reason.code, PVCLOCK_REASON_NONE);
	assert_int_equal(length, pvclock_record_size(&record));
	pvclock_record_clear(&record);
	return length;
}

static void p1_p6_round_trip_is_exact(void **state)
{
	struct machine *from = running_machine(), *to = machine_new(VCPUS);
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_line a, b;
	uint8_t bytes[1024], again[1024];
	ssize_t length = saved_bytes(from, bytes, sizeof(bytes));
	struct pvclock_tsc_transform tsc;
	int64_t moved = 1;
	uint64_t value;
	uint32_t i;

	(void)state;
	assert_int_equal(pvclock_record_decode(bytes, (size_t)length, &record, &reason), 0);
	assert_int_equal(pvclock_record_encode(&record, again, sizeof(again), &reason), length);
	assert_memory_equal(bytes, again, (size_t)length);
	assert_int_equal(pvclock_record_apply(&record, to->vm, &moved, &reason), -EBUSY);
	pvclock_vm_pause(to->vm);
	for (i = 0; i < VCPUS; i++)
		pvclock_vcpu_set_tsc(to->vcpu[i], &record.vcpus[i].tsc, false);
	assert_int_equal(pvclock_record_apply(&record, to->vm, &moved, &reason), 0);
	assert_int_equal(moved, 0);
	assert_int_equal(pvclock_vm_resume(to->vm), 0);
	for (i = 0; i < VCPUS; i++) {
		pvclock_vcpu_get_line(from->vcpu[i], &a);
		pvclock_vcpu_get_line(to->vcpu[i], &b);
		assert_true(a.tsc == b.tsc && a.ns == b.ns && a.mul == b.mul && a.shift == b.shift);
	}
	pvclock_vcpu_read_msr(to->vcpu[1], PVCLOCK_MSR_SYSTEM_TIME, &value);
	assert_int_equal(value, GPA + 65);
	pvclock_vcpu_read_msr(to->vcpu[1], PVCLOCK_MSR_WALL_CLOCK, &value);
	assert_int_equal(value, GPA + 128);
	assert_true(((struct pvclock_page *)to->memory)->system_time == 77);

	/*
	 * A TSC that did not take its offset: the clock is the same at the same host tick, and the guest's line
	 * moved.
	 */
	pvclock_vm_pause(to->vm);
	tsc = pvclock_tsc_unscaled(12345 + 1000);
	for (i = 0; i < VCPUS; i++)
		pvclock_vcpu_set_tsc(to->vcpu[i], &tsc, false);
	assert_int_equal(pvclock_record_apply(&record, to->vm, &moved, &reason), 0);
	assert_int_equal(moved, 1000);
	pvclock_vcpu_get_line(to->vcpu[0], &b);
	assert_true(b.tsc == a.tsc + 1000 && b.ns == a.ns);
	assert_true(pvclock_vm_stable(to->vm, NULL));
	pvclock_record_clear(&record);
	machine_free(from);
	machine_free(to);
}

/* Nothing of *record may have been touched by a refusal. */
static void expect_refused(const uint8_t *bytes, size_t size)
{
	struct pvclock_record record;
	struct pvclock_reason reason;
	uint8_t untouched[sizeof(record)];

	memset(&record, 0x5a, sizeof(record));
	memset(untouched, 0x5a, sizeof(record));
	assert_int_not_equal(pvclock_record_decode(bytes, size, &record, &reason), 0);
	assert_int_not_equal(reason.code, PVCLOCK_REASON_NONE);
	assert_true(strlen(reason.text) > 20 && reason.text[strlen(reason.text) - 1] == '.');
	assert_memory_equal(&record, untouched, sizeof(record));
}

static void p6_every_flipped_bit_is_refused(void **state)
{
	struct machine *m = running_machine();
	uint8_t bytes[1024];
	size_t length = (size_t)saved_bytes(m, bytes, sizeof(bytes)), bit;

	(void)state;
	for (bit = 0; bit < length * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		expect_refused(bytes, length);
		bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	machine_free(m);
}

static void p6_every_truncation_is_refused(void **state)
{
	struct machine *m = running_machine();
	uint8_t bytes[1024] = { 0 };
	size_t length = (size_t)saved_bytes(m, bytes, sizeof(bytes)), size;

	(void)state;
	for (size = 0; size < length; size++) {
		uint8_t *exact = malloc(size ? size : 1); /* its own block: ASan sees a read past the end */

		memcpy(exact, bytes, size);
		expect_refused(exact, size);
		free(exact);
	}
	expect_refused(bytes, length + 1);
	machine_free(m);
}

struct bad_field {
	const char *what;
	size_t offset;
	uint8_t bytes[8];
	size_t size;
};

static void seal(uint8_t *bytes, size_t size)
{
	uint32_t crc = ~0u;
	size_t i;
	int bit;

	memset(bytes + 16, 0, 4);
	for (i = 0; i < size; i++) {
		crc ^= bytes[i];
		for (bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (0xedb88320u & -(crc & 1));
	}
	crc = ~crc;
	for (i = 0; i < 4; i++)
		bytes[16 + i] = (uint8_t)(crc >> (8 * i));
}

/* With a good checksum: each field has its range, and each refusal names it. */
static void p6_fields_out_of_range_are_named(void **state)
{
	static const struct bad_field cases[] = {
		{ "version 9", 8, { 9 }, 4 },
		{ "its line flags", 20, { 2 }, 4 },
		{ "mul 0", 40, { 0 }, 4 },
		{ "shift 32", 44, { 32 }, 4 },
		{ "shift 255", 44, { 0xff, 0, 0, 0 }, 4 },      /* 255, which an int8_t would take for -1 */
		{ "its line a TSC ratio with 64 fraction bits", 64, { 64 }, 4 },
		{ "exponent 65536", 84, { 0, 0, 1 }, 4 },   /* 0 to an int16_t */
		{ "ratio", 64, { 48 }, 4 },
		{ "aligned", 68, { 3 }, 8 },
		{ "slope", 76, { 1 }, 8 },
		{ "system time", 96, { 9, 9, 9 }, 8 },
		{ "0 vCPUs", 112, { 0 }, 4 },
		{ "vCPUs", 112, { 2 }, 4 },
		{ "vCPUs", 112, { 255, 255, 255, 255 }, 4 },
		{ "ascending", 336 + 84, { 0 }, 4 },
		{ "vCPU 0 flags", 340, { 4 }, 4 },
		{ "vCPU 0 a TSC ratio with 256 fraction bits", 368, { 0, 1 }, 4 },
		{ "aligned", 344, { 3 }, 8 },
		{ "TAI offset", 136, { 0xe9, 3 }, 4 },        /* 1001 s */
		{ "CLOCK_TAI", 136, { 37 }, 4 },            /* the machine has no TAI: both clocks are alike */
		{ "policy", 176, { 0x20 }, 4 },
		{ "suspend interrupt, 0x1000f", 244, { 15, 0, 1 }, 8 }, /* an exception's vector */
		{ "suspend interrupt, 0x20042", 244, { 0x42, 0, 2 }, 8 },
		{ "suspend page address 0x1005", 252, { 5, 0x10 }, 8 },
		{ "re-enlightenment control, 0x1000f", 268, { 15, 0, 1 }, 8 },
		{ "re-enlightenment control, 0x20042", 268, { 0x42, 0, 2 }, 8 },
		{ "TSC emulation control, 0x2", 276, { 2 }, 8 },
		{ "TSC emulation status is 0x1", 284, { 1 }, 8 }, /* of what is off */
		{ "invariant TSC control, 0x3", 292, { 3 }, 8 },
		{ "TSC page has the sequence 0xffffffff", 316, { 255, 255, 255, 255 }, 4 },
		{ "nested interrupt, 0x1000f", 320, { 15, 0, 1 }, 8 },
		{ "nested page address 0x10003", 328, { 3, 0, 1 }, 8 },
		{ "nested page address 0x11008", 328, { 8, 0x10, 1 }, 8 },
		{ "deadline interrupt for vCPU 0, 0x100010050", 388, { 0x50, 0, 1, 0, 1 }, 8 },
		{ "deadline for vCPU 0, 77 ns", 396, { 77 }, 8 },
		{ "stolen time for vCPU 0, MSR 0x1021", 404, { 0x21, 0x10 }, 8 },
	};
	struct machine *m = running_machine();
	uint8_t good[1024], bytes[1024];
	size_t length = (size_t)saved_bytes(m, good, sizeof(good)), i;

	(void)state;
	memcpy(bytes, good, length);
	seal(bytes, length);
	assert_memory_equal(bytes, good, length); /* the format as documented, sealed by this test's own arithmetic */
	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct pvclock_record record;
		struct pvclock_reason reason;

		memcpy(bytes, good, length);
		memcpy(bytes + cases[i].offset, cases[i].bytes, cases[i].size);
		seal(bytes, length);
		expect_refused(bytes, length);
		pvclock_record_decode(bytes, length, &record, &reason);
		if (!strstr(reason.text, cases[i].what))
			fail_msg("case %zu: \"%s\" does not say \"%s\"", i, reason.text, cases[i].what);
	}
	machine_free(m);
}

/* Whole as far as it says, and too short for its version. */
static void p6_too_short_is_not_called_cut_off(void **state)
{
	struct machine *m = running_machine();
	struct pvclock_record record;
	struct pvclock_reason reason;
	uint8_t bytes[1024];

	(void)state;
	saved_bytes(m, bytes, sizeof(bytes));
	bytes[12] = 200;
	bytes[13] = 0;
	seal(bytes, 200);
	expect_refused(bytes, 200);
	pvclock_record_decode(bytes, 200, &record, &reason);
	assert_int_equal(reason.code, PVCLOCK_REASON_RECORD_TRUNCATED);
	assert_non_null(strstr(reason.text, "at least 336"));
	machine_free(m);
}

static void p6_wrong_vm_is_refused_untouched(void **state)
{
	struct machine *from = running_machine(), *to = machine_new(2);
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_line line;
	uint64_t value;

	(void)state;
	pvclock_vm_pause(from->vm);
	assert_int_equal(pvclock_record_capture(from->vm, &record), 0);
	pvclock_vm_pause(to->vm);
	assert_int_equal(pvclock_record_apply(&record, to->vm, NULL, &reason), -EINVAL);
	assert_int_equal(reason.code, PVCLOCK_REASON_VCPU_COUNT);
	assert_int_equal(pvclock_vcpu_get_line(to->vcpu[0], &line), -ENODATA);
	pvclock_vcpu_read_msr(to->vcpu[0], PVCLOCK_MSR_SYSTEM_TIME, &value);
	assert_int_equal(value, 0);
	assert_int_equal(pvclock_vcpu_create(to->vm, 3, &to->vcpu[2]), 0); /* as many, but another number */
	assert_int_equal(pvclock_record_apply(&record, to->vm, NULL, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "vCPU 4"));
	pvclock_record_clear(&record);
	machine_free(from);
	machine_free(to);
}

static void invalid_records_are_not_written(void **state)
{
	struct machine *m = running_machine();
	struct pvclock_record record;
	struct pvclock_reason reason;
	uint8_t bytes[1024];

	(void)state;
	assert_int_equal(pvclock_record_capture(m->vm, &record), -EBUSY);
	pvclock_vm_pause(m->vm);
	assert_int_equal(pvclock_record_capture(m->vm, &record), 0);
	assert_int_equal(pvclock_record_encode(&record, bytes, 10, &reason), -ENOSPC);
	record.line.mul = 0;
	assert_int_equal(pvclock_record_encode(&record, bytes, sizeof(bytes), &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "mul 0"));
	pvclock_record_clear(&record);
	machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_p6_round_trip_is_exact),
		cmocka_unit_test(p6_every_flipped_bit_is_refused),
		cmocka_unit_test(p6_every_truncation_is_refused),
		cmocka_unit_test(p6_fields_out_of_range_are_named),
		cmocka_unit_test(p6_too_short_is_not_called_cut_off),
		cmocka_unit_test(p6_wrong_vm_is_refused_untouched),
		cmocka_unit_test(invalid_records_are_not_written),
	};

	return cmocka_run_group_tests_name("record", tests, NULL, NULL);
}
