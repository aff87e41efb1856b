/* SPDX-License-Identifier: MIT */
/*
 * What a reader of all clocks makes of a write that comes between any two of its loads, at any of the writer's stores:
 * the time before it or the time after it, and nothing else. Every such order there is, one after the other; the
 * torture meets them by chance.
 *
 * Readers and writers are the sources themselves, with loads that this test counts, and stores that it notes: at two of
 * the reader's loads the writer goes on, up to a store and to its end.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pvclock/page.h>
#include <stdio.h>
#include <string.h>

static void between_loads(void);
static void note_store(uint32_t *word, uint32_t value);

static uint32_t watched_u32(const void *word)
{
	between_loads();
	return pvclock_load_relaxed_u32(word);
}

static uint32_t watched_first_u32(const void *word)
{
	between_loads();
	return pvclock_load_acquire_u32(word);
}

/* In halves, as a 32-bit machine reads it: more orders than 64 bits have. */
static uint64_t watched_u64(const uint64_t *word)
{
	const uint32_t *half = (const uint32_t *)(const void *)word;
	uint64_t low = watched_u32(half);

	return (uint64_t)watched_u32(half + 1) << 32 | low;
}

#define pvclock_load_relaxed_u32 watched_u32
#define pvclock_load_acquire_u32 watched_first_u32
#define pvclock_load_relaxed_u64 watched_u64
#undef atomic_store_explicit
#define atomic_store_explicit(word, value, order) note_store((uint32_t *)(word), value)
#include "../../src/guest/clock.c"
#include "../../src/page/suspend.c"
#include "../../src/page/write.c"

#define STORES_MAX 80u
#define LOADS_MAX 76u /* what is ready, two tries, and a bit */

static struct pvclock_user_page page __attribute__((aligned(4096)));

static struct {
	struct {
		uint32_t *word, value;
	} stores[STORES_MAX];
	unsigned int count, done;
	unsigned int loads;             /* so far, of the reader */
	unsigned int first, up_to, last; /* before load `first` the writer does `up_to` stores, before load `last` the others */
	bool armed;
} writer;

static void store_up_to(unsigned int count)
{
	for (; writer.done < count; writer.done++)
		*writer.stores[writer.done].word = writer.stores[writer.done].value;
}

static void between_loads(void)
{
	if (!writer.armed)
		return;
	if (writer.loads == writer.first)
		store_up_to(writer.up_to);
	if (writer.loads == writer.last)
		store_up_to(writer.count);
	writer.loads++;
}

static void note_store(uint32_t *word, uint32_t value)
{
	*word = value;
	assert_true(writer.count < STORES_MAX);
	writer.stores[writer.count].word = word;
	writer.stores[writer.count++].value = value;
}

/* System time stands still on it: a tick is 2^-63 ns. */
static void write_line(struct pvclock_page *to, uint64_t tsc, uint64_t ns, uint32_t mul)
{
	struct pvclock_line line = { tsc, ns, mul, PVCLOCK_SHIFT_MIN };

	pvclock_page_write(to, &line, PVCLOCK_TSC_STABLE);
}

static void set_before(void)
{
	struct pvclock_time real = { -2, 999999999 };

	memset(&writer, 0, sizeof(writer));
	memset(&page, 0, sizeof(page));
	write_line(&page.page, 0, UINT64_C(0x180000007), 1);
	pvclock_clocks_set_realtime(&page, UINT64_C(0x180000007), pvclock_clocks_uncounted(&page), &real);
	memset(&writer, 0, sizeof(writer));
	pvclock_clocks_set_tai(&page, UINT64_C(0x180000007), 37);
}

enum event { LINE, PASSED, SLEEP, TICK, DAY, LINE_AND_TICK, EVENTS };

static void set_after(enum event event)
{
	struct pvclock_suspend suspend = { .cause = PVCLOCK_CAUSE_SUSPEND, .count = 1, .uncounted_ns = UINT64_C(0x700000005) };
	struct pvclock_time real = { INT64_C(0x500000001), 5 };

	switch (event) {
	case LINE:
		write_line(&page.page, UINT64_C(0x300000001), UINT64_C(0x200000009), 2);
		break;
	case LINE_AND_TICK: /* what is ready is of the new line, and a reader may have loaded some of it before */
		write_line(&page.page, UINT64_C(0x300000001), UINT64_C(0x200000009), 2);
		pvclock_clocks_tick(&page, UINT64_C(0x200000009));
		break;
	case PASSED:
		pvclock_suspend_write(&page.suspend, &suspend);
		break;
	case SLEEP: /* two pages, while no vCPU runs */
		write_line(&page.page, UINT64_C(0x400000001), UINT64_C(0x180000008), 1);
		pvclock_suspend_write(&page.suspend, &suspend);
		break;
	case TICK:
		pvclock_clocks_tick(&page, UINT64_C(0x380000008)); /* some seconds later; its readers are before the anchor */
		break;
	default:
		pvclock_clocks_set_realtime(&page, UINT64_C(0x180000007), pvclock_clocks_uncounted(&page), &real);
		break;
	}
}

static bool same(const struct pvclock_time *a, const struct pvclock_time *b)
{
	return a->sec == b->sec && a->nsec == b->nsec;
}

static enum pvclock_read read_any(unsigned int id, struct pvclock_time *time)
{
	return PVCLOCK_COARSE_CLOCKS >> id & 1 ? pvclock_coarse_time(&page, id, time) : pvclock_user_time(&page, id, time);
}

/* All the orders of one write and one clock's reading. Returns how many. */
static unsigned int try_all(enum event event, unsigned int id)
{
	struct pvclock_user_page before;
	struct pvclock_time was, is, got;
	unsigned int orders = 0;

	set_before();
	before = page;
	assert_int_equal(read_any(id, &was), PVCLOCK_READ_OK);
	memset(&writer, 0, sizeof(writer));
	set_after(event);
	assert_int_equal(read_any(id, &is), PVCLOCK_READ_OK);

	for (writer.first = 0; writer.first < LOADS_MAX / 2; writer.first++)
		for (writer.last = writer.first; writer.last < LOADS_MAX; writer.last++)
			for (writer.up_to = event == SLEEP ? writer.count : 0; writer.up_to <= writer.count; writer.up_to++) {
				page = before;
				writer.done = writer.loads = 0;
				writer.armed = true;
				assert_int_equal(read_any(id, &got), PVCLOCK_READ_OK);
				writer.armed = false;
				if (!same(&got, &was) && !same(&got, &is))
					fail_msg("event %d, clock %u, store %u of %u before load %u, the others before %u: %lld.%09u", event, id,
						 writer.up_to, writer.count, writer.first, writer.last, (long long)got.sec, got.nsec);
				/* who began after the write sees it */
				if (writer.last == 0)
					assert_true(same(&got, &is));
				orders++;
			}
	return orders;
}

static void p2_before_or_after(void **state)
{
	unsigned int orders = 0;

	(void)state;
	for (unsigned int event = 0; event < EVENTS; event++)
		for (unsigned int id = 0; id < PVCLOCK_CLOCKS; id++)
			if ((PVCLOCK_HIGH_CLOCKS | PVCLOCK_COARSE_CLOCKS) >> id & 1)
				orders += try_all((enum event)event, id);
	printf("%u orders\n", orders);
}

int main(void)
{
	static const struct CMUnitTest tests[] = { cmocka_unit_test(p2_before_or_after) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
