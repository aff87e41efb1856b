/* SPDX-License-Identifier: MIT */
/* preflight_test.c - pvclock preflight: what it says is what pvclock_plan_make decides, number by number. */
#define _GNU_SOURCE
#include "command.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NS_PER_SEC 1000000000ull
#define HOST_MULT 6462414u /* of 2^24: a TSC of 2.596 GHz */

static struct pvclock_record_vcpu vcpus[VCPUS_MAX];

/* --- a host in a file ----------------------------------------------------------------------- */

static void set_wide(json_t *object, const char *key, uint64_t value)
{
	char digits[24];

	snprintf(digits, sizeof(digits), "%" PRIu64, value);
	json_object_set_new(object, key, json_string(digits));
}

static json_t *slope_to_json(const struct pvclock_slope *slope)
{
	json_t *json = json_object();

	set_wide(json, "mantissa", slope->mantissa);
	json_object_set_new(json, "exponent", json_integer(slope->exponent));
	return json;
}

static json_t *time_to_json(const struct pvclock_host_time *time)
{
	json_t *json = json_object();
	char id[2 * PVCLOCK_BOOT_ID_SIZE + 1];

	for (size_t i = 0; i < PVCLOCK_BOOT_ID_SIZE; i++)
		snprintf(id + 2 * i, 3, "%02x", time->boot_id[i]);
	set_wide(json, "at", time->at.ticks);
	json_object_set_new(json, "bracket_ns", json_integer(time->bracket_ns));
	set_wide(json, "tai_ns", time->tai_ns);
	set_wide(json, "realtime_ns", time->realtime_ns);
	set_wide(json, "boottime_ns", time->boottime_ns);
	json_object_set_new(json, "tai_offset", json_integer(time->tai_offset));
	set_wide(json, "max_error_ns", time->max_error_ns);
	set_wide(json, "estimated_error_ns", time->estimated_error_ns);
	json_object_set_new(json, "state", json_integer(time->state));
	json_object_set_new(json, "boot_id", json_string(id));
	return json;
}

static void write_destination(const char *path, const struct pvclock_destination *destination)
{
	json_t *json = json_object(), *no_line = json_object();

	json_object_set_new(no_line, "code", json_string(pvclock_reason_name(destination->no_line.code)));
	json_object_set_new(no_line, "text", json_string(destination->no_line.text));
	json_object_set_new(json, "host", slope_to_json(&destination->host));
	json_object_set_new(json, "no_line", no_line);
	json_object_set_new(json, "time", time_to_json(&destination->time));
	json_object_set_new(json, "tsc_offsets", json_boolean(destination->tsc_offsets));
	json_object_set_new(json, "frac_bits", json_integer(destination->frac_bits));
	set_wide(json, "ratio_max", destination->ratio_max);
	json_object_set_new(json, "kernel_publishes", json_boolean(destination->kernel_publishes));
	json_object_set_new(json, "kernel", slope_to_json(&destination->kernel));
	json_object_set_new(json, "kernel_aims_scaled", json_boolean(destination->kernel_aims_scaled));
	assert_int_equal(json_dump_file(json, path, 0), 0);
	json_decref(json);
}

/* --- the property ------------------------------------------------------------------------------ */

static void assert_line(json_t *json, const struct pvclock_line *line)
{
	assert_int_equal(number_at(json, "tsc"), line->tsc);
	assert_int_equal(number_at(json, "ns"), line->ns);
	assert_int_equal(number_at(json, "mul"), line->mul);
	assert_int_equal((int64_t)number_at(json, "shift"), line->shift);
}

static void assert_bound(json_t *json, const char *path, uint64_t bound)
{
	if (bound == PVCLOCK_ERROR_UNKNOWN)
		assert_string_equal(text_at(json, path), "unknown");
	else
		assert_int_equal(number_at(json, path), bound);
}

static void assert_vcpus(json_t *json, const struct pvclock_record *record, const struct pvclock_plan *plan)
{
	assert_int_equal(json_array_size(json), record->vcpu_count);
	for (uint32_t i = 0; i < record->vcpu_count; i++) {
		json_t *vcpu = json_array_get(json, i);
		uint64_t tsc, deadline;

		pvclock_plan_vcpu(record, plan, i, &tsc, &deadline);
		assert_int_equal(number_at(vcpu, "index"), record->vcpus[i].index);
		assert_int_equal(number_at(vcpu, "tsc"), tsc);
		assert_int_equal(number_at(vcpu, "tsc_deadline"), deadline);
		assert_int_equal(json_object_get(vcpu, "fires_in_ns") != NULL, deadline != 0);
		if (deadline && deadline <= tsc)
			assert_int_equal(number_at(vcpu, "fires_in_ns"), 0);
	}
}

