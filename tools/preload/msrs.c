/* SPDX-License-Identifier: MIT */
/*
 * msrs.c - KVM_GET_MSRS and KVM_SET_MSRS: a VMM saves and restores what its guest registered and what its counters read.
 * The clock's entries are taken out of the list, the rest goes to the kernel in one call, and the answer is put together:
 * as from the kernel, the number of entries up to the first that failed.
 */
#include "preload.h"

#include <pvclock/hyperv.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ENTRIES_MAX 4096u /* the kernel's own limit is 256; a larger list is its to refuse */

/*
 * QEMU takes in no guest that has Hyper-V's re-enlightenment enabled, unless it was started with tsc-frequency= (target/i386/machine.c):
 * KVM has that MSR for show, and its guest would wait for an interrupt that never comes. Here it comes. So the MSR travels with
 * another bit for "enabled", one that the TLFS reserves and no guest can set. A KVM without us takes the value as it is, and tells
 * its guest nothing, as it would have with the other bit.
 */
#define CARRIED_ENABLE (1ull << 17)

uint64_t vcpu_tsc_at(const struct vcpu *vcpu, struct pvclock_host_tsc at)
{
	struct pvclock_tsc_transform transform;
	uint64_t offset;
	struct kvm_device_attr attribute = { .group = 0, .attr = 0, .addr = (uintptr_t)&offset }; /* KVM_VCPU_TSC_OFFSET */

	pvclock_vcpu_get_tsc(vcpu->clock, &transform);
	if (kernel_ioctl(vcpu->object.fd, KVM_GET_DEVICE_ATTR, &attribute) == 0)
		transform.offset = offset;
	return pvclock_tsc_to_guest(&transform, at).ticks;
}

static bool is_registration(const struct vcpu *vcpu, uint32_t msr)
{
	uint64_t unused;

	return vm_is(vcpu->vm, PVCLOCK_MODE_OWN) && pvclock_vcpu_read_msr(vcpu->clock, msr, &unused) == 0;
}

static bool is_control(const struct kvm_msr_entry *entry)
{
	return entry->index == PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL;
}

/* As the VMM is told it. */
static uint64_t carried(const struct kvm_msr_entry *entry, uint64_t value)
{
	return is_control(entry) && value & PVCLOCK_CONTROL_ENABLE ? value ^ (PVCLOCK_CONTROL_ENABLE | CARRIED_ENABLE) : value;
}

/* As the VMM means it. Both bits at once is nothing that was told: that the engine refuses. */
static uint64_t meant(const struct kvm_msr_entry *entry)
{
	if (is_control(entry) && (entry->data & (PVCLOCK_CONTROL_ENABLE | CARRIED_ENABLE)) == CARRIED_ENABLE)
		return entry->data ^ (PVCLOCK_CONTROL_ENABLE | CARRIED_ENABLE);
	return entry->data;
}

/* The machine's: its clock is registered nowhere, and nor is what the VMM knows nothing of. */
static bool is_reset(const struct vcpu *vcpu, const struct kvm_msr_entry *entry)
{
	return (entry->index == PVCLOCK_MSR_SYSTEM_TIME || entry->index == PVCLOCK_MSR_SYSTEM_TIME_OLD) && entry->data == 0 &&
	       vcpu == vcpu->vm->vcpus[0];
}

/* --- the list without ours ------------------------------------------------------------------------- */

struct rest {
	struct kvm_msrs *msrs;
	uint32_t *place; /* where each entry was; place[nmsrs] is the whole list's length */
};

static bool rest_make(struct rest *rest, const struct kvm_msrs *all, bool (*ours)(const struct vcpu *, uint32_t),
		      const struct vcpu *vcpu)
{
	rest->msrs = calloc(1, sizeof(*all) + all->nmsrs * sizeof(all->entries[0]));
	rest->place = calloc(all->nmsrs + 1u, sizeof(*rest->place));
	if (rest->msrs == NULL || rest->place == NULL)
		return false;
	for (uint32_t i = 0; i < all->nmsrs; i++) {
		if (ours(vcpu, all->entries[i].index))
			continue;
		rest->place[rest->msrs->nmsrs] = i;
		rest->msrs->entries[rest->msrs->nmsrs++] = all->entries[i];
	}
	rest->place[rest->msrs->nmsrs] = all->nmsrs;
	return true;
}

static void rest_free(struct rest *rest)
{
	free(rest->msrs);
	free(rest->place);
}

/* How far into the whole list the kernel came, or -errno. */
static int rest_ask(const struct rest *rest, const struct vcpu *vcpu, unsigned long request)
{
	int count = rest->msrs->nmsrs == 0 ? 0 : kernel_ioctl(vcpu->object.fd, request, rest->msrs);

	return count < 0 ? count : (int)rest->place[count];
}

/* --- reading ------------------------------------------------------------------------------------------ */

/* The counter of a VM that stands still is told as of one instant, for all vCPUs the same. With the lock held. */
static bool told_tsc(struct vcpu *vcpu, uint64_t *tsc)
{
	struct vm *vm = vcpu->vm;

	if (vcpu->has_tsc) {
		*tsc = vcpu->tsc;
		return true;
	}
	if (!vm->started || !gate_close_if_stopped(vm))
		return false;
	vm_hold(vm);
	*tsc = vcpu_tsc_at(vcpu, vm->hold);
	return true;
}

