/* tests/daemon/test_daemon_calls.c: FORGET at every moment, BYPASS, EXPLAIN and hints. */
#include "tests/daemon/rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define BLOCKS 12u
#define STEPS_MAX 30u

static const struct rig_blocks all = { .first = 1, .count = BLOCKS, .version = 3 };
static const struct rig_blocks newer = { .first = 1, .count = BLOCKS, .version = 4 };

/* After a FORGET nothing of before is served; what is stored anew is. */
static void check_forgotten(struct rig *rig, struct rig_client *client)
{
	assert_int_equal(rig_usable(client, 1, BLOCKS), 0);
	assert_int_equal(rig_load(client, &all), 0);
	rig_pass_time(rig, RIG_DEADLINE_US);
	rig_assert_idle(rig);
	assert_int_equal(rig_store(client, &newer), BLOCKS);
	assert_int_equal(rig_load(client, &newer), BLOCKS);
	for (unsigned i = 0; i < BLOCKS; i++)
		assert_int_equal(rig_last.versions[i], 4);
	rig_drop_cpu(client, 0, 1, BLOCKS);
	assert_int_equal(rig_load(client, &newer), BLOCKS);
	rig_settle(rig);
	rig_assert_idle(rig);
}

static void a_forget_at_any_step_of_a_store_forgets_it(void **unused)
{
	(void)unused;
	for (unsigned steps = 0; steps < STEPS_MAX; steps++) {
		struct rig rig;
		bool is_committed = false;

		rig_init(&rig, NULL);
		rig.disk.latency_us = 1000;
		struct rig_client *client = rig_register(&rig, NULL);
		struct rig_batch *batch = rig_store_begin(client, &all);
		while (!batch->is_replied)
			(void)rig_step(&rig);
		for (unsigned i = 0; i < steps; i++) {
			if (!is_committed && i >= steps / 3)
				rig_store_commit(client, batch);
			is_committed = is_committed || i >= steps / 3;
			if (!rig_step(&rig))
				clock_advance(&rig.clock, 300);
		}
		assert_int_equal(rig_forget(client, steps % 2 == 0 ? client->space : UINT32_MAX),
				 0);
		if (!is_committed)
			rig_store_commit(client, batch);
		rig_settle(&rig);
		rig.disk.latency_us = 0;
		check_forgotten(&rig, client);
		rig_finish(&rig);
	}
}

static void a_forget_before_the_commit_gives_the_reserved_slots_back(void **unused)
{
	(void)unused;
	for (unsigned no_nvme = 0; no_nvme < 2; no_nvme++) {
		struct rig rig;

		rig_init(&rig, &(struct rig_config){ .no_nvme = no_nvme });
		struct rig_client *client = rig_register(&rig, NULL);
		struct rig_batch *batch = rig_store_begin(client, &all);
		rig_settle(&rig);
		assert_int_equal(rig_forget(client, client->space), 0);
		rig_settle(&rig);
		rig_store_commit(client, batch);
		rig_settle(&rig);
		assert_int_equal(batch->ended, BLOCKS);
		rig_assert_idle(&rig);
		assert_int_equal(cache_entries_count(rig.daemon->cache), 0);
		rig_finish(&rig);
	}
}

static void a_forget_at_any_step_of_a_load_lets_it_end(void **unused)
{
	(void)unused;
	for (unsigned steps = 0; steps < STEPS_MAX; steps++) {
		struct rig rig;

		rig_init(&rig, NULL);
		struct rig_client *client = rig_register(&rig, NULL);
		assert_int_equal(rig_store(client, &all), BLOCKS);
		rig_drop_cpu(client, 0, 1, BLOCKS);
		rig.disk.latency_us = 1000;
		struct rig_batch *batch = rig_load_begin(client, &all);
		batch->is_kept = steps % 2 == 0;
		for (unsigned i = 0; i < steps; i++)
			if (!rig_step(&rig))
				clock_advance(&rig.clock, 300);
		assert_int_equal(rig_forget(client, client->space), 0);
		rig.disk.latency_us = 0;
		rig_pass_time(&rig, RIG_DEADLINE_US);
		assert_int_equal(batch->ended, BLOCKS);
		check_forgotten(&rig, client);
		rig_finish(&rig);
	}
}