/* Never back; and 1 ns only where the new line keeps a fraction that the old one floors away. */
static void assert_jump(uint64_t jump, const struct pvclock_plan *plan)
{
	assert_int_equal(jump, pvclock_line_ns(&plan->at.line, plan->at.tsc) - pvclock_line_ns(&plan->at.old, plan->at.tsc));
	assert_true(jump <= !plan->at.exact);
}

static void assert_plan(json_t *json, const struct pvclock_record *record, const struct pvclock_destination *destination,
			const struct pvclock_plan *plan)
{
	/* a host that ignores offsets has none */
	int64_t jump = plan->tsc_kept ? 0 :
		       (int64_t)(pvclock_tsc_to_guest(&plan->ratio, destination->time.at).ticks - plan->at.tsc);

	assert_string_equal(text_at(json, "precision"), pvclock_precision_name(plan->precision));
	assert_string_equal(text_at(json, "as"), pvclock_blackout_name(plan->blackout));
	assert_int_equal(json_is_true(at_path(json, "takes")), plan->precision != PVCLOCK_LEGACY);
	assert_string_equal(text_at(json, "elapsed.by"), pvclock_timescale_name(plan->elapsed.by));
	assert_int_equal(number_at(json, "elapsed.measured_ns"), plan->elapsed.measured_ns);
	assert_int_equal(number_at(json, "elapsed.ns"), plan->elapsed.ns);
	assert_bound(json, "elapsed.bound_ns", plan->elapsed.bound_ns);
	assert_int_equal(number_at(json, "counted_ns"), plan->counted_ns);
	assert_bound(json, "bound_ns", plan->bound_ns);
	assert_int_equal(json_is_true(at_path(json, "capped")), plan->capped);
	assert_line(at_path(json, "clock.old"), &plan->at.old);
	assert_line(at_path(json, "clock.line"), &plan->at.line);
	assert_int_equal(number_at(json, "clock.ns"), pvclock_line_ns(&plan->at.line, plan->at.tsc));
	assert_int_equal(json_is_true(at_path(json, "clock.exact")), plan->at.exact);
	assert_int_equal(number_at(json, "clock.rate_difference"), plan->at.rate_difference);
	if (plan->precision == PVCLOCK_LEGACY)
		assert_true(json_is_null(at_path(json, "clock.jump_ns")));
	else
		assert_jump(number_at(json, "clock.jump_ns"), plan);
	assert_int_equal(number_at(json, "tsc.tsc"), plan->at.tsc);
	assert_int_equal(number_at(json, "tsc.counted_ticks"), plan->counted_ticks);
	assert_int_equal(json_is_true(at_path(json, "tsc.kept")), plan->tsc_kept);
	assert_int_equal((int64_t)number_at(json, "tsc.jump_ticks"), jump);
	assert_int_equal(number_at(json, "tsc.rate_difference"), plan->tsc_rate_difference);
	assert_int_equal(number_at(json, "tsc.ratio"), plan->ratio.ratio);
	assert_int_equal(number_at(json, "tsc.frac_bits"), plan->ratio.frac_bits);
	assert_int_equal(number_at(json, "tsc.khz"), plan->tsc_khz);
	assert_int_equal(number_at(json, "deadlines"), plan->deadlines);
	assert_int_equal(number_at(json, "deadlines_past"), plan->deadlines_past);
	assert_vcpus(at_path(json, "vcpus"), record, plan);
}

static struct ran preflight(enum pvclock_blackout blackout)
{
	return run("preflight", in_folder("record"), "--destination", in_folder("host"), "--as", pvclock_blackout_name(blackout),
		   "--json", NULL);
}

/* The command and the library on one record and one host. True: there is a plan. */
static bool compare(const struct pvclock_record *record, const struct pvclock_destination *destination,
		    enum pvclock_blackout blackout, struct pvclock_plan *plan)
{
	struct pvclock_reason reason;
	int error = pvclock_plan_make(record, destination, blackout, plan, &reason);
	struct ran ran;
	json_t *json;

