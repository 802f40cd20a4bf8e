/* index/cache.c: takes and gives back the cache's memory; tenants and figures. */
#include "index/cache_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE_BYTES (UINT64_C(2) << 20)
#define SMALL_PAGE_BYTES UINT64_C(4096)

/* Large arrays get whole huge pages: a lookup touches five random lines, and each would miss a 4
 * KiB TLB as well. */
static uint64_t pages_bytes(uint64_t bytes)
{
	uint64_t page = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : SMALL_PAGE_BYTES;

	return (bytes + page - 1) / page * page;
}

void *cache_pages_take(struct cache *cache, uint64_t bytes)
{
	uint64_t size = pages_bytes(bytes);
	bool is_huge = size >= HUGE_PAGE_BYTES;
	uint64_t mapped = is_huge ? size + HUGE_PAGE_BYTES : size;

	uint8_t *pages = mmap(NULL, mapped, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (pages == MAP_FAILED)
		return NULL;
	if (is_huge) {
		uint64_t head = -(uintptr_t)pages % HUGE_PAGE_BYTES;
		if (head > 0)
			munmap(pages, head);
		pages += head;
		munmap(pages + size, mapped - head - size);
		madvise(pages, size,
			MADV_HUGEPAGE); /* a wish: without huge pages it is only slower */
	}
	cache->memory_bytes += size;
	return pages;
}

void cache_pages_give(void *pages, uint64_t bytes)
{
	if (pages != NULL)
		munmap(pages, pages_bytes(bytes));
}

static int config_check(const struct cache_config *config, struct error *error)
{
	if (config->entries_max == 0 || config->entries_max > UINT32_MAX - 1)
		return error_set(error, -EINVAL, "entries_max %u: must be 1 to %u",
				 config->entries_max, UINT32_MAX - 1);
	for (unsigned tier = 0; tier < TIERS; tier++)
		if (config->slots_max[tier] > UINT32_MAX - 2 * CHUNK_SLOTS)
			return error_set(
				error, -EINVAL, "slots_max %u of tier %u: must be at most %u",
				config->slots_max[tier], tier, UINT32_MAX - 2 * CHUNK_SLOTS);
	if (config->spaces_max > UINT32_MAX / 2 || config->spaces_leaving_max > UINT32_MAX / 2)
		return error_set(error, -EINVAL,
				 "spaces_max %u, spaces_leaving_max %u: must be at most %u",
				 config->spaces_max, config->spaces_leaving_max, UINT32_MAX / 2);
	if (config->lease_items_max > UINT32_MAX - 1 || config->leases_max > UINT32_MAX - 1)
		return error_set(error, -EINVAL,
				 "leases_max %u, lease_items_max %llu: must be below %u",
				 config->leases_max, (unsigned long long)config->lease_items_max,
				 UINT32_MAX - 1);
	return 0;
}

/* An array that lives as long as the cache. */
static void *fixed_take(struct cache *cache, uint64_t count, uint64_t item_bytes)
{
	uint64_t bytes = (count > 0 ? count : 1) * item_bytes;
	void *start = cache_pages_take(cache, bytes);

	if (start == NULL) {
		cache->is_memory_short = true;
		return NULL;
	}
	assert(cache->fixed_count < FIXED_ARRAYS_MAX);
	cache->fixed[cache->fixed_count++] = (struct fixed_array){ .start = start, .bytes = bytes };
	return start;
}

static void slot_table_init(struct cache *cache, struct slot_table *table, uint32_t slots_max)
{
	table->chunks_count = (slots_max + CHUNK_SLOTS - 1) / CHUNK_SLOTS;
	table->chunk_free_first = CHUNK_NONE;
	uint64_t slots_count = (uint64_t)table->chunks_count * CHUNK_SLOTS;
	table->slots = fixed_take(cache, slots_count, sizeof(struct slot));
	table->chunks = fixed_take(cache, table->chunks_count, sizeof(struct chunk));
	if (cache->is_memory_short)
		return;
	for (uint32_t chunk = table->chunks_count; chunk-- > 0;) {
		table->chunks[chunk].next = table->chunk_free_first;
		table->chunk_free_first = chunk;
	}
	table->chunks_free = table->chunks_count;
}

static bool cache_parts_take(struct cache *cache)
{
	const struct cache_config *config = &cache->config;

	/* Half full at most: linear probing looks at 1.5 buckets for a hit then, and at 2.5 for a
	 * miss, so that it seldom leaves the first line. */
	cache->buckets_count = (uint64_t)config->entries_max * 2 + 2;
	/* Two more, which a prefetch may name. */
	cache->buckets = fixed_take(cache, cache->buckets_count + 2, sizeof(uint64_t));
	cache->entries = fixed_take(cache, config->entries_max, sizeof(struct entry));
	cache->colds = fixed_take(cache, config->entries_max, sizeof(struct entry_cold));
	cache->areas = fixed_take(cache, config->areas_max, sizeof(struct area));
	cache->tenants = fixed_take(cache, config->tenants_max, sizeof(struct tenant));
	cache->spaces = fixed_take(cache, (uint64_t)config->spaces_max + config->spaces_leaving_max,
				   sizeof(struct space));
	cache->classes = fixed_take(cache, config->classes_max, sizeof(struct class));
	cache->leases = fixed_take(cache, config->leases_max, sizeof(struct lease));
	cache->lease_heap = fixed_take(cache, config->leases_max, sizeof(uint32_t));
	cache->lease_items = fixed_take(cache, config->lease_items_max, sizeof(struct lease_item));
	for (unsigned tier = 0; tier < TIERS; tier++)
		slot_table_init(cache, &cache->tables[tier], config->slots_max[tier]);
	return !cache->is_memory_short;
}

/* splitmix64, as its author published it: spreads one seed over the secrets of the hash. */
static uint64_t seed_spread(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

int cache_create(struct cache **out_cache, const struct cache_config *config, struct error *error)
{
	int result = config_check(config, error);
	if (result < 0)
		return result;
	struct cache *cache = calloc(1, sizeof(*cache));
	if (cache == NULL)
		return error_set(error, -ENOMEM, "no memory for the index");
	cache->config = *config;
	uint64_t state = config->seed;
	for (unsigned i = 0; i < sizeof(cache->secrets) / sizeof(cache->secrets[0]); i++)
		cache->secrets[i] = seed_spread(&state);
	cache->entry_free_first = ENTRY_NONE;
	cache->lease_free_first = UINT32_MAX;
	cache->lease_item_free_first = UINT32_MAX;
	cache->memory_bytes = sizeof(*cache);
	if (!cache_parts_take(cache)) {
		result = error_set(error, -ENOMEM,
				   "no memory for an index of %u entries, %u cpu and %u nvme slots",
				   config->entries_max, config->slots_max[TIER_CPU],
				   config->slots_max[TIER_NVME]);
		cache_destroy(cache);
		return result;
	}
	*out_cache = cache;
	return 0;
}

void cache_destroy(struct cache *cache)
{
	if (cache == NULL)
		return;
	for (uint32_t i = 0; i < cache->areas_count; i++) {
		struct area *area = &cache->areas[i];
		cache_pages_give(area->unit_extent, area->units_count * sizeof(uint32_t));
		cache_pages_give(area->extents, area->units_count * sizeof(struct extent));
	}
	for (unsigned i = 0; i < cache->fixed_count; i++)
		cache_pages_give(cache->fixed[i].start, cache->fixed[i].bytes);
	free(cache);
}

uint64_t cache_memory_bytes(const struct cache *cache)
{
	return cache->memory_bytes;
}

/* ---- tenants ---- */

int cache_tenant_add(struct cache *cache, const uint32_t area[TIERS],
		     const uint32_t units_max[TIERS], uint32_t *out_tenant)
{
	if (cache->tenants_count == cache->config.tenants_max)
		return -ENOSPC;
	for (unsigned tier = 0; tier < TIERS; tier++)
		if (area[tier] != UINT32_MAX &&
		    (area[tier] >= cache->areas_count || cache->areas[area[tier]].tier != tier))
			return -EINVAL;
	struct tenant *tenant = &cache->tenants[cache->tenants_count];
	for (unsigned tier = 0; tier < TIERS; tier++) {
		struct share *share = &tenant->shares[tier];
		share->area = area[tier] == UINT32_MAX ? NULL : &cache->areas[area[tier]];
		share->units_max = share->area == NULL ? 0 : units_max[tier];
	}
	*out_tenant = cache->tenants_count++;
	return 0;
}

/* ---- figures ---- */

void cache_share_figures(const struct cache *cache, uint32_t tenant, enum tier_id tier,
			 struct cache_share_figures *out_figures)
{
	assert(tenant < cache->tenants_count);
	const struct share *share = &cache->tenants[tenant].shares[tier];
	struct cache_share_figures figures = {
		.units_used = share->units_used,
		.units_max = share->units_max,
		.copies_whole = share->copies_whole,
		.evictions = share->evictions,
		.extents_taken = share->extents_taken,
	};

	for (const struct class *class = share->classes; class != NULL; class = class->next) {
		for (unsigned state = 0; state < SLOT_STATES; state++)
			figures.slots[state] += class->slots[state];
		figures.bytes_ready += (class->slots[SLOT_READY] + class->slots[SLOT_LEAVING]) *
				       class->slot_bytes;
		figures.holds += class->slots_held;
	}
	*out_figures = figures;
}

uint64_t cache_changes(const struct cache *cache)
{
	return cache->changes;
}

uint32_t cache_entries_count(const struct cache *cache)
{
	return cache->entries_linked;
}
