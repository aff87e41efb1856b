/* SPDX-License-Identifier: MIT */
/*
 * restore_test.c - P1, P5, P6, P7: every cell of the table in docs/policies.md, through the binding on KVMs in virtual
 * time: what a guest reads after a blackout, in own and in steer mode, with one vCPU and two, where TSC offsets are
 * honoured and where they are not; and that it is what the plan had said.
 */
#include "../fake/kvm.h"

#include "../../src/kvm/kvm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define S 1000000000ull
#define HOUR (3600 * S)
#define PAGE_GPA 256u
/* What the second vCPU's counter is ahead. KVM's own clock is no function where they differ, so there is nothing to steer. */
#define APART(mode) ((mode) == PVCLOCK_MODE_OWN ? 4097u : 0u)
#define BOOT_A "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
#define BOOT_B "aaaaaaaa-4b5a-6978-8796-a5b4c3d2e1f0"

struct cell {
	enum pvclock_blackout blackout;
	enum pvclock_passing passing;
	enum pvclock_mode mode;
	bool ignored; /* TSC offsets */
	unsigned int vcpus;
};

static struct cell cell_now; /* for the sentence of a failure */

#define require(holds)                                                                                                     \
	do {                                                                                                               \
		if (!(holds))                                                                                              \
			fail_msg("%s, %s, %s, offsets %s, %u vCPUs: %s", pvclock_blackout_name(cell_now.blackout),          \
				 pvclock_passing_name(cell_now.passing), pvclock_mode_name(cell_now.mode),                  \
				 cell_now.ignored ? "ignored" : "honoured", cell_now.vcpus, #holds);                        \
	} while (0)

static uint64_t oracle(const struct pvclock_line *line, uint64_t tick)
{
	unsigned __int128 d = tick > line->tsc ? tick - line->tsc : 0;

	d = line->shift < 0 ? d >> -line->shift : d << line->shift;
	return line->ns + (uint64_t)(d * line->mul >> 32);
}

static bool same_line(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

/* --- machines ---------------------------------------------------------------------------------- */

struct machine {
	struct fake_kvm fake; /* the host, and what its KVM holds of the VM */
	struct pvclock_vm *vm;
	struct pvclock_vcpu *vcpus[2];
	struct pvclock_kvm *kvm;
	struct pvclock_slope host;
	unsigned int count;
	_Alignas(64) uint8_t memory[4096];
};

static uint64_t offset_of(const struct machine *m, unsigned int i)
{
	return i ? m->fake.second_offset : m->fake.offset;
}

static struct pvclock_line line_of(const struct machine *m, unsigned int i)
{
	struct pvclock_line line;

	require(pvclock_vcpu_get_line(m->vcpus[i], &line) == 0);
	return line;
}

/* A VM that is not started, on a host at this TSC whose CLOCK_TAI reads this. */
static void create(struct machine *m, const struct cell *cell, const char *boot_id, uint64_t tsc, uint64_t tai_ns)
{
	struct pvclock_kvm_config config = { .os = &m->fake.os, .vm_fd = 3, .mode = cell->mode };

	memset(m, 0, sizeof(*m));
	cell_now = *cell;
	fake_kvm_init(&m->fake, 5);
	m->count = cell->vcpus;
	m->fake.boot_id = boot_id;
	m->fake.tsc = tsc;
	m->fake.tai_offset = 37;
	m->fake.max_error_us = 250;
	m->fake.realtime_ns = (int64_t)(tai_ns - 37 * S - (uint64_t)((unsigned __int128)tsc * 1000000 / m->fake.khz));
	m->fake.offset = m->fake.second_offset = cell->ignored ? 0 : -tsc;
	m->fake.offset_ignored = cell->ignored;
	if (cell->mode == PVCLOCK_MODE_OWN)
		require(pvclock_slope_from_kernel(6462370, 24, &m->host));
	else
		require(pvclock_slope_from_khz(m->fake.khz, &m->host));
	require(pvclock_vm_create(&m->fake.os, &m->vm) == 0);
	require(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, sizeof(m->memory), m->memory, 0) == 0);
	config.vm = m->vm;
	require(pvclock_kvm_attach(&config, &m->kvm, NULL) == 0);
	for (uint32_t i = 0; i < m->count; i++) {
		require(pvclock_vcpu_create(m->vm, i, &m->vcpus[i]) == 0);
		require(pvclock_kvm_add_vcpu(m->kvm, m->vcpus[i], FAKE_VCPU_FD + (int)i) == 0);
	}
}

/* Another host, on for longer. */
static void create_elsewhere(struct machine *m, const struct cell *cell, uint64_t tai_ns)
{
	create(m, cell, BOOT_B, 77777777777777ull, tai_ns);
}

static void destroy(struct machine *m)
{
	for (unsigned int i = 0; i < m->count; i++) {
		pvclock_kvm_remove_vcpu(m->kvm, m->vcpus[i]);
		pvclock_vcpu_destroy(m->vcpus[i]);
	}
	pvclock_kvm_detach(m->kvm);
	pvclock_vm_destroy(m->vm);
}

/* A VM that went from one to the other is done with. */
static void moved(struct machine *from, struct machine *to, struct pvclock_record *record)
{
	pvclock_record_clear(record);
	destroy(from);
	destroy(to);
}

#define TAI (1790000037ull * S)
#define TSC_A 1000000000000ull

/* One that runs: started, its first vCPU registered (the last never), counters that differ, deadlines armed, the policy set. */
static void start(struct machine *m, const struct cell *cell)
{
	struct pvclock_policy policy = pvclock_policy_default();

	create(m, cell, BOOT_A, TSC_A, TAI);
	if (m->count == 2)
		m->fake.second_offset += APART(cell->mode);
	require(m->count == 1 || pvclock_kvm_follow_tsc(m->kvm, m->vcpus[1]) == 0);
	require(pvclock_kvm_start(m->kvm, &m->host) == 0);
	if (cell->mode == PVCLOCK_MODE_OWN) {
		require(pvclock_vcpu_write_msr(m->vcpus[0], PVCLOCK_MSR_SYSTEM_TIME, PAGE_GPA | PVCLOCK_MSR_ENABLE) == 0);
		require(pvclock_vcpu_write_msr(m->vcpus[0], PVCLOCK_MSR_WALL_CLOCK, 128) == 0);
	} else {
		m->fake.anchor_tsc = m->fake.tsc;
	}
	policy.on[cell->blackout] = cell->passing;
	pvclock_vm_set_policy(m->vm, &policy);
	m->fake.tsc += 123456789012;
	for (unsigned int i = 0; i < m->count; i++) {
		m->fake.deadline[i] = m->fake.tsc + offset_of(m, i) + 2000000000 + 77 * i; /* 0.8 s from now */
		m->fake.armed_with[i] = offset_of(m, i);
		m->fake.tsc_adjust[i] = 0xfffffff000000000 + i;
	}
}

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

/* Through bytes, as it travels. */
static void save(struct machine *m, struct pvclock_record *record)
{
	struct pvclock_record captured;
	struct pvclock_reason reason;
	uint8_t bytes[1024];
	ssize_t length;

	require(pvclock_kvm_pause(m->kvm) == 0);
	require(pvclock_kvm_save(m->kvm, &captured) == 0);
	length = pvclock_record_encode(&captured, bytes, sizeof(bytes), &reason);
	require(length > 0 && pvclock_record_decode(bytes, (size_t)length, record, &reason) == 0);
	pvclock_record_clear(&captured);
}

/* The next host: the same one 5 s later, or another 90 minutes later, whose TSC has its own count. */
static void create_next(struct machine *m, const struct machine *before, const struct cell *cell, const struct pvclock_record *record)
{
	if (cell->blackout == PVCLOCK_BLACKOUT_LIVE_UPDATE)
		create(m, cell, BOOT_A, before->fake.tsc + 5 * 2596142000ull,
		       record->time.tai_ns + (uint64_t)((unsigned __int128)(before->fake.tsc - record->time.at.ticks) * 1000000 / before->fake.khz) +
			       5 * S);
	else
		create_elsewhere(m, cell, record->time.tai_ns + 90 * 60 * S);
}

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

/* --- vCPUs ----------------------------------------------------------------------------------------------- */

static void p6_a_vcpu_more_or_less(void **state)
{
	const struct cell one = { .blackout = PVCLOCK_BLACKOUT_SNAPSHOT, .passing = PVCLOCK_FREEZE, .mode = PVCLOCK_MODE_OWN, .vcpus = 1 };
	const struct cell two = { .blackout = PVCLOCK_BLACKOUT_SNAPSHOT, .passing = PVCLOCK_FREEZE, .mode = PVCLOCK_MODE_OWN, .vcpus = 2 };
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_line first, second;
	struct pvclock_plan plan;
	struct machine from, to;

	(void)state;
	start(&from, &one);
	save(&from, &record);
	create_elsewhere(&to, &two, record.time.tai_ns + HOUR);
	require(pvclock_kvm_restore(to.kvm, &record, one.blackout, &to.host, &plan, &reason) == 0);
	require(to.fake.offset == to.fake.second_offset && to.fake.offset == plan.at.tsc - to.kvm->last.ticks);
	first = line_of(&to, 0);
	second = line_of(&to, 1);
	require(same_line(&first, &second) && same_line(&first, &plan.at.line) && pvclock_vm_stable(to.vm, NULL));
	require(to.fake.deadline[1] == 0);
	moved(&from, &to, &record);

	start(&from, &two);
	save(&from, &record);
	create_elsewhere(&to, &one, record.time.tai_ns + HOUR);
	require(pvclock_kvm_restore(to.kvm, &record, one.blackout, &to.host, &plan, &reason) == -EINVAL);
	require(reason.code == PVCLOCK_REASON_VCPU_COUNT && strstr(reason.text, "vCPU 1"));
	moved(&from, &to, &record);
}

/* --- refusals: the VM is as it was ------------------------------------------------------------------------- */

static void refused(const struct pvclock_record *record, enum pvclock_blackout blackout, const struct pvclock_slope *host, uint64_t tai_ns,
		    const char *boot_id, int error)
{
	const struct cell cell = { .blackout = blackout, .mode = PVCLOCK_MODE_OWN, .vcpus = 2 };
	struct pvclock_policy policy, before;
	struct pvclock_account account;
	struct pvclock_reason reason;
	struct pvclock_plan plan;
	struct pvclock_line line;
	struct machine to;
	uint64_t value;

	create(&to, &cell, boot_id, 7777777777777ull, tai_ns);
	pvclock_vm_get_policy(to.vm, &before);
	require(pvclock_kvm_restore(to.kvm, record, blackout, host, &plan, &reason) == error);
	require(reason.code != PVCLOCK_REASON_NONE && reason.text[strlen(reason.text) - 1] == '.');
	require(to.fake.offset_writes == 0 && to.fake.set_clock_calls == 0 && to.fake.deadline[0] == 0 && to.fake.tsc_adjust[0] == 0);
	require(pvclock_vcpu_get_line(to.vcpus[0], &line) == -ENODATA);
	require(pvclock_vcpu_read_msr(to.vcpus[0], PVCLOCK_MSR_SYSTEM_TIME, &value) == 0 && value == 0);
	pvclock_vm_get_policy(to.vm, &policy);
	require(memcmp(policy.on, before.on, sizeof(policy.on)) == 0 && policy.advance_max_ns == before.advance_max_ns);
	pvclock_vm_get_account(to.vm, &account);
	require(account.blackouts == 0 && account.counted_ns == 0);
	require(pvclock_vm_pause(to.vm) == 0); /* it was not left paused */
	require(pvclock_vm_resume(to.vm) == 0);
	destroy(&to);
}

static void p6_a_refused_restore_changes_nothing(void **state)
{
	const struct cell cell = { .blackout = PVCLOCK_BLACKOUT_MIGRATION, .passing = PVCLOCK_ADVANCE, .mode = PVCLOCK_MODE_OWN, .vcpus = 2 };
	const struct pvclock_slope none = { 0 };
	struct pvclock_record record;
	struct machine from;
	uint64_t ns;

	(void)state;
	start(&from, &cell);
	save(&from, &record);
	record.account.blackouts = 9;
	record.policy.advance_max_ns = UINT64_MAX - 1;
	refused(&record, PVCLOCK_BLACKOUT_LIVE_UPDATE, &from.host, TAI + HOUR, BOOT_B, -EINVAL); /* another boot */
	refused(&record, PVCLOCK_BLACKOUT_MIGRATION, &none, TAI + HOUR, BOOT_B, -ENOTSUP);       /* no line, no falling back */
	ns = record.line.ns;
	record.line.ns = UINT64_MAX - HOUR / 2; /* more than 64 bits count */
	record.system_time += record.line.ns - ns;
	refused(&record, PVCLOCK_BLACKOUT_MIGRATION, &from.host, TAI + 2 * HOUR, BOOT_B, -EINVAL);
	record.line.ns = ns;
	refused(&record, PVCLOCK_BLACKOUT_MIGRATION, &from.host, TAI + HOUR, BOOT_B, -EINVAL); /* contradicts itself */
	pvclock_record_clear(&record);
	destroy(&from);
}

/* A host without a line, and a policy that falls back: the clock's value goes on, and the page says that it is not stable. */
static void p4_a_legacy_clock_is_not_stable(void **state)
{
	const struct cell cell = { .blackout = PVCLOCK_BLACKOUT_SNAPSHOT, .passing = PVCLOCK_FREEZE, .mode = PVCLOCK_MODE_OWN, .vcpus = 1 };
	const struct pvclock_slope none = { 0 };
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_plan plan;
	struct pvclock_line line;
	struct machine from, to;

	(void)state;
	start(&from, &cell);
	save(&from, &record);
	record.policy.fall_back = true;
	create_elsewhere(&to, &cell, record.time.tai_ns + HOUR);
	require(pvclock_kvm_restore(to.kvm, &record, cell.blackout, &none, &plan, &reason) == 0);
	require(plan.precision == PVCLOCK_LEGACY);
	line = line_of(&to, 0);
	require(oracle(&line, to.kvm->last.ticks + to.fake.offset) == record.system_time);
	require(!pvclock_vm_stable(to.vm, &reason) && reason.code == PVCLOCK_REASON_NO_LINE);
	moved(&from, &to, &record);
}

/*
 * A host that slept and whose TSC began anew while the VM was paused: KVM moves the offsets, and the guest sees no gap,
 * then or ever.
 */
static void p2_a_host_tsc_that_is_reset_in_a_pause(void **state)
{
	const struct cell cell = { .blackout = PVCLOCK_BLACKOUT_SUSPEND, .passing = PVCLOCK_FREEZE, .mode = PVCLOCK_MODE_OWN, .vcpus = 2 };
	struct pvclock_correction correction;
	struct pvclock_reason reason;
	struct pvclock_line before[2], after[2];
	struct machine m;
	uint64_t gone;

	(void)state;
	start(&m, &cell);
	require(pvclock_kvm_pause(m.kvm) == 0);
	pvclock_kvm_blackout(m.kvm, cell.blackout);
	before[0] = line_of(&m, 0);
	before[1] = line_of(&m, 1);
	gone = m.fake.tsc - 1000;
	m.fake.tsc -= gone;
	m.fake.offset += gone;
	m.fake.second_offset += gone;
	require(pvclock_kvm_resume(m.kvm, &correction, &reason) == 0);
	require(correction.moved_ticks == 0);
	m.fake.tsc += 2 * gone; /* past what it read before the sleep */
	require(pvclock_kvm_pause(m.kvm) == 0);
	after[0] = line_of(&m, 0);
	after[1] = line_of(&m, 1);
	require(same_line(&before[0], &after[0]) && same_line(&before[1], &after[1]));
	destroy(&m);
}

/* Stock mode keeps no function; what was done to the clock it keeps, once. */
static void the_account_travels_once_in_stock_mode(void **state)
{
	const struct cell cell = { .blackout = PVCLOCK_BLACKOUT_LIVE_UPDATE, .mode = PVCLOCK_MODE_STOCK, .vcpus = 1 };
	const struct pvclock_account before = { .blackouts = 3, .residual_ns_max = 40 };
	struct pvclock_account account;
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct machine from, to;

	(void)state;
	start(&from, &cell);
	pvclock_vm_count(from.vm, &before);
	save(&from, &record);
	create_next(&to, &from, &cell, &record);
	require(pvclock_kvm_restore(to.kvm, &record, cell.blackout, &to.host, NULL, &reason) == 0);
	pvclock_vm_get_account(to.vm, &account);
	require(account.blackouts == 3 && account.residual_ns_max == 40);
	moved(&from, &to, &record);
}

/* --- another rate ---------------------------------------------------------------------------------------------- */

/* To a host of 2 GHz, which scales TSCs or does not: the plan's numbers are KVM's, and the clock goes on where it was. */
static void another_rate(enum pvclock_mode mode, bool scaled, enum pvclock_passing passing)
{
	const struct cell cell = { .blackout = PVCLOCK_BLACKOUT_MIGRATION, .passing = passing, .mode = mode, .vcpus = 2 };
	struct pvclock_correction correction;
	struct pvclock_account account;
	struct pvclock_record record;
	struct pvclock_reason reason;
	struct pvclock_plan plan;
	struct machine from, to;
	struct pvclock_line line;
	struct pvclock_tsc_transform tsc;
	/* KVM's clock of a scaled TSC: its line is of the same kHz, but who knows where it is */
	bool unaimed = mode == PVCLOCK_MODE_STEER && scaled;
	uint64_t at, counter, deadline;

	start(&from, &cell);
	save(&from, &record);
	create_elsewhere(&to, &cell, 0);
	to.fake.khz = 2000000;
	to.fake.tsc_control = scaled;
	to.fake.realtime_ns = (int64_t)(record.time.realtime_ns + S / 2 - to.fake.tsc / 2);
	require(pvclock_slope_from_khz(to.fake.khz, &to.host));
	if (unaimed) { /* it says so before anything is touched */
		require(pvclock_kvm_restore(to.kvm, &record, cell.blackout, &to.host, &plan, &reason) == -ENOTSUP);
		require(reason.code == PVCLOCK_REASON_NO_LINE && to.fake.vcpu_khz[0] == 0 && to.fake.offset_writes == 0);
		record.policy.fall_back = true;
	}
	require(pvclock_kvm_restore(to.kvm, &record, cell.blackout, &to.host, &plan, &reason) == 0);
	require(plan.precision == (unaimed ? PVCLOCK_LEGACY : PVCLOCK_CONTINUED) && plan.tsc_kept && plan.deadlines == 2 &&
		plan.deadlines_past == 0);
	require(plan.tsc_khz == (scaled ? pvclock_rate_khz(&from.host) : 0) && plan.ratio.frac_bits == (scaled ? PVCLOCK_FRAC_BITS_SVM : 0));
	require(to.fake.vcpu_khz[0] == plan.tsc_khz && to.fake.vcpu_khz[1] == plan.tsc_khz);
	line = line_of(&to, 0);
	require(same_line(&line, &plan.at.line));
	require(oracle(&line, plan.at.tsc) - oracle(&plan.at.old, plan.at.tsc) <= 1);
	at = to.kvm->last.ticks;
	for (uint32_t i = 0; i < 2; i++) {
		pvclock_vcpu_get_tsc(to.vcpus[i], &tsc);
		pvclock_plan_vcpu(&record, &plan, i, &counter, &deadline);
		require(tsc.ratio == plan.ratio.ratio && tsc.frac_bits == plan.ratio.frac_bits && tsc.offset == offset_of(&to, i));
		require(counter == offset_of(&to, i) + (scaled ? (uint64_t)((unsigned __int128)at * plan.ratio.ratio >> 32) : at));
		require(counter == plan.at.tsc + i * APART(mode));
		require(to.fake.deadline[i] == deadline && to.fake.armed_with[i] == offset_of(&to, i));
		if (unaimed) {
			require(deadline == record.vcpus[i].tsc_deadline);
			continue;
		}
		/* by the new line, the first tick at which the clock has what the old one had */
		deadline -= i * APART(mode);
		require(oracle(&line, deadline) >= oracle(&plan.at.old, record.vcpus[i].tsc_deadline - i * APART(mode)));
		require(oracle(&line, deadline - 1) < oracle(&plan.at.old, record.vcpus[i].tsc_deadline - i * APART(mode)));
	}
	to.fake.tsc += 300000000;
	if (unaimed)
		require(pvclock_kvm_resume(to.kvm, &correction, &reason) == -ENOTSUP && reason.code != PVCLOCK_REASON_NONE);
	else
		require(pvclock_kvm_resume(to.kvm, &correction, &reason) == 0);
	line = line_of(&to, 0);
	require(same_line(&line, &plan.at.line));
	pvclock_vm_get_account(to.vm, &account);
	require(account.rate_changes == 1 && account.blackouts == 1);
	moved(&from, &to, &record);
}

static void p1_p5_another_rate(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 8; i++)
		another_rate(i & 1 ? PVCLOCK_MODE_STEER : PVCLOCK_MODE_OWN, i & 2, i & 4 ? PVCLOCK_FREEZE : PVCLOCK_ADVANCE);
}

