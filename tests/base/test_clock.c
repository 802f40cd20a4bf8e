/* tests/base/test_clock.c: the machine's time goes forward, a virtual one only when told. */
#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void a_virtual_clock_stands_until_it_is_advanced(void **unused)
{
	struct clock clock;

	(void)unused;
	clock_virtual_init(&clock, 1000);
	assert_int_equal(clock_now_us(&clock), 1000);
	assert_int_equal(clock_now_us(&clock), 1000);
	assert_int_equal(clock_wall_us(&clock), 1000);
	clock_advance(&clock, 0);
	assert_int_equal(clock_now_us(&clock), 1000);
	clock_advance(&clock, 234);
	assert_int_equal(clock_now_us(&clock), 1234);
	assert_int_equal(clock_wall_us(&clock), 1234);
}

static void two_virtual_clocks_are_apart(void **unused)
{
	struct clock one, other;

	(void)unused;
	clock_virtual_init(&one, 5);
	clock_virtual_init(&other, 5);
	clock_advance(&one, 1);
	assert_int_equal(clock_now_us(&other), 5);
}

static void the_machines_clock_never_goes_back(void **unused)
{
	struct clock *clock = clock_real();
	uint64_t before = clock_now_us(clock);

	(void)unused;
	assert_ptr_equal(clock, clock_real());
	for (unsigned i = 0; i < 100000; i++) {
		uint64_t now = clock_now_us(clock);

		assert_true(now >= before);
		before = now;
	}
	assert_true(clock_wall_us(clock) > 1700000000ull * 1000000);   /* microseconds since 1970 */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_virtual_clock_stands_until_it_is_advanced),
		cmocka_unit_test(two_virtual_clocks_are_apart),
		cmocka_unit_test(the_machines_clock_never_goes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
