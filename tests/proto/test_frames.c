/* tests/proto/test_frames.c: what frame_check() lets through, and what the steppers may then touch.
 */
#include "proto/frames_blocks.h"

#include "base/random.h"
#include "tests/proto/frame_samples.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static _Alignas(64) uint8_t memory[FRAME_BYTES_MAX];

static bool is_reply(unsigned type)
{
	return type >= FRAME_HELLO_REPLY;
}

/* Walks all that a reader would read, so that a sanitizer sees what lies outside. */
static uint64_t walk(const void *frame)
{
	const struct frame_header *header = frame;
	const uint8_t(*hashes)[FRAME_HASH_BYTES];
	const struct frame_keys *keys;
	const struct frame_commit_item *item;
	const uint32_t *crcs;
	size_t position = 0;
	uint64_t sum = 0;

	if (header->type == FRAME_LOOKUP)
		while ((keys = frame_lookup_next(frame, &position, &hashes)) != NULL)
			for (unsigned i = 0; i < keys->count; i++)
				sum += hashes[i][0] + hashes[i][31];
	if (header->type == FRAME_COMMIT)
		while ((item = frame_commit_next(frame, &position, &crcs)) != NULL)
			for (unsigned i = 0; i < item->segments_count; i++)
				sum += crcs[i];
	if (header->type == FRAME_REGISTER) {
		const struct frame_register *registration = frame;

		for (unsigned i = 0; i < registration->groups_count; i++)
			sum += frame_register_groups(registration)[i].payload_bytes;
		for (unsigned i = 0; i < registration->fields_bytes; i++)
			sum += frame_register_fields(registration)[i];
	}
	return sum;
}

/* Checks a copy in memory of exactly its size. */
static int check_exact(const uint8_t *frame, size_t bytes, bool from_daemon)
{
	struct error error = { .code = 0 };
	uint8_t *tight = malloc(bytes == 0 ? 1 : bytes);
	int result;

	/* malloc gives 16-byte alignment and a red zone right behind the last byte. */
	memcpy(tight, frame, bytes);
	result = frame_check(tight, bytes, from_daemon, &error);
	if (result == 0)
		(void)walk(tight);
	else
		assert_true(error.text[0] != 0);
	free(tight);
	return result;
}

static void every_type_has_a_good_frame_and_a_name(void **unused)
{
	const unsigned items[] = { 0, 1, 7, 64, FRAME_KEYS_MAX };

	(void)unused;
	for (unsigned type = 0; type < FRAME_TYPES_END + 5; type++) {
		assert_int_equal(strcmp(frame_type_name(type), "unknown type") != 0,
				 sample_type_exists(type));
		for (unsigned i = 0;
		     sample_type_exists(type) && i < sizeof(items) / sizeof(items[0]); i++) {
			uint32_t bytes = sample_frame(memory, type, items[i]);

			assert_int_equal(check_exact(memory, bytes, is_reply(type)), 0);
			assert_int_equal(check_exact(memory, bytes, !is_reply(type)), -EPROTO);
		}
	}
}

static void a_length_that_is_off_by_one_is_refused(void **unused)
{
	(void)unused;
	for (unsigned type = 0; type < FRAME_TYPES_END; type++) {
		for (int off = -1; sample_type_exists(type) && off <= 1; off += 2) {
			uint32_t bytes = sample_frame(memory, type, 5) + (uint32_t)off;
			bool is_text = type == FRAME_TEXT || type == FRAME_ERROR;

			/* The header does not say what came. */
			assert_int_equal(check_exact(memory, bytes, is_reply(type)), -EPROTO);
			/* The header says it, the counts do not. Texts have any length. */
			((struct frame_header *)memory)->bytes = bytes;
			assert_int_equal(check_exact(memory, bytes, is_reply(type)),
					 is_text ? 0 : -EPROTO);
		}
	}
	for (unsigned bytes = 0; bytes < sizeof(struct frame_header); bytes++) {
		sample_frame(memory, FRAME_STATS, 0);
		assert_int_equal(check_exact(memory, bytes, false), -EPROTO);
	}
}

static int check_changed(unsigned type)
{
	return check_exact(memory, ((struct frame_header *)memory)->bytes, is_reply(type));
}

