/* SPDX-License-Identifier: MIT */
#include "rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct row *rows_add(struct rows *rows)
{
	struct row *grown = realloc(rows->row, (rows->count + 1) * sizeof(*grown));

	if (!grown)
		return NULL;
	rows->row = grown;
	memset(&rows->row[rows->count], 0, sizeof(*grown));
	return &rows->row[rows->count++];
}

void rows_clear(struct rows *rows)
{
	for (size_t i = 0; i < rows->count; i++) {
		free(rows->row[i].buckets);
		free(rows->row[i].marks);
	}
	free(rows->row);
	rows->row = NULL;
	rows->count = 0;
}

const struct row *rows_find(const struct rows *rows, const char *scenario, const char *who)
{
	for (size_t i = 0; i < rows->count; i++)
		if (!strcmp(rows->row[i].scenario, scenario) && !strcmp(rows->row[i].who, who))
			return &rows->row[i];
	return NULL;
}

const char *rows_format_ns(int64_t ns, char text[ROWS_TEXT])
{
	double magnitude = fabs((double)ns);

	if (magnitude < 1e4)
		snprintf(text, ROWS_TEXT, ns ? "%+lld ns" : "%lld ns", (long long)ns);
	else if (magnitude < 1e6)
		snprintf(text, ROWS_TEXT, "%+.1f us", (double)ns / 1e3);
	else if (magnitude < 1e9)
		snprintf(text, ROWS_TEXT, "%+.1f ms", (double)ns / 1e6);
	else
		snprintf(text, ROWS_TEXT, "%+.2f s", (double)ns / 1e9);
	return text;
}

