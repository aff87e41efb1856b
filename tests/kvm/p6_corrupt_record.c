/* SPDX-License-Identifier: MIT */
/*
 * P6: a live update that hands over a record with one bit flipped is refused, with a reason; the guest runs on in the old
 * process as if nothing had been tried, and the next update, with a good record, succeeds.
 *
 * (That every bit and every truncation is refused is the record's own test. This is the way through two real processes.)
 */
#include "live.h"

#include <stdio.h>

static void corrupt(struct live *live, unsigned int bit, const char *mode)
{
	int64_t jump = 0;
	struct watch watch;
	char name[64], number[16];

	snprintf(name, sizeof(name), "%s bit %u", mode, bit);
	snprintf(number, sizeof(number), "%u", bit);
	if (live_start(live, &watch, "clock.elf", mode, "--corrupt-record", number)) {
		pid_t old = live_pid(&watch);

		if (watch_event_begin(&watch) == 0) {
			json_t *reply = harness_command(&watch.harness, "update", WATCH_COMMAND_MS);

			live_check(live, !reply && watch.harness.error[0], "P6 %s: refused: %s", name, watch.harness.error);
			json_decref(reply);
			watch.harness.error[0] = '\0';
			live_check(live, live_pid(&watch) == old && harness_processes(&watch.harness) == 1,
				   "P6 %s: the old process alone has the guest", name);
			live_check(live, watch_event_end(&watch, &jump) == 0, "P6 %s: the guest runs on: jump %lld ns%s", name,
				   (long long)jump, watch.harness.error);
			live_check(live, watch_update(&watch, NULL, NULL) == 0 && live_pid(&watch) != old,
				   "P6 %s: the next update succeeds%s", name, watch.harness.error);
			live_check_promises(live, &watch, name, live_limit(mode));
		}
	}
	live_stop(live, &watch, name);
}

int main(void)
{
	/* magic, version, and on into the fields of the VM, the vCPUs and the checksum */
	static const unsigned int bits[] = { 0, 33, 77, 200, 401, 1000 };
	struct live live;

	live_begin(&live);
	for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
		corrupt(&live, bits[i], "own");
	corrupt(&live, 500, "steer");
	return live_end(&live);
}
