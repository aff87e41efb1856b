/* SPDX-License-Identifier: MIT */
/*
 * machine.h (private) - the few instructions by which a timer touches the machine. tests/guest puts a machine of its own in their
 * place, by defining GUEST_MACHINE_H before.
 */
#ifndef GUEST_MACHINE_H
#define GUEST_MACHINE_H

#include <pvclock/guest.h>

static inline void machine_write_msr(uint32_t msr, uint64_t value)
{
	__asm__ __volatile__("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline void machine_write_register(volatile uint32_t *place, uint32_t value)
{
	*place = value;
}

/*
 * Between a write to the APIC and one to IA32_TSC_DEADLINE, which waits for nothing. MFENCE for the store of the xAPIC (Intel SDM
 * 3A 11.5.4.1). It does not hold back WRMSR where that is not serializing, as in x2APIC mode (11.12.3): LFENCE does.
 */
static inline void machine_fence(void)
{
	__asm__ __volatile__("mfence\n\tlfence" : : : "memory");
}

static inline void machine_cpuid(uint32_t leaf, uint32_t regs[4])
{
	__asm__ __volatile__("cpuid" : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]), "=d"(regs[3]) : "a"(leaf), "c"(0));
}

static inline enum pvclock_read machine_read_page(const struct pvclock_page *page, struct pvclock_snapshot *out)
{
	return pvclock_page_read(page, out);
}

static inline enum pvclock_read machine_read_clock(const struct pvclock_page *page, struct pvclock_reading *out)
{
	return pvclock_read_clock(page, out);
}

#endif
