/* SPDX-License-Identifier: MIT */
/* runtime.h - the little that a guest without an operating system needs. */
#ifndef VMM_GUEST_RUNTIME_H
#define VMM_GUEST_RUNTIME_H

#include "../shared.h"

#include <pvclock/deadline.h>
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
/* A reading of a clock page, and what became of it, for the judge: `version` says which function the page held. */
void guest_log_reading(struct vmm_ring *ring, const struct pvclock_reading *reading, uint32_t version, enum pvclock_read result, uint16_t vcpu);
/* As slowly as the harness wants it. */
void guest_pace(const struct vmm_shared *shared);
/* The last one out ends the machine: no vCPU is cut off in the middle of a reading. */
_Noreturn void guest_leave(const struct vmm_shared *shared);

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

/*
 * This vCPU takes interrupts of GUEST_VECTOR, where it looks for them: they are off but in guest_interrupt_poll (true:
 * one came) and guest_timer_sleep. guest_timer_done ends one.
 */
#define GUEST_VECTOR 0x30u
void guest_interrupts_start(void);
bool guest_interrupt_poll(void);

/*
 * This vCPU's timer, of a kind or the best one (NONE), by its own clock page. False: there is none. Interrupts are off but in
 * guest_timer_sleep.
 */
bool guest_timer_start(struct pvclock_timer *timer, enum pvclock_timer_kind kind, const struct pvclock_page *page);
/* Halts until an interrupt. True: it was the timer's, and guest_timer_done has to be called before the next one. */
bool guest_timer_sleep(void);
void guest_timer_done(void);

/* To another vCPU by its APIC's identifier: it waits, and begins in real mode at the start of a page below 1 MB. */
void guest_send_init(uint32_t apic);
void guest_send_startup(uint32_t apic, uint32_t page);

#endif
