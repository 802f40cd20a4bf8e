/* tests/daemon/test_scrub.c: slots that are checked before anybody asks, and writes read back. */
#include "tests/daemon/rig.h"

#include "daemon/scrub.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>

#define BLOCKS 16u
#define RATE (16 * RIG_UNIT_BYTES)
#define INTERVAL_US (600 * RIG_SECOND)

static const struct rig_blocks all = { .first = 1, .count = BLOCKS, .version = 3 };

static const struct rig_config scrubbed = { .cpu_units = 4, .scrub_bytes_second = RATE };

static struct scrub_figures figures_of(struct rig *rig)
{
	return scrub_figures(rig->daemon);
}

/* Lets the next round begin and end. */
static void round_run(struct rig *rig)
{
	uint64_t passes = figures_of(rig).passes;

	rig_settle(rig);
	if (passes > 0)
		clock_advance(&rig->clock, INTERVAL_US);
	for (unsigned i = 0; figures_of(rig).passes == passes; i++) {
		assert_true(i < RIG_PASSES_MAX);
		rig_pass_time(rig, 1000);
	}
}

static uint8_t *bytes_of(struct rig *rig, struct rig_client *client, enum tier_id tier,
			 uint64_t key)
{
	uint32_t slot = rig_slot(client, tier, 0, key);

	assert_int_not_equal(slot, SLOT_NONE);
	return rig_slot_bytes(rig, tier, slot);
}

static void damage(struct rig *rig, struct rig_client *client, enum tier_id tier, uint64_t key)
{
	bytes_of(rig, client, tier, key)[SLOT_HEADER_BYTES + 7 * key] ^= 0x10;
}

static unsigned load_one(struct rig_client *client, uint64_t key)
{
	return rig_load(client, &(struct rig_blocks){ .first = key, .count = 1 });
}

/* With a client whose blocks a first round has found right. */
static struct rig_client *begin(struct rig *rig, const struct rig_config *config)
{
	struct rig_client *client;

