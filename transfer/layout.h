/*
 * transfer/layout.h: where the bytes of an engine's KV blocks lie in the memory that it lent,
 * checked once, so that no block number below blocks_count can make a copy leave that memory.
 *
 * A *region* is one allocation that the engine lent. A *plane* is one part of every block of a
 * group: that of block b lies at offset + b * stride of its region. A block's payload is its
 * planes one behind the other, in the order given: opaque bytes, never laid out anew. Groups may
 * overlay each other, as pools of hybrid models do; within a group every byte is one block's.
 *
 * Pure functions; any thread.
 */
#ifndef KVTIER_TRANSFER_LAYOUT_H
#define KVTIER_TRANSFER_LAYOUT_H

#include "base/error.h"

#include <stdint.h>

#define LAYOUT_REGIONS_MAX 1024u /* engines may lend an allocation a layer, or two */
#define LAYOUT_GROUPS_MAX 16u
#define LAYOUT_PLANES_MAX 4096u /* of a group */
/* Planes of a group that lie in one another at several strides: each is held against each. */
#define LAYOUT_MIXED_PLANES_MAX 1024u
/* So that sums of two places fit, with a sign as well. */
#define LAYOUT_REGION_BYTES_MAX ((uint64_t)INT64_MAX)

struct layout_plane {
	uint32_t region;
	uint64_t offset, stride, bytes; /* stride: not looked at where there is one block */
};

struct layout_group_source {
	uint32_t blocks_count; /* engine blocks 0..blocks_count-1 */
	uint32_t planes_count;
	const struct layout_plane *planes;
};

struct layout_source { /* borrowed during layout_init() */
	uint32_t regions_count, groups_count;
	const uint64_t *region_bytes; /* of each region */
	const struct layout_group_source *groups;
};

/* Runs of bytes of one block, equally long and equally far apart both in the region and in the
 * payload: one rectangle. Planes that follow each other in both are one run. */
struct layout_box {
	uint32_t region;
	uint32_t rows;   /* >= 1 */
	uint64_t bytes;  /* of a row */
	uint64_t offset; /* of block 0's first row, in the region */
	uint64_t stride; /* from block to block */
	uint64_t pitch;  /* from row to row; >= bytes, and == bytes of a single row */
	uint64_t payload_offset;
	uint64_t payload_pitch; /* the same in the payload */
};

struct layout_group {
	uint32_t blocks_count;
	uint32_t boxes_count;
	uint32_t rows_count; /* of all boxes: pieces in which a block lies in device memory */
	uint64_t payload_bytes;
	struct layout_box *boxes; /* the layout's; ascending by payload_offset */
};

struct layout {
	uint32_t groups_count;
	struct layout_group groups[LAYOUT_GROUPS_MAX];
};

/* -EINVAL: counts beyond the limits above, sizes of 0, bytes outside of a region, or bytes of a
 * group that are, or for all that can be told may be, two blocks' or two planes'. It is told
 * exactly where strides that lie in one another are equal or multiples of each other. -ENOMEM.
 * On failure nothing is left behind. */
must_check int layout_init(struct layout *layout, const struct layout_source *source,
			   struct error *error);
void layout_finish(struct layout *layout);

#endif
