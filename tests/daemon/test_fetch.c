/* tests/daemon/test_fetch.c: blocks of another node: asked for, brought here, checked, and given to
 * who waits. */
#include "daemon/fetch_parts.h"
#include "tests/daemon/rig_pair.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void blocks_come_here_and_stay(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	assert_int_equal(rig_usable(taker, 1, BLOCKS), 0);
	struct rig_fetch fetch = pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(fetch.result, 0);
	struct rig_found found = rig_fetch_wait(taker, fetch.id, RIG_SECOND);
	assert_int_equal(found.result, 0);
	assert_int_equal(found.usable_tokens, BLOCKS * RIG_TOKENS);
	assert_int_equal(found.worth_tokens, BLOCKS * RIG_TOKENS);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	for (unsigned i = 0; i < BLOCKS; i++)
		assert_int_equal(rig_last.versions[i], 7);
	assert_int_equal(net.blocks_ever, BLOCKS);
	assert_int_equal(rigs[1].daemon->counters.fetched_blocks, BLOCKS);
	assert_int_equal(rig_usable(taker, 1, BLOCKS), BLOCKS);
	rig_fetch_end(taker, fetch.id);
	/* What is here is not asked for again. */
	fetch = pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	found = rig_fetch_wait(taker, fetch.id, RIG_SECOND);
	assert_int_equal(found.usable_tokens, BLOCKS * RIG_TOKENS);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	assert_int_equal(net.blocks_ever, BLOCKS);
	pair_finish();
}

static void what_lies_on_nvme_is_raised_first(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	rig_drop_cpu(giver, 0, 1, BLOCKS);
	struct rig_fetch fetch = pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(rig_fetch_wait(taker, fetch.id, RIG_SECOND).usable_tokens,
			 BLOCKS * RIG_TOKENS);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	assert_int_equal(rigs[0].daemon->counters.up_blocks, BLOCKS);
	pair_finish();
}

static void only_what_is_there_is_promised(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, 7);
	struct rig_fetch fetch = pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	struct rig_found found = rig_fetch_wait(taker, fetch.id, RIG_SECOND);
	assert_int_equal(found.usable_tokens, 7 * RIG_TOKENS);
	assert_int_equal(pair_load(BLOCKS), 7);
	pair_finish();
}

static void a_stream_brings_what_gets_there_later(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, 4);
	struct rig_fetch fetch = pair_fetch(BLOCKS, FRAME_FETCH_STREAM);
	struct rig_found found = rig_fetch_wait(taker, fetch.id, RIG_SECOND);
	assert_int_equal(found.usable_tokens, BLOCKS * RIG_TOKENS);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	rig_settle(&rigs[1]);
	assert_int_equal(rig_batch_count(batch, 0), 4);
	for (unsigned i = 4; i < BLOCKS; i += 4) {
		pair_give(i + 1, 4);
		rig_settle(&rigs[1]);
		assert_int_equal(rig_batch_count(batch, 0), i + 4);
	}
	rig_batch_give(batch);
	pair_finish();
}

/* The second block is not there yet when the first of it is said. */
static bool second_hide(struct rig_net *self, unsigned from, unsigned to, void *frame)
{
	struct peer_grant *grant = frame;

	(void)self;
	(void)from;
	(void)to;
	if (grant->header.type == PEER_GRANT && !peer_grant_has(grant, BLOCKS - 1)) {
		assert_true(peer_grant_has(grant, 1));
		((uint8_t *)(grant + 1))[0] &= (uint8_t)~2u;
	}
	return true;
}

static void a_streams_blocks_may_be_there_in_any_order(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS - 1);
	net.before_frame = second_hide;
	struct rig_fetch fetch = pair_fetch(BLOCKS, FRAME_FETCH_STREAM);
	(void)rig_fetch_wait(taker, fetch.id, RIG_SECOND);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	rig_settle(&rigs[1]);
	assert_int_equal(rig_batch_count(batch, 0), 1);
	pair_give(BLOCKS, 1);
	rig_settle(&rigs[1]);
	assert_int_equal(rig_batch_count(batch, 0), BLOCKS);
	rig_batch_give(batch);
	net.before_frame = NULL;
	pair_finish();
}

/* Those that waited for it end with it. */
static bool second_never(struct rig_net *self, unsigned from, unsigned to, void *frame)
{
	struct peer_grant *grant = frame;

	(void)self;
	(void)from;
	(void)to;
	if (grant->header.type == PEER_GRANT) {
		((uint8_t *)(grant + 1))[0] &= (uint8_t)~2u;
		if (peer_grant_has(grant, BLOCKS - 1))
			grant->header.flags |= PEER_GRANT_FINAL;
	}
	return true;
}

