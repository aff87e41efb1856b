/* SPDX-License-Identifier: MIT */
/*
 * kernel_clock.c - where the kernel publishes the pages (steer and stock mode): learning its line from what the guest
 * itself sees, and carrying the guest's registrations through the kernel's MSRs.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>
#include <stdlib.h>

#define MAX_APART_NS 1000

int pvclock_kernel_clock_read_page(const struct pvclock_kvm *kvm, struct pvclock_line *line, uint8_t *flags)
{
	struct pvclock_snapshot snapshot;
	uint64_t msr;
	int error;

	error = pvclock_kvm_get_msr(kvm, &kvm->vcpus[0], PVCLOCK_MSR_SYSTEM_TIME, &msr);
	if (error)
		return error;
	if (!(msr & PVCLOCK_MSR_ENABLE))
		return -ENODATA;
	error = pvclock_vm_read_page(kvm->vm, (struct pvclock_gpa){ msr & ~(uint64_t)PVCLOCK_MSR_ENABLE }, &snapshot);
	if (error)
		return error;
	*line = snapshot.line;
	*flags = snapshot.flags;
	return 0;
}

/* What a guest without a page would read: the kernel's arithmetic, through KVM_GET_CLOCK. */
static int line_from_clock(struct pvclock_kvm *kvm, struct pvclock_line *line)
{
	struct pvclock_tsc_transform transform;
	struct kvm_clock clock;
	int khz = pvclock_kvm_page_khz(kvm);
	int error = pvclock_kvm_get_clock(kvm, &clock);

	if (error)
		return error;
	if (!(clock.flags & KVM_CLOCK_HOST_TSC) || khz <= 0)
		return -ENODATA;
	pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &transform);
	if (!pvclock_line_make_kvm(line, pvclock_tsc_to_guest(&transform, (struct pvclock_host_tsc){ clock.host_tsc }).ticks,
				   clock.clock, (uint32_t)khz))
		return -EINVAL;
	return 0;
}

/*
 * The page lies in the guest's hands. It is believed while it says what the kernel says: the rate to 250 ppm, the
 * time to 1 us.
 */
static bool believable(const struct pvclock_line *page, const struct pvclock_line *kernel)
{
	struct pvclock_slope slope, expected;
	int64_t apart;

	if (!pvclock_slope_from_line(page, &slope) || !pvclock_slope_from_line(kernel, &expected))
		return false;
	apart = (int64_t)(pvclock_line_ns(page, kernel->tsc) - kernel->ns);
	return pvclock_rates_alike(&slope, &expected) && apart > -MAX_APART_NS && apart < MAX_APART_NS;
}

static void declare_flags(struct pvclock_kvm *kvm, uint8_t flags)
{
	struct pvclock_reason reason;

	pvclock_reason_set(&reason, PVCLOCK_REASON_NO_MASTER_CLOCK,
			   "KVM publishes the page without TSC_STABLE: its master clock is off, and pvclock host says why.");
	pvclock_vm_declare_unstable(kvm->vm, flags & PVCLOCK_TSC_STABLE ? NULL : &reason);
}

/*
 * The kernel's clock is still the engine's line, whatever the page says. The kernel writes a page when its vCPU enters, so that of
 * one that was stopped again before it did is still what settling left in it.
 */
static bool still_holds(const struct pvclock_kvm *kvm, const struct pvclock_line *kernel, const struct pvclock_line *page)
{
	struct pvclock_line known;
	int64_t apart;

	if (pvclock_vcpu_get_line(kvm->vcpus[0].vcpu, &known))
		return false;
	if (!(known.mul == kernel->mul && known.shift == kernel->shift) &&
	    !(page && known.mul == page->mul && known.shift == page->shift))
		return false;
	apart = (int64_t)(kernel->ns - pvclock_line_ns(&known, kernel->tsc));
	return apart >= -1 && apart <= 1;
}

/*
 * Follows the kernel: the engine's line becomes what the guest reads now. A line that already says the same to 1 ns
 * stays, so that one nanosecond an event does not add up.
 */