	write_record(in_folder("record"), record);
	write_destination(in_folder("host"), destination);
	ran = preflight(blackout);
	assert_string_equal(ran.err, "");
	json = json_of(&ran);
	if (error) {
		assert_int_equal(ran.code, 1);
		assert_true(json_is_false(at_path(json, "takes")));
		assert_string_equal(text_at(json, "reason.code"), pvclock_reason_name(reason.code));
		assert_string_equal(text_at(json, "reason.text"), reason.text);
	} else {
		assert_int_equal(ran.code, plan->precision == PVCLOCK_LEGACY ? 1 : 0);
		assert_plan(json, record, destination, plan);
	}
	json_decref(json);
	return error == 0;
}

/* --- hosts ------------------------------------------------------------------------------------------ */

/* Unscaled, with the host's own slope: as own mode saves it. 500 ticks into a deadline. */
static void plain_record(struct pvclock_record *record)
{
	make_record(record, vcpus, 2);
	record->reference = pvclock_tsc_unscaled(0 - (1ull << 49));
	vcpus[0].tsc = vcpus[1].tsc = record->reference;
	record->line.tsc = 1ull << 40;
	vcpus[0].tsc_deadline = (1ull << 49) + 26000;
	record->policy.advance_max_ns = UINT64_MAX;
	set_system_time(record);
}

/* Two seconds later, on another boot, by TAI. */
static void plain_host(struct pvclock_destination *destination, const struct pvclock_record *record)
{
	*destination = (struct pvclock_destination){ .host = record->host, .time = record->time, .tsc_offsets = true };
	destination->time.at.ticks = 12345678;
	destination->time.tai_ns += 2 * NS_PER_SEC;
	destination->time.realtime_ns += 2 * NS_PER_SEC;
	memset(destination->time.boot_id, 7, PVCLOCK_BOOT_ID_SIZE);
}

static void plain(uint64_t seed, struct pvclock_record *record, struct pvclock_destination *destination)
{
	seed_random(seed);
	plain_record(record);
	plain_host(destination, record);
}

static void the_command_says_what_the_library_decides(void **state)
{
	static const enum pvclock_blackout as[] = { PVCLOCK_BLACKOUT_MIGRATION, PVCLOCK_BLACKOUT_SNAPSHOT,
						    PVCLOCK_BLACKOUT_LIVE_UPDATE };
	unsigned int plans = 0, precisions[3] = { 0 };

	(void)state;
	seed_random(11);
	for (unsigned int i = 0; i < 120; i++) {
		struct pvclock_destination destination;
		struct pvclock_record record;
		struct pvclock_plan plan;
		uint64_t bits = random_u64();

		if (bits & 1)
			plain_record(&record);
		else
			make_record(&record, vcpus, 1 + (uint32_t)(bits >> 8) % VCPUS_MAX);
		for (uint32_t j = 0; j < record.vcpu_count; j++)
			vcpus[j].tsc_deadline = random_u64() & 1 ? 0 : vcpus[0].tsc_deadline + random_u64() % 20000000000 - 5000000000;
		plain_host(&destination, &record);
		destination.time.tai_ns += random_u64() % (100 * NS_PER_SEC) - 10 * NS_PER_SEC;
		if (bits & 2)
			assert_true(pvclock_slope_from_khz(1000000 + random_u64() % 4000000, &destination.host));
		if (bits & 4)
			destination.frac_bits = bits & 8 ? 32 : 48;
		if (bits & 16)
			destination.time.tai_offset = 0;
		if (bits & 32)
			destination.time.max_error_ns = PVCLOCK_ERROR_UNKNOWN;
		if (bits & 64)
			memcpy(destination.time.boot_id, record.time.boot_id, PVCLOCK_BOOT_ID_SIZE);
		destination.time.boottime_ns += random_u64() % (50 * NS_PER_SEC);
		if (bits & 128)
			destination.time.at.ticks = record.time.at.ticks + random_u64() % 50000000000;
		destination.tsc_offsets = (bits >> 16 & 3) != 0;
		destination.kernel_publishes = (bits >> 18 & 3) == 0;
		destination.kernel_aims_scaled = bits >> 27 & 1;
		destination.kernel = destination.host;
		if ((bits >> 20 & 7) == 0) {
			destination.host = destination.kernel = (struct pvclock_slope){ 0 };
			destination.no_line.code = PVCLOCK_REASON_CLOCKSOURCE;
			strcpy(destination.no_line.text, "The kernel keeps time by hpet.");
		}
		record.policy.fall_back = bits >> 23 & 1;
		record.policy.advance_max_ns = bits >> 24 & 1 ? UINT64_MAX : random_u64() % (100 * NS_PER_SEC);
		record.policy.on[PVCLOCK_BLACKOUT_MIGRATION] = bits >> 25 & 1 ? PVCLOCK_ADVANCE : PVCLOCK_FREEZE;
		record.policy.on[PVCLOCK_BLACKOUT_SNAPSHOT] = bits >> 26 & 1 ? PVCLOCK_ADVANCE : PVCLOCK_FREEZE;
		if (!compare(&record, &destination, as[(bits >> 30) % 3], &plan))
			continue;
		plans++;
		precisions[plan.precision]++;
	}
	/* the cases are worth something: all three kinds, and refusals */
	if (plans == 120 || precisions[0] < 5 || precisions[1] < 5 || precisions[2] < 2)
		fail_msg("%u plans: %u exact, %u continued, %u legacy", plans, precisions[0], precisions[1], precisions[2]);
}

