/* tests/daemon/test_tickets.c: what is promised to one other node is given to that one, once, and
 * to nobody else. */
#include "tests/daemon/rig_pair.h"

#include "daemon/peer_files.h"
#include "daemon/tickets.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define KEEP_US (20 * RIG_SECOND)

static char text[FRAME_TICKET_BYTES_MAX];

/* Of keys 1, 2, ... of the giver. */
static int ticket(unsigned count)
{
	const struct rig_keys keys = { .first = 1, .count = count };

	return rig_ticket(giver, &keys, 1, KEEP_US, text);
}

static struct rig_fetch fetch_by(const char *ticket_text, unsigned count)
{
	const struct rig_keys keys = { .first = 1, .count = count };

	return rig_fetch_by(taker, ticket_text, &keys, 1, FRAME_FETCH_PRESENT, WAIT_US);
}

/* How many blocks it will bring. */
static unsigned brings(struct rig_fetch fetch)
{
	assert_int_equal(fetch.result, 0);
	struct rig_found found = rig_fetch_wait(taker, fetch.id, RIG_SECOND);
	assert_int_equal(found.result, 0);
	return found.usable_tokens / RIG_TOKENS;
}

static struct peers *giver_peers(void)
{
	return rigs[0].daemon->peers;
}

static void finish(void)
{
	pair_pass_time(KEEP_US);
	pair_finish();
}

static void a_ticket_says_where_to_go(void **unused)
{
	(void)unused;
	pair_start_apart(NULL, NULL);
	pair_give(1, BLOCKS);
	assert_int_equal(pair_fetch(BLOCKS, FRAME_FETCH_PRESENT).result, -ENOENT);
	assert_int_equal(ticket(BLOCKS), 0);
	assert_int_equal(brings(fetch_by(text, BLOCKS)), BLOCKS);
	assert_int_equal(pair_load(BLOCKS), BLOCKS);
	assert_int_equal(giver_peers()->tickets_issued, 1);
	assert_int_equal(giver_peers()->tickets_redeemed, 1);
	/* All was given: nothing of it is left. */
	assert_int_equal(tickets_count(giver_peers()), 0);
	/* A node that only a ticket named is let go of. */
	assert_true(net.nodes[1].asked[0]);
	pair_pass_time(400 * RIG_SECOND);
	pair_pass_time(20 * RIG_SECOND);
	assert_false(net.nodes[1].asked[0]);
	finish();
}

static void only_what_it_names_is_given(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	assert_int_equal(ticket(5), 0);
	assert_int_equal(brings(fetch_by(text, BLOCKS)), 5);
	assert_int_equal(pair_load(BLOCKS), 5);
	assert_int_equal(net.blocks_ever, 5);
	finish();
}

static void each_block_is_given_once(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, 8);
	assert_int_equal(ticket(BLOCKS), 0);
	assert_int_equal(brings(fetch_by(text, 8)), 8);
	assert_int_equal(pair_load(8), 8);
	assert_true(rig_forget(taker, taker->space) >= 0);
	assert_int_equal(brings(fetch_by(text, 8)), 0);
	/* What was not given yet is. */
	pair_give(9, 4);
	assert_int_equal(tickets_count(giver_peers()), 1);
	assert_int_equal(rig_usable(taker, 1, 8), 0);
	const struct rig_keys rest = { .first = 9, .first_position = 8, .count = 4 };
	assert_int_equal(rig_fetch_by(taker, text, &rest, 1, FRAME_FETCH_PRESENT, WAIT_US).result,
			 0);
	rig_settle(&rigs[1]);
	assert_int_equal(net.blocks_ever, 12);
	finish();
}

static void the_first_who_comes_is_the_only_one(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	assert_int_equal(ticket(BLOCKS), 0);
	assert_int_equal(brings(fetch_by(text, 4)), 4);
	pair_pass_time(WAIT_US);
	/* The same node in another life, then another node. */
	struct peer *peer = &giver_peers()->peers[1];
	peer->hello.boot_id ^= 1;
	assert_int_equal(brings(fetch_by(text, BLOCKS)), 4);
	peer->hello.boot_id ^= 1;
	peer->hello.node[3] ^= 1;
	assert_int_equal(brings(fetch_by(text, BLOCKS)), 4);
	assert_int_equal(giver_peers()->tickets_refused, 2);
	peer->hello.node[3] ^= 1;
	assert_int_equal(brings(fetch_by(text, BLOCKS)), BLOCKS);
	finish();
}

static void it_ends_by_its_time(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	assert_int_equal(ticket(BLOCKS), 0);
	pair_pass_time(KEEP_US - 1);
	assert_int_equal(brings(fetch_by(text, 3)), 3);
	pair_pass_time(1);
	assert_int_equal(brings(fetch_by(text, BLOCKS)), 3);
	assert_int_equal(giver_peers()->tickets_refused, 1);
	finish();
}

