/* tests/client/test_client_fetch.c: blocks of another node, as an engine asks for them. */
#include "tests/client/client_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define KEEP_US UINT64_C(5000000)

static const struct kvtier_source source = { .peer = "10.0.0.7:7700", .mode = KVTIER_STREAM };

static int fetch_begin(struct rig *rig, unsigned count, const struct kvtier_source *from,
		       struct kvtier_fetch *out_fetch)
{
	const struct kvtier_keys keys = {
		.count = count,
		.hashes = (const uint8_t (*)[KVTIER_HASH_BYTES])rig->hashes,
	};
	const struct kvtier_lookup lookup = { .sections_count = 1, .sections = &keys };

	return kvtier_fetch(rig->client, &lookup, from, KEEP_US, RIG_WAIT_US, out_fetch);
}

static void a_fetch_is_begun_waited_for_and_ended(void **unused)
{
	struct rig *rig = rig_create();
	struct kvtier_fetch fetch;
	struct kvtier_found found = { 0 };

	(void)unused;
	rig->fake.fetch.waits = 2;
	assert_int_equal(fetch_begin(rig, RIG_BLOCKS, &source, &fetch), 0);
	assert_string_equal(rig->fake.fetch.peer, source.peer);
	assert_int_equal(rig->fake.fetch.mode, FRAME_FETCH_STREAM);
	assert_int_equal(rig->fake.fetch.keep_us, KEEP_US);
	assert_int_equal(rig->fake.fetch.keys_count, RIG_BLOCKS);
	assert_int_equal(kvtier_fetch_wait(rig->client, &fetch, 0, &found), -EAGAIN);
	assert_int_equal(rig->fake.fetch.wait_us, 0);
	assert_int_equal(kvtier_fetch_wait(rig->client, &fetch, RIG_WAIT_US, &found), -EAGAIN);
	assert_in_range(rig->fake.fetch.wait_us, RIG_WAIT_US / 2, RIG_WAIT_US - 1);
	assert_int_equal(kvtier_fetch_wait(rig->client, &fetch, 0, &found), 0);
	assert_int_equal(found.usable_tokens, RIG_BLOCKS * 16);
	assert_int_equal(found.tier_tokens[2], RIG_BLOCKS * 16);
	assert_int_equal(found.tier_tokens[0] + found.tier_tokens[1], 0);
	assert_int_equal(found.present_count, RIG_BLOCKS);
	assert_int_equal(found.restore_us, 500);
	assert_int_equal(kvtier_fetch_end(rig->client, &fetch), 0);
	fake_wait_seen(&rig->fake, FRAME_FETCH_END, 1);
	assert_int_equal(rig->fake.fetch.ended, fetch.number);
	rig_destroy(rig);
}

