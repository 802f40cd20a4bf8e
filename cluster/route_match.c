/* cluster/route_match.c: see route_index.h: sources, what they leave, and what pods have of a
 * chain. */
#include "cluster/route_index_parts.h"

#include <errno.h>
#include <string.h>

#define AHEAD 8u   /* cells are asked of memory so many keys before they are read */

/* ---- sources ---- */

int route_source_open(struct route_index *index, uint16_t *out_source)
{
	for (uint32_t i = 0; i < ROUTE_SOURCES_MAX; i++) {
		if (index->sources[i].state != SOURCE_FREE)
			continue;
		index->sources[i] = (struct route_source){ .state = SOURCE_OPEN };
		if (i >= index->sources_top)
			index->sources_top = i + 1;
		*out_source = (uint16_t)i;
		return 0;
	}
	return -EAGAIN;
}

void route_source_drop(struct route_index *index, uint16_t source)
{
	assert(index->sources[source].state == SOURCE_OPEN);
	index->sources[source].state = SOURCE_DROPPED;
	index->dropped++;
}

void route_source_look(const struct route_index *index, uint16_t source, uint64_t *out_entries,
		       uint64_t *out_digest)
{
	*out_entries = index->sources[source].entries;
	*out_digest = index->sources[source].digest;
}

static void sweep_begin(struct route_index *index)
{
	for (uint32_t i = 0; i < index->sources_top; i++)
		if (index->sources[i].state == SOURCE_DROPPED) {
			index->sources[i].state = SOURCE_SWEPT;
			index->sweeping++;
		}
	index->sweep_at = 0;
}

static void sweep_end(struct route_index *index)
{
	for (uint32_t i = 0; i < index->sources_top; i++)
		if (index->sources[i].state == SOURCE_SWEPT) {
			assert(index->sources[i].entries == 0);
			index->sources[i].state = SOURCE_FREE;
			index->dropped--;
		}
	index->sweeping = 0;
}

static void cell_sweep(struct route_index *index, struct route_segment *segment, uint32_t at)
{
	struct route_cell *cell = &segment->cells[at];
	uint32_t i = 0;

	while (!route_cell_is_free(cell) && i < route_cell_count(cell)) {
		uint16_t *member = &route_cell_members(index, cell)[i];
		uint64_t keys = index->keys;

		if (index->sources[*member >> TIER_BITS].state != SOURCE_SWEPT) {
			i++;
			continue;
		}
		route_entry_remove(index, segment, cell, member);
		if (index->keys != keys)
			i = 0;   /* another key's cell has moved up */
	}
}

bool route_index_sweep(struct route_index *index)
{
	if (index->dropped == 0)
		return false;
	if (index->sweeping == 0)
		sweep_begin(index);
	struct route_segment *segment = &index->segments[index->sweep_at++];
	for (uint32_t i = 0; i < segment->cells_count; i++)
		cell_sweep(index, segment, i);
	if (index->sweep_at == SEGMENTS)
		sweep_end(index);
	return true;
}

/* ---- the match ---- */

static void cell_prefetch(const struct route_index *index, uint64_t key)
{
	uint64_t hash = route_hash(index, key);
	const struct route_segment *segment = route_segment_of(index, hash);

	if (segment->cells != NULL)
		__builtin_prefetch(&segment->cells[(uint32_t)hash & (segment->cells_count - 1)]);
}

/* Whoever has the key is seen at this step. */
static void key_see(struct route_index *index, uint64_t key)
{
	struct route_cell *cell = route_cell_find(index, key);

	index->match++;
	if (cell == NULL)
		return;
	const uint16_t *members = route_cell_members(index, cell);
	uint32_t count = route_cell_count(cell);
	for (uint32_t i = 0; i < count; i++) {
		struct route_source *source = &index->sources[members[i] >> TIER_BITS];

		source->seen = index->match;
		source->tiers = source->state == SOURCE_OPEN ? members[i] & TIER_MASK : 0;
	}
}

static unsigned pod_tiers(const struct route_index *index, const struct route_pod *pod)
{
	unsigned tiers = 0;

	for (unsigned i = 0; i < ROUTE_POD_SOURCES; i++)
		if (pod->sources[i] != ROUTE_SOURCE_NONE &&
		    index->sources[pod->sources[i]].seen == index->match)
			tiers |= index->sources[pod->sources[i]].tiers;
	return tiers;
}

/* Those of the first `going` that have the key that was seen; the others have a gap. */
static uint32_t pods_go_on(struct route_index *index, const struct route_pod *pods, uint32_t going,
			   struct route_match *matches)
{
	uint32_t left = 0;

	for (uint32_t i = 0; i < going; i++) {
		uint16_t pod = index->going[i];
		unsigned tiers = pod_tiers(index, &pods[pod]);

		if (tiers == 0)
			continue;
		matches[pod].blocks++;
		matches[pod].tier_blocks[__builtin_ctz(tiers)]++;
		index->going[left++] = pod;
	}
	return left;
}

void route_index_match(struct route_index *index, const uint64_t *keys, uint32_t keys_count,
		       const struct route_pod *pods, uint32_t pods_count,
		       struct route_match *out_matches)
{
	uint32_t going = pods_count;

	assert(pods_count <= ROUTE_PODS_MAX);
	memset(out_matches, 0, pods_count * sizeof(*out_matches));
	for (uint32_t pod = 0; pod < pods_count; pod++)
		index->going[pod] = (uint16_t)pod;
	for (uint32_t key = 0; key < AHEAD && key < keys_count; key++)
		cell_prefetch(index, keys[key]);
	for (uint32_t key = 0; key < keys_count && going > 0; key++) {
		if (key + AHEAD < keys_count)
			cell_prefetch(index, keys[key + AHEAD]);
		key_see(index, keys[key]);
		going = pods_go_on(index, pods, going, out_matches);
	}
}

void route_index_look(const struct route_index *index, struct route_figures *out_figures)
{
	*out_figures = (struct route_figures){ .entries = index->entries,
					       .keys = index->keys,
					       .bytes = index->bytes + index->sets.bytes,
					       .dropped = index->dropped };
	for (uint32_t i = 0; i < index->sources_top; i++)
		out_figures->sources += index->sources[i].state == SOURCE_OPEN;
}
