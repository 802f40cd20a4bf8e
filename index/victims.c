/*
 * index/victims.c: where a slot comes from when none is free, and who goes for it.
 *
 * In this order: a free slot of the class; free units of the share; then the older of the class's
 * own victim and the coldest run of units that other classes of the share could give up. The age of
 * an extent is that of its most recently touched slot: taking it drops all of them. A class that
 * has no slots at all takes whatever run is coldest, however recent, so a new model is never
 * starved by those that were there before. Nor by those who lie between the units of its share: a
 * class that has nothing to give up takes as few units as hold a slot where no longer run is to be
 * had, though more is lost behind its last slot.
 */
#include "index/cache_parts.h"

#include <errno.h>

/*
 * Searches from the cold end. What is held or being filled is passed over. The search ends at the
 * parent of the block that wants the slot, if admission asks: everything warmer is either the
 * parent's own prefix, without which the new block is useless, or more recent than the new block
 * would be, whose place is right behind its parent. By LRU the new block itself is then the one to
 * go.
 */
uint32_t victim_find(struct cache *cache, struct want *want, bool *out_is_parent,
		     uint64_t *out_touched)
{
	const struct class *class = want->class;
	enum tier_id tier = class->tier;
	unsigned limit = VICTIM_SCAN_MAX;
	uint32_t slot = class->coldest;

	*out_is_parent = false;
	*out_touched = UINT64_MAX;
	for (; slot != SLOT_NONE && limit > 0; slot = slot_at(cache, tier, slot)->warmer, limit--) {
		struct slot *seen = slot_at(cache, tier, slot);
		if (want->is_parent_kept && want->parent != ENTRY_NONE &&
		    seen->entry == want->parent) {
			if (*out_touched == UINT64_MAX)
				*out_touched = seen->touched;
			*out_is_parent = true;
			return SLOT_NONE;
		}
		if (seen->entry == want->entry || seen->state == SLOT_FILLING ||
		    !copy_is_idle(cache, tier, slot))
			continue;
		if (seen->state == SLOT_READY && seen->lower != LOWER_PENDING) {
			*out_touched = seen->touched;
			return slot;
		}
		/* Dirty: it goes later, when it is written down; a few more are looked at for one
		 * that may go now. */
		if (want->leaving++ == 0) {
			*out_touched = seen->touched;
			if (limit > VICTIM_DIRTY_MAX)
				limit = VICTIM_DIRTY_MAX + 1;
		}
		if (seen->state == SLOT_LEAVING)
			continue;
		slot_become(cache, tier, slot, SLOT_LEAVING);
		if (cache->config.listener.slot_leaving != NULL)
			cache->config.listener.slot_leaving(cache->config.listener.owner, slot);
	}
	return SLOT_NONE;
}

/* ---- runs of units that other classes could give up ---- */

struct run {
	uint32_t first_unit; /* UNIT_NONE: none found */
	uint32_t units_count;
	uint64_t touched;     /* of its most recently touched slot; 0: nothing in it */
	uint32_t class_units; /* of the class of that slot; 0: nothing in it */
};

/* What lies at a unit, for a run that `class` would take. False: it may not be taken now. */
static bool unit_may_go(const struct class *class, uint32_t unit, const struct extent **out_extent)
{
	const struct area *area = class->share->area;
	uint32_t first = area->unit_extent[unit];

	*out_extent = NULL;
	if (first == UNIT_NONE)
		return true;
	const struct extent *extent = &area->extents[first];
	*out_extent = extent;
	return extent->class != class && extent->class->share == class->share && extent->pins == 0;
}

/*
 * Weighs the run that starts at `start` and is as long as `best`. Returns 0: out_run is colder than
 * that; else by how much `start` may be raised: past the unit that cannot go, or 1.
 */
static uint32_t run_weigh(const struct cache *cache, const struct class *class, uint32_t start,
			  const struct run *best, struct run *out_run)
{
	const struct share *share = class->share;
	const struct extent *last = NULL;
	uint64_t units_given = 0, chunks_given = 0;
	struct run run = { .first_unit = start, .units_count = best->units_count };

	for (uint32_t i = 0; i < run.units_count; i++) {
		const struct extent *extent;
		if (!unit_may_go(class, start + i, &extent))
			return i + 1;
		if (extent == NULL || extent == last)
			continue;
		last = extent;
		units_given += extent->units_count;
		chunks_given += (extent->slots_count + CHUNK_SLOTS - 1) / CHUNK_SLOTS;
		/* Where everything has gone, nobody loses anything. */
		if (extent->slots_used > 0 && extent->last_touched >= run.touched) {
			run.touched = extent->last_touched;
			run.class_units = extent->class->units_count;
		}
		if (run.touched >= best->touched)
			return 1;
	}
	uint64_t slots = run.units_count * share->area->unit_bytes / class->slot_bytes;
	if (share->units_used - units_given + run.units_count > share->units_max ||
	    !chunks_suffice(cache, class->tier, slots, chunks_given))
		return 1;
	*out_run = run;
	return 0;
}

