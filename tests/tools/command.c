/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "command.h"

#include "../random.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static char folder[96];

int make_folder(void **state)
{
	(void)state;
	snprintf(folder, sizeof(folder), "%s/pvclock-command-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : P_tmpdir);
	return mkdtemp(folder) ? 0 : -1;
}

int remove_folder(void **state)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;

	(void)state;
	while (dir && (entry = readdir(dir)) != NULL)
		unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir)
		closedir(dir);
	return rmdir(folder);
}

const char *in_folder(const char *name)
{
	static char paths[8][160];
	static unsigned int next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

unsigned int files_in_folder(void)
{
	DIR *dir = opendir(folder);
	unsigned int count = 0;
	struct dirent *entry;

	assert_non_null(dir);
	while ((entry = readdir(dir)) != NULL)
		count += entry->d_name[0] != '.' && strcmp(entry->d_name, "out") != 0 && strcmp(entry->d_name, "err") != 0;
	closedir(dir);
	return count;
}

/* --- running ------------------------------------------------------------------------------- */

static char *read_text(const char *path)
{
	FILE *file = fopen(path, "re");
	char *text = NULL;
	size_t room = 0;

	assert_non_null(file);
	if (getdelim(&text, &room, '\0', file) < 0) {
		free(text);
		text = strdup("");
	}
	fclose(file);
	return text;
}

struct ran run_list(const char *const *arguments)
{
	static struct ran ran;
	const char *path = getenv("PVCLOCK");
	char in[112], out[112], err[112];
	posix_spawn_file_actions_t files;
	const char *argv[4096] = { path };
	size_t count = 1;
	int status;
	pid_t pid;

	while (*arguments && count < 4095)
		argv[count++] = *arguments++;
	snprintf(in, sizeof(in), "%s/in", folder);
	snprintf(out, sizeof(out), "%s/out", folder);
	snprintf(err, sizeof(err), "%s/err", folder);
	posix_spawn_file_actions_init(&files);
	/* what a test left under the name "in" */
	posix_spawn_file_actions_addopen(&files, 0, access(in, R_OK) == 0 ? in : "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&files, 1, out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	posix_spawn_file_actions_addopen(&files, 2, err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_non_null(path);
	assert_int_equal(posix_spawn(&pid, path, &files, NULL, (char **)argv, environ), 0);
	posix_spawn_file_actions_destroy(&files);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	free(ran.out);
	free(ran.err);
	ran = (struct ran){ .code = WEXITSTATUS(status), .out = read_text(out), .err = read_text(err) };
	return ran;
}

struct ran run(const char *argument, ...)
{
	const char *list[32] = { argument };
	va_list arguments;

	va_start(arguments, argument);
	for (size_t i = 1; i < 31 && (list[i] = va_arg(arguments, const char *)) != NULL; i++)
		;
	va_end(arguments);
	return run_list(list);
}

json_t *json_of(const struct ran *ran)
{
	json_error_t error;
	json_t *json = json_loads(ran->out, JSON_REJECT_DUPLICATES, &error);

	if (json == NULL)
		fail_msg("no JSON (%s): %s%s", error.text, ran->out, ran->err);
	return json;
}

json_t *at_path(json_t *json, const char *path)
{
	char copy[128], *rest = copy;

	snprintf(copy, sizeof(copy), "%s", path);
	for (char *key; json && (key = strsep(&rest, ".")) != NULL;)
		json = json_is_array(json) ? json_array_get(json, (size_t)atoi(key)) : json_object_get(json, key);
	if (json == NULL)
		fail_msg("no member %s", path);
	return json;
}

const char *text_at(json_t *json, const char *path)
{
	json_t *value = at_path(json, path);

	if (!json_is_string(value))
		fail_msg("%s is no string", path);
	return json_string_value(value);
}

uint64_t number_at(json_t *json, const char *path)
{
	json_t *value = at_path(json, path);
	char *end;
	uint64_t number;

	if (json_is_integer(value))
		return (uint64_t)json_integer_value(value);
	number = strtoull(text_at(json, path), &end, 10);
	assert_int_equal(*end, '\0');
	return number;
}

bool shows(const struct ran *ran, const char *text)
{
	char *flat = strdup(ran->out), *to = flat;
	bool found;

	for (const char *from = ran->out; *from; from++) {
		bool blank = *from == ' ' || *from == '\n';

		if (!blank || (to > flat && to[-1] != ' '))
			*to++ = blank ? ' ' : *from;
	}
	*to = '\0';
	found = strstr(flat, text) != NULL;
	free(flat);
	return found;
}

void assert_sentence(const struct ran *ran, const char *word)
{
	size_t length = strlen(ran->err);

	if (ran->code != 1 || ran->out[0] != '\0' || length < 10 || strchr(ran->err, '\n') != ran->err + length - 1 ||
	    ran->err[length - 2] != '.' || !strstr(ran->err, word))
		fail_msg("exit code %d, and no sentence with \"%s\": %s%s", ran->code, word, ran->out, ran->err);
}

/* --- files --------------------------------------------------------------------------------- */

void write_file(const char *path, const void *bytes, size_t size)
{
	FILE *file = fopen(path, "we");

	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, size, file), size);
	assert_int_equal(fclose(file), 0);
}

