/* SPDX-License-Identifier: MIT */
/* kernel_memory.c - a Linux machine's MSRs, its memory by address, and VMClock's device: for root, and nothing is written. */
#define _GNU_SOURCE
#include "registered.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define VMCLOCK_SIZE 4096u

bool read_cpu_msr(void *ctx, unsigned int cpu, uint32_t msr, uint64_t *value)
{
	char path[40];
	bool read;
	int fd;

	(void)ctx;
	snprintf(path, sizeof(path), "/dev/cpu/%u/msr", cpu);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	read = pread(fd, value, sizeof(*value), msr) == (ssize_t)sizeof(*value);
	close(fd);
	return read;
}

void kernel_memory_open(struct kernel_memory *memory, const char *kcore)
{
	memory->kcore = open(kcore, O_RDONLY | O_CLOEXEC);
}

void kernel_memory_close(struct kernel_memory *memory)
{
	if (memory->kcore >= 0)
		close(memory->kcore);
}

/* Where the file has it. Each piece of memory is a segment with its address; others have none, all ones (fs/proc/kcore.c). */
static bool find_place(int fd, uint64_t gpa, size_t size, off_t *place)
{
	Elf64_Ehdr head;

	if (pread(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) || head.e_ident[EI_MAG0] != ELFMAG0 ||
	    head.e_ident[EI_MAG1] != ELFMAG1 || head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_phentsize != sizeof(Elf64_Phdr))
		return false;
	for (unsigned int i = 0; i < head.e_phnum; i++) {
		Elf64_Phdr segment;

		if (pread(fd, &segment, sizeof(segment), (off_t)(head.e_phoff + i * sizeof(segment))) != (ssize_t)sizeof(segment))
			return false;
		if (segment.p_type != PT_LOAD || segment.p_paddr == UINT64_MAX || gpa < segment.p_paddr ||
		    size > segment.p_filesz || gpa - segment.p_paddr > segment.p_filesz - size)
			continue;
		*place = (off_t)(segment.p_offset + (gpa - segment.p_paddr));
		return true;
	}
	return false;
}

bool read_kernel_memory(void *ctx, uint64_t gpa, void *bytes, size_t size)
{
	const struct kernel_memory *memory = ctx;
	off_t place;

	return memory->kcore >= 0 && find_place(memory->kcore, gpa, size, &place) &&
	       pread(memory->kcore, bytes, size, place) == (ssize_t)size;
}

const void *map_vmclock(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	const void *page;

	if (fd < 0)
		return NULL;
	page = mmap(NULL, VMCLOCK_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	return page == MAP_FAILED ? NULL : page;
}
