/* index/check.c: walks the whole index and asserts what its headers promise. Slow; for tests and
 * `kvtier verify`. */
#include "index/cache_parts.h"

struct tally {
	uint64_t slots[SLOT_STATES];
	uint64_t slots_count, listed, held, renewable, units, ordered;
};

static void check_slot(const struct cache *cache, enum tier_id tier, uint32_t slot,
		       struct tally *tally)
{
	const struct slot *seen = slot_at(cache, tier, slot);

	assert(seen->state < SLOT_STATES && seen->generation != 0 && seen->lower <= LOWER_WRITTEN);
	tally->slots[seen->state]++;
	tally->slots_count++;
	tally->held += seen->holds > 0;
	if (seen->state == SLOT_FREE) {
		assert(seen->entry == ENTRY_NONE && seen->holds == 0 && seen->sibling == SLOT_NONE);
		tally->listed += !slot_extent(cache, tier, slot)->is_retired;
		return;
	}
	if (seen->state == SLOT_BAD) {
		assert(slot_is_orphan(seen));
		assert((seen->entry == ENTRY_NONE) == (seen->holds == 0));
		tally->renewable += seen->holds == 0;
		return;
	}
	assert(seen->entry < cache->entries_begun);
	const struct entry *entry = &cache->entries[seen->entry];
	assert((entry->flags & ENTRY_USED) != 0);
	if (slot_is_orphan(seen)) {
		assert(seen->holds > 0 || seen->state == SLOT_FILLING);
		return;
	}
	tally->ordered++;
	assert((entry->flags & ENTRY_LINKED) != 0 && seen->shard < entry->shards_count);
	assert(seen->state != SLOT_LEAVING ||
	       (tier == TIER_CPU && seen->lower == LOWER_PENDING && seen->holds == 0));
	assert(seen->lower != LOWER_WRITTEN || (entry->flags & ENTRY_WHOLE(TIER_NVME)) != 0 ||
	       tier != TIER_CPU);
	assert(!slot_extent(cache, tier, slot)->is_retired);
	assert(slot_class(cache, tier, slot)->tenant == cache->spaces[entry->space].tenant);
}

static void check_extent(const struct cache *cache, const struct area *area,
			 const struct extent *extent, struct tally *tally)
{
	const struct slot_table *table = &cache->tables[area->tier];
	uint32_t pins = 0, used = 0, slots = 0;

	assert(extent->area == area && extent->class->share->area == area &&
	       extent->units_count > 0);
	assert(extent->first_unit >= area->device_first[extent->device]);
	assert(extent->first_unit + extent->units_count <= area->device_first[extent->device + 1]);
	assert((uint64_t)extent->slots_count * extent->class->slot_bytes <=
	       extent->units_count * area->unit_bytes);
	assert(extent->is_retired == (area->is_fenced[extent->device]));
	for (uint32_t i = 0; i < extent->units_count; i++)
		assert(area->unit_extent[extent->first_unit + i] == extent->first_unit);
	for (uint32_t chunk = extent->first_chunk; chunk != CHUNK_NONE;
	     chunk = table->chunks[chunk].next) {
		assert(table->chunks[chunk].extent == extent);
		assert(table->chunks[chunk].first_ordinal == slots);
		for (uint32_t i = 0; i < CHUNK_SLOTS && slots < extent->slots_count; i++, slots++) {
			uint32_t slot = chunk * CHUNK_SLOTS + i;
			const struct slot *seen = &table->slots[slot];
			check_slot(cache, area->tier, slot, tally);
			used += seen->state != SLOT_FREE;
			pins += (seen->holds > 0) + (seen->state == SLOT_FILLING);
			assert(slot_is_orphan(seen) || seen->touched <= extent->last_touched);
		}
	}
	assert(slots == extent->slots_count && used == extent->slots_used && pins == extent->pins);
	assert(!extent->is_retired || pins > 0);
}

/* From cold to warm: the links agree, the ticks do not fall. */
static void check_order(const struct cache *cache, const struct class *class,
			const struct tally *tally)
{
	uint64_t touched = 0, count = 0;
	uint32_t colder = SLOT_NONE;

	for (uint32_t slot = class->coldest; slot != SLOT_NONE;
	     slot = slot_at(cache, class->tier, slot)->warmer) {
		const struct slot *seen = slot_at(cache, class->tier, slot);
		assert(slot_class(cache, class->tier, slot) == class && seen->colder == colder);
		assert(seen->touched >= touched && seen->touched <= cache->tick);
		touched = seen->touched;
		colder = slot;
		count++;
		assert(count <= class->slots_count);
	}
	assert(class->warmest == colder && count == tally->ordered);
}

