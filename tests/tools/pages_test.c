/* SPDX-License-Identifier: MIT */
/* What pvclock host and pvclock guest say of a machine's parent, its nesting and its pages, on machines that were made up. */
#define _GNU_SOURCE
#include "command.h"

#include "made_up.h"

#include <string.h>

static struct machine look(const struct made_up *made_up)
{
	struct machine machine;

	look_at_machine(&made_up->os, &machine);
	return machine;
}

static json_t *machine_json(const struct machine *machine)
{
	json_t *json = json_object();

	set_machine(json, machine);
	return json;
}

static void print_it(const void *machine)
{
	print_machine(machine);
}

static void list_is(json_t *json, const char *path, const char *names)
{
	char list[200] = "";
	size_t i;
	json_t *name;

	json_array_foreach(at_path(json, path), i, name) {
		strcat(list, i ? " " : "");
		strcat(list, json_string_value(name));
	}
	assert_string_equal(list, names);
}

static void nesting_is(json_t *json, bool guest, uint64_t depth, bool exact)
{
	assert_int_equal(json_is_true(at_path(json, "nesting.guest")), guest);
	assert_int_equal(number_at(json, "nesting.depth"), depth);
	assert_int_equal(json_is_true(at_path(json, "nesting.exact")), exact);
}

/* --- the parent ------------------------------------------------------------------------------------------- */

static void a_bare_machine_is_not_nested(void **state)
{
	struct made_up made_up;
	struct machine machine;
	json_t *json;

	(void)state;
	made_up_init(&made_up);
	made_up_parent(&made_up, 0x40000000, PVCLOCK_FEATURES, 5);
	made_up.hypervisor = false; /* then these leaves are the CPU's, whatever is in them */
	machine = look(&made_up);
	json = machine_json(&machine);
	nesting_is(json, false, 0, true);
	list_is(json, "hypervisors", "");
	assert_true(json_is_null(at_path(json, "parent")));
	assert_printed(printed(print_it, &machine), "nesting 0 deep");
	json_decref(json);
}

static void a_kvm_says_no_depth(void **state)
{
	struct made_up made_up;
	struct machine machine;
	const char *text;
	json_t *json;

	(void)state;
	made_up_init(&made_up);
	made_up_offer(&made_up, 0x40000000, "KVMKVMKVM\0\0", 0); /* as old ones did */
	made_up_leaf(&made_up, 0x40000001, 1u << 3 | 1u << 24 | 1u << 12, 0);
	machine = look(&made_up);
	json = machine_json(&machine);
	nesting_is(json, true, 1, false);
	list_is(json, "hypervisors", "KVMKVMKVM");
	assert_int_equal(number_at(json, "kvm_features"), 1u << 3 | 1u << 24 | 1u << 12);
	assert_true(json_is_null(at_path(json, "hyperv_features")));
	assert_true(json_is_null(at_path(json, "parent")));
	text = printed(print_it, &machine);
	assert_printed(text, "hypervisor KVMKVMKVM at 0x40000000 KVM's features 0x01001008: clocksource2 "
			     "clocksource-stable no pvclock interface");
	assert_printed(text, "nesting at least 1 deep");
	json_decref(json);
}

