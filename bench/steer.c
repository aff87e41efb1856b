/* SPDX-License-Identifier: MIT */
/*
 * steer.c - how long a blackout lasts because the kernel's clock has to be aimed (steer mode), on a real KVM. In units
 * of one pair of KVM_GET_CLOCK and KVM_SET_CLOCK, which is what a VMM does at an event without the library: on a VM
 * beside it, in turns.
 *
 * The guest registers its page and halts, again and again: KVM has a master clock only once a vCPU ran.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <pvclock/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 201
#define VCPUS_MAX 2
#define MEMORY_SIZE 0x10000u
#define CODE_GPA 0x1000u
#define PAGES_GPA 0x2000u

/* 16-bit: wrmsr; 1: hlt; jmp 1b. What is written comes in ecx, edx:eax. */
/* Aiming tries until it is within 1 ns: that takes as many pairs as one over the chance of a hit. It gives up after 16,384. */
static const struct limit limit = { 150, 1000 };

static const uint8_t code[] = { 0x0f, 0x30, 0xf4, 0xeb, 0xfd };

struct machine {
	int kvm_fd, vm_fd;
	void *memory;
	struct pvclock_vm *vm;
	struct pvclock_kvm *kvm;
	unsigned int count;
	struct {
		int fd;
		struct kvm_run *run;
		struct pvclock_vcpu *vcpu;
	} vcpus[VCPUS_MAX];
	size_t run_size;
};

static void machine_destroy(struct machine *machine)
{
	pvclock_kvm_detach(machine->kvm);
	for (unsigned int i = 0; i < VCPUS_MAX; i++) {
		if (machine->vcpus[i].vcpu)
			pvclock_vcpu_destroy(machine->vcpus[i].vcpu);
		if (machine->vcpus[i].run)
			munmap(machine->vcpus[i].run, machine->run_size);
		if (machine->vcpus[i].fd >= 0)
			close(machine->vcpus[i].fd);
	}
	if (machine->vm)
		pvclock_vm_destroy(machine->vm);
	if (machine->memory)
		munmap(machine->memory, MEMORY_SIZE);
	if (machine->vm_fd >= 0)
		close(machine->vm_fd);
	if (machine->kvm_fd >= 0)
		close(machine->kvm_fd);
}

static const char *vcpu_create(struct machine *machine, unsigned int i)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = {
		.rip = CODE_GPA,
		.rflags = 2,
		.rax = (PAGES_GPA + 64 * i) | PVCLOCK_MSR_ENABLE,
		.rcx = PVCLOCK_MSR_SYSTEM_TIME,
	};
	void *run;

	machine->vcpus[i].fd = ioctl(machine->vm_fd, KVM_CREATE_VCPU, i);
	if (machine->vcpus[i].fd < 0)
		return "KVM_CREATE_VCPU";
	run = mmap(NULL, machine->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, machine->vcpus[i].fd, 0);
	if (run == MAP_FAILED)
		return "mapping a vCPU";
	machine->vcpus[i].run = run;
	if (ioctl(machine->vcpus[i].fd, KVM_GET_SREGS, &sregs) < 0)
		return "KVM_GET_SREGS";
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(machine->vcpus[i].fd, KVM_SET_SREGS, &sregs) < 0 ||
	    ioctl(machine->vcpus[i].fd, KVM_SET_REGS, &regs) < 0)
		return "setting a vCPU's registers";
	if (pvclock_vcpu_create(machine->vm, i, &machine->vcpus[i].vcpu) != 0 ||
	    pvclock_kvm_add_vcpu(machine->kvm, machine->vcpus[i].vcpu, machine->vcpus[i].fd) != 0)
		return "adding a vCPU to the engine";
	return NULL;
}

