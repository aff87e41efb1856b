/* SPDX-License-Identifier: MIT */
/*
 * interface_test.c - what a guest may ask for beside KVM's clock (docs/spec/interface.md): which values are taken,
 * which end in #GP with nothing changed, where the suspend page is written and where not, and that all of it goes with
 * a record.
 */
#include "machine.h"

#define GPA 0x200u
#define OFFERED PVCLOCK_FEATURES

static struct machine *new_machine(uint32_t features)
{
	struct pvclock_kvm_config config = { .vm_fd = 3, .mode = PVCLOCK_MODE_OWN };
	struct machine *m = aligned_alloc(64, (sizeof(*m) + 63) / 64 * 64);
	struct pvclock_slope host;

	memset(m, 0, sizeof(*m));
	fake_kvm_init(&m->fake, 3);
	assert_int_equal(pvclock_vm_create(&m->fake.os, &m->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, sizeof(m->memory), m->memory, 0), 0);
	assert_int_equal(pvclock_vcpu_create(m->vm, 0, &m->vcpu), 0);
	pvclock_vm_offer(m->vm, features);
	config.os = &m->fake.os;
	config.vm = m->vm;
	assert_int_equal(pvclock_kvm_attach(&config, &m->kvm, NULL), 0);
	assert_int_equal(pvclock_kvm_add_vcpu(m->kvm, m->vcpu, 4), 0);
	pvclock_slope_from_khz(m->fake.khz, &host);
	assert_int_equal(pvclock_kvm_start(m->kvm, &host), 0);
	return m;
}

static void free_machine(struct machine *m)
{
	machine_clear(m);
	free(m);
}

/* As a guest does it: 1: done; -1: #GP; 0: the VMM's own business. */
static int write_msr(struct machine *m, uint32_t msr, uint64_t value)
{
	struct kvm_run run = { .exit_reason = KVM_EXIT_X86_WRMSR };
	int handled;

	run.msr.index = msr;
	run.msr.data = value;
	run.msr.reason = KVM_MSR_EXIT_REASON_FILTER;
	handled = pvclock_kvm_handle_exit(m->kvm, m->vcpu, &run);
	assert_true(handled == 0 || handled == 1);
	return handled && run.msr.error ? -1 : handled;
}

static uint64_t read_msr(struct machine *m, uint32_t msr)
{
	struct kvm_run run = { .exit_reason = KVM_EXIT_X86_RDMSR };

	run.msr.index = msr;
	run.msr.reason = KVM_MSR_EXIT_REASON_FILTER;
	assert_int_equal(pvclock_kvm_handle_exit(m->kvm, m->vcpu, &run), 1);
	assert_int_equal(run.msr.error, 0);
	return run.msr.data;
}

static void p10_values_are_taken_or_refused(void **state)
{
	static const struct {
		uint32_t msr;
		uint64_t value;
		bool taken;
	} cases[] = {
		{ PVCLOCK_MSR_DEADLINE_CONTROL, 0, true },
		{ PVCLOCK_MSR_DEADLINE, 5, false }, /* no interrupt to come by */
		{ PVCLOCK_MSR_DEADLINE_CONTROL, 0x1000f, false },
		{ PVCLOCK_MSR_DEADLINE_CONTROL, 0x10010, true },
		{ PVCLOCK_MSR_DEADLINE_CONTROL, 0x30030, false },
		{ PVCLOCK_MSR_DEADLINE_CONTROL, 0x100010030, false }, /* it has no target but its own vCPU */
		{ PVCLOCK_MSR_DEADLINE, UINT64_MAX, true },
		{ PVCLOCK_MSR_SUSPEND_CONTROL, 0x100ff, true },
		{ PVCLOCK_MSR_SUSPEND_CONTROL, 0xffffffff00010010, true },
		{ PVCLOCK_MSR_SUSPEND_CONTROL, 0x10100, false },
		{ PVCLOCK_MSR_SUSPEND_CONTROL, 0x10008, false },
		{ PVCLOCK_MSR_SUSPEND, GPA | 1, true },
		{ PVCLOCK_MSR_SUSPEND, GPA | 2, false },
		{ PVCLOCK_MSR_SUSPEND, (GPA + 4) | 1, false },
		{ PVCLOCK_MSR_SUSPEND, (4096 - 56) | 1, false }, /* its end is not in memory */
		{ PVCLOCK_MSR_SUSPEND, (4096 - 64) | 1, true },
		{ PVCLOCK_MSR_SUSPEND, 0xfffffffffffffff8 | 1, false },
		{ PVCLOCK_MSR_SUSPEND, 0xfffffffffffffff8, true }, /* off: nobody looks where */
	};
	struct machine *m = new_machine(OFFERED);

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		uint64_t before = read_msr(m, cases[i].msr);

		assert_int_equal(write_msr(m, cases[i].msr, cases[i].value), cases[i].taken ? 1 : -1);
		if (read_msr(m, cases[i].msr) != (cases[i].taken ? cases[i].value : before))
			fail_msg("case %zu reads back as %#llx", i, (unsigned long long)read_msr(m, cases[i].msr));
	}
	/* what is disabled is not armed either */
	assert_int_equal(write_msr(m, PVCLOCK_MSR_DEADLINE_CONTROL, 0x10), 1);
	assert_int_equal(read_msr(m, PVCLOCK_MSR_DEADLINE), 0);
	free_machine(m);
}

