/* SPDX-License-Identifier: MIT */
/* The judge on readings made up here: what it must see, and what it must not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "deadlines.h"
#include "drift.h"
#include "judge.h"
#include "pages.h"

#include <pvclock/page.h>

#define VCPUS 2u

static const struct pvclock_line first = { .tsc = 1000, .ns = 5000000000u, .mul = 3308755968u, .shift = -1 };

struct guest {
	struct judge judge;
	struct pvclock_line line;
	uint64_t tsc;
};

static struct vmm_ring_entry reading_at(const struct pvclock_line *line, uint64_t tsc)
{
	return (struct vmm_ring_entry){
		.tsc = tsc,
		.ns = pvclock_line_ns(line, tsc),
		.version = 2,
		.flags = PVCLOCK_TSC_STABLE,
		.result = PVCLOCK_READ_OK,
	};
}

static void feed(struct guest *guest, unsigned int vcpu, struct vmm_ring_entry reading)
{
	reading.vcpu = (uint16_t)vcpu;
	judge_feed(&guest->judge, vcpu, &reading, 1);
}

/* Both vCPUs read in turn, at odd distances, so that every rounding comes up. */
static void run(struct guest *guest, unsigned int readings)
{
	for (unsigned int i = 0; i < readings; i++) {
		guest->tsc += 1237;
		feed(guest, i % VCPUS, reading_at(&guest->line, guest->tsc));
	}
	judge_merge(&guest->judge, false);
}

static void begin(struct guest *guest)
{
	judge_init(&guest->judge, VCPUS);
	guest->line = first;
	guest->tsc = 100000;
	for (unsigned int i = 0; i < VCPUS; i++)
		feed(guest, i, reading_at(&first, guest->tsc + i));
	guest->tsc++;
	for (unsigned int i = 0; i < VCPUS; i++)
		assert_true(judge_set_line(&guest->judge, i, &first));
	run(guest, 1000);
}

static int64_t event(struct guest *guest)
{
	int64_t jump;

	judge_event_begin(&guest->judge);
	run(guest, 10);
	judge_event_mark(&guest->judge);
	run(guest, 1000);
	judge_merge(&guest->judge, true);
	assert_true(judge_event_after(&guest->judge) >= 400);
	jump = judge_event_end(&guest->judge);
	for (unsigned int i = 0; i < VCPUS; i++)
		assert_true(judge_set_line(&guest->judge, i, &guest->line));
	run(guest, 1000);
	judge_merge(&guest->judge, true);
	return jump;
}

static void test_same_function(void **state)
{
	struct guest guest;

	(void)state;
	begin(&guest);
	for (int i = 0; i < 20; i++) {
		guest.tsc += 50000000;                         /* a blackout */
		pvclock_line_reanchor(&guest.line, guest.tsc); /* changes no reading, ever */
		assert_int_equal(event(&guest), 0);
	}
	assert_int_equal(guest.judge.jump_max, 0);
	assert_int_equal(judge_total(&guest.judge), 0);
	assert_int_equal(guest.judge.backwards, 0);
	assert_int_equal(guest.judge.unannounced, 0);
	assert_int_equal(guest.judge.event_count, 20);
	assert_int_equal(guest.judge.checked, guest.judge.readings);
	judge_clear(&guest.judge);
}

static void test_jump_of_5_ns(void **state)
{
	struct guest guest;

	(void)state;
	begin(&guest);
	guest.line.ns += 5;
	assert_int_equal(event(&guest), 5);
	guest.line.ns -= 3;
	assert_int_equal(event(&guest), -3);
	assert_int_equal(guest.judge.jump_max, 5);
	assert_int_equal(judge_total(&guest.judge), 2);
	assert_int_equal(guest.judge.unannounced, 0);
	judge_clear(&guest.judge);
}

/* A clock that was set back by less than it was stopped for: it jumped, but nobody saw it go backwards. */
static void test_large_jump_over_a_blackout(void **state)
{
	struct guest guest;

	(void)state;
	begin(&guest);
	guest.line.ns -= 10000000;
	guest.tsc += 40000000;
	assert_int_equal(event(&guest), -10000000);
	assert_int_equal(guest.judge.backwards, 0);
	judge_clear(&guest.judge);
}

static void test_backwards_across_vcpus(void **state)
{
	struct guest guest;

	(void)state;
	begin(&guest);
	struct vmm_ring_entry low = reading_at(&guest.line, guest.tsc + 200);

	low.ns -= 100;
	feed(&guest, 0, reading_at(&guest.line, guest.tsc + 100));
	feed(&guest, 1, low);
	judge_merge(&guest.judge, true);
	assert_int_equal(guest.judge.backwards, 1);
	assert_int_equal(guest.judge.unannounced, 1);
	assert_int_equal(guest.judge.jump_max, 100);
	judge_clear(&guest.judge);
}

