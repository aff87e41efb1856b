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

static void enter(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;

	know_thread(vcpu);
	for (;;) {
		atomic_store(&vcpu->inside, true);
		if (!atomic_load(&vm->gate))
			return;
		atomic_store(&vcpu->inside, false);
		pthread_mutex_lock(&vm->lock);
		if (atomic_load(&vm->gate)) {
			if (gate_close(vm))
				vm_go_on(vm);
			gate_open(vm);
		}
		pthread_mutex_unlock(&vm->lock);
	}
}

int vcpu_run(struct vcpu *vcpu, void *arg)
{
	for (;;) {
		int result, handled;

		if (vcpu->clock == NULL)
			return kernel_ioctl(vcpu->object.fd, KVM_RUN, arg);
		enter(vcpu);
		result = kernel_ioctl(vcpu->object.fd, KVM_RUN, arg);
		atomic_store_explicit(&vcpu->inside, false, memory_order_release);
		if (result < 0)
			return result;
		/* An exit of ours is completed by the next entry. If the VMM wants the vCPU, that says -EINTR at once. */
		handled = pvclock_kvm_handle_exit(vcpu->vm->kvm, vcpu->clock, vcpu->run);
		if (handled <= 0)
			return handled < 0 ? handled : result;
	}
}