/* Any valid record, on any host: the numbers agree there, too. */
static void a_wild_record_is_planned_alike(void **state)
{
	unsigned int plans = 0;

	(void)state;
	seed_random(20);
	for (unsigned int i = 0; i < 75; i++) {
		struct pvclock_destination destination;
		struct pvclock_record record;
		struct pvclock_plan plan;

		make_wild_record(&record, vcpus, 1 + i % VCPUS_MAX);
		for (uint32_t j = 1; i % 4 != 0 && j < record.vcpu_count; j++) { /* ratios that differ are refused */
			vcpus[j].tsc.ratio = vcpus[0].tsc.ratio;
			vcpus[j].tsc.frac_bits = vcpus[0].tsc.frac_bits;
		}
		plain_host(&destination, &record);
		destination.time.at.ticks = random_u64();
		destination.time.boottime_ns = random_u64();
		destination.time.tai_ns = random_u64();
		destination.time.realtime_ns = random_u64();
		if (i % 4) { /* centuries are refused */
			destination.time.tai_ns = record.time.tai_ns + random_u64() % (1ull << 55);
			destination.time.realtime_ns = record.time.realtime_ns + random_u64() % (1ull << 55);
		}
		destination.frac_bits = i % 3 == 0 ? 48 : 0;
		destination.tsc_offsets = i % 2;
		destination.kernel_publishes = i % 5 == 0;
		destination.kernel_aims_scaled = i % 15 == 0;
		assert_true(pvclock_slope_from_khz(1 + random_u64() % 10000000, &destination.kernel));
		plans += compare(&record, &destination, i % 2 ? PVCLOCK_BLACKOUT_MIGRATION : PVCLOCK_BLACKOUT_SNAPSHOT, &plan);
	}
	assert_true(plans > 20);
}

/* --- by hand -------------------------------------------------------------------------------------------- */

