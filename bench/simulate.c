/* bench/simulate.c: drives the daemon's index as its loop does, with moves that take no time. */
#include "bench/simulate.h"

#include "base/clock.h"
#include "bench/payload.h"
#include "index/cache.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOT_BYTES 8192u
#define SLOTS_ROUNDING 128u /* the index numbers slots in chunks */
#define ENTRIES_SPARE 1024u
#define PROGRESS_EACH 256u

_Static_assert(PAYLOAD_HASH_BYTES == BLOCK_HASH_BYTES, "a payload's hash is an engine's hash");

struct simulator {
	struct cache *cache;
	const struct trace *trace;
	struct simulation *result;
	uint32_t tenant, space;
	bool has_tier[TIERS];
	uint32_t entries_max;                /* of one request */
	uint8_t (*hashes)[BLOCK_HASH_BYTES]; /* of every unique block */
	uint8_t (*request_hashes)[BLOCK_HASH_BYTES];
	uint32_t *entries;
};

/* One area of exactly `blocks` slots: one extent of one class. */
static int tier_add(struct simulator *simulator, enum tier_id tier, uint64_t blocks,
		    uint32_t *out_area)
{
	uint32_t units = (uint32_t)blocks;

	*out_area = UINT32_MAX;
	simulator->has_tier[tier] = blocks > 0;
	if (blocks == 0)
		return 0;
	return cache_area_add(simulator->cache, tier, SLOT_BYTES, &units, 1, out_area);
}

static int tiers_add(struct simulator *simulator, const uint32_t blocks[TIERS])
{
	static const uint8_t fingerprint[SPACE_ID_BYTES] = { 1 };
	uint32_t areas[TIERS];
	int result = 0;

	for (unsigned tier = 0; tier < TIERS && result == 0; tier++)
		result = tier_add(simulator, (enum tier_id)tier, blocks[tier], &areas[tier]);
	if (result == 0)
		result = cache_tenant_add(simulator->cache, areas, blocks, &simulator->tenant);
	if (result == 0)
		result = cache_space_open(simulator->cache, simulator->tenant, fingerprint,
					  &simulator->space);
	for (unsigned tier = 0; tier < TIERS && result == 0; tier++) {
		struct cache_extent extent = { .tenant = simulator->tenant,
					       .units_count = blocks[tier],
					       .slot_bytes = SLOT_BYTES,
					       .generation = 1 };
		if (blocks[tier] > 0)
			result = cache_extent_restore(simulator->cache, areas[tier], &extent);
	}
	return result;
}

static int simulator_cache_create(struct simulator *simulator,
				  const struct simulation_options *options, struct error *error)
{
	uint32_t blocks[TIERS] = { [TIER_CPU] = (uint32_t)options->cpu_blocks,
				   [TIER_NVME] = (uint32_t)options->nvme_blocks };
	struct cache_config config = {
		.entries_max = blocks[TIER_CPU] + blocks[TIER_NVME] + ENTRIES_SPARE,
		.slots_max = { [TIER_CPU] = blocks[TIER_CPU] + SLOTS_ROUNDING,
			       [TIER_NVME] = blocks[TIER_NVME] + SLOTS_ROUNDING },
		.areas_max = TIERS,
		.tenants_max = 1,
		.spaces_max = 1,
		.leases_max = 1,
		.classes_max = 2 * TIERS,
		.lease_items_max = 1,
		.seed = 1,
	};

	int result = cache_create(&simulator->cache, &config, error);
	if (result < 0)
		return result;
	result = tiers_add(simulator, blocks);
	if (result < 0)
		return error_set(error, result, "no cache of %u cpu and %u nvme blocks: %s",
				 blocks[TIER_CPU], blocks[TIER_NVME], strerror(-result));
	return 0;
}

