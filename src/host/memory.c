/* SPDX-License-Identifier: MIT */
/* memory.c - the guest's memory as the engine may write it: a sorted map, and which of its pages were written. */
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_SHIFT 12

static size_t region_pages(const struct region *region)
{
	uint64_t last = region->gpa + (region->size - 1);

	return (size_t)((last >> PAGE_SHIFT) - (region->gpa >> PAGE_SHIFT) + 1);
}

static size_t region_words(const struct region *region)
{
	return (region_pages(region) + 63) / 64;
}

/* The first region that ends after gpa. */
static size_t region_search(const struct pvclock_vm *vm, uint64_t gpa)
{
	size_t low = 0, high = vm->region_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct region *region = &vm->regions[middle];

		if (region->gpa + (region->size - 1) < gpa)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool pvclock_vm_find_place(struct pvclock_vm *vm, uint64_t gpa, uint64_t size, struct place *place)
{
	size_t at = region_search(vm, gpa);
	struct region *region;
	uint64_t last;

	*place = (struct place){ .gpa = gpa };
	if (gpa % 4 != 0) /* the pages are made of 32-bit words */
		return false;
	if (__builtin_add_overflow(gpa, size - 1, &last) || at == vm->region_count)
		return false;
	region = &vm->regions[at];
	if (gpa < region->gpa || last > region->gpa + (region->size - 1) || (region->flags & PVCLOCK_MEMORY_READONLY))
		return false;
	place->region = region;
	place->host = region->host + (gpa - region->gpa);
	return true;
}

void pvclock_vm_mark_dirty(const struct place *place, uint64_t size)
{
	struct region *region = place->region;
	uint64_t base = region->gpa >> PAGE_SHIFT;
	uint64_t page, last = ((place->gpa + size - 1) >> PAGE_SHIFT) - base;

	for (page = (place->gpa >> PAGE_SHIFT) - base; page <= last; page++) {
		uint64_t bit = 1ull << (page % 64);

		if (!(region->dirty[page / 64] & bit)) {
			region->dirty[page / 64] |= bit;
			region->dirty_count++;
		}
	}
}

size_t pvclock_vm_take_dirty(struct pvclock_vm *vm, struct pvclock_gpa gpa, uint64_t size, void *bitmap)
{
	uint64_t first = gpa.address >> PAGE_SHIFT, last;
	uint8_t *bits = bitmap;
	size_t taken = 0, i;

	if (size == 0 || __builtin_add_overflow(gpa.address, size - 1, &last))
		return 0;
	last >>= PAGE_SHIFT;
	pthread_mutex_lock(&vm->lock);
	for (i = region_search(vm, gpa.address); i < vm->region_count && vm->regions[i].gpa >> PAGE_SHIFT <= last; i++) {
		struct region *region = &vm->regions[i];
		uint64_t base = region->gpa >> PAGE_SHIFT, page = first > base ? first - base : 0;
		uint64_t end = last - base < region_pages(region) - 1 ? last - base : region_pages(region) - 1;

		for (; region->dirty_count > 0 && page <= end; page++) {
			uint64_t bit = 1ull << (page % 64);

			if (region->dirty[page / 64] == 0) { /* to the last page of this word */
				page |= 63;
				continue;
			}
			if (!(region->dirty[page / 64] & bit))
				continue;
			region->dirty[page / 64] &= ~bit;
			region->dirty_count--;
			taken++;
			if (bits)
				bits[(base + page - first) / 8] |= (uint8_t)(1u << ((base + page - first) % 8));
		}
	}
	pthread_mutex_unlock(&vm->lock);
	return taken;
}

void pvclock_vm_resolve(struct pvclock_vcpu *vcpu)
{
	if (vcpu->system_time_msr & PVCLOCK_MSR_ENABLE)
		pvclock_vm_find_place(vcpu->vm, vcpu_page_address(vcpu->system_time_msr), sizeof(struct pvclock_page), &vcpu->page);
	else
		vcpu->page = (struct place){ 0 };
	/* what lies there in a pause is perhaps a state that is being loaded: the resume writes it, and enters it then */
	if (vcpu->vm->paused)
		pvclock_parent_withdraw(vcpu);
	else
		pvclock_parent_enter(vcpu);
	pvclock_vm_resolve_steal(vcpu);
}

static void resolve_all(struct pvclock_vm *vm)
{
	size_t i;

	for (i = 0; i < vm->vcpu_count; i++)
		pvclock_vm_resolve(vm->vcpus[i]);
	pvclock_vm_resolve_suspend(vm);
	pvclock_vm_resolve_nested(vm);
	pvclock_parent_copy_table(vm);
	pvclock_vm_resolve_hyperv(vm);
	pvclock_vm_resolve_vmclock(vm);
}

int pvclock_vm_add_memory(struct pvclock_vm *vm, struct pvclock_gpa gpa, uint64_t size, void *host, unsigned int flags)
{
	struct region region = { .gpa = gpa.address, .size = size, .host = host, .flags = flags };
	struct region *regions;
	uint64_t last;
	size_t at;
	int error = 0;

	if (size == 0 || !host || gpa.address % 4 != 0 || (uintptr_t)host % 4 != 0 || (flags & ~PVCLOCK_MEMORY_READONLY) ||
	    __builtin_add_overflow(gpa.address, size - 1, &last))
		return -EINVAL;
	region.dirty = calloc(region_words(&region), sizeof(*region.dirty));
	if (!region.dirty)
		return -ENOMEM;

	pthread_mutex_lock(&vm->lock);
	at = region_search(vm, gpa.address);
	if (at < vm->region_count && vm->regions[at].gpa <= last) {
		error = -EEXIST;
		goto out;
	}
	regions = realloc(vm->regions, (vm->region_count + 1) * sizeof(*regions));
	if (!regions) {
		error = -ENOMEM;
		goto out;
	}
	memmove(&regions[at + 1], &regions[at], (vm->region_count - at) * sizeof(*regions));
	regions[at] = region;
	vm->regions = regions;
	vm->region_count++;
	resolve_all(vm);
out:
	pthread_mutex_unlock(&vm->lock);
	if (error)
		free(region.dirty);
	return error;
}

int pvclock_vm_remove_memory(struct pvclock_vm *vm, struct pvclock_gpa gpa, uint64_t size)
{
	int error = -ENOENT;
	size_t at;

	pthread_mutex_lock(&vm->lock);
	at = region_search(vm, gpa.address);
	if (at < vm->region_count && vm->regions[at].gpa == gpa.address && vm->regions[at].size == size) {
		free(vm->regions[at].dirty);
		vm->region_count--;
		memmove(&vm->regions[at], &vm->regions[at + 1], (vm->region_count - at) * sizeof(*vm->regions));
		resolve_all(vm);
		error = 0;
	}
	pthread_mutex_unlock(&vm->lock);
	return error;
}

static int result_of(bool found, enum pvclock_read result)
{
	if (!found)
		return -EFAULT;
	return result == PVCLOCK_READ_OK ? 0 : result == PVCLOCK_READ_BUSY ? -EAGAIN : -EINVAL;
}

int pvclock_vm_read_page(struct pvclock_vm *vm, struct pvclock_gpa gpa, struct pvclock_snapshot *out)
{
	enum pvclock_read result = PVCLOCK_READ_INVALID;
	struct place place;
	bool found;

	pthread_mutex_lock(&vm->lock);
	found = pvclock_vm_find_place(vm, gpa.address, sizeof(struct pvclock_page), &place);
	if (found)
		result = pvclock_page_read(place.host, out);
	pthread_mutex_unlock(&vm->lock);
	return result_of(found, result);
}

int pvclock_vm_read_hyperv_page(struct pvclock_vm *vm, struct pvclock_gpa gpa, struct pvclock_hyperv_snapshot *out)
{
	enum pvclock_read result = PVCLOCK_READ_INVALID;
	struct place place;
	bool found;

	pthread_mutex_lock(&vm->lock);
	found = pvclock_vm_find_place(vm, gpa.address, sizeof(struct pvclock_hyperv_page), &place);
	if (found)
		result = pvclock_hyperv_page_read(place.host, out);
	pthread_mutex_unlock(&vm->lock);
	return result_of(found, result);
}
