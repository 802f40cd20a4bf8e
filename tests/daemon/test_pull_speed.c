/* tests/daemon/test_pull_speed.c: what copies to a device cost, as measured, and what LOOKUP makes
 * of it. */
#include "tests/daemon/rig_gpu.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define BLOCKS 8u
#define BLOCK 100000u

/* ---- the measure ---- */

/* `count` copies of BLOCK bytes, handed over at once, ending one every `each_us`. */
static uint64_t copies_run(struct pull_speed *speed, unsigned count, uint64_t each_us,
			   uint64_t now_us)
{
	for (unsigned i = 0; i < count; i++)
		pull_speed_begin(speed, BLOCK, false, now_us);
	for (unsigned i = 0; i < count; i++)
		pull_speed_end(speed, BLOCK, false, true, now_us += each_us);
	pull_speed_settle(speed, ++now_us);
	return now_us;
}

static void bandwidth_follows_what_copies_take_in_both_directions_of_change(void **unused)
{
	struct pull_speed speed;
	uint64_t now_us = 1000;

	(void)unused;
	pull_speed_init(&speed);
	now_us = copies_run(&speed, 1000, 1000, now_us);
	assert_in_range((uint64_t)speed.bytes_us, 95, 105);
	now_us = copies_run(&speed, 100000, 10, now_us);
	assert_in_range((uint64_t)speed.bytes_us, 9500, 10500);
	assert_int_equal(speed.waiting_bytes, 0);
}

static void copies_that_are_noticed_at_once_are_not_infinitely_fast(void **unused)
{
	struct pull_speed speed;
	uint64_t now_us = 1000;

	(void)unused;
	pull_speed_init(&speed);
	for (unsigned round = 0; round < 200; round++) {
		for (unsigned i = 0; i < 100; i++)
			pull_speed_begin(&speed, BLOCK, false, now_us);
		now_us += 100000;
		for (unsigned i = 0; i < 100; i++)
			pull_speed_end(&speed, BLOCK, false, true, now_us);
		pull_speed_settle(&speed, ++now_us);
	}
	assert_in_range((uint64_t)speed.bytes_us, 95, 105);
}

static void what_was_calibrated_is_believed_until_copies_tell_otherwise(void **unused)
{
	struct pull_speed speed;
	uint64_t now_us = 1000;

	(void)unused;
	pull_speed_init(&speed);
	double latency_us = speed.latency_us;
	pull_speed_calibrated(&speed, 12, 50000);
	assert_int_equal((uint64_t)speed.latency_us, (uint64_t)latency_us + 12);
	assert_int_equal((uint64_t)speed.bytes_us, 50000);
	now_us = copies_run(&speed, 1000, 1000, now_us);
	assert_in_range((uint64_t)speed.bytes_us, 95, 106);
	pull_speed_settle(&speed, now_us + 2 * PULL_OLD_US);
	assert_int_equal((uint64_t)speed.bytes_us, 50000);
	assert_int_equal((uint64_t)speed.latency_us, (uint64_t)latency_us + 12);
	pull_speed_calibrated(&speed, 1, 0);
	pull_speed_calibrated(&speed, -1, 9);
	pull_speed_calibrated(&speed, NAN, 9);
	pull_speed_calibrated(&speed, 1, INFINITY);
	assert_int_equal((uint64_t)speed.bytes_us, 50000);
}

static void a_lone_small_copy_teaches_the_latency(void **unused)
{
	struct pull_speed speed;
	uint64_t now_us = 1000;

	(void)unused;
	pull_speed_init(&speed);
	double before = speed.bytes_us;
	for (unsigned i = 0; i < 100; i++) {
		pull_speed_begin(&speed, 100, false, now_us);
		pull_speed_end(&speed, 100, false, true, now_us += 300);
		pull_speed_settle(&speed, ++now_us);
	}
	assert_in_range((uint64_t)speed.latency_us, 290, 300);
	assert_true(speed.bytes_us == before);
}

static void what_waited_for_an_engine_first_or_failed_teaches_nothing(void **unused)
{
	struct pull_speed speed;
	uint64_t now_us = 1000;

	(void)unused;
	pull_speed_init(&speed);
	struct pull_speed before = speed;
	for (unsigned i = 0; i < 100; i++) {
		bool is_gated = i % 2 == 0;

		pull_speed_begin(&speed, BLOCK, is_gated, now_us);
		pull_speed_end(&speed, BLOCK, is_gated, is_gated, now_us += 1000000);
		pull_speed_settle(&speed, ++now_us);
	}
	assert_true(speed.bytes_us == before.bytes_us && speed.latency_us == before.latency_us);
	assert_int_equal(speed.waiting_bytes, 0);
}

/* As connectors do: every copy waits for the engine's step, and all of a job for the same. */
static void copies_behind_those_that_waited_for_an_engine_teach_the_bandwidth(void **unused)
{
	struct pull_speed speed;
	uint64_t now_us = 1000;

	(void)unused;
	pull_speed_init(&speed);
	for (unsigned job = 0; job < 10; job++) {
		for (unsigned i = 0; i < 100; i++)
			pull_speed_begin(&speed, BLOCK, true, now_us);
		now_us += 30000;
		for (unsigned i = 0; i < 100; i++)
			pull_speed_end(&speed, BLOCK, true, true, now_us += 1000);
		pull_speed_settle(&speed, ++now_us);
	}
	assert_in_range((uint64_t)speed.bytes_us, 95, 105);
}

