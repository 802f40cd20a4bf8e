/*
 * transfer/layout.c: descriptions of blocks, checked, and made ready for copies: planes that follow
 * each other become one run, runs at a constant distance one box.
 */
#include "transfer/layout.h"

#include "transfer/layout_overlap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How far behind a run its box's second row is looked for. Layers of several kinds alternate with
 * short periods, and heads of a block that has them outside of its layers with their number. */
#define LOOK_AHEAD 64u

/* ---- checks ---- */

static int check_counts(const struct layout_source *source, struct error *error)
{
	if (source->regions_count < 1 || source->regions_count > LAYOUT_REGIONS_MAX)
		return error_set(error, -EINVAL, "%u regions, 1 to %u are right",
				 source->regions_count, LAYOUT_REGIONS_MAX);
	if (source->groups_count < 1 || source->groups_count > LAYOUT_GROUPS_MAX)
		return error_set(error, -EINVAL, "%u groups, 1 to %u are right",
				 source->groups_count, LAYOUT_GROUPS_MAX);
	for (uint32_t i = 0; i < source->regions_count; i++)
		if (source->region_bytes[i] < 1 ||
		    source->region_bytes[i] > LAYOUT_REGION_BYTES_MAX)
			return error_set(error, -EINVAL,
					 "region %u: %" PRIu64 " bytes, 1 to %" PRIu64 " are right",
					 i, source->region_bytes[i], LAYOUT_REGION_BYTES_MAX);
	return 0;
}

/* The plane's blocks one by one lie apart, and all of them inside of the region. */
static int check_blocks(const struct layout_plane *plane, uint32_t blocks_count,
			uint64_t region_bytes, const char *where, struct error *error)
{
	uint64_t end = 0;

	if (plane->bytes == 0)
		return error_set(error, -EINVAL, "%s: 0 bytes, at least 1 is right", where);
	if (blocks_count > 1 && plane->stride < plane->bytes)
		return error_set(error, -EINVAL,
				 "%s: %" PRIu64 " bytes of a block every %" PRIu64
				 " bytes, so blocks share bytes; a stride of at least %" PRIu64
				 " is right",
				 where, plane->bytes, plane->stride, plane->bytes);
	if ((blocks_count > 1 && __builtin_mul_overflow(plane->stride, blocks_count - 1, &end)) ||
	    __builtin_add_overflow(end, plane->offset, &end) ||
	    __builtin_add_overflow(end, plane->bytes, &end))
		return error_set(error, -EINVAL,
				 "%s: offset %" PRIu64 " and %u blocks every %" PRIu64
				 " bytes are beyond 64 bits; region %u has %" PRIu64 " bytes",
				 where, plane->offset, blocks_count, plane->stride, plane->region,
				 region_bytes);
	if (end > region_bytes)
		return error_set(error, -EINVAL,
				 "%s: its blocks end at byte %" PRIu64 ", region %u has %" PRIu64
				 " bytes",
				 where, end, plane->region, region_bytes);
	return 0;
}

static int check_plane(const struct layout_source *source, uint32_t index, uint32_t i,
		       struct error *error)
{
	const struct layout_group_source *group = &source->groups[index];
	const struct layout_plane *plane = &group->planes[i];
	char where[40];

	if (plane->region >= source->regions_count)
		return error_set(error, -EINVAL,
				 "group %u, plane %u: region %u, there are %u (0 to %u)", index, i,
				 plane->region, source->regions_count, source->regions_count - 1);
	snprintf(where, sizeof(where), "group %u, plane %u", index, i);
	return check_blocks(plane, group->blocks_count, source->region_bytes[plane->region], where,
			    error);
}

static int check_group(const struct layout_source *source, uint32_t index, struct error *error)
{
	const struct layout_group_source *group = &source->groups[index];
	uint64_t payload_bytes = 0;

	if (group->blocks_count < 1)
		return error_set(error, -EINVAL, "group %u: 0 blocks, at least 1 is right", index);
	if (group->planes_count < 1 || group->planes_count > LAYOUT_PLANES_MAX)
		return error_set(error, -EINVAL, "group %u: %u planes, 1 to %u are right", index,
				 group->planes_count, LAYOUT_PLANES_MAX);
	for (uint32_t i = 0; i < group->planes_count; i++) {
		int result = check_plane(source, index, i, error);

		if (result < 0)
			return result;
		if (__builtin_add_overflow(payload_bytes, group->planes[i].bytes, &payload_bytes))
			return error_set(error, -EINVAL,
					 "group %u: a block has more bytes than 64 bits count",
					 index);
	}
	return layout_check_overlaps(group, index, error);
}

/* ---- runs and boxes; a box of one row is a run ---- */

static bool runs_join(struct layout_box *last, const struct layout_plane *plane, uint64_t stride)
{
	if (last->region != plane->region || last->stride != stride ||
	    last->offset + last->bytes != plane->offset)
		return false;
	last->bytes += plane->bytes;
	return true;
}

