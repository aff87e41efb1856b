/* SPDX-License-Identifier: MIT */
/*
 * line.h - a clock as a function: ns = line(ticks).
 *
 * A line is what a pvclock page carries (Linux Documentation/virt/kvm/x86/msr.rst,
 * MSR_KVM_SYSTEM_TIME_NEW):
 *
 *     d        = ticks - line.tsc                    (0 where ticks < line.tsc)
 *     line(t)  = line.ns + floor(floor(d * 2^shift) * mul / 2^32)
 *
 * where for a negative shift floor(d * 2^shift) is d >> -shift. Everything here is
 * exact integer arithmetic over the whole 64-bit range; a result that does not fit
 * 64 bits saturates at UINT64_MAX, so a line never goes backwards.
 *
 * All functions are pure, freestanding and callable from any thread or context.
 * `ticks` are those of whatever counter the line was made for; the types below keep
 * the host's and the guest's TSC apart where both are at hand.
 */
#ifndef PVCLOCK_LINE_H
#define PVCLOCK_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The arithmetic is written for a word, and multipliers of half a word. A word has 64 bits. Only the
 * tests say otherwise: they compile the same source at 8 bits, and try every case there is.
 */
#ifndef PVCLOCK_WORD_BITS
#define PVCLOCK_WORD_BITS 64
#endif
#if PVCLOCK_WORD_BITS == 64
typedef uint64_t pvclock_word;
#elif PVCLOCK_WORD_BITS == 8
typedef uint8_t pvclock_word;
#else
#error "PVCLOCK_WORD_BITS is 64, or 8 in tests"
#endif
#define PVCLOCK_WORD_MAX ((pvclock_word)-1)
#define PVCLOCK_MUL_BITS (PVCLOCK_WORD_BITS / 2)

/* a * b: returns the high word, stores the low one. PVCLOCK_NO_INT128 does as targets without __int128 do. */
static inline pvclock_word pvclock_word_mul(pvclock_word a, pvclock_word b, pvclock_word *low)
{
#if PVCLOCK_WORD_BITS == 64 && defined(__SIZEOF_INT128__) && !defined(PVCLOCK_NO_INT128)
	__extension__ unsigned __int128 product = (unsigned __int128)a * b;

	*low = (pvclock_word)product;
	return (pvclock_word)(product >> PVCLOCK_WORD_BITS);
#else
	/* in halves; `middle` is below 3 * 2^32: no sum here overflows */
	const pvclock_word half = PVCLOCK_WORD_MAX >> PVCLOCK_MUL_BITS;
	pvclock_word ah = (pvclock_word)(a >> PVCLOCK_MUL_BITS), al = a & half;
	pvclock_word bh = (pvclock_word)(b >> PVCLOCK_MUL_BITS), bl = b & half;
	pvclock_word ll = (pvclock_word)(al * bl), lh = (pvclock_word)(al * bh);
	pvclock_word hl = (pvclock_word)(ah * bl), hh = (pvclock_word)(ah * bh);
	pvclock_word middle = (pvclock_word)((ll >> PVCLOCK_MUL_BITS) + (lh & half) + (hl & half));

	*low = (pvclock_word)((middle << PVCLOCK_MUL_BITS) | (ll & half));
	return (pvclock_word)(hh + (lh >> PVCLOCK_MUL_BITS) + (hl >> PVCLOCK_MUL_BITS) +
			      (middle >> PVCLOCK_MUL_BITS));
#endif
}

/* The host's TSC, as rdtsc reads it on this machine, before any guest's ratio and offset. */
struct pvclock_host_tsc {
	uint64_t ticks;
};

/* A guest's TSC: host TSC x ratio + offset. */
struct pvclock_guest_tsc {
	uint64_t ticks;
};

#define PVCLOCK_SHIFT_MAX (PVCLOCK_MUL_BITS - 1) /* 31 */
#define PVCLOCK_SHIFT_MIN (-PVCLOCK_SHIFT_MAX)

struct pvclock_line {
	uint64_t tsc;   /* anchor, ticks */
	uint64_t ns;    /* anchor, ns */
	uint32_t mul;   /* ns per (shifted) tick, in units of 2^-32; 0 is invalid */
	int8_t shift;   /* PVCLOCK_SHIFT_MIN ... PVCLOCK_SHIFT_MAX; else invalid */
};

/* True if mul and shift are in range. Every function below takes invalid lines too, and says what they mean. */
static inline bool pvclock_line_valid(const struct pvclock_line *line)
{
	return line->mul != 0 && line->shift >= PVCLOCK_SHIFT_MIN && line->shift <= PVCLOCK_SHIFT_MAX;
}

