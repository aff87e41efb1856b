/* SPDX-License-Identifier: MIT */
#include "live.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void live_begin(struct live *live)
{
	char why[HARNESS_ERROR];

	memset(live, 0, sizeof(*live));
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!harness_kvm_usable(why)) {
		printf("1..0 # SKIP %s\n", why);
		exit(77);
	}
	harness_hold_signals();
	live->vmm = harness_path("pvclock-vmm");
}

int live_end(struct live *live)
{
	printf("1..%u\n", live->checks);
	free(live->vmm);
	return live->failed || live->checks == 0 ? 1 : 0;
}

bool live_check(struct live *live, bool holds, const char *format, ...)
{
	va_list arguments;

	live->checks++;
	if (!holds)
		live->failed++;
	printf("%sok %u - ", holds ? "" : "not ", live->checks);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	return holds;
}

void live_note(const char *format, ...)
{
	va_list arguments;

	printf("# ");
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
}

bool live_start(struct live *live, struct watch *watch, const char *payload, const char *mode, const char *option,
		const char *value)
{
	char *path = harness_path(payload);
	const struct harness_options options = {
		.vmm = live->vmm,
		.payload = path,
		.mode = mode,
		.vcpus = 2,
		.extra = { option, option ? value : NULL },
	};
	bool started = path && live->vmm && watch_start(watch, &options) == 0;

	free(path);
	if (!started)
		live_check(live, false, "%s: the guest starts: %s", mode, watch->harness.error);
	return started;
}

void live_stop(struct live *live, struct watch *watch, const char *name)
{
	watch_stop(watch);
	if (harness_processes(&watch->harness))
		live_check(live, false, "%s: nothing is left of the guest", name);
}

void live_check_promises(struct live *live, struct watch *watch, const char *name, int64_t limit_ns)
{
	watch_finish(watch);
	for (size_t i = 0; i < watch->judge.event_count; i++)
		if (!watch->judge.events[i].announced)
			live_note("%s: an unannounced jump of %lld ns at %.6f s", name, (long long)watch->judge.events[i].jump_ns,
				  watch->judge.events[i].seconds);
	live_check(live, watch->judge.jump_max <= limit_ns, "P1 %s: the worst of %zu jumps is %lld ns, at most %lld", name,
		   watch->judge.event_count, (long long)watch->judge.jump_max, (long long)limit_ns);
	live_check(live, watch_backwards(watch) == 0, "P2 %s: %llu steps backwards in %llu readings, none", name,
		   (unsigned long long)watch_backwards(watch), (unsigned long long)watch_reads(watch));
	live_check(live, watch->judge.failed + watch->judge.lost == 0, "P1 %s: every reading was had", name);
	live_check(live, watch->judge.checked > 2 * WATCH_WINDOW, "P1 %s: %llu of %llu readings were on the line exactly", name,
		   (unsigned long long)watch->judge.checked, (unsigned long long)watch->judge.readings);
}

unsigned int live_count(unsigned int count, unsigned int lab)
{
	if (!getenv("LAB"))
		return count;
	live_note("on an emulated host: %u rather than %u", count / lab, count);
	return count / lab;
}

const char *live_scratch(void)
{
	return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}

pid_t live_pid(struct watch *watch)
{
	json_t *status = harness_command(&watch->harness, "status", WATCH_COMMAND_MS);
	pid_t pid = (pid_t)harness_number(status, "pid", -1);

	json_decref(status);
	return pid;
}

int64_t live_limit(const char *mode)
{
	return strcmp(mode, "own") ? 1 : 0;
}
