/* SPDX-License-Identifier: MIT */
#include "report.h"

#include "plot.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static const char head[] =
	"<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
	"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
	"<meta name=\"color-scheme\" content=\"light dark\">\n<title>pvclock: the guest's clock, kept</title>\n<style>\n"
	":root{--back:#fff;--text:#1b222c;--soft:#4a5361;--rule:#dde1e7;--good:#0b8a5f;--bad:#c2410c}\n"
	"@media (prefers-color-scheme:dark){:root{--back:#12161c;--text:#f0f3f7;--soft:#aeb7c4;--rule:#2b333f;"
	"--good:#3ddc9f;--bad:#ff8a50}}\n"
	"body{background:var(--back);color:var(--text);font:16px/1.55 system-ui,sans-serif;max-width:76rem;margin:2.5rem auto;"
	"padding:0 1.25rem}\n"
	"h1{font-size:1.7rem;margin:0 0 .6rem}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}p,dd{max-width:62rem}\n"
	".result{font-size:1.12rem}figure{margin:1.5rem 0;overflow-x:auto}svg{width:100%;min-width:46rem;height:auto}\n"
	".wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\n"
	"th,td{padding:.42rem .7rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}\n"
	"th{color:var(--soft);font-weight:600;font-size:.86rem;vertical-align:bottom}"
	"th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}\n"
	"td.good{color:var(--good);font-weight:600}td.bad{color:var(--bad);font-weight:600}\n"
	"dt{font-weight:600}dd{margin:0 0 .5rem;color:var(--soft)}.soft{color:var(--soft)}\n"
	"</style>\n</head>\n<body>\n";

static const char how[] =
	"<h2>How it was measured</h2>\n"
	"<p>Every vCPU of the guest reads its clock in a loop and logs what it read as a pair: its TSC, and the time that the clock "
	"gave for it. So the clock is judged as a <em>function</em>. The line that the guest was using is found in its own memory, and after "
	"every event each reading is compared with that line at its own TSC value: a jump of one nanosecond is seen, "
	"because there is no bracket for it to hide in. Between events every reading must lie on the line exactly (column "
	"&ldquo;checked&rdquo;), and the readings of all vCPUs, sorted by TSC, must never go backwards. The drift is the difference between the "
	"page's multiplier and the host kernel's own, as exact fractions; beside it stands the drift measured against "
	"<code>CLOCK_MONOTONIC_RAW</code> over the whole run, with the error of that measurement.</p>\n"
	"<p>The rows that begin with <code>linux-</code> are of an unmodified Debian guest on an unmodified QEMU, on a host that is itself "
	"emulated where this machine cannot run it. A probe in the guest compares the page before and after each event as functions, "
	"exactly, and checks that with bracketed readings of its own; <em>own</em> and <em>steer</em> are <code>pvclock run -- qemu</code>.</p>\n"
	"<dl>\n<dt>stock</dt><dd>What a VMM gets from KVM today: <code>KVM_GET_CLOCK</code> when the guest stops, "
	"<code>KVM_SET_CLOCK</code> with the same value when it goes on, as QEMU does. The clock stands still for the length of the stop "
	"while the TSC runs on, and the two part.</dd>\n"
	"<dt>steer</dt><dd>The kernel still writes the page; pvclock aims the kernel's clock at the line that the guest knows.</dd>\n"
	"<dt>own</dt><dd>pvclock writes the page itself, with the host's exact slope. The line stays the same, so no reading can "
	"change.</dd>\n</dl>\n";

static void write_escaped(FILE *out, const char *text)
{
	for (; *text; text++)
		switch (*text) {
		case '<': fputs("&lt;", out); break;
		case '>': fputs("&gt;", out); break;
		case '&': fputs("&amp;", out); break;
		case '"': fputs("&quot;", out); break;
		default: fputc(*text, out);
		}
}

/* With a minus sign that is one, and a mu. */
static void write_ns(FILE *out, const char *kind, int64_t ns, bool sign)
{
	char text[ROWS_TEXT];
	const char *at = rows_format_ns(ns, text);

	fprintf(out, "<td class=\"%s\">", kind);
	if (*at == '-')
		fputs("&minus;", out);
	if (*at == '-' || (*at == '+' && !sign))
		at++;
	for (; *at; at++)
		if (at[0] == 'u' && at[1] == 's')
			fputs("&micro;", out);
		else
			fputc(*at, out);
	fputs("</td>", out);
}

static void write_ppb(FILE *out, double ppb, int digits)
{
	double unit = pow(10, -digits), shown = round(ppb / unit) * unit;

	fprintf(out, "%s%.*f", shown < 0 ? "&minus;" : shown > 0 ? "+" : "", digits, fabs(shown));
}

