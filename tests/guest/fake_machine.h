/* SPDX-License-Identifier: MIT */
/*
 * fake_machine.h - a CPU, its local APIC and its host, in place of the instructions of src/guest/machine.h: a TSC that
 * runs as the test wants, an APIC as Intel's manual describes it (SDM 3A 11.5.4.1), and a host that may change the
 * page's line before and after each of them.
 */
#ifndef GUEST_MACHINE_H
#define GUEST_MACHINE_H

#include <pvclock/guest.h>

void machine_write_msr(uint32_t msr, uint64_t value);
void machine_write_register(volatile uint32_t *place, uint32_t value);
void machine_fence(void);
void machine_cpuid(uint32_t leaf, uint32_t regs[4]);
enum pvclock_read machine_read_page(const struct pvclock_page *page, struct pvclock_snapshot *out);
enum pvclock_read machine_read_clock(const struct pvclock_page *page, struct pvclock_reading *out);

#endif
