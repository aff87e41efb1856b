/* SPDX-License-Identifier: MIT */
/*
 * shared.h - what the VMM, its test guests and the judge share: where things lie in guest memory, and the ring in which a
 * guest logs what it read. Freestanding.
 *
 * A guest logs pairs (guest TSC, ns), so the host judges the clock as a *function*; it never needs a bracket.
 */
#ifndef VMM_SHARED_H
#define VMM_SHARED_H

#include <stdint.h>

#define VMM_BOOT_GPA 0x1000ull    /* page tables and GDT, written by the VMM */
#define VMM_SHARED_GPA 0x10000ull /* struct vmm_shared */
#define VMM_PAYLOAD_GPA 0x800000ull /* flat payloads; ELF payloads are linked here */
#define VMM_MEMORY_DEFAULT (32ull << 20)
#define VMM_VCPUS_MAX 16u
#define VMM_RING_ENTRIES 8192u    /* per vCPU; a power of two */
#define VMM_SERIAL_PORT 0x3f8u    /* guest text, one byte a write */
#define VMM_EXIT_PORT 0xf4u       /* one byte: the guest is done */

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
 * asked for, .tsc the tick armed. TAKEN, at the interrupt: .ns and .tsc are the clock then. One after the other.
 */
#define VMM_DEADLINE_ASKED 0x80u
#define VMM_DEADLINE_TAKEN 0x81u
#define VMM_DEADLINES_NONE 3u /* its exit code where it has no TSC-deadline timer */

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
	_Atomic uint64_t again;           /* deadlines armed by a line that had just gone, and armed again */
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
	uint64_t pad[51];
	struct vmm_ring ring[VMM_VCPUS_MAX];
};

#endif
