/*
 * index/cache.h: which block lies in which slot of which tier, in what order they go, and who holds
 * them.
 *
 * Pure: no I/O, no clock, no threads; the daemon's loop and the simulator drive the same code. What
 * moves bytes is told what to do by the answers, and what became of slots by the listener. Runs on:
 * one thread (the loop). Owns:     every entry, slot and lease; all memory is taken by
 * cache_create(). Always:   a slot is in exactly one state; the counts of a class's states add up
 * to its slots; an entry without any slot does not exist; the entries of one (tenant, tier, class)
 * stand in one recency order.
 *
 * Words: an *entry* is one key of one space. A *copy* is what an entry has in one tier: one slot a
 * shard. A copy is whole when all shards_count slots are READY (or LEAVING), and only then found by
 * cache_find(). An *area* is a run of units of memory or of devices; a tenant's *share* of a tier
 * is the units that it may take of one area. A *class* is all slots of one size of one share; it
 * takes *extents* (runs of units) as it needs them.
 */
#ifndef KVTIER_INDEX_CACHE_H
#define KVTIER_INDEX_CACHE_H

#include "base/error.h"
#include "transfer/slot_header.h"

#include <stdbool.h>
#include <stdint.h>

#define ENTRY_NONE UINT32_MAX
#define SLOT_NONE UINT32_MAX
#define LEASE_NONE UINT64_C(0)
#define CACHE_DEVICES_MAX 8

enum slot_state {
	SLOT_FREE,    /* holds nothing */
	SLOT_FILLING, /* bytes are arriving; nobody may read them; keeps its place in the order */
	SLOT_READY,   /* readable; may be held */
	SLOT_LEAVING, /* a dirty victim on its way down; still found; a new hold returns it to READY
		       */
	SLOT_BAD,     /* quarantined; used anew with its extent, or where nothing else is left */
	SLOT_STATES
};

/* What is known of the lower copy of a cpu slot: decides whether a victim may simply go. */
enum slot_lower {
	LOWER_NONE,    /* no lower tier will have it (none there, refused, or it has already gone
			  there): clean */
	LOWER_PENDING, /* is to be, or is being, written down: dirty */
	LOWER_WRITTEN  /* a whole copy is READY below: clean */
};

/* 64 bytes: one cache line. */
struct entry {
	uint8_t hash[BLOCK_HASH_BYTES];
	uint64_t route_key;
	uint32_t space;       /* handle in the cache's space table */
	uint32_t epoch;       /* it was stored in */
	uint32_t copy[TIERS]; /* first slot of its copy in the tier, or SLOT_NONE */
	uint32_t tokens;
	uint16_t group;
	uint8_t shards_count;
	uint8_t flags; /* the cache's own, but for the tiers: entry_is_whole() */
};
_Static_assert(sizeof(struct entry) == 64, "an entry is one cache line");

/* Whether its copy in the tier is whole, as the listener was told. */
static inline bool entry_is_whole(const struct entry *entry, enum tier_id tier)
{
	return (entry->flags >> tier & 1) != 0;
}

/* 32 bytes. Public for reading only. */
struct slot {
	uint32_t entry; /* or ENTRY_NONE */
	uint32_t colder,
		warmer;      /* FREE: the free list; FILLING, READY, LEAVING: the recency order */
	uint32_t sibling;    /* the next shard's slot of this copy, in a ring */
	uint32_t generation; /* raised when the slot is freed; never 0 */
	uint16_t holds;
	uint8_t state;     /* enum slot_state; written by one function */
	uint8_t lower : 2; /* enum slot_lower */
	uint8_t shard : 6; /* so at most 64 shards */
	uint64_t touched;  /* the tick of its last touch */
};
_Static_assert(sizeof(struct slot) == 32, "two slots are one cache line");
#define CACHE_SHARDS_MAX 64

struct slot_place {
	uint32_t area;
	uint32_t device; /* of the area */
	uint64_t offset; /* bytes in the arena or in the device's slots area */
	uint32_t slot_bytes;
	uint32_t extent_generation;
	uint32_t slot_generation;
};

/* Told of every change; called inside the cache's functions, so it must not call back into the
 * cache, but for what it asks of spaces. */
