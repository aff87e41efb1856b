/* SPDX-License-Identifier: MIT */
/*
 * interface.h - what a host offers its guests beside KVM's own clock, and how a guest finds it and asks for it
 * (docs/spec/interface.md): a leaf of CPUID and a few MSRs. For both sides; freestanding. x86: other architectures find the
 * suspend page in their firmware's tables.
 */
#ifndef PVCLOCK_INTERFACE_H
#define PVCLOCK_INTERFACE_H

#include <pvclock/page.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- CPUID ------------------------------------------------------------------------------------ */

/*
 * The hypervisor's leaves begin at 0x40000000, and further interfaces at each 0x100 after that. Ours is where EBX, ECX, EDX are the
 * signature; EAX is its last leaf. In the next one, EAX: features; EBX: the interface's version; ECX: how deep the machine is
 * nested: 1, a guest of a host that is no guest; n + 1, of one that is n deep; 0: not said.
 */
#define PVCLOCK_CPUID_FIRST 0x40000000u
#define PVCLOCK_CPUID_LAST 0x4000ff00u
#define PVCLOCK_CPUID_STEP 0x100u
#define PVCLOCK_CPUID_SIGNATURE_EBX 0x6c637670u /* "pvclock", and zeros */
#define PVCLOCK_CPUID_SIGNATURE_ECX 0x006b636fu
#define PVCLOCK_CPUID_SIGNATURE_EDX 0u
#define PVCLOCK_CPUID_LEAVES 2u
#define PVCLOCK_INTERFACE_VERSION 1u

#define PVCLOCK_FEATURE_DEADLINE (1u << 0) /* deadlines in ns of system time */
#define PVCLOCK_FEATURE_SUSPEND (1u << 1)  /* time that passed without the guest */
#define PVCLOCK_FEATURE_NESTED (1u << 2)   /* a guest that is a host is told when its line changes, and its guests' pages are made right */
#define PVCLOCK_FEATURES (PVCLOCK_FEATURE_DEADLINE | PVCLOCK_FEATURE_SUSPEND | PVCLOCK_FEATURE_NESTED)

/* --- MSRs ------------------------------------------------------------------------------------- */

/*
 * Of each vCPU. DEADLINE: the system time, ns, at which it gets its interrupt; a time that has been reached fires at once; 0
 * cancels; reads as what is armed, and as 0 once it has fired. #GP while CONTROL is not enabled. CONTROL: bits 7:0 the vector (16
 * to 255), bit 16 enables; what is disabled is not armed either. The interrupt is fixed and edge-triggered. System time is what the
 * vCPU's page says: who translates it to ticks is the host, so nothing is armed again when the ticks change.
 */
#define PVCLOCK_MSR_DEADLINE_CONTROL 0x50564300u
#define PVCLOCK_MSR_DEADLINE 0x50564301u
/*
 * Of the VM. SUSPEND: the address of its struct pvclock_suspend_page, 8-byte aligned, bit 0 enables. CONTROL: as above, of the
 * interrupt that says the page has changed, and bits 63:32 the APIC id of the vCPU that gets it.
 */
#define PVCLOCK_MSR_SUSPEND_CONTROL 0x50564302u
#define PVCLOCK_MSR_SUSPEND 0x50564303u
/*
 * Of the VM. NESTED: the address of its struct pvclock_nested_page (nested.h), 4096-byte aligned, bit 0 enables;
 * written again with the same value it says that the table there has changed. CONTROL: as SUSPEND_CONTROL, of the
 * interrupt that says the generation has moved.
 */
#define PVCLOCK_MSR_NESTED_CONTROL 0x50564304u
#define PVCLOCK_MSR_NESTED 0x50564305u
#define PVCLOCK_INTERFACE_MSRS 6u

#define PVCLOCK_CONTROL_VECTOR 0xffu
#define PVCLOCK_CONTROL_ENABLE (1u << 16)
#define PVCLOCK_CONTROL_TARGET_SHIFT 32

/* --- both sides ------------------------------------------------------------------------------------ */

struct pvclock_cpuid {
	uint32_t leaf, eax, ebx, ecx, edx;
};

/*
 * The leaves that say so, for a VMM's CPUID table, from `base` on (a multiple of 0x100 where no other interface is). `depth`: the
 * guest's, as pvclock_interface_guest_depth finds it; 0: it is not told.
 */
void pvclock_interface_cpuid(uint32_t base, uint32_t features, uint32_t depth, struct pvclock_cpuid leaves[PVCLOCK_CPUID_LEAVES]);

struct pvclock_os;
/*
 * The depth of a guest of the machine that `os` is: 1 where its CPUID names no hypervisor, else one more than its host says that it
 * has; 0: its host does not say. As costly as pvclock_interface_search; the answer holds until the machine itself is moved.
 */
uint32_t pvclock_interface_guest_depth(const struct pvclock_os *os);

/* What a machine's CPUID says of its host. */
struct pvclock_interface {
	bool guest;                 /* it names a hypervisor */
	uint32_t base;              /* our first leaf; 0: there is none, and nothing below is known */
	uint32_t version, features; /* features: 0 of a version that is below ours */
	uint32_t depth;             /* this machine's; 0: not said */
};

/* Looks through the leaves of a machine: up to 257 times CPUID, each of which is an exit. `cpuid`: as of pvclock/os.h. */
void pvclock_interface_search(void (*cpuid)(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t regs[4]), void *ctx,
			      struct pvclock_interface *found);

#if defined(__x86_64__) || defined(__i386__)
/* The features of the interface that this machine has; 0: it has none. */
uint32_t pvclock_interface_find(void);
#endif

#ifdef __cplusplus
}
#endif
#endif
