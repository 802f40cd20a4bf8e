/* tests/proto/test_peer.c: frames between daemons: what is good is taken, what is not is refused by
 * name, and nothing outside is read. */
#include "tests/proto/peer_samples.h"

#include <stdlib.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static uint8_t memory[PEER_FRAME_BYTES_MAX + 8] __attribute__((aligned(8)));
static uint64_t seen;

/* All that a reader would read, so that a sanitizer sees what lies outside. */
static void walk(const void *frame)
{
	const struct peer_frame_header *header = frame;
	size_t bytes;

	if (header->type == PEER_QUERY) {
		const struct peer_query *query = frame;

		for (unsigned i = 0; i < query->ticket_bytes; i++)
			seen += (uint8_t)peer_query_ticket(query)[i];
		for (unsigned i = 0; i < query->items_count; i++)
			seen += peer_query_items(query)[i].hash[31];
	}
	if (header->type == PEER_GRANT && header->result == 0)
		for (unsigned i = 0; i < ((const struct peer_grant *)frame)->items_count; i++)
			seen += peer_grant_has(frame, i);
	if (header->type == PEER_FETCH)
		for (unsigned i = 0; i < ((const struct peer_fetch *)frame)->count; i++)
			seen += peer_fetch_items(frame)[i].shard;
	if (header->result < 0) {
		const char *text = peer_frame_text(frame, &bytes);

		for (size_t i = 0; i < bytes; i++)
			seen += (uint8_t)text[i];
	}
}

/* Checks a copy in memory of exactly its size. */
static int check_exact(const void *frame, size_t bytes)
{
	struct error error = { .code = 0 };
	uint8_t *tight = malloc(bytes == 0 ? 1 : bytes);
	int result;

	memcpy(tight, frame, bytes);
	result = peer_frame_check(tight, bytes, &error);
	if (result > 0)
		walk(tight);
	else if (result < 0)
		assert_true(error.text[0] != 0);
	free(tight);
	return result;
}

/* What lies in `memory`, as long as its header says it is. */
static int check_changed(void)
{
	uint32_t bytes = ((const struct peer_frame_header *)memory)->bytes;

	return check_exact(memory, bytes <= PEER_FRAME_BYTES_MAX ? bytes : PEER_FRAME_BYTES_MAX);
}

static void every_type_has_a_good_frame_and_a_name(void **unused)
{
	const unsigned items[] = { 0, 1, 7, 64, 255, 1024 };

	(void)unused;
	for (unsigned type = 0; type < PEER_FRAME_TYPES_END + 5; type++) {
		bool exists = type >= PEER_HELLO && type < PEER_FRAME_TYPES_END;

		assert_int_equal(strcmp(peer_frame_type_name(type), "unknown type") != 0, exists);
		for (unsigned i = 0; exists && i < sizeof(items) / sizeof(items[0]); i++) {
			uint32_t bytes = peer_sample(memory, type, items[i]);

			assert_int_equal(check_exact(memory, bytes), bytes);
		}
	}
}

static void a_part_of_a_frame_is_waited_for(void **unused)
{
	(void)unused;
	for (unsigned type = PEER_HELLO; type < PEER_FRAME_TYPES_END; type++) {
		uint32_t bytes = peer_sample(memory, type, 9);

		for (uint32_t part = 0; part < bytes; part++)
			assert_int_equal(check_exact(memory, part), 0);
		/* More of the stream may be there already. */
		assert_int_equal(check_exact(memory, bytes + 8), bytes);
	}
}

static void a_length_that_is_off_is_refused(void **unused)
{
	(void)unused;
	for (unsigned type = PEER_HELLO; type < PEER_FRAME_TYPES_END; type++) {
		for (int off = -1; off <= 1; off += 2) {
			bool is_text = type == PEER_REFUSED;

			peer_sample(memory, type, 9);
			((struct peer_frame_header *)memory)->bytes += (uint32_t)off;
			assert_int_equal(check_changed() > 0, is_text);
		}
		peer_sample(memory, type, 9);
		((struct peer_frame_header *)memory)->bytes = PEER_FRAME_BYTES_MAX + 1;
		assert_int_equal(check_changed(), -EPROTO);
		((struct peer_frame_header *)memory)->bytes = 23;
		assert_int_equal(check_exact(memory, 100), -EPROTO);
	}
}

/* A member of a good frame that is wrong. */
#define WRONG(type, structure, member, value)                                                      \
	do {                                                                                       \
		peer_sample(memory, type, 9);                                                      \
		((struct structure *)memory)->member = (value);                                    \
		assert_int_equal(check_changed(), -EPROTO);                                        \
	} while (0)

