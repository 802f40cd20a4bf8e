/* index/extents.c: areas, the units that classes take of them as extents, and fenced devices. */
#include "index/cache_parts.h"

#include <errno.h>
#include <string.h>

int cache_area_add(struct cache *cache, enum tier_id tier, uint64_t unit_bytes,
		   const uint32_t *device_units, unsigned devices_count, uint32_t *out_area)
{
	uint64_t units = 0;

	if (devices_count == 0 || devices_count > CACHE_DEVICES_MAX || unit_bytes == 0)
		return -EINVAL;
	if (cache->areas_count == cache->config.areas_max)
		return -ENOSPC;
	for (unsigned device = 0; device < devices_count; device++)
		units += device_units[device];
	if (units == 0 || units >= UNIT_NONE)
		return -EINVAL;
	uint32_t *unit_extent = cache_pages_take(cache, units * sizeof(uint32_t));
	struct extent *extents = cache_pages_take(cache, units * sizeof(struct extent));
	if (unit_extent == NULL || extents == NULL) {
		cache_pages_give(unit_extent, units * sizeof(uint32_t));
		cache_pages_give(extents, units * sizeof(struct extent));
		return -ENOMEM;
	}
	memset(unit_extent, 0xff, units * sizeof(uint32_t)); /* UNIT_NONE */
	struct area *area = &cache->areas[cache->areas_count];
	*area = (struct area){
		.tier = tier,
		.unit_bytes = unit_bytes,
		.devices_count = devices_count,
		.units_count = (uint32_t)units,
		.units_free = (uint32_t)units,
		.generation_next = 1,
		.unit_extent = unit_extent,
		.extents = extents,
	};
	for (unsigned device = 0; device < devices_count; device++) {
		area->device_hint[device] = area->device_first[device];
		area->device_first[device + 1] = area->device_first[device] + device_units[device];
	}
	*out_area = cache->areas_count++;
	return 0;
}

static uint32_t device_units_max(const struct area *area)
{
	uint32_t units = 0;

	for (unsigned device = 0; device < area->devices_count; device++) {
		uint32_t here = area->device_first[device + 1] - area->device_first[device];
		if (!area->is_fenced[device] && here > units)
			units = here;
	}
	return units;
}

/*
 * How many units an extent of such slots takes; 0: none can hold one. The fewest that waste less
 * than 3 %, else those that waste least. Not more than an eighth of the area, lest one model's
 * first block take half of a small tier, but a slot that does not fit into that gets as many units
 * as it takes.
 */
static uint32_t extent_units_for(const struct share *share, uint32_t slot_bytes)
{
	const struct area *area = share->area;
	if (area == NULL || slot_bytes == 0)
		return 0;
	uint64_t most = device_units_max(area);
	if (most > share->units_max)
		most = share->units_max;
	uint64_t need = (slot_bytes + area->unit_bytes - 1) / area->unit_bytes;
	uint64_t limit = area->units_count / EXTENT_AREA_PART;
	if (limit < need)
		limit = need;
	if (limit > most)
		limit = most;
	if (need > limit)
		return 0;
	uint64_t best = need;
	double best_waste = 1;
	for (uint64_t units = need; units <= limit; units++) {
		uint64_t bytes = units * area->unit_bytes;
		double waste = (double)(bytes % slot_bytes) / (double)bytes;
		if (waste >= best_waste)
			continue;
		best = units;
		best_waste = waste;
		if (waste * EXTENT_WASTE_PART < 1)
			break;
	}
	return (uint32_t)best;
}

uint32_t class_units_least(const struct class *class)
{
	uint64_t unit_bytes = class->share->area->unit_bytes;

	return (uint32_t)((class->slot_bytes + unit_bytes - 1) / unit_bytes);
}

static uint64_t extent_slots_for(const struct area *area, uint32_t units, uint32_t slot_bytes)
{
	return units * area->unit_bytes / slot_bytes;
}

uint64_t share_slots_max(const struct share *share, uint32_t slot_bytes)
{
	uint64_t slots = 0;
	uint64_t units_left = share->units_max;
	uint32_t units = extent_units_for(share, slot_bytes);

	if (units == 0)
		return 0;
	for (unsigned device = 0; device < share->area->devices_count; device++) {
		uint64_t here = share->area->device_first[device + 1] -
				share->area->device_first[device];
		if (share->area->is_fenced[device])
			continue;
		uint64_t extents = (here < units_left ? here : units_left) / units;
		slots += extents * extent_slots_for(share->area, units, slot_bytes);
		units_left -= extents * units;
	}
	return slots;
}

