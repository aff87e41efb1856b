/* SPDX-License-Identifier: MIT */
/* record.h - the parts of pvclock record, some of which pvclock preflight shares. */
#ifndef PVCLOCK_TOOL_RECORD_H
#define PVCLOCK_TOOL_RECORD_H

#include "command.h"
#include "fields.h"

#include <pvclock/plan.h>

/* --- record_json.c: the tables ------------------------------------------------------------ */

extern const struct fields record_fields, record_vcpu_fields, destination_fields;

json_t *record_to_json(const struct pvclock_record *record);
/* A new record, to be cleared by the caller. What it says is not checked: encoding does that. */
bool record_from_json(const json_t *json, struct pvclock_record *record, struct sentence *why);
/* A field by its path in the JSON, and what it is of. NULL: there is none. */
const struct field *record_field(const struct pvclock_record *record, const char *path, void **object);
/* "-": standard input. NULL with a sentence. */
json_t *json_from_file(const char *path, struct sentence *why);

/* --- record_file.c: files -------------------------------------------------------------------- */

#define RECORD_FILE_MAX (64u << 20)

/* A record as it was found in a file. */
struct record_file {
	uint8_t *bytes; /* the whole file */
	size_t size;
	size_t at, length; /* of the record in it */
	uint32_t version;
	struct pvclock_record record;
	enum pvclock_reason_code code; /* why not */
};

bool record_file_read(const char *path, struct record_file *file, struct sentence *why);
void record_file_clear(struct record_file *file);
/* There is nothing but the record in it. */
bool record_file_plain(const struct record_file *file);
/*
 * The record as it is now: as a file, or within the file that it was read from. Whole or not at all: another reader sees the old
 * file or the new one, also after a crash.
 */
bool record_file_write(const char *path, const struct record_file *file, bool within, struct sentence *why);
/* A new file under a temporary name, filled (false: errno), and given this one. */
bool record_file_replace(const char *path, bool (*fill)(int fd, void *from), void *from, struct sentence *why);
bool record_file_write_all(int fd, const uint8_t *bytes, size_t size);

/* --- record_snapshot.c: snapshots of pvclock-vmm ------------------------------------------------- */

/* How much of a snapshot is in front of guest memory; 0: it is none that we know. */
size_t record_snapshot_head(const uint8_t *bytes, size_t size);
/* With another record of the same length. */
bool record_snapshot_write(const char *path, const struct record_file *file, const uint8_t *record, size_t length,
			   struct sentence *why);

/* --- record_report.c, record_diff.c ------------------------------------------------------------ */

/* The TSC of vCPU `i` at the save, and the clock when it reads `tsc`. */
uint64_t record_tsc(const struct pvclock_record *record, uint32_t i);
uint64_t record_ns(const struct pvclock_record *record, uint32_t i, uint64_t tsc);
/* "2026-11-21 14:29:22.123456789" */
void format_date(uint64_t ns, char *text, size_t size);
/* "1.234567890 s", exactly */
void format_seconds(uint64_t ns, char *text, size_t size);
/* "NAME 1234 ns", or that it is unknown */
void format_error(const char *name, uint64_t ns, char *text, size_t size);

void print_record(const char *path, const struct record_file *file);
/* Prints; true if nothing differs. */
bool print_difference(const struct pvclock_record *a, const struct pvclock_record *b, bool json);

#endif