static struct run run_find(const struct cache *cache, const struct class *class, uint32_t units)
{
	const struct area *area = class->share->area;
	struct run best = { .first_unit = UNIT_NONE, .units_count = units, .touched = UINT64_MAX };

	for (unsigned device = 0; device < area->devices_count; device++) {
		uint32_t unit = area->device_first[device];
		if (area->is_fenced[device])
			continue;
		while (unit + units <= area->device_first[device + 1]) {
			uint32_t skip = run_weigh(cache, class, unit, &best, &best);
			unit += skip == 0 ? 1 : skip;
		}
	}
	return best;
}

/* When the least recent extent of the others was touched, pinned ones included: it can only become
 * later. */
static uint64_t others_oldest(const struct class *class)
{
	const struct area *area = class->share->area;
	uint64_t oldest = UINT64_MAX;

	for (uint32_t unit = 0; unit < area->units_count; unit++) {
		uint32_t first = area->unit_extent[unit];
		if (first != unit)
			continue;
		const struct extent *extent = &area->extents[first];
		if (extent->class != class && extent->class->share == class->share &&
		    extent->last_touched < oldest)
			oldest = extent->last_touched;
	}
	return oldest;
}

static bool others_have_units(const struct class *class)
{
	for (const struct class *other = class->share->classes; other != NULL; other = other->next)
		if (other != class && other->units_count > 0)
			return true;
	return false;
}

static void run_take(struct cache *cache, struct class *class, const struct run *run)
{
	struct area *area = class->share->area;

	for (uint32_t i = 0; i < run->units_count; i++) {
		uint32_t first = area->unit_extent[run->first_unit + i];
		if (first == UNIT_NONE)
			continue;
		struct extent *extent = &area->extents[first];
		extent_clear(cache, extent);
		extent_give(cache, extent);
	}
	extent_assign(cache, class, run->first_unit, run->units_count);
}

/* Where everything has gone, nobody loses anything. */
static uint64_t extent_age(const struct extent *extent)
{
	return extent->slots_used > 0 ? extent->last_touched : 0;
}

/* The coldest extent of other classes that may go, or NULL; how many units those have that are
 * older than `older_than`. */
static struct extent *extent_find_coldest(const struct class *class, uint64_t older_than,
					  uint64_t *out_units)
{
	const struct area *area = class->share->area;
	struct extent *coldest = NULL;

	*out_units = 0;
	for (uint32_t unit = 0; unit < area->units_count; unit++) {
		const struct extent *seen;

		if (area->unit_extent[unit] != unit || !unit_may_go(class, unit, &seen) ||
		    seen == NULL || extent_age(seen) >= older_than)
			continue;
		*out_units += seen->units_count;
		if (coldest == NULL || extent_age(seen) < extent_age(coldest))
			coldest = &area->extents[unit];
	}
	return coldest;
}

/*
 * For a class whose share has no run of so many units, as its extents lie apart: gives up the
 * coldest ones that are older than `older_than`, until as many units may be taken elsewhere. None
 * goes where they would not suffice.
 */
static bool quota_free(struct cache *cache, struct class *class, uint32_t units,
		       uint64_t older_than)
{
	struct share *share = class->share;
	uint64_t older;

	while (share->units_used + units > share->units_max) {
		struct extent *extent = extent_find_coldest(class, older_than, &older);

		if (share->units_used + units > share->units_max + older)
			return false;
		extent_clear(cache, extent);
		extent_give(cache, extent);
	}
	return extent_take_free(cache, class, units);
}

/* The extents of these copies may not be taken for the sake of the same block. */
static void copies_pin(struct cache *cache, const struct want *want, int by)
{
	const uint32_t kept[2] = { want->entry, want->is_parent_kept ? want->parent : ENTRY_NONE };

	for (unsigned i = 0; i < 2; i++) {
		if (kept[i] == ENTRY_NONE)
			continue;
		uint32_t first = cache->entries[kept[i]].copy[want->class->tier];
		if (first == SLOT_NONE)
			continue;
		uint32_t slot = first;
		do {
			slot_extent(cache, want->class->tier, slot)->pins += (uint32_t)by;
			slot = slot_at(cache, want->class->tier, slot)->sibling;
		} while (slot != first);
	}
}

/* Takes a run of so many units from other classes if that is older than `touched`, or the class has
 * no slots. */
