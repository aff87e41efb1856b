// SPDX-License-Identifier: MIT
/*
 * boot.c - straight into 64-bit mode: page tables, a GDT, the payload, and every vCPU at its entry with
 * RDI = its index, RSI = struct vmm_shared's address, and a stack of its own. Where all that lies: shared.h.
 */
#include "vmm.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PML4_GPA VMM_BOOT_GPA
#define PDPT_GPA (VMM_BOOT_GPA + 0x1000)
#define PD_GPA (VMM_BOOT_GPA + 0x2000) /* four: 4 GiB, so that the guest reaches its local APIC */
#define GDT_GPA (VMM_BOOT_GPA + 0x6000)
#define STACKS_END (VMM_STACK_GPA + VMM_VCPUS_MAX * VMM_STACK_SIZE)

_Static_assert(GDT_GPA + 0x1000 <= VMM_SHARED_GPA, "boot structures lie below the shared one");
_Static_assert(VMM_SHARED_GPA + sizeof(struct vmm_shared) <= VMM_STACK_GPA, "the shared structure lies below the stacks");
#define VMCLOCK_SIZE 0x1000
_Static_assert(STACKS_END <= VMM_VMCLOCK_GPA && VMM_VMCLOCK_GPA + VMCLOCK_SIZE <= VMM_PAYLOAD_GPA, "stacks, VMClock and payload, in this order");

/* Intel SDM 3A 4.5: present, writable; page size */
#define PTE_PRESENT_WRITABLE 0x3ull
#define PTE_LARGE 0x80ull

#define CR0_PE (1ull << 0)
#define CR0_MP (1ull << 1)
#define CR0_ET (1ull << 4)
#define CR0_NE (1ull << 5)
#define CR0_WP (1ull << 16)
#define CR0_PG (1ull << 31)
#define CR4_PAE (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define RFLAGS_RESERVED 0x2ull

#define ELF_SEGMENTS_MAX 64u

static void write_u64(struct machine *machine, uint64_t gpa, uint64_t value)
{
	memcpy(machine->memory + gpa, &value, sizeof(value));
}

static void write_tables(struct machine *machine)
{
	write_u64(machine, PML4_GPA, PDPT_GPA | PTE_PRESENT_WRITABLE);
	for (uint64_t gib = 0; gib < 4; gib++) {
		uint64_t directory = PD_GPA + gib * 0x1000;
		write_u64(machine, PDPT_GPA + gib * 8, directory | PTE_PRESENT_WRITABLE);
		for (uint64_t i = 0; i < 512; i++)
			write_u64(machine, directory + i * 8, gib << 30 | i << 21 | PTE_PRESENT_WRITABLE | PTE_LARGE);
	}
	write_u64(machine, GDT_GPA, 0);
	write_u64(machine, GDT_GPA + VMM_SEGMENT_CODE, VMM_DESCRIPTOR_CODE);
	write_u64(machine, GDT_GPA + VMM_SEGMENT_DATA, VMM_DESCRIPTOR_DATA);
	write_u64(machine, GDT_GPA + VMM_SEGMENT_TASK, VMM_DESCRIPTOR_TASK);
	write_u64(machine, GDT_GPA + VMM_SEGMENT_TASK + 8, 0);
}

static int enter_vcpu(struct vcpu *vcpu, uint64_t entry, struct problem *problem)
{
	struct kvm_sregs sregs;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
		return fail(problem, "KVM_GET_SREGS of vCPU %u: %s", vcpu->index, strerror(errno));
	struct kvm_segment code = { .limit = 0xffffffff, .selector = VMM_SEGMENT_CODE, .type = 0xb, .present = 1, .s = 1,
				    .l = 1, .g = 1 };
	struct kvm_segment data = { .limit = 0xffffffff, .selector = VMM_SEGMENT_DATA, .type = 0x3, .present = 1, .s = 1,
				    .db = 1, .g = 1 };
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.tr = (struct kvm_segment){ .limit = 0xffff, .selector = VMM_SEGMENT_TASK, .type = 0xb, .present = 1 };
	sregs.ldt = (struct kvm_segment){ .unusable = 1 };
	sregs.gdt.base = GDT_GPA;
	sregs.gdt.limit = VMM_SEGMENT_TASK + 16 - 1;
	sregs.idt.base = 0;
	sregs.idt.limit = 0; /* any exception is a triple fault until the guest loads an IDT of its own */
	sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	sregs.cr3 = PML4_GPA;
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_LME | EFER_LMA;
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0)
		return fail(problem, "KVM_SET_SREGS of vCPU %u: %s", vcpu->index, strerror(errno));
	struct kvm_regs regs = {
		.rip = entry,
		.rsp = VMM_STACK_GPA + (vcpu->index + 1) * VMM_STACK_SIZE,
		.rdi = vcpu->index,
		.rsi = VMM_SHARED_GPA,
		.rflags = RFLAGS_RESERVED,
	};
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
		return fail(problem, "KVM_SET_REGS of vCPU %u: %s", vcpu->index, strerror(errno));
	/* The kernel lets only vCPU 0 run; the others would wait for an INIT and a SIPI. */
	struct kvm_mp_state state = { .mp_state = KVM_MP_STATE_RUNNABLE };
	if (ioctl(vcpu->fd, KVM_SET_MP_STATE, &state) < 0)
		return fail(problem, "KVM_SET_MP_STATE of vCPU %u: %s", vcpu->index, strerror(errno));
	return 0;
}

