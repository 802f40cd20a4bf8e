/* bench/index_bench.c: the cost of cache_find() and cache_touch() in a large index. */
#include "bench/index_bench.h"

#include "base/clock.h"
#include "index/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BENCH_SLOT_BYTES 65536u
#define BENCH_UNIT_BYTES (UINT64_C(64) << 20)
#define BENCH_CHAIN_BLOCKS 64u
#define BENCH_ROUNDS 200u
#define BENCH_ENTRIES_MAX UINT64_C(200000000)
#define BENCH_KEYS_MAX (1u << 20)

struct bench {
	struct cache *cache;
	uint32_t space;
	uint64_t entries;
	unsigned keys;
	uint8_t (*hashes)[BLOCK_HASH_BYTES];
	uint32_t *found;
	uint64_t random;
};

static uint64_t spread(uint64_t number)
{
	number = (number ^ (number >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	number = (number ^ (number >> 27)) * UINT64_C(0x94d049bb133111eb);
	return number ^ (number >> 31);
}

static void block_hash(uint64_t number, uint8_t *out_hash)
{
	for (unsigned i = 0; i < 4; i++) {
		uint64_t word = spread(number * 4 + i + 1);
		memcpy(out_hash + 8 * i, &word, sizeof(word));
	}
}

static int bench_cache(struct bench *bench)
{
	uint64_t unit_slots = BENCH_UNIT_BYTES / BENCH_SLOT_BYTES;
	uint32_t units = (uint32_t)((bench->entries + unit_slots - 1) / unit_slots);
	uint32_t areas[TIERS] = { UINT32_MAX, UINT32_MAX };
	const uint32_t units_max[TIERS] = { units, units };
	const uint8_t fingerprint[SPACE_ID_BYTES] = { 1 };
	uint32_t tenant;
	struct cache_config config = {
		.entries_max = (uint32_t)bench->entries,
		.slots_max = { [TIER_CPU] = (uint32_t)(units * unit_slots) },
		.areas_max = 1,
		.tenants_max = 1,
		.spaces_max = 1,
		.classes_max = 1,
		.leases_max = 1,
		.lease_items_max = 1,
		.seed = 1,
	};

	int result = cache_create(&bench->cache, &config, NULL);
	if (result < 0)
		return result;
	result = cache_area_add(bench->cache, TIER_CPU, BENCH_UNIT_BYTES, &units, 1,
				&areas[TIER_CPU]);
	if (result < 0)
		return result;
	result = cache_tenant_add(bench->cache, areas, units_max, &tenant);
	if (result < 0)
		return result;
	return cache_space_open(bench->cache, tenant, fingerprint, &bench->space);
}

static int bench_fill(struct bench *bench)
{
	uint8_t hash[BLOCK_HASH_BYTES], parent[BLOCK_HASH_BYTES];

	for (uint64_t number = 0; number < bench->entries; number++) {
		struct cache_new block = {
			.space = bench->space,
			.shards_count = 1,
			.hash = hash,
			.parent = number % BENCH_CHAIN_BLOCKS == 0 ? NULL : parent,
			.tokens = 16,
			.slot_bytes = BENCH_SLOT_BYTES,
		};
		uint32_t entry;
		block_hash(number, hash);
		if (cache_admit(bench->cache, &block, &entry) != CACHE_ADMITTED)
			return -EIO;
		cache_slot_ready(bench->cache, TIER_CPU,
				 cache_copy_slot(bench->cache, entry, TIER_CPU, 0));
		memcpy(parent, hash, sizeof(parent));
	}
	return 0;
}

static uint64_t bench_pick(struct bench *bench)
{
	bench->random += UINT64_C(0x9e3779b97f4a7c15);
	return spread(bench->random) % bench->entries;
}

/* Nanoseconds a key; the keys are made outside what is measured. -EIO: a block was not found. */
static int bench_rounds(struct bench *bench, bool is_random, double *out_ns_key)
{
	struct cache_query query = {
		.space = bench->space,
		.hashes = (const uint8_t(*)[BLOCK_HASH_BYTES])bench->hashes,
		.count = bench->keys,
	};
	uint64_t spent_us = 0;

	for (unsigned round = 0; round < BENCH_ROUNDS; round++) {
		uint64_t number = 0;
		for (unsigned i = 0; i < bench->keys; i++) {
			bool is_start = is_random || i % BENCH_CHAIN_BLOCKS == 0;
			number = is_start ? bench_pick(bench) : number + 1;
			if (!is_random && is_start)
				number -= number % BENCH_CHAIN_BLOCKS;
			block_hash(number % bench->entries, bench->hashes[i]);
		}
		uint64_t start_us = clock_now_us(clock_real());
		cache_find(bench->cache, &query, bench->found);
		cache_touch(bench->cache, bench->found, bench->keys);
		spent_us += clock_now_us(clock_real()) - start_us;
		for (unsigned i = 0; i < bench->keys; i++)
			if (bench->found[i] == ENTRY_NONE)
				return -EIO;
	}
	*out_ns_key = (double)spent_us * 1000 / BENCH_ROUNDS / bench->keys;
	return 0;
}

static int bench_run(struct bench *bench, double *out_ns_key)
{
	double random_ns, chain_ns;

	int result = bench_cache(bench);
	if (result < 0)
		return result;
	result = bench_fill(bench);
	if (result < 0)
		return result;
	result = bench_rounds(bench, false, &chain_ns);
	if (result < 0)
		return result;
	result = bench_rounds(bench, true, &random_ns);
	if (result < 0)
		return result;
	*out_ns_key = random_ns > chain_ns ? random_ns : chain_ns;
	return 0;
}

int index_bench(uint64_t entries, unsigned keys, double *out_ns_key, double *out_bytes_block)
{
	if (entries == 0 || entries > BENCH_ENTRIES_MAX || keys == 0 || keys > BENCH_KEYS_MAX)
		return -EINVAL;
	struct bench bench = { .entries = entries, .keys = keys };
	int result = -ENOMEM;

	bench.hashes = malloc((size_t)keys * BLOCK_HASH_BYTES);
	bench.found = malloc(keys * sizeof(*bench.found));
	if (bench.hashes != NULL && bench.found != NULL)
		result = bench_run(&bench, out_ns_key);
	if (result == 0)
		*out_bytes_block = (double)cache_memory_bytes(bench.cache) / (double)entries;
	cache_destroy(bench.cache);
	free(bench.found);
	free(bench.hashes);
	return result;
}
