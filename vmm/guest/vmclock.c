// SPDX-License-Identifier: MIT
/*
 * vmclock.c - every vCPU reads VMClock's page beside its clock page, both at one tick, and logs what each of them said. So the
 * judge sees whether they are one state, and holds VMClock against the host's own time of day.
 */
#include "runtime.h"

#include <pvclock/vmclock.h>

#define TRIES 1000u /* a page that is written a thousand times while it is read, is none */

static struct {
	_Alignas(VMM_PAGE_STRIDE) struct pvclock_page page;
} pages[VMM_VCPUS_MAX];

/* Both pages at one tick: of VMClock's, the copy that held when the counter was read. */
static bool read_both(const struct pvclock_vmclock_page *page, uint16_t index, struct pvclock_vmclock *clock,
		      struct pvclock_reading *reading)
{
	for (uint32_t tries = 0; tries < TRIES; tries++) {
		if (pvclock_vmclock_read(page, clock) != PVCLOCK_READ_OK ||
		    pvclock_read_clock(&pages[index].page, reading) != PVCLOCK_READ_OK)
			return false;
		pvclock_fence_acquire();
		if (pvclock_load_relaxed_u32(&page->seq_count) == clock->sequence)
			return true;
	}
	return false;
}

static void log_page(struct vmm_ring *ring, const struct pvclock_vmclock *clock, uint16_t vcpu)
{
	struct vmm_ring_entry entry = { .version = clock->sequence, .vcpu = vcpu };
	struct pvclock_vmclock_time from;

	pvclock_vmclock_at(clock, clock->counter, &from);
	entry.result = VMM_VMCLOCK_FROM;
	entry.tsc = clock->counter;
	entry.ns = pvclock_vmclock_ns(&from);
	guest_log(ring, &entry);
	entry.result = VMM_VMCLOCK_MARKS;
	entry.tsc = clock->marker;
	entry.ns = clock->generation;
	guest_log(ring, &entry);
	entry.result = VMM_VMCLOCK_ERRORS;
	entry.flags = clock->period_shift;
	entry.tsc = clock->period_max_error;
	entry.ns = from.max_error_ns;
	guest_log(ring, &entry);
}

void guest_main(uint64_t index, struct vmm_shared *shared)
{
	const struct pvclock_vmclock_page *page = (const void *)shared->vmclock_gpa;
	struct vmm_ring *ring = &shared->ring[index];
	uint32_t last = 1, barrier = 0; /* no page is read at an odd number */

	guest_barrier(shared, &barrier);
	if (!page)
		guest_exit(VMM_VMCLOCK_NONE);
	guest_write_msr(PVCLOCK_MSR_SYSTEM_TIME, (uintptr_t)&pages[index].page | PVCLOCK_MSR_ENABLE);
	atomic_fetch_add(&shared->started, 1);
	while (atomic_load_explicit(&shared->stop, memory_order_acquire) == 0) {
		struct pvclock_vmclock clock;
		struct pvclock_vmclock_time time;
		struct pvclock_reading reading;

		if (read_both(page, (uint16_t)index, &clock, &reading)) {
			pvclock_vmclock_at(&clock, reading.tsc.ticks, &time);
			if (clock.sequence != last)
				log_page(ring, &clock, (uint16_t)index);
			last = clock.sequence;
			guest_log_reading(ring, &reading, reading.version, PVCLOCK_READ_OK, (uint16_t)index);
			guest_log(ring, &(struct vmm_ring_entry){
				.tsc = reading.tsc.ticks,
				.ns = pvclock_vmclock_ns(&time),
				.version = clock.sequence,
				.flags = clock.status,
				.result = VMM_VMCLOCK_TIME,
				.vcpu = (uint16_t)index,
			});
		} else {
			guest_count(&ring->failed);
		}
		guest_pace(shared);
	}
	guest_leave(shared);
}
