/*
 * index/order.c: the recency order of a class, touches, and the END hint.
 *
 * Slots stand in it from coldest to warmest, and their ticks never fall on the way. FILLING slots
 * stand in it too: what is being stored has its place from the start, only nobody may evict it. A
 * new block goes right behind its parent and takes over the parent's tick, so a chain stored block
 * by block ends up as if it had been touched deepest first.
 */
#include "index/cache_parts.h"

/*
 * How far ahead of the touch each stage prefetches: the entry, its slots, their neighbours in the
 * order. A stage reads what the one before it asked for, so enough touches must lie between them
 * for a line to come from memory. The distances were tried out, not computed; what was measured is
 * the whole LOOKUP: see cache_find().
 */
#define TOUCH_AHEAD_ENTRY 72u
#define TOUCH_AHEAD_SLOT 56u
#define TOUCH_AHEAD_NEIGHBOUR 28u

void order_add_warmest(struct cache *cache, struct class *class, uint32_t slot)
{
	struct slot *new = slot_at(cache, class->tier, slot);

	new->warmer = SLOT_NONE;
	new->colder = class->warmest;
	new->touched = cache->tick;
	if (class->warmest != SLOT_NONE)
		slot_at(cache, class->tier, class->warmest)->warmer = slot;
	else
		class->coldest = slot;
	class->warmest = slot;
	struct extent *extent = slot_extent(cache, class->tier, slot);
	extent->last_touched = cache->tick; /* the tick never falls, so it is the maximum */
}

void order_add_coldest(struct cache *cache, struct class *class, uint32_t slot)
{
	struct slot *new = slot_at(cache, class->tier, slot);

	new->colder = SLOT_NONE;
	new->warmer = class->coldest;
	new->touched = 0;
	if (class->coldest != SLOT_NONE)
		slot_at(cache, class->tier, class->coldest)->colder = slot;
	else
		class->warmest = slot;
	class->coldest = slot;
}

void order_add_behind(struct cache *cache, struct class *class, uint32_t slot, uint32_t warmer)
{
	struct slot *new = slot_at(cache, class->tier, slot);
	struct slot *before = slot_at(cache, class->tier, warmer);
	struct extent *extent = slot_extent(cache, class->tier, slot);

	assert(slot != warmer);
	assert(before->state == SLOT_FILLING || slot_is_readable(before));
	new->warmer = warmer;
	new->colder = before->colder;
	new->touched = before->touched;
	if (before->colder != SLOT_NONE)
		slot_at(cache, class->tier, before->colder)->warmer = slot;
	else
		class->coldest = slot;
	before->colder = slot;
	if (extent->last_touched < new->touched)
		extent->last_touched = new->touched;
}

void order_remove(struct cache *cache, struct class *class, uint32_t slot)
{
	struct slot *old = slot_at(cache, class->tier, slot);

	assert(old->colder != slot && old->warmer != slot);
	if (old->colder != SLOT_NONE)
		slot_at(cache, class->tier, old->colder)->warmer = old->warmer;
	else
		class->coldest = old->warmer;
	if (old->warmer != SLOT_NONE)
		slot_at(cache, class->tier, old->warmer)->colder = old->colder;
	else
		class->warmest = old->colder;
	old->colder = SLOT_NONE;
	old->warmer = SLOT_NONE;
}

/* order_remove() and order_add_warmest() in one: each field is written once. */
static void order_make_warmest(struct cache *cache, enum tier_id tier, uint32_t slot)
{
	struct slot *slots = cache->tables[tier].slots;
	struct slot *seen = &slots[slot];
	struct extent *extent = slot_extent(cache, tier, slot);
	struct class *class = extent->class;
	uint32_t colder = seen->colder;
	uint32_t warmer = seen->warmer;

	assert(colder != slot && warmer != slot);
	seen->touched = cache->tick;
	extent->last_touched = cache->tick; /* the tick never falls, so it is the maximum */
	if (warmer == SLOT_NONE) {
		assert(class->warmest == slot);
		return;
	}
	slots[warmer].colder = colder;
	if (colder != SLOT_NONE)
		slots[colder].warmer = warmer;
	else
		class->coldest = warmer;
	slots[class->warmest].warmer = slot;
	seen->colder = class->warmest;
	seen->warmer = SLOT_NONE;
	class->warmest = slot;
}

