/* tests/client/test_client.c: libkvtier against a daemon that misbehaves on request. */
#include "client/client.h"
#include "client/kvtier.h"
#include "tests/client/fake_daemon.c" /* the build gives each test one object */

#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/wait.h>

#include <cmocka.h>

#define BLOCKS 40u
#define PLANES 2u
#define WAIT_US 5000000u /* never reached unless something is broken */
#define SHORT_US 20000u  /* where a bound itself is under test */

static const uint64_t plane_bytes[PLANES] = { 3000, 5000 };
static const uint64_t plane_stride[PLANES] = { 3072, 5000 };

struct rig {
	struct fake_daemon fake;
	struct kvtier_client *client;
	uint8_t *planes[PLANES];
	struct kvtier_block blocks[BLOCKS];
	uint8_t hashes[BLOCKS][KVTIER_HASH_BYTES];
	char text[256];
};

static void rig_fill(struct rig *rig, uint64_t seed)
{
	struct random random;

	random_init(&random, seed);
	for (unsigned p = 0; p < PLANES; p++)
		for (uint64_t i = 0; i < BLOCKS * plane_stride[p]; i++)
			rig->planes[p][i] = (uint8_t)random_next(&random);
}

static int rig_open_client(struct rig *rig, unsigned roles)
{
	struct kvtier_plane planes[PLANES];
	struct kvtier_group group = { .kind = KVTIER_FULL,
				      .tokens_per_block = 16,
				      .segments_count = 4,
				      .blocks_count = BLOCKS,
				      .planes_count = PLANES,
				      .planes = planes };
	struct kvtier_options options = { .socket = rig->fake.path,
					  .engine = "engine-1",
					  .roles = roles,
					  .identity = { .model_content = "digest",
							.dtype = "bf16" },
					  .groups_count = 1,
					  .groups = &group,
					  .connect_us_max = WAIT_US };

	for (unsigned p = 0; p < PLANES; p++)
		planes[p] = (struct kvtier_plane){ rig->planes[p], plane_stride[p],
						   plane_bytes[p] };
	return kvtier_open(&rig->client, &options, rig->text, sizeof(rig->text));
}

static void rig_init_closed(struct rig *rig, uint64_t window_bytes)
{
	memset(rig, 0, sizeof(*rig));
	fake_start(&rig->fake, window_bytes);
	for (unsigned p = 0; p < PLANES; p++)
		rig->planes[p] = malloc(BLOCKS * plane_stride[p]);
	rig_fill(rig, 1);
	for (unsigned i = 0; i < BLOCKS; i++) {
		memset(rig->blocks[i].hash, (int)i + 1, KVTIER_HASH_BYTES);
		memcpy(rig->hashes[i], rig->blocks[i].hash, KVTIER_HASH_BYTES);
		rig->blocks[i].route_key = i;
		rig->blocks[i].engine_block = i;
	}
}

static void rig_init(struct rig *rig)
{
	rig_init_closed(rig, 1u << 20);
	assert_int_equal(rig_open_client(rig, KVTIER_SCHEDULER | KVTIER_WORKER), 0);
	assert_true(kvtier_is_connected(rig->client));
}

static void rig_finish(struct rig *rig)
{
	kvtier_close(rig->client);
	fake_stop(&rig->fake);
	for (unsigned p = 0; p < PLANES; p++)
		free(rig->planes[p]);
}

static int rig_begin(struct rig *rig, bool is_store, unsigned count, uint64_t deadline_us,
		     uint64_t *out_job)
{
	struct kvtier_transfer transfer = {
		.count = count, .blocks = rig->blocks, .deadline_us = deadline_us, .user = rig
	};

	return is_store ? kvtier_store(rig->client, &transfer, out_job)
			: kvtier_load(rig->client, &transfer, out_job);
}

/* The next completion; there must be one. */
static struct kvtier_completion rig_next(struct rig *rig)
{
	struct kvtier_completion completion = { .job = 0 };

	assert_int_equal(kvtier_wait(rig->client, WAIT_US), 1);
	assert_int_equal(kvtier_poll(rig->client, &completion, 1), 1);
	assert_ptr_equal(completion.user, rig);
	return completion;
}

static struct kvtier_completion rig_run(struct rig *rig, bool is_store, unsigned count)
{
	struct kvtier_completion completion;
	uint64_t job = 0;

