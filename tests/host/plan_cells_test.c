/* SPDX-License-Identifier: MIT */
/* plan_cells_test.c - P5, P6, P7: what the property of plan_test.c does not reach: single cells of a plan, and its refusals. */
#include <pvclock/plan.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define VCPUS 2
#define S 1000000000ull

struct made {
	struct pvclock_record record;
	struct pvclock_record_vcpu vcpus[VCPUS];
	struct pvclock_destination here;
};

static struct pvclock_slope of_khz(uint64_t khz)
{
	struct pvclock_slope slope;

	assert_true(pvclock_slope_from_khz(khz, &slope));
	return slope;
}

/* A VM of 2 GHz, one vCPU, saved where the host's TSC read 10^12; its counter read 10^10 and its clock 5 s. */
static void make_plain(struct made *made)
{
	memset(made, 0, sizeof(*made));
	made->record.host = of_khz(2000000);
	made->record.time = (struct pvclock_host_time){ .at = { 1000000000000 }, .realtime_ns = 1790000000 * S, .boottime_ns = 500 * S };
	made->record.reference = pvclock_tsc_unscaled(10000000000 - 1000000000000ull);
	made->record.line = (struct pvclock_line){ .mul = 1u << 31 };
	made->record.system_time = 5 * S;
	made->record.policy = pvclock_policy_default();
	made->record.vcpus = made->vcpus;
	made->record.vcpu_count = 1;
	made->vcpus[0].tsc = made->record.reference;
	made->here = (struct pvclock_destination){ .host = made->record.host, .time = made->record.time, .tsc_offsets = true };
}

static struct pvclock_plan planned(struct made *made, enum pvclock_blackout blackout)
{
	struct pvclock_reason reason;
	struct pvclock_plan plan;

	if (pvclock_plan_make(&made->record, &made->here, blackout, &plan, &reason))
		fail_msg("%s", reason.text);
	return plan;
}

/* The same boot: the TSC is what tells, and its counter simply goes on. With a suspend in it, only CLOCK_BOOTTIME does. */
static void p7_the_same_boot_by_tsc(void **state)
{
	struct pvclock_plan plan;
	struct made made;

	(void)state;
	make_plain(&made);
	memset(made.record.time.boot_id, 9, PVCLOCK_BOOT_ID_SIZE);
	made.here.time = made.record.time;
	made.here.time.at.ticks += 7000000001;
	made.here.time.boottime_ns += 3500000000 + 1000000; /* slewed, and read an instant later */
	made.here.time.realtime_ns -= 3600 * S;             /* stepped */
	made.here.time.bracket_ns = 50;
	plan = planned(&made, PVCLOCK_BLACKOUT_MIGRATION);
	assert_true(plan.elapsed.by == PVCLOCK_BY_TSC && plan.elapsed.ns == 3500000000 && plan.elapsed.bound_ns == 0);
	assert_int_equal(plan.at.tsc, 10000000000 + 7000000001);
	assert_int_equal(plan.counted_ticks, 7000000001);
	assert_true(plan.precision == PVCLOCK_EXACT && plan.tsc_kept && plan.tsc_rate_difference == 0);
	made.here.time.boottime_ns += 60 * S; /* the host slept a minute, and its TSC did not count it */
	plan = planned(&made, PVCLOCK_BLACKOUT_MIGRATION);
	assert_true(plan.elapsed.by == PVCLOCK_BY_BOOTTIME && plan.elapsed.ns == 63501000000 && plan.bound_ns == 50);
	assert_int_equal(plan.counted_ticks, 2 * 63501000000);
	made.here.time.at.ticks = 5; /* it was reset */
	plan = planned(&made, PVCLOCK_BLACKOUT_LIVE_UPDATE);
	assert_true(plan.elapsed.by == PVCLOCK_BY_BOOTTIME && plan.counted_ticks == 2 * 63501000000);
}

/* The clock here is behind the clock there. */
static void p7_negative_time_is_clamped(void **state)
{
	struct pvclock_plan plan;
	struct made made;

	(void)state;
	make_plain(&made);
	made.here.time.realtime_ns -= 2 * S;
	plan = planned(&made, PVCLOCK_BLACKOUT_MIGRATION);
	assert_true(plan.elapsed.measured_ns == -2 * (int64_t)S && plan.elapsed.ns == 0 && plan.counted_ns == 0 && plan.counted_ticks == 0);
}