static void all_three_interfaces_are_told(void **state)
{
	struct made_up made_up;
	struct machine machine;
	const char *text;
	json_t *json;

	(void)state;
	made_up_init(&made_up);
	made_up_offer(&made_up, 0x40000000, "Linux KVM Hv", 0x40000006); /* any name: the interface is "Hv#1" */
	made_up_leaf(&made_up, 0x40000001, PVCLOCK_HYPERV_CPUID_INTERFACE, 0);
	made_up_leaf(&made_up, 0x40000003, PVCLOCK_HYPERV_FEATURES | 1u << 5, PVCLOCK_HYPERV_CPUID_FREQUENCIES);
	made_up_offer(&made_up, 0x40000100, "KVMKVMKVM\0\0", 0x40000101);
	made_up_leaf(&made_up, 0x40000101, 1u << 3, 0);
	made_up_parent(&made_up, 0x40000200, PVCLOCK_FEATURE_SUSPEND | PVCLOCK_FEATURE_NESTED, 3);
	machine = look(&made_up);
	json = machine_json(&machine);
	nesting_is(json, true, 3, true);
	list_is(json, "hypervisors", "Linux KVM Hv KVMKVMKVM pvclock");
	list_is(json, "hyperv_features", "counter tsc-page frequencies re-enlightenment invariant-tsc");
	list_is(json, "parent.features", "suspend nested");
	assert_int_equal(number_at(json, "parent.leaf"), 0x40000200);
	assert_int_equal(number_at(json, "parent.version"), 1);
	text = printed(print_it, &machine);
	assert_printed(text, "pvclock at 0x40000200 KVM's features 0x00000008: clocksource2 "
			     "Hyper-V's clock: counter tsc-page frequencies re-enlightenment invariant-tsc "
			     "pvclock's interface, version 1: suspend nested nesting 3 deep");
	json_decref(json);

	made_up.leaves[2].edx = 0; /* the frequencies' MSRs are there if both bits say so */
	machine = look(&made_up);
	assert_int_equal(machine.hyperv_features, PVCLOCK_HYPERV_FEATURES & ~PVCLOCK_HYPERV_FREQUENCIES);
	made_up.leaves[1].eax = 0; /* no "Hv#1": the leaves mean something else */
	machine = look(&made_up);
	assert_false(machine.hyperv);
	assert_int_equal(machine.hyperv_features, 0);
	made_up.leaves[1].eax = PVCLOCK_HYPERV_CPUID_INTERFACE;
	made_up.leaves[0].eax = 0x40000002; /* it has no leaf that tells of features */
	machine = look(&made_up);
	assert_false(machine.hyperv);
}

/* --- the pages of the vDSO ---------------------------------------------------------------------------------- */

struct shown {
	struct made_up made_up;
	struct machine machine;
	struct vdso_pages vdso;
	struct pvclock_page pvclock;
	struct pvclock_hyperv_page hyperv;
	struct pvclock_line line;
	struct pvclock_hyperv_line hyperv_line;
};

/* Both pages, of one line, which is RAW's slope and 123456789 ns ahead of it. */
static void show_both(struct shown *shown)
{
	*shown = (struct shown){ .machine = { .guest = true, .kvm = true, .hyperv = true } };
	made_up_init(&shown->made_up);
	shown->line = shown->made_up.raw;
	shown->line.ns += 123456789;
	pvclock_page_write(&shown->pvclock, &shown->line, PVCLOCK_TSC_STABLE);
	assert_true(pvclock_line_to_hyperv(&shown->line, &shown->hyperv_line));
	pvclock_hyperv_page_write(&shown->hyperv, &shown->hyperv_line, 6);
	shown->made_up.pages[PVCLOCK_CLOCK_PAGE_KVM] = &shown->pvclock;
	shown->made_up.pages[PVCLOCK_CLOCK_PAGE_HYPERV] = &shown->hyperv;
}

static void look_twice(struct shown *shown)
{
	shown->vdso = (struct vdso_pages){ 0 };
	look_at_vdso_pages(&shown->made_up.os, &shown->machine, true, &shown->vdso);
	shown->made_up.tsc += 2000000000; /* a second */
	look_at_vdso_pages(&shown->made_up.os, &shown->machine, false, &shown->vdso);
}

static void print_vdso(const void *vdso)
{
	print_vdso_pages(vdso);
}

/* By its own arithmetic: R(t) * 100 ns - line(t). */
static int64_t hyperv_less_pvclock(const struct shown *shown, uint64_t tick)
{
	__extension__ unsigned __int128 product = (__extension__ (unsigned __int128)tick) * shown->hyperv_line.scale;
	int64_t units = (int64_t)((uint64_t)(product >> 64) + (uint64_t)shown->hyperv_line.offset);

	return units * 100 - (int64_t)(shown->line.ns + (tick - shown->line.tsc) / 2);
}

