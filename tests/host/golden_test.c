/* SPDX-License-Identifier: MIT */
/*
 * golden_test.c - P6: what one release saved, the next restores. golden/record-N.bin was written by the code of version
 * N, and is never written again; each is read here, and every field compared.
 *
 * Version 5: raise PVCLOCK_RECORD_VERSION and add its fields at the end of the walks in record_codec.c; decode says
 * what an older version means by their absence. Copy version_4() to version_5(), with the new fields in it; version_4()
 * gets what an old record is read as. Run this test once with GOLDEN_WRITE=golden/record-5.bin, and commit that file.
 * Only the newest version is written, so p6_the_newest_is_written moves on to it; those before are only read.
 */
#include <pvclock/record.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>

#include <cmocka.h>

#define BYTES_MAX 4096

static const char *folder; /* of the golden files */

static size_t read_golden(const char *name, uint8_t bytes[BYTES_MAX])
{
	char path[4096];
	size_t size;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "rb");
	if (!file)
		fail_msg("%s is missing", path);
	size = fread(bytes, 1, BYTES_MAX, file);
	fclose(file);
	return size;
}

/*
 * The VM of version 1: three vCPUs, the second registered through the old MSR, the third not at all and with an offset
 * of its own.
 */
static struct pvclock_record version_1(struct pvclock_record_vcpu vcpus[3])
{
	struct pvclock_record record = {
		.line = { .tsc = 0x112233445, .ns = 0xaabbccdd, .mul = 3308733440, .shift = -1 },
		.reference = { .offset = 0xfffffff000000123 },
		.stable = true,
		.wall_clock_msr = 0x12346000,
		.host = { .mantissa = 14210901915981578240u, .exponent = -65 },
		.time = { .at = { 0x1123456789a }, .realtime_ns = 1790000000123456789, /* and what it does not say: */
			  .max_error_ns = PVCLOCK_ERROR_UNKNOWN, .estimated_error_ns = PVCLOCK_ERROR_UNKNOWN, .state = TIME_ERROR },
		.system_time = 428257696292,
		.policy = pvclock_policy_default(),
		.account = { .error_ns = PVCLOCK_ERROR_UNKNOWN },
		.vcpu_count = 3,
		.vcpus = vcpus,
	};

	vcpus[0] = (struct pvclock_record_vcpu){ .index = 0, .system_time_msr = 0x12345001, .tsc = { .offset = 0xfffffff000000123 } };
	vcpus[1] = (struct pvclock_record_vcpu){ .index = 1, .system_time_msr = 0x12345041, .old_msrs = true, .guest_stopped = true,
						 .tsc = { .offset = 0xfffffff000000123 } };
	vcpus[2] = (struct pvclock_record_vcpu){ .index = 7, .tsc = { .offset = 0xfffffff000000456 } };
	return record;
}

/* Version 2: a scaled TSC (VMX, 1.25 times the host's), a host that knows TAI, deadlines, TSC_ADJUST, a policy, an account. */
static struct pvclock_record version_2(struct pvclock_record_vcpu vcpus[3])
{
	const struct pvclock_tsc_transform tsc = { .ratio = 5ull << 46, .offset = 0xfffffff000000123, .frac_bits = PVCLOCK_FRAC_BITS_VMX };
	struct pvclock_record record = version_1(vcpus);

