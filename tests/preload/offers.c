/* SPDX-License-Identifier: MIT */
/*
 * What `pvclock run --offer` shows a guest: its leaves among the VMM's own, and a registration that goes where the
 * record goes, and not where there is none.
 */
#include "qemu_like.h"

#include <errno.h>
#include <pvclock/interface.h>
#include <pvclock/nested.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TABLE 0x8000u
#define CHILD 0x9000u   /* a page of a guest's guest */
#define REGISTERED (TABLE | PVCLOCK_MSR_ENABLE)

struct table {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[64];
};

/* A VMM that shows Hyper-V's leaves, and then KVM's. */
static void set_cpuid(struct plain *plain)
{
	struct table table = { .head.nent = 4, .entries = { { .function = 0, .eax = 1 }, { .function = 1 },
							    { .function = 0x40000000, .eax = 0x40000001, .ebx = 0x7263694d },
							    { .function = 0x40000100, .eax = 0x40000101, .ebx = 0x4b4d564b } } };

	if (plain_ioctl(plain->vcpus[0].fd, KVM_SET_CPUID2, &table) != 0)
		live_note("KVM_SET_CPUID2: %s", strerror(errno));
}

static const struct kvm_cpuid_entry2 *find_leaf(struct plain *plain, struct table *table, uint32_t leaf)
{
	*table = (struct table){ .head.nent = 64 };
	if (plain_ioctl(plain->vcpus[0].fd, KVM_GET_CPUID2, table) != 0) {
		live_note("KVM_GET_CPUID2: %s", strerror(errno));
		return NULL;
	}
	for (uint32_t i = 0; i < table->head.nent; i++)
		if (table->entries[i].function == leaf)
			return &table->entries[i];
	return NULL;
}

static void leaves_are_added(struct like *like, struct plain *plain, uint32_t features)
{
	const struct kvm_cpuid_entry2 *leaf;
	struct table table;

	set_cpuid(plain);
	leaf = find_leaf(plain, &table, 0x40000100);
	check(like, leaf && leaf->ebx == 0x4b4d564b, "offer: the VMM's own leaves are where they were");
	leaf = find_leaf(plain, &table, 0x40000200);
	check(like, (leaf && leaf->ebx == PVCLOCK_CPUID_SIGNATURE_EBX) == (features != 0), "offer: %s", features ? "ours are behind them" : "there is none");
	leaf = find_leaf(plain, &table, 0x40000201);
	check(like, (leaf ? leaf->eax : 0) == features, "offer: and say what is offered: %#x", leaf ? leaf->eax : 0);
	set_cpuid(plain);
	check(like, !find_leaf(plain, &table, 0x40000300), "offer: twice is once");
}

static bool registered(struct plain *plain)
{
	uint64_t value = 0;

	return plain_rdmsr(plain, 0, PVCLOCK_MSR_NESTED, &value) && value == REGISTERED;
}

static const struct pvclock_nested_page *table_of(const struct plain *plain)
{
	return (const struct pvclock_nested_page *)(plain->memory + TABLE);
}

/* A host in the guest, with one guest's page in its table, on this guest's own counter. */
static void become_host(struct like *like, struct plain *plain)
{
	struct pvclock_nested_page *table = (struct pvclock_nested_page *)(plain->memory + TABLE);
	struct pvclock_nested_entry entry = { .gpa = CHILD, .kind = PVCLOCK_NESTED_PAGE };
	struct pvclock_line line = plain_page(plain, 0).line;

	check(like, plain_wrmsr(plain, 0, PVCLOCK_MSR_NESTED, REGISTERED), "offer: a nested page is taken");
	check(like, table->magic == PVCLOCK_NESTED_MAGIC, "offer: and is written");
	pvclock_page_write(plain->memory + CHILD, &line, PVCLOCK_TSC_STABLE);
	pvclock_nested_enter(table, 0, &entry);
}

/* The page of the guest's guest, after something: that it was stopped says that the table was walked. */
static bool was_followed(struct plain *plain, struct pvclock_line *line)
{
	struct pvclock_page *page = (struct pvclock_page *)(plain->memory + CHILD);
	struct pvclock_snapshot child;

	if (pvclock_page_read(page, &child) != PVCLOCK_READ_OK)
		return false;
	*line = child.line;
	return pvclock_take_guest_stopped(page);
}

