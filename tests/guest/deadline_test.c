/* SPDX-License-Identifier: MIT */
/*
 * deadline_test.c - a CPU's timer in a made-up machine: what is armed is the first tick by the page's line, wherever that changes;
 * the mode is set, and seen to be set, before it is armed; no interrupt is taken for another's. And the same for deadlines that
 * the host keeps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "../random.h"
#include "fake_machine.h"

#include "../../src/guest/deadline.c"

#define VECTOR 0x41u
#define NEVER UINT64_MAX

/* --- the machine ------------------------------------------------------------------------ */

static struct {
	_Alignas(8) struct pvclock_page page;
	struct pvclock_line line; /* the truth: what the page says, or would */
	uint64_t seed, tsc;
	/* the local APIC */
	_Alignas(16) uint32_t registers[0x400 / 4];
	bool x2apic, lvt_on_its_way; /* a store that no fence has followed */
	uint32_t lvt;
	uint64_t deadline;
	unsigned int disorder; /* writes of the deadline's MSR that may overtake the LVT's */
	/* the host's interface */
	uint32_t features, cpuid_1_ecx;
	uint64_t control, wanted;
	/* both */
	bool requested; /* the vector's interrupt */
	unsigned int touched; /* instructions of the kind that a host can come between */
	unsigned int change_at; /* the number of the one at which the line changes; counted twice, before and after it */
	bool torn; /* the page is never whole */
} world;

uint32_t pvclock_interface_find(void)
{
	return world.features;
}

static uint64_t random_u64(void)
{
	return splitmix64(&world.seed);
}

static uint64_t now_ns(void)
{
	return pvclock_line_ns(&world.line, world.tsc);
}

