/* SPDX-License-Identifier: MIT */
/* What a writer leaves in memory and what a reader says about any content; no second thread (see torture.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pvclock/hyperv.h>
#include <pvclock/page.h>
#include <string.h>
#include <time.h>

/* Room for a page at every alignment that the ABI allows, with guard bytes on both sides. */
struct arena {
	_Alignas(64) uint8_t bytes[192];
};

#define GUARD 0xa5

static void *arena_page(struct arena *arena, size_t offset)
{
	memset(arena->bytes, GUARD, sizeof(arena->bytes));
	memset(arena->bytes + 64 + offset, 0, sizeof(struct pvclock_page));
	return arena->bytes + 64 + offset;
}

static void assert_guards(const struct arena *arena, size_t offset, size_t size)
{
	for (size_t i = 0; i < sizeof(arena->bytes); i++)
		if (i < 64 + offset || i >= 64 + offset + size)
			assert_int_equal(arena->bytes[i], GUARD);
}

static void set_u32(void *page, size_t offset, uint32_t value)
{
	memcpy((char *)page + offset, &value, sizeof(value));
}

static uint32_t get_u32(const void *page, size_t offset)
{
	uint32_t value;

	memcpy(&value, (const char *)page + offset, sizeof(value));
	return value;
}

/* The bytes of msr.rst, not of our struct. */
static void writes_the_abi(void **state)
{
	static const uint8_t image[32] = {
		0x02, 0, 0, 0, /* version */
		0, 0, 0, 0,
		0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, /* tsc_timestamp */
		0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, /* system_time */
		0xd4, 0xc3, 0xb2, 0xa1,                         /* tsc_to_system_mul */
		0xff, 0x01, 0, 0,                               /* tsc_shift, flags, pad */
	};
	struct pvclock_line line = { 0x0102030405060708u, 0x1112131415161718u, 0xa1b2c3d4u, -1 };
	struct arena arena;

	(void)state;
	for (size_t offset = 0; offset <= 60; offset += 4) {
		void *page = arena_page(&arena, offset);

		pvclock_page_write(page, &line, PVCLOCK_TSC_STABLE);
		assert_memory_equal(page, image, sizeof(image));
		assert_guards(&arena, offset, sizeof(image));
	}
}

static void reads_back_what_was_written(void **state)
{
	static const uint64_t words[] = { 0, 1, 0x7fffffffu, 0xffffffffu, 0x100000000u, UINT64_MAX - 1, UINT64_MAX };
	static const uint32_t muls[] = { 1, 0x7fffffffu, 0x80000000u, 0xffffffffu };
	struct arena arena;
	void *page = arena_page(&arena, 4);
	uint32_t version = 0;

	(void)state;
	for (size_t t = 0; t < sizeof(words) / sizeof(*words); t++)
		for (size_t n = 0; n < sizeof(words) / sizeof(*words); n++)
			for (size_t m = 0; m < sizeof(muls) / sizeof(*muls); m++)
				for (int shift = PVCLOCK_SHIFT_MIN; shift <= PVCLOCK_SHIFT_MAX; shift++) {
					struct pvclock_line line = { words[t], words[n], muls[m], (int8_t)shift };
					struct pvclock_snapshot snapshot;

					pvclock_page_write(page, &line, (uint8_t)(shift & 1));
					assert_int_equal(pvclock_page_read(page, &snapshot), PVCLOCK_READ_OK);
					assert_int_equal(snapshot.line.tsc, line.tsc);
					assert_int_equal(snapshot.line.ns, line.ns);
					assert_int_equal(snapshot.line.mul, line.mul);
					assert_int_equal(snapshot.line.shift, shift);
					assert_int_equal(snapshot.flags, shift & 1);
					assert_int_equal(snapshot.version, version += 2);
				}
}