int vcpu_get_msrs(struct vcpu *vcpu, struct kvm_msrs *msrs)
{
	struct rest rest = { 0 };
	int count;

	if (vcpu->clock == NULL || msrs->nmsrs > ENTRIES_MAX)
		return kernel_ioctl(vcpu->object.fd, KVM_GET_MSRS, msrs);
	if (!rest_make(&rest, msrs, is_registration, vcpu)) {
		rest_free(&rest);
		return -ENOMEM;
	}
	count = rest_ask(&rest, vcpu, KVM_GET_MSRS); /* without the lock: a vCPU that runs is waited for */
	pthread_mutex_lock(&vcpu->vm->lock);
	for (uint32_t i = 0; i < rest.msrs->nmsrs && (int)rest.place[i] < count; i++)
		msrs->entries[rest.place[i]].data = rest.msrs->entries[i].data;
	for (int i = 0; i < count; i++) {
		uint64_t value;

		if (is_registration(vcpu, msrs->entries[i].index) &&
		    pvclock_vcpu_read_msr(vcpu->clock, msrs->entries[i].index, &value) == 0)
			msrs->entries[i].data = carried(&msrs->entries[i], value);
		else if (msrs->entries[i].index == MSR_IA32_TSC && told_tsc(vcpu, &value))
			msrs->entries[i].data = value;
		else if (msrs->entries[i].index == MSR_IA32_TSC_DEADLINE && vcpu->has_tsc)
			msrs->entries[i].data = vcpu->deadline;
	}
	pthread_mutex_unlock(&vcpu->vm->lock);
	rest_free(&rest);
	return count;
}

/* --- writing ------------------------------------------------------------------------------------------ */

/*
 * A vCPU that joins a running VM. QEMU resets its counter as it would the VM's, to 1 (0 already had a meaning); on a real
 * machine a CPU's counter joins the others', and so it does here: that meaning is KVM's for 0.
 */
static bool joins(const struct vcpu *vcpu, uint64_t tsc)
{
	return tsc <= 1 && vcpu->vm->started && vcpu != vcpu->vm->vcpus[0] && !vcpu->vm->vcpus[0]->has_tsc;
}

/*
 * KVM makes up its own mind about a counter that is written: what is within a second of another vCPU's becomes the same.
 * It gets the value all the same. In a VM that stands still it is a state that is being restored, and carried out exactly
 * when the VM goes on.
 */
static void counter_written(struct vcpu *vcpu, uint64_t tsc)
{
	struct vm *vm = vcpu->vm;

	if (tsc != 0 && gate_close_if_stopped(vm)) {
		vcpu->has_tsc = true;
		vcpu->tsc = tsc;
		vcpu->deadline = 0;
		return;
	}
	vcpu->has_tsc = false;
	pvclock_kvm_follow_tsc(vm->kvm, vcpu->clock);
	if (vm->started && vm_is(vm, PVCLOCK_MODE_STEER)) {
		vcpu->settled = false; /* KVM will move its clock when this vCPU enters */
		atomic_store(&vm->gate, true);
	}
}

static void entry_written(struct vcpu *vcpu, const struct kvm_msr_entry *entry)
{
	if (is_registration(vcpu, entry->index)) {
		pvclock_vcpu_restore_msr(vcpu->clock, entry->index, meant(entry));
		if (is_reset(vcpu, entry))
			vm_take_registrations(vcpu->vm, NULL);
	} else if (entry->index == MSR_IA32_TSC) {
		counter_written(vcpu, joins(vcpu, entry->data) ? 0 : entry->data);
	} else if (entry->index == MSR_IA32_TSC_DEADLINE && vcpu->has_tsc) {
		vcpu->deadline = entry->data;
	}
}

int vcpu_set_msrs(struct vcpu *vcpu, const struct kvm_msrs *msrs)
{
	struct rest rest = { 0 };
	bool arrives = vcpu->has_tsc; /* a deadline is kept back with the counter that it belongs to */
	int count;

	if (vcpu->clock == NULL || msrs->nmsrs > ENTRIES_MAX)
		return kernel_ioctl(vcpu->object.fd, KVM_SET_MSRS, (void *)msrs);
	if (!rest_make(&rest, msrs, is_registration, vcpu)) {
		rest_free(&rest);
		return -ENOMEM;
	}
	pthread_mutex_lock(&vcpu->vm->lock);
	for (uint32_t i = 0; i < rest.msrs->nmsrs; i++) {
		struct kvm_msr_entry *entry = &rest.msrs->entries[i];

		if (entry->index == MSR_IA32_TSC && joins(vcpu, entry->data))
			entry->data = 0;
		arrives |= entry->index == MSR_IA32_TSC && entry->data != 0 && gate_close_if_stopped(vcpu->vm);
		if (entry->index == MSR_IA32_TSC_DEADLINE && arrives)
			entry->data = 0;
	}
	pthread_mutex_unlock(&vcpu->vm->lock);
	count = rest_ask(&rest, vcpu, KVM_SET_MSRS);
	pthread_mutex_lock(&vcpu->vm->lock);
	for (int i = 0; i < count; i++)
		entry_written(vcpu, &msrs->entries[i]);
	pthread_mutex_unlock(&vcpu->vm->lock);
	rest_free(&rest);
	return count;
}
