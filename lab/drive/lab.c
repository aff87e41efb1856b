/* SPDX-License-Identifier: MIT */
#include "lab.h"

#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SLICE_MS 100 /* how late a signal may be noticed */

int lab_fail(struct lab *lab, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(lab->error, sizeof(lab->error), format, arguments);
	va_end(arguments);
	return -1;
}

void lab_add(struct lab *lab, const char *format, ...)
{
	size_t used = strlen(lab->error);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(lab->error + used, sizeof(lab->error) - used, format, arguments);
	va_end(arguments);
}

void lab_note(struct lab *lab, int64_t start_ms, const char *format, ...)
{
	va_list arguments;

	if (!lab->journal)
		return;
	fprintf(lab->journal, "%9.3f %7.3f ", (double)start_ms / 1000, (double)(lab_now_ms() - start_ms) / 1000);
	va_start(arguments, format);
	vfprintf(lab->journal, format, arguments);
	va_end(arguments);
	fputc('\n', lab->journal);
	fflush(lab->journal);
}

int64_t lab_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t lab_now_ms(void)
{
	return lab_now_ns() / 1000000;
}

int64_t lab_until(const struct lab *lab, int64_t timeout_ms)
{
	int64_t until = lab_now_ms() + (int64_t)((double)timeout_ms * (lab->slow > 0 ? lab->slow : 1));

	return lab->deadline_ms && lab->deadline_ms < until ? lab->deadline_ms : until;
}

static void held_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGHUP);
}

void lab_hold_signals(void)
{
	sigset_t set;

	held_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

void lab_release_signals(void)
{
	sigset_t set;

	held_signals(&set);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	signal(SIGPIPE, SIG_DFL);
}

bool lab_interrupted(struct lab *lab)
{
	struct timespec none = { 0, 0 };
	sigset_t set;
	int number;

	if (!lab->interrupted) {
		held_signals(&set);
		number = sigtimedwait(&set, NULL, &none);
		if (number < 0)
			return false;
		lab->interrupted = true;
	}
	lab_fail(lab, "Interrupted by a signal.");
	return true;
}

int lab_sleep(struct lab *lab, int ms)
{
	int64_t until = lab_now_ms() + ms, now;

	while ((now = lab_now_ms()) < until) {
		if (lab_interrupted(lab))
			return -1;
		if (lab->deadline_ms && now >= lab->deadline_ms)
			return lab_fail(lab, "The scenario's time is over.");
		poll(NULL, 0, until - now < SLICE_MS ? (int)(until - now) : SLICE_MS);
	}
	return 0;
}

char *lab_read_tail(const char *path, size_t limit)
{
	FILE *file = fopen(path, "re");
	char *text = malloc(limit + 1);
	size_t length = 0;

	if (file && text) {
		long size = fseek(file, 0, SEEK_END) ? -1 : ftell(file);

		/* a file of /proc has no size: it is read from its beginning */
		if (fseek(file, size > (long)limit ? size - (long)limit : 0, SEEK_SET) == 0)
			length = fread(text, 1, limit, file);
	}
	if (file)
		fclose(file);
	if (text)
		text[length] = '\0';
	return text;
}

char *lab_last_line(char *text)
{
	size_t length = strlen(text);
	char *line;

	while (length > 0 && (unsigned char)text[length - 1] <= ' ')
		text[--length] = '\0';
	line = strpbrk(text, "\r\n");
	while (line) {
		text = line + 1;
		line = strpbrk(text, "\r\n");
	}
	return text;
}

int64_t lab_number(const json_t *object, const char *key, int64_t otherwise)
{
	const json_t *value = json_object_get(object, key);

	return json_is_integer(value) ? json_integer_value(value)
	       : json_is_real(value)  ? (int64_t)json_real_value(value)
				      : otherwise;
}

const char *lab_text(const json_t *object, const char *key, const char *otherwise)
{
	const json_t *value = json_object_get(object, key);

	return json_is_string(value) ? json_string_value(value) : otherwise;
}
