/* SPDX-License-Identifier: MIT */
#include "host_clock.h"

#include <errno.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/timex.h>

static const char boot_id[] = "/proc/sys/kernel/random/boot_id";

int host_clock_set(struct lab *lab, const struct host_clock *clock)
{
	int64_t ns = clock->step_ms * 1000000, second = 1000000000, rest = (ns % second + second) % second;
	struct timex status = {
		.modes = ADJ_STATUS | ADJ_FREQUENCY | ADJ_MAXERROR | ADJ_ESTERROR | ADJ_TAI,
		.status = clock->unsynchronised ? STA_UNSYNC : 0,
		.maxerror = clock->error_us,
		.esterror = clock->error_us,
		.constant = clock->tai,
	};

	if (clock->step_ms) { /* a step makes the kernel forget what it was told before, and not what comes with it */
		status.modes |= ADJ_SETOFFSET | ADJ_NANO;
		status.time.tv_sec = (ns - rest) / second;
		status.time.tv_usec = rest; /* with ADJ_NANO: ns, and not below 0 */
	}
	if (adjtimex(&status) >= 0)
		return 0;
	return lab_fail(lab, "This host's clock cannot be set (%s); run this in the lab, which has hosts of its own.", strerror(errno));
}

int host_clock_cover_boot(struct lab *lab)
{
	char path[LAB_PATH + 16], id[64] = "";
	FILE *uuid = fopen("/proc/sys/kernel/random/uuid", "re"), *file;

	snprintf(path, sizeof(path), "%s/boot-id", lab->work);
	file = fopen(path, "we");
	if (uuid && file && fgets(id, sizeof(id), uuid))
		fputs(id, file);
	if (uuid)
		fclose(uuid);
	if (file)
		fclose(file);
	if (id[0] && mount(path, boot_id, NULL, MS_BIND, NULL) == 0)
		return 0;
	return lab_fail(lab, "This host's boot id cannot be covered (%s); run this in the lab.", strerror(errno));
}

void host_clock_uncover_boot(void)
{
	umount2(boot_id, MNT_DETACH);
}
