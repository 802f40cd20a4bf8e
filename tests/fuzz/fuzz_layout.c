/*
 * tests/fuzz/fuzz_layout.c: any numbers as a layout: refused with words, or every byte of every
 * block is inside its region and belongs to no other; then a plan of any blocks names exactly their
 * bytes.
 */
#include "transfer/plan.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define REGIONS 4u
#define GROUPS 3u
#define PLANES 24u
#define JOB_BLOCKS 12u
#define RECTANGLES 8u
#define LOOKED_AT_MAX 8192u /* bytes of a group that are looked at one by one */

struct input {
	const uint8_t *bytes;
	size_t count;
};

struct place {
	uint32_t region;
	uint64_t offset;
};

struct description {
	uint64_t region_bytes[REGIONS], region_bases[REGIONS];
	struct layout_plane planes[GROUPS][PLANES];
	struct layout_group_source groups[GROUPS];
	struct layout_source source;
};

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static uint8_t take_byte(struct input *input)
{
	if (input->count == 0)
		return 0;
	input->count--;
	return *input->bytes++;
}

/* Mostly small, so that planes come near each other; else of two bytes, or at the end of what
 * numbers can be. */
static uint64_t take_number(struct input *input)
{
	uint8_t first = take_byte(input);
	uint64_t number = 0;

	if (first < 200)
		return first;
	if (first < 248)
		return (first & 7u) << 8 | take_byte(input);
	if (first < 252)
		return (UINT64_C(1) << (take_byte(input) & 63)) - take_byte(input);
	for (unsigned i = 0; i < 8; i++)
		number = number << 8 | take_byte(input);
	return number;
}

static void take_description(struct input *input, struct description *description)
{
	memset(description, 0, sizeof(*description));
	description->source = (struct layout_source){
		.regions_count = 1 + take_byte(input) % REGIONS,
		.groups_count = 1 + take_byte(input) % GROUPS,
		.region_bytes = description->region_bytes,
		.groups = description->groups,
	};
	for (unsigned i = 0; i < description->source.regions_count; i++) {
		description->region_bytes[i] = take_number(input);
		description->region_bases[i] = take_number(input) << 20;
	}
	for (unsigned i = 0; i < description->source.groups_count; i++) {
		struct layout_group_source *group = &description->groups[i];

		group->blocks_count = (uint32_t)take_number(input);
		group->planes_count = 1 + take_byte(input) % PLANES;
		group->planes = description->planes[i];
		for (unsigned n = 0; n < group->planes_count; n++)
			description->planes[i][n] = (struct layout_plane){
				.region = take_byte(input) % (REGIONS + 1),
				.offset = take_number(input),
				.stride = take_number(input),
				.bytes = take_number(input),
			};
	}
}

/* ---- what was accepted ---- */

static void check_inside(const struct description *description,
			 const struct layout_group_source *group)
{
	for (unsigned n = 0; n < group->planes_count; n++) {
		const struct layout_plane *plane = &group->planes[n];
		unsigned __int128 end = plane->stride;

		assert(plane->region < description->source.regions_count && plane->bytes > 0);
		end = group->blocks_count > 1 ? end * (group->blocks_count - 1) : 0;
		end += (unsigned __int128)plane->offset + plane->bytes;
		assert(end <= description->region_bytes[plane->region]);
	}
}

/* Byte by byte of a block, in the order of its payload; returns how many. */
static uint64_t block_places(const struct layout_group_source *group, uint32_t block,
			     struct place *places)
{
	uint64_t count = 0;

	for (unsigned n = 0; n < group->planes_count; n++)
		for (uint64_t byte = 0; byte < group->planes[n].bytes; byte++) {
			const struct layout_plane *plane = &group->planes[n];
			uint64_t first = block > 0 ? block * plane->stride : 0;

			places[count++] = (struct place){ plane->region,
							  plane->offset + first + byte };
		}
	return count;
}

static int by_place(const void *left, const void *right)
{
	const struct place *a = left, *b = right;

	if (a->region != b->region)
		return a->region < b->region ? -1 : 1;
	return a->offset < b->offset ? -1 : a->offset > b->offset;
}

static void check_apart(const struct layout_group_source *group)
{
	static struct place places[LOOKED_AT_MAX];
	uint64_t count = 0;

	for (uint32_t block = 0; block < group->blocks_count; block++)
		count += block_places(group, block, places + count);
	qsort(places, count, sizeof(*places), by_place);
	for (uint64_t i = 1; i < count; i++)
		assert(by_place(&places[i - 1], &places[i]) != 0);
}

/* ---- a plan ---- */

struct job {
	const struct description *description;
	const struct layout_group_source *source;
	const struct layout_group *group;
	struct plan_block blocks[JOB_BLOCKS];
	uint32_t blocks_count;
	uint8_t *arena;
	uint64_t *addresses; /* copied to each byte of the arena */
	bool *is_copied;
	uint64_t arena_bytes;
};

