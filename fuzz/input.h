/* SPDX-License-Identifier: MIT */
/* input.h - a fuzzer's bytes, taken as numbers from the front; 0 when there are none left. */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include "check.h"

#include <stddef.h>
#include <stdint.h>

struct input {
	const uint8_t *data;
	size_t size;
};

static inline uint64_t take(struct input *input, size_t bytes)
{
	uint64_t value = 0;

	while (bytes-- > 0 && input->size > 0) {
		value = value << 8 | *input->data++;
		input->size--;
	}
	return value;
}

#endif
