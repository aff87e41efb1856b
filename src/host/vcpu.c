/* SPDX-License-Identifier: MIT */
/* vcpu.c - vCPUs: their TSCs, and the line that each of them reads. */
#include "vm.h"
#include "reason.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static size_t vcpu_search(const struct pvclock_vm *vm, uint32_t index)
{
	size_t low = 0, high = vm->vcpu_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (vm->vcpus[middle]->index < index)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int pvclock_vcpu_create(struct pvclock_vm *vm, uint32_t index, struct pvclock_vcpu **out)
{
	struct pvclock_vcpu *vcpu = calloc(1, sizeof(*vcpu));
	int error = 0;
	size_t at;

	if (!vcpu)
		return -ENOMEM;
	vcpu->vm = vm;
	vcpu->index = index;

	pthread_mutex_lock(&vm->lock);
	at = vcpu_search(vm, index);
	if (at < vm->vcpu_count && vm->vcpus[at]->index == index) {
		error = -EEXIST;
		goto out;
	}
	if (vm->vcpu_count == vm->vcpu_room) {
		size_t room = vm->vcpu_room ? vm->vcpu_room * 2 : 8;
		struct pvclock_vcpu **vcpus = realloc(vm->vcpus, room * sizeof(struct pvclock_vcpu *));

		if (!vcpus) {
			error = -ENOMEM;
			goto out;
		}
		vm->vcpus = vcpus;
		vm->vcpu_room = room;
	}
	/* A vCPU starts with the TSC of the VM's first one; the hypervisor's truth follows by pvclock_vcpu_set_tsc. */
	if (vm->vcpu_count > 0)
		vcpu->tsc = vm->vcpus[0]->tsc;
	memmove(&vm->vcpus[at + 1], &vm->vcpus[at], (vm->vcpu_count - at) * sizeof(struct pvclock_vcpu *));
	vm->vcpus[at] = vcpu;
	vm->vcpu_count++;
	*out = vcpu;
out:
	pthread_mutex_unlock(&vm->lock);
	if (error)
		free(vcpu);
	return error;
}

void pvclock_vcpu_destroy(struct pvclock_vcpu *vcpu)
{
	enum pvclock_reason_code before;
	struct pvclock_vm *vm;
	size_t at;

	if (!vcpu)
		return;
	vm = vcpu->vm;
	pthread_mutex_lock(&vm->lock);
	pvclock_parent_withdraw(vcpu);
	before = vm->unstable.code;
	at = vcpu_search(vm, vcpu->index);
	vm->vcpu_count--;
	memmove(&vm->vcpus[at], &vm->vcpus[at + 1], (vm->vcpu_count - at) * sizeof(struct pvclock_vcpu *));
	pvclock_vm_judge_stability(vm);
	if (before != vm->unstable.code && !vm->paused)
		pvclock_vm_publish_all(vm);
	else if (!vm->paused)
		pvclock_vm_follow_hyperv(vm); /* the first one may be another */
	pthread_mutex_unlock(&vm->lock);
	free(vcpu);
}

uint32_t pvclock_vcpu_index(const struct pvclock_vcpu *vcpu)
{
	return vcpu->index;
}

struct pvclock_vm *pvclock_vcpu_vm(const struct pvclock_vcpu *vcpu)
{
	return vcpu->vm;
}

int pvclock_vcpu_set_tsc(struct pvclock_vcpu *vcpu, const struct pvclock_tsc_transform *transform, bool catchup)
{
	struct pvclock_vm *vm = vcpu->vm;
	enum pvclock_reason_code before;

	if (transform->frac_bits > 63 || (transform->frac_bits != 0 && transform->ratio == 0))
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	before = vm->unstable.code;
	vcpu->tsc = *transform;
	if (transform->frac_bits == 0)
		vcpu->tsc.ratio = 0;
	vcpu->catchup = catchup;
	vcpu->synced = false;
	pvclock_vm_judge_stability(vm);
	/* The flag is every page's business: the others' lines are the same as before, so their readers see no tear. */
	if (vm->has_line && !vm->paused) {
		if (before != vm->unstable.code)
			pvclock_vm_publish_all(vm);
		else
			pvclock_vm_publish_vcpu(vcpu);
		pvclock_vm_follow_hyperv(vm);
		if (before == vm->unstable.code && vcpu == vm->vcpus[0]) /* whose counter VMClock's is */
			pvclock_vm_fill_vmclock(vm, NULL);
	}
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

void pvclock_vcpu_get_tsc(const struct pvclock_vcpu *vcpu, struct pvclock_tsc_transform *transform)
{
	pthread_mutex_lock(&vcpu->vm->lock);
	*transform = vcpu->tsc;
	pthread_mutex_unlock(&vcpu->vm->lock);
}

int pvclock_vcpu_get_line(const struct pvclock_vcpu *vcpu, struct pvclock_line *line)
{
	struct pvclock_vcpu *mutable = (struct pvclock_vcpu *)vcpu; /* only its cache changes, under the lock */
	int error = -ENODATA;

	pthread_mutex_lock(&vcpu->vm->lock);
	if (vcpu->vm->has_line) {
		*line = *pvclock_vcpu_line(mutable);
		error = 0;
	}
	pthread_mutex_unlock(&vcpu->vm->lock);
	return error;
}

int pvclock_vcpu_set_line(struct pvclock_vcpu *vcpu, const struct pvclock_line *line)
{
	struct pvclock_vm *vm = vcpu->vm;
	struct pvclock_slope slope;

	if (!pvclock_slope_from_line(line, &slope))
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	pvclock_vm_set_line(vm, line, &vcpu->tsc, NULL);
	if (!vm->paused)
		pvclock_vm_publish_all(vm);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}