	rig_init(rig, config);
	client = rig_register(rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	round_run(rig);
	return client;
}

static void a_round_checks_every_block_of_both_tiers_once(void **unused)
{
	struct rig rig;

	(void)unused;
	(void)begin(&rig, &scrubbed);
	struct scrub_figures before = figures_of(&rig);
	round_run(&rig);
	struct scrub_figures after = figures_of(&rig);
	for (enum tier_id tier = 0; tier < TIERS; tier++) {
		assert_int_equal(after.slots[tier] - before.slots[tier], BLOCKS);
		assert_int_equal(after.bytes[tier] - before.bytes[tier], BLOCKS * RIG_SLOT_BYTES);
		assert_int_equal(after.damaged[tier], 0);
	}
	rig_finish_idle(&rig);
}

static void a_disk_that_was_slow_is_seen_to_have_mended(void **unused)
{
	const struct tier_speed slow = { .latency_us = 1e6, .bytes_us = 1e-3 };
	const struct tier_speed fast = { .latency_us = 1e-3, .bytes_us = 1e9 };
	struct rig rig;

	(void)unused;
	(void)begin(&rig, &scrubbed);
	struct tier_speed *speed = &rig.daemon->speeds[TIER_NVME];
	*speed = slow;
	round_run(&rig);
	assert_true(speed->latency_us < slow.latency_us / 2);
	assert_true(speed->bytes_us > 100 * slow.bytes_us);
	*speed = fast;
	round_run(&rig);
	assert_memory_equal(speed, &fast, sizeof(fast));
	*speed = slow;
	speed->learned_us = rig.daemon->now_us + INTERVAL_US; /* a load knows better */
	round_run(&rig);
	assert_true(speed->latency_us == slow.latency_us && speed->bytes_us == slow.bytes_us);
	rig_finish_idle(&rig);
}

static void damage_is_found_though_nobody_asks(void **unused)
{
	struct rig rig;

	(void)unused;
	struct rig_client *client = begin(&rig, &scrubbed);
	rig_drop_cpu(client, 0, 3, 1);
	uint32_t below = rig_slot(client, TIER_NVME, 0, 3);
	uint32_t above = rig_slot(client, TIER_CPU, 0, 9);
	damage(&rig, client, TIER_NVME, 3);
	damage(&rig, client, TIER_CPU, 9);
	round_run(&rig);
	assert_int_equal(figures_of(&rig).damaged[TIER_NVME], 1);
	assert_int_equal(figures_of(&rig).damaged[TIER_CPU], 1);
	assert_int_equal(cache_slot(rig.daemon->cache, TIER_NVME, below)->state, SLOT_BAD);
	assert_int_equal(cache_slot(rig.daemon->cache, TIER_CPU, above)->state, SLOT_BAD);
	assert_int_equal(rig.daemon->counters.damaged[TIER_NVME], 1);
	assert_int_equal(rig.daemon->counters.damaged[TIER_CPU], 1);
	/* What was wrong in one tier is served by the other, without anybody having met it. */
	assert_int_equal(rig_load(client, &all), BLOCKS - 1);
	assert_int_equal(client->detected, 0);
	rig_finish_idle(&rig);
}

static void a_block_that_is_wrong_below_is_written_again_from_above(void **unused)
{
	struct rig rig;

	(void)unused;
	struct rig_client *client = begin(&rig, &scrubbed);
	uint32_t bad = rig_slot(client, TIER_NVME, 0, 5);
	damage(&rig, client, TIER_NVME, 5);
	round_run(&rig);
	rig_settle(&rig);
	assert_int_equal(figures_of(&rig).rewritten, 1);
	assert_int_not_equal(rig_slot(client, TIER_NVME, 0, 5), bad);
	rig_drop_cpu(client, 0, 5, 1);
	assert_int_equal(load_one(client, 5), 1);
	assert_int_equal(rig_last.items[0].tier, TIER_NVME);
	rig_finish(&rig);
}

static void another_blocks_bytes_in_the_place_are_dropped_as_stale(void **unused)
{
	struct rig rig;

	(void)unused;
	struct rig_client *client = begin(&rig, &scrubbed);
	rig_drop_cpu(client, 0, 1, BLOCKS);
	memcpy(bytes_of(&rig, client, TIER_NVME, 4), bytes_of(&rig, client, TIER_NVME, 8),
	       RIG_SLOT_BYTES);
	round_run(&rig);
	assert_int_equal(rig.daemon->counters.stale_entries, 1);
	assert_int_equal(figures_of(&rig).damaged[TIER_NVME], 1);
	assert_int_equal(load_one(client, 4), 0);
	assert_int_equal(load_one(client, 8), 1);
	rig_finish(&rig);
}

static void a_round_is_not_faster_than_its_budget(void **unused)
{
	struct rig rig;
	struct rig_config config = scrubbed;

	(void)unused;
	config.scrub_bytes_second = RIG_UNIT_BYTES;
	(void)begin(&rig, &config);
	uint64_t least_us = UINT64_C(2) * BLOCKS * RIG_SLOT_BYTES * RIG_SECOND / RIG_UNIT_BYTES;
	round_run(&rig);
	/* The last slot is begun before it is paid for, and idle time left 20 ms of credit. */
	uint64_t one_us = RIG_SLOT_BYTES * RIG_SECOND / RIG_UNIT_BYTES;
	assert_true(figures_of(&rig).pass_us >= least_us - one_us - 20000);
	assert_true(figures_of(&rig).pass_us <= least_us + 2 * BLOCKS * 1000);
	rig_finish(&rig);
}

static void rounds_begin_an_interval_apart(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, &scrubbed);
	round_run(&rig);
	for (unsigned i = 0; i < 59; i++)
		rig_pass_time(&rig, INTERVAL_US / 60);
	assert_int_equal(figures_of(&rig).passes, 1);
	rig_pass_time(&rig, INTERVAL_US / 60);
	rig_pass_time(&rig, 1000);
	assert_int_equal(figures_of(&rig).passes, 2);
	rig_finish(&rig);
}

/* Which keys are left when a small cpu tier has been overrun is the same with a scrubber. */
static void the_order_of_eviction_is_the_same_with_and_without(void **unused)
{
	uint8_t is_there[2][200] = { { 0 } };

	(void)unused;
	for (unsigned round = 0; round < 2; round++) {
		struct rig rig;
		struct rig_config config = { .cpu_units = 2, .no_nvme = true };

		config.scrub_bytes_second = round == 0 ? 0 : RATE;
		rig_init(&rig, &config);
		struct rig_client *client = rig_register(&rig, NULL);
		for (unsigned key = 1; key < 200; key++) {
			struct rig_blocks one = { .first = key, .count = 1, .version = 1 };

			assert_int_equal(rig_store(client, &one), 1);
			if (key % 10 == 0)
				rig_pass_time(&rig, INTERVAL_US / 2);
			if (key > 30 && key % 7 == 0)
				(void)load_one(client, key - 30);
		}
		for (unsigned key = 1; key < 200; key++)
			is_there[round][key] = (uint8_t)rig_usable(client, key, 1);
		if (round == 1)
			assert_true(figures_of(&rig).slots[TIER_CPU] > 100);
		rig_finish(&rig);
	}
	assert_memory_equal(is_there[0], is_there[1], sizeof(is_there[0]));
}

