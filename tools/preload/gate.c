/* SPDX-License-Identifier: MIT */
/*
 * gate.c - KVM_RUN. A vCPU says that it is inside, and then looks at the gate; whoever closes the gate does the two in
 * the other order, so one sees the other, and an open gate costs a vCPU one exchange and one load.
 */
#define _GNU_SOURCE
#include "preload.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 2000
#define REST_NS 2000000 /* of a vCPU's thread between two looks at the gate, while the host is about to sleep */

static int kick_signal;

static void kicked(int signal)
{
	(void)signal; /* it only has to interrupt KVM_RUN */
}

/* A real-time signal that nobody handles, counted from the end, where programs begin last. */
static void choose_signal(void)
{
	struct sigaction action = { .sa_handler = kicked, .sa_flags = SA_RESTART }, found; /* KVM_RUN ends all the same */
	int signal;

	for (signal = SIGRTMAX - 1; signal > SIGRTMIN && kick_signal == 0; signal--) {
		if (sigaction(signal, NULL, &found) == 0 && !(found.sa_flags & SA_SIGINFO) &&
		    found.sa_handler == SIG_DFL && sigaction(signal, &action, NULL) == 0)
			kick_signal = signal;
	}
}

/* That a vCPU can be got out of the thread that runs it, which may be another one than the last time. */
static void know_thread(struct vcpu *vcpu)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	static _Thread_local pid_t self;

	if (self == 0) {
		sigset_t kick;

		pthread_once(&once, choose_signal);
		sigemptyset(&kick);
		sigaddset(&kick, kick_signal);
		pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
		self = (pid_t)syscall(SYS_gettid);
	}
	if (atomic_load_explicit(&vcpu->thread, memory_order_relaxed) != self)
		atomic_store(&vcpu->thread, self);
}

static bool any_inside(const struct vm *vm)
{
	for (size_t i = 0; i < vm->vcpu_count; i++)
		if (atomic_load(&vm->vcpus[i]->inside))
			return true;
	return false;
}

bool gate_close_if_stopped(struct vm *vm)
{
	bool was = atomic_exchange(&vm->gate, true);

	if (!any_inside(vm))
		return true;
	atomic_store(&vm->gate, was);
	return false;
}

bool gate_close(struct vm *vm)
{
	const struct timespec wait = { .tv_nsec = 100000 };

	atomic_store(&vm->gate, true);
	for (unsigned int tries = 0; tries < PATIENCE_MS * 10; tries++) {
		if (!any_inside(vm))
			return true;
		/* A signal that comes before KVM_RUN is lost: it is sent again. */
		for (size_t i = 0; tries % 10 == 0 && i < vm->vcpu_count; i++) {
			pid_t thread = atomic_load(&vm->vcpus[i]->thread);

			if (thread != 0 && atomic_load(&vm->vcpus[i]->inside))
				syscall(SYS_tgkill, getpid(), thread, kick_signal);
		}
		nanosleep(&wait, NULL);
	}
	say("a vCPU did not leave guest mode within %d s; the clock is left as KVM has it until the next stop.",
	    PATIENCE_MS / 1000);
	return false;
}

void gate_open(struct vm *vm)
{
	atomic_store(&vm->gate, false);
}

/* False: not now, for the host is about to sleep. */
static bool enter(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;

	know_thread(vcpu);
	for (;;) {
		atomic_store(&vcpu->inside, true);
		if (!atomic_load(&vm->gate))
			return true;
		atomic_store(&vcpu->inside, false);
		pthread_mutex_lock(&vm->lock);
		bool asleep = vm->asleep;
		if (!asleep && atomic_load(&vm->gate)) {
			if (gate_close(vm))
				vm_go_on(vm);
			gate_open(vm);
		}
		pthread_mutex_unlock(&vm->lock);
		if (asleep)
			return false;
	}
}

/*
 * KVM_RUN while the host is about to sleep: completes what the last exit left half done, whoever handled it, for the
 * VMM may save the vCPU next; and is then interrupted.
 */
static int stay_outside(struct vcpu *vcpu, void *arg)
{
	const struct timespec rest = { .tv_nsec = REST_NS };
	uint8_t wanted = vcpu->run->immediate_exit;
	int result;

	vcpu->run->immediate_exit = 1;
	result = kernel_ioctl(vcpu->object.fd, KVM_RUN, arg);
	vcpu->run->immediate_exit = wanted; /* a wish that came in between is fulfilled by what we return */
	if (result == -EINTR)
		nanosleep(&rest, NULL); /* or less, if somebody sends a signal */
	return result;
}

/*
 * The host has slept: whoever finds out first sees to the clock, as if the VMM had stopped the VM and let it go on.
 * False: that did not work, or it is about to sleep again.
 */
static bool wake_up(struct vm *vm)
{
	bool awake;

	pthread_mutex_lock(&vm->lock);
	if (!vm->asleep) { /* or it is about to, again: what it has slept so far is measured at the end of that */
		if (pvclock_kvm_slept(vm->kvm) && gate_close(vm)) {
			for (size_t i = 0; i < vm->vcpu_count; i++)
				vm->vcpus[i]->settled = false; /* their TSC offsets will be written */
			vm_pause(vm);
			vm_go_on(vm);
		}
		gate_open(vm);
	}
	awake = !pvclock_kvm_slept(vm->kvm);
	pthread_mutex_unlock(&vm->lock);
	return awake;
}

int vcpu_run(struct vcpu *vcpu, void *arg)
{
	for (;;) {
		int result, handled;

		if (vcpu->clock == NULL)
			return kernel_ioctl(vcpu->object.fd, KVM_RUN, arg);
		if (!enter(vcpu))
			return stay_outside(vcpu, arg);
		atomic_store_explicit(&vcpu->with_vmm, false, memory_order_relaxed);
		passing++; /* KVM_RUN's ioctl, where it is one, is libc's */
		result = pvclock_kvm_enter(vcpu->vm->kvm, vcpu->object.fd);
		passing--;
		/* An exit of ours is completed by the next entry. If the VMM wants the vCPU, that says -EINTR at once. */
		handled = result < 0 ? 0 : pvclock_kvm_handle_exit(vcpu->vm->kvm, vcpu->clock, vcpu->run);
		if (result >= 0 && handled <= 0)
			atomic_store_explicit(&vcpu->with_vmm, true, memory_order_relaxed);
		atomic_store_explicit(&vcpu->inside, false, memory_order_release); /* only now: whoever closes the gate has the clock to itself */
		if (handled > 0)
			vcpu_note_acknowledged(vcpu);
		if (result == -ESTALE) {
			if (!wake_up(vcpu->vm) || vcpu->run->immediate_exit)
				return -EINTR; /* the VMM may want something else by now; it comes back */
			continue;
		}
		if (result < 0)
			return result;
		if (handled <= 0)
			return handled < 0 ? handled : result;
	}
}
