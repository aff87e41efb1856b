/* SPDX-License-Identifier: MIT */
/*
 * restore.c - the clock's own part of a blackout: save and encode on one side, decode, restore and resume on the other.
 * Two vCPUs on a real KVM, beside what a VMM without the library asks of KVM for a clock that is nearly right, in
 * turns; and on a KVM made of memory, that it is linear in the number of vCPUs up to more than a machine runs.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <pvclock/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define FEW 16
#define MANY 1024
#define RUNS 51
#define MSR_TSC 0x10u
#define TICKS_PER_MS 2600000u /* the made-up host's */
#define FIRST_FD 1000
#define PAGE_STRIDE 64u
#define REAL "clock_blackout_per_stock_2_vcpus"
#define LINEAR "clock_blackout_1024_per_16_vcpus"

/* Stock's calls change what there is; ours read each back as well, and write TSC offsets and deadlines. */
static const struct limit real_limit = { 6.0, 12.0 }, linear_limit = { 2.0, 2.0 };

/* --- a KVM made of memory ---------------------------------------------------------------------- */

struct memory_vcpu {
	uint64_t offset, deadline, adjust, system_time;
};

static uint64_t *msr_place(struct memory_vcpu *vcpu, uint32_t msr)
{
	switch (msr) {
	case 0x3b: return &vcpu->adjust;
	case 0x6e0: return &vcpu->deadline;
	case PVCLOCK_MSR_SYSTEM_TIME: return &vcpu->system_time;
	default: return NULL;
	}
}

static int memory_vcpu_ioctl(struct memory_vcpu *vcpu, unsigned long request, void *arg)
{
	struct kvm_device_attr *attribute = arg;
	struct { uint32_t count, pad; struct kvm_msr_entry entry; } *one = arg;
	uint64_t *place;

	switch (request) {
	case KVM_GET_TSC_KHZ: return TICKS_PER_MS;
	case KVM_GET_DEVICE_ATTR:
		*(uint64_t *)(uintptr_t)attribute->addr = vcpu->offset;
		return 0;
	case KVM_SET_DEVICE_ATTR:
		vcpu->offset = *(uint64_t *)(uintptr_t)attribute->addr;
		return 0;
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		place = msr_place(vcpu, one->entry.index);
		if (!place)
			return 0;
		if (request == KVM_GET_MSRS)
			one->entry.data = *place;
		else
			*place = one->entry.data;
		return 1;
	default: return 0;
	}
}

static int memory_ioctl(void *ctx, int fd, unsigned long request, void *arg)
{
	struct memory_vcpu *vcpus = ctx;

	if (fd >= FIRST_FD)
		return memory_vcpu_ioctl(&vcpus[fd - FIRST_FD], request, arg);
	if (request == KVM_CHECK_EXTENSION)
		return (uintptr_t)arg == KVM_CAP_X86_USER_SPACE_MSR || (uintptr_t)arg == KVM_CAP_X86_MSR_FILTER;
	return request == KVM_GET_TSC_KHZ ? (int)TICKS_PER_MS : 0;
}

/* --- a VM ---------------------------------------------------------------------------------------- */

struct side {
	struct pvclock_os_ops ops;
	struct pvclock_os os;
	struct memory_vcpu *made;   /* of memory; NULL: a real KVM's */
	int vm_fd;
	unsigned int count;
	int *fds;
	struct pvclock_vm *vm;
	struct pvclock_kvm *kvm;
	struct pvclock_vcpu **vcpus;
	uint8_t *memory;
};

static void side_close(struct side *side)
{
	pvclock_kvm_detach(side->kvm);
	for (unsigned int i = 0; i < side->count; i++) {
		if (side->vcpus && side->vcpus[i])
			pvclock_vcpu_destroy(side->vcpus[i]);
		if (!side->made && side->fds && side->fds[i] > 0)
			close(side->fds[i]);
	}
	pvclock_vm_destroy(side->vm);
	if (!side->made && side->vm_fd >= 0)
		close(side->vm_fd);
	free(side->made);
	free(side->fds);
	free(side->vcpus);
	free(side->memory);
}

/* kvm_fd < 0: of memory. */
static bool side_open(struct side *side, int kvm_fd, unsigned int count)
{
	struct pvclock_kvm_config config = { .mode = PVCLOCK_MODE_OWN };
	size_t size = ((size_t)count * PAGE_STRIDE + 4095) & ~(size_t)4095;

	*side = (struct side){ .ops = *pvclock_os_linux()->ops, .count = count, .vm_fd = 3 };
	side->os = (struct pvclock_os){ &side->ops, NULL };
	side->fds = calloc(count, sizeof(*side->fds));
	side->vcpus = calloc(count, sizeof(struct pvclock_vcpu *));
	side->memory = aligned_alloc(4096, size);
	if (!side->fds || !side->vcpus || !side->memory)
		return false;
	if (kvm_fd < 0) {
		side->made = calloc(count, sizeof(*side->made));
		side->ops.ioctl = memory_ioctl;
		side->os.ctx = side->made;
		if (!side->made)
			return false;
	} else {
		side->vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	}
	if (side->vm_fd < 0 || pvclock_vm_create(&side->os, &side->vm) != 0 ||
	    pvclock_vm_add_memory(side->vm, (struct pvclock_gpa){ 0 }, size, side->memory, 0) != 0)
		return false;
	config.os = &side->os;
	config.vm = side->vm;
	config.vm_fd = side->vm_fd;
	if (pvclock_kvm_attach(&config, &side->kvm, NULL) != 0)
		return false;
	for (unsigned int i = 0; i < count; i++) {
		side->fds[i] = side->made ? FIRST_FD + (int)i : ioctl(side->vm_fd, KVM_CREATE_VCPU, i);
		if (side->fds[i] < 0 || pvclock_vcpu_create(side->vm, i, &side->vcpus[i]) != 0 ||
		    pvclock_kvm_add_vcpu(side->kvm, side->vcpus[i], side->fds[i]) != 0)
			return false;
	}
	return true;
}

