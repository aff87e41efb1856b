/* SPDX-License-Identifier: MIT */
/*
 * The orders that the sequence count needs are there, and each one is needed.
 *
 * torture.c cannot see a missing fence on x86, which reorders no stores. So here the library's own source is compiled
 * with its atomics replaced by a recorder, and then every order is tried in which a machine may let another CPU see
 * the recorded stores, against every order in which it may carry out the recorded loads:
 *
 * - a store is not seen before an earlier one to the same word, before an earlier release fence's predecessors, or,
 *   if it is a release store, before anything earlier;
 * - a load is not carried out before an earlier one of the same word, before an earlier acquire load, or before an
 *   earlier acquire fence's predecessors;
 * - everything else may happen in any order.
 *
 * Each outcome is then given to the library's own reader: what it accepts must be one version's body. It is enough to
 * look at two words of the body at a time: a mixed copy has two words of different versions.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

static uint64_t observe_load(const volatile void *address, size_t size, memory_order order);
static void observe_store(volatile void *address, size_t size, uint64_t value, memory_order order);
static void observe_fence(memory_order order);

#undef atomic_load_explicit
#undef atomic_store_explicit
#undef atomic_thread_fence
#define atomic_load_explicit(address, order) ((__typeof__(+*(address)))observe_load(address, sizeof(*(address)), order))
#define atomic_store_explicit(address, value, order) observe_store(address, sizeof(*(address)), value, order)
#define atomic_thread_fence(order) observe_fence(order)

#include "../../src/page/hyperv.c"
#include "../../src/page/read.c"
#include "../../src/page/vmclock.c"
#include "../../src/page/write.c"
#include <pvclock/guest.h>

/* --- the recorder ------------------------------------------------------------------- */

enum kind { LOAD, STORE, FENCE };

struct event {
	enum kind kind;
	unsigned int word; /* 32-bit word of the page */
	bool acquire, release;
	uint32_t value; /* of a STORE */
};

#define MAX_EVENTS 128
#define WORDS 32

struct trace {
	struct event events[MAX_EVENTS];
	unsigned int count;
};

static _Alignas(64) uint32_t memory[WORDS];
static unsigned int version_word; /* the subject's */
static struct trace *recording;
static jmp_buf *retry;          /* replaying: where a reader goes that looks at version a third time */
static unsigned int replayed;   /* loads of version so far */
static const uint32_t *replay_version; /* two values */

static bool acquires(memory_order order)
{
	return order == memory_order_acquire || order == memory_order_acq_rel || order == memory_order_seq_cst;
}

static bool releases(memory_order order)
{
	return order == memory_order_release || order == memory_order_acq_rel || order == memory_order_seq_cst;
}

static void record(enum kind kind, unsigned int word, memory_order order, uint32_t value)
{
	if (!recording)
		return;
	assert_true(recording->count < MAX_EVENTS);
	recording->events[recording->count++] = (struct event){ kind, word, acquires(order), releases(order), value };
}

static uint64_t observe_load(const volatile void *address, size_t size, memory_order order)
{
	unsigned int word = (unsigned int)((const volatile uint32_t *)address - memory);
	uint64_t value = 0;

	for (unsigned int i = 0; i < size / 4; i++) {
		assert_true(word + i < WORDS);
		record(LOAD, word + i, order, 0);
		value |= (uint64_t)memory[word + i] << 32 * i;
	}
	if (retry && word == version_word) {
		if (replayed == 2)
			longjmp(*retry, 1);
		return replay_version[replayed++];
	}
	return value;
}

static void observe_store(volatile void *address, size_t size, uint64_t value, memory_order order)
{
	unsigned int word = (unsigned int)((volatile uint32_t *)address - memory);

	assert_int_equal(size, 4); /* the ABI's alignment allows no more */
	assert_true(word < WORDS);
	record(STORE, word, order, (uint32_t)value);
	memory[word] = (uint32_t)value;
}

static void observe_fence(memory_order order)
{
	record(FENCE, 0, order, 0);
}

/* --- what is under test -------------------------------------------------------------- */

