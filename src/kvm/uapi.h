/* SPDX-License-Identifier: MIT */
/*
 * uapi.h (private) - what Linux headers older than the running kernel may lack. Everything here is probed at run time
 * (Linux Documentation/virt/kvm/api.rst; devices/vcpu.rst for the TSC offset).
 */
#ifndef KVM_UAPI_H
#define KVM_UAPI_H

#include <pvclock/page.h>

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

/*
 * KVM_GET_CLOCK_GUEST and KVM_SET_CLOCK_GUEST, vCPU ioctls on what a page holds, as they were proposed and never merged: in 2024
 * (v2 and v3 of the series "Cleaning up the KVM clock mess") and with other numbers in 2026 (v4 to v6). The number holds
 * direction and size, too, so that a GET is no SET of any revision, and no call that reads from its caller.
 */
#define KVM_SET_CLOCK_GUEST_2024 _IOW(KVMIO, 0xd5, struct pvclock_page)
#define KVM_GET_CLOCK_GUEST_2024 _IOR(KVMIO, 0xd6, struct pvclock_page)
#define KVM_SET_CLOCK_GUEST_2026 _IOW(KVMIO, 0xd6, struct pvclock_page)
#define KVM_GET_CLOCK_GUEST_2026 _IOR(KVMIO, 0xd7, struct pvclock_page)
_Static_assert(sizeof(struct pvclock_page) == 32, "KVM ABI");
_Static_assert(_IOC_DIR(KVM_GET_CLOCK_GUEST_2024) == _IOC_READ && _IOC_DIR(KVM_GET_CLOCK_GUEST_2026) == _IOC_READ,
	       "nothing is set");
_Static_assert(_IOC_DIR(KVM_SET_CLOCK_GUEST_2024) == _IOC_WRITE && _IOC_DIR(KVM_SET_CLOCK_GUEST_2026) == _IOC_WRITE, "a set");

#define MSR_IA32_TSC 0x10u
#define MSR_IA32_TSC_ADJUST 0x3bu
#define MSR_IA32_TSC_DEADLINE 0x6e0u

#endif
