/* tests/daemon/test_metrics_text.c: what a scraper reads. */
#include "daemon/metrics_text.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const kinds[] = {
#define KIND(name, kind, labels, help) #kind,
	METRIC_TABLE(KIND)
#undef KIND
};
static const char *const labels_of[] = {
#define LABELS(name, kind, labels, help) labels,
	METRIC_TABLE(LABELS)
#undef LABELS
};

static const char *const helps[] = {
#define HELP(name, kind, labels, help) help,
	METRIC_TABLE(HELP)
#undef HELP
};

/* The head of the metric stands right before its samples, and nowhere else. */
static void assert_samples(const char *page, enum metric metric, const char *kind,
			   const char *samples)
{
	char wanted[1000], head[200];
	const char *found;

	snprintf(head, sizeof(head), "# HELP %s ", metric_name(metric));
	snprintf(wanted, sizeof(wanted), "%s%s\n# TYPE %s %s\n%s", head, helps[metric],
		 metric_name(metric), kind, samples);
	found = strstr(page, wanted);
	if (found == NULL)
		fail_msg("not in the page: %s\nthe page: %s", wanted, page);
	assert_null(strstr(found + 1, head));
}

static void heads_come_once_and_labels_are_escaped(void **unused)
{
	struct text text;
	struct metrics_page page;

	(void)unused;
	text_init(&text, 10000);
	metrics_begin(&page, &text, METRICS_PROMETHEUS);
	metrics_value(&page, METRIC_evictions_total, METRIC_LABELS("cpu"), 12);
	metrics_value(&page, METRIC_evictions_total, METRIC_LABELS("a\"\\\nb"), UINT64_MAX);
	metrics_value(&page, METRIC_ready, METRIC_NO_LABELS, 4);
	metrics_value(&page, METRIC_slots, METRIC_LABELS("t", "cpu", "free"), 0);
	metrics_real(&page, METRIC_engines, METRIC_NO_LABELS, 0.25);
	assert_samples(text.bytes, METRIC_evictions_total, "counter",
		       "kvtier_evictions_total{tier=\"cpu\"} 12\n"
		       "kvtier_evictions_total{tier=\"a\\\"\\\\\\nb\"} 18446744073709551615\n");
	assert_samples(text.bytes, METRIC_ready, "gauge", "kvtier_ready 4\n");
	assert_samples(text.bytes, METRIC_slots, "gauge",
		       "kvtier_slots{tenant=\"t\",tier=\"cpu\",state=\"free\"} 0\n");
	assert_samples(text.bytes, METRIC_engines, "gauge", "kvtier_engines 0.25\n");
	text_finish(&text);
}

static void histograms_are_cumulative_and_in_seconds(void **unused)
{
	static struct histogram histogram;
	struct text text;
	struct metrics_page page;

	(void)unused;
	histogram_init(&histogram);
	histogram_add(&histogram, 20);
	histogram_add(&histogram, 2000000);
	histogram_add(&histogram, 60000000);
	text_init(&text, 10000);
	metrics_begin(&page, &text, METRICS_PROMETHEUS);
	metrics_histogram(&page, METRIC_call_seconds, METRIC_LABELS("lookup"), &histogram);
	assert_non_null(
		strstr(text.bytes, "kvtier_call_seconds_bucket{call=\"lookup\",le=\"1e-05\"} 0\n"));
	assert_non_null(strstr(text.bytes,
			       "kvtier_call_seconds_bucket{call=\"lookup\",le=\"2.5e-05\"} 1\n"));
	assert_non_null(
		strstr(text.bytes, "kvtier_call_seconds_bucket{call=\"lookup\",le=\"10\"} 2\n"));
	assert_non_null(
		strstr(text.bytes, "kvtier_call_seconds_bucket{call=\"lookup\",le=\"+Inf\"} 3\n"));
	assert_non_null(strstr(text.bytes, "kvtier_call_seconds_sum{call=\"lookup\"} 62.00002\n"));
	assert_non_null(strstr(text.bytes, "kvtier_call_seconds_count{call=\"lookup\"} 3\n"));
	text_finish(&text);
}

/* Prometheus' naming rules: base units last, counters end in _total, nothing else does. */
static void names_follow_the_rules(void **unused)
{
	(void)unused;
	for (unsigned i = 0; i < METRICS; i++) {
		const char *name = metric_name(i);
		size_t bytes = strlen(name);
		bool is_total = bytes > 6 && strcmp(name + bytes - 6, "_total") == 0;
		unsigned labels_count = labels_of[i][0] != '\0';

		assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz_"), bytes);
		assert_int_equal(is_total, strcmp(kinds[i], "COUNTER") == 0);
		if (strcmp(kinds[i], "HISTOGRAM") == 0)
			assert_string_equal(name + bytes - 8, "_seconds");
		for (const char *letter = labels_of[i]; *letter != '\0'; letter++)
			labels_count += *letter == ',';
		assert_true(labels_count <= METRIC_LABELS_MAX);
		for (unsigned other = 0; other < i; other++)
			assert_string_not_equal(name, metric_name(other));
	}
}

static void every_metric_is_described(void **unused)
{
	char *printed;
	size_t printed_bytes;
	FILE *file = open_memstream(&printed, &printed_bytes);

	(void)unused;
	metrics_describe(file);
	fclose(file);
	for (unsigned i = 0; i < METRICS; i++)
		assert_non_null(strstr(printed, metric_name(i)));
	free(printed);
}

static void openmetrics_names_families_and_units_and_has_an_end(void **unused)
{
	static struct histogram histogram;
	struct text text;
	struct metrics_page page;

	(void)unused;
	histogram_init(&histogram);
	histogram_add(&histogram, 20);
	text_init(&text, 10000);
	metrics_begin(&page, &text, METRICS_OPENMETRICS);
	metrics_value(&page, METRIC_build_info, METRIC_LABELS("1", "io", "crc", "copy"), 1);
	metrics_value(&page, METRIC_stored_bytes_total, METRIC_NO_LABELS, 5);
	metrics_value(&page, METRIC_uptime_seconds, METRIC_NO_LABELS, 6);
	metrics_histogram(&page, METRIC_call_seconds, METRIC_LABELS("LOOKUP"), &histogram);
	metrics_end(&page);
	assert_non_null(strstr(text.bytes, "# TYPE kvtier_build info\nkvtier_build_info{"));
	assert_non_null(strstr(text.bytes, "# TYPE kvtier_stored_bytes counter\n"
					   "# UNIT kvtier_stored_bytes bytes\n"
					   "kvtier_stored_bytes_total 5\n"));
	assert_non_null(strstr(text.bytes, "# UNIT kvtier_uptime_seconds seconds\n"));
	assert_non_null(strstr(text.bytes, "le=\"1.0\"} 1\n"));
	assert_non_null(strstr(text.bytes, "le=\"1e-05\"} 0\n"));
	assert_string_equal(text.bytes + text.length - 6, "# EOF\n");
	text_finish(&text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(heads_come_once_and_labels_are_escaped),
		cmocka_unit_test(openmetrics_names_families_and_units_and_has_an_end),
		cmocka_unit_test(histograms_are_cumulative_and_in_seconds),
		cmocka_unit_test(names_follow_the_rules),
		cmocka_unit_test(every_metric_is_described),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