static void write_page(uint64_t n)
{
	struct pvclock_line line = { n * 0x100000001u, n * 0x300000003u, (uint32_t)n * 5, (int8_t)n };

	pvclock_page_write(memory, &line, (uint8_t)n);
}

static void write_wall_clock(uint64_t n)
{
	pvclock_wall_clock_write(memory, n * 1000000001u);
}

static void write_vmclock(uint64_t n)
{
	struct pvclock_vmclock clock = { .size = 0x70, .marker = n * 0x100000001u, .flags = n * 0x300000003u, .counter = n * 0x500000005u,
					 .period = n * 0x700000007u, .generation = n * 0x900000009u };

	pvclock_vmclock_write(memory, &clock);
}

static bool read_page(void)
{
	struct pvclock_snapshot snapshot;

	return pvclock_page_read(memory, &snapshot) != PVCLOCK_READ_BUSY;
}

static bool read_wall_clock(void)
{
	uint64_t ns;

	return pvclock_wall_clock_read(memory, &ns) != PVCLOCK_READ_BUSY;
}

static void write_hyperv(uint64_t n)
{
	struct pvclock_hyperv_line hyperv = { n * 0x100000001u, (int64_t)(n * 0x300000003u) };

	pvclock_hyperv_page_write(memory, &hyperv, (uint32_t)n);
}

static bool read_hyperv(void)
{
	struct pvclock_hyperv_snapshot snapshot;

	return pvclock_hyperv_page_read(memory, &snapshot) == PVCLOCK_READ_OK;
}

static bool read_vmclock(void)
{
	struct pvclock_vmclock clock;

	return pvclock_vmclock_read(memory, &clock) != PVCLOCK_READ_BUSY;
}

#if defined(__x86_64__) || defined(__i386__)
static bool read_clock(void)
{
	struct pvclock_reading reading;

	return pvclock_read_clock((const void *)memory, &reading) != PVCLOCK_READ_BUSY;
}
#endif

static const struct subject {
	const char *name;
	void (*write)(uint64_t n);
	bool (*read)(void);
	unsigned int first, last; /* words of the body */
	unsigned int version;     /* its word */
	unsigned int step;        /* what a write adds to the version: 2, and odd is open; 1, and 0 is */
	unsigned int begun;       /* the version before: one that a reader takes, or the first write needs no order */
} subjects[] = {
	{ "pvclock_page_write, pvclock_page_read", write_page, read_page, 2, 7, 0, 2, 0 },
	{ "pvclock_wall_clock_write, pvclock_wall_clock_read", write_wall_clock, read_wall_clock, 1, 2, 0, 2, 0 },
	{ "pvclock_hyperv_page_write, pvclock_hyperv_page_read", write_hyperv, read_hyperv, 2, 5, 0, 1, 1 },
	/* any words are like any others; so are all pairs of these, the first ones and the last */
	{ "pvclock_vmclock_write, pvclock_vmclock_read, its beginning", write_vmclock, read_vmclock, 4, 6, 3, 2, 0 },
	{ "pvclock_vmclock_write, pvclock_vmclock_read", write_vmclock, read_vmclock, 10, 12, 3, 2, 0 },
	{ "pvclock_vmclock_write, pvclock_vmclock_read, its end", write_vmclock, read_vmclock, 25, 27, 3, 2, 0 },
#if defined(__x86_64__) || defined(__i386__)
	{ "pvclock_page_write, pvclock_read_clock", write_page, read_clock, 2, 7, 0, 2, 0 },
#endif
};

/* The store that closes a write. */
static bool closes(const struct subject *subject, uint32_t version)
{
	return subject->step == 2 ? (version & 1) == 0 : version != 0;
}

/* --- every outcome -------------------------------------------------------------------- */

#define MAX_STORES 8
#define MAX_LOADS 4

struct machine {
	struct {
		unsigned int word, write; /* write: 1 or 2, the version it belongs to */
		uint32_t value;
		unsigned int before; /* stores that are seen first, a bit each */
	} stores[MAX_STORES];
	struct {
		unsigned int word, before;
	} loads[MAX_LOADS];
	unsigned int store_count, load_count;
	const struct subject *subject;
	unsigned long outcomes, accepted, mixed;
};