/* vCPU 1's readings arrive in a later batch, and are older. That is no step backwards. */
static void test_batches_are_merged(void **state)
{
	struct guest guest;

	(void)state;
	begin(&guest);
	for (unsigned int i = 0; i < 100; i++)
		feed(&guest, 0, reading_at(&guest.line, guest.tsc + 1000 + 100 * i));
	judge_merge(&guest.judge, false);
	for (unsigned int i = 0; i < 100; i++)
		feed(&guest, 1, reading_at(&guest.line, guest.tsc + 1050 + 100 * i));
	judge_merge(&guest.judge, false);
	judge_merge(&guest.judge, true);
	assert_int_equal(guest.judge.backwards, 0);
	assert_int_equal(guest.judge.readings, VCPUS + 1000 + 200);
	judge_clear(&guest.judge);
}

/* A full ring loses readings, one vCPU's more than the other's. What is left is judged as ever. */
static void test_dropped_readings(void **state)
{
	struct guest guest;

	(void)state;
	begin(&guest);
	for (unsigned int i = 0; i < 3000; i++)
		if (i % 7 == 0 || (i > 1000 && i < 1500))
			feed(&guest, (i / 100) % VCPUS, reading_at(&guest.line, guest.tsc + 61 * i));
	guest.tsc += 61 * 3000;
	guest.line.ns += 1;
	assert_int_equal(event(&guest), 1);
	assert_int_equal(guest.judge.backwards, 0);
	assert_int_equal(guest.judge.unannounced, 0);
	judge_clear(&guest.judge);
}

/* The same slope through an anchor that lies half a ns off: readings differ by 0 or 1. Twenty such must not look like 20 ns. */
static void test_wobble_does_not_pile_up(void **state)
{
	struct guest guest;
	unsigned int wobbled = 0;

	(void)state;
	begin(&guest);
	for (uint64_t i = 0; i < 20; i++) {
		guest.tsc += 1000003;
		guest.line = first;
		/*
		 * A new anchor on the old line, its fraction of a ns cut off: what the kernel's snapshots do. Even, like the first
		 * one: with shift -1 an odd one would round whole ticks differently too, and that makes 2 ns.
		 */
		guest.tsc &= ~1ull;
		guest.line.tsc = guest.tsc;
		guest.line.ns = pvclock_line_ns(&first, guest.tsc);
		int64_t jump = event(&guest);

		assert_in_range(jump + 1, 0, 2);
		wobbled += jump != 0;
	}
	assert_true(wobbled > 5);
	assert_int_equal(guest.judge.jump_max, 1);
	assert_in_range(judge_total(&guest.judge) + 1, 0, 2);
	assert_int_equal(guest.judge.unannounced, 0);
	assert_int_equal(guest.judge.backwards, 0);
	judge_clear(&guest.judge);
}

/* The kernel takes a new snapshot, and says so to nobody. */
static void test_unannounced_jump(void **state)
{
	struct guest guest;

	(void)state;
	begin(&guest);
	guest.line.ns += 40;
	run(&guest, 1000);
	assert_int_equal(guest.judge.jump_max, 40);
	assert_int_equal(guest.judge.unannounced, VCPUS); /* each vCPU saw it */
	assert_int_equal(judge_total(&guest.judge), 40);
	assert_int_equal(event(&guest), 0);
	judge_clear(&guest.judge);
}

/* Without TSC_STABLE each vCPU has a line of its own: no order between them is promised, but each must keep its own. */
static void test_unstable_pages(void **state)
{
	struct judge judge;
	struct pvclock_line other = first;

	(void)state;
	other.ns += 1000;
	judge_init(&judge, VCPUS);
	for (unsigned int i = 0; i < 200; i++) {
		struct vmm_ring_entry reading = reading_at(i % 2 ? &other : &first, 100000 + 10 * (uint64_t)i);

		reading.flags = 0;
		judge_feed(&judge, i % 2, &reading, 1);
	}
	assert_true(judge_set_line(&judge, 0, &first));
	assert_false(judge_set_line(&judge, 1, &first));
	assert_true(judge_set_line(&judge, 1, &other));
	judge_merge(&judge, true);
	assert_int_equal(judge.backwards, 0);
	assert_int_equal(judge.unstable, 200);
	assert_int_equal(judge.checked, 200);
	assert_int_equal(judge.jump_max, 0);
	assert_int_equal(judge_total(&judge), 0);
	judge_clear(&judge);
}

static void test_failed_readings(void **state)
{
	struct guest guest;

	(void)state;
	begin(&guest);
	struct vmm_ring_entry failed = { .tsc = guest.tsc + 1, .result = PVCLOCK_READ_BUSY };

	feed(&guest, 0, failed);
	judge_merge(&guest.judge, true);
	assert_int_equal(guest.judge.failed, 1);
	assert_int_equal(guest.judge.backwards, 0);
	assert_int_equal(guest.judge.jump_max, 0);
	judge_clear(&guest.judge);
}

