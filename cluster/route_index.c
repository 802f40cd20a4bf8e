/* cluster/route_index.c: see route_index.h: who has a key, and changes of it. */
#include "cluster/route_index_parts.h"

#include "proto/inventory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CELLS_MIN 16u

/* So the sums are those that a node says; ARRIVING, which nobody says, is not in them. */
_Static_assert(ROUTE_BIT(ROUTE_HBM) == INVENTORY_HBM && ROUTE_BIT(ROUTE_CPU) == INVENTORY_CPU &&
		       ROUTE_BIT(ROUTE_NVME) == INVENTORY_NVME,
	       "tiers are the same bits here and there");

int route_index_create(struct route_index **out_index, uint64_t entries_max, uint64_t seed,
		       struct error *error)
{
	struct route_index *index = calloc(1, sizeof(*index));

	if (index == NULL)
		return error_set(error, -ENOMEM, "no memory for the index of routes (%zu bytes)%s",
				 sizeof(*index), error_advice(-ENOMEM));
	route_sets_init(&index->sets);
	index->seed = seed;
	index->entries_max = entries_max;
	index->bytes = sizeof(*index);
	*out_index = index;
	return 0;
}

void route_index_destroy(struct route_index *index)
{
	if (index == NULL)
		return;
	for (unsigned i = 0; i < SEGMENTS; i++)
		free(index->segments[i].cells);
	route_sets_destroy(&index->sets);
	free(index);
}

/* ---- members of a cell ---- */

static uint16_t member_of(uint16_t source, unsigned tiers)
{
	return (uint16_t)(source << TIER_BITS | tiers);
}

bool route_cell_is_free(const struct route_cell *cell)
{
	return cell->members[0] == 0;
}

static uint32_t cell_set(const struct route_cell *cell)
{
	uint32_t set;

	memcpy(&set, &cell->members[2], sizeof(set));
	return set;
}

uint32_t route_cell_count(const struct route_cell *cell)
{
	uint32_t count = 0;

	if (cell->members[0] == MANY)
		return cell->members[1];
	while (count < CELL_MEMBERS && cell->members[count] != 0)
		count++;
	return count;
}

uint16_t *route_cell_members(const struct route_index *index, struct route_cell *cell)
{
	return cell->members[0] == MANY ? route_set_members(&index->sets, cell_set(cell))
					: cell->members;
}

static uint16_t *cell_find(const struct route_index *index, struct route_cell *cell,
			   uint16_t source)
{
	uint16_t *members = route_cell_members(index, cell);
	uint32_t count = route_cell_count(cell);

	for (uint32_t i = 0; i < count; i++)
		if (members[i] >> TIER_BITS == source)
			return &members[i];
	return NULL;
}

/* Into an array with room for `room`, or into the cell. False: no memory. */
static bool cell_move(struct route_index *index, struct route_cell *cell, uint32_t room)
{
	uint16_t *members = route_cell_members(index, cell);
	uint32_t count = route_cell_count(cell);
	uint32_t old = cell->members[0] == MANY ? cell_set(cell) : ROUTE_SET_NONE;
	uint16_t small[CELL_MEMBERS] = { 0 };

	if (room > CELL_MEMBERS) {
		uint32_t set = route_set_take(&index->sets, room);

		if (set == ROUTE_SET_NONE)
			return false;
		members = route_cell_members(index, cell); /* slabs may have moved; arrays do not */
		memcpy(route_set_members(&index->sets, set), members, count * sizeof(*members));
		cell->members[0] = MANY;
		cell->members[1] = (uint16_t)count;
		memcpy(&cell->members[2], &set, sizeof(set));
	} else {
		memcpy(small, members, count * sizeof(*members));
		memcpy(cell->members, small, sizeof(small));
	}
	if (old != ROUTE_SET_NONE)
		route_set_give(&index->sets, old);
	return true;
}

static bool cell_add(struct route_index *index, struct route_cell *cell, uint16_t member)
{
	uint32_t count = route_cell_count(cell);
	uint32_t room = cell->members[0] == MANY ? route_set_room(cell_set(cell)) : CELL_MEMBERS;

	if (count == room && !cell_move(index, cell, 2 * room))
		return false;
	route_cell_members(index, cell)[count] = member;
	if (cell->members[0] == MANY)
		cell->members[1]++;
	return true;
}

static void cell_take_out(struct route_index *index, struct route_cell *cell, uint16_t *member)
{
	uint16_t *members = route_cell_members(index, cell);
	uint32_t count = route_cell_count(cell) - 1;

	*member = members[count];
	members[count] = 0;
	if (cell->members[0] != MANY)
		return;
	cell->members[1] = (uint16_t)count;
	/* If there is no memory for fewer it stays where it is. */
	if (count <= route_set_room(cell_set(cell)) / 4)
		(void)cell_move(index, cell, 2 * count);
}

/* ---- tables ---- */

static struct route_segment *segment_of(struct route_index *index, uint64_t key)
{
	return &index->segments[route_hash(index, key) >> (64 - SEGMENT_BITS)];
}

