/* SPDX-License-Identifier: MIT */
/*
 * Any 32 bytes as a page, any 12 as a wall clock, any 112 as VMClock's, any line written over them, at every alignment that the ABI
 * allows: the result is the one that the bytes call for, and no byte beside the page is touched.
 */
#include "check.h"

#include <pvclock/hyperv.h>
#include <pvclock/page.h>

/* A version that stays odd ends the reader after so many tries, and a fuzzer meets one in every second input. */
#undef PVCLOCK_READ_TRIES
#define PVCLOCK_READ_TRIES 8u
#include <pvclock/guest.h>

#include "../src/guest/guard.c"
#include "../src/guest/stopped.c"
#include "../src/page/hyperv.c"
#include "../src/page/read.c"
#include "../src/page/vmclock.c"
#include "../src/page/write.c"

#include <string.h>

#define GUARD 0xa5

struct input {
	uint8_t page[32];
	uint64_t tsc, ns, at;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, alignment;
	uint64_t counter;
	struct pvclock_vmclock_page vmclock;
};

struct arena {
	_Alignas(64) uint8_t bytes[128];
};

static void *place(struct arena *arena, const struct input *input, size_t *offset)
{
	*offset = 32 + 4 * (size_t)(input->alignment % 8);
	memset(arena->bytes, GUARD, sizeof(arena->bytes));
	memcpy(arena->bytes + *offset, input->page, sizeof(input->page));
	return arena->bytes + *offset;
}

static void check_around(const struct arena *arena, size_t offset, size_t size)
{
	for (size_t i = 0; i < sizeof(arena->bytes); i++)
		check((i >= offset && i < offset + size) || arena->bytes[i] == GUARD);
}