static void job_choose(struct job *job, struct input *input)
{
	uint64_t payload_bytes = job->group->payload_bytes;
	uint8_t mode = take_byte(input);
	uint64_t distance = payload_bytes + (mode & 3);
	uint32_t number = take_byte(input), place = 0;

	job->blocks_count = take_byte(input) % (JOB_BLOCKS + 1);
	job->arena_bytes = JOB_BLOCKS * distance;
	job->arena = malloc(job->arena_bytes);
	job->addresses = calloc(job->arena_bytes, sizeof(*job->addresses));
	job->is_copied = calloc(job->arena_bytes, sizeof(*job->is_copied));
	assert(job->arena != NULL && job->addresses != NULL && job->is_copied != NULL);
	for (uint32_t i = 0; i < job->blocks_count; i++) {
		place = mode & 4 ? job->blocks_count - 1 - i : i;
		job->blocks[i] = (struct plan_block){
			.number = number % job->group->blocks_count,
			.host = job->arena + place * distance,
		};
		number += mode & 8 ? take_byte(input) : 1;
	}
}

static void rectangle_note(struct job *job, const struct copy_rectangle *rectangle)
{
	assert(rectangle->rows > 0 && rectangle->bytes > 0);
	for (uint64_t row = 0; row < rectangle->rows; row++)
		for (uint64_t byte = 0; byte < rectangle->bytes; byte++) {
			uint64_t at = (uint64_t)(rectangle->host - job->arena) +
				      row * rectangle->host_pitch + byte;

			assert(at < job->arena_bytes && !job->is_copied[at]);
			job->is_copied[at] = true;
			job->addresses[at] = rectangle->device + row * rectangle->device_pitch +
					     byte;
		}
}

/* Each byte of the block was copied; forgets it, so that at the end nothing may be left. */
static void block_take(struct job *job, const struct plan_block *block)
{
	static struct place places[LOOKED_AT_MAX];
	uint64_t count = block_places(job->source, block->number, places);
	uint64_t first = (uint64_t)(block->host - job->arena);

	assert(count == job->group->payload_bytes);
	for (uint64_t i = 0; i < count; i++) {
		uint64_t base = job->description->region_bases[places[i].region];

		assert(job->is_copied[first + i]);
		assert(job->addresses[first + i] == base + places[i].offset);
		job->is_copied[first + i] = false;
	}
}

static void job_walk(struct job *job, uint64_t chunk_bytes_max, uint32_t rectangles_max)
{
	struct copy_rectangle rectangles[RECTANGLES];
	uint32_t count, blocks_done, blocks_taken = 0;
	struct plan plan;

	plan_init(&plan, &(struct plan_source){
				 .group = job->group,
				 .region_bases = job->description->region_bases,
				 .blocks = job->blocks,
				 .blocks_count = job->blocks_count,
				 .chunk_bytes_max = chunk_bytes_max,
			 });
	while ((count = plan_next(&plan, rectangles, rectangles_max, &blocks_done)) > 0) {
		uint64_t bytes = 0;

		assert(count <= rectangles_max);
		for (uint32_t i = 0; i < count; i++) {
			rectangle_note(job, &rectangles[i]);
			bytes += rectangles[i].bytes * rectangles[i].rows;
		}
		assert(bytes <= chunk_bytes_max);
		while (blocks_taken < blocks_done)
			block_take(job, &job->blocks[blocks_taken++]);
	}
	assert(blocks_taken == job->blocks_count);
	for (uint64_t i = 0; i < job->arena_bytes; i++)
		assert(!job->is_copied[i]);
}

static void check_plan(const struct description *description, unsigned index,
		       const struct layout_group *group, struct input *input)
{
	struct job job = { .description = description,
			   .source = &description->groups[index],
			   .group = group };
	uint64_t chunk_bytes_max;

	job_choose(&job, input);
	assert(plan_check(group, job.blocks, job.blocks_count, NULL) == 0);
	chunk_bytes_max = 1 + group->payload_bytes / 64 + take_number(input) % (1u << 20);
	job_walk(&job, chunk_bytes_max, 1 + take_byte(input) % RECTANGLES);
	free(job.arena);
	free(job.addresses);
	free(job.is_copied);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
	struct input input = { bytes, count };
	static struct description description;
	struct error error = { 0 };
	struct layout layout;

	take_description(&input, &description);
	if (layout_init(&layout, &description.source, &error) < 0) {
		assert(error.code < 0 && error.text[0] != '\0' && layout.groups_count == 0);
		return 0;
	}
	for (unsigned i = 0; i < description.source.groups_count; i++) {
		const struct layout_group *group = &layout.groups[i];

		check_inside(&description, &description.groups[i]);
		if (group->payload_bytes > LOOKED_AT_MAX)
			continue;
		if (group->blocks_count <= LOOKED_AT_MAX / group->payload_bytes)
			check_apart(&description.groups[i]);
		check_plan(&description, i, group, &input);
	}
	layout_finish(&layout);
	return 0;
}
