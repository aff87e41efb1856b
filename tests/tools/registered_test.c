/* SPDX-License-Identifier: MIT */
/* What pvclock guest says of the pages that a kernel has registered: MSRs and memory that were made up, and a file as kcore is. */
#define _GNU_SOURCE
#include "command.h"

#include "made_up.h"

#include "../../tools/pvclock/registered.h"

#include <pvclock/guest.h>

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CPUS 4
#define MEMORY 0x8000

enum { AT_HYPERV = 0x1000, AT_NESTED = 0x2000, AT_PAGES = 0x3000, AT_SUSPEND = 0x4000 };

static struct guest {
	struct made_up made_up;
	struct machine machine;
	struct vdso_pages vdso;
	struct access access;
	struct registered registered;
	_Alignas(4096) uint8_t memory[MEMORY];
	uint64_t system_time[CPUS]; /* MSRs; all ones: this CPU has none to read */
	uint64_t hyperv_page, counter, suspend, nested;
	unsigned int writes; /* so often a writer comes in after a read of a page's body */
	bool closed;         /* memory may not be read */
} guest;

static bool read_msr(void *ctx, unsigned int cpu, uint32_t msr, uint64_t *value)
{
	(void)ctx;
	assert_in_range(cpu, 0, CPUS - 1);
	switch (msr) {
	case PVCLOCK_MSR_SYSTEM_TIME:
		*value = guest.system_time[cpu];
		return *value != UINT64_MAX;
	case PVCLOCK_HYPERV_MSR_REFERENCE_TSC:
		*value = guest.hyperv_page;
		return true;
	case PVCLOCK_HYPERV_MSR_TIME_REF_COUNT:
		*value = guest.counter;
		return true;
	case PVCLOCK_MSR_SUSPEND:
		*value = guest.suspend;
		return true;
	case PVCLOCK_MSR_NESTED:
		*value = guest.nested;
		return true;
	default:
		fail_msg("MSR 0x%x is read", msr);
		return false;
	}
}

static bool read_memory(void *ctx, uint64_t gpa, void *bytes, size_t size)
{
	(void)ctx;
	if (guest.closed || gpa >= MEMORY || size > MEMORY - gpa)
		return false;
	memcpy(bytes, guest.memory + gpa, size);
	if (size == sizeof(struct pvclock_page) && guest.writes > 0) {
		struct pvclock_line next = { 5000, 7000 + guest.writes--, 1u << 31, 0 };

		pvclock_page_write(guest.memory + gpa, &next, 0);
	}
	return true;
}

static const struct pvclock_line line = { 1000, 123457789, 1u << 31, 0 };

/* All is offered, registered, and of one line. */
static void begin(void)
{
	struct pvclock_hyperv_line hyperv;

	registered_clear(&guest.registered);
	memset(&guest, 0, sizeof(guest));
	made_up_init(&guest.made_up);
	guest.machine = (struct machine){ .guest = true, .kvm = true, .kvm_features = 1u << 3, .hyperv = true,
					  .hyperv_features = PVCLOCK_HYPERV_FEATURES,
					  .parent = { .guest = true, .base = 0x40000200, .version = 1,
						      .features = PVCLOCK_FEATURES } };
	guest.access = (struct access){ .read_msr = read_msr, .read_memory = read_memory };
	guest.vdso.pages[0].why = guest.vdso.pages[1].why = "not shown";
	for (unsigned int cpu = 0; cpu < CPUS; cpu++) {
		guest.system_time[cpu] = (AT_PAGES + cpu * 64) | PVCLOCK_MSR_ENABLE;
		pvclock_page_write(guest.memory + AT_PAGES + cpu * 64, &line, PVCLOCK_TSC_STABLE);
	}
	assert_true(pvclock_line_to_hyperv(&line, &hyperv));
	pvclock_hyperv_page_write(guest.memory + AT_HYPERV, &hyperv, 1);
	guest.hyperv_page = AT_HYPERV | 0xabe | PVCLOCK_MSR_ENABLE; /* bits 11:1 are the guest's own */
	guest.counter = pvclock_hyperv_time(&hyperv, guest.made_up.tsc + 40); /* between two reads of the TSC */
}

