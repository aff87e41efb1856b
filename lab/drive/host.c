/* SPDX-License-Identifier: MIT */
#include "host.h"

#include <inttypes.h>
#include <pvclock/source.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#define LEARN_NS 20000000000u

static void learn_slope(struct host *host)
{
	struct pvclock_reason reason = { .code = PVCLOCK_REASON_NONE };
	struct pvclock_source_state state;
	struct pvclock_source *source;

	if (pvclock_source_open(pvclock_os_linux(), &source, &reason) == 0) {
		if (pvclock_source_learn(source, LEARN_NS, &reason) == 0) {
			pvclock_source_get(source, &state);
			host->slope = state.slope;
			host->known = true;
		}
		pvclock_source_close(source);
	}
	if (!host->known)
		snprintf(host->reason, sizeof(host->reason), "%s", reason.text);
}

void host_learn(struct host *host, bool slope)
{
	struct utsname machine;
	FILE *file;

	if (host->asked && (host->known || !slope))
		return;
	memset(host, 0, sizeof(*host));
	host->asked = true;
	if (uname(&machine) == 0)
		snprintf(host->kernel, sizeof(host->kernel), "%s", machine.release);
	file = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
	if (file && fgets(host->clocksource, sizeof(host->clocksource), file))
		host->clocksource[strcspn(host->clocksource, "\n")] = '\0';
	if (file)
		fclose(file);
	if (slope)
		learn_slope(host);
}

json_t *host_json(const struct host *host)
{
	char mantissa[24];

	/* 64 bits do not fit JSON's numbers */
	snprintf(mantissa, sizeof(mantissa), "%" PRIx64, (uint64_t)host->slope.mantissa);
	return json_pack("{s:s, s:s, s:b, s:s, s:i, s:s}", "kernel", host->kernel, "clocksource", host->clocksource,
			 "known", (int)host->known, "mantissa", mantissa, "exponent", (int)host->slope.exponent,
			 "reason", host->reason);
}

void host_from_json(struct host *host, const json_t *object)
{
	memset(host, 0, sizeof(*host));
	host->asked = true;
	snprintf(host->kernel, sizeof(host->kernel), "%s", lab_text(object, "kernel", "?"));
	snprintf(host->clocksource, sizeof(host->clocksource), "%s", lab_text(object, "clocksource", "?"));
	snprintf(host->reason, sizeof(host->reason), "%s", lab_text(object, "reason", ""));
	host->known = json_is_true(json_object_get(object, "known"));
	host->slope.mantissa = strtoull(lab_text(object, "mantissa", "0"), NULL, 16);
	host->slope.exponent = (int16_t)lab_number(object, "exponent", 0);
}
