/* tests/daemon/test_pull.c: stores and loads of blocks that the daemon pulls. */
#include "daemon/batch.h"
#include "daemon/server.h"
#include "tests/daemon/rig_gpu.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct rig rig;
static struct rig_gpu gpu;

static const struct rig_blocks eight = { .first = 1, .count = 8, .version = 1, .is_pull = true };
static const struct rig_blocks patient = {
	.first = 1, .count = 8, .version = 1, .is_pull = true, .is_uncommitted = true
};

static void start(unsigned tenants)
{
	rig_gpu_init(&gpu);
	rig_init(&rig, &(struct rig_config){ .gpu = &gpu, .tenants = tenants });
	rig.is_checked = true;
}

static int begin(void **unused)
{
	(void)unused;
	start(1);
	return 0;
}

static int end(void **unused)
{
	(void)unused;
	rig_finish_with_gpu(&rig, &gpu);
	return 0;
}

static void results_are(struct rig_batch *batch, int result)
{
	rig_settle(&rig);
	assert_int_equal(batch->ended, batch->count);
	assert_int_equal(rig_batch_count(batch, result), batch->count);
	rig_batch_give(batch);
}

static void what_was_pulled_is_found_in_both_tiers_and_comes_back(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);
	struct counters *counters = &rig.daemon->counters;

	(void)unused;
	assert_int_equal(rig_store(client, &eight), 8);
	assert_int_equal(rig_usable(client, 1, 8), 8);
	memset(client->device, 0, 8 * 4096);
	assert_int_equal(rig_load(client, &eight), 8);
	rig_settle(&rig);
	rig_drop_cpu(client, 0, 1, 8);
	memset(client->device, 0, 8 * 4096);
	assert_int_equal(rig_load(client, &eight), 8);
	assert_int_equal(rig_last.items[0].tier, TIER_NVME);
	assert_int_equal(counters->pulled_blocks[COPY_STORE], 8);
	assert_int_equal(counters->pulled_bytes[COPY_STORE], 8 * RIG_PAYLOAD_BYTES);
	assert_int_equal(counters->pulled_blocks[COPY_LOAD], 16);
	assert_int_equal(counters->hit_blocks[TIER_CPU] + counters->hit_blocks[TIER_NVME], 16);
}

static void what_one_engine_pushed_another_pulls_and_the_other_way_round(void **unused)
{
	struct rig_client *pusher = rig_register(&rig, &(struct rig_engine){ .name = "pusher" });
	struct rig_client *puller = rig_puller(&rig, &(struct rig_engine){ .name = "puller" });
	struct rig_blocks pushed = { .first = 100, .count = 8, .version = 3 };
	struct rig_blocks pulled = { .first = 200, .count = 8, .version = 4, .is_pull = true };

	(void)unused;
	assert_int_equal(rig_store(pusher, &pushed), 8);
	assert_int_equal(rig_store(puller, &pulled), 8);
	pushed.is_pull = true;
	pulled.is_pull = false;
	assert_int_equal(rig_load(puller, &pushed), 8);
	assert_int_equal(rig_load(pusher, &pulled), 8);
}

static void a_block_is_there_only_once_it_was_committed(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);
	struct rig_batch *batch = rig_store_begin(client, &patient);

	(void)unused;
	rig_settle(&rig);
	for (unsigned i = 0; i < 8; i++)
		assert_true(batch->was_copied[i]);
	assert_int_equal(rig_usable(client, 1, 8), 0);
	for (unsigned i = 0; i < 8; i++) {
		rig_pull_commit(client, batch, i);
		rig_pull_commit(client, batch, i); /* twice: once is enough */
		rig_settle(&rig);
		assert_int_equal(rig_usable(client, 1, 8), i + 1);
	}
	results_are(batch, 0);
}

static void a_commit_before_the_copy_closes(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);
	struct rig_batch *batch;

	(void)unused;
	gpu.holds_ends = true;
	batch = rig_store_begin(client, &patient);
	rig_settle(&rig);
	rig_pull_commit(client, batch, 3);
	rig_settle(&rig);
	assert_int_equal(client->refused, -EPROTO);
	assert_int_equal(client->fds[FRAME_DATA], -1);
	/* The session is kept until the device has let go of its blocks. */
	assert_int_equal(mover_moves_count(rig.daemon), 8);
	gpu.holds_ends = false;
	rig_settle(&rig);
	assert_int_equal(mover_moves_count(rig.daemon), 0);
}

