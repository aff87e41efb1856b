/* SPDX-License-Identifier: MIT */
/* record_test.c - pvclock record: what it shows is all there is, what it writes is valid or is not written. */
#define _GNU_SOURCE
#include "command.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOM 4096

static struct pvclock_record_vcpu vcpus[VCPUS_MAX];

static void make(const char *path, struct pvclock_record *record, uint32_t vcpu_count)
{
	make_record(record, vcpus, vcpu_count);
	write_record(path, record);
}

static bool same_files(const char *a, const char *b)
{
	uint8_t bytes_a[ROOM], bytes_b[ROOM];
	size_t size = read_file(a, bytes_a, ROOM);

	return read_file(b, bytes_b, ROOM) == size && memcmp(bytes_a, bytes_b, size) == 0;
}

static uint64_t pick_wide(void)
{
	static const uint64_t edges[] = { 0, 1, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX };
	uint64_t random = random_u64();

	return random % 4 == 0 ? edges[random / 4 % 5] : random_u64();
}

static void randomize(struct pvclock_record *record)
{
	record->line = (struct pvclock_line){ pvclock_tsc_to_guest(&record->reference, record->time.at).ticks - random_u64() % 4000,
					      pick_wide(), (uint32_t)random_u64() | 1, (int8_t)(random_u64() % 63 - 31) };
	record->reference.offset = pick_wide();
	record->stable = random_u64() & 1;
	record->wall_clock_msr = pick_wide() & ~3ull;
	record->time.bracket_ns = (uint32_t)random_u64();
	record->time.boottime_ns = pick_wide();
	record->time.max_error_ns = pick_wide();
	record->time.estimated_error_ns = pick_wide();
	record->time.state = (uint32_t)random_u64();
	if (random_u64() & 1)
		memset(record->time.boot_id, 0, PVCLOCK_BOOT_ID_SIZE);
	for (int i = 0; i < PVCLOCK_BLACKOUT_COUNT; i++)
		record->policy.on[i] = random_u64() & 1 ? PVCLOCK_FREEZE : PVCLOCK_ADVANCE;
	record->policy.advance_max_ns = pick_wide();
	record->policy.fall_back = random_u64() & 1;
	record->account = (struct pvclock_account){ pick_wide(), pick_wide(), pick_wide(), pick_wide(), pick_wide(),
						    (int64_t)pick_wide() };
	for (uint32_t i = 0; i < record->vcpu_count; i++) {
		record->vcpus[i].system_time_msr = pick_wide() & ~2ull;
		record->vcpus[i].old_msrs = random_u64() & 1;
		record->vcpus[i].guest_stopped = random_u64() & 1;
		record->vcpus[i].tsc_adjust = pick_wide();
		record->vcpus[i].tsc_deadline = pick_wide();
		if (random_u64() & 1)
			record->vcpus[i].tsc = pvclock_tsc_unscaled(pick_wide());
	}
	set_system_time(record);
}

/* JSON is the record: there and back again are the same bytes, also beyond 2^63. */
static void json_loses_nothing(void **state)
{
	const char *a = in_folder("a"), *b = in_folder("b"), *json = in_folder("json");
	struct pvclock_record record;

	(void)state;
	seed_random(1);
	make(b, &record, 1);
	for (uint32_t i = 0; i < 40; i++) {
		struct ran ran;

		make_record(&record, vcpus, 1 + i % VCPUS_MAX);
		randomize(&record);
		write_record(a, &record);
		ran = run("record", "show", "--json", a, NULL);
		if (ran.code != 0)
			fail_msg("record %u of seed 1: %s", i, ran.err);
		write_file(json, ran.out, strlen(ran.out));
		ran = run("record", "edit", b, "--json-in", json, NULL);
		if (ran.code != 0 || !same_files(a, b))
			fail_msg("record %u of seed 1: %s", i, ran.err);
	}
}

/* --- every field --------------------------------------------------------------------------------- */

