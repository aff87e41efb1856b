/* SPDX-License-Identifier: MIT */
/*
 * record_codec.c - a record's bytes. One walk over the fields serves both directions, so that what is written is what
 * is read; one check of the ranges serves both too, so that nothing is written that would be refused.
 *
 *   0  8  magic "PVCLKREC"         all little-endian
 *   8  4  version (4; 1 to 3 are read)
 *  12  4  length of the whole in bytes
 *  16  4  CRC-32 (IEEE 802.3) of the whole with these four bytes zero
 *  20     the fields, in the order of walk_record(), then vcpu_count times those of walk_vcpu()
 *
 * A version adds fields at the end of either walk; tests/host/golden/ keeps a record of each.
 */
#include "reason.h"
#include "vm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>

#define HEADER_SIZE 20u
#define CRC_OFFSET 16u

/* By version: header and walk_record(), and walk_vcpu(). */
static const struct {
	size_t fixed, vcpu;
} sizes[PVCLOCK_RECORD_VERSION + 1] = { [1] = { 116, 36 }, [2] = { 236, 52 }, [3] = { 260, 84 }, [4] = { 336, 84 } };

#define FLAG_STABLE 1u
#define FLAG_OLD_MSRS 1u
#define FLAG_GUEST_STOPPED 2u
#define FLAG_FALL_BACK (1u << 31) /* with the policy, a bit of FREEZE for each blackout */

static const char magic[8] = { 'P', 'V', 'C', 'L', 'K', 'R', 'E', 'C' };

struct cursor {
	uint8_t *write;      /* one of the two is NULL */
	const uint8_t *read;
	size_t at;
	uint32_t version;
};

static void walk(struct cursor *cursor, uint64_t *value, size_t size)
{
	size_t i;

	if (cursor->read)
		*value = 0;
	for (i = 0; i < size; i++) {
		if (cursor->read)
			*value |= (uint64_t)cursor->read[cursor->at + i] << (8 * i);
		else
			cursor->write[cursor->at + i] = (uint8_t)(*value >> (8 * i));
	}
	cursor->at += size;
}

static void walk_u64(struct cursor *cursor, uint64_t *value)
{
	walk(cursor, value, 8);
}

static void walk_u32(struct cursor *cursor, uint32_t *value)
{
	uint64_t wide = *value;

	walk(cursor, &wide, 4);
	*value = (uint32_t)wide;
}

/* Small numbers travel as 32 bits, signed ones in two's complement. The result is what was read, for a range check. */
static int32_t walk_small(struct cursor *cursor, int32_t value)
{
	uint32_t bits = (uint32_t)value;

	walk_u32(cursor, &bits);
	return (int32_t)bits;
}

/* What does not fit a field of the struct, for the check. */
struct small_fields {
	int32_t line_shift, host_exponent, frac_bits;
	uint32_t flags, policy;
};

static void walk_tsc(struct cursor *cursor, struct pvclock_tsc_transform *tsc, int32_t *frac_bits)
{
	walk_u64(cursor, &tsc->ratio);
	walk_u64(cursor, &tsc->offset);
	*frac_bits = walk_small(cursor, tsc->frac_bits);
	tsc->frac_bits = (uint8_t)*frac_bits;
}

/* But for what version 1 had already. */
static void walk_time(struct cursor *cursor, struct pvclock_host_time *time)
{
	walk_u32(cursor, &time->bracket_ns);
	walk_u64(cursor, &time->tai_ns);
	walk_u64(cursor, &time->boottime_ns);
	time->tai_offset = walk_small(cursor, time->tai_offset);
	walk_u64(cursor, &time->max_error_ns);
	walk_u64(cursor, &time->estimated_error_ns);
	walk_u32(cursor, &time->state);
	for (size_t i = 0; i < PVCLOCK_BOOT_ID_SIZE; i++) {
		uint64_t byte = time->boot_id[i];

		walk(cursor, &byte, 1);
		time->boot_id[i] = (uint8_t)byte;
	}
}

