/* SPDX-License-Identifier: MIT */
/* like.c - what the cases share. */
#include "qemu_like.h"

#include "../random.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SETTLE_MS 150 /* the kernel updates all pages 100 ms after a vCPU registered its own */

uint64_t like_random(struct like *like)
{
	return splitmix64(&like->random);
}

void like_forget_log(struct like *like)
{
	if (truncate(like->log, 0))
		live_note("%s: %s", like->log, strerror(errno));
}

unsigned int like_event(const struct like *like, const char *event, const char *member, int64_t *value)
{
	FILE *file = fopen(like->log, "r");
	char line[2048], wanted[64], key[64], *at;
	unsigned int count = 0;

	snprintf(wanted, sizeof(wanted), "\"event\":\"%s\"", event);
	snprintf(key, sizeof(key), "\"%s\":", member ? member : "");
	while (file && fgets(line, sizeof(line), file)) {
		if (!strstr(line, wanted))
			continue;
		count++;
		at = member ? strstr(line, key) : NULL;
		if (at)
			*value = strncmp(at + strlen(key), "true", 4) == 0 ? 1 : strtoll(at + strlen(key), NULL, 10);
	}
	if (file)
		fclose(file);
	return count;
}

bool like_same_line(struct like *like, const struct pvclock_line *before, const struct pvclock_line *after, uint64_t from)
{
	if (before->mul == 0 || after->mul == 0)
		return false;
	if (like->own)
		return before->tsc == after->tsc && before->ns == after->ns && before->mul == after->mul && before->shift == after->shift;
	if (from < after->tsc) /* a tick that no reader of the new page can have seen */
		from = after->tsc;
	for (unsigned int i = 0; i < 10000; i++) {
		uint64_t tick = from + like_random(like) % 100000000000;
		int64_t apart = (int64_t)(pvclock_line_ns(after, tick) - pvclock_line_ns(before, tick));

		if (apart < -1 || apart > 1) {
			live_note("%lld ns apart at tick %llu", (long long)apart, (unsigned long long)tick);
			return false;
		}
	}
	return true;
}

void like_register(struct like *like, struct plain *plain, unsigned int vcpus)
{
	for (unsigned int i = 0; i < vcpus; i++)
		if (!plain_wrmsr(plain, i, PVCLOCK_MSR_SYSTEM_TIME, PLAIN_PAGE(i) | PVCLOCK_MSR_ENABLE))
			check(like, false, "vCPU %u registers its page", i);
	if (like->own)
		return;
	usleep(1000 * SETTLE_MS);
	for (unsigned int i = 0; i < vcpus; i++)
		plain_rdtsc(plain, i);
}
