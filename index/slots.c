/* index/slots.c: the states of slots, the copies they make up, and what becomes of them when they
 * are dropped. */
#include "index/cache_parts.h"

#include <string.h>

static const bool legal_move[SLOT_STATES][SLOT_STATES] = {
	[SLOT_FREE] = { [SLOT_FILLING] = true },
	[SLOT_FILLING] = { [SLOT_READY] = true, [SLOT_FREE] = true, [SLOT_BAD] = true },
	[SLOT_READY] = { [SLOT_LEAVING] = true, [SLOT_FREE] = true, [SLOT_BAD] = true },
	[SLOT_LEAVING] = { [SLOT_READY] = true, [SLOT_FREE] = true },
	[SLOT_BAD] = { [SLOT_FREE] = true }, /* with its extent, or where there is nothing else */
};

void slot_become(struct cache *cache, enum tier_id tier, uint32_t slot, enum slot_state next)
{
	struct slot *seen = slot_at(cache, tier, slot);
	struct extent *extent = slot_extent(cache, tier, slot);

	assert(seen->state < SLOT_STATES && legal_move[seen->state][next]);
	assert(next != SLOT_FREE ||
	       seen->holds == 0); /* a reader would see the bytes change under it */
	extent->class->slots[seen->state]--;
	extent->class->slots[next]++;
	extent->class->slots_renewable -= seen->state == SLOT_BAD;
	extent->slots_used += seen->state == SLOT_FREE;
	extent->slots_used -= next == SLOT_FREE;
	extent->pins += next == SLOT_FILLING;
	extent->pins -= seen->state == SLOT_FILLING;
	seen->state = (uint8_t)next;
}

/* ---- free slots: one list a device, so that what is stored next to each other is read from all of
 * them ---- */

void free_list_add(struct cache *cache, enum tier_id tier, uint32_t slot)
{
	struct extent *extent = slot_extent(cache, tier, slot);
	struct class *class = extent->class;
	struct slot *seen = slot_at(cache, tier, slot);
	uint32_t next = class->free_first[extent->device];

	assert(seen->state == SLOT_FREE && !extent->is_retired);
	seen->colder = next;
	seen->warmer = SLOT_NONE;
	if (next != SLOT_NONE)
		slot_at(cache, tier, next)->warmer = slot;
	class->free_first[extent->device] = slot;
	class->slots_listed++;
}

void free_list_remove(struct cache *cache, enum tier_id tier, uint32_t slot)
{
	struct extent *extent = slot_extent(cache, tier, slot);
	struct class *class = extent->class;
	struct slot *seen = slot_at(cache, tier, slot);

	assert(seen->state == SLOT_FREE && class->slots_listed > 0);
	if (seen->colder != SLOT_NONE)
		slot_at(cache, tier, seen->colder)->warmer = seen->warmer;
	if (seen->warmer != SLOT_NONE)
		slot_at(cache, tier, seen->warmer)->colder = seen->colder;
	else
		class->free_first[extent->device] = seen->colder;
	seen->colder = SLOT_NONE;
	seen->warmer = SLOT_NONE;
	class->slots_listed--;
}

uint32_t free_list_next(struct class *class)
{
	unsigned devices_count = class->share->area->devices_count;

	for (unsigned i = 0; i < devices_count; i++) {
		unsigned device = (class->device_next + i) % devices_count;
		if (class->free_first[device] == SLOT_NONE)
			continue;
		class->device_next = (device + 1) % devices_count;
		return class->free_first[device];
	}
	return SLOT_NONE;
}

/* For a slot that is in no copy and no order any more. May give back a retired extent. */
void slot_free(struct cache *cache, enum tier_id tier, uint32_t slot)
{
	struct slot *seen = slot_at(cache, tier, slot);
	struct extent *extent = slot_extent(cache, tier, slot);

	assert(seen->sibling == SLOT_NONE);
	assert(seen->colder == SLOT_NONE && seen->warmer == SLOT_NONE);
	slot_become(cache, tier, slot, SLOT_FREE);
	seen->entry = ENTRY_NONE;
	seen->lower = LOWER_NONE;
	seen->shard = 0;
	if (++seen->generation == 0)
		seen->generation = 1;
	if (extent->is_retired)
		extent_settle(cache, extent);
	else
		free_list_add(cache, tier, slot);
}

/* ---- copies ---- */