static bool is_clock(const char *path)
{
	return strncmp(path, "line.", 5) == 0 || strncmp(path, "reference.", 10) == 0 || strcmp(path, "time.at") == 0;
}

/* Another valid value, as text. */
static void another(const char *path, json_t *value, char *text, size_t size)
{
	if (strcmp(path, "time.boot_id") == 0)
		snprintf(text, size, "unknown");
	else if (json_is_boolean(value))
		snprintf(text, size, "%s", json_is_true(value) ? "false" : "true");
	else if (json_is_integer(value))
		snprintf(text, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value) + 1);
	else if (strcmp(json_string_value(value), "advance") == 0)
		snprintf(text, size, "freeze");
	else if (strcmp(json_string_value(value), "freeze") == 0)
		snprintf(text, size, "advance");
	else
		snprintf(text, size, "%" PRIu64, (uint64_t)strtoull(json_string_value(value), NULL, 10) + 4);
}

/* The edit says so in JSON, and nothing else changes there; and a person sees a difference. */
static void edit_one(const char *path, json_t *value, json_t *before, const char *shown)
{
	const char *a = in_folder("a"), *b = in_folder("b");
	char text[64], change[160];
	struct ran ran;
	json_t *after;

	another(path, value, text, sizeof(text));
	snprintf(change, sizeof(change), "%s=%s", path, text);
	ran = run("record", "edit", a, change, "--output", b, NULL);
	if (strcmp(path, "system_time") == 0) {
		assert_sentence(&ran, "is not what its line says");
		return;
	}
	if (ran.code != 0)
		fail_msg("%s: %s", change, ran.err);
	ran = run("record", "show", "--json", b, NULL);
	after = json_of(&ran);
	if (json_is_string(value))
		assert_string_equal(text_at(after, path), text);
	else if (json_is_integer(value))
		assert_int_equal(json_integer_value(at_path(after, path)), json_integer_value(value) + 1);
	else
		assert_int_equal(json_is_true(at_path(after, path)), !json_is_true(value));
	/* everything else is as it was, but for what follows from it */
	json_t *copy = json_deep_copy(before);
	char *last = strrchr(strcpy(change, path), '.');
	json_t *parent = last ? (*last = '\0', at_path(copy, change)) : copy;

	json_object_set(parent, last ? last + 1 : change, at_path(after, path));
	if (is_clock(path))
		json_object_set(copy, "system_time", at_path(after, "system_time"));
	if (!json_equal(copy, after))
		fail_msg("%s changes more than itself", path);
	json_decref(copy);
	json_decref(after);
	ran = run("record", "show", b, NULL);
	assert_int_equal(ran.code, 0);
	ran.out = strchr(ran.out, '\n'); /* its name is another */
	if (strcmp(ran.out, shown) == 0)
		fail_msg("%s is nothing that show shows", path);
}

static unsigned int edit_all(const char *prefix, json_t *json, json_t *before, const char *shown)
{
	unsigned int count = 0;
	char path[128];
	const char *key;
	json_t *value;
	size_t i;

	if (json_is_array(json)) {
		json_array_foreach(json, i, value) {
			snprintf(path, sizeof(path), "%s.%zu", prefix, i);
			count += edit_all(path, value, before, shown);
		}
		return count;
	}
	if (!json_is_object(json)) {
		edit_one(prefix, json, before, shown);
		return 1;
	}
	json_object_foreach(json, key, value) {
		snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "." : "", key);
		count += edit_all(path, value, before, shown);
	}
	return count;
}

static void every_field_can_be_edited_and_is_shown(void **state)
{
	struct pvclock_record record;
	struct ran ran;
	json_t *json;
	char *shown;

	(void)state;
	seed_random(2);
	make(in_folder("a"), &record, 2);
	ran = run("record", "show", in_folder("a"), NULL);
	assert_int_equal(ran.code, 0);
	shown = strdup(strchr(ran.out, '\n'));
	ran = run("record", "show", "--json", in_folder("a"), NULL);
	json = json_of(&ran);
	/* as many as the structs have, but for vcpu_count */
	assert_int_equal(edit_all("", json, json, shown), 35 + 2 * 9);
	json_decref(json);
	free(shown);
}

