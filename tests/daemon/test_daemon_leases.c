/* tests/daemon/test_daemon_leases.c: leases, the load window, and clients that keep what they were
 * given. */
#include "tests/daemon/rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define CPU_BLOCKS (2 * RIG_SLOTS_A_UNIT)
#define NVME_BLOCKS (8 * RIG_SLOTS_A_UNIT)
#define WINDOW 4u

static unsigned store_many(struct rig_client *client, uint64_t first, unsigned count)
{
	unsigned stored = 0;

	for (unsigned i = 0; i < count; i += 20) {
		struct rig_blocks blocks = { .parent = i > 0 ? first + i - 1 : 0,
					     .first = first + i,
					     .count = count - i < 20 ? count - i : 20,
					     .version = 1 };

		stored += rig_store(client, &blocks);
	}
	rig_settle(client->rig);
	return stored;
}

static struct rig_found lease_take(struct rig_client *client, uint64_t first, unsigned count,
				   uint64_t lease_us)
{
	struct rig_keys keys = { .first = first, .count = count };

	return rig_lookup(client, &keys, 1, lease_us);
}

static void a_lease_holds_its_blocks_until_its_microsecond(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(store_many(client, 1, 10), 10);
	struct rig_found found = lease_take(client, 1, 10, RIG_SECOND);
	assert_int_equal(found.usable_tokens, 10 * RIG_TOKENS);
	assert_int_not_equal(found.lease, 0);
	assert_int_equal(found.lease_us, RIG_SECOND);
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).holds, 10);
	rig_pass_time(&rig, RIG_SECOND - 1);
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).holds, 10);
	rig_pass_time(&rig, 1);
	rig_assert_idle(&rig);
	rig_lease_release(client, found.lease);
	rig_lease_release(client, 12345);
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

static void a_lease_longer_than_the_longest_is_cut_to_it(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .lease_us_max = 2 * RIG_SECOND });
	client = rig_register(&rig, NULL);
	assert_int_equal(store_many(client, 1, 4), 4);
	assert_int_equal(lease_take(client, 1, 4, UINT64_MAX).lease_us, 2 * RIG_SECOND);
	rig_pass_time(&rig, 2 * RIG_SECOND);
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

static void leased_blocks_survive_stores_that_would_have_evicted_them(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .no_nvme = true });
	client = rig_register(&rig, NULL);
	assert_int_equal(store_many(client, 1, 10), 10);
	struct rig_found found = lease_take(client, 1, 10, 60 * RIG_SECOND);
	for (unsigned i = 0; i < 8; i++)
		(void)store_many(client, 1000 * (i + 1), 20);
	assert_int_equal(
		rig_load(client,
			 &(struct rig_blocks){ .first = 1, .count = 10, .lease = found.lease }),
		10);
	rig_lease_release(client, found.lease);
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

static void a_hoarder_gets_half_and_others_still_store_and_load(void **unused)
{
	struct rig rig;
	struct rig_client *hoarder, *other;
	unsigned refused = 0;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .no_nvme = true });
	hoarder = rig_register(&rig, &(struct rig_engine){ .name = "hoarder" });
	other = rig_register(&rig, &(struct rig_engine){ .name = "other" });
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(store_many(hoarder, 1 + 1000 * i, 20), 20);
	for (unsigned i = 0; i < 4; i++) {
		struct rig_found found = lease_take(hoarder, 1 + 1000 * i, 20, 60 * RIG_SECOND);

		refused += found.lease == 0;
		/* Without a lease nothing is promised. */
		assert_true(found.lease != 0 || found.usable_tokens == 0);
	}
	assert_true(refused >= 2);
	assert_true(rig_figures(&rig, 0, TIER_CPU).holds <= CPU_BLOCKS / 2);
	assert_int_equal(store_many(other, 50000, 20), 20);
	assert_int_equal(rig_load(other, &(struct rig_blocks){ .first = 50000, .count = 20 }), 20);
	/* With its connection all that it holds comes back. */
	rig_client_close(hoarder);
	rig_finish_idle(&rig);
}