static void check_class(const struct cache *cache, const struct class *class)
{
	const struct area *area = class->share->area;
	struct tally tally = { 0 };
	uint64_t listed = 0;

	for (uint32_t unit = 0; unit < area->units_count; unit++) {
		if (area->extents[unit].class != class)
			continue;
		check_extent(cache, area, &area->extents[unit], &tally);
		tally.units += area->extents[unit].units_count;
	}
	for (unsigned state = 0; state < SLOT_STATES; state++)
		assert(class->slots[state] == tally.slots[state]);
	assert(class->slots_count == tally.slots_count && class->units_count == tally.units);
	assert(class->slots_held == tally.held && class->slots_renewable == tally.renewable);
	check_order(cache, class, &tally);
	for (unsigned device = 0; device < CACHE_DEVICES_MAX; device++) {
		uint32_t before = SLOT_NONE;
		for (uint32_t slot = class->free_first[device]; slot != SLOT_NONE;) {
			const struct slot *seen = slot_at(cache, class->tier, slot);
			const struct extent *extent = slot_extent(cache, class->tier, slot);
			assert(seen->state == SLOT_FREE && extent->class == class &&
			       extent->device == device);
			assert(seen->warmer == before);
			before = slot;
			slot = seen->colder;
			listed++;
			assert(listed <= class->slots_count);
		}
	}
	assert(listed == tally.listed && listed == class->slots_listed);
}

static void check_areas(const struct cache *cache)
{
	uint64_t chunks_used[TIERS] = { 0 };

	for (uint32_t i = 0; i < cache->areas_count; i++) {
		const struct area *area = &cache->areas[i];
		uint32_t units_free = 0;
		for (uint32_t unit = 0; unit < area->units_count; unit++) {
			const struct extent *extent = &area->extents[unit];
			uint32_t first = area->unit_extent[unit];
			assert(first == UNIT_NONE || area->extents[first].class != NULL);
			assert(extent->class == NULL || first == unit);
			if (extent->class != NULL)
				chunks_used[area->tier] += (extent->slots_count + CHUNK_SLOTS - 1) /
							   CHUNK_SLOTS;
			unsigned device = 0;
			while (unit >= area->device_first[device + 1])
				device++;
			units_free += first == UNIT_NONE && !area->is_fenced[device];
			assert(first != UNIT_NONE || unit >= area->device_hint[device]);
		}
		assert(units_free == area->units_free);
	}
	for (unsigned tier = 0; tier < TIERS; tier++) {
		const struct slot_table *table = &cache->tables[tier];
		uint32_t chunks_free = 0;
		for (uint32_t chunk = table->chunk_free_first; chunk != CHUNK_NONE;
		     chunk = table->chunks[chunk].next) {
			assert(table->chunks[chunk].extent == NULL);
			chunks_free++;
			assert(chunks_free <= table->chunks_count);
		}
		assert(chunks_free == table->chunks_free);
		assert(chunks_free + chunks_used[tier] == table->chunks_count);
	}
}

/* Returns how many of the entry's copies are whole in `tier`: 0 or 1. */
static unsigned check_copy(const struct cache *cache, uint32_t number, enum tier_id tier)
{
	const struct entry *entry = &cache->entries[number];
	uint32_t first = entry->copy[tier];
	uint64_t shards = 0;
	unsigned readable = 0, count = 0;

	if (first == SLOT_NONE) {
		assert((entry->flags & ENTRY_WHOLE(tier)) == 0);
		return 0;
	}
	uint32_t slot = first;
	do {
		const struct slot *seen = slot_at(cache, tier, slot);
		assert(seen->entry == number && !slot_is_orphan(seen));
		assert(seen->state == SLOT_FILLING || slot_is_readable(seen));
		assert((shards >> seen->shard & 1) == 0); /* each shard once */
		shards |= UINT64_C(1) << seen->shard;
		readable += slot_is_readable(seen);
		count++;
		assert(count <= entry->shards_count);
		slot = seen->sibling;
	} while (slot != first);
	bool is_whole = readable == entry->shards_count;
	assert(((entry->flags & ENTRY_WHOLE(tier)) != 0) == is_whole);
	return is_whole;
}

static void check_entries(const struct cache *cache)
{
	uint32_t linked = 0, used = 0, unused = 0;

	for (uint32_t number = 0; number < cache->entries_begun; number++) {
		const struct entry *entry = &cache->entries[number];
		if ((entry->flags & ENTRY_USED) == 0)
			continue;
		bool has_slot = cache->colds[number].orphans > 0;
		assert(entry->space < cache->spaces_begun &&
		       cache->spaces[entry->space].state != SPACE_FREE);
		used++;
		for (unsigned tier = 0; tier < TIERS; tier++) {
			check_copy(cache, number, tier);
			has_slot = has_slot || entry->copy[tier] != SLOT_NONE;
		}
		assert(has_slot); /* an entry without any slot does not exist */
		if ((entry->flags & ENTRY_LINKED) == 0)
			continue;
		linked++;
		assert(table_find(cache, entry->space, entry->group, entry->hash) == number);
	}
	for (uint32_t number = cache->entry_free_first; number != ENTRY_NONE;
	     number = cache->colds[number].parent) {
		assert((cache->entries[number].flags & ENTRY_USED) == 0);
		unused++;
		assert(unused <= cache->entries_begun);
	}
	assert(linked == cache->entries_linked && used == cache->entries_used);
	assert(used + unused == cache->entries_begun);
	uint32_t buckets = 0;
	for (uint64_t i = 0; i < cache->buckets_count; i++)
		buckets += cache->buckets[i] != 0;
	assert(buckets == linked);
}

