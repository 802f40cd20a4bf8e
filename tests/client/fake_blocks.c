/* tests/client/fake_blocks.c: the fake daemon's slots: lookups, stores, loads. */
#include "tests/client/fake_parts.h"

#include "base/checksum.h"

#include <errno.h>
#include <string.h>

struct slot_header *fake_slot(struct fake_daemon *fake, unsigned slot)
{
	return (struct slot_header *)(fake->arena + FAKE_UNITS_OFFSET + slot * fake->slot_bytes);
}

int fake_find(struct fake_daemon *fake, const uint8_t *hash)
{
	for (int i = 0; i < FAKE_SLOTS; i++)
		if (fake->slots[i].is_used &&
		    memcmp(fake->slots[i].hash, hash, FRAME_HASH_BYTES) == 0)
			return i;
	return -1;
}

void fake_serve_lookup(struct fake_daemon *fake, struct fake_connection *connection,
		       enum fake_way way)
{
	const struct frame_lookup *frame = (const struct frame_lookup *)fake_incoming;
	struct frame_found *reply = (struct frame_found *)fake_outgoing;
	const uint8_t(*hashes)[FRAME_HASH_BYTES];
	const struct frame_keys *keys;
	size_t position = 0;
	uint32_t leading = 0;

	if (connection->lookup_request != frame->header.request) {
		connection->lookup_request = frame->header.request;
		connection->keys_count = 0;
		memset(connection->present, 0, sizeof(connection->present));
	}
	while ((keys = frame_lookup_next(frame, &position, &hashes)) != NULL) {
		for (unsigned i = 0; i < keys->count; i++, connection->keys_count++)
			if (fake_find(fake, hashes[i]) >= 0)
				connection->present[connection->keys_count / 8] |=
					(uint8_t)(1 << connection->keys_count % 8);
	}
	if ((frame->header.flags & FRAME_LAST) == 0)
		return;
	if ((frame->header.flags & FRAME_REMOTE) != 0) {
		fake_fetch_begin(fake, connection, way);
		return;
	}
	fake->lookup_keys = connection->keys_count;
	memset(reply, 0, sizeof(*reply));
	while (leading < connection->keys_count &&
	       (connection->present[leading / 8] >> leading % 8 & 1) != 0)
		leading++;
	reply->keys_count = connection->keys_count;
	reply->usable_tokens = reply->worth_tokens = leading * fake->group.tokens_per_block;
	if (frame->lease_us > 0 && leading > 0)
		reply->lease = FAKE_LEASE_FIRST + fake->leases_granted++;
	reply->runs_count = 1;
	*(struct frame_run *)(reply + 1) = (struct frame_run){ .tokens = reply->usable_tokens,
							       .restore_us = 100 };
	memcpy((uint8_t *)(reply + 1) + sizeof(struct frame_run), connection->present,
	       (reply->keys_count + 7) / 8);
	frame_start(
		&reply->header, FRAME_FOUND,
		(uint32_t)(sizeof(*reply) + sizeof(struct frame_run) + (reply->keys_count + 7) / 8),
		frame->header.request, 0);
	if (fake->ranks_missing > 0) {
		memset(reply + 1, 0, sizeof(struct frame_run));
		reply->usable_tokens = reply->worth_tokens = reply->keys_count = reply->runs_count =
			0;
		reply->header.bytes = sizeof(*reply);
		reply->header.result = -EAGAIN;
	}
	fake_send(fake, connection, way, reply);
}

struct fake_batch *fake_batch_open(struct fake_connection *connection, uint64_t number,
				   uint32_t count)
{
	struct fake_batch *batch = &connection->batches[connection->batches_count++ % 16];

	batch->number = number;
	batch->count = count;
	memset(batch->slots, 0xff, sizeof(batch->slots));
	return batch;
}

struct fake_batch *fake_batch_find(struct fake_connection *connection, uint64_t number)
{
	for (unsigned i = 0; i < 16; i++)
		if (connection->batches[i].number == number)
			return &connection->batches[i];
	return NULL;
}