static json_t *look(void)
{
	json_t *json = json_object();

	registered_clear(&guest.registered);
	look_at_registered(&guest.made_up.os, &guest.machine, &guest.access, CPUS, &guest.vdso, &guest.registered);
	json_object_set_new(json, "pages", pages_to_json(guest.registered.pages, guest.registered.count));
	json_object_set_new(json, "apart", apart_to_json(&guest.registered.apart));
	set_registered(json, &guest.registered);
	return json;
}

static void print_it(const void *registered)
{
	print_registered(registered);
}

static const char *text(void)
{
	return printed(print_it, &guest.registered);
}

/* --- the clock -------------------------------------------------------------------------------------------- */

static void each_vcpu_and_hyperv_is_told(void **state)
{
	json_t *json;

	(void)state;
	begin();
	json = look();
	assert_int_equal(json_array_size(at_path(json, "pages")), CPUS + 1);
	assert_string_equal(text_at(json, "pages.3.whose"), "vCPU 3");
	assert_int_equal(number_at(json, "pages.3.gpa"), AT_PAGES + 3 * 64);
	assert_int_equal(number_at(json, "pages.3.system_time"), line.ns);
	assert_int_equal(number_at(json, "pages.4.gpa"), AT_HYPERV);
	assert_int_equal(number_at(json, "pages.4.sequence"), 2);
	assert_int_equal(number_at(json, "apart.pvclock_ns"), 0);
	assert_in_range(json_integer_value(at_path(json, "apart.hyperv_ns")) + 100, 0, 202);
	assert_int_equal(number_at(json, "hyperv_counter.units"), guest.counter);
	assert_int_equal(json_integer_value(at_path(json, "hyperv_counter.off_ns")), 0);
	assert_printed(text(), "pages vCPU 0 to vCPU 3: live, tsc-stable, version 2 "
			       "123457789 ns at tick 1000, mul 2147483648, shift 0 "
			       "Hyper-V at 0x1000: live, sequence 2");
	assert_printed(text(), "apart pvclock pages: 0 ns at most");
	assert_printed(text(), "as its page has it");
	json_decref(json);
}

static void the_largest_distance_is_of_any_two(void **state)
{
	struct pvclock_line other = line;
	json_t *json;

	(void)state;
	begin();
	other.ns += 5;
	pvclock_page_write(guest.memory + AT_PAGES + 64, &other, PVCLOCK_TSC_STABLE);
	other.ns -= 12;
	pvclock_page_write(guest.memory + AT_PAGES + 128, &other, PVCLOCK_TSC_STABLE);
	json = look();
	assert_int_equal(number_at(json, "apart.pvclock_ns"), 12);
	json_decref(json);
	other.ns -= 1000000;
	pvclock_page_write(guest.memory + AT_PAGES + 128, &other, PVCLOCK_TSC_STABLE);
	json = look();
	assert_int_equal(number_at(json, "apart.pvclock_ns"), 1000012);
	assert_in_range(number_at(json, "apart.most_ns"), 1000012, 1000007 + 102);
	assert_printed(text(), "vCPU 0 at 0x3000: live");
	assert_printed(text(), "vCPU 2 at 0x3080: live");
	assert_printed(text(), "pvclock pages: 1000012 ns at most");
	json_decref(json);
}

static void a_counter_beside_its_page_is_told(void **state)
{
	json_t *json;

	(void)state;
	/* 30 ticks are 15 ns: the page's two readings are the same unit, mostly; a counter of the next one is beside them */
	begin();
	guest.counter += 2;
	json = look();
	assert_in_range(json_integer_value(at_path(json, "hyperv_counter.off_ns")), 100, 200);
	assert_printed(text(), "ns from its page");
	json_decref(json);
	begin();
	guest.counter -= 2;
	json = look();
	assert_in_range(-json_integer_value(at_path(json, "hyperv_counter.off_ns")), 100, 200);
	json_decref(json);
	begin();
	guest.hyperv_page = 0;
	json = look();
	assert_null(json_object_get(at_path(json, "hyperv_counter"), "off_ns"));
	assert_printed(text(), "there is no page to compare it with");
	assert_printed(text(), "Hyper-V: not live (not registered)");
	json_decref(json);
}

