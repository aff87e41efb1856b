/* SPDX-License-Identifier: MIT */
/*
 * filter.c - one MSR filter for two owners. KVM has one filter per VM and KVM_X86_SET_MSR_FILTER replaces it (api.rst
 * 4.97), so ours and the VMM's are merged: their answer for every MSR but ours, for which both accesses are denied to
 * the kernel.
 *
 * Ranges are not made to overlap (kernels differ on whether they may): where one of theirs covers our MSR, its bit is
 * cleared in a copy; what is covered by none of theirs gets a range of its own, unless their default denies it
 * already.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define OWN_BITMAP 8u /* a long of zeros, for the ranges of our own */
#define RANGE_MSRS_MAX (0x600u * 8) /* KVM_MSR_FILTER_MAX_BITMAP_SIZE */
#define OWN_COUNT 4u /* at most, in a row */
#define ACCESS ((uint32_t)(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE))

/*
 * The registration MSRs, in rows of neighbours; a guest's writes to its own TSC, which moves its clock's coordinates;
 * and what it asks of pvclock/interface.h and pvclock/hyperv.h.
 */
static const struct {
	unsigned int what;
	uint32_t base, count, access;
} ours[] = {
	{ PVCLOCK_FILTER_CLOCK, PVCLOCK_MSR_WALL_CLOCK_OLD, 2, ACCESS },
	{ PVCLOCK_FILTER_CLOCK, PVCLOCK_MSR_WALL_CLOCK, 2, ACCESS },
	{ PVCLOCK_FILTER_CLOCK, MSR_IA32_TSC, 1, KVM_MSR_FILTER_WRITE },
	{ PVCLOCK_FILTER_CLOCK, MSR_IA32_TSC_ADJUST, 1, KVM_MSR_FILTER_WRITE },
	{ PVCLOCK_FILTER_INTERFACE, PVCLOCK_MSR_DEADLINE_CONTROL, 2, ACCESS },
	{ PVCLOCK_FILTER_INTERFACE, PVCLOCK_MSR_SUSPEND_CONTROL, 2, ACCESS },
	{ PVCLOCK_FILTER_INTERFACE, PVCLOCK_MSR_NESTED_CONTROL, 2, ACCESS },
	{ PVCLOCK_FILTER_STEAL, PVCLOCK_MSR_STEAL_TIME, 1, ACCESS },
	{ PVCLOCK_FILTER_HYPERV, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT, 4, ACCESS },
	{ PVCLOCK_FILTER_HYPERV, PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, 3, ACCESS },
	{ PVCLOCK_FILTER_HYPERV, PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL, 1, ACCESS },
};
#define OURS (sizeof(ours) / sizeof(*ours))

static size_t bitmap_size(const struct kvm_msr_filter_range *range)
{
	return (range->nmsrs + 63u) / 64u * 8u; /* the kernel copies whole longs */
}

static int check(const struct kvm_msr_filter *theirs, struct pvclock_reason *reason)
{
	size_t i;

	for (i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
		const struct kvm_msr_filter_range *range = &theirs->ranges[i];

		if (range->nmsrs == 0)
			continue;
		if (range->nmsrs > RANGE_MSRS_MAX || !range->bitmap || (range->flags & ~ACCESS) ||
		    range->nmsrs - 1 > UINT32_MAX - range->base) {
			pvclock_reason_set(reason, PVCLOCK_REASON_OS,
					   "Range %zu of the VMM's own MSR filter is not one that KVM takes "
					   "(base 0x%x, %u MSRs, flags 0x%x).", i, range->base, range->nmsrs, range->flags);
			return -EINVAL;
		}
	}
	return 0;
}

static bool covers(const struct kvm_msr_filter_range *range, uint32_t msr)
{
	return msr >= range->base && msr - range->base < range->nmsrs;
}

bool pvclock_kvm_filter_allows(const struct kvm_msr_filter *filter, uint32_t msr, uint32_t access)
{
	for (size_t i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
		const struct kvm_msr_filter_range *range = &filter->ranges[i];

		if (range->nmsrs != 0 && (range->flags & access) && covers(range, msr))
			return range->bitmap[(msr - range->base) / 8] & 1u << ((msr - range->base) % 8);
	}
	return !(filter->flags & KVM_MSR_FILTER_DEFAULT_DENY);
}

