/* SPDX-License-Identifier: MIT */
/*
 * vmclock.c - VMClock's page: the time of day as the host's clocks have it, over the counter that the line is over, with its
 * errors.
 *
 * One state, two pages: a tick's length is the line's own, times what the host's discipline makes of it (adjtimex: freq and tick).
 * So with f that correction, for two ticks of one page's life
 *
 *     VMClock's time between them = (1 + f) * system time between them, to the two ns that system time's floors are
 *
 * and the declared error of the period has all of f in it: the two pages agree within what the page says (docs/vmclock.md says why
 * not f = 0).
 */
#include "vm.h"

#include <errno.h>

#define NS_PER_SEC 1000000000ull
#define NS_PER_US 1000ull
#define SECONDS_A_DAY 86400u
#define BRACKETS 8
#define TRIES 4             /* adjtimex may say something else after the brackets than before */
#define UPDATE_NS NS_PER_SEC

#define TICK_US 10000       /* adjtimex(2): a nominal tick of USER_HZ, in us ... */
#define TICK_US_MIN 9000    /* ... and the kernel's limits */
#define TICK_US_MAX 11000
#define PPM_UNITS 65536ll   /* adjtimex(2): freq and tolerance, of a ppm */
#define FREQ_MAX (500 * PPM_UNITS)
#define MILLION 1000000ll

__extension__ typedef unsigned __int128 u128;

/* The host's time of day at one tick, and what the kernel says of it. */
struct reading {
	struct pvclock_host_tsc before, after; /* the tick is in the middle */
	struct timespec time;
	int state; /* as adjtimex(2) returns it */
	struct timex status;
};

/* A tick's length, in units of 2^-(64 + shift) s. */
struct period {
	uint64_t period, max_error;
	uint8_t shift;
};

/* --- the host's clocks -------------------------------------------------------------------- */

static int ask_kernel(const struct pvclock_vm *vm, struct timex *status)
{
	*status = (struct timex){ .modes = 0 };
	return vm->os->ops->adjtimex ? vm->os->ops->adjtimex(vm->os->ctx, status) : -ENOSYS;
}

/* The narrowest of a few brackets. */
static int read_bracket(const struct pvclock_vm *vm, clockid_t clock, struct reading *reading)
{
	const struct pvclock_os_ops *ops = vm->os->ops;
	uint64_t narrowest = UINT64_MAX;

	for (int i = 0; i < BRACKETS; i++) {
		struct pvclock_host_tsc before = ops->read_tsc(vm->os->ctx), after;
		struct timespec time;
		int error = ops->clock_gettime(vm->os->ctx, clock, &time);

		if (error)
			return error;
		after = ops->read_tsc(vm->os->ctx);
		if (after.ticks - before.ticks >= narrowest)
			continue;
		narrowest = after.ticks - before.ticks;
		reading->before = before;
		reading->after = after;
		reading->time = time;
	}
	return 0;
}

/* What the kernel says has to hold for the time that is read: both sides of a leap second's end are no reading. */
static int read_host(const struct pvclock_vm *vm, uint8_t type, struct reading *reading)
{
	struct timex after;
	int error = 0, state;

	reading->state = ask_kernel(vm, &reading->status);
	for (int i = 0; i < TRIES; i++) {
		if (type == PVCLOCK_VMCLOCK_TAI && (reading->state < 0 || reading->status.tai == 0))
			return -ENODATA; /* CLOCK_TAI is then CLOCK_REALTIME */
		error = read_bracket(vm, type == PVCLOCK_VMCLOCK_TAI ? CLOCK_TAI : CLOCK_REALTIME, reading);
		if (error)
			return error;
		state = ask_kernel(vm, &after);
		if (state == reading->state && after.tai == reading->status.tai && after.freq == reading->status.freq &&
		    after.tick == reading->status.tick)
			return 0;
		reading->state = state;
		reading->status = after;
	}
	return 0; /* it is never at rest: the last word is the kernel's */
}

/* --- a tick's length ------------------------------------------------------------------------ */

/* What a second by CLOCK_MONOTONIC_RAW is in the time of day, in units of 2^-16 ppm: 65536000000 is a second. */
static uint64_t discipline(const struct timex *status)
{
	int64_t tick = status->tick, freq = status->freq;

	if (tick < TICK_US_MIN || tick > TICK_US_MAX)
		tick = TICK_US; /* 0: a table of functions that does not know it */
	if (freq < -FREQ_MAX || freq > FREQ_MAX)
		freq = 0;
	return (uint64_t)(tick * (MILLION / TICK_US) * PPM_UNITS + freq);
}

/*
 * slope's ns per tick, times rate / (2^16 * 10^6), in s and rounded to 64 bits: mantissa * rate < 2^101, so there is room for
 * `scale`, which makes it 64 bits after the division by 10^9 * 10^6. False: no such length has a place there (a counter of less
 * than 1 Hz).
 */
