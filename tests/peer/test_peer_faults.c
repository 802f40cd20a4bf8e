/* tests/peer/test_peer_faults.c: peers that lie, places that are not wanted any more, links that
 * break or stand still, a daemon that does not listen: each transfer ends once, and its memory is
 * left alone from then on. */
#include "tests/peer/peer_rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define SESSION_OF_SECOND PEER_SESSIONS_ASKED

static struct node *const first = &rig.nodes[0], *const second = &rig.nodes[1];
static uint8_t chunk[CHUNK_BYTES];

static void meet(bool is_encrypted)
{
	rig_open(&(struct rig_options){ .is_encrypted = is_encrypted });
	rig_connect(first, 0, second->address);
	AWAIT(first->sessions[0].is_up && second->sessions[SESSION_OF_SECOND].is_up);
}

/* The end of the link that `node` writes into. */
static struct transport_link *link_of(const struct node *node)
{
	for (unsigned n = 0; fake_transport_links(n) != NULL; n++) {
		struct connection *owner = fake_transport_owner(fake_transport_links(n));

		if (owner->server == node->server)
			return fake_transport_links(n);
	}
	fail_msg("there is no link");
	return NULL;
}

static void inject(const struct chunk_head *head, uint32_t bytes)
{
	/* A head that lies is enough; of the payload, what a socket takes at once. */
	fake_transport_inject(link_of(first), head, chunk, bytes);
}

/* `second` waits for 3 MiB of tag 9 at its arena's start; `first` says this, and what follows. */
static void a_lie(struct chunk_head head, uint32_t bytes, const char *reason)
{
	unsigned downs, ups;

	meet(false);
	memset(second->arena, 0xee, 6 * MIB);
	rig_transfer(second, true, 1, SESSION_OF_SECOND, 9, MIB, 3 * MIB);
	downs = second->sessions[SESSION_OF_SECOND].downs;
	ups = first->sessions[0].ups;
	inject(&head, bytes);
	AWAIT(second->sessions[SESSION_OF_SECOND].downs == downs + 1);
	assert_string_equal(second->sessions[SESSION_OF_SECOND].reason, reason);
	assert_int_equal(second->results[1], -ENOTCONN);
	for (uint64_t n = 0; n < MIB; n++)
		assert_true(second->arena[n] == 0xee && second->arena[4 * MIB + n] == 0xee);
	/* Whose fault it was can be told there, too; and it is tried again. */
	AWAIT(first->sessions[0].downs == 1);
	rig.added_us += PEER_BACKOFF_US_MAX;
	AWAIT(first->sessions[0].ups == ups + 1);
	rig_close();
}

static void a_peer_that_lies_is_left(void **unused)
{
	const struct chunk_head good = { .tag = 9, .total = 3 * MIB, .bytes = 2 * MIB,
					 .sequence = 1 };
	struct chunk_head head;

	(void)unused;
	head = good, head.total = 3 * MIB + 1;
	a_lie(head, head.bytes, "sent data of another size than was asked for");
	head = good, head.offset = 4 * MIB, head.bytes = MIB;
	a_lie(head, head.bytes, "sent data beside its place");
	head = good, head.offset = UINT64_MAX - CHUNK_BYTES + 1;
	a_lie(head, head.bytes, "sent data beside its place");
	head = good, head.offset = MIB;
	a_lie(head, head.bytes, "sent data beside its place");
	head = good, head.offset = 2 * MIB;
	a_lie(head, head.bytes, "sent a chunk of a wrong size");
	head = good, head.bytes = 5;
	a_lie(head, 5, "sent a chunk of a wrong size");
	head = good;
	a_lie(head, 2 * MIB - 1, "sent a chunk of a wrong size");
}

static void data_that_comes_twice_ends_the_session(void **unused)
{
	const struct chunk_head head = { .tag = 9, .offset = 2 * MIB, .total = 2 * MIB + 100,
					 .bytes = 100, .sequence = 1 };

	(void)unused;
	meet(false);
	rig_transfer(second, true, 1, SESSION_OF_SECOND, 9, 0, 2 * MIB + 100);
	inject(&head, 100);
	inject(&head, 100);
	AWAIT(!second->sessions[SESSION_OF_SECOND].is_up);
	assert_string_equal(second->sessions[SESSION_OF_SECOND].reason, "sent data twice");
	assert_int_equal(second->results[1], -ENOTCONN);
	rig_close();
}