static void it_ends_with_the_life_of_who_gave_it(void **unused)
{
	(void)unused;
	const struct rig_config config = { .has_cpu_file = true };

	pair_start(NULL, &config);
	pair_give(1, BLOCKS);
	assert_int_equal(ticket(BLOCKS), 0);
	rig_client_close(giver);
	rig_stop(&rigs[0]);
	rig_settle(&rigs[1]);
	rig_start(&rigs[0]);
	giver = rig_register(&rigs[0], NULL);
	rig_settle(&rigs[1]);
	assert_int_equal(brings(fetch_by(text, BLOCKS)), 0);
	assert_int_equal(giver_peers()->tickets_refused, 1);
	/* The blocks themselves are there. */
	assert_int_equal(ticket(BLOCKS), 0);
	assert_int_equal(brings(fetch_by(text, BLOCKS)), BLOCKS);
	finish();
}

static void no_other_text_is_one(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	assert_int_equal(ticket(BLOCKS), 0);
	text[50] = text[50] == 'A' ? 'B' : 'A';
	assert_int_equal(fetch_by(text, BLOCKS).result, -EBADMSG);
	assert_int_equal(fetch_by("kvtier", BLOCKS).result, -EBADMSG);
	/* Of another cluster. */
	const struct peer_secrets other = { .count = 1, .keys = { { 8 } } };
	const struct peer_secrets *ours = giver_peers()->self.secrets;
	giver_peers()->self.secrets = &other;
	assert_int_equal(ticket(BLOCKS), 0);
	giver_peers()->self.secrets = ours;
	assert_int_equal(fetch_by(text, BLOCKS).result, -EBADMSG);
	assert_int_equal(giver_peers()->tickets_redeemed, 0);
	finish();
}

/* A node that knows the secret and makes tickets of its own for what the giver has. */
static void what_was_not_issued_is_not_redeemed(void **unused)
{
	struct ticket made;

	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, BLOCKS);
	assert_int_equal(ticket(BLOCKS), 0);
	const struct peer_secrets *secrets = giver_peers()->self.secrets;
	assert_int_equal(ticket_read(text, strlen(text), secrets->keys, 1, &made), 0);
	made.number += 1;
	assert_int_equal(ticket_write(&made, secrets->keys[0], text), 0);
	assert_int_equal(brings(fetch_by(text, BLOCKS)), 0);
	made.number += 4096 - 1;
	assert_int_equal(ticket_write(&made, secrets->keys[0], text), 0);
	assert_int_equal(brings(fetch_by(text, BLOCKS)), 0);
	made.number -= 4096;
	made.boot_id ^= 1;
	assert_int_equal(ticket_write(&made, secrets->keys[0], text), 0);
	assert_int_equal(brings(fetch_by(text, BLOCKS)), 0);
	made.boot_id ^= 1;
	made.node[0] ^= 1;
	assert_int_equal(ticket_write(&made, secrets->keys[0], text), 0);
	assert_int_equal(brings(fetch_by(text, BLOCKS)), 0);
	assert_int_equal(giver_peers()->tickets_refused, 4);
	made.node[0] ^= 1;
	assert_int_equal(ticket_write(&made, secrets->keys[0], text), 0);
	assert_int_equal(brings(fetch_by(text, BLOCKS)), BLOCKS);
	finish();
}

static void not_for_another_tenant_or_model(void **unused)
{
	const struct rig_engine others = { .name = "others", .tenant = 1 },
				model = { .name = "model", .model = "another" };
	const struct rig_config config = { .tenants = 2 };
	const struct rig_keys keys = { .first = 1, .count = 4 };

	(void)unused;
	pair_start(NULL, &config);
	pair_give(1, BLOCKS);
	assert_int_equal(ticket(BLOCKS), 0);
	struct rig_client *tenant = rig_register(&rigs[1], &others);
	assert_int_equal(rig_fetch_by(tenant, text, &keys, 1, FRAME_FETCH_PRESENT, WAIT_US).result,
			 -EPERM);
	struct rig_client *engine = rig_register(&rigs[1], &model);
	assert_int_equal(rig_fetch_by(engine, text, &keys, 1, FRAME_FETCH_PRESENT, WAIT_US).result,
			 -EPERM);
	assert_int_equal(brings(fetch_by(text, BLOCKS)), BLOCKS);
	finish();
}

static void blocks_may_be_promised_before_they_are_there(void **unused)
{
	const struct rig_keys keys = { .first = 1, .count = BLOCKS };

	(void)unused;
	pair_start(NULL, NULL);
	assert_int_equal(ticket(BLOCKS), 0);
	pair_give(1, 4);
	struct rig_fetch fetch =
		rig_fetch_by(taker, text, &keys, 1, FRAME_FETCH_STREAM, WAIT_US);
	assert_int_equal(brings(fetch), BLOCKS);
	struct rig_batch *batch = pair_load_begin(BLOCKS);
	for (unsigned i = 4; i < BLOCKS; i += 4) {
		pair_give(i + 1, 4);
		rig_settle(&rigs[1]);
		assert_int_equal(rig_batch_count(batch, 0), i + 4);
	}
	rig_batch_give(batch);
	finish();
}

