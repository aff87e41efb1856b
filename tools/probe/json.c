/* SPDX-License-Identifier: MIT */
#include "json.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 2, 3))) static void append(struct json *json, const char *format, ...)
{
	va_list arguments;
	int length;

	if (json->full)
		return;
	va_start(arguments, format);
	length = vsnprintf(json->text + json->length, JSON_SIZE - json->length, format, arguments);
	va_end(arguments);
	if (length < 0 || (size_t)length >= JSON_SIZE - json->length) {
		json->full = true;
		json->text[json->length] = '\0';
		return;
	}
	json->length += (size_t)length;
}

/* Names are ours: nothing in them needs a backslash. */
static void member(struct json *json, const char *name)
{
	if (json->comma)
		append(json, ",");
	if (name != NULL)
		append(json, "\"%s\":", name);
	json->comma = true;
}

void json_open(struct json *json, const char *name, char bracket)
{
	member(json, name);
	append(json, "%c", bracket);
	json->comma = false;
}

void json_close(struct json *json, char bracket)
{
	append(json, "%c", bracket);
	json->comma = true;
}

void json_text(struct json *json, const char *name, const char *value)
{
	member(json, name);
	append(json, "\"");
	for (; *value != '\0'; value++) {
		unsigned char byte = (unsigned char)*value;

		if (byte == '"' || byte == '\\')
			append(json, "\\%c", byte);
		else if (byte < ' ' || byte > '~') /* a byte of whatever encoding: as if it were Latin-1 */
			append(json, "\\u%04x", byte);
		else
			append(json, "%c", byte);
	}
	append(json, "\"");
}

void json_bool(struct json *json, const char *name, bool value)
{
	member(json, name);
	append(json, value ? "true" : "false");
}

void json_null(struct json *json, const char *name)
{
	member(json, name);
	append(json, "null");
}

void json_signed(struct json *json, const char *name, int64_t value)
{
	member(json, name);
	append(json, "%" PRId64, value);
}

void json_unsigned(struct json *json, const char *name, uint64_t value)
{
	member(json, name);
	append(json, "%" PRIu64, value);
}

void json_number(struct json *json, const char *name, double value)
{
	if (!isfinite(value)) {
		json_null(json, name);
		return;
	}
	member(json, name);
	append(json, "%.15g", value);
}
