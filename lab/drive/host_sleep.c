/* SPDX-License-Identifier: MIT */
#include "host_sleep.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WAKE_ALARM "/sys/class/rtc/rtc0/wakealarm"
#define CHIPSET "/sys/bus/pci/devices/0000:00:1f.0/config"
#define CHIPSET_ACPI 0x40 /* PMBASE, ACPI_CNTL */
#define CHIPSET_SIZE 8
#define BRACKETS 20
#define POWER_STATE "/sys/power/state"

/* How long it has slept since its boot: between *ns - *bracket and *ns. */
static void read_slept(int64_t *ns, int64_t *bracket)
{
	struct timespec before, boottime, after;
	int64_t width;

	*bracket = INT64_MAX;
	for (int i = 0; i < BRACKETS; i++) {
		clock_gettime(CLOCK_MONOTONIC, &before);
		clock_gettime(CLOCK_BOOTTIME, &boottime);
		clock_gettime(CLOCK_MONOTONIC, &after);
		width = (after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec;
		if (width >= *bracket)
			continue;
		*bracket = width;
		*ns = (boottime.tv_sec - before.tv_sec) * 1000000000 + boottime.tv_nsec - before.tv_nsec;
	}
}

static int say(struct lab *lab, const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t written = fd < 0 ? -1 : write(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return written == (ssize_t)strlen(text) ? 0 : lab_fail(lab, "This host does not take \"%s\" for %s.", text, path);
}

/*
 * Where the chipset (an ICH9, as -M q35 has it) keeps its ACPI registers. It forgets that in its sleep, the lab's
 * SeaBIOS does not set it again, and Linux then reads ones from them: the next sleep would end at once. So it is as it
 * was, afterwards.
 */
static int chipset(struct lab *lab, uint8_t bytes[CHIPSET_SIZE], bool restore)
{
	int fd = open(CHIPSET, O_RDWR | O_CLOEXEC);
	ssize_t done = fd < 0 ? -1 : restore ? pwrite(fd, bytes, CHIPSET_SIZE, CHIPSET_ACPI) : pread(fd, bytes, CHIPSET_SIZE, CHIPSET_ACPI);

	if (fd >= 0)
		close(fd);
	return done == CHIPSET_SIZE ? 0 : lab_fail(lab, "This host's chipset cannot be reached (%s).", CHIPSET);
}

int64_t host_sleep(struct lab *lab, int seconds, int64_t *bracket)
{
	int64_t before, before_bracket, after, slept;
	uint8_t acpi[CHIPSET_SIZE];
	char alarm[16];

	read_slept(&before, &before_bracket);
	snprintf(alarm, sizeof(alarm), "+%d", seconds);
	if (say(lab, WAKE_ALARM, "0") || say(lab, WAKE_ALARM, alarm) || chipset(lab, acpi, false) ||
	    say(lab, POWER_STATE, "mem") || chipset(lab, acpi, true))
		return -1;
	read_slept(&after, bracket);
	*bracket += before_bracket;
	slept = after - before;
	return slept > 500000000 ? slept : lab_fail(lab, "This host did not sleep: %.3f s.", (double)slept / 1e9);
}
