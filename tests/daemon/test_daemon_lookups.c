/* tests/daemon/test_daemon_lookups.c: lookups of several frames, and what happens between them. */
#include "tests/daemon/rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define BLOCKS 12u
#define HALF (BLOCKS / 2)
#define CPU_BLOCKS (2 * RIG_SLOTS_A_UNIT)

static const struct rig_blocks all = { .first = 1, .count = BLOCKS, .version = 3 };
static const struct rig_keys upper = { .first = 1, .count = HALF };
static const struct rig_keys deeper = { .first_position = HALF, .first = 1 + HALF, .count = HALF };

struct bench {
	struct rig rig;
	struct rig_client *client;
};

static void bench_init(struct bench *bench, bool no_nvme)
{
	rig_init(&bench->rig, &(struct rig_config){ .no_nvme = no_nvme });
	bench->client = rig_register(&bench->rig, NULL);
	assert_int_equal(rig_store(bench->client, &all), BLOCKS);
	rig_settle(&bench->rig);
}

static bool is_present(const struct rig_found *found, unsigned key)
{
	return (found->bits[key / 8] >> key % 8 & 1) != 0;
}

static void assert_presence(const struct rig_found *found, const char *wanted)
{
	assert_int_equal(found->keys_count, strlen(wanted));
	for (unsigned key = 0; key < found->keys_count; key++)
		assert_int_equal(is_present(found, key), wanted[key] == '1');
}

static void the_frames_of_a_lookup_are_answered_once_and_together(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, false);
	struct rig_lookup lookup = { .client = bench.client, .tag = 1, .lease_us = RIG_SECOND };
	rig_lookup_frame(&lookup, &upper);
	assert_int_not_equal(bench.client->reply_request, lookup.request);
	struct rig_keys missing = { .first_position = BLOCKS, .first = 900, .count = 2 };
	rig_lookup_frame(&lookup, &deeper);
	struct rig_found found = rig_lookup_last(&lookup, &missing);
	assert_presence(&found, "11111111111100");
	assert_int_equal(found.usable_tokens, BLOCKS * RIG_TOKENS);
	assert_int_not_equal(found.lease, 0);
	assert_int_equal(rig_figures(&bench.rig, 0, TIER_CPU).holds, BLOCKS);
	rig_lease_release(bench.client, found.lease);
	rig_assert_idle(&bench.rig);
	rig_finish(&bench.rig);
}

/* A FORGET that is served together with the last frame: nothing was swept yet. */
static void forget_begin(struct rig_client *client, uint32_t space)
{
	struct frame_forget *frame = rig_frame(client, FRAME_FORGET, sizeof(*frame));

	frame->space = space;
	rig_send(client, FRAME_CONTROL);
}

static void a_forget_between_the_frames_makes_all_of_them_misses(void **unused)
{
	(void)unused;
	for (unsigned kind = 0; kind < 4; kind++) {
		bool is_durable = kind & 1;
		struct bench bench;

		bench_init(&bench, false);
		uint32_t space = kind & 2 ? UINT32_MAX : bench.client->space;
		struct rig_lookup lookup = { .client = bench.client, .lease_us = RIG_SECOND };
		rig_lookup_frame(&lookup, &upper);
		if (is_durable)
			assert_int_equal(rig_forget(bench.client, space), 0);
		else
			forget_begin(bench.client, space);
		struct rig_found found = rig_lookup_last(&lookup, &deeper);
		assert_presence(&found, "000000000000");
		assert_int_equal(found.usable_tokens, 0);
		assert_int_equal(found.lease, 0);
		rig_settle(&bench.rig);
		rig_assert_idle(&bench.rig);
		rig_finish(&bench.rig);
	}
}

