/* SPDX-License-Identifier: MIT */
/* record.c - pvclock record: a saved clock, looked at, checked, edited and compared. */
#define _GNU_SOURCE
#include "record.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int complain(const char *path, const struct sentence *why)
{
	fprintf(stderr, "pvclock record: %s: %s\n", path, why->text);
	return EXIT_LACKING;
}

struct options {
	bool json;
	const char *json_in, *output;
};

/* --- show ---------------------------------------------------------------------------------- */

static int show(char **paths, int count, const struct options *options)
{
	int code = EXIT_FINE;

	for (int i = 0; i < count; i++) {
		struct record_file file;
		struct sentence why;

		if (!record_file_read(paths[i], &file, &why)) {
			code = complain(paths[i], &why);
			continue;
		}
		if (options->json)
			print_json(record_to_json(&file.record));
		else
			print_record(paths[i], &file);
		record_file_clear(&file);
	}
	return code;
}

/* --- check --------------------------------------------------------------------------------- */

static json_t *check_to_json(const char *path, const struct record_file *file, bool fine, const struct sentence *why)
{
	json_t *json = json_object(), *reason;

	set_text(json, "file", path);
	set_flag(json, "fine", fine);
	if (fine) {
		set_number(json, "version", file->version);
		set_number(json, "at", file->at);
		set_number(json, "length", file->length);
		set_number(json, "vcpus", file->record.vcpu_count);
		return json;
	}
	reason = json_object();
	set_text(reason, "code", pvclock_reason_name(file->code));
	set_text(reason, "text", why->text);
	json_object_set_new(json, "reason", reason);
	return json;
}

static void print_check(const char *path, const struct record_file *file, bool fine, const struct sentence *why)
{
	char place[48] = "";

	if (fine && !record_file_plain(file))
		snprintf(place, sizeof(place), " at byte %zu", file->at);
	if (fine)
		printf("%s: a clock record of version %" PRIu32 "%s, %" PRIu32 " vCPU%s, %zu bytes: fine\n", path, file->version,
		       place, file->record.vcpu_count, file->record.vcpu_count == 1 ? "" : "s", file->length);
	else
		printf("%s: %s\n", path, why->text);
}

static int check(char **paths, int count, const struct options *options)
{
	json_t *all = json_array();
	int code = EXIT_FINE;

	for (int i = 0; i < count; i++) {
		struct record_file file;
		struct sentence why;
		bool fine = record_file_read(paths[i], &file, &why);

		if (options->json)
			json_array_append_new(all, check_to_json(paths[i], &file, fine, &why));
		else
			print_check(paths[i], &file, fine, &why);
		record_file_clear(&file);
		code = fine ? code : EXIT_LACKING;
	}
	if (options->json)
		print_json(all);
	else
		json_decref(all);
	return code;
}

/* --- edit ---------------------------------------------------------------------------------- */

/* Everything that the system time at the save follows from. */
static bool same_clock(const struct pvclock_record *a, const struct pvclock_record *b)
{
	return a->line.tsc == b->line.tsc && a->line.ns == b->line.ns && a->line.mul == b->line.mul &&
	       a->line.shift == b->line.shift && a->reference.ratio == b->reference.ratio &&
	       a->reference.frac_bits == b->reference.frac_bits && a->reference.offset == b->reference.offset &&
	       a->time.at.ticks == b->time.at.ticks;
}

static bool load_json(const char *path, struct pvclock_record *record, struct sentence *why)
{
	json_t *json = json_from_file(path, why);
	struct pvclock_record next;
	bool fine = json && record_from_json(json, &next, why);

	json_decref(json);
	if (!fine)
		return false;
	pvclock_record_clear(record);
	*record = next;
	return true;
}

static bool change(struct pvclock_record *record, const char *change, bool *time_given, struct sentence *why)
{
	const char *equals = strchr(change, '=');
	const struct field *field;
	char path[64];
	void *object;

	snprintf(path, sizeof(path), "%.*s", (int)(equals - change), change);
	field = record_field(record, path, &object);
	if (field == NULL)
		return say(why, "A record has no field %s; pvclock record show --json has their names, as in line.tsc or "
			   "vcpus.0.tsc_deadline.", path);
	*time_given = *time_given || strcmp(path, "system_time") == 0;
	return field_parse(field, object, equals + 1, why);
}

static bool change_all(struct pvclock_record *record, char **changes, int count, const struct options *options,
		       struct sentence *why)
{
	struct pvclock_record old = *record; /* its vCPUs are not looked at */
	bool time_given = false;

	if (options->json_in && !load_json(options->json_in, record, why))
		return false;
	for (int i = 0; i < count; i++)
		if (!change(record, changes[i], &time_given, why))
			return false;
	if (!time_given && record->system_time == old.system_time && !same_clock(record, &old))
		record->system_time = pvclock_line_ns(&record->line,
						      pvclock_tsc_to_guest(&record->reference, record->time.at).ticks);
	return true;
}

