/* SPDX-License-Identifier: MIT */
/*
 * restore_moves_test.c - P1, P2, P5: where the TSC becomes another one:
 * reset in a pause, of another rate, of another host, a thousand times.
 */
#include "restore_machine.h"

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
		cmocka_unit_test(p2_a_host_tsc_that_is_reset_in_a_pause),
		cmocka_unit_test(the_account_travels_once_in_stock_mode),
		cmocka_unit_test(p1_p5_another_rate),
		cmocka_unit_test(p1_a_thousand_moves_in_own_mode),
		cmocka_unit_test(p1_a_thousand_moves_in_steer_mode),
	};

	return cmocka_run_group_tests_name("restore moves", tests, NULL, NULL);
}
