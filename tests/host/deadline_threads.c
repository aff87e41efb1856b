/* SPDX-License-Identifier: MIT */
/*
 * deadline_threads.c - vCPUs that arm while another thread fires, one that comes and goes, and pauses: on this machine's TSC, with
 * a KVM that does nothing. Each deadline that is not taken back fires once, and none before its time. Under TSan, too.
 */
#include <pvclock/interface.h>
#include <pvclock/kvm.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define VCPUS 2u
#define VECTOR 0x50u
#define ROUNDS_USUAL 4000u
#define FAR_NS 60000u
#define LOST_TRIES 20000 /* of 0.1 ms */

struct vcpu {
	struct test *test;
	struct pvclock_vcpu *clock;
	uint32_t index;
	pthread_t thread;
	_Atomic uint64_t armed;         /* 0: nothing, or it has fired */
	_Atomic unsigned int fired;
	unsigned int asked, back;       /* deadlines; of them, taken back */
	_Atomic bool inside;            /* in guest mode, so to say */
};

struct test {
	struct pvclock_os os;
	struct pvclock_vm *vm;
	struct pvclock_kvm *kvm;
	struct vcpu vcpus[VCPUS];
	int event_fd;
	unsigned int rounds;
	_Atomic bool quit, hold, failed;
	_Atomic unsigned int early, unasked, while_paused;
	_Atomic bool paused;
};

/* --- a KVM that does nothing ----------------------------------------------------------------------- */

static int fake_ioctl(void *ctx, int fd, unsigned long request, void *arg)
{
	struct kvm_device_attr *attribute = arg;

	(void)ctx;
	(void)fd;
	switch (request) {
	case KVM_CHECK_EXTENSION:
		return (uintptr_t)arg == KVM_CAP_TSC_CONTROL ? 0 : 1;
	case KVM_GET_TSC_KHZ:
		return 2600000;
	case KVM_GET_DEVICE_ATTR:
		*(uint64_t *)(uintptr_t)attribute->addr = 0;
		return 0;
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return 1;
	default:
		return 0;
	}
}

static uint64_t now_of(const struct vcpu *vcpu)
{
	struct pvclock_line line;

	pvclock_vcpu_get_line(vcpu->clock, &line);
	return pvclock_line_ns(&line, vcpu->test->os.ops->read_tsc(NULL).ticks);
}

static int interrupt(void *ctx, uint32_t apic, uint8_t vector)
{
	struct test *test = ctx;
	struct vcpu *vcpu = &test->vcpus[apic < VCPUS ? apic : 0];
	uint64_t armed;

	if (apic == VCPUS) /* the one that comes and goes */
		return 0;
	armed = atomic_exchange(&vcpu->armed, 0);
	if (apic > VCPUS || vector != VECTOR + apic || armed == 0)
		atomic_fetch_add(&test->unasked, 1);
	else if (now_of(vcpu) < armed)
		atomic_fetch_add(&test->early, 1);
	if (atomic_load(&test->paused))
		atomic_fetch_add(&test->while_paused, 1);
	atomic_fetch_add(&vcpu->fired, 1);
	return 0;
}

static void sooner(void *ctx, uint64_t wait_ns)
{
	struct test *test = ctx;
	uint64_t one = 1;

	(void)wait_ns;
	(void)!write(test->event_fd, &one, sizeof(one));
}

static void *timer_thread(void *argument)
{
	struct test *test = argument;
	uint64_t wait_ns, times;

	while (!atomic_load(&test->quit)) {
		struct pollfd waited = { .fd = test->event_fd, .events = POLLIN };
		struct timespec wait;

		pvclock_kvm_fire_deadlines(test->kvm, &wait_ns);
		wait = (struct timespec){ .tv_sec = (time_t)(wait_ns / 1000000000), .tv_nsec = (long)(wait_ns % 1000000000) };
		if (ppoll(&waited, 1, wait_ns == UINT64_MAX ? NULL : &wait, NULL) > 0)
			(void)!read(test->event_fd, &times, sizeof(times));
	}
	return NULL;
}

