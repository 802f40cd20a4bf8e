/*
 * transfer/plan.h: which bytes a list of blocks is, as rectangles, in chunks.
 *
 * A plan is walked, not made: it allocates nothing, and a long job costs no more memory than a
 * short one. Blocks with consecutive numbers whose payloads lie at one distance in host memory go
 * together: what follows each other on both sides becomes one row, what is at one distance on
 * both sides one rectangle. The time of a walk is that of its blocks and rectangles.
 *
 * Pure functions; any thread.
 */
#ifndef KVTIER_TRANSFER_PLAN_H
#define KVTIER_TRANSFER_PLAN_H

#include "transfer/copy.h"
#include "transfer/layout.h"

struct plan_block {
	uint32_t number; /* the engine's, below the group's blocks_count */
	uint8_t *host;   /* where its payload begins */
};

struct plan_source { /* all borrowed until the last plan_next() */
	const struct layout_group *group;
	const uint64_t *region_bases;    /* of each region that the group's planes name */
	const struct plan_block *blocks; /* payloads do not overlap; for a load, nor do numbers */
	uint32_t blocks_count;
	uint64_t chunk_bytes_max; /* >= 1 */
};

struct plan {
	struct plan_source source;
	uint32_t block;      /* the first that is not complete */
	uint32_t run_blocks; /* how many from there go together; 0: not looked at yet */
	uint32_t box, step;  /* of the blocks that go together: which rectangle comes next */
	/* What of the box is done already. Only a block that goes alone is cut, at a chunk's end.
	 */
	uint32_t row;
	uint64_t row_bytes_done;
};

/* What an engine asks for: -EINVAL where a number is none of the group's. */
must_check int plan_check(const struct layout_group *group, const struct plan_block *blocks,
			  uint32_t blocks_count, struct error *error);

/* The blocks have passed plan_check(). */
void plan_init(struct plan *plan, const struct plan_source *source);

/* Writes the next chunk: rectangles of at most chunk_bytes_max bytes in all; returns how many, 0
 * when the plan is done. Rows are cut only where one is longer than a chunk. `out_blocks_done`:
 * how many blocks from the first are complete once this chunk and those before it are copied. */
uint32_t plan_next(struct plan *plan, struct copy_rectangle *out_rectangles,
		   uint32_t rectangles_max, uint32_t *out_blocks_done);

#endif
