/* SPDX-License-Identifier: MIT */
/*
 * parent.h - an engine whose own machine is a guest of a pvclock host (docs/spec/nested.md). The machine's line may
 * become another, where its host moves it; then its guests' lines, which were made from it, are wrong. The parent, as
 * it is called here, is told where their clock pages are, and makes them right before anything of the machine runs
 * again; the engine follows, and what the parent could not reach it publishes again.
 *
 * A VM's parent entries are kept up to date by the engine itself, wherever it publishes. On KVM it follows by itself, too:
 * pvclock_kvm_enter says -ESTALE, as after a sleep of the host, and the pause and resume that the VMM answers it with make
 * the VM's line what the parent made of its pages (pvclock/kvm.h). Any other VMM looks at pvclock_parent_changed before each
 * entry of a vCPU; where it is true, it pauses, calls pvclock_parent_follow, and resumes.
 */
#ifndef PVCLOCK_PARENT_H
#define PVCLOCK_PARENT_H

#include <pvclock/nested.h>
#include <pvclock/vm.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pvclock_parent;

struct pvclock_parent_ops {
	/* WRMSR on this machine: 0 or -errno. */
	int (*write_msr)(void *ctx, uint32_t msr, uint64_t value);
	/*
	 * Where `size` bytes of this process's memory lie in this machine's: 0, or -errno where they do not lie there
	 * in one piece, or not for good: what is named here must neither move nor be used for anything else until it is
	 * withdrawn (locked, and not to be migrated).
	 */
	int (*locate)(void *ctx, const void *host, uint64_t size, uint64_t *gpa);
};

/*
 * Registers `page`, which is zeroed, 4096-byte aligned, at a place that locate knows, and the parent's until
 * pvclock_parent_close. `control`: as PVCLOCK_MSR_NESTED_CONTROL, the interrupt; 0: none is wanted. The parent offers
 * PVCLOCK_FEATURE_NESTED (pvclock_interface_find). 0, -ENOMEM, what the ops said, or -ENOTSUP: nobody wrote there. A
 * process has as many as it likes, but the machine has one page: the last one.
 */
int pvclock_parent_open(const struct pvclock_parent_ops *ops, void *ctx, struct pvclock_nested_page *page, uint64_t control,
			struct pvclock_parent **parent);
void pvclock_parent_close(struct pvclock_parent *parent); /* after its VMs were removed */

/* Of this machine's line. Any thread. */
uint64_t pvclock_parent_generation(const struct pvclock_parent *parent);

/*
 * A VM whose line was made from what this machine's clock was in `generation`: read that before the slope is learnt.
 * After pvclock_vm_start or a restore, before a vCPU runs. 0; -EBUSY: it has a parent.
 */
int pvclock_parent_add(struct pvclock_parent *parent, struct pvclock_vm *vm, uint64_t generation);
/* With no vCPU running; pvclock_vm_destroy does, too. */
void pvclock_parent_remove(struct pvclock_vm *vm);
const struct pvclock_parent *pvclock_parent_of(const struct pvclock_vm *vm); /* NULL: it has none. Any thread. */
/*
 * The machine's clock has become another, and its parent has not said so: it is on a host that does not know of the page, which is
 * registered once more, if that one offers it. Nothing for a VM without a parent.
 */
void pvclock_parent_renew(const struct pvclock_vm *vm);

/* Whether the machine's line is another than the one that the VM's was made from. Two loads; any thread. */
bool pvclock_parent_changed(const struct pvclock_vm *vm);

/*
 * Between pause and resume: the VM's line becomes what the parent made of its pages; the resume publishes it, where
 * that was not possible, too. 0: there was nothing to follow; 1: it was followed, and *host (may be NULL) is this
 * machine's slope now, ns per tick; 2: the same, and the parent had not made all of its pages right: what was read there
 * meanwhile, by the line that had gone, may be ahead of the new one. -EBUSY: it would be, and is not paused; -ESTALE with a reason: the VM's line was
 * more changes behind than the parent keeps, or the parent did not know: give it a line anew. It is not told again.
 */
int pvclock_parent_follow(struct pvclock_vm *vm, struct pvclock_slope *host, struct pvclock_reason *reason);

#ifdef __cplusplus
}
#endif
#endif
