/* SPDX-License-Identifier: MIT */
/*
 * restore_test.c - P1, P5, P6, P7: every cell of the table in docs/policies.md, through the binding on KVMs in virtual
 * time: what a guest reads after a blackout, in own and in steer mode, with one vCPU and two, where TSC offsets are
 * honoured and where they are not; and that it is what the plan had said.
 */
#include "restore_machine.h"

/* What the guest reads of `line`, over its first counter: its own page says so, or its kernel's. */
static void guest_reads(struct machine *m, const struct pvclock_line *line, uint8_t flags)
{
	struct pvclock_snapshot page;

	if (cell_now.mode == PVCLOCK_MODE_OWN) {
		require(pvclock_page_read(m->memory + PAGE_GPA, &page) == PVCLOCK_READ_OK);
		require(same_line(&page.line, line));
		require(page.flags == (flags | (m->count == 1 || m->fake.offset == m->fake.second_offset ? PVCLOCK_TSC_STABLE : 0)));
		return;
	}
	for (unsigned int i = 0; i < 40; i++) {
		uint64_t at = m->fake.tsc + (1ull << i) - 1;

		require(fake_kvm_clock(&m->fake, at) - oracle(line, at + m->fake.offset) <= 1);
	}
	require(m->fake.ctrl_calls >= m->count); /* GUEST_STOPPED is the kernel's to set */
}

/* Five times three clocks, and five times a clock between two readings of the TSC (src/kvm/sleep.c). */
#define LOOK_TICKS (5 * 3 * 40 + 5 * (30 + 40 + 30))

/* --- pause, suspend: the VM stays where it is -------------------------------------------------------- */

static void one_pause(const struct cell *cell)
{
	struct pvclock_correction correction;
	struct pvclock_account account;
	struct pvclock_reason reason;
	struct pvclock_line before[2], after[2], unit;
	uint64_t paused, resumed, offsets[2], deadlines[2], gone, ns;
	struct machine m;

	start(&m, cell);
	require(pvclock_kvm_pause(m.kvm) == 0);
	pvclock_kvm_blackout(m.kvm, cell->blackout);
	paused = m.kvm->last.ticks;
	for (unsigned int i = 0; i < m.count; i++) {
		before[i] = line_of(&m, i);
		offsets[i] = offset_of(&m, i);
		deadlines[i] = m.fake.deadline[i];
	}
	m.fake.tsc += 5 * 2596142000ull; /* 5 s: the deadlines are in it */
	resumed = m.fake.tsc + 40 + LOOK_TICKS + 30; /* a clock, all that a sleep would part, then the TSC */
	require(pvclock_kvm_resume(m.kvm, &correction, &reason) == 0);
	require(pvclock_line_make(&unit, 0, 0, &m.host, NULL));
	gone = resumed - paused;
	ns = oracle(&unit, gone);
	require(correction.counted_ns + correction.uncounted_ns == ns);
	require(correction.uncounted_ns == (cell->passing == PVCLOCK_FREEZE ? ns : 0));
	pvclock_vm_get_account(m.vm, &account);
	require(account.blackouts == 1 && account.counted_ns == correction.counted_ns && account.uncounted_ns == correction.uncounted_ns);
	if (cell->passing == PVCLOCK_ADVANCE)
		gone = 0; /* from the guest: nothing */
	require(correction.moved_ticks == (cell->ignored ? (int64_t)gone : 0));
	for (unsigned int i = 0; i < m.count; i++) {
		after[i] = line_of(&m, i);
		if (cell->ignored) { /* the counter goes on, and the line moves after it */
			require(offset_of(&m, i) == offsets[i]);
			before[i].tsc += gone;
			require(m.fake.deadline[i] == deadlines[i] + gone);
		} else {
			require(offset_of(&m, i) == offsets[i] - gone);
			require(m.fake.deadline[i] == deadlines[i]);
		}
		require(same_line(&before[i], &after[i]));
		require(m.fake.armed_with[i] == offset_of(&m, i)); /* after the offset, or KVM's timer is where it was */
	}
	guest_reads(&m, &after[0], PVCLOCK_GUEST_STOPPED);
	destroy(&m);
}

/* --- live update, migration, snapshot: it goes on elsewhere ------------------------------------------- */

