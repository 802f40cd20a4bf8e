/* tests/daemon/test_daemon_damage.c: flipped bits, torn, swapped and stale slots, on disk and in
 * memory. */
#include "tests/daemon/rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 16u
#define FLIPS 10000u

static const struct rig_blocks all = { .first = 1, .count = BLOCKS, .version = 3 };

/* What a reader of the tier looks at: identity, the tier's own address part, payload. Only the
 * daemon looks at the zeros behind the payload. */
static bool is_read(enum tier_id tier, uint64_t at)
{
	uint64_t address = offsetof(struct slot_header, address) +
			   tier * sizeof(struct slot_address);
	uint64_t end = tier == TIER_CPU ? SLOT_HEADER_BYTES + RIG_PAYLOAD_BYTES : RIG_SLOT_BYTES;

	return at < offsetof(struct slot_header, address) ||
	       (at >= address && at < address + sizeof(struct slot_address)) ||
	       (at >= SLOT_HEADER_BYTES && at < end);
}

struct bench {
	struct rig rig;
	struct rig_client *client;
};

static void bench_init(struct bench *bench)
{
	rig_init(&bench->rig, &(struct rig_config){ .cpu_units = 4 });
	bench->client = rig_register(&bench->rig, NULL);
	assert_int_equal(rig_store(bench->client, &all), BLOCKS);
	rig_settle(&bench->rig);
	assert_int_equal(rig_figures(&bench->rig, 0, TIER_NVME).copies_whole, BLOCKS);
}

/* A key is there in the tier alone that is about to be damaged. */
static uint8_t *prepare(struct bench *bench, enum tier_id tier, uint64_t key, uint32_t *out_slot)
{
	struct rig_blocks one = { .first = key, .count = 1, .version = 3 };
	uint32_t slot = rig_slot(bench->client, tier, 0, key);

	if (slot == SLOT_NONE) {
		assert_int_equal(rig_store(bench->client, &one), 1);
		rig_settle(&bench->rig);
		slot = rig_slot(bench->client, tier, 0, key);
	}
	if (tier == TIER_NVME)
		rig_drop_cpu(bench->client, 0, key, 1);
	*out_slot = slot;
	assert_int_not_equal(slot, SLOT_NONE);
	return rig_slot_bytes(&bench->rig, tier, slot);
}

/* Loads a damaged key. True: it was served (right: anything else ends the test). */
static bool load_damaged(struct bench *bench, uint64_t key)
{
	unsigned served = rig_load(bench->client, &(struct rig_blocks){ .first = key, .count = 1 });

	rig_settle(&bench->rig);
	return served == 1;
}

static void flip_bits(enum tier_id tier, unsigned flips)
{
	struct bench bench;
	unsigned detected = 0, unread = 0;

	bench_init(&bench);
	for (unsigned i = 0; i < flips; i++) {
		uint64_t key = 1000 + i;
		uint64_t at = random_below(&bench.rig.random, RIG_SLOT_BYTES);
		uint32_t slot;
		/* The header is a sixth of the slot, so half of all flips go there. */
		if (i % 2 == 0)
			at %= sizeof(struct slot_header);
		uint8_t *bytes = prepare(&bench, tier, key, &slot);
		uint8_t flip = (uint8_t)(1u << random_below(&bench.rig.random, 8));

		bytes[at] ^= flip;
		bool was_served = load_damaged(&bench, key);
		assert_int_equal(was_served, !is_read(tier, at));
		detected += !was_served;
		unread += was_served;
		/* A damaged slot is not used again until its extent is: give it back whole, as a
		 * new start would. */
		if (i % 100 == 99) {
			rig_stop(&bench.rig);
			rig_start(&bench.rig);
			bench.client = rig_register(&bench.rig, NULL);
			assert_int_equal(rig_forget(bench.client, bench.client->space), 0);
			rig_settle(&bench.rig);
		}
	}
	print_message("%u bits flipped: %u detected, %u where nobody reads\n", flips, detected,
		      unread);
	assert_true(detected > flips / 2);
	rig_settle(&bench.rig);
	rig_assert_idle(&bench.rig);
	rig_finish(&bench.rig);
}

