// SPDX-License-Identifier: MIT
/*
 * deadlines.c - every vCPU asks for a time by its clock, arms its timer for it, sleeps, and logs
 * when it woke: over and over, from 1/16 ms to some ms ahead, and now and then much further.
 *
 * The judge sets argument[0]: the longest of the usual sleeps, ns; argument[1]: of the others; argument[2]: by how many ticks each
 * vCPU's TSC is to be ahead of the one before it; argument[3]: the timer, as enum pvclock_timer_kind, 0: the best. Each clock
 * reading is also held against the largest that any vCPU has told.
 *
 * The timer is the library's, which looks after lines that change. What it puts right, it would also hide: an interrupt before its
 * time is logged, too.
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

static void log_reading(struct vmm_ring *ring, const struct pvclock_reading *reading, uint8_t result, uint16_t index)
{
	guest_log(ring, &(struct vmm_ring_entry){
		.tsc = reading->tsc.ticks,
		.ns = reading->ns,
		.version = reading->version,
		.flags = reading->flags,
		.result = result,
		.vcpu = index,
	});
}

struct waking {
	uint64_t last; /* what any vCPU had read before */
	struct pvclock_reading reading;
	enum pvclock_read result;
};

/*
 * Asleep until the time has come. *waking is of the last interrupt, read before the timer looks: it puts right what
 * came early, and that is told. `raced`: it was armed for a moment by a line that was being replaced, and may have
 * fired by that, which is nobody's fault.
 */
static bool sleep_until_due(struct vmm_shared *shared, struct pvclock_timer *timer, uint16_t index, bool raced, struct waking *waking)
{
	enum pvclock_timer_state state;
	uint64_t again;

	do {
		again = timer->again;
		pvclock_timer_check(timer);
		raced = raced || timer->again != again;
		while (!guest_timer_sleep())
			;
		waking->last = atomic_load_explicit(&shared->last, memory_order_acquire);
		waking->result = pvclock_read_clock(timer->page, &waking->reading);
		state = pvclock_timer_interrupt(timer);
		guest_timer_done();
		if (state == PVCLOCK_TIMER_ARMED && !raced)
			log_reading(&shared->ring[index], &waking->reading, VMM_DEADLINE_EARLY, index);
	} while (state == PVCLOCK_TIMER_ARMED);
	return state == PVCLOCK_TIMER_DUE;
}

/* *before: timer->again as it was when the sleep before this one began. An interrupt too many may be of that one. */
static void sleep_once(struct vmm_shared *shared, struct pvclock_timer *timer, uint16_t index, uint64_t *random, uint64_t *before)
{
	struct pvclock_page *page = &pages[index].page;
	struct vmm_ring *ring = &shared->ring[index];
	uint64_t again = *before, ns;
	struct pvclock_reading reading;
	struct waking waking;

	*before = timer->again;
	if (pvclock_read_clock(page, &reading) != PVCLOCK_READ_OK) {
		guest_count(&ring->failed);
		return;
	}
	ns = reading.ns + pick_sleep(shared, random);
	if (pvclock_timer_arm(timer, ns) != PVCLOCK_TIMER_ARMED) {
		guest_count(&ring->failed);
		return;
	}
	guest_log(ring, &(struct vmm_ring_entry){
		.tsc = timer->tick,
		.ns = ns,
		.version = timer->kind == PVCLOCK_TIMER_TSC ? timer->version : reading.version,
		.result = VMM_DEADLINE_ASKED,
		.vcpu = index,
	});
	if (!sleep_until_due(shared, timer, index, timer->again != again, &waking) || waking.result != PVCLOCK_READ_OK)
		guest_count(&ring->failed);
	else if (waking.reading.ns < waking.last)
		guest_count(&ring->backwards_cross);
	pvclock_guard(&shared->last, waking.reading.ns);
	if (pvclock_take_guest_stopped(page))
		guest_count(&ring->stopped);
	log_reading(ring, &waking.reading, VMM_DEADLINE_TAKEN, index);
	atomic_store_explicit(&ring->again, timer->again, memory_order_release);
	guest_count(&ring->reads);
}

void guest_main(uint64_t index, struct vmm_shared *shared)
{
	static struct pvclock_timer timers[VMM_VCPUS_MAX];
	uint64_t random = (index + 1) * 0x9e3779b97f4a7c15ull, again = 0;

	if (shared->argument[2] != 0)
		guest_write_msr(MSR_TSC_ADJUST, index * shared->argument[2]);
	if (index == 0)
		shared->pages_gpa = (uintptr_t)pages;
	guest_write_msr(PVCLOCK_MSR_SYSTEM_TIME, (uintptr_t)&pages[index].page | PVCLOCK_MSR_ENABLE);
	if (!guest_timer_start(&timers[index], (enum pvclock_timer_kind)shared->argument[3], &pages[index].page))
		guest_exit(VMM_DEADLINES_NONE);
	atomic_fetch_add(&shared->started, 1);
	while (atomic_load_explicit(&shared->stop, memory_order_acquire) == 0)
		sleep_once(shared, &timers[index], (uint16_t)index, &random, &again);
	guest_leave(shared);
}