uint64_t class_slots_reach(const struct class *class)
{
	const struct share *share = class->share;
	uint64_t units = share->units_max > share->units_used ? share->units_max - share->units_used
							      : 0;

	if (units > share->area->units_free)
		units = share->area->units_free;
	uint64_t extents = units / class->extent_units;
	return class->slots_count +
	       extents * extent_slots_for(share->area, class->extent_units, class->slot_bytes);
}

/* ---- classes ---- */

static struct class *class_find(const struct share *share, uint32_t slot_bytes)
{
	for (struct class *class = share->classes; class != NULL; class = class->next)
		if (class->slot_bytes == slot_bytes)
			return class;
	return NULL;
}

/* A class without units is only a name: it is taken away from its share when names run out. */
static struct class *class_reclaim(struct cache *cache)
{
	for (uint32_t i = 0; i < cache->classes_begun; i++) {
		struct class *idle = &cache->classes[i];
		if (idle->units_count > 0)
			continue;
		struct class **link = &idle->share->classes;
		while (*link != idle)
			link = &(*link)->next;
		*link = idle->next;
		return idle;
	}
	return NULL;
}

int class_get(struct cache *cache, uint32_t tenant, enum tier_id tier, uint32_t slot_bytes,
	      struct class **out_class)
{
	struct share *share = &cache->tenants[tenant].shares[tier];
	struct class *class = class_find(share, slot_bytes);
	uint32_t extent_units = extent_units_for(share, slot_bytes);

	if (class != NULL) {
		if (extent_units != 0) /* a fence may have taken the largest device since */
			class->extent_units = extent_units;
		*out_class = class;
		return 0;
	}
	if (extent_units == 0)
		return -ENOSPC;
	if (cache->classes_begun < cache->config.classes_max)
		class = &cache->classes[cache->classes_begun++];
	else
		class = class_reclaim(cache);
	if (class == NULL)
		return -EAGAIN;
	*class = (struct class){
		.next = share->classes,
		.share = share,
		.tenant = tenant,
		.tier = tier,
		.slot_bytes = slot_bytes,
		.extent_units = extent_units,
		.coldest = SLOT_NONE,
		.warmest = SLOT_NONE,
	};
	for (unsigned device = 0; device < CACHE_DEVICES_MAX; device++)
		class->free_first[device] = SLOT_NONE;
	share->classes = class;
	*out_class = class;
	return 0;
}

/* ---- extents ---- */

bool chunks_suffice(const struct cache *cache, enum tier_id tier, uint64_t slots_count,
		    uint64_t chunks_given_back)
{
	return (slots_count + CHUNK_SLOTS - 1) / CHUNK_SLOTS <=
	       cache->tables[tier].chunks_free + chunks_given_back;
}

static unsigned unit_device(const struct area *area, uint32_t unit)
{
	unsigned device = 0;

	assert(unit < area->units_count);
	while (unit >= area->device_first[device + 1])
		device++;
	return device;
}

/* Numbers for the slots, in runs of CHUNK_SLOTS, the first ordinals at the head of the free list.
 */
static void extent_chunks_take(struct cache *cache, enum tier_id tier, struct extent *extent)
{
	struct slot_table *table = &cache->tables[tier];
	uint32_t chunks = (extent->slots_count + CHUNK_SLOTS - 1) / CHUNK_SLOTS;

	assert(chunks > 0 && chunks <= table->chunks_free);
	table->chunks_free -= chunks;
	extent->first_chunk = CHUNK_NONE;
	while (chunks-- > 0) {
		uint32_t number = table->chunk_free_first;
		struct chunk *chunk = &table->chunks[number];
		table->chunk_free_first = chunk->next;
		*chunk = (struct chunk){
			.extent = extent,
			.first_ordinal = chunks * CHUNK_SLOTS,
			.next = extent->first_chunk,
		};
		extent->first_chunk = number;
		uint32_t here = extent->slots_count - chunk->first_ordinal;
		for (uint32_t i = here < CHUNK_SLOTS ? here : CHUNK_SLOTS; i-- > 0;) {
			struct slot *slot = &table->slots[number * CHUNK_SLOTS + i];
			/* The generation goes on from the number's last life: an old handle stays
			 * stale. */
			*slot = (struct slot){
				.entry = ENTRY_NONE,
				.colder = SLOT_NONE,
				.warmer = SLOT_NONE,
				.sibling = SLOT_NONE,
				.generation = slot->generation == 0 ? 1 : slot->generation,
				.state = SLOT_FREE,
			};
			free_list_add(cache, tier, number * CHUNK_SLOTS + i);
		}
	}
}