static void live_pages_are_compared_at_one_tick(void **state)
{
	struct shown shown;
	json_t *json;
	const char *text;
	char part[200];

	(void)state;
	show_both(&shown);
	look_twice(&shown);
	assert_int_equal(shown.vdso.apart.tick, shown.made_up.tsc);
	assert_true(shown.vdso.apart.hyperv_known);
	assert_int_equal(shown.vdso.apart.hyperv_ns, hyperv_less_pvclock(&shown, shown.vdso.apart.tick));
	assert_in_range(shown.vdso.apart.hyperv_ns + 100, 0, 202);
	/* 30 ticks, 15 ns, from the TSC to RAW, and 15 ns from there to the TSC: the middle is the truth */
	assert_true(shown.vdso.last[SHOWN_PVCLOCK].known);
	assert_int_equal(shown.vdso.last[SHOWN_PVCLOCK].ns, 123456789);
	assert_int_equal(shown.vdso.last[SHOWN_PVCLOCK].error_ns, 15);
	json = vdso_pages_to_json(&shown.vdso);
	assert_true(json_is_true(at_path(json, "0.live")));
	assert_int_equal(number_at(json, "0.mul"), 1u << 31);
	assert_int_equal(number_at(json, "0.tsc_timestamp"), 1000);
	assert_int_equal(number_at(json, "0.system_time"), 123457789);
	assert_int_equal(number_at(json, "0.from_raw.ns"), 123456789);
	assert_int_equal(number_at(json, "0.from_raw.moved_ns"), 0);
	assert_int_equal(number_at(json, "1.sequence"), 7);
	assert_int_equal(number_at(json, "1.scale"), shown.hyperv_line.scale);
	json_decref(json);
	text = printed(print_vdso, &shown.vdso);
	assert_printed(text, "vCPU 0: live, tsc-stable, version 2 123457789 ns at tick 1000, mul 2147483648, shift 0 "
			     "123456789 ns ahead of CLOCK_MONOTONIC_RAW, within 15 ns changed by +0 ns in 1.00 s, within 30 ns");
	snprintf(part, sizeof(part), "apart Hyper-V: %+d ns from the pvclock page, at tick %llu (one clock",
		 (int)shown.vdso.apart.hyperv_ns, (unsigned long long)shown.made_up.tsc);
	assert_printed(text, part);
}

/* Each read of the kernel's clock is late by a microsecond but one, wherever that is. */
static void the_narrowest_bracket_counts(void **state)
{
	struct shown shown;

	(void)state;
	for (unsigned int quick = 1; quick <= 64; quick++) {
		struct from_raw from_raw;

		show_both(&shown);
		shown_page_read(&shown.vdso.pages[SHOWN_PVCLOCK], SHOWN_PVCLOCK, &shown.pvclock);
		shown.made_up.quick = quick;
		page_from_raw(&shown.made_up.os, &shown.vdso.pages[SHOWN_PVCLOCK], &from_raw);
		assert_int_equal(from_raw.ns, 123456789);
		assert_int_equal(from_raw.error_ns, 15);
	}
}

static void another_clock_is_not_called_one(void **state)
{
	struct shown shown;

	(void)state;
	show_both(&shown);
	shown.hyperv_line.offset += 3;
	pvclock_hyperv_page_write(&shown.hyperv, &shown.hyperv_line, 7);
	look_twice(&shown);
	assert_int_equal(shown.vdso.apart.hyperv_ns, hyperv_less_pvclock(&shown, shown.vdso.apart.tick));
	assert_printed(printed(print_vdso, &shown.vdso), "(not one clock");
	assert_int_equal(shown.vdso.apart.most_ns, shown.vdso.apart.hyperv_ns);
	/* to the ns: what one line can give, and what it cannot */
	assert_string_equal(hyperv_one_clock(-100), hyperv_one_clock(102));
	assert_string_not_equal(hyperv_one_clock(102), hyperv_one_clock(103));
	assert_string_equal(hyperv_one_clock(-101), hyperv_one_clock(103));
}

