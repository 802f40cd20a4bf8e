/* tests/index/rig.h: a small cache, with keys made from numbers. For the tests of index/. */
#ifndef KVTIER_TESTS_INDEX_RIG_H
#define KVTIER_TESTS_INDEX_RIG_H

#include "index/cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#define RIG_SLOT_BYTES 8192u

struct rig {
	struct cache *cache;
	uint32_t tenant, space;
	uint32_t area[TIERS];
	unsigned copies_whole, copies_gone, slots_gone, slots_leaving, extents_changed;
};

struct rig_key {
	uint8_t hash[BLOCK_HASH_BYTES];
};

static inline struct rig_key rig_key(uint64_t number)
{
	struct rig_key key = { { 0 } };

	memcpy(key.hash, &number, sizeof(number));
	return key;
}

static inline void rig_copy_whole(void *owner, const struct entry *entry, enum tier_id tier)
{
	(void)entry, (void)tier;
	((struct rig *)owner)->copies_whole++;
}

static inline void rig_copy_gone(void *owner, const struct entry *entry, enum tier_id tier)
{
	(void)entry, (void)tier;
	((struct rig *)owner)->copies_gone++;
}

static inline void rig_slot_gone(void *owner, const struct entry *entry, enum tier_id tier,
				 uint32_t slot, const struct slot_place *place)
{
	(void)entry, (void)tier, (void)slot, (void)place;
	((struct rig *)owner)->slots_gone++;
}

static inline void rig_slot_leaving(void *owner, uint32_t slot)
{
	(void)slot;
	((struct rig *)owner)->slots_leaving++;
}

static inline void rig_extent_changed(void *owner, uint32_t area)
{
	(void)area;
	((struct rig *)owner)->extents_changed++;
}

static inline struct cache_config rig_config(struct rig *rig)
{
	return (struct cache_config){
		.entries_max = 4096,
		.slots_max = { 65536, 65536 },
		.areas_max = 4,
		.tenants_max = 4,
		.spaces_max = 8,
		.leases_max = 16,
		.classes_max = 16,
		.lease_items_max = 1024,
		.seed = 42,
		.listener = { .copy_whole = rig_copy_whole,
			      .copy_gone = rig_copy_gone,
			      .slot_gone = rig_slot_gone,
			      .slot_leaving = rig_slot_leaving,
			      .extent_changed = rig_extent_changed,
			      .owner = rig },
	};
}

/* One tenant with a cpu and an nvme area of so many units of `unit_slots` slots each; 0 units:
 * none. */
static inline void rig_init(struct rig *rig, uint32_t cpu_units, uint32_t nvme_units,
			    unsigned unit_slots)
{
	const uint8_t fingerprint[SPACE_ID_BYTES] = { 1 };
	const uint32_t units[TIERS] = { cpu_units, nvme_units };
	struct cache_config config = rig_config(rig);
	struct error error;

	memset(rig, 0, sizeof(*rig));
	assert_int_equal(cache_create(&rig->cache, &config, &error), 0);
	for (unsigned tier = 0; tier < TIERS; tier++) {
		rig->area[tier] = UINT32_MAX;
		if (units[tier] > 0)
			assert_int_equal(cache_area_add(rig->cache, tier,
							(uint64_t)unit_slots * RIG_SLOT_BYTES,
							&units[tier], 1, &rig->area[tier]),
					 0);
	}
	assert_int_equal(cache_tenant_add(rig->cache, rig->area, units, &rig->tenant), 0);
	assert_int_equal(cache_space_open(rig->cache, rig->tenant, fingerprint, &rig->space), 0);
}

static inline void rig_finish(struct rig *rig)
{
	cache_check(rig->cache);
	cache_destroy(rig->cache);
}

/* Admits block `number` behind `parent` (0: the first of its prefix). */
static inline enum cache_admission rig_admit_shard(struct rig *rig, uint64_t number,
						   uint64_t parent, unsigned shard, unsigned shards,
						   uint32_t *out_entry)
{
	struct rig_key key = rig_key(number);
	struct rig_key parent_key = rig_key(parent);
	struct cache_new block = {
		.space = rig->space,
		.shards_count = (uint8_t)shards,
		.shard = (uint8_t)shard,
		.parent_required = true,
		.hash = key.hash,
		.parent = parent == 0 ? NULL : parent_key.hash,
		.tokens = 16,
		.epoch = 10,
		.slot_bytes = RIG_SLOT_BYTES,
		.lower_wanted = true,
	};

	return cache_admit(rig->cache, &block, out_entry);
}

static inline enum cache_admission rig_admit(struct rig *rig, uint64_t number, uint64_t parent)
{
	uint32_t entry;

	return rig_admit_shard(rig, number, parent, 0, 1, &entry);
}

static inline uint32_t rig_entry(struct rig *rig, uint64_t number)
{
	struct rig_key key = rig_key(number);

	return cache_find_any(rig->cache, rig->space, 0, key.hash);
}

static inline uint32_t rig_slot(struct rig *rig, uint64_t number, enum tier_id tier)
{
	uint32_t entry = rig_entry(rig, number);

	return entry == ENTRY_NONE ? SLOT_NONE : cache_copy_slot(rig->cache, entry, tier, 0);
}

/* Admits and fills; the block is READY in its home tier, which is returned. */
static inline enum tier_id rig_store(struct rig *rig, uint64_t number, uint64_t parent)
{
	assert_int_equal(rig_admit(rig, number, parent), CACHE_ADMITTED);
	for (unsigned tier = 0; tier < TIERS; tier++) {
		uint32_t slot = rig_slot(rig, number, tier);
		if (slot == SLOT_NONE)
			continue;
		assert_true(cache_slot_ready(rig->cache, tier, slot));
		return tier;
	}
	fail();
	return TIERS;
}

/* The entry if a lookup would find it, else ENTRY_NONE. */
static inline uint32_t rig_find(struct rig *rig, uint64_t number)
{
	struct rig_key key = rig_key(number);
	struct cache_query query = { .space = rig->space, .hashes = &key.hash, .count = 1 };
	uint32_t entry;

	cache_find(rig->cache, &query, &entry);
	return entry;
}

static inline bool rig_has(struct rig *rig, uint64_t number)
{
	return rig_find(rig, number) != ENTRY_NONE;
}

static inline bool rig_same_place(const struct slot_place *one, const struct slot_place *other)
{
	return one->area == other->area && one->device == other->device &&
	       one->offset == other->offset && one->slot_bytes == other->slot_bytes &&
	       one->extent_generation == other->extent_generation &&
	       one->slot_generation == other->slot_generation;
}

static inline void rig_touch(struct rig *rig, uint64_t number)
{
	uint32_t entry = rig_find(rig, number);

	assert_int_not_equal(entry, ENTRY_NONE);
	cache_touch(rig->cache, &entry, 1);
}

#endif