static void a_count_beyond_its_limit_is_refused_whatever_the_length(void **unused)
{
	(void)unused;
#define TOO_MANY(type, structure, member, value)                                                   \
	do {                                                                                       \
		sample_frame(memory, type, 3);                                                     \
		((struct structure *)memory)->member = (value);                                    \
		assert_int_equal(check_changed(type), -EPROTO);                                    \
		((struct frame_header *)memory)->bytes = FRAME_BYTES_MAX;                          \
		assert_int_equal(check_changed(type), -EPROTO);                                    \
	} while (0)
	TOO_MANY(FRAME_REGISTER, frame_register, groups_count, FRAME_GROUPS_MAX + 1);
	TOO_MANY(FRAME_REGISTER, frame_register, groups_count, 0);
	TOO_MANY(FRAME_REGISTER, frame_register, fields_count, FRAME_FIELDS_MAX + 1);
	TOO_MANY(FRAME_REGISTER, frame_register, fields_bytes, UINT32_MAX);
	TOO_MANY(FRAME_REGISTER, frame_register, world, 65);
	TOO_MANY(FRAME_REGISTER, frame_register, shard, 2);
	TOO_MANY(FRAME_REGISTER, frame_register, roles, 4);
	TOO_MANY(FRAME_LOOKUP, frame_lookup, sections_count, FRAME_GROUPS_MAX + 1);
	TOO_MANY(FRAME_LOOKUP, frame_lookup, sections_count, UINT32_MAX);
	TOO_MANY(FRAME_LOOKUP, frame_lookup, cost_b, NAN);
	TOO_MANY(FRAME_STORE, frame_store, count, FRAME_KEYS_MAX + 1);
	TOO_MANY(FRAME_STORE, frame_store, group, FRAME_GROUPS_MAX);
	TOO_MANY(FRAME_STORE, frame_store, first_position, UINT32_MAX);
	TOO_MANY(FRAME_STORE, frame_store, has_parent, 2);
	TOO_MANY(FRAME_STORE_REPLY, frame_store_reply, count, FRAME_KEYS_MAX + 1);
	TOO_MANY(FRAME_STORE_REPLY, frame_store_reply, wanted_count, 4);
	TOO_MANY(FRAME_COMMIT, frame_commit, count, UINT32_MAX);
	TOO_MANY(FRAME_COPIED, frame_copied, count, FRAME_KEYS_MAX + 1);
	TOO_MANY(FRAME_COMMITTED, frame_committed, count, 0x20000001);
	TOO_MANY(FRAME_LOAD, frame_load, count, FRAME_KEYS_MAX + 1);
	TOO_MANY(FRAME_LOADED, frame_loaded, count, UINT32_MAX);
	TOO_MANY(FRAME_RELEASE, frame_release, count, 0x80000000);
	TOO_MANY(FRAME_HINT, frame_hint, kind, FRAME_HINTS);
	TOO_MANY(FRAME_HINT, frame_hint, count, FRAME_KEYS_MAX + 1);
	TOO_MANY(FRAME_EXPLAIN, frame_explain, group, FRAME_GROUPS_MAX);
	TOO_MANY(FRAME_EXPLAINED, frame_explained, count, UINT32_MAX);
	TOO_MANY(FRAME_FOUND, frame_found, keys_count, FRAME_LOOKUP_KEYS_MAX + 1);
	TOO_MANY(FRAME_FOUND, frame_found, runs_count, FRAME_RUNS_MAX + 1);
	TOO_MANY(FRAME_FOUND, frame_found, worth_tokens, 1);
	TOO_MANY(FRAME_HELLO, frame_hello, connection, 2);
	TOO_MANY(FRAME_HELLO, frame_hello, version_min, 1);
	TOO_MANY(FRAME_BYPASS, frame_bypass, mode, FRAME_BYPASS_MODES);
	TOO_MANY(FRAME_OPERATE, frame_operate, verb, FRAME_OPERATE_VERBS);
	TOO_MANY(FRAME_OPERATE, frame_operate, group, FRAME_GROUPS_MAX);
	TOO_MANY(FRAME_OPERATE, frame_operate, count, FRAME_KEYS_MAX + 1);
	TOO_MANY(FRAME_STATS, frame_header, flags, 1);
	TOO_MANY(FRAME_LOOKUP, frame_header, flags, 2);
	TOO_MANY(FRAME_STORE, frame_header, flags, 1);
	TOO_MANY(FRAME_LOAD, frame_header, flags, 3);
	TOO_MANY(FRAME_COMMIT, frame_header, flags, FRAME_PULL);
	TOO_MANY(FRAME_LEND, frame_header, flags, FRAME_PULL);
	TOO_MANY(FRAME_STATS, frame_header, magic, 1);
#undef TOO_MANY
	sample_frame(memory, FRAME_TEXT, 0);
	((struct frame_header *)memory)->bytes = FRAME_TEXT_BYTES_MAX + sizeof(struct frame_text) +
						 1;
	assert_int_equal(check_changed(FRAME_TEXT), -EPROTO);
	sample_frame(memory, FRAME_LEND, FRAME_LEND_BYTES_MAX / 8 + 1);
	assert_int_equal(check_changed(FRAME_LEND), -EPROTO);
}