static void check_plan(const struct cell *cell, const struct pvclock_plan *plan)
{
	uint64_t least = cell->blackout == PVCLOCK_BLACKOUT_LIVE_UPDATE ? 5 * S : 90 * 60 * S;

	require(plan->precision == PVCLOCK_EXACT && plan->blackout == cell->blackout && plan->deadlines == cell->vcpus);
	require(plan->elapsed.by == (cell->blackout == PVCLOCK_BLACKOUT_LIVE_UPDATE ? PVCLOCK_BY_TSC : PVCLOCK_BY_TAI));
	/* the calls of the fake take their time, too */
	require(plan->elapsed.ns - least < 100000);
	if (plan->elapsed.by == PVCLOCK_BY_TSC)
		require(plan->elapsed.bound_ns == 0);
	else /* what each host says of its clock, and the two brackets of 84 or 85 ns */
		require(plan->elapsed.bound_ns - 500000 >= 168 && plan->elapsed.bound_ns - 500000 <= 170);
	require(plan->counted_ns == (cell->passing == PVCLOCK_ADVANCE ? plan->elapsed.ns : 0));
	require(plan->deadlines_past == (cell->passing == PVCLOCK_ADVANCE ? cell->vcpus : 0));
}

/* A preflight on the same host, an instant before: but for that instant, it says the same. */
static void check_preflight(const struct cell *cell, const struct pvclock_plan *before, const struct pvclock_plan *plan)
{
	require(before->precision == plan->precision && before->elapsed.by == plan->elapsed.by && before->tsc_khz == plan->tsc_khz);
	require(before->elapsed.bound_ns - plan->elapsed.bound_ns + 2 <= 4);
	require(before->deadlines == plan->deadlines && before->deadlines_past == plan->deadlines_past);
	require(same_line(&before->at.line, &plan->at.line) && same_line(&before->at.old, &plan->at.old));
	require(cell->passing == PVCLOCK_ADVANCE ? plan->at.tsc > before->at.tsc : plan->at.tsc == before->at.tsc);
	require(plan->at.tsc - before->at.tsc < 100000 && plan->elapsed.ns - before->elapsed.ns < 100000);
}

/* The plan's very numbers are what KVM holds, and what the guest will read. */
static void check_arrived(struct machine *m, const struct pvclock_record *record, const struct pvclock_plan *plan)
{
	uint64_t at = m->kvm->last.ticks, moved = at + offset_of(m, 0) - plan->at.tsc; /* of the first counter, against the plan's */
	struct pvclock_line line = line_of(m, 0), wanted = plan->at.line;
	uint64_t tsc, deadline;

	require(cell_now.ignored || moved == 0);
	wanted.tsc += moved;
	require(same_line(&line, &wanted));
	require(oracle(&line, at + offset_of(m, 0)) == oracle(&plan->at.line, plan->at.tsc));
	for (uint32_t i = 0; i < record->vcpu_count; i++) {
		uint64_t mine;

		pvclock_plan_vcpu(record, plan, i, &tsc, &deadline);
		mine = at + offset_of(m, i) - tsc;
		require(cell_now.ignored || mine == 0);
		require(m->fake.deadline[i] == deadline + mine && m->fake.armed_with[i] == offset_of(m, i));
		line = line_of(m, i);
		require(oracle(&line, at + offset_of(m, i)) == oracle(&plan->at.line, plan->at.tsc)); /* all read one clock */
		require(m->fake.tsc_adjust[i] == 0xfffffff000000000 + i);
	}
}

