/* index/store.c: admission of new blocks, and slots for copies of blocks in further tiers. */
#include "index/cache_parts.h"

#include <errno.h>

static const char *const admission_names[CACHE_ADMISSIONS] = {
	[CACHE_ADMITTED] = "admitted",          [CACHE_PRESENT] = "present",
	[CACHE_ATTACHED] = "attached",          [CACHE_REFUSED_PARENT] = "refused: parent",
	[CACHE_REFUSED_FULL] = "refused: full", [CACHE_REFUSED_SIZE] = "refused: size",
};

const char *cache_admission_name(enum cache_admission admission)
{
	return (unsigned)admission < CACHE_ADMISSIONS ? admission_names[admission] : "unknown";
}

uint32_t cache_copy_slot(const struct cache *cache, uint32_t entry, enum tier_id tier,
			 unsigned shard)
{
	assert(entry < cache->entries_begun);
	uint32_t first = cache->entries[entry].copy[tier];
	uint32_t slot = first;

	if (first == SLOT_NONE)
		return SLOT_NONE;
	do {
		if (slot_at(cache, tier, slot)->shard == shard)
			return slot;
		slot = slot_at(cache, tier, slot)->sibling;
	} while (slot != first);
	return SLOT_NONE;
}

bool cache_entry_is_forgotten(const struct cache *cache, uint32_t entry)
{
	assert(entry < cache->entries_begun);
	return entry_is_forgotten(cache, &cache->entries[entry]);
}

bool cache_copy_is_whole(const struct cache *cache, uint32_t entry, enum tier_id tier)
{
	assert(entry < cache->entries_begun);
	return (cache->entries[entry].flags & ENTRY_WHOLE(tier)) != 0;
}

enum tier_id cache_entry_tier(const struct cache *cache, uint32_t entry)
{
	assert(entry < cache->entries_begun);
	for (unsigned tier = 0; tier < TIERS; tier++)
		if ((cache->entries[entry].flags & ENTRY_WHOLE(tier)) != 0)
			return tier;
	return TIERS;
}

/* A slot of the copy that stands in the order of this class: its shard's if there, or any. */
static uint32_t copy_slot_in_class(const struct cache *cache, uint32_t entry,
				   const struct class *class, unsigned shard)
{
	uint32_t found = SLOT_NONE;

	if (entry == ENTRY_NONE || cache->entries[entry].copy[class->tier] == SLOT_NONE)
		return SLOT_NONE;
	uint32_t first = cache->entries[entry].copy[class->tier];
	uint32_t slot = first;
	do {
		const struct slot *seen = slot_at(cache, class->tier, slot);
		if (slot_class(cache, class->tier, slot) == class) {
			if (seen->shard == shard)
				return slot;
			found = slot;
		}
		slot = seen->sibling;
	} while (slot != first);
	return found;
}

/*
 * A new slot's place: right behind its parent; without one here, behind its own copy's other
 * shards, behind `beside`, or at the warm end. If the parent just went for it, the cold end: the
 * block is deeper than what was coldest.
 */
static void slot_begin(struct cache *cache, const struct want *want, uint32_t slot, unsigned shard,
		       uint32_t beside)
{
	struct class *class = want->class;
	uint32_t warmer = copy_slot_in_class(cache, want->parent, class, shard);

	if (warmer == SLOT_NONE)
		warmer = copy_slot_in_class(cache, want->entry, class, shard);
	if (warmer == SLOT_NONE && beside != want->entry)
		warmer = copy_slot_in_class(cache, beside, class, shard);
	assert(slot_at(cache, class->tier, slot)->state == SLOT_FREE);
	free_list_remove(cache, class->tier, slot);
	slot_become(cache, class->tier, slot, SLOT_FILLING);
	slot_at(cache, class->tier, slot)->shard = shard & (CACHE_SHARDS_MAX - 1);
	if (want->has_parent_gone)
		order_add_coldest(cache, class, slot);
	else if (warmer != SLOT_NONE)
		order_add_behind(cache, class, slot, warmer);
	else
		order_add_warmest(cache, class, slot);
	copy_join(cache, want->entry, class->tier, slot);
}

/* The larger share. */
static enum tier_id home_by_size(const struct cache *cache, const struct cache_new *block)
{
	const struct tenant *tenant = &cache->tenants[cache->spaces[block->space].tenant];
	uint64_t slots[TIERS];