static void a_fetch_names_its_peer_and_how(void **unused)
{
	struct frame_fetch *frame = (struct frame_fetch *)memory;

	(void)unused;
	sample_frame(memory, FRAME_FETCH, 0);
	memset(frame->peer, 'a', sizeof(frame->peer) - 1);
	assert_int_equal(check_changed(FRAME_FETCH), 0);
	memset(frame->peer, 'a', sizeof(frame->peer));
	assert_int_equal(check_changed(FRAME_FETCH), -EPROTO);
	sample_frame(memory, FRAME_FETCH, 0);
	frame->mode = FRAME_FETCH_MODES;
	assert_int_equal(check_changed(FRAME_FETCH), -EPROTO);
	sample_frame(memory, FRAME_TICKETED, 0);
	assert_int_equal(check_changed(FRAME_TICKETED), 0);
	memset(((struct frame_ticketed *)memory)->text, 'a', FRAME_TICKET_BYTES_MAX);
	assert_int_equal(check_changed(FRAME_TICKETED), -EPROTO);
	sample_frame(memory, FRAME_FETCH, FRAME_TICKET_BYTES_MAX + 1);
	assert_int_equal(check_changed(FRAME_FETCH), -EPROTO);
	sample_frame(memory, FRAME_FETCH, FRAME_TICKET_BYTES_MAX);
	assert_int_equal(check_changed(FRAME_FETCH), 0);
	frame->header.flags = FRAME_REMOTE;
	assert_int_equal(check_changed(FRAME_FETCH), -EPROTO);
}

static void a_pulled_load_names_an_engine_block_for_each_hash(void **unused)
{
	struct frame_load *frame = (struct frame_load *)memory;

	(void)unused;
	for (uint32_t count = 0; count <= FRAME_KEYS_MAX; count += 256) {
		uint32_t bytes = sample_frame(memory, FRAME_LOAD, count);

		frame->header.flags = FRAME_PULL;
		assert_int_equal(check_changed(FRAME_LOAD), count == 0 ? 0 : -EPROTO);
		frame->header.bytes = bytes + count * (uint32_t)sizeof(uint32_t);
		assert_int_equal(check_changed(FRAME_LOAD), 0);
		assert_ptr_equal(frame_load_blocks(frame), memory + bytes);
		frame->header.flags = 0;
		assert_int_equal(check_changed(FRAME_LOAD), count == 0 ? 0 : -EPROTO);
	}
}

static void a_pulled_block_is_committed_without_checksums(void **unused)
{
	struct frame_commit *frame = (struct frame_commit *)memory;

	(void)unused;
	memset(memory, 0, sizeof(*frame) + sizeof(struct frame_commit_item));
	frame_start(&frame->header, FRAME_COMMIT, sizeof(*frame) + sizeof(struct frame_commit_item),
		    1, 2);
	frame->count = 1;
	assert_int_equal(check_changed(FRAME_COMMIT), 0);
}

static void counts_inside_items_are_checked_too(void **unused)
{
	struct frame_commit_item *item = (struct frame_commit_item *)(memory +
								      sizeof(struct frame_commit));
	struct frame_keys *keys = (struct frame_keys *)(memory + sizeof(struct frame_lookup));

	(void)unused;
	sample_frame(memory, FRAME_COMMIT, 2);
	item->segments_count = FRAME_SEGMENTS_MAX + 1;
	assert_int_equal(check_changed(FRAME_COMMIT), -EPROTO);
	item->segments_count = UINT32_MAX;
	assert_int_equal(check_changed(FRAME_COMMIT), -EPROTO);
	sample_frame(memory, FRAME_COMMIT, 2);
	item->index = FRAME_KEYS_MAX;
	assert_int_equal(check_changed(FRAME_COMMIT), -EPROTO);
	sample_frame(memory, FRAME_LOOKUP, 10);
	keys->count = UINT16_MAX;
	assert_int_equal(check_changed(FRAME_LOOKUP), -EPROTO);
	sample_frame(memory, FRAME_LOOKUP, 10);
	keys->first_position = UINT32_MAX;
	assert_int_equal(check_changed(FRAME_LOOKUP), -EPROTO);
}

static void names_without_an_end_are_refused(void **unused)
{
	(void)unused;
	sample_frame(memory, FRAME_REGISTER, 1);
	memset(((struct frame_register *)memory)->engine, 'x', FRAME_NAME_BYTES);
	assert_int_equal(check_changed(FRAME_REGISTER), -EPROTO);
	sample_frame(memory, FRAME_BYPASS, 1);
	memset(((struct frame_bypass *)memory)->tenant, 'x', FRAME_NAME_BYTES);
	assert_int_equal(check_changed(FRAME_BYPASS), -EPROTO);
	sample_frame(memory, FRAME_OPERATE, 1);
	memset(((struct frame_operate *)memory)->tenant, 'x', FRAME_NAME_BYTES);
	assert_int_equal(check_changed(FRAME_OPERATE), -EPROTO);
	sample_frame(memory, FRAME_HELLO_REPLY, 1);
	memset(((struct frame_hello_reply *)memory)->tenant, 'x', FRAME_NAME_BYTES);
	assert_int_equal(check_changed(FRAME_HELLO_REPLY), -EPROTO);
}