struct cache_listener {
	/* A copy became whole / is no longer there. Once each. For the inventory and the
	 * statistics. */
	void (*copy_whole)(void *owner, const struct entry *entry, enum tier_id tier);
	void (*copy_gone)(void *owner, const struct entry *entry, enum tier_id tier);
	/* A slot that was READY or LEAVING is about to be freed (evicted, dropped, replaced,
	 * quarantined). */
	void (*slot_gone)(void *owner, const struct entry *entry, enum tier_id tier, uint32_t slot,
			  const struct slot_place *place);
	/* A dirty cpu slot was chosen to go (LEAVING): write it down first. */
	void (*slot_leaving)(void *owner, uint32_t cpu_slot);
	/* An extent was assigned (units_count > 0) or given back (slot_bytes = 0). */
	void (*extent_changed)(void *owner, uint32_t area);
	void *owner;
};

struct cache_config {
	uint32_t entries_max;
	uint32_t slots_max[TIERS];
	uint32_t areas_max, tenants_max, leases_max;
	uint32_t spaces_max;
	uint32_t spaces_leaving_max;    /* given back, and not yet rid of their entries */
	uint32_t classes_max;           /* over all shares */
	uint64_t lease_items_max;       /* held slots, over all leases */
	uint64_t seed;                  /* of the table's hash */
	struct cache_listener listener; /* functions may be NULL */
};

struct cache;
struct list;

must_check int cache_create(struct cache **out_cache, const struct cache_config *config,
			    struct error *error);
void cache_destroy(struct cache *cache);
/* Bytes of memory taken, and of that per entry and slot in use (for `index_bytes_block`). */
uint64_t cache_memory_bytes(const struct cache *cache);
/* Walks everything and asserts what "Always" says. Slow; for tests and `kvtier verify`. */
void cache_check(const struct cache *cache);

/* ---- areas, tenants, spaces: set up at start (spaces also later) ---- */

/* device_units: units of each of `devices_count` devices, in order. Units are numbered through all
 * devices; an extent never crosses a device. Returns the area's handle in *out_area. */
must_check int cache_area_add(struct cache *cache, enum tier_id tier, uint64_t unit_bytes,
			      const uint32_t *device_units, unsigned devices_count,
			      uint32_t *out_area);
/* A fenced device: all its copies are dropped (those held: when released), its units are given out
 * no more. */
void cache_device_fence(struct cache *cache, uint32_t area, uint32_t device);

/* Shares: for each tier the area (UINT32_MAX: none) and how many of its units the tenant may take.
 */
must_check int cache_tenant_add(struct cache *cache, const uint32_t area[TIERS],
				const uint32_t units_max[TIERS], uint32_t *out_tenant);
/* The same fingerprint of the same tenant gives the same handle. -ENOSPC: spaces_max. */
must_check int cache_space_open(struct cache *cache, uint32_t tenant,
				const uint8_t fingerprint[SPACE_ID_BYTES], uint32_t *out_space);
/* -ENOENT when never opened. */
must_check int cache_space_find(const struct cache *cache, uint32_t tenant,
				const uint8_t fingerprint[SPACE_ID_BYTES], uint32_t *out_space);
/* How many spaces of the tenant there are. */
uint32_t cache_spaces_count(const struct cache *cache, uint32_t tenant);
/* Numbers of spaces are below it; some of them may be nobody's. */
uint32_t cache_spaces_end(const struct cache *cache);
/* Whether a number from outside is a space's at all; what follows asserts it. */
bool cache_space_is_known(const struct cache *cache, uint32_t space);
/* Who keeps a space's number from one call to the next holds it: a number may mean another space
 * once it was given back. Leases hold the spaces of their entries. */
void cache_space_hold(struct cache *cache, uint32_t space);
void cache_space_release(struct cache *cache, uint32_t space);
/*
 * Gives back the space of the tenant that is missed least among those that nobody holds: one
 * without entries, else that whose last hold ended longest ago. Nobody finds it from now on; its
 * entries are misses, and are freed as forgotten ones are. -ENOENT: every space is held. -EAGAIN:
 * those given back before it still have entries: sweep, and try again.
 */
