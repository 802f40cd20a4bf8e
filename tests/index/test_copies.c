/* tests/index/test_copies.c: copies of several shards, dirty victims, drops, quarantine,
 * forgetting, fences. */
#include "tests/index/rig.h"

#include <errno.h>

static void ready_shard(struct rig *rig, uint64_t number, unsigned shard, unsigned shards)
{
	uint32_t entry;

	assert_int_equal(rig_admit_shard(rig, number, 0, shard, shards, &entry), CACHE_ADMITTED);
	uint32_t slot = cache_copy_slot(rig->cache, entry, TIER_CPU, shard);
	assert_true(cache_slot_ready(rig->cache, TIER_CPU, slot));
	cache_check(rig->cache);
}

static uint32_t shard_slot(struct rig *rig, uint64_t number, unsigned shard)
{
	return cache_copy_slot(rig->cache, rig_entry(rig, number), TIER_CPU, shard);
}

/* A copy in nvme of a block that is in cpu. */
static uint32_t write_down(struct rig *rig, uint64_t number)
{
	uint32_t slot;

	assert_int_equal(cache_slot_take(rig->cache, rig_entry(rig, number), TIER_NVME, 0,
					 RIG_SLOT_BYTES, ENTRY_NONE, &slot, NULL),
			 0);
	assert_true(cache_slot_ready(rig->cache, TIER_NVME, slot));
	return slot;
}

static void a_block_is_found_once_all_shards_are_there(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 0, 8);
	ready_shard(&rig, 1, 2, 3);
	ready_shard(&rig, 1, 0, 3);
	assert_false(rig_has(&rig, 1));
	assert_int_equal(rig.copies_whole, 0);
	ready_shard(&rig, 1, 1, 3);
	assert_true(rig_has(&rig, 1));
	assert_int_equal(rig.copies_whole, 1);
	rig_finish(&rig);
}

static void an_evicted_shard_takes_the_others_along(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 0, 4);
	for (unsigned shard = 0; shard < 2; shard++)
		ready_shard(&rig, 1, shard, 2);
	for (unsigned shard = 0; shard < 2; shard++)
		ready_shard(&rig, 2, shard, 2);
	rig_store(&rig, 3, 0);
	assert_false(rig_has(&rig, 1));
	assert_int_equal(rig_entry(&rig, 1), ENTRY_NONE);
	rig_store(&rig, 4, 0); /* the second shard's slot is free as well */
	assert_true(rig_has(&rig, 2));
	assert_int_equal(rig.slots_gone, 2);
	assert_int_equal(rig.copies_gone, 1);
	rig_finish(&rig);
}

static void one_held_shard_keeps_the_whole_copy(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 0, 3);
	for (unsigned shard = 0; shard < 2; shard++)
		ready_shard(&rig, 1, shard, 2);
	rig_store(&rig, 2, 0);
	cache_slot_hold(rig.cache, TIER_CPU, shard_slot(&rig, 1, 1));
	rig_store(&rig, 3, 0);
	assert_true(rig_has(&rig, 1) && !rig_has(&rig, 2));
	cache_slot_release(rig.cache, TIER_CPU, shard_slot(&rig, 1, 1));
	rig_finish(&rig);
}

static void a_store_of_what_is_there_or_under_way_is_told_so(void **unused)
{
	struct rig rig;
	uint32_t entry;

	(void)unused;
	rig_init(&rig, 1, 0, 4);
	assert_int_equal(rig_admit(&rig, 1, 0), CACHE_ADMITTED);
	assert_int_equal(rig_admit(&rig, 1, 0), CACHE_ATTACHED);
	assert_true(cache_slot_ready(rig.cache, TIER_CPU, rig_slot(&rig, 1, TIER_CPU)));
	assert_int_equal(rig_admit(&rig, 1, 0), CACHE_PRESENT);
	assert_int_equal(rig_admit(&rig, 3, 2), CACHE_REFUSED_PARENT);
	assert_int_equal(rig_admit_shard(&rig, 1, 0, 0, 2, &entry), CACHE_REFUSED_SIZE);
	assert_int_equal(rig_admit_shard(&rig, 5, 0, 3, 2, &entry), CACHE_REFUSED_SIZE);
	assert_int_equal(rig_admit_shard(&rig, 5, 0, 0, 65, &entry), CACHE_REFUSED_SIZE);
	rig_finish(&rig);
}

