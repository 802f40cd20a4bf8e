/* client/kvtier_planes.c: a group's description, and a block between its planes and a run of bytes.
 */
#include "base/checksum.h"
#include "base/copy.h"
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Short enough that what was copied is still in the cache when its checksum is taken. */
#define PIECE_BYTES (32u << 10)

static int group_check_plane(const struct kvtier_group *from, unsigned index, unsigned i,
			     struct error *error)
{
	const struct kvtier_plane *plane = &from->planes[i];
	uint64_t blocks_before_last = from->blocks_count > 0 ? from->blocks_count - 1 : 0;
	uint64_t last, end;

	if (plane->base == NULL || plane->bytes == 0)
		return error_set(error, -EINVAL, "group %u, plane %u: base and bytes are required",
				 index, i);
	if (from->blocks_count > 1 && plane->stride < plane->bytes)
		return error_set(
			error, -EINVAL,
			"group %u, plane %u: stride is %llu, at least its %llu bytes are right",
			index, i, (unsigned long long)plane->stride,
			(unsigned long long)plane->bytes);
	if (__builtin_mul_overflow(plane->stride, blocks_before_last, &last) ||
	    __builtin_add_overflow(last, plane->bytes, &end) ||
	    __builtin_add_overflow(end, (uint64_t)(uintptr_t)plane->base, &end))
		return error_set(error, -EINVAL,
				 "group %u, plane %u: its last block lies beyond the address space",
				 index, i);
	return 0;
}

/* The payload's bytes, checked against the planes. */
static int group_measure(const struct kvtier_group *from, unsigned index, bool is_worker,
			 uint64_t *out_bytes, struct error *error)
{
	uint64_t sum = 0;

	if (from->planes_count > CLIENT_PLANES_MAX ||
	    (from->planes_count > 0 && from->planes == NULL))
		return error_set(error, -EINVAL,
				 "group %u: planes_count is %u, at most %u are right", index,
				 from->planes_count, CLIENT_PLANES_MAX);
	for (unsigned i = 0; i < from->planes_count; i++) {
		int result = group_check_plane(from, index, i, error);

		if (result < 0)
			return result;
		if (__builtin_add_overflow(sum, from->planes[i].bytes, &sum))
			return error_set(error, -EINVAL, "group %u: its planes have too many bytes",
					 index);
	}
	if (is_worker && (from->planes_count == 0 || from->blocks_count == 0))
		return error_set(error, -EINVAL,
				 "group %u: a worker names its planes and blocks_count", index);
	if (from->payload_bytes != 0 && sum != 0 && from->payload_bytes != sum)
		return error_set(error, -EINVAL,
				 "group %u: payload_bytes is %llu, its planes have %llu", index,
				 (unsigned long long)from->payload_bytes, (unsigned long long)sum);
	*out_bytes = sum != 0 ? sum : from->payload_bytes;
	return 0;
}

int group_init(struct group *group, const struct kvtier_group *from, unsigned index, bool is_worker,
	       struct error *error)
{
	uint32_t segments_count = from->segments_count == 0 ? 1 : from->segments_count;
	uint64_t payload_bytes = 0;
	int result = group_measure(from, index, is_worker, &payload_bytes, error);

	if (result < 0)
		return result;
	if ((unsigned)from->kind > KVTIER_STATE || from->tokens_per_block == 0 ||
	    payload_bytes == 0 || payload_bytes > CLIENT_MAPPING_BYTES_MAX)
		return error_set(
			error, -EINVAL,
			"group %u: kind, tokens_per_block or the payload's size is not right",
			index);
	if (segments_count > SLOT_SEGMENTS_MAX)
		return error_set(error, -EINVAL,
				 "group %u: segments_count is %u, at most %u are right", index,
				 segments_count, SLOT_SEGMENTS_MAX);
	group->frame = (struct frame_group){
		.kind = from->kind,
		.tokens_per_block = from->tokens_per_block,
		.payload_bytes = payload_bytes,
		.segments_count = segments_count,
		.window_tokens = from->window_tokens,
	};
	group->blocks_count = is_worker ? from->blocks_count : 0;
	group->planes_count = from->planes_count;
	if (from->planes_count == 0)
		return 0;
	group->planes = calloc(from->planes_count, sizeof(*group->planes));
	if (group->planes == NULL)
		return error_set(error, -ENOMEM, "no memory for the planes of group %u", index);
	memcpy(group->planes, from->planes, from->planes_count * sizeof(*group->planes));
	return 0;
}