must_check int cache_space_give_back(struct cache *cache, uint32_t tenant);
uint32_t cache_space_tenant(const struct cache *cache, uint32_t space);
const uint8_t *cache_space_fingerprint(const struct cache *cache, uint32_t space);
/* Everything of the space with an epoch below `floor` is a miss from now on, for ever; its slots
 * are freed as they are met (admission, eviction) and by cache_forgotten_sweep(). */
void cache_space_forget(struct cache *cache, uint32_t space, uint32_t floor);
void cache_tenant_forget(struct cache *cache, uint32_t tenant, uint32_t floor);
/* Frees at most `limit` forgotten, unheld copies; returns how many entries it looked at (0: the
 * round is over). */
unsigned cache_forgotten_sweep(struct cache *cache, unsigned limit);

/* ---- lookups ---- */

struct cache_query {
	uint32_t space;
	uint16_t group;
	const uint8_t (*hashes)[BLOCK_HASH_BYTES];
	unsigned count;
};

/* Fills out_entries[count] with entries that have a whole copy in some tier, or ENTRY_NONE. Does
 * not touch. Prefetches in batches. Not measured by itself: a whole LOOKUP, with the touches and
 * the answer, costs about 71 ns a key at 10 million random keys, on a quiet machine. */
void cache_find(struct cache *cache, const struct cache_query *query, uint32_t *out_entries);
/* The same, with the fastest tier that has a whole copy, or TIERS, in out_tiers[count]. */
void cache_find_tiers(struct cache *cache, const struct cache_query *query, uint32_t *out_entries,
		      uint8_t *out_tiers);
/* Raised whenever a copy becomes whole or goes, and when something is forgotten: as long as it
 * stays the same, what was found is still there, in the same tier. */
uint64_t cache_changes(const struct cache *cache);
/* The entry whatever the state of its copies, or ENTRY_NONE. */
uint32_t cache_find_any(struct cache *cache, uint32_t space, uint16_t group,
			const uint8_t hash[BLOCK_HASH_BYTES]);
const struct entry *cache_entry(const struct cache *cache, uint32_t entry);
/* The fastest tier with a whole copy, or TIERS. */
enum tier_id cache_entry_tier(const struct cache *cache, uint32_t entry);
/* Its epoch is below the floor: cache_find() does not find it. */
bool cache_entry_is_forgotten(const struct cache *cache, uint32_t entry);
bool cache_copy_is_whole(const struct cache *cache, uint32_t entry, enum tier_id tier);
/* The slot of one shard of a copy, or SLOT_NONE. */
uint32_t cache_copy_slot(const struct cache *cache, uint32_t entry, enum tier_id tier,
			 unsigned shard);

/* Makes entries[0] the most recent, then [1], ... : touches from the last to the first. ENTRY_NONE
 * is passed over. In every tier where an entry has a copy. */
void cache_touch(struct cache *cache, const uint32_t *entries, unsigned count);
/* END hint: moves the copies of these entries to the cold end, from the last up to the first fork
 * (an entry with more than one resident child). Returns how many were moved. */
unsigned cache_demote_tail(struct cache *cache, const uint32_t *entries, unsigned count);

/* ---- storing ---- */

struct cache_new {
	uint32_t space;
	uint16_t group;
	uint8_t shards_count;
	bool parent_required; /* full-attention groups: a block without its parent could never be
				 used */
	const uint8_t *hash;
	const uint8_t *parent; /* NULL: first of a prefix */
	uint64_t route_key;
	uint32_t tokens;
	uint32_t epoch;
	uint32_t slot_bytes;
	uint8_t shard;
	bool lower_wanted; /* policy: nvme takes new blocks now (budget, health) */
};

enum cache_admission {
	CACHE_ADMITTED, /* this shard's place is reserved; bytes are wanted */
	CACHE_PRESENT,  /* this shard is READY in some tier already; the entry was not changed */
	CACHE_ATTACHED, /* another store of this very shard is under way; wait for it */
	CACHE_REFUSED_PARENT, /* the parent is not here, or would have to go for it */
	CACHE_REFUSED_FULL,   /* no slot: everything is held or being filled; try later */
	CACHE_REFUSED_SIZE,   /* no extent of the share can hold such a slot */
	CACHE_ADMISSIONS
};

