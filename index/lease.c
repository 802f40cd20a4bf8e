/*
 * index/lease.c: holds with a deadline. Leases and their items come from pools; the next to expire
 * is at the top of a binary heap. A lease's handle carries its generation, so a late release of an
 * expired one finds nothing.
 */
#include "index/cache_parts.h"

#include <errno.h>

#define ITEM_NONE UINT32_MAX

/* ---- the heap of deadlines ---- */

static void heap_put(struct cache *cache, uint32_t place, uint32_t lease)
{
	cache->lease_heap[place] = lease;
	cache->leases[lease].heap_place = place;
}

static uint64_t heap_deadline(const struct cache *cache, uint32_t place)
{
	return cache->leases[cache->lease_heap[place]].deadline_us;
}

static void heap_rise(struct cache *cache, uint32_t place)
{
	uint32_t lease = cache->lease_heap[place];

	while (place > 0 &&
	       heap_deadline(cache, (place - 1) / 2) > cache->leases[lease].deadline_us) {
		heap_put(cache, place, cache->lease_heap[(place - 1) / 2]);
		place = (place - 1) / 2;
	}
	heap_put(cache, place, lease);
}

static void heap_sink(struct cache *cache, uint32_t place, uint32_t count)
{
	uint32_t lease = cache->lease_heap[place];

	for (;;) {
		uint32_t child = 2 * place + 1;
		if (child >= count)
			break;
		if (child + 1 < count &&
		    heap_deadline(cache, child + 1) < heap_deadline(cache, child))
			child++;
		if (heap_deadline(cache, child) >= cache->leases[lease].deadline_us)
			break;
		heap_put(cache, place, cache->lease_heap[child]);
		place = child;
	}
	heap_put(cache, place, lease);
}

static void heap_remove(struct cache *cache, uint32_t place)
{
	uint32_t last = --cache->leases_live;

	if (place == last)
		return;
	heap_put(cache, place, cache->lease_heap[last]);
	heap_rise(cache, place);
	heap_sink(cache, cache->leases[cache->lease_heap[place]].heap_place, last);
}

/* ---- pools ---- */

static uint32_t lease_take(struct cache *cache)
{
	uint32_t lease = cache->lease_free_first;

	if (lease != UINT32_MAX)
		cache->lease_free_first = cache->leases[lease].heap_place;
	else if (cache->leases_begun < cache->config.leases_max)
		lease = cache->leases_begun++;
	else
		return UINT32_MAX;
	uint32_t generation = cache->leases[lease].generation + 1;
	assert((generation & 1) == 1);
	cache->leases[lease] = (struct lease){ .generation = generation,
					       .first = ITEM_NONE,
					       .last = ITEM_NONE };
	return lease;
}

static bool item_add(struct cache *cache, struct lease *lease, uint32_t entry, enum tier_id tier,
		     uint32_t slot)
{
	struct tenant *tenant = &cache->tenants[lease->tenant];
	uint32_t number = cache->lease_item_free_first;

	/* An equal part each: leases on the same blocks again and again must not use up
	 * another's. */
	if (tenant->lease_items_count >= cache->config.lease_items_max / cache->config.tenants_max)
		return false;
	if (number != ITEM_NONE)
		cache->lease_item_free_first = cache->lease_items[number].next;
	else if (cache->lease_items_begun < cache->config.lease_items_max)
		number = cache->lease_items_begun++;
	else
		return false;
	cache->lease_items[number] = (struct lease_item){
		.entry = entry,
		.slot = slot,
		.next = ITEM_NONE,
		.tier = tier,
	};
	if (lease->last == ITEM_NONE)
		lease->first = number;
	else
		cache->lease_items[lease->last].next = number;
	lease->last = number;
	cache_space_hold(cache, cache->entries[entry].space);
	tenant->lease_items_count++;
	cache->lease_items_used++;
	return true;
}

/* Takes the item behind `before` (ITEM_NONE: the first) off the lease and gives its hold back. */
static void item_end(struct cache *cache, struct lease *lease, uint32_t before)
{
	uint32_t number = before == ITEM_NONE ? lease->first : cache->lease_items[before].next;

	assert(number != ITEM_NONE && cache->lease_items_used > 0);
	struct lease_item *item = &cache->lease_items[number];
	if (before == ITEM_NONE)
		lease->first = item->next;
	else
		cache->lease_items[before].next = item->next;
	if (lease->last == number)
		lease->last = before;
	/* The entry may go with its slot's last hold. */
	cache_space_release(cache, cache->entries[item->entry].space);
	cache_slot_release(cache, item->tier, item->slot);
	item->next = cache->lease_item_free_first;
	cache->lease_item_free_first = number;
	assert(cache->tenants[lease->tenant].lease_items_count > 0);
	cache->tenants[lease->tenant].lease_items_count--;
	cache->lease_items_used--;
}