static void an_operators_verb_takes_its_own_fields_and_no_others(void **unused)
{
	struct frame_operate *frame = (struct frame_operate *)memory;

	(void)unused;
	for (unsigned verb = 0; verb < FRAME_OPERATE_VERBS; verb++) {
		unsigned takes = frame_operate_fields(verb);

		for (unsigned field = 1; field <= FRAME_TAKES_HASHES; field <<= 1) {
			bool needs_hash = verb == FRAME_OPERATE_STAT;
			bool has_hash = needs_hash || field == FRAME_TAKES_HASHES;

			sample_frame(memory, FRAME_OPERATE,
				     !has_hash                    ? 0
				     : verb == FRAME_OPERATE_LIST ? 2
								  : 1);
			frame->verb = verb;
			frame->tenant[0] = field == FRAME_TAKES_TENANT ? 'a' : 0;
			frame->fingerprint[15] = field == FRAME_TAKES_SPACE;
			frame->tag[0] = field == FRAME_TAKES_TAG;
			frame->cursor = field == FRAME_TAKES_CURSOR;
			frame->value = field == FRAME_TAKES_VALUE;
			frame->group = field == FRAME_TAKES_GROUP;
			assert_int_equal(check_changed(FRAME_OPERATE), takes & field ? 0 : -EPROTO);
		}
		assert_string_not_equal(frame_operate_name(verb), "unknown verb");
	}
	sample_frame(memory, FRAME_OPERATE, 0);
	frame->verb = FRAME_OPERATE_STAT;
	assert_int_equal(check_changed(FRAME_OPERATE), -EPROTO);
	sample_frame(memory, FRAME_OPERATE, 1);
	frame->verb = FRAME_OPERATE_LIST;
	assert_int_equal(check_changed(FRAME_OPERATE), -EPROTO);
	sample_frame(memory, FRAME_OPERATE, 0);
	frame->verb = FRAME_OPERATE_DRAIN;
	frame->value = FRAME_DRAINS;
	assert_int_equal(check_changed(FRAME_OPERATE), -EPROTO);
	frame->verb = FRAME_OPERATE_PURGE;
	frame->value = 2;
	assert_int_equal(check_changed(FRAME_OPERATE), -EPROTO);
	assert_string_equal(frame_operate_name(FRAME_OPERATE_VERBS), "unknown verb");
}

static void a_frame_with_random_changes_is_never_read_outside(void **unused)
{
	struct random random;
	unsigned good = 0;

	(void)unused;
	random_init(&random, 20260101);
	for (unsigned round = 0; round < 100000; round++) {
		unsigned type = (unsigned)random_below(&random, FRAME_TYPES_END);
		unsigned changes = 1 + (unsigned)random_below(&random, 4);
		uint32_t bytes;

		if (!sample_type_exists(type))
			continue;
		bytes = sample_frame(memory, type, (unsigned)random_below(&random, 12));
		for (unsigned i = 0; i < changes; i++)
			memory[random_below(&random, bytes)] = (uint8_t)random_next(&random);
		if (random_below(&random, 4) == 0)
			bytes = 1 + (uint32_t)random_below(&random, bytes);
		if (random_below(&random, 2) == 0 && bytes >= sizeof(struct frame_header))
			((struct frame_header *)memory)->bytes = bytes;
		good += check_exact(memory, bytes, is_reply(type)) == 0;
	}
	assert_true(good > 1000); /* the changes leave something to walk through */
	assert_true(good < 90000);
}

static void every_reason_has_a_name(void **unused)
{
	(void)unused;
	for (unsigned i = 0; i < FRAME_REASONS; i++)
		assert_non_null(frame_reason_name(i));
	assert_string_equal(frame_reason_name(FRAME_REASONS), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_type_has_a_good_frame_and_a_name),
		cmocka_unit_test(a_length_that_is_off_by_one_is_refused),
		cmocka_unit_test(a_count_beyond_its_limit_is_refused_whatever_the_length),
		cmocka_unit_test(a_fetch_names_its_peer_and_how),
		cmocka_unit_test(a_pulled_load_names_an_engine_block_for_each_hash),
		cmocka_unit_test(a_pulled_block_is_committed_without_checksums),
		cmocka_unit_test(counts_inside_items_are_checked_too),
		cmocka_unit_test(names_without_an_end_are_refused),
		cmocka_unit_test(an_operators_verb_takes_its_own_fields_and_no_others),
		cmocka_unit_test(a_frame_with_random_changes_is_never_read_outside),
		cmocka_unit_test(every_reason_has_a_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