static bool make_period(const struct pvclock_slope *slope, const struct timex *status, struct period *out)
{
	const uint64_t divisor = NS_PER_SEC * (uint64_t)MILLION, nominal = (uint64_t)(MILLION * PPM_UNITS);
	const bool tolerates = status->tolerance > 0 && status->tolerance <= FREQ_MAX;
	const uint64_t tolerance = (uint64_t)(tolerates ? status->tolerance : FREQ_MAX), rate = discipline(status);
	u128 period = 0, line, error;
	int scale = 16, shift;

	do
		period = (((u128)slope->mantissa * rate << --scale) + divisor / 2) / divisor;
	while (period >> 64);
	line = (((u128)slope->mantissa * nominal << scale) + divisor / 2) / divisor;
	shift = scale + 16 - slope->exponent - 64;
	if (shift < 0 || shift > UINT8_MAX)
		return false;
	/* all that the discipline does may end, and the counter be as far off as the kernel reckons with */
	error = (line > period ? line - period : period - line) + period * tolerance / nominal + 2;
	*out = (struct period){ .period = (uint64_t)period, .max_error = (uint64_t)error, .shift = (uint8_t)shift };
	return true;
}

/* --- the page's content ----------------------------------------------------------------------- */

static bool same_counter(const struct pvclock_tsc_transform *a, const struct pvclock_tsc_transform *b)
{
	return tsc_same_rate(a, b) && a->offset == b->offset;
}

static uint8_t leap_of(const struct reading *reading)
{
	switch (reading->state) {
	case TIME_INS:
		return PVCLOCK_VMCLOCK_LEAP_PRE_POS;
	case TIME_DEL:
		return PVCLOCK_VMCLOCK_LEAP_PRE_NEG;
	case TIME_OOP:
		return PVCLOCK_VMCLOCK_LEAP_POS;
	case TIME_WAIT: /* which it was is still asked for, or nothing is */
		return reading->status.status & STA_DEL ? PVCLOCK_VMCLOCK_LEAP_POST_NEG : PVCLOCK_VMCLOCK_LEAP_POST_POS;
	default:
		return PVCLOCK_VMCLOCK_LEAP_NONE;
	}
}

/* ns of so many ticks, and of what is cut off. */
static uint64_t ticks_ns(const struct pvclock_line *line, uint64_t ticks)
{
	struct pvclock_line from_zero = { .mul = line->mul, .shift = line->shift };

	return pvclock_line_ns(&from_zero, ticks) + 2;
}

static void set_time(struct pvclock_vm *vm, struct pvclock_vmclock *page, const struct reading *reading,
		     const struct period *period)
{
	const struct pvclock_tsc_transform *tsc = &vm->vcpus[0]->tsc;
	uint64_t width = reading->after.ticks - reading->before.ticks, ticks, error;
	struct pvclock_host_tsc at = { reading->before.ticks + width / 2 };

	page->counter = pvclock_tsc_to_guest(tsc, at).ticks;
	page->period = period->period;
	page->period_shift = period->shift;
	page->period_max_error = period->max_error;
	page->sec = (uint64_t)reading->time.tv_sec;
	page->frac = (uint64_t)(((u128)(uint64_t)reading->time.tv_nsec << 64) / NS_PER_SEC);
	page->flags |= PVCLOCK_VMCLOCK_PERIOD_MAXERROR_VALID;
	if (page->status != PVCLOCK_VMCLOCK_SYNCHRONIZED)
		return; /* what the kernel says of its error then is only as far as it counts */
	ticks = pvclock_tsc_to_guest(tsc, reading->after).ticks - pvclock_tsc_to_guest(tsc, reading->before).ticks;
	/* to the bracket's middle; the tick that a scaled counter loses at most, and the ns that the clock does */
	error = (ticks_ns(pvclock_vcpu_line(vm->vcpus[0]), ticks + 2) + 1) / 2 + 1;
	page->est_error_ns = (uint64_t)reading->status.esterror * NS_PER_US + error;
	page->max_error_ns = (uint64_t)reading->status.maxerror * NS_PER_US + error;
	page->flags |= PVCLOCK_VMCLOCK_TIME_ESTERROR_VALID | PVCLOCK_VMCLOCK_TIME_MAXERROR_VALID;
}

/*
 * The host has lost its reference, and nobody knows where its clock goes: what the page says goes on as it is, and so do its
 * bounds.
 */
static bool runs_free(const struct pvclock_vm *vm, const struct reading *reading, bool disrupted)
{
	return reading->state == TIME_ERROR && vm->vmclock.begun && !disrupted && pvclock_vmclock_reliable(&vm->vmclock.page);
}