/* ---- grant and release ---- */

static struct lease *lease_find(const struct cache *cache, uint64_t handle)
{
	uint64_t number = (handle & UINT32_MAX) - 1;

	if ((handle & UINT32_MAX) == 0 || number >= cache->leases_begun)
		return NULL;
	struct lease *lease = &cache->leases[number];
	if (lease->generation != handle >> 32 || (lease->generation & 1) == 0 || lease->is_expired)
		return NULL;
	return lease;
}

/* Of a lease without items. */
static void lease_end(struct cache *cache, struct lease *lease)
{
	assert(lease->first == ITEM_NONE && (lease->generation & 1) == 1);
	assert(cache->tenants[lease->tenant].leases_count > 0);
	cache->tenants[lease->tenant].leases_count--;
	if (lease->owner != NULL)
		list_remove(lease->owner, &lease->owned);
	lease->owner = NULL;
	heap_remove(cache, lease->heap_place);
	lease->generation++;
	lease->heap_place = cache->lease_free_first;
	cache->lease_free_first = (uint32_t)(lease - cache->leases);
}

/* Half of what the class has or could have, at least one slot. Slots that several leases hold count
 * once. */
static bool class_may_hold_more(const struct class *class)
{
	uint64_t half = class_slots_reach(class) / 2;

	return class->slots_held < (half == 0 ? 1 : half);
}

/* All shards of the entry's fastest whole copy, or none. -EDQUOT, -EAGAIN. */
static int lease_add_entry(struct cache *cache, struct lease *lease, uint32_t entry, bool is_first)
{
	enum tier_id tier = cache_entry_tier(cache, entry);
	uint32_t items_before = lease->last;
	int result = 0;

	if (tier == TIERS)
		return 0;
	uint32_t first = cache->entries[entry].copy[tier];
	uint32_t slot = first;
	do {
		const struct slot *seen = slot_at(cache, tier, slot);
		/* One entry is granted whatever it takes, if it is the tenant's only lease. */
		if (seen->holds == 0 && !is_first &&
		    !class_may_hold_more(slot_class(cache, tier, slot)))
			result = -EDQUOT;
		else if (seen->holds >= SLOT_HOLDS_MAX ||
			 !item_add(cache, lease, entry, tier, slot))
			result = -EAGAIN;
		if (result < 0)
			break;
		cache_slot_hold(cache, tier, slot);
		slot = slot_at(cache, tier, slot)->sibling;
	} while (slot != first);
	if (result < 0)
		while (lease->last != items_before)
			item_end(cache, lease, items_before);
	return result;
}

int cache_lease_grant(struct cache *cache, uint32_t tenant, const uint32_t *entries, unsigned count,
		      uint64_t deadline_us, uint64_t *out_lease, unsigned *out_count)
{
	assert(tenant < cache->tenants_count);
	bool is_only = cache->tenants[tenant].leases_count == 0;
	int result = 0;
	unsigned granted = 0;
	uint32_t number = lease_take(cache);

	if (number == UINT32_MAX)
		return -EAGAIN;
	struct lease *lease = &cache->leases[number];
	lease->deadline_us = deadline_us;
	lease->tenant = tenant;
	cache->tenants[tenant].leases_count++;
	heap_put(cache, cache->leases_live, number);
	heap_rise(cache, cache->leases_live++);
	for (; granted < count; granted++) {
		if (entries[granted] == ENTRY_NONE)
			continue;
		assert(entries[granted] < cache->entries_begun);
		assert(cache->spaces[cache->entries[entries[granted]].space].tenant == tenant);
		result = lease_add_entry(cache, lease, entries[granted],
					 is_only && lease->first == ITEM_NONE);
		if (result < 0)
			break;
	}
	/* A request that is alone gets what fits; another one may come back when those before it
	 * are through. */
	if (result < 0 && !(is_only && lease->first != ITEM_NONE)) {
		while (lease->first != ITEM_NONE)
			item_end(cache, lease, ITEM_NONE);
		lease_end(cache, lease);
		return result;
	}
	*out_lease = (uint64_t)lease->generation << 32 | (number + 1);
	*out_count = granted;
	return 0;
}

