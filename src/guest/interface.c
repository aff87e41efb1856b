/* SPDX-License-Identifier: MIT */
/* interface.c - what this machine's host offers, and how deep the machine is nested. */
#include <pvclock/interface.h>

enum { EAX, EBX, ECX, EDX };

void pvclock_interface_search(void (*cpuid)(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t regs[4]), void *ctx,
			      struct pvclock_interface *found)
{
	uint32_t regs[4];

	found->guest = false;
	found->base = found->version = found->features = found->depth = 0;
	cpuid(ctx, 1, 0, regs);
	if (!(regs[ECX] >> 31)) /* no hypervisor: these leaves are the CPU's */
		return;
	found->guest = true;
	for (uint32_t base = PVCLOCK_CPUID_FIRST; base <= PVCLOCK_CPUID_LAST; base += PVCLOCK_CPUID_STEP) {
		cpuid(ctx, base, 0, regs);
		if (regs[EBX] != PVCLOCK_CPUID_SIGNATURE_EBX || regs[ECX] != PVCLOCK_CPUID_SIGNATURE_ECX ||
		    regs[EDX] != PVCLOCK_CPUID_SIGNATURE_EDX || regs[EAX] < base + 1)
			continue;
		cpuid(ctx, base + 1, 0, regs);
		found->base = base;
		found->version = regs[EBX];
		if (found->version >= PVCLOCK_INTERFACE_VERSION) {
			found->features = regs[EAX];
			found->depth = regs[ECX];
		}
		return;
	}
}

#if defined(__x86_64__) || defined(__i386__)

static void cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	(void)ctx;
	__asm__ __volatile__("cpuid"
			     : "=a"(regs[EAX]), "=b"(regs[EBX]), "=c"(regs[ECX]), "=d"(regs[EDX])
			     : "0"(leaf), "2"(subleaf));
}

uint32_t pvclock_interface_find(void)
{
	struct pvclock_interface found;

	pvclock_interface_search(cpuid, NULL, &found);
	return found.features;
}

#endif
