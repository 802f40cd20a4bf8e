/* cluster/route_sets.c: see route_sets.h. A set's number: its class in the top 4 bits. */
#include "cluster/route_sets.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define CLASS_SHIFT 28u
#define SLAB_BYTES (UINT32_C(64) << 10)

static uint32_t arrays_per_slab(unsigned class)
{
	return SLAB_BYTES / (uint32_t)sizeof(uint16_t) / (ROUTE_SET_MEMBERS_MIN << class);
}

void route_sets_init(struct route_sets *sets)
{
	memset(sets, 0, sizeof(*sets));
	for (unsigned i = 0; i < ROUTE_SET_CLASSES; i++)
		sets->classes[i].free = ROUTE_SET_NONE;
}

void route_sets_destroy(struct route_sets *sets)
{
	for (unsigned i = 0; i < ROUTE_SET_CLASSES; i++) {
		for (uint32_t n = 0; n < sets->classes[i].slabs_count; n++)
			free(sets->classes[i].slabs[n]);
		free(sets->classes[i].slabs);
	}
}

uint16_t *route_set_members(const struct route_sets *sets, uint32_t set)
{
	unsigned class = set >> CLASS_SHIFT;
	uint32_t array = set & ((UINT32_C(1) << CLASS_SHIFT) - 1);
	uint32_t per_slab = arrays_per_slab(class);

	return sets->classes[class].slabs[array / per_slab] +
	       (size_t)(array % per_slab) * (ROUTE_SET_MEMBERS_MIN << class);
}

uint32_t route_set_room(uint32_t set)
{
	return ROUTE_SET_MEMBERS_MIN << (set >> CLASS_SHIFT);
}

static bool slab_add(struct route_sets *sets, struct route_slabs *slabs)
{
	if (slabs->slabs_count == slabs->slabs_room) {
		uint32_t room = slabs->slabs_room > 0 ? 2 * slabs->slabs_room : 16;
		uint16_t **grown = realloc(slabs->slabs, room * sizeof(*grown));

		if (grown == NULL)
			return false;
		sets->bytes += (room - slabs->slabs_room) * sizeof(*grown);
		slabs->slabs = grown;
		slabs->slabs_room = room;
	}
	slabs->slabs[slabs->slabs_count] = malloc(SLAB_BYTES);
	if (slabs->slabs[slabs->slabs_count] == NULL)
		return false;
	slabs->slabs_count++;
	sets->bytes += SLAB_BYTES;
	return true;
}

uint32_t route_set_take(struct route_sets *sets, uint32_t members)
{
	unsigned class = 0;

	while (ROUTE_SET_MEMBERS_MIN << class < members)
		class++;
	assert(class < ROUTE_SET_CLASSES);
	struct route_slabs *slabs = &sets->classes[class];
	if (slabs->free != ROUTE_SET_NONE) {
		uint32_t set = slabs->free;

		memcpy(&slabs->free, route_set_members(sets, set), sizeof(slabs->free));
		return set;
	}
	if (slabs->made == slabs->slabs_count * arrays_per_slab(class) && !slab_add(sets, slabs))
		return ROUTE_SET_NONE;
	return class << CLASS_SHIFT | slabs->made++;
}

void route_set_give(struct route_sets *sets, uint32_t set)
{
	struct route_slabs *slabs = &sets->classes[set >> CLASS_SHIFT];

	memcpy(route_set_members(sets, set), &slabs->free, sizeof(slabs->free));
	slabs->free = set;
}