/* The first tick at which a line says `ns` or more, by the line alone; NEVER. */
static uint64_t first_tick(const struct pvclock_line *line, uint64_t ns)
{
	uint64_t low = line->tsc, high = UINT64_MAX;

	if (pvclock_line_ns(line, high) < ns)
		return NEVER;
	if (ns <= line->ns) /* always */
		return 1;
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		if (pvclock_line_ns(line, middle) >= ns)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* The clock goes on, or leaps ahead; its counter and its rate may be others: 0.1 to 6 GHz. */
static void change_line(void)
{
	uint64_t ns = now_ns() + random_u64() % 5000, ticks = world.tsc;
	struct pvclock_slope slope;

	if (random_u64() % 2)
		ticks = world.tsc = random_u64() >> (1 + random_u64() % 20);
	pvclock_slope_from_khz(100000 + random_u64() % 6000000, &slope);
	pvclock_line_make(&world.line, ticks, ns, &slope, NULL);
	pvclock_page_write(&world.page, &world.line, PVCLOCK_TSC_STABLE);
}

static void raise_interrupts(void)
{
	if (world.deadline && world.tsc >= world.deadline) {
		world.deadline = 0;
		world.requested |= (world.lvt & 1u << 16) == 0;
	}
	if (world.wanted && now_ns() >= world.wanted) {
		world.wanted = 0;
		world.requested = true;
	}
}

/* A VM exit may be here. */
static void touch(void)
{
	world.tsc += random_u64() % 50;
	raise_interrupts();
	if (world.touched++ == world.change_at)
		change_line();
	raise_interrupts();
}

static void write_timer_entry(uint32_t value)
{
	if ((value ^ world.lvt) & 3u << 17) /* another mode disarms */
		world.deadline = 0;
	world.lvt = value;
}

void machine_write_msr(uint32_t msr, uint64_t value)
{
	touch();
	switch (msr) {
	case 0x832:
		assert_true(world.x2apic);
		write_timer_entry((uint32_t)value);
		world.lvt_on_its_way = true;
		break;
	case 0x6e0:
		world.disorder += world.lvt_on_its_way;
		if ((world.lvt & 3u << 17) == 2u << 17) /* in other modes: ignored */
			world.deadline = value;
		break;
	case PVCLOCK_MSR_DEADLINE_CONTROL:
		assert_true(world.features & PVCLOCK_FEATURE_DEADLINE);
		assert_true(value == 0 || (value & 0xff) >= 16);
		world.control = value;
		if (!(value & PVCLOCK_CONTROL_ENABLE))
			world.wanted = 0;
		break;
	case PVCLOCK_MSR_DEADLINE:
		assert_true(world.control & PVCLOCK_CONTROL_ENABLE); /* else #GP */
		world.wanted = value;
		break;
	default:
		fail_msg("WRMSR %#x", msr);
	}
	touch();
}

void machine_write_register(volatile uint32_t *place, uint32_t value)
{
	touch();
	assert_false(world.x2apic);
	assert_ptr_equal((const void *)(uintptr_t)place, &world.registers[0x320 / 4]);
	write_timer_entry(value);
	world.lvt_on_its_way = true;
	touch();
}

void machine_fence(void)
{
	world.lvt_on_its_way = false;
}

void machine_cpuid(uint32_t leaf, uint32_t regs[4])
{
	memset(regs, 0, 4 * sizeof(*regs));
	regs[2] = leaf == 1 ? world.cpuid_1_ecx : 0;
}

enum pvclock_read machine_read_page(const struct pvclock_page *page, struct pvclock_snapshot *out)
{
	enum pvclock_read result;

	touch();
	result = world.torn ? PVCLOCK_READ_BUSY : pvclock_page_read(page, out);
	touch();
	return result;
}

enum pvclock_read machine_read_clock(const struct pvclock_page *page, struct pvclock_reading *out)
{
	struct pvclock_snapshot snapshot;
	enum pvclock_read result;

	touch();
	result = world.torn ? PVCLOCK_READ_BUSY : pvclock_page_read(page, &snapshot);
	if (result == PVCLOCK_READ_OK)
		*out = (struct pvclock_reading){ .ns = pvclock_line_ns(&snapshot.line, world.tsc), .version = snapshot.version };
	touch();
	return result;
}

/* A machine of either kind that has run for a while; what the last one left in the APIC is armed. */
static void begin(uint64_t seed, enum pvclock_timer_kind kind)
{
	memset(&world, 0, sizeof(world));
	world.seed = seed;
	world.change_at = UINT32_MAX;
	world.features = kind == PVCLOCK_TIMER_HOST ? PVCLOCK_FEATURE_DEADLINE : 0;
	world.cpuid_1_ecx = 1u << 24;
	world.x2apic = random_u64() % 2;
	world.lvt = random_u64() % 2 ? 0x30 | 2u << 17 : 1u << 16;
	if (kind == PVCLOCK_TIMER_TSC && (world.lvt & 3u << 17) == 2u << 17)
		world.deadline = 1 + random_u64() % 1000;
	change_line();
}

static void start(struct pvclock_timer *timer)
{
	assert_true(pvclock_timer_start(timer, pvclock_timer_find(), &world.page, world.x2apic ? NULL : world.registers, VECTOR));
	world.requested = false; /* what had come before is not this timer's */
}

/* Time passes until an interrupt, or until there is nothing that could raise one. */
static bool sleep_until_interrupt(void)
{
	uint64_t at = world.deadline ? world.deadline : NEVER;

	if (world.wanted)
		at = first_tick(&world.line, world.wanted);
	if (!world.requested && at != NEVER && at > world.tsc)
		world.tsc = at;
	raise_interrupts();
	if (!world.requested)
		return false;
	world.requested = false;
	return true;
}

/* As the manual has it, whatever was there before; and it ends with nothing that could come. */
static void the_mode_comes_first(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 200; seed++) {
		struct pvclock_timer timer;

		begin(seed, PVCLOCK_TIMER_TSC);
		start(&timer);
		assert_int_equal(world.lvt, VECTOR | 2u << 17);
		assert_int_equal(world.deadline, 0); /* what another one had armed is gone */
		assert_int_equal(pvclock_timer_arm(&timer, now_ns() + 1000000), PVCLOCK_TIMER_ARMED);
		assert_true(world.deadline == first_tick(&world.line, timer.ns) && world.deadline == timer.tick);
		pvclock_timer_stop(&timer);
		assert_int_equal(world.lvt, VECTOR | 2u << 17 | 1u << 16);
		assert_int_equal(world.deadline, 0);
		assert_int_equal(world.disorder, 0);
		assert_false(sleep_until_interrupt());
		assert_int_equal(pvclock_timer_arm(&timer, now_ns()), PVCLOCK_TIMER_IDLE);
		assert_int_equal(pvclock_timer_interrupt(&timer), PVCLOCK_TIMER_IDLE);
		assert_int_equal(world.deadline, 0);
	}
}

/* Its MSR may not be there: not even 0 is written to it. */
static void what_never_began_is_left_alone(void **state)
{
	struct pvclock_timer timer = { 0 };

	(void)state;
	begin(7, PVCLOCK_TIMER_TSC);
	pvclock_timer_stop(&timer);
	pvclock_timer_disarm(&timer);
	assert_int_equal(pvclock_timer_check(&timer), PVCLOCK_TIMER_IDLE);
	assert_int_equal(pvclock_timer_arm(&timer, 1), PVCLOCK_TIMER_IDLE);
	assert_int_equal(pvclock_timer_interrupt(&timer), PVCLOCK_TIMER_IDLE);
	assert_false(pvclock_timer_start(&timer, PVCLOCK_TIMER_NONE, &world.page, world.registers, VECTOR));
	assert_false(pvclock_timer_start(&timer, PVCLOCK_TIMER_TSC, &world.page, world.registers, 15));
	pvclock_timer_stop(&timer);
	assert_int_equal(world.touched, 0);
}

