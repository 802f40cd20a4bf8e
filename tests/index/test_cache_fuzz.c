/*
 * tests/index/test_cache_fuzz.c: thousands of random operations from a seed, the whole index
 * checked after each, beside a model of what its users may rely on: what they fill stays theirs,
 * what they hold keeps its bytes, what is told of copies is what lookups find. KVTIER_SEED=n runs
 * that seed alone; KVTIER_SEEDS=n so many.
 */
#include "tests/index/fuzz.h"

#include <errno.h>
#include <stdlib.h>

/* ---- operations; each returns whether there was something to do ---- */

static bool do_admit(struct fuzz *fuzz)
{
	uint32_t key = (uint32_t)dice(fuzz, KEYS);
	struct rig_key hash = rig_key(key), parent = rig_key(key - SPACES);
	unsigned shard = (unsigned)dice(fuzz, key_shards(key));
	bool is_old = dice(fuzz, 8) == 0 && fuzz->epoch > 1;
	struct cache_new block = {
		.space = fuzz->space[key_space(key)],
		.shards_count = (uint8_t)key_shards(key),
		.shard = (uint8_t)shard,
		.parent_required = dice(fuzz, 4) == 0,
		.hash = hash.hash,
		.parent = key % 24 < SPACES ? NULL : parent.hash,
		.route_key = key,
		.tokens = 16,
		.epoch = fuzz->epoch - is_old,
		.slot_bytes = key_slot_bytes(key, shard),
		.lower_wanted = dice(fuzz, 4) != 0,
	};
	uint32_t entry;

	if (fuzz->filling_count == USES_MAX)
		return false;
	enum cache_admission admission = cache_admit(fuzz->cache, &block, &entry);
	if (admission > CACHE_ATTACHED)
		return false;
	assert_int_equal(entry, fuzz_find_any(fuzz, key));
	unsigned readable = 0, filling = 0;
	for (unsigned tier = 0; tier < TIERS; tier++) {
		uint32_t slot = cache_copy_slot(fuzz->cache, entry, tier, shard);
		if (slot == SLOT_NONE)
			continue;
		bool is_mine = cache_slot(fuzz->cache, tier, slot)->state == SLOT_FILLING;
		readable += !is_mine;
		filling += is_mine;
		if (admission == CACHE_ADMITTED)
			fuzz_fill(fuzz, tier, slot, key);
	}
	assert_int_equal(admission == CACHE_PRESENT, readable > 0);
	assert_true(admission == CACHE_PRESENT || filling == 1);
	return true;
}

static bool do_take(struct fuzz *fuzz)
{
	enum tier_id tier;
	uint32_t key, slot;
	unsigned leaving;
	uint32_t source = fuzz_readable(fuzz, &tier, &key);

	if (source == SLOT_NONE || fuzz->filling_count == USES_MAX)
		return false;
	unsigned shard = cache_slot(fuzz->cache, tier, source)->shard;
	tier = tier == TIER_CPU ? TIER_NVME : TIER_CPU;
	cache_slot_hold(fuzz->cache, tier == TIER_CPU ? TIER_NVME : TIER_CPU, source);
	int result = cache_slot_take(fuzz->cache, fuzz_find_any(fuzz, key), tier, shard,
				     key_slot_bytes(key, shard), ENTRY_NONE, &slot, &leaving);
	cache_slot_release(fuzz->cache, tier == TIER_CPU ? TIER_NVME : TIER_CPU, source);
	if (result == 0 && !is_filling(fuzz, tier, slot))
		fuzz_fill(fuzz, tier, slot, key);
	else if (result != 0)
		assert_true(result == -EAGAIN || result == -EEXIST || result == -ENOSPC);
	return result == 0;
}

