/* SPDX-License-Identifier: MIT */
/*
 * clock_guest_ioctl.c - the kernel's own KVM_GET_CLOCK_GUEST and KVM_SET_CLOCK_GUEST. They were never merged, and their numbers
 * moved, so a kernel that knows such a number may mean anything by it. A GET is tried by each number, as it can only write 32
 * bytes to its caller, and is believed if it tells the function that KVM tells by another way: by the page that it wrote for this
 * vCPU, or by KVM_GET_CLOCK. Only then the SET of the same revision is called at all.
 */
#include "kvm.h"

#include <errno.h>

const struct kvm_clock_guest pvclock_kvm_clock_guests[KVM_CLOCK_GUESTS] = {
	{ KVM_GET_CLOCK_GUEST_2026, KVM_SET_CLOCK_GUEST_2026 },
	{ KVM_GET_CLOCK_GUEST_2024, KVM_SET_CLOCK_GUEST_2024 },
};

static int get(const struct pvclock_os *os, int vcpu_fd, const struct kvm_clock_guest *ioctls, struct pvclock_line *line)
{
	struct pvclock_page clock = { 0 }; /* no answer is no function */
	int error = os->ops->ioctl(os->ctx, vcpu_fd, ioctls->get, &clock);

	if (error < 0)
		return error;
	*line = (struct pvclock_line){ .tsc = clock.tsc_timestamp, .ns = clock.system_time, .mul = clock.tsc_to_system_mul,
				       .shift = clock.tsc_shift };
	return pvclock_line_valid(line) ? 0 : -ENODATA;
}

static bool same_function(const struct pvclock_line *a, const struct pvclock_line *b)
{
	uint64_t tick = a->tsc > b->tsc ? a->tsc : b->tsc;
	int64_t apart = (int64_t)(pvclock_line_ns(a, tick) - pvclock_line_ns(b, tick));

	return a->mul == b->mul && a->shift == b->shift && apart >= -1 && apart <= 1;
}

int pvclock_kvm_get_kernel_clock(const struct pvclock_kvm *kvm, const struct kvm_clock_guest *ioctls, struct pvclock_line *line)
{
	struct pvclock_line told;
	uint8_t flags;
	int error = get(kvm->os, kvm->vcpus[0].fd, ioctls, &told);

	/* in this order: the ioctl does what the next entry would, and the page is up to date */
	if (error == 0)
		error = pvclock_kernel_clock_read_page(kvm, line, &flags);
	return error ? error : same_function(&told, line) ? 0 : -ENODATA;
}

int pvclock_kvm_set_kernel_clock(const struct pvclock_kvm *kvm, const struct kvm_clock_guest *ioctls,
				 const struct pvclock_line *line)
{
	struct pvclock_page clock = { .tsc_timestamp = line->tsc, .system_time = line->ns, .tsc_to_system_mul = line->mul,
				      .tsc_shift = line->shift };
	int error = kvm_ioctl(kvm, kvm->vcpus[0].fd, ioctls->set, &clock);

	return error < 0 ? error : 0;
}

const struct kvm_clock_guest *pvclock_kvm_find_clock_guest(const struct pvclock_kvm *kvm, struct pvclock_line *line)
{
	for (size_t i = 0; i < KVM_CLOCK_GUESTS; i++)
		if (pvclock_kvm_get_kernel_clock(kvm, &pvclock_kvm_clock_guests[i], line) == 0)
			return &pvclock_kvm_clock_guests[i];
	return NULL;
}

/* Without a page: by KVM_GET_CLOCK, and by what KVM makes of its kHz. */
bool pvclock_kvm_probe_clock_guest(const struct pvclock_os *os, int vm_fd, int vcpu_fd, const struct pvclock_tsc_transform *tsc)
{
	int khz = os->ops->ioctl(os->ctx, vcpu_fd, KVM_GET_TSC_KHZ, NULL);

	for (size_t i = 0; khz > 0 && i < KVM_CLOCK_GUESTS; i++) {
		struct kvm_clock clock = { 0 };
		struct pvclock_line told, expected;

		if (get(os, vcpu_fd, &pvclock_kvm_clock_guests[i], &told) == 0 &&
		    os->ops->ioctl(os->ctx, vm_fd, KVM_GET_CLOCK, &clock) >= 0 && (clock.flags & KVM_CLOCK_HOST_TSC) &&
		    pvclock_line_make_kvm(&expected, pvclock_tsc_to_guest(tsc, (struct pvclock_host_tsc){ clock.host_tsc }).ticks,
					  clock.clock, (uint32_t)khz) && same_function(&told, &expected))
			return true;
	}
	return false;
}
