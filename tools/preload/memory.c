/* SPDX-License-Identifier: MIT */
/*
 * memory.c - the guest's memory as the VMM lays it out, and the pages that the engine wrote, in the VMM's own dirty logs:
 * what userspace writes, KVM does not log.
 */
#include "preload.h"

#include <errno.h>
#include <stdlib.h>

#define ADDRESS_SPACE(slot) ((slot) >> 16) /* api.rst 4.35: 1 is x86's SMM, which sees the same memory */

static struct slot *find_slot(struct vm *vm, uint32_t id)
{
	for (size_t i = 0; i < vm->slot_count; i++)
		if (vm->slots[i].id == id)
			return &vm->slots[i];
	return NULL;
}

static void forget_slot(struct vm *vm, struct slot *slot)
{
	pvclock_vm_remove_memory(vm->clock, slot->gpa, slot->size);
	*slot = vm->slots[--vm->slot_count];
}

static int keep_slot(struct vm *vm, const struct kvm_userspace_memory_region *region)
{
	struct slot *slots = realloc(vm->slots, (vm->slot_count + 1) * sizeof(*slots));
	int error;

	if (slots == NULL)
		return -ENOMEM;
	vm->slots = slots;
	slots[vm->slot_count] = (struct slot){ region->slot, { region->guest_phys_addr }, region->memory_size };
	/* an address that the VMM gave the kernel as a number */
	error = pvclock_vm_add_memory(vm->clock, slots[vm->slot_count].gpa, region->memory_size,
				      (void *)(uintptr_t)region->userspace_addr,
				      region->flags & KVM_MEM_READONLY ? PVCLOCK_MEMORY_READONLY : 0);
	if (error == 0)
		vm->slot_count++;
	return error;
}

int vm_set_memory(struct vm *vm, unsigned long request, void *arg)
{
	const struct kvm_userspace_memory_region *region = arg; /* the newer call's struct begins with it */
	struct slot *slot;
	int result, error = 0;

	pthread_mutex_lock(&vm->lock);
	result = kernel_ioctl(vm->fd, request, arg);
	if (result >= 0 && vm->kvm != NULL && ADDRESS_SPACE(region->slot) == 0) {
		slot = find_slot(vm, region->slot);
		/* a change of flags alone keeps the place, and what was written there and not yet told */
		if (slot == NULL || slot->gpa.address != region->guest_phys_addr || slot->size != region->memory_size) {
			if (slot != NULL)
				forget_slot(vm, slot);
			if (region->memory_size != 0)
				error = keep_slot(vm, region);
		}
	}
	pthread_mutex_unlock(&vm->lock);
	if (error)
		say("guest memory at 0x%llx is not known to the clock (error %d): a clock page there will not be written.",
		    (unsigned long long)region->guest_phys_addr, -error);
	return result;
}

int vm_get_dirty_log(struct vm *vm, struct kvm_dirty_log *log)
{
	int result = kernel_ioctl(vm->fd, KVM_GET_DIRTY_LOG, log);
	struct slot *slot;

	if (result < 0 || vm->kvm == NULL || ADDRESS_SPACE(log->slot) != 0)
		return result;
	pthread_mutex_lock(&vm->lock);
	slot = find_slot(vm, log->slot);
	if (slot != NULL)
		pvclock_vm_take_dirty(vm->clock, slot->gpa, slot->size, log->dirty_bitmap);
	pthread_mutex_unlock(&vm->lock);
	return result;
}