static void check_orphans(const struct cache *cache)
{
	uint64_t orphans = 0, counted = 0;

	for (unsigned tier = 0; tier < TIERS; tier++) {
		const struct slot_table *table = &cache->tables[tier];
		for (uint32_t slot = 0; slot < table->chunks_count * CHUNK_SLOTS; slot++) {
			const struct slot *seen = &table->slots[slot];
			bool is_real = table->chunks[slot / CHUNK_SLOTS].extent != NULL &&
				       seen->generation != 0;
			orphans += is_real && seen->state != SLOT_FREE && slot_is_orphan(seen) &&
				   seen->entry != ENTRY_NONE;
		}
	}
	for (uint32_t number = 0; number < cache->entries_begun; number++)
		if ((cache->entries[number].flags & ENTRY_USED) != 0)
			counted += cache->colds[number].orphans;
	assert(orphans == counted);
}

static void check_leases(const struct cache *cache)
{
	uint64_t items = 0;
	uint32_t live = 0;

	for (uint32_t number = 0; number < cache->leases_begun; number++) {
		const struct lease *lease = &cache->leases[number];
		if ((lease->generation & 1) == 0)
			continue;
		live++;
		assert(cache->lease_heap[lease->heap_place] == number &&
		       lease->heap_place < cache->leases_live);
		assert(lease->heap_place == 0 ||
		       cache->leases[cache->lease_heap[(lease->heap_place - 1) / 2]].deadline_us <=
			       lease->deadline_us);
		uint32_t last = UINT32_MAX;
		for (uint32_t item = lease->first; item != UINT32_MAX;
		     item = cache->lease_items[item].next) {
			const struct lease_item *held = &cache->lease_items[item];
			const struct slot *slot = slot_at(cache, held->tier, held->slot);
			assert(slot->holds > 0 && slot->entry == held->entry);
			last = item;
			items++;
		}
		assert(lease->last == last);
	}
	assert(live == cache->leases_live && items == cache->lease_items_used);
}

/* What spaces have is what their tenants have. */
static void check_space_figures(const struct cache *cache)
{
	for (uint32_t tenant = 0; tenant < cache->tenants_count; tenant++) {
		for (unsigned tier = 0; tier < TIERS; tier++) {
			uint64_t blocks = 0, bytes = 0;

			for (uint32_t number = 0; number < cache->spaces_begun; number++) {
				const struct space *space = &cache->spaces[number];
				if (space->state == SPACE_FREE || space->tenant != tenant)
					continue;
				blocks += space->figures.blocks[tier];
				bytes += space->figures.bytes[tier];
			}
			assert(blocks == cache->tenants[tenant].shares[tier].copies_whole);
			assert((blocks > 0) == (bytes > 0));
		}
	}
}

static void check_spaces(const struct cache *cache)
{
	uint64_t entries = 0, holds = 0;
	uint32_t open = 0;

	for (uint32_t number = 0; number < cache->spaces_begun; number++) {
		const struct space *space = &cache->spaces[number];
		entries += space->entries;
		holds += space->holds;
		open += space->state == SPACE_OPEN;
		assert(space->state == SPACE_OPEN || space->holds == 0);
		assert((space->entries > 0) >= (space->state == SPACE_LEAVING));
		assert(space->state != SPACE_FREE || space->entries == 0);
	}
	assert(entries == cache->entries_used && holds >= cache->lease_items_used);
	check_space_figures(cache);
	assert(open == cache->spaces_open && open <= cache->config.spaces_max);
	for (uint32_t tenant = 0; tenant < cache->tenants_count; tenant++)
		open -= cache->tenants[tenant].spaces_open;
	assert(open == 0);
}

void cache_check(const struct cache *cache)
{
	for (uint32_t tenant = 0; tenant < cache->tenants_count; tenant++) {
		for (unsigned tier = 0; tier < TIERS; tier++) {
			const struct share *share = &cache->tenants[tenant].shares[tier];
			uint64_t units = 0;
			for (const struct class *class = share->classes; class != NULL;
			     class = class->next) {
				assert(class->share == share && class->tenant == tenant &&
				       class->tier == tier);
				check_class(cache, class);
				units += class->units_count;
			}
			assert(units == share->units_used && share->units_used <= share->units_max);
		}
	}
	check_areas(cache);
	check_entries(cache);
	check_spaces(cache);
	check_orphans(cache);
	check_leases(cache);
}
