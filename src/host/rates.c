/* SPDX-License-Identifier: MIT */
/* rates.c - a TSC's rate as KVM deals with it: whole kHz, a tolerance, and a ratio of 32 or 48 fraction bits. */
#include <pvclock/plan.h>

/* Module parameter tsc_tolerance_ppm: a guest's rate within this of the host's is run unscaled. */
#define TOLERANCE_PPM 250u

uint64_t pvclock_rate_khz(const struct pvclock_slope *slope)
{
	unsigned __int128 quotient;
	int shift = 100 + slope->exponent;

	if (!(slope->mantissa >> 63) || shift < 1 || shift > 63)
		return 0;
	quotient = ((unsigned __int128)1000000 << 100) / slope->mantissa;
	return (uint64_t)((quotient + ((uint64_t)1 << (shift - 1))) >> shift);
}

bool pvclock_rates_alike(const struct pvclock_slope *a, const struct pvclock_slope *b)
{
	const int64_t tolerance = INT64_MAX / 1000000 * 2 * TOLERANCE_PPM; /* in units of 2^-64 */
	int64_t difference = pvclock_slope_difference(a, b);

	return difference > -tolerance && difference < tolerance;
}

struct pvclock_tsc_transform pvclock_rate_ratio(uint64_t khz, uint64_t host_khz, uint8_t frac_bits)
{
	unsigned __int128 ratio = host_khz && frac_bits ? ((unsigned __int128)khz << frac_bits) / host_khz : 0;
	struct pvclock_tsc_transform transform = pvclock_tsc_unscaled(0);

	if (ratio == 0 || ratio > UINT64_MAX)
		return transform;
	transform.ratio = (uint64_t)ratio;
	transform.frac_bits = frac_bits;
	return transform;
}
