/* SPDX-License-Identifier: MIT */
/* clock.c - KVM_GET_CLOCK, KVM_SET_CLOCK and KVM_KVMCLOCK_CTRL, as a VMM knows them from the kernel. */
#include "preload.h"

#include <errno.h>

static uint64_t realtime_now(const struct vm *vm)
{
	struct timespec real = { 0 };

	vm->os.ops->clock_gettime(vm->os.ctx, CLOCK_REALTIME, &real);
	return (uint64_t)real.tv_sec * 1000000000u + (uint64_t)real.tv_nsec;
}

/* The clock at a host tick, by what is known: a vCPU that runs is not asked, for it would be waited for. */
static bool clock_at(const struct vm *vm, struct pvclock_host_tsc at, uint64_t *ns)
{
	struct pvclock_tsc_transform transform;
	struct pvclock_line line;

	if (pvclock_vcpu_get_line(vm->vcpus[0]->clock, &line) != 0)
		return false;
	pvclock_vcpu_get_tsc(vm->vcpus[0]->clock, &transform);
	*ns = pvclock_line_ns(&line, pvclock_tsc_to_guest(&transform, at).ticks);
	return true;
}

/*
 * What is known better than by the kernel: a clock that arrived stands where it stood; one that was stopped, where it was
 * stopped; and one that runs is the kernel's to tell, unless it is ours.
 */
static bool tell_clock(struct vm *vm, struct clock_data *clock)
{
	struct pvclock_host_tsc at = vm->paused ? vm->hold : vm->os.ops->read_tsc(vm->os.ctx);
	uint64_t ns;

	if (vm->vcpu_count == 0)
		return false;
	if (!vm_arrival_clock(vm, &ns) &&
	    !(vm->started && (vm->paused || vm_is(vm, PVCLOCK_MODE_OWN)) && clock_at(vm, at, &ns)))
		return false;
	*clock = (struct clock_data){
		.clock = ns,
		.flags = CLOCK_FLAG_REALTIME | CLOCK_FLAG_HOST_TSC | (pvclock_vm_stable(vm->clock, NULL) ? CLOCK_FLAG_STABLE : 0),
		.realtime = vm->paused ? vm->hold_realtime : realtime_now(vm),
		.host_tsc = at.ticks,
	};
	return true;
}

/* Asked of a VM that stands still, this is its stop: the clock is told as of then, and the counters will be. */
int vm_get_clock(struct vm *vm, struct clock_data *clock)
{
	int result = 0;

	if (vm->kvm == NULL)
		return kernel_ioctl(vm->fd, KVM_GET_CLOCK, clock);
	pthread_mutex_lock(&vm->lock);
	if (vm->started && gate_close_if_stopped(vm))
		vm_pause(vm);
	if (!tell_clock(vm, clock))
		result = kernel_ioctl(vm->fd, KVM_GET_CLOCK, clock);
	vm->told = result >= 0;
	vm->told_ns = clock->clock;
	pthread_mutex_unlock(&vm->lock);
	return result;
}

/* Set while the VM stands still, this is its start: what was told comes back, or the clock of where it came from. */
int vm_set_clock(struct vm *vm, const struct clock_data *clock)
{
	int result = 0;

	if (vm->kvm == NULL)
		return kernel_ioctl(vm->fd, KVM_SET_CLOCK, (void *)clock);
	if (clock->flags & ~(CLOCK_FLAG_REALTIME | CLOCK_FLAG_HOST_TSC | CLOCK_FLAG_STABLE))
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	vm->set = true;
	vm->set_ns = clock->clock;
	if (clock->flags & CLOCK_FLAG_REALTIME) {
		uint64_t now = realtime_now(vm);

		vm->set_ns += now > clock->realtime ? now - clock->realtime : 0;
	}
	if (vm->vcpu_count == 0) { /* for when there are some */
		result = kernel_ioctl(vm->fd, KVM_SET_CLOCK, (void *)clock);
		pthread_mutex_unlock(&vm->lock);
		return result;
	}
	if (vm->asleep) { /* it goes on when the host is awake, with this clock */
		pthread_mutex_unlock(&vm->lock);
		return 0;
	}
	if (gate_close(vm))
		vm_go_on(vm);
	else
		result = -EBUSY;
	vm->set = false;
	gate_open(vm);
	pthread_mutex_unlock(&vm->lock);
	return result;
}

int vcpu_kvmclock_ctrl(struct vcpu *vcpu)
{
	/* The filtered kernel knows of no page and would refuse; every page was marked when the VM went on. */
	if (vcpu->clock != NULL && vm_is(vcpu->vm, PVCLOCK_MODE_OWN))
		return 0;
	return kernel_ioctl(vcpu->object.fd, KVM_KVMCLOCK_CTRL, NULL);
}
