/* SPDX-License-Identifier: MIT */
/*
 * hyperv.h - Hyper-V's clock, as its guests know it: the reference TSC page, the reference counter, the frequencies, and how a
 * guest is told that its TSC is another one (Hypervisor Top Level Functional Specification, TLFS, chapters "Timers" and "Nested
 * Virtualization"). For both sides; freestanding. docs/hyperv.md says what a VM promises of it.
 *
 * Reference time is R(t) = floor(t * scale / 2^64) + offset, in units of 100 ns, for a guest TSC t. The page holds scale and
 * offset, and the counter is the same function, evaluated by the host: so the two agree in every bit. Against the pvclock page,
 * of the line `line`:
 *
 *     -1 - e  <  R(t) - line(t) / 100  <  1.02 + e,     e = t * 2^-65
 *
 * from the line's anchor on, as long as it has not saturated (docs/hyperv.md has the proof). Scale and offset stay as they are,
 * bit for bit, as long as that holds; a line for which it does not gets new ones.
 */
#ifndef PVCLOCK_HYPERV_H
#define PVCLOCK_HYPERV_H

#include <pvclock/interface.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- CPUID ------------------------------------------------------------------------------------ */

/* Leaf 0x40000003, EAX: what of this a guest may use (TLFS, HV_PARTITION_PRIVILEGE_MASK). */
#define PVCLOCK_HYPERV_COUNTER (1u << 1)          /* TIME_REF_COUNT */
#define PVCLOCK_HYPERV_TSC_PAGE (1u << 9)         /* REFERENCE_TSC */
#define PVCLOCK_HYPERV_FREQUENCIES (1u << 11)     /* TSC_FREQUENCY, APIC_FREQUENCY; and EDX bit 8 */
#define PVCLOCK_HYPERV_REENLIGHTENMENT (1u << 13) /* REENLIGHTENMENT_CONTROL, TSC_EMULATION_CONTROL and _STATUS */
#define PVCLOCK_HYPERV_INVARIANT (1u << 15)       /* TSC_INVARIANT_CONTROL */
#define PVCLOCK_HYPERV_FEATURES                                                                                         \
	(PVCLOCK_HYPERV_COUNTER | PVCLOCK_HYPERV_TSC_PAGE | PVCLOCK_HYPERV_FREQUENCIES | PVCLOCK_HYPERV_REENLIGHTENMENT | \
	 PVCLOCK_HYPERV_INVARIANT)

#define PVCLOCK_HYPERV_CPUID 0x40000000u
#define PVCLOCK_HYPERV_CPUID_SIGNATURE_EBX 0x7263694du /* "Microsoft Hv" */
#define PVCLOCK_HYPERV_CPUID_SIGNATURE_ECX 0x666f736fu
#define PVCLOCK_HYPERV_CPUID_SIGNATURE_EDX 0x76482074u
#define PVCLOCK_HYPERV_CPUID_INTERFACE 0x31237648u     /* leaf 0x40000001, EAX: "Hv#1" */
#define PVCLOCK_HYPERV_CPUID_FREQUENCIES (1u << 8)     /* leaf 0x40000003, EDX */
#define PVCLOCK_HYPERV_LEAVES 7u

/*
 * The leaves 0x40000000 to 0x40000006, for a VMM that has none: they tell of `features` and of nothing else. Other interfaces
 * (KVM's, ours) then begin at 0x40000100 or later. A VMM that lets KVM show these leaves adds to EAX and EDX of 0x40000003
 * instead.
 */
void pvclock_hyperv_cpuid(uint32_t features, struct pvclock_cpuid leaves[PVCLOCK_HYPERV_LEAVES]);

/* --- MSRs ------------------------------------------------------------------------------------- */

#define PVCLOCK_HYPERV_MSR_TIME_REF_COUNT 0x40000020u /* reference time now; read only */
/*
 * Bits 63:12: the page's number; 11:1: the guest's own; bit 0 enables. Any address is taken; where no memory is, nothing is
 * written.
 */
#define PVCLOCK_HYPERV_MSR_REFERENCE_TSC 0x40000021u
#define PVCLOCK_HYPERV_MSR_TSC_FREQUENCY 0x40000022u  /* Hz; read only */
#define PVCLOCK_HYPERV_MSR_APIC_FREQUENCY 0x40000023u /* Hz; read only */
/*
 * As PVCLOCK_MSR_SUSPEND_CONTROL: bits 7:0 the vector, bit 16 enables, bits 63:32 the vCPU; the interrupt says that the TSC is
 * another one.
 */
#define PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL 0x40000106u
/* Bit 0: a new page waits until the guest has acknowledged the new TSC, by a 0 to STATUS. */
#define PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL 0x40000107u
#define PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS 0x40000108u /* bit 0: one waits */
#define PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL 0x40000118u /* bit 0, which stays once it is set */

#define PVCLOCK_HYPERV_PAGE_SIZE 4096u /* what an address is a multiple of */

/* --- the page --------------------------------------------------------------------------------- */

/*
 * sequence is 0 while the host writes, and as long as the page is no clock: a guest then reads TIME_REF_COUNT. A reader takes
 * sequence, scale and offset, the TSC, and sequence again, and starts over if that changed. Little-endian; 4096-byte aligned.
 */
struct pvclock_hyperv_page {
	uint32_t sequence;
	uint32_t reserved;
	uint64_t scale;
	int64_t offset;
};

#ifndef __cplusplus
_Static_assert(sizeof(struct pvclock_hyperv_page) == 24, "TLFS, HV_REFERENCE_TSC_PAGE");
_Static_assert(offsetof(struct pvclock_hyperv_page, sequence) == 0, "TLFS, HV_REFERENCE_TSC_PAGE");
_Static_assert(offsetof(struct pvclock_hyperv_page, scale) == 8, "TLFS, HV_REFERENCE_TSC_PAGE");
_Static_assert(offsetof(struct pvclock_hyperv_page, offset) == 16, "TLFS, HV_REFERENCE_TSC_PAGE");
#endif

/*
 * Whether a sequence is one of a page that is a clock: not 0, nor all ones, which marked an invalid page in the first editions of
 * the TLFS.
 */
static inline bool pvclock_hyperv_sequence_valid(uint32_t sequence)
{
	return sequence != 0 && sequence != UINT32_MAX;
}

/*
 * Publishes, with the sequence after `last`, and returns that: `last` is what the call before returned, 0 at first. It does not
 * come from the page, which may say 0, or anything that the guest has written there. `page`: 4-byte aligned, 24 bytes; one writer
 * at a time.
 */
uint32_t pvclock_hyperv_page_write(void *page, const struct pvclock_hyperv_line *hyperv, uint32_t last);

/* The page is no clock: sequence 0, and nothing else is touched. */
void pvclock_hyperv_page_withdraw(void *page);

/* A consistent copy of a page. */
struct pvclock_hyperv_snapshot {
	struct pvclock_hyperv_line hyperv;
	uint32_t sequence;
};

/*
 * `page`: 4-byte aligned. INVALID: the page is no clock now, as while its writer writes: *out is then all 0. BUSY: it kept
 * changing.
 */
enum pvclock_read pvclock_hyperv_page_read(const void *page, struct pvclock_hyperv_snapshot *out);

#ifdef __cplusplus
}
#endif
#endif
