/* tests/daemon/test_fetch_faults.c: what becomes of fetches when lines, nodes and engines break. */
#include "tests/daemon/rig_pair.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void a_line_that_is_cut_ends_every_wait_at_once(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	net.holds_blocks = true;
	struct rig_fetch fetch = pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(rig_fetch_wait(taker, fetch.id, RIG_SECOND).usable_tokens,
			 BLOCKS * RIG_TOKENS);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	rig_settle(&rigs[1]);
	assert_int_equal(batch->ended, 0);
	assert_int_not_equal(rig_figures(&rigs[0], 0, TIER_CPU).holds, 0);
	rig_net_cut(&net, 0, 1);
	rig_settle(&rigs[1]);
	assert_int_equal(rig_batch_count(batch, -ENOENT), BLOCKS);
	assert_int_equal(rig_figures(&rigs[0], 0, TIER_CPU).holds, 0);
	assert_int_equal(grants_count(rigs[0].daemon->peers), 0);
	rig_batch_give(batch);
	/* Nothing is asked of who is not there; once it is mended it goes on by itself. */
	net.holds_blocks = false;
	fetch = pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(rig_fetch_wait(taker, fetch.id, 0).result, -EAGAIN);
	rig_net_mend(&net, 0, 1);
	rig_settle(&rigs[1]);
	assert_int_equal(rig_fetch_wait(taker, fetch.id, 0).usable_tokens, BLOCKS * RIG_TOKENS);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	pair_finish();
}

static void a_node_that_is_never_there_costs_two_seconds(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	rig_net_cut(&net, 0, 1);
	struct rig_fetch fetch = pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(fetch.result, 0);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	pair_pass_time(2 * RIG_SECOND - 1);
	assert_int_equal(batch->ended, 0);
	pair_pass_time(1);
	assert_int_equal(rig_batch_count(batch, -ENOENT), BLOCKS);
	rig_batch_give(batch);
	/* And that once: from then on it is asked in vain without any wait. */
	fetch = pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(rig_fetch_wait(taker, fetch.id, RIG_SECOND).usable_tokens, 0);
	assert_int_equal(pair_load(BLOCKS), 0);
	pair_finish();
}

static void a_block_that_is_lost_on_the_way_is_a_miss(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	net.blocks_lost = 3;
	(void)pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(pair_load(BLOCKS), BLOCKS - 3);
	pair_finish();
}

static void what_hangs_ends_at_the_deadline(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	net.holds_blocks = true;
	(void)pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	pair_pass_time(WAIT_US - 1);
	assert_int_equal(batch->ended, 0);
	pair_pass_time(1);
	assert_int_equal(batch->ended, BLOCKS);
	rig_batch_give(batch);
	rig_settle(&rigs[1]);
	assert_int_equal(grants_count(rigs[0].daemon->peers), 0);
	assert_int_equal(fetches_arrivals_count(rigs[1].daemon->peers), 0);
	pair_finish();
}

static void an_engine_that_leaves_gives_everything_back(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	net.holds_blocks = true;
	(void)pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	(void)pair_load_begin(BLOCKS);
	rig_settle(&rigs[1]);
	assert_int_not_equal(fetches_arrivals_count(rigs[1].daemon->peers), 0);
	rig_client_close(taker);
	rig_settle(&rigs[1]);
	rig_assert_idle(&rigs[0]);
	rig_assert_idle(&rigs[1]);
	pair_finish();
}

static void an_end_stops_what_is_on_its_way(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	net.holds_blocks = true;
	struct rig_fetch fetch = pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	rig_settle(&rigs[1]);
	rig_fetch_end(taker, fetch.id);
	assert_int_equal(rig_batch_count(batch, -ENOENT), BLOCKS);
	rig_batch_give(batch);
	rig_assert_idle(&rigs[0]);
	rig_assert_idle(&rigs[1]);
	assert_int_equal(rig_fetch_wait(taker, fetch.id, 0).result, -ESTALE);
	pair_finish();
}

