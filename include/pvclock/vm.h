/* SPDX-License-Identifier: MIT */
/*
 * vm.h - the engine: one VM's clock. It owns the VM's line, knows its vCPUs and their TSCs, its guest memory,
 * and what the guest registered; it publishes the pages and says which ones it wrote.
 *
 * Every function may be called from any thread; a VM has one lock. Two VMs do not know of each other. The caller
 * destroys vCPUs before their VM, and uses neither afterwards. Guest memory added to the map must stay mapped until
 * it is removed.
 */
#ifndef PVCLOCK_VM_H
#define PVCLOCK_VM_H

#include <pvclock/guest.h>
#include <pvclock/hyperv.h>
#include <pvclock/os.h>
#include <pvclock/policy.h>
#include <pvclock/reason.h>
#include <pvclock/vmclock.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pvclock_vm;
struct pvclock_vcpu;
struct pvclock_gpa {
	uint64_t address;
};

int pvclock_vm_create(const struct pvclock_os *os, struct pvclock_vm **vm); /* 0, -ENOMEM */
void pvclock_vm_destroy(struct pvclock_vm *vm);

/* --- guest memory -------------------------------------------------------------------- */

#define PVCLOCK_MEMORY_READONLY (1u << 0) /* ROM: never written */

/*
 * -EINVAL: size 0, host NULL, gpa or host not 4-byte aligned, or gpa + size wraps; -EEXIST: overlaps another region;
 * -ENOMEM. What the guest registered before is looked up again whenever the map changes, so regions may come and go
 * under a running clock.
 */
int pvclock_vm_add_memory(struct pvclock_vm *vm, struct pvclock_gpa gpa, uint64_t size, void *host, unsigned int flags);
int pvclock_vm_remove_memory(struct pvclock_vm *vm, struct pvclock_gpa gpa, uint64_t size); /* 0, -ENOENT */

/*
 * Where the engine wrote since the last call, within [gpa, gpa + size). A host write is not in KVM's dirty log, so a VMM
 * that tracks dirty pages adds these: `bitmap`, as KVM_GET_DIRTY_LOG fills it for a slot at `gpa`, gets bit n set for the
 * 4096-byte page n of the range (n / 8 is the byte). Other bits are left alone; NULL: the pages are forgotten. `gpa` is a
 * multiple of 4096. Returns how many pages there were.
 */
size_t pvclock_vm_take_dirty(struct pvclock_vm *vm, struct pvclock_gpa gpa, uint64_t size, void *bitmap);

/*
 * Reads a pvclock page in guest memory, whoever writes it. 0; -EFAULT: not in guest memory or not aligned; -EAGAIN:
 * its version keeps changing; -EINVAL: not a line (never written).
 */
int pvclock_vm_read_page(struct pvclock_vm *vm, struct pvclock_gpa gpa, struct pvclock_snapshot *out);
/* The same of Hyper-V's TSC page (pvclock/hyperv.h); -EINVAL: its sequence says that it is no clock. */
int pvclock_vm_read_hyperv_page(struct pvclock_vm *vm, struct pvclock_gpa gpa, struct pvclock_hyperv_snapshot *out);

/* --- vCPUs ----------------------------------------------------------------------------- */

/* index: the VMM's own number, unique in the VM. 0, -EEXIST, -ENOMEM. */
int pvclock_vcpu_create(struct pvclock_vm *vm, uint32_t index, struct pvclock_vcpu **vcpu);
void pvclock_vcpu_destroy(struct pvclock_vcpu *vcpu);
uint32_t pvclock_vcpu_index(const struct pvclock_vcpu *vcpu);
struct pvclock_vm *pvclock_vcpu_vm(const struct pvclock_vcpu *vcpu);

/*
 * This vCPU's TSC as the hypervisor really runs it (kvm.h reads it back). -EINVAL: frac_bits > 63, or a ratio of 0 with
 * frac_bits != 0. Offsets that differ between vCPUs are kept and cost the stable bit.
 */
