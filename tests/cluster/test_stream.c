/* tests/cluster/test_stream.c: beside a plain list of which numbers came: each is given out once,
 * in order, and what is missing is known. */
#include "base/random.h"
#include "cluster/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define NUMBERS 300u

static struct stream *stream;

static void open_at(uint64_t next)
{
	struct error error;

	assert_int_equal(stream_create(&stream, &error), 0);
	stream_begin(stream, next);
}

static int put(uint64_t number)
{
	return stream_put(stream, number, &number, sizeof(number));
}

/* All that is in order; the number behind it. */
static uint64_t take_all(void)
{
	const void *message;
	size_t bytes;

	while ((message = stream_peek(stream, &bytes)) != NULL) {
		uint64_t number;

		assert_int_equal(bytes, sizeof(number));
		memcpy(&number, message, sizeof(number));
		assert_int_equal(number, stream_next(stream));
		stream_pass(stream);
	}
	return stream_next(stream);
}

static void each_is_given_out_once_in_order(void **unused)
{
	(void)unused;
	for (uint64_t seed = 1; seed <= 200; seed++) {
		bool has_come[NUMBERS] = { false };
		uint64_t next = 0, end = 0, first;
		struct random random;

		random_init(&random, seed);
		open_at(0);
		while (next < NUMBERS) {
			uint64_t number = random_next(&random) % NUMBERS;

			/* Mostly near what is next, as on a wire. */
			if (random_next(&random) % 4 != 0)
				number = next + number % 20;
			if (number >= NUMBERS)
				continue;
			assert_int_equal(put(number), has_come[number] ? -EALREADY : 0);
			has_come[number] = true;
			end = number >= end ? number + 1 : end;
			while (next < NUMBERS && has_come[next])
				next++;
			if (random_next(&random) % 3 == 0)
				assert_int_equal(take_all(), next);
			/* What came and was not given out is not missing. */
			assert_int_equal(stream_gap(stream, &first), end > next);
			assert_int_equal(first, next);
		}
		assert_int_equal(take_all(), NUMBERS);
		stream_destroy(stream);
	}
}

static void what_is_too_far_ahead_is_lost_and_known_to_be(void **unused)
{
	uint64_t first;

	(void)unused;
	open_at(10);
	assert_int_equal(put(9), -EALREADY);
	assert_int_equal(put(10 + STREAM_MESSAGES_MAX), -ENOSPC);
	assert_true(stream_gap(stream, &first));
	assert_int_equal(first, 10);
	assert_int_equal(put(10), 0);
	assert_int_equal(put(10), -EALREADY);
	assert_int_equal(take_all(), 11);
	assert_true(stream_gap(stream, &first));
	assert_int_equal(first, 11);
	/* Asked for again, it comes while there is room. */
	for (uint64_t number = 11; number <= 10 + STREAM_MESSAGES_MAX; number++)
		assert_int_equal(put(number), 0);
	assert_int_equal(take_all(), 11 + STREAM_MESSAGES_MAX);
	assert_false(stream_gap(stream, &first));
	stream_destroy(stream);
}

static void more_bytes_than_may_wait_are_lost_but_never_the_next(void **unused)
{
	size_t bytes = STREAM_BYTES_MAX / 2;
	void *large = calloc(1, bytes);
	uint64_t first;

	(void)unused;
	open_at(0);
	assert_int_equal(stream_put(stream, 1, large, bytes), 0);
	assert_int_equal(stream_put(stream, 2, large, bytes), 0);
	assert_int_equal(stream_put(stream, 3, large, 1), -ENOSPC);
	assert_int_equal(stream_put(stream, 0, large, bytes), 0);
	stream_pass(stream);
	stream_pass(stream);
	stream_pass(stream);
	assert_true(stream_gap(stream, &first));
	assert_int_equal(first, 3);
	/* Its room is free again. */
	assert_int_equal(stream_put(stream, 4, large, bytes), 0);
	assert_int_equal(stream_put(stream, 3, large, 0), 0);
	stream_destroy(stream);
	free(large);
}

static void what_is_not_wanted_any_more_is_passed_over(void **unused)
{
	uint64_t first;

	(void)unused;
	open_at(0);
	assert_int_equal(put(3), 0);
	assert_int_equal(put(7), 0);
	stream_skip(stream, 5);
	assert_int_equal(stream_next(stream), 5);
	assert_true(stream_gap(stream, &first));
	assert_int_equal(first, 5);
	assert_int_equal(put(4), -EALREADY);
	assert_int_equal(put(5), 0);
	assert_int_equal(put(6), 0);
	assert_int_equal(take_all(), 8);
	/* Farther than anything that waits. */
	assert_int_equal(put(9), 0);
	stream_skip(stream, 8 + 3 * STREAM_MESSAGES_MAX);
	assert_false(stream_gap(stream, &first));
	assert_int_equal(put(8 + 3 * STREAM_MESSAGES_MAX), 0);
	/* Backwards there is nothing. */
	stream_skip(stream, 1);
	assert_int_equal(take_all(), 9 + 3 * STREAM_MESSAGES_MAX);
	stream_destroy(stream);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_is_given_out_once_in_order),
		cmocka_unit_test(what_is_too_far_ahead_is_lost_and_known_to_be),
		cmocka_unit_test(more_bytes_than_may_wait_are_lost_but_never_the_next),
		cmocka_unit_test(what_is_not_wanted_any_more_is_passed_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