static void data_that_nobody_wants_is_thrown_away(void **unused)
{
	const struct chunk_head head = { .tag = 4711, .total = 100, .bytes = 100, .sequence = 1 };

	(void)unused;
	meet(false);
	inject(&head, 100);
	rig_transfer(first, false, 1, 0, 9, 0, 5 * MIB); /* it was never placed */
	AWAIT(first->ends[1] == 1);
	rig_fill(first->arena, 100, 1);
	rig_transfer(second, true, 2, SESSION_OF_SECOND, 10, 0, 100);
	rig_transfer(first, false, 2, 0, 10, 0, 100);
	AWAIT(second->ends[2] == 1);
	assert_int_equal(second->results[2], 0);
	assert_true(rig_is_filled(second->arena, 100, 1));
	assert_int_equal(second->sessions[SESSION_OF_SECOND].downs, 0);
	rig_close();
}

static void stop(struct node *node, uint32_t number)
{
	rig_tell(node, (struct peer_message){ .verb = PEER_STOP, .transfer = number });
}

static void what_is_stopped_ends_and_its_memory_is_left_alone(void **unused)
{
	(void)unused;
	meet(false);
	rig_fill(first->arena, 8 * MIB, 1);
	rig_transfer(second, true, 1, SESSION_OF_SECOND, 9, 0, 8 * MIB);
	stop(second, 1);
	AWAIT(second->ends[1] == 1);
	assert_int_equal(second->results[1], -ECANCELED);
	memset(second->arena, 0xee, 8 * MIB);
	rig_transfer(first, false, 1, 0, 9, 0, 8 * MIB);
	AWAIT(first->ends[1] == 1);
	for (unsigned n = 0; n < 100; n++)
		rig_turn();
	for (uint64_t n = 0; n < 8 * MIB; n++)
		assert_int_equal(second->arena[n], 0xee);
	assert_true(second->sessions[SESSION_OF_SECOND].is_up);
	rig_close();
}

/* A transport may have several on their way: one that has begun ends, none begins. */
static void no_chunk_begins_in_a_place_that_ends(void **unused)
{
	const struct chunk_head one = { .tag = 9, .total = 4 * MIB, .bytes = 2 * MIB };
	const struct chunk_head two = { .tag = 9, .total = 4 * MIB, .bytes = 2 * MIB,
					.offset = 2 * MIB };
	struct connection *connection;

	(void)unused;
	meet(false);
	connection = fake_transport_owner(link_of(second));
	rig_transfer(second, true, 1, SESSION_OF_SECOND, 9, MIB, 4 * MIB);
	assert_true(place_arriving(connection, &one, one.bytes) ==
		    connection->server->arenas[0].memory + MIB);
	stop(second, 1);
	assert_null(place_arriving(connection, &two, two.bytes));
	rig_turn();
	assert_int_equal(second->ends[1], 0);
	place_arrived(connection, &one, connection->server->arenas[0].memory + MIB, 0);
	AWAIT(second->ends[1] == 1);
	assert_int_equal(second->results[1], -ECANCELED);
	assert_int_equal(second->sessions[SESSION_OF_SECOND].downs, 0);
	rig_close();
}

/* Half a chunk has come, and no more does: the place is given back when its link is cut. */
static void a_place_that_is_being_written_ends_with_its_link(void **unused)
{
	(void)unused;
	meet(false);
	fake_faults.bytes_left = 3 * MIB;
	rig_transfer(second, true, 1, SESSION_OF_SECOND, 9, 0, 8 * MIB);
	rig_transfer(first, false, 1, 0, 9, 0, 8 * MIB);
	AWAIT(fake_faults.bytes_left == 0);
	for (unsigned n = 0; n < 20; n++)
		rig_turn();
	stop(second, 1);
	stop(first, 1);
	for (unsigned n = 0; n < 20; n++)
		rig_turn();
	assert_int_equal(second->ends[1] + first->ends[1], 0);
	rig.added_us += 1100000;
	AWAIT(second->ends[1] == 1 && first->ends[1] == 1);
	assert_int_equal(second->results[1], -ECANCELED);
	assert_int_equal(first->results[1], -ECANCELED);
	AWAIT(second->sessions[SESSION_OF_SECOND].downs == 1 && first->sessions[0].downs == 1);
	rig_close();
}

