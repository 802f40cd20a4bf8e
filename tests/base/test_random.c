/* tests/base/test_random.c: the same seed gives the same numbers, and they are even. */
#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void the_generator_is_the_published_one(void **unused)
{
	struct random random = { .state = { 1, 2, 3, 4 } };

	(void)unused;
	/* By hand from the definition: rotl(2 * 5, 7) * 9, then the state moved on once and twice.
	 */
	assert_true(random_next(&random) == 11520);
	assert_true(random_next(&random) == 0);
	assert_true(random_next(&random) == 1509978240);
}

static void a_seed_gives_its_own_sequence_again_and_again(void **unused)
{
	struct random one, same, other;
	unsigned equal = 0;

	(void)unused;
	random_init(&one, 0);
	random_init(&same, 0);
	random_init(&other, 1);
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t value = random_next(&one);

		assert_true(value == random_next(&same));
		equal += value == random_next(&other);
	}
	assert_int_equal(equal, 0);
}

static void numbers_below_a_limit_are_below_it_and_even(void **unused)
{
	unsigned counts[10] = { 0 };
	struct random random;

	(void)unused;
	random_init(&random, 3);
	for (unsigned i = 0; i < 100000; i++)
		counts[random_below(&random, 10)]++;
	for (unsigned i = 0; i < 10; i++)
		assert_in_range(counts[i], 9500, 10500);
	for (unsigned i = 0; i < 1000; i++) {
		assert_int_equal(random_below(&random, 1), 0);
		assert_true(random_below(&random, UINT64_MAX) < UINT64_MAX);
	}
}

static void a_limit_that_divides_badly_is_even_too(void **unused)
{
	/* Without drawing again, the lowest third would come twice as often as the rest. */
	const uint64_t limit = UINT64_MAX / 4 * 3;
	unsigned low = 0;
	struct random random;

	(void)unused;
	random_init(&random, 4);
	for (unsigned i = 0; i < 30000; i++)
		low += random_below(&random, limit) % 3 == 0;
	assert_in_range(low, 9600, 10400);
}

static void the_kernel_fills_all_of_it_and_never_alike(void **unused)
{
	uint8_t one[600] = { 0 }, other[600] = { 0 };
	unsigned zeros = 0;

	(void)unused;
	random_system(one, 0);
	assert_int_equal(one[0], 0);
	random_system(one, sizeof(one));
	random_system(other, sizeof(other));
	assert_memory_not_equal(one, other, sizeof(one));
	for (size_t i = 0; i < sizeof(one); i++)
		zeros += one[i] == 0;
	assert_true(zeros < 60);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_generator_is_the_published_one),
		cmocka_unit_test(a_seed_gives_its_own_sequence_again_and_again),
		cmocka_unit_test(numbers_below_a_limit_are_below_it_and_even),
		cmocka_unit_test(a_limit_that_divides_badly_is_even_too),
		cmocka_unit_test(the_kernel_fills_all_of_it_and_never_alike),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
