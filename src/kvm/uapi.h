/* SPDX-License-Identifier: MIT */
/*
 * uapi.h (private) - what Linux headers older than the running kernel may lack. Everything here is probed at run time
 * (Linux Documentation/virt/kvm/api.rst; devices/vcpu.rst for the TSC offset).
 */
#ifndef KVM_UAPI_H
#define KVM_UAPI_H

#include <linux/kvm.h>

#ifndef KVM_CAP_VM_TSC_CONTROL
#define KVM_CAP_VM_TSC_CONTROL 214
#endif
#ifndef KVM_CLOCK_REALTIME
#define KVM_CLOCK_REALTIME (1 << 2)
#define KVM_CLOCK_HOST_TSC (1 << 3)
#endif
#ifndef KVM_VCPU_TSC_CTRL
#define KVM_VCPU_TSC_CTRL 0
#define KVM_VCPU_TSC_OFFSET 0
#endif

/*
 * struct kvm_clock_data as of Linux 5.16; older headers have one pad where realtime and host_tsc are. The same 48
 * bytes.
 */
struct kvm_clock {
	__u64 clock;
	__u32 flags;
	__u32 pad0;
	__u64 realtime;
	__u64 host_tsc;
	__u32 pad[4];
};
_Static_assert(sizeof(struct kvm_clock) == sizeof(struct kvm_clock_data), "KVM ABI");

/* struct kvm_msrs with one entry. */
struct kvm_one_msr {
	__u32 nmsrs, pad;
	struct kvm_msr_entry entry;
};
_Static_assert(sizeof(struct kvm_one_msr) == sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry), "KVM ABI");

#define MSR_IA32_TSC 0x10u
#define MSR_IA32_TSC_ADJUST 0x3bu
#define MSR_IA32_TSC_DEADLINE 0x6e0u

#endif