static void what_waited_for_a_block_that_never_comes_is_lost_at_once(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS - 1);
	net.before_frame = second_never;
	struct rig_fetch fetch = pair_fetch(BLOCKS, FRAME_FETCH_STREAM);
	(void)rig_fetch_wait(taker, fetch.id, RIG_SECOND);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	pair_give(BLOCKS, 1);
	rig_settle(&rigs[1]);
	assert_int_equal(batch->ended, BLOCKS);
	assert_int_equal(rig_batch_count(batch, 0), 1);
	rig_batch_give(batch);
	net.before_frame = NULL;
	pair_finish();
}

static void a_stream_that_is_not_kept_ends_in_time(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, 4);
	struct rig_fetch fetch = pair_fetch(BLOCKS, FRAME_FETCH_STREAM);
	assert_int_equal(rig_fetch_wait(taker, fetch.id, RIG_SECOND).usable_tokens,
			 BLOCKS * RIG_TOKENS);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	pair_pass_time(WAIT_US - 1);
	assert_int_equal(batch->ended, 4);
	pair_pass_time(1);
	assert_int_equal(batch->ended, BLOCKS);
	rig_batch_give(batch);
	pair_finish();
}

static unsigned asked, granted;

/* Until the first GRANT. */
static bool fetches_count_early(struct rig_net *self, unsigned from, unsigned to, void *frame)
{
	const struct peer_frame_header *header = frame;

	(void)self;
	(void)from;
	(void)to;
	granted += header->type == PEER_GRANT;
	asked += header->type == PEER_FETCH && granted == 0;
	return true;
}

static unsigned asked_early(unsigned count, enum frame_fetch_mode mode)
{
	asked = granted = 0;
	net.before_frame = fetches_count_early;
	(void)pair_fetch(count, mode);
	rig_settle(&rigs[1]);
	assert_int_equal(granted, 1);
	net.before_frame = NULL;
	return asked;
}

static void few_blocks_are_asked_for_before_they_are_granted(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	assert_int_equal(asked_early(4, FRAME_FETCH_PRESENT), 4);
	assert_int_equal(rig_usable(taker, 1, 4), 4);
	/* Four are here; the others are too many. */
	assert_int_equal(asked_early(9, FRAME_FETCH_PRESENT), 0);
	assert_int_equal(rig_usable(taker, 1, 9), 9);
	assert_int_equal(asked_early(11, FRAME_FETCH_STREAM), 0);
	pair_finish();
}

static unsigned answered_early;

static bool failures_look(struct rig_net *self, unsigned from, unsigned to, void *frame)
{
	const struct peer_frame_header *header = frame;

	(void)from;
	if (header->type == PEER_FAILED) {
		struct list *live = &self->nodes[to].rig->daemon->peers->fetches->live;

		answered_early += list_item(list_first(live), struct fetch, link)->is_answered;
	}
	return true;
}

static void what_was_asked_for_too_early_is_promised_to_nobody(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, 2);
	net.before_frame = failures_look;
	struct rig_fetch fetch = pair_fetch(4, FRAME_FETCH_PRESENT);
	struct rig_found found = rig_fetch_wait(taker, fetch.id, RIG_SECOND);
	/* Who hears of it may ask elsewhere, so nothing is on its way any more. */
	assert_int_equal(answered_early, 0);
	net.before_frame = NULL;
	assert_int_equal(found.usable_tokens, 2 * RIG_TOKENS);
	assert_int_equal(pair_load(4), 2);
	assert_int_equal(rig_last.results[2], -ENOENT);
	assert_int_equal(net.blocks_ever, 2);
	/* Refused as a whole. */
	giver->rig->daemon->peers->self.gives_for_tickets_only = true;
	const struct rig_keys others = { .first = 11, .count = 3 };
	fetch = rig_fetch(taker, 0, &others, 1, FRAME_FETCH_PRESENT, WAIT_US);
	found = rig_fetch_wait(taker, fetch.id, RIG_SECOND);
	assert_int_equal(found.usable_tokens, 0);
	pair_finish();
}

/* ---- what lies ---- */

static unsigned damages_left;

static void byte_flip(struct rig_net *self, uint8_t *payload, uint64_t bytes)
{
	(void)self;
	if (damages_left > 0 && damages_left-- == 1)
		payload[bytes / 2] ^= 1;
}

