/* tests/client/test_client_breaker.c: what a daemon that does not answer costs: its bound, once in
 * a while. */
#include "tests/client/client_rig.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static uint64_t pause_of(struct rig *rig)
{
	uint64_t pause_us;

	pthread_mutex_lock(&rig->client->lock);
	pause_us = rig->client->breaker.pause_us;
	pthread_mutex_unlock(&rig->client->lock);
	return pause_us;
}

/* A lookup that runs into its bound. */
static void ask_in_vain(struct rig *rig)
{
	struct kvtier_found found;

	fake_set(&rig->fake, FRAME_LOOKUP, FAKE_SILENT, 1);
	assert_int_equal(rig_lookup(rig, 1, RIG_SHORT_US, &found), -ETIMEDOUT);
	assert_int_equal(found.usable_tokens, 0);
	assert_true(pause_of(rig) > 0);
}

static void the_pause_is_twenty_times_the_wait_and_doubles_up_to_a_second(void **unused)
{
	struct breaker breaker = { .pause_us = 0 };

	(void)unused;
	assert_false(breaker_holds(&breaker, 0));
	breaker_trip(&breaker, 5000, 1000000);
	assert_true(breaker_holds(&breaker, 1000000));
	assert_true(breaker_holds(&breaker, 1099999));
	assert_false(breaker_holds(&breaker, 1100000));
	breaker_trip(&breaker, 5000, 2000000);
	assert_true(breaker_holds(&breaker, 2199999));
	assert_false(breaker_holds(&breaker, 2200000));
	breaker_trip(&breaker, 30000, 3000000); /* a longer bound, more than doubled */
	assert_true(breaker_holds(&breaker, 3599999));
	assert_false(breaker_holds(&breaker, 3600000));
	for (unsigned i = 0; i < 70; i++)
		breaker_trip(&breaker, i % 2 == 0 ? UINT64_MAX : 1, 4000000);
	assert_true(breaker_holds(&breaker, 4999999));
	assert_false(breaker_holds(&breaker, 5000000));
	breaker_close(&breaker);
	assert_false(breaker_holds(&breaker, 0));
	breaker_trip(&breaker, 0, 6000000);
	assert_true(breaker_holds(&breaker, 6000000));
	assert_false(breaker_holds(&breaker, 6000001));
}

static void after_a_call_in_vain_the_next_ones_do_not_ask(void **unused)
{
	uint8_t adapter[32] = { 1 };
	struct kvtier_keys keys = { .count = 0 };
	struct kvtier_found found;
	struct rig *rig;
	uint32_t space;
	char text[64];

	(void)unused;
	rig = rig_create();
	ask_in_vain(rig);
	rig_set_pause_end(rig, UINT64_MAX);
	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), -EAGAIN);
	assert_int_equal(kvtier_hint(rig->client, KVTIER_HINT_TOUCH, 0, &keys, 0, RIG_WAIT_US,
				     NULL),
			 -EAGAIN);
	assert_int_equal(kvtier_forget(rig->client, 0, RIG_WAIT_US), -EAGAIN);
	assert_int_equal(kvtier_stats(rig->client, text, sizeof(text), RIG_WAIT_US), -EAGAIN);
	assert_int_equal(kvtier_space_open(rig->client, adapter, RIG_WAIT_US, &space), -EAGAIN);
	assert_true(kvtier_is_connected(rig->client));
	assert_int_equal(kvtier_lease_release(rig->client, 5), 0);
	fake_wait_seen(&rig->fake, FRAME_LEASE_RELEASE, 1);
	assert_int_equal(fake_seen(&rig->fake, FRAME_LOOKUP), 1);
	assert_int_equal(fake_seen(&rig->fake, FRAME_HINT), 0);
	rig_destroy(rig);
}

static void each_call_in_vain_doubles_the_pause_and_an_answer_ends_it(void **unused)
{
	struct kvtier_found found;
	struct rig *rig;
	uint64_t first_us, second_us;

	(void)unused;
	rig = rig_create();
	ask_in_vain(rig);
	first_us = pause_of(rig);
	assert_true(first_us >= 20 * RIG_SHORT_US);
	rig_set_pause_end(rig, 0);
	ask_in_vain(rig);
	second_us = pause_of(rig);
	assert_true(second_us >= 2 * first_us || second_us == BREAKER_PAUSE_US_MAX);
	rig_set_pause_end(rig, 0);
	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), 0);
	assert_true(pause_of(rig) == 0);
	ask_in_vain(rig);
	assert_true(pause_of(rig) <= BREAKER_PAUSE_US_MAX);
	rig_destroy(rig);
}

static void *ask_and_be_cut_off(void *argument)
{
	struct rig *rig = argument;
	struct kvtier_found found;

	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), -ENOTCONN);
	return NULL;
}

