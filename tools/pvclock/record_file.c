/* SPDX-License-Identifier: MIT */
/*
 * record_file.c - a record in a file: as the file itself, or somewhere within a VMM's own format. There it is found by
 * its magic and believed for its checksum; where a file holds several, only a person can say which one counts. A snapshot of
 * pvclock-vmm says where its state is, so guest memory, where a guest could have written a record, is not looked at.
 */
#define _GNU_SOURCE
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "PVCLKREC"
#define MAGIC_SIZE 8u
#define HEADER_SIZE 20u
#define VERSION_OFFSET 8u
#define LENGTH_OFFSET 12u
#define LENGTH_MAX (1u << 20) /* more than PVCLOCK_RECORD_VCPUS_MAX vCPUs take */
/* A file that is full of what only looks like one was made to keep us busy. */
#define LOOKS_MAX 256u

static uint32_t load_u32(const uint8_t *bytes)
{
	return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* How much of the file can hold a record. */
static size_t worth_reading(const struct record_file *file)
{
	size_t head = record_snapshot_head(file->bytes, file->size);

	return head ? head : RECORD_FILE_MAX + 1;
}

/* All of it that matters, but for a file that is too large: a pipe will do as well. */
static bool read_whole(const char *path, struct record_file *file, struct sentence *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error;
	size_t room = 0;
	ssize_t got;

	if (fd < 0)
		return say(why, "It cannot be opened: %s.", strerror(errno));
	do {
		if (file->size == room) {
			uint8_t *grown = realloc(file->bytes, room = room ? room * 2 : 4096);

			if (grown == NULL) {
				close(fd);
				return say(why, "Out of memory.");
			}
			file->bytes = grown;
		}
		got = read(fd, file->bytes + file->size, room - file->size);
		file->size += got > 0 ? (size_t)got : 0;
	} while (file->size < worth_reading(file) && (got > 0 || (got < 0 && errno == EINTR)));
	error = errno;
	close(fd);
	if (got < 0)
		return say(why, "It cannot be read: %s.", strerror(error));
	if (file->size > worth_reading(file))
		file->size = worth_reading(file);
	if (file->size > RECORD_FILE_MAX)
		return say(why, "It is larger than %u MB, and no record is; cut the record out of it.", RECORD_FILE_MAX >> 20);
	return true;
}

static int decode(struct record_file *file, size_t at, size_t length, struct pvclock_record *record,
		  struct pvclock_reason *reason)
{
	int error = pvclock_record_decode(file->bytes + at, length, record, reason);

	if (error == -ENOMEM)
		snprintf(reason->text, sizeof(reason->text), "Out of memory.");
	return error;
}

/* A record begins with its magic and says how long it is. */
static bool look_for(struct record_file *file, struct sentence *why)
{
	unsigned int looks = 0, found = 0;
	struct pvclock_reason first = { 0 }, reason;
	const uint8_t *end = file->bytes + file->size;

	for (const uint8_t *at = file->bytes; (at = memmem(at, (size_t)(end - at), MAGIC, MAGIC_SIZE)) != NULL; at++) {
		size_t left = (size_t)(end - at);
		uint32_t length = left >= HEADER_SIZE ? load_u32(at + LENGTH_OFFSET) : 0;
		struct pvclock_record record;

		if (length < HEADER_SIZE || length > left || length > LENGTH_MAX)
			continue;
		if (++looks > LOOKS_MAX)
			return say(why, "It holds more than %u things that look like clock records; cut the right one out of it.",
				   LOOKS_MAX);
		if (decode(file, (size_t)(at - file->bytes), length, &record, &reason)) {
			if (first.text[0] == '\0')
				first = reason;
			continue;
		}
		if (found++) {
			pvclock_record_clear(&record);
			return say(why, "It holds more than one clock record, at bytes %zu and %zu; cut the right one out of it.",
				   file->at, (size_t)(at - file->bytes));
		}
		file->record = record;
		file->at = (size_t)(at - file->bytes);
		file->length = length;
	}
	if (found)
		return true;
	file->code = first.text[0] != '\0' ? first.code : PVCLOCK_REASON_RECORD_MAGIC;
	return say(why, "%s", first.text[0] != '\0' ? first.text :
		   "It holds no clock record: nothing whole in it begins with \"" MAGIC "\".");
}

bool record_file_read(const char *path, struct record_file *file, struct sentence *why)
{
	struct pvclock_reason reason;
	bool fine;

	*file = (struct record_file){ 0 };
	fine = read_whole(path, file, why);
	if (fine && file->size >= MAGIC_SIZE && memcmp(file->bytes, MAGIC, MAGIC_SIZE) == 0) {
		file->length = file->size;
		fine = decode(file, 0, file->size, &file->record, &reason) == 0;
		if (!fine) {
			file->code = reason.code;
			say(why, "%s", reason.text);
		}
	} else if (fine) {
		fine = look_for(file, why);
	}
	if (fine)
		file->version = load_u32(file->bytes + file->at + VERSION_OFFSET);
	else
		record_file_clear(file);
	return fine;
}

void record_file_clear(struct record_file *file)
{
	enum pvclock_reason_code code = file->code;

	free(file->bytes);
	pvclock_record_clear(&file->record);
	*file = (struct record_file){ .code = code };
}

bool record_file_plain(const struct record_file *file)
{
	return file->at == 0 && file->length == file->size;
}

/* --- writing -------------------------------------------------------------------------------- */

bool record_file_write_all(int fd, const uint8_t *bytes, size_t size)
{
	while (size > 0) {
		ssize_t written = write(fd, bytes, size);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return false;
		bytes += written;
		size -= (size_t)written;
	}
	return true;
}

/* The rights of the file that is replaced, else those that a new file gets. */
static bool give_rights(int fd, const struct stat *old)
{
	mode_t mask;

	if (old) {
		/* its owner too, where we may */
		if (fchown(fd, old->st_uid, old->st_gid) != 0 && errno != EPERM)
			return false;
		return fchmod(fd, old->st_mode & 07777) == 0;
	}
	mask = umask(0);
	umask(mask);
	return fchmod(fd, 0666 & ~mask) == 0;
}

/* So that the new name itself outlives a crash. */
static void sync_folder(const char *path)
{
	char folder[PATH_MAX];
	const char *slash = strrchr(path, '/');
	int fd;

	snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0) {
		fsync(fd);
		close(fd);
	}
}