	record.reference = tsc;
	record.stable = false;
	record.line.shift = 3;
	record.line.mul = 0x80000001;
	record.system_time = 5598085080450;
	record.time.bracket_ns = 84;
	record.time.tai_ns = record.time.realtime_ns + 37000000016;
	record.time.boottime_ns = 0x1122334455667788;
	record.time.tai_offset = 37;
	record.time.max_error_ns = 1500000;
	record.time.estimated_error_ns = 7000;
	record.time.state = TIME_INS;
	for (unsigned int i = 0; i < PVCLOCK_BOOT_ID_SIZE; i++)
		record.time.boot_id[i] = (uint8_t)(0xf0 - i);
	record.policy.on[PVCLOCK_BLACKOUT_PAUSE] = PVCLOCK_FREEZE;
	record.policy.on[PVCLOCK_BLACKOUT_SNAPSHOT] = PVCLOCK_ADVANCE;
	record.policy.advance_max_ns = 86400000000000;
	record.policy.fall_back = true;
	record.account = (struct pvclock_account){ .blackouts = 11, .counted_ns = 12, .uncounted_ns = 13, .rate_changes = 14,
						   .residual_ns_max = 15, .moved_ticks = -16, .error_ns = PVCLOCK_ERROR_UNKNOWN };
	for (unsigned int i = 0; i < 3; i++) {
		uint64_t offset = vcpus[i].tsc.offset;

		vcpus[i].tsc = tsc;
		vcpus[i].tsc.offset = offset;
		vcpus[i].tsc_adjust = 0xffffffffffffff00 + i;
		vcpus[i].tsc_deadline = i == 1 ? 0 : 0x123456789abcdef0 + i;
	}
	return record;
}

/* Version 3: a guest that uses pvclock/interface.h, and whose stolen time is userspace's. */
static struct pvclock_record version_3(struct pvclock_record_vcpu vcpus[3])
{
	struct pvclock_record record = version_2(vcpus);

	record.account.error_ns = 17;
	record.suspend_control = 0x0000000700010042;
	record.suspend_msr = 0x123456781;
	for (unsigned int i = 0; i < 2; i++) {
		vcpus[i].deadline_control = 0x10051 + i;
		vcpus[i].deadline_ns = i == 1 ? 0 : 0x8877665544332211;
		vcpus[i].steal_msr = 0x12347041 + 64 * i;
		vcpus[i].steal_ns = 0x7766554433221100 + i;
	}
	return record;
}

/* Version 4: a guest that uses Hyper-V's clock, and is a host itself. */
static struct pvclock_record version_4(struct pvclock_record_vcpu vcpus[3])
{
	struct pvclock_record record = version_3(vcpus);

	record.hyperv_tsc_page = 0x1234a7ff;
	record.hyperv_reenlightenment = 0x00000007000100f3;
	record.hyperv_emulation_control = 1;
	record.hyperv_emulation_status = 1;
	record.hyperv_invariant = 1;
	record.hyperv = (struct pvclock_hyperv_line){ 0x09d89d89d89d89d9, -0x1122334455667788 };
	record.hyperv_sequence = 0xfffffffe;
	record.nested_control = 0x0000000300010061;
	record.nested_msr = 0x123456789abcd001;
	return record;
}

#define same(field) assert_int_equal(read->field, expected->field)

static void same_tsc(const struct pvclock_tsc_transform *read, const struct pvclock_tsc_transform *expected)
{
	same(ratio);
	same(offset);
	same(frac_bits);
}

static void same_time(const struct pvclock_host_time *read, const struct pvclock_host_time *expected)
{
	same(at.ticks);
	same(bracket_ns);
	same(tai_ns);
	same(realtime_ns);
	same(boottime_ns);
	same(tai_offset);
	same(max_error_ns);
	same(estimated_error_ns);
	same(state);
	assert_memory_equal(read->boot_id, expected->boot_id, PVCLOCK_BOOT_ID_SIZE);
}

static void same_policy_and_account(const struct pvclock_record *read, const struct pvclock_record *expected)
{
	for (unsigned int i = 0; i < PVCLOCK_BLACKOUT_COUNT; i++)
		same(policy.on[i]);
	same(policy.advance_max_ns);
	same(policy.fall_back);
	same(account.blackouts);
	same(account.counted_ns);
	same(account.uncounted_ns);
	same(account.rate_changes);
	same(account.residual_ns_max);
	same(account.moved_ticks);
	same(account.error_ns);
}