/* NULL, or what this machine would not do; *reason may say why. */
static const char *machine_create(struct machine *machine, unsigned int count, struct pvclock_reason *reason)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY_SIZE };
	struct pvclock_kvm_config config = { .os = pvclock_os_linux(), .mode = PVCLOCK_MODE_STEER };
	struct pvclock_slope slope;
	const char *failed;
	void *memory;
	int size, khz;

	memset(machine, 0, sizeof(*machine));
	machine->kvm_fd = machine->vm_fd = -1;
	for (unsigned int i = 0; i < VCPUS_MAX; i++)
		machine->vcpus[i].fd = -1;
	machine->count = count;
	machine->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (machine->kvm_fd < 0)
		return "opening /dev/kvm";
	machine->vm_fd = ioctl(machine->kvm_fd, KVM_CREATE_VM, 0);
	size = ioctl(machine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (machine->vm_fd < 0 || size <= 0)
		return "KVM_CREATE_VM";
	machine->run_size = (size_t)size;
	memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return "mapping memory";
	machine->memory = memory;
	memcpy((uint8_t *)memory + CODE_GPA, code, sizeof(code));
	region.userspace_addr = (uintptr_t)memory;
	if (ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return "KVM_SET_USER_MEMORY_REGION";
	if (pvclock_vm_create(config.os, &machine->vm) != 0 ||
	    pvclock_vm_add_memory(machine->vm, (struct pvclock_gpa){ 0 }, MEMORY_SIZE, memory, 0) != 0)
		return "making the engine's VM";
	config.vm = machine->vm;
	config.vm_fd = machine->vm_fd;
	if (pvclock_kvm_attach(&config, &machine->kvm, reason) != 0)
		return "steer mode";
	for (unsigned int i = 0; i < count; i++)
		if ((failed = vcpu_create(machine, i)) != NULL)
			return failed;
	khz = ioctl(machine->vcpus[0].fd, KVM_GET_TSC_KHZ, 0);
	if (khz <= 0 || !pvclock_slope_from_khz((uint64_t)khz, &slope) || pvclock_kvm_start(machine->kvm, &slope) != 0)
		return "starting the clock";
	return NULL;
}

static const char *run_guest(struct machine *machine)
{
	for (unsigned int i = 0; i < machine->count; i++) {
		int error;

		do
			error = ioctl(machine->vcpus[i].fd, KVM_RUN, 0);
		while (error < 0 && errno == EINTR);
		if (error < 0 || machine->vcpus[i].run->exit_reason != KVM_EXIT_HLT)
			return "running a vCPU";
	}
	return NULL;
}

/* 0; or -errno of the engine, and *reason. */
static int pause_and_resume(struct machine *machine, double *us, struct pvclock_reason *reason)
{
	struct pvclock_correction correction = { 0 };
	int error = pvclock_kvm_pause(machine->kvm);

	if (error == 0)
		error = pvclock_kvm_resume(machine->kvm, &correction, reason);
	*us = (double)correction.elapsed_ns / 1000;
	return error;
}

/* What a VMM does without the library: the clock is kept to some hundred ns. */
static const char *stock_pair(struct machine *machine, double *us)
{
	struct timespec began, ended;
	struct kvm_clock_data clock;

	clock_gettime(CLOCK_MONOTONIC, &began);
	if (ioctl(machine->vm_fd, KVM_GET_CLOCK, &clock) < 0)
		return "KVM_GET_CLOCK";
	clock.flags = 0;
	if (ioctl(machine->vm_fd, KVM_SET_CLOCK, &clock) < 0)
		return "KVM_SET_CLOCK";
	clock_gettime(CLOCK_MONOTONIC, &ended);
	*us = (double)(ended.tv_sec - began.tv_sec) * 1e6 + (double)(ended.tv_nsec - began.tv_nsec) / 1e3;
	return NULL;
}

static void steer(struct bench *bench, const char *name, unsigned int count)
{
	static double samples[EVENTS], pairs[EVENTS];
	struct pvclock_reason reason = { .code = PVCLOCK_REASON_NONE };
	unsigned int missed = 0;
	struct machine machine, stock;
	const char *lacking = machine_create(&machine, count, &reason);
	const char *stock_lacking = machine_create(&stock, count, &reason);
	int error = 0;

	if (!lacking)
		lacking = stock_lacking;
	for (unsigned int i = 0; !lacking && i < EVENTS; i++) {
		if ((lacking = run_guest(&machine)) != NULL || (lacking = run_guest(&stock)) != NULL ||
		    (lacking = stock_pair(&stock, &pairs[i])) != NULL)
			break;
		error = pause_and_resume(&machine, &samples[i], &reason);
		/* -ERANGE took its time too: it stays in the median */
		if (error == -ERANGE)
			missed++;
		else if (error)
			lacking = "steering";
	}
	if (lacking) {
		bench_skip(bench, name, limit, "%s failed: %s", lacking,
			   reason.code != PVCLOCK_REASON_NONE ? reason.text : strerror(error ? -error : errno));
	} else {
		double median = bench_median(samples, EVENTS), pair = bench_median(pairs, EVENTS);

		bench_figure(bench, name, median / pair, limit, "%.1f to %.1f us, medians of %d; %.1f us at worst; %u not within 1 ns",
			     median, pair, EVENTS, samples[EVENTS - 1], missed);
	}
	machine_destroy(&stock);
	machine_destroy(&machine);
}

void bench_steer(struct bench *bench)
{
	steer(bench, "steer_per_stock_pair_1_vcpu", 1);
	steer(bench, "steer_per_stock_pair_2_vcpus", 2);
}