static void the_same_rate_is_exact(void **state)
{
	struct pvclock_destination destination;
	struct pvclock_record record;
	struct pvclock_plan plan;
	struct ran ran;

	(void)state;
	plain(12, &record, &destination);
	assert_true(compare(&record, &destination, PVCLOCK_BLACKOUT_MIGRATION, &plan));
	assert_int_equal(plan.precision, PVCLOCK_EXACT);
	assert_int_equal(plan.counted_ns, 2 * NS_PER_SEC);
	assert_int_equal(plan.bound_ns, 1500000 + 1500000 + 120 + 120);
	assert_int_equal(plan.deadlines_past, 1);
	ran = run("preflight", in_folder("record"), "--destination", in_folder("host"), NULL);
	assert_int_equal(ran.code, 0);
	assert_shows(&ran, "yes: that host takes it exactly, in own mode");
	assert_shows(&ran, "elapsed 2.000000000 s since the save, by tai, error at most 3000240 ns");
	assert_shows(&ran, "counted 2.000000000 s (a migration; its policy says advance), error at most 3000240 ns");
	assert_shows(&ran, "jump: 0 ns rate: ");
	assert_shows(&ran, "rate: unchanged, +0.000000 ppb per guest tick");
	assert_shows(&ran, "its offset is kept");
	assert_shows(&ran, "1 armed, 1 of them past by the switch");
	assert_shows(&ran, "1 TSC deadline passed by the switch and fires at once.");

	/* an operator asks: and if the policy were another? The record is as it was. */
	ran = run("preflight", in_folder("record"), "--destination", in_folder("host"), "--policy", "migration=freeze", NULL);
	assert_int_equal(ran.code, 0);
	assert_shows(&ran, "counted 0.000000000 s (a migration; its policy says freeze), error at most 0 ns");
	ran = run("preflight", in_folder("record"), "--destination", in_folder("host"), "--policy", "advance_max_ns=500000000", NULL);
	assert_int_equal(ran.code, 0);
	assert_shows(&ran, "0.500000000 s (a migration; its policy says advance, with a bound)");
	assert_shows(&ran, "1500000000 ns behind");

	/* a clock that is behind */
	destination.time.tai_ns -= 5 * NS_PER_SEC;
	destination.time.realtime_ns -= 5 * NS_PER_SEC;
	assert_true(compare(&record, &destination, PVCLOCK_BLACKOUT_MIGRATION, &plan));
	assert_int_equal(plan.elapsed.measured_ns, -3 * (int64_t)NS_PER_SEC);
	ran = run("preflight", in_folder("record"), "--destination", in_folder("host"), NULL);
	assert_shows(&ran, "3000000000 ns behind");
}

/* Half the rate and no scaling: twice the ns a tick, and half the TSC. */
static void another_rate_is_continued(void **state)
{
	struct pvclock_destination destination;
	struct pvclock_record record;
	struct pvclock_plan plan;
	struct ran ran;

	(void)state;
	seed_random(13);
	plain_record(&record);
	vcpus[0].tsc_deadline += 4 * 2596123456ull; /* 4 s, more or less */
	plain_host(&destination, &record);
	assert_true(pvclock_slope_from_kernel(2 * HOST_MULT, 24, &destination.host));
	assert_true(compare(&record, &destination, PVCLOCK_BLACKOUT_MIGRATION, &plan));
	assert_int_equal(plan.precision, PVCLOCK_CONTINUED);
	assert_int_equal(plan.ratio.frac_bits, 0);
	assert_int_equal(plan.deadlines, 1);
	assert_int_equal(plan.deadlines_past, 0);
	ran = run("preflight", in_folder("record"), "--destination", in_folder("host"), NULL);
	assert_int_equal(ran.code, 0);
	assert_shows(&ran, "takes it and continues it");
	assert_shows(&ran, "a CPU with TSC scaling keeps it.");
	assert_shows(&ran, "1 armed, 0 of them past");

	/* the same host with SVM's scaling, to the kHz that KVM takes: floor(2^32 * 2596119 / 1298060) */
	destination.frac_bits = 32;
	assert_true(compare(&record, &destination, PVCLOCK_BLACKOUT_MIGRATION, &plan));
	assert_int_equal(plan.tsc_khz, pvclock_rate_khz(&record.host));
	assert_int_equal(plan.ratio.ratio, ((uint64_t)plan.tsc_khz << 32) / pvclock_rate_khz(&destination.host));
	ran = run("preflight", in_folder("record"), "--destination", in_folder("host"), NULL);
	assert_int_equal(ran.code, 0);
	assert_shows(&ran, "TSC scaled to ");
	assert_shows_not(&ran, "a CPU with TSC scaling");
}

/* A record of steer mode has the kernel's line, which is not how the TSC runs: 73 ppb here, and the TSC is the same. */
static void a_kernels_line_is_not_the_tscs_rate(void **state)
{
	struct pvclock_destination destination;
	struct pvclock_record record;
	struct pvclock_plan plan;

	(void)state;
	seed_random(21);
	plain_record(&record);
	assert_true(pvclock_line_make(&record.line, 1ull << 40, 9, &record.host, NULL));
	record.line.mul += 243; /* of 3308755968 */
	set_system_time(&record);
	plain_host(&destination, &record);
	destination.kernel_publishes = true;
	assert_true(pvclock_slope_from_line(&record.line, &destination.kernel));
	assert_true(compare(&record, &destination, PVCLOCK_BLACKOUT_MIGRATION, &plan));
	assert_int_equal(plan.precision, PVCLOCK_EXACT);
	assert_int_equal(plan.tsc_rate_difference, 0);
	destination.kernel_publishes = false;
	assert_true(compare(&record, &destination, PVCLOCK_BLACKOUT_MIGRATION, &plan));
	assert_int_equal(plan.precision, PVCLOCK_CONTINUED);
	assert_int_equal(plan.tsc_rate_difference, 0);
	assert_int_equal(plan.at.rate_difference / 18446744074, -73);
}

