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

#include "page_host.h"

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
		cmocka_unit_test(machine_shows_its_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