static void what_was_not_offered_is_not_there(void **state)
{
	static const struct {
		uint32_t msr, feature;
	} msrs[] = { { PVCLOCK_MSR_DEADLINE_CONTROL, PVCLOCK_FEATURE_DEADLINE }, { PVCLOCK_MSR_DEADLINE, PVCLOCK_FEATURE_DEADLINE },
		     { PVCLOCK_MSR_SUSPEND_CONTROL, PVCLOCK_FEATURE_SUSPEND }, { PVCLOCK_MSR_SUSPEND, PVCLOCK_FEATURE_SUSPEND } };

	(void)state;
	for (uint32_t features = 0; features <= PVCLOCK_FEATURES; features++) {
		struct machine *m = new_machine(features);
		uint64_t value = 0;

		for (size_t i = 0; i < sizeof(msrs) / sizeof(*msrs); i++) {
			assert_int_equal(pvclock_vcpu_read_msr(m->vcpu, msrs[i].msr, &value), features & msrs[i].feature ? 0 : -ENOENT);
			/* the filter hands it to us, who do not want it: #GP, as if there were none */
			if (!(features & msrs[i].feature) && features)
				assert_int_equal(write_msr(m, msrs[i].msr, 0), -1);
		}
		assert_int_equal(pvclock_vm_offered(m->vm), features);
		free_machine(m);
	}
}

static void the_page_is_written_where_it_was_asked_for(void **state)
{
	struct machine *m = new_machine(OFFERED);
	struct pvclock_suspend told;
	uint8_t zeros[64] = { 0 }, bitmap[8] = { 0 };

	(void)state;
	assert_int_equal(write_msr(m, PVCLOCK_MSR_SUSPEND, GPA | 1), 1);
	assert_int_equal(pvclock_suspend_read(m->memory + GPA, &told), PVCLOCK_READ_OK);
	assert_int_equal(told.cause, PVCLOCK_CAUSE_NONE);
	assert_int_equal(told.count, 0);
	assert_memory_equal(m->memory + GPA + 64, zeros, 64);
	assert_memory_equal(m->memory + GPA - 64, zeros, 64);
	assert_int_equal(pvclock_vm_take_dirty(m->vm, (struct pvclock_gpa){ 0 }, 4096, bitmap), 1);
	assert_int_equal(bitmap[0], 1);
	/* moved: the old one is the guest's again */
	assert_int_equal(write_msr(m, PVCLOCK_MSR_SUSPEND, (GPA + 128) | 1), 1);
	memset(m->memory + GPA, 0, 64);
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	assert_int_equal(pvclock_kvm_resume(m->kvm, NULL, NULL), 0);
	assert_memory_equal(m->memory + GPA, zeros, 64);
	assert_int_equal(pvclock_suspend_read(m->memory + GPA + 128, &told), PVCLOCK_READ_OK);
	assert_int_equal(told.count, 1);
	assert_int_equal(told.cause, PVCLOCK_CAUSE_PAUSE);
	/* without memory nothing is written, and with it again it is */
	assert_int_equal(pvclock_vm_remove_memory(m->vm, (struct pvclock_gpa){ 0 }, sizeof(m->memory)), 0);
	memset(m->memory, 0, sizeof(m->memory));
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	assert_int_equal(pvclock_kvm_resume(m->kvm, NULL, NULL), 0);
	assert_memory_equal(m->memory + GPA + 128, zeros, 64);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, sizeof(m->memory), m->memory, 0), 0);
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	assert_int_equal(pvclock_kvm_resume(m->kvm, NULL, NULL), 0);
	assert_int_equal(pvclock_suspend_read(m->memory + GPA + 128, &told), PVCLOCK_READ_OK);
	assert_int_equal(told.count, 3);
	free_machine(m);
}

