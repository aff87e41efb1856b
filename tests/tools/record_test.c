/* SPDX-License-Identifier: MIT */
/* record_test.c - pvclock record: what is no record is told in one sentence, and two records are compared as functions. */
#define _GNU_SOURCE
#include "command.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROOM 4096

static struct pvclock_record_vcpu vcpus[VCPUS_MAX];

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
	assert_shows(&ran, "version 4, 2 vCPUs, 504 bytes: fine");
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
	make_file(in_folder("a"), &record, vcpus, 3);
	size = read_file(in_folder("a"), bytes, ROOM);
	ran = run("record", "show", "--json", in_folder("a"), NULL);
	plain = strdup(ran.out);
	memcpy(file + 40, "PVCLKREC", 8); /* nothing whole is behind it */
	memcpy(file + at, bytes, size);
	write_file(in_folder("b"), file, whole);
	ran = run("record", "check", in_folder("b"), NULL);
	assert_int_equal(ran.code, 0);
	assert_shows(&ran, "version 4 at byte 1237, 3 vCPUs");
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

/* A snapshot of our VMM, of a guest that wrote a record into its own memory: only the state counts, and is all that is read. */
static void a_guest_cannot_plant_a_record(void **state)
{
	enum { STATE = 64 + 16, LENGTH = 4096, MEMORY = STATE + LENGTH };
	static const uint64_t header[] = { 2ull << 32 | 1, 1ull << 30, 1, LENGTH, 0, 0, 0 }, extent[] = { 4096, 8192 };
	uint8_t file[MEMORY + 8192] = "pvmmsnpt";
	struct pvclock_record record;
	struct ran ran;

	(void)state;
	seed_random(19);
	memcpy(file + 8, header, sizeof(header));
	memcpy(file + 64, extent, sizeof(extent));
	make_record(&record, vcpus, 2);
	encode(&record, file + STATE + 48, ROOM - 48);
	make_record(&record, vcpus, 1);
	encode(&record, file + MEMORY, ROOM);
	write_file(in_folder("a"), file, sizeof(file));
	assert_int_equal(truncate(in_folder("a"), 100 << 20), 0);
	ran = run("record", "check", in_folder("a"), NULL);
	assert_int_equal(ran.code, 0);
	assert_shows(&ran, "version 4 at byte 128, 2 vCPUs");
	/* its state is none that is known, so nothing is written into it */
	ran = run("record", "edit", in_folder("a"), "policy.snapshot=advance", NULL);
	assert_sentence(&ran, "another release");
	write_record(in_folder("b"), &record); /* a vCPU less */
	ran = run("record", "show", "--json", in_folder("b"), NULL);
	write_file(in_folder("json"), ran.out, strlen(ran.out));
	ran = run("record", "edit", in_folder("a"), "--json-in", in_folder("json"), NULL);
	assert_sentence(&ran, "would take");
	/* one that says it is larger than it is */
	write_file(in_folder("a"), file, STATE + 100);
	ran = run("record", "show", in_folder("a"), NULL);
	assert_sentence(&ran, "no clock record");
	memset(file + 24, 0xff, 16);
	write_file(in_folder("a"), file, STATE + 1000);
	ran = run("record", "check", in_folder("a"), NULL);
	assert_int_equal(ran.code, 0);
	ran = run("record", "edit", in_folder("a"), "policy.snapshot=advance", NULL);
	assert_sentence(&ran, "sums of its own");
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
	make_file(in_folder("a"), &record, vcpus, 2);
	make_file(in_folder("b"), &record, vcpus, 2);
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
	assert_shows(&ran, "TSC page at 0x7000, sequence 12");
	assert_shows(&ran, "re-enlightenment: vector 0x51 of APIC 2");
	assert_shows(&ran, "a new TSC is acknowledged (");
	assert_shows(&ran, "told at 0x9000");
}

/* Each vCPU by its own TSC, and Hyper-V's reference time by the first's, at the save. */
static void show_tells_how_far_clocks_are_apart(void **state)
{
	struct pvclock_record record;
	char wanted[160];
	uint64_t tsc, other;
	int64_t ns;
	struct ran ran;

	(void)state;
	seed_random(11);
	make_record(&record, vcpus, 2);
	assert_true(pvclock_line_to_hyperv(&record.line, &record.hyperv));
	write_record(in_folder("a"), &record);
	tsc = pvclock_tsc_to_guest(&vcpus[0].tsc, record.time.at).ticks;
	ns = (int64_t)(pvclock_hyperv_time(&record.hyperv, tsc) * 100 - record.system_time);
	assert_in_range(ns + 100, 0, 202);
	ran = run("record", "show", in_folder("a"), NULL);
	snprintf(wanted, sizeof(wanted), "apart at the save vCPUs 0 ns at most; Hyper-V %+" PRId64 " ns from the first (one clock", ns);
	assert_shows(&ran, wanted);

	record.hyperv.offset += 3;
	vcpus[1].tsc.ratio++; /* another rate: its line, which is shifted by the offset alone, is another clock */
	write_record(in_folder("a"), &record);
	other = pvclock_tsc_to_guest(&vcpus[1].tsc, record.time.at).ticks - (vcpus[1].tsc.offset - record.reference.offset);
	assert_true(pvclock_line_ns(&record.line, other) > record.system_time + 1000);
	ran = run("record", "show", in_folder("a"), NULL);
	snprintf(wanted, sizeof(wanted), "vCPUs %" PRIu64 " ns at most; Hyper-V %+" PRId64 " ns from the first (not one clock",
		 pvclock_line_ns(&record.line, other) - record.system_time, ns + 300);
	assert_shows(&ran, wanted);

	record.hyperv.scale = 0; /* the guest was never told */
	record.hyperv.offset = 0;
	write_record(in_folder("a"), &record);
	ran = run("record", "show", in_folder("a"), NULL);
	assert_shows_not(&ran, "Hyper-V +");
	assert_shows_not(&ran, "Hyper-V -");
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
		cmocka_unit_test(a_damaged_file_has_one_sentence),
		cmocka_unit_test(a_record_is_found_in_another_file),
		cmocka_unit_test(a_guest_cannot_plant_a_record),
		cmocka_unit_test(two_records_are_compared_as_functions),
		cmocka_unit_test(show_tells_a_deadline_in_ns),
		cmocka_unit_test(show_tells_how_far_clocks_are_apart),
		cmocka_unit_test(usage_errors_are_told),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
