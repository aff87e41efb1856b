/* SPDX-License-Identifier: MIT */
/*
 * page_test.c - P3, P8: a host that is a virtual machine reads its line from its hypervisor's page, and calls it proven
 * only if it is what the kernel keeps time by. Each test runs with KVM's page and with Hyper-V's.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "checks.h"

#define MS 1000000u
#define HOSTS 400u
#define LEARN_NS SECOND

/* --- helpers --------------------------------------------------------------------------- */

#define CHECK_SEED(host, condition) \
	do { \
		if (!(condition)) \
			fail_msg("%s: %s, khz %" PRIu32 "; repeat with SOURCE_TEST_SEED=%" PRIu64, #condition, \
				 (host)->current, (host)->khz, (host)->seed); \
	} while (0)

static struct pvclock_source_state state_of(const struct pvclock_source *source)
{
	struct pvclock_source_state state;

	pvclock_source_get(source, &state);
	return state;
}

/* The page's slope as its ABI defines it. */
static struct pvclock_slope true_slope(const struct fake_host *host)
{
	struct pvclock_slope slope = { 0 };
	pvclock_u128 product = (pvclock_u128)host->clock.hyperv.scale * 100;

	if (product == 0) {
		assert_true(pvclock_slope_from_line(&host->clock.line, &slope));
		return slope;
	}
	/* scale * 100 / 2^64, cut off at 64 bits */
	for (slope.exponent = -64; product >> 64 != 0; slope.exponent++)
		product >>= 1;
	slope.mantissa = (uint64_t)product;
	return slope;
}

/* Both hypervisors, each seed; a quiet host of any rate that a TSC has. */
static void each(void (*test)(struct fake_host *host))
{
	uint64_t count, seed = first_seed(HOSTS, &count);

	for (; count-- != 0; seed++)
		for (int hyperv = 0; hyperv < 2; hyperv++) {
			struct fake_host host;

			fake_host_init_virtual(&host, hyperv, (uint32_t)(400000 + seed * 7919 % 5000000), seed);
			host.cost_min = seed % 200;
			host.cost_spread = seed % 37;
			test(&host);
		}
}

/* --- what is read ------------------------------------------------------------------------- */

static void read_one(struct fake_host *host)
{
	struct pvclock_source *source;
	struct pvclock_source_state state;
	struct pvclock_slope slope = true_slope(host);
	bool hyperv = host->clock.hyperv.scale != 0;
	int64_t least = INT64_MAX, most = INT64_MIN, off;
	uint64_t width;

	host->interrupt_every = 10;
	host->interrupt_ticks = 1000000;
	source = learned_source(host, LEARN_NS);
	state = state_of(source);
	CHECK_SEED(host, state.proven && state.candidates == 1 && state.moves == 0 && state.moved_ns == 0);
	CHECK_SEED(host, state.from == (hyperv ? PVCLOCK_SOURCE_FROM_HYPERV_PAGE : PVCLOCK_SOURCE_FROM_KVM_PAGE));
	CHECK_SEED(host, state.elapsed_ns >= 10 * MS && state.elapsed_ns < 40 * MS);
	CHECK_SEED(host, state.slope.mantissa >> 63 == 1);
	/* 2^-64 of a slope */
	off = pvclock_slope_difference(&state.slope, &slope);
	CHECK_SEED(host, hyperv ? off >= 0 && off <= 2 : off == 0);
	slope = (struct pvclock_slope){ 0 };
	CHECK_SEED(host, pvclock_slope_from_kernel(state.mult, state.shift, &slope));
	CHECK_SEED(host, llabs(pvclock_slope_difference(&slope, &state.slope)) <= (hyperv ? 1ll << 33 : 0));

	/* the line is RAW's: between the ends of the narrowest bracket, and always by the same */
	width = (uint64_t)((pvclock_u128)state.bracket_ticks * 1000000 / host->khz) + 2;
	for (unsigned int i = 0; i < 200; i++) {
		uint64_t ticks = host->ticks + fake_host_random(host, (uint64_t)host->khz * 1000);

		off = (int64_t)(pvclock_line_ns(&state.line, ticks) - fake_host_raw(host, ticks));
		least = off < least ? off : least;
		most = off > most ? off : most;
	}
	if (hyperv) {
		/* off by whole steps: somewhere in 200 reads a step has just begun */
		CHECK_SEED(host, least >= -(int64_t)width - 100 && most <= (int64_t)width + 200);
		CHECK_SEED(host, (least + 3 + 1000000) % 100 <= 11);
	} else {
		CHECK_SEED(host, least == most && llabs(least) <= (int64_t)width / 2 + 1);
	}
	pvclock_source_close(source);
}

