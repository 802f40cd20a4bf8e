/* tests/daemon/test_daemon_deadlines.c: deadlines to the microsecond, cancels, and clients that go
 * in the middle. */
#include "tests/daemon/rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define BLOCKS 12u
#define STEPS_MAX 60u

static const struct rig_blocks all = { .first = 1, .count = BLOCKS, .version = 3 };

/* Lets the clock come to one microsecond before `by_us`, and to it. */
static void just_before_and_at(struct rig *rig, struct rig_batch *batch, uint64_t by_us,
			       unsigned ended_before)
{
	rig_pass_time(rig, by_us - 1);
	assert_int_equal(batch->ended, ended_before);
	rig_pass_time(rig, 1);
	assert_int_equal(batch->ended, batch->count);
}

static void blocks_that_are_not_committed_expire_and_their_slots_come_back(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	struct rig_batch *batch;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	batch = rig_store_begin(client, &all);
	rig_settle(&rig);
	just_before_and_at(&rig, batch, RIG_DEADLINE_US, 0);
	assert_int_equal(rig_batch_count(batch, -ETIME), BLOCKS);
	rig_assert_idle(&rig);
	assert_int_equal(cache_entries_count(rig.daemon->cache), 0);
	rig_batch_give(batch);
	/* A COMMIT that comes too late is nothing. */
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_finish(&rig);
}

static void a_late_commit_of_an_expired_batch_changes_nothing(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	struct rig_batch *batch;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	batch = rig_store_begin(client, &all);
	rig_settle(&rig);
	client->is_deaf = true;
	rig_pass_time(&rig, RIG_DEADLINE_US);
	rig_store_commit(client, batch);
	client->is_deaf = false;
	rig_settle(&rig);
	assert_int_equal(rig_batch_count(batch, -ETIME), BLOCKS);
	rig_assert_idle(&rig);
	assert_int_equal(rig_load(client, &all), 0);
	rig_finish(&rig);
}

static void a_load_that_the_disk_does_not_answer_expires_once(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	struct rig_batch *batch;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_drop_cpu(client, 0, 1, BLOCKS);
	block_io_fault_hold(&rig.fault);
	batch = rig_load_begin(client, &all);
	rig_settle(&rig);
	just_before_and_at(&rig, batch, RIG_DEADLINE_US, 0);
	assert_int_equal(rig_batch_count(batch, -ETIME), BLOCKS);
	rig_batch_give(batch);
	/* The reads end late: nobody is told, and what they brought can be used. */
	block_io_fault_flow(&rig.fault);
	rig_settle(&rig);
	rig_assert_idle(&rig);
	assert_int_equal(rig_load(client, &all), BLOCKS);
	assert_int_equal(rig_last.items[0].tier, TIER_CPU);
	rig_finish(&rig);
}

static void what_a_client_never_releases_is_released_by_the_deadline(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	struct rig_batch *batch;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	batch = rig_load_begin(client, &all);
	batch->is_kept = true;
	rig_pass_time(&rig, RIG_DEADLINE_US - 1);
	assert_int_equal(rig_batch_count(batch, 0), BLOCKS);
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).holds, BLOCKS);
	rig_pass_time(&rig, 1);
	rig_assert_idle(&rig);
	/* Too late: named by nobody. */
	rig_release(client, batch, 0, true);
	rig_settle(&rig);
	assert_int_equal(client->refused, 0);
	rig_finish(&rig);
}

/* Fills cpu with blocks that a client holds; then a store has to wait for a slot. */
static void a_store_that_gets_no_cpu_slot_expires_and_all_comes_back(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	struct rig_batch *held, *store;
	unsigned blocks = 2 * RIG_SLOTS_A_UNIT;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .load_window_blocks = 256 });
	client = rig_register(&rig, NULL);
	assert_int_equal(
		rig_store(client,
			  &(struct rig_blocks){ .first = 1, .count = blocks, .version = 1 }),
		blocks);
	rig_settle(&rig);
	held = rig_load_begin(client, &(struct rig_blocks){ .first = 1,
							    .count = blocks,
							    .deadline_us = 100 * RIG_SECOND });
	held->is_kept = true;
	rig_settle(&rig);
	assert_int_equal(rig_batch_count(held, 0), blocks);
	store = rig_store_begin(client,
				&(struct rig_blocks){ .first = 1000, .count = 5, .version = 1 });
	rig_settle(&rig);
	assert_int_equal(store->ended, 0);
	rig_store_commit(client, store);
	just_before_and_at(&rig, store, RIG_DEADLINE_US, 0);
	assert_int_equal(rig_batch_count(store, -ETIME), 5);
	rig_batch_give(store);
	rig_batch_give(held);
	rig_pass_time(&rig, 100 * RIG_SECOND);
	rig_assert_idle(&rig);
	assert_int_equal(
		rig_store(client, &(struct rig_blocks){ .first = 1000, .count = 5, .version = 2 }),
		5);
	rig_finish(&rig);
}

