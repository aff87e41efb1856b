/* SPDX-License-Identifier: MIT */
/*
 * steal.c - stolen time, where userspace owns it: how long a vCPU's thread was ready to run and did not (the kernel's
 * run delay of it), from the guest's registration on and without its blackouts. The sum is kept here: what the guest
 * writes into its page moves it once, as the number to begin with.
 */
#include "vm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define RESERVED 0x3eull /* of the MSR: the page is 64-byte aligned (msr.rst: #GP) */

bool pvclock_steal_check(uint64_t msr)
{
	return (msr & RESERVED) == 0;
}

/*
 * The thread's run delay since it began, in ns: the second number of its schedstat (Linux
 * Documentation/scheduler/sched-stats.rst).
 */
static int read_delay(const struct pvclock_vm *vm, int thread, uint64_t *ns)
{
	char path[64], text[96];
	uint64_t ran;
	ssize_t length;

	snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", thread);
	length = vm->os->ops->read_file(vm->os->ctx, path, text, sizeof(text));
	if (length < 0)
		return (int)length;
	return sscanf(text, "%" SCNu64 " %" SCNu64, &ran, ns) == 2 ? 0 : -ENODATA;
}

/* The thread's delay so far counts, or (with the guest not running) does not. */
static int look_at_thread(struct pvclock_vcpu *vcpu, bool counts)
{
	uint64_t delay;
	int error;

	if (vcpu->thread == 0)
		return 0;
	error = read_delay(vcpu->vm, vcpu->thread, &delay);
	if (error)
		return error;
	if (counts && vcpu->delay_known && delay > vcpu->delay_ns)
		vcpu->steal_ns += delay - vcpu->delay_ns;
	vcpu->delay_ns = delay;
	vcpu->delay_known = true;
	return 0;
}

static bool wants(const struct pvclock_vcpu *vcpu)
{
	return vcpu->vm->owns_steal && (vcpu->steal_msr & PVCLOCK_MSR_ENABLE);
}

/*
 * A registration that came without its sum has it in guest memory; by no version, for that may be what the guest found
 * there (KVM does the same).
 */
static void begin(struct pvclock_vcpu *vcpu)
{
	const uint32_t *words = vcpu->steal_page.host;

	if (vcpu->steal_begun || !words)
		return;
	vcpu->steal_ns = pvclock_load_relaxed_u32(words) | (uint64_t)pvclock_load_relaxed_u32(words + 1) << 32;
	vcpu->steal_begun = true;
}

static void write_page(struct pvclock_vcpu *vcpu)
{
	if (!vcpu->steal_page.host)
		return;
	pvclock_steal_write(vcpu->steal_page.host, vcpu->steal_ns);
	pvclock_vm_mark_dirty(&vcpu->steal_page, sizeof(struct pvclock_steal_page));
}

int pvclock_vm_update_steals(struct pvclock_vm *vm, bool counts)
{
	int first = 0;

	for (size_t i = 0; i < vm->vcpu_count; i++) {
		struct pvclock_vcpu *vcpu = vm->vcpus[i];
		uint64_t before;
		int error;

		if (!wants(vcpu))
			continue;
		begin(vcpu);
		before = vcpu->steal_ns;
		error = look_at_thread(vcpu, counts);
		first = first ? first : error;
		if (vcpu->steal_ns != before)
			write_page(vcpu);
	}
	return first;
}

void pvclock_vm_resolve_steal(struct pvclock_vcpu *vcpu)
{
	if (vcpu->steal_msr & PVCLOCK_MSR_ENABLE)
		pvclock_vm_find_place(vcpu->vm, vcpu->steal_msr - PVCLOCK_MSR_ENABLE, sizeof(struct pvclock_steal_page), &vcpu->steal_page);
	else
		vcpu->steal_page = (struct place){ 0 };
}

int pvclock_vm_write_steal_msr(struct pvclock_vcpu *vcpu, uint64_t value)
{
	struct place place = { 0 };

	if (!vcpu->vm->owns_steal)
		return -ENOENT;
	if (!pvclock_steal_check(value))
		return -EINVAL;
	if ((value & PVCLOCK_MSR_ENABLE) &&
	    !pvclock_vm_find_place(vcpu->vm, value - PVCLOCK_MSR_ENABLE, sizeof(struct pvclock_steal_page), &place))
		return -EINVAL;
	vcpu->steal_msr = value;
	vcpu->steal_page = place;
	vcpu->steal_begun = false;
	vcpu->steal_ns = 0;
	begin(vcpu);
	look_at_thread(vcpu, false); /* where that fails, it begins with the first update that does not */
	write_page(vcpu);
	return 0;
}

void pvclock_vm_restore_steal(struct pvclock_vcpu *vcpu, uint64_t msr, const uint64_t *ns)
{
	vcpu->steal_msr = msr;
	vcpu->steal_begun = ns != NULL;
	vcpu->steal_ns = ns ? *ns : 0;
	vcpu->delay_known = false;
	pvclock_vm_resolve_steal(vcpu);
}

/* --- what a VMM calls ------------------------------------------------------------------------- */

void pvclock_vm_own_steal(struct pvclock_vm *vm, bool own)
{
	pthread_mutex_lock(&vm->lock);
	vm->owns_steal = own;
	pthread_mutex_unlock(&vm->lock);
}

bool pvclock_vm_owns_steal(const struct pvclock_vm *vm)
{
	pthread_mutex_t *lock = (pthread_mutex_t *)&vm->lock;
	bool owns;

	pthread_mutex_lock(lock);
	owns = vm->owns_steal;
	pthread_mutex_unlock(lock);
	return owns;
}

int pvclock_vcpu_set_thread(struct pvclock_vcpu *vcpu, int thread)
{
	int error;

	pthread_mutex_lock(&vcpu->vm->lock);
	if (wants(vcpu) && !vcpu->vm->paused) {
		begin(vcpu);
		look_at_thread(vcpu, true); /* what it was delayed as the old one; that may have ended */
		write_page(vcpu);
	}
	vcpu->thread = thread;
	vcpu->delay_known = false;
	error = vcpu->vm->owns_steal ? look_at_thread(vcpu, false) : 0;
	pthread_mutex_unlock(&vcpu->vm->lock);
	return error;
}

int pvclock_vcpu_restore_steal(struct pvclock_vcpu *vcpu, uint64_t msr, uint64_t ns)
{
	if (!pvclock_steal_check(msr))
		return -EINVAL;
	pthread_mutex_lock(&vcpu->vm->lock);
	pvclock_vm_restore_steal(vcpu, msr, &ns);
	pthread_mutex_unlock(&vcpu->vm->lock);
	return 0;
}

int pvclock_vm_update_steal(struct pvclock_vm *vm)
{
	int error = 0;

	pthread_mutex_lock(&vm->lock);
	if (!vm->paused)
		error = pvclock_vm_update_steals(vm, true);
	pthread_mutex_unlock(&vm->lock);
	return error;
}
