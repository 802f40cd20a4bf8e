/* tests/daemon/test_daemon_life.c: the life of a block, of several shards and of several groups. */
#include "tests/daemon/rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>

static void a_stored_block_is_written_down_evicted_and_loaded_proven(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	rig.is_checked = true;
	assert_int_equal(
		rig_store(client, &(struct rig_blocks){ .first = 1, .count = 10, .version = 7 }),
		10);
	assert_int_equal(rig_batch_count(&rig_last, 0), 10);
	rig_settle(&rig);
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).copies_whole, 10);
	assert_int_equal(rig_figures(&rig, 0, TIER_NVME).copies_whole, 10);
	assert_int_equal(rig_load(client, &(struct rig_blocks){ .first = 1, .count = 10 }), 10);
	assert_int_equal(rig_last.items[3].tier, TIER_CPU);
	rig_drop_cpu(client, 0, 1, 10);
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).copies_whole, 0);
	assert_int_equal(rig_usable(client, 1, 10), 10);
	assert_int_equal(rig_load(client, &(struct rig_blocks){ .first = 1, .count = 10 }), 10);
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(rig_last.items[i].tier, TIER_NVME);
		assert_int_equal(rig_last.versions[i], 7);
	}
	assert_int_equal(
		rig_store(client, &(struct rig_blocks){ .first = 1, .count = 10, .version = 8 }),
		10);
	assert_int_equal(rig_batch_count(&rig_last, 1), 10);
	rig_finish_idle(&rig);
}

static void a_full_cpu_tier_gives_way_and_every_block_still_loads_from_nvme(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	unsigned blocks = 3 * 2 * RIG_SLOTS_A_UNIT;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	for (unsigned i = 0; i < blocks; i += 21)
		assert_int_equal(rig_store(client, &(struct rig_blocks){ .parent = i,
									 .first = i + 1,
									 .count = 21,
									 .version = 1 }),
				 21);
	rig_settle(&rig);
	assert_true(rig.daemon->counters.evictions[TIER_CPU] > 0);
	for (unsigned i = 0; i < blocks; i += 21)
		assert_int_equal(
			rig_load(client, &(struct rig_blocks){ .first = i + 1, .count = 21 }), 21);
	rig_finish_idle(&rig);
}

static void what_was_never_stored_misses(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_usable(client, 1, 10), 0);
	assert_int_equal(rig_load(client, &(struct rig_blocks){ .first = 1, .count = 10 }), 0);
	assert_int_equal(rig_batch_count(&rig_last, -ENOENT), 10);
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

static void a_store_of_other_bytes_than_committed_fails_and_may_be_repeated(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	struct rig_batch *batch;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	batch = rig_store_begin(client,
				&(struct rig_blocks){ .first = 1, .count = 3, .version = 1 });
	rig_settle(&rig);
	rig_store_commit(client, batch);
	client->window[client->window_at - 400] ^= 1; /* inside the zeros behind the last block */
	client->window[100] ^= 1;
	rig_settle(&rig);
	assert_int_equal(batch->results[0], -EBADMSG);
	assert_int_equal(rig.daemon->counters.store_checksum_failures, 1);
	rig_assert_idle(&rig);
	assert_int_equal(rig_load(client, &(struct rig_blocks){ .first = 1, .count = 1 }), 0);
	rig_batch_give(batch);
	assert_int_equal(
		rig_store(client, &(struct rig_blocks){ .first = 1, .count = 3, .version = 2 }), 3);
	assert_int_equal(rig_load(client, &(struct rig_blocks){ .first = 1, .count = 3 }), 3);
	rig_finish(&rig);
}

static void a_tier_without_nvme_serves_from_cpu_alone(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .no_nvme = true });
	client = rig_register(&rig, NULL);
	assert_int_equal(
		rig_store(client, &(struct rig_blocks){ .first = 1, .count = 20, .version = 2 }),
		20);
	assert_int_equal(rig_load(client, &(struct rig_blocks){ .first = 1, .count = 20 }), 20);
	rig_finish_idle(&rig);
}

static struct rig_client *rank_open(struct rig *rig, unsigned shard)
{
	return rig_register(rig, &(struct rig_engine){ .world = 2, .shard = shard });
}

