/* SPDX-License-Identifier: MIT */
/*
 * record_snapshot.c - a snapshot of pvclock-vmm with another record in it. Its state has a sum, and so has the whole file; both are
 * checked before they are made anew, and nothing but the record and the sums changes.
 */
#define _GNU_SOURCE
#include "record.h"

#include "../../vmm/saved.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool read_header(const uint8_t *bytes, size_t size, struct snapshot_header *header)
{
	if (size < sizeof(*header))
		return false;
	memcpy(header, bytes, sizeof(*header));
	return header->magic == SNAPSHOT_MAGIC;
}

size_t record_snapshot_head(const uint8_t *bytes, size_t size)
{
	struct snapshot_header header;

	if (!read_header(bytes, size, &header) || header.extents > SNAPSHOT_EXTENTS_MAX || header.state_length > RECORD_FILE_MAX)
		return 0;
	return sizeof(header) + (size_t)header.extents * sizeof(struct snapshot_extent) + (size_t)header.state_length;
}

/* What is being written: the head from memory, the rest from the old file. */
struct rewrite {
	int old_fd;
	uint8_t *head;
	size_t head_size, state; /* where the state begins */
	uint64_t expected, old_sum, new_sum; /* of the whole file: as the old one says, as it is, and of the new one */
	bool damaged; /* the old file's sum does not come out */
};

static bool say_damaged(struct sentence *why)
{
	return say(why, "The snapshot is damaged (length or checksum), and is as it was: take another copy of it.");
}

/* The state's sum is right, and the file's is begun. */
static bool check_head(struct rewrite *rewrite, const struct record_file *file, struct sentence *why)
{
	const uint8_t *state = rewrite->head + rewrite->state;
	size_t size = rewrite->head_size - rewrite->state;
	struct snapshot_header header;
	struct wire_header wire;

	memcpy(&header, rewrite->head, sizeof(header));
	memcpy(&wire, state, size < sizeof(wire) ? 0 : sizeof(wire));
	if (header.version != SNAPSHOT_VERSION || size < sizeof(wire) || wire.magic != WIRE_MAGIC || wire.version != WIRE_VERSION ||
	    wire.length != size || rewrite->head_size % 8 != 0)
		return say(why, "It is a snapshot of another release of pvclock-vmm: edit it with that one's pvclock.");
	if (file->at < rewrite->state + sizeof(wire) ||
	    wire.checksum != wire_checksum(WIRE_SUM, state + sizeof(wire), size - sizeof(wire)))
		return say_damaged(why);
	rewrite->expected = header.checksum;
	header.checksum = 0; /* as it is summed */
	memcpy(rewrite->head, &header, sizeof(header));
	rewrite->old_sum = wire_checksum(WIRE_SUM, rewrite->head, rewrite->head_size);
	return true;
}

static void change_head(struct rewrite *rewrite, size_t at, const uint8_t *record, size_t length)
{
	uint8_t *state = rewrite->head + rewrite->state;
	struct wire_header wire;

	memcpy(rewrite->head + at, record, length);
	memcpy(&wire, state, sizeof(wire));
	wire.checksum = wire_checksum(WIRE_SUM, state + sizeof(wire), rewrite->head_size - rewrite->state - sizeof(wire));
	memcpy(state, &wire, sizeof(wire));
	rewrite->new_sum = wire_checksum(WIRE_SUM, rewrite->head, rewrite->head_size);
}

static ssize_t read_chunk(int fd, uint8_t *bytes, size_t offset)
{
	size_t size = 0;
	ssize_t got;

	do {
		got = pread(fd, bytes + size, SNAPSHOT_CHUNK - size, (off_t)(offset + size));
		size += got > 0 ? (size_t)got : 0;
	} while (size < SNAPSHOT_CHUNK && (got > 0 || (got < 0 && errno == EINTR)));
	return got < 0 ? -1 : (ssize_t)size;
}

static bool copy_memory(struct rewrite *rewrite, int fd)
{
	uint8_t *chunk = malloc(SNAPSHOT_CHUNK);
	size_t offset = rewrite->head_size;
	ssize_t got = -1;
	bool fine = chunk != NULL;

	while (fine && (got = read_chunk(rewrite->old_fd, chunk, offset)) > 0) {
		rewrite->old_sum = wire_checksum(rewrite->old_sum, chunk, (size_t)got);
		rewrite->new_sum = wire_checksum(rewrite->new_sum, chunk, (size_t)got);
		fine = record_file_write_all(fd, chunk, (size_t)got);
		offset += (size_t)got;
	}
	free(chunk);
	return fine && got == 0;
}

static bool fill(int fd, void *from)
{
	struct rewrite *rewrite = from;

	if (!record_file_write_all(fd, rewrite->head, rewrite->head_size) || !copy_memory(rewrite, fd))
		return false;
	rewrite->damaged = rewrite->old_sum != rewrite->expected;
	return !rewrite->damaged && pwrite(fd, &rewrite->new_sum, sizeof(rewrite->new_sum), offsetof(struct snapshot_header, checksum)) ==
					    (ssize_t)sizeof(rewrite->new_sum);
}

bool record_snapshot_write(const char *path, const struct record_file *file, const uint8_t *record, size_t length,
			   struct sentence *why)
{
	struct rewrite rewrite = { .old_fd = -1, .head_size = record_snapshot_head(file->bytes, file->size) };
	struct snapshot_header header;
	bool fine;

	if (rewrite.head_size != file->size)
		return say_damaged(why);
	rewrite.old_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (rewrite.old_fd < 0)
		return say(why, "It cannot be opened: %s.", strerror(errno));
	read_header(file->bytes, file->size, &header);
	rewrite.state = file->size - (size_t)header.state_length;
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
