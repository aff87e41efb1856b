/* SPDX-License-Identifier: MIT */
#include "oracle.h"

uint64_t oracle_ns(const struct pvclock_line *line, uint64_t ticks)
{
	uint64_t result = UINT64_MAX;
	mpz_t ns;

	if (ticks <= line->tsc || line->mul == 0 || line->shift < -31 || line->shift > 31)
		return line->ns;
	mpz_init_set_ui(ns, ticks - line->tsc);
	if (line->shift < 0)
		mpz_fdiv_q_2exp(ns, ns, (mp_bitcnt_t)-line->shift);
	else
		mpz_mul_2exp(ns, ns, (mp_bitcnt_t)line->shift);
	mpz_mul_ui(ns, ns, line->mul);
	mpz_fdiv_q_2exp(ns, ns, 32);
	mpz_add_ui(ns, ns, line->ns);
	if (mpz_sizeinbase(ns, 2) <= 64)
		result = mpz_get_ui(ns);
	mpz_clear(ns);
	return result;
}

void oracle_scaled(uint64_t a, int exponent, mpq_t value)
{
	mpq_set_ui(value, a, 1);
	if (exponent < 0)
		mpq_div_2exp(value, value, (mp_bitcnt_t)-exponent);
	else
		mpq_mul_2exp(value, value, (mp_bitcnt_t)exponent);
}

void oracle_slope(const struct pvclock_slope *slope, mpq_t value)
{
	oracle_scaled(slope->mantissa, slope->exponent, value);
}

void oracle_line_slope(const struct pvclock_line *line, mpq_t value)
{
	oracle_scaled(line->mul, line->shift - 32, value);
}

void oracle_exact_ns(const struct pvclock_line *line, uint64_t ticks, mpq_t ns)
{
	mpq_t term;

	mpq_init(term);
	oracle_line_slope(line, ns);
	mpq_set_ui(term, ticks > line->tsc ? ticks - line->tsc : 0, 1);
	mpq_mul(ns, ns, term);
	mpq_set_ui(term, line->ns, 1);
	mpq_add(ns, ns, term);
	mpq_clear(term);
}

bool oracle_within(const mpq_t a, const mpq_t b, int exponent)
{
	mpq_t apart, limit;
	bool within;

	mpq_inits(apart, limit, NULL);
	mpq_sub(apart, a, b);
	mpq_abs(apart, apart);
	oracle_scaled(1, exponent, limit);
	mpq_mul(limit, limit, b);
	within = mpq_cmp(apart, limit) <= 0;
	mpq_clears(apart, limit, NULL);
	return within;
}
