/* SPDX-License-Identifier: MIT */
/* publish.c - lines into pages. */
#include "vm.h"

bool pvclock_vm_publish_vcpu(struct pvclock_vcpu *vcpu)
{
	uint8_t flags = 0;

	if (!vcpu->page.host || !vcpu->vm->has_line) {
		pvclock_parent_enter(vcpu);
		return false;
	}
	if (vcpu->vm->unstable.code == PVCLOCK_REASON_NONE)
		flags |= PVCLOCK_TSC_STABLE;
	if (vcpu->stop_pending)
		flags |= PVCLOCK_GUEST_STOPPED;
	pvclock_page_write(vcpu->page.host, pvclock_vcpu_line(vcpu), flags);
	pvclock_vm_mark_dirty(&vcpu->page, sizeof(struct pvclock_page));
	vcpu->stop_pending = false;
	pvclock_parent_enter(vcpu);
	return true;
}

size_t pvclock_vm_publish_all(struct pvclock_vm *vm)
{
	size_t written = 0, i;

	for (i = 0; i < vm->vcpu_count; i++)
		written += pvclock_vm_publish_vcpu(vm->vcpus[i]);
	pvclock_vm_follow_hyperv(vm);
	pvclock_vm_fill_vmclock(vm, NULL);
	return written;
}

size_t pvclock_vm_publish(struct pvclock_vm *vm)
{
	size_t written;

	pthread_mutex_lock(&vm->lock);
	written = pvclock_vm_publish_all(vm);
	pthread_mutex_unlock(&vm->lock);
	return written;
}
