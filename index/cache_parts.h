/*
 * index/cache_parts.h: what the files of index/ share behind cache.h. Included by index/ only.
 *
 * How it hangs together: a tenant has one share a tier; a share has classes (one a slot size); a
 * class has extents, runs of units of the share's area; an extent has slots, whose numbers come in
 * chunks of CHUNK_SLOTS, so slot -> chunk -> (extent, ordinal) -> offset. An entry names the first
 * slot of its copy in each tier; the slots of a copy are a ring.
 *
 * An *orphan* is a slot that left its copy (dropped, evicted with its extent) while somebody still
 * reads (holds > 0) or fills it. It is in no ring (sibling == SLOT_NONE) and no order, keeps the
 * name of its entry, and becomes FREE when the last user is through. An entry with orphans is not
 * used for another key, so a lease never names a foreign one.
 */
#ifndef KVTIER_INDEX_CACHE_PARTS_H
#define KVTIER_INDEX_CACHE_PARTS_H

#include "index/cache.h"

#include "base/list.h"

#include <assert.h>
#include <stddef.h>

#define CHUNK_SLOTS 64u
#define UNIT_NONE UINT32_MAX
#define CHUNK_NONE UINT32_MAX
/* Slots that a search for a victim looks at, held and FILLING ones included. */
#define VICTIM_SCAN_MAX 4096u
/* Slots that it looks at behind the first dirty one, to find a clean one. */
#define VICTIM_DIRTY_MAX 64u
/* Wants for which a class does not look at other classes after what is old there was held. */
#define STEAL_PAUSE_CALLS 16u
/* An extent takes at most one part in so many of its area. */
#define EXTENT_AREA_PART 8u
/* One part in so many (3 %) may be lost behind an extent's last slot. */
#define EXTENT_WASTE_PART 33u
/* Below what 16 bits hold. */
#define SLOT_HOLDS_MAX 65000u
/* Holds that one cache_lease_expire() gives back. */
#define LEASE_EXPIRE_ITEMS_MAX 16384u
/* Entries that one cache_forgotten_sweep() looks at. */
#define SWEEP_LOOKS_MAX 4096u

/* entry.flags. The lowest TIERS bits: the copy in that tier is whole, and the listener was told. */
#define ENTRY_WHOLE(tier) ((uint8_t)(1u << (tier)))
#define ENTRY_WHOLE_ANY ((uint8_t)((1u << TIERS) - 1))
#define ENTRY_LINKED ((uint8_t)0x40) /* in the table */
#define ENTRY_USED ((uint8_t)0x80)   /* not on the free list */

/* The rarely read part of an entry. */
struct entry_cold {
	uint32_t parent; /* entry, current while parent_generation is its generation; free: the next
			    free */
	uint32_t orphans;  /* slots that still name this entry and are in no copy */
	uint32_t children; /* resident entries that name this one as their parent */
	uint16_t parent_generation;
	uint16_t generation; /* raised when the entry is freed */
};
_Static_assert(sizeof(struct entry_cold) == 16, "the cold part is 16 bytes a block");

struct class;
struct area;

/* One a unit; counts where a unit is the first of an extent (class != NULL). */
struct extent {
	_Alignas(64) struct class *class; /* NULL: none starts here */
	struct area *area;
	uint64_t last_touched; /* the tick of its most recently touched slot */
	uint32_t first_unit, units_count;
	uint32_t slots_count;
	uint32_t slots_used; /* not FREE */
	uint32_t pins;       /* slots held or FILLING: nobody may take the extent away */
	uint32_t generation;
	uint32_t first_chunk;
	uint16_t device;
	bool is_retired; /* its device is fenced: its slots are not given out, it goes with its last
			    pin */
};
_Static_assert(sizeof(struct extent) == 64, "a touch meets extents at random: one line each");

struct chunk {
	struct extent *extent;  /* NULL: free */
	uint32_t first_ordinal; /* of its slots in the extent */
	uint32_t next;          /* of the extent, or of the free ones */
};

