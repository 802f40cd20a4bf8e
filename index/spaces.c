/*
 * index/spaces.c: spaces come and go; floors now, slots later.
 *
 * A space that is given back is LEAVING until the last entry that names it has gone: it is found by
 * nobody, and its floor is above every epoch, so that its entries are as good as forgotten. Only
 * then its number is used for another space: no entry, and no hold, ever changes its space.
 */
#include "index/cache_parts.h"

#include <errno.h>
#include <string.h>

#define SPACE_NONE UINT32_MAX

static void space_become(struct cache *cache, uint32_t number, enum space_state next)
{
	struct space *space = &cache->spaces[number];
	struct tenant *tenant = &cache->tenants[space->tenant];

	assert(space->state != next && (next != SPACE_LEAVING || space->state == SPACE_OPEN));
	assert(next == SPACE_OPEN || space->holds == 0);
	tenant->spaces_open -= space->state == SPACE_OPEN;
	tenant->spaces_leaving -= space->state == SPACE_LEAVING;
	cache->spaces_open -= space->state == SPACE_OPEN;
	tenant->spaces_open += next == SPACE_OPEN;
	tenant->spaces_leaving += next == SPACE_LEAVING;
	cache->spaces_open += next == SPACE_OPEN;
	space->state = next;
}

/* A number that no space has: there are spaces_leaving_max more than can be open. */
static uint32_t space_number(struct cache *cache)
{
	for (uint32_t i = 0; i < cache->spaces_begun; i++)
		if (cache->spaces[i].state == SPACE_FREE)
			return i;
	assert(cache->spaces_begun <
	       cache->config.spaces_max + cache->config.spaces_leaving_max);
	return cache->spaces_begun++;
}

int cache_space_find(const struct cache *cache, uint32_t tenant,
		     const uint8_t fingerprint[SPACE_ID_BYTES], uint32_t *out_space)
{
	for (uint32_t i = 0; i < cache->spaces_begun; i++) {
		const struct space *space = &cache->spaces[i];
		if (space->state == SPACE_OPEN && space->tenant == tenant &&
		    memcmp(space->fingerprint, fingerprint, SPACE_ID_BYTES) == 0) {
			*out_space = i;
			return 0;
		}
	}
	return -ENOENT;
}

int cache_space_open(struct cache *cache, uint32_t tenant,
		     const uint8_t fingerprint[SPACE_ID_BYTES], uint32_t *out_space)
{
	if (tenant >= cache->tenants_count)
		return -EINVAL;
	if (cache_space_find(cache, tenant, fingerprint, out_space) == 0)
		return 0;
	if (cache->spaces_open == cache->config.spaces_max)
		return -ENOSPC;
	uint32_t number = space_number(cache);
	struct space *space = &cache->spaces[number];
	assert(space->entries == 0 && space->holds == 0);
	*space = (struct space){ .tenant = tenant, .used = ++cache->spaces_tick };
	memcpy(space->fingerprint, fingerprint, SPACE_ID_BYTES);
	space_become(cache, number, SPACE_OPEN);
	*out_space = number;
	return 0;
}

uint32_t cache_spaces_count(const struct cache *cache, uint32_t tenant)
{
	assert(tenant < cache->tenants_count);
	return cache->tenants[tenant].spaces_open;
}

uint32_t cache_spaces_end(const struct cache *cache)
{
	return cache->spaces_begun;
}

bool cache_space_is_known(const struct cache *cache, uint32_t space)
{
	return space < cache->spaces_begun && cache->spaces[space].state == SPACE_OPEN;
}

uint32_t cache_space_tenant(const struct cache *cache, uint32_t space)
{
	assert(space < cache->spaces_begun && cache->spaces[space].state != SPACE_FREE);
	return cache->spaces[space].tenant;
}

const uint8_t *cache_space_fingerprint(const struct cache *cache, uint32_t space)
{
	assert(space < cache->spaces_begun && cache->spaces[space].state != SPACE_FREE);
	return cache->spaces[space].fingerprint;
}

void cache_space_figures(const struct cache *cache, uint32_t space,
			 struct cache_space_figures *out_figures)
{
	assert(space < cache->spaces_begun);
	*out_figures = cache->spaces[space].figures;
}

/* ---- who keeps a space, and which one goes ---- */

void cache_space_hold(struct cache *cache, uint32_t space)
{
	assert(cache_space_is_known(cache, space));
	cache->spaces[space].holds++;
}