static void the_larger_tier_is_home_unless_it_takes_nothing_now(void **unused)
{
	struct rig rig;
	struct rig_key key = rig_key(2);
	struct cache_new block = {
		.shards_count = 1, .hash = key.hash, .epoch = 1, .slot_bytes = RIG_SLOT_BYTES
	};
	uint32_t entry;

	(void)unused;
	rig_init(&rig, 1, 2, 4);
	block.space = rig.space;
	assert_int_equal(rig_store(&rig, 1, 0), TIER_NVME);
	assert_int_equal(cache_admit(rig.cache, &block, &entry), CACHE_ADMITTED);
	assert_int_not_equal(cache_copy_slot(rig.cache, entry, TIER_CPU, 0), SLOT_NONE);
	rig_finish(&rig);
}

/* A READY slot of a shard in the other tier than its home. */
static void shard_lower(struct rig *rig, uint64_t number, unsigned shard)
{
	uint32_t slot;

	assert_int_equal(cache_slot_take(rig->cache, rig_entry(rig, number), TIER_NVME, shard,
					 RIG_SLOT_BYTES, ENTRY_NONE, &slot, NULL),
			 0);
	assert_true(cache_slot_ready(rig->cache, TIER_NVME, slot));
}

static void shards_store(struct rig *rig, uint64_t number, uint64_t parent, unsigned first)
{
	for (unsigned shard = first; shard < 2; shard++) {
		uint32_t entry;

		assert_int_equal(rig_admit_shard(rig, number, parent, shard, 2, &entry),
				 CACHE_ADMITTED);
		assert_true(cache_slot_ready(rig->cache, TIER_CPU,
					     cache_copy_slot(rig->cache, entry, TIER_CPU, shard)));
	}
}

/* Block 3's shard 1 went down and its slot in cpu to others; nvme is too small for the whole
 * chain. */
static void a_part_of_a_block_does_not_keep_the_block_from_the_larger_tier(void **unused)
{
	struct rig rig;
	uint32_t entry;

	(void)unused;
	rig_init(&rig, 2, 1, 4);
	shards_store(&rig, 1, 0, 0);
	shards_store(&rig, 2, 1, 0);
	shards_store(&rig, 3, 2, 1);
	shard_lower(&rig, 3, 1);
	cache_slot_drop(rig.cache, TIER_CPU,
			cache_copy_slot(rig.cache, rig_entry(&rig, 3), TIER_CPU, 1));
	shard_lower(&rig, 2, 0);
	shard_lower(&rig, 1, 0);
	shard_lower(&rig, 1, 1);
	assert_int_equal(rig_admit_shard(&rig, 3, 2, 0, 2, &entry), CACHE_ADMITTED);
	assert_true(cache_slot_ready(rig.cache, TIER_CPU,
				     cache_copy_slot(rig.cache, entry, TIER_CPU, 0)));
	assert_int_equal(cache_copy_slot(rig.cache, entry, TIER_NVME, 1), SLOT_NONE);
	shards_store(&rig, 3, 2, 1);
	assert_true(rig_has(&rig, 3));
	rig_finish(&rig);
}

static void a_dirty_victim_stays_readable_until_it_is_written_down(void **unused)
{
	struct rig rig;
	unsigned leaving;
	uint32_t slot;

	(void)unused;
	rig_init(&rig, 1, 3, 2);
	for (unsigned i = 1; i <= 3; i++)
		assert_int_equal(rig_store(&rig, i, 0), TIER_NVME);
	for (unsigned i = 1; i <= 2; i++) {
		assert_int_equal(cache_slot_take(rig.cache, rig_entry(&rig, i), TIER_CPU, 0,
						 RIG_SLOT_BYTES, ENTRY_NONE, &slot, &leaving),
				 0);
		assert_true(cache_slot_ready(rig.cache, TIER_CPU, slot));
		cache_slot_set_lower(rig.cache, slot, LOWER_PENDING);
	}
	assert_int_equal(cache_slot_take(rig.cache, rig_entry(&rig, 3), TIER_CPU, 0, RIG_SLOT_BYTES,
					 ENTRY_NONE, &slot, &leaving),
			 -EAGAIN);
	assert_int_equal(leaving, 2);
	assert_int_equal(rig.slots_leaving, 2);
	assert_int_equal(cache_slot(rig.cache, TIER_CPU, rig_slot(&rig, 1, TIER_CPU))->state,
			 SLOT_LEAVING);
	assert_int_equal(cache_entry_tier(rig.cache, rig_find(&rig, 1)), TIER_CPU);
	cache_slot_hold(rig.cache, TIER_CPU, rig_slot(&rig, 1, TIER_CPU));
	assert_int_equal(cache_slot(rig.cache, TIER_CPU, rig_slot(&rig, 1, TIER_CPU))->state,
			 SLOT_READY);
	cache_slot_set_lower(rig.cache, rig_slot(&rig, 1, TIER_CPU), LOWER_WRITTEN);
	cache_slot_set_lower(rig.cache, rig_slot(&rig, 2, TIER_CPU), LOWER_WRITTEN);
	assert_int_equal(cache_slot_take(rig.cache, rig_entry(&rig, 3), TIER_CPU, 0, RIG_SLOT_BYTES,
					 ENTRY_NONE, &slot, &leaving),
			 0);
	assert_int_equal(rig_slot(&rig, 2, TIER_CPU), SLOT_NONE); /* 1 was older, but is held */
	assert_int_equal(cache_slot_take(rig.cache, rig_entry(&rig, 3), TIER_CPU, 0, RIG_SLOT_BYTES,
					 ENTRY_NONE, &slot, NULL),
			 0); /* the same FILLING one again */
	assert_true(cache_slot_ready(rig.cache, TIER_CPU, slot));
	assert_int_equal(cache_slot_take(rig.cache, rig_entry(&rig, 3), TIER_CPU, 0, RIG_SLOT_BYTES,
					 ENTRY_NONE, &slot, NULL),
			 -EEXIST);
	cache_slot_release(rig.cache, TIER_CPU, rig_slot(&rig, 1, TIER_CPU));
	rig_finish(&rig);
}