static bool do_fill_end(struct fuzz *fuzz)
{
	if (fuzz->filling_count == 0)
		return false;
	unsigned i = (unsigned)dice(fuzz, fuzz->filling_count);
	struct use use = fuzz->filling[i];
	const struct slot *seen = cache_slot(fuzz->cache, use.tier, use.slot);
	uint64_t how = dice(fuzz, 20);

	fuzz->filling[i] = fuzz->filling[--fuzz->filling_count];
	assert_true(cache_slot_is_current(fuzz->cache, use.tier, use.slot, use.generation));
	assert_int_equal(seen->state, SLOT_FILLING);
	assert_true(bytes_are(fuzz, &use.place, stamp_of(use.key, use.shard)));
	if (how == 0)
		cache_slot_quarantine(fuzz->cache, use.tier, use.slot);
	else if (how == 1)
		cache_slot_drop(fuzz->cache, use.tier, use.slot);
	else if (cache_slot_ready(fuzz->cache, use.tier, use.slot))
		assert_int_equal(seen->state, SLOT_READY);
	else
		assert_false(
			cache_slot_is_current(fuzz->cache, use.tier, use.slot, use.generation));
	return true;
}

static bool do_hold(struct fuzz *fuzz)
{
	enum tier_id tier;
	uint32_t key;
	uint32_t slot = fuzz_readable(fuzz, &tier, &key);

	if (slot == SLOT_NONE || fuzz->held_count == 12)
		return false;
	cache_slot_hold(fuzz->cache, tier, slot);
	assert_int_equal(cache_slot(fuzz->cache, tier, slot)->state, SLOT_READY);
	fuzz->held[fuzz->held_count++] = use_of(fuzz, tier, slot, key);
	return true;
}

static bool do_release(struct fuzz *fuzz)
{
	if (fuzz->held_count == 0)
		return false;
	unsigned i = (unsigned)dice(fuzz, fuzz->held_count);
	struct use use = fuzz->held[i];

	fuzz->held[i] = fuzz->held[--fuzz->held_count];
	cache_slot_release(fuzz->cache, use.tier, use.slot);
	return true;
}

static bool do_damage(struct fuzz *fuzz)
{
	enum tier_id tier;
	uint32_t key;
	uint32_t slot = fuzz_readable(fuzz, &tier, &key);
	uint64_t how = dice(fuzz, 8);

	if (slot == SLOT_NONE)
		return false;
	if (how == 0) {
		cache_slot_quarantine(fuzz->cache, tier, slot);
	} else if (how < 4) {
		cache_entry_drop(fuzz->cache, fuzz_find_any(fuzz, key));
		assert_int_equal(fuzz_find_any(fuzz, key), ENTRY_NONE);
	} else {
		cache_slot_drop(fuzz->cache, tier, slot);
	}
	return true;
}

static bool do_lower(struct fuzz *fuzz)
{
	enum tier_id tier;
	uint32_t key;
	uint32_t slot = fuzz_readable(fuzz, &tier, &key);

	if (slot == SLOT_NONE || tier != TIER_CPU)
		return false;
	cache_slot_set_lower(fuzz->cache, slot, (enum slot_lower)dice(fuzz, 3));
	return true;
}

static bool do_touch(struct fuzz *fuzz)
{
	uint32_t entries[24];
	unsigned count = 0;
	uint32_t first = (uint32_t)dice(fuzz, KEYS);

	for (uint32_t key = first; key < KEYS && count < 24; key += SPACES)
		entries[count++] = fuzz_find_any(fuzz, key);
	if (dice(fuzz, 5) == 0)
		cache_demote_tail(fuzz->cache, entries, count);
	else
		cache_touch(fuzz->cache, entries, count);
	return count > 0;
}

static bool do_grant(struct fuzz *fuzz)
{
	uint32_t entries[16];
	uint32_t space = (uint32_t)dice(fuzz, SPACES);
	unsigned count = 0, granted;
	struct model_lease lease = { .deadline_us = fuzz->now_us + 1 + dice(fuzz, 100) };

	for (uint32_t key = space + SPACES * (uint32_t)dice(fuzz, 30); key < KEYS && count < 16;
	     key += SPACES)
		entries[count++] = fuzz_find_any(fuzz, key);
	if (fuzz->leases_count == LEASES_MAX)
		return false;
	int result = cache_lease_grant(fuzz->cache, fuzz->tenant[space == 2], entries, count,
				       lease.deadline_us, &lease.handle, &granted);
	assert_true(result == 0 || result == -EAGAIN || result == -EDQUOT);
	if (result != 0)
		return false;
	assert_true(granted <= count);
	fuzz->leases[fuzz->leases_count++] = lease;
	return true;
}

