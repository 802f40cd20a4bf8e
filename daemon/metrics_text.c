/* daemon/metrics_text.c: Prometheus' text format and OpenMetrics, from the table. */
#include "daemon/metrics_text.h"

#include <assert.h>
#include <string.h>

enum metric_kind {
	METRIC_KIND_COUNTER,
	METRIC_KIND_GAUGE,
	METRIC_KIND_HISTOGRAM,
	METRIC_KIND_INFO,
	METRIC_KINDS
};

struct metric_row {
	const char *name;
	enum metric_kind kind;
	const char *labels;
	const char *help;
};

static const struct metric_row rows[METRICS] = {
#define METRIC_ROW(name, kind, labels, help) { "kvtier_" #name, METRIC_KIND_##kind, labels, help },
	METRIC_TABLE(METRIC_ROW)
#undef METRIC_ROW
};

/* Prometheus' format has no infos. */
static const char *const kind_names[2][METRIC_KINDS] = {
	[METRICS_PROMETHEUS] = { "counter", "gauge", "histogram", "gauge" },
	[METRICS_OPENMETRICS] = { "counter", "gauge", "histogram", "info" },
};
/* A name ends with its unit, before what its kind adds. */
static const char *const units[] = { "seconds", "bytes" };

/* Upper bounds of buckets: from a memory copy to a stall. */
static const uint64_t bucket_bounds_us[] = { 10,      25,      50,      100,     250,
					     500,     1000,    2500,    5000,    10000,
					     25000,   50000,   100000,  250000,  500000,
					     1000000, 2500000, 5000000, 10000000 };
#define BUCKETS (sizeof(bucket_bounds_us) / sizeof(bucket_bounds_us[0]))

const char *metric_name(enum metric metric)
{
	assert(metric < METRICS);
	return rows[metric].name;
}

const char *metrics_content_type(enum metrics_format format)
{
	return format == METRICS_OPENMETRICS
		       ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
		       : "text/plain; version=0.0.4; charset=utf-8";
}

void metrics_begin(struct metrics_page *page, struct text *text, enum metrics_format format)
{
	memset(page, 0, sizeof(*page));
	page->text = text;
	page->format = format;
	page->current = -1;
}

void metrics_end(struct metrics_page *page)
{
	if (page->format == METRICS_OPENMETRICS)
		text_add(page->text, "# EOF\n");
}

static bool ends_with(const char *name, size_t bytes, const char *ending)
{
	return bytes > strlen(ending) &&
	       memcmp(name + bytes - strlen(ending), ending, strlen(ending)) == 0;
}

/* How much of the name is the family's: OpenMetrics leaves out what the kind adds. */
static size_t family_bytes(const struct metric_row *row, enum metrics_format format)
{
	static const char *const endings[METRIC_KINDS] = {
		[METRIC_KIND_COUNTER] = "_total",
		[METRIC_KIND_INFO] = "_info",
	};
	const char *ending = endings[row->kind];
	size_t bytes = strlen(row->name);

	if (format == METRICS_PROMETHEUS || ending == NULL)
		return bytes;
	assert(ends_with(row->name, bytes, ending));
	return bytes - strlen(ending);
}

/* HELP, TYPE and UNIT before a metric's first sample. */
static void metric_enter(struct metrics_page *page, enum metric metric)
{
	const struct metric_row *row = &rows[metric];
	size_t bytes;

	assert(metric < METRICS);
	if (page->current == (int)metric)
		return;
	assert(!page->was_begun[metric]);
	page->was_begun[metric] = true;
	page->current = (int)metric;
	bytes = family_bytes(row, page->format);
	text_printf(page->text, "# HELP %.*s %s\n# TYPE %.*s %s\n", (int)bytes, row->name, row->help,
		    (int)bytes, row->name, kind_names[page->format][row->kind]);
	if (page->format != METRICS_OPENMETRICS)
		return;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (ends_with(row->name, bytes, units[i]))
			text_printf(page->text, "# UNIT %.*s %s\n", (int)bytes, row->name,
				    units[i]);
}

