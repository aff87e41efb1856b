// SPDX-License-Identifier: MIT
/*
 * pvh.c - a machine that another VMM booted, made into what our guests know: struct vmm_shared with the number of vCPUs
 * and with the arguments, which are the numbers of the kernel's command line; the other vCPUs woken; and no interrupts
 * but one's own.
 */
#include "runtime.h"

/* xen/include/public/arch-x86/hvm/start_info.h */
struct hvm_start_info {
	uint32_t magic, version, flags, modules;
	uint64_t modules_gpa, command_line_gpa;
};

extern const uint8_t pvh_trampoline[], pvh_trampoline_end[];
extern _Atomic uint32_t pvh_woken; /* vCPUs that run, the first one among them */
void pvh_main(const struct hvm_start_info *info);

/* QEMU, docs/specs/fw_cfg.rst */
#define FW_CFG_SELECTOR 0x510
#define FW_CFG_DATA 0x511
#define FW_CFG_NB_CPUS 5

static uint8_t read_fw_cfg(void)
{
	uint8_t byte;

	__asm__ __volatile__("inb %w1, %0" : "=a"(byte) : "d"((uint16_t)FW_CFG_DATA) : "memory");
	return byte;
}

static uint32_t count_vcpus(void)
{
	uint32_t low;

	__asm__ __volatile__("outw %w0, %w1" : : "a"((uint16_t)FW_CFG_NB_CPUS), "d"((uint16_t)FW_CFG_SELECTOR) : "memory");
	low = read_fw_cfg();
	return low | (uint32_t)read_fw_cfg() << 8;
}

/* The firmware left its timer running. */
static void mask_old_interrupts(void)
{
	__asm__ __volatile__("outb %0, $0x21\n\toutb %0, $0xa1" : : "a"((uint8_t)0xff) : "memory");
}

static void take_arguments(struct vmm_shared *shared, const char *text)
{
	for (size_t i = 0; i < sizeof(shared->argument) / sizeof(shared->argument[0]); i++) {
		uint64_t number = 0;

		while (*text == ' ')
			text++;
		for (; *text >= '0' && *text <= '9'; text++)
			number = number * 10 + (uint64_t)(*text - '0');
		shared->argument[i] = number;
	}
}

/* The VMM's APIC identifiers are 0 to n - 1. One at a time, so that each gets the index of its APIC. */
static void wake(uint32_t apic)
{
	guest_send_init(apic);
	guest_send_startup(apic, VMM_TRAMPOLINE_GPA >> 12);
	while (atomic_load(&pvh_woken) <= apic)
		__asm__ __volatile__("pause" : : : "memory");
}

void pvh_main(const struct hvm_start_info *info)
{
	struct vmm_shared *shared = (struct vmm_shared *)(uintptr_t)VMM_SHARED_PVH_GPA;
	uint8_t *trampoline = (uint8_t *)(uintptr_t)VMM_TRAMPOLINE_GPA;
	uint32_t vcpus = count_vcpus();

	mask_old_interrupts();
	shared->vcpus = vcpus < VMM_VCPUS_MAX ? vcpus : VMM_VCPUS_MAX;
	if (info->command_line_gpa)
		take_arguments(shared, (const char *)(uintptr_t)info->command_line_gpa);
	for (size_t i = 0; i < (size_t)(pvh_trampoline_end - pvh_trampoline); i++)
		trampoline[i] = pvh_trampoline[i];
	for (uint32_t apic = 1; apic < shared->vcpus; apic++)
		wake(apic);
}
