// SPDX-License-Identifier: MIT
/* snapshot_load.c - a machine out of a file: all of it is read and checked before anything is made of it. */
#include "vmm.h"
#include "saved.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int read_at(const struct snapshot *snapshot, void *bytes, size_t size, uint64_t offset, struct problem *problem)
{
	size_t done = 0;

	while (done < size) {
		ssize_t got = pread(snapshot->fd, (uint8_t *)bytes + done, size - done, (off_t)(offset + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return fail(problem, "%s: %s", snapshot->path, strerror(errno));
		if (got == 0)
			return fail(problem, "%s: ends too early: take another copy of it, or an older snapshot", snapshot->path);
		done += (size_t)got;
	}
	return 0;
}

/* Goes through the memory's bytes; into `memory`, if that is not NULL. The file's checksum has to come out. */
static int go_through(const struct snapshot *snapshot, uint8_t *memory, struct problem *problem)
{
	uint64_t sum = snapshot->checksum_before, offset = snapshot->memory_offset;
	uint8_t *chunk = malloc(SNAPSHOT_CHUNK);
	int result = chunk != NULL ? 0 : fail(problem, "%s: out of memory", snapshot->path);

	for (uint64_t i = 0; result == 0 && i < snapshot->extent_count; i++) {
		const struct snapshot_extent *extent = &snapshot->extents[i];

		for (uint64_t done = 0, part; result == 0 && done < extent->size; done += part, offset += part) {
			part = extent->size - done < SNAPSHOT_CHUNK ? extent->size - done : SNAPSHOT_CHUNK;
			result = read_at(snapshot, chunk, part, offset, problem);
			if (result < 0)
				break;
			sum = wire_checksum(sum, chunk, part);
			if (memory != NULL)
				memcpy(memory + extent->gpa + done, chunk, part);
		}
	}
	free(chunk);
	if (result == 0 && sum != snapshot->checksum)
		result = fail(problem, memory == NULL ? "%s: is damaged (checksum): take another copy of it, or an older snapshot" :
							"%s: was changed while it was read", snapshot->path);
	return result;
}

static int check_header(const struct snapshot_header *header, uint64_t file_size, const char *path, struct problem *problem)
{
	if (header->magic != SNAPSHOT_MAGIC)
		return fail(problem, "%s: not a snapshot of this VMM", path);
	if (header->version != SNAPSHOT_VERSION)
		return fail(problem, "%s: a snapshot of version %u, and this VMM reads version %u: restore it with the release "
			    "that made it", path, header->version, SNAPSHOT_VERSION);
	if (header->length != file_size)
		return fail(problem, "%s: has %llu bytes and says that it had %llu: take another copy of it, or an older snapshot",
			    path, (unsigned long long)file_size, (unsigned long long)header->length);
	if (header->vcpus < 1 || header->vcpus > VMM_VCPUS_MAX || header->memory_size % SNAPSHOT_PAGE != 0 ||
	    header->memory_size > (1ull << 32) || header->extents > SNAPSHOT_EXTENTS_MAX ||
	    header->state_length > WIRE_SIZE_MAX || header->state_length % 8 != 0)
		return fail(problem, "%s: is damaged (header): take another copy of it, or an older snapshot", path);
	return 0;
}

/* Ascending, whole pages, inside memory, and as long as the file says. */
static bool extents_fit(const struct snapshot *snapshot, uint64_t file_size)
{
	uint64_t from = 0, sum = snapshot->memory_offset;

	for (uint64_t i = 0; i < snapshot->extent_count; i++) {
		const struct snapshot_extent *extent = &snapshot->extents[i];
		uint64_t end;

		if (extent->gpa < from || extent->gpa % SNAPSHOT_PAGE != 0 || extent->size % SNAPSHOT_PAGE != 0 ||
		    __builtin_add_overflow(extent->gpa, extent->size, &end) || end > snapshot->memory_size)
			return false;
		from = end;
		sum += extent->size; /* at most memory_size more */
	}
	return sum == file_size;
}

static int read_all(struct snapshot *snapshot, struct problem *problem)
{
	struct snapshot_header header;
	struct stat status;

	if (fstat(snapshot->fd, &status) < 0)
		return fail(problem, "%s: %s", snapshot->path, strerror(errno));
	if (!S_ISREG(status.st_mode))
		return fail(problem, "%s: not a regular file", snapshot->path);
	if (read_at(snapshot, &header, sizeof(header), 0, problem) < 0 ||
	    check_header(&header, (uint64_t)status.st_size, snapshot->path, problem) < 0)
		return -1;
	snapshot->vcpus = header.vcpus;
	snapshot->memory_size = header.memory_size;
	snapshot->extent_count = header.extents;
	snapshot->checksum = header.checksum;
	size_t size = header.extents * sizeof(*snapshot->extents);
	snapshot->extents = malloc(size > 0 ? size : 1);
	if (snapshot->extents == NULL)
		return fail(problem, "%s: out of memory", snapshot->path);
	snapshot->memory_offset = sizeof(header) + size + header.state_length;
	if (read_at(snapshot, snapshot->extents, size, sizeof(header), problem) < 0)
		return -1;
	if (!extents_fit(snapshot, header.length))
		return fail(problem, "%s: is damaged (extents): take another copy of it, or an older snapshot", snapshot->path);
	if (wire_open(&snapshot->wire, snapshot->fd, (off_t)(sizeof(header) + size), header.state_length, problem) < 0) {
		struct problem why = *problem;
		return fail(problem, "%s: %.400s", snapshot->path, why.text);
	}
	header.checksum = 0;
	snapshot->checksum_before = wire_checksum(WIRE_SUM, &header, sizeof(header));
	snapshot->checksum_before = wire_checksum(snapshot->checksum_before, snapshot->extents, size);
	snapshot->checksum_before =
		wire_checksum(snapshot->checksum_before, snapshot->wire.bytes, snapshot->wire.size);
	return go_through(snapshot, NULL, problem);
}

int snapshot_open(struct snapshot *snapshot, const char *path, struct problem *problem)
{
	*snapshot = (struct snapshot){ .path = path };
	snapshot->fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (snapshot->fd < 0)
		return fail(problem, "--restore %s: %s", path, strerror(errno));
	if (read_all(snapshot, problem) == 0)
		return 0;
	struct problem why = *problem;
	return fail(problem, "--restore %.480s", why.text);
}

int snapshot_load_memory(const struct snapshot *snapshot, struct machine *machine, struct problem *problem)
{
	if (fallocate(machine->memory_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)machine->memory_size) < 0)
		memset(machine->memory, 0, machine->memory_size);
	return go_through(snapshot, machine->memory, problem);
}

void snapshot_close(struct snapshot *snapshot)
{
	if (snapshot->fd >= 0)
		close(snapshot->fd);
	free(snapshot->extents);
	wire_clear(&snapshot->wire);
}

/* What the file says of the machine holds; what was said besides has to agree. */
static int adopt(const struct snapshot *snapshot, struct options *options, struct problem *problem)
{
	if (options->vcpus != 0 && options->vcpus != snapshot->vcpus)
		return fail(problem, "--vcpus %u: %s has %u vCPUs: give as many, or leave it out", options->vcpus, snapshot->path,
			    snapshot->vcpus);
	if (options->memory_size != 0 && options->memory_size != snapshot->memory_size)
		return fail(problem, "--memory %llu: %s has %llu MiB: give as much, or leave it out",
			    (unsigned long long)options->memory_size >> 20, snapshot->path,
			    (unsigned long long)snapshot->memory_size >> 20);
	options->vcpus = snapshot->vcpus;
	options->memory_size = snapshot->memory_size;
	return 0;
}

/* Order: as in a live update; memory comes last of what the guest does not see change while it is stopped. */
static int restore(struct machine *machine, const struct snapshot *snapshot, const struct options *options,
		   struct problem *problem)
{
	struct pvclock_slope host;
	struct pvclock_correction correction;

	if (machine_create(machine, options, problem) < 0 ||
	    clock_attach(machine, options->mode, !options->same_boot, problem) < 0 ||
	    (options->same_boot && clock_learn(machine, &snapshot->wire, problem) < 0) ||
	    clock_slope(machine, &host, problem) < 0 || vcpus_start(machine, problem) < 0)
		return -1;
	if (snapshot_load_memory(snapshot, machine, problem) < 0)
		return -1;
	fault_reached(&options->fault, "restore:loaded");
	if (machine_restore(machine, &snapshot->wire, problem) < 0 ||
	    clock_restore(machine, &snapshot->wire, options->restore_as, &host, options->policy, problem) < 0)
		return -1;
	fault_reached(&options->fault, "restore:restored");
	vcpus_settle(machine);
	if (clock_resume(machine, &correction, problem) < 0)
		return -1;
	fault_reached(&options->fault, "restore:published");
	vcpus_settle(machine); /* once more: each page as it was aimed, before a vCPU reads another's */
	vcpus_resume(machine);
	fault_reached(&options->fault, "restore:running");
	return 0;
}

int snapshot_begin(struct machine *machine, struct options *options, struct problem *problem)
{
	struct snapshot snapshot;
	int result = snapshot_open(&snapshot, options->restore_path, problem);

	if (result == 0) {
		fault_reached(&options->fault, "restore:checked");
		result = adopt(&snapshot, options, problem);
	}
	if (result == 0)
		result = restore(machine, &snapshot, options, problem);
	snapshot_close(&snapshot);
	return result;
}
