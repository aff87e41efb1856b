/* SPDX-License-Identifier: MIT */
/* nested_oracle.h - what L0 may make of L1's memory in one blackout, by docs/spec/nested.md. */
#ifndef FUZZ_NESTED_ORACLE_H
#define FUZZ_NESTED_ORACLE_H

#include "check.h"

#include <pvclock/nested.h>

#include <stdbool.h>
#include <stdint.h>

#define OURS 4

struct area {
	uint64_t gpa, size;
};

/* L1, and what was done to its clock while it stood still. */
struct blackout {
	uint64_t memory, table;       /* its size; where the table lies */
	struct area ours[OURS];       /* what L0 writes for L1 itself: no entry's, and not looked at. size 0: none */
	bool stable;                  /* L1's vCPUs have one line */
	struct pvclock_line was, is;  /* at the pause, at the resume */
	unsigned int changes;         /* at most so many */
	uint64_t moved;               /* what the counter moved by in them */
};

/* Memory before the resume and after it: as the spec has it, byte for byte. True: L1 is owed its interrupt. */
bool check_told(const struct blackout *blackout, const uint8_t *before, const uint8_t *after);

#endif
