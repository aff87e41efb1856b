/* SPDX-License-Identifier: MIT */
/* compose.c - the host's clock as a function of a guest's TSC. */
#include "ratio.h"

struct pvclock_guest_tsc pvclock_tsc_to_guest(const struct pvclock_tsc_transform *transform,
					      struct pvclock_host_tsc host)
{
	struct pvclock_guest_tsc guest;
	word ticks = (word)host.ticks;

	if (transform->frac_bits)
		ticks = wide_right(wide_mul(ticks, (word)transform->ratio), transform->frac_bits).lo;
	guest.ticks = (word)(ticks + transform->offset);
	return guest;
}

bool pvclock_slope_to_guest(const struct pvclock_slope *host, const struct pvclock_tsc_transform *transform,
			    struct pvclock_slope *guest)
{
	/* ns per host tick / (guest ticks per host tick), and that is ratio * 2^-frac_bits */
	word ratio = transform->frac_bits ? (word)transform->ratio : 1;

	return slope_from_ratio((word)host->mantissa, ratio, host->exponent + transform->frac_bits, guest);
}

bool pvclock_line_compose(const struct pvclock_tsc_transform *transform, struct pvclock_host_tsc at, uint64_t ns,
			  const struct pvclock_slope *host, struct pvclock_line *guest, bool *exact)
{
	struct pvclock_slope slope;

	return pvclock_slope_to_guest(host, transform, &slope) &&
	       pvclock_line_make(guest, pvclock_tsc_to_guest(transform, at).ticks, ns, &slope, exact);
}