/* And the time until the resume is dealt with alike. */
static void check_resumed(struct machine *m, const struct cell *cell, const struct pvclock_record *record, const struct pvclock_plan *plan)
{
	struct pvclock_policy policy;
	struct pvclock_account account;
	struct pvclock_correction correction;
	struct pvclock_reason reason;
	struct pvclock_line unit, line;
	uint64_t at = m->kvm->last.ticks, since, more;

	m->fake.tsc += 1000000007;
	for (unsigned int i = 0; i < m->count; i++)
		require(pvclock_kvm_settle(m->kvm, m->vcpus[i]) == 0);
	since = m->fake.tsc + 40 + LOOK_TICKS + 30 - at; /* it reads clocks first */
	require(pvclock_kvm_resume(m->kvm, &correction, &reason) == 0);
	require(correction.residual_ns == 0 || correction.residual_ns == 1);
	require(pvclock_line_make(&unit, 0, 0, &m->host, NULL));
	more = oracle(&unit, since);
	require(correction.counted_ns == plan->counted_ns + (cell->passing == PVCLOCK_ADVANCE ? more : 0));
	require(correction.uncounted_ns == plan->elapsed.ns - plan->counted_ns + (cell->passing == PVCLOCK_ADVANCE ? 0 : more));
	line = line_of(m, 0);
	if (cell->passing == PVCLOCK_FREEZE) /* at the resume the clock reads what it read at the save */
		require(oracle(&line, at + since + offset_of(m, 0)) == oracle(&plan->at.line, plan->at.tsc));
	if (!cell->ignored)
		require(same_line(&line, &plan->at.line));
	guest_reads(m, &line, PVCLOCK_GUEST_STOPPED);
	pvclock_vm_get_policy(m->vm, &policy);
	for (unsigned int i = 0; i < PVCLOCK_BLACKOUT_COUNT; i++)
		require(policy.on[i] == record->policy.on[i]);
	require(policy.advance_max_ns == record->policy.advance_max_ns);
	pvclock_vm_get_account(m->vm, &account);
	require(account.blackouts == record->account.blackouts + 1 && account.rate_changes == record->account.rate_changes);
	require(account.counted_ns == record->account.counted_ns + correction.counted_ns);
	require(account.uncounted_ns == record->account.uncounted_ns + correction.uncounted_ns);
	require(account.moved_ticks == record->account.moved_ticks + correction.moved_ticks);
}

static void check_registrations(struct machine *m)
{
	uint64_t value;

	if (cell_now.mode != PVCLOCK_MODE_OWN)
		return;
	require(pvclock_vcpu_read_msr(m->vcpus[0], PVCLOCK_MSR_SYSTEM_TIME, &value) == 0 && value == (PAGE_GPA | PVCLOCK_MSR_ENABLE));
	require(pvclock_vcpu_read_msr(m->vcpus[0], PVCLOCK_MSR_WALL_CLOCK, &value) == 0 && value == 128);
	if (m->count == 2)
		require(pvclock_vcpu_read_msr(m->vcpus[1], PVCLOCK_MSR_SYSTEM_TIME, &value) == 0 && value == 0);
	for (unsigned int i = 128; i < 140; i++) /* the guest's page of the wall clock is the guest's: memory as it came */
		require(m->memory[i] == 0);
}

static void one_restore(const struct cell *cell)
{
	const struct pvclock_account account = { .blackouts = 3, .counted_ns = 4, .uncounted_ns = 5, .rate_changes = 6, .moved_ticks = -7 };
	struct pvclock_kvm_capabilities known = { .tsc_offset_honoured = true, .master_clock = true };
	struct pvclock_destination here;
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_plan plan, preflight;
	struct machine from, to;
	struct pvclock_line was;

	start(&from, cell);
	pvclock_vm_count(from.vm, &account);
	save(&from, &record);
	was = line_of(&from, 0);
	create_next(&to, &from, cell, &record);
	known.tsc_khz = to.fake.khz;
	require(pvclock_kvm_destination(&to.fake.os, &known, cell->mode, &to.host, NULL, &here) == 0);
	require(pvclock_plan_make(&record, &here, cell->blackout, &preflight, &reason) == 0);
	require(pvclock_kvm_restore(to.kvm, &record, cell->blackout, &to.host, &plan, &reason) == 0);
	require(reason.code == (cell->ignored && to.fake.offset_writes ? PVCLOCK_REASON_OFFSET_IGNORED : PVCLOCK_REASON_NONE));
	require(same_line(&plan.at.old, &was) && same_line(&plan.at.line, &was));
	check_plan(cell, &plan);
	check_preflight(cell, &preflight, &plan);
	check_arrived(&to, &record, &plan);
	check_registrations(&to);
	check_resumed(&to, cell, &record, &plan);
	moved(&from, &to, &record);
}

