/* tests/fuzz/fuzz_peer.c: any bytes as what another node sends: cut into frames, each checked,
 * then walked as a reader would. */
#include "proto/peer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);

static volatile uint64_t seen;

static void walk(const void *frame)
{
	const struct peer_frame_header *header = frame;
	size_t bytes;

	if (header->type == PEER_QUERY) {
		const struct peer_query *query = frame;

		for (unsigned i = 0; i < query->ticket_bytes; i++)
			seen += (uint8_t)peer_query_ticket(query)[i];
		for (unsigned i = 0; i < query->items_count; i++)
			seen += peer_query_items(query)[i].hash[31];
	}
	if (header->type == PEER_GRANT && header->result == 0)
		for (unsigned i = 0; i < ((const struct peer_grant *)frame)->items_count; i++)
			seen += peer_grant_has(frame, i);
	if (header->type == PEER_FETCH)
		for (unsigned i = 0; i < ((const struct peer_fetch *)frame)->count; i++)
			seen += peer_fetch_items(frame)[i].tag;
	if (header->type == PEER_BLOCK)
		seen += ((const uint8_t *)frame)[header->bytes - 1];
	if (header->type == PEER_REFUSED || header->result < 0) {
		const char *text = peer_frame_text(frame, &bytes);

		for (size_t i = 0; i < bytes; i++)
			seen += (uint8_t)text[i];
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	size_t at = 0;
	struct error error;

	/* Each frame in a copy of what is left, aligned as receive buffers are; its magic is
	 * given, or nothing would ever get past it. */
	while (at < bytes) {
		size_t left = bytes - at;
		uint8_t *stream = malloc(left);

		if (stream == NULL)
			return 0;
		memcpy(stream, input + at, left);
		if (left >= sizeof(struct peer_frame_header))
			((struct peer_frame_header *)stream)->magic = PEER_FRAME_MAGIC;
		int result = peer_frame_check(stream, left, &error);
		if (result > 0)
			walk(stream);
		free(stream);
		if (result <= 0)
			return 0;
		at += (size_t)result;
	}
	return 0;
}