static void walk_policy(struct cursor *cursor, struct pvclock_policy *policy, uint32_t *bits)
{
	*bits = policy->fall_back ? FLAG_FALL_BACK : 0;
	for (unsigned int i = 0; i < PVCLOCK_BLACKOUT_COUNT; i++)
		*bits |= (policy->on[i] == PVCLOCK_FREEZE ? 1u : 0u) << i;
	walk_u32(cursor, bits);
	for (unsigned int i = 0; i < PVCLOCK_BLACKOUT_COUNT; i++)
		policy->on[i] = *bits >> i & 1 ? PVCLOCK_FREEZE : PVCLOCK_ADVANCE;
	policy->fall_back = *bits & FLAG_FALL_BACK;
	walk_u64(cursor, &policy->advance_max_ns);
}

static void walk_account(struct cursor *cursor, struct pvclock_account *account)
{
	uint64_t moved = (uint64_t)account->moved_ticks;

	walk_u64(cursor, &account->blackouts);
	walk_u64(cursor, &account->counted_ns);
	walk_u64(cursor, &account->uncounted_ns);
	walk_u64(cursor, &account->rate_changes);
	walk_u64(cursor, &account->residual_ns_max);
	walk_u64(cursor, &moved);
	account->moved_ticks = (int64_t)moved;
}

static void walk_hyperv(struct cursor *cursor, struct pvclock_record *record)
{
	uint64_t offset = (uint64_t)record->hyperv.offset;

	walk_u64(cursor, &record->hyperv_tsc_page);
	walk_u64(cursor, &record->hyperv_reenlightenment);
	walk_u64(cursor, &record->hyperv_emulation_control);
	walk_u64(cursor, &record->hyperv_emulation_status);
	walk_u64(cursor, &record->hyperv_invariant);
	walk_u64(cursor, &record->hyperv.scale);
	walk_u64(cursor, &offset);
	record->hyperv.offset = (int64_t)offset;
	walk_u32(cursor, &record->hyperv_sequence);
}

static void walk_record(struct cursor *cursor, struct pvclock_record *record, struct small_fields *small)
{
	small->flags = record->stable ? FLAG_STABLE : 0;
	walk_u32(cursor, &small->flags);
	record->stable = small->flags & FLAG_STABLE;
	walk_u64(cursor, &record->line.tsc);
	walk_u64(cursor, &record->line.ns);
	walk_u32(cursor, &record->line.mul);
	small->line_shift = walk_small(cursor, record->line.shift);
	record->line.shift = (int8_t)small->line_shift;
	walk_tsc(cursor, &record->reference, &small->frac_bits);
	walk_u64(cursor, &record->wall_clock_msr);
	walk_u64(cursor, &record->host.mantissa);
	small->host_exponent = walk_small(cursor, record->host.exponent);
	record->host.exponent = (int16_t)small->host_exponent;
	walk_u64(cursor, &record->time.at.ticks);
	walk_u64(cursor, &record->system_time);
	walk_u64(cursor, &record->time.realtime_ns);
	walk_u32(cursor, &record->vcpu_count);
	if (cursor->version >= 2) {
		walk_time(cursor, &record->time);
		walk_policy(cursor, &record->policy, &small->policy);
		walk_account(cursor, &record->account);
	}
	if (cursor->version >= 3) {
		walk_u64(cursor, &record->account.error_ns);
		walk_u64(cursor, &record->suspend_control);
		walk_u64(cursor, &record->suspend_msr);
	}
	if (cursor->version >= 4) {
		walk_hyperv(cursor, record);
		walk_u64(cursor, &record->nested_control);
		walk_u64(cursor, &record->nested_msr);
	}
}

static void walk_vcpu(struct cursor *cursor, struct pvclock_record_vcpu *vcpu, struct small_fields *small)
{
	small->flags = (vcpu->old_msrs ? FLAG_OLD_MSRS : 0) | (vcpu->guest_stopped ? FLAG_GUEST_STOPPED : 0);
	walk_u32(cursor, &vcpu->index);
	walk_u32(cursor, &small->flags);
	vcpu->old_msrs = small->flags & FLAG_OLD_MSRS;
	vcpu->guest_stopped = small->flags & FLAG_GUEST_STOPPED;
	walk_u64(cursor, &vcpu->system_time_msr);
	walk_tsc(cursor, &vcpu->tsc, &small->frac_bits);
	if (cursor->version >= 2) {
		walk_u64(cursor, &vcpu->tsc_adjust);
		walk_u64(cursor, &vcpu->tsc_deadline);
	}
	if (cursor->version >= 3) {
		walk_u64(cursor, &vcpu->deadline_control);
		walk_u64(cursor, &vcpu->deadline_ns);
		walk_u64(cursor, &vcpu->steal_msr);
		walk_u64(cursor, &vcpu->steal_ns);
	}
}