static void page_is_read(void **unused)
{
	(void)unused;
	each(read_one);
}

/* scale * 100 / 2^64, rounded at 64 bits: every position of the top bit, and both ways of rounding. */
static void hyperv_slope_is_the_nearest(void **unused)
{
	(void)unused;
	for (uint64_t seed = 1; seed <= 2000; seed++) {
		struct pvclock_page_copy copy = { .version = 1 };
		struct pvclock_slope slope = { 0 };
		pvclock_u128 product, back;
		struct fake_host host;
		int over;

		fake_host_init(&host, 1000000, seed);
		copy.hyperv.scale = fake_host_random(&host, UINT64_MAX) >> seed % 64 | 1;
		if (seed == 1)
			copy.hyperv.scale = UINT64_MAX;
		if (seed == 2)
			copy.hyperv.scale = 11805916207174113034u; /* 2^70 - 24, which is rounded up to 2^70 */
		product = (pvclock_u128)copy.hyperv.scale * 100;
		CHECK_SEED(&host, pvclock_page_form_hyperv.slope(&copy, &slope));
		CHECK_SEED(&host, slope.mantissa >> 63 == 1);
		over = slope.exponent + 64;
		if (over <= 0) {
			CHECK_SEED(&host, product << -over == slope.mantissa);
			continue;
		}
		back = (pvclock_u128)slope.mantissa << over;
		CHECK_SEED(&host, (back > product ? back - product : product - back) <= (pvclock_u128)1 << (over - 1));
	}
}

/* A bracket narrower than a step leaves one constant possible: then nothing is off. */
static void line_is_exact_where_brackets_are_narrow(void **unused)
{
	struct fake_host host;

	(void)unused;
	for (uint64_t seed = 1; seed <= 50; seed++) {
		struct pvclock_source *source;
		struct pvclock_source_state state;

		fake_host_init_virtual(&host, false, 2600000, seed);
		host.cost_min = host.cost_spread = 0;
		source = learned_source(&host, LEARN_NS);
		state = state_of(source);
		CHECK_SEED(&host, pvclock_line_ns(&state.line, host.ticks) == fake_host_raw(&host, host.ticks));
		pvclock_source_close(source);

		fake_host_init_virtual(&host, true, 2600000, seed);
		host.cost_min = host.cost_spread = 0;
		source = learned_source(&host, LEARN_NS);
		state = state_of(source);
		for (unsigned int i = 0; i < 100; i++) {
			uint64_t ticks = host.ticks + i * 17, ns = pvclock_line_ns(&state.line, ticks);

			/* along the upper edges: RAW is where its step began */
			CHECK_SEED(&host, ns + 2 >= fake_host_raw(&host, ticks));
			CHECK_SEED(&host, ns < fake_host_raw(&host, ticks) + 100);
		}
		pvclock_source_close(source);
	}
}

