/* SPDX-License-Identifier: MIT */
/*
 * shared.h - what the VMM, its test guests and the judge share: where things lie in guest memory, and the ring in which a
 * guest logs what it read. Freestanding.
 *
 * A guest logs pairs (guest TSC, ns), so the host judges the clock as a *function*; it never needs a bracket.
 *
 * Guest memory: 0x1000 page tables, GDT | 0x10000 struct vmm_shared | 0x400000 stacks | 0x700000 VMClock | 0x800000
 * payload. Under another VMM, which has a machine's old hardware below 1 MB, the guest itself brings all this about
 * (guest/pvh.S), and struct vmm_shared lies above.
 */
#ifndef VMM_SHARED_H
#define VMM_SHARED_H

#ifdef __ASSEMBLER__
#define VMM_TYPED(number, suffix) number
#else
#define VMM_TYPED(number, suffix) number##suffix
#endif

#define VMM_BOOT_GPA VMM_TYPED(0x1000, ull)       /* page tables and GDT, written by the VMM */
#define VMM_TRAMPOLINE_GPA VMM_TYPED(0x8000, ull) /* where a further vCPU of another VMM begins */
#define VMM_SHARED_GPA VMM_TYPED(0x10000, ull)    /* struct vmm_shared */
#define VMM_SHARED_PVH_GPA VMM_TYPED(0x2000000, ull)
#define VMM_STACK_GPA VMM_TYPED(0x400000, ull)
#define VMM_STACK_SIZE VMM_TYPED(0x10000, ull)    /* each vCPU's */
#define VMM_PAYLOAD_GPA VMM_TYPED(0x800000, ull)  /* flat payloads; ELF payloads are linked here */
#define VMM_VCPUS_MAX VMM_TYPED(16, u)
#define VMM_VMCLOCK_GPA VMM_TYPED(0x700000, ull)  /* VMClock's page, if there is one */

/* In the GDT: 64-bit code, data, and a busy TSS that nobody uses, of 16 bytes. */
#define VMM_SEGMENT_CODE VMM_TYPED(0x8, u)
#define VMM_SEGMENT_DATA VMM_TYPED(0x10, u)
#define VMM_SEGMENT_TASK VMM_TYPED(0x18, u)
#define VMM_DESCRIPTOR_CODE VMM_TYPED(0x00af9b000000ffff, ull)
#define VMM_DESCRIPTOR_DATA VMM_TYPED(0x00cf93000000ffff, ull)
#define VMM_DESCRIPTOR_TASK VMM_TYPED(0x00008b000000ffff, ull)

#ifndef __ASSEMBLER__
#include <stdint.h>

#define VMM_MEMORY_DEFAULT (32ull << 20)
#define VMM_RING_ENTRIES 8192u    /* per vCPU; a power of two */
#define VMM_SERIAL_PORT 0x3f8u    /* guest text, one byte a write */
#define VMM_EXIT_PORT 0xf4u       /* one byte: the guest is done */
#define VMM_PAGE_STRIDE 64u       /* a cache line for each vCPU's clock page */

struct vmm_ring_entry {
	uint64_t tsc;     /* guest TSC of the reading */
	uint64_t ns;      /* what the clock said */
	uint32_t version; /* of the page */
	uint8_t flags;    /* of the page */
	uint8_t result;   /* enum pvclock_read */
	uint16_t vcpu;
};

/*
 * What the guest deadlines.elf logs, as enum pvclock_read has no such results. ASKED, when it is armed: .ns is the time
 * asked for, .tsc the tick armed (0: the host keeps the time). TAKEN, at the interrupt: .ns and .tsc are the clock
 * then. One after the other. EARLY, between them: an interrupt that came before the time, and that the guest's own
 * timer has put right.
 */
#define VMM_DEADLINE_ASKED 0x80u
#define VMM_DEADLINE_TAKEN 0x81u
#define VMM_DEADLINE_EARLY 0x82u
#define VMM_DEADLINES_NONE 3u /* its exit code where it has no such timer */

/*
 * What suspend.elf logs besides readings, whose .version is the suspend page's sequence: BOOTTIME, in .ns, as of a tick
 * between .tsc and .tsc + .version; TOLD, the same where the interrupt came.
 */
