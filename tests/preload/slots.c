/* SPDX-License-Identifier: MIT */
/*
 * Guest memory that is added, removed, moved and given other flags, with the clock's page in it; and the VMM's dirty
 * log, which has to hold that page once for each time it was written.
 */
#include "qemu_like.h"

#include <string.h>
#include <sys/mman.h>

#define SLOT 1
#define SLOT_GPA 0x100000ull
#define MOVED_GPA 0x300000ull
#define SLOT_SIZE 0x4000u
#define IN_SLOT 0x1040u /* the page's place */

static uint8_t *extra_memory(void)
{
	void *memory = mmap(NULL, SLOT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static bool stop_and_go_on(struct plain *plain)
{
	struct plain_stop stop;

	plain_stop(plain, &stop);
	plain_go_on(plain, stop.clock.clock);
	return plain_rdtsc(plain, 0) != 0;
}

static bool has_line(const uint8_t *memory)
{
	struct pvclock_snapshot snapshot;

	return pvclock_page_read(memory + IN_SLOT, &snapshot) == PVCLOCK_READ_OK;
}

void slots_come_and_go(struct like *like)
{
	uint8_t *memory = extra_memory(), *other = extra_memory();
	struct plain plain;

	plain_start(&plain, 1);
	plain_memory(&plain, SLOT, 0, SLOT_GPA, SLOT_SIZE, memory);
	check(like, plain_wrmsr(&plain, 0, PVCLOCK_MSR_SYSTEM_TIME, (SLOT_GPA + IN_SLOT) | 1) && stop_and_go_on(&plain) && has_line(memory),
	      "a page in memory that was added");
	plain_memory(&plain, SLOT, KVM_MEM_LOG_DIRTY_PAGES, SLOT_GPA, SLOT_SIZE, memory);
	memset(memory, 0, SLOT_SIZE);
	check(like, stop_and_go_on(&plain) && has_line(memory), "other flags leave it where it is");
	plain_memory(&plain, SLOT, 0, SLOT_GPA, 0, memory);
	memset(memory, 0, SLOT_SIZE);
	stop_and_go_on(&plain);
	check(like, !has_line(memory), "memory that was removed is not written any more");
	mprotect(memory, SLOT_SIZE, PROT_NONE);
	check(like, stop_and_go_on(&plain), "nor touched");
	mprotect(memory, SLOT_SIZE, PROT_READ | PROT_WRITE);
	plain_memory(&plain, SLOT, 0, SLOT_GPA, SLOT_SIZE, other);
	check(like, stop_and_go_on(&plain) && has_line(other) && !has_line(memory), "memory that comes to its place holds the page again");
	plain_memory(&plain, SLOT, 0, MOVED_GPA, SLOT_SIZE, other);
	memset(other, 0, SLOT_SIZE);
	stop_and_go_on(&plain);
	check(like, !has_line(other), "moved away, it does not");
	check(like, plain_wrmsr(&plain, 0, PVCLOCK_MSR_SYSTEM_TIME, (MOVED_GPA + IN_SLOT) | 1) && stop_and_go_on(&plain) && has_line(other),
	      "and does where it was moved to");
	plain_memory(&plain, SLOT, 0, MOVED_GPA, 0, other);
	memset(other, 0, SLOT_SIZE);
	plain_memory(&plain, SLOT, KVM_MEM_READONLY, MOVED_GPA, SLOT_SIZE, other);
	if (like->own) /* the kernel takes the value and writes nothing */
		check(like, !plain_wrmsr(&plain, 0, PVCLOCK_MSR_SYSTEM_TIME, (MOVED_GPA + IN_SLOT) | 1), "a page in ROM is a #GP");
	stop_and_go_on(&plain);
	check(like, !has_line(other), "ROM is not written");
	plain_destroy(&plain);
	munmap(memory, SLOT_SIZE);
	munmap(other, SLOT_SIZE);
}

/* Pages that the log tells now, as a bitmap of the slot's 4. 0xff...: it could not be had. */
static uint64_t dirty(struct plain *plain)
{
	uint64_t bitmap = 0;
	struct kvm_dirty_log log = { .slot = SLOT, .dirty_bitmap = &bitmap };

	return plain_ioctl(plain->vm_fd, KVM_GET_DIRTY_LOG, &log) == 0 ? bitmap : UINT64_MAX;
}

void dirty_pages_are_told_once(struct like *like)
{
	const uint64_t page = 1ull << (IN_SLOT >> 12);
	uint8_t *memory = extra_memory();
	struct plain plain;
	uint64_t first, second;

	plain_start(&plain, 1);
	/* A ring is the kernel's alone to write, so in own mode there is none to be had (192: KVM_CAP_DIRTY_LOG_RING). */
	check(like, plain_ioctl(plain.vm_fd, KVM_CHECK_EXTENSION, (void *)192) ==
	      (like->own ? 0 : kernel_only(plain.vm_fd, KVM_CHECK_EXTENSION, (void *)192)), "a dirty ring is offered where it can be kept");
	plain_memory(&plain, SLOT, 0, SLOT_GPA, SLOT_SIZE, memory);
	plain_wrmsr(&plain, 0, PVCLOCK_MSR_SYSTEM_TIME, (SLOT_GPA + IN_SLOT) | 1);
	check(like, dirty(&plain) == UINT64_MAX, "a slot without a log has none");
	plain_memory(&plain, SLOT, KVM_MEM_LOG_DIRTY_PAGES, SLOT_GPA, SLOT_SIZE, memory);
	if (like->own) /* other flags are no other memory */
		check(like, dirty(&plain) == page, "what was written before the log was asked for is not forgotten");
	stop_and_go_on(&plain);
	dirty(&plain);
	for (unsigned int i = 0; i < 3; i++) {
		first = dirty(&plain);
		stop_and_go_on(&plain);
		second = dirty(&plain);
		check(like, first == 0 && second == page, "a stop: the clock's page is in the log: %#llx before, %#llx after",
		      (unsigned long long)first, (unsigned long long)second);
		second = dirty(&plain);
		check(like, second == 0, "and only once: %#llx", (unsigned long long)second);
	}
	/* A page across two, which the ABI allows. */
	plain_wrmsr(&plain, 0, PVCLOCK_MSR_SYSTEM_TIME, (SLOT_GPA + 0x2ff0) | 1);
	plain_rdtsc(&plain, 0);
	if (like->own)
		check(like, dirty(&plain) == (1ull << 2 | 1ull << 3), "a clock's page across two pages is in both");
	plain_destroy(&plain);
	munmap(memory, SLOT_SIZE);
}