/* Clears msr's bit wherever it is covered, and returns those of the accesses that are not covered by any range. */
static uint32_t deny_covered(struct kvm_msr_filter *filter, uint32_t msr, uint32_t access)
{
	uint32_t open = access;
	size_t i;

	for (i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
		struct kvm_msr_filter_range *range = &filter->ranges[i];

		if (!(range->flags & access) || !covers(range, msr))
			continue;
		range->bitmap[(msr - range->base) / 8] &= (uint8_t)~(1u << ((msr - range->base) % 8));
		open &= ~range->flags;
	}
	return open;
}

static bool add_range(struct kvm_msr_filter *filter, uint32_t base, uint32_t count, uint32_t access, uint8_t *bitmap)
{
	size_t i;

	for (i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
		if (filter->ranges[i].nmsrs != 0)
			continue;
		filter->ranges[i] = (struct kvm_msr_filter_range){
			.flags = access, .nmsrs = count, .base = base, .bitmap = bitmap };
		return true;
	}
	return false;
}

int pvclock_kvm_copy_filter(const struct kvm_msr_filter *filter, struct pvclock_msr_filter *copy)
{
	size_t size = OWN_BITMAP, i;
	uint8_t *next;

	for (i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++)
		size += bitmap_size(&filter->ranges[i]);
	next = calloc(1, size);
	if (!next)
		return -ENOMEM;
	copy->filter = *filter;
	copy->bitmaps = next;
	next += OWN_BITMAP;
	for (i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
		struct kvm_msr_filter_range *range = &copy->filter.ranges[i];

		if (range->nmsrs == 0)
			continue;
		memcpy(next, range->bitmap, (range->nmsrs + 7u) / 8u);
		range->bitmap = next;
		next += bitmap_size(range);
	}
	return 0;
}

int pvclock_kvm_merge_filter(const struct kvm_msr_filter *theirs, unsigned int what, struct pvclock_msr_filter *merged,
			     struct pvclock_reason *reason)
{
	static const struct kvm_msr_filter none = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };
	struct pvclock_msr_filter copy;
	struct kvm_msr_filter *filter = &copy.filter;
	int error;
	size_t i;

	pvclock_reason_clear(reason);
	error = theirs ? check(theirs, reason) : 0;
	if (error == 0)
		error = pvclock_kvm_copy_filter(theirs ? theirs : &none, &copy);
	if (error)
		return error;
	for (i = 0; i < OURS; i++) {
		uint32_t base = ours[i].base, open[OWN_COUNT], first, next;
		bool fits = true;

		if (!(ours[i].what & what))
			continue;
		for (next = 0; next < ours[i].count; next++)
			open[next] = deny_covered(filter, base + next, ours[i].access);
		if (filter->flags & KVM_MSR_FILTER_DEFAULT_DENY)
			continue;
		/* neighbours that are open alike share a range */
		for (first = 0; fits && first < ours[i].count; first = next) {
			for (next = first + 1; next < ours[i].count && open[next] == open[first]; next++)
				;
			if (open[first])
				fits = add_range(filter, base + first, next - first, open[first], copy.bitmaps);
		}
		if (!fits) {
			pvclock_msr_filter_clear(&copy);
			pvclock_reason_set(reason, PVCLOCK_REASON_MSR_FILTER_FULL,
					   "The VMM's MSR filter uses all of KVM's %d ranges and leaves none for MSR 0x%x; "
					   "join two of its ranges.", KVM_MSR_FILTER_MAX_RANGES, base);
			return -ENOSPC;
		}
	}
	*merged = copy;
	return 0;
}

int pvclock_kvm_tell_exits(const struct pvclock_kvm *kvm, uint64_t mask)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR, .args = { mask } };
	int error = kvm_ioctl(kvm, kvm->vm_fd, KVM_ENABLE_CAP, &cap);

	return error < 0 ? error : 0;
}

int pvclock_kvm_tell_filter(const struct pvclock_kvm *kvm, const struct kvm_msr_filter *filter)
{
	struct kvm_msr_filter told = filter ? *filter : (struct kvm_msr_filter){ .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };
	int error = kvm_ioctl(kvm, kvm->vm_fd, KVM_X86_SET_MSR_FILTER, &told);

	return error < 0 ? error : 0;
}

