/* SPDX-License-Identifier: MIT */
/* record_edit_test.c - pvclock record edit: any field can be changed, and nothing is written that a restore would refuse. */
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

/* --- JSON ------------------------------------------------------------------------------------ */

/* JSON is the record: there and back again are the same bytes, also beyond 2^63. */
static void json_loses_nothing(void **state)
{
	const char *a = in_folder("a"), *b = in_folder("b"), *json = in_folder("json");
	struct pvclock_record record;

	(void)state;
	seed_random(1);
	make_file(b, &record, vcpus, 1);
	for (uint32_t i = 0; i < 40; i++) {
		struct ran ran;

		make_wild_record(&record, vcpus, 1 + i % VCPUS_MAX);
		write_record(a, &record);
		ran = run("record", "show", "--json", a, NULL);
		if (ran.code != 0)
			fail_msg("record %u of seed 1: %s", i, ran.err);
		write_file(json, ran.out, strlen(ran.out));
		ran = run("record", "edit", b, "--json-in", json, NULL);
		if (ran.code != 0 || !same_files(a, b))
			fail_msg("record %u of seed 1: %s", i, ran.err);
		/* there is nothing that cannot be told in words */
		ran = run("record", "show", a, NULL);
		assert_int_equal(ran.code, 0);
		assert_string_equal(ran.err, "");
		ran = run("record", "diff", a, b, NULL);
		assert_int_equal(ran.code, 0);
		assert_shows(&ran, "as functions the same");
	}
}

/* show | edit */
static void json_comes_through_a_pipe(void **state)
{
	struct pvclock_record record;
	struct ran ran;

	(void)state;
	seed_random(22);
	make_file(in_folder("b"), &record, vcpus, 1);
	make_file(in_folder("a"), &record, vcpus, 3);
	ran = run("record", "show", "--json", in_folder("a"), NULL);
	write_file(in_folder("in"), ran.out, strlen(ran.out));
	ran = run("record", "edit", in_folder("b"), "--json-in", "-", "stable=false", NULL);
	unlink(in_folder("in"));
	assert_int_equal(ran.code, 0);
	record.stable = false;
	write_record(in_folder("a"), &record);
	assert_true(same_files(in_folder("a"), in_folder("b")));
	ran = run("record", "edit", in_folder("b"), "--json-in", "-", NULL);
	assert_sentence(&ran, "The input is no JSON");
}

/* --- every field --------------------------------------------------------------------------------- */

static bool is_clock(const char *path)
{
	return strncmp(path, "line.", 5) == 0 || strncmp(path, "reference.", 10) == 0 || strcmp(path, "time.at") == 0;
}

