// SPDX-License-Identifier: MIT
/*
 * snapshot_save.c - a paused machine into a file. While the guest is stopped everything is copied under a temporary
 * name; the disk is waited for, and the name given, while it runs again.
 */
#include "vmm.h"
#include "saved.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct snapshot_saver {
	int fd;
	char path[PATH_MAX], temporary[PATH_MAX];
	struct snapshot_header header;
	struct snapshot_extent *extents;
	uint64_t offset, capacity; /* of `extents` */
	uint8_t chunk[SNAPSHOT_CHUNK];
};

static void forget(struct snapshot_saver *saver)
{
	if (saver->fd >= 0) {
		close(saver->fd);
		unlink(saver->temporary);
	}
	free(saver->extents);
	free(saver);
}

static int write_at(struct snapshot_saver *saver, const void *bytes, size_t size, uint64_t offset, struct problem *problem)
{
	size_t done = 0;

	while (done < size) {
		ssize_t written = pwrite(saver->fd, (const uint8_t *)bytes + done, size - done, (off_t)(offset + done));
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return fail(problem, "snapshot: %s: %s", saver->temporary, strerror(written < 0 ? errno : ENOSPC));
		done += (size_t)written;
	}
	return 0;
}

static int append(struct snapshot_saver *saver, const void *bytes, size_t size, struct problem *problem)
{
	saver->header.checksum = wire_checksum(saver->header.checksum, bytes, size);
	if (write_at(saver, bytes, size, saver->offset, problem) < 0)
		return -1;
	saver->offset += size;
	return 0;
}

static int add_page(struct snapshot_saver *saver, uint64_t gpa, struct problem *problem)
{
	struct snapshot_extent *last = saver->header.extents > 0 ? &saver->extents[saver->header.extents - 1] : NULL;

	if (last != NULL && last->gpa + last->size == gpa) {
		last->size += SNAPSHOT_PAGE;
		return 0;
	}
	if (saver->header.extents == saver->capacity) {
		saver->capacity = saver->capacity * 2 + 64;
		void *grown = realloc(saver->extents, saver->capacity * sizeof(*saver->extents));
		if (grown == NULL)
			return fail(problem, "snapshot: out of memory");
		saver->extents = grown;
	}
	saver->extents[saver->header.extents++] = (struct snapshot_extent){ .gpa = gpa, .size = SNAPSHOT_PAGE };
	return 0;
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, SNAPSHOT_PAGE - 1) == 0;
}

/* Where guest memory is not 0. What has no memory behind it is not even looked at: a look would give it some. */
static int find_extents(struct snapshot_saver *saver, const struct machine *machine, struct problem *problem)
{
	off_t end = 0, start, size = (off_t)machine->memory_size;

	while ((start = lseek(machine->memory_fd, end, SEEK_DATA)) >= 0 && start < size) {
		end = lseek(machine->memory_fd, start, SEEK_HOLE);
		if (end < 0 || end > size)
			end = size;
		for (off_t gpa = start & ~(off_t)(SNAPSHOT_PAGE - 1); gpa < end; gpa += SNAPSHOT_PAGE)
			if (!is_zero(machine->memory + gpa) && add_page(saver, (uint64_t)gpa, problem) < 0)
				return -1;
	}
	if (start < 0 && errno != ENXIO)
		return fail(problem, "snapshot: guest memory cannot be searched: %s", strerror(errno));
	return 0;
}

/* Others may write to guest memory (a harness does): what is summed is what is written. */
static int append_memory(struct snapshot_saver *saver, const struct machine *machine, struct problem *problem)
{
	for (uint64_t i = 0; i < saver->header.extents; i++) {
		const struct snapshot_extent *extent = &saver->extents[i];

		for (uint64_t done = 0; done < extent->size;) {
			uint64_t part = extent->size - done < SNAPSHOT_CHUNK ? extent->size - done : SNAPSHOT_CHUNK;

			memcpy(saver->chunk, machine->memory + extent->gpa + done, part);
			if (append(saver, saver->chunk, part, problem) < 0)
				return -1;
			done += part;
		}
	}
	return 0;
}

