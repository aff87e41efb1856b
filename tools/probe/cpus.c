/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "cpus.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define FOLDER "/sys/devices/system/cpu/"

bool cpus_parse(const char *text, cpu_set_t *cpus)
{
	CPU_ZERO(cpus);
	while (*text != '\0' && *text != '\n') {
		char *end;
		unsigned long from = strtoul(text, &end, 10), to = from;

		if (end == text)
			return false;
		if (*end == '-') {
			text = end + 1;
			to = strtoul(text, &end, 10);
			if (end == text)
				return false;
		}
		if (to < from || to >= CPU_SETSIZE || (*end != ',' && *end != '\n' && *end != '\0'))
			return false;
		for (unsigned long cpu = from; cpu <= to; cpu++)
			CPU_SET(cpu, cpus);
		text = *end == ',' ? end + 1 : end;
	}
	return true;
}

static void read_list(const char *path, cpu_set_t *cpus)
{
	char text[1024];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	CPU_ZERO(cpus);
	if (length < 0)
		return;
	text[length] = '\0';
	if (!cpus_parse(text, cpus))
		CPU_ZERO(cpus);
}

void cpus_present(cpu_set_t *cpus)
{
	read_list(FOLDER "present", cpus);
}

void cpus_online(cpu_set_t *cpus)
{
	read_list(FOLDER "online", cpus);
}

void cpus_bring_online(unsigned int cpu)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), FOLDER "cpu%u/online", cpu);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (write(fd, "1", 1) != 1) { /* as said: seen by what runs afterwards */
	}
	close(fd);
}