static void a_forget_of_one_space_leaves_the_others(void **unused)
{
	struct rig rig;
	struct rig_client *first, *second;

	(void)unused;
	rig_init(&rig, NULL);
	first = rig_register(&rig, &(struct rig_engine){ .name = "first" });
	second = rig_register(&rig, &(struct rig_engine){ .name = "second", .model = "another" });
	assert_int_equal(rig_store(first, &all), BLOCKS);
	assert_int_equal(rig_store(second, &all), BLOCKS);
	assert_int_equal(rig_forget(first, first->space), 0);
	assert_int_equal(rig_load(first, &all), 0);
	assert_int_equal(rig_load(second, &all), BLOCKS);
	assert_int_equal(rig_forget(first, UINT32_MAX), 0);
	assert_int_equal(rig_load(second, &all), 0);
	rig_finish(&rig);
}

static void a_bypass_is_obeyed_for_all_a_tenant_and_a_space(void **unused)
{
	struct rig rig;
	struct rig_client *client, *other;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .tenants = 2 });
	client = rig_register(&rig, &(struct rig_engine){ .name = "one" });
	other = rig_register(&rig, &(struct rig_engine){ .name = "two", .tenant = 1 });
	assert_int_equal(rig_store(client, &all), BLOCKS);
	assert_int_equal(rig_store(other, &all), BLOCKS);
	for (unsigned is_of_space = 0; is_of_space < 2; is_of_space++) {
		assert_int_equal(rig_bypass(client, "", is_of_space, FRAME_BYPASS_ON), 0);
		assert_int_equal(rig_usable(client, 1, BLOCKS), 0);
		assert_int_equal(rig_load(client, &all), 0);
		assert_int_equal(
			rig_store(client,
				  &(struct rig_blocks){ .first = 500, .count = 2, .version = 1 }),
			0);
		assert_int_equal(rig_explain(client, 0, 1).reason, FRAME_REASON_BYPASSED);
		assert_int_equal(rig_load(other, &all), BLOCKS);
		assert_int_equal(rig_bypass(client, "", is_of_space, FRAME_BYPASS_OFF), 0);
		assert_int_equal(rig_load(client, &all), BLOCKS);
	}
	assert_int_equal(rig_bypass(client, "tenant-1", false, FRAME_BYPASS_ON), -EPERM);
	assert_int_equal(rig_bypass(client, "nobody", false, FRAME_BYPASS_ON), -ENOENT);
	rig.daemon->bypass = FRAME_BYPASS_ON;
	assert_int_equal(rig_load(client, &all), 0);
	assert_int_equal(rig_load(other, &all), 0);
	rig_finish(&rig);
}

static void observe_counts_what_would_have_been_hits_and_answers_misses(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_bypass(client, "", false, FRAME_BYPASS_OBSERVE), 0);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	assert_int_equal(rig_usable(client, 1, BLOCKS), 0);
	assert_int_equal(rig.daemon->counters.usable_tokens, BLOCKS * RIG_TOKENS);
	assert_int_equal(rig_load(client, &all), 0);
	assert_int_equal(rig_bypass(client, "", false, FRAME_BYPASS_OFF), 0);
	assert_int_equal(rig_usable(client, 1, BLOCKS), BLOCKS);
	assert_int_equal(rig_load(client, &all), BLOCKS);
	rig_finish(&rig);
}

static void explain_says_why(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_explain(client, 0, 1).reason, FRAME_REASON_NEVER_STORED);
	struct rig_batch *batch = rig_store_begin(client, &all);
	rig_settle(&rig);
	assert_int_equal(rig_explain(client, 0, 1).reason, FRAME_REASON_FILLING);
	rig_store_commit(client, batch);
	rig_settle(&rig);
	assert_int_equal(rig_explain(client, 0, 1).reason, FRAME_REASON_HIT_CPU);
	rig_drop_cpu(client, 0, 1, 1);
	assert_int_equal(rig_explain(client, 0, 1).reason, FRAME_REASON_HIT_NVME);
	/* One block after the other, each a prefix of its own, until the first has gone. */
	for (unsigned i = 0; rig_entry(client, 0, 12) != ENTRY_NONE && i < 40; i++)
		(void)rig_store(
			client,
			&(struct rig_blocks){ .first = 1000 + 40 * i, .count = 20, .version = 1 });
	clock_advance(&rig.clock, RIG_SECOND);
	assert_int_equal(rig_explain(client, 0, 12).reason, FRAME_REASON_EVICTED);
	assert_true(rig_explain(client, 0, 12).age_us >= RIG_SECOND);
	rig_finish(&rig);
}

