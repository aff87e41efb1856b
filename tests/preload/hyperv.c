/* SPDX-License-Identifier: MIT */
/*
 * A guest that keeps time by Hyper-V's page alone, carried as QEMU carries it. One that has asked for re-enlightenment: by its three
 * MSRs, of which QEMU takes in none that says "enabled" in the TLFS's own bit; and told where it arrives, when its TSC has another
 * rate there. And one with a record, which says its clock in another form than that page.
 */
#include "qemu_like.h"

#include <errno.h>
#include <pvclock/hyperv.h>
#include <pvclock/guest.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 0x8000u
#define PAGE_ON (PAGE | PVCLOCK_MSR_ENABLE)
#define CONTROL PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL
#define EMULATION PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL
#define STATUS PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS
#define ASKED 0x100eeull      /* vCPU 0, vector 0xee */
#define QEMU_REFUSES 0x10000u /* target/i386/machine.c, HV_REENLIGHTENMENT_ENABLE_BIT */
#define RESERVED 0x20000u     /* the bit that says it instead */

struct carried {
	uint8_t memory[PLAIN_MEMORY];
	struct plain_stop stop;
	uint64_t page, control, emulation, status;
};

static void set_cpuid(struct plain *plain)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[5];
	} table = { .head.nent = 5,
		    .entries = { { .function = 0, .eax = 1 },
				 { .function = 1 },
				 { .function = 0x40000000, .eax = 0x40000003, .ebx = PVCLOCK_HYPERV_CPUID_SIGNATURE_EBX },
				 { .function = 0x40000001, .eax = PVCLOCK_HYPERV_CPUID_INTERFACE },
				 { .function = 0x40000003, .eax = PVCLOCK_HYPERV_FEATURES, .edx = PVCLOCK_HYPERV_CPUID_FREQUENCIES } } };

	if (plain_ioctl(plain->vcpus[0].fd, KVM_SET_CPUID2, &table) != 0)
		live_note("KVM_SET_CPUID2: %s", strerror(errno));
}

/* What the guest itself reads; all ones: #GP. */
static uint64_t reads(struct plain *plain, uint32_t msr)
{
	uint64_t value;

	return plain_rdmsr(plain, 0, msr, &value) ? value : UINT64_MAX;
}

static struct pvclock_hyperv_page page_of(const uint8_t *memory)
{
	struct pvclock_hyperv_page page;

	memcpy(&page, memory + PAGE, sizeof(page));
	return page;
}

static void carry_away(struct plain *plain, struct carried *carried)
{
	plain_stop(plain, &carried->stop);
	carried->page = plain_get_msr(plain, 0, PVCLOCK_HYPERV_MSR_REFERENCE_TSC);
	carried->control = plain_get_msr(plain, 0, CONTROL);
	carried->emulation = plain_get_msr(plain, 0, EMULATION);
	carried->status = plain_get_msr(plain, 0, STATUS);
	memcpy(carried->memory, plain->memory, PLAIN_MEMORY);
}

static void bring(struct plain *plain, const struct carried *carried)
{
	plain_create(plain);
	plain_add_vcpu(plain, 0);
	set_cpuid(plain);
	memcpy(plain->memory, carried->memory, PLAIN_MEMORY);
	plain_set_msr(plain, 0, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, carried->page);
	plain_set_msr(plain, 0, CONTROL, carried->control);
	plain_set_msr(plain, 0, EMULATION, carried->emulation);
	plain_set_msr(plain, 0, STATUS, carried->status);
	plain_set_msr(plain, 0, 0x10, carried->stop.tsc[0]);
	plain_go_on(plain, carried->stop.clock.clock);
}

/* As from a host whose TSC has half the rate: the page reads the same at the stop, and then another time. */
static void slow_down(struct carried *carried)
{
	struct pvclock_hyperv_page page = page_of(carried->memory);

	page.offset -= (int64_t)(((unsigned __int128)carried->stop.tsc[0] * page.scale) >> 64);
	page.scale *= 2;
	memcpy(carried->memory + PAGE, &page, sizeof(page));
}