static void bytes_that_are_not_those_of_the_checksums_are_no_block(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	damages_left = 3;
	net.after_block = byte_flip;
	struct rig_fetch fetch = pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(rig_fetch_wait(taker, fetch.id, RIG_SECOND).usable_tokens,
			 BLOCKS * RIG_TOKENS);
	assert_int_equal(pair_load(BLOCKS), BLOCKS - 1);
	assert_int_equal(rig_last.results[2], -ENOENT);
	assert_int_equal(rigs[1].daemon->peers->wrong_blocks, 1);
	assert_int_equal(rig_usable(taker, 1, BLOCKS), 2);
	/* Asked for again, it comes. */
	fetch = pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	pair_finish();
}

static void (*identity_change)(struct slot_identity *identity);

static bool identity_lie(struct rig_net *self, unsigned from, unsigned to, void *frame)
{
	struct peer_block *block = frame;

	(void)self;
	(void)from;
	(void)to;
	if (block->header.type == PEER_BLOCK && block->tag % 5 == 3)
		identity_change((struct slot_identity *)(block + 1));
	return true;
}

static void lie_space(struct slot_identity *identity) { identity->space[3] ^= 1; }
static void lie_hash(struct slot_identity *identity) { identity->hash[31] ^= 1; }
static void lie_group(struct slot_identity *identity) { identity->group++; }
static void lie_shard(struct slot_identity *identity) { identity->shard++; }
static void lie_bytes_less(struct slot_identity *identity) { identity->payload_bytes--; }
static void lie_bytes_more(struct slot_identity *identity) { identity->payload_bytes += 1u << 20; }
static void lie_tokens(struct slot_identity *identity) { identity->tokens *= 2; }
static void lie_segments(struct slot_identity *identity) { identity->segments_count = 256; }
static void lie_key(struct slot_identity *identity) { identity->key_id = 1; }
static void lie_world(struct slot_identity *identity) { identity->shards_count = 2; }
static void lie_checksum(struct slot_identity *identity) { identity->segment_crcs[4] ^= 1; }

static void a_peer_that_lies_about_a_block_gives_none(void **unused)
{
	void (*const lies[])(struct slot_identity *) = {
		lie_space, lie_hash, lie_group, lie_shard, lie_bytes_less,
		lie_bytes_more, lie_tokens, lie_segments, lie_key, lie_world, lie_checksum,
	};

	(void)unused;
	for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		pair_start(NULL, NULL);
		pair_give(1, BLOCKS);
		identity_change = lies[i];
		net.before_frame = identity_lie;
		(void)pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
		assert_int_equal(pair_load(BLOCKS), BLOCKS - BLOCKS / 5);
		assert_int_equal(rigs[1].daemon->peers->wrong_blocks, BLOCKS / 5);
		pair_finish();
	}
}

static bool block_is_lost(struct rig_net *self, unsigned from, unsigned to, void *frame)
{
	const struct peer_block *block = frame;

	(void)self;
	(void)from;
	(void)to;
	return block->header.type != PEER_BLOCK || block->tag % 5 != 3;
}

static void bytes_without_their_name_are_no_block(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	net.before_frame = block_is_lost;
	(void)pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	pair_pass_time(WAIT_US - 1);
	assert_int_equal(rig_batch_count(batch, 0), BLOCKS - BLOCKS / 5);
	pair_pass_time(1);
	assert_int_equal(batch->ended, BLOCKS);
	rig_batch_give(batch);
	pair_finish();
}

/* ---- who may ask, and for what ---- */

static void refusals_say_why(void **unused)
{
	const struct rig_engine other = { .name = "other", .model = "another model" };
	const struct rig_keys keys = { .first = 1, .count = 3 };
	const struct rig_keys wrong = { .group = 1, .first = 1, .count = 3 };

	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	assert_int_equal(rig_fetch(taker, 3, &keys, 1, FRAME_FETCH_PRESENT, WAIT_US).result,
			 -ENOENT);
	assert_int_equal(rig_fetch(taker, 0, &wrong, 1, FRAME_FETCH_PRESENT, WAIT_US).result,
			 -EINVAL);
	/* Blocks of a model that the giver does not know. */
	struct rig_client *stranger = rig_register(&rigs[1], &other);
	struct rig_fetch fetch = rig_fetch(stranger, 0, &keys, 1, FRAME_FETCH_PRESENT, WAIT_US);
	assert_int_equal(fetch.result, 0);
	assert_int_equal(rig_fetch_wait(stranger, fetch.id, RIG_SECOND).usable_tokens, 0);
	/* It is nobody else's. */
	assert_int_equal(rig_fetch_wait(taker, fetch.id, 0).result, -ESTALE);
	pair_finish();
}

static void a_node_without_peers_refuses(void **unused)
{
	const struct rig_keys keys = { .first = 1, .count = 3 };
	struct rig rig;

	(void)unused;
	rig_init(&rig, NULL);
	struct rig_client *client = rig_register(&rig, NULL);
	assert_int_equal(rig_fetch(client, 0, &keys, 1, FRAME_FETCH_PRESENT, WAIT_US).result,
			 -ENOTSUP);
	rig_finish_idle(&rig);
}

