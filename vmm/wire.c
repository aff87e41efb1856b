// SPDX-License-Identifier: MIT
/*
 * wire.c - a paused machine's state as sections in a file that both sides hold. The reader copies it first, so that what was
 * checked is what is used.
 *
 * Both sides run on one host and in one byte order; the state still carries its own length and checksum, because what it is
 * about to overwrite is the only copy of a guest.
 */
#include "vmm.h"
#include "saved.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct wire_section {
	uint32_t kind;
	uint32_t index;
	uint64_t length; /* the next section starts at the next multiple of 8 */
};

static size_t padded(size_t size)
{
	return (size + 7) & ~(size_t)7;
}

int wire_begin(struct wire *wire, struct problem *problem)
{
	*wire = (struct wire){ .capacity = 256u << 10 };
	wire->bytes = calloc(1, wire->capacity);
	if (wire->bytes == NULL)
		return fail(problem, "state: out of memory");
	wire->size = sizeof(struct wire_header);
	return 0;
}

void *wire_add(struct wire *wire, enum wire_kind kind, uint32_t index, size_t size, struct problem *problem)
{
	struct wire_section section = { .kind = kind, .index = index, .length = size };
	size_t needed = wire->size + sizeof(section) + padded(size);

	if (needed > WIRE_SIZE_MAX) {
		fail(problem, "state: larger than %u bytes", WIRE_SIZE_MAX);
		return NULL;
	}
	if (needed > wire->capacity) {
		uint8_t *grown = realloc(wire->bytes, needed * 2);
		if (grown == NULL) {
			fail(problem, "state: out of memory");
			return NULL;
		}
		memset(grown + wire->capacity, 0, needed * 2 - wire->capacity);
		wire->bytes = grown;
		wire->capacity = needed * 2;
	}
	memcpy(wire->bytes + wire->size, &section, sizeof(section));
	void *space = wire->bytes + wire->size + sizeof(section);
	wire->size = needed;
	wire->sections++;
	return space;
}

void wire_seal(struct wire *wire)
{
	struct wire_header header = {
		.magic = WIRE_MAGIC,
		.version = WIRE_VERSION,
		.sections = wire->sections,
		.length = wire->size,
		.checksum = wire_checksum(WIRE_SUM, wire->bytes + sizeof(header), wire->size - sizeof(header)),
	};

	memcpy(wire->bytes, &header, sizeof(header));
}

int wire_write(struct wire *wire, int fd, off_t offset, struct problem *problem)
{
	size_t done = 0;

	wire_seal(wire);
	/* Not through a mapping: that there is no memory for it is to be an error, not a signal. */
	while (done < wire->size) {
		ssize_t written = pwrite(fd, wire->bytes + done, wire->size - done, offset + (off_t)done);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return fail(problem, "state: memfd of %zu bytes: %s", wire->size, strerror(errno));
		done += (size_t)written;
	}
	return 0;
}

static int check(struct wire *wire, struct problem *problem)
{
	struct wire_header header;
	size_t at = sizeof(header);

	memcpy(&header, wire->bytes, sizeof(header));
	if (header.magic != WIRE_MAGIC)
		return fail(problem, "the saved state is not a state of this VMM");
	if (header.version != WIRE_VERSION)
		return fail(problem, "the saved state has version %u, and this VMM reads version %u: update "
			    "through a release that knows both", header.version, WIRE_VERSION);
	if (header.length != wire->size ||
	    header.checksum != wire_checksum(WIRE_SUM, wire->bytes + sizeof(header), wire->size - sizeof(header)))
		return fail(problem, "the saved state is damaged (length or checksum)");
	for (uint32_t i = 0; i < header.sections; i++) {
		struct wire_section section;

		if (wire->size - at < sizeof(section))
			return fail(problem, "the saved state ends inside section %u", i);
		memcpy(&section, wire->bytes + at, sizeof(section));
		at += sizeof(section);
		if (section.length > wire->size - at || padded(section.length) > wire->size - at)
			return fail(problem, "the saved state ends inside section %u", i);
		at += padded(section.length);
	}
	if (at != wire->size)
		return fail(problem, "the saved state has %zu bytes too many", wire->size - at);
	wire->sections = header.sections;
	return 0;
}

int wire_open(struct wire *wire, int fd, off_t offset, size_t length, struct problem *problem)
{
	*wire = (struct wire){ 0 };
	if (length < sizeof(struct wire_header) || length > WIRE_SIZE_MAX || length % 8 != 0)
		return fail(problem, "the saved state cannot have %zu bytes", length);
	wire->size = wire->capacity = length;
	wire->bytes = malloc(wire->size);
	if (wire->bytes == NULL)
		return fail(problem, "state: out of memory");
	size_t done = 0;
	while (done < wire->size) {
		ssize_t got = pread(fd, wire->bytes + done, wire->size - done, offset + (off_t)done);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return fail(problem, "the saved state cannot be read");
		done += (size_t)got;
	}
	return check(wire, problem);
}

const void *wire_find(const struct wire *wire, enum wire_kind kind, uint32_t index, size_t *size)
{
	size_t at = sizeof(struct wire_header);

	for (uint32_t i = 0; i < wire->sections; i++) {
		struct wire_section section;

		memcpy(&section, wire->bytes + at, sizeof(section));
		at += sizeof(section);
		if (section.kind == (uint32_t)kind && section.index == index) {
			*size = (size_t)section.length;
			return wire->bytes + at;
		}
		at += padded((size_t)section.length);
	}
	return NULL;
}

void wire_clear(struct wire *wire)
{
	free(wire->bytes);
	*wire = (struct wire){ 0 };
}
