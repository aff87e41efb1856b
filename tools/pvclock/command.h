/* SPDX-License-Identifier: MIT */
/* command.h - what the subcommands share. */
#ifndef PVCLOCK_TOOL_COMMAND_H
#define PVCLOCK_TOOL_COMMAND_H

#include <pvclock/line.h>

#include <jansson.h>

#include <stdbool.h>
#include <stdio.h>

/* Exit codes of every subcommand. */
enum {
	EXIT_FINE = 0,   /* what was asked about is as it should be */
	EXIT_LACKING = 1, /* it is not; the output says why */
	EXIT_USAGE = 2,
};

/* argv[0] is the subcommand's name. Each returns an exit code. */
int host_command(int argc, char **argv);
int guest_command(int argc, char **argv);
int run_command(int argc, char **argv);
int record_command(int argc, char **argv);
int preflight_command(int argc, char **argv);

/* --- common.c ----------------------------------------------------------------------- */

/* The first line of a file without its newline and trailing blanks; empty if it cannot be read. */
void read_line(const char *path, char *line, size_t size);
/* The value behind "name:" in a file like /proc/cpuinfo; empty if there is none. */
void read_field(const char *path, const char *name, char *value, size_t size);

/* What the kernel keeps time by. */
struct clocksources {
	char current[32], available[128];
};
void read_clocksources(struct clocksources *clocksources);

/* Ticks a second of a clock with mul / 2^(32 - shift) ns per tick, in mHz, rounded to nearest. 0 for mul 0. */
uint64_t millihertz(uint32_t mul, int shift);
/* 2^-64 parts, as pvclock_slope_difference returns them, in parts per 10^9. */
double to_ppb(int64_t difference);

/* Sentences that tell what is missing and the way out; as many as fit. */
#define NOTES_MAX 24
struct notes {
	char text[NOTES_MAX][320];
	size_t count;
};
void note(struct notes *notes, const char *format, ...) __attribute__((format(printf, 2, 3)));
void print_notes(const struct notes *notes);
json_t *notes_to_json(const struct notes *notes);
/* {"current": ..., "available": ...} */
json_t *clocksources_to_json(const struct clocksources *clocksources);

/* "name       value", with the values below each other. */
void print_item(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* JSON members. An unsigned number beyond 2^63 - 1 does not occur: jansson knows no larger ones. */
void set_text(json_t *object, const char *key, const char *value);
void set_number(json_t *object, const char *key, uint64_t value);
void set_real(json_t *object, const char *key, double value);
void set_flag(json_t *object, const char *key, bool value);
/* Prints and frees the object. */
void print_json(json_t *object);

/* A usage error's message, and EXIT_USAGE. */
int usage_error(const char *command);

#endif