/*
 * The *home* tier is the larger share (in slots of this size) among cpu and, if lower_wanted, nvme.
 * Reserves a FILLING slot in the home tier, right behind the parent's slot in the order (no parent
 * there: the warm end), evicting the coldest unheld copy if none is free. The other tier's slot is
 * taken later by cache_slot_take(). *out_entry is written for ADMITTED, PRESENT and ATTACHED. A
 * block whose epoch is below the floor is REFUSED_FULL; one whose shards do not add up, or agree
 * with those stored, REFUSED_SIZE.
 */
enum cache_admission cache_admit(struct cache *cache, const struct cache_new *block,
				 uint32_t *out_entry);
const char *cache_admission_name(enum cache_admission admission);

/*
 * A slot of `entry`'s `shard` in `tier`, FILLING; the one that cache_admit reserved if there is
 * one. Placed right behind the parent's slot in that tier, else behind `beside` (an entry;
 * ENTRY_NONE: the warm end). If none is free: the older of the class's own victim and the coldest
 * extent that nobody holds goes. -EAGAIN: nothing can go now; slots that would go once written down
 * are LEAVING and counted in *out_leaving (may be NULL), and the listener's owner should write them
 * first. -ENOSPC: never possible for this size. -ENOENT: the entry was dropped or forgotten
 * meanwhile. -EEXIST: this shard is READY there already.
 */
must_check int cache_slot_take(struct cache *cache, uint32_t entry, enum tier_id tier,
			       unsigned shard, uint32_t slot_bytes, uint32_t beside,
			       uint32_t *out_slot, unsigned *out_leaving);

/* ---- slots ---- */

const struct slot *cache_slot(const struct cache *cache, enum tier_id tier, uint32_t slot);
void cache_slot_place(const struct cache *cache, enum tier_id tier, uint32_t slot,
		      struct slot_place *out_place);
/* True while the handle (slot, generation) names the same bytes. */
bool cache_slot_is_current(const struct cache *cache, enum tier_id tier, uint32_t slot,
			   uint32_t generation);
/* FILLING -> READY. Completes the copy if all shards are there. A cpu slot starts as LOWER_NONE;
 * see set_lower. False: the block was dropped or forgotten, or the device fenced, while it was
 * filled; the slot is FREE again, not READY. */
bool cache_slot_ready(struct cache *cache, enum tier_id tier, uint32_t slot);
void cache_slot_set_lower(struct cache *cache, uint32_t cpu_slot, enum slot_lower lower);
/* FILLING, READY or LEAVING, not held -> FREE, with the rest of its copy that is not held (the
 * remainder goes when it is released). Removes the entry when nothing is left of it. A FILLING slot
 * of another shard's store under way is left. */
void cache_slot_drop(struct cache *cache, enum tier_id tier, uint32_t slot);
/* FILLING or READY -> BAD: quarantined; the rest of its copy is dropped. Holds keep it from reuse,
 * not from BAD. */
void cache_slot_quarantine(struct cache *cache, enum tier_id tier, uint32_t slot);
/* All shards of all tiers of one entry: a stale or refused block. Held slots go when they are
 * released; the entry is not found from now on. */
void cache_entry_drop(struct cache *cache, uint32_t entry);

/* Holds keep a READY slot where it is; LEAVING returns to READY. */
void cache_slot_hold(struct cache *cache, enum tier_id tier, uint32_t slot);
void cache_slot_release(struct cache *cache, enum tier_id tier, uint32_t slot);

/* ---- leases: holds with a deadline ---- */

/*
 * Holds the fastest whole copy (all shards) of each entry. At most half of the tenant's slots of
 * a class may be held by leases; beyond it -EDQUOT, except that the tenant's only lease is
 * granted for as many leading entries as fit (*out_count). -EAGAIN: the pools are empty.
 */
must_check int cache_lease_grant(struct cache *cache, uint32_t tenant, const uint32_t *entries,
				 unsigned count, uint64_t deadline_us, uint64_t *out_lease,
				 unsigned *out_count);
