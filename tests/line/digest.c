/* SPDX-License-Identifier: MIT */
/*
 * Prints a digest of every function's results over seeded inputs. Built with __int128, without it, and for a 32-bit
 * target with no libc, it must print the same (same_everywhere.sh). Freestanding itself, for that.
 *     PVCLOCK_DIGEST_I386: brings its own start and its own write.
 */
#include <pvclock/line.h>

#define ROUNDS 100000

struct digest {
	uint64_t random, sum;
};

static uint64_t next(struct digest *digest)
{
	uint64_t z = digest->random += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static uint64_t any(struct digest *digest)
{
	uint64_t value = next(digest);

	return value >> (next(digest) & 63);
}

static void add(struct digest *digest, uint64_t value)
{
	digest->sum = (digest->sum ^ value) * 0x100000001b3u;
	digest->sum ^= digest->sum >> 29;
}

static void add_line(struct digest *digest, bool made, const struct pvclock_line *line)
{
	add(digest, made);
	if (made) {
		add(digest, line->tsc);
		add(digest, line->ns);
		add(digest, line->mul);
		add(digest, (uint8_t)line->shift);
	}
}

static void add_slope(struct digest *digest, bool made, const struct pvclock_slope *slope)
{
	add(digest, made);
	if (made) {
		add(digest, slope->mantissa);
		add(digest, (uint16_t)slope->exponent);
	}
}

static struct pvclock_line any_line(struct digest *digest)
{
	struct pvclock_line line;

	line.tsc = any(digest);
	line.ns = any(digest);
	line.mul = (uint32_t)any(digest);
	line.shift = (int8_t)((int)((uint32_t)next(digest) % 65) - 32);
	return line;
}

static struct pvclock_slope any_slope(struct digest *digest)
{
	struct pvclock_slope slope;

	slope.mantissa = next(digest);
	slope.exponent = (int16_t)((int)((uint32_t)next(digest) % 66) - 97);
	return slope;
}

static void read_and_invert(struct digest *digest)
{
	struct pvclock_line line = any_line(digest);
	struct pvclock_inverse inverse;
	uint64_t ticks;

	add(digest, pvclock_line_ns(&line, any(digest)));
	pvclock_inverse_make(&inverse, &line);
	add(digest, inverse.recip_hi);
	add(digest, inverse.recip_lo);
	add(digest, inverse.recip_whole);
	add(digest, inverse.span);
	add(digest, pvclock_first_tick(&inverse, line.ns + any(digest), &ticks));
	add(digest, ticks);
	pvclock_line_reanchor(&line, any(digest));
	add_line(digest, true, &line);
	add(digest, pvclock_line_period_shift(&line));
}

static void make(struct digest *digest)
{
	struct pvclock_slope slope = any_slope(digest), other = slope;
	struct pvclock_line line, old = any_line(digest);
	uint64_t loss = 0, ticks = any(digest), ns = any(digest); /* one call a statement: arguments have no order */
	uint32_t mult = (uint32_t)any(digest);
	unsigned int shift = (unsigned int)((uint32_t)next(digest) % 65);
	bool exact = false;

	add_line(digest, pvclock_line_make(&line, ticks, ns, &slope, &exact), &line);
	add(digest, exact);
	add_line(digest, pvclock_line_make_kvm(&line, 1, 2, mult), &line);
	add_line(digest, pvclock_line_continue(&old, ticks, ns, &slope, &line, &loss), &line);
	add(digest, loss);
	add_slope(digest, pvclock_slope_from_fraction(ns, ticks, &other), &other);
	add(digest, (uint64_t)pvclock_slope_difference(&slope, &other));
	add_slope(digest, pvclock_slope_from_kernel(mult, shift, &other), &other);
	add_slope(digest, pvclock_slope_from_hz(any(digest), &other), &other);
	add_slope(digest, pvclock_slope_from_khz(any(digest), &other), &other);
	add_slope(digest, pvclock_slope_from_line(&old, &other), &other);
	other.mantissa = slope.mantissa + any(digest);
	other.exponent = slope.exponent;
	add(digest, (uint64_t)pvclock_slope_difference(&slope, &other));
}

static void compose(struct digest *digest)
{
	struct pvclock_tsc_transform transform = pvclock_tsc_unscaled(next(digest));
	struct pvclock_host_tsc at;
	struct pvclock_slope slope = any_slope(digest), guest;
	struct pvclock_line line;
	bool exact = false;

	at.ticks = any(digest);
	if (next(digest) & 3) {
		transform.ratio = any(digest);
		transform.frac_bits = (uint8_t)next(digest) & 127;
	}
	add(digest, pvclock_tsc_to_guest(&transform, at).ticks);
	add_slope(digest, pvclock_slope_to_guest(&slope, &transform, &guest), &guest);
	add_line(digest, pvclock_line_compose(&transform, at, any(digest), &slope, &line, &exact), &line);
	add(digest, exact);
}

static void hyperv(struct digest *digest)
{
	struct pvclock_line line = any_line(digest);
	struct pvclock_hyperv_line form;
	bool made = pvclock_line_to_hyperv(&line, &form);

	add(digest, made);
	if (!made) {
		form.scale = any(digest);
		form.offset = (int64_t)any(digest);
	}
	add(digest, form.scale);
	add(digest, (uint64_t)form.offset);
	add(digest, pvclock_hyperv_time(&form, any(digest)));
	add_line(digest, pvclock_line_from_hyperv(&form, any(digest), &line), &line);
}

static void print(const char *text);

static void run(const char *name, void (*function)(struct digest *), uint64_t seed)
{
	struct digest digest = { .random = seed, .sum = 0xcbf29ce484222325u };
	char text[18];

	for (unsigned int i = 0; i < ROUNDS; i++)
		function(&digest);
	for (unsigned int i = 0; i < 16; i++)
		text[i] = "0123456789abcdef"[digest.sum >> (60 - 4 * i) & 15];
	text[16] = '\n';
	text[17] = 0;
	print(name);
	print(text);
}

static void run_all(void)
{
	run("read and invert ", read_and_invert, 1);
	run("make            ", make, 2);
	run("compose         ", compose, 3);
	run("hyperv          ", hyperv, 4);
}

#ifdef PVCLOCK_DIGEST_I386
static void system_call(unsigned long number, unsigned long a, unsigned long b, unsigned long c)
{
	unsigned long result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
}

static void print(const char *text)
{
	unsigned long length = 0;

	while (text[length])
		length++;
	system_call(4, 1, (unsigned long)text, length);
}

void _start(void);
__attribute__((force_align_arg_pointer)) void _start(void)
{
	run_all();
	system_call(1, 0, 0, 0);
}
#else
#include <stdio.h>

static void print(const char *text)
{
	fputs(text, stdout);
}

int main(void)
{
	run_all();
	return 0;
}
#endif
