// SPDX-License-Identifier: MIT
/*
 * suspend.c - every vCPU reads its clock, and under which sequence number of the suspend page it did; vCPU 0 also takes
 * the interrupt that says the page has changed, and logs BOOTTIME, as its library makes it, when that came and now and
 * then. So the judge sees what each vCPU read last before a gap and first after it, and whether anything was read in
 * between.
 *
 * Where the host offers no suspend page, the number is 0 for ever.
 */
#include "runtime.h"

#include <pvclock/clock.h>

#define BOOTTIME_EACH 16u

static struct pvclock_user_page user __attribute__((aligned(4096))); /* with vCPU 0's clock page */
static struct {
	_Alignas(VMM_PAGE_STRIDE) struct pvclock_page page;
} pages[VMM_VCPUS_MAX]; /* the other vCPUs' */
static pvclock_last last;

/* BOOTTIME between two ticks: .tsc is the first, .version their distance. */
static void log_boottime(struct vmm_ring *ring, const struct pvclock_page *page, uint8_t result)
{
	struct vmm_ring_entry entry = { .result = result };
	uint64_t after;

	entry.tsc = pvclock_read_tsc().ticks;
	if (pvclock_kernel_ns(&user, page, &last, PVCLOCK_BOOTTIME, &entry.ns) != PVCLOCK_READ_OK)
		guest_count(&ring->failed);
	after = pvclock_read_tsc().ticks;
	entry.version = after - entry.tsc < UINT32_MAX ? (uint32_t)(after - entry.tsc) : UINT32_MAX;
	guest_log(ring, &entry);
}

static void log_reading(struct vmm_ring *ring, const struct pvclock_page *page, uint16_t index)
{
	struct pvclock_reading reading;
	uint32_t sequence = pvclock_load_acquire_u32(&user.suspend.sequence);
	enum pvclock_read result = pvclock_read_clock(page, &reading);

	pvclock_fence_acquire();
	if ((sequence & 1) != 0 || pvclock_load_relaxed_u32(&user.suspend.sequence) != sequence) {
		guest_count(&ring->again); /* of neither */
		return;
	}
	guest_log_reading(ring, &reading, sequence, result, index);
}

static void be_told(struct vmm_ring *ring, const struct pvclock_page *page)
{
	struct pvclock_told told;
	uint64_t now;

	log_boottime(ring, page, VMM_SUSPEND_TOLD);
	if (pvclock_kernel_ns(&user, page, &last, PVCLOCK_MONOTONIC, &now) == PVCLOCK_READ_OK)
		pvclock_clocks_told(&user, now, &told);
	guest_timer_done();
}

void guest_main(uint64_t index, struct vmm_shared *shared)
{
	struct vmm_ring *ring = &shared->ring[index];
	struct pvclock_page *page = index == 0 ? &user.page : &pages[index].page;
	uint32_t barrier = 0;

	guest_write_msr(PVCLOCK_MSR_SYSTEM_TIME, (uintptr_t)page | PVCLOCK_MSR_ENABLE);
	guest_interrupts_start();
	if (index == 0) {
		shared->pages_gpa = (uintptr_t)&user;
		if (pvclock_interface_find() & PVCLOCK_FEATURE_SUSPEND) {
			guest_write_msr(PVCLOCK_MSR_SUSPEND_CONTROL, PVCLOCK_CONTROL_ENABLE | GUEST_VECTOR);
			guest_write_msr(PVCLOCK_MSR_SUSPEND, (uintptr_t)&user.suspend | PVCLOCK_MSR_ENABLE);
		}
	}
	guest_barrier(shared, &barrier);
	atomic_fetch_add(&shared->started, 1);
	for (uint32_t round = 0; atomic_load_explicit(&shared->stop, memory_order_acquire) == 0; round++) {
		if (guest_interrupt_poll())
			be_told(ring, page);
		if (index == 0 && round % BOOTTIME_EACH == 0)
			log_boottime(ring, page, VMM_SUSPEND_BOOTTIME);
		log_reading(ring, page, (uint16_t)index);
		guest_pace(shared);
	}
	guest_leave(shared);
}