/* --- refusals -------------------------------------------------------------------------------------- */

static void a_refused_edit_leaves_the_file_alone(void **state)
{
	static const struct {
		const char *change, *word;
	} cases[] = {
		{ "line.mul=0", "mul" },
		{ "line.mul=4294967296", "line.mul is a whole number from 0 to 4294967295" },
		{ "line.shift=32", "shift" },
		{ "line.shift=-129", "line.shift is a whole number from -128 to 127" },
		{ "line.tsc=-1", "line.tsc" },
		{ "line.tsc=18446744073709551616", "line.tsc" },
		{ "line.tsc= 1", "line.tsc" },
		{ "line.tsc=0x", "line.tsc" },
		{ "line.tsc=0x0x1", "line.tsc" },
		{ "line.tsc=", "line.tsc" },
		{ "line.tsc=1e3", "line.tsc" },
		{ "reference.ratio=0", "ratio" },
		{ "reference.frac_bits=64", "fraction bits" },
		{ "host.mantissa=1", "host slope" },
		{ "host.exponent=-32769", "host.exponent" },
		{ "time.tai_offset=0x7fffffff", "TAI offset" },
		{ "time.tai_offset=35", "CLOCK_TAI" },
		{ "time.boot_id=12", "time.boot_id" },
		{ "time.boot_id=0123456789abcdef0123456789abcdeg", "time.boot_id" },
		{ "time.max_error_ns=none", "or unknown" },
		{ "policy.snapshot=perhaps", "advance or freeze" },
		{ "policy.fall_back=1", "true or false" },
		{ "policy.holiday=freeze", "no field policy.holiday" },
		{ "wall_clock_msr=6", "not 4-byte aligned" },
		{ "system_time=1", "system time" },
		{ "vcpus.1.index=0", "ascending" },
		{ "vcpus.0.system_time_msr=0x1003", "not 4-byte aligned" },
		{ "vcpus.2.index=7", "no field vcpus.2.index" },
		{ "vcpus.x.index=7", "no field vcpus.x.index" },
		{ "vcpus.0=7", "no field vcpus.0" },
		{ "vcpu_count=3", "no field vcpu_count" },
	};
	const char *a = in_folder("a"), *b = in_folder("b");
	struct pvclock_record record;
	uint8_t before[ROOM], after[ROOM];
	unsigned int files;
	struct ran ran;
	size_t size;

	(void)state;
	seed_random(3);
	make(a, &record, 2);
	size = read_file(a, before, ROOM);
	unlink(b);
	files = files_in_folder();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		/* also where a good change stands beside it, and where another file is to be written */
		ran = run("record", "edit", in_folder("a"), "account.blackouts=9", cases[i].change, NULL);
		assert_sentence(&ran, cases[i].word);
		ran = run("record", "edit", in_folder("a"), cases[i].change, "--output", in_folder("b"), NULL);
		assert_sentence(&ran, cases[i].word);
		assert_int_equal(read_file(in_folder("a"), after, ROOM), size);
		assert_memory_equal(before, after, size);
	}
	assert_int_equal(files_in_folder(), files);
}