	for (unsigned tier = 0; tier < TIERS; tier++)
		slots[tier] = share_slots_max(&tenant->shares[tier], block->slot_bytes);
	if (block->lower_wanted && slots[TIER_NVME] > slots[TIER_CPU])
		return TIER_NVME;
	return slots[TIER_CPU] > 0 ? TIER_CPU : TIERS;
}

/* A copy that was begun stays where it was begun, or its shards would never meet. */
static enum tier_id home_tier(const struct cache *cache, const struct cache_new *block,
			      uint32_t entry)
{
	const struct tenant *tenant = &cache->tenants[cache->spaces[block->space].tenant];

	for (unsigned tier = 0; entry != ENTRY_NONE && tier < TIERS; tier++) {
		const uint32_t *copy = cache->entries[entry].copy;

		if (copy[tier] != SLOT_NONE && copy[TIERS - 1 - tier] == SLOT_NONE &&
		    share_slots_max(&tenant->shares[tier], block->slot_bytes) > 0)
			return tier;
	}
	return home_by_size(cache, block);
}

/*
 * The tier where some shards of a block lie may be too small for the others: what is left there of
 * a copy that was whole nowhere, as the other tier let its shards go one by one. Such a part is no
 * use to anybody, so it goes, and the block begins anew where there is more room. False: there is
 * no such part, or somebody uses it.
 */
static bool part_drop(struct cache *cache, const struct cache_new *block, uint32_t entry)
{
	enum tier_id begun = home_tier(cache, block, entry);

	if (entry == ENTRY_NONE || begun == home_by_size(cache, block) ||
	    cache_copy_is_whole(cache, entry, begun) ||
	    !copy_is_idle(cache, begun, cache->entries[entry].copy[begun]))
		return false;
	cache_entry_drop(cache, entry);
	return true;
}

/* What is there of this very shard: CACHE_PRESENT, CACHE_ATTACHED, or CACHE_ADMISSIONS for nothing.
 */
static enum cache_admission shard_presence(const struct cache *cache, uint32_t entry,
					   unsigned shard)
{
	enum cache_admission presence = CACHE_ADMISSIONS;

	for (unsigned tier = 0; tier < TIERS; tier++) {
		uint32_t slot = cache_copy_slot(cache, entry, tier, shard);
		if (slot == SLOT_NONE)
			continue;
		if (slot_is_readable(slot_at(cache, tier, slot)))
			return CACHE_PRESENT;
		presence = CACHE_ATTACHED;
	}
	return presence;
}

/* Entries are fewer than slots when the settings say so: then the class's coldest block goes as a
 * whole. */
static uint32_t entry_take_for(struct cache *cache, const struct cache_new *block,
			       struct want *want)
{
	uint32_t entry = entry_take(cache, block->space, block->group, block->hash);
	uint64_t touched;
	bool is_parent;

	if (entry != ENTRY_NONE)
		return entry;
	uint32_t victim = victim_find(cache, want, &is_parent, &touched);
	if (victim == SLOT_NONE)
		return ENTRY_NONE;
	want->class->share->evictions++;
	cache_entry_drop(cache, slot_at(cache, want->class->tier, victim)->entry);
	return entry_take(cache, block->space, block->group, block->hash);
}

static enum cache_admission admission_of(int result)
{
	assert(result < 0);
	return result == -ECHILD   ? CACHE_REFUSED_PARENT
	       : result == -ENOSPC ? CACHE_REFUSED_SIZE
				   : CACHE_REFUSED_FULL;
}

/* Of an admitted block, whose entry is new. */
static bool entry_begin(struct cache *cache, const struct cache_new *block, struct want *want)
{
	want->entry = entry_take_for(cache, block, want);
	if (want->entry == ENTRY_NONE)
		return false;
	struct entry *entry = &cache->entries[want->entry];
	entry->route_key = block->route_key;
	entry->tokens = block->tokens;
	entry->epoch = block->epoch;
	entry->shards_count = block->shards_count;
	entry_set_parent(cache, want->entry, want->parent);
	return true;
}

/* The parts of admission that change something: the key is wanted, and its parent is where it must
 * be. */