/* RAW began after the page's anchor: where the page says, there is no such time. */
static void line_before_raw_began(void **unused)
{
	(void)unused;
	for (int hyperv = 0; hyperv < 2; hyperv++) {
		struct pvclock_source *source;
		struct pvclock_source_state state;
		struct fake_host host;

		fake_host_init_virtual(&host, hyperv, 2600000, 5);
		if (hyperv) { /* nor has the page's own time begun */
			host.clock.hyperv.offset -= (int64_t)pvclock_hyperv_time(&host.clock.hyperv, host.ticks);
			host.clock.hyperv.offset -= SECOND / 200;
			fake_host_publish(&host);
			host.floor = INT64_MIN;
		}
		host.constant = 1000 - fake_clock_ns(&host.clock, host.ticks);
		source = learned_source(&host, LEARN_NS);
		state = state_of(source);
		for (unsigned int i = 0; i < 100; i++) {
			uint64_t ticks = host.ticks + i * 1000003, ns = fake_host_raw(&host, ticks);

			assert_in_range(pvclock_line_ns(&state.line, ticks), ns - 160, ns + 160);
		}
		/* and on, over both beginnings */
		fake_host_pass(&host, SECOND);
		assert_int_equal(pvclock_source_sample(source, NULL), 0);
		pvclock_source_close(source);
	}
}

static void proof_takes_its_time(struct fake_host *host)
{
	struct pvclock_source *source = open_source(host);
	struct pvclock_reason reason;
	struct pvclock_source_state state = state_of(source);

	assert_false(state.proven);
	assert_int_equal(state.slope.mantissa, 0);
	assert_int_equal(pvclock_source_sample(source, &reason), -EAGAIN);
	assert_reason(&reason, PVCLOCK_REASON_SLOPE_UNPROVEN, "keep sampling for 10 ms");
	assert_int_equal(pvclock_source_learn(source, 5 * MS, &reason), -ETIMEDOUT);
	assert_int_equal(pvclock_source_learn(source, 10 * MS, &reason), 0);
	assert_int_equal(reason.code, PVCLOCK_REASON_NONE);
	assert_string_equal(state_of(source).clocksource, host->current);
	pvclock_source_close(source);
}

static void proof_takes_10_ms(void **unused)
{
	(void)unused;
	each(proof_takes_its_time);
}

/* --- no page that could be read --------------------------------------------------------------- */

static void refuse(struct fake_host *host, int code, enum pvclock_reason_code why, const char *word)
{
	struct pvclock_source *source = NULL;
	struct pvclock_reason reason;

	assert_int_equal(pvclock_source_open(&host->os, &source, &reason), code);
	assert_null(source);
	assert_reason(&reason, why, word);
	assert_int_equal(pvclock_source_open(&host->os, &source, NULL), code);
}

static void no_page(void **unused)
{
	struct pvclock_os_ops ops;
	struct pvclock_os os;
	struct fake_host host;

	(void)unused;
	for (int hyperv = 0; hyperv < 2; hyperv++) {
		fake_host_init_virtual(&host, hyperv, 2600000, 1);
		host.page_hidden = true;
		refuse(&host, -ENOTSUP, PVCLOCK_REASON_CLOCKSOURCE, "or echo tsc > /sys/");
		snprintf(host.available, sizeof(host.available), "kvm-clock acpi_pm");
		refuse(&host, -ENOTSUP, PVCLOCK_REASON_CLOCKSOURCE, hyperv ? "no Hyper-V TSC page" : "no pvclock page");
		refuse(&host, -ENOTSUP, PVCLOCK_REASON_CLOCKSOURCE, "have L0 make it stable.");
		/* a table of functions that knows no pages */
		host.page_hidden = false;
		ops = *host.os.ops;
		ops.clock_page = NULL;
		os = (struct pvclock_os){ &ops, host.os.ctx };
		host.os = os;
		refuse(&host, -ENOTSUP, PVCLOCK_REASON_CLOCKSOURCE, "shows no");
	}
}

