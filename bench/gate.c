/* SPDX-License-Identifier: MIT */
/*
 * gate.c (bench) - the preload's own part of an exit: from the descriptor to the vCPU, through the gate, a KVM_RUN that
 * comes back at once, and the look at its exit. Its rooms are compiled in here as they are; what they call of the
 * others does nothing.
 */
#include "gate.h"

#include "../tools/preload/preload.h"

#define CALLS 20000
#define RUNS 201
#define FD 100
/* One of them is whether the host has slept. A system call is 3 and more. */
static const struct limit limit = { 2.2, 4.0 };

_Thread_local unsigned int passing;

int kernel_ioctl(int fd, unsigned long request, void *arg)
{
	(void)request;
	(void)arg;
	return fd < 0;
}

void vm_go_on(struct vm *vm)
{
	(void)vm;
}

void vm_pause(struct vm *vm)
{
	(void)vm;
}

void vcpu_note_acknowledged(struct vcpu *vcpu)
{
	(void)vcpu;
}

void say(const char *format, ...)
{
	(void)format;
}

/* What KVM answers to a VM that attaches, and how it is entered. */
static int agree(void *ctx, int fd, unsigned long request, void *arg)
{
	(void)ctx;
	(void)fd;
	(void)request;
	(void)arg;
	return 1;
}

static int enter(void *ctx, int vcpu_fd, bool (*may)(void *arg), void *arg)
{
	(void)ctx;
	return may(arg) ? vcpu_fd < 0 : -1;
}

static double tsc(void)
{
	double began = bench_ticks();
	uint64_t sum = 0;

	for (unsigned int i = 0; i < CALLS; i++)
		sum += pvclock_read_tsc().ticks;
	bench_use(sum);
	return (bench_ticks() - began) / CALLS;
}

static double gate(void)
{
	double began = bench_ticks();
	uint64_t sum = 0;

	for (unsigned int i = 0; i < CALLS; i++) {
		struct object *object = object_find(FD);

		sum += (uint64_t)vcpu_run((struct vcpu *)object, NULL);
	}
	bench_use(sum);
	return (bench_ticks() - began) / CALLS;
}

void bench_gate(struct bench *bench)
{
	static double tsc_samples[RUNS], gate_samples[RUNS];
	static struct kvm_run run = { .exit_reason = KVM_EXIT_IO };
	struct vm vm = { .lock = PTHREAD_MUTEX_INITIALIZER };
	struct vcpu vcpu = { .object = { OBJECT_VCPU, FD, 0 }, .vm = &vm, .run = &run };
	struct pvclock_os_ops ops = *pvclock_os_linux()->ops;
	struct pvclock_os os = { .ops = &ops };
	struct pvclock_kvm_config config = { .os = &os, .mode = PVCLOCK_MODE_STEER };
	double tsc_median, gate_median;

	ops.ioctl = agree;
	ops.enter = enter;
	vcpu.clock = (struct pvclock_vcpu *)&vcpu; /* not looked into by an exit that is not the clock's */
	if (pvclock_vm_create(&os, &vm.clock) || (config.vm = vm.clock, pvclock_kvm_attach(&config, &vm.kvm, NULL))) {
		bench_skip(bench, "preload_gate_per_ordered_tsc", limit, "no memory");
		return;
	}
	if (!object_add(&vcpu.object)) {
		bench_skip(bench, "preload_gate_per_ordered_tsc", limit, "no memory");
		return;
	}
	for (unsigned int i = 0; i < RUNS; i++) {
		tsc_samples[i] = tsc();
		gate_samples[i] = gate();
	}
	tsc_median = bench_median(tsc_samples, RUNS);
	gate_median = bench_median(gate_samples, RUNS);
	bench_figure(bench, "preload_gate_per_ordered_tsc", gate_median / tsc_median, limit, "%.1f to %.1f ticks", gate_median, tsc_median);
	object_remove(FD);
	pvclock_kvm_detach(vm.kvm);
	pvclock_vm_destroy(vm.clock);
}