static void test_pages_are_found(void **state)
{
	static _Alignas(4096) unsigned char memory[1 << 16];
	struct pvclock_line other = first;
	struct pvclock_snapshot snapshot;
	struct pages pages = { .count = 0 };
	struct vmm_ring_entry reading;

	(void)state;
	memset(memory, 0x5a, sizeof(memory));
	other.ns += 1;
	memset(memory + 0x2000, 0, 32);
	memset(memory + 0x3020, 0, 32);
	pvclock_page_write(memory + 0x2000, &other, PVCLOCK_TSC_STABLE);
	pvclock_page_write(memory + 0x3020, &first, PVCLOCK_TSC_STABLE);
	assert_int_equal(pvclock_page_read(memory + 0x3020, &snapshot), PVCLOCK_READ_OK);
	reading = reading_at(&first, 123456);
	reading.version = snapshot.version;
	assert_int_equal(pages_find(&pages, memory, sizeof(memory), &reading), 1);
	assert_int_equal(pages_find(&pages, memory, sizeof(memory), &reading), 0);
	assert_int_equal(pages.gpa[0], 0x3020);
	assert_true(pages_line(&pages, memory, &reading, &snapshot));
	assert_int_equal(snapshot.line.ns, first.ns);
	pvclock_page_write(memory + 0x3020, &other, PVCLOCK_TSC_STABLE);
	assert_false(pages_line(&pages, memory, &reading, &snapshot));
}

static void test_drift_arithmetic(void **state)
{
	struct drift_sample start = { .raw_ns = 1000000000, .low_ns = -10, .high_ns = 10 };
	struct drift_sample end = { .raw_ns = 6000000000, .low_ns = -260, .high_ns = -240 };
	double ppb, error;

	(void)state;
	drift_between(&start, &end, 0, &ppb, &error); /* RAW lost 250 ns against the guest in 5 s */
	assert_true(ppb > 49.999 && ppb < 50.001);
	assert_true(error > 3.999 && error < 4.001);
	drift_between(&start, &end, 250, &ppb, &error); /* but that was a jump */
	assert_true(ppb > -0.001 && ppb < 0.001);
}

/*
 * An interrupt before its time is one that was early, though the guest's timer has put it right; and the deadline is
 * still asked for.
 */
static void test_early_deadlines(void **state)
{
	const struct vmm_ring_entry entries[] = {
		{ .result = VMM_DEADLINE_ASKED, .ns = 1000, .tsc = 2000, .version = 2 },
		{ .result = VMM_DEADLINE_EARLY, .ns = 900, .tsc = 1800, .version = 2 },
		{ .result = VMM_DEADLINE_EARLY, .ns = 999, .tsc = 1998, .version = 4 },
		{ .result = VMM_DEADLINE_TAKEN, .ns = 1005, .tsc = 2010, .version = 4 },
		{ .result = VMM_DEADLINE_ASKED, .ns = 3000, .version = 4 }, /* the host keeps this one */
		{ .result = VMM_DEADLINE_TAKEN, .ns = 2999, .tsc = 5998, .version = 4 },
		{ .result = VMM_DEADLINE_EARLY, .ns = 3000, .tsc = 6000, .version = 4 }, /* of nothing */
	};
	struct deadlines deadlines = { 0 };

	(void)state;
	deadlines_take(&deadlines, 0, entries, sizeof(entries) / sizeof(*entries));
	assert_int_equal(deadlines.taken, 2);
	assert_int_equal(deadlines.early, 3);
	assert_int_equal(deadlines.early_across, 1);
	assert_int_equal(deadlines.across, 1);
	assert_int_equal(deadlines.unpaired, 1);
	assert_true(deadlines.first[0].ns == 100 && deadlines.first[0].ticks == -200 && !deadlines.first[0].across);
	assert_true(deadlines.first[1].ns == 1 && deadlines.first[1].across);
	assert_true(deadlines.first[2].ns == 1 && deadlines.first[2].ticks == 0);
	assert_int_equal(lateness_quantile(&deadlines.disturbed, 100), 5);
	assert_int_equal(deadlines.quiet.count, 0);
	deadlines_clear(&deadlines);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_function),
		cmocka_unit_test(test_jump_of_5_ns),
		cmocka_unit_test(test_large_jump_over_a_blackout),
		cmocka_unit_test(test_backwards_across_vcpus),
		cmocka_unit_test(test_batches_are_merged),
		cmocka_unit_test(test_dropped_readings),
		cmocka_unit_test(test_wobble_does_not_pile_up),
		cmocka_unit_test(test_unannounced_jump),
		cmocka_unit_test(test_unstable_pages),
		cmocka_unit_test(test_failed_readings),
		cmocka_unit_test(test_pages_are_found),
		cmocka_unit_test(test_early_deadlines),
		cmocka_unit_test(test_drift_arithmetic),
	};

	return cmocka_run_group_tests_name("judge", tests, NULL, NULL);
}
