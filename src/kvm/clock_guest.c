/* SPDX-License-Identifier: MIT */
/*
 * clock_guest.c - KVM_GET_CLOCK_GUEST and KVM_SET_CLOCK_GUEST as they were proposed, whether the kernel has them or not: a vCPU's
 * clock as the structure that its page holds, which is arithmetic on its TSC and no reading at some time. Got is the engine's line:
 * the kernel's is up to 1 ns ahead of it, and handed on that would add up. Set it is by the resume, by the kernel's own ioctl
 * where it has one.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>

#define TOLERATED_KHZ 1 /* of the proposal: two kernels' kHz of one TSC */

/* Whether there is a function at all. Where the kernel publishes, it is its master clock. */
static int function_of(const struct pvclock_kvm *kvm, const struct pvclock_vcpu *vcpu, struct pvclock_line *line,
		       struct pvclock_reason *reason)
{
	struct kvm_clock kernel;

	pvclock_reason_clear(reason);
	if (pvclock_vcpu_get_line(vcpu, line)) {
		pvclock_vm_stable(kvm->vm, reason); /* NO_LINE */
		return -ENOTSUP;
	}
	if (kvm->mode->mode == PVCLOCK_MODE_OWN || (pvclock_kvm_get_clock(kvm, &kernel) == 0 && (kernel.flags & KVM_CLOCK_HOST_TSC)))
		return 0;
	pvclock_reason_set(reason, PVCLOCK_REASON_NO_MASTER_CLOCK,
			   "KVM's master clock is off, so this clock is no function of the TSC; pvclock host says why, and the legacy form "
			   "(KVM_GET_CLOCK) is what is left.");
	return -ENOTSUP;
}

int pvclock_kvm_get_clock_guest(struct pvclock_kvm *kvm, const struct pvclock_vcpu *vcpu, struct pvclock_page *clock,
				struct pvclock_reason *reason)
{
	struct pvclock_line line;
	int error = function_of(kvm, vcpu, &line, reason);

	if (error)
		return error;
	*clock = (struct pvclock_page){
		.tsc_timestamp = line.tsc,
		.system_time = line.ns,
		.tsc_to_system_mul = line.mul,
		.tsc_shift = line.shift,
		.flags = pvclock_vm_stable(kvm->vm, NULL) ? PVCLOCK_TSC_STABLE : 0,
	};
	return 0;
}

static int refuse(struct pvclock_reason *reason, const char *what)
{
	pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_FIELD, "The guest's clock is refused: %s.", what);
	return -EINVAL;
}

static bool same_khz(const struct pvclock_slope *a, const struct pvclock_slope *b)
{
	uint64_t x = pvclock_rate_khz(a), y = pvclock_rate_khz(b);

	return x != 0 && y != 0 && x - y + TOLERATED_KHZ <= 2 * TOLERATED_KHZ;
}

int pvclock_kvm_set_clock_guest(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, const struct pvclock_page *clock,
				struct pvclock_reason *reason)
{
	struct pvclock_line line = { .tsc = clock->tsc_timestamp, .ns = clock->system_time, .mul = clock->tsc_to_system_mul,
				     .shift = clock->tsc_shift };
	struct pvclock_tsc_transform tsc;
	struct pvclock_slope was, slope;
	struct pvclock_line current;
	struct pvclock_switch at;
	uint64_t now;
	int error = function_of(kvm, vcpu, &current, reason);

	if (error)
		return error;
	if (clock->pad0 || clock->pad[0] || clock->pad[1])
		return refuse(reason, "its padding is not 0");
	if (!pvclock_line_valid(&line) || !pvclock_slope_from_line(&line, &was))
		return refuse(reason, "mul is 0, or shift is not -31 to 31");
	pvclock_vcpu_get_tsc(vcpu, &tsc);
	now = pvclock_tsc_to_guest(&tsc, kvm->os->ops->read_tsc(kvm->os->ctx)).ticks;
	if (now < line.tsc)
		return refuse(reason, "its TSC is ahead of the vCPU's; set the TSC first");
	if (!pvclock_slope_from_line(&current, &slope))
		return -EINVAL;
	if (!same_khz(&was, &slope)) {
		pvclock_reason_set(reason, PVCLOCK_REASON_TSC_RATES_DIFFER,
				   "The guest's clock was saved of a TSC of %llu kHz, and the vCPU's runs at %llu kHz: restore its record, "
				   "which deals with that.", (unsigned long long)pvclock_rate_khz(&was),
				   (unsigned long long)pvclock_rate_khz(&slope));
		return -ERANGE;
	}
	if (!pvclock_switch_make(&at, &line, now, &slope))
		return -EINVAL;
	return pvclock_vcpu_set_line(vcpu, &at.line);
}