static void a_cancelled_batch_ends_once_and_gives_everything_back(void **unused)
{
	(void)unused;
	for (unsigned steps = 0; steps < STEPS_MAX; steps++) {
		for (unsigned is_store = 0; is_store < 2; is_store++) {
			struct rig rig;
			struct rig_batch *batch;

			rig_init(&rig, NULL);
			struct rig_client *client = rig_register(&rig, NULL);
			if (!is_store) {
				assert_int_equal(rig_store(client, &all), BLOCKS);
				rig_drop_cpu(client, 0, 1, BLOCKS);
			}
			batch = is_store ? rig_store_begin(client, &all)
					 : rig_load_begin(client, &all);
			for (unsigned i = 0; i < steps; i++) {
				(void)rig_step(&rig);
				if (is_store && batch->is_replied && batch->version != 0) {
					rig_store_commit(client, batch);
					batch->version = 0;
				}
			}
			rig_cancel(client, batch);
			rig_settle(&rig);
			assert_int_equal(batch->ended, BLOCKS);
			for (unsigned i = 0; i < BLOCKS; i++)
				assert_true(batch->results[i] == 0 ||
					    batch->results[i] == -ECANCELED);
			rig_assert_idle(&rig);
			rig_batch_give(batch);
			assert_int_equal(rig_store(client, &all), BLOCKS);
			rig_finish(&rig);
		}
	}
}

/* Closes one or both connections after k passes of a store. */
static void a_client_that_goes_at_any_step_of_a_store_leaves_nothing_behind(void **unused)
{
	(void)unused;
	for (unsigned steps = 0; steps < STEPS_MAX; steps++) {
		struct rig rig;
		struct rig_batch *batch;
		bool is_committed = false;

		rig_init(&rig, NULL);
		struct rig_client *client = rig_register(&rig, NULL);
		batch = rig_store_begin(client, &all);
		for (unsigned i = 0; i < steps; i++) {
			(void)rig_step(&rig);
			if (batch->is_replied && !is_committed)
				rig_store_commit(client, batch);
			is_committed = batch->is_replied;
		}
		if (steps % 3 == 0)
			rig_client_hang_up(client, FRAME_DATA);
		else if (steps % 3 == 1)
			rig_client_hang_up(client, FRAME_CONTROL);
		else
			rig_client_close(client);
		rig_settle(&rig);
		rig_pass_time(&rig, RIG_DEADLINE_US);
		rig_assert_idle(&rig);
		client = rig_register(&rig, &(struct rig_engine){ .name = "another" });
		assert_int_equal(rig_store(client, &(struct rig_blocks){ .first = 1,
									 .count = BLOCKS,
									 .version = 9 }),
				 BLOCKS);
		assert_int_equal(rig_load(client, &all), BLOCKS);
		rig_finish(&rig);
	}
}

static void a_client_that_goes_at_any_step_of_a_load_leaves_nothing_behind(void **unused)
{
	(void)unused;
	for (unsigned steps = 0; steps < STEPS_MAX; steps++) {
		struct rig rig;
		struct rig_batch *batch;

		rig_init(&rig, NULL);
		struct rig_client *client = rig_register(&rig, NULL);
		assert_int_equal(rig_store(client, &all), BLOCKS);
		rig_drop_cpu(client, 0, 1, BLOCKS / 2);
		rig.is_shuffled = true;
		batch = rig_load_begin(client, &all);
		batch->is_kept = steps % 2 == 0;
		for (unsigned i = 0; i < steps; i++)
			(void)rig_step(&rig);
		if (steps % 3 == 0)
			rig_client_close(client);
		else
			rig_client_hang_up(client, steps % 3 == 1 ? FRAME_DATA : FRAME_CONTROL);
		rig_pass_time(&rig, RIG_DEADLINE_US);
		rig_assert_idle(&rig);
		client = rig_register(&rig, &(struct rig_engine){ .name = "another" });
		assert_int_equal(rig_load(client, &all), BLOCKS);
		rig_finish(&rig);
	}
}