/* The entries of what went are others' by the time that the last frame comes. */
static void what_is_evicted_between_the_frames_is_a_miss(void **unused)
{
	struct bench bench;
	const unsigned gone = 3;

	(void)unused;
	bench_init(&bench, true);
	const struct cache *cache = bench.rig.daemon->cache;
	struct rig_lookup lookup = { .client = bench.client, .lease_us = RIG_SECOND };
	uint32_t deepest = rig_entry(bench.client, 0, BLOCKS);
	uint64_t changes = cache_changes(cache);
	rig_lookup_frame(&lookup, &deeper);
	/* Each a prefix of its own; the coldest, which is the deepest, goes first. */
	for (unsigned i = 0; i < CPU_BLOCKS - BLOCKS + gone; i++)
		assert_int_equal(rig_store(bench.client, &(struct rig_blocks){ .first = 1000 + i,
									       .count = 1,
									       .version = 1 }),
				 1);
	assert_int_equal(rig_entry(bench.client, 0, BLOCKS), ENTRY_NONE);
	assert_int_not_equal(rig_entry(bench.client, 0, BLOCKS - gone), ENTRY_NONE);
	assert_int_not_equal(cache_entry_tier(cache, deepest), TIERS);
	assert_true(cache_changes(cache) > changes);
	struct rig_found found = rig_lookup_last(&lookup, &upper);
	assert_presence(&found, "111000111111");
	assert_int_equal(found.usable_tokens, (BLOCKS - gone) * RIG_TOKENS);
	assert_int_equal(rig_figures(&bench.rig, 0, TIER_CPU).holds, BLOCKS - gone);
	rig_lease_release(bench.client, found.lease);
	rig_assert_idle(&bench.rig);
	rig_finish(&bench.rig);
}

static void what_goes_down_between_the_frames_is_answered_from_below(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, false);
	struct rig_lookup lookup = { .client = bench.client };
	rig_lookup_frame(&lookup, &upper);
	rig_drop_cpu(bench.client, 0, 1, HALF);
	struct rig_found found = rig_lookup_last(&lookup, &deeper);
	assert_presence(&found, "111111111111");
	assert_int_equal(found.runs_count, 2);
	assert_int_equal(found.runs[0].tier, TIER_NVME);
	assert_int_equal(found.runs[0].tokens, HALF * RIG_TOKENS);
	assert_int_equal(found.runs[1].tier, TIER_CPU);
	rig_finish(&bench.rig);
}

static void frames_of_another_tag_abandon_the_first(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, false);
	struct rig_lookup first = { .client = bench.client, .tag = 1 };
	struct rig_lookup second = { .client = bench.client, .tag = 2 };
	struct rig_keys missing = { .first_position = HALF, .first = 900, .count = 2 };
	rig_lookup_frame(&first, &deeper);
	rig_lookup_frame(&second, &upper);
	struct rig_found found = rig_lookup_last(&second, &missing);
	assert_presence(&found, "11111100");
	assert_int_equal(found.usable_tokens, HALF * RIG_TOKENS);
	/* Only a last frame of one tag, too. */
	rig_lookup_frame(&first, &deeper);
	found = rig_lookup_last(&second, &upper);
	assert_presence(&found, "111111");
	/* What is left of the first is nothing: its first frame is lost. */
	found = rig_lookup_last(&first, &missing);
	assert_int_equal(found.result, -EBUSY);
	assert_int_equal(found.usable_tokens, 0);
	rig_finish(&bench.rig);
}

/* Its last frame alone would count the blocks of the first as the engine's own. */
static void a_lookup_whose_first_frame_was_dropped_is_a_miss(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, false);
	struct rig_lookup lookup = { .client = bench.client, .tag = 1 };
	assert_int_equal(rig_bypass(bench.client, "", false, FRAME_BYPASS_ON), 0);
	rig_lookup_frame(&lookup, &upper);
	assert_int_equal(rig_bypass(bench.client, "", false, FRAME_BYPASS_OFF), 0);
	struct rig_found found = rig_lookup_last(&lookup, &deeper);
	assert_int_equal(found.result, -EBUSY);
	assert_int_equal(found.usable_tokens, 0);
	rig_finish(&bench.rig);
}