static bool do_lease_end(struct fuzz *fuzz)
{
	if (fuzz->leases_count == 0)
		return false;
	unsigned i = (unsigned)dice(fuzz, fuzz->leases_count);

	if (dice(fuzz, 3) != 0) {
		uint32_t entry = fuzz_find_any(fuzz, (uint32_t)dice(fuzz, KEYS));
		return entry != ENTRY_NONE &&
		       cache_lease_release_entry(fuzz->cache, fuzz->leases[i].handle, entry);
	}
	cache_lease_release(fuzz->cache, fuzz->leases[i].handle);
	assert_false(cache_lease_is_live(fuzz->cache, fuzz->leases[i].handle));
	cache_lease_release(fuzz->cache, fuzz->leases[i].handle);
	fuzz->leases[i] = fuzz->leases[--fuzz->leases_count];
	return true;
}

static bool do_expire(struct fuzz *fuzz)
{
	unsigned due = 0;

	fuzz->now_us += dice(fuzz, 30);
	for (unsigned i = fuzz->leases_count; i-- > 0;) {
		assert_true(cache_lease_is_live(fuzz->cache, fuzz->leases[i].handle));
		if (fuzz->leases[i].deadline_us > fuzz->now_us)
			continue;
		due++;
		fuzz->leases[i] = fuzz->leases[--fuzz->leases_count];
	}
	assert_int_equal(cache_lease_expire(fuzz->cache, fuzz->now_us), due);
	return due > 0;
}

static bool do_forget(struct fuzz *fuzz)
{
	uint32_t space = (uint32_t)dice(fuzz, SPACES);

	if (dice(fuzz, 20) != 0)
		return cache_forgotten_sweep(fuzz->cache, 1 + (unsigned)dice(fuzz, 8)) > 0;
	fuzz->epoch++;
	fuzz->floor[space] = fuzz->epoch;
	if (space == 2)
		cache_tenant_forget(fuzz->cache, fuzz->tenant[1], fuzz->epoch);
	else
		cache_space_forget(fuzz->cache, fuzz->space[space], fuzz->epoch);
	return true;
}

/* A space goes while its slots are held and filled, and one of the same name comes. */
static bool do_give_back(struct fuzz *fuzz)
{
	if (dice(fuzz, 10) != 0)
		return false;
	int result = cache_space_give_back(fuzz->cache, fuzz->tenant[dice(fuzz, 2)]);
	assert_true(result == 0 || result == -ENOENT || result == -EAGAIN);
	if (result != 0)
		return false;
	cache_check(fuzz->cache);
	while (cache_forgotten_sweep(fuzz->cache, 1 + (unsigned)dice(fuzz, 8)) > 0)
		cache_check(fuzz->cache);
	for (unsigned i = 0; i < SPACES; i++) {
		uint32_t before = fuzz->space[i];
		if (cache_space_is_known(fuzz->cache, before))
			continue;
		for (uint32_t key = i; key < KEYS; key += SPACES)
			assert_false(fuzz->whole[key][TIER_CPU] || fuzz->whole[key][TIER_NVME]);
		fuzz_space_open(fuzz, i);
		cache_space_forget(fuzz->cache, fuzz->space[i], fuzz->floor[i]);
	}
	return true;
}

static bool do_fence(struct fuzz *fuzz)
{
	if (fuzz->is_fenced || dice(fuzz, 60) != 0)
		return false;
	cache_device_fence(fuzz->cache, fuzz->area[2], (uint32_t)dice(fuzz, 2));
	fuzz->is_fenced = true;
	return true;
}

/* ---- what must be true after each operation ---- */

