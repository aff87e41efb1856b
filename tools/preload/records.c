/* SPDX-License-Identifier: MIT */
/*
 * records.c - what a VMM does not carry: the policy, what was done to the clock so far, and when it was saved. It goes into a
 * file beside, in the folder that PVCLOCK_RECORDS names, at each stop. The file's name is what the first vCPU's TSC read
 * then: the VMM carries that, so whoever gets the VM finds its record, and no other. Without one the clock is the same
 * function all the same, and counts nothing of the blackout.
 */
#define _GNU_SOURCE
#include "policy_words.h"
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RECORD_BYTES_MAX (1u << 20)

static void follow_words(struct vm *vm, const char *words)
{
	struct pvclock_reason reason = { 0 };
	int error;

	passing++; /* a file of ours */
	error = policy_from_words(&vm->policy, words, &reason);
	passing--;
	if (error)
		say("PVCLOCK_POLICY is not followed: %s", reason.text);
	pvclock_vm_set_policy(vm->clock, &vm->policy);
}

void vm_set_policy(struct vm *vm)
{
	const char *words = getenv("PVCLOCK_POLICY");

	/* as QEMU has it: a VM that comes from elsewhere goes on from where it was */
	vm->policy = pvclock_policy_default();
	vm->policy.on[PVCLOCK_BLACKOUT_MIGRATION] = PVCLOCK_FREEZE;
	vm->has_policy = words != NULL && *words != '\0';
	follow_words(vm, vm->has_policy ? words : "");
}

void vm_reread_policy(struct vm *vm)
{
	const char *words = getenv("PVCLOCK_POLICY");

	if (words != NULL && *words == '@')
		follow_words(vm, words);
}

static bool path_of(uint64_t tsc, const char *ending, char path[PATH_MAX])
{
	const char *folder = getenv("PVCLOCK_RECORDS");

	return folder != NULL && *folder != '\0' &&
	       snprintf(path, PATH_MAX, "%s/%016llx.pvclock%s", folder, (unsigned long long)tsc, ending) < PATH_MAX;
}

/* Whole, or not at all. 0 or -errno. */
static int write_file(uint64_t tsc, const void *bytes, size_t size)
{
	char path[PATH_MAX], temp[PATH_MAX];
	int fd, error = 0;

	path_of(tsc, "", path);
	if (!path_of(tsc, ".part", temp))
		return -ENAMETOOLONG;
	fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (write(fd, bytes, size) != (ssize_t)size)
		error = errno ? -errno : -EIO;
	passing++;
	if (close(fd) != 0 && error == 0)
		error = -errno;
	passing--;
	if (error == 0 && rename(temp, path) != 0)
		error = -errno;
	if (error)
		unlink(temp);
	return error;
}

/* What the VMM carries is as of the hold, and so is the record: the moment until it was made is the blackout's. */
static void date_back(const struct vm *vm, struct pvclock_record *record)
{
	uint64_t ticks = record->time.at.ticks - vm->hold.ticks, ns;
	struct pvclock_line line;

	if (record->time.at.ticks < vm->hold.ticks || !pvclock_line_make(&line, 0, 0, &vm->host, NULL))
		return;
	ns = pvclock_line_ns(&line, ticks);
	record->time.at = vm->hold;
	record->time.tai_ns -= ns;
	record->time.realtime_ns -= ns;
	record->time.boottime_ns -= ns;
	record->system_time = pvclock_line_ns(&record->line, pvclock_tsc_to_guest(&record->reference, vm->hold).ticks);
}

void vm_keep_record(struct vm *vm)
{
	uint64_t tsc = vcpu_tsc_at(vm->vcpus[0], vm->hold);
	struct pvclock_record record;
	struct pvclock_reason reason;
	char path[PATH_MAX];
	void *bytes = NULL;
	ssize_t length;
	int error;

	if (!path_of(tsc, "", path) || pvclock_kvm_save(vm->kvm, &record) != 0)
		return;
	date_back(vm, &record);
	bytes = malloc(pvclock_record_size(&record));
	length = bytes ? pvclock_record_encode(&record, bytes, pvclock_record_size(&record), &reason) : -ENOMEM;
	error = length < 0 ? (int)length : write_file(tsc, bytes, (size_t)length);
	if (error)
		say("no record was written to %s (%s); whoever gets this VM does not count the blackout.", path, strerror(-error));
	free(bytes);
	pvclock_record_clear(&record);
}

/* --- the other side ------------------------------------------------------------------------------ */

/* 0, -ENOENT, or -errno with a reason. */
static int read_record(uint64_t tsc, struct pvclock_record *record, struct pvclock_reason *reason)
{
	char path[PATH_MAX];
	uint8_t *bytes;
	ssize_t length;
	int fd, error;

	if (!path_of(tsc, "", path))
		return -ENOENT;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	bytes = malloc(RECORD_BYTES_MAX);
	length = bytes ? read(fd, bytes, RECORD_BYTES_MAX) : -1;
	error = length < 0 ? -EIO : pvclock_record_decode(bytes, (size_t)length, record, reason);
	free(bytes);
	passing++;
	close(fd);
	passing--;
	return error;
}

/* The record's clock is the page's: the same function at the tick of the switch, as nearly as the page tells it, and the same rate. */
static bool same_clock(const struct pvclock_plan *plan, const struct pvclock_line *line, uint64_t tsc, uint64_t within_ns)
{
	const struct pvclock_line *known = &plan->at.old;
	uint64_t a = pvclock_line_ns(known, tsc), b = pvclock_line_ns(line, tsc);

	return known->mul == line->mul && known->shift == line->shift && a - b + within_ns <= 2 * within_ns;
}

static void take(struct vm *vm, const struct pvclock_record *record)
{
	pvclock_vm_count(vm->clock, &record->account);
	vm_take_registrations(vm, record);
	if (vm->has_policy)
		return;
	vm->policy = record->policy;
	pvclock_vm_set_policy(vm->clock, &vm->policy);
}

bool vm_take_record(struct vm *vm, uint64_t first_tsc, const struct pvclock_line *line, uint64_t within_ns,
		    struct pvclock_plan *plan, struct pvclock_host_time *now)
{
	enum pvclock_blackout blackout = vm->started ? PVCLOCK_BLACKOUT_SNAPSHOT : PVCLOCK_BLACKOUT_MIGRATION;
	struct pvclock_destination here = { .host = vm->host, .tsc_offsets = true };
	struct pvclock_reason reason = { 0 };
	struct pvclock_record record;
	int error = read_record(first_tsc, &record, &reason);
	bool taken = false;

	if (error == -ENOENT)
		return false;
	if (error) {
		say("this VM's record is not used, and nothing of the blackout is counted: %s",
		    reason.text[0] != '\0' ? reason.text : strerror(-error));
		return false;
	}
	if (vm->has_policy)
		record.policy = vm->policy;
	error = pvclock_host_time_read(&vm->os, &here.time);
	if (error == 0)
		error = pvclock_plan_make(&record, &here, blackout, plan, &reason);
	if (error)
		say("this VM's record is not used, and nothing of the blackout is counted: %s",
		    reason.text[0] != '\0' ? reason.text : strerror(-error));
	else if (!same_clock(plan, line, first_tsc, within_ns))
		say("this VM's record tells of another clock than its page and is not used; nothing of the blackout is counted.");
	else
		taken = true;
	if (taken) {
		take(vm, &record);
		*now = here.time;
	}
	pvclock_record_clear(&record);
	return taken;
}
