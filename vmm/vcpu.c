// SPDX-License-Identifier: MIT
/*
 * vcpu.c - one thread a vCPU, and the pause.
 *
 * A pause sets `hold`, then every kvm_run's immediate_exit, then sends each thread a signal. A vCPU in guest mode is
 * interrupted by the signal; one on its way into KVM_RUN finds immediate_exit set; so no wake-up is lost. It then
 * completes what is half done (KVM api.rst, KVM_RUN: an MSR, port or MMIO exit completes on the next entry) by
 * entering with immediate_exit set until the kernel says EINTR, and parks. Only then is its state worth saving.
 */
#include "vmm.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SIGNAL_KICK SIGUSR1

#define SERIAL_LINE_STATUS (VMM_SERIAL_PORT + 5)
#define SERIAL_PATIENCE_MS 100
#define SERIAL_READY 0x60u /* transmitter empty: 16550 LSR bits 5, 6 */

static void kicked(int signal)
{
	(void)signal; /* it only has to interrupt KVM_RUN */
}

static void set_immediate_exit(struct vcpu *vcpu, uint8_t value)
{
	atomic_store((_Atomic uint8_t *)&vcpu->run->immediate_exit, value);
}

/* The first end counts. */
static void end_machine(struct machine *machine, int code, const struct problem *problem)
{
	pthread_mutex_lock(&machine->lock);
	if (!machine->ended) {
		machine->ended = true;
		machine->code = code;
		if (problem != NULL)
			machine->problem = *problem;
		uint64_t one = 1;
		(void)!write(machine->event_fd, &one, sizeof(one));
	}
	pthread_mutex_unlock(&machine->lock);
}

static void write_serial(const uint8_t *bytes, size_t count)
{
	struct pollfd waited = { .fd = STDOUT_FILENO, .events = POLLOUT };

	while (count > 0) {
		/* A reader that does not read may cost the guest its text, never a pause its end. */
		if (poll(&waited, 1, SERIAL_PATIENCE_MS) == 0)
			return;
		ssize_t written = write(STDOUT_FILENO, bytes, count);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return; /* nobody listens: the guest need not know */
		bytes += written;
		count -= (size_t)written;
	}
}

/* False: the guest has ended. */
static bool handle_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	size_t bytes = (size_t)run->io.size * run->io.count;

	if (run->io.direction == KVM_EXIT_IO_IN) {
		memset(data, run->io.port == SERIAL_LINE_STATUS ? SERIAL_READY : 0xff, bytes);
		return true;
	}
	if (run->io.port == VMM_SERIAL_PORT) {
		for (uint32_t i = 0; i < run->io.count; i++)
			write_serial(data + (size_t)i * run->io.size, 1);
	} else if (run->io.port == VMM_EXIT_PORT) {
		end_machine(vcpu->machine, data[0], NULL);
		return false;
	}
	return true;
}

/* Says where, and what stands there: with identity page tables RIP is a guest physical address. */
static void describe_rip(struct vcpu *vcpu, char *text, size_t size)
{
	struct kvm_regs regs;
	int length = 0;

	if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0) {
		snprintf(text, size, "rip unknown");
		return;
	}
	length = snprintf(text, size, "rip %#llx, bytes", (unsigned long long)regs.rip);
	for (uint64_t i = 0; i < 15 && machine_has_range(vcpu->machine, regs.rip, i + 1); i++)
		length += snprintf(text + length, size - (size_t)length, " %02x", vcpu->machine->memory[regs.rip + i]);
}