	assert_int_equal(rig_begin(rig, is_store, count, WAIT_US, &job), 0);
	assert_true(job != 0);
	completion = rig_next(rig);
	assert_true(completion.job == job);
	assert_int_equal(completion.count, count);
	assert_int_equal(completion.is_store, is_store);
	assert_int_equal(completion.quiesced, 1);
	return completion;
}

static int rig_lookup(struct rig *rig, unsigned count, uint64_t wait_us,
		      struct kvtier_found *out_found)
{
	struct kvtier_keys keys = { .count = count,
				    .hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])rig->hashes };
	struct kvtier_lookup lookup = { .sections_count = 1,
					.sections = &keys,
					.lease_us = 1000000 };

	memset(out_found, 0, sizeof(*out_found));
	return kvtier_lookup(rig->client, &lookup, wait_us, out_found);
}

static void rig_reconnect(struct rig *rig)
{
	assert_int_equal(kvtier_connect(rig->client, WAIT_US, rig->text, sizeof(rig->text)), 0);
	assert_true(kvtier_is_connected(rig->client));
}

/* ---- what works ---- */

static void stored_blocks_come_back_byte_for_byte(void **unused)
{
	struct rig rig;
	uint8_t *wanted[PLANES];

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_run(&rig, true, BLOCKS).good_count, BLOCKS);
	for (unsigned p = 0; p < PLANES; p++) {
		wanted[p] = malloc(BLOCKS * plane_stride[p]);
		memcpy(wanted[p], rig.planes[p], BLOCKS * plane_stride[p]);
	}
	rig_fill(&rig, 2);
	struct kvtier_completion completion = rig_run(&rig, false, BLOCKS);
	assert_int_equal(completion.state, KVTIER_DONE);
	assert_int_equal(completion.good_count, BLOCKS);
	for (unsigned p = 0; p < PLANES; p++) {
		for (unsigned b = 0; b < BLOCKS; b++)
			assert_memory_equal(rig.planes[p] + b * plane_stride[p],
					    wanted[p] + b * plane_stride[p], plane_bytes[p]);
		free(wanted[p]);
	}
	fake_wait_seen(&rig.fake, FRAME_RELEASE, 1);
	assert_int_equal(rig.fake.released_bad, 0);
	rig_finish(&rig);
}

static void a_second_store_is_told_that_the_blocks_are_there(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_run(&rig, true, 3).results[2], 0);
	struct kvtier_completion completion = rig_run(&rig, true, 4);
	assert_int_equal(completion.good_count, 4);
	assert_int_equal(completion.results[2], 1);
	assert_int_equal(completion.results[3], 0);
	rig_finish(&rig);
}

static void a_window_smaller_than_the_job_is_used_again_and_again(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init_closed(&rig, 20000); /* two blocks of 8,000 bytes */
	assert_int_equal(rig_open_client(&rig, KVTIER_WORKER), 0);
	assert_int_equal(rig_run(&rig, true, BLOCKS).good_count, BLOCKS);
	rig_finish(&rig);
}

static void a_block_longer_than_the_window_is_refused_at_once(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init_closed(&rig, 4096);
	assert_int_equal(rig_open_client(&rig, KVTIER_WORKER), 0);
	struct kvtier_completion completion = rig_run(&rig, true, 3);
	assert_int_equal(completion.good_count, 0);
	assert_int_equal(completion.results[0], -ENOSPC);
	rig_finish(&rig);
}

static void a_lookup_says_what_is_there(void **unused)
{
	struct rig rig;
	struct kvtier_found found;

	(void)unused;
	rig_init(&rig);
	rig_run(&rig, true, 5);
	assert_int_equal(rig_lookup(&rig, BLOCKS, WAIT_US, &found), 0);
	assert_int_equal(found.usable_tokens, 80);
	assert_int_equal(found.tier_tokens[0], 80);
	assert_int_equal(found.present_count, 5);
	assert_int_equal(found.lease, 9);
	assert_int_equal(kvtier_lease_release(rig.client, found.lease), 0);
	fake_wait_seen(&rig.fake, FRAME_LEASE_RELEASE, 1);
	rig_finish(&rig);
}