static void a_page_that_drifts_from_the_kernel_says_so(void **state)
{
	struct shown shown;
	json_t *json;

	(void)state;
	show_both(&shown);
	shown.line.mul += 215; /* 100.1 ppb faster */
	shown.line.ns = 1;     /* and behind */
	shown.line.tsc = shown.made_up.tsc - 200;
	pvclock_page_write(&shown.pvclock, &shown.line, 0);
	look_twice(&shown);
	json = vdso_pages_to_json(&shown.vdso);
	/* from one middle to the other it is a second and 64 brackets: 100 ns, and each is cut to its ns */
	assert_in_range(json_integer_value(at_path(json, "0.from_raw.moved_ns")), 99, 101);
	assert_true(json_integer_value(at_path(json, "0.from_raw.ns")) < -4499000000);
	json_decref(json);
	assert_printed(printed(print_vdso, &shown.vdso), "ns behind CLOCK_MONOTONIC_RAW");
	assert_printed(printed(print_vdso, &shown.vdso), "vCPU 0: live, no flags");
}

static void a_page_that_is_none_says_why(void **state)
{
	struct shown shown;
	const char *text;

	(void)state;
	show_both(&shown);
	shown.machine.hyperv = false; /* there may be anything in that place */
	look_twice(&shown);
	assert_int_equal(shown.made_up.page_calls[PVCLOCK_CLOCK_PAGE_HYPERV], 0);
	assert_printed(printed(print_vdso, &shown.vdso), "Hyper-V: not live (not offered)");
	assert_false(shown.vdso.apart.hyperv_known);

	show_both(&shown);
	shown.made_up.pages[PVCLOCK_CLOCK_PAGE_KVM] = NULL;
	pvclock_hyperv_page_withdraw(&shown.hyperv);
	look_twice(&shown);
	text = printed(print_vdso, &shown.vdso);
	assert_printed(text, "vCPU 0: not live (not shown to processes)");
	assert_printed(text, "Hyper-V: not live (its sequence is 0)");
	assert_not_printed(text, "RAW");
	assert_not_printed(text, "apart");

	show_both(&shown);
	shown.pvclock.version++;
	look_twice(&shown);
	assert_printed(printed(print_vdso, &shown.vdso), "vCPU 0: not live (its version stays odd)");
	assert_false(shown.vdso.apart.hyperv_known);

	show_both(&shown);
	shown.pvclock.version = 0; /* what no host writes: a kernel has something else there */
	look_twice(&shown);
	assert_printed(printed(print_vdso, &shown.vdso), "vCPU 0: not live (it holds no line)");
	show_both(&shown);
	shown.pvclock.tsc_timestamp = 0;
	look_twice(&shown);
	assert_printed(printed(print_vdso, &shown.vdso), "vCPU 0: not live (it holds no line)");

	show_both(&shown);
	shown.pvclock.tsc_to_system_mul = 0;
	look_twice(&shown);
	assert_printed(printed(print_vdso, &shown.vdso), "vCPU 0: not live (it holds no line)");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_bare_machine_is_not_nested),
		cmocka_unit_test(a_kvm_says_no_depth),
		cmocka_unit_test(all_three_interfaces_are_told),
		cmocka_unit_test(live_pages_are_compared_at_one_tick),
		cmocka_unit_test(the_narrowest_bracket_counts),
		cmocka_unit_test(another_clock_is_not_called_one),
		cmocka_unit_test(a_page_that_drifts_from_the_kernel_says_so),
		cmocka_unit_test(a_page_that_is_none_says_why),
	};

	return cmocka_run_group_tests_name("pages", tests, NULL, NULL);
}