/* Everything between tai_offset and time_maxerror. */
static void make_content(struct pvclock_vm *vm, struct pvclock_vmclock *page, struct reading *reading, bool disrupted)
{
	struct pvclock_slope slope;
	struct period period;
	bool told = read_host(vm, page->time_type, reading) == 0 && vm->unstable.code == PVCLOCK_REASON_NONE;

	page->status = PVCLOCK_VMCLOCK_UNRELIABLE;
	if (reading->state >= 0 && reading->status.tai > 0 && reading->status.tai <= INT16_MAX) {
		page->tai_offset = (int16_t)reading->status.tai;
		page->flags |= PVCLOCK_VMCLOCK_TAI_OFFSET_VALID;
	}
	page->leap = leap_of(reading);
	if (!told || !pvclock_slope_from_line(pvclock_vcpu_line(vm->vcpus[0]), &slope) ||
	    !make_period(&slope, &reading->status, &period))
		return;
	if (runs_free(vm, reading, disrupted)) {
		const struct pvclock_vmclock *before = &vm->vmclock.page;

		page->status = PVCLOCK_VMCLOCK_FREERUNNING;
		page->counter = before->counter;
		page->period = before->period;
		page->period_shift = before->period_shift;
		page->period_max_error = before->period_max_error;
		page->sec = before->sec;
		page->frac = before->frac;
		page->est_error_ns = before->est_error_ns;
		page->max_error_ns = before->max_error_ns;
		page->flags |= before->flags & (PVCLOCK_VMCLOCK_PERIOD_MAXERROR_VALID | PVCLOCK_VMCLOCK_TIME_ESTERROR_VALID |
						PVCLOCK_VMCLOCK_TIME_MAXERROR_VALID);
		return;
	}
	page->status = reading->state < 0 ? PVCLOCK_VMCLOCK_UNKNOWN :
		       reading->state == TIME_ERROR ? PVCLOCK_VMCLOCK_INITIALIZING : PVCLOCK_VMCLOCK_SYNCHRONIZED;
	set_time(vm, page, reading, &period);
}

/* --- the page's life --------------------------------------------------------------------------- */

/*
 * What was there before this engine. It lies in the guest's hands, and nothing in it is used but to be gone on from: a guest that
 * wrote there has changed its own marker, or the kind of time that it gets. No sequence: nobody else writes now, and one that died
 * while writing must not be waited for.
 */
static void adopt(struct pvclock_vm *vm, struct pvclock_vmclock *page)
{
	const uint32_t *words = vm->vmclock.place.host;
	uint32_t kind = pvclock_load_relaxed_u32(&words[2]);
	uint8_t counter = (uint8_t)(kind >> 16), type = (uint8_t)(kind >> 24);
	struct timex status;
	bool knows_tai;

	if (pvclock_load_relaxed_u32(words) == PVCLOCK_VMCLOCK_MAGIC && (kind & 0xffff) == PVCLOCK_VMCLOCK_VERSION &&
	    (counter == PVCLOCK_VMCLOCK_COUNTER_TSC || counter == PVCLOCK_VMCLOCK_COUNTER_INVALID) && type <= PVCLOCK_VMCLOCK_TAI) {
		page->counter_id = counter;
		page->time_type = type;
		page->marker = pvclock_load_relaxed_u32(&words[4]) | (uint64_t)pvclock_load_relaxed_u32(&words[5]) << 32;
		page->generation = pvclock_load_relaxed_u32(&words[26]) | (uint64_t)pvclock_load_relaxed_u32(&words[27]) << 32;
		return;
	}
	knows_tai = ask_kernel(vm, &status) >= 0 && status.tai > 0;
	page->counter_id = vm->unstable.code == PVCLOCK_REASON_NONE || vm->unstable.code == PVCLOCK_REASON_NO_LINE ?
				   PVCLOCK_VMCLOCK_COUNTER_TSC : PVCLOCK_VMCLOCK_COUNTER_INVALID;
	page->time_type = knows_tai && !vm->vmclock.utc ? PVCLOCK_VMCLOCK_TAI : PVCLOCK_VMCLOCK_UTC;
}

/* Until when this is true: a second, or the end of the one in which UTC leaps. */
static uint64_t next_update(const struct pvclock_vmclock *page, const struct reading *reading)
{
	uint64_t left = SECONDS_A_DAY - 1, rest = NS_PER_SEC - (uint64_t)reading->time.tv_nsec;
	int64_t utc = (int64_t)page->sec - (page->time_type == PVCLOCK_VMCLOCK_TAI ? page->tai_offset : 0);

	if (page->leap == PVCLOCK_VMCLOCK_LEAP_POS)
		return rest;
	if (page->leap == PVCLOCK_VMCLOCK_LEAP_PRE_POS || page->leap == PVCLOCK_VMCLOCK_LEAP_PRE_NEG)
		left -= (uint64_t)utc % SECONDS_A_DAY;
	if (page->leap == PVCLOCK_VMCLOCK_LEAP_PRE_NEG && left > 0)
		left--; /* 23:59:58 is the last one */
	return left == 0 ? rest : UPDATE_NS;
}