static void p6_all_of_it_goes_with_the_record(void **state)
{
	struct machine *from = new_machine(OFFERED), *to = new_machine(0);
	struct pvclock_record record;
	struct pvclock_suspend told;
	struct pvclock_reason reason;
	struct pvclock_slope host;

	(void)state;
	assert_int_equal(write_msr(from, PVCLOCK_MSR_DEADLINE_CONTROL, 0x10033), 1);
	assert_int_equal(write_msr(from, PVCLOCK_MSR_DEADLINE, UINT64_MAX - 7), 1);
	assert_int_equal(write_msr(from, PVCLOCK_MSR_SUSPEND_CONTROL, 0x10044), 1);
	assert_int_equal(write_msr(from, PVCLOCK_MSR_SUSPEND, GPA | 1), 1);
	assert_int_equal(pvclock_kvm_pause(from->kvm), 0);
	assert_int_equal(pvclock_kvm_save(from->kvm, &record), 0);
	assert_int_equal(record.suspend_msr, GPA | 1);
	assert_int_equal(record.vcpus[0].deadline_ns, UINT64_MAX - 7);
	to->fake.tsc = from->fake.tsc + 2596142000ull;
	pvclock_slope_from_khz(to->fake.khz, &host);
	/* a VMM that does not offer what the guest uses is refused, before anything is done */
	assert_int_equal(pvclock_kvm_restore(to->kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, &host, NULL, &reason), -ENOTSUP);
	assert_non_null(strstr(reason.text, "pvclock_vm_offer"));
	free_machine(to);
	to = new_machine(OFFERED);
	to->fake.tsc = from->fake.tsc + 2596142000ull;
	assert_int_equal(pvclock_kvm_restore(to->kvm, &record, PVCLOCK_BLACKOUT_SNAPSHOT, &host, NULL, &reason), 0);
	assert_int_equal(pvclock_kvm_resume(to->kvm, NULL, NULL), 0);
	assert_int_equal(read_msr(to, PVCLOCK_MSR_DEADLINE), UINT64_MAX - 7);
	assert_int_equal(read_msr(to, PVCLOCK_MSR_DEADLINE_CONTROL), 0x10033);
	assert_int_equal(pvclock_suspend_read(to->memory + GPA, &told), PVCLOCK_READ_OK);
	assert_int_equal(told.cause, PVCLOCK_CAUSE_SNAPSHOT);
	assert_true(told.uncounted_ns >= 1000000000u);
	assert_int_equal(to->fake.signals, 1);
	assert_int_equal(to->fake.signal.data, 0x44);
	pvclock_record_clear(&record);
	free_machine(from);
	free_machine(to);
}

static void the_leaves_are_the_specification(void **state)
{
	struct pvclock_cpuid leaves[PVCLOCK_CPUID_LEAVES];
	char signature[13] = { 0 };

	(void)state;
	pvclock_interface_cpuid(0x40000200, UINT32_MAX, 7, leaves);
	memcpy(signature, &leaves[0].ebx, 4);
	memcpy(signature + 4, &leaves[0].ecx, 4);
	memcpy(signature + 8, &leaves[0].edx, 4);
	assert_string_equal(signature, "pvclock");
	assert_int_equal(leaves[0].leaf, 0x40000200);
	assert_int_equal(leaves[0].eax, 0x40000201);
	assert_int_equal(leaves[1].leaf, 0x40000201);
	assert_int_equal(leaves[1].eax, PVCLOCK_FEATURES);
	assert_int_equal(leaves[1].ebx, 1);
	assert_int_equal(leaves[1].ecx, 7);
	assert_int_equal(leaves[1].edx, 0);
}

/* A machine whose CPUID has the two leaves, and nothing in any other. */
struct leaves {
	bool hypervisor;
	struct pvclock_cpuid leaves[PVCLOCK_CPUID_LEAVES];
};

