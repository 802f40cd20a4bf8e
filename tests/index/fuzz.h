/* tests/index/fuzz.h: the model beside the index in test_cache_fuzz.c: what its users may rely on.
 */
#ifndef KVTIER_TESTS_INDEX_FUZZ_H
#define KVTIER_TESTS_INDEX_FUZZ_H

#include "tests/index/rig.h"

#define PAGE_BYTES 4096u
#define UNIT_PAGES 16u
#define AREA_UNITS 24u
#define AREA_PAGES (AREA_UNITS * UNIT_PAGES)
#define AREAS 3u
#define KEYS 160u
#define SPACES 3u
#define USES_MAX 64u
#define LEASES_MAX 6u
#define STEPS 3000u

/* A slot that the model fills or holds. */
struct use {
	enum tier_id tier;
	uint32_t slot, generation, key;
	uint8_t shard;
	struct slot_place place;
};

struct model_lease {
	uint64_t handle, deadline_us;
};

struct fuzz {
	struct cache *cache;
	uint64_t random;
	uint32_t area[AREAS]; /* cpu of tenant 0, cpu of tenant 1, nvme of both */
	uint32_t tenant[2], space[SPACES], floor[SPACES];
	uint32_t pages[AREAS][AREA_PAGES]; /* key << 8 | shard + 1: whose bytes lie there */
	bool whole[KEYS][TIERS];           /* as the listener was told */
	uint32_t epoch_whole[KEYS];
	struct use filling[USES_MAX], held[USES_MAX];
	unsigned filling_count, held_count;
	struct model_lease leases[LEASES_MAX];
	unsigned leases_count;
	uint32_t epoch;
	uint64_t now_us;
	bool is_fenced;
	unsigned done[16]; /* how often each operation found something to do */
};

static inline uint64_t dice(struct fuzz *fuzz, uint64_t sides)
{
	fuzz->random ^= fuzz->random << 13;
	fuzz->random ^= fuzz->random >> 7;
	fuzz->random ^= fuzz->random << 17;
	return fuzz->random % sides;
}

/* A key is a number; everything else about it follows from that. Parents are in the same space. */
static inline uint32_t key_space(uint32_t key)
{
	return key % SPACES;
}

static inline unsigned key_shards(uint32_t key)
{
	static const unsigned shards[] = { 1, 1, 2, 3 };

	return shards[key / SPACES % 4];
}

static inline uint32_t key_slot_bytes(uint32_t key, unsigned shard)
{
	static const uint32_t pages[] = { 2, 3, 5, 20 };

	return pages[(key / 40 + (shard == 2)) % 4] * PAGE_BYTES;
}

static inline uint32_t hash_key(const uint8_t *hash)
{
	uint64_t number;

	memcpy(&number, hash, sizeof(number));
	return (uint32_t)number;
}

/* ---- what the index tells ---- */

static inline void heard_whole(void *owner, const struct entry *entry, enum tier_id tier)
{
	struct fuzz *fuzz = owner;
	uint32_t key = hash_key(entry->hash);

	assert_false(fuzz->whole[key][tier]);
	fuzz->whole[key][tier] = true;
	fuzz->epoch_whole[key] = entry->epoch;
}

static inline void heard_gone(void *owner, const struct entry *entry, enum tier_id tier)
{
	struct fuzz *fuzz = owner;
	uint32_t key = hash_key(entry->hash);

	assert_true(fuzz->whole[key][tier]);
	fuzz->whole[key][tier] = false;
}

static inline bool bytes_are(const struct fuzz *fuzz, const struct slot_place *place,
			     uint32_t stamp)
{
	uint64_t start = place->offset / PAGE_BYTES + (place->device == 1 ? AREA_PAGES / 2 : 0);

	for (uint64_t i = 0; i < place->slot_bytes / PAGE_BYTES; i++)
		if (fuzz->pages[place->area][start + i] != stamp)
			return false;
	return true;
}

static inline uint32_t stamp_of(uint32_t key, unsigned shard)
{
	return key << 8 | (shard + 1);
}

/* At this moment the bytes are still what they were said to be. */
static inline void heard_slot_gone(void *owner, const struct entry *entry, enum tier_id tier,
				   uint32_t slot, const struct slot_place *place)
{
	struct fuzz *fuzz = owner;
	unsigned shard = cache_slot(fuzz->cache, tier, slot)->shard;

	assert_true(bytes_are(fuzz, place, stamp_of(hash_key(entry->hash), shard)));
}

static inline void heard_leaving(void *owner, uint32_t slot)
{
	struct fuzz *fuzz = owner;

	assert_int_equal(cache_slot(fuzz->cache, TIER_CPU, slot)->lower, LOWER_PENDING);
}

/* ---- the rig ---- */