struct area {
	enum tier_id tier;
	uint64_t unit_bytes;
	uint32_t units_count, units_free; /* units of fenced devices are not free */
	unsigned devices_count;
	uint32_t device_first[CACHE_DEVICES_MAX + 1];
	uint32_t device_hint[CACHE_DEVICES_MAX]; /* no unit of the device below it is free */
	bool is_fenced[CACHE_DEVICES_MAX];
	unsigned device_next; /* gets the next extent */
	uint32_t generation_next;
	uint64_t frees; /* raised when units become free: a failed search may be tried again */
	uint32_t *unit_extent; /* first unit of the extent that a unit belongs to, or UNIT_NONE */
	struct extent *extents;
};

struct share {
	struct area *area; /* NULL: none */
	uint32_t units_max, units_used;
	struct class *classes;
	uint64_t copies_whole, evictions, extents_taken;
};

struct class
{
	struct class *next; /* of the share; or of the unused classes */
	struct share *share;
	uint32_t tenant;
	enum tier_id tier;
	uint32_t slot_bytes;
	uint32_t extent_units; /* of a new extent; shorter where no such run is to be had */
	uint32_t units_count;
	uint32_t coldest, warmest; /* the recency order of FILLING, READY and LEAVING slots */
	uint32_t free_first[CACHE_DEVICES_MAX];
	unsigned device_next; /* gives the next free slot */
	unsigned steal_pause;
	uint64_t slots[SLOT_STATES];
	uint64_t slots_count, slots_listed; /* listed: FREE and not retired */
	uint64_t slots_held;
	uint64_t slots_renewable; /* BAD, and held by nobody */
	uint64_t steal_bound;  /* no extent of another class was touched before it */
	uint64_t window_frees; /* the area's `frees` when no run of `window_units` was found */
	uint32_t window_units; /* 0: none was missed */
};

struct tenant {
	struct share shares[TIERS];
	uint32_t floor;
	uint32_t leases_count;
	uint64_t lease_items_count; /* of at most an equal part of all */
	uint32_t spaces_open, spaces_leaving;
};

enum space_state {
	SPACE_FREE,
	SPACE_OPEN,
	SPACE_LEAVING /* given back, but entries name it still; nobody finds it */
};

struct space {
	uint8_t fingerprint[SPACE_ID_BYTES];
	uint32_t tenant;
	uint32_t floor;
	enum space_state state; /* written by one function */
	uint32_t entries;       /* that name it, those with nothing but orphans included */
	uint64_t holds;         /* a lease's items hold it, too */
	uint64_t used;          /* the tick of the end of its last hold */
	struct cache_space_figures figures;
};

struct lease_item {
	uint32_t entry;
	uint32_t slot;
	uint32_t next; /* of the lease, or of the free ones */
	uint32_t tier;
};

struct lease {
	uint64_t deadline_us;
	uint32_t generation; /* odd: in use */
	uint32_t tenant;
	uint32_t first, last; /* items, in the order of the entries */
	uint32_t heap_place;  /* in the heap of deadlines; free: the next free lease */
	bool is_expired;      /* not live any more; its items are being given back */
	bool is_left;         /* its owner has left: it ends with its last use */
	uint32_t uses;
	struct list *owner; /* whose list it is on, or NULL */
	struct list_node owned;
};

struct slot_table {
	struct slot *slots;
	struct chunk *chunks;
	uint32_t chunks_count, chunks_free, chunk_free_first;
};

#define FIXED_ARRAYS_MAX 16u

struct fixed_array {
	void *start;
	uint64_t bytes;
};