void copy_join(struct cache *cache, uint32_t entry, enum tier_id tier, uint32_t slot)
{
	struct slot *new = slot_at(cache, tier, slot);
	uint32_t first = cache->entries[entry].copy[tier];

	assert(new->sibling == SLOT_NONE);
	new->entry = entry;
	if (first == SLOT_NONE) {
		new->sibling = slot;
		cache->entries[entry].copy[tier] = slot;
		return;
	}
	new->sibling = slot_at(cache, tier, first)->sibling;
	slot_at(cache, tier, first)->sibling = slot;
}

/* Takes a slot out of its ring and of the order. */
static void copy_leave(struct cache *cache, enum tier_id tier, uint32_t slot)
{
	struct slot *old = slot_at(cache, tier, slot);
	struct entry *entry = &cache->entries[old->entry];
	uint32_t before = slot;

	assert(!slot_is_orphan(old));
	for (unsigned i = 0; slot_at(cache, tier, before)->sibling != slot; i++) {
		assert(i < CACHE_SHARDS_MAX);
		before = slot_at(cache, tier, before)->sibling;
	}
	slot_at(cache, tier, before)->sibling = old->sibling;
	if (entry->copy[tier] == slot)
		entry->copy[tier] = before == slot ? SLOT_NONE : before;
	old->sibling = SLOT_NONE;
	order_remove(cache, slot_class(cache, tier, slot), slot);
}

bool copy_is_idle(const struct cache *cache, enum tier_id tier, uint32_t slot)
{
	const struct slot *seen = slot_at(cache, tier, slot);

	for (uint32_t next = slot;; next = seen->sibling) {
		seen = slot_at(cache, tier, next);
#ifndef KVTIER_PLANT_HELD
		if (seen->holds > 0 || seen->state == SLOT_FILLING)
			return false;
#endif
		if (seen->sibling == slot)
			return true;
	}
}

static struct share *entry_share(const struct cache *cache, uint32_t entry, enum tier_id tier)
{
	return &cache->tenants[cache->spaces[cache->entries[entry].space].tenant].shares[tier];
}

/* Of a whole copy: all of its slots are of one class. */
static uint64_t copy_bytes(const struct cache *cache, uint32_t entry, enum tier_id tier)
{
	const struct entry *seen = &cache->entries[entry];

	return (uint64_t)seen->shards_count *
	       slot_class(cache, tier, seen->copy[tier])->slot_bytes;
}

void copy_settle(struct cache *cache, uint32_t entry, enum tier_id tier)
{
	struct entry *seen = &cache->entries[entry];
	const struct cache_listener *listener = &cache->config.listener;
	uint32_t slot = seen->copy[tier];
	unsigned shards = 0;

	if ((seen->flags & ENTRY_WHOLE(tier)) != 0 || slot == SLOT_NONE)
		return;
	do {
		shards += slot_is_readable(slot_at(cache, tier, slot));
		slot = slot_at(cache, tier, slot)->sibling;
	} while (slot != seen->copy[tier]);
	assert(shards <= seen->shards_count);
	if (shards < seen->shards_count)
		return;
	seen->flags |= ENTRY_WHOLE(tier);
	cache->changes++;
	entry_share(cache, entry, tier)->copies_whole++;
	cache->spaces[seen->space].figures.blocks[tier]++;
	cache->spaces[seen->space].figures.bytes[tier] += copy_bytes(cache, entry, tier);
	if (listener->copy_whole != NULL)
		listener->copy_whole(listener->owner, seen, tier);
}

/* A cpu copy whose lower copy goes is as clean as before: it has been there, and is not written a
 * second time. */
static void copy_unsettle(struct cache *cache, uint32_t entry, enum tier_id tier)
{
	struct entry *seen = &cache->entries[entry];
	const struct cache_listener *listener = &cache->config.listener;

	if ((seen->flags & ENTRY_WHOLE(tier)) == 0)
		return;
	seen->flags &= (uint8_t)~ENTRY_WHOLE(tier);
	cache->changes++;
	entry_share(cache, entry, tier)->copies_whole--;
	assert(cache->spaces[seen->space].figures.blocks[tier] > 0);
	cache->spaces[seen->space].figures.blocks[tier]--;
	cache->spaces[seen->space].figures.bytes[tier] -= copy_bytes(cache, entry, tier);
	if (listener->copy_gone != NULL)
		listener->copy_gone(listener->owner, seen, tier);
	uint32_t first = seen->copy[TIER_CPU];
	if (tier != TIER_NVME || first == SLOT_NONE)
		return;
	uint32_t slot = first;
	do {
		struct slot *above = slot_at(cache, TIER_CPU, slot);
		if (above->lower == LOWER_WRITTEN)
			above->lower = LOWER_NONE;
		slot = above->sibling;
	} while (slot != first);
}