static void values_are_kept(struct like *like, struct plain *plain)
{
	static const struct {
		uint64_t set, is; /* what the VMM sets over ASKED, and the guest then reads */
		const char *what;
	} cases[] = {
		{ 0, 0, "a reset" },
		{ 0xee, 0xee, "a stock host's guest that has not asked" },
		{ ASKED, ASKED, "a stock host's guest that has" },
		{ 0x3000200ee, 0x3000100ee, "the reserved bit, and another vCPU" },
		{ ASKED | RESERVED, ASKED, "both bits" },
		{ RESERVED | 0x0f, ASKED, "the reserved bit with a vector that is none" },
		{ RESERVED | 0x1ee, ASKED, "the reserved bit with another one" },
		{ 0x400ee, ASKED, "another reserved bit" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t value;

		plain_wrmsr(plain, 0, CONTROL, ASKED);
		plain_set_msr(plain, 0, CONTROL, cases[i].set);
		value = reads(plain, CONTROL);
		check(like, value == cases[i].is, "reenlighten: %s: the guest reads %#llx", cases[i].what, (unsigned long long)value);
	}
	check(like, !plain_wrmsr(plain, 0, CONTROL, RESERVED | 0xee), "reenlighten: the bit is no guest's to write");
	plain_wrmsr(plain, 0, CONTROL, 0xee);
	check(like, plain_get_msr(plain, 0, CONTROL) == 0xee, "reenlighten: what is not enabled is told as it is");
}

/* `another`: its TSC is, here. Then it was told, and acknowledges. */
static void arrives(struct like *like, const struct carried *carried, bool another, const char *name)
{
	struct plain plain;
	int64_t value = -1;
	uint64_t status;

	like_forget_log(like);
	bring(&plain, carried);
	status = reads(&plain, STATUS);
	check(like, reads(&plain, CONTROL) == ASKED && reads(&plain, EMULATION) == 1, "reenlighten: %s: it has asked here, too", name);
	check(like, status == another && like_event(like, "reenlighten", "vector", &value) == another && value == (another ? 0xee : -1),
	      "reenlighten: %s: it is %stold", name, another ? "" : "not ");
	check(like, (page_of(plain.memory).sequence == 0) == another, "reenlighten: %s: its page is %s", name, another ? "no clock yet" : "a clock");
	check(like, like_event(like, "acknowledged", NULL, &value) == 0, "reenlighten: %s: nothing is acknowledged", name);
	if (!another)
		return plain_destroy(&plain);
	check(like, plain_wrmsr(&plain, 0, STATUS, 0) && like_event(like, "acknowledged", "after_ns", &value) == 1 && value > 0,
	      "reenlighten: %s: it acknowledges, and how long that took is told", name);
	check(like, page_of(plain.memory).sequence != 0 && page_of(plain.memory).offset != page_of(carried->memory).offset,
	      "reenlighten: %s: and its page is the new clock", name);
	plain_wrmsr(&plain, 0, STATUS, 0);
	check(like, like_event(like, "acknowledged", NULL, &value) == 1, "reenlighten: %s: once", name);
	plain_destroy(&plain);
}

/*
 * A guest that never acknowledges: its page stays no clock, and whoever asks gets the truth from the counter; also where it goes on
 * elsewhere, though what QEMU carries then has the function nowhere.
 */
static void never_acknowledges(struct like *like, const struct carried *carried)
{
	const uint32_t counter = PVCLOCK_HYPERV_MSR_TIME_REF_COUNT;
	static struct carried again;
	struct plain plain, other;
	uint64_t before, after;
	int64_t value = 0;

	bring(&plain, carried);
	before = reads(&plain, counter);
	for (unsigned int i = 0; i < 3; i++) {
		carry_away(&plain, &again);
		plain_go_on(&plain, again.stop.clock.clock);
		after = reads(&plain, counter);
		check(like, after > before && after - before < 100000000, "reenlighten: not acknowledged, its counter goes on through a stop: %llu units",
		      (unsigned long long)(after - before));
		before = after;
	}
	carry_away(&plain, &again);
	check(like, again.status == 1 && page_of(again.memory).sequence == 0, "reenlighten: and its page is still no clock");
	like_forget_log(like);
	bring(&other, &again);
	after = reads(&other, counter);
	check(like, after > before && after - before < 100000000, "reenlighten: nor elsewhere: its counter goes on: %llu units",
	      (unsigned long long)(after - before));
	check(like, reads(&other, STATUS) == 1 && page_of(other.memory).sequence == 0, "reenlighten: and its page is no clock there");
	check(like, like_event(like, "reenlighten", NULL, &value) == 1 && like_event(like, "acknowledged", NULL, &value) == 0,
	      "reenlighten: that it has not acknowledged is in the log");
	check(like, plain_wrmsr(&other, 0, EMULATION, 0) && page_of(other.memory).sequence != 0 && like_event(like, "acknowledged", NULL, &value) == 1,
	      "reenlighten: one that wants to acknowledge no more has its page");
	plain_destroy(&other);
	plain_destroy(&plain);
}

void a_guest_is_reenlightened(struct like *like)
{
	static struct carried carried;
	struct plain plain;

	if (!like->own)
		return; /* it is KVM's own there */
	plain_create(&plain);
	plain_add_vcpu(&plain, 0);
	set_cpuid(&plain);
	plain_go_on(&plain, 0);
	check(like, plain_wrmsr(&plain, 0, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE_ON) && plain_wrmsr(&plain, 0, CONTROL, ASKED) &&
	      plain_wrmsr(&plain, 0, EMULATION, 1), "reenlighten: a guest asks");
	check(like, plain.msr_exits == 0, "reenlighten: and the VMM hears nothing of it");
	carry_away(&plain, &carried);
	check(like, !(carried.control & QEMU_REFUSES), "reenlighten: what is carried is nothing that QEMU refuses: %#llx",
	      (unsigned long long)carried.control);
	check(like, carried.control != 0 && carried.emulation == 1 && carried.status == 0, "reenlighten: and not nothing");
	plain_go_on(&plain, carried.stop.clock.clock);
	check(like, reads(&plain, CONTROL) == ASKED, "reenlighten: the guest reads what it wrote");
	arrives(like, &carried, !like->honoured, "at the same rate"); /* else its line moves with the counter */
	slow_down(&carried);
	arrives(like, &carried, true, "at another rate");
	never_acknowledges(like, &carried);
	values_are_kept(like, &plain);
	plain_destroy(&plain);
}

/* By Hyper-V's page its clock is told to a unit, and by its record exactly: they are of one clock all the same. */
void a_record_is_found_by_units(struct like *like)
{
	static struct carried carried;
	char folder[] = "/tmp/pvclock-records-XXXXXX", command[64];
	struct plain plain, other;
	int64_t recorded, counted;

	if (!like->own)
		return;
	if (mkdtemp(folder) == NULL)
		return (void)check(like, false, "a folder for records");
	setenv("PVCLOCK_RECORDS", folder, 1);
	setenv("PVCLOCK_POLICY", "migration=advance,advance_max_ns=1000000", 1);
	plain_create(&plain);
	plain_add_vcpu(&plain, 0);
	set_cpuid(&plain);
	plain_go_on(&plain, 0);
	plain_wrmsr(&plain, 0, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE_ON);
	for (unsigned int i = 0; i < 8; i++) { /* at another fraction of a unit each */
		carry_away(&plain, &carried);
		like_forget_log(like);
		recorded = counted = -1;
		bring(&other, &carried);
		reads(&other, STATUS);
		check(like, like_event(like, "arrive", "recorded", &recorded) == 1 && recorded == 1, "records: a guest of Hyper-V's page finds its own");
		like_event(like, "arrive", "counted_ns", &counted);
		check(like, counted == 1000000, "records: and counts what it says: %lld ns", (long long)counted);
		plain_destroy(&other);
		plain_go_on(&plain, carried.stop.clock.clock);
		reads(&plain, STATUS);
	}
	plain_destroy(&plain);
	unsetenv("PVCLOCK_POLICY");
	unsetenv("PVCLOCK_RECORDS");
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	if (system(command))
		live_note("%s is left", folder);
}