static bool same_line(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

static enum pvclock_read expect(uint32_t version, const struct pvclock_line *line)
{
	if (version & 1)
		return PVCLOCK_READ_BUSY;
	return pvclock_line_valid(line) ? PVCLOCK_READ_OK : PVCLOCK_READ_INVALID;
}

static void check_read(const struct input *input)
{
	struct pvclock_snapshot copy;
	struct pvclock_page page; /* a reference that shares no code with the reader */
	struct pvclock_line line;
	enum pvclock_read result;
	struct arena arena;
	size_t offset;
	void *at = place(&arena, input, &offset);

	memcpy(&page, input->page, sizeof(page));
	line = (struct pvclock_line){ page.tsc_timestamp, page.system_time, page.tsc_to_system_mul, page.tsc_shift };
	result = pvclock_page_read(at, &copy);
	check(result == expect(page.version, &line));
	if (result == PVCLOCK_READ_BUSY)
		check(!copy.line.tsc && !copy.line.ns && !copy.line.mul && !copy.line.shift && !copy.version &&
		      !copy.flags);
	else
		check(same_line(&copy.line, &line) && copy.version == page.version && copy.flags == page.flags);
	check(memcmp(at, input->page, sizeof(input->page)) == 0);

	check(pvclock_halves_ns(&line, input->at & 0xffffffffu, input->at >> 32, 0) == pvclock_line_ns(&line, input->at));
#if defined(__x86_64__) || defined(__i386__)
	{
		struct pvclock_reading reading;
		uint64_t before = pvclock_read_tsc().ticks;

		check(pvclock_read_clock(&page, &reading) == result);
		if (result == PVCLOCK_READ_BUSY) {
			check(!reading.ns && !reading.tsc.ticks && !reading.version && !reading.flags);
		} else {
			check(reading.tsc.ticks >= before && reading.ns == pvclock_line_ns(&line, reading.tsc.ticks));
			check(reading.version == page.version && reading.flags == page.flags);
			check(result == PVCLOCK_READ_OK || reading.ns == page.system_time);
		}
	}
#endif
}

static void check_write(const struct input *input)
{
	struct pvclock_line line = { input->tsc, input->ns, input->mul, input->shift };
	struct pvclock_page before, after;
	struct pvclock_snapshot copy;
	struct arena arena;
	size_t offset;
	void *at = place(&arena, input, &offset);
	uint8_t flags;

	memcpy(&before, at, sizeof(before));
	pvclock_page_write(at, &line, input->flags);
	check_around(&arena, offset, sizeof(before));
	memcpy(&after, at, sizeof(after));
	flags = (uint8_t)(input->flags | (before.flags & PVCLOCK_GUEST_STOPPED));
	check((after.version & 1) == 0 && after.version - before.version == (before.version & 1 ? 3 : 2));
	check(after.pad0 == before.pad0 && after.pad[0] == 0 && after.pad[1] == 0);
	check(pvclock_page_read(at, &copy) == expect(0, &line));
	check(same_line(&copy.line, &line) && copy.flags == flags);

	check(pvclock_take_guest_stopped(&after) == ((flags & PVCLOCK_GUEST_STOPPED) != 0));
	check(after.flags == (flags & ~PVCLOCK_GUEST_STOPPED));
	after.flags = flags;
	check(memcmp(&after, at, sizeof(after)) == 0);
}

static void check_wall_clock(const struct input *input)
{
	struct pvclock_wall_clock before, after;
	enum pvclock_read result;
	struct arena arena;
	size_t offset;
	void *at = place(&arena, input, &offset);
	uint64_t ns = 1;

	memcpy(&before, at, sizeof(before));
	result = pvclock_wall_clock_read(at, &ns);
	if (before.version & 1)
		check(result == PVCLOCK_READ_BUSY && ns == 0);
	else if (before.version == 0 || before.nsec >= 1000000000u)
		check(result == PVCLOCK_READ_INVALID && ns == 0);
	else
		check(result == PVCLOCK_READ_OK && ns == before.sec * UINT64_C(1000000000) + before.nsec);

	pvclock_wall_clock_write(at, input->ns);
	check_around(&arena, offset, sizeof(input->page));
	check(memcmp((uint8_t *)at + 12, input->page + 12, 20) == 0);
	memcpy(&after, at, sizeof(after));
	check(after.version != 0 && (after.version & 1) == 0 && after.version != before.version);
	check(pvclock_wall_clock_read(at, &ns) == PVCLOCK_READ_OK);
	check(ns == (uint64_t)(uint32_t)(input->ns / 1000000000u) * 1000000000u + input->ns % 1000000000u);
}

static void check_hyperv(const struct input *input)
{
	const struct pvclock_hyperv_line hyperv = { input->tsc, (int64_t)input->ns };
	struct pvclock_hyperv_page before, after;
	struct pvclock_hyperv_snapshot copy;
	enum pvclock_read result;
	struct arena arena;
	size_t offset;
	void *at = place(&arena, input, &offset);
	uint32_t next;

	memcpy(&before, at, sizeof(before));
	result = pvclock_hyperv_page_read(at, &copy);
	if (before.sequence == 0 || before.sequence == UINT32_MAX)
		check(result == PVCLOCK_READ_INVALID && !copy.sequence && !copy.hyperv.scale && !copy.hyperv.offset);
	else
		check(result == PVCLOCK_READ_OK && copy.sequence == before.sequence && copy.hyperv.scale == before.scale &&
		      copy.hyperv.offset == before.offset);

	next = pvclock_hyperv_page_write(at, &hyperv, input->mul);
	check_around(&arena, offset, sizeof(input->page));
	check(memcmp((uint8_t *)at + sizeof(after), input->page + sizeof(after), sizeof(input->page) - sizeof(after)) == 0);
	memcpy(&after, at, sizeof(after));
	check(next != 0 && next != UINT32_MAX && next != input->mul && after.sequence == next && after.reserved == before.reserved);
	check(after.scale == hyperv.scale && after.offset == hyperv.offset);
	pvclock_hyperv_page_withdraw(at);
	after.sequence = 0;
	check(memcmp(at, &after, sizeof(after)) == 0);
}

static void check_guard(const struct input *input)
{
	_Atomic uint64_t last = input->at;
	uint64_t larger = input->ns > input->at ? input->ns : input->at;

	check(pvclock_guard(&last, input->ns) == larger && last == larger);
}

/* The definition, in halves of which each has room: a + b * c / 2^n modulo 2^128. Another way than the library's. */
static unsigned __int128 add_product(unsigned __int128 a, uint64_t b, uint64_t c, unsigned int n, bool minus)
{
	unsigned __int128 product = (unsigned __int128)b * c, quotient = n < 128 ? product >> n : 0;

	if (!minus)
		return a + quotient;
	return a - quotient - ((n < 128 ? quotient << n : 0) != product);
}

static void check_vmclock_time(const struct pvclock_vmclock_page *page, const struct pvclock_vmclock *clock, uint64_t counter)
{
	const uint64_t valid = PVCLOCK_VMCLOCK_PERIOD_MAXERROR_VALID | PVCLOCK_VMCLOCK_TIME_MAXERROR_VALID;
	bool before = counter - page->counter_value > INT64_MAX;
	uint64_t ticks = before ? page->counter_value - counter : counter - page->counter_value;
	unsigned __int128 start = (unsigned __int128)page->time_sec << 64 | page->time_frac_sec, sum;
	struct pvclock_vmclock_time time;
	int64_t utc, tai;

	pvclock_vmclock_at(clock, counter, &time);
	sum = add_product(start, ticks, page->counter_period_frac_sec, page->counter_period_shift, before);
	check(time.sec == (uint64_t)(sum >> 64) && time.frac == (uint64_t)sum);
	if ((page->flags & valid) != valid)
		check(time.max_error_ns == PVCLOCK_VMCLOCK_ERROR_UNKNOWN);
	else
		check(time.max_error_ns >= page->time_maxerror_nanosec);
	check(pvclock_vmclock_ns(&time) == time.sec * 1000000000u + (uint64_t)((unsigned __int128)time.frac * 1000000000u >> 64));
	if (pvclock_vmclock_to_utc(clock, &utc) && pvclock_vmclock_to_tai(clock, &tai))
		check(page->time_type <= PVCLOCK_VMCLOCK_TAI && tai - utc == page->tai_offset_sec);
}

static void check_vmclock(const struct input *input)
{
	struct pvclock_vmclock_page page = input->vmclock, after;
	struct pvclock_vmclock clock;
	enum pvclock_read result = pvclock_vmclock_read(&page, &clock);
	bool valid = page.magic == PVCLOCK_VMCLOCK_MAGIC && page.version == 1 && page.size >= sizeof(page);
	struct arena arena;
	const size_t offset = 8;

	check(result == (page.seq_count & 1 ? PVCLOCK_READ_BUSY : valid ? PVCLOCK_READ_OK : PVCLOCK_READ_INVALID));
	if (result != PVCLOCK_READ_BUSY)
		check_vmclock_time(&page, &clock, input->counter);
	memset(arena.bytes, GUARD, sizeof(arena.bytes));
	memcpy(arena.bytes + offset, &page, sizeof(page));
	pvclock_vmclock_write(arena.bytes + offset, &clock);
	check_around(&arena, offset, sizeof(page));
	memcpy(&after, arena.bytes + offset, sizeof(after));
	check((after.seq_count & 1) == 0 && after.seq_count - page.seq_count == (page.seq_count & 1 ? 3u : 2u));
	if (result == PVCLOCK_READ_BUSY)
		return;
	/* all but padding is as it was read */
	page.magic = PVCLOCK_VMCLOCK_MAGIC;
	page.version = PVCLOCK_VMCLOCK_VERSION;
	page.seq_count = after.seq_count;
	memset(page.pad, 0, sizeof(page.pad));
	check(memcmp(&page, &after, sizeof(page)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input;

	memset(&input, 0, sizeof(input));
	memcpy(&input, data, size < sizeof(input) ? size : sizeof(input));
	check_read(&input);
	check_write(&input);
	check_wall_clock(&input);
	check_hyperv(&input);
	check_guard(&input);
	check_vmclock(&input);
	return 0;
}