static void a_host_without_a_line_needs_leave(void **state)
{
	struct pvclock_destination destination;
	struct pvclock_record record;
	struct pvclock_plan plan;
	struct ran ran;

	(void)state;
	plain(14, &record, &destination);
	destination.host.mantissa = 0;
	destination.no_line.code = PVCLOCK_REASON_CLOCKSOURCE;
	strcpy(destination.no_line.text, "The kernel keeps time by hpet.");
	assert_false(compare(&record, &destination, PVCLOCK_BLACKOUT_MIGRATION, &plan));
	ran = run("preflight", in_folder("record"), "--destination", in_folder("host"), NULL);
	assert_int_equal(ran.code, 1);
	assert_shows(&ran, "verdict no: This host cannot keep the clock as a function: The kernel keeps time by hpet.");
	assert_shows(&ran, "(policy.fall_back).");
	ran = run("preflight", in_folder("record"), "--destination", in_folder("host"), "--policy", "fall_back=true", NULL);
	assert_int_equal(ran.code, 1);
	assert_shows(&ran, "only with a loss");
	assert_shows(&ran, "precision legacy");
	record.policy.fall_back = true;
	assert_true(compare(&record, &destination, PVCLOCK_BLACKOUT_MIGRATION, &plan));
}

static void a_live_update_stays_on_its_boot(void **state)
{
	struct pvclock_destination destination;
	struct pvclock_record record;
	struct pvclock_plan plan;

	(void)state;
	plain(15, &record, &destination);
	assert_false(compare(&record, &destination, PVCLOCK_BLACKOUT_LIVE_UPDATE, &plan));
	memcpy(destination.time.boot_id, record.time.boot_id, PVCLOCK_BOOT_ID_SIZE);
	destination.time.at.ticks = record.time.at.ticks + 2596123456;
	assert_true(compare(&record, &destination, PVCLOCK_BLACKOUT_LIVE_UPDATE, &plan));
	assert_int_equal(plan.elapsed.by, PVCLOCK_BY_TSC);
	assert_int_equal(plan.counted_ticks, 2596123456);
}

static void what_is_asked_wrongly_is_told(void **state)
{
	static const char *const usage[][8] = {
		{ "preflight" }, { "preflight", "a", "b" }, { "preflight", "a", "--as", "pause" }, { "preflight", "a", "--mode", "stock" },
		{ "preflight", "a", "--destination", "b", "--mode", "own" }, { "preflight", "a", "--destination", "b", "--kvm", "/dev/kvm" },
		{ "preflight", "--print-destination", "a" }, { "preflight", "--nonsense" },
	};
	struct pvclock_destination destination;
	struct pvclock_record record;
	struct ran ran;

	(void)state;
	for (size_t i = 0; i < sizeof(usage) / sizeof(usage[0]); i++) {
		ran = run_list(usage[i]);
		assert_int_equal(ran.code, 2);
		assert_non_null(strstr(ran.err, "Try: pvclock preflight --help\n"));
	}
	assert_int_equal(run("preflight", "--help", NULL).code, 0);
	plain(16, &record, &destination);
	write_record(in_folder("record"), &record);
	write_destination(in_folder("host"), &destination);
	assert_int_equal(run("preflight", in_folder("record"), "--destination", in_folder("host"), "--policy", "x=1", NULL).code, 2);
	assert_int_equal(run("preflight", in_folder("record"), "--destination", in_folder("host"), "--policy", "pause=1", NULL).code, 2);
	ran = run("preflight", in_folder("nowhere"), NULL);
	assert_sentence(&ran, "nowhere");
	ran = run("preflight", in_folder("record"), "--destination", in_folder("record"), NULL);
	assert_sentence(&ran, "no JSON");
	write_file(in_folder("host"), "{}", 2);
	ran = run("preflight", in_folder("record"), "--destination", in_folder("host"), NULL);
	assert_sentence(&ran, "no host.mantissa");
	/* a host without KVM */
	ran = run("preflight", in_folder("record"), "--kvm", in_folder("nowhere"), NULL);
	assert_sentence(&ran, "is not there");
	ran = run("preflight", "--print-destination", "--kvm", "/dev/null", NULL);
	assert_sentence(&ran, "KVM made no virtual machine");
}

