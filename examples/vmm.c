/* SPDX-License-Identifier: MIT */
/*
 * vmm.c - a VMM of a hundred and fifty lines whose guest has a clock that pvclock owns: one vCPU, 16 MB, `vmm
 * GUEST.elf`. Port 0x3f8 is the guest's console, a byte to port 0xf4 its end. What the library does for it is in the
 * functions make_clock and run; the rest is KVM.
 */
#define _GNU_SOURCE
#include <pvclock/pvclock.h>

#include <elf.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY (16ul << 20)
#define LEAVES 128

struct machine {
	int kvm, vm, vcpu;
	uint8_t *memory;
	struct kvm_run *run;
	struct pvclock_kvm *clock;
	struct pvclock_vcpu *vcpu_clock;
};

static int control(int fd, unsigned long request, void *arg, const char *what)
{
	int result = ioctl(fd, request, arg);

	if (result < 0)
		err(1, "%s", what);
	return result;
}

/* Into its place: the guest runs where it was linked. The entry. */
static uint64_t load(const struct machine *m, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	const uint8_t *file = size < (off_t)sizeof(Elf64_Ehdr) ? MAP_FAILED : mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
	const Elf64_Ehdr *elf = (const void *)file;

	if (file == MAP_FAILED || memcmp(elf->e_ident, ELFMAG, SELFMAG) != 0)
		errx(1, "%s is no guest", path);
	for (const Elf64_Phdr *part = (const void *)(file + elf->e_phoff), *end = part + elf->e_phnum; part < end; part++)
		if (part->p_type == PT_LOAD)
			memcpy(m->memory + part->p_paddr, file + part->p_offset, part->p_filesz); /* our own guest: nothing is checked */
	return elf->e_entry;
}

/* 64-bit mode, with all of the first 4 GB where they are, in pages of 2 MB. */
static void enter_long_mode(struct machine *m, uint64_t entry)
{
	struct kvm_segment code = { .selector = 8, .limit = ~0u, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment data = { .selector = 16, .limit = ~0u, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	struct kvm_regs regs = { .rip = entry, .rsp = MEMORY, .rflags = 2 };
	uint64_t *table = (uint64_t *)m->memory, *gdt = table + 6 * 512;
	struct kvm_sregs sregs;

	gdt[1] = 0x00af9b000000ffff, gdt[2] = 0x00cf93000000ffff;
	table[512] = 0x2003; /* at 0x1000: the top; at 0x2000: four times 1 GB; from 0x7000 on: their pages */
	for (uint64_t i = 0; i < 4; i++)
		table[1024 + i] = 0x7003 + i * 0x1000;
	for (uint64_t i = 0; i < 4 * 512; i++)
		table[7 * 512 + i] = i << 21 | 0x83;
	control(m->vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	sregs.cr0 = 0x80050033, sregs.cr3 = 0x1000, sregs.cr4 = 0x20, sregs.efer = 0x500;
	sregs.gdt = (struct kvm_dtable){ .base = 0x6000, .limit = 23 };
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.ss = data;
	control(m->vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
	control(m->vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

static void make_machine(struct machine *m)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY };

	m->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	m->vm = control(m->kvm, KVM_CREATE_VM, NULL, "/dev/kvm");
	m->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	region.userspace_addr = (uintptr_t)m->memory;
	control(m->vm, KVM_SET_USER_MEMORY_REGION, &region, "guest memory");
	control(m->vm, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP");
	m->vcpu = control(m->vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
	m->run = mmap(NULL, (size_t)control(m->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "size"), PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
}

/* What the guest finds: KVM's own leaves, and that time which passes without it is told (docs/spec/interface.md). */
static void tell_guest(const struct machine *m)
{
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 entries[LEAVES]; } cpuid = { .head.nent = LEAVES - PVCLOCK_CPUID_LEAVES };
	struct pvclock_cpuid leaves[PVCLOCK_CPUID_LEAVES];

	control(m->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid, "KVM_GET_SUPPORTED_CPUID");
	for (unsigned int i = 0; i < cpuid.head.nent; i++)
		if (cpuid.entries[i].function == 1) /* a hypervisor, and a timer for TSC deadlines, which older kernels do not say of themselves */
			cpuid.entries[i].ecx |= 1u << 31 | 1u << 24;
	pvclock_interface_cpuid(0x40000100, /* after KVM's own */ PVCLOCK_FEATURE_SUSPEND,
				pvclock_interface_guest_depth(pvclock_os_linux()), leaves);
	for (unsigned int i = 0; i < PVCLOCK_CPUID_LEAVES; i++)
		cpuid.entries[cpuid.head.nent++] = (struct kvm_cpuid_entry2){ .function = leaves[i].leaf, .eax = leaves[i].eax,
			.ebx = leaves[i].ebx, .ecx = leaves[i].ecx, .edx = leaves[i].edx };
	control(m->vcpu, KVM_SET_CPUID2, &cpuid, "KVM_SET_CPUID2");
}

static void make_clock(struct machine *m)
{
	struct pvclock_kvm_config config = { .os = pvclock_os_linux(), .vm_fd = m->vm };
	struct pvclock_source_state host;
	struct pvclock_source *source;
	struct pvclock_reason why;

	if (pvclock_source_open(config.os, &source, &why) || pvclock_source_learn(source, 5000000000, &why))
		errx(1, "%s", why.text);
	pvclock_source_get(source, &host);
	if (pvclock_vm_create(config.os, &config.vm) || pvclock_vm_add_memory(config.vm, (struct pvclock_gpa){ 0 }, MEMORY, m->memory, 0))
		errx(1, "out of memory");
	pvclock_vm_offer(config.vm, PVCLOCK_FEATURE_SUSPEND);
	if (pvclock_kvm_attach(&config, &m->clock, &why))
		errx(1, "%s", why.text);
	if (pvclock_vcpu_create(config.vm, 0, &m->vcpu_clock) || pvclock_kvm_add_vcpu(m->clock, m->vcpu_clock, m->vcpu) ||
	    pvclock_kvm_start(m->clock, &host.slope))
		errx(1, "the clock could not be started");
}

static int run(struct machine *m)
{
	for (;;) {
		int result = pvclock_kvm_enter(m->clock, m->vcpu);

		if (result == -ESTALE) { /* the host slept: this guest's only vCPU stands still, and may go on once its clock is right */
			if (pvclock_kvm_pause(m->clock) || pvclock_kvm_resume(m->clock, NULL, NULL))
				errx(1, "the clock could not be put right after the host's sleep");
		} else if (result < 0 && result != -EINTR) {
			errx(1, "KVM_RUN: %s", strerror(-result));
		} else if (result < 0 || pvclock_kvm_handle_exit(m->clock, m->vcpu_clock, m->run) == 1) {
			continue;
		} else if (m->run->exit_reason == KVM_EXIT_IO && m->run->io.port == 0xf4) {
			return ((uint8_t *)m->run)[m->run->io.data_offset];
		} else if (m->run->exit_reason == KVM_EXIT_IO && m->run->io.port == 0x3f8) {
			putchar(((uint8_t *)m->run)[m->run->io.data_offset]);
		} else {
			errx(1, "the guest left for reason %u", m->run->exit_reason);
		}
	}
}

int main(int argc, char **argv)
{
	struct machine m = { .kvm = -1 };

	if (argc != 2)
		errx(2, "usage: %s GUEST.elf", argv[0]);
	make_machine(&m);
	tell_guest(&m);
	enter_long_mode(&m, load(&m, argv[1]));
	make_clock(&m);
	return run(&m);
}