enum where { HELD, QUEUED, COPIED, WHERES };

/* A store whose blocks are all in one state. */
static struct rig_batch *store_until(struct rig_client *client, enum where where, uint64_t wait_us)
{
	struct rig_blocks blocks = patient;
	struct rig_batch *batch;

	blocks.deadline_us = wait_us;
	gpu.holds_copies = where == HELD;
	gpu.copy_refusal = where == QUEUED ? -EAGAIN : 0;
	batch = rig_store_begin(client, &blocks);
	rig_settle(&rig);
	assert_int_equal(mover_moves_count(rig.daemon), 8);
	return batch;
}

static void a_cancel_ends_a_store_in_each_state(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);

	(void)unused;
	for (enum where where = 0; where < WHERES; where++) {
		struct rig_batch *batch = store_until(client, where, 0);

		gpu.cancels_refused = 3;
		rig_cancel(client, batch);
		for (unsigned i = 0; i < 4; i++)
			rig_pass_time(&rig, 1000);
		results_are(batch, -ECANCELED);
		assert_int_equal(gpu.cancels, where == HELD ? 1 : 0);
		gpu.cancels = 0;
		assert_int_equal(rig_usable(client, 1, 8), 0);
		assert_int_equal(mover_moves_count(rig.daemon), 0);
	}
}

static void a_deadline_ends_a_store_in_each_state(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);

	(void)unused;
	for (enum where where = 0; where < WHERES; where++) {
		struct rig_batch *batch = store_until(client, where, RIG_SECOND);

		rig_pass_time(&rig, 2 * RIG_SECOND);
		results_are(batch, -ETIME);
		assert_int_equal(mover_moves_count(rig.daemon), 0);
	}
}

static void a_copy_that_ends_after_the_deadline_is_no_block(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);
	struct rig_batch *batch;

	(void)unused;
	gpu.holds_ends = true;
	batch = rig_store_begin(client, &(struct rig_blocks){ .first = 1,
							      .count = 4,
							      .version = 1,
							      .is_pull = true,
							      .deadline_us = RIG_SECOND });
	rig_pass_time(&rig, 2 * RIG_SECOND);
	assert_int_equal(batch->ended, 0);
	gpu.holds_ends = false;
	results_are(batch, -ETIME);
	assert_int_equal(rig_usable(client, 1, 4), 0);
}

static void a_connection_that_ends_in_each_state_leaves_nothing(void **unused)
{
	(void)unused;
	for (enum where where = 0; where < 2 * WHERES; where++) {
		struct rig_client *client = rig_puller(&rig, NULL);

		if (where < WHERES) {
			(void)store_until(client, where, 0);
		} else {
			gpu.holds_copies = false;
			gpu.copy_refusal = 0;
			assert_int_equal(rig_store(client, &eight), 8);
			gpu.holds_copies = where == WHERES;
			gpu.copy_refusal = where == WHERES + 1 ? -EAGAIN : 0;
			(void)rig_load_begin(client, &eight);
			rig_settle(&rig);
		}
		rig_client_close(client);
		rig_settle(&rig);
		rig_assert_idle(&rig);
		assert_int_equal(server_sessions_count(rig.daemon), 0);
	}
}

static void a_copy_under_way_keeps_slot_and_session(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);

	(void)unused;
	gpu.holds_ends = true;
	(void)store_until(client, COPIED, 0);
	rig_client_close(client);
	rig_pass_time(&rig, 60 * RIG_SECOND);
	assert_int_equal(server_sessions_count(rig.daemon), 1);
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).slots[SLOT_FILLING], 8);
	gpu.holds_ends = false;
	rig_settle(&rig);
	assert_int_equal(server_sessions_count(rig.daemon), 0);
}