static void a_refused_json_leaves_the_file_alone(void **state)
{
	static const struct {
		const char *from, *to, *word;
	} cases[] = {
		{ "\"mul\": 3308755968", "\"mul\": 3308755968.0", "line.mul is no whole number" },
		{ "\"mul\": 3308755968", "\"mull\": 3308755968", "no line.mul" },
		{ "\"mul\": 3308755968", "\"mul\": 3308755968, \"more\": 1", "line.more" },
		{ "\"stable\": true", "\"stable\": 1", "stable is no true or false" },
		{ "\"stable\": true", "\"stable\": true, \"other\": {\"a\": 1}", "other" },
		{ "\"stable\": true", "\"stable\": true, \"stable\": true", "duplicate" },
		{ "\"index\": 2", "\"index\": \"2x\"", "vcpus.1" },
		{ "\"vcpus\": [", "\"vcpus\": [7,", "vcpus.0" },
		{ "{", "[", "no JSON" },
	};
	struct pvclock_record record;
	uint8_t before[ROOM], after[ROOM];
	const char *text;
	struct ran ran;
	size_t size;
	char *json;

	(void)state;
	seed_random(4);
	make(in_folder("a"), &record, 2);
	size = read_file(in_folder("a"), before, ROOM);
	ran = run("record", "show", "--json", in_folder("a"), NULL);
	json = strdup(ran.out);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char damaged[2 * ROOM];
		const char *at = strstr(json, cases[i].from);

		assert_non_null(at);
		snprintf(damaged, sizeof(damaged), "%.*s%s%s", (int)(at - json), json, cases[i].to, at + strlen(cases[i].from));
		write_file(in_folder("json"), damaged, strlen(damaged));
		ran = run("record", "edit", in_folder("a"), "--json-in", in_folder("json"), NULL);
		assert_sentence(&ran, cases[i].word);
		assert_int_equal(read_file(in_folder("a"), after, ROOM), size);
		assert_memory_equal(before, after, size);
	}
	text = "{\"vcpus\": []}";
	write_file(in_folder("json"), text, strlen(text));
	ran = run("record", "edit", in_folder("a"), "--json-in", in_folder("json"), NULL);
	assert_sentence(&ran, "no line.tsc");
	ran = run("record", "edit", in_folder("a"), "--json-in", in_folder("nowhere"), NULL);
	assert_sentence(&ran, "nowhere");
	free(json);
}

/* Each of many files, and not one of them fine. */
static void check_refuses_all(const char *const *arguments, size_t files)
{
	struct ran ran = run_list(arguments);
	json_t *json = json_of(&ran), *entry;
	size_t i;

	assert_int_equal(ran.code, 1);
	assert_int_equal(json_array_size(json), files);
	json_array_foreach(json, i, entry) {
		const char *text = text_at(entry, "reason.text");

		if (!json_is_false(at_path(entry, "fine")) || strlen(text) < 10 || text[strlen(text) - 1] != '.' ||
		    strchr(text, '\n') || strncmp(text_at(entry, "reason.code"), "record-", 7) != 0)
			fail_msg("%s: %s", text_at(entry, "file"), text);
	}
	json_decref(json);
}

/* All lengths and all bits: a sentence each. */
static void a_damaged_file_has_one_sentence(void **state)
{
	enum { BATCH = 600 };
	static char names[BATCH][96];
	const char *arguments[BATCH + 4] = { "record", "check", "--json" };
	struct pvclock_record record;
	uint8_t bytes[ROOM];
	size_t size, count = 0, done = 0;
	struct ran ran;

	(void)state;
	seed_random(5);
	make_record(&record, vcpus, 2);
	size = encode(&record, bytes, ROOM);
	for (size_t i = 0; i < size * 9; i++) {
		char name[16];

		snprintf(name, sizeof(name), "%zu", count);
		strcpy(names[count], in_folder(name));
		arguments[3 + count] = names[count];
		if (i < size) {
			write_file(names[count], bytes, i);
		} else {
			bytes[(i - size) / 8] ^= (uint8_t)(1u << (i - size) % 8);
			write_file(names[count], bytes, size);
			bytes[(i - size) / 8] ^= (uint8_t)(1u << (i - size) % 8);
		}
		count++;
		if (count < BATCH && i + 1 < size * 9)
			continue;
		arguments[3 + count] = NULL;
		check_refuses_all(arguments, count);
		done += count;
		/* by themselves */
		ran = run("record", "show", names[0], NULL);
		assert_sentence(&ran, names[0]);
		ran = run("record", "edit", names[count - 1], "stable=true", NULL);
		assert_sentence(&ran, names[count - 1]);
		count = 0;
	}
	assert_int_equal(done, size * 9);
	/* for a person it is one line */
	write_file(in_folder("a"), bytes, size - 1);
	ran = run("record", "check", in_folder("a"), NULL);
	assert_int_equal(ran.code, 1);
	assert_string_equal(ran.err, "");
	assert_true(strchr(ran.out, '\n') == ran.out + strlen(ran.out) - 1);
	write_file(in_folder("a"), bytes, size);
	ran = run("record", "check", in_folder("a"), NULL);
	assert_int_equal(ran.code, 0);
	assert_shows(&ran, "version 2, 2 vCPUs, 340 bytes: fine");
	/* what is no file at all */
	ran = run("record", "show", in_folder("nowhere"), NULL);
	assert_sentence(&ran, "No such file");
	ran = run("record", "show", in_folder("."), NULL);
	assert_sentence(&ran, "Is a directory");
}

