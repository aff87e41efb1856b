// SPDX-License-Identifier: MIT
/*
 * clock.c - every vCPU reads its clock for as long as it may, and logs (guest TSC, ns) for the judge. vCPU 0 tells the seconds.
 */
#include "runtime.h"

static struct {
	_Alignas(64) struct pvclock_page page;
} pages[VMM_VCPUS_MAX]; /* a cache line each */
static _Alignas(64) struct pvclock_wall_clock wall_clock;

/* For people: the whole seconds, as they begin. */
static void tell_seconds(uint64_t ns, uint64_t *told)
{
	char text[32] = "clock: ", digits[20];
	size_t length = 7, count = 0;
	uint64_t seconds = ns / 1000000000u;

	if (seconds == *told)
		return;
	*told = seconds;
	do
		digits[count++] = (char)('0' + seconds % 10);
	while ((seconds /= 10) != 0);
	while (count > 0)
		text[length++] = digits[--count];
	text[length++] = '\n';
	text[length] = '\0';
	guest_print(text);
}

static void read_once(struct vmm_shared *shared, struct vmm_ring *ring, uint16_t index, uint64_t *previous)
{
	struct pvclock_page *page = &pages[index].page;
	struct pvclock_reading reading;

	/* Whatever another vCPU published before we read may not lie ahead of what we read. */
	uint64_t last = atomic_load_explicit(&shared->last, memory_order_acquire);
	enum pvclock_read result = pvclock_read_clock(page, &reading);

	if (result == PVCLOCK_READ_OK) {
		uint64_t ns = reading.ns;
		/* Without the flag the pages need not agree: what the guest may use is what the guard lets through. */
		if ((reading.flags & PVCLOCK_TSC_STABLE) == 0) {
			guest_count(&ring->unstable);
			ns = pvclock_guard(&shared->last, ns);
		}
		if (ns < last)
			guest_count(&ring->backwards_cross);
		if (ns < *previous)
			guest_count(&ring->backwards);
		*previous = ns;
		pvclock_guard(&shared->last, ns);
	}
	if ((reading.flags & PVCLOCK_GUEST_STOPPED) != 0 && pvclock_take_guest_stopped(page))
		guest_count(&ring->stopped);
	guest_log_reading(ring, &reading, reading.version, result, index);
}

void guest_main(uint64_t index, struct vmm_shared *shared)
{
	struct vmm_ring *ring = &shared->ring[index];
	uint64_t previous = 0, told = 0;

	guest_write_msr(PVCLOCK_MSR_SYSTEM_TIME, (uintptr_t)&pages[index].page | PVCLOCK_MSR_ENABLE);
	if (index == 0) {
		uint64_t wall_ns;
		guest_write_msr(PVCLOCK_MSR_WALL_CLOCK, (uintptr_t)&wall_clock);
		if (pvclock_wall_clock_read(&wall_clock, &wall_ns) == PVCLOCK_READ_OK)
			atomic_store(&shared->wall_ns, wall_ns);
	}
	atomic_fetch_add(&shared->started, 1);
	while (atomic_load_explicit(&shared->stop, memory_order_acquire) == 0) {
		read_once(shared, ring, (uint16_t)index, &previous);
		if (index == 0)
			tell_seconds(previous, &told);
		guest_pace(shared);
	}
	guest_leave(shared);
}