void cache_lease_release(struct cache *cache, uint64_t handle)
{
	struct lease *lease = lease_find(cache, handle);

	if (lease == NULL)
		return;
	while (lease->first != ITEM_NONE)
		item_end(cache, lease, ITEM_NONE);
	lease_end(cache, lease);
}

bool cache_lease_is_of(const struct cache *cache, uint64_t handle, uint32_t tenant)
{
	const struct lease *lease = lease_find(cache, handle);

	return lease != NULL && lease->tenant == tenant;
}

bool cache_lease_is_live(const struct cache *cache, uint64_t handle)
{
	return lease_find(cache, handle) != NULL;
}

void cache_lease_extend(struct cache *cache, uint64_t handle, uint64_t deadline_us)
{
	struct lease *lease = lease_find(cache, handle);

	if (lease == NULL || lease->deadline_us >= deadline_us)
		return;
	lease->deadline_us = deadline_us;
	heap_sink(cache, lease->heap_place, cache->leases_live);
}

/* ---- owners and uses ---- */

/* Nobody finds it from now on; what it holds goes as that of an expired one, a bounded step a
 * pass. */
static void lease_expire_now(struct cache *cache, struct lease *lease)
{
	lease->is_expired = true;
	lease->deadline_us = 0;
	heap_rise(cache, lease->heap_place);
}

void cache_lease_own(struct cache *cache, uint64_t handle, struct list *owner)
{
	struct lease *lease = lease_find(cache, handle);

	assert(lease != NULL && lease->owner == NULL && !lease->is_left);
	lease->owner = owner;
	list_append(owner, &lease->owned);
}

void cache_leases_leave(struct cache *cache, struct list *owner)
{
	struct list_node *node;

	while ((node = list_take_first(owner)) != NULL) {
		struct lease *lease = list_item(node, struct lease, owned);

		assert(lease->owner == owner && (lease->generation & 1) == 1);
		lease->owner = NULL;
		lease->is_left = true;
		if (lease->uses == 0)
			lease_expire_now(cache, lease);
	}
}

void cache_lease_use(struct cache *cache, uint64_t handle)
{
	struct lease *lease = lease_find(cache, handle);

	if (lease == NULL)
		return;
	assert(lease->uses < UINT32_MAX);
	lease->uses++;
}

void cache_lease_unuse(struct cache *cache, uint64_t handle)
{
	struct lease *lease = lease_find(cache, handle);

	if (lease == NULL)
		return;
	assert(lease->uses > 0);
	lease->uses--;
#ifndef KVTIER_PLANT_LEFT
	if (lease->uses == 0 && lease->is_left)
		lease_expire_now(cache, lease);
#endif
}

/* Blocks are delivered about in the order of the lease, so what is looked for is near the front. */
bool cache_lease_release_entry(struct cache *cache, uint64_t handle, uint32_t entry)
{
	struct lease *lease = lease_find(cache, handle);
	bool was_there = false;
	uint32_t before = ITEM_NONE;

	if (lease == NULL)
		return false;
	uint32_t number = lease->first;
	while (number != ITEM_NONE && !(was_there && cache->lease_items[number].entry != entry)) {
		uint32_t next = cache->lease_items[number].next;
		if (cache->lease_items[number].entry == entry) {
			item_end(cache, lease, before);
			was_there = true;
		} else {
			before = number;
		}
		number = next;
	}
	return was_there;
}

unsigned cache_lease_expire(struct cache *cache, uint64_t now_us)
{
	unsigned items_left = LEASE_EXPIRE_ITEMS_MAX;
	unsigned expired = 0;

	while (cache->leases_live > 0 && heap_deadline(cache, 0) <= now_us && items_left > 0) {
		struct lease *lease = &cache->leases[cache->lease_heap[0]];
		lease->is_expired = true; /* from here on nobody finds it, also if its items take
					     another pass */
		for (; lease->first != ITEM_NONE && items_left > 0; items_left--)
			item_end(cache, lease, ITEM_NONE);
		if (lease->first != ITEM_NONE)
			break;
		lease_end(cache, lease);
		items_left -= items_left > 0;
		expired++;
	}
	return expired;
}

unsigned cache_leases_count(const struct cache *cache, uint32_t tenant)
{
	assert(tenant < cache->tenants_count);
	return cache->tenants[tenant].leases_count;
}
