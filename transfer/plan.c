/* transfer/plan.c: blocks as rectangles, joined where they follow each other, cut at chunks. */
#include "transfer/plan.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>

int plan_check(const struct layout_group *group, const struct plan_block *blocks,
	       uint32_t blocks_count, struct error *error)
{
	for (uint32_t i = 0; i < blocks_count; i++)
		if (blocks[i].number >= group->blocks_count)
			return error_set(
				error, -EINVAL,
				"block %u of the job is the engine's block %u; the group has %u (0 to %u)",
				i, blocks[i].number, group->blocks_count, group->blocks_count - 1);
	return 0;
}

void plan_init(struct plan *plan, const struct plan_source *source)
{
	assert(source->chunk_bytes_max > 0);
	assert(source->group->boxes_count > 0);
	*plan = (struct plan){ .source = *source };
}

/* ---- blocks that go together ---- */

/* From one payload to the next, upwards; 0 where it lies below, or the two overlap. */
static uint64_t host_distance(const struct plan_block *from, const struct plan_block *to,
			      uint64_t payload_bytes)
{
	uintptr_t low = (uintptr_t)from->host, high = (uintptr_t)to->host;

	return high > low && high - low >= payload_bytes ? high - low : 0;
}

/* From block to block of those that go together. */
static uint64_t run_host_pitch(const struct plan *plan)
{
	const struct plan_block *first = &plan->source.blocks[plan->block];

	assert(plan->run_blocks > 1);
	return host_distance(first, first + 1, plan->source.group->payload_bytes);
}

/* As many as go together and fit whole into `room`, but one at least. */
static void run_begin(struct plan *plan, uint64_t room)
{
	uint64_t payload_bytes = plan->source.group->payload_bytes;
	const struct plan_block *blocks = &plan->source.blocks[plan->block];
	uint64_t count_max = plan->source.blocks_count - plan->block;
	uint64_t count = 1, pitch = 0;

	assert(blocks[0].number < plan->source.group->blocks_count);
	if (count_max > room / payload_bytes)
		count_max = room / payload_bytes;
	if (count_max > 1)
		pitch = host_distance(&blocks[0], &blocks[1], payload_bytes);
	while (pitch != 0 && count < count_max &&
	       blocks[count].number == blocks[0].number + count &&
	       host_distance(&blocks[count - 1], &blocks[count], payload_bytes) == pitch)
		count++;
	assert(blocks[count - 1].number < plan->source.group->blocks_count);
	plan->run_blocks = (uint32_t)count;
	plan->box = plan->step = plan->row = 0;
	plan->row_bytes_done = 0;
}

static void box_end(struct plan *plan)
{
	plan->step = plan->row = 0;
	plan->row_bytes_done = 0;
	if (++plan->box < plan->source.group->boxes_count)
		return;
	plan->block += plan->run_blocks;
	plan->run_blocks = 0;
}

/* The box of one block. */
static struct copy_rectangle box_rectangle(const struct plan *plan, const struct layout_box *box,
					   uint32_t run_block)
{
	const struct plan_block *block = &plan->source.blocks[plan->block + run_block];

	return (struct copy_rectangle){
		.device = plan->source.region_bases[box->region] + box->offset +
			  block->number * box->stride,
		.host = block->host + box->payload_offset,
		.bytes = box->bytes,
		.rows = box->rows,
		.device_pitch = box->pitch,
		.host_pitch = box->payload_pitch,
	};
}

/* ---- several blocks; they fit into a chunk, so none is cut ---- */

static struct copy_rectangle run_rectangle(const struct plan *plan, const struct layout_box *box,
					   uint32_t *out_steps)
{
	uint64_t host_pitch = run_host_pitch(plan);
	struct copy_rectangle all = box_rectangle(plan, box, 0);

	*out_steps = 1;
	if (box->stride == box->rows * box->pitch && host_pitch == box->rows * box->payload_pitch) {
		all.rows *= plan->run_blocks; /* the next block goes on where this one ends */
		if (box->rows == 1) {
			all.bytes *= plan->run_blocks;
			all.rows = 1;
		}
		return all;
	}
	if (plan->run_blocks <= box->rows) { /* a rectangle a block */
		*out_steps = plan->run_blocks;
		return box_rectangle(plan, box, plan->step);
	}
	*out_steps = box->rows; /* a rectangle a row of the box */
	all.device += plan->step * box->pitch;
	all.host += plan->step * box->payload_pitch;
	all.rows = plan->run_blocks;
	all.device_pitch = box->stride;
	all.host_pitch = host_pitch;
	return all;
}

static void run_step(struct plan *plan, struct copy_rectangle *out_rectangle)
{
	uint32_t steps;

	*out_rectangle = run_rectangle(plan, &plan->source.group->boxes[plan->box], &steps);
	if (++plan->step == steps)
		box_end(plan);
}

/* ---- one block; cut where the chunk ends ---- */

/* The rest of a row that was cut, or the beginning of one that must be. */
static void row_cut(struct plan *plan, uint64_t room, struct copy_rectangle *rectangle)
{
	uint64_t rest = rectangle->bytes - plan->row_bytes_done;

	rectangle->device += plan->row_bytes_done;
	rectangle->host += plan->row_bytes_done;
	rectangle->bytes = rest < room ? rest : room;
	rectangle->rows = 1;
	plan->row_bytes_done += rectangle->bytes;
	if (rectangle->bytes == rest) {
		plan->row_bytes_done = 0;
		plan->row++;
	}
}

/* Whether something of it fits into `room`. */
static bool block_step(struct plan *plan, uint64_t room, struct copy_rectangle *out_rectangle)
{
	const struct layout_box *box = &plan->source.group->boxes[plan->box];
	struct copy_rectangle rectangle = box_rectangle(plan, box, 0);
	bool is_cut = plan->row_bytes_done > 0 || box->bytes > plan->source.chunk_bytes_max;

	if (room == 0 || (!is_cut && room < box->bytes)) {
		if (plan->box == 0 && plan->row == 0 && plan->row_bytes_done == 0)
			plan->run_blocks = 0; /* in the next chunk others may go with it */
		return false;
	}
	rectangle.device += plan->row * box->pitch;
	rectangle.host += plan->row * box->payload_pitch;
	rectangle.rows -= plan->row;
	if (is_cut) {
		row_cut(plan, room, &rectangle);
	} else {
		if (rectangle.rows > room / box->bytes)
			rectangle.rows = room / box->bytes;
		plan->row += (uint32_t)rectangle.rows;
	}
	if (plan->row == box->rows)
		box_end(plan);
	*out_rectangle = rectangle;
	return true;
}

uint32_t plan_next(struct plan *plan, struct copy_rectangle *out_rectangles,
		   uint32_t rectangles_max, uint32_t *out_blocks_done)
{
	uint64_t room = plan->source.chunk_bytes_max;
	uint32_t count = 0;

	assert(rectangles_max > 0);
	while (count < rectangles_max) {
		struct copy_rectangle *rectangle = &out_rectangles[count];

		if (plan->run_blocks == 0) {
			if (plan->block == plan->source.blocks_count)
				break;
			run_begin(plan, room);
		}
		if (plan->run_blocks > 1)
			run_step(plan, rectangle);
		else if (!block_step(plan, room, rectangle))
			break;
		assert(rectangle->bytes * rectangle->rows <= room);
		room -= rectangle->bytes * rectangle->rows;
		count++;
	}
	*out_blocks_done = plan->block;
	return count;
}