static void deadlines_end_places_and_sends(void **unused)
{
	(void)unused;
	meet(false);
	fake_faults.bytes_left = 0;
	rig_transfer_until(second, true, 1, SESSION_OF_SECOND, 9, 0, 8 * MIB, 500000);
	rig_transfer_until(first, false, 1, 0, 9, 0, 8 * MIB, 500000);
	rig_turn();
	assert_int_equal(first->ends[1] + second->ends[1], 0);
	rig.added_us += 500000;
	AWAIT(second->ends[1] == 1);
	assert_int_equal(second->results[1], -ETIME);
	rig.added_us += 1100000;
	AWAIT(first->ends[1] == 1);
	assert_int_equal(first->results[1], -ETIME);
	rig_close();
}

static void all_that_moves_ends_before_the_session(bool is_encrypted)
{
	meet(is_encrypted);
	for (uint32_t n = 0; n < 64; n++) {
		rig_transfer(second, true, n, SESSION_OF_SECOND, 1 + n, 0, 8 * MIB);
		rig_transfer(first, false, n, 0, 1 + n, 0, 8 * MIB);
		rig_transfer(first, true, 100 + n, 0, 1 + n, 8 * MIB, 8 * MIB);
		rig_transfer(second, false, 100 + n, SESSION_OF_SECOND, 1 + n, 16 * MIB, 8 * MIB);
	}
	AWAIT(first->ends[0] == 1 || second->ends[0] == 1);
	fake_transport_cut(link_of(first));
	AWAIT(first->sessions[0].downs == 1 && second->sessions[SESSION_OF_SECOND].downs == 1);
	for (uint32_t n = 0; n < 64; n++)
		assert_true(first->ends[n] + first->ends[100 + n] + second->ends[n] +
				    second->ends[100 + n] == 4);
	rig.added_us += PEER_BACKOFF_US_MAX;
	AWAIT(first->sessions[0].is_up && rig_up(second) < PEER_SESSIONS_MAX);
	assert_int_equal(first->sessions[0].life, 2);
	rig_close();
}

static void a_link_that_breaks_ends_all_transfers_before_the_session(void **unused)
{
	(void)unused;
	all_that_moves_ends_before_the_session(false);
	all_that_moves_ends_before_the_session(true);
}

static void what_cannot_be_is_answered(void **unused)
{
	static const struct {
		uint64_t tag, offset, bytes;
		uint32_t session, arena;
		int result;
	} cases[] = {
		{ 0, 0, 1, 0, 0, -EINVAL },
		{ 1, 0, 0, 0, 0, -EINVAL },
		{ 1, RIG_ARENA_BYTES, 1, 0, 0, -EINVAL },
		{ 1, 1, RIG_ARENA_BYTES, 0, 0, -EINVAL },
		{ 1, UINT64_MAX, 2, 0, 0, -EINVAL },
		{ 1, 0, 1, 0, 1, -EINVAL },
		{ 1, 0, 1, 0, PEER_ARENAS_MAX, -EINVAL },
		{ 1, 0, 1, 1, 0, -ENOTCONN },
		{ 7, 0, 1, 0, 0, -EEXIST },
	};

	(void)unused;
	meet(false);
	rig_transfer(first, true, 1000, 0, 7, 0, 1);
	for (unsigned n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		first->results[n] = NOT_YET;
		rig_tell(first, (struct peer_message){ .verb = PEER_PLACE, .transfer = n,
						       .number = cases[n].session, .life = 1,
						       .tag = cases[n].tag,
						       .arena = cases[n].arena,
						       .offset = cases[n].offset,
						       .bytes = cases[n].bytes });
		AWAIT(first->ends[n] == 1);
		assert_int_equal(first->results[n], cases[n].result);
	}
	rig_close();
}

