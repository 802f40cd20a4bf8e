/* tests/daemon/test_fetch_hostile.c: a peer that has proven who it is, and asks for what it may
 * not have, says what nobody asked, and never comes to an end. */
#include "tests/daemon/rig_pair.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define FAILED_MAX 64u

static struct {
	unsigned grants, refusals, blocks, failed_count, ended;
	int refusal;
	uint64_t failed[FAILED_MAX];
	int failures[FAILED_MAX];
	uint8_t bits;
} heard;

static union {
	struct peer_frame_header header;
	struct peer_query query;
	struct peer_fetch fetch;
	uint8_t bytes[PEER_FRAME_BYTES_MAX];
} out;

/* What the giver says is ours to hear, and goes no further. */
static bool listen_to(struct rig_net *self, unsigned from, unsigned to, void *frame)
{
	const struct peer_frame_header *header = frame;

	(void)self;
	(void)to;
	if (from != 0)
		return true;
	if (header->type == PEER_GRANT && header->result < 0) {
		heard.refusals++;
		heard.refusal = header->result;
	} else if (header->type == PEER_GRANT) {
		heard.grants++;
		heard.bits = *(const uint8_t *)((const struct peer_grant *)frame + 1);
	} else if (header->type == PEER_BLOCK) {
		heard.blocks++;
	} else if (header->type == PEER_ENDED) {
		heard.ended++;
	} else if (header->type == PEER_FAILED && heard.failed_count < FAILED_MAX) {
		heard.failures[heard.failed_count] = header->result;
		heard.failed[heard.failed_count++] = ((const struct peer_failed *)frame)->tag;
	}
	return false;
}

static void start(void)
{
	pair_start(NULL, NULL);
	memset(&heard, 0, sizeof(heard));
	net.before_frame = listen_to;
}

static void say(void)
{
	struct error error;

	assert_true(peer_frame_check(&out, out.header.bytes, &error) > 0);
	assert_int_equal(rig_net_ops.say(&net.nodes[1], 0, net.lines[0][1].life, &out), 0);
	rig_settle(&rigs[1]);
}

static void query(uint64_t number, const char *tenant, unsigned first, unsigned count,
		  unsigned flags)
{
	struct peer_item *items = (struct peer_item *)(&out.query + 1);

	memset(&out, 0, sizeof(out));
	peer_frame_start(&out.header, PEER_QUERY,
			 (uint32_t)(sizeof(out.query) + count * sizeof(*items)), number);
	out.header.flags = (uint16_t)flags;
	strcpy(out.query.tenant, tenant);
	memcpy(out.query.fingerprint, giver->fingerprint, sizeof(out.query.fingerprint));
	out.query.wait_us = WAIT_US;
	out.query.items_count = (uint16_t)count;
	for (unsigned i = 0; i < count; i++)
		rig_hash(first + i, items[i].hash);
	say();
}

static void fetch(uint64_t number, uint64_t tag, uint32_t item, uint32_t shard)
{
	struct peer_fetch_item *items = (struct peer_fetch_item *)(&out.fetch + 1);

	memset(&out, 0, sizeof(out));
	peer_frame_start(&out.header, PEER_FETCH, sizeof(out.fetch) + sizeof(*items), number);
	out.fetch.count = 1;
	items[0] = (struct peer_fetch_item){ .tag = tag, .item = item, .shard = shard };
	say();
}

static void word(enum peer_frame_type type, uint64_t number, int result)
{
	memset(&out, 0, sizeof(out));
	peer_frame_start(&out.header, type, sizeof(out.header), number);
	out.header.result = result;
	say();
}

static void only_what_was_granted_is_sent(void **unused)
{
	(void)unused;
	start();
	pair_give(1, 3);
	query(1, "tenant-0", 1, 5, PEER_QUERY_LAST);
	assert_int_equal(heard.grants, 1);
	assert_int_equal(heard.bits, 0x07);
	fetch(1, 10, 3, 0);          /* not here */
	fetch(1, 11, 5, 0);          /* beyond the query */
	fetch(1, 12, UINT32_MAX, 0);
	fetch(1, 13, 0, 1);          /* a shard that there is not */
	fetch(1, 14, 0, UINT32_MAX);
	fetch(2, 15, 0, 0);          /* another query */
	assert_int_equal(heard.failed_count, 6);
	assert_int_equal(heard.blocks, 0);
	assert_int_equal(net.blocks_ever, 0);
	fetch(1, 16, 0, 0);
	assert_int_equal(heard.blocks, 1);
	/* Once it was sent it is not held any more. */
	fetch(1, 17, 0, 0);
	assert_int_equal(heard.blocks, 1);
	assert_int_equal(heard.failed[6], 17);
	word(PEER_RELEASE, 1, 0);
	fetch(1, 18, 1, 0);
	assert_int_equal(heard.failed[7], 18);
	rig_assert_idle(&rigs[0]);
	pair_finish();
}

static void who_is_not_known_gets_nothing(void **unused)
{
	(void)unused;
	start();
	pair_give(1, 3);
	query(1, "tenant-9", 1, 3, PEER_QUERY_LAST);
	assert_int_equal(heard.refusal, -ENOENT);
	query(2, "", 1, 3, PEER_QUERY_LAST);
	assert_int_equal(heard.refusals, 2);
	/* Of another space. */
	giver->fingerprint[0] ^= 1;
	query(3, "tenant-0", 1, 3, PEER_QUERY_LAST);
	giver->fingerprint[0] ^= 1;
	assert_int_equal(heard.refusals, 3);
	assert_int_equal(grants_count(rigs[0].daemon->peers), 0);
	fetch(3, 1, 0, 0);
	assert_int_equal(net.blocks_ever, 0);
	pair_finish();
}