static void every_failure_of_a_copy_is_a_store_dropped_or_a_miss(void **unused)
{
	static const int failures[] = { -EIO, -ENODEV, -ETIME, -ECANCELED };
	struct rig_client *client = rig_puller(&rig, NULL);

	(void)unused;
	for (unsigned i = 0; i < 8; i++) {
		int failure = failures[i / 2];
		bool is_refused = i % 2;

		gpu.copy_result = is_refused ? 0 : failure;
		gpu.copy_refusal = is_refused ? failure : 0;
		assert_int_equal(rig_store(client, &eight), 0);
		assert_int_equal(rig_batch_count(&rig_last, failure), 8);
		gpu.copy_result = gpu.copy_refusal = 0;
		assert_int_equal(rig_store(client, &eight), 8);
		gpu.copy_result = is_refused ? 0 : failure;
		gpu.copy_refusal = is_refused ? failure : 0;
		assert_int_equal(rig_load(client, &eight), 0);
		assert_int_equal(rig_batch_count(&rig_last, failure == -ETIME ? -ETIME : -ENOENT),
				 8);
		gpu.copy_result = gpu.copy_refusal = 0;
		/* The slots are not at fault. */
		assert_int_equal(rig_load(client, &eight), 8);
		assert_int_equal(rig_forget(client, client->space), 0);
		rig_settle(&rig);
	}
	assert_int_equal(rig.daemon->counters.damaged[TIER_CPU], 0);
}

static void the_nth_copy_that_fails_costs_one_block(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);

	(void)unused;
	for (unsigned nth = 1; nth <= 8; nth++) {
		struct rig_blocks blocks = eight;

		blocks.first = 100 * nth;
		assert_int_equal(rig_store(client, &blocks), 8);
		gpu.copy_result = -EIO;
		gpu.fail_nth = nth;
		assert_int_equal(rig_load(client, &blocks), 7);
		assert_int_equal(rig_last.results[nth - 1], -ENOENT);
	}
}

static void damage_byte(struct rig_gpu *the_gpu, uint8_t *payload)
{
	(void)the_gpu;
	payload[5000] ^= 1;
}

static void a_slot_that_is_damaged_before_or_during_the_copy_is_a_miss(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);

	(void)unused;
	for (unsigned after = 0; after < 2; after++) {
		struct rig_blocks blocks = eight;

		blocks.first = 100 * (after + 1);
		assert_int_equal(rig_store(client, &blocks), 8);
		rig_settle(&rig);
		gpu.before_copy = after ? NULL : damage_byte;
		gpu.after_copy = after ? damage_byte : NULL;
		assert_int_equal(rig_load(client, &blocks), 0);
		assert_int_equal(rig_batch_count(&rig_last, -EBADMSG), 8);
		gpu.before_copy = gpu.after_copy = NULL;
		assert_int_equal(rig.daemon->counters.damaged[TIER_CPU], 8 * (after + 1));
	}
}

static void a_process_that_dies_ends_every_item_once(void **unused)
{
	(void)unused;
	for (unsigned is_load = 0; is_load < 2; is_load++)
		for (enum where where = 0; where < (is_load ? COPIED : WHERES); where++) {
			struct rig_client *client = rig_puller(&rig, NULL);

			gpu.holds_copies = false;
			gpu.copy_refusal = 0;
			if (is_load) {
				assert_int_equal(rig_store(client, &eight), 8);
				gpu.holds_copies = where == HELD;
				gpu.copy_refusal = where == QUEUED ? -EAGAIN : 0;
				(void)rig_load_begin(client, &eight);
				rig_settle(&rig);
			} else {
				(void)store_until(client, where, 0);
			}
			rig_gpu_die(&gpu);
			rig_settle(&rig);
			assert_int_equal(client->refused, -ECONNRESET);
			rig_client_close(client);
			rig_settle(&rig);
			rig_assert_idle(&rig);
		}
}

static void a_load_whose_copy_is_under_way_ends_by_its_copy_alone(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);
	struct rig_blocks blocks = eight;
	struct rig_batch *batch;

	(void)unused;
	assert_int_equal(rig_store(client, &eight), 8);
	gpu.holds_ends = true;
	blocks.deadline_us = RIG_SECOND;
	batch = rig_load_begin(client, &blocks);
	rig_pass_time(&rig, 2 * RIG_SECOND);
	assert_int_equal(batch->ended, 0);
	gpu.holds_ends = false;
	results_are(batch, 0);
	/* One that has not begun ends at once. */
	gpu.copy_refusal = -EAGAIN;
	batch = rig_load_begin(client, &blocks);
	rig_pass_time(&rig, 2 * RIG_SECOND);
	results_are(batch, -ETIME);
	gpu.copy_refusal = 0;
	gpu.holds_copies = true;
	batch = rig_load_begin(client, &eight);
	rig_settle(&rig);
	rig_cancel(client, batch);
	results_are(batch, -ECANCELED);
}

