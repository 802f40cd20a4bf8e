/*
 * base/histogram.h: a log-linear histogram of u64 values (32 sub-buckets an octave: error at most
 * 1/32), as HdrHistogram does it. Mergeable.
 * Runs on: one thread at a time.
 */
#ifndef KVTIER_BASE_HISTOGRAM_H
#define KVTIER_BASE_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BUCKETS (32 * 60)

struct histogram {
	uint64_t counts[HISTOGRAM_BUCKETS];
	uint64_t count;
	uint64_t sum;
	uint64_t min;   /* UINT64_MAX while empty */
	uint64_t max;
};

void histogram_init(struct histogram *histogram);
void histogram_add(struct histogram *histogram, uint64_t value);
void histogram_merge(struct histogram *target, const struct histogram *source);
/* The value at `share` (0..1) of the order; 0 when empty; never above max. */
uint64_t histogram_quantile(const struct histogram *histogram, double share);
/* How many values are <= `value` (to a bucket's width): for Prometheus buckets. */
uint64_t histogram_count_to(const struct histogram *histogram, uint64_t value);

#endif