/* False: the guest has ended or cannot go on. */
static bool handle_exit(struct vcpu *vcpu)
{
	struct machine *machine = vcpu->machine;
	struct kvm_run *run = vcpu->run;
	struct problem problem;
	char where[128];

	int handled = pvclock_kvm_handle_exit(machine->clock.kvm, vcpu->clock, run);
	if (handled > 0)
		return true;
	if (handled < 0) {
		fail(&problem, "vCPU %u: the clock could not handle an exit: %s", vcpu->index, strerror(-handled));
		end_machine(machine, 1, &problem);
		return false;
	}
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		return handle_io(vcpu);
	case KVM_EXIT_MMIO: /* no devices: writes vanish, reads find an empty bus */
		if (!run->mmio.is_write)
			memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
		return true;
	case KVM_EXIT_INTR:
		return true;
	case KVM_EXIT_X86_RDMSR: /* a filter that is not ours: as if the MSR did not exist */
	case KVM_EXIT_X86_WRMSR:
		run->msr.error = 1;
		return true;
	case KVM_EXIT_SHUTDOWN:
		describe_rip(vcpu, where, sizeof(where));
		fail(&problem, "vCPU %u: the guest took an exception that it does not handle (triple fault): %s",
		     vcpu->index, where);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		describe_rip(vcpu, where, sizeof(where));
		fail(&problem, "vCPU %u: KVM cannot run the guest's code (suberror %u): %s", vcpu->index,
		     run->internal.suberror, where);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		fail(&problem, "vCPU %u: KVM cannot enter the guest (hardware reason %#llx)", vcpu->index,
		     (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		break;
	default:
		describe_rip(vcpu, where, sizeof(where));
		fail(&problem, "vCPU %u: left guest mode for reason %u, which this VMM does not know: %s", vcpu->index,
		     run->exit_reason, where);
	}
	end_machine(machine, 1, &problem);
	return false;
}

/* The clock's errand in this thread, with the machine's lock held: KVM wants it from the one that runs the vCPU. */
static void settle(struct vcpu *vcpu)
{
	set_immediate_exit(vcpu, 0);
	pvclock_kvm_settle(vcpu->machine->clock.kvm, vcpu->clock);
	set_immediate_exit(vcpu, 1);
	vcpu->settle = false;
	pthread_cond_broadcast(&vcpu->machine->changed);
}

/* Waits until the vCPU may run. False: the thread is to end. */
static bool park(struct vcpu *vcpu, uint64_t stopped_ns)
{
	struct machine *machine = vcpu->machine;

	pthread_mutex_lock(&machine->lock);
	vcpu->parked = true;
	vcpu->stopped_ns = stopped_ns;
	pthread_cond_broadcast(&machine->changed);
	while ((atomic_load(&machine->hold) || machine->ended) && !machine->quit) {
		if (vcpu->settle)
			settle(vcpu);
		else
			pthread_cond_wait(&machine->changed, &machine->lock);
	}
	bool go_on = !machine->quit;
	if (go_on) {
		vcpu->parked = false;
		set_immediate_exit(vcpu, 0);
		vcpu->entered_ns = monotonic_ns();
		pthread_cond_broadcast(&machine->changed);
	}
	pthread_mutex_unlock(&machine->lock);
	return go_on;
}

/* The host has slept: nobody enters before control.c has seen to the clock. */
static void wake_up(struct machine *machine)
{
	uint64_t one = 1;

	pthread_mutex_lock(&machine->lock);
	atomic_store(&machine->hold, true);
	if (!machine->slept)
		(void)!write(machine->event_fd, &one, sizeof(one));
	machine->slept = true;
	pthread_mutex_unlock(&machine->lock);
}

static int run(int fd)
{
	return ioctl(fd, KVM_RUN, 0) < 0 ? -errno : 0;
}

/*
 * One entry; or, with immediate_exit, what the last exit left half done. 1: an exit was handled; 0: none, for now; -1:
 * the guest has ended.
 */
static int enter(struct vcpu *vcpu, bool complete)
{
	int error = complete ? run(vcpu->fd) : pvclock_kvm_enter(vcpu->machine->clock.kvm, vcpu->fd);

	if (error == -ESTALE) {
		wake_up(vcpu->machine);
		return 1; /* an exit may be half done, that this entry would have completed */
	}
	if (error == -EINTR || error == -EAGAIN)
		return 0;
	if (error < 0) {
		struct problem problem;
		fail(&problem, "vCPU %u: KVM_RUN: %s", vcpu->index, strerror(-error));
		end_machine(vcpu->machine, 1, &problem);
		return -1;
	}
	return handle_exit(vcpu) ? 1 : -1;
}

static void *vcpu_thread(void *argument)
{
	struct vcpu *vcpu = argument;
	uint64_t stopped_ns = monotonic_ns();

	vcpu->tid = gettid();
	clock_name_thread(vcpu);
	while (park(vcpu, stopped_ns)) {
		int result = 0;

		while (result >= 0 && !atomic_load(&vcpu->machine->hold))
			result = enter(vcpu, false);
		stopped_ns = monotonic_ns();
		while (result > 0) { /* half done: complete it, and whatever that leads to */
			set_immediate_exit(vcpu, 1);
			result = enter(vcpu, true);
		}
	}
	return NULL;
}

int vcpus_start(struct machine *machine, struct problem *problem)
{
	struct sigaction action = { .sa_handler = kicked }; /* no SA_RESTART: KVM_RUN has to return */

	sigemptyset(&action.sa_mask);
	sigaction(SIGNAL_KICK, &action, NULL);
	atomic_store(&machine->hold, true);
	for (uint32_t i = 0; i < machine->vcpu_count; i++) {
		int error = pthread_create(&machine->vcpus[i].thread, NULL, vcpu_thread, &machine->vcpus[i]);
		if (error != 0)
			return fail(problem, "thread of vCPU %u: %s", i, strerror(error));
		machine->threads++;
	}
	vcpus_pause(machine);
	return 0;
}

uint64_t vcpus_pause(struct machine *machine)
{
	uint64_t first = UINT64_MAX;

	pthread_mutex_lock(&machine->lock);
	atomic_store(&machine->hold, true);
	for (uint32_t i = 0; i < machine->threads; i++) {
		if (machine->vcpus[i].parked)
			continue;
		set_immediate_exit(&machine->vcpus[i], 1);
		pthread_kill(machine->vcpus[i].thread, SIGNAL_KICK);
	}
	for (uint32_t i = 0; i < machine->threads; i++) {
		while (!machine->vcpus[i].parked)
			pthread_cond_wait(&machine->changed, &machine->lock);
		if (machine->vcpus[i].stopped_ns < first)
			first = machine->vcpus[i].stopped_ns;
	}
	pthread_mutex_unlock(&machine->lock);
	return first;
}

void vcpus_settle(struct machine *machine)
{
	if (pvclock_kvm_mode(machine->clock.kvm) != PVCLOCK_MODE_STEER)
		return; /* nothing to settle: no thread need be woken for it */
	pthread_mutex_lock(&machine->lock);
	for (uint32_t i = 0; i < machine->threads; i++)
		machine->vcpus[i].settle = true;
	pthread_cond_broadcast(&machine->changed);
	for (uint32_t i = 0; i < machine->threads; i++) {
		while (machine->vcpus[i].settle)
			pthread_cond_wait(&machine->changed, &machine->lock);
	}
	pthread_mutex_unlock(&machine->lock);
}

uint64_t vcpus_resume(struct machine *machine)
{
	uint64_t first = UINT64_MAX;

	pthread_mutex_lock(&machine->lock);
	for (uint32_t i = 0; i < machine->threads; i++)
		machine->vcpus[i].entered_ns = 0;
	atomic_store(&machine->hold, false);
	pthread_cond_broadcast(&machine->changed);
	for (uint32_t i = 0; i < machine->threads && !machine->ended; i++) {
		/* or one that went first has found that the host slept, and nobody else may */
		while (machine->vcpus[i].entered_ns == 0 && !machine->ended && !atomic_load(&machine->hold))
			pthread_cond_wait(&machine->changed, &machine->lock);
		if (machine->vcpus[i].entered_ns < first)
			first = machine->vcpus[i].entered_ns;
	}
	pthread_mutex_unlock(&machine->lock);
	return first == UINT64_MAX ? 0 : first;
}

void vcpus_stop(struct machine *machine)
{
	vcpus_pause(machine);
	pthread_mutex_lock(&machine->lock);
	machine->quit = true;
	pthread_cond_broadcast(&machine->changed);
	pthread_mutex_unlock(&machine->lock);
	for (uint32_t i = 0; i < machine->threads; i++)
		pthread_join(machine->vcpus[i].thread, NULL);
	machine->threads = 0;
}
