/*
 * daemon/metrics_text.h: writes a page of metrics in Prometheus' text format 0.0.4, or as
 * OpenMetrics 1.0, which names a counter without its _total, says units and ends with # EOF.
 *
 *   struct metrics_page page;
 *   metrics_begin(&page, &text, METRICS_PROMETHEUS);
 *   metrics_value(&page, METRIC_hit_tokens_total, METRIC_LABELS("cpu"), 12);
 *   metrics_value(&page, METRIC_hit_tokens_total, METRIC_LABELS("nvme"), 3);
 *   metrics_value(&page, METRIC_leases, METRIC_NO_LABELS, 4);
 *   metrics_end(&page);
 *
 * HELP and TYPE come by themselves. All samples of a metric stand together: one that was left is
 * not come back to. Runs on: one thread at a time.
 */
#ifndef KVTIER_DAEMON_METRICS_TEXT_H
#define KVTIER_DAEMON_METRICS_TEXT_H

#include "base/histogram.h"
#include "base/text.h"
#include "daemon/metrics_table.h"

#include <stdint.h>
#include <stdio.h>

#define METRIC_LABELS_MAX 4

enum metrics_format { METRICS_PROMETHEUS, METRICS_OPENMETRICS };

enum metric {
#define METRIC_ENUM(name, kind, labels, help) METRIC_##name,
	METRIC_TABLE(METRIC_ENUM)
#undef METRIC_ENUM
		METRICS
};

/* Values of the labels, in the order of the table's names. */
#define METRIC_LABELS(...) ((const char *const[]){ __VA_ARGS__, NULL })
#define METRIC_NO_LABELS ((const char *const[]){ NULL })

struct metrics_page {
	struct text *text; /* borrowed */
	enum metrics_format format;
	int current;       /* -1 at first */
	bool was_begun[METRICS];
};

void metrics_begin(struct metrics_page *page, struct text *text, enum metrics_format format);
void metrics_end(struct metrics_page *page);
/* For Content-Type. */
const char *metrics_content_type(enum metrics_format format);
void metrics_value(struct metrics_page *page, enum metric metric, const char *const *labels,
		   uint64_t value);
/* For gauges that are not whole. */
void metrics_real(struct metrics_page *page, enum metric metric, const char *const *labels,
		  double value);
/* A histogram of microseconds. */
void metrics_histogram(struct metrics_page *page, enum metric metric, const char *const *labels,
		       const struct histogram *histogram);

const char *metric_name(enum metric metric);
/* docs/METRICS.md. */
void metrics_describe(FILE *file);

#endif
