/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "fields.h"

#include <pvclock/policy.h>
#include <pvclock/reason.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_SIZE 64

bool say(struct sentence *why, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(why->text, sizeof(why->text), format, arguments);
	va_end(arguments);
	return false;
}

const struct field *field_find(const struct fields *fields, const char *path)
{
	for (size_t i = 0; i < fields->count; i++)
		if (strcmp(fields->field[i].path, path) == 0)
			return &fields->field[i];
	return NULL;
}

/* --- numbers --------------------------------------------------------------------------- */

static const struct range {
	uint64_t below_zero, max; /* the least is -below_zero */
	size_t size;
} ranges[] = {
	[FIELD_U8] = { 0, UINT8_MAX, 1 },
	[FIELD_U32] = { 0, UINT32_MAX, 4 },
	[FIELD_U64] = { 0, UINT64_MAX, 8 },
	[FIELD_I8] = { 1u << 7, INT8_MAX, 1 },
	[FIELD_I16] = { 1u << 15, INT16_MAX, 2 },
	[FIELD_I32] = { 1u << 31, INT32_MAX, 4 },
	[FIELD_I64] = { (uint64_t)1 << 63, INT64_MAX, 8 },
};

static bool is_number(enum field_kind kind)
{
	return kind <= FIELD_I64;
}

static bool is_signed(enum field_kind kind)
{
	return ranges[kind].below_zero != 0;
}

/* Sign-extended; x86-64 is little-endian, and so is every host of KVM on x86. */
static uint64_t load(const struct field *field, const void *object)
{
	size_t size = ranges[field->kind].size;
	uint64_t value = 0;

	memcpy(&value, (const char *)object + field->offset, size);
	if (is_signed(field->kind) && size < 8 && value >> (8 * size - 1))
		value |= ~(uint64_t)0 << 8 * size;
	return value;
}

static bool parse_number(const struct field *field, void *object, const char *text, struct sentence *why)
{
	const struct range *range = &ranges[field->kind];
	bool negative = *text == '-' && is_signed(field->kind);
	const char *digits = text + negative;
	bool hex = digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X');
	uint64_t value;
	char *end;

	if (field->all_ones && strcmp(text, field->all_ones) == 0) {
		memset((char *)object + field->offset, 0xff, range->size);
		return true;
	}
	digits += hex ? 2 : 0;
	errno = 0;
	value = strtoull(digits, &end, hex ? 16 : 10);
	/* strtoull itself takes blanks, signs and a second 0x */
	if (strspn(digits, hex ? "0123456789abcdefABCDEF" : "0123456789") != strlen(digits) || *digits == '\0' || errno ||
	    value > (negative ? range->below_zero : range->max))
		return say(why, "%s is a whole number from %s%" PRIu64 " to %" PRIu64 "%s%s, and not \"%.60s\".", field->path,
			   is_signed(field->kind) ? "-" : "", range->below_zero, range->max, field->all_ones ? ", or " : "",
			   field->all_ones ? field->all_ones : "", text);
	value = negative ? -value : value;
	memcpy((char *)object + field->offset, &value, range->size);
	return true;
}

static void print_number(const struct field *field, const void *object, char text[FIELD_TEXT_SIZE])
{
	uint64_t value = load(field, object);

	if (field->all_ones && value == UINT64_MAX)
		snprintf(text, FIELD_TEXT_SIZE, "%s", field->all_ones);
	else if (is_signed(field->kind))
		snprintf(text, FIELD_TEXT_SIZE, "%" PRId64, (int64_t)value);
	else
		snprintf(text, FIELD_TEXT_SIZE, "%" PRIu64, value);
}

/* --- words ------------------------------------------------------------------------------ */

#define BOOT_ID_DIGITS (2 * PVCLOCK_BOOT_ID_SIZE)