static void what_is_forgotten_while_it_is_pulled_is_not_stored(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);
	struct rig_batch *batch = store_until(client, COPIED, 0);

	(void)unused;
	assert_int_equal(rig_forget(client, client->space), 0);
	for (unsigned i = 0; i < 8; i++)
		rig_pull_commit(client, batch, i);
	rig_settle(&rig);
	assert_int_equal(batch->ended, 8);
	assert_int_equal(rig_usable(client, 1, 8), 0);
	rig_batch_give(batch);
}

static void a_gate_reaches_the_device(void **unused)
{
	struct rig_client *client = rig_puller(&rig, NULL);
	struct rig_blocks blocks = eight;

	(void)unused;
	assert_int_equal(rig_store(client, &blocks), 8);
	assert_false(gpu.is_gate_seen);
	blocks.gate_value = 7;
	assert_int_equal(rig_load(client, &blocks), 8);
	assert_true(gpu.is_gate_seen);
}

static void a_tenant_that_commits_nothing_leaves_the_other_its_moves(void **unused)
{
	struct rig_client *greedy, *other;
	unsigned held = 0;

	(void)unused;
	start(2);
	greedy = rig_puller(&rig, NULL);
	other = rig_puller(&rig, &(struct rig_engine){ .tenant = 1 });
	for (unsigned i = 0; i < 4; i++) {
		struct rig_blocks blocks = patient;

		blocks.first = 1000 * (i + 1);
		blocks.count = 10;
		(void)rig_store_begin(greedy, &blocks);
		held += 10;
	}
	rig_settle(&rig);
	assert_int_equal(rig.daemon->tenants[0].pulls_count, held);
	assert_true(mover_pulls_max(rig.daemon) * 2 <= MOVES_MAX / 2);
	assert_int_equal(rig_store(other, &eight), 8);
	assert_int_equal(rig_load(other, &eight), 8);
	rig_client_close(greedy);
	(void)end(NULL);
}

static void pulls_in_any_order_of_steps_end_once(void **unused)
{
	(void)unused;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		rig_gpu_init(&gpu);
		rig_init(&rig, &(struct rig_config){
				       .gpu = &gpu, .seed = seed, .mills = 2, .cpu_units = 1 });
		rig.is_shuffled = true;
		struct rig_client *client = rig_puller(&rig, NULL);

		for (unsigned round = 0; round < 12; round++) {
			struct rig_blocks blocks = { .first = 1 + 100 * (round % 4),
						     .count = 30,
						     .version = 1,
						     .is_pull = true };

			if (round % 5 == 4) {
				gpu.copy_result = -EIO;
				gpu.fail_nth = 1 + round;
			}
			(void)rig_store(client, &blocks);
			(void)rig_load(client, &blocks);
		}
		assert_true(client->served > 0);
		(void)end(NULL);
	}
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
		CASE(what_was_pulled_is_found_in_both_tiers_and_comes_back),
		CASE(what_one_engine_pushed_another_pulls_and_the_other_way_round),
		CASE(a_block_is_there_only_once_it_was_committed),
		CASE(a_commit_before_the_copy_closes),
		CASE(a_cancel_ends_a_store_in_each_state),
		CASE(a_deadline_ends_a_store_in_each_state),
		CASE(a_copy_that_ends_after_the_deadline_is_no_block),
		CASE(a_connection_that_ends_in_each_state_leaves_nothing),
		CASE(a_copy_under_way_keeps_slot_and_session),
		CASE(every_failure_of_a_copy_is_a_store_dropped_or_a_miss),
		CASE(the_nth_copy_that_fails_costs_one_block),
		CASE(a_slot_that_is_damaged_before_or_during_the_copy_is_a_miss),
		CASE(a_process_that_dies_ends_every_item_once),
		CASE(a_load_whose_copy_is_under_way_ends_by_its_copy_alone),
		CASE(what_is_forgotten_while_it_is_pulled_is_not_stored),
		CASE(a_gate_reaches_the_device),
		cmocka_unit_test(a_tenant_that_commits_nothing_leaves_the_other_its_moves),
		cmocka_unit_test(pulls_in_any_order_of_steps_end_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