static void a_block_that_goes_while_it_is_checked_is_left_alone(void **unused)
{
	(void)unused;
	for (unsigned passes = 0; passes < 12; passes++) {
		struct rig rig;

		rig_init(&rig, &scrubbed);
		struct rig_client *client = rig_register(&rig, NULL);
		round_run(&rig);
		assert_int_equal(rig_store(client, &all), BLOCKS);
		rig_settle(&rig);
		rig.is_checked = true;
		for (unsigned key = 1; key <= BLOCKS; key++)
			damage(&rig, client, TIER_NVME, key);
		clock_advance(&rig.clock, INTERVAL_US);
		for (unsigned i = 0; i < passes; i++)
			(void)rig_step(&rig);
		assert_int_equal(rig_forget(client, client->space), 0);
		rig_settle(&rig);
		assert_int_equal(rig_store(client, &all), BLOCKS);
		assert_int_equal(rig_load(client, &all), BLOCKS);
		rig_finish_idle(&rig);
	}
}

static void a_slot_that_cannot_be_read_is_not_offered_again(void **unused)
{
	struct rig rig;

	(void)unused;
	(void)begin(&rig, &scrubbed);
	block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 5, 1);
	round_run(&rig);
	assert_int_equal(rig_figures(&rig, 0, TIER_NVME).slots[SLOT_BAD], 1);
	assert_int_equal(figures_of(&rig).damaged[TIER_NVME], 0);
	rig_finish_idle(&rig);
}

/* ---- read-backs ---- */

static void one_write_in_so_many_is_read_back(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .cpu_units = 4, .readback_every = 4 });
	struct rig_client *client = rig_register(&rig, NULL);
	uint64_t reads = rig.disk.reads;
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	assert_int_equal(figures_of(&rig).readbacks[READBACK_GOOD], BLOCKS / 4);
	assert_int_equal(rig.disk.reads - reads, BLOCKS / 4);
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

static void a_device_that_lies_about_writes_is_fenced(void **unused)
{
	static const enum block_fault lies[] = { BLOCK_FAULT_LOST, BLOCK_FAULT_TORN };

	(void)unused;
	for (unsigned lie = 0; lie < 2; lie++) {
		struct rig rig;

		rig_init(&rig, &(struct rig_config){ .cpu_units = 4, .readback_every = 4 });
		struct rig_client *client = rig_register(&rig, NULL);
		/* Then the extent is there, and its table has been written. */
		assert_int_equal(
			rig_store(client, &(struct rig_blocks){ .first = 100, .count = 4 }), 4);
		for (unsigned i = 0; i < READBACKS_BAD_MAX; i++) {
			struct rig_blocks some = { .first = 1 + 4 * i, .count = 4, .version = 1 };

			rig_settle(&rig);
			assert_false(nvme_device_is_fenced(rig.daemon->devices[0].device));
			block_io_fault_arm(&rig.fault, lies[lie], BLOCK_FAULT_QUEUE, 1, 4);
			assert_int_equal(rig_store(client, &some), 4);
			rig_settle(&rig);
			assert_int_equal(figures_of(&rig).readbacks[READBACK_BAD], i + 1);
		}
		struct nvme_figures device;
		nvme_device_figures(rig.daemon->devices[0].device, &device);
		assert_string_equal(device.fence_reason,
				    "blocks just written were read back wrong");
		/* The cpu tier goes on. */
		rig_settle(&rig);
		assert_int_equal(rig_load(client, &(struct rig_blocks){ .first = 1, .count = 4 }),
				 4);
		rig_finish(&rig);
	}
}

/* A FORGET of anything, or a restart, lies between the stores of two ranks. */
static void a_shard_that_is_newer_than_its_block_is_not_stale(void **unused)
{
	struct rig_blocks one = { .first = 1, .count = 1 };
	struct rig rig;
	uint32_t adapter;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .cpu_units = 4, .readback_every = 1 });
	struct rig_client *first = rig_register(&rig, &(struct rig_engine){ .world = 2 });
	struct rig_client *second = rig_register(&rig,
						 &(struct rig_engine){ .world = 2, .shard = 1 });
	assert_int_equal(rig_store(first, &one), 1);
	assert_int_equal(rig_client_adapter(first, 1, &adapter), 0);
	assert_int_equal(rig_forget(first, adapter), 0);
	assert_int_equal(rig_store(second, &one), 1);
	rig_settle(&rig);
	assert_int_equal(figures_of(&rig).readbacks[READBACK_BAD], 0);
	assert_int_equal(figures_of(&rig).readbacks[READBACK_GOOD], 2);
	rig_drop_cpu(second, 0, 1, 1);
	assert_int_equal(rig_load(second, &one), 1);
	rig_finish(&rig);
}

