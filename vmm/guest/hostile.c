// SPDX-License-Identifier: MIT
/*
 * hostile.c - a guest that registers its clock everywhere it should not.
 *
 * Every write is logged in the vCPU's ring: .tsc is the MSR, .ns the value, .result 1 if it took a #GP and 0 if not,
 * .version counts. The judge knows what each should have done. At the end every vCPU registers a good page, and
 * the clock has to work: exit code 0. Other codes: 1 the clock is invalid or does not tick, 2 it goes backwards.
 *
 * It must not make the host destroy the guest itself, which would be its good right: addresses of its own code, stacks,
 * page tables and logs are left out.
 */
#include "runtime.h"

#include <pvclock/interface.h>

#define TOGGLES 200u
#define READINGS 50u
#define MEMORY_STEP (2ull << 20)
#define MEMORY_LEAST (16ull << 20)
#define MEMORY_MOST (1ull << 30)
#define LOCAL_APIC 0xfee00000ull
#define IO_APIC 0xfec00000ull

extern const char guest_image_end[];

static const uint32_t msrs[] = { PVCLOCK_MSR_WALL_CLOCK_OLD, PVCLOCK_MSR_SYSTEM_TIME_OLD, PVCLOCK_MSR_WALL_CLOCK,
				 PVCLOCK_MSR_SYSTEM_TIME, PVCLOCK_MSR_STEAL_TIME };

static struct {
	_Alignas(64) struct pvclock_page page;
} pages[VMM_VCPUS_MAX];
static _Alignas(64) uint8_t common[192]; /* fought over by all vCPUs */
static _Atomic uint8_t exit_code;

struct attacker {
	struct vmm_shared *shared;
	struct vmm_ring *ring;
	uint16_t index;
	uint32_t writes;
	uint64_t memory_end;
};

static void attack(struct attacker *attacker, uint32_t msr, uint64_t value)
{
	bool faulted = guest_write_msr_faulting(msr, value);

	if (faulted)
		guest_count(&attacker->ring->gp_faults);
	guest_log(attacker->ring, &(struct vmm_ring_entry){
		.tsc = msr,
		.ns = value,
		.version = attacker->writes++,
		.result = faulted,
		.vcpu = attacker->index,
	});
}

/* Memory is one piece from 0; where it ends, writes vanish. */
static uint64_t find_memory_end(void)
{
	uint64_t end = MEMORY_LEAST;

	for (; end < MEMORY_MOST; end += MEMORY_STEP) {
		volatile uint64_t *word = (volatile uint64_t *)(uintptr_t)end;
		*word = 0x70766d6d70766d6dull;
		if (*word != 0x70766d6d70766d6dull)
			break;
	}
	return end;
}

/* True if a page there, or a wall clock, would be written over the guest itself. */
static bool is_suicide(uint64_t value)
{
	uint64_t address = value & ~(uint64_t)PVCLOCK_MSR_ENABLE;
	uint64_t image_end = (uintptr_t)guest_image_end;

	return address + 64 > VMM_BOOT_GPA && address < image_end;
}

static void attack_all_msrs(struct attacker *attacker, uint64_t value)
{
	if (is_suicide(value))
		return;
	for (size_t i = 0; i < sizeof(msrs) / sizeof(msrs[0]); i++)
		attack(attacker, msrs[i], value);
}

static void attack_around(struct attacker *attacker, uint64_t address)
{
	static const int distances[] = { -65, -64, -33, -32, -31, -28, -16, -13, -12, -11, -8, -4, -2, -1,
					 0, 1, 2, 3, 4, 8, 12, 16, 31, 32 };

	for (size_t i = 0; i < sizeof(distances) / sizeof(distances[0]); i++) {
		uint64_t value = address + (uint64_t)(int64_t)distances[i];
		attack_all_msrs(attacker, value);
		attack_all_msrs(attacker, value ^ PVCLOCK_MSR_ENABLE);
	}
}

static void attack_patterns(struct attacker *attacker)
{
	for (unsigned int bit = 0; bit < 64; bit++) {
		attack_all_msrs(attacker, 1ull << bit);
		attack_all_msrs(attacker, 1ull << bit | PVCLOCK_MSR_ENABLE);
		attack_all_msrs(attacker, ~(1ull << bit));
		attack_all_msrs(attacker, UINT64_MAX << bit);
		attack_all_msrs(attacker, UINT64_MAX >> bit);
	}
	attack_around(attacker, 0);
	attack_around(attacker, attacker->memory_end);
	attack_around(attacker, LOCAL_APIC);
	attack_around(attacker, IO_APIC);
	attack_around(attacker, 1ull << 32);
	attack_around(attacker, 1ull << 52);
	attack_around(attacker, 1ull << 63);
}

