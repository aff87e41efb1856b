/* SPDX-License-Identifier: MIT */
/* interrupt.c - an interrupt to a guest's vCPU, as a device would send it. */
#include "kvm.h"

#include <errno.h>

#define MSI_ADDRESS 0xfee00000u /* Intel SDM 3A 11.11.1: physical destination, fixed, edge */
#define MSI_APIC_SHIFT 12
#define MSI_APIC_MASK 0xffu

int pvclock_kvm_interrupt(struct pvclock_kvm *kvm, uint32_t apic, uint8_t vector)
{
	/* Identifiers above 255 are for KVM_X2APIC_API_USE_32BIT_IDS, which puts their upper bits there (api.rst, KVM_CAP_X2APIC_API). */
	struct kvm_msi msi = {
		.address_lo = MSI_ADDRESS | (apic & MSI_APIC_MASK) << MSI_APIC_SHIFT,
		.address_hi = apic & ~MSI_APIC_MASK,
		.data = vector,
	};
	int error;

	if (kvm->interrupt)
		return kvm->interrupt(kvm->interrupt_ctx, apic, vector);
	error = kvm_ioctl(kvm, kvm->vm_fd, KVM_SIGNAL_MSI, &msi);
	return error < 0 ? error : 0; /* 0: the guest's APIC does not take any; so be it */
}