static int simulator_buffers_create(struct simulator *simulator, struct error *error)
{
	const struct trace *trace = simulator->trace;

	for (uint32_t i = 0; i < trace->requests_count; i++) {
		const struct trace_request *request = &trace->requests[i];
		uint32_t blocks = request->blocks_count + request->output_blocks_count;
		if (blocks > simulator->entries_max)
			simulator->entries_max = blocks;
	}
	uint64_t room = simulator->entries_max + 1ull;
	simulator->hashes = malloc((trace->unique_blocks + 1ull) * sizeof(*simulator->hashes));
	simulator->request_hashes = malloc(room * sizeof(*simulator->request_hashes));
	simulator->entries = malloc(room * sizeof(*simulator->entries));
	simulator->result->hits = calloc(trace->requests_count + 1ull, sizeof(uint32_t));
	if (simulator->hashes == NULL || simulator->request_hashes == NULL ||
	    simulator->entries == NULL || simulator->result->hits == NULL)
		return error_set(error, -ENOMEM, "no memory to simulate %u blocks",
				 trace->unique_blocks);
	for (uint32_t block = 0; block < trace->unique_blocks; block++)
		payload_hash(trace->identities[block], simulator->hashes[block]);
	return 0;
}

static void simulator_destroy(struct simulator *simulator)
{
	cache_destroy(simulator->cache);
	free(simulator->hashes);
	free(simulator->request_hashes);
	free(simulator->entries);
}

/* A place in `tier`, filled at once. False: nothing could go for it. */
static bool copy_make(struct simulator *simulator, uint32_t entry, enum tier_id tier)
{
	unsigned leaving = 0;
	uint32_t slot;

	if (cache_slot_take(simulator->cache, entry, tier, 0, SLOT_BYTES, ENTRY_NONE, &slot,
			    &leaving) < 0)
		return false;
	cache_slot_ready(simulator->cache, tier, slot);
	return true;
}

/* Everything below is written before the next request, so a cpu copy never waits for it. */
static void cpu_copy_clean(struct simulator *simulator, uint32_t entry)
{
	uint32_t slot = cache_copy_slot(simulator->cache, entry, TIER_CPU, 0);

	if (slot != SLOT_NONE && cache_copy_is_whole(simulator->cache, entry, TIER_NVME))
		cache_slot_set_lower(simulator->cache, slot, LOWER_WRITTEN);
}

static void hits_raise(struct simulator *simulator, uint32_t hits)
{
	if (!simulator->has_tier[TIER_CPU] || !simulator->has_tier[TIER_NVME])
		return;
	for (uint32_t i = 0; i < hits; i++) {
		uint32_t entry = simulator->entries[i];
		if (cache_copy_is_whole(simulator->cache, entry, TIER_CPU))
			continue;
		/* A request longer than the tier pushes its own head out: then nobody is there to
		 * raise. */
		if (!cache_copy_is_whole(simulator->cache, entry, TIER_NVME))
			continue;
		if (copy_make(simulator, entry, TIER_CPU)) {
			cpu_copy_clean(simulator, entry);
			simulator->result->promoted_blocks++;
		}
	}
}

/* Stores blocks[first..count), root first, until one is refused. */
static void blocks_store(struct simulator *simulator, uint32_t first, uint32_t count)
{
	struct cache_new block = {
		.space = simulator->space,
		.shards_count = 1,
		.parent_required = true,
		.tokens = simulator->trace->block_tokens,
		.slot_bytes = SLOT_BYTES,
		.lower_wanted = simulator->has_tier[TIER_NVME],
	};
	uint32_t entry;

	for (uint32_t i = first; i < count; i++) {
		block.hash = simulator->request_hashes[i];
		block.parent = i > 0 ? simulator->request_hashes[i - 1] : NULL;
		enum cache_admission admission = cache_admit(simulator->cache, &block, &entry);
		if (admission == CACHE_PRESENT)
			continue;
		if (admission != CACHE_ADMITTED) {
			simulator->result->refused_blocks += count - i;
			return;
		}
		simulator->result->stored_blocks++;
		for (unsigned tier = 0; tier < TIERS; tier++)
			if (simulator->has_tier[tier])
				(void)copy_make(simulator, entry, (enum tier_id)tier);
		cpu_copy_clean(simulator, entry);
	}
}

