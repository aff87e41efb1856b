/* SPDX-License-Identifier: MIT */
/* torture.h - what the tests share that read a clock on all CPUs while threads of theirs change it. */
#ifndef TESTS_GUEST_TORTURE_H
#define TESTS_GUEST_TORTURE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void start(pthread_t *thread, void *(*function)(void *), void *argument)
{
	if (pthread_create(thread, NULL, function, argument) != 0) {
		perror("pthread_create");
		exit(1);
	}
}

/* The kernel's word that all CPUs' TSCs agree. */
static inline bool one_tsc(void)
{
	char name[16] = "";
	FILE *file = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "r");

	if (!file)
		return false;
	if (!fgets(name, sizeof(name), file))
		name[0] = '\0';
	fclose(file);
	return strcmp(name, "tsc\n") == 0 || strcmp(name, "kvm-clock\n") == 0;
}

#endif