size_t read_file(const char *path, void *bytes, size_t room)
{
	FILE *file = fopen(path, "re");
	size_t size;

	assert_non_null(file);
	size = fread(bytes, 1, room, file);
	assert_true(size < room);
	fclose(file);
	return size;
}

size_t encode(const struct pvclock_record *record, void *bytes, size_t room)
{
	struct pvclock_reason reason;
	ssize_t length = pvclock_record_encode(record, bytes, room, &reason);

	if (length < 0)
		fail_msg("%s", reason.text);
	return (size_t)length;
}

void write_record(const char *path, const struct pvclock_record *record)
{
	uint8_t bytes[4096];

	write_file(path, bytes, encode(record, bytes, sizeof(bytes)));
}

bool same_files(const char *a, const char *b)
{
	uint8_t bytes_a[4096], bytes_b[4096];
	size_t size = read_file(a, bytes_a, 4096);

	return read_file(b, bytes_b, 4096) == size && memcmp(bytes_a, bytes_b, size) == 0;
}

/* --- records ------------------------------------------------------------------------------- */

static uint64_t state_of_random;

void seed_random(uint64_t seed)
{
	state_of_random = seed;
}

uint64_t random_u64(void)
{
	return splitmix64(&state_of_random);
}

void set_system_time(struct pvclock_record *record)
{
	record->system_time = pvclock_line_ns(&record->line, pvclock_tsc_to_guest(&record->reference, record->time.at).ticks);
}

static void make_vcpu(struct pvclock_record_vcpu *vcpu, uint32_t i, const struct pvclock_tsc_transform *tsc)
{
	*vcpu = (struct pvclock_record_vcpu){
		.index = 2 * i,
		.system_time_msr = 0x1000 + 64 * i + 1,
		.old_msrs = i % 2,
		.guest_stopped = i % 3 == 1,
		.tsc = *tsc,
		.tsc_adjust = random_u64(),
		.tsc_deadline = 0,
	};
	vcpu->tsc.offset += i * 1000;
}