static void a_clean_block_behind_a_dirty_one_goes_at_once(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 0, 2);
	rig_store(&rig, 1, 0);
	rig_store(&rig, 2, 0);
	cache_slot_set_lower(rig.cache, rig_slot(&rig, 1, TIER_CPU), LOWER_PENDING);
	rig_store(&rig, 3, 0);
	assert_true(rig_has(&rig, 1) && !rig_has(&rig, 2));
	rig_finish(&rig);
}

static void a_lost_lower_copy_is_not_written_a_second_time(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 1, 2);
	rig_store(&rig, 1, 0);
	uint32_t lower = write_down(&rig, 1);
	cache_slot_set_lower(rig.cache, rig_slot(&rig, 1, TIER_CPU), LOWER_WRITTEN);
	assert_int_equal(cache_slot(rig.cache, TIER_CPU, rig_slot(&rig, 1, TIER_CPU))->lower,
			 LOWER_WRITTEN);
	cache_slot_drop(rig.cache, TIER_NVME, lower);
	assert_int_equal(cache_slot(rig.cache, TIER_CPU, rig_slot(&rig, 1, TIER_CPU))->lower,
			 LOWER_NONE);
	assert_true(rig_has(&rig, 1));
	rig_finish(&rig);
}

static void a_dropped_block_is_a_miss_at_once_and_its_reader_keeps_the_bytes(void **unused)
{
	struct rig rig;
	struct slot_place before, now;

	(void)unused;
	rig_init(&rig, 1, 0, 2);
	rig_store(&rig, 1, 0);
	rig_store(&rig, 2, 0);
	uint32_t slot = rig_slot(&rig, 1, TIER_CPU);
	uint32_t generation = cache_slot(rig.cache, TIER_CPU, slot)->generation;
	cache_slot_hold(rig.cache, TIER_CPU, slot);
	cache_slot_place(rig.cache, TIER_CPU, slot, &before);
	cache_entry_drop(rig.cache, rig_entry(&rig, 1));
	assert_false(rig_has(&rig, 1));
	assert_int_equal(cache_entries_count(rig.cache), 1);
	rig_store(&rig, 1, 0); /* the key again: in another slot, for which 2 went */
	assert_int_not_equal(rig_slot(&rig, 1, TIER_CPU), slot);
	assert_int_equal(rig_admit(&rig, 9, 0), CACHE_ADMITTED);
	assert_true(cache_slot_is_current(rig.cache, TIER_CPU, slot, generation));
	cache_slot_place(rig.cache, TIER_CPU, slot, &now);
	assert_true(rig_same_place(&before, &now));
	cache_check(rig.cache);
	cache_slot_release(rig.cache, TIER_CPU, slot);
	assert_false(cache_slot_is_current(rig.cache, TIER_CPU, slot, generation));
	rig_finish(&rig);
}

static void a_block_dropped_while_it_is_filled_never_becomes_ready(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 0, 2);
	assert_int_equal(rig_admit(&rig, 1, 0), CACHE_ADMITTED);
	uint32_t slot = rig_slot(&rig, 1, TIER_CPU);
	cache_entry_drop(rig.cache, rig_entry(&rig, 1));
	assert_int_equal(cache_slot(rig.cache, TIER_CPU, slot)->state,
			 SLOT_FILLING); /* bytes may still arrive */
	assert_int_equal(rig_admit(&rig, 1, 0),
			 CACHE_ADMITTED); /* not attached to what was given up */
	assert_false(cache_slot_ready(rig.cache, TIER_CPU, slot));
	assert_int_equal(cache_slot(rig.cache, TIER_CPU, slot)->state, SLOT_FREE);
	assert_false(rig_has(&rig, 1));
	rig_finish(&rig);
}