static enum cache_admission block_admit(struct cache *cache, const struct cache_new *block,
					uint32_t parent, uint32_t *inout_entry)
{
	struct want want = { .entry = *inout_entry, .parent = parent, .is_parent_kept = true };
	enum tier_id home = home_tier(cache, block, *inout_entry);
	uint32_t slot;

	if (home == TIERS)
		return CACHE_REFUSED_SIZE;
	int result = class_get(cache, cache->spaces[block->space].tenant, home, block->slot_bytes,
			       &want.class);
	if (result == 0)
		result = want_slot(cache, &want, &slot);
	if (result < 0)
		return admission_of(result);
	if (want.entry == ENTRY_NONE && !entry_begin(cache, block, &want))
		return CACHE_REFUSED_FULL;
	/* The oldest of its shards' epochs: a floor above it forgets them all. */
	if (cache->entries[want.entry].epoch > block->epoch)
		cache->entries[want.entry].epoch = block->epoch;
	slot_begin(cache, &want, slot, block->shard, ENTRY_NONE);
	*inout_entry = want.entry;
	return CACHE_ADMITTED;
}

enum cache_admission cache_admit(struct cache *cache, const struct cache_new *block,
				 uint32_t *out_entry)
{
	assert(cache_space_is_known(cache, block->space));
	if (block->shards_count == 0 || block->shards_count > CACHE_SHARDS_MAX ||
	    block->shard >= block->shards_count)
		return CACHE_REFUSED_SIZE;
	if (block->epoch < cache_floor(cache, block->space))
		return CACHE_REFUSED_FULL; /* its job began before a FORGET: it would be a miss at
					      once */
	uint32_t entry = table_find(cache, block->space, block->group, block->hash);
	if (entry != ENTRY_NONE && entry_is_forgotten(cache, &cache->entries[entry])) {
		cache_entry_drop(cache, entry);
		entry = ENTRY_NONE;
	}
	if (entry != ENTRY_NONE) {
		if (cache->entries[entry].shards_count != block->shards_count)
			return CACHE_REFUSED_SIZE;
		enum cache_admission presence = shard_presence(cache, entry, block->shard);
		if (presence != CACHE_ADMISSIONS) {
			*out_entry = entry;
			return presence;
		}
	}
	uint32_t parent = block->parent == NULL ? ENTRY_NONE
						: cache_find_any(cache, block->space, block->group,
								 block->parent);
	if (parent != ENTRY_NONE && parent == entry)
		return CACHE_REFUSED_PARENT; /* no block is its own parent */
	if (block->parent != NULL && block->parent_required && parent == ENTRY_NONE)
		return CACHE_REFUSED_PARENT;
	enum cache_admission admission = block_admit(cache, block, parent, &entry);
	if (admission != CACHE_ADMITTED && part_drop(cache, block, entry)) {
		entry = ENTRY_NONE;
		admission = block_admit(cache, block, parent, &entry);
	}
	if (admission == CACHE_ADMITTED)
		*out_entry = entry;
	return admission;
}

int cache_slot_take(struct cache *cache, uint32_t entry, enum tier_id tier, unsigned shard,
		    uint32_t slot_bytes, uint32_t beside, uint32_t *out_slot, unsigned *out_leaving)
{
	assert(entry < cache->entries_begun && tier < TIERS);
	assert(beside == ENTRY_NONE || beside < cache->entries_begun);
	const struct entry *seen = &cache->entries[entry];
	if (out_leaving != NULL)
		*out_leaving = 0;
	if ((seen->flags & ENTRY_LINKED) == 0 || entry_is_forgotten(cache, seen))
		return -ENOENT;
	if (shard >= seen->shards_count)
		return -EINVAL;
	uint32_t slot = cache_copy_slot(cache, entry, tier, shard);
	if (slot != SLOT_NONE) {
		if (slot_at(cache, tier, slot)->state != SLOT_FILLING)
			return -EEXIST;
		*out_slot = slot;
		return 0;
	}
	struct want want = { .entry = entry, .parent = entry_parent(cache, entry) };
	int result = class_get(cache, cache->spaces[seen->space].tenant, tier, slot_bytes,
			       &want.class);
	if (result < 0)
		return result;
	result = want_slot(cache, &want, &slot);
	if (out_leaving != NULL)
		*out_leaving = want.leaving;
	if (result < 0)
		return result;
	slot_begin(cache, &want, slot, shard, beside);
	*out_slot = slot;
	return 0;
}
