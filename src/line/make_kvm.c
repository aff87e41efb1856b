/* SPDX-License-Identifier: MIT */
/*
 * make_kvm.c - the line that Linux KVM would make: arch/x86/kvm/x86.c, kvm_get_time_scale(1000000000, khz * 1000).
 *
 * KVM brings the rate into (10^9, 2 * 10^9], by halving, which drops bits, or by doubling, and divides 10^9 * 2^32 by
 * that, rounding down. So mul is in [2^31, 2^32), as in pvclock_line_make, but always a little low in the quotient
 * and a little high for the dropped bits.
 */
#include "wide.h"

bool pvclock_line_make_kvm(struct pvclock_line *line, uint64_t ticks, uint64_t ns, uint32_t tsc_khz)
{
	const word ns_per_s = 1000000000;
	word rate = (word)tsc_khz * 1000, rest;
	int shift = 0;

	if (rate == 0)
		return false;
	for (; rate > 2 * ns_per_s; rate >>= 1)
		shift--;
	for (; rate <= ns_per_s; rate <<= 1)
		shift++;

	line->tsc = ticks;
	line->ns = ns;
	line->mul = (uint32_t)wide_div(wide_shifted(ns_per_s, MUL_BITS), rate, &rest);
	line->shift = (int8_t)shift;
	return true;
}