/* --- ranges ----------------------------------------------------------------------------- */

#define NS_PER_SEC 1000000000ll
#define TAI_OFFSET_MAX 1000 /* 37 s in 2026 */
#define TAI_APART_NS NS_PER_SEC

#define REFUSE(reason, ...) (pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_FIELD, __VA_ARGS__), false)

static bool check_tsc(const struct pvclock_tsc_transform *tsc, const char *whose, struct pvclock_reason *reason)
{
	if (tsc->frac_bits > 63)
		return REFUSE(reason, "The record gives %s a TSC ratio with %u fraction bits; 0 to 63 exist.", whose,
			      tsc->frac_bits);
	if ((tsc->frac_bits == 0) != (tsc->ratio == 0))
		return REFUSE(reason, "The record gives %s a TSC ratio of %" PRIu64 " with %u fraction bits; "
			      "both are 0 for an unscaled TSC, or neither.", whose, tsc->ratio, tsc->frac_bits);
	return true;
}

static bool check_host(const struct pvclock_record *record, struct pvclock_reason *reason)
{
	struct pvclock_line line;

	if (!(record->host.mantissa >> 63) || !pvclock_line_make(&line, 0, 0, &record->host, NULL))
		return REFUSE(reason, "The record's host slope, %" PRIu64 " x 2^%d ns a tick, is no clock's.",
			      record->host.mantissa, record->host.exponent);
	return true;
}

/* CLOCK_TAI is CLOCK_REALTIME and the offset: what was read at one instant cannot differ by more than a step between the reads. */
static bool check_time(const struct pvclock_host_time *time, struct pvclock_reason *reason)
{
	int64_t apart = (int64_t)(time->tai_ns - time->realtime_ns - (uint64_t)(time->tai_offset * NS_PER_SEC));

	if (time->tai_offset < -TAI_OFFSET_MAX || time->tai_offset > TAI_OFFSET_MAX)
		return REFUSE(reason, "The record's TAI offset is %d s; none beyond %d s is known to anybody.", time->tai_offset,
			      TAI_OFFSET_MAX);
	if (time->tai_offset != 0 && (apart > TAI_APART_NS || apart < -TAI_APART_NS))
		return REFUSE(reason, "The record's CLOCK_TAI is not its CLOCK_REALTIME and %d s: %.3f s are between them.",
			      time->tai_offset, (double)(int64_t)(time->tai_ns - time->realtime_ns) / 1e9);
	return true;
}

/* What no guest can have made it (hyperv.c). Any value of the page's MSR can be. */
static bool check_hyperv(const struct pvclock_record *record, struct pvclock_reason *reason)
{
	/* with the vector, the enable bit and the target VP where our own controls have them */
	if (!pvclock_interface_check(PVCLOCK_MSR_SUSPEND_CONTROL, record->hyperv_reenlightenment))
		return REFUSE(reason, "The record's re-enlightenment control, 0x%" PRIx64 ", is none that a guest can write.",
			      record->hyperv_reenlightenment);
	if (record->hyperv_emulation_control > 1)
		return REFUSE(reason, "The record's TSC emulation control, 0x%" PRIx64 ", has more than bit 0.",
			      record->hyperv_emulation_control);
	if (record->hyperv_emulation_status > record->hyperv_emulation_control)
		return REFUSE(reason,
			      "The record's TSC emulation status is 0x%" PRIx64 " where the control is 0x%" PRIx64 "; 1 needs 1.",
			      record->hyperv_emulation_status, record->hyperv_emulation_control);
	if (record->hyperv_invariant > 1)
		return REFUSE(reason, "The record's invariant TSC control, 0x%" PRIx64 ", has more than bit 0.",
			      record->hyperv_invariant);
	if (record->hyperv_sequence == UINT32_MAX)
		return REFUSE(reason, "The record's TSC page has the sequence 0x%x, which none has.", record->hyperv_sequence);
	return true;
}