int pvclock_vcpu_set_tsc(struct pvclock_vcpu *vcpu, const struct pvclock_tsc_transform *transform, bool catchup);
void pvclock_vcpu_get_tsc(const struct pvclock_vcpu *vcpu, struct pvclock_tsc_transform *transform);

/* --- the line --------------------------------------------------------------------------- */

/*
 * Gives the VM a new line: the clock reads `ns` at host TSC `at`, and runs with the host's slope `host`. Every vCPU's
 * line is that, composed with its own TSC. -EINVAL: slope out of range. For a new VM: at = now, ns = 0.
 */
int pvclock_vm_start(struct pvclock_vm *vm, struct pvclock_host_tsc at, uint64_t ns, const struct pvclock_slope *host);

/*
 * The line as vCPU `vcpu` reads it: exactly what its page holds or would hold. Defined for a vCPU that registered no
 * page too. -ENODATA: the VM has no line.
 */
int pvclock_vcpu_get_line(const struct pvclock_vcpu *vcpu, struct pvclock_line *line);
/* Imposes the line that `vcpu` has to read; the other vCPUs follow by their TSC offsets. -EINVAL: invalid. */
int pvclock_vcpu_set_line(struct pvclock_vcpu *vcpu, const struct pvclock_line *line);

/* System time now, in ns. -ENODATA: no line. */
int pvclock_vm_now(struct pvclock_vm *vm, uint64_t *ns);

/* True if TSC_STABLE is published. If false, *reason (may be NULL) says why. */
bool pvclock_vm_stable(const struct pvclock_vm *vm, struct pvclock_reason *reason);

/*
 * The host's TSC was reset (a suspend), and the hypervisor moved its guests' offsets by `offset` so that their TSCs
 * go on: the guest's line stays as it is, over the new offsets. Give the vCPUs theirs before (pvclock_vcpu_set_tsc).
 */
void pvclock_vm_move_reference(struct pvclock_vm *vm, uint64_t offset);

/*
 * What the engine cannot see by itself and what makes the stable bit untrue: a source that lost the host's line
 * (pvclock_source_sample), say. It stays until it is taken back with NULL. Pages are published at once unless the VM
 * is paused.
 */
void pvclock_vm_declare_unstable(struct pvclock_vm *vm, const struct pvclock_reason *reason);

/* --- what the guest does ------------------------------------------------------------------ */

/*
 * A guest's WRMSR / RDMSR of a clock MSR, old or new numbers, or of one of pvclock/interface.h's. 0; -ENOENT: not one
 * of ours; -EINVAL: inject #GP, nothing has changed. #GP is given for an address that is not 4-byte aligned, or whose
 * 32 (wall clock: 12) bytes are not inside one writable region of guest memory.
 */
int pvclock_vcpu_write_msr(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value);
int pvclock_vcpu_read_msr(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t *value);

/*
 * The same from the host's side (save and restore): no page is written, and addresses are checked only when the page
 * is published.
 */
int pvclock_vcpu_restore_msr(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value);

/*
 * Which features of pvclock/interface.h the guest may use, PVCLOCK_FEATURE_*: those that its CPUID tells it of
 * (pvclock_interface_cpuid). None at first: then these MSRs are not ours.
 */
void pvclock_vm_offer(struct pvclock_vm *vm, uint32_t features);
uint32_t pvclock_vm_offered(const struct pvclock_vm *vm);

/*
 * What the guest has armed by PVCLOCK_MSR_DEADLINE; asked by whoever owns a timer, from any thread, as often as he
 * likes. `now`: a reading of this host's TSC at which the host had not slept since the VM's last pause. True: it was
 * due then, is taken now, and the vCPU is owed the interrupt `vector`. False: wait that long and ask again; a timer by
 * CLOCK_MONOTONIC that waits so long is not late, but may have to ask twice. Nothing is due while the VM is paused, or
 * has no line.
 */
struct pvclock_deadline {
	struct pvclock_host_tsc at; /* about when, by this host's TSC. UINT64_MAX: nothing is armed that will ever be due */
	uint64_t wait_ns;           /* 0: it is due. UINT64_MAX: as above */
	uint8_t vector;
};