#define VMM_SUSPEND_BOOTTIME 0x90u
#define VMM_SUSPEND_TOLD 0x91u

/*
 * What hyperv.elf logs, .version being the TSC page's sequence. FUNCTION: .tsc is the scale, .ns the offset. PAGE: reference
 * time, .ns, at the tick .tsc; BESIDE: the pvclock page's ns there. FROM, TO: the counter, .ns, was read between these two ticks,
 * and the page was there all the while. NEAR: the counter, .tsc, was read where the pvclock page's ns were between .ns and .ns +
 * .version.
 */
#define VMM_HYPERV_FUNCTION 0xa0u
#define VMM_HYPERV_PAGE 0xa1u
#define VMM_HYPERV_BESIDE 0xa2u
#define VMM_HYPERV_FROM 0xa3u
#define VMM_HYPERV_TO 0xa4u
#define VMM_HYPERV_NEAR 0xa5u
/* What it is asked for, in argument[0]. */
#define VMM_HYPERV_TELL 1u        /* when the TSC is another one */
#define VMM_HYPERV_ACKNOWLEDGE 2u /* that */
#define VMM_HYPERV_OFF 4u         /* the page, for good */
#define VMM_HYPERV_NONE 4u        /* its exit code where it has no such clock */

/*
 * What vmclock.elf logs besides readings of the clock's page: after each, TIME, in .ns, what VMClock said at the same
 * tick, .version its sequence, .flags its status. And where that sequence is another one than before, what the page
 * says: FROM, at tick .tsc it is .ns; MARKS, .tsc is the marker and .ns the generation; ERRORS, .ns of the time there
 * (UINT64_MAX: it does not say), .tsc of a tick in units of 2^-(64 + .flags) s.
 */
#define VMM_VMCLOCK_TIME 0xb0u
#define VMM_VMCLOCK_FROM 0xb1u
#define VMM_VMCLOCK_MARKS 0xb2u
#define VMM_VMCLOCK_ERRORS 0xb3u
#define VMM_VMCLOCK_NONE 3u /* its exit code where it has no page */

/* One writer (the vCPU), one reader (the judge). A full ring drops the entry: the read still counts. */
struct vmm_ring {
	_Atomic uint64_t head;  /* entries ever written, by the guest */
	_Atomic uint64_t tail;  /* entries ever taken, by the judge */
	_Atomic uint64_t reads; /* all readings, logged or not */
	_Atomic uint64_t backwards;       /* a reading below this vCPU's own previous one */
	_Atomic uint64_t backwards_cross; /* a reading below one that another vCPU had already published */
	_Atomic uint64_t failed;          /* readings that were not PVCLOCK_READ_OK */
	_Atomic uint64_t unstable;        /* readings without TSC_STABLE */
	_Atomic uint64_t stopped;         /* GUEST_STOPPED seen and cleared */
	_Atomic uint64_t gp_faults;       /* #GP taken (hostile guest) */
	_Atomic uint64_t again;           /* deadlines armed again by the guest's timer: the line had just gone, or the interrupt came early */
	uint64_t pad[6];
	struct vmm_ring_entry entries[VMM_RING_ENTRIES];
};

struct vmm_shared {
	uint32_t vcpus;              /* by the VMM, before the first run */
	_Atomic uint32_t started;    /* vCPUs that reached their payload's loop */
	_Atomic uint32_t stop;       /* by the judge: leave the loop, write VMM_EXIT_PORT */
	_Atomic uint32_t pace;       /* by the judge: pause instructions between readings (0: none) */
	_Atomic uint64_t last;       /* the largest ns that any vCPU has published */
	_Atomic uint64_t wall_ns;    /* the guest's reading of its wall clock page, UTC ns at system time 0 */
	uint64_t argument[8];        /* by the judge, for the payload */
	uint64_t pages_gpa;          /* by the guest, if it wants them known: the vCPUs' clock pages, VMM_PAGE_STRIDE bytes each */
	uint64_t vmclock_gpa;        /* by the VMM, for want of firmware's tables: where VMClock's page is; 0: nowhere */
	uint64_t pad[49];
	struct vmm_ring ring[VMM_VCPUS_MAX];
};

#endif /* __ASSEMBLER__ */
#endif