static void the_leases_of_an_engine_that_dies_end_with_its_connection(void **unused)
{
	struct rig rig;
	struct rig_client *dies, *lives;

	(void)unused;
	rig_init(&rig, NULL);
	dies = rig_register(&rig, &(struct rig_engine){ .name = "dies" });
	lives = rig_register(&rig, &(struct rig_engine){ .name = "lives" });
	assert_int_equal(store_many(dies, 1, 20), 20);
	assert_int_not_equal(lease_take(dies, 1, 10, 60 * RIG_SECOND).lease, 0);
	assert_int_not_equal(lease_take(dies, 6, 5, 60 * RIG_SECOND).lease, 0);
	struct rig_found kept = lease_take(lives, 11, 10, 60 * RIG_SECOND);
	/* Its blocks go through the data connection; that alone ends no lease. */
	rig_client_hang_up(dies, FRAME_DATA);
	rig_settle(&rig);
	assert_int_equal(daemon_leases_count(rig.daemon), 3);
	rig_client_close(dies);
	rig_settle(&rig);
	assert_int_equal(daemon_leases_count(rig.daemon), 1);
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).holds, 10);
	rig_lease_release(lives, kept.lease);
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

/* The scheduler of an engine looks up, and its worker, on connections of its own, loads. */
static void schedule_begin(struct rig *rig, struct rig_client **out_scheduler,
			   struct rig_client **out_worker, struct rig_batch **out_batch,
			   uint64_t *out_lease)
{
	rig_init(rig, NULL);
	*out_worker = rig_register(rig, &(struct rig_engine){ .roles = FRAME_ROLE_WORKER });
	*out_scheduler = rig_register(rig, &(struct rig_engine){ .roles = FRAME_ROLE_SCHEDULER });
	assert_int_equal(store_many(*out_worker, 1, 10), 10);
	*out_lease = lease_take(*out_scheduler, 1, 10, 60 * RIG_SECOND).lease;
	assert_int_not_equal(*out_lease, 0);
	*out_batch = rig_load_begin(*out_worker, &(struct rig_blocks){ .first = 1,
								       .count = 4,
								       .lease = *out_lease });
	(*out_batch)->is_kept = true;
	rig_settle(rig);
}

static void a_lease_outlives_its_connection_while_another_rank_loads_with_it(void **unused)
{
	struct rig rig;
	struct rig_client *scheduler, *worker;
	struct rig_batch *batch;
	uint64_t lease;

	(void)unused;
	schedule_begin(&rig, &scheduler, &worker, &batch, &lease);
	rig_client_close(scheduler);
	rig_settle(&rig);
	assert_true(cache_lease_is_live(rig.daemon->cache, lease));
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).holds, 10);
	/* Another load may still use it. */
	assert_int_equal(
		rig_load(worker, &(struct rig_blocks){ .first = 5, .count = 2, .lease = lease }),
		2);
	rig_settle(&rig);
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).holds, 8);
	for (unsigned i = 0; i < 4; i++) {
		assert_true(cache_lease_is_live(rig.daemon->cache, lease));
		rig_release(worker, batch, i, false);
		rig_settle(&rig);
	}
	assert_false(cache_lease_is_live(rig.daemon->cache, lease));
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

static void a_load_that_never_ends_keeps_a_dead_schedulers_lease_to_a_deadline_only(void **unused)
{
	(void)unused;
	for (unsigned is_cancelled = 0; is_cancelled < 2; is_cancelled++) {
		struct rig rig;
		struct rig_client *scheduler, *worker;
		struct rig_batch *batch;
		uint64_t lease;

		schedule_begin(&rig, &scheduler, &worker, &batch, &lease);
		rig_client_close(scheduler);
		rig_settle(&rig);
		assert_int_equal(daemon_leases_count(rig.daemon), 1);
		if (is_cancelled)
			rig_cancel(worker, batch);
		else
			rig_pass_time(&rig, RIG_DEADLINE_US);
		rig_finish_idle(&rig);
	}
}

