/* SPDX-License-Identifier: MIT */
/* oracle.h - the definitions of line.h, written down in arbitrary precision and nothing else. */
#ifndef PVCLOCK_TESTS_LINE_ORACLE_H
#define PVCLOCK_TESTS_LINE_ORACLE_H

#include <gmp.h>
#include <pvclock/line.h>

_Static_assert(sizeof(unsigned long) == 8, "mpz_set_ui takes a whole word");

/* line(ticks), saturated, as line.h defines it */
uint64_t oracle_ns(const struct pvclock_line *line, uint64_t ticks);
/* the same before any floor, not saturated */
void oracle_exact_ns(const struct pvclock_line *line, uint64_t ticks, mpq_t ns);
/* a * 2^exponent, any sign of exponent */
void oracle_scaled(uint64_t a, int exponent, mpq_t value);
void oracle_slope(const struct pvclock_slope *slope, mpq_t value);
void oracle_line_slope(const struct pvclock_line *line, mpq_t value);
/* |a - b| <= b * 2^exponent */
bool oracle_within(const mpq_t a, const mpq_t b, int exponent);

#endif
