/* tests/daemon/test_daemon_restart.c: crashes and restarts: what is found again is right, and the
 * rest is a miss. */
#include "tests/daemon/rig.h"

#include "base/failpoint.h"
#include "daemon/journal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

#define BLOCKS 40u
#define STEPS_MAX 24u

static const struct rig_blocks all = { .first = 1, .count = BLOCKS, .version = 3 };

/* Until the rebuild from headers is through as well. */
static void rebuild_await(struct rig *rig)
{
	for (unsigned i = 0; i < 100; i++)
		rig_pass_time(rig, 100000);
	cache_check(rig->daemon->cache);
}

static void after_a_clean_stop_everything_is_found_again(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig.daemon->counters.restored[TIER_NVME], BLOCKS);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_usable(client, 1, BLOCKS), BLOCKS);
	assert_int_equal(rig_load(client, &all), BLOCKS);
	rig_finish_idle(&rig);
}

static void without_its_catalogue_nvme_is_rebuilt_from_headers(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	rig_crash(&rig, RIG_KILL);
	catalog_simulated_replace(rig_catalog_path(&rig));
	rig_start(&rig);
	rebuild_await(&rig);
	assert_int_equal(rig.daemon->counters.restored[TIER_NVME], BLOCKS);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_load(client, &all), BLOCKS);
	/* And the catalogue is whole again. */
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig.daemon->counters.restored[TIER_NVME], BLOCKS);
	rig_finish(&rig);
}

/* Kills the daemon after some passes of stores, and starts it again, with and without its
 * catalogue. */
static void crash_in_a_store(unsigned steps, enum rig_crash kind, bool is_catalog_lost,
			     bool has_cpu_file)
{
	struct rig rig;
	struct rig_client *client;
	struct rig_batch *batch;
	bool is_committed = false;

	rig_init(&rig, &(struct rig_config){ .seed = steps + 1, .has_cpu_file = has_cpu_file });
	rig.disk.latency_us = 1000;
	rig.is_shuffled = true;
	client = rig_register(&rig, NULL);
	batch = rig_store_begin(client, &all);
	for (unsigned i = 0; i < steps * 6; i++) {
		if (!rig_step(&rig))
			clock_advance(&rig.clock, 500);
		if (batch->is_replied && !is_committed)
			rig_store_commit(client, batch);
		is_committed = batch->is_replied;
	}
	rig_crash(&rig, kind);
	if (is_catalog_lost)
		catalog_simulated_replace(rig_catalog_path(&rig));
	rig_start(&rig);
	rig.disk.latency_us = 0;
	cache_check(rig.daemon->cache);
	client = rig_register(&rig, NULL);
	(void)rig_load(client, &all);
	rebuild_await(&rig);
	(void)rig_load(client, &all);
	assert_int_equal(
		rig_store(client,
			  &(struct rig_blocks){ .first = 1, .count = BLOCKS, .version = 4 }),
		BLOCKS);
	assert_int_equal(rig_load(client, &all), BLOCKS);
	for (unsigned i = 0; i < BLOCKS; i++)
		assert_true(rig_last.versions[i] == 3 || rig_last.versions[i] == 4);
	rig_finish_idle(&rig);
}

static void killed_at_any_step_every_key_loads_right_or_misses(void **unused)
{
	(void)unused;
	for (unsigned steps = 0; steps < STEPS_MAX; steps++) {
		crash_in_a_store(steps, RIG_KILL, false, false);
		crash_in_a_store(steps, RIG_KILL, true, true);
	}
}

static void after_a_power_cut_every_key_loads_right_or_misses(void **unused)
{
	(void)unused;
	for (unsigned steps = 0; steps < STEPS_MAX; steps++) {
		crash_in_a_store(steps, RIG_POWER_CUT, steps % 2 == 0, false);
		crash_in_a_store(steps, RIG_POWER_CUT, false, true);
	}
}

static void an_arena_in_a_file_is_warm_after_a_kill(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .no_nvme = true, .has_cpu_file = true });
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	rig_crash(&rig, RIG_KILL);
	rig_start(&rig);
	assert_int_equal(rig.daemon->counters.restored[TIER_CPU], BLOCKS);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_load(client, &all), BLOCKS);
	assert_int_equal(rig_last.items[0].tier, TIER_CPU);
	rig_finish_idle(&rig);
}

static void what_was_forgotten_stays_forgotten_after_a_kill(void **unused)
{
	(void)unused;
	for (unsigned lost = 0; lost < 2; lost++) {
		struct rig rig;
		struct rig_client *client;

		rig_init(&rig, &(struct rig_config){ .has_cpu_file = true });
		client = rig_register(&rig, NULL);
		assert_int_equal(rig_store(client, &all), BLOCKS);
		rig_settle(&rig);
		assert_int_equal(rig_forget(client, client->space), 0);
		rig_crash(&rig, lost ? RIG_POWER_CUT : RIG_KILL);
		if (lost)
			catalog_simulated_replace(rig_catalog_path(&rig));
		rig_start(&rig);
		rebuild_await(&rig);
		client = rig_register(&rig, NULL);
		assert_int_equal(rig_usable(client, 1, BLOCKS), 0);
		assert_int_equal(rig_load(client, &all), 0);
		rig_finish(&rig);
	}
}