void fake_serve_store(struct fake_daemon *fake, struct fake_connection *connection,
		      enum fake_way way)
{
	const struct frame_store *frame = (const struct frame_store *)fake_incoming;
	const struct frame_store_item *items = (const struct frame_store_item *)(frame + 1);
	struct frame_store_reply *reply = (struct frame_store_reply *)fake_outgoing;
	struct fake_batch *batch = fake_batch_open(connection, frame->batch, frame->count);
	uint8_t *admissions = (uint8_t *)(reply + 1);

	memset(reply, 0, sizeof(*reply));
	frame_start(&reply->header, FRAME_STORE_REPLY, (uint32_t)(sizeof(*reply) + frame->count),
		    frame->header.request, 0);
	reply->batch = frame->batch;
	reply->count = frame->count;
	for (unsigned i = 0; i < frame->count; i++) {
		memcpy(batch->hashes[i], items[i].hash, FRAME_HASH_BYTES);
		admissions[i] = fake_find(fake, items[i].hash) >= 0 ? FRAME_PRESENT
								    : FRAME_ADMITTED;
		reply->wanted_count += admissions[i] == FRAME_ADMITTED;
	}
	fake_send(fake, connection, way == FAKE_TWICE || way == FAKE_WRONG_ITEM ? FAKE_RIGHT : way,
		  reply);
	if ((frame->header.flags & FRAME_PULL) != 0)
		fake_pull_begin(fake, connection, way, frame);
}

int fake_slot_take(struct fake_daemon *fake)
{
	for (int slot = 0; slot < FAKE_SLOTS; slot++) {
		if (!fake->slots[slot].is_used) {
			fake->slots[slot].is_used = true;
			memset(fake->slots[slot].hash, 0, FRAME_HASH_BYTES);
			return slot;
		}
	}
	return -1;
}

void fake_slot_seal(struct fake_daemon *fake, int slot, const uint8_t *hash)
{
	struct slot_header *header = fake_slot(fake, (unsigned)slot);
	uint64_t segment_bytes = slot_segment_bytes(fake->group.payload_bytes,
						    fake->group.segments_count);

	memset(header, 0, sizeof(*header));
	for (uint32_t i = 0; i < fake->group.segments_count; i++) {
		uint64_t left = fake->group.payload_bytes - i * segment_bytes;

		header->identity.segment_crcs[i] = crc32c(
			(uint8_t *)(header + 1) + i * segment_bytes,
			left < segment_bytes ? left : segment_bytes);
	}
	memcpy(header->identity.space, fake->fingerprint, SPACE_ID_BYTES);
	memcpy(header->identity.hash, hash, BLOCK_HASH_BYTES);
	header->identity.payload_bytes = fake->group.payload_bytes;
	header->identity.segments_count = fake->group.segments_count;
	header->identity.shards_count = 1;
	slot_identity_seal(header);
	header->address[TIER_CPU].offset = (uint64_t)slot * fake->slot_bytes;
	header->address[TIER_CPU].slot_generation = ++fake->slots[slot].generation;
	slot_address_seal(&header->address[TIER_CPU]);
	memcpy(fake->slots[slot].hash, hash, FRAME_HASH_BYTES);
}

/* Copies a committed block into a slot, as a mill does. */
static int block_keep(struct fake_daemon *fake, struct fake_connection *connection,
		      const uint8_t *hash, const struct frame_commit_item *item,
		      const uint32_t *crcs)
{
	struct slot_header *header;
	int slot;

	if (item->window_offset % 64 != 0 ||
	    item->window_offset + fake->group.payload_bytes > fake->window_bytes ||
	    item->segments_count != fake->group.segments_count)
		return -EPROTO;
	slot = fake_slot_take(fake);
	if (slot < 0)
		return -ENOSPC;
	header = fake_slot(fake, (unsigned)slot);
	memcpy(header + 1, connection->window + item->window_offset, fake->group.payload_bytes);
	fake_slot_seal(fake, slot, hash);
	if (memcmp(header->identity.segment_crcs, crcs, item->segments_count * sizeof(*crcs)) == 0)
		return 0;
	fake->slots[slot].is_used = false;
	return -EBADMSG;
}