/* --- within other files -------------------------------------------------------------------------------- */

static void a_record_is_found_in_another_file(void **state)
{
	uint8_t bytes[ROOM], file[3 * ROOM] = "pclkvmme";
	struct pvclock_record record;
	size_t size, at = 1237, whole = sizeof(file);
	struct ran ran;
	char *plain;

	(void)state;
	seed_random(6);
	make(in_folder("a"), &record, 3);
	size = read_file(in_folder("a"), bytes, ROOM);
	ran = run("record", "show", "--json", in_folder("a"), NULL);
	plain = strdup(ran.out);
	memcpy(file + 40, "PVCLKREC", 8); /* nothing whole is behind it */
	memcpy(file + at, bytes, size);
	write_file(in_folder("b"), file, whole);
	ran = run("record", "check", in_folder("b"), NULL);
	assert_int_equal(ran.code, 0);
	assert_shows(&ran, "version 2 at byte 1237, 3 vCPUs");
	ran = run("record", "show", "--json", in_folder("b"), NULL);
	assert_string_equal(ran.out, plain);
	free(plain);

	ran = run("record", "edit", in_folder("b"), "stable=false", NULL);
	assert_sentence(&ran, "--output");
	ran = run("record", "edit", in_folder("b"), "--output", in_folder("c"), NULL);
	assert_int_equal(ran.code, 0);
	assert_true(same_files(in_folder("a"), in_folder("c")));

	file[at + 100] ^= 1;
	write_file(in_folder("b"), file, whole);
	ran = run("record", "show", in_folder("b"), NULL);
	assert_sentence(&ran, "checksum");
	file[at + 100] ^= 1;
	memcpy(file + 5000, bytes, size);
	write_file(in_folder("b"), file, whole);
	ran = run("record", "show", in_folder("b"), NULL);
	assert_sentence(&ran, "more than one clock record, at bytes 1237 and 5000");
	memset(file, 0, whole);
	write_file(in_folder("b"), file, whole);
	ran = run("record", "show", in_folder("b"), NULL);
	assert_sentence(&ran, "no clock record");
	assert_int_equal(truncate(in_folder("b"), (64 << 20) + 1), 0);
	ran = run("record", "show", in_folder("b"), NULL);
	assert_sentence(&ran, "64 MB");
}

/* --- writing -------------------------------------------------------------------------------------------- */