static void a_page_is_read_whole(void **state)
{
	json_t *json;

	(void)state;
	begin();
	guest.writes = 3; /* all on vCPU 0's page */
	json = look();
	assert_int_equal(number_at(json, "pages.0.version"), 8);
	assert_int_equal(number_at(json, "pages.0.system_time"), 7001);
	json_decref(json);
	begin();
	guest.writes = 1000;
	json = look();
	assert_string_equal(text_at(json, "pages.0.why"), "it is being written");
	json_decref(json);
	begin();
	guest.memory[AT_PAGES] |= 1; /* its writer has died */
	json = look();
	assert_string_equal(text_at(json, "pages.0.why"), "it is being written");
	assert_true(json_is_true(at_path(json, "pages.1.live")));
	json_decref(json);
}

static void what_is_not_there_is_told(void **state)
{
	json_t *json;

	(void)state;
	begin();
	guest.system_time[1] = 0;
	guest.system_time[2] = UINT64_MAX; /* offline */
	guest.system_time[3] = MEMORY | PVCLOCK_MSR_ENABLE;
	json = look();
	assert_int_equal(json_array_size(at_path(json, "pages")), 4);
	assert_string_equal(text_at(json, "pages.1.why"), "not registered");
	assert_string_equal(text_at(json, "pages.2.whose"), "vCPU 3");
	assert_string_equal(text_at(json, "pages.2.why"), "this process may not read its memory");
	json_decref(json);
	/* what every process sees of vCPU 0's page stands in for its memory; that of another vCPU nobody sees */
	begin();
	guest.closed = true;
	shown_page_read(&guest.vdso.pages[SHOWN_PVCLOCK], SHOWN_PVCLOCK, guest.memory + AT_PAGES);
	json = look();
	assert_true(json_is_true(at_path(json, "pages.0.live")));
	assert_int_equal(number_at(json, "pages.0.gpa"), AT_PAGES);
	assert_int_equal(number_at(json, "pages.0.system_time"), line.ns);
	assert_string_equal(text_at(json, "pages.1.why"), "this process may not read its memory");
	json_decref(json);
	/* nothing is read that was not offered */
	begin();
	guest.machine.hyperv_features = guest.machine.parent.features = 0;
	json = look();
	assert_int_equal(json_array_size(at_path(json, "pages")), CPUS);
	assert_true(json_is_null(at_path(json, "hyperv_counter")));
	assert_true(json_is_null(at_path(json, "suspend")));
	assert_true(json_is_null(at_path(json, "nested")));
	assert_not_printed(text(), "VMClock");
	json_decref(json);
}

/* --- beside the clock ---------------------------------------------------------------------------------------- */

static void suspend_and_nested_pages_are_told(void **state)
{
	const struct pvclock_suspend slept = { .cause = PVCLOCK_CAUSE_MIGRATION, .count = 3, .uncounted_ns = 44,
					       .counted_ns = 55, .counter = 66 };
	const struct pvclock_line_change change = { .old = line, .next = line, .old_ticks = 2000, .next_ticks = 2000 };
	struct pvclock_nested_page *page = (struct pvclock_nested_page *)(void *)(guest.memory + AT_NESTED);
	json_t *json;

	(void)state;
	begin();
	json = look();
	assert_printed(text(), "suspend no page (not registered)");
	assert_printed(text(), "nested no page (not registered)");
	json_decref(json);
	guest.suspend = AT_SUSPEND | PVCLOCK_MSR_ENABLE;
	guest.nested = AT_NESTED | PVCLOCK_MSR_ENABLE;
	json = look(); /* zeros: the host has not written */
	assert_false(json_is_true(at_path(json, "suspend.live")));
	assert_printed(text(), "suspend page at 0x4000: not live (nobody writes there)");
	assert_printed(text(), "nested page at 0x2000: not live (nobody writes there)");
	json_decref(json);

	pvclock_suspend_write(guest.memory + AT_SUSPEND, &slept);
	pvclock_nested_begin(page);
	pvclock_nested_enter(page, 0, &(struct pvclock_nested_entry){ .gpa = 0x5000, .kind = PVCLOCK_NESTED_PAGE });
	pvclock_nested_enter(page, 1, &(struct pvclock_nested_entry){ .gpa = 0x5040, .kind = PVCLOCK_NESTED_PAGE });
	pvclock_nested_enter(page, 3, &(struct pvclock_nested_entry){ .gpa = 0x6000, .kind = PVCLOCK_NESTED_TABLE, .under = 1 });
	pvclock_nested_tell(page, &change, 2, 1);
	json = look();
	assert_int_equal(number_at(json, "suspend.count"), 3);
	assert_string_equal(text_at(json, "suspend.cause"), "migration");
	assert_int_equal(number_at(json, "suspend.uncounted_ns"), 44);
	assert_int_equal(number_at(json, "suspend.counter"), 66);
	assert_int_equal(number_at(json, "nested.generation"), 1);
	assert_int_equal(number_at(json, "nested.acknowledged"), 0);
	assert_int_equal(number_at(json, "nested.pages"), 2);
	assert_int_equal(number_at(json, "nested.tables"), 1);
	assert_int_equal(number_at(json, "nested.rewritten"), 2);
	assert_int_equal(number_at(json, "nested.refused"), 1);
	assert_printed(text(), "generation 1, not acknowledged entries: 2 pvclock pages, 1 tables "
			       "at the last change 2 rewritten, 1 refused");
	json_decref(json);
	pvclock_nested_acknowledge(page, 1);
	json_decref(look());
	assert_printed(text(), "generation 1, acknowledged");
}