static void a_failed_shard_leaves_another_ones_store_alone(void **unused)
{
	struct rig rig;
	uint32_t entry;

	(void)unused;
	rig_init(&rig, 1, 0, 4);
	ready_shard(&rig, 1, 0, 3);
	assert_int_equal(rig_admit_shard(&rig, 1, 0, 1, 3, &entry), CACHE_ADMITTED);
	assert_int_equal(rig_admit_shard(&rig, 1, 0, 2, 3, &entry), CACHE_ADMITTED);
	cache_slot_drop(rig.cache, TIER_CPU, shard_slot(&rig, 1, 1));
	assert_int_equal(shard_slot(&rig, 1, 0), SLOT_NONE);
	assert_int_equal(cache_slot(rig.cache, TIER_CPU, shard_slot(&rig, 1, 2))->state,
			 SLOT_FILLING);
	assert_true(cache_slot_ready(rig.cache, TIER_CPU, shard_slot(&rig, 1, 2)));
	assert_false(rig_has(&rig, 1));
	rig_finish(&rig);
}

static void a_quarantined_slot_is_not_used_again(void **unused)
{
	struct rig rig;
	struct cache_share_figures figures;

	(void)unused;
	rig_init(&rig, 1, 0, 2);
	rig_store(&rig, 1, 0);
	uint32_t bad = rig_slot(&rig, 1, TIER_CPU);
	cache_slot_hold(rig.cache, TIER_CPU, bad);
	cache_slot_quarantine(rig.cache, TIER_CPU, bad);
	assert_false(rig_has(&rig, 1));
	for (unsigned i = 2; i < 8; i++) {
		rig_store(&rig, i, 0);
		assert_int_not_equal(rig_slot(&rig, i, TIER_CPU), bad);
	}
	cache_slot_release(rig.cache, TIER_CPU, bad);
	assert_int_equal(cache_slot(rig.cache, TIER_CPU, bad)->state, SLOT_BAD);
	cache_share_figures(rig.cache, rig.tenant, TIER_CPU, &figures);
	assert_int_equal(figures.slots[SLOT_BAD], 1);
	assert_int_equal(figures.slots[SLOT_READY], 1);
	assert_int_equal(figures.bytes_ready, RIG_SLOT_BYTES);
	assert_int_equal(figures.copies_whole, 1);
	assert_int_equal(figures.holds, 0);
	rig_finish(&rig);
}

static void forgotten_blocks_are_misses_for_ever(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 0, 4); /* the rig stores in epoch 10 */
	rig_store(&rig, 1, 0);
	rig_store(&rig, 2, 1);
	assert_int_equal(rig_admit(&rig, 3, 0), CACHE_ADMITTED);
	uint32_t filling = rig_slot(&rig, 3, TIER_CPU);
	cache_space_forget(rig.cache, rig.space, 10);
	assert_true(rig_has(&rig, 1));
	cache_space_forget(rig.cache, rig.space, 11);
	cache_space_forget(rig.cache, rig.space, 5); /* floors never fall */
	assert_false(rig_has(&rig, 1));
	assert_int_equal(rig_entry(&rig, 1), ENTRY_NONE);
	assert_int_equal(rig_admit(&rig, 4, 0), CACHE_REFUSED_FULL); /* its job began before */
	assert_false(cache_slot_ready(rig.cache, TIER_CPU, filling));
	assert_int_equal(cache_entries_count(rig.cache), 2);
	assert_int_equal(cache_forgotten_sweep(rig.cache, 1), 1);
	while (cache_forgotten_sweep(rig.cache, 100) > 0)
		continue;
	assert_int_equal(cache_entries_count(rig.cache), 0);
	assert_int_equal(rig.copies_gone, 2);
	rig_finish(&rig);
}

static void a_tenants_floor_covers_all_its_spaces(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 0, 4);
	rig_store(&rig, 1, 0);
	cache_tenant_forget(rig.cache, rig.tenant, 11);
	assert_false(rig_has(&rig, 1));
	rig_finish(&rig);
}