json_t *rows_json(const struct rows *rows)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < rows->count; i++) {
		const struct row *row = &rows->row[i];
		json_t *object = json_pack(
			"{s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:b, s:o, s:f, s:I, s:I, s:s, s:s, s:i, s:f, s:f, s:f, s:I, s:I, "
			"s:{s:I, s:i}}",
			"scenario", row->scenario, "who", row->who, "where", row->where, "kernel", row->kernel,
			"events", (int)row->events, "jump_ns_max", (json_int_t)row->jump_ns_max,
			"jump_ns_total", (json_int_t)row->jump_ns_total, "backwards", (json_int_t)row->backwards,
			"stable", (int)row->stable, "drift_ppb",
			row->drift_known ? json_real(row->drift_ppb) : json_null(),
			"blackout_us_median", row->blackout_us_median, "reads", (json_int_t)row->reads,
			"checked", (json_int_t)row->checked,
			/* beyond the agreed columns */
			"mode", row->mode, "reason", row->reason, "vcpus", (int)row->vcpus, "seconds", row->seconds,
			"drift_measured_ppb", row->drift_measured_ppb, "drift_error_ppb", row->drift_error_ppb,
			"unannounced", (json_int_t)row->unannounced, "failed", (json_int_t)row->failed,
			"slope", "mul", (json_int_t)row->line.mul, "shift", (int)row->line.shift);

		if (!object || json_array_append_new(list, object)) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

void rows_print_table(const struct rows *rows, FILE *out)
{
	fprintf(out, "%-6s %-13s %6s  %10s  %11s  %9s  %6s  %9s  %17s  %9s\n", "clock", "scenario", "events", "worst jump",
		"total shift", "backwards", "stable", "drift", "drift, measured", "blackout");
	for (size_t i = 0; i < rows->count; i++) {
		const struct row *row = &rows->row[i];
		char jump[ROWS_TEXT], total[ROWS_TEXT], blackout[ROWS_TEXT], drift[32] = "unknown", measured[48];
		const char *worst = rows_format_ns(row->jump_ns_max, jump);

		rows_format_ns(row->jump_ns_total, total);
		rows_format_ns((int64_t)(row->blackout_us_median * 1000), blackout);
		if (row->drift_known)
			snprintf(drift, sizeof(drift), row->drift_ppb != 0 ? "%+.2f ppb" : "0 ppb", row->drift_ppb);
		snprintf(measured, sizeof(measured), "%+.1f +- %.1f ppb", round(row->drift_measured_ppb * 10) / 10 + 0.0,
			 row->drift_error_ppb); /* + 0.0: no "-0.0" */
		fprintf(out, "%-6s %-13s %6u  %10s  %11s  %9llu  %6s  %9s  %17s  %9s\n", row->who, row->scenario, row->events,
			worst + (*worst == '+'), total, (unsigned long long)row->backwards, row->stable ? "yes" : "no", drift,
			measured, blackout + 1);
	}
}

/* --- meaning ------------------------------------------------------------------------------ */

/* 0 of none, else the scenarios' sum of magnitudes and worst jump of one `who`. */
static unsigned int sum_up(const struct rows *rows, const char *who, int64_t *worst, uint64_t *events)
{
	unsigned int found = 0;

	*worst = 0;
	*events = 0;
	for (size_t i = 0; i < rows->count; i++) {
		const struct row *row = &rows->row[i];

		if (strcmp(row->who, who))
			continue;
		found++;
		*events += row->events;
		if (row->jump_ns_max > *worst)
			*worst = row->jump_ns_max;
	}
	return found;
}

static const char *unsigned_ns(int64_t ns, char text[ROWS_TEXT])
{
	const char *formatted = rows_format_ns(ns < 0 ? -ns : ns, text);

	return formatted + (*formatted == '+');
}

static void print_stock(const struct rows *rows, FILE *out)
{
	const struct row *pause = rows_find(rows, "pause-resume", "stock");
	const struct row *update = rows_find(rows, "live-update", "stock");
	char text[ROWS_TEXT];

	if (!pause && !update)
		return;
	fprintf(out, "Stock KVM, used as QEMU uses it, moved the guest's clock by ");
	if (pause)
		fprintf(out, "%s in %u pauses", unsigned_ns(pause->jump_ns_total, text), pause->events);
	if (update)
		fprintf(out, "%s%s in %u live updates", pause ? " and by " : "", unsigned_ns(update->jump_ns_total, text),
			update->events);
	fprintf(out, ": it stops the clock and lets the TSC run on.\n");
}

static void print_pvclock(const struct rows *rows, FILE *out)
{
	int64_t own_worst, steer_worst;
	uint64_t own_events, steer_events;
	unsigned int own = sum_up(rows, "own", &own_worst, &own_events);
	unsigned int steer = sum_up(rows, "steer", &steer_worst, &steer_events);
	char text[ROWS_TEXT];

	if (!own && !steer)
		return;
	fprintf(out, "pvclock moved it by ");
	if (own)
		fprintf(out, own_worst ? "at most %s in %llu events where it owns the page" : "%s in %llu events where it owns the page",
			unsigned_ns(own_worst, text), (unsigned long long)own_events);
	if (steer)
		fprintf(out, steer_worst ? "%sat most %s in %llu events where it steers the kernel's"
					 : "%s%s in %llu events where it steers the kernel's",
			own ? ", and by " : "", unsigned_ns(steer_worst, text), (unsigned long long)steer_events);
	fprintf(out, ".\n");
}

static void print_rate(const struct rows *rows, FILE *out)
{
	const struct row *stock = NULL, *own = NULL;
	char text[ROWS_TEXT];

	for (size_t i = 0; i < rows->count; i++) {
		if (!strcmp(rows->row[i].who, "stock"))
			stock = &rows->row[i];
		if (!strcmp(rows->row[i].who, "own"))
			own = &rows->row[i];
	}
	if (own && own->drift_known && own->drift_ppb == 0 && stock && stock->drift_known && stock->drift_ppb != 0)
		fprintf(out,
			"Its rate is exactly the host's; the kernel's own is %.2f ppb off, which is %s a day.\n",
			fabs(stock->drift_ppb), unsigned_ns((int64_t)(fabs(stock->drift_ppb) * 86400), text));
	else if (own && own->drift_known && own->drift_ppb == 0)
		fprintf(out, "Its rate is exactly the host's.\n");
}

void rows_print_meaning(const struct rows *rows, FILE *out)
{
	print_stock(rows, out);
	print_pvclock(rows, out);
	print_rate(rows, out);
}

/* --- promises ------------------------------------------------------------------------------ */

static unsigned int broken(FILE *out, const struct row *row, const char *promise, const char *what, double is, double limit)
{
	fprintf(out, "BROKEN %s: %s %s: %s is %.6g, the limit is %.6g.\n", promise, row->who, row->scenario, what, is, limit);
	return 1;
}

static unsigned int judge_row(const struct row *row, FILE *out)
{
	unsigned int count = 0;
	double total_limit;

	if (row->jump_ns_max > 1)
		count += broken(out, row, "P1", "the worst jump in ns", (double)row->jump_ns_max, 1);
	/* 20 steps of up to 1 ns that know nothing of each other end within 10 of the start; in one direction they would make 20. */
	total_limit = !strcmp(row->who, "own") ? 1 : fmax(1, row->events / 2.0);
	if (fabs((double)row->jump_ns_total) > total_limit)
		count += broken(out, row, "P1", "the total shift in ns", (double)row->jump_ns_total, total_limit);
	if (row->backwards)
		count += broken(out, row, "P2", "the number of steps backwards", (double)row->backwards, 0);
	if (row->failed)
		count += broken(out, row, "P1", "the number of failed readings", (double)row->failed, 0);
	if (strcmp(row->who, "own"))
		return count;
	if (!row->stable)
		count += broken(out, row, "P4", "stable", 0, 1);
	if (row->drift_known && row->drift_ppb != 0)
		count += broken(out, row, "P3", "the drift in ppb", row->drift_ppb, 0);
	if (row->drift_known && fabs(row->drift_measured_ppb - row->drift_ppb) > row->drift_error_ppb)
		count += broken(out, row, "P3", "the measured drift in ppb", row->drift_measured_ppb, row->drift_error_ppb);
	return count;
}

unsigned int rows_print_broken(const struct rows *rows, FILE *out)
{
	unsigned int count = 0;

	for (size_t i = 0; i < rows->count; i++)
		if (strcmp(rows->row[i].who, "stock")) /* stock promises nothing: it is measured */
			count += judge_row(&rows->row[i], out);
	return count;
}