static void write_row(FILE *out, const struct row *row)
{
	bool kept = row->jump_ns_max <= rows_jump_limit_ns(row);

	fprintf(out, "<tr><td>%s</td><td>%s</td><td>%u</td>", row->who, row->scenario, row->events);
	write_ns(out, kept ? "good" : "bad", row->jump_ns_max, false);
	write_ns(out, "", row->jump_ns_total, true);
	fprintf(out, "<td class=\"%s\">%llu</td><td>%s</td><td>", row->backwards ? "bad" : "", (unsigned long long)row->backwards,
		row->stable ? "yes" : "no");
	if (!row->drift_known)
		fputs("unknown", out);
	else if (row->drift_ppb == 0)
		fputs("0 ppb", out);
	else {
		write_ppb(out, row->drift_ppb, 2);
		fputs(" ppb", out);
	}
	fputs("</td><td>", out);
	if (row->seconds > 0) {
		write_ppb(out, row->drift_measured_ppb, 1);
		fprintf(out, " &plusmn; %.1f ppb", row->drift_error_ppb);
	}
	fputs("</td>", out);
	write_ns(out, "", (int64_t)(row->blackout_us_median * 1000), false);
	fprintf(out, "<td>%llu</td><td>%llu</td></tr>\n", (unsigned long long)row->reads, (unsigned long long)row->checked);
}

static void write_machine(FILE *out, const struct rows *rows)
{
	const struct row *row = &rows->row[rows->count - 1];
	time_t now = time(NULL);
	char date[32] = "";
	struct tm day;

	if (gmtime_r(&now, &day))
		strftime(date, sizeof(date), "%Y-%m-%d", &day);
	fprintf(out, "<p class=\"soft\">%u vCPUs on %s, kernel ", row->vcpus, row->where);
	write_escaped(out, row->kernel);
	fprintf(out, ", %s. The numbers are also in <code>demo.json</code>.</p>\n", date);
}

static void write_html(const struct rows *rows, FILE *out)
{
	char *meaning = NULL;
	size_t length = 0;
	FILE *text = open_memstream(&meaning, &length);

	fputs(head, out);
	fputs("<h1>A guest's clock through stops, pauses and live updates</h1>\n<p class=\"result\">", out);
	if (text) {
		rows_print_meaning(rows, text);
		fclose(text);
		write_escaped(out, meaning);
		free(meaning);
	}
	fputs("</p>\n<figure>\n", out);
	plot_write(rows, out);
	fputs("</figure>\n<div class=\"wide\">\n<table>\n<thead><tr><th>clock</th><th>scenario</th><th>events</th>"
	      "<th>worst jump</th><th>total shift</th><th>backwards</th><th>stable</th><th>drift</th><th>drift, measured</th>"
	      "<th>blackout, median</th><th>reads</th><th>checked</th></tr></thead>\n<tbody>\n",
	      out);
	for (size_t i = 0; i < rows->count; i++)
		write_row(out, &rows->row[i]);
	fputs("</tbody>\n</table>\n</div>\n", out);
	fputs(how, out);
	write_machine(out, rows);
	fputs("</body>\n</html>\n", out);
}

/* A file is either complete or not there: it is renamed into place. */
static int write_file(const struct rows *rows, const char *folder, const char *name,
		      void (*write)(const struct rows *rows, FILE *out), char *error, size_t size)
{
	char path[4096], draft[4104];
	FILE *out;
	int bad;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	snprintf(draft, sizeof(draft), "%s.new", path);
	out = fopen(draft, "we");
	bad = !out;
	if (out) {
		write(rows, out);
		bad = ferror(out) != 0;
		bad = fclose(out) || bad;
	}
	if (!bad && rename(draft, path) == 0)
		return 0;
	snprintf(error, size, "Cannot write %.300s: %s.", path, strerror(errno));
	remove(draft);
	return -1;
}

static void write_json(const struct rows *rows, FILE *out)
{
	json_t *list = rows_json(rows);

	if (list && json_dumpf(list, out, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0)
		fputc('\n', out);
	json_decref(list);
}

int report_write(const struct rows *rows, const char *folder, char *error, size_t size)
{
	if (mkdir(folder, 0777) && errno != EEXIST) {
		snprintf(error, size, "Cannot make the folder %.300s: %s.", folder, strerror(errno));
		return -1;
	}
	if (write_file(rows, folder, "demo.json", write_json, error, size) || rows->count == 0)
		return rows->count == 0 ? 0 : -1;
	if (write_file(rows, folder, "report.svg", plot_write, error, size))
		return -1;
	return write_file(rows, folder, "report.html", write_html, error, size);
}
