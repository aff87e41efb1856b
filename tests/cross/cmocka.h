/* SPDX-License-Identifier: MIT */
/*
 * cmocka.h - as much of cmocka as the guest's tests use, for machines of which this one has a compiler and no cmocka
 * (scripts/cross.sh). The first thing that does not hold ends the program.
 */
#ifndef TESTS_CROSS_CMOCKA_H
#define TESTS_CROSS_CMOCKA_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
	const char *name;
	void (*test)(void **state);
};

#define print_message printf
#define cmocka_unit_test(function) { #function, function }

#define fail_msg(...)                                                   \
	do {                                                            \
		fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);         \
		fprintf(stderr, __VA_ARGS__);                           \
		fputc('\n', stderr);                                    \
		exit(1);                                                \
	} while (0)

#define assert_true(holds)                                              \
	do {                                                            \
		if (!(holds))                                           \
			fail_msg("not %s", #holds);                     \
	} while (0)
#define assert_false(holds) assert_true(!(holds))

static inline void cross_equal(const char *what, const char *file, int line, uint64_t a, uint64_t b)
{
	if (a == b)
		return;
	fprintf(stderr, "%s:%d: %s: %#llx is not %#llx\n", file, line, what, (unsigned long long)a, (unsigned long long)b);
	exit(1);
}
#define assert_int_equal(a, b) cross_equal(#a " and " #b, __FILE__, __LINE__, (uint64_t)(a), (uint64_t)(b))
#define assert_int_not_equal(a, b) assert_true((uint64_t)(a) != (uint64_t)(b))
#define assert_memory_equal(a, b, size) assert_true(memcmp(a, b, size) == 0)
#define assert_string_equal(a, b) assert_true(strcmp(a, b) == 0)
#define assert_string_not_equal(a, b) assert_true(strcmp(a, b) != 0)
#define assert_non_null(pointer) assert_true((pointer) != NULL)
#define assert_null(pointer) assert_true((pointer) == NULL)

static inline int cross_run(const struct CMUnitTest *tests, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		void *state = NULL;

		printf("%s\n", tests[i].name);
		fflush(stdout);
		tests[i].test(&state);
	}
	return 0;
}
#define cmocka_run_group_tests(tests, setup, teardown) cross_run(tests, sizeof(tests) / sizeof(*(tests)))

#endif