bool record_file_replace(const char *path, bool (*fill)(int fd, void *from), void *from, struct sentence *why)
{
	char target[PATH_MAX], temporary[PATH_MAX + 16];
	struct stat old;
	bool exists, fine;
	int fd, error;

	/* through a link: the file that it leads to is the record */
	if (realpath(path, target) == NULL)
		snprintf(target, sizeof(target), "%s", path);
	exists = stat(target, &old) == 0;
	if (exists && !S_ISREG(old.st_mode))
		return say(why, "%s is no regular file, which alone can be replaced as a whole.", path);
	snprintf(temporary, sizeof(temporary), "%s.XXXXXX", target);
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		return say(why, "No file can be made beside %s: %s.", path, strerror(errno));
	fine = fill(fd, from) && give_rights(fd, exists ? &old : NULL) && fsync(fd) == 0;
	error = errno;
	if (close(fd) != 0 && fine) {
		fine = false;
		error = errno;
	}
	if (fine && rename(temporary, target) != 0) {
		fine = false;
		error = errno;
	}
	if (!fine) {
		unlink(temporary);
		return say(why, "%s cannot be written, and is as it was: %s.", path, strerror(error));
	}
	sync_folder(target);
	return true;
}

struct content {
	const uint8_t *bytes;
	size_t size;
};

static bool fill(int fd, void *from)
{
	const struct content *content = from;

	return record_file_write_all(fd, content->bytes, content->size);
}

/* Within a file whose sums we do not know, or of another length, it cannot be. */
static bool write_within(const char *path, const struct record_file *file, const struct content *content, struct sentence *why)
{
	if (record_snapshot_head(file->bytes, file->size) == 0)
		return say(why, "The record is a part of this file, which has sums of its own; extract it with --output.");
	if (content->size != file->length)
		return say(why, "The record takes %zu bytes in this snapshot, and would take %zu; extract it with --output.",
			   file->length, content->size);
	return record_snapshot_write(path, file, content->bytes, content->size, why);
}

bool record_file_write(const char *path, const struct record_file *file, bool within, struct sentence *why)
{
	struct content content = { .size = pvclock_record_size(&file->record) };
	uint8_t *bytes = malloc(content.size);
	struct pvclock_reason reason;
	ssize_t length;
	bool fine;

	if (bytes == NULL)
		return say(why, "Out of memory.");
	content.bytes = bytes;
	length = pvclock_record_encode(&file->record, bytes, content.size, &reason);
	content.size = length < 0 ? 0 : (size_t)length;
	if (length < 0)
		fine = say(why, "%s", reason.text);
	else
		fine = within ? write_within(path, file, &content, why) : record_file_replace(path, fill, &content, why);
	free(bytes);
	return fine;
}
