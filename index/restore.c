/* index/restore.c: puts extents and slots back where they were before a restart. What it is told
 * comes from disk, so nothing of it is asserted. */
#include "index/cache_parts.h"

#include <errno.h>

int cache_extent_restore(struct cache *cache, uint32_t area_number,
			 const struct cache_extent *extent)
{
	if (area_number >= cache->areas_count)
		return -EINVAL;
	struct area *area = &cache->areas[area_number];
	uint64_t end = (uint64_t)extent->first_unit + extent->units_count;
	unsigned device = 0;
	struct class *class;

	if (extent->units_count == 0 || end > area->units_count || extent->slot_bytes == 0 ||
	    extent->slot_bytes > extent->units_count * area->unit_bytes)
		return -EINVAL;
	while (extent->first_unit >= area->device_first[device + 1])
		device++;
	if (end > area->device_first[device + 1] || area->is_fenced[device])
		return -EINVAL;
	/* Also of unknown tenants: a new extent must not be mistaken for theirs. */
	if (extent->generation >= area->generation_next && extent->generation < UINT32_MAX)
		area->generation_next = extent->generation + 1;
	if (extent->tenant >= cache->tenants_count)
		return extent->tenant == UINT32_MAX ? 0 : -EINVAL;
	struct share *share = &cache->tenants[extent->tenant].shares[area->tier];
	if (share->area != area ||
	    share->units_used + (uint64_t)extent->units_count > share->units_max)
		return -EDQUOT;
	for (uint64_t unit = extent->first_unit; unit < end; unit++)
		if (area->unit_extent[unit] != UNIT_NONE)
			return -EEXIST;
	uint64_t slots_count = extent->units_count * area->unit_bytes / extent->slot_bytes;
	if (!chunks_suffice(cache, area->tier, slots_count, 0))
		return -ENOSPC;
	int result = class_get(cache, extent->tenant, area->tier, extent->slot_bytes, &class);
	if (result < 0)
		return result;
	extent_assign(cache, class, extent->first_unit, extent->units_count);
	area->extents[extent->first_unit].generation = extent->generation;
	return 0;
}

unsigned cache_extents(const struct cache *cache, uint32_t area_number,
		       struct cache_extent *out_extents, unsigned extents_max)
{
	assert(area_number < cache->areas_count);
	const struct area *area = &cache->areas[area_number];
	unsigned count = 0;

	for (uint32_t unit = 0; unit < area->units_count && count < extents_max; unit++) {
		const struct extent *extent = &area->extents[unit];
		if (extent->class == NULL)
			continue;
		out_extents[count++] = (struct cache_extent){
			.tenant = extent->class->tenant,
			.first_unit = extent->first_unit,
			.units_count = extent->units_count,
			.slot_bytes = extent->class->slot_bytes,
			.generation = extent->generation,
		};
	}
	return count;
}

/* The slot that lies at this very place, or SLOT_NONE. */
static uint32_t slot_at_place(const struct cache *cache, const struct area *area,
			      const struct cache_restored *restored)
{
	if (restored->device >= area->devices_count || restored->slot_bytes == 0)
		return SLOT_NONE;
	uint64_t unit = restored->offset / area->unit_bytes + area->device_first[restored->device];
	if (unit >= area->device_first[restored->device + 1] ||
	    area->unit_extent[unit] == UNIT_NONE)
		return SLOT_NONE;
	const struct extent *extent = &area->extents[area->unit_extent[unit]];
	uint64_t start = (uint64_t)(extent->first_unit - area->device_first[restored->device]) *
			 area->unit_bytes;
	uint64_t inside = restored->offset - start;
	if (extent->class->slot_bytes != restored->slot_bytes ||
	    extent->generation != restored->extent_generation ||
	    inside % restored->slot_bytes != 0 ||
	    inside / restored->slot_bytes >= extent->slots_count)
		return SLOT_NONE;
	uint64_t ordinal = inside / restored->slot_bytes;
	const struct slot_table *table = &cache->tables[area->tier];
	uint32_t chunk = extent->first_chunk;
	while (table->chunks[chunk].first_ordinal + CHUNK_SLOTS <= ordinal)
		chunk = table->chunks[chunk].next;
	return chunk * CHUNK_SLOTS + (uint32_t)(ordinal - table->chunks[chunk].first_ordinal);
}