static void what_is_turned_off_gives_nothing(void **unused)
{
	(void)unused;
	start();
	pair_give(1, 3);
	assert_int_equal(rig_bypass(giver, "", false, FRAME_BYPASS_ON), 0);
	query(1, "tenant-0", 1, 3, PEER_QUERY_LAST);
	assert_int_equal(heard.refusals, 1);
	pair_finish();
}

static void a_query_without_an_end_is_given_up(void **unused)
{
	(void)unused;
	start();
	pair_give(1, 3);
	query(1, "tenant-0", 1, 3, 0);
	assert_int_equal(grants_count(rigs[0].daemon->peers), 1);
	pair_pass_time(RIG_SECOND);
	assert_int_equal(grants_count(rigs[0].daemon->peers), 0);
	/* Nor can it grow for ever. */
	for (unsigned i = 0; i < PEER_ITEMS_MAX / 90 + 2; i++)
		query(2, "tenant-0", 1, 90, 0);
	assert_int_equal(heard.refusal, -EBUSY);
	pair_finish();
}

static void a_query_is_not_changed_later(void **unused)
{
	(void)unused;
	start();
	pair_give(1, 3);
	query(1, "tenant-0", 1, 3, PEER_QUERY_LAST);
	query(1, "tenant-0", 1, 3, PEER_QUERY_LAST);
	assert_int_equal(heard.refusal, -EBUSY);
	pair_finish();
}

static void a_peer_has_half_of_the_grants_at_most(void **unused)
{
	(void)unused;
	start();
	pair_give(1, 3);
	for (unsigned i = 0; i < GRANTS_A_PEER_MAX + 3; i++)
		query(1 + i, "tenant-0", 1, 1, PEER_QUERY_LAST);
	assert_int_equal(heard.refusals, 3);
	assert_int_equal(grants_count(rigs[0].daemon->peers), GRANTS_A_PEER_MAX);
	/* What it holds ends with its deadline, whatever it does. */
	pair_pass_time(WAIT_US);
	rig_assert_idle(&rigs[0]);
	pair_finish();
}

static void a_lease_that_is_renewed_for_ever_is_one_lease(void **unused)
{
	(void)unused;
	start();
	pair_give(1, 3);
	query(1, "tenant-0", 1, 3, PEER_QUERY_LAST);
	for (unsigned i = 0; i < 20; i++) {
		pair_pass_time(WAIT_US - 1);
		word(PEER_RENEW, 1, 0);
	}
	assert_int_equal(rig_figures(&rigs[0], 0, TIER_CPU).holds, 3);
	pair_pass_time(WAIT_US);
	rig_assert_idle(&rigs[0]);
	pair_finish();
}

/* Answers to questions that nobody asked. */
static void what_nobody_asked_for_is_not_taken(void **unused)
{
	union {
		struct peer_grant grant;
		struct peer_block block;
		struct peer_failed failed;
		uint8_t bytes[PEER_FRAME_BYTES_MAX];
	} frame;

	(void)unused;
	start();
	pair_give(1, 3);
	for (unsigned number = 0; number < 3; number++) {
		memset(&frame, 0, sizeof(frame));
		peer_frame_start(&frame.grant.header, PEER_GRANT, sizeof(frame.grant) + 1, number);
		frame.grant.items_count = 8;
		memcpy(&out, &frame, sizeof(out));
		say();
		memset(&frame, 0, sizeof(frame));
		peer_frame_start(&frame.block.header, PEER_BLOCK,
				 sizeof(frame.block) + PEER_IDENTITY_BYTES_MAX, number);
		frame.block.tag = number;
		frame.block.identity_bytes = PEER_IDENTITY_BYTES_MAX;
		memcpy(&out, &frame, sizeof(out));
		say();
		memset(&frame, 0, sizeof(frame));
		peer_frame_start(&frame.failed.header, PEER_FAILED, sizeof(frame.failed), number);
		frame.failed.tag = number;
		memcpy(&out, &frame, sizeof(out));
		say();
		word(PEER_ENDED, number, -ENOENT);
		word(PEER_RELEASE, number, 0);
		word(PEER_RENEW, number, 0);
	}
	rig_assert_idle(&rigs[0]);
	assert_int_equal(rig_usable(giver, 1, 3), 3);
	pair_finish();
}

static void more_than_can_be_sent_at_once_fails(void **unused)
{
	unsigned asked = SENDS_MAX + 10;

	(void)unused;
	start();
	pair_give(1, 3);
	net.holds_blocks = true;
	query(1, "tenant-0", 1, 3, PEER_QUERY_LAST);
	for (unsigned i = 0; i < asked; i++)
		fetch(1, 100 + i, 0, 0);
	assert_int_equal(heard.failed_count, 10);
	assert_int_equal(heard.failures[0], -EAGAIN);
	net.holds_blocks = false;
	word(PEER_RELEASE, 1, 0);
	rig_assert_idle(&rigs[0]);
	pair_finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_what_was_granted_is_sent),
		cmocka_unit_test(who_is_not_known_gets_nothing),
		cmocka_unit_test(what_is_turned_off_gives_nothing),
		cmocka_unit_test(a_query_without_an_end_is_given_up),
		cmocka_unit_test(a_query_is_not_changed_later),
		cmocka_unit_test(a_peer_has_half_of_the_grants_at_most),
		cmocka_unit_test(a_lease_that_is_renewed_for_ever_is_one_lease),
		cmocka_unit_test(what_nobody_asked_for_is_not_taken),
		cmocka_unit_test(more_than_can_be_sent_at_once_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
