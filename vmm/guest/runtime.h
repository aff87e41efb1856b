/* SPDX-License-Identifier: MIT */
/* runtime.h - the little that a guest without an operating system needs. */
#ifndef VMM_GUEST_RUNTIME_H
#define VMM_GUEST_RUNTIME_H

#include "../shared.h"

#include <pvclock/guest.h>
#include <stdatomic.h>
#include <stddef.h>

void guest_main(uint64_t index, struct vmm_shared *shared); /* every vCPU; must not return */

void guest_print(const char *text);
_Noreturn void guest_exit(uint8_t code);
_Noreturn void guest_halt(void);
/* Waits until all vCPUs have come here as often as this one. */
void guest_barrier(const struct vmm_shared *shared, uint32_t *times);
void guest_log(struct vmm_ring *ring, const struct vmm_ring_entry *entry);

/* Counters have one writer: no locked instruction, just no torn store. */
static inline void guest_count(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_release);
}

static inline void guest_write_msr(uint32_t msr, uint64_t value)
{
	__asm__ __volatile__("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

/* True if it took a #GP; needs guest_catch_faults first. */
static inline bool guest_write_msr_faulting(uint32_t msr, uint64_t value)
{
	uint32_t faulted;

	__asm__ __volatile__("xorl %%r8d, %%r8d\n\twrmsr\n\tmovl %%r8d, %0"
			     : "=r"(faulted)
			     : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
			     : "r8", "r9", "memory");
	return faulted != 0;
}

/* This vCPU's #GP goes to guest_general_protection. */
void guest_catch_faults(void);

/* This vCPU's local APIC timer, in TSC-deadline mode. False: it has none. Interrupts are off but in guest_timer_sleep. */
bool guest_timer_start(void);
void guest_timer_arm(uint64_t tick);
/* Halts until an interrupt. True: it was the timer's, and guest_timer_done has to be called before the next one. */
bool guest_timer_sleep(void);
void guest_timer_done(void);
/* Disarms, and takes the interrupt that may have been on its way. */
void guest_timer_drain(void);

/* To another vCPU by its APIC's identifier: it waits, and begins in real mode at the start of a page below 1 MB. */
void guest_send_init(uint32_t apic);
void guest_send_startup(uint32_t apic, uint32_t page);

#endif