static void a_long_lookup_goes_in_several_frames(void **unused)
{
	const unsigned counts[] = { 0, 1, 1024, 1025, 5000, FRAME_LOOKUP_KEYS_MAX };
	uint8_t(*hashes)[KVTIER_HASH_BYTES] = calloc(FRAME_LOOKUP_KEYS_MAX + 1, KVTIER_HASH_BYTES);
	uint8_t *present = malloc(FRAME_LOOKUP_KEYS_MAX);
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	rig_run(&rig, true, 1);
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
		unsigned before = fake_seen(&rig.fake, FRAME_LOOKUP);

		if (counts[i] > 0)
			memcpy(hashes[sections[1].count - 1], rig.hashes[0], KVTIER_HASH_BYTES);
		assert_int_equal(kvtier_lookup(rig.client, &lookup, WAIT_US, &found), 0);
		assert_int_equal(rig.fake.lookup_keys, counts[i]);
		assert_int_equal(fake_seen(&rig.fake, FRAME_LOOKUP) - before,
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
	assert_int_equal(kvtier_lookup(rig.client, &lookup, WAIT_US, &found), -EINVAL);
	rig_finish(&rig);
	free(hashes);
	free(present);
}

static void the_small_calls_are_answered(void **unused)
{
	struct kvtier_keys keys = { .count = 2 };
	struct rig rig;
	uint64_t lease = 1;
	char text[64];

	(void)unused;
	rig_init(&rig);
	keys.hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])rig.hashes;
	assert_int_equal(kvtier_hint(rig.client, KVTIER_HINT_TOUCH, 0, &keys, 0, WAIT_US, &lease),
			 KVTIER_ACCEPTED);
	assert_int_equal(kvtier_forget(rig.client, 0, WAIT_US), 0);
	assert_int_equal(kvtier_forget(rig.client, KVTIER_SPACE_NONE, WAIT_US), 0);
	assert_int_equal(kvtier_forget(rig.client, 3, WAIT_US), -EINVAL);
	assert_int_equal(kvtier_stats(rig.client, text, sizeof(text), WAIT_US), 0);
	assert_int_equal(strlen(text), sizeof(text) - 1);
	assert_memory_equal(text, "{\"version\"", 10);
	rig_finish(&rig);
}

/* ---- a daemon that is slow, mad or gone ---- */

static void a_silent_daemon_costs_a_lookup_its_bound_and_the_connection_stays(void **unused)
{
	struct rig rig;
	struct kvtier_found found;

	(void)unused;
	rig_init(&rig);
	rig_run(&rig, true, 2);
	fake_set(&rig.fake, FRAME_LOOKUP, FAKE_SILENT, 1);
	assert_int_equal(rig_lookup(&rig, 2, SHORT_US, &found), -ETIMEDOUT);
	assert_int_equal(found.usable_tokens, 0);
	assert_int_equal(rig_lookup(&rig, 2, WAIT_US, &found), 0);
	assert_int_equal(found.usable_tokens, 32);
	rig_finish(&rig);
}

static void a_late_answer_is_not_taken_for_another_ones(void **unused)
{
	struct rig rig;
	struct kvtier_found found;

	(void)unused;
	rig_init(&rig);
	fake_set(&rig.fake, FRAME_LOOKUP, FAKE_LATE, 1);
	assert_int_equal(rig_lookup(&rig, 1, SHORT_US, &found), -ETIMEDOUT);
	rig_run(&rig, true, 2);
	assert_int_equal(rig_lookup(&rig, 2, WAIT_US, &found),
			 0); /* the late one says: nothing there */
	assert_int_equal(found.usable_tokens, 32);
	assert_int_equal(fake_seen(&rig.fake, FRAME_REGISTER), 1);
	rig_finish(&rig);
}

static void whatever_breaks_the_connection_is_a_miss_and_the_client_comes_back(void **unused)
{
	const enum fake_way ways[] = { FAKE_CLOSE, FAKE_GARBAGE, FAKE_STRANGER, FAKE_WRONG_BOOT };
	struct rig rig;
	struct kvtier_found found;

	(void)unused;
	rig_init(&rig);
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		fake_set(&rig.fake, FRAME_LOOKUP, ways[i], 1);
		assert_int_equal(rig_lookup(&rig, 2, WAIT_US, &found), -ENOTCONN);
		assert_int_equal(found.usable_tokens, 0);
		rig_reconnect(&rig);
		assert_int_equal(rig_lookup(&rig, 2, WAIT_US, &found), 0);
		assert_true(rig_run(&rig, true, 2).good_count == 2);
	}
	rig_finish(&rig);
}

