/*
 * tests/proto/peer_samples.h: one good frame between daemons of every type, with as many items as
 * the caller says.
 */
#ifndef KVTIER_TESTS_PROTO_PEER_SAMPLES_H
#define KVTIER_TESTS_PROTO_PEER_SAMPLES_H

#include "proto/peer.h"

#include <errno.h>
#include <string.h>

static inline size_t peer_sample_tail(void *memory, unsigned type, unsigned items)
{
	switch (type) {
	case PEER_HELLO:
		return sizeof(struct peer_hello);
	case PEER_PROOF:
		return sizeof(struct peer_proof);
	case PEER_REFUSED:
		return sizeof(struct peer_refused) + items;
	case PEER_LINK:
		((struct peer_link_frame *)memory)->address_bytes = items;
		return sizeof(struct peer_link_frame) + items;
	case PEER_QUERY: {
		struct peer_query *query = memory;

		query->ticket_bytes = (uint16_t)items;
		query->items_count = (uint16_t)(items % 20);
		return sizeof(*query) + (items + 7) / 8 * 8 + items % 20 * sizeof(struct peer_item);
	}
	case PEER_GRANT:
		((struct peer_grant *)memory)->items_count = items;
		return sizeof(struct peer_grant) + (items + 7) / 8;
	case PEER_FETCH: {
		struct peer_fetch *fetch = memory;

		fetch->count = items % (PEER_FETCH_ITEMS_MAX + 1);
		for (unsigned i = 0; i < fetch->count; i++)
			((struct peer_fetch_item *)(fetch + 1))[i].tag = i + 1;
		return sizeof(*fetch) + fetch->count * sizeof(struct peer_fetch_item);
	}
	case PEER_BLOCK:
		((struct peer_block *)memory)->identity_bytes =
			PEER_IDENTITY_BYTES_MIN + items % 256 * 4;
		return sizeof(struct peer_block) + PEER_IDENTITY_BYTES_MIN + items % 256 * 4;
	case PEER_FAILED:
		return sizeof(struct peer_failed);
	default:
		return sizeof(struct peer_frame_header);
	}
}

/* Builds a good frame into `memory` (PEER_FRAME_BYTES_MAX, aligned to 8); returns its bytes.
 * `items` <= 1024. */
static inline uint32_t peer_sample(void *memory, unsigned type, unsigned items)
{
	memset(memory, 0, PEER_FRAME_BYTES_MAX);
	size_t bytes = peer_sample_tail(memory, type, items);
	peer_frame_start(memory, (enum peer_frame_type)type, (uint32_t)bytes, 7);
	if (type == PEER_REFUSED)
		((struct peer_frame_header *)memory)->result = -EPERM;
	return (uint32_t)bytes;
}

#endif
