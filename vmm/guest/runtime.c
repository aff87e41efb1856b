// SPDX-License-Identifier: MIT
#include "runtime.h"

void guest_general_protection(void);
void *memcpy(void *to, const void *from, size_t count);
void *memset(void *to, int byte, size_t count);

/* The compiler may call these for any assignment of a structure. */
void *memcpy(void *to, const void *from, size_t count)
{
	uint8_t *t = to;
	const uint8_t *f = from;

	while (count-- > 0)
		*t++ = *f++;
	return to;
}

void *memset(void *to, int byte, size_t count)
{
	uint8_t *t = to;

	while (count-- > 0)
		*t++ = (uint8_t)byte;
	return to;
}

static void write_port(uint16_t port, uint8_t byte)
{
	__asm__ __volatile__("outb %0, %1" : : "a"(byte), "d"(port) : "memory");
}

void guest_print(const char *text)
{
	for (; *text != '\0'; text++)
		write_port(VMM_SERIAL_PORT, (uint8_t)*text);
}

void guest_halt(void)
{
	for (;;)
		__asm__ __volatile__("cli\n\thlt" : : : "memory");
}

void guest_exit(uint8_t code)
{
	write_port(VMM_EXIT_PORT, code);
	guest_halt();
}

static _Atomic uint32_t arrived;

void guest_barrier(const struct vmm_shared *shared, uint32_t *times)
{
	uint32_t all = ++*times * shared->vcpus;

	atomic_fetch_add(&arrived, 1);
	while (atomic_load(&arrived) < all)
		__asm__ __volatile__("pause" : : : "memory");
}

void guest_log(struct vmm_ring *ring, const struct vmm_ring_entry *entry)
{
	uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);

	if (head - atomic_load_explicit(&ring->tail, memory_order_acquire) >= VMM_RING_ENTRIES)
		return;
	ring->entries[head % VMM_RING_ENTRIES] = *entry;
	atomic_store_explicit(&ring->head, head + 1, memory_order_release);
}

#define VECTOR_GP 13
#define SEGMENT_CODE 8
#define GATE_INTERRUPT 0x8e00u /* present, 64-bit interrupt gate (Intel SDM 3A 6.14.1) */

struct gate {
	uint16_t offset_low, segment, type, offset_middle;
	uint32_t offset_high, reserved;
};

void guest_catch_faults(void)
{
	/* Every vCPU writes the same values: no lock. Other vectors are absent: a fault there is a triple fault. */
	static struct gate gates[VECTOR_GP + 1];
	uint64_t handler = (uintptr_t)guest_general_protection;
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) table = { sizeof(gates) - 1, (uintptr_t)gates };

	gates[VECTOR_GP] = (struct gate){
		.offset_low = (uint16_t)handler,
		.segment = SEGMENT_CODE,
		.type = GATE_INTERRUPT,
		.offset_middle = (uint16_t)(handler >> 16),
		.offset_high = (uint32_t)(handler >> 32),
	};
	__asm__ __volatile__("lidt %0" : : "m"(table) : "memory");
}