void make_record(struct pvclock_record *record, struct pvclock_record_vcpu *vcpus, uint32_t vcpu_count)
{
	*record = (struct pvclock_record){
		.line = { .tsc = 5000000000 + random_u64() % 1000000000, .ns = random_u64() >> 8, .mul = 3308755968, .shift = -1 },
		.reference = { .ratio = 3ull << 31, .offset = 0 - (random_u64() >> 20), .frac_bits = 32 },
		.stable = true,
		.wall_clock_msr = 0x2000,
		.time = { .at = { 1ull << 50 }, .bracket_ns = 120, .tai_ns = 1795271362000000000 + 37000000000,
			  .realtime_ns = 1795271362000000000, .boottime_ns = random_u64() >> 12, .tai_offset = 37,
			  .max_error_ns = 1500000, .estimated_error_ns = 20000, .state = 0 },
		.policy = pvclock_policy_default(),
		.account = { .blackouts = 3, .counted_ns = 4, .uncounted_ns = 5, .rate_changes = 6, .residual_ns_max = 7,
			     .moved_ticks = -8, .error_ns = 9 },
		.suspend_control = 0x100010031,
		.suspend_msr = 0x3001,
		.hyperv_tsc_page = 0x7001,
		.hyperv_reenlightenment = 0x200010051,
		.hyperv_emulation_control = 1,
		.hyperv_invariant = 1,
		.hyperv = { 0x9d89d89d89d89d8, -271828 },
		.hyperv_sequence = 12,
		.nested_control = 0x300010061,
		.nested_msr = 0x9001,
		.vcpu_count = vcpu_count,
		.vcpus = vcpus,
	};
	record->policy.advance_max_ns = random_u64() >> 1;
	for (size_t i = 0; i < PVCLOCK_BOOT_ID_SIZE; i++)
		record->time.boot_id[i] = (uint8_t)(random_u64() | 1);
	assert_true(pvclock_slope_from_kernel(6462414, 24, &record->host));
	for (uint32_t i = 0; i < vcpu_count; i++) {
		make_vcpu(&vcpus[i], i, &record->reference);
		vcpus[i].deadline_control = 0x10041 + i;
		vcpus[i].steal_msr = 0x5001 + 64 * i;
		vcpus[i].steal_ns = 31415926535 + i;
	}
	vcpus[0].deadline_ns = 1234567890;
	vcpus[0].tsc_deadline = pvclock_tsc_to_guest(&vcpus[0].tsc, record->time.at).ticks + 260000;
	set_system_time(record);
}

static uint64_t pick_wide(void)
{
	static const uint64_t edges[] = { 0, 1, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX };
	uint64_t random = random_u64();

	return random % 4 == 0 ? edges[random / 4 % 5] : random_u64();
}

/* Of an interrupt: any that can be asked for, or none. */
static uint64_t pick_control(void)
{
	return random_u64() & 1 ? 1u << 16 | (16 + random_u64() % 240) : random_u64() % 256;
}

void make_file(const char *path, struct pvclock_record *record, struct pvclock_record_vcpu *vcpus, uint32_t vcpu_count)
{
	make_record(record, vcpus, vcpu_count);
	write_record(path, record);
}

void make_wild_record(struct pvclock_record *record, struct pvclock_record_vcpu *vcpus, uint32_t vcpu_count)
{
	make_record(record, vcpus, vcpu_count);
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
						    (int64_t)pick_wide(), pick_wide() };
	record->suspend_control = pick_control() | pick_wide() << 32;
	record->suspend_msr = (pick_wide() & ~7ull) | (random_u64() & 1);
	record->hyperv_tsc_page = pick_wide();
	record->hyperv_reenlightenment = pick_control() | pick_wide() << 32;
	record->hyperv_emulation_control = random_u64() & 1;
	record->hyperv_emulation_status = record->hyperv_emulation_control & random_u64();
	record->hyperv_invariant = random_u64() & 1;
	record->hyperv = (struct pvclock_hyperv_line){ pick_wide(), (int64_t)pick_wide() };
	record->hyperv_sequence = (uint32_t)random_u64() >> 1;
	record->nested_control = pick_control() | pick_wide() << 32;
	record->nested_msr = (pick_wide() & ~4095ull) | (random_u64() & 1);
	for (uint32_t i = 0; i < record->vcpu_count; i++) {
		record->vcpus[i].system_time_msr = pick_wide() & ~2ull;
		record->vcpus[i].old_msrs = random_u64() & 1;
		record->vcpus[i].guest_stopped = random_u64() & 1;
		record->vcpus[i].tsc_adjust = pick_wide();
		record->vcpus[i].tsc_deadline = pick_wide();
		record->vcpus[i].deadline_control = pick_control();
		record->vcpus[i].steal_msr = (pick_wide() & ~63ull) | (random_u64() & 1);
		record->vcpus[i].steal_ns = pick_wide();
		record->vcpus[i].deadline_ns = record->vcpus[i].deadline_control >> 16 ? pick_wide() : 0;
		if (random_u64() & 1)
			record->vcpus[i].tsc = pvclock_tsc_unscaled(pick_wide());
	}
	set_system_time(record);
}