static void page_that_is_no_clock(void **unused)
{
	struct fake_host host;

	(void)unused;
	fake_host_init_virtual(&host, false, 2600000, 1);
	host.page.flags = PVCLOCK_GUEST_STOPPED;
	refuse(&host, -ENOTSUP, PVCLOCK_REASON_CLOCKSOURCE, "pvclock page is not marked stable");
	host.page.flags |= PVCLOCK_TSC_STABLE;
	host.page.version |= 1;
	refuse(&host, -EBUSY, PVCLOCK_REASON_OS, "writing its pvclock page");
	host.page.version++;
	host.page.tsc_shift = 32;
	refuse(&host, -ENOTSUP, PVCLOCK_REASON_CLOCKSOURCE, "no valid line");

	/* a flag that its writer does not promise, or promises where no KVM is */
	for (uint64_t seed = 0; seed < 3; seed++) {
		fake_host_init_virtual(&host, false, 2600000, seed);
		host.stable_bit = false;
		refuse(&host, -ENOTSUP, PVCLOCK_REASON_CLOCKSOURCE, "bit 24 is clear");
	}
	host.stable_bit = true;
	host.kvm_leaf = 0x10000;
	refuse(&host, -ENOTSUP, PVCLOCK_REASON_CLOCKSOURCE, "bit 24 is clear");

	fake_host_init_virtual(&host, true, 2600000, 1);
	host.hyperv_page.sequence = 0;
	refuse(&host, -ENOTSUP, PVCLOCK_REASON_CLOCKSOURCE, "Hyper-V TSC page is marked invalid");
	host.hyperv_page.sequence = UINT32_MAX;
	refuse(&host, -ENOTSUP, PVCLOCK_REASON_CLOCKSOURCE, "marked invalid");
	host.hyperv_page.sequence = 1;
	host.hyperv_page.scale = 1;
	refuse(&host, -ENOTSUP, PVCLOCK_REASON_CLOCKSOURCE, "slope");
}

static void page_that_stops_being_a_clock(void **unused)
{
	(void)unused;
	for (int proven = 0; proven < 2; proven++)
		for (int what = 0; what < 4; what++) {
			static const char *const words[] = { "not marked stable", "no valid line", "invalid",
							     "invalid" };
			struct pvclock_source *source;
			struct fake_host host;

			fake_host_init_virtual(&host, what >= 2, 2600000, 1);
			source = proven ? learned_source(&host, LEARN_NS) : open_source(&host);
			host.page.flags = what == 0 ? 0 : host.page.flags;
			host.page.tsc_to_system_mul = what == 1 ? 0 : host.page.tsc_to_system_mul;
			host.hyperv_page.sequence = what == 2 ? 0 : UINT32_MAX;
			assert_lost(source, &host, PVCLOCK_REASON_CLOCKSOURCE, words[what]);
			pvclock_source_close(source);
		}
}

/* --- a page that is rewritten ------------------------------------------------------------------ */

/* The same function from another anchor: nothing happened. */
static void reanchor(struct fake_host *host)
{
	struct pvclock_source *source = learned_source(host, LEARN_NS);

	for (unsigned int i = 0; i < 5; i++) {
		fake_host_pass(host, fake_host_random(host, 400ull * SECOND));
		fake_host_move(host, 0);
		CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
	}
	CHECK_SEED(host, state_of(source).moves == 0 && state_of(source).moved_ns == 0);
	pvclock_source_close(source);
}

static void same_function_is_no_event(void **unused)
{
	(void)unused;
	each(reanchor);
}