void slot_discard(struct cache *cache, enum tier_id tier, uint32_t slot)
{
	struct slot *seen = slot_at(cache, tier, slot);
	const struct cache_listener *listener = &cache->config.listener;
	uint32_t entry = seen->entry;

	if (slot_is_readable(seen) && listener->slot_gone != NULL) {
		struct slot_place place;
		cache_slot_place(cache, tier, slot, &place);
		listener->slot_gone(listener->owner, &cache->entries[entry], tier, slot, &place);
	}
	copy_leave(cache, tier, slot);
	if (seen->holds > 0 || seen->state == SLOT_FILLING)
		cache->colds[entry].orphans++;
	else
		slot_free(cache, tier, slot);
}

void copy_drop(struct cache *cache, uint32_t entry, enum tier_id tier, bool with_filling)
{
	uint32_t slots[CACHE_SHARDS_MAX];
	unsigned count = 0;
	uint32_t first = cache->entries[entry].copy[tier];

	copy_unsettle(cache, entry, tier);
	if (first == SLOT_NONE)
		return;
	uint32_t slot = first;
	do {
		const struct slot *seen = slot_at(cache, tier, slot);
		assert(count < CACHE_SHARDS_MAX);
		if (with_filling || seen->state != SLOT_FILLING)
			slots[count++] = slot;
		slot = seen->sibling;
	} while (slot != first);
	for (unsigned i = 0; i < count; i++)
		slot_discard(cache, tier, slots[i]);
}

/* The last user of an orphan is through. BAD ones stay where they are, without a name. */
static void orphan_end(struct cache *cache, enum tier_id tier, uint32_t slot)
{
	struct slot *seen = slot_at(cache, tier, slot);
	uint32_t entry = seen->entry;

	assert(slot_is_orphan(seen) && seen->holds == 0);
	assert(cache->colds[entry].orphans > 0);
	cache->colds[entry].orphans--;
	if (seen->state == SLOT_BAD) {
		seen->entry = ENTRY_NONE;
		slot_class(cache, tier, slot)->slots_renewable++;
		extent_settle(cache, slot_extent(cache, tier, slot));
	} else {
		slot_free(cache, tier, slot);
	}
	entry_settle(cache, entry);
}

/* ---- what users do with slots ---- */

const struct slot *cache_slot(const struct cache *cache, enum tier_id tier, uint32_t slot)
{
	assert(slot < cache->tables[tier].chunks_count * CHUNK_SLOTS);
	return slot_at(cache, tier, slot);
}

void cache_slot_place(const struct cache *cache, enum tier_id tier, uint32_t slot,
		      struct slot_place *out_place)
{
	const struct chunk *chunk = slot_chunk(cache, tier, slot);
	const struct extent *extent = chunk->extent;

	assert(extent != NULL);
	const struct area *area = extent->area;
	uint64_t start = (uint64_t)(extent->first_unit - area->device_first[extent->device]) *
			 area->unit_bytes;
	uint64_t ordinal = chunk->first_ordinal + slot % CHUNK_SLOTS;
	assert(ordinal < extent->slots_count);
	*out_place = (struct slot_place){
		.area = (uint32_t)(area - cache->areas),
		.device = extent->device,
		.offset = start + ordinal * extent->class->slot_bytes,
		.slot_bytes = extent->class->slot_bytes,
		.extent_generation = extent->generation,
		.slot_generation = slot_at(cache, tier, slot)->generation,
	};
}

bool cache_slot_is_current(const struct cache *cache, enum tier_id tier, uint32_t slot,
			   uint32_t generation)
{
	if (slot >= cache->tables[tier].chunks_count * CHUNK_SLOTS)
		return false;
	const struct slot *seen = slot_at(cache, tier, slot);
#ifdef KVTIER_PLANT_GENERATION
	generation = seen->generation;
#endif
	return slot_extent(cache, tier, slot) != NULL && seen->state != SLOT_FREE &&
	       seen->generation == generation;
}

bool cache_slot_ready(struct cache *cache, enum tier_id tier, uint32_t slot)
{
	struct slot *seen = slot_at(cache, tier, slot);

	assert(seen->state == SLOT_FILLING);
	uint32_t entry = seen->entry;
	bool is_unwanted = slot_is_orphan(seen) || slot_extent(cache, tier, slot)->is_retired ||
			   entry_is_forgotten(cache, &cache->entries[entry]);
	if (is_unwanted) {
		cache_slot_drop(cache, tier, slot);
		return false;
	}
	slot_become(cache, tier, slot, SLOT_READY);
	seen->lower = LOWER_NONE;
	copy_settle(cache, entry, tier);
	return true;
}

