/* SPDX-License-Identifier: MIT */
/* source_page_read.c - what the two hypervisors' pages say: each as a clock in ns, and as a slope. */
#include "source.h"

#include <pvclock/hyperv.h>

#include <errno.h>

/* --- pvclock --------------------------------------------------------------------------- */

static int read_kvm(const void *page, struct pvclock_page_copy *copy, const char **why)
{
	struct pvclock_snapshot snapshot;

	switch (pvclock_page_read(page, &snapshot)) {
	case PVCLOCK_READ_BUSY:
		return -EBUSY;
	case PVCLOCK_READ_INVALID:
		*why = "holds no valid line";
		return -ENOTSUP;
	case PVCLOCK_READ_OK:
	default:
		break;
	}
	if (!(snapshot.flags & PVCLOCK_TSC_STABLE)) {
		*why = "is not marked stable: each CPU has a line of its own";
		return -ENOTSUP;
	}
	*copy = (struct pvclock_page_copy){ .version = snapshot.version, .line = snapshot.line };
	return 0;
}

static pvclock_s128 ns_kvm(const struct pvclock_page_copy *copy, uint64_t ticks)
{
	return pvclock_line_ns(&copy->line, ticks);
}

static bool slope_kvm(const struct pvclock_page_copy *copy, struct pvclock_slope *slope)
{
	return pvclock_slope_from_line(&copy->line, slope);
}

static bool line_kvm(const struct pvclock_page_copy *copy, uint64_t ticks, struct pvclock_line *line)
{
	*line = copy->line;
	pvclock_line_reanchor(line, ticks); /* as near as no reading changes */
	return true;
}

const struct pvclock_page_form pvclock_page_form_kvm = {
	.name = "pvclock page",
	.page = PVCLOCK_CLOCK_PAGE_KVM,
	.step_ns = 1,
	.read = read_kvm,
	.ns = ns_kvm,
	.slope = slope_kvm,
	.line = line_kvm,
};

/* --- Hyper-V ---------------------------------------------------------------------------- */

#define NS_PER_UNIT 100

/* While its writer writes the page is no clock either. Long for a writer, short for a reader: about a millisecond. */
#define HYPERV_TRIES 20000u

static int read_hyperv(const void *page, struct pvclock_page_copy *copy, const char **why)
{
	struct pvclock_hyperv_snapshot snapshot;

	for (unsigned int i = 0; i < HYPERV_TRIES; i++) {
		switch (pvclock_hyperv_page_read(page, &snapshot)) {
		case PVCLOCK_READ_OK:
			*copy = (struct pvclock_page_copy){ .version = snapshot.sequence, .hyperv = snapshot.hyperv };
			return 0;
		case PVCLOCK_READ_BUSY:
			return -EBUSY;
		default:
			pvclock_relax();
		}
	}
	*why = "is marked invalid (its sequence is 0)";
	return -ENOTSUP;
}

static pvclock_s128 ns_hyperv(const struct pvclock_page_copy *copy, uint64_t ticks)
{
	/* modulo 2^64 units, as L0's arithmetic: negative before the form's zero */
	return (pvclock_s128)(int64_t)pvclock_hyperv_time(&copy->hyperv, ticks) * NS_PER_UNIT;
}

/* scale * 100 / 2^64 has up to 71 bits: to nearest at 64. */
static bool slope_hyperv(const struct pvclock_page_copy *copy, struct pvclock_slope *slope)
{
	pvclock_u128 product = (pvclock_u128)copy->hyperv.scale * NS_PER_UNIT;
	int exponent = -64, over = 0;

	if (product == 0)
		return false;
	for (; product >> 63 == 0; exponent--)
		product <<= 1;
	while (product >> (64 + over) != 0)
		over++;
	if (over != 0)
		product += (pvclock_u128)1 << (over - 1);
	product >>= over;
	exponent += over;
	if (product >> 64 != 0) { /* rounded up to 2^64 */
		product >>= 1;
		exponent++;
	}
	*slope = (struct pvclock_slope){ .mantissa = (uint64_t)product, .exponent = (int16_t)exponent };
	return true;
}

static bool line_hyperv(const struct pvclock_page_copy *copy, uint64_t ticks, struct pvclock_line *line)
{
	return pvclock_line_from_hyperv(&copy->hyperv, ticks, line);
}

const struct pvclock_page_form pvclock_page_form_hyperv = {
	.name = "Hyper-V TSC page",
	.page = PVCLOCK_CLOCK_PAGE_HYPERV,
	.step_ns = NS_PER_UNIT,
	.read = read_hyperv,
	.ns = ns_hyperv,
	.slope = slope_hyperv,
	.line = line_hyperv,
};