/* Bits that flipped in memory before the write down are no fault of the device. */
static void what_was_damaged_before_its_write_does_not_fence_the_device(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .cpu_units = 4, .readback_every = 1 });
	struct rig_client *client = rig_register(&rig, NULL);
	for (unsigned i = 0; i < 2 * READBACKS_BAD_MAX; i++) {
		struct rig_blocks one = { .first = 1 + i, .count = 1, .version = 1 };

		rig_settle(&rig);
		block_io_fault_hold(&rig.fault);
		assert_int_equal(rig_store(client, &one), 1);
		uint32_t slot = rig_slot(client, TIER_CPU, 0, one.first);
		rig_slot_bytes(&rig, TIER_CPU, slot)[SLOT_HEADER_BYTES + 5] ^= 1;
		block_io_fault_flow(&rig.fault);
		rig_settle(&rig);
		assert_int_equal(figures_of(&rig).readbacks[READBACK_BAD], i + 1);
		assert_int_equal(rig_load(client, &one), 0);
	}
	assert_false(nvme_device_is_fenced(rig.daemon->devices[0].device));
	assert_int_equal(rig.daemon->counters.damaged[TIER_CPU], 2 * READBACKS_BAD_MAX);
	rig_finish(&rig);
}

static void a_few_wrong_ones_far_apart_fence_nothing(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .cpu_units = 4, .readback_every = 1 });
	struct rig_client *client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &(struct rig_blocks){ .first = 100, .count = 1 }), 1);
	for (unsigned i = 0; i < 2 * READBACKS_BAD_MAX; i++) {
		struct rig_blocks one = { .first = 1 + i, .count = 1, .version = 1 };

		rig_settle(&rig);
		block_io_fault_arm(&rig.fault, BLOCK_FAULT_LOST, BLOCK_FAULT_QUEUE, 1, 1);
		assert_int_equal(rig_store(client, &one), 1);
		rig_pass_time(&rig, READBACK_WINDOW_US);
	}
	assert_int_equal(figures_of(&rig).readbacks[READBACK_BAD], 2 * READBACKS_BAD_MAX);
	assert_false(nvme_device_is_fenced(rig.daemon->devices[0].device));
	rig_finish(&rig);
}

static void too_many_that_wait_are_skipped(void **unused)
{
	struct rig rig;
	struct rig_blocks many = { .first = 1, .count = 2 * READBACKS_MAX, .version = 1 };

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .cpu_units = 4, .readback_every = 1 });
	struct rig_client *client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &many), many.count);
	rig_settle(&rig);
	struct scrub_figures figures = figures_of(&rig);
	assert_int_equal(figures.readbacks[READBACK_GOOD] + figures.readbacks[READBACK_SKIPPED],
			 many.count);
	assert_true(figures.readbacks[READBACK_GOOD] >= READBACKS_MAX);
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_round_checks_every_block_of_both_tiers_once),
		cmocka_unit_test(a_disk_that_was_slow_is_seen_to_have_mended),
		cmocka_unit_test(damage_is_found_though_nobody_asks),
		cmocka_unit_test(a_block_that_is_wrong_below_is_written_again_from_above),
		cmocka_unit_test(another_blocks_bytes_in_the_place_are_dropped_as_stale),
		cmocka_unit_test(a_round_is_not_faster_than_its_budget),
		cmocka_unit_test(rounds_begin_an_interval_apart),
		cmocka_unit_test(the_order_of_eviction_is_the_same_with_and_without),
		cmocka_unit_test(a_block_that_goes_while_it_is_checked_is_left_alone),
		cmocka_unit_test(a_slot_that_cannot_be_read_is_not_offered_again),
		cmocka_unit_test(one_write_in_so_many_is_read_back),
		cmocka_unit_test(a_device_that_lies_about_writes_is_fenced),
		cmocka_unit_test(a_shard_that_is_newer_than_its_block_is_not_stale),
		cmocka_unit_test(what_was_damaged_before_its_write_does_not_fence_the_device),
		cmocka_unit_test(a_few_wrong_ones_far_apart_fence_nothing),
		cmocka_unit_test(too_many_that_wait_are_skipped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
