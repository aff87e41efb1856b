/* SPDX-License-Identifier: MIT */
/*
 * json_get.c - json_get a.b.c: reads JSON and prints one member of it, a string bare, the rest as JSON. Exit 1: it is
 * not there.
 */
#include <jansson.h>

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	json_error_t error;
	json_t *root = json_loadf(stdin, JSON_REJECT_DUPLICATES, &error), *value = root;
	char path[256];

	if (root == NULL) {
		fprintf(stderr, "no JSON: line %d: %s\n", error.line, error.text);
		return 1;
	}
	snprintf(path, sizeof(path), "%s", argc > 1 ? argv[1] : "");
	for (char *key = strtok(path, "."); key != NULL; key = strtok(NULL, "."))
		value = json_object_get(value, key);
	if (value == NULL) {
		fprintf(stderr, "no member %s\n", argv[1]);
		json_decref(root);
		return 1;
	}
	if (json_is_string(value))
		puts(json_string_value(value));
	else
		json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_COMPACT);
	json_decref(root);
	return 0;
}