static void fuzz_check(struct fuzz *fuzz)
{
	uint64_t copies[2] = { 0 }, told[2] = { 0 };

	cache_check(fuzz->cache);
	for (unsigned i = 0; i < fuzz->held_count; i++) {
		const struct use *use = &fuzz->held[i];
		struct use now = use_of(fuzz, use->tier, use->slot, use->key);
		assert_true(
			cache_slot_is_current(fuzz->cache, use->tier, use->slot, use->generation));
		assert_true(rig_same_place(&now.place, &use->place));
		assert_true(bytes_are(fuzz, &use->place, stamp_of(use->key, use->shard)));
	}
	for (uint32_t key = 0; key < KEYS; key++) {
		struct rig_key hash = rig_key(key);
		uint32_t space = key_space(key), entry;
		struct cache_query query = { .space = fuzz->space[space],
					     .hashes = &hash.hash,
					     .count = 1 };
		bool is_told = fuzz->whole[key][TIER_CPU] || fuzz->whole[key][TIER_NVME];
		cache_find(fuzz->cache, &query, &entry);
		if (entry != ENTRY_NONE) {
			assert_true(is_told);
			assert_true(cache_entry(fuzz->cache, entry)->epoch >= fuzz->floor[space]);
			for (unsigned tier = 0; tier < TIERS; tier++)
				assert_int_equal(cache_copy_is_whole(fuzz->cache, entry, tier),
						 fuzz->whole[key][tier]);
		} else if (is_told) {
			assert_true(fuzz->epoch_whole[key] < fuzz->floor[space]);
		}
		for (unsigned tier = 0; tier < TIERS; tier++)
			told[tier] += fuzz->whole[key][tier];
	}
	for (unsigned tier = 0; tier < TIERS; tier++) {
		for (unsigned i = 0; i < 2; i++) {
			struct cache_share_figures figures;
			cache_share_figures(fuzz->cache, fuzz->tenant[i], tier, &figures);
			copies[tier] += figures.copies_whole;
		}
		assert_int_equal(copies[tier], told[tier]);
	}
}

#define OPERATIONS 14u

static void fuzz_step(struct fuzz *fuzz)
{
	static bool (*const operations[])(struct fuzz *) = {
		do_admit, do_take,  do_fill_end,  do_hold,   do_release, do_damage, do_lower,
		do_touch, do_grant, do_lease_end, do_expire, do_forget,  do_fence,
		do_give_back,
	};
	static const unsigned weights[] = { 30, 10, 34, 5, 5, 2, 10, 8, 4, 4, 3, 3, 1, 3 };
	unsigned total = 0;

	for (unsigned i = 0; i < OPERATIONS; i++)
		total += weights[i];
	uint64_t chosen = dice(fuzz, total);
	unsigned operation = 0;
	while (chosen >= weights[operation])
		chosen -= weights[operation++];
	fuzz->done[operation] += operations[operation](fuzz);
	fuzz_check(fuzz);
}

/* ---- a restart: extents and slots are told to a new cache, which must find the same ---- */

static void restart_slots(struct fuzz *fuzz, struct fuzz *next_life)
{
	struct cache *next = next_life->cache;

	for (uint32_t key = 0; key < KEYS; key++) {
		uint32_t entry = fuzz_find_any(fuzz, key);
		for (unsigned tier = 0; entry != ENTRY_NONE && tier < TIERS; tier++) {
			for (unsigned shard = 0; shard < key_shards(key); shard++) {
				struct rig_key hash = rig_key(key);
				uint32_t slot = cache_copy_slot(fuzz->cache, entry, tier, shard),
					 restored_slot;
				if (slot == SLOT_NONE ||
				    cache_slot(fuzz->cache, tier, slot)->state == SLOT_FILLING)
					continue;
				struct use use = use_of(fuzz, tier, slot, key);
				struct cache_restored restored = {
					.device = use.place.device,
					.offset = use.place.offset,
					.slot_bytes = use.place.slot_bytes,
					.extent_generation = use.place.extent_generation,
					.slot_generation = use.place.slot_generation,
					.space = next_life->space[key_space(key)],
					.epoch = fuzz->epoch,
					.tokens = 16,
					.shard = (uint8_t)shard,
					.shards_count = (uint8_t)key_shards(key),
					.hash = hash.hash,
				};
				assert_int_equal(cache_slot_restore(next, use.place.area, &restored,
								    &restored_slot),
						 0);
				assert_int_equal(cache_slot_restore(next, use.place.area, &restored,
								    &restored_slot),
						 -ESTALE);
				restored.extent_generation++;
				assert_int_equal(cache_slot_restore(next, use.place.area, &restored,
								    &restored_slot),
						 -ESTALE);
			}
		}
	}
}