static inline void fuzz_space_open(struct fuzz *fuzz, unsigned i)
{
	const uint8_t fingerprint[SPACE_ID_BYTES] = { (uint8_t)(i + 1) };

	assert_int_equal(cache_space_open(fuzz->cache, fuzz->tenant[i == 2], fingerprint,
					  &fuzz->space[i]),
			 0);
}

static inline void fuzz_init(struct fuzz *fuzz, uint64_t seed)
{
	const uint32_t cpu_units = AREA_UNITS / 2;
	const uint32_t nvme_units[2] = { AREA_UNITS / 2, AREA_UNITS / 2 };
	struct cache_config config = {
		.entries_max = 120,
		.slots_max = { 64 * AREA_UNITS, 64 * AREA_UNITS },
		.areas_max = AREAS,
		.tenants_max = 2,
		.spaces_max = SPACES,
		.spaces_leaving_max = 4,
		.leases_max = 4,
		.classes_max = 12,
		.lease_items_max = 40,
		.seed = seed,
		.listener = { .copy_whole = heard_whole,
			      .copy_gone = heard_gone,
			      .slot_gone = heard_slot_gone,
			      .slot_leaving = heard_leaving,
			      .owner = fuzz },
	};

	memset(fuzz, 0, sizeof(*fuzz));
	fuzz->random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	fuzz->epoch = 1;
	assert_int_equal(cache_create(&fuzz->cache, &config, NULL), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(cache_area_add(fuzz->cache, TIER_CPU, UNIT_PAGES * PAGE_BYTES,
						&cpu_units, 1, &fuzz->area[i]),
				 0);
	assert_int_equal(cache_area_add(fuzz->cache, TIER_NVME, UNIT_PAGES * PAGE_BYTES, nvme_units,
					2, &fuzz->area[2]),
			 0);
	for (unsigned i = 0; i < 2; i++) {
		const uint32_t areas[TIERS] = { fuzz->area[i], fuzz->area[2] };
		const uint32_t units[TIERS] = { i == 0 ? cpu_units : 5, i == 0 ? 18 : 6 };
		assert_int_equal(cache_tenant_add(fuzz->cache, areas, units, &fuzz->tenant[i]), 0);
	}
	for (unsigned i = 0; i < SPACES; i++)
		fuzz_space_open(fuzz, i);
}

static inline uint32_t fuzz_find_any(struct fuzz *fuzz, uint32_t key)
{
	struct rig_key hash = rig_key(key);

	return cache_find_any(fuzz->cache, fuzz->space[key_space(key)], 0, hash.hash);
}

/* A random slot of a random key that can be read, or SLOT_NONE. */
static inline uint32_t fuzz_readable(struct fuzz *fuzz, enum tier_id *out_tier, uint32_t *out_key)
{
	for (unsigned i = 0; i < 20; i++) {
		uint32_t key = (uint32_t)dice(fuzz, KEYS);
		uint32_t entry = fuzz_find_any(fuzz, key);
		enum tier_id tier = (enum tier_id)dice(fuzz, TIERS);
		if (entry == ENTRY_NONE)
			continue;
		uint32_t slot = cache_copy_slot(fuzz->cache, entry, tier,
						(unsigned)dice(fuzz, key_shards(key)));
		if (slot == SLOT_NONE || cache_slot(fuzz->cache, tier, slot)->state == SLOT_FILLING)
			continue;
		*out_tier = tier;
		*out_key = key;
		return slot;
	}
	return SLOT_NONE;
}

static inline struct use use_of(struct fuzz *fuzz, enum tier_id tier, uint32_t slot, uint32_t key)
{
	const struct slot *seen = cache_slot(fuzz->cache, tier, slot);
	struct use use = { .tier = tier,
			   .slot = slot,
			   .key = key,
			   .generation = seen->generation,
			   .shard = seen->shard };

	cache_slot_place(fuzz->cache, tier, slot, &use.place);
	return use;
}

/* Bytes arrive: nobody who fills or reads another slot may see them. */
static inline void fuzz_fill(struct fuzz *fuzz, enum tier_id tier, uint32_t slot, uint32_t key)
{
	struct use use = use_of(fuzz, tier, slot, key);
	uint64_t start = use.place.offset / PAGE_BYTES +
			 (use.place.device == 1 ? AREA_PAGES / 2 : 0);

	assert_int_equal(cache_slot(fuzz->cache, tier, slot)->state, SLOT_FILLING);
	for (uint64_t i = 0; i < use.place.slot_bytes / PAGE_BYTES; i++)
		fuzz->pages[use.place.area][start + i] = stamp_of(key, use.shard);
	assert_true(fuzz->filling_count < USES_MAX);
	fuzz->filling[fuzz->filling_count++] = use;
}

static inline bool is_filling(const struct fuzz *fuzz, enum tier_id tier, uint32_t slot)
{
	for (unsigned i = 0; i < fuzz->filling_count; i++)
		if (fuzz->filling[i].tier == tier && fuzz->filling[i].slot == slot)
			return true;
	return false;
}

#endif
