/* tests/client/test_client_calls.c: what an engine asks for, of a daemon that does it. */
#include "tests/client/client_rig.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void stored_blocks_come_back_byte_for_byte(void **unused)
{
	struct rig *rig;
	uint8_t *wanted[RIG_PLANES];

	(void)unused;
	rig = rig_create();
	assert_int_equal(rig_run(rig, true, RIG_BLOCKS).good_count, RIG_BLOCKS);
	for (unsigned p = 0; p < RIG_PLANES; p++) {
		wanted[p] = malloc(RIG_BLOCKS * rig_plane_stride[p]);
		memcpy(wanted[p], rig->planes[p], RIG_BLOCKS * rig_plane_stride[p]);
	}
	rig_fill(rig, 2);
	struct kvtier_completion completion = rig_run(rig, false, RIG_BLOCKS);
	assert_int_equal(completion.state, KVTIER_DONE);
	assert_int_equal(completion.good_count, RIG_BLOCKS);
	for (unsigned p = 0; p < RIG_PLANES; p++) {
		for (unsigned b = 0; b < RIG_BLOCKS; b++)
			assert_memory_equal(rig->planes[p] + b * rig_plane_stride[p],
					    wanted[p] + b * rig_plane_stride[p],
					    rig_plane_bytes[p]);
		free(wanted[p]);
	}
	assert_int_equal(fake_wait_released(&rig->fake, RIG_BLOCKS), 0);
	rig_destroy(rig);
}

static void a_second_store_is_told_that_the_blocks_are_there(void **unused)
{
	struct rig *rig;

	(void)unused;
	rig = rig_create();
	assert_int_equal(rig_run(rig, true, 3).results[2], 0);
	struct kvtier_completion completion = rig_run(rig, true, 4);
	assert_int_equal(completion.good_count, 4);
	assert_int_equal(completion.results[2], 1);
	assert_int_equal(completion.results[3], 0);
	rig_destroy(rig);
}

static void a_window_smaller_than_the_job_is_used_again_and_again(void **unused)
{
	struct rig *rig;

	(void)unused;
	rig = rig_create_closed(20000); /* two blocks of 8,000 bytes */
	assert_int_equal(rig_open_client(rig, KVTIER_WORKER), 0);
	assert_int_equal(rig_run(rig, true, RIG_BLOCKS).good_count, RIG_BLOCKS);
	rig_destroy(rig);
}

static void a_block_longer_than_the_window_is_refused_at_once(void **unused)
{
	struct rig *rig;

	(void)unused;
	rig = rig_create_closed(4096);
	assert_int_equal(rig_open_client(rig, KVTIER_WORKER), 0);
	struct kvtier_completion completion = rig_run(rig, true, 3);
	assert_int_equal(completion.good_count, 0);
	assert_int_equal(completion.results[0], -ENOSPC);
	rig_destroy(rig);
}

static void a_lookup_says_what_is_there(void **unused)
{
	struct rig *rig;
	struct kvtier_found found;

	(void)unused;
	rig = rig_create();
	rig_run(rig, true, 5);
	assert_int_equal(rig_lookup(rig, RIG_BLOCKS, RIG_WAIT_US, &found), 0);
	assert_int_equal(found.usable_tokens, 80);
	assert_int_equal(found.tier_tokens[0], 80);
	assert_int_equal(found.present_count, 5);
	assert_int_equal(found.lease, FAKE_LEASE_FIRST);
	assert_int_equal(kvtier_lease_release(rig->client, found.lease), 0);
	fake_wait_seen(&rig->fake, FRAME_LEASE_RELEASE, 1);
	rig_destroy(rig);
}