static int edit(char **arguments, int count, const struct options *options)
{
	const char *path = arguments[0], *output = options->output ? options->output : path;
	struct record_file file;
	struct sentence why;
	bool fine;

	for (int i = 1; i < count; i++) {
		if (strchr(arguments[i], '=') != NULL)
			continue;
		fprintf(stderr, "pvclock record edit: %s is no KEY=VALUE\n", arguments[i]);
		return usage_error("record");
	}
	if (count == 1 && !options->json_in && !options->output) {
		fprintf(stderr, "pvclock record edit: nothing to change: give KEY=VALUE, --json-in or --output\n");
		return usage_error("record");
	}
	if (!record_file_read(path, &file, &why))
		return complain(path, &why);
	fine = change_all(&file.record, arguments + 1, count - 1, options, &why) &&
	       record_file_write(output, &file, !options->output && !record_file_plain(&file), &why);
	record_file_clear(&file);
	return fine ? EXIT_FINE : complain(path, &why);
}

/* --- diff ---------------------------------------------------------------------------------- */

static int diff(char **paths, int count, const struct options *options)
{
	struct record_file files[2];
	struct sentence why;
	bool alike;

	(void)count;
	if (!record_file_read(paths[0], &files[0], &why))
		return complain(paths[0], &why);
	if (!record_file_read(paths[1], &files[1], &why)) {
		record_file_clear(&files[0]);
		return complain(paths[1], &why);
	}
	alike = print_difference(&files[0].record, &files[1].record, options->json);
	record_file_clear(&files[0]);
	record_file_clear(&files[1]);
	return alike ? EXIT_FINE : EXIT_LACKING;
}

/* --- the command ------------------------------------------------------------------------------ */

static const struct verb {
	const char *name;
	int (*run)(char **arguments, int count, const struct options *options);
	int least, most; /* arguments */
	bool json, changes; /* takes --json; takes --json-in and --output */
} verbs[] = {
	{ "show", show, 1, INT32_MAX, true, false },
	{ "check", check, 1, INT32_MAX, true, false },
	{ "edit", edit, 1, INT32_MAX, false, true },
	{ "diff", diff, 2, 2, true, false },
};

static void print_help(void)
{
	puts("Usage: pvclock record show [--json] FILE...\n"
	     "       pvclock record check [--json] FILE...\n"
	     "       pvclock record edit FILE [KEY=VALUE]... [--json-in FILE] [--output FILE]\n"
	     "       pvclock record diff [--json] A B\n\n"
	     "A VM's saved clock, in a file of its own or within a VMM's: shown, checked, changed, compared. KEY is a name "
	     "as in\n"
	     "show --json: policy.snapshot=advance, policy.advance_max_ns=none, vcpus.0.tsc_deadline=0.\n\n"
	     "  --json          print JSON\n"
	     "  --json-in FILE  take everything from JSON as show --json prints it (-: standard input)\n"
	     "  --output FILE   leave the first file as it is, and write this one\n\n"
	     "Exit code: 0 if all is fine (diff: alike), 1 if not, 2 for a usage error.");
}

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (strcmp(verbs[i].name, name) == 0)
			return &verbs[i];
	return NULL;
}

int record_command(int argc, char **argv)
{
	static const struct option known[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "json-in", required_argument, NULL, 'i' },
		{ "output", required_argument, NULL, 'o' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct options options = { 0 };
	const struct verb *verb;
	int option;

	while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
		switch (option) {
		case 'j':
			options.json = true;
			break;
		case 'i':
			options.json_in = optarg;
			break;
		case 'o':
			options.output = optarg;
			break;
		case 'h':
			print_help();
			return EXIT_FINE;
		default:
			return usage_error("record");
		}
	}
	argc -= optind;
	argv += optind;
	verb = argc > 0 ? find_verb(argv[0]) : NULL;
	if (verb == NULL) {
		fprintf(stderr, "pvclock record: say show, check, edit or diff%s%s\n", argc > 0 ? ", and not " : "",
			argc > 0 ? argv[0] : "");
		return usage_error("record");
	}
	if (argc - 1 < verb->least || argc - 1 > verb->most) {
		fprintf(stderr, "pvclock record %s: it takes %s\n", verb->name,
			verb->most == 2 ? "two files" : "at least one file");
		return usage_error("record");
	}
	if ((options.json && !verb->json) || ((options.json_in || options.output) && !verb->changes)) {
		fprintf(stderr, "pvclock record %s: it takes no %s\n", verb->name,
			verb->json ? "--json-in and no --output" : "--json");
		return usage_error("record");
	}
	return verb->run(argv + 1, argc - 1, &options);
}
