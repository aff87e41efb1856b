// SPDX-License-Identifier: MIT
#include "runtime.h"

void guest_general_protection(void);
void guest_timer_interrupt(void);
uint64_t guest_timer_wait(void), guest_timer_poll(void);
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

void guest_log_reading(struct vmm_ring *ring, const struct pvclock_reading *reading, uint32_t version, enum pvclock_read result, uint16_t vcpu)
{
	if (result != PVCLOCK_READ_OK)
		guest_count(&ring->failed);
	guest_log(ring, &(struct vmm_ring_entry){
		.tsc = reading->tsc.ticks,
		.ns = reading->ns,
		.version = version,
		.flags = reading->flags,
		.result = (uint8_t)result,
		.vcpu = vcpu,
	});
	guest_count(&ring->reads);
}

void guest_pace(const struct vmm_shared *shared)
{
	for (uint32_t pace = atomic_load_explicit(&shared->pace, memory_order_relaxed); pace > 0; pace--)
		__asm__ __volatile__("pause" : : : "memory");
}

static _Atomic uint32_t left;

_Noreturn void guest_leave(const struct vmm_shared *shared)
{
	if (atomic_fetch_add(&left, 1) + 1 == shared->vcpus)
		guest_exit(0);
	guest_halt();
}

#define VECTOR_GP 13
#define SEGMENT_CODE 8
#define GATE_INTERRUPT 0x8e00u /* present, 64-bit interrupt gate (Intel SDM 3A 6.14.1) */

struct gate {
	uint16_t offset_low, segment, type, offset_middle;
	uint32_t offset_high, reserved;
};

/* Every vCPU writes the same values: no lock. Other vectors are absent: a fault there is a triple fault. */
static void set_gate(unsigned int vector, uint64_t handler)
{
	static struct gate gates[GUEST_VECTOR + 1];
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) table = { sizeof(gates) - 1, (uintptr_t)gates };

	gates[vector] = (struct gate){
		.offset_low = (uint16_t)handler,
		.segment = SEGMENT_CODE,
		.type = GATE_INTERRUPT,
		.offset_middle = (uint16_t)(handler >> 16),
		.offset_high = (uint32_t)(handler >> 32),
	};
	__asm__ __volatile__("lidt %0" : : "m"(table) : "memory");
}

void guest_catch_faults(void)
{
	set_gate(VECTOR_GP, (uintptr_t)guest_general_protection);
}

/* --- a timer, through the local APIC -------------------------------------------------------------------------- */

/* Intel SDM 3A 11.4.1 */
#define APIC_BASE 0xfee00000ull
#define APIC_TASK_PRIORITY 0x80u
#define APIC_END_OF_INTERRUPT 0xb0u
#define APIC_SPURIOUS 0xf0u
#define APIC_SPURIOUS_ENABLE 0x100u
#define APIC_SPURIOUS_VECTOR 0xffu
#define APIC_COMMAND 0x300u /* 11.6.1 */
#define APIC_COMMAND_PENDING (1u << 12)
#define APIC_COMMAND_TO 0x310u
#define APIC_INIT 0x4500u    /* asserted, edge */
#define APIC_STARTUP 0x4600u
#define CPUID_1_ECX_TSC_DEADLINE (1u << 24)

static volatile uint32_t *apic(uint32_t at)
{
	return (volatile uint32_t *)(uintptr_t)(APIC_BASE + at);
}

static void write_apic(uint32_t at, uint32_t value)
{
	*apic(at) = value;
}

static bool has_tsc_deadline(void)
{
	uint32_t eax = 1, ebx, ecx = 0, edx;

	__asm__ __volatile__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	return (ecx & CPUID_1_ECX_TSC_DEADLINE) != 0;
}

void guest_interrupts_start(void)
{
	set_gate(GUEST_VECTOR, (uintptr_t)guest_timer_interrupt);
	write_apic(APIC_SPURIOUS, APIC_SPURIOUS_ENABLE | APIC_SPURIOUS_VECTOR);
	write_apic(APIC_TASK_PRIORITY, 0);
}

bool guest_interrupt_poll(void)
{
	return guest_timer_poll() != 0;
}

bool guest_timer_start(struct pvclock_timer *timer, enum pvclock_timer_kind kind, const struct pvclock_page *page)
{
	if (kind == PVCLOCK_TIMER_NONE)
		kind = pvclock_timer_find();
	if ((kind == PVCLOCK_TIMER_TSC && !has_tsc_deadline()) ||
	    (kind == PVCLOCK_TIMER_HOST && (pvclock_interface_find() & PVCLOCK_FEATURE_DEADLINE) == 0))
		return false;
	guest_interrupts_start();
	return pvclock_timer_start(timer, kind, page, apic(0), GUEST_VECTOR);
}

bool guest_timer_sleep(void)
{
	return guest_timer_wait() != 0;
}

void guest_timer_done(void)
{
	write_apic(APIC_END_OF_INTERRUPT, 0);
}

/* --- other vCPUs -------------------------------------------------------------------------------------- */

static void command_apic(uint32_t to, uint32_t command)
{
	write_apic(APIC_COMMAND_TO, to << 24);
	write_apic(APIC_COMMAND, command);
	while ((*apic(APIC_COMMAND) & APIC_COMMAND_PENDING) != 0)
		__asm__ __volatile__("pause" : : : "memory");
}

void guest_send_init(uint32_t to)
{
	command_apic(to, APIC_INIT);
}

void guest_send_startup(uint32_t to, uint32_t page)
{
	command_apic(to, APIC_STARTUP | page);
}