bool pvclock_vcpu_take_deadline(struct pvclock_vcpu *vcpu, struct pvclock_host_tsc now, struct pvclock_deadline *deadline);

/*
 * Which of Hyper-V's clock the guest may use, PVCLOCK_HYPERV_* (pvclock/hyperv.h): what its CPUID tells it of. None at first:
 * then these MSRs are not ours. `apic_hz`: what APIC_FREQUENCY reads, the VMM's APIC's bus; KVM's own has 1000000000. Say so
 * before pvclock_kvm_attach: it is for own mode, and nothing is offered afterwards in the others.
 */
void pvclock_vm_offer_hyperv(struct pvclock_vm *vm, uint32_t features, uint64_t apic_hz);
uint32_t pvclock_vm_offered_hyperv(const struct pvclock_vm *vm);

/*
 * The guest came with its TSC page, and no record: what that says is reference time, as far as it agrees with the line;
 * `ticks`: the first vCPU's TSC at which it stood still. The VM is paused, and its MSRs are restored; pvclock_kvm_arrive does
 * it. -EINVAL: the page is no clock.
 */
int pvclock_vm_adopt_hyperv(struct pvclock_vm *vm, const struct pvclock_hyperv_snapshot *page, uint64_t ticks);

/*
 * After a resume and before the first vCPU runs (pvclock_kvm_resume does it): REENLIGHTENMENT_CONTROL, by which the guest gets
 * its interrupt, if reference time has become another function of its TSC; else 0.
 */
uint64_t pvclock_vm_take_reenlightenment(struct pvclock_vm *vm);

/* --- stolen time ----------------------------------------------------------------------------- */

/*
 * Whether stolen time is this engine's, rather than the kernel's (docs/steal.md): then PVCLOCK_MSR_STEAL_TIME is one of
 * ours, with #GP for an address that is not 64-byte aligned, and the VMM sees to it that the guest's CPUID has
 * KVM_FEATURE_STEAL_TIME and neither PV_TLB_FLUSH nor PV_UNHALT. Not at first. Say so before pvclock_kvm_attach: in own
 * mode it is then ours, in the other modes it stays the kernel's, and this is false again.
 */
void pvclock_vm_own_steal(struct pvclock_vm *vm, bool own);
bool pvclock_vm_owns_steal(const struct pvclock_vm *vm);

/*
 * Which thread of this process runs the vCPU (gettid(2)): its run delay is what is stolen. What it was delayed before
 * is none of the guest's; what the one before was delayed until now, is. 0: none does. 0, or -errno: its delay cannot
 * be read (-ENOENT: no such thread, or a kernel without CONFIG_SCHED_INFO), and nothing is stolen until it can.
 */
int pvclock_vcpu_set_thread(struct pvclock_vcpu *vcpu, int thread);

/*
 * The registration and its sum, from a record. (pvclock_vcpu_restore_msr takes the sum from the guest's page.) 0,
 * -EINVAL: not aligned.
 */
int pvclock_vcpu_restore_steal(struct pvclock_vcpu *vcpu, uint64_t msr, uint64_t ns);

/*
 * Brings every registered page up to now; a pause does so by itself, and what a blackout delays is not stolen. As often
 * as the guest should notice: each 20 ms, say. It reads a file of /proc a vCPU. 0, or the first vCPU's -errno; the
 * others are updated all the same.
 */
int pvclock_vm_update_steal(struct pvclock_vm *vm);

/* --- VMClock ---------------------------------------------------------------------------------- */

/* Rather than TAI: for Linux guests whose driver has its offset's sign wrong (docs/vmclock.md). */
#define PVCLOCK_VMCLOCK_WANT_UTC (1u << 0)

/*
 * Where VMClock's page (pvclock/vmclock.h) lies: `size` bytes of guest memory at `gpa`, whole pages if the guest's processes are to
 * map them. The VMM's choice, before the first vCPU runs; firmware tells the guest. It is looked up again whenever the memory map
 * changes. size 0: there is none. What a page of an earlier VMM says there (marker, generation, kind of time) is gone on from. 0;
 * -EINVAL: gpa not 8-byte aligned, size below 112 or above UINT32_MAX, not inside one writable region, or flags unknown.
 */