static bool same_line(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

struct moved {
	uint8_t memory[PLAIN_MEMORY];
	struct plain_stop stop;
};

/* As QEMU does it, in another VM; then it goes on. */
static void arrive(struct plain *plain, const struct moved *moved)
{
	struct plain_msrs msrs = { .head.nmsrs = 2, .entries = { { .index = 0x10, .data = moved->stop.tsc[0] },
								 { .index = PVCLOCK_MSR_SYSTEM_TIME_OLD, .data = PLAIN_PAGE(0) | PVCLOCK_MSR_ENABLE } } };

	plain_create(plain);
	plain_add_vcpu(plain, 0);
	set_cpuid(plain);
	memcpy(plain->memory, moved->memory, PLAIN_MEMORY);
	plain_ioctl(plain->vcpus[0].fd, KVM_SET_MSRS, &msrs);
	plain_go_on(plain, moved->stop.clock.clock);
	plain_rdtsc(plain, 0);
}

static void leave(struct plain *plain, struct moved *moved)
{
	plain_stop(plain, &moved->stop);
	memcpy(moved->memory, plain->memory, PLAIN_MEMORY);
}

static void nothing_unasked(struct like *like)
{
	struct plain plain;

	plain_start(&plain, 1);
	leaves_are_added(like, &plain, 0);
	check(like, !plain_wrmsr(&plain, 0, PVCLOCK_MSR_NESTED, REGISTERED), "offer: what is not offered faults");
	plain_destroy(&plain);
}

void an_offer_is_taken(struct like *like)
{
	const uint32_t features = like->own ? PVCLOCK_FEATURE_NESTED | PVCLOCK_FEATURE_SUSPEND : 0;
	char folder[] = "/tmp/pvclock-offers-XXXXXX", command[64];
	struct pvclock_line line = { 0 }, own, before;
	static struct moved moved, again;
	struct plain plain, other;
	uint64_t generation;

	nothing_unasked(like);
	if (mkdtemp(folder) == NULL)
		return (void)check(like, false, "a folder for records");
	setenv("PVCLOCK_OFFER", "suspend,nested", 1);
	setenv("PVCLOCK_RECORDS", folder, 1);
	plain_start(&plain, 1);
	leaves_are_added(like, &plain, features);
	if (!like->own)
		goto out;
	like_register(like, &plain, 1);
	become_host(like, &plain);
	before = plain_page(&plain, 0).line;
	leave(&plain, &moved);
	plain_go_on(&plain, moved.stop.clock.clock);
	plain_rdtsc(&plain, 0);
	check(like, was_followed(&plain, &line) && same_line(&line, &before), "offer: a pause tells the guest's guest, whose line stays");
	generation = table_of(&plain)->generation;

	arrive(&other, &moved);
	own = plain_page(&other, 0).line;
	check(like, registered(&other), "offer: with its record the registration arrives");
	check(like, was_followed(&other, &line) && same_line(&line, &own), "offer: and the guest's guest has the guest's line, wherever that went");
	check(like, table_of(&other)->generation == generation + (same_line(&own, &before) ? 0 : 1),
	      "offer: whose generation moves if it did: %llu to %llu", (unsigned long long)generation,
	      (unsigned long long)table_of(&other)->generation);
	check(like, like->honoured == same_line(&own, &before), "offer: it did where the counter could not be set");
	leave(&other, &again);
	plain_destroy(&other);

	unsetenv("PVCLOCK_RECORDS");
	before = line;
	arrive(&other, &again);
	check(like, !registered(&other), "offer: without a record nothing is registered");
	check(like, !was_followed(&other, &line) && same_line(&line, &before), "offer: and nothing is written");
	become_host(like, &other);
	plain_set_msr(&other, 0, PVCLOCK_MSR_SYSTEM_TIME_OLD, 0);
	check(like, !registered(&other), "offer: nor after a reset");
	plain_destroy(&other);
out:
	plain_destroy(&plain);
	unsetenv("PVCLOCK_OFFER");
	unsetenv("PVCLOCK_RECORDS");
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	if (system(command))
		live_note("%s is left", folder);
}
