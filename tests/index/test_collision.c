/* tests/index/test_collision.c: keys that the table's hash cannot tell apart (row 26). */
#include "tests/index/rig.h"

#include "index/cache_parts.h"

#define KEYS 300u
#define SPACES 2u

/* Without its secrets the hash is anybody's to aim with: a word of zero on each side makes the same
 * 32 bits of every key, in every space and group. */
static void secrets_lose(struct rig *rig)
{
	memset(rig->cache->secrets, 0, sizeof(rig->cache->secrets));
}

static void aimed_key(uint64_t number, uint8_t *out_hash)
{
	const uint64_t words[4] = { 0, number, 0, ~number };

	memcpy(out_hash, words, sizeof(words));
}

static uint32_t aimed_find(struct rig *rig, uint32_t space, uint64_t number)
{
	uint8_t hash[BLOCK_HASH_BYTES];

	aimed_key(number, hash);
	return cache_find_any(rig->cache, space, 0, hash);
}

static uint32_t aimed_store(struct rig *rig, uint32_t space, uint64_t number)
{
	uint8_t hash[BLOCK_HASH_BYTES];
	struct cache_new block = { .space = space, .shards_count = 1, .hash = hash, .tokens = 16,
				   .epoch = 10, .slot_bytes = RIG_SLOT_BYTES };
	uint32_t entry;

	aimed_key(number, hash);
	assert_int_equal(cache_admit(rig->cache, &block, &entry), CACHE_ADMITTED);
	assert_true(cache_slot_ready(rig->cache, TIER_CPU,
				     cache_copy_slot(rig->cache, entry, TIER_CPU, 0)));
	return entry;
}

static void all_share_one_tag(const struct rig *rig)
{
	uint64_t tags = 0, used = 0;

	for (uint64_t bucket = 0; bucket < rig->cache->buckets_count; bucket++) {
		used += rig->cache->buckets[bucket] != 0;
		tags |= rig->cache->buckets[bucket] >> 32;
	}
	assert_int_equal(tags, 0);
	assert_int_equal(used, KEYS * SPACES);
}

static void keys_of_one_table_hash_never_stand_for_each_other(void **unused)
{
	const uint8_t fingerprint[SPACE_ID_BYTES] = { 2 };
	uint32_t spaces[SPACES], entries[SPACES][KEYS];
	struct rig rig;

	(void)unused;
	rig_init(&rig, 128, 0, 16);
	secrets_lose(&rig);
	spaces[0] = rig.space;
	assert_int_equal(cache_space_open(rig.cache, rig.tenant, fingerprint, &spaces[1]), 0);
	for (unsigned n = 0; n < KEYS; n++)
		for (unsigned s = 0; s < SPACES; s++) {
			/* Not found before it is stored, though as many of its hash are there. */
			assert_int_equal(aimed_find(&rig, spaces[s], n), ENTRY_NONE);
			entries[s][n] = aimed_store(&rig, spaces[s], n);
		}
	all_share_one_tag(&rig);
	for (unsigned n = 0; n < KEYS; n++)
		for (unsigned s = 0; s < SPACES; s++)
			assert_int_equal(aimed_find(&rig, spaces[s], n), entries[s][n]);
	/* Half go; nobody inherits their place. */
	for (unsigned n = 0; n < KEYS; n += 2)
		cache_slot_drop(rig.cache, TIER_CPU,
				cache_copy_slot(rig.cache, entries[0][n], TIER_CPU, 0));
	for (unsigned n = 0; n < KEYS; n++) {
		assert_int_equal(aimed_find(&rig, spaces[0], n),
				 n % 2 == 0 ? ENTRY_NONE : entries[0][n]);
		assert_int_equal(aimed_find(&rig, spaces[1], n), entries[1][n]);
	}
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keys_of_one_table_hash_never_stand_for_each_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
