/* cluster/route_index_parts.h: shared by route_index.c and route_match.c. Segments by the hash's
 * top bits, each an open table of its own that grows alone: no change waits for more than one of
 * them to be copied. */
#ifndef KVTIER_CLUSTER_ROUTE_INDEX_PARTS_H
#define KVTIER_CLUSTER_ROUTE_INDEX_PARTS_H

#include "cluster/route_index.h"
#include "cluster/route_sets.h"

#include <assert.h>

#define SEGMENT_BITS 12u
#define SEGMENTS (1u << SEGMENT_BITS)
#define CELL_MEMBERS 4u
#define TIER_BITS 4u
#define TIER_MASK ((1u << TIER_BITS) - 1)
#define MANY UINT16_MAX            /* in members[0]: the others say where they are */

static_assert(ROUTE_TIERS == TIER_BITS, "a member has a bit for each tier");
static_assert(ROUTE_SOURCES_MAX < 1u << (16 - TIER_BITS), "MANY is no source's");

/* A member: a source and its tiers, never without a tier. A cell without any is free. */
struct route_cell {
	uint64_t key;
	uint16_t members[CELL_MEMBERS]; /* the first are used; or MANY, their count, and the set */
};

struct route_segment {
	struct route_cell *cells;
	uint32_t cells_count, used;     /* a power of two */
};

enum route_source_state { SOURCE_FREE, SOURCE_OPEN, SOURCE_DROPPED, SOURCE_SWEPT };

struct route_source {
	uint64_t entries, digest;
	enum route_source_state state;
	uint64_t seen;                  /* by the key of a match; then with these tiers */
	uint8_t tiers;
};

struct route_index {
	struct route_segment segments[SEGMENTS];
	struct route_sets sets;
	struct route_source sources[ROUTE_SOURCES_MAX];
	uint32_t sources_top;           /* numbers above were never used */
	uint64_t seed, entries_max, entries, keys, bytes;
	uint64_t match;                 /* of `seen` */
	uint16_t going[ROUTE_PODS_MAX]; /* in a match: pods without a gap so far */
	uint32_t dropped, sweeping, sweep_at; /* sources; the next segment */
};

/* splitmix64's end */
static inline uint64_t route_mix(uint64_t value)
{
	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

static inline uint64_t route_hash(const struct route_index *index, uint64_t key)
{
	return route_mix(key ^ index->seed);
}

static inline const struct route_segment *route_segment_of(const struct route_index *index,
							    uint64_t hash)
{
	return &index->segments[hash >> (64 - SEGMENT_BITS)];
}

/* NULL: nobody has it. */
struct route_cell *route_cell_find(const struct route_index *index, uint64_t key);
bool route_cell_is_free(const struct route_cell *cell);
uint32_t route_cell_count(const struct route_cell *cell);
uint16_t *route_cell_members(const struct route_index *index, struct route_cell *cell);
/* Takes one member out; where it was the last, another key's cell may lie there now. */
void route_entry_remove(struct route_index *index, struct route_segment *segment,
			struct route_cell *cell, uint16_t *member);

#endif
