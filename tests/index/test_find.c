/* tests/index/test_find.c: searches for many keys at once, and when what they found may have
 * gone. */
#include "tests/index/rig.h"

#define BLOCKS 200u

/* Even numbers are stored; every third of them in cpu, the others in nvme. */
static bool is_in_cpu(uint64_t number)
{
	return number % 3 == 0;
}

static void blocks_store(struct rig *rig)
{
	for (uint64_t number = 2; number <= BLOCKS; number += 2) {
		uint32_t slot;

		assert_int_equal(rig_store(rig, number, 0), TIER_CPU);
		if (is_in_cpu(number))
			continue;
		assert_int_equal(cache_slot_take(rig->cache, rig_entry(rig, number), TIER_NVME, 0,
						 RIG_SLOT_BYTES, ENTRY_NONE, &slot, NULL),
				 0);
		assert_true(cache_slot_ready(rig->cache, TIER_NVME, slot));
		cache_slot_drop(rig->cache, TIER_CPU, rig_slot(rig, number, TIER_CPU));
	}
}

static void find_from(struct rig *rig, uint64_t first, unsigned count)
{
	uint8_t hashes[BLOCKS][BLOCK_HASH_BYTES], tiers[BLOCKS + 1];
	uint32_t entries[BLOCKS + 1], plain[BLOCKS + 1];
	struct cache_query query = {
		.space = rig->space,
		.hashes = (const uint8_t(*)[BLOCK_HASH_BYTES])hashes,
		.count = count,
	};

	for (unsigned i = 0; i < count; i++)
		memcpy(hashes[i], rig_key(first + i).hash, BLOCK_HASH_BYTES);
	entries[count] = plain[count] = 4711;
	tiers[count] = 47;
	cache_find_tiers(rig->cache, &query, entries, tiers);
	cache_find(rig->cache, &query, plain);
	for (unsigned i = 0; i < count; i++) {
		uint64_t number = first + i;
		bool is_there = number % 2 == 0;

		assert_int_equal(entries[i], is_there ? rig_entry(rig, number) : ENTRY_NONE);
		assert_int_equal(plain[i], entries[i]);
		assert_int_equal(tiers[i],
				 !is_there ? TIERS : is_in_cpu(number) ? TIER_CPU : TIER_NVME);
	}
	assert_int_equal(entries[count], 4711);
	assert_int_equal(plain[count], 4711);
	assert_int_equal(tiers[count], 47);
}

static void any_number_of_keys_is_found_each_in_its_place(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 1, BLOCKS);
	blocks_store(&rig);
	for (unsigned count = 0; count <= 140; count++)
		find_from(&rig, 1 + count % 7, count);
	rig_finish(&rig);
}

/* Runs `step` and says whether the index called it a change. */
static bool is_change(struct rig *rig, void (*step)(struct rig *rig))
{
	uint64_t before = cache_changes(rig->cache);

	step(rig);
	return cache_changes(rig->cache) != before;
}

static void step_touch(struct rig *rig)
{
	rig_touch(rig, 1);
}

static void step_hold(struct rig *rig)
{
	cache_slot_hold(rig->cache, TIER_CPU, rig_slot(rig, 1, TIER_CPU));
	cache_slot_release(rig->cache, TIER_CPU, rig_slot(rig, 1, TIER_CPU));
}

static void step_drop(struct rig *rig)
{
	cache_slot_drop(rig->cache, TIER_CPU, rig_slot(rig, 1, TIER_CPU));
}

static void step_store(struct rig *rig)
{
	rig_store(rig, 9, 0);
}

static void step_forget(struct rig *rig)
{
	uint32_t entry = rig_entry(rig, 2);

	cache_space_forget(rig->cache, rig->space, 1000);
	assert_true(cache_entry_is_forgotten(rig->cache, entry));
}

static void step_evict(struct rig *rig)
{
	for (uint64_t number = 20; rig_has(rig, 2); number++)
		rig_store(rig, number, 0);
}

static void whatever_ends_a_hit_is_a_change_and_a_touch_is_none(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 0, 4);
	rig_store(&rig, 1, 0);
	rig_store(&rig, 2, 0);
	assert_false(cache_entry_is_forgotten(rig.cache, rig_entry(&rig, 2)));
	assert_false(is_change(&rig, step_touch));
	assert_false(is_change(&rig, step_hold));
	assert_true(is_change(&rig, step_drop));
	assert_true(is_change(&rig, step_store));
	assert_true(is_change(&rig, step_evict));
	rig_finish(&rig);
	rig_init(&rig, 1, 0, 4);
	rig_store(&rig, 2, 0);
	assert_true(is_change(&rig, step_forget));
	assert_false(rig_has(&rig, 2));
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_number_of_keys_is_found_each_in_its_place),
		cmocka_unit_test(whatever_ends_a_hit_is_a_change_and_a_touch_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