static void after_the_pause_one_call_asks_and_the_others_do_not_wait_for_it(void **unused)
{
	struct kvtier_found found;
	struct rig *rig;
	pthread_t thread;

	(void)unused;
	rig = rig_create();
	ask_in_vain(rig);
	rig_set_pause_end(rig, 0);
	fake_set(&rig->fake, FRAME_LOOKUP, FAKE_SILENT, 0);
	pthread_create(&thread, NULL, ask_and_be_cut_off, rig);
	fake_wait_seen(&rig->fake, FRAME_LOOKUP, 2);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), -EAGAIN);
	assert_int_equal(fake_seen(&rig->fake, FRAME_LOOKUP), 2);
	fake_set(&rig->fake, FRAME_LOOKUP, FAKE_RIGHT, 0);
	fake_restart(&rig->fake);
	pthread_join(thread, NULL);
	rig_reconnect(rig);
	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), 0);
	rig_destroy(rig);
}

static void a_lease_that_came_too_late_is_given_back(void **unused)
{
	struct kvtier_found found;
	struct rig *rig;

	(void)unused;
	rig = rig_create();
	rig_run(rig, true, 2);
	fake_set(&rig->fake, FRAME_LOOKUP, FAKE_LATE, 1);
	assert_int_equal(rig_lookup(rig, 2, RIG_SHORT_US, &found), -ETIMEDOUT);
	assert_true(found.lease == 0);
	rig_set_pause_end(rig, 0);
	assert_int_equal(rig_lookup(rig, 2, RIG_WAIT_US, &found), 0);
	assert_true(found.lease == FAKE_LEASE_FIRST + 1);
	fake_wait_seen(&rig->fake, FRAME_LEASE_RELEASE, 1);
	assert_true(rig->fake.lease_released == FAKE_LEASE_FIRST);
	assert_int_equal(kvtier_lease_release(rig->client, found.lease), 0);
	fake_wait_seen(&rig->fake, FRAME_LEASE_RELEASE, 2);
	assert_true(rig->fake.lease_released == FAKE_LEASE_FIRST + 1);
	rig_destroy(rig);
}

static void connecting_asks_in_any_case(void **unused)
{
	struct kvtier_found found;
	struct rig *rig;

	(void)unused;
	rig = rig_create();
	ask_in_vain(rig);
	rig_set_pause_end(rig, UINT64_MAX);
	rig_reconnect(rig);
	assert_true(pause_of(rig) == 0);
	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), 0);
	rig_destroy(rig);
}

static void a_new_connection_ends_the_pause(void **unused)
{
	struct kvtier_found found;
	struct rig *rig;

	(void)unused;
	rig = rig_create();
	ask_in_vain(rig);
	rig_set_pause_end(rig, UINT64_MAX);
	fake_restart(&rig->fake);   /* the copy thread notices */
	fake_wait_seen(&rig->fake, FRAME_CANARY, 2);
	while (!kvtier_is_connected(rig->client))
		sched_yield();
	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), 0);
	rig_destroy(rig);
}

static void a_daemon_that_does_not_even_say_hello_is_asked_as_seldom(void **unused)
{
	struct kvtier_found found;
	struct rig *rig;

	(void)unused;
	rig = rig_create_closed(RIG_WINDOW_BYTES);
	assert_int_equal(rig_open_client(rig, KVTIER_SCHEDULER), 0);
	fake_set(&rig->fake, FRAME_HELLO, FAKE_SILENT, 0);
	fake_restart(&rig->fake);
	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), -ENOTCONN);
	assert_true(pause_of(rig) == 0);
	assert_int_equal(rig_lookup(rig, 1, RIG_SHORT_US, &found), -ENOTCONN);
	assert_true(pause_of(rig) >= 20 * RIG_SHORT_US);
	rig_set_pause_end(rig, UINT64_MAX);
	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), -EAGAIN);
	assert_int_equal(fake_seen(&rig->fake, FRAME_HELLO), 2);
	fake_set(&rig->fake, FRAME_HELLO, FAKE_RIGHT, 0);
	rig_reconnect(rig);
	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), 0);
	rig_destroy(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_pause_is_twenty_times_the_wait_and_doubles_up_to_a_second),
		cmocka_unit_test(after_a_call_in_vain_the_next_ones_do_not_ask),
		cmocka_unit_test(each_call_in_vain_doubles_the_pause_and_an_answer_ends_it),
		cmocka_unit_test(after_the_pause_one_call_asks_and_the_others_do_not_wait_for_it),
		cmocka_unit_test(a_lease_that_came_too_late_is_given_back),
		cmocka_unit_test(connecting_asks_in_any_case),
		cmocka_unit_test(a_new_connection_ends_the_pause),
		cmocka_unit_test(a_daemon_that_does_not_even_say_hello_is_asked_as_seldom),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
