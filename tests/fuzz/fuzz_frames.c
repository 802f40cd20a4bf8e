/* tests/fuzz/fuzz_frames.c: any bytes as a frame, from either side: checked, then walked as a
 * reader would. */
#include "proto/frames_blocks.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);

static volatile uint64_t seen;

static void walk(const void *frame)
{
	const struct frame_header *header = frame;
	const uint8_t(*hashes)[FRAME_HASH_BYTES];
	const struct frame_keys *keys;
	const struct frame_commit_item *item;
	const uint32_t *crcs;
	size_t position = 0;

	if (header->type == FRAME_LOOKUP)
		while ((keys = frame_lookup_next(frame, &position, &hashes)) != NULL)
			for (unsigned i = 0; i < keys->count; i++)
				seen += hashes[i][31];
	if (header->type == FRAME_COMMIT)
		while ((item = frame_commit_next(frame, &position, &crcs)) != NULL)
			for (uint32_t i = 0; i < item->segments_count; i++)
				seen += crcs[i];
	if (header->type == FRAME_REGISTER) {
		const struct frame_register *registration = frame;

		seen += frame_register_groups(registration)[registration->groups_count - 1]
				.payload_bytes;
		for (unsigned i = 0; i < registration->fields_bytes; i++)
			seen += frame_register_fields(registration)[i];
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	/* A copy of exactly this size, aligned as the sockets' buffers are; the header's magic and
	 * size are given, or nothing would ever get past them. */
	uint8_t *frame = malloc(bytes == 0 ? 1 : bytes);
	struct error error;

	if (frame == NULL)
		return 0;
	if (bytes > 0)
		memcpy(frame, input, bytes);
	if (bytes >= sizeof(struct frame_header)) {
		struct frame_header *header = (struct frame_header *)frame;

		header->magic = FRAME_MAGIC;
		header->bytes = (uint32_t)bytes;
	}
	for (unsigned from_daemon = 0; from_daemon < 2; from_daemon++)
		if (frame_check(frame, bytes, from_daemon, &error) == 0)
			walk(frame);
	free(frame);
	return 0;
}