static int open_temporary(struct snapshot_saver *saver, const char *path, struct problem *problem)
{
	int length = snprintf(saver->temporary, sizeof(saver->temporary), "%s.new", path);

	if (path[0] == '\0' || length < 0 || (size_t)length >= sizeof(saver->temporary))
		return fail(problem, "snapshot: give the path of a file to write");
	strcpy(saver->path, path); /* shorter than `temporary` */
	saver->fd = open(saver->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	if (saver->fd < 0)
		return fail(problem, "snapshot: %s: %s", saver->temporary, strerror(errno));
	return 0;
}

static int write_all(struct snapshot_saver *saver, struct machine *machine, const struct options *options,
		     struct wire *wire, struct problem *problem)
{
	saver->header = (struct snapshot_header){
		.magic = SNAPSHOT_MAGIC,
		.version = SNAPSHOT_VERSION,
		.vcpus = machine->vcpu_count,
		.memory_size = machine->memory_size,
		.state_length = wire->size,
		.checksum = WIRE_SUM,
	};
	wire_seal(wire);
	if (find_extents(saver, machine, problem) < 0)
		return -1;
	saver->header.length = sizeof(saver->header) + saver->header.extents * sizeof(*saver->extents) + wire->size;
	for (uint64_t i = 0; i < saver->header.extents; i++)
		saver->header.length += saver->extents[i].size;
	struct snapshot_header summed = saver->header;
	summed.checksum = 0;
	saver->header.checksum = wire_checksum(WIRE_SUM, &summed, sizeof(summed));
	saver->offset = sizeof(saver->header);
	if (append(saver, saver->extents, saver->header.extents * sizeof(*saver->extents), problem) < 0 ||
	    append(saver, wire->bytes, wire->size, problem) < 0)
		return -1;
	fault_reached(&options->fault, "snapshot:state-written");
	if (append_memory(saver, machine, problem) < 0 ||
	    write_at(saver, &saver->header, sizeof(saver->header), 0, problem) < 0)
		return -1;
	fault_reached(&options->fault, "snapshot:written");
	return 0;
}

struct snapshot_saver *snapshot_write(struct machine *machine, const struct options *options, const char *path,
				      struct snapshot_cost *cost, struct problem *problem)
{
	struct snapshot_saver *saver = calloc(1, sizeof(*saver));
	struct wire wire = { 0 };
	uint64_t begun = monotonic_ns();

	if (saver == NULL) {
		fail(problem, "snapshot: out of memory");
		return NULL;
	}
	saver->fd = -1;
	int result = open_temporary(saver, path, problem);
	if (result == 0)
		result = wire_begin(&wire, problem);
	/* The clock first: a timer that fires between it and its APIC is then saved twice, not never. */
	uint64_t clock_begun = monotonic_ns();
	if (result == 0)
		result = clock_save(machine, &wire, -1, problem);
	cost->clock_ns = monotonic_ns() - clock_begun;
	if (result == 0)
		result = machine_save(machine, &wire, problem);
	if (result == 0)
		result = write_all(saver, machine, options, &wire, problem);
	wire_clear(&wire);
	cost->bytes = saver->header.length;
	cost->save_ns = monotonic_ns() - begun;
	if (result == 0)
		return saver;
	forget(saver);
	return NULL;
}

/* The name is in the directory for good once that is on the disk. */
static void sync_directory(const char *path)
{
	char directory[PATH_MAX];
	const char *slash = strrchr(path, '/');

	if (slash == NULL)
		snprintf(directory, sizeof(directory), ".");
	else
		snprintf(directory, sizeof(directory), "%.*s", slash == path ? 1 : (int)(slash - path), path);
	int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return;
	(void)!fsync(fd); /* some file systems cannot; the file itself is whole */
	close(fd);
}

int snapshot_commit(struct snapshot_saver *saver, const struct options *options, struct problem *problem)
{
	int result = 0;

	if (fsync(saver->fd) < 0)
		result = fail(problem, "snapshot: %s: %s", saver->temporary, strerror(errno));
	fault_reached(&options->fault, "snapshot:synced");
	if (result == 0 && rename(saver->temporary, saver->path) < 0)
		result = fail(problem, "snapshot: %s: %s", saver->path, strerror(errno));
	if (result == 0) {
		fault_reached(&options->fault, "snapshot:renamed");
		sync_directory(saver->path);
		close(saver->fd);
		saver->fd = -1;
	}
	forget(saver);
	return result;
}