static void whatever_breaks_a_job_fails_it_and_the_client_comes_back(void **unused)
{
	const struct {
		enum frame_type type;
		enum fake_way way;
	} cases[] = {
		{ FRAME_STORE, FAKE_CLOSE },      { FRAME_STORE, FAKE_GARBAGE },
		{ FRAME_STORE, FAKE_WRONG_BOOT }, { FRAME_COMMIT, FAKE_CLOSE },
		{ FRAME_COMMIT, FAKE_GARBAGE },   { FRAME_COMMIT, FAKE_TWICE },
		{ FRAME_LOAD, FAKE_CLOSE },       { FRAME_LOAD, FAKE_GARBAGE },
		{ FRAME_LOAD, FAKE_OUTSIDE },     { FRAME_LOAD, FAKE_WRONG_BOOT },
	};
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		bool is_store = cases[i].type != FRAME_LOAD;

		fake_restart(&rig.fake);
		rig_reconnect(&rig);
		rig_run(&rig, true, 2);
		fake_set(&rig.fake, cases[i].type, cases[i].way, 1);
		struct kvtier_completion completion = rig_run(&rig, is_store, BLOCKS);
		assert_int_equal(completion.state, KVTIER_FAILED);
		assert_int_equal(completion.results[BLOCKS - 1], -ENOTCONN);
	}
	rig_reconnect(&rig);
	rig_finish(&rig);
}

static void a_restarted_daemon_is_noticed_and_spaces_keep_their_numbers(void **unused)
{
	uint8_t adapter[2][32] = { { 1 }, { 2 } };
	struct rig rig;
	uint32_t space[2], again;
	uint64_t job;

	(void)unused;
	rig_init(&rig);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(kvtier_space_open(rig.client, adapter[i], WAIT_US, &space[i]), 0);
	assert_int_equal(space[0], 1);
	assert_int_equal(space[1], 2);
	rig_run(&rig, true, 3);
	fake_restart(&rig.fake);
	rig_reconnect(&rig);
	assert_int_equal(rig.fake.spaces_opened, 4);
	assert_int_equal(kvtier_space_open(rig.client, adapter[1], WAIT_US, &again), 0);
	assert_int_equal(again, 2);
	assert_int_equal(rig_run(&rig, false, 3).results[0], -ENOENT);
	assert_int_equal(rig_begin(&rig, true, 1, WAIT_US, &job), 0);
	assert_int_equal(rig_next(&rig).good_count, 1);
	rig_finish(&rig);
}

static void a_refused_registration_is_final_and_says_why(void **unused)
{
	const int codes[] = { -EPERM, -EINVAL };
	struct rig rig;

	(void)unused;
	rig_init_closed(&rig, 1u << 20);
	for (unsigned i = 0; i < 2; i++) {
		rig.fake.refusal = codes[i];
		fake_set(&rig.fake, FRAME_REGISTER, FAKE_REFUSE, 1);
		assert_int_equal(rig_open_client(&rig, KVTIER_WORKER), codes[i]);
		assert_string_equal(rig.text, "refused for the test");
		assert_null(rig.client);
	}
	rig_finish(&rig);
}

static void a_registration_refused_after_a_restart_ends_the_client_quietly(void **unused)
{
	struct rig rig;
	struct kvtier_found found;
	uint64_t job;

	(void)unused;
	rig_init(&rig);
	rig.fake.refusal = -EPERM;
	fake_set(&rig.fake, FRAME_REGISTER, FAKE_REFUSE, 0);
	fake_restart(&rig.fake);
	assert_int_equal(kvtier_connect(rig.client, WAIT_US, rig.text, sizeof(rig.text)), -EPERM);
	assert_string_equal(rig.text, "refused for the test");
	assert_int_equal(rig_lookup(&rig, 1, WAIT_US, &found), -EPERM);
	assert_int_equal(rig_begin(&rig, true, 1, WAIT_US, &job), -EPERM);
	rig_finish(&rig);
}

