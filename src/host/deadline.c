/* SPDX-License-Identifier: MIT */
/*
 * deadline.c - deadlines that guests hand over in ns of system time: which are due, and how long the next one has. By
 * the vCPU's own line and the host's TSC, so that no guest reads less than it asked for, right after the interrupt.
 */
#include "vm.h"

#define SLEW_FROM_NS 1000000u
#define SLEW_SHIFT 10

/*
 * Who waits does so by CLOCK_MONOTONIC, which Linux slews by up to 1 in 2000 (and adjtime(3) by as much again). So of a
 * long wait 1 in 1024 is left for another one.
 */
static uint64_t shorten(uint64_t ns)
{
	return ns < SLEW_FROM_NS ? ns : ns - (ns >> SLEW_SHIFT);
}

/* Not to UINT64_MAX, which means never; nor to 0. */
static uint64_t round_up(uint64_t ns)
{
	return ns < UINT64_MAX - 1 ? ns + 1 : UINT64_MAX - 1;
}

/* How long a counter of the host's takes for as many ticks of the guest's, rounded up. */
static uint64_t ticks_of_host(const struct pvclock_tsc_transform *tsc, uint64_t ticks)
{
	unsigned __int128 wide = (unsigned __int128)ticks << tsc->frac_bits;

	if (tsc->frac_bits == 0)
		return ticks;
	wide = (wide + tsc->ratio - 1) / tsc->ratio;
	return wide >> 64 ? UINT64_MAX : (uint64_t)wide;
}

static bool same_line(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

static const struct due *find_due(struct pvclock_vcpu *vcpu)
{
	const struct pvclock_line *line = pvclock_vcpu_line(vcpu);
	struct pvclock_inverse inverse;

	if (vcpu->due.ns == vcpu->deadline_ns && same_line(&vcpu->due.line, line))
		return &vcpu->due;
	pvclock_inverse_make(&inverse, line);
	vcpu->due = (struct due){ .line = *line, .ns = vcpu->deadline_ns };
	vcpu->due.reached = pvclock_first_tick(&inverse, vcpu->deadline_ns, &vcpu->due.tick);
	return &vcpu->due;
}

/*
 * With the lock held: nothing, or how many ticks of the guest's TSC are missing. In ticks, since a clock may stand still before its
 * line's anchor: what is 1 ns away by it may take long.
 */
static bool ticks_left(struct pvclock_vcpu *vcpu, struct pvclock_host_tsc now, uint64_t *left)
{
	uint64_t guest = pvclock_tsc_to_guest(&vcpu->tsc, now).ticks;
	const struct due *due;

	if (!vcpu->deadline_ns || !vcpu->vm->has_line || vcpu->vm->paused)
		return false;
	*left = 0;
	if (pvclock_line_ns(pvclock_vcpu_line(vcpu), guest) >= vcpu->deadline_ns)
		return true;
	due = find_due(vcpu);
	*left = due->tick - guest;
	return due->reached;
}

bool pvclock_vcpu_take_deadline(struct pvclock_vcpu *vcpu, struct pvclock_host_tsc now, struct pvclock_deadline *deadline)
{
	struct pvclock_vm *vm = vcpu->vm;
	struct pvclock_line span;
	uint64_t left;

	*deadline = (struct pvclock_deadline){ .at = { UINT64_MAX }, .wait_ns = UINT64_MAX };
	pthread_mutex_lock(&vm->lock);
	if (ticks_left(vcpu, now, &left)) {
		span = *pvclock_vcpu_line(vcpu);
		span.tsc = span.ns = 0;
		deadline->vector = (uint8_t)(vcpu->deadline_control & PVCLOCK_CONTROL_VECTOR);
		deadline->wait_ns = left ? shorten(round_up(pvclock_line_ns(&span, left))) : 0;
		if (__builtin_add_overflow(now.ticks, ticks_of_host(&vcpu->tsc, left), &deadline->at.ticks) || deadline->at.ticks == UINT64_MAX)
			deadline->at.ticks = UINT64_MAX - 1;
		if (!left)
			vcpu->deadline_ns = 0;
	}
	pthread_mutex_unlock(&vm->lock);
	return deadline->wait_ns == 0;
}