void extent_assign(struct cache *cache, struct class *class, uint32_t first_unit,
		   uint32_t units_count)
{
	struct area *area = class->share->area;
	struct extent *extent = &area->extents[first_unit];
	const struct cache_listener *listener = &cache->config.listener;

	assert(extent->class == NULL);
	assert(first_unit + units_count <= area->units_count && units_count > 0);
	for (uint32_t unit = first_unit; unit < first_unit + units_count; unit++) {
		assert(area->unit_extent[unit] == UNIT_NONE);
		area->unit_extent[unit] = first_unit;
	}
	*extent = (struct extent){
		.class = class,
		.area = area,
		.first_unit = first_unit,
		.units_count = units_count,
		.slots_count = (uint32_t)extent_slots_for(area, units_count, class->slot_bytes),
		.generation = area->generation_next++,
		.device = (uint16_t)unit_device(area, first_unit),
		.last_touched = cache->tick,
	};
	area->units_free -= units_count;
	class->share->units_used += units_count;
	class->share->extents_taken++;
	class->units_count += units_count;
	class->slots_count += extent->slots_count;
	class->slots[SLOT_FREE] += extent->slots_count;
	extent_chunks_take(cache, class->tier, extent);
	if (listener->extent_changed != NULL)
		listener->extent_changed(listener->owner, (uint32_t)(area - cache->areas));
}

void extent_clear(struct cache *cache, struct extent *extent)
{
	enum tier_id tier = extent->class->tier;
	const struct slot_table *table = &cache->tables[tier];

	for (uint32_t chunk = extent->first_chunk; chunk != CHUNK_NONE;
	     chunk = table->chunks[chunk].next) {
		for (uint32_t i = 0; i < CHUNK_SLOTS; i++) {
			uint32_t slot = chunk * CHUNK_SLOTS + i;
			if (table->chunks[chunk].first_ordinal + i >= extent->slots_count)
				break;
			const struct slot *seen = &table->slots[slot];
			uint32_t entry = seen->entry;
			if (seen->state == SLOT_FREE || slot_is_orphan(seen))
				continue;
			if (seen->state == SLOT_FILLING)
				slot_discard(cache, tier, slot);
			copy_drop(cache, entry, tier, false);
			extent->class->share->evictions++;
			entry_settle(cache, entry);
		}
	}
}

static void extent_chunks_give(struct cache *cache, struct extent *extent)
{
	enum tier_id tier = extent->class->tier;
	struct slot_table *table = &cache->tables[tier];

	while (extent->first_chunk != CHUNK_NONE) {
		uint32_t number = extent->first_chunk;
		struct chunk *chunk = &table->chunks[number];
		extent->first_chunk = chunk->next;
		for (uint32_t i = 0;
		     i < CHUNK_SLOTS && chunk->first_ordinal + i < extent->slots_count; i++) {
			uint32_t slot = number * CHUNK_SLOTS + i;
			if (table->slots[slot].state == SLOT_FREE && !extent->is_retired)
				free_list_remove(cache, tier, slot);
			if (table->slots[slot].state ==
			    SLOT_BAD) { /* what lies here next may be another place */
				slot_become(cache, tier, slot, SLOT_FREE);
				if (++table->slots[slot].generation == 0)
					table->slots[slot].generation = 1;
			}
			assert(table->slots[slot].state == SLOT_FREE);
		}
		chunk->extent = NULL;
		chunk->next = table->chunk_free_first;
		table->chunk_free_first = number;
		table->chunks_free++;
	}
}

