// SPDX-License-Identifier: MIT
/*
 * hyperv.c - every vCPU reads Hyper-V's clock in both its forms, and the pvclock page at the same tick; and logs all of it, so
 * that the judge can compute each reading anew (VMM_HYPERV_* in shared.h). vCPU 0 sets the page up, and does what the harness
 * asks for.
 *
 * argument[0]: what to do, VMM_HYPERV_TELL and so on. The guest's: [1] interrupts taken, [2] acknowledgements, [3] 1: the page is
 * off.
 */
#include "runtime.h"

#include <pvclock/hyperv.h>

#define ACKNOWLEDGE_AFTER 50u /* rounds, in which there is no page */

static _Alignas(PVCLOCK_HYPERV_PAGE_SIZE) struct {
	struct pvclock_hyperv_page page;
	uint8_t rest[PVCLOCK_HYPERV_PAGE_SIZE - sizeof(struct pvclock_hyperv_page)];
} reference;
static struct {
	_Alignas(VMM_PAGE_STRIDE) struct pvclock_page page;
} pages[VMM_VCPUS_MAX];
static _Atomic uint64_t last; /* reference time, the largest that any vCPU has read */

static uint64_t read_msr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ __volatile__("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
	return (uint64_t)high << 32 | low;
}

static uint32_t hyperv_features(void)
{
	uint32_t leaf = PVCLOCK_HYPERV_CPUID, eax, ebx, ecx, edx;

	__asm__ __volatile__("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "a"(leaf), "c"(0));
	if (ebx != PVCLOCK_HYPERV_CPUID_SIGNATURE_EBX || ecx != PVCLOCK_HYPERV_CPUID_SIGNATURE_ECX ||
	    edx != PVCLOCK_HYPERV_CPUID_SIGNATURE_EDX)
		return 0;
	__asm__ __volatile__("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "a"(leaf + 3), "c"(0));
	return eax;
}

/* What other vCPUs and this one had read before must not lie ahead of it. */
static void watch(struct vmm_ring *ring, uint64_t before, uint64_t time)
{
	if (time < before)
		guest_count(&ring->backwards_cross);
	pvclock_guard(&last, time);
}

static void log_entry(struct vmm_ring *ring, uint8_t result, uint64_t tsc, uint64_t ns, uint32_t version, uint16_t index)
{
	guest_log(ring, &(struct vmm_ring_entry){ .tsc = tsc, .ns = ns, .version = version, .result = result, .vcpu = index });
}

/* The page, and the pvclock page at the same tick. */
static void read_pages(struct vmm_ring *ring, uint16_t index)
{
	uint64_t before = atomic_load(&last), tick, time;
	struct pvclock_hyperv_snapshot hyperv, hyperv_after;
	struct pvclock_snapshot clock, clock_after;

	if (pvclock_hyperv_page_read(&reference, &hyperv) != PVCLOCK_READ_OK) {
		guest_count(&ring->unstable);
		return;
	}
	if (pvclock_page_read(&pages[index].page, &clock) != PVCLOCK_READ_OK)
		guest_count(&ring->failed);
	tick = pvclock_read_tsc().ticks;
	time = pvclock_hyperv_time(&hyperv.hyperv, tick);
	if (pvclock_hyperv_page_read(&reference, &hyperv_after) != PVCLOCK_READ_OK || hyperv_after.sequence != hyperv.sequence ||
	    pvclock_page_read(&pages[index].page, &clock_after) != PVCLOCK_READ_OK || clock_after.version != clock.version) {
		guest_count(&ring->again);
		return;
	}
	watch(ring, before, time);
	log_entry(ring, VMM_HYPERV_FUNCTION, hyperv.hyperv.scale, (uint64_t)hyperv.hyperv.offset, hyperv.sequence, index);
	log_entry(ring, VMM_HYPERV_PAGE, tick, time, hyperv.sequence, index);
	log_entry(ring, VMM_HYPERV_BESIDE, tick, pvclock_line_ns(&clock.line, tick), hyperv.sequence, index);
}

/* The counter, between two ticks; by the page's function, where that was there all the while, and by the pvclock page's. */
static void read_counter(struct vmm_ring *ring, uint16_t index)
{
	struct pvclock_hyperv_snapshot hyperv, hyperv_after;
	struct pvclock_snapshot clock, clock_after;
	uint64_t before = atomic_load(&last), from, to, time;
	bool there = pvclock_hyperv_page_read(&reference, &hyperv) == PVCLOCK_READ_OK;

	pvclock_page_read(&pages[index].page, &clock);
	from = pvclock_read_tsc().ticks;
	time = read_msr(PVCLOCK_HYPERV_MSR_TIME_REF_COUNT);
	to = pvclock_read_tsc().ticks;
	watch(ring, before, time);
	if (there && pvclock_hyperv_page_read(&reference, &hyperv_after) == PVCLOCK_READ_OK &&
	    hyperv_after.sequence == hyperv.sequence) {
		log_entry(ring, VMM_HYPERV_FROM, from, time, hyperv.sequence, index);
		log_entry(ring, VMM_HYPERV_TO, to, time, hyperv.sequence, index);
	}
	if (pvclock_page_read(&pages[index].page, &clock_after) == PVCLOCK_READ_OK && clock_after.version == clock.version)
		log_entry(ring, VMM_HYPERV_NEAR, time, pvclock_line_ns(&clock.line, from),
			  (uint32_t)(pvclock_line_ns(&clock.line, to) - pvclock_line_ns(&clock.line, from)), index);
}

static void count(uint64_t *argument)
{
	atomic_store_explicit((_Atomic uint64_t *)argument, *argument + 1, memory_order_release);
}

static void set_page(uint64_t enable)
{
	guest_write_msr(PVCLOCK_HYPERV_MSR_REFERENCE_TSC, (uintptr_t)&reference | enable);
}

/* vCPU 0's: what the harness wants now. `done`: what was done of it; `due`: the round in which to acknowledge, 0: nothing to. */
static void obey(struct vmm_shared *shared, uint64_t *done, uint32_t *due, uint32_t round)
{
	uint64_t wanted = atomic_load_explicit((_Atomic uint64_t *)&shared->argument[0], memory_order_acquire);

	if ((wanted & ~*done) & VMM_HYPERV_TELL) {
		guest_write_msr(PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, PVCLOCK_CONTROL_ENABLE | GUEST_VECTOR);
		guest_write_msr(PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL, 1);
	}
	if ((wanted & ~*done) & VMM_HYPERV_OFF) {
		set_page(0);
		for (size_t i = 0; i < sizeof(reference) / 4; i++)
			((volatile uint32_t *)&reference)[i] = 0;
		atomic_store((_Atomic uint64_t *)&shared->argument[3], 1);
	}
	*done |= wanted;
	/* Counted when it is done: the harness does the next thing then. */
	if (guest_interrupt_poll()) {
		guest_timer_done();
		*due = round + ACKNOWLEDGE_AFTER;
		count(&shared->argument[1]);
	}
	if (*due != 0 && round >= *due && (wanted & VMM_HYPERV_ACKNOWLEDGE)) {
		if (read_msr(PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS) != 1)
			guest_count(&shared->ring[0].failed);
		guest_write_msr(PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS, 0);
		*due = 0;
		count(&shared->argument[2]);
	}
}

void guest_main(uint64_t index, struct vmm_shared *shared)
{
	struct vmm_ring *ring = &shared->ring[index];
	uint64_t done = 0;
	uint32_t barrier = 0, due = 0;

	guest_write_msr(PVCLOCK_MSR_SYSTEM_TIME, (uintptr_t)&pages[index].page | PVCLOCK_MSR_ENABLE);
	guest_interrupts_start();
	if (index == 0) {
		if ((hyperv_features() & PVCLOCK_HYPERV_FEATURES) != PVCLOCK_HYPERV_FEATURES)
			guest_exit(VMM_HYPERV_NONE);
		shared->pages_gpa = (uintptr_t)&reference;
		shared->argument[4] = read_msr(PVCLOCK_HYPERV_MSR_TSC_FREQUENCY);
		set_page(PVCLOCK_MSR_ENABLE);
	}
	guest_barrier(shared, &barrier);
	atomic_fetch_add(&shared->started, 1);
	for (uint32_t round = 1; atomic_load_explicit(&shared->stop, memory_order_acquire) == 0; round++) {
		if (index == 0)
			obey(shared, &done, &due, round);
		read_pages(ring, (uint16_t)index);
		read_counter(ring, (uint16_t)index);
		guest_count(&ring->reads);
		guest_pace(shared);
	}
	guest_leave(shared);
}