/* What the loads saw: 0 is the page before the first write, 1 + i is store i. */
struct outcome {
	unsigned int seen[MAX_LOADS];
};

static bool reader_accepts(const struct machine *machine, const uint32_t version[2])
{
	jmp_buf again;
	bool accepted = false;

	replay_version = version;
	replayed = 0;
	retry = &again;
	if (setjmp(again) == 0)
		accepted = machine->subject->read();
	retry = NULL;
	return accepted;
}

static void judge(struct machine *machine, const struct outcome *outcome)
{
	uint32_t version[2] = { 0, 0 };
	unsigned int versions = 0, writes[2], bodies = 0;

	machine->outcomes++;
	for (unsigned int i = 0; i < machine->load_count; i++) {
		unsigned int seen = outcome->seen[i];

		if (machine->loads[i].word == version_word)
			version[versions++] = seen ? machine->stores[seen - 1].value : machine->subject->begun;
		else
			writes[bodies++] = seen ? machine->stores[seen - 1].write : 0;
	}
	assert_int_equal(versions, 2);
	assert_int_equal(bodies, 2);
	if (!reader_accepts(machine, version))
		return;
	machine->accepted++;
	/* each write adds as much to the version */
	machine->mixed += writes[0] != writes[1] || version[0] != machine->subject->begun + machine->subject->step * writes[0];
}

static void explore(struct machine *machine, unsigned int stored, unsigned int loaded, const struct outcome *outcome)
{
	if (loaded + 1 == 1u << machine->load_count) {
		judge(machine, outcome);
		return;
	}
	for (unsigned int i = 0; i < machine->store_count; i++)
		if (!(stored >> i & 1) && (machine->stores[i].before & ~stored) == 0)
			explore(machine, stored | 1u << i, loaded, outcome);
	for (unsigned int i = 0; i < machine->load_count; i++)
		if (!(loaded >> i & 1) && (machine->loads[i].before & ~loaded) == 0) {
			struct outcome next = *outcome;

			/* stores to one word are seen in their order: the last one is the word's value */
			next.seen[i] = 0;
			for (unsigned int s = 0; s < machine->store_count; s++)
				if (stored >> s & 1 && machine->stores[s].word == machine->loads[i].word)
					next.seen[i] = s + 1;
			explore(machine, stored, loaded | 1u << i, &next);
		}
}

/* Keeps version and the two words of the body; a fence stays in what it orders. */
static void project(struct machine *machine, const struct trace *trace, unsigned int a, unsigned int b)
{
	const struct event *kept[MAX_STORES + MAX_LOADS];
	unsigned int fences[MAX_STORES + MAX_LOADS], releases_seen = 0, acquires_seen = 0, write = 1;

	machine->store_count = machine->load_count = 0;
	for (unsigned int i = 0; i < trace->count; i++) {
		const struct event *event = &trace->events[i];
		unsigned int n;

		if (event->kind == FENCE) {
			releases_seen += event->release;
			acquires_seen += event->acquire;
			continue;
		}
		if (event->word != version_word && event->word != a && event->word != b)
			continue;
		if (event->kind == STORE) {
			n = machine->store_count++;
			assert_true(n < MAX_STORES);
			kept[n] = event;
			fences[n] = releases_seen;
			machine->stores[n].word = event->word;
			machine->stores[n].value = event->value;
			machine->stores[n].write = write;
			machine->stores[n].before = 0;
			for (unsigned int j = 0; j < n; j++)
				if (event->release || kept[j]->word == event->word || fences[j] != releases_seen)
					machine->stores[n].before |= 1u << j;
			write += event->word == version_word && closes(machine->subject, event->value);
		} else {
			n = machine->load_count++;
			assert_true(n < MAX_LOADS);
			kept[n] = event;
			fences[n] = acquires_seen;
			machine->loads[n].word = event->word;
			machine->loads[n].before = 0;
			for (unsigned int j = 0; j < n; j++)
				if (kept[j]->acquire || kept[j]->word == event->word || fences[j] != acquires_seen)
					machine->loads[n].before |= 1u << j;
		}
	}
}

