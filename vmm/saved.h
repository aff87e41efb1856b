/* SPDX-License-Identifier: MIT */
/*
 * saved.h - how a saved machine is laid out: its state, as a live update hands it over too (wire.c), and a snapshot,
 * which is a machine in one file. Needs no VMM: who changes a snapshot's record needs nothing else of it. A snapshot
 * is, in this order:
 *
 *   struct snapshot_header
 *   struct snapshot_extent [extents]   where guest memory is not a hole; whole pages, ascending
 *   the state: struct wire_header and sections, the clock's record among them
 *   the extents' bytes
 *
 * Little-endian, as the machine is. The checksum is over all of it, itself read as 0: what does not have it is not believed. A
 * file has its name only when it is whole and on the disk (a temporary one, fsync, rename), so whatever dies on the way leaves
 * the old file or the new one.
 */
#ifndef VMM_SAVED_H
#define VMM_SAVED_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WIRE_MAGIC 0x656d6d766b6c6370ull /* "pclkvmme", little-endian */
#define WIRE_VERSION 2u
#define WIRE_SUM 0xcbf29ce484222325ull   /* what a checksum begins with */

struct wire_header {
	uint64_t magic;
	uint32_t version;
	uint32_t sections;
	uint64_t length;   /* of the whole state */
	uint64_t checksum; /* of all after this header */
};

/*
 * FNV-1a's prime over 64-bit words: against accidents, not against forgers, and fast enough to stand in a blackout. Streams: start
 * with WIRE_SUM, and give sizes that are multiples of 8.
 */
static inline uint64_t wire_checksum(uint64_t sum, const void *from, size_t size)
{
	const uint8_t *bytes = from;

	for (size_t i = 0; i + 8 <= size; i += 8) {
		uint64_t word;

		memcpy(&word, bytes + i, 8);
		sum = (sum ^ word) * 0x100000001b3ull;
		sum ^= sum >> 32; /* else the high bits never reach the low ones */
	}
	return sum;
}

#define SNAPSHOT_MAGIC 0x74706e736d6d7670ull /* "pvmmsnpt", little-endian */
#define SNAPSHOT_VERSION 1u
#define SNAPSHOT_PAGE 4096u
#define SNAPSHOT_EXTENTS_MAX (1u << 18) /* every second page of the largest memory, and more */
#define SNAPSHOT_CHUNK (1u << 20)

struct snapshot_header {
	uint64_t magic;
	uint32_t version;
	uint32_t vcpus;
	uint64_t memory_size;
	uint64_t extents;
	uint64_t state_length;
	uint64_t length; /* of the file */
	uint64_t checksum;
	uint64_t reserved;
};

struct snapshot_extent {
	uint64_t gpa, size;
};

_Static_assert(sizeof(struct wire_header) == 32 && sizeof(struct snapshot_header) == 64 && sizeof(struct snapshot_extent) == 16,
	       "the file's layout");

#endif
