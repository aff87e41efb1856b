/* SPDX-License-Identifier: MIT */
/* log.c - one sentence for the operator where something is not as it should be, and every event for who asks. */
#define _GNU_SOURCE
#include "preload.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_BYTES 1024

void say(const char *format, ...)
{
	char line[LINE_BYTES];
	va_list list;
	int length;

	va_start(list, format);
	length = vsnprintf(line, sizeof(line), format, list);
	va_end(list);
	if (length > 0)
		dprintf(STDERR_FILENO, "pvclock: %s\n", line);
}

/* A reason's text holds no control characters and seldom a quote: what JSON cannot have becomes an apostrophe. */
static void quote(char *to, size_t size, const char *text)
{
	size_t i;

	for (i = 0; text[i] != '\0' && i + 1 < size; i++)
		to[i] = text[i] == '"' || text[i] == '\\' || (unsigned char)text[i] < ' ' ? '\'' : text[i];
	to[i] = '\0';
}

void record_event(const char *event, const struct pvclock_reason *reason, const char *members, ...)
{
	const char *path = getenv("PVCLOCK_LOG");
	char line[LINE_BYTES] = "", text[PVCLOCK_REASON_TEXT] = "";
	va_list list;
	int fd;

	if (path == NULL || *path == '\0')
		return;
	va_start(list, members);
	vsnprintf(line, sizeof(line), members, list);
	va_end(list);
	if (reason)
		quote(text, sizeof(text), reason->text);
	/* Opened each time: a line an event, and the file may be moved away. */
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		return;
	dprintf(fd, "{\"pvclock\":%d,\"event\":\"%s\",%s,\"reason\":\"%s\"}\n", (int)getpid(), event, line, text);
	passing++;
	close(fd);
	passing--;
}