/*
 * The clock at `ticks`, in ns. Before the anchor the clock reads the anchor's ns; it
 * does not wrap to 584 years. An invalid line reads its anchor's ns everywhere.
 *
 * Inline, because a guest's clock read is little else. One multiplication by halves: mul has
 * 32 bits, so each partial product fits a word, and no target needs more.
 */
static inline uint64_t pvclock_line_ns(const struct pvclock_line *line, uint64_t ticks)
{
	const pvclock_word half = PVCLOCK_WORD_MAX >> PVCLOCK_MUL_BITS;
	pvclock_word d = (pvclock_word)(ticks > line->tsc ? ticks - line->tsc : 0);
	pvclock_word high, low, gain;
	int shift = line->shift;

	if (shift <= 0) { /* any counter of 1 GHz or more */
		if (shift < PVCLOCK_SHIFT_MIN)
			return line->ns;
		d = (pvclock_word)(d >> -shift);
		high = (pvclock_word)((d >> PVCLOCK_MUL_BITS) * line->mul);
		low = (pvclock_word)((d & half) * line->mul);
		/* d * mul < 2^96, so this sum is below 2^64 */
		gain = (pvclock_word)(high + (low >> PVCLOCK_MUL_BITS));
	} else {
		if (shift > PVCLOCK_SHIFT_MAX)
			return line->ns;
		/* d * 2^shift may need more than a word: shift the product instead. */
		high = (pvclock_word)((d >> PVCLOCK_MUL_BITS) * line->mul);
		low = (pvclock_word)((d & half) * line->mul);
		if (high >> (PVCLOCK_WORD_BITS - shift))
			return PVCLOCK_WORD_MAX;
		high = (pvclock_word)(high << shift);
		low = (pvclock_word)(low >> (PVCLOCK_MUL_BITS - shift));
		gain = high > PVCLOCK_WORD_MAX - low ? PVCLOCK_WORD_MAX : (pvclock_word)(high + low);
	}
	return gain > PVCLOCK_WORD_MAX - line->ns ? PVCLOCK_WORD_MAX : line->ns + gain;
}

/* --- slopes ------------------------------------------------------------------------ */

/*
 * ns per tick = mantissa * 2^exponent. Every function here makes it normalised (the top bit of mantissa
 * is set), and takes it either way; mantissa 0 is no slope.
 * Wide enough to hold a kernel's mult/shift and any line's slope exactly, and anything
 * else to 2^-64.
 */
struct pvclock_slope {
	uint64_t mantissa;
	int16_t exponent;
};

/*
 * Each returns false, and leaves *slope alone, if mult, hz, khz, ns or ticks is 0, or the slope is
 * outside what valid lines can have: 2^-63 <= slope < 2^31.
 */
/* The slope of a kernel clocksource: cycles * mult >> shift. Exact. shift 0 ... 63. */
bool pvclock_slope_from_kernel(uint32_t mult, unsigned int shift, struct pvclock_slope *slope);
/* ns/ticks, rounded to nearest at 64 bits. pvclock_slope_from_fraction(1000000000, hz), (1000000, khz). */
bool pvclock_slope_from_fraction(uint64_t ns, uint64_t ticks, struct pvclock_slope *slope);
bool pvclock_slope_from_hz(uint64_t hz, struct pvclock_slope *slope);
bool pvclock_slope_from_khz(uint64_t khz, struct pvclock_slope *slope);
/* A valid line's slope. Exact. */
bool pvclock_slope_from_line(const struct pvclock_line *line, struct pvclock_slope *slope);

/*
 * (a - b) / b in units of 2^-64 (about 5.4e-20), toward zero, saturating at the ends of int64_t
 * (+-0.5). 0 exactly when the two slopes are equal. 1 ppb is 18446744074 units. Against no slope
 * (mantissa 0) anything else is saturated.
 */
int64_t pvclock_slope_difference(const struct pvclock_slope *a, const struct pvclock_slope *b);

/*
 * A line through (ticks, ns) with the nearest mul in [2^31, 2^32) to the slope (of two equally near, the
 * larger): at most 2^-32 (0.2329 ppb) off, and exact wherever 32 bits can hold it.
 * `exact`, if not NULL, says whether nothing was lost. False, and nothing stored: no slope, or
 * out of range (below 2^-32 or, rounded, 2^31 and more ns per tick).
 */
bool pvclock_line_make(struct pvclock_line *line, uint64_t ticks, uint64_t ns, const struct pvclock_slope *slope,
		       bool *exact);

/*
 * The multiplier that Linux KVM makes up from an integer kHz (kvm_get_time_scale: floor instead of
 * nearest, from a truncated kHz). For predicting and comparing only. False: 0 kHz.
 */
bool pvclock_line_make_kvm(struct pvclock_line *line, uint64_t ticks, uint64_t ns, uint32_t tsc_khz);

