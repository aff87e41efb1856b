/* SPDX-License-Identifier: MIT */
/* command.h - runs the real command, and makes the records that it is run on. */
#ifndef PVCLOCK_TEST_COMMAND_H
#define PVCLOCK_TEST_COMMAND_H

#include <pvclock/plan.h>

#include <jansson.h>

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

/* A folder of the test's own; the path of a file in it, good until eight more were asked for. */
int make_folder(void **state);
int remove_folder(void **state);
const char *in_folder(const char *name);
unsigned int files_in_folder(void);

struct ran {
	int code;
	char *out, *err; /* good until the next run */
};
/* pvclock ARGUMENT..., NULL-terminated. */
struct ran run(const char *argument, ...) __attribute__((sentinel));
struct ran run_list(const char *const *arguments);
/* What it printed, which the caller gives back. */
json_t *json_of(const struct ran *ran);
/* A member of it by "a.b.0.c". */
json_t *at_path(json_t *json, const char *path);
const char *text_at(json_t *json, const char *path);
uint64_t number_at(json_t *json, const char *path); /* of digits in a string, or an integer */

/* For people lines are broken and columns are filled: any blanks are one. */
bool shows(const struct ran *ran, const char *text);
#define assert_shows(ran, text) \
	do { \
		if (!shows(ran, text)) \
			fail_msg("not shown: %s; but: %s%s", text, (ran)->out, (ran)->err); \
	} while (0)
#define assert_shows_not(ran, text) assert_false(shows(ran, text))

/* Exit code 1, nothing printed, and one sentence with `word` in it. */
void assert_sentence(const struct ran *ran, const char *word);

void write_file(const char *path, const void *bytes, size_t size);
size_t read_file(const char *path, void *bytes, size_t room);
bool same_files(const char *a, const char *b);
size_t encode(const struct pvclock_record *record, void *bytes, size_t room);
void write_record(const char *path, const struct pvclock_record *record);

uint64_t random_u64(void); /* seeded by each test */
void seed_random(uint64_t seed);

#define VCPUS_MAX 8
/* A valid record whose every field has a value of its own. */
void make_record(struct pvclock_record *record, struct pvclock_record_vcpu *vcpus, uint32_t vcpu_count);
void make_file(const char *path, struct pvclock_record *record, struct pvclock_record_vcpu *vcpus, uint32_t vcpu_count);
/* Valid, and otherwise anything. */
void make_wild_record(struct pvclock_record *record, struct pvclock_record_vcpu *vcpus, uint32_t vcpu_count);
void set_system_time(struct pvclock_record *record);

#endif
