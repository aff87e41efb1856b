/* SPDX-License-Identifier: MIT */
/*
 * record_diff.c - two records: field by field, and as what they are, functions. Two records of one clock have few fields in
 * common (every save has another time, and an anchor may have moved), and still read the same at every tick.
 */
#define _GNU_SOURCE
#include "record.h"

#include <inttypes.h>
#include <string.h>

/* A line by the first vCPU's TSC. */
struct function {
	struct pvclock_line line;
	uint64_t offset; /* of that TSC against the line's */
};

struct comparison {
	bool same; /* from the later save on, bit for bit */
	uint64_t tsc; /* the first vCPU's at the later save */
	int64_t apart_ns; /* there, B against A */
	int64_t slope; /* B against A, in units of 2^-64 */
};

static struct function function_of(const struct pvclock_record *record)
{
	return (struct function){ record->line, record->vcpus[0].tsc.offset - record->reference.offset };
}

static void compare_functions(const struct pvclock_record *a, const struct pvclock_record *b, struct comparison *found)
{
	uint64_t tsc_a = record_tsc(a, 0), tsc_b = record_tsc(b, 0), tsc = tsc_a > tsc_b ? tsc_a : tsc_b;
	struct function fa = function_of(a), fb = function_of(b);
	struct pvclock_slope slope_a, slope_b;

	found->tsc = tsc;
	found->apart_ns = (int64_t)(record_ns(b, 0, tsc) - record_ns(a, 0, tsc));
	found->slope = 0;
	if (pvclock_slope_from_line(&a->line, &slope_a) && pvclock_slope_from_line(&b->line, &slope_b))
		found->slope = pvclock_slope_difference(&slope_b, &slope_a);
	/* Moving an anchor so changes no reading: two lines that are one function meet in one anchor. */
	pvclock_line_reanchor(&fa.line, tsc - fa.offset);
	pvclock_line_reanchor(&fb.line, tsc - fb.offset);
	found->same = fa.line.tsc + fa.offset == fb.line.tsc + fb.offset && fa.line.ns == fb.line.ns &&
		      fa.line.mul == fb.line.mul && fa.line.shift == fb.line.shift;
}

struct differences {
	json_t *json; /* NULL: print */
	size_t count;
};

static void add(struct differences *differences, const char *path, const char *a, const char *b)
{
	differences->count++;
	if (differences->json)
		json_array_append_new(differences->json, json_pack("{s:s, s:s, s:s}", "field", path, "a", a, "b", b));
	else
		printf("%-28s %s  %s\n", path, a, b);
}

static void compare_fields(struct differences *differences, const struct fields *fields, const char *prefix, const void *a,
			   const void *b)
{
	char path[96], text_a[FIELD_TEXT_SIZE], text_b[FIELD_TEXT_SIZE];

	for (size_t i = 0; i < fields->count; i++) {
		field_print(&fields->field[i], a, text_a);
		field_print(&fields->field[i], b, text_b);
		snprintf(path, sizeof(path), "%s%s", prefix, fields->field[i].path);
		if (strcmp(text_a, text_b) != 0)
			add(differences, path, text_a, text_b);
	}
}

static void compare_vcpus(struct differences *differences, const struct pvclock_record *a, const struct pvclock_record *b)
{
	char prefix[32], text_a[32], text_b[32];

	for (uint32_t i = 0; i < a->vcpu_count && i < b->vcpu_count; i++) {
		snprintf(prefix, sizeof(prefix), "vcpus.%" PRIu32 ".", i);
		compare_fields(differences, &record_vcpu_fields, prefix, &a->vcpus[i], &b->vcpus[i]);
	}
	if (a->vcpu_count == b->vcpu_count)
		return;
	snprintf(text_a, sizeof(text_a), "%" PRIu32, a->vcpu_count);
	snprintf(text_b, sizeof(text_b), "%" PRIu32, b->vcpu_count);
	add(differences, "vcpus", text_a, text_b);
}

static void print_functions(const struct comparison *found)
{
	if (found->same)
		print_item("as functions", "the same: every reading from guest TSC %" PRIu64 " on, the later save", found->tsc);
	else
		print_item("as functions", "at guest TSC %" PRIu64 ", the later save, the second reads %+" PRId64
			   " ns against the first; its slope is %+.6f ppb against the first's", found->tsc, found->apart_ns,
			   to_ppb(found->slope));
}

static json_t *functions_to_json(const struct comparison *found)
{
	char tsc[24];
	json_t *json = json_object();

	snprintf(tsc, sizeof(tsc), "%" PRIu64, found->tsc);
	set_flag(json, "same", found->same);
	set_text(json, "tsc", tsc);
	json_object_set_new(json, "apart_ns", json_integer(found->apart_ns));
	json_object_set_new(json, "slope_difference", json_integer(found->slope));
	set_real(json, "slope_ppb", to_ppb(found->slope));
	return json;
}

bool print_difference(const struct pvclock_record *a, const struct pvclock_record *b, bool json)
{
	struct differences differences = { .json = json ? json_array() : NULL };
	struct comparison found;
	json_t *object;

	compare_fields(&differences, &record_fields, "", a, b);
	compare_vcpus(&differences, a, b);
	compare_functions(a, b, &found);
	if (!json) {
		print_functions(&found);
		return differences.count == 0;
	}
	object = json_object();
	set_flag(object, "alike", differences.count == 0);
	json_object_set_new(object, "functions", functions_to_json(&found));
	json_object_set_new(object, "fields", differences.json);
	print_json(object);
	return differences.count == 0;
}
