/* SPDX-License-Identifier: MIT */
/*
 * deadline.c - interrupts for deadlines that guests hand over (src/host/deadline.c says when). The timer is the VMM's:
 * it asks, and is told how long to wait, and told again when a guest arms one that is sooner than that. Told once for
 * each: a guest that arms a million wakes nobody more often than it leaves guest mode itself, and what is past is fired
 * in its own thread.
 *
 * `awaited` is what the VMM waits for. It is set under the lock, with all deadlines looked at that were written before; one that is
 * written after that look finds it there, and is sooner or is not.
 */
#include "kvm.h"

/*
 * A TSC at which the host had not slept. What is due by a later one may be so only because the clock has not been put
 * right yet; of what was due then, it does not matter how long this thread is frozen before it says so. False: it has
 * slept, and the resume will fire.
 */
static bool read_awake(struct pvclock_kvm *kvm, struct pvclock_host_tsc *now)
{
	*now = kvm->os->ops->read_tsc(kvm->os->ctx);
	return !pvclock_kvm_slept(kvm);
}

/* With the lock held: whoever has passed pvclock_kvm_drain_deadlines has nothing in flight, and no vCPU goes away meanwhile. */
static int fire(struct pvclock_kvm *kvm, uint64_t *wait_ns)
{
	struct pvclock_deadline deadline;
	struct pvclock_host_tsc now;
	int error = 0, failed;
	size_t i;

	*wait_ns = kvm->awaited.ticks = UINT64_MAX;
	if (!read_awake(kvm, &now))
		return 0;
	for (i = 0; i < kvm->vcpu_count; i++) {
		struct pvclock_vcpu *vcpu = kvm->vcpus[i].vcpu;

		if (pvclock_vcpu_take_deadline(vcpu, now, &deadline)) {
			failed = pvclock_kvm_interrupt(kvm, pvclock_vcpu_index(vcpu), deadline.vector);
			error = failed ? failed : error;
			continue;
		}
		if (deadline.at.ticks < kvm->awaited.ticks)
			kvm->awaited = deadline.at;
		if (deadline.wait_ns < *wait_ns)
			*wait_ns = deadline.wait_ns;
	}
	return error;
}

int pvclock_kvm_fire_deadlines(struct pvclock_kvm *kvm, uint64_t *wait_ns)
{
	int error;

	pthread_mutex_lock(&kvm->lock);
	error = fire(kvm, wait_ns);
	pthread_mutex_unlock(&kvm->lock);
	return error;
}

void pvclock_kvm_deadline_written(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu)
{
	struct pvclock_deadline deadline;
	struct pvclock_host_tsc now;
	bool sooner;

	if (!read_awake(kvm, &now))
		return;
	if (pvclock_vcpu_take_deadline(vcpu, now, &deadline)) {
		/* KVM finds no such APIC where the guest has given it another identifier: the guest's affair, too */
		(void)pvclock_kvm_interrupt(kvm, pvclock_vcpu_index(vcpu), deadline.vector);
		return;
	}
	pthread_mutex_lock(&kvm->lock);
	sooner = deadline.at.ticks < kvm->awaited.ticks;
	if (sooner)
		kvm->awaited = deadline.at;
	pthread_mutex_unlock(&kvm->lock);
	if (sooner && kvm->sooner)
		kvm->sooner(kvm->sooner_ctx, deadline.wait_ns);
}

void pvclock_kvm_drain_deadlines(struct pvclock_kvm *kvm)
{
	pthread_mutex_lock(&kvm->lock);
	pthread_mutex_unlock(&kvm->lock);
}

void pvclock_kvm_resume_deadlines(struct pvclock_kvm *kvm)
{
	uint64_t wait_ns;

	pvclock_kvm_fire_deadlines(kvm, &wait_ns);
	if (wait_ns != UINT64_MAX && kvm->sooner)
		kvm->sooner(kvm->sooner_ctx, wait_ns);
}
