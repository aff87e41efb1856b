/* SPDX-License-Identifier: MIT */
/*
 * record.c - any bytes as a record: refused with a sentence that names the field, or taken and then written back byte
 * for byte; one of an older version is written as today's, and read back alike. What was taken is planned for. A
 * mutated record seldom has a good checksum, so the first input byte decides whether the fuzzer is given one, and of
 * which version, and the ranges behind it are reached.
 */
#include "input.h"

#include <pvclock/plan.h>

#include <stdint.h>
#include <string.h>

#define SEALED 1u
#define VERSION_1 2u
#define AGREES 4u /* the system time is what the line says */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(uint8_t *bytes, uint64_t value, size_t size)
{
	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get(const uint8_t *bytes, size_t size)
{
	uint64_t value = 0;

	while (size-- > 0)
		value = value << 8 | bytes[size];
	return value;
}

/* The fields are where record_codec.c says. */
static void agree(uint8_t *bytes, size_t size)
{
	struct pvclock_line line;
	struct pvclock_tsc_transform tsc;

	if (size < 116)
		return;
	line = (struct pvclock_line){ .tsc = get(bytes + 24, 8), .ns = get(bytes + 32, 8), .mul = (uint32_t)get(bytes + 40, 4),
				      .shift = (int8_t)bytes[44] };
	tsc = (struct pvclock_tsc_transform){ .ratio = get(bytes + 48, 8), .offset = get(bytes + 56, 8), .frac_bits = bytes[64] };
	if (tsc.frac_bits < 64)
		put(bytes + 96, pvclock_line_ns(&line, pvclock_tsc_to_guest(&tsc, (struct pvclock_host_tsc){ get(bytes + 88, 8) }).ticks), 8);
}

static void seal(uint8_t *bytes, size_t size, uint32_t version)
{
	uint32_t crc = ~0u;
	size_t i;
	int bit;

	memcpy(bytes, "PVCLKREC", 8);
	put(bytes + 8, version, 4);
	put(bytes + 12, size, 4);
	memset(bytes + 16, 0, 4);
	for (i = 0; i < size; i++) {
		crc ^= bytes[i];
		for (bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (0xedb88320u & -(crc & 1));
	}
	put(bytes + 16, ~crc, 4);
}

static void write_back(const struct pvclock_record *record, const uint8_t *bytes, size_t size)
{
	size_t length = pvclock_record_size(record), again_length;
	uint8_t *written = malloc(length), *again = malloc(length);
	struct pvclock_record read;
	struct pvclock_reason reason;

	check(pvclock_record_encode(record, written, length, &reason) == (ssize_t)length);
	if (bytes[8] == PVCLOCK_RECORD_VERSION) {
		check(length == size && memcmp(bytes, written, size) == 0);
	} else {
		check(pvclock_record_decode(written, length, &read, &reason) == 0);
		again_length = pvclock_record_size(&read);
		check(again_length == length && pvclock_record_encode(&read, again, length, &reason) == (ssize_t)length);
		check(memcmp(written, again, length) == 0);
		pvclock_record_clear(&read);
	}
	free(written);
	free(again);
}

/* On a host like its own, a while later. fuzz/plan.c has hosts of every kind. */
static void plan(const struct pvclock_record *record, uint8_t choice)
{
	struct pvclock_destination here = { .host = record->host, .time = record->time, .tsc_offsets = true };
	struct pvclock_plan plan;
	struct pvclock_reason reason;
	uint64_t tsc, deadline;

	here.time.at.ticks += 1ull << (choice >> 3);
	here.time.tai_ns += 1ull << (choice >> 2);
	here.time.realtime_ns += 1ull << (choice >> 2);
	if (pvclock_plan_make(record, &here, choice % PVCLOCK_BLACKOUT_COUNT, &plan, &reason)) {
		check(reason.code != PVCLOCK_REASON_NONE && reason.text[strlen(reason.text) - 1] == '.');
		return;
	}
	for (uint32_t i = 0; i < record->vcpu_count; i++) {
		pvclock_plan_vcpu(record, &plan, i, &tsc, &deadline);
		check((deadline != 0) == (record->vcpus[i].tsc_deadline != 0));
	}
}

/*
 * The fields by the words of their refusals, each with a value that is none: written there, that refusal is gone. So a sentence
 * that names a field is about this field.
 */
struct field {
	const char *words;
	size_t at, size;
	uint64_t good;
};

static const struct field of_record[] = {
	{ "its line flags", 20, 4, 0 },
	{ "line has mul", 40, 4, 1 },
	{ "shift", 44, 4, 0 },
	{ "its line a TSC ratio", 48, 8, 0 },
	{ "its line a TSC ratio", 64, 4, 0 },
	{ "wall clock address", 68, 8, 0 },
	{ "host slope", 76, 8, 1ull << 63 },
	{ "host slope", 84, 4, (uint32_t)-64 },
	{ "TAI offset", 136, 4, 0 },
	{ "CLOCK_TAI", 136, 4, 0 },
	{ "policy", 176, 4, 0 },
	{ "suspend interrupt", 244, 8, 0 },
	{ "suspend page address", 252, 8, 0 },
	{ "re-enlightenment control", 268, 8, 0 },
	{ "TSC emulation control", 276, 8, 0 },
	{ "TSC emulation status", 284, 8, 0 },
	{ "invariant TSC control", 292, 8, 0 },
	{ "TSC page has the sequence", 316, 4, 0 },
	{ "nested interrupt", 320, 8, 0 },
	{ "nested page address", 328, 8, 0 },
};

static const struct field of_vcpu[] = {
	{ "flags", 4, 4, 0 },
	{ "page address", 8, 8, 0 },
	{ "TSC ratio", 16, 8, 0 },
	{ "TSC ratio", 32, 4, 0 },
	{ "deadline interrupt", 52, 8, 0 },
	{ "has no interrupt", 60, 8, 0 },
	{ "stolen time", 68, 8, 0 },
};

static bool mend_fields(const struct field *fields, size_t count, const char *text, uint8_t *bytes)
{
	bool named = false;

	for (size_t i = 0; i < count; i++) {
		if (!strstr(text, fields[i].words))
			continue;
		put(bytes + fields[i].at, fields[i].good, fields[i].size);
		named = true;
	}
	return named;
}

/* The vCPU of the number that the sentence gives; or all numbers, where it is the order that is wrong. */
static bool mend_vcpu(const char *text, uint8_t *bytes, size_t fixed, size_t each)
{
	unsigned long number = strtoul(strstr(text, "vCPU ") + strlen("vCPU "), NULL, 10);
	bool named = false;

	for (uint32_t i = 0; i < get(bytes + 112, 4); i++) {
		uint8_t *vcpu = bytes + fixed + i * each;

		if (get(vcpu, 4) == number)
			named |= strstr(text, "after vCPU") || mend_fields(of_vcpu, sizeof(of_vcpu) / sizeof(*of_vcpu), text, vcpu);
		if (strstr(text, "after vCPU"))
			put(vcpu, i, 4);
	}
	return named;
}

/* Writes a good value to the field that the sentence names. False: it names none. */
static bool mend(const char *text, uint8_t *bytes, size_t *size)
{
	bool old = bytes[8] == 1;
	size_t fixed = old ? 116 : 336, each = old ? 36 : 84, vcpus;

	if (strstr(text, "vCPUs")) {
		vcpus = (*size - fixed) / each; /* room for none: any other count is refused in other words */
		*size = vcpus ? fixed + vcpus * each : *size;
		put(bytes + 112, vcpus ? vcpus : 1 + get(bytes + 112, 4) % 2, 4);
		return true;
	}
	if (strstr(text, "vCPU "))
		return mend_vcpu(text, bytes, fixed, each);
	if (strstr(text, "system time"))
		return agree(bytes, *size), true;
	return mend_fields(of_record, sizeof(of_record) / sizeof(*of_record), text, bytes);
}

static void refused(const struct pvclock_reason *reason, uint8_t *bytes, size_t size)
{
	struct pvclock_record record;
	struct pvclock_reason other;
	size_t length = strlen(reason->text);

	check(reason->code != PVCLOCK_REASON_NONE && length > 0 && reason->text[length - 1] == '.');
	check(length < PVCLOCK_REASON_TEXT - 1); /* or it was cut off */
	if (reason->code != PVCLOCK_REASON_RECORD_FIELD)
		return;
	check(mend(reason->text, bytes, &size));
	seal(bytes, size, bytes[8]);
	if (pvclock_record_decode(bytes, size, &record, &other) == 0)
		pvclock_record_clear(&record);
	else
		check(strcmp(reason->text, other.text) != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pvclock_record record;
	struct pvclock_reason reason;
	uint8_t *bytes;

	if (size < 1)
		return 0;
	bytes = malloc(size);
	memcpy(bytes, data + 1, size - 1);
	size--;
	if ((data[0] & AGREES) && size >= 20)
		agree(bytes, size);
	if ((data[0] & SEALED) && size >= 20)
		seal(bytes, size, data[0] & VERSION_1 ? 1 : PVCLOCK_RECORD_VERSION);
	if (pvclock_record_decode(bytes, size, &record, &reason) == 0) {
		write_back(&record, bytes, size);
		plan(&record, data[0]);
		pvclock_record_clear(&record);
	} else {
		refused(&reason, bytes, size);
	}
	free(bytes);
	return 0;
}