int pvclock_vm_set_vmclock(struct pvclock_vm *vm, struct pvclock_gpa gpa, uint64_t size, unsigned int flags);

struct pvclock_vmclock_update {
	struct pvclock_vmclock page; /* what it says now */
	uint64_t next_ns;            /* after this it should be brought up to date again */
	int64_t stepped_ns;          /* the host's clock says so much more than the page did, outside of its error; else 0 */
};

/*
 * Brings the page up to now; a resume does so by itself. As often as one likes, each second, say: between updates its error grows.
 * Reads the host's clocks some ten times, in a few us. *update may be NULL. 0; -ENODATA: no page is wanted, it is not in memory, or
 * there is no vCPU; -EBUSY: the VM is paused.
 */
int pvclock_vm_update_vmclock(struct pvclock_vm *vm, struct pvclock_vmclock_update *update);

/*
 * The guest's counter was disrupted where the engine cannot see it: it comes from another host, or its host slept. The page's next
 * update tells the guest. `loaded`: and the guest was loaded from a saved state, so that it may exist more than once. pvclock/kvm.h
 * says so itself. That a vCPU's TSC runs otherwise than before (pvclock_vcpu_set_tsc), the engine sees.
 */
void pvclock_vm_disrupt(struct pvclock_vm *vm, bool loaded);

/* --- policy and account -------------------------------------------------------------------- */

/* What the clocks do about blackouts; kept in the record. A new VM has the default. */
void pvclock_vm_set_policy(struct pvclock_vm *vm, const struct pvclock_policy *policy);
void pvclock_vm_get_policy(const struct pvclock_vm *vm, struct pvclock_policy *policy);

/* What was done to this clock so far, and more of it: sums are added to, maxima kept. */
void pvclock_vm_get_account(const struct pvclock_vm *vm, struct pvclock_account *account);
void pvclock_vm_count(struct pvclock_vm *vm, const struct pvclock_account *more);

/*
 * Tells the guest, if it asked for it (pvclock/interface.h), of a blackout of `ns` that the account has in it already:
 * writes its suspend page. Before the first vCPU runs again. Returns its PVCLOCK_MSR_SUSPEND_CONTROL, by which it gets
 * its interrupt; 0: it wants none.
 */
uint64_t pvclock_vm_tell(struct pvclock_vm *vm, enum pvclock_cause cause, uint64_t ns);

/* --- a guest that is a host ------------------------------------------------------------------ */

/*
 * The first vCPU's line has become another, between pause and resume, and this is how: what its counter read as
 * old_ticks, with the line that the guest was running by (of whatever host), is the instant at which it reads
 * next_ticks with the one that it has now. The resume tells a guest that asked for it (pvclock/nested.h), and rewrites
 * its guests' pages. A line that was set without this is taken to change at the resume, where the counter stands.
 * pvclock_kvm_arrive and pvclock_record_apply say it themselves.
 */
void pvclock_vm_line_changed(struct pvclock_vm *vm, const struct pvclock_line_change *change);

/* After the resume: the guest's PVCLOCK_MSR_NESTED_CONTROL, if it is owed the interrupt; once. 0: it is not, or wants none. */
uint64_t pvclock_vm_take_nested(struct pvclock_vm *vm);

/* --- events ------------------------------------------------------------------------------- */

/*
 * All vCPUs are out of guest mode (the caller saw to it, and completed pending MSR exits with an immediate_exit run).
 * -EALREADY if paused.
 */
int pvclock_vm_pause(struct pvclock_vm *vm);

/*
 * Publishes the pages of all vCPUs and marks each GUEST_STOPPED. Call it before the first vCPU runs again. -EALREADY
 * if not paused. The line does not change: time that passed by the guest's TSC has passed.
 */
int pvclock_vm_resume(struct pvclock_vm *vm);

/*
 * Publishes every registered page now (all vCPUs out of guest mode). Linear in the number of vCPUs. Returns pages
 * written.
 */
size_t pvclock_vm_publish(struct pvclock_vm *vm);

#ifdef __cplusplus
}
#endif
#endif