static void a_ticket_is_taken_and_goes_with_a_fetch(void **unused)
{
	struct rig *rig = rig_create();
	const struct kvtier_keys keys = {
		.count = RIG_BLOCKS,
		.hashes = (const uint8_t (*)[KVTIER_HASH_BYTES])rig->hashes,
	};
	const struct kvtier_lookup lookup = { .sections_count = 1, .sections = &keys };
	char ticket[KVTIER_TICKET_BYTES], longest[FRAME_TICKET_BYTES_MAX + 2];
	struct kvtier_source by_ticket = { .ticket = ticket };
	struct kvtier_fetch fetch;

	(void)unused;
	assert_int_equal(kvtier_ticket(rig->client, &lookup, KEEP_US, RIG_WAIT_US, ticket), 0);
	assert_string_equal(ticket, "the ticket");
	assert_int_equal(rig->fake.fetch.keep_us, KEEP_US);
	assert_int_equal(rig->fake.fetch.keys_count, RIG_BLOCKS);
	assert_int_equal(fetch_begin(rig, RIG_BLOCKS, &by_ticket, &fetch), 0);
	assert_string_equal(rig->fake.fetch.ticket, "the ticket");
	assert_string_equal(rig->fake.fetch.peer, "");
	/* Neither both nor none, nor what no frame carries. */
	by_ticket.peer = source.peer;
	assert_int_equal(fetch_begin(rig, 3, &by_ticket, &fetch), -EINVAL);
	by_ticket = (struct kvtier_source){ .ticket = "" };
	assert_int_equal(fetch_begin(rig, 3, &by_ticket, &fetch), -EBADMSG);
	memset(longest, 'a', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	by_ticket.ticket = longest;
	assert_int_equal(fetch_begin(rig, 3, &by_ticket, &fetch), -EBADMSG);
	longest[FRAME_TICKET_BYTES_MAX] = '\0';
	assert_int_equal(fetch_begin(rig, 3, &by_ticket, &fetch), 0);
	assert_string_equal(rig->fake.fetch.ticket, longest);
	rig->fake.fetch.refusal = -EADDRNOTAVAIL;
	assert_int_equal(kvtier_ticket(rig->client, &lookup, KEEP_US, RIG_WAIT_US, ticket),
			 -EADDRNOTAVAIL);
	assert_string_equal(ticket, "");
	rig_destroy(rig);
}

static void what_cannot_be_asked_is_refused_here(void **unused)
{
	struct rig *rig = rig_create();
	struct kvtier_fetch fetch;
	char long_name[FRAME_PEER_BYTES + 1];
	struct kvtier_source wrong = source;
	uint8_t (*hashes)[KVTIER_HASH_BYTES] = calloc(FRAME_FETCH_KEYS_MAX + 1, KVTIER_HASH_BYTES);
	struct kvtier_keys keys = { .count = FRAME_FETCH_KEYS_MAX + 1,
				    .hashes = (const uint8_t (*)[KVTIER_HASH_BYTES])hashes };
	const struct kvtier_lookup lookup = { .sections_count = 1, .sections = &keys };

	(void)unused;
	memset(long_name, 'a', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = 0;
	wrong.peer = long_name;
	assert_int_equal(fetch_begin(rig, 3, &wrong, &fetch), -EINVAL);
	wrong.peer = NULL;
	assert_int_equal(fetch_begin(rig, 3, &wrong, &fetch), -EINVAL);
	wrong = source;
	wrong.mode = (enum kvtier_source_mode)2;
	assert_int_equal(fetch_begin(rig, 3, &wrong, &fetch), -EINVAL);
	assert_int_equal(kvtier_fetch(rig->client, &lookup, &source, KEEP_US, RIG_WAIT_US, &fetch),
			 -EINVAL);
	assert_int_equal(fetch.number, 0);
	assert_int_equal(kvtier_fetch_end(rig->client, &fetch), 0);
	assert_int_equal(fake_seen(&rig->fake, FRAME_FETCH), 0);
	keys.count--;
	assert_int_equal(kvtier_fetch(rig->client, &lookup, &source, KEEP_US, RIG_WAIT_US, &fetch),
			 0);
	assert_int_equal(rig->fake.fetch.keys_count, FRAME_FETCH_KEYS_MAX);
	free(hashes);
	rig_destroy(rig);
}

static void a_daemon_without_peers_is_not_asked(void **unused)
{
	struct rig *rig = rig_create_closed(RIG_WINDOW_BYTES);
	struct kvtier_fetch fetch;

	(void)unused;
	rig->fake.fetch.is_off = true;
	assert_int_equal(rig_open_client(rig, KVTIER_SCHEDULER | KVTIER_WORKER), 0);
	assert_int_equal(fetch_begin(rig, 3, &source, &fetch), -ENOTSUP);
	assert_int_equal(fake_seen(&rig->fake, FRAME_FETCH), 0);
	rig_destroy(rig);
}

static void a_refusal_costs_nothing_else(void **unused)
{
	struct rig *rig = rig_create();
	struct kvtier_fetch fetch;
	struct kvtier_found found = { 0 };

	(void)unused;
	rig->fake.fetch.refusal = -ENOENT;
	assert_int_equal(fetch_begin(rig, 3, &source, &fetch), -ENOENT);
	rig->fake.fetch.refusal = 0;
	assert_int_equal(fetch_begin(rig, 3, &source, &fetch), 0);
	fetch.number++;
	assert_int_equal(kvtier_fetch_wait(rig->client, &fetch, 0, &found), -ESTALE);
	assert_int_equal(rig_lookup(rig, 3, RIG_WAIT_US, &found), 0);
	rig_destroy(rig);
}

/* Nobody knows its number, so the daemon is told to end it as soon as its answer is met. */
static void a_fetch_whose_answer_comes_too_late_is_ended(void **unused)
{
	struct rig *rig = rig_create();
	const struct kvtier_keys keys = {
		.count = 3,
		.hashes = (const uint8_t (*)[KVTIER_HASH_BYTES])rig->hashes,
	};
	const struct kvtier_lookup lookup = { .sections_count = 1, .sections = &keys };
	struct kvtier_fetch fetch;
	struct kvtier_found found;

	(void)unused;
	fake_set(&rig->fake, FRAME_LOOKUP, FAKE_LATE, 1);
	assert_int_equal(kvtier_fetch(rig->client, &lookup, &source, KEEP_US, RIG_SHORT_US, &fetch),
			 -ETIMEDOUT);
	rig_set_pause_end(rig, 0);
	assert_int_equal(rig_lookup(rig, 3, RIG_WAIT_US, &found), 0);
	fake_wait_seen(&rig->fake, FRAME_FETCH_END, 1);
	assert_int_equal(rig->fake.fetch.ended, rig->fake.fetch.number);
	rig_destroy(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_fetch_is_begun_waited_for_and_ended),
		cmocka_unit_test(a_ticket_is_taken_and_goes_with_a_fetch),
		cmocka_unit_test(what_cannot_be_asked_is_refused_here),
		cmocka_unit_test(a_daemon_without_peers_is_not_asked),
		cmocka_unit_test(a_refusal_costs_nothing_else),
		cmocka_unit_test(a_fetch_whose_answer_comes_too_late_is_ended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