static void vmclock_is_compared_with_the_page_and_the_day(void **state)
{
	static _Alignas(4096) uint8_t page[4096];
	/* at its tick it is 2000 s TAI; a tick is half a ns and 40 ppm more */
	struct pvclock_vmclock clock = { .size = 4096, .counter_id = PVCLOCK_VMCLOCK_COUNTER_TSC, .time_type = PVCLOCK_VMCLOCK_TAI,
					 .status = PVCLOCK_VMCLOCK_SYNCHRONIZED, .tai_offset = 37,
					 .flags = PVCLOCK_VMCLOCK_TAI_OFFSET_VALID,
					 .counter = 9000000000, .sec = 2000, .period_shift = 20 };
	json_t *json;

	(void)state;
	begin();
	json = look();
	assert_false(json_is_true(at_path(json, "vmclock.live")));
	json_decref(json);
	/* in units of 2^-84 s */
	clock.period = (uint64_t)(18446744073709551616.0 * 1048576 * 0.5e-9 * (1 + 40e-6) + 0.5);
	guest.access.vmclock = page;
	json_decref(look());
	assert_printed(text(), "VMClock not live (it is no page of version 1)");
	pvclock_vmclock_write(page, &clock);
	guest.made_up.tsc = 9000000000;
	/* CLOCK_REALTIME there: 1963 s, which is UTC, less 5000 ns */
	guest.made_up.realtime_ns = 1963000000000 - 5000 - pvclock_line_ns(&guest.made_up.raw, 9000000000);
	json = look();
	assert_true(json_is_true(at_path(json, "vmclock.live")));
	assert_string_equal(text_at(json, "vmclock.type"), "TAI");
	assert_string_equal(text_at(json, "vmclock.status"), "synchronized");
	assert_int_equal(number_at(json, "vmclock.seconds"), 2000);
	assert_true(json_real_value(at_path(json, "vmclock.rate_ppb")) > 39999.999 &&
		    json_real_value(at_path(json, "vmclock.rate_ppb")) < 40000.001);
	/* the middle of 30 ns; some 300 reads of the TSC at 40 ppm are below 1 ns */
	assert_in_range(json_integer_value(at_path(json, "vmclock.realtime_ns")), 4998, 5001);
	assert_in_range(number_at(json, "vmclock.realtime_error_ns"), 15, 16);
	assert_printed(text(), "40000.000 ppb faster than the pvclock page");
	json_decref(json);
	clock.counter_id = PVCLOCK_VMCLOCK_COUNTER_INVALID; /* as QEMU's */
	pvclock_vmclock_write(page, &clock);
	json_decref(look());
	assert_printed(text(), "VMClock not live (it has no time in it)");
}

/* --- memory by its address ------------------------------------------------------------------------------------- */