static void a_file_is_replaced_as_it_stands(void **state)
{
	struct pvclock_record record;
	struct stat before, after;
	struct ran ran;

	(void)state;
	seed_random(7);
	make(in_folder("a"), &record, 1);
	unlink(in_folder("link"));
	assert_int_equal(chmod(in_folder("a"), 0640), 0);
	assert_int_equal(symlink("a", in_folder("link")), 0);
	assert_int_equal(stat(in_folder("a"), &before), 0);
	ran = run("record", "edit", in_folder("link"), "policy.snapshot=advance", "policy.advance_max_ns=none", NULL);
	assert_int_equal(ran.code, 0);
	assert_int_equal(lstat(in_folder("link"), &after), 0);
	assert_true(S_ISLNK(after.st_mode));
	assert_int_equal(stat(in_folder("a"), &after), 0);
	assert_int_equal(after.st_mode, before.st_mode);
	assert_int_not_equal(after.st_ino, before.st_ino); /* who has it open still reads the old one, whole */
	record.policy.on[PVCLOCK_BLACKOUT_SNAPSHOT] = PVCLOCK_ADVANCE;
	record.policy.advance_max_ns = UINT64_MAX;
	write_record(in_folder("b"), &record);
	assert_true(same_files(in_folder("a"), in_folder("b")));
	ran = run("record", "edit", in_folder("a"), "--output", "/dev/null", NULL);
	assert_sentence(&ran, "no regular file");
	ran = run("record", "edit", in_folder("a"), "--output", in_folder("nowhere/b"), NULL);
	assert_sentence(&ran, "No such file");
	unlink(in_folder("link"));
}

/* What the system time follows from may be edited alone. */
static void the_system_time_follows_an_edit(void **state)
{
	static const char *const changes[] = { "line.ns=77", "line.tsc=9", "time.at=0x4000000000001", "reference.offset=5" };
	struct pvclock_record record;
	struct ran ran;

	(void)state;
	seed_random(8);
	make(in_folder("a"), &record, 1);
	ran = run("record", "edit", in_folder("a"), changes[0], changes[1], changes[2], changes[3], NULL);
	assert_int_equal(ran.code, 0);
	record.line.ns = 77;
	record.line.tsc = 9;
	record.time.at.ticks = (1ull << 50) + 1;
	record.reference.offset = 5;
	set_system_time(&record);
	write_record(in_folder("b"), &record);
	assert_true(same_files(in_folder("a"), in_folder("b")));
	ran = run("record", "edit", in_folder("a"), "line.ns=78", "system_time=1", NULL);
	assert_sentence(&ran, "system time");
}

/* --- diff --------------------------------------------------------------------------------------------------- */

static json_t *diff(int code)
{
	struct ran ran = run("record", "diff", "--json", in_folder("a"), in_folder("b"), NULL);

	assert_int_equal(ran.code, code);
	return json_of(&ran);
}

static void two_records_are_compared_as_functions(void **state)
{
	struct pvclock_record record;
	struct ran ran;
	json_t *json;
	uint64_t tsc;

	(void)state;
	seed_random(9);
	make(in_folder("a"), &record, 2);
	make(in_folder("b"), &record, 2);
	write_record(in_folder("a"), &record);
	json = diff(0);
	assert_true(json_is_true(at_path(json, "alike")));
	assert_true(json_is_true(at_path(json, "functions.same")));
	assert_int_equal(json_array_size(at_path(json, "fields")), 0);
	json_decref(json);
	ran = run("record", "diff", in_folder("a"), in_folder("b"), NULL);
	assert_int_equal(ran.code, 0);
	assert_int_equal(strncmp(ran.out, "as functions  the same", 22), 0);

	/* later, re-anchored, on a host whose TSC was elsewhere, so that the offsets are others: one function */
	tsc = pvclock_tsc_to_guest(&record.reference, record.time.at).ticks + 3000000000;
	record.time.at.ticks = 1ull << 40;
	record.reference.offset += tsc - pvclock_tsc_to_guest(&record.reference, record.time.at).ticks;
	for (uint32_t i = 0; i < 2; i++)
		vcpus[i].tsc.offset = record.reference.offset + i * 1000;
	pvclock_line_reanchor(&record.line, tsc - 1000);
	set_system_time(&record);
	write_record(in_folder("b"), &record);
	json = diff(1);
	assert_true(json_is_true(at_path(json, "functions.same")));
	assert_int_equal(number_at(json, "functions.tsc"), tsc);
	assert_int_equal(number_at(json, "functions.apart_ns"), 0);
	assert_int_equal(number_at(json, "functions.slope_difference"), 0);
	assert_int_equal(json_array_size(at_path(json, "fields")), 7);
	assert_string_equal(text_at(json, "fields.0.field"), "line.tsc");
	assert_string_equal(text_at(json, "fields.6.field"), "vcpus.1.tsc.offset");
	json_decref(json);

	record.line.ns -= 5;
	record.line.mul += 1; /* 10^9 / 3308755968 ppb, and exact in 2^-64: 2^64 / mul */
	record.line.tsc = tsc;
	record.line.ns = pvclock_line_ns(&record.line, tsc);
	set_system_time(&record);
	write_record(in_folder("b"), &record);
	json = diff(1);
	assert_true(json_is_false(at_path(json, "functions.same")));
	assert_int_equal(number_at(json, "functions.slope_difference"), UINT64_MAX / 3308755968u);
	json_decref(json);
	ran = run("record", "diff", in_folder("a"), in_folder("b"), NULL);
	assert_int_equal(ran.code, 1);
	assert_shows(&ran, "its slope is +0.302228 ppb");
	ran = run("record", "diff", in_folder("a"), in_folder("nowhere"), NULL);
	assert_sentence(&ran, "nowhere");
}

