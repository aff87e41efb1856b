/* SPDX-License-Identifier: MIT */
/* machine_test.c - P3 on the machine that the test runs on, if it keeps time by the TSC; and Linux behind the table of its OS. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "host/source.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <time.h>

#define SECOND 1000000000u

static struct pvclock_source *open_machine(void)
{
	struct pvclock_source *source = NULL;
	struct pvclock_reason reason;
	int error = pvclock_source_open(pvclock_os_linux(), &source, &reason);

	if (error == -ENOTSUP || error == -ENOENT) {
		print_message("SKIP: %s\n", reason.text);
		skip();
	}
	assert_int_equal(error, 0);
	return source;
}

static void machine_proofs_agree(void **unused)
{
	struct pvclock_source *source[2];
	struct pvclock_source_state state[2];

	(void)unused;
	for (unsigned int i = 0; i < 2; i++) {
		source[i] = open_machine();
		assert_int_equal(pvclock_source_learn(source[i], 60ull * SECOND, NULL), 0);
		/* the estimate of 2 s is good to a few hundredths of a unit */
		for (unsigned int j = 0; j < 200; j++) {
			pvclock_os_linux()->ops->sleep(NULL, SECOND / 100);
			assert_int_equal(pvclock_source_sample(source[i], NULL), 0);
		}
		pvclock_source_get(source[i], &state[i]);
		print_message("    mult %" PRIu32 " shift %u, residual %+.4f, bracket %" PRIu64 " ticks, %" PRIu64
			      " samples\n", state[i].mult, state[i].shift, state[i].residual, state[i].bracket_ticks,
			      state[i].samples);
		assert_true(fabs(state[i].residual) < 0.1);
	}
	assert_int_equal(state[0].mult, state[1].mult);
	assert_int_equal(state[0].shift, state[1].shift);
	for (unsigned int i = 0; i < 2; i++)
		pvclock_source_close(source[i]);
}

/*
 * A second later the line still says what the clock says: between the two ticks of a bracket, and 1 ns for the rounding
 * of each.
 */
static void machine_line_predicts(void **unused)
{
	const struct pvclock_os *os = pvclock_os_linux();
	struct pvclock_source *source = open_machine();
	struct pvclock_source_state state;

	(void)unused;
	assert_int_equal(pvclock_source_learn(source, 60ull * SECOND, NULL), 0);
	pvclock_source_get(source, &state);
	os->ops->sleep(NULL, SECOND);
	for (unsigned int i = 0; i < 1000; i++) {
		struct timespec ts;
		uint64_t before, after, ns;

		before = os->ops->read_tsc(NULL).ticks;
		assert_int_equal(os->ops->clock_gettime(NULL, CLOCK_MONOTONIC_RAW, &ts), 0);
		after = os->ops->read_tsc(NULL).ticks;
		ns = (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
		assert_in_range(ns, pvclock_line_ns(&state.line, before) - 1, pvclock_line_ns(&state.line, after) + 1);
	}
	pvclock_source_close(source);
}

static void machine_is_read_as_promised(void **unused)
{
	const struct pvclock_os *os = pvclock_os_linux();
	char text[32]; /* comm has up to 15 characters and its newline */
	uint32_t regs[4];

	(void)unused;
	assert_int_equal(os->ops->read_file(NULL, "/proc/self/no-such-file", text, sizeof(text)), -ENOENT);
	/* longer than the caller's room: no half of a file */
	assert_int_equal(os->ops->read_file(NULL, "/proc/self/status", text, sizeof(text)), -EFBIG);
	assert_true(os->ops->read_file(NULL, "/proc/self/comm", text, sizeof(text)) > 0);
	assert_int_equal(strlen(text), strcspn(text, "\n") + 1);
	assert_int_equal(os->ops->clock_gettime(NULL, 12345, &(struct timespec){ 0 }), -EINVAL);
	assert_int_equal(os->ops->ioctl(NULL, -1, 0, NULL), -EBADF);
	assert_int_equal(os->ops->sleep(NULL, 1000), 0);
	os->ops->cpuid(NULL, 0, 0, regs);
	assert_true(regs[0] >= 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(machine_is_read_as_promised),
		cmocka_unit_test(machine_proofs_agree),
		cmocka_unit_test(machine_line_predicts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