/* Writes at most planes_count runs; returns how many. Ascending by payload_offset. */
static uint32_t runs_make(const struct layout_group_source *group, struct layout_box *runs,
			  uint64_t *out_payload_bytes)
{
	uint64_t payload_bytes = 0;
	uint32_t count = 0;

	for (uint32_t i = 0; i < group->planes_count; i++) {
		const struct layout_plane *plane = &group->planes[i];
		uint64_t stride = group->blocks_count > 1 ? plane->stride : 0;

		if (count == 0 || !runs_join(&runs[count - 1], plane, stride))
			runs[count++] = (struct layout_box){
				.region = plane->region,
				.rows = 1,
				.bytes = plane->bytes,
				.offset = plane->offset,
				.stride = stride,
				.payload_offset = payload_bytes,
			};
		payload_bytes += plane->bytes;
	}
	*out_payload_bytes = payload_bytes;
	return count;
}

/* The run at a place in the payload, or NULL. */
static struct layout_box *run_at(struct layout_box *runs, uint32_t count, uint64_t payload_offset)
{
	uint32_t first = 0, end = count;

	while (first < end) {
		uint32_t middle = first + (end - first) / 2;

		if (runs[middle].payload_offset < payload_offset)
			first = middle + 1;
		else
			end = middle;
	}
	if (first == count || runs[first].payload_offset != payload_offset)
		return NULL;
	return &runs[first];
}

/* Whether `next` can be a row of a box with `run`; rows of 0 are in a box already. */
static bool is_alike(const struct layout_box *run, const struct layout_box *next)
{
	return next->rows == 1 && next->region == run->region && next->stride == run->stride &&
	       next->bytes == run->bytes;
}

/* The box that begins with two rows, as long as it goes on. */
static struct layout_box box_along(struct layout_box *runs, uint32_t count, uint32_t first,
				   uint32_t second)
{
	struct layout_box box = runs[first];
	const struct layout_box *next = &runs[second];

	box.pitch = next->offset - box.offset;
	box.payload_pitch = next->payload_offset - box.payload_offset;
	while (next != NULL && is_alike(&box, next) &&
	       next->offset == box.offset + box.rows * box.pitch) {
		box.rows++;
		next = run_at(runs, count, box.payload_offset + box.rows * box.payload_pitch);
	}
	return box;
}

/* The box that begins with a run: the longest of those that some following run makes with it. */
static struct layout_box box_best(struct layout_box *runs, uint32_t count, uint32_t first)
{
	struct layout_box best = runs[first];

	best.pitch = best.payload_pitch = best.bytes;
	for (uint32_t i = first + 1; i < count && i <= first + LOOK_AHEAD; i++) {
		if (!is_alike(&runs[first], &runs[i]) || runs[i].offset < runs[first].offset)
			continue;
		struct layout_box box = box_along(runs, count, first, i);

		if (box.rows > best.rows)
			best = box;
	}
	return best;
}

/* Writes at most `count` boxes; returns how many. Runs that are in one have 0 rows from then on. */
static uint32_t boxes_make(struct layout_box *runs, uint32_t count, struct layout_box *boxes)
{
	uint32_t boxes_count = 0;

	for (uint32_t first = 0; first < count; first++) {
		if (runs[first].rows == 0)
			continue;
		struct layout_box box = box_best(runs, count, first);

		for (uint32_t row = 0; row < box.rows; row++)
			run_at(runs, count, box.payload_offset + row * box.payload_pitch)->rows = 0;
		boxes[boxes_count++] = box;
	}
	return boxes_count;
}

static int group_make(struct layout_group *group, const struct layout_group_source *source,
		      uint32_t index, struct error *error)
{
	struct layout_box *runs = calloc(source->planes_count, sizeof(*runs));
	struct layout_box *boxes = calloc(source->planes_count, sizeof(*boxes));
	struct layout_box *kept;

	if (runs == NULL || boxes == NULL) {
		free(runs);
		free(boxes);
		return error_set(error, -ENOMEM, "no memory for the planes of group %u", index);
	}
	group->blocks_count = source->blocks_count;
	group->rows_count = runs_make(source, runs, &group->payload_bytes);
	group->boxes_count = boxes_make(runs, group->rows_count, boxes);
	free(runs);
	group->boxes = boxes;
	kept = realloc(boxes, group->boxes_count * sizeof(*boxes));
	if (kept != NULL)
		group->boxes = kept;
	return 0;
}

int layout_init(struct layout *layout, const struct layout_source *source, struct error *error)
{
	int result = check_counts(source, error);

	memset(layout, 0, sizeof(*layout));
	for (uint32_t i = 0; result == 0 && i < source->groups_count; i++)
		result = check_group(source, i, error);
	for (uint32_t i = 0; result == 0 && i < source->groups_count; i++) {
		result = group_make(&layout->groups[i], &source->groups[i], i, error);
		layout->groups_count = i + 1;
	}
	if (result < 0)
		layout_finish(layout);
	return result;
}

void layout_finish(struct layout *layout)
{
	if (layout == NULL)
		return;
	for (uint32_t i = 0; i < layout->groups_count; i++)
		free(layout->groups[i].boxes);
	memset(layout, 0, sizeof(*layout));
}
