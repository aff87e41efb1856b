/* SPDX-License-Identifier: MIT */
#include "plot.h"

#include <math.h>
#include <string.h>

#define COLUMN_FIRST 92.0
#define COLUMN_STEP 600.0
#define PANEL_WIDTH 372.0
#define LABEL_WIDTH 142.0
#define LABEL_HEIGHT 17.0
#define TOP_Y 132.0
#define TOP_HEIGHT 196.0
#define ZOOM_Y 396.0
#define ZOOM_HEIGHT 132.0
#define HEIGHT 604.0

struct panel {
	double x, y, width, height;   /* on the paper */
	double seconds, low, high;    /* in ns */
	double unit_ns;
	const char *unit;
};

/* A column each, where somebody ran it. */
static const struct {
	const char *name, *title;
} scenarios[] = {
	{ "linux-pause", "a stock Debian guest on QEMU: stop, cont" },
	{ "pause-resume", "pause and resume" },
	{ "live-update", "live update: a new VMM takes over" },
};
#define SCENARIOS (sizeof(scenarios) / sizeof(scenarios[0]))
/* Drawn in this order, so that the flattest line is on top. */
static const char *const clocks[] = { "stock", "steer", "own" };

/* A row with something to draw. */
static const struct row *find_row(const struct rows *rows, const char *scenario, const char *clock)
{
	const struct row *row = rows_find(rows, scenario, clock);

	return row && row->bucket_count ? row : NULL;
}

static bool drawn(const struct rows *rows, const char *scenario)
{
	for (size_t i = 0; i < 3; i++)
		if (find_row(rows, scenario, clocks[i]))
			return true;
	return false;
}

static const char style[] =
	"<style>\n"
	".pv-bg{fill:#ffffff}.pv-panel{fill:#f6f7f9}.pv-grid{stroke:#dde1e7;stroke-width:1}\n"
	".pv-zero{stroke:#8a93a0;stroke-width:1}.pv-text{fill:#4a5361;font:12px system-ui,sans-serif}\n"
	".pv-title{fill:#1b222c;font:600 19px system-ui,sans-serif}.pv-head{fill:#1b222c;font:600 14px system-ui,sans-serif}\n"
	".pv-label{font:600 13px system-ui,sans-serif}.pv-mid{text-anchor:middle}.pv-end{text-anchor:end}\n"
	".pv-mark{fill-opacity:.7}.pv-frame{fill:none;stroke:#c3c9d2}\n"
	".pv-stock{fill:#c2410c;stroke:#c2410c}.pv-steer{fill:#1d6fd1;stroke:#1d6fd1}.pv-own{fill:#0b8a5f;stroke:#0b8a5f}\n"
	".pv-line{stroke-width:2;stroke-linejoin:round}.pv-band{stroke-width:1.2;fill-opacity:.28;stroke-linejoin:round}\n"
	".pv-flat{stroke:none!important}\n"
	"@media (prefers-color-scheme:dark){.pv-bg{fill:#12161c}.pv-panel{fill:#1a2029}.pv-grid{stroke:#2b333f}\n"
	".pv-zero{stroke:#77818f}.pv-text{fill:#aeb7c4}.pv-title,.pv-head{fill:#f0f3f7}\n"
	".pv-frame{stroke:#3a4452}.pv-stock{fill:#ff8a50;stroke:#ff8a50}.pv-steer{fill:#6cb2ff;stroke:#6cb2ff}\n"
	".pv-own{fill:#3ddc9f;stroke:#3ddc9f}}\n"
	"</style>\n";

static double x_of(const struct panel *panel, double seconds)
{
	return panel->x + panel->width * fmin(fmax(seconds / panel->seconds, 0), 1);
}

static double y_of(const struct panel *panel, double ns)
{
	return panel->y + panel->height * (panel->high - ns) / (panel->high - panel->low);
}

/* 1, 2 or 5 times a power of ten: about `wanted` steps. */
static double nice_step(double range, double wanted)
{
	double raw = range / wanted, power = pow(10, floor(log10(raw))), digit = raw / power;

	return power * (digit < 1.5 ? 1 : digit < 3.5 ? 2 : digit < 7.5 ? 5 : 10);
}

