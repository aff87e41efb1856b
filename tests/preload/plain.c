/* SPDX-License-Identifier: MIT */
#include "plain.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Real-mode code, and the vector of #GP in the table at 0. What WRMSR and RDMSR need is in the registers already. */
#define VECTOR_GP (13 * 4)
#define STACK_GPA 0x3000u
static const struct {
	uint16_t gpa;
	uint8_t bytes[8], length;
} code[] = {
	{ 0x1000, { 0x0f, 0x30, 0xf4 }, 3 }, /* wrmsr; hlt */
	{ 0x1010, { 0x0f, 0x32, 0xf4 }, 3 }, /* rdmsr; hlt */
	{ 0x1020, { 0x0f, 0x31, 0xf4 }, 3 }, /* rdtsc; hlt */
	{ 0x1030, { 0xeb, 0xfe }, 2 },       /* jmp to itself */
	{ 0x1040, { 0xb3, 0x01, 0xf4 }, 3 }, /* #GP: mov $1, %bl; hlt */
};

__attribute__((format(printf, 1, 2), noreturn)) static void give_up(const char *format, ...)
{
	int error = errno;
	va_list list;

	printf("not ok - ");
	va_start(list, format);
	vprintf(format, list);
	va_end(list);
	printf(": %s\n", strerror(error));
	exit(1);
}

int plain_ioctl(int fd, unsigned int request, void *arg)
{
	return ioctl(fd, (unsigned long)(long)(int)request, arg);
}

int kernel_only(int fd, unsigned long request, void *arg)
{
	return (int)syscall(SYS_ioctl, fd, request, arg);
}

static int must(int result, const char *what)
{
	if (result < 0)
		give_up("%s", what);
	return result;
}

