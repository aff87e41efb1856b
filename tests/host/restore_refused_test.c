/* SPDX-License-Identifier: MIT */
/*
 * restore_refused_test.c - P4, P6: a restore that this host cannot do as the record says:
 * refused with a reason and nothing changed, or told.
 */
#include "restore_machine.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p6_a_vcpu_more_or_less),
		cmocka_unit_test(p6_a_refused_restore_changes_nothing),
		cmocka_unit_test(p4_a_legacy_clock_is_not_stable),
	};

	return cmocka_run_group_tests_name("restore refused", tests, NULL, NULL);
}