static void names_invalid_pages(void **state)
{
	static const struct {
		uint32_t mul;
		int shift;
		enum pvclock_read expect;
	} cases[] = {
		{ 0, 0, PVCLOCK_READ_INVALID },    { 0, -1, PVCLOCK_READ_INVALID },
		{ 1, 32, PVCLOCK_READ_INVALID },   { 1, -32, PVCLOCK_READ_INVALID },
		{ 1, 127, PVCLOCK_READ_INVALID },  { 1, -128, PVCLOCK_READ_INVALID },
		{ 0, 127, PVCLOCK_READ_INVALID },  { 0, -128, PVCLOCK_READ_INVALID },
		{ 1, 31, PVCLOCK_READ_OK },        { 1, -31, PVCLOCK_READ_OK },
		{ UINT32_MAX, 0, PVCLOCK_READ_OK },
	};
	struct arena arena;
	void *page = arena_page(&arena, 12);
	struct pvclock_snapshot snapshot;

	(void)state;
	/* as the guest hands it over */
	assert_int_equal(pvclock_page_read(page, &snapshot), PVCLOCK_READ_INVALID);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct pvclock_line line = { 5, 6, cases[i].mul, (int8_t)cases[i].shift };

		pvclock_page_write(page, &line, 0);
		assert_int_equal(pvclock_page_read(page, &snapshot), cases[i].expect);
		/* INVALID too says what was read */
		assert_int_equal(snapshot.line.tsc, 5);
		assert_int_equal(snapshot.line.ns, 6);
		assert_int_equal(snapshot.line.mul, cases[i].mul);
		assert_int_equal(snapshot.line.shift, cases[i].shift);
	}
}

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void gives_up_on_an_odd_version(void **state)
{
	struct arena arena;
	void *page = arena_page(&arena, 4);
	struct pvclock_snapshot snapshot;
	uint64_t ns;
	double began = now_s();

	(void)state;
	set_u32(page, 0, 0xffffffffu);
	memset(&snapshot, GUARD, sizeof(snapshot));
	assert_int_equal(pvclock_page_read(page, &snapshot), PVCLOCK_READ_BUSY);
	assert_int_equal(snapshot.version | snapshot.flags | snapshot.line.mul, 0);
	assert_int_equal(snapshot.line.tsc | snapshot.line.ns, 0);
	ns = 1;
	assert_int_equal(pvclock_wall_clock_read(page, &ns), PVCLOCK_READ_BUSY);
	assert_int_equal(ns, 0);
	/* tens of ms each; a sanitizer on a busy machine may take ten times that */
	assert_true(now_s() - began < 10);
}

static void counts_versions_and_repairs_odd_ones(void **state)
{
	static const struct {
		uint32_t before, after;
	} cases[] = {
		{ 0, 2 },
		{ 2, 4 },
		{ 0xfffffffcu, 0xfffffffeu },
		{ 0xfffffffeu, 0 }, /* all the way round */
		{ 1, 4 },           /* a writer died in version 1: not 2, where its readers began */
		{ 0xfffffffdu, 0 },
		{ 0xffffffffu, 2 },
	};
	struct pvclock_line line = { 1, 2, 3, 0 };
	struct arena arena;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		void *page = arena_page(&arena, 8);
		struct pvclock_snapshot snapshot;

		set_u32(page, 0, cases[i].before);
		pvclock_page_write(page, &line, 0);
		assert_int_equal(get_u32(page, 0), cases[i].after);
		assert_int_equal(pvclock_page_read(page, &snapshot), PVCLOCK_READ_OK);
		assert_int_equal(snapshot.version, cases[i].after);

		/* a wall clock's version is never 0 */
		set_u32(page, 0, cases[i].before);
		pvclock_wall_clock_write(page, 0);
		assert_int_equal(get_u32(page, 0), cases[i].after != 0 ? cases[i].after : 2);
	}
}

static void keeps_guest_stopped_and_nothing_else(void **state)
{
	struct pvclock_line line = { 1, 2, 3, -3 };
	struct arena arena;

	(void)state;
	for (unsigned int before = 0; before < 256; before++)
		for (unsigned int flags = 0; flags < 256; flags++) {
			uint8_t *page = arena_page(&arena, 0);

			memset(page + 4, 0xee, 4);
			page[29] = (uint8_t)before;
			page[30] = page[31] = 0xee;
			pvclock_page_write(page, &line, (uint8_t)flags);
			assert_int_equal(page[29], flags | (before & PVCLOCK_GUEST_STOPPED));
			assert_int_equal((int8_t)page[28], -3);
			assert_int_equal(page[30] | page[31], 0);
			assert_int_equal(page[4] & page[5] & page[6] & page[7], 0xee);
		}
}