static bool units_steal(struct cache *cache, const struct want *want, uint32_t units,
			uint64_t touched)
{
	struct class *class = want->class;
	bool must = class->units_count == 0;

	copies_pin(cache, want, 1);
	struct run run = run_find(cache, class, units);
	bool was_freed = run.first_unit == UNIT_NONE &&
			 (must || area_has_free_run(class->share->area, units)) &&
			 quota_free(cache, class, units, must ? UINT64_MAX : touched);
	copies_pin(cache, want, -1);
	if (was_freed)
		return true;
	bool is_older = run.touched < touched || run.class_units == 0 ||
			(run.touched == touched && run.class_units > class->units_count);
	if (run.first_unit == UNIT_NONE || (!must && !is_older))
		return false;
	run_take(cache, class, &run);
	return true;
}

/*
 * Takes a run from other classes if that is older than the class's own victim, touched at `touched`
 * (UINT64_MAX: it has none). Looking costs a walk over all units, so the oldest tick found is kept:
 * ticks only rise, and until the own victim is younger than that there is nothing to look for.
 * After a look in vain (what is old is held) it waits a few calls. An extent may become empty,
 * though, so without a victim of its own (`is_starved`) that is no reason not to look.
 */
static bool run_steal(struct cache *cache, const struct want *want, uint64_t touched,
		      bool is_starved)
{
	struct class *class = want->class;
	bool must = class->units_count == 0;

	if (!others_have_units(class))
		return false;
	if (!must && !is_starved && touched < class->steal_bound)
		return false;
	if (!must && class->steal_pause > 0) {
		class->steal_pause--;
		return false;
	}
	uint32_t least = class_units_least(class);
	if (units_steal(cache, want, class->extent_units, touched) ||
	    (is_starved && least < class->extent_units && units_steal(cache, want, least, touched)))
		return true;
	class->steal_bound = others_oldest(class);
	class->steal_pause = is_starved || class->steal_bound <= touched ? STEAL_PAUSE_CALLS : 0;
	return false;
}

/* Gives out anew the quarantined slots of an extent that nobody holds; false: it has none. */
static bool extent_renew(struct cache *cache, const struct extent *extent)
{
	enum tier_id tier = extent->class->tier;
	const struct slot_table *table = &cache->tables[tier];
	bool is_renewed = false;

	for (uint32_t chunk = extent->first_chunk; chunk != CHUNK_NONE;
	     chunk = table->chunks[chunk].next) {
		uint32_t left = extent->slots_count - table->chunks[chunk].first_ordinal;
		for (uint32_t i = 0; i < CHUNK_SLOTS && i < left; i++) {
			uint32_t slot = chunk * CHUNK_SLOTS + i;
			if (table->slots[slot].state != SLOT_BAD || table->slots[slot].holds > 0)
				continue;
			slot_free(cache, tier, slot);
			is_renewed = true;
		}
	}
	return is_renewed;
}

/* Where a class has nothing to give up but quarantined slots, those of an extent are given out
 * anew: a sick device is fenced for what it does to new blocks, and a sound one must not stay empty
 * for ever. */
static bool bad_slots_renew(struct cache *cache, struct class *class)
{
	const struct area *area = class->share->area;

	for (uint32_t unit = 0; class->slots_renewable > 0 && unit < area->units_count; unit++) {
		const struct extent *extent = &area->extents[unit];

		if (area->unit_extent[unit] == unit && extent->class == class &&
		    !extent->is_retired && extent_renew(cache, extent))
			return true;
	}
	return false;
}

int want_slot(struct cache *cache, struct want *want, uint32_t *out_slot)
{
	struct class *class = want->class;
	uint64_t touched;
	bool is_parent;

	uint32_t slot = free_list_next(class);
	if (slot == SLOT_NONE && extent_take_free(cache, class, class->extent_units))
		slot = free_list_next(class);
	if (slot == SLOT_NONE) {
		uint32_t victim = victim_find(cache, want, &is_parent, &touched);
		bool is_starved = victim == SLOT_NONE;
		if (!(is_starved && extent_take_free(cache, class, class_units_least(class))) &&
		    !run_steal(cache, want, touched, is_starved) &&
		    !(is_starved && want->leaving == 0 && bad_slots_renew(cache, class))) {
			if (victim == SLOT_NONE)
				return is_parent && want->leaving == 0 ? -ECHILD : -EAGAIN;
			uint32_t entry = slot_at(cache, class->tier, victim)->entry;
			want->has_parent_gone = entry == want->parent && entry != ENTRY_NONE;
			copy_drop(cache, entry, class->tier, false);
			class->share->evictions++;
			entry_settle(cache, entry);
		}
		slot = free_list_next(class);
	}
	assert(slot != SLOT_NONE);
	assert(slot_at(cache, class->tier, slot)->state == SLOT_FREE);
	*out_slot = slot;
	return 0;
}