static void every_flipped_bit_on_disk_that_is_read_is_detected(void **unused)
{
	(void)unused;
	flip_bits(TIER_NVME, FLIPS / 2);
}

static void every_flipped_bit_in_memory_that_is_read_is_detected(void **unused)
{
	(void)unused;
	flip_bits(TIER_CPU, FLIPS / 2);
}

static void a_damaged_slot_is_quarantined_and_the_other_tier_serves(void **unused)
{
	struct bench bench;
	uint32_t slot;

	(void)unused;
	bench_init(&bench);
	slot = rig_slot(bench.client, TIER_CPU, 0, 5);
	rig_slot_bytes(&bench.rig, TIER_CPU, slot)[SLOT_HEADER_BYTES + 100] ^= 4;
	assert_false(load_damaged(&bench, 5));
	assert_int_equal(cache_slot(bench.rig.daemon->cache, TIER_CPU, slot)->state, SLOT_BAD);
	assert_int_equal(bench.rig.daemon->counters.damaged[TIER_CPU], 1);
	assert_true(load_damaged(&bench, 5));
	assert_int_equal(rig_last.items[0].tier, TIER_NVME);
	slot = rig_slot(bench.client, TIER_NVME, 0, 6);
	rig_drop_cpu(bench.client, 0, 6, 1);
	rig_slot_bytes(&bench.rig, TIER_NVME, slot)[SLOT_HEADER_BYTES + 100] ^= 4;
	assert_false(load_damaged(&bench, 6));
	assert_int_equal(cache_slot(bench.rig.daemon->cache, TIER_NVME, slot)->state, SLOT_BAD);
	assert_int_equal(bench.rig.daemon->counters.damaged[TIER_NVME], 1);
	assert_int_equal(rig_store(bench.client,
				   &(struct rig_blocks){ .first = 6, .count = 1, .version = 9 }),
			 1);
	assert_true(load_damaged(&bench, 6));
	rig_finish(&bench.rig);
}

static void a_client_that_calls_good_slots_bad_is_not_believed(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench);
	for (unsigned i = 0; i < 3; i++) {
		struct rig_batch *batch = rig_load_begin(bench.client, &all);

		batch->is_lying = true;
		rig_batch_await(&bench.rig, batch);
		rig_settle(&bench.rig);
		assert_int_equal(rig_batch_count(batch, 0), BLOCKS);
		rig_batch_give(batch);
	}
	assert_int_equal(bench.rig.daemon->counters.damaged[TIER_CPU], 0);
	assert_int_equal(rig_figures(&bench.rig, 0, TIER_CPU).slots[SLOT_BAD], 0);
	assert_int_equal(rig_load(bench.client, &all), BLOCKS);
	rig_settle(&bench.rig);
	rig_assert_idle(&bench.rig);
	rig_finish(&bench.rig);
}

static void a_write_torn_at_any_page_is_detected(void **unused)
{
	struct bench bench;
	uint8_t image[RIG_SLOT_BYTES];

	(void)unused;
	bench_init(&bench);
	for (unsigned page = 0; page < RIG_SLOT_BYTES / RIG_PAGE_BYTES; page++) {
		uint32_t slot;
		uint8_t *bytes = prepare(&bench, TIER_NVME, 100 + page, &slot);
		uint8_t *other = rig_slot_bytes(&bench.rig, TIER_NVME,
						rig_slot(bench.client, TIER_NVME, 0, 1));

		/* The first pages new, the rest what lay there before: another block's. */
		memcpy(image, bytes, sizeof(image));
		memcpy(bytes + page * RIG_PAGE_BYTES, other + page * RIG_PAGE_BYTES,
		       RIG_SLOT_BYTES - page * RIG_PAGE_BYTES);
		assert_false(load_damaged(&bench, 100 + page));
	}
	rig_assert_idle(&bench.rig);
	rig_finish(&bench.rig);
}