/* Back and forth by up to a second: RAW stands still meanwhile, the line follows, and what was moved is stated. */
static void move(struct fake_host *host)
{
	struct pvclock_source *source;
	struct pvclock_source_state state;
	struct pvclock_slope slope = true_slope(host);
	int64_t total = 0;
	uint64_t moves = 0, ns, width, elapsed_ns = 0;

	host->cost_min = 10; /* brackets of tens of ns, so that a wrong constant shows */
	source = learned_source(host, LEARN_NS);
	for (unsigned int i = 0; i < 40; i++) {
		static const int64_t sizes[] = { 100, 1000, 100000, 10 * MS, SECOND };
		int64_t size = sizes[fake_host_random(host, 5)];
		int64_t by = (int64_t)fake_host_random(host, (uint64_t)(2 * size)) - size;

		fake_host_pass(host, fake_host_random(host, SECOND));
		by -= by % 100;
		fake_host_move(host, by);
		moves += by != 0;
		total += by;
		for (unsigned int j = fake_host_random(host, 4) == 0 ? 50 : 1; j != 0; j--) {
			CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
			fake_host_pass(host, fake_host_random(host, MS));
		}
		state = state_of(source);
		CHECK_SEED(host, state.proven && state.moves == moves && state.moved_ns == total);
		CHECK_SEED(host, state.elapsed_ns >= elapsed_ns && state.elapsed_ns < 600ull * SECOND);
		elapsed_ns = state.elapsed_ns;
		CHECK_SEED(host, pvclock_slope_difference(&state.slope, &slope) <= 2);
	}
	/* after it caught up, RAW is where the line says */
	fake_host_pass(host, 3ull * SECOND);
	CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
	state = state_of(source);
	ns = fake_host_raw(host, host->ticks);
	width = (uint64_t)((pvclock_u128)state.bracket_ticks * 1000000 / host->khz) + 202;
	CHECK_SEED(host, pvclock_line_ns(&state.line, host->ticks) + width >= ns);
	CHECK_SEED(host, pvclock_line_ns(&state.line, host->ticks) <= ns + width);
	pvclock_source_close(source);
}

static void moved_clock_is_followed(void **unused)
{
	(void)unused;
	each(move);
}

/* Another CPU's page is newer than the one that is seen: RAW is ahead for a moment, then the page follows. */
static void other_cpu_first(struct fake_host *host)
{
	struct pvclock_source *source = learned_source(host, LEARN_NS);
	int64_t total = 0;

	for (unsigned int i = 0; i < 3; i++) {
		int64_t by = 500000 + 100 * (int64_t)fake_host_random(host, 10000);

		fake_host_pass(host, SECOND);
		/* a timer interrupt read the other CPU's page: RAW stands there until this one has caught up */
		host->floor = fake_clock_ns(&host->clock, host->ticks) + by;
		CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
		CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
		if (i != 0) /* or until it is rewritten itself */
			fake_host_pass(host, (uint64_t)by);
		CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
		fake_host_move(host, by);
		total += by;
		CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
	}
	CHECK_SEED(host, state_of(source).moves == 3 && state_of(source).moved_ns == total);
	pvclock_source_close(source);
}

static void late_page_is_waited_for(void **unused)
{
	(void)unused;
	each(other_cpu_first);
}

static void another_slope(struct fake_host *host)
{
	struct pvclock_source *source = host->seed & 1 ? learned_source(host, LEARN_NS) : open_source(host);
	uint32_t khz = host->khz;

	while (khz == host->khz)
		khz = (uint32_t)(host->khz - 5 + fake_host_random(host, 11));
	fake_host_pass(host, fake_host_random(host, SECOND));
	fake_host_change_khz(host, khz);
	assert_lost(source, host, PVCLOCK_REASON_SLOPE_MISFIT, "another slope");
	pvclock_source_close(source);
	/* as the reason says */
	source = learned_source(host, LEARN_NS);
	pvclock_source_close(source);
}

static void another_slope_is_another_line(void **unused)
{
	(void)unused;
	each(another_slope);
}

static void move_now(struct fake_host *host)
{
	fake_host_move(host, 5000);
}

static void move_again(struct fake_host *host)
{
	fake_host_move(host, 5000);
	host->during_read = move_again;
}

