/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "cost.h"
#include "probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#define LINES_SHOWN 8u
#define RATE_SECONDS_MAX 600.0

/* --- what there is ---------------------------------------------------------------------- */

static void add_page(struct json *reply, const char *name, const struct page_entry *page)
{
	if (page == NULL) {
		json_null(reply, name);
		return;
	}
	json_open(reply, name, '{');
	json_unsigned(reply, "version", page->snapshot.version);
	json_unsigned(reply, "tsc", page->snapshot.line.tsc);
	json_unsigned(reply, "ns", page->snapshot.line.ns);
	json_unsigned(reply, "mul", page->snapshot.line.mul);
	json_signed(reply, "shift", page->snapshot.line.shift);
	if (page->hyperv.scale != 0) { /* what the page says; the line is this as near as it can be */
		json_unsigned(reply, "scale", page->hyperv.scale);
		json_signed(reply, "offset", page->hyperv.offset);
	}
	json_unsigned(reply, "flags", page->snapshot.flags);
	json_bool(reply, "stable", (page->snapshot.flags & PVCLOCK_TSC_STABLE) != 0);
	json_bool(reply, "guest_stopped", (page->snapshot.flags & PVCLOCK_GUEST_STOPPED) != 0);
	json_close(reply, '}');
}

static uint64_t now_tsc(const struct probe *probe)
{
	return probe->clocks->tsc(probe->clocks->context);
}

static uint64_t now_ns(const struct probe *probe, enum probe_clock clock)
{
	return probe->clocks->ns(probe->clocks->context, clock, UINT32_MAX);
}

static void add_clocksource(struct json *reply)
{
	char text[CLOCKSOURCE_TEXT];

	read_clocksource(text);
	json_text(reply, "clocksource", text);
}

static void describe(struct probe *probe, struct json *reply)
{
	struct page_entry page;
	struct utsname kernel;

	json_unsigned(reply, "cpus", watch_running(&probe->watch));
	add_clocksource(reply);
	json_text(reply, "kernel", uname(&kernel) == 0 ? kernel.release : "");
	add_page(reply, "page", pages_now(&probe->pages, &page) ? &page : NULL);
	json_unsigned(reply, "tsc", now_tsc(probe));
	json_unsigned(reply, "uptime_ns", now_ns(probe, PROBE_BOOTTIME));
}

void probe_ready(struct probe *probe, struct json *reply)
{
	json_open(reply, NULL, '{');
	json_bool(reply, "ready", true);
	describe(probe, reply);
	json_close(reply, '}');
}

static void hello(struct probe *probe, const char *argument, struct json *reply)
{
	(void)argument;
	probe_look_for_page(probe);
	json_bool(reply, "hello", true);
	describe(probe, reply);
}

/* --- events ------------------------------------------------------------------------------- */

static void begin(struct probe *probe, const char *argument, struct json *reply)
{
	struct event_begun begun = event_begin(&probe->events, argument);

	json_text(reply, "begin", argument);
	if (begun.replaced)
		json_bool(reply, "replaced", true);
	json_unsigned(reply, "unannounced", begun.unannounced);
	json_unsigned(reply, "cpus", watch_running(&probe->watch));
}

static void add_measured(struct json *reply, const char *shift, const char *bracket, const struct measured *measured)
{
	if (measured->known) {
		json_signed(reply, shift, measured->ns);
		json_signed(reply, bracket, measured->within);
	} else {
		json_null(reply, shift);
		json_null(reply, bracket);
	}
}

static void add_offset(struct json *reply, const char *step, const char *bracket, const struct offset *offset)
{
	add_measured(reply, step, bracket, &(struct measured){ .known = true, .ns = offset->ns,
							       .within = offset->within });
}

/* "NAME" or "NAME TICK" */
static bool split_tick(const char *argument, char name[EVENT_NAME], uint64_t *tick)
{
	const char *last = strrchr(argument, ' ');
	char *end = NULL;

	snprintf(name, EVENT_NAME, "%s", argument);
	if (!last || last[1] < '0' || last[1] > '9')
		return false;
	*tick = strtoull(last + 1, &end, 10);
	if (*end != '\0')
		return false;
	if ((size_t)(last - argument) < EVENT_NAME)
		name[last - argument] = '\0';
	return true;
}