void fake_serve_commit(struct fake_daemon *fake, struct fake_connection *connection,
		       enum fake_way way)
{
	const struct frame_commit *frame = (const struct frame_commit *)fake_incoming;
	struct frame_committed *event = (struct frame_committed *)fake_outgoing;
	struct frame_result *results = (struct frame_result *)(event + 1);
	struct fake_batch *batch = fake_batch_find(connection, frame->batch);
	const struct frame_commit_item *item;
	const uint32_t *crcs;
	size_t position = 0;

	if (fake->pull.is_on) {
		fake_pull_commit(fake, connection, way);
		return;
	}
	memset(event, 0, sizeof(*event));
	while (batch != NULL && (item = frame_commit_next(frame, &position, &crcs)) != NULL) {
		results[event->count].index = item->index;
		results[event->count++].result = block_keep(fake, connection,
							    batch->hashes[item->index], item, crcs);
	}
	event->batch = frame->batch;
	frame_start(&event->header, FRAME_COMMITTED,
		    (uint32_t)(sizeof(*event) + event->count * sizeof(*results)), 0, 0);
	fake_send(fake, connection, way, event);
	if (way == FAKE_TWICE)
		fake_send(fake, connection, way, event);
}

void fake_serve_load(struct fake_daemon *fake, struct fake_connection *connection,
		     enum fake_way way)
{
	const struct frame_load *frame = (const struct frame_load *)fake_incoming;
	const uint8_t(*hashes)[FRAME_HASH_BYTES] = (const uint8_t(*)[FRAME_HASH_BYTES])(frame + 1);
	struct frame_loaded *event = (struct frame_loaded *)fake_outgoing;
	struct frame_loaded_item *items = (struct frame_loaded_item *)(event + 1);

	if ((frame->header.flags & FRAME_PULL) != 0) {
		fake_pull_begin(fake, connection, way, frame);
		return;
	}
	memset(event, 0, sizeof(*event));
	event->batch = frame->batch;
	event->count = frame->count;
	for (unsigned i = 0; i < frame->count; i++) {
		int slot = fake_find(fake, hashes[i]);

		items[i] = (struct frame_loaded_item){ .index = i,
						       .result = slot < 0 ? -ENOENT : 0 };
		if (slot < 0)
			continue;
		items[i].offset = (uint64_t)slot * fake->slot_bytes;
		items[i].slot_generation = fake->slots[slot].generation;
		if (way == FAKE_OUTSIDE)
			items[i].offset = fake->arena_bytes - 4096;
		if (way == FAKE_DAMAGED && i == 0)
			((uint8_t *)(fake_slot(fake, (unsigned)slot) + 1))[10] ^= 4;
		if (way == FAKE_REUSED && i == 0) {
			fake_slot(fake, (unsigned)slot)->identity.hash[0] ^= 1;
			slot_identity_seal(fake_slot(fake, (unsigned)slot));
		}
	}
	frame_start(&event->header, FRAME_LOADED,
		    (uint32_t)(sizeof(*event) + event->count * sizeof(*items)), 0, 0);
	fake_send(fake, connection, way, event);
	if (way == FAKE_TWICE)
		fake_send(fake, connection, way, event);
}

void fake_serve_release(struct fake_daemon *fake)
{
	const struct frame_release *frame = (const struct frame_release *)fake_incoming;
	const struct frame_release_item *items = (const struct frame_release_item *)(frame + 1);

	for (unsigned i = 0; i < frame->count; i++) {
		fake->released_bad += items[i].bad;
		fake->released_good += !items[i].bad;
	}
}