static void an_absent_daemon_is_a_miss_until_it_is_there(void **unused)
{
	struct rig rig;
	struct kvtier_found found;
	uint64_t job;
	char away[128];

	(void)unused;
	rig_init_closed(&rig, 1u << 20);
	snprintf(away, sizeof(away), "%s.away", rig.fake.path);
	assert_int_equal(rename(rig.fake.path, away), 0);
	assert_int_equal(rig_open_client(&rig, KVTIER_WORKER | KVTIER_SCHEDULER), 0);
	assert_false(kvtier_is_connected(rig.client));
	assert_int_equal(rig_lookup(&rig, 1, WAIT_US, &found), -ENOTCONN);
	assert_int_equal(rig_begin(&rig, true, 1, WAIT_US, &job), -ENOTCONN);
	assert_int_equal(kvtier_connect(rig.client, SHORT_US, rig.text, sizeof(rig.text)),
			 -ENOTCONN);
	assert_non_null(strstr(rig.text, "cannot connect"));
	assert_int_equal(rename(away, rig.fake.path), 0);
	rig_reconnect(&rig);
	assert_int_equal(rig_run(&rig, true, 1).good_count, 1);
	rig_finish(&rig);
}

static void an_engine_whose_ranks_are_missing_is_not_ready(void **unused)
{
	struct rig rig;
	struct kvtier_found found;

	(void)unused;
	rig_init_closed(&rig, 1u << 20);
	rig.fake.ranks_missing = 1;
	assert_int_equal(rig_open_client(&rig, KVTIER_WORKER | KVTIER_SCHEDULER), 0);
	assert_false(kvtier_is_connected(rig.client));
	assert_int_equal(rig_lookup(&rig, 1, WAIT_US, &found), -EAGAIN);
	assert_int_equal(kvtier_connect(rig.client, SHORT_US, rig.text, sizeof(rig.text)), -EAGAIN);
	pthread_mutex_lock(&rig.fake.lock);
	rig.fake.ranks_missing = 0;
	pthread_mutex_unlock(&rig.fake.lock);
	rig_reconnect(&rig);
	rig_finish(&rig);
}

static void mappings_that_are_not_what_the_daemon_says_are_not_used(void **unused)
{
	const struct {
		enum fake_way way;
		const char *words;
	} cases[] = {
		{ FAKE_UNSEALED, "not sealed" },
		{ FAKE_SHORT, "should have" },
		{ FAKE_WRONG_CANARY, "canary" },
		{ FAKE_NO_FDS, "descriptor" },
	};
	struct rig rig;

	(void)unused;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t job;

		rig_init_closed(&rig, 1u << 20);
		fake_set(&rig.fake, FRAME_ATTACH, cases[i].way, 0);
		assert_int_equal(rig_open_client(&rig, KVTIER_WORKER), 0);
		assert_false(kvtier_is_connected(rig.client));
		assert_int_equal(rig_begin(&rig, true, 1, WAIT_US, &job), -ENOTCONN);
		pthread_mutex_lock(&rig.client->lock);
		assert_non_null(strstr(rig.client->failure.text, cases[i].words));
		pthread_mutex_unlock(&rig.client->lock);
		fake_set(&rig.fake, FRAME_ATTACH, FAKE_RIGHT, 0);
		rig_reconnect(&rig);
		rig_finish(&rig);
	}
}

/* ---- proof of what was loaded ---- */

static void a_damaged_block_is_a_miss_and_reported_as_bad(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	rig_run(&rig, true, 3);
	fake_set(&rig.fake, FRAME_LOAD, FAKE_DAMAGED, 1);
	struct kvtier_completion completion = rig_run(&rig, false, 3);
	assert_int_equal(completion.results[0], -EBADMSG);
	assert_int_equal(completion.results[1], 0);
	assert_int_equal(completion.good_count, 2);
	fake_wait_seen(&rig.fake, FRAME_RELEASE, 1);
	assert_int_equal(rig.fake.released_bad, 1);
	assert_int_equal(rig.fake.released_good, 2);
	rig_finish(&rig);
}

static void a_slot_of_another_block_is_a_miss_and_not_bad(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	rig_run(&rig, true, 3);
	fake_set(&rig.fake, FRAME_LOAD, FAKE_REUSED, 1);
	struct kvtier_completion completion = rig_run(&rig, false, 3);
	assert_int_equal(completion.results[0], -ENOENT);
	assert_int_equal(completion.good_count, 2);
	fake_wait_seen(&rig.fake, FRAME_RELEASE, 1);
	assert_int_equal(rig.fake.released_bad, 0);
	rig_finish(&rig);
}

static struct rig *hook_rig;

static void hook_reuse(void)
{
	atomic_store(&copier_block_hook, NULL);
	fake_reuse_slot(&hook_rig->fake, hook_rig->hashes[0]);
}