/* A client that gave up between frames asks again with the same tag: nothing of before counts. */
static void the_same_tag_under_another_number_begins_anew(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, false);
	struct rig_lookup given_up = { .client = bench.client, .tag = 0 };
	struct rig_lookup again = { .client = bench.client, .tag = 0 };
	rig_lookup_frame(&given_up, &upper);
	struct rig_found found = rig_lookup_last(&again, &upper);
	assert_presence(&found, "111111");
	assert_int_equal(found.usable_tokens, HALF * RIG_TOKENS);
	rig_finish(&bench.rig);
}

static void more_keys_than_a_lookup_may_have_are_refused(void **unused)
{
	(void)unused;
	for (unsigned is_too_many = 0; is_too_many < 2; is_too_many++) {
		struct bench bench;
		struct rig_keys keys = { .first = 1, .count = FRAME_KEYS_MAX };

		bench_init(&bench, false);
		struct rig_lookup lookup = { .client = bench.client };
		for (unsigned i = is_too_many ? 0 : 1; i < FRAME_LOOKUP_KEYS_MAX / FRAME_KEYS_MAX;
		     i++) {
			rig_lookup_frame(&lookup, &keys);
			keys.first += FRAME_KEYS_MAX;
			keys.first_position += FRAME_KEYS_MAX;
		}
		assert_int_equal(bench.client->refused, 0);
		keys.count = is_too_many ? 1 : FRAME_KEYS_MAX;
		struct rig_found found = rig_lookup_last(&lookup, &keys);
		assert_int_equal(found.result, is_too_many ? -EINVAL : 0);
		if (is_too_many) {
			assert_int_equal(bench.client->fds[FRAME_CONTROL], -1);
			rig_client_close(bench.client);
			rig_settle(&bench.rig);
			bench.client = rig_register(&bench.rig, NULL);
		} else {
			assert_int_equal(found.keys_count, FRAME_LOOKUP_KEYS_MAX);
			assert_int_equal(found.usable_tokens, BLOCKS * RIG_TOKENS);
		}
		assert_int_equal(rig_usable(bench.client, 1, BLOCKS), BLOCKS);
		rig_finish(&bench.rig);
	}
}

static uint64_t touched(struct bench *bench, uint64_t key)
{
	uint32_t slot = rig_slot(bench->client, TIER_CPU, 0, key);

	assert_int_not_equal(slot, SLOT_NONE);
	return cache_slot(bench->rig.daemon->cache, TIER_CPU, slot)->touched;
}

/* A chain is evicted from its end, so its end must be the coldest, whichever frame named it. */
static void the_frames_together_are_touched_deepest_first(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, false);
	assert_int_equal(rig_store(bench.client,
				   &(struct rig_blocks){ .first = 500, .count = 1, .version = 1 }),
			 1);
	struct rig_lookup lookup = { .client = bench.client };
	rig_lookup_frame(&lookup, &upper);
	/* Nothing is touched before the last. */
	assert_true(touched(&bench, 1) <= touched(&bench, 500));
	(void)rig_lookup_last(&lookup, &deeper);
	for (uint64_t key = 1; key < BLOCKS; key++)
		assert_true(touched(&bench, key) > touched(&bench, key + 1));
	assert_true(touched(&bench, BLOCKS) > touched(&bench, 500));
	rig_finish(&bench.rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_frames_of_a_lookup_are_answered_once_and_together),
		cmocka_unit_test(a_forget_between_the_frames_makes_all_of_them_misses),
		cmocka_unit_test(what_is_evicted_between_the_frames_is_a_miss),
		cmocka_unit_test(what_goes_down_between_the_frames_is_answered_from_below),
		cmocka_unit_test(frames_of_another_tag_abandon_the_first),
		cmocka_unit_test(a_lookup_whose_first_frame_was_dropped_is_a_miss),
		cmocka_unit_test(the_same_tag_under_another_number_begins_anew),
		cmocka_unit_test(more_keys_than_a_lookup_may_have_are_refused),
		cmocka_unit_test(the_frames_together_are_touched_deepest_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
