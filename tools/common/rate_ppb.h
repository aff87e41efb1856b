/* SPDX-License-Identifier: MIT */
/* rate_ppb.h - by how much one rate differs from another, for people. The library's own measure ends at one half. */
#ifndef TOOLS_RATE_PPB_H
#define TOOLS_RATE_PPB_H

#include <pvclock/line.h>

static inline double rate_ppb(const struct pvclock_slope *is, const struct pvclock_slope *was)
{
	int64_t units = pvclock_slope_difference(is, was);
	double ratio = (double)is->mantissa / (double)was->mantissa;

	if (units != INT64_MAX && units != INT64_MIN && units != -INT64_MAX)
		return (double)units / 18446744073.709551616; /* 2^-64 units in a ppb */
	for (int e = is->exponent; e < was->exponent; e++)
		ratio /= 2;
	for (int e = is->exponent; e > was->exponent; e--)
		ratio *= 2;
	return (ratio - 1) * 1e9;
}

/* Of lines; 0 where one of them is none. */
static inline double line_rate_ppb(const struct pvclock_line *is, const struct pvclock_line *was)
{
	struct pvclock_slope now, before;

	return pvclock_slope_from_line(is, &now) && pvclock_slope_from_line(was, &before) ? rate_ppb(&now, &before) : 0;
}

#endif