static void a_long_lookup_goes_in_several_frames(void **unused)
{
	const unsigned counts[] = { 0, 1, 1024, 1025, 5000, FRAME_LOOKUP_KEYS_MAX };
	uint8_t(*hashes)[KVTIER_HASH_BYTES] = calloc(FRAME_LOOKUP_KEYS_MAX + 1, KVTIER_HASH_BYTES);
	uint8_t *present = malloc(FRAME_LOOKUP_KEYS_MAX);
	struct rig *rig;

	(void)unused;
	rig = rig_create();
	rig_run(rig, true, 1);
	for (unsigned i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct kvtier_found found = { .present = present,
					      .present_max = FRAME_LOOKUP_KEYS_MAX };
		struct kvtier_keys sections[2] = {
			{ .count = counts[i] / 3,
			  .hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])hashes },
			{ .count = counts[i] - counts[i] / 3,
			  .first_position = 7,
			  .hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])hashes },
		};
		struct kvtier_lookup lookup = { .sections_count = 2, .sections = sections };
		unsigned before = fake_seen(&rig->fake, FRAME_LOOKUP);

		if (counts[i] > 0)
			memcpy(hashes[sections[1].count - 1], rig->hashes[0], KVTIER_HASH_BYTES);
		assert_int_equal(kvtier_lookup(rig->client, &lookup, RIG_WAIT_US, &found), 0);
		assert_int_equal(rig->fake.lookup_keys, counts[i]);
		assert_int_equal(fake_seen(&rig->fake, FRAME_LOOKUP) - before,
				 counts[i] == 0 ? 1 : (counts[i] + 1023) / 1024);
		assert_int_equal(found.present_count, counts[i] > 0);
		if (counts[i] > 0)
			assert_int_equal(present[counts[i] - 1], 1);
		memset(hashes, 0, (size_t)FRAME_LOOKUP_KEYS_MAX * KVTIER_HASH_BYTES);
	}
	struct kvtier_found found = { .present = NULL };
	struct kvtier_keys keys = { .count = FRAME_LOOKUP_KEYS_MAX + 1,
				    .hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])hashes };
	struct kvtier_lookup lookup = { .sections_count = 1, .sections = &keys };
	assert_int_equal(kvtier_lookup(rig->client, &lookup, RIG_WAIT_US, &found), -EINVAL);
	rig_destroy(rig);
	free(hashes);
	free(present);
}

static void the_small_calls_are_answered(void **unused)
{
	struct kvtier_keys keys = { .count = 2 };
	struct rig *rig;
	uint64_t lease = 1;
	char text[64];

	(void)unused;
	rig = rig_create();
	keys.hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])rig->hashes;
	assert_int_equal(
		kvtier_hint(rig->client, KVTIER_HINT_TOUCH, 0, &keys, 0, RIG_WAIT_US, &lease),
		KVTIER_ACCEPTED);
	assert_int_equal(kvtier_forget(rig->client, 0, RIG_WAIT_US), 0);
	assert_int_equal(kvtier_forget(rig->client, KVTIER_SPACE_NONE, RIG_WAIT_US), 0);
	assert_int_equal(kvtier_forget(rig->client, 3, RIG_WAIT_US), -EINVAL);
	assert_int_equal(kvtier_stats(rig->client, text, sizeof(text), RIG_WAIT_US), 0);
	assert_int_equal(strlen(text), sizeof(text) - 1);
	assert_memory_equal(text, "{\"version\"", 10);
	rig_destroy(rig);
}

static void wrong_options_are_refused_with_the_reason(void **unused)
{
	struct kvtier_group group = { .tokens_per_block = 16, .payload_bytes = 4096 };
	const struct kvtier_options good = { .socket = "/nonexistent/kv.sock",
					     .engine = "e",
					     .roles = KVTIER_SCHEDULER,
					     .identity = { .model_content = "d" },
					     .groups_count = 1,
					     .groups = &group };
	struct kvtier_client *client = NULL;
	char text[256];

	(void)unused;
	assert_int_equal(kvtier_open(&client, &good, text, sizeof(text)), 0);
	kvtier_close(client);
#define REFUSED(change, words)                                                                     \
	do {                                                                                       \
		struct kvtier_options options = good;                                              \
		client = NULL;                                                                     \
		change;                                                                            \
		assert_int_equal(kvtier_open(&client, &options, text, sizeof(text)), -EINVAL);     \
		assert_non_null(strstr(text, words));                                              \
		assert_null(client);                                                               \
	} while (0)
	REFUSED(options.engine = "", "engine");
	REFUSED(options.roles = 0, "roles");
	REFUSED(options.shard = 1, "shard");
	REFUSED(options.world = 65, "world");
	REFUSED(options.groups_count = 17, "groups_count");
	REFUSED(options.identity.model_content = NULL, "model_content");
	REFUSED(options.roles = KVTIER_WORKER, "planes");
	REFUSED(group.segments_count = 257, "segments");
	REFUSED(group.segments_count = 1; group.tokens_per_block = 0, "tokens_per_block");
#undef REFUSED
	kvtier_close(NULL);
}

static void a_forked_child_leaves_the_connection_alone(void **unused)
{
	struct rig *rig;
	struct kvtier_found found;
	int status;
	pid_t child;

	(void)unused;
	rig = rig_create();
	child = fork();
	if (child == 0) {
		struct kvtier_completion completion;
		uint64_t job;
		bool is_right = rig_lookup(rig, 1, RIG_WAIT_US, &found) == -ECHILD &&
				rig_begin(rig, true, 1, RIG_WAIT_US, &job) == -ECHILD &&
				kvtier_poll(rig->client, &completion, 1) == -ECHILD &&
				kvtier_wait(rig->client, RIG_WAIT_US) == -ECHILD &&
				!kvtier_is_connected(rig->client) &&
				atomic_load(&rig->client->control.fd) == -1;

		kvtier_close(rig->client);
		_exit(is_right ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), 0);
	assert_int_equal(rig_run(rig, true, 2).good_count, 2);
	rig_destroy(rig);
}

