/* tests/daemon/test_scrub_asked.c: rounds that an operator asks for. */
#include "tests/daemon/rig.h"

#include "daemon/scrub.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define BLOCKS 16u
#define RATE (256 * RIG_UNIT_BYTES)
#define SLOW RIG_UNIT_BYTES

static const struct rig_blocks all = { .first = 1, .count = BLOCKS, .version = 3 };
static const bool both[TIERS] = { true, true };
static const bool cpu_alone[TIERS] = { [TIER_CPU] = true };

/* Without a scrubber of its own, so that nothing is found but by who asks. */
static struct rig_client *begin(struct rig *rig, const struct rig_config *config)
{
	rig_init(rig, config);
	struct rig_client *client = rig_register(rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(rig);
	return client;
}

static void damage(struct rig *rig, struct rig_client *client, enum tier_id tier, uint64_t key)
{
	uint32_t slot = rig_slot(client, tier, 0, key);

	assert_int_not_equal(slot, SLOT_NONE);
	rig_slot_bytes(rig, tier, slot)[SLOT_HEADER_BYTES + 7 * key] ^= 0x10;
}

static struct scrub_asked run(struct rig *rig)
{
	for (unsigned i = 0; scrub_ask_again(rig->daemon).state == SCRUB_ASKED; i++) {
		assert_true(i < RIG_PASSES_MAX);
		rig_pass_time(rig, 1000);
	}
	return scrub_ask_again(rig->daemon);
}

static void who_asks_has_all_tiers_checked_also_with_the_scrubber_off(void **unused)
{
	struct rig rig;
	struct rig_client *client = begin(&rig, &(struct rig_config){ .cpu_units = 4 });

	(void)unused;
	assert_int_equal(scrub_ask_again(rig.daemon).state, SCRUB_UNASKED);
	assert_int_equal(scrub_ask(rig.daemon, both, RATE), 0);
	struct scrub_asked asked = run(&rig);
	assert_int_equal(asked.state, SCRUB_ASKED_DONE);
	assert_int_equal(asked.looked_at, asked.slots);
	for (enum tier_id tier = 0; tier < TIERS; tier++) {
		assert_int_equal(asked.figures.slots[tier], BLOCKS);
		assert_int_equal(asked.figures.damaged[tier], 0);
	}
	damage(&rig, client, TIER_NVME, 3);
	damage(&rig, client, TIER_CPU, 9);
	damage(&rig, client, TIER_CPU, 11);
	assert_int_equal(scrub_ask(rig.daemon, both, RATE), 0);
	asked = run(&rig);
	assert_int_equal(asked.figures.damaged[TIER_NVME], 1);
	assert_int_equal(asked.figures.damaged[TIER_CPU], 2);
	assert_int_equal(asked.figures.rewritten, 1);
	rig_finish_idle(&rig);
}

static void one_tier_is_checked_alone(void **unused)
{
	struct rig rig;
	struct rig_client *client = begin(&rig, &(struct rig_config){ .cpu_units = 4 });

	(void)unused;
	damage(&rig, client, TIER_NVME, 3);
	damage(&rig, client, TIER_CPU, 9);
	assert_int_equal(scrub_ask(rig.daemon, cpu_alone, RATE), 0);
	struct scrub_asked asked = run(&rig);
	assert_int_equal(asked.state, SCRUB_ASKED_DONE);
	assert_int_equal(asked.figures.slots[TIER_CPU], BLOCKS);
	assert_int_equal(asked.figures.damaged[TIER_CPU], 1);
	assert_int_equal(asked.figures.slots[TIER_NVME] + asked.figures.damaged[TIER_NVME], 0);
	rig_finish_idle(&rig);
}

static void there_is_one_at_a_time_and_it_is_no_faster_than_asked(void **unused)
{
	struct rig rig;

	(void)unused;
	(void)begin(&rig, &(struct rig_config){ .cpu_units = 4 });
	assert_int_equal(scrub_ask(rig.daemon, both, SLOW), 0);
	assert_int_equal(scrub_ask(rig.daemon, both, RATE), -EBUSY);
	struct scrub_asked asked = run(&rig);
	uint64_t least_us = (2 * BLOCKS - 1) * RIG_SLOT_BYTES * RIG_SECOND / SLOW;
	assert_true(asked.ended_us - asked.began_us >= least_us - 20000);
	rig_finish_idle(&rig);
}

static void one_that_is_ended_or_that_nobody_asks_about_stops(void **unused)
{
	(void)unused;
	for (unsigned round = 0; round < 2; round++) {
		struct rig rig;
		bool is_forgotten = round == 1;

		(void)begin(&rig, &(struct rig_config){ .cpu_units = 4 });
		assert_int_equal(scrub_ask(rig.daemon, both, SLOW / 16), 0);
		rig_pass_time(&rig, SCRUB_ASKED_US / 2);
		assert_int_equal(scrub_ask_again(rig.daemon).state, SCRUB_ASKED);
		if (!is_forgotten)
			scrub_ask_end(rig.daemon);
		rig_pass_time(&rig, SCRUB_ASKED_US / 2);
		uint64_t checked = scrub_figures(rig.daemon).slots[TIER_NVME];
		for (unsigned i = 0; i < 20; i++)
			rig_pass_time(&rig, RIG_SECOND);
		assert_int_equal(scrub_ask_again(rig.daemon).state, SCRUB_ASKED_ENDED);
		assert_in_range(scrub_figures(rig.daemon).slots[TIER_NVME], 1, BLOCKS - 1);
		if (!is_forgotten)
			assert_int_equal(scrub_figures(rig.daemon).slots[TIER_NVME], checked);
		rig_finish_idle(&rig);
	}
}

/* At any moment of the round that is under way, and of read-backs. */
static void it_takes_the_place_of_the_round_that_is_under_way(void **unused)
{
	static const struct rig_engine large = {
		.groups_count = 1,
		.groups = { { .tokens_per_block = RIG_TOKENS, .payload_bytes = 900000,
			      .segments_count = RIG_SEGMENTS } },
	};
	static const struct rig_blocks blocks = { .first = 1, .count = 3, .version = 1 };

	(void)unused;
	for (unsigned passes = 0; passes < 40; passes++) {
		struct rig rig;

		rig_init(&rig, &(struct rig_config){ .cpu_units = 4, .readback_every = 1,
						     .scrub_bytes_second = 64 * RIG_UNIT_BYTES });
		struct rig_client *client = rig_register(&rig, &large);
		rig.daemon->settings.scrub_interval_us = 1000;
		struct rig_batch *store = rig_store_begin(client, &blocks);
		while (!store->is_replied)
			(void)rig_step(&rig);
		rig_store_commit(client, store);
		for (unsigned i = 0; i < passes; i++) {
			(void)rig_step(&rig);
			clock_advance(&rig.clock, 500);
		}
		assert_int_equal(scrub_ask(rig.daemon, both, RATE), 0);
		(void)rig_step(&rig);
		scrub_ask_end(rig.daemon);
		assert_int_equal(scrub_ask(rig.daemon, both, RATE), 0);
		assert_int_equal(run(&rig).state, SCRUB_ASKED_DONE);
		rig_batch_await(&rig, store);
		rig_batch_give(store);
		assert_int_equal(scrub_ask(rig.daemon, both, RATE), 0);
		struct scrub_asked asked = run(&rig);
		assert_true(asked.figures.slots[TIER_CPU] >= blocks.count);
		assert_int_equal(asked.figures.damaged[TIER_CPU], 0);
		assert_int_equal(asked.figures.damaged[TIER_NVME], 0);
		rig_finish_idle(&rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_asks_has_all_tiers_checked_also_with_the_scrubber_off),
		cmocka_unit_test(one_tier_is_checked_alone),
		cmocka_unit_test(there_is_one_at_a_time_and_it_is_no_faster_than_asked),
		cmocka_unit_test(one_that_is_ended_or_that_nobody_asks_about_stops),
		cmocka_unit_test(it_takes_the_place_of_the_round_that_is_under_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