static void fuzz_restart(struct fuzz *fuzz)
{
	struct fuzz *next = malloc(sizeof(*next));
	struct cache_extent extents[AREA_UNITS];

	assert_non_null(next);
	fuzz_init(next, 1);
	for (unsigned i = 0; i < AREAS; i++) {
		unsigned count = cache_extents(fuzz->cache, fuzz->area[i], extents, AREA_UNITS);
		for (unsigned j = 0; j < count; j++) {
			assert_int_equal(
				cache_extent_restore(next->cache, fuzz->area[i], &extents[j]), 0);
			/* A second one on the same units, or beyond the share, is refused. */
			assert_int_not_equal(
				cache_extent_restore(next->cache, fuzz->area[i], &extents[j]), 0);
		}
	}
	restart_slots(fuzz, next);
	cache_check(next->cache);
	for (uint32_t key = 0; key < KEYS; key++) {
		uint32_t entry = fuzz_find_any(fuzz, key), again = fuzz_find_any(next, key);
		for (unsigned tier = 0; entry != ENTRY_NONE && tier < TIERS; tier++)
			if (cache_copy_is_whole(fuzz->cache, entry, tier))
				assert_true(cache_copy_is_whole(next->cache, again, tier));
	}
	cache_destroy(next->cache);
	free(next);
}

static void fuzz_run(uint64_t seed, unsigned *done)
{
	struct fuzz *fuzz = malloc(sizeof(*fuzz));

	assert_non_null(fuzz);
	print_message("KVTIER_SEED=%llu\n", (unsigned long long)seed);
	fuzz_init(fuzz, seed);
	for (unsigned step = 0; step < STEPS; step++)
		fuzz_step(fuzz);
	fuzz_restart(fuzz);
	while (do_fill_end(fuzz) || do_release(fuzz))
		fuzz_check(fuzz);
	fuzz->now_us += 1000;
	cache_lease_expire(fuzz->cache, fuzz->now_us);
	for (uint32_t key = 0; key < KEYS; key++)
		if (fuzz_find_any(fuzz, key) != ENTRY_NONE)
			cache_entry_drop(fuzz->cache, fuzz_find_any(fuzz, key));
	for (unsigned i = 0; i < 2; i++)
		cache_tenant_forget(fuzz->cache, fuzz->tenant[i], fuzz->epoch + 1);
	while (cache_forgotten_sweep(fuzz->cache, 1000) > 0)
		continue;
	cache_check(fuzz->cache);
	assert_int_equal(cache_entries_count(fuzz->cache), 0);
	for (unsigned i = 0; i < OPERATIONS; i++)
		done[i] += fuzz->done[i];
	cache_destroy(fuzz->cache);
	free(fuzz);
}

static void random_operations_never_break_a_promise(void **unused)
{
	const char *one = getenv("KVTIER_SEED");
	const char *many = getenv("KVTIER_SEEDS");
	uint64_t seeds = many != NULL ? strtoull(many, NULL, 10) : 12;
	unsigned done[OPERATIONS] = { 0 };

	(void)unused;
	if (one != NULL) {
		fuzz_run(strtoull(one, NULL, 10), done);
		return;
	}
	for (uint64_t seed = 1; seed <= seeds; seed++)
		fuzz_run(seed, done);
	for (unsigned i = 0; i < OPERATIONS; i++)
		assert_true(done[i] > 0); /* an operation that never happened tests nothing */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operations_never_break_a_promise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
