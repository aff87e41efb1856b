/* SPDX-License-Identifier: MIT */
/* check.h - seeded random values that like boundaries, and a check that says how to repeat its failure. */
#ifndef PVCLOCK_TESTS_LINE_CHECK_H
#define PVCLOCK_TESTS_LINE_CHECK_H

/* what cmocka.h wants before it */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <limits.h>
#include <pvclock/line.h>
#include <stdlib.h>

#include "../random.h"

struct random {
	uint64_t seed, state;
	unsigned long rounds;
};

static inline uint64_t from_environment(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value && *value ? strtoull(value, NULL, 0) : otherwise;
}

static inline struct random random_start(unsigned long rounds)
{
	struct random random;

	random.seed = random.state = from_environment("PVCLOCK_SEED", 1);
	random.rounds = (unsigned long)from_environment("PVCLOCK_ROUNDS", rounds);
	return random;
}

static inline uint64_t random_u64(struct random *random)
{
	return splitmix64(&random->state);
}

static inline uint64_t random_below(struct random *random, uint64_t limit)
{
	return random_u64(random) % limit;
}

/* Any magnitude alike, often next to a power of two or to an end of the range. */
static inline uint64_t random_any(struct random *random)
{
	uint64_t value = random_u64(random);
	unsigned int bits = (unsigned int)random_below(random, 64);

	switch (random_below(random, 8)) {
	case 0: return value;
	case 1: return value % 8;
	case 2: return UINT64_MAX - value % 8;
	case 3: return ((uint64_t)1 << bits) + value % 5 - 2;
	default: return value >> bits;
	}
}

static inline uint32_t random_mul(struct random *random)
{
	for (;;) {
		uint32_t mul = (uint32_t)random_u64(random);

		switch (random_below(random, 6)) {
		case 0: mul |= 0x80000000u; break; /* what pvclock_line_make makes */
		case 1: mul <<= random_below(random, 32); break;
		case 2: mul = (uint32_t)random_any(random); break;
		case 3: mul = UINT32_MAX - mul % 4; break;
		case 4: mul >>= random_below(random, 32); break;
		default: break;
		}
		if (mul)
			return mul;
	}
}

static inline int8_t random_shift(struct random *random)
{
	return (int8_t)((int)random_below(random, 63) - 31);
}

static inline struct pvclock_line random_line(struct random *random)
{
	struct pvclock_line line;

	line.tsc = random_any(random);
	line.ns = random_any(random);
	line.mul = random_mul(random);
	line.shift = random_shift(random);
	return line;
}

/* Mostly what hardware has: 100 MHz to 10 GHz; some beyond. */
static inline struct pvclock_slope random_slope(struct random *random)
{
	struct pvclock_slope slope;

	slope.mantissa = random_u64(random) | (uint64_t)1 << 63;
	switch (random_below(random, 4)) {
	case 0: slope.exponent = (int16_t)(-95 + (int)random_below(random, 62)); break;
	default: slope.exponent = (int16_t)(-67 + (int)random_below(random, 7)); break;
	}
	return slope;
}

#define LINE_FORMAT "line{tsc %" PRIu64 ", ns %" PRIu64 ", mul %" PRIu32 ", shift %d}"
#define LINE_VALUES(line) (line).tsc, (line).ns, (line).mul, (line).shift

#define check(random, condition, ...)                                                                          \
	do {                                                                                                   \
		if (!(condition)) {                                                                            \
			print_error("%s\n", #condition);                                                       \
			print_error(__VA_ARGS__);                                                              \
			print_error("\nrepeat with: PVCLOCK_SEED=%" PRIu64 " PVCLOCK_ROUNDS=%lu\n",            \
				    (random)->seed, (random)->rounds);                                         \
			fail();                                                                                \
		}                                                                                              \
	} while (0)

#endif
