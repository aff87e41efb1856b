// SPDX-License-Identifier: MIT
/*
 * machine.c - the VM: one memory slot over one memfd, the kernel's interrupt controllers, vCPUs with the host's CPUID.
 */
#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MEMORY_MIN (16ull << 20) /* room for a payload above VMM_PAYLOAD_GPA */
#define MEMORY_MAX (1ull << 30)  /* far below the APICs' hole at 0xfec00000 */
#define MEMORY_STEP (2ull << 20)

/* Intel hosts without unrestricted guest mode need both, out of the way of memory and APICs (KVM api.rst 4.35, 4.42). */
#define TSS_GPA 0xfffbd000ull
#define IDENTITY_MAP_GPA 0xfffbc000ull

#define CPUID_ENTRIES_MAX 256u
#define CPUID_1_ECX_TSC_DEADLINE (1u << 24) /* Intel SDM 2A, CPUID */
#define CPUID_1_ECX_HYPERVISOR (1u << 31)   /* without it nobody looks at the leaves from 0x40000000 on */
#define KVM_LEAF_SIGNATURE 0x40000000u
#define KVM_LEAF_FEATURES 0x40000001u
#define KVM_CLOCK_FEATURES ((1u << KVM_FEATURE_BIT_OLD) | (1u << KVM_FEATURE_BIT_NEW) | (1u << KVM_FEATURE_BIT_STABLE))
#define KVM_FEATURE_BIT_OLD 0u     /* MSRs 0x11, 0x12 */
#define KVM_FEATURE_BIT_NEW 3u     /* MSRs 0x4b564d00, 0x4b564d01 */
#define KVM_FEATURE_BIT_STABLE 24u /* the page's TSC_STABLE flag means something */
#define KVM_STEAL_FEATURE (1u << 5) /* MSR 0x4b564d03 */
#define KVM_PREEMPTED_FEATURES (1u << 7 | 1u << 9) /* PV_UNHALT, PV_TLB_FLUSH: want to know who is preempted (docs/steal.md) */

int fail(struct problem *problem, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(problem->text, sizeof(problem->text), format, arguments);
	va_end(arguments);
	return -1;
}

uint64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool machine_has_range(const struct machine *machine, uint64_t gpa, uint64_t size)
{
	uint64_t end;

	return !__builtin_add_overflow(gpa, size, &end) && end <= machine->memory_size;
}

