/* SPDX-License-Identifier: MIT */
/* json.h - one JSON object on one line. */
#ifndef PROBE_JSON_H
#define PROBE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_SIZE 16384u

struct json {
	char text[JSON_SIZE];
	size_t length;
	bool comma; /* before the next member */
	bool full;  /* something did not fit: nothing more was written */
};

/* An object or an array begins; the outermost, as an array's element, or as a member. name may be NULL. */
void json_open(struct json *json, const char *name, char bracket);
void json_close(struct json *json, char bracket);

void json_text(struct json *json, const char *name, const char *value);
void json_bool(struct json *json, const char *name, bool value);
void json_null(struct json *json, const char *name);
void json_signed(struct json *json, const char *name, int64_t value);
void json_unsigned(struct json *json, const char *name, uint64_t value);
/* Anything that is no finite number is null. */
void json_number(struct json *json, const char *name, double value);

#endif