static int explain_refusal(int error, const char *what, struct pvclock_reason *reason)
{
	if (error)
		pvclock_reason_set(reason, PVCLOCK_REASON_OS, "KVM refused the %s (%s).", what, strerror(-error));
	return error;
}

int pvclock_kvm_set_user_space_msr(struct pvclock_kvm *kvm, uint64_t mask, struct pvclock_reason *reason)
{
	int error = pvclock_kvm_tell_exits(kvm, mask | (kvm->filtered ? KVM_MSR_EXIT_REASON_FILTER : 0));

	pvclock_reason_clear(reason);
	if (error == 0)
		kvm->user_space_msr_mask = mask;
	return explain_refusal(error, "exits for MSRs", reason);
}

int pvclock_kvm_set_filter(struct pvclock_kvm *kvm, const struct kvm_msr_filter *filter, struct pvclock_reason *reason)
{
	struct pvclock_msr_filter merged, theirs = { 0 };
	int error;

	pvclock_reason_clear(reason);
	if (!kvm->filtered)
		return explain_refusal(pvclock_kvm_tell_filter(kvm, filter), "VMM's MSR filter", reason);
	error = pvclock_kvm_merge_filter(filter, kvm->filtered, &merged, reason);
	if (error)
		return error;
	error = filter ? pvclock_kvm_copy_filter(filter, &theirs) : 0;
	if (error == 0)
		error = explain_refusal(pvclock_kvm_tell_filter(kvm, &merged.filter), "MSR filter; steer mode needs none", reason);
	pvclock_msr_filter_clear(error ? &theirs : &kvm->theirs);
	if (error == 0)
		kvm->theirs = theirs;
	pvclock_msr_filter_clear(&merged);
	return error;
}

int pvclock_kvm_offer_hyperv(struct pvclock_kvm *kvm, uint32_t features, uint64_t apic_hz, struct pvclock_reason *reason)
{
	unsigned int before = kvm->filtered;
	int error;

	pvclock_reason_clear(reason);
	if (kvm->mode->mode != PVCLOCK_MODE_OWN) {
		pvclock_reason_set(reason, PVCLOCK_REASON_OS, "Hyper-V's clock is pvclock's own only in own mode; this VM is in %s mode.",
				   pvclock_mode_name(kvm->mode->mode));
		return -ENOTSUP;
	}
	kvm->filtered |= PVCLOCK_FILTER_HYPERV;
	error = kvm->filtered == before ? 0 : pvclock_kvm_set_filter(kvm, kvm->theirs.bitmaps ? &kvm->theirs.filter : NULL, reason);
	if (error)
		kvm->filtered = before;
	else
		pvclock_vm_offer_hyperv(kvm->vm, features, apic_hz);
	return error;
}

void pvclock_msr_filter_clear(struct pvclock_msr_filter *merged)
{
	free(merged->bitmaps);
	*merged = (struct pvclock_msr_filter){ 0 };
}

int pvclock_kvm_begin_filter(struct pvclock_kvm *kvm, const struct pvclock_kvm_config *config, struct pvclock_reason *reason)
{
	int error;

	if (!kvm->filtered)
		return 0;
	if (kvm_ioctl(kvm, kvm->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_X86_USER_SPACE_MSR) <= 0 ||
	    kvm_ioctl(kvm, kvm->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_X86_MSR_FILTER) <= 0) {
		pvclock_reason_set(reason, PVCLOCK_REASON_NO_MSR_FILTER,
				   "This KVM cannot hand clock MSRs to userspace (KVM_CAP_X86_MSR_FILTER); own mode, and what "
				   "pvclock_vm_offer and its kind offer, need Linux 5.10 or newer, steer mode does not.");
		return -ENOTSUP;
	}
	error = pvclock_kvm_set_user_space_msr(kvm, config->user_space_msr_mask, reason);
	if (error == 0)
		error = pvclock_kvm_set_filter(kvm, config->msr_filter, reason);
	if (error)
		pvclock_kvm_tell_exits(kvm, config->user_space_msr_mask);
	return error;
}

void pvclock_kvm_end_filter(struct pvclock_kvm *kvm)
{
	if (!kvm->filtered)
		return;
	pvclock_kvm_tell_filter(kvm, kvm->theirs.bitmaps ? &kvm->theirs.filter : NULL);
	pvclock_kvm_tell_exits(kvm, kvm->user_space_msr_mask);
	pvclock_msr_filter_clear(&kvm->theirs);
}