static void swapped_slots_are_misses_in_both_tiers(void **unused)
{
	uint8_t image[RIG_SLOT_BYTES];

	(void)unused;
	for (enum tier_id tier = 0; tier < TIERS; tier++) {
		struct bench bench;
		uint8_t *slots[2];

		bench_init(&bench);
		if (tier == TIER_NVME)
			rig_drop_cpu(bench.client, 0, 1, BLOCKS);
		for (unsigned i = 0; i < 2; i++)
			slots[i] = rig_slot_bytes(&bench.rig, tier,
						  rig_slot(bench.client, tier, 0, 3 + i));
		memcpy(image, slots[0], RIG_SLOT_BYTES);
		memcpy(slots[0], slots[1], RIG_SLOT_BYTES);
		memcpy(slots[1], image, RIG_SLOT_BYTES);
		assert_false(load_damaged(&bench, 3));
		assert_false(load_damaged(&bench, 4));
		assert_true(load_damaged(&bench, 5));
		rig_assert_idle(&bench.rig);
		rig_finish(&bench.rig);
	}
}

/* The image of an earlier life of the same slot: the same key, place and space, another generation.
 */
static void a_stale_image_put_back_is_a_miss(void **unused)
{
	struct bench bench;
	uint8_t image[RIG_SLOT_BYTES];
	uint32_t slot, again = SLOT_NONE;

	(void)unused;
	bench_init(&bench);
	uint8_t *bytes = prepare(&bench, TIER_NVME, 1, &slot);
	memcpy(image, bytes, sizeof(image));
	assert_int_equal(rig_forget(bench.client, bench.client->space), 0);
	rig_settle(&bench.rig);
	for (uint64_t key = 1; again != slot && key < 500; key++) {
		/* The very key, until it lies where it lay. */
		struct rig_blocks one = { .first = 1, .count = 1, .version = 10 + key };
		struct rig_blocks other = { .first = 10000 + key, .count = 1, .version = 1 };

		assert_int_equal(rig_store(bench.client, &one), 1);
		rig_settle(&bench.rig);
		again = rig_slot(bench.client, TIER_NVME, 0, 1);
		if (again == slot)
			break;
		cache_entry_drop(bench.rig.daemon->cache, rig_entry(bench.client, 0, 1));
		assert_int_equal(rig_store(bench.client, &other), 1);
		rig_settle(&bench.rig);
	}
	assert_int_equal(again, slot);
	rig_drop_cpu(bench.client, 0, 1, 1);
	memcpy(rig_slot_bytes(&bench.rig, TIER_NVME, slot), image, sizeof(image));
	assert_false(load_damaged(&bench, 1));
	assert_true(bench.rig.daemon->counters.stale_entries > 0);
	rig_finish(&bench.rig);
}

static void damage_that_a_restart_finds_is_never_served(void **unused)
{
	(void)unused;
	for (unsigned round = 0; round < 20; round++) {
		struct bench bench;

		bench_init(&bench);
		for (unsigned i = 0; i < BLOCKS / 2; i++) {
			uint8_t *bytes = rig_slot_bytes(
				&bench.rig, TIER_NVME,
				rig_slot(bench.client, TIER_NVME, 0, 1 + 2 * i));

			bytes[random_below(&bench.rig.random, sizeof(struct slot_identity))] ^= 1;
		}
		rig_crash(&bench.rig, RIG_KILL);
		if (round % 2 == 0)
			catalog_simulated_replace(rig_catalog_path(&bench.rig));
		rig_start(&bench.rig);
		for (unsigned i = 0; i < 10; i++)
			rig_pass_time(&bench.rig, 100000);
		bench.client = rig_register(&bench.rig, NULL);
		assert_int_equal(rig_load(bench.client, &all), BLOCKS / 2);
		rig_settle(&bench.rig);
		rig_assert_idle(&bench.rig);
		rig_finish(&bench.rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_flipped_bit_on_disk_that_is_read_is_detected),
		cmocka_unit_test(every_flipped_bit_in_memory_that_is_read_is_detected),
		cmocka_unit_test(a_damaged_slot_is_quarantined_and_the_other_tier_serves),
		cmocka_unit_test(a_client_that_calls_good_slots_bad_is_not_believed),
		cmocka_unit_test(a_write_torn_at_any_page_is_detected),
		cmocka_unit_test(swapped_slots_are_misses_in_both_tiers),
		cmocka_unit_test(a_stale_image_put_back_is_a_miss),
		cmocka_unit_test(damage_that_a_restart_finds_is_never_served),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
