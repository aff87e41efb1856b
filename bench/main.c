/* SPDX-License-Identifier: MIT */
/*
 * main.c - runs the benches and prints a line a figure: name value bar PASS|SLOW|FAIL|SKIP (detail). 1 if any failed.
 */
#include "bench.h"
#include "deadline.h"
#include "gate.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bench {
	bool json, first, failed;
};

enum verdict { PASS, SLOW, FAIL, SKIP };

static void print_json_string(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			putchar('\\');
		if ((unsigned char)*text >= ' ')
			putchar(*text);
	}
	putchar('"');
}

static void print_figure(struct bench *bench, const char *name, double value, double bar, enum verdict verdict,
			 const char *detail, va_list arguments)
{
	static const char *const names[] = { [PASS] = "PASS", [SLOW] = "SLOW", [FAIL] = "FAIL", [SKIP] = "SKIP" };
	char text[240] = "";

	if (detail)
		vsnprintf(text, sizeof(text), detail, arguments);
	bench->failed |= verdict == FAIL;
	if (!bench->json) {
		if (verdict == SKIP)
			printf("%-34s %8s %8.2f %s (%s)\n", name, "-", bar, names[verdict], text);
		else
			printf("%-34s %8.3f %8.2f %s%s%s%s\n", name, value, bar, names[verdict], *text ? " (" : "",
			       text, *text ? ")" : "");
		fflush(stdout);
		return;
	}
	printf("%s\n    {\"name\": \"%s\", ", bench->first ? "" : ",", name);
	bench->first = false;
	if (verdict == SKIP)
		printf("\"value\": null");
	else
		printf("\"value\": %.4f", value);
	printf(", \"bar\": %.4f, \"verdict\": \"%s\", \"detail\": ", bar, names[verdict]);
	print_json_string(text);
	putchar('}');
}

void bench_figure(struct bench *bench, const char *name, double value, struct limit limit, const char *detail, ...)
{
	enum verdict verdict = FAIL; /* a value that is no number fails */
	va_list arguments;

	if (value <= limit.bar)
		verdict = PASS;
	else if (value <= limit.fault)
		verdict = SLOW;

	va_start(arguments, detail);
	print_figure(bench, name, value, limit.bar, verdict, detail, arguments);
	va_end(arguments);
}

void bench_skip(struct bench *bench, const char *name, struct limit limit, const char *reason, ...)
{
	va_list arguments;

	va_start(arguments, reason);
	print_figure(bench, name, 0, limit.bar, SKIP, reason, arguments);
	va_end(arguments);
}

static int compare(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;

	return (a > b) - (a < b);
}

double bench_median(double *samples, size_t count)
{
	qsort(samples, count, sizeof(*samples), compare);
	return count % 2 ? samples[count / 2] : (samples[count / 2 - 1] + samples[count / 2]) / 2;
}

/* The first tick of a time: P5's hot path. */
static void bench_first_tick(struct bench *bench)
{
	const struct limit limit = { 0.9, 0.9 };
	double reciprocal = 0, divq = 0, udivti3 = 0;

	bench_deadline(&reciprocal, &divq, &udivti3);
	if (reciprocal <= 0) {
		bench_skip(bench, "deadline_latency_per_division", limit, "only measured on x86-64");
		return;
	}
	bench_figure(bench, "deadline_latency_per_division", reciprocal / udivti3, limit,
		     "%.1f ticks by reciprocal, %.1f by the compiler's division, %.1f by divq",
		     reciprocal, udivti3, divq);
	bench_deadline_throughput(&reciprocal, &divq, &udivti3);
	bench_figure(bench, "deadline_throughput_per_division", reciprocal / udivti3, limit,
		     "%.1f ticks by reciprocal, %.1f by the compiler's division, %.1f by divq",
		     reciprocal, udivti3, divq);
}

static const struct {
	const char *name;
	void (*run)(struct bench *bench);
	const char *help;
} benches[] = {
	{ "read", bench_read, "a guest's clock read against an ordered TSC read and the host's vDSO" },
	{ "guard", bench_guard, "the guard of pages that are not stable, on 1 to N CPUs, against Linux's" },
	{ "deadline", bench_first_tick, "the first tick of a time, by reciprocal and by division" },
	{ "publish", bench_publish, "publishing to 16 and to 4096 vCPUs" },
	{ "steer", bench_steer, "aiming the kernel's clock after a pause, on a real KVM" },
	{ "restore", bench_restore, "the clock's own part of a blackout: save, restore, resume" },
	{ "exits", bench_exits, "what the preload costs for exits that are not the clock's, on a real KVM" },
};

#define BENCHES (sizeof(benches) / sizeof(*benches))

static int usage(FILE *to, int status)
{
	fprintf(to, "usage: pvclock-bench [--json] [name ...]\n");
	for (size_t i = 0; i < BENCHES; i++)
		fprintf(to, "  %-10s %s\n", benches[i].name, benches[i].help);
	return status;
}

int main(int argc, char **argv)
{
	struct bench bench = { .first = true };
	bool chosen[BENCHES] = { false }, any = false;

	if (argc == 2 && strcmp(argv[1], "--exits-worker") == 0) /* said by this program to a copy of itself */
		return bench_exits_worker();
	for (int a = 1; a < argc; a++) {
		size_t i;

		if (strcmp(argv[a], "--help") == 0)
			return usage(stdout, 0);
		if (strcmp(argv[a], "--json") == 0) {
			bench.json = true;
			continue;
		}
		for (i = 0; i < BENCHES && strcmp(argv[a], benches[i].name) != 0; i++)
			;
		if (i == BENCHES)
			return usage(stderr, 2);
		chosen[i] = any = true;
	}
	if (bench.json)
		printf("{\n  \"figures\": [");
	for (size_t i = 0; i < BENCHES; i++)
		if (chosen[i] || !any)
			benches[i].run(&bench);
	if (bench.json)
		printf("\n  ]\n}\n");
	return bench.failed;
}