static void a_block_of_two_shards_is_found_only_when_both_are_there(void **unused)
{
	struct rig rig;
	struct rig_client *ranks[2];
	struct rig_keys keys = { .first = 1, .count = 4 };

	(void)unused;
	rig_init(&rig, NULL);
	rig.is_checked = true;
	ranks[0] = rank_open(&rig, 0);
	assert_int_equal(ranks[0]->ranks_missing, 1);
	assert_int_equal(rig_lookup(ranks[0], &keys, 1, 0).result, -EAGAIN);
	ranks[1] = rank_open(&rig, 1);
	assert_int_equal(ranks[1]->ranks_missing, 0);
	assert_int_equal(
		rig_store(ranks[0], &(struct rig_blocks){ .first = 1, .count = 4, .version = 1 }),
		4);
	rig_settle(&rig);
	assert_int_equal(rig_usable(ranks[0], 1, 4), 0);
	assert_int_equal(rig_load(ranks[0], &(struct rig_blocks){ .first = 1, .count = 4 }), 0);
	assert_int_equal(rig_explain(ranks[0], 0, 1).reason, FRAME_REASON_SHARDS_MISSING);
	assert_int_equal(
		rig_store(ranks[1], &(struct rig_blocks){ .first = 1, .count = 4, .version = 1 }),
		4);
	rig_settle(&rig);
	assert_int_equal(rig_usable(ranks[0], 1, 4), 4);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(rig_load(ranks[i], &(struct rig_blocks){ .first = 1, .count = 4 }),
				 4);
	rig_drop_cpu(ranks[0], 0, 1, 4);
	rig_drop_cpu(ranks[1], 0, 1, 4);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(rig_load(ranks[i], &(struct rig_blocks){ .first = 1, .count = 4 }),
				 4);
	rig_finish_idle(&rig);
}

static void without_one_of_its_ranks_an_engine_is_not_ready(void **unused)
{
	struct rig rig;
	struct rig_client *ranks[2];
	struct rig_keys keys = { .first = 1, .count = 2 };

	(void)unused;
	rig_init(&rig, NULL);
	ranks[0] = rank_open(&rig, 0);
	ranks[1] = rank_open(&rig, 1);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(
			rig_store(ranks[i],
				  &(struct rig_blocks){ .first = 1, .count = 2, .version = 1 }),
			2);
	assert_int_equal(rig_usable(ranks[0], 1, 2), 2);
	rig_client_close(ranks[1]);
	rig_settle(&rig);
	assert_int_equal(rig_lookup(ranks[0], &keys, 1, 0).result, -EAGAIN);
	ranks[1] = rank_open(&rig, 1);
	assert_int_equal(rig_usable(ranks[0], 1, 2), 2);
	rig_finish(&rig);
}

/* A rank that came back is there, however late the daemon notices that it had gone. */
static void the_late_end_of_a_ranks_first_connection_does_not_take_the_rank_away(void **unused)
{
	struct rig rig;
	struct rig_client *ranks[2], *again;
	struct rig_keys keys = { .first = 1, .count = 1 };

	(void)unused;
	rig_init(&rig, NULL);
	ranks[0] = rank_open(&rig, 0);
	ranks[1] = rank_open(&rig, 1);
	again = rank_open(&rig, 1);
	assert_int_equal(again->ranks_missing, 0);
	rig_client_close(ranks[1]);
	rig_settle(&rig);
	assert_int_equal(rig_lookup(again, &keys, 1, 0).result, 0);
	rig_client_close(again);
	rig_settle(&rig);
	assert_int_equal(rig_lookup(ranks[0], &keys, 1, 0).result, -EAGAIN);
	rig_finish(&rig);
}

/* Its half stays away: the other half is no hit, and both can be stored again. */
/* -EINVAL would keep libkvtier away for good. */
static void attaching_to_a_registration_that_has_gone_asks_to_register_again(void **unused)
{
	struct rig rig;
	struct rig_client *client, *other;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	other = rig_client_open(&rig, NULL);
	assert_int_equal(rig_client_connect(other, FRAME_DATA), 0);
	other->token = client->token;
	rig_client_close(client);
	rig_settle(&rig);
	assert_int_equal(rig_client_attach(other), -ESTALE);
	rig_finish(&rig);
}

static void a_rank_that_dies_in_a_store_leaves_no_half_hits(void **unused)
{
	(void)unused;
	for (unsigned steps = 0; steps < 12; steps++) {
		struct rig rig;
		struct rig_client *ranks[2];
		struct rig_blocks blocks = { .first = 1, .count = 4, .version = 1 };
		struct rig_batch *batch;

		rig_init(&rig, NULL);
		ranks[0] = rank_open(&rig, 0);
		ranks[1] = rank_open(&rig, 1);
		assert_int_equal(rig_store(ranks[0], &blocks), 4);
		batch = rig_store_begin(ranks[1], &blocks);
		for (unsigned i = 0; i < steps; i++)
			(void)rig_step(&rig);
		if (batch->is_replied && steps % 2 == 0)
			rig_store_commit(ranks[1], batch);
		rig_client_close(ranks[1]);
		rig_pass_time(&rig, RIG_DEADLINE_US);
		rig_assert_idle(&rig);
		ranks[1] = rank_open(&rig, 1);
		unsigned usable = rig_usable(ranks[0], 1, 4);
		for (unsigned i = 0; i < 2; i++)
			assert_int_equal(rig_load(ranks[i], &blocks), usable);
		for (unsigned i = 0; i < 2; i++)
			assert_int_equal(rig_store(ranks[i], &blocks), 4);
		assert_int_equal(rig_usable(ranks[0], 1, 4), 4);
		for (unsigned i = 0; i < 2; i++)
			assert_int_equal(rig_load(ranks[i], &blocks), 4);
		rig_finish_idle(&rig);
	}
}