void extent_give(struct cache *cache, struct extent *extent)
{
	struct class *class = extent->class;
	struct area *area = extent->area;
	const struct cache_listener *listener = &cache->config.listener;

	assert(class != NULL && extent->pins == 0);
	extent_chunks_give(cache, extent);
	class->slots[SLOT_FREE] -= extent->slots_count;
	class->slots_count -= extent->slots_count;
	class->units_count -= extent->units_count;
	class->share->units_used -= extent->units_count;
	for (uint32_t unit = extent->first_unit; unit < extent->first_unit + extent->units_count;
	     unit++)
		area->unit_extent[unit] = UNIT_NONE;
	if (!area->is_fenced[extent->device])
		area->units_free += extent->units_count;
	if (area->device_hint[extent->device] > extent->first_unit)
		area->device_hint[extent->device] = extent->first_unit;
	area->frees++;
	extent->class = NULL;
	if (listener->extent_changed != NULL)
		listener->extent_changed(listener->owner, (uint32_t)(area - cache->areas));
}

void extent_settle(struct cache *cache, struct extent *extent)
{
	if (extent->class != NULL && extent->is_retired && extent->pins == 0)
		extent_give(cache, extent);
}

/* The first run of free units of a device, or UNIT_NONE. */
static uint32_t device_find_free(struct area *area, unsigned device, uint32_t units_count)
{
	uint32_t run = 0;
	bool is_hint_exact = false;

	if (area->is_fenced[device])
		return UNIT_NONE;
	for (uint32_t unit = area->device_hint[device]; unit < area->device_first[device + 1];
	     unit++) {
		if (area->unit_extent[unit] != UNIT_NONE) {
			run = 0;
			continue;
		}
		if (!is_hint_exact)
			area->device_hint[device] = unit;
		is_hint_exact = true;
		if (++run == units_count)
			return unit + 1 - units_count;
	}
	return UNIT_NONE;
}

bool area_has_free_run(struct area *area, uint32_t units_count)
{
	for (unsigned device = 0; device < area->devices_count; device++)
		if (device_find_free(area, device, units_count) != UNIT_NONE)
			return true;
	return false;
}

bool extent_take_free(struct cache *cache, struct class *class, uint32_t units)
{
	struct share *share = class->share;
	struct area *area = share->area;
	uint64_t slots = extent_slots_for(area, units, class->slot_bytes);

	assert(slots > 0);
	if (share->units_used + units > share->units_max || area->units_free < units)
		return false;
	if (class->window_units != 0 && class->window_units <= units &&
	    class->window_frees == area->frees)
		return false;
	if (!chunks_suffice(cache, class->tier, slots, 0))
		return false;
	for (unsigned i = 0; i < area->devices_count; i++) {
		unsigned device = (area->device_next + i) % area->devices_count;
		uint32_t first = device_find_free(area, device, units);
		if (first == UNIT_NONE)
			continue;
		area->device_next = (device + 1) % area->devices_count;
		extent_assign(cache, class, first, units);
		return true;
	}
	class->window_units = units;
	class->window_frees = area->frees;
	return false;
}

/* ---- a sick device ---- */

/* Takes the FREE slots of an extent off the free lists. */
static void extent_unlist(struct cache *cache, struct extent *extent)
{
	enum tier_id tier = extent->class->tier;
	const struct slot_table *table = &cache->tables[tier];

	assert(!extent->is_retired);
	for (uint32_t chunk = extent->first_chunk; chunk != CHUNK_NONE;
	     chunk = table->chunks[chunk].next) {
		uint32_t left = extent->slots_count - table->chunks[chunk].first_ordinal;
		for (uint32_t i = 0; i < CHUNK_SLOTS && i < left; i++)
			if (table->slots[chunk * CHUNK_SLOTS + i].state == SLOT_FREE)
				free_list_remove(cache, tier, chunk * CHUNK_SLOTS + i);
	}
}

void cache_device_fence(struct cache *cache, uint32_t area_number, uint32_t device)
{
	assert(area_number < cache->areas_count);
	struct area *area = &cache->areas[area_number];
	assert(device < area->devices_count);

	if (area->is_fenced[device])
		return;
	uint32_t first = area->device_first[device];
	uint32_t end = area->device_first[device + 1];
	area->is_fenced[device] = true;
	/* Before any extent goes: the units that it gives back are not free. */
	for (uint32_t unit = first; unit < end; unit++)
		area->units_free -= area->unit_extent[unit] == UNIT_NONE;
	for (uint32_t unit = first; unit < end; unit++) {
		struct extent *extent = &area->extents[unit];
		if (extent->class == NULL)
			continue;
		extent_clear(cache, extent);
		extent_unlist(cache, extent);
		extent->is_retired = true;
		extent_settle(cache, extent);
	}
}
