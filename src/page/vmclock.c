/* SPDX-License-Identifier: MIT */
/*
 * vmclock.c - VMClock's page (vmclock.h). Why the protocol works is said in write.c; the words before seq_count are constant, so
 * they may be written and read within it, too.
 */
#include "shared_word.h"

#include <pvclock/vmclock.h>

enum {
	VMCLOCK_MAGIC = 0,
	VMCLOCK_SIZE = 1,
	VMCLOCK_KIND = 2, /* version, counter_id << 16, time_type << 24 */
	VMCLOCK_SEQUENCE = offsetof(struct pvclock_vmclock_page, seq_count) / 4,
	VMCLOCK_MARKER = offsetof(struct pvclock_vmclock_page, disruption_marker) / 4,
	VMCLOCK_FLAGS = offsetof(struct pvclock_vmclock_page, flags) / 4,
	VMCLOCK_STATUS = offsetof(struct pvclock_vmclock_page, pad) / 4,           /* clock_status << 16, hint << 24 */
	VMCLOCK_LEAP = offsetof(struct pvclock_vmclock_page, tai_offset_sec) / 4, /* leap << 16, shift << 24 */
	VMCLOCK_COUNTER = offsetof(struct pvclock_vmclock_page, counter_value) / 4,
	VMCLOCK_PERIOD = offsetof(struct pvclock_vmclock_page, counter_period_frac_sec) / 4,
	VMCLOCK_PERIOD_EST = offsetof(struct pvclock_vmclock_page, counter_period_esterror_rate_frac_sec) / 4,
	VMCLOCK_PERIOD_MAX = offsetof(struct pvclock_vmclock_page, counter_period_maxerror_rate_frac_sec) / 4,
	VMCLOCK_SEC = offsetof(struct pvclock_vmclock_page, time_sec) / 4,
	VMCLOCK_FRAC = offsetof(struct pvclock_vmclock_page, time_frac_sec) / 4,
	VMCLOCK_TIME_EST = offsetof(struct pvclock_vmclock_page, time_esterror_nanosec) / 4,
	VMCLOCK_TIME_MAX = offsetof(struct pvclock_vmclock_page, time_maxerror_nanosec) / 4,
	VMCLOCK_GENERATION = offsetof(struct pvclock_vmclock_page, vm_generation_counter) / 4,
};

#define NS_PER_SEC 1000000000u

void pvclock_vmclock_write(void *page, const struct pvclock_vmclock *clock)
{
	uint32_t *words = page;
	uint32_t even = begin_write(&words[VMCLOCK_SEQUENCE]);

	store_relaxed_u32(&words[VMCLOCK_MAGIC], PVCLOCK_VMCLOCK_MAGIC);
	store_relaxed_u32(&words[VMCLOCK_SIZE], clock->size);
	store_relaxed_u32(&words[VMCLOCK_KIND], PVCLOCK_VMCLOCK_VERSION | (uint32_t)clock->counter_id << 16 |
			  (uint32_t)clock->time_type << 24);
	store_relaxed_halves(&words[VMCLOCK_MARKER], clock->marker);
	store_relaxed_halves(&words[VMCLOCK_FLAGS], clock->flags);
	store_relaxed_u32(&words[VMCLOCK_STATUS], (uint32_t)clock->status << 16 | (uint32_t)clock->smearing_hint << 24);
	store_relaxed_u32(&words[VMCLOCK_LEAP], (uint16_t)clock->tai_offset | (uint32_t)clock->leap << 16 |
			  (uint32_t)clock->period_shift << 24);
	store_relaxed_halves(&words[VMCLOCK_COUNTER], clock->counter);
	store_relaxed_halves(&words[VMCLOCK_PERIOD], clock->period);
	store_relaxed_halves(&words[VMCLOCK_PERIOD_EST], clock->period_est_error);
	store_relaxed_halves(&words[VMCLOCK_PERIOD_MAX], clock->period_max_error);
	store_relaxed_halves(&words[VMCLOCK_SEC], clock->sec);
	store_relaxed_halves(&words[VMCLOCK_FRAC], clock->frac);
	store_relaxed_halves(&words[VMCLOCK_TIME_EST], clock->est_error_ns);
	store_relaxed_halves(&words[VMCLOCK_TIME_MAX], clock->max_error_ns);
	store_relaxed_halves(&words[VMCLOCK_GENERATION], clock->generation);
	store_release_u32(&words[VMCLOCK_SEQUENCE], even);
}

