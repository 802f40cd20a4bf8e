/* tests/daemon/test_fetch_second.c: what the first node of a fetch does not give the second is
 * asked for, while there is time. */
#include "tests/daemon/rig_pair.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct rig other;
static struct rig_client *helper;
static const unsigned both[2] = { 0, 2 };

/* Node 1 takes; nodes 0 and 2 give. */
static void start(void)
{
	const struct rig_config config = { .net = &net, .net_node = 2, .seed = 3 };

	pair_start(NULL, NULL);
	rig_init(&other, &config);
	helper = rig_register(&other, NULL);
	rig_net_join(&net, 1, 2);
	rig_settle(&rigs[1]);
}

static void finish(void)
{
	pair_pass_time(WAIT_US + RIG_SECOND);
	rig_assert_idle(&other);
	rig_stop(&other);
	pair_finish();
	rig_finish(&other);
}

static void help(uint64_t first, unsigned count)
{
	const struct rig_blocks blocks = { .parent = first > 1 ? first - 1 : 0, .first = first,
					   .count = count, .version = 9 };

	assert_int_equal(rig_store(helper, &blocks), count);
	rig_settle(&other);
}

static struct rig_fetch fetch_two(unsigned count, enum frame_fetch_mode mode)
{
	const struct rig_keys keys = { .first = 1, .count = count };

	return rig_fetch_two(taker, both, &keys, mode, WAIT_US);
}

static unsigned brings(struct rig_fetch fetch)
{
	assert_int_equal(fetch.result, 0);
	struct rig_found found = rig_fetch_wait(taker, fetch.id, RIG_SECOND);
	assert_int_equal(found.result, 0);
	return found.usable_tokens / RIG_TOKENS;
}

static void what_the_first_lacks_the_second_gives(void **unused)
{
	(void)unused;
	start();
	pair_give(1, 7);
	help(1, BLOCKS);
	assert_int_equal(brings(fetch_two(BLOCKS, FRAME_FETCH_PRESENT)), BLOCKS);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	for (unsigned i = 0; i < BLOCKS; i++)
		assert_int_equal(rig_last.versions[i], i < 7 ? 7 : 9);
	finish();
}

static void few_blocks_too(void **unused)
{
	(void)unused;
	start();
	pair_give(1, 1);
	help(1, 3);
	assert_int_equal(brings(fetch_two(3, FRAME_FETCH_PRESENT)), 3);
	assert_int_equal(pair_load(3), 3);
	finish();
}

static void nobody_else_is_asked_where_the_first_gives_all(void **unused)
{
	(void)unused;
	start();
	pair_give(1, BLOCKS);
	assert_int_equal(brings(fetch_two(BLOCKS, FRAME_FETCH_PRESENT)), BLOCKS);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	assert_int_equal(other.daemon->peers->sent_blocks, 0);
	finish();
}

static void what_neither_has_is_lost(void **unused)
{
	(void)unused;
	start();
	pair_give(1, 5);
	help(1, 9);
	assert_int_equal(brings(fetch_two(BLOCKS, FRAME_FETCH_PRESENT)), 9);
	assert_int_equal(pair_load(BLOCKS), 9);
	finish();
}

