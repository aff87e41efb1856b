/* SPDX-License-Identifier: MIT */
/* deadline.c - a CPU's timer: TSC deadlines by the page's line, or times that the host keeps. */
#include <pvclock/deadline.h>

#if defined(__x86_64__) || defined(__i386__)
#include "machine.h"

/* Intel SDM 3A 11.4.1, 11.5.1, 11.5.4.1, 11.12.1.2 */
#define APIC_LVT_TIMER 0x320u
#define APIC_LVT_MASKED (1u << 16)
#define APIC_LVT_TSC_DEADLINE (2u << 17)
#define MSR_X2APIC 0x800u /* each register is 16 bytes further in memory, and one further here */
#define MSR_TSC_DEADLINE 0x6e0u
#define CPUID_1_ECX_TSC_DEADLINE (1u << 24)
#define VECTOR_MIN 16u

#define NO_VERSION 1u /* a page that is read has an even one */

/* No host changes a line so often while one WRMSR is executed. One that does is not waited for. */
#define ARM_TRIES 1000u

enum pvclock_timer_kind pvclock_timer_find(void)
{
	uint32_t regs[4];

	if (pvclock_interface_find() & PVCLOCK_FEATURE_DEADLINE)
		return PVCLOCK_TIMER_HOST;
	machine_cpuid(1, regs);
	return regs[2] & CPUID_1_ECX_TSC_DEADLINE ? PVCLOCK_TIMER_TSC : PVCLOCK_TIMER_NONE;
}

static void write_lvt(const struct pvclock_timer *timer, uint32_t bits)
{
	uint32_t value = APIC_LVT_TSC_DEADLINE | bits | timer->vector; /* of a masked one, too, the vector has to be a good one */

	if (timer->apic)
		machine_write_register(&timer->apic[APIC_LVT_TIMER / sizeof(uint32_t)], value);
	else
		machine_write_msr(MSR_X2APIC + APIC_LVT_TIMER / 16, value);
	machine_fence();
}

bool pvclock_timer_start(struct pvclock_timer *timer, enum pvclock_timer_kind kind, const struct pvclock_page *page, volatile uint32_t *apic,
			 uint8_t vector)
{
	timer->page = page;
	timer->apic = apic;
	timer->kind = vector < VECTOR_MIN ? PVCLOCK_TIMER_NONE : kind;
	timer->state = PVCLOCK_TIMER_IDLE;
	timer->ns = 0;
	timer->tick = 0;
	timer->again = 0;
	timer->version = NO_VERSION;
	timer->vector = vector;
	switch (timer->kind) {
	case PVCLOCK_TIMER_TSC:
		/* Whoever had the timer before may have left it armed. In any other mode the MSR takes nothing: the mode first. */
		write_lvt(timer, APIC_LVT_MASKED);
		machine_write_msr(MSR_TSC_DEADLINE, 0);
		write_lvt(timer, 0);
		return true;
	case PVCLOCK_TIMER_HOST:
		machine_write_msr(PVCLOCK_MSR_DEADLINE_CONTROL, 0);
		machine_write_msr(PVCLOCK_MSR_DEADLINE_CONTROL, PVCLOCK_CONTROL_ENABLE | vector);
		return true;
	case PVCLOCK_TIMER_NONE:
	default:
		timer->kind = PVCLOCK_TIMER_NONE;
		return false;
	}
}

void pvclock_timer_stop(struct pvclock_timer *timer)
{
	if (timer->kind == PVCLOCK_TIMER_TSC) {
		/* The mask alone would do by the manual, and 0 disarms by it; a processor was seen to need either. */
		write_lvt(timer, APIC_LVT_MASKED);
		machine_write_msr(MSR_TSC_DEADLINE, 0);
	} else if (timer->kind == PVCLOCK_TIMER_HOST) {
		machine_write_msr(PVCLOCK_MSR_DEADLINE_CONTROL, 0);
	}
	timer->kind = PVCLOCK_TIMER_NONE;
	timer->state = PVCLOCK_TIMER_IDLE;
}