/* How far the new content is outside of what the old one said. */
static int64_t stepped(const struct pvclock_vmclock *before, const struct pvclock_vmclock *now)
{
	struct pvclock_vmclock_time then;
	uint64_t ns = now->sec * NS_PER_SEC + (uint64_t)((u128)now->frac * NS_PER_SEC >> 64), apart;
	int64_t more;

	pvclock_vmclock_at(before, now->counter, &then);
	more = (int64_t)(ns - pvclock_vmclock_ns(&then));
	apart = more < 0 ? -(uint64_t)more : (uint64_t)more;
	return then.max_error_ns == PVCLOCK_VMCLOCK_ERROR_UNKNOWN || apart <= then.max_error_ns ? 0 : more;
}

int pvclock_vm_fill_vmclock(struct pvclock_vm *vm, struct pvclock_vmclock_update *update)
{
	struct vmclock *vmclock = &vm->vmclock;
	struct pvclock_vmclock page = { .size = (uint32_t)vmclock->size, .flags = PVCLOCK_VMCLOCK_VM_GEN_COUNTER_PRESENT };
	struct pvclock_vmclock_update unused, *into = update ? update : &unused;
	struct reading reading = { .state = -ENODATA };
	const struct pvclock_tsc_transform *counter;
	bool disrupted;

	if (!vmclock->place.host || vm->vcpu_count == 0)
		return -ENODATA;
	counter = &vm->vcpus[0]->tsc;
	disrupted = vmclock->disrupted || (vmclock->begun && !same_counter(&vmclock->counter, counter));
	if (vmclock->begun) {
		page.counter_id = vmclock->page.counter_id;
		page.time_type = vmclock->page.time_type;
		page.marker = vmclock->page.marker;
		page.generation = vmclock->page.generation;
	} else {
		adopt(vm, &page);
	}
	page.marker += disrupted;
	page.generation += vmclock->loaded;
	make_content(vm, &page, &reading, disrupted);
	pvclock_vmclock_write(vmclock->place.host, &page);
	pvclock_vm_mark_dirty(&vmclock->place, sizeof(struct pvclock_vmclock_page));
	into->stepped_ns = 0;
	if (vmclock->begun && !disrupted && page.status == PVCLOCK_VMCLOCK_SYNCHRONIZED)
		into->stepped_ns = stepped(&vmclock->page, &page);
	into->next_ns = next_update(&page, &reading);
	into->page = page;
	vmclock->page = page;
	vmclock->counter = *counter;
	vmclock->begun = true;
	vmclock->disrupted = vmclock->loaded = false;
	return 0;
}

void pvclock_vm_resolve_vmclock(struct pvclock_vm *vm)
{
	if (vm->vmclock.size)
		pvclock_vm_find_place(vm, vm->vmclock.gpa, vm->vmclock.size, &vm->vmclock.place);
	else
		vm->vmclock.place = (struct place){ 0 };
}

/* --- what a VMM calls ------------------------------------------------------------------------------ */

int pvclock_vm_set_vmclock(struct pvclock_vm *vm, struct pvclock_gpa gpa, uint64_t size, unsigned int flags)
{
	struct place place = { 0 };
	int error = 0;

	if (size != 0 && (gpa.address % 8 != 0 || size < sizeof(struct pvclock_vmclock_page) || size > UINT32_MAX))
		return -EINVAL;
	if (flags & ~PVCLOCK_VMCLOCK_WANT_UTC)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	if (size != 0 && !pvclock_vm_find_place(vm, gpa.address, size, &place))
		error = -EINVAL;
	else
		vm->vmclock = (struct vmclock){ .gpa = gpa.address, .size = size, .utc = flags & PVCLOCK_VMCLOCK_WANT_UTC,
						.place = place };
	pthread_mutex_unlock(&vm->lock);
	return error;
}

int pvclock_vm_update_vmclock(struct pvclock_vm *vm, struct pvclock_vmclock_update *update)
{
	int error;

	pthread_mutex_lock(&vm->lock);
	error = vm->paused ? -EBUSY : pvclock_vm_fill_vmclock(vm, update);
	pthread_mutex_unlock(&vm->lock);
	return error;
}

void pvclock_vm_disrupt(struct pvclock_vm *vm, bool loaded)
{
	pthread_mutex_lock(&vm->lock);
	vm->vmclock.disrupted = true;
	vm->vmclock.loaded |= loaded;
	pthread_mutex_unlock(&vm->lock);
}
