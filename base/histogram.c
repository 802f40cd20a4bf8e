/* base/histogram.c: counts of values in buckets whose width is at most 1/32 of their values. */
#include "base/histogram.h"

#include <assert.h>
#include <string.h>

#define SUB_BITS 5
#define SUB_COUNT (1u << SUB_BITS)

static_assert(HISTOGRAM_BUCKETS == SUB_COUNT * (64 - SUB_BITS + 1), "every u64 has a bucket");

/* Values below SUB_COUNT have a bucket each; then each octave has SUB_COUNT of equal width. */
static unsigned bucket_of(uint64_t value)
{
	unsigned shift;

	if (value < SUB_COUNT)
		return (unsigned)value;
	shift = 63 - (unsigned)__builtin_clzll(value) - SUB_BITS;
	return (shift + 1) * SUB_COUNT + ((unsigned)(value >> shift) & (SUB_COUNT - 1));
}

/* The highest value of a bucket. */
static uint64_t bucket_last(unsigned bucket)
{
	unsigned shift;
	uint64_t first;

	if (bucket < SUB_COUNT)
		return bucket;
	shift = bucket / SUB_COUNT - 1;
	first = (uint64_t)(SUB_COUNT + bucket % SUB_COUNT) << shift;
	return first + (((uint64_t)1 << shift) - 1);
}

/* A sum that stops at the top is wrong, but still no less than the truth as far as u64 goes. */
static uint64_t sum_bounded(uint64_t a, uint64_t b)
{
	uint64_t sum;

	return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

void histogram_init(struct histogram *histogram)
{
	memset(histogram, 0, sizeof(*histogram));
	histogram->min = UINT64_MAX;
}

void histogram_add(struct histogram *histogram, uint64_t value)
{
	unsigned bucket = bucket_of(value);

	assert(bucket < HISTOGRAM_BUCKETS);
	assert(histogram->count > 0 ||
	       histogram->min == UINT64_MAX); /* histogram_init() was called */
	histogram->counts[bucket]++;
	histogram->count++;
	histogram->sum = sum_bounded(histogram->sum, value);
	if (value < histogram->min)
		histogram->min = value;
	if (value > histogram->max)
		histogram->max = value;
}

void histogram_merge(struct histogram *target, const struct histogram *source)
{
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		target->counts[i] += source->counts[i];
	target->count += source->count;
	target->sum = sum_bounded(target->sum, source->sum);
	if (source->min < target->min)
		target->min = source->min;
	if (source->max > target->max)
		target->max = source->max;
}

uint64_t histogram_quantile(const struct histogram *histogram, double share)
{
	/* 0.007 * 1000 is a little more than 7; that little must not ask for the eighth value. */
	double exact = share * (double)histogram->count * (1 - 1e-12);
	uint64_t seen = 0;
	unsigned bucket = 0;
	uint64_t value;

	assert(share >= 0 && share <= 1);
	if (histogram->count == 0)
		return 0;
	if (share == 0)
		return histogram->min;
	/* The first bucket by whose end at least `exact` values have come. */
	while (bucket < HISTOGRAM_BUCKETS - 1) {
		seen += histogram->counts[bucket];
		if (seen > 0 && (double)seen >= exact)
			break;
		bucket++;
	}
	value = bucket_last(bucket);
	if (value < histogram->min)
		return histogram->min;
	return value < histogram->max ? value : histogram->max;
}

uint64_t histogram_count_to(const struct histogram *histogram, uint64_t value)
{
	unsigned last = bucket_of(value);
	uint64_t count = 0;

	for (unsigned i = 0; i <= last; i++)
		count += histogram->counts[i];
	assert(count <= histogram->count);
	return count;
}