/* The one that runs: a clock, and a page for each vCPU. */
static bool side_start(struct side *side, const struct pvclock_slope *host)
{
	if (pvclock_kvm_start(side->kvm, host) != 0)
		return false;
	for (unsigned int i = 0; i < side->count; i++)
		if (pvclock_vcpu_write_msr(side->vcpus[i], PVCLOCK_MSR_SYSTEM_TIME, (uint64_t)i * PAGE_STRIDE | PVCLOCK_MSR_ENABLE))
			return false;
	return true;
}

/* --- the blackout ---------------------------------------------------------------------------------- */

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

/* From one to the other, in us: what lies between the pause and the first entry, without the pause of the vCPUs themselves. */
static bool hand_over(struct side *from, struct side *to, uint8_t *bytes, size_t size, double *us)
{
	struct pvclock_record record, arrived;
	struct pvclock_reason reason;
	double began = now_us();
	ssize_t length;
	bool fine;

	if (pvclock_kvm_pause(from->kvm) != 0 || pvclock_kvm_save(from->kvm, &record) != 0)
		return false;
	length = pvclock_record_encode(&record, bytes, size, &reason);
	if (length < 0 || pvclock_record_decode(bytes, (size_t)length, &arrived, &reason) != 0) {
		pvclock_record_clear(&record);
		return false;
	}
	fine = pvclock_kvm_restore(to->kvm, &arrived, PVCLOCK_BLACKOUT_LIVE_UPDATE, NULL, NULL, &reason) == 0 &&
	       pvclock_kvm_resume(to->kvm, NULL, &reason) == 0;
	*us = now_us() - began;
	pvclock_record_clear(&record);
	pvclock_record_clear(&arrived);
	return fine;
}

/* As QEMU does at a stop and at the start on the other side: KVM's clock, and each vCPU's TSC and clock MSRs. */
static bool stock_hand_over(struct side *from, struct side *to, double *us)
{
	static const uint32_t indices[] = { MSR_TSC, PVCLOCK_MSR_SYSTEM_TIME, PVCLOCK_MSR_WALL_CLOCK };
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[sizeof(indices) / sizeof(*indices)];
	} msrs[FEW] = { 0 };
	struct kvm_clock_data clock;
	double began = now_us();
	bool fine = ioctl(from->vm_fd, KVM_GET_CLOCK, &clock) == 0;

	for (unsigned int i = 0; i < from->count; i++) {
		msrs[i].head.nmsrs = sizeof(indices) / sizeof(*indices);
		for (unsigned int k = 0; k < msrs[i].head.nmsrs; k++)
			msrs[i].entries[k].index = indices[k];
		fine = fine && ioctl(from->fds[i], KVM_GET_MSRS, &msrs[i]) == (int)msrs[i].head.nmsrs;
	}
	for (unsigned int i = 0; i < to->count; i++)
		fine = fine && ioctl(to->fds[i], KVM_SET_MSRS, &msrs[i]) == (int)msrs[i].head.nmsrs;
	clock.flags = 0;
	fine = fine && ioctl(to->vm_fd, KVM_SET_CLOCK, &clock) == 0;
	*us = now_us() - began;
	return fine;
}

/* On the real KVM: each pair of sides does both, ours first. */
static bool measure(int kvm_fd, unsigned int count, double *median, double *stock)
{
	size_t size = 4096 + (size_t)count * 256;
	uint8_t *bytes = malloc(size);
	struct pvclock_slope host;
	double us[RUNS], stock_us[RUNS] = { 0 };
	bool fine = bytes != NULL && pvclock_slope_from_khz(TICKS_PER_MS, &host);

	for (unsigned int i = 0; fine && i < RUNS; i++) {
		struct side from, to;

		fine = side_open(&from, kvm_fd, count) && side_start(&from, &host);
		fine = side_open(&to, kvm_fd, count) && fine && hand_over(&from, &to, bytes, size, &us[i]);
		fine = fine && (kvm_fd < 0 || stock_hand_over(&from, &to, &stock_us[i]));
		side_close(&to);
		side_close(&from);
	}
	free(bytes);
	*median = fine ? bench_median(us, RUNS) : 0;
	*stock = fine ? bench_median(stock_us, RUNS) : 0;
	return fine;
}

void bench_restore(struct bench *bench)
{
	int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	double real = 0, stock = 0, few = 0, many = 0;

	if (kvm_fd < 0)
		bench_skip(bench, REAL, real_limit, "/dev/kvm: %s", strerror(errno));
	else if (!measure(kvm_fd, 2, &real, &stock))
		bench_skip(bench, REAL, real_limit, "this KVM has no own mode");
	else
		bench_figure(bench, REAL, real / stock, real_limit, "%.1f to %.1f us, medians of %d: save, encode, decode, restore, resume", real,
			     stock, RUNS);
	if (kvm_fd >= 0)
		close(kvm_fd);
	if (!measure(-1, FEW, &few, &stock) || !measure(-1, MANY, &many, &stock))
		bench_figure(bench, LINEAR, 1e9, linear_limit, "the made-up machines do not work");
	else
		bench_figure(bench, LINEAR, (many / MANY) / (few / FEW), linear_limit,
			     "%.3f to %.3f us a vCPU; %.0f us for %d", many / MANY, few / FEW, many, MANY);
}