static void the_best_is_found(void **state)
{
	(void)state;
	begin(1, PVCLOCK_TIMER_HOST);
	assert_int_equal(pvclock_timer_find(), PVCLOCK_TIMER_HOST);
	world.features = PVCLOCK_FEATURE_SUSPEND;
	assert_int_equal(pvclock_timer_find(), PVCLOCK_TIMER_TSC);
	world.cpuid_1_ecx = ~(1u << 24);
	assert_int_equal(pvclock_timer_find(), PVCLOCK_TIMER_NONE);
}

/*
 * Whenever the line changes while a timer is armed, what is armed in the end is the first tick by the line that then
 * holds; the interrupt is taken once, not before its time, and at the first tick if nothing came between.
 */
static void p5_armed_by_the_line_that_holds(void **state)
{
	unsigned int undisturbed = 0, again = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 40000; seed++) {
		struct pvclock_timer timer;
		enum pvclock_timer_state said;
		uint64_t ns;

		begin(seed, seed % 2 ? PVCLOCK_TIMER_TSC : PVCLOCK_TIMER_HOST);
		start(&timer);
		world.change_at = world.touched + (unsigned int)(seed / 2 % 16);
		ns = now_ns() + random_u64() % 3000000;
		assert_int_equal(pvclock_timer_arm(&timer, ns), PVCLOCK_TIMER_ARMED);
		if (timer.kind == PVCLOCK_TIMER_HOST)
			assert_true(world.requested || world.wanted == ns);
		else
			assert_true(world.requested || world.deadline == first_tick(&world.line, ns));
		if (random_u64() % 2) { /* a line that changes later: with a look at it, nothing is late */
			change_line();
			assert_int_equal(pvclock_timer_check(&timer), PVCLOCK_TIMER_ARMED);
			if (timer.kind == PVCLOCK_TIMER_TSC)
				assert_true(world.requested || world.deadline == first_tick(&world.line, ns));
		}
		again += timer.again > 0;
		undisturbed += world.touched <= world.change_at;
		do {
			assert_true(sleep_until_interrupt());
			said = pvclock_timer_interrupt(&timer);
			assert_true(said == PVCLOCK_TIMER_DUE ? now_ns() >= ns : said == PVCLOCK_TIMER_ARMED);
		} while (said != PVCLOCK_TIMER_DUE);
		assert_int_equal(pvclock_timer_interrupt(&timer), PVCLOCK_TIMER_IDLE);
		assert_int_equal(world.disorder, 0);
	}
	assert_true(again > 5000 && undisturbed > 5000);
}

/* Interrupts of deadlines that were replaced or taken back come all the same, and are nobody's. */
static void p5_an_interrupt_of_another_deadline(void **state)
{
	unsigned int idle = 0, early = 0, due = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 2000; seed++) {
		struct pvclock_timer timer;
		bool wants = false;
		uint64_t ns = 0;

		begin(seed, seed % 2 ? PVCLOCK_TIMER_TSC : PVCLOCK_TIMER_HOST);
		start(&timer);
		for (unsigned int step = 0; step < 100; step++) {
			switch (random_u64() % 4) {
			case 0:
				ns = now_ns() + random_u64() % 4000 - (random_u64() % 4 ? 0 : 500);
				assert_int_equal(pvclock_timer_arm(&timer, ns), PVCLOCK_TIMER_ARMED);
				wants = true;
				break;
			case 1:
				if (random_u64() % 4 == 0) {
					pvclock_timer_disarm(&timer);
					assert_true(world.deadline == 0 && world.wanted == 0);
					wants = false;
				} else if (random_u64() % 4 == 0) {
					change_line();
				}
				break;
			case 2:
				world.tsc += random_u64() % 4000;
				raise_interrupts();
				break;
			default:
				if (!world.requested)
					break;
				world.requested = false;
				switch (pvclock_timer_interrupt(&timer)) {
				case PVCLOCK_TIMER_IDLE:
					assert_false(wants);
					idle++;
					break;
				case PVCLOCK_TIMER_ARMED:
					assert_true(wants);
					early++;
					break;
				case PVCLOCK_TIMER_DUE:
					assert_true(wants && now_ns() >= ns);
					wants = false;
					due++;
					break;
				case PVCLOCK_TIMER_NEVER:
				case PVCLOCK_TIMER_LOST:
				default:
					fail_msg("seed %llu", (unsigned long long)seed);
				}
			}
			/* what is wanted is not lost */
			assert_true(!wants || world.requested || world.deadline || world.wanted);
		}
	}
	assert_true(idle > 100 && early > 100 && due > 1000);
}