static void what_is_old_counts_no_more_but_only_while_nothing_is_under_way(void **unused)
{
	struct pull_speed speed, fresh;
	uint64_t now_us = 1000;

	(void)unused;
	pull_speed_init(&speed);
	fresh = speed;
	now_us = copies_run(&speed, 1000, 1000, now_us);
	double slow = speed.bytes_us;
	pull_speed_settle(&speed, now_us + PULL_OLD_US - 10);
	assert_true(speed.bytes_us == slow);
	pull_speed_begin(&speed, BLOCK, false, now_us);
	pull_speed_settle(&speed, now_us + 2 * PULL_OLD_US);
	assert_true(speed.bytes_us == slow);
	pull_speed_end(&speed, BLOCK, false, false, now_us);
	pull_speed_settle(&speed, now_us + 2 * PULL_OLD_US);
	assert_true(speed.bytes_us == fresh.bytes_us && speed.latency_us == fresh.latency_us);
}

/* ---- what LOOKUP makes of it ---- */

static struct rig rig;
static struct rig_gpu gpu;
static const struct rig_blocks blocks = {
	.first = 1, .count = BLOCKS, .version = 1, .is_pull = true
};

static int begin(void **unused)
{
	(void)unused;
	rig_gpu_init(&gpu);
	rig_init(&rig, &(struct rig_config){ .gpu = &gpu });
	rig.is_checked = true;
	return 0;
}

static int end(void **unused)
{
	(void)unused;
	rig_finish_with_gpu(&rig, &gpu);
	return 0;
}

/* Computing takes 100 us a token. */
static uint32_t worth(struct rig_client *client)
{
	const struct rig_keys keys = { .first = 1, .count = BLOCKS };
	const struct worth_cost cost = { .b = 1e-4 };

	return rig_lookup_weighed(client, &keys, 1, 0, &cost).worth_tokens;
}

/* A load whose copies end `took_us` after they began. */
static void load_taking(struct rig_client *client, uint64_t took_us)
{
	struct rig_batch *batch;

	gpu.holds_ends = true;
	batch = rig_load_begin(client, &blocks);
	rig_settle(&rig);
	rig_pass_time(&rig, took_us);
	gpu.holds_ends = false;
	rig_settle(&rig);
	assert_int_equal(rig_batch_count(batch, 0), BLOCKS);
	rig_batch_give(batch);
	rig_pass_time(&rig, 1);
}

static void a_slow_device_is_offered_nothing_until_it_is_fast_again(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);
	struct rig_client *pusher = rig_register(&rig, &(struct rig_engine){ .name = "pusher" });

	(void)unused;
	assert_int_equal(rig_store(client, &blocks), BLOCKS);
	uint32_t all = worth(client);
	assert_true(all > 0);
	for (unsigned i = 0; i < 30; i++)
		load_taking(client, 200000);
	assert_int_equal(worth(client), 0);
	/* Who pushes has nothing to do with the device. */
	assert_int_equal(worth(pusher), all);
	for (unsigned i = 0; i < 200; i++)
		load_taking(client, 10);
	assert_int_equal(worth(client), all);
	for (unsigned i = 0; i < 30; i++)
		load_taking(client, 200000);
	assert_int_equal(worth(client), 0);
	rig_pass_time(&rig, PULL_OLD_US + RIG_SECOND);
	assert_int_equal(worth(client), all);
}

static void a_busy_queue_makes_loading_not_worth_it_until_it_is_empty(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);

	(void)unused;
	assert_int_equal(rig_store(client, &blocks), BLOCKS);
	uint32_t all = worth(client);
	gpu.speeds[COPY_LOAD].bytes_us = 20; /* 8 ms, of 12.8 */
	gpu.speeds[COPY_LOAD].end_us = rig.daemon->now_us;
	gpu.holds_copies = true;
	struct rig_batch *batch = rig_load_begin(client, &blocks);
	rig_settle(&rig);
	assert_int_equal(gpu.speeds[COPY_LOAD].waiting_bytes, BLOCKS * RIG_PAYLOAD_BYTES);
	uint32_t busy = worth(client);
	gpu.holds_copies = false;
	rig_settle(&rig);
	rig_batch_give(batch);
	assert_int_equal(gpu.speeds[COPY_LOAD].waiting_bytes, 0);
	assert_true(all > 0 && busy < all);
	assert_int_equal(worth(client), all);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bandwidth_follows_what_copies_take_in_both_directions_of_change),
		cmocka_unit_test(copies_that_are_noticed_at_once_are_not_infinitely_fast),
		cmocka_unit_test(what_was_calibrated_is_believed_until_copies_tell_otherwise),
		cmocka_unit_test(a_lone_small_copy_teaches_the_latency),
		cmocka_unit_test(what_waited_for_an_engine_first_or_failed_teaches_nothing),
		cmocka_unit_test(copies_behind_those_that_waited_for_an_engine_teach_the_bandwidth),
		cmocka_unit_test(what_is_old_counts_no_more_but_only_while_nothing_is_under_way),
		CASE(a_slow_device_is_offered_nothing_until_it_is_fast_again),
		CASE(a_busy_queue_makes_loading_not_worth_it_until_it_is_empty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