/* Clean again, a LEAVING slot is READY: it has the coldest place, and goes when its place is next
 * wanted. */
void cache_slot_set_lower(struct cache *cache, uint32_t cpu_slot, enum slot_lower lower)
{
	struct slot *seen = slot_at(cache, TIER_CPU, cpu_slot);

	assert(slot_is_readable(seen));
	assert(lower == LOWER_NONE || lower == LOWER_PENDING || lower == LOWER_WRITTEN);
	/* The lower copy may have gone between the end of its writing and now. */
	bool is_written = (cache->entries[seen->entry].flags & ENTRY_WHOLE(TIER_NVME)) != 0;
	seen->lower = lower == LOWER_WRITTEN && !is_written ? LOWER_NONE : lower & 3;
	if (lower != LOWER_PENDING && seen->state == SLOT_LEAVING)
		slot_become(cache, TIER_CPU, cpu_slot, SLOT_READY);
}

void cache_slot_drop(struct cache *cache, enum tier_id tier, uint32_t slot)
{
	struct slot *seen = slot_at(cache, tier, slot);
	uint32_t entry = seen->entry;

	assert(seen->state == SLOT_FILLING || slot_is_readable(seen));
	if (slot_is_orphan(seen)) {
		if (seen->holds == 0)
			orphan_end(cache, tier, slot);
		return;
	}
	copy_unsettle(cache, entry, tier);
	if (seen->state == SLOT_FILLING) {
		copy_leave(cache, tier, slot);
		slot_free(cache, tier, slot);
	}
	copy_drop(cache, entry, tier, false);
	entry_settle(cache, entry);
}

void cache_slot_quarantine(struct cache *cache, enum tier_id tier, uint32_t slot)
{
	struct slot *seen = slot_at(cache, tier, slot);
	const struct cache_listener *listener = &cache->config.listener;
	uint32_t entry = seen->entry;

	assert(seen->state == SLOT_FILLING || slot_is_readable(seen));
	if (seen->state == SLOT_LEAVING)
		slot_become(cache, tier, slot, SLOT_READY);
	if (!slot_is_orphan(seen)) {
		copy_unsettle(cache, entry, tier);
		if (seen->state == SLOT_READY && listener->slot_gone != NULL) {
			struct slot_place place;
			cache_slot_place(cache, tier, slot, &place);
			listener->slot_gone(listener->owner, &cache->entries[entry], tier, slot,
					    &place);
		}
		copy_leave(cache, tier, slot);
		cache->colds[entry].orphans++;
		copy_drop(cache, entry, tier, false);
	}
	slot_become(cache, tier, slot, SLOT_BAD);
	seen->lower = LOWER_NONE;
	if (seen->holds == 0)
		orphan_end(cache, tier, slot);
	else
		entry_settle(cache, entry);
}

void cache_entry_drop(struct cache *cache, uint32_t entry)
{
	assert(entry < cache->entries_begun);
	if ((cache->entries[entry].flags & ENTRY_USED) == 0)
		return;
	for (unsigned tier = 0; tier < TIERS; tier++)
		copy_drop(cache, entry, tier, true);
	entry_settle(cache, entry);
}

void cache_slot_hold(struct cache *cache, enum tier_id tier, uint32_t slot)
{
	struct slot *seen = slot_at(cache, tier, slot);

	assert(slot_is_readable(seen));
	assert(seen->holds < SLOT_HOLDS_MAX);
	if (seen->state == SLOT_LEAVING)
		slot_become(cache, tier, slot, SLOT_READY);
	if (seen->holds++ > 0)
		return;
	struct extent *extent = slot_extent(cache, tier, slot);
	assert(!slot_is_orphan(seen)); /* it lives by its holds alone */
	extent->pins++;
	extent->class->slots_held++;
}

void cache_slot_release(struct cache *cache, enum tier_id tier, uint32_t slot)
{
	struct slot *seen = slot_at(cache, tier, slot);
	struct extent *extent = slot_extent(cache, tier, slot);

	assert(seen->holds > 0);
	assert(slot_is_readable(seen) || seen->state == SLOT_BAD);
	if (--seen->holds > 0)
		return;
	assert(extent->pins > 0 && extent->class->slots_held > 0);
	extent->pins--;
	extent->class->slots_held--;
	if (slot_is_orphan(seen))
		orphan_end(cache, tier, slot);
}
