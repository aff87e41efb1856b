// SPDX-License-Identifier: MIT
/*
 * deadlines.c - every vCPU asks for a time by its clock, arms its APIC's timer with the first tick that reaches it, sleeps, and logs
 * when it woke: over and over, from 1/16 ms to some ms ahead, and now and then much further.
 *
 * The judge sets argument[0]: the longest of the usual sleeps, ns; argument[1]: of the others; argument[2]: by how many ticks each
 * vCPU's TSC is to be ahead of the one before it. Each clock reading is also held against the largest that any vCPU has told.
 *
 * A line may change between the page's reading and the timer's arming, as it may in any guest. So the page is looked at again
 * afterwards: what was armed by a line that had already gone is taken back and asked for again. A line that changes
 * later is the host's affair.
 */
#include "runtime.h"

#define SHORTEST_NS 62500u
#define LONG_ONES 8u /* one in so many */

#define MSR_TSC_ADJUST 0x3bu

static struct {
	_Alignas(VMM_PAGE_STRIDE) struct pvclock_page page;
} pages[VMM_VCPUS_MAX];

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t pick_sleep(const struct vmm_shared *shared, uint64_t *random)
{
	uint64_t longest = shared->argument[next_random(random) % LONG_ONES == 0];

	return SHORTEST_NS + (longest > SHORTEST_NS ? next_random(random) % (longest - SHORTEST_NS) : 0);
}

/* Armed for `ns` by the page as it still is afterwards. False: there is no such tick. */
static bool arm(const struct pvclock_page *page, struct vmm_ring *ring, uint64_t ns, struct vmm_ring_entry *entry)
{
	struct pvclock_inverse inverse;
	struct pvclock_snapshot before, after;
	uint64_t tick;

	for (;;) {
		if (pvclock_page_read(page, &before) != PVCLOCK_READ_OK)
			continue;
		pvclock_inverse_make(&inverse, &before.line);
		if (!pvclock_first_tick(&inverse, ns, &tick))
			return false;
		guest_timer_arm(tick);
		if (pvclock_page_read(page, &after) == PVCLOCK_READ_OK && after.version == before.version)
			break;
		guest_timer_drain();
		guest_count(&ring->again);
	}
	*entry = (struct vmm_ring_entry){ .tsc = tick, .ns = ns, .version = before.version, .result = VMM_DEADLINE_ASKED };
	return true;
}

static void sleep_once(struct vmm_shared *shared, uint16_t index, uint64_t *random)
{
	struct pvclock_page *page = &pages[index].page;
	struct vmm_ring *ring = &shared->ring[index];
	struct pvclock_reading reading;
	struct vmm_ring_entry entry;
	uint64_t last;

	if (pvclock_read_clock(page, &reading) != PVCLOCK_READ_OK ||
	    !arm(page, ring, reading.ns + pick_sleep(shared, random), &entry)) {
		guest_count(&ring->failed);
		return;
	}
	entry.vcpu = index;
	guest_log(ring, &entry);
	while (!guest_timer_sleep())
		;
	last = atomic_load_explicit(&shared->last, memory_order_acquire);
	enum pvclock_read result = pvclock_read_clock(page, &reading);
	guest_timer_done();
	if (result != PVCLOCK_READ_OK)
		guest_count(&ring->failed);
	else if (reading.ns < last)
		guest_count(&ring->backwards_cross);
	pvclock_guard(&shared->last, reading.ns);
	if (pvclock_take_guest_stopped(page))
		guest_count(&ring->stopped);
	guest_log(ring, &(struct vmm_ring_entry){
		.tsc = reading.tsc.ticks,
		.ns = reading.ns,
		.version = reading.version,
		.flags = reading.flags,
		.result = VMM_DEADLINE_TAKEN,
		.vcpu = index,
	});
	guest_count(&ring->reads);
}

void guest_main(uint64_t index, struct vmm_shared *shared)
{
	static _Atomic uint32_t left;
	uint64_t random = (index + 1) * 0x9e3779b97f4a7c15ull;

	if (shared->argument[2] != 0)
		guest_write_msr(MSR_TSC_ADJUST, index * shared->argument[2]);
	if (index == 0)
		shared->pages_gpa = (uintptr_t)pages;
	guest_write_msr(PVCLOCK_MSR_SYSTEM_TIME, (uintptr_t)&pages[index].page | PVCLOCK_MSR_ENABLE);
	if (!guest_timer_start())
		guest_exit(VMM_DEADLINES_NONE);
	atomic_fetch_add(&shared->started, 1);
	while (atomic_load_explicit(&shared->stop, memory_order_acquire) == 0)
		sleep_once(shared, (uint16_t)index, &random);
	if (atomic_fetch_add(&left, 1) + 1 == shared->vcpus)
		guest_exit(0);
	guest_halt();
}
