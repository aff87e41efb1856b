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
		json_decref(rows->row[i].extra);
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

int64_t rows_jump_limit_ns(const struct row *row)
{
	return row->unit_ns > 1 ? row->unit_ns : 1;
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

		if (object && row->unpromised)
			json_object_set_new(object, "promised", json_false());
		if (object && row->unit_ns > 1)
			json_object_set_new(object, "unit_ns", json_integer(row->unit_ns));
		if (object && row->tscs_differ)
			json_object_set_new(object, "tscs_differ", json_true());
		if (object && row->drift_limit_ppb > 0)
			json_object_set_new(object, "drift_limit_ppb", json_real(row->drift_limit_ppb));
		if (object && row->rate_changes)
			json_object_set_new(object, "rate_changes", json_integer(row->rate_changes));
		if (object && row->failure[0])
			json_object_set_new(object, "failure", json_string(row->failure));
		if (object && row->extra)
			json_object_update_missing(object, row->extra);
		if (!object || json_array_append_new(list, object)) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* --- from JSON ------------------------------------------------------------------------------- */

static void take_text(const json_t *object, const char *key, char *text, size_t size)
{
	const char *value = json_string_value(json_object_get(object, key));

	snprintf(text, size, "%s", value ? value : "");
}

static int64_t integer(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static double number(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

/* The way of a clock that was only looked at around events: [[seconds, ns from the first line after it], ...]. */
static void take_trace(struct row *row, const json_t *trace, double seconds)
{
	size_t count = json_array_size(trace), buckets = (size_t)(seconds * 1e9 / JUDGE_BUCKET_NS) + 1, b, i = 0;
	int64_t total = 0, last = 0;

	if (count == 0 || !(seconds > 0) || seconds > 86400)
		return;
	row->buckets = calloc(buckets, sizeof(*row->buckets));
	row->marks = calloc(count, sizeof(*row->marks));
	if (!row->buckets || !row->marks)
		return;
	row->bucket_count = buckets;
	for (b = 0; b < buckets; b++) {
		for (last = total; i < count; i++) {
			const json_t *point = json_array_get(trace, i);
			double at = json_number_value(json_array_get(point, 0));

			if (at > (double)(b + 1) * (double)JUDGE_BUCKET_NS / 1e9)
				break;
			total = json_integer_value(json_array_get(point, 1));
			row->marks[row->mark_count++] = (struct judge_event){ .seconds = at, .jump_ns = total - last, .announced = true };
		}
		row->buckets[b] = (struct judge_bucket){ .readings = 1, .min_ns = total < last ? total : last,
							 .max_ns = total > last ? total : last };
	}
}

struct row *rows_add_json(struct rows *rows, const json_t *object)
{
	struct row *row = json_is_object(object) ? rows_add(rows) : NULL;
	const json_t *slope = json_object_get(object, "slope");

	if (!row)
		return NULL;
	take_text(object, "scenario", row->scenario, sizeof(row->scenario));
	take_text(object, "who", row->who, sizeof(row->who));
	take_text(object, "where", row->where, sizeof(row->where));
	take_text(object, "kernel", row->kernel, sizeof(row->kernel));
	take_text(object, "mode", row->mode, sizeof(row->mode));
	take_text(object, "reason", row->reason, sizeof(row->reason));
	take_text(object, "failure", row->failure, sizeof(row->failure));
	row->events = (unsigned int)integer(object, "events");
	row->vcpus = (unsigned int)integer(object, "vcpus");
	row->rate_changes = (unsigned int)integer(object, "rate_changes");
	row->unit_ns = (unsigned int)integer(object, "unit_ns");
	row->jump_ns_max = integer(object, "jump_ns_max");
	row->jump_ns_total = integer(object, "jump_ns_total");
	row->backwards = (uint64_t)integer(object, "backwards");
	row->unannounced = (uint64_t)integer(object, "unannounced");
	row->failed = (uint64_t)integer(object, "failed");
	row->stable = json_is_true(json_object_get(object, "stable"));
	row->tscs_differ = json_is_true(json_object_get(object, "tscs_differ"));
	row->drift_known = json_is_number(json_object_get(object, "drift_ppb"));
	row->drift_ppb = number(object, "drift_ppb");
	row->drift_measured_ppb = number(object, "drift_measured_ppb");
	row->drift_error_ppb = number(object, "drift_error_ppb");
	row->drift_limit_ppb = number(object, "drift_limit_ppb");
	row->blackout_us_median = number(object, "blackout_us_median");
	row->reads = (uint64_t)integer(object, "reads");
	row->checked = (uint64_t)integer(object, "checked");
	row->seconds = number(object, "seconds");
	row->line.mul = (uint32_t)integer(slope, "mul");
	row->line.shift = (int8_t)integer(slope, "shift");
	row->unpromised = json_is_false(json_object_get(object, "promised"));
	take_trace(row, json_object_get(object, "trace"), number(object, "trace_seconds"));
	row->extra = json_copy((json_t *)(uintptr_t)object); /* what is a column of ours takes precedence when it is written */
	return row;
}

/* --- for people ------------------------------------------------------------------------------ */

void rows_print_table(const struct rows *rows, FILE *out)
{
	int width = 13;
	bool measured_drift = false; /* only where two samples were taken */

	for (size_t i = 0; i < rows->count; i++) {
		int length = (int)strlen(rows->row[i].scenario);

		width = length > width ? length : width;
		measured_drift = measured_drift || rows->row[i].seconds > 0;
	}
	fprintf(out, "%-6s %-*s %6s  %10s  %11s  %9s  %6s  %9s", "clock", width, "scenario", "events", "worst jump", "total shift",
		"backwards", "stable", "drift");
	if (measured_drift)
		fprintf(out, "  %17s", "drift, measured");
	fprintf(out, "  %9s\n", "blackout");
	for (size_t i = 0; i < rows->count; i++) {
		const struct row *row = &rows->row[i];
		char jump[ROWS_TEXT], total[ROWS_TEXT], blackout[ROWS_TEXT], drift[32] = "unknown", measured[48];
		const char *worst = rows_format_ns(row->jump_ns_max, jump);
		const char *black = rows_format_ns((int64_t)(row->blackout_us_median * 1000), blackout);

		if (row->failure[0] && row->events == 0) {
			fprintf(out, "%-6s %-*s %6s\n", row->who, width, row->scenario, "failed");
			continue;
		}
		rows_format_ns(row->jump_ns_total, total);
		if (row->drift_known)
			snprintf(drift, sizeof(drift), row->drift_ppb != 0 ? "%+.2f ppb" : "0 ppb", row->drift_ppb);
		measured[0] = '\0';
		if (row->seconds > 0)
			snprintf(measured, sizeof(measured), "%+.1f +- %.1f ppb", round(row->drift_measured_ppb * 10) / 10 + 0.0,
				 row->drift_error_ppb); /* + 0.0: no "-0.0" */
		fprintf(out, "%-6s %-*s %6u  %10s  %11s  %9llu  %6s  %9s", row->who, width, row->scenario, row->events,
			worst + (*worst == '+'), total, (unsigned long long)row->backwards, row->stable ? "yes" : "no", drift);
		if (measured_drift)
			fprintf(out, "  %17s", measured);
		fprintf(out, "  %9s\n", black + (*black == '+'));
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
	const struct row *linux_pause = rows_find(rows, "linux-pause", "stock");
	char text[ROWS_TEXT];

	if (linux_pause)
		fprintf(out, "Stock QEMU and KVM moved a stock Debian guest's clock by %s in %u stops.\n",
			unsigned_ns(linux_pause->jump_ns_total, text), linux_pause->events);
	if (!pause && !update)
		return;
	fprintf(out, "Stock KVM, used as QEMU uses it, moved our guest's clock by ");
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
		if (!(rows->row[i].seconds > 0)) /* of another host */
			continue;
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
	int64_t unit = rows_jump_limit_ns(row);

	if (row->jump_ns_max > unit)
		count += broken(out, row, "P1", "the worst jump in ns", (double)row->jump_ns_max, (double)unit);
	/* a kernel's clock that another process aims anew may end up to 1 ns ahead each time */
	total_limit = !strcmp(row->who, "own") ? 1 : fmax(1, row->events);
	/* A line of another slope begins at a whole ns, so each may begin up to 1 ns late: these do add up. */
	total_limit = fmax(total_limit, row->rate_changes) * (double)unit;
	if (fabs((double)row->jump_ns_total) > total_limit)
		count += broken(out, row, "P1", "the total shift in ns", (double)row->jump_ns_total, total_limit);
	if (row->backwards)
		count += broken(out, row, "P2", "the number of steps backwards", (double)row->backwards, 0);
	if (row->failed)
		count += broken(out, row, "P1", "the number of failed readings", (double)row->failed, 0);
	if (strcmp(row->who, "own"))
		return count;
	if (row->stable == row->tscs_differ)
		count += broken(out, row, "P4", "stable", row->stable, !row->tscs_differ);
	if (row->drift_known && fabs(row->drift_ppb) > row->drift_limit_ppb)
		count += broken(out, row, "P3", "the drift in ppb", row->drift_ppb, row->drift_limit_ppb);
	if (row->drift_known && row->seconds > 0 && fabs(row->drift_measured_ppb - row->drift_ppb) > row->drift_error_ppb)
		count += broken(out, row, "P3", "the measured drift in ppb", row->drift_measured_ppb, row->drift_error_ppb);
	return count;
}

unsigned int rows_print_broken(const struct rows *rows, FILE *out)
{
	unsigned int count = 0;

	for (size_t i = 0; i < rows->count; i++) {
		const struct row *row = &rows->row[i];

		if (row->failure[0]) {
			fprintf(out, "FAILED: %s %s: %s\n", row->who, row->scenario, row->failure);
			count++;
		} else if (strcmp(row->who, "stock") && !row->unpromised) { /* stock promises nothing: it is measured */
			count += judge_row(row, out);
		}
	}
	return count;
}
