/* index/usable.c: see usable.h. Starts from the most that any group allows and lowers it hole by
 * hole. */
#include "index/usable.h"

#include <stdbool.h>
#include <stddef.h>

struct group_view {
	const struct usable_group *group;
	const struct usable_run *runs;
	unsigned runs_count;
	uint32_t number;
	uint64_t base;  /* blocks before it are the engine's own */
	uint64_t end;   /* no run reaches it */
	uint64_t known; /* blocks from here up to where the search is are there */
	const struct usable_run
		*last; /* the run that answered last, most likely the next one too */
};

static bool run_covers(const struct usable_run *run, uint64_t block)
{
	return block >= run->first_position && block - run->first_position < run->count;
}

static bool block_is_there(struct group_view *view, uint64_t block)
{
	if (block < view->base)
		return true;
	if (view->last == NULL || !run_covers(view->last, block)) {
		view->last = NULL;
		for (unsigned i = 0; i < view->runs_count && view->last == NULL; i++)
			if (view->runs[i].group == view->number &&
			    run_covers(&view->runs[i], block))
				view->last = &view->runs[i];
	}
	return view->last != NULL && view->last->present[block - view->last->first_position] != 0;
}

static void view_init(struct group_view *view)
{
	bool is_named = false;

	for (unsigned i = 0; i < view->runs_count; i++) {
		const struct usable_run *run = &view->runs[i];
		if (run->group != view->number)
			continue;
		uint64_t end = (uint64_t)run->first_position + run->count;
		if (!is_named || run->first_position < view->base)
			view->base = run->first_position;
		if (end > view->end)
			view->end = end;
		is_named = true;
	}
	if (view->group->kind == USABLE_FULL) {
		uint64_t block = view->base;
		while (block < view->end && block_is_there(view, block))
			block++;
		view->end = block;
	}
	view->known = view->end;
}

/* The largest number of blocks, at most `blocks`, from which this group alone can go on. */
static uint64_t group_lower(struct group_view *view, uint64_t blocks)
{
	const struct usable_group *group = view->group;

	if (blocks > view->end)
		blocks = view->end;
	if (group->kind == USABLE_FULL)
		return blocks;
	if (group->kind == USABLE_STATE) {
		while (blocks > 0 && !block_is_there(view, blocks - 1))
			blocks--;
		return blocks;
	}
	/* Each block is looked at once: what was found there stays known while the search goes
	 * down. */
	if (view->known > blocks)
		view->known = blocks;
	for (;;) {
		uint64_t tokens = blocks * group->tokens_per_block;
		uint64_t need = tokens <= group->window_tokens
					? 0
					: (tokens - group->window_tokens) / group->tokens_per_block;
		while (view->known > need && view->known > view->base &&
		       block_is_there(view, view->known - 1))
			view->known--;
		if (view->known <= need || view->known <= view->base)
			return blocks;
		view->known--; /* a hole: go on below it */
		blocks = view->known;
	}
}

static uint64_t common_multiple(uint64_t left, uint64_t right)
{
	uint64_t divisor = left;

	for (uint64_t rest = right; rest != 0;) {
		uint64_t next = divisor % rest;
		divisor = rest;
		rest = next;
	}
	return left / divisor * right;
}

uint32_t usable_tokens(const struct usable_group *groups, unsigned groups_count,
		       const struct usable_run *runs, unsigned runs_count)
{
	return usable_tokens_within(groups, groups_count, runs, runs_count, UINT32_MAX);
}

uint32_t usable_tokens_within(const struct usable_group *groups, unsigned groups_count,
			      const struct usable_run *runs, unsigned runs_count,
			      uint32_t tokens_max)
{
	struct group_view views[USABLE_GROUPS_MAX];
	uint64_t tokens = tokens_max;
	uint64_t step = 1;

	if (groups_count == 0 || groups_count > USABLE_GROUPS_MAX)
		return 0;
	for (unsigned i = 0; i < groups_count; i++) {
		if (groups[i].tokens_per_block == 0 || groups[i].kind >= USABLE_KINDS)
			return 0;
		views[i] = (struct group_view){
			.group = &groups[i],
			.runs = runs,
			.runs_count = runs_count,
			.number = i,
		};
		view_init(&views[i]);
		step = common_multiple(step, groups[i].tokens_per_block);
		if (step > UINT32_MAX)
			return 0;
	}
	/* Ends, as every round but the last lowers it. */
	for (uint64_t before = tokens + 1; tokens < before;) {
		before = tokens;
		tokens -= tokens % step;
		for (unsigned i = 0; i < groups_count; i++) {
			uint64_t size = groups[i].tokens_per_block;
			uint64_t most = group_lower(&views[i], tokens / size) * size;
			if (most < tokens)
				tokens = most;
		}
	}
	return (uint32_t)tokens;
}