static void a_slot_reused_during_the_copy_is_a_miss_and_not_bad(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	rig_run(&rig, true, 3);
	hook_rig = &rig;
	atomic_store(&copier_block_hook, hook_reuse);
	struct kvtier_completion completion = rig_run(&rig, false, 3);
	assert_int_equal(completion.results[0], -ENOENT);
	assert_int_equal(completion.good_count, 2);
	fake_wait_seen(&rig.fake, FRAME_RELEASE, 1);
	assert_int_equal(rig.fake.released_bad, 0);
	rig_finish(&rig);
}

/* ---- deadlines, cancelling, quiescence ---- */

static void a_job_of_a_silent_daemon_expires_once_and_quiescent(void **unused)
{
	const enum frame_type types[] = { FRAME_STORE, FRAME_COMMIT, FRAME_LOAD };
	struct rig rig;
	uint64_t job;

	(void)unused;
	for (unsigned i = 0; i < 3; i++) {
		struct kvtier_completion completion;

		rig_init(&rig);
		fake_set(&rig.fake, types[i], FAKE_SILENT, 0);
		assert_int_equal(rig_begin(&rig, types[i] != FRAME_LOAD, 3, SHORT_US, &job), 0);
		completion = rig_next(&rig);
		assert_int_equal(completion.state, KVTIER_EXPIRED);
		assert_int_equal(completion.results[0], -ETIME);
		while (!completion.quiesced)
			completion = rig_next(&rig);
		assert_int_equal(kvtier_poll(rig.client, &completion, 1), 0);
		fake_wait_seen(&rig.fake, FRAME_CANCEL, 1);
		rig_finish(&rig);
	}
}

static sem_t hook_entered, hook_may_leave;

static void hook_hang(void)
{
	sem_post(&hook_entered);
	sem_wait(&hook_may_leave);
	atomic_store(&copier_block_hook, NULL);
}

static void a_job_that_ends_inside_a_block_is_followed_by_one_more_completion(void **unused)
{
	struct rig rig;
	uint64_t job;

	(void)unused;
	for (unsigned is_store = 0; is_store < 2; is_store++) {
		for (unsigned is_cancelled = 0; is_cancelled < 2; is_cancelled++) {
			struct kvtier_completion completion;

			rig_init(&rig);
			if (!is_store)
				rig_run(&rig, true, 3);
			sem_init(&hook_entered, 0, 0);
			sem_init(&hook_may_leave, 0, 0);
			atomic_store(&copier_block_hook, hook_hang);
			assert_int_equal(rig_begin(&rig, is_store, 3,
						   is_cancelled ? WAIT_US : SHORT_US, &job),
					 0);
			sem_wait(&hook_entered);
			if (is_cancelled)
				kvtier_cancel(rig.client, job);
			completion = rig_next(&rig);
			assert_int_equal(completion.state,
					 is_cancelled ? KVTIER_CANCELLED : KVTIER_EXPIRED);
			assert_int_equal(completion.quiesced, 0);
			assert_true(completion.job == job);
			assert_int_equal(kvtier_poll(rig.client, &completion, 1), 0);
			sem_post(&hook_may_leave);
			completion = rig_next(&rig);
			assert_int_equal(completion.quiesced, 1);
			assert_true(completion.job == job);
			assert_int_equal(completion.state,
					 is_cancelled ? KVTIER_CANCELLED : KVTIER_EXPIRED);
			assert_int_equal(kvtier_poll(rig.client, &completion, 1), 0);
			assert_int_equal(rig_run(&rig, true, 4).state, KVTIER_DONE);
			rig_finish(&rig);
		}
	}
}

static void a_cancelled_job_ends_even_when_the_daemon_is_silent(void **unused)
{
	struct rig rig;
	uint64_t job;

	(void)unused;
	rig_init(&rig);
	fake_set(&rig.fake, FRAME_STORE, FAKE_SILENT, 1);
	assert_int_equal(rig_begin(&rig, true, 3, WAIT_US, &job), 0);
	fake_wait_seen(&rig.fake, FRAME_STORE, 1);
	kvtier_cancel(rig.client, job + 256); /* not ours */
	kvtier_cancel(rig.client, job);
	kvtier_cancel(rig.client, job);
	assert_int_equal(rig_next(&rig).state, KVTIER_CANCELLED);
	assert_int_equal(rig_run(&rig, true, 3).state, KVTIER_DONE);
	rig_finish(&rig);
}

