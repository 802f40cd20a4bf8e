/*
 * tests/proto/frame_samples.h: one good frame of every type, with as many items as the caller says.
 */
#ifndef KVTIER_TESTS_PROTO_FRAME_SAMPLES_H
#define KVTIER_TESTS_PROTO_FRAME_SAMPLES_H

#include "proto/frames.h"
#include "proto/frames_blocks.h"
#include "proto/frames_operate.h"
#include "proto/frames_peers.h"

#include <string.h>

static inline bool sample_type_exists(unsigned type)
{
	return (type >= FRAME_HELLO && type < FRAME_REQUESTS_END) ||
	       (type >= FRAME_HELLO_REPLY && type < FRAME_TYPES_END);
}

static inline size_t sample_register(uint8_t *memory, unsigned items)
{
	struct frame_register *frame = (struct frame_register *)memory;
	struct frame_group *groups = (struct frame_group *)(frame + 1);
	const uint16_t field[2] = { FRAME_FIELD_MODEL_CONTENT, 5 };

	frame->roles = FRAME_ROLE_WORKER;
	frame->world = 2;
	frame->shard = 1;
	frame->groups_count = (uint16_t)(items < 1                  ? 1
					 : items > FRAME_GROUPS_MAX ? FRAME_GROUPS_MAX
								    : items);
	for (unsigned i = 0; i < frame->groups_count; i++)
		groups[i] = (struct frame_group){ .tokens_per_block = 16,
						  .payload_bytes = 4096,
						  .segments_count = 2 };
	frame->fields_count = 1;
	frame->fields_bytes = 9;
	memcpy(groups + frame->groups_count, field, sizeof(field));
	memcpy((uint8_t *)(groups + frame->groups_count) + 4, "model", 5);
	return sizeof(*frame) + frame->groups_count * sizeof(*groups) + 9;
}

static inline size_t sample_lookup(uint8_t *memory, unsigned items)
{
	struct frame_lookup *frame = (struct frame_lookup *)memory;
	struct frame_keys *keys = (struct frame_keys *)(frame + 1);

	frame->sections_count = 2;
	keys->group = 1;
	keys->count = (uint16_t)(items / 2);
	keys = (struct frame_keys *)((uint8_t *)(keys + 1) + keys->count * 32u);
	keys->count = (uint16_t)(items - items / 2);
	return sizeof(*frame) + 2 * sizeof(*keys) + items * 32u;
}

static inline size_t sample_commit(uint8_t *memory, unsigned items)
{
	struct frame_commit *frame = (struct frame_commit *)memory;
	uint8_t *end = (uint8_t *)(frame + 1);

	frame->count = items > 80 ? 80 : items;
	for (unsigned i = 0; i < frame->count; i++) {
		struct frame_commit_item *item = (struct frame_commit_item *)end;

		item->index = i;
		item->segments_count = 1 + i % FRAME_SEGMENTS_MAX;
		end += frame_commit_item_bytes(item->segments_count);
	}
	return (size_t)(end - memory);
}

