/* SPDX-License-Identifier: MIT */
/*
 * guest.c - a kernel of a hundred lines that has clocks and a timer: it tells the time of day and sleeps for a tenth of
 * a second, ten times. It links libpvclock-guest and nothing else. Entered in 64-bit mode, at _start, with identity
 * page tables and a stack (vmm.c).
 */
#include <pvclock/clock.h>
#include <pvclock/deadline.h>

#define VECTOR 0x40u
#define APIC ((volatile uint32_t *)0xfee00000ul)
#define TAI_MINUS_UTC 37

void main_loop(void);
void interrupt(void), sleep_once(void);

/*
 * The interrupt, if there is one, comes during HLT, and goes on behind it: STI lets none in before that. What this
 * kernel has to remember of it is that it came, so it drops the frame (Intel SDM 3A 6.14.2: RIP, CS, RFLAGS, RSP, SS)
 * instead of returning through it.
 */
__asm__(".globl _start\n_start: call main_loop\n"
	".globl sleep_once\nsleep_once: sti\n hlt\n cli\n ret\n"
	".globl interrupt\ninterrupt: movq 24(%rsp), %rsp\n ret\n");

static struct pvclock_user_page user __attribute__((aligned(4096))); /* all clocks; a kernel with processes maps it into them */
static struct pvclock_wall_clock wall __attribute__((aligned(64)));
static struct pvclock_timer timer;
static pvclock_last last;

static void out(uint16_t port, uint8_t byte)
{
	__asm__ __volatile__("outb %0, %1" : : "a"(byte), "d"(port));
}

static void print(const char *text)
{
	while (*text)
		out(0x3f8, (uint8_t)*text++);
}

static void print_number(uint64_t number, int digits)
{
	if (digits > 1 || number >= 10)
		print_number(number / 10, digits - 1);
	out(0x3f8, (uint8_t)('0' + number % 10));
}

static uint64_t now(enum pvclock_clock_id id)
{
	uint64_t ns;

	return pvclock_kernel_ns(&user, &user.page, &last, id, &ns) == PVCLOCK_READ_OK ? ns : 0;
}

static bool start_timer(void)
{
	static struct { uint16_t low, segment, type, middle; uint32_t high, reserved; } gates[VECTOR + 1];
	struct { uint16_t limit; uint64_t base; } __attribute__((packed)) table = { sizeof(gates) - 1, (uintptr_t)gates };
	uintptr_t handler = (uintptr_t)interrupt;

	gates[VECTOR].low = (uint16_t)handler;
	gates[VECTOR].segment = 8;
	gates[VECTOR].type = 0x8e00; /* present, an interrupt gate */
	gates[VECTOR].middle = (uint16_t)(handler >> 16);
	__asm__ __volatile__("lidt %0" : : "m"(table));
	APIC[0xf0 / 4] = 0x1ff; /* software enable, spurious vector */
	return pvclock_timer_start(&timer, pvclock_timer_find(), &user.page, APIC, VECTOR);
}

void main_loop(void)
{
	if (pvclock_clocks_begin(&user, (uintptr_t)&user, &wall, (uintptr_t)&wall, TAI_MINUS_UTC) != PVCLOCK_READ_OK || !start_timer()) {
		print("this machine has no clock for me, or no timer\n");
		out(0xf4, 1);
	}
	for (int i = 0; i < 10; i++) {
		pvclock_timer_arm(&timer, now(PVCLOCK_MONOTONIC) + 100000000);
		do {
			sleep_once();
			APIC[0xb0 / 4] = 0; /* end of interrupt */
		} while (pvclock_timer_interrupt(&timer) != PVCLOCK_TIMER_DUE);
		pvclock_clocks_tick(&user, now(PVCLOCK_MONOTONIC));
		print("REALTIME ");
		print_number(now(PVCLOCK_REALTIME), 1);
		print(" ns, MONOTONIC ");
		print_number(now(PVCLOCK_MONOTONIC), 1);
		print(timer.kind == PVCLOCK_TIMER_HOST ? " ns, the host's timer\n" : " ns, the APIC's timer\n");
	}
	out(0xf4, 0);
}