/* Between the two looks at it: the page that RAW was read with is not known, so the sample is no sample. */
static void rewritten_during_a_sample(struct fake_host *host)
{
	struct pvclock_source *source = learned_source(host, LEARN_NS);
	struct pvclock_reason reason;
	uint64_t samples = state_of(source).samples;

	host->during_read = move_now;
	CHECK_SEED(host, pvclock_source_sample(source, &reason) == 0);
	CHECK_SEED(host, state_of(source).samples == samples + 1 && state_of(source).moved_ns == 5000);
	/* all the while: try again */
	host->during_read = move_again;
	CHECK_SEED(host, pvclock_source_sample(source, &reason) == -EAGAIN);
	assert_reason(&reason, PVCLOCK_REASON_OS, "middle");
	CHECK_SEED(host, state_of(source).samples == samples + 1 && state_of(source).proven);
	host->during_read = NULL;
	if (host->clock.hyperv.scale == 0) {
		host->page.version++; /* being written, and never finished */
		CHECK_SEED(host, host->seed > 4 || pvclock_source_sample(source, &reason) == -EAGAIN);
		host->page.version++;
	}
	fake_host_pass(host, SECOND);
	CHECK_SEED(host, pvclock_source_sample(source, &reason) == 0);
	pvclock_source_close(source);
}

static void rewriting_spoils_no_sample(void **unused)
{
	(void)unused;
	each(rewritten_during_a_sample);
}

/* A hypervisor that died while it wrote: nobody waits for ever. */
static void never_finished_page_times_out(void **unused)
{
	struct pvclock_source *source;
	struct pvclock_reason reason;
	struct fake_host host;

	(void)unused;
	fake_host_init_virtual(&host, false, 2600000, 1);
	source = open_source(&host);
	host.page.version++;
	assert_int_equal(pvclock_source_learn(source, 20 * MS, &reason), -ETIMEDOUT);
	assert_reason(&reason, PVCLOCK_REASON_OS, "writing its pvclock page");
	pvclock_source_close(source);
}

/* --- a page that is not the kernel's clock --------------------------------------------------------- */

/* The page of another machine, by its slope: seen before it is called proven, or, where it is near, soon after. */
static void wrong_page(struct fake_host *host)
{
	static const struct {
		uint32_t off_ppb;
		uint64_t within_ns;
	} cases[] = { { 100000, 0 }, { 10000, SECOND }, { 300, 5ull * SECOND } };

	for (unsigned int i = 0; i < 3; i++)
		for (int sign = -1; sign <= 1; sign += 2) {
			struct pvclock_reason reason;
			struct pvclock_source *source = NULL;
			struct fake_clock truth = host->clock;
			uint64_t start;
			int error;

			host->cost_min = 20;
			host->cost_spread = 5;
			uint64_t mul = truth.line.mul, scale = truth.hyperv.scale / SECOND * cases[i].off_ppb;

			host->clock.line.mul += (uint32_t)sign * (uint32_t)(mul * cases[i].off_ppb / SECOND);
			host->clock.hyperv.scale += (uint64_t)sign * scale;
			fake_host_publish(host);
			host->clock = truth;
			source = open_source(host);
			start = host->ticks;
			error = pvclock_source_learn(source, SECOND, &reason);
			while (error == 0 && host->ticks - start < fake_host_ticks(host, cases[i].within_ns)) {
				fake_host_pass(host, SECOND / 100);
				error = pvclock_source_sample(source, &reason);
			}
			CHECK_SEED(host, error == -ENOTSUP);
			assert_lost(source, host, PVCLOCK_REASON_SLOPE_MISFIT, "does not follow");
			pvclock_source_close(source);
		}
}

static void wrong_page_is_caught(void **unused)
{
	(void)unused;
	each(wrong_page);
}

/* RAW alone is moved: forth, which may be a kernel standing still until it is seen not to be, or back. */
static void raw_moved_alone(struct fake_host *host)
{
	for (int sign = -1; sign <= 1; sign += 2) {
		struct pvclock_source *source;

		host->cost_min = 20;
		source = learned_source(host, LEARN_NS);
		fake_host_pass(host, SECOND);
		host->constant += sign * (int64_t)(20000 + fake_host_random(host, SECOND / 2));
		if (sign > 0) {
			CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
			fake_host_pass(host, SECOND);
		}
		assert_lost(source, host, PVCLOCK_REASON_SLOPE_MISFIT, "moved alone");
		pvclock_source_close(source);
	}
}