static void fetches_are_counted(void **unused)
{
	struct rig_fetch fetches[FETCHES_MAX + 1];

	(void)unused;
	pair_start(NULL, NULL);
	net.holds_frames = true;
	for (unsigned i = 0; i <= FETCHES_MAX; i++)
		fetches[i] = pair_fetch(3, FRAME_FETCH_PRESENT);
	assert_int_equal(fetches[FETCHES_MAX - 1].result, 0);
	assert_int_equal(fetches[FETCHES_MAX].result, -EBUSY);
	net.holds_frames = false;
	for (unsigned i = 0; i < FETCHES_MAX; i++)
		rig_fetch_end(taker, fetches[i].id);
	assert_int_equal(fetches_count(rigs[1].daemon->peers), 0);
	pair_finish();
}

static void all_shards_of_a_block_come(void **unused)
{
	struct rig_engine ranks[2] = { { .world = 2, .shard = 0 }, { .world = 2, .shard = 1 } };
	struct rig_client *givers[2], *takers[2];
	const struct rig_keys keys = { .first = 1, .count = BLOCKS };
	const struct rig_blocks blocks = { .first = 1, .count = BLOCKS, .version = 7,
					   .deadline_us = WAIT_US };

	(void)unused;
	pair_start(&ranks[0], NULL);
	givers[0] = giver;
	takers[0] = taker;
	givers[1] = rig_register(&rigs[0], &ranks[1]);
	takers[1] = rig_register(&rigs[1], &ranks[1]);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(rig_store(givers[i], &blocks), BLOCKS);
	rig_settle(&rigs[0]);
	struct rig_fetch fetch = rig_fetch(takers[0], 0, &keys, 1, FRAME_FETCH_PRESENT, WAIT_US);
	assert_int_equal(rig_fetch_wait(takers[0], fetch.id, RIG_SECOND).usable_tokens,
			 BLOCKS * RIG_TOKENS);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(rig_load(takers[i], &blocks), BLOCKS);
	assert_int_equal(net.blocks_ever, 2 * BLOCKS);
	pair_finish();
}

static void a_network_that_is_full_delays(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	net.frames_refused = 3;
	struct rig_fetch fetch = pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(rig_fetch_wait(taker, fetch.id, RIG_SECOND).usable_tokens,
			 BLOCKS * RIG_TOKENS);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	pair_finish();
}

static void both_sides_may_ask(void **unused)
{
	const struct rig_keys keys = { .first = 101, .count = BLOCKS };
	const struct rig_blocks blocks = { .first = 101, .count = BLOCKS, .version = 9,
					   .deadline_us = WAIT_US };

	(void)unused;
	pair_start(NULL, NULL);
	rig_net_join(&net, 0, 1);
	rig_net_cut(&net, 0, 1);
	rig_net_mend(&net, 0, 1);
	rig_settle(&rigs[1]);
	pair_give(1, BLOCKS);
	assert_int_equal(rig_store(taker, &blocks), BLOCKS);
	rig_settle(&rigs[1]);
	(void)pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	(void)rig_fetch(giver, 1, &keys, 1, FRAME_FETCH_PRESENT, WAIT_US);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	assert_int_equal(rig_load(giver, &blocks), BLOCKS);
	pair_finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_come_here_and_stay),
		cmocka_unit_test(what_lies_on_nvme_is_raised_first),
		cmocka_unit_test(only_what_is_there_is_promised),
		cmocka_unit_test(few_blocks_are_asked_for_before_they_are_granted),
		cmocka_unit_test(what_was_asked_for_too_early_is_promised_to_nobody),
		cmocka_unit_test(a_stream_brings_what_gets_there_later),
		cmocka_unit_test(a_streams_blocks_may_be_there_in_any_order),
		cmocka_unit_test(what_waited_for_a_block_that_never_comes_is_lost_at_once),
		cmocka_unit_test(a_stream_that_is_not_kept_ends_in_time),
		cmocka_unit_test(bytes_that_are_not_those_of_the_checksums_are_no_block),
		cmocka_unit_test(a_peer_that_lies_about_a_block_gives_none),
		cmocka_unit_test(bytes_without_their_name_are_no_block),
		cmocka_unit_test(refusals_say_why),
		cmocka_unit_test(a_node_without_peers_refuses),
		cmocka_unit_test(fetches_are_counted),
		cmocka_unit_test(all_shards_of_a_block_come),
		cmocka_unit_test(a_network_that_is_full_delays),
		cmocka_unit_test(both_sides_may_ask),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
