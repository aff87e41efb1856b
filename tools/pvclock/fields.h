/* SPDX-License-Identifier: MIT */
/*
 * fields.h - a struct as named fields: one table serves JSON in both directions, KEY=VALUE, and comparing. A value has
 * one text, which is what it is in JSON too, but for numbers of 32 bits and signed ones (JSON's own), and flags.
 */
#ifndef PVCLOCK_TOOL_FIELDS_H
#define PVCLOCK_TOOL_FIELDS_H

#include <jansson.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Why not, for a person. */
struct sentence {
	char text[400];
};
/* Always false. */
bool say(struct sentence *why, const char *format, ...) __attribute__((format(printf, 2, 3)));

enum field_kind {
	FIELD_U8,
	FIELD_U32,
	FIELD_U64, /* in JSON a string: jansson's integers end at 2^63 - 1, JavaScript's at 2^53 */
	FIELD_I8,
	FIELD_I16,
	FIELD_I32,
	FIELD_I64,
	FIELD_FLAG,    /* bool */
	FIELD_PASSING, /* enum pvclock_passing */
	FIELD_BOOT_ID,
	FIELD_REASON, /* enum pvclock_reason_code, by its name */
	FIELD_TEXT,   /* a reason's sentence */
};

struct field {
	const char *path; /* "time.tai_ns" */
	enum field_kind kind;
	size_t offset;
	const char *all_ones; /* what UINT64_MAX is called; NULL: nothing else than its digits */
};

struct fields {
	const struct field *field;
	size_t count;
};

#define FIELD_TEXT_SIZE 256

const struct field *field_find(const struct fields *fields, const char *path);
void field_print(const struct field *field, const void *object, char text[FIELD_TEXT_SIZE]);
/* False, with a sentence that names the field: it can have no such value; the object is untouched. */
bool field_parse(const struct field *field, void *object, const char *text, struct sentence *why);

json_t *fields_to_json(const struct fields *fields, const void *object);
/* Every field is there, and nothing else but the members listed in `besides` (NULL-terminated; may be NULL). */
bool fields_from_json(const struct fields *fields, const json_t *json, const char *const *besides, void *object,
		      struct sentence *why);

#endif
