// SPDX-License-Identifier: MIT
/*
 * nested.c - a guest that plays a host: it keeps clock pages for guests of its own, each on a counter of its own, names
 * all but one of them to its host, and logs what would be read of each, and of its own page, with the generation in
 * which it was. The one that is not named follows as an engine without the table would: when it is told.
 */
#include "runtime.h"

#include "../nested.h"

static struct vmm_nested nested __attribute__((aligned(4096)));
static uint64_t followed;

/* At a distance from this guest's own clock, and by counters that hardware makes. */
static void make_guest(unsigned int number)
{
	static const struct pvclock_tsc_transform transforms[VMM_NESTED_GUESTS] = {
		{ .offset = 1000000007 },
		{ .offset = 5, .ratio = 5ull << 46, .frac_bits = PVCLOCK_FRAC_BITS_VMX },        /* 5/4 */
		{ .offset = 99, .ratio = 0xb3333333ull, .frac_bits = PVCLOCK_FRAC_BITS_SVM }, /* 0.7 */
		{ .offset = 123456 },
	};
	struct pvclock_nested_entry entry = { .kind = PVCLOCK_NESTED_PAGE };
	struct pvclock_snapshot own;
	struct pvclock_slope slope;
	struct pvclock_line line;

	nested.transforms[number] = transforms[number];
	if (pvclock_page_read(&nested.own.page, &own) != PVCLOCK_READ_OK || !pvclock_slope_from_line(&own.line, &slope) ||
	    !pvclock_line_compose(&transforms[number], (struct pvclock_host_tsc){ pvclock_read_tsc().ticks }, (number + 1) * 1000000000ull, &slope,
				  &line, 0))
		return;
	pvclock_page_write(&nested.guests[number].page, &line, PVCLOCK_TSC_STABLE);
	entry.gpa = (uintptr_t)&nested.guests[number].page;
	entry.offset = transforms[number].offset;
	entry.ratio = transforms[number].ratio;
	entry.frac_bits = transforms[number].frac_bits;
	if (number != VMM_NESTED_TOLD)
		pvclock_nested_enter(&nested.table, number, &entry);
}

static void follow(void)
{
	struct pvclock_page *page = &nested.guests[VMM_NESTED_TOLD].page;
	struct pvclock_snapshot snapshot;
	struct pvclock_nested told;

	while (followed != pvclock_nested_generation(&nested.table)) {
		if (pvclock_nested_read(&nested.table, &told) != PVCLOCK_READ_OK || pvclock_page_read(page, &snapshot) != PVCLOCK_READ_OK)
			continue;
		while (followed != told.generation) {
			followed++;
			pvclock_line_follow(&told.changes[followed % PVCLOCK_NESTED_CHANGES], &nested.transforms[VMM_NESTED_TOLD],
					    &snapshot.line, &snapshot.line);
		}
		pvclock_page_write(page, &snapshot.line, PVCLOCK_TSC_STABLE);
	}
	pvclock_nested_acknowledge(&nested.table, followed);
}

/* As a guest's guest would read it, whose counter is `transform` of ours. */
static void log_guest(struct vmm_ring *ring, unsigned int number)
{
	const struct pvclock_page *page = &nested.guests[number].page;
	uint64_t generation = pvclock_nested_generation(&nested.table);
	struct vmm_ring_entry entry = { .result = (uint8_t)(VMM_NESTED_READING + number), .version = (uint32_t)generation };
	struct pvclock_snapshot snapshot;

	if (pvclock_page_read(page, &snapshot) != PVCLOCK_READ_OK) {
		guest_count(&ring->failed);
		return;
	}
	entry.tsc = pvclock_read_tsc().ticks;
	pvclock_fence_acquire();
	/* of neither, or of a line whose host has not followed yet */
	if (pvclock_load_relaxed_u32(&page->version) != snapshot.version || pvclock_nested_generation(&nested.table) != generation) {
		guest_count(&ring->again);
		return;
	}
	if (number == VMM_NESTED_TOLD && followed != generation) {
		guest_count(&nested.late);
		return;
	}
	entry.flags = snapshot.flags;
	entry.ns = pvclock_line_ns(&snapshot.line, pvclock_tsc_to_guest(&nested.transforms[number], (struct pvclock_host_tsc){ entry.tsc }).ticks);
	guest_count(&ring->reads);
	guest_log(ring, &entry);
}

void guest_main(uint64_t index, struct vmm_shared *shared)
{
	struct vmm_ring *ring = &shared->ring[index];
	struct pvclock_reading reading;

	if (index != 0)
		guest_leave(shared);
	guest_write_msr(PVCLOCK_MSR_SYSTEM_TIME, (uintptr_t)&nested.own.page | PVCLOCK_MSR_ENABLE);
	guest_interrupts_start();
	shared->pages_gpa = (uintptr_t)&nested;
	if (pvclock_interface_find() & PVCLOCK_FEATURE_NESTED) {
		guest_write_msr(PVCLOCK_MSR_NESTED_CONTROL, PVCLOCK_CONTROL_ENABLE | GUEST_VECTOR);
		guest_write_msr(PVCLOCK_MSR_NESTED, (uintptr_t)&nested.table | PVCLOCK_MSR_ENABLE);
	}
	followed = pvclock_nested_generation(&nested.table);
	for (unsigned int i = 0; i < VMM_NESTED_GUESTS; i++)
		make_guest(i);
	atomic_fetch_add(&shared->started, 1);
	for (uint32_t round = 0; atomic_load_explicit(&shared->stop, memory_order_acquire) == 0; round++) {
		if (guest_interrupt_poll()) {
			guest_count(&nested.interrupts);
			guest_timer_done();
		}
		log_guest(ring, round % VMM_NESTED_GUESTS);
		if (round % 64 == 0) { /* it is told, and takes its time: what it has not followed yet it does not read */
			follow();
			guest_log_reading(ring, &reading, (uint32_t)followed, pvclock_read_clock(&nested.own.page, &reading), 0);
		}
		guest_pace(shared);
	}
	guest_leave(shared);
}