static void add_escaped(struct text *text, const char *value)
{
	for (; *value != '\0'; value++) {
		if (*value == '\\')
			text_add(text, "\\\\");
		else if (*value == '"')
			text_add(text, "\\\"");
		else if (*value == '\n')
			text_add(text, "\\n");
		else
			text_append(text, value, 1);
	}
}

/* {tier="cpu",le="0.5"}; `bound` is NULL but for buckets. */
static void add_labels(struct text *text, enum metric metric, const char *const *values,
		       const char *bound)
{
	const char *name = rows[metric].labels;
	const char *separator = "{";
	unsigned count = 0;

	for (; *name != '\0'; count++) {
		size_t name_bytes = strcspn(name, ",");

		assert(count < METRIC_LABELS_MAX && values[count] != NULL);
		text_printf(text, "%s%.*s=\"", separator, (int)name_bytes, name);
		add_escaped(text, values[count]);
		text_add(text, "\"");
		separator = ",";
		name += name_bytes + (name[name_bytes] == ',');
	}
	assert(values[count] == NULL); /* one value a name */
	if (bound != NULL) {
		text_printf(text, "%sle=\"%s\"", separator, bound);
		separator = ",";
	}
	if (*separator == ',')
		text_add(text, "}");
}

void metrics_value(struct metrics_page *page, enum metric metric, const char *const *labels,
		   uint64_t value)
{
	assert(rows[metric].kind != METRIC_KIND_HISTOGRAM);
	metric_enter(page, metric);
	text_add(page->text, rows[metric].name);
	add_labels(page->text, metric, labels, NULL);
	text_printf(page->text, " %llu\n", (unsigned long long)value);
}

void metrics_real(struct metrics_page *page, enum metric metric, const char *const *labels,
		  double value)
{
	assert(rows[metric].kind == METRIC_KIND_GAUGE);
	metric_enter(page, metric);
	text_add(page->text, rows[metric].name);
	add_labels(page->text, metric, labels, NULL);
	text_printf(page->text, " %.9g\n", value);
}

void metrics_histogram(struct metrics_page *page, enum metric metric, const char *const *labels,
		       const struct histogram *histogram)
{
	const char *name = rows[metric].name;
	char bound[32];

	assert(rows[metric].kind == METRIC_KIND_HISTOGRAM);
	metric_enter(page, metric);
	for (unsigned i = 0; i <= BUCKETS; i++) {
		uint64_t count = histogram->count;

		if (i < BUCKETS) {
			count = histogram_count_to(histogram, bucket_bounds_us[i]);
			snprintf(bound, sizeof(bound), "%g", (double)bucket_bounds_us[i] / 1e6);
			if (page->format == METRICS_OPENMETRICS && strpbrk(bound, ".e") == NULL)
				strcat(bound, ".0"); /* there bounds are floats */
		} else {
			snprintf(bound, sizeof(bound), "+Inf");
		}
		text_printf(page->text, "%s_bucket", name);
		add_labels(page->text, metric, labels, bound);
		text_printf(page->text, " %llu\n", (unsigned long long)count);
	}
	text_printf(page->text, "%s_sum", name);
	add_labels(page->text, metric, labels, NULL);
	text_printf(page->text, " %.9g\n%s_count", (double)histogram->sum / 1e6, name);
	add_labels(page->text, metric, labels, NULL);
	text_printf(page->text, " %llu\n", (unsigned long long)histogram->count);
}

void metrics_describe(FILE *file)
{
	fputs("# Metrics\n\nMade by `make docs`; do not edit. Served at `/metrics`, as OpenMetrics 1.0 or\n"
	      "Prometheus' text format, whichever the client would rather have.\n"
	      "Labels are bounded: tenants, tiers, devices and words of a table, never keys or engines.\n\n"
	      "| name | kind | labels | meaning |\n| --- | --- | --- | --- |\n",
	      file);
	for (unsigned i = 0; i < METRICS; i++)
		fprintf(file, "| `%s` | %s | %s | %s |\n", rows[i].name, kind_names[METRICS_OPENMETRICS][rows[i].kind],
			rows[i].labels, rows[i].help);
}
