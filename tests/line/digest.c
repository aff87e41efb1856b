/* SPDX-License-Identifier: MIT */
/*
 * Prints a digest of every function's results over seeded inputs: of lines, of the bytes of the pages that a guest and
 * its host share, and of what a guest's clocks read. Built with __int128, without it, for a 32-bit target with no libc
 * (freestanding.sh), and for other machines (scripts/cross.sh), it must print the same. Freestanding itself, for that.
 *     PVCLOCK_DIGEST_I386: brings its own start and its own write.
 */
#include <pvclock/clock.h>
#include <pvclock/vmclock.h>

#include "../random.h"

#define ROUNDS 100000

struct digest {
	uint64_t random, sum;
};

static uint64_t next(struct digest *digest)
{
	return splitmix64(&digest->random);
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

static void follow(struct digest *digest)
{
	struct pvclock_tsc_transform transform = pvclock_tsc_unscaled(any(digest));
	struct pvclock_line_change change;
	struct pvclock_line line = any_line(digest);

	change.old = any_line(digest);
	change.next = any_line(digest);
	change.old_ticks = any(digest);
	change.next_ticks = any(digest);
	if (next(digest) & 1) {
		change.next.mul = change.old.mul;
		change.next.shift = change.old.shift;
	}
	if (next(digest) & 1) {
		transform.ratio = any(digest);
		transform.frac_bits = (uint8_t)next(digest) & 127;
	}
	add_line(digest, pvclock_line_follow(&change, &transform, &line, &line), &line);
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

/* --- pages ---------------------------------------------------------------------------------------- */

static void add_bytes(struct digest *digest, const void *bytes, size_t size)
{
	const uint8_t *byte = bytes;

	for (size_t i = 0; i < size; i++)
		add(digest, byte[i]);
}

static void fill(struct digest *digest, void *bytes, size_t size)
{
	uint8_t *byte = bytes;

	for (size_t i = 0; i < size; i++)
		byte[i] = (uint8_t)next(digest);
}

static struct pvclock_suspend any_suspend(struct digest *digest)
{
	struct pvclock_suspend suspend;

	suspend.cause = (enum pvclock_cause)((uint32_t)next(digest) % 6);
	suspend.count = any(digest);
	suspend.uncounted_ns = any(digest);
	suspend.counted_ns = any(digest);
	suspend.last_ns = any(digest);
	suspend.error_ns = any(digest);
	suspend.counter = any(digest);
	suspend.sequence = 0;
	return suspend;
}

/* Written over any bytes, read again; a version that stays odd takes a reader long, and is another test's. */
static void pages(struct digest *digest)
{
	struct pvclock_line line = any_line(digest);
	struct pvclock_suspend suspend = any_suspend(digest);
	struct pvclock_snapshot copy;
	struct pvclock_page page;
	struct pvclock_wall_clock wall;
	struct pvclock_suspend_page suspend_page;
	uint64_t ns = any(digest);

	fill(digest, &page, sizeof(page));
	fill(digest, &wall, sizeof(wall));
	fill(digest, &suspend_page, sizeof(suspend_page));
	pvclock_page_write(&page, &line, (uint8_t)next(digest));
	pvclock_wall_clock_write(&wall, ns);
	pvclock_suspend_write(&suspend_page, &suspend);
	add_bytes(digest, &page, sizeof(page));
	add_bytes(digest, &wall, sizeof(wall));
	add_bytes(digest, &suspend_page, sizeof(suspend_page));
	add(digest, (uint64_t)pvclock_page_read(&page, &copy));
	add_line(digest, true, &copy.line);
	add(digest, copy.version);
	add(digest, copy.flags);
	add(digest, (uint64_t)pvclock_wall_clock_read(&wall, &ns));
	add(digest, ns);
	add(digest, (uint64_t)pvclock_suspend_read(&suspend_page, &suspend));
	add(digest, suspend.uncounted_ns);
	add(digest, suspend.counter);
	add(digest, pvclock_take_guest_stopped(&page));
	add_bytes(digest, &page, sizeof(page));
}

/* --- a guest's clocks ------------------------------------------------------------------------------- */

static void write_clocks(struct digest *digest, struct pvclock_user_page *user)
{
	uint64_t now = any(digest), epoch = any(digest), uncounted = any(digest), nsec = next(digest);
	int32_t tai = (int32_t)((uint32_t)next(digest) % 100), leap = (int32_t)((uint32_t)next(digest) % 3) - 1;
	struct pvclock_time real = pvclock_time_make((int64_t)any(digest), nsec);
	struct pvclock_told told;

	add(digest, (uint64_t)real.sec);
	add(digest, real.nsec);
	pvclock_clocks_start(user, now, epoch, uncounted, tai);
	pvclock_clocks_tick(user, any(digest));
	if (next(digest) & 1)
		pvclock_clocks_set_realtime(user, any(digest), pvclock_clocks_uncounted(user), &real);
	pvclock_clocks_leap(user, any(digest), leap);
	pvclock_clocks_set_tai(user, any(digest), tai + 1);
	add(digest, pvclock_clocks_uncounted(user));
	add(digest, (uint64_t)pvclock_clocks_told(user, any(digest), &told));
	add(digest, told.uncounted_ns);
	add_bytes(digest, user, offsetof(struct pvclock_user_page, pad));
}

/* System time is any, and the same for every counter, which has not reached the line's anchor. */
static void clocks(struct digest *digest)
{
	static struct pvclock_user_page user __attribute__((aligned(4096)));
	static pvclock_last last;
	struct pvclock_line line = any_line(digest), still = { UINT64_MAX, any(digest), 1u << 31, line.shift % 32 };
	struct pvclock_suspend suspend = any_suspend(digest);
	struct pvclock_time time;
	uint64_t counter = any(digest), ns;

	/* of any line at any tick, in the two forms in which counters are read */
	add(digest, pvclock_halves_ns(&line, counter & 0xffffffffu, counter >> 32, line.ns));
	add(digest, pvclock_halves_ns(&line, counter, 0, line.ns));
	pvclock_suspend_write(&user.suspend, &suspend);
	pvclock_page_write(&user.page, &still, next(digest) & 1 ? PVCLOCK_TSC_STABLE : 0);
	write_clocks(digest, &user);
	for (unsigned int id = 0; id < PVCLOCK_CLOCKS; id++) {
		add(digest, (uint64_t)pvclock_user_time(&user, id, &time));
		add(digest, (uint64_t)time.sec);
		add(digest, time.nsec);
		add(digest, (uint64_t)pvclock_kernel_ns(&user, &user.page, &last, id, &ns));
		add(digest, ns);
		add(digest, (uint64_t)pvclock_coarse_time(&user, id, &time));
		add(digest, (uint64_t)time.sec);
		add(digest, time.nsec);
	}
}

static void print(const char *text);

static void run(const char *name, void (*function)(struct digest *), uint64_t seed, unsigned int rounds)
{
	struct digest digest = { .random = seed, .sum = 0xcbf29ce484222325u };
	char text[18];

	for (unsigned int i = 0; i < rounds; i++)
		function(&digest);
	for (unsigned int i = 0; i < 16; i++)
		text[i] = "0123456789abcdef"[digest.sum >> (60 - 4 * i) & 15];
	text[16] = '\n';
	text[17] = 0;
	print(name);
	print(text);
}

static void vmclock(struct digest *digest)
{
	uint64_t words[14] = { 0 };
	struct pvclock_vmclock clock, copy;
	struct pvclock_vmclock_time time;
	int64_t seconds = 0;

	clock.size = 0x70 + (uint32_t)any(digest) / 2;
	clock.counter_id = (uint8_t)next(digest);
	clock.time_type = (uint8_t)next(digest) & 3;
	clock.status = (uint8_t)next(digest);
	clock.smearing_hint = (uint8_t)next(digest);
	clock.leap = (uint8_t)next(digest);
	clock.period_shift = (uint8_t)next(digest) & (next(digest) & 1 ? 255 : 63);
	clock.tai_offset = (int16_t)next(digest);
	clock.marker = next(digest);
	clock.flags = next(digest);
	clock.counter = any(digest);
	clock.period = any(digest);
	clock.period_est_error = any(digest);
	clock.period_max_error = any(digest);
	clock.sec = any(digest);
	clock.frac = any(digest);
	clock.est_error_ns = any(digest);
	clock.max_error_ns = any(digest);
	clock.generation = next(digest);
	pvclock_vmclock_write(words, &clock);
	for (unsigned int i = 0; i < 14; i++)
		add(digest, words[i]);
	add(digest, pvclock_vmclock_read(words, &copy));
	add(digest, copy.generation);
	add(digest, (uint16_t)copy.tai_offset);
	pvclock_vmclock_at(&copy, any(digest), &time);
	add(digest, time.sec);
	add(digest, time.frac);
	add(digest, time.max_error_ns);
	add(digest, pvclock_vmclock_ns(&time));
	add(digest, pvclock_vmclock_to_utc(&copy, &seconds));
	add(digest, (uint64_t)seconds);
	add(digest, pvclock_vmclock_to_tai(&copy, &seconds));
	add(digest, (uint64_t)seconds);
}

static void run_all(void)
{
	run("read and invert ", read_and_invert, 1, ROUNDS);
	run("make            ", make, 2, ROUNDS);
	run("compose         ", compose, 3, ROUNDS);
	run("hyperv          ", hyperv, 4, ROUNDS);
	run("pages           ", pages, 5, ROUNDS / 10);
	run("clocks          ", clocks, 6, ROUNDS / 10);
	run("vmclock         ", vmclock, 7, ROUNDS);
	run("follow          ", follow, 8, ROUNDS);
}

#ifdef PVCLOCK_DIGEST_I386
void *memcpy(void *to, const void *from, size_t count);
void *memset(void *to, int byte, size_t count);

/* A compiler may call these for any assignment of a structure, and a kernel has them. Volatile, or it finds them in themselves. */
void *memcpy(void *to, const void *from, size_t count)
{
	volatile uint8_t *t = to;
	const uint8_t *f = from;

	while (count-- > 0)
		*t++ = *f++;
	return to;
}

void *memset(void *to, int byte, size_t count)
{
	volatile uint8_t *t = to;

	while (count-- > 0)
		*t++ = (uint8_t)byte;
	return to;
}

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
