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
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The host's TSC, as rdtsc reads it on this machine, before any guest's ratio and offset. */
struct pvclock_host_tsc {
	uint64_t ticks;
};

/* A guest's TSC: host TSC x ratio + offset. */
struct pvclock_guest_tsc {
	uint64_t ticks;
};

#define PVCLOCK_SHIFT_MIN (-31)
#define PVCLOCK_SHIFT_MAX 31

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
 */
uint64_t pvclock_line_ns(const struct pvclock_line *line, uint64_t ticks);

/* --- slopes ------------------------------------------------------------------------ */

/*
 * ns per tick = mantissa * 2^exponent. Normalised: the top bit of mantissa is set.
 * Wide enough to hold a kernel's mult/shift and any line's slope exactly, and anything
 * else to 2^-64.
 */
struct pvclock_slope {
	uint64_t mantissa;
	int16_t exponent;
};

/*
 * Each returns false, and leaves *slope alone, if an argument is 0 or the slope does
 * not fit a line's range.
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
 * (+-0.5). 0 exactly when the two slopes are equal. 1 ppb is 18446744074 units.
 */
int64_t pvclock_slope_difference(const struct pvclock_slope *a, const struct pvclock_slope *b);

/*
 * A line through (ticks, ns) with the nearest mul in [2^31, 2^32) to the slope: at most
 * 2^-32 (0.2329 ppb) off, and exact wherever 32 bits can hold it. False: out of range.
 * `exact`, if not NULL, says whether nothing was lost.
 */
bool pvclock_line_make(struct pvclock_line *line, uint64_t ticks, uint64_t ns, const struct pvclock_slope *slope,
		       bool *exact);

/*
 * The multiplier that Linux KVM makes up from an integer kHz (kvm_get_time_scale: floor instead of
 * nearest, from a truncated kHz). For predicting and comparing only.
 */
bool pvclock_line_make_kvm(struct pvclock_line *line, uint64_t ticks, uint64_t ns, uint32_t tsc_khz);

/* --- re-anchoring ------------------------------------------------------------------ */

/*
 * Moves the anchor as far as possible toward `ticks`, not past it, by a multiple of the
 * line's period: the smallest step at which no reading at or after the new anchor changes, ever.
 * An anchor already past `ticks`, and an invalid line, are left alone.
 */
void pvclock_line_reanchor(struct pvclock_line *line, uint64_t ticks);

/* log2 of that step in ticks, 0 ... 63; at most max(-shift, 32 - shift). */
unsigned int pvclock_line_period_shift(const struct pvclock_line *line);

/*
 * Continues `old` with another rate and another counter: `old_ticks` of the old counter and
 * `new_ticks` of the new one are the same instant, and *next takes over there with `slope`.
 * next(new_ticks) >= old(old_ticks): never backwards; and what is lost against the exact
 * (fractional) value of the old line is less than one new tick plus one new line's rounding: the loss, in units
 * of 2^-32 ns, is stored in *loss if not NULL. False: `old` or `slope` invalid.
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
	return (struct pvclock_tsc_transform){ .ratio = 0, .offset = offset, .frac_bits = 0 };
}

struct pvclock_guest_tsc pvclock_tsc_to_guest(const struct pvclock_tsc_transform *transform,
					      struct pvclock_host_tsc host);

/* The slope per guest tick of a clock that has `host` per host tick; rounded to nearest at 64 bits, exact if unscaled. */
bool pvclock_slope_to_guest(const struct pvclock_slope *host, const struct pvclock_tsc_transform *transform,
			    struct pvclock_slope *guest);

/*
 * The guest's line for a clock that at host TSC `at` reads `ns` and has the slope `host`. The
 * result is within 1 guest tick and the rounding of pvclock_line_make of the exact composition.
 */
bool pvclock_line_compose(const struct pvclock_tsc_transform *transform, struct pvclock_host_tsc at, uint64_t ns,
			  const struct pvclock_slope *host, struct pvclock_line *guest, bool *exact);

/* --- first tick: the inverse ------------------------------------------------------- */

/*
 * The inverse of one line, with the reciprocal of its slope cached, so that the hot path has
 * no division. Make it again whenever the line changes (the page's version says so).
 */
struct pvclock_inverse {
	uint64_t tsc, ns;          /* the line's anchor */
	uint64_t recip_hi, recip_lo; /* floor((2^128 - 1) / mul) */
	uint8_t right, left;       /* ticks = ((ns * recip >> right) + 1) << left */
	bool valid;
};

void pvclock_inverse_make(struct pvclock_inverse *inverse, const struct pvclock_line *line);

/*
 * The first tick at or after the anchor at which line(tick) >= ns: never early, never a tick
 * late, over all 64 bits. True and *ticks, or false if no 64-bit tick reaches ns (or the line is invalid);
 * *ticks is then UINT64_MAX.
 */
bool pvclock_first_tick(const struct pvclock_inverse *inverse, uint64_t ns, uint64_t *ticks);

/* --- Hyper-V's form ---------------------------------------------------------------- */

/* TLFS 12.7 (reference TSC page): time in 100 ns units = ((tsc * scale) >> 64) + offset, modulo 2^64. */
struct pvclock_hyperv_line {
	uint64_t scale;
	int64_t offset;
};

static inline uint64_t pvclock_hyperv_time(const struct pvclock_hyperv_line *hyperv, uint64_t ticks);

/*
 * False if the line is invalid or faster than Hyper-V's form can say (100 ns or more per tick).
 * For d ticks after the line's anchor the result differs from line(t)/100 by less than
 * 2 + d * 2^-65 units (the scale is rounded to nearest, both floors lose at most one unit).
 */
bool pvclock_line_to_hyperv(const struct pvclock_line *line, struct pvclock_hyperv_line *hyperv);

/*
 * A line from Hyper-V's form, anchored at `ticks`: continuous there to 100 ns (all that the form holds), slope to
 * 2^-32 relative. False: scale 0, or out of a line's range.
 */
bool pvclock_line_from_hyperv(const struct pvclock_hyperv_line *hyperv, uint64_t ticks, struct pvclock_line *line);

static inline uint64_t pvclock_hyperv_time(const struct pvclock_hyperv_line *hyperv, uint64_t ticks)
{
	/* high half of a 64x64 product, in halves: the same on every target */
	uint64_t a = ticks >> 32, b = ticks & 0xffffffffu;
	uint64_t c = hyperv->scale >> 32, d = hyperv->scale & 0xffffffffu;
	uint64_t low = (b * d >> 32) + (a * d & 0xffffffffu) + (b * c & 0xffffffffu);
	return a * c + (a * d >> 32) + (b * c >> 32) + (low >> 32) + (uint64_t)hyperv->offset;
}

#ifdef __cplusplus
}
#endif
#endif