static void run(struct machine *machine, const struct trace *stores, const struct trace *loads)
{
	for (unsigned int a = machine->subject->first; a < machine->subject->last; a++)
		for (unsigned int b = a + 1; b <= machine->subject->last; b++) {
			struct machine halves = { .subject = machine->subject };
			struct outcome none = { { 0 } };

			project(&halves, loads, a, b);
			memcpy(machine->loads, halves.loads, sizeof(halves.loads));
			machine->load_count = halves.load_count;
			project(&halves, stores, a, b);
			memcpy(machine->stores, halves.stores, sizeof(halves.stores));
			machine->store_count = halves.store_count;
			assert_int_equal(machine->load_count, 4);
			assert_int_equal(machine->store_count, 8);
			explore(machine, 0, 0, &none);
		}
}

static void record_subject(const struct subject *subject, struct trace *stores, struct trace *loads)
{
	version_word = subject->version;
	memset(memory, 0, sizeof(memory));
	memory[version_word] = subject->begun;
	memset(stores, 0, sizeof(*stores));
	memset(loads, 0, sizeof(*loads));
	recording = stores;
	subject->write(1);
	subject->write(2);
	recording = loads;
	assert_true(subject->read());
	recording = NULL;
	/* the flags are looked at as late as may be: in the odd phase */
	for (unsigned int i = 0, odd = 0; i < stores->count; i++) {
		const struct event *event = &stores->events[i];

		if (event->kind == STORE && event->word == version_word)
			odd = !closes(subject, event->value);
		assert_true(event->kind != LOAD || event->word == version_word || odd);
	}
	/* otherwise a writer's own loads order nothing here */
	for (unsigned int i = 0; i < stores->count;)
		if (stores->events[i].kind == LOAD)
			memmove(&stores->events[i], &stores->events[i + 1],
				(--stores->count - i) * sizeof(stores->events[0]));
		else
			i++;
}

static void no_order_shows_a_mixed_body(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(subjects) / sizeof(*subjects); i++) {
		struct machine machine = { .subject = &subjects[i] };
		struct trace stores, loads;

		record_subject(&subjects[i], &stores, &loads);
		run(&machine, &stores, &loads);
		print_message("%s: %lu orders, %lu accepted, %lu mixed\n", subjects[i].name, machine.outcomes,
			      machine.accepted, machine.mixed);
		assert_true(machine.accepted > 0 && machine.accepted < machine.outcomes);
		assert_int_equal(machine.mixed, 0);
	}
}

/* Takes away what orders event i. */
static struct trace weaken(const struct trace *trace, unsigned int i)
{
	struct trace weak = *trace;

	weak.events[i].acquire = weak.events[i].release = false;
	return weak;
}

static void every_order_is_needed(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(subjects) / sizeof(*subjects); i++) {
		unsigned int orders = 0;
		struct trace stores, loads;

		record_subject(&subjects[i], &stores, &loads);
		for (unsigned int e = 0; e < stores.count + loads.count; e++) {
			bool of_stores = e < stores.count;
			unsigned int n = of_stores ? e : e - stores.count;
			const struct event *event = of_stores ? &stores.events[n] : &loads.events[n];
			struct machine machine = { .subject = &subjects[i] };
			struct trace weak_stores = of_stores ? weaken(&stores, n) : stores;
			struct trace weak_loads = of_stores ? loads : weaken(&loads, n);

			if (!event->acquire && !event->release)
				continue;
			orders++;
			run(&machine, &weak_stores, &weak_loads);
			if (machine.mixed == 0)
				fail_msg("%s: %s event %u can be weakened unseen", subjects[i].name,
					 of_stores ? "writer" : "reader", n);
		}
		/* two writes with a fence and a release store each; an acquire load and a fence */
		assert_int_equal(orders, 6);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_order_shows_a_mixed_body),
		cmocka_unit_test(every_order_is_needed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