static void explain_tells_forgotten_damaged_and_refused_from_evicted(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_drop_cpu(client, 0, 7, 1);
	rig_slot_bytes(&rig, TIER_NVME, rig_slot(client, TIER_NVME, 0, 7))[SLOT_HEADER_BYTES] ^= 1;
	assert_int_equal(rig_load(client, &(struct rig_blocks){ .first = 7, .count = 1 }), 0);
	assert_int_equal(rig_explain(client, 0, 7).reason, FRAME_REASON_DAMAGED);
	assert_int_equal(rig_forget(client, client->space), 0);
	rig_settle(&rig);
	assert_int_equal(rig_explain(client, 0, 1).reason, FRAME_REASON_FORGOTTEN);
	/* Its parent is not here. */
	assert_int_equal(
		rig_store(client, &(struct rig_blocks){ .parent = 99, .first = 100, .count = 1 }),
		0);
	assert_int_equal(rig_explain(client, 0, 100).reason, FRAME_REASON_REFUSED);
	rig_finish(&rig);
}

static void hints_end_prefetch_pin_retain_and_touch(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	struct frame_hint_reply reply;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_hint(client, FRAME_HINT_PIN, &all, RIG_SECOND).outcome,
			 FRAME_HINT_REJECTED);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_drop_cpu(client, 0, 1, BLOCKS);
	reply = rig_hint(client, FRAME_HINT_PREFETCH, &all, 0);
	assert_int_equal(reply.outcome, FRAME_HINT_ACCEPTED);
	assert_int_equal(reply.blocks, BLOCKS);
	rig_settle(&rig);
	assert_int_equal(rig_figures(&rig, 0, TIER_CPU).copies_whole, BLOCKS);
	for (enum frame_hint_kind kind = FRAME_HINT_RETAIN; kind <= FRAME_HINT_PIN; kind++) {
		if (kind == FRAME_HINT_PREFETCH)
			continue;
		reply = rig_hint(client, kind, &all, RIG_SECOND);
		assert_int_equal(reply.blocks, BLOCKS);
		assert_int_equal(rig_figures(&rig, 0, TIER_CPU).holds, BLOCKS);
		if (kind == FRAME_HINT_PIN)
			rig_lease_release(client, reply.lease);
		else
			rig_pass_time(&rig, RIG_SECOND);
		rig_assert_idle(&rig);
	}
	assert_int_equal(rig_hint(client, FRAME_HINT_TOUCH, &all, 0).blocks, BLOCKS);
	assert_int_equal(rig_hint(client, FRAME_HINT_END, &all, 0).blocks, BLOCKS);
	/* What has ended goes first. */
	assert_int_equal(
		rig_store(client, &(struct rig_blocks){ .first = 5000, .count = 40, .version = 1 }),
		40);
	assert_int_equal(
		rig_store(client, &(struct rig_blocks){ .first = 6000, .count = 40, .version = 1 }),
		40);
	rig_settle(&rig);
	assert_int_equal(rig_slot(client, TIER_CPU, 0, 12), SLOT_NONE);
	assert_int_not_equal(rig_slot(client, TIER_CPU, 0, 5000), SLOT_NONE);
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_forget_at_any_step_of_a_store_forgets_it),
		cmocka_unit_test(a_forget_before_the_commit_gives_the_reserved_slots_back),
		cmocka_unit_test(a_forget_at_any_step_of_a_load_lets_it_end),
		cmocka_unit_test(a_forget_of_one_space_leaves_the_others),
		cmocka_unit_test(a_bypass_is_obeyed_for_all_a_tenant_and_a_space),
		cmocka_unit_test(observe_counts_what_would_have_been_hits_and_answers_misses),
		cmocka_unit_test(explain_says_why),
		cmocka_unit_test(explain_tells_forgotten_damaged_and_refused_from_evicted),
		cmocka_unit_test(hints_end_prefetch_pin_retain_and_touch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