/* A vCPU's deadline is told as the library reads it, by that vCPU's own TSC. */
static void show_tells_a_deadline_in_ns(void **state)
{
	struct pvclock_record record;
	char wanted[160];
	uint64_t now;
	struct ran ran;

	(void)state;
	seed_random(10);
	make_record(&record, vcpus, 2);
	now = pvclock_tsc_to_guest(&vcpus[0].tsc, record.time.at).ticks;
	vcpus[1].tsc_deadline = now; /* 1000 ticks ago there */
	write_record(in_folder("a"), &record);
	ran = run("record", "show", in_folder("a"), NULL);
	snprintf(wanted, sizeof(wanted), "TSC deadline %" PRIu64 ": %" PRIu64 " ns after the save by the line",
		 vcpus[0].tsc_deadline, pvclock_line_ns(&record.line, now + 260000) - pvclock_line_ns(&record.line, now));
	assert_shows(&ran, wanted);
	assert_shows(&ran, ": passed 1000 ticks before the save");
	assert_shows(&ran, "2026-11-21T14:29:22.000000000 UTC");
	assert_shows(&ran, "2026-11-21T14:29:59.000000000 TAI");
}

static void usage_errors_are_told(void **state)
{
	static const char *const cases[][6] = {
		{ "record" }, { "record", "nonsense" }, { "record", "show" }, { "record", "check" }, { "record", "edit" },
		{ "record", "edit", "a" }, { "record", "edit", "a", "stable" }, { "record", "diff", "a" },
		{ "record", "diff", "a", "b", "c" }, { "record", "edit", "--json", "a", "stable=true" },
		{ "record", "show", "--output", "a", "b" }, { "record", "--nonsense" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ran ran = run_list(cases[i]);

		assert_int_equal(ran.code, 2);
		assert_non_null(strstr(ran.err, "Try: pvclock record --help\n"));
	}
	assert_int_equal(run("record", "--help", NULL).code, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(json_loses_nothing),
		cmocka_unit_test(every_field_can_be_edited_and_is_shown),
		cmocka_unit_test(a_refused_edit_leaves_the_file_alone),
		cmocka_unit_test(a_refused_json_leaves_the_file_alone),
		cmocka_unit_test(a_damaged_file_has_one_sentence),
		cmocka_unit_test(a_record_is_found_in_another_file),
		cmocka_unit_test(a_file_is_replaced_as_it_stands),
		cmocka_unit_test(the_system_time_follows_an_edit),
		cmocka_unit_test(two_records_are_compared_as_functions),
		cmocka_unit_test(show_tells_a_deadline_in_ns),
		cmocka_unit_test(usage_errors_are_told),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