static bool check_record(const struct pvclock_record *record, struct pvclock_reason *reason)
{
	if (!pvclock_line_valid(&record->line))
		return REFUSE(reason, "The record's line has mul %u and shift %d; mul is not 0 and shift is %d to %d.",
			      record->line.mul, record->line.shift, PVCLOCK_SHIFT_MIN, PVCLOCK_SHIFT_MAX);
	if (record->vcpu_count == 0 || record->vcpu_count > PVCLOCK_RECORD_VCPUS_MAX)
		return REFUSE(reason, "The record counts %u vCPUs; 1 to %u can be.", record->vcpu_count,
			      PVCLOCK_RECORD_VCPUS_MAX);
	if (record->wall_clock_msr % 4 != 0)
		return REFUSE(reason, "The record's wall clock address 0x%" PRIx64 " is not 4-byte aligned.",
			      record->wall_clock_msr);
	if (!pvclock_interface_check(PVCLOCK_MSR_SUSPEND, record->suspend_msr))
		return REFUSE(reason, "The record's suspend page address 0x%" PRIx64 " is not 8-byte aligned.", record->suspend_msr);
	if (!pvclock_interface_check(PVCLOCK_MSR_SUSPEND_CONTROL, record->suspend_control))
		return REFUSE(reason, "The record's suspend interrupt, 0x%" PRIx64 ", is none that a guest can ask for.",
			      record->suspend_control);
	if (record->nested_msr % 4096 > PVCLOCK_MSR_ENABLE)
		return REFUSE(reason, "The record's nested page address 0x%" PRIx64 " is not 4096-byte aligned.",
			      record->nested_msr);
	if (!pvclock_interface_check(PVCLOCK_MSR_NESTED_CONTROL, record->nested_control))
		return REFUSE(reason, "The record's nested interrupt, 0x%" PRIx64 ", is none that a guest can ask for.",
			      record->nested_control);
	if (!check_hyperv(record, reason))
		return false;
	if (!check_tsc(&record->reference, "its line", reason) || !check_host(record, reason) ||
	    !check_time(&record->time, reason))
		return false;
	if (record->system_time !=
	    pvclock_line_ns(&record->line, pvclock_tsc_to_guest(&record->reference, record->time.at).ticks))
		return REFUSE(reason, "The record's system time, %" PRIu64 " ns, is not what its line says at host TSC %"
			      PRIu64 ".", record->system_time, record->time.at.ticks);
	return true;
}

struct vcpu_name {
	char text[24];
};

static struct vcpu_name name_vcpu(uint32_t index)
{
	struct vcpu_name name;

	snprintf(name.text, sizeof(name.text), "vCPU %u", index);
	return name;
}

static bool check_vcpu(const struct pvclock_record *record, uint32_t i, struct pvclock_reason *reason)
{
	const struct pvclock_record_vcpu *vcpu = &record->vcpus[i];

	if (i > 0 && vcpu->index <= record->vcpus[i - 1].index)
		return REFUSE(reason, "The record lists vCPU %u after vCPU %u; the order is ascending.", vcpu->index,
			      record->vcpus[i - 1].index);
	if ((vcpu->system_time_msr & PVCLOCK_MSR_ENABLE) && (vcpu->system_time_msr & 2))
		return REFUSE(reason, "The record's page address for vCPU %u, 0x%" PRIx64 ", is not 4-byte aligned.",
			      vcpu->index, vcpu->system_time_msr - PVCLOCK_MSR_ENABLE);
	if (!pvclock_interface_check(PVCLOCK_MSR_DEADLINE_CONTROL, vcpu->deadline_control))
		return REFUSE(reason, "The record's deadline interrupt for vCPU %u, 0x%" PRIx64 ", is none that a guest can ask for.",
			      vcpu->index, vcpu->deadline_control);
	if (vcpu->deadline_ns != 0 && !(vcpu->deadline_control & PVCLOCK_CONTROL_ENABLE))
		return REFUSE(reason, "The record's deadline for vCPU %u, %" PRIu64 " ns, has no interrupt.", vcpu->index,
			      vcpu->deadline_ns);
	if (!pvclock_steal_check(vcpu->steal_msr))
		return REFUSE(reason, "The record's stolen time for vCPU %u, MSR 0x%" PRIx64 ", is not 64-byte aligned.", vcpu->index,
			      vcpu->steal_msr);
	return check_tsc(&vcpu->tsc, name_vcpu(vcpu->index).text, reason);
}