static void the_descriptor_is_readable_when_there_is_something_to_poll(void **unused)
{
	struct rig *rig;
	struct kvtier_completion completion;
	uint64_t job;

	(void)unused;
	rig = rig_create();
	struct pollfd fd = { .fd = kvtier_fd(rig->client), .events = POLLIN };
	assert_int_equal(poll(&fd, 1, 0), 0);
	fake_set(&rig->fake, FRAME_STORE, FAKE_SILENT, 1);
	assert_int_equal(rig_begin(rig, true, 1, RIG_SHORT_US, &job), 0);
	assert_int_equal(poll(&fd, 1, RIG_WAIT_US / 1000),
			 1); /* the deadline, or the copier that noticed it */
	while (kvtier_poll(rig->client, &completion, 1) == 0)
		assert_int_equal(poll(&fd, 1, RIG_WAIT_US / 1000), 1);
	assert_int_equal(completion.state, KVTIER_EXPIRED);
	assert_int_equal(kvtier_poll(rig->client, &completion, 1), 0);
	assert_int_equal(poll(&fd, 1, 0), 0);
	rig_destroy(rig);
}

static void route_keys_are_chained_and_extras_count(void **unused)
{
	const uint32_t tokens[4] = { 1, 2, 3, 4 };
	const struct kvtier_extra extras[2] = { { "lora", 4 }, { "salt", 4 } };
	const struct kvtier_extra joined[1] = { { "lorasalt", 8 } };
	uint64_t first = kvtier_route_key(4, tokens, 4, NULL, 0);

	(void)unused;
	/* From libxxhash 0.8.1, as linked: with `uint32_t tokens[4] = {1, 2, 3, 4};` in a main(),
	 * printf("%llx", XXH3_64bits_withSeed(tokens, 16, 16)); cc route.c -lxxhash && ./a.out */
	assert_true(kvtier_route_key(16, tokens, 4, NULL, 0) == UINT64_C(0x2e86adcb2e1cb471));
	assert_true(first == kvtier_route_key(4, tokens, 4, extras, 0));
	assert_true(first != kvtier_route_key(5, tokens, 4, NULL, 0));
	assert_true(first != kvtier_route_key(4, tokens, 3, NULL, 0));
	assert_true(kvtier_route_key(4, tokens, 4, extras, 2) != first);
	assert_true(kvtier_route_key(4, tokens, 4, extras, 2) !=
		    kvtier_route_key(4, tokens, 4, joined, 1));
}

static void route_keys_of_many_blocks_are_those_of_one_after_the_other(void **unused)
{
	const uint32_t tokens[12] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
	const struct kvtier_extra extras[3] = { { "lora", 4 }, { "lora", 4 }, { "image", 5 } };
	const uint32_t ends[3] = { 1, 1, 3 };
	uint64_t keys[3], wanted[3];

	(void)unused;
	wanted[0] = kvtier_route_key(4, tokens, 4, extras, 1);
	wanted[1] = kvtier_route_key(wanted[0], tokens + 4, 4, NULL, 0);
	wanted[2] = kvtier_route_key(wanted[1], tokens + 8, 4, extras + 1, 2);
	assert_int_equal(kvtier_route_keys(4, tokens, 4, 3, extras, ends, keys), 0);
	assert_memory_equal(keys, wanted, sizeof(keys));
	wanted[0] = kvtier_route_key(99, tokens, 4, NULL, 0);
	wanted[1] = kvtier_route_key(wanted[0], tokens + 4, 4, NULL, 0);
	assert_int_equal(kvtier_route_keys(99, tokens, 4, 2, NULL, NULL, keys), 0);
	assert_memory_equal(keys, wanted, 2 * sizeof(keys[0]));
	assert_int_equal(kvtier_route_keys(4, NULL, 4, 0, NULL, NULL, NULL), 0);
}

static void route_keys_of_nonsense_are_refused_and_nothing_is_written(void **unused)
{
	const uint32_t tokens[4] = { 1, 2, 3, 4 };
	const struct kvtier_extra extras[2] = { { "lora", 4 }, { NULL, 4 } };
	const uint32_t falling[2] = { 1, 0 }, ends[2] = { 1, 2 }, one[2] = { 1, 1 };
	uint64_t keys[2] = { 7, 7 };

	(void)unused;
	assert_int_equal(kvtier_route_keys(4, tokens, 0, 2, NULL, NULL, keys), -EINVAL);
	assert_int_equal(kvtier_route_keys(4, NULL, 2, 2, NULL, NULL, keys), -EINVAL);
	assert_int_equal(kvtier_route_keys(4, tokens, 2, 2, NULL, NULL, NULL), -EINVAL);
	assert_int_equal(kvtier_route_keys(4, tokens, SIZE_MAX / 2, 2, NULL, NULL, keys), -EINVAL);
	assert_int_equal(kvtier_route_keys(4, tokens, 2, 2, extras, falling, keys), -EINVAL);
	assert_int_equal(kvtier_route_keys(4, tokens, 2, 2, extras, ends, keys), -EINVAL);
	assert_int_equal(kvtier_route_keys(4, tokens, 2, 2, NULL, one, keys), -EINVAL);
	assert_true(keys[0] == 7 && keys[1] == 7);
}