/* --- the guest --------------------------------------------------------------------------------------- */

static void write_msr(struct vcpu *vcpu, struct kvm_run *run, uint32_t msr, uint64_t value)
{
	run->exit_reason = KVM_EXIT_X86_WRMSR;
	run->msr.reason = KVM_MSR_EXIT_REASON_FILTER;
	run->msr.index = msr;
	run->msr.data = value;
	if (pvclock_kvm_handle_exit(vcpu->test->kvm, vcpu->clock, run) != 1 || run->msr.error)
		atomic_store(&vcpu->test->failed, true);
}

/* Leaves guest mode while the VM is held. */
static void gate(struct vcpu *vcpu)
{
	for (;;) {
		atomic_store(&vcpu->inside, true);
		if (!atomic_load(&vcpu->test->hold))
			return;
		atomic_store(&vcpu->inside, false);
		while (atomic_load(&vcpu->test->hold))
			usleep(10);
	}
}

static bool wait_fired(struct vcpu *vcpu, unsigned int before)
{
	for (unsigned int tries = 0; atomic_load(&vcpu->fired) == before; tries++) {
		if (tries > LOST_TRIES)
			return false;
		atomic_store(&vcpu->inside, false); /* it halts */
		usleep(tries < 1000 ? 5 : 100);
		gate(vcpu);
	}
	return true;
}

static void *vcpu_thread(void *argument)
{
	struct vcpu *vcpu = argument;
	struct kvm_run *run = calloc(1, sizeof(*run));
	uint64_t random = vcpu->index + 1;

	gate(vcpu);
	write_msr(vcpu, run, PVCLOCK_MSR_DEADLINE_CONTROL, PVCLOCK_CONTROL_ENABLE | (VECTOR + vcpu->index));
	for (; vcpu->asked < vcpu->test->rounds && !atomic_load(&vcpu->test->failed); vcpu->asked++) {
		unsigned int before = atomic_load(&vcpu->fired);
		uint64_t ns;

		gate(vcpu);
		random = random * 6364136223846793005ull + 1442695040888963407ull;
		ns = now_of(vcpu) + (random >> 40) % FAR_NS - 500;
		atomic_store(&vcpu->armed, ns);
		write_msr(vcpu, run, PVCLOCK_MSR_DEADLINE, ns);
		if (random >> 62 == 0) {
			uint64_t wait_ns;

			write_msr(vcpu, run, PVCLOCK_MSR_DEADLINE, 0);
			pvclock_kvm_fire_deadlines(vcpu->test->kvm, &wait_ns); /* what was on its way has come ... */
			sooner(vcpu->test, wait_ns); /* ... and who waits has to ask anew, since this thread was told how long, and does not */
			atomic_store(&vcpu->armed, 0);
			vcpu->back += atomic_load(&vcpu->fired) == before;
		} else if (!wait_fired(vcpu, before)) {
			fprintf(stderr, "vCPU %u: a deadline is lost\n", vcpu->index);
			atomic_store(&vcpu->test->failed, true);
		}
	}
	atomic_store(&vcpu->inside, false);
	free(run);
	return NULL;
}

/* --- the VMM ------------------------------------------------------------------------------------------ */

static void hold(struct test *test)
{
	atomic_store(&test->hold, true);
	for (unsigned int i = 0; i < VCPUS; i++)
		while (atomic_load(&test->vcpus[i].inside))
			usleep(1);
}

static void one_pause(struct test *test)
{
	hold(test);
	if (pvclock_kvm_pause(test->kvm))
		atomic_store(&test->failed, true);
	atomic_store(&test->paused, true);
	usleep(50);
	atomic_store(&test->paused, false);
	if (pvclock_kvm_resume(test->kvm, NULL, NULL))
		atomic_store(&test->failed, true);
	atomic_store(&test->hold, false);
}

