/* SPDX-License-Identifier: MIT */
#include "deadline.h"

#include <pvclock/line.h>
#include <stdlib.h>

#if defined(__x86_64__)

#define CASES 1024 /* fits the first-level cache; nothing here measures memory */
#define LINES 8
#define REPEATS 301

/* What a division wants to have ready: as much as may be, so that the comparison is of the arithmetic. */
struct divisor {
	uint64_t tsc, ns, span, mul;
	uint8_t up, left; /* ticks = ceil((ns << up) / mul) << left */
	bool valid;
};

struct input {
	uint64_t ns[CASES];
	struct pvclock_inverse inverse[LINES];
	struct divisor divisor[LINES];
};

static struct divisor divisor_make(const struct pvclock_line *line)
{
	struct divisor divisor = { .tsc = line->tsc, .ns = line->ns, .mul = line->mul,
				   .span = pvclock_line_ns(line, UINT64_MAX) - line->ns, .valid = pvclock_line_valid(line) };

	divisor.up = (uint8_t)(32 - (line->shift > 0 ? line->shift : 0));
	divisor.left = (uint8_t)(line->shift < 0 ? -line->shift : 0);
	return divisor;
}

/* The same single comparison decides as in pvclock_first_tick. */
static inline bool no_division(const struct divisor *divisor, uint64_t ns, uint64_t *ticks)
{
	bool reached = divisor->valid && ns <= divisor->ns;

	*ticks = reached ? divisor->tsc : UINT64_MAX;
	return reached;
}

/* The quotient fits 64 bits, because a tick that reaches ns exists. */
static inline bool first_tick_divq(const struct divisor *divisor, uint64_t ns, uint64_t *ticks)
{
	uint64_t n = ns - divisor->ns, quotient, rest;

	if (n - 1 >= divisor->span)
		return no_division(divisor, ns, ticks);
	__asm__("divq %4"
		: "=a"(quotient), "=d"(rest)
		: "a"(n << divisor->up), "d"(n >> (64 - divisor->up)), "r"(divisor->mul)
		: "cc");
	*ticks = divisor->tsc + ((quotient + (rest != 0)) << divisor->left);
	return true;
}

static inline bool first_tick_udivti3(const struct divisor *divisor, uint64_t ns, uint64_t *ticks)
{
	uint64_t n = ns - divisor->ns;
	__extension__ unsigned __int128 shifted = (unsigned __int128)n << divisor->up;

	if (n - 1 >= divisor->span)
		return no_division(divisor, ns, ticks);
	*ticks = divisor->tsc + ((uint64_t)((shifted + divisor->mul - 1) / divisor->mul) << divisor->left);
	return true;
}

static inline uint64_t start_ticks(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

/*
 * One run over all cases. `zero` is 0, unknown to the compiler: what is added to the next target is always 0, but the
 * processor finds out only when the result before is there. That costs each of the three the same two cycles.
 */
#define RUN(name, call, table)                                                                                      \
	__attribute__((noinline)) static double name(const struct input *input, bool dependent)                     \
	{                                                                                                           \
		uint64_t zero = 0, carry = 0, sum = 0, start, end;                                                  \
		__asm__ volatile("" : "+r"(zero));                                                                  \
		start = start_ticks();                                                                              \
		if (dependent) {                                                                                    \
			for (unsigned int i = 0; i < CASES; i++) {                                                  \
				uint64_t ticks;                                                                     \
				sum += call(&input->table[i % LINES], input->ns[i] + (carry & zero), &ticks);       \
				carry = ticks;                                                                      \
			}                                                                                           \
		} else {                                                                                            \
			for (unsigned int i = 0; i < CASES; i++) {                                                  \
				uint64_t ticks;                                                                     \
				sum += call(&input->table[i % LINES], input->ns[i], &ticks);                        \
				__asm__ volatile("" : : "r"(ticks));                                                \
			}                                                                                           \
		}                                                                                                   \
		__asm__ volatile("" : : "r"(sum), "r"(carry));                                                      \
		end = start_ticks();                                                                                \
		return (double)(end - start) / CASES;                                                               \
	}

RUN(run_reciprocal, pvclock_first_tick, inverse)
RUN(run_divq, first_tick_divq, divisor)
RUN(run_udivti3, first_tick_udivti3, divisor)

/* Counters of 1 to 5 GHz, and targets from a few ns to two weeks after the anchor: what guests ask for. */
static void fill(struct input *input)
{
	uint64_t random = 1;
	struct pvclock_slope slope;
	struct pvclock_line line;

	for (unsigned int i = 0; i < LINES; i++) {
		if (!pvclock_slope_from_khz(1000000 + i * 571429, &slope) ||
		    !pvclock_line_make(&line, 1000000 * (uint64_t)i, 12345, &slope, NULL))
			return;
		pvclock_inverse_make(&input->inverse[i], &line);
		input->divisor[i] = divisor_make(&line);
	}
	for (unsigned int i = 0; i < CASES; i++) {
		uint64_t a, b, c;
		const struct pvclock_inverse *inverse = &input->inverse[i % LINES];

		random = random * 6364136223846793005u + 1442695040888963407u;
		input->ns[i] = 12346 + (random >> 14 >> (random >> 33) % 44);
		/* a faster wrong answer is no answer */
		if (pvclock_first_tick(inverse, input->ns[i], &a) !=
			    first_tick_divq(&input->divisor[i % LINES], input->ns[i], &b) ||
		    !first_tick_udivti3(&input->divisor[i % LINES], input->ns[i], &c) || a != b || a != c)
			abort();
	}
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double (*run)(const struct input *, bool), const struct input *input, bool dependent)
{
	double samples[REPEATS];

	for (unsigned int i = 0; i < REPEATS; i++)
		samples[i] = run(input, dependent);
	qsort(samples, REPEATS, sizeof(*samples), compare);
	return samples[REPEATS / 2];
}

static void measure(double *reciprocal, double *divq, double *udivti3, bool dependent)
{
	struct input input;

	fill(&input);
	*reciprocal = median(run_reciprocal, &input, dependent);
	*divq = median(run_divq, &input, dependent);
	*udivti3 = median(run_udivti3, &input, dependent);
}

#else

static void measure(double *reciprocal, double *divq, double *udivti3, bool dependent)
{
	(void)dependent;
	*reciprocal = *divq = *udivti3 = 0;
}

#endif

void bench_deadline(double *reciprocal, double *divq, double *udivti3)
{
	measure(reciprocal, divq, udivti3, true);
}

void bench_deadline_throughput(double *reciprocal, double *divq, double *udivti3)
{
	measure(reciprocal, divq, udivti3, false);
}
