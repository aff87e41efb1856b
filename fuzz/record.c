/* SPDX-License-Identifier: MIT */
/*
 * record.c - any bytes as a record: refused with a sentence, or taken and then written back byte for byte. A mutated
 * record seldom has a good checksum, so the first input byte decides whether the fuzzer is given one, and the ranges
 * behind it are reached.
 */
#include <pvclock/record.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void seal(uint8_t *bytes, size_t size)
{
	uint32_t crc = ~0u;
	size_t i;
	int bit;

	memcpy(bytes, "PVCLKREC\1\0\0", 12);
	for (i = 0; i < 4; i++)
		bytes[12 + i] = (uint8_t)(size >> (8 * i));
	memset(bytes + 16, 0, 4);
	for (i = 0; i < size; i++) {
		crc ^= bytes[i];
		for (bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (0xedb88320u & -(crc & 1));
	}
	for (i = 0; i < 4; i++)
		bytes[16 + i] = (uint8_t)(~crc >> (8 * i));
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
	if ((data[0] & 1) && size >= 20)
		seal(bytes, size);
	if (pvclock_record_decode(bytes, size, &record, &reason) == 0) {
		uint8_t *again = malloc(size);

		if (pvclock_record_encode(&record, again, size, &reason) != (ssize_t)size || memcmp(bytes, again, size) != 0)
			abort();
		free(again);
		pvclock_record_clear(&record);
	} else if (reason.code == PVCLOCK_REASON_NONE || reason.text[0] == '\0') {
		abort();
	}
	free(bytes);
	return 0;
}