/* Twice the TSC's rate: half the ns a tick. */
static void the_tsc_rate_is_told(void **state)
{
	struct pvclock_plan plan;
	struct made made;

	(void)state;
	make_plain(&made);
	made.here.host = of_khz(2500000);
	plan = planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT);
	assert_int_equal(plan.tsc_rate_difference, (1ull << 62) - 1); /* a quarter faster; 0.4 ns is no binary fraction */
	assert_int_equal(plan.precision, PVCLOCK_CONTINUED);
	made.here.host = of_khz(1000000);
	plan = planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT);
	assert_int_equal(plan.tsc_rate_difference, INT64_MIN); /* half */
	made.here.frac_bits = PVCLOCK_FRAC_BITS_VMX;
	plan = planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT);
	assert_true(plan.tsc_rate_difference == 0 && plan.ratio.ratio == 2ull << 48 && plan.tsc_khz == 2000000);
	assert_int_equal(plan.precision, PVCLOCK_EXACT);
	made.here.ratio_max = (2ull << 48) - 1; /* more than it can be given */
	plan = planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT);
	assert_true(plan.ratio.frac_bits == 0 && plan.tsc_khz == 0 && plan.precision == PVCLOCK_CONTINUED);
}

/* Steer mode: the page has the kernel's slope, whatever the host's own is. */
static void the_kernel_publishes(void **state)
{
	struct pvclock_plan plan;
	struct pvclock_line kernel;
	struct pvclock_reason reason;
	struct made made;

	(void)state;
	make_plain(&made);
	made.here.kernel_publishes = true;
	assert_true(pvclock_line_make_kvm(&kernel, 0, 0, 2596142));
	assert_true(pvclock_slope_from_line(&kernel, &made.here.kernel));
	plan = planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT);
	assert_true(plan.at.line.mul == kernel.mul && plan.at.line.shift == kernel.shift);
	made.here.frac_bits = PVCLOCK_FRAC_BITS_SVM; /* of a TSC that it scales, it makes the slope from the kHz */
	made.here.host = of_khz(2596142);
	/* where its clock of a scaled TSC cannot be aimed, there is no function of it */
	assert_int_equal(pvclock_plan_make(&made.record, &made.here, PVCLOCK_BLACKOUT_SNAPSHOT, &plan, &reason), -ENOTSUP);
	assert_int_equal(reason.code, PVCLOCK_REASON_NO_LINE);
	assert_non_null(strstr(reason.text, "own mode"));
	made.record.policy.fall_back = true;
	plan = planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT);
	assert_true(plan.tsc_khz == 2000000 && plan.precision == PVCLOCK_LEGACY);
	made.record.policy.fall_back = false;
	made.here.kernel_aims_scaled = true;
	plan = planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT);
	assert_int_equal(plan.precision, PVCLOCK_EXACT);
	assert_true(plan.tsc_khz == 2000000 && pvclock_line_make_kvm(&kernel, 0, 0, 2000000));
	assert_true(plan.at.line.mul == kernel.mul && plan.at.line.shift == kernel.shift);
	made.here.frac_bits = 0;
	assert_true(pvclock_slope_from_line(&made.record.line, &made.here.kernel));
	assert_int_equal(planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT).precision, PVCLOCK_EXACT);
	/* KVM keeps no clock as a function where TSCs differ; one that ignores offsets has none that do */
	made.record.vcpu_count = 2;
	made.vcpus[1] = made.vcpus[0];
	made.vcpus[1].index = 1;
	assert_int_equal(planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT).precision, PVCLOCK_EXACT);
	made.vcpus[1].tsc.offset++;
	assert_int_equal(pvclock_plan_make(&made.record, &made.here, PVCLOCK_BLACKOUT_SNAPSHOT, &plan, &reason), -ENOTSUP);
	assert_non_null(strstr(reason.text, "vCPUs whose TSCs differ"));
	made.record.policy.fall_back = true;
	assert_int_equal(planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT).precision, PVCLOCK_LEGACY);
	made.here.tsc_offsets = false;
	assert_int_equal(planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT).precision, PVCLOCK_EXACT);
	made.here.tsc_offsets = true;
	made.here.kernel_publishes = false; /* own mode */
	made.here.host = made.record.host;
	assert_int_equal(planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT).precision, PVCLOCK_EXACT);
}