void cache_space_release(struct cache *cache, uint32_t space)
{
	assert(cache_space_is_known(cache, space) && cache->spaces[space].holds > 0);
	cache->spaces[space].holds--;
	cache->spaces[space].used = ++cache->spaces_tick;
}

/* Whether `one` goes before `other`: without entries before with entries, then the longer unused.
 */
static bool space_goes_before(const struct space *one, const struct space *other)
{
	if ((one->entries == 0) != (other->entries == 0))
		return one->entries == 0;
	return one->used < other->used;
}

static uint32_t space_victim(const struct cache *cache, uint32_t tenant)
{
	uint32_t victim = SPACE_NONE;

	for (uint32_t i = 0; i < cache->spaces_begun; i++) {
		const struct space *space = &cache->spaces[i];
		if (space->state != SPACE_OPEN || space->tenant != tenant || space->holds > 0)
			continue;
		if (victim == SPACE_NONE || space_goes_before(space, &cache->spaces[victim]))
			victim = i;
	}
	return victim;
}

static void sweep_begin(struct cache *cache);

int cache_space_give_back(struct cache *cache, uint32_t tenant)
{
	assert(tenant < cache->tenants_count);
	uint32_t leaving_max = cache->config.spaces_leaving_max / cache->config.tenants_max;
	uint32_t number = space_victim(cache, tenant);

	if (number == SPACE_NONE)
		return -ENOENT;
	if (cache->spaces[number].entries == 0) {
		space_become(cache, number, SPACE_FREE);
		return 0;
	}
	/* An equal part each: one whose spaces take long to go does not keep another waiting. */
	if (cache->tenants[tenant].spaces_leaving >= leaving_max)
		return -EAGAIN;
	space_become(cache, number, SPACE_LEAVING);
	cache->spaces[number].floor = UINT32_MAX;
	sweep_begin(cache);
	return 0;
}

void space_entry_added(struct cache *cache, uint32_t space)
{
	assert(cache_space_is_known(cache, space));
	cache->spaces[space].entries++;
}

void space_entry_gone(struct cache *cache, uint32_t space)
{
	struct space *seen = &cache->spaces[space];

	assert(seen->state != SPACE_FREE && seen->entries > 0);
	if (--seen->entries == 0 && seen->state == SPACE_LEAVING)
		space_become(cache, space, SPACE_FREE);
}

/* ---- forgetting: floors now, slots later ---- */

/* A round goes on from where the last one stopped: one begun again and again still comes to every
 * entry. Entries that were never used before are of the new epoch. */
static void sweep_begin(struct cache *cache)
{
	cache->changes++;
	cache->sweep_end = cache->entries_begun;
	cache->sweep_left = cache->sweep_end;
}

void cache_space_forget(struct cache *cache, uint32_t space, uint32_t floor)
{
	assert(cache_space_is_known(cache, space));
	if (floor <= cache->spaces[space].floor)
		return; /* floors only rise */
	cache->spaces[space].floor = floor;
	if (cache->spaces[space].entries > 0)
		sweep_begin(cache);
}

void cache_tenant_forget(struct cache *cache, uint32_t tenant, uint32_t floor)
{
	assert(tenant < cache->tenants_count);
	if (floor <= cache->tenants[tenant].floor)
		return;
	cache->tenants[tenant].floor = floor;
	sweep_begin(cache);
}

/* Held copies need no second visit: the entry is unlinked here, and its slots go with their last
 * hold. */
unsigned cache_forgotten_sweep(struct cache *cache, unsigned limit)
{
	unsigned looked = 0;
	unsigned freed = 0;

	while (cache->sweep_left > 0 && looked < SWEEP_LOOKS_MAX && freed < limit) {
		if (cache->sweep_next >= cache->sweep_end)
			cache->sweep_next = 0;
		uint32_t entry = cache->sweep_next++;
		cache->sweep_left--;
		looked++;
		const struct entry *seen = &cache->entries[entry];
		if ((seen->flags & ENTRY_LINKED) == 0 || !entry_is_forgotten(cache, seen))
			continue;
		for (unsigned tier = 0; tier < TIERS; tier++)
			freed += seen->copy[tier] != SLOT_NONE;
		cache_entry_drop(cache, entry);
	}
	assert(looked <= SWEEP_LOOKS_MAX);
	return looked;
}