/* With its last breath an engine may be at any step of a load from the disk. */
static void at_whatever_step_of_a_load_an_engine_dies_its_lease_goes(void **unused)
{
	(void)unused;
	for (unsigned steps = 0; steps < 24; steps++) {
		struct rig rig;
		struct rig_client *client;

		rig_init(&rig, &(struct rig_config){ .load_window_blocks = WINDOW });
		client = rig_register(&rig, NULL);
		assert_int_equal(store_many(client, 1, 12), 12);
		rig_drop_cpu(client, 0, 1, 12);
		struct rig_found found = lease_take(client, 1, 12, 60 * RIG_SECOND);
		(void)rig_load_begin(client, &(struct rig_blocks){ .first = 1,
								   .count = 12,
								   .lease = found.lease });
		for (unsigned i = 0; i < steps; i++)
			(void)rig_step(&rig);
		/* Its sockets are closed one after the other, in any order. */
		rig_client_hang_up(client, steps % 2 ? FRAME_CONTROL : FRAME_DATA);
		(void)rig_step(&rig);
		rig_client_close(client);
		rig_finish_idle(&rig);
	}
}

static void what_is_retained_stays_when_its_engine_goes_and_what_is_pinned_goes(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	struct rig_blocks retained = { .first = 1, .count = 3 };
	struct rig_blocks pinned = { .first = 4, .count = 5 };

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(store_many(client, 1, 10), 10);
	assert_int_equal(rig_hint(client, FRAME_HINT_RETAIN, &retained, 10 * RIG_SECOND).outcome,
			 FRAME_HINT_ACCEPTED);
	assert_int_not_equal(rig_hint(client, FRAME_HINT_PIN, &pinned, 10 * RIG_SECOND).lease, 0);
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).holds, 8);
	rig_client_close(client);
	rig_settle(&rig);
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).holds, 3);
	rig_pass_time(&rig, 10 * RIG_SECOND - 1);
	assert_int_equal(daemon_leases_count(rig.daemon), 1);
	rig_pass_time(&rig, 1);
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

static void a_load_larger_than_its_window_streams_through_it(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	struct rig_batch *batch;
	unsigned blocks = 3 * CPU_BLOCKS;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .load_window_blocks = WINDOW });
	client = rig_register(&rig, NULL);
	assert_int_equal(store_many(client, 1, blocks), blocks);
	batch = rig_load_begin(client, &(struct rig_blocks){ .first = 1, .count = blocks });
	while (batch->ended < blocks) {
		struct cache_share_figures figures;

		(void)rig_step(&rig);
		figures = rig_figures(&rig, 0, TIER_CPU);
		assert_true(figures.holds + figures.slots[SLOT_FILLING] <= 2 * WINDOW);
	}
	assert_int_equal(rig_batch_count(batch, 0), blocks);
	rig_finish_idle(&rig);
}

static void two_large_loads_do_not_starve_each_other(void **unused)
{
	struct rig rig;
	struct rig_client *clients[2];
	struct rig_batch *batches[2];
	unsigned blocks = 3 * RIG_SLOTS_A_UNIT;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .load_window_blocks = WINDOW });
	rig.disk.latency_us = 300;
	clients[0] = rig_register(&rig, &(struct rig_engine){ .name = "first" });
	clients[1] = rig_register(&rig, &(struct rig_engine){ .name = "second" });
	rig.disk.latency_us = 0;
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(store_many(clients[i], 1 + 10000 * i, blocks), blocks);
	for (unsigned i = 0; i < 2; i++)
		rig_drop_cpu(clients[i], 0, 1 + 10000 * i, blocks);
	rig.disk.latency_us = 300;
	for (unsigned i = 0; i < 2; i++)
		batches[i] = rig_load_begin(
			clients[i],
			&(struct rig_blocks){ .first = 1 + 10000 * i, .count = blocks });
	while (batches[0]->ended < blocks || batches[1]->ended < blocks) {
		unsigned ahead = batches[0]->ended > batches[1]->ended ? 0 : 1;

		assert_true(batches[ahead]->ended - batches[!ahead]->ended <= 4 * WINDOW);
		if (!rig_step(&rig))
			clock_advance(&rig.clock, 100);
	}
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(rig_batch_count(batches[i], 0), blocks);
	rig_finish_idle(&rig);
}

