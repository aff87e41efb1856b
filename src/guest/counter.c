/* SPDX-License-Identifier: MIT */
/*
 * counter.c - the two ordered reads of the TSC, and which of them is the cheaper: AMD's and Intel's CPUs differ. Both come after all earlier
 * loads: LFENCE and RDTSC as guest.h says, and RDTSCP, which "waits until all previous instructions have executed and all previous loads are
 * globally visible" (Intel SDM 2B; AMD APM 3: "not executed until all prior instructions have executed").
 */
#include <pvclock/clock.h>

#if defined(__x86_64__) || defined(__i386__)
#include "machine.h"

#define ROUNDS 32 /* of which the least disturbed one counts */
#define READS 16

static bool has_rdtscp(void)
{
	uint32_t regs[4];

	machine_cpuid(0x80000000u, regs);
	if (regs[0] < 0x80000001u)
		return false;
	machine_cpuid(0x80000001u, regs);
	return regs[3] >> 27 & 1;
}

static uint64_t cost(bool rdtscp)
{
	uint64_t best = UINT64_MAX;

	for (unsigned int round = 0; round < ROUNDS; round++) {
		uint64_t began = pvclock_read_tsc().ticks, took;

		for (unsigned int i = 0; i < READS; i++) {
			if (rdtscp)
				__asm__ __volatile__("rdtscp" : : : "eax", "edx", "ecx", "memory");
			else
				pvclock_read_tsc();
		}
		took = pvclock_read_tsc().ticks - began;
		if (took < best)
			best = took;
	}
	return best;
}

void pvclock_clocks_choose_counter(struct pvclock_user_page *user)
{
	user->clocks.rdtscp = has_rdtscp() && cost(true) < cost(false);
}

#endif
