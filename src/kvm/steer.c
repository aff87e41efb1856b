/* SPDX-License-Identifier: MIT */
/*
 * steer.c - steer mode: the kernel publishes, and a feedback loop aims it. KVM_SET_CLOCK makes the clock read a given value at an instant that
 * only the kernel knows; KVM_GET_CLOCK then tells (clock, host TSC) exactly. The difference from the line corrects the next try.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>
#include <string.h>

#define TRIES_MAX 64u
#define READBACKS 4

/* The kernel's clock minus the line, at the host TSC that the kernel says. */
static int read_error(struct pvclock_kvm *kvm, const struct pvclock_line *line,
		      const struct pvclock_tsc_transform *transform, int64_t *error_ns)
{
	struct kvm_clock clock;
	int error = kvm_get_clock(kvm, &clock);

	if (error)
		return error;
	if (!(clock.flags & KVM_CLOCK_HOST_TSC))
		return -ENOTSUP;
	*error_ns = (int64_t)(clock.clock - pvclock_line_ns(line, pvclock_tsc_to_guest(transform,
			      (struct pvclock_host_tsc){ clock.host_tsc }).ticks));
	return 0;
}

/*
 * Two floors wobble by 1 ns against each other, so one readback cannot tell an error of 0.1 ns from one of 1.9.
 * Several at different phases can: only an error within (-1, 1) reads as 0 and one neighbour alone.
 */
static int read_settled(struct pvclock_kvm *kvm, const struct pvclock_line *line,
			const struct pvclock_tsc_transform *transform, int64_t *least, int64_t *most)
{
	int64_t error_ns = 0;
	int i, error;

	for (i = 0; i < READBACKS; i++) {
		error = read_error(kvm, line, transform, &error_ns);
		if (error)
			return error;
		if (i == 0 || error_ns < *least)
			*least = error_ns;
		if (i == 0 || error_ns > *most)
			*most = error_ns;
		if (*least < -1 || *most > 1)
			break;
	}
	return 0;
}

static bool settled(int64_t least, int64_t most)
{
	return least >= -1 && most <= 1 && most - least <= 1 && least <= 0 && most >= 0;
}

static int aim(struct pvclock_kvm *kvm, struct pvclock_correction *correction, struct pvclock_reason *reason)
{
	struct pvclock_tsc_transform transform;
	struct pvclock_line line;
	int64_t lead = 0, least = 0, most = 0;
	int error = pvclock_vcpu_get_line(kvm->vcpus[0].vcpu, &line);

	if (error)
		return error;
	pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &transform);
	while (correction->tries < TRIES_MAX) {
		uint64_t now = pvclock_tsc_to_guest(&transform, kvm->os->ops->read_tsc(kvm->os->ctx)).ticks;

		correction->tries++;
		error = kvm_set_clock(kvm, pvclock_line_ns(&line, now) + (uint64_t)lead);
		if (error == 0)
			error = read_settled(kvm, &line, &transform, &least, &most);
		if (error == -ENOTSUP)
			pvclock_reason_set(reason, PVCLOCK_REASON_NO_MASTER_CLOCK,
					   "KVM's master clock is off, so its clock can be set but not aimed; the guest's clock "
					   "is off by the time that KVM_SET_CLOCK takes. Use own mode, or make the vCPUs' TSCs alike.");
		else if (error)
			pvclock_reason_set(reason, PVCLOCK_REASON_OS, "KVM refused to set or tell its clock (error %d).", -error);
		if (error)
			return error;
		if (settled(least, most)) {
			correction->residual_ns = most ? most : least;
			return 0;
		}
		lead -= most > 0 ? most : least;
	}
	correction->residual_ns = most > -least ? most : least;
	pvclock_reason_set(reason, PVCLOCK_REASON_STEER_RESIDUAL,
			   "After %u tries KVM's clock is still %lld ns from its line; a quieter host or own mode would do better.",
			   correction->tries, (long long)correction->residual_ns);
	return -ERANGE;
}

static int steer_pause(struct pvclock_kvm *kvm)
{
	int error = kernel_clock_learn(kvm);

	/* No page and no master clock yet: no guest has read a line that would have to be kept. */
	return error == -ENODATA ? 0 : error;
}

static int steer_resume(struct pvclock_kvm *kvm, struct pvclock_correction *correction, struct pvclock_reason *reason)
{
	int error = aim(kvm, correction, reason);
	int resumed = pvclock_vm_resume(kvm->vm);

	kernel_clock_mark_stopped(kvm);
	if (error == -ENODATA)
		return 0;
	return error ? error : resumed;
}

static int steer_save(struct pvclock_kvm *kvm, struct pvclock_record *record)
{
	return kernel_clock_save(kvm, record);
}

const struct kvm_mode kvm_mode_steer = {
	.mode = PVCLOCK_MODE_STEER,
	.pause = steer_pause,
	.resume = steer_resume,
	.save = steer_save,
	.restore = kernel_clock_restore,
};
