/* proto/frames_blocks.c: checks frames of blocks, and steps through a COMMIT. */
#include "proto/frames_blocks.h"

#include "proto/frames_parts.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

_Static_assert(sizeof(struct frame_store) + FRAME_KEYS_MAX * sizeof(struct frame_store_item) <=
		       FRAME_BYTES_MAX,
	       "the longest STORE fits");
_Static_assert(sizeof(struct frame_lend) + FRAME_LEND_BYTES_MAX <= FRAME_BYTES_MAX,
	       "the longest LEND fits");
_Static_assert(sizeof(struct frame_lend) % 8 == 0, "its packet is aligned");

/* Of the packet's inside whoever reads it knows more. */
int frame_check_lend(const struct frame_inspection *in)
{
	uint64_t tail_bytes = in->bytes - in->fixed_bytes;

	if (tail_bytes > FRAME_LEND_BYTES_MAX)
		return frame_refuse(in, "its packet", tail_bytes, FRAME_LEND_BYTES_MAX);
	return tail_bytes % 8 == 0 ? 0 : frame_check_tail(in, tail_bytes / 8 * 8);
}

int frame_check_store(const struct frame_inspection *in)
{
	const struct frame_store *frame = in->frame;
	int result = frame_check_group(in, frame->group);

	if (result < 0)
		return result;
	if (frame->has_parent > 1)
		return frame_refuse(in, "has_parent", frame->has_parent, 1);
	if (frame->first_position > UINT32_MAX - frame->count)
		return frame_refuse(in, "first_position", frame->first_position,
				    UINT32_MAX - frame->count);
	return frame_check_count(in, "count", frame->count, FRAME_KEYS_MAX,
				 sizeof(struct frame_store_item));
}

int frame_check_store_reply(const struct frame_inspection *in)
{
	const struct frame_store_reply *frame = in->frame;
	const uint8_t *admissions = (const uint8_t *)(frame + 1);
	uint32_t wanted_count = 0;
	int result = frame_check_count(in, "count", frame->count, FRAME_KEYS_MAX, 1);

	if (result < 0)
		return result;
	for (uint32_t i = 0; i < frame->count; i++) {
		if (admissions[i] >= FRAME_ADMISSIONS)
			return frame_refuse(in, "an admission", admissions[i],
					    FRAME_ADMISSIONS - 1);
		wanted_count += admissions[i] == FRAME_ADMITTED;
	}
	if (frame->wanted_count != wanted_count)
		return error_set(in->error, -EPROTO,
				 "STORE_REPLY: wanted_count is %u, %u are admitted",
				 frame->wanted_count, wanted_count);
	return 0;
}

int frame_check_commit(const struct frame_inspection *in)
{
	const struct frame_commit *frame = in->frame;
	const uint8_t *tail = (const uint8_t *)in->frame + in->fixed_bytes;
	uint64_t tail_bytes = in->bytes - in->fixed_bytes;
	uint64_t position = 0;

	if (frame->count > FRAME_KEYS_MAX)
		return frame_refuse(in, "count", frame->count, FRAME_KEYS_MAX);
	for (uint32_t i = 0; i < frame->count; i++) {
		struct frame_commit_item item;

		if (tail_bytes - position < sizeof(item))
			return error_set(in->error, -EPROTO, "COMMIT: item %u is cut short", i);
		memcpy(&item, tail + position, sizeof(item));
		if (item.segments_count > FRAME_SEGMENTS_MAX)
			return frame_refuse(in, "an item's segments_count", item.segments_count,
					    FRAME_SEGMENTS_MAX);
		if (item.index >= FRAME_KEYS_MAX)
			return frame_refuse(in, "an item's index", item.index, FRAME_KEYS_MAX - 1);
		if (frame_commit_item_bytes(item.segments_count) > tail_bytes - position)
			return error_set(in->error, -EPROTO,
					 "COMMIT: the checksums of item %u are cut short", i);
		position += frame_commit_item_bytes(item.segments_count);
	}
	return frame_check_tail(in, position);
}

int frame_check_load(const struct frame_inspection *in)
{
	const struct frame_load *frame = in->frame;
	size_t item_bytes = FRAME_HASH_BYTES;
	int result = frame_check_group(in, frame->group);

	if (result < 0)
		return result;
	if (frame->header.flags & FRAME_PULL)
		item_bytes += sizeof(uint32_t);
	return frame_check_count(in, "count", frame->count, FRAME_KEYS_MAX, item_bytes);
}

/* COPIED, COMMITTED, LOADED and RELEASE: items of a batch whose first word is an index. */
static int check_items(const struct frame_inspection *in, uint32_t count, size_t item_bytes)
{
	const uint8_t *items = (const uint8_t *)in->frame + in->fixed_bytes;
	int result = frame_check_count(in, "count", count, FRAME_KEYS_MAX, item_bytes);

	for (uint32_t i = 0; result == 0 && i < count; i++) {
		uint32_t index;

		memcpy(&index, items + i * item_bytes, sizeof(index));
		if (index >= FRAME_KEYS_MAX)
			result = frame_refuse(in, "an item's index", index, FRAME_KEYS_MAX - 1);
	}
	return result;
}

int frame_check_copied(const struct frame_inspection *in)
{
	return check_items(in, ((const struct frame_copied *)in->frame)->count,
			   sizeof(struct frame_result));
}

int frame_check_committed(const struct frame_inspection *in)
{
	return check_items(in, ((const struct frame_committed *)in->frame)->count,
			   sizeof(struct frame_result));
}

int frame_check_loaded(const struct frame_inspection *in)
{
	return check_items(in, ((const struct frame_loaded *)in->frame)->count,
			   sizeof(struct frame_loaded_item));
}

int frame_check_release(const struct frame_inspection *in)
{
	return check_items(in, ((const struct frame_release *)in->frame)->count,
			   sizeof(struct frame_release_item));
}

const struct frame_commit_item *frame_commit_next(const struct frame_commit *frame,
						  size_t *position, const uint32_t **out_crcs)
{
	size_t tail_bytes = frame->header.bytes - sizeof(*frame);
	const struct frame_commit_item *item;

	if (*position >= tail_bytes)
		return NULL;
	item = (const struct frame_commit_item *)((const uint8_t *)(frame + 1) + *position);
	*out_crcs = (const uint32_t *)(item + 1);
	*position += frame_commit_item_bytes(item->segments_count);
	assert(*position <= tail_bytes);
	return item;
}