/* As in /proc/sys/kernel/random/boot_id. */
static void print_boot_id(const uint8_t *id, char text[FIELD_TEXT_SIZE])
{
	static const uint8_t none[PVCLOCK_BOOT_ID_SIZE];
	char *to = text;

	if (memcmp(id, none, sizeof(none)) == 0) {
		strcpy(text, "unknown");
		return;
	}
	for (size_t i = 0; i < PVCLOCK_BOOT_ID_SIZE; i++)
		to += sprintf(to, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", id[i]);
}

static bool parse_boot_id(const struct field *field, uint8_t *to, const char *text, struct sentence *why)
{
	uint8_t id[PVCLOCK_BOOT_ID_SIZE] = { 0 };
	size_t digits = 0;

	for (const char *c = text; strcmp(text, "unknown") != 0 && *c != '\0'; c++) {
		static const char hex[] = "0123456789abcdef";
		const char *digit = strchr(hex, *c);

		if (*c == '-')
			continue;
		if (!digit || digits == BOOT_ID_DIGITS)
			return say(why, "%s is 32 hexadecimal digits, or unknown, and not \"%.60s\".", field->path, text);
		id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | (digit - hex));
		digits++;
	}
	if (digits != 0 && digits != BOOT_ID_DIGITS)
		return say(why, "%s is 32 hexadecimal digits, or unknown, and not \"%.60s\".", field->path, text);
	memcpy(to, id, sizeof(id));
	return true;
}

static bool parse_reason(const struct field *field, enum pvclock_reason_code *to, const char *text, struct sentence *why)
{
	for (enum pvclock_reason_code code = 0; code < PVCLOCK_REASON_COUNT_; code++) {
		if (strcmp(pvclock_reason_name(code), text) == 0) {
			*to = code;
			return true;
		}
	}
	return say(why, "%s is the name of a reason, as pvclock prints it, and not \"%.60s\".", field->path, text);
}

static bool parse_text(const struct field *field, char *to, const char *text, struct sentence *why)
{
	if (strlen(text) >= PVCLOCK_REASON_TEXT)
		return say(why, "%s has room for %d bytes.", field->path, PVCLOCK_REASON_TEXT - 1);
	strcpy(to, text);
	return true;
}

/* --- a field ------------------------------------------------------------------------------ */

void field_print(const struct field *field, const void *object, char text[FIELD_TEXT_SIZE])
{
	const char *at = (const char *)object + field->offset;

	switch (field->kind) {
	case FIELD_FLAG:
		snprintf(text, FIELD_TEXT_SIZE, "%s", *(const bool *)at ? "true" : "false");
		break;
	case FIELD_PASSING:
		snprintf(text, FIELD_TEXT_SIZE, "%s",
			 pvclock_passing_name(*(const enum pvclock_passing *)(const void *)at));
		break;
	case FIELD_BOOT_ID:
		print_boot_id((const uint8_t *)at, text);
		break;
	case FIELD_REASON:
		snprintf(text, FIELD_TEXT_SIZE, "%s",
			 pvclock_reason_name(*(const enum pvclock_reason_code *)(const void *)at));
		break;
	case FIELD_TEXT:
		snprintf(text, FIELD_TEXT_SIZE, "%s", at);
		break;
	default:
		print_number(field, object, text);
		break;
	}
}

bool field_parse(const struct field *field, void *object, const char *text, struct sentence *why)
{
	char *at = (char *)object + field->offset;

	switch (field->kind) {
	case FIELD_FLAG:
		if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
			return say(why, "%s is true or false, and not \"%.60s\".", field->path, text);
		*(bool *)at = *text == 't';
		return true;
	case FIELD_PASSING:
		return pvclock_passing_parse(text, (enum pvclock_passing *)(void *)at) ||
		       say(why, "%s is advance or freeze, and not \"%.60s\".", field->path, text);
	case FIELD_BOOT_ID:
		return parse_boot_id(field, (uint8_t *)at, text, why);
	case FIELD_REASON:
		return parse_reason(field, (enum pvclock_reason_code *)(void *)at, text, why);
	case FIELD_TEXT:
		return parse_text(field, at, text, why);
	default:
		return parse_number(field, object, text, why);
	}
}