/* Counts of the frames that have a count and items of one size behind it. */
static inline size_t sample_counted(uint8_t *memory, unsigned type, unsigned items)
{
	switch (type) {
	case FRAME_FETCH:
		((struct frame_fetch *)memory)->ticket_bytes = items;
		return sizeof(struct frame_fetch) + items;
	case FRAME_STORE:
		((struct frame_store *)memory)->count = (uint16_t)items;
		return sizeof(struct frame_store) + items * sizeof(struct frame_store_item);
	case FRAME_STORE_REPLY:
		((struct frame_store_reply *)memory)->count = items;
		((struct frame_store_reply *)memory)->wanted_count = items;
		return sizeof(struct frame_store_reply) + items;
	case FRAME_COPIED:
		((struct frame_copied *)memory)->count = items;
		return sizeof(struct frame_copied) + items * sizeof(struct frame_result);
	case FRAME_COMMITTED:
		((struct frame_committed *)memory)->count = items;
		return sizeof(struct frame_committed) + items * sizeof(struct frame_result);
	case FRAME_LOAD:
		((struct frame_load *)memory)->count = (uint16_t)items;
		return sizeof(struct frame_load) + items * 32u;
	case FRAME_LOADED:
		((struct frame_loaded *)memory)->count = items;
		return sizeof(struct frame_loaded) + items * sizeof(struct frame_loaded_item);
	case FRAME_RELEASE:
		((struct frame_release *)memory)->count = items;
		return sizeof(struct frame_release) + items * sizeof(struct frame_release_item);
	case FRAME_HINT:
		((struct frame_hint *)memory)->count = (uint16_t)items;
		return sizeof(struct frame_hint) + items * 32u;
	case FRAME_EXPLAIN:
		((struct frame_explain *)memory)->count = (uint16_t)items;
		return sizeof(struct frame_explain) + items * 32u;
	case FRAME_OPERATE: /* PIN: what takes most */
		((struct frame_operate *)memory)->verb = FRAME_OPERATE_PIN;
		((struct frame_operate *)memory)->count = (uint16_t)items;
		return sizeof(struct frame_operate) + items * 32u;
	case FRAME_EXPLAINED:
		((struct frame_explained *)memory)->count = items;
		return sizeof(struct frame_explained) + items * sizeof(struct frame_explained_item);
	case FRAME_FOUND:
		((struct frame_found *)memory)->keys_count = items;
		((struct frame_found *)memory)->runs_count = items % (FRAME_RUNS_MAX + 1);
		return sizeof(struct frame_found) +
		       items % (FRAME_RUNS_MAX + 1) * sizeof(struct frame_run) + (items + 7) / 8;
	default:
		return 0;
	}
}

static inline size_t sample_fixed_bytes(unsigned type)
{
	switch (type) {
	case FRAME_HELLO:
		return sizeof(struct frame_hello);
	case FRAME_ATTACH:
		return sizeof(struct frame_attach);
	case FRAME_CANARY:
		return sizeof(struct frame_canary);
	case FRAME_SPACE:
		return sizeof(struct frame_space);
	case FRAME_LEASE_RELEASE:
		return sizeof(struct frame_lease_release);
	case FRAME_CANCEL:
		return sizeof(struct frame_cancel);
	case FRAME_FORGET:
		return sizeof(struct frame_forget);
	case FRAME_BYPASS:
		return sizeof(struct frame_bypass);
	case FRAME_HELLO_REPLY:
		return sizeof(struct frame_hello_reply);
	case FRAME_REGISTERED:
		return sizeof(struct frame_registered);
	case FRAME_ATTACHED:
		return sizeof(struct frame_attached);
	case FRAME_SPACE_REPLY:
		return sizeof(struct frame_space_reply);
	case FRAME_HINT_REPLY:
		return sizeof(struct frame_hint_reply);
	case FRAME_FETCH_WAIT:
		return sizeof(struct frame_fetch_wait);
	case FRAME_FETCH_END:
		return sizeof(struct frame_fetch_end);
	case FRAME_FETCHING:
		return sizeof(struct frame_fetching);
	case FRAME_TICKET:
		return sizeof(struct frame_ticket);
	case FRAME_TICKETED:
		return sizeof(struct frame_ticketed);
	case FRAME_LENT:
		return sizeof(struct frame_lent);
	default:
		return sizeof(struct frame_header);
	}
}

/* Builds a good frame into `memory` (FRAME_BYTES_MAX, aligned); returns its bytes. `items` <=
 * FRAME_KEYS_MAX. */
static inline uint32_t sample_frame(uint8_t *memory, unsigned type, unsigned items)
{
	size_t bytes;

	memset(memory, 0, FRAME_BYTES_MAX);
	if (type == FRAME_REGISTER)
		bytes = sample_register(memory, items);
	else if (type == FRAME_LOOKUP)
		bytes = sample_lookup(memory, items);
	else if (type == FRAME_COMMIT)
		bytes = sample_commit(memory, items);
	else if (type == FRAME_LEND)
		bytes = sizeof(struct frame_lend) + items * 8u;
	else if (type == FRAME_TEXT || type == FRAME_ERROR)
		bytes = sizeof(struct frame_text) + items;
	else
		bytes = sample_counted(memory, type, items);
	if (bytes == 0)
		bytes = sample_fixed_bytes(type);
	frame_start((struct frame_header *)memory, type, (uint32_t)bytes, 1, 2);
	return (uint32_t)bytes;
}

#endif
