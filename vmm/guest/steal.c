// SPDX-License-Identifier: MIT
/*
 * steal.c - every vCPU registers its stolen time and reads it for as long as it may. Each reading is logged: .ns is
 * what was stolen, .tsc when, .version the page's, .flags its preempted byte. A reading below the one before counts as
 * backwards. argument[7] says where the pages are, VMM_PAGE_STRIDE bytes each. Exit code 1: the guest's CPUID has no
 * stolen time, or promises what nobody keeps.
 */
#include "runtime.h"

#define LEAF_FEATURES 0x40000001u
#define FEATURE_STEAL (1u << 5)

static struct {
	_Alignas(64) struct pvclock_steal_page page;
} pages[VMM_VCPUS_MAX];

static uint32_t features(void)
{
	uint32_t eax = LEAF_FEATURES, ebx, ecx = 0, edx;

	__asm__ __volatile__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	return eax;
}

void guest_main(uint64_t index, struct vmm_shared *shared)
{
	struct vmm_ring *ring = &shared->ring[index];
	struct pvclock_steal_page *page = &pages[index].page;
	uint64_t previous = 0, ns;

	if (index == 0 && !(features() & FEATURE_STEAL))
		guest_exit(1);
	if (index == 0) {
		shared->argument[6] = features();
		shared->argument[7] = (uintptr_t)pages;
	}
	guest_write_msr(PVCLOCK_MSR_STEAL_TIME, (uintptr_t)page | PVCLOCK_MSR_ENABLE);
	atomic_fetch_add(&shared->started, 1);
	while (atomic_load_explicit(&shared->stop, memory_order_acquire) == 0) {
		if (pvclock_steal_read(page, &ns) != PVCLOCK_READ_OK)
			guest_count(&ring->failed);
		if (ns < previous)
			guest_count(&ring->backwards);
		if (ns != previous)
			guest_log(ring, &(struct vmm_ring_entry){
				.tsc = pvclock_read_tsc().ticks, .ns = ns, .version = page->version, .flags = page->preempted, .vcpu = (uint16_t)index });
		previous = ns;
		guest_count(&ring->reads);
	}
	guest_leave(shared);
}