static void an_early_shard_is_forgotten_with_the_later_one(void **unused)
{
	struct rig rig;
	struct rig_key key = rig_key(1);
	struct cache_new block = {
		.shards_count = 2, .hash = key.hash, .epoch = 12, .slot_bytes = RIG_SLOT_BYTES
	};
	uint32_t entry;

	(void)unused;
	rig_init(&rig, 1, 0, 4);
	block.space = rig.space;
	assert_int_equal(cache_admit(rig.cache, &block, &entry), CACHE_ADMITTED);
	block.shard = 1;
	block.epoch = 11; /* of a job that began before */
	assert_int_equal(cache_admit(rig.cache, &block, &entry), CACHE_ADMITTED);
	for (unsigned shard = 0; shard < 2; shard++)
		assert_true(cache_slot_ready(rig.cache, TIER_CPU,
					     cache_copy_slot(rig.cache, entry, TIER_CPU, shard)));
	assert_true(rig_has(&rig, 1));
	cache_space_forget(rig.cache, rig.space, 12);
	assert_false(rig_has(&rig, 1));
	rig_finish(&rig);
}

static void holds_stop_below_what_sixteen_bits_count(void **unused)
{
	struct rig rig;
	uint64_t lease;
	unsigned count;

	(void)unused;
	rig_init(&rig, 1, 0, 4);
	rig_store(&rig, 1, 0);
	uint32_t entry = rig_entry(&rig, 1), slot = rig_slot(&rig, 1, TIER_CPU);
	for (unsigned i = 0; i < 65000; i++)
		cache_slot_hold(rig.cache, TIER_CPU, slot);
	assert_int_equal(cache_lease_grant(rig.cache, rig.tenant, &entry, 1, 5, &lease, &count),
			 -EAGAIN);
	assert_int_equal(cache_leases_count(rig.cache, rig.tenant), 0);
	for (unsigned i = 0; i < 65000; i++)
		cache_slot_release(rig.cache, TIER_CPU, slot);
	rig_finish(&rig);
}

static void an_index_smaller_than_its_tiers_gives_up_the_coldest_block(void **unused)
{
	struct rig rig;
	struct cache_config config = rig_config(&rig);
	const uint8_t fingerprint[SPACE_ID_BYTES] = { 1 };
	const uint32_t units[TIERS] = { 1, 0 };
	struct error error;

	(void)unused;
	memset(&rig, 0, sizeof(rig));
	config.entries_max = 2;
	rig.area[TIER_NVME] = UINT32_MAX;
	assert_int_equal(cache_create(&rig.cache, &config, &error), 0);
	assert_int_equal(cache_area_add(rig.cache, TIER_CPU, 8 * RIG_SLOT_BYTES, units, 1,
					&rig.area[TIER_CPU]),
			 0);
	assert_int_equal(cache_tenant_add(rig.cache, rig.area, units, &rig.tenant), 0);
	assert_int_equal(cache_space_open(rig.cache, rig.tenant, fingerprint, &rig.space), 0);
	for (unsigned i = 1; i < 9; i++)
		rig_store(&rig, i, 0);
	assert_true(rig_has(&rig, 8) && rig_has(&rig, 7) && !rig_has(&rig, 6));
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_block_is_found_once_all_shards_are_there),
		cmocka_unit_test(an_evicted_shard_takes_the_others_along),
		cmocka_unit_test(one_held_shard_keeps_the_whole_copy),
		cmocka_unit_test(a_store_of_what_is_there_or_under_way_is_told_so),
		cmocka_unit_test(the_larger_tier_is_home_unless_it_takes_nothing_now),
		cmocka_unit_test(a_part_of_a_block_does_not_keep_the_block_from_the_larger_tier),
		cmocka_unit_test(a_dirty_victim_stays_readable_until_it_is_written_down),
		cmocka_unit_test(a_clean_block_behind_a_dirty_one_goes_at_once),
		cmocka_unit_test(a_lost_lower_copy_is_not_written_a_second_time),
		cmocka_unit_test(a_dropped_block_is_a_miss_at_once_and_its_reader_keeps_the_bytes),
		cmocka_unit_test(a_block_dropped_while_it_is_filled_never_becomes_ready),
		cmocka_unit_test(a_failed_shard_leaves_another_ones_store_alone),
		cmocka_unit_test(a_quarantined_slot_is_not_used_again),
		cmocka_unit_test(forgotten_blocks_are_misses_for_ever),
		cmocka_unit_test(a_tenants_floor_covers_all_its_spaces),
		cmocka_unit_test(an_early_shard_is_forgotten_with_the_later_one),
		cmocka_unit_test(holds_stop_below_what_sixteen_bits_count),
		cmocka_unit_test(an_index_smaller_than_its_tiers_gives_up_the_coldest_block),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