static void tells_the_time_of_day(void **state)
{
	static const struct {
		uint64_t ns;
		uint32_t sec, nsec;
	} cases[] = {
		{ 0, 0, 0 },
		{ 999999999u, 0, 999999999u },
		{ 1000000000u, 1, 0 },
		{ 1786000000123456789u, 1786000000u, 123456789u },
		{ 4294967295999999999u, UINT32_MAX, 999999999u }, /* 2106-02-07, the last one */
		{ 4294967296000000000u, 0, 0 },                   /* truncated */
		{ UINT64_MAX, 1266874889u, 709551615u },          /* 18446744073 - 4 * 2^32 */
	};
	struct arena arena;

	(void)state;
	for (size_t offset = 0; offset <= 60; offset += 4)
		for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
			uint8_t *page = arena_page(&arena, offset);
			uint64_t ns;

			memset(page + 12, GUARD, 20);
			assert_int_equal(pvclock_wall_clock_read(page, &ns), PVCLOCK_READ_INVALID);
			pvclock_wall_clock_write(page, cases[i].ns);
			assert_int_equal(get_u32(page, 4), cases[i].sec);
			assert_int_equal(get_u32(page, 8), cases[i].nsec);
			assert_int_equal(pvclock_wall_clock_read(page, &ns), PVCLOCK_READ_OK);
			assert_int_equal(ns, (uint64_t)cases[i].sec * 1000000000u + cases[i].nsec);
			assert_guards(&arena, offset, 12);
		}
}

static void refuses_a_wall_clock_that_is_none(void **state)
{
	static const struct {
		uint32_t version, nsec;
		enum pvclock_read expect;
	} cases[] = {
		{ 0, 0, PVCLOCK_READ_INVALID },
		{ 2, 999999999u, PVCLOCK_READ_OK },
		{ 2, 1000000000u, PVCLOCK_READ_INVALID },
		{ 2, UINT32_MAX, PVCLOCK_READ_INVALID },
	};
	struct arena arena;
	void *page = arena_page(&arena, 4);

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		uint64_t ns = 1;

		set_u32(page, 0, cases[i].version);
		set_u32(page, 4, UINT32_MAX);
		set_u32(page, 8, cases[i].nsec);
		assert_int_equal(pvclock_wall_clock_read(page, &ns), cases[i].expect);
		if (cases[i].expect == PVCLOCK_READ_INVALID)
			assert_int_equal(ns, 0);
	}
}

static void has_a_sentence_for_each_result(void **state)
{
	(void)state;
	for (int result = PVCLOCK_READ_OK; result <= PVCLOCK_READ_KERNEL + 1; result++)
		for (int other = PVCLOCK_READ_OK; other < result; other++)
			assert_string_not_equal(pvclock_read_text((enum pvclock_read)result),
						pvclock_read_text((enum pvclock_read)other));
}

/* The bytes of docs/spec/suspend.md, not of our struct. */
static void writes_the_suspend_page(void **state)
{
	static const uint8_t image[64] = {
		'P', 'V', 'S', 'U', 1, 0, 0, 0,
		0x06, 0, 0, 0, 0x04, 0, 0, 0, /* sequence: 3 was left odd by one who died; cause */
		0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
		0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21,
		0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31,
		0x48, 0x47, 0x46, 0x45, 0x44, 0x43, 0x42, 0x41,
		0x58, 0x57, 0x56, 0x55, 0x54, 0x53, 0x52, 0x51,
		0x68, 0x67, 0x66, 0x65, 0x64, 0x63, 0x62, 0x61,
	};
	const struct pvclock_suspend told = { PVCLOCK_CAUSE_MIGRATION, 0x1112131415161718u, 0x2122232425262728u, 0x3132333435363738u,
					      0x4142434445464748u, 0x5152535455565758u, 0x6162636465666768u, 99 };
	struct pvclock_suspend read;
	struct arena arena;
	uint8_t *page = arena.bytes + 64;

	(void)state;
	memset(arena.bytes, GUARD, sizeof(arena.bytes));
	memset(page, 0, 64);
	assert_int_equal(pvclock_suspend_read(page, &read), PVCLOCK_READ_INVALID); /* nobody writes it */
	set_u32(page, 8, 3);
	pvclock_suspend_write(page, &told);
	assert_memory_equal(page, image, sizeof(image));
	assert_guards(&arena, 0, 64);
	assert_int_equal(pvclock_suspend_read(page, &read), PVCLOCK_READ_OK);
	assert_int_equal(read.sequence, 6);
	assert_true(read.cause == told.cause && read.count == told.count && read.uncounted_ns == told.uncounted_ns &&
		    read.counted_ns == told.counted_ns && read.last_ns == told.last_ns && read.error_ns == told.error_ns &&
		    read.counter == told.counter);
	set_u32(page, 4, 2); /* a later version has the same fields, and others */
	assert_int_equal(pvclock_suspend_read(page, &read), PVCLOCK_READ_OK);
	set_u32(page, 4, 0);
	assert_int_equal(pvclock_suspend_read(page, &read), PVCLOCK_READ_INVALID);
	set_u32(page, 8, 7);
	assert_int_equal(pvclock_suspend_read(page, &read), PVCLOCK_READ_BUSY);
	assert_true(read.count == 0 && read.uncounted_ns == 0 && read.sequence == 0);
	for (int cause = PVCLOCK_CAUSE_NONE; cause <= PVCLOCK_CAUSE_LIVE_UPDATE; cause++)
		assert_string_not_equal(pvclock_cause_name((enum pvclock_cause)cause), "?");
	assert_string_equal(pvclock_cause_name((enum pvclock_cause)77), "?");
}

