/* SPDX-License-Identifier: MIT */
/*
 * record.h - a VM's clock, saved: versioned, little-endian, checksummed, independent of any struct's layout.
 * A restore does exactly what the record says, or refuses with a reason before anything changed.
 */
#ifndef PVCLOCK_RECORD_H
#define PVCLOCK_RECORD_H

#include <pvclock/vm.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * What is written. Version 1, which knew one host only, is read: its policy is the default, its times but one unknown.
 * So is version 2, which knew nothing of pvclock/interface.h, and version 3, which knew nothing of Hyper-V's clock.
 */
#define PVCLOCK_RECORD_VERSION 4u
#define PVCLOCK_RECORD_VCPUS_MAX 4096u

struct pvclock_record_vcpu {
	uint32_t index;
	uint64_t system_time_msr; /* as the guest wrote it, 0 if it did not */
	bool old_msrs;            /* registered through 0x12 rather than 0x4b564d01 */
	bool guest_stopped;       /* GUEST_STOPPED is owed and not yet published */
	struct pvclock_tsc_transform tsc;
	uint64_t tsc_adjust;      /* IA32_TSC_ADJUST */
	uint64_t tsc_deadline;    /* IA32_TSC_DEADLINE, in the guest's ticks; 0: none is armed */
	uint64_t deadline_control, deadline_ns; /* MSRs of pvclock/interface.h; 0: unused, none is armed */
	uint64_t steal_msr, steal_ns; /* as the guest wrote it, and what its page says; 0 also where the kernel owns it */
};

struct pvclock_record {
	/*
	 * The clock: one line over the guest TSC that `reference` describes; a vCPU with another offset reads it
	 * shifted.
	 */
	struct pvclock_line line;
	struct pvclock_tsc_transform reference;
	bool stable;
	uint64_t wall_clock_msr;
	/* The host it was saved on. */
	struct pvclock_slope host;      /* exact slope, ns per host tick */
	struct pvclock_host_time time;  /* the save: time.at is its host TSC */
	uint64_t system_time;           /* the clock at time.at, ns (the legacy form) */
	struct pvclock_policy policy;
	struct pvclock_account account;
	uint64_t suspend_control, suspend_msr; /* MSRs of pvclock/interface.h; 0: the guest is not told */
	/* MSRs of Hyper-V's clock, as the guest wrote them; 0: unused */
	uint64_t hyperv_tsc_page, hyperv_reenlightenment, hyperv_emulation_control, hyperv_emulation_status, hyperv_invariant;
	struct pvclock_hyperv_line hyperv; /* reference time as the guest was last told it; scale 0: never */
	uint32_t hyperv_sequence;          /* the last one that the page had; 0: none */
	uint64_t nested_control, nested_msr; /* MSRs of pvclock/interface.h; 0: unused */
	uint32_t vcpu_count;
	struct pvclock_record_vcpu *vcpus; /* by ascending index; owned by the record */
};

/*
 * The clock of a paused VM. Save guest memory afterwards: a line that has changed since the guest last ran, where it is
 * itself a host, is told there (pvclock/nested.h). -EBUSY: not paused; -ENODATA: no line; -ENOMEM.
 */
int pvclock_record_capture(struct pvclock_vm *vm, struct pvclock_record *record);
void pvclock_record_clear(struct pvclock_record *record); /* frees what it owns */

/* The encoded size in bytes. */
size_t pvclock_record_size(const struct pvclock_record *record);
/* Its length, or -ENOSPC, or -EINVAL with a reason if a field is out of range (nothing invalid is ever written). */
ssize_t pvclock_record_encode(const struct pvclock_record *record, void *bytes, size_t size, struct pvclock_reason *reason);
/* 0, or -EINVAL (-ENOTSUP for an unknown version, -ENOMEM) with a reason; *record is then untouched. */
int pvclock_record_decode(const void *bytes, size_t size, struct pvclock_record *record, struct pvclock_reason *reason);

/*
 * Gives a paused VM, with the same vCPUs, the record's clock: MSRs, lines, flags, bit for bit. 0; -EBUSY: not paused;
 * -EINVAL with a reason: the VM is untouched. The vCPUs' TSCs must already run as the record says, or as close as the
 * hypervisor allows: where a vCPU's transform (pvclock_vcpu_set_tsc) differs from the record's by an offset, its line
 * moves by that offset, so that the clock is continuous in host TSC. *moved (may be NULL) says by how many ticks the
 * first vCPU's line was moved: 0 is an exact restore.
 */
int pvclock_record_apply(const struct pvclock_record *record, struct pvclock_vm *vm, int64_t *moved,
			 struct pvclock_reason *reason);

/*
 * Of all that, Hyper-V's clock alone, for who puts the rest back by other ways (pvclock_kvm_restore). The VM is paused; its line
 * comes before it resumes. -EINVAL: a record without vCPUs. The record's fields are in their ranges.
 */
int pvclock_vm_restore_hyperv(struct pvclock_vm *vm, const struct pvclock_record *record);

#ifdef __cplusplus
}
#endif
#endif