static void p5_the_ends_of_time(void **state)
{
	struct pvclock_timer timer;

	(void)state;
	for (uint64_t seed = 0; seed < 2; seed++) {
		begin(seed, PVCLOCK_TIMER_TSC);
		start(&timer);
		/* 0 would disarm, and is long past; so is all before the anchor */
		world.line = (struct pvclock_line){ .tsc = 0, .ns = 5, .mul = 1u << 31, .shift = 1 };
		pvclock_page_write(&world.page, &world.line, 0);
		assert_int_equal(pvclock_timer_arm(&timer, 0), PVCLOCK_TIMER_ARMED);
		assert_true(sleep_until_interrupt());
		assert_int_equal(pvclock_timer_interrupt(&timer), PVCLOCK_TIMER_DUE);
		/* a counter that has not come to the anchor yet: the clock has */
		world.line.tsc = world.tsc + 1000000;
		pvclock_page_write(&world.page, &world.line, 0);
		assert_int_equal(pvclock_timer_arm(&timer, 5), PVCLOCK_TIMER_ARMED);
		assert_true(world.requested);
		world.requested = false;
		assert_int_equal(pvclock_timer_interrupt(&timer), PVCLOCK_TIMER_DUE);
		world.line.tsc = 0;
		pvclock_page_write(&world.page, &world.line, 0);
		/* the last tick that there is, and beyond it */
		assert_int_equal(pvclock_timer_arm(&timer, pvclock_line_ns(&world.line, UINT64_MAX)), PVCLOCK_TIMER_ARMED);
		assert_true(world.deadline == first_tick(&world.line, timer.ns));
		world.line = (struct pvclock_line){ .tsc = 0, .ns = 5, .mul = 1u << 31, .shift = 0 };
		pvclock_page_write(&world.page, &world.line, 0);
		assert_int_equal(pvclock_timer_check(&timer), PVCLOCK_TIMER_NEVER);
		assert_int_equal(world.deadline, 0);
		assert_int_equal(pvclock_timer_check(&timer), PVCLOCK_TIMER_NEVER);
		/* a line that reaches it after all */
		world.line.ns = UINT64_MAX - 1000;
		world.line.tsc = world.tsc;
		pvclock_page_write(&world.page, &world.line, 0);
		assert_int_equal(pvclock_timer_check(&timer), PVCLOCK_TIMER_ARMED);
		assert_true(world.deadline == first_tick(&world.line, timer.ns));
	}
	begin(3, PVCLOCK_TIMER_HOST);
	start(&timer);
	assert_int_equal(pvclock_timer_arm(&timer, 0), PVCLOCK_TIMER_ARMED);
	assert_true(sleep_until_interrupt());
	assert_int_equal(pvclock_timer_interrupt(&timer), PVCLOCK_TIMER_DUE);
	assert_int_equal(pvclock_timer_arm(&timer, UINT64_MAX), PVCLOCK_TIMER_ARMED);
	assert_true(world.wanted == UINT64_MAX);
	pvclock_timer_stop(&timer);
	assert_true(world.wanted == 0 && world.control == 0);
}

/* A page that was never written, or never ends to be: told, no storm of interrupts, and taken up again. */
static void a_page_that_cannot_be_read(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 8; seed++) {
		bool host = seed % 2;
		struct pvclock_timer timer;
		uint64_t ns;

		begin(seed, host ? PVCLOCK_TIMER_HOST : PVCLOCK_TIMER_TSC);
		start(&timer);
		ns = now_ns() + 100000;
		assert_int_equal(pvclock_timer_arm(&timer, ns), PVCLOCK_TIMER_ARMED);
		world.torn = seed & 2;
		if (!world.torn)
			world.page.tsc_to_system_mul = 0;
		assert_true(sleep_until_interrupt());
		assert_int_equal(pvclock_timer_interrupt(&timer), PVCLOCK_TIMER_LOST);
		assert_false(sleep_until_interrupt());
		if (!host)
			assert_int_equal(pvclock_timer_arm(&timer, ns), PVCLOCK_TIMER_LOST);
		world.torn = false;
		change_line();
		assert_int_equal(pvclock_timer_check(&timer), PVCLOCK_TIMER_ARMED);
		assert_true(sleep_until_interrupt());
		assert_int_equal(pvclock_timer_interrupt(&timer), PVCLOCK_TIMER_DUE);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_mode_comes_first),
		cmocka_unit_test(what_never_began_is_left_alone),
		cmocka_unit_test(the_best_is_found),
		cmocka_unit_test(p5_armed_by_the_line_that_holds),
		cmocka_unit_test(p5_an_interrupt_of_another_deadline),
		cmocka_unit_test(p5_the_ends_of_time),
		cmocka_unit_test(a_page_that_cannot_be_read),
	};

	return cmocka_run_group_tests_name("guest deadline", tests, NULL, NULL);
}