static bool restored_is_sane(const struct cache *cache, const struct area *area,
			     const struct cache_restored *restored, uint32_t slot)
{
	return cache_space_is_known(cache, restored->space) && restored->slot_generation != 0 &&
	       restored->shards_count > 0 && restored->shards_count <= CACHE_SHARDS_MAX &&
	       restored->shard < restored->shards_count &&
	       restored->epoch >= cache_floor(cache, restored->space) &&
	       slot_at(cache, area->tier, slot)->state == SLOT_FREE &&
	       !slot_extent(cache, area->tier, slot)->is_retired &&
	       slot_class(cache, area->tier, slot)->tenant == cache->spaces[restored->space].tenant;
}

/* A block of one shard that was stored again while the device of its other copy was away: the
 * header of only one of them has the entry's epoch, so only the newer is kept. */
static bool is_of_two_lives(const struct entry *seen, const struct cache_restored *restored)
{
	return seen->shards_count == 1 && seen->epoch != restored->epoch;
}

/* The entry of what is restored, or ENTRY_NONE if it may not have this shard, or none is left. */
static uint32_t restored_entry(struct cache *cache, enum tier_id tier,
			       const struct cache_restored *restored)
{
	uint32_t entry = table_find(cache, restored->space, restored->group, restored->hash);

	if (entry != ENTRY_NONE) {
		const struct entry *seen = &cache->entries[entry];
		bool is_of_two = is_of_two_lives(seen, restored);

		if (is_of_two && restored->epoch < seen->epoch)
			return ENTRY_NONE;
		if (is_of_two || entry_is_forgotten(cache, seen)) {
			cache_entry_drop(cache, entry);
			entry = ENTRY_NONE;
		}
	}
	if (entry != ENTRY_NONE) {
		struct entry *seen = &cache->entries[entry];
		if (seen->shards_count != restored->shards_count ||
		    cache_copy_slot(cache, entry, tier, restored->shard) != SLOT_NONE)
			return ENTRY_NONE;
		if (seen->epoch > restored->epoch)
			seen->epoch = restored->epoch; /* the oldest of its shards' epochs, as in
							  cache_admit() */
	} else {
		entry = entry_take(cache, restored->space, restored->group, restored->hash);
		if (entry == ENTRY_NONE)
			return ENTRY_NONE;
		struct entry *new = &cache->entries[entry];
		new->route_key = restored->route_key;
		new->tokens = restored->tokens;
		new->epoch = restored->epoch;
		new->shards_count = restored->shards_count;
	}
	/* Children may be restored before their parents; whichever comes second makes the link it
	 * can. */
	if (restored->parent != NULL && entry_parent(cache, entry) == ENTRY_NONE) {
		uint32_t parent = cache_find_any(cache, restored->space, restored->group,
						 restored->parent);
		if (parent != entry)
			entry_set_parent(cache, entry, parent);
	}
	return entry;
}

int cache_slot_restore(struct cache *cache, uint32_t area_number,
		       const struct cache_restored *restored, uint32_t *out_slot)
{
	if (area_number >= cache->areas_count)
		return -EINVAL;
	const struct area *area = &cache->areas[area_number];
	uint32_t slot = slot_at_place(cache, area, restored);
	if (slot == SLOT_NONE || !restored_is_sane(cache, area, restored, slot))
		return -ESTALE;
	uint32_t entry = restored_entry(cache, area->tier, restored);
	if (entry == ENTRY_NONE)
		return -ESTALE;
	struct slot *seen = slot_at(cache, area->tier, slot);
	free_list_remove(cache, area->tier, slot);
	slot_become(cache, area->tier, slot, SLOT_FILLING);
	seen->generation = restored->slot_generation;
	seen->shard = restored->shard & (CACHE_SHARDS_MAX - 1);
	order_add_coldest(cache, slot_class(cache, area->tier, slot), slot);
	copy_join(cache, entry, area->tier, slot);
	if (!cache_slot_ready(cache, area->tier, slot))
		return -ESTALE;
	*out_slot = slot;
	return 0;
}