static struct route_cell *table_place(const struct route_segment *segment, uint64_t hash,
				      uint64_t key)
{
	uint32_t mask = segment->cells_count - 1;
	uint32_t at = (uint32_t)hash & mask;

	while (!route_cell_is_free(&segment->cells[at]) && segment->cells[at].key != key)
		at = (at + 1) & mask;
	return &segment->cells[at];
}

/* NULL: nobody has it. */
struct route_cell *route_cell_find(const struct route_index *index, uint64_t key)
{
	uint64_t hash = route_hash(index, key);
	const struct route_segment *segment = route_segment_of(index, hash);
	struct route_cell *cell;

	if (segment->cells == NULL)
		return NULL;
	cell = table_place(segment, hash, key);
	return route_cell_is_free(cell) ? NULL : cell;
}

static bool segment_grow(struct route_index *index, struct route_segment *segment)
{
	struct route_segment grown = {
		.cells_count = segment->cells != NULL ? 2 * segment->cells_count : CELLS_MIN,
		.used = segment->used,
	};

	grown.cells = calloc(grown.cells_count, sizeof(*grown.cells));
	if (grown.cells == NULL)
		return false;
	for (uint32_t i = 0; i < segment->cells_count; i++) {
		const struct route_cell *cell = &segment->cells[i];

		if (!route_cell_is_free(cell))
			*table_place(&grown, route_hash(index, cell->key), cell->key) = *cell;
	}
	index->bytes += (grown.cells_count - segment->cells_count) * sizeof(*grown.cells);
	free(segment->cells);
	*segment = grown;
	return true;
}

/* Its cell, free if nobody has it yet; NULL: no memory. */
static struct route_cell *table_take(struct route_index *index, uint64_t key)
{
	uint64_t hash = route_hash(index, key);
	struct route_segment *segment = segment_of(index, key);

	if ((uint64_t)(segment->used + 1) * 5 > (uint64_t)segment->cells_count * 4 &&
	    route_cell_find(index, key) == NULL && !segment_grow(index, segment))
		return NULL;
	struct route_cell *cell = table_place(segment, hash, key);
	if (route_cell_is_free(cell))
		cell->key = key;
	return cell;
}

/* Closes the gap that `cell` leaves: what follows moves up, unless it is where it belongs. */
static void table_give(struct route_index *index, struct route_segment *segment,
		       struct route_cell *cell)
{
	uint32_t mask = segment->cells_count - 1;
	uint32_t gap = (uint32_t)(cell - segment->cells), at = gap;

	segment->used--;
	index->keys--;
	for (;;) {
		at = (at + 1) & mask;
		if (route_cell_is_free(&segment->cells[at]))
			break;
		uint32_t home = (uint32_t)route_hash(index, segment->cells[at].key) & mask;
		if (((at - home) & mask) < ((at - gap) & mask))
			continue;
		segment->cells[gap] = segment->cells[at];
		gap = at;
	}
	memset(&segment->cells[gap], 0, sizeof(segment->cells[gap]));
}

/* ---- changes ---- */

static int entry_add(struct route_index *index, uint16_t source, uint64_t key, unsigned tiers)
{
	struct route_cell *cell;
	bool is_new;

	if (index->entries >= index->entries_max)
		return -ENOSPC;
	cell = table_take(index, key);
	if (cell == NULL)
		return -ENOMEM;
	is_new = route_cell_is_free(cell);
	if (!cell_add(index, cell, member_of(source, tiers)))
		return -ENOMEM;
	if (is_new) {
		segment_of(index, key)->used++;
		index->keys++;
	}
	index->entries++;
	index->sources[source].entries++;
	index->sources[source].digest += inventory_digest(key, tiers);
	return (int)tiers;
}

void route_entry_remove(struct route_index *index, struct route_segment *segment,
			struct route_cell *cell, uint16_t *member)
{
	struct route_source *source = &index->sources[*member >> TIER_BITS];

	source->digest -= inventory_digest(cell->key, *member & TIER_MASK);
	source->entries--;
	index->entries--;
	cell_take_out(index, cell, member);
	if (route_cell_is_free(cell))
		table_give(index, segment, cell);
}

int route_index_change(struct route_index *index, uint16_t source, uint64_t key, unsigned set,
		       unsigned clear)
{
	struct route_cell *cell = route_cell_find(index, key);
	uint16_t *member = cell != NULL ? cell_find(index, cell, source) : NULL;
	unsigned before = member != NULL ? *member & TIER_MASK : 0;
	unsigned after = (before & ~clear) | set;

	assert(source < ROUTE_SOURCES_MAX && set <= TIER_MASK);
	if (index->sources[source].state != SOURCE_OPEN)
		return -ENOENT;
	if (member == NULL)
		return after != 0 ? entry_add(index, source, key, after) : 0;
	if (after == 0) {
		route_entry_remove(index, segment_of(index, key), cell, member);
		return 0;
	}
	index->sources[source].digest +=
		inventory_digest(key, after) - inventory_digest(key, before);
	*member = member_of(source, after);
	return (int)after;
}

unsigned route_index_get(const struct route_index *index, uint16_t source, uint64_t key)
{
	struct route_cell *cell = route_cell_find(index, key);
	const uint16_t *member = cell != NULL ? cell_find(index, cell, source) : NULL;

	return member != NULL ? *member & TIER_MASK : 0;
}