struct cache {
	struct cache_config config;
	uint64_t secrets[6]; /* of the table's hash: nobody who cannot guess them can aim at one
				bucket */
	uint64_t *buckets;   /* tag << 32 | entry + 1; 0: empty */
	uint64_t buckets_count;
	struct entry *entries;
	struct entry_cold *colds;
	uint32_t entries_begun; /* entries from here on were never used */
	uint32_t entries_linked, entries_used;
	uint32_t entry_free_first;
	struct slot_table tables[TIERS];
	uint64_t tick; /* of the touches */
	uint64_t changes; /* of what is found: see cache_changes() */
	struct area *areas;
	struct tenant *tenants;
	struct space *spaces;
	struct class *classes;
	struct class *class_unused;
	uint32_t areas_count, tenants_count, classes_begun;
	uint32_t spaces_begun; /* spaces from here on were never used */
	uint32_t spaces_open;
	uint64_t spaces_tick;
	struct lease *leases;
	struct lease_item *lease_items;
	uint32_t *lease_heap;
	uint32_t leases_begun, lease_free_first, leases_live;
	uint32_t lease_items_begun, lease_item_free_first;
	uint64_t lease_items_used;
	uint64_t sweep_left; /* entries that the round of cache_forgotten_sweep() has still to look
				at */
	uint32_t sweep_next, sweep_end; /* the round goes on at 0 behind its end */
	uint64_t memory_bytes;
	struct fixed_array fixed[FIXED_ARRAYS_MAX];
	unsigned fixed_count;
	bool is_memory_short; /* some array could not be had */
};

/* ---- small helpers ---- */

static inline struct slot *slot_at(const struct cache *cache, enum tier_id tier, uint32_t slot)
{
	return &cache->tables[tier].slots[slot];
}

static inline struct chunk *slot_chunk(const struct cache *cache, enum tier_id tier, uint32_t slot)
{
	return &cache->tables[tier].chunks[slot / CHUNK_SLOTS];
}

static inline struct extent *slot_extent(const struct cache *cache, enum tier_id tier,
					 uint32_t slot)
{
	return slot_chunk(cache, tier, slot)->extent;
}

static inline struct class *slot_class(const struct cache *cache, enum tier_id tier, uint32_t slot)
{
	return slot_extent(cache, tier, slot)->class;
}

static inline bool slot_is_orphan(const struct slot *slot)
{
	return slot->sibling == SLOT_NONE;
}

static inline bool slot_is_readable(const struct slot *slot)
{
	return slot->state == SLOT_READY || slot->state == SLOT_LEAVING;
}

static inline uint32_t cache_floor(const struct cache *cache, uint32_t space)
{
	uint32_t floor = cache->spaces[space].floor;
	uint32_t tenant_floor = cache->tenants[cache->spaces[space].tenant].floor;

	return floor > tenant_floor ? floor : tenant_floor;
}

static inline bool entry_is_forgotten(const struct cache *cache, const struct entry *entry)
{
	return entry->epoch < cache_floor(cache, entry->space);
}

/* ---- cache.c: memory of fixed size, taken at start ---- */

/* Zeroed pages, huge ones where there are any; NULL: none left. */
void *cache_pages_take(struct cache *cache, uint64_t bytes);
void cache_pages_give(void *pages, uint64_t bytes);

/* ---- table.c: key -> entry ---- */

uint32_t table_find(const struct cache *cache, uint32_t space, uint16_t group, const uint8_t *hash);
/* A new linked entry without copies; ENTRY_NONE: all are in use. The key is not in the table. */
uint32_t entry_take(struct cache *cache, uint32_t space, uint16_t group, const uint8_t *hash);
void entry_set_parent(struct cache *cache, uint32_t entry, uint32_t parent);
/* The parent if it still exists, else ENTRY_NONE. */
uint32_t entry_parent(const struct cache *cache, uint32_t entry);
/* Takes an entry without copies off the table, and frees it if it has no orphans. */
void entry_settle(struct cache *cache, uint32_t entry);
void entry_unlink(struct cache *cache, uint32_t entry);

/* ---- spaces.c ---- */

/* An entry that names the space is used, or is not any more. */
void space_entry_added(struct cache *cache, uint32_t space);
void space_entry_gone(struct cache *cache, uint32_t space);

/* ---- order.c: recency ---- */

void order_add_warmest(struct cache *cache, struct class *class, uint32_t slot);
void order_add_coldest(struct cache *cache, struct class *class, uint32_t slot);
/* Right behind (colder than) `warmer`, which is of the same class; inherits its tick. */
void order_add_behind(struct cache *cache, struct class *class, uint32_t slot, uint32_t warmer);
void order_remove(struct cache *cache, struct class *class, uint32_t slot);