/*
 * Deadlines without end: past, near, far and beyond the end of the clock; on, off, and with vectors that are none.
 * Interrupts are off here, so none is ever taken.
 */
static void attack_deadlines(struct attacker *attacker)
{
	static const uint64_t controls[] = { 0, 0x10, PVCLOCK_CONTROL_ENABLE, PVCLOCK_CONTROL_ENABLE | 0xf, PVCLOCK_CONTROL_ENABLE | 0x10,
					     PVCLOCK_CONTROL_ENABLE | 0xff, PVCLOCK_CONTROL_ENABLE << 1, 1ull << 32, UINT64_MAX };

	for (size_t i = 0; i < sizeof(controls) / sizeof(controls[0]); i++) {
		attack(attacker, PVCLOCK_MSR_DEADLINE_CONTROL, controls[i]);
		for (unsigned int bit = 0; bit < 64; bit++)
			attack(attacker, PVCLOCK_MSR_DEADLINE, 1ull << bit);
		attack(attacker, PVCLOCK_MSR_DEADLINE, 0);
		attack(attacker, PVCLOCK_MSR_DEADLINE, UINT64_MAX);
	}
	attack(attacker, PVCLOCK_MSR_DEADLINE_CONTROL, 0);
}

/* All vCPUs at once: one page for all, halves of it, and the enable bit on and off. */
static void attack_together(struct attacker *attacker)
{
	uint64_t address = (uintptr_t)common;

	for (uint32_t i = 0; i < TOGGLES; i++) {
		uint32_t msr = (i + attacker->index) % 2 == 0 ? PVCLOCK_MSR_SYSTEM_TIME : PVCLOCK_MSR_SYSTEM_TIME_OLD;
		uint64_t shift = (i / 4 % 5) * 16;

		attack(attacker, msr, (address + shift) | (i % 2 == 0 ? PVCLOCK_MSR_ENABLE : 0));
		attack(attacker, PVCLOCK_MSR_WALL_CLOCK, address + i % 7 * 4);
		attack(attacker, PVCLOCK_MSR_STEAL_TIME, (address + i % 3 * 64) | (i % 2 == 0 ? PVCLOCK_MSR_ENABLE : 0));
	}
}

static uint8_t check_clock(struct attacker *attacker)
{
	struct pvclock_page *page = &pages[attacker->index].page;
	uint64_t first = 0, last = 0;

	attack(attacker, PVCLOCK_MSR_SYSTEM_TIME_OLD, 0);
	attack(attacker, PVCLOCK_MSR_STEAL_TIME, 0);
	attack(attacker, PVCLOCK_MSR_SYSTEM_TIME, (uintptr_t)page | PVCLOCK_MSR_ENABLE);
	for (uint32_t i = 0; i < READINGS; i++) {
		struct pvclock_reading reading;

		if (pvclock_read_clock(page, &reading) != PVCLOCK_READ_OK)
			return 1;
		if (reading.ns < last)
			return 2;
		last = reading.ns;
		if (i == 0)
			first = last;
		guest_count(&attacker->ring->reads);
	}
	return last > first ? 0 : 1;
}

void guest_main(uint64_t index, struct vmm_shared *shared)
{
	struct attacker attacker = { .shared = shared, .ring = &shared->ring[index], .index = (uint16_t)index };
	static _Atomic uint32_t left;
	uint32_t barriers = 0;

	guest_catch_faults();
	atomic_fetch_add(&shared->started, 1);
	if (index == 0) {
		attacker.memory_end = find_memory_end();
		attack_patterns(&attacker);
	}
	guest_barrier(shared, &barriers);
	attack_deadlines(&attacker);
	attack_together(&attacker);
	guest_barrier(shared, &barriers);
	uint8_t code = check_clock(&attacker);
	if (code != 0)
		atomic_store(&exit_code, code);
	if (atomic_fetch_add(&left, 1) + 1 == shared->vcpus) {
		guest_print(atomic_load(&exit_code) == 0 ? "hostile: the clock still works\n" :
							   "hostile: the clock is broken\n");
		guest_exit(atomic_load(&exit_code));
	}
	guest_halt();
}