static void a_rank_with_another_model_is_refused_and_the_engine_goes_on(void **unused)
{
	struct rig rig;
	struct rig_client *first, *second;

	(void)unused;
	rig_init(&rig, NULL);
	first = rig_register(&rig, NULL);
	assert_int_equal(
		rig_store(first, &(struct rig_blocks){ .first = 1, .count = 2, .version = 1 }), 2);
	second = rig_client_open(&rig, &(struct rig_engine){ .model = "another" });
	assert_int_equal(rig_client_connect(second, FRAME_CONTROL), 0);
	assert_int_equal(rig_client_say_register(second), -EPERM);
	assert_int_equal(rig_usable(first, 1, 2), 2);
	rig_finish(&rig);
}

static const struct rig_engine hybrid = {
	.groups_count = 3,
	.groups = {
		{ .kind = FRAME_GROUP_FULL, .tokens_per_block = 16, .payload_bytes = 20000,
		  .segments_count = 5 },
		{ .kind = FRAME_GROUP_WINDOW, .tokens_per_block = 16, .payload_bytes = 8000,
		  .segments_count = 1, .window_tokens = 32 },
		{ .kind = FRAME_GROUP_STATE, .tokens_per_block = 16, .payload_bytes = 50000,
		  .segments_count = 3 },
	},
};

static struct rig_found hybrid_find(struct rig_client *client)
{
	struct rig_keys keys[3] = {
		{ .group = 0, .first = 100, .count = 8 },
		{ .group = 1, .first = 200, .count = 8 },
		{ .group = 2, .first = 300, .count = 8 },
	};

	return rig_lookup(client, keys, 3, 0);
}

static void hybrid_store(struct rig_client *client, unsigned group, unsigned first, unsigned count)
{
	struct rig_blocks blocks = {
		.group = group, .first = 100 * (group + 1) + first, .count = count, .version = 1
	};

	assert_int_equal(rig_store(client, &blocks), count);
}

static void window_and_state_groups_need_their_tail_only(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, &hybrid);
	hybrid_store(client, 0, 0, 8);
	assert_int_equal(hybrid_find(client).usable_tokens, 0);
	hybrid_store(client, 2, 5, 1);
	assert_int_equal(hybrid_find(client).usable_tokens, 0);
	/* The window group has blocks 4 and 5: enough for the 32 tokens before position 96. */
	hybrid_store(client, 1, 4, 2);
	assert_int_equal(hybrid_find(client).usable_tokens, 96);
	hybrid_store(client, 2, 7, 1);
	assert_int_equal(hybrid_find(client).usable_tokens, 96);
	hybrid_store(client, 1, 6, 2);
	assert_int_equal(hybrid_find(client).usable_tokens, 128);
	assert_int_equal(
		rig_load(client, &(struct rig_blocks){ .group = 2, .first = 307, .count = 1 }), 1);
	assert_int_equal(
		rig_load(client, &(struct rig_blocks){ .group = 1, .first = 206, .count = 2 }), 2);
	rig_finish_idle(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stored_block_is_written_down_evicted_and_loaded_proven),
		cmocka_unit_test(a_full_cpu_tier_gives_way_and_every_block_still_loads_from_nvme),
		cmocka_unit_test(what_was_never_stored_misses),
		cmocka_unit_test(a_store_of_other_bytes_than_committed_fails_and_may_be_repeated),
		cmocka_unit_test(a_tier_without_nvme_serves_from_cpu_alone),
		cmocka_unit_test(a_block_of_two_shards_is_found_only_when_both_are_there),
		cmocka_unit_test(without_one_of_its_ranks_an_engine_is_not_ready),
		cmocka_unit_test(
			the_late_end_of_a_ranks_first_connection_does_not_take_the_rank_away),
		cmocka_unit_test(attaching_to_a_registration_that_has_gone_asks_to_register_again),
		cmocka_unit_test(a_rank_that_dies_in_a_store_leaves_no_half_hits),
		cmocka_unit_test(a_rank_with_another_model_is_refused_and_the_engine_goes_on),
		cmocka_unit_test(window_and_state_groups_need_their_tail_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
