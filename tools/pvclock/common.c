/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "command.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define CLOCKSOURCE_FOLDER "/sys/devices/system/clocksource/clocksource0/"

/* The line on which the terminal breaks a note. */
#define NOTE_WIDTH 100
#define ITEM_INDENT 14

void read_line(const char *path, char *line, size_t size)
{
	FILE *file = fopen(path, "re");
	size_t length;

	line[0] = '\0';
	if (file == NULL)
		return;
	if (fgets(line, (int)size, file) == NULL)
		line[0] = '\0';
	fclose(file);
	length = strcspn(line, "\n");
	while (length > 0 && line[length - 1] == ' ')
		length--;
	line[length] = '\0';
}

void read_field(const char *path, const char *name, char *value, size_t size)
{
	FILE *file = fopen(path, "re");
	size_t room = 0;
	char *line = NULL;

	value[0] = '\0';
	if (file == NULL)
		return;
	while (getline(&line, &room, file) > 0) {
		char *colon = strchr(line, ':');

		if (colon == NULL || strncmp(line, name, strlen(name)) != 0)
			continue;
		colon++;
		colon += strspn(colon, " \t");
		colon[strcspn(colon, "\n")] = '\0';
		snprintf(value, size, "%s", colon);
		break;
	}
	free(line);
	fclose(file);
}

void read_clocksources(struct clocksources *clocksources)
{
	read_line(CLOCKSOURCE_FOLDER "current_clocksource", clocksources->current, sizeof(clocksources->current));
	read_line(CLOCKSOURCE_FOLDER "available_clocksource", clocksources->available,
		  sizeof(clocksources->available));
}

uint64_t millihertz(uint32_t mul, int shift)
{
	/* 10^12 < 2^40, and 32 - shift <= 63: 103 bits */
	__extension__ unsigned __int128 ticks = (__extension__ (unsigned __int128)1000000000000u) << (32 - shift);

	if (mul == 0)
		return 0;
	ticks = (ticks + mul / 2) / mul;
	return ticks > UINT64_MAX ? UINT64_MAX : (uint64_t)ticks;
}

double to_ppb(int64_t difference)
{
	return (double)difference / 18446744073.709551616;
}

void note(struct notes *notes, const char *format, ...)
{
	va_list arguments;

	if (notes->count == NOTES_MAX)
		return;
	va_start(arguments, format);
	vsnprintf(notes->text[notes->count++], sizeof(notes->text[0]), format, arguments);
	va_end(arguments);
}

/* Words, broken at NOTE_WIDTH. */
static void print_words(const char *text, int indent)
{
	int column = indent;

	while (*text != '\0') {
		int length = (int)strcspn(text, " ");

		if (column > indent && column + 1 + length > NOTE_WIDTH) {
			printf("\n%*s", indent, "");
			column = indent;
		} else if (column > indent) {
			putchar(' ');
			column++;
		}
		printf("%.*s", length, text);
		column += length;
		text += length;
		text += strspn(text, " ");
	}
	putchar('\n');
}

void print_notes(const struct notes *notes)
{
	for (size_t i = 0; i < notes->count; i++) {
		printf("%-*s- ", ITEM_INDENT, i == 0 ? "notes" : "");
		print_words(notes->text[i], ITEM_INDENT + 2);
	}
}

json_t *notes_to_json(const struct notes *notes)
{
	json_t *array = json_array();

	for (size_t i = 0; i < notes->count; i++)
		json_array_append_new(array, json_string(notes->text[i]));
	return array;
}

void print_item(const char *name, const char *format, ...)
{
	char text[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	printf("%-*s", ITEM_INDENT, name);
	print_words(text, ITEM_INDENT);
}

void set_text(json_t *object, const char *key, const char *value)
{
	json_object_set_new(object, key, json_string(value));
}

void set_number(json_t *object, const char *key, uint64_t value)
{
	json_object_set_new(object, key, json_integer((json_int_t)value));
}

void set_real(json_t *object, const char *key, double value)
{
	json_object_set_new(object, key, json_real(value));
}

void set_flag(json_t *object, const char *key, bool value)
{
	json_object_set_new(object, key, json_boolean(value));
}

json_t *clocksources_to_json(const struct clocksources *clocksources)
{
	json_t *object = json_object();

	set_text(object, "current", clocksources->current);
	set_text(object, "available", clocksources->available);
	return object;
}

void print_json(json_t *object)
{
	json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(10));
	putchar('\n');
	json_decref(object);
}

int usage_error(const char *command)
{
	fprintf(stderr, "Try: pvclock %s --help\n", command);
	return EXIT_USAGE;
}