/* Who waits for more than was promised is told at once that it never comes. */
static void a_stream_knows_what_will_never_come(void **unused)
{
	const struct rig_keys named = { .first = 1, .count = 8 },
			      wanted = { .first = 1, .count = BLOCKS };

	(void)unused;
	pair_start(NULL, NULL);
	assert_int_equal(rig_ticket(giver, &named, 1, KEEP_US, text), 0);
	pair_give(1, BLOCKS);
	struct rig_fetch fetch =
		rig_fetch_by(taker, text, &wanted, 1, FRAME_FETCH_STREAM, WAIT_US);
	assert_int_equal(brings(fetch), 8);
	assert_int_equal(pair_load(BLOCKS), 8);
	assert_int_equal(fetches_count(rigs[1].daemon->peers), 1);
	finish();
}

static void a_node_may_give_for_tickets_only(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	giver_peers()->self.gives_for_tickets_only = true;
	pair_give(1, BLOCKS);
	assert_int_equal(brings(pair_fetch(BLOCKS, FRAME_FETCH_PRESENT)), 0);
	assert_int_equal(ticket(BLOCKS), 0);
	assert_int_equal(brings(fetch_by(text, BLOCKS)), BLOCKS);
	finish();
}

static void our_own_ticket_asks_nobody(void **unused)
{
	const struct rig_keys keys = { .first = 1, .count = BLOCKS };

	(void)unused;
	pair_start(NULL, NULL);
	pair_give(1, 6);
	assert_int_equal(ticket(BLOCKS), 0);
	struct rig_fetch fetch =
		rig_fetch_by(giver, text, &keys, 1, FRAME_FETCH_PRESENT, WAIT_US);
	assert_int_equal(fetch.result, 0);
	struct rig_found found = rig_fetch_wait(giver, fetch.id, RIG_SECOND);
	assert_int_equal(found.usable_tokens, 6 * RIG_TOKENS);
	rig_fetch_end(giver, fetch.id);
	finish();
}

static void a_node_that_does_not_know_its_address_gives_none(void **unused)
{
	(void)unused;
	pair_start(NULL, NULL);
	giver_peers()->self.address[0] = '\0';
	assert_int_equal(ticket(1), -EADDRNOTAVAIL);
	assert_int_equal(tickets_count(giver_peers()), 0);
	finish();
}

static void a_list_that_is_not_ended_leaves_nothing(void **unused)
{
	const struct rig_keys keys = { .first = 1, .count = 5 };

	(void)unused;
	pair_start(NULL, NULL);
	for (unsigned i = 0; i < 3; i++) {
		struct frame_ticket *frame = rig_frame(giver, FRAME_TICKET, sizeof(*frame));

		frame->keep_us = KEEP_US;
		rig_send(giver, FRAME_CONTROL);
		rig_lookup_write(giver, &keys, 1)->header.flags = FRAME_REMOTE;
		rig_send(giver, FRAME_CONTROL);
		rig_settle(&rigs[0]);
	}
	rig_client_close(giver);
	rig_settle(&rigs[0]);
	giver = rig_register(&rigs[0], NULL);
	/* All places and keys are free again. */
	for (unsigned i = 0; i < TICKETS_MAX; i++)
		assert_int_equal(ticket(5), 0);
	assert_int_equal(ticket(5), -EBUSY);
	assert_int_equal(tickets_count(giver_peers()), TICKETS_MAX);
	pair_pass_time(KEEP_US);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(ticket(5), 0);
	finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_ticket_says_where_to_go),
		cmocka_unit_test(only_what_it_names_is_given),
		cmocka_unit_test(each_block_is_given_once),
		cmocka_unit_test(the_first_who_comes_is_the_only_one),
		cmocka_unit_test(it_ends_by_its_time),
		cmocka_unit_test(it_ends_with_the_life_of_who_gave_it),
		cmocka_unit_test(no_other_text_is_one),
		cmocka_unit_test(what_was_not_issued_is_not_redeemed),
		cmocka_unit_test(not_for_another_tenant_or_model),
		cmocka_unit_test(blocks_may_be_promised_before_they_are_there),
		cmocka_unit_test(a_stream_knows_what_will_never_come),
		cmocka_unit_test(a_node_may_give_for_tickets_only),
		cmocka_unit_test(our_own_ticket_asks_nobody),
		cmocka_unit_test(a_node_that_does_not_know_its_address_gives_none),
		cmocka_unit_test(a_list_that_is_not_ended_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
