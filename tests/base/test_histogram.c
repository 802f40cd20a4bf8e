/* tests/base/test_histogram.c: quantiles of known values, within the promised error. */
#include "base/histogram.h"
#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VALUES_COUNT 20000

static int order(const void *a, const void *b)
{
	uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;

	return first < second ? -1 : first > second;
}

static void an_empty_one_answers_zero(void **unused)
{
	struct histogram histogram;

	(void)unused;
	histogram_init(&histogram);
	assert_int_equal(histogram_quantile(&histogram, 0), 0);
	assert_int_equal(histogram_quantile(&histogram, 0.99), 0);
	assert_int_equal(histogram_count_to(&histogram, UINT64_MAX), 0);
}

static void small_values_are_exact(void **unused)
{
	struct histogram histogram;

	(void)unused;
	histogram_init(&histogram);
	for (uint64_t value = 0; value < 32; value++)
		histogram_add(&histogram, value);
	assert_int_equal(histogram_quantile(&histogram, 0), 0);
	assert_int_equal(histogram_quantile(&histogram, 0.5), 15);
	assert_int_equal(histogram_quantile(&histogram, 1), 31);
	assert_int_equal(histogram_count_to(&histogram, 9), 10);
	assert_int_equal(histogram.sum, 496);
	assert_int_equal(histogram.min, 0);
	assert_int_equal(histogram.max, 31);
}

static void the_ends_of_the_range_have_a_bucket(void **unused)
{
	struct histogram histogram;

	(void)unused;
	histogram_init(&histogram);
	histogram_add(&histogram, 0);
	histogram_add(&histogram, UINT64_MAX);
	histogram_add(&histogram, UINT64_MAX);
	assert_int_equal(histogram_quantile(&histogram, 0.01), 0);
	assert_true(histogram_quantile(&histogram, 1) == UINT64_MAX);
	assert_true(histogram.sum == UINT64_MAX);   /* it stops instead of wrapping */
	assert_int_equal(histogram_count_to(&histogram, UINT64_MAX), 3);
	assert_int_equal(histogram_count_to(&histogram, UINT64_MAX / 2), 1);
}

static void one_value_is_every_quantile(void **unused)
{
	(void)unused;
	for (unsigned bit = 0; bit < 64; bit++) {
		struct histogram histogram;
		uint64_t value = ((uint64_t)1 << bit) + 12345 % ((uint64_t)1 << bit);

		histogram_init(&histogram);
		histogram_add(&histogram, value);
		assert_true(histogram_quantile(&histogram, 0) == value);
		assert_true(histogram_quantile(&histogram, 0.5) == value);
		assert_true(histogram_quantile(&histogram, 1) == value);
		assert_int_equal(histogram_count_to(&histogram, value), 1);
		assert_int_equal(histogram_count_to(&histogram, value - value / 16 - 1), 0);
	}
}

static void a_share_that_is_no_binary_fraction_stays_at_its_value(void **unused)
{
	(void)unused;
	for (unsigned count = 1; count <= 1000; count++) {
		struct histogram histogram;

		/* `rank` small values, then large ones: the small ones' share gives a small one. */
		for (unsigned rank = 1; rank <= count; rank += count / 10 + 1) {
			histogram_init(&histogram);
			for (unsigned i = 0; i < count; i++)
				histogram_add(&histogram, i < rank ? 1 : 1000);
			assert_int_equal(histogram_quantile(&histogram, (double)rank / count), 1);
		}
	}
}

static void quantiles_are_right_to_a_thirty_second(void **unused)
{
	static uint64_t values[VALUES_COUNT];
	struct histogram histogram;
	struct random random;

	(void)unused;
	random_init(&random, 1);
	histogram_init(&histogram);
	for (unsigned i = 0; i < VALUES_COUNT; i++) {
		unsigned shift = (unsigned)random_below(&random, 60);

		values[i] = random_next(&random) >> shift;
		histogram_add(&histogram, values[i]);
	}
	qsort(values, VALUES_COUNT, sizeof(values[0]), order);
	for (unsigned i = 1; i <= 1000; i++) {
		uint64_t truth = values[i * VALUES_COUNT / 1000 - 1];
		uint64_t answer = histogram_quantile(&histogram, i / 1000.0);

		assert_true(answer <= histogram.max);
		assert_true(answer >= truth - truth / 32 && answer - truth <= truth / 32 + 1);
		assert_true(histogram_count_to(&histogram, answer) >= i * VALUES_COUNT / 1000);
	}
}

static void merged_ones_equal_one_of_all(void **unused)
{
	struct histogram one, other, all;
	struct random random;

	(void)unused;
	random_init(&random, 2);
	histogram_init(&one);
	histogram_init(&other);
	histogram_init(&all);
	for (unsigned i = 0; i < 5000; i++) {
		uint64_t value = random_below(&random, 1u << 30);

		histogram_add(i % 3 == 0 ? &one : &other, value);
		histogram_add(&all, value);
	}
	histogram_merge(&one, &other);
	assert_memory_equal(&one, &all, sizeof(all));
	histogram_init(&other);
	histogram_merge(&one, &other);   /* an empty one changes nothing */
	assert_memory_equal(&one, &all, sizeof(all));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_one_answers_zero),
		cmocka_unit_test(small_values_are_exact),
		cmocka_unit_test(the_ends_of_the_range_have_a_bucket),
		cmocka_unit_test(one_value_is_every_quantile),
		cmocka_unit_test(a_share_that_is_no_binary_fraction_stays_at_its_value),
		cmocka_unit_test(quantiles_are_right_to_a_thirty_second),
		cmocka_unit_test(merged_ones_equal_one_of_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