#if KVTIER_FAILPOINTS
/* The life in which a FORGET could not be written stores under a number that the journal does not
 * have. The next life must not give that number out again. */
static void what_a_failed_forget_left_behind_is_forgotten_by_the_next_one(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	struct error error;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .has_cpu_file = true });
	client = rig_register(&rig, NULL);
	/* The first leaves its record in the file all the same, the others go into a new one that
	 * does not come about. */
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(failpoint_arm("journal_appended=error", &error), 0);
		assert_int_equal(rig_forget(client, client->space), -EIO);
	}
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	rig_crash(&rig, RIG_KILL);
	rig_start(&rig);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_forget(client, client->space), 0);
	rig_crash(&rig, RIG_KILL);
	rig_start(&rig);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_usable(client, 1, BLOCKS), 0);
	rig_finish(&rig);
}
#endif

static void more_forgets_than_a_life_has_reserved_are_all_done(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .has_cpu_file = true });
	client = rig_register(&rig, NULL);
	for (unsigned i = 0; i < 2 * JOURNAL_RESERVE; i++)
		assert_int_equal(rig_forget(client, client->space), 0);
	uint64_t epoch = rig.daemon->epoch;
	rig_crash(&rig, RIG_KILL);
	rig_start(&rig);
	assert_true(rig.daemon->epoch > epoch);
	rig_finish(&rig);
}

static void a_lost_journal_makes_everything_a_miss(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	char path[300];

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .has_cpu_file = true });
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	rig_stop(&rig);
	snprintf(path, sizeof(path), "%s/journal", rig.settings.state_directory);
	assert_int_equal(remove(path), 0);
	rig_start(&rig);
	rebuild_await(&rig);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_load(client, &all), 0);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	assert_int_equal(rig_load(client, &all), BLOCKS);
	rig_finish(&rig);
}

static void many_lives_in_a_row_keep_what_the_first_one_stored(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .has_cpu_file = true });
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	for (unsigned life = 0; life < 10; life++) {
		if (life % 2 == 0)
			rig_crash(&rig, RIG_KILL);
		else
			rig_stop(&rig);
		rig_start(&rig);
		rebuild_await(&rig);
		client = rig_register(&rig, NULL);
		assert_int_equal(rig_load(client, &all), BLOCKS);
		rig_settle(&rig);
		rig_drop_cpu(client, 0, 1, BLOCKS);
		assert_int_equal(rig_load(client, &all), BLOCKS);
		rig_settle(&rig);
		rig_assert_idle(&rig);
	}
	rig_finish(&rig);
}

static void the_shards_of_two_ranks_are_whole_again_after_a_restart(void **unused)
{
	struct rig rig;
	struct rig_client *ranks[2];

	(void)unused;
	rig_init(&rig, NULL);
	for (unsigned life = 0; life < 3; life++) {
		for (unsigned i = 0; i < 2; i++)
			ranks[i] = rig_register(&rig,
						&(struct rig_engine){ .world = 2, .shard = i });
		for (unsigned i = 0; i < 2; i++)
			assert_int_equal(life == 0 ? rig_store(ranks[i], &all)
						   : rig_load(ranks[i], &all),
					 BLOCKS);
		rig_settle(&rig);
		rig_crash(&rig, RIG_KILL);
		rig_start(&rig);
		rebuild_await(&rig);
	}
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(after_a_clean_stop_everything_is_found_again),
		cmocka_unit_test(without_its_catalogue_nvme_is_rebuilt_from_headers),
		cmocka_unit_test(killed_at_any_step_every_key_loads_right_or_misses),
		cmocka_unit_test(after_a_power_cut_every_key_loads_right_or_misses),
		cmocka_unit_test(an_arena_in_a_file_is_warm_after_a_kill),
		cmocka_unit_test(what_was_forgotten_stays_forgotten_after_a_kill),
#if KVTIER_FAILPOINTS
		cmocka_unit_test(what_a_failed_forget_left_behind_is_forgotten_by_the_next_one),
#endif
		cmocka_unit_test(more_forgets_than_a_life_has_reserved_are_all_done),
		cmocka_unit_test(a_lost_journal_makes_everything_a_miss),
		cmocka_unit_test(many_lives_in_a_row_keep_what_the_first_one_stored),
		cmocka_unit_test(the_shards_of_two_ranks_are_whole_again_after_a_restart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
