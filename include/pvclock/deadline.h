/* SPDX-License-Identifier: MIT */
/*
 * deadline.h - a CPU's timer, for a guest's kernel: one interrupt at a time that is given in ns of system time. Freestanding. x86.
 *
 * There are two kinds, behind the same functions. *TSC*: the local APIC's TSC-deadline mode, armed with the first tick at which
 * the page's line reaches the time; armed again whenever the page says another line. Nothing is calibrated, and nothing is
 * divided but when the line changes. *HOST*: the host is told the time as it is (interface.h), and translates it itself; nothing is
 * ever armed again. That costs a VM exit to the VMM for each deadline, where the other costs one to the kernel, or none.
 *
 * A timer belongs to one CPU, and every function is called on it, with interrupts off or in the interrupt's own handler.
 */
#ifndef PVCLOCK_DEADLINE_H
#define PVCLOCK_DEADLINE_H

#include <pvclock/guest.h>
#include <pvclock/interface.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__x86_64__) || defined(__i386__)

enum pvclock_timer_kind {
	PVCLOCK_TIMER_NONE = 0,
	PVCLOCK_TIMER_TSC,
	PVCLOCK_TIMER_HOST,
};

enum pvclock_timer_state {
	PVCLOCK_TIMER_IDLE = 0, /* nothing is wanted */
	PVCLOCK_TIMER_ARMED,    /* the interrupt will come, or is on its way */
	PVCLOCK_TIMER_DUE,      /* the time has come, and with it the interrupt: nothing is wanted any more */
	PVCLOCK_TIMER_NEVER,    /* no tick of the counter reaches that time: nothing is armed until pvclock_timer_check finds a line that does */
	PVCLOCK_TIMER_LOST,     /* the page cannot be read: nothing is armed until pvclock_timer_check finds that it can */
};

/* All zeros: not started. The fields are for reading. */
struct pvclock_timer {
	const struct pvclock_page *page;
	volatile uint32_t *apic;
	enum pvclock_timer_kind kind;
	enum pvclock_timer_state state;
	uint64_t ns;    /* what is wanted */
	uint64_t tick;  /* TSC: what is armed for it */
	uint64_t again; /* how often it was armed again: the line had changed, or an interrupt came before the time */
	struct pvclock_inverse inverse; /* TSC: of the page's line ... */
	uint32_t version;               /* ... at this version. Odd: of none */
	uint8_t vector;
};

/* The best kind that this machine has: HOST, else TSC. */
enum pvclock_timer_kind pvclock_timer_find(void);

/*
 * Begins on this CPU. `page` is its own, registered, 8-byte aligned. `apic`: its local APIC's registers, which are
 * enabled by software and mapped uncached (usually at 0xfee00000), or NULL if it is in x2APIC mode; HOST does not touch
 * them. `vector`: 16 ... 255. Nothing is armed. False: kind NONE, or no such vector.
 */
bool pvclock_timer_start(struct pvclock_timer *timer, enum pvclock_timer_kind kind, const struct pvclock_page *page, volatile uint32_t *apic,
			 uint8_t vector);

/* The end: no interrupt will be raised, though one may be on its way. Does nothing to a timer that was not started. */
void pvclock_timer_stop(struct pvclock_timer *timer);

/*
 * One interrupt when system time has reached `ns`, in place of what was wanted before; at once if it has already. ARMED, NEVER or
 * LOST; IDLE if the timer was not started.
 */
enum pvclock_timer_state pvclock_timer_arm(struct pvclock_timer *timer, uint64_t ns);

/* Nothing is wanted. An interrupt may be on its way: pvclock_timer_interrupt will know it. */
void pvclock_timer_disarm(struct pvclock_timer *timer);

/*
 * In the interrupt's handler, before or after the end-of-interrupt. DUE, once for each pvclock_timer_arm and never before its time.
 * IDLE: an interrupt that nobody wants, of a deadline that was replaced or taken back (Intel SDM 3A 11.5.4.1 says that it may
 * come). ARMED: not yet, and armed again. NEVER, LOST: as above.
 */
enum pvclock_timer_state pvclock_timer_interrupt(struct pvclock_timer *timer);

/* What pvclock_timer_check does where there is something to do: arms again. */
enum pvclock_timer_state pvclock_timer_follow(struct pvclock_timer *timer);

/*
 * Cheap, for wherever the line may have changed: after any clock reading with another version, with GUEST_STOPPED, in each
 * interrupt, before a CPU sleeps. A host with this library arms what is pending by itself; others may not.
 */
static inline enum pvclock_timer_state pvclock_timer_check(struct pvclock_timer *timer)
{
	if (timer->state == PVCLOCK_TIMER_IDLE)
		return PVCLOCK_TIMER_IDLE;
	if (timer->kind == PVCLOCK_TIMER_TSC ? pvclock_load_acquire_u32(&timer->page->version) == timer->version :
					       timer->state != PVCLOCK_TIMER_LOST)
		return timer->state;
	return pvclock_timer_follow(timer);
}

#endif /* x86 */

#ifdef __cplusplus
}
#endif
#endif