static void two_clients_open(struct rig *rig, struct rig_client *clients[2])
{
	rig_init(rig, NULL);
	clients[0] = rig_register(rig, &(struct rig_engine){ .name = "first" });
	clients[1] = rig_register(rig, &(struct rig_engine){ .name = "second" });
}

static void an_attached_store_ends_well_when_the_first_one_does(void **unused)
{
	struct rig rig;
	struct rig_client *clients[2];
	struct rig_batch *first, *second;

	(void)unused;
	two_clients_open(&rig, clients);
	first = rig_store_begin(clients[0], &all);
	rig_settle(&rig);
	second = rig_store_begin(clients[1], &all);
	rig_settle(&rig);
	for (unsigned i = 0; i < BLOCKS; i++)
		assert_int_equal(second->admissions[i], FRAME_ATTACHED_TO_OTHER);
	assert_int_equal(second->ended, 0);
	rig_store_commit(clients[0], first);
	rig_settle(&rig);
	assert_int_equal(rig_batch_count(first, 0), BLOCKS);
	assert_int_equal(rig_batch_count(second, 0), BLOCKS);
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

static void when_the_first_of_two_storers_dies_the_second_may_store_again(void **unused)
{
	(void)unused;
	for (unsigned is_committed = 0; is_committed < 2; is_committed++) {
		struct rig rig;
		struct rig_client *clients[2];
		struct rig_batch *first, *second;

		two_clients_open(&rig, clients);
		first = rig_store_begin(clients[0], &all);
		rig_settle(&rig);
		second = rig_store_begin(clients[1], &all);
		rig_settle(&rig);
		if (is_committed)
			clients[0]->window[0] ^= 1;
		rig_client_close(clients[0]);
		(void)first;
		rig_settle(&rig);
		assert_int_equal(rig_batch_count(second, -EAGAIN), BLOCKS);
		rig_batch_give(second);
		assert_int_equal(rig_store(clients[1], &all), BLOCKS);
		assert_int_equal(rig_load(clients[1], &all), BLOCKS);
		rig_finish_idle(&rig);
	}
}

static void an_attached_store_expires_by_its_own_deadline(void **unused)
{
	struct rig rig;
	struct rig_client *clients[2];
	struct rig_batch *first, *second;

	(void)unused;
	two_clients_open(&rig, clients);
	first = rig_store_begin(clients[0], &all);
	rig_settle(&rig);
	second = rig_store_begin(clients[1], &(struct rig_blocks){ .first = 1,
								   .count = BLOCKS,
								   .version = 3,
								   .deadline_us = RIG_SECOND });
	rig_settle(&rig);
	just_before_and_at(&rig, second, RIG_SECOND, 0);
	assert_int_equal(rig_batch_count(second, -ETIME), BLOCKS);
	rig_store_commit(clients[0], first);
	rig_settle(&rig);
	assert_int_equal(rig_batch_count(first, 0), BLOCKS);
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_that_are_not_committed_expire_and_their_slots_come_back),
		cmocka_unit_test(a_late_commit_of_an_expired_batch_changes_nothing),
		cmocka_unit_test(a_load_that_the_disk_does_not_answer_expires_once),
		cmocka_unit_test(what_a_client_never_releases_is_released_by_the_deadline),
		cmocka_unit_test(a_store_that_gets_no_cpu_slot_expires_and_all_comes_back),
		cmocka_unit_test(a_cancelled_batch_ends_once_and_gives_everything_back),
		cmocka_unit_test(a_client_that_goes_at_any_step_of_a_store_leaves_nothing_behind),
		cmocka_unit_test(a_client_that_goes_at_any_step_of_a_load_leaves_nothing_behind),
		cmocka_unit_test(an_attached_store_ends_well_when_the_first_one_does),
		cmocka_unit_test(when_the_first_of_two_storers_dies_the_second_may_store_again),
		cmocka_unit_test(an_attached_store_expires_by_its_own_deadline),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
