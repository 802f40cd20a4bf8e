/* tests/client/test_examples.c: the examples are compiled as they are and do what they say. */
#include "base/random.h"
#include "tests/client/fake_daemon.h"

int example_lookup(int arguments_count, char **arguments);
int example_store_and_load(int arguments_count, char **arguments);

#define main example_lookup
#include "client/examples/lookup.c"
#undef main
#define main example_store_and_load
#include "client/examples/store_and_load.c"
#undef main

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void what_the_one_example_stores_the_other_finds(void **unused)
{
	struct fake_daemon fake;
	char *arguments[] = { "example", fake.path, NULL };

	(void)unused;
	fake_start(&fake, 1u << 20);
	assert_int_equal(example_lookup(2, arguments), 0);
	assert_int_equal(example_store_and_load(2, arguments), 0);
	assert_int_equal(example_lookup(2, arguments), 0);
	assert_int_equal(fake_seen(&fake, FRAME_LOAD), 1);
	fake_stop(&fake);
}

static void without_a_daemon_the_lookup_is_a_miss(void **unused)
{
	char *arguments[] = { "example", "/nonexistent/kv.sock", NULL };

	(void)unused;
	assert_int_equal(example_lookup(2, arguments), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_the_one_example_stores_the_other_finds),
		cmocka_unit_test(without_a_daemon_the_lookup_is_a_miss),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