int pvclock_kernel_clock_learn(struct pvclock_kvm *kvm)
{
	struct pvclock_tsc_transform transform;
	struct pvclock_line line, page, known;
	struct pvclock_slope slope, known_slope;
	uint8_t flags = 0;
	bool has_page;
	int error;

	if (kvm->vcpu_count == 0)
		return -ENODATA;
	/* Linux may have counted its sleep in this clock; the page is what the guest read, until it enters again */
	error = kvm->unpassed ? -ENODATA : line_from_clock(kvm, &line);
	has_page = pvclock_kernel_clock_read_page(kvm, &page, &flags) == 0;
	if (error && error != -ENODATA)
		return error;
	if (error && !has_page)
		return -ENODATA;
	if (error == 0 && still_holds(kvm, &line, has_page ? &page : NULL)) {
		if (has_page)
			declare_flags(kvm, flags);
		return 0;
	}
	/* KVM_GET_CLOCK computes a scaled TSC's clock with the unscaled rate; KVM_GET_CLOCK_GUEST, if there is one, knows better */
	if (has_page && (error || believable(&page, &line) || pvclock_kvm_find_clock_guest(kvm, &page))) {
		line = page;
		kvm->from_page = true;
		declare_flags(kvm, flags);
	}
	if (pvclock_vcpu_get_line(kvm->vcpus[0].vcpu, &known) == 0 && pvclock_slope_from_line(&line, &slope) &&
	    pvclock_slope_from_line(&known, &known_slope) && pvclock_slope_difference(&slope, &known_slope) == 0) {
		uint64_t now;
		int64_t apart;

		pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &transform);
		now = pvclock_tsc_to_guest(&transform, kvm->os->ops->read_tsc(kvm->os->ctx)).ticks;
		apart = (int64_t)(pvclock_line_ns(&line, now) - pvclock_line_ns(&known, now));
		if (apart >= -1 && apart <= 1)
			return 0;
	}
	return pvclock_vcpu_set_line(kvm->vcpus[0].vcpu, &line);
}

/* The kernel keeps what the guest registered; the engine's own copy is empty, so it never writes these pages. */
int pvclock_kernel_clock_save(struct pvclock_kvm *kvm, struct pvclock_record *record)
{
	int error = 0;
	uint32_t i;

	for (i = 0; error == 0 && i < record->vcpu_count; i++) {
		const struct kvm_vcpu *vcpu = pvclock_kvm_find_vcpu(kvm, record->vcpus[i].index);

		if (!vcpu)
			return -ENOENT;
		error = pvclock_kvm_get_msr(kvm, vcpu, PVCLOCK_MSR_SYSTEM_TIME, &record->vcpus[i].system_time_msr);
		if (error == 0 && i == 0)
			error = pvclock_kvm_get_msr(kvm, vcpu, PVCLOCK_MSR_WALL_CLOCK, &record->wall_clock_msr);
	}
	return error;
}

static int restore_msrs(struct pvclock_kvm *kvm, const struct pvclock_record *record)
{
	int error = 0;
	uint32_t i;

	for (i = 0; error == 0 && i < record->vcpu_count; i++) {
		const struct pvclock_record_vcpu *saved = &record->vcpus[i];
		const struct kvm_vcpu *vcpu = pvclock_kvm_find_vcpu(kvm, saved->index);

		pvclock_vcpu_restore_msr(vcpu->vcpu, PVCLOCK_MSR_SYSTEM_TIME, 0);
		pvclock_vcpu_restore_msr(vcpu->vcpu, PVCLOCK_MSR_WALL_CLOCK, 0);
		if (saved->system_time_msr)
			error = pvclock_kvm_set_msr(kvm, vcpu, saved->old_msrs ? PVCLOCK_MSR_SYSTEM_TIME_OLD : PVCLOCK_MSR_SYSTEM_TIME,
					    saved->system_time_msr);
		if (error == 0 && i == 0 && record->wall_clock_msr)
			error = pvclock_kvm_set_msr(kvm, vcpu, PVCLOCK_MSR_WALL_CLOCK, record->wall_clock_msr);
	}
	return error;
}

int pvclock_kernel_clock_restore(struct pvclock_kvm *kvm, const struct pvclock_record *record, struct pvclock_reason *reason)
{
	uint64_t now;
	int error = pvclock_vm_now(kvm->vm, &now);

	/* The kernel fills the wall clock's page from its clock when the MSR is set: the clock first. */
	if (error == 0)
		error = pvclock_kvm_set_clock(kvm, now);
	if (error == 0)
		error = restore_msrs(kvm, record);
	if (error)
		pvclock_reason_set(reason, PVCLOCK_REASON_OS, "KVM did not take the guest's clock registration (error %d); "
				   "try own mode, which does not need it.", -error);
	return error;
}

/* KVM_KVMCLOCK_CTRL fails for a vCPU that registered no page, and need not do anything for it. */
void pvclock_kernel_clock_mark_stopped(struct pvclock_kvm *kvm)
{
	size_t i;

	for (i = 0; i < kvm->vcpu_count; i++)
		kvm_ioctl(kvm, kvm->vcpus[i].fd, KVM_KVMCLOCK_CTRL, NULL);
}
