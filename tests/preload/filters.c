/* SPDX-License-Identifier: MIT */
/*
 * A VMM's own MSR filter and its own wish for exits (QEMU 7.2 sets both after KVM_CREATE_VM): it gets its exits and only those, the
 * guest's clock registration is none of them, in whatever order the two calls come and whenever they change.
 */
#include "qemu_like.h"

#include <linux/kvm.h>
#include <stdio.h>

#define MSR_CORE_THREAD_COUNT 0x35u /* what QEMU denies to the kernel */
#define MSR_OF_NOBODY 0x12345u      /* KVM knows no such MSR: #GP */
#define ANSWER 0x0000000400000002ull

static bool filter(struct plain *plain, bool deny)
{
	static uint8_t none[8];
	struct kvm_msr_filter wanted = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };

	if (deny)
		wanted.ranges[0] = (struct kvm_msr_filter_range){
			.flags = KVM_MSR_FILTER_READ, .nmsrs = 1, .base = MSR_CORE_THREAD_COUNT, .bitmap = none };
	return plain_ioctl(plain->vm_fd, KVM_X86_SET_MSR_FILTER, &wanted) == 0;
}

static bool want_exits(struct plain *plain, uint64_t mask)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR, .args = { mask } };

	return plain_ioctl(plain->vm_fd, KVM_ENABLE_CAP, &cap) == 0;
}

/* What the kernel itself holds of the registration. */
static uint64_t kernel_has(struct plain *plain)
{
	struct plain_msrs one = { .head.nmsrs = 1, .entries = { { .index = PVCLOCK_MSR_SYSTEM_TIME } } };

	return kernel_only(plain->vcpus[0].fd, KVM_GET_MSRS, &one) == 1 ? one.entries[0].data : 0;
}

/* The clock works, and nobody but the preload or the kernel was asked. */
static void clock_is_none_of_them(struct like *like, struct plain *plain, const char *when)
{
	unsigned int before = plain->msr_exits;
	uint64_t value = 0;
	bool wrote = plain_wrmsr(plain, 0, PVCLOCK_MSR_SYSTEM_TIME, PLAIN_PAGE(0) | PVCLOCK_MSR_ENABLE) &&
		     plain_wrmsr(plain, 0, PVCLOCK_MSR_WALL_CLOCK, PLAIN_PAGE(2));
	bool read = plain_rdmsr(plain, 0, PVCLOCK_MSR_SYSTEM_TIME_OLD, &value);

	check(like, wrote && read && value == (PLAIN_PAGE(0) | PVCLOCK_MSR_ENABLE) && plain_page(plain, 0).line.mul != 0,
	      "%s: the guest's clock works", when);
	check(like, plain->msr_exits == before, "%s: its MSRs are no exits of the VMM's", when);
	check(like, (kernel_has(plain) & PVCLOCK_MSR_ENABLE) == !like->own, "%s: and its page is written by who should", when);
}

static void theirs(struct like *like, struct plain *plain, const char *when, bool exits)
{
	unsigned int before = plain->msr_exits;
	uint64_t value = 0;
	bool read = plain_rdmsr(plain, 0, MSR_CORE_THREAD_COUNT, &value);

	if (exits)
		check(like, plain->msr_exits == before + 1 && plain->msr_exit == MSR_CORE_THREAD_COUNT && read && value == ANSWER,
		      "%s: the VMM gets its exit, and the guest its answer", when);
	else
		check(like, plain->msr_exits == before && !read, "%s: the guest takes a #GP, and nobody is asked", when);
	before = plain->msr_exits;
	read = plain_rdmsr(plain, 0, MSR_OF_NOBODY, &value);
	check(like, !read && plain->msr_exits == before, "%s: an MSR that does not exist is the kernel's to refuse", when);
}

static void in_order(struct like *like, bool exits_first)
{
	const char *when = exits_first ? "exits, then the filter" : "the filter, then exits";
	struct plain plain;
	bool told;

	plain_create(&plain);
	plain.msr_answer = ANSWER;
	told = exits_first ? want_exits(&plain, KVM_MSR_EXIT_REASON_FILTER) && filter(&plain, true)
			   : filter(&plain, true) && want_exits(&plain, KVM_MSR_EXIT_REASON_FILTER);
	check(like, told, "%s: both are taken", when);
	plain_add_vcpu(&plain, 0);
	plain_go_on(&plain, 0);
	theirs(like, &plain, when, true);
	clock_is_none_of_them(like, &plain, when);
	plain_destroy(&plain);
}

void filters_keep_their_exits(struct like *like)
{
	struct plain plain;
	unsigned int before;
	uint64_t value;

	in_order(like, true);
	in_order(like, false);

	plain_start(&plain, 1);
	clock_is_none_of_them(like, &plain, "no filter");
	filter(&plain, true);
	theirs(like, &plain, "a filter, and no wish for exits", false);
	clock_is_none_of_them(like, &plain, "a filter, and no wish for exits");
	want_exits(&plain, KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_UNKNOWN);
	plain.msr_answer = 77;
	before = plain.msr_exits;
	check(like, plain_rdmsr(&plain, 0, MSR_OF_NOBODY, &value) && value == 77 && plain.msr_exits == before + 1,
	      "a VMM that wants unknown MSRs gets them");
	clock_is_none_of_them(like, &plain, "all exits wanted");
	want_exits(&plain, 0);
	filter(&plain, false);
	before = plain.msr_exits;
	plain_rdmsr(&plain, 0, MSR_CORE_THREAD_COUNT, &value);
	check(like, plain.msr_exits == before, "a filter that was taken back asks nobody");
	clock_is_none_of_them(like, &plain, "taken back");
	plain_destroy(&plain);
}
