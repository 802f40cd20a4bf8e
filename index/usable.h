/*
 * index/usable.h: how many leading tokens of a request an engine could use, from what is there of
 * each KV group. Pure; any thread.
 */
#ifndef KVTIER_INDEX_USABLE_H
#define KVTIER_INDEX_USABLE_H

#include <stdint.h>

#define USABLE_GROUPS_MAX 16

/* The numbers are those of enum frame_group_kind. */
enum usable_kind {
	USABLE_FULL,   /* full attention: every block from the first on */
	USABLE_WINDOW, /* sliding window: the blocks that cover the last window_tokens */
	USABLE_STATE,  /* recurrent state: the block that ends where the engine goes on */
	USABLE_KINDS
};

struct usable_group {
	enum usable_kind kind;
	uint32_t tokens_per_block;
	uint32_t window_tokens; /* USABLE_WINDOW only */
};

/* What a lookup found of neighbouring blocks of one group; a group may have several runs, in any
 * order. */
struct usable_run {
	uint32_t group;
	uint32_t first_position; /* of present[0], counted in blocks of the group */
	uint32_t count;
	const uint8_t *present; /* count bytes, 0 or 1; borrowed for the call */
};

/*
 * The largest number of leading tokens p such that each group has what it needs to go on from p. p
 * is a multiple of every group's tokens per block. Blocks before a group's first run are the
 * engine's own and count as there; blocks that no run names are missing. 0: nothing, or groups that
 * make no sense (none, too many, blocks of 0 tokens).
 */
uint32_t usable_tokens(const struct usable_group *groups, unsigned groups_count,
		       const struct usable_run *runs, unsigned runs_count);
/*
 * The same among those of at most `tokens_max`. Whoever wants fewer tokens than usable_tokens()
 * says asks here: rounding down may end where a window or a state is missing.
 */
uint32_t usable_tokens_within(const struct usable_group *groups, unsigned groups_count,
			      const struct usable_run *runs, unsigned runs_count,
			      uint32_t tokens_max);

#endif