/* Every number in the file may be a lie: nothing is used before it was compared with the file's and the memory's size. */
static int load_elf(struct machine *machine, const char *path, const uint8_t *file, uint64_t size, uint64_t *entry,
		    struct problem *problem)
{
	Elf64_Ehdr header;
	uint64_t end;

	if (size < sizeof(header))
		return fail(problem, "%s: an ELF file of %llu bytes is cut short", path, (unsigned long long)size);
	memcpy(&header, file, sizeof(header));
	if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
	    header.e_machine != EM_X86_64 || header.e_type != ET_EXEC)
		return fail(problem, "%s: not a statically linked x86-64 ELF executable: link with -static -no-pie",
			    path);
	if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 || header.e_phnum > ELF_SEGMENTS_MAX)
		return fail(problem, "%s: has %u program headers of %u bytes: 1 to %u of %zu are understood", path,
			    header.e_phnum, header.e_phentsize, ELF_SEGMENTS_MAX, sizeof(Elf64_Phdr));
	if (__builtin_add_overflow(header.e_phoff, header.e_phnum * sizeof(Elf64_Phdr), &end) || end > size)
		return fail(problem, "%s: its program headers lie outside the file", path);
	bool entry_loaded = false;
	for (uint32_t i = 0; i < header.e_phnum; i++) {
		Elf64_Phdr segment;

		memcpy(&segment, file + header.e_phoff + i * sizeof(segment), sizeof(segment));
		if (segment.p_type != PT_LOAD || segment.p_memsz == 0)
			continue;
		if (segment.p_filesz > segment.p_memsz ||
		    __builtin_add_overflow(segment.p_offset, segment.p_filesz, &end) || end > size)
			return fail(problem, "%s: segment %u lies outside the file", path, i);
		if (segment.p_paddr < VMM_VMCLOCK_GPA + VMCLOCK_SIZE || !machine_has_range(machine, segment.p_paddr, segment.p_memsz))
			return fail(problem, "%s: segment %u (%#llx, %#llx bytes) does not fit guest memory %#llx ... "
				    "%#llx: link it at %#llx, or give more --memory", path, i,
				    (unsigned long long)segment.p_paddr, (unsigned long long)segment.p_memsz,
				    VMM_VMCLOCK_GPA + VMCLOCK_SIZE, (unsigned long long)machine->memory_size, VMM_PAYLOAD_GPA);
		memset(machine->memory + segment.p_paddr, 0, segment.p_memsz);
		memcpy(machine->memory + segment.p_paddr, file + segment.p_offset, segment.p_filesz);
		if (header.e_entry >= segment.p_paddr && header.e_entry - segment.p_paddr < segment.p_filesz)
			entry_loaded = true;
	}
	if (!entry_loaded)
		return fail(problem, "%s: its entry point %#llx is not in any loaded segment", path,
			    (unsigned long long)header.e_entry);
	*entry = header.e_entry;
	return 0;
}

static int load_payload(struct machine *machine, const char *path, uint64_t *entry, struct problem *problem)
{
	struct stat status;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || fstat(fd, &status) < 0) {
		int error = errno;
		if (fd >= 0)
			close(fd);
		return fail(problem, "%s: %s", path, strerror(error));
	}
	if (!S_ISREG(status.st_mode) || status.st_size <= 0 || (uint64_t)status.st_size > machine->memory_size) {
		close(fd);
		return fail(problem, "%s: not a regular file of 1 to %llu bytes", path,
			    (unsigned long long)machine->memory_size);
	}
	uint64_t size = (uint64_t)status.st_size;
	uint8_t *file = malloc(size);
	uint64_t done = 0;
	while (file != NULL && done < size) {
		ssize_t got = read(fd, file + done, size - done);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		done += (uint64_t)got;
	}
	close(fd);
	int result;
	if (file == NULL || done < size) {
		result = fail(problem, "%s: could not be read whole", path);
	} else if (size >= SELFMAG && memcmp(file, ELFMAG, SELFMAG) == 0) {
		result = load_elf(machine, path, file, size, entry, problem);
	} else if (!machine_has_range(machine, VMM_PAYLOAD_GPA, size)) {
		result = fail(problem, "%s: %llu bytes at %#llx do not fit guest memory: give more --memory", path,
			      (unsigned long long)size, VMM_PAYLOAD_GPA);
	} else {
		memcpy(machine->memory + VMM_PAYLOAD_GPA, file, size);
		*entry = VMM_PAYLOAD_GPA;
		result = 0;
	}
	free(file);
	return result;
}

int boot_load(struct machine *machine, const char *payload, struct problem *problem)
{
	uint64_t entry = 0;

	write_tables(machine);
	/* Only these are ours: a harness may have set its arguments before it started us. */
	struct vmm_shared *shared = (void *)(machine->memory + VMM_SHARED_GPA);
	shared->vcpus = machine->vcpu_count;
	shared->vmclock_gpa = machine->vmclock ? VMM_VMCLOCK_GPA : 0;
	if (load_payload(machine, payload, &entry, problem) < 0)
		return -1;
	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		if (enter_vcpu(&machine->vcpus[i], entry, problem) < 0)
			return -1;
	return 0;
}