static void same_record(const struct pvclock_record *read, const struct pvclock_record *expected)
{
	same(line.tsc);
	same(line.ns);
	same(line.mul);
	same(line.shift);
	same_tsc(&read->reference, &expected->reference);
	same(stable);
	same(wall_clock_msr);
	same(host.mantissa);
	same(host.exponent);
	same_time(&read->time, &expected->time);
	same(system_time);
	same_policy_and_account(read, expected);
	same(suspend_control);
	same(suspend_msr);
	same(hyperv_tsc_page);
	same(hyperv_reenlightenment);
	same(hyperv_emulation_control);
	same(hyperv_emulation_status);
	same(hyperv_invariant);
	same(hyperv.scale);
	same(hyperv.offset);
	same(hyperv_sequence);
	same(nested_control);
	same(nested_msr);
	same(vcpu_count);
	for (uint32_t i = 0; i < expected->vcpu_count; i++) {
		same(vcpus[i].index);
		same(vcpus[i].system_time_msr);
		same(vcpus[i].old_msrs);
		same(vcpus[i].guest_stopped);
		same_tsc(&read->vcpus[i].tsc, &expected->vcpus[i].tsc);
		same(vcpus[i].tsc_adjust);
		same(vcpus[i].tsc_deadline);
		same(vcpus[i].deadline_control);
		same(vcpus[i].deadline_ns);
		same(vcpus[i].steal_msr);
		same(vcpus[i].steal_ns);
	}
}

static void reads(const char *name, const struct pvclock_record *expected)
{
	struct pvclock_record record;
	struct pvclock_reason reason;
	uint8_t bytes[BYTES_MAX];
	size_t size = read_golden(name, bytes);

	if (pvclock_record_decode(bytes, size, &record, &reason) != 0)
		fail_msg("%s: %s", name, reason.text);
	same_record(&record, expected);
	pvclock_record_clear(&record);
}

static void p6_version_1_is_read(void **state)
{
	struct pvclock_record_vcpu vcpus[3];
	struct pvclock_record expected = version_1(vcpus);

	(void)state;
	reads("record-1.bin", &expected);
}

static void p6_version_2_is_read(void **state)
{
	struct pvclock_record_vcpu vcpus[3];
	struct pvclock_record expected = version_2(vcpus);

	(void)state;
	reads("record-2.bin", &expected);
}

static void p6_version_3_is_read(void **state)
{
	struct pvclock_record_vcpu vcpus[3];
	struct pvclock_record expected = version_3(vcpus);

	(void)state;
	reads("record-3.bin", &expected);
}

static void p6_version_4_is_read(void **state)
{
	struct pvclock_record_vcpu vcpus[3];
	struct pvclock_record expected = version_4(vcpus);

	(void)state;
	reads("record-4.bin", &expected);
}

/* The bytes do not change while the version does not. */
static void p6_the_newest_is_written(void **state)
{
	struct pvclock_record_vcpu vcpus[3];
	struct pvclock_record record = version_4(vcpus);
	struct pvclock_reason reason;
	uint8_t golden[BYTES_MAX], written[BYTES_MAX];
	const char *path = getenv("GOLDEN_WRITE");
	ssize_t length = pvclock_record_encode(&record, written, sizeof(written), &reason);
	FILE *file;

	(void)state;
	if (length < 0)
		fail_msg("%s", reason.text);
	if (path) {
		file = fopen(path, "wbx");
		if (!file || fwrite(written, 1, (size_t)length, file) != (size_t)length || fclose(file))
			fail_msg("cannot write %s", path);
	}
	assert_int_equal(length, read_golden("record-4.bin", golden));
	assert_memory_equal(written, golden, (size_t)length);
	assert_int_equal(PVCLOCK_RECORD_VERSION, 4);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p6_version_1_is_read),
		cmocka_unit_test(p6_version_2_is_read),
		cmocka_unit_test(p6_version_3_is_read),
		cmocka_unit_test(p6_version_4_is_read),
		cmocka_unit_test(p6_the_newest_is_written),
	};

	folder = argc > 1 ? argv[1] : "tests/host/golden";
	return cmocka_run_group_tests_name("golden", tests, NULL, NULL);
}