static void raw_moved_alone_is_a_misfit(void **unused)
{
	(void)unused;
	each(raw_moved_alone);
}

static void clocksource_is_watched(void **unused)
{
	(void)unused;
	for (int hyperv = 0; hyperv < 2; hyperv++)
		for (int proven = 0; proven < 2; proven++) {
			struct pvclock_source *source;
			struct pvclock_reason reason;
			struct fake_host host;
			char word[64];

			fake_host_init_virtual(&host, hyperv, 2600000, 1);
			source = proven ? learned_source(&host, LEARN_NS) : open_source(&host);
			snprintf(word, sizeof(word), "from %s to tsc", host.current);
			snprintf(host.current, sizeof(host.current), "tsc");
			if (proven)
				fake_host_pass(&host, SECOND / 5);
			else /* before the look is due: asked before the proof */
				assert_int_equal(pvclock_source_learn(source, SECOND, &reason), -ENOTSUP);
			assert_lost(source, &host, PVCLOCK_REASON_CLOCKSOURCE, word);
			pvclock_source_close(source);
		}
}

static void tsc_backwards(void **unused)
{
	(void)unused;
	for (int hyperv = 0; hyperv < 2; hyperv++) {
		struct pvclock_source *source;
		struct fake_host host;

		fake_host_init_virtual(&host, hyperv, 2600000, 1);
		source = learned_source(&host, LEARN_NS);
		host.ticks -= 1000000;
		assert_lost(source, &host, PVCLOCK_REASON_TSC_BACKWARDS, "went back");
		pvclock_source_close(source);
	}
}

/* --- suspend, and taking over ------------------------------------------------------------------------- */

/* This machine sleeps: RAW stands, the hypervisor's clock may go on or begin anew, and so may the TSC. */
static void suspend(struct fake_host *host)
{
	bool resets = host->seed & 1;
	struct pvclock_source *source = learned_source(host, LEARN_NS);
	struct pvclock_source_state state;
	uint64_t raw = fake_host_raw(host, host->ticks), ns;

	host->slept_ns += 3600ull * SECOND;
	if (resets) {
		host->ticks = fake_host_random(host, 1000000);
		fake_host_change_khz(host, host->khz); /* an anchor in the TSC's new life */
	} else {
		fake_host_pass(host, 3600ull * SECOND);
	}
	host->floor = fake_clock_ns(&host->clock, host->ticks);
	host->constant = (pvclock_s128)raw - host->floor;
	for (unsigned int i = 0; i < 5; i++) {
		CHECK_SEED(host, pvclock_source_sample(source, NULL) == 0);
		fake_host_pass(host, SECOND);
	}
	state = state_of(source);
	CHECK_SEED(host, state.proven && state.moves == 0);
	ns = fake_host_raw(host, host->ticks);
	CHECK_SEED(host, llabs((int64_t)(pvclock_line_ns(&state.line, host->ticks) - ns)) <= 3000);
	pvclock_source_close(source);
}

static void suspend_keeps_the_slope(void **unused)
{
	(void)unused;
	each(suspend);
}

/* What was compared before a suspend says nothing of the constant after it: the 10 ms begin anew. */
static void suspend_before_the_proof(void **unused)
{
	struct pvclock_source *source;
	struct fake_host host;

	(void)unused;
	fake_host_init_virtual(&host, false, 2600000, 1);
	source = open_source(&host);
	fake_host_pass(&host, 8 * MS);
	assert_int_equal(pvclock_source_sample(source, NULL), -EAGAIN);
	host.slept_ns += SECOND;
	host.constant -= 3 * MS;
	fake_host_pass(&host, 4 * MS);
	assert_int_equal(pvclock_source_sample(source, NULL), -EAGAIN);
	fake_host_pass(&host, 4 * MS);
	assert_int_equal(pvclock_source_sample(source, NULL), -EAGAIN);
	fake_host_pass(&host, 7 * MS);
	assert_int_equal(pvclock_source_sample(source, NULL), 0);
	pvclock_source_close(source);
}

