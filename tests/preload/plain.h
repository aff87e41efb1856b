/* SPDX-License-Identifier: MIT */
/*
 * plain.h - a VMM that knows nothing of pvclock: KVM by its bare ioctls, in the order and with the arguments of QEMU. The tests in
 * this folder run it under the preload and look at what a guest would see.
 *
 * Guests are a few bytes of real-mode code: they do one thing and halt. There is no interrupt controller, so a halt comes back.
 */
#ifndef TESTS_PRELOAD_PLAIN_H
#define TESTS_PRELOAD_PLAIN_H

#include <linux/kvm.h>
#include <pvclock/guest.h>
#include <stdbool.h>
#include <stdint.h>

#define PLAIN_VCPUS 3
#define PLAIN_MEMORY 0x10000u        /* slot 0, from 0 */
#define PLAIN_MSRS 256               /* KVM's own limit of a list */
#define PLAIN_PAGE(vcpu) (0x4000u + 64u * (vcpu)) /* where the tests have their clock pages: a 4 KiB page of their own */

struct plain_vcpu {
	int fd; /* -1: none */
	struct kvm_run *run;
};

struct plain {
	int kvm_fd, vm_fd;
	uint8_t *memory;
	struct plain_vcpu vcpus[PLAIN_VCPUS];
	unsigned int msr_exits; /* that came to this VMM */
	uint32_t msr_exit;      /* the MSR of the last one */
	uint64_t msr_answer;    /* what it says to reads */
};

struct plain_msrs {
	struct kvm_msrs head;
	struct kvm_msr_entry entries[PLAIN_MSRS + 1];
};

/* What QEMU calls ioctl with: a request that was kept in an int. */
int plain_ioctl(int fd, unsigned int request, void *arg);
/* Past the preload. */
int kernel_only(int fd, unsigned long request, void *arg);

/* Each ends the test with a sentence if KVM will not. */
void plain_create(struct plain *plain);                       /* the VM and its memory, no vCPU */
void plain_add_vcpu(struct plain *plain, unsigned int vcpu);
void plain_start(struct plain *plain, unsigned int vcpus);    /* create, vCPUs, the reset state of each, the first clock */
void plain_destroy(struct plain *plain);
void plain_memory(struct plain *plain, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, void *host);

/* The exit reason of one KVM_RUN that was not interrupted. */
uint32_t plain_run(struct plain *plain, unsigned int vcpu);
/* What a guest does. The first two: true, or false if it took a #GP. */
bool plain_wrmsr(struct plain *plain, unsigned int vcpu, uint32_t msr, uint64_t value);
bool plain_rdmsr(struct plain *plain, unsigned int vcpu, uint32_t msr, uint64_t *value);
uint64_t plain_rdtsc(struct plain *plain, unsigned int vcpu);
/* The guest runs without an end, until plain_kick. The exit reason is not waited for. */
void plain_aim_spin(struct plain *plain, unsigned int vcpu);

uint64_t plain_get_msr(struct plain *plain, unsigned int vcpu, uint32_t msr);
void plain_set_msr(struct plain *plain, unsigned int vcpu, uint32_t msr, uint64_t value);

/* What QEMU does when it stops a VM (hw/i386/kvm/clock.c): every counter, then the clock. And when it goes on. */
struct plain_stop {
	uint64_t tsc[PLAIN_VCPUS];
	struct kvm_clock_data clock;
};

void plain_stop(struct plain *plain, struct plain_stop *stop);
void plain_go_on(struct plain *plain, uint64_t clock);

/* The page that a vCPU registered, as it stands in guest memory. */
struct pvclock_snapshot plain_page(const struct plain *plain, unsigned int vcpu);

#endif