enum pvclock_read pvclock_vmclock_read(const void *page, struct pvclock_vmclock *out)
{
	const uint32_t *words = page;

	for (uint32_t tries = 0; tries < PVCLOCK_READ_TRIES; tries++) {
		struct pvclock_vmclock copy;
		uint32_t magic, kind, status, leap;

		if (begin_read(&words[VMCLOCK_SEQUENCE], &copy.sequence)) {
			magic = pvclock_load_relaxed_u32(&words[VMCLOCK_MAGIC]);
			copy.size = pvclock_load_relaxed_u32(&words[VMCLOCK_SIZE]);
			kind = pvclock_load_relaxed_u32(&words[VMCLOCK_KIND]);
			copy.marker = load_relaxed_halves(&words[VMCLOCK_MARKER]);
			copy.flags = load_relaxed_halves(&words[VMCLOCK_FLAGS]);
			status = pvclock_load_relaxed_u32(&words[VMCLOCK_STATUS]);
			leap = pvclock_load_relaxed_u32(&words[VMCLOCK_LEAP]);
			copy.counter = load_relaxed_halves(&words[VMCLOCK_COUNTER]);
			copy.period = load_relaxed_halves(&words[VMCLOCK_PERIOD]);
			copy.period_est_error = load_relaxed_halves(&words[VMCLOCK_PERIOD_EST]);
			copy.period_max_error = load_relaxed_halves(&words[VMCLOCK_PERIOD_MAX]);
			copy.sec = load_relaxed_halves(&words[VMCLOCK_SEC]);
			copy.frac = load_relaxed_halves(&words[VMCLOCK_FRAC]);
			copy.est_error_ns = load_relaxed_halves(&words[VMCLOCK_TIME_EST]);
			copy.max_error_ns = load_relaxed_halves(&words[VMCLOCK_TIME_MAX]);
			copy.generation = load_relaxed_halves(&words[VMCLOCK_GENERATION]);
			if (end_read(&words[VMCLOCK_SEQUENCE], copy.sequence)) {
				copy.counter_id = (uint8_t)(kind >> 16);
				copy.time_type = (uint8_t)(kind >> 24);
				copy.status = (uint8_t)(status >> 16);
				copy.smearing_hint = (uint8_t)(status >> 24);
				copy.tai_offset = (int16_t)(uint16_t)leap;
				copy.leap = (uint8_t)(leap >> 16);
				copy.period_shift = (uint8_t)(leap >> 24);
				*out = copy;
				return magic == PVCLOCK_VMCLOCK_MAGIC && (kind & 0xffff) == PVCLOCK_VMCLOCK_VERSION &&
				       copy.size >= sizeof(struct pvclock_vmclock_page) ? PVCLOCK_READ_OK : PVCLOCK_READ_INVALID;
			}
		}
		pvclock_relax();
	}
	*out = (struct pvclock_vmclock){ .sequence = 0 };
	return PVCLOCK_READ_BUSY;
}

/* --- arithmetic ------------------------------------------------------------------------- */

/* Of 128 bits, in units of 2^-64 s: seconds and their fraction. */
struct span {
	pvclock_word sec, frac;
};

/* ticks * period / 2^shift; `up`: the next integer, where it is none. The product is at most 2^128 - 2^65 + 1, so that has room. */
static struct span span_of(uint64_t ticks, uint64_t period, unsigned int shift, bool up)
{
	struct span span;
	bool lost = false;