/* --- re-anchoring ------------------------------------------------------------------ */

/*
 * Moves the anchor as far as possible toward `ticks`, not past it, by a multiple of the
 * line's period: the smallest step at which no reading at or after the new anchor changes, ever.
 * An anchor already past `ticks`, and an invalid line, are left alone.
 */
void pvclock_line_reanchor(struct pvclock_line *line, uint64_t ticks);

/* log2 of that step in ticks: 32 - shift - (trailing zeros of mul), not below 0; so 0 ... 63. 0 for an invalid line. */
unsigned int pvclock_line_period_shift(const struct pvclock_line *line);

/*
 * The same function, over a counter that is `ticks` ahead of the line's own (behind, if negative). Exact, but where the
 * anchor would lie before tick 0: then tick 0 becomes the anchor, with the clock's ns there. A reading is then 0 or 1 ns
 * less, and for a negative shift, whose dropped ticks count anew from there, 1 ns more to 2 ns less. An anchor that
 * would lie beyond the last tick stays there: a counter that passes 2^64 on the way has no line.
 */
void pvclock_line_shift(struct pvclock_line *line, int64_t ticks);

/*
 * Continues `old` with another rate and another counter: `old_ticks` of the old counter and
 * `new_ticks` of the new one are the same instant, and *next takes over there with `slope`.
 *
 * Let E be what `old` is at old_ticks before any floor: neither the fraction of a ns nor the low bits of the
 * ticks that a negative shift drops are lost. Then
 *     next(new_ticks) == floor(E)  >=  old(old_ticks)      never backwards, never ahead of E
 *     0 <= E - (next before any floor) < one new tick      (the slope of *next)
 * which takes an anchor a few ticks before new_ticks. Where there are not that many, because new_ticks is
 * less than a ns from 0, the loss is below 1 ns. `loss`, if not NULL, is E - next in units of 2^-32 ns,
 * rounded up. Where `old` has saturated so has *next, with no loss.
 * False, and nothing stored: `old` invalid, or `slope` out of pvclock_line_make's range.
 */
bool pvclock_line_continue(const struct pvclock_line *old, uint64_t old_ticks, uint64_t new_ticks,
			   const struct pvclock_slope *slope, struct pvclock_line *next, uint64_t *loss);

/* --- the guest's TSC --------------------------------------------------------------- */

#define PVCLOCK_FRAC_BITS_VMX 48 /* Intel SDM 3C 25.3: TSC multiplier */
#define PVCLOCK_FRAC_BITS_SVM 32 /* AMD APM 2 15.30.5: TSC ratio MSR 0xC0000104 */

/* guest TSC = (host TSC * ratio >> frac_bits) + offset, modulo 2^64. frac_bits 0 means unscaled. */
struct pvclock_tsc_transform {
	uint64_t ratio;
	uint64_t offset;
	uint8_t frac_bits;
};

static inline struct pvclock_tsc_transform pvclock_tsc_unscaled(uint64_t offset)
{
	struct pvclock_tsc_transform unscaled;

	unscaled.ratio = 0;
	unscaled.offset = offset;
	unscaled.frac_bits = 0;
	return unscaled;
}

struct pvclock_guest_tsc pvclock_tsc_to_guest(const struct pvclock_tsc_transform *transform,
					      struct pvclock_host_tsc host);

/*
 * The slope per guest tick of a clock that has `host` per host tick; rounded to nearest at 64 bits, exact if
 * unscaled. False, and nothing stored: no slope, ratio 0 where scaled, or out of a slope's range.
 */
bool pvclock_slope_to_guest(const struct pvclock_slope *host, const struct pvclock_tsc_transform *transform,
			    struct pvclock_slope *guest);

/*
 * The guest's line for a clock that at host TSC `at` reads `ns` and has the slope `host`. At every host TSC
 * from `at` on, the guest's line at the guest TSC of that moment is within 1 guest tick (the guest TSC
 * has no fraction), the rounding of pvclock_line_make and the reader's own floor of the exact clock.
 * `exact`, if not NULL: the rate lost nothing beyond pvclock_slope_to_guest. False as there.
 */
bool pvclock_line_compose(const struct pvclock_tsc_transform *transform, struct pvclock_host_tsc at, uint64_t ns,
			  const struct pvclock_slope *host, struct pvclock_line *guest, bool *exact);

/* --- a guest's guest --------------------------------------------------------------- */

/*
 * A clock's line became another: what its counter read as old_ticks, with `old`, is the instant at which it reads next_ticks, with
 * `next`. The two differ where a counter could not be set to go on from where it was.
 */
struct pvclock_line_change {
	struct pvclock_line old, next;
	uint64_t old_ticks, next_ticks;
};