/* --- P1: nothing adds up ------------------------------------------------------------------------------------- */

static void a_thousand_moves(enum pvclock_mode mode)
{
	struct cell cell = { .blackout = PVCLOCK_BLACKOUT_SNAPSHOT, .passing = PVCLOCK_FREEZE, .mode = mode, .vcpus = 2 };
	struct machine hosts[2], *now = &hosts[0], *next = &hosts[1];
	struct pvclock_line first[2], last[2];
	struct pvclock_account account, sum = { 0 };
	uint64_t tsc, deadline;

	start(now, &cell);
	for (unsigned int i = 0; i < 1000; i++) {
		struct pvclock_correction correction;
		struct pvclock_record record;
		struct pvclock_reason reason;
		struct pvclock_plan plan;

		cell.blackout = i % 3 ? PVCLOCK_BLACKOUT_SNAPSHOT : PVCLOCK_BLACKOUT_MIGRATION;
		now->fake.tsc += 1000003 * (i % 7);
		pvclock_vm_get_account(now->vm, &account);
		save(now, &record);
		/* what passed before the save was the source's to judge */
		sum.counted_ns += record.account.counted_ns - account.counted_ns;
		sum.uncounted_ns += record.account.uncounted_ns - account.uncounted_ns;
		if (i == 0) {
			first[0] = line_of(now, 0);
			first[1] = line_of(now, 1);
		}
		create(next, &cell, i % 2 ? BOOT_A : BOOT_B, 1000000000000ull + 7654321ull * i, record.time.tai_ns + 1234567 * i);
		require(pvclock_kvm_restore(next->kvm, &record, cell.blackout, &next->host, &plan, &reason) == 0);
		require(plan.precision == PVCLOCK_EXACT);
		pvclock_plan_vcpu(&record, &plan, 1, &tsc, &deadline);
		require(tsc == plan.at.tsc + APART(mode) && next->fake.second_offset == next->fake.offset + APART(mode));
		next->fake.snapshot_pending = mode == PVCLOCK_MODE_STEER;
		for (unsigned int n = 0; n < 2; n++)
			require(pvclock_kvm_settle(next->kvm, next->vcpus[n]) == 0);
		require(pvclock_kvm_resume(next->kvm, &correction, &reason) == 0);
		require(correction.moved_ticks == 0);
		sum.counted_ns += correction.counted_ns;
		sum.uncounted_ns += correction.uncounted_ns;
		pvclock_record_clear(&record);
		destroy(now);
		now = next;
		next = now == &hosts[0] ? &hosts[1] : &hosts[0];
	}
	last[0] = line_of(now, 0);
	last[1] = line_of(now, 1);
	require(same_line(&first[0], &last[0]) && same_line(&first[1], &last[1]));
	pvclock_vm_get_account(now->vm, &account);
	require(account.blackouts == 1000 && account.rate_changes == 0 && account.moved_ticks == 0);
	require(account.counted_ns == sum.counted_ns && account.uncounted_ns == sum.uncounted_ns && sum.counted_ns && sum.uncounted_ns);
	require(account.residual_ns_max <= 1);
	destroy(now);
}

static void p1_a_thousand_moves_in_own_mode(void **state)
{
	(void)state;
	a_thousand_moves(PVCLOCK_MODE_OWN);
}

static void p1_a_thousand_moves_in_steer_mode(void **state)
{
	(void)state;
	a_thousand_moves(PVCLOCK_MODE_STEER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_p5_p7_every_cell),
		cmocka_unit_test(p7_advance_is_bounded),
		cmocka_unit_test(p7_a_clock_that_is_behind),
		cmocka_unit_test(p6_a_vcpu_more_or_less),
		cmocka_unit_test(p6_a_refused_restore_changes_nothing),
		cmocka_unit_test(p4_a_legacy_clock_is_not_stable),
		cmocka_unit_test(p2_a_host_tsc_that_is_reset_in_a_pause),
		cmocka_unit_test(the_account_travels_once_in_stock_mode),
		cmocka_unit_test(p1_p5_another_rate),
		cmocka_unit_test(p1_a_thousand_moves_in_own_mode),
		cmocka_unit_test(p1_a_thousand_moves_in_steer_mode),
	};

	return cmocka_run_group_tests_name("restore", tests, NULL, NULL);
}