/* A host that ignores offsets: the guest's counter is the host's, and only by chance what it was. */
static void an_ignored_offset_is_told(void **state)
{
	struct made made;

	(void)state;
	make_plain(&made);
	made.here.tsc_offsets = false;
	assert_false(planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT).tsc_kept);
	made.here.time.at.ticks = 10000000000;
	assert_true(planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT).tsc_kept);
}

/* A counter that reads 0 at the switch, and a deadline that the new line reaches there: 0 would disarm it. */
static void p5_a_deadline_does_not_become_0(void **state)
{
	const struct pvclock_line old = { .mul = 1u << 31 };
	const struct pvclock_slope slope = of_khz(1000000);
	struct pvclock_switch at;

	(void)state;
	assert_true(pvclock_switch_make(&at, &old, 1000001, &slope));
	assert_int_equal(pvclock_line_ns(&old, 1000001 + 0), pvclock_line_ns(&old, 1000000));
	assert_int_equal(pvclock_switch_deadline(&at, 0, 0), 0);
	assert_true(pvclock_switch_make(&at, &old, 1000000, &slope));
	assert_int_equal(pvclock_switch_deadline(&at, 0, 1), 1); /* the same ns: the new line has it at the switch */
	assert_int_equal(pvclock_switch_deadline(&at, 5, 6), 5);
	assert_int_equal(pvclock_switch_deadline(&at, 0, 2), 1);
	assert_int_equal(pvclock_switch_deadline(&at, 0, 4), 2);
	assert_int_equal(pvclock_switch_deadline(&at, 0, UINT64_MAX), UINT64_MAX); /* never */
}

/* --- P6: refusals ------------------------------------------------------------------------------------- */

static void refused(struct made *made, enum pvclock_blackout blackout, int error, enum pvclock_reason_code code, const char *says)
{
	struct pvclock_plan plan, untouched;
	struct pvclock_reason reason;
	size_t length;

	memset(&plan, 0x5a, sizeof(plan));
	memset(&untouched, 0x5a, sizeof(plan));
	assert_int_equal(pvclock_plan_make(&made->record, &made->here, blackout, &plan, &reason), error);
	assert_int_equal(reason.code, code);
	length = strlen(reason.text);
	if (!strstr(reason.text, says) || length >= PVCLOCK_REASON_TEXT - 1 || reason.text[length - 1] != '.')
		fail_msg("\"%s\"", reason.text);
	assert_memory_equal(&plan, &untouched, sizeof(plan));
	assert_int_equal(pvclock_plan_make(&made->record, &made->here, blackout, &plan, NULL), error);
}

static void p6_a_live_update_stays_on_its_boot(void **state)
{
	struct made made;

	(void)state;
	make_plain(&made);
	made.here.time.at.ticks--;
	refused(&made, PVCLOCK_BLACKOUT_LIVE_UPDATE, -EINVAL, PVCLOCK_REASON_OTHER_HOST, "migration");
	refused(&made, PVCLOCK_BLACKOUT_PAUSE, -EINVAL, PVCLOCK_REASON_OTHER_HOST, "snapshot");
	planned(&made, PVCLOCK_BLACKOUT_MIGRATION);
	memset(made.record.time.boot_id, 1, PVCLOCK_BOOT_ID_SIZE); /* known, and others */
	memset(made.here.time.boot_id, 2, PVCLOCK_BOOT_ID_SIZE);
	made.here.time.at.ticks = made.record.time.at.ticks = UINT64_MAX; /* the longest sentence */
	made.record.system_time = pvclock_line_ns(&made.record.line, UINT64_MAX + made.record.reference.offset);
	refused(&made, PVCLOCK_BLACKOUT_LIVE_UPDATE, -EINVAL, PVCLOCK_REASON_OTHER_HOST, "another boot");
}