static void read_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	const struct leaves *machine = ctx;

	(void)subleaf;
	memset(regs, 0, 4 * sizeof(regs[0]));
	if (leaf == 1)
		regs[2] = machine->hypervisor ? 1u << 31 : 0x7fffffff;
	for (unsigned int i = 0; i < PVCLOCK_CPUID_LEAVES; i++)
		if (machine->leaves[i].leaf == leaf)
			memcpy(regs, &machine->leaves[i].eax, 4 * sizeof(regs[0]));
}

static void the_depth_is_exact_down_a_tree(void **state)
{
	static const struct pvclock_os_ops ops = { .cpuid = read_cpuid };
	struct leaves machine = { .hypervisor = false };
	struct pvclock_os os = { .ops = &ops, .ctx = &machine };
	struct pvclock_interface found;

	(void)state;
	pvclock_interface_search(read_cpuid, &machine, &found);
	assert_false(found.guest);
	for (uint32_t depth = 1; depth < 6; depth++) {
		uint32_t base = 0x40000000 + depth * 0x3300; /* the last one is the last that is looked at */

		assert_int_equal(pvclock_interface_guest_depth(&os), depth);
		pvclock_interface_cpuid(base, depth, pvclock_interface_guest_depth(&os), machine.leaves);
		machine.hypervisor = true;
		pvclock_interface_search(read_cpuid, &machine, &found);
		assert_true(found.guest);
		assert_int_equal(found.base, base);
		assert_int_equal(found.version, PVCLOCK_INTERFACE_VERSION);
		assert_int_equal(found.features, depth);
		assert_int_equal(found.depth, depth);
	}
}

static void a_depth_that_nobody_says_is_not_known(void **state)
{
	static const struct pvclock_os_ops ops = { .cpuid = read_cpuid };
	struct leaves machine = { .hypervisor = true };
	struct pvclock_os os = { .ops = &ops, .ctx = &machine };
	struct pvclock_interface found;

	(void)state;
	assert_int_equal(pvclock_interface_guest_depth(&os), 0); /* another hypervisor's guest */
	pvclock_interface_search(read_cpuid, &machine, &found);
	assert_true(found.guest);
	assert_int_equal(found.base, 0);
	pvclock_interface_cpuid(0x40000100, PVCLOCK_FEATURE_SUSPEND, 0, machine.leaves); /* a host that does not say */
	assert_int_equal(pvclock_interface_guest_depth(&os), 0);
	machine.leaves[1].ecx = UINT32_MAX;
	assert_int_equal(pvclock_interface_guest_depth(&os), 0);
	machine.leaves[1].ecx = UINT32_MAX - 1;
	assert_int_equal(pvclock_interface_guest_depth(&os), UINT32_MAX);
	machine.leaves[1].ebx = 0; /* a version below ours: its other registers may mean anything */
	assert_int_equal(pvclock_interface_guest_depth(&os), 0);
	pvclock_interface_search(read_cpuid, &machine, &found);
	assert_int_equal(found.base, 0x40000100);
	assert_int_equal(found.features, 0);
	machine.leaves[1].ebx = 2; /* later ones only add */
	assert_int_equal(pvclock_interface_guest_depth(&os), UINT32_MAX);
	machine.leaves[0].eax = 0x40000100; /* it says that it has no further leaf */
	assert_int_equal(pvclock_interface_guest_depth(&os), 0);
	pvclock_interface_cpuid(0x40000100, PVCLOCK_FEATURE_SUSPEND, 3, machine.leaves);
	machine.hypervisor = false; /* then these leaves are the CPU's, whatever they say */
	assert_int_equal(pvclock_interface_guest_depth(&os), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p10_values_are_taken_or_refused),
		cmocka_unit_test(what_was_not_offered_is_not_there),
		cmocka_unit_test(the_page_is_written_where_it_was_asked_for),
		cmocka_unit_test(p6_all_of_it_goes_with_the_record),
		cmocka_unit_test(the_leaves_are_the_specification),
		cmocka_unit_test(the_depth_is_exact_down_a_tree),
		cmocka_unit_test(a_depth_that_nobody_says_is_not_known),
	};

	return cmocka_run_group_tests_name("interface", tests, NULL, NULL);
}