static void too_many_jobs_are_refused_and_all_accepted_ones_end(void **unused)
{
	struct rig rig;
	uint64_t job;
	unsigned accepted = 0, ended = 0;

	(void)unused;
	rig_init(&rig);
	fake_set(&rig.fake, FRAME_STORE, FAKE_SILENT, 0);
	while (rig_begin(&rig, true, 1, WAIT_US, &job) == 0)
		accepted++;
	assert_int_equal(accepted, CLIENT_JOBS_MAX);
	assert_int_equal(rig_begin(&rig, true, 1, WAIT_US, &job), -EAGAIN);
	fake_set(&rig.fake, FRAME_STORE, FAKE_RIGHT, 0);
	fake_restart(&rig.fake);
	while (ended < accepted) {
		assert_int_equal(rig_next(&rig).state, KVTIER_FAILED);
		ended++;
	}
	rig_reconnect(&rig);
	assert_int_equal(rig_run(&rig, true, 1).good_count, 1);
	rig_finish(&rig);
}

static void closing_a_client_with_jobs_under_way_leaves_nothing_behind(void **unused)
{
	struct rig rig;
	uint64_t job;

	(void)unused;
	rig_init(&rig);
	fake_set(&rig.fake, FRAME_COMMIT, FAKE_SILENT, 0);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(rig_begin(&rig, i % 2 == 0, BLOCKS, WAIT_US, &job), 0);
	rig_finish(&rig);
}