static int open_kvm(struct machine *machine, struct problem *problem)
{
	machine->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (machine->kvm_fd < 0) {
		if (errno == EACCES || errno == EPERM)
			return fail(problem, "/dev/kvm: not permitted: run as root, or join the group that owns it "
				    "(usually kvm)");
		if (errno == ENOENT || errno == ENXIO || errno == ENODEV)
			return fail(problem, "/dev/kvm: %s: load kvm-intel or kvm-amd, or enable virtualization in "
				    "the firmware (in a VM: nested virtualization)", strerror(errno));
		return fail(problem, "/dev/kvm: %s", strerror(errno));
	}
	int version = ioctl(machine->kvm_fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		return fail(problem, "/dev/kvm: speaks API version %d, not %d: not a KVM of this century", version,
			    KVM_API_VERSION);
	static const struct {
		int capability;
		const char *name;
	} needed[] = {
		{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
		{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
		{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT (Linux 4.13)" },
		{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
	};
	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		if (ioctl(machine->kvm_fd, KVM_CHECK_EXTENSION, needed[i].capability) <= 0)
			return fail(problem, "/dev/kvm: this kernel lacks %s, without which vCPUs cannot be paused "
				    "and saved exactly: use a newer kernel", needed[i].name);
	}
	int size = ioctl(machine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		return fail(problem, "/dev/kvm: KVM_GET_VCPU_MMAP_SIZE: %s", strerror(errno));
	machine->run_size = (size_t)size;
	return 0;
}

static int open_memory(struct machine *machine, const struct options *options, struct problem *problem)
{
	uint64_t size = options->memory_size;
	struct stat status;

	if (options->memory_fd >= 0) {
		machine->memory_fd = options->memory_fd;
		if (fstat(machine->memory_fd, &status) < 0)
			return fail(problem, "--memory-fd %d: %s", machine->memory_fd, strerror(errno));
		if (size == 0)
			size = (uint64_t)status.st_size;
		if (status.st_size < 0 || (uint64_t)status.st_size < size)
			return fail(problem, "--memory-fd %d: holds %lld bytes, %llu are needed: ftruncate it first",
				    machine->memory_fd, (long long)status.st_size, (unsigned long long)size);
	} else if (size == 0) {
		size = VMM_MEMORY_DEFAULT;
	}
	if (size < MEMORY_MIN || size > MEMORY_MAX || size % MEMORY_STEP != 0)
		return fail(problem, "guest memory of %llu bytes: give --memory between %llu and %llu MiB, a multiple "
			    "of 2", (unsigned long long)size, MEMORY_MIN >> 20, MEMORY_MAX >> 20);
	if (options->memory_fd < 0) {
		machine->memory_fd = memfd_create("pvclock-vmm-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		if (machine->memory_fd < 0 || ftruncate(machine->memory_fd, (off_t)size) < 0 ||
		    fcntl(machine->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
			return fail(problem, "guest memory of %llu bytes: %s", (unsigned long long)size,
				    strerror(errno));
	}
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, machine->memory_fd, 0);
	if (memory == MAP_FAILED)
		return fail(problem, "guest memory of %llu bytes: mmap: %s", (unsigned long long)size, strerror(errno));
	machine->memory = memory;
	machine->memory_size = size;
	return 0;
}

static int create_vm(struct machine *machine, struct problem *problem)
{
	machine->vm_fd = ioctl(machine->kvm_fd, KVM_CREATE_VM, 0);
	if (machine->vm_fd < 0)
		return fail(problem, "KVM_CREATE_VM: %s", strerror(errno));
	uint64_t identity_map = IDENTITY_MAP_GPA;
	if (ioctl(machine->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0 &&
	    ioctl(machine->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0)
		return fail(problem, "KVM_SET_IDENTITY_MAP_ADDR: %s", strerror(errno));
	if (ioctl(machine->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_TSS_ADDR) > 0 &&
	    ioctl(machine->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)TSS_GPA) < 0)
		return fail(problem, "KVM_SET_TSS_ADDR: %s", strerror(errno));
	if (ioctl(machine->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return fail(problem, "KVM_CREATE_IRQCHIP: %s", strerror(errno));
	struct kvm_userspace_memory_region region = {
		.slot = 0,
		.guest_phys_addr = 0,
		.memory_size = machine->memory_size,
		.userspace_addr = (uintptr_t)machine->memory,
	};
	if (ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return fail(problem, "KVM_SET_USER_MEMORY_REGION: %s", strerror(errno));
	return 0;
}

static struct kvm_cpuid_entry2 *leaf_of(struct kvm_cpuid2 *cpuid, uint32_t function)
{
	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == function)
			return &cpuid->entries[i];
	if (cpuid->nent == CPUID_ENTRIES_MAX)
		return NULL;
	struct kvm_cpuid_entry2 *entry = &cpuid->entries[cpuid->nent++];
	*entry = (struct kvm_cpuid_entry2){ .function = function };
	return entry;
}

/* What the host has, with KVM's clock announced: a guest looks for it there (msr.rst), even where the VMM provides it. */
static struct kvm_cpuid2 *supported_cpuid(struct machine *machine, struct problem *problem)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + CPUID_ENTRIES_MAX * sizeof(cpuid->entries[0]));

	if (cpuid == NULL) {
		fail(problem, "CPUID: out of memory");
		return NULL;
	}
	cpuid->nent = CPUID_ENTRIES_MAX;
	if (ioctl(machine->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0) {
		fail(problem, "KVM_GET_SUPPORTED_CPUID: %s", strerror(errno));
		free(cpuid);
		return NULL;
	}
	/* Older kernels leave this one to who made the interrupt controllers (KVM api.rst, KVM_GET_SUPPORTED_CPUID). */
	struct kvm_cpuid_entry2 *basic = leaf_of(cpuid, 1);
	if (basic != NULL && ioctl(machine->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
		basic->ecx |= CPUID_1_ECX_TSC_DEADLINE;
	if (basic != NULL)
		basic->ecx |= CPUID_1_ECX_HYPERVISOR;
	struct kvm_cpuid_entry2 *signature = leaf_of(cpuid, KVM_LEAF_SIGNATURE);
	if (signature != NULL) {
		if (signature->eax < KVM_LEAF_FEATURES)
			signature->eax = KVM_LEAF_FEATURES;
		memcpy(&signature->ebx, "KVMK", 4);
		memcpy(&signature->ecx, "VMKV", 4);
		memcpy(&signature->edx, "M\0\0\0", 4);
	}
	struct kvm_cpuid_entry2 *features = leaf_of(cpuid, KVM_LEAF_FEATURES);
	if (features != NULL)
		features->eax |= KVM_CLOCK_FEATURES;
	if (features != NULL && machine->own_steal)
		features->eax = (features->eax & ~KVM_PREEMPTED_FEATURES) | KVM_STEAL_FEATURE;
	return cpuid;
}

static int set_cpuid(struct vcpu *vcpu, struct problem *problem)
{
	struct kvm_cpuid2 *cpuid = vcpu->machine->cpuid;

	for (uint32_t i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
		if (entry->function == 1) /* initial APIC id; Intel SDM 2A, CPUID */
			entry->ebx = (entry->ebx & 0x00ffffffu) | vcpu->index << 24;
		if (entry->function == 0xb || entry->function == 0x1f)
			entry->edx = vcpu->index;
	}
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0)
		return fail(problem, "KVM_SET_CPUID2 of vCPU %u: %s", vcpu->index, strerror(errno));
	return 0;
}

int machine_add_leaves(struct machine *machine, const struct pvclock_cpuid *leaves, size_t count, struct problem *problem)
{
	struct kvm_cpuid2 *cpuid = machine->cpuid;

	for (size_t i = 0; i < count; i++) {
		struct kvm_cpuid_entry2 *entry = leaf_of(cpuid, leaves[i].leaf);
		if (entry == NULL)
			return fail(problem, "CPUID: KVM has too many leaves for one more");
		entry->eax = leaves[i].eax;
		entry->ebx = leaves[i].ebx;
		entry->ecx = leaves[i].ecx;
		entry->edx = leaves[i].edx;
	}
	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		if (set_cpuid(&machine->vcpus[i], problem) < 0)
			return -1;
	return 0;
}

static int create_vcpu(struct machine *machine, uint32_t index, struct problem *problem)
{
	struct vcpu *vcpu = &machine->vcpus[index];

	vcpu->machine = machine;
	vcpu->index = index;
	vcpu->fd = ioctl(machine->vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (vcpu->fd < 0)
		return fail(problem, "KVM_CREATE_VCPU %u: %s", index, strerror(errno));
	void *run = mmap(NULL, machine->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (run == MAP_FAILED)
		return fail(problem, "vCPU %u: mmap: %s", index, strerror(errno));
	vcpu->run = run;
	return set_cpuid(vcpu, problem);
}

int machine_create(struct machine *machine, const struct options *options, struct problem *problem)
{
	*machine = (struct machine){ .kvm_fd = -1, .vm_fd = -1, .memory_fd = -1, .event_fd = -1, .timer.event_fd = -1 };
	for (uint32_t i = 0; i < VMM_VCPUS_MAX; i++)
		machine->vcpus[i].fd = -1;
	machine->own_steal = options->own_steal;
	machine->hyperv = options->hyperv;
	machine->vmclock = options->vmclock;
	pthread_mutex_init(&machine->lock, NULL);
	pthread_cond_init(&machine->changed, NULL);
	machine->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (machine->event_fd < 0)
		return fail(problem, "eventfd: %s", strerror(errno));
	if (open_kvm(machine, problem) < 0 || open_memory(machine, options, problem) < 0 ||
	    create_vm(machine, problem) < 0)
		return -1;
	machine->cpuid = supported_cpuid(machine, problem);
	if (machine->cpuid == NULL)
		return -1;
	int result = 0;
	for (uint32_t i = 0; i < options->vcpus && result == 0; i++) {
		machine->vcpu_count = i + 1;
		result = create_vcpu(machine, i, problem);
	}
	return result < 0 ? -1 : vcpu_state_prepare(machine, problem);
}

void machine_destroy(struct machine *machine)
{
	for (uint32_t i = 0; i < machine->vcpu_count; i++) {
		if (machine->vcpus[i].run != NULL)
			munmap(machine->vcpus[i].run, machine->run_size);
		if (machine->vcpus[i].fd >= 0)
			close(machine->vcpus[i].fd);
	}
	free(machine->msrs);
	free(machine->cpuid);
	if (machine->memory != NULL)
		munmap(machine->memory, machine->memory_size);
	int fds[] = { machine->vm_fd, machine->kvm_fd, machine->memory_fd, machine->event_fd };
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	pthread_cond_destroy(&machine->changed);
	pthread_mutex_destroy(&machine->lock);
}

/* The vCPUs and the interrupt controllers; the clock and the memory travel on their own. */
int machine_save(struct machine *machine, struct wire *wire, struct problem *problem)
{
	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		if (vcpu_state_save(&machine->vcpus[i], wire, problem) < 0)
			return -1;
	for (uint32_t chip = 0; chip < KVM_NR_IRQCHIPS; chip++) {
		struct kvm_irqchip *irqchip = wire_add(wire, WIRE_IRQCHIP, chip, sizeof(*irqchip), problem);
		if (irqchip == NULL)
			return -1;
		irqchip->chip_id = chip;
		if (ioctl(machine->vm_fd, KVM_GET_IRQCHIP, irqchip) < 0)
			return fail(problem, "KVM_GET_IRQCHIP %u: %s", chip, strerror(errno));
	}
	return 0;
}

int machine_restore(struct machine *machine, const struct wire *wire, struct problem *problem)
{
	for (uint32_t chip = 0; chip < KVM_NR_IRQCHIPS; chip++) {
		struct kvm_irqchip irqchip;
		size_t size;
		const void *saved = wire_find(wire, WIRE_IRQCHIP, chip, &size);

		if (saved == NULL || size != sizeof(irqchip))
			return fail(problem, "the saved state holds no interrupt controller %u", chip);
		memcpy(&irqchip, saved, sizeof(irqchip));
		irqchip.chip_id = chip;
		if (ioctl(machine->vm_fd, KVM_SET_IRQCHIP, &irqchip) < 0)
			return fail(problem, "KVM_SET_IRQCHIP %u: %s", chip, strerror(errno));
	}
	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		if (vcpu_state_restore(&machine->vcpus[i], wire, problem) < 0)
			return -1;
	return 0;
}
