/* SPDX-License-Identifier: MIT */
/* record_json.c - a record, and a host that one could come to, as JSON: the tables of their fields. */
#include "record.h"

#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define SLOPE_FIELDS(type, member)                                                 \
	{ #member ".mantissa", FIELD_U64, offsetof(struct type, member.mantissa), NULL }, \
	{ #member ".exponent", FIELD_I16, offsetof(struct type, member.exponent), NULL }

#define TSC_FIELDS(type, member)                                                     \
	{ #member ".ratio", FIELD_U64, offsetof(struct type, member.ratio), NULL },        \
	{ #member ".frac_bits", FIELD_U8, offsetof(struct type, member.frac_bits), NULL }, \
	{ #member ".offset", FIELD_U64, offsetof(struct type, member.offset), NULL }

#define TIME_FIELDS(type)                                                                                      \
	{ "time.at", FIELD_U64, offsetof(struct type, time.at.ticks), NULL },                                      \
	{ "time.bracket_ns", FIELD_U32, offsetof(struct type, time.bracket_ns), NULL },                            \
	{ "time.tai_ns", FIELD_U64, offsetof(struct type, time.tai_ns), NULL },                                    \
	{ "time.realtime_ns", FIELD_U64, offsetof(struct type, time.realtime_ns), NULL },                          \
	{ "time.boottime_ns", FIELD_U64, offsetof(struct type, time.boottime_ns), NULL },                          \
	{ "time.tai_offset", FIELD_I32, offsetof(struct type, time.tai_offset), NULL },                            \
	{ "time.max_error_ns", FIELD_U64, offsetof(struct type, time.max_error_ns), "unknown" },                   \
	{ "time.estimated_error_ns", FIELD_U64, offsetof(struct type, time.estimated_error_ns), "unknown" },       \
	{ "time.state", FIELD_U32, offsetof(struct type, time.state), NULL },                                      \
	{ "time.boot_id", FIELD_BOOT_ID, offsetof(struct type, time.boot_id), NULL }

#define PASSING_FIELD(name, blackout) \
	{ "policy." name, FIELD_PASSING, offsetof(struct pvclock_record, policy.on[blackout]), NULL }

#define ACCOUNT_FIELD(kind, member) \
	{ "account." #member, kind, offsetof(struct pvclock_record, account.member), NULL }

static const struct field of_record[] = {
	{ "line.tsc", FIELD_U64, offsetof(struct pvclock_record, line.tsc), NULL },
	{ "line.ns", FIELD_U64, offsetof(struct pvclock_record, line.ns), NULL },
	{ "line.mul", FIELD_U32, offsetof(struct pvclock_record, line.mul), NULL },
	{ "line.shift", FIELD_I8, offsetof(struct pvclock_record, line.shift), NULL },
	TSC_FIELDS(pvclock_record, reference),
	{ "stable", FIELD_FLAG, offsetof(struct pvclock_record, stable), NULL },
	{ "wall_clock_msr", FIELD_U64, offsetof(struct pvclock_record, wall_clock_msr), NULL },
	SLOPE_FIELDS(pvclock_record, host),
	TIME_FIELDS(pvclock_record),
	{ "system_time", FIELD_U64, offsetof(struct pvclock_record, system_time), NULL },
	PASSING_FIELD("pause", PVCLOCK_BLACKOUT_PAUSE),
	PASSING_FIELD("live-update", PVCLOCK_BLACKOUT_LIVE_UPDATE),
	PASSING_FIELD("migration", PVCLOCK_BLACKOUT_MIGRATION),
	PASSING_FIELD("snapshot", PVCLOCK_BLACKOUT_SNAPSHOT),
	PASSING_FIELD("suspend", PVCLOCK_BLACKOUT_SUSPEND),
	{ "policy.advance_max_ns", FIELD_U64, offsetof(struct pvclock_record, policy.advance_max_ns), "none" },
	{ "policy.fall_back", FIELD_FLAG, offsetof(struct pvclock_record, policy.fall_back), NULL },
	ACCOUNT_FIELD(FIELD_U64, blackouts),
	ACCOUNT_FIELD(FIELD_U64, counted_ns),
	ACCOUNT_FIELD(FIELD_U64, uncounted_ns),
	ACCOUNT_FIELD(FIELD_U64, rate_changes),
	ACCOUNT_FIELD(FIELD_U64, residual_ns_max),
	ACCOUNT_FIELD(FIELD_I64, moved_ticks),
	{ "account.error_ns", FIELD_U64, offsetof(struct pvclock_record, account.error_ns), "unknown" },
	{ "suspend_control", FIELD_U64, offsetof(struct pvclock_record, suspend_control), NULL },
	{ "suspend_msr", FIELD_U64, offsetof(struct pvclock_record, suspend_msr), NULL },
	{ "hyperv_tsc_page", FIELD_U64, offsetof(struct pvclock_record, hyperv_tsc_page), NULL },
	{ "hyperv_reenlightenment", FIELD_U64, offsetof(struct pvclock_record, hyperv_reenlightenment), NULL },
	{ "hyperv_emulation_control", FIELD_U64, offsetof(struct pvclock_record, hyperv_emulation_control), NULL },
	{ "hyperv_emulation_status", FIELD_U64, offsetof(struct pvclock_record, hyperv_emulation_status), NULL },
	{ "hyperv_invariant", FIELD_U64, offsetof(struct pvclock_record, hyperv_invariant), NULL },
	{ "hyperv.scale", FIELD_U64, offsetof(struct pvclock_record, hyperv.scale), NULL },
	{ "hyperv.offset", FIELD_I64, offsetof(struct pvclock_record, hyperv.offset), NULL },
	{ "hyperv_sequence", FIELD_U32, offsetof(struct pvclock_record, hyperv_sequence), NULL },
	{ "nested_control", FIELD_U64, offsetof(struct pvclock_record, nested_control), NULL },
	{ "nested_msr", FIELD_U64, offsetof(struct pvclock_record, nested_msr), NULL },
};

static const struct field of_vcpu[] = {
	{ "index", FIELD_U32, offsetof(struct pvclock_record_vcpu, index), NULL },
	{ "system_time_msr", FIELD_U64, offsetof(struct pvclock_record_vcpu, system_time_msr), NULL },
	{ "old_msrs", FIELD_FLAG, offsetof(struct pvclock_record_vcpu, old_msrs), NULL },
	{ "guest_stopped", FIELD_FLAG, offsetof(struct pvclock_record_vcpu, guest_stopped), NULL },
	TSC_FIELDS(pvclock_record_vcpu, tsc),
	{ "tsc_adjust", FIELD_U64, offsetof(struct pvclock_record_vcpu, tsc_adjust), NULL },
	{ "tsc_deadline", FIELD_U64, offsetof(struct pvclock_record_vcpu, tsc_deadline), NULL },
	{ "deadline_control", FIELD_U64, offsetof(struct pvclock_record_vcpu, deadline_control), NULL },
	{ "deadline_ns", FIELD_U64, offsetof(struct pvclock_record_vcpu, deadline_ns), NULL },
	{ "steal_msr", FIELD_U64, offsetof(struct pvclock_record_vcpu, steal_msr), NULL },
	{ "steal_ns", FIELD_U64, offsetof(struct pvclock_record_vcpu, steal_ns), NULL },
};

static const struct field of_destination[] = {
	SLOPE_FIELDS(pvclock_destination, host),
	{ "no_line.code", FIELD_REASON, offsetof(struct pvclock_destination, no_line.code), NULL },
	{ "no_line.text", FIELD_TEXT, offsetof(struct pvclock_destination, no_line.text), NULL },
	TIME_FIELDS(pvclock_destination),
	{ "tsc_offsets", FIELD_FLAG, offsetof(struct pvclock_destination, tsc_offsets), NULL },
	{ "frac_bits", FIELD_U8, offsetof(struct pvclock_destination, frac_bits), NULL },
	{ "ratio_max", FIELD_U64, offsetof(struct pvclock_destination, ratio_max), NULL },
	{ "kernel_publishes", FIELD_FLAG, offsetof(struct pvclock_destination, kernel_publishes), NULL },
	SLOPE_FIELDS(pvclock_destination, kernel),
	{ "kernel_aims_scaled", FIELD_FLAG, offsetof(struct pvclock_destination, kernel_aims_scaled), NULL },
};

const struct fields record_fields = { of_record, COUNT(of_record) };
const struct fields record_vcpu_fields = { of_vcpu, COUNT(of_vcpu) };
const struct fields destination_fields = { of_destination, COUNT(of_destination) };

json_t *record_to_json(const struct pvclock_record *record)
{
	json_t *json = fields_to_json(&record_fields, record), *vcpus = json_array();

	for (uint32_t i = 0; i < record->vcpu_count; i++)
		json_array_append_new(vcpus, fields_to_json(&record_vcpu_fields, &record->vcpus[i]));
	json_object_set_new(json, "vcpus", vcpus);
	return json;
}

bool record_from_json(const json_t *json, struct pvclock_record *out, struct sentence *why)
{
	static const char *const besides[] = { "vcpus", NULL };
	const json_t *vcpus = json_object_get(json, "vcpus");
	struct pvclock_record record = { .vcpu_count = (uint32_t)json_array_size(vcpus) };
	struct sentence inner;

	if (!fields_from_json(&record_fields, json, besides, &record, why))
		return false;
	if (!json_is_array(vcpus) || json_array_size(vcpus) == 0 || json_array_size(vcpus) > PVCLOCK_RECORD_VCPUS_MAX)
		return say(why, "The JSON's vcpus is no array of 1 to %u.", PVCLOCK_RECORD_VCPUS_MAX);
	record.vcpus = calloc(record.vcpu_count, sizeof(*record.vcpus));
	if (record.vcpus == NULL)
		return say(why, "Out of memory.");
	for (uint32_t i = 0; i < record.vcpu_count; i++) {
		if (fields_from_json(&record_vcpu_fields, json_array_get(vcpus, i), NULL, &record.vcpus[i], &inner))
			continue;
		free(record.vcpus);
		return say(why, "In vcpus.%u: %.300s", i, inner.text);
	}
	*out = record;
	return true;
}

const struct field *record_field(const struct pvclock_record *record, const char *path, void **object)
{
	unsigned long place;
	char *end;

	*object = (void *)record;
	if (strncmp(path, "vcpus.", 6) != 0)
		return field_find(&record_fields, path);
	path += 6;
	place = strtoul(path, &end, 10);
	if (*path < '0' || *path > '9' || *end != '.' || place >= record->vcpu_count)
		return NULL;
	*object = &record->vcpus[place];
	return field_find(&record_vcpu_fields, end + 1);
}

json_t *json_from_file(const char *path, struct sentence *why)
{
	bool standard_input = strcmp(path, "-") == 0;
	const size_t flags = JSON_REJECT_DUPLICATES;
	json_error_t error;
	json_t *json = standard_input ? json_loadf(stdin, flags, &error) : json_load_file(path, flags, &error);

	if (json == NULL && error.line > 0)
		say(why, "%s is no JSON: line %d: %s.", standard_input ? "The input" : path, error.line, error.text);
	else if (json == NULL)
		say(why, "%s.", error.text); /* names the file, and what the OS said */
	return json;
}