/* Its ring is full. Nothing is lost, and nothing is said twice. */
static void answers_wait_for_room(void **unused)
{
	(void)unused;
	meet(false);
	rig_fill(first->arena, 1000, 5);
	for (uint32_t n = 0; n < 500; n++)
		rig_transfer(second, true, n, SESSION_OF_SECOND, 1 + n, 2 * n, 2);
	second->room = 0;
	for (uint32_t n = 0; n < 500; n++)
		rig_transfer(first, false, n, 0, 1 + n, 2 * n, 2);
	AWAIT(first->ends[499] == 1);
	fake_transport_cut(link_of(second));
	for (unsigned n = 0; n < 300; n++)
		rig_turn();
	assert_int_equal(second->sessions[SESSION_OF_SECOND].downs, 0);
	for (second->room = 1; second->ends[499] == 0;)
		rig_turn();
	AWAIT(second->sessions[SESSION_OF_SECOND].downs == 1);
	second->room = RIG_QUEUE;
	for (uint32_t n = 0; n < 500; n++)
		assert_int_equal(second->results[n], 0);
	assert_true(rig_is_filled(second->arena, 1000, 5));
	rig_close();
}

static void a_small_send_does_not_wait_for_a_large_one(void **unused)
{
	(void)unused;
	meet(false);
	rig_transfer(second, true, 1, SESSION_OF_SECOND, 9, 0, 16 * MIB);
	rig_transfer(second, true, 2, SESSION_OF_SECOND, 10, 24 * MIB, 4096);
	rig_transfer(first, false, 1, 0, 9, 0, 16 * MIB);
	rig_transfer(first, false, 2, 0, 10, 24 * MIB, 4096);
	AWAIT(second->ends[2] == 1);
	assert_int_equal(second->ends[1], 0);
	AWAIT(second->ends[1] == 1);
	rig_close();
}

/* ---- under a seal ---- */

static void seal_break(const struct chunk_head *head, const char *reason)
{
	inject(head, head->bytes);
	AWAIT(!second->sessions[SESSION_OF_SECOND].is_up);
	assert_string_equal(second->sessions[SESSION_OF_SECOND].reason, reason);
}

static void forged_and_repeated_chunks_end_the_session(void **unused)
{
	struct chunk_head head = { .tag = 9, .total = 100, .bytes = 100, .sequence = 5 };

	(void)unused;
	meet(true);
	rig_transfer(second, true, 1, SESSION_OF_SECOND, 9, 0, 100);
	seal_break(&head, "sent data that its seal does not fit");
	assert_true(second->results[1] == -EBADMSG || second->results[1] == -ENOTCONN);
	rig_close();

	meet(true);
	head.tag = 4711; /* nobody wants it; but it has been seen */
	inject(&head, 100);
	seal_break(&head, "sent a chunk again that had come before");
	rig_close();

	meet(true);
	head.sequence = 0;
	seal_break(&head, "sent a chunk again that had come before");
	rig_close();

	meet(true);
	head.sequence = 5 + REPLAYS_BITS;
	inject(&head, 100);
	head.sequence = 6;
	inject(&head, 100);
	head.sequence = 5;
	seal_break(&head, "sent a chunk again that had come before");
	rig_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_peer_that_lies_is_left),
		cmocka_unit_test(data_that_comes_twice_ends_the_session),
		cmocka_unit_test(data_that_nobody_wants_is_thrown_away),
		cmocka_unit_test(what_is_stopped_ends_and_its_memory_is_left_alone),
		cmocka_unit_test(no_chunk_begins_in_a_place_that_ends),
		cmocka_unit_test(a_place_that_is_being_written_ends_with_its_link),
		cmocka_unit_test(deadlines_end_places_and_sends),
		cmocka_unit_test(a_link_that_breaks_ends_all_transfers_before_the_session),
		cmocka_unit_test(what_cannot_be_is_answered),
		cmocka_unit_test(answers_wait_for_room),
		cmocka_unit_test(a_small_send_does_not_wait_for_a_large_one),
		cmocka_unit_test(forged_and_repeated_chunks_end_the_session),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