void plain_memory(struct plain *plain, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, void *host)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)host };

	must(plain_ioctl(plain->vm_fd, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

void plain_create(struct plain *plain)
{
	void *memory = mmap(NULL, PLAIN_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const uint16_t vector[2] = { 0x1040, 0 };

	memset(plain, 0, sizeof(*plain));
	for (unsigned int i = 0; i < PLAIN_VCPUS; i++)
		plain->vcpus[i].fd = -1;
	if (memory == MAP_FAILED)
		give_up("guest memory");
	plain->memory = memory;
	plain->kvm_fd = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	plain->vm_fd = must(plain_ioctl(plain->kvm_fd, KVM_CREATE_VM, NULL), "KVM_CREATE_VM");
	for (size_t i = 0; i < sizeof(code) / sizeof(code[0]); i++)
		memcpy(plain->memory + code[i].gpa, code[i].bytes, code[i].length);
	memcpy(plain->memory + VECTOR_GP, vector, sizeof(vector));
	plain_memory(plain, 0, 0, 0, PLAIN_MEMORY, memory);
}

void plain_add_vcpu(struct plain *plain, unsigned int vcpu)
{
	int size = must(plain_ioctl(plain->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL), "KVM_GET_VCPU_MMAP_SIZE");
	struct kvm_sregs sregs;
	void *run;

	plain->vcpus[vcpu].fd = must(plain_ioctl(plain->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)vcpu), "KVM_CREATE_VCPU");
	run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, plain->vcpus[vcpu].fd, 0);
	if (run == MAP_FAILED)
		give_up("mapping vCPU %u", vcpu);
	plain->vcpus[vcpu].run = run;
	must(plain_ioctl(plain->vcpus[vcpu].fd, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	must(plain_ioctl(plain->vcpus[vcpu].fd, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
}

void plain_start(struct plain *plain, unsigned int vcpus)
{
	plain_create(plain);
	for (unsigned int i = 0; i < vcpus; i++)
		plain_add_vcpu(plain, i);
	plain_go_on(plain, 0); /* QEMU gives a new VM a clock of 0 */
}

void plain_destroy(struct plain *plain)
{
	int size = plain_ioctl(plain->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);

	for (unsigned int i = 0; i < PLAIN_VCPUS; i++) {
		if (plain->vcpus[i].run)
			munmap(plain->vcpus[i].run, (size_t)size);
		if (plain->vcpus[i].fd >= 0)
			close(plain->vcpus[i].fd);
	}
	if (plain->vm_fd >= 0)
		close(plain->vm_fd);
	close(plain->kvm_fd);
	munmap(plain->memory, PLAIN_MEMORY);
}

/* --- the guest ----------------------------------------------------------------------------------- */

uint32_t plain_run(struct plain *plain, unsigned int vcpu)
{
	int result;

	do
		result = plain_ioctl(plain->vcpus[vcpu].fd, KVM_RUN, NULL);
	while (result < 0 && errno == EINTR);
	must(result, "KVM_RUN");
	return plain->vcpus[vcpu].run->exit_reason;
}

static void aim(struct plain *plain, unsigned int vcpu, struct kvm_regs *regs)
{
	regs->rflags = 2;
	regs->rsp = STACK_GPA + 0x800 - 0x100 * vcpu;
	must(plain_ioctl(plain->vcpus[vcpu].fd, KVM_SET_REGS, regs), "KVM_SET_REGS");
}

/* Runs a piece of code to its halt, and answers for MSRs as a VMM does that asked for them. */
static void call(struct plain *plain, unsigned int vcpu, struct kvm_regs *regs)
{
	struct kvm_run *run = plain->vcpus[vcpu].run;
	uint32_t reason;

	aim(plain, vcpu, regs);
	while ((reason = plain_run(plain, vcpu)) == KVM_EXIT_X86_RDMSR || reason == KVM_EXIT_X86_WRMSR) {
		plain->msr_exits++;
		plain->msr_exit = run->msr.index;
		if (reason == KVM_EXIT_X86_RDMSR)
			run->msr.data = plain->msr_answer;
		run->msr.error = 0;
	}
	errno = 0;
	if (reason != KVM_EXIT_HLT)
		give_up("vCPU %u left guest mode for reason %u at %#llx", vcpu, reason, regs->rip);
	must(plain_ioctl(plain->vcpus[vcpu].fd, KVM_GET_REGS, regs), "KVM_GET_REGS");
}

static uint64_t low_and_high(const struct kvm_regs *regs)
{
	return (regs->rax & UINT32_MAX) | regs->rdx << 32;
}

bool plain_wrmsr(struct plain *plain, unsigned int vcpu, uint32_t msr, uint64_t value)
{
	struct kvm_regs regs = { .rip = code[0].gpa, .rcx = msr, .rax = (uint32_t)value, .rdx = value >> 32 };

	call(plain, vcpu, &regs);
	return (regs.rbx & 1) == 0;
}

bool plain_rdmsr(struct plain *plain, unsigned int vcpu, uint32_t msr, uint64_t *value)
{
	struct kvm_regs regs = { .rip = code[1].gpa, .rcx = msr };

	call(plain, vcpu, &regs);
	*value = low_and_high(&regs);
	return (regs.rbx & 1) == 0;
}

uint64_t plain_rdtsc(struct plain *plain, unsigned int vcpu)
{
	struct kvm_regs regs = { .rip = code[2].gpa };

	call(plain, vcpu, &regs);
	return low_and_high(&regs);
}

void plain_aim_spin(struct plain *plain, unsigned int vcpu)
{
	struct kvm_regs regs = { .rip = code[3].gpa };

	aim(plain, vcpu, &regs);
}

/* --- MSRs and the clock, from outside ------------------------------------------------------------------ */

uint64_t plain_get_msr(struct plain *plain, unsigned int vcpu, uint32_t msr)
{
	struct plain_msrs msrs = { .head.nmsrs = 1, .entries = { { .index = msr } } };

	if (plain_ioctl(plain->vcpus[vcpu].fd, KVM_GET_MSRS, &msrs) != 1)
		give_up("KVM_GET_MSRS of MSR %#x", msr);
	return msrs.entries[0].data;
}

void plain_set_msr(struct plain *plain, unsigned int vcpu, uint32_t msr, uint64_t value)
{
	struct plain_msrs msrs = { .head.nmsrs = 1, .entries = { { .index = msr, .data = value } } };

	if (plain_ioctl(plain->vcpus[vcpu].fd, KVM_SET_MSRS, &msrs) != 1)
		give_up("KVM_SET_MSRS of MSR %#x", msr);
}

void plain_stop(struct plain *plain, struct plain_stop *stop)
{
	memset(stop, 0, sizeof(*stop));
	for (unsigned int i = 0; i < PLAIN_VCPUS; i++)
		if (plain->vcpus[i].fd >= 0)
			stop->tsc[i] = plain_get_msr(plain, i, 0x10);
	must(plain_ioctl(plain->vm_fd, KVM_GET_CLOCK, &stop->clock), "KVM_GET_CLOCK");
}

void plain_go_on(struct plain *plain, uint64_t clock)
{
	struct kvm_clock_data data = { .clock = clock };

	must(plain_ioctl(plain->vm_fd, KVM_SET_CLOCK, &data), "KVM_SET_CLOCK");
	for (unsigned int i = 0; i < PLAIN_VCPUS; i++)
		if (plain->vcpus[i].fd >= 0)
			plain_ioctl(plain->vcpus[i].fd, KVM_KVMCLOCK_CTRL, NULL); /* refused for one without a page */
}

struct pvclock_snapshot plain_page(const struct plain *plain, unsigned int vcpu)
{
	struct pvclock_snapshot snapshot = { 0 };

	if (pvclock_page_read(plain->memory + PLAIN_PAGE(vcpu), &snapshot) != PVCLOCK_READ_OK)
		snapshot.line.mul = 0;
	return snapshot;
}