/* 0 is the word for "none" in either interface. It is past, and so is 1. */
static uint64_t not_none(uint64_t value)
{
	return value ? value : 1;
}

static void write_deadline(const struct pvclock_timer *timer, uint64_t value)
{
	machine_write_msr(timer->kind == PVCLOCK_TIMER_TSC ? MSR_TSC_DEADLINE : PVCLOCK_MSR_DEADLINE, value);
}

/* Of a host that says no time, an interrupt that comes at once, again and again, is all that there is to be had. */
static enum pvclock_timer_state lose(struct pvclock_timer *timer)
{
	timer->version = NO_VERSION;
	write_deadline(timer, 0);
	return timer->state = PVCLOCK_TIMER_LOST;
}

/*
 * By the page as it still is afterwards: the line may change between the reading and the WRMSR. No order need be made between the
 * WRMSR and the look at the version after it: who changes lines does so with this CPU out of guest mode, and a VM exit
 * throws a load away that was made too early.
 */
static enum pvclock_timer_state arm_tick(struct pvclock_timer *timer)
{
	struct pvclock_snapshot snapshot;

	for (uint32_t tries = 0; tries < ARM_TRIES; tries++) {
		bool reached;

		if (pvclock_load_acquire_u32(&timer->page->version) != timer->version) {
			if (machine_read_page(timer->page, &snapshot) != PVCLOCK_READ_OK)
				break;
			pvclock_inverse_make(&timer->inverse, &snapshot.line);
			timer->version = snapshot.version;
		}
		reached = pvclock_first_tick(&timer->inverse, timer->ns, &timer->tick);
		if (reached && timer->ns <= timer->inverse.ns) /* of ticks before the anchor, too, the clock says no less */
			timer->tick = 0;
		write_deadline(timer, reached ? not_none(timer->tick) : 0);
		if (pvclock_load_acquire_u32(&timer->page->version) == timer->version)
			return timer->state = reached ? PVCLOCK_TIMER_ARMED : PVCLOCK_TIMER_NEVER;
		timer->again++;
	}
	return lose(timer);
}

static enum pvclock_timer_state arm(struct pvclock_timer *timer)
{
	switch (timer->kind) {
	case PVCLOCK_TIMER_TSC:
		return arm_tick(timer);
	case PVCLOCK_TIMER_HOST:
		write_deadline(timer, not_none(timer->ns));
		return timer->state = PVCLOCK_TIMER_ARMED;
	case PVCLOCK_TIMER_NONE:
	default:
		return timer->state = PVCLOCK_TIMER_IDLE;
	}
}

enum pvclock_timer_state pvclock_timer_arm(struct pvclock_timer *timer, uint64_t ns)
{
	timer->ns = ns;
	return arm(timer);
}

void pvclock_timer_disarm(struct pvclock_timer *timer)
{
	timer->state = PVCLOCK_TIMER_IDLE;
	if (timer->kind != PVCLOCK_TIMER_NONE) /* even if it was due: an interrupt of another deadline may have told so, before its own */
		write_deadline(timer, 0);
}

enum pvclock_timer_state pvclock_timer_follow(struct pvclock_timer *timer)
{
	timer->again++;
	return arm(timer);
}

enum pvclock_timer_state pvclock_timer_interrupt(struct pvclock_timer *timer)
{
	struct pvclock_reading now;

	if (timer->state == PVCLOCK_TIMER_IDLE)
		return PVCLOCK_TIMER_IDLE;
	if (machine_read_clock(timer->page, &now) != PVCLOCK_READ_OK)
		return lose(timer);
	if (now.ns < timer->ns)
		return pvclock_timer_follow(timer);
	timer->state = PVCLOCK_TIMER_IDLE;
	return PVCLOCK_TIMER_DUE;
}

#endif /* x86 */