/* ---- slots.c: states, copies ---- */

/* The one function that writes a slot's state; also keeps the counts and the extent's pins. */
void slot_become(struct cache *cache, enum tier_id tier, uint32_t slot, enum slot_state next);
void slot_free(struct cache *cache, enum tier_id tier, uint32_t slot);
void free_list_add(struct cache *cache, enum tier_id tier, uint32_t slot);
void free_list_remove(struct cache *cache, enum tier_id tier, uint32_t slot);
/* A listed slot of the class, round-robin over its devices, or SLOT_NONE. Still FREE and listed. */
uint32_t free_list_next(struct class *class);
void copy_join(struct cache *cache, uint32_t entry, enum tier_id tier, uint32_t slot);
/* True when no slot of the copy is held or FILLING. */
bool copy_is_idle(const struct cache *cache, enum tier_id tier, uint32_t slot);
/* Ends a slot's part in its copy: FREE, or an orphan where somebody still reads or fills it. */
void slot_discard(struct cache *cache, enum tier_id tier, uint32_t slot);
/* The slots of a copy are freed, or orphaned where they are held; FILLING ones are left, or
 * orphaned too. Call entry_settle() afterwards. */
void copy_drop(struct cache *cache, uint32_t entry, enum tier_id tier, bool with_filling);
/* Tells that the copy is whole, if it is and was not told before. */
void copy_settle(struct cache *cache, uint32_t entry, enum tier_id tier);

/* ---- extents.c: units, extents, classes ---- */

/* The class of a slot size, made when it is new. -ENOSPC: no extent of the share can hold it;
 * -EAGAIN: classes_max. */
must_check int class_get(struct cache *cache, uint32_t tenant, enum tier_id tier,
			 uint32_t slot_bytes, struct class **out_class);
/* How many slots of this size the share could have; 0: none. */
uint64_t share_slots_max(const struct share *share, uint32_t slot_bytes);
/* How many slots the class has or could still get without taking from others. */
uint64_t class_slots_reach(const struct class *class);
/* Units that an extent takes for one of its slots. */
uint32_t class_units_least(const struct class *class);
bool chunks_suffice(const struct cache *cache, enum tier_id tier, uint64_t slots_count,
		    uint64_t chunks_given_back);
void extent_assign(struct cache *cache, struct class *class, uint32_t first_unit,
		   uint32_t units_count);
/* Drops every copy with a slot in it; what is held or FILLING is left as orphans. */
void extent_clear(struct cache *cache, struct extent *extent);
/* Gives back an extent that has no pins and was cleared. */
void extent_give(struct cache *cache, struct extent *extent);
/* Gives back a retired extent once nobody uses it. */
void extent_settle(struct cache *cache, struct extent *extent);
/* Whether so many free units lie one behind the other on a device that is not fenced. */
bool area_has_free_run(struct area *area, uint32_t units_count);
/* Takes a free run of so many units for the class; false: the share or the area has none. */
bool extent_take_free(struct cache *cache, struct class *class, uint32_t units);

/* ---- victims.c: who goes ---- */

struct want {
	struct class *class;
	uint32_t entry;  /* whose slot is wanted: its own copy does not go for it; or ENTRY_NONE */
	uint32_t parent; /* its parent, or ENTRY_NONE */
	bool is_parent_kept;  /* admission: the parent does not go for it */
	unsigned leaving;     /* out: dirty slots met */
	bool has_parent_gone; /* out */
};

/* A listed FREE slot of the class, whatever it takes. -EAGAIN: nothing can go now; -ECHILD: only
 * the parent could. */
must_check int want_slot(struct cache *cache, struct want *want, uint32_t *out_slot);
/* The coldest slot that may go for `want`, or SLOT_NONE. */
uint32_t victim_find(struct cache *cache, struct want *want, bool *out_is_parent,
		     uint64_t *out_touched);

#endif