static void p1_p5_p7_every_cell(void **state)
{
	unsigned int cells = 0;

	(void)state;
	for (unsigned int i = 0; i < PVCLOCK_BLACKOUT_COUNT * 16; i++) {
		struct cell cell = { .blackout = i / 16, .passing = i & 1 ? PVCLOCK_FREEZE : PVCLOCK_ADVANCE,
				     .mode = i & 2 ? PVCLOCK_MODE_STEER : PVCLOCK_MODE_OWN, .ignored = i & 4, .vcpus = i & 8 ? 2 : 1 };

		if (cell.blackout == PVCLOCK_BLACKOUT_PAUSE || cell.blackout == PVCLOCK_BLACKOUT_SUSPEND)
			one_pause(&cell);
		else
			one_restore(&cell);
		cells++;
	}
	assert_int_equal(cells, 80);
}

/* --- the policy's bound ------------------------------------------------------------------------------------ */

static void p7_advance_is_bounded(void **state)
{
	const struct cell cell = { .blackout = PVCLOCK_BLACKOUT_MIGRATION, .passing = PVCLOCK_ADVANCE, .mode = PVCLOCK_MODE_OWN, .vcpus = 2 };
	struct pvclock_correction correction;
	struct pvclock_policy policy;
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_plan plan;
	struct pvclock_line line;
	struct machine from, to;

	(void)state;
	start(&from, &cell);
	pvclock_vm_get_policy(from.vm, &policy);
	policy.advance_max_ns = 10 * S;
	pvclock_vm_set_policy(from.vm, &policy);
	save(&from, &record);
	create_next(&to, &from, &cell, &record);
	require(pvclock_kvm_restore(to.kvm, &record, cell.blackout, &to.host, &plan, &reason) == 0);
	require(plan.capped && plan.counted_ns == 10 * S && plan.bound_ns == 0 && plan.elapsed.ns > 89 * 60 * S);
	to.fake.tsc += 2596142000ull * 3; /* nor is what passes until the resume counted any more */
	require(pvclock_kvm_resume(to.kvm, &correction, &reason) == 0);
	line = line_of(&to, 0);
	require(correction.counted_ns == 10 * S);
	/* the first tick of the guest's counter that is 10 s on */
	require(oracle(&line, plan.at.tsc) >= record.system_time + 10 * S && oracle(&line, plan.at.tsc - 1) < record.system_time + 10 * S);
	require(to.fake.tsc - (plan.at.tsc - to.fake.offset) < 20000); /* there, when it resumed */
	moved(&from, &to, &record);

	start(&from, &(struct cell){ .passing = PVCLOCK_ADVANCE, .mode = PVCLOCK_MODE_OWN, .vcpus = 1 }); /* a pause */
	pvclock_vm_set_policy(from.vm, &policy);
	require(pvclock_kvm_pause(from.kvm) == 0);
	from.fake.tsc += 2596142000ull * 60;
	require(pvclock_kvm_resume(from.kvm, &correction, &reason) == 0);
	require(correction.counted_ns == 10 * S && correction.uncounted_ns - 50 * S < 10 * S);
	destroy(&from);
}

/* A clock on the destination that is behind: nothing is counted, nothing goes back. */
static void p7_a_clock_that_is_behind(void **state)
{
	const struct cell cell = { .blackout = PVCLOCK_BLACKOUT_MIGRATION, .passing = PVCLOCK_ADVANCE, .mode = PVCLOCK_MODE_OWN, .vcpus = 1 };
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_plan plan;
	struct machine from, to;

	(void)state;
	start(&from, &cell);
	save(&from, &record);
	create_elsewhere(&to, &cell, record.time.tai_ns - 2 * S);
	require(pvclock_kvm_restore(to.kvm, &record, cell.blackout, &to.host, &plan, &reason) == 0);
	require(plan.elapsed.measured_ns < -1999 * 1000000ll && plan.elapsed.ns == 0 && plan.counted_ns == 0);
	require(plan.at.tsc == to.kvm->last.ticks + to.fake.offset);
	moved(&from, &to, &record);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_p5_p7_every_cell),
		cmocka_unit_test(p7_advance_is_bounded),
		cmocka_unit_test(p7_a_clock_that_is_behind),
	};

	return cmocka_run_group_tests_name("restore", tests, NULL, NULL);
}