static void take_over(struct fake_host *host)
{
	struct pvclock_source *first = learned_source(host, LEARN_NS), *second;
	struct pvclock_source_state state = state_of(first);
	struct pvclock_slope wrong = state.slope;
	struct pvclock_reason reason;

	second = open_source(host);
	wrong.mantissa += 1ull << 32;
	assert_int_equal(pvclock_source_assume(second, &wrong, &reason), -ENOTSUP);
	assert_reason(&reason, PVCLOCK_REASON_SLOPE_MISFIT, "another host");
	assert_false(state_of(second).proven);
	wrong.mantissa = 0;
	assert_int_equal(pvclock_source_assume(second, &wrong, &reason), -ENOTSUP);
	/* at once */
	assert_int_equal(pvclock_source_assume(second, &state.slope, &reason), 0);
	CHECK_SEED(host, state_of(second).proven && state_of(second).line.ns != 0);
	wrong = state_of(second).slope;
	CHECK_SEED(host, pvclock_slope_difference(&state.slope, &wrong) == 0);
	assert_int_equal(pvclock_source_assume(second, &state.slope, &reason), 0);
	fake_host_pass(host, SECOND);
	assert_int_equal(pvclock_source_sample(second, &reason), 0);
	pvclock_source_close(first);
	pvclock_source_close(second);
}

static void assume(void **unused)
{
	(void)unused;
	each(take_over);
}

/* --- this machine ----------------------------------------------------------------------------------------- */

/* Whatever it is: a page that is shown can be read, and one that is not is no SIGBUS. */
static void machine_shows_its_pages(void **unused)
{
	const struct pvclock_os *os = pvclock_os_linux();
	struct pvclock_snapshot snapshot;
	const void *kvm, *hyperv;

	(void)unused;
	kvm = os->ops->clock_page(os->ctx, PVCLOCK_CLOCK_PAGE_KVM);
	hyperv = os->ops->clock_page(os->ctx, PVCLOCK_CLOCK_PAGE_HYPERV);
	print_message("    this machine: pvclock page %s, Hyper-V page %s\n", kvm ? "shown" : "not shown",
		      hyperv ? "shown" : "not shown");
	if (kvm != NULL) {
		assert_int_equal(pvclock_page_read(kvm, &snapshot), PVCLOCK_READ_OK);
		print_message("    mul %" PRIu32 " shift %d flags %u\n", snapshot.line.mul, snapshot.line.shift,
			      snapshot.flags);
	}
	if (hyperv != NULL)
		(void)pvclock_load_acquire_u32(hyperv);
	assert_true(kvm == NULL || kvm != hyperv);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(page_is_read),
		cmocka_unit_test(hyperv_slope_is_the_nearest),
		cmocka_unit_test(line_is_exact_where_brackets_are_narrow),
		cmocka_unit_test(line_before_raw_began),
		cmocka_unit_test(proof_takes_10_ms),
		cmocka_unit_test(no_page),
		cmocka_unit_test(page_that_is_no_clock),
		cmocka_unit_test(page_that_stops_being_a_clock),
		cmocka_unit_test(same_function_is_no_event),
		cmocka_unit_test(moved_clock_is_followed),
		cmocka_unit_test(late_page_is_waited_for),
		cmocka_unit_test(another_slope_is_another_line),
		cmocka_unit_test(rewriting_spoils_no_sample),
		cmocka_unit_test(never_finished_page_times_out),
		cmocka_unit_test(wrong_page_is_caught),
		cmocka_unit_test(raw_moved_alone_is_a_misfit),
		cmocka_unit_test(clocksource_is_watched),
		cmocka_unit_test(tsc_backwards),
		cmocka_unit_test(suspend_keeps_the_slope),
		cmocka_unit_test(suspend_before_the_proof),
		cmocka_unit_test(assume),
		cmocka_unit_test(machine_shows_its_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