/* --- this machine ------------------------------------------------------------------------------------------- */

/* A record as this very boot would have saved it a moment ago: taken exactly, by the TSC itself. */
static void this_machine_takes_its_own_record(void **state)
{
	struct ran ran = run("preflight", "--print-destination", NULL);
	uint64_t mantissa, at, realtime;
	struct pvclock_record record;
	char change[96];
	json_t *json;

	(void)state;
	if (ran.code == 1) {
		assert_sentence(&ran, "");
		print_message("SKIP: %s", ran.err);
		skip();
	}
	json = json_of(&ran);
	mantissa = number_at(json, "host.mantissa");
	if (mantissa == 0) {
		print_message("SKIP: no line here: %s\n", text_at(json, "no_line.text"));
		json_decref(json);
		skip();
	}
	at = number_at(json, "time.at");
	realtime = number_at(json, "time.realtime_ns");
	seed_random(17);
	plain_record(&record);
	record.host = (struct pvclock_slope){ mantissa, (int16_t)number_at(json, "host.exponent") };
	assert_true(pvclock_line_make(&record.line, at, 1234, &record.host, NULL));
	record.reference = vcpus[0].tsc = vcpus[1].tsc = pvclock_tsc_unscaled(0);
	vcpus[0].tsc_deadline = 0;
	record.time.at.ticks = at;
	record.time.realtime_ns = realtime;
	record.time.tai_ns = number_at(json, "time.tai_ns");
	record.time.tai_offset = (int32_t)number_at(json, "time.tai_offset");
	record.time.boottime_ns = number_at(json, "time.boottime_ns");
	set_system_time(&record);
	assert_int_equal(record.system_time, 1234);
	write_record(in_folder("record"), &record);
	snprintf(change, sizeof(change), "time.boot_id=%s", text_at(json, "time.boot_id"));
	json_decref(json);
	assert_int_equal(run("record", "edit", in_folder("record"), change, NULL).code, 0);

	for (unsigned int i = 0; i < 2; i++) {
		ran = run("preflight", in_folder("record"), "--json", "--as", i ? "live-update" : "migration", NULL);
		assert_int_equal(ran.code, 0);
		json = json_of(&ran);
		assert_string_equal(text_at(json, "elapsed.by"), "tsc");
		assert_true(number_at(json, "elapsed.ns") > 0);
		assert_int_equal(number_at(json, "counted_ns"), number_at(json, "elapsed.ns"));
		if (strcmp(text_at(json, "mode"), "own") == 0) {
			assert_string_equal(text_at(json, "precision"), "exact");
			assert_int_equal(number_at(json, "clock.ns"), 1234 + number_at(json, "elapsed.ns"));
			assert_int_equal(number_at(json, "tsc.rate_difference"), 0);
		}
		assert_int_equal(number_at(json, "clock.jump_ns"), 0);
		assert_true(json_is_true(at_path(json, "tsc.kept"))); /* no offset, and none is needed */
		json_decref(json);
	}
	ran = run("preflight", in_folder("record"), NULL);
	assert_int_equal(ran.code, 0);
	print_message("%s", ran.out);
	/* KVM's master clock may be off; own mode may not be had: then a sentence says so */
	ran = run("preflight", in_folder("record"), "--mode", "steer", NULL);
	assert_true(ran.code == 0 || shows(&ran, "verdict no: "));
	ran = run("preflight", in_folder("record"), "--mode", "own", NULL);
	assert_true(ran.code == 0 || ran.code == 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_command_says_what_the_library_decides),
		cmocka_unit_test(a_wild_record_is_planned_alike),
		cmocka_unit_test(the_same_rate_is_exact),
		cmocka_unit_test(another_rate_is_continued),
		cmocka_unit_test(a_kernels_line_is_not_the_tscs_rate),
		cmocka_unit_test(a_host_without_a_line_needs_leave),
		cmocka_unit_test(a_live_update_stays_on_its_boot),
		cmocka_unit_test(what_is_asked_wrongly_is_told),
		cmocka_unit_test(this_machine_takes_its_own_record),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