static void end(struct probe *probe, const char *argument, struct json *reply)
{
	struct event_result result;
	char name[EVENT_NAME];
	uint64_t tick = 0;
	bool known = split_tick(argument, name, &tick);

	result = event_end(&probe->events, name, known ? &tick : NULL);
	json_text(reply, "end", name);
	if (result.unmatched) {
		json_bool(reply, "unmatched", true);
		if (result.begun[0] != '\0')
			json_text(reply, "begun", result.begun);
		else
			json_null(reply, "begun");
	}
	json_bool(reply, "page_known", result.page_known);
	if (result.page_known) {
		json_signed(reply, "page_jump_ns", result.page.jump);
		json_signed(reply, "page_jump_low_ns", result.page.low);
		json_signed(reply, "page_jump_high_ns", result.page.high);
		json_number(reply, "page_rate_ppb", result.page.rate_ppb);
	} else {
		json_null(reply, "page_jump_ns");
		json_null(reply, "page_rate_ppb");
	}
	json_bool(reply, "stable", result.page_now && (result.now.snapshot.flags & PVCLOCK_TSC_STABLE) != 0);
	json_unsigned(reply, "lines", result.lines);
	add_measured(reply, "measured_shift_ns", "measured_bracket_ns", &result.raw);
	add_measured(reply, "monotonic_shift_ns", "monotonic_bracket_ns", &result.monotonic);
	if (result.rate_measured) {
		json_number(reply, "measured_rate_ppb", result.rate_ppb);
		json_number(reply, "measured_rate_bracket_ppb", result.rate_within_ppb);
	} else {
		json_null(reply, "measured_rate_ppb");
	}
	json_unsigned(reply, "backwards_within", result.totals.within);
	json_unsigned(reply, "backwards_between", result.totals.between);
	if (result.begun[0] != '\0')
		json_unsigned(reply, "backwards_worst_ns", result.totals.worst_ns);
	else
		json_null(reply, "backwards_worst_ns");
	add_offset(reply, "realtime_step_ns", "realtime_bracket_ns", &result.realtime_step);
	add_offset(reply, "boottime_step_ns", "boottime_bracket_ns", &result.boottime_step);
	json_signed(reply, "tsc_step", result.tsc_step);
	json_unsigned(reply, "cpus", watch_running(&probe->watch));
	json_unsigned(reply, "samples", result.totals.samples);
	json_unsigned(reply, "unannounced", result.unannounced);
	add_page(reply, "page", result.page_now ? &result.now : NULL);
}

/* --- figures -------------------------------------------------------------------------------- */

static void cost(struct probe *probe, const char *argument, struct json *reply)
{
	struct cost measured = measure_cost();

	(void)probe;
	(void)argument;
	json_bool(reply, "cost", true);
	json_bool(reply, "vdso", measured.answered);
	json_number(reply, "vdso_ticks", measured.vdso);
	json_number(reply, "syscall_ticks", measured.syscall);
	json_number(reply, "rdtsc_ticks", measured.rdtsc);
}

static void rate(struct probe *probe, const char *argument, struct json *reply)
{
	char *rest;
	double seconds = strtod(argument, &rest), of_page = 0;
	struct page_entry before, after;
	struct pvclock_slope slope;
	struct rate measured;
	bool known;

	if (*rest != '\0' || !(seconds > 0) || seconds > RATE_SECONDS_MAX) {
		json_text(reply, "error", "rate takes a number of seconds, above 0 and up to 600: rate 5");
		return;
	}
	known = pages_now(&probe->pages, &before);
	measured = measure_rate(probe->clocks, seconds);
	known = known && pages_now(&probe->pages, &after);
	json_bool(reply, "rate", true);
	if (!measured.known) {
		json_null(reply, "ns_per_tick");
		json_null(reply, "uncertainty_ppb");
		json_null(reply, "raw_hz_error_ppb");
		return;
	}
	json_number(reply, "seconds", measured.seconds);
	json_number(reply, "ns_per_tick", measured.ns_per_tick);
	json_number(reply, "tsc_hz", 1e9 / measured.ns_per_tick);
	json_number(reply, "uncertainty_ppb", measured.error_ppb);
	/* RAW runs so much faster than the page's line says */
	if (known && before.number == after.number && pvclock_slope_from_line(&after.snapshot.line, &slope)) {
		of_page = __builtin_ldexp((double)slope.mantissa, slope.exponent);
		json_number(reply, "page_ns_per_tick", of_page);
		json_number(reply, "raw_hz_error_ppb", (measured.ns_per_tick / of_page - 1) * 1e9);
	} else {
		json_null(reply, "raw_hz_error_ppb");
	}
}

