/* SPDX-License-Identifier: MIT */
/* Any line, any ticks, any target: the promises of line.h, without an oracle. */
#include "check.h"

#include <pvclock/line.h>

#include <string.h>

struct input {
	struct pvclock_line line;
	uint64_t ticks[2], ns;
	struct pvclock_slope slope;
	struct pvclock_tsc_transform transform;
	struct pvclock_hyperv_line hyperv;
};

static void read_and_invert(const struct input *in)
{
	const struct pvclock_line *line = &in->line;
	uint64_t a = in->ticks[0], b = in->ticks[1], tick;
	struct pvclock_inverse inverse;

	/* P2: never backwards, never before the anchor */
	check((a <= b) == (pvclock_line_ns(line, a) <= pvclock_line_ns(line, b)) ||
	      pvclock_line_ns(line, a) == pvclock_line_ns(line, b));
	check(pvclock_line_ns(line, a) >= line->ns);
	check(a > line->tsc || pvclock_line_ns(line, a) == line->ns);

	/* P5: the first tick */
	pvclock_inverse_make(&inverse, line);
	if (pvclock_first_tick(&inverse, in->ns, &tick)) {
		check(pvclock_line_valid(line) && tick >= line->tsc && pvclock_line_ns(line, tick) >= in->ns);
		check(tick == line->tsc || pvclock_line_ns(line, tick - 1) < in->ns);
	} else {
		check(tick == UINT64_MAX);
		check(!pvclock_line_valid(line) || pvclock_line_ns(line, UINT64_MAX) < in->ns);
	}
}

static void reanchor(const struct input *in)
{
	struct pvclock_line line = in->line;
	uint64_t at = in->ticks[1];

	pvclock_line_reanchor(&line, in->ticks[0]);
	check(line.tsc >= in->line.tsc && line.mul == in->line.mul && line.shift == in->line.shift);
	check(line.tsc == in->line.tsc || line.tsc <= in->ticks[0]);
	check(pvclock_line_period_shift(&line) <= 63);
	for (unsigned int i = 0; i < 8; i++, at = at * 5 + 1)
		check(at < line.tsc || pvclock_line_ns(&line, at) == pvclock_line_ns(&in->line, at));
}

static void make_and_continue(const struct input *in)
{
	struct pvclock_line next, kvm;
	struct pvclock_slope slope;
	uint64_t loss, now = pvclock_line_ns(&in->line, in->ticks[0]);
	bool exact;

	if (pvclock_line_make(&next, in->ticks[0], in->ns, &in->slope, &exact)) {
		check(pvclock_line_valid(&next) && next.mul >> 31 && pvclock_slope_from_line(&next, &slope));
		/* P3: within 2^-32, which is 2^32 units of 2^-64 */
		int64_t difference = pvclock_slope_difference(&slope, &in->slope);

		check(exact == (difference == 0));
		check(difference >= -(INT64_C(1) << 32) && difference <= INT64_C(1) << 32);
	}
	if (pvclock_line_continue(&in->line, in->ticks[0], in->ticks[1], &in->slope, &next, &loss)) {
		uint64_t then = pvclock_line_ns(&next, in->ticks[1]);

		check(pvclock_line_valid(&next) && then >= now && then - now <= 1 && loss <= UINT64_C(1) << 32);
	}
	if (pvclock_line_make_kvm(&kvm, 0, 0, (uint32_t)in->ns))
		check(pvclock_line_valid(&kvm) && kvm.mul >> 31);
	if (pvclock_slope_from_fraction(in->ns, in->ticks[0], &slope))
		check(slope.mantissa >> 63);
	if (pvclock_slope_from_kernel(in->line.mul, (unsigned int)in->ns & 127, &slope))
		check(slope.mantissa >> 63);
	check(in->slope.mantissa == 0 || pvclock_slope_difference(&in->slope, &in->slope) == 0);
}

static void compose(const struct input *in)
{
	struct pvclock_host_tsc at = { .ticks = in->ticks[0] };
	struct pvclock_line guest;

	if (pvclock_line_compose(&in->transform, at, in->ns, &in->slope, &guest, NULL)) {
		check(pvclock_line_valid(&guest));
		check(pvclock_line_ns(&guest, pvclock_tsc_to_guest(&in->transform, at).ticks) == in->ns);
	}
}

static void hyperv(const struct input *in)
{
	struct pvclock_hyperv_line form;
	struct pvclock_line line;

	if (pvclock_line_to_hyperv(&in->line, &form)) {
		int64_t apart = (int64_t)(pvclock_hyperv_time(&form, in->line.tsc) - in->line.ns / 100);

		check(apart >= 0 && apart <= 1); /* P12: less than a unit from an ns that may have a fraction */
	}
	if (pvclock_line_from_hyperv(&in->hyperv, in->ticks[0], &line))
		check(pvclock_line_valid(&line) && line.ns / 100 == pvclock_hyperv_time(&in->hyperv, in->ticks[0]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in;

	memset(&in, 0, sizeof(in));
	memcpy(&in, data, size < sizeof(in) ? size : sizeof(in));
	read_and_invert(&in);
	reanchor(&in);
	make_and_continue(&in);
	compose(&in);
	hyperv(&in);
	return 0;
}