/* It arms, and is gone before, or just when, its time comes. */
static void come_and_go(struct test *test)
{
	struct pvclock_vcpu *vcpu;
	uint64_t now = 0;

	if (pvclock_vcpu_create(test->vm, VCPUS, &vcpu) || pvclock_kvm_add_vcpu(test->kvm, vcpu, 100)) {
		atomic_store(&test->failed, true);
		return;
	}
	pvclock_vm_now(test->vm, &now);
	pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_DEADLINE_CONTROL, PVCLOCK_CONTROL_ENABLE | 0x99);
	pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_DEADLINE, now + 40000);
	usleep(20);
	pvclock_kvm_remove_vcpu(test->kvm, vcpu);
	pvclock_vcpu_destroy(vcpu);
}

static bool running(const struct test *test)
{
	for (unsigned int i = 0; i < VCPUS; i++)
		if (atomic_load(&test->vcpus[i].fired) + 1 < test->rounds / 2)
			return !atomic_load(&test->failed);
	return false;
}

int main(void)
{
	const char *rounds = getenv("PVCLOCK_ROUNDS");
	struct pvclock_os_ops ops = *pvclock_os_linux()->ops;
	struct test test = { .rounds = rounds ? (unsigned int)atoi(rounds) : ROUNDS_USUAL };
	struct pvclock_kvm_config config = { .vm_fd = -1, .mode = PVCLOCK_MODE_OWN, .interrupt = interrupt, .interrupt_ctx = &test,
					     .sooner = sooner, .sooner_ctx = &test };
	struct pvclock_slope host;
	pthread_t timer;
	unsigned int pauses = 0, wrong;

	ops.ioctl = fake_ioctl;
	test.os.ops = &ops;
	test.event_fd = eventfd(0, EFD_NONBLOCK);
	config.os = &test.os;
	pvclock_slope_from_khz(2600000, &host);
	if (pvclock_vm_create(&test.os, &test.vm))
		return 1;
	config.vm = test.vm;
	pvclock_vm_offer(test.vm, PVCLOCK_FEATURE_DEADLINE);
	if (pvclock_kvm_attach(&config, &test.kvm, NULL))
		return 1;
	for (uint32_t i = 0; i < VCPUS; i++) {
		test.vcpus[i].test = &test;
		test.vcpus[i].index = i;
		if (pvclock_vcpu_create(test.vm, i, &test.vcpus[i].clock) || pvclock_kvm_add_vcpu(test.kvm, test.vcpus[i].clock, 10 + (int)i))
			return 1;
	}
	if (pvclock_kvm_start(test.kvm, &host) || pthread_create(&timer, NULL, timer_thread, &test))
		return 1;
	for (unsigned int i = 0; i < VCPUS; i++)
		if (pthread_create(&test.vcpus[i].thread, NULL, vcpu_thread, &test.vcpus[i]))
			return 1;
	for (; running(&test); pauses++) {
		one_pause(&test);
		come_and_go(&test);
		usleep(300);
	}
	for (unsigned int i = 0; i < VCPUS; i++)
		pthread_join(test.vcpus[i].thread, NULL);
	atomic_store(&test.quit, true);
	sooner(&test, 0);
	pthread_join(timer, NULL);
	wrong = test.early + test.unasked + test.while_paused;
	for (unsigned int i = 0; i < VCPUS; i++) {
		const struct vcpu *vcpu = &test.vcpus[i];

		printf("vCPU %u: %u armed, %u taken back, %u fired\n", i, vcpu->asked, vcpu->back, vcpu->fired);
		wrong += vcpu->asked != vcpu->back + vcpu->fired;
		pvclock_kvm_remove_vcpu(test.kvm, vcpu->clock);
		pvclock_vcpu_destroy(vcpu->clock);
	}
	printf("%u pauses; early: %u; not asked for: %u; while paused: %u\n", pauses, test.early, test.unasked, test.while_paused);
	pvclock_kvm_detach(test.kvm);
	pvclock_vm_destroy(test.vm);
	close(test.event_fd);
	return wrong || test.failed || pauses == 0;
}