bool pvclock_record_check(const struct pvclock_record *record, struct pvclock_reason *reason)
{
	uint32_t i;

	if (!check_record(record, reason))
		return false;
	for (i = 0; i < record->vcpu_count; i++) {
		if (!check_vcpu(record, i, reason))
			return false;
	}
	return true;
}

/* --- bytes ------------------------------------------------------------------------------- */

static uint32_t crc32_add(uint32_t crc, const uint8_t *bytes, size_t size)
{
	size_t i;
	int bit;

	for (i = 0; i < size; i++) {
		crc ^= bytes[i];
		for (bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (0xedb88320u & -(crc & 1));
	}
	return crc;
}

static uint32_t checksum(const uint8_t *bytes, size_t size)
{
	static const uint8_t zero[4];
	uint32_t crc = crc32_add(~0u, bytes, CRC_OFFSET);

	crc = crc32_add(crc, zero, sizeof(zero));
	return ~crc32_add(crc, bytes + CRC_OFFSET + 4, size - CRC_OFFSET - 4);
}

static size_t size_of(uint32_t version, uint32_t vcpus)
{
	return sizes[version].fixed + vcpus * sizes[version].vcpu;
}

size_t pvclock_record_size(const struct pvclock_record *record)
{
	return size_of(PVCLOCK_RECORD_VERSION, record->vcpu_count);
}

static void walk_header(struct cursor *cursor, uint32_t *length, uint32_t *crc)
{
	cursor->at = sizeof(magic);
	walk_u32(cursor, &cursor->version);
	walk_u32(cursor, length);
	walk_u32(cursor, crc);
}

ssize_t pvclock_record_encode(const struct pvclock_record *record, void *bytes, size_t size,
			      struct pvclock_reason *reason)
{
	struct cursor cursor = { .write = bytes, .version = PVCLOCK_RECORD_VERSION };
	struct pvclock_record copy = *record; /* the walk takes a record that it could write to */
	uint32_t length, crc = 0, i;
	struct small_fields small;

	pvclock_reason_clear(reason);
	if (!pvclock_record_check(record, reason))
		return -EINVAL;
	length = (uint32_t)pvclock_record_size(record);
	if (size < length)
		return -ENOSPC;
	memcpy(bytes, magic, sizeof(magic));
	walk_header(&cursor, &length, &crc);
	walk_record(&cursor, &copy, &small);
	for (i = 0; i < record->vcpu_count; i++) {
		struct pvclock_record_vcpu vcpu = record->vcpus[i];

		walk_vcpu(&cursor, &vcpu, &small);
	}
	crc = checksum(bytes, length);
	walk_header(&cursor, &length, &crc);
	return (ssize_t)length;
}

/* The frame: everything that can be wrong before a field means anything. */
static int check_frame(const uint8_t *bytes, size_t size, struct cursor *cursor, struct pvclock_reason *reason)
{
	uint32_t length, crc;

	if (size < HEADER_SIZE) {
		pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_TRUNCATED,
				   "The record is cut off after %zu bytes, within its header; fetch it again.", size);
		return -EINVAL;
	}
	if (memcmp(bytes, magic, sizeof(magic)) != 0) {
		pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_MAGIC,
				   "This is no clock record: it does not begin with \"PVCLKREC\".");
		return -EINVAL;
	}
	walk_header(cursor, &length, &crc);
	if (cursor->version == 0 || cursor->version > PVCLOCK_RECORD_VERSION) {
		pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_VERSION,
				   "The record has version %u and this library reads versions 1 to %u; use a newer pvclock, "
				   "or save it anew with this one.", cursor->version, PVCLOCK_RECORD_VERSION);
		return -ENOTSUP;
	}
	if (length != size) {
		pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_TRUNCATED,
				   "The record says that it is %u bytes long and %zu are here; fetch it again.",
				   length, size);
		return -EINVAL;
	}
	if (size < sizes[cursor->version].fixed) {
		pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_TRUNCATED,
				   "The record is %zu bytes long, and one of version %u has at least %zu; save it anew.", size,
				   cursor->version, sizes[cursor->version].fixed);
		return -EINVAL;
	}
	if (crc != checksum(bytes, size)) {
		pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_CHECKSUM,
				   "The record is damaged: its checksum is %08x and should be %08x; fetch it again.",
				   checksum(bytes, size), crc);
		return -EINVAL;
	}
	return 0;
}

