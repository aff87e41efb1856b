/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as the page that a guest's processes map, and any values for its kernel to write: no reader hangs, what one says is the
 * state that the bytes are, by 128-bit arithmetic, and no reader writes.
 */
#include "check.h"

#include <pvclock/page.h>

/* A count that stays odd ends the reader after so many tries, and a fuzzer meets one in every second input. */
#undef PVCLOCK_READ_TRIES
#define PVCLOCK_READ_TRIES 8u
#include <pvclock/clock.h>

#include "../src/guest/clock.c"
#include "../src/guest/guard.c"
#include "../src/page/suspend.c"

#include <string.h>

__extension__ typedef __int128 wide;

struct input {
	uint8_t page[offsetof(struct pvclock_user_page, pad)];
	uint64_t now, epoch, uncounted, last, nsec;
	int64_t sec;
	int32_t tai, leap;
	uint8_t order[8];
};

static bool is_time(const struct pvclock_time *time, wide sec, uint64_t nsec)
{
	wide ns = (wide)(int64_t)nsec, expect = sec + ns / 1000000000, rest = ns % 1000000000;

	if (rest < 0) {
		rest += 1000000000;
		expect--;
	}
	return time->sec == (int64_t)(uint64_t)expect && time->nsec == (uint32_t)rest;
}

/* A page that does not change while it is read: it is what it is, if it is. */
static void check_reader(const struct pvclock_user_page *user, unsigned int id, bool kernel, uint64_t last)
{
	const struct pvclock_line line = { user->page.tsc_timestamp, user->page.system_time, user->page.tsc_to_system_mul,
					   user->page.tsc_shift };
	bool odd = ((user->clocks.sequence | user->suspend.sequence | user->page.version) & 1) != 0;
	bool stable = (user->page.flags & PVCLOCK_TSC_STABLE) != 0;
	uint64_t add, early, late, ns, unguarded_last = last;
	struct pvclock_time time;
	enum pvclock_read expect, result;

	if (id >= PVCLOCK_CLOCKS || (PVCLOCK_HIGH_CLOCKS >> id & 1) == 0)
		expect = PVCLOCK_READ_KERNEL;
	else if (odd)
		expect = PVCLOCK_READ_BUSY;
	else if (!stable && !kernel)
		expect = PVCLOCK_READ_KERNEL;
	else
		expect = pvclock_line_valid(&line) ? PVCLOCK_READ_OK : PVCLOCK_READ_INVALID;
	early = pvclock_line_ns(&line, pvclock_read_counter().ticks);
	if (kernel)
		result = pvclock_kernel_ns(user, &user->page, (pvclock_last *)&unguarded_last, id, &ns);
	else
		result = pvclock_user_ns(user, id, &ns);
	late = pvclock_line_ns(&line, pvclock_read_counter().ticks);
	check(result == expect);
	if (result != PVCLOCK_READ_OK) {
		check(ns == 0);
		result = kernel ? pvclock_kernel_time(user, &user->page, (pvclock_last *)&unguarded_last, id, &time) : pvclock_user_time(user, id, &time);
		check(result == expect && time.sec == 0 && time.nsec == 0);
		check(unguarded_last == last);
		return;
	}
	if (!stable) { /* and what is guarded is system time alone */
		early = early > last ? early : last;
		late = late > last ? late : last;
		check(unguarded_last >= early && unguarded_last <= late);
	} else {
		check(unguarded_last == last);
	}
	add = user->clocks.base[id].nsec + (PVCLOCK_SUSPEND_CLOCKS >> id & 1 ? user->suspend.uncounted_ns : 0);
	ns -= (uint64_t)user->clocks.base[id].sec * 1000000000u + add;
	check(ns >= early && ns <= late);
}

static void check_coarse(const struct pvclock_user_page *user, unsigned int id)
{
	struct pvclock_time time;
	enum pvclock_read result = pvclock_coarse_time(user, id, &time);

	if (id >= PVCLOCK_CLOCKS || (PVCLOCK_COARSE_CLOCKS >> id & 1) == 0)
		check(result == PVCLOCK_READ_KERNEL && time.sec == 0 && time.nsec == 0);
	else if (user->clocks.sequence & 1)
		check(result == PVCLOCK_READ_BUSY && time.sec == 0 && time.nsec == 0);
	else
		check(result == PVCLOCK_READ_OK && time.sec == user->clocks.base[id].sec &&
		      time.nsec == (uint32_t)user->clocks.base[id].nsec);
}

static void check_readers(const struct pvclock_user_page *user, const struct input *input)
{
	struct pvclock_user_page before = *user;

	for (unsigned int id = 0; id < PVCLOCK_CLOCKS + 2; id++) {
		check_reader(user, id, false, input->last);
		check_reader(user, id, true, input->last);
		check_coarse(user, id);
	}
	check(memcmp(&before, user, sizeof(before)) == 0);
}

/* Whatever was there, the kernel's writers end it in a state that readers take, in the order that the input says. */
static void check_writers(struct pvclock_user_page *user, const struct input *input)
{
	struct pvclock_time real = pvclock_time_make(input->sec, input->nsec), time;
	struct pvclock_told told;
	uint64_t anchor;

	check(is_time(&real, input->sec, input->nsec));
	for (size_t i = 0; i < sizeof(input->order); i++) {
		uint64_t now = input->now + i * (input->nsec >> 8);

		anchor = user->clocks.anchor_ns;
		switch (input->order[i] % 8) {
		case 0:
			pvclock_clocks_start(user, now, input->epoch, input->uncounted, input->tai);
			break;
		case 1:
			pvclock_clocks_tick(user, now);
			break;
		case 2:
			pvclock_clocks_set_realtime(user, now, pvclock_clocks_uncounted(user), &real);
			break;
		case 3:
			pvclock_clocks_set_tai(user, now, input->tai);
			break;
		case 4:
			pvclock_clocks_leap(user, now, input->leap);
			break;
		case 5:
			pvclock_clocks_told(user, now, &told);
			break;
		default: /* the host's */
			user->suspend.uncounted_ns += input->uncounted;
			user->suspend.sequence += 2;
			continue;
		}
		check((user->clocks.sequence & 1) == 0 && user->clocks.anchor_ns == (now > anchor ? now : anchor));
		check(pvclock_coarse_time(user, PVCLOCK_MONOTONIC_COARSE, &time) == PVCLOCK_READ_OK);
		check((uint64_t)time.sec == user->clocks.anchor_ns / 1000000000u && time.nsec == user->clocks.anchor_ns % 1000000000u);
		check(pvclock_coarse_time(user, PVCLOCK_REALTIME_COARSE, &time) == PVCLOCK_READ_OK && time.nsec < 1000000000u);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct pvclock_user_page user __attribute__((aligned(4096)));
	struct input input;

	memset(&input, 0, sizeof(input));
	memcpy(&input, data, size < sizeof(input) ? size : sizeof(input));
	memcpy(&user, input.page, sizeof(input.page));
	/* every second fuzzed page would be odd somewhere: the order's bytes decide whether it may be */
	if (input.order[0] & 8) {
		user.clocks.sequence &= ~1u;
		user.suspend.sequence &= ~1u;
		user.page.version &= ~1u;
	}
	if (input.order[0] & 16)
		user.page.tsc_shift %= 32;
	user.clocks.counts = 0; /* what is ready, only the kernel's writers say */
	check_readers(&user, &input);
	if (user.clocks.wall_nsec < 1000000000u) { /* the kernel's own */
		check_writers(&user, &input);
		check_readers(&user, &input);
	}
	return 0;
}