/* A proper minus sign; nothing is ever "-0". */
static void write_number(FILE *out, double value)
{
	if (fabs(value) < 1e-9)
		fprintf(out, "0");
	else
		fprintf(out, "%s%.6g", value < 0 ? "\xe2\x88\x92" : "+", fabs(value));
}

static void write_ns(FILE *out, int64_t ns)
{
	char text[ROWS_TEXT], *at = text;

	rows_format_ns(ns, text);
	if (*at == '-') {
		fputs("\xe2\x88\x92", out);
		at++;
	}
	for (; *at; at++)
		if (at[0] == 'u' && at[1] == 's')
			fputs("\xc2\xb5", out);
		else
			fputc(*at, out);
}

static void write_axes(FILE *out, const struct panel *panel, bool time_labels)
{
	double step = nice_step(panel->high - panel->low, panel->height / 42);
	double step_s = nice_step(panel->seconds, 5);

	fprintf(out, "<rect class=\"pv-panel\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", panel->x, panel->y,
		panel->width, panel->height);
	for (double ns = ceil(panel->low / step) * step; ns <= panel->high + step / 1000; ns += step) {
		double y = y_of(panel, ns);

		fprintf(out, "<line class=\"%s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>",
			fabs(ns) < step / 2 ? "pv-zero" : "pv-grid", panel->x, panel->x + panel->width, y, y);
		fprintf(out, "<text class=\"pv-text pv-end\" x=\"%.1f\" y=\"%.1f\">", panel->x - 8, y + 4);
		write_number(out, fabs(ns) < step / 2 ? 0 : ns / panel->unit_ns);
		fprintf(out, "</text>\n");
	}
	for (double s = 0; s <= panel->seconds * 1.0001; s += step_s) {
		double x = x_of(panel, s);

		fprintf(out, "<line class=\"pv-zero\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", x, x,
			panel->y + panel->height, panel->y + panel->height + 5);
		if (time_labels)
			fprintf(out, "<text class=\"pv-text pv-mid\" x=\"%.1f\" y=\"%.1f\">%g</text>\n", x,
				panel->y + panel->height + 19, s);
	}
	if (time_labels)
		fprintf(out, "<text class=\"pv-text pv-mid\" x=\"%.1f\" y=\"%.1f\">seconds of guest time</text>\n",
			panel->x + panel->width / 2, panel->y + panel->height + 38);
	fprintf(out, "<text class=\"pv-text pv-mid\" transform=\"translate(%.1f %.1f) rotate(-90)\">guest \xe2\x88\x92 ideal, %s</text>\n",
		panel->x - 58, panel->y + panel->height / 2, panel->unit);
}

/* As far outside of its panel as a line may be drawn: it is clipped anyway, and renderers overflow far out. */
static double clamped_y(const struct panel *panel, int64_t ns)
{
	return fmin(fmax(y_of(panel, (double)ns), panel->y - 40), panel->y + panel->height + 40);
}

/* One edge of the area, there or back; a run of equal buckets is one stroke. */
static void write_edge(FILE *out, const struct panel *panel, const struct row *row, bool upper)
{
	const char *command = upper ? "M" : "L";
	size_t count = row->bucket_count;

	for (size_t n = 0; n < count;) {
		size_t first = n, i = upper ? n : count - 1 - n;
		int64_t ns = upper ? row->buckets[i].max_ns : row->buckets[i].min_ns;

		if (row->buckets[i].readings == 0) {
			n++;
			continue;
		}
		for (; n < count; n++) {
			const struct judge_bucket *bucket = &row->buckets[upper ? n : count - 1 - n];

			if (bucket->readings && (upper ? bucket->max_ns : bucket->min_ns) != ns)
				break; /* one without readings (a blackout) goes with those before it */
		}
		double from = (double)(upper ? first : count - first), to = (double)(upper ? n : count - n);

		fprintf(out, "%s%.1f %.1fH%.1f", command, x_of(panel, from * (double)JUDGE_BUCKET_NS / 1e9),
			clamped_y(panel, ns), x_of(panel, to * (double)JUDGE_BUCKET_NS / 1e9));
		command = "L";
	}
}

