/* SPDX-License-Identifier: MIT */
/* interface.c - what this machine's host offers. */
#include <pvclock/interface.h>

#if defined(__x86_64__) || defined(__i386__)

static struct pvclock_cpuid cpuid(uint32_t leaf)
{
	struct pvclock_cpuid regs = { .leaf = leaf, .eax = leaf };

	__asm__ __volatile__("cpuid" : "+a"(regs.eax), "=b"(regs.ebx), "+c"(regs.ecx), "=d"(regs.edx));
	return regs;
}

uint32_t pvclock_interface_find(void)
{
	if (!(cpuid(1).ecx >> 31)) /* no hypervisor: these leaves are the CPU's */
		return 0;
	for (uint32_t base = PVCLOCK_CPUID_FIRST; base <= PVCLOCK_CPUID_LAST; base += PVCLOCK_CPUID_STEP) {
		struct pvclock_cpuid first = cpuid(base), features;

		if (first.ebx != PVCLOCK_CPUID_SIGNATURE_EBX || first.ecx != PVCLOCK_CPUID_SIGNATURE_ECX ||
		    first.edx != PVCLOCK_CPUID_SIGNATURE_EDX || first.eax < base + 1)
			continue;
		features = cpuid(base + 1);
		return features.ebx >= PVCLOCK_INTERFACE_VERSION ? features.eax : 0;
	}
	return 0;
}

#endif