static void a_block_is_copied_from_and_to_its_planes_and_no_other(void **unused)
{
	struct rig *rig;
	uint8_t payload[8000], *wanted[RIG_PLANES];

	(void)unused;
	rig = rig_create();
	assert_int_equal(kvtier_block_read(rig->client, 0, 3, payload, sizeof(payload)), 0);
	assert_memory_equal(payload, rig->planes[0] + 3 * rig_plane_stride[0], 3000);
	assert_memory_equal(payload + 3000, rig->planes[1] + 3 * rig_plane_stride[1], 5000);
	for (unsigned p = 0; p < RIG_PLANES; p++) {
		wanted[p] = malloc(RIG_BLOCKS * rig_plane_stride[p]);
		memcpy(wanted[p], rig->planes[p], RIG_BLOCKS * rig_plane_stride[p]);
		memcpy(wanted[p] + (RIG_BLOCKS - 1) * rig_plane_stride[p], payload + p * 3000,
		       rig_plane_bytes[p]);
	}
	assert_int_equal(
		kvtier_block_write(rig->client, 0, RIG_BLOCKS - 1, payload, sizeof(payload)), 0);
	for (unsigned p = 0; p < RIG_PLANES; p++) {
		assert_memory_equal(rig->planes[p], wanted[p], RIG_BLOCKS * rig_plane_stride[p]);
		free(wanted[p]);
	}
	rig_destroy(rig);
}

static void a_block_that_is_not_there_or_of_another_size_is_not_copied(void **unused)
{
	struct rig *rig;
	uint8_t payload[8001] = { 0 };

	(void)unused;
	rig = rig_create();
	assert_int_equal(kvtier_block_read(rig->client, 1, 0, payload, 8000), -EINVAL);
	assert_int_equal(kvtier_block_read(rig->client, 0, RIG_BLOCKS, payload, 8000), -EINVAL);
	assert_int_equal(kvtier_block_read(rig->client, 0, 0, payload, 8001), -EINVAL);
	assert_int_equal(kvtier_block_read(rig->client, 0, 0, NULL, 8000), -EINVAL);
	assert_int_equal(kvtier_block_write(rig->client, 0, RIG_BLOCKS, payload, 8000), -EINVAL);
	assert_int_equal(kvtier_block_write(rig->client, 0, 0, payload, 7999), -EINVAL);
	assert_int_equal(kvtier_block_write(rig->client, 0, 0, NULL, 8000), -EINVAL);
	kvtier_close(rig->client);
	assert_int_equal(rig_open_client(rig, KVTIER_SCHEDULER), 0);
	assert_int_equal(kvtier_block_read(rig->client, 0, 0, payload, 8000), -EINVAL);
	assert_int_equal(kvtier_block_write(rig->client, 0, 0, payload, 8000), -EINVAL);
	rig_destroy(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stored_blocks_come_back_byte_for_byte),
		cmocka_unit_test(a_second_store_is_told_that_the_blocks_are_there),
		cmocka_unit_test(a_window_smaller_than_the_job_is_used_again_and_again),
		cmocka_unit_test(a_block_longer_than_the_window_is_refused_at_once),
		cmocka_unit_test(a_lookup_says_what_is_there),
		cmocka_unit_test(a_long_lookup_goes_in_several_frames),
		cmocka_unit_test(the_small_calls_are_answered),
		cmocka_unit_test(wrong_options_are_refused_with_the_reason),
		cmocka_unit_test(a_forked_child_leaves_the_connection_alone),
		cmocka_unit_test(the_descriptor_is_readable_when_there_is_something_to_poll),
		cmocka_unit_test(route_keys_are_chained_and_extras_count),
		cmocka_unit_test(route_keys_of_many_blocks_are_those_of_one_after_the_other),
		cmocka_unit_test(route_keys_of_nonsense_are_refused_and_nothing_is_written),
		cmocka_unit_test(a_block_is_copied_from_and_to_its_planes_and_no_other),
		cmocka_unit_test(a_block_that_is_not_there_or_of_another_size_is_not_copied),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