/* The range of the readings as an area: flat where the clock kept its line, thick where it wobbled, upright where it jumped. */
static void write_series(FILE *out, const struct panel *panel, const struct row *row, const char *clip)
{
	bool band = false;

	for (size_t i = 0; i < row->bucket_count; i++)
		band = band || row->buckets[i].max_ns != row->buckets[i].min_ns;
	fprintf(out, "<path class=\"pv-%s %s\" clip-path=\"url(#%s)\" d=\"", row->who,
		band && panel->unit_ns == 1 ? "pv-band" : "pv-line", clip);
	write_edge(out, panel, row, true);
	write_edge(out, panel, row, false);
	fprintf(out, "Z\"/>\n");
}

/* The events of one row as triangles under the panel's upper edge. */
static void write_marks(FILE *out, const struct panel *panel, const struct row *row)
{
	for (size_t i = 0; row && i < row->mark_count; i++) {
		double x = x_of(panel, row->marks[i].seconds);

		if (row->marks[i].announced)
			fprintf(out, "<path class=\"pv-mark pv-flat pv-%s\" d=\"M%.1f %.1fh7l-3.5 6z\"/>", row->who, x - 3.5, panel->y - 8);
	}
	fputc('\n', out);
}

struct label {
	const struct row *row;
	double y;
	const char *instead; /* of the total: the line is not in this panel any more */
};

/* Names at the right edge, at their lines' heights as far as there is room. */
static void write_labels(FILE *out, const struct panel *panel, const struct row *const *rows)
{
	double lowest = panel->y + panel->height;
	struct label labels[3];
	size_t count = 0;

	for (size_t i = 3; i-- > 0;) {
		struct label label = { .row = rows[i] };
		double value;
		size_t at = count;

		if (!rows[i])
			continue;
		value = (double)rows[i]->jump_ns_total;
		label.instead = value < panel->low ? "far below" : value > panel->high ? "far above" : NULL;
		label.y = y_of(panel, fmin(fmax(value, panel->low), panel->high)) + 4;
		for (; at > 0 && labels[at - 1].y > label.y; at--)
			labels[at] = labels[at - 1];
		labels[at] = label;
		count++;
	}
	for (size_t i = 1; i < count; i++)
		labels[i].y = fmax(labels[i].y, labels[i - 1].y + LABEL_HEIGHT);
	for (size_t i = count; i-- > 0; lowest = labels[i].y - LABEL_HEIGHT)
		labels[i].y = fmin(labels[i].y, lowest);
	for (size_t i = 0; i < count; i++) {
		fprintf(out, "<text class=\"pv-label pv-flat pv-%s\" x=\"%.1f\" y=\"%.1f\">%s", labels[i].row->who,
			panel->x + panel->width + 8, labels[i].y, labels[i].row->who);
		fputs(labels[i].instead ? ": " : " ", out);
		if (labels[i].instead)
			fputs(labels[i].instead, out);
		else
			write_ns(out, labels[i].row->jump_ns_total);
		fprintf(out, "</text>\n");
	}
}

static void set_unit(struct panel *panel)
{
	double extreme = fmax(fabs(panel->low), fabs(panel->high));

	panel->unit_ns = extreme >= 3e9 ? 1e9 : extreme >= 3e6 ? 1e6 : extreme >= 3e3 ? 1e3 : 1;
	panel->unit = extreme >= 3e9 ? "s" : extreme >= 3e6 ? "ms" : extreme >= 3e3 ? "\xc2\xb5s" : "ns";
}

static void extremes(const struct row *row, double *low, double *high)
{
	for (size_t i = 0; row && i < row->bucket_count; i++)
		if (row->buckets[i].readings) {
			*low = fmin(*low, (double)row->buckets[i].min_ns);
			*high = fmax(*high, (double)row->buckets[i].max_ns);
		}
}

static void write_panel(FILE *out, struct panel *panel, const struct row *const *rows, const char *clip, bool zoom)
{
	/* Every guest has its events at times of its own: those of the one that this panel is about. */
	const struct row *marked = zoom && rows[1] ? rows[1] : rows[0] ? rows[0] : rows[1] ? rows[1] : rows[2];

	set_unit(panel);
	fprintf(out, "<clipPath id=\"%s\"><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/></clipPath>\n", clip,
		panel->x, panel->y - 1.5, panel->width, panel->height + 3);
	write_axes(out, panel, zoom);
	for (size_t i = 0; i < 3; i++)
		if (rows[i])
			write_series(out, panel, rows[i], clip);
	write_marks(out, panel, marked);
	fprintf(out, "<rect class=\"pv-frame\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", panel->x, panel->y,
		panel->width, panel->height);
	write_labels(out, panel, rows);
}