static void a_load_that_is_cancelled_waits_no_more(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	net.holds_blocks = true;
	(void)pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	rig_settle(&rigs[1]);
	rig_cancel(taker, batch);
	rig_settle(&rigs[1]);
	assert_int_equal(rig_batch_count(batch, -ECANCELED), BLOCKS);
	rig_batch_give(batch);
	net.holds_blocks = false;
	rig_settle(&rigs[1]);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	pair_finish();
}

static void a_giver_that_stops_says_so(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, 4);
	(void)pair_fetch(BLOCKS, FRAME_FETCH_STREAM);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	rig_settle(&rigs[1]);
	rig_stop(&rigs[0]);
	rig_settle(&rigs[1]);
	assert_int_equal(batch->ended, BLOCKS);
	rig_batch_give(batch);
	rig_start(&rigs[0]);
	giver = rig_register(&rigs[0], NULL);
	pair_finish();
}

static void a_giver_that_was_killed_is_asked_anew(void **unused)
{
	const struct rig_config config = { .has_cpu_file = true };

	(void)unused;
	pair_start(NULL, &config);
	pair_give(1, BLOCKS);
	net.holds_blocks = true;
	(void)pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	rig_settle(&rigs[1]);
	rig_net_die(&net, 0);
	rig_crash(&rigs[0], RIG_KILL);
	rig_settle(&rigs[1]);
	assert_int_equal(rig_batch_count(batch, -ENOENT), BLOCKS);
	rig_batch_give(batch);
	net.holds_blocks = false;
	rig_start(&rigs[0]);
	giver = rig_register(&rigs[0], NULL);
	rig_settle(&rigs[1]);
	(void)pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	pair_finish();
}

static void a_taker_that_was_killed_has_no_half_of_a_block(void **unused)
{
	const struct rig_config config = { .has_cpu_file = true };

	(void)unused;
	pair_start(NULL, &config);
	pair_give(1, BLOCKS);
	net.holds_blocks = true;
	(void)pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	rig_settle(&rigs[1]);
	rig_net_die(&net, 1);
	rig_crash(&rigs[1], RIG_KILL);
	rig_settle(&rigs[0]);
	rig_assert_idle(&rigs[0]);
	net.holds_blocks = false;
	rig_start(&rigs[1]);
	rig_net_join(&net, 1, 0);
	taker = rig_register(&rigs[1], NULL);
	assert_int_equal(rig_usable(taker, 1, BLOCKS), 0);
	(void)pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	pair_finish();
}

static void what_is_forgotten_here_does_not_come_back_on_its_way(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	net.holds_blocks = true;
	(void)pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	rig_settle(&rigs[1]);
	assert_int_equal(rig_forget(taker, taker->space), 0);
	net.holds_blocks = false;
	rig_settle(&rigs[1]);
	assert_int_equal(rig_usable(taker, 1, BLOCKS), 0);
	pair_finish();
}

static void what_is_forgotten_there_is_not_sent(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	assert_int_equal(rig_forget(giver, giver->space), 0);
	struct rig_fetch fetch = pair_fetch(BLOCKS, FRAME_FETCH_PRESENT);
	assert_int_equal(rig_fetch_wait(taker, fetch.id, RIG_SECOND).usable_tokens, 0);
	assert_int_equal(net.blocks_ever, 0);
	pair_finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line_that_is_cut_ends_every_wait_at_once),
		cmocka_unit_test(a_node_that_is_never_there_costs_two_seconds),
		cmocka_unit_test(a_block_that_is_lost_on_the_way_is_a_miss),
		cmocka_unit_test(what_hangs_ends_at_the_deadline),
		cmocka_unit_test(an_engine_that_leaves_gives_everything_back),
		cmocka_unit_test(an_end_stops_what_is_on_its_way),
		cmocka_unit_test(a_load_that_is_cancelled_waits_no_more),
		cmocka_unit_test(a_giver_that_stops_says_so),
		cmocka_unit_test(a_giver_that_was_killed_is_asked_anew),
		cmocka_unit_test(a_taker_that_was_killed_has_no_half_of_a_block),
		cmocka_unit_test(what_is_forgotten_here_does_not_come_back_on_its_way),
		cmocka_unit_test(what_is_forgotten_there_is_not_sent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