void group_finish(struct group *group)
{
	free(group->planes);
	group->planes = NULL;
}

/* Copies a plane's bytes, which are bytes `position`... of the payload, going on with the segments'
 * checksums. */
static void plane_copy(const struct group *group, uint64_t position, uint8_t *target,
		       const uint8_t *source, uint64_t bytes, uint32_t *crcs)
{
	uint64_t segment_bytes = slot_segment_bytes(group->frame.payload_bytes,
						    group->frame.segments_count);

	if (position % segment_bytes == 0 && bytes % segment_bytes == 0) {
		copy_with_checksums(target, source, bytes, segment_bytes,
				    crcs + position / segment_bytes);
		return;
	}
	while (bytes > 0) {
		uint64_t into_segment = position % segment_bytes;
		uint64_t piece = segment_bytes - into_segment < bytes ? segment_bytes - into_segment
								      : bytes;
		uint32_t *crc = crcs + position / segment_bytes;

		if (piece > PIECE_BYTES)
			piece = PIECE_BYTES;
		*crc = copy_with_checksum_more(into_segment == 0 ? 0 : *crc, target, source, piece);
		target += piece;
		source += piece;
		position += piece;
		bytes -= piece;
	}
}

void group_gather(const struct group *group, uint32_t engine_block, uint8_t *target,
		  uint32_t *out_crcs)
{
	uint64_t position = 0;

	assert(engine_block < group->blocks_count);
	for (uint32_t i = 0; i < group->planes_count; i++) {
		const struct kvtier_plane *plane = &group->planes[i];
		const uint8_t *source = (const uint8_t *)plane->base + engine_block * plane->stride;

		plane_copy(group, position, target + position, source, plane->bytes, out_crcs);
		position += plane->bytes;
	}
	assert(position == group->frame.payload_bytes);
}

void group_scatter(const struct group *group, uint32_t engine_block, const uint8_t *source,
		   uint32_t *out_crcs)
{
	uint64_t position = 0;

	assert(engine_block < group->blocks_count);
	for (uint32_t i = 0; i < group->planes_count; i++) {
		const struct kvtier_plane *plane = &group->planes[i];
		uint8_t *target = (uint8_t *)plane->base + engine_block * plane->stride;

		plane_copy(group, position, target, source + position, plane->bytes, out_crcs);
		position += plane->bytes;
	}
	assert(position == group->frame.payload_bytes);
}

/* The group whose block may be copied as a whole, or NULL. */
static const struct group *block_find(const struct kvtier_client *client, uint32_t group,
				      uint32_t engine_block, size_t bytes)
{
	if ((client->roles & KVTIER_WORKER) == 0 || client_is_pulled(client) ||
	    group >= client->groups_count ||
	    engine_block >= client->groups[group].blocks_count ||
	    bytes != client->groups[group].frame.payload_bytes)
		return NULL;
	return &client->groups[group];
}

int kvtier_block_read(struct kvtier_client *client, uint32_t group, uint32_t engine_block,
		      void *out_bytes, size_t bytes)
{
	const struct group *found = block_find(client, group, engine_block, bytes);
	uint32_t crcs[SLOT_SEGMENTS_MAX];

	if (atomic_load(&client->is_child))
		return -ECHILD;
	if (found == NULL || out_bytes == NULL)
		return -EINVAL;
	group_gather(found, engine_block, out_bytes, crcs);
	return 0;
}

int kvtier_block_write(struct kvtier_client *client, uint32_t group, uint32_t engine_block,
		       const void *from, size_t bytes)
{
	const struct group *found = block_find(client, group, engine_block, bytes);
	uint32_t crcs[SLOT_SEGMENTS_MAX];

	if (atomic_load(&client->is_child))
		return -ECHILD;
	if (found == NULL || from == NULL)
		return -EINVAL;
	group_scatter(found, engine_block, from, crcs);
	return 0;
}
