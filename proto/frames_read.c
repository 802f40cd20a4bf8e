/* proto/frames_read.c: starts frames, steps through what follows fixed parts, names reasons. */
#include "proto/frames.h"

#include <assert.h>

void frame_start(struct frame_header *header, enum frame_type type, uint32_t bytes,
		 uint64_t request, uint64_t boot_id)
{
	assert(bytes >= sizeof(*header));
	assert(bytes <= FRAME_BYTES_MAX);
	*header = (struct frame_header){
		.magic = FRAME_MAGIC,
		.type = type,
		.bytes = bytes,
		.request = request,
		.boot_id = boot_id,
	};
}

const struct frame_group *frame_register_groups(const struct frame_register *frame)
{
	return (const struct frame_group *)(frame + 1);
}

const uint8_t *frame_register_fields(const struct frame_register *frame)
{
	return (const uint8_t *)(frame_register_groups(frame) + frame->groups_count);
}

const struct frame_keys *frame_lookup_next(const struct frame_lookup *frame, size_t *position,
					   const uint8_t (**out_hashes)[FRAME_HASH_BYTES])
{
	size_t tail_bytes = frame->header.bytes - sizeof(*frame);
	const struct frame_keys *keys;

	if (*position >= tail_bytes)
		return NULL;
	keys = (const struct frame_keys *)((const uint8_t *)(frame + 1) + *position);
	*out_hashes = (const uint8_t(*)[FRAME_HASH_BYTES])(keys + 1);
	*position += sizeof(*keys) + (size_t)keys->count * FRAME_HASH_BYTES;
	assert(*position <= tail_bytes);
	return keys;
}

const char *frame_reason_name(unsigned reason)
{
	static const char *const names[FRAME_REASONS] = {
		[FRAME_REASON_HIT_CPU] = "hit-cpu",
		[FRAME_REASON_HIT_NVME] = "hit-nvme",
		[FRAME_REASON_NEVER_STORED] = "never-stored",
		[FRAME_REASON_EVICTED] = "evicted",
		[FRAME_REASON_FORGOTTEN] = "forgotten",
		[FRAME_REASON_FILLING] = "filling",
		[FRAME_REASON_SHARDS_MISSING] = "shards-missing",
		[FRAME_REASON_DAMAGED] = "damaged",
		[FRAME_REASON_REFUSED] = "refused",
		[FRAME_REASON_BYPASSED] = "bypassed",
		[FRAME_REASON_NO_SPACE] = "no-such-space",
		[FRAME_REASON_KEY_MISSING] = "key-missing",
		[FRAME_REASON_IN_CLEAR] = "in-clear",
	};

	return reason < FRAME_REASONS ? names[reason] : "unknown";
}
