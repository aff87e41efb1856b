/* SPDX-License-Identifier: MIT */
/* probe.c - what this KVM can do, found out on a scratch VM: what an ioctl accepts and what it does are two things. */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROBE_OFFSET 0x123456789ull

static bool has(const struct pvclock_os *os, int fd, unsigned int cap)
{
	return os->ops->ioctl(os->ctx, fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)cap) > 0;
}

static void probe_offset(const struct pvclock_os *os, int vcpu_fd, struct pvclock_kvm_capabilities *found)
{
	uint64_t offset = 0, saved;
	struct kvm_device_attr attribute = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset };

	if (pvclock_kvm_read_tsc_offset(os, vcpu_fd, &saved) != 0)
		return;
	found->tsc_offset_attribute = true;
	offset = saved + PROBE_OFFSET;
	if (os->ops->ioctl(os->ctx, vcpu_fd, KVM_SET_DEVICE_ATTR, &attribute) < 0)
		return;
	found->tsc_offset_honoured = pvclock_kvm_read_tsc_offset(os, vcpu_fd, &offset) == 0 && offset == saved + PROBE_OFFSET;
}

static void probe_master_clock(const struct pvclock_os *os, int vm_fd, struct pvclock_kvm_capabilities *found)
{
	struct kvm_clock clock = { 0 };
	char name[64];
	ssize_t length;

	/* Before the first run only a set clock turns the master clock on. */
	os->ops->ioctl(os->ctx, vm_fd, KVM_SET_CLOCK, &clock);
	clock = (struct kvm_clock){ 0 };
	if (os->ops->ioctl(os->ctx, vm_fd, KVM_GET_CLOCK, &clock) >= 0 && (clock.flags & KVM_CLOCK_HOST_TSC)) {
		found->master_clock = true;
		return;
	}
	if (!(found->clock_flags & KVM_CLOCK_HOST_TSC)) {
		pvclock_reason_set(&found->master_clock_reason, PVCLOCK_REASON_NO_MASTER_CLOCK,
				   "This kernel's KVM_GET_CLOCK does not tell the host TSC; it needs Linux 5.16 or newer.");
		return;
	}
	length = os->ops->read_file(os->ctx, "/sys/devices/system/clocksource/clocksource0/current_clocksource", name,
				    sizeof(name));
	if (length > 0 && strncmp(name, "tsc", 3) != 0 && strncmp(name, "hyperv", 6) != 0) {
		name[strcspn(name, "\n")] = '\0';
		pvclock_reason_set(&found->master_clock_reason, PVCLOCK_REASON_NO_MASTER_CLOCK,
				   "KVM's master clock is off because this kernel keeps time by %s, and KVM accepts only the "
				   "TSC; %s.", name, strcmp(name, "kvm-clock") == 0 ? "own mode does without it, where this machine's line is known" :
				   "have the kernel keep time by the TSC again");
		return;
	}
	pvclock_reason_set(&found->master_clock_reason, PVCLOCK_REASON_NO_MASTER_CLOCK,
			   "KVM's master clock is off although this kernel keeps time by the TSC: KVM saw the TSC go backwards "
			   "(after a suspend, say) and stays off until its module is loaded again; own mode does without it.");
}

/* On a vCPU whose TSC nobody has touched yet. */
static void probe_clock_guest(const struct pvclock_os *os, int vm_fd, int vcpu_fd, struct pvclock_kvm_capabilities *found)
{
	struct pvclock_tsc_transform tsc = { 0 };

	found->clock_guest = found->master_clock && pvclock_kvm_read_tsc_offset(os, vcpu_fd, &tsc.offset) == 0 &&
			     pvclock_kvm_probe_clock_guest(os, vm_fd, vcpu_fd, &tsc);
}

#define CPUID_ENTRIES 256u
#define LEAF_FEATURES 0x40000001u
#define FEATURE_STEAL_TIME (1u << 5)

static void probe_steal(const struct pvclock_os *os, int kvm_fd, struct pvclock_kvm_capabilities *found)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + CPUID_ENTRIES * sizeof(cpuid->entries[0]));
	uint64_t ran, waited;
	char text[96];

	found->steal_own = os->ops->read_file(os->ctx, "/proc/thread-self/schedstat", text, sizeof(text)) > 0 &&
			   sscanf(text, "%" SCNu64 " %" SCNu64, &ran, &waited) == 2;
	if (!cpuid)
		return;
	cpuid->nent = CPUID_ENTRIES;
	if (os->ops->ioctl(os->ctx, kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) >= 0)
		for (uint32_t i = 0; i < cpuid->nent && i < CPUID_ENTRIES; i++)
			if (cpuid->entries[i].function == LEAF_FEATURES)
				found->steal_kernel = cpuid->entries[i].eax & FEATURE_STEAL_TIME;
	free(cpuid);
}

int pvclock_kvm_probe(const struct pvclock_os *os, int kvm_fd, struct pvclock_kvm_capabilities *found)
{
	int vm_fd, vcpu_fd, khz, flags;

	*found = (struct pvclock_kvm_capabilities){ 0 };
	probe_steal(os, kvm_fd, found);
	vm_fd = os->ops->ioctl(os->ctx, kvm_fd, KVM_CREATE_VM, NULL);
	if (vm_fd < 0)
		return vm_fd;
	found->user_space_msr = has(os, vm_fd, KVM_CAP_X86_USER_SPACE_MSR);
	found->msr_filter = has(os, vm_fd, KVM_CAP_X86_MSR_FILTER);
	found->tsc_control = has(os, vm_fd, KVM_CAP_TSC_CONTROL);
	found->vm_tsc_control = has(os, vm_fd, KVM_CAP_VM_TSC_CONTROL);
	found->kvmclock_ctrl = has(os, vm_fd, KVM_CAP_KVMCLOCK_CTRL);
	found->immediate_exit = has(os, vm_fd, KVM_CAP_IMMEDIATE_EXIT);
	found->tsc_deadline_timer = has(os, vm_fd, KVM_CAP_TSC_DEADLINE_TIMER);
	flags = os->ops->ioctl(os->ctx, vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_ADJUST_CLOCK);
	found->clock_flags = flags > 0 ? (uint32_t)flags : 0;
	vcpu_fd = os->ops->ioctl(os->ctx, vm_fd, KVM_CREATE_VCPU, NULL);
	if (vcpu_fd < 0) {
		os->ops->close(os->ctx, vm_fd);
		return vcpu_fd;
	}
	khz = os->ops->ioctl(os->ctx, vcpu_fd, KVM_GET_TSC_KHZ, NULL);
	found->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	probe_master_clock(os, vm_fd, found); /* before an offset is written: that may turn the master clock off */
	probe_clock_guest(os, vm_fd, vcpu_fd, found);
	probe_offset(os, vcpu_fd, found);
	os->ops->close(os->ctx, vcpu_fd);
	os->ops->close(os->ctx, vm_fd);
	return 0;
}