static void hits_count(struct simulator *simulator, const struct trace_request *request,
		       uint32_t hits)
{
	struct simulation *result = simulator->result;
	uint64_t before = 0;

	for (uint32_t i = 0; i < hits; i++) {
		uint64_t tokens = trace_hit_tokens(simulator->trace, request, i + 1ull);
		if (cache_entry_tier(simulator->cache, simulator->entries[i]) == TIER_CPU)
			result->hit_tokens_cpu += tokens - before;
		else
			result->hit_tokens_nvme += tokens - before;
		before = tokens;
	}
	result->hit_blocks += hits;
	result->hit_tokens += before;
}

static void request_run(struct simulator *simulator, uint32_t i)
{
	const struct trace_request *request = &simulator->trace->requests[i];
	const uint32_t *blocks = trace_blocks(simulator->trace, request);
	uint32_t count = request->blocks_count + request->output_blocks_count;
	uint32_t hits = 0;
	struct cache_query query = {
		.space = simulator->space,
		.hashes = (const uint8_t(*)[BLOCK_HASH_BYTES])simulator->request_hashes,
		.count = count
	};

	for (uint32_t block = 0; block < count; block++)
		memcpy(simulator->request_hashes[block], simulator->hashes[blocks[block]],
		       BLOCK_HASH_BYTES);
	cache_find(simulator->cache, &query, simulator->entries);
	while (hits < request->blocks_count && simulator->entries[hits] != ENTRY_NONE)
		hits++;
	hits_count(simulator, request, hits);
	simulator->result->hits[i] = hits;
	simulator->result->requests++;
	simulator->result->input_tokens += request->input_tokens;
	simulator->result->accesses += count;
	cache_touch(simulator->cache, simulator->entries, count);
	hits_raise(simulator, hits);
	blocks_store(simulator, hits, count);
}

static int options_check(const struct simulation_options *options, struct error *error)
{
	if (options->cpu_blocks == 0 && options->nvme_blocks == 0)
		return error_set(error, -EINVAL,
				 "a simulation needs --capacity-blocks, or --cpu-blocks and "
				 "--nvme-blocks");
	if (options->cpu_blocks > SIMULATION_CAPACITY_MAX ||
	    options->nvme_blocks > SIMULATION_CAPACITY_MAX)
		return error_set(error, -EINVAL, "a tier of more than %llu blocks",
				 (unsigned long long)SIMULATION_CAPACITY_MAX);
	return 0;
}

int simulation_run(struct simulation *simulation, const struct trace *trace,
		   const struct simulation_options *options, struct error *error)
{
	struct simulator simulator = { .trace = trace, .result = simulation };

	memset(simulation, 0, sizeof(*simulation));
	int result = options_check(options, error);
	if (result < 0)
		return result;
	result = simulator_buffers_create(&simulator, error);
	if (result == 0)
		result = simulator_cache_create(&simulator, options, error);
	uint64_t requests = trace->requests_count;
	if (options->requests_max != 0 && options->requests_max < requests)
		requests = options->requests_max;
	uint64_t start_us = clock_now_us(clock_real());
	for (uint32_t i = 0; result == 0 && i < requests; i++) {
		request_run(&simulator, i);
		if (options->progress != NULL && i % PROGRESS_EACH == 0)
			options->progress(i, requests);
	}
	simulation->seconds = (double)(clock_now_us(clock_real()) - start_us) / 1e6;
	simulator_destroy(&simulator);
	if (result < 0)
		simulation_finish(simulation);
	return result;
}

void simulation_finish(struct simulation *simulation)
{
	free(simulation->hits);
	simulation->hits = NULL;
}