	span.sec = pvclock_word_mul((pvclock_word)ticks, (pvclock_word)period, &span.frac);
	if (shift >= 2 * PVCLOCK_WORD_BITS) {
		lost = span.sec | span.frac;
		span.sec = span.frac = 0;
	} else if (shift >= PVCLOCK_WORD_BITS) {
		shift -= PVCLOCK_WORD_BITS;
		lost = span.frac || (shift && span.sec << (PVCLOCK_WORD_BITS - shift));
		span.frac = span.sec >> shift;
		span.sec = 0;
	} else if (shift) {
		lost = span.frac << (PVCLOCK_WORD_BITS - shift);
		span.frac = span.frac >> shift | span.sec << (PVCLOCK_WORD_BITS - shift);
		span.sec >>= shift;
	}
	if (up && lost && ++span.frac == 0)
		span.sec++;
	return span;
}

/* The error that a span makes, rounded up and saturated. */
static uint64_t span_ns(const struct span *span)
{
	pvclock_word low, whole, ns = pvclock_word_mul(span->frac, NS_PER_SEC, &low);

	ns += low != 0; /* at most 10^9 */
	if (pvclock_word_mul(span->sec, NS_PER_SEC, &whole) || whole > PVCLOCK_WORD_MAX - ns)
		return PVCLOCK_VMCLOCK_ERROR_UNKNOWN;
	return whole + ns;
}

static uint64_t max_error(const struct pvclock_vmclock *clock, uint64_t ticks)
{
	const uint64_t both = PVCLOCK_VMCLOCK_PERIOD_MAXERROR_VALID | PVCLOCK_VMCLOCK_TIME_MAXERROR_VALID;
	struct span grown;
	uint64_t ns;

	if ((clock->flags & both) != both)
		return PVCLOCK_VMCLOCK_ERROR_UNKNOWN;
	grown = span_of(ticks, clock->period_max_error, clock->period_shift, true);
	ns = span_ns(&grown);
	return ns > PVCLOCK_VMCLOCK_ERROR_UNKNOWN - clock->max_error_ns ? PVCLOCK_VMCLOCK_ERROR_UNKNOWN : ns + clock->max_error_ns;
}

void pvclock_vmclock_at(const struct pvclock_vmclock *clock, uint64_t counter, struct pvclock_vmclock_time *time)
{
	uint64_t ticks = counter - clock->counter;
	bool before = ticks >> 63;
	struct span span;

	if (before)
		ticks = -ticks;
	span = span_of(ticks, clock->period, clock->period_shift, before); /* down is up, where it is taken off */
	if (before) {
		time->frac = clock->frac - span.frac;
		time->sec = clock->sec - span.sec - (clock->frac < span.frac);
	} else {
		time->frac = clock->frac + span.frac;
		time->sec = clock->sec + span.sec + (time->frac < span.frac);
	}
	time->max_error_ns = max_error(clock, ticks);
}

/* TAI - UTC as the page has it. `wanted`, of the two. */
static bool to_type(const struct pvclock_vmclock *clock, uint8_t wanted, int64_t *seconds)
{
	*seconds = 0;
	if (clock->time_type == wanted)
		return true;
	if (clock->time_type > PVCLOCK_VMCLOCK_TAI || !(clock->flags & PVCLOCK_VMCLOCK_TAI_OFFSET_VALID))
		return false;
	*seconds = wanted == PVCLOCK_VMCLOCK_TAI ? clock->tai_offset : -clock->tai_offset;
	return true;
}

bool pvclock_vmclock_to_utc(const struct pvclock_vmclock *clock, int64_t *seconds)
{
	return to_type(clock, PVCLOCK_VMCLOCK_UTC, seconds);
}

bool pvclock_vmclock_to_tai(const struct pvclock_vmclock *clock, int64_t *seconds)
{
	return to_type(clock, PVCLOCK_VMCLOCK_TAI, seconds);
}