/* An MSR of one bit. */
static bool is_bit(const char *path)
{
	return strncmp(path, "hyperv_emulation_", 17) == 0 || strcmp(path, "hyperv_invariant") == 0;
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
	else if (is_bit(path))
		snprintf(text, size, "%s", strcmp(json_string_value(value), "0") == 0 ? "1" : "0");
	else
		snprintf(text, size, "%" PRIu64, (uint64_t)strtoull(json_string_value(value), NULL, 10) +
			 (strcmp(path, "nested_msr") == 0 ? 4096 : 64)); /* aligned as well */
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
	make_file(in_folder("a"), &record, vcpus, 2);
	ran = run("record", "show", in_folder("a"), NULL);
	assert_int_equal(ran.code, 0);
	shown = strdup(strchr(ran.out, '\n'));
	ran = run("record", "show", "--json", in_folder("a"), NULL);
	json = json_of(&ran);
	/* as many as the structs have, but for vcpu_count */
	assert_int_equal(edit_all("", json, json, shown), 48 + 2 * 13);
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
	make_file(a, &record, vcpus, 2);
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
	make_file(in_folder("a"), &record, vcpus, 2);
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

/* --- writing -------------------------------------------------------------------------------------------- */

static void a_file_is_replaced_as_it_stands(void **state)
{
	struct pvclock_record record;
	struct stat before, after;
	struct ran ran;

	(void)state;
	seed_random(7);
	make_file(in_folder("a"), &record, vcpus, 1);
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
	make_file(in_folder("a"), &record, vcpus, 1);
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

/* --- an older record -------------------------------------------------------------------------------------- */

static uint32_t crc32_of(const uint8_t *bytes, size_t size)
{
	uint32_t crc = ~0u;

	for (size_t i = 0; i < 8 * size; i++) {
		crc ^= i % 8 == 0 ? bytes[i / 8] : 0u;
		crc = crc >> 1 ^ (0xedb88320u & -(crc & 1));
	}
	return ~crc;
}

/* Version 1 is the beginning of today's, of the whole and of each vCPU. */
static size_t make_version_1(const struct pvclock_record *record, uint8_t *bytes)
{
	uint8_t whole[ROOM];
	uint32_t length = 116 + 36 * record->vcpu_count, crc;

	encode(record, whole, ROOM);
	memcpy(bytes, whole, 116);
	for (uint32_t i = 0; i < record->vcpu_count; i++)
		memcpy(bytes + 116 + 36 * i, whole + 336 + 84 * i, 36);
	bytes[8] = 1;
	memcpy(bytes + 12, &length, 4);
	memset(bytes + 16, 0, 4);
	crc = crc32_of(bytes, length);
	memcpy(bytes + 16, &crc, 4);
	return length;
}

static void what_version_1_did_not_say_is_unknown(void **state)
{
	struct pvclock_record record;
	uint8_t bytes[ROOM];
	struct ran ran;

	(void)state;
	seed_random(18);
	make_record(&record, vcpus, 2);
	write_file(in_folder("a"), bytes, make_version_1(&record, bytes));
	ran = run("record", "check", in_folder("a"), NULL);
	assert_int_equal(ran.code, 0);
	assert_shows(&ran, "a clock record of version 1, 2 vCPUs, 188 bytes: fine");
	ran = run("record", "show", in_folder("a"), NULL);
	assert_int_equal(ran.code, 0);
	assert_shows(&ran, "maximum unknown, estimated unknown; not kept in time by anybody");
	assert_shows(&ran, "boot unknown");
	/* an edit writes it as today's version, with the default policy */
	ran = run("record", "edit", in_folder("a"), "stable=false", NULL);
	assert_int_equal(ran.code, 0);
	record.stable = false;
	record.time = (struct pvclock_host_time){ .at = record.time.at, .realtime_ns = record.time.realtime_ns,
						  .max_error_ns = PVCLOCK_ERROR_UNKNOWN,
						  .estimated_error_ns = PVCLOCK_ERROR_UNKNOWN, .state = 5 };
	record.policy = pvclock_policy_default();
	record.account = (struct pvclock_account){ .error_ns = PVCLOCK_ERROR_UNKNOWN };
	record.suspend_control = record.suspend_msr = record.nested_control = record.nested_msr = 0;
	record.hyperv_tsc_page = record.hyperv_reenlightenment = record.hyperv_emulation_control = record.hyperv_emulation_status =
		record.hyperv_invariant = 0;
	record.hyperv = (struct pvclock_hyperv_line){ 0 };
	record.hyperv_sequence = 0;
	for (uint32_t i = 0; i < 2; i++)
		vcpus[i].tsc_adjust = vcpus[i].tsc_deadline = vcpus[i].deadline_control = vcpus[i].deadline_ns =
			vcpus[i].steal_msr = vcpus[i].steal_ns = 0;
	write_record(in_folder("b"), &record);
	assert_true(same_files(in_folder("a"), in_folder("b")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(json_loses_nothing),
		cmocka_unit_test(json_comes_through_a_pipe),
		cmocka_unit_test(every_field_can_be_edited_and_is_shown),
		cmocka_unit_test(a_refused_edit_leaves_the_file_alone),
		cmocka_unit_test(a_refused_json_leaves_the_file_alone),
		cmocka_unit_test(a_file_is_replaced_as_it_stands),
		cmocka_unit_test(the_system_time_follows_an_edit),
		cmocka_unit_test(what_version_1_did_not_say_is_unknown),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