/* The bytes of the TLFS, and the sequence's edges. */
static void writes_the_hyperv_page(void **state)
{
	static const uint8_t image[24] = {
		0x08, 0, 0, 0, GUARD, GUARD, GUARD, GUARD,      /* sequence; what is reserved is left alone */
		0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, /* scale */
		0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, /* offset */
	};
	static const struct {
		uint32_t last, next;
	} edges[] = { { 0, 1 }, { 1, 2 }, { UINT32_MAX - 2, UINT32_MAX - 1 }, { UINT32_MAX - 1, 1 }, { UINT32_MAX, 1 } };
	const struct pvclock_hyperv_line hyperv = { 0x0102030405060708u, -8 };
	struct pvclock_hyperv_snapshot read;
	struct arena arena;
	uint8_t *page = arena.bytes + 64 + 4;

	(void)state;
	memset(arena.bytes, GUARD, sizeof(arena.bytes));
	set_u32(page, 0, 0x12345678); /* whoever wrote that: it is not gone on from */
	assert_int_equal(pvclock_hyperv_page_write(page, &hyperv, 7), 8);
	assert_memory_equal(page, image, sizeof(image));
	assert_guards(&arena, 4, sizeof(image));
	assert_int_equal(pvclock_hyperv_page_read(page, &read), PVCLOCK_READ_OK);
	assert_true(read.sequence == 8 && read.hyperv.scale == hyperv.scale && read.hyperv.offset == -8);
	for (size_t i = 0; i < sizeof(edges) / sizeof(*edges); i++) {
		assert_int_equal(pvclock_hyperv_page_write(page, &hyperv, edges[i].last), edges[i].next);
		assert_int_equal(get_u32(page, 0), edges[i].next);
		assert_true(pvclock_hyperv_sequence_valid(edges[i].next));
	}
	pvclock_hyperv_page_withdraw(page);
	assert_int_equal(pvclock_hyperv_page_read(page, &read), PVCLOCK_READ_INVALID);
	assert_true(read.sequence == 0 && read.hyperv.scale == 0 && read.hyperv.offset == 0);
	assert_memory_equal(page + 4, image + 4, sizeof(image) - 4); /* that alone: a guest may look at the rest */
	set_u32(page, 0, UINT32_MAX);
	assert_int_equal(pvclock_hyperv_page_read(page, &read), PVCLOCK_READ_INVALID);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_the_abi),
		cmocka_unit_test(writes_the_suspend_page),
		cmocka_unit_test(writes_the_hyperv_page),
		cmocka_unit_test(reads_back_what_was_written),
		cmocka_unit_test(names_invalid_pages),
		cmocka_unit_test(gives_up_on_an_odd_version),
		cmocka_unit_test(counts_versions_and_repairs_odd_ones),
		cmocka_unit_test(keeps_guest_stopped_and_nothing_else),
		cmocka_unit_test(tells_the_time_of_day),
		cmocka_unit_test(refuses_a_wall_clock_that_is_none),
		cmocka_unit_test(has_a_sentence_for_each_result),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