/*
 * What becomes of the clock of a guest's guest, a line over a counter that `transform` makes of the guest's own, when
 * the guest's own line changes: *next keeps its distance from the guest's clock. With from = transform(old_ticks), to =
 * transform(next_ticks):
 *     *next(to) - *old(from)  is 0 or 1 ns           (plus the jump, where the guest's clock was made to jump)
 * and the slope is parent->next's over the transform; where parent->next has the slope of parent->old, *old's own, bit
 * for bit, moved by to - from. `next` may be `old`. False, and nothing stored: a line is invalid, or the slope over the
 * transform out of range.
 */
bool pvclock_line_follow(const struct pvclock_line_change *parent, const struct pvclock_tsc_transform *transform,
			 const struct pvclock_line *old, struct pvclock_line *next);

/* --- first tick: the inverse ------------------------------------------------------- */

/*
 * The inverse of one line, with the reciprocal of its slope cached, so that the hot path has
 * no division. Make it again whenever the line changes (the page's version says so).
 */
struct pvclock_inverse {
	uint64_t tsc, ns;                         /* the line's anchor */
	uint64_t span;                            /* how many ns after the anchor's any 64-bit tick reaches */
	uint64_t recip_whole, recip_hi, recip_lo; /* shifted ticks per ns, in units of 2^-128: src/line/inverse.c */
	uint8_t left;                             /* ticks = (floor(ns * recip) + 1) << left */
	bool valid;
};

void pvclock_inverse_make(struct pvclock_inverse *inverse, const struct pvclock_line *line);

/*
 * The first tick at or after the anchor at which line(tick) >= ns: never early, never a tick
 * late, over all 64 bits. True and *ticks, or false if no 64-bit tick reaches ns (or the line is invalid);
 * *ticks is then UINT64_MAX.
 */
static inline bool pvclock_first_tick(const struct pvclock_inverse *inverse, uint64_t ns, uint64_t *ticks)
{
	pvclock_word n = (pvclock_word)(ns - inverse->ns), high, low, carried, unused;

	/* 1 <= n <= span, in one comparison; an ns before the anchor's wraps to beyond any span */
	if ((pvclock_word)(n - 1) < inverse->span) {
		/* Some tick reaches ns, and what follows is at most that tick: no step overflows. */
		high = pvclock_word_mul(n, (pvclock_word)inverse->recip_hi, &low);
		carried = pvclock_word_mul(n, (pvclock_word)inverse->recip_lo, &unused);
		high = (pvclock_word)(high + n * inverse->recip_whole + 1 + ((pvclock_word)(low + carried) < carried));
		*ticks = inverse->tsc + (pvclock_word)(high << inverse->left);
		return true;
	}
	if (inverse->valid && ns <= inverse->ns) {
		*ticks = inverse->tsc;
		return true;
	}
	*ticks = PVCLOCK_WORD_MAX;
	return false;
}

/* --- Hyper-V's form ---------------------------------------------------------------- */

/* TLFS 12.7 (reference TSC page): time in 100 ns units = ((tsc * scale) >> 64) + offset, modulo 2^64. */
struct pvclock_hyperv_line {
	uint64_t scale;
	int64_t offset;
};

#define PVCLOCK_HYPERV_UNIT_NS 100

static inline uint64_t pvclock_hyperv_time(const struct pvclock_hyperv_line *hyperv, uint64_t ticks)
{
	pvclock_word unused;

	return pvclock_word_mul((pvclock_word)ticks, (pvclock_word)hyperv->scale, &unused) + (uint64_t)hyperv->offset;
}

/*
 * The scale is rounded to nearest; the offset is the one that puts the result less than a unit from the line
 * before any floor. So d ticks after the line's anchor, as long as the line has not saturated,
 *     -1 - d * 2^-65  <  pvclock_hyperv_time - line(t)/100  <  1.02 + d * 2^-65
 * (0.02: a reader of the line floors twice, 1 ns each). False, and nothing stored: the line is invalid, or its
 * slope has no place in Hyper-V's form (100 ns or more per tick, or so little that the scale is 0).
 */
bool pvclock_line_to_hyperv(const struct pvclock_line *line, struct pvclock_hyperv_line *hyperv);

/*
 * A line from Hyper-V's form, anchored at `ticks`. There, and as long as the two slopes do not part:
 *     0  <=  line(ticks) - 100 * pvclock_hyperv_time  <  100 ns     (the form's own fraction is kept)
 * and the slope is within 2^-32. False, and nothing stored: scale 0, the slope out of
 * pvclock_line_make's range, or a time there that 64 bits of ns cannot hold (as before the form's zero).
 */
bool pvclock_line_from_hyperv(const struct pvclock_hyperv_line *hyperv, uint64_t ticks, struct pvclock_line *line);

#ifdef __cplusplus
}
#endif
#endif