/* ---- the rest ---- */

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
	struct rig rig;
	struct kvtier_found found;
	int status;
	pid_t child;

	(void)unused;
	rig_init(&rig);
	child = fork();
	if (child == 0) {
		struct kvtier_completion completion;
		uint64_t job;
		bool is_right = rig_lookup(&rig, 1, WAIT_US, &found) == -ECHILD &&
				rig_begin(&rig, true, 1, WAIT_US, &job) == -ECHILD &&
				kvtier_poll(rig.client, &completion, 1) == -ECHILD &&
				kvtier_wait(rig.client, WAIT_US) == -ECHILD &&
				!kvtier_is_connected(rig.client) &&
				atomic_load(&rig.client->control.fd) == -1;

		kvtier_close(rig.client);
		_exit(is_right ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(rig_lookup(&rig, 1, WAIT_US, &found), 0);
	assert_int_equal(rig_run(&rig, true, 2).good_count, 2);
	rig_finish(&rig);
}

static void the_descriptor_is_readable_when_there_is_something_to_poll(void **unused)
{
	struct rig rig;
	struct kvtier_completion completion;
	uint64_t job;

	(void)unused;
	rig_init(&rig);
	struct pollfd fd = { .fd = kvtier_fd(rig.client), .events = POLLIN };
	assert_int_equal(poll(&fd, 1, 0), 0);
	fake_set(&rig.fake, FRAME_STORE, FAKE_SILENT, 1);
	assert_int_equal(rig_begin(&rig, true, 1, SHORT_US, &job), 0);
	assert_int_equal(poll(&fd, 1, 5000), 1); /* the deadline, or the copier that noticed it */
	while (kvtier_poll(rig.client, &completion, 1) == 0)
		assert_int_equal(poll(&fd, 1, 5000), 1);
	assert_int_equal(completion.state, KVTIER_EXPIRED);
	assert_int_equal(kvtier_poll(rig.client, &completion, 1), 0);
	assert_int_equal(poll(&fd, 1, 0), 0);
	rig_finish(&rig);
}

static sem_t calls_made;

static void *call_many_times(void *argument)
{
	struct rig *rig = argument;
	struct kvtier_found found;
	struct kvtier_completion completion;
	uint64_t job;

	for (unsigned i = 0; i < 200; i++) {
		int result = rig_lookup(rig, 1 + i % BLOCKS, SHORT_US, &found);

		assert_true(result <= 0);
		if (rig_begin(rig, i % 3 == 0, 1 + i % BLOCKS, SHORT_US, &job) == 0 && i % 7 == 0)
			kvtier_cancel(rig->client, job);
		(void)kvtier_poll(rig->client, &completion, 1);
		(void)kvtier_is_connected(rig->client);
		if (i % 20 == 19)
			sem_post(&calls_made);
	}
	return NULL;
}

static void several_threads_and_a_daemon_that_restarts_do_not_get_in_each_others_way(void **unused)
{
	struct rig rig;
	struct kvtier_completion completion;
	pthread_t threads[3];

	(void)unused;
	rig_init(&rig);
	sem_init(&calls_made, 0, 0);
	for (unsigned i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, call_many_times, &rig);
	for (unsigned i = 0; i < 5; i++) {
		sem_wait(&calls_made);
		fake_set(&rig.fake, i % 2 == 0 ? FRAME_COMMIT : FRAME_LOAD, FAKE_GARBAGE, 1);
		fake_restart(&rig.fake);
	}
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	fake_set(&rig.fake, FRAME_COMMIT, FAKE_RIGHT, 0);
	fake_set(&rig.fake, FRAME_LOAD, FAKE_RIGHT, 0);
	rig_reconnect(&rig);
	while (kvtier_wait(rig.client, SHORT_US * 2) == 1)
		(void)kvtier_poll(rig.client, &completion, 1);
	assert_int_equal(rig_run(&rig, true, 2).state, KVTIER_DONE);
	rig_finish(&rig);
}

static void route_keys_are_chained_and_extras_count(void **unused)
{
	const uint32_t tokens[4] = { 1, 2, 3, 4 };
	const struct kvtier_extra extras[2] = { { "lora", 4 }, { "salt", 4 } };
	const struct kvtier_extra joined[1] = { { "lorasalt", 8 } };
	uint64_t first = kvtier_route_key(4, tokens, 4, NULL, 0);

	(void)unused;
	/* XXH3-64 of these 16 bytes with seed 4, by another implementation of it. */
	assert_true(first == kvtier_route_key(4, tokens, 4, extras, 0));
	assert_true(first != kvtier_route_key(5, tokens, 4, NULL, 0));
	assert_true(first != kvtier_route_key(4, tokens, 3, NULL, 0));
	assert_true(kvtier_route_key(4, tokens, 4, extras, 2) != first);
	assert_true(kvtier_route_key(4, tokens, 4, extras, 2) !=
		    kvtier_route_key(4, tokens, 4, joined, 1));
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
		cmocka_unit_test(a_silent_daemon_costs_a_lookup_its_bound_and_the_connection_stays),
		cmocka_unit_test(a_late_answer_is_not_taken_for_another_ones),
		cmocka_unit_test(
			whatever_breaks_the_connection_is_a_miss_and_the_client_comes_back),
		cmocka_unit_test(whatever_breaks_a_job_fails_it_and_the_client_comes_back),
		cmocka_unit_test(a_restarted_daemon_is_noticed_and_spaces_keep_their_numbers),
		cmocka_unit_test(a_refused_registration_is_final_and_says_why),
		cmocka_unit_test(a_registration_refused_after_a_restart_ends_the_client_quietly),
		cmocka_unit_test(an_absent_daemon_is_a_miss_until_it_is_there),
		cmocka_unit_test(an_engine_whose_ranks_are_missing_is_not_ready),
		cmocka_unit_test(mappings_that_are_not_what_the_daemon_says_are_not_used),
		cmocka_unit_test(a_damaged_block_is_a_miss_and_reported_as_bad),
		cmocka_unit_test(a_slot_of_another_block_is_a_miss_and_not_bad),
		cmocka_unit_test(a_slot_reused_during_the_copy_is_a_miss_and_not_bad),
		cmocka_unit_test(a_job_of_a_silent_daemon_expires_once_and_quiescent),
		cmocka_unit_test(a_job_that_ends_inside_a_block_is_followed_by_one_more_completion),
		cmocka_unit_test(a_cancelled_job_ends_even_when_the_daemon_is_silent),
		cmocka_unit_test(too_many_jobs_are_refused_and_all_accepted_ones_end),
		cmocka_unit_test(closing_a_client_with_jobs_under_way_leaves_nothing_behind),
		cmocka_unit_test(wrong_options_are_refused_with_the_reason),
		cmocka_unit_test(a_forked_child_leaves_the_connection_alone),
		cmocka_unit_test(the_descriptor_is_readable_when_there_is_something_to_poll),
		cmocka_unit_test(
			several_threads_and_a_daemon_that_restarts_do_not_get_in_each_others_way),
		cmocka_unit_test(route_keys_are_chained_and_extras_count),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
