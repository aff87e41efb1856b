/* SPDX-License-Identifier: MIT */
/* check.h - what a target says when something does not hold. */
#ifndef FUZZ_CHECK_H
#define FUZZ_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define check(holds)                                                                       \
	do {                                                                               \
		if (!(holds)) {                                                            \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #holds);        \
			abort();                                                           \
		}                                                                          \
	} while (0)

#endif
