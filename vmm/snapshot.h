/* SPDX-License-Identifier: MIT */
/*
 * snapshot.h - a machine in one file, in this order:
 *
 *   struct snapshot_header
 *   struct snapshot_extent [extents]   where guest memory is not a hole; whole pages, ascending
 *   the state (wire.c), with the clock's record in it
 *   the extents' bytes
 *
 * Little-endian, as the machine is. The checksum is over all of it, itself read as 0: what does not have it is not believed. A
 * file has its name only when it is whole and on the disk (a temporary one, fsync, rename), so whatever dies on the way leaves
 * the old file or the new one.
 */
#ifndef VMM_SNAPSHOT_H
#define VMM_SNAPSHOT_H

#include "vmm.h"

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

_Static_assert(sizeof(struct snapshot_header) == 64 && sizeof(struct snapshot_extent) == 16, "the file's layout");

#endif