static void loads_wait_for_the_second(void **unused)
{
	(void)unused;
	start();
	pair_give(1, 4);
	help(1, BLOCKS);
	net.holds_blocks = true;
	struct rig_fetch fetch = fetch_two(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(fetch.result, 0);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	rig_settle(&rigs[1]);
	assert_int_equal(batch->ended, 0);
	net.holds_blocks = false;
	rig_settle(&rigs[1]);
	assert_int_equal(rig_batch_count(batch, 0), BLOCKS);
	rig_batch_give(batch);
	finish();
}

/* Blocks of the first are on their way when it dies. */
static void a_first_that_dies(void **unused)
{
	(void)unused;
	start();
	pair_give(1, BLOCKS);
	help(1, BLOCKS);
	net.holds_blocks = true;
	struct rig_fetch fetch = fetch_two(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(fetch.result, 0);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	rig_settle(&rigs[1]);
	rig_net_cut(&net, 0, 1);
	net.holds_blocks = false;
	rig_settle(&rigs[1]);
	assert_int_equal(rig_batch_count(batch, 0), BLOCKS);
	assert_int_equal(other.daemon->peers->sent_blocks, BLOCKS);
	rig_batch_give(batch);
	finish();
}

static void a_first_that_is_not_up(void **unused)
{
	(void)unused;
	start();
	help(1, BLOCKS);
	rig_net_cut(&net, 0, 1);
	rig_settle(&rigs[1]);
	struct rig_fetch fetch = fetch_two(BLOCKS, FRAME_FETCH_PRESENT);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	/* It may come up again in a moment. */
	pair_pass_time(2 * RIG_SECOND - 1);
	assert_int_equal(batch->ended, 0);
	pair_pass_time(1);
	assert_int_equal(rig_batch_count(batch, 0), BLOCKS);
	rig_batch_give(batch);
	rig_fetch_end(taker, fetch.id);
	finish();
}

static void a_first_that_refuses(void **unused)
{
	(void)unused;
	start();
	pair_give(1, BLOCKS);
	help(1, BLOCKS);
	rigs[0].daemon->peers->self.gives_for_tickets_only = true;
	assert_int_equal(brings(fetch_two(BLOCKS, FRAME_FETCH_PRESENT)), BLOCKS);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	assert_int_equal(rigs[1].daemon->peers->fetches_ended[FETCH_GIVEN], 1);
	finish();
}

static unsigned damages_left;

static void byte_flip(struct rig_net *self, uint8_t *payload, uint64_t bytes)
{
	(void)self;
	if (damages_left > 0 && damages_left-- > 0)
		payload[bytes / 2] ^= 1;
}

static void a_first_that_lies(void **unused)
{
	(void)unused;
	start();
	pair_give(1, BLOCKS);
	help(1, BLOCKS);
	damages_left = 3;
	net.after_block = byte_flip;
	struct rig_fetch fetch = fetch_two(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(fetch.result, 0);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	assert_int_equal(rigs[1].daemon->peers->wrong_blocks, 3);
	assert_int_equal(other.daemon->peers->sent_blocks, 3);
	finish();
}

static void a_stream_goes_on_from_the_second(void **unused)
{
	(void)unused;
	start();
	pair_give(1, 4);
	help(1, 8);
	struct rig_fetch fetch = fetch_two(BLOCKS, FRAME_FETCH_STREAM);
	assert_int_equal(fetch.result, 0);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	rig_settle(&rigs[1]);
	assert_int_equal(rig_batch_count(batch, 0), 4);
	rig_net_cut(&net, 0, 1);
	rig_settle(&rigs[1]);
	assert_int_equal(rig_batch_count(batch, 0), 8);
	help(9, BLOCKS - 8);
	rig_settle(&rigs[1]);
	assert_int_equal(rig_batch_count(batch, 0), BLOCKS);
	rig_batch_give(batch);
	finish();
}

static void an_end_is_an_end_for_both(void **unused)
{
	(void)unused;
	start();
	help(1, BLOCKS);
	net.holds_frames = true;
	struct rig_fetch fetch = fetch_two(BLOCKS, FRAME_FETCH_PRESENT);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	rig_fetch_end(taker, fetch.id);
	net.holds_frames = false;
	rig_settle(&rigs[1]);
	assert_int_equal(batch->ended, BLOCKS);
	assert_int_equal(other.daemon->peers->sent_blocks, 0);
	rig_batch_give(batch);
	finish();
}

static void a_second_that_is_not_known_is_refused(void **unused)
{
	const struct rig_keys keys = { .first = 1, .count = 2 };
	const unsigned unknown[2] = { 0, 3 }, same[2] = { 0, 0 };

	(void)unused;
	start();
	pair_give(1, 1);
	assert_int_equal(rig_fetch_two(taker, unknown, &keys, FRAME_FETCH_PRESENT, WAIT_US).result,
			 -ENOENT);
	assert_int_equal(
		brings(rig_fetch_two(taker, same, &keys, FRAME_FETCH_PRESENT, WAIT_US)), 1);
	finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_the_first_lacks_the_second_gives),
		cmocka_unit_test(few_blocks_too),
		cmocka_unit_test(nobody_else_is_asked_where_the_first_gives_all),
		cmocka_unit_test(what_neither_has_is_lost),
		cmocka_unit_test(loads_wait_for_the_second),
		cmocka_unit_test(a_first_that_dies),
		cmocka_unit_test(a_first_that_is_not_up),
		cmocka_unit_test(a_first_that_refuses),
		cmocka_unit_test(a_first_that_lies),
		cmocka_unit_test(a_stream_goes_on_from_the_second),
		cmocka_unit_test(an_end_is_an_end_for_both),
		cmocka_unit_test(a_second_that_is_not_known_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