/* Of what is wider in bytes than in the struct. */
static bool check_small(const struct small_fields *small, uint32_t known_flags, const char *whose, struct pvclock_reason *reason)
{
	if (small->flags & ~known_flags)
		return REFUSE(reason, "The record gives %s flags 0x%x, of which this version knows 0x%x.", whose, small->flags,
			      known_flags);
	if (small->frac_bits < 0 || small->frac_bits > 63)
		return REFUSE(reason, "The record gives %s a TSC ratio with %d fraction bits; 0 to 63 exist.", whose,
			      small->frac_bits);
	return true;
}

static bool check_small_record(const struct small_fields *small, const struct pvclock_record *record, struct pvclock_reason *reason)
{
	if (!check_small(small, FLAG_STABLE, "its line", reason))
		return false;
	if (small->policy & ~(FLAG_FALL_BACK | ((1u << PVCLOCK_BLACKOUT_COUNT) - 1)))
		return REFUSE(reason, "The record's policy has bits 0x%x, for blackouts that this version does not know.",
			      small->policy);
	if (small->line_shift != record->line.shift)
		return REFUSE(reason, "The record's line has shift %d; it is %d to %d.", small->line_shift, PVCLOCK_SHIFT_MIN,
			      PVCLOCK_SHIFT_MAX);
	if (small->host_exponent != record->host.exponent)
		return REFUSE(reason, "The record's host slope has the exponent %d, which is no clock's.", small->host_exponent);
	return true;
}

int pvclock_record_decode(const void *bytes, size_t size, struct pvclock_record *out, struct pvclock_reason *reason)
{
	struct cursor cursor = { .read = bytes };
	/* what an older version does not say */
	struct pvclock_record record = {
		.policy = pvclock_policy_default(),
		.account.error_ns = PVCLOCK_ERROR_UNKNOWN,
		.time = { .max_error_ns = PVCLOCK_ERROR_UNKNOWN, .estimated_error_ns = PVCLOCK_ERROR_UNKNOWN, .state = TIME_ERROR },
	};
	struct small_fields small = { 0 };
	uint32_t i;
	int error;

	pvclock_reason_clear(reason);
	error = check_frame(bytes, size, &cursor, reason);
	if (error)
		return error;
	walk_record(&cursor, &record, &small);
	if (!check_small_record(&small, &record, reason) || !check_record(&record, reason))
		return -EINVAL;
	if (size_of(cursor.version, record.vcpu_count) != size) {
		pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_FIELD,
				   "The record counts %u vCPUs, which take %zu bytes, and is %zu bytes long.",
				   record.vcpu_count, size_of(cursor.version, record.vcpu_count), size);
		return -EINVAL;
	}
	record.vcpus = calloc(record.vcpu_count, sizeof(*record.vcpus));
	if (!record.vcpus)
		return -ENOMEM;
	for (i = 0; i < record.vcpu_count; i++) {
		walk_vcpu(&cursor, &record.vcpus[i], &small);
		if (!check_small(&small, FLAG_OLD_MSRS | FLAG_GUEST_STOPPED, name_vcpu(record.vcpus[i].index).text, reason) ||
		    !check_vcpu(&record, i, reason)) {
			free(record.vcpus);
			return -EINVAL;
		}
	}
	*out = record;
	return 0;
}