/* --- JSON ----------------------------------------------------------------------------------- */

static json_t *field_to_json(const struct field *field, const void *object)
{
	char text[FIELD_TEXT_SIZE];

	if (field->kind == FIELD_FLAG)
		return json_boolean(*(const bool *)(const void *)((const char *)object + field->offset));
	if (is_number(field->kind) && field->kind != FIELD_U64)
		return json_integer((json_int_t)load(field, object));
	field_print(field, object, text);
	return json_string(text);
}

json_t *fields_to_json(const struct fields *fields, const void *object)
{
	json_t *root = json_object();

	for (size_t i = 0; i < fields->count; i++) {
		const char *path = fields->field[i].path, *dot;
		json_t *parent = root, *next;

		for (; (dot = strchr(path, '.')) != NULL; path = dot + 1, parent = next) {
			char name[PATH_SIZE];

			snprintf(name, sizeof(name), "%.*s", (int)(dot - path), path);
			next = json_object_get(parent, name);
			if (next == NULL) {
				next = json_object();
				json_object_set_new(parent, name, next);
			}
		}
		json_object_set_new(parent, path, field_to_json(&fields->field[i], object));
	}
	return root;
}

static json_t *member(const json_t *json, const char *path)
{
	const char *dot;

	for (; (dot = strchr(path, '.')) != NULL; path = dot + 1) {
		char name[PATH_SIZE];

		snprintf(name, sizeof(name), "%.*s", (int)(dot - path), path);
		json = json_object_get(json, name);
	}
	return json_object_get(json, path);
}

static bool field_from_json(const struct field *field, const json_t *value, void *object, struct sentence *why)
{
	char text[32];

	if (value == NULL)
		return say(why, "The JSON has no %s; it is to have every member that pvclock prints.", field->path);
	if (json_is_string(value))
		return field_parse(field, object, json_string_value(value), why);
	if (json_is_boolean(value) && field->kind == FIELD_FLAG)
		return field_parse(field, object, json_is_true(value) ? "true" : "false", why);
	if (json_is_integer(value) && is_number(field->kind)) {
		snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
		return field_parse(field, object, text, why);
	}
	return say(why, "The JSON's %s is no %s.", field->path, is_number(field->kind) ? "whole number" :
		   field->kind == FIELD_FLAG ? "true or false" : "string");
}

/* A member that nobody reads is one that somebody misspelled. */
static bool all_known(const struct fields *fields, const json_t *json, const char *prefix, const char *const *besides,
		      struct sentence *why)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)json, key, value) {
		char path[PATH_SIZE];
		bool inner = false, known;
		int length = snprintf(path, sizeof(path), "%s%s", prefix, key);

		known = length < PATH_SIZE - 1 && field_find(fields, path) != NULL;
		for (const char *const *other = besides; other && *other; other++)
			known = known || strcmp(path, *other) == 0;
		if (known)
			continue;
		if (length < PATH_SIZE - 1)
			strcat(path, ".");
		for (size_t i = 0; i < fields->count; i++)
			inner = inner || strncmp(fields->field[i].path, path, strlen(path)) == 0;
		if (!inner || length >= PATH_SIZE - 1)
			return say(why, "The JSON has %s%.60s, which is nothing that pvclock knows.", prefix, key);
		if (!all_known(fields, value, path, NULL, why))
			return false;
	}
	return true;
}

bool fields_from_json(const struct fields *fields, const json_t *json, const char *const *besides, void *object,
		      struct sentence *why)
{
	for (size_t i = 0; i < fields->count; i++)
		if (!field_from_json(&fields->field[i], member(json, fields->field[i].path), object, why))
			return false;
	return all_known(fields, json, "", besides, why);
}