static void add_lines(struct probe *probe, struct json *reply, uint32_t lines)
{
	json_open(reply, "lines", '[');
	for (uint32_t number = lines > LINES_SHOWN ? lines - LINES_SHOWN + 1 : 1; number <= lines; number++) {
		struct page_entry entry;

		if (!pages_get(&probe->pages, number, &entry))
			continue;
		json_open(reply, NULL, '{');
		json_unsigned(reply, "number", entry.number);
		json_unsigned(reply, "seen_tsc", entry.seen);
		json_unsigned(reply, "tsc", entry.snapshot.line.tsc);
		json_unsigned(reply, "ns", entry.snapshot.line.ns);
		json_unsigned(reply, "mul", entry.snapshot.line.mul);
		json_signed(reply, "shift", entry.snapshot.line.shift);
		json_unsigned(reply, "flags", entry.snapshot.flags);
		json_signed(reply, "jump_ns", entry.difference.jump);
		json_number(reply, "rate_ppb", entry.difference.rate_ppb);
		json_close(reply, '}');
	}
	json_close(reply, ']');
}

static void report(struct probe *probe, const char *argument, struct json *reply)
{
	struct page_entry page;
	bool known = pages_now(&probe->pages, &page);
	struct pages_totals lines = pages_totals(&probe->pages);
	struct watch_totals totals = watch_totals(&probe->watch);

	(void)argument;
	events_unannounced(&probe->events);
	json_bool(reply, "report", true);
	json_unsigned(reply, "samples", totals.samples);
	json_unsigned(reply, "backwards_within", totals.within);
	json_unsigned(reply, "backwards_between", totals.between);
	json_unsigned(reply, "backwards_worst_ns", totals.worst_ns);
	json_unsigned(reply, "events", probe->events.ended);
	json_unsigned(reply, "unannounced", probe->events.unannounced);
	json_unsigned(reply, "cpus", watch_running(&probe->watch));
	json_bool(reply, "stable", known && (page.snapshot.flags & PVCLOCK_TSC_STABLE) != 0);
	json_unsigned(reply, "distinct_lines", lines.lines);
	json_signed(reply, "worst_difference_ns", lines.worst_jump);
	json_unsigned(reply, "rewrites", lines.rewrites);
	json_unsigned(reply, "unreadable", lines.unreadable);
	add_lines(probe, reply, lines.lines);
	add_page(reply, "page", known ? &page : NULL);
}

static void quit(struct probe *probe, const char *argument, struct json *reply)
{
	(void)argument;
	probe->quit = true;
	json_bool(reply, "quit", true);
}

/* --- the table -------------------------------------------------------------------------------- */

enum argument { NONE, NAME };

static const struct command {
	const char *name;
	enum argument argument;
	void (*run)(struct probe *probe, const char *argument, struct json *reply);
} commands[] = {
	{ "hello", NONE, hello },   { "begin", NAME, begin }, { "end", NAME, end },   { "cost", NONE, cost },
	{ "rate", NAME, rate },     { "report", NONE, report }, { "quit", NONE, quit },
};

static void run_command(struct probe *probe, const char *line, struct json *reply)
{
	size_t length = strcspn(line, " ");
	const char *argument = line + length + strspn(line + length, " ");
	char text[256];

	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		const struct command *command = &commands[i];

		if (strlen(command->name) != length || memcmp(command->name, line, length) != 0)
			continue;
		if (command->argument == NONE && *argument != '\0') {
			snprintf(text, sizeof(text), "%s takes nothing after it", command->name);
			json_text(reply, "error", text);
		} else if (command->argument == NAME && (*argument == '\0' || strlen(argument) >= EVENT_NAME)) {
			snprintf(text, sizeof(text), "%s takes a word of at most %u letters after it", command->name,
				 EVENT_NAME - 1);
			json_text(reply, "error", text);
		} else {
			command->run(probe, argument, reply);
		}
		return;
	}
	snprintf(text, sizeof(text),
		 "\"%.*s\" is no command: say hello, begin NAME, end NAME, cost, rate SECONDS, report or quit",
		 (int)(length < 64 ? length : 64), line);
	json_text(reply, "error", text);
}

void probe_command(struct probe *probe, const char *line, struct json *reply)
{
	probe_tend(probe);
	json_open(reply, NULL, '{');
	run_command(probe, line, reply);
	json_close(reply, '}');
}