static void what_is_wrong_is_refused(void **unused)
{
	(void)unused;
	WRONG(PEER_PING, peer_frame_header, magic, 1);
	WRONG(PEER_PING, peer_frame_header, type, 0);
	WRONG(PEER_PING, peer_frame_header, type, PEER_FRAME_TYPES_END);
	WRONG(PEER_PING, peer_frame_header, flags, 1);
	WRONG(PEER_QUERY, peer_frame_header, flags, 4);
	WRONG(PEER_PING, peer_frame_header, result, -1);
	WRONG(PEER_GRANT, peer_frame_header, result, 1);
	WRONG(PEER_FAILED, peer_frame_header, result, -4096);
	WRONG(PEER_REFUSED, peer_frame_header, result, 0);
	WRONG(PEER_HELLO, peer_hello, version_min, 1);
	WRONG(PEER_LINK, peer_link_frame, reserved, 1);
	WRONG(PEER_LINK, peer_link_frame, address_bytes, PEER_ADDRESS_BYTES_MAX + 1);
	WRONG(PEER_QUERY, peer_query, reserved, 1);
	WRONG(PEER_QUERY, peer_query, ticket_bytes, PEER_TICKET_BYTES_MAX + 1);
	WRONG(PEER_QUERY, peer_query, ticket_bytes, 17);
	WRONG(PEER_QUERY, peer_query, items_count, 10);
	WRONG(PEER_QUERY, peer_query, items_count, 0xffff);
	WRONG(PEER_GRANT, peer_grant, items_count, PEER_ITEMS_MAX + 1);
	WRONG(PEER_GRANT, peer_grant, items_count, 17);
	WRONG(PEER_FETCH, peer_fetch, reserved, 1);
	WRONG(PEER_FETCH, peer_fetch, count, PEER_FETCH_ITEMS_MAX + 1);
	WRONG(PEER_FETCH, peer_fetch, count, 0x10000001);
	WRONG(PEER_BLOCK, peer_block, reserved, 1);
	WRONG(PEER_BLOCK, peer_block, identity_bytes, PEER_IDENTITY_BYTES_MIN - 4);
	WRONG(PEER_BLOCK, peer_block, identity_bytes, PEER_IDENTITY_BYTES_MAX + 4);
	WRONG(PEER_BLOCK, peer_block, identity_bytes, PEER_IDENTITY_BYTES_MIN + 2);
	peer_sample(memory, PEER_FETCH, 9);
	((struct peer_fetch_item *)((struct peer_fetch *)memory + 1))[8].tag = 0;
	assert_int_equal(check_changed(), -EPROTO);
	peer_sample(memory, PEER_QUERY, 9);
	struct peer_query *query = (struct peer_query *)memory;
	((struct peer_item *)(uintptr_t)peer_query_items(query))[8].reserved = 1;
	assert_int_equal(check_changed(), -EPROTO);
}

/* Texts that end nowhere. */
static void names_end_in_a_nul(void **unused)
{
	(void)unused;
	peer_sample(memory, PEER_HELLO, 0);
	memset(((struct peer_hello *)memory)->name, 'a', PEER_NAME_BYTES);
	assert_int_equal(check_changed(), -EPROTO);
	peer_sample(memory, PEER_HELLO, 0);
	memset(((struct peer_hello *)memory)->release, 'a', 32);
	assert_int_equal(check_changed(), -EPROTO);
	peer_sample(memory, PEER_LINK, 0);
	memset(((struct peer_link_frame *)memory)->transport, 'a', 16);
	assert_int_equal(check_changed(), -EPROTO);
	peer_sample(memory, PEER_QUERY, 0);
	memset(((struct peer_query *)memory)->tenant, 'a', PEER_NAME_BYTES);
	assert_int_equal(check_changed(), -EPROTO);
}

static void a_refusal_carries_its_sentence(void **unused)
{
	const char sentence[] = "there is no such tenant here";
	struct peer_grant *grant = (struct peer_grant *)memory;
	size_t bytes;

	(void)unused;
	peer_sample(memory, PEER_GRANT, 0);
	grant->header.result = -ENOENT;
	memcpy(grant + 1, sentence, strlen(sentence));
	grant->header.bytes += (uint32_t)strlen(sentence);
	assert_int_equal(check_changed(), grant->header.bytes);
	assert_memory_equal(peer_frame_text(grant, &bytes), sentence, strlen(sentence));
	assert_int_equal(bytes, strlen(sentence));
}

static void any_changed_byte_is_safe_to_read(void **unused)
{
	(void)unused;
	for (unsigned type = PEER_HELLO; type < PEER_FRAME_TYPES_END; type++) {
		uint32_t bytes = peer_sample(memory, type, 9);

		for (uint32_t at = 0; at < bytes && at < 120; at++) {
			for (unsigned value = 0; value < 256; value += 5) {
				peer_sample(memory, type, 9);
				memory[at] = (uint8_t)value;
				(void)check_changed();
			}
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_type_has_a_good_frame_and_a_name),
		cmocka_unit_test(a_part_of_a_frame_is_waited_for),
		cmocka_unit_test(a_length_that_is_off_is_refused),
		cmocka_unit_test(what_is_wrong_is_refused),
		cmocka_unit_test(names_end_in_a_nul),
		cmocka_unit_test(a_refusal_carries_its_sentence),
		cmocka_unit_test(any_changed_byte_is_safe_to_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