static void p6_a_host_without_a_line(void **state)
{
	struct pvclock_plan plan;
	struct made made;

	(void)state;
	make_plain(&made);
	made.here.host = (struct pvclock_slope){ 0 };
	refused(&made, PVCLOCK_BLACKOUT_MIGRATION, -ENOTSUP, PVCLOCK_REASON_NO_LINE, "policy.fall_back");
	made.here.no_line.code = PVCLOCK_REASON_CLOCKSOURCE;
	memset(made.here.no_line.text, 'x', PVCLOCK_REASON_TEXT - 1); /* however much it has to say */
	refused(&made, PVCLOCK_BLACKOUT_MIGRATION, -ENOTSUP, PVCLOCK_REASON_CLOCKSOURCE, "Take another host");
	made.record.policy.fall_back = true;
	made.here.time.realtime_ns += 3 * S;
	plan = planned(&made, PVCLOCK_BLACKOUT_MIGRATION);
	assert_int_equal(plan.precision, PVCLOCK_LEGACY);
	assert_int_equal(pvclock_line_ns(&plan.at.line, plan.at.tsc), 8 * S);
	assert_int_equal(plan.ratio.frac_bits, 0);
	made.here.host = made.record.host; /* a line, but the kernel that publishes has none */
	made.here.kernel_publishes = true;
	assert_int_equal(planned(&made, PVCLOCK_BLACKOUT_MIGRATION).precision, PVCLOCK_LEGACY);
	made.record.policy.fall_back = false;
	refused(&made, PVCLOCK_BLACKOUT_MIGRATION, -ENOTSUP, PVCLOCK_REASON_CLOCKSOURCE, "Take another host");
}

static void p6_time_beyond_64_bits(void **state)
{
	struct made made;

	(void)state;
	make_plain(&made);
	made.record.line.ns = UINT64_MAX - 10 * S;
	made.record.system_time = UINT64_MAX - 5 * S;
	made.here.time.realtime_ns += 5 * S;
	planned(&made, PVCLOCK_BLACKOUT_MIGRATION);
	made.here.time.realtime_ns += 1;
	refused(&made, PVCLOCK_BLACKOUT_MIGRATION, -EINVAL, PVCLOCK_REASON_RECORD_FIELD, "advance_max_ns");
	made.record.policy.advance_max_ns = 5 * S;
	assert_true(planned(&made, PVCLOCK_BLACKOUT_MIGRATION).capped);
	planned(&made, PVCLOCK_BLACKOUT_SNAPSHOT); /* frozen */
	/* ticks, rather than ns; measured by the TSC, which has wrapped */
	make_plain(&made);
	made.record.reference.offset = UINT64_MAX - 1 - made.record.time.at.ticks;
	made.vcpus[0].tsc = made.record.reference;
	made.record.line.tsc = UINT64_MAX - 1;
	made.record.system_time = 0;
	made.here.time.at.ticks += 1;
	assert_int_equal(planned(&made, PVCLOCK_BLACKOUT_LIVE_UPDATE).at.tsc, UINT64_MAX);
	made.here.time.at.ticks += 1;
	refused(&made, PVCLOCK_BLACKOUT_LIVE_UPDATE, -EINVAL, PVCLOCK_REASON_RECORD_FIELD, "no 64-bit TSC");
	/* measured by the TSC of a host that says that it ticks a thousand times a second: 584 years */
	make_plain(&made);
	made.record.host = of_khz(1);
	made.here.time.at.ticks += 1ull << 44;
	refused(&made, PVCLOCK_BLACKOUT_LIVE_UPDATE, -EINVAL, PVCLOCK_REASON_RECORD_FIELD, "no 64-bit TSC");
}

static void p6_what_is_no_clock(void **state)
{
	struct made made;

	(void)state;
	make_plain(&made);
	made.here.host.exponent = 60;
	refused(&made, PVCLOCK_BLACKOUT_SNAPSHOT, -EINVAL, PVCLOCK_REASON_NO_LINE, "is no clock's");
	make_plain(&made);
	made.record.line.mul = 0;
	refused(&made, PVCLOCK_BLACKOUT_SNAPSHOT, -EINVAL, PVCLOCK_REASON_RECORD_FIELD, "mul");
	make_plain(&made);
	made.vcpus[0].tsc.ratio = 1ull << 48;
	made.vcpus[0].tsc.frac_bits = 48;
	refused(&made, PVCLOCK_BLACKOUT_SNAPSHOT, -EINVAL, PVCLOCK_REASON_TSC_RATES_DIFFER, "vCPU 0");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p7_the_same_boot_by_tsc),
		cmocka_unit_test(p7_negative_time_is_clamped),
		cmocka_unit_test(the_tsc_rate_is_told),
		cmocka_unit_test(the_kernel_publishes),
		cmocka_unit_test(an_ignored_offset_is_told),
		cmocka_unit_test(p5_a_deadline_does_not_become_0),
		cmocka_unit_test(p6_a_live_update_stays_on_its_boot),
		cmocka_unit_test(p6_a_host_without_a_line),
		cmocka_unit_test(p6_time_beyond_64_bits),
		cmocka_unit_test(p6_what_is_no_clock),
	};

	return cmocka_run_group_tests_name("plan cells", tests, NULL, NULL);
}