static inline void copy_touch(struct cache *cache, enum tier_id tier, uint32_t first)
{
	uint32_t slot = first;

	do {
		order_make_warmest(cache, tier, slot);
		slot = slot_at(cache, tier, slot)->sibling;
	} while (slot != first);
}

/* The first slots only: a copy of several shards pays for the others' misses. */
static void touch_prefetch_slots(const struct cache *cache, uint32_t entry)
{
	if (entry == ENTRY_NONE)
		return;
	for (unsigned tier = 0; tier < TIERS; tier++) {
		uint32_t slot = cache->entries[entry].copy[tier];
		if (slot == SLOT_NONE)
			continue;
		__builtin_prefetch(slot_at(cache, tier, slot), 1);
		__builtin_prefetch(slot_chunk(cache, tier, slot));
	}
}

static void touch_prefetch_neighbours(const struct cache *cache, uint32_t entry)
{
	if (entry == ENTRY_NONE)
		return;
	for (unsigned tier = 0; tier < TIERS; tier++) {
		uint32_t slot = cache->entries[entry].copy[tier];
		if (slot == SLOT_NONE)
			continue;
		const struct slot *seen = slot_at(cache, tier, slot);
		if (seen->colder != SLOT_NONE)
			__builtin_prefetch(slot_at(cache, tier, seen->colder), 1);
		if (seen->warmer != SLOT_NONE)
			__builtin_prefetch(slot_at(cache, tier, seen->warmer), 1);
		__builtin_prefetch(slot_extent(cache, tier, slot), 1);
	}
}

void cache_touch(struct cache *cache, const uint32_t *entries, unsigned count)
{
	for (unsigned left = count; left > 0; left--) {
		if (left > TOUCH_AHEAD_ENTRY && entries[left - 1 - TOUCH_AHEAD_ENTRY] != ENTRY_NONE)
			__builtin_prefetch(&cache->entries[entries[left - 1 - TOUCH_AHEAD_ENTRY]]);
		if (left > TOUCH_AHEAD_SLOT)
			touch_prefetch_slots(cache, entries[left - 1 - TOUCH_AHEAD_SLOT]);
		if (left > TOUCH_AHEAD_NEIGHBOUR)
			touch_prefetch_neighbours(cache, entries[left - 1 - TOUCH_AHEAD_NEIGHBOUR]);
		uint32_t entry = entries[left - 1];
		if (entry == ENTRY_NONE)
			continue;
		assert(entry < cache->entries_begun);
		cache->tick++;
		for (unsigned tier = 0; tier < TIERS; tier++)
			if (cache->entries[entry].copy[tier] != SLOT_NONE)
				copy_touch(cache, tier, cache->entries[entry].copy[tier]);
	}
}

static void copy_make_coldest(struct cache *cache, enum tier_id tier, uint32_t first)
{
	uint32_t slot = first;

	do {
		struct class *class = slot_class(cache, tier, slot);
		if (class->coldest != slot) {
			order_remove(cache, class, slot);
			order_add_coldest(cache, class, slot);
		}
		slot = slot_at(cache, tier, slot)->sibling;
	} while (slot != first);
}

/* The tail is found from the deepest block up, and moved from its top down, so that the deepest
 * goes first. */
unsigned cache_demote_tail(struct cache *cache, const uint32_t *entries, unsigned count)
{
	unsigned first = count;
	unsigned moved = 0;

	while (first > 0) {
		uint32_t entry = entries[first - 1];
		assert(entry == ENTRY_NONE || entry < cache->entries_begun);
		if (entry != ENTRY_NONE && cache->colds[entry].children > 1)
			break;
		first--;
	}
	for (unsigned i = first; i < count; i++) {
		if (entries[i] == ENTRY_NONE)
			continue;
		for (unsigned tier = 0; tier < TIERS; tier++)
			if (cache->entries[entries[i]].copy[tier] != SLOT_NONE)
				copy_make_coldest(cache, tier,
						  cache->entries[entries[i]].copy[tier]);
		moved++;
	}
	return moved;
}