static void a_client_that_never_releases_stops_only_itself(void **unused)
{
	struct rig rig;
	struct rig_client *clients[2];
	struct rig_batch *kept;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .load_window_blocks = WINDOW });
	clients[0] = rig_register(&rig, &(struct rig_engine){ .name = "keeps" });
	clients[1] = rig_register(&rig, &(struct rig_engine){ .name = "gives" });
	assert_int_equal(store_many(clients[0], 1, 100), 100);
	kept = rig_load_begin(clients[0], &(struct rig_blocks){ .first = 1, .count = 100 });
	kept->is_kept = true;
	rig_settle(&rig);
	assert_int_equal(kept->ended, WINDOW);
	assert_int_equal(rig_load(clients[1], &(struct rig_blocks){ .first = 1, .count = 100 }),
			 100);
	rig_pass_time(&rig, RIG_DEADLINE_US);
	assert_int_equal(rig_batch_count(kept, 0), WINDOW);
	assert_int_equal(rig_batch_count(kept, -ETIME), 100 - WINDOW);
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

static void a_client_that_reads_nothing_harms_only_itself(void **unused)
{
	struct rig rig;
	struct rig_client *clients[2];

	(void)unused;
	rig_init(&rig, NULL);
	clients[0] = rig_register(&rig, &(struct rig_engine){ .name = "deaf" });
	clients[1] = rig_register(&rig, &(struct rig_engine){ .name = "hears" });
	assert_int_equal(store_many(clients[0], 1, 20), 20);
	clients[0]->is_deaf = true;
	for (unsigned i = 0; i < 15; i++)
		(void)rig_load_begin(clients[0], &(struct rig_blocks){ .first = 1, .count = 20 });
	rig_settle(&rig);
	assert_int_equal(rig_load(clients[1], &(struct rig_blocks){ .first = 1, .count = 20 }), 20);
	rig_pass_time(&rig, RIG_DEADLINE_US);
	assert_int_equal(rig_store(clients[1],
				   &(struct rig_blocks){ .first = 900, .count = 5, .version = 1 }),
			 5);
	rig_client_close(clients[0]);
	rig_finish_idle(&rig);
}

static void more_batches_than_agreed_are_refused_not_queued(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	struct rig_batch *first;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .batches_max = 1 });
	client = rig_register(&rig, NULL);
	first = rig_store_begin(client,
				&(struct rig_blocks){ .first = 1, .count = 2, .version = 1 });
	rig_settle(&rig);
	assert_int_equal(
		rig_store(client, &(struct rig_blocks){ .first = 9, .count = 2, .version = 1 }), 0);
	assert_int_equal(rig_batch_count(&rig_last, -ENOSPC), 2);
	rig_store_commit(client, first);
	rig_settle(&rig);
	assert_int_equal(rig_batch_count(first, 0), 2);
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_lease_holds_its_blocks_until_its_microsecond),
		cmocka_unit_test(a_lease_longer_than_the_longest_is_cut_to_it),
		cmocka_unit_test(leased_blocks_survive_stores_that_would_have_evicted_them),
		cmocka_unit_test(a_hoarder_gets_half_and_others_still_store_and_load),
		cmocka_unit_test(the_leases_of_an_engine_that_dies_end_with_its_connection),
		cmocka_unit_test(
			a_lease_outlives_its_connection_while_another_rank_loads_with_it),
		cmocka_unit_test(
			a_load_that_never_ends_keeps_a_dead_schedulers_lease_to_a_deadline_only),
		cmocka_unit_test(at_whatever_step_of_a_load_an_engine_dies_its_lease_goes),
		cmocka_unit_test(
			what_is_retained_stays_when_its_engine_goes_and_what_is_pinned_goes),
		cmocka_unit_test(a_load_larger_than_its_window_streams_through_it),
		cmocka_unit_test(two_large_loads_do_not_starve_each_other),
		cmocka_unit_test(a_client_that_never_releases_stops_only_itself),
		cmocka_unit_test(a_client_that_reads_nothing_harms_only_itself),
		cmocka_unit_test(more_batches_than_agreed_are_refused_not_queued),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
