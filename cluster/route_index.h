/*
 * cluster/route_index.h: which pod has which block, by route key, and in which tier: from it comes
 * the longest prefix of a prompt that each pod need not compute.
 *
 * A *source* is one who tells: an engine, of its own cache, or a node's daemon, of what it keeps.
 * A pod has its engine's source and its node's. A source that begins anew gets another number:
 * what the old one told is matched no more at once, and swept away in steps.
 *
 * Runs on: one thread. Memory: 16 bytes a key in tables that are 0.4 to 0.8 full, with up to
 * four sources; beyond that two bytes more for each, in arrays that are at least a quarter full.
 */
#ifndef KVTIER_CLUSTER_ROUTE_INDEX_H
#define KVTIER_CLUSTER_ROUTE_INDEX_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define ROUTE_SOURCES_MAX 4095u
#define ROUTE_SOURCE_NONE 4095u
#define ROUTE_POD_SOURCES 2u
#define ROUTE_PODS_MAX 4096u

/* Where a block is: the quickest first. */
enum route_tier {
	ROUTE_HBM,
	ROUTE_CPU,
	ROUTE_NVME,
	ROUTE_ARRIVING, /* it was sent there to be computed */
	ROUTE_TIERS
};

#define ROUTE_BIT(tier) (1u << (tier))

struct route_index;

struct route_pod {
	uint16_t sources[ROUTE_POD_SOURCES]; /* ROUTE_SOURCE_NONE: it has none */
};

/* The leading blocks that a pod has, in the quickest tier of each. */
struct route_match {
	uint32_t blocks;
	uint32_t tier_blocks[ROUTE_TIERS]; /* their sum is `blocks` */
};

struct route_figures {
	uint64_t entries; /* (key, source) */
	uint64_t keys;
	uint64_t bytes;   /* taken from the system */
	uint32_t sources, dropped;
};

/* entries_max: of (key, source). seed: secret, so that nobody can choose keys that collide. */
must_check int route_index_create(struct route_index **out_index, uint64_t entries_max,
				  uint64_t seed, struct error *error);
void route_index_destroy(struct route_index *index);

/* -EAGAIN: all numbers are taken, or not swept yet. */
must_check int route_source_open(struct route_index *index, uint16_t *out_source);
/* What it told is matched no more. */
void route_source_drop(struct route_index *index, uint16_t source);
/* A small step of what dropped sources leave. False: there is nothing to do. */
bool route_index_sweep(struct route_index *index);
/* Entries of a source, and the sum of inventory_digest() over them. */
void route_source_look(const struct route_index *index, uint16_t source, uint64_t *out_entries,
		       uint64_t *out_digest);

/*
 * Sets and clears bits (ROUTE_BIT) of one entry; without any bit it is gone. Returns the bits that
 * it has then; -ENOENT: the source is not open, -ENOSPC: entries_max, -ENOMEM: nothing has changed.
 */
int route_index_change(struct route_index *index, uint16_t source, uint64_t key, unsigned set,
		       unsigned clear);
unsigned route_index_get(const struct route_index *index, uint16_t source, uint64_t key);

/*
 * For each pod how many of `keys`, from the first on, it has without a gap. keys: a chain's, in
 * order. out_matches: pods_count, at most ROUTE_PODS_MAX.
 */
void route_index_match(struct route_index *index, const uint64_t *keys, uint32_t keys_count,
		       const struct route_pod *pods, uint32_t pods_count,
		       struct route_match *out_matches);
void route_index_look(const struct route_index *index, struct route_figures *out_figures);

#endif