static void write_column(FILE *out, const struct rows *rows, const char *scenario, const char *title, double x, unsigned int column)
{
	const struct row *shown[3];
	struct panel top = { .x = x, .y = TOP_Y, .width = PANEL_WIDTH, .height = TOP_HEIGHT, .seconds = 1 };
	struct panel zoom = { .x = x, .y = ZOOM_Y, .width = PANEL_WIDTH, .height = ZOOM_HEIGHT, .low = -2.5, .high = 2.5 };
	unsigned int events = 0;
	double margin;
	char clip[16];

	for (size_t i = 0; i < 3; i++) {
		shown[i] = find_row(rows, scenario, clocks[i]);
		if (!shown[i])
			continue;
		events = shown[i]->events;
		top.seconds = fmax(top.seconds, (double)shown[i]->bucket_count * (double)JUDGE_BUCKET_NS / 1e9);
		extremes(shown[i], &top.low, &top.high);
		if (strcmp(clocks[i], "stock"))
			extremes(shown[i], &zoom.low, &zoom.high);
	}
	zoom.seconds = top.seconds;
	margin = zoom.high - zoom.low > 5 ? (zoom.high - zoom.low) * 0.1 : 0;
	zoom.low -= margin;
	zoom.high += margin;
	margin = fmax((top.high - top.low) * 0.07, 2);
	top.low -= margin;
	top.high += margin;
	fprintf(out, "<text class=\"pv-head\" x=\"%.1f\" y=\"%.1f\">%s, %u times</text>\n", x, TOP_Y - 34, title,
		events);
	fprintf(out, "<text class=\"pv-text\" x=\"%.1f\" y=\"%.1f\">everything</text>\n", x, TOP_Y - 15);
	fprintf(out, "<text class=\"pv-text\" x=\"%.1f\" y=\"%.1f\">the same, close up: single nanoseconds</text>\n", x,
		ZOOM_Y - 15);
	snprintf(clip, sizeof(clip), "pv-clip-%u", 2 * column);
	write_panel(out, &top, shown, clip, false);
	snprintf(clip, sizeof(clip), "pv-clip-%u", 2 * column + 1);
	write_panel(out, &zoom, shown, clip, true);
}

void plot_write(const struct rows *rows, FILE *out)
{
	unsigned int columns = 0, column = 0;
	double width;

	for (size_t i = 0; i < SCENARIOS; i++)
		columns += drawn(rows, scenarios[i].name);
	width = COLUMN_FIRST + (columns ? columns - 1 : 0) * COLUMN_STEP + PANEL_WIDTH + LABEL_WIDTH;
	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" "
		"aria-label=\"The guest's clock minus the ideal over time: stock KVM, steer mode and own mode\">\n",
		width, HEIGHT);
	fputs(style, out);
	fprintf(out, "<rect class=\"pv-bg\" width=\"%.0f\" height=\"%.0f\" rx=\"10\"/>\n", width, HEIGHT);
	fprintf(out, "<text class=\"pv-title\" x=\"%.1f\" y=\"36\">How far a guest's clock leaves its own line</text>\n",
		COLUMN_FIRST - 64);
	fprintf(out,
		"<text class=\"pv-text\" x=\"%.1f\" y=\"58\">"
		"<tspan class=\"pv-label pv-flat pv-stock\">stock KVM</tspan> as QEMU uses it, "
		"<tspan class=\"pv-label pv-flat pv-steer\">steer</tspan>%s"
		"<tspan class=\"pv-label pv-flat pv-own\">own</tspan>%s</text>\n",
		COLUMN_FIRST - 64, columns > 1 ? ": pvclock aims the kernel\xe2\x80\x99s clock, " : ", ",
		columns > 1 ? ": pvclock publishes the page. Each \xe2\x96\xbe is an event." : " (\xe2\x96\xbe an event)");
	for (size_t i = 0; i < SCENARIOS; i++)
		if (drawn(rows, scenarios[i].name)) {
			write_column(out, rows, scenarios[i].name, scenarios[i].title, COLUMN_FIRST + column * COLUMN_STEP, column);
			column++;
		}
	fprintf(out, "</svg>\n");
}
