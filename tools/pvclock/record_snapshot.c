/* SPDX-License-Identifier: MIT */
/*
 * record_snapshot.c - a snapshot of pvclock-vmm with another record in it: as vmm/snapshot.h and the head of vmm/wire.c lay it
 * out, header, extents, state and guest memory, with one sum over the state and one over all of it. Both are checked before they
 * are made anew, and nothing but the record and the sums changes.
 */
#define _GNU_SOURCE
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SNAPSHOT_MAGIC "pvmmsnpt"
#define SNAPSHOT_VERSION 1u
#define SNAPSHOT_HEADER 64u
#define SNAPSHOT_EXTENT 16u
#define SNAPSHOT_SUM 48u /* of the file, where itself is 0 */
#define STATE_MAGIC "pclkvmme"
#define STATE_VERSION 2u
#define STATE_HEADER 32u
#define STATE_SUM 24u /* of all behind the state's header */
#define SUM_BEGIN 0xcbf29ce484222325ull
#define CHUNK (1u << 20)

static uint64_t load(const uint8_t *bytes, unsigned int size)
{
	uint64_t value = 0;

	for (unsigned int i = 0; i < size; i++)
		value |= (uint64_t)bytes[i] << 8 * i;
	return value;
}

static void store_u64(uint8_t *bytes, uint64_t value)
{
	for (unsigned int i = 0; i < 8; i++)
		bytes[i] = (uint8_t)(value >> 8 * i);
}

/* vmm/wire.c's. A size that is no multiple of 8 is no snapshot's. */
static uint64_t sum(uint64_t sum, const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i + 8 <= size; i += 8) {
		sum = (sum ^ load(bytes + i, 8)) * 0x100000001b3ull;
		sum ^= sum >> 32;
	}
	return sum;
}

size_t record_snapshot_head(const uint8_t *bytes, size_t size)
{
	uint64_t extents, state;

	if (size < SNAPSHOT_HEADER || memcmp(bytes, SNAPSHOT_MAGIC, 8) != 0)
		return 0;
	extents = load(bytes + 24, 8);
	state = load(bytes + 32, 8);
	if (extents > RECORD_FILE_MAX / SNAPSHOT_EXTENT || state > RECORD_FILE_MAX)
		return 0;
	return SNAPSHOT_HEADER + (size_t)extents * SNAPSHOT_EXTENT + (size_t)state;
}

/* What is being written: the head from memory, the rest from the old file. */
struct rewrite {
	int old_fd;
	uint8_t *head;
	size_t head_size, state; /* where the state begins */
	uint64_t old_sum, new_sum;
	bool damaged; /* the old file's sum does not come out */
};

static bool say_damaged(struct sentence *why)
{
	return say(why, "The snapshot is damaged (length or checksum), and is as it was: take another copy of it.");
}

/* The old file's sums are right so far: the state's, and of the head as a part of the file's. */
static bool check_head(struct rewrite *rewrite, const struct record_file *file, struct sentence *why)
{
	uint8_t *state = rewrite->head + rewrite->state;
	size_t size = rewrite->head_size - rewrite->state;

	if (load(rewrite->head + 8, 4) != SNAPSHOT_VERSION || size < STATE_HEADER || memcmp(state, STATE_MAGIC, 8) != 0 ||
	    load(state + 8, 4) != STATE_VERSION || load(state + 16, 8) != size || rewrite->head_size % 8 != 0)
		return say(why, "It is a snapshot of another release of pvclock-vmm: edit it with that one's pvclock.");
	if (file->at < rewrite->state + STATE_HEADER ||
	    load(state + STATE_SUM, 8) != sum(SUM_BEGIN, state + STATE_HEADER, size - STATE_HEADER))
		return say_damaged(why);
	store_u64(rewrite->head + SNAPSHOT_SUM, 0);
	rewrite->old_sum = sum(SUM_BEGIN, rewrite->head, rewrite->head_size);
	return true;
}

static void change_head(struct rewrite *rewrite, size_t at, const uint8_t *record, size_t length)
{
	uint8_t *state = rewrite->head + rewrite->state;

	memcpy(rewrite->head + at, record, length);
	store_u64(state + STATE_SUM, sum(SUM_BEGIN, state + STATE_HEADER, rewrite->head_size - rewrite->state - STATE_HEADER));
	rewrite->new_sum = sum(SUM_BEGIN, rewrite->head, rewrite->head_size);
}

static ssize_t read_chunk(int fd, uint8_t *bytes, size_t offset)
{
	size_t size = 0;
	ssize_t got;

	do {
		got = pread(fd, bytes + size, CHUNK - size, (off_t)(offset + size));
		size += got > 0 ? (size_t)got : 0;
	} while (size < CHUNK && (got > 0 || (got < 0 && errno == EINTR)));
	return got < 0 ? -1 : (ssize_t)size;
}

static bool copy_memory(struct rewrite *rewrite, int fd)
{
	uint8_t *chunk = malloc(CHUNK);
	size_t offset = rewrite->head_size;
	ssize_t got = -1;
	bool fine = chunk != NULL;

	while (fine && (got = read_chunk(rewrite->old_fd, chunk, offset)) > 0) {
		rewrite->old_sum = sum(rewrite->old_sum, chunk, (size_t)got);
		rewrite->new_sum = sum(rewrite->new_sum, chunk, (size_t)got);
		fine = record_file_write_all(fd, chunk, (size_t)got);
		offset += (size_t)got;
	}
	free(chunk);
	return fine && got == 0;
}

static bool fill(int fd, void *from)
{
	struct rewrite *rewrite = from;
	uint8_t bytes[8];
	uint64_t expected;

	if (pread(rewrite->old_fd, bytes, 8, SNAPSHOT_SUM) != 8)
		return false;
	expected = load(bytes, 8);
	if (!record_file_write_all(fd, rewrite->head, rewrite->head_size) || !copy_memory(rewrite, fd))
		return false;
	rewrite->damaged = rewrite->old_sum != expected;
	if (rewrite->damaged)
		return false;
	store_u64(bytes, rewrite->new_sum);
	return pwrite(fd, bytes, 8, SNAPSHOT_SUM) == 8;
}

bool record_snapshot_write(const char *path, const struct record_file *file, const uint8_t *record, size_t length,
			   struct sentence *why)
{
	struct rewrite rewrite = { .old_fd = -1, .head_size = record_snapshot_head(file->bytes, file->size) };
	bool fine;

	if (rewrite.head_size != file->size)
		return say_damaged(why);
	rewrite.old_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (rewrite.old_fd < 0)
		return say(why, "It cannot be opened: %s.", strerror(errno));
	rewrite.state = file->size - (size_t)load(file->bytes + 32, 8);
	rewrite.head = malloc(file->size);
	fine = rewrite.head != NULL || say(why, "Out of memory.");
	if (fine) {
		memcpy(rewrite.head, file->bytes, file->size);
		fine = check_head(&rewrite, file, why);
	}
	if (fine) {
		change_head(&rewrite, file->at, record, length);
		fine = record_file_replace(path, fill, &rewrite, why) || (rewrite.damaged && say_damaged(why));
	}
	free(rewrite.head);
	close(rewrite.old_fd);
	return fine;
}
