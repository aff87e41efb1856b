/* SPDX-License-Identifier: MIT */
/*
 * tsc.c - a vCPU's TSC as it really runs. An offset that was written is never trusted: some KVMs (nested in software)
 * accept it and go on as before, so it is read back and the engine is given what holds.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>

int pvclock_kvm_read_tsc_offset(const struct pvclock_os *os, int vcpu_fd, uint64_t *offset)
{
	uint64_t value = 0;
	struct kvm_device_attr attribute = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&value };
	int error = os->ops->ioctl(os->ctx, vcpu_fd, KVM_GET_DEVICE_ATTR, &attribute);

	if (error < 0)
		return error;
	*offset = value;
	return 0;
}

/*
 * Without the attribute (Linux before 5.16): IA32_TSC between two TSC reads. Good to the bracket; an offset
 * that may as well be 0 is 0.
 */
static int estimate_tsc_offset(const struct pvclock_kvm *kvm, const struct kvm_vcpu *vcpu, uint64_t known, uint64_t *offset)
{
	const struct pvclock_os *os = kvm->os;
	uint64_t before = os->ops->read_tsc(os->ctx).ticks, after, guest;
	int error = pvclock_kvm_get_msr(kvm, vcpu, MSR_IA32_TSC, &guest);

	if (error)
		return error;
	after = os->ops->read_tsc(os->ctx).ticks;
	if (guest - (before + known) <= after - before)
		*offset = known; /* no evidence that it changed */
	else if (guest - before <= after - before)
		*offset = 0;
	else
		*offset = guest - (before + (after - before) / 2);
	return 0;
}

uint8_t pvclock_kvm_frac_bits(const struct pvclock_os *os)
{
	uint32_t regs[4] = { 0 };

	os->ops->cpuid(os->ctx, 0, 0, regs);
	return regs[1] == 0x756e6547u /* "Genu"ineIntel */ ? PVCLOCK_FRAC_BITS_VMX : PVCLOCK_FRAC_BITS_SVM;
}

static int read_offset(const struct pvclock_kvm *kvm, const struct kvm_vcpu *vcpu, uint64_t *offset)
{
	struct pvclock_tsc_transform known;

	if (pvclock_kvm_read_tsc_offset(kvm->os, vcpu->fd, offset) == 0)
		return 0;
	pvclock_vcpu_get_tsc(vcpu->vcpu, &known);
	return estimate_tsc_offset(kvm, vcpu, known.offset, offset);
}

int pvclock_kvm_reread_offset(const struct pvclock_kvm *kvm, const struct kvm_vcpu *vcpu)
{
	struct pvclock_tsc_transform transform;
	uint64_t known;
	int error;

	pvclock_vcpu_get_tsc(vcpu->vcpu, &transform);
	known = transform.offset;
	error = read_offset(kvm, vcpu, &transform.offset);
	if (error || transform.offset == known)
		return error;
	return pvclock_vcpu_set_tsc(vcpu->vcpu, &transform, vcpu->catchup);
}

int pvclock_kvm_read_tsc(const struct pvclock_kvm *kvm, struct kvm_vcpu *vcpu, const struct pvclock_slope *host)
{
	struct pvclock_tsc_transform transform = { 0 };
	struct pvclock_slope guest;
	bool catchup = false;
	int khz = kvm_ioctl(kvm, vcpu->fd, KVM_GET_TSC_KHZ, NULL);
	int error = read_offset(kvm, vcpu, &transform.offset);

	if (error)
		return error;
	if (host && khz > 0 && pvclock_slope_from_khz((uint64_t)khz, &guest) && !pvclock_rates_alike(&guest, host)) {
		uint64_t offset = transform.offset;

		catchup = kvm_ioctl(kvm, kvm->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_TSC_CONTROL) <= 0;
		if (!catchup)
			transform = pvclock_rate_ratio((uint64_t)khz, pvclock_rate_khz(host), pvclock_kvm_frac_bits(kvm->os));
		if (!catchup && transform.frac_bits == 0)
			return -EINVAL;
		transform.offset = offset;
	}
	vcpu->catchup = catchup;
	return pvclock_vcpu_set_tsc(vcpu->vcpu, &transform, catchup);
}

int pvclock_kvm_page_khz(const struct pvclock_kvm *kvm)
{
	struct pvclock_tsc_transform tsc;
	int khz = 0;

	pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &tsc);
	if (tsc.frac_bits == 0)
		khz = kvm_ioctl(kvm, kvm->vm_fd, KVM_GET_TSC_KHZ, NULL); /* Linux 5.18 */
	return khz > 0 ? khz : kvm_ioctl(kvm, kvm->vcpus[0].fd, KVM_GET_TSC_KHZ, NULL);
}

int pvclock_kvm_follow_tsc(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu)
{
	struct kvm_vcpu followed;
	size_t i;
	int error;

	for (i = 0; i < kvm->vcpu_count && kvm->vcpus[i].vcpu != vcpu; i++)
		;
	if (i == kvm->vcpu_count)
		return -ENOENT;
	followed = kvm->vcpus[i];
	error = pvclock_kvm_read_tsc(kvm, &followed, kvm->host.mantissa ? &kvm->host : NULL);
	if (error == 0)
		kvm->vcpus[i].catchup = followed.catchup;
	return error;
}

int pvclock_kvm_read_tscs(struct pvclock_kvm *kvm, const struct pvclock_slope *host)
{
	int error = 0;
	size_t i;

	for (i = 0; error == 0 && i < kvm->vcpu_count; i++)
		error = pvclock_kvm_read_tsc(kvm, &kvm->vcpus[i], host);
	return error;
}

int pvclock_kvm_want_tsc_offset(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, uint64_t offset, bool write,
				struct pvclock_reason *reason)
{
	struct kvm_device_attr attribute = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset };
	const struct kvm_vcpu *found = pvclock_kvm_find_vcpu(kvm, pvclock_vcpu_index(vcpu));
	struct pvclock_tsc_transform transform;
	int written = 0, error;
	uint64_t was;

	pvclock_reason_clear(reason);
	if (!found)
		return -ENOENT;
	pvclock_vcpu_get_tsc(vcpu, &transform);
	was = transform.offset;
	if (write)
		written = kvm_ioctl(kvm, found->fd, KVM_SET_DEVICE_ATTR, &attribute);
	error = read_offset(kvm, found, &transform.offset);
	if (error == 0)
		error = pvclock_vcpu_set_tsc(vcpu, &transform, found->catchup);
	if (error)
		return error;
	if (written >= 0 && transform.offset == offset)
		return 0;
	if (write)
		kvm->offsets_ignored = written >= 0 && transform.offset == was;
	pvclock_reason_set(reason, PVCLOCK_REASON_OFFSET_IGNORED,
			   "KVM %s a TSC offset of %lld for vCPU %u and runs it with %lld; the clock's line follows instead.",
			   written < 0 ? "refused" : "accepted", (long long)offset, pvclock_vcpu_index(vcpu),
			   (long long)transform.offset);
	return -EOPNOTSUPP;
}

int pvclock_kvm_set_tsc_offset(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, uint64_t offset, struct pvclock_reason *reason)
{
	return pvclock_kvm_want_tsc_offset(kvm, vcpu, offset, true, reason);
}