static void memory_is_found_by_its_address(void **state)
{
	static const Elf64_Phdr segments[] = {
		{ .p_type = PT_NOTE, .p_offset = 0, .p_paddr = 0, .p_filesz = UINT64_MAX },
		{ .p_type = PT_LOAD, .p_offset = 0x600, .p_paddr = UINT64_MAX, .p_filesz = 0x100 }, /* as vmalloc's */
		{ .p_type = PT_LOAD, .p_offset = 0x400, .p_paddr = 0x1000, .p_filesz = 0x100 },
		{ .p_type = PT_LOAD, .p_offset = 0x500, .p_paddr = 0x100000000, .p_filesz = 0x100 },
	};
	uint8_t file[0x700] = { 0 }, bytes[0x101];
	struct kernel_memory memory;
	Elf64_Ehdr head = { .e_phoff = sizeof(head), .e_phentsize = sizeof(segments[0]), .e_phnum = 4 };

	(void)state;
	memcpy(head.e_ident, ELFMAG, SELFMAG);
	head.e_ident[EI_CLASS] = ELFCLASS64;
	memcpy(file, &head, sizeof(head));
	memcpy(file + sizeof(head), segments, sizeof(segments));
	for (size_t i = 0x400; i < sizeof(file); i++)
		file[i] = (uint8_t)(i * 7 + i / 256);
	write_file(in_folder("kcore"), file, sizeof(file));
	kernel_memory_open(&memory, in_folder("kcore"));
	assert_true(read_kernel_memory(&memory, 0x1000, bytes, 0x100));
	assert_memory_equal(bytes, file + 0x400, 0x100);
	assert_true(read_kernel_memory(&memory, 0x1000000e0, bytes, 0x20));
	assert_memory_equal(bytes, file + 0x5e0, 0x20);
	assert_false(read_kernel_memory(&memory, 0x1000, bytes, 0x101));
	assert_false(read_kernel_memory(&memory, 0x10e1, bytes, 0x20));
	assert_false(read_kernel_memory(&memory, 0xfff, bytes, 1));
	assert_false(read_kernel_memory(&memory, UINT64_MAX, bytes, 1));
	kernel_memory_close(&memory);
	kernel_memory_open(&memory, in_folder("nowhere"));
	assert_false(read_kernel_memory(&memory, 0x1000, bytes, 1));
	kernel_memory_close(&memory);
	file[0] = 0; /* no ELF */
	write_file(in_folder("kcore"), file, sizeof(file));
	kernel_memory_open(&memory, in_folder("kcore"));
	assert_false(read_kernel_memory(&memory, 0x1000, bytes, 1));
	kernel_memory_close(&memory);
}

/* A page of this process, found in the machine's memory: root, on a kernel with kcore. */
static void this_machines_memory_is_read(void **state)
{
	uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), copy[64];
	uint64_t entry = 0, first = (uintptr_t)page / 4096;
	struct kernel_memory memory;
	int pagemap;

	(void)state;
	assert_ptr_not_equal(page, MAP_FAILED);
	for (unsigned int i = 0; i < 4096; i++)
		page[i] = (uint8_t)(i * i + i / 256);
	assert_int_equal(mlock(page, 4096), 0);
	kernel_memory_open(&memory, "/proc/kcore");
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pagemap < 0 || pread(pagemap, &entry, 8, (off_t)(first * 8)) != 8 || (entry & ((1ull << 55) - 1)) == 0 || memory.kcore < 0) {
		print_message("[  SKIP    ] /proc/kcore is not there, or this user may not read it\n");
		skip();
	}
	assert_true(read_kernel_memory(&memory, (entry & ((1ull << 55) - 1)) * 4096 + 1000, copy, sizeof(copy)));
	assert_memory_equal(copy, page + 1000, sizeof(copy));
	close(pagemap);
	kernel_memory_close(&memory);
	munmap(page, 4096);
}

static int end(void **state)
{
	(void)state;
	registered_clear(&guest.registered);
	guest.registered.pages = NULL;
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(each_vcpu_and_hyperv_is_told, end),
		cmocka_unit_test_teardown(the_largest_distance_is_of_any_two, end),
		cmocka_unit_test_teardown(a_counter_beside_its_page_is_told, end),
		cmocka_unit_test_teardown(a_page_is_read_whole, end),
		cmocka_unit_test_teardown(what_is_not_there_is_told, end),
		cmocka_unit_test_teardown(suspend_and_nested_pages_are_told, end),
		cmocka_unit_test_teardown(vmclock_is_compared_with_the_page_and_the_day, end),
		cmocka_unit_test_setup_teardown(memory_is_found_by_its_address, make_folder, remove_folder),
		cmocka_unit_test(this_machines_memory_is_read),
	};

	return cmocka_run_group_tests_name("registered", tests, NULL, NULL);
}