/* Idempotent: an unknown lease (released or expired) is nothing. */
void cache_lease_release(struct cache *cache, uint64_t lease);
bool cache_lease_is_live(const struct cache *cache, uint64_t lease);
/* Whether it is a live lease of this tenant: handles come from clients, and can be guessed. */
bool cache_lease_is_of(const struct cache *cache, uint64_t lease, uint32_t tenant);
/* A live lease ends later than it would; a deadline is never drawn near. An unknown lease is
 * nothing. */
void cache_lease_extend(struct cache *cache, uint64_t lease, uint64_t deadline_us);
/* Gives up one entry of the lease (it was delivered); false: not in it. */
bool cache_lease_release_entry(struct cache *cache, uint64_t lease, uint32_t entry);
/*
 * The lease is the owner's from now on: it is on the owner's list until it ends, and ends when the
 * owner leaves. Without an owner it ends by its release or its deadline alone, as every lease does
 * at the latest. The lease is live, and has no owner.
 */
void cache_lease_own(struct cache *cache, uint64_t lease, struct list *owner);
/* The owner leaves, and its list is empty: leases in use end with their last use, the others now,
 * as if their deadline had come. */
void cache_leases_leave(struct cache *cache, struct list *owner);
/* Whoever works with a live lease of another says so. A lease that ended meanwhile is nothing. */
void cache_lease_use(struct cache *cache, uint64_t lease);
void cache_lease_unuse(struct cache *cache, uint64_t lease);
/* Releases leases whose deadline is at or before `now_us`; returns how many. Call each pass. */
unsigned cache_lease_expire(struct cache *cache, uint64_t now_us);
unsigned cache_leases_count(const struct cache *cache, uint32_t tenant);

/* ---- what was there before a restart ---- */

struct cache_extent {
	uint32_t tenant; /* handle; UINT32_MAX: unknown tenant, the units stay free */
	uint32_t first_unit, units_count;
	uint32_t slot_bytes;
	uint32_t generation;
};

/* Before any slot of it. -EEXIST: units taken; -EDQUOT: over the share. */
must_check int cache_extent_restore(struct cache *cache, uint32_t area,
				    const struct cache_extent *extent);
/* All extents of an area, for the tables on disk and in the arena. Returns how many (at most
 * `extents_max`). */
unsigned cache_extents(const struct cache *cache, uint32_t area, struct cache_extent *out_extents,
		       unsigned extents_max);

struct cache_restored {
	uint32_t device;
	uint64_t offset;
	uint32_t slot_bytes, extent_generation, slot_generation;
	uint32_t space, epoch, tokens;
	uint16_t group;
	uint8_t shard, shards_count;
	uint64_t route_key;
	const uint8_t *hash;
	const uint8_t *parent; /* NULL: first */
};

/* Puts a READY slot where it was, at the cold end of the order. -ESTALE: no such extent, generation
 * or place, below the floor, or another slot has this shard already (the caller's record is then
 * dropped). */
must_check int cache_slot_restore(struct cache *cache, uint32_t area,
				  const struct cache_restored *restored, uint32_t *out_slot);

/* ---- figures ---- */

struct cache_share_figures {
	uint64_t slots[SLOT_STATES];
	uint64_t units_used, units_max;
	uint64_t bytes_ready;
	uint64_t copies_whole;
	uint64_t evictions, extents_taken;
	uint64_t holds; /* slots held */
};

void cache_share_figures(const struct cache *cache, uint32_t tenant, enum tier_id tier,
			 struct cache_share_figures *out_figures);
uint32_t cache_entries_count(const struct cache *cache);

/* What a space has: whole copies, and the slots that these take. */
struct cache_space_figures {
	uint64_t blocks[TIERS], bytes[TIERS];
};

void cache_space_figures(const struct cache *cache, uint32_t space,
			 struct cache_space_figures *out_figures);
/*
 * Walks all entries, each at most once, over as many calls as the owner likes: *cursor starts at 0.
 * Looks at `looks_max` places at most; ENTRY_NONE: none among these, or, with *cursor at
 * cache_entries_end(), none any more. What comes in meanwhile may or may not be met.
 */
uint32_t cache_entry_next(const struct cache *cache, uint32_t *cursor, unsigned looks_max);
uint32_t cache_entries_end(const struct cache *cache);

#endif
